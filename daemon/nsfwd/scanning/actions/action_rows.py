"""Keeps the rows and manifests of taken files true: one came back, got an override, or its tree moved.

For restore, recovery and ``index relocate``. Knows rows and manifests, and touches no picture.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec

from nsfwd.protocol.messages import Override
from nsfwd.scanning.actions.quarantine import Store
from nsfwd.scanning.actions.quarantine_manifest import ManifestEntry, text_of
from nsfwd.scanning.index.database import Index
from nsfwd.scanning.index.rejudge import override_json
from nsfwd.scanning.trees.file_entry import below


def mark_restored(index: Index, entry: ManifestEntry, target: bytes, restored: float | None) -> None:
    """Write when the file of an entry came back; None removes that."""
    with index.transaction():
        index.write_all(
            "UPDATE action SET restored = ? WHERE id = ?", [(restored, row) for row in _rows(index, entry, target)]
        )


def _rows(index: Index, entry: ManifestEntry, target: bytes) -> list[int]:
    """Return the rows of an entry, whichever path of its store they have."""
    rows = index.rows(
        "SELECT id, target FROM action WHERE digest = ? AND target IS NOT NULL", (bytes.fromhex(entry.digest),)
    )
    wanted = os.path.realpath(target)
    return [number for number, known in rows if known == target or os.path.realpath(known) == wanted]


def note_override(index: Index, override: Override) -> None:
    """Write an override to the rows of its content at once: copies would keep the model's verdict."""
    with index.transaction():
        index.write(
            "UPDATE file SET verdict = ?, alarm = 0, override = ? WHERE digest = ? AND status = 'ok'",
            (override.verdict, override_json(override), override.digest),
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


def relocate_taken(store: Store, old: bytes, new: bytes, *, dry_run: bool = False) -> int:
    """Rewrite manifests, so that files taken from below ``old`` come back below ``new``; return their number.

    A kill in between leaves manifests of which some are rewritten; doing it again rewrites the rest.

    Raises:
        ActionFailure: a manifest cannot be read or written.
    """
    low, high = below(old)
    entries = [entry for entry in store.entries() if low <= entry.path < high]
    for entry in () if dry_run else entries:
        path = new + entry.path[len(old) :]
        store.correct(msgspec.structs.replace(entry, path=path, path_text=text_of(path)))
    return len(entries)


def taken_elsewhere(index: Index, old: bytes, stores: Sequence[Store]) -> list[bytes]:
    """Return the places of files of a tree that were taken to other places than these stores."""
    rows = index.read(
        "SELECT DISTINCT target FROM action WHERE path >= ? AND path < ? AND outcome = 'done' AND restored IS NULL"
        " AND kind IN ('quarantine', 'move') AND target IS NOT NULL",
        below(old),
    )
    elsewhere = (target for (target,) in rows if not any(store.holds(os.path.realpath(target)) for store in stores))
    return [target for target in elsewhere if os.path.lexists(target)]
