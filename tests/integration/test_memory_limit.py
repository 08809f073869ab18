"""A reload under a limit of memory that the kernel keeps: beside the old engine where both fit, else after its end.

Where systemd sets the limit it is tried by ``make test-systemd``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import pictures
from tests.integration.harness import Daemon, ask, wait_until

MOUNT = Path("/sys/fs/cgroup/memory")
ROOM = 32 << 20
"""Too little for another engine and its decoders, enough for what serving takes."""


@pytest.fixture
def group() -> Iterator[Path]:
    """A memory cgroup (version 1) of its own, below the one of this process."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text("utf-8").splitlines()]
    own = next((path for _, controllers, path in lines if controllers == "memory"), None)
    if own is None or not os.access(MOUNT / own.lstrip("/"), os.W_OK):
        pytest.skip("no cgroup of version 1 for memory may be made here")
    directory = MOUNT / own.lstrip("/") / f"nsfwd-test-{os.getpid()}"
    directory.mkdir()
    yield directory
    wait_until(lambda: not (directory / "cgroup.procs").read_text("utf-8"))
    directory.rmdir()


def held(group: Path) -> int:
    """What cannot be reclaimed of it."""
    stat = dict(line.split() for line in (group / "memory.stat").read_text("utf-8").splitlines())
    return int((group / "memory.usage_in_bytes").read_text("utf-8")) - int(stat["total_inactive_file"])


def inside(group: Path) -> int:
    """How many processes are in it."""
    return len((group / "cgroup.procs").read_text("utf-8").split())


def children(daemon: Daemon) -> int:
    """How many processes its server has and knows of."""
    stats = ask(daemon.unix, {"op": "stats"})
    return sum(len(stats[kind]["processes"]) for kind in ("decoders", "engine", "lister"))


def test_a_limit_decides_how_a_reload_goes(tmp_path: Path, group: Path) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(pictures.encoded(pictures.photo(1), "JPEG"))
    enter = ("sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(group))
    with Daemon(tmp_path / "daemon", prefix=enter) as daemon:
        modes = []
        for room in (None, ROOM, None):
            wait_until(lambda: inside(group) == 1 + children(daemon))  # what was replaced ends by itself
            limit = -1 if room is None else held(group) + room
            (group / "memory.limit_in_bytes").write_text(f"{limit}\n", "utf-8")
            modes.append(ask(daemon.unix, {"op": "reload"})["mode"])
            assert ask(daemon.unix, {"path": str(photo)})["status"] == "ok"
        assert modes == ["beside", "drain", "beside"]
        assert (group / "memory.oom_control").read_text("utf-8").splitlines()[-1] == "oom_kill 0"
        assert ask(daemon.unix, {"op": "stats"})["engine"]["restarts"] == 0
