"""Flags for the trees of a sweep, a watch or an audit, and for the way their files reach the daemon.

Files of nsfwd below them (index, quarantine, moved and copied files) are always left out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nsfwd.cli.options.default_paths import index_files, index_option, taken_files
from nsfwd.cli.options.path_inputs import exclude_option

if TYPE_CHECKING:
    from nsfwd.scanning.trees.walk import WalkedTree

_Command = TypeVar("_Command", bound=Callable[..., Any])

_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.argument("directories", nargs=-1, required=True, metavar="DIR...", type=click.Path(path_type=bytes)),
    index_option,
    exclude_option,
    click.option("--follow", is_flag=True, help="Follow links. A directory is still walked only once."),
    click.option("--cross", is_flag=True, help="Enter other file systems that are mounted below."),
)


def tree_options(command: _Command) -> _Command:
    """Add the argument and the flags; ``tree_of`` reads them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def send_option(command: _Command) -> _Command:
    """Add ``--send``."""
    return click.option(
        "--send",
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        show_default=True,
        help="Files to pass open over the Unix socket: those that the daemon cannot open, all, or none.",
    )(command)


def tree_of(directories: Sequence[bytes], flags: Mapping[str, Any]) -> WalkedTree:
    """Return the trees of a command line, whose flags include ``quarantine`` and ``to``.

    Raises:
        click.UsageError: a directory does not exist.
    """
    from nsfwd.scanning.trees.walk import Exclusion, WalkedTree, outermost

    for directory in directories:
        if not os.path.isdir(directory):  # noqa: PTH112 (pathlib knows no bytes)
            raise click.UsageError(f"{os.fsdecode(directory)}: no such directory")
    roots = tuple(outermost([os.path.abspath(directory) for directory in directories]))  # noqa: PTH100
    own = (*index_files(flags["index"]), *taken_files(flags["quarantine"], flags["to"]))
    return WalkedTree(roots, Exclusion((*flags["exclude"], *own)), follow=flags["follow"], cross=flags["cross"])
