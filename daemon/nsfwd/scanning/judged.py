"""What passes between those who find files, those who ask the daemon about them and those who act: data, no logic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Found:
    """A regular file as it was when somebody looked at it.

    Attributes:
        directory: absolute, without a slash at its end (but ``/`` itself).
        name: within it.
        dev, ino, size, mtime_ns, ctime_ns: as of stat(2).
    """

    directory: bytes
    name: bytes
    dev: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @property
    def path(self) -> bytes:
        """The whole path."""
        return self.directory + self.name if self.directory == b"/" else b"%b/%b" % (self.directory, self.name)


@dataclass(frozen=True, slots=True)
class Judged:
    """What one file came to.

    Attributes:
        found: the file; where the daemon told which file it opened, that one's identity.
        status: ``ok``, ``skipped`` or ``error``. ``code`` and ``message`` say why with the latter two.
        digest: SHA-256 of the content; None where nobody read it.
        verdict: the effective one (an override wins), ``alarm`` whether it wants a person's attention.
        label: the top one of the first model. score: of the group that decided.
        scores: model's short name -> label -> probability.
        override: what overruled the policy, as in a reply.
        reply: the daemon's JSON object; of what was known by its digest one with the same keys, made of the index.
    """

    found: Found
    status: str
    code: str | None = None
    message: str | None = None
    digest: bytes | None = None
    verdict: str | None = None
    alarm: bool = False
    label: str | None = None
    score: float | None = None
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    override: Mapping[str, Any] | None = None
    reply: Mapping[str, Any] = field(default_factory=dict)


class Actor(Protocol):
    """Does what is to be done about a verdict.

    Nothing is done on the word of the index alone. A file that it knows with a verdict that is wanted, and to which
    nothing was done yet (it was judged by a dry run, by a run that was killed, or before the action was asked for), is
    asked about once more, and that reply is acted on: an override may have been made meanwhile.
    """

    @property
    def acted(self) -> int:
        """Files on which something was done so far."""

    def wants(self, verdict: str, alarm: bool) -> bool:
        """Tell whether it has something to do about such a verdict. Called often, from any thread: quick and pure."""

    def done(self, path: bytes, digest: bytes) -> bool:
        """Tell whether it did all it would to this content at this path (the table ``action``)."""

    async def act(self, judged: Judged) -> None:
        """Act on one file with the status ``ok``, whatever its verdict, after its row is committed.

        Raises:
            BreakerOpen, ActionFailure, IndexFailure: the run must end now.
        """

    async def finish(self) -> None:
        """Wait for what was begun; the run ends."""


class Onlooker:
    """An actor that does nothing."""

    acted = 0

    def wants(self, verdict: str, alarm: bool) -> bool:
        """Nothing is of interest."""
        return False

    def done(self, path: bytes, digest: bytes) -> bool:
        """Nothing is left to be done."""
        return True

    async def act(self, judged: Judged) -> None:
        """Do nothing."""

    async def finish(self) -> None:
        """Do nothing."""
