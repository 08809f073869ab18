"""Reloads settings and bundles while requests go on; when they are wrong, the previous ones still serve.

Knows no signal and no connection: ``lifecycle`` and the operation ``reload`` call it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from nsfwd import logs
from nsfwd.bundles.previous_versions import kept_versions
from nsfwd.config import TABLE
from nsfwd.errors import BundleError, CodedError, EngineError, NsfwdError, SettingsError
from nsfwd.overrides.override_watcher import OverrideWatcher

if TYPE_CHECKING:
    from nsfwd.bundles.bundle_store import Bundle
    from nsfwd.config import Settings
    from nsfwd.pipeline.reload.reload_coordinator import ReloadCoordinator
    from nsfwd.server.context import ServerContext
    from nsfwd.systemd import Notifier

Reread = Callable[[], "tuple[Settings, Sequence[Bundle]]"]
"""Reads settings and opens bundles as the start did; raises NsfwdError."""

_log = logging.getLogger("nsfwd.server")


class Reloader:
    """One reload at a time.

    Args:
        reread: reads settings and opens bundles.
        service: gets them once they serve.
        serving: loads and proves them first.
        notifier: is notified when a reload begins and when it has ended.
        status: returns the daemon's state in one line for the service manager.

    Attributes:
        since: loop time since when a reload is under way; None when none is.
    """

    def __init__(
        self,
        reread: Reread,
        service: ServerContext,
        serving: ReloadCoordinator,
        notifier: Notifier,
        status: Callable[[], str],
    ) -> None:
        self._reread = reread
        self._service = service
        self._serving = serving
        self._notifier = notifier
        self._status = status
        self._lock = asyncio.Lock()
        self._next: asyncio.Task[dict[str, Any]] | None = None
        self.since: float | None = None

    async def reload(self) -> dict[str, Any]:
        """Reload, and return the content of the reply.

        Requests that come during a reload share one further reload, which reads the files when it begins.

        Raises:
            CodedError: ``reload_refused`` says what the operator has to fix; ``draining``.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._reload())
        return await asyncio.shield(self._next)

    async def _reload(self) -> dict[str, Any]:
        async with self._lock:
            self._next = None
            started = self.since = self._service.loop.time()
            announced = self._serving.ready.is_set()
            if announced:
                self._notifier.reloading()
            try:
                settings, bundles = self._reread()
                for warning in settings.warnings:
                    _log.warning("%s", warning)
                check_reloadable(self._service.settings, settings)
                await asyncio.to_thread(
                    OverrideWatcher.load, settings.overrides
                )  # damaged since, it would refuse a start
                mode = await self._serving.reload(settings, bundles)
            except NsfwdError as error:
                if isinstance(error, CodedError) and error.code == "draining":
                    raise
                reason = f"{error}{self._rollback_hint(error)}"
                _log.error("reload failed; still serving the previous configuration: %s", reason)
                raise CodedError("reload_refused", reason) from None
            finally:
                self.since = None
                if announced and not self._service.draining:
                    self._notifier.ready(self._status())
            self._service.settle(settings, bundles)
            logs.adjust(settings.log_level, settings.log_paths)
            seconds = self._service.loop.time() - started
            what = ", ".join(f"{bundle.model_identity}, policy {bundle.policy_identity}" for bundle in bundles)
            _log.info("reloaded in %.1f s: %s", seconds, what)
            return {
                "models": {bundle.name: bundle.model_identity for bundle in bundles},
                "policies": {bundle.name: bundle.policy_identity for bundle in bundles},
                "mode": mode,
                "seconds": round(seconds, 3),
            }

    def _rollback_hint(self, error: NsfwdError) -> str:
        """Return the advice for a refused bundle of which a previous version is kept."""
        if not isinstance(error, (BundleError, EngineError)):
            return ""
        kept = [bundle.directory.name for bundle in self._service.bundles if kept_versions(bundle.directory)]
        return f"; a previous version is kept: nsfwd models rollback {kept[0]}, then nsfwd reload" if kept else ""


def check_reloadable(present: Settings, wanted: Settings) -> None:
    """Refuse a change of a setting that only a restart changes.

    Raises:
        SettingsError: names each of them; the operator restarts the daemon or takes the change back.
    """
    fixed = [row.name for row in TABLE.values() if not row.reloadable]
    changed = [name for name in fixed if getattr(present, name) != getattr(wanted, name)]
    if changed:
        raise SettingsError(f"{', '.join(changed)}: a reload cannot change this; restart the daemon")
