"""``nsfwd index relocate`` and ``prune``: keeping an index in order. Neither touches a picture."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from nsfwd.cli.moments import Duration
from nsfwd.cli.places import index_option


@click.command()
@click.argument("old", type=click.Path(path_type=bytes))
@click.argument("new", type=click.Path(path_type=bytes))
@index_option
@click.option("--dry-run", is_flag=True, help="Say how many files that are, and change nothing.")
def relocate(old: bytes, new: bytes, index: Path, *, dry_run: bool) -> None:
    """Follow a tree that was moved from OLD to NEW, so that the next sweep of it scores nothing again.

    Example: nsfwd index relocate /srv/uploads /mnt/new/uploads
    """
    from nsfwd.scanning.index.database import Index
    from nsfwd.scanning.index.upkeep import relocate as follow

    with Index(index, create=False) as opened:
        count = follow(opened, os.path.abspath(old), os.path.abspath(new), dry_run=dry_run)  # noqa: PTH100 (bytes)
    click.echo(f"{count} files{' would move' if dry_run else ' moved'} in the index")


@click.command()
@index_option
@click.option(
    "--older-than", "age", type=Duration(), default="90d", show_default=True, help="What went, or ended, so long ago."
)
@click.option("--apply", is_flag=True, help="Do it. Otherwise it is only said what would go.")
def prune(index: Path, age: float, *, apply: bool) -> None:
    """Forget files that are long gone, the scores, history and runs that only they needed.

    Rows of the index, and no picture. What a restore may need stays. The file does not become smaller; what is free in
    it is used again.

    \b
    Example:
      nsfwd index prune --older-than 180d
      nsfwd index prune --older-than 180d --apply
    """
    from nsfwd.scanning.index.database import Index
    from nsfwd.scanning.index.upkeep import prune as forget

    with Index(index, create=False) as opened:
        pruned = forget(opened, before=time.time() - age, apply=apply)
    click.echo(
        f"{'pruned' if apply else 'would prune'}: {pruned.files} files, {pruned.scores} scores, "
        f"{pruned.history} rows of history, {pruned.directories} directories, {pruned.runs} runs"
    )
    if not apply:
        click.echo("nothing was changed; --apply does it", err=True)
