"""The table of peers: who matches which row, and what a row allows."""

from __future__ import annotations

import asyncio
import grp
import heapq
import ipaddress
import logging
import os
import pwd
import re
import socket
import struct
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import uvloop

from nsfwd import logs
from nsfwd.config import Settings, load_settings
from nsfwd.config.peers import PeerRow, read_peers
from nsfwd.errors import CodedError, SettingsError
from nsfwd.protocol.limits import WINDOW
from nsfwd.protocol.messages import Lane, Style
from nsfwd.server.acceptor import Acceptor
from nsfwd.server.context import ServerContext
from nsfwd.server.listen_spec import parse
from nsfwd.server.listeners import close_all, open_listeners
from nsfwd.server.peer_credentials import Peer, identify
from nsfwd.server.quotas import LATENESS, LONGEST_WAIT, ConnectionQuota, Quotas, TokenBucket
from tests.unit.test_connection import FakePipeline, Talk, hold_conversation, turns


def rows(*tables: dict[str, Any]) -> tuple[PeerRow, ...]:
    return read_peers(list(tables))


def others(**limits: Any) -> tuple[PeerRow, ...]:
    return (PeerRow(name="others", **limits),)


def user(uid: int, *gids: int) -> Peer:
    return Peer("someone", "someone", False, pid=1, uid=uid, gids=frozenset(gids))


def host(address: str) -> Peer:
    return Peer(address, address, False, address=ipaddress.ip_address(address))


# -- the table in the configuration ----------------------------------------------------------------------------------


def test_names_are_looked_up_and_numbers_taken() -> None:
    me, group = pwd.getpwuid(os.getuid()), grp.getgrgid(os.getgid())
    [row] = rows({"name": "a", "uid": [me.pw_name, 12, "13"], "gid": group.gr_name, "address": "192.0.2.0/24"})
    assert row.uids() == {me.pw_uid, 12, 13}
    assert row.gids() == {group.gr_gid}
    assert row.networks() == (ipaddress.ip_network("192.0.2.0/24"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('uid = "no-such-user"', "row 1 (x): unknown user 'no-such-user'"),
        ('gid = ["no-such-group"]', "row 1 (x): unknown group 'no-such-group'"),
        ("uid = -1", "row 1 (x): invalid number of a user: -1"),
        ('address = "192.0.2.1/24"', "row 1 (x): address: 192.0.2.1/24 has host bits set"),
        ('address = "example"', "row 1 (x): address: 'example' does not appear to be an IPv4 or IPv6 network"),
        ("", "row 1 (x): it needs a uid, gid or address"),
        ('uid = 1\nlane = "fast"', "row 1: invalid enum value 'fast' at lane"),
        ("uid = 1\nrate = 0", "row 1: expected float > 0.0 at rate"),
        ("uid = 1\nrate = inf", "row 1 (x): the rate must be finite"),
        ("uid = 1\nin_flight = 0", "row 1: expected int >= 1 at in_flight"),
        ("uid = 1\nconections = 3", "row 1: object contains unknown field conections"),
        ('uid = 1\nroots = ["here"]', "row 1 (x): 'here': a root must be an absolute path"),
        ('uid = 1\nroots = ["/etc"]', "row x: /etc is below none of the daemon's roots (/srv)"),
        ('uid = 1\nroots = ["/srv/../etc"]', "row x: /srv/../etc is below none"),
        ('uid = 1\n[[peers]]\nname = "x"\nuid = 2', "row 2: the name x is used twice"),
        ('uid = 1\n[[peers]]\nname = "others"\nuid = 2', "row 2 (others): this row is for all other peers"),
        ('uid = 1\n[[peers]]\nname = "others"\n[[peers]]\nname = "y"\nuid = 2', "row 2 (others): this row is for"),
    ],
)
def test_what_is_wrong_names_the_row(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "nsfwd.toml"
    file.write_text(f'roots = ["/srv"]\n[[peers]]\nname = "x"\n{text}\n')
    with pytest.raises(SettingsError) as caught:
        load_settings(file, {})
    assert str(caught.value).startswith(f"{file}, key peers: {message}")


def test_roots_may_lie_below_the_daemons_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "real" / "mail").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    file = tmp_path / "nsfwd.toml"
    file.write_text(
        f'roots = ["{tmp_path}/link"]\n[[peers]]\nname = "mail"\nuid = 1\nroots = ["{tmp_path}/real/mail"]\n'
    )
    [row] = load_settings(file, {}).peers
    assert row.roots == (f"{tmp_path}/real/mail",)


def test_the_document_has_every_key_and_its_example_is_good(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8").partition("\n## Peers\n")[2]
    table = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text.partition("\n## ")[0], re.MULTILINE))
    hints = get_type_hints(PeerRow, include_extras=True)
    assert table == {name: hint.__metadata__[0].description for name, hint in hints.items() if name != "for_all"}
    example = text.partition("```toml\n")[2].partition("```")[0]
    example = example.replace('uid = "mail"', "uid = 1").replace('["www-data", "php"]', "[2, 3]")  # of another machine
    file = tmp_path / "nsfwd.toml"
    file.write_text(example)
    assert [row.name for row in load_settings(file, {}).peers] == ["mail", "web", "office", "others"]


# -- who matches -----------------------------------------------------------------------------------------------------


def test_the_first_row_that_matches_counts_and_others_are_for_the_rest() -> None:
    table = rows(
        {"name": "boss", "uid": 7},
        {"name": "staff", "gid": [50, 51], "address": ["192.0.2.0/24", "2001:db8::/32"]},
        {"name": "one", "address": "192.0.2.9"},
    )
    quotas = Quotas(table, lambda: 0.0)
    for peer, name in (
        (user(7, 50), "boss"),
        (user(8, 50), "staff"),
        (user(8, 3), "others"),
        (host("192.0.2.9"), "staff"),
        (host("2001:db8::1"), "staff"),
        (host("127.0.0.1"), "others"),
        (Peer("local", "local", False), "others"),
    ):
        assert quotas.find(peer).name == name


def test_a_table_for_some_keeps_out_nobody_who_may_reload_it_unless_by_name() -> None:
    table = rows({"name": "root", "uid": 0, "connections": 0}, {"name": "others", "connections": 0})
    quotas, own = Quotas(table, lambda: 0.0), os.getuid() or 4321
    for peer, kept_out in (
        (Peer("own", "own", True, pid=1, uid=own), False),
        (Peer("root", "root", True, pid=1, uid=0), True),
        (user(4322), True),
        (host("127.0.0.1"), True),
    ):
        group = quotas.find(peer)
        assert (group.full_for(peer), group.closed_to(peer)) == (kept_out, kept_out), peer.name
    busy = Quotas(others(connections=1), lambda: 0.0)
    busy.join(host("127.0.0.1"))
    assert busy.find(host("127.0.0.2")).full_for(host("127.0.0.2"))
    assert not busy.join(Peer("own", "own", True, pid=1, uid=own)).barred


def test_the_kernel_tells_user_and_groups_and_the_address() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = identify(theirs)
    assert (peer.pid, peer.uid) == (os.getpid(), os.getuid())
    assert {os.getgid(), *os.getgroups()} <= peer.gids
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        client = socket.create_connection(("127.0.0.1", server.getsockname()[1]))
        accepted, _ = server.accept()
        with client, accepted:
            peer = identify(accepted)
    assert peer.address == ipaddress.ip_address("127.0.0.1")
    assert peer.guard == "127.0.0.1"


class Accepted:
    """What ``identify`` asks of a socket, with the answers of the kernel."""

    def __init__(self, family: socket.AddressFamily, name: str = "", credentials: bytes = b"") -> None:
        self.family, self._name, self._credentials = family, name, credentials

    def getpeername(self) -> tuple[str, int, int, int]:
        return self._name, 1, 0, 0

    def getsockopt(self, _level: int, option: int, _size: int) -> bytes:
        return self._credentials if option == socket.SO_PEERCRED else b""


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True), ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False), ("::ffff:192.0.2.1", "::ffff:192.0.2.1", True),
    ],
)  # fmt: skip
def test_one_host_may_have_a_whole_network_of_64_bits(one: str, other: str, same: bool) -> None:
    first, second = (identify(Accepted(socket.AF_INET6, name)) for name in (one, other))  # type: ignore[arg-type]
    assert (first.guard == second.guard) is same
    assert (first.flow == second.flow) is same


def test_ids_of_users_may_need_all_32_bits() -> None:
    credentials = struct.pack("iII", 7, 4_000_000_000, 4_000_000_001)
    peer = identify(Accepted(socket.AF_UNIX, credentials=credentials))  # type: ignore[arg-type]
    assert (peer.uid, peer.guard) == (4_000_000_000, "uid 4000000000")
    assert 4_000_000_001 in peer.gids


# -- rate ------------------------------------------------------------------------------------------------------------


def test_a_bucket_allows_a_second_at_once_and_then_its_rate() -> None:
    bucket = TokenBucket(4.0, 0.0)
    assert [bucket.take(0.0) for _ in range(4)] == [0.0] * 4
    assert bucket.take(0.0) > 0
    assert bucket.take(0.26) == 0.0
    assert bucket.take(0.26) > 0
    assert [bucket.take(100.0) for _ in range(4)] == [0.0] * 4
    assert bucket.take(100.0) > 0, "what was not used is not saved up"


def test_refusals_take_nothing_however_many_there_are() -> None:
    bucket = TokenBucket(10.0, 0.0)
    while not bucket.take(0.0):
        pass
    assert {bucket.take(0.0) for _ in range(10_000)} == {0.1}
    assert bucket.take(0.11) == 0.0
    slow = TokenBucket(0.001, 0.0)
    assert slow.take(0.0) == 0.0
    assert slow.take(0.0) == LONGEST_WAIT


def refused_for(quota: ConnectionQuota) -> float:
    """Ask for an image; return 0 or the seconds after which to try again."""
    try:
        quota.spend()
    except CodedError as error:
        return error.retry_after or 0.0
    return 0.0


def test_each_refused_is_told_a_time_of_its_own() -> None:
    quota = Quotas(others(rate=10), lambda: 0.0).join(user(1))
    told = [wait for _ in range(60) if (wait := refused_for(quota))]
    assert len(told) == 50
    assert len(set(told)) == 50
    for place, wait in enumerate(told, 1):
        assert 0.1 * place <= wait + 0.001 and wait <= 0.1 * place * (1 + LATENESS) + 0.001


def test_one_that_does_not_wait_takes_few_of_the_turns() -> None:
    quotas = Quotas(others(rate=10), lambda: 0.0)
    impatient, patient = quotas.join(user(1)), quotas.join(user(2))
    for _ in range(10_000):
        refused_for(impatient)
    assert refused_for(patient) <= (WINDOW + 1) * 0.1 * (1 + LATENESS)


def test_who_waits_as_told_is_mostly_served() -> None:
    now = 0.0
    quotas = Quotas(others(rate=10), lambda: now)
    due = [(0.0, number, quotas.join(user(number))) for number in range(200)]  # a crowd that comes all at once
    tries = len(due)
    while due:
        now, number, quota = heapq.heappop(due)
        if wait := refused_for(quota):
            heapq.heappush(due, (now + wait, number, quota))
            tries += 1
    assert now < 200 / 10 * (1 + 2 * LATENESS), "nobody is told to wait for much longer than needed"
    assert tries < 2.5 * 200, "asked once, told once, and served then"


# -- reload ----------------------------------------------------------------------------------------------------------


def test_another_table_counts_for_who_is_connected_and_takes_over_the_numbers() -> None:
    quotas = Quotas(rows({"name": "a", "uid": 1, "in_flight": 1, "rate": 1}), lambda: 0.0)
    quota = quotas.join(user(1))
    quota.ask()
    quota.spend()
    quota.begin()
    woken: list[str] = []
    assert not quota.may_begin(lambda: woken.append("now"))
    quotas.take_up(rows({"name": "b", "uid": 1, "lane": "background"}))
    assert woken == ["now"]
    assert (quota.group.name, quota.group.lane) == ("b", Lane.BACKGROUND)
    assert quotas.stats()["b"] == {"connections": 1, "in_flight": 1, "requests": 0, "limited": 0, "denied": 0}
    quota.end()
    quotas.take_up(rows({"name": "a", "uid": 1, "rate": 1}))
    quota.leave()
    assert quotas.stats()["a"] == {"connections": 0, "in_flight": 0, "requests": 0, "limited": 0, "denied": 0}


def test_a_reload_gives_nobody_a_fresh_start() -> None:
    table = rows({"name": "a", "uid": 1, "rate": 1})
    quotas = Quotas(table, lambda: 0.0)
    quota = quotas.join(user(1))
    quota.ask()
    quota.spend()
    quotas.take_up(table)
    quota.ask()
    with pytest.raises(CodedError, match="more than 1 images a second"):
        quota.spend()
    assert quotas.stats()["a"] == {"connections": 1, "in_flight": 0, "requests": 2, "limited": 1, "denied": 0}


# -- conversations ---------------------------------------------------------------------------------------------------


def test_over_its_rate_a_request_is_refused_with_a_time_and_the_connection_lives_on() -> None:
    async def conversation(talk: Talk) -> None:
        await talk.send(
            {"id": 1, "path": "/a"}, {"id": 2, "path": "/b"}, {"id": 3, "bytes": 4}, b"1234", {"op": "ping"}
        )
        first, second, third, ping = [await talk.reply() for _ in range(4)]
        by_id = {reply.get("id"): reply for reply in (first, second, third, ping)}
        assert by_id[1]["status"] == "skipped"
        for number in (2, 3):
            assert by_id[number]["status"] == "refused"
            assert by_id[number]["error"]["code"] == "busy"
            assert by_id[number]["retry_after"] > 0
        assert by_id[2]["path"] == "/b"
        assert by_id[None]["op"] == "ping"
        assert talk.service.metrics.body_bytes == 0
        assert talk.service.quotas.stats()["others"]["limited"] == 2

    hold_conversation(conversation, peers=others(rate=0.001))


def test_a_series_goes_on_at_its_rate() -> None:
    async def conversation(talk: Talk) -> None:
        talk.pipeline.files = [b"%d" % number for number in range(1020)]
        await talk.send({"path": "/d/", "recursive": True})
        talk.half_close()
        done = (await talk.replies())[-1]
        assert (done["files"], done["refused"]) == (1020, 0)

    hold_conversation(conversation, peers=others(rate=1000))


def test_a_cancel_ends_a_series_that_waits_for_its_rate() -> None:
    async def conversation(talk: Talk) -> None:
        talk.pipeline.files = [b"1", b"2"]
        await talk.send({"id": 1, "path": "/d/", "recursive": True})
        await turns(lambda: talk.pipeline.named == 1)  # to find that it is a directory took what the rate allows
        await talk.send({"op": "cancel", "target": 1})
        assert {(await talk.reply())["status"] for _ in range(2)} == {"ok", "error"}

    hold_conversation(conversation, peers=others(rate=0.001))


@pytest.mark.parametrize("style", [Style.PLAIN, Style.SESSION])
def test_beyond_its_images_in_flight_requests_wait_unread(style: Style) -> None:
    async def conversation(talk: Talk) -> None:
        talk.pipeline.hold = True
        await talk.send(*({"id": number, "path": "/a"} for number in range(20)))
        talk.half_close()
        while not talk.closed.is_set():
            talk.pipeline.release(1)
            await asyncio.sleep(0)
        assert len(await talk.replies()) == 20
        assert talk.pipeline.most_waiting == 3
        assert talk.service.quotas.stats()["others"]["in_flight"] == 0

    hold_conversation(conversation, style, peers=others(in_flight=3))


def test_a_series_keeps_to_it_too_and_can_be_cancelled() -> None:
    async def conversation(talk: Talk) -> None:
        talk.pipeline.hold = True
        talk.pipeline.files = [b"%d" % number for number in range(9)]
        await talk.send({"id": 1, "path": "/d/"})
        await turns(lambda: len(talk.pipeline.waiting) == 2)
        await talk.send({"op": "cancel", "target": 1})
        replies = [await talk.reply() for _ in range(4)]
        assert next(reply for reply in replies if reply.get("done"))["error"]["code"] == "cancelled"
        assert talk.pipeline.most_waiting == 2

    hold_conversation(conversation, peers=others(in_flight=2))


def test_connections_of_a_row_share_what_it_allows_and_nobody_is_left_waiting() -> None:
    async def main() -> None:
        first = Talk(Style.PLAIN, socket.AF_UNIX, peers=others(in_flight=1))
        first.pipeline.hold = True
        talks = [first, *(Talk(Style.PLAIN, socket.AF_UNIX, service=first.service) for _ in range(4))]
        async with asyncio.timeout(10):
            for number, talk in enumerate(talks):
                await talk.send(*({"id": number, "path": "/a"} for _ in range(5)))
            await talks[0].send({"id": "tree", "path": "/d/", "recursive": True})
            first.pipeline.files = [b"1", b"2"]
            await turns(lambda: len(first.pipeline.waiting) == 1)
            talks[1].client.close()  # it vanishes with requests that wait
            for talk in (talks[0], *talks[2:]):
                talk.half_close()
            while not all(talk.closed.is_set() for talk in talks):
                first.pipeline.release()
                await asyncio.sleep(0)
            assert [len(await talk.replies()) for talk in (talks[0], *talks[2:])] == [8, 5, 5, 5]
        assert first.pipeline.most_waiting == 1
        used = first.service.quotas.stats()["others"]
        assert (used["connections"], used["in_flight"]) == (0, 0)
        for talk in talks:
            talk.client.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_lane_and_roots_reach_the_claim_and_no_request_raises_them() -> None:
    async def conversation(talk: Talk) -> None:
        await talk.send({"path": "/a", "lane": "interactive"}, {"path": "/a", "lane": "background"}, {"path": "/a"})
        talk.half_close()
        await talk.replies()
        assert [claim.lane for claim in talk.pipeline.claims] == [Lane.NORMAL, Lane.BACKGROUND, Lane.NORMAL]
        assert [claim.roots for claim in talk.pipeline.claims] == [(b"/srv/a",)] * 3

    hold_conversation(conversation, peers=others(lane="interactive", roots=("/srv/a",)))


def test_a_reload_counts_at_the_next_request_of_who_is_connected() -> None:
    async def conversation(talk: Talk) -> None:
        await talk.send({"path": "/a"})
        await talk.reply()
        talk.service.quotas.take_up(others(lane="background"))
        await talk.send({"path": "/a"})
        await talk.reply()
        assert [claim.lane for claim in talk.pipeline.claims] == [Lane.NORMAL, Lane.BACKGROUND]
        talk.service.quotas.take_up(others(connections=0))
        for request in ({"path": "/a"}, {"paths": ["/a"]}, {"op": "ping"}):
            await talk.send(request)
            assert (await talk.reply())["error"]["code"] == "not_permitted"
        assert len(talk.pipeline.claims) == 2

    hold_conversation(conversation)


# -- connecting ------------------------------------------------------------------------------------------------------


class Collector(logging.Handler):
    """Keeps events."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def test_connecting_leaving_and_being_refused_is_logged_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = rows({"name": "me", "uid": os.getuid(), "connections": 1}, {"name": "others", "connections": 0})

    async def main() -> dict[str, dict[str, int]]:
        loop = asyncio.get_running_loop()
        service = ServerContext(loop, Settings(peers=table), FakePipeline())
        listeners = open_listeners(["unix:" + str(tmp_path / "s"), "tcp:127.0.0.1:0"], [], "", roots=True)
        acceptor = Acceptor(listeners, service)
        acceptor.start()

        async def talk(address: Any, family: socket.AddressFamily, data: bytes = b"") -> bytes:
            with socket.socket(family) as sock:
                sock.setblocking(False)
                await loop.sock_connect(sock, address)
                if data:
                    await loop.sock_sendall(sock, data)
                return await loop.sock_recv(sock, 1000)

        async with asyncio.timeout(10):
            with socket.socket(socket.AF_UNIX) as first:
                first.setblocking(False)
                await loop.sock_connect(first, str(tmp_path / "s"))
                await loop.sock_sendall(first, b'{"path":"/a"}\n')
                await loop.sock_recv(first, 1000)
                refused = await talk(str(tmp_path / "s"), socket.AF_UNIX)
                assert b'"busy"' in refused and b'"retry_after"' in refused
                assert b'"not_permitted"' in await talk(listeners[1].sock.getsockname(), socket.AF_INET)
            await acceptor.empty.wait()
        assert service.metrics.connections_denied_total == 2
        acceptor.stop()
        close_all(listeners)
        return service.quotas.stats()

    collector = Collector()
    monkeypatch.setattr(logging.getLogger("nsfwd"), "handlers", [collector])
    monkeypatch.setattr(logging.getLogger("nsfwd"), "level", logging.INFO)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        stats = runner.run(main())
    assert stats["me"] == {"connections": 0, "in_flight": 0, "requests": 1, "limited": 0, "denied": 1}
    assert stats["others"]["denied"] == 1
    connected, busy, denied, left = collector.records
    me = {
        "peer_uid": os.getuid(),
        "peer_pid": os.getpid(),
        "peers": "me",
        "listener": parse(f"unix:{tmp_path}/s").address,
    }
    assert vars(connected)["fields"] == me
    assert vars(busy)["fields"] == me | {"reason": "more than 1 connections of its peers"}
    assert [vars(record)["burst"] for record in (busy, denied)] == [1, 1], "denied peers do not fill the log"
    assert str(vars(denied)["fields"]["peer_address"]) == "127.0.0.1"
    counts = {"reason": "done", "seconds": 0, "requests": 1, "limited": 0, "bytes_in": 14, "bytes_out": 0}
    assert vars(left)["fields"] | {"seconds": 0, "bytes_out": 0} == me | counts
    spelled = logs.JournalHandler(logging.NullHandler(), str(tmp_path / "none")).encode(left)
    assert b"NSFWD_PEER_UID\n" in spelled and b"NSFWD_REQUESTS\n" in spelled


def test_without_a_table_connections_are_no_events(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A health check connects every half a second; who may come is not what anybody wants to know there."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        listeners = open_listeners(["unix:" + str(tmp_path / "s")], [], "", roots=True)
        acceptor = Acceptor(listeners, ServerContext(loop, Settings(), FakePipeline()))
        acceptor.start()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, str(tmp_path / "s"))
            await loop.sock_sendall(sock, b'{"op":"ping"}\n')
            assert await loop.sock_recv(sock, 1000)
        await acceptor.empty.wait()
        acceptor.stop()

    caplog.set_level(logging.DEBUG, "nsfwd")
    asyncio.run(main())
    told = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in told] == [logging.DEBUG] * 2
    assert not any("peers" in text for _, text in told)


def test_a_flood_of_one_row_does_not_hide_what_another_does() -> None:
    coalescer = logs.Coalescer()

    def shown(kind: str) -> bool:
        record = logging.LogRecord("nsfwd.server", logging.INFO, "", 0, "%s connected", ("x",), None)
        vars(record).update(logs.fields(kind=kind))
        return coalescer.filter(record)

    assert [shown("flood") for _ in range(100)].count(True) == logs.BURST
    assert shown("mail")
