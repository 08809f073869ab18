from __future__ import annotations

from collections import Counter

from nsfwd.pipeline.queueing.fair_queue import WEIGHTS, FairQueue
from nsfwd.protocol.messages import Lane


def drain(queue: FairQueue[str], most: int = 10_000) -> list[str]:
    taken: list[str] = []
    while len(taken) < most and (item := queue.pop()) is not None:
        taken.append(item)
    return taken


def test_one_connection_keeps_its_order() -> None:
    queue: FairQueue[str] = FairQueue()
    for item in "abc":
        queue.push(item, Lane.NORMAL, ("one",))
    assert drain(queue) == ["a", "b", "c"]
    assert len(queue) == 0
    assert queue.pop() is None


def test_connections_of_a_lane_take_turns() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(1000):
        queue.push(f"greedy{number}", Lane.NORMAL, ("greedy",))
    queue.push("telnet", Lane.NORMAL, ("person",))
    assert "telnet" in drain(queue, 2)


def test_lanes_share_by_weight_and_none_starves() -> None:
    queue: FairQueue[str] = FairQueue()
    for lane in Lane:
        for number in range(1000):
            queue.push(f"{lane.value}:{number}", lane, ("client",))
    taken = Counter(item.split(":")[0] for item in drain(queue, sum(WEIGHTS.values()) * 20))
    assert taken == {lane.value: weight * 20 for lane, weight in WEIGHTS.items()}


def test_an_idle_lane_saves_nothing_up() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(100):
        queue.push(f"n{number}", Lane.NORMAL, ("client",))
    drain(queue)
    for number in range(100):
        queue.push(f"i{number}", Lane.INTERACTIVE, ("client",))
        queue.push(f"b{number}", Lane.BACKGROUND, ("client",))
    first = drain(queue, WEIGHTS[Lane.INTERACTIVE] + 1)
    assert sum(item.startswith("i") for item in first) == WEIGHTS[Lane.INTERACTIVE]


def test_push_front_goes_first_again() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("b", Lane.NORMAL, ("one",))
    queue.push("x", Lane.NORMAL, ("two",))
    queue.push_front("a", Lane.NORMAL)
    assert drain(queue) == ["a", "b", "x"]


def test_who_asks_rarely_waits_for_nobodys_queue() -> None:
    queue: FairQueue[str] = FairQueue()
    for connection in range(32):
        for number in range(64):
            queue.push(f"{connection}:{number}", Lane.NORMAL, (connection,))
    drain(queue, 100)
    queue.push("single", Lane.NORMAL, ("person",))
    assert queue.pop() == "single"


def test_more_connections_are_not_more_turns() -> None:
    queue: FairQueue[str] = FairQueue()
    for connection in range(32):
        for number in range(64):
            queue.push(f"crowd:{connection}:{number}", Lane.NORMAL, ("uid 7", 100, connection))
    for number in range(64):
        queue.push(f"person:{number}", Lane.NORMAL, ("uid 7", 200, "only"))
        queue.push(f"neighbour:{number}", Lane.NORMAL, ("uid 8", 300, "only"))
    taken = Counter(item.split(":")[0] for item in drain(queue, 80))
    assert taken == {"neighbour": 40, "crowd": 20, "person": 20}, "users take turns, then their processes"


def test_turns_go_round_the_connections_of_one_process() -> None:
    queue: FairQueue[str] = FairQueue()
    for connection in "abc":
        for number in range(8):
            queue.push(f"{connection}{number}", Lane.NORMAL, ("uid 7", 100, connection))
    assert Counter(item[0] for item in drain(queue, 12)) == {"a": 4, "b": 4, "c": 4}


def test_who_was_alone_has_no_turn_before_the_next_who_asks() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("a", Lane.NORMAL, ("one", 1, "x"))
    assert drain(queue) == ["a"]
    queue.push("b", Lane.NORMAL, ("one", 1, "x"))
    queue.push("c", Lane.NORMAL, ("two", 2, "y"))
    assert drain(queue) == ["c", "b"]


def test_it_is_known_whether_somebody_only_begins_to_ask() -> None:
    queue: FairQueue[str] = FairQueue()
    assert not queue.fresh
    for number in range(8):
        queue.push(f"crowd{number}", Lane.BACKGROUND, ("uid 7", 100, "a"))
    drain(queue, 2)
    assert not queue.fresh
    queue.push("another process", Lane.BACKGROUND, ("uid 7", 200, "b"))
    assert queue.fresh
    assert drain(queue, 1) == ["another process"]
    assert not queue.fresh
    queue.push("another lane", Lane.INTERACTIVE, ("host",))
    assert queue.fresh
    assert drain(queue, 1) == ["another lane"]
    assert not queue.fresh


def test_a_discarded_item_is_counted_out_of_every_circle() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("a", Lane.NORMAL, ("one", 1, "x"))
    queue.push("b", Lane.NORMAL, ("one", 1, "y"))
    queue.push("c", Lane.NORMAL, ("two", 2, "z"))
    for connection in "xyq":
        queue.discard("a", Lane.NORMAL, ("one", 1, connection))
    queue.discard("b", Lane.NORMAL, ("one", 1, "y"))
    assert drain(queue) == ["c"]
    assert len(queue) == 0


def test_asking_again_and_again_gains_nothing() -> None:
    queue: FairQueue[str] = FairQueue()
    for connection in range(4):
        for number in range(64):
            queue.push(f"{connection}:{number}", Lane.NORMAL, (connection,))
    drain(queue, 8)
    taken: list[str] = []
    for _ in range(50):
        queue.push("again", Lane.NORMAL, ("quick",))
        while (item := queue.pop()) is not None:
            taken.append(item)
            if item == "again":
                break
    assert taken.count("again") == 50
    assert len(taken) >= 49 * 5, "between two turns of one connection each of the four others has had its own"


def test_a_discarded_item_leaves_no_turn_behind() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("a", Lane.NORMAL, ("one",))
    queue.push("b", Lane.NORMAL, ("two",))
    queue.discard("a", Lane.NORMAL, ("one",))
    assert drain(queue) == ["b"]
    assert queue.depths()["normal"] == 0


def test_discard_takes_out_of_the_middle_and_twice_is_harmless() -> None:
    queue: FairQueue[str] = FairQueue()
    for item in "abc":
        queue.push(item, Lane.NORMAL, ("one",))
    queue.discard("b", Lane.NORMAL, ("one",))
    queue.discard("b", Lane.NORMAL, ("one",))
    queue.discard("b", Lane.NORMAL, ("nobody",))
    assert len(queue) == 2
    assert queue.depths() == {"interactive": 0, "normal": 2, "background": 0}
    assert drain(queue) == ["a", "c"]
