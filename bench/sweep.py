"""``sweep``: a first sweep against the daemon's own rate, and a repeat over files that have not changed.

The trees of the repeat are tiny files, made here, and the index is filled as a sweep would have left it. The
command is measured as a user runs it, by its own row in the index and by the kernel's numbers of its process.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import daemon, figures, machine
from bench.load import Load, Ndjson
from bench.session import Session
from nsfwd.scanning.index.database import Index
from nsfwd.scanning.index.file_table import FileTable, RowOutcome, Settled
from nsfwd.scanning.index.runs import Run
from nsfwd.scanning.trees.file_entry import FileEntry
from nsfwd.scanning.trees.walk import Walk, WalkedTree

IN_FLIGHT = 64
FILES_A_DIRECTORY = 100
LABELS = ("drawings", "hentai", "neutral", "porn", "sexy")
ROWS = 3_000_000
LARGE = 1_000_000
ROW_BYTES = 360
"""Of an index, for one file."""


@dataclass(frozen=True)
class Swept:
    """The result of one sweep: its own seconds, those of the processors, its largest memory in MB, its counts."""

    seconds: float
    cpu: float
    memory: float
    found: int
    unchanged: int
    ok: int


def measure(session: Session) -> None:
    """Print both."""
    session.report(
        "first sweep",
        [_first(session, "echo"), _first(session, session.bundle)],
        f"Load: {IN_FLIGHT} requests always in flight on one connection; with identity, also in the background lane. "
        "The sweep's rate counts from its own start.",
    )
    _repeats(session)


def _first(session: Session, bundle: str) -> dict[str, object]:
    """Sweep pictures that no index knows, in turn with the load generator on the same pictures."""
    is_echo = bundle == "echo"
    models = session.echo_models() if is_echo else session.models_dir
    tree = session.directory / f"pictures-{bundle}"
    paths = _pictures(session, tree, session.count(10_000 if is_echo else 2000))
    flags = () if is_echo else session.flags
    ours: list[float] = []
    theirs: list[float] = []
    alike: list[float] = []
    with daemon.Nsfwd(
        session.directory,
        bundle=bundle,
        models_dir=models,
        engine="echo" if is_echo else "openvino",
        flags=flags,
    ) as server:
        server.wait_ready()
        loads = Load(server.unix, Ndjson(), 1), Load(server.unix, Background(), 1)
        loads[0].closed(paths, depth=IN_FLIGHT)
        rounds = max(3, session.rounds // 3)
        for number in range(rounds):
            session.say(f"sweep: first, {bundle}, round {number + 1} of {rounds}")
            theirs.append(loads[0].closed(paths, depth=IN_FLIGHT).rate)
            alike.append(loads[1].closed(paths, depth=IN_FLIGHT).rate)
            index = session.directory / f"first-{bundle}-{number}.db"
            swept = _sweep(tree, index, server.unix)
            if swept.ok != len(paths):
                raise RuntimeError(f"{swept.ok} of {len(paths)} scored")
            ours.append(swept.ok / swept.seconds)
        for load in loads:
            load.close()
    return {
        "bundle": bundle,
        "pictures": len(paths),
        "sweep img/s": figures.median(ours),
        "load img/s": figures.median(theirs),
        "ratio": figures.ratio(ours, theirs),
        "load with identity img/s": figures.median(alike),
        "ratio to that": figures.ratio(ours, alike),
        "sweep CPU us/img": swept.cpu / swept.ok * 1e6,
    }


def _pictures(session: Session, tree: Path, count: int) -> list[Path]:
    """Copy pictures into a tree; no two have the same content, nor the same size more often than they do anyway."""
    tree.mkdir()
    pictures = session.pictures("small")
    paths = [tree / f"{number:05}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(pictures[number % len(pictures)].read_bytes() + bytes(number // len(pictures)))
    return paths


class Background(Ndjson):
    """The requests of a sweep, encoded beforehand."""

    def request(self, number: int, path: Path) -> bytes:
        """Encode one request."""
        return super().request(number, path)[:-2] + b',"lane":"background","identity":true}\n'


@dataclass(frozen=True)
class Case:
    """One repeated sweep: a tree with a number of files, a limit of files for a directory, and rows of other trees."""

    name: str
    files: int
    most: int = FILES_A_DIRECTORY
    others: int = 0

    @property
    def tree(self) -> str:
        """The same for cases over the same files."""
        return f"tree-{self.files}-{self.most}"


def _repeats(session: Session) -> None:
    """Sweep trees that have not changed, with indexes of several sizes."""
    models = session.echo_models()
    rows, large = session.count(ROWS), session.count(LARGE)
    cases = [
        *(Case(f"{files:,} files", files) for files in (10_000, 100_000, 200_000)),
        Case(f"200,000 files, {rows:,} rows", 200_000, others=rows - 200_000),
        Case(f"{large:,} files, one directory", large, large),
    ]
    table: list[dict[str, object]] = []
    with daemon.Nsfwd(session.directory, bundle="echo", models_dir=models, engine="echo", null_decoder=True) as server:
        server.wait_ready()
        for case in cases:
            session.say(f"sweep: {case.name}")
            if why := lacking(session.directory, case):
                session.say(f"sweep: {case.name} is left out: {why} (TMPDIR says where)")
                continue
            row = _repeated(session, server, case)
            memory = float(str(row["memory MB"]))
            table.append({**row, "above the smallest MB": memory - float(str((table or [row])[0]["memory MB"]))})
            session.say(f"sweep: {case.name}: {figures.spelled(row['files/s'])} files/s")
            if case.tree not in {later.tree for later in cases[cases.index(case) + 1 :]}:
                shutil.rmtree(session.directory / case.tree)
    session.report(
        "repeated sweep, nothing changed",
        table,
        "files/s by the run's own row; CPU and memory are of the whole process, its start included.",
    )


def lacking(place: Path, case: Case) -> str:
    """The resource that is too small for this case, or empty: a block and an inode for each file, and the index."""
    free = os.statvfs(place)
    wanted = case.files * 4096 + (case.files + case.others) * ROW_BYTES * 2  # an index is made anew beside itself
    if free.f_bavail * free.f_frsize < wanted:
        return f"{place} has no {wanted / 1e9:.1f} GB free"
    return f"{place} has no {case.files:,} inodes free" if free.f_files > 0 and free.f_favail < case.files * 1.1 else ""


def _repeated(session: Session, server: daemon.Nsfwd, case: Case) -> dict[str, object]:
    tree, index = session.directory / case.tree, session.directory / "repeated.db"
    _make(tree, case.files, case.most)
    _fill(tree, index, server, case.others)
    swept = [_sweep(tree, index, server.unix) for _ in range(max(3, session.rounds // 2))]
    if any(one.unchanged != case.files for one in swept):
        raise RuntimeError(f"{swept}: not all unchanged")
    size = index.stat().st_size
    for part in session.directory.glob("repeated.db*"):
        part.unlink()
    return {
        "tree": case.name,
        "files/s": figures.spread([case.files / one.seconds for one in swept]),
        "files/CPU s": figures.median([case.files / one.cpu for one in swept]),
        "seconds": figures.median([one.seconds for one in swept]),
        "memory MB": max(one.memory for one in swept),
        "index MB": size / 1e6,
    }


def _make(tree: Path, files: int, most: int) -> None:
    """Make ``files`` tiny files, at most ``most`` in a directory."""
    if tree.exists():
        return
    for first in range(0, files, most):
        place = tree / f"{first // most % 50:02}" / f"{first // most:05}"
        place.mkdir(parents=True)
        for number in range(first, min(first + most, files)):
            descriptor = os.open(place / f"{number:07}.jpg", os.O_CREAT | os.O_WRONLY, 0o600)
            os.write(descriptor, b"%d" % number)
            os.close(descriptor)


def _fill(tree: Path, path: Path, server: daemon.Nsfwd, others: int) -> None:
    """Write an index as a sweep of the tree would have, and rows of files elsewhere."""
    told = server.ask({"op": "models"})["models"][0]
    roots = os.fsencode(tree)
    with Index(path) as index:
        run = Run.begin(index, "sweep", [roots])
        ledger = FileTable(index, run.id)
        with index.transaction():
            ledger.enrol({told["name"]: told["model"]}, {told["name"]: told["labels"]}, told["policy"])
            run.judged_by("bench", ledger.present["models"], ledger.present["policy"])
        with _without_indexes(index):
            for part in Walk(WalkedTree((roots,))):
                with index.transaction():
                    ledger.save(_settled(FileEntry(part.directory, *entry), ledger) for entry in part.entries)
                    run.counts.ok += len(part.entries)
            with index.transaction():
                _elsewhere(index, ledger, others)
                index.write("UPDATE directory SET run = ?", (run.id,))
        run.end("finished")
        run.close()


@contextmanager
def _without_indexes(index: Index) -> Iterator[None]:
    """Take indexes and triggers away and make them again: a hundred rows a millisecond instead of ten."""
    query = "SELECT type, name, sql FROM sqlite_master WHERE type IN ('index', 'trigger') AND sql IS NOT NULL"
    parts = index.rows(query)
    with index.transaction():
        for kind, name, _ in parts:
            index.write(f"DROP {kind} {name}")
    yield
    with index.transaction():
        for *_, sql in parts:
            index.write(sql)
        index.write("INSERT INTO history SELECT id, run, status, code, verdict, 0 FROM file")


def _settled(found: FileEntry, ledger: FileTable) -> Settled:
    digest = hashlib.sha256(found.path).digest()
    present = ledger.present
    outcome = RowOutcome(digest, "ok", None, "safe", 0, "neutral", 0.1, None, present["models"], present["policy"])
    return Settled(found, outcome, {"nsfw": dict.fromkeys(LABELS, 0.2)})


def _elsewhere(index: Index, ledger: FileTable, rows: int) -> None:
    """Write rows of files of other trees."""
    numbers = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :rows)"
    digest = "CAST(printf('%032d', i) AS BLOB)"
    values = {"rows": rows, "many": FILES_A_DIRECTORY, **ledger.present}
    del values["again"]
    if not rows:
        return
    index.write(
        f"{numbers} INSERT INTO directory (id, path) "
        "SELECT 1000000 + i, CAST('/elsewhere/' || i AS BLOB) FROM n WHERE i < :rows / :many",
        values,
    )
    index.write(
        f"""
        {numbers} INSERT INTO file (directory, name, dev, ino, size, mtime_ns, ctime_ns, digest, status, verdict, label,
            score, models, policy, time, run)
        SELECT 1000000 + i / :many, CAST(i || '.jpg' AS BLOB), 1, i, i, i, i, {digest}, 'ok', 'safe', 'neutral', 0.1,
            :models, :policy, 0, 1 FROM n
        """,
        values,
    )
    index.write(f"{numbers} INSERT INTO score SELECT {digest}, 1, zeroblob(40), 0 FROM n", values)


def _sweep(tree: Path, index: Path, address: str) -> Swept:
    """Run the command."""
    command = [sys.executable, "-m", "nsfwd.cli.main", "sweep", str(tree), "--index", str(index), "-q"]
    process = subprocess.Popen([*command, "--connect", f"unix:{address}"])
    done, memory = 0, 0.0
    while not done:
        memory = max(memory, machine.peak_mb(process.pid))
        time.sleep(0.02)
        done, status, usage = os.wait4(process.pid, os.WNOHANG)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):
        raise RuntimeError(f"ended with {process.returncode}")
    with Index(index, create=False) as opened:
        query = "SELECT ended - started, found, unchanged, ok FROM run ORDER BY id DESC LIMIT 1"
        seconds, found, unchanged, ok = opened.one(query) or (0.0, 0, 0, 0)
    return Swept(seconds, usage.ru_utime + usage.ru_stime, memory, found, unchanged, ok)
