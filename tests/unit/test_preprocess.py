"""Encoded bytes to pixels: limits before work, the picture a person sees, and a code for everything else."""

from __future__ import annotations

import base64
import io
import struct
import subprocess
import sys
from typing import Any

import pytest
from PIL import Image

from nsfwd.bundles.manifest import Recipe
from nsfwd.errors import CodedError
from nsfwd.imaging import formats
from nsfwd.imaging.preprocess import Pixels, Seen, decode
from nsfwd.ipc.child_messages import ImageLimits
from tests import oriented, pictures

LIMITS = ImageLimits(max_bytes=1 << 20, max_pixels=1_000_000, min_side=16, max_frames=100, memory=1 << 30)
SIDE = 64
EXACT = Recipe(width=320, height=240, draft=0)
"""The size of the pictures themselves: what comes out is what was put in."""


def run(content: bytes, recipe: Recipe = EXACT, limits: ImageLimits = LIMITS) -> Pixels:
    return decode(io.BytesIO(content), recipe, limits)


def refusal(content: bytes, recipe: Recipe = EXACT, limits: ImageLimits = LIMITS) -> CodedError:
    with pytest.raises(CodedError) as caught:
        decode(io.BytesIO(content), recipe, limits)
    return caught.value


@pytest.fixture(scope="module")
def every() -> dict[str, bytes]:
    return pictures.every_format()


def test_every_format_gives_pixels_of_the_recipes_size(every: dict[str, bytes]) -> None:
    for file, content in every.items():
        pixels = run(content, Recipe(width=48, height=32))
        assert len(pixels.data) == 48 * 32 * 3, file
        assert (pixels.width, pixels.height) == ((96, 64) if file == "moving.gif" else (320, 240)), file
        assert formats.recognise(content[: formats.HEAD]) is not None


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "packbits"}),
    ],
)
def test_lossless_encodings_of_a_picture_give_the_same_pixels(form: str, options: dict[str, Any]) -> None:
    picture = pictures.photo(7)
    assert run(pictures.encoded(picture, form, **options)).data == picture.tobytes()


def test_one_picture_has_the_same_pixels_in_every_lossless_encoding() -> None:
    exact, close = pictures.one_picture()
    recipe = Recipe(width=224, height=224)
    pixels = {name: run(content, recipe).data for name, content in exact.items()}
    assert {name for name, data in pixels.items() if data != pixels["plain.png"]} == set()
    for name, content in close.items():
        assert mean_difference(run(content, recipe).data, pixels["plain.png"]) < 2.0, name


def test_a_palette_and_16_bits_lose_nothing_either() -> None:
    few = pictures.photo(7).quantize(200)
    for form in ("PNG", "GIF", "BMP", "TIFF"):
        assert run(pictures.encoded(few, form)).data == few.convert("RGB").tobytes()
    grey = pictures.photo(7).convert("L")
    for form in ("PNG", "TIFF"):
        assert run(pictures.encoded(pictures.deep(grey), form)).data == grey.convert("RGB").tobytes()


def test_lossy_encodings_are_close() -> None:
    picture = pictures.photo(7)
    rows: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("JPEG", picture, {"quality": 95, "subsampling": 0}),
        ("JPEG", picture, {"quality": 95, "subsampling": 0, "progressive": True}),
        ("JPEG", picture.convert("CMYK"), {"quality": 95}),
        ("MPO", picture, {"quality": 95, "subsampling": 0}),
        ("WEBP", picture, {"quality": 95}),
        ("AVIF", picture, {"quality": 95, "subsampling": "4:4:4"}),
    ]
    for form, source, options in rows:
        data = run(pictures.encoded(source, form, **options)).data
        assert mean_difference(data, picture.tobytes()) < 3.0, form


def mean_difference(one: bytes, other: bytes) -> float:
    assert len(one) == len(other)
    return sum(abs(left - right) for left, right in zip(one, other, strict=True)) / len(one)


TURNED = {1: None, **oriented.TURNED}
"""Orientation -> how a camera held that way stores an upright scene."""


def stored(orientation: int, form: str) -> bytes:
    turn = TURNED[orientation]
    picture = pictures.photo(9)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"lossless": True} if form == "WEBP" else {}
    return pictures.encoded(picture if turn is None else picture.transpose(turn), form, exif=exif, **options)


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_every_orientation_is_turned_upright(form: str, orientation: int) -> None:
    assert run(stored(orientation, form)).data == pictures.photo(9).tobytes()


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("draft", [0.0, 2.0])
def test_a_turned_jpeg_is_close_to_the_upright_one_drafted_or_not(orientation: int, draft: float) -> None:
    recipe = Recipe(width=40, height=30, draft=draft)
    expected = pictures.photo(9).resize((40, 30), Image.Resampling.BILINEAR).tobytes()
    assert mean_difference(run(stored(orientation, "JPEG"), recipe).data, expected) < 3.0


def test_orientation_is_left_alone_where_the_recipe_says_so() -> None:
    recipe = Recipe(width=240, height=320, draft=0, rotate=False)
    expected = pictures.photo(9).transpose(Image.Transpose.ROTATE_90).tobytes()
    for form in ("PNG", "WEBP", "TIFF"):
        assert run(stored(6, form), recipe).data == expected, form


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_cost_the_picture() -> None:
    content = pictures.encoded(pictures.photo(9), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff\xff")
    assert run(content).format == "jpeg"


@pytest.mark.parametrize(("background", "level"), [("white", 255), ("black", 0), ("both", 255)])
def test_transparent_pixels_show_the_recipes_background(background: str, level: int) -> None:
    content = pictures.encoded(Image.new("RGBA", (320, 240), (90, 90, 90, 0)), "PNG")
    recipe = Recipe(width=320, height=240, background=background)  # type: ignore[arg-type]
    assert set(run(content, recipe).data) == {level}


def test_an_alpha_channel_of_a_bmp_that_nobody_filled_in_hides_nothing() -> None:
    picture = pictures.photo(5, (320, 240))
    blank = picture.convert("RGBA")
    blank.putalpha(0)
    pixels = blank.transpose(Image.Transpose.FLIP_TOP_BOTTOM).tobytes("raw", "BGRA")
    header = struct.pack("<IiiHHIIiiII", 108, 320, 240, 1, 32, 3, len(pixels), 0, 0, 0, 0)
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    body = (header + masks).ljust(108, b"\0") + pixels
    found = run(b"BM" + struct.pack("<IHHI", 14 + len(body), 0, 0, 14 + 108) + body)
    assert (found.data, found.background) == (picture.tobytes(), "")
    assert run(pictures.encoded(blank, "PNG")).background == "white"


def test_draft_drifts_little() -> None:
    content = pictures.encoded(pictures.photo(2, (900, 700)), "JPEG", quality=90)
    whole, drafted = (run(content, Recipe(width=SIDE, height=SIDE, draft=draft)).data for draft in (0.0, 2.0))
    assert whole != drafted
    assert mean_difference(whole, drafted) < 1.0


def test_draft_is_never_used_for_filters_that_pick_pixels() -> None:
    content = pictures.encoded(pictures.photo(2, (900, 700)), "JPEG", quality=90)
    for keys in ({"filter": "nearest"}, {"antialias": False}):
        whole, drafted = (
            run(content, Recipe(width=SIDE, height=SIDE, draft=draft, **keys)).data for draft in (0.0, 2.0)
        )
        assert whole == drafted


# -- limits ---------------------------------------------------------------------------------------------------------


def limits(**keys: int) -> ImageLimits:
    values = {"max_bytes": 1 << 20, "max_pixels": 1_000_000, "min_side": 16, "max_frames": 100, "memory": 1 << 30}
    return ImageLimits(**{**values, **keys})


def test_limits_at_their_edges() -> None:
    content = pictures.encoded(pictures.photo(1), "PNG")
    for name, value, code in (
        ("max_bytes", len(content), "too_large"),
        ("max_pixels", 320 * 240, "too_many_pixels"),
    ):
        assert run(content, limits=limits(**{name: value})).format == "png"
        assert refusal(content, limits=limits(**{name: value - 1})).code == code
    assert run(content, limits=limits(min_side=240)).format == "png"
    assert refusal(content, limits=limits(min_side=241)).code == "too_small"


def test_size_is_known_even_of_what_is_refused() -> None:
    seen = Seen()
    with pytest.raises(CodedError):
        decode(io.BytesIO(pictures.bomb()), EXACT, LIMITS, seen)
    assert seen == Seen(50_000, 50_000, "png")


def lying(form: str) -> bytes:
    """A small file whose header announces far more pixels than the limit."""
    content = bytearray(pictures.encoded(pictures.photo(1), form, **({"lossless": True} if form == "WEBP" else {})))
    if form == "GIF":
        content[6:10] = struct.pack("<HH", 60000, 60000)
    elif form == "BMP":
        content[18:26] = struct.pack("<ii", 60000, 60000)
    elif form == "WEBP":
        content[21:25] = struct.pack("<I", 0x0FFFFFFF)
    elif form == "JPEG":
        at = content.index(b"\xff\xc0")
        content[at + 5 : at + 9] = struct.pack(">HH", 60000, 60000)
    return bytes(content)


@pytest.mark.parametrize("form", ["JPEG", "GIF", "BMP", "WEBP"])
def test_bombs_are_refused_by_their_header(form: str) -> None:
    assert refusal(lying(form)).code == "too_many_pixels"
    assert refusal(pictures.bomb()).code == "too_many_pixels"


def test_strips_and_specks_are_too_small() -> None:
    for size in ((1, 400), (400, 1), (1, 1), (15, 15)):
        assert refusal(pictures.encoded(pictures.solid((1, 2, 3), size), "PNG")).code == "too_small"


# -- what is no picture ----------------------------------------------------------------------------------------------


def test_nothing_and_not_an_image() -> None:
    assert refusal(b"").code == "empty"
    for file, content in pictures.no_pictures().items():
        assert refusal(content).code == "not_an_image", file


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"])
def test_truncated_at_every_sixteenth(form: str) -> None:
    whole = pictures.encoded(pictures.photo(11), form)
    for part in range(1, 16):
        error = refusal(whole[: len(whole) * part // 16])
        assert error.code == "corrupt"
        assert "truncated" in error.message, (part, error.message)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"])
def test_damaged_files_decode_or_have_a_code(form: str) -> None:
    whole = pictures.encoded(pictures.photo(11, (80, 60)), form)
    for at in range(0, len(whole), max(1, len(whole) // 150)):
        damaged = whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :]
        try:
            run(damaged, Recipe(width=16, height=16))
        except CodedError as error:
            assert error.code in {"corrupt", "not_an_image", "too_many_pixels", "too_small", "decoder_memory"}
            assert "Traceback" not in error.message


class _BadDisk(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        if self.tell() > 100:
            raise OSError(5, "Input/output error")
        return super().read(size)


def test_a_failing_disk_is_not_a_corrupt_file() -> None:
    with pytest.raises(CodedError) as caught:
        decode(_BadDisk(pictures.encoded(pictures.photo(1), "JPEG")), EXACT, LIMITS)
    assert caught.value.code == "unreadable"


def test_running_out_of_memory_has_its_own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("nsfwd.imaging.colour_modes.to_rgb", fail)
    assert refusal(pictures.encoded(pictures.photo(1), "PNG")).code == "decoder_memory"


def test_only_allowed_plugins_are_ever_loaded() -> None:
    code = "import sys, nsfwd.imaging.decoder; print(*(name for name in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    plugins = {name.removeprefix("PIL.").removesuffix("ImagePlugin") for name in loaded if name.endswith("ImagePlugin")}
    assert plugins == {"Avif", "Bmp", "Gif", "Jpeg", "Mpo", "Png", "Tiff", "WebP"}
    assert "numpy" not in loaded


ARITHMETIC = base64.b85decode(
    "|JeWF01!$>Nk#wx0RR9200961|JwjV02>k%7Zed27Zw*D92+1gLMtdGB`8rkJupIGRb^yfRb5+Zc$tA}agcLcU4^xVke;Kft*d8%yve$z$C;?B"
    "r2pFhLjfEf9w;LyPAe-;q;6eqq@<*zq@<*zq@<*zq@<*zq@<*zq@<*zq@<*zq@<*zq@<*zq@<*zq@<*zq@<*zq@@4J01*fPAOJ7}0U`hb5di}c"
    "0sqVZ3IGrg1pyEd1^?Or3<CiG0ucid06zfxS40{&ZmfprU_z2$`1XO%$1h677s&Kj=BmKC+v1Gy7BYRGA-(?q88#4`g6VHd+PC1^{{VjQK7q3T"
    "0L%ImC6~gkTyF@85RPtSsqP$#rIGLrsNAQ4gwrD~j0s8VTb@b^^XsE>l<`|DGy)mQ`Q^A+WY|}!`rjD`ssQv@s|C;SriYzjXnkO-keLmI0D(>n"
    "YCJ+W)1(}@MK(mMXIZ)yx9r0I*#"
)
"""``pictures.photo(5, (48, 32))`` as a JPEG of quality 30, made arithmetic-coded by ``jpegtran -arithmetic``."""


def test_an_arithmetic_coded_jpeg_is_a_jpeg() -> None:
    plain = pictures.encoded(pictures.photo(5, (48, 32)), "JPEG", quality=30)
    recipe = Recipe(width=48, height=32, draft=0)
    assert mean_difference(run(ARITHMETIC, recipe).data, run(plain, recipe).data) < 2.0
    error = refusal(ARITHMETIC[:300], recipe)
    assert error.code == "corrupt"
