"""``Index``: a SQLite file that remembers what was scanned, and the one border where sqlite3's errors are translated.

Several processes write to one index at once (a sweep, a watch, an override, a console): write-ahead log, transactions
of milliseconds that begin IMMEDIATE, and patience while another holds the lock. The file and its companions are for
their owner alone (0600). Knows the tables, no walk, no daemon and no verdict's meaning.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from nsfwd.errors import IndexFailure
from nsfwd.scanning.index.damage import find_damage
from nsfwd.scanning.index.schema import MIGRATIONS
from nsfwd.scanning.trees.safe_paths import LONGEST_NAME, safe_parent

PATIENCE = 30.0
"""Seconds to wait for another writer. Transactions last milliseconds; a checkpoint of a slow disk may last seconds."""

_APPLICATION = 0x6E736677
"""``PRAGMA application_id`` of an index ("nsfw"), so that no other program's database is taken for one."""

Row = tuple[Any, ...]

_MISFITS = (OverflowError, UnicodeEncodeError, sqlite3.DataError, sqlite3.InterfaceError)
"""What sqlite3 raises about a value: a number beyond 64 bits, a lone surrogate, a text that is too long."""


_SURPRISES = (
    *(ValueError, TypeError, AttributeError, LookupError, ArithmeticError, AssertionError, RecursionError),
    struct.error,
)
"""What reading rows ends with where a column holds something else than it should."""

_DAMAGE = (sqlite3.Error, UnicodeDecodeError)
"""What it raises about a file: SQLite's own words may hold bytes of a damaged one, which are no text."""


class RowFailure(IndexFailure):
    """A value cannot be stored or compared. It is one row's fault, or one argument's; other rows can be written."""


class Index:
    """An open index.

    Args:
        path: the file.
        create: make it, and the tables, where there is none.
        write: False for a reader, who changes nothing, not even the layout of an older version.

    Raises:
        IndexFailure: it is missing, of a newer version, not an index, unreadable, or its disk is full. The operator
            mends it; a retry helps only with a full disk or a lock held for too long. Every method may raise it.
    """

    def __init__(self, path: Path, *, create: bool = True, write: bool = True) -> None:
        self.path = path = path.absolute()
        with self._border():
            self._locate(create=create and write)
            self._db = _connect(path) if write else _connect_reading(path)
        try:
            with self._border():
                self._check_kind()
                self._prepare() if write else self._prepare_reading()
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, _SURPRISES):
                self._require_sound(error)
        finally:
            self.close()

    def _require_sound(self, error: Exception) -> None:
        """Blame the index where it holds what no nsfwd has written; else the error is a defect, and stays one."""
        with self._border():
            damage = find_damage(self._db)
        if damage:
            raise IndexFailure(f"{self.path}: the index is damaged: {damage}") from error

    @property
    def text(self) -> str:
        """The path as manifests have it; bytes that are not UTF-8 as ``\\xNN``."""
        return os.fsencode(self.path).decode("utf-8", "backslashreplace")

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write everything inside, or nothing of it."""
        with self._border():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def read(self, sql: str, values: Sequence[Any] | dict[str, Any] = ()) -> Iterator[Row]:
        """Yield the rows of a query, as they are asked for."""
        with self._border():
            for row in self._db.execute(sql, values):  # noqa: UP028 - would close the cursor after its index
                yield row

    def one(self, sql: str, values: Sequence[Any] | dict[str, Any] = ()) -> Row | None:
        """Return the first row of a query."""
        try:  # asked several times for each file of a sweep: the border without its context manager
            row: Row | None = self._db.execute(sql, values).fetchone()
        except (*_MISFITS, *_DAMAGE) as error:
            raise self._translated(error) from error
        return row

    def rows(self, sql: str, values: Sequence[Any] | dict[str, Any] = ()) -> list[Row]:
        """Return all rows of a query, where they are few: quicker than ``read``."""
        try:
            return self._db.execute(sql, values).fetchall()
        except (*_MISFITS, *_DAMAGE) as error:
            raise self._translated(error) from error

    def write(self, sql: str, values: Sequence[Any] | dict[str, Any] = ()) -> int:
        """Run one statement inside a transaction, and return the id of the row it inserted."""
        with self._border():
            return self._db.execute(sql, values).lastrowid or 0

    def write_all(self, sql: str, rows: Iterable[Sequence[Any] | dict[str, Any]]) -> int:
        """Run a statement for each of ``rows`` inside a transaction, and return how many rows it changed."""
        with self._border():
            return self._db.executemany(sql, rows).rowcount

    def _locate(self, *, create: bool) -> None:
        """See that the file is there, or make it; as root, never through a link that another user may have planted."""
        name = os.fsencode(self.path.name)
        if len(name) > LONGEST_NAME - len("-journal"):
            raise IndexFailure(f"{self.path}: this name is too long: files with longer ones belong to an index")
        try:
            with safe_parent(os.fsencode(self.path)) as (place, name):
                _make_file(place, name, create=create)
        except OSError as error:
            reason = "there is no index" if error.errno == errno.ENOENT and not create else error.strerror
            raise IndexFailure(f"{self.path}: {reason}") from error

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA foreign_keys = ON")
        self._migrate()

    def _prepare_reading(self) -> None:
        version = self._check_version()
        if not version:
            raise IndexFailure(f"{self.path}: the index is empty; no sweep has begun in it")
        for migration in MIGRATIONS[version:]:
            for statement in _statements(migration.view):
                self._db.execute(statement)

    def _check_kind(self) -> None:
        (kind,) = self._db.execute("PRAGMA application_id").fetchone()
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if kind != _APPLICATION and tables:
            raise IndexFailure(f"{self.path}: a database, but not an index of nsfwd")

    def _migrate(self) -> None:
        if self._version() == len(MIGRATIONS):
            return
        with self.transaction():
            version = self._check_version()  # another process may have been faster
            self._db.execute(f"PRAGMA application_id = {_APPLICATION}")
            self._db.execute("CREATE TABLE IF NOT EXISTS migration (name TEXT NOT NULL, time REAL NOT NULL)")
            for migration in MIGRATIONS[version:]:
                for statement in _statements(migration.sql):
                    self._db.execute(statement)
                self._db.execute("INSERT INTO migration VALUES (?, ?)", (migration.name, time.time()))
            self._db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    def _check_version(self) -> int:
        version = self._version()
        if version > len(MIGRATIONS):
            raise IndexFailure(
                f"{self.path}: written by a newer nsfwd (layout {version}, this one knows {len(MIGRATIONS)})"
            )
        return version

    def _version(self) -> int:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        return int(version)

    @contextmanager
    def _border(self) -> Iterator[None]:
        try:
            yield
        except (*_MISFITS, *_DAMAGE) as error:
            raise self._translated(error) from error
        except OSError as error:
            if error.filename != str(self.path):
                raise
            raise IndexFailure(f"{self.path}: {error.strerror}") from error

    def _translated(self, error: Exception) -> IndexFailure:
        kind = RowFailure if isinstance(error, _MISFITS) else IndexFailure
        damaged = isinstance(error, UnicodeDecodeError)
        return kind(f"{self.path}: {'the file is damaged' if damaged else error}")


def _make_file(place: int, name: bytes, *, create: bool) -> None:
    try:
        os.stat(name, dir_fd=place, follow_symlinks=False)
    except FileNotFoundError:
        if not create:
            raise
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        with suppress(FileExistsError):
            os.close(os.open(name, flags, 0o600, dir_fd=place))


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)


def _connect_reading(path: Path) -> sqlite3.Connection:
    """Open without the right to write, also where nothing beside the file can be made: on read-only media.

    SQLite says of every file that it cannot open that it cannot open it: the first line says why.

    Raises:
        IndexFailure: its log, which belongs to it, cannot be read there.
    """
    path.open("rb").close()
    where = f"file:{quote(os.fsencode(path))}?mode=ro"
    log = path.with_name(f"{path.name}-wal")
    if not os.access(path.parent, os.W_OK) and not path.with_name(f"{path.name}-shm").exists():
        if log.exists() and log.stat().st_size:
            raise IndexFailure(
                f"{path}: its log {log.name} can only be read where the directory can be written;"
                " copy both into such a directory"
            )
        where += "&immutable=1"
    return sqlite3.connect(where, uri=True, timeout=PATIENCE, isolation_level=None)


def _statements(sql: str) -> Iterator[str]:
    """Split a script: ``executescript`` would commit the transaction that a migration stands in."""
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
