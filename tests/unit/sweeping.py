"""Running sweeps in a test, and reading what they left in the index."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nsfwd.scanning.index.database import Index
from nsfwd.scanning.submission.action_handler import ActionHandler, NullActionHandler
from nsfwd.scanning.submission.scan_run import RunOptions
from nsfwd.scanning.sweeps.pause import Pause
from nsfwd.scanning.sweeps.sweep import SweepPlan, SweepProgress, sweep
from nsfwd.scanning.trees.walk import Exclusion, WalkedTree


class Place:
    """A tree, an index beside it, and the daemon that sweeps ask."""

    def __init__(self, directory: Path, address: str) -> None:
        self.tree, self.path, self.address = directory / "tree", directory / "index.db", address
        self.tree.mkdir(exist_ok=True)
        self.said: list[str] = []
        self.heard: Callable[[str], object] = lambda text: None

    def write(self, name: str, content: bytes) -> Path:
        """Make a file of the tree."""
        path = self.tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def plan(self, *, seconds: float | None = None, exclude: tuple[str, ...] = (), **asking: Any) -> SweepPlan:
        """What a sweep of the tree is about."""
        tree = {key: asking.pop(key) for key in ("follow", "cross") if key in asking}
        root = str(self.tree).encode()
        told: dict[str, Any] = {"connect": self.address, "say": self._say} | asking
        return SweepPlan(
            WalkedTree((root,), Exclusion(exclude), **tree),
            RunOptions("sweep", (root,), **told),
            pause=Pause(seconds=seconds),
        )

    def sweep(
        self,
        actor: ActionHandler | None = None,
        *,
        stop: Callable[[Callable[[], None]], None] | None = None,
        **plan: Any,
    ) -> SweepProgress:
        """Run one sweep to its end."""
        with Index(self.path) as index:
            running = sweep(index, self.plan(**plan), actor or NullActionHandler(), stop=stop or (lambda _: None))
            return asyncio.run(asyncio.wait_for(running, 60))

    def _say(self, text: str) -> None:
        self.said.append(text)
        self.heard(text)

    def rows(self, columns: str = "status, code, verdict", *, gone: bool = False) -> dict[str, tuple[Any, ...]]:
        """Read what the index says: path below the tree -> columns."""
        query = f"""
            SELECT path, name, {columns} FROM file JOIN (SELECT id AS place, path FROM directory) ON place = directory
            WHERE (gone IS NOT NULL) = ?
            """
        with Index(self.path, create=False) as index:
            found = {directory + b"/" + name: rest for directory, name, *rest in index.read(query, (gone,))}
        cut = len(str(self.tree)) + 1
        return {path[cut:].decode("utf-8", "surrogateescape"): tuple(rest) for path, rest in found.items()}

    def value(self, sql: str) -> Any:
        """Read one value."""
        with Index(self.path, create=False) as index:
            row = index.one(sql)
            return row[0] if row is not None else None


def contents(path: Path) -> dict[str, Any]:
    """Everything that an index says of files, in words that do not depend on when and in which run it was said."""
    with Index(path, create=False) as index:
        models: dict[int, str] = dict(index.read("SELECT id, identity FROM model"))
        policies: dict[int, str] = dict(index.read("SELECT id, identity FROM policy"))
        columns = (
            "dev, ino, size, mtime_ns, ctime_ns, digest, status, file.code, verdict, alarm, label, score, override"
        )
        query = f"""
            SELECT directory.path, name, models, policy, gone IS NULL, attempts, {columns}
            FROM file JOIN directory ON directory.id = file.directory ORDER BY 1, 2
            """
        files = [
            (
                directory,
                name,
                {short: models[row] for short, row in json.loads(judges).items()},
                policies[policy],
                *rest,
            )
            for directory, name, judges, policy, *rest in index.read(query)
        ]
        scores = [
            (digest, models[model], blob)
            for digest, model, blob in index.read("SELECT digest, model, scores FROM score ORDER BY 1, 2")
        ]
        directories = list(index.read("SELECT path, code, run IS NOT NULL FROM directory ORDER BY 1"))
    return {"files": files, "scores": scores, "directories": directories}
