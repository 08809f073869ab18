"""``nsfwd index export`` and ``diff``: the index as a table, and the changes between two runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nsfwd.cli.options.default_paths import index_option, output_option
from nsfwd.cli.options.param_types import Moment, RowNumber
from nsfwd.cli.options.tables import format_option, write

if TYPE_CHECKING:
    from nsfwd.scanning.reports.where import Condition

COLUMNS = ("what", "before", "after", "path")


class Where(click.ParamType["Condition"]):
    """A condition on files."""

    name = "CONDITION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Condition:
        """Return the parsed condition."""
        from nsfwd.scanning.reports.where import Condition, parse

        if isinstance(value, Condition):
            return value
        try:
            return parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
@index_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "ndjson", "parquet"]),
    help="Format of the table.  [default: by the file's name; else csv]",
)
@output_option
@click.option("--since", type=Moment(), help="Only files judged then or later: 2026-01-31, 7d.")
@click.option(
    "--where", type=Where(), help="Only files that fulfil this condition: verdict = sensitive and score >= 0.9"
)
def export(index: Path, form: str | None, output: Path | None, since: float | None, where: Condition | None) -> None:
    """Write files with scores, verdicts and all other columns as a table for other programs.

    Conditions compare columns (path status code verdict alarm label score overridden size mtime time sha256 policy run
    gone) with =, !=, <, <=, >, >=, like, in (...), is null, joined by and, or, not and brackets. The file is for
    its owner alone. Parquet needs the extra parquet.

    \b
    Example:
      nsfwd index export --where "alarm = true and path like '/srv/%'" -o alarms.csv
      nsfwd index export --since 7d --format ndjson | jq .path
      nsfwd index export -o index.parquet
    """
    from nsfwd.scanning.index.database import Index
    from nsfwd.scanning.reports.index_export import WRITERS, records
    from nsfwd.scanning.trees.file_io import private

    ending = output.suffix.lstrip(".") if output is not None else ""
    form = form or (ending if ending in WRITERS else "csv")
    if form == "parquet" and output is None:
        raise click.UsageError("Parquet needs a file: -o FILE")
    with Index(index, write=False) as opened:
        rows = records(opened, where, since=since)
        if output is not None:
            with private(output) as out:
                WRITERS[form](rows, out)
        else:
            WRITERS[form](rows, sys.stdout.buffer)
            sys.stdout.buffer.flush()


@click.command()
@click.argument("first", metavar="RUN1", type=RowNumber)
@click.argument("second", metavar="RUN2", type=RowNumber)
@index_option
@format_option
def diff(first: int, second: int, index: Path, form: str) -> None:
    """Show the changes between two runs: files that are new, gone, have another verdict, or gained or lost scores.

    Runs and their numbers: nsfwd index stats.

    Example: nsfwd index diff 12 19
    """
    from nsfwd.scanning.index.database import Index
    from nsfwd.scanning.reports.diff import differences
    from nsfwd.scanning.trees.file_entry import path_fields

    def rows() -> Iterator[dict[str, Any]]:
        for what, path, before, after in found:
            yield {"what": str(what), "before": before or None, "after": after or None, **path_fields(path)}

    with Index(index, write=False) as opened:
        found = differences(opened, first, second)
        write(rows(), COLUMNS, form)
