"""``nsfwd config``: what the settings are, where each comes from, and whether ``serve`` would take them."""

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
@click.option("--explain", is_flag=True, help="Add what each setting is for and why its default is what it is.")
@settings_options
def show(explain: bool, config: Path | None, **flags: Any) -> None:
    """Show every setting and where it was given. The output is a TOML file.

    Example: nsfwd config show --config nsfwd.toml
    """
    settings = settings_from(config, flags)
    for row in TABLE.values():
        if explain:
            unit = f" In {row.unit}." if row.unit else ""
            reload = "" if row.reloadable else " A reload does not change it."
            click.echo(f"# {row.help}{unit} Default: {row.reason}.{reload}")
        where = settings.given.get(row.name, "default")
        click.echo(f"{row.name} = {_toml(msgspec.to_builtins(getattr(settings, row.name)))}  # {where}")


@config.command()
@click.option("--as", "user", metavar="USER", help="Look whether this user, the daemon's, may open the PATHs.")
@click.option("--peers", "row", metavar="NAME", help="Look for the peers of this row of the table.")
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=click.Path(path_type=Path, readable=False))
@settings_options
def check(user: str | None, row: str | None, paths: tuple[Path, ...], config: Path | None, **flags: Any) -> int:
    """Refuse what serve would refuse before it starts: settings, addresses, bundles, policies.

    With --as and PATHs it looks instead why these cannot be scanned, and names the directory, mode, root or setting
    of the unit that denies it; exit 1 when one is denied. With --peers it looks for those of one row of the table of
    peers; without, it names the rows that have other roots.

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
        click.echo(f"warning: root {root}: there is no such directory, so nothing below it is scanned", err=True)
    served = ", ".join(
        f"{bundle.name} ({bundle.model_identity}, policy {bundle.policy_identity})" for bundle in bundles
    )
    click.echo(f"good: {len(settings.given)} settings given, serving {served}")
    return exit_codes.OK


def _missing_roots(settings: Settings) -> list[str]:
    """Name the roots that are no directories, of peers too. They may be mounted later."""
    from nsfwd.escaping import escape

    roots = [*settings.roots, *(root for row in settings.peers for root in row.roots)]
    return [escape(root) for root in dict.fromkeys(roots) if not Path(root).is_dir()]


def _check_overrides(settings: Settings, bundles: Sequence[Bundle]) -> None:
    """Refuse a store of overrides that serve would refuse; warn of verdicts that serve would take for alarms.

    Raises:
        OverridesFailure: it is there and cannot be read.
    """
    from nsfwd.bundles.verdict import verdicts
    from nsfwd.overrides.override_watcher import OverrideWatcher

    known = verdicts(bundles)
    strange = {override.verdict for override in OverrideWatcher.load(settings.overrides).known.values()} - known.keys()
    for verdict in sorted(strange):
        text = f'warning: overrides say "{verdict}", which no policy does ({", ".join(known)}): they count as alarms'
        click.echo(text, err=True)


def _check_access(user: str | None, paths: tuple[Path, ...], settings: Settings, name: str | None) -> int:
    from nsfwd.cli.options.path_access import obstacle, outside
    from nsfwd.escaping import visible

    if user is None or not paths:
        raise click.UsageError("--as USER and PATH belong together")
    rows = {row.name: row for row in settings.peers}
    if name is not None and name not in rows:
        raise SettingsError(f"there is no row {name} of peers (there: {', '.join(rows) or 'none'})")
    denied = False
    for path in paths:
        why = obstacle(path, user=user, roots=settings.roots)
        others = {row.name: outside(path, row.roots, f"row {row.name} of peers") for row in rows.values() if row.roots}
        if name is not None:
            why = why or others.pop(name, "")
        click.echo(visible(f"denied: {why}" if why else f"{path}: {user} may open it"))
        for words in others.values() if name is None and not why else ():
            if words:
                click.echo(visible(f"  but not for some: {words}"))
        denied = denied or bool(why)
    return exit_codes.FAILED if denied else exit_codes.OK


def _toml(value: Any) -> str:
    """Spell a value of a setting as TOML on one line. JSON's strings, numbers and booleans are TOML's as well."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)
