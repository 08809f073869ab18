"""``Index``: a SQLite file that remembers what was scanned, and its tables as named migrations.

    run         one sweep, watch or spool job: when, why it ended, with which daemon, models and policy, and its counts
    directory   a directory that was walked
    file        one name in a directory: what it was when last looked at, and how it was judged
    score       what a model said of a content: by digest, so that a copy or a renamed file is never scored twice
    model       a model identity and its labels, in the order of the scores
    policy      a policy identity and, where known, its whole text
    action      what was done to a file, enough to undo it
    history     the result of a file in a run: one row for each change; triggers write it

Paths and names are the raw bytes of the file system (BLOB): names need not be UTF-8. Times are seconds since the epoch,
those of the file system integers of nanoseconds. Digests are the 32 bytes of SHA-256.

Several processes write to one index at once: a sweep, a watch, an override. The file and its companions are for their
owner alone (0600). Knows the tables, no walk, no daemon and no verdict's meaning.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence
from contextlib import suppress

from nsfwd.errors import IndexFailure
from nsfwd.scanning.trees.safe_paths import safe_parent
from nsfwd.sqlite_store import Migration, SqliteStore, StoreFormat

MIGRATIONS: tuple[Migration, ...] = (
    Migration(
        "tables",
        """
        CREATE TABLE run (
            id INTEGER PRIMARY KEY,
            kind TEXT NOT NULL,              -- sweep | watch | spool | rejudge
            roots BLOB NOT NULL,             -- the directories asked for, NUL between them
            started REAL NOT NULL,
            ended REAL,                      -- NULL while it runs, and for ever when it was killed
            why TEXT,                        -- finished | paused | interrupted | breaker | failed
            message TEXT,                    -- what a failed one said
            pid INTEGER NOT NULL,
            daemon TEXT,                     -- its address and version
            policy INTEGER REFERENCES policy,
            models TEXT,                     -- JSON: short name -> identity
            found INTEGER NOT NULL DEFAULT 0,
            unchanged INTEGER NOT NULL DEFAULT 0,
            known INTEGER NOT NULL DEFAULT 0,      -- new path or inode, content scored before
            ok INTEGER NOT NULL DEFAULT 0,         -- scored in this run
            skipped INTEGER NOT NULL DEFAULT 0,
            errors INTEGER NOT NULL DEFAULT 0,
            excluded INTEGER NOT NULL DEFAULT 0,
            alarms INTEGER NOT NULL DEFAULT 0,
            acted INTEGER NOT NULL DEFAULT 0
        );
        CREATE TABLE directory (
            id INTEGER PRIMARY KEY,
            path BLOB NOT NULL UNIQUE,
            run INTEGER REFERENCES run,      -- the run that last walked it to its end
            code TEXT                        -- why it could not be walked
        );
        CREATE TABLE model (
            id INTEGER PRIMARY KEY,
            identity TEXT NOT NULL UNIQUE,   -- name@digest/precision
            short TEXT NOT NULL,
            labels TEXT NOT NULL             -- JSON list, in the order of the scores
        );
        CREATE TABLE policy (
            id INTEGER PRIMARY KEY,
            identity TEXT NOT NULL UNIQUE,
            body TEXT                        -- JSON, where the run knew it
        );
        CREATE TABLE file (
            id INTEGER PRIMARY KEY,
            directory INTEGER NOT NULL REFERENCES directory,
            name BLOB NOT NULL,
            dev INTEGER NOT NULL,
            ino INTEGER NOT NULL,
            size INTEGER NOT NULL,
            mtime_ns INTEGER NOT NULL,
            ctime_ns INTEGER NOT NULL,
            digest BLOB,                     -- NULL where the content was never read
            status TEXT NOT NULL,            -- ok | skipped | error
            code TEXT,                       -- of the protocol's table; NULL with ok
            verdict TEXT,                    -- the effective one: an override wins
            alarm INTEGER NOT NULL DEFAULT 0,
            label TEXT,
            score REAL,                      -- of the group that decided
            override TEXT,                   -- JSON, as in the reply
            models TEXT,                     -- JSON: short name -> model.id, what judged it
            policy INTEGER REFERENCES policy,
            attempts INTEGER NOT NULL DEFAULT 1,
            time REAL NOT NULL,
            run INTEGER NOT NULL REFERENCES run,
            gone INTEGER REFERENCES run,     -- the run that found it no longer there
            UNIQUE (directory, name)
        );
        CREATE INDEX file_by_inode ON file (dev, ino);
        CREATE INDEX file_by_size ON file (size) WHERE digest IS NOT NULL;
        CREATE INDEX file_by_digest ON file (digest) WHERE digest IS NOT NULL;
        CREATE TABLE score (
            digest BLOB NOT NULL,
            model INTEGER NOT NULL REFERENCES model,
            scores BLOB NOT NULL,            -- float64, little endian, in the order of the labels
            time REAL NOT NULL,
            PRIMARY KEY (digest, model)
        ) WITHOUT ROWID;
        CREATE TABLE action (
            id INTEGER PRIMARY KEY,
            run INTEGER REFERENCES run,
            time REAL NOT NULL,
            kind TEXT NOT NULL,              -- log | copy | move | quarantine | hook
            path BLOB NOT NULL,              -- where the file was
            target BLOB,                     -- where it, or its copy, lies now
            digest BLOB NOT NULL,
            verdict TEXT NOT NULL,
            outcome TEXT NOT NULL,           -- done | changed | failed
            message TEXT,
            restored REAL                    -- when it was put back
        );
        CREATE INDEX action_by_digest ON action (digest);
        CREATE TABLE history (
            file INTEGER NOT NULL REFERENCES file ON DELETE CASCADE,
            run INTEGER NOT NULL REFERENCES run,
            status TEXT NOT NULL,
            code TEXT,
            verdict TEXT,
            gone INTEGER NOT NULL,           -- 1: no longer there
            PRIMARY KEY (file, run)
        ) WITHOUT ROWID;
        CREATE TRIGGER file_found AFTER INSERT ON file BEGIN
            INSERT OR REPLACE INTO history
            VALUES (new.id, new.run, new.status, new.code, new.verdict, new.gone IS NOT NULL);
        END;
        CREATE TRIGGER file_changed AFTER UPDATE OF status, code, verdict, gone ON file
        WHEN old.status IS NOT new.status OR old.code IS NOT new.code OR old.verdict IS NOT new.verdict
            OR (old.gone IS NULL) != (new.gone IS NULL)
        BEGIN
            INSERT OR REPLACE INTO history
            VALUES (new.id, coalesce(new.gone, new.run), new.status, new.code, new.verdict, new.gone IS NOT NULL);
        END;
        """,
    ),
    Migration(
        "links",
        """
        ALTER TABLE action ADD COLUMN links INTEGER;  -- hard links that the file had when it was taken
        """,
        "CREATE TEMP VIEW action AS SELECT *, NULL AS links FROM main.action;",
    ),
)


def _json(column: str, kind: str) -> str:
    """Return SQL that holds for a text of JSON of this type."""
    return (
        f"CASE WHEN json_valid({column}) THEN typeof({column}) = 'text' AND json_type({column}) = '{kind}' ELSE 0 END"
    )


def _nanoseconds(column: str) -> str:
    """Return SQL that holds for an integer, or for digits in a BLOB where 64 bits are too few."""
    return (
        f"CASE typeof({column}) WHEN 'integer' THEN 1 WHEN 'blob' THEN CAST({column} AS TEXT) NOT GLOB '*[^-0-9]*'"
        " ELSE 0 END"
    )


RULES = {
    ("model", "labels"): _json("labels", "array"),
    ("policy", "body"): _json("body", "object"),
    ("run", "models"): _json("models", "object"),
    ("file", "models"): _json("models", "object"),
    ("file", "override"): _json("override", "object"),
    ("file", "status"): "status IN ('ok', 'skipped', 'error')",
    ("file", "digest"): "typeof(digest) = 'blob' AND length(digest) = 32",
    ("file", "mtime_ns"): _nanoseconds("mtime_ns"),
    ("file", "ctime_ns"): _nanoseconds("ctime_ns"),
    ("file", "directory"): "directory IN (SELECT id FROM main.directory)",
    ("score", "scores"): """
        typeof(scores) = 'blob'
        AND length(scores) = (SELECT 8 * json_array_length(labels) FROM main.model WHERE id = model)""",
    ("run", "roots"): "typeof(roots) = 'blob'",
}
"""(Table, column) -> SQL that holds for each of its values, where the declared type does not say enough."""


class RowFailure(IndexFailure):
    """A value cannot be stored or compared. It is one row's fault, or one argument's; other rows can be written."""


class Index(SqliteStore):
    """An open index. Every method may raise ``IndexFailure``."""

    FORMAT = StoreFormat(
        name="an index",
        application=0x6E736677,  # "nsfw"
        migrations=MIGRATIONS,
        patience=30.0,  # transactions last milliseconds; a checkpoint of a slow disk may last seconds
        failure=IndexFailure,
        row_failure=RowFailure,
        rules=RULES,
    )

    @property
    def text(self) -> str:
        """The path as manifests have it; bytes that are not UTF-8 as ``\\xNN``."""
        return os.fsencode(self.path).decode("utf-8", "backslashreplace")

    def _locate(self, *, create: bool) -> None:
        """Check that the file is there, or make it; root never follows a link that another user may have planted."""
        try:
            with safe_parent(os.fsencode(self.path)) as (place, name):
                _find_or_make(place, name, create=create)
        except OSError as error:
            missing = error.errno == errno.ENOENT and not create
            raise self._failure("there is no index" if missing else error.strerror) from error

    def _migrated(self, taken: Sequence[Migration]) -> None:
        self.write("CREATE TABLE IF NOT EXISTS migration (name TEXT NOT NULL, time REAL NOT NULL)")
        self.write_all("INSERT INTO migration VALUES (?, ?)", [(each.name, time.time()) for each in taken])

    def _check_tables(self, version: int) -> None:
        if not version:
            raise self._failure("the index is empty; no sweep has begun in it")


def _find_or_make(place: int, name: bytes, *, create: bool) -> None:
    try:
        os.stat(name, dir_fd=place, follow_symlinks=False)
    except FileNotFoundError:
        if not create:
            raise
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        with suppress(FileExistsError):
            os.close(os.open(name, flags, 0o600, dir_fd=place))
