"""``nsfwd serve``: from settings to a running daemon and its exit code.

Opens bundles and sockets first, so that an operator's mistake is one line within a second and no process was started.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
import uvloop

from nsfwd import logs
from nsfwd.bundles.bundle_store import Bundle, locate, open_bundle
from nsfwd.bundles.policy import PolicyChange
from nsfwd.config import DEFAULT_LISTEN, parse_model
from nsfwd.errors import BundleError, NsfwdError, SettingsError
from nsfwd.server.acceptor import check_descriptors
from nsfwd.server.lifecycle import serve
from nsfwd.server.listeners import inherited_listeners, open_listeners
from nsfwd.server.malloc_tuning import give_back_large_buffers
from nsfwd.server.watchdog import watchdog_seconds
from nsfwd.systemd import Notifier

if TYPE_CHECKING:
    from nsfwd.config import Settings

_log = logging.getLogger("nsfwd.server")


def run(settings: Settings, reread: Callable[[], Settings]) -> int:
    """Serve until a signal or a failure.

    Args:
        reread: reads the settings again from the same sources, for a reload; raises NsfwdError.

    Returns:
        0 after an orderly stop, 1 when the daemon could not start or had to give up; the log says why.
    """
    give_back_large_buffers()
    logs.setup(settings.log_level, settings.log_paths)
    for warning in settings.warnings:
        _log.warning("%s", warning)
    notifier, watchdog = Notifier(os.environ), watchdog_seconds(os.environ)
    try:
        check_descriptors(settings.decoders or len(os.sched_getaffinity(0)))
        inherited = inherited_listeners(os.environ)
        bundles = open_bundles(settings)
        roots = settings.is_given("roots")
        listeners = open_listeners(settings.listen, inherited, DEFAULT_LISTEN, roots=roots, metrics=settings.metrics)
    except NsfwdError as error:
        _log.error("%s", error)
        return 1
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve(settings, bundles, listeners, notifier, lambda: _reread(reread), watchdog))


def _reread(reread: Callable[[], Settings]) -> tuple[Settings, list[Bundle]]:
    settings = reread()
    return settings, open_bundles(settings)


def open_bundles(settings: Settings) -> list[Bundle]:
    """Open the bundles named by the settings, each under its short name and the site's policy.

    Raises:
        BundleError: one is missing or wrong.
        SettingsError: a policy of the settings is invalid, or no bundle of its name is served.
    """
    changes = dict(settings.policy)
    bundles = []
    for text in settings.models:
        name, short = parse_model(text)
        chosen = short if "=" in text else None
        bundle = open_bundle(locate(settings, name), short=chosen, precision=settings.precision or None)
        key = bundle.name if bundle.name in changes else name
        bundles.append(_judging(bundle, key, changes.pop(key)) if key in changes else bundle)
    if changes:
        served = ", ".join(bundle.name for bundle in bundles)
        raise SettingsError(f"[policy.{next(iter(changes))}]: no bundle of that name is served (served: {served})")
    return bundles


def _judging(bundle: Bundle, name: str, table: dict[str, object]) -> Bundle:
    try:
        return bundle.judging(msgspec.convert({"name": name, **table}, PolicyChange))
    except (msgspec.ValidationError, BundleError) as error:
        reason = str(error).replace("`", "").replace(" - at $.", " at ").removeprefix("policy: ")
        raise SettingsError(f"[policy.{name}]: {reason[:1].lower()}{reason[1:]}") from None
