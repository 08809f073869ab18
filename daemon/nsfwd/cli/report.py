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
        help="Pictures in the page: clear after a click, blurred for ever, or none.",
    )(command)


@click.command()
@index_option
@click.option("--html", "output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="File to write.")
@click.option(
    "-n", "worst", type=click.IntRange(0, 1_000_000), default=100, show_default=True, help="Number of pictures."
)
@click.option(
    "--verdict", "verdicts", multiple=True, help="Only pictures with this verdict. May be given several times."
)
@pixels_option
def report(index: Path, output: Path, worst: int, verdicts: tuple[str, ...], pixels: Shown) -> None:
    """Write a report of an index as a page: counts, runs, the distribution of scores, and pictures, the worst first.

    The page is one file, readable by its owner alone (0600), and needs no network. Its pictures are small, and blurred
    until they are clicked; a decoder process in the same sandbox as the daemon's makes them.

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
    click.echo(f"wrote {output}", err=True)
