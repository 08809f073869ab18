"""The memory for images that clients send is bounded over all connections: who finds none waits, then is refused."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from nsfwd.budgets import Budgets
from nsfwd.metrics import Metrics
from nsfwd.protocol.messages import Style
from nsfwd.server.attachments import PATIENCE, Attachments, MemoryBudget
from tests.unit.test_connection import Talk, turns

LIMITS: dict[str, Any] = {"body_memory": 1000, "max_bytes": 1000}


def together(
    count: int, conversation: Callable[[list[Talk]], Coroutine[Any, Any, None]], style: Style = Style.PLAIN
) -> None:
    """Hold a conversation on several connections of one service; afterwards nothing is held any more."""

    async def main() -> None:
        first = Talk(style, socket.AF_UNIX, **LIMITS)
        first.pipeline.hold = True
        talks = [first, *(Talk(style, socket.AF_UNIX, service=first.service) for _ in range(count - 1))]
        try:
            async with asyncio.timeout(10):
                await conversation(talks)
                for talk in talks:
                    talk.client.close()
                while not all(talk.closed.is_set() and not talk.connection.requests for talk in talks):
                    first.pipeline.release()
                    await asyncio.sleep(0)
        finally:
            for talk in talks:
                talk.client.close()
                talk.connection.close()
        assert first.service.metrics.body_bytes == 0
        assert not first.service.bodies.wanted

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def budgets(memory: int) -> Budgets:
    return Budgets(64, max_connections=1, body_memory=memory)


def body(number: int, size: int) -> bytes:
    return b'{"id": %d, "bytes": %d}\n' % (number, size) + bytes(size)


def test_bodies_of_all_connections_share_the_memory_and_wait_for_it() -> None:
    async def conversation(talks: list[Talk]) -> None:
        metrics, pipeline = talks[0].service.metrics, talks[0].pipeline
        for talk in talks:
            await talk.send(*(body(number, 400) for number in range(3)))
            talk.half_close()
        most = 0
        while not all(talk.closed.is_set() for talk in talks):
            most = max(most, metrics.body_bytes)
            pipeline.release(1)
            await asyncio.sleep(0)
        for talk in talks:
            assert [reply["status"] for reply in await talk.replies()] == ["skipped"] * 3
        assert most == 800
        assert pipeline.most_waiting == 2
        assert metrics.bodies_refused_total == 0

    together(5, conversation)


def test_one_that_is_alone_gets_what_it_needs() -> None:
    async def conversation(talks: list[Talk]) -> None:
        talks[0].service.budgets.bodies.limit = 10
        await talks[0].send(body(1, 900))
        await turns(lambda: len(talks[0].pipeline.waiting) == 1)

    together(1, conversation)


def test_who_waits_for_too_long_is_refused_and_the_connection_lives_on() -> None:
    async def conversation(talks: list[Talk]) -> None:
        holder, waiter = talks
        loop = asyncio.get_running_loop()
        await holder.send(body(1, 900))
        await turns(lambda: len(holder.pipeline.waiting) == 1)
        await waiter.send(body(2, 900), {"id": 3, "op": "ping"})
        await turns(lambda: waiter.service.bodies.wanted)
        waiter.connection.check(loop.time() + PATIENCE / 2)
        assert waiter.service.bodies.wanted
        waiter.connection.check(loop.time() + PATIENCE + 1)
        refused, ping = await waiter.reply(), await waiter.reply()
        assert (refused["id"], refused["status"], refused["error"]["code"]) == (2, "refused", "busy")
        assert refused["retry_after"] > 0
        assert ping["id"] == 3
        assert waiter.service.metrics.bodies_refused_total == 1
        assert waiter.service.metrics.body_bytes == 900

    together(2, conversation)


def test_a_sender_that_rests_gives_way_once_others_wait() -> None:
    async def conversation(talks: list[Talk]) -> None:
        sleeper, other = talks
        loop = asyncio.get_running_loop()
        await sleeper.send({"id": 1, "bytes": 900}, bytes(10))
        await turns(lambda: sleeper.service.metrics.body_bytes == 900)
        sleeper.connection.check(loop.time() + PATIENCE + 1)
        assert sleeper.service.metrics.body_bytes == 900, "nobody else wants it"
        await other.send(body(2, 900))
        await turns(lambda: other.service.bodies.wanted)
        sleeper.connection.check(loop.time() + PATIENCE + 1)
        await turns(lambda: len(other.pipeline.waiting) == 1)
        await sleeper.send(bytes(890), {"id": 3, "op": "ping"})
        assert (await sleeper.reply())["error"]["code"] == "busy"
        assert (await sleeper.reply())["op"] == "ping"

    together(2, conversation)


def test_who_leaves_while_it_waits_or_sends_leaves_nothing_behind() -> None:
    async def conversation(talks: list[Talk]) -> None:
        sender, waiter, last = talks
        await sender.send({"id": 1, "bytes": 900}, bytes(10))
        await turns(lambda: sender.service.metrics.body_bytes == 900)
        for talk in (waiter, last):
            await talk.send(body(2, 900))
        await turns(lambda: sender.service.bodies.wanted)
        waiter.client.close()
        await asyncio.sleep(0)
        sender.client.close()
        await turns(lambda: len(last.pipeline.waiting) == 1)

    together(3, conversation)


def test_a_stream_of_unknown_length_counts_as_it_comes() -> None:
    async def conversation(talks: list[Talk]) -> None:
        first, second = talks
        chunk = (400).to_bytes(4, "big") + bytes(400)
        await first.send(b"zINSTREAM\0" + chunk * 2)
        await turns(lambda: first.service.metrics.body_bytes == 800)
        await second.send(b"zINSTREAM\0" + chunk + bytes(4))
        await turns(lambda: second.service.bodies.wanted)
        assert not second.pipeline.waiting
        await first.send(bytes(4))
        await turns(lambda: len(first.pipeline.waiting) == 1)
        first.pipeline.release()
        await turns(lambda: len(first.pipeline.waiting) == 1 and not second.service.bodies.wanted)

    together(2, conversation, Style.CLAMD)


def test_the_room_is_given_in_the_order_in_which_it_was_asked_for() -> None:
    metrics = Metrics()
    room = MemoryBudget(metrics, budgets(100))
    woken: list[str] = []

    def wake(name: str) -> Callable[[], None]:
        return lambda: woken.append(name)

    large, small, other = wake("large"), wake("small"), wake("other")
    assert room.take("a", 60, 1, 0, wake("holder"))
    assert not room.take("a", 80, 1, 0, large)
    assert not room.take("a", 10, 1, 0, small), "there would be room, but another of this peer asked before"
    assert room.take("b", 10, 1, 0, other), "another peer has a share of its own"
    room.give("b", 10, 1)
    assert woken == ["large"]
    room.give("a", 60, 1)
    assert woken == ["large"] * 2
    assert room.take("a", 80, 1, 0, large)
    assert woken == ["large", "large", "small"]
    assert room.take("a", 10, 1, 0, small)
    assert metrics.body_bytes == room.bodies.used == 90
    assert room.files.used == 2


def test_what_nobody_takes_is_given_back() -> None:
    metrics = Metrics()
    room = MemoryBudget(metrics, budgets(100))
    attachments = Attachments(room, "a", lambda: None)
    attachments.start(50, 0.0)
    assert attachments.try_acquire()
    assert metrics.body_bytes == 50
    assert room.files.used == 1
    attachments.close()
    attachments.close()
    assert metrics.body_bytes == room.bodies.used == room.files.used == 0
