"""``index``: the cost of commands that read an index of a million files."""

from __future__ import annotations

import hashlib
import json
import os
import random
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from bench import machine
from bench.session import Session
from nsfwd.bundles.policy import Policy, Tier
from nsfwd.errors import NsfwdError
from nsfwd.scanning.index.database import Index
from nsfwd.scanning.index.rejudge import Rejudging
from nsfwd.scanning.reports.audit import Audit
from nsfwd.scanning.reports.diff import differences
from nsfwd.scanning.reports.index_export import WRITERS, records
from nsfwd.scanning.reports.report import ReportOptions, report
from nsfwd.scanning.reports.sampling import sample
from nsfwd.scanning.reports.where import parse
from nsfwd.scanning.trees.walk import WalkedTree

LABELS = ("drawings", "hentai", "neutral", "porn", "sexy")
IN_A_DIRECTORY = 100
GROUPS = {"safe": ("drawings", "neutral"), "sensitive": ("hentai", "porn", "sexy")}


def policy(review: float, sensitive: float) -> Policy:
    """Three tiers, as the bundles have them."""
    tiers = (
        Tier(name="safe"),
        Tier(name="review", group="sensitive", threshold=review),
        Tier(name="sensitive", group="sensitive", threshold=sensitive, alarm=True),
    )
    return Policy(name="default", groups=GROUPS, tiers=tiers)


def measure(session: Session) -> None:
    """Print seconds, rows a second and memory of each."""
    rows = 100_000 if session.quick else 1_000_000
    session.say(f"index: filling one with {rows} rows")
    with Index(session.directory / "index.db") as index:
        fill(index, rows)
        session.report("index", list(_looked(session, index, rows)))
    files = 20_000 if session.quick else 200_000
    session.report("index: audit", [_audited(session, files)])


def _looked(session: Session, index: Index, rows: int) -> Iterator[dict[str, object]]:
    stricter = {"nsfw": policy(0.2, 0.5)}
    with Path(os.devnull).open("wb") as nowhere:
        works: dict[str, Callable[[], object]] = {
            "rejudge --dry-run": lambda: _count(Rejudging(index, stricter).changes()),
            "rejudge": lambda: _count(Rejudging(index, stricter, run=2).changes()),
            "diff": lambda: _count(differences(index, 1, 2)),
            "sample -n 500": lambda: sample(index, 500),
            "export --where alarm = true": lambda: WRITERS["csv"](records(index, parse("alarm = true")), nowhere),
            "export (csv)": lambda: WRITERS["csv"](records(index), nowhere),
            "export (parquet)": lambda: WRITERS["parquet"](records(index), nowhere),
            "report -n 0": lambda: _count(report(index, ReportOptions(worst=0))),
        }
        for name, work in works.items():
            session.say(f"index: {name}")
            began = time.perf_counter()
            try:
                work()
            except NsfwdError as error:
                session.say(f"index: {name} is left out: {error}")
                continue
            seconds = time.perf_counter() - began
            memory = machine.memory_mb([os.getpid()])
            yield {"what": name, "rows": rows, "s": seconds, "rows/s": rows / seconds, "bench MB": memory}


def _audited(session: Session, files: int) -> dict[str, object]:
    session.say("index: making a tree")
    tree = session.directory / "tree"
    for number in range(files):
        place = tree / str(number // 1000)
        if number % 1000 == 0:
            place.mkdir(parents=True)
        (place / f"{number}.jpg").touch()
    with Index(session.directory / "audit.db") as index:
        with index.transaction():
            index.write("INSERT INTO run (kind, roots, started, pid) VALUES ('sweep', ?, 1, 1)", (os.fsencode(tree),))
            for place in tree.iterdir():
                _record(index, place)
        session.say("index: audit")
        audit = Audit(index, WalkedTree((os.fsencode(tree),)))
        began = time.perf_counter()
        _count(audit.entries())
        seconds = time.perf_counter() - began
    if not audit.tally.proven:
        raise RuntimeError("the audit of a tree that was recorded file by file found something amiss")
    return {"files": files, "s": seconds, "files/s": files / seconds, "bench MB": machine.memory_mb([os.getpid()])}


def _record(index: Index, place: Path) -> None:
    directory = index.write("INSERT INTO directory (path, run) VALUES (?, 1)", (os.fsencode(place),))
    found = ((entry.name, entry.stat()) for entry in os.scandir(place))
    index.write_all(
        """
        INSERT INTO file (directory, name, dev, ino, size, mtime_ns, ctime_ns, status, verdict, time, run)
        VALUES (?, ?, ?, ?, ?, ?, ?, 'ok', 'safe', 1, 1)
        """,
        (
            (directory, os.fsencode(name), at.st_dev, at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns)
            for name, at in found
        ),
    )


def fill(index: Index, rows: int) -> None:
    """Write the rows of a sweep of ``rows`` different pictures, most of them safe."""
    chance = random.Random(1)
    before = policy(0.5, 0.8)
    with index.transaction():
        for kind in ("sweep", "rejudge"):
            index.write("INSERT INTO run (kind, roots, started, pid) VALUES (?, '/srv', 1, 1)", (kind,))
        body = msgspec.json.encode({"nsfw": before}).decode()
        index.write("INSERT INTO policy (identity, body) VALUES (?, ?)", (before.identity, body))
        index.write(
            "INSERT INTO model (identity, short, labels) VALUES ('bench@1/f32', 'nsfw', ?)", (json.dumps(LABELS),)
        )
        count = -(-rows // IN_A_DIRECTORY)
        index.write_all(
            "INSERT INTO directory (path, run) VALUES (?, 1)", ((b"/srv/%07d" % one,) for one in range(count))
        )
        index.write_all(
            """
            INSERT INTO file (directory, name, dev, ino, size, mtime_ns, ctime_ns, digest, status, verdict, alarm,
                label, score, models, policy, time, run)
            VALUES (?, ?, 1, ?, 1, 1, 1, ?, 'ok', ?, ?, 'neutral', ?, ?, 1, 1, 1)
            """,
            _files(rows, chance),
        )
        index.write_all("INSERT INTO score VALUES (?, 1, ?, 1.0)", _scores(rows, random.Random(1)))


def _files(rows: int, chance: random.Random) -> Iterator[tuple[object, ...]]:
    for number in range(rows):
        score = chance.betavariate(0.3, 3.0)
        verdict = "sensitive" if score >= 0.8 else "review" if score >= 0.5 else "safe"
        name = b"%09d.jpg" % number
        yield 1 + number // IN_A_DIRECTORY, name, number, _digest(number), verdict, score >= 0.8, score, '{"nsfw": 1}'


def _scores(rows: int, chance: random.Random) -> Iterator[tuple[bytes, bytes]]:
    for number in range(rows):
        score = chance.betavariate(0.3, 3.0)
        yield _digest(number), struct.pack("<5d", 0.0, 0.0, 1.0 - score, score, 0.0)


def _digest(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


def _count(source: Iterable[object]) -> int:
    return sum(1 for _ in source)
