"""``nsfwd index relocate`` and ``prune``: maintenance of an index. Neither touches a picture."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nsfwd.cli.options.default_paths import index_option, quarantine_option, to_option
from nsfwd.cli.options.param_types import Duration
from nsfwd.escaping import escape

if TYPE_CHECKING:
    from nsfwd.scanning.actions.quarantine import Store


@click.command()
@click.argument("old", type=click.Path(path_type=bytes))
@click.argument("new", type=click.Path(path_type=bytes))
@index_option
@quarantine_option
@to_option
@click.option("--dry-run", is_flag=True, help="Print the number of files without changing anything.")
def relocate(old: bytes, new: bytes, index: Path, quarantine: Path, to: Path | None, *, dry_run: bool) -> None:
    """Update the index after a tree was moved from OLD to NEW, so that the next sweep scores nothing again.

    Files from OLD that are in the quarantine or below --to are restored to NEW from then on.

    Example: nsfwd index relocate /srv/uploads /mnt/new/uploads
    """
    from nsfwd.errors import NsfwdError
    from nsfwd.scanning.actions.action_rows import relocate_taken, taken_elsewhere
    from nsfwd.scanning.index.database import Index
    from nsfwd.scanning.index.maintenance import relocate as follow

    old, new = os.path.abspath(old), os.path.abspath(new)  # noqa: PTH100 (pathlib knows no bytes)
    with Index(index, create=False, write=not dry_run) as opened, ExitStack() as stack:
        stores = [stack.enter_context(store) for store in _stores(quarantine, to)]
        count = follow(opened, old, new, dry_run=True)  # refuses before anything is changed
        if elsewhere := taken_elsewhere(opened, old, stores):
            raise NsfwdError(
                f"{len(elsewhere)} files of the tree were moved to another place, such as {os.fsdecode(elsewhere[0])}:"
                " give it as --quarantine or --to, or restore them first"
            )
        taken = sum(relocate_taken(store, old, new, dry_run=dry_run) for store in stores)
        if not dry_run:
            follow(opened, old, new)
    click.echo(f"{count} files {'would move' if dry_run else 'moved'} in the index")
    if taken:
        click.echo(f"{taken} moved files{' would' if dry_run else ''} come back below {escape(os.fsdecode(new))}")


def _stores(quarantine: Path, to: Path | None) -> Iterator[Store]:
    """Open the stores that exist."""
    from nsfwd.scanning.actions.quarantine import Store

    if quarantine.is_dir():
        yield Store.quarantine(quarantine)
    if to is not None:
        yield Store.shelf(to)


@click.command()
@index_option
@click.option(
    "--older-than", "age", type=Duration(), default="90d", show_default=True, help="Least age of the records to delete."
)
@click.option("--apply", is_flag=True, help="Delete the records; without this flag they are only counted.")
def prune(index: Path, age: float, *, apply: bool) -> None:
    """Delete the records of files that no longer exist, and the scores, history and runs that only they needed.

    Deletes rows of the index, never a picture. Records that a restore may need stay. The file of the index does not
    shrink; its free space is used again.

    \b
    Example:
      nsfwd index prune --older-than 180d
      nsfwd index prune --older-than 180d --apply
    """
    from nsfwd.scanning.index.database import Index
    from nsfwd.scanning.index.maintenance import prune as forget

    with Index(index, create=False, write=apply) as opened:
        pruned = forget(opened, before=time.time() - age, apply=apply)
    click.echo(
        f"{'pruned' if apply else 'would prune'}: {pruned.files} files, {pruned.scores} scores, "
        f"{pruned.history} rows of history, {pruned.directories} directories, {pruned.runs} runs"
    )
    if not apply:
        click.echo("nothing was changed; add --apply", err=True)
