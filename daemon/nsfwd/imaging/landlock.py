"""Landlock: from now on this process reads below the named directories, writes nowhere and has no network.

Plain ctypes, three system calls: PyPI has no released binding. What the kernel is too old for is left out by its own
version number (ABI). It binds the directories that lie there when it is applied, not their names.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterable

_CREATE, _ADD, _RESTRICT = 444, 445, 446
"""The same numbers on every architecture."""

_VERSION = 1
_PATH_BENEATH = 1

FILES, NAMES = 1 << 2, 1 << 3
"""Rights that can be kept: to read files, and to read directories."""

_FILE_ACCESS = {1: 13, 2: 14, 3: 15, 5: 16}
"""ABI -> how many kinds of access to files it knows; all are handled, and only reading is given back."""

_NETWORK_ABI, _NETWORK = 4, 1 << 0 | 1 << 1  # bind, connect
_SCOPE_ABI, _SCOPES = 6, 1 << 0 | 1 << 1  # abstract Unix sockets, signals


def apply(kept: Iterable[tuple[bytes, int]]) -> None:
    """Give up all access to files but the rights that are kept below these directories, or to these files.

    Those that are missing are left out.

    Raises:
        OSError: the kernel has no Landlock, or it is switched off.
    """
    abi = _call(_CREATE, None, 0, _VERSION)
    known = max(count for least, count in _FILE_ACCESS.items() if least <= abi)
    handled = (1 << known) - 1
    attributes = struct.pack(
        "=QQQ", handled, _NETWORK if abi >= _NETWORK_ABI else 0, _SCOPES if abi >= _SCOPE_ABI else 0
    )
    size = 24 if abi >= _SCOPE_ABI else 16 if abi >= _NETWORK_ABI else 8
    ruleset = _call(_CREATE, attributes, size, 0)
    try:
        for path, rights in kept:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                _allow(ruleset, path, rights)
        _call(_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: bytes, rights: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= FILES
        if rights:
            _call(_ADD, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, place), 0)
    finally:
        os.close(place)


def _call(number: int, *arguments: int | bytes | None) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    passed = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    result: int = libc.syscall(ctypes.c_long(number), *passed)
    if result < 0:
        code = ctypes.get_errno()
        reason = "this kernel has no Landlock" if code in (errno.ENOSYS, errno.EOPNOTSUPP) else os.strerror(code)
        raise OSError(code, reason)
    return result
