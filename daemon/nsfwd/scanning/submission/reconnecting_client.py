"""``ReconnectingClient``: waits for a daemon that is gone, asks again, and knows its models and policies.

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
"""A file is given up for this run after so many losses of the daemon while it was asked about: it may be the cause."""

OPTIONS = Options(lane="background", identity=True)


@dataclass(frozen=True, slots=True)
class Judges:
    """The models and policies of the daemon.

    Attributes:
        daemon: its address and version.
        models: short name -> identity, in the daemon's order; ``labels``: short name -> labels in the order of scores.
        policies: short name -> policy, where this version can read all of them, else none. ``policy``: their identity
            as it is in a reply.
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
        self._reconnecting: asyncio.Task[None] | None = None
        self.judges = Judges("", {}, {}, {}, "")
        self.waiting = False

    @property
    def passes_descriptors(self) -> bool:
        """Whether files can be passed open: over a Unix socket."""
        return self._client.address.startswith("unix:")

    async def open(self, *, wait: bool) -> None:
        """Connect to the daemon and wait until it is ready.

        Args:
            wait: also for a daemon that does not answer yet.

        Raises:
            DaemonUnreachable: no daemon answers.
        """
        if not wait:
            await self._client.connect()
        await self._wait_until_ready("the daemon is not ready")

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        if self._reconnecting is not None:
            self._reconnecting.cancel()
        await self._client.close()

    async def scan(self, path: bytes) -> Reply:
        """Ask about a file by its path, until there is an answer.

        Raises:
            CodedError: ``internal``: the daemon was lost again and again while it held the file.
            NsfwdError: it is a directory by now.
        """
        return await self._ask(lambda: self._client.scan(path))

    async def scan_open(self, descriptor: int, path: bytes) -> Reply:
        """Ask about a file that is open for reading; as ``scan``."""
        name = path.decode("utf-8", "backslashreplace")
        return await self._ask(lambda: self._client.scan_fd(descriptor, name))

    async def refresh(self) -> None:
        """Ask for the models and policies again."""
        with suppress(DaemonUnreachable, ConnectionLost):
            self.judges = await self._ask_judges()

    async def _ask(self, ask: Callable[[], Awaitable[Reply]]) -> Reply:
        for _ in range(LOSSES):
            if self._reconnecting is not None:
                await asyncio.shield(self._reconnecting)
            try:
                return await ask()
            except (ConnectionLost, DaemonUnreachable) as error:
                if self._reconnecting is None:
                    self._reconnecting = asyncio.create_task(self._reconnect(str(error)))
        raise CodedError("internal", f"the daemon was lost {LOSSES} times while it held this file")

    async def _reconnect(self, why: str) -> None:
        try:
            await self._wait_until_ready(why)
        finally:
            self._reconnecting = None

    async def _wait_until_ready(self, why: str) -> None:
        """Wait until a daemon is there and ready."""
        announced, self.waiting = False, True
        for pause in DAEMON_ABSENT:
            try:
                state = await self._client.ready()
                if state.get("ready"):
                    self.judges = await self._ask_judges()
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

    async def _ask_judges(self) -> Judges:
        version, models = await self._client.version(), (await self._client.models())["models"]
        return Judges(
            f"{self._client.address} {version.get('version', '')}".rstrip(),
            {one["name"]: one["model"] for one in models},
            {one["name"]: tuple(one["labels"]) for one in models},
            _policies(models),
            ",".join(dict.fromkeys(one["policy"] for one in models)),
        )


def _policies(models: Sequence[Mapping[str, Any]]) -> dict[str, Policy]:
    """Return the policies in the daemon's answer; none when those of a newer daemon have unknown keys."""
    try:
        return policies_of(models)
    except BundleError:
        return {}
