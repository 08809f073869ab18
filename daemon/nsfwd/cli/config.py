"""``nsfwd config``: what the settings are, where each comes from, and whether ``serve`` would take them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import msgspec

from nsfwd.cli import exits
from nsfwd.cli.serve import settings_from, settings_options
from nsfwd.config import TABLE, Settings


@click.group()
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
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=click.Path(path_type=Path))
@settings_options
def check(user: str | None, paths: tuple[Path, ...], config: Path | None, **flags: Any) -> int:
    """Refuse what serve would refuse before it starts: settings, addresses, bundles, policies.

    With --as and PATHs it looks instead why these cannot be scanned, and names the directory, mode, root or setting
    of the unit that denies it; exit 1 when one is denied.

    \b
    Example:
      nsfwd config check --config nsfwd.toml && systemctl restart nsfwd
      nsfwd config check --as nsfwd /srv/pictures/one.jpg
    """
    settings = settings_from(config, flags)
    for warning in settings.warnings:
        click.echo(f"warning: {warning}", err=True)
    if user is not None or paths:
        return _check_access(user, paths, settings)
    from nsfwd.server.addresses import parse
    from nsfwd.server.main import open_bundles

    for text in settings.listen:
        parse(text)
    bundles = open_bundles(settings)
    click.echo(f"good: {len(settings.given)} settings given, serving {', '.join(bundle.name for bundle in bundles)}")
    return exits.OK


def _check_access(user: str | None, paths: tuple[Path, ...], settings: Settings) -> int:
    from nsfwd.cli.access import obstacle
    from nsfwd.logs import escape

    if user is None or not paths:
        raise click.UsageError("--as USER and PATH belong together")
    found = {path: obstacle(path, user=user, roots=settings.roots) for path in paths}
    for path, why in found.items():
        click.echo(escape(f"denied: {why}" if why else f"{path}: {user} may open it"))
    return exits.FAILED if any(found.values()) else exits.OK


def _toml(value: Any) -> str:
    """Spell a value of a setting as TOML on one line. JSON's strings, numbers and booleans are TOML's as well."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)
