"""Steps of the trial: a table of peers, asked by other users over the socket that systemd holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.systemd.hands import PICTURES, SOCKET, UNIT, ask, sh, show, wait, write_picture

STEPS: list[Callable[[], None]] = []

Request = dict[str, object]

SETTINGS = Path("/etc/nsfwd/nsfwd.toml")
MAIL = PICTURES / "mail"
ONE = PICTURES / "one.png"
USERS = ("postman", "phper", "stranger")

ROWS = f"""
[[peers]]
name = "mail"
uid = "postman"
roots = ["{MAIL}"]
lane = "background"
in_flight = 2

[[peers]]
name = "web"
gid = ["www-test"]
rate = 0.001
connections = 1

[[peers]]
name = "others"
connections = 0
"""

CLIENT = """
import json, socket, sys
held = []
for requests in json.load(sys.stdin):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(60)
    sock.connect(sys.argv[1])
    held.append(sock)
    lines = sock.makefile("rwb")
    try:
        lines.write(b"".join(json.dumps(one).encode() + b"\\n" for one in requests))
        lines.flush()
    except OSError:
        pass  # refused at once: the reason is there to be read
    for _ in requests:
        sys.stdout.write(lines.readline().decode())
"""
"""Asks over one connection for each list of requests; all stay open until the last is answered."""


def step(function: Callable[[], None]) -> Callable[[], None]:
    STEPS.append(function)
    return function


def ask_as(user: str, *connections: list[Request]) -> list[str]:
    """The outcome of each request of another user: the status, or the code where there is one."""
    Path("/run/asking.py").write_text(CLIENT, "utf-8")
    Path("/run/questions.json").write_text(json.dumps(connections), "utf-8")
    lines = sh(f"runuser -u {user} -- python3 /run/asking.py {SOCKET} </run/questions.json").splitlines()
    return [reply["error"]["code"] if "error" in reply else reply["status"] for reply in map(json.loads, lines)]


def of(row: str) -> dict[str, int]:
    numbers: dict[str, int] = ask(SOCKET, {"op": "stats"})["peers"][row]  # type: ignore[index]  # JSON
    return numbers


@step
def peers() -> None:
    """Rows by user and by group hold for other users; nobody locks himself out; a wrong table leaves the old one."""
    before = SETTINGS.read_text("utf-8")
    MAIL.mkdir(exist_ok=True)
    write_picture(MAIL / "letter.png")
    sh("getent group www-test || groupadd www-test")
    for user in USERS:
        sh(f"id {user} || useradd {user}; usermod --groups nsfwd{',www-test' if user == 'phper' else ''} {user}")
    SETTINGS.write_text(before + ROWS, "utf-8")
    assert "others" not in sh("nsfwd config check")
    main = show("MainPID")
    try:
        for _ in range(2):  # with the table in force as well
            sh(f"systemctl reload {UNIT}")
        who_is_who()
        what_is_told()
        SETTINGS.write_text(before + ROWS.replace("postman", "nobody-of-that-name"), "utf-8")
        assert "exit 1" in sh(f"systemctl reload {UNIT} 2>/dev/null || echo exit $?")
        assert ask_as("stranger", [{"op": "ping"}]) == ["not_permitted"]
    finally:
        SETTINGS.write_text(before, "utf-8")
        sh(f"systemctl reload {UNIT}")
    assert ask_as("stranger", [{"op": "ping"}]) == ["ok"]
    assert show("MainPID") == main


def who_is_who() -> None:
    """Each user gets what his row says, and root, whom no row names, is kept out by none."""
    letter: Request = {"path": f"{MAIL}/letter.png"}
    one: Request = {"path": str(ONE)}
    assert sorted(ask_as("postman", [letter] * 40 + [one])) == ["forbidden"] + ["ok"] * 40
    assert ask_as("phper", [one, one, {"op": "ping"}]).count("busy") == 1
    wait(lambda: of("web")["connections"] == 0, "it has left")
    assert ask_as("phper", [{"op": "ping"}], [{"op": "ping"}]) == ["ok", "busy"]
    assert ask_as("stranger", [one]) == ["not_permitted"]
    assert ask(SOCKET, one)["status"] == "ok"
    sh("nsfwd ready")
    wait(lambda: not any(of(row)["connections"] for row in ("mail", "web")), "they have left")


def what_is_told() -> None:
    """Stats, metrics and journal know the rows; so does the command that explains a denial."""
    assert of("mail") == {"connections": 0, "in_flight": 0, "requests": 41, "limited": 0, "denied": 0}
    assert (of("web")["limited"], of("web")["denied"], of("others")["denied"]) == (1, 1, 1)
    assert '\nnsfwd_peer_denied_total{peers="others"} 1.0\n' in sh("curl -s http://127.0.0.1:9235/metrics")
    sh("journalctl --sync")
    assert "requests 41" in sh("journalctl -u nsfwd NSFWD_PEERS=mail --no-pager -o cat")
    assert "not let this peer ask" in sh("journalctl -u nsfwd NSFWD_PEERS=others --no-pager -o cat")
    check = "nsfwd config check --as nsfwd --peers mail"
    assert "may open it" in sh(f"{check} {MAIL}/letter.png")
    assert "row mail of peers" in sh(f"{check} {ONE}", check=False)
