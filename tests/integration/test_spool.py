"""A spool with the real daemon: every path is answered once, however often it is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests import pictures
from tests.integration.harness import Daemon, wait_until


def spool(root: Path, daemon: Daemon) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "nsfwd.cli.main", "spool", "--directory", str(root)]
    return subprocess.Popen([*command, "--connect", f"unix:{daemon.unix}"], stderr=subprocess.PIPE)


def hand_in(root: Path, name: str, paths: list[bytes]) -> None:
    (root / "in").mkdir(parents=True, exist_ok=True)
    (root / "whole").write_bytes(b"".join(path + b"\n" for path in paths))
    (root / "whole").rename(root / "in" / f"{name}.list")


def lines(result: Path) -> int:
    return result.read_bytes().count(b"\n") if result.exists() else 0


def test_killed_again_and_again_and_resumed(tmp_path: Path) -> None:
    tree, root = tmp_path / "tree", tmp_path / "spool"
    tree.mkdir()
    names = [os.fsencode(path) for path in pictures.write_photos(tree, 20, size=(64, 64))]
    (tree / "broken.jpg").write_bytes(pictures.truncated())
    paths = [*names * 8, os.fsencode(tree / "broken.jpg"), b"/nowhere/\xff", b"relative", os.fsencode(tree)]
    hand_in(root, "job", paths)
    result = root / "out" / "job.ndjson"
    with Daemon(tmp_path / "daemon", environment={"NSFWD_ECHO": "slow:0.02"}) as daemon:
        for kill in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
            begun = lines(result)
            process = spool(root, daemon)
            wait_until(lambda: lines(result) > begun + 5)  # noqa: B023
            process.send_signal(kill)
            assert process.wait(30) == (0 if kill == signal.SIGTERM else -kill)
            assert process.stderr is not None
            process.stderr.close()
            assert lines(result) < len(paths) and not (root / "out" / "job.done").exists()
        _, said = (process := spool(root, daemon)).communicate(timeout=60)
        assert process.returncode == 0, said
    replies = [json.loads(line) for line in result.read_bytes().splitlines()]
    assert sorted(reply["id"] for reply in replies) == list(range(len(paths)))
    for reply in replies:
        if reply["id"] < len(names) * 8:
            assert (reply["status"], os.fsencode(reply["path"])) == ("ok", paths[reply["id"]])
    assert {reply["id"] - len(names) * 8: reply["error"]["code"] for reply in replies if reply["status"] != "ok"} == {
        0: "corrupt", 1: "not_found", 2: "relative_path", 3: "bad_path",
    }  # fmt: skip
    done = json.loads((root / "out" / "job.done").read_bytes())
    assert (done["files"], done["ok"], done["errors"]) == (len(paths), len(names) * 8, 4)
    assert sum(done["verdicts"].values()) == done["ok"]
    assert not list((root / "in").iterdir()) and not list((root / "work").iterdir())


def test_a_daemon_that_is_away_is_waited_for(tmp_path: Path) -> None:
    root = tmp_path / "spool"
    (picture,) = pictures.write_photos(tmp_path, 1)
    hand_in(root, "job", [os.fsencode(picture)])
    daemon = Daemon(tmp_path / "daemon")
    process = spool(root, daemon)
    assert process.stderr is not None
    assert b"waiting for the daemon" in process.stderr.readline()
    with daemon:
        assert process.wait(60) == 0
    process.stderr.close()
    assert lines(root / "out" / "job.ndjson") == 1
