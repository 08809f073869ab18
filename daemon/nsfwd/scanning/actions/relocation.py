"""Following a tree that moved, in what was taken from it: the manifests of stores, and which files lie in none of them.

The index's own rows are ``index.upkeep``'s. A kill in between leaves manifests of which some are rewritten; doing it
again rewrites the rest. Touches no picture.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec

from nsfwd.scanning.actions.quarantine import Store
from nsfwd.scanning.actions.quarantine_manifest import text_of
from nsfwd.scanning.index.database import Index
from nsfwd.scanning.trees.file_entry import below


def relocate_taken(store: Store, old: bytes, new: bytes, *, dry_run: bool = False) -> int:
    """Have what was taken from below ``old`` come back below ``new``; return how many files that are.

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
    """Return where files of a tree lie that were taken to other places than these stores."""
    rows = index.read(
        "SELECT DISTINCT target FROM action WHERE path >= ? AND path < ? AND outcome = 'done' AND restored IS NULL"
        " AND kind IN ('quarantine', 'move') AND target IS NOT NULL",
        below(old),
    )
    elsewhere = (target for (target,) in rows if not any(store.holds(os.path.realpath(target)) for store in stores))
    return [target for target in elsewhere if os.path.lexists(target)]
