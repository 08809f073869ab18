"""Default paths of the index and the quarantine, and the flags that change them."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])


def default_index() -> Path:
    """Return the default path of the index."""
    return _state() / "index.db"


def default_quarantine() -> Path:
    """Return the default path of the quarantine."""
    return _state() / "quarantine"


def _state() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/nsfwd")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "nsfwd"


def whole(path: Path) -> Path:
    """Return an absolute path with links and ``..`` resolved in all but its last name."""
    return path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name


def index_option(command: _Command) -> _Command:
    """Add ``--index``, which every command about an index has."""
    return click.option(
        "--index",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        callback=lambda context, parameter, value: whole(value) if value is not None else default_index(),
        help="File of the index.  [default: nsfwd/index.db below $XDG_STATE_HOME; of root: /var/lib/nsfwd/index.db]",
    )(command)


def quarantine_option(command: _Command) -> _Command:
    """Add ``--quarantine``."""
    return click.option(
        "--quarantine",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        callback=lambda context, parameter, value: whole(value) if value is not None else default_quarantine(),
        help="Directory of the quarantine.  [default: nsfwd/quarantine below $XDG_STATE_HOME; of root:"
        " /var/lib/nsfwd/quarantine]",
    )(command)


def to_option(command: _Command) -> _Command:
    """Add ``--to``."""
    return click.option(
        "--to",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        callback=lambda context, parameter, value: whole(value) if value is not None else None,
        help="Directory for copied and moved files, which keep their path below it.",
    )(command)


def index_files(index: Path) -> list[str]:
    """Return patterns for the files of an index: they change with every run and are not pictures."""
    names = {str(index.absolute()), str(index.resolve())}
    return [glob.escape(name) + end for name in sorted(names) for end in ("", "-wal", "-shm", "-runs")]


def taken_files(quarantine: Path, to: Path | None) -> list[str]:
    """Return patterns for the directories of moved files, so that a quarantine below the trees is not scanned."""
    places = [place for place in (quarantine, to) if place is not None]
    return sorted({glob.escape(str(name)) for place in places for name in (place.absolute(), place.resolve())})


def config_option(command: _Command) -> _Command:
    """Add ``--config``."""
    return click.option(
        "--config",
        metavar="FILE",
        type=click.Path(path_type=Path, dir_okay=False),
        help="TOML file of settings.  [default: $NSFWD_CONFIG, else /etc/nsfwd/nsfwd.toml if it exists]",
    )(command)


def store_option(command: _Command) -> _Command:
    """Add ``--store``."""
    return click.option(
        "--store",
        metavar="FILE",
        type=click.Path(path_type=Path, dir_okay=False),
        help="File of the store of overrides.  [default: the setting overrides]",
    )(command)


def output_option(command: _Command) -> _Command:
    """Add ``-o``."""
    return click.option(
        "-o",
        "--output",
        metavar="FILE",
        type=click.Path(path_type=Path, dir_okay=False),
        help="File to write.  [default: stdout]",
    )(command)
