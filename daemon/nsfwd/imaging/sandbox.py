"""What a child process gives up before it meets a stranger's file.

Each measure is one function; one that this kernel or container refuses is reported, never fatal and never silent.
Knows nothing of images.
"""

from __future__ import annotations

import ctypes
import resource
from collections.abc import Callable
from pathlib import Path

_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38

OOM_SCORE = 900
"""When memory runs out the kernel ends a decoder, which is replaced, before anything else."""


def apply(*, memory: int | None, files: int) -> tuple[list[str], list[str]]:
    """Give up what is not needed; once, before the first job.

    Args:
        memory: address space in bytes this process may have, None for no limit of its own.
        files: descriptors it may have open at once.

    Returns:
        The names of the measures applied, and of those missing here with the reason.
    """
    measures: dict[str, Callable[[], None]] = {
        "oom_score_adj": _raise_oom_score,  # before "undumpable", which makes /proc/self root's
        "no_new_privs": lambda: _prctl(_PR_SET_NO_NEW_PRIVS, 1),
        "undumpable": lambda: _prctl(_PR_SET_DUMPABLE, 0),
        "no_core": lambda: _limit(resource.RLIMIT_CORE, 0),
        "files": lambda: _limit(resource.RLIMIT_NOFILE, files),
    }
    if memory is not None:
        measures["memory"] = lambda: _limit(resource.RLIMIT_AS, memory)
    applied, missing = [], []
    for name, measure in measures.items():
        try:
            measure()
        except (OSError, ValueError) as error:
            missing.append(f"{name}: {error}")
        else:
            applied.append(name)
    return applied, missing


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
