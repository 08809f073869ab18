"""Job files: the options of a nightly sweep or a watch, in a TOML file that units name.

    /etc/nsfwd/sweep.d/NAME.toml
        directories = ["/srv/uploads"]
        exclude = [".thumbnails"]
        until = "06:00"
        action = ["quarantine"]
        apply = true

Its keys are the flags of ``nsfwd sweep`` and ``nsfwd watch`` with underscores; one file serves both, so each leaves out
the keys that are only for the other. Knows no flag.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from nsfwd.documents import DocumentError, parse_toml, read_document
from nsfwd.errors import SettingsError

DIRECTORY = Path("/etc/nsfwd/sweep.d")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]*")


def find_job(job: str) -> Path:
    """Return the file of a job: a path, or a name of ``DIRECTORY``.

    Raises:
        SettingsError: it is neither.
    """
    if "/" in job or job.endswith(".toml"):
        return Path(job)
    if not _NAME.fullmatch(job):
        raise SettingsError(f"invalid name of a job {job!r}")
    return DIRECTORY / f"{job}.toml"


def read_job(path: Path, known: Collection[str]) -> dict[str, Any]:
    """Read a job.

    Args:
        known: the keys it may have.

    Raises:
        SettingsError: it cannot be read, is not TOML, or has an unknown key. The message names the file.
    """
    try:
        values = parse_toml(read_document(path))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except DocumentError as error:
        raise SettingsError(f"{path}: {error}") from error
    for name in values:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f'; did you mean "{close[0]}"?' if close else f"; known are {', '.join(sorted(known))}"
            raise SettingsError(f'{path}: unknown key "{name}"{hint}')
    return values
