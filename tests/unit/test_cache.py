from __future__ import annotations

import asyncio
from typing import Any

from nsfwd.ipc.child_messages import HASH, STAT, Decoded, Stamp
from nsfwd.pipeline.decode.result_cache import SETTLED, ResultCache
from nsfwd.pipeline.queueing.scored import Hit, Scored
from nsfwd.pipeline.queueing.tickets import Claim
from nsfwd.protocol.messages import Image, Lane

SCORED = Scored((), 1, 1, True)
CLAIM = Claim(("client",), Lane.NORMAL)
OLD: Stamp = (1, 2, 3, (0, 1000), (0, 1000))


class FakeDecoding:
    """Tells of a file what the test says."""

    def __init__(self, stamp: Stamp, digest: str) -> None:
        self.stamp, self.digest = stamp, digest
        self.asked: list[int] = []

    async def decode(self, _image: Image, _ticket: Any, *, probe: int) -> Decoded:
        self.asked.append(probe)
        identity = (*self.stamp, self.digest) if probe == HASH else None
        return Decoded(0, 0, 0, "", "", 0.0, identity=identity, stamp=self.stamp)


class FakeTicket:
    claim = CLAIM


def find(cache: ResultCache, decoding: FakeDecoding, image: Image | None = None) -> str | None:
    hit = asyncio.run(cache.find(decoding, image or Image(b"/a"), FakeTicket()))  # type: ignore[arg-type]
    return hit.by if isinstance(hit, Hit) else None


def test_an_identity_leads_to_a_digest_and_that_to_scores() -> None:
    cache, decoding = ResultCache(10, clock=lambda: SETTLED + 1000), FakeDecoding(OLD, "ab")
    assert find(cache, decoding) is None
    cache.keep("ab", CLAIM, SCORED)
    assert find(cache, decoding) == "identity"
    assert decoding.asked == [STAT, HASH, STAT]
    decoding.stamp = (1, 9, 3, (0, 1000), (0, 1000))
    assert find(cache, decoding) == "digest"
    decoding.digest, decoding.stamp = "cd", (1, 10, 3, (0, 1000), (0, 1000))
    assert find(cache, decoding) is None
    assert cache.stats() == {"results": 1, "identities": 3, "identity_hits": 1, "digest_hits": 1, "misses": 2}


def test_what_changed_just_now_is_not_believed() -> None:
    cache, decoding = ResultCache(10, clock=lambda: SETTLED + 999), FakeDecoding(OLD, "ab")
    cache.keep("ab", CLAIM, SCORED)
    assert [find(cache, decoding) for _ in range(2)] == ["digest", "digest"]


def test_what_was_read_too_early_is_not_believed_later_either() -> None:
    """It may have been written to again within the same tick of the file system's clock."""
    now = SETTLED + 999
    cache, decoding = ResultCache(10, clock=lambda: now), FakeDecoding(OLD, "ab")
    cache.keep("ab", CLAIM, SCORED)
    assert find(cache, decoding) == "digest"
    now, decoding.digest = SETTLED * 9, "cd"
    assert find(cache, decoding) is None


def test_bytes_have_no_identity() -> None:
    cache, decoding = ResultCache(10, clock=lambda: SETTLED * 2), FakeDecoding(OLD, "ab")
    cache.keep("ab", CLAIM, SCORED)
    assert [find(cache, decoding, Image(None, 5)) for _ in range(2)] == ["digest", "digest"]
    assert decoding.asked == [HASH, HASH]


def test_it_is_bounded_and_forgets_what_was_used_least() -> None:
    cache, decoding = ResultCache(2, clock=lambda: 0), FakeDecoding(OLD, "ab")
    for digest in ("ab", "cd"):
        cache.keep(digest, CLAIM, SCORED)
    assert find(cache, decoding) == "digest"
    cache.keep("ef", CLAIM, SCORED)
    assert find(cache, decoding) == "digest", "it was used"
    decoding.digest = "cd"
    assert find(cache, decoding) is None
