"""Two models over the same files of an index: verdicts that flip, how many that would be of all, and what each costs.

Files are drawn as ``sampling`` draws them, read once beforehand so that both models find them in memory, and scored one
model after the other. Knows clients, not what they score with.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from nsfwd.client import Client, Options
from nsfwd.client.results import Reply
from nsfwd.scanning.reports import page
from nsfwd.scanning.reports.intervals import Estimate, Stratum, stratified
from nsfwd.scanning.reports.report import Shown, lying
from nsfwd.scanning.reports.sampling import Drawn
from nsfwd.scanning.reports.thumbnails import Thumbnails
from nsfwd.scanning.trees.file_io import opened

_CHUNK = 1 << 20
_OPTIONS = Options(lane="background")
"""Without deadline: a slow model is no error."""


class Said(NamedTuple):
    """The result of one model for a file; ``verdict`` is the status and code where it has none."""

    verdict: str
    alarm: bool
    score: float
    scored: bool = True


@dataclass(slots=True)
class Pass:
    """One model over all files.

    Attributes:
        name: of the bundle. ``model``: its identity.
        said: path -> what it said.
        seconds: for all files, from the first request to the last reply.
        decode, infer: seconds of decoders and of the engine, for all files; they work side by side.
    """

    name: str
    model: str = ""
    said: dict[bytes, Said] = field(default_factory=dict)
    seconds: float = 0.0
    decode: float = 0.0
    infer: float = 0.0

    @property
    def cost(self) -> float:
        """Seconds an image, with all processes of the machine at work."""
        return self.seconds / max(1, len(self.said))


class Flip(NamedTuple):
    """A file about which the models differ."""

    path: bytes
    stratum: str
    first: Said
    second: Said


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of it.

    Attributes:
        files: in the index, that the sample stands for.
        drawn: the sample. ``unscored``: of it, by either model.
        verdicts: (of the first, of the second) -> files of the sample, where they differ and where not.
        flips: files with different verdicts, those with an alarm by one alone first.
        estimates: the same keys, where they differ -> how many files of the index that would be.
    """

    first: Pass
    second: Pass
    files: int
    drawn: int
    unscored: int
    verdicts: dict[tuple[str, str], int]
    flips: list[Flip]
    estimates: dict[tuple[str, str], Estimate]


def warm(paths: Iterable[bytes]) -> None:
    """Read files, so that the first model pays no more for the disk than the second."""
    for path in paths:
        with suppress(OSError), opened(path) as descriptor:
            while os.read(descriptor, _CHUNK):
                pass


def scored(name: str, client: Client, paths: Sequence[bytes]) -> Pass:
    """Have one model score all files."""
    client.connect()  # an engine loads and warms before the clock starts
    done, before = Pass(name), client.stats()["engine"]["seconds"]
    began = time.perf_counter()
    for reply in client.scan_many(paths, options=_OPTIONS):
        done.said[os.fsencode(reply.path)] = _said(reply)
        done.decode += reply.time.get("decode", 0.0)
        done.model = done.model or ", ".join(reply.model.values())
    done.seconds = time.perf_counter() - began
    done.infer = client.stats()["engine"]["seconds"] - before  # a reply has its whole batch's
    return done


def _said(reply: Reply) -> Said:
    if not reply.scored:
        return Said(f"{reply.status} {reply.code}", False, 0.0, False)
    return Said(reply.verdict, reply.alarm, float(reply.because.get("score", reply.score)))


def compared(drawn: Sequence[Drawn], first: Pass, second: Pass) -> Comparison:
    """Compare two passes over a sample."""
    flips: list[Flip] = []
    verdicts: Counter[tuple[str, str]] = Counter()
    by_stratum: dict[str, Counter[tuple[str, str]]] = {}
    files = {one.stratum: one.files for one in drawn}
    looked: Counter[str] = Counter()
    for one in drawn:
        ours, theirs = first.said.get(one.path), second.said.get(one.path)
        if ours is None or theirs is None or not (ours.scored and theirs.scored):
            continue
        looked[one.stratum] += 1
        pair = (ours.verdict, theirs.verdict)
        verdicts[pair] += 1
        by_stratum.setdefault(one.stratum, Counter())[pair] += 1
        if ours.verdict != theirs.verdict:
            flips.append(Flip(one.path, one.stratum, ours, theirs))
    flips.sort(key=lambda flip: (flip.first.alarm == flip.second.alarm, -abs(flip.first.score - flip.second.score)))
    estimates = {}
    if all(looked[stratum] for stratum in files):
        for pair in verdicts:
            if pair[0] != pair[1]:
                strata = [Stratum(files[name], looked[name], by_stratum[name][pair]) for name in files]
                estimates[pair] = Estimate(*(share * sum(files.values()) for share in stratified(strata)))
    unscored = len(drawn) - sum(looked.values())
    return Comparison(first, second, sum(files.values()), len(drawn), unscored, dict(verdicts), flips, estimates)


def costs(comparison: Comparison) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield a row for each model: name, identity, and milliseconds an image: all, of a decoder, of the engine."""
    for done in (comparison.first, comparison.second):
        count = max(1, len(done.said))
        total, decoder, engine = (
            f"{seconds * 1000:.2f} ms" for seconds in (done.cost, done.decode / count, done.infer / count)
        )
        yield done.name, done.model, total, decoder, engine


COSTS = ("model", "identity", "an image", "decoder", "engine")
FLIPS = ("first", "second", "files", "of all", "from", "to")


def flipped(comparison: Comparison) -> Iterator[tuple[str, str, int, int | None, int | None, int | None]]:
    """Yield a row for each pair of verdicts that differ: files of the sample, and of the index with an interval."""
    for pair, count in sorted(comparison.verdicts.items(), key=lambda item: -item[1]):
        if pair[0] != pair[1]:
            share = comparison.estimates.get(pair)
            numbers = (None, None, None) if share is None else tuple(map(round, share))
            yield (*pair, count, *numbers)


def page_of(comparison: Comparison, shown: Shown) -> Iterator[str]:
    """Yield a page with the flips as pictures."""
    first, second = comparison.first.name, comparison.second.name
    yield from page.document(f"{first} and {second}", _pieces(comparison, shown))


def _pieces(comparison: Comparison, shown: Shown) -> Iterator[str]:
    first, second = comparison.first.name, comparison.second.name
    yield page.paragraph(
        f"{comparison.drawn} files drawn of {comparison.files}; {comparison.unscored} could not be scored by both."
    )
    yield page.heading("Cost of an image")
    yield from page.table(COSTS, costs(comparison))
    yield page.heading("Verdicts that flip")
    yield from page.table((first, second, *FLIPS[2:]), flipped(comparison))
    groups = {
        f"An alarm for {second} alone": [flip for flip in comparison.flips if flip.second.alarm > flip.first.alarm],
        f"An alarm for {first} alone": [flip for flip in comparison.flips if flip.first.alarm > flip.second.alarm],
        "Another verdict": [flip for flip in comparison.flips if flip.first.alarm == flip.second.alarm],
    }
    with Thumbnails() as thumbnails:
        for title, flips in groups.items():
            if flips:
                yield page.heading(f"{title}: {len(flips)}")
                yield from page.gallery(_picture(thumbnails, flip, shown) for flip in flips)


def _picture(thumbnails: Thumbnails, flip: Flip, shown: Shown) -> page.PagePicture:
    lines = tuple(f"{said.verdict} {said.score:.3f}" for said in (flip.first, flip.second))
    return lying(thumbnails, flip.path, shown, lines)
