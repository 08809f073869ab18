"""Taken files in the index: that one came back, was decided about, or was taken by a run that was killed.

For whoever puts files back, and for recovery. Knows rows and manifests, no file.
"""

from __future__ import annotations

import os

from nsfwd.protocol.messages import Override
from nsfwd.scanning.actions.quarantine_manifest import ManifestEntry
from nsfwd.scanning.index.database import Index
from nsfwd.scanning.index.rejudge import spelled_override


def mark_restored(index: Index, entry: ManifestEntry, target: bytes, restored: float | None) -> None:
    """Note when the file of an entry came back; None takes the note back."""
    with index.transaction():
        index.write_all(
            "UPDATE action SET restored = ? WHERE id = ?", [(restored, row) for row in _rows(index, entry, target)]
        )


def _rows(index: Index, entry: ManifestEntry, target: bytes) -> list[int]:
    """Return the rows of an entry, by whatever way its store was named when they were written."""
    rows = index.rows(
        "SELECT id, target FROM action WHERE digest = ? AND target IS NOT NULL", (bytes.fromhex(entry.digest),)
    )
    wanted = os.path.realpath(target)
    return [number for number, known in rows if known == target or os.path.realpath(known) == wanted]


def note_override(index: Index, override: Override) -> None:
    """Take a decision up in the index at once: it would go on to tell of copies what the model said."""
    with index.transaction():
        index.write(
            "UPDATE file SET verdict = ?, alarm = 0, override = ? WHERE digest = ? AND status = 'ok'",
            (override.verdict, spelled_override(override), override.digest),
        )


def note_recovered(index: Index, entry: ManifestEntry, target: bytes) -> None:
    """Write a row for an entry that has none."""
    with index.transaction():
        if _rows(index, entry, target):
            return
        known = index.one("SELECT id FROM run WHERE id = ?", (entry.run,)) if entry.is_of(index.path) else None
        index.write(
            "INSERT INTO action (run, time, kind, path, target, digest, verdict, links, outcome)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'done')",
            (
                known[0] if known else None,
                entry.time,
                entry.kind,
                entry.path,
                target,
                bytes.fromhex(entry.digest),
                entry.verdict,
                entry.links,
            ),
        )
