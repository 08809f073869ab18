"""Finds rows of an index that nsfwd cannot have written: another program's, or those of a disk that failed.

Looked for only after something went wrong with what an index holds, to tell a damaged index from a defect of nsfwd.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

_TYPES = {"INTEGER": "'integer'", "REAL": "'real', 'integer'", "TEXT": "'text'", "BLOB": "'blob'"}
"""Declared type of a column -> types that its values may have."""

_TIMES = ("mtime_ns", "ctime_ns")
"""Columns of integers that hold digits in a BLOB where 64 bits are too few."""

_JSON = {
    ("model", "labels"): "array",
    ("policy", "body"): "object",
    ("run", "models"): "object",
    ("file", "models"): "object",
    ("file", "override"): "object",
}

_RULES = {
    ("file", "status"): "status IN ('ok', 'skipped', 'error')",
    ("file", "digest"): "digest IS NULL OR length(digest) = 32",
    **{("file", name): f"typeof({name}) = 'integer' OR CAST({name} AS TEXT) NOT GLOB '*[^-0-9]*'" for name in _TIMES},
    ("file", "directory"): "directory IN (SELECT id FROM main.directory)",
    ("score", "scores"): "length(scores) = (SELECT 8 * json_array_length(labels) FROM main.model WHERE id = model)",
    ("run", "roots"): "typeof(roots) = 'blob'",
}


def find_damage(db: sqlite3.Connection) -> str:
    """Return which column holds what nsfwd does not write; empty where none does.

    Raises:
        sqlite3.Error: the file itself cannot be read.
    """
    for table, column, rule in _rules(db):
        (count,) = db.execute(f'SELECT count(*) FROM main."{table}" WHERE NOT coalesce({rule}, 0)').fetchone()
        if count:
            return f"{count} rows of {table} have a wrong {column}"
    return ""


def _rules(db: sqlite3.Connection) -> Iterator[tuple[str, str, str]]:
    """Yield what must hold for each column: first its type, then what its text or bytes are."""
    tables = db.execute("SELECT name FROM main.sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
    for (table,) in tables.fetchall():
        for _, column, declared, *_ in db.execute(f'PRAGMA main.table_info("{table}")').fetchall():
            allowed = _TYPES.get(declared, "''") + (", 'blob'" if column in _TIMES else "")
            yield table, column, f"typeof(\"{column}\") IN ({allowed}, 'null')"
    for (table, column), kind in _JSON.items():
        is_kind = f"CASE WHEN json_valid({column}) THEN json_type({column}) = '{kind}' ELSE 0 END"
        yield table, column, f"{column} IS NULL OR {is_kind}"
    for (table, column), rule in _RULES.items():
        yield table, column, rule
