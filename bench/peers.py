"""``peers``: other servers on the same model, precision and decoding, in turn, and the naive server."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import daemon, figures, machine
from bench.load import Dialect, Http, Load, Ndjson, Result
from bench.session import CACHE, HERE, REPOSITORY, Session
from bench.shared import BUNDLE, PRECISION

NOTE = "By theirs, by ours: how many times as fast nsfwd is; median and quartiles of the ratios round by round."
CONCURRENCY = (1, 8, 64)
NAIVE = "the naive server"
SLOW = ("ray", NAIVE)
"""They have their turn in every third round."""
VENV = CACHE / "peers"


@dataclass
class Contender:
    """One server of the comparison, running."""

    name: str
    process: daemon.Process
    address: daemon.Address
    dialect: Dialect
    ready: float = 0.0
    memory: float = 0.0
    found: dict[int, dict[int, Result]] = field(default_factory=lambda: {c: {} for c in CONCURRENCY})
    cpu: dict[int, dict[int, float]] = field(default_factory=lambda: {c: {} for c in CONCURRENCY})
    others: dict[int, list[float]] = field(default_factory=lambda: {c: [] for c in CONCURRENCY})

    @property
    def slow(self) -> bool:
        """Whether a round of it would take as long as one of all the others."""
        return self.name in SLOW

    def ask(self, paths: Sequence[Path], c: int) -> Result:
        """Connect again: some servers close a connection that was idle for a round. Connecting is not counted."""
        load = Load(self.address, self.dialect, c)
        try:
            return load.closed(paths)
        finally:
            load.close()

    def round(self, number: int, c: int, paths: Sequence[Path]) -> None:
        """Measure one round at ``c`` and keep it."""
        meter = machine.Meter(self.process.processes())
        self.found[c][number] = self.ask(paths, c)
        cpu, others = meter.read()
        self.cpu[c][number] = cpu / len(paths)
        self.others[c].append(others)


def measure(session: Session) -> None:
    """Print everybody's figures, and ours over theirs."""
    python = environment(session) if set(session.peers) else None
    for kind in session.kinds[:1] if session.quick else session.kinds:
        with contextlib.ExitStack() as stack:
            contenders = [_nsfwd(session, stack)]
            if python is not None:
                for name in session.peers:
                    contenders += _peer(session, stack, name, python)
            contenders += _naive_server(session, stack)
            _rounds(session, kind, contenders)
            rows = [row for one in contenders for row in _rows(one, contenders[0])]
            others = [share for one in contenders for shares in one.others.values() for share in shares]
            session.report(f"peers, {kind}", rows, NOTE + figures.crowded(others))
            sizes = [{"who": one.name, "memory MB": one.memory, "start s": one.ready} for one in contenders]
            session.report(f"peers: size and start, {kind}", sizes, "Behind the rounds; to the first right answer.")


def environment(session: Session) -> Path | None:
    """The Python of the peers' virtual environment, made where their list is new; None where it cannot be made."""
    python = VENV / "bin" / "python"
    stamp = VENV / ".installed"
    lock, wanted = REPOSITORY / "requirements.lock", HERE / "peers.txt"
    if not stamp.exists() or stamp.read_text() != wanted.read_text():
        session.say(f"peers: installing them into {VENV}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        pip += ["-c", str(lock), "-r", str(wanted)]
        said = subprocess.run(pip, check=False, capture_output=True, text=True)
        if said.returncode:
            why = next((line for line in said.stderr.splitlines() if line.startswith("ERROR")), "pip failed")
            session.say(f"peers: not installed, only nsfwd and the naive server are measured ({why})")
            return None
        stamp.write_text(wanted.read_text())
    return python


def _nsfwd(session: Session, stack: contextlib.ExitStack) -> Contender:
    server = stack.enter_context(
        daemon.Nsfwd(session.directory, bundle=session.bundle, models_dir=session.models_dir, flags=session.flags)
    )
    ready = server.wait_ready()
    return Contender("nsfwd", server, server.unix, Ndjson(), ready)


def _peer(session: Session, stack: contextlib.ExitStack, name: str, python: Path) -> list[Contender]:
    port = daemon.free_port()
    target = "/predict"
    if name == "bentoml":
        command = [str(python.parent / "bentoml"), "serve", "bench.peer_bentoml:Scan", "--host", "127.0.0.1"]
        command += ["--port", str(port), "--quiet"]
    elif name == "mosec":
        command = [str(python), "-m", "bench.peer_mosec", "--address", "127.0.0.1", "--port", str(port)]
        command += ["--timeout", "120000", "--log-level", "warning"]
        target = "/inference"
    else:
        command = [str(python), "-m", f"bench.peer_{name}", str(port)]
    process = stack.enter_context(daemon.Process(command, _environment(session)))
    return _awaited(session, Contender(name, process, ("127.0.0.1", port), Http(target)))


def _naive_server(session: Session, stack: contextlib.ExitStack) -> list[Contender]:
    port = daemon.free_port()
    command = [sys.executable, "-m", "bench.naive_server", str(port)]
    process = stack.enter_context(daemon.Process(command, _environment(session)))
    return _awaited(session, Contender(NAIVE, process, ("127.0.0.1", port), Ndjson()))


def _environment(session: Session) -> dict[str, str]:
    return {
        "PYTHONPATH": os.pathsep.join((str(REPOSITORY), str(REPOSITORY / "daemon"))),
        BUNDLE: str(session.bundle_directory),
        PRECISION: session.precision,
        "BENTOML_DO_NOT_TRACK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # its workers would otherwise be at 15, behind the client
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }


def _awaited(session: Session, one: Contender) -> list[Contender]:
    """Wait for the first right answer; an empty list if there is none."""
    session.say(f"peers: starting {one.name}")
    paths = session.pictures("small")[:1]
    while time.monotonic() - one.process.started < daemon.START:
        try:
            one.process.check()
        except RuntimeError as error:
            session.say(f"peers: {one.name} is left out: {str(error).splitlines()[-1]}")
            return []
        with contextlib.suppress(OSError, RuntimeError):
            one.ask(paths, 1)
            one.ready = time.monotonic() - one.process.started
            return [one]
        time.sleep(0.05)
    session.say(f"peers: {one.name} is left out: no answer within {daemon.START:g} s")
    return []


def _rounds(session: Session, kind: str, contenders: Sequence[Contender]) -> None:
    paths = session.pictures(kind)
    for one in contenders:
        one.ask(paths[:40], 8)
    for number in range(session.rounds):
        session.say(f"peers: {kind}, round {number + 1} of {session.rounds}")
        here = [one for one in contenders if not one.slow or session.rarely(number)]
        for c in figures.shuffled(CONCURRENCY, seed=number):
            for one in figures.shuffled(here, seed=number * len(CONCURRENCY) + c):
                count = session.count(200 if c == 1 else 500)
                one.round(number, c, paths[: max(count // 4, c + 8) if one.name == NAIVE else max(count, 2 * c)])
    for one in contenders:
        one.memory = machine.memory_mb(one.process.processes())


def _rows(one: Contender, ours: Contender) -> list[dict[str, object]]:
    rows = []
    for c in CONCURRENCY:
        both = [(ours.found[c][number], theirs) for number, theirs in one.found[c].items()]
        latencies = [x for _, result in both for x in result.latencies]
        p50 = [[figures.percentile(result.latencies, 0.5) for result in pair] for pair in both]
        rows.append(
            {
                "who": one.name,
                "c": c,
                "img/s": figures.median([theirs.rate for _, theirs in both]),
                "p50 ms": figures.percentile(latencies, 0.5) * 1e3,
                "p99 ms": figures.percentile(latencies, 0.99) * 1e3,
                "rate by theirs": figures.ratio([mine.rate for mine, _ in both], [theirs.rate for _, theirs in both]),
                "p50 by ours": figures.ratio([theirs for _, theirs in p50], [mine for mine, _ in p50]),
                "CPU ms/img": figures.median(list(one.cpu[c].values())) * 1e3,
                "CPU by ours": figures.ratio(list(one.cpu[c].values()), [ours.cpu[c][number] for number in one.cpu[c]]),
                "others %": figures.median(one.others[c]) * 100,
            }
        )
    return rows
