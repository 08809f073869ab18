"""``Releases``: contents that a person let go again, and the decision that was made with it, so that no run takes them.

    released/ab/DIGEST.json    beside the manifests of a store

The decision itself is an override, which wins over the model; but a run may act on the very verdict that a person gave
(``--on safe``). What a person released stays where it is for as long as that decision is the one in force: who decides
anew, or takes the decision back, is obeyed. Needs no index: a fresh one changes nothing. Knows no file of a tree.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import msgspec

from nsfwd.scanning.trees.files import directory, write_new


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
        self._base = records / "released"

    def note(self, release: Release) -> None:
        """Write one, over an earlier one of that content; on the disk when this returns.

        Raises:
            OSError: it cannot be written.
        """
        drawer = self._base / release.digest[:2]
        drawer.mkdir(mode=0o700, parents=True, exist_ok=True)
        with directory(os.fsencode(drawer)) as place:
            write_new(place, _file_of(release.digest), msgspec.json.encode(release) + b"\n")

    def of(self, digest: bytes) -> Release | None:
        """Return what is known of a content; None also where nothing of it can be read."""
        spelled = digest.hex()
        with suppress(OSError, msgspec.DecodeError):  # a ValidationError is one
            content = (self._base / spelled[:2] / os.fsdecode(_file_of(spelled))).read_bytes()
            return msgspec.json.decode(content, type=Release)
        return None


def _file_of(digest: str) -> bytes:
    return digest.encode() + b".json"
