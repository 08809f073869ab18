"""``Store``: a directory that files are moved into, each with a manifest that says how to put it back.

    store = Store.quarantine(Path("/var/lib/nsfwd/quarantine"))
    recover(store)
    entry = take(store, subject)

    files/ab/DIGEST.NUMBER             what was taken, by its digest
    manifests/ab/DIGEST.NUMBER.json    how to put it back
    pending/WORKER/...                 manifests of what is being taken; the worker holds a lock on its directory
    released/ab/DIGEST.json            what a person let go again; see ``Releases``

Several processes may share a store. Knows the layout and who is at work; how a file is taken is ``move_out``, what is
done about a worker that died ``recovery``, how a file comes back ``restore``. Every call may wait for disks.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Self

import msgspec

from nsfwd.documents import DocumentError, decode_json
from nsfwd.errors import ActionFailure
from nsfwd.scanning.actions.quarantine_manifest import ManifestEntry, dump, load
from nsfwd.scanning.trees.files import hand_over, stat_regular, write_new
from nsfwd.scanning.trees.safe_paths import Diverted, below, safe_directory

_ENDING = b".json"
_SHELF = b".nsfwd"
"""Below a shelf: what is not for people to look at."""

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


Damaged = Callable[[ActionFailure], object]
"""Is given the error of a manifest that cannot be read; its file and it stay as they are."""


def _refuse(error: ActionFailure) -> None:
    raise error


def records_of(root: Path, *, sealed: bool) -> Path:
    """Return the directory below which a store keeps its manifests."""
    return root.absolute() if sealed else root.absolute() / os.fsdecode(_SHELF)


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
        self.releases = Releases(records_of(root, sealed=sealed))
        self._worker_dir: tuple[int, bytes] | None = None
        with self.border(), safe_directory(os.fsencode(self.root), make=0o700 if sealed else 0o777) as opened:
            if sealed:
                self._check(os.fstat(opened))
            with below(opened, b"" if sealed else _SHELF, make=0o700) as records:
                self._owner = os.fstat(records).st_uid
                for part in (b"pending", b"manifests"):
                    with below(records, part, make=0o700):
                        pass

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
        if self._worker_dir is not None:
            (worker_dir, name), self._worker_dir = self._worker_dir, None
            with suppress(OSError), self._records(b"pending") as pending:  # what is left in it is for the recovery
                os.rmdir(name, dir_fd=pending)
            os.close(worker_dir)

    def _check(self, found: os.stat_result) -> None:
        if self.root.is_symlink() or os.geteuid() not in (0, found.st_uid):
            raise ActionFailure(f"{self.root}: a quarantine must be a directory, of the user who runs this")
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise ActionFailure(f"{self.root}: others may enter this quarantine; chmod 0700 {self.root}")

    @contextmanager
    def border(self) -> Iterator[None]:
        """Translate errors of the store itself."""
        try:
            yield
        except OSError as error:
            raise ActionFailure(f"{self.root}: {error.strerror or error}") from error

    def path_of(self, entry: ManifestEntry) -> bytes:
        """Return the path of an entry's file in the store."""
        return b"%b/%b" % (os.fsencode(self.root), entry.target)

    @contextmanager
    def home(self, entry: ManifestEntry) -> Iterator[int]:
        """Lend the directory where the file of an entry was, to put something there.

        A link on the way that another user may change is followed only to the very directory that the file was in. Out
        of a store of another user nothing is put where neither that user nor the file's owner could have put it.

        Raises:
            OSError: it is missing, or leads elsewhere by now.
        """
        with _way_home(entry) as opened:
            found = os.fstat(opened)
            if self._owner not in (0, os.geteuid()):
                self._check_permitted(entry, found)
            yield opened

    def _check_permitted(self, entry: ManifestEntry, home: os.stat_result) -> None:
        with self.place(entry) as (place, name):
            lies = stat_regular(place, name)
        users = {self._owner} | ({lies.st_uid} if lies is not None else set())
        if not any(_may_write(user, home) for user in users):
            text = f"neither the owner of this store (user {self._owner}) nor the file's may write in its directory"
            raise PermissionError(errno.EACCES, text)

    def holds(self, path: bytes) -> bool:
        """Return whether a path is below this store: its files are not taken again."""
        return path.startswith((os.fsencode(self.root) + b"/", os.path.realpath(os.fsencode(self.root)) + b"/"))

    @contextmanager
    def place(self, entry: ManifestEntry) -> Iterator[tuple[int, bytes]]:
        """Lend the directory where the file of an entry lies, made where it is missing, and its name there.

        Raises:
            OSError: in a shelf, something stands in the way of this one's path: a link, a file.
        """
        parent, _, name = entry.target.rpartition(b"/")
        with ExitStack() as stack:
            with self.border() if self.sealed else nullcontext():
                root = stack.enter_context(safe_directory(os.fsencode(self.root)))
                place = stack.enter_context(below(root, parent, make=0o700 if self.sealed else 0o777))
            yield place, name

    # -- manifests ------------------------------------------------------------------------------------------------

    def note(self, entry: ManifestEntry) -> None:
        """Write the manifest of a file that is about to be taken, over an earlier one; it is on the disk then."""
        with self.border():
            write_new(self._own_worker_dir(), _file_of(entry), dump(entry))

    def file(self, entry: ManifestEntry, worker_dir: int | None = None) -> None:
        """Put the manifest of a taken file where it stays, from the directory of this worker or from ``worker_dir``."""
        with self.border():
            source = self._own_worker_dir() if worker_dir is None else worker_dir
            with self._shard(entry, make=True) as place:
                os.rename(_file_of(entry), _file_of(entry), src_dir_fd=source, dst_dir_fd=place)
                os.fsync(place)
            os.fsync(source)

    def forget(self, entry: ManifestEntry, worker_dir: int | None = None) -> None:
        """Remove the manifest of a file that was not taken after all."""
        with self.border():
            os.unlink(_file_of(entry), dir_fd=self._own_worker_dir() if worker_dir is None else worker_dir)

    def drop(self, entry: ManifestEntry) -> None:
        """Remove the manifest of a file that is back in its place."""
        with self.border(), self._shard(entry) as place:
            os.unlink(_file_of(entry), dir_fd=place)
            os.fsync(place)

    def correct(self, entry: ManifestEntry) -> None:
        """Rewrite the manifest of a file in this store; it stays deleted if the file has come back."""
        with self.border(), self._shard(entry) as shard, self.place(entry) as (place, name):
            write_new(shard, _file_of(entry), dump(entry))
            if stat_regular(place, name) is None:
                os.unlink(_file_of(entry), dir_fd=shard)

    def release(self, entry: ManifestEntry, decided: float) -> None:
        """Write that a person released a content, by an override of this time: no run takes it while that holds."""
        release = Release(digest=entry.digest, time=time.time(), decided=decided, path=entry.path_text)
        with self.border():
            self.releases.note(release)

    def entries(self, damaged: Damaged = _refuse) -> Iterator[ManifestEntry]:
        """Yield the entries of the store in any order, without those that another process is taking at the moment.

        Args:
            damaged: is given the error of each manifest that cannot be read; raises it by default.
        """
        with self.border(), self._records(b"manifests") as manifests:
            shards = _listed(manifests)
        for shard in shards:
            with suppress(FileNotFoundError), self._records(b"manifests/" + shard) as opened:
                for name in _listed(opened):
                    entry = self._read(opened, name, damaged) if name.endswith(_ENDING) else None
                    if entry is not None:
                        yield entry

    @contextmanager
    def abandoned(self, damaged: Damaged = _refuse) -> Iterator[Iterator[tuple[int, ManifestEntry]]]:
        """Lend the entries of dead workers, each with a descriptor of the worker's directory; empty ones are removed.

        Args:
            damaged: as of ``entries``; such a manifest stays where it is.
        """
        with self.border(), self._records(b"pending") as pending:
            yield self._abandoned(pending, damaged)

    def _abandoned(self, pending: int, damaged: Damaged) -> Iterator[tuple[int, ManifestEntry]]:
        for worker in _listed(pending):
            with suppress(FileNotFoundError), below(pending, worker) as worker_dir:
                try:
                    fcntl.flock(worker_dir, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                for name in _listed(worker_dir):
                    if name.startswith(b"."):  # begun and never whole: nothing was touched yet
                        os.unlink(name, dir_fd=worker_dir)
                        continue
                    entry = self._read(worker_dir, name, damaged)
                    if entry is not None:
                        yield worker_dir, entry
                with suppress(OSError):
                    os.rmdir(worker, dir_fd=pending)

    @contextmanager
    def _records(self, part: bytes, *, make: bool = False) -> Iterator[int]:
        """Lend a directory below the one with the manifests."""
        relative = part if self.sealed else _SHELF + b"/" + part
        with (
            safe_directory(os.fsencode(self.root)) as root,
            below(root, relative, make=0o700 if make else None) as opened,
        ):
            yield opened

    def _shard(self, entry: ManifestEntry, *, make: bool = False) -> AbstractContextManager[int]:
        return self._records(b"manifests/" + entry.name[:2].encode(), make=make)

    def _read(self, place: int, name: bytes, damaged: Damaged) -> ManifestEntry | None:
        """Return a manifest; None where it is damaged, or has gone since it was listed."""
        where = f"{self.root}: {os.fsdecode(name)}"
        try:
            with os.fdopen(os.open(name, _READ, dir_fd=place), "rb") as file:
                return load(file.read(), where, kind=self.kind)
        except FileNotFoundError:
            pass
        except ActionFailure as error:
            damaged(error)
        except OSError as error:
            damaged(ActionFailure(f"{where}: {error.strerror}"))
        return None

    def _own_worker_dir(self) -> int:
        """Return this worker's directory; where it was removed between its making and its lock, another one."""
        while self._worker_dir is None:
            name = secrets.token_hex(8).encode()
            with self._records(b"pending") as pending, below(pending, name, make=0o700) as made:
                fcntl.flock(made, fcntl.LOCK_EX)
                if name in _listed(pending):
                    self._worker_dir = os.dup(made), name  # which holds the lock on
        return self._worker_dir[0]


def _file_of(entry: ManifestEntry) -> bytes:
    return entry.name.encode() + _ENDING


def _listed(place: int) -> list[bytes]:
    return sorted(map(os.fsencode, os.listdir(place)))  # of a descriptor


@contextmanager
def _way_home(entry: ManifestEntry) -> Iterator[int]:
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(safe_directory(entry.directory))
        except Diverted:
            opened = os.open(entry.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, opened)
            found = os.fstat(opened)
            if entry.place != (found.st_dev, found.st_ino):
                raise
        yield opened


def _may_write(user: int, found: os.stat_result) -> bool:
    """Return whether a user may make files in a directory, by its mode."""
    if user in (0, found.st_uid):
        return user == 0 or found.st_mode & 0o300 == 0o300
    try:
        known = pwd.getpwuid(user)
        groups = os.getgrouplist(known.pw_name, known.pw_gid)
    except KeyError:
        groups = []
    wanted = 0o030 if found.st_gid in groups else 0o003
    return found.st_mode & wanted == wanted


# -- releases ----------------------------------------------------------------------------------------------------------

_RELEASED = b"released"


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """A content that a person let go again.

    Attributes:
        time: when it was released. ``decided``: the time of the override that was made with it.
        path: where its file went back to, for people.
    """

    version: int = 1
    digest: str
    time: float
    decided: float
    path: str = ""


class Releases:
    """The releases of a store: contents that a person let go again, with the decision made then; no run takes them.

    The decision itself is an override, which wins over the model; but a run may act on the very verdict that a person
    gave (``--on safe``). A released content stays where it is while that decision is in force: a new decision, or none,
    ends it. Reading needs no store to be there, and no index: a fresh one changes nothing.

    Args:
        records: below which the store keeps its manifests.
    """

    def __init__(self, records: Path) -> None:
        self._records = records

    def note(self, release: Release) -> None:
        """Write a release, over an earlier one of that content; it is on the disk when this returns.

        Raises:
            OSError: it cannot be written.
        """
        name, content = release.digest[:2].encode(), msgspec.json.encode(release) + b"\n"
        with (
            safe_directory(os.fsencode(self._records)) as records,
            _made(records, _RELEASED) as base,
            _made(base, name) as shard,
        ):
            write_new(shard, _release_of(release.digest), content)

    def of(self, digest: bytes) -> Release | None:
        """Return the release of a content; None also where it cannot be read."""
        spelled = digest.hex()
        with suppress(OSError, DocumentError):
            content = (
                self._records / os.fsdecode(_RELEASED) / spelled[:2] / os.fsdecode(_release_of(spelled))
            ).read_bytes()
            return decode_json(content, Release)
        return None


@contextmanager
def _made(place: int, name: bytes) -> Iterator[int]:
    """Lend a directory, made where it is missing."""
    try:
        os.mkdir(name, 0o700, dir_fd=place)  # bytes
    except FileExistsError:
        made = False
    else:
        made = True
    with below(place, name) as opened:
        if made:
            hand_over(opened, place)
        yield opened


def _release_of(digest: str) -> bytes:
    return digest.encode() + b".json"
