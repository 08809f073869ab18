from __future__ import annotations

import pytest

from nsfwd.pipeline.queueing.slots import Slots


def test_every_slot_is_leased_once_and_comes_back_with_a_new_generation() -> None:
    freed: list[int] = []
    slots = Slots(2, lambda: freed.append(slots.free))
    first, second = slots.lease(), slots.lease()
    assert first is not None and second is not None
    assert {first.slot, second.slot} == {0, 1}
    assert slots.lease() is None
    slots.release(first)
    assert freed == [1]
    again = slots.lease()
    assert again is not None
    assert again.slot == first.slot
    assert again.lease_id == first.lease_id + 1


def test_a_slot_cannot_come_back_twice() -> None:
    slots = Slots(1, lambda: None)
    lease = slots.lease()
    assert lease is not None
    slots.release(lease)
    with pytest.raises(ValueError, match="twice"):
        slots.release(lease)


def test_no_image_ever_gets_a_slot_of_the_self_test() -> None:
    slots = Slots(2, lambda: None, own=2)
    images = [slots.lease(), slots.lease()]
    assert slots.lease() is None
    own = slots.lease_own(1)
    assert own is not None and own.slot == 3
    assert slots.lease_own(1) is None, "it is held"
    slots.release(own)
    assert (slots.free, slots.lease()) == (0, None)
    again = slots.lease_own(1)
    assert again is not None and again.lease_id == own.lease_id + 1
    assert images[0] is not None
    slots.release(images[0])
    assert slots.free == 1
