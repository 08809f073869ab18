"""What the kernel itself says in files is never opened, wherever below the roots it is mounted."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsfwd.client import Client
from tests import pictures
from tests.integration.harness import Daemon, Json, ask, ndjson, raw_connect

MOUNTS = {
    "bound": ["--bind", "/proc"],
    "proc": ["-t", "proc", "none"],
    "sys": ["-t", "sysfs", "none"],
    "dev": ["--bind", "/dev"],
    "pts": ["-t", "devpts", "none"],
}
FILES = {
    "bound": "self/status",
    "proc": "sys/kernel/random/uuid",
    "sys": "kernel/uevent_seqnum",
    "dev": "regular",
    "pts": "",
}


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A directory with a photo, and with the kernel's file systems mounted below it."""
    root = tmp_path / "root"
    (root / "plain").mkdir(parents=True)
    pictures.write_photos(root / "plain", 1)
    mounted: list[Path] = []
    for name, how in MOUNTS.items():
        (root / name).mkdir()
        if os.geteuid() != 0 or subprocess.run(["mount", *how, root / name], check=False).returncode:
            pytest.skip("only root can mount the kernel's file systems")
        mounted.append(root / name)
    regular = Path("/dev/regular")
    regular.touch()
    yield root
    regular.unlink()
    for place in mounted:
        subprocess.run(["umount", "-l", place], check=True)


def test_the_kernels_files_are_forbidden(tmp_path: Path, root: Path) -> None:
    with Daemon(tmp_path / "daemon", root=root) as daemon:
        for name, inner in FILES.items():
            asked: list[Json] = [{"path": str(root / name)}, {"path": str(root / name / inner)}]
            codes = [ask(daemon.unix, request)["error"]["code"] for request in asked]
            assert codes == ["forbidden", "forbidden"], name
        with raw_connect(daemon.unix) as connection:
            lines = ndjson(connection, [{"path": str(root), "recursive": True}])
        assert [line["path"] for line in lines] == [str(root / "plain" / "photo-00000.jpg"), str(root)]
        with Client(f"unix:{daemon.unix}") as client, Path("/proc/self/status").open("rb") as status:
            assert client.scan_fd(status.fileno()).code == "forbidden"
