"""No room, no right to write, nobody who takes the log: said once, and images are scored as before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import pytest

from tests import pictures
from tests.integration.harness import MODELS, Daemon, ask, wait_until

REAL = "nsfw-mobilenet-v2-140"

PRIVATELY = ("unshare", "--mount", *(() if os.getuid() == 0 else ("--map-root-user",)), "sh", "-c")
"""Runs a shell script whose mounts nobody else sees, and which vanish with it."""

FULL = (
    'mount -t tmpfs -o size=64k tmpfs "$1" && cp "$2" "$1" && cat /dev/zero >"$1/rest" 2>/dev/null; shift 2; exec "$@"'
)
READ_ONLY = 'cp "$2" "$1" && mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" || exit 9; shift 2; exec "$@"'


def prefix(script: str, directory: Path, file: Path) -> Sequence[str]:
    """Start a daemon for which ``directory``, with ``file`` in it, is as the script makes it."""
    if subprocess.run([*PRIVATELY, "mount -t tmpfs tmpfs /mnt"], capture_output=True, check=False).returncode:
        pytest.skip("nothing may be mounted here, not even in a namespace of its own")
    directory.mkdir(parents=True, exist_ok=True)
    return (*PRIVATELY, script, "sh", str(directory), str(file))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(pictures.encoded(pictures.photo(1), "JPEG"))
    return path


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A poison list, which a daemon writes anew when it is cleared."""
    entry = {
        "sha256": "0" * 64,
        "size": 5,
        "signal": "SIGSEGV",
        "listed": time.time(),
        "pillow": version("pillow"),
    }
    path = tmp_path / "list" / "poison.json"
    path.parent.mkdir()
    path.write_text(json.dumps([entry]), "utf-8")
    return path


@pytest.mark.parametrize(
    ("script", "reason"), [(FULL, "No space left on device"), (READ_ONLY, "Read-only file system")]
)
@pytest.mark.parametrize("engine", ["echo", "openvino"])
def test_a_cache_directory_that_takes_nothing(
    tmp_path: Path, photo: Path, listed: Path, script: str, reason: str, engine: str
) -> None:
    directory = tmp_path / "daemon"
    daemon = Daemon(
        directory,
        engine=engine,
        model="echo" if engine == "echo" else REAL,
        models_dir=None if engine == "echo" else MODELS,
        prefix=prefix(script, directory / "cache", listed),
    )
    with daemon:
        assert len(ask(daemon.unix, {"op": "poison"})["poison"]) == 1
        assert ask(daemon.unix, {"op": "clear_poison"})["cleared"] == 1
        assert ask(daemon.unix, {"path": str(photo)})["status"] == "ok"
        assert ask(daemon.unix, {"op": "reload"})["status"] == "ok"
        assert ask(daemon.unix, {"path": str(photo)})["status"] == "ok"
    assert daemon.stderr.count(reason) == 1


def test_a_state_directory_that_is_read_only(tmp_path: Path, photo: Path) -> None:
    """What people decided is known all the same."""
    store, directory = tmp_path / "made" / "overrides.sqlite", tmp_path / "state"
    command = [sys.executable, "-m", "nsfwd.cli.main", "override", "add", str(photo), "--verdict", "review"]
    done = subprocess.run(
        [*command, "--reason", "a test"],
        env={**os.environ, "NSFWD_OVERRIDES": str(store)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with Daemon(
        tmp_path / "daemon",
        prefix=prefix(READ_ONLY, directory, store),
        flags=["--overrides", str(directory / store.name)],
    ) as daemon:
        reply = ask(daemon.unix, {"path": str(photo)})
        assert (reply["status"], reply["verdict"]) == ("ok", "review")
        assert ask(daemon.unix, {"op": "ready"})["ready"] is True


def test_a_log_that_nobody_can_write(tmp_path: Path, photo: Path) -> None:
    with Daemon(tmp_path / "daemon", prefix=("sh", "-c", 'exec "$@" 2>/dev/full', "sh")) as daemon:
        assert ask(daemon.unix, {"path": str(photo)})["status"] == "ok"
        assert ask(daemon.unix, {"op": "reload"})["status"] == "ok"
        assert ask(daemon.unix, {"path": str(photo)})["status"] == "ok"


def test_a_journal_that_is_not_there(tmp_path: Path, photo: Path) -> None:
    """Standard error is the journal's, but its socket is not there: events become lines with a priority."""
    directory = tmp_path / "daemon"
    directory.mkdir()
    (directory / "stderr").touch()
    status = (directory / "stderr").stat()
    name = f"{status.st_dev}:{status.st_ino}"
    hidden = prefix('mount -t tmpfs tmpfs /run; shift 2; exec "$@"', tmp_path / "unused", photo)
    with Daemon(directory, prefix=hidden, environment={"JOURNAL_STREAM": name}) as daemon:
        assert ask(daemon.unix, {"path": str(photo)})["status"] == "ok"
        wait_until(lambda: "is ready" in daemon.stderr)
    first, *others = daemon.stderr.splitlines()
    assert first.startswith("<4>warning nsfwd: cannot write to the journal (No such file or directory)")
    assert others and all(line.startswith("<6>info ") for line in others)
