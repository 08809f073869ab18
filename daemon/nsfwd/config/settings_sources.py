"""Loads settings from a TOML file, the environment and flags, and checks them.

Reads one file and nothing else. Names are checked against ``table``, values by ``values``.
"""

from __future__ import annotations

import difflib
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nsfwd.config.peers import check_roots
from nsfwd.config.renames import RENAMED
from nsfwd.config.table import PREFIX, TABLE, Setting, Settings
from nsfwd.config.values import converted
from nsfwd.documents import DocumentError, parse_toml, read_document
from nsfwd.errors import SettingsError

SYSTEM_FILE = Path("/etc/nsfwd/nsfwd.toml")

NOT_SETTINGS = frozenset({"NSFWD_CONFIG", "NSFWD_CONNECT", "NSFWD_ECHO"})
"""Variables with the prefix that are read elsewhere: the file's path, the daemon's address for clients, and the faults
of the echo engine in tests."""


def find_file(chosen: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the settings file: the chosen one, ``$NSFWD_CONFIG``, else the system's where it exists, else None."""
    if chosen is not None:
        return chosen
    if environ.get("NSFWD_CONFIG"):
        return Path(environ["NSFWD_CONFIG"])
    return SYSTEM_FILE if SYSTEM_FILE.exists() else None


def load_settings(
    file: Path | None = None, environ: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None
) -> Settings:
    """Merge file < environment < flags into checked settings.

    Args:
        file: a TOML file, or None (``find_file`` looks in the usual places).
        environ: variables; the process's own when left out.
        flags: setting -> value of its flag; None counts as not given.

    Raises:
        SettingsError: a name is unknown or a value is invalid; the message names file and key, variable, or flag.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    given: dict[str, str] = {}
    warnings: list[str] = []
    for source in (_from_file(file), _from_environ(environ), _from_flags(flags or {})):
        for name, (value, where) in _renamed(source, warnings).items():
            values[name] = converted(TABLE[name], value, where)
            given[name] = where
    if not values.get("cache_dir"):
        values["cache_dir"] = _cache_dir(environ)
    if not values.get("overrides"):
        values["overrides"] = str(_state_dir(environ) / "overrides.sqlite")
    settings = Settings(**values, given=given, warnings=tuple(warnings))
    try:
        check_roots(settings.peers, settings.roots)
    except ValueError as error:
        raise SettingsError(f"{given.get('peers') or given['roots']}: {error}") from None
    return settings


_Source = dict[str, tuple[Any, str]]
"""Setting name, present or old -> value as given, and its place."""


def _renamed(source: _Source, warnings: list[str]) -> _Source:
    """Replace old names by present ones, with a warning for each."""
    found = {name: given for name, given in source.items() if name in TABLE}
    for name, (value, where) in source.items():
        if name in TABLE:
            continue
        rename = RENAMED[name]
        if rename.new in found:
            raise SettingsError(f"{where}: the old name of {found[rename.new][1]}; give one of both")
        warnings.append(f'{where}: this setting is now called "{rename.new}"; version {rename.ends} drops the old name')
        found[rename.new] = (value, where)
    return found


def _known() -> dict[str, Setting]:
    """Return every accepted name, old ones included."""
    return {**TABLE, **{old: TABLE[rename.new] for old, rename in RENAMED.items() if not rename.over}}


def _from_file(file: Path | None) -> _Source:
    if file is None:
        return {}
    try:
        table = parse_toml(read_document(file))
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read: {error.strerror}") from error
    except DocumentError as error:
        raise SettingsError(f"{file}: {error}") from error
    known = _known()
    for name in table:
        if name not in known:
            raise SettingsError(f'{file}: unknown setting "{name}"{_hint(name, name, list(TABLE))}')
    return {name: (value, f"{file}, key {name}") for name, value in table.items()}


def _from_environ(environ: Mapping[str, str]) -> _Source:
    variables = {PREFIX + name.upper(): name for name, row in _known().items() if row.flag}
    found: _Source = {}
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable in NOT_SETTINGS:
            continue
        if variable not in variables:
            old = variable.removeprefix(PREFIX).lower()
            raise SettingsError(f"unknown environment variable {variable}{_hint(old, variable, list(variables))}")
        name, text = variables[variable], environ[variable]
        found[name] = (_words(text, variable) if _known()[name].many else text, variable)
    return found


def _words(text: str, where: str) -> list[str]:
    """Split a list in a variable as a shell would, so that names may contain spaces."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise SettingsError(f"{where}: {error}") from error


def _from_flags(flags: Mapping[str, Any]) -> _Source:
    options = {name: TABLE[name].flag if name in TABLE else name.replace("_", "-") for name in flags}
    return {name: (value, f"--{options[name]}") for name, value in flags.items() if value is not None}


def _hint(name: str, written: str, known: list[str]) -> str:
    if name in RENAMED:
        return f'; it is now called "{RENAMED[name].new}"'
    close = difflib.get_close_matches(written, known, n=1)
    return f'; did you mean "{close[0]}"?' if close else "; see nsfwd config show"


def _cache_dir(environ: Mapping[str, str]) -> str:
    if environ.get("CACHE_DIRECTORY"):
        return environ["CACHE_DIRECTORY"].split(":")[0]
    base = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME") or "~").expanduser() / ".cache")
    return str(Path(base) / "nsfwd")


def _state_dir(environ: Mapping[str, str]) -> Path:
    if environ.get("STATE_DIRECTORY"):
        return Path(environ["STATE_DIRECTORY"].split(":")[0])
    base = environ.get("XDG_STATE_HOME") or str(Path(environ.get("HOME") or "~").expanduser() / ".local/state")
    return Path(base) / "nsfwd"
