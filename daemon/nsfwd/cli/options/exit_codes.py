"""Exit codes of the command line, and the code of each error.

``scan`` uses 0, 1 and 2 for its findings; every failure has a code of sysexits.h, so that it cannot be taken for a
verdict.
"""

from __future__ import annotations

from nsfwd.errors import (
    ActionFailure,
    AddressError,
    BreakerOpen,
    ConnectionLost,
    DaemonUnreachable,
    IndexFailure,
    NsfwdError,
    SettingsError,
    SweepRuns,
)

OK = 0
ALARM = 1
UNSCORED = 2
BREAKER = 3
"""A run stopped because it would have acted on too many files."""
ACTION = 4
"""An action on a verdict failed."""
FAILED = 1
"""A command other than ``scan`` failed."""
USAGE = 64
UNAVAILABLE = 69
DEFECT = 70
IO = 74
BUSY = 75
"""Another process is at work; a retry helps."""
CONFIG = 78
INTERRUPTED = 130
BROKEN_PIPE = 141

TEXT = """\b
Exit codes: 0 no alarm, 1 an alarm or a verdict of --fail-on, 2 an image left unscored,
64 wrong usage, 69 no daemon, 70 a defect, 74 the output cannot be written,
78 wrong settings (--local), 130 interrupted, 141 output pipe closed."""


def code_of(error: NsfwdError) -> int:
    """Return the exit code of an error that ended a command."""
    if isinstance(error, AddressError):
        return USAGE
    if isinstance(error, DaemonUnreachable | ConnectionLost):
        return UNAVAILABLE
    if isinstance(error, SettingsError):
        return CONFIG
    if isinstance(error, BreakerOpen):
        return BREAKER
    if isinstance(error, SweepRuns):
        return BUSY
    if isinstance(error, IndexFailure | ActionFailure):
        return IO  # not 1: for a sweep that is an alarm
    return FAILED
