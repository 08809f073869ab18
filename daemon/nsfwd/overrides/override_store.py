"""``OverrideStore``: what people decided about contents, in a SQLite file, by the SHA-256 of the content.

    with OverrideStore.open(path) as store:
        store.add(digest, "safe", reason="a statue", by="eva")

Several processes read and write one store at once: write-ahead log, transactions of milliseconds that begin IMMEDIATE,
and patience while another holds the lock. Every change is kept in a history, whose numbers tell a reader what is new
since it last looked. The file is for its owner alone (0600). Knows no policy, no image and no process.
"""

from __future__ import annotations

import re
import sqlite3
import time
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from nsfwd.errors import OverridesFailure
from nsfwd.overrides.override_tables import border, connect, connect_reading, transaction, version
from nsfwd.protocol.messages import Override

MOST_VERDICT = 100
MOST_REASON = 2000
MOST_BY = 200
"""Longest texts, in characters: a word, a paragraph, a name."""

MOST_TIME = 253402300799.0
"""The end of the year 9999, beyond which no calendar goes."""

_COLUMNS = "digest, verdict, reason, author, time, expires, path"
_HEX = re.compile("[0-9a-f]{64}")


class Changes(NamedTuple):
    """What a reader has to take up to know what the store knows.

    Attributes:
        identity: the store's own word for itself.
        number: of the last change that is in here.
        whole: these are all overrides, not what changed.
        overrides: digest -> its override, expired ones too, without its path; None where there is none any more.
    """

    identity: str
    number: int
    whole: bool
    overrides: dict[bytes, Override | None]


class OverrideChange(NamedTuple):
    """One line of the history: ``what`` is ``added``, ``replaced`` or ``removed``, at ``time`` and by whom."""

    digest: bytes
    what: str
    time: float
    by: str
    verdict: str
    reason: str
    expires: float | None


@dataclass(slots=True)
class Taken:
    """What an import came to: how many were new, replaced an older decision, or were older than what is here."""

    added: int = 0
    replaced: int = 0
    older: int = 0


def to_digest(text: str | bytes) -> bytes:
    """Read a SHA-256: 64 hexadecimal digits, or the 32 bytes themselves.

    Raises:
        OverridesFailure: it is none.
    """
    if isinstance(text, bytes):
        if len(text) == 32:
            return text
    elif _HEX.fullmatch(text.lower()):
        return bytes.fromhex(text)
    raise OverridesFailure(f"{text!r} is no SHA-256: 64 hexadecimal digits are needed")


def check(override: Override) -> Override:
    """Return what may be kept.

    Raises:
        OverridesFailure: a text is missing, too long or holds control characters, or a time is none.
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
        raise OverridesFailure(f"verdict: {override.verdict!r} is no verdict")
    for name, moment in (("time", override.time), ("expires", override.expires)):
        if moment is not None and not 0 <= moment <= MOST_TIME:  # NaN neither
            raise OverridesFailure(f"{name}: {moment} is no time in seconds since 1970")
    return override


class OverrideStore:
    """An open store; ``open`` and ``read`` make one. For one thread. Every method may raise ``OverridesFailure``."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection

    @classmethod
    def open(cls, path: Path, *, create: bool = True) -> Self:
        """Open a store to read and write.

        Args:
            create: make the file, and directories above it, where there is none.

        Raises:
            OverridesFailure: it is missing, of a newer version, no store, damaged, or may not be written.
        """
        return cls(path, connect(path, create=create))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Open a store that is there, to read only.

        Raises:
            OverridesFailure: as ``open``.
        """
        return cls(path, connect_reading(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        self._db.close()

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
        """Keep a decision made now, in place of an earlier one about the same content."""
        override = check(Override(to_digest(digest), verdict, reason, by, time.time(), expires, path))
        with transaction(self.path, self._db):
            known = self._find(override.digest) is not None
            self._put([override])
            self._note([override], "replaced" if known else "added")
        return override

    def remove(self, digest: str | bytes, *, by: str = "") -> Override | None:
        """Forget a decision; return what it was, None where there was none."""
        key = to_digest(digest)
        with transaction(self.path, self._db):
            known = self._find(key)
            if known is not None:
                self._db.execute("DELETE FROM override WHERE digest = ?", (key,))
                gone = Override(key, known.verdict, known.reason, by, time.time(), known.expires)
                self._note([check(gone)], "removed")
        return known

    def get(self, digest: str | bytes) -> Override | None:
        """Return what holds for a content now; None where nothing was decided, or no longer holds."""
        key = to_digest(digest)
        with border(self.path):
            override = self._find(key)
        return override if override is not None and override.holds(time.time()) else None

    def items(self, *, expired: bool = False) -> Iterator[Override]:
        """Yield all that hold now, and on request the expired ones too, in the order in which they were made."""
        with border(self.path):
            now = time.time()
            for row in self._db.execute(f"SELECT {_COLUMNS} FROM override ORDER BY time, digest"):
                override = Override(*row)
                if expired or override.holds(now):
                    yield override

    def history(self, digest: str | bytes | None = None) -> Iterator[OverrideChange]:
        """Yield what was done, to one content or to all, in the order in which it was done."""
        which, values = ("", ()) if digest is None else ("WHERE digest = ?", (to_digest(digest),))
        columns = "digest, what, time, author, verdict, reason, expires"
        with border(self.path):
            for row in self._db.execute(f"SELECT {columns} FROM change {which} ORDER BY number", values):
                yield OverrideChange(*row)

    def take(self, overrides: Iterable[Override]) -> Taken:
        """Take decisions from elsewhere: all or none. Of two about one content the later one wins.

        Raises:
            OverridesFailure: one is no override; also what ``overrides`` itself raises. Nothing was taken then.
        """
        with border(self.path):
            self._db.execute(f"CREATE TEMP TABLE IF NOT EXISTS taken AS SELECT {_COLUMNS} FROM override LIMIT 0")
            self._db.execute("DELETE FROM taken")
            rows = (_row(check(override)) for override in overrides)
            self._db.execute("BEGIN")
            try:
                self._db.executemany("INSERT INTO taken VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        with transaction(self.path, self._db):
            return self._merge()

    def changes(self, identity: str = "", after: int = 0) -> Changes:
        """Return what a reader does not know yet.

        Args:
            identity, after: of the ``Changes`` it had last; without them, or where this is another store, it gets all.
        """
        with border(self.path):
            if not version(self._db):
                return Changes("", 0, True, {})  # it is being made
            self._db.execute("BEGIN")
            try:
                return self._changes(identity, after)
            finally:
                self._db.execute("COMMIT")

    def _changes(self, identity: str, after: int) -> Changes:
        (own,) = self._db.execute("SELECT identity FROM store").fetchone()
        (number,) = self._db.execute("SELECT coalesce(max(number), 0) FROM change").fetchone()
        if own != identity or number < after:
            rows = self._db.execute("SELECT digest, verdict, reason, author, time, expires FROM override")
            return Changes(own, number, True, {row[0]: Override(*row) for row in rows})
        rows = self._db.execute(
            """
            SELECT changed.digest, verdict, reason, author, time, expires
            FROM (SELECT DISTINCT digest FROM change WHERE number > ?) AS changed LEFT JOIN override USING (digest)
            """,
            (after,),
        )
        return Changes(own, number, False, {row[0]: None if row[1] is None else Override(*row) for row in rows})

    def _find(self, digest: bytes) -> Override | None:
        row = self._db.execute(f"SELECT {_COLUMNS} FROM override WHERE digest = ?", (digest,)).fetchone()
        return None if row is None else Override(*row)

    def _put(self, overrides: Iterable[Override]) -> None:
        self._db.executemany("INSERT OR REPLACE INTO override VALUES (?, ?, ?, ?, ?, ?, ?)", map(_row, overrides))

    def _note(self, overrides: Iterable[Override], what: str) -> None:
        rows = ((one.digest, what, one.time, one.by, one.verdict, one.reason, one.expires) for one in overrides)
        self._db.executemany(
            "INSERT INTO change (digest, what, time, author, verdict, reason, expires) VALUES (?, ?, ?, ?, ?, ?, ?)",
            rows,
        )

    def _merge(self) -> Taken:
        """Move what was taken into its place. Of one content the last row with the latest time counts."""
        self._db.execute(
            """
            DELETE FROM taken WHERE rowid NOT IN (
                SELECT rowid FROM (SELECT rowid, row_number() OVER (
                    PARTITION BY digest ORDER BY time DESC, rowid DESC) AS place FROM taken) WHERE place = 1)
            """
        )
        (given,) = self._db.execute("SELECT count(*) FROM taken").fetchone()
        self._db.execute(
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
        replaced = self._db.execute(note, ("replaced", 1)).rowcount
        added = self._db.execute(note, ("added", 0)).rowcount
        self._db.execute(f"INSERT OR REPLACE INTO override SELECT {_COLUMNS} FROM taken")
        return Taken(added, replaced, given - added - replaced)


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
