"""``cli``: the cost of the command line beside the daemon: starting, one file, a thousand photos, a long list."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench import corpus, daemon, figures, machine
from bench.load import Load, Ndjson
from bench.session import CACHE, Session
from nsfwd.client import Client

NSFWD = str(Path(sys.executable).with_name("nsfwd"))
"""The console script, as a user starts it."""

PHOTOS = 1000
STARTS = 15
"""Interleaved starts of each command: they take tenths of a second, and a shared machine disturbs some."""
LISTS = (10_000, 100_000)
"""Paths of a short list and of a long one."""


def measure(session: Session) -> None:
    """Print what a start, one file and a directory cost, and the memory that a list takes."""
    photos = corpus.make(CACHE / "pictures", "small", PHOTOS)
    with daemon.Nsfwd(
        session.directory, bundle=session.bundle, models_dir=session.models_dir, flags=session.flags
    ) as server:
        server.wait_ready()
        _starts(session, server, photos[0])
        _directory(session, server, photos)
    _lists(session)


def _starts(session: Session, server: daemon.Nsfwd, photo: Path) -> None:
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import nsfwd.client": [sys.executable, "-c", "import nsfwd.client"],
        "nsfwd scan --help": [NSFWD, "scan", "--help"],
        "nsfwd scan FILE": [NSFWD, "scan", "--connect", f"unix:{server.unix}", str(photo)],
    }
    walls: dict[str, list[float]] = {name: [] for name in commands}
    scans: list[float] = []
    with Client(f"unix:{server.unix}") as client:
        for command in commands.values():
            _run(command)  # compiles what is not yet
        for number in range(STARTS):
            session.say(f"cli: starts, round {number + 1} of {STARTS}")
            for name, command in commands.items():
                walls[name].append(_run(command))
            began = time.perf_counter()
            client.scan(photo).raise_for_status()
            scans.append(time.perf_counter() - began)
    bare, scan = figures.median(walls["python -c pass"]), figures.median(scans)
    rows = []
    for name in commands:
        wall = figures.median(walls[name])
        more = wall - (scan if name == "nsfwd scan FILE" else bare)
        rows.append({"command": name, "wall ms": wall * 1e3, "more ms": more * 1e3})
    session.report(
        "command line: starts",
        rows,
        f"Medians of {STARTS} interleaved rounds. More: than a bare interpreter; a file: than its scan over an open "
        f"connection ({scan * 1e3:.1f} ms).",
    )


def _directory(session: Session, server: daemon.Nsfwd, photos: Sequence[Path]) -> None:
    load = Load(server.unix, Ndjson(), 64)
    load.closed(photos[:100])
    command = [NSFWD, "scan", "-q", "-r", "--connect", f"unix:{server.unix}", str(photos[0].parent)]
    count = len(list(photos[0].parent.iterdir()))
    ours, daemons = [], []
    for number in range(session.rounds):
        session.say(f"cli: {count} photos, round {number + 1} of {session.rounds}")
        daemons.append(load.closed(photos).rate)
        ours.append(count / _run(command))
    load.close()
    row = {
        "photos": count,
        "nsfwd scan -r img/s": figures.median(ours),
        "daemon img/s": figures.median(daemons),
        "ratio": figures.ratio(ours, daemons),
    }
    session.report(
        "command line: a directory",
        [row],
        "The daemon's own rate: the load generator, c = 64. The command's counts its start and its end. "
        f"Ratio: median and quartiles of {session.rounds} interleaved rounds.",
    )


def _lists(session: Session) -> None:
    models = session.echo_models()
    rows = []
    with daemon.Nsfwd(session.directory, bundle="echo", models_dir=models, engine="echo", null_decoder=True) as server:
        server.wait_ready()
        for paths in LISTS:
            session.say(f"cli: a list of {paths} paths")
            listed = session.directory / "list"
            listed.write_text("".join(f"/srv/pictures/{number:06}.jpg\n" for number in range(paths)))
            command = [NSFWD, "scan", "-q", "--connect", f"unix:{server.unix}", "--files-from", str(listed)]
            memory: list[float] = []
            wall = _run(command, memory)
            rows.append({"paths": paths, "peak memory MB": max(memory), "paths/s": paths / wall})
    session.report("command line: a list of paths", rows, "Echo engine, decoders that open nothing.")


def _environment() -> dict[str, str]:
    """A user's environment: installed modules are compiled once, not again at each start."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _run(command: Sequence[str], memory: list[float] | None = None) -> float:
    """Run it to its end; return its seconds.

    Args:
        memory: gets the most memory it ever had in MB, as often as it can be looked at.

    Raises:
        RuntimeError: it found no verdict for something, or failed.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=_environment()
    )
    while memory is not None and process.poll() is None:
        memory.append(machine.peak_mb(process.pid))
        time.sleep(0.02)
    said = process.communicate()[1]
    if process.returncode not in (0, 1):  # 1 is an alarm
        raise RuntimeError(f"ended with {process.returncode}: {' '.join(command)}\n{said.decode()[-3000:]}")
    return time.perf_counter() - began
