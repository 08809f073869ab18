"""``--job``: the flags of ``sweep`` and ``watch`` from a file. Flags of the command line win."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])

_NOT_KEYS = frozenset({"job", "help"})


def job_option(command: _Command) -> _Command:
    """Add ``--job``."""
    return click.option(
        "--job",
        metavar="NAME|FILE",
        is_eager=True,
        expose_value=False,
        callback=_take,
        help="File of directories and flags, or NAME for /etc/nsfwd/sweep.d/NAME.toml.",
    )(command)


def keys_of(command: click.Command) -> dict[str, click.Parameter]:
    """Return the keys that a job may have for a command: its long flags, underscores for dashes, and its argument."""
    found = {}
    for parameter in command.params:
        for name in parameter.opts:
            if isinstance(parameter, click.Argument) or name.startswith("--"):
                found[name.lstrip("-").replace("-", "_")] = parameter
    return {name: parameter for name, parameter in found.items() if name not in _NOT_KEYS}


def _take(context: click.Context, parameter: click.Parameter, job: str | None) -> None:
    if job is None or context.resilient_parsing:
        return
    from nsfwd.cli.sweep import sweep
    from nsfwd.cli.watch import watch
    from nsfwd.errors import SettingsError
    from nsfwd.scanning.sweeps.job_file import find_job, read_job

    path = find_job(job)
    own = keys_of(context.command)
    values = read_job(path, {*keys_of(sweep), *keys_of(watch)})
    defaults: dict[str, Any] = {}
    for name, value in values.items():
        if name not in own:
            continue
        try:
            own[name].type_cast_value(context, _listed(own[name], value))
        except click.BadParameter as error:
            raise SettingsError(f"{path}, key {name}: {error.message}") from error
        defaults[own[name].name or name] = _listed(own[name], value)
    for directory in defaults.get("directories", ()):
        if not Path(directory).is_dir():
            raise SettingsError(f"{path}, key directories: {directory}: no such directory")
    context.default_map = {**(context.default_map or {}), **defaults}


def _listed(parameter: click.Parameter, value: Any) -> Any:
    """Return a single value of a repeatable flag as a list."""
    if (parameter.multiple or parameter.nargs == -1) and not isinstance(value, list):
        return [value]
    return value
