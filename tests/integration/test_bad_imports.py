"""``nsfwd models import`` of networks that cannot be served: one clear line, an exit code, and nothing left behind."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nsfwd.bundles.manifest import MANIFEST, WEIGHTS, Output, Recipe, dump_manifest, parse_manifest
from tests import pictures
from tests.unit.shelf import manifest

LABELS = ("drawings", "hentai", "neutral", "porn", "sexy")

MAKE = """
import sys
from pathlib import Path
from nsfwd.bundles.manifest import Golden, dump_manifest, parse_manifest
from nsfwd.engines import framework_logging
import msgspec

place, described = Path(sys.argv[1]), parse_manifest(Path(sys.argv[2]).read_text(), "here")
with framework_logging.muted():
    import keras
    from nsfwd.model_tools import goldens

    keras.utils.set_random_seed(1)
    def save(name, layers, side=8, labels=5):
        scores = keras.layers.Dense(labels, activation="softmax")
        model = keras.Sequential([keras.Input((side, side, 3)), *layers, scores])
        model.save(place / f"{name}.keras")
        return model

    mean = keras.layers.GlobalAveragePooling2D
    whole = save("whole", [mean()])
    save("other", [mean()])
    save("labels", [mean()], labels=4)
    save("shape", [mean()], side=16)
    save("lambda", [keras.layers.Lambda(lambda tensor: tensor * 2.0), mean()])
    save("nan", [mean(), keras.layers.Rescaling(float("nan"))])
    picture = (place / "one.png").read_bytes()
    (scores,) = goldens.scores_of(whole, described, {"one.png": picture}).values()
golden = Golden(file="one.png", scores=dict(zip(described.output.labels, scores)))
Path(sys.argv[2]).write_text(dump_manifest(msgspec.structs.replace(described, goldens=(golden,))))
"""
"""In a process of its own: a framework that was loaded cannot be given other threads by a later test."""


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of Keras files, a golden picture, and the manifest that goes with ``whole.keras``."""
    place = tmp_path_factory.mktemp("networks")
    (place / "one.png").write_bytes(pictures.encoded(pictures.photo(1, (40, 30))))
    recipe = Recipe(width=8, height=8)
    plain = manifest(recipe=recipe, output=Output(labels=LABELS, activation="softmax"), goldens=())
    (place / MANIFEST).write_text(dump_manifest(plain))
    subprocess.run([sys.executable, "-c", MAKE, str(place), str(place / MANIFEST)], check=True, capture_output=True)
    whole = (place / "whole.keras").read_bytes()
    (place / "cut.keras").write_bytes(whole[: len(whole) // 2])
    (place / "onnx.keras").write_bytes(b"\x08\x08\x12\x07pytorch" * 5000)
    with zipfile.ZipFile(place / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("model.weights.h5", bytes(200 << 20))
    with zipfile.ZipFile(place / "saved.keras", "w") as saved:
        saved.writestr("saved_model.pb", b"\x08\x01")
        saved.writestr("variables/variables.index", b"")
    return place


def packed(networks: Path, file: Path, network: str, **changes: Any) -> Path:
    """A packed bundle with right digests."""
    described = parse_manifest((networks / MANIFEST).read_text(), "here")
    contents = {
        WEIGHTS: (networks / f"{network}.keras").read_bytes(),
        "goldens/one.png": (networks / "one.png").read_bytes(),
    }
    files = {path: hashlib.sha256(data).hexdigest() for path, data in contents.items()}
    text = dump_manifest(msgspec.structs.replace(described, **{"files": files, **changes})).encode()
    with tarfile.open(file, "w", format=tarfile.USTAR_FORMAT) as tar:
        for path, data in {MANIFEST: text, **contents}.items():
            entry = tarfile.TarInfo(f"tiny/{path}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return file


def imported(file: Path, models: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "nsfwd", "models", "import", str(file), "--models-dir", str(models)]
    environment = {**os.environ, "TMPDIR": str(models.parent)}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=250, env=environment)


def _files(models: Path) -> list[Path]:
    return sorted(path for path in models.parent.rglob("*") if path != models)


def refused(file: Path, models: Path) -> str:
    """Import a file that must be refused; return the line that says why."""
    before = _files(models)
    done = imported(file, models)
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr
    assert ".stage-" not in done.stderr
    assert _files(models) == before
    return done.stderr.splitlines()[-1]


def test_a_whole_network_is_imported_and_verified(networks: Path, tmp_path: Path) -> None:
    done = imported(packed(networks, tmp_path / "packed", "whole"), tmp_path / "models")
    assert done.returncode == 0, done
    assert "have the scores of the manifest" in done.stderr
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["tiny"]


@pytest.mark.parametrize(
    ("network", "why"),
    [
        ("cut", "is not a Keras file, or its end is missing"),
        ("onnx", "is not a Keras file, or its end is missing"),
        ("saved", "Keras cannot load it"),
        ("bomb", "that would be unpacked to 209715200 bytes"),
        ("labels", "returns (4,) for a picture, its manifest has 5 labels"),
        ("shape", "takes pictures of (16, 16, 3), its manifest says (8, 8, 3)"),
        ("lambda", "a Lambda layer, which is a program and is not run"),
        ("nan", "golden one.png"),
        ("other", "golden one.png is off by"),
    ],
)
def test_a_network_that_cannot_be_served(networks: Path, tmp_path: Path, network: str, why: str) -> None:
    assert why in refused(packed(networks, tmp_path / "packed", network), tmp_path / "models")


def test_labels_without_end(networks: Path, tmp_path: Path) -> None:
    """Each score of a golden has a label: a manifest that fits its limit of size, and one that does not."""
    for count, why in ((10_000, "returns (5,) for a picture, its manifest has 10000 labels"), (200_000, "member must")):
        labels = tuple(f"label{number}" for number in range(count))
        changes = {"output": Output(labels=labels, activation="sigmoid"), "policy": None, "goldens": ()}
        file = packed(networks, tmp_path / "packed", "whole", **changes)
        assert why in refused(file, tmp_path / "models")


@pytest.mark.parametrize("content", [b"", b"\x08\x08\x12\x07pytorch" * 500, json.dumps({"a": 1}).encode() * 99])
def test_what_is_no_bundle(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "junk").write_bytes(content)
    assert "junk: " in refused(tmp_path / "junk", tmp_path / "models")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_links_that_lead_out(networks: Path, tmp_path: Path, kind: bytes) -> None:
    file = packed(networks, tmp_path / "packed", "whole")
    with tarfile.open(file, "r:") as tar, tarfile.open(tmp_path / "linked", "w") as changed:
        for entry in tar:
            if entry.name.endswith(WEIGHTS):
                entry.type, entry.linkname, entry.size = kind, "/etc/passwd", 0
            changed.addfile(entry, tar.extractfile(entry) if entry.isreg() else None)
    assert "not a plain file" in refused(tmp_path / "linked", tmp_path / "models")
