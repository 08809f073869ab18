"""``nsfwd index list``: files and what they came to, one a line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from nsfwd.cli.options.default_paths import index_option
from nsfwd.cli.options.param_types import RowNumber
from nsfwd.cli.tables import format_option, write

COLUMNS = ("path", "status", "verdict", "alarm", "label", "score", "code", "time")
_SHOWN = ("path", "status", "verdict", "score", "alarm", "label", "code", "time")
"""As text: beside the verdict the score that decided it, which is not the label's."""


@click.command("list")
@click.argument("paths", nargs=-1, metavar="[PATH...]", type=click.Path(path_type=bytes))
@index_option
@format_option
@click.option("--verdict", multiple=True, help="Those with this verdict. May be given several times.")
@click.option("--status", multiple=True, type=click.Choice(["ok", "skipped", "error"]), help="Those that ended so.")
@click.option("--code", multiple=True, help="Those without scores for this reason.")
@click.option("--alarm", is_flag=True, help="Those whose verdict is an alarm.")
@click.option("--overridden", is_flag=True, help="Those whose verdict a person gave.")
@click.option("--run", type=RowNumber, help="Those that came to it in this run.")
@click.option("--gone", is_flag=True, help="Those that are no longer there, which are left out otherwise.")
@click.option("--limit", type=RowNumber, help="So many at most.")
def list_files(paths: tuple[bytes, ...], index: Path, spelling: str, **rest: Any) -> None:
    """List files and what they came to, below PATH or all.

    \b
    Example:
      nsfwd index list --alarm
      nsfwd index list /srv/uploads --status error --format csv
    """
    from nsfwd.scanning.index.database import Index
    from nsfwd.scanning.reports.records import ChosenRows, files

    chosen = ChosenRows(
        tuple(os.path.abspath(path) for path in paths),  # noqa: PTH100 (pathlib knows no bytes)
        verdicts=rest["verdict"],
        statuses=rest["status"],
        codes=rest["code"],
        alarm=rest["alarm"],
        overridden=rest["overridden"],
        run=rest["run"],
        gone=rest["gone"],
        limit=rest["limit"],
    )
    with Index(index, write=False) as opened:
        write(files(opened, chosen), _SHOWN if spelling == "text" else COLUMNS, spelling)
