"""Judges kept scores by a new policy: which files get another verdict. No file of the tree is opened.

Reads in steps and writes in transactions of milliseconds, so that a sweep, a watch or a console can write in between; a
file that one of them judges again keeps that result. Of an animation the index keeps the scores of the
frame that decided, and it is judged by those. Knows the index and policies, no daemon and no action.
"""

from __future__ import annotations

import json
import struct
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import msgspec

from nsfwd.bundles.manifest import Output
from nsfwd.bundles.policy import Policy, check_policy
from nsfwd.bundles.verdict import Judge, Terms, verdicts
from nsfwd.errors import BundleError, CodedError
from nsfwd.protocol.messages import Judgement, Override
from nsfwd.scanning.index.database import Index
from nsfwd.scanning.index.file_result import Judged
from nsfwd.scanning.index.stat_columns import loaded_found
from nsfwd.scanning.trees.file_entry import FileEntry, path_fields
from nsfwd.sqlite_store import Row

STEP = 5000
"""Files read, judged and written at once: a tenth of a second, of which the index is held for a tenth."""


class VerdictChange(NamedTuple):
    """A file that got another verdict, and its verdict before."""

    before: str
    judged: Judged


class _Kind(NamedTuple):
    """Files that the same models scored.

    Attributes:
        models: as in the table ``file``.
        ids: rows of ``model``.
        widths: how many scores each of them gave.
        judge: by the new policies. ``alarms``: what they can say -> whether that is an alarm.
        policy: row of ``policy``; None in a dry run.
    """

    models: str
    names: tuple[str, ...]
    ids: tuple[int, ...]
    widths: tuple[struct.Struct, ...]
    judge: Judge
    alarms: Mapping[str, bool]
    policy: int | None


class _New(NamedTuple):
    """The new values of a row. The last two identify the row, as long as nobody else has written it."""

    verdict: str
    alarm: int
    label: str
    score: float
    override: str | None
    policy: int | None
    run: int | None
    id: int
    time: float


class Rejudging:
    """One pass over an index. ``changes`` does it; the counts grow as it goes.

    Args:
        policies: model's short name -> the policy it is to be judged by.
        run: the row of ``run`` that files are written with; None for a dry run, which writes nothing.
        overrides: what people decided, by digest: it wins. None where nobody can say what they did: then what a file
            was overruled by stays.

    Attributes:
        files: judged again, those that are gone not counted. ``changed``: got another verdict.
        alarms: that are one now.
        verdicts: (before, after) -> files, unchanged ones too.
        left: reason why some could not be judged again -> how many; they keep their verdicts.
    """

    def __init__(
        self,
        index: Index,
        policies: Mapping[str, Policy],
        *,
        run: int | None = None,
        overrides: Mapping[bytes, Override | None] | None = None,
    ) -> None:
        self._index, self._policies, self._run, self._overrides = index, policies, run, overrides
        self._now = time.time()
        self.files = self.changed = self.alarms = 0
        self.verdicts: Counter[tuple[str, str]] = Counter()
        self.left: Counter[str] = Counter()

    def changes(self) -> Iterator[VerdictChange]:
        """Judge everything, and yield files with another verdict once that is written."""
        groups = self._index.read("SELECT models, count(*) FROM file WHERE status = 'ok' GROUP BY models")
        for models, count in list(groups):
            try:
                kind = self._kind(models)
            except BundleError as error:
                self.left[str(error)] += count
            else:
                yield from self._pass(kind)

    def _kind(self, models: str) -> _Kind:
        ids: dict[str, int] = json.loads(models or "{}")
        terms = {}
        for name, row in ids.items():
            if name not in self._policies:
                raise BundleError(f"no policy for the model {name}")
            identity, labels = self._index.one("SELECT identity, labels FROM model WHERE id = ?", (row,)) or ("", "[]")
            policy = self._policies[name]
            shown = tuple(json.loads(labels))
            check_policy(policy, shown)
            # Its scores passed the check of a softmax when they were new; hidden labels may be missing from them now.
            terms[name] = Terms(name, identity, Output(labels=shown, activation="sigmoid"), policy)
        if not terms:
            raise BundleError("no model is known to have scored it")
        widths = tuple(struct.Struct(f"<{len(term.output.labels)}d") for term in terms.values())
        judge, alarms = Judge(terms), verdicts(terms.values())
        return _Kind(models, tuple(ids), tuple(ids.values()), widths, judge, alarms, self._policy(terms))

    def _policy(self, terms: Mapping[str, Terms]) -> int | None:
        """Return the row of the policies; several are one row, as they are one word in a reply."""
        if self._run is None:
            return None
        identity = ",".join(dict.fromkeys(term.policy.identity for term in terms.values()))
        body = msgspec.json.encode({name: term.policy for name, term in terms.items()}).decode()
        with self._index.transaction():
            self._index.write("INSERT OR IGNORE INTO policy (identity) VALUES (?)", (identity,))
            self._index.write("UPDATE policy SET body = ? WHERE identity = ?", (body, identity))
        row = self._index.one("SELECT id FROM policy WHERE identity = ?", (identity,))
        assert row is not None
        return int(row[0])

    def _pass(self, kind: _Kind) -> Iterator[VerdictChange]:
        query = _query(kind)
        last = 0
        while rows := list(self._index.read(query, (kind.models, last, STEP))):
            last = rows[-1][0]
            told = [(new, row) for row in rows if (new := self._judged(kind, row)) is not None]
            self._write([new for new, _ in told])
            yield from self._counted(kind, told)

    def _judged(self, kind: _Kind, row: Row) -> _New | None:
        """Return the new values of one file; None where its scores are missing or damaged."""
        number, moment, digest, _, override, _, *blobs = row
        try:
            judgement = kind.judge.judge(_unpacked(kind, blobs))
        except CodedError as error:
            self.left[str(error)] += 1
            return None
        verdict, alarm, score = judgement.verdict, judgement.alarm, judgement.because.score
        override = self._override(digest, override)
        if override is not None:  # a person's word wins; what no policy says is an alarm, as for the daemon
            verdict = json.loads(override)["verdict"]
            alarm = kind.alarms.get(verdict, True)
        return _New(verdict, alarm, judgement.label, score, override, kind.policy, self._run, number, moment)

    def _override(self, digest: bytes, known: str | None) -> str | None:
        """Return the override of a content as in the table ``file``."""
        if self._overrides is None:
            return known
        override = self._overrides.get(digest)
        return override_json(override) if override is not None and override.holds(self._now) else None

    def _write(self, rows: list[_New]) -> None:
        if self._run is None:
            return
        with self._index.transaction():
            # A file with the same verdict keeps its run.
            self._index.write_all(
                """
                UPDATE file SET run = CASE WHEN verdict IS ?1 THEN run ELSE ?7 END,
                    verdict = ?1, alarm = ?2, label = ?3, score = ?4, override = ?5, policy = ?6
                WHERE id = ?8 AND time = ?9
                """,
                rows,
            )

    def _counted(self, kind: _Kind, told: list[tuple[_New, Row]]) -> Iterator[VerdictChange]:
        for new, row in told:
            _, _, _, before, _, gone, *_ = row
            if gone is not None:
                continue
            self.files += 1
            self.alarms += new.alarm
            self.verdicts[before, new.verdict] += 1
            if before != new.verdict:
                self.changed += 1
                yield VerdictChange(before, self._spelled(kind, new, row))

    def _spelled(self, kind: _Kind, new: _New, row: Row) -> Judged:
        """Return a change for the action handler: with the file, and in the form of a reply."""
        known = self._index.one(
            """
            SELECT directory.path, name, dev, ino, size, mtime_ns, ctime_ns
            FROM file JOIN directory ON directory.id = file.directory WHERE file.id = ?
            """,
            (new.id,),
        )
        assert known is not None
        found = loaded_found(known)
        judgement = kind.judge.judge(_unpacked(kind, row[6:]))
        overruled = {} if new.override is None else {"override": json.loads(new.override)}
        return Judged(
            found,
            "ok",
            digest=row[2],
            verdict=new.verdict,
            alarm=bool(new.alarm),
            label=judgement.label,
            score=new.score,
            scores=judgement.scores,
            override=overruled.get("override"),
            reply=_reply(found, new, judgement) | overruled,
        )


def _unpacked(kind: _Kind, blobs: Sequence[bytes | None]) -> dict[str, tuple[float, ...]]:
    """Return the scores by model.

    Raises:
        CodedError: ``bad_scores``: they are not in the index, or damaged there.
    """
    results = {}
    for name, width, scores in zip(kind.names, kind.widths, blobs, strict=True):
        if scores is None or len(scores) != width.size:
            raise CodedError("bad_scores", "the index does not have the scores")
        results[name] = width.unpack(scores)
    return results


def override_json(override: Override) -> str:
    """Return an override as the column ``override`` has it."""
    told = {"verdict": override.verdict, "reason": override.reason, "by": override.by, "time": override.time}
    return json.dumps(told | {"expires": override.expires})


def _reply(found: FileEntry, new: _New, judgement: Judgement) -> dict[str, Any]:
    return {
        **path_fields(found.path),
        "status": "ok",
        "verdict": new.verdict,
        "alarm": bool(new.alarm),
        "label": judgement.label,
        "score": judgement.score,
        "scores": judgement.scores,
        "groups": judgement.groups,
        "verdicts": judgement.verdicts,
        "because": asdict(judgement.because),
        "model": judgement.model,
        "policy": judgement.policy,
    }


def _query(kind: _Kind) -> str:
    """Return the SQL of a step; the scores of each model follow the six columns of the file."""
    columns = "".join(f", s{model}.scores" for model in kind.ids)
    joins = " ".join(
        f"LEFT JOIN score AS s{model} ON s{model}.digest = file.digest AND s{model}.model = {model}"
        for model in kind.ids
    )
    return f"""
        SELECT file.id, file.time, file.digest, file.verdict, file.override, file.gone{columns}
        FROM file {joins} WHERE file.status = 'ok' AND file.models = ? AND file.id > ? ORDER BY file.id LIMIT ?
    """


def policies_of(models: Iterable[Mapping[str, Any]]) -> dict[str, Policy]:
    """Return the policies that a daemon judges by, from its reply to ``models``.

    Args:
        models: as ``Client.models`` has them.

    Raises:
        BundleError: it sent something else than a policy, or a part of one; a daemon of another version.
    """
    policies = {}
    for model in models:
        try:
            fields = {"name": model["policy"].partition("@")[0], "groups": model["groups"], "tiers": model["tiers"]}
            policy = msgspec.convert(fields, Policy)
        except (msgspec.ValidationError, KeyError) as error:
            raise BundleError(f"the daemon's policy of {model['name']}: {error}") from None
        if policy.identity != model["policy"]:
            raise BundleError(f"the daemon does not send the whole policy {model['policy']}; give --config instead")
        policies[str(model["name"])] = policy
    return policies
