"""What ``--listen`` accepts, and how sockets are opened, merged, refused and removed."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsfwd.errors import ListenError
from nsfwd.protocol.messages import Lane, Style
from nsfwd.server.listen_spec import Family, ListenAddress, by_name, parse
from nsfwd.server.listeners import Listener, close_all, inherited_listeners, open_listeners
from nsfwd.server.peer_credentials import identify, lower_lane

NOWHERE = "tcp:127.0.0.1:0"


@pytest.mark.parametrize(
    ("text", "address", "style", "lane"),
    [
        ("tcp:127.0.0.1:1235", ListenAddress(Family.TCP, "127.0.0.1", 1235), Style.SESSION, Lane.INTERACTIVE),
        ("tcp:[::1]:1235,style=plain", ListenAddress(Family.TCP, "::1", 1235), Style.PLAIN, Lane.NORMAL),
        ("tcp:*:7,style=oneshot,lane=background", ListenAddress(Family.TCP, "", 7), Style.ONESHOT, Lane.BACKGROUND),
        ("unix:/run/nsfwd.sock", ListenAddress(Family.UNIX, path="/run/nsfwd.sock"), Style.PLAIN, Lane.NORMAL),
    ],
)
def test_addresses(text: str, address: ListenAddress, style: Style, lane: Lane) -> None:
    spec = parse(text)
    assert (spec.address, spec.style, spec.lane) == (address, style, lane)
    assert parse(str(spec.address)).address == address


def test_options() -> None:
    spec = parse("unix:/x,mode=0600,color=yes,style=session,style=oneshot")
    assert (spec.mode, spec.colour, spec.style) == (0o600, True, Style.ONESHOT)


@pytest.mark.parametrize(
    "text",
    [
        "", "127.0.0.1:1235", "tcp:127.0.0.1", "tcp:127.0.0.1:x", "tcp:127.0.0.1:65536", "tcp:::1:1235", "unix:",
        "unix:@name", "unix:/" + "x" * 107, "tcp:localhost:1,mode=0600", "unix:/x,mode=9", "unix:/x,style=loud",
        "unix:/x,lane=fast", "unix:/x,color=maybe", "unix:/x,colur=yes", "http:localhost:80",
    ],
)  # fmt: skip
def test_wrong_spellings_are_refused_with_one_line(text: str) -> None:
    with pytest.raises(ListenError) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_descriptor_names_choose_style_and_lane() -> None:
    tcp = ListenAddress(Family.TCP, "127.0.0.1", 1)
    assert by_name("nsfwd.socket", tcp).style is Style.SESSION
    assert by_name("nsfwd-oneshot.socket", tcp).style is Style.ONESHOT
    spec = by_name("plain-background", tcp)
    assert (spec.style, spec.lane) == (Style.PLAIN, Lane.BACKGROUND)


def test_a_request_may_lower_its_lane_and_never_raise_it() -> None:
    assert lower_lane(Lane.NORMAL, None) is Lane.NORMAL
    assert lower_lane(Lane.NORMAL, Lane.INTERACTIVE) is Lane.NORMAL
    assert lower_lane(Lane.NORMAL, Lane.BACKGROUND) is Lane.BACKGROUND


@pytest.fixture
def unix(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/s"


def opened(*texts: str, inherited: list[Listener] | None = None, roots: bool = False) -> list[Listener]:
    return open_listeners(texts, inherited or [], NOWHERE, roots=roots)


@pytest.fixture
def live(unix: str) -> Iterator[Listener]:
    [listener] = opened(unix)
    yield listener
    listener.close()


def test_a_unix_socket_has_its_mode_and_is_removed_at_the_end(unix: str) -> None:
    [listener] = opened(unix + ",mode=0640")
    path = Path(unix.removeprefix("unix:"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    listener.close()
    listener.close()
    assert not path.exists()


def test_a_socket_put_there_by_a_successor_is_left_alone(unix: str, live: Listener) -> None:
    path = Path(unix.removeprefix("unix:"))
    path.rename(path.with_name("old"))
    path.touch()
    live.close()
    assert path.exists()


def test_a_live_daemon_is_not_replaced(unix: str, live: Listener) -> None:
    with pytest.raises(ListenError, match="in use by another daemon"):
        opened(unix)
    assert Path(unix.removeprefix("unix:")).exists()


def test_a_stale_socket_is_replaced(unix: str) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(unix.removeprefix("unix:"))
    close_all(opened(unix))


def test_a_file_that_is_no_socket_is_never_removed(unix: str) -> None:
    path = Path(unix.removeprefix("unix:"))
    path.write_text("precious")
    with pytest.raises(ListenError, match="not a socket"):
        opened(unix)
    assert path.read_text() == "precious"


def test_a_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match="directory does not exist"):
        opened(f"unix:{tmp_path}/nowhere/s")


def test_a_socket_that_cannot_be_given_its_mode_leaves_no_file(unix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refused)
    with pytest.raises(ListenError):
        opened(unix)
    assert not Path(unix.removeprefix("unix:")).exists()


def test_a_busy_port_closes_what_was_opened(unix: str) -> None:
    [first] = opened(NOWHERE)
    with pytest.raises(ListenError, match="in use by another program"):
        opened(unix, str(first.spec.address))
    assert not Path(unix.removeprefix("unix:")).exists()
    first.close()


def test_the_default_counts_only_where_nothing_else_is_named(unix: str) -> None:
    [default] = opened()
    [only] = opened(unix)
    [inherited] = opened(inherited=[default])
    assert default.spec.address.port > 0
    assert only.spec.address.family is Family.UNIX
    assert inherited is default
    close_all([default, only])


def test_configured_options_win_over_a_descriptor_name() -> None:
    [first] = opened(NOWHERE)
    [merged] = opened(f"{first.spec.address},style=oneshot", inherited=[first])
    assert merged.sock is first.sock
    assert merged.spec.style is Style.ONESHOT
    merged.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "*"])
def test_other_machines_need_roots(host: str) -> None:
    with pytest.raises(ListenError, match="--root"):
        opened(f"tcp:{host}:0")
    close_all(opened(f"tcp:{host}:0", roots=True))


def test_inherited_sockets_open_to_other_machines_need_roots_too() -> None:
    listeners = opened("tcp:0.0.0.0:0", roots=True)
    with pytest.raises(ListenError, match="--root"):
        opened(inherited=listeners)


def test_descriptors_are_inherited_only_when_meant_for_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        spare = os.dup(server.fileno())
        monkeypatch.setattr("nsfwd.server.listeners.FIRST_INHERITED", spare)
        mine = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "plain"}
        assert inherited_listeners(mine | {"LISTEN_PID": "1"}) == []
        [listener] = inherited_listeners(mine)
    assert listener.inherited and listener.spec.style is Style.PLAIN
    assert not os.get_inheritable(spare)
    assert mine == {}
    listener.close()


def test_an_inherited_descriptor_that_does_not_listen_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = socket.socketpair()
    monkeypatch.setattr("nsfwd.server.listeners.FIRST_INHERITED", one.detach())
    with other, pytest.raises(ListenError, match="not a listening stream socket"):
        inherited_listeners({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"})


def test_sockets_that_were_inherited_are_closed_when_a_later_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wrong:
        first = 600  # far above those that are open, so that the two stand side by side
        os.dup2(server.fileno(), first)
        os.dup2(wrong.fileno(), first + 1)
    monkeypatch.setattr("nsfwd.server.listeners.FIRST_INHERITED", first)
    with pytest.raises(ListenError, match="descriptor 601") as refused:
        inherited_listeners({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"})
    for descriptor in (first, first + 1):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
    assert refused.tb is not None, "its frames keep no socket open"


def test_the_daemons_own_user_is_admin_over_unix_only() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert identify(one).admin
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        with accepted:
            peer = identify(accepted)
        assert not peer.admin
        assert peer.name == "{}:{}".format(*client.getsockname())
