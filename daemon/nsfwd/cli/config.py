"""``nsfwd config``: show the settings with the source of each, and check them as ``serve`` would."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from nsfwd.cli.options import exit_codes
from nsfwd.cli.options.lazy_group import Group
from nsfwd.cli.serve import settings_from, settings_options
from nsfwd.config import TABLE, Settings
from nsfwd.errors import SettingsError

if TYPE_CHECKING:
    from nsfwd.bundles.bundle_store import Bundle


@click.group(cls=Group)
def config() -> None:
    """Show or check the settings.

    Example: nsfwd config show --explain
    """


@config.command()
@click.option("--explain", is_flag=True, help="Add the meaning of each setting and the reason for its default.")
@settings_options
def show(explain: bool, config: Path | None, **flags: Any) -> None:
    """Show every setting and its source. The output is a TOML file.

    Example: nsfwd config show --config nsfwd.toml
    """
    settings = settings_from(config, flags)
    for row in TABLE.values():
        if explain:
            unit = f" In {row.unit}." if row.unit else ""
            reload = "" if row.reloadable else " Needs a restart to change."
            click.echo(f"# {row.help}{unit} Default: {row.reason}.{reload}")
        where = settings.given.get(row.name, "default")
        click.echo(f"{row.name} = {_toml(msgspec.to_builtins(getattr(settings, row.name)))}  # {where}")


@config.command()
@click.option("--as", "user", metavar="USER", help="User of the daemon: check whether it may open the PATHs.")
@click.option("--peers", "row", metavar="NAME", help="Row of the table of peers to check the PATHs for.")
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=click.Path(path_type=Path, readable=False))
@settings_options
def check(user: str | None, row: str | None, paths: tuple[Path, ...], config: Path | None, **flags: Any) -> int:
    """Check settings, addresses, bundles and policies as serve does before it starts.

    With --as and PATHs, check instead whether these can be scanned, and name the directory, mode, root or setting of
    the unit that denies it; exit 1 when one is denied. With --peers the check is for one row of the table of peers;
    without it, the rows with other roots are named.

    \b
    Example:
      nsfwd config check --config nsfwd.toml && systemctl restart nsfwd
      nsfwd config check --as nsfwd /srv/pictures/one.jpg
      nsfwd config check --as nsfwd --peers mail /srv/pictures/one.jpg
    """
    settings = settings_from(config, flags)
    for warning in settings.warnings:
        click.echo(f"warning: {warning}", err=True)
    if user is not None or row is not None or paths:
        return _check_access(user, paths, settings, row)
    from nsfwd.server.daemon import open_bundles
    from nsfwd.server.listen_spec import parse

    for text in settings.listen:
        parse(text)
    bundles = open_bundles(settings)
    _check_overrides(settings, bundles)
    for root in _missing_roots(settings):
        click.echo(f"warning: root {root}: no such directory, so nothing below it is scanned", err=True)
    served = ", ".join(
        f"{bundle.name} ({bundle.model_identity}, policy {bundle.policy_identity})" for bundle in bundles
    )
    click.echo(f"ok: {len(settings.given)} settings given, serving {served}")
    return exit_codes.OK


def _missing_roots(settings: Settings) -> list[str]:
    """Return the roots that do not exist, those of peers too. They may be mounted later."""
    from nsfwd.escaping import escape

    roots = [*settings.roots, *(root for row in settings.peers for root in row.roots)]
    return [escape(root) for root in dict.fromkeys(roots) if not Path(root).is_dir()]


def _check_overrides(settings: Settings, bundles: Sequence[Bundle]) -> None:
    """Check the store of overrides as serve does; warn of verdicts that serve treats as alarms.

    Raises:
        OverridesFailure: the store exists and cannot be read.
    """
    from nsfwd.bundles.verdict import verdicts
    from nsfwd.overrides.override_watcher import OverrideWatcher

    known = verdicts(bundles)
    strange = {override.verdict for override in OverrideWatcher.load(settings.overrides).known.values()} - known.keys()
    for verdict in sorted(strange):
        text = f'warning: override verdict "{verdict}" is in no policy ({", ".join(known)}); it is treated as an alarm'
        click.echo(text, err=True)


def _check_access(user: str | None, paths: tuple[Path, ...], settings: Settings, name: str | None) -> int:
    from nsfwd.cli.options.path_access import obstacle, outside
    from nsfwd.escaping import visible

    if user is None or not paths:
        raise click.UsageError("--as USER and PATH need each other")
    rows = {row.name: row for row in settings.peers}
    if name is not None and name not in rows:
        raise SettingsError(f"unknown row of peers {name!r} (known: {', '.join(rows) or 'none'})")
    denied = False
    for path in paths:
        why = obstacle(path, user=user, roots=settings.roots)
        others = {row.name: outside(path, row.roots, f"row {row.name} of peers") for row in rows.values() if row.roots}
        if name is not None:
            why = why or others.pop(name, "")
        click.echo(visible(f"denied: {why}" if why else f"{path}: {user} may open it"))
        for words in others.values() if name is None and not why else ():
            if words:
                click.echo(visible(f"  but not for some peers: {words}"))
        denied = denied or bool(why)
    return exit_codes.FAILED if denied else exit_codes.OK


def _toml(value: Any) -> str:
    """Write a value of a setting as TOML on one line. JSON's strings, numbers and booleans are TOML's as well."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)
