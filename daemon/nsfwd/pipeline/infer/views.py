"""Images that are more than one picture: the frames of an animation, transparency on white and on black.

Each view is decoded and scored like an image of its own, one after the other, so that no slot waits for another of the
same image. All of them have one ticket, and come to one judgement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from nsfwd.bundles.verdict import View
from nsfwd.errors import CodedError
from nsfwd.protocol.messages import Frame

if TYPE_CHECKING:
    from nsfwd.ipc.child_messages import Decoded
    from nsfwd.pipeline.generation import Generation
    from nsfwd.pipeline.queueing.tickets import Ticket
    from nsfwd.protocol.messages import Identity, Image, Judgement


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


async def score(generation: Generation, image: Image, ticket: Ticket, decoded: Decoded) -> Scored:
    """Score an image whose first view is decoded, then its further views if it has any.

    Args:
        decoded: the first view.

    Raises:
        CodedError: a view has no scores, so the image has none: a part of it must never get the verdict of all.
    """
    name = generation.bundle.name
    plain = decoded.frames == 1 and not decoded.background
    scores = await generation.scoring.score(ticket)
    views = [View(decoded.frame, decoded.background, {name: scores})]
    while decoded.next:
        decoded = await generation.decoding.decode_next(image, ticket, decoded)
        if decoded.code:
            raise CodedError("unreadable", "it was replaced by a directory")
        scores = await generation.scoring.score(ticket)
        views.append(View(decoded.frame, decoded.background, {name: scores}))
    return Scored(tuple(views), decoded.frames, decoded.sampled, plain)


def judge(generation: Generation, scored: Scored, identity: Identity | None) -> tuple[Judgement, Frame | None]:
    """Judge the views of one image together; what a person decided about its content wins.

    Args:
        identity: the file that was opened, where it was hashed.

    Returns:
        The judgement, and which view decided; None for a picture of which there is only one.

    Raises:
        CodedError: ``bad_scores``: they are no probabilities.
    """
    if scored.plain:
        judgement = generation.judge(scored.views[0].results)
        return generation.overrule(judgement, identity), None
    judgement, decisive = generation.judge_views(scored.views)
    frame = Frame(decisive.frame, scored.frames, scored.sampled, decisive.background)
    return generation.overrule(judgement, identity), frame
