"""Formats are told by content."""

from __future__ import annotations

import io
import struct

import pytest

from nsfwd.imaging.formats import FORMATS, HEAD, announced_size, cut_short, recognise
from tests.pictures import encoded, every_format, no_pictures, photo

NAMES = {"jpg": "jpeg", "tiff": "tiff", "png": "png", "gif": "gif", "webp": "webp", "bmp": "bmp", "avif": "avif"}


def test_every_allowed_format_is_recognised() -> None:
    for file, content in every_format().items():
        form = recognise(content[:HEAD])
        assert form is not None
        assert form.name == NAMES[file.rpartition(".")[2]]


def test_nothing_else_is() -> None:
    assert {recognise(content[:HEAD]) for content in no_pictures().values()} == {None}


@pytest.mark.parametrize("form", ["PPM", "ICO", "TGA", "PCX", "EPS", "JPEG2000", "ICNS", "SGI"])
def test_other_formats_that_pillow_could_read_are_not(form: str) -> None:
    assert recognise(encoded(photo(1, (64, 64)), form)[:HEAD]) is None


@pytest.mark.parametrize(
    "head", [b"", b"BM", b"BM is how this text begins, as many do", b"RIFF\0\0\0\0WAVE", b"\xff\xd8"]
)
def test_short_and_similar_beginnings(head: bytes) -> None:
    assert recognise(head) is None


def test_other_media_in_the_same_container_are_not_avif() -> None:
    def begins(*brands: bytes) -> bytes:
        return struct.pack(">I", 16 + 4 * len(brands[1:])) + b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])

    assert recognise(begins(b"isom", b"mp41", b"iso2")) is None
    for name, brands in (
        ("avif", (b"avif",)),
        ("avif", (b"mif1", b"miaf", b"avif")),
        ("avif", (b"avis", b"msf1")),
        ("heif", (b"heic",)),
        ("heif", (b"heix", b"mif1")),
        ("heif", (b"mif1", b"miaf")),
        ("heif", (b"isom", *(b"xxxx" for _ in range(20)), b"heic")),
    ):
        form = recognise(begins(*brands))
        assert form is not None, brands
        assert form.name == name


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 50}, {"save_all": True, "exif": b"Exif\0\0"}])
def test_the_canvas_of_a_webp_is_known_before_it_is_opened(options: dict[str, object]) -> None:
    head = encoded(photo(1, (321, 123)), "WEBP", **options)[:HEAD]
    form = recognise(head)
    assert form is not None
    assert announced_size(form, head) == (321, 123)


def test_files_shorter_than_they_say() -> None:
    for form in FORMATS:
        if form.name in ("webp", "avif"):
            whole = encoded(photo(1, (64, 64)), form.name.upper())
            assert not cut_short(form, io.BytesIO(whole))
            assert all(cut_short(form, io.BytesIO(whole[:length])) for length in range(16, len(whole), 97))
