"""The file behind ``OverrideStore``: its tables as named migrations, how it is made, opened and renewed.

This is the one border where sqlite3's errors about it are translated. Knows SQL and files, and nothing of what an
override means.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from nsfwd.errors import OverridesFailure

PATIENCE = 10.0
"""Seconds to wait for another writer. Transactions last milliseconds, large imports seconds."""

_APPLICATION = 0x6E73666F
"""``PRAGMA application_id`` of a store ("nsfo"), so that no other program's database is taken for one."""

_RETRY = 0.01
"""Seconds between two tries where SQLite itself does not wait for a lock."""

MIGRATIONS: tuple[tuple[str, str], ...] = (
    (
        "tables",
        """
        CREATE TABLE store (
            identity TEXT NOT NULL           -- random, and another one is another store in the same place
        );
        CREATE TABLE override (
            digest BLOB PRIMARY KEY,         -- the 32 bytes of SHA-256
            verdict TEXT NOT NULL,
            reason TEXT NOT NULL,
            author TEXT NOT NULL,
            time REAL NOT NULL,
            expires REAL,
            path BLOB NOT NULL
        ) WITHOUT ROWID;
        CREATE TABLE change (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            digest BLOB NOT NULL,
            what TEXT NOT NULL,              -- added | replaced | removed
            time REAL NOT NULL,              -- when that was decided
            author TEXT NOT NULL,            -- who did it
            verdict TEXT NOT NULL,           -- what it is since then, of a removed one what it was
            reason TEXT NOT NULL,
            expires REAL
        );
        CREATE INDEX change_by_digest ON change (digest);
        """,
    ),
)
"""Named steps from an older layout to the next; ``PRAGMA user_version`` counts those a store has taken."""


@contextmanager
def border(path: Path) -> Iterator[None]:
    """Translate what sqlite3 and the file system say.

    Raises:
        OverridesFailure: they said something.
    """
    try:
        yield
    except UnicodeDecodeError as error:  # SQLite's own words may hold bytes of a damaged file
        raise OverridesFailure(f"{path}: the file is damaged") from error
    except sqlite3.Error as error:
        reason = "it is a directory" if path.is_dir() else str(error)  # of which SQLite says "disk I/O error"
        raise OverridesFailure(f"{path}: {reason}") from error
    except OSError as error:
        raise OverridesFailure(f"{path}: {error.strerror or error}") from error


def connect(path: Path, *, create: bool) -> sqlite3.Connection:
    """Connect to read and write; the tables are there, and those of this version.

    Raises:
        OverridesFailure: it is missing, of a newer version, no store, damaged, or may not be written.
    """
    with border(path):
        if not path.exists():
            if not create:
                raise OverridesFailure(f"{path}: there is no store of overrides")
            _make(path)
        connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
        try:
            _check_kind(path, connection)
            _log_ahead(connection)
            connection.execute("PRAGMA synchronous = FULL")  # a decision that was confirmed outlives a power cut
            _migrate(path, connection)
        except BaseException:
            connection.close()
            raise
    return connection


def connect_reading(path: Path) -> sqlite3.Connection:
    """Connect without writing; the tables may be missing, where the store is just being made.

    Raises:
        OverridesFailure: as ``connect``; also of an older version.
    """
    with border(path):
        if not path.exists():
            raise OverridesFailure(f"{path}: there is no store of overrides")
        connection = _connect_reading(path)
        try:
            _check_kind(path, connection)
            if 0 < version(connection) < len(MIGRATIONS):
                raise OverridesFailure(f"{path}: of an older nsfwd; to renew it: nsfwd override list --store {path}")
        except BaseException:
            connection.close()
            raise
    return connection


def version(connection: sqlite3.Connection) -> int:
    """Return how many migrations it has taken; 0 where there are no tables yet."""
    (taken,) = connection.execute("PRAGMA user_version").fetchone()
    return int(taken)


def _check_kind(path: Path, connection: sqlite3.Connection) -> None:
    (kind,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if kind != _APPLICATION and (kind or tables):
        raise OverridesFailure(f"{path}: a database, but no store of overrides")
    if version(connection) > len(MIGRATIONS):
        raise OverridesFailure(f"{path}: of a newer nsfwd (its tables are of version {version(connection)})")


def _migrate(path: Path, connection: sqlite3.Connection) -> None:
    if version(connection) == len(MIGRATIONS):
        return
    with transaction(path, connection):
        taken = version(connection)  # another process may have been faster
        for _, sql in MIGRATIONS[taken:]:
            for statement in filter(str.strip, sql.split(";")):
                connection.execute(statement)
        if not taken:
            connection.execute("INSERT INTO store VALUES (?)", (secrets.token_hex(8),))
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


@contextmanager
def transaction(path: Path, connection: sqlite3.Connection) -> Iterator[None]:
    """Write everything inside, or nothing of it.

    Raises:
        OverridesFailure: it cannot be written.
    """
    with border(path):
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


def _make(path: Path) -> None:
    """Make an empty file for its owner alone; what root makes belongs to the owner of its directory, the daemon."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_RDWR, 0o600)
    except FileExistsError:
        return  # another process was faster
    try:
        if os.geteuid() == 0:
            house = path.parent.stat()
            os.fchown(descriptor, house.st_uid, house.st_gid)
    finally:
        os.close(descriptor)


def _connect_reading(path: Path) -> sqlite3.Connection:
    """Connect without writing; where SQLite may not make its companions, without them if nobody writes."""
    name = f"file:{quote(os.fsencode(path.absolute()))}?mode=ro"
    connection = sqlite3.connect(name, uri=True, timeout=PATIENCE, isolation_level=None)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        connection.close()
        if path.with_name(f"{path.name}-wal").exists() or not os.access(path, os.R_OK):
            raise
        connection = sqlite3.connect(f"{name}&immutable=1", uri=True, isolation_level=None)
    return connection


def _log_ahead(connection: sqlite3.Connection) -> None:
    """Turn the write-ahead log on, once in a store's life. SQLite does not wait for others who are doing it."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(_RETRY)
        else:
            return
