"""Turns replies of the daemon, and failures to get one, into ``Judged``. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nsfwd.bundles.manifest import Output
from nsfwd.bundles.policy import check_policy
from nsfwd.bundles.verdict import Judge, Terms
from nsfwd.errors import BundleError, CodedError, Status
from nsfwd.protocol.messages import STAT_FIELDS
from nsfwd.scanning.index.file_result import Judged
from nsfwd.scanning.trees.file_entry import FileEntry, path_fields

if TYPE_CHECKING:
    from nsfwd.bundles.policy import Policy
    from nsfwd.client.results import Reply


def judged_of(found: FileEntry, reply: Reply, policies: Mapping[str, Policy]) -> Judged:
    """Return the result of a file, with the identity of the file that the daemon opened where the reply has it.

    Args:
        policies: the daemon's, by short name, where they are known.
    """
    file = reply.file
    digest = None
    if file is not None:
        digest = bytes.fromhex(file["sha256"])
        state = [_number(file[name], getattr(found, name)) for name in STAT_FIELDS]
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


def _number(value: float | str, known: int) -> int:
    """Return a number of stat(2) out of JSON, where one beyond 64 bits comes as text, or rounded by the parser."""
    return known if isinstance(value, float) and value == float(known) else int(value)


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
    """Return the result of a file about which the daemon could not be asked."""
    return Judged(found, Status.ERROR, error.code, error.message, reply=error_reply(found.path, error))


def error_reply(path: bytes, error: CodedError) -> dict[str, Any]:
    """Return the reply of a path about which the daemon could not be asked, with the daemon's keys."""
    said = {"code": error.code, "message": error.message, "retry": error.row.retry}
    return {**path_fields(path), "status": str(Status.ERROR), "error": said}
