"""Indexes filled by code: what a sweep would have left there."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nsfwd.scanning.index.database import Index
from tests.echo_bundle import FIVE_TIERS, LABELS


def spread(sensitive: float) -> tuple[float, ...]:
    """Scores of the five labels with so much of it sensitive."""
    return (1 - sensitive, 0.0, 0.0, sensitive, 0.0)


@dataclass
class Shelf:
    """Writes files into an index as a sweep would have; each with a content of its own unless told."""

    index: Index
    directories: dict[bytes, int] = field(default_factory=dict)
    policy: int = 0
    model: int = 0

    def __post_init__(self) -> None:
        with self.index.transaction():
            self.policy = self.index.write("INSERT INTO policy (identity) VALUES (?)", (FIVE_TIERS.identity,))
            labels = json.dumps(LABELS)
            self.model = self.index.write(
                "INSERT INTO model (identity, short, labels) VALUES ('tiny@1/f32', 'nsfw', ?)", (labels,)
            )

    def run(self, *, kind: str = "sweep", roots: Sequence[bytes] = (b"/srv",), why: str = "finished") -> int:
        with self.index.transaction():
            number = self.index.write(
                "INSERT INTO run (kind, roots, started, pid, policy) VALUES (?, ?, 1000.0, 1, ?)",
                (kind, b"\0".join(roots), self.policy),
            )
            self.index.write("UPDATE run SET ended = started + 60 * id, why = ? WHERE id = ?", (why, number))
        return number

    def directory(self, path: bytes, *, run: int | None = None, code: str | None = None) -> int:
        if path not in self.directories:
            with self.index.transaction():
                self.directories[path] = self.index.write(
                    "INSERT INTO directory (path, run, code) VALUES (?, ?, ?)", (path, run, code)
                )
        return self.directories[path]

    def scored(
        self, path: bytes, sensitive: float, run: int, *, override: str | None = None, real: bool = False
    ) -> int:
        """One file that was scored; ``real``: as it lies on the disk."""
        verdict = "sensitive" if sensitive >= 0.8 else "review" if sensitive >= 0.5 else "safe"
        digest = hashlib.sha256(Path(os.fsdecode(path)).read_bytes() if real else path).digest()
        with self.index.transaction():
            self.index.write(
                "INSERT OR REPLACE INTO score VALUES (?, ?, ?, 1000.0)",
                (digest, self.model, struct.pack("<5d", *spread(sensitive))),
            )
        models = json.dumps({"nsfw": self.model})
        told = ("ok", None, verdict, int(sensitive >= 0.8), "porn", sensitive, override, models, self.policy)
        return self._file(path, run, digest, told, real=real)

    def unscored(self, path: bytes, status: str, code: str, run: int, *, real: bool = False) -> int:
        """One file without scores."""
        return self._file(path, run, None, (status, code, None, 0, None, None, None, None, None), real=real)

    def _file(self, path: bytes, run: int, digest: bytes | None, told: tuple[object, ...], *, real: bool) -> int:
        parent, name = os.path.split(path)
        directory = self.directory(parent, run=run)
        stat = os.lstat(path) if real else None
        identity = (
            (1, len(self.directories) * 1000 + len(path), 100, 1, 1)
            if stat is None
            else (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        )
        with self.index.transaction():
            self.index.write(
                """
                INSERT INTO file (directory, name, dev, ino, size, mtime_ns, ctime_ns, digest, status, code, verdict,
                    alarm, label, score, override, models, policy, time, run)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1000.0, ?)
                ON CONFLICT (directory, name) DO UPDATE SET (dev, ino, size, mtime_ns, ctime_ns, digest, status, code,
                    verdict, alarm, label, score, override, models, policy, run, gone) = (excluded.dev, excluded.ino,
                    excluded.size, excluded.mtime_ns, excluded.ctime_ns, excluded.digest, excluded.status,
                    excluded.code, excluded.verdict, excluded.alarm, excluded.label, excluded.score,
                    excluded.override, excluded.models, excluded.policy, excluded.run, NULL)
                """,
                (directory, name, *identity, digest, *told, run),
            )
            row = self.index.one("SELECT id FROM file WHERE directory = ? AND name = ?", (directory, name))
        assert row is not None
        return int(row[0])

    def gone(self, path: bytes, run: int) -> None:
        """A file that a run found no longer there."""
        parent, name = os.path.split(path)
        with self.index.transaction():
            self.index.write(
                "UPDATE file SET gone = ? WHERE directory = ? AND name = ?", (run, self.directories[parent], name)
            )
