"""The audit: walks trees by itself and holds every file it finds against the index. Trusts no run's own counts.

    found = ok + skipped + error + excluded + changed since + never seen

Every file found is in exactly one of the six. Memory does not grow with the trees: a file is looked up as it is met.
Reads only. Knows no daemon: whether the index is right is what a repeated sweep would tell, not an audit.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from nsfwd.scanning.index.database import Index
from nsfwd.scanning.index.runs import alive
from nsfwd.scanning.index.stat_columns import stored_identity
from nsfwd.scanning.trees.file_entry import below, join, within
from nsfwd.scanning.trees.walk import Exclusion, Walk, WalkedTree, WalkPart, outermost
from nsfwd.sqlite_store import Row


class Kind(StrEnum):
    """What a file, or a directory, is to the index."""

    OK = "ok"
    SKIPPED = "skipped"
    ERROR = "error"
    EXCLUDED = "excluded"
    CHANGED = "changed-since"
    UNSEEN = "never-seen"
    UNREADABLE = "unreadable"
    """A directory, or a part of one, that could not be walked; its files are not among those found."""


COUNTED = (Kind.OK, Kind.SKIPPED, Kind.ERROR, Kind.EXCLUDED, Kind.CHANGED, Kind.UNSEEN)
"""Those whose sum is what was found."""

_ABSENT = frozenset({"not_found", "bad_path"})
"""Codes of a directory that is no longer there."""


class AuditEntry(NamedTuple):
    """One thing found. ``code``: of a skipped, an error or an unreadable one; ``known``: the index has it so."""

    kind: Kind
    path: bytes
    code: str | None = None
    known: bool = True


class Unended(NamedTuple):
    """A run over one of the trees that did not walk to its end: which, why, how many files it had found."""

    run: int
    why: str
    found: int


@dataclass(slots=True)
class AuditTally:
    """What an audit found.

    Attributes:
        kinds: files of each kind, and unreadable directories.
        codes: (kind, code) -> how many, where there is a code.
        gone: files that the index has as being there, and the walk did not meet.
        unknown: unreadable directories that no run has recorded as such.
        left_out: directories not entered since they are excluded. links: not followed. foreign: other file systems.
        unended: the latest run over each tree, where it did not finish; None where it did.
        cut_short: why the audit itself ended early; empty when it did not.
    """

    kinds: Counter[Kind] = field(default_factory=Counter)
    codes: Counter[tuple[Kind, str]] = field(default_factory=Counter)
    gone: int = 0
    unknown: int = 0
    left_out: int = 0
    links: int = 0
    foreign: int = 0
    unended: list[Unended] = field(default_factory=list)
    cut_short: str = ""

    @property
    def found(self) -> int:
        """All files."""
        return sum(self.kinds[kind] for kind in COUNTED)

    @property
    def proven(self) -> bool:
        """Whether the index accounts for every file of the trees as it is now."""
        return not (self.kinds[Kind.CHANGED] or self.kinds[Kind.UNSEEN] or self.unknown or self.cut_short)

    def add(self, entry: AuditEntry) -> None:
        """Count one thing."""
        self.kinds[entry.kind] += 1
        if entry.code is not None:
            self.codes[entry.kind, entry.code] += 1
        if entry.kind is Kind.UNREADABLE and not entry.known:
            self.unknown += 1


class _Noting(Exclusion):
    """An exclusion that remembers what it left out since it was last asked."""

    def __init__(self, exclusion: Exclusion) -> None:
        super().__init__(exclusion.patterns)
        self._noted: list[bytes] = []

    def holds(self, path: bytes) -> bool:
        left_out = super().holds(path)
        if left_out:
            self._noted.append(path)
        return left_out

    def noted(self) -> list[bytes]:
        """Return what was left out, and forget it."""
        noted, self._noted = self._noted, []
        return noted


class Audit:
    """One audit. Iterate over ``entries`` once; ``tally`` is whole when that ends.

    Args:
        tree: what to walk, with the exclusion that the sweeps of it have.
        stopped: asked between two parts of a directory; True ends the walk, and ``tally`` says that it was cut short.
    """

    def __init__(self, index: Index, tree: WalkedTree, *, stopped: Callable[[], bool] = lambda: False) -> None:
        self._index, self._stopped = index, stopped
        self._noting = _Noting(tree.exclusion)
        self._tree = WalkedTree(tree.roots, self._noting, follow=tree.follow, cross=tree.cross)
        self._known = 0
        self.tally = AuditTally()

    def entries(self) -> Iterator[AuditEntry]:
        """Walk, and yield everything that was found, counted already.

        Raises:
            IndexFailure: the index cannot be read.
        """
        tally, walk = self.tally, Walk(self._tree)
        for part in walk:
            for entry in self._part(part):
                tally.add(entry)
                yield entry
            if self._stopped():
                tally.cut_short = "interrupted"
                break
        tally.links, tally.foreign = walk.links, walk.foreign
        if not tally.cut_short:
            tally.gone = sum(map(self._expected, outermost(self._tree.roots))) - self._known
        tally.unended = list(self._unended())

    def _part(self, part: WalkPart) -> Iterator[AuditEntry]:
        row = self._index.one("SELECT id, code FROM directory WHERE path = ?", (part.directory,))
        number, code = row or (None, None)
        for entry in part.entries:
            yield self._file(part.directory, number, entry)
        for path in self._noting.noted():
            if _is_directory(path, follow=self._tree.follow):
                self.tally.left_out += 1
                self._known += self._expected(path)
            else:
                self._known += self._row(number, os.path.basename(path)) is not None  # noqa: PTH119 - names are bytes
                yield AuditEntry(Kind.EXCLUDED, path)
        if part.code is not None:
            if not part.entries and part.first and part.code not in _ABSENT:
                self._known += self._expected(part.directory)  # cannot be seen, which is not gone
            yield AuditEntry(Kind.UNREADABLE, part.directory, part.code, known=code is not None)

    def _file(self, directory: bytes, number: int | None, entry: tuple[bytes, int, int, int, int, int]) -> AuditEntry:
        path = join(directory, entry[0])
        row = self._row(number, entry[0])
        if row is None:
            return AuditEntry(Kind.UNSEEN, path)
        self._known += 1
        if row[:5] != stored_identity(*entry[1:]):
            return AuditEntry(Kind.CHANGED, path)
        return AuditEntry(Kind(row[5]), path, row[6])

    def _row(self, directory: int | None, name: bytes) -> Row | None:
        return None if directory is None else self._index.one(_LOOK_UP, (directory, name))

    def _expected(self, place: bytes) -> int:
        """How many files the index has as being there, at a directory and below."""
        (count,) = self._index.one(_EXPECTED, (place, *below(place))) or (0,)
        return int(count)

    def _unended(self) -> Iterator[Unended]:
        """The latest sweep of each tree, where it is not at its end."""
        for root in outermost(self._tree.roots):
            latest = next(self._runs(root), None)
            if latest is None:
                continue
            number, ended, why, found = latest
            if ended is None:
                yield Unended(number, "running" if alive(self._index, number) else "killed", found)
            elif why != "finished":
                yield Unended(number, str(why), found)

    def _runs(self, root: bytes) -> Iterator[Row]:
        """Sweeps of a tree, the latest first."""
        for number, roots, *rest in self._index.read(_SWEEPS):
            if any(within(root, other) for other in roots.split(b"\0")):
                yield number, *rest


_LOOK_UP = """
    SELECT dev, ino, size, mtime_ns, ctime_ns, status, code FROM file
    WHERE directory = ? AND name = ? AND gone IS NULL
"""
_EXPECTED = """
    SELECT count(*) FROM file JOIN directory ON directory.id = file.directory
    WHERE file.gone IS NULL AND (directory.path = ? OR directory.path >= ? AND directory.path < ?)
"""
_SWEEPS = "SELECT id, roots, ended, why, found FROM run WHERE kind = 'sweep' ORDER BY id DESC"


def _is_directory(path: bytes, *, follow: bool) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path, follow_symlinks=follow).st_mode)  # noqa: PTH116 - names are bytes
    except OSError:
        return False


def as_dict(tally: AuditTally) -> dict[str, Any]:
    """Return what an audit found as JSON has it."""
    codes: dict[str, dict[str, int]] = {}
    for (kind, code), count in sorted(tally.codes.items()):
        codes.setdefault(kind, {})[code] = count
    return {
        "found": tally.found,
        **{kind.replace("-", "_"): tally.kinds[kind] for kind in COUNTED},
        "codes": codes,
        "unreadable": tally.kinds[Kind.UNREADABLE],
        "unreadable_unknown": tally.unknown,
        "gone": tally.gone,
        "left_out": tally.left_out,
        "links": tally.links,
        "foreign": tally.foreign,
        "unended": [unended._asdict() for unended in tally.unended],
        "cut_short": tally.cut_short,
        "proven": tally.proven,
    }


def listed(entries: Iterable[AuditEntry], kinds: frozenset[Kind]) -> Iterator[AuditEntry]:
    """Yield those of some kinds, and let the others pass by."""
    return (entry for entry in entries if entry.kind in kinds)
