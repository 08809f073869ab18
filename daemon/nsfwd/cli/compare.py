"""``nsfwd models compare``: the verdicts that would change if another model judged the files of an index."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from nsfwd.cli.options.default_paths import config_option, index_option
from nsfwd.cli.report import pixels_option
from nsfwd.escaping import escape_json

if TYPE_CHECKING:
    from nsfwd.config import Settings
    from nsfwd.local import Scanner
    from nsfwd.scanning.reports.model_comparison import Comparison
    from nsfwd.scanning.reports.report import Shown


@click.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@index_option
@click.option("-n", "count", type=click.IntRange(1), default=500, show_default=True, help="Number of files.")
@click.option(
    "--verdict",
    "verdicts",
    multiple=True,
    help="Verdict of files to sample. May be given several times.  [default: all]",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of the sample: another number draws other files."
)
@click.option("--list", "listed", is_flag=True, help="List every file whose verdict flips.")
@click.option(
    "--html", "output", type=click.Path(path_type=Path, dir_okay=False), help="Page of the flips to write as well."
)
@pixels_option
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option(
    "--models-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory of bundles.  [default: the setting models_dir]",
)
@config_option
def compare(first: str, second: str, index: Path, output: Path | None, pixels: Shown, **rest: Any) -> None:
    """Score a sample of an index with models A and B: verdicts that flip in both directions, and the cost of an image.

    Scores in this process and its children, without the daemon and without overrides; each model under its own policy,
    or the site's for it. The sample is drawn equally from each tenth of the score; the number of files of the whole
    index that would flip is estimated from it, with an interval of 95 %.

    \b
    Example:
      nsfwd models compare nsfw-mobilenet-v2-140 nsfw-inception-v3 -n 200 --html flips.html
    """
    from nsfwd.config import find_file, load_settings
    from nsfwd.scanning.index.database import Index
    from nsfwd.scanning.reports.model_comparison import compared, page_of, scored, warm
    from nsfwd.scanning.reports.sampling import sample
    from nsfwd.scanning.trees.file_io import private

    given = {"models_dir": str(rest["models_dir"])} if rest["models_dir"] else {}
    settings = load_settings(find_file(rest["config"], os.environ), os.environ, given)
    with Index(index, write=False) as opened:
        drawn = sample(opened, rest["count"], verdicts=rest["verdicts"], seed=rest["seed"])
    paths = [one.path for one in drawn]
    scanners = [_scanner(name, settings) for name in (first, second)]
    warm(paths)
    passes = []
    for name, scanner in zip((first, second), scanners, strict=True):
        with scanner:
            passes.append(scored(name, scanner, paths))
    comparison = compared(drawn, *passes)
    _print(comparison, rest["form"], listed=rest["listed"])
    if output is not None:
        with private(output) as out:
            for piece in page_of(comparison, pixels):
                out.write(piece.encode("utf-8", "replace"))
        click.echo(f"wrote {output}", err=True)


def _scanner(name: str, settings: Settings) -> Scanner:
    """Serve one bundle under the short name, policy and limits that the settings have for it.

    Args:
        name: as of ``bundle_store.locate``.

    Raises:
        BundleError: the bundle is missing.
    """
    from nsfwd.bundles.bundle_store import locate, open_bundle
    from nsfwd.config import parse_model
    from nsfwd.errors import BundleError
    from nsfwd.local import Scanner

    directory = Path(os.path.abspath(locate(settings, name)))  # noqa: PTH100 -- a link keeps its name
    served = dict(map(parse_model, settings.models))
    short = served.get(directory.name) or open_bundle(directory).name
    changes = {
        "models_dir": str(directory.parent),
        "given": {**settings.given, "models_dir": name},
        "models": (f"{directory.name}={short}",),
        "policy": {key: table for key, table in settings.policy.items() if key in (short, directory.name)},
        "overrides": "none",
        "cache": "off",
    }
    try:
        return Scanner(settings=msgspec.structs.replace(settings, **changes))
    except ValueError as error:  # of the directory's name
        raise BundleError(f"{directory}: {error}") from None


def _print(comparison: Comparison, form: str, *, listed: bool) -> None:
    from nsfwd.cli.options.tables import write
    from nsfwd.scanning.reports.model_comparison import COSTS, FLIPS, costs, flipped
    from nsfwd.scanning.trees.file_entry import path_fields

    flips = [
        {**path_fields(flip.path), "first": flip.first._asdict(), "second": flip.second._asdict()}
        for flip in (comparison.flips if listed or form == "json" else ())
    ]
    if form == "json":
        fields = {
            "files": comparison.files,
            "drawn": comparison.drawn,
            "unscored": comparison.unscored,
            "models": [
                {key: value for key, value in asdict(done).items() if key != "said"} | {"cost": done.cost}
                for done in (comparison.first, comparison.second)
            ],
            "verdicts": [dict(zip(FLIPS, row, strict=True)) for row in flipped(comparison)],
            "flips": flips,
        }
        click.echo(escape_json(json.dumps(fields, indent=2, ensure_ascii=False)))
        return
    click.echo(f"{comparison.drawn} of {comparison.files} files; {comparison.unscored} not scored by both\n")
    write((dict(zip(COSTS, row, strict=True)) for row in costs(comparison)), COSTS, "text")
    click.echo()
    write((dict(zip(FLIPS, row, strict=True)) for row in flipped(comparison)), FLIPS, "text")
    if listed:
        click.echo()
        rows = (
            {"first": _short(flip["first"]), "second": _short(flip["second"]), "path": flip["path"]} for flip in flips
        )
        write(rows, ("first", "second", "path"), "text")


def _short(said: Any) -> str:
    return f"{said['verdict']} {said['score']:.3f}"
