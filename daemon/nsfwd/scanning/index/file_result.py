"""``Judged``: the result of one file, between the modules that ask the daemon and those that write or act. Data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nsfwd.client.results import graded
from nsfwd.scanning.trees.file_entry import FileEntry


@dataclass(frozen=True, slots=True)
class Judged:
    """The result of one file.

    Attributes:
        found: the file; where the daemon reported which file it opened, that one's identity.
        status: ``ok``, ``skipped`` or ``error``. ``code`` and ``message`` say why with the latter two.
        digest: SHA-256 of the content; None where nobody read it.
        verdict: the effective one (an override wins), ``alarm`` whether it wants a person's attention.
        label: the top one of the first model. score: of the group that decided.
        scores: model's short name -> label -> probability.
        override: what overruled the policy, as in a reply.
        reply: the daemon's JSON object; of what was known by its digest one with the same keys, made of the index.
    """

    found: FileEntry
    status: str
    code: str | None = None
    message: str | None = None
    digest: bytes | None = None
    verdict: str | None = None
    alarm: bool = False
    label: str | None = None
    score: float | None = None
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    override: Mapping[str, Any] | None = None
    reply: Mapping[str, Any] = field(default_factory=dict)

    @property
    def graded(self) -> str:
        """The verdict and the score that decided it, for people; the verdict alone where a person decided."""
        because = self.reply.get("because") or {}
        score = self.score if self.override is None else None
        return graded(self.verdict or "", score, because.get("threshold"))
