"""Both clients against a daemon of a few lines."""

import asyncio
import json
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import nsfwd.client
from nsfwd.client import AsyncClient, Client, Encoded, Opened, Options
from nsfwd.errors import ConnectionLost, DaemonUnreachable, NsfwdError
from tests.unit.fakedaemon import Barring, FakeDaemon, Request, answer, failed, scored


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path / "d.sock") as daemon:
        yield daemon


def test_one_file(daemon: FakeDaemon) -> None:
    with Client(daemon.address, options=Options(deadline=3)) as client:
        assert client.scan("/a.jpg").verdict == "safe"
        assert client.scan("/alarm.jpg", options=Options()).alarm
        assert client.scan(b"/\xe9corrupt.jpg").code == "corrupt"
        assert client.address == daemon.address
    assert [request.get("deadline") for request in daemon.requests] == [3, None, 3]


def test_bytes_larger_than_every_buffer(daemon: FakeDaemon) -> None:
    data = bytes(range(256)) * 40_000
    with Client(daemon.address) as client:
        assert client.scan_bytes(data).scored
    assert daemon.bodies == [data]


def test_many_files_more_than_the_window(daemon: FakeDaemon) -> None:
    paths = [f"/{number}.jpg" for number in range(1000)]
    with Client(daemon.address) as client:
        assert sorted(reply.path for reply in client.scan_many(iter(paths))) == sorted(paths)
        assert list(client.scan_many([])) == []


def test_a_source_about_to_wait_gets_its_replies_first(daemon: FakeDaemon) -> None:
    """Each None stands for a wait: by then everything asked before it has been answered."""
    seen: list[str] = []
    at_waits: list[int] = []

    def source() -> Iterator[str | None]:
        for number in range(100):
            yield f"/{number}"
            if number % 10 == 0:
                yield None
                at_waits.append(len(seen))

    async def together() -> None:
        async with AsyncClient(daemon.address) as client:
            async for reply in client.scan_many(source()):
                seen.append(reply.path)  # noqa: PERF401 (the source looks on)

    with Client(daemon.address) as client:
        for reply in client.scan_many(source()):
            seen.append(reply.path)  # noqa: PERF401 (the source looks on)
    assert at_waits == list(range(1, 100, 10))
    seen.clear()
    at_waits.clear()
    asyncio.run(together())
    assert at_waits == list(range(1, 100, 10))


def test_a_directory_and_other_calls_between_its_replies(daemon: FakeDaemon) -> None:
    with Client(daemon.address) as client:
        seen = 0
        for reply in client.scan_dir("/in/300", recursive=True):
            seen += 1
            assert reply.path.startswith("/in/300/")
            if seen % 100 == 0:
                assert client.ping() > 0
                assert len(list(client.scan_many(["/x", "/y"]))) == 2
        assert seen == 300
        with pytest.raises(NsfwdError, match="is a directory"):
            client.scan("/in/3")


def test_leaving_a_directory_early_cancels_it_and_disturbs_nothing(daemon: FakeDaemon) -> None:
    with Client(daemon.address) as client:
        replies = client.scan_dir("/in/500")
        next(replies)
        replies.close()
        assert client.scan("/after.jpg").path == "/after.jpg"
        assert client.ready() == {"ready": True, "requests_total": 3}


def test_operations(daemon: FakeDaemon) -> None:
    with Client(daemon.address) as client:
        for call in (client.ready, client.version, client.models, client.stats):
            call()
    assert [request["op"] for request in daemon.requests] == ["ready", "version", "models", "stats"]


def test_no_daemon_names_every_place_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NSFWD_CONNECT", raising=False)
    with pytest.raises(DaemonUnreachable, match=r"tried unix:.*none\.sock \(No such file or directory\)"):
        Client(f"unix:{tmp_path}/none.sock").ping()
    with pytest.raises(DaemonUnreachable, match=r"none\.sock"):
        asyncio.run(AsyncClient(f"unix:{tmp_path}/none.sock").ping())


def test_whom_the_operator_lets_ask_nothing_asks_once(tmp_path: Path) -> None:
    async def ask(address: str) -> None:
        async with AsyncClient(address) as client:
            await client.scan("/a")

    with Barring(tmp_path / "d.sock") as daemon:
        with pytest.raises(ConnectionLost, match="not you"):
            Client(daemon.address).scan("/a")
        with pytest.raises(ConnectionLost, match="not you"):
            asyncio.run(ask(daemon.address))
        assert len(daemon.requests) == 2


def _gone_at_third(request: Request) -> list[dict[str, object]] | None:
    return None if "3" in str(request.get("path")) else answer(request)


def test_a_daemon_that_goes_away_is_named_and_the_next_call_connects_again(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path / "d.sock", _gone_at_third) as daemon, Client(daemon.address) as client:
        replies = client.scan_many(["/1", "/2", "/x3", "/4"])
        with pytest.raises(ConnectionLost, match=r"closed the connection|lost"):
            list(replies)
        assert client.scan("/4.jpg").scored


def test_an_idle_connection_that_was_closed_is_opened_again(tmp_path: Path) -> None:
    closed = threading.Event()

    def once(request: Request) -> list[dict[str, object]] | None:
        if request.get("op") == "stats":
            closed.set()
            return None
        return answer(request)

    with FakeDaemon(tmp_path / "d.sock", once) as daemon, Client(daemon.address) as client:
        with pytest.raises(ConnectionLost):
            client.stats()
        assert closed.is_set()
        client.ping()


def test_a_silent_daemon_is_given_up_after_the_timeout(tmp_path: Path) -> None:
    with (
        FakeDaemon(tmp_path / "d.sock", lambda _: []) as daemon,
        Client(daemon.address, timeout=0.05) as client,
        pytest.raises(ConnectionLost, match=r"for 0\.05 s"),
    ):
        client.ping()


def test_a_daemon_that_writes_before_it_reads_on_does_not_deadlock(tmp_path: Path) -> None:
    """Each request is answered by more bytes than the sockets hold before the next one is read."""
    padding = "x" * 300_000

    def wordy(request: Request) -> list[dict[str, object]]:
        return [scored(str(request["path"])) | {"padding": padding}]

    paths = [f"/{'long' * 900}{number}" for number in range(100)]
    with FakeDaemon(tmp_path / "d.sock", wordy) as daemon:
        with Client(daemon.address) as client:
            assert sum(reply.scored for reply in client.scan_many(paths)) == 100

        async def together() -> int:
            async with AsyncClient(daemon.address) as client:
                return sum(reply.scored for reply in await asyncio.gather(*map(client.scan, paths)))

        assert asyncio.run(together()) == 100


def test_async_calls_share_one_connection(daemon: FakeDaemon) -> None:
    async def main() -> None:
        async with AsyncClient(daemon.address) as client:
            replies = await asyncio.gather(*(client.scan(f"/{number}") for number in range(500)))
            assert [reply.path for reply in replies] == [f"/{number}" for number in range(500)]
            assert (await client.scan_bytes(b"abc")).scored
            assert await client.ping() > 0
            for call in (client.ready, client.version, client.models, client.stats):
                assert (await call())["ready"]
            assert client.address == daemon.address

    asyncio.run(main())


def test_async_calls_between_the_replies_of_a_series_do_not_deadlock(daemon: FakeDaemon) -> None:
    async def main() -> None:
        async with AsyncClient(daemon.address) as client:
            seen = 0
            async for reply in client.scan_many(f"/a{number}" for number in range(300)):
                assert reply.scored
                seen += 1
                if seen % 50 == 1:
                    assert (await client.scan("/between")).path == "/between"
            async for _ in client.scan_dir("/in/200", recursive=True):
                seen += 1
                await client.ping()
            assert seen == 500

    asyncio.run(asyncio.wait_for(main(), 30))


def test_async_leaving_early_gives_the_window_back(daemon: FakeDaemon) -> None:
    async def main() -> None:
        async with AsyncClient(daemon.address) as client:
            for _ in range(5):
                replies = client.scan_many(f"/a{number}" for number in range(200))
                await anext(replies)
                await replies.aclose()
            assert len(await asyncio.gather(*(client.scan(f"/{number}") for number in range(200)))) == 200

    asyncio.run(asyncio.wait_for(main(), 30))


def test_async_everyone_who_waits_learns_of_a_loss(tmp_path: Path) -> None:
    async def main(address: str) -> None:
        client = AsyncClient(address)
        calls = (client.scan(f"/{number}") for number in range(200))
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, ConnectionLost) or result.scored for result in results)  # type: ignore[union-attr]
        assert sum(isinstance(result, ConnectionLost) for result in results) >= 100
        assert (await client.scan("/again")).scored
        await client.close()
        await client.close()

    with FakeDaemon(tmp_path / "d.sock", _gone_at_third) as daemon:
        asyncio.run(asyncio.wait_for(main(daemon.address), 30))


def test_a_cancelled_call_is_cancelled_at_the_daemon(tmp_path: Path) -> None:
    cancelled = threading.Event()

    def slow(request: Request) -> list[dict[str, object]]:
        if request.get("op") == "cancel":
            cancelled.set()
        return [] if request.get("path") == "/slow" else answer(request)

    async def main(address: str) -> None:
        async with AsyncClient(address) as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.scan("/slow"), 0.05)
            assert (await client.scan("/quick")).scored

    with FakeDaemon(tmp_path / "d.sock", slow) as daemon:
        asyncio.run(main(daemon.address))
        assert cancelled.is_set()


def test_tcp_addresses(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with Client(f"tcp:127.0.0.1:{port}") as client:
            assert client.address == f"tcp:127.0.0.1:{port}"


def test_the_public_names() -> None:
    """What others import: a name that goes away breaks them."""
    assert sorted(nsfwd.client.__all__) == [
        "AsyncClient",
        "Client",
        "CodedError",
        "ConnectionLost",
        "DaemonUnreachable",
        "Done",
        "Encoded",
        "Opened",
        "Options",
        "Reply",
        "Tree",
    ]
    scans = {"scan", "scan_bytes", "scan_fd", "scan_many", "scan_dir"}
    operations = {"ping", "ready", "version", "models", "stats", "poison", "reload"}
    for kind in (Client, AsyncClient):
        public = {name for name in dir(kind) if not name.startswith("_")}
        assert public - {"address"} == scans | operations | {"connect", "close", "passes_descriptors"}


def _busy_twice() -> Callable[[Request], list[dict[str, Any]]]:
    seen: Counter[str] = Counter()

    def respond(request: Request) -> list[dict[str, Any]]:
        path = str(request.get("path"))
        seen[path] += 1
        busy = failed(path, "refused", "busy") | {"retry_after": 0.01}
        return [busy] if seen[path] <= 2 else answer(request)

    return respond


def test_what_was_refused_is_asked_again_when_the_daemon_said(tmp_path: Path) -> None:
    paths = [f"/{number}" for number in range(100)]

    async def together(address: str) -> list[bool]:
        async with AsyncClient(address) as client:
            return [reply.scored for reply in await asyncio.gather(*map(client.scan, paths))]

    with FakeDaemon(tmp_path / "d.sock", _busy_twice()) as daemon, Client(daemon.address) as client:
        assert client.scan("/a").scored
        assert sorted(reply.path for reply in client.scan_many(paths) if reply.scored) == sorted(paths)
    with FakeDaemon(tmp_path / "e.sock", _busy_twice()) as daemon:
        assert all(asyncio.run(together(daemon.address)))


def _directory_of_busy_files(files: int) -> Callable[[Request], list[dict[str, Any]]]:
    """Each file of /in is refused in the series and once when it is asked for by itself."""
    seen: Counter[str] = Counter()

    def respond(request: Request) -> list[dict[str, Any]]:
        if request.get("path") == "/in":
            entries = [failed(f"/in/{n}", "refused", "busy") | {"retry_after": 0.01} for n in range(files)]
            return [*entries, {"path": "/in", "status": "done", "done": True, "files": files, "refused": files}]
        path = str(request["path"])
        seen[path] += 1
        return [failed(path, "refused", "busy") | {"retry_after": 0.01}] if seen[path] == 1 else [scored(path)]

    return respond


def test_no_file_of_a_directory_is_lost_because_the_daemon_was_busy(tmp_path: Path) -> None:
    """More of them than are put off at once: what comes is left unread meanwhile."""

    async def together(address: str) -> list[str]:
        async with AsyncClient(address) as client:
            return [reply.path async for reply in client.scan_dir("/in") if reply.scored]

    expected = sorted(f"/in/{number}" for number in range(2000))
    with FakeDaemon(tmp_path / "d.sock", _directory_of_busy_files(2000)) as daemon, Client(daemon.address) as client:
        assert sorted(reply.path for reply in client.scan_dir("/in") if reply.scored) == expected
    with FakeDaemon(tmp_path / "e.sock", _directory_of_busy_files(2000)) as daemon:
        assert sorted(asyncio.run(together(daemon.address))) == expected
    with (
        FakeDaemon(tmp_path / "f.sock", _directory_of_busy_files(3)) as daemon,
        Client(daemon.address, patience=0) as client,
    ):
        assert [reply.code for reply in client.scan_dir("/in")] == ["busy"] * 3


def test_open_files_are_passed(daemon: FakeDaemon, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"picture")

    def opened(number: int) -> Opened:
        return Opened(os.open(tmp_path / "a", os.O_RDONLY), f"/{number}")

    async def together() -> list[str]:
        async with AsyncClient(daemon.address) as client:
            with (tmp_path / "a").open("rb") as file:
                replies = await asyncio.gather(*(client.scan_fd(file.fileno(), f"/{n}") for n in range(100)))
            assert all(reply.scored for reply in replies)
            assert client.passes_descriptors
            return [reply.path async for reply in client.scan_many(map(opened, range(300)))]

    expected = sorted(f"/{number}" for number in range(300))
    with Client(daemon.address) as client, (tmp_path / "a").open("rb") as file:
        assert client.scan_fd(file.fileno()).scored
        assert client.scan_fd(file.fileno(), os.fsdecode(b"/\xe9")).path == os.fsdecode(b"/\xe9")
        assert sorted(reply.path for reply in client.scan_many(map(opened, range(300)))) == expected
    assert sorted(asyncio.run(together())) == expected
    assert daemon.passed == [b"picture"] * 702


def test_descriptors_pass_over_unix_sockets_alone(tmp_path: Path) -> None:
    async def together(address: str) -> None:
        async with AsyncClient(address) as client:
            assert not client.passes_descriptors
            with pytest.raises(NsfwdError, match="Unix socket"):
                await client.scan_fd(0)
            assert (await client.scan("/a")).scored

    with FakeDaemon(None) as daemon:
        with Client(daemon.address) as client:
            assert not client.passes_descriptors
            with pytest.raises(NsfwdError, match="Unix socket"):
                client.scan_fd(0)
            assert client.scan("/a").scored
        asyncio.run(together(daemon.address))


def test_a_file_is_passed_again_after_a_restart_but_not_over_tcp(tmp_path: Path) -> None:
    seen: list[Request] = []

    def closes_first(request: Request) -> list[dict[str, Any]] | None:
        seen.append(request)
        return None if len(seen) % 2 else answer(request)

    async def together(address: str, descriptor: int) -> str:
        async with AsyncClient(address) as client:
            return (await client.scan_fd(descriptor, "/a")).path

    with Path(__file__).open("rb") as file:
        with FakeDaemon(tmp_path / "d.sock", closes_first) as daemon:
            with Client(daemon.address) as client:
                assert client.scan_fd(file.fileno(), "/a").path == "/a"
            assert asyncio.run(together(daemon.address, file.fileno())) == "/a"
        with FakeDaemon(None) as second:
            first = FakeDaemon(tmp_path / "a.sock", lambda _: first.__exit__())
            places = [first.address, second.address]
            with Client(places) as client, pytest.raises(ConnectionLost, match="Unix socket only"):
                client.scan_fd(file.fileno(), "/a")


class _Full(FakeDaemon):
    """Takes no connection at first, and says so."""

    def __init__(self, path: Path, turns: int, after: float = 0.01) -> None:
        self._turns, self._after = turns, after
        super().__init__(path)

    def _serve(self, connection: socket.socket) -> None:
        if self._turns == 0:
            return super()._serve(connection)
        self._turns -= 1
        busy = {"status": "refused", "error": {"code": "busy", "message": "too many connections"}}
        with connection:
            connection.sendall(json.dumps({"id": None, **busy, "retry_after": self._after}).encode() + b"\n")
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):  # as the daemon does: closing over an unread request resets the connection
                pass
        return None


def test_a_daemon_that_takes_no_connection_for_now_is_tried_again_when_it_said(tmp_path: Path) -> None:
    paths = [f"/{number}" for number in range(100)]

    async def together(address: str) -> list[str]:
        async with AsyncClient(address) as client:
            return [reply.path for reply in await asyncio.gather(*map(client.scan, paths)) if reply.scored]

    with _Full(tmp_path / "d.sock", 5) as daemon, Client(daemon.address) as client:
        assert sorted(reply.path for reply in client.scan_many(paths) if reply.scored) == sorted(paths)
    with _Full(tmp_path / "e.sock", 5) as daemon:
        assert asyncio.run(together(daemon.address)) == paths


@pytest.mark.parametrize(("after", "patience"), [(0.01, 0), (100, 1)])
def test_a_daemon_that_takes_no_connection_has_refused(tmp_path: Path, after: float, patience: float) -> None:
    async def together(address: str) -> str:
        async with AsyncClient(address, patience=patience) as client:
            return (await client.scan("/a")).code

    with _Full(tmp_path / "d.sock", 2, after) as daemon:
        with Client(daemon.address, patience=patience) as client:
            assert client.scan("/a").code == "busy"
        assert asyncio.run(together(daemon.address)) == "busy"


def test_patience_ends(tmp_path: Path) -> None:
    def respond(request: Request) -> list[dict[str, Any]]:
        return [failed("/a", "refused", "busy") | {"retry_after": 30}]

    async def once(address: str) -> str:
        async with AsyncClient(address, patience=1) as client:
            return (await client.scan("/a")).code

    with FakeDaemon(tmp_path / "d.sock", respond) as daemon:
        with Client(daemon.address, patience=1) as client:
            assert (client.scan("/a").code, client.scan("/a").retry_after) == ("busy", 30)
        assert asyncio.run(once(daemon.address)) == "busy"
        assert len(daemon.requests) == 3


def _closes_once_at(path: str) -> Callable[[Request], list[dict[str, Any]] | None]:
    closed = threading.Event()

    def respond(request: Request) -> list[dict[str, Any]] | None:
        if request.get("path") == path and not closed.is_set():
            closed.set()
            return None
        return answer(request)

    return respond


def test_a_restart_in_the_middle_loses_and_doubles_nothing(tmp_path: Path) -> None:
    paths = [f"/{number}" for number in range(300)]

    async def together(address: str) -> list[str]:
        async with AsyncClient(address) as client:
            return [reply.path for reply in await asyncio.gather(*map(client.scan, paths))]

    with FakeDaemon(tmp_path / "d.sock", _closes_once_at("/150")) as daemon, Client(daemon.address) as client:
        assert sorted(reply.path for reply in client.scan_many(paths)) == sorted(paths)
    with FakeDaemon(tmp_path / "e.sock", _closes_once_at("/150")) as daemon:
        assert asyncio.run(together(daemon.address)) == paths


def test_a_series_cut_in_its_middle_is_not_asked_again(tmp_path: Path) -> None:
    """Its first entries are with the caller already: a second try would give them twice."""

    def respond(request: Request) -> list[dict[str, Any]] | None:
        return [scored("/in/1/a")] if request.get("path") == "/in" else None

    with FakeDaemon(tmp_path / "d.sock", respond) as daemon, Client(daemon.address) as client:
        replies = client.scan_many(["/in", "/gone"])
        assert next(replies).path == "/in/1/a"
        with pytest.raises(ConnectionLost, match="in the middle of /in"):
            next(replies)


def test_the_first_daemon_that_answers_is_taken(daemon: FakeDaemon, tmp_path: Path) -> None:
    places = [f"unix:{tmp_path}/none.sock", daemon.address]
    with Client(places) as client:
        assert client.scan("/a").scored
        assert client.address == daemon.address
    assert Client(",".join(places)).ready()["ready"]
    assert asyncio.run(AsyncClient(places).scan("/a")).scored


def test_another_daemon_takes_over(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path / "b.sock") as second:
        first = FakeDaemon(tmp_path / "a.sock", lambda request: first.__exit__())
        with Client([first.address, second.address]) as client:
            assert client.address == first.address
            assert client.scan("/a").scored
            assert client.address == second.address


async def scan_once(address: str, options: Options) -> None:
    await AsyncClient(address, options=options).scan("/a")


def test_a_silent_daemon_is_given_up_where_there_is_no_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nsfwd.client.core.LONGEST_SILENCE", 0.05)
    options = Options(lane="background")
    with FakeDaemon(tmp_path / "d.sock", lambda _: []) as daemon:
        with pytest.raises(ConnectionLost, match=r"said nothing for 0\.05 s"):
            Client(daemon.address, options=options).scan("/a")
        with pytest.raises(ConnectionLost, match=r"said nothing for 0\.05 s"):
            Client(daemon.address, options=options).stats()
        with pytest.raises(ConnectionLost, match=r"said nothing for 0\.05 s"):
            asyncio.run(scan_once(daemon.address, options))


def test_a_deadline_beyond_what_a_poll_takes_is_left_to_the_daemon(daemon: FakeDaemon) -> None:
    with Client(daemon.address, options=Options(deadline=1e9)) as client:
        assert client.scan("/a").scored
    assert daemon.requests[-1]["deadline"] == 1e9


def test_a_daemon_silent_beyond_the_deadline_is_stalled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nsfwd.client.core.GRACE", 0.05)
    options = Options(deadline=0.05)

    with FakeDaemon(tmp_path / "d.sock", lambda _: []) as daemon:
        with pytest.raises(ConnectionLost, match=r"said nothing for 0\.1 s"):
            Client(daemon.address, options=options).scan("/a")
        with pytest.raises(ConnectionLost, match=r"said nothing for 0\.1 s"):
            asyncio.run(scan_once(daemon.address, options))


def test_images_of_the_caller_among_paths(daemon: FakeDaemon) -> None:
    with Client(daemon.address) as client:
        replies = list(client.scan_many([Encoded(b"abc", "mine"), "/a", Encoded(b"", "empty")]))
    assert [reply.path for reply in replies] == ["mine", "/a", "empty"]
    assert daemon.bodies == [b"abc", b""]
