"""``nsfwd sweep`` and ``nsfwd index`` as a user runs them, with a real daemon: files, signals, a full disk."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests import pictures
from tests.integration.harness import PATIENCE, Daemon, wait_until

NSFWD = (sys.executable, "-m", "nsfwd.cli.main")


class Desk:
    """A tree that a daemon may scan, and commands about it."""

    def __init__(self, directory: Path, daemon: Daemon, tree: Path) -> None:
        self.directory, self.daemon, self.tree = directory, daemon, tree
        self.index = directory / "index.db"

    def command(self, verb: str, *rest: object) -> list[str]:
        """Spell a command with the options that name index and daemon."""
        words = [*NSFWD, *verb.split(), *map(str, rest), "--index", str(self.index)]
        return [*words, "--connect", f"unix:{self.daemon.unix}"] if verb == "sweep" else words

    def run(self, verb: str, *rest: object) -> subprocess.CompletedProcess[str]:
        """Run one to its end."""
        return subprocess.run(
            self.command(verb, *rest), capture_output=True, text=True, timeout=2 * PATIENCE, check=False
        )


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Path]]:
    tree = tmp_path_factory.mktemp("tree")
    with Daemon(tmp_path_factory.mktemp("daemon"), root=tree) as daemon:
        yield daemon, tree


@pytest.fixture
def desk(running: tuple[Daemon, Path], tmp_path: Path) -> Iterator[Desk]:
    daemon, tree = running
    for number in range(6):
        place = tree / f"{number % 2}"
        place.mkdir(exist_ok=True)
        (place / f"{number}.png").write_bytes(pictures.encoded(pictures.photo(number), "PNG"))
    (tree / os.fsdecode(b"odd\xff\n.png")).write_bytes(pictures.encoded(pictures.photo(7), "PNG"))
    (tree / "notes.txt").write_text("no picture")
    (tree / "cut.jpg").write_bytes(pictures.encoded(pictures.photo(8), "JPEG")[:500])
    yield Desk(tmp_path, daemon, tree)
    shutil.rmtree(tree)
    tree.mkdir()


def test_a_tree_is_swept_listed_shown_and_counted(desk: Desk) -> None:
    first = desk.run("sweep", desk.tree)
    assert "9 files" in first.stderr and "7 scored, 1 skipped, 1 errors" in first.stderr, first.stderr
    assert first.returncode in (1, 2) and not first.stdout
    again = desk.run("sweep", desk.tree)
    assert "9 unchanged" in again.stderr and again.returncode in (0, 1), again.stderr

    listed = [json.loads(line) for line in desk.run("index list", "--format", "ndjson").stdout.splitlines()]
    assert len(listed) == 9 and [row["code"] for row in listed if row["status"] == "error"] == ["corrupt"]
    odd = desk.run("index list", "--format", "csv", os.fsencode(desk.tree).decode()).stdout
    assert len(list(csv.DictReader(io.StringIO(odd)))) == 9
    (picture,) = json.loads(desk.run("index show", desk.tree / "0/0.png", "--format", "json").stdout)
    assert set(picture["scores"]["nsfw"]) and picture["file"]["size"] == (desk.tree / "0/0.png").stat().st_size
    told = json.loads(desk.run("index stats", "--format", "json").stdout)
    assert [run["why"] for run in told["runs"]] == ["finished", "finished"]
    assert sum(row["files"] for row in told["outcomes"]) == 9
    assert "not in the index" in desk.run("index show", "/nowhere").stderr
    for verb in ("index list", "index stats", "index show"):
        text = desk.run(verb, *([desk.tree / "0/0.png"] if verb == "index show" else [])).stdout
        assert "ok" in text
        assert ("\\xff\\x0a" in text) is (verb == "index list")


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGINT, {130}), (signal.SIGTERM, {0, 1, 2})])
def test_a_signal_stops_it_in_good_order(desk: Desk, sign: int, code: set[int]) -> None:
    process = subprocess.Popen(desk.command("sweep", desk.tree, "--rate", "1"), stderr=subprocess.PIPE, text=True)
    wait_until(lambda: desk.index.exists() and _rows(desk.index, "SELECT count(*) FROM file") not in (None, 0))
    process.send_signal(sign)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode in code and "interrupted, " in said, said
    assert _rows(desk.index, "SELECT why FROM run") == "interrupted"
    assert 0 < _rows(desk.index, "SELECT count(*) FROM file") < 9
    assert "9 files" in desk.run("sweep", desk.tree).stderr


def test_a_second_sweep_of_a_tree_says_so_and_ends(desk: Desk) -> None:
    with subprocess.Popen(desk.command("sweep", desk.tree, "--rate", "1"), stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: desk.index.exists() and _rows(desk.index, "SELECT count(*) FROM run") == 1)
        second = desk.run("sweep", desk.tree / "0")
        assert second.returncode == 75 and "runs already" in second.stderr
        process.kill()
    assert desk.run("sweep", desk.tree / "0").returncode in (0, 1, 2)


def test_an_index_of_a_newer_version_is_refused(desk: Desk) -> None:
    desk.run("sweep", desk.tree)
    with closing(sqlite3.connect(desk.index)) as database:
        database.execute("PRAGMA user_version = 1000")
    refused = desk.run("sweep", desk.tree)
    assert refused.returncode == 74 and "newer nsfwd" in refused.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_ends_it_and_breaks_nothing(desk: Desk) -> None:
    disk = desk.directory / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this root may not mount")
    try:
        desk.index = disk / "index.db"
        for number in range(1500):
            (desk.tree / f"{number:0200}.txt").write_text(str(number))
        full = desk.run("sweep", desk.tree)
        assert full.returncode == 74 and "full" in full.stderr, full.stderr
        with closing(sqlite3.connect(desk.index)) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert subprocess.run([*mount[:3], "-o", "remount,size=30m", "none", str(disk)], check=False).returncode == 0
        assert "1509 files" in desk.run("sweep", desk.tree).stderr
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def _rows(path: Path, sql: str) -> Any:
    try:
        with closing(sqlite3.connect(path, timeout=PATIENCE)) as database:
            row = database.execute(sql).fetchone()
    except sqlite3.OperationalError:
        return None  # its tables are being made
    return row[0] if row else None
