"""``FileTable``: looks up what the index knows of a file that was found, and writes the results of files.

A file is as it was when device, inode, size, mtime and ctime are; its content is when inode, size and mtime are, or
when its digest is. What the present models and policy said of a content is never asked again. Knows the index and
replies as values, no daemon, no walk and no action.
"""

from __future__ import annotations

import json
import struct
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import msgspec

from nsfwd.bundles.policy import Policy
from nsfwd.errors import CODES, Status
from nsfwd.scanning.index.database import Index
from nsfwd.scanning.index.file_result import Judged
from nsfwd.scanning.index.stat_columns import identity_of
from nsfwd.scanning.trees.file_entry import FileEntry

ATTEMPTS = 3
"""Runs in which a file is tried whose error may pass."""

NO_LIMIT = ("not_an_image", "excluded")
"""Skipped for what they are, not because a limit kept them from being scored."""

DIRECTORIES = 10_000
"""Directories whose rows are remembered; a walk comes back to none, a watch to few."""

_PASSING = ", ".join(f"'{code.name}'" for code in CODES.values() if code.retry)

SETTLED = f"""
    (gone IS NULL AND models IS :models AND (status <> 'ok' OR policy IS :policy)
     AND NOT (status = 'error' AND attempts < {ATTEMPTS} AND code IN ({_PASSING}))
     AND NOT (:again AND status <> 'ok' AND code <> 'not_an_image'))
"""
"""Whether what a row says still holds, as far as the row can tell."""

CULPRIT = "CASE WHEN status = 'ok' OR code IN ('not_an_image', 'excluded') THEN 0 ELSE run END"
"""The run that left an image unscored, 0 for a file that was not."""

_OUTCOME = "digest, status, code, verdict, alarm, label, score, override, models, policy"

_ANYWHERE = SETTLED.replace("gone IS NULL AND ", "")
"""As ``SETTLED``; the result of a content holds also where the file itself is gone."""

_HINTS = """
    SELECT
        EXISTS (SELECT 1 FROM file WHERE directory = (SELECT id FROM directory WHERE path = ?) AND name = ?),
        EXISTS (SELECT 1 FROM file WHERE dev = ? AND ino = ?),
        EXISTS (SELECT 1 FROM file WHERE size = ? AND digest IS NOT NULL)
"""
"""Whether the three below could find anything: of a file that is new, which most are in a first sweep, one query."""

_BY_NAME = f"""
    SELECT dev, ino, size, mtime_ns, ctime_ns, {SETTLED}, {CULPRIT}, {_OUTCOME} FROM file
    WHERE directory = (SELECT id FROM directory WHERE path = :directory) AND name = :name
"""
_BY_INODE = f"""
    SELECT {_OUTCOME} FROM file WHERE dev = :dev AND ino = :ino AND +size = :size AND mtime_ns = :mtime
    AND digest IS NOT NULL AND {_ANYWHERE} LIMIT 1
"""
"""The plus keeps SQLite from looking through all files of that size, which may be a million."""

_BY_DIGEST = f"SELECT {_OUTCOME} FROM file WHERE digest = :digest AND {_ANYWHERE} LIMIT 1"

_SAVE = f"""
    INSERT INTO file (directory, name, dev, ino, size, mtime_ns, ctime_ns, {_OUTCOME}, time, run)
    VALUES ({", ".join("?" * 19)})
    ON CONFLICT (directory, name) DO UPDATE SET
        attempts = CASE WHEN excluded.status = 'error' AND status = 'error' AND size = excluded.size
            AND ino = excluded.ino AND mtime_ns = excluded.mtime_ns AND models IS excluded.models
            THEN attempts + 1 ELSE 1 END,
        dev = excluded.dev, ino = excluded.ino, size = excluded.size, mtime_ns = excluded.mtime_ns,
        ctime_ns = excluded.ctime_ns, {", ".join(f"{name} = excluded.{name}" for name in _OUTCOME.split(", "))},
        time = excluded.time, run = excluded.run, gone = NULL
"""


class RowOutcome(NamedTuple):
    """The outcome of a content, as in a row."""

    digest: bytes | None
    status: str
    code: str | None
    verdict: str | None
    alarm: int
    label: str | None
    score: float | None
    override: str | None
    models: str | None
    policy: int | None


class Known(Enum):
    """What the index knows of a file."""

    UNCHANGED = "it is as it was"
    CONTENT = "its content was judged under another name, or before something but the content changed"
    SIZE = "a content of its size was judged: the digest will tell"
    NOTHING = "it must be asked about"


class Looked(NamedTuple):
    """What the index knows of a file, with its outcome."""

    known: Known
    outcome: RowOutcome | None = None
    culprit: int = 0


_NOTHING, _SIZE = Looked(Known.NOTHING), Looked(Known.SIZE)


class Settled(NamedTuple):
    """A file and its result, to be written."""

    found: FileEntry
    outcome: RowOutcome
    scores: Mapping[str, Mapping[str, float]]


@dataclass(slots=True)
class _Present:
    """The present models and policy, as the tables have them."""

    models: str = "{}"
    policy: int = 0
    again: bool = False


class FileTable:
    """The index for one run. Every method may raise ``IndexFailure``.

    Args:
        run: its number.
        again: what was left without scores does not hold.
    """

    def __init__(self, index: Index, run: int, *, again: bool = False) -> None:
        self._index, self._run = index, run
        self._present = _Present(again=again)
        self._directories: OrderedDict[bytes, int] = OrderedDict()
        self._models: dict[str, int] = {}
        self._models_texts: dict[tuple[tuple[str, str], ...], str] = {}
        self._rows: dict[str, dict[str, int]] = {}
        self._policies: dict[str, int] = {}

    @property
    def present(self) -> dict[str, Any]:
        """The present models and policy, and whether to ask again: the parameters of ``SETTLED``."""
        present = self._present
        return {"models": present.models, "policy": present.policy, "again": present.again}

    def enrol(
        self,
        models: Mapping[str, str],
        labels: Mapping[str, Iterable[str]],
        policy: str,
        policies: Mapping[str, Policy] | None = None,
    ) -> None:
        """Set the present models and policy; within a transaction.

        Args:
            models, labels: by short name. ``policy``: identity, ``policies``: by short name, where they are known.
        """
        self._present.models, self._present.policy = (
            self._models_text(models, labels),
            self._policy(policy, policies or {}),
        )

    def look(self, found: FileEntry) -> Looked:
        """Return what is known of a file."""
        where = (found.directory, found.name, *identity_of(found)[:3])
        name, inode, size = self._index.one(_HINTS, where) or (0, 0, 0)
        looked = self._here(found) if name else None
        if looked is None and inode:
            looked = self._elsewhere(found)
        return looked or (_SIZE if size else _NOTHING)

    def _here(self, found: FileEntry) -> Looked | None:
        row = self._index.one(_BY_NAME, {**self.present, "directory": found.directory, "name": found.name})
        if row is None or not row[5]:
            return None
        outcome = RowOutcome(*row[7:])
        identity = identity_of(found)
        if row[:5] == identity:
            return Looked(Known.UNCHANGED, outcome, row[6])
        same = row[1:4] == identity[1:4] and outcome.digest is not None
        return Looked(Known.CONTENT, outcome) if same else None

    def _elsewhere(self, found: FileEntry) -> Looked | None:
        """Look for the content under other names. A file that was moved needs no read."""
        identity = dict(zip(("dev", "ino", "size", "mtime"), identity_of(found), strict=False))
        row = self._index.one(_BY_INODE, {**self.present, **identity})
        return Looked(Known.CONTENT, RowOutcome(*row)) if row is not None else None

    def content(self, digest: bytes) -> RowOutcome | None:
        """Return the outcome of a content by the present models and policy."""
        row = self._index.one(_BY_DIGEST, {**self.present, "digest": digest})
        return RowOutcome(*row) if row is not None else None

    def outcome(self, judged: Judged) -> RowOutcome:
        """Return the daemon's result as the columns have it; within a transaction, as it may name a new model."""
        models, policy = self._present.models, self._present.policy
        if judged.status == Status.OK:
            reply = judged.reply
            models, policy = self._models_text(reply["model"], judged.scores), self._policy(str(reply["policy"]), {})
        override = None if judged.override is None else json.dumps(judged.override, separators=(",", ":"))
        return RowOutcome(
            judged.digest,
            judged.status,
            judged.code,
            judged.verdict,
            int(judged.alarm),
            judged.label,
            judged.score,
            override,
            models,
            policy,
        )

    def save(self, settled: Iterable[Settled]) -> None:
        """Write the results of files; within a transaction."""
        now = time.time()
        rows: list[tuple[Any, ...]] = []
        scores: list[tuple[bytes, int, bytes, float]] = []
        for found, outcome, said in settled:
            rows.append(
                (
                    self.directory(found.directory),
                    found.name,
                    *identity_of(found),
                    *outcome,
                    now,
                    self._run,
                )
            )
            scores += self._score_rows(outcome, said, now)
        self._index.write_all(_SAVE, rows)
        self._index.write_all("INSERT OR REPLACE INTO score VALUES (?, ?, ?, ?)", scores)

    def vanished(self, files: Iterable[FileEntry]) -> None:
        """Mark files that are no longer there; within a transaction."""
        self._index.write_all(
            """
            UPDATE file SET gone = ? WHERE directory = (SELECT id FROM directory WHERE path = ?) AND name = ?
            AND gone IS NULL
            """,
            [(self._run, found.directory, found.name) for found in files],
        )

    def directory(self, path: bytes) -> int:
        """Return the row of a directory; within a transaction."""
        known = self._directories.get(path)
        if known is None:
            row = self._index.one("SELECT id FROM directory WHERE path = ?", (path,))
            known = row[0] if row else self._index.write("INSERT INTO directory (path) VALUES (?)", (path,))
            self._directories[path] = known
            if len(self._directories) > DIRECTORIES:
                self._directories.popitem(last=False)
        return known

    def forget(self) -> None:
        """Look ids of rows up again: a transaction that made some was rolled back."""
        for known in (self._directories, self._models, self._models_texts, self._policies):
            known.clear()

    def _score_rows(
        self, outcome: RowOutcome, said: Mapping[str, Mapping[str, float]], now: float
    ) -> Iterator[tuple[bytes, int, bytes, float]]:
        if outcome.digest is None or not said:
            return
        text = outcome.models or "{}"
        rows = self._rows.get(text)
        if rows is None:
            rows = self._rows[text] = json.loads(text)
        for name, scores in said.items():
            yield outcome.digest, rows[name], struct.pack(f"<{len(scores)}d", *scores.values()), now

    def _models_text(self, models: Mapping[str, str], labels: Mapping[str, Iterable[str]]) -> str:
        known = tuple(models.items())
        text = self._models_texts.get(known)
        if text is None:
            rows = {name: self._model(name, identity, labels[name]) for name, identity in known}
            text = self._models_texts[known] = json.dumps(rows, separators=(",", ":"))
        return text

    def _model(self, name: str, identity: str, labels: Iterable[str]) -> int:
        if identity not in self._models:
            row = self._index.one("SELECT id FROM model WHERE identity = ?", (identity,))
            self._models[identity] = (
                row[0]
                if row
                else self._index.write(
                    "INSERT INTO model (identity, short, labels) VALUES (?, ?, ?)",
                    (identity, name, json.dumps(list(labels))),
                )
            )
        return self._models[identity]

    def _policy(self, identity: str, policies: Mapping[str, Policy]) -> int:
        if identity not in self._policies:
            row = self._index.one("SELECT id FROM policy WHERE identity = ?", (identity,))
            self._policies[identity] = (
                row[0] if row else self._index.write("INSERT INTO policy (identity) VALUES (?)", (identity,))
            )
        if policies:
            body = msgspec.json.encode(dict(policies)).decode()
            self._index.write("UPDATE policy SET body = ? WHERE id = ?", (body, self._policies[identity]))
        return self._policies[identity]


def scores_of(index: Index, outcome: RowOutcome) -> dict[str, dict[str, float]]:
    """Return the scores of a content: short name -> label -> probability."""
    found: dict[str, dict[str, float]] = {}
    for name, model in json.loads(outcome.models or "{}").items():
        row = index.one(
            "SELECT labels, scores FROM score JOIN model ON model.id = score.model WHERE digest = ? AND model = ?",
            (outcome.digest, model),
        )
        if row is not None:
            labels = json.loads(row[0])
            found[name] = dict(zip(labels, struct.unpack(f"<{len(labels)}d", row[1]), strict=True))
    return found
