"""Runs inside the container, as root, under its systemd: install, use, break and remove nsfwd as an administrator does.

Uses the standard library and the installed program alone. Prints one line a step; the first failure ends it with the
journal of the unit.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from tests.systemd import peers, scanning
from tests.systemd.hands import (
    PICTURES,
    SOCKET,
    STEPS,
    UNIT,
    active,
    ask,
    documented,
    sh,
    show,
    step,
    wait,
    write_picture,
)


@step
def install() -> None:
    """The guide's commands install it; the bundle is one without a network."""
    first, *rest = documented("Install")
    assert first.startswith("make install"), first
    sh("make install WHAT=nsfwd PIPARGS='--no-deps --no-index --find-links wheels'")
    packages = os.environ["PYTHON_PACKAGES"]
    sh(f"/usr/local/lib/nsfwd/bin/python -m pip install --quiet --no-index --find-links wheels {packages}")
    for command in rest[:3]:
        sh(command)
    assert sh("getent passwd nsfwd")
    bundle("/var/lib/nsfwd/models/echo", "1")
    PICTURES.mkdir(parents=True, exist_ok=True)
    write_picture(PICTURES / "one.png")
    settings(max_pixels=1_000_000)


def bundle(directory: str, version: str) -> None:
    sh(f"cd /checkout && /usr/local/lib/nsfwd/bin/python -m tests.echo_bundle {directory} {version}")


def settings(**changes: object) -> None:
    values = {
        "models_dir": "/var/lib/nsfwd/models",
        "overrides": "/var/lib/nsfwd/overrides.sqlite",
        "engine": "echo",
        "models": ["echo=nsfw"],
        "roots": ["/srv/pictures"],
        **changes,
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    Path("/etc/nsfwd/nsfwd.toml").write_text("\n".join(lines) + "\n", "utf-8")


@step
def start_by_socket() -> None:
    """The first connection starts it, READY comes after the warm-up, and both sockets answer."""
    commands = documented("Install")[4:]
    for command in commands[:2]:
        sh(command)
    assert not active()
    reply = ask(SOCKET, {"path": "/srv/pictures/one.png"})
    assert reply["status"] == "ok", reply
    wait(active, "active")
    assert ask("1235", {"path": "/srv/pictures/one.png"})["status"] == "ok"
    assert ask(SOCKET, {"path": "/etc/passwd"})["error"]["code"] == "forbidden"  # type: ignore[index]
    for command in commands[2:]:
        sh(command)
    wait(lambda: "images/s" in show("StatusText"), "a status")


@step
def sealed() -> None:
    """The decoders' own sandbox works inside that of the unit."""
    stats = json.loads(sh("nsfwd stats"))
    assert not stats["decoders"]["missing"], stats["decoders"]


@step
def denied() -> None:
    """What keeps the daemon's user from a file is named: a directory's mode, the roots, the unit's sandbox."""
    check = "nsfwd config check --as nsfwd"
    assert "may open it" in sh(f"{check} /srv/pictures/one.png")
    closed = PICTURES / "closed"
    closed.mkdir(mode=0o700, exist_ok=True)
    assert f"{closed} may not be searched: it is drwx------" in sh(f"{check} {closed}/a.png", check=False)
    assert "the setting roots" in sh(f"{check} /etc/passwd", check=False)
    Path("/tmp/a.png").touch(mode=0o644)
    assert "hidden by PrivateTmp=yes" in sh(f"{check} --root / /tmp/a.png", check=False)


@step
def metrics() -> None:
    """Prometheus gets its numbers from the socket that systemd holds."""
    for command in documented("Metrics"):
        assert "\nnsfwd_ready 1.0\n" in sh(command)


@step
def day_by_day() -> None:
    """Every command of the guide works."""
    for command in documented("Day by day"):
        sh(command)
        wait(active, f"active after {command}")


@step
def reload_under_load() -> None:
    """No request fails while settings change; a refused change fails the reload and the old settings serve on."""
    before, stop = show("MainPID"), threading.Event()
    good: list[dict[str, object]] = []
    bad: list[dict[str, object]] = []

    def load() -> None:
        while not stop.is_set():
            reply = ask(SOCKET, {"path": "/srv/pictures/one.png"})
            (good if reply["status"] == "ok" else bad).append(reply)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        settings(max_pixels=2_000_000)
        sh(f"systemctl reload {UNIT}")
        settings(max_pixel=3)
        assert "exit 1" in sh(f"systemctl reload {UNIT} 2>/dev/null || echo exit $?")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        settings(max_pixels=2_000_000)
    assert good and not bad, bad[:1]
    assert active() and show("MainPID") == before
    version = ask(SOCKET, {"op": "version"})
    assert version["limits"]["max_pixels"] == 2_000_000  # type: ignore[index]
    assert 'unknown setting "max_pixel"' in sh(f"journalctl -b -u {UNIT} --no-pager -o cat")
    print(f"  {len(good)} requests during two reloads")


@step
def reload_under_a_limit() -> None:
    """Where MemoryMax= has no room for decoders beside the new engine a reload drains first, and none is killed."""
    group = Path(f"/sys/fs/cgroup/system.slice/{UNIT}")
    if not (group / "memory.current").exists():
        print("  no cgroups of version 2 with memory here: the limit is not tried")
        return
    modes = []
    for limited in (False, True, False):
        wait(lambda: len((group / "cgroup.procs").read_text().split()) == 1 + len(children()), "what was replaced ends")
        (engine,) = children("engine")
        one = 1024 * number(Path(f"/proc/{engine}/status"), "VmHWM:")
        firm = int((group / "memory.current").read_text()) - number(group / "memory.stat", "inactive_file")
        sh(f"systemctl set-property --runtime {UNIT} MemoryMax={firm + one if limited else 'infinity'}")
        modes.append(str(ask(SOCKET, {"op": "reload"})["mode"]))
        assert ask(SOCKET, {"path": "/srv/pictures/one.png"})["status"] == "ok"
    assert modes == ["beside", "drain", "beside"], modes
    assert number(group / "memory.events", "oom_kill") == 0
    print(f"  {firm} bytes held, {one} by the engine: {', '.join(modes)}")


def children(*kinds: str) -> list[int]:
    """The daemon's processes of these kinds, or of all."""
    stats: dict[str, Any] = ask(SOCKET, {"op": "stats"})
    return [pid for kind in kinds or ("decoders", "engine", "lister") for pid in stats[kind]["processes"]]


def number(file: Path, name: str) -> int:
    """What the line of this name says."""
    return int(next(line.split()[1] for line in file.read_text("utf-8").splitlines() if line.split()[0] == name))


@step
def openvino() -> None:
    """The engine that compiles its code runs inside the unit's sandbox; without a bundle it is not tried."""
    found = list(Path("/bundle").glob("*/bundle.toml"))
    if not found:
        print("  no BUNDLE was given: only the echo engine is tried")
        return
    name = found[0].parent.name
    sh(f"cp -r /bundle/{name} /var/lib/nsfwd/models/ && chmod -R a+rX /var/lib/nsfwd/models/{name}")
    picture = PICTURES / "golden.png"
    picture.write_bytes(next((found[0].parent / "goldens").iterdir()).read_bytes())
    settings(engine="openvino", models=[f"{name}=nsfw"])
    sh(f"systemctl reload {UNIT}")
    for _ in range(2):
        stats = json.loads(sh("nsfwd stats"))
        assert (stats["engine"]["name"], stats["decoders"]["missing"]) == ("openvino", []), stats
        reply = ask(SOCKET, {"path": str(picture)})
        assert reply["status"] == "ok" and str(reply["model"]).find(name) >= 0, reply
        sh(f"systemctl restart {UNIT}")
        sh("nsfwd ready")
    print(f"  {stats['engine']['precision']} on {stats['engine']['device']}: {reply['label']} {reply['score']:.4f}")
    settings(max_pixels=2_000_000)
    sh(f"systemctl reload {UNIT}")


@step
def rollback() -> None:
    """A new version of a bundle is imported and served, and one command each goes back to the old one."""
    as_owner = "runuser -u nsfwd --"
    sh("chown -R nsfwd: /var/lib/nsfwd/models")
    bundle("/tmp/made/echo", "2")
    sh("nsfwd models pack echo --models-dir /tmp/made --output /tmp/made/echo.bundle && chmod -R a+rX /tmp/made")
    sh(f"{as_owner} nsfwd models import /tmp/made/echo.bundle --models-dir /var/lib/nsfwd/models")
    served = [ask(SOCKET, {"op": "version"})["models"]]
    for command in ("true", f"{as_owner} nsfwd models rollback echo --models-dir /var/lib/nsfwd/models"):
        sh(command)
        sh("nsfwd reload")
        served.append(ask(SOCKET, {"op": "version"})["models"])
    assert served[0] == served[2] != served[1], served
    assert "kept" in sh("nsfwd models list --models-dir /var/lib/nsfwd/models")


@step
def gpu_drop_in() -> None:
    """The drop-in for a GPU does no harm where there is none."""
    for command in documented("A GPU"):
        sh(command)
    sh(f"systemctl restart {UNIT}")
    assert ask(SOCKET, {"path": "/srv/pictures/one.png"})["status"] == "ok"
    sh("rm /etc/systemd/system/nsfwd.service.d/gpu.conf && systemctl daemon-reload")


@step
def who_may_ask() -> None:
    """A user asks over the Unix socket once the group has them, and not before."""
    sh("userdel visitor; useradd visitor")  # one of an earlier trial is in the group
    ping = f"runuser -u visitor -- nsfwd ping --connect unix:{SOCKET} || echo exit $?"
    assert "exit" in sh(ping)
    sh("usermod --append --groups nsfwd visitor")
    assert "answered" in sh(ping)


STEPS += peers.STEPS


@step
def another_address() -> None:
    """What an edit of the socket's unit adds is listened on, and passed in."""
    drop_in = Path("/etc/systemd/system/nsfwd.socket.d/override.conf")
    drop_in.parent.mkdir(parents=True, exist_ok=True)
    drop_in.write_text("[Socket]\nListenStream=127.0.0.1:4322\n", "utf-8")
    sh(f"systemctl daemon-reload; systemctl stop {UNIT}; systemctl restart nsfwd.socket; systemctl start {UNIT}")
    assert ask("4322", {"path": "/srv/pictures/one.png"})["status"] == "ok"
    drop_in.unlink()
    sh(f"systemctl daemon-reload; systemctl stop {UNIT}; systemctl restart nsfwd.socket; systemctl start {UNIT}")


@step
def at_boot() -> None:
    """The service can be enabled as well as its socket."""
    sh("systemctl enable nsfwd.service")
    assert sh("systemctl is-enabled nsfwd.service nsfwd.socket").split() == ["enabled", "enabled"]


@step
def look_and_measure() -> None:
    """What shows how it goes, and how fast."""
    for command in documented("Live numbers"):
        sh(command)


@step
def kill_each_process() -> None:
    """Children are replaced; a killed server is started again by systemd; the listener stays."""
    for kind, module in (("decoders", "imaging.decoder"), ("engine", "engines.body"), ("lister", "imaging.lister")):
        stats = ask(SOCKET, {"op": "stats"})
        old = stats[kind]["processes"]  # type: ignore[index]
        os.kill(old[0], signal.SIGKILL)
        wait(lambda: old[0] not in ask(SOCKET, {"op": "stats"})[kind]["processes"], module)  # type: ignore[index]  # noqa: B023
        assert ask(SOCKET, {"path": "/srv/pictures/one.png"})["status"] == "ok"
    inode, main = Path(SOCKET).stat().st_ino, int(show("MainPID"))
    os.kill(main, signal.SIGKILL)
    wait(lambda: active() and show("MainPID") not in ("0", str(main)), "a new server")
    assert ask(SOCKET, {"path": "/srv/pictures/one.png"})["status"] == "ok"
    assert Path(SOCKET).stat().st_ino == inode


@step
def watchdog() -> None:
    """A frozen server is killed by the watchdog and started again."""
    Path("/run/systemd/system/nsfwd.service.d").mkdir(parents=True, exist_ok=True)
    Path("/run/systemd/system/nsfwd.service.d/quick.conf").write_text("[Service]\nWatchdogSec=2\n", "utf-8")
    sh(f"systemctl daemon-reload && systemctl restart {UNIT}")
    main = int(show("MainPID"))
    os.kill(main, signal.SIGSTOP)
    wait(lambda: active() and show("MainPID") not in ("0", str(main)), "a new server")
    assert "watchdog" in sh(f"journalctl -b -u {UNIT} --no-pager").lower()
    Path("/run/systemd/system/nsfwd.service.d/quick.conf").unlink()
    sh("systemctl daemon-reload")


@step
def journal() -> None:
    """Events have priorities and fields of their own."""
    sh("journalctl --flush || true")
    lines = sh(f"journalctl -b -u {UNIT} --no-pager -o json").splitlines()
    events = [event for event in map(json.loads, lines) if event.get("NSFWD_ROOM")]
    assert events, "no event with fields"
    assert {"CODE_FUNC", "CODE_LINE", "CODE_MODULE", "PRIORITY", "MESSAGE"} <= events[0].keys()
    assert any(event["PRIORITY"] == "3" and "reload refused" in event["MESSAGE"] for event in events)
    assert "reload refused" in sh(f"journalctl -p err -b -u {UNIT} --no-pager")


@step
def a_listener_that_cannot_be() -> None:
    """A configured address that does not come up stops the start, with a line that says so."""
    settings(listen=["tcp:127.0.0.1:4321"])
    assert "exit 1" in sh(f"systemctl restart {UNIT} 2>/dev/null || echo exit $?")
    assert "cannot listen on tcp:127.0.0.1:4321" in sh(f"journalctl -b -u {UNIT} --no-pager -o cat")
    settings()
    sh(f"systemctl reset-failed {UNIT}; systemctl restart {UNIT}")


@step
def a_further_instance() -> None:
    """The template serves another socket with settings of its own."""
    Path("/etc/nsfwd/two.toml").write_bytes(Path("/etc/nsfwd/nsfwd.toml").read_bytes())
    sh("systemctl start nsfwd@two.socket")
    assert ask("/run/nsfwd/two.sock", {"path": "/srv/pictures/one.png"})["status"] == "ok"
    sh("systemctl reload nsfwd@two.service")
    sh("systemctl stop nsfwd@two.socket nsfwd@two.service")
    assert Path(SOCKET).exists()
    assert ask(SOCKET, {"op": "ping"})["status"] == "ok"


STEPS += scanning.STEPS


@step
def stop_and_remove() -> None:
    """It ends in order; what is the site's stays."""
    disable, uninstall = documented("Remove")
    sh(f"{disable} 2>&1")
    assert show("Result") == "success", show("Result")
    sh(uninstall)
    assert Path("/etc/nsfwd/nsfwd.toml").exists() and Path("/var/lib/nsfwd/models/echo/bundle.toml").exists()
    assert not Path("/usr/local/bin/nsfwd").is_symlink()
    assert not list(Path("/usr/local/lib").rglob("*nsfwd*"))


def main() -> int:
    for function in STEPS:
        started = time.monotonic()
        try:
            function()
        except Exception as error:
            print(f"FAILED {function.__name__}: {error}")
            traceback.print_exc(file=sys.stdout)
            print(
                sh(
                    f"systemctl status --no-pager --lines=0 {UNIT} 2>&1; journalctl -b -u 'nsfwd*' --no-pager -n 40",
                    check=False,
                )
            )
            return 1
        print(
            f"ok {function.__name__} ({time.monotonic() - started:.1f} s): {(function.__doc__ or '').strip()}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
