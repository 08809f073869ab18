"""Steps of the trial: a nightly sweep by its timer, and a quarantine with its drop-in."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

from tests.systemd.hands import PICTURES, SOCKET, ask, sh, show, wait, write_picture

STEPS: list[Callable[[], None]] = []

JOBS = Path("/etc/nsfwd/sweep.d")
INDEX = Path("/var/lib/nsfwd/index.db")
QUARANTINE = Path("/var/lib/nsfwd/quarantine")
TREE = PICTURES / "uploads"


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
    """Trees are read-only until a drop-in names them; then an alarm is taken into a directory that is closed."""
    path = TREE / "ours.png"
    job("nightly", directories=[str(TREE)], action=["quarantine"], on=[verdict()], apply=True, max_share=100)
    assert "exit 1" in sh("systemctl start nsfwd-sweep@nightly.service 2>/dev/null || echo exit $?")
    assert show("ExecMainStatus", "nsfwd-sweep@nightly.service") == "74"
    assert "Read-only file system" in sh("journalctl -b -u nsfwd-sweep@nightly.service --no-pager -o cat")
    assert path.exists()
    text = Path("/checkout/systemd/nsfwd-quarantine.conf").read_text("utf-8")
    drop_in("nsfwd-sweep@nightly.service", text.replace("/srv/pictures", str(TREE)))
    sh("systemctl start nsfwd-sweep@nightly.service")
    assert not path.exists()
