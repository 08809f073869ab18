"""Results of an image on its way: the scores of all its views, scores found without decoding, a directory."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from nsfwd.bundles.verdict import View
from nsfwd.protocol.messages import FileIdentity, Timing


class Scored(msgspec.Struct):
    """The scores of all views of one image, before any policy.

    Attributes:
        frames, sampled: how many frames it has, and how many were looked at.
        plain: one frame and nothing transparent.
    """

    views: tuple[View, ...]
    frames: int
    sampled: int
    plain: bool


@dataclass(frozen=True, slots=True)
class Hit:
    """Scores that need no decoding.

    Attributes:
        by: ``identity``, ``digest`` or ``coalesced``.
        file: identity and digest of the file as it was opened now.
    """

    by: str
    scored: Scored
    file: FileIdentity


class Directory(msgspec.Struct):
    """The path of an image that is a directory: it may be listed, and is not scored.

    Attributes:
        time: spent on finding out.
    """

    time: Timing
