"""What one connection holds of the memory of all, tried on connections of one service with little of it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import uvloop

from nsfwd.budgets import ADMINS, FREE_LINE, SERIES, Budgets
from nsfwd.config import Settings
from nsfwd.metrics import Metrics
from nsfwd.pipeline.queueing.scored import Directory
from nsfwd.protocol.limits import DESCRIPTORS
from nsfwd.protocol.messages import Image, Outcome, Style
from nsfwd.server.acceptor import Acceptor
from nsfwd.server.attachments import PATIENCE, Attachments, MemoryBudget
from nsfwd.server.context import ServerContext
from nsfwd.server.holdings import LONG_REQUESTS
from nsfwd.server.listen_spec import parse
from nsfwd.server.listeners import close_all, open_listeners
from tests.unit.test_connection import FakeClaim, FakePipeline, Talk, pass_files, turns


def crowd(
    count: int, conversation: Callable[[list[Talk]], Coroutine[Any, Any, None]], style: Style = Style.PLAIN
) -> None:
    """Hold a conversation on several connections of one service; afterwards nothing is held of any budget."""

    async def main() -> None:
        first = Talk(style, socket.AF_UNIX)
        talks = [first, *(Talk(style, socket.AF_UNIX, service=first.service) for _ in range(count - 1))]
        try:
            async with asyncio.timeout(30):
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
        assert {name: row["used"] for name, row in first.service.budgets.stats().items() if row["used"]} == {}

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_unfinished_lines_share_a_budget_and_those_beyond_it_are_busy() -> None:
    async def conversation(talks: list[Talk]) -> None:
        lines = talks[0].service.budgets.lines
        lines.limit = 400_000
        for talk in talks:
            await talk.send(b'{"id":"' + b"x" * 100_000)
        await turns(lambda: lines.refused >= len(talks) - 4 and lines.used > 200_000)
        assert lines.used <= lines.limit
        answers = []
        for number, talk in enumerate(talks):
            await talk.send(b'"}\n', {"id": number, "op": "ping"})
            answers += [await talk.reply(), await talk.reply()]
        codes = [answer["error"]["code"] for answer in answers[::2]]
        assert codes.count("busy") == lines.refused
        assert set(codes) == {"busy", "bad_request"}, "an id of 100,000 letters that came whole is a bad one"
        assert [answer["op"] for answer in answers[1::2]] == ["ping"] * len(talks)

    crowd(10, conversation)


def test_a_usual_request_needs_no_room_among_lines() -> None:
    async def conversation(talks: list[Talk]) -> None:
        (talk,) = talks
        talk.service.budgets.lines.limit = 0
        await talk.send(b'{"id":1,"path":"/' + b"x" * 3000)
        await turns(lambda: talk.service.budgets.lines.used > 3000)
        await talk.send(b'"}\n')
        assert (await talk.reply())["error"]["code"] == "too_small"
        await talk.send(b"/" + b"x" * (FREE_LINE + 1))
        await turns(lambda: talk.service.budgets.lines.refused == 1)
        await talk.send(b'\n{"id":2,"op":"ping"}\n')
        assert (await talk.reply())["error"]["code"] == "busy"
        assert (await talk.reply())["op"] == "ping"

    crowd(1, conversation)


def test_an_image_inside_a_line_needs_room_among_lines() -> None:
    async def conversation(talks: list[Talk]) -> None:
        (talk,) = talks
        data = json.dumps({"id": 1, "data": "A" * 40_000}).encode() + b"\n"
        await talk.send(data)
        assert (await talk.reply())["error"]["code"] == "too_small"
        talk.service.budgets.lines.limit = 10_000
        await talk.send(data, {"id": 2, "op": "ping"})
        refused, ping = await talk.reply(), await talk.reply()
        assert (refused["status"], refused["error"]["code"], ping["op"]) == ("refused", "busy", "ping")

    crowd(1, conversation)


def test_long_requests_share_a_budget_and_count_by_their_paths() -> None:
    async def conversation(talks: list[Talk]) -> None:
        first, second = talks
        first.pipeline.hold = True
        requests = first.service.budgets.requests
        requests.limit = 2 * SERIES + 10_000
        await first.send({"id": 1, "paths": ["/" + "a" * 99] * 100})
        await turns(lambda: requests.used == SERIES + 10_099)
        await second.send({"id": 2, "paths": ["/" + "b" * 99] * 100}, {"id": 3, "path": "/c"})
        done = await second.reply()
        assert (done["id"], done["status"], done["error"]["code"]) == (2, "refused", "busy") or done["done"]
        assert requests.refused == 1
        first.pipeline.hold = False
        while requests.used:
            first.pipeline.release()
            await asyncio.sleep(0)

    crowd(2, conversation)


def test_further_requests_stay_unread_while_long_ones_are_under_way() -> None:
    async def conversation(talks: list[Talk]) -> None:
        (talk,) = talks
        talk.pipeline.hold = True
        line = json.dumps({"paths": ["/" + "a" * 4000] * 250}).encode() + b"\n"
        sending = asyncio.ensure_future(talk.send(line * 8))
        requests = talk.service.budgets.requests
        await turns(lambda: requests.used >= LONG_REQUESTS)
        for _ in range(100):
            await asyncio.sleep(0)
        assert requests.used < LONG_REQUESTS + len(line) + SERIES
        assert not sending.done()
        sending.cancel()

    crowd(1, conversation)


def test_unread_replies_share_a_budget() -> None:
    async def conversation(talks: list[Talk]) -> None:
        replies = talks[0].service.budgets.replies
        replies.limit = 1_000_000
        sending = [
            asyncio.ensure_future(talk.send(*({"id": n, "path": "/" + "x" * 3000} for n in range(2000))))
            for talk in talks
        ]
        await turns(lambda: not replies.fits("test", 0))
        for _ in range(300):
            await asyncio.sleep(0)
        assert replies.used < replies.limit + len(talks) * 300_000, "what was understood is answered, and no more"
        got = await asyncio.gather(*(answers(talk, 2000) for talk in talks))
        assert [sorted(reply["id"] for reply in each) for each in got] == [list(range(2000))] * len(talks)
        await asyncio.gather(*sending)

    async def answers(talk: Talk, count: int) -> list[Any]:
        return [await talk.reply() for _ in range(count)]

    crowd(4, conversation)


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_descriptors_beyond_the_budget_are_never_installed() -> None:
    async def conversation(talks: list[Talk]) -> None:
        files = talks[0].service.budgets.files
        files.limit = 100
        before = descriptors()
        for talk in talks:
            pass_files(talk.client, b'{"id":1,"fd":tr', *[b"x"] * 60)
            for _ in range(3):
                await asyncio.sleep(0)  # they are received: an ordinary user may have only so many on the way
        await turns(lambda: files.refused >= len(talks) - 2)
        assert files.used <= 88
        assert descriptors() - before <= 88
        last = talks[-1]
        await last.send(b'ue}\n{"id":2,"op":"ping"}\n')
        refused, ping = await last.reply(), await last.reply()
        assert (refused["status"], refused["error"]["code"]) == ("refused", "busy")
        assert ping["op"] == "ping"

    crowd(20, conversation)


def test_descriptors_that_no_request_takes_are_closed_after_a_while() -> None:
    async def conversation(talks: list[Talk]) -> None:
        (talk,) = talks
        files = talk.service.budgets.files
        loop = asyncio.get_running_loop()
        pass_files(talk.client, b'{"id":1,"fd":tr', b"one", b"two")
        await turns(lambda: files.used == 2)
        talk.connection.check(loop.time() + PATIENCE / 2)
        assert files.used == 2
        talk.connection.check(loop.time() + PATIENCE + 1)
        assert files.used == 0
        await talk.send(b'ue}\n{"id":2,"op":"ping"}\n')
        assert (await talk.reply())["error"]["code"] == "no_descriptor"
        assert (await talk.reply())["op"] == "ping"

    crowd(1, conversation)


def test_descriptors_that_are_still_being_closed_count_and_hold_up_nobody_while_there_are_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    room = MemoryBudget(Metrics(), Budgets(4000, max_connections=1, body_memory=1))
    attachments = Attachments(room, "a", lambda: None)
    monkeypatch.setattr("nsfwd.server.attachments.closing", lambda: 500)
    assert attachments.wanted() == DESCRIPTORS
    monkeypatch.setattr("nsfwd.server.attachments.closing", lambda: 5000)
    assert attachments.wanted() == 0


def test_descriptors_whose_requests_wait_for_the_window_stay() -> None:
    async def conversation(talks: list[Talk]) -> None:
        (talk,) = talks
        talk.pipeline.hold = True
        talk.service.queue.limit = 16
        asked = b"".join(b'{"id":%d,"fd":true}\n' % number for number in range(30))
        pass_files(talk.client, asked, *[b"%d" % number for number in range(30)])
        await turns(lambda: len(talk.pipeline.waiting) > 0)
        talk.service.queue.used = 15  # others take the queue: the window is one
        talk.connection.check(asyncio.get_running_loop().time() + PATIENCE + 1)
        talk.service.queue.used = 0
        talk.half_close()
        while not talk.closed.is_set():
            talk.pipeline.release()
            await asyncio.sleep(0)
        assert {reply["error"]["code"] for reply in await talk.replies()} == {"too_small"}

    crowd(1, conversation)


def test_many_connections_of_one_peer_wait_for_each_other_instead_of_being_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def conversation(talks: list[Talk]) -> None:
        service, pipeline = talks[0].service, talks[0].pipeline
        pipeline.hold = True
        service.queue.limit = 256
        held = pipeline.scan

        async def admitted(image: Image, claim: FakeClaim) -> Outcome | Directory:
            assert service.queue.fits("test", 1)
            service.queue.add("test", 1)
            try:
                return await held(image, claim)
            finally:
                service.queue.add("test", -1)

        monkeypatch.setattr(pipeline, "scan", admitted)
        for talk in talks:
            await talk.send(*({"id": number, "path": "/a"} for number in range(64)))
        await turns(lambda: all(talk.connection.requests for talk in talks))
        for _ in range(300):
            await asyncio.sleep(0)
        assert service.queue.coming == 0
        assert service.queue.used < 224, "the share of one peer is not used up"
        assert all(talk.connection.requests for talk in talks), "and each has something in it"

    crowd(20, conversation)


def test_idle_connections_make_room_for_a_peer_that_has_fewer_and_admins_always_get_in() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        listeners = open_listeners(["tcp:127.0.0.1:0", "tcp:[::1]:0"], [], "", roots=True)
        service = ServerContext(loop, Settings(max_connections=4), FakePipeline())
        acceptor = Acceptor(listeners, service)
        acceptor.start()
        (one, two) = (listener.sock.getsockname()[:2] for listener in listeners)

        async def connect(address: Any) -> socket.socket:
            sock = stack.enter_context(socket.create_connection(address))
            sock.setblocking(False)
            return sock

        with ExitStack() as stack:
            crowd = [await connect(one) for _ in range(4)]
            await turns(lambda: len(acceptor.connections) == 4)
            refused = await connect(one)
            assert b"too many connections" in await loop.sock_recv(refused, 1000)
            for connection in acceptor.connections:
                connection.active -= 5.0
            newcomer = await connect(two)
            await turns(lambda: any(connection.peer.guard == "::/64" for connection in acceptor.connections))
            assert len(acceptor.connections) == 4
            await loop.sock_sendall(newcomer, b'{"op":"ping"}\n')
            assert b"ping" in await loop.sock_recv(newcomer, 1000)
            assert service.budgets.connections.stats()["refused"] == 1
            assert service.budgets.connections.reserve == ADMINS
            assert len(crowd) == 4
            acceptor.stop()
            for connection in tuple(acceptor.connections):
                connection.close()
        close_all(listeners)

    assert parse("tcp:[::1]:0")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
