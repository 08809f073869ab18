"""Conversations over a real socket pair and loop with a pipeline that answers when it is told to."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable
from typing import Any

import pytest
import uvloop

from nsfwd.config import Settings
from nsfwd.errors import CodedError
from nsfwd.pipeline.queueing.scored import Directory
from nsfwd.protocol.limits import DESCRIPTORS, WINDOW
from nsfwd.protocol.messages import Image, Lane, Outcome, Style, Timing
from nsfwd.protocol.session import Session
from nsfwd.server.connection import QUIET, Connection
from nsfwd.server.context import ServerContext
from nsfwd.server.listen_spec import Family, ListenAddress, ListenSpec
from nsfwd.server.multi_scan import IMAGES, SERIES_MARK
from nsfwd.server.peer_credentials import Peer
from tests.descriptors import all_closed

PATIENCE = 10.0
"""Seconds after which a test that hangs fails."""


def skipped(path: bytes | None) -> Outcome:
    return Outcome.failed(path, CodedError("too_small"), Timing())


class FakeClaim:
    def __init__(self, lane: Lane, deadline: float | None, identity: bool, roots: tuple[bytes, ...]) -> None:
        self.lane, self.deadline, self.identity, self.roots = lane, deadline, identity, roots
        self.error: CodedError | None = None
        self.parts: set[asyncio.Future[Outcome]] = set()

    def cancel(self, code: str, message: str = "") -> None:
        self.error = CodedError(code, message)
        for part in tuple(self.parts):
            if not part.done():
                part.set_exception(self.error)


def pass_files(sock: socket.socket, data: bytes, *contents: bytes) -> None:
    """Send these bytes, and a file with each of these contents."""
    files = []
    for content in contents:
        files.append(os.memfd_create("test"))
        os.pwrite(files[-1], content, 0)
    socket.send_fds(sock, [data], files)
    for fd in files:
        os.close(fd)


class FakePipeline:
    """Answers at once, or holds every image until ``release``. A path that ends in / is a directory of ``files``."""

    def __init__(self) -> None:
        self.hold = False
        self.files: list[bytes] = []
        self.cut: CodedError | None = None
        self.broken = False
        self.named = 0
        self.bodies: list[bytes] = []
        self.claims: list[FakeClaim] = []
        self.waiting: dict[asyncio.Future[Outcome], bytes | None] = {}
        self.most_waiting = 0

    def claim(
        self,
        *,
        flow: tuple[Hashable, ...],
        lane: Lane = Lane.NORMAL,
        deadline: float | None = None,
        identity: bool = False,
        frames: int = 0,
        roots: tuple[bytes, ...] = (),
    ) -> FakeClaim:
        self.claims.append(FakeClaim(lane, deadline, identity, roots))
        return self.claims[-1]

    async def scan(self, image: Image, claim: FakeClaim) -> Outcome | Directory:
        if self.broken:
            raise RuntimeError("a defect")
        if image.descriptor is not None:
            with os.fdopen(image.descriptor, "rb") as file:
                self.bodies.append(file.read())
        if image.path is not None and image.path.endswith(b"/"):
            return Directory(Timing())
        if not self.hold:
            return skipped(image.path)
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        claim.parts.add(future)
        self.waiting[future] = image.path
        self.most_waiting = max(self.most_waiting, len(self.waiting))
        try:
            return await future
        except CodedError as error:
            return Outcome.failed(image.path, error, Timing())
        finally:
            self.waiting.pop(future, None)

    async def listing(self, path: bytes, claim: FakeClaim, *, recursive: bool = False) -> AsyncIterator[bytes]:
        for file in self.files:
            if claim.error is not None:
                raise claim.error
            self.named += 1
            yield path + file
        if self.cut is not None:
            raise self.cut

    def release(self, count: int | None = None) -> None:
        for future, path in list(self.waiting.items())[:count]:
            if not future.done():
                future.set_result(skipped(path))

    @property
    def status(self) -> FakePipeline:
        return self

    def readiness(self) -> dict[str, Any]:
        return {"ready": False, "why": "the engine is loading"}

    def stats(self) -> dict[str, Any]:
        return {"in_flight": len(self.waiting)}

    def poisoned(self) -> list[dict[str, Any]]:
        return []

    def clear_poison(self) -> int:
        return 0


class Talk:
    """Both ends of one connection, with a service of its own or that of another one."""

    def __init__(
        self, style: Style, family: socket.AddressFamily, *, service: ServerContext | None = None, **settings: Any
    ) -> None:
        loop = asyncio.get_running_loop()
        self.service = service or ServerContext(loop, Settings(**settings), FakePipeline())
        assert isinstance(self.service.pipeline, FakePipeline)
        self.pipeline = self.service.pipeline
        self.client, server = _pair(family)
        self.client.setblocking(False)
        self.closed = asyncio.Event()
        spec = ListenSpec(ListenAddress(Family.UNIX, path="/x"), style, Lane.NORMAL)
        self.connection = Connection(
            server, spec, Peer("test", "test", False), self.service, on_closed=lambda _connection: self.closed.set()
        )
        self.connection.step()
        self._loop = loop
        self._unread = b""

    async def send(self, *requests: dict[str, Any] | bytes) -> None:
        spelled = (item if isinstance(item, bytes) else json.dumps(item).encode() + b"\n" for item in requests)
        await self._loop.sock_sendall(self.client, b"".join(spelled))

    async def reply(self) -> Any:
        """The next line as JSON; None at the end of file."""
        while b"\n" not in self._unread:
            data = await self._loop.sock_recv(self.client, 1 << 16)
            if not data:
                assert not self._unread
                return None
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)

    async def replies(self) -> list[Any]:
        """Everything up to the end of file."""
        found = []
        while (reply := await self.reply()) is not None:
            found.append(reply)
        return found

    async def text(self) -> bytes:
        """Everything up to the end of file, as it came."""
        while data := await self._loop.sock_recv(self.client, 1 << 16):
            self._unread += data
        return self._unread

    def half_close(self) -> None:
        self.client.shutdown(socket.SHUT_WR)


def _pair(family: socket.AddressFamily) -> tuple[socket.socket, socket.socket]:
    if family == socket.AF_UNIX:
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        return client, server.accept()[0]


async def turns(condition: Callable[[], bool]) -> None:
    """Let the loop turn until ``condition`` holds."""
    while not condition():
        await asyncio.sleep(0)


Conversation = Callable[[Talk], Coroutine[Any, Any, None]]


def hold_conversation(
    conversation: Conversation,
    style: Style = Style.PLAIN,
    family: socket.AddressFamily = socket.AF_UNIX,
    **settings: Any,
) -> None:
    async def main() -> None:
        talk = Talk(style, family, **settings)
        try:
            async with asyncio.timeout(PATIENCE):
                await conversation(talk)
        finally:
            talk.client.close()
            talk.connection.close()
            await turns(lambda: not talk.connection.requests)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


BOTH = pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET], ids=["unix", "tcp"])


@BOTH
def test_a_half_closed_client_gets_every_reply_then_the_end(family: socket.AddressFamily) -> None:
    async def conversation(talk: Talk) -> None:
        talk.pipeline.hold = True
        await talk.send({"id": 1, "path": "/a"}, {"id": 2, "path": "/b"})
        talk.half_close()
        await turns(lambda: len(talk.pipeline.waiting) == 2)
        talk.pipeline.release()
        replies = await talk.replies()
        assert {(reply["id"], reply["path"], reply["status"]) for reply in replies} == {
            (1, "/a", "skipped"),
            (2, "/b", "skipped"),
        }
        await talk.closed.wait()

    hold_conversation(conversation, family=family)


@BOTH
def test_a_thousand_requests_before_the_first_read(family: socket.AddressFamily) -> None:
    async def conversation(talk: Talk) -> None:
        await talk.send(*({"id": number, "path": "/x" * 400} for number in range(1000)))
        talk.half_close()
        assert [reply["id"] for reply in await talk.replies()] == list(range(1000))

    hold_conversation(conversation, family=family)


def test_the_window_holds_back_the_socket() -> None:
    async def conversation(talk: Talk) -> None:
        talk.pipeline.hold = True
        await talk.send(*({"id": number, "path": "/x"} for number in range(3 * WINDOW)))
        talk.half_close()
        await turns(lambda: len(talk.pipeline.waiting) == WINDOW)
        while not talk.closed.is_set():
            talk.pipeline.release()
            await asyncio.sleep(0)
        assert sorted(reply["id"] for reply in await talk.replies()) == list(range(3 * WINDOW))
        assert talk.pipeline.most_waiting == WINDOW

    hold_conversation(conversation)


def test_requests_wait_while_the_peer_does_not_read() -> None:
    async def conversation(talk: Talk) -> None:
        line = json.dumps({"path": "/" + "x" * 4000}).encode() + b"\n"
        sending = asyncio.get_running_loop().create_task(talk.send(line * 2000))
        scanned = talk.service.metrics
        await turns(lambda: talk.connection._stream.pending >= 64 * 1024 and not talk.connection._stream.reading)
        assert scanned.requests_total < 500
        talk.connection.check(talk.service.loop.time())
        assert not talk.closed.is_set()
        count = 0
        while count < 2000:
            assert (await talk.reply())["status"] == "skipped"
            count += 1
        await sending

    hold_conversation(conversation, write_buffer=64 * 1024)


def test_a_peer_that_went_before_its_reply_is_noticed() -> None:
    async def conversation(talk: Talk) -> None:
        half = b'{"id": 1, "bytes": 1000}\nhalf'
        talk.client.send(half)
        talk.client.close()
        talk.connection._stream.write(b"late")  # it is answered with a reset, while bytes and their end wait unread
        await turns(lambda: talk.connection.bytes_in == len(half))
        talk.connection.check(talk.service.loop.time() + QUIET)
        assert talk.closed.is_set()
        assert talk.service.metrics.body_bytes == 0

    hold_conversation(conversation, family=socket.AF_INET)


def test_a_peer_that_takes_nothing_is_closed() -> None:
    async def conversation(talk: Talk) -> None:
        talk.pipeline.files = [b"x" * 200] * 10_000
        await talk.send({"id": 1, "path": "/d/"})
        await turns(lambda: talk.connection._stream.pending >= SERIES_MARK)
        talk.connection.check(talk.connection._stream.progress + 59.9)
        assert not talk.closed.is_set()
        talk.connection.check(talk.connection._stream.progress + 60.1)
        assert talk.closed.is_set()
        assert talk.service.metrics.connections_stalled_total == 1
        assert talk.pipeline.claims[0].error is not None

    hold_conversation(conversation, write_stall=60.0)


def test_memory_does_not_grow_with_a_directory() -> None:
    async def conversation(talk: Talk) -> None:
        talk.pipeline.files = [b"%d" % number for number in range(20_000)]
        await talk.send({"id": 1, "path": "/d/"})
        await turns(lambda: talk.connection._stream.pending >= SERIES_MARK)
        named = talk.pipeline.named
        for _ in range(100):
            await asyncio.sleep(0)
        assert talk.pipeline.named <= named + 1
        assert talk.connection._stream.pending < SERIES_MARK + WINDOW * 1024
        talk.half_close()
        *entries, done = await talk.replies()
        assert {entry["path"] for entry in entries} == {f"/d/{number}" for number in range(20_000)}
        assert (done["status"], done["files"], done["skipped"]) == ("done", 20_000, 20_000)

    hold_conversation(conversation)


def test_a_series_keeps_to_its_window() -> None:
    async def conversation(talk: Talk) -> None:
        talk.pipeline.hold = True
        talk.pipeline.files = [b"%d" % number for number in range(3 * WINDOW)]
        await talk.send({"id": 1, "path": "/d/"}, {"id": 2, "op": "ping"})
        assert (await talk.reply())["id"] == 2
        await turns(lambda: len(talk.pipeline.waiting) == WINDOW)
        talk.half_close()
        while talk.connection.requests:
            talk.pipeline.release()
            await asyncio.sleep(0)
        assert talk.pipeline.most_waiting == WINDOW
        assert (await talk.replies())[-1]["files"] == 3 * WINDOW

    hold_conversation(conversation)


def test_paths_may_hold_directories() -> None:
    async def conversation(talk: Talk) -> None:
        talk.pipeline.files = [b"1", b"2"]
        await talk.send({"id": 1, "paths": ["/a", "/d/", "/b", "/e/"]})
        talk.half_close()
        *entries, done = await talk.replies()
        assert sorted(entry["path"] for entry in entries) == ["/a", "/b", "/d/1", "/d/2", "/e/1", "/e/2"]
        assert done["files"] == 6

    hold_conversation(conversation)


def test_a_directory_cut_short_says_so() -> None:
    async def conversation(talk: Talk) -> None:
        talk.pipeline.files = [b"1"]
        talk.pipeline.cut = CodedError("too_many_entries")
        await talk.send({"id": 1, "path": "/d/"})
        assert (await talk.reply())["path"] == "/d/1"
        done = await talk.reply()
        assert done["error"]["code"] == "too_many_entries"

    hold_conversation(conversation)


def test_raw_bytes_and_base64_reach_the_pipeline_as_a_descriptor() -> None:
    async def conversation(talk: Talk) -> None:
        picture = bytes(range(256)) * 2000
        await talk.send({"id": 1, "bytes": len(picture)}, picture, {"id": 2, "data": "AAECAw=="}, {"id": 3, "bytes": 0})
        talk.half_close()
        assert [reply["id"] for reply in await talk.replies()] == [1, 2, 3]
        assert talk.pipeline.bodies == [picture, bytes(range(4)), b""]

    with all_closed():
        hold_conversation(conversation)


def test_bodies_in_flight_have_a_window_of_bytes() -> None:
    async def conversation(talk: Talk) -> None:
        talk.pipeline.hold = True
        await talk.send(*([b'{"bytes": 600}\n' + bytes(600)] * 5))
        talk.half_close()
        while not talk.closed.is_set():
            talk.pipeline.release()
            await asyncio.sleep(0)
        assert len(await talk.replies()) == 5
        assert talk.pipeline.most_waiting == 2

    hold_conversation(conversation, max_bytes=1000)


def test_a_client_that_vanishes_inside_a_body_leaves_no_descriptor() -> None:
    async def short(talk: Talk) -> None:
        await talk.send({"id": 1, "bytes": 1000}, b"only this")
        talk.half_close()
        assert (await talk.reply())["error"]["code"] == "short_body"

    async def gone(talk: Talk) -> None:
        await talk.send({"id": 1, "bytes": 1000}, b"only this")
        await turns(lambda: talk.service.metrics.bodies_total == 1)
        talk.client.close()
        await talk.closed.wait()

    with all_closed():
        hold_conversation(short)
        hold_conversation(gone)


def test_work_of_a_vanished_client_is_dropped() -> None:
    async def conversation(talk: Talk) -> None:
        talk.pipeline.hold = True
        await talk.send({"id": 1, "path": "/a"})
        await turns(lambda: len(talk.pipeline.waiting) == 1)
        talk.client.close()
        await talk.closed.wait()
        await turns(lambda: not talk.connection.requests)
        assert talk.pipeline.waiting == {}
        assert talk.service.metrics.connections_lost_total == 1
        assert talk.service.metrics.connections == 0

    hold_conversation(conversation)


def test_a_reset_drops_the_work_too() -> None:
    async def conversation(talk: Talk) -> None:
        talk.pipeline.hold = True
        await talk.send({"id": 1, "path": "/a"})
        await turns(lambda: len(talk.pipeline.waiting) == 1)
        talk.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        talk.client.close()
        await talk.closed.wait()
        assert talk.pipeline.claims[0].error is not None

    hold_conversation(conversation, family=socket.AF_INET)


def test_cancel_finds_a_request_by_its_id_and_type() -> None:
    async def conversation(talk: Talk) -> None:
        talk.pipeline.hold = True
        await talk.send({"id": 7, "path": "/a"}, {"id": 8, "op": "cancel", "target": "7"})
        reply = await talk.reply()
        assert (reply["id"], reply["error"]["code"]) == (8, "no_target")
        await talk.send({"id": 9, "op": "cancel", "target": 7})
        replies = {reply["id"]: reply for reply in [await talk.reply(), await talk.reply()]}
        assert replies[7]["error"]["code"] == "cancelled"
        assert replies[9]["status"] == "ok"

    hold_conversation(conversation)


def test_cancel_ends_a_series() -> None:
    async def conversation(talk: Talk) -> None:
        talk.pipeline.hold = True
        talk.pipeline.files = [b"%d" % number for number in range(1000)]
        await talk.send({"id": 7, "path": "/d/"})
        await turns(lambda: len(talk.pipeline.waiting) == WINDOW)
        await talk.send({"op": "cancel", "target": 7})
        talk.half_close()
        replies = await talk.replies()
        [done] = [reply for reply in replies if "done" in reply]
        assert done["error"]["code"] == "cancelled"
        assert len(replies) == WINDOW + 2

    hold_conversation(conversation)


def test_lane_deadline_and_identity_reach_the_claim() -> None:
    async def conversation(talk: Talk) -> None:
        await talk.send({"path": "/a", "lane": "background", "deadline": 2.5, "identity": True})
        await talk.send({"path": "/a", "lane": "interactive"})
        talk.half_close()
        await talk.replies()
        one, other = talk.pipeline.claims
        assert (one.lane, one.deadline, one.identity) == (Lane.BACKGROUND, 2.5, True)
        assert (other.lane, other.deadline, other.identity) == (Lane.NORMAL, None, False)

    hold_conversation(conversation)


def test_operations() -> None:
    async def conversation(talk: Talk) -> None:
        names = ("ping", "ready", "version", "models", "stats", "poison", "reload", "clear_poison")
        await talk.send(*({"op": op} for op in names))
        talk.half_close()
        ping, ready, version, models, stats, poison, reload, clear = await talk.replies()
        assert poison["poison"] == []
        assert clear["error"]["code"] == "not_permitted"
        assert ping["status"] == "ok"
        assert ready["ready"] is False
        assert version["protocol"] == 1
        assert "reload" not in version["operations"]
        assert models["models"] == []
        assert stats["server"]["connections"] == 1
        assert reload["error"]["code"] == "not_permitted"

    hold_conversation(conversation)


def test_reloads_under_way_have_a_window() -> None:
    async def conversation(talk: Talk) -> None:
        done, asked = asyncio.Event(), 0

        async def reload() -> dict[str, Any]:
            nonlocal asked
            asked += 1
            await done.wait()
            return {"mode": "none"}

        talk.service.reload = reload
        talk.connection.session = Session(
            style=Style.PLAIN, max_bytes=1000, operations=Peer("root", "root", True).operations
        )
        await talk.send(*({"id": number, "op": "reload"} for number in range(200)))
        await turns(lambda: asked == WINDOW)
        for _ in range(100):
            await asyncio.sleep(0)
        assert asked == WINDOW
        done.set()
        assert sorted([(await talk.reply())["id"] for _ in range(200)]) == list(range(200))

    hold_conversation(conversation)


def test_a_defect_is_an_answer_and_the_connection_lives_on() -> None:
    async def conversation(talk: Talk) -> None:
        talk.pipeline.broken = True
        await talk.send({"id": 1, "path": "/a"}, {"id": 2, "paths": ["/a", "/b"]})
        talk.half_close()
        replies = await talk.replies()
        assert [reply["error"]["code"] for reply in replies if reply["status"] == "error"] == ["internal"] * 3
        assert replies[-1]["errors"] == 2

    hold_conversation(conversation)


def test_a_defect_in_an_operation_is_an_answer_too() -> None:
    async def conversation(talk: Talk) -> None:
        del talk.service.pipeline
        await talk.send({"op": "ready"}, {"op": "ping"})
        assert (await talk.reply())["error"]["code"] == "internal"
        assert (await talk.reply())["status"] == "ok"

    hold_conversation(conversation)


def test_many_cheap_requests_are_answered_in_bursts() -> None:
    async def conversation(talk: Talk) -> None:
        await talk.send(b'{"op": "ping"}\n' * 3000)
        talk.half_close()
        assert len(await talk.replies()) == 3000

    hold_conversation(conversation)


def test_a_client_that_left_is_noticed_while_nothing_is_read() -> None:
    async def conversation(talk: Talk) -> None:
        talk.pipeline.hold = True
        await talk.send(*({"id": number, "path": "/x"} for number in range(2 * WINDOW)))
        await turns(lambda: len(talk.pipeline.waiting) == WINDOW)
        talk.client.close()
        await asyncio.sleep(0)
        assert not talk.closed.is_set()
        talk.connection.check(talk.service.loop.time())
        await talk.closed.wait()
        await turns(lambda: not talk.pipeline.waiting)

    hold_conversation(conversation)


def test_requests_for_many_images_of_one_peer_share_what_is_in_flight() -> None:
    async def conversation(talk: Talk) -> None:
        talk.pipeline.hold = True
        talk.pipeline.files = [b"%d" % number for number in range(1000)]
        others = [Talk(Style.PLAIN, socket.AF_UNIX, service=talk.service) for _ in range(3)]
        talk.service.multi_scans["another"] = 1000
        talk.service.multi_scans["test"] = IMAGES // 10 - 4  # as many as others of this peer have
        for one in (talk, *others):
            await one.send({"id": 1, "path": "/d/"})
        await turns(lambda: len(talk.pipeline.waiting) == 4 * 10)
        for one in others:
            one.client.close()
            one.connection.close()
        await turns(lambda: talk.service.multi_scans["test"] == IMAGES // 10 - 3)

    hold_conversation(conversation)


def test_a_session_greets_after_silence_and_answers_in_order() -> None:
    async def conversation(talk: Talk) -> None:
        await talk.send(b"/a\r\n/b\r\nquit\r\n")
        text = await talk.text()
        assert text.startswith(b"\n\nWelcome! Enter image path to scan\n# Path: ")
        assert text.index(b'"/a"') < text.index(b'"/b"')

    async def silent(talk: Talk) -> None:
        data = await asyncio.get_running_loop().sock_recv(talk.client, 1000)
        assert data == b"\n\nWelcome! Enter image path to scan\n# Path: "

    hold_conversation(conversation, Style.SESSION)
    hold_conversation(silent, Style.SESSION)


def test_who_was_kept_waiting_is_not_taken_for_silent() -> None:
    async def conversation(talk: Talk) -> None:
        await turns(lambda: talk.connection._silence is not None)
        talk.client.send(b'{"op":"ping"}\n')
        talk.connection.active -= 1.0
        talk.connection._silent()  # the loop was busy: its timer is due before what waits in the kernel is read
        assert (await talk.reply())["op"] == "ping"

    hold_conversation(conversation, style=Style.SESSION)


def test_oneshot_answers_an_unfinished_line_after_silence_and_closes() -> None:
    async def conversation(talk: Talk) -> None:
        await talk.send(b"/a")
        assert json.loads(await talk.text())["/a"] == {"skipped": "too_small"}

    hold_conversation(conversation, Style.ONESHOT)


def test_http_is_answered_once_counted_and_closed(caplog: pytest.LogCaptureFixture) -> None:
    async def conversation(talk: Talk) -> None:
        await talk.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await talk.text()).startswith(b"HTTP/1.1 400 ")
        assert talk.service.metrics.http_total == 1
        [warning] = caplog.records
        assert (vars(warning)["kind"], vars(warning)["burst"]) == ("test", 1), "one line a minute for each peer"

    hold_conversation(conversation, Style.SESSION, socket.AF_INET)


def test_the_last_reply_survives_unread_input() -> None:
    async def conversation(talk: Talk) -> None:
        await talk.send({"op": "ping"}, b"quit\n", b"x" * 200_000)
        assert (await talk.reply())["op"] == "ping"
        assert (await talk.reply())["op"] == "quit"
        assert await talk.reply() is None
        talk.client.close()
        await talk.closed.wait()

    hold_conversation(conversation, family=socket.AF_INET)


def test_an_idle_connection_is_closed_and_a_busy_one_is_not() -> None:
    async def conversation(talk: Talk) -> None:
        talk.pipeline.hold = True
        await talk.send({"id": 1, "path": "/a"})
        await turns(lambda: bool(talk.pipeline.waiting))
        talk.connection.check(talk.service.loop.time() + 100.0)
        talk.pipeline.release()
        assert (await talk.reply())["id"] == 1
        talk.connection.check(talk.service.loop.time() + 9.0)
        talk.connection.check(talk.service.loop.time() + 10.1)
        assert await talk.reply() is None
        assert talk.service.metrics.connections_idle_total == 1

    hold_conversation(conversation, idle_timeout=10.0)


def test_a_drain_answers_what_is_under_way_and_cuts_a_series_short() -> None:
    async def conversation(talk: Talk) -> None:
        talk.pipeline.hold = True
        talk.pipeline.files = [b"%d" % number for number in range(1000)]
        await talk.send({"id": 1, "path": "/a"}, {"id": 2, "path": "/d/"})
        await turns(lambda: len(talk.pipeline.waiting) == 1 + WINDOW)
        talk.service.draining = True
        talk.connection.drain()
        assert not talk.closed.is_set()
        talk.pipeline.release()
        replies = await talk.replies()
        assert [reply["status"] for reply in replies if reply["id"] == 1] == ["skipped"]
        [done] = [reply for reply in replies if "done" in reply]
        assert (done["files"], done["error"]["code"]) == (WINDOW, "draining")

    hold_conversation(conversation)


def test_passed_descriptors_are_closed() -> None:
    async def conversation(talk: Talk) -> None:
        one, other = os.pipe()
        for _ in range(3):
            socket.send_fds(talk.client, [b'{"op": "ping"}\n'], [other] * 60)
            assert (await talk.reply())["op"] == "ping"
        os.close(other)
        talk.client.close()
        await talk.closed.wait()
        assert os.read(one, 1) == b""  # the end of file shows that nobody holds the writing end
        os.close(one)

    hold_conversation(conversation)


def test_passed_descriptors_go_to_their_requests_in_order() -> None:
    async def conversation(talk: Talk) -> None:
        pass_files(talk.client, b'{"id":1,"fd":true,"name":"one"}\n{"id":2,"fd":true,"nam', b"1", b"2", b"3")
        pass_files(talk.client, b'e":"two"}\n{"id":3,"path":"/a"}\n{"id":4,"fd":true,"colour":1}\n', b"4")
        await talk.send({"id": 5, "fd": True, "name": "five"}, {"id": 6, "fd": True})
        talk.half_close()
        replies = sorted(await talk.replies(), key=lambda reply: reply["id"])
        assert [reply.get("path") for reply in replies] == ["one", "two", "/a", None, "five", None]
        assert sorted(talk.pipeline.bodies) == [b"1", b"2", b"4"], "the third belonged to the request in error"
        codes = [reply["error"]["code"] for reply in replies]
        assert codes == ["too_small", "too_small", "too_small", "unknown_key", "too_small", "no_descriptor"]

    hold_conversation(conversation, family=socket.AF_UNIX)


def test_a_name_for_what_came_as_bytes() -> None:
    async def conversation(talk: Talk) -> None:
        await talk.send({"bytes": 1, "name": "x.png"}, b"1", {"data": "MQ==", "name": "y"}, {"path": "/a", "name": "z"})
        talk.half_close()
        replies = await talk.replies()
        assert {(reply["path"], reply["error"]["code"]) for reply in replies} == {
            ("x.png", "too_small"),
            ("y", "too_small"),
            ("/a", "bad_request"),
        }

    hold_conversation(conversation)


def test_surplus_descriptors_are_closed_and_so_are_the_rest_at_the_end() -> None:
    async def conversation(talk: Talk) -> None:
        for _ in range(DESCRIPTORS // 32 + 1):
            pass_files(talk.client, b"\n", *[b"x"] * 32)
        await talk.send(*({"fd": True} for _ in range(DESCRIPTORS + 1)))
        pass_files(talk.client, b"\n", b"left")
        talk.half_close()
        codes = sorted(reply["error"]["code"] for reply in await talk.replies())
        assert codes == ["no_descriptor"] + ["too_small"] * DESCRIPTORS

    with all_closed():  # the pipeline's by a thread of its own
        hold_conversation(conversation, family=socket.AF_UNIX)
