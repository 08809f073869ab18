"""Between a reply of the daemon, what the index keeps of it, and ``Judged``. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nsfwd.bundles.manifest import Output
from nsfwd.bundles.policy import check_policy
from nsfwd.bundles.verdict import Judge, Terms
from nsfwd.errors import BundleError, CodedError, Status
from nsfwd.scanning.index.file_result import Judged
from nsfwd.scanning.trees.file_entry import FileEntry
from nsfwd.scanning.trees.path_text import spelled

if TYPE_CHECKING:
    from nsfwd.bundles.policy import Policy
    from nsfwd.client.results import Reply
    from nsfwd.scanning.index.file_table import RowOutcome


def judged_of(found: FileEntry, reply: Reply, policies: Mapping[str, Policy]) -> Judged:
    """Return what the daemon said of a file: of the very file that it opened, where it told which.

    Args:
        policies: the daemon's, by short name, where they are known.
    """
    file = reply.file
    digest = None
    if file is not None:
        digest = bytes.fromhex(file["sha256"])
        state = [_number(file[name], getattr(found, name)) for name in _IDENTITY]
        found = FileEntry(found.directory, found.name, *state)
    if not reply.scored:
        status = Status.ERROR if reply.status == Status.REFUSED else Status(reply.status)
        return Judged(found, status, reply.code, reply.message, digest, reply=reply.raw)
    return Judged(
        found,
        Status.OK,
        digest=digest,
        verdict=reply.verdict,
        alarm=reply.alarm,
        label=reply.label,
        score=_deciding(reply, policies),
        scores=reply.scores,
        override=reply.raw.get("override"),
        reply=reply.raw,
    )


_IDENTITY = ("dev", "ino", "size", "mtime_ns", "ctime_ns")


def _number(told: float | str, known: int) -> int:
    """Return a number of stat(2) out of JSON, where one beyond 64 bits comes as text, or rounded by the parser."""
    return known if isinstance(told, float) and told == float(known) else int(told)


def _deciding(reply: Reply, policies: Mapping[str, Policy]) -> float:
    """Return the score of the group that decided; where a person did, of the one that would have decided."""
    if "score" in reply.because:
        return float(reply.because["score"])
    terms = {}
    try:
        for name, scores in reply.scores.items():
            check_policy(policies[name], tuple(scores))
            terms[name] = Terms(name, "", Output(labels=tuple(scores), activation="sigmoid"), policies[name])
        judgement = Judge(terms).judge({name: tuple(scores.values()) for name, scores in reply.scores.items()})
    except (KeyError, BundleError, CodedError):  # a policy that is unknown, or that needs a hidden label
        return reply.score
    return judgement.because.score


def failed(found: FileEntry, error: CodedError) -> Judged:
    """Return what a file came to about which the daemon could not be asked."""
    told = {"code": error.code, "message": error.message, "retry": error.row.retry}
    reply = {**spelled(found.path), "status": str(Status.ERROR), "error": told}
    return Judged(found, Status.ERROR, error.code, error.message, reply=reply)


def known_as(found: FileEntry, outcome: RowOutcome, scores: Mapping[str, Mapping[str, float]]) -> Judged:
    """Return what the index says of a file, with a reply of the daemon's keys."""
    override = json.loads(outcome.override) if outcome.override else None
    reply: dict[str, Any] = {**spelled(found.path), "status": outcome.status}
    if outcome.status == Status.OK:
        reply |= {"verdict": outcome.verdict, "alarm": bool(outcome.alarm), "label": outcome.label, "scores": scores}
        if override is not None:
            reply["override"] = override
    else:
        reply["error"] = {"code": outcome.code}
    if outcome.digest is not None:
        identity = {key: getattr(found, key) for key in _IDENTITY}
        reply["file"] = identity | {"sha256": outcome.digest.hex()}
    return Judged(
        found,
        outcome.status,
        outcome.code,
        None,
        outcome.digest,
        outcome.verdict,
        bool(outcome.alarm),
        outcome.label,
        outcome.score,
        scores,
        override,
        reply,
    )
