"""The result cache: scores of content that was scored before, found by the file's identity or by its digest.

The identity of an opened file leads to a digest, the digest to scores. Verdicts are not kept: the policy judges anew.
Identities come from decoders, which opened the file just now; nothing is concluded from a path. A cache belongs to one
generation, so other settings or bundles begin with an empty one.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from nsfwd.ipc.child_messages import HASH, NANOSECONDS, STAT, Decoded, Stamp
from nsfwd.pipeline.decode.decode_job import identity_of
from nsfwd.pipeline.queueing.scored import Hit

if TYPE_CHECKING:
    from nsfwd.ipc.child_messages import HashedStamp
    from nsfwd.pipeline.decode.decode_stage import DecodeStage
    from nsfwd.pipeline.queueing.scored import Directory, Scored
    from nsfwd.pipeline.queueing.tickets import Claim, Ticket
    from nsfwd.protocol.messages import Image

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

_ResultKey = tuple[str, int, tuple[str, ...]]
"""Digest of the content, how many frames were to be looked at, and which models were asked."""

SETTLED = 2_000_000_000
"""Nanoseconds after its last change before a file's identity is believed: clocks of file systems tick in up to 2 s."""


class ResultCache:
    """Scores of content that was scored lately; the least recently used are forgotten first.

    Args:
        entries: most identities, and most results, kept.
        clock: nanoseconds since the epoch.

    Attributes:
        hits: images answered, by what found them.
        misses: images that had to be decoded.
    """

    def __init__(self, entries: int, *, clock: Callable[[], int] = time.time_ns) -> None:
        self._entries = entries
        self._clock = clock
        self._digests: OrderedDict[Stamp, str] = OrderedDict()
        self._results: OrderedDict[_ResultKey, Scored] = OrderedDict()
        self.hits = {"identity": 0, "digest": 0}
        self.misses = 0

    async def find(self, decoding: DecodeStage, image: Image, ticket: Ticket) -> Hit | Directory | None:
        """Look for an image's scores: first by the identity of the opened file, then by the digest of its content.

        They may come from the decode of another request instead, which begins while this one waits.

        Raises:
            CodedError: it cannot be opened or read; as decoding it would.
        """
        if image.descriptor is None:
            asked = self._clock()
            seen = await decoding.decode(image, ticket, probe=STAT)
            if not isinstance(seen, Decoded):
                return seen
            digest = self._digest(seen.stamp, asked)
            if seen.stamp is not None and digest is not None:
                hit = self._hit("identity", (*seen.stamp, digest), ticket)
                if hit is not None:
                    return hit
        asked = self._clock()
        read = await decoding.decode(image, ticket, probe=HASH)
        if not isinstance(read, Decoded):
            return read
        if read.identity is not None:
            self._learn(image, read, asked)
            hit = self._hit("digest", read.identity, ticket)
            if hit is not None:
                return hit
        self.misses += 1
        return None

    def keep(self, digest: str, claim: Claim, scored: Scored) -> None:
        """Remember the scores of this content for claims that ask for the same frames and models."""
        self._put(self._results, (digest, claim.frames, claim.models), scored)

    def inherit_counters(self, former: ResultCache) -> None:
        """Add the counts of a cache that is replaced; the scores that it kept are gone."""
        self.misses += former.misses
        for by, count in former.hits.items():
            self.hits[by] += count

    def stats(self) -> dict[str, int]:
        """Its numbers."""
        return {
            "results": len(self._results),
            "identities": len(self._digests),
            "identity_hits": self.hits["identity"],
            "digest_hits": self.hits["digest"],
            "misses": self.misses,
        }

    def _hit(self, by: str, file: HashedStamp, ticket: Ticket) -> Hit | None:
        key = (file[5], ticket.claim.frames, ticket.claim.models)
        scored = self._results.get(key)
        if scored is None:
            return None
        self._results.move_to_end(key)
        self.hits[by] += 1
        return Hit(by, scored, identity_of(file))

    def _digest(self, stamp: Stamp | None, asked: int) -> str | None:
        if stamp is None or not _settled(stamp, asked) or stamp not in self._digests:
            return None
        self._digests.move_to_end(stamp)
        return self._digests[stamp]

    def _learn(self, image: Image, read: Decoded, asked: int) -> None:
        """Believe an identity only if the file lies somewhere and was left alone for a while before it was read."""
        assert read.identity is not None
        stamp, digest = read.identity[:5], read.identity[5]
        if image.descriptor is None and _settled(stamp, asked):
            self._put(self._digests, stamp, digest)

    def _put(self, table: OrderedDict[_Key, _Value], key: _Key, value: _Value) -> None:
        table[key] = value
        table.move_to_end(key)
        while len(table) > self._entries:
            table.popitem(last=False)


def _settled(stamp: Stamp, asked: int) -> bool:
    _, _, _, modified, changed = stamp
    return max(modified, changed) <= divmod(asked - SETTLED, NANOSECONDS)
