from __future__ import annotations

import pytest

from nsfwd.ipc.child_messages import EngineReady
from nsfwd.pipeline.infer.batch_size import COMPANY, BatchSizer
from nsfwd.pipeline.queueing.tickets import Claim
from nsfwd.protocol.messages import Lane

ONE = Claim(("uid 7", 100, "a"), Lane.NORMAL)
SAME = Claim(("uid 7", 100, "b"), Lane.NORMAL)
OTHER = Claim(("uid 7", 200, "c"), Lane.NORMAL)
GOLDEN = Claim(("goldens",), Lane.INTERACTIVE)
SWEEP = Claim(("uid 7", 100, "d"), Lane.BACKGROUND)


def engine(*, streams: int = 4, most: int = 8) -> EngineReady:
    return EngineReady("echo", "cpu", "f32", [1, most], 0.0, 0.0, "", streams)


def asked(*claims: Claim) -> BatchSizer:
    sizing = BatchSizer()
    for claim in claims:
        sizing.asked(claim, 10.0)
    return sizing


def held(*sizes: int) -> list[range]:
    return [range(size) for size in sizes]


@pytest.mark.parametrize("claims", [[ONE], [ONE, SAME, ONE], [ONE, GOLDEN, ONE]])
def test_one_alone_gets_two_full_batches(claims: list[Claim]) -> None:
    sizing = asked(*claims)
    assert sizing.next_size(engine(), [], 10.0) == 8
    assert sizing.next_size(engine(), held(8), 10.0) == 8
    assert sizing.next_size(engine(), held(1, 1), 10.0) == 0


@pytest.mark.parametrize("claims", [[ONE, OTHER], [OTHER, GOLDEN, ONE], [SWEEP]])
def test_in_company_batches_are_small_and_no_more_than_one_full_one_in_all(claims: list[Claim]) -> None:
    sizing = asked(*claims)
    assert [sizing.next_size(engine(), held(*[2] * count), 10.0) for count in range(5)] == [2, 2, 2, 2, 0]
    assert sizing.next_size(engine(), held(8), 10.0) == 0, "a full batch from before counts"
    assert sizing.next_size(engine(), held(7), 10.0) == 1
    assert sizing.next_size(engine(most=2), [], 10.0) == 1
    assert sizing.next_size(engine(), [], 10.0 + COMPANY) == 8, "alone again"


def test_an_engine_with_few_lanes_always_gets_full_batches() -> None:
    assert asked(ONE, OTHER).next_size(engine(streams=2, most=64), held(64), 10.0) == 64
