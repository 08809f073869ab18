"""Which users may change a file: root and the user of this process, or others as well. Reads attributes only."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def only_ours(found: os.stat_result) -> bool:
    """Tell whether no other user can change a file, or rename what lies in a directory; a sticky one protects that."""
    private_group = found.st_gid == found.st_uid  # as distributions give each user a group of their own
    shared = found.st_mode & (0o002 if private_group else 0o022) and not found.st_mode & stat.S_ISVTX
    return found.st_uid in (0, os.geteuid()) and not (shared and not stat.S_ISLNK(found.st_mode))


def changeable_by_others(directory: Path) -> Path | None:
    """Return what another user may change of a directory: itself, a file below it, a link or directory on the way.

    Raises:
        OSError: something of it cannot be read.
    """
    here, real = Path(os.path.abspath(directory)), directory.resolve()  # noqa: PTH100 -- with the links on the way
    for path in {here, *here.parents, real, *real.parents, *real.rglob("*")}:
        if not only_ours(path.lstat()):
            return path
    return None
