"""A session without a daemon: a small world of files that answers, and transcripts that are played against it.

A transcript is text. ``C: `` is a line of the client, ``S: `` a line of the server, ``-- `` something that happens:
``style NAME`` (first line), ``silence``, ``end`` (the client sends no more), ``closed`` (the server does). A line that
ends in a backslash has no LF; ``\\xNN`` in a line of the client is that byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from nsfwd.bundles.verdict import overruled
from nsfwd.errors import CODES, CodedError, Status
from nsfwd.protocol.clamd import ClamdSession
from nsfwd.protocol.events import BodyData, BodyStart, Event, Handled, OperationRequest, ScanRequest
from nsfwd.protocol.messages import Because, FileIdentity, Judgement, Outcome, Override, Scan, Style, Timing
from nsfwd.protocol.session import Session

TIME = Timing(queue=0.0004, decode=0.0051, wait=0.0002, infer=0.0071, total=0.0131)
IDENTITY = FileIdentity(
    dev=2049, ino=262146, size=48121, mtime_ns=1700000000000000000, ctime_ns=1700000000000000001, sha256="9f86d081" * 8
)
OVERRIDE = Override(bytes.fromhex("9f86d081" * 8), "safe", "a statue", "eva", 1760000000.0)
MAX_BYTES = 1000


def judgement(*, sensitive: bool = False) -> Judgement:
    porn, neutral = (0.9, 0.04) if sensitive else (0.01, 0.92)
    safe, explicit = (0.06, 0.94) if sensitive else (0.94, 0.06)
    verdict = "sensitive" if sensitive else "safe"
    return Judgement(
        scores={"nsfw": {"drawings": 0.02, "hentai": 0.0, "neutral": neutral, "porn": porn, "sexy": 0.05}},
        groups={"nsfw": {"safe": safe, "sensitive": explicit}},
        verdicts={"nsfw": verdict},
        verdict=verdict,
        alarm=sensitive,
        label="porn" if sensitive else "neutral",
        score=porn if sensitive else neutral,
        because=Because("nsfw", "sensitive", explicit, 0.5),
        model={"nsfw": "nsfw-mobilenet-v2-140@3f2c6a1b90de/f32"},
        policy="default@91aa5d07c3e2",
    )


def outcome(path: bytes | None, answer: str = "safe", *, identity: bool = False) -> Outcome:
    """``answer`` is a verdict, a code, or ``overridden``."""
    if answer in CODES:
        retry_after = 0.25 if CODES[answer].status is Status.REFUSED else None
        return Outcome.failed(path, CodedError(answer, retry_after=retry_after), TIME)
    found = judgement(sensitive=answer != "safe")
    if answer == "overridden":
        found = overruled(found, OVERRIDE, {"safe": False})
    return Outcome(path, Status.OK, TIME, found, identity=IDENTITY if identity else None)


FILES = {
    b"/data/in/a.jpg": "safe",
    b"/data/in/b.jpg": "corrupt",
    b"/data/in/c.txt": "not_an_image",
    b"/data/in/more/d.jpg": "sensitive",
    b"/data/b\xe9b\xe9.jpg": "safe",
    b"/etc/shadow": "forbidden",
    b"/data/busy.jpg": "busy",
    b"/data/huge.jpg": "too_large",
    b"/data/slow.jpg": "deadline",
    b"/data/photo.jpg": "safe",
    b"/data/statue.jpg": "overridden",
}

OPERATIONS: dict[str, dict[str, object]] = {
    "ping": {},
    "ready": {"ready": True, "why": ""},
    "version": {"protocol": 1, "version": "1.0.0", "operations": ["ping"], "limits": {}, "models": {}},
    "models": {"models": []},
    "stats": {"in_flight": 0},
}


@dataclass
class Conversation:
    """A session whose requests are answered at once from ``FILES``, and what both sides said."""

    session: Session | ClamdSession
    sent: bytearray = field(default_factory=bytearray)
    events: list[Event] = field(default_factory=list)
    body: bytes = b""

    @classmethod
    def of(cls, style: Style, **options: object) -> Conversation:
        if style is Style.CLAMD:
            return cls(ClamdSession(max_bytes=MAX_BYTES))
        return cls(Session(style=style, max_bytes=MAX_BYTES, **options))  # type: ignore[arg-type]

    def say(self, data: bytes) -> None:
        self.session.receive_data(data)
        self.pull()

    def silence(self) -> None:
        assert self.session.silence_wanted
        self.session.receive_silence()
        self.pull()

    def end(self) -> None:
        self.session.receive_eof()
        self.pull()

    def pull(self) -> None:
        while (event := self.session.next_event()) is not None:
            if not isinstance(event, Handled):
                self.events.append(event)
            self.answer(event)
        self.sent += self.session.data_to_send()

    def take(self) -> bytes:
        said = bytes(self.sent)
        self.sent.clear()
        return said

    def answer(self, event: Event) -> None:
        if isinstance(event, BodyStart):
            self.body = b""
        elif isinstance(event, BodyData):
            self.body += event.data
        elif isinstance(event, OperationRequest):
            self._operate(event)
        elif isinstance(event, ScanRequest):
            self._scan(event, event.scan)

    def _operate(self, event: OperationRequest) -> None:
        if event.operation.op == "cancel":
            self.session.fail(event.turn, CodedError("no_target"), 0.0)
        else:
            self.session.operation(event.turn, OPERATIONS[event.operation.op])

    def _scan(self, event: ScanRequest, scan: Scan) -> None:
        turn, path = event.turn, next(iter(scan.images)).path
        entries = [image.path for image in scan.images]
        if path is None:
            self.session.entry(turn, outcome(None, "safe" if self.body else "empty", identity=scan.identity))
            return
        if path.endswith(b"/"):
            self.session.become_many(turn)
            entries = [name for name in FILES if name.startswith(path) and (scan.recursive or b"/" not in name[9:])]
        for entry in entries:
            assert entry is not None
            self.session.entry(turn, outcome(entry, FILES.get(entry, "not_found"), identity=scan.identity))
        if turn.many:
            error = CodedError("deadline") if path == b"/data/slow/" else None
            self.session.done(turn, 0.631289, error=error)


def play(transcript: Iterable[str]) -> None:
    """Play a transcript; what the session says must be exactly what is written."""
    lines = iter(transcript)
    first = next(lines)
    assert first.startswith("-- style "), first
    talk = Conversation.of(Style(first.removeprefix("-- style ")))
    expected = b""
    for line in lines:
        if line.startswith("S:"):
            expected += _bytes(line[3:], escapes=False)  # "S:" alone is an empty line
            continue
        assert talk.take() == expected
        expected = b""
        if line.startswith("C:"):
            talk.say(_bytes(line[3:], escapes=True))
        else:
            assert line.startswith("-- "), line
            _happen(talk, line[3:])
    assert talk.take() == expected


def _happen(talk: Conversation, what: str) -> None:
    if what == "silence":
        talk.silence()
    elif what == "end":
        talk.end()
    else:
        assert what == "closed", what
        assert talk.session.finished


def _bytes(line: str, *, escapes: bool) -> bytes:
    line, end = (line[:-1], b"") if line.endswith("\\") else (line, b"\n")
    data = line.encode()
    if escapes:
        data = re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes.fromhex(match[1].decode()), data)
    return data + end


def fenced(document: str, kind: str) -> Iterator[list[str]]:
    """Yield the lines of each fenced block of one kind."""
    for match in re.finditer(rf"^```{kind}\n(.*?)^```$", document, re.M | re.S):
        yield match[1].splitlines()
