"""Takes up changed settings and bundles while requests go on; whatever is wrong with them, the old ones serve on.

Knows no signal and no connection: ``lifecycle`` and the operation ``reload`` ask for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from nsfwd import logs
from nsfwd.bundles.previous_versions import formers
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
        reread: where settings and bundles come from.
        service: gets them once they serve.
        serving: loads and proves them first.
        notifier: is told when a reload begins and that it has ended.
        status: how the daemon is, in one line for the service manager.

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
        self._turn = asyncio.Lock()
        self._coming: asyncio.Task[dict[str, Any]] | None = None
        self.since: float | None = None

    async def reload(self) -> dict[str, Any]:
        """Reload, and return the content of the reply.

        Whoever asks while one waits for its turn shares that one, which reads what is there when it begins: any number
        of signals during a reload is one reload more.

        Raises:
            CodedError: ``reload_refused`` says what the operator has to fix; ``draining``.
        """
        if self._coming is None:
            self._coming = asyncio.create_task(self._reload())
        return await asyncio.shield(self._coming)

    async def _reload(self) -> dict[str, Any]:
        async with self._turn:
            self._coming = None
            started = self.since = self._service.loop.time()
            announced = self._serving.ready.is_set()
            if announced:
                self._notifier.reloading()
            try:
                settings, bundles = self._reread()
                for warning in settings.warnings:
                    _log.warning("%s", warning)
                refuse_fixed(self._service.settings, settings)
                await asyncio.to_thread(
                    OverrideWatcher.load, settings.overrides
                )  # damaged since, it would refuse a start
                mode = await self._serving.reload(settings, bundles)
            except NsfwdError as error:
                if isinstance(error, CodedError) and error.code == "draining":
                    raise
                reason = f"{error}{self._way_back(error)}"
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

    def _way_back(self, error: NsfwdError) -> str:
        """What to do when a bundle is refused of which a former version is kept."""
        if not isinstance(error, (BundleError, EngineError)):
            return ""
        kept = [bundle.directory.name for bundle in self._service.bundles if formers(bundle.directory)]
        return f"; a former version is kept: nsfwd models rollback {kept[0]}, then nsfwd reload" if kept else ""


def refuse_fixed(present: Settings, wanted: Settings) -> None:
    """Refuse a change of a setting that only a restart changes.

    Raises:
        SettingsError: names each of them; the operator restarts the daemon or takes the change back.
    """
    fixed = [row.name for row in TABLE.values() if not row.reloadable]
    changed = [name for name in fixed if getattr(present, name) != getattr(wanted, name)]
    if changed:
        raise SettingsError(f"{', '.join(changed)}: a reload cannot change this; restart the daemon")
