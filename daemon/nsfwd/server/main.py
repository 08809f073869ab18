"""``nsfwd serve``: from settings to a running daemon and its exit code.

Opens bundles and sockets first, so that an operator's mistake is one line within a second and no process was started.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import uvloop

from nsfwd import logs
from nsfwd.bundles.policy import Policy
from nsfwd.bundles.store import Bundle, find, open_bundle
from nsfwd.config import DEFAULT_LISTEN, parse_model
from nsfwd.errors import NsfwdError, SettingsError
from nsfwd.server.lifecycle import serve
from nsfwd.server.listeners import inherited_listeners, open_listeners
from nsfwd.server.notify import Notifier
from nsfwd.server.watchdog import watchdog_seconds

if TYPE_CHECKING:
    from nsfwd.config import Settings

_log = logging.getLogger("nsfwd.server")


def run(settings: Settings, reread: Callable[[], Settings]) -> int:
    """Serve until told to stop.

    Args:
        reread: the settings anew from where these came from, for a reload; raises NsfwdError.

    Returns:
        0 after an orderly stop, 1 when the daemon could not start or had to give up; the log says why.
    """
    logs.setup(settings.log_level, settings.log_paths)
    for warning in settings.warnings:
        _log.warning("%s", warning)
    notifier, watchdog = Notifier(os.environ), watchdog_seconds(os.environ)
    try:
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
        SettingsError: a policy of the settings is no policy, or is for no bundle that is served.
    """
    policies = {name: _policy(name, table) for name, table in settings.policy.items()}
    bundles = []
    for text in settings.models:
        name, short = parse_model(text)
        override = policies.pop(short, None) or policies.pop(name, None)
        directory = find(Path(settings.models_dir), name)
        chosen = short if "=" in text else None
        precision = settings.precision or None
        bundles.append(open_bundle(directory, short=chosen, precision=precision, policy_override=override))
    if policies:
        raise SettingsError(f"policy {', '.join(policies)}: no bundle of that name is served")
    return bundles


def _policy(name: str, table: dict[str, object]) -> Policy:
    try:
        return msgspec.convert({"name": name, **table}, Policy)
    except msgspec.ValidationError as error:
        raise SettingsError(f"policy {name}: {error}") from None
