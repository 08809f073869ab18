"""``Exclusion``: which names and paths a walk leaves out. Shell patterns; knows no content."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from fnmatch import translate


class Exclusion:
    """Shell patterns, compiled once: a walk asks about every entry.

    Args:
        patterns: one without a slash is compared with the name of each file and each directory, one with a slash with
            the whole path.
    """

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self.patterns = tuple(patterns)
        self._name = _any(pattern for pattern in self.patterns if "/" not in pattern)
        self._path = _any(pattern for pattern in self.patterns if "/" in pattern)

    def __bool__(self) -> bool:
        return bool(self.patterns)

    def holds(self, path: bytes) -> bool:
        """Tell whether the file or directory at ``path`` is left out."""
        whole = os.fsdecode(path)
        if self._name is not None and self._name.match(whole.rpartition("/")[2]):
            return True
        return self._path is not None and self._path.match(whole) is not None


def _any(patterns: Iterable[str]) -> re.Pattern[str] | None:
    spelled = [translate(pattern) for pattern in patterns]
    return re.compile("|".join(spelled)) if spelled else None
