"""What a caller gets back: one ``Reply`` an image, one ``Done`` a directory, as plain values.

Pure data made from the daemon's JSON objects; no socket and no JSON here. Keys that this version does not know stay
readable in ``raw``, so an older client gets on with a newer daemon.
"""

from __future__ import annotations

import base64
import binascii
import os
import sys
from dataclasses import dataclass, field
from typing import Any

from nsfwd.errors import CODES, CodedError, Status

FLOOR = "safe"
"""The lowest tier of the policy that the bundles have."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What one image came to. Scores and a verdict exist exactly when ``scored``.

    Attributes:
        path: as ``os.fsdecode`` gives it; empty for an image sent as bytes.
        status: ``ok``, ``skipped``, ``error`` or ``refused``.
        verdict: the policy's tier; empty when not scored. ``alarm`` says whether the policy calls it an alarm.
        label: top label of the first model, ``score`` its probability.
        scores: model -> label -> probability, ``groups``: model -> group -> sum, ``verdicts``: model -> tier.
        because: what decided: ``model``, ``group``, ``score``, ``threshold``; or ``override``, the content's digest.
        override: what a person decided, and ``verdict`` says: ``verdict``, ``reason``, ``by``, ``time``, ``expires``;
            None where nobody did.
        model: model -> identity. ``policy``: identity of the policy.
        time: seconds of each stage and in ``total``.
        code: why it was not scored (``errors.CODES``); empty when it was. ``message`` says it in a sentence.
        retry: a later try may succeed; ``retry_after`` in seconds where the daemon knows.
        file: identity of the opened file, where it was asked for.
        frame: which frame decided, on what background; None for a plain picture.
        raw: the whole object as received.
    """

    path: str
    status: str
    verdict: str = ""
    alarm: bool = False
    label: str = ""
    score: float = 0.0
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    groups: dict[str, dict[str, float]] = field(default_factory=dict)
    verdicts: dict[str, str] = field(default_factory=dict)
    because: dict[str, Any] = field(default_factory=dict)
    model: dict[str, str] = field(default_factory=dict)
    policy: str = ""
    time: dict[str, float] = field(default_factory=dict)
    code: str = ""
    message: str = ""
    retry: bool = False
    retry_after: float | None = None
    file: dict[str, Any] | None = None
    frame: dict[str, Any] | None = None
    override: dict[str, Any] | None = None
    raw: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def scored(self) -> bool:
        """Whether there are scores and a verdict."""
        return self.status == Status.OK

    @property
    def graded(self) -> str:
        """The verdict and the score that decided it, for people: ``sensitive 0.86``."""
        return graded(self.verdict, self.because.get("score"), self.because.get("threshold"))

    def may_publish(self, *tiers: str) -> bool:
        """Tell whether nobody has to look at the picture first.

        Args:
            tiers: the verdicts to publish; only ``safe``, the lowest tier, when left out, and then never an alarm.
        """
        return self.scored and (self.verdict in tiers if tiers else self.verdict == FLOOR and not self.alarm)

    def raise_for_status(self) -> Reply:
        """Return itself when scored.

        Raises:
            CodedError: it was not scored; the code says whose fault it is and whether a retry helps.
        """
        if not self.scored:
            raise coded(self.code, self.message, self.retry_after)
        return self


def graded(verdict: str, score: float | None, threshold: float | None = None) -> str:
    """Return a verdict with the score that decided it, where there is one.

    Two decimals, or as many as it takes to show on which side of the threshold the score is.
    """
    if score is None:
        return verdict
    spelled = (f"{score:.{digits}f}" for digits in range(2, 8))
    right = (text for text in spelled if threshold is None or (float(text) >= threshold) == (score >= threshold))
    return f"{verdict} {next(right, score)}"


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a request over many images: how many, and how they ended."""

    path: str
    files: int = 0
    ok: int = 0
    errors: int = 0
    skipped: int = 0
    refused: int = 0
    verdicts: dict[str, int] = field(default_factory=dict)
    time: dict[str, float] = field(default_factory=dict)
    code: str = ""
    message: str = ""
    raw: dict[str, Any] = field(default_factory=dict, repr=False)


def reply_path(message: dict[str, Any]) -> str:
    """Return the path of a reply as ``os.fsdecode`` gives it, also when it is not UTF-8; empty where it has none."""
    encoded = message.get("path_bytes")
    if isinstance(encoded, str):
        try:
            return os.fsdecode(base64.b64decode(encoded, validate=True))
        except (binascii.Error, ValueError):
            pass
    path = message.get("path")
    if not isinstance(path, str):
        return ""
    return path if sys.getfilesystemencoding() == "utf-8" else os.fsdecode(path.encode("utf-8", "surrogateescape"))


def to_reply(message: dict[str, Any], asked: str = "") -> Reply:
    """Make a ``Reply`` of the object of one image; ``asked`` is its path where the object has none (a bad request)."""
    path, status = reply_path(message) or asked, str(message.get("status", ""))
    times = message.get("time") or {}
    if status == Status.OK:
        return Reply(
            path,
            status,
            verdict=message.get("verdict", ""),
            alarm=bool(message.get("alarm")),
            label=message.get("label", ""),
            score=message.get("score", 0.0),
            scores=message.get("scores") or {},
            groups=message.get("groups") or {},
            verdicts=message.get("verdicts") or {},
            because=message.get("because") or {},
            model=message.get("model") or {},
            policy=message.get("policy", ""),
            time=times,
            file=message.get("file"),
            frame=message.get("frame"),
            override=message.get("override"),
            raw=message,
        )
    code, text, retry = _error(message)
    return Reply(
        path,
        status,
        time=times,
        code=code or "internal",
        message=text,
        retry=retry,
        retry_after=message.get("retry_after"),
        file=message.get("file"),
        raw=message,
    )


def to_done(message: dict[str, Any]) -> Done:
    """Make a ``Done`` of the object that ends a series."""
    code, text, _ = _error(message)
    counts = {name: int(message.get(name) or 0) for name in ("files", "ok", "errors", "skipped", "refused")}
    return Done(
        reply_path(message),
        **counts,
        verdicts=message.get("verdicts") or {},
        time=message.get("time") or {},
        code=code,
        message=text,
        raw=message,
    )


def cut_short(done: Done) -> Reply:
    """Spell the reason why a series was cut short as the reply of its directory."""
    retry = done.code in CODES and CODES[done.code].retry
    return Reply(done.path, Status.ERROR, code=done.code, message=done.message, retry=retry, raw=done.raw)


def coded(code: str, message: str, retry_after: float | None = None) -> CodedError:
    """Return the exception of a code, also of one that only a newer daemon knows."""
    if code in CODES:
        return CodedError(code, message, retry_after=retry_after)
    return CodedError("internal", f"{code}: {message}", retry_after=retry_after)


def _error(message: dict[str, Any]) -> tuple[str, str, bool]:
    error = message.get("error")
    if not isinstance(error, dict):
        return "", "", False
    return str(error.get("code", "")), str(error.get("message", "")), bool(error.get("retry"))
