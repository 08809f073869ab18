"""The units for systemd: sound, sandboxed, and installed and removed by make without touching what is the site's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nsfwd.config import load_settings
from tests.integration.harness import REPOSITORY, needs

UNITS = REPOSITORY / "systemd"
KINDS = (".service", ".socket", ".timer", ".path", ".target")
ALL = sorted(path.name for path in UNITS.iterdir() if path.suffix in KINDS)
DAEMONS = ("nsfwd.service", "nsfwd@.service")


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units with a program that exists, so that systemd-analyze looks at everything else."""
    directory = tmp_path_factory.mktemp("units")
    for unit in ALL:
        text = (UNITS / unit).read_text("utf-8").replace("/usr/local/bin/nsfwd", sys.executable)
        (directory / unit).write_text(text, "utf-8")
    return directory


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [needs("systemd-analyze"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})


def test_units_are_sound(staged: Path) -> None:
    assert {*DAEMONS, "nsfwd.socket", "nsfwd@.socket", "nsfwd-metrics.socket"} <= set(ALL)
    done = analyze("verify", "--recursive-errors=no", *(str(staged / unit) for unit in ALL))
    assert (done.returncode, done.stderr) == (0, "")


SANDBOXED = [(unit, False) for unit in ALL if unit.endswith(".service")] + [(unit, True) for unit in DAEMONS]
"""Every service, and those that may need a GPU once more with one."""


@pytest.mark.parametrize(("service", "gpu"), SANDBOXED)
def test_services_are_sandboxed(staged: Path, tmp_path: Path, service: str, gpu: bool) -> None:
    text = (staged / service).read_text("utf-8")
    if gpu:
        text += (UNITS / "nsfwd-gpu.conf").read_text("utf-8")
    unit = tmp_path / service
    unit.write_text(text, "utf-8")
    done = analyze("security", "--offline=true", "--threshold=10", str(unit))
    assert done.returncode == 0, done.stdout[-300:]


def test_a_further_instance_differs_in_its_names_alone() -> None:
    one, other = ((UNITS / name).read_text("utf-8").splitlines() for name in DAEMONS)
    different = {line.partition("=")[0] for line in set(one) ^ set(other) if not line.startswith("#")}
    assert different == {"Description", "Requires", "After", "Environment", "ExecReload", "Also"}


def test_the_example_of_settings_is_taken() -> None:
    settings = load_settings(UNITS / "nsfwd.toml", {})
    assert settings.given.keys() == {"models_dir", "overrides"}
    assert Path(settings.overrides).parent == Path(settings.models_dir).parent
    assert f"d {settings.models_dir}  " in (UNITS / "nsfwd.tmpfiles.conf").read_text("utf-8")


def make(target: str, root: Path, wheel: Path) -> None:
    command = ["make", "--no-print-directory", target, f"DESTDIR={root}", f"WHAT={wheel}"]
    command += [f"PYTHON={sys.executable}", "PIPARGS=--no-deps --no-index"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_install_and_uninstall_leave_what_is_the_sites(tmp_path: Path) -> None:
    from tests.integration.test_wheel import build

    wheel, _ = build("wheel", tmp_path / "build")
    root = tmp_path / "root"
    make("install", root, wheel)
    program = root / "usr/local/bin/nsfwd"
    assert program.resolve().read_text("utf-8").splitlines()[0].startswith("#!/usr/local/lib/nsfwd/bin/python")
    units = root / "usr/local/lib/systemd/system"
    assert {path.name for path in units.iterdir()} == set(ALL)
    settings, bundle = root / "etc/nsfwd/nsfwd.toml", root / "var/lib/nsfwd/models/mine/bundle.toml"
    settings.write_text("queue = 7\n", "utf-8")
    bundle.parent.mkdir(parents=True)
    bundle.write_text("mine\n", "utf-8")
    make("install", root, wheel)
    assert settings.read_text("utf-8") == "queue = 7\n"
    make("uninstall", root, wheel)
    assert not list(units.iterdir())
    assert [path for path in sorted(root.rglob("*")) if path.is_file()] == [settings, bundle]
