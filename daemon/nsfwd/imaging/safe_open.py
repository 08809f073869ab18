"""Open what a client named: a regular file below the roots, looked at before it is touched.

A path is first opened with O_PATH, which neither reads nor waits (a FIFO, a device); what it really is and where it
really lies, links resolved, is then asked of that descriptor, and only this very file is opened for reading. So nobody
can exchange the file between the check and the use. The one border at which OSErrors of opening become codes.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
import stat
import sys
from collections.abc import Iterable, Sequence

from nsfwd.errors import CodedError, NsfwdError
from nsfwd.protocol.limits import PATH_BYTES

KERNEL = (b"/proc", b"/sys", b"/dev")
"""Never opened, whatever the roots: what lies there is no one's picture, and reading it may act."""

# fmt: off
_KERNELS = frozenset((
    # proc, sysfs, devpts, debugfs, tracefs, securityfs, cgroup, cgroup2, bpf, configfs, efivarfs, pstore, binfmt_misc,
    0x9FA0, 0x62656572, 0x1CD1, 0x64626720, 0x74726163, 0x73636673, 0x27E0EB, 0x63677270, 0xCAFE4A11, 0x62656570,
    0xDE5E81E4, 0x6165676C, 0x42494E4D,
    # selinuxfs, smackfs, mqueue, fusectl, nsfs, rpc_pipefs, resctrl. Source: include/uapi/linux/magic.h of Linux
    0xF97CFF8C, 0x43415D53, 0x19800202, 0x65735543, 0x6E736673, 0x67596969, 0x7655821,
))
# fmt: on
"""Types of file systems that are the kernel's own words, wherever they are mounted."""

_libc = ctypes.CDLL(None, use_errno=True)

LOOKS = 8
"""How often a path is followed that changes meanwhile, before it counts as leading nowhere that is allowed."""

_DELETED = b" (deleted)"

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

_KINDS = {
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    stat.S_IFSOCK: "socket",
}

_ERRORS = {
    errno.ENOENT: "not_found",
    errno.ENOTDIR: "not_found",
    errno.EACCES: "permission",
    errno.EPERM: "permission",
    errno.ELOOP: "bad_path",
    errno.ENAMETOOLONG: "bad_path",
    errno.EINVAL: "bad_path",
}


class IsDirectory(NsfwdError):
    """The path names a directory below the roots: to be listed, not decoded."""


class Roots:
    """The directories below which files may be opened, with their links resolved.

    Args:
        paths: absolute.
        within: other roots, below one of which a file must lie as well.
    """

    def __init__(self, paths: Sequence[bytes], *, within: Roots | None = None) -> None:
        self._paths = tuple(paths)
        self._within = within
        self._narrower: dict[tuple[bytes, ...], Roots] = {}
        self._resolved = self._resolve()
        self._places = without_kernel(self._paths)
        self._found = self._look()

    def narrowed(self, paths: tuple[bytes, ...]) -> Roots:
        """These roots, or the part of them that lies below ``paths`` as well; kept, for there are few such."""
        if not paths:
            return self
        if paths not in self._narrower:
            self._narrower[paths] = Roots(paths, within=self)
        return self._narrower[paths]

    def moved(self) -> bool:
        """Tell whether a root is another directory by now than when this was made.

        What a sandbox was told to allow is then no longer what it should.
        """
        return self._look() != self._found

    def hold(self, target: bytes) -> bool:
        """Tell whether ``target``, absolute and without links, is a root or lies below one.

        A root that is itself a link may lead elsewhere by now; this is looked up again before a path is refused.
        """
        if self._within is not None and not self._within.hold(target):
            return False
        if _below_any(target, self._resolved):
            return True
        self._resolved = self._resolve()
        return _below_any(target, self._resolved)

    def _resolve(self) -> tuple[bytes, ...]:
        return tuple(_without_links(path) or path for path in self._paths)

    def _look(self) -> list[tuple[int, int] | None]:
        """Which directories the roots are: device and inode, None for one that is not there."""
        found: list[tuple[int, int] | None] = []
        for path in self._places:
            try:
                there = os.stat(path)  # noqa: PTH116 - names are bytes, which Path is not
            except OSError:
                found.append(None)
            else:
                found.append((there.st_dev, there.st_ino))
        if b"/" in self._paths:
            found.append((0, os.stat("/").st_mtime_ns))  # noqa: PTH116 - another entry is another place
        return found


def without_kernel(paths: Iterable[bytes]) -> list[bytes]:
    """Return these places, of ``/`` the entries that lie there now, without those that are the kernel's."""
    found: list[bytes] = []
    for path in paths:
        if path != b"/":
            found.append(path)
            continue
        for name in os.listdir(b"/"):  # noqa: PTH208 - names are bytes, which Path is not
            place = os.path.realpath(b"/" + name)
            if place != b"/" and not _below_any(place, KERNEL):
                found.append(b"/" + name)
    return found


def is_kernels(descriptor: int) -> bool:
    """Tell whether an open file or directory is the kernel's own, wherever that is mounted: proc, sysfs, devices."""
    buffer = ctypes.create_string_buffer(256)
    if _libc.fstatfs(descriptor, buffer) != 0:
        code = ctypes.get_errno()
        raise CodedError("unreadable", os.strerror(code))
    return int.from_bytes(buffer.raw[:4], sys.byteorder) in _KERNELS or os.fstat(descriptor).st_dev in _devices()


@functools.cache
def _devices() -> frozenset[int]:
    """Return which devices ``KERNEL`` are, where each is mounted and not a directory of the system's own disk."""
    found = {os.stat(path).st_dev for path in KERNEL if os.path.isdir(path)}  # noqa: PTH112, PTH116 - bytes
    return frozenset(found - {os.stat("/").st_dev})  # noqa: PTH116


def open_image(path: bytes, roots: Roots) -> int:
    """Open a regular file below the roots for reading.

    Returns:
        A descriptor, which the caller closes.

    Raises:
        IsDirectory: it is one.
        CodedError: ``forbidden`` for whatever lies outside the roots, there or not; else ``not_found``,
            ``permission``, ``fifo``, ``device``, ``socket``, ``bad_path``, ``relative_path``: the path's fault, no
            retry helps; ``unreadable``: the disk's, one may.
    """
    place = _locate(path, roots)
    try:
        mode = os.fstat(place).st_mode
        if stat.S_ISDIR(mode):
            raise IsDirectory
        check_kind(mode)
        return _reopen(place, _READ)
    finally:
        os.close(place)


def open_directory(path: bytes, roots: Roots) -> int:
    """Open a directory below the roots for listing.

    Raises:
        CodedError: as ``open_image``; ``not_found`` when it is no directory.
    """
    place = _locate(path, roots)
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            raise CodedError("not_found", "there is no such directory")
        return _reopen(place, _READ | os.O_DIRECTORY)
    finally:
        os.close(place)


def real_path(descriptor: int) -> bytes:
    """Tell where an open file or directory lies, links resolved; the kernel's word for it if it lies nowhere."""
    return os.readlink(b"/proc/self/fd/%d" % descriptor)  # noqa: PTH115 - names are bytes, which Path is not


def is_worth_naming(link: bytes, roots: Roots) -> bool:
    """Tell whether a symbolic link met in a directory is to be named among its files.

    It is if it leads to a regular file below the roots; and if it leads outside them, whatever is or is not there: who
    can make links must not learn from a list what scanning would not tell.
    """
    try:
        place = _locate(link, roots)
    except CodedError as error:
        return error.code == "forbidden"
    try:
        return stat.S_ISREG(os.fstat(place).st_mode)
    finally:
        os.close(place)


def code_of(error: OSError) -> str:
    """Find the code for an OSError met below the roots."""
    return _ERRORS.get(error.errno or 0, "unreadable")


def check_kind(mode: int) -> None:
    """Refuse what is not a regular file, also when it came as an open descriptor.

    Raises:
        CodedError: ``fifo``, ``device``, ``socket``, or ``bad_path`` for a directory: the client's fault.
    """
    if not stat.S_ISREG(mode):
        raise CodedError(_KINDS.get(stat.S_IFMT(mode), "bad_path"))


def check_passed(descriptor: int) -> None:
    """Refuse a descriptor that is not a regular file open for reading. The roots do not apply: who passed it opened it.

    Raises:
        CodedError: as ``check_kind``; ``permission``: it is open for writing only, or for neither (O_PATH);
            ``forbidden``: it is the kernel's.
    """
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISDIR(mode):
        raise CodedError("bad_path", "the descriptor is a directory")
    check_kind(mode)
    if is_kernels(descriptor):
        raise CodedError("forbidden", "the descriptor is a file of the kernel's")
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    if flags & os.O_PATH or flags & os.O_ACCMODE == os.O_WRONLY:
        raise CodedError("permission", "the descriptor is not open for reading")


def _locate(path: bytes, roots: Roots) -> int:
    """Find the file without opening it for anything (O_PATH), and make sure that it may be opened."""
    _check_spelling(path)
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise _refusal(path, roots, error) from error
    try:
        _check_target(place, roots)
    except BaseException:
        os.close(place)
        raise
    return place


def _check_spelling(path: bytes) -> None:
    if not path or b"\0" in path or len(path) >= PATH_BYTES:
        raise CodedError("bad_path")
    if not path.startswith(b"/"):
        raise CodedError("relative_path")


def _check_target(place: int, roots: Roots) -> None:
    """Look where the opened file really lies."""
    target = real_path(place)
    found = os.fstat(place)
    deleted = found.st_nlink == 0 and target.endswith(_DELETED)
    if deleted:
        target = target.removesuffix(_DELETED)
    if not target.startswith(b"/") or not roots.hold(target):
        raise CodedError("forbidden")
    if deleted:
        raise CodedError("not_found", "it was deleted while it was opened")
    is_file = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
    if is_file and (_below_any(target, KERNEL) or is_kernels(place)):
        raise CodedError("forbidden")


def _refusal(path: bytes, roots: Roots, error: OSError) -> CodedError:
    """Find the code for a path that cannot be opened, without telling anything of what lies outside the roots.

    Links and parents are followed as far as they can be; what is missing or closed to us counts as spelled.
    """
    target = _without_links(path)
    if target is None or not roots.hold(target) or _below_any(target, KERNEL):
        return CodedError("forbidden")
    code = code_of(error)
    return CodedError(code, os.strerror(error.errno) if code in ("unreadable", "bad_path") and error.errno else "")


def _without_links(path: bytes) -> bytes | None:
    """Follow links and parents as far as they can be; None when they change each time this looks."""
    for _ in range(LOOKS):
        try:
            return os.path.realpath(path)
        except OSError:
            pass  # what was a link was gone, or no link any more, when it was read
    return None


def _reopen(place: int, flags: int) -> int:
    try:
        return os.open(b"/proc/self/fd/%d" % place, flags)
    except OSError as error:
        raise CodedError(code_of(error)) from error


def _below_any(target: bytes, directories: Sequence[bytes]) -> bool:
    return any(
        target == directory or target.startswith(directory if directory.endswith(b"/") else directory + b"/")
        for directory in directories
    )
