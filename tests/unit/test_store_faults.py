"""Indexes, stores of overrides and manifests that are not what they should be, through the command line.

One line, an exit code, no traceback, and what a person keeps there stays as it is.
"""

from __future__ import annotations

import os
import random
import resource
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nsfwd.cli import main
from nsfwd.overrides.override_store import OverrideStore
from nsfwd.scanning.actions.quarantine import Store
from nsfwd.scanning.index.database import Index
from nsfwd.scanning.index.rejudge import Rejudging
from nsfwd.sqlite_store import SqliteStore
from tests.unit.scripted import Script, serving
from tests.unit.shelf import make_bundle
from tests.unit.shelves import Shelf

DIGEST = "ab" * 32


class Site:
    """A tree with an index, a store of overrides, and settings that name it."""

    def __init__(self, place: Path, address: str) -> None:
        self.place, self.address = place, address
        self.index, self.overrides = place / "index.sqlite", place / "overrides.sqlite"
        self.tree, self.config = place / "tree", place / "nsfwd.toml"
        self.tree.mkdir()
        (self.tree / "a.jpg").write_bytes(b"picture")
        make_bundle(place / "models")
        self.config.write_text(
            f'models_dir = "{place}/models"\nmodels = ["tiny=nsfw"]\noverrides = "{self.overrides}"\n'
        )
        with Index(self.index) as index:
            shelf = Shelf(index)
            first, second = shelf.run(), shelf.run()
            for number in range(200):
                shelf.scored(b"/srv/%d.jpg" % number, number / 200, first if number % 2 else second)
        with OverrideStore(self.overrides) as store:
            for number in range(200):
                store.add(number.to_bytes(32, "big"), "safe", reason="a statue " * 10, by="eva")

    def verbs(self) -> Iterator[tuple[str, ...]]:
        """Every verb that opens the index; the last one writes."""
        index = ("--index", str(self.index))
        yield ("index", "diff", "1", "2", *index)
        yield ("index", "list", *index)
        yield ("report", "--html", str(self.place / "report.html"), "-n", "3", "--pixels", "none", *index)
        yield ("index", "rejudge", "--dry-run", "--config", str(self.config), *index)
        yield ("index", "relocate", "--dry-run", "/srv", "/new", "--quarantine", str(self.place / "none"), *index)
        yield ("index", "rejudge", "--config", str(self.config), *index)
        yield ("sweep", str(self.tree), "--connect", self.address, *index)

    def watch(self) -> tuple[str, ...]:
        return ("watch", str(self.tree), "--connect", self.address, "--index", str(self.index))

    def overriding(self) -> Iterator[tuple[str, ...]]:
        store = ("--store", str(self.overrides))
        yield ("override", "list", *store)
        yield ("override", "export", *store)
        yield ("override", "list", "--history", *store)
        yield ("index", "rejudge", "--dry-run", "--config", str(self.config), "--index", str(self.index))
        yield ("override", "remove", f"sha256:{DIGEST}", *store)
        yield ("override", "add", f"sha256:{DIGEST}", "--verdict", "safe", "--reason", "x", "--force", *store)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr("nsfwd.scanning.sweeps.sweep.lower_priority", lambda: None)
    with serving(tmp_path, Script()) as address:
        yield Site(tmp_path, address)


def ended(verb: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run a verb; it ends with a code that it documents, and without a traceback."""
    code = main.run(list(verb))
    said = capfd.readouterr().err
    assert code != 70 and "Traceback" not in said, (verb, said)
    return code, said


def another_programs(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE cookies (name)")


def another_id(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA application_id = 1")
        db.execute("PRAGMA journal_mode = DELETE")


def newer(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
        db.execute("PRAGMA journal_mode = DELETE")


def no_database(path: Path) -> None:
    path.write_bytes(b"a text, and no database" * 500)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


REFUSED = pytest.mark.parametrize("spoil", [another_programs, another_id, newer, no_database, fifo])


def content(path: Path) -> bytes:
    return path.read_bytes() if stat.S_ISREG(path.stat().st_mode) else b""


@REFUSED
def test_an_index_that_is_none_is_named_and_stays(
    site: Site, spoil: Callable[[Path], None], capfd: pytest.CaptureFixture[str]
) -> None:
    spoil(site.index)
    before = content(site.index)
    for verb in (*site.verbs(), site.watch()):
        code, said = ended(verb, capfd)
        assert code == 74 and said.startswith(f"nsfwd: {site.index}: ") and said.count("\n") == 1, (verb, said)
        assert content(site.index) == before and not list(site.place.glob("index.sqlite-wal"))


@REFUSED
def test_a_store_of_overrides_that_is_none_is_named_and_stays(
    site: Site, spoil: Callable[[Path], None], capfd: pytest.CaptureFixture[str]
) -> None:
    spoil(site.overrides)
    before = content(site.overrides)
    for verb in site.overriding():
        code, said = ended(verb, capfd)
        assert code == 1 and f"nsfwd: {site.overrides}: " in said and said.count("\n") == 1, (verb, said)
        assert content(site.overrides) == before and not list(site.place.glob("overrides.sqlite-wal"))


@pytest.mark.parametrize("seed", range(12))
def test_damaged_pages_end_a_verb_in_one_line(site: Site, seed: int, capfd: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(seed)
    whole = {path: path.read_bytes() for path in (site.index, site.overrides)}
    codes = set()
    for path, verbs in ((site.index, list(site.verbs())), (site.overrides, list(site.overriding()))):
        spoiled = bytearray(whole[path])
        for _ in range(rng.choice((1, 30, 500))):
            spoiled[rng.randrange(100, len(spoiled))] = rng.randrange(256)
        for verb in verbs:
            path.write_bytes(spoiled)
            for log in path.parent.glob(f"{path.name}-*"):
                log.unlink()
            code, said = ended(verb, capfd)
            assert code in (0, 1, 2, 74), (verb, said)
            if code == 74 or (path is site.overrides and code == 1 and "no override for" not in said):
                assert f"nsfwd: {path}: " in said and said.count("\n") == 1, (verb, said)
            codes.add(code)
        path.write_bytes(whole[path])
    assert codes


def columns() -> Iterator[tuple[str, object]]:
    for column in ("digest", "verdict", "reason", "author", "time", "expires", "path"):
        for value in (b"\xff\xfe", "text", 7, 1e300):
            yield column, value


@pytest.mark.parametrize(("column", "value"), list(columns()))
def test_a_column_of_an_override_that_holds_something_else(
    site: Site, column: str, value: object, capfd: pytest.CaptureFixture[str]
) -> None:
    with sqlite3.connect(site.overrides) as db:
        db.execute(f"UPDATE OR IGNORE override SET {column} = ? WHERE digest = ?", (value, bytes(32)))
    for verb in site.overriding():
        code, said = ended(verb, capfd)
        if "damaged" in said:
            assert code == 1 and said.startswith(f"nsfwd: {site.overrides}: ") and said.count("\n") == 1, (verb, said)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (Index, OverrideStore):
        monkeypatch.setattr(kind, "FORMAT", replace(kind.FORMAT, patience=0.05))


@pytest.mark.usefixtures("hasty")
def test_a_file_that_another_process_holds_is_read_and_a_writer_gives_up(
    site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    for path, verbs in ((site.index, [*site.verbs(), site.watch()]), (site.overrides, list(site.overriding()))):
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        locked = 0
        for verb in verbs:
            code, said = ended(verb, capfd)
            if code:
                assert said == f"nsfwd: {path}: database is locked\n" and code == (74 if path is site.index else 1)
                locked += 1
        assert locked == (3 if path is site.index else 2)
        holder.execute("ROLLBACK")
        holder.close()


FULL = """
import resource, sys
sys.dont_write_bytecode = True
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
from nsfwd.cli.main import run
sys.exit(run(sys.argv[2:]))
"""


def test_a_disk_that_is_full_is_named(site: Site) -> None:
    before = {path: path.read_bytes() for path in (site.index, site.overrides)}
    for path, verb, code in (
        (site.index, [*site.verbs()][-2], 74),
        (site.index, [*site.verbs()][-1], 74),
        (site.overrides, [*site.overriding()][-1], 1),
    ):
        done = subprocess.run(
            [sys.executable, "-c", FULL, "100", *verb], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == code and done.stderr.startswith(f"nsfwd: {path}"), (verb, done.stderr)
        assert "Traceback" not in done.stderr and done.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in before} == before
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.mark.parametrize("kind", [Index, OverrideStore])
def test_a_file_that_may_not_be_read_says_so(
    tmp_path: Path, kind: type[SqliteStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    kind(path).close()
    real = os.access
    monkeypatch.setattr(os, "access", lambda name, how, **rest: how != os.R_OK and real(name, how, **rest))
    with pytest.raises(kind.FORMAT.failure, match=r"file: Permission denied$"):
        kind(path, write=False)


# -- dry runs ----------------------------------------------------------------------------------------------------------


def test_dry_runs_only_read(site: Site, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[bool] = []
    real = Index.__init__

    def init(self: Index, path: Path, *, create: bool = True, write: bool = True) -> None:
        opened.append(write)
        real(self, path, create=create, write=write)

    monkeypatch.setattr(Index, "__init__", init)
    for verb in site.verbs():
        if "--dry-run" in verb:
            assert ended(verb, capfd)[0] == 0
    assert opened == [False, False]


# -- an interrupted rejudge --------------------------------------------------------------------------------------------

TERMINATED = """
import os, signal, sys
from nsfwd.cli.main import run
from nsfwd.scanning.index.rejudge import Rejudging
written = Rejudging._write
def write(self, rows):
    written(self, rows)
    os.kill(os.getpid(), signal.SIGTERM)
Rejudging._write = write
sys.exit(run(sys.argv[1:]))
"""


def test_sigterm_interrupts_a_rejudge_whose_run_then_has_an_end(site: Site) -> None:
    assert hasattr(Rejudging, "_write")
    verb = [*site.verbs()][-2]
    done = subprocess.run([sys.executable, "-c", TERMINATED, *verb], capture_output=True, text=True, check=False)
    assert done.returncode == 130 and "Traceback" not in done.stderr
    with Index(site.index, write=False) as index:
        assert index.one("SELECT kind, why FROM run ORDER BY id DESC") == ("rejudge", "interrupted")


# -- manifests ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def quarantined(site: Site, capfd: pytest.CaptureFixture[str]) -> Path:
    """A quarantine with three files."""
    for name in ("x", "y", "z"):
        (site.tree / f"{name}.jpg").write_bytes(b"alarm " + name.encode())
    store = site.place / "quarantine"
    flags = ("--action", "quarantine", "--apply", "--quarantine", str(store), "--max-actions", "9")
    assert ended((*[*site.verbs()][-1], *flags), capfd)[0] == 1
    return store


def cut_short(manifest: Path) -> None:
    manifest.write_bytes(manifest.read_bytes()[:40])


def loop(manifest: Path) -> None:
    manifest.unlink()
    manifest.symlink_to(manifest)


def pipe(manifest: Path) -> None:
    manifest.unlink()
    os.mkfifo(manifest)


def folder(manifest: Path) -> None:
    manifest.unlink()
    manifest.mkdir()


@pytest.mark.parametrize("spoil", [cut_short, loop, pipe, folder])
def test_a_manifest_that_cannot_be_read_is_reported_and_the_others_come_back(
    site: Site, quarantined: Path, spoil: Callable[[Path], None], capfd: pytest.CaptureFixture[str]
) -> None:
    bad = sorted(quarantined.glob("manifests/*/*.json"))[0]
    spoil(bad)
    store = ("--quarantine", str(quarantined), "--no-override", "--config", str(site.config))
    assert main.run(["restore", "--list", *store]) == 1
    out, err = capfd.readouterr()
    assert out.count("\n") == 2 and err.startswith(f"nsfwd: {quarantined}: {bad.name}: ") and err.count("\n") == 1
    code, said = ended(("restore", "--all", "--apply", *store), capfd)
    assert code == 1 and bad.name in said
    assert len(list(site.tree.glob("[xyz].jpg"))) == 2 and os.path.lexists(bad)


def test_a_manifest_of_a_killed_run_that_cannot_be_read_stops_nobody(
    site: Site, quarantined: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    desk = quarantined / "pending" / "dead"
    desk.mkdir(mode=0o700)
    bad = desk / f"{DIGEST}.12345678.json"
    bad.write_text("{")
    store = ("--quarantine", str(quarantined), "--no-override", "--config", str(site.config))
    code, said = ended(("restore", "--all", "--apply", *store), capfd)
    assert code == 0 and bad.name in said and bad.exists()
    assert len(list(site.tree.glob("[xyz].jpg"))) == 3
    with Store.quarantine(quarantined) as opened:
        assert not list(opened.entries())


def test_restore_makes_no_store_of_overrides_that_is_called_none(
    site: Site, quarantined: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(site.place)
    site.config.write_text(site.config.read_text().replace(str(site.overrides), "none"))
    flags = ("--apply", "--verdict", "safe", "--quarantine", str(quarantined), "--config", str(site.config))
    code, said = ended(("restore", "--all", *flags), capfd)
    assert code == 1 and "give a store with --store" in said and not (site.place / "none").exists()
