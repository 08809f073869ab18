"""``SqliteStore``: a SQLite file that several processes use at once, and the one border of sqlite3's errors.

    class Index(SqliteStore):
        FORMAT = StoreFormat(...)

Write-ahead log, transactions of milliseconds that begin IMMEDIATE, and patience while another process holds the lock.
The layout is brought up to date by named migrations when a writer opens the file; a reader changes nothing. A file of
another program, or of a newer nsfwd, is refused before anything is written. Knows SQL and files, and no table.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self
from urllib.parse import quote

from nsfwd.errors import NsfwdError

Row = tuple[Any, ...]

_RETRY = 0.01
"""Seconds between two tries where SQLite itself does not wait for a lock."""

_LONGEST_NAME = 255 - len("-journal")
"""Bytes of a name; SQLite makes files beside its own whose names are longer."""

_TYPES = {"INTEGER": "'integer'", "REAL": "'real', 'integer'", "TEXT": "'text'", "BLOB": "'blob'"}
"""Declared type of a column -> types that its values may have."""

_MISFITS = (OverflowError, UnicodeEncodeError, sqlite3.DataError, sqlite3.InterfaceError)
"""What sqlite3 raises about a value: a number beyond 64 bits, a lone surrogate, a text that is too long."""

_DAMAGE = (sqlite3.Error, UnicodeDecodeError)
"""What it raises about a file: SQLite's messages may hold bytes of a damaged one, which are no text."""

_SURPRISES = (
    *(ValueError, TypeError, AttributeError, LookupError, ArithmeticError, AssertionError, RecursionError),
    struct.error,
)
"""What reading rows ends with where a column holds something else than it should."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step from an older layout of the tables to the next.

    Attributes:
        name: what the step does.
        sql: the statements, run in one transaction.
        view: statements that give a reader who may not write the same names, as temporary views.
    """

    name: str
    sql: str
    view: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFormat:
    """The format of a store's files.

    Attributes:
        name: of the kind of file, with its article, for messages.
        application: ``PRAGMA application_id``, so that no other program's database is taken for one.
        migrations: in the order in which they are taken; ``PRAGMA user_version`` counts those a file has taken.
        patience: seconds to wait for another process that holds the lock.
        failure: raised about the file. ``row_failure``: about a value that cannot be stored or compared.
        synchronous: ``FULL`` where a transaction must outlive a power cut, else ``NORMAL``.
        rules: (table, column) -> SQL that holds for each value that nsfwd writes, besides NULL; where there is none,
            a value has the declared type of its column.
    """

    name: str
    application: int
    migrations: tuple[Migration, ...]
    patience: float
    failure: type[NsfwdError]
    row_failure: type[NsfwdError]
    synchronous: str = "NORMAL"
    rules: Mapping[tuple[str, str], str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The name without its article."""
        return self.name.partition(" ")[2]


class SqliteStore:
    """An open file of one format, for one thread. Every method may raise the failures of its format.

    Args:
        path: the file.
        create: make it, and the tables, where there is none.
        write: False for a reader, who changes nothing, not even the layout of an older version.

    Raises:
        NsfwdError: it is missing, of a newer version, of another program, unreadable, or its disk is full. The operator
            fixes it; a retry helps only with a full disk or a lock held for too long.
    """

    FORMAT: ClassVar[StoreFormat]

    def __init__(self, path: Path, *, create: bool = True, write: bool = True) -> None:
        self.path = path = path.absolute()
        if len(os.fsencode(path.name)) > _LONGEST_NAME:
            raise self._failure("this name is too long: SQLite keeps files with longer names beside it")
        with self._border():
            self._locate(create=create and write)
            self._check_file()
            self._db = self._connect() if write else self._connect_reading()
        try:
            with self._border():
                self._check_kind(self._db)
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

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        self._db.close()

    @contextmanager
    def transaction(self, how: str = "IMMEDIATE") -> Iterator[None]:
        """Write everything inside, or nothing of it; ``DEFERRED`` reads inside see one state of the file."""
        with self._border():
            self._db.execute(f"BEGIN {how}")
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

    # -- what a kind of store adds --------------------------------------------------------------------------------

    def _locate(self, *, create: bool) -> None:
        """See that the file is there, or make an empty one."""
        raise NotImplementedError

    def _migrated(self, taken: Sequence[Migration]) -> None:
        """Write what belongs to new tables, in the transaction that made them."""

    def _check_tables(self, version: int) -> None:
        """Refuse, or not, a layout that a reader cannot use: 0 has no tables yet."""

    # -- opening ---------------------------------------------------------------------------------------------------

    def _check_file(self) -> None:
        """Refuse another program's database before SQLite touches it: a writer would clear up what a crash left.

        Not with ``open``: closing a descriptor of the file releases all locks that this process has on it.
        """
        found = self.path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise self._failure("is a directory" if stat.S_ISDIR(found.st_mode) else "not a regular file")
        if not os.access(self.path, os.R_OK):
            raise self._failure(os.strerror(errno.EACCES))
        with closing(sqlite3.connect(f"{self._uri}?mode=ro&immutable=1", uri=True)) as database:
            try:
                self._check_kind(database)
            except sqlite3.DatabaseError:
                if not self._has_log():  # else a part of the file may be in its log, after a crash or on a full disk
                    raise

    def _check_kind(self, database: sqlite3.Connection) -> None:
        form = self.FORMAT
        database.execute("BEGIN")  # another process may be creating it: one state of both numbers
        try:
            (application,) = database.execute("PRAGMA application_id").fetchone()
            if application != form.application:
                (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
                if application or tables:
                    raise self._failure(f"a database, but not {form.name} of nsfwd")
            (version,) = database.execute("PRAGMA user_version").fetchone()
        finally:
            if database.in_transaction:
                database.execute("COMMIT")
        if version > (known := len(form.migrations)):
            raise self._failure(f"written by a newer nsfwd (layout {version}, this one knows {known})")

    @property
    def _uri(self) -> str:
        return f"file:{quote(os.fsencode(self.path))}"

    def _has_log(self) -> bool:
        log = self.path.with_name(f"{self.path.name}-wal")
        return log.exists() and log.stat().st_size > 0

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=self.FORMAT.patience, isolation_level=None)

    def _connect_reading(self) -> sqlite3.Connection:
        """Open without the right to write, also where nothing beside the file can be made: on read-only media."""
        mode = "mode=ro"
        if not os.access(self.path.parent, os.W_OK) and not self.path.with_name(f"{self.path.name}-shm").exists():
            if self._has_log():
                raise self._failure(
                    f"its log {self.path.name}-wal can only be read where the directory can be written;"
                    " copy both into such a directory"
                )
            mode += "&immutable=1"
        return sqlite3.connect(f"{self._uri}?{mode}", uri=True, timeout=self.FORMAT.patience, isolation_level=None)

    def _prepare(self) -> None:
        self._log_ahead()
        self._db.execute(f"PRAGMA synchronous = {self.FORMAT.synchronous}")
        self._db.execute("PRAGMA foreign_keys = ON")
        if self._version() != len(self.FORMAT.migrations):
            with self.transaction():
                self._migrate()

    def _log_ahead(self) -> None:
        """Turn the write-ahead log on, once in a file's life. SQLite does not wait for others who are doing it."""
        until = time.monotonic() + self.FORMAT.patience
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
                time.sleep(_RETRY)
            else:
                return

    def _migrate(self) -> None:
        form = self.FORMAT
        version = self._version()
        if version == len(form.migrations):
            return  # another process was faster
        self._db.execute(f"PRAGMA application_id = {form.application}")
        for migration in form.migrations[version:]:
            for statement in _statements(migration.sql):
                self._db.execute(statement)
        self._db.execute(f"PRAGMA user_version = {len(form.migrations)}")
        self._migrated(form.migrations[version:])

    def _prepare_reading(self) -> None:
        version = self._version()
        self._check_tables(version)
        for migration in self.FORMAT.migrations[version:] if version else ():
            for statement in _statements(migration.view):
                self._db.execute(statement)

    def _version(self) -> int:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        return int(version)

    # -- errors ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _border(self) -> Iterator[None]:
        try:
            yield
        except (*_MISFITS, *_DAMAGE) as error:
            raise self._translated(error) from error
        except OSError as error:
            if error.filename != str(self.path):
                raise
            raise self._failure(error.strerror) from error

    def _translated(self, error: Exception) -> NsfwdError:
        kind = self.FORMAT.row_failure if isinstance(error, _MISFITS) else self.FORMAT.failure
        damaged = isinstance(error, UnicodeDecodeError)
        return kind(f"{self.path}: {'the file is damaged' if damaged else error}")

    def _failure(self, text: object) -> NsfwdError:
        return self.FORMAT.failure(f"{self.path}: {text}")

    def _require_sound(self, error: Exception) -> None:
        """Blame the file where it holds what no nsfwd has written; else the error is a defect, and stays one."""
        with self._border():
            damage = find_damage(self._db, self.FORMAT.rules)
        if damage:
            raise self._failure(f"the {self.FORMAT.kind} is damaged: {damage}") from error


def find_damage(db: sqlite3.Connection, rules: Mapping[tuple[str, str], str]) -> str:
    """Return which column holds values that nsfwd does not write: another program's, or those of a disk that failed.

    Returns:
        A sentence; empty where there are none.

    Raises:
        sqlite3.Error: the file itself cannot be read.
    """
    tables = db.execute("SELECT name FROM main.sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
    for (table,) in tables.fetchall():
        for _, column, declared, *_ in db.execute(f'PRAGMA main.table_info("{table}")').fetchall():
            rule = rules.get((table, column), f'typeof("{column}") IN ({_TYPES.get(declared, "")})')
            wrong = f'"{column}" IS NOT NULL AND NOT coalesce({rule}, 0)'
            (count,) = db.execute(f'SELECT count(*) FROM main."{table}" WHERE {wrong}').fetchone()
            if count:
                return f"{count} rows of {table} have a wrong {column}"
    return ""


def _statements(script: str) -> Iterator[str]:
    """Split a script: ``executescript`` would commit the transaction that a migration stands in."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
