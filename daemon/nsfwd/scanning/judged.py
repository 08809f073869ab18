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
        label, score: as of a reply.
        scores: model's short name -> label -> probability.
        override: what overruled the policy, as in a reply.
        reply: the daemon's JSON object, or one of the same keys made of what the index knows.
        fresh: whether it came to that in this run; False for a file that the index knew and that has not changed.
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
    fresh: bool = True


class Actor(Protocol):
    """Does what is to be done about a verdict."""

    def wants(self, verdict: str, alarm: bool) -> bool:
        """Tell whether it may have something to do about such a verdict. Called often, from any thread: quick, pure.

        An unchanged file that the index knows with such a verdict is handed to ``act`` as well (``fresh`` is False): it
        may have been judged by a dry run, by one that was killed before it acted, or before an action was asked for.
        So ``act`` looks up in the table ``action`` what it has done to this path and digest already.
        """

    async def act(self, judged: Judged) -> None:
        """Act on one file with the status ``ok``, after its row is committed.

        Raises:
            NsfwdError: the run must end now: too many actions (``BreakerOpen``), or the index cannot be written.
        """

    async def finish(self) -> None:
        """Wait for what was begun; the run ends."""


class Onlooker:
    """An actor that does nothing."""

    def wants(self, verdict: str, alarm: bool) -> bool:
        """Nothing is of interest."""
        return False

    async def act(self, judged: Judged) -> None:
        """Do nothing."""

    async def finish(self) -> None:
        """Do nothing."""
