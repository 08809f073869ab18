"""``recover``: finishes or undoes the moves of workers that died, by where the files are.

Looks at manifests in ``pending/`` that nobody holds. The file lies in the store, or it is still in its place: there is
no third case, because the manifest came first and a rename is whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from nsfwd.scanning.actions.move_out import is_the_one, settle
from nsfwd.scanning.actions.quarantine import Store
from nsfwd.scanning.actions.quarantine_manifest import ManifestEntry
from nsfwd.scanning.trees.files import rename, stat_regular


def recover(store: Store, record: Callable[[ManifestEntry], None], *, say: Callable[[str], None]) -> int:
    """Finish or undo the moves of dead workers; called at the beginning of every run that uses a store.

    Args:
        record: is given each entry whose file is in the store now, before its manifest is filed: maybe twice.
        say: is given the reason why an entry cannot be finished; it is left for the next time.

    Returns:
        How many entries there were.
    """
    count = 0
    with store.abandoned(lambda error: say(f"cannot finish the move of a killed run: {error}")) as left:
        for worker_dir, entry in left:
            count += 1
            try:
                with _source(store, entry) as source:
                    if _lies_in(store, source, entry):
                        settle(store, source, entry)
                        record(entry)
                        store.file(entry, worker_dir)
                    else:
                        store.forget(entry, worker_dir)
            except OSError as error:
                say(f"{entry.path_text}: cannot finish the move of a killed run: {error.strerror or error}")
    return count


@contextmanager
def _source(store: Store, entry: ManifestEntry) -> Iterator[int | None]:
    """Lend the directory where the file was; None where that is gone, or the way there leads elsewhere."""
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(store.home(entry))
        except OSError:
            opened = None
        yield opened


def _lies_in(store: Store, source: int | None, entry: ManifestEntry) -> bool:
    """Bring the file to one of the two places where it may be, and return whether that is the store."""
    with store.place(entry) as (place, name):
        with suppress(FileNotFoundError):
            os.unlink(entry.passing, dir_fd=place)
        found = stat_regular(place, name)
        if found is None:
            return False
        if entry.how == "copy":
            return _left(source, entry, place, name)
        if is_the_one(entry, found) or source is None:
            return True
        # Another file that had come under the name: it was to be sent back. Where its name is taken again it stays.
        with suppress(OSError):
            rename(place, name, source, entry.basename)
            return False
        return True


def _left(source: int | None, entry: ManifestEntry, place: int, name: bytes) -> bool:
    """Finish a move by copy, or delete the copy where the original is in its place; the store has the whole copy."""
    if source is None:
        return True
    if is_the_one(entry, stat_regular(source, entry.passing)):
        os.unlink(entry.passing, dir_fd=source)
        return True
    with suppress(FileNotFoundError):
        if is_the_one(entry, stat_regular(source, entry.basename)):
            os.unlink(name, dir_fd=place)
            return False
    return True
