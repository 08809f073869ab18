"""Scores again, in full precision, what a reduced precision may have got wrong: an image near a border of the policy.

The measured drift says how near. Everything else keeps the scores of the reduced precision, so that the verdicts are
full precision's at nearly the reduced one's speed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nsfwd.engines.contract import Engine, Pixels, Probabilities
from nsfwd.ipc.child_messages import Recheck


def near_a_border(scores: Probabilities, rule: Recheck) -> NDArray[np.bool_]:
    """Tell for which images the verdict could be another one in full precision.

    Args:
        scores: of the reduced precision.
        rule: borders and drift.

    Shape:
        scores: (n, labels).

    Returns:
        (n,), bool. Scores that are not finite are near nothing: no verdict is made of them.
    """
    near = np.zeros(len(scores), np.bool_)
    for labels, threshold in rule.thresholds:
        near |= np.abs(scores[:, list(labels)].sum(axis=1) - threshold) <= rule.drift
    if len(rule.contest) > 1:
        highest = np.sort(scores[:, list(rule.contest)], axis=1)
        near |= highest[:, -1] - highest[:, -2] <= 2 * rule.drift  # one may have lost what the other has gained
    return near


def score_again(exact: Engine, images: Sequence[Pixels] | Pixels, scores: Probabilities, rule: Recheck) -> int:
    """Put the scores of full precision in the place of those near a border.

    Args:
        exact: an engine of full precision.
        images: all of the batch.
        scores: of the reduced precision; changed.
        rule: which to score again.

    Returns:
        How many were.

    Raises:
        EngineError: the device failed; another try may help.
    """
    again = np.flatnonzero(near_a_border(scores, rule))
    if len(again):
        scores[again] = exact.score([images[int(row)] for row in again])
    return len(again)
