"""The text dialect: command words, the greeting, and the block that answers one path.

Pure text: the content of replies and its form, never their time. Names are shown so that they cannot control the
terminal of a reader.
"""

from __future__ import annotations

from dataclasses import dataclass

from nsfwd.errors import Status
from nsfwd.escaping import escape_wire
from nsfwd.protocol.jsonio import dumps, dumps_indented
from nsfwd.protocol.messages import Outcome

COMMANDS: dict[str, str] = {
    "help": "show this help",
    "ping": "check that the daemon is running",
    "ready": "check that the models are loaded and tested",
    "version": "protocol, limits, operations, models",
    "models": "the models that score",
    "stats": "counters since the start",
    "labels": "show each label's score",
    "groups": "show the policy's groups (as at the start)",
    "colour": "turn colours on or off",
    "quit": "end the session",
}
"""Command words and their help; a path starts with ``/``, so no path is hidden by a word."""

_GREETING = "\n\nWelcome! Enter image path to scan\n"
_PROMPT = "# Path: "

_CYAN, _GREEN, _RED, _PLAIN = "\x1b[36m", "\x1b[32m", "\x1b[31m", "\x1b[0m"


def _paint(text: str, colour: str, on: bool) -> str:
    return f"{colour}{text}{_PLAIN}" if on else text


def greeting(*, colour: bool) -> bytes:
    """Return what a person who connects sees first, the prompt included."""
    return _GREETING.encode() + prompt(colour=colour)


def prompt(*, colour: bool) -> bytes:
    """Return what asks for the next path."""
    return _paint(_PROMPT, _GREEN, colour).encode()


def help_text() -> bytes:
    """Return the answer to ``help``."""
    width = max(map(len, COMMANDS))
    lines = ["Type the absolute path of an image or a directory of this machine, or one of", ""]
    lines += [f"  {word:{width}}  {meaning}" for word, meaning in COMMANDS.items()]
    return ("\n".join(lines) + "\n").encode()


class Block:
    """The text reply to one path, written piece by piece, so that a directory of any size needs no memory.

    Args:
        path: the path as it was typed.
        labels: show the scores of labels instead of the policy's groups.
        compact: one line without a heading (style ``oneshot``).
        colour: paint the heading and errors.
    """

    def __init__(self, path: bytes, *, labels: bool, compact: bool, colour: bool) -> None:
        self._path = escape_wire(path)
        self._labels = labels
        self._compact = compact
        self._colour = colour
        self._opened = False
        self._members = 0

    def scanning(self) -> bytes:
        """Return the echo of the request, written when its turn begins."""
        return b"" if self._compact else self._heading("Scanning")

    def entry(self, outcome: Outcome) -> bytes:
        """Return the member of one image."""
        return self._member(escape_wire(outcome.path or b""), self._value(outcome), bad=outcome.judgement is None)

    def close(self, seconds: float, error: str = "") -> bytes:
        """Return the rest: why it was cut short, if it was, and how long it took."""
        cause = self._member("error", error, bad=True) if error else b""
        time = self._member("__time__", round(seconds, 6), bad=False)
        return cause + time + (b"}\n" if self._compact else b"\n}\n\n")

    def _value(self, outcome: Outcome) -> dict[str, object]:
        judgement = outcome.judgement
        if judgement is None:
            return {"skipped" if outcome.status is Status.SKIPPED else "error": outcome.code}
        scores = judgement.scores if self._labels else judgement.groups
        shown: dict[str, object] = dict(next(iter(scores.values())))
        if judgement.override is not None:
            shown["override"] = judgement.verdict
        return shown

    def _member(self, key: str, value: object, *, bad: bool) -> bytes:
        comma = b"," if self._members else b""
        self._members += 1
        if self._compact:
            return self._opening() + comma + dumps({key: value})[1:-1]
        member = dumps_indented({key: value})[2:-2]  # without the braces and their line ends
        if bad and self._colour:
            member = _RED.encode() + member + _PLAIN.encode()
        return self._opening() + comma + b"\n" + member

    def _opening(self) -> bytes:
        if self._opened:
            return b""
        self._opened = True
        return b"{" if self._compact else self._heading("Result for ") + b"\n{"

    def _heading(self, what: str) -> bytes:
        return (_paint(f"> {what}: {self._path}", _CYAN, self._colour) + "\n").encode()


@dataclass(slots=True)
class Taste:
    """How a session shows what it says, which its own command words change.

    Attributes:
        colour: paint prompts and verdicts.
        labels: show the scores of labels instead of the policy's groups.
    """

    colour: bool = False
    labels: bool = False

    def change(self, word: str) -> bytes:
        """Carry out a word that needs nobody else: ``help``, ``colour``, ``labels``, ``groups``; return what to say."""
        if word == "help":
            return help_text() + b"\n"
        if word == "colour":
            self.colour = not self.colour
            return b"Colours are %s.\n\n" % (b"on" if self.colour else b"off")
        self.labels = word == "labels"
        return b"Scores are shown by %s.\n\n" % (b"label" if self.labels else b"group")

    def block(self, path: bytes, *, compact: bool) -> Block:
        """Begin the reply to this path; ``compact`` for one line."""
        return Block(path, labels=self.labels, compact=compact, colour=self.colour)
