"""Thumbnails through a real decoder process: what is shown, what is not, and that a file which ends it is survived."""

from __future__ import annotations

import base64
import errno
import io
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
from PIL import Image

from nsfwd.errors import CodedError
from nsfwd.protocol.messages import FileIdentity
from nsfwd.scanning.reports.thumbnails import BLOCKS, SIDE, Thumbnails, data_uri
from tests import pictures
from tests.descriptors import all_closed


@pytest.fixture(scope="module")
def thumbnails() -> Iterator[Thumbnails]:
    with Thumbnails() as opened:
        yield opened


def stamp(path: Path) -> FileIdentity:
    return FileIdentity.of(path.stat())


def shown(thumbnails: Thumbnails, path: Path) -> Image.Image:
    pixels = thumbnails.pixels(os.fsencode(path), stamp(path))
    return Image.frombytes("RGB", (SIDE, SIDE), pixels)


def test_a_picture_is_shown_small_and_whole(thumbnails: Thumbnails, tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    Image.new("RGB", (400, 200), (200, 30, 30)).save(path)
    image = shown(thumbnails, path)
    assert image.getpixel((SIDE // 2, SIDE // 2)) == (200, 30, 30) and image.getpixel((0, 0)) == (255, 255, 255)


def test_what_cannot_be_shown_is_told_by_its_code(thumbnails: Thumbnails, tmp_path: Path) -> None:
    path = tmp_path / "text.jpg"
    path.write_text("no picture at all")
    with pytest.raises(CodedError) as refused:
        shown(thumbnails, path)
    assert refused.value.code == "not_an_image"
    with pytest.raises(CodedError) as missing:
        thumbnails.pixels(b"/nowhere/at/all", FileIdentity(0, 0, 0, 0, 0))
    assert missing.value.code == "not_found"
    with pytest.raises(CodedError) as odd:
        thumbnails.pixels(os.fsencode(tmp_path), stamp(tmp_path))
    assert odd.value.code == "unreadable"


def test_another_file_in_its_place_is_not_shown(thumbnails: Thumbnails, tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    path.write_bytes(pictures.encoded(pictures.photo(1), "PNG"))
    before = stamp(path)
    path.write_bytes(pictures.encoded(pictures.photo(2), "PNG"))
    with pytest.raises(CodedError, match="changed"):
        thumbnails.pixels(os.fsencode(path), before)


def test_a_decoder_that_cannot_be_started_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "one.png"
    path.write_bytes(pictures.encoded(pictures.photo(1), "PNG"))
    with Thumbnails() as thumbnails:
        with monkeypatch.context() as failing:
            failing.setattr(subprocess, "Popen", Mock(side_effect=OSError(errno.EAGAIN, "no more processes")))
            for _ in range(2):
                with all_closed(), pytest.raises(CodedError, match="unreadable"):
                    shown(thumbnails, path)
        assert shown(thumbnails, path).size == (SIDE, SIDE)


def test_a_decoder_that_died_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    path.write_bytes(pictures.encoded(pictures.photo(1), "PNG"))
    with Thumbnails() as thumbnails:
        before = shown(thumbnails, path)
        assert thumbnails._decoder is not None
        os.kill(thumbnails._decoder.pid, signal.SIGKILL)
        with pytest.raises(CodedError) as died:
            shown(thumbnails, path)
        assert died.value.code == "decoder_died"
        assert shown(thumbnails, path).tobytes() == before.tobytes()
    assert thumbnails._decoder is None


def test_a_blurred_one_holds_hardly_a_pixel() -> None:
    pixels = pictures.photo(1).convert("RGB").resize((SIDE, SIDE)).tobytes()
    sizes = []
    for blurred in (False, True):
        kind, _, content = data_uri(pixels, blurred=blurred).partition(",")
        assert kind == "data:image/jpeg;base64"
        sizes.append(Image.open(io.BytesIO(base64.b64decode(content))).size)
    assert sizes == [(SIDE, SIDE), (BLOCKS, BLOCKS)]
