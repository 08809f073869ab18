"""One run of the bench: its options, its pictures, and where its figures go."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import corpus, figures, machine

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
RESULTS = HERE / "results"
CACHE = HERE / ".cache"
"""Pictures and the peers' virtual environment; git-ignored, as the results are."""


@dataclass
class Session:
    """What every measurement gets.

    Attributes:
        quick: fewer pictures and rounds: ratios within a few percent, minutes instead of an hour.
        rounds: interleaved rounds; ratios are medians over them.
        kinds: of pictures (``corpus.SIZES``).
        photos: a folder whose JPEGs take the place of pictures made by code, whatever their kind.
    """

    bundle: str = "nsfw-mobilenet-v2-140"
    models_dir: Path = REPOSITORY / "models"
    precision: str = ""
    quick: bool = False
    rounds: int = 5
    kinds: Sequence[str] = ("small", "large")
    photos: Path | None = None
    peers: Sequence[str] = ("mosec", "litserve", "bentoml", "ray")
    results: Path = RESULTS
    started: str = field(default_factory=lambda: time.strftime("%Y%m%dT%H%M%S"))
    directory: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="nsfwd-bench-")))

    @property
    def bundle_directory(self) -> Path:
        """Of the bundle that is measured."""
        return self.models_dir / self.bundle

    @property
    def flags(self) -> tuple[str, ...]:
        """Of ``nsfwd serve``, for the precision."""
        return ("--precision", self.precision) if self.precision else ()

    def pictures(self, kind: str) -> list[Path]:
        """The pictures of one kind."""
        if self.photos:
            return sorted(self.photos.rglob("*.jp*g"))
        few = {"small": 200, "large": 60} if self.quick else {"small": 1000, "large": 300}
        return corpus.make(CACHE / "pictures", kind, few[kind])

    def count(self, thorough: int) -> int:
        """So many images in a thorough run, a fifth of it in a quick one."""
        return max(40, thorough // 5) if self.quick else thorough

    def report(self, name: str, rows: Sequence[Mapping[str, object]], note: str = "") -> None:
        """Print a table and keep its rows as JSON lines, each with the machine it is of."""
        print(f"\n### {name}\n" + (f"\n{note}\n" if note else "") + f"\n{figures.table(rows)}\n", flush=True)
        self.results.mkdir(parents=True, exist_ok=True)
        stamp = {"table": name, "run": self.started, "bundle": self.bundle, "quick": self.quick}
        with (self.results / f"{self.started}.jsonl").open("a", encoding="utf-8") as out:
            for row in rows:
                out.write(json.dumps({**stamp, **row}, default=str) + "\n")

    def say(self, words: str) -> None:
        """Tell whoever waits what is going on."""
        print(f"  {words}", file=sys.stderr, flush=True)

    def head(self) -> None:
        """Name the machine."""
        self.report("machine", [{"what": key, "is": value} for key, value in machine.describe().items()])
