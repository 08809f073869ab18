"""``peers``: other servers on the same model, precision and decoding, one after the other in each round."""

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
from bench.load import Http, Load, Ndjson, Result, Speech
from bench.rooms import BUNDLE, PRECISION
from bench.session import CACHE, HERE, REPOSITORY, Session

CONCURRENCY = (1, 8, 64)
VENV = CACHE / "peers"


@dataclass
class Contender:
    """One server of the comparison, running."""

    name: str
    process: daemon.Process
    address: daemon.Address
    speech: Speech
    ready: float = 0.0
    memory: float = 0.0
    found: dict[int, list[Result]] = field(default_factory=lambda: {c: [] for c in CONCURRENCY})
    cpu: dict[int, list[float]] = field(default_factory=lambda: {c: [] for c in CONCURRENCY})


def measure(session: Session) -> None:
    """Print everybody's figures, and ours over theirs."""
    python = environment(session) if set(session.peers) else None
    for kind in session.kinds[:1] if session.quick else session.kinds:
        with contextlib.ExitStack() as stack:
            contenders = [_nsfwd(session, stack)]
            contenders += [_peer(session, stack, name, python) for name in session.peers if python]
            contenders.append(_ancestor(session, stack))
            _rounds(session, kind, contenders)
            session.report(f"peers, {kind} pictures", [row for one in contenders for row in _rows(one, contenders[0])])


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
        if subprocess.run(pip, check=False).returncode:
            session.say("peers: they cannot be installed here; only nsfwd and the ancestor are measured")
            return None
        stamp.write_text(wanted.read_text())
    return python


def _nsfwd(session: Session, stack: contextlib.ExitStack) -> Contender:
    server = stack.enter_context(
        daemon.Nsfwd(session.directory, bundle=session.bundle, models_dir=session.models_dir, flags=session.flags)
    )
    ready = server.wait_ready()
    return Contender("nsfwd", server, server.unix, Ndjson(), ready)


def _peer(session: Session, stack: contextlib.ExitStack, name: str, python: Path) -> Contender:
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


def _ancestor(session: Session, stack: contextlib.ExitStack) -> Contender:
    port = daemon.free_port()
    command = [sys.executable, "-m", "bench.ancestor", str(port)]
    process = stack.enter_context(daemon.Process(command, _environment(session)))
    return _awaited(session, Contender("the ancestor", process, ("127.0.0.1", port), Ndjson()))


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


def _awaited(session: Session, one: Contender) -> Contender:
    """Wait for the first right answer."""
    session.say(f"peers: starting {one.name}")
    paths = session.pictures("small")[:1]
    while time.monotonic() - one.process.started < daemon.START:
        one.process.check()
        with contextlib.suppress(OSError, RuntimeError):
            load = Load(one.address, one.speech, 1)
            try:
                load.closed(paths)
            finally:
                load.close()
            one.ready = time.monotonic() - one.process.started
            return one
        time.sleep(0.05)
    raise RuntimeError(f"{one.name} gave no answer within {daemon.START:g} s")


def _rounds(session: Session, kind: str, contenders: Sequence[Contender]) -> None:
    paths = session.pictures(kind)
    for one in contenders:
        _asked(one, paths[:40], 8)
    for number in range(session.rounds):
        for one in (*contenders[number:], *contenders[:number]):  # nobody is always first
            session.say(f"peers: {kind}, round {number + 1} of {session.rounds}, {one.name}")
            slow = 4 if one.name == "the ancestor" else 1
            for c in CONCURRENCY:
                some = paths[: max(session.count(200 if c == 1 else 600) // slow, 2 * c)]
                tree = one.process.processes()
                before = machine.cpu_seconds(tree)
                one.found[c].append(_asked(one, some, c))
                one.cpu[c].append((machine.cpu_seconds(tree) - before) / len(some))
    for one in contenders:
        one.memory = machine.memory_mb(one.process.processes())


def _asked(one: Contender, paths: Sequence[Path], c: int) -> Result:
    """Connect anew: some servers close a connection that was idle for a round. Connecting is not counted."""
    load = Load(one.address, one.speech, c)
    try:
        return load.closed(paths)
    finally:
        load.close()


def _rows(one: Contender, ours: Contender) -> list[dict[str, object]]:
    rows = []
    for c in CONCURRENCY:
        latencies = [x for result in one.found[c] for x in result.latencies]
        rows.append(
            {
                "who": one.name,
                "c": c,
                "img/s": figures.median([result.rate for result in one.found[c]]),
                "p50 ms": figures.percentile(latencies, 0.5) * 1e3,
                "p99 ms": figures.percentile(latencies, 0.99) * 1e3,
                "CPU ms/img": figures.median(one.cpu[c]) * 1e3,
                "nsfwd is faster by": figures.median_ratio(
                    [result.rate for result in ours.found[c]], [result.rate for result in one.found[c]]
                ),
                "memory MB": one.memory,
                "start s": one.ready,
            }
        )
    return rows
