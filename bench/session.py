"""One run of the bench: its options, its pictures, and where its figures go."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import corpus, figures, machine, records
from tests.echo_bundle import echo_bundle

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
RESULTS = HERE / "results"
CACHE = HERE / ".cache"
"""Pictures and the peers' virtual environment; git-ignored, as the results are."""
QUICK_ROUNDS, ROUNDS = 7, 15


@dataclass
class Session:
    """The options and tools of every measurement.

    Attributes:
        quick: fewer pictures and shorter rounds: ratios within a few percent, minutes instead of an hour.
        rounds: interleaved and short: many short ones tell more of a shared machine than few long ones.
        kinds: of pictures (``corpus.SIZES``).
        engine, device, backend: of ``roofline``, as the settings of these names.
        tree: another checkout, for ``against``.
        photos: a folder whose JPEGs take the place of pictures made by code, for every kind.
    """

    bundle: str = "nsfw-mobilenet-v2-140"
    models_dir: Path = REPOSITORY / "models"
    precision: str = ""
    engine: str = "openvino"
    device: str = "cpu"
    backend: str = ""
    quick: bool = False
    rounds: int = QUICK_ROUNDS
    kinds: Sequence[str] = ("small", "large")
    photos: Path | None = None
    tree: Path | None = None
    peers: Sequence[str] = ("mosec", "litserve", "bentoml", "ray")
    results: Path = RESULTS
    started: str = field(default_factory=lambda: time.strftime("%Y%m%dT%H%M%S"))
    directory: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="nsfwd-bench-")))

    @property
    def bundle_directory(self) -> Path:
        """Of the bundle that is measured."""
        return self.models_dir / self.bundle

    @property
    def kept(self) -> Path:
        """The file of this run's figures."""
        return self.results / f"{self.started}.jsonl"

    @property
    def flags(self) -> tuple[str, ...]:
        """Of ``nsfwd serve``, for the precision."""
        return ("--precision", *self.precisions) if self.precision else ()

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precision asked for, if any."""
        return (self.precision,) if self.precision else ()

    @property
    def engine_flags(self) -> tuple[str, ...]:
        """Of ``nsfwd serve``, for engine, device, back end and precision."""
        backend = ("--backend", self.backend) if self.backend else ()
        return ("--engine", self.engine, "--device", self.device, *backend, *self.flags)

    def echo_models(self) -> Path:
        """A directory with the bundle ``echo``, which has no network: what is measured is the cost of all the rest."""
        models = self.directory / "models"
        if not models.exists():
            echo_bundle(models, side=32, goldens=False, draft=2.0)
        return models

    def pictures(self, kind: str) -> list[Path]:
        """The pictures of one kind."""
        if self.photos:
            return sorted(self.photos.rglob("*.jp*g"))
        few = (
            {"small": 200, "large": 60, "photos": 400} if self.quick else {"small": 1000, "large": 300, "photos": 1000}
        )
        return corpus.make(CACHE / "pictures", kind, few[kind])

    def count(self, thorough: int) -> int:
        """The number of images: ``thorough``, or a fifth of it in a quick run."""
        return max(40, thorough // 5) if self.quick else thorough

    def report(self, name: str, rows: Sequence[Mapping[str, object]], note: str = "") -> None:
        """Print a table and keep its rows as JSON lines, each with the run it is of."""
        print(f"\n### {name}\n" + (f"\n{note}\n" if note else "") + f"\n{figures.table(rows)}\n", flush=True)
        self.results.mkdir(parents=True, exist_ok=True)
        stamp = {"table": name, "run": self.started, "bundle": self.bundle, "quick": self.quick}
        with self.kept.open("a", encoding="utf-8") as out:
            out.write(records.lines(stamp, rows, note))

    def rarely(self, number: int) -> bool:
        """Whether what takes long has its turn in this round too: every third."""
        return number % 3 == 0

    def say(self, words: str) -> None:
        """Report progress."""
        print(f"  {words}", file=sys.stderr, flush=True)

    def head(self) -> None:
        """Name the machine and the run."""
        how = f"{'quick' if self.quick else 'thorough'}, {self.rounds} rounds, {self.bundle}"
        told = {**machine.describe(), "run": how + (f" at {self.precision}" if self.precision else "")}
        self.report("machine", [{"what": key, "is": value} for key, value in told.items()])
