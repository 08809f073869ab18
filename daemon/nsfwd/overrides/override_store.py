"""``OverrideStore``: verdicts that people set, by the SHA-256 of the content, in a SQLite file.

    with OverrideStore(path) as store:
        store.add(digest, "safe", reason="a statue", by="eva")

Several processes read and write one store at once. Every change is kept in a history, whose numbers let a reader take
only the changes since its last look. The file is for its owner alone (0600). Knows no policy, no image and no process.
"""

from __future__ import annotations

import os
import re
import secrets
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from nsfwd.errors import OverridesFailure
from nsfwd.protocol.messages import Override
from nsfwd.sqlite_store import Migration, Row, SqliteStore, StoreFormat

NONE = "none"
"""The setting's word for doing without."""

MOST_VERDICT = 100
MOST_REASON = 2000
MOST_BY = 200
"""Longest texts, in characters: a word, a paragraph, a name."""

MOST_TIME = 253402300799.0
"""The end of the year 9999, beyond which no calendar goes."""

_COLUMNS = "digest, verdict, reason, author, time, expires, path"
_RULES = {
    "digest": "typeof(digest) = 'blob' AND length(digest) = 32",
    **{name: f"typeof({name}) = 'real' AND {name} BETWEEN 0 AND {MOST_TIME}" for name in ("time", "expires")},
}
_HEX = re.compile("[0-9a-f]{64}")


MIGRATIONS = (
    Migration(
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


class Changes(NamedTuple):
    """The changes that a reader lacks.

    Attributes:
        identity: random, of this store; another one means another store in the same place.
        number: of the last change that is in here.
        whole: these are all overrides, not what changed.
        overrides: digest -> its override, expired ones too, without its path; None where there is none any more.
    """

    identity: str
    number: int
    whole: bool
    overrides: dict[bytes, Override | None]


class OverrideChange(NamedTuple):
    """One line of the history: ``what`` is ``added``, ``replaced`` or ``removed``; ``by`` is its author."""

    digest: bytes
    what: str
    time: float
    by: str
    verdict: str
    reason: str
    expires: float | None


@dataclass(slots=True)
class ImportCounts:
    """Counts of an import: new overrides, replaced older ones, and those that are older than the store's."""

    added: int = 0
    replaced: int = 0
    older: int = 0


def store_of(setting: str) -> Path | None:
    """Return the store that the setting ``overrides`` names; None where it names none."""
    return None if setting in ("", NONE) else Path(setting)


def parse_digest(text: str | bytes) -> bytes:
    """Read a SHA-256: 64 hexadecimal digits, or the 32 bytes themselves.

    Raises:
        OverridesFailure: it is none.
    """
    if isinstance(text, bytes):
        if len(text) == 32:
            return text
    elif _HEX.fullmatch(text.lower()):
        return bytes.fromhex(text)
    raise OverridesFailure(f"invalid SHA-256 {text!r}: 64 hexadecimal digits are needed")


def check(override: Override) -> Override:
    """Return the override, if it can be stored.

    Raises:
        OverridesFailure: a text is missing, too long or holds control characters, or a time is out of range.
    """
    for name, text, most in (
        ("verdict", override.verdict, MOST_VERDICT),
        ("reason", override.reason, MOST_REASON),
        ("by", override.by, MOST_BY),
    ):
        if len(text) > most:
            raise OverridesFailure(f"{name}: longer than {most} characters")
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
            raise OverridesFailure(f"{name}: {text!r} holds control characters or bytes that are not UTF-8")
    if not override.verdict or override.verdict != override.verdict.strip():
        raise OverridesFailure(f"verdict: invalid verdict {override.verdict!r}")
    for name, moment in (("time", override.time), ("expires", override.expires)):
        if moment is not None and not 0 <= moment <= MOST_TIME:  # NaN neither
            raise OverridesFailure(f"{name}: invalid time {moment}: seconds since 1970 are needed")
    return override


class OverrideStore(SqliteStore):
    """An open store. Every method may raise ``OverridesFailure``.

    Of a reader (``write=False``) the tables may be missing, where the store is just being made.
    """

    FORMAT = StoreFormat(
        name="a store of overrides",
        application=0x6E73666F,  # "nsfo"
        migrations=MIGRATIONS,
        patience=10.0,  # transactions last milliseconds, large imports seconds
        failure=OverridesFailure,
        row_failure=OverridesFailure,
        synchronous="FULL",  # a decision that was confirmed outlives a power cut
        rules={(table, column): rule for table in ("override", "change") for column, rule in _RULES.items()},
    )

    def _locate(self, *, create: bool) -> None:
        """Check that the file is there, or make it; root gives it to the owner of its directory, the daemon."""
        if self.path.exists():
            return
        if not create:
            raise self._failure("there is no store of overrides")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_RDWR, 0o600)
        except FileExistsError:
            return  # another process was faster
        except OSError as error:
            raise self._failure(error.strerror) from error
        try:
            if os.geteuid() == 0:
                owner = self.path.parent.stat()
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
        finally:
            os.close(descriptor)

    def _migrated(self, taken: Sequence[Migration]) -> None:
        if taken[0] is MIGRATIONS[0]:
            self.write("INSERT INTO store VALUES (?)", (secrets.token_hex(8),))

    def add(
        self,
        digest: str | bytes,
        verdict: str,
        *,
        reason: str = "",
        by: str = "",
        expires: float | None = None,
        path: bytes = b"",
    ) -> Override:
        """Store an override made now, in place of an earlier one of the same content."""
        override = check(Override(parse_digest(digest), verdict, reason, by, time.time(), expires, path))
        with self.transaction():
            known = self._find(override.digest) is not None
            self._put([override])
            self._note([override], "replaced" if known else "added")
        return override

    def remove(self, digest: str | bytes, *, by: str = "") -> Override | None:
        """Delete an override; return it, None where there was none."""
        key = parse_digest(digest)
        with self.transaction():
            known = self._find(key)
            if known is not None:
                self.write("DELETE FROM override WHERE digest = ?", (key,))
                gone = Override(key, known.verdict, known.reason, by, time.time(), known.expires)
                self._note([check(gone)], "removed")
        return known

    def get(self, digest: str | bytes) -> Override | None:
        """Return the override of a content that holds now, if there is one."""
        override = self._find(parse_digest(digest))
        return override if override is not None and override.holds(time.time()) else None

    def items(self, *, expired: bool = False) -> Iterator[Override]:
        """Yield all overrides that hold now, and on request the expired ones too, oldest first."""
        now = time.time()
        for row in self.read(f"SELECT {_COLUMNS} FROM override ORDER BY time, digest"):
            override = _override(row)
            if expired or override.holds(now):
                yield override

    def history(self, digest: str | bytes | None = None) -> Iterator[OverrideChange]:
        """Yield the changes of one content or of all, oldest first."""
        which, values = ("", ()) if digest is None else ("WHERE digest = ?", (parse_digest(digest),))
        columns = "digest, what, time, author, verdict, reason, expires"
        for row in self.read(f"SELECT {columns} FROM change {which} ORDER BY number", values):
            yield OverrideChange(*row)

    def take(self, overrides: Iterable[Override]) -> ImportCounts:
        """Import overrides: all or none. Of two about one content the later one wins.

        Raises:
            OverridesFailure: one cannot be stored. Nothing is taken then, nor after an error of ``overrides`` itself.
        """
        self.write(f"CREATE TEMP TABLE IF NOT EXISTS taken AS SELECT {_COLUMNS} FROM override LIMIT 0")
        self.write("DELETE FROM taken")
        rows = (_row(check(override)) for override in overrides)
        with self.transaction("DEFERRED"):  # of a temporary table: others may write while the list is read
            self.write_all("INSERT INTO taken VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        with self.transaction():
            return self._merge()

    def changes(self, identity: str = "", after: int = 0) -> Changes:
        """Return the changes that a reader does not know yet.

        Args:
            identity, after: of the ``Changes`` it had last; without them, or where this is another store, it gets all.
        """
        with self.transaction("DEFERRED"):
            return self._changes(identity, after) if self._version() else Changes("", 0, True, {})

    def _changes(self, identity: str, after: int) -> Changes:
        (own,) = self.one("SELECT identity FROM store") or ("",)
        (number,) = self.one("SELECT coalesce(max(number), 0) FROM change") or (0,)
        if own != identity or number < after:
            every = self.read("SELECT digest, verdict, reason, author, time, expires FROM override")
            return Changes(own, number, True, {row[0]: _override(row) for row in every})
        rows = self.read(
            """
            SELECT changed.digest, verdict, reason, author, time, expires
            FROM (SELECT DISTINCT digest FROM change WHERE number > ?) AS changed LEFT JOIN override USING (digest)
            """,
            (after,),
        )
        return Changes(own, number, False, {row[0]: None if row[1] is None else _override(row) for row in rows})

    def _find(self, digest: bytes) -> Override | None:
        row = self.one(f"SELECT {_COLUMNS} FROM override WHERE digest = ?", (digest,))
        return None if row is None else _override(row)

    def _put(self, overrides: Iterable[Override]) -> None:
        self.write_all("INSERT OR REPLACE INTO override VALUES (?, ?, ?, ?, ?, ?, ?)", map(_row, overrides))

    def _note(self, overrides: Iterable[Override], what: str) -> None:
        rows = ((one.digest, what, one.time, one.by, one.verdict, one.reason, one.expires) for one in overrides)
        self.write_all(
            "INSERT INTO change (digest, what, time, author, verdict, reason, expires) VALUES (?, ?, ?, ?, ?, ?, ?)",
            rows,
        )

    def _merge(self) -> ImportCounts:
        """Move imported overrides into the table. Of one content the last row with the latest time counts."""
        self.write(
            """
            DELETE FROM taken WHERE rowid NOT IN (
                SELECT rowid FROM (SELECT rowid, row_number() OVER (
                    PARTITION BY digest ORDER BY time DESC, rowid DESC) AS place FROM taken) WHERE place = 1)
            """
        )
        (given,) = self.one("SELECT count(*) FROM taken") or (0,)
        self.write(
            """
            DELETE FROM taken WHERE EXISTS (
                SELECT 1 FROM override AS here WHERE here.digest = taken.digest AND here.time >= taken.time)
            """
        )
        note = """
            INSERT INTO change (digest, what, time, author, verdict, reason, expires)
            SELECT digest, ?, time, author, verdict, reason, expires FROM taken
            WHERE EXISTS (SELECT 1 FROM override AS here WHERE here.digest = taken.digest) = ?
            """
        replaced = self.write_all(note, [("replaced", 1)])
        added = self.write_all(note, [("added", 0)])
        self.write(f"INSERT OR REPLACE INTO override SELECT {_COLUMNS} FROM taken")
        return ImportCounts(added, replaced, given - added - replaced)


def _row(override: Override) -> tuple[Any, ...]:
    return (
        override.digest,
        override.verdict,
        override.reason,
        override.by,
        override.time,
        override.expires,
        override.path,
    )


def _override(row: Row) -> Override:
    """Return an override from its columns; values of another program or a failed disk must not reach a judgement."""
    override = Override(*row)
    texts = (override.verdict, override.reason, override.by)
    times = (override.time, override.expires or 0.0)
    if len(override.digest) != 32 or not all(isinstance(text, str) for text in texts):
        raise TypeError("an override has a wrong digest or text")
    if not all(isinstance(moment, float) and 0 <= moment <= MOST_TIME for moment in times):
        raise TypeError("an override has a wrong time")
    return override
