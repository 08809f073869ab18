"""Set-up and ``make run`` with programs that play pip and the daemon: what make itself does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.harness import REPOSITORY, needs

NEEDED = ("Makefile", "setup.cfg", "pyproject.toml", "requirements.lock", "daemon/nsfwd/cli/preflight.py")
BUNDLE = "nsfw-mobilenet-v2-140"

DAEMON = """#!/bin/sh
case "$1" in
    ping) exit 1;;
    ready) test -e "{directory}/serves";;
    serve) echo $$ > "{directory}/serves"; exec sleep 60;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What set-up reads, and a bundle that was pulled."""
    needs("make")
    directory = tmp_path / "checkout"
    for name in NEEDED:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, directory / name)
    (directory / "models" / BUNDLE).mkdir(parents=True)
    for name in (f"{BUNDLE}.toml", f"{BUNDLE}/bundle.toml"):
        (directory / "models" / name).touch()
    return directory


def environment_at(venv: Path) -> None:
    """A virtual environment whose pip installs nothing, and whose daemon does nothing."""
    (venv / "bin").mkdir(parents=True)
    for name, script in {"python": "#!/bin/sh\n", "nsfwd": DAEMON.format(directory=venv)}.items():
        (venv / "bin" / name).write_text(script)
        (venv / "bin" / name).chmod(0o755)


def make(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=checkout, capture_output=True, text=True, check=False)


def test_a_virtual_environment_elsewhere_is_used_by_the_next_command(checkout: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "larger" / "venv"
    environment_at(elsewhere)
    first = make(checkout, "setup", f"PYTHON={sys.executable}", f"VENV={elsewhere}")
    assert first.returncode == 0 and f"installing into {elsewhere}" in first.stdout, first
    assert "GB of packages" in first.stdout
    second = make(checkout, "setup", f"PYTHON={sys.executable}")
    assert (second.returncode, second.stderr) == (0, "")
    assert "installing" not in second.stdout
    assert (checkout / ".venv").resolve() == elsewhere


def test_a_machine_without_python_is_said_what_to_install(checkout: Path) -> None:
    done = make(checkout, "run", "PYTHON=/nowhere/python3")
    assert done.returncode != 0
    assert "preflight: Python 3.11 to 3.13 is needed" in done.stderr and "python3-venv" in done.stderr
    assert not (checkout / ".venv").exists()


def test_the_daemon_has_no_child_that_is_not_its_own(checkout: Path) -> None:
    venv = checkout / ".venv"
    environment_at(venv)
    (venv / ".installed").touch()
    process = subprocess.Popen(["make", "run"], cwd=checkout, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    try:
        while "ready. Try in another terminal" not in (line := process.stdout.readline()):
            assert line, "it ended"
        daemon = int((venv / "serves").read_text())
        assert children(daemon) == []
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        process.stdout.close()


def children(pid: int) -> list[str]:
    """The lines of state of every child of a process, of those that have ended as well."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it is gone
        if int(state[1]) == pid:
            found.append(" ".join(state))
    return found
