"""Colours by code points (CICP), as PNG's cICP chunk and the nclx box of AVIF and HEIC name them: to an ICC profile.

High dynamic range is shown as a browser shows it on an ordinary screen. Knows no file and no picture.

Source: ITU-T H.273, tables 2 and 3; ITU-R BT.2100 (PQ and HLG), BT.2408 (203 cd/m2 as white); the curves of both as
Chromium 156 draws them.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise

from nsfwd.imaging import icc

PRIMARIES: dict[int, icc.Chromaticities] = {
    1: icc.BT709,
    4: (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (0.3127, 0.3290, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (0.3127, 0.3290, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (0.3127, 0.3290, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    8: (0.310, 0.316, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    10: (1 / 3, 1 / 3, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    22: (0.3127, 0.3290, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}

UNSPECIFIED = 2
SRGB = 13
VIDEO = frozenset((1, 6, 14, 15))
"""Transfers of television; a screen for it has a gamma of 2.4 (BT.1886)."""

_VIDEO_GAMMA = 2.4
_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0, 11: _VIDEO_GAMMA, **dict.fromkeys(VIDEO, _VIDEO_GAMMA)}
_SMPTE_240, _SMPTE_428, _PQ, _HLG = 7, 17, 16, 18

_STEPS = 4096
"""Samples of a curve that no formula of ICC has."""

_WHITE = 203.0
"""Light in cd/m2 that is white in ordinary pictures. Source: ITU-R BT.2408."""

_HLG_PEAK = 1000.0
_HLG_GAMMA = 1.2
_SHOULDER = ((0.0, 0.5), (0.408, 0.658), (0.806, 0.776), (1.211, 0.896), (1.466, 0.965), (1.5946, 1.0))
"""How a browser presses light that is brighter than white into what an ordinary screen has: logarithm of the light in
units of white -> what is shown. Darker light is halved."""


@lru_cache(maxsize=16)
def profile(primaries: int, transfer: int) -> bytes | None:
    """Write the ICC profile of two code points; None where either is unknown or says nothing."""
    curve = _curve(transfer)
    if curve is None or primaries not in PRIMARIES:
        return None
    return icc.profile(PRIMARIES[primaries], curve)


def _curve(transfer: int) -> bytes | None:
    if transfer == SRGB:
        return icc.srgb_curve()
    if transfer in _GAMMAS:
        return icc.gamma_curve(_GAMMAS[transfer])
    light = {_SMPTE_240: _smpte_240, _SMPTE_428: _smpte_428, _PQ: _pq, _HLG: _hlg}.get(transfer)
    return light and icc.sampled_curve([light(step / (_STEPS - 1)) for step in range(_STEPS)])


def _smpte_240(value: float) -> float:
    return value / 4.0 if value < 0.0913 else ((value + 0.1115) / 1.1115) ** (1 / 0.45)


def _smpte_428(value: float) -> float:
    return float(value**2.6 * 52.37 / 48.0)


def _pq(value: float) -> float:
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = value ** (1 / m2)
    return _pressed(10_000.0 / _WHITE * (max(power - c1, 0.0) / (c2 - c3 * power)) ** (1 / m1))


def _hlg(value: float) -> float:
    scene = value * value / 3 if value <= 0.5 else (math.exp((value - 0.55991073) / 0.17883277) + 0.28466892) / 12
    return _pressed(scene**_HLG_GAMMA * _HLG_PEAK / _WHITE)


def _pressed(light: float) -> float:
    if light <= 1.0:
        return light / 2.0
    at = math.log(light)
    for (low, dark), (high, bright) in pairwise(_SHOULDER):
        if at <= high:
            return dark + (bright - dark) * (at - low) / (high - low)
    return 1.0
