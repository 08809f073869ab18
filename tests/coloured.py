"""Pictures whose files say that their values are other colours than sRGB, and what a browser shows of each."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from PIL import Image, ImageCms

from tests import pictures

GREYS = (0, 16, 48, 96, 128, 176, 224, 255)
COLOURS = (
    (200, 30, 60), (30, 200, 60), (60, 30, 200), (128, 100, 200),
    (90, 90, 30), (30, 90, 90), (240, 180, 150), (255, 0, 0),
)  # fmt: skip
SIDE = 64
PATCH = SIDE // 8

SRGB = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
"""sRGB's primaries as profiles hold them, under D50."""

BT709 = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
DISPLAY_P3 = (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
SWAPPED = (0.3127, 0.329, 0.3, 0.6, 0.64, 0.33, 0.15, 0.06)


@dataclass(frozen=True)
class Case:
    """A file, the media type behind ``image/``, and the red of its grey patches and the colours of the others."""

    content: bytes
    media: str


def patches(mode: str = "RGB") -> Image.Image:
    """Eight greys over eight colours."""
    picture = Image.new("RGB", (SIDE, SIDE))
    for at in range(8):
        picture.paste((GREYS[at],) * 3, (at * PATCH, 0, (at + 1) * PATCH, SIDE // 2))
        picture.paste(COLOURS[at], (at * PATCH, SIDE // 2, (at + 1) * PATCH, SIDE))
    return picture.convert(mode)


# -- PNG -------------------------------------------------------------------------------------------------------------


def chunk(name: bytes, body: bytes, flaw: int = 0) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body) ^ flaw)


def gamma(value: float, flaw: int = 0) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(value * 100_000)), flaw)


def chromaticities(*values: float) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in values)))


def code_points(primaries: int, transfer: int, matrix: int = 0, full: int = 1) -> bytes:
    return chunk(b"cICP", bytes((primaries, transfer, matrix, full)))


INTENT = chunk(b"sRGB", b"\0")


def png(before: bytes = b"", *, picture: Image.Image | None = None, ahead_of: bytes = b"", **options: object) -> bytes:
    """The patches, with chunks right behind the header, or ahead of the chunk of this name."""
    content = pictures.encoded(picture or patches(), "PNG", **options)
    at = content.index(ahead_of) - 4 if ahead_of else 33
    return content[:at] + before + content[at:]


# -- ICC -------------------------------------------------------------------------------------------------------------


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def profile(space: bytes, connection: bytes, tags: dict[bytes, bytes], *, name: bytes = b"sRGB built-in") -> bytes:
    """An ICC profile of these tags."""
    name += b"\0"
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(79),
        b"wtpt": b"XYZ " + bytes(4) + _fixed(0.9642, 1.0, 0.8249),
        **tags,
    }
    table, data = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for tag, body in tags.items():
        table += tag + struct.pack(">II", start + len(data), len(body))
        data += body + bytes(-len(body) % 4)
    header = struct.pack(">I4sI4s4s4s", start + len(data), b"test", 0x02100000, b"mntr", space, connection)
    header += bytes(12) + b"acsp" + bytes(28) + _fixed(0.9642, 1.0, 0.8249)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def exponent(value: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IHxx", 1, round(value * 256))


def shaper(curve: bytes, **more: bytes) -> bytes:
    """A profile of sRGB's primaries and one curve."""
    tags = {}
    for channel, colorant in zip(b"rgb", SRGB, strict=True):
        tags[bytes((channel,)) + b"XYZ"] = b"XYZ " + bytes(4) + _fixed(*colorant)
        tags[bytes((channel,)) + b"TRC"] = curve
    return profile(b"RGB ", b"XYZ ", tags | {name.encode(): body for name, body in more.items()})


def grey(value: float) -> bytes:
    return profile(b"GRAY", b"XYZ ", {b"kTRC": exponent(value)})


def table(*, negative: bool, steps: int = 9) -> bytes:
    """A table from RGB to CIELAB: what sRGB means, or its negative."""
    levels = [step * 255 // (steps - 1) for step in range(steps)]
    corners = Image.new("RGB", (steps**3, 1))
    corners.putdata([(r, g, b) for r in levels for g in levels for b in levels])
    if negative:
        corners = corners.point([255 - value for value in range(256)] * 3)
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    values = bytearray(ImageCms.buildTransform(srgb, lab, "RGB", "LAB").apply(corners).tobytes())
    for at in range(0, len(values), 3):
        values[at + 1] ^= 128
        values[at + 2] ^= 128
    identity = bytes(range(256))
    matrix = _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    return b"mft1" + bytes(4) + bytes((3, 3, steps, 0)) + matrix + identity * 3 + bytes(values) + identity * 3


STEEP = shaper(exponent(8))


# -- AVIF, BMP -------------------------------------------------------------------------------------------------------


def avif(primaries: int, transfer: int, **options: object) -> bytes:
    """The patches as an AVIF whose box of colours names these code points."""
    fine = {"quality": 98, "subsampling": "4:4:4", **options}
    content = bytearray(pictures.encoded(patches(), "AVIF", **fine))
    struct.pack_into(">HH", content, content.index(b"nclx") + 4, primaries, transfer)
    return bytes(content)


def cropped(picture: Image.Image, width: int, height: int, right: int = 0, down: int = 0) -> bytes:
    """An AVIF with a clean aperture: so many pixels, their middle moved by so many half pixels."""
    content = pictures.encoded(picture, "AVIF", quality=95, subsampling="4:4:4")
    aperture = struct.pack(">I4sIIIIiIiI", 40, b"clap", width, 1, height, 1, right, 2, down, 2)
    start = content.index(b"ipco") - 4
    end = start + int.from_bytes(content[start : start + 4], "big")
    number, at = 0, start + 8
    while at < end:
        at += int.from_bytes(content[at : at + 4], "big")
        number += 1
    table = content.index(b"ipma") - 4
    stop = table + int.from_bytes(content[table : table + 4], "big")
    count = table + 18  # version and flags, one entry: item 1
    linked = content[end:count] + bytes((content[count] + 1,)) + content[count + 1 : stop] + bytes((0x80 | number + 1,))
    grown = bytearray(content[:end] + aperture + linked + content[stop:])
    for name, more in ((b"meta", 41), (b"iprp", 41), (b"ipco", 40)):
        _add(grown, grown.index(name) - 4, more)
    _add(grown, table + len(aperture), 1)
    _add(grown, content.index(b"iloc") + 18, 41)  # where its only extent begins
    return bytes(grown)


def _add(content: bytearray, at: int, more: int) -> None:
    struct.pack_into(">I", content, at, int.from_bytes(content[at : at + 4], "big") + more)


CALIBRATED, EMBEDDED = 0, 0x4D424544


def bmp(space: int, icc: bytes = b"", *, size: int = 124, power: float = 0.0) -> bytes:
    """The patches as a BMP with a header of version 4 or 5."""
    picture = patches().transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    pixels = picture.tobytes("raw", "BGR")
    header = struct.pack("<IiiHHIIiiII", size, *picture.size, 1, 24, 0, len(pixels), 0, 0, 0, 0)
    header += bytes(16) + struct.pack("<I", space)
    ends = (0.4124, 0.2126, 0.0193, 0.3576, 0.7152, 0.1192, 0.1805, 0.0722, 0.9505)
    header += struct.pack("<9i", *(round(value * (1 << 30)) for value in ends))
    header += struct.pack("<3I", *(round(power * 65536),) * 3)
    if size == 124:
        header += struct.pack("<4I", 4, size + len(pixels), len(icc), 0)
    start = 14 + size
    return b"BM" + struct.pack("<IHHI", start + len(pixels) + len(icc), 0, 0, start) + header + pixels + icc


# -- the cases -------------------------------------------------------------------------------------------------------


def _png_cases() -> dict[str, bytes]:
    broken = chunk(b"iCCP", b"p\0\0" + zlib.compress(b"nonsense"))
    steep = chunk(b"iCCP", b"p\0\0" + zlib.compress(STEEP))
    linear = gamma(1.0)
    return {
        "nothing": png(),
        "gamma 0.0227": png(gamma(0.0227)),
        "gamma 1": png(linear),
        "gamma 10": png(gamma(10.0)),
        "gamma 0": png(gamma(0.0)),
        "the least gamma": png(gamma(0.00001)),
        "the greatest gamma": png(gamma(21474.0)),
        "gamma 0.45455": png(gamma(0.45455)),
        "gamma 0.6": png(gamma(0.6)),
        "gamma, grey": png(linear, picture=patches("L")),
        "gamma, 16 bits": png(linear, picture=pictures.deep(patches())),
        "gamma, palette": png(linear, picture=patches().quantize(64)),
        "gamma, behind a palette": png(linear, picture=patches().quantize(64), ahead_of=b"IDAT"),
        "gamma, opaque": png(linear, picture=patches("RGBA")),
        "gamma, behind the pixels": png(linear, ahead_of=b"IEND"),
        "gamma, wrong checksum": png(gamma(1.0, flaw=1)),
        "gamma, too long": png(chunk(b"gAMA", struct.pack(">II", 100_000, 0))),
        "gamma twice": png(linear + gamma(0.45455)),
        "gamma twice, otherwise": png(gamma(0.45455) + linear),
        "gamma and sRGB": png(linear + INTENT),
        "gamma and sRGB that is no intent": png(linear + chunk(b"sRGB", b"\x09")),
        "gamma and sRGB that is too long": png(linear + chunk(b"sRGB", b"\0\0")),
        "gamma and a broken profile": png(linear + broken),
        "gamma and a profile of grey": png(linear, icc_profile=grey(4)),
        "primaries alone": png(chromaticities(*SWAPPED)),
        "primaries and gamma": png(gamma(0.45455) + chromaticities(*SWAPPED)),
        "primaries of P3": png(gamma(0.45455) + chromaticities(*DISPLAY_P3)),
        "primaries on a line": png(linear + chromaticities(0.3, 0.3, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5)),
        "primaries out of range": png(linear + chromaticities(0.3127, 0.329, 1.64, 0.33, 0.3, 0.6, 0.15, 0.06)),
        "half of the primaries": png(linear + chunk(b"cHRM", bytes(30))),
        "profile": png(icc_profile=STEEP),
        "profile and gamma": png(linear, icc_profile=STEEP),
        "profile and sRGB": png(INTENT + steep),
        "profile, wrong checksum": png(chunk(b"iCCP", b"p\0\0" + zlib.compress(STEEP), flaw=1)),
        "profile of RGB, grey": png(picture=patches("L"), icc_profile=STEEP),
        "profile of grey": png(picture=patches("L"), icc_profile=grey(4)),
        "profile of grey, colours": png(icc_profile=grey(4)),
        "profile named sRGB": png(icc_profile=shaper(exponent(2.4))),
        "table": png(icc_profile=profile(b"RGB ", b"Lab ", {b"A2B0": table(negative=True)})),
        "second table": png(icc_profile=profile(b"RGB ", b"Lab ", {b"A2B1": table(negative=True)})),
        "profile with code points": png(icc_profile=shaper(exponent(2.2), cicp=b"cicp" + bytes(4) + b"\1\x08\0\1")),
        "code points and a profile": png(code_points(1, 13), icc_profile=STEEP),
        "code points and gamma": png(code_points(1, 13) + linear),
        "code points twice": png(code_points(1, 8) + code_points(1, 13)),
        "code points, too long": png(chunk(b"cICP", b"\1\x08\0\1\0")),
        "unknown primaries and gamma": png(code_points(77, 13) + linear),
        "unknown transfer and gamma": png(code_points(1, 77) + linear),
        **{
            f"code points {primaries}, {transfer}": png(code_points(primaries, transfer))
            for primaries, transfer in (
                *((1, transfer) for transfer in (1, 4, 5, 7, 8, 9, 13, 16, 17, 18)),
                *((primaries, 13) for primaries in (4, 5, 6, 8, 9, 10, 11, 12, 22)),
                (2, 2), (9, 16), (9, 18),
            )
        },
    }  # fmt: skip


def cases() -> dict[str, Case]:
    """Name -> file. What a browser shows of each is in ``SHOWN``."""
    found = {f"png: {name}": Case(content, "png") for name, content in _png_cases().items()}
    fine = {"quality": 98, "subsampling": 0}
    for name, content in {
        "profile": pictures.encoded(patches(), "JPEG", icc_profile=STEEP, **fine),
        "profile of RGB, grey": pictures.encoded(patches("L"), "JPEG", quality=98, icc_profile=STEEP),
        "profile of grey, colours": pictures.encoded(patches(), "JPEG", icc_profile=grey(4), **fine),
    }.items():
        found[f"jpeg: {name}"] = Case(content, "jpeg")
    found["webp: profile"] = Case(pictures.encoded(patches(), "WEBP", lossless=True, icc_profile=STEEP), "webp")
    found["bmp: profile"] = Case(bmp(EMBEDDED, STEEP), "bmp")
    found["bmp: gamma"] = Case(bmp(CALIBRATED, power=8.0), "bmp")
    found["bmp: gamma, version 4"] = Case(bmp(CALIBRATED, size=108, power=8.0), "bmp")
    found["avif: profile"] = Case(avif(1, 8, icc_profile=STEEP), "avif")
    for points in (
        (1, 1),
        (1, 5),
        (1, 8),
        (1, 13),
        (1, 16),
        (1, 18),
        (2, 2),
        (2, 8),
        (9, 13),
        (9, 16),
        (12, 13),
        (77, 8),
    ):
        found[f"avif: code points {points[0]}, {points[1]}"] = Case(avif(*points), "avif")
    return found


SHOWN = {
    "png: nothing": "0010306080b0e0ff c81e3c1ec83c3c1ec88064c85a5a1e1e5a5af0b496ff0000",
    "png: gamma 0.0227": "0000000000000bff 0000000000000000000000000000000000004a0000ff0000",
    "png: gamma 1": "004778a5bcd8f1ff e5608560e5858560e5bca8e5a0a06060a0a0f8dbcaff0000",
    "png: gamma 10": "00e2edf4f7fbfeff fce8efe8fcefefe8fcf7f5fcf4f4e8e8f4f4fefbf9ff0000",
    "png: gamma 0": "0010306080b0e0ff c81e3c1ec83c3c1ec88064c85a5a1e1e5a5af0b496ff0000",
    "png: the least gamma": "00000000000000ff 000000000000000000000000000000000000000000ff0000",
    "png: the greatest gamma": "00ffffffffffffff ffffffffffffffffffffffffffffffffffffffffffff0000",
    "png: gamma 0.45455": "0010306080b0e0ff c81e3c1ec83c3c1ec88064c85a5a1e1e5a5af0b496ff0000",
    "png: gamma 0.6": "0019467a99c2e8ff d52f542fd554542fd5997ed575752f2f7575f4c5acff0000",
    "png: gamma, grey": "004778a5bcd8f1ff 9b9b9bbfbfbf838383b7b7b79b9b9b919191e3e3e3949494",
    "png: gamma, 16 bits": "004778a5bcd8f1ff 9b9b9bbfbfbf838383b7b7b79b9b9b919191e3e3e3949494",
    "png: gamma, palette": "004778a5bcd8f1ff e5608560e5858560e5bca8e5a0a06060a0a0f8dbcaff0000",
    "png: gamma, behind a palette": "004778a5bcd8f1ff e5608560e5858560e5bca8e5a0a06060a0a0f8dbcaff0000",
    "png: gamma, opaque": "004778a5bcd8f1ff e5608560e5858560e5bca8e5a0a06060a0a0f8dbcaff0000",
    "png: gamma, behind the pixels": "0010306080b0e0ff c81e3c1ec83c3c1ec88064c85a5a1e1e5a5af0b496ff0000",
    "png: gamma, wrong checksum": "0010306080b0e0ff c81e3c1ec83c3c1ec88064c85a5a1e1e5a5af0b496ff0000",
    "png: gamma, too long": "0010306080b0e0ff c81e3c1ec83c3c1ec88064c85a5a1e1e5a5af0b496ff0000",
    "png: gamma twice": "004778a5bcd8f1ff e5608560e5858560e5bca8e5a0a06060a0a0f8dbcaff0000",
    "png: gamma twice, otherwise": "0010306080b0e0ff c81e3c1ec83c3c1ec88064c85a5a1e1e5a5af0b496ff0000",
    "png: gamma and sRGB": "0010306080b0e0ff c81e3c1ec83c3c1ec88064c85a5a1e1e5a5af0b496ff0000",
    "png: gamma and sRGB that is no intent": "004778a5bcd8f1ff e5608560e5858560e5bca8e5a0a06060a0a0f8dbcaff0000",
    "png: gamma and sRGB that is too long": "004778a5bcd8f1ff e5608560e5858560e5bca8e5a0a06060a0a0f8dbcaff0000",
    "png: gamma and a broken profile": "004778a5bcd8f1ff e5608560e5858560e5bca8e5a0a06060a0a0f8dbcaff0000",
    "png: gamma and a profile of grey": "0010306080b0e0ff c81e3c1ec83c3c1ec88064c85a5a1e1e5a5af0b496ff0000",
    "png: primaries alone": "0010306080b0e0ff c81e3c1ec83c3c1ec88064c85a5a1e1e5a5af0b496ff0000",
    "png: primaries and gamma": "00072c6081b1e1ff 18c939c918391839c96481c95a5a185a185ab5f09700ff00",
    "png: primaries of P3": "00072c6081b1e1ff dc003300cd003e15d28663d05a5a00005b5afbb292ff0000",
    "png: primaries on a line": "0010306080b0e0ff c81e3c1ec83c3c1ec88064c85a5a1e1e5a5af0b496ff0000",
    "png: primaries out of range": "0010306080b0e0ff c81e3c1ec83c3c1ec88064c85a5a1e1e5a5af0b496ff0000",
    "png: half of the primaries": "004778a5bcd8f1ff e5608560e5858560e5bca8e5a0a06060a0a0f8dbcaff0000",
    "png: profile": "000000010d40a1ff 6a0000006a0000006a0d026a010100000101ce4620ff0000",
    "png: profile and gamma": "000000010d40a1ff 6a0000006a0000006a0d026a010100000101ce4620ff0000",
    "png: profile and sRGB": "000000010d40a1ff 6a0000006a0000006a0d026a010100000101ce4620ff0000",
    "png: profile, wrong checksum": "0010306080b0e0ff c81e3c1ec83c3c1ec88064c85a5a1e1e5a5af0b496ff0000",
    "png: profile of RGB, grey": "000000010d40a1ff 000000111111000000080808000000000000606060000000",
    "png: profile of grey": "000004274783cbff 1c1c1c4d4d4d0909093f3f3f1b1b1b1313139e9e9e161616",
    "png: profile of grey, colours": "0010306080b0e0ff c81e3c1ec83c3c1ec88064c85a5a1e1e5a5af0b496ff0000",
    "png: profile named sRGB": "0004255779acdeff c5123111c5313112c5795cc5515112125151efb090ff0000",
    "png: table": "fff0d1a080511f00 3ae2c4e239c4c4e238809c38a6a6e3e2a6a6174b6a00ffff",
    "png: second table": "fff0d1a080511f00 3ae2c4e239c4c4e238809c38a6a6e3e2a6a6174b6a00ffff",
    "png: profile with code points": "004778a5bcd8f1ff e5608560e5858560e5bca8e5a0a06060a0a0f8dbcaff0000",
    "png: code points and a profile": "0010306080b0e0ff c81e3c1ec83c3c1ec88064c85a5a1e1e5a5af0b496ff0000",
    "png: code points and gamma": "0010306080b0e0ff c81e3c1ec83c3c1ec88064c85a5a1e1e5a5af0b496ff0000",
    "png: code points twice": "004778a5bcd8f1ff e5608560e5858560e5bca8e5a0a06060a0a0f8dbcaff0000",
    "png: code points, too long": "0010306080b0e0ff c81e3c1ec83c3c1ec88064c85a5a1e1e5a5af0b496ff0000",
    "png: unknown primaries and gamma": "004778a5bcd8f1ff e5608560e5858560e5bca8e5a0a06060a0a0f8dbcaff0000",
    "png: unknown transfer and gamma": "004778a5bcd8f1ff e5608560e5858560e5bca8e5a0a06060a0a0f8dbcaff0000",
    "png: code points 1, 1": "0004255779acdeff c5123112c5313112c5795bc5515112125151efb090ff0000",
    "png: code points 1, 4": "00072c6081b1e1ff c9183918c9393918c98164c95a5a18185a5af0b597ff0000",
    "png: code points 1, 5": "000118486aa1d9ff bd082408bd242408bd6a4cbd424208084242eda583ff0000",
    "png: code points 1, 7": "002242708db9e4ff ce304d30ce4d4d30ce8d73ce6a6a30306a6af2bca1ff0000",
    "png: code points 1, 8": "004778a5bcd8f1ff e5608560e5858560e5bca8e5a0a06060a0a0f8dbcaff0000",
    "png: code points 1, 9": "0010306080b0e0ff c81e3c1ec83c3c1ec88064c85a5a1e1e5a5af0b496ff0000",
    "png: code points 1, 13": "0010306080b0e0ff c81e3c1ec83c3c1ec88064c85a5a1e1e5a5af0b496ff0000",
    "png: code points 1, 16": "00010f4684edffff ff020f01ff0b0b01ff4f2bff3d3d04043d3dff7343ff0000",
    "png: code points 1, 17": "0003205376ade4ff c80d2c0dc82c2c0dc87657c84c4c0d0d4c4cf7b18fff0000",
    "png: code points 1, 18": "00031d4763a0e4ff b5132e17c8332911a7634eb6414112114040ff9573ff0000",
    "png: code points 4, 13": "0010306080b0e0ff ed043200c4292041ce826ecd5d5713005b5bffb091ff0000",
    "png: code points 5, 13": "0010306080b0e0ff cc1e3c00c8403d1ec78164c75a5a1f185a5af2b496ff0000",
    "png: code points 6, 13": "0010306080b0e0ff c32a3c39c53a3f2ac98067c85a591d25595aedb596f82400",
    "png: code points 8, 13": "0010306080b0e0ff e4003500ce1e4103cf875fcd5a5b11005c5bffb191ff0000",
    "png: code points 9, 13": "0010306080b0e0ff f9003700d3002c0ed2875ed05d5a08005f5bffab90ff0000",
    "png: code points 10, 13": "0010306080b0e0ff ff005300ff00000bd57844d36a5800007958ff3697ff0047",
    "png: code points 11, 13": "0010306080b0e0ff d5003700cc0d3e18d08362ce5a5a0e005c5bf8b191ff0000",
    "png: code points 12, 13": "0010306080b0e0ff da003600cc0d411cd08563ce5a5a0e005c5bfbb191ff0000",
    "png: code points 22, 13": "0010306080b0e0ff ca2c3b00c43c3d32c8816ac85a591e1b595af1b596ff2600",
    "png: code points 2, 2": "0010306080b0e0ff c81e3c1ec83c3c1ec88064c85a5a1e1e5a5af0b496ff0000",
    "png: code points 9, 16": "00010f4684edffff ff000000ff000000ff3016ff3f3d0000413eff0f1eff0000",
    "png: code points 9, 18": "00031d4763a0e4ff e5002900d0001201ae6449bd444201004441ff7461ff0000",
    "jpeg: profile": "000000010d40a1ff 6a0000006a0000006a0d026a010100000101ce4821fc0000",
    "jpeg: profile of RGB, grey": "000000010d40a1ff 000000111111000000080808000000000000606060000000",
    "jpeg: profile of grey, colours": "0010306080b0e0ff c81e3b1dc83c3b1ec88064c85a5a1e1e5a5af0b597fe0000",
    "webp: profile": "000000010d40a1ff 6a0000006a0000006a0d026a010100000101ce4620ff0000",
    "bmp: profile": "000000010d40a1ff 6a0000006a0000006a0d026a010100000101ce4620ff0000",
    "bmp: gamma": "0010306080b0e0ff c81e3c1ec83c3c1ec88064c85a5a1e1e5a5af0b496ff0000",
    "bmp: gamma, version 4": "0010306080b0e0ff c81e3c1ec83c3c1ec88064c85a5a1e1e5a5af0b496ff0000",
    "avif: profile": "000000010d40a1ff 6a0000006c000000640c0268010100000101ce481fff0000",
    "avif: code points 1, 1": "0010306080b0e0ff c81f3c1dc93b3b1ec57f65c7595a1e1e5a5af0b595ff0001",
    "avif: code points 1, 5": "000118486aa1d9ff bd092407be232308b9694dbb414208084242eda682ff0000",
    "avif: code points 1, 8": "004778a5bcd8f1ff e562855fe6848460e4bba9e59fa06060a0a0f8dbc9ff000d",
    "avif: code points 1, 13": "0010306080b0e0ff c81f3c1dc93b3b1ec57f65c7595a1e1e5a5af0b595ff0001",
    "avif: code points 1, 16": "00010f4684edffff ff020f01ff0a0c02ff4f2dff3c3d04043d3dff7542ff0000",
    "avif: code points 1, 18": "00031d4763a0e4ff b5142e16ca332811a2624fb4414112114040ff9772ff0000",
    "avif: code points 2, 2": "0010306080b0e0ff c81f3c1dc93b3b1ec57f65c7595a1e1e5a5af0b595ff0001",
    "avif: code points 2, 8": "004778a5bcd8f1ff e562855fe6848460e4bba9e59fa06060a0a0f8dbc9ff000d",
    "avif: code points 9, 13": "0010306080b0e0ff f9003700d4002b0fcf8560cf5b5a08005f5bffac8fff0000",
    "avif: code points 9, 16": "00010f4684edffff ff000000ff000000ff2f1aff3d3e0000413eff191bff0000",
    "avif: code points 12, 13": "0010306080b0e0ff da003600cd06401ccd8464cd595a0e005c5bfbb28fff0000",
    "avif: code points 77, 8": "004778a5bcd8f1ff e562855fe6848460e4bba9e59fa06060a0a0f8dbc9ff000d",
}
"""Name -> the red of its grey patches, and its other patches, as Chromium 156 draws them (``tests/apps`` asks it)."""


def drawn(name: str) -> tuple[bytes, bytes]:
    """The red of the grey patches of a case, and the red, green and blue of its other patches."""
    greys, colours = SHOWN[name].split()
    return bytes.fromhex(greys), bytes.fromhex(colours)


def sampled(pixels: bytes, width: int, depth: int) -> tuple[bytes, bytes]:
    """The same of pixels, of ``depth`` bytes each: the middle of each patch."""
    middle = [PATCH * at + PATCH // 2 for at in range(8)]
    above, below = ([depth * (row * width + x) for x in middle] for row in (SIDE // 4, 3 * SIDE // 4))
    return bytes(pixels[at] for at in above), b"".join(pixels[at : at + 3] for at in below)
