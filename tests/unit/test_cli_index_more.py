"""The subcommands of ``nsfwd index`` that look at the whole of it, as a user runs them."""

from __future__ import annotations

import csv
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nsfwd.cli.main import run
from nsfwd.scanning.index.database import Index
from tests.unit.shelf import make_bundle
from tests.unit.shelves import Shelf

STRICTER = """
models_dir = "{models}"
models = ["tiny=nsfw"]
overrides = "none"

[policy.nsfw]
groups = {{safe = ["drawings", "neutral"], sensitive = ["hentai", "porn", "sexy"]}}
tiers = [{{name = "safe"}}, {{name = "sensitive", group = "sensitive", threshold = 0.5, alarm = true}}]
"""

Cli = Callable[..., tuple[int, str]]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    for name in ("a.jpg", "sub/b.jpg", "sub/c.txt"):
        (tree / name).write_text(name)
    return tree


@pytest.fixture
def shelf(tmp_path: Path, tree: Path) -> Iterator[Shelf]:
    with Index(tmp_path / "index.db") as index:
        shelf = Shelf(index)
        first = shelf.run(roots=(os.fsencode(tree),))
        shelf.scored(os.fsencode(tree / "a.jpg"), 0.1, first, real=True)
        shelf.scored(os.fsencode(tree / "sub/b.jpg"), 0.6, first, real=True)
        shelf.unscored(os.fsencode(tree / "sub/c.txt"), "skipped", "not_an_image", first, real=True)
        yield shelf


@pytest.fixture
def cli(shelf: Shelf, capfdbinary: pytest.CaptureFixture[bytes]) -> Cli:
    def call(*arguments: str | Path) -> tuple[int, str]:
        code = run(["index", *map(str, arguments), "--index", str(shelf.index.path)])
        return code, capfdbinary.readouterr().out.decode()

    return call


def test_audit_says_what_adds_up_and_leaves_with_2_when_something_is_missing(cli: Cli, tree: Path) -> None:
    code, out = cli("audit", tree)
    assert code == 0 and "  found          3\n= ok             2\n+ skipped        1  not_an_image 1\n" in out
    (tree / "sub/new\n.jpg").write_text("new")
    (tree / "a.jpg").write_text("changed")
    code, out = cli("audit", tree, "--list", "never-seen")
    assert code == 2 and out.startswith(f"{tree}/sub/new\\n.jpg\n\n  found")
    code, out = cli("audit", tree, "--list", "never-seen", "--list", "changed-since", "--format", "json")
    told = json.loads(out)
    assert {each["kind"]: each["path"] for each in told["files"]} == {
        "never-seen": f"{tree}/sub/new\n.jpg",
        "changed-since": f"{tree}/a.jpg",
    }
    assert told["audit"]["found"] == 4 and told["audit"]["changed_since"] == 1 and told["audit"]["proven"] is False
    assert json.loads(cli("audit", tree, "--format", "ndjson")[1])["audit"]["never_seen"] == 1
    code, out = cli("audit", tree, "--exclude", "new*", "--exclude", "a.jpg", "--list", "excluded")
    assert code == 0 and len(out.split("\n\n")[0].splitlines()) == 2


def test_audit_takes_trees_and_exclusions_of_a_job(cli: Cli, tree: Path, tmp_path: Path) -> None:
    (tree / "new.tmp").write_text("new")
    job = tmp_path / "nightly.toml"
    job.write_text(f'directories = ["{tree}"]\nexclude = ["*.tmp"]\nuntil = "06:00"\n')
    code, out = cli("audit", "--job", job)
    assert code == 0 and "+ excluded       1\n" in out
    assert cli("audit", tree)[0] == 2


def test_audit_of_a_sweep_that_was_paused_says_so(cli: Cli, shelf: Shelf, tree: Path) -> None:
    shelf.run(roots=(os.fsencode(tree),), why="paused")
    assert "the last sweep of the tree, run 2, did not finish: paused at 0 files" in cli("audit", tree)[1]


def test_rejudge_says_what_a_policy_would_change_before_it_does(cli: Cli, shelf: Shelf, tmp_path: Path) -> None:
    make_bundle(tmp_path / "models")
    config = tmp_path / "stricter.toml"
    config.write_text(STRICTER.format(models=tmp_path / "models"))
    code, out = cli("rejudge", "--config", config, "--dry-run", "--format", "json")
    expected = [{"before": "review", "after": "sensitive", "files": 1}, {"before": "safe", "after": "safe", "files": 1}]
    assert code == 0 and json.loads(out) == expected
    assert shelf.index.one("SELECT count(*) FROM file WHERE verdict = 'sensitive'") == (0,)
    code, out = cli("rejudge", "--config", config, "--list", "--format", "csv")
    (row,) = csv.DictReader(out.splitlines())
    assert row["after"] == "sensitive" and row["alarm"] == "true" and row["path"].endswith("b.jpg")
    run_row = shelf.index.one("SELECT kind, why, found, known, alarms FROM run ORDER BY id DESC")
    assert run_row == ("rejudge", "finished", 2, 1, 1)
    assert cli("rejudge", "--config", config, "--connect", "tcp:127.0.0.1:1")[0] == 64
    code, out = cli("diff", "1", "2", "--format", "ndjson")
    told = json.loads(out)
    assert (told["what"], told["before"], told["after"]) == ("verdict", "review", "sensitive")
    assert cli("diff", "1", "9")[0] == 1


def test_sample_and_estimate(cli: Cli, shelf: Shelf, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    file = tmp_path / "sample.csv"
    assert cli("sample", "-n", "2", "-o", file)[0] == 0 and stat.S_IMODE(file.stat().st_mode) == 0o600
    assert cli("sample", "-n", "2")[1] == file.read_text()
    heading, *rows = file.read_text().splitlines()
    file.write_text("\n".join([heading, *(row + ("yes" if "review" in row else "no") for row in rows)]))
    assert run(["index", "estimate", str(file), "--flagged", "review"]) == 0
    assert "precision   100.00% (100.00% to 100.00%)" in capfdbinary.readouterr().out.decode()
    assert run(["index", "estimate", str(file), "--format", "json"]) == 0
    assert json.loads(capfdbinary.readouterr().out)["missed"]["value"] == 1.0
    assert cli("sample", "-n", "1")[0] == 1


def test_export_relocate_and_prune(cli: Cli, shelf: Shelf, tree: Path, tmp_path: Path) -> None:
    code, out = cli("export", "--where", "verdict = review or status = skipped", "--format", "ndjson")
    assert code == 0 and len(out.splitlines()) == 2
    file = tmp_path / "out.csv"
    assert cli("export", "-o", file)[0] == 0 and len(file.read_text().splitlines()) == 4
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for wrong in (("--where", "x = 1"), ("--since", "yesterday"), ("--format", "parquet")):
        assert cli("export", *wrong)[0] == 64
    assert len(cli("export", "--since", "1970-02-01")[1].splitlines()) == 1
    where = (tree / "sub", tmp_path / "moved", "--quarantine", tmp_path / "none")
    assert cli("relocate", *where, "--dry-run")[1] == "2 files would move in the index\n"
    assert cli("relocate", *where) == (0, "2 files moved in the index\n")
    shelf.gone(os.fsencode(tree / "a.jpg"), 1)
    assert cli("prune")[1].startswith("would prune: 1 files, 1 scores,")
    assert cli("prune", "--apply")[1].startswith("pruned: 1 files, 1 scores,")
    assert (tree / "a.jpg").exists()


def test_an_index_and_a_store_that_are_named_relatively_are_written_down_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nsfwd.scanning.actions.quarantine import Store
    from tests.unit.scripted import Script, serving

    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/alarm.jpg").write_bytes(b"alarm")
    monkeypatch.chdir(tmp_path)
    with serving(tmp_path, Script()) as address:
        flags = ["--index", "./index.db", "--quarantine", "store", "--action", "quarantine", "--apply"]
        assert run(["sweep", "tree", "--connect", address, *flags]) == 1
    with Store.quarantine(Path("store")) as store:
        (entry,) = store.entries()
    assert entry.index == str(tmp_path / "index.db")
    (tmp_path / "link.db").symlink_to("index.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    flags = ["--quarantine", "../store", "--no-override", "--apply", "--index", "../link.db"]
    assert run(["restore", "--all", *flags]) == 0
    assert (tmp_path / "tree/alarm.jpg").read_bytes() == b"alarm"
    with Index(tmp_path / "index.db", write=False) as index:
        assert index.one("SELECT restored IS NOT NULL FROM action WHERE kind = 'quarantine'") == (1,)


def test_hard_links_that_stay_are_said_by_the_action_the_list_and_the_index(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from tests.unit.scripted import Script, serving

    (tmp_path / "tree").mkdir()
    alarm = tmp_path / "tree/alarm.jpg"
    alarm.write_bytes(b"alarm")
    (tmp_path / "outside.jpg").hardlink_to(alarm)
    index, store = ["--index", str(tmp_path / "index.db")], ["--quarantine", str(tmp_path / "store")]
    with serving(tmp_path, Script()) as address:
        flags = ["--connect", address, "--action", "quarantine", "--apply", *index, *store]
        assert run(["sweep", str(alarm.parent), *flags]) == 1
    assert "; other hard links to it that still exist: 1\n" in capfd.readouterr().out
    assert run(["restore", "--list", "--format", "ndjson", *store]) == 0
    assert json.loads(capfd.readouterr().out)["links"] == 2
    assert run(["index", "show", str(alarm), *index]) == 0
    assert capfd.readouterr().out.rstrip().endswith("  2 hard links")
