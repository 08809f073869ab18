"""All errors of nsfwd: one table of codes and one tree of exceptions.

The table is the contract of ``protocol.md`` (a test compares the two); the exceptions carry its codes through the
program. Foreign exceptions (OSError, Pillow's, Keras's, sqlite3's) are translated into these at exactly one border
each. This module imports the standard library alone, so that a client may use it.

    NsfwdError
    +-- CodedError        becomes the reply of one request or one image: carries a code of the table
    +-- SettingsError     a setting is unknown or wrong: the operator fixes it; no retry helps
    +-- BundleError       a bundle is missing, altered or wrong: the operator fixes it; no retry helps
    +-- EngineError       an engine cannot be built or warmed on this machine; the message names the setting to change
    +-- ListenError       an address cannot be listened on
    +-- IndexFailure      an index cannot be opened, read or written; the message names the file and the cause
    +-- OverridesFailure  a store of overrides cannot be read or written, or an override is invalid
    +-- ActionFailure     actions on verdicts cannot continue; the message names the file or directory and the cause
    +-- BreakerOpen       a run would act on more files than it may; the message names the setting
    +-- SweepRuns         another sweep of one of the trees is running
    +-- DaemonUnreachable a client found no daemon; the message names every address tried
    |   +-- AddressError  an address is invalid: the caller fixes it; no retry helps
    +-- ConnectionLost    the connection was lost before the reply: not done, so a retry is safe
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a request or an image ended. Scores and verdicts exist only with ``OK``."""

    OK = "ok"
    SKIPPED = "skipped"
    ERROR = "error"
    REFUSED = "refused"
    DONE = "done"


class Fault(StrEnum):
    """The party that causes a code, and therefore can fix it."""

    CLIENT = "client"
    FILE = "file"
    OPERATOR = "operator"
    DAEMON = "daemon"


@dataclass(frozen=True, slots=True)
class Code:
    """One row of the closed table of codes."""

    name: str
    status: Status
    fault: Fault
    retry: bool
    meaning: str
    remedy: str


def _rows(status: Status, fault: Fault, *rows: tuple[str, bool, str, str]) -> list[Code]:
    return [Code(name, status, fault, retry, meaning, remedy) for name, retry, meaning, remedy in rows]


_TABLE: list[Code] = [
    *_rows(
        Status.ERROR,
        Fault.CLIENT,
        ("bad_json", False, "the line is not one JSON object", "send one JSON object a line"),
        ("bad_utf8", False, "the JSON line is not UTF-8", "encode the line as UTF-8; use path_bytes for other names"),
        ("bad_request", False, "a key is missing, of the wrong type, or contradicts another", "fix the request"),
        ("unknown_key", False, "the request has a key that does not exist", "remove or correct the key"),
        ("unknown_op", False, "there is no such operation", "see the operations in the reply of version"),
        ("unsupported", False, "the key or operation is known but not built into this daemon", "leave it out"),
        (
            "not_permitted",
            False,
            "this peer may not use the operation, or may not send requests at all",
            "ask over the Unix socket as root or the daemon's user, or have the operator change the table of peers",
        ),
        ("line_too_long", False, "the line is longer than the limit", "use path, or bytes after the line"),
        ("relative_path", False, "the path does not start with /", "send an absolute path of the server"),
        ("bad_path", False, "the path is empty, too long, or holds a NUL byte", "fix the path"),
        ("short_body", False, "the connection ended inside the announced bytes", "send all announced bytes"),
        ("http", False, "the peer speaks HTTP; this is not an HTTP server", "use the line protocol"),
        ("no_target", False, "no request with this id is in flight", "nothing to cancel"),
        ("no_descriptor", False, "no descriptor was passed for this request", "pass one with SCM_RIGHTS first"),
        ("cancelled", True, "the request was cancelled by its client", "send it again if needed"),
        ("deadline", True, "the deadline passed before the result", "try again later or allow more time"),
    ),
    *_rows(
        Status.ERROR,
        Fault.FILE,
        ("not_found", False, "no such file", "check the path"),
        (
            "permission",
            False,
            "the daemon has no permission to open the file",
            "let the daemon's user read it (nsfwd config check --as USER PATH names the obstacle), or pass the bytes",
        ),
        (
            "forbidden",
            False,
            "the path leads outside the allowed roots",
            "add the directory to the roots; nsfwd config check --as USER PATH shows the resolved path",
        ),
        ("fifo", False, "the path is a FIFO", "name a regular file"),
        ("device", False, "the path is a device", "name a regular file"),
        ("socket", False, "the path is a socket", "name a regular file"),
        ("empty", False, "the file has no bytes", "check the program that wrote it"),
        ("corrupt", False, "the file has an allowed format and is damaged or truncated", "check how it was written"),
        ("unreadable", True, "reading the file failed", "check the disk or the mount"),
        ("decode_timeout", True, "decoding took longer than the limit", "raise decode_timeout, or leave the file out"),
        ("decoder_died", False, "the file crashed the decoder process twice", "leave the file out and report it"),
        ("too_deep", False, "the directory is nested deeper than the limit", "raise max_depth or scan a part of it"),
        (
            "too_many_entries",
            False,
            "the directory holds more entries than the limit",
            "raise max_entries or scan a part of it",
        ),
    ),
    *_rows(
        Status.SKIPPED,
        Fault.FILE,
        ("not_an_image", False, "the content has none of the allowed formats", "nothing to do"),
        ("too_large", False, "the file has more bytes than the limit", "raise max_bytes"),
        ("too_many_pixels", False, "the image has more pixels than the limit", "raise max_pixels"),
        ("too_many_frames", False, "the image has more frames than the limit", "raise max_frames"),
        ("too_small", False, "a side of the image is shorter than the limit", "lower min_side"),
        ("decoder_memory", False, "decoding needs more memory than a decoder may use", "raise decoder_memory"),
        ("excluded", False, "the path matches an exclusion", "change the exclusion"),
    ),
    *_rows(
        Status.REFUSED,
        Fault.DAEMON,
        ("busy", True, "the queue is full", "try again after retry_after seconds"),
        ("draining", True, "the daemon is stopping", "try again after retry_after seconds, or another daemon"),
    ),
    *_rows(
        Status.ERROR,
        Fault.OPERATOR,
        (
            "reload_refused",
            False,
            "the changed settings or bundles were refused; the daemon still serves the previous ones",
            "fix the problem that the message names and reload again",
        ),
    ),
    *_rows(
        Status.ERROR,
        Fault.DAEMON,
        ("engine_died", True, "the engine process crashed while it held only this image", "report it with the image"),
        ("engine_failed", True, "the engine cannot score at present", "see the daemon's log"),
        ("bad_scores", False, "the model's output is not a probability", "verify the bundle; do not trust this image"),
        ("listing_failed", True, "the process that lists directories crashed", "try again"),
        ("internal", True, "a defect of the daemon", "report it with the daemon's log"),
    ),
]

CODES: dict[str, Code] = {code.name: code for code in _TABLE}


class NsfwdError(Exception):
    """Root of everything nsfwd raises on purpose."""


class CodedError(NsfwdError):
    """The reason why one request or image has no scores.

    Args:
        code: a name in ``CODES``; it decides the status, whose fault it is and whether a retry helps.
        message: one sentence for a person; the table's meaning when left out. Never a stack trace.
        retry_after: seconds after which a refused request may be sent again.
    """

    def __init__(self, code: str, message: str = "", *, retry_after: float | None = None) -> None:
        self.row = CODES[code]
        self.code = code
        self.message = message or self.row.meaning
        self.retry_after = retry_after
        super().__init__(f"{code}: {self.message}")


class SettingsError(NsfwdError):
    """A setting is unknown or wrong. The operator's fault; a retry does not help."""


class BundleError(NsfwdError):
    """A bundle is missing, altered or wrong. The operator's fault; a retry does not help."""


class EngineError(NsfwdError):
    """An engine cannot be built or warmed here. The message names the cause and what to set."""


class ListenError(NsfwdError):
    """An address cannot be listened on (in use, not permitted, malformed)."""


class IndexFailure(NsfwdError):
    """An index cannot be opened, read or written. The message names the file and the cause."""


class OverridesFailure(NsfwdError):
    """A store of overrides cannot be opened, read or written, or an override for it is invalid.

    The message names the file and the cause. The operator fixes it; a retry helps only with a full disk or a lock that
    was held for too long.
    """


class ActionFailure(NsfwdError):
    """Actions on verdicts cannot continue: the quarantine's disk is full, its directory is not safe and the like.

    The operator fixes it; the file of the failed action is where it was.
    """


class BreakerOpen(NsfwdError):
    """A run would act on more files than it may. The message names the setting; the operator decides."""


class SweepRuns(NsfwdError):
    """Another sweep of one of these trees is running. The message names it; a retry helps once it has ended."""


class DaemonUnreachable(NsfwdError):
    """No daemon answered. The message names every address tried; a retry helps once one runs."""


class AddressError(DaemonUnreachable):
    """An address of a daemon is invalid. The caller's fault; a retry does not help."""


class ConnectionLost(NsfwdError):
    """The connection was lost before the daemon replied. Not done: a retry is safe."""
