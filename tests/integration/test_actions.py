"""Sweeps and watches that act, against the real daemon: what is an alarm goes, what is put back stays."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import count, islice, product
from pathlib import Path

import numpy as np
import pytest

from nsfwd.engines.echo import echo_scores
from nsfwd.scanning.actions.move_out import PLACEHOLDER
from tests import pictures
from tests.echo_bundle import LABELS
from tests.integration.harness import Daemon, Json, wait_until

SENSITIVE = [LABELS.index(label) for label in ("hentai", "porn", "sexy")]


@cache
def colours(alarm: bool) -> list[pictures.Colour]:
    """Colours whose pictures are alarms of the echo bundle's policy, or safe."""
    found: list[pictures.Colour] = []
    for red, green, blue in product(range(0, 256, 5), repeat=3):
        colour = red, green, blue
        share = echo_scores(np.full((64, 64, 3), colour, np.uint8), len(LABELS))[SENSITIVE].sum()
        if share > 0.82 if alarm else share < 0.45:
            found.append(colour)
        if len(found) == 8:
            break
    return found


_names = count()


def picture(*, alarm: bool) -> bytes:
    """A picture of a content that no other test has: what was decided about one is no matter for the others."""
    number = next(_names)
    picked = colours(alarm)
    return pictures.encoded(pictures.solid(picked[number % len(picked)]), "PNG") + b"%d" % number


class Site:
    """A tree, an index, a quarantine and a store of overrides, and the daemon that judges."""

    def __init__(self, base: Path, daemon: Daemon, overrides: Path) -> None:
        self.base, self.daemon, self.overrides = base, daemon, overrides
        self.tree, self.index, self.quarantine = base / "tree", base / "index.db", base / "quarantine"
        self.tree.mkdir(parents=True)
        self.flags = [
            *("--connect", f"unix:{daemon.unix}", "--index", str(self.index)),
            *("--quarantine", str(self.quarantine), "--action", "quarantine"),
        ]

    def command(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-m", "nsfwd.cli.main", *map(str, arguments)]

    def run(self, *arguments: str | Path, code: int = 0) -> str:
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False)
        assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def sweep(self, *arguments: str, code: int = 0) -> str:
        return self.run("sweep", self.tree, *self.flags, *arguments, code=code)

    def restore(self, *arguments: str | Path, code: int = 0) -> str:
        store = ("--store", str(self.overrides), "--verdict", "safe")
        return self.run("restore", *arguments, "--quarantine", self.quarantine, *store, code=code)

    def rows(self, query: str) -> list[tuple[object, ...]]:
        database = sqlite3.connect(self.index)
        try:
            return database.execute(query).fetchall()
        except sqlite3.OperationalError:
            return []  # it is being made
        finally:
            database.close()

    def put(self, name: str, *, alarm: bool) -> Path:
        """Write a picture elsewhere and move it into the tree, whole."""
        path = self.tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = self.base / f"coming-{next(_names)}"
        whole.write_bytes(picture(alarm=alarm))
        return whole.rename(path)

    @contextmanager
    def watch(self, *arguments: str, code: int = 0, within: Sequence[str] = ()) -> Iterator[subprocess.Popen[bytes]]:
        with (self.base / "watch.log").open("ab") as log:
            command = [*within, *self.command("watch", self.tree, *self.flags, "--settle", "0.1", *arguments)]
            process = subprocess.Popen(command, stderr=log, stdout=log)
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == code, self.log
        finally:
            process.kill()
            process.wait()

    @property
    def log(self) -> str:
        return (self.base / "watch.log").read_text()

    def judged(self, path: Path) -> bool:
        return bool(
            self.rows(
                "SELECT 1 FROM file JOIN directory ON directory.id = directory WHERE status = 'ok'"
                f" AND name = x'{path.name.encode().hex()}' AND path = x'{os.fsencode(path.parent).hex()}'"
            )
        )

    def gone(self, path: Path) -> None:
        wait_until(lambda: not path.exists())

    def sweeps(self, number: int) -> bool:
        """Whether so many sweeps have come to an end."""
        return len(self.rows("SELECT 1 FROM run WHERE kind = 'sweep' AND ended IS NOT NULL")) >= number


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Path]]:
    base = tmp_path_factory.mktemp("daemon")
    with Daemon(base, flags=("--overrides", str(base / "overrides.sqlite"))) as running:
        yield running, base / "overrides.sqlite"


@pytest.fixture
def site(daemon: tuple[Daemon, Path], tmp_path: Path) -> Site:
    return Site(tmp_path / "site", *daemon)


def test_sweep_quarantine_restore_and_sweep_again(site: Site) -> None:
    good, bad = site.put("good.png", alarm=False), site.put("a/bad.png", alarm=True)
    bad.chmod(0o640)
    before, content = bad.stat(), bad.read_bytes()
    assert re.search(rf"would quarantine {re.escape(str(bad))} \(sensitive 0\.\d\d\)", site.sweep(code=1))
    assert bad.exists()
    assert f"quarantined {bad}" in site.sweep("--apply", "--placeholder", code=1)
    assert bad.read_bytes() == PLACEHOLDER and good.exists()
    assert f"would restore {bad}, with the override safe" in site.restore("--all")
    assert "no policy has the verdict 'sensitve'" in site.sweep("--on", "sensitve")
    listed = json.loads(site.restore("--list", "--format", "ndjson"))
    assert listed["path"] == str(bad) and Path(listed["target"]).read_bytes() == content
    assert site.restore(bad.parent, "--apply") == f"restored {bad}\n"
    after = bad.stat()
    assert bad.read_bytes() == content
    kept = ("st_mode", "st_uid", "st_gid", "st_mtime_ns", "st_ino")
    assert [getattr(after, name) for name in kept] == [getattr(before, name) for name in kept]
    wait_until(lambda: _verdict(site, bad) == "safe")  # the daemon has taken up the override
    site.sweep("--apply")
    assert bad.read_bytes() == content
    assert site.rows("SELECT kind, outcome, restored IS NOT NULL FROM action") == [("quarantine", "done", 1)]
    site.restore("--all", code=1)


def test_what_a_person_put_back_stays_whatever_is_acted_on_and_without_the_index(site: Site) -> None:
    path = site.put("statue.png", alarm=True)
    site.sweep("--apply", code=1)
    site.restore("--all", "--apply")
    wait_until(lambda: _verdict(site, path) == "safe")
    site.index.unlink()
    wanted = ("--on", "safe", "--on", "sensitive", "--max-actions", "10")
    assert "would quarantine" not in site.sweep(*wanted)
    assert "quarantined" not in site.sweep(*wanted, "--apply")
    assert path.exists()
    decided = ("--verdict", "sensitive", "--reason", "after all", "--by", "eva", "--store", site.overrides)
    site.run("override", "add", path, *decided)
    wait_until(lambda: _verdict(site, path) == "sensitive")
    assert f"quarantined {path}" in site.sweep(*wanted, "--apply", code=1)


def test_a_dry_run_of_a_restore_says_what_the_real_one_would(site: Site) -> None:
    path = site.put("statue.png", alarm=True)
    site.sweep("--apply", code=1)
    unset = ("restore", "--all", "--quarantine", site.quarantine, "--store", site.overrides)
    nothing = site.base / "nothing.toml"
    nothing.write_text(f"models_dir = '{site.base}'\noverrides = '{site.overrides}'\n")
    for apply in ((), ("--apply",)):
        assert "give --verdict" in site.run(*unset, "--config", nothing, *apply, code=1)
    path.write_bytes(b"another")
    for apply in ((), ("--apply",)):
        assert "another file is in its place" in site.restore("--all", *apply, code=1)
    path.unlink()
    assert site.restore("--all") == f"would restore {path}, with the override safe\n" and not path.exists()
    assert site.restore("--all", "--apply") == f"restored {path}\n" and path.exists()


def _verdict(site: Site, path: Path) -> str:
    command = site.command("scan", path, "--connect", f"unix:{site.daemon.unix}", "--format", "ndjson", "-q")
    reply: Json = json.loads(subprocess.run(command, capture_output=True, check=False).stdout)
    return str(reply["verdict"])


def test_the_breaker_stops_a_run_before_it_is_too_late(site: Site) -> None:
    bad = [site.put(f"bad-{number}.png", alarm=True) for number in range(12)]
    said = site.sweep("--apply", code=3)
    assert "more than 1 %" in said and "--max-share" in said
    assert sum(not path.exists() for path in bad) == 10
    assert site.rows("SELECT why, acted FROM run") == [("breaker", 10)]
    assert "--max-actions" in site.sweep("--apply", "--max-share", "100", "--max-actions", "1", code=3)
    site.sweep("--apply", "--max-share", "100", code=1)
    assert not any(path.exists() for path in bad)
    site.restore("--run", "1", "--no-override", "--apply")
    assert sum(path.exists() for path in bad) == 10


def test_a_hook_reads_the_reply(site: Site) -> None:
    bad = site.put("bad one.png", alarm=True)
    told = site.base / "told"
    hook = f"{sys.executable} -c \"import sys; open('{told}', 'ab').write(sys.stdin.buffer.read())\""
    for _ in range(2):  # told once
        site.run("sweep", site.tree, *site.flags[:4], "--action", "hook", "--hook", hook, "--apply", code=1)
    reply = json.loads(told.read_bytes())
    assert (reply["path"], reply["verdict"], reply["alarm"]) == (str(bad), "sensitive", True)


def test_a_job_of_a_file(site: Site) -> None:
    bad = site.put("bad.png", alarm=True)
    site.put("skipped/bad.png", alarm=True)
    job = site.base / "nightly.toml"
    lines = {
        "directories": [str(site.tree)],
        "exclude": ["skipped"],
        "index": str(site.index),
        "connect": f"unix:{site.daemon.unix}",
        "action": ["quarantine"],
        "quarantine": str(site.quarantine),
        "apply": True,
        "until": "06:00",
        "settle": "0.2s",
        "max_share": 50,
    }
    text = "\n".join(f"{name} = {json.dumps(value)}" for name, value in lines.items())
    job.write_text(text)
    assert f"quarantined {bad}" in site.run("sweep", "--job", job, code=1)
    job.write_text(f"{text}\nexclud = []")
    assert 'unknown key "exclud"; did you mean "exclude"?' in site.run("sweep", "--job", job, code=78)
    job.write_text(text.replace("max_share = 50", 'max_share = "half"'))
    assert f"{job}, key max_share" in site.run("watch", "--job", job, code=78)
    assert "cannot be read" in site.run("sweep", "--job", "no-such-job", code=78)


# -- the watch -------------------------------------------------------------------------------------------------------


def test_a_watch_sees_what_was_there_and_what_comes(site: Site) -> None:
    early = site.put("early.png", alarm=True)
    good = site.put("good.png", alarm=False)
    with site.watch("--apply", "--max-share", "100"):
        site.gone(early)
        wait_until(lambda: site.judged(good))
        written = site.tree / "written.png"
        written.write_bytes(picture(alarm=True))
        site.gone(written)
        site.gone(site.put("moved.png", alarm=True))
        made = site.put("new/deeper/made.png", alarm=True)
        site.gone(made)
        outside = site.base / "outside"
        (outside / "deep").mkdir(parents=True)
        (outside / "deep" / "bad.png").write_bytes(picture(alarm=True))
        outside.rename(site.tree / "inside")
        site.gone(site.tree / "inside" / "deep" / "bad.png")
        late = site.tree / "inside" / "deep" / "late.png"
        late.hardlink_to(_written(site.base / "linked.png", picture(alarm=True)))
        site.gone(late)
        assert good.exists()
    outcomes = site.rows("SELECT outcome, count(*) FROM action GROUP BY outcome")
    assert outcomes == [("done", 6)]
    assert site.rows("SELECT why FROM run WHERE kind = 'watch'") == [("interrupted",)]


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_file_that_is_written_slowly_is_scored_whole(site: Site) -> None:
    whole = picture(alarm=True)
    with site.watch("--apply"):
        wait_until(lambda: site.sweeps(1))
        path = site.tree / "slow.png"
        with path.open("wb") as file:
            file.write(whole[: len(whole) // 2])
            file.flush()
            site.gone(site.put("other.png", alarm=True))  # so the watch had time for it
            file.write(whole[len(whole) // 2 :])
        site.gone(path)
    assert site.rows("SELECT DISTINCT status FROM history") == [("ok",)]


def test_what_comes_while_nobody_watches_is_seen_at_the_next_start(site: Site) -> None:
    with site.watch("--apply"):
        wait_until(lambda: site.sweeps(1))
    bad = site.put("meanwhile/bad.png", alarm=True)
    with site.watch("--apply") as process:
        site.gone(bad)
        other = site.put("killed.png", alarm=True)
        process.kill()
        process.wait()
        process.returncode = 0
        with site.watch("--apply"):
            site.gone(other)


def test_lost_events_lead_to_a_sweep(site: Site) -> None:
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if most > 100_000:
        pytest.skip("this machine's queue of events is too long to fill")
    files = [site.put(f"{number}.png", alarm=False) for number in range(2)]
    with site.watch("--apply", "--max-share", "100") as process:
        wait_until(lambda: site.sweeps(1))
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: " T " in Path(f"/proc/{process.pid}/stat").read_text())
        for number in range(most + 2):
            os.close(os.open(files[number % 2], os.O_WRONLY))
        bad = site.put("new/lost.png", alarm=True)
        process.send_signal(signal.SIGCONT)
        site.gone(bad)
        assert "events were lost" in site.log
        site.gone(site.put("new/after.png", alarm=True))  # the new directory is watched by now


def test_too_few_watches_are_told_and_the_rest_is_swept(site: Site) -> None:
    """A name space of users has a limit of its own, so the kernel itself says no here."""
    limited = ["unshare", "--user", "--map-root-user", "sh", "-c"]
    limited.append('echo 3 > /proc/sys/user/max_inotify_watches && exec "$@"')
    if subprocess.run([*limited, "sh", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no name spaces of users here")
    for number in range(6):
        (site.tree / str(number)).mkdir()
    with site.watch("--apply", "--max-share", "100", "--every", "0.5", within=[*limited, "sh"]):
        wait_until(lambda: site.sweeps(1))
        for path in [site.put(f"{number}/bad.png", alarm=True) for number in range(6)]:
            site.gone(path)
    assert "4 directories cannot be watched and are swept every 0.5 s instead" in site.log
    assert "sysctl -w fs.inotify.max_user_watches=" in site.log


def test_the_breaker_ends_a_watch(site: Site) -> None:
    with site.watch("--apply", "--max-actions", "1", code=3) as process:
        wait_until(lambda: site.sweeps(1))
        for number in range(2):
            site.put(f"{number}.png", alarm=True)
        assert process.wait(30) == 3
    assert len(list(site.tree.iterdir())) == 1 and "--max-actions" in site.log


def test_a_watch_waits_for_a_daemon_that_comes_back(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "daemon")
    site = Site(tmp_path / "site", daemon, tmp_path / "overrides.sqlite")
    with site.watch("--apply"):
        bad = site.put("bad.png", alarm=True)
        wait_until(lambda: "waiting for the daemon" in site.log)
        with daemon:
            site.gone(bad)
    assert list(islice(site.tree.iterdir(), 1)) == []
