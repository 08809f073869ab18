"""What is done about verdicts: each once, none before the breaker allowed it, and every one written down."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest

from nsfwd.cli import main
from nsfwd.cli.options import action_options as flags
from nsfwd.errors import ActionFailure, BreakerOpen
from nsfwd.quantities import format_duration
from nsfwd.scanning.actions import breaker, executor, hook, move_out
from nsfwd.scanning.actions.breaker import Breaker, Limits
from nsfwd.scanning.actions.executor import ActionExecutor, ActionPlan
from nsfwd.scanning.actions.hook import Hook, HookFailed, HookSettings
from nsfwd.scanning.actions.move_out import Subject, take
from nsfwd.scanning.actions.quarantine import Store
from nsfwd.scanning.actions.restore import restore
from nsfwd.scanning.index.database import Index
from nsfwd.scanning.index.file_result import Judged
from nsfwd.scanning.trees.file_entry import FileEntry

READER = "import json, sys; open(sys.argv[1], 'a').write(json.load(sys.stdin)['path'] + '\\n')"


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with Index(tmp_path / "index.db") as opened:
        with opened.transaction():
            opened.write("INSERT INTO run (kind, roots, started, pid) VALUES ('sweep', '/', 1, ?)", (os.getpid(),))
        yield opened


def picture(tmp_path: Path, name: str, *, verdict: str = "sensitive") -> Judged:
    path = tmp_path / "pictures" / name
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        path.write_bytes(name.encode() * 100)
    now = path.stat()
    return Judged(
        FileEntry(
            os.fsencode(path.parent), os.fsencode(name), now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns,
            now.st_ctime_ns,
        ),
        "ok",
        digest=hashlib.sha256(path.read_bytes()).digest(),
        verdict=verdict,
        alarm=verdict == "sensitive",
        score=0.86,
        reply={"path": str(path), "status": "ok", "verdict": verdict, "label": "porn", "score": 0.9},
    )  # fmt: skip


def plan(tmp_path: Path, *kinds: str, **rest: Any) -> ActionPlan:
    return ActionPlan(kinds, **{"apply": True, "quarantine": tmp_path / "quarantine", "to": tmp_path / "to", **rest})


def perform(index: Index, wanted: ActionPlan, *judged: Judged) -> list[str]:
    """Act on files one after the other, and return what was said."""
    said: list[str] = []

    async def work() -> None:
        actor = ActionExecutor(index, wanted, roots=[b"/"], say=said.append)
        try:
            for each in judged:
                await actor.act(each)
        finally:
            await actor.finish()

    asyncio.run(work())
    return said


def rows(index: Index, columns: str = "kind, outcome") -> list[tuple[Any, ...]]:
    return list(index.read(f"SELECT {columns} FROM action ORDER BY id"))


def test_a_dry_run_touches_nothing(index: Index, tmp_path: Path) -> None:
    judged = [picture(tmp_path, "a.jpg"), picture(tmp_path, "b.jpg", verdict="safe")]
    said = perform(index, plan(tmp_path, "quarantine", "hook", apply=False, hook=HookSettings(("false",))), *judged)
    path = os.fsdecode(judged[0].found.path)
    assert said == [f"would hook {path} (sensitive 0.86)", f"would quarantine {path} (sensitive 0.86)"]
    assert not rows(index) and not (tmp_path / "quarantine").exists()
    assert Path(path).exists()


def test_an_alarm_is_quarantined_and_written_down(index: Index, tmp_path: Path) -> None:
    bad, good = picture(tmp_path, "a.jpg"), picture(tmp_path, "b.jpg", verdict="safe")
    (line,) = perform(index, plan(tmp_path, "quarantine"), bad, good)
    assert not Path(os.fsdecode(bad.found.path)).exists() and Path(os.fsdecode(good.found.path)).exists()
    ((run, kind, path, target, digest, verdict, outcome),) = rows(
        index, "run, kind, path, target, digest, verdict, outcome"
    )
    assert (run, kind, path, digest, verdict, outcome) == (
        1, "quarantine", bad.found.path, bad.digest, "sensitive", "done",
    )  # fmt: skip
    assert Path(os.fsdecode(target)).exists() and line.endswith(f"-> {os.fsdecode(target)}")
    (entry,) = Store.quarantine(tmp_path / "quarantine").entries()
    assert (entry.run, entry.index, entry.verdict, entry.label, entry.score) == (
        1, str(index.path), "sensitive", "porn", 0.9,
    )  # fmt: skip


def test_verdicts_are_chosen(index: Index, tmp_path: Path) -> None:
    judged = [picture(tmp_path, f"{verdict}.jpg", verdict=verdict) for verdict in ("safe", "review", "sensitive")]
    said = perform(index, plan(tmp_path, "quarantine", on=frozenset({"review"}), apply=False), *judged)
    assert [line.rpartition("(")[2] for line in said] == ["review 0.86)"]


def test_what_was_done_is_not_done_again(index: Index, tmp_path: Path) -> None:
    judged = picture(tmp_path, "a.jpg")
    wanted = plan(tmp_path, "log", "copy", "hook", hook=HookSettings(("true",)))
    perform(index, wanted, judged)
    perform(index, wanted, judged)
    assert rows(index) == [("log", "done"), ("copy", "done"), ("hook", "done")]
    actor = ActionExecutor(index, wanted, roots=[b"/"], say=print)
    assert judged.digest is not None
    assert actor.done(judged.found.path, judged.digest) and not actor.done(b"/other", judged.digest)


def test_what_was_taken_and_came_again_is_taken_again(index: Index, tmp_path: Path) -> None:
    for _ in range(2):
        perform(index, plan(tmp_path, "quarantine"), picture(tmp_path, "a.jpg"))
    assert rows(index) == [("quarantine", "done")] * 2


@pytest.mark.parametrize("apply", [False, True])
@pytest.mark.parametrize("kind", ["quarantine", "move"])
def test_what_a_person_released_is_taken_only_when_somebody_decides_anew(
    index: Index, tmp_path: Path, kind: str, apply: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = picture(tmp_path, "a.jpg")
    perform(index, plan(tmp_path, kind), judged)
    opened = Store.quarantine(tmp_path / "quarantine") if kind == "quarantine" else Store.shelf(tmp_path / "to")
    with opened as store:
        (entry,) = store.entries()
        store.release(entry, 1000.25)
        restore(store, entry)
    again = picture(tmp_path, "a.jpg")
    wanted = plan(tmp_path, kind, "log", on=frozenset({"safe", "sensitive"}), apply=apply)
    assert perform(index, wanted, again) == []  # the daemon may not know of the decision yet
    monkeypatch.setattr(executor, "GRACE", 0.0)
    ours = replace(again, verdict="safe", alarm=False, override={"verdict": "safe", "time": 1000.25})
    assert [line.split()[0] for line in perform(index, wanted, ours)] == ["found"]
    done = {"quarantine": "quarantined", "move": "moved"}[kind] if apply else "would"
    for override in ({"verdict": "safe", "time": 2000.0}, None):  # somebody decided anew; took the decision back
        told = replace(picture(tmp_path, "a.jpg"), override=override)
        assert [line.split()[0] for line in perform(index, wanted, told)] == [done]


def test_a_decision_after_the_release_counts_at_once(index: Index, tmp_path: Path) -> None:
    perform(index, plan(tmp_path, "quarantine"), picture(tmp_path, "a.jpg"))
    with Store.quarantine(tmp_path / "quarantine") as store:
        (entry,) = store.entries()
        store.release(entry, 1000.25)
        restore(store, entry)
    again = replace(picture(tmp_path, "a.jpg"), override={"verdict": "sensitive", "time": 2000.0})
    assert [line.split()[0] for line in perform(index, plan(tmp_path, "quarantine"), again)] == ["quarantined"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_root_notes_in_a_quarantine_its_owner_can_read(index: Index, tmp_path: Path) -> None:
    perform(index, plan(tmp_path, "quarantine"), picture(tmp_path, "a.jpg"))
    place = tmp_path / "quarantine"
    for path in (place, *place.rglob("*")):
        os.chown(path, 65534, 65534)
    with Store.quarantine(place) as store:
        (entry,) = store.entries()
        store.release(entry, 1000.25)
        store.correct(entry)
    assert {path.stat().st_uid for path in place.rglob("*") if path.name != "pending"} == {65534}
    assert {path.parent.parent.name for path in place.rglob("*.json")} == {"released", "manifests"}


@pytest.mark.parametrize("kind", ["quarantine", "move"])
def test_what_was_taken_from_a_tree_that_moved_comes_back_to_its_new_place(
    index: Index, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    judged, old, new = picture(tmp_path, "a.jpg"), tmp_path / "pictures", tmp_path / "moved"
    content = (old / "a.jpg").read_bytes()
    with index.transaction():
        index.write("INSERT INTO directory (path) VALUES (?)", (os.fsencode(old),))
    perform(index, plan(tmp_path, kind), judged)
    old.rename(new)
    command = ["index", "relocate", str(old), str(new), "--index", str(index.path)]
    assert main.run([*command, "--quarantine", str(tmp_path / "none")]) == 1
    assert "1 files of the tree were moved to another place" in capsys.readouterr().err
    command += ["--quarantine", str(tmp_path / "quarantine"), "--to", str(tmp_path / "to")]
    assert main.run([*command, "--dry-run"]) == 0
    assert main.run(command) == 0
    assert capsys.readouterr().out.splitlines() == [
        "0 files would move in the index", f"1 moved files would come back below {new}",
        "0 files moved in the index", f"1 moved files come back below {new}",
    ]  # fmt: skip
    assert rows(index, "path") == [(os.fsencode(new / "a.jpg"),)]
    opened = Store.quarantine(tmp_path / "quarantine") if kind == "quarantine" else Store.shelf(tmp_path / "to")
    with opened as store:
        (entry,) = store.entries()
        assert (entry.path, entry.path_text) == (os.fsencode(new / "a.jpg"), str(new / "a.jpg"))
        restore(store, entry)
        store.correct(entry)
        assert not list(store.entries())
    assert (new / "a.jpg").read_bytes() == content


def test_a_file_that_was_changed_is_left_alone(index: Index, tmp_path: Path) -> None:
    judged = picture(tmp_path, "a.jpg")
    Path(os.fsdecode(judged.found.path)).write_bytes(b"new")
    perform(index, plan(tmp_path, "quarantine"), judged)
    assert rows(index) == [("quarantine", "changed")]
    assert Path(os.fsdecode(judged.found.path)).read_bytes() == b"new"


def test_one_file_that_cannot_be_taken_stops_nothing(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = picture(tmp_path, "a.jpg"), picture(tmp_path, "b.jpg")

    def refusing(store: Store, subject: Subject) -> Any:
        if subject.found.name == b"a.jpg":
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return take(store, subject)

    monkeypatch.setattr(executor, "take", refusing)
    perform(index, plan(tmp_path, "quarantine"), first, second)
    assert rows(index, "outcome, message") == [("failed", "Operation not permitted"), ("done", None)]


def test_a_full_disk_stops_the_run(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = picture(tmp_path, "a.jpg")

    def full(*_: object) -> Any:
        raise ActionFailure("no room")

    monkeypatch.setattr(executor, "take", full)
    with pytest.raises(ActionFailure):
        perform(index, plan(tmp_path, "quarantine"), judged)
    assert rows(index, "outcome, message") == [("failed", "no room")]


def test_the_placeholder_and_the_store_are_never_acted_upon(index: Index, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "grey.png").write_bytes(move_out.PLACEHOLDER)
    (tmp_path / "quarantine").mkdir(mode=0o700)
    (tmp_path / "quarantine" / "x").write_bytes(b"x")
    inside = picture(tmp_path, "grey.png")
    stored = Judged(
        FileEntry(os.fsencode(tmp_path / "quarantine"), b"x", 1, 1, 1, 1, 1), "ok", digest=b"x" * 32, alarm=True
    )
    perform(index, plan(tmp_path, "quarantine"), inside, stored)
    assert not rows(index)


def test_every_hard_link_of_a_file_goes(index: Index, tmp_path: Path) -> None:
    picture(tmp_path, "a.jpg")
    (tmp_path / "pictures" / "b.jpg").hardlink_to(tmp_path / "pictures" / "a.jpg")
    perform(index, plan(tmp_path, "quarantine"), picture(tmp_path, "a.jpg"), picture(tmp_path, "b.jpg"))
    assert rows(index) == [("quarantine", "done")] * 2


def test_what_a_killed_run_took_is_written_down_later(index: Index, tmp_path: Path) -> None:
    judged = picture(tmp_path, "a.jpg")
    assert judged.digest is not None
    child = os.fork()
    if not child:
        facts = {"run": 1, "index": str(index.path), "verdict": "sensitive"}
        take(Store.quarantine(tmp_path / "quarantine"), Subject(judged.found, judged.digest, facts))
        os._exit(0)
    os.waitpid(child, 0)
    said = perform(index, plan(tmp_path, "quarantine"))
    assert rows(index, "run, kind, path, outcome") == [(1, "quarantine", judged.found.path, "done")]
    assert said[0].endswith("by a run that was cut off")
    assert len(list(Store.quarantine(tmp_path / "quarantine").entries())) == 1
    assert perform(index, plan(tmp_path, "quarantine")) == []


# -- the breaker -----------------------------------------------------------------------------------------------------


def test_no_more_files_than_allowed(index: Index, tmp_path: Path) -> None:
    judged = [picture(tmp_path, f"{number}.jpg") for number in range(4)]
    with pytest.raises(BreakerOpen, match=r"more than 3 files.*--max-actions"):
        perform(index, plan(tmp_path, "quarantine", limits=Limits(most=3, share=1.0)), *judged)
    assert rows(index) == [("quarantine", "done")] * 3
    assert Path(os.fsdecode(judged[3].found.path)).exists()


def test_no_larger_share_than_allowed() -> None:
    counted = Breaker(Limits(most=1000, share=0.01))
    for _ in range(breaker.LEAST):
        counted.note(0)
        counted.ask(0)
    with pytest.raises(BreakerOpen, match=r"11 of 10 files judged, more than 1 %.*--max-share"):
        counted.ask(0)
    counted.known = 1100  # of an earlier run
    counted.ask(0)
    with pytest.raises(BreakerOpen):
        counted.ask(0)


def test_a_watch_counts_a_day() -> None:
    counted = Breaker(Limits(most=2, share=1.0, window=breaker.DAY))
    for moment in (0, 10):
        counted.note(moment)
        counted.ask(moment)
    with pytest.raises(BreakerOpen):
        counted.ask(20)
    counted.note(breaker.DAY + 5)
    counted.ask(breaker.DAY + 5)
    assert (counted.acted, counted.judged) == (2, 2)


def test_a_dry_run_stops_where_the_real_one_would(index: Index, tmp_path: Path) -> None:
    judged = [picture(tmp_path, f"{number}.jpg") for number in range(4)]
    with pytest.raises(BreakerOpen):
        perform(index, plan(tmp_path, "quarantine", apply=False, limits=Limits(most=3)), *judged)


def test_a_verdict_that_no_policy_has_is_told(index: Index, tmp_path: Path) -> None:
    body = json.dumps({"nsfw": {"tiers": [{"name": "safe"}, {"name": "sensitive"}]}})
    with index.transaction():
        index.write("INSERT INTO policy (identity, body) VALUES ('default@1', ?)", (body,))
    said = perform(index, plan(tmp_path, "log", on=frozenset({"sensitve", "safe"})))
    assert said == ["no policy has the verdict 'sensitve': nothing is done about it"]


def test_flags_say_what_the_limits_are() -> None:
    told = {option.name: option.help or "" for option in _options()}
    assert tuple(flags.KINDS) == executor.KINDS
    for name, value in (
        ("max_actions", breaker.MOST),
        ("max_share", round(100 * breaker.SHARE)),
        ("hook_jobs", hook.CONCURRENCY),
        ("hook_rate", round(hook.RATE)),
        ("hook_timeout", format_duration(hook.TIMEOUT)),
    ):
        assert told[name].endswith(f"[default: {value}]")


def _options() -> list[click.Option]:
    return [one for one in flags.action_options(click.Command("x")).params if isinstance(one, click.Option)]


def test_the_log_needs_no_leave(index: Index, tmp_path: Path) -> None:
    judged = [picture(tmp_path, f"{number}.jpg") for number in range(4)]
    perform(index, plan(tmp_path, "log", apply=False, limits=Limits(most=1)), *judged)
    assert rows(index) == [("log", "done")] * 4


# -- hooks -----------------------------------------------------------------------------------------------------------


def test_a_hook_reads_the_reply_and_nothing_is_run_by_a_shell(index: Index, tmp_path: Path) -> None:
    told = tmp_path / "told"
    judged = picture(tmp_path, "$(touch x); a.jpg")
    command = (sys.executable, "-c", READER, str(told))
    perform(index, plan(tmp_path, "hook", "quarantine", hook=HookSettings(command)), judged)
    assert told.read_text() == os.fsdecode(judged.found.path) + "\n"
    assert rows(index) == [("hook", "done"), ("quarantine", "done")]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("/nowhere/hook",), "/nowhere/hook: No such file or directory"),
        (("sh", "-c", "echo why >&2; exit 3"), "sh: ended with status 3: why"),
        (("sh", "-c", "kill -9 $$"), "sh: ended with status -9"),
    ],
)
def test_a_failed_hook_is_written_down_and_saves_no_file(
    index: Index, tmp_path: Path, command: tuple[str, ...], message: str
) -> None:
    perform(index, plan(tmp_path, "hook", "quarantine", hook=HookSettings(command)), picture(tmp_path, "a.jpg"))
    assert rows(index, "kind, outcome, message") == [("hook", "failed", message), ("quarantine", "done", None)]


def test_a_hook_that_takes_too_long_is_ended_with_all_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 1000 & echo $! > {pids}; wait"

    async def work() -> None:
        with pytest.raises(HookFailed, match="took longer than"):
            await Hook(HookSettings(("sh", "-c", script), timeout=1.5)).run({})

    asyncio.run(work())
    pid = int(pids.read_text())
    end = time.monotonic() + 30  # a process that was killed takes a moment to end
    while (state := state_of(pid)) not in ("Z", "X", "gone"):
        assert time.monotonic() < end, state


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "gone"


def test_few_hooks_run_at_once(tmp_path: Path) -> None:
    """Each notes how many there are; none may see more than two."""
    script = f"mkdir {tmp_path}/$$; ls {tmp_path} | wc -l; rmdir {tmp_path}/$$"
    command = ("sh", "-c", f"test $({script}) -le 2")

    async def work() -> None:
        few = Hook(HookSettings(command, concurrency=2, rate=1000))
        await asyncio.gather(*(few.run({"number": number}) for number in range(8)))

    asyncio.run(work())


def test_hooks_start_at_a_bounded_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("nsfwd.scanning.actions.hook.asyncio.sleep", sleep)
    monkeypatch.setattr("nsfwd.scanning.actions.hook.time.monotonic", lambda: 100.0)

    async def work() -> None:
        slow = Hook(HookSettings(("true",), rate=4))
        for _ in range(3):
            await slow.run({})

    asyncio.run(work())
    assert waits == [0.0, 0.25, 0.5]


def test_a_hook_that_reads_nothing_is_none_the_worse(tmp_path: Path) -> None:
    asyncio.run(Hook(HookSettings(("true",))).run({"long": "x" * 1_000_000}))


def test_the_placeholder_is_a_picture_that_never_changes() -> None:
    assert hashlib.sha256(move_out.PLACEHOLDER).hexdigest() == move_out.PLACEHOLDER_DIGEST.hex()
    assert move_out.PLACEHOLDER_DIGEST.hex().startswith(PLACEHOLDER)
    assert json.dumps(len(move_out.PLACEHOLDER)) == "4228"


PLACEHOLDER = "d1f820501180375c"
