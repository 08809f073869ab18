"""Writes small ICC profiles: colours that a file declares by numbers then go the way of an embedded profile.

Pure arithmetic on chromaticities and curves; knows no file and no picture.

Source: ICC.1:2022, sections 7 to 10 and annex E (Bradford adaptation to D50).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

Vector = tuple[float, float, float]
Matrix = tuple[Vector, Vector, Vector]
"""Three rows."""

Chromaticities = tuple[float, float, float, float, float, float, float, float]
"""x and y of white, red, green and blue."""

BT709: Chromaticities = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
"""Those of sRGB."""

_D50: Vector = (0.9642, 1.0, 0.8249)
_BRADFORD: Matrix = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
_DEEP = 65535
_FIXED_MOST = 32767.0
"""Largest number of the type s15Fixed16."""

_SMALLEST_DETERMINANT = 1e-6
"""Primaries whose matrix has a smaller one lie on a line: no colours can be made of them."""


def gamma_curve(exponent: float) -> bytes:
    """Write the curve whose light is the value to the power of ``exponent``, which is clipped to what fits."""
    return b"para" + bytes(4) + struct.pack(">HH", 0, 0) + _fixed(min(exponent, _FIXED_MOST))


def srgb_curve() -> bytes:
    """Write sRGB's own curve. Source: IEC 61966-2-1."""
    return b"para" + bytes(4) + struct.pack(">HH", 3, 0) + _fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def sampled_curve(light: Sequence[float]) -> bytes:
    """Write a curve by its light, 0 to 1, at equal steps of the value."""
    values = [round(max(0.0, min(1.0, value)) * _DEEP) for value in light]
    return b"curv" + bytes(4) + struct.pack(f">I{len(values)}H", len(values), *values)


def profile(chromaticities: Chromaticities, curve: bytes) -> bytes | None:
    """Write a profile of RGB whose three channels share one curve.

    Returns:
        None where the chromaticities are of no possible screen: beyond 0 to 1, on a line, or too far apart.
    """
    colorants = _colorants(chromaticities)
    if colorants is None or any(abs(value) > _FIXED_MOST for row in colorants for value in row):
        return None
    tags = {b"desc": _description(), b"wtpt": _xyz(_D50)}
    for at, channel in enumerate((b"r", b"g", b"b")):
        tags[channel + b"XYZ"] = _xyz((colorants[0][at], colorants[1][at], colorants[2][at]))
        tags[channel + b"TRC"] = curve
    return _assembled(tags)


def _colorants(chromaticities: Chromaticities) -> Matrix | None:
    """Give the matrix from linear RGB to XYZ under D50; its columns are the primaries."""
    if not all(0.0 <= value <= 1.0 for value in chromaticities) or chromaticities[1] == 0.0:
        return None
    white, *primaries = (
        (chromaticities[at], chromaticities[at + 1], 1.0 - chromaticities[at] - chromaticities[at + 1])
        for at in (0, 2, 4, 6)
    )
    white = (white[0] / white[1], 1.0, white[2] / white[1])
    inverse = _inverse(_columns(*primaries))
    if inverse is None:
        return None
    amounts = _times(inverse, white)
    scaled = _columns(*(_scaled(one, amount) for one, amount in zip(primaries, amounts, strict=True)))
    adaptation = _adaptation(white)
    return None if adaptation is None else _product(adaptation, scaled)


def _adaptation(white: Vector) -> Matrix | None:
    """Give the matrix that takes colours seen under ``white`` to those that look alike under D50."""
    back = _inverse(_BRADFORD)
    here, there = _times(_BRADFORD, white), _times(_BRADFORD, _D50)
    if back is None or min(map(abs, here)) < _SMALLEST_DETERMINANT:
        return None
    factors = [target / value for value, target in zip(here, there, strict=True)]
    rows = tuple(_scaled(row, factor) for row, factor in zip(_BRADFORD, factors, strict=True))
    return _product(back, (rows[0], rows[1], rows[2]))


def _scaled(vector: Vector, factor: float) -> Vector:
    return vector[0] * factor, vector[1] * factor, vector[2] * factor


def _columns(first: Vector, second: Vector, third: Vector) -> Matrix:
    return (first[0], second[0], third[0]), (first[1], second[1], third[1]), (first[2], second[2], third[2])


def _times(matrix: Matrix, vector: Vector) -> Vector:
    first, second, third = (sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix)
    return first, second, third


def _product(left: Matrix, right: Matrix) -> Matrix:
    return _columns(*(_times(left, column) for column in zip(*right, strict=True)))


def _inverse(matrix: Matrix) -> Matrix | None:
    (a, b, c), (d, e, f), (g, h, i) = matrix
    determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    if abs(determinant) < _SMALLEST_DETERMINANT:
        return None
    rows = (
        (e * i - f * h, c * h - b * i, b * f - c * e),
        (f * g - d * i, a * i - c * g, c * d - a * f),
        (d * h - e * g, b * g - a * h, a * e - b * d),
    )
    first, second, third = (_scaled(row, 1.0 / determinant) for row in rows)
    return first, second, third


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def _xyz(value: Vector) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(*value)


def _description() -> bytes:
    name = b"declared by the file\0"
    return b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(79)


def _assembled(tags: dict[bytes, bytes]) -> bytes:
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, body in tags.items():
        table += name + struct.pack(">II", start + len(data), len(body))
        data += body + bytes(-len(body) % 4)
    header = struct.pack(">I4sI4s4s4s", start + len(data), b"nsfw", 0x04300000, b"mntr", b"RGB ", b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + _fixed(*_D50)
    return header.ljust(128, b"\0") + table + data
