"""``nsfwd index show``: all that an index knows of a file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from nsfwd.cli.options import exit_codes
from nsfwd.cli.options.default_paths import index_option
from nsfwd.cli.tables import FORMATS, write
from nsfwd.escaping import escape, visible


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(path_type=bytes))
@index_option
@click.option("--format", "spelling", type=click.Choice(FORMATS), default="text", show_default=True)
def show(paths: tuple[bytes, ...], index: Path, spelling: str) -> int:
    """Show all that is known of a file: scores, identity, history, actions and other paths of the same content.

    Exit 1 when nothing is known of one of them.

    Example: nsfwd index show /srv/uploads/a.jpg
    """
    from nsfwd.scanning.index.database import Index
    from nsfwd.scanning.reports.records import file

    with Index(index, write=False) as opened:
        known = [(path, file(opened, os.path.abspath(path))) for path in paths]  # noqa: PTH100
        rows = [row for _, row in known if row is not None]
        if spelling == "text":
            for row in rows:
                click.echo("\n".join(_lines(row)))
        else:
            write(rows, tuple(dict.fromkeys(key for row in rows for key in row)), spelling)
    missing = [path for path, row in known if row is None]
    for path in missing:
        click.echo(f"nsfwd: {escape(os.fsdecode(path))}: not in the index", err=True)
    return exit_codes.FAILED if missing else exit_codes.OK


def _part(name: str, value: Any) -> str:
    return f"{value} hard link{'s' if value > 1 else ''}" if name == "links" else str(value)


_SAID = ("path", "path_bytes", "verdict", "alarm", "label", "score")
"""What the first lines say."""


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
                told = each if isinstance(each, str) else "  ".join(_part(*item) for item in each.items() if item[1])
                yield f"    {escape(told)}"
        else:
            is_json = isinstance(value, dict)  # which escapes by itself
            yield f"  {key}: {visible(json.dumps(value, ensure_ascii=False)) if is_json else escape(str(value))}"
