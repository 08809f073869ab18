"""Maintains an index: follows trees that moved, and deletes rows that are no longer needed. Never touches a picture.

Writes in transactions of milliseconds, so that sweeps and watches can write between them; a kill leaves an index
that is whole, and the rest for the next time.
"""

from __future__ import annotations

from dataclasses import dataclass

from nsfwd.errors import NsfwdError
from nsfwd.scanning.index.database import Index
from nsfwd.scanning.trees.file_entry import below

STEP = 2000
"""Rows deleted at once; of runs, behind each of which SQLite looks through all that might refer to it, one."""


def relocate(index: Index, old: bytes, new: bytes, *, dry_run: bool = False) -> int:
    """Follow a tree that was moved: ``old`` and all below it is ``new`` from now on. Return how many files that are.

    Scores stay with their contents, so that a sweep of the new place scores nothing again. What was done to files is
    known of them at the new place, so that nothing is done twice.

    Args:
        old, new: absolute, without a slash at the end.

    Raises:
        NsfwdError: the index knows nothing at ``old``, or something at ``new``; the caller's fault.
    """
    if b"/" in (old, new):
        raise NsfwdError("cannot relocate /")
    low, high = below(old)
    (directories,) = index.one(f"SELECT count(*) FROM directory WHERE {_AT}", (old, low, high)) or (0,)
    (files,) = index.one(_FILES, (old, low, high)) or (0,)
    (taken,) = index.one(f"SELECT count(*) FROM directory WHERE {_AT}", (new, *below(new))) or (0,)
    if not directories:
        raise NsfwdError(f"{index.path}: knows no directory {_shown(old)}")
    if taken:
        raise NsfwdError(f"{index.path}: knows {_shown(new)} already; prune it, or sweep it")
    if not dry_run:
        with index.transaction():
            index.write(
                f"UPDATE directory SET path = CAST(? || substr(path, ?) AS BLOB) WHERE {_AT}",
                (new, len(old) + 1, old, low, high),
            )
            index.write(
                "UPDATE action SET path = CAST(? || substr(path, ?) AS BLOB) WHERE path >= ? AND path < ?",
                (new, len(old) + 1, low, high),
            )
    return int(files)


_AT = "(path = ? OR path >= ? AND path < ?)"
_FILES = f"SELECT count(*) FROM file WHERE gone IS NULL AND directory IN (SELECT id FROM directory WHERE {_AT})"


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")


@dataclass(slots=True)
class Pruned:
    """Numbers of rows that are deleted, or would be."""

    files: int = 0
    scores: int = 0
    history: int = 0
    directories: int = 0
    runs: int = 0


def prune(index: Index, *, before: float, apply: bool) -> Pruned:
    """Delete old rows: of files that a run before then found gone, and then all that only they needed.

    Scores go where no file and no action that could be undone has their content; of a file's history the state at that
    time stays; runs go to which nothing refers any more, but the latest.

    Args:
        before: in seconds since 1970.
        apply: do it. Otherwise it is only counted: what goes because files go is then counted as if they were gone.
    """
    values = {"before": before}
    count = _delete if apply else _count
    return Pruned(**{name: count(index, table, values) for name, table in _TABLES.items()})


_TABLES = {"history": "history", "files": "file", "scores": "score", "directories": "directory", "runs": "run"}
"""Count -> table, in the order in which one makes room for the next."""

_KEYS = {"score": "digest, model", "history": "file, run"}

_OLD = "(SELECT id FROM run AS old WHERE old.started < :before)"

_FILE = f"(file.gone IS NULL OR file.gone NOT IN {_OLD})"
_HISTORY = f"""
    (history.run NOT IN {_OLD}
    OR EXISTS (SELECT 1 FROM file WHERE file.id = history.file AND {_FILE})
        AND NOT EXISTS (SELECT 1 FROM history AS later
            WHERE later.file = history.file AND later.run > history.run AND later.run IN {_OLD}))
"""
_DIRECTORY = f"""
    (directory.code IS NOT NULL OR directory.run IS NULL OR directory.run NOT IN {_OLD}
    OR EXISTS (SELECT 1 FROM file WHERE file.directory = directory.id AND {_FILE}))
"""
_NEEDED = {
    "file": _FILE,
    "history": _HISTORY,
    "score": f"""
        (score.time >= :before
        OR EXISTS (SELECT 1 FROM file WHERE file.digest = score.digest AND {_FILE})
        OR EXISTS (SELECT 1 FROM action WHERE action.digest = score.digest AND restored IS NULL))
    """,
    "directory": _DIRECTORY,
    "run": f"""
        (run.id NOT IN {_OLD} OR run.ended IS NULL OR run.id = (SELECT max(id) FROM run)
        OR run.id IN (SELECT file.run FROM file WHERE {_FILE})
        OR run.id IN (SELECT file.gone FROM file WHERE file.gone IS NOT NULL AND {_FILE})
        OR run.id IN (SELECT history.run FROM history WHERE {_HISTORY})
        OR run.id IN (SELECT directory.run FROM directory WHERE directory.run IS NOT NULL AND {_DIRECTORY})
        OR run.id IN (SELECT action.run FROM action WHERE action.run IS NOT NULL))
    """,
}
"""Table -> what makes a row of it needed. It holds for what is left after files that went, whether they have or not."""


def _count(index: Index, table: str, values: dict[str, float]) -> int:
    (count,) = index.one(f"SELECT count(*) FROM {table} WHERE NOT {_NEEDED[table]}", values) or (0,)
    return int(count)


def _delete(index: Index, table: str, values: dict[str, float]) -> int:
    """Find the rows once, and delete in steps, each in its own transaction, those that still are not needed then."""
    key, step = _KEYS.get(table, "id"), 1 if table == "run" else STEP
    index.write("DROP TABLE IF EXISTS temp.doomed")
    index.write(f"CREATE TEMP TABLE doomed AS SELECT {key} FROM {table} LIMIT 0")
    index.write(f"INSERT INTO doomed SELECT {key} FROM {table} WHERE NOT {_NEEDED[table]}", values)
    (last,) = index.one("SELECT count(*) FROM doomed") or (0,)
    chosen = f"({key}) IN (SELECT {key} FROM doomed WHERE rowid > :low AND rowid <= :low + {step})"
    deleted = 0
    for low in range(0, last, step):
        with index.transaction():
            rows = [values | {"low": low}]
            deleted += index.write_all(f"DELETE FROM {table} WHERE {chosen} AND NOT {_NEEDED[table]}", rows)
    return deleted
