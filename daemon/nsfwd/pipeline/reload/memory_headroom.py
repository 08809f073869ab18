"""Whether memory holds a second engine and its decoders beside those that serve. Reads /proc and cgroups, no more.

The memory of a GPU cannot be seen from here: an operator who knows that it does not hold two sets ``reload_mode``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_KIB = 1024
_UNLIMITED = "max"

UNSEEN = 32 << 20
"""Bytes counted for a process that is hidden from us: what a decoder takes. (A photo of 24 million pixels takes another
95 MB, for as long as it is decoded.)"""

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")


def holds_two(pids: Iterable[int], *, proc: Path = PROC, cgroups: Path = CGROUPS) -> bool:
    """Whether as much memory is free as these processes took at most, which is while they loaded.

    Memory that they share is counted for each of them: rather too much than too little.

    Args:
        proc, cgroups: where the kernel reports it.
    """
    free = free_memory(proc, cgroups)
    return free is None or free >= sum(_peak(proc / str(pid)) for pid in pids)


def free_memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> int | None:
    """Bytes that this process and its children may still take: of the machine, and of every cgroup they are in.

    Returns:
        None where the kernel does not report it.
    """
    found = list(_left_in_cgroups(proc, cgroups))
    machine = _fields(proc / "meminfo").get("MemAvailable")
    return min([*found, *([machine] if machine is not None else [])], default=None)


@dataclass(frozen=True, slots=True)
class _Hierarchy:
    """The files in which a version of cgroups reports the memory of its groups; all in bytes.

    Attributes:
        place: below the mount of all cgroups.
        limits: files with the most that a group may hold.
        held: file with what it holds.
        cold: its row in memory.stat: files that the kernel keeps only while memory is free, subgroups included.
    """

    place: str
    limits: tuple[str, ...]
    held: str
    cold: str


_V1 = _Hierarchy("memory", ("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Hierarchy("", ("memory.max", "memory.high"), "memory.current", "inactive_file")


def _left_in_cgroups(proc: Path, cgroups: Path) -> Iterator[int]:
    """The bytes that each cgroup from our own up to the root allows beyond those that it cannot reclaim."""
    text = ""
    with suppress(OSError):
        text = (proc / "self" / "cgroup").read_text("utf-8")
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, own = rest.partition(":")
        hierarchy = _V2 if number == "0" else _V1 if "memory" in controllers.split(",") else None
        if hierarchy is not None and own.startswith("/"):
            yield from _left_along(Path(own), cgroups / hierarchy.place, hierarchy)


def _left_along(own: Path, mount: Path, hierarchy: _Hierarchy) -> Iterator[int]:
    for part in (own, *own.parents):
        directory = mount / part.relative_to("/")
        for limit in hierarchy.limits:
            with suppress(OSError, ValueError):
                word = (directory / limit).read_text("utf-8").strip()
                if word != _UNLIMITED:
                    yield int(word) - _firm(directory, hierarchy)


def _firm(directory: Path, hierarchy: _Hierarchy) -> int:
    """The bytes that a cgroup holds, without files that the kernel keeps only while memory is free."""
    held = int((directory / hierarchy.held).read_text("utf-8"))
    for line in (directory / "memory.stat").read_text("utf-8").splitlines():
        name, _, count = line.partition(" ")
        if name == hierarchy.cold:
            held -= int(count)
    return held


def _peak(process: Path) -> int:
    """The most memory that a process ever had. Decoders may be hidden: they are undumpable, and /proc ``invisible``."""
    return _fields(process / "status").get("VmHWM", UNSEEN)


def _fields(file: Path) -> dict[str, int]:
    """Lines such as ``VmHWM:  123 kB`` as bytes."""
    found: dict[str, int] = {}
    with suppress(OSError):
        for line in file.read_text("utf-8", "replace").splitlines():
            name, _, value = line.partition(":")
            if value.endswith(" kB"):
                found[name] = int(value.split()[0]) * _KIB
    return found
