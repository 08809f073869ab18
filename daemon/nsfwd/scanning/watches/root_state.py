"""``root_state``: which directory the name of a watched tree stands for, and what is mounted below it.

Watches are of directories, trees are named by paths: a link that is switched, a parent that is renamed and a mount give
a name another directory, and no event tells. Knows no watch.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

from nsfwd.scanning.trees.walk import within

MOUNTS = Path("/proc/self/mountinfo")

_ESCAPED = re.compile(rb"\\([0-7]{3})")


class RootState(NamedTuple):
    """What a name stood for when it was looked at.

    Attributes:
        identity: device and inode of the directory; None where there is none.
        mounts: number and place of each mount at it or below.
    """

    identity: tuple[int, int] | None
    mounts: frozenset[tuple[bytes, bytes]] = frozenset()


def root_state(root: bytes) -> RootState:
    """Look. May wait for a disk or a network."""
    try:
        found = os.stat(root)  # noqa: PTH116 (pathlib knows no bytes)
    except OSError:
        return RootState(None)
    if not stat.S_ISDIR(found.st_mode):
        return RootState(None)
    return RootState((found.st_dev, found.st_ino), _mounts(os.path.realpath(root)))


def _mounts(place: bytes) -> frozenset[tuple[bytes, bytes]]:
    try:
        lines = MOUNTS.read_bytes().splitlines()
    except OSError:
        return frozenset()
    pairs = ((fields[0], _plain(fields[4])) for line in lines if len(fields := line.split()) > 4)
    return frozenset((number, where) for number, where in pairs if within(where, place))


def _plain(escaped: bytes) -> bytes:
    return _ESCAPED.sub(lambda found: bytes((int(found[1], 8),)), escaped)
