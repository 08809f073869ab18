"""What a user installs: the wheel holds the package, its types and the catalogue, and a caller needs nothing else."""

from __future__ import annotations

import email
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.integration.harness import REPOSITORY


def build(what: str, directory: Path) -> tuple[Path, str]:
    """Build ``wheel`` or ``sdist`` from a copy of what git tracks; returns the file and all that the build printed."""
    copy = directory / "checkout"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        source = REPOSITORY / name
        if source.is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes(source.read_bytes())
    # setuptools itself, not pip: no network, and its warnings are seen.
    code = f"import setuptools.build_meta as build; print(build.build_{what}({str(directory)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return directory / done.stdout.splitlines()[-1], done.stdout + done.stderr


def tracked(directory: str) -> list[str]:
    listed = subprocess.run(["git", "ls-files", directory], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return listed.stdout.split()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    return build("wheel", tmp_path_factory.mktemp("wheel"))


def test_wheel_holds_every_module_and_the_catalogue(wheel: tuple[Path, str]) -> None:
    with zipfile.ZipFile(wheel[0]) as content:
        names = set(content.namelist())
    modules = {name.removeprefix("daemon/") for name in tracked("daemon") if name.endswith(".py")}
    entries = {f"nsfwd_catalogue/{path.name}" for path in (REPOSITORY / "models").glob("*.toml")}
    assert len(entries) >= 3
    units = {f"nsfwd_units/{name.rpartition('/')[2]}" for name in tracked("systemd")}
    assert len(units) >= 10
    wanted = modules | entries | units | {"nsfwd/py.typed", "nsfwd_catalogue/__init__.py"}
    inside = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert inside == wanted
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.endswith((".keras", ".png", ".jpg", ".bin")) for name in names)


def test_wheel_says_what_it_is(wheel: tuple[Path, str]) -> None:
    with zipfile.ZipFile(wheel[0]) as content:
        (name,) = (name for name in content.namelist() if name.endswith("METADATA"))
        about = email.message_from_bytes(content.read(name))
    assert about["License-Expression"] == "Apache-2.0"
    assert about["Requires-Python"] == "<3.14,>=3.11"
    assert {"gpu", "node", "dev", "lock"} <= set(about.get_all("Provides-Extra", []))


def test_build_prints_no_warning(wheel: tuple[Path, str]) -> None:
    assert not [line for line in wheel[1].splitlines() if "Warning" in line or line.startswith("!!")]


def test_sdist_can_be_built_again(tmp_path: Path) -> None:
    archive, _ = build("sdist", tmp_path)
    with tarfile.open(archive) as content:
        names = {name.partition("/")[2] for name in content.getnames()}
    entries = {f"models/{path.name}" for path in (REPOSITORY / "models").glob("*.toml")} | set(tracked("systemd"))
    assert {"setup.cfg", "pyproject.toml", "LICENSE", "daemon/nsfwd/py.typed", "models/__init__.py"} | entries <= names


def test_a_caller_needs_nothing_but_the_wheel(wheel: tuple[Path, str], tmp_path: Path) -> None:
    venv.create(tmp_path / "empty", with_pip=False, symlinks=True)
    python = tmp_path / "empty" / "bin" / "python"
    (packages,) = (tmp_path / "empty" / "lib").glob("python3.*/site-packages")
    # A pure wheel installs by being unpacked; pip would only add its own seconds.
    with zipfile.ZipFile(wheel[0]) as content:
        content.extractall(packages)
    code = "import sys, nsfwd.client; print(nsfwd.client.__file__); print(*sorted(sys.modules))"
    done = subprocess.run([python, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    where, loaded = done.stdout.splitlines()
    assert where.startswith(str(packages))
    assert not {"numpy", "PIL", "click", "msgspec", "uvloop"} & set(loaded.split())


@pytest.mark.parametrize("arguments", [[], ["--help"], ["scan", "/x"], ["serve"]])
def test_the_command_says_in_one_line_what_it_lacks(
    wheel: tuple[Path, str], tmp_path: Path, arguments: list[str]
) -> None:
    venv.create(tmp_path / "empty", with_pip=False, symlinks=True)
    (packages,) = (tmp_path / "empty" / "lib").glob("python3.*/site-packages")
    with zipfile.ZipFile(wheel[0]) as content:
        content.extractall(packages)
    command = [str(tmp_path / "empty" / "bin" / "python"), "-P", "-m", "nsfwd", *arguments]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 69
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("nsfwd: the Python package click is not installed; run: ")


def test_a_package_that_only_a_verb_needs_is_named_as_well() -> None:
    code = (
        "import sys; sys.modules['msgspec'] = None; sys.argv = ['nsfwd', 'config', 'show']; "
        "from nsfwd.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 69
    (line,) = done.stderr.splitlines()
    assert "msgspec is not installed" in line
