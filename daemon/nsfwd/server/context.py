"""The context that all connections share: the pipeline, the settings, the counters, the peers.

Knows no socket and no protocol; a test puts a pipeline of its own in here.
"""

from __future__ import annotations

import asyncio
import os
import resource
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from nsfwd.budgets import Budget, Budgets, own_descriptors
from nsfwd.errors import CodedError
from nsfwd.metrics import Metrics
from nsfwd.pipeline.queueing.scored import Directory
from nsfwd.protocol.messages import Image, Lane, Outcome
from nsfwd.server.attachments import MemoryBudget
from nsfwd.server.quotas import Quotas
from nsfwd.server.step_scheduler import StepScheduler

if TYPE_CHECKING:
    from nsfwd.bundles.bundle_store import Bundle
    from nsfwd.config import Settings


class RequestClaim(Protocol):
    """On whose behalf images are scored."""

    error: CodedError | None

    def cancel(self, code: str, message: str = "") -> None:
        """End everything under way, and everything admitted later, with this code."""


class ImageScanner(Protocol):
    """What a connection wants of the pipeline."""

    def claim(
        self,
        *,
        flow: tuple[Hashable, ...],
        lane: Lane = ...,
        deadline: float | None = None,
        identity: bool = False,
        frames: int = 0,
        roots: tuple[bytes, ...] = (),
    ) -> Any:
        """A claim for one request."""

    async def scan(self, image: Image, claim: Any) -> Outcome | Directory:
        """Score one image, unless it is a directory; its descriptor is closed there.

        Never raises for what is wrong with an image.
        """

    def listing(self, path: bytes, claim: Any, *, recursive: bool = False) -> AsyncIterator[bytes]:
        """Name the regular files of a directory."""

    @property
    def status(self) -> ScannerStatus:
        """Its numbers and its health."""


class ScannerStatus(Protocol):
    """What operators ask about the pipeline."""

    def readiness(self) -> dict[str, Any]:
        """Whether images are being scored, and if not, why."""

    def stats(self) -> dict[str, Any]:
        """The pipeline's numbers."""

    def poisoned(self) -> list[dict[str, Any]]:
        """The files that crashed decoders."""

    def clear_poison(self) -> int:
        """Forget them; return how many there were."""


@dataclass(slots=True, eq=False)
class ServerContext:
    """The common ground of all connections.

    Attributes:
        queue: the places for images in flight, which the pipeline gives; its own where nobody does.
        budgets: what else the peers share.
        scheduler: which connection takes the next step.
        quotas: what each peer may do.
        bodies: the memory for images that clients send.
        draining: the daemon stops: what has not begun is refused.
        reload: takes up changed settings and bundles.
        multi_scans: how many requests for many images each peer has under way.
        tasks: under way on nobody's behalf; kept here, because the loop holds tasks only weakly.
    """

    loop: asyncio.AbstractEventLoop
    settings: Settings
    pipeline: ImageScanner
    bundles: Sequence[Bundle] = ()
    queue: Budget = field(default_factory=lambda: Budget("queue", 1 << 20))
    metrics: Metrics = field(default_factory=Metrics)
    draining: bool = False
    reload: Callable[[], Awaitable[dict[str, Any]]] | None = None
    multi_scans: Counter[str] = field(default_factory=Counter)
    tasks: set[asyncio.Future[Any]] = field(default_factory=set)
    scheduler: StepScheduler = field(init=False)
    budgets: Budgets = field(init=False)
    quotas: Quotas = field(init=False)
    bodies: MemoryBudget = field(init=False)

    def __post_init__(self) -> None:
        self.scheduler = StepScheduler(self.loop)
        self.quotas = Quotas(self.settings.peers, self.loop.time)
        self.budgets = Budgets(
            room_for_peers(self.settings),
            max_connections=self.settings.max_connections,
            body_memory=self.settings.body_memory,
        )
        self.bodies = MemoryBudget(self.metrics, self.budgets)

    def settle(self, settings: Settings, bundles: Sequence[Bundle]) -> None:
        """Use changed settings and bundles; open connections follow at their next request."""
        self.settings, self.bundles = settings, bundles
        self.budgets.settle(max_connections=settings.max_connections, body_memory=settings.body_memory)
        self.quotas.take_up(settings.peers)

    def begin_reload(self) -> asyncio.Future[dict[str, Any]]:
        """Start a reload; its result is the content of the reply, or a CodedError.

        Raises:
            CodedError: ``unsupported``: nobody here can reload.
        """
        if self.reload is None:
            raise CodedError("unsupported")
        task = asyncio.ensure_future(self.reload(), loop=self.loop)
        self.tasks.add(task)
        task.add_done_callback(self._reloaded)
        return task

    def _reloaded(self, task: asyncio.Future[dict[str, Any]]) -> None:
        """Report a defect: its client may be gone, and other errors are in the log already."""
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, CodedError):
            self.loop.call_exception_handler({"message": "while reloading", "exception": error})


def room_for_peers(settings: Settings) -> int:
    """Return how many descriptors connections and images may take, beside the daemon's own; 0 if there are too few."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = allowed if allowed != resource.RLIM_INFINITY else 1 << 20
    return max(0, allowed - own_descriptors(settings.decoders or len(os.sched_getaffinity(0))))
