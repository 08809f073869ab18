"""Pictures made by code for every test: photo-like, of every format and mode, broken, and hostile.

Deterministic: the same call gives the same pixels. Needs Pillow, knows nothing of nsfwd.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageOps

Colour = tuple[int, int, int]


def photo(seed: int = 0, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """A photo-like picture: smooth colour noise at three scales, a few soft shapes, a little grain. RGB."""
    source = random.Random(seed)
    picture = Image.new("RGB", size, (128, 128, 128))
    for cells, weight in ((3, 0.7), (9, 0.4), (40, 0.2)):
        noise = Image.frombytes("RGB", (cells, cells), source.randbytes(cells * cells * 3))
        picture = Image.blend(picture, noise.resize(size, Image.Resampling.BICUBIC), weight)
    draw = ImageDraw.Draw(picture)
    for _ in range(4):
        x, y = source.randrange(size[0]), source.randrange(size[1])
        radius = source.randrange(4, 4 + min(size) // 4)
        colour = (source.randrange(256), source.randrange(256), source.randrange(256))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    grain = Image.frombytes("RGB", size, source.randbytes(size[0] * size[1] * 3))
    return Image.blend(picture, grain, 0.03)


def solid(colour: Colour, size: tuple[int, int] = (64, 64)) -> Image.Image:
    """One colour all over: the echo engine's scores for it are known."""
    return Image.new("RGB", size, colour)


def encoded(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """The bytes of ``picture`` as a file of format ``form`` (a name Pillow knows); ``options`` go to ``Image.save``."""
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def transparent(picture: Image.Image) -> Image.Image:
    """RGBA: opaque on the left, fading out to the right."""
    faded = picture.convert("RGBA")
    faded.putalpha(ImageOps.invert(Image.linear_gradient("L").rotate(90).resize(picture.size)))
    return faded


def deep(picture: Image.Image) -> Image.Image:
    """The same in grey with 16 bits a pixel, over the whole range."""
    return picture.convert("L").convert("I").point(lambda value: value * 257).convert("I;16")


def animation(frames: int = 3, form: str = "GIF") -> bytes:
    """A moving picture of ``frames`` different photos."""
    pictures = [photo(seed, (96, 64)) for seed in range(frames)]
    return encoded(pictures[0], form, save_all=True, append_images=pictures[1:], duration=100)


def every_format() -> dict[str, bytes]:
    """File name -> bytes of a sound picture, for every allowed format and the modes that are often misread."""
    picture = photo(7)
    rotated = Image.Exif()
    rotated[0x0112] = 6  # Orientation: turn by 90 degrees to see it upright
    return {
        "plain.jpg": encoded(picture, "JPEG", quality=90),
        "progressive.jpg": encoded(picture, "JPEG", progressive=True),
        "rotated.jpg": encoded(picture, "JPEG", exif=rotated),
        "cmyk.jpg": encoded(picture.convert("CMYK"), "JPEG"),
        "grey.jpg": encoded(picture.convert("L"), "JPEG"),
        "plain.png": encoded(picture, "PNG"),
        "palette.png": encoded(picture.quantize(32), "PNG"),
        "palette-transparent.png": encoded(picture.quantize(32), "PNG", transparency=0),
        "transparent.png": encoded(transparent(picture), "PNG"),
        "grey-alpha.png": encoded(transparent(picture).convert("LA"), "PNG"),
        "grey-16-bit.png": encoded(deep(picture), "PNG"),
        "bilevel.png": encoded(picture.convert("1"), "PNG"),
        "still.gif": encoded(picture, "GIF"),
        "moving.gif": animation(),
        "lossy.webp": encoded(picture, "WEBP", quality=80),
        "transparent.webp": encoded(transparent(picture), "WEBP", lossless=True),
        "plain.bmp": encoded(picture, "BMP"),
        "plain.tiff": encoded(picture, "TIFF"),
        "deflated.tiff": encoded(picture, "TIFF", compression="tiff_deflate"),
        "plain.avif": encoded(picture, "AVIF"),
    }


def truncated(form: str = "JPEG") -> bytes:
    """A sound header and half of the rest."""
    whole = encoded(photo(11), form)
    return whole[: len(whole) // 2]


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def bomb(width: int = 50_000, height: int = 50_000) -> bytes:
    """A PNG of a few bytes whose header announces ``width`` times ``height`` pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1024))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def no_pictures() -> dict[str, bytes]:
    """File name -> bytes of things that are no picture of an allowed format, some of them named like one."""
    return {
        "text.jpg": b"This is a text, whatever its name says.\n" * 20,
        "page.png": b"<!doctype html><title>not a picture</title>" + b" " * 500,
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>' + b" " * 500,
        "program.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nshowpage\n" + b" " * 500,
        "noise.webp": random.Random(3).randbytes(4096),
    }


def write_photos(directory: Path, count: int, *, size: tuple[int, int] = (160, 120)) -> list[Path]:
    """``count`` different JPEGs in ``directory``, in the order of their names."""
    paths = [directory / f"photo-{number:05d}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(encoded(photo(number, size), "JPEG"))
    return paths


def deep_png(picture: Image.Image) -> bytes:
    """An RGB picture as a PNG of 16 bits a channel, which Pillow cannot write: each value times 257."""
    width, height = picture.size
    pixels = picture.convert("RGB").tobytes()
    doubled = bytes(value for value in pixels for _ in range(2))
    row = 6 * width
    lines = b"".join(b"\0" + doubled[at : at + row] for at in range(0, len(doubled), row))
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(lines)) + _chunk(b"IEND", b"")


def turned(picture: Image.Image, form: str, orientation: int, **options: Any) -> bytes:
    """The picture as a camera held differently stores it: turned, with the EXIF orientation that undoes it."""
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = picture.transpose(back[orientation]) if orientation in back else picture.copy()
    return encoded(stored, form, exif=exif, **options)


def one_picture() -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The same picture of 200 colours in many encodings: file name -> bytes, those that lose nothing and the others."""
    palette = photo(21, (480, 352)).quantize(200)
    picture = palette.convert("RGB")
    opaque = picture.convert("RGBA")
    fine: dict[str, Any] = {"quality": 95, "subsampling": 0}
    exact = {
        "plain.png": encoded(picture.copy(), "PNG"),
        "palette.png": encoded(palette.copy(), "PNG"),
        "16-bit.png": deep_png(picture),
        "opaque-alpha.png": encoded(opaque, "PNG"),
        "palette.gif": encoded(palette.copy(), "GIF"),
        "lossless.webp": encoded(picture.copy(), "WEBP", lossless=True),
        "plain.bmp": encoded(picture.copy(), "BMP"),
        "palette.bmp": encoded(palette.copy(), "BMP"),
        "plain.tiff": encoded(picture.copy(), "TIFF"),
        "lzw.tiff": encoded(picture.copy(), "TIFF", compression="tiff_lzw"),
        "deflated.tiff": encoded(picture.copy(), "TIFF", compression="tiff_deflate"),
        "cmyk.tiff": encoded(picture.convert("CMYK"), "TIFF"),
        **{f"turned-{number}.png": turned(picture, "PNG", number) for number in range(1, 9)},
        "turned-6.webp": turned(picture, "WEBP", 6, lossless=True),
        "turned-8.tiff": turned(picture, "TIFF", 8),
    }
    close = {
        "plain.jpg": encoded(picture.copy(), "JPEG", **fine),
        "progressive.jpg": encoded(picture.copy(), "JPEG", progressive=True, **fine),
        "cmyk.jpg": encoded(picture.convert("CMYK"), "JPEG", quality=95),
        **{f"turned-{number}.jpg": turned(picture, "JPEG", number, **fine) for number in range(2, 9)},
        "lossy.webp": encoded(picture.copy(), "WEBP", quality=95),
        "lossy.avif": encoded(picture.copy(), "AVIF", quality=95, subsampling="4:4:4"),
    }
    return exact, close
