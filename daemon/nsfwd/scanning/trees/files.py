"""Files by their identity: renames that never replace, copies that are compared, attributes taken and put back.

Everything goes through descriptors of directories, so that a path is resolved once; what a name stands for is compared
by device, inode and times before it is touched. Knows no verdict, no manifest and no index. Raises ``OSError`` as it
comes, and ``Changed`` where a name no longer stands for the file that was meant.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Self

from nsfwd.scanning.trees.safe_paths import name_beside

NOREPLACE = 1
EXCHANGE = 2

CHUNK = 1024 * 1024

_PLAIN_BITS = 0o777

_HARMLESS = ("user.", "system.posix_acl_", "security.selinux")
"""Beginnings of names of extended attributes that give a program no privilege."""

UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
"""Errors of renameat2 where a file system, or a kernel, does not know its flags: NFS, FUSE, vfat."""

_UNLINKABLE = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK})
"""Errors of link(2) where there are no hard links."""

HOPELESS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""With these the next file would fail as well; every other error is about one name."""

_libc = ctypes.CDLL(None, use_errno=True)


class Changed(Exception):
    """A name no longer stands for the file that was judged; nothing was done to it."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """Mode, owner, times and extended attributes of a file, as they were before anything was done to it."""

    mode: int
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int
    links: int
    extended: Mapping[str, bytes]

    @classmethod
    def of(cls, file: int) -> Self:
        """Read them from an open file; extended ones that may not be read are left out."""
        found = os.fstat(file)
        extended = {}
        with suppress(OSError):  # a file system without any
            for name in os.listxattr(file):
                with suppress(OSError):
                    extended[name] = os.getxattr(file, name)
        mode = stat.S_IMODE(found.st_mode)
        return cls(mode, found.st_uid, found.st_gid, found.st_atime_ns, found.st_mtime_ns, found.st_nlink, extended)

    def apply(self, file: int, *, mode: int | None = None) -> tuple[str, ...]:
        """Give them to an open file, as far as this process may; never a bit or an attribute that gives privileges.

        Args:
            mode: instead of the own one.

        Returns:
            Names of attributes that could not be put back; empty when all are as they were.
        """
        lost = []
        for name, value in self.extended.items():
            try:
                if _attribute(file, name) != value:
                    _set_attribute(file, name, value)
            except OSError:
                lost.append(name)
        found = os.fstat(file)
        if (found.st_uid, found.st_gid) != (self.uid, self.gid):
            try:
                os.fchown(file, self.uid, self.gid)
            except (OSError, OverflowError):
                lost.append("owner")
        wanted = self.mode if mode is None else mode
        if wanted & ~_PLAIN_BITS:
            lost.append("set-user-ID, set-group-ID or sticky bit")
        if stat.S_IMODE(os.fstat(file).st_mode) != wanted & _PLAIN_BITS:  # fchown may have taken bits of it
            os.fchmod(file, wanted & _PLAIN_BITS)
        try:
            os.utime(file, ns=(self.atime_ns, self.mtime_ns))
        except (OSError, OverflowError):  # beyond what this file system, or this machine, keeps
            lost.append("times")
        return tuple(lost)


def _attribute(file: int, name: str) -> bytes | None:
    try:
        return os.getxattr(file, name)
    except OSError:
        return None


def _set_attribute(file: int, name: str, value: bytes) -> None:
    if not name.startswith(_HARMLESS):  # security.capability and the like are not a manifest's to give
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
    os.setxattr(file, name, value)


@contextmanager
def regular(place: int, name: bytes, flags: int = os.O_RDONLY) -> Iterator[int]:
    """Lend a descriptor of a regular file in the directory ``place``; a link is not followed, a FIFO not waited for.

    Raises:
        Changed: it is something else, or nothing.
    """
    try:
        opened = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place)
    except (FileNotFoundError, NotADirectoryError):
        raise Changed("it is no longer there") from None
    except OSError as error:
        if stat_regular(place, name) is None:
            raise Changed("it is not a regular file any more") from None
        raise error
    try:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise Changed("it is not a regular file any more")
        yield opened
    finally:
        os.close(opened)


def stat_regular(place: int, name: bytes) -> os.stat_result | None:
    """Return the state of a regular file by its name, None for anything else; links are not followed."""
    with suppress(FileNotFoundError, NotADirectoryError):
        found = os.stat(name, dir_fd=place, follow_symlinks=False)
        if stat.S_ISREG(found.st_mode):
            return found
    return None


def check_writable(place: int) -> None:
    """Check that names of a directory can be changed.

    Raises:
        OSError: EROFS or EACCES.
    """
    if not os.access(b".", os.W_OK | os.X_OK, dir_fd=place, effective_ids=True):
        number = errno.EROFS if os.fstatvfs(place).f_flag & os.ST_RDONLY else errno.EACCES
        raise OSError(number, f"its directory may not be written: {os.strerror(number)}")


def rename(source: int, name: bytes, target: int, new: bytes, how: int = NOREPLACE) -> None:
    """Rename between two directories: never over another file (``NOREPLACE``), or changing places (``EXCHANGE``).

    A file system without either (NFS, FUSE) gets a hard link and an unlink for ``NOREPLACE``; one without hard links
    as well (vfat) has the new name taken by an empty file first.

    Raises:
        OSError: EEXIST, EXDEV and the like; one of ``UNSUPPORTED`` where no two names can change places.
    """
    if _libc.renameat2(source, name, target, new, how) == 0:
        return
    number = ctypes.get_errno()
    if how != NOREPLACE or number not in UNSUPPORTED:
        raise OSError(number, os.strerror(number), os.fsdecode(name))
    try:
        os.link(name, new, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _UNLINKABLE:
            raise
        _rename_over_reserved(source, name, target, new)
    else:
        os.unlink(name, dir_fd=source)


def _rename_over_reserved(source: int, name: bytes, target: int, new: bytes) -> None:
    os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=target))
    try:
        os.rename(name, new, src_dir_fd=source, dst_dir_fd=target)
    except BaseException:
        os.unlink(new, dir_fd=target)
        raise


def digest_of(file: int) -> bytes:
    """Return the SHA-256 of an open file, read by position."""
    digest, at = hashlib.sha256(), 0
    while chunk := os.pread(file, CHUNK, at):
        digest.update(chunk)
        at += len(chunk)
    return digest.digest()


def content_is(place: int, name: bytes, digest: bytes) -> bool:
    """Tell whether a name stands for a regular file with this content."""
    with suppress(Changed), regular(place, name) as file:
        return digest_of(file) == digest
    return False


def copy(source: int, place: int, name: bytes) -> int:
    """Copy an open file's content into a new file, 0600 and on the disk when this returns.

    Returns:
        A descriptor of the copy, open for reading and writing; the caller closes it.

    Raises:
        OSError: ``name`` is taken, the disk is full and the like. Then nothing of it is left.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    target = os.open(name, flags, 0o600, dir_fd=place)
    try:
        at = 0
        while chunk := os.pread(source, CHUNK, at):
            _write(target, chunk)
            at += len(chunk)
        os.fsync(target)
    except BaseException:
        os.close(target)
        os.unlink(name, dir_fd=place)
        raise
    return target


def _write(target: int, chunk: bytes) -> None:
    left = memoryview(chunk)
    while left:
        left = left[os.write(target, left) :]


def hand_over(made: int, place: int) -> None:
    """Give a file that root made in a directory to the owner of the directory."""
    owner = os.fstat(place)
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.fchown(made, owner.st_uid, owner.st_gid)


def write_new(place: int, name: bytes, content: bytes, mode: int = 0o600) -> None:
    """Write a file whole or not at all, over an older one of that name; on the disk when this returns.

    Written by root, it belongs to the owner of its directory, who reads it later.
    """
    temporary = name_beside(b"." + name, b".new")
    with suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=place)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    target = os.open(temporary, flags, mode, dir_fd=place)
    try:
        try:
            hand_over(target, place)
            _write(target, content)
            os.fsync(target)
        finally:
            os.close(target)
        os.rename(temporary, name, src_dir_fd=place, dst_dir_fd=place)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=place)
        raise
    os.fsync(place)
