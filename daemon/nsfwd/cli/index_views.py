"""``nsfwd index list``, ``show`` and ``stats``: files, all that is known of one, and how many came to each outcome."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from nsfwd.cli.options import exit_codes
from nsfwd.cli.options.default_paths import index_option
from nsfwd.cli.options.notices import notice
from nsfwd.cli.options.param_types import RowNumber
from nsfwd.cli.options.tables import format_option, write
from nsfwd.escaping import escape, escape_json
from nsfwd.quantities import format_count

_LISTED = ("path", "status", "verdict", "alarm", "label", "score", "code", "time")
_LISTED_AS_TEXT = ("path", "status", "verdict", "score", "alarm", "label", "code", "time")
"""Beside the verdict the score that decided it, which is not the label's."""

_OUTCOMES = ("status", "verdict", "alarm", "code", "files", "bytes")
_RUNS = ("run", "kind", "why", "started", "ended", "found", "unchanged", "known", "ok", "skipped", "errors", "alarms")


@click.command("list")
@click.argument("paths", nargs=-1, metavar="[PATH...]", type=click.Path(path_type=bytes))
@index_option
@format_option
@click.option("--verdict", multiple=True, help="Only files with this verdict. May be given several times.")
@click.option(
    "--status", multiple=True, type=click.Choice(["ok", "skipped", "error"]), help="Only files with this status."
)
@click.option("--code", multiple=True, help="Only files without scores for this reason.")
@click.option("--alarm", is_flag=True, help="Only alarms.")
@click.option("--overridden", is_flag=True, help="Only files whose verdict is an override.")
@click.option("--run", type=RowNumber, help="Only files that got this outcome in this run.")
@click.option("--gone", is_flag=True, help="Only files that no longer exist; they are left out otherwise.")
@click.option("--limit", type=RowNumber, help="Largest number of files.")
def list_files(paths: tuple[bytes, ...], index: Path, form: str, **rest: Any) -> None:
    """List files and their outcomes, below PATH or all.

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
        write(files(opened, chosen), _LISTED_AS_TEXT if form == "text" else _LISTED, form)


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(path_type=bytes))
@index_option
@format_option
def show(paths: tuple[bytes, ...], index: Path, form: str) -> int:
    """Show all records of a file: scores, identity, history, actions and other paths of the same content.

    Exit 1 when a PATH is not in the index.

    Example: nsfwd index show /srv/uploads/a.jpg
    """
    from nsfwd.scanning.index.database import Index
    from nsfwd.scanning.reports.records import file

    with Index(index, write=False) as opened:
        known = [(path, file(opened, os.path.abspath(path))) for path in paths]  # noqa: PTH100
        rows = [row for _, row in known if row is not None]
        if form == "text":
            for row in rows:
                click.echo("\n".join(_lines(row)))
        else:
            write(rows, tuple(dict.fromkeys(key for row in rows for key in row)), form)
    missing = [path for path, row in known if row is None]
    for path in missing:
        notice(f"{escape(os.fsdecode(path))}: not in the index")
    return exit_codes.FAILED if missing else exit_codes.OK


def _part(name: str, value: Any) -> str:
    return f"{value} hard link{'s' if value > 1 else ''}" if name == "links" else str(value)


_SAID = ("path", "path_bytes", "verdict", "alarm", "label", "score")
"""Columns that the first lines show."""


def _judgement(row: dict[str, Any]) -> str:
    from nsfwd.cli.options.output_formats import judgement
    from nsfwd.client.results import graded

    shares: dict[str, float] = next(iter((row["scores"] or {}).values()), {})
    grade = graded(row["verdict"], None if row["override"] else row["score"])
    return judgement(grade, row["label"], shares.get(row["label"]), alarm=row["alarm"], override=row["override"])


def _lines(row: dict[str, Any]) -> Iterator[str]:
    yield row["path"] if "path_bytes" in row else escape(row["path"])
    if row["verdict"]:
        yield f"  verdict: {escape(_judgement(row))}"
    for key, value in row.items():
        if key in _SAID or value is None or value == []:
            continue
        if isinstance(value, list):
            yield f"  {key}:"
            for each in value:
                text = each if isinstance(each, str) else "  ".join(_part(*item) for item in each.items() if item[1])
                yield f"    {escape(text)}"
        else:
            is_json = isinstance(value, dict)  # which escapes by itself
            yield f"  {key}: {escape_json(json.dumps(value, ensure_ascii=False)) if is_json else escape(str(value))}"


@click.command()
@index_option
@format_option
@click.option(
    "--runs", "number", type=click.IntRange(0, 1_000_000), default=10, show_default=True, help="Runs to show."
)
def stats(index: Path, form: str, number: int) -> None:
    """Count files by outcome, and show the last runs: times, reason of the end, and counts.

    As csv and ndjson the outcomes alone; as json everything, with daemon, model and policy of each run.

    Example: nsfwd index stats --format json | jq .runs[0]
    """
    from nsfwd.scanning.index.database import Index
    from nsfwd.scanning.reports.records import outcomes, runs, totals

    with Index(index, write=False) as opened:
        if form in ("csv", "ndjson"):
            write(outcomes(opened), _OUTCOMES, form)
            return
        fields = {"index": totals(opened), "outcomes": list(outcomes(opened)), "runs": list(runs(opened, number))}
        if form == "json":
            click.echo(escape_json(json.dumps(fields, indent=2, ensure_ascii=False)))
            return
        held = fields["index"]
        assert isinstance(held, dict)
        click.echo(
            f"{opened.path}: {format_count(held['files'])} files ({format_count(held['gone'])} no longer exist) in"
            f" {format_count(held['directories'])} directories ({held['unreadable']} unreadable);"
            f" {format_count(held['contents'])} contents scored; {held['bytes'] / 1e6:.1f} MB\n"
        )
        write(outcomes(opened), _OUTCOMES, form)
        if number:
            click.echo()
            write(runs(opened, number), _RUNS, form)
