"""Images that are more than one picture: the frames of an animation, transparency on white and on black.

Each view is decoded and scored like an image of its own, one after the other, so that no slot waits for another of the
same image. Models with the same recipe score the same pixels in turn; for another recipe the image is decoded again.
All of that has one ticket, and comes to one judgement.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from nsfwd.bundles.verdict import View
from nsfwd.pipeline.queueing.scored import Scored

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from nsfwd.bundles.verdict import ModelOutput
    from nsfwd.ipc.child_messages import Decoded
    from nsfwd.pipeline.infer.served_model import RecipeGroup
    from nsfwd.pipeline.queueing.tickets import Ticket
    from nsfwd.protocol.messages import Image


async def infer(
    groups: Sequence[RecipeGroup],
    decode_next: Callable[[Image, Ticket, Decoded, int], Awaitable[Decoded]],
    image: Image,
    ticket: Ticket,
    decoded: Decoded,
) -> Scored:
    """Have models score an image whose first view is decoded, then its further views if it has any.

    Args:
        groups: the models, by recipe.
        decode_next: turns the view after one into pixels, by a recipe.
        decoded: the first view, by the recipe of the first group.

    Raises:
        CodedError: a view has no scores, so the image has none: a part of it must never get the verdict of all.
    """
    views: list[View] = []
    plain, sampled = True, 0
    for recipe, models in groups:
        add: Callable[[View], None] = views.append
        if views:
            decoded = await decode_next(image, ticket, decoded, recipe)
            add = partial(_merge, views)
        if decoded.frames != 1 or decoded.background:
            plain = False
        if decoded.sampled > sampled:
            sampled = decoded.sampled
        while True:
            results: dict[str, ModelOutput] = {}
            for name, score, keep in models:
                results[name] = await score(ticket, keep)
            add(View(decoded.frame, decoded.background, results))
            if not decoded.next:
                break
            decoded = await decode_next(image, ticket, decoded, recipe)
    return Scored(tuple(views), decoded.frames, sampled, plain)


def _merge(views: list[View], view: View) -> None:
    """Add what further models say of a view, which those before may not have seen."""
    for known in views:
        if (known.frame, known.background) == (view.frame, view.background):
            known.results = {**known.results, **view.results}
            return
    views.append(view)
