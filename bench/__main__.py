"""``python -m bench``: some measurements by name, or all of them; or an earlier run again."""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
from pathlib import Path

from bench import corpus, markdown, plot, records, targets
from bench.session import QUICK_ROUNDS, RESULTS, ROUNDS, Session

COMMANDS: dict[str, str] = {
    "limit": "the same decoding and engine without a server, at its best setting",
    "serve": "the daemon against that ceiling: closed loop at c = 1, 8, 64, 512, then an open loop",
    "peers": "mosec, LitServe, BentoML, Ray Serve and the naive server on the same model and decoding, side by side",
    "noop": "cost of protocol and pipeline for an image",
    "memory": "memory of every process, and its growth",
    "cold": "time from the start to the first right answer",
    "connections": "10,000 idle ones, and a request among them",
    "fairness": "one client's single requests while another keeps 2,000 in flight",
    "curve": "cost of an image by how many were asked, and by the size of a batch",
    "precisions": "f32, bf16 and int8 end to end, images that are scored twice included, side by side",
    "roofline": "engine against operations and bytes counted, daemon against decoding and engine (--device gpu)",
    "cli": "the command line: a start, one file, a thousand photos, a long list",
    "sweep": "a first sweep against the daemon's own rate, and a repeat over files that have not changed",
    "index": "cost of commands that read an index of a million files",
}

SHOW = {"show": "the tables and the plot of an earlier run again (--run, --markdown)"}

BESIDE = {"against": "this tree beside another one, and that one beside itself (--tree)"}

MODULES = {"limit": "ceiling", "noop": "overhead"}
"""Commands that have another name than their module."""

LONG = frozenset({"precisions", "roofline", "cli", "sweep", "index"})
"""Not of the daemon's own table: ``all --quick``, which is to end within ten minutes, leaves them out."""


def main(arguments: list[str] | None = None) -> None:
    """Run what was asked for, or show what was."""
    options = _options(arguments)
    if "show" in options.command:
        _show(options)
        return
    session = Session(
        bundle=options.bundle,
        models_dir=options.models_dir.resolve(),
        precision=options.precision,
        engine=options.engine,
        device=options.device,
        backend=options.backend,
        quick=options.quick,
        rounds=options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS),
        kinds=tuple(options.pictures.split(",")),
        photos=options.photos,
        tree=options.tree and options.tree.resolve(),
        peers=tuple(filter(None, options.peers.split(","))),
        results=options.results,
    )
    chosen = options.command
    if "all" in chosen:
        chosen = [name for name in COMMANDS if not (session.quick and name in LONG)]
    try:
        session.head()
        for name in chosen:
            importlib.import_module(f"bench.{MODULES.get(name, name)}").measure(session)
    finally:
        shutil.rmtree(session.directory, ignore_errors=True)
    reached = list(targets.reached(records.read(session.kept)))
    if reached:
        session.report(targets.NAME, reached, targets.NOTE)
    plot.draw([session.kept])
    print(f"figures: {session.kept}", file=sys.stderr)
    _write(options.markdown, records.read(session.kept))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures nsfwd on this machine. Figures are printed as Markdown tables and kept as JSON lines.",
        epilog="\n".join(f"  {name:12} {text}" for name, text in {**COMMANDS, **BESIDE, **SHOW}.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "command", nargs="+", choices=["all", *COMMANDS, *BESIDE, *SHOW], metavar="COMMAND", help="see below"
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer pictures, shorter rounds: all but the long ones in ten minutes"
    )
    parser.add_argument(
        "--rounds", type=int, default=0, help=f"interleaved rounds  [default: {ROUNDS}, quick {QUICK_ROUNDS}]"
    )
    parser.add_argument("--bundle", default=Session.bundle)
    parser.add_argument("--models-dir", type=Path, default=Session.models_dir)
    parser.add_argument("--precision", default="", help="[default: the bundle's own]")
    parser.add_argument(
        "--engine", choices=("openvino", "keras"), default="openvino", help="of roofline  [%(default)s]"
    )
    parser.add_argument("--device", choices=("cpu", "gpu"), default=Session.device, help="of roofline")
    parser.add_argument("--backend", choices=("", "tensorflow", "jax", "torch"), default="", help="of roofline's keras")
    parser.add_argument(
        "--pictures", type=_kinds, default="small,large", help="small, large, photos, joined by commas  [%(default)s]"
    )
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs to use instead, for every kind")
    parser.add_argument("--tree", type=Path, metavar="DIR", help="of against: a checkout with its own .venv")
    parser.add_argument("--peers", default="mosec,litserve,bentoml,ray", help="which, joined by commas")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument(
        "--run", type=Path, action="append", help="JSON lines to show; several are put together  [default: the latest]"
    )
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="renew the tables in FILE between their marks, or make FILE"
    )
    return parser.parse_args(arguments)


def _kinds(told: str) -> str:
    strange = [kind for kind in told.split(",") if kind not in corpus.KINDS]
    if strange:
        raise argparse.ArgumentTypeError(f"{strange[0]!r} is none of {', '.join(corpus.KINDS)}")
    return told


def _show(options: argparse.Namespace) -> None:
    """Some runs again: where two have the same table, the later one's."""
    runs = options.run or sorted(options.results.glob("*.jsonl"))[-1:]
    if not runs:
        raise SystemExit(f"no run in {options.results}")
    tables: records.Tables = {}
    for run in runs:
        tables.update(records.read(run))
    if reached := list(targets.reached(tables)):
        tables[targets.NAME] = records.Table(targets.NOTE, reached)
    for name, table in tables.items():
        print(f"### {name}\n\n{table}\n")
    plot.draw(runs)
    _write(options.markdown, tables)


def _write(target: Path | None, tables: records.Tables) -> None:
    for name in markdown.write(target, tables) if target else ():
        print(f"{target} has no marks for: {name}", file=sys.stderr)


if __name__ == "__main__":
    main()
