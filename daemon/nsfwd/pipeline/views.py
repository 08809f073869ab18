"""Images that are more than one picture: the frames of an animation, transparency on white and on black.

Each view is decoded and scored like an image of its own, one after the other, so that no slot waits for another of the
same image. All of them have one ticket, and come to one judgement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nsfwd.bundles.verdict import View
from nsfwd.errors import CodedError
from nsfwd.protocol.messages import Frame

if TYPE_CHECKING:
    from nsfwd.ipc.messages import Decoded
    from nsfwd.pipeline.generation import Generation
    from nsfwd.pipeline.tickets import Ticket
    from nsfwd.protocol.messages import Image, Judgement


async def judge(
    generation: Generation, image: Image, ticket: Ticket, decoded: Decoded, *, probe: bool
) -> tuple[Judgement, Frame | None]:
    """Score an image whose first view is decoded, then its further views if it has any, and judge them together.

    Args:
        decoded: the first view.
        probe: a golden; see ``ScoreStage.score``.

    Returns:
        The judgement, and which view decided; None for a picture of which there is only one.

    Raises:
        CodedError: a view has no scores, so the image has none: a part of it must never get the verdict of all.
    """
    scores = await generation.scoring.score(ticket, probe=probe)
    if decoded.frames == 1 and not decoded.background:
        return generation.judge(scores), None
    name = generation.bundle.name
    views = [View(decoded.frame, decoded.background, {name: scores})]
    while decoded.next:
        decoded = await generation.decoding.decode(image, ticket, after=decoded)
        if decoded.code:
            raise CodedError("unreadable", "it was replaced by a directory")
        scores = await generation.scoring.score(ticket, probe=probe)
        views.append(View(decoded.frame, decoded.background, {name: scores}))
    judgement, decisive = generation.judge_views(views)
    return judgement, Frame(decisive.frame, decoded.frames, decoded.sampled, decisive.background)
