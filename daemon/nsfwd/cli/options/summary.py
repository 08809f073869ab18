"""Summary of a scan: counts, one line of text, and the exit code.

Knows replies, but neither the daemon nor output formats.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nsfwd.cli.options import exit_codes

if TYPE_CHECKING:
    from nsfwd.client.results import Reply

_NO_LIMIT = frozenset({"not_an_image", "excluded"})
"""Codes of files that were skipped for their content or name, not because of a limit."""


@dataclass(slots=True)
class Summary:
    """Counts of a run so far.

    Attributes:
        failing: verdicts that count as alarms for the exit code.
        found: images that make the run exit with 1: alarms and verdicts of ``failing``.
        unscored: images without scores that should have them: errors, refusals, and images over a limit.
        without: all files without scores, including content that is not an image.
        broken: the run ended before everything was answered, or left out a path of the command line.
    """

    failing: frozenset[str] = frozenset()
    verdicts: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    alarms: int = 0
    found: int = 0
    unscored: int = 0
    without: int = 0
    broken: bool = False

    def add(self, reply: Reply) -> None:
        """Count one reply."""
        if reply.scored:
            self.verdicts[reply.verdict] += 1
            self.alarms += reply.alarm
            self.found += reply.alarm or reply.verdict in self.failing
            return
        self.others[reply.status] += 1
        self.without += 1
        self.unscored += reply.code not in _NO_LIMIT

    def exit_code(self, *, strict: bool) -> int:
        """Return 1 for an alarm, else 2 for an image left unscored, else 0; ``strict`` puts 2 first and counts all."""
        incomplete = self.broken or (self.without if strict else self.unscored) > 0
        if strict and incomplete:
            return exit_codes.UNSCORED
        if self.found:
            return exit_codes.ALARM
        return exit_codes.UNSCORED if incomplete else exit_codes.OK

    @property
    def files(self) -> int:
        """Number of answered files."""
        return self.verdicts.total() + self.others.total()

    def line(self, seconds: float) -> str:
        """Return the counts in one line."""
        files = self.files
        if not files:
            return "no files"
        parts = [f"{count} {name}" for name, count in [*self.verdicts.most_common(), *self.others.most_common()]]
        alarms = f"; {self.alarms} alarm{'s' if self.alarms != 1 else ''}" if self.alarms else ""
        return f"{files} file{'s' if files != 1 else ''} in {seconds:.1f} s: {', '.join(parts)}{alarms}"
