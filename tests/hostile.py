"""A corpus of hostile and odd files, made by code: cut short, flipped, lying, endless, strips, specks and bombs.

Each file is named ``kind/what`` and comes with the codes it may end in (empty for scores). Deterministic. Needs Pillow,
knows nothing of nsfwd. Nothing here is large: a bomb is a small file that asks for much.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from PIL import Image
from pillow_heif import register_heif_opener

from tests import pictures

SIZE = (96, 64)
PARTS = 16
register_heif_opener()
FLIPS = 12

SCORED = ""
BROKEN = frozenset(("corrupt",))
ANY = frozenset(
    (SCORED, "corrupt", "not_an_image", "too_small", "too_many_pixels", "too_many_frames", "decoder_memory")
)
"""What may become of a file that was damaged anywhere: never a defect, a death or a time-out."""


class Odd(NamedTuple):
    """One file: what it is, its bytes, and the codes it may end in."""

    name: str
    content: bytes
    codes: frozenset[str]


def seeds() -> dict[str, bytes]:
    """A sound small file of each kind that is then damaged."""
    shots = [pictures.photo(seed, SIZE) for seed in range(4)]

    # Copies: Pillow leaves one format's options with the picture for the next.
    def saved(form: str, mode: str = "RGB", frames: int = 1, **options: Any) -> bytes:
        first, *rest = (shot.convert(mode).copy() for shot in shots[:frames])
        if rest:
            options |= {"save_all": True, "append_images": rest}
        return pictures.encoded(first, form, **options)

    return {
        "plain.jpg": saved("JPEG"),
        "progressive.jpg": saved("JPEG", progressive=True),
        "cmyk.jpg": saved("JPEG", "CMYK"),
        "two.mpo": saved("MPO", frames=2),
        "plain.png": saved("PNG"),
        "clear.png": pictures.encoded(pictures.transparent(shots[0]), "PNG"),
        "moving.png": saved("PNG", frames=4, duration=50),
        "still.gif": saved("GIF"),
        "moving.gif": saved("GIF", frames=4, duration=50),
        "plain.webp": saved("WEBP"),
        "lossless.webp": saved("WEBP", lossless=True),
        "moving.webp": saved("WEBP", frames=4, duration=50),
        "plain.bmp": saved("BMP"),
        "plain.tiff": saved("TIFF"),
        "lzw.tiff": saved("TIFF", compression="tiff_lzw"),
        "pages.tiff": saved("TIFF", frames=4, compression="tiff_deflate"),
        "plain.avif": saved("AVIF"),
        "moving.avif": saved("AVIF", frames=4, duration=50),
        "plain.heic": saved("HEIF"),
        "several.heic": saved("HEIF", frames=3),
    }


def corpus(*, flips: int = FLIPS, seed: str = "") -> Iterator[Odd]:
    """Every file.

    Args:
        flips: how many damaged copies of each sound file.
        seed: other damage for another word.
    """
    sound = seeds()
    for name, content in sound.items():
        yield Odd(f"sound/{name}", content, frozenset((SCORED,)))
        yield from _cut(name, content)
        yield from _flipped(name, content, flips, seed)
        yield Odd(f"trailing/{name}", content + b"PK\3\4<script>" * 50, frozenset((SCORED, "corrupt")))
    for what, made, codes in (
        ("bomb", bombs(sound), frozenset(("too_many_pixels",))),
        ("endless", endless(), frozenset((SCORED, "too_many_frames", "corrupt"))),
        ("strip", strips(), frozenset(("too_small", "too_many_pixels"))),
        ("zero", zeros(sound), frozenset(("too_small", "corrupt", "not_an_image"))),
        ("lie", lies(sound), frozenset((SCORED, "corrupt", "not_an_image", "too_small", "too_many_pixels"))),
        ("other", pictures.no_pictures(), frozenset(("not_an_image",))),
    ):
        for name, content in made.items():
            yield Odd(f"{what}/{name}", content, codes)


def _cut(name: str, content: bytes) -> Iterator[Odd]:
    # The first picture of a MPO is whole long before the file is, and is all that most viewers look at.
    codes = BROKEN | {SCORED} if name.endswith(".mpo") else BROKEN
    for part in range(1, PARTS):
        yield Odd(f"cut/{part:02d}-{name}", content[: len(content) * part // PARTS], codes)


def _flipped(name: str, content: bytes, count: int, seed: str) -> Iterator[Odd]:
    source = random.Random(name + seed)
    for number in range(count):
        damaged = bytearray(content)
        # Headers are short and matter most: half of the damage goes to the first hundred bytes.
        reach = min(100, len(content)) if number % 2 else len(content)
        for _ in range(1 + number % 3):
            damaged[source.randrange(reach)] ^= 1 << source.randrange(8)
        yield Odd(f"flip/{number:02d}-{name}", bytes(damaged), ANY)


# -- sizes -----------------------------------------------------------------------------------------------------------


def resized(name: str, content: bytes, width: int, height: int) -> bytes:
    """The same file, saying that it is of another size."""
    changed = bytearray(content)
    form = name.rsplit(".", 1)[1]
    if form in ("jpg", "mpo"):
        at = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))
        struct.pack_into(">HH", changed, at + 5, min(height, 65535), min(width, 65535))
    elif form == "png":
        struct.pack_into(">II", changed, 16, width, height)
        struct.pack_into(">I", changed, 29, zlib.crc32(changed[12:29]))
    elif form == "gif":
        struct.pack_into("<HH", changed, 6, min(width, 65535), min(height, 65535))
        at = content.index(b",\0\0\0\0")
        struct.pack_into("<HH", changed, at + 5, min(width, 65535), min(height, 65535))
    elif form == "bmp":
        struct.pack_into("<ii", changed, 18, width, height)
    elif form == "tiff":
        _set_tags(changed, {256: width, 257: height})
    elif form in ("avif", "heic"):
        at = content.index(b"ispe")
        struct.pack_into(">II", changed, at + 8, width, height)
    elif content[12:16] == b"VP8L":
        struct.pack_into("<I", changed, 21, (width - 1 & 0x3FFF) | (height - 1 & 0x3FFF) << 14)
    elif content[12:16] == b"VP8X":
        changed[24:30] = (width - 1 & 0xFFFFFF).to_bytes(3, "little") + (height - 1 & 0xFFFFFF).to_bytes(3, "little")
    else:
        struct.pack_into("<HH", changed, 26, width & 0x3FFF, height & 0x3FFF)
    return bytes(changed)


def _set_tags(content: bytearray, tags: dict[int, int]) -> None:
    """Change numbers in the first directory of a little-endian TIFF."""
    (at,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, at)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from("<HH", content, entry)
        if tag in tags:
            struct.pack_into("<H" if kind == 3 else "<I", content, entry + 8, tags[tag] & (0xFFFF if kind == 3 else ~0))


def bombs(sound: dict[str, bytes]) -> dict[str, bytes]:
    """Small files of every format that ask for 225 million pixels or more."""
    made = {
        name: resized(name, content, 15_000, 15_000)
        for name, content in sound.items()
        if name not in ("two.mpo", "moving.avif", "several.heic")  # their sizes stand in several places
    }
    return {**made, "zeros.png": pictures.bomb(30_000, 30_000)}


def strips() -> dict[str, bytes]:
    """Pictures one pixel wide or high."""
    made = {}
    for form, longest in (("PNG", 100_000), ("GIF", 65_535), ("BMP", 30_000), ("TIFF", 30_000), ("JPEG", 65_500)):
        for size in ((1, longest), (longest, 1)):
            made[f"{size[0]}x{size[1]}.{form.lower()}"] = pictures.encoded(Image.new("L", size), form)
    for size in ((1, 16_383), (16_383, 1)):
        made[f"{size[0]}x{size[1]}.webp"] = pictures.encoded(Image.new("RGB", size), "WEBP", lossless=True)
    return made


def zeros(sound: dict[str, bytes]) -> dict[str, bytes]:
    """Files that say they have no width, no height, or neither."""
    return {
        f"{width}x{height}-{name}": resized(name, sound[name], width, height)
        for name in ("plain.jpg", "plain.png", "still.gif", "plain.bmp", "plain.tiff", "plain.avif", "plain.webp")
        for width, height in ((0, 0), (0, 64), (96, 0))
    }


# -- lies ------------------------------------------------------------------------------------------------------------


def lies(sound: dict[str, bytes]) -> dict[str, bytes]:
    """Headers that say other things than the rest of the file."""
    plain, bmp = sound["plain.tiff"], bytearray(sound["plain.bmp"])
    made = {f"twice-{name}": resized(name, content, 192, 128) for name, content in sound.items() if name != "two.mpo"}
    made["upside-down.bmp"] = resized("a.bmp", sound["plain.bmp"], 96, -64)
    struct.pack_into("<I", bmp, 10, 1 << 31)
    made["pixels-elsewhere.bmp"] = bytes(bmp)
    for tag, value in ((273, 1 << 31), (278, 0), (279, 0x7FFFFFFF), (259, 7), (259, 34712), (262, 6), (277, 60_000)):
        changed = bytearray(plain)
        _set_tags(changed, {tag: value})
        made[f"tag-{tag}-{value}.tiff"] = bytes(changed)
    for name in ("plain.png", "clear.png"):
        for kind in (0, 3, 4, 7):
            changed = bytearray(sound[name])
            changed[25] = kind
            struct.pack_into(">I", changed, 29, zlib.crc32(changed[12:29]))
            made[f"colour-type-{kind}-{name}"] = bytes(changed)
    made["text.png"] = _with_chunk(sound["plain.png"], b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000)))
    made["profile.png"] = _with_chunk(sound["plain.png"], b"iCCP", b"a\0\0" + zlib.compress(bytes(50_000_000)))
    made["orientation.jpg"] = _oriented(0xFFFF)
    made["thumbnail-of-itself.jpg"] = sound["plain.jpg"][:2] + _segment(0xE1, b"Exif\0\0" + sound["plain.jpg"][:60_000])
    made["thumbnail-of-itself.jpg"] += sound["plain.jpg"][2:]
    return made


def _oriented(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return pictures.encoded(pictures.photo(0, SIZE), "JPEG", exif=exif)


def _segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def _with_chunk(content: bytes, name: bytes, body: bytes) -> bytes:
    """Put a chunk behind the header of a PNG."""
    chunk = struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return content[:33] + chunk + content[33:]


# -- endless ---------------------------------------------------------------------------------------------------------


def endless() -> dict[str, bytes]:
    """Animations without end, frames without number, boxes within boxes."""
    gif = pictures.encoded(Image.new("P", (32, 32)), "GIF")
    head, frame = gif[: gif.index(b",")], gif[gif.index(b",") : -1]
    shots = [pictures.solid((at, at, at), (32, 32)) for at in range(6)]
    apng = bytearray(pictures.encoded(shots[0], "PNG", save_all=True, append_images=shots[1:], loop=0))
    tiff = pictures.encoded(shots[0], "TIFF", save_all=True, append_images=shots[1:])
    return {
        "many.gif": head + frame * 20_000 + b";",
        "many-without-end.gif": head + frame * 5_000,
        "extensions.gif": head + b"!\xfe\x01a\0" * 100_000 + frame + b";",
        "no-frames.gif": head + b";",
        "more-than-there-are.png": _announcing(apng, 0x7FFFFFFF),
        "none-announced.png": _announcing(apng, 0),
        "circle.tiff": _linked(tiff, 0),
        "pointing-at-itself.tiff": tiff[:4] + struct.pack("<I", 4) + tiff[8:],
        "chain.tiff": _chain(20_000),
        "boxes.avif": struct.pack(">I4s4sI4s", 20, b"ftyp", b"avif", 0, b"avif") + _nested(b"meta", 5_000),
        "chunks.webp": b"RIFF" + struct.pack("<I", 12 * 5_000 + 4) + b"WEBP" + b"RIFF\x04\0\0\0WEBP" * 5_000,
    }


def _announcing(apng: bytearray, count: int) -> bytes:
    changed = bytearray(apng)
    at = changed.index(b"acTL")
    struct.pack_into(">I", changed, at + 4, count)
    struct.pack_into(">I", changed, at + 12, zlib.crc32(changed[at : at + 12]))
    return bytes(changed)


def _linked(tiff: bytes, target: int) -> bytes:
    """Let the last directory of a little-endian TIFF lead back to the one numbered ``target``."""
    changed, places, at = bytearray(tiff), [], 4
    while (place := struct.unpack_from("<I", changed, at)[0]) != 0:
        places.append(place)
        at = place + 2 + 12 * struct.unpack_from("<H", changed, place)[0]
    struct.pack_into("<I", changed, at, places[target])
    return bytes(changed)


def _chain(count: int) -> bytes:
    """A TIFF of as many directories, each with nothing but a size and no pixels."""
    entries = ((256, 32), (257, 32), (258, 8), (262, 1), (273, 8), (278, 32), (279, 1024))
    size = 2 + 12 * len(entries) + 4
    made = [b"II*\0" + struct.pack("<I", 8 + 1024) + bytes(1024)]
    for number in range(count):
        following = 8 + 1024 + size * (number + 1) if number + 1 < count else 0
        tags = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
        made.append(struct.pack("<H", len(entries)) + tags + struct.pack("<I", following))
    return b"".join(made)


def _nested(name: bytes, depth: int) -> bytes:
    """ISO boxes within each other."""
    made = bytearray()
    for level in range(depth):
        made += struct.pack(">I4sI", 12 * (depth - level), name, 0)
    return bytes(made)
