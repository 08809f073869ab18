"""NDJSON, as it goes out: one outcome, or one reply of another kind, into one line.

Pure text: the content of replies, never their time. The keys and their order are the contract of ``protocol.md``.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping

from nsfwd.errors import CODES, CodedError
from nsfwd.escaping import escape_wire
from nsfwd.protocol.jsonio import dumps
from nsfwd.protocol.messages import STAT_FIELDS, Judgement, Outcome, Override, RequestId, Tally, Timing


def _head(request: RequestId, path: bytes | None) -> dict[str, object]:
    reply: dict[str, object] = {}
    if request is not None:
        reply["id"] = request
    if path is not None:
        try:
            reply["path"] = path.decode()
        except UnicodeDecodeError:
            reply["path"] = escape_wire(path)
            reply["path_bytes"] = binascii.b2a_base64(path, newline=False).decode()
    return reply


def _time(time: Timing) -> dict[str, float]:
    """Whole microseconds; ``round`` would be exact in the last place of any number, and takes twice as long."""
    return {
        "queue": int(time.queue * 1e6 + 0.5) / 1e6,
        "decode": int(time.decode * 1e6 + 0.5) / 1e6,
        "wait": int(time.wait * 1e6 + 0.5) / 1e6,
        "infer": int(time.infer * 1e6 + 0.5) / 1e6,
        "total": int(time.total * 1e6 + 0.5) / 1e6,
    }


def _put_error(reply: dict[str, object], code: str, message: str, retry_after: float | None) -> None:
    row = CODES[code]
    reply["error"] = {"code": code, "message": message or row.meaning, "retry": row.retry}
    if retry_after is not None:
        reply["retry_after"] = round(retry_after, 3)


def _finish(reply: dict[str, object], time: Timing) -> bytes:
    reply["time"] = _time(time)
    return dumps(reply) + b"\n"


def outcome_line(request: RequestId, outcome: Outcome) -> bytes:
    """Return the line that tells what one image came to."""
    reply = _head(request, outcome.path)
    reply["status"] = outcome.status
    judgement = outcome.judgement
    if judgement is None:
        _put_error(reply, outcome.code, outcome.message, outcome.retry_after)
    else:
        reply["verdict"] = judgement.verdict
        reply["alarm"] = judgement.alarm
        reply["label"] = judgement.label
        reply["score"] = judgement.score
        reply["scores"] = judgement.scores
        reply["groups"] = judgement.groups
        reply["verdicts"] = judgement.verdicts
        reply["because"] = _because(judgement)
        reply["model"] = judgement.model
        reply["policy"] = judgement.policy
        if judgement.override is not None:
            reply["override"] = _override(judgement.override)
    if outcome.frame is not None:
        frame = outcome.frame
        reply["frame"] = {
            "index": frame.index,
            "of": frame.of,
            "sampled": frame.sampled,
            "background": frame.background or None,
        }
    if outcome.cached:
        reply["cached"] = outcome.cached
    if outcome.identity is not None:
        reply["file"] = {name: getattr(outcome.identity, name) for name in _IDENTITY}
    return _finish(reply, outcome.time)


def _because(judgement: Judgement) -> dict[str, object]:
    if judgement.override is not None:
        return {"override": judgement.override.digest.hex()}
    because = judgement.because
    return {
        "model": because.model,
        "group": because.group,
        "score": because.score,
        "threshold": because.threshold,
    }


def _override(override: Override) -> dict[str, object]:
    return {
        "verdict": override.verdict,
        "reason": override.reason,
        "by": override.by,
        "time": override.time,
        "expires": override.expires,
    }


_IDENTITY = (*STAT_FIELDS, "sha256")


def error_line(request: RequestId, path: bytes | None, error: CodedError, seconds: float) -> bytes:
    """Return the line that refuses a scan as a whole."""
    reply = _head(request, path)
    reply["status"] = error.row.status.value
    _put_error(reply, error.code, error.message, error.retry_after)
    return _finish(reply, Timing(total=seconds))


def done_line(
    request: RequestId, path: bytes | None, tally: Tally, seconds: float, error: CodedError | None = None
) -> bytes:
    """Return the line that ends a series; with ``error`` it was cut short and its status is not ``done``."""
    reply = _head(request, path)
    reply["status"] = "done" if error is None else error.row.status.value
    reply["done"] = True
    reply["files"] = tally.files
    reply["ok"] = tally.ok
    reply["errors"] = tally.errors
    reply["skipped"] = tally.skipped
    reply["refused"] = tally.refused
    reply["verdicts"] = tally.verdicts
    if error is not None:
        _put_error(reply, error.code, error.message, error.retry_after)
    return _finish(reply, Timing(total=seconds))


def operation_reply(request: RequestId, op: str, payload: Mapping[str, object]) -> dict[str, object]:
    """Return the reply of an operation that went well."""
    reply = _head(request, None)
    reply["op"] = op
    reply["status"] = "ok"
    reply.update(payload)
    return reply


def operation_error(request: RequestId, op: str, error: CodedError) -> dict[str, object]:
    """Return the reply of an operation that did not."""
    reply = _head(request, None)
    reply["op"] = op
    reply["status"] = error.row.status.value
    _put_error(reply, error.code, error.message, error.retry_after)
    return reply
