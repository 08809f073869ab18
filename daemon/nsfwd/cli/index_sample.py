"""``nsfwd index sample`` and ``estimate``: draw files for a person to label, and estimate figures of all files."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nsfwd.cli.options.default_paths import index_option, output_option
from nsfwd.cli.options.param_types import RowNumber

if TYPE_CHECKING:
    from nsfwd.scanning.reports.intervals import Estimate
    from nsfwd.scanning.reports.sampling import SampleFigures


@click.command()
@index_option
@click.option(
    "--verdict", "verdicts", multiple=True, help="Verdict to draw from. May be given several times.  [default: all]"
)
@click.option("-n", "count", type=RowNumber, default=500, show_default=True, help="Files in the sample.")
@click.option(
    "--strata",
    type=click.Choice(["score", "verdict"]),
    default="score",
    show_default=True,
    help="Draw equally from each tenth of the score of each verdict, or from each verdict.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of the sample: another number draws other files."
)
@output_option
def sample(index: Path, verdicts: tuple[str, ...], count: int, strata: str, seed: int, output: Path | None) -> None:
    """Draw files for a person to label, as CSV with an empty column: label.

    Write yes there where the picture should have been flagged, and no where not; then: nsfwd index estimate.
    The same index and seed draw the same files.

    \b
    Example:
      nsfwd index sample -n 500 --seed 1 -o sample.csv
      nsfwd index sample --verdict safe --strata score -o misses.csv
    """
    from nsfwd.scanning.index.database import Index
    from nsfwd.scanning.reports.sampling import sample as draw
    from nsfwd.scanning.reports.sampling import write
    from nsfwd.scanning.trees.file_io import private

    with Index(index, write=False) as opened:
        drawn = draw(opened, count, verdicts=verdicts, by_score=strata == "score", seed=seed)
        with nullcontext(sys.stdout.buffer) if output is None else private(output) as out:
            write(drawn, out)
    if output is not None:
        click.echo(f"wrote {len(drawn)} files of {len({one.stratum for one in drawn})} strata to {output}", err=True)


@click.command()
@click.argument("labelled", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--flagged",
    multiple=True,
    metavar="VERDICT",
    help="Verdict that counts as flagged. May be given several times.  [default: alarms]",
)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def estimate(labelled: Path, flagged: tuple[str, ...], form: str) -> None:
    """Estimate from a labelled sample: precision, misses and prevalence, each with an interval of 95 %.

    The interval of a stratified sample: Clopper and Pearson's of each stratum, put together by MOVER (Zou, Huang and
    Zhang 2009).

    \b
    Example:
      nsfwd index estimate sample.csv
      nsfwd index estimate sample.csv --flagged review --flagged sensitive
    """
    from nsfwd.scanning.reports.sampling import estimate as figures_of

    with labelled.open("rb") as table:
        figures = figures_of(table, flagged=flagged)
    if form == "json":
        fields = {
            name: value._asdict() if hasattr(value, "_asdict") else value for name, value in asdict(figures).items()
        }
        click.echo(json.dumps(fields, indent=2))
    else:
        _print(figures)


def _print(figures: SampleFigures) -> None:
    click.echo(f"{figures.labelled} of {figures.drawn} files labelled; they stand for {figures.files} files,")
    click.echo(f"{figures.flagged} of them flagged. In 95 of 100 samples the truth lies between:\n")
    rows = [
        ("prevalence", "of all files should be flagged", figures.prevalence),
        ("precision", "of the flagged rightly are", figures.precision),
        ("misses", "of those not flagged should be", figures.misses),
    ]
    for name, text, share in rows:
        click.echo(f"{name:11} {_share(share)}  {text}".rstrip())
    if figures.missed is not None:
        value, low, high = (round(number) for number in figures.missed)
        click.echo(f"{'':11} {value} files ({low} to {high})")


def _share(share: Estimate | None) -> str:
    if share is None:
        return "-  (not known from this sample)"
    return f"{share.value:.2%} ({share.low:.2%} to {share.high:.2%})"
