"""``Scanning``: takes files, asks the daemon about those that the index does not know, records what they came to.

A sweep, a watch and a spool all feed their files through it. It keeps a window of requests in flight, adapts to the
daemon's refusals, waits for a daemon that is gone, and loses no file. Knows no directory and no action.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from nsfwd.scanning.index import Index
from nsfwd.scanning.judged import Actor, Found, Judged


@dataclass(frozen=True, slots=True)
class Asking:
    """What a run is about.

    Attributes:
        kind: ``sweep``, ``watch`` or ``spool``.
        roots: the directories asked for.
        connect: the daemon's address; the usual places when left out.
        send: ``auto`` passes the descriptors of files that a daemon behind a Unix socket may not open itself, ``always``
            those of all, ``never`` none.
        again: ask again about unchanged files that were left without scores.
        rate: files a second to ask about at most; None is no limit.
        told: hears what each file came to, whatever it was and also when it was known, after its row is committed.
    """

    kind: str
    roots: tuple[bytes, ...]
    connect: str | None = None
    send: str = "auto"
    again: bool = False
    rate: float | None = None
    told: Callable[[Judged], None] | None = None


class Scanning:
    """One run over files. Made by ``scanning``.

    Raises (every method):
        IndexFailure: the index cannot be written.
        NsfwdError: of the actor.
    """

    async def scan(self, files: AsyncIterable[Found] | Iterable[Found]) -> None:
        """Have every file judged, recorded and acted on; return when all of them are.

        May be called several times, one after the other. Ends early, with what is in flight finished, after ``stop``.
        """

    def stop(self) -> None:
        """Take no further file: ``scan`` returns once what is in flight is recorded. Safe in a signal handler."""


@asynccontextmanager
async def scanning(index: Index, asking: Asking, actor: Actor) -> AsyncIterator[Scanning]:
    """Wait for the daemon, begin a row of ``run``, and end it with why it ended: ``finished``, ``interrupted``, ...

    Raises:
        NsfwdError: a sweep of one of these trees runs already; the address is none.
    """
    raise NotImplementedError
    yield
