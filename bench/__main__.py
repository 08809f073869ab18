"""``python -m bench``: one measurement by name, or all of them."""

from __future__ import annotations

import argparse
import importlib
import shutil
from pathlib import Path

from bench.session import RESULTS, Session

COMMANDS: dict[str, str] = {
    "limit": "the same decoding and engine without a server, at its best setting",
    "serve": "the daemon against that limit: closed loop at c = 1, 8, 64, 512, then an open loop",
    "peers": "mosec, LitServe, BentoML and Ray Serve on the same model and decoding, and the ancestor, side by side",
    "noop": "what protocol and pipeline cost an image",
    "memory": "of every process, and how it grows",
    "cold": "from the start to the first right answer",
    "connections": "10,000 idle ones, and a request among them",
    "fairness": "one client's single requests while another keeps 2,000 in flight",
    "curve": "cost of an image by how many were asked, and by the size of a batch",
    "precisions": "f32, bf16 and int8 end to end, with what is scored twice, side by side",
    "cli": "the command line: a start, one file, a thousand photos, a long list",
    "sweep": "a first sweep against the daemon's own rate, and a repeat over files that have not changed",
    "index": "what an index of a million files costs those who look into the whole of it",
}

LONG = frozenset({"precisions", "cli", "sweep", "index"})
"""Not of the daemon's own table: ``all --quick``, which is to end within ten minutes, leaves them out."""


def main(arguments: list[str] | None = None) -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures nsfwd on this machine. Figures are printed as Markdown tables and kept as JSON lines.",
        epilog="\n".join(f"  {name:12} {text}" for name, text in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", nargs="+", choices=["all", *COMMANDS], metavar="COMMAND", help="see below; or all")
    parser.add_argument(
        "--quick", action="store_true", help="fewer pictures and rounds: all but the long ones in ten minutes"
    )
    parser.add_argument("--rounds", type=int, default=0, help="interleaved rounds  [default: 5, quick 3]")
    parser.add_argument("--bundle", default=Session.bundle)
    parser.add_argument("--models-dir", type=Path, default=Session.models_dir)
    parser.add_argument("--precision", default="", help="[default: the bundle's own]")
    parser.add_argument("--pictures", choices=("small", "large", "both"), default="both")
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs to use instead of pictures made by code")
    parser.add_argument("--peers", default="mosec,litserve,bentoml,ray", help="which, joined by commas")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    session = Session(
        bundle=options.bundle,
        models_dir=options.models_dir.resolve(),
        precision=options.precision,
        quick=options.quick,
        rounds=options.rounds or (3 if options.quick else 5),
        kinds=("small", "large") if options.pictures == "both" else (options.pictures,),
        photos=options.photos,
        peers=tuple(filter(None, options.peers.split(","))),
        results=options.results,
    )
    chosen = options.command
    if "all" in chosen:
        chosen = [name for name in COMMANDS if not (session.quick and name in LONG)]
    try:
        session.head()
        for name in chosen:
            importlib.import_module(f"bench.{name}").measure(session)
        from bench import plot

        plot.draw(session)
    finally:
        shutil.rmtree(session.directory, ignore_errors=True)


if __name__ == "__main__":
    main()
