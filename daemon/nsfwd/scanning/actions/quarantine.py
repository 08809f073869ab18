"""``Store``: a directory that files are taken into, each with the manifest that tells how to put it back.

    store = Store.quarantine(Path("/var/lib/nsfwd/quarantine"))
    recover(store)
    entry = take(store, subject)

    files/ab/DIGEST.NUMBER             what was taken, by its digest
    manifests/ab/DIGEST.NUMBER.json    how to put it back
    pending/WORKER/...                 manifests of what is being taken; the worker holds a lock on its directory
    released/ab/DIGEST.json            what a person let go again; see ``releases``

Several processes may share a store. Knows the layout and who is at work; how a file is taken is ``taking``, what is
done about a worker that died ``recovery``, how a file comes back ``restore``. Every call may wait for disks.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from nsfwd.errors import ActionFailure
from nsfwd.scanning.actions.manifest import Entry, dump, load
from nsfwd.scanning.actions.releases import Release, Releases
from nsfwd.scanning.trees.files import directory, looked_at, write_new

_ENDING = b".json"
_SHELF = ".nsfwd"
"""Below a shelf: what is not for people to look at."""


def records_of(root: Path, *, sealed: bool) -> Path:
    """Return below which directory a store keeps its manifests."""
    return root.absolute() if sealed else root.absolute() / _SHELF


class Store:
    """A directory of taken files; ``quarantine`` and ``shelf`` make one.

    Args:
        root: the directory. ``kind``: of its entries.
        sealed: names are digests, nobody but the owner may enter, nothing in it can be run.

    Raises:
        ActionFailure: it cannot be made or read, others could get at it, or its disk is full. As every method.
    """

    def __init__(self, root: Path, *, kind: str, sealed: bool) -> None:
        self.root, self.kind, self.sealed = root.absolute(), kind, sealed
        records = records_of(root, sealed=sealed)
        self.releases = Releases(records)
        self._records = os.fsencode(records)
        self._desk: tuple[int, bytes] | None = None
        with self.border():
            root.mkdir(mode=0o700 if sealed else 0o777, parents=True, exist_ok=True)
            if sealed:
                self._check()
            for part in ("pending", "manifests"):
                (records / part).mkdir(mode=0o700, parents=True, exist_ok=True)

    @classmethod
    def quarantine(cls, root: Path) -> Self:
        """Open a store whose files nobody else can open, run or serve: a directory 0700, names made of digests."""
        return cls(root, kind="quarantine", sealed=True)

    @classmethod
    def shelf(cls, root: Path) -> Self:
        """Open a store where files keep their modes, and their paths below it: for people to look at."""
        return cls(root, kind="move", sealed=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop working in it. Idempotent."""
        if self._desk is not None:
            (desk, place), self._desk = self._desk, None
            with suppress(OSError):  # what is left in it is a matter for the recovery
                os.rmdir(place)  # noqa: PTH106  # bytes
            os.close(desk)

    def _check(self) -> None:
        found = self.root.lstat()
        if not stat.S_ISDIR(found.st_mode) or os.geteuid() not in (0, found.st_uid):
            raise ActionFailure(f"{self.root}: a quarantine must be a directory, of the user who runs this")
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise ActionFailure(f"{self.root}: others may enter this quarantine; chmod 0700 {self.root}")

    @contextmanager
    def border(self) -> Iterator[None]:
        """Translate what goes wrong with the store itself."""
        try:
            yield
        except OSError as error:
            raise ActionFailure(f"{self.root}: {error.strerror or error}") from error

    def path_of(self, entry: Entry) -> bytes:
        """Return where the file of an entry lies."""
        return b"%b/%b" % (os.fsencode(self.root), entry.target)

    def holds(self, path: bytes) -> bool:
        """Tell whether a path is below this store: what was taken is not taken again."""
        return path.startswith(os.fsencode(self.root) + b"/")

    @contextmanager
    def place(self, entry: Entry) -> Iterator[tuple[int, bytes]]:
        """Lend the directory where the file of an entry lies, made where it is missing, and its name there."""
        parent, _, name = self.path_of(entry).rpartition(b"/")
        with self.border():
            _make(parent, 0o700 if self.sealed else 0o777)
            opened = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield opened, name
        finally:
            os.close(opened)

    # -- manifests ------------------------------------------------------------------------------------------------

    def note(self, entry: Entry) -> None:
        """Put the manifest of what is being taken on the disk, over an earlier one of the same entry."""
        with self.border():
            write_new(self._own_desk(), _file_of(entry), dump(entry))

    def file(self, entry: Entry, desk: int | None = None) -> None:
        """Put the manifest of what was taken where it stays; ``desk`` is whose it is, None for the own one."""
        with self.border():
            source = self._own_desk() if desk is None else desk
            parent = self._drawer(entry)
            _make(parent, 0o700)
            with directory(parent) as place:
                os.rename(_file_of(entry), _file_of(entry), src_dir_fd=source, dst_dir_fd=place)
                os.fsync(place)
            os.fsync(source)

    def forget(self, entry: Entry, desk: int | None = None) -> None:
        """Remove the manifest of what was not taken after all."""
        with self.border():
            os.unlink(_file_of(entry), dir_fd=self._own_desk() if desk is None else desk)

    def drop(self, entry: Entry) -> None:
        """Remove the manifest of what is back in its place."""
        with self.border(), directory(self._drawer(entry)) as place:
            os.unlink(_file_of(entry), dir_fd=place)
            os.fsync(place)

    def correct(self, entry: Entry) -> None:
        """Write the manifest of what lies here anew; one whose file has come back meanwhile stays gone."""
        with self.border(), directory(self._drawer(entry)) as drawer, self.place(entry) as (place, name):
            write_new(drawer, _file_of(entry), dump(entry))
            if looked_at(place, name) is None:
                os.unlink(_file_of(entry), dir_fd=drawer)

    def release(self, entry: Entry, decided: float) -> None:
        """Note that a person lets a content go, by an override of this time: no run takes it while that holds."""
        release = Release(digest=entry.digest, time=time.time(), decided=decided, path=entry.path_text)
        with self.border():
            self.releases.note(release)

    def entries(self) -> Iterator[Entry]:
        """Yield what lies here, in no order that matters; what another process is taking just now is not among it."""
        base = self._records + b"/manifests"
        for shard in sorted(_listed(base)):
            for name in sorted(_listed(base + b"/" + shard)):
                entry = _read(base + b"/" + shard + b"/" + name) if name.endswith(_ENDING) else None
                if entry is not None:
                    yield entry

    @contextmanager
    def abandoned(self) -> Iterator[Iterator[tuple[int, Entry]]]:
        """Lend what dead workers left: a descriptor of each one's desk with an entry. Their desks go when empty."""
        base = self._records + b"/pending"
        with self.border():
            yield self._abandoned(base)

    def _abandoned(self, base: bytes) -> Iterator[tuple[int, Entry]]:
        for worker in sorted(_listed(base)):
            place = base + b"/" + worker
            with suppress(FileNotFoundError), directory(place) as desk:
                try:
                    fcntl.flock(desk, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                for name in _listed(place):
                    if name.startswith(b"."):  # begun and never whole: nothing was touched yet
                        os.unlink(name, dir_fd=desk)
                        continue
                    entry = _read(place + b"/" + name)
                    if entry is not None:
                        yield desk, entry
                with suppress(OSError):
                    os.rmdir(place)  # noqa: PTH106  # bytes

    def _drawer(self, entry: Entry) -> bytes:
        return b"%b/manifests/%b" % (self._records, entry.name[:2].encode())

    def _own_desk(self) -> int:
        """Return this worker's desk. It may be cleared away between its making and its lock: then another is made."""
        while self._desk is None:
            place = b"%b/pending/%b" % (self._records, secrets.token_hex(8).encode())
            os.mkdir(place, 0o700)  # noqa: PTH102  # bytes
            desk = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(desk, fcntl.LOCK_EX)
            if os.path.exists(place):  # noqa: PTH110  # bytes
                self._desk = desk, place
            else:
                os.close(desk)
        return self._desk[0]


def _file_of(entry: Entry) -> bytes:
    return entry.name.encode() + _ENDING


def _make(path: bytes, mode: int) -> None:
    os.makedirs(path, mode=mode, exist_ok=True)  # noqa: PTH103  # bytes


def _listed(path: bytes) -> list[bytes]:
    try:
        return os.listdir(path)  # noqa: PTH208  # bytes
    except FileNotFoundError:
        return []


def _read(path: bytes) -> Entry | None:
    """Return a manifest; None where it has gone meanwhile."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123  # bytes
            return load(file.read(), os.fsdecode(path))
    except FileNotFoundError:
        return None
