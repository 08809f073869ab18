"""Whether memory holds two engines, by what the kernel says of the machine, of cgroups and of processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from nsfwd.pipeline.reload.memory_headroom import UNSEEN, free_memory, holds_two

KIB = 1024


class Kernel:
    """A /proc and a /sys/fs/cgroup made by hand."""

    def __init__(self, directory: Path) -> None:
        self.proc, self.cgroups = directory / "proc", directory / "cgroup"
        for place in (self.proc / "self", self.cgroups):
            place.mkdir(parents=True)

    def machine(self, available: int) -> None:
        (self.proc / "meminfo").write_text(f"MemTotal:  999999 kB\nMemAvailable:  {available} kB\nHugePages_Free: 0\n")

    def group(self, path: str, **files: object) -> None:
        (self.proc / "self" / "cgroup").write_text(f"12:cpu:/else\n0::{path}\n")
        directory = self.cgroups / path.lstrip("/")
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "memory.stat").write_text(f"anon 5\ninactive_file {files.pop('cold', 0)}\n")
        for name, content in files.items():
            (directory / f"memory.{name}").write_text(f"{content}\n")

    def process(self, pid: int, peak: int) -> None:
        (self.proc / str(pid)).mkdir()
        (self.proc / str(pid) / "status").write_text(f"Name:\tx\nVmHWM:\t{peak} kB\nThreads:\t3\n")

    def free(self) -> int | None:
        return free_memory(self.proc, self.cgroups)

    def holds_two(self, *pids: int) -> bool:
        return holds_two(pids, proc=self.proc, cgroups=self.cgroups)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def test_the_machine_alone(kernel: Kernel) -> None:
    kernel.machine(1000)
    assert kernel.free() == 1000 * KIB


def test_a_cgroup_allows_less_than_the_machine_has(kernel: Kernel) -> None:
    kernel.machine(1000)
    kernel.group("/system.slice/nsfwd.service", max=700, high="max", current=300, cold=100)
    assert kernel.free() == 500


def test_the_narrowest_of_all_levels_counts(kernel: Kernel) -> None:
    kernel.machine(1000)
    kernel.group("/a", max=600, current=200)
    kernel.group("/a/b", max=5000, high=350, current=100)
    assert kernel.free() == 250


def test_the_first_version_of_cgroups_is_understood_as_well(kernel: Kernel) -> None:
    """There a group without a limit has the largest number of pages, and some machines mount both versions."""
    kernel.machine(1000)
    (kernel.proc / "self" / "cgroup").write_text("5:memory:/a/b\n4:cpu,cpuacct:/a\n1:name=systemd:/a/b\n0::/a/b\n")
    for path, limit, held in (("a/b", 9223372036854771712, 300), ("a", 700, 400)):
        directory = kernel.cgroups / "memory" / path
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "memory.limit_in_bytes").write_text(f"{limit}\n")
        (directory / "memory.usage_in_bytes").write_text(f"{held}\n")
        (directory / "memory.stat").write_text("inactive_file 9\ntotal_cache 70\ntotal_inactive_file 50\n")
    assert kernel.free() == 350


def test_what_the_kernel_does_not_tell_limits_nothing(kernel: Kernel) -> None:
    assert kernel.free() is None
    assert kernel.holds_two(1)
    kernel.group("/", max="max", current=5)
    assert kernel.free() is None


def test_two_fit_when_as_much_is_free_as_one_took_at_most(kernel: Kernel) -> None:
    kernel.machine(100)
    assert UNSEEN > 100 * KIB
    for pid, peak in ((1, 70), (2, 30), (3, 1)):
        kernel.process(pid, peak)
    assert kernel.holds_two(1, 2)
    assert not kernel.holds_two(1, 2, 3)
    assert not kernel.holds_two(1, 4)  # hidden
    kernel.machine(70 + UNSEEN // KIB)
    assert kernel.holds_two(1, 4)


def test_the_kernel_of_this_machine_is_understood() -> None:
    free = free_memory()
    assert free is not None
    assert free > 0
