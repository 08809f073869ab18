"""``ReconnectingClient``: the daemon as a run meets it. Waits for one that is gone, and knows its models and policy.

A request that had no reply is asked again: no reply means not done. Knows no index and no file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nsfwd.backoff import DAEMON_ABSENT
from nsfwd.bundles.policy import Policy
from nsfwd.client import AsyncClient, Options
from nsfwd.errors import BundleError, CodedError, ConnectionLost, DaemonUnreachable
from nsfwd.scanning.index.rejudge import policies_of

if TYPE_CHECKING:
    from nsfwd.client.results import Reply

LOSSES = 5
"""A file in whose company the daemon was lost so often is given up for this run: it may be what ends it."""

OPTIONS = Options(lane="background", identity=True)


@dataclass(frozen=True, slots=True)
class Judges:
    """Who judges at the daemon.

    Attributes:
        daemon: its address and version.
        models: short name -> identity, in the daemon's order; ``labels``: short name -> labels in the order of scores.
        policies: short name -> policy, where this version can read all of them, else none. ``policy``: their identity
            as a reply spells it.
    """

    daemon: str
    models: Mapping[str, str]
    labels: Mapping[str, tuple[str, ...]]
    policies: Mapping[str, Policy]
    policy: str


class ReconnectingClient:
    """The daemon of one run. For one event loop.

    Args:
        connect: its address; the usual places when left out.
        say: reports, in a sentence, that the daemon is being waited for and that it is back.

    Attributes:
        judges: the models and policies of the daemon, as of when it was last connected to.
        waiting: whether the daemon is gone at present.
    """

    def __init__(self, connect: str | None, say: Callable[[str], None]) -> None:
        self._client = AsyncClient(connect, options=OPTIONS, patience=0)
        self._say = say
        self._coming: asyncio.Task[None] | None = None
        self.judges = Judges("", {}, {}, {}, "")
        self.waiting = False

    @property
    def passes_descriptors(self) -> bool:
        """Whether files can be passed open: over a Unix socket."""
        return self._client.address.startswith("unix:")

    async def open(self, *, wait: bool) -> None:
        """Meet the daemon, once it is ready.

        Args:
            wait: also for one that does not answer yet.

        Raises:
            DaemonUnreachable: none answers.
        """
        if not wait:
            await self._client.connect()
        await self._return("the daemon is not ready")

    async def close(self) -> None:
        """Leave. Idempotent."""
        if self._coming is not None:
            self._coming.cancel()
        await self._client.close()

    async def scan(self, path: bytes) -> Reply:
        """Ask about a file by its path, until there is an answer.

        Raises:
            CodedError: ``internal``: the daemon was lost again and again meanwhile.
            NsfwdError: it is a directory by now.
        """
        return await self._ask(lambda: self._client.scan(path))

    async def scan_open(self, descriptor: int, path: bytes) -> Reply:
        """Ask about a file that is open for reading; as ``scan``."""
        name = path.decode("utf-8", "backslashreplace")
        return await self._ask(lambda: self._client.scan_fd(descriptor, name))

    async def refresh(self) -> None:
        """Ask anew who judges."""
        with suppress(DaemonUnreachable, ConnectionLost):
            self.judges = await self._introduced()

    async def _ask(self, ask: Callable[[], Awaitable[Reply]]) -> Reply:
        for _ in range(LOSSES):
            if self._coming is not None:
                await asyncio.shield(self._coming)
            try:
                return await ask()
            except (ConnectionLost, DaemonUnreachable) as error:
                if self._coming is None:
                    self._coming = asyncio.create_task(self._come_back(str(error)))
        raise CodedError("internal", f"the daemon was lost {LOSSES} times while it held this file")

    async def _come_back(self, why: str) -> None:
        try:
            await self._return(why)
        finally:
            self._coming = None

    async def _return(self, why: str) -> None:
        """Wait until a daemon is there and ready."""
        announced, self.waiting = False, True
        for pause in DAEMON_ABSENT:
            try:
                state = await self._client.ready()
                if state.get("ready"):
                    self.judges = await self._introduced()
                    break
                why = str(state.get("why") or "the daemon is not ready")
            except (ConnectionLost, DaemonUnreachable, CodedError) as error:
                why = str(error)
            if not announced:
                self._say(f"waiting for the daemon: {why}")
                announced = True
            await asyncio.sleep(pause)
        self.waiting = False
        if announced:
            self._say(f"the daemon is there: {self.judges.daemon}")

    async def _introduced(self) -> Judges:
        version, models = await self._client.version(), (await self._client.models())["models"]
        return Judges(
            f"{self._client.address} {version.get('version', '')}".rstrip(),
            {one["name"]: one["model"] for one in models},
            {one["name"]: tuple(one["labels"]) for one in models},
            _policies(models),
            ",".join(dict.fromkeys(one["policy"] for one in models)),
        )


def _policies(models: Sequence[Mapping[str, Any]]) -> dict[str, Policy]:
    """Make policies of what the daemon tells; none when a newer daemon's have what this version does not know."""
    try:
        return policies_of(models)
    except BundleError:
        return {}
