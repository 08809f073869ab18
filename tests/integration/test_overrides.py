"""Overrides in a real daemon: learnt while it runs, honoured in every style, and never lost in silence."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nsfwd.client import Client, Reply
from nsfwd.local import Scanner
from nsfwd.overrides.override_store import OverrideStore
from nsfwd.protocol.messages import Override
from tests import pictures
from tests.echo_bundle import echo_bundle
from tests.integration.harness import PATIENCE, POLL, Daemon, Json, ask


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("overrides")


@pytest.fixture(scope="module")
def daemon(place: Path) -> Iterator[Daemon]:
    clamd = f"unix:{place}/clamd.sock,style=clamd"
    with Daemon(place, root=place, listen=[clamd], flags=["--cache", "on"]) as running:
        yield running


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with Client(f"unix:{daemon.unix}") as client:
        yield client


@pytest.fixture
def store(daemon: Daemon) -> Iterator[OverrideStore]:
    with OverrideStore(daemon.overrides) as store:
        yield store


def place_picture(place: Path, number: int) -> tuple[Path, str]:
    """A picture that the policy calls safe, and its digest."""
    content = pictures.encoded(pictures.photo(number), "JPEG")
    path = place / f"{number}.jpg"
    path.write_bytes(content)
    return path, hashlib.sha256(content).hexdigest()


def wait(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(POLL)


def seen(client: Client, path: Path, verdict: str) -> Reply:
    """The first reply that has this verdict."""
    end = time.monotonic() + PATIENCE
    while (reply := client.scan(path)).verdict != verdict:
        assert time.monotonic() < end
        time.sleep(POLL)
    return reply


def say(place: Path, command: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as clamd:
        clamd.connect(str(place / "clamd.sock"))
        clamd.sendall(command)
        return clamd.makefile("rb").read()


def typed(daemon: Daemon, path: Path) -> Json:
    with socket.create_connection(("127.0.0.1", daemon.port)) as session:
        session.sendall(bytes(path) + b"\n")
        session.shutdown(socket.SHUT_WR)
        told = session.makefile("rb").read().decode()
    found: Json = json.JSONDecoder().raw_decode(told[told.index("{") :])[0]
    return found


def test_a_decision_is_honoured_from_the_next_second_on_until_it_is_taken_back(
    daemon: Daemon, place: Path, client: Client, store: OverrideStore
) -> None:
    path, digest = place_picture(place, 1)
    before = client.scan(path)
    assert (before.verdict, before.alarm, before.override) == ("safe", False, None)
    made = store.add(digest, "sensitive", reason="a complaint", by="eva")
    reply = seen(client, path, "sensitive")
    assert reply.alarm
    assert reply.override == {
        "verdict": "sensitive",
        "reason": "a complaint",
        "by": "eva",
        "time": made.time,
        "expires": None,
    }
    assert reply.because == {"override": digest}
    assert (reply.scores, reply.groups, reply.verdicts, reply.label) == (
        before.scores,
        before.groups,
        before.verdicts,
        before.label,
    )
    assert say(place, b"SCAN %b\n" % bytes(path)) == b"%b: NSFW.sensitive FOUND\n" % bytes(path)
    assert typed(daemon, path)[str(path)]["override"] == "sensitive"
    assert client.scan_bytes(path.read_bytes()).override == reply.override
    copy = shutil.copy(path, place / "copy.jpg")
    assert client.scan(copy).verdict == "sensitive"
    applied = client.stats()["overrides"]["applied"]
    assert applied >= 5
    store.remove(digest)
    assert seen(client, path, "safe").override is None
    assert say(place, b"SCAN %b\n" % bytes(path)) == b"%b: OK\n" % bytes(path)
    assert "override" not in typed(daemon, path)[str(path)]


def test_what_is_cached_honours_a_decision_that_came_later(place: Path, client: Client, store: OverrideStore) -> None:
    path, digest = place_picture(place, 2)
    client.scan(path)
    assert client.scan(path).raw["cached"] == "digest"
    store.add(digest, "review")
    reply = seen(client, path, "review")
    assert reply.raw["cached"] in ("digest", "identity")
    assert not reply.alarm
    store.remove(digest)


def test_what_has_expired_is_the_models_again(place: Path, client: Client, store: OverrideStore) -> None:
    path, digest = place_picture(place, 3)
    store.add(digest, "sensitive", expires=time.time() + 2)
    other, sign = place_picture(place, 4)
    store.add(sign, "sensitive")
    seen(client, other, "sensitive")
    assert seen(client, path, "safe").override is None
    assert client.scan(other).verdict == "sensitive"
    store.remove(sign)


def test_a_verdict_that_no_policy_has_is_an_alarm_and_said(
    daemon: Daemon, place: Path, client: Client, store: OverrideStore
) -> None:
    path, digest = place_picture(place, 5)
    store.add(digest, "fine")
    assert seen(client, path, "fine").alarm
    assert 'override verdict "fine" is in no policy (safe, review, sensitive)' in daemon.stderr
    store.remove(digest)


def test_nothing_that_is_not_scored_gets_a_verdict(place: Path, client: Client, store: OverrideStore) -> None:
    broken = place / "broken.jpg"
    broken.write_bytes(pictures.truncated())
    store.add(hashlib.sha256(broken.read_bytes()).hexdigest(), "safe")
    path, digest = place_picture(place, 6)
    store.add(digest, "review")
    seen(client, path, "review")
    assert (client.scan(broken).status, client.scan(broken).override) == ("error", None)


def test_the_command_line_shows_who_decided_and_its_exit_code_follows(
    daemon: Daemon, place: Path, client: Client, store: OverrideStore
) -> None:
    path, digest = place_picture(place, 7)
    store.add(digest, "sensitive", reason="a complaint", by="eva")
    seen(client, path, "sensitive")
    scan = [sys.executable, "-m", "nsfwd.cli.main", "scan", "--connect", f"unix:{daemon.unix}", str(path)]
    text = subprocess.run(scan, capture_output=True, text=True, check=False)
    assert text.returncode == 1
    assert text.stdout.endswith("ALARM, override by eva: a complaint\n")
    assert "1 sensitive; 1 alarm" in text.stderr
    table = subprocess.run([*scan, "--format", "csv"], capture_output=True, text=True, check=False)
    assert table.stdout.endswith(",override by eva: a complaint,,,\n")


def test_two_that_write_at_once_are_both_heard(daemon: Daemon, place: Path, client: Client) -> None:
    found = [place_picture(place, 20 + number)[0] for number in range(4)]
    environment = {**os.environ, "NSFWD_OVERRIDES": str(daemon.overrides)}
    override = (sys.executable, "-m", "nsfwd.cli.main", "override")
    writers = [
        subprocess.Popen(
            [*override, "add", *map(str, pair), "--force", "--verdict", "review", "--reason", "x"],
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        for pair in (found[:2], found[2:])
    ]
    assert [writer.wait() for writer in writers] == [0, 0]
    for path in found:
        seen(client, path, "review")


def test_a_store_that_is_lost_stays_in_force_and_is_said(place: Path) -> None:
    directory = place / "lost"
    path, digest = place_picture(place, 8)
    store = directory / "overrides.sqlite"
    with OverrideStore(store) as made:
        made.add(digest, "sensitive")
    with Daemon(directory, root=place) as daemon, Client(f"unix:{daemon.unix}") as client:
        assert client.scan(path).verdict == "sensitive"
        for file in directory.glob("overrides.sqlite*"):
            file.unlink()
        wait(lambda: client.ready()["why"])
        readiness = client.ready()
        assert (readiness["ready"], readiness["why"]) == (True, f"overrides: {store}: is no longer there")
        assert client.scan(path).verdict == "sensitive"
        stats = client.stats()["overrides"]
        assert (stats["known"], stats["failures"]) == (1, 1)
        assert daemon.stderr.count("the 1 known before stay in force") == 1
        assert ask(daemon.unix, {"op": "reload"})["status"] == "ok"
        assert client.scan(path).verdict == "sensitive"
        with OverrideStore(store) as made:
            made.add(digest, "review")
        seen(client, path, "review")
        assert client.ready()["why"] == ""


def test_a_store_that_is_damaged_refuses_the_reload_as_the_check_does(place: Path) -> None:
    directory = place / "damaged"
    path, digest = place_picture(place, 9)
    store = directory / "overrides.sqlite"
    with OverrideStore(store) as made:
        made.add(digest, "sensitive")
    with Daemon(directory, root=place) as daemon, Client(f"unix:{daemon.unix}") as client:
        for file in directory.glob("overrides.sqlite-*"):
            file.unlink()
        store.write_bytes(b"no database at all" * 1000)
        why = f'overrides: {store}: file is not a database; to judge without overrides: overrides = "none"'
        answer = ask(daemon.unix, {"op": "reload"})
        assert (answer["status"], answer["error"]["code"]) == ("error", "reload_refused")
        assert why in answer["error"]["message"]
        models = ["--models-dir", str(echo_bundle(directory / "shelf").parent), "--model", "echo", "--engine", "echo"]
        checked = subprocess.run(
            [sys.executable, "-m", "nsfwd", "config", "check", "--overrides", str(store), *models],
            capture_output=True,
            text=True,
            check=False,
        )
        assert checked.stderr == f"nsfwd: {why}\n"
        assert client.scan(path).verdict == "sensitive"


def test_a_store_that_cannot_be_read_refuses_the_start(place: Path) -> None:
    directory = place / "refused"
    directory.mkdir()
    (directory / "overrides.sqlite").write_bytes(b"no database at all" * 1000)
    daemon = Daemon(directory)
    daemon.start()
    assert daemon.wait_exit() == 1
    assert "overrides.sqlite: file is not a database; to judge without overrides: overrides = " in daemon.stderr
    with Daemon(directory, flags=["--overrides", "none"]) as daemon:
        assert ask(daemon.unix, {"op": "stats"})["overrides"]["known"] == 0


def test_a_scanner_without_a_daemon_honours_them(place: Path) -> None:
    shelf, store = place / "shelf", place / "local.sqlite"
    echo_bundle(shelf)
    path, digest = place_picture(place, 9)
    with OverrideStore(store) as made:
        made.add(digest, "sensitive", by="eva")
    places = {"models_dir": str(shelf), "cache_dir": str(place / "cache"), "overrides": str(store)}
    with Scanner(settings=None, options=None, models=("echo=nsfw",), engine="echo", **places) as scanner:
        reply = scanner.scan(path)
    assert (reply.verdict, reply.alarm) == ("sensitive", True)
    assert reply.override is not None
    assert reply.override["by"] == "eva"


def test_a_hundred_thousand_are_known_in_little_memory(place: Path) -> None:
    directory = place / "many"
    path, digest = place_picture(place, 10)
    with Daemon(directory, root=place) as daemon, Client(f"unix:{daemon.unix}") as client:
        client.scan(path)
        before = resident(daemon.pid)
        with OverrideStore(daemon.overrides) as store:
            store.take(
                Override(hashlib.sha256(b"%d" % number).digest(), "safe", f"reason {number}", "eva", 1e9)
                for number in range(100_000)
            )
            store.add(digest, "sensitive")
        seen(client, path, "sensitive")
        assert client.stats()["overrides"]["known"] == 100_001
        assert resident(daemon.pid) - before < 100_000_000


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
