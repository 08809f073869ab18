"""``Releases``: contents that a person let go again, and the decision that was made with it, so that no run takes them.

    released/ab/DIGEST.json    beside the manifests of a store

The decision itself is an override, which wins over the model; but a run may act on the very verdict that a person gave
(``--on safe``). What a person released stays where it is for as long as that decision is the one in force: who decides
anew, or takes the decision back, is obeyed. Needs no index: a fresh one changes nothing. Knows no file of a tree.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from nsfwd.documents import DocumentError, decode_json
from nsfwd.scanning.trees.files import hand_over, write_new
from nsfwd.scanning.trees.safe_paths import below, safe_directory

_PLACE = b"released"


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """One content.

    Attributes:
        time: when it was released. ``decided``: the time of the override that was made with it.
        path: where its file went back to, for people.
    """

    version: int = 1
    digest: str
    time: float
    decided: float
    path: str = ""


class Releases:
    """The releases of a store; reading them needs no store to be there.

    Args:
        records: below which the store keeps its manifests.
    """

    def __init__(self, records: Path) -> None:
        self._records = records

    def note(self, release: Release) -> None:
        """Write one, over an earlier one of that content; on the disk when this returns.

        Raises:
            OSError: it cannot be written.
        """
        shard, content = release.digest[:2].encode(), msgspec.json.encode(release) + b"\n"
        with (
            safe_directory(os.fsencode(self._records)) as records,
            _made(records, _PLACE) as base,
            _made(base, shard) as drawer,
        ):
            write_new(drawer, _file_of(release.digest), content)

    def of(self, digest: bytes) -> Release | None:
        """Return what is known of a content; None also where nothing of it can be read."""
        spelled = digest.hex()
        with suppress(OSError, DocumentError):
            content = (self._records / os.fsdecode(_PLACE) / spelled[:2] / os.fsdecode(_file_of(spelled))).read_bytes()
            return decode_json(content, Release)
        return None


@contextmanager
def _made(place: int, name: bytes) -> Iterator[int]:
    """Lend a directory, made where it is missing."""
    try:
        os.mkdir(name, 0o700, dir_fd=place)  # bytes
    except FileExistsError:
        made = False
    else:
        made = True
    with below(place, name) as opened:
        if made:
            hand_over(opened, place)
        yield opened


def _file_of(digest: str) -> bytes:
    return digest.encode() + b".json"
