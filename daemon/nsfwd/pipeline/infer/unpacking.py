"""Scores as they come from an engine, made plain numbers. Whatever does not fit the batch is no score at all."""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING

from nsfwd.ipc.link import MAX_PACKET

if TYPE_CHECKING:
    from nsfwd.ipc.child_messages import Scores

_FLOAT = 4
_ENVELOPE = 16 * 1024
"""Bytes of a packet that are left for all that is not scores, a long message included."""

MOST_SCORES = (MAX_PACKET - _ENVELOPE) // _FLOAT
"""Scores that one reply of an engine can hold: a batch of images of many labels must not be larger."""


def unpack(message: Scores, images: int, labels: int) -> list[list[float]] | None:
    """Return the scores of each image of a batch, unchecked; None where the engine failed or sent another number.

    Raises:
        ValueError: the time it took is no duration: the sender is out of its mind.
    """
    if not (math.isfinite(message.seconds) and message.seconds >= 0):
        raise ValueError(f"an engine says that a batch took {message.seconds} seconds")
    if len(message.scores) != images * labels * _FLOAT:
        return None
    values = array("f", message.scores).tolist()
    return [values[first : first + labels] for first in range(0, len(values), labels)]
