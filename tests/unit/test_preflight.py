"""The preflight: each check says what is missing, and how to fix it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from nsfwd.cli import preflight

VENV = Path("venv")
FLAGS = "processor\t: 0\nflags\t\t: fpu sse4_2 avx {}\n"


def test_a_sound_machine_has_no_problem() -> None:
    assert preflight.check_interpreter((3, 12)) is None
    assert preflight.check_venv((3, 12), lambda name: True) is None
    assert preflight.check_processor("x86_64", FLAGS.format("avx2")) is None
    assert preflight.check_processor("aarch64", "Features : asimd\n") is None
    assert preflight.check_disk(preflight.DISK_FRESH, venv_exists=False) is None
    assert preflight.check_disk(preflight.DISK_AGAIN, venv_exists=True) is None
    assert preflight.check_npm(works=True) is None
    assert preflight.check_gpu(device=False, driver=False, libraries=False, venv=VENV) is None
    assert preflight.check_gpu(device=True, driver=True, libraries=True, venv=VENV) is None


@pytest.mark.parametrize(
    ("problem", "command"),
    [
        (preflight.check_interpreter((3, 10)), "install"),
        (preflight.check_interpreter((3, 14)), "install"),
        (preflight.check_venv((3, 11), lambda name: name != "ensurepip"), "install"),
        (preflight.check_processor("x86_64", FLAGS.format("")), "host-passthrough"),
        (preflight.check_processor("x86_64", ""), "host-passthrough"),
        (preflight.check_disk(preflight.GB, venv_exists=False), "make setup VENV="),
    ],
)
def test_a_fatal_problem_names_one_command(problem: preflight.Problem | None, command: str) -> None:
    assert problem is not None and problem.fatal
    what, command_line = str(problem).splitlines()
    assert what.startswith("preflight: ")
    assert command in command_line


@pytest.mark.parametrize(("driver", "command"), [(False, "nvidia-driver"), (True, "'.[gpu]'")])
def test_a_gpu_that_no_library_sees_is_told_and_not_fatal(*, driver: bool, command: str) -> None:
    problem = preflight.check_gpu(device=True, driver=driver, libraries=False, venv=VENV)
    assert problem is not None
    assert not problem.fatal
    assert command in problem.command


def test_a_missing_npm_is_not_fatal() -> None:
    problem = preflight.check_npm(works=False)
    assert problem is not None and not problem.fatal


@pytest.mark.parametrize(
    ("manager", "expected"),
    [("apt-get", "python3.11-venv"), ("dnf", "python3.12"), ("zypper", "python312"), ("pacman", "python")],
)
def test_the_command_is_this_distribution_s(manager: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name == manager else None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    problem = preflight.check_interpreter((3, 9))
    assert problem is not None
    assert manager in problem.command and problem.command.endswith(expected)


@pytest.mark.parametrize(
    ("user", "programs", "expected"),
    [
        (0, {"apt-get", "sudo"}, "apt-get install -y make"),
        (1000, {"apt-get", "sudo"}, "sudo apt-get install -y make"),
        (1000, {"apt-get"}, "su -c 'apt-get install -y make'"),
    ],
)
def test_the_command_works_for_this_user(
    user: int, programs: set[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bare Debian has no sudo."""
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name in programs else None)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert preflight.install_command("make") == expected


def test_the_status_says_whether_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(preflight, "npm_works", lambda: False)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=preflight.DISK_FRESH))
    monkeypatch.setattr(preflight, "check_processor", lambda machine, cpuinfo: None)
    assert preflight.main(["--venv", str(tmp_path / "not" / "there")]) == 0
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    assert preflight.main(["--venv", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("preflight: ") == 3


def test_it_runs_by_path_on_a_bare_interpreter(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", preflight.__file__, "--help"], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0
