"""Scanning without a daemon: the same replies as with one, from everything that can hold a picture."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nsfwd.client import Client, Reply
from nsfwd.config import load_settings
from nsfwd.errors import BundleError, NsfwdError, SettingsError
from nsfwd.local import Scanner
from tests import pictures
from tests.echo_bundle import echo_bundle
from tests.integration.harness import Daemon


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("shelf")
    echo_bundle(directory)
    return directory


@pytest.fixture(scope="module")
def scanner(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scanner]:
    cache = str(tmp_path_factory.mktemp("cache"))
    with Scanner(models=("echo=nsfw",), models_dir=str(shelf), engine="echo", cache_dir=cache) as scanner:
        yield scanner


def _said(reply: Reply) -> dict[str, Any]:
    return {key: value for key, value in reply.raw.items() if key not in ("id", "time", "path")}


def test_the_same_replies_as_from_the_daemon(daemon: Daemon, scanner: Scanner, gallery: Path) -> None:
    folder = gallery / "mixed"
    folder.mkdir()
    pictures.write_photos(folder, 5)
    (folder / "notes.txt").write_text("no picture")
    (folder / "broken.jpg").write_bytes(pictures.truncated())
    with Client(f"unix:{daemon.unix}") as client:
        theirs = {reply.path: _said(reply) for reply in client.scan_dir(folder)}
    ours = {reply.path: _said(reply) for reply in scanner.scan_dir(folder)}
    assert ours == theirs
    assert len(ours) == 7


def test_whatever_holds_the_picture(scanner: Scanner, gallery: Path) -> None:
    """A path, its bytes, a Pillow image and an array of one lossless picture score the same."""
    colours = np.asarray(pictures.photo(3).convert("RGB"))
    picture = Image.fromarray(colours)
    path = gallery / "lossless.png"
    picture.save(path)
    replies = (
        scanner.scan(path),
        scanner.scan_bytes(path.read_bytes()),
        scanner.scan_image(picture),
        scanner.scan_image(colours),
    )
    assert len({json.dumps(_said(reply)) for reply in replies}) == 1
    assert replies[0].scored
    with pytest.raises(NsfwdError, match="Pillow image or an array"):
        scanner.scan_image("photo.jpg")


def test_a_batch_of_arrays_scores_as_the_same_pictures(scanner: Scanner) -> None:
    batch = np.stack([np.asarray(pictures.photo(seed, (90, 70)).convert("RGB")) for seed in range(100)])
    replies = scanner.scan_arrays(batch)
    assert [reply.path for reply in replies] == [str(number) for number in range(100)]
    assert [_said(reply) for reply in replies[:5]] == [_said(scanner.scan_image(one)) for one in batch[:5]]
    assert all(reply.scored for reply in replies)
    assert scanner.scan_arrays(batch[:0]) == []
    assert {reply.code for reply in scanner.scan_arrays(batch[:3, :8, :8])} == {"too_small"}
    for wrong in (batch[0], batch.astype(np.float32), batch[..., :2], batch[:, :0], "photo.jpg"):
        with pytest.raises(NsfwdError, match="a batch of uint8"):
            scanner.scan_arrays(wrong)


def test_settings_as_a_whole_read_nothing_of_this_machine(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {"models": ("echo=mine",), "models_dir": str(shelf), "engine": "echo", "cache_dir": str(tmp_path)}
    settings = load_settings(None, {}, flags)
    monkeypatch.setenv("NSFWD_MODELS", "none")
    with Scanner(settings=settings) as scanner:
        assert [each["name"] for each in scanner.models()["models"]] == ["mine"]
    with pytest.raises(SettingsError, match="max_bytes"):
        Scanner(settings=settings, max_bytes=1)


def test_it_can_be_closed_and_used_again(shelf: Path, gallery: Path, tmp_path: Path) -> None:
    scanner = Scanner(models=("echo",), models_dir=str(shelf), engine="echo", cache_dir=str(tmp_path))
    for _ in range(2):
        assert scanner.scan(gallery / "photo.jpg").scored
        scanner.close()


def test_a_picture_in_memory_is_turned_upright_as_its_file_is(scanner: Scanner) -> None:
    picture = pictures.photo(4)
    lying = Image.Exif()
    lying[0x0112] = 6
    out = io.BytesIO()
    picture.save(out, "PNG", exif=lying)
    assert _said(scanner.scan_image(Image.open(out))) == _said(scanner.scan_bytes(out.getvalue()))


def test_what_cannot_be_served_is_said_at_once(shelf: Path) -> None:
    with pytest.raises(BundleError):
        Scanner(models=("none",), models_dir=str(shelf))
    with pytest.raises(SettingsError):
        Scanner(colour="red")


def test_an_engine_that_cannot_load_is_an_error(tmp_path: Path) -> None:
    bundle = echo_bundle(tmp_path)
    (bundle / "model.keras").write_bytes(b"other weights")
    with (
        pytest.raises(NsfwdError, match=r"model\.keras"),
        Scanner(models=("echo",), models_dir=str(tmp_path), engine="echo", cache_dir=str(tmp_path)),
    ):
        pass


def _settings(shelf: Path, cache: Path) -> dict[str, str]:
    said = {"MODELS": "echo=nsfw", "MODELS_DIR": str(shelf), "ENGINE": "echo", "CACHE_DIR": str(cache)}
    return {**os.environ, **{f"NSFWD_{name}": value for name, value in said.items()}}


def test_the_command_line_without_a_daemon(shelf: Path, gallery: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nsfwd.cli.main", "scan", "--local", "--format", "ndjson"]
    done = subprocess.run(
        [*command, "photo.jpg"], cwd=gallery, env=_settings(shelf, tmp_path), capture_output=True, check=False
    )
    (reply,) = map(json.loads, done.stdout.splitlines())
    assert (reply["path"], reply["status"]) == (str(gallery / "photo.jpg"), "ok")
    assert done.stderr.startswith(b"1 file in ")
    assert subprocess.run([*command, "--connect", "x:1", "y"], capture_output=True, check=False).returncode == 64


def test_a_scanner_that_nobody_closed_ends_with_its_caller(shelf: Path, gallery: Path, tmp_path: Path) -> None:
    code = f"from nsfwd.local import Scanner; print(Scanner().scan({str(gallery / 'photo.jpg')!r}).status)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=_settings(shelf, tmp_path), capture_output=True, check=True, timeout=60
    )
    assert done.stdout == b"ok\n"
