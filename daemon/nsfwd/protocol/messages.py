"""The nouns of the protocol: what a client can ask and what comes back, as plain values.

Pure data: no socket, no clock, no task, no JSON. ``wire`` and ``replies`` translate these, ``session`` decides when.
Standard library only, because clients import it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from nsfwd.errors import CODES, CodedError, Status

RequestId = str | int | None


class Lane(StrEnum):
    """Priority classes, served by weight and not strictly, best first."""

    INTERACTIVE = "interactive"
    NORMAL = "normal"
    BACKGROUND = "background"


class Style(StrEnum):
    """How a listener speaks to those who send text lines."""

    SESSION = "session"
    PLAIN = "plain"
    ONESHOT = "oneshot"
    CLAMD = "clamd"


class Dialect(StrEnum):
    """The form of one request, and so of its reply."""

    TEXT = "text"
    NDJSON = "ndjson"


@dataclass(slots=True)
class Image:
    """What is to be scored: a path of the server, or encoded bytes held by an open descriptor.

    Attributes:
        path: the path as the client gave it (bytes, as file names are); None when the image came as bytes.
        descriptor: an open file descriptor with the encoded bytes; closed by the taker of the image. None for a path.
        foreign: the client opened it, so that only a decoder may touch the file; ``path`` is then what it is called.
    """

    path: bytes | None = None
    descriptor: int | None = None
    foreign: bool = False


class Paths:
    """The images of a long list of paths, made one by one: as objects they would take twenty times as much memory.

    Args:
        paths: of the server; none holds a NUL.

    Attributes:
        size: bytes that the list takes.
    """

    __slots__ = ("_count", "_joined", "size")

    def __init__(self, paths: Sequence[bytes]) -> None:
        self._count = len(paths)
        self._joined = b"\0".join(paths)
        self.size = len(self._joined)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Image]:
        start = 0
        for _ in range(self._count):
            stop = self._joined.find(b"\0", start)
            yield Image(self._joined[start : stop if stop >= 0 else self.size])
            start = stop + 1


@dataclass(slots=True)
class Scan:
    """One request to score.

    Attributes:
        id: the client's own word for it, returned verbatim; None when it gave none.
        dialect: the form of the reply.
        images: the paths or bytes to score, in the client's order; one, unless the request has ``paths``.
        many: True when the reply is a series ended by ``done`` whatever ``images`` holds (``paths``, ``recursive``).
        recursive: walk below directories.
        lane: the lane asked for; None is the connection's own.
        deadline: seconds allowed from now; None is the lane's default.
        identity: add the identity of the opened file to each reply.
        frames: how many frames of each image to look at most; 0 for as many as the bundle says.
    """

    id: RequestId
    dialect: Dialect
    images: tuple[Image] | Paths
    many: bool = False
    recursive: bool = False
    lane: Lane | None = None
    deadline: float | None = None
    identity: bool = False
    frames: int = 0


@dataclass(frozen=True, slots=True)
class Operation:
    """A request that is not a scan: ``ping``, ``ready``, ``version``, ``models``, ``stats``, ``reload``, ``cancel``."""

    id: RequestId
    dialect: Dialect
    op: str
    target: RequestId = None


@dataclass(frozen=True, slots=True)
class Override:
    """What a person decided about a content. It wins over the model's verdict, and leaves the scores as they are.

    Attributes:
        digest: SHA-256 of the content.
        by: who decided; ``time`` when, ``expires`` until when it holds, in seconds since 1970; None for ever.
        path: where the content was seen, if that is known; it decides nothing.
    """

    digest: bytes
    verdict: str
    reason: str = ""
    by: str = ""
    time: float = 0.0
    expires: float | None = None
    path: bytes = b""

    def holds(self, now: float) -> bool:
        """Tell whether it has not expired."""
        return self.expires is None or now < self.expires


@dataclass(slots=True)
class Because:
    """What decided a verdict."""

    model: str
    group: str
    score: float
    threshold: float | None


@dataclass(slots=True)
class Judgement:
    """Scores and what the policy makes of them. Exists only for an image that was really scored.

    Attributes:
        scores: model name -> label -> probability, in the bundle's label order.
        groups: model name -> group -> summed probability.
        verdicts: model name -> tier.
        verdict: the tier over all models; ``alarm`` says whether it is one that wants a person's attention.
        label: top label of the first model; ``score`` its probability.
        model: model name -> identity (``name@digest/precision``); ``policy`` the policy's identity.
        override: the decision of a person that ``verdict`` and ``alarm`` are; all else is what the model and the policy
            say.
    """

    scores: dict[str, dict[str, float]]
    groups: dict[str, dict[str, float]]
    verdicts: dict[str, str]
    verdict: str
    alarm: bool
    label: str
    score: float
    because: Because
    model: dict[str, str]
    policy: str
    override: Override | None = None


@dataclass(slots=True)
class Timing:
    """Seconds an image spent in each stage; ``total`` from admission to outcome."""

    queue: float = 0.0
    decode: float = 0.0
    wait: float = 0.0
    infer: float = 0.0
    total: float = 0.0


STAT_FIELDS = ("dev", "ino", "size", "mtime_ns", "ctime_ns")
"""What of ``FileIdentity`` is from stat(2)."""


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """Which file, and which state of it, so that a later step can act on this one and no other.

    Each write, and each change of owner, mode or links, alters ``ctime_ns``.

    Attributes:
        sha256: of the content, in hex; empty where nobody read it.
    """

    dev: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int
    sha256: str = ""

    @classmethod
    def of(cls, found: os.stat_result) -> Self:
        """Make one from the result of stat(2)."""
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def same_content(self, other: FileIdentity) -> bool:
        """Tell whether it is the same inode with the same content, as after a rename, which alters the ctime."""
        return (self.dev, self.ino, self.size, self.mtime_ns) == (other.dev, other.ino, other.size, other.mtime_ns)


@dataclass(frozen=True, slots=True)
class Frame:
    """Which view of an image decided: the frame at ``index`` of ``of``, of which ``sampled`` were looked at.

    Attributes:
        background: what its transparent pixels lay on, ``white`` or ``black``; empty where there are none.
    """

    index: int
    of: int
    sampled: int
    background: str


@dataclass(slots=True)
class Outcome:
    """What one image came to. ``judgement`` is there exactly when ``status`` is ok, ``code`` exactly when it is not.

    Attributes:
        frame: None for an image with one frame and nothing transparent.
        cached: how its scores were found without decoding it for this request: ``identity``, ``digest`` or
            ``coalesced``; empty if it was decoded.
    """

    path: bytes | None
    status: Status
    time: Timing
    judgement: Judgement | None = None
    code: str = ""
    message: str = ""
    retry_after: float | None = None
    identity: FileIdentity | None = None
    frame: Frame | None = None
    cached: str = ""

    @classmethod
    def failed(
        cls, path: bytes | None, error: CodedError, time: Timing, identity: FileIdentity | None = None
    ) -> Outcome:
        """Spell a ``CodedError`` as the outcome of the image at ``path``."""
        status = CODES[error.code].status
        return cls(path, status, time, None, error.code, error.message, error.retry_after, identity)


@dataclass(slots=True)
class Tally:
    """Running totals of a request over many images, for its ``done`` line. Constant size whatever the directory's."""

    files: int = 0
    ok: int = 0
    errors: int = 0
    skipped: int = 0
    refused: int = 0
    verdicts: dict[str, int] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        self.files += 1
        if outcome.judgement is not None:
            self.ok += 1
            verdict = outcome.judgement.verdict
            self.verdicts[verdict] = self.verdicts.get(verdict, 0) + 1
        elif outcome.status is Status.SKIPPED:
            self.skipped += 1
        elif outcome.status is Status.REFUSED:
            self.refused += 1
        else:
            self.errors += 1
