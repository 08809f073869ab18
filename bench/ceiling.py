"""``limit``: the most this machine can do: the same decoding and engine without a server, at the best setting."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import figures, machine
from bench.session import REPOSITORY, Session


@dataclass(frozen=True)
class Setting:
    """How decoding and engine share the machine: processes, and in each of them threads and an engine."""

    name: str
    processes: int
    threads: int
    engine_threads: int


SERIAL = Setting("serial", 1, 1, 0)


def settings() -> list[Setting]:
    """Those worth trying: one engine under more and more threads, and one process a core that shares nothing."""
    cores = machine.cores()
    shared = [Setting(f"{factor * cores} threads", 1, factor * cores, 0) for factor in (1, 2, 4)]
    return [*shared, Setting(f"{cores} processes", cores, 1, 1)]


_CHOSEN: dict[str, tuple[Setting, list[Mapping[str, object]]]] = {}


@dataclass
class Measured:
    """The result of one round: images a second, CPU seconds an image, latencies in seconds."""

    rate: float
    cpu: float
    latencies: list[float]


class RawLoop:
    """The processes of one setting, kept between rounds."""

    def __init__(self, session: Session, setting: Setting) -> None:
        command = [sys.executable, "-m", "bench.raw_loop", str(session.bundle_directory)]
        command += ["--threads", str(setting.threads), "--engine-threads", str(setting.engine_threads)]
        command += ["--precision", session.precision] if session.precision else []
        self._children = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY)
            for _ in range(setting.processes)
        ]
        greetings = [self._read(child) for child in self._children]
        self.precision = str(greetings[0]["ready"])

    @property
    def processes(self) -> list[int]:
        """Their process ids."""
        return [child.pid for child in self._children]

    def __enter__(self) -> RawLoop:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            assert child.stdin is not None
            child.stdin.close()
        for child in self._children:
            child.wait()

    def run(self, paths: Sequence[Path]) -> Measured:
        """Score ``paths``, divided among the processes."""
        share = len(self._children)
        for number, child in enumerate(self._children):
            assert child.stdin is not None
            child.stdin.write(json.dumps({"paths": list(map(str, paths[number::share]))}).encode() + b"\n")
            child.stdin.flush()
        told = [self._read(child) for child in self._children]
        seconds = max(one["seconds"] for one in told)
        cpu = sum(one["cpu"] for one in told)
        return Measured(len(paths) / seconds, cpu / len(paths), [x for one in told for x in one["latencies"]])

    @staticmethod
    def _read(child: subprocess.Popen[bytes]) -> dict[str, Any]:
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            raise RuntimeError("a process of the raw loop ended; its last lines are above")
        found: dict[str, Any] = json.loads(line)
        return found


def choose(session: Session, kind: str) -> tuple[Setting, list[Mapping[str, object]]]:
    """Try every setting, once a run; return the best of them and the table."""
    if kind in _CHOSEN:
        return _CHOSEN[kind]
    paths = session.pictures(kind)[: session.count(300)]
    rows: list[Mapping[str, object]] = []
    best, best_rate = SERIAL, 0.0
    for setting in (SERIAL, *settings()):
        session.say(f"ceiling: {setting.name}, {kind}")
        with RawLoop(session, setting) as loop:
            loop.run(paths[:20])
            rounds = [loop.run(paths) for _ in range(min(3, session.rounds))]
        rate = figures.median([one.rate for one in rounds])
        p50 = figures.percentile([x for one in rounds for x in one.latencies], 0.5)
        rows.append(
            {
                "pictures": kind,
                "setting": setting.name,
                "img/s": rate,
                "p50 ms": p50 * 1e3,
                "CPU ms/img": figures.median([one.cpu for one in rounds]) * 1e3,
                "by serial": rate / float(str(rows[0]["img/s"])) if rows else 1.0,
                "precision": loop.precision,
            }
        )
        if setting is not SERIAL and rate > best_rate:
            best, best_rate = setting, rate
    _CHOSEN[kind] = best, rows
    return best, rows


def measure(session: Session) -> None:
    """Print the ceiling for each kind of pictures at every setting."""
    for kind in session.kinds:
        best, rows = choose(session, kind)
        session.report(f"ceiling, {kind}", rows, f"Best setting: {best.name}.")
