"""The kernel's numbers of processes, CPU seconds and memory; and a description of this machine."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

_TICK = 1.0 / os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of these processes and of their reaped children. Steadier than any rate.

    By the clock of each process, which counts nanoseconds: the ticks of ``/proc`` are of ten milliseconds, in which a
    server answers twenty images.
    """
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += time.clock_gettime((~pid << 3) | 2)  # clock_getcpuclockid(3)
            # Behind the name in parentheses: state is field 3; 16 and 17 are cutime and cstime.
            fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[13:15])) * _TICK
    return total


def busy_seconds() -> float:
    """Seconds that all cores have worked since the start of the machine, and those its host gave to others (steal)."""
    user, nice, system, _, _, irq, softirq, steal, *_ = (_PROC / "stat").read_text().split(maxsplit=11)[1:11]
    return sum(map(int, (user, nice, system, irq, softirq, steal))) * _TICK


def memory_mb(pids: Iterable[int]) -> float:
    """Proportional set size of these processes in MB (10^6 bytes): shared pages count once in all."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total / 1e6


def peak_mb(pid: int) -> float:
    """The most memory that a process ever had resident, in MB; 0 where it is gone.

    Not ``ru_maxrss``, which begins with the memory of the process that forked it.
    """
    with contextlib.suppress(OSError):
        for line in (_PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def tree(leader: int) -> list[int]:
    """Live processes of the session of ``leader``, and their descendants: a server and all that it started."""
    parents: dict[int, int] = {}
    found: set[int] = set()
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                if state != "Z":
                    parents[int(entry.name)] = int(parent)
                    if int(session) == leader:
                        found.add(int(entry.name))
    while further := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= further
    return sorted(found)


def cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0))


def describe() -> dict[str, str]:
    """The facts about the machine that a reader needs to compare figures."""
    cpu = "unknown"
    with contextlib.suppress(OSError):
        for line in (_PROC / "cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    return {
        "cpu": cpu,
        "cores": str(cores()),
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("openvino", "pillow", "uvloop", "orjson", "msgspec")},
    }


class Meter:
    """The cost of a stretch of work: processor seconds of one tree, and the share of the cores that others had.

    Args:
        pids: the tree.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self._pids = list(pids)
        self._began = time.perf_counter()
        self._cpu = cpu_seconds(self._pids)
        self._all = busy_seconds() - time.process_time()

    def read(self) -> tuple[float, float]:
        """Seconds of the tree, and the share of others: neither the tree's nor of this process, its client."""
        cpu = cpu_seconds(self._pids) - self._cpu
        all_ = busy_seconds() - time.process_time() - self._all
        return cpu, max(0.0, all_ - cpu) / (time.perf_counter() - self._began) / (os.cpu_count() or 1)
