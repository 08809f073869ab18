"""Proportions estimated from a stratified sample, with 95 % intervals. Pure arithmetic: no index and no file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

TAIL = 0.025
"""What an interval of 95 % leaves out at each end."""

_HALVINGS = 60
"""Of [0, 1]: then a float has no further digits."""


class Stratum(NamedTuple):
    """A part of the files, and what is known of a sample of it.

    Attributes:
        files: in it altogether.
        looked: of these a person looked at, drawn at random.
        positive: of those that the person said yes to.
    """

    files: int
    looked: int
    positive: int


class Estimate(NamedTuple):
    """A proportion, and the interval that holds the true one in 95 of 100 samples."""

    value: float
    low: float
    high: float


@lru_cache(4096)
def exact(positive: int, looked: int) -> tuple[float, float]:
    """Return the interval of one proportion that holds it in at least 95 of 100 samples, however small it is.

    Source: C. J. Clopper, E. S. Pearson, "The use of confidence or fiducial limits illustrated in the case of the
    binomial", Biometrika 26 (1934) 404-413. Shorter ones (Wilson's) hold a proportion of one in a thousand, as
    misses may be, in 90 of 100 samples of a hundred.
    """
    low = 0.0 if positive == 0 else _solved(lambda share: 1 - _at_most(positive - 1, looked, share) >= TAIL)
    high = 1.0 if positive == looked else _solved(lambda share: _at_most(positive, looked, share) <= TAIL)
    return low, high


def _at_most(positive: int, looked: int, share: float) -> float:
    """Return the probability of so many positives or fewer."""
    logs = (math.log(share), math.log1p(-share)) if 0 < share < 1 else None
    if logs is None:
        return 1.0 if share == 0 or positive == looked else 0.0
    whole = math.lgamma(looked + 1)
    return math.fsum(
        math.exp(whole - math.lgamma(k + 1) - math.lgamma(looked - k + 1) + k * logs[0] + (looked - k) * logs[1])
        for k in range(positive + 1)
    )


def _solved(beyond: Callable[[float], bool]) -> float:
    """Where a condition begins to hold that holds from there to 1."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if beyond(middle) else (middle, high)
    return high


def stratified(strata: Sequence[Stratum]) -> Estimate:
    """Estimate the proportion of positives among all files of the strata.

    The value is the mean of the strata's proportions, weighted by their files (W): W. G. Cochran, "Sampling
    Techniques", 3rd edition (1977), formula 5.1. The interval recovers each stratum's variance from its own interval:

        low  = p - sqrt(sum of (W (p_h - l_h))^2),    high = p + sqrt(sum of (W (u_h - p_h))^2)

    Source: G. Y. Zou, W. Huang, X. Zhang, "A note on confidence interval estimation for a linear function of binomial
    proportions", Computational Statistics & Data Analysis 53 (2009) 1080-1085 (MOVER). Distances are shortened by the
    finite population correction sqrt((N - n) / (N - 1)) (Cochran, section 2.6): where everything was looked at no doubt
    is left.

    Args:
        strata: those without files do not count; of each other one at least one file was looked at.

    Raises:
        ValueError: nobody looked into one of them, or there are none; the caller's fault.
    """
    strata = [stratum for stratum in strata if stratum.files]
    total = sum(stratum.files for stratum in strata)
    if not total or any(stratum.looked < 1 for stratum in strata):
        raise ValueError("a stratum without labels")
    value = below = above = 0.0
    for files, looked, positive in strata:
        weight, share = files / total, positive / looked
        low, high = exact(positive, looked)
        doubt = weight * math.sqrt((files - looked) / (files - 1)) if files > 1 else 0.0
        value += weight * share
        below += (doubt * (share - low)) ** 2
        above += (doubt * (high - share)) ** 2
    return Estimate(value, max(0.0, value - math.sqrt(below)), min(1.0, value + math.sqrt(above)))
