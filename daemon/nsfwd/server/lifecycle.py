"""The daemon's life: start, ready, drain, stop, in that order and each step bounded in time.

Listeners are open from the first moment; requests that come before the engine is warm wait under their deadline. A
stop answers everything that was admitted. Knows no request and no image.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nsfwd.errors import NsfwdError
from nsfwd.pipeline.stats import LONGEST_LOAD
from nsfwd.protocol.limits import WINDOW
from nsfwd.server.embedded import EmbeddedServer
from nsfwd.server.listeners import Listener
from nsfwd.server.malloc_tuning import MallocTrimmer
from nsfwd.server.operations import VERSION
from nsfwd.server.reloading import Reloader, Reread
from nsfwd.server.scraping import MetricsServer
from nsfwd.server.watchdog import Watchdog
from nsfwd.systemd import Notifier

if TYPE_CHECKING:
    from nsfwd.bundles.bundle_store import Bundle
    from nsfwd.config import Settings

TICK = 1.0
"""Longest interval between checks of idle and stalled connections; a quarter of the shortest limit if less."""

REPORT = 5.0
"""Seconds between status notifications to the service manager."""

PATIENCE = 3 * REPORT
"""Further seconds requested from the service manager while the engine loads, and beyond the drain timeout."""

CALM = 1 << 20
"""Most bytes held by peers when the heap is trimmed: with more it would only grow again."""

_log = logging.getLogger("nsfwd.server")


class Daemon:
    """One run of the server.

    Args:
        settings: of this run.
        bundles: opened.
        listeners: open sockets.
        notifier: sends to the service manager.
        reread: reads settings and bundles again, for a reload.
        watchdog: interval of the service manager's watchdog in seconds; 0 for none.

    Raises:
        NsfwdError: the pipeline cannot be built from these settings and bundles.
    """

    def __init__(
        self,
        settings: Settings,
        bundles: Sequence[Bundle],
        listeners: Sequence[Listener],
        notifier: Notifier,
        reread: Reread,
        watchdog: float,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._born = self._loop.time()
        self._listeners = listeners
        self._notifier = notifier
        self._server = EmbeddedServer(settings, bundles, [each for each in listeners if not each.spec.metrics])
        self._pipeline, self._service = self._server.pipeline, self._server.context
        self._reloader = Reloader(reread, self._service, self._pipeline.serving, notifier, self._status)
        self._service.reload = self._reloader.reload
        self._metrics = MetricsServer([each for each in listeners if each.spec.metrics], self._service)
        self._watchdog = Watchdog(self._loop, watchdog, notifier, self._pipeline.status.work)
        self._report_timer: asyncio.TimerHandle | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._trimmer = MallocTrimmer(self._loop)

    async def run(self) -> int:
        """Serve until a signal or a failure; return the exit code."""
        self._loop.set_exception_handler(self._defect)
        self._watch_signals()
        self._start()
        await self._metrics.start()
        code = await self._serve()
        await self._shut_down()
        return code

    # -- start and serve -----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        _log.info("loading %s", ", ".join(bundle.manifest.name for bundle in self._service.bundles))
        self._server.start()
        self._tick()
        self._report()
        self._watchdog.start()

    async def _serve(self) -> int:
        """Wait for readiness, then for the end: 0 after a signal, 1 after a failure."""
        started = self._loop.time()
        try:
            if await self._server.until_ready():
                self._announce(self._loop.time() - started)
                await self._server.until_stop()
        except NsfwdError as error:
            _log.error("%s", error)
            return 1
        return 0

    def _announce(self, seconds: float) -> None:
        """Log the engine, models and listeners: only now, so that a failed start logs only its reason."""
        _log.info("nsfwd %s is ready after %.1f s: %s", VERSION, seconds, self._engine())
        for engine in self._pipeline.status.stats()["engines"]:
            if engine["note"]:
                _log.warning("engine: %s", engine["note"])
        for bundle in self._service.bundles:
            _log.info("model %s = %s, policy %s", bundle.name, bundle.model_identity, bundle.policy_identity)
        for listener in self._listeners:
            _log.info("listening on %s", listener)
        self._notifier.ready(self._status())

    def _engine(self) -> str:
        engines = self._pipeline.status.stats()["engines"]
        return "; ".join(f"engine {one['name']} on {one['device']}, {one['precision']}" for one in engines)

    def _status(self) -> str:
        """Return one line for ``systemctl status``: models, engine and rate."""
        readiness = self._pipeline.status.readiness()
        if not readiness["ready"]:
            return str(readiness["why"])
        models = ", ".join(bundle.model_identity for bundle in self._service.bundles)
        admission = self._pipeline.admission
        rate = f"{admission.rate.value:.0f} images/s, {len(admission.tickets)} in flight"
        return "; ".join([models, self._engine(), rate, *filter(None, [readiness.get("why")])])

    def _report(self) -> None:
        """Notify the service manager; while an engine loads, extend its timeout, but not for ever."""
        self._report_timer = self._loop.call_later(REPORT, self._report)
        self._notifier.status(self._status())
        since = self._reloader.since
        if since is None and not self._pipeline.ready.is_set():
            since = self._born
        if since is not None and self._loop.time() - since < LONGEST_LOAD:
            self._notifier.extend_timeout(PATIENCE)

    def _tick(self) -> None:
        now = self._loop.time()
        for connection in tuple(self._server.acceptor.connections):
            connection.check(now)
        self._trimmer.look(calm=self._service.budgets.memory < CALM and len(self._pipeline.admission.tickets) < WINDOW)
        settings = self._service.settings
        limits = [limit for limit in (settings.write_stall, settings.idle_timeout) if limit]
        self._ticker = self._loop.call_later(min(TICK, *(limit / 4 for limit in limits)), self._tick)

    # -- signals -------------------------------------------------------------------------------------------------------

    def _watch_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._server.request_stop)
        self._loop.add_signal_handler(signal.SIGHUP, self._asked_to_reload)
        # Blocked since the program began; signals that have come are handled now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))

    def _asked_to_reload(self) -> None:
        if not self._service.draining:
            self._service.begin_reload()

    # -- drain and stop ------------------------------------------------------------------------------------------------

    async def _shut_down(self) -> None:
        """Stop in the order that loses nothing: no reply means not done, and everything admitted gets one."""
        failed = self._pipeline.failed.done()
        if not failed:
            _log.info("stopping: finishing admitted requests, at most %g s", self._service.settings.drain_timeout)
        self._notifier.stopping()
        self._watchdog.stop()
        if self._report_timer is not None:
            self._report_timer.cancel()
        self._notifier.extend_timeout(self._service.settings.drain_timeout + PATIENCE)
        self._metrics.stop()
        await self._server.stop(self._service.settings.drain_timeout)
        if self._ticker is not None:
            self._ticker.cancel()
        if not failed:
            _log.info("stopped")

    def _defect(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log an exception that nobody caught; the daemon continues."""
        _log.error("a defect: %s", context["message"], exc_info=context.get("exception"))


async def serve(
    settings: Settings,
    bundles: Sequence[Bundle],
    listeners: Sequence[Listener],
    notifier: Notifier,
    reread: Reread,
    watchdog: float = 0.0,
) -> int:
    """Run a daemon; return its exit code. An operator's mistake is one line of the log.

    Args:
        listeners: closed whatever happens.
    """
    try:
        return await Daemon(settings, bundles, listeners, notifier, reread, watchdog).run()
    except NsfwdError as error:
        _log.error("%s", error)
        return 1
    finally:
        for listener in listeners:
            listener.close()
