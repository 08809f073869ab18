"""``Index``: a SQLite file that remembers what was scanned.

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
from nsfwd.scanning.index.schema import MIGRATIONS, RULES
from nsfwd.scanning.trees.safe_paths import safe_parent
from nsfwd.sqlite_store import Migration, SqliteStore, StoreFormat


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
        """See that the file is there, or make it; as root, never through a link that another user may have planted."""
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
