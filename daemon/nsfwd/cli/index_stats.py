"""``nsfwd index stats``: how many files came to what, and the last runs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from nsfwd.cli.options.default_paths import index_option
from nsfwd.cli.tables import FORMATS, write
from nsfwd.quantities import format_count

OUTCOMES = ("status", "verdict", "alarm", "code", "files", "bytes")
RUNS = ("run", "kind", "why", "started", "ended", "found", "unchanged", "known", "ok", "skipped", "errors", "alarms")


@click.command()
@index_option
@click.option("--format", "spelling", type=click.Choice(FORMATS), default="text", show_default=True)
@click.option(
    "--runs", "number", type=click.IntRange(0, 1_000_000), default=10, show_default=True, help="Runs to show."
)
def stats(index: Path, spelling: str, number: int) -> None:
    """Count files by what they came to, and show the last runs: when, why they ended, and their counts.

    As csv and ndjson it is the outcomes alone; with --format json all of it, with daemon, model and policy of each run.

    Example: nsfwd index stats --format json | jq .runs[0]
    """
    from nsfwd.scanning.index.database import Index
    from nsfwd.scanning.reports.records import outcomes, runs, totals

    with Index(index, write=False) as opened:
        if spelling in ("csv", "ndjson"):
            write(outcomes(opened), OUTCOMES, spelling)
            return
        told = {"index": totals(opened), "outcomes": list(outcomes(opened)), "runs": list(runs(opened, number))}
        if spelling == "json":
            click.echo(json.dumps(told, indent=2, ensure_ascii=False))
            return
        held = told["index"]
        assert isinstance(held, dict)
        click.echo(
            f"{opened.path}: {format_count(held['files'])} files ({format_count(held['gone'])} more are gone) in"
            f" {format_count(held['directories'])} directories ({held['unreadable']} unreadable);"
            f" {format_count(held['contents'])} contents scored; {held['bytes'] / 1e6:.1f} MB\n"
        )
        write(outcomes(opened), OUTCOMES, spelling)
        if number:
            click.echo()
            write(runs(opened, number), RUNS, spelling)
