"""``nsfwd serve``: the flags are made from the table of settings; the server is imported when all of them are valid."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from nsfwd.cli.options.default_paths import config_option
from nsfwd.config import BYTES, SECONDS, TABLE, Setting, Settings, find_file, load_settings
from nsfwd.config.renames import RENAMED
from nsfwd.quantities import format_duration, format_size

_METAVARS = {
    "listen": "ADDR[,OPTION...]",
    "metrics": "ADDR",
    "metrics_hosts": "NAME",
    "roots": "DIR",
    "models_dir": "DIR",
    "cache_dir": "DIR",
    "overrides": "FILE",
    "models": "NAME[=SHORT]",
    "precision": "NAME",
}
_UNITS = {BYTES: "SIZE", SECONDS: "DURATION"}
_FORMATS: dict[str, Callable[[Any], str]] = {BYTES: format_size, SECONDS: format_duration}


def settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--config`` and a flag for every setting that has one; old names of flags work and are not shown."""
    for old, rename in RENAMED.items():
        row = TABLE[rename.new]
        if row.flag and not rename.over:
            command = click.option(f"--{old.replace('_', '-')}", old, multiple=row.many, hidden=True)(command)
    for row in reversed([row for row in TABLE.values() if row.flag]):
        command = _option(row)(command)
    return config_option(command)


def _option(row: Setting) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    shown = " ".join(row.default) if row.many else _FORMATS.get(row.unit, str)(row.default)
    default = f"  [default: {shown}]" if shown else ""
    return click.option(
        f"--{row.flag}",
        row.name,
        multiple=row.many,
        type=click.Choice(row.choices) if row.choices else str,
        metavar=None if row.choices else _METAVARS.get(row.name) or _UNITS.get(row.unit, "NUMBER"),
        help=row.help + default,
    )


def settings_from(config: Path | None, flags: dict[str, Any]) -> Settings:
    """Load the settings as ``serve`` does: file, then environment, then these flags.

    Raises:
        SettingsError: one of them is wrong; the operator has to fix it.
    """
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    if "roots" in given:
        given["roots"] = tuple(str(Path.cwd() / root) for root in given["roots"])
    return load_settings(find_file(config, os.environ), os.environ, given)


@click.command()
@settings_options
def serve(config: Path | None, **flags: Any) -> int:
    """Run the daemon.

    Every flag is also a key of the TOML file (max_bytes) and an environment variable (NSFWD_MAX_BYTES); flags win over
    variables, variables over the file. Sizes and durations may have units: 64MiB, 1h30m.

    \b
    Example:
      nsfwd serve --listen tcp:127.0.0.1:1235 --listen unix:/run/nsfwd/nsfwd.sock,mode=0660 --root /srv/pictures
    """
    settings = settings_from(config, flags)
    from nsfwd.server.daemon import run

    return run(settings, lambda: settings_from(config, flags))
