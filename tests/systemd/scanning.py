"""Steps of the trial: a nightly sweep by its timer, a quarantine with its drop-in, a watch, a spool that is killed."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

from tests.systemd.hands import PICTURES, SOCKET, active, ask, sh, show, wait, write_picture

STEPS: list[Callable[[], None]] = []

JOBS = Path("/etc/nsfwd/sweep.d")
INDEX = Path("/var/lib/nsfwd/index.db")
QUARANTINE = Path("/var/lib/nsfwd/quarantine")
SPOOL = Path("/var/spool/nsfwd")
TREE = PICTURES / "uploads"
STRANGER = 12345
"""A user who is neither root nor the daemon's."""


def step(function: Callable[[], None]) -> Callable[[], None]:
    STEPS.append(function)
    return function


def job(name: str, **values: object) -> None:
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    (JOBS / f"{name}.toml").write_text("\n".join(lines) + "\n", "utf-8")


def rows(query: str) -> list[tuple[object, ...]]:
    index = sqlite3.connect(f"file:{INDEX}?mode=ro", uri=True)
    try:
        return index.execute(query).fetchall()
    except sqlite3.OperationalError:
        return []  # it is being made
    finally:
        index.close()


def theirs(name: str, *, mode: int = 0o640) -> Path:
    """A picture of a user whose files the daemon may not open."""
    path = TREE / name
    write_picture(path)
    os.chown(path, STRANGER, STRANGER)
    path.chmod(mode)
    return path


def verdict() -> str:
    return str(ask(SOCKET, {"path": str(PICTURES / "one.png")})["verdict"])


def drop_in(unit: str, text: str, name: str = "quarantine") -> None:
    directory = Path(f"/run/systemd/system/{unit}.d")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.conf").write_text(text, "utf-8")
    sh("systemctl daemon-reload")


@step
def nightly_sweep() -> None:
    """A timer sweeps a job; the index is the daemon's user's, and root reads it where it looks first."""
    TREE.mkdir(exist_ok=True)
    write_picture(TREE / "ours.png")
    job("nightly", directories=[str(TREE)], exclude=["*.tmp"], until="23:59")
    drop_in("nsfwd-sweep@nightly.timer", "[Timer]\nOnCalendar=\nOnActiveSec=1\nRandomizedDelaySec=0\n", "soon")
    sh("systemctl start nsfwd-sweep@nightly.timer")
    wait(lambda: INDEX.exists() and bool(rows("SELECT 1 FROM run WHERE why = 'finished'")), "a sweep")
    wait(lambda: show("ActiveState", "nsfwd-sweep@nightly.service") == "inactive", "its end")
    assert show("Result", "nsfwd-sweep@nightly.service") == "success"
    assert sh(f"stat -c '%U %a' {INDEX}") == "nsfwd 600"
    assert str(TREE) in sh("nsfwd index list")
    sh("systemctl stop nsfwd-sweep@nightly.timer")
    job("wrong", directories=[str(TREE)], exlude=[])
    assert "exit 1" in sh("systemctl start nsfwd-sweep@wrong.service 2>/dev/null || echo exit $?")
    assert show("ExecMainStatus", "nsfwd-sweep@wrong.service") == "78"
    assert 'unknown key "exlude"' in sh("journalctl -b -u nsfwd-sweep@wrong.service --no-pager -o cat")


@step
def quarantine_needs_its_drop_in() -> None:
    """Trees are read-only until a drop-in names them; then files of any owner are taken, and come back as they were."""
    path = theirs("theirs.png")
    before = path.stat()
    job(
        "nightly", directories=[str(TREE)], action=["quarantine"], on=[verdict()], apply=True, max_share=100, again=True
    )
    assert "exit 1" in sh("systemctl start nsfwd-sweep@nightly.service 2>/dev/null || echo exit $?")
    assert show("ExecMainStatus", "nsfwd-sweep@nightly.service") == "74"
    assert "Read-only file system" in sh("journalctl -b -u nsfwd-sweep@nightly.service --no-pager -o cat")
    assert path.exists() and (TREE / "ours.png").exists()
    text = Path("/checkout/systemd/nsfwd-quarantine.conf").read_text("utf-8")
    drop_in("nsfwd-sweep@nightly.service", text.replace("/srv/pictures", str(TREE)))
    sh("systemctl start nsfwd-sweep@nightly.service")
    assert not path.exists() and not (TREE / "ours.png").exists()
    assert sh(f"stat -c '%U %a' {QUARANTINE}") == "nsfwd 700"
    assert "exit" in sh(f"runuser -u nobody -- ls {QUARANTINE} 2>/dev/null || echo exit")
    assert str(path) in sh("nsfwd restore --list")
    sh(f"nsfwd restore {path} {TREE}/ours.png --verdict safe --apply")
    wait(lambda: ask(SOCKET, {"path": f"{TREE}/ours.png"})["verdict"] == "safe", "the daemon knows what was decided")
    after = path.stat()
    assert [after.st_uid, after.st_gid, after.st_mode, after.st_mtime_ns] == [
        before.st_uid, before.st_gid, before.st_mode, before.st_mtime_ns,
    ]  # fmt: skip
    sh("systemctl start nsfwd-sweep@nightly.service")
    assert path.exists(), "a restored file was taken again"


@step
def watched() -> None:
    """A watch is ready when it sees, takes what comes, tells its status, and ends in order."""
    unit = "nsfwd-watch@uploads.service"
    job("uploads", directories=[str(TREE)], action=["log"], on=[verdict()])
    sh(f"systemctl start {unit}")
    path = theirs("coming.png", mode=0o600)
    path.rename(TREE / "came.png")
    wait(lambda: bool(rows("SELECT 1 FROM file WHERE name = CAST('came.png' AS BLOB)")), "the file is noticed")
    assert rows("SELECT code FROM file WHERE name = CAST('came.png' AS BLOB)") == [("permission",)]
    theirs("open.png", mode=0o644)
    wait(lambda: "open.png" in sh(f"journalctl -b -u {unit} --no-pager -o cat"), "it is logged")
    wait(lambda: "directories" in show("StatusText", unit), "a status")
    sh(f"systemctl stop {unit}")
    assert show("Result", unit) == "success"


@step
def spooled() -> None:
    """A list renamed into the spool is answered, through a kill, with a line for each path and none twice."""
    sh("systemctl start nsfwd-spool.path")
    number = 20_000
    (SPOOL / "tmp" / "all").write_text(f"{PICTURES}/one.png\n" * number, "utf-8")
    (SPOOL / "tmp" / "all").rename(SPOOL / "in" / "all.list")
    result, done = SPOOL / "out" / "all.ndjson", SPOOL / "out" / "all.done"
    wait(lambda: result.exists() and result.stat().st_size > 0, "a result")
    main = int(show("MainPID", "nsfwd-spool.service"))
    assert main and not done.exists(), "it was over before it could be killed"
    os.kill(main, signal.SIGKILL)
    wait(done.exists, "the job's end")
    lines = result.read_bytes().splitlines()
    assert sorted(json.loads(line)["id"] for line in lines) == list(range(number))
    assert json.loads(done.read_text())["ok"] == number
    wait(lambda: not active("nsfwd-spool.service"), "the service's end")
    assert not list((SPOOL / "in").iterdir())
    assert sh(f"stat -c '%U %G %a' {result}") == "nsfwd nsfwd 640"
    sh("systemctl stop nsfwd-spool.path")
