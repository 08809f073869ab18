"""What a child process gives up before it meets a stranger's file.

Each measure is one function; one that this kernel or container refuses is reported, never fatal and never silent.
Whatever the process will import must have been imported before: afterwards no code can be loaded any more. Knows
nothing of images.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import sys
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import nsfwd
from nsfwd.errors import NsfwdError
from nsfwd.imaging import landlock, safe_open, seccomp

_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION_3 = 0x20080522

OOM_SCORE = 900
"""When memory runs out the kernel ends a decoder, which is replaced, before anything else."""

STANDARD = (0, 1, 2)


class Outdated(NsfwdError):
    """What this process may read was settled at its start and no longer fits: it ends, and another takes its place."""


def apply(
    *,
    memory: int | None,
    files: int,
    roots: Iterable[bytes],
    descriptors: Collection[int],
    names_only: bool = False,
) -> tuple[list[str], list[str]]:
    """Give up what is not needed; once, before the first job.

    Args:
        memory: address space in bytes this process may have, None for no limit of its own.
        files: descriptors it may have open at once.
        roots: directories below which it reads files; only those that are there now can be.
        descriptors: its own, beside standard input, output and error; all others are closed.
        names_only: it reads directories below the roots, and no file.

    Returns:
        The names of the measures applied, and of those missing here with the reason.
    """
    measures: dict[str, Callable[[], None]] = {
        "descriptors": lambda: _close_others(descriptors),
        "oom_score_adj": _raise_oom_score,  # before "undumpable", which makes /proc/self root's
        "capabilities": _drop_capabilities,
        "no_new_privs": lambda: _prctl(_PR_SET_NO_NEW_PRIVS, 1),  # before what follows, which needs it
        "undumpable": lambda: _prctl(_PR_SET_DUMPABLE, 0),
        "no_core": lambda: _limit(resource.RLIMIT_CORE, 0),
        "files": lambda: _limit(resource.RLIMIT_NOFILE, files),
        "landlock": lambda: landlock.apply((*_readable(roots, names_only=names_only), *_libraries())),
    }
    if memory is not None:
        measures["memory"] = lambda: _limit(resource.RLIMIT_AS, memory)
    measures["seccomp"] = seccomp.apply  # last: it forbids what the others do
    applied, missing = [], []
    for name, measure in measures.items():
        try:
            measure()
        except (OSError, ValueError) as error:
            missing.append(f"{name}: {error}")
        else:
            applied.append(name)
    return applied, missing


def _close_others(descriptors: Collection[int]) -> None:
    """Close what the process inherited and does not know."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names are numbers, not paths
        fd = int(name)
        if fd not in STANDARD and fd not in descriptors:
            try:
                os.close(fd)
            except OSError:
                pass  # the list's own descriptor


def _readable(roots: Iterable[bytes], *, names_only: bool) -> list[tuple[bytes, int]]:
    """What is read below the roots. Who reads files of the whole system may not read the kernel's."""
    if names_only:
        return [(root, landlock.NAMES) for root in roots]
    return [(place, landlock.FILES | landlock.NAMES) for place in safe_open.without_kernel(roots)]


def _libraries() -> list[tuple[bytes, int]]:
    """Where Python finds its own modules: some are imported late, and tracebacks read the sources."""
    places = {*sys.path, *nsfwd.__path__}
    return [(os.fsencode(place), landlock.FILES | landlock.NAMES) for place in places if place]


def _drop_capabilities() -> None:
    """Give up what root, or a unit's settings, may do beyond its user: all five sets, for good."""
    libc = ctypes.CDLL(None, use_errno=True)
    for number in range(64):
        if libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
            break  # behind the last one; or without the right to, and then no_new_privs keeps any from coming back
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)  # they follow the permitted ones in any case
    header, none = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(24)
    if libc.capset(header, none) != 0:
        raise OSError(ctypes.get_errno(), "capset was refused")


def _limit(which: int, value: int) -> None:
    """Lower a limit for good; one that is lower already stays."""
    _, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))


def _raise_oom_score() -> None:
    Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl was refused")
