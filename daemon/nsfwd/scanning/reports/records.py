"""Rows about files, about one file and about the whole index, for the verbs that show them.

Reads only. Knows the tables, no command line and no format.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nsfwd.scanning.index.database import Index
from nsfwd.scanning.index.file_table import RowOutcome, scores_of
from nsfwd.scanning.index.runs import alive
from nsfwd.scanning.index.stat_columns import loaded_identity, local
from nsfwd.scanning.trees.file_entry import join, path_fields

RUNS = 10
"""Runs that are shown, the newest first."""


@dataclass(frozen=True, slots=True)
class ChosenRows:
    """Which files.

    Attributes:
        below: files or directories; empty is all. Of each of the others one must hold, where any is named.
        run: those whose present result is of this run. ``gone``: those that are no longer there, and no others.
        limit: so many at most.
    """

    below: Sequence[bytes] = ()
    verdicts: Sequence[str] = ()
    statuses: Sequence[str] = ()
    codes: Sequence[str] = ()
    alarm: bool = False
    overridden: bool = False
    run: int | None = None
    gone: bool = False
    limit: int | None = None


def files(index: Index, chosen: ChosenRows) -> Iterator[dict[str, Any]]:
    """Yield files in the order of their paths: directory by directory, so that nothing need be sorted first."""
    where, values = _where(chosen)
    rows = index.read(
        f"""
        SELECT directory.path, name, status, verdict, alarm, label, score, file.code, time, override, digest, file.run
        FROM directory CROSS JOIN file ON file.directory = directory.id
        WHERE {where} ORDER BY directory.path, name LIMIT ?
        """,
        [*values, -1 if chosen.limit is None else chosen.limit],
    )
    for directory, name, status, verdict, alarm, label, score, code, moment, override, digest, run in rows:
        yield {
            **path_fields(join(directory, name)),
            "status": status,
            "verdict": verdict,
            "alarm": bool(alarm) if status == "ok" else None,
            "label": label,
            "score": score,
            "code": code,
            "override": json.loads(override) if override else None,
            "sha256": digest.hex() if digest else None,
            "run": run,
            "time": local(moment),
        }


def _where(chosen: ChosenRows) -> tuple[str, list[Any]]:
    conditions = ["file.gone IS NOT NULL" if chosen.gone else "file.gone IS NULL"]
    values: list[Any] = []
    if chosen.below:
        places = []
        for path in chosen.below:
            parent, name = os.path.split(path)
            below = path.rstrip(b"/")
            places.append("directory.path = ? OR (directory.path >= ? AND directory.path < ?)")
            places.append("directory.path = ? AND name = ?")
            values += (path, below + b"/", below + b"0", parent, name)
        conditions.append("(" + " OR ".join(f"({place})" for place in places) + ")")
    for column, wanted in (("verdict", chosen.verdicts), ("status", chosen.statuses), ("file.code", chosen.codes)):
        if wanted:
            conditions.append(f"{column} IN ({', '.join('?' * len(wanted))})")
            values += wanted
    if chosen.alarm:
        conditions.append("alarm")
    if chosen.overridden:
        conditions.append("override IS NOT NULL")
    if chosen.run is not None:
        conditions.append("file.run = ?")
        values.append(chosen.run)
    return " AND ".join(conditions), values


def file(index: Index, path: bytes) -> dict[str, Any] | None:
    """Return all that is known of one file; None when nothing is."""
    parent, name = os.path.split(path)
    row = index.one(
        """
        SELECT file.id, dev, ino, size, mtime_ns, ctime_ns, attempts, time, file.run, gone, policy.identity,
            digest, status, file.code, verdict, alarm, label, score, override, models, policy
        FROM file JOIN directory ON directory.id = file.directory LEFT JOIN policy ON policy.id = file.policy
        WHERE directory.path = ? AND name = ?
        """,
        (parent, name),
    )
    if row is None:
        return None
    number, *identity, attempts, moment, run, gone, policy = row[:11]
    outcome = RowOutcome(*row[11:])
    return {
        **path_fields(path),
        "status": outcome.status,
        "code": outcome.code,
        "verdict": outcome.verdict,
        "alarm": bool(outcome.alarm) if outcome.status == "ok" else None,
        "label": outcome.label,
        "score": outcome.score,
        "scores": scores_of(index, outcome) or None,
        "override": json.loads(outcome.override) if outcome.override else None,
        "model": _identities(index, outcome),
        "policy": policy,
        "file": dict(zip(("dev", "ino", "size", "mtime_ns", "ctime_ns"), loaded_identity(tuple(identity)), strict=True))
        | ({"sha256": outcome.digest.hex()} if outcome.digest else {}),
        "attempts": attempts,
        "time": local(moment),
        "run": run,
        "gone": gone,
        "history": list(_history(index, number)),
        "actions": list(_actions(index, path)),
        "copies": list(_copies(index, number, outcome)),
    }


def _identities(index: Index, outcome: RowOutcome) -> dict[str, str]:
    rows = json.loads(outcome.models or "{}")
    found = {name: index.one("SELECT identity FROM model WHERE id = ?", (row,)) for name, row in rows.items()}
    return {name: row[0] for name, row in found.items() if row is not None}


def _history(index: Index, number: int) -> Iterator[dict[str, Any]]:
    query = """
        SELECT history.run, started, history.status, history.code, verdict, gone
        FROM history JOIN run ON run.id = history.run
        WHERE file = ? ORDER BY history.run
        """
    for run, started, status, code, verdict, gone in index.read(query, (number,)):
        what = "gone" if gone else verdict or f"{status} {code}"
        yield {"run": run, "time": local(started), "what": what}


def _actions(index: Index, path: bytes) -> Iterator[dict[str, Any]]:
    columns = "time, kind, verdict, outcome, message, target, restored, links"
    query = f"SELECT {columns} FROM action WHERE path = ? ORDER BY id"
    for moment, kind, verdict, outcome, message, target, restored, links in index.read(query, (path,)):
        yield {
            "time": local(moment),
            "kind": kind,
            "verdict": verdict,
            "outcome": outcome,
            "message": message,
            "target": os.fsdecode(target) if target else None,
            "restored": local(restored) if restored else None,
            "links": links,
        }


def _copies(index: Index, number: int, outcome: RowOutcome) -> Iterator[str]:
    """Yield other paths of the same content."""
    query = """
        SELECT directory.path, name FROM file JOIN directory ON directory.id = file.directory
        WHERE digest = ? AND file.id <> ? AND gone IS NULL ORDER BY 1, 2 LIMIT 100
        """
    for directory, name in index.read(query, (outcome.digest, number)) if outcome.digest else ():
        yield os.fsdecode(join(directory, name))


def outcomes(index: Index) -> Iterator[dict[str, Any]]:
    """Yield the number of files with each outcome, of those that are there."""
    query = """
        SELECT status, verdict, alarm, code, count(*), sum(size) FROM file WHERE gone IS NULL
        GROUP BY status, verdict, alarm, code ORDER BY status, count(*) DESC
        """
    for status, verdict, alarm, code, number, size in index.read(query):
        yield {
            "status": status,
            "verdict": verdict,
            "alarm": bool(alarm) if status == "ok" else None,
            "code": code,
            "files": number,
            "bytes": size,
        }


def runs(index: Index, number: int = RUNS) -> Iterator[dict[str, Any]]:
    """Yield the last runs, the newest first."""
    counts = "found, unchanged, known, ok, skipped, errors, excluded, alarms, acted"
    query = f"""
        SELECT run.id, kind, roots, started, ended, why, message, pid, daemon, models, identity, {counts}
        FROM run LEFT JOIN policy ON policy.id = run.policy ORDER BY run.id DESC LIMIT ?
        """
    for row in list(index.read(query, (number,))):
        run, kind, roots, started, ended, why, message, pid, daemon, models, policy = row[:11]
        if ended is None:
            why = "running" if alive(index, run) else "killed"
        yield {
            "run": run,
            "kind": kind,
            "why": why,
            "started": local(started),
            "ended": local(ended) if ended is not None else None,
            "roots": [os.fsdecode(root) for root in roots.split(b"\0")],
            **dict(zip(counts.split(", "), row[11:], strict=True)),
            "daemon": daemon,
            "model": [_model(index, number) for number in json.loads(models or "{}").values()],
            "policy": policy,
            "pid": pid,
            "message": message,
        }


def totals(index: Index) -> dict[str, Any]:
    """Return what an index holds."""
    (present,) = index.one("SELECT count(*) FROM file WHERE gone IS NULL") or (0,)
    (gone,) = index.one("SELECT count(*) FROM file WHERE gone IS NOT NULL") or (0,)
    directories, unreadable = index.one("SELECT count(*), count(code) FROM directory") or (0, 0)
    (contents,) = index.one("SELECT count(DISTINCT digest) FROM score") or (0,)
    return {
        "files": present,
        "gone": gone,
        "directories": directories,
        "unreadable": unreadable,
        "contents": contents,
        "bytes": index.path.stat().st_size,
    }


def _model(index: Index, number: int) -> str:
    row = index.one("SELECT identity FROM model WHERE id = ?", (number,))
    return str(row[0]) if row is not None else "?"
