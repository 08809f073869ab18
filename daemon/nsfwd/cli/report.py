"""``nsfwd report``: an index as a page for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nsfwd.cli.options.default_paths import index_option

if TYPE_CHECKING:
    from nsfwd.scanning.reports.report import Shown


def pixels_option(command: click.decorators.FC) -> click.decorators.FC:
    """Add ``--pixels``, which every page with pictures has."""
    return click.option(
        "--pixels",
        type=click.Choice(["clear", "blurred", "none"]),
        default="clear",
        show_default=True,
        help="clear: a click makes a picture clear; blurred: nothing in the file can; none: no pictures.",
    )(command)


@click.command()
@index_option
@click.option(
    "--html", "output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The file to write."
)
@click.option(
    "-n", "worst", type=click.IntRange(0, 1_000_000), default=100, show_default=True, help="How many pictures."
)
@click.option(
    "--verdict", "verdicts", multiple=True, help="Pictures with this verdict only. May be given several times."
)
@pixels_option
def report(index: Path, output: Path, worst: int, verdicts: tuple[str, ...], pixels: Shown) -> None:
    """Write a page about an index: counts, runs, how scores are spread, and the worst pictures first.

    The page is one file, for its owner alone (0600), and asks no network. Pictures in it are small and blurred until
    they are clicked; they are made by a decoder process that is sealed as the daemon's are.

    \b
    Example:
      nsfwd report --html report.html
      nsfwd report --html report.html --verdict review -n 500 --pixels blurred
    """
    from nsfwd.scanning.index.database import Index
    from nsfwd.scanning.reports.report import ReportOptions
    from nsfwd.scanning.reports.report import report as page
    from nsfwd.scanning.trees.file_io import private

    with Index(index, write=False) as opened, private(output) as out:
        for piece in page(opened, ReportOptions(worst, pixels, verdicts)):
            out.write(piece.encode("utf-8", "replace"))
    click.echo(f"{output} is written", err=True)
