"""Draws samples of an index for people to label, and estimates figures of all files from the labels.

    sample      the same files for the same index and seed; a CSV with an empty column ``label``
    estimate    from that CSV alone: it says how many files each of its rows stands for

A file's place in the draw is a keyed digest of its path: a draw does not depend on the order of rows, and hardly
changes when files are added. One pass, and memory for the sample alone. Opens no picture.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

from nsfwd import csvfile
from nsfwd.errors import NsfwdError
from nsfwd.row_writer import write_rows
from nsfwd.scanning.index.database import Index
from nsfwd.scanning.reports.intervals import Estimate, Stratum, stratified
from nsfwd.scanning.trees.file_entry import join, path_fields, whole_path

TENTHS = 10
"""Parts of the score, of equal width: misses gather below the threshold, and equal shares of the sample find them."""

COLUMNS = ("path", "path_bytes", "sha256", "verdict", "alarm", "score", "stratum", "files", "label")
NEEDED = ("verdict", "alarm", "stratum", "files", "label")
"""Columns that ``estimate`` reads."""

_YES = frozenset({"1", "yes", "y", "true", "t"})
_NO = frozenset({"0", "no", "n", "false", "f"})


class SampleFailure(NsfwdError):
    """A sample cannot be drawn, or a labelled one cannot be read. The caller's fault; no retry helps."""


class Drawn(NamedTuple):
    """One file of a sample; ``files`` is how many its stratum has."""

    path: bytes
    digest: bytes | None
    verdict: str
    alarm: bool
    score: float
    stratum: str
    files: int


_Place = tuple[int, bytes, bytes | None, float]
"""Negated place in the draw, path, digest, score: the largest of a heap is thrown out first."""


def sample(
    index: Index, count: int, *, verdicts: Sequence[str] = (), by_score: bool = True, seed: int = 0
) -> list[Drawn]:
    """Draw files that were scored, without replacement, in random order.

    Those that are there, and those that an action took away and that lie elsewhere now: else nobody could say how often
    it is right.

    Every stratum (a verdict, and with ``by_score`` a tenth of the score) gets an equal share, or all it has.

    Args:
        verdicts: only these; all when empty.

    Raises:
        SampleFailure: there are no such files, or more strata than are to be drawn.
    """
    files: Counter[tuple[str, bool, int]] = Counter()
    heaps: dict[tuple[str, bool, int], list[_Place]] = {}
    key = str(seed).encode()
    for directory, name, digest, verdict, alarm, score in _scored(index, verdicts):
        stratum = (verdict, bool(alarm), min(int(score * TENTHS), TENTHS - 1) if by_score else 0)
        path = name if directory is None else join(directory, name)
        files[stratum] += 1
        heap = heaps.setdefault(stratum, [])
        place = -int.from_bytes(hashlib.blake2b(path, digest_size=8, key=key).digest(), "big")
        if len(heap) < count:
            heapq.heappush(heap, (place, path, digest, score))
        elif place > heap[0][0]:
            heapq.heapreplace(heap, (place, path, digest, score))
    shares = _shares(files, count)
    drawn = [
        (place, Drawn(path, digest, stratum[0], stratum[1], score, _name(stratum, by_score), files[stratum]))
        for stratum, heap in heaps.items()
        for place, path, digest, score in heapq.nlargest(shares[stratum], heap)
    ]
    drawn.sort(key=lambda one: one[0], reverse=True)
    return [one for _, one in drawn]


def _scored(
    index: Index, verdicts: Sequence[str]
) -> Iterable[tuple[bytes | None, bytes, bytes | None, str, int, float]]:
    """Yield directory and name, or None and where it lies now; digest, verdict, alarm, score."""
    chosen = f"AND file.verdict IN ({', '.join('?' * len(verdicts))})" if verdicts else ""
    return index.read(
        f"""
        SELECT directory.path, name, digest, verdict, alarm, coalesce(score, 0.0)
        FROM file JOIN directory ON directory.id = file.directory WHERE status = 'ok' AND gone IS NULL {chosen}
        UNION ALL
        SELECT NULL, action.target, file.digest, file.verdict, alarm, coalesce(score, 0.0)
        FROM action JOIN file ON file.digest = action.digest JOIN directory ON directory.id = file.directory
        WHERE kind IN ('move', 'quarantine') AND outcome = 'done' AND restored IS NULL AND target IS NOT NULL
            AND status = 'ok' AND gone IS NOT NULL AND {whole_path()} = action.path {chosen}
        """,
        (*verdicts, *verdicts),
    )


def _shares(files: Counter[tuple[str, bool, int]], count: int) -> dict[tuple[str, bool, int], int]:
    """Share the sample out equally; what a small stratum cannot take goes to the others."""
    if not files:
        raise SampleFailure("no file in the index was scored so")
    if count < len(files):
        raise SampleFailure(f"the files fall into {len(files)} strata: draw at least {len(files)}")
    shares, left = {}, count
    for rank, stratum in enumerate(sorted(files, key=lambda one: (files[one], one))):
        shares[stratum] = min(files[stratum], left // (len(files) - rank))
        left -= shares[stratum]
    return shares


def _name(stratum: tuple[str, bool, int], by_score: bool) -> str:
    verdict, alarm, tenth = stratum
    whole = f"{verdict}{' (alarm)' if alarm else ''}"
    return f"{whole} {tenth / TENTHS:.1f}-{(tenth + 1) / TENTHS:.1f}" if by_score else whole


def write(drawn: Iterable[Drawn], out: BinaryIO) -> None:
    """Write a sample as CSV with an empty column to label in."""
    write_rows(map(_row, drawn), out, COLUMNS, "csv")


def _row(one: Drawn) -> dict[str, Any]:
    digest = one.digest.hex() if one.digest else None
    return {**one._asdict(), **path_fields(one.path), "sha256": digest}


@dataclass(frozen=True, slots=True)
class SampleFigures:
    """Figures of an index, estimated from a labelled sample.

    Attributes:
        drawn, labelled: rows of the sample.
        files: they stand for; ``flagged`` of them have a verdict that asks for attention.
        prevalence: of positives among all files.
        precision: of positives among the flagged.
        misses: of positives among those not flagged. ``missed`` is the same in files.

    An estimate is None where the sample holds no such files: one of safe files alone gives no precision.
    """

    drawn: int
    labelled: int
    files: int
    flagged: int
    prevalence: Estimate | None
    precision: Estimate | None
    misses: Estimate | None
    missed: Estimate | None


@dataclass(slots=True)
class _Counted:
    files: int
    flagged: bool
    drawn: int = 0
    looked: int = 0
    positive: int = 0


def estimate(labelled: BinaryIO, *, flagged: Sequence[str] = ()) -> SampleFigures:
    """Estimate from a sample that people labelled: yes (1, y, true) where the picture should have been flagged, or no.

    Rows with an empty label count as not looked at.

    Args:
        flagged: verdicts that count as flagged; the alarms when empty.

    Raises:
        SampleFailure: the table is not one of ``write``, a label is none, or nobody looked into some stratum.
    """
    strata: dict[str, _Counted] = {}
    line = 0
    try:
        for line, row in csvfile.read(labelled, NEEDED):  # noqa: B007
            _count(strata, row, flagged)
    except csvfile.TableError as error:
        raise SampleFailure(f"not a sample: {error}") from None
    except (ValueError, KeyError) as error:
        missing = isinstance(error, KeyError)
        raise SampleFailure(f"line {line}: {f'the cell {error} is empty' if missing else error}") from None
    unseen = [name for name, counted in strata.items() if not counted.looked]
    if unseen or not strata:
        raise SampleFailure(f"label at least one file of: {', '.join(unseen)}" if strata else "the sample is empty")
    return _figures(list(strata.values()))


def _count(strata: dict[str, _Counted], row: dict[str, str], flagged: Sequence[str]) -> None:
    alarm = row["alarm"].strip().lower()  # a spreadsheet writes TRUE
    if alarm not in ("true", "false"):
        raise ValueError(f"alarm must be true or false, not {row['alarm']!r}")
    is_flagged = row["verdict"] in flagged if flagged else alarm == "true"
    files = int(row["files"])
    counted = strata.setdefault(row["stratum"], _Counted(files, is_flagged))
    if (counted.files, counted.flagged) != (files, is_flagged):
        raise ValueError(f"the rows of the stratum {row['stratum']} contradict each other")
    counted.drawn += 1
    label = row.get("label", "").strip().lower()
    if not label:
        return
    if label not in _YES | _NO:
        raise ValueError(f"the label must be yes or no, not {row['label']!r}")
    counted.looked += 1
    counted.positive += label in _YES
    if counted.looked > counted.files:
        raise ValueError(f"more rows of the stratum {row['stratum']} than it has files")


def _figures(strata: Sequence[_Counted]) -> SampleFigures:
    def proportion(chosen: Sequence[_Counted]) -> Estimate | None:
        return stratified([Stratum(one.files, one.looked, one.positive) for one in chosen]) if chosen else None

    above, below = [one for one in strata if one.flagged], [one for one in strata if not one.flagged]
    misses, quiet = proportion(below), sum(one.files for one in below)
    return SampleFigures(
        drawn=sum(one.drawn for one in strata),
        labelled=sum(one.looked for one in strata),
        files=sum(one.files for one in strata),
        flagged=sum(one.files for one in above),
        prevalence=proportion(strata) if above and below else None,
        precision=proportion(above),
        misses=misses,
        missed=Estimate(*(share * quiet for share in misses)) if misses else None,
    )
