"""``ActionExecutor`` acts on verdicts: once on each, after the breaker has allowed it, and with a row for every action.

    log          a line that says so; done without ``apply`` too, as it changes nothing
    copy         a copy below a directory
    hook         a program of the site's that reads the reply
    move         taken to a directory where it keeps its path
    quarantine   taken to a directory that nobody else may enter

Nothing deletes. Without ``apply`` it says what it would do, and stops where it would stop. Decides and writes rows of
``action``; how files move is ``move_out``.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nsfwd.errors import ActionFailure, NsfwdError
from nsfwd.protocol.messages import FileIdentity
from nsfwd.scanning.actions.action_rows import note_recovered
from nsfwd.scanning.actions.breaker import Breaker, Limits
from nsfwd.scanning.actions.hook import Hook, HookFailed, HookSettings
from nsfwd.scanning.actions.move_out import PLACEHOLDER_DIGEST, Subject, copy_out, take
from nsfwd.scanning.actions.quarantine import Releases, Store, records_of
from nsfwd.scanning.actions.quarantine_manifest import ManifestEntry, because, text_of
from nsfwd.scanning.actions.recovery import recover
from nsfwd.scanning.index.database import Index
from nsfwd.scanning.index.file_result import Judged
from nsfwd.scanning.trees.file_entry import below, join, within
from nsfwd.scanning.trees.files import Changed

KINDS = ("log", "copy", "hook", "move", "quarantine")
"""In the order in which they are done to one file: the file goes last."""

GRACE = 60.0
"""Seconds for which what came back is left alone: by then the daemon has taken up the override that came with it."""

_TAKING = frozenset({"move", "quarantine"})


@dataclass(frozen=True, slots=True)
class ActionPlan:
    """The actions of a run, and the verdicts they apply to.

    Attributes:
        kinds: of ``KINDS``; at most one of ``move`` and ``quarantine``.
        on: verdicts; empty for every alarm.
        apply: do it, and do not only say it.
        quarantine: directory of ``quarantine``. ``to``: directory of ``copy`` and ``move``.
        placeholder: put a picture in the place of what is taken.
        hook: of ``hook``.
        limits: of the circuit breaker.
    """

    kinds: tuple[str, ...]
    on: frozenset[str] = frozenset()
    apply: bool = False
    quarantine: Path | None = None
    to: Path | None = None
    placeholder: bool = False
    hook: HookSettings | None = None
    limits: Limits = field(default_factory=Limits)


class ActionExecutor:
    """The action handler of a run; for one event loop, in the thread of the index.

    Args:
        roots: of the run, to know how many files it is about.
        say: is given one line for each action that is done, or would be.

    Raises:
        ActionFailure: a directory cannot be used.
    """

    def __init__(self, index: Index, plan: ActionPlan, *, roots: Sequence[bytes], say: Callable[[str], None]) -> None:
        self.acted = 0
        self.outcomes: Counter[str] = Counter()
        self._index, self._plan, self._roots, self._say = index, plan, tuple(roots), say
        self._breaker = Breaker(plan.limits)
        self._counted = False
        self._hook = Hook(plan.hook) if plan.hook is not None else None
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: NsfwdError | None = None
        self._linked: dict[tuple[int, int], FileIdentity] = {}
        self._moving = asyncio.Lock()
        self._store, self._releases = _store(plan), _releases(plan)
        if self._store is not None:
            recover(self._store, self._recovered, say=say)

    @property
    def failed(self) -> int:
        """Actions that could not be done, hooks that failed among them; not files that had changed."""
        return self.outcomes["failed"]

    def wants(self, verdict: str, alarm: bool) -> bool:
        """Return whether the plan has actions for such a verdict."""
        return verdict in self._plan.on if self._plan.on else alarm

    def done(self, path: bytes, digest: bytes) -> bool:
        """Return whether all planned actions were done to this content at this path."""
        return not self._left(path, digest)[0]

    async def act(self, judged: Judged) -> None:
        """Do the planned actions for one file.

        Raises:
            BreakerOpen: this one would be one too many; nothing was done to it.
            ActionFailure: nothing more can be done.
        """
        if self._failure is not None:
            raise self._failure
        self._breaker.note(time.monotonic())
        kinds = self._wanted(judged)
        if kinds != ("log",)[: len(kinds)]:
            self._count_known()
            self._breaker.ask(time.monotonic())
        if not self._plan.apply:
            self._rehearse(judged, kinds)
            kinds = tuple(kind for kind in kinds if kind == "log")
        if "hook" in kinds:
            self._begin(judged, kinds)
            await self._wait_for_hooks()
        elif kinds:
            await self._perform(judged, kinds)

    async def finish(self) -> None:
        """Wait for hooks that still run.

        Raises:
            ActionFailure: one of the last actions could not be done, and no other could.
        """
        await asyncio.gather(*self._tasks)
        self._warn()
        if self._store is not None:
            async with self._moving:
                self._store.close()
        if self._failure is not None:
            raise self._failure

    def _warn(self) -> None:
        """Warn of planned verdicts that no policy of the index has: a typing error would be silent for ever."""
        bodies = [json.loads(body) for (body,) in self._index.read("SELECT body FROM policy WHERE body IS NOT NULL")]
        known = {tier["name"] for body in bodies for policy in body.values() for tier in policy.get("tiers", ())}
        labels = {label for (text,) in self._index.read("SELECT labels FROM model") for label in json.loads(text)}
        for verdict in sorted(self._plan.on - known - labels) if known else ():
            self._say(f"no policy has the verdict {verdict!r}: nothing is done about it")

    # -- deciding -------------------------------------------------------------------------------------------------

    def _wanted(self, judged: Judged) -> tuple[str, ...]:
        """Return the planned kinds of action for a file, in their order."""
        if judged.digest is None or not self.wants(judged.verdict or "", judged.alarm):
            return ()
        kinds, restored = self._left(judged.found.path, judged.digest)
        release = self._releases.of(judged.digest) if self._releases is not None and kinds else None
        decided = judged.override.get("time", 0.0) if judged.override is not None else 0.0
        if release is not None and decided > release.decided:  # a later decision
            return kinds
        if max(restored, release.time if release is not None else 0.0) > time.time() - GRACE:
            return ()
        if release is not None and decided == release.decided:
            return tuple(kind for kind in kinds if kind not in _TAKING)
        return kinds

    def _left(self, path: bytes, digest: bytes) -> tuple[tuple[str, ...], float]:
        """Return the kinds that were not done yet to this content at this path, and when it was last restored."""
        if digest == PLACEHOLDER_DIGEST or (self._store is not None and self._store.holds(path)):
            return (), 0.0
        rows = self._index.read(
            "SELECT kind, restored FROM action WHERE digest = ? AND path = ? AND outcome = 'done'", (digest, path)
        )
        done, last = set(), 0.0
        for kind, restored in rows:
            if kind not in _TAKING:  # a file that was taken and is here again is a new one
                done.add(kind)
            last = max(last, restored or 0.0)
        return tuple(kind for kind in KINDS if kind in self._plan.kinds and kind not in done), last

    def _count_known(self) -> None:
        """Count once, for the breaker, the files of these trees that were judged before this run."""
        if self._counted:
            return
        self._counted = True
        for root in self._roots:
            row = self._index.one(
                "SELECT count(*) FROM file WHERE status = 'ok' AND gone IS NULL AND directory IN"
                " (SELECT id FROM directory WHERE path = ? OR (path >= ? AND path < ?))",
                (root, *below(root)),
            )
            self._breaker.known += row[0] if row else 0

    def _rehearse(self, judged: Judged, kinds: Sequence[str]) -> None:
        for kind in kinds:
            if kind != "log":
                self.outcomes["would"] += 1
                self._say(f"would {kind} {text_of(judged.found.path)} ({judged.graded})")

    # -- doing ----------------------------------------------------------------------------------------------------

    def _begin(self, judged: Judged, kinds: Sequence[str]) -> None:
        task = asyncio.create_task(self._perform_later(judged, kinds))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _perform_later(self, judged: Judged, kinds: Sequence[str]) -> None:
        try:
            await self._perform(judged, kinds)
        except NsfwdError as error:
            self._failure = self._failure or error

    async def _wait_for_hooks(self) -> None:
        """Wait while more hooks are queued than may run at once."""
        assert self._plan.hook is not None
        while len(self._tasks) > 2 * self._plan.hook.concurrency:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    async def _perform(self, judged: Judged, kinds: Sequence[str]) -> None:
        """Do one kind after the other. A changed file is left alone; a failed hook does not stop the others."""
        touched = False
        for kind in kinds:
            try:
                await self._do(kind, judged)
                touched = touched or kind != "log"
            except Changed as error:
                self._note(kind, judged, "changed", message=str(error))
                break
            except (OSError, HookFailed) as error:
                self._note(kind, judged, "failed", message=getattr(error, "strerror", None) or str(error))
            except ActionFailure as error:
                self._note(kind, judged, "failed", message=str(error))
                raise
        self.acted += touched

    async def _do(self, kind: str, judged: Judged) -> None:
        if kind == "log":
            self._note(kind, judged, "done")
        elif kind == "hook":
            assert self._hook is not None
            await self._hook.run(judged.reply)
            self._note(kind, judged, "done")
        elif kind == "copy":
            assert self._plan.to is not None
            async with self._moving:
                target = await asyncio.to_thread(copy_out, self._plan.to, self._subject(judged))
            self._note(kind, judged, "done", target=target)
        else:
            async with self._moving:
                await self._take(kind, judged)

    async def _take(self, kind: str, judged: Judged) -> None:
        assert self._store is not None
        entry, now = await asyncio.to_thread(take, self._store, self._subject(judged))
        if entry.links > 1:
            self._linked[(entry.dev, entry.ino)] = now
        self._note(kind, judged, "done", target=self._store.path_of(entry), links=entry.links)
        await asyncio.to_thread(self._store.file, entry)

    def _subject(self, judged: Judged) -> Subject:
        assert judged.digest is not None
        facts: dict[str, Any] = {**because(judged.reply), "run": self._run(), "index": self._index.text}
        if judged.verdict:
            facts["verdict"] = judged.verdict
        found = judged.found
        ours = self._linked.get((found.dev, found.ino))
        return Subject(found, judged.digest, facts, self._plan.placeholder, self._home(found.directory), ours)

    def _home(self, directory: bytes) -> bytes:
        """Return a directory with the links above its tree resolved: the user who named the tree trusts those."""
        for root in self._roots:
            if within(directory, root):
                return join(os.path.realpath(root), directory[len(root.rstrip(b"/")) :].lstrip(b"/")).rstrip(b"/")
        return directory

    # -- writing down ---------------------------------------------------------------------------------------------

    def _note(
        self,
        kind: str,
        judged: Judged,
        outcome: str,
        *,
        target: bytes | None = None,
        message: str | None = None,
        links: int | None = None,
    ) -> None:
        """Write a row and print its line; ``links`` is how many hard links a file had that was taken."""
        path = judged.found.path
        with self._index.transaction():
            self._index.write(
                "INSERT INTO action (run, time, kind, path, target, digest, verdict, outcome, message, links)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (self._run(), time.time(), kind, path, target, judged.digest, judged.verdict, outcome, message, links),
            )
        self.outcomes[outcome] += 1
        if outcome != "done":
            self._say(f"{kind} of {text_of(path)} ({judged.graded}): {outcome}: {message}")
        else:
            where = f" -> {text_of(target)}" if target is not None else ""
            self._say(f"{_DONE[kind]} {text_of(path)} ({judged.graded}){where}{_remaining(links)}")

    def _run(self) -> int | None:
        """Return the number of the run of this process."""
        row = self._index.one("SELECT max(id) FROM run WHERE pid = ? AND ended IS NULL", (os.getpid(),))
        return row[0] if row else None

    def _recovered(self, entry: ManifestEntry) -> None:
        """Write the row of a run that was killed before it could."""
        assert self._store is not None
        note_recovered(self._index, entry, self._store.path_of(entry))
        cut_off = f"by a run that was cut off{_remaining(entry.links)}"
        self._say(f"{_DONE[entry.kind]} {entry.path_text} ({entry.verdict}), {cut_off}")


_DONE = {"log": "found", "copy": "copied", "hook": "ran the hook for", "move": "moved", "quarantine": "quarantined"}


def _remaining(links: int | None) -> str:
    """Return a note that a content can still be read under other names."""
    others = (links or 1) - 1
    return f"; other hard links to it that still exist: {others}" if others else ""


def _releases(plan: ActionPlan) -> Releases | None:
    """Return the releases of the store that files are moved into; a dry run respects them too."""
    if "quarantine" in plan.kinds and plan.quarantine is not None:
        return Releases(records_of(plan.quarantine, sealed=True))
    if "move" in plan.kinds and plan.to is not None:
        return Releases(records_of(plan.to, sealed=False))
    return None


def _store(plan: ActionPlan) -> Store | None:
    if "quarantine" in plan.kinds and plan.apply:
        assert plan.quarantine is not None
        return Store.quarantine(plan.quarantine)
    if "move" in plan.kinds and plan.apply:
        assert plan.to is not None
        return Store.shelf(plan.to)
    return None
