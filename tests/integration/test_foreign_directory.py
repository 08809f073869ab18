"""nsfwd in a directory of somebody else's files: none of them is run or imported, whatever is asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import msgspec
import pytest

from nsfwd.bundles.bundle_store import open_bundle, read_manifest
from nsfwd.bundles.manifest import MANIFEST, dump_manifest
from nsfwd.cli.main import cli
from nsfwd.model_tools.pack import pack
from tests import pictures
from tests.integration.harness import MODELS, Daemon

BUNDLE = "nsfw-mobilenet-v2-140"
CONSOLE = Path(sys.executable).with_name("nsfwd")
PACKAGES = (
    "PIL", "absl", "chompjs", "click", "h5py", "keras", "ml_dtypes", "msgspec", "nncf", "nsfwd", "nsfwd_catalogue",
    "numpy", "openvino", "orjson", "prometheus_client", "pyarrow", "rich", "sitecustomize", "tensorflow",
    "usercustomize", "uvloop", "yaml",
)  # fmt: skip


class Trap:
    """A directory with a module for every name; each leaves a mark and ends the program that imports it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "trap"
        self.mark = directory / "mark"
        self.directory.mkdir()
        text = f"import _io, sys\n_io.open({str(self.mark)!r}, 'a').write(__name__ + '\\n')\nsys.exit(99)\n"
        for name in {*sys.stdlib_module_names, *PACKAGES}:
            (self.directory / f"{name}.py").write_text(text)
        (self.directory / "package.json").write_text('{"scripts": {"prepack": "touch ' + str(self.mark) + '"}}')
        (self.directory / ".npmrc").write_text(f"node-options=--require={self.directory}/none.js\n")

    def run(
        self, *arguments: str | Path, module: bool = False, variables: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run nsfwd in the directory."""
        start = [sys.executable, "-m", "nsfwd"] if module else [str(CONSOLE)]
        env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        command = [*start, *map(str, arguments)]
        return subprocess.run(
            command,
            cwd=self.directory,
            env={**env, **(variables or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )

    @property
    def caught(self) -> str:
        """Modules that were imported from the directory."""
        return self.mark.read_text() if self.mark.exists() else ""


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    """The directory to start nsfwd in."""
    return Trap(tmp_path)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of bundles with a real one that brings no network for OpenVINO, so that one must be exported."""
    directory = tmp_path_factory.mktemp("bare") / BUNDLE
    shutil.copytree(MODELS / BUNDLE, directory, ignore=shutil.ignore_patterns("openvino*"))
    manifest = read_manifest(directory)
    files = {path: digest for path, digest in manifest.files.items() if not path.startswith("openvino")}
    (directory / MANIFEST).write_text(dump_manifest(msgspec.structs.replace(manifest, files=files, quantized=None)))
    return directory.parent


def verbs(group: click.Group, *before: str) -> Iterator[tuple[str, ...]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield (*before, name)
        if isinstance(command, click.Group):
            yield from verbs(command, *before, name)


def test_the_trap_works(trap: Trap) -> None:
    assert subprocess.run([sys.executable, "-c", "import http"], cwd=trap.directory, check=False).returncode == 99
    assert trap.caught


@pytest.mark.parametrize("module", [False, True], ids=["console script", "python -m"])
def test_no_verb_imports_from_it(trap: Trap, module: bool) -> None:
    trap.directory.joinpath("nsfwd.py").unlink()  # ``python -m nsfwd`` alone would run it: it is what was asked for
    for verb in verbs(cli):
        for arguments in ((*verb, "--help"), verb if verb != ("serve",) else ("serve", "--max-bytes", "x")):
            done = trap.run(*arguments, module=module)
            assert done.returncode != 99, (arguments, done.stderr)
            assert b"Traceback" not in done.stderr, (arguments, done.stderr)
    assert trap.caught == ""


def test_scan_sweep_and_report_import_nothing_from_it(trap: Trap, tmp_path: Path) -> None:
    gallery = tmp_path / "gallery"
    gallery.mkdir()
    (gallery / "a.jpg").write_bytes(pictures.encoded(pictures.photo(1), "JPEG"))
    index = tmp_path / "index.sqlite"
    with Daemon(tmp_path / "daemon", root=gallery, prefix=["env", "-C", str(trap.directory)]) as daemon:
        to = ("--connect", f"unix:{daemon.unix}")
        for arguments in (("scan", *to, gallery), ("sweep", *to, gallery, "--index", index), ("stats", *to)):
            done = trap.run(*arguments)
            assert done.returncode in (0, 1), (arguments, done.stderr)
    done = trap.run("report", "--index", index, "-o", tmp_path / "page.html", "--thumbnails", "plain")
    assert (tmp_path / "page.html").exists() or done.returncode == 64, done.stderr
    assert trap.caught == ""


def test_importing_a_bundle_imports_nothing_from_it(trap: Trap, bare: Path, tmp_path: Path) -> None:
    file = tmp_path / "packed.bundle"
    pack(open_bundle(bare / BUNDLE), file)
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.mkdir()
    temporary.mkdir()
    variables = {"HOME": str(home), "TMPDIR": str(temporary)}
    done = trap.run("models", "import", file, "--models-dir", tmp_path / "models", variables=variables)
    assert trap.caught == ""
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "models" / BUNDLE / "openvino" / "model.xml").exists()
    assert [*home.rglob("*"), *temporary.rglob("*")] == []  # no .keras, nothing of autograph


def test_a_scan_without_daemon_imports_nothing_from_it(trap: Trap, bare: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(pictures.encoded(pictures.photo(1), "JPEG"))
    settings = {"NSFWD_MODELS_DIR": str(bare), "NSFWD_MODELS": BUNDLE, "NSFWD_CACHE_DIR": str(tmp_path / "cache")}
    done = trap.run("scan", "--local", tmp_path / "a.jpg", variables=settings)
    assert trap.caught == ""
    assert done.returncode in (0, 1), done.stderr
    assert list((tmp_path / "cache").rglob("model.xml"))


def test_hints_for_people_are_safe_in_it_as_well(trap: Trap, bare: Path, tmp_path: Path) -> None:
    shutil.copytree(bare, tmp_path / "models")
    place = tmp_path / "models" / BUNDLE / "openvino"
    place.mkdir()
    (place / "source.json").write_text("[")
    settings = {"NSFWD_MODELS_DIR": str(place.parents[1]), "NSFWD_MODELS": BUNDLE, "NSFWD_ENGINE": "openvino"}
    done = trap.run("scan", "--local", trap.directory / "package.json", variables=settings)
    hint = done.stderr.decode().partition("run: ")[2].splitlines()[0]
    python, _, rest = hint.partition(" ")
    assert Path(python).parent == Path(sys.executable).parent  # by whichever of its names the script was installed
    assert rest.startswith("-P -m nsfwd.engines.openvino_export")
