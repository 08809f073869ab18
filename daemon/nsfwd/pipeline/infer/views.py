"""Images that are more than one picture: the frames of an animation, transparency on white and on black.

Each view is decoded and scored like an image of its own, one after the other, so that no slot waits for another of the
same image. All of them have one ticket, and come to one judgement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nsfwd.bundles.verdict import View
from nsfwd.pipeline.queueing.scored import Scored

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nsfwd.ipc.child_messages import Decoded
    from nsfwd.pipeline.infer.score_stage import ScoreStage
    from nsfwd.pipeline.queueing.tickets import Ticket
    from nsfwd.protocol.messages import Image


async def infer(
    name: str,
    scoring: ScoreStage,
    decode_next: Callable[[Image, Ticket, Decoded], Awaitable[Decoded]],
    image: Image,
    ticket: Ticket,
    decoded: Decoded,
) -> Scored:
    """Score an image whose first view is decoded, then its further views if it has any.

    Args:
        name: of the model.
        decode_next: turns the view after one into pixels.
        decoded: the first view.

    Raises:
        CodedError: a view has no scores, so the image has none: a part of it must never get the verdict of all.
    """
    plain = decoded.frames == 1 and not decoded.background
    views = [View(decoded.frame, decoded.background, {name: await scoring.score(ticket)})]
    while decoded.next:
        decoded = await decode_next(image, ticket, decoded)
        views.append(View(decoded.frame, decoded.background, {name: await scoring.score(ticket)}))
    return Scored(tuple(views), decoded.frames, decoded.sampled, plain)
