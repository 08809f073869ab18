"""``curve``: whether the ten-thousandth request costs what the first did, and what a batch gains."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bench import daemon, figures, machine
from bench.load import Load, Ndjson
from bench.overhead import NOWHERE
from bench.session import Session
from bench.shared import Scorer

DECADES = (100, 1_000, 10_000, 100_000, 1_000_000)
SIZES = (1, 2, 4, 8, 16, 32)


def measure(session: Session) -> None:
    """Print cost by requests so far, and cost by batch size."""
    session.report("curve: cost of a request by how many there were", _requests(session))
    session.report("curve: the engine alone by batch size", _batches(session))


def _requests(session: Session) -> list[dict[str, object]]:
    models = session.echo_models()
    rows: list[dict[str, object]] = []
    with daemon.Nsfwd(session.directory, bundle="echo", models_dir=models, engine="echo", null_decoder=True) as server:
        server.wait_ready()
        load = Load(server.unix, Ndjson(), 8)
        asked, first = 0, 0.0
        for decade in DECADES[: 4 if session.quick else 5]:
            session.say(f"curve: up to {decade} requests")
            count = decade - asked
            before, began = machine.cpu_seconds([server.pid]), time.perf_counter()
            while asked < decade:
                some = (NOWHERE * 20)[: min(20_000, decade - asked)]
                load.closed(some, depth=64)
                asked += len(some)
            cost = (machine.cpu_seconds([server.pid]) - before) / count
            first = first or cost
            rows.append(
                {
                    "requests": decade,
                    "server us/img": cost * 1e6,
                    "requests/s": count / (time.perf_counter() - began),
                    "by the first": cost / first,
                    "server MB": machine.memory_mb([server.pid]),
                }
            )
        load.close()
    return rows


@dataclass
class Batch:
    """One size, and what each round came to: images a second and CPU seconds an image."""

    images: list[NDArray[np.uint8]]
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def round(self, scorer: Scorer, seconds: float) -> None:
        """Score for this many seconds, at least once."""
        began, cpu, images = time.perf_counter(), time.process_time(), 0
        while not images or time.perf_counter() - began < seconds:
            scorer.engine.score(self.images)
            images += len(self.images)
        self.rates.append(images / (time.perf_counter() - began))
        self.cpu.append((time.process_time() - cpu) / images)


def _batches(session: Session) -> list[dict[str, object]]:
    scorer = Scorer(session.bundle_directory, precision=session.precision, most=SIZES[-1])
    picture = np.array(scorer.decode(session.pictures("small")[0]))
    batches = {size: Batch([picture.copy() for _ in range(size)]) for size in SIZES}
    for number in range(session.rounds):
        session.say(f"curve: batches, round {number + 1} of {session.rounds}")
        for size in figures.shuffled(SIZES, seed=number):
            batches[size].round(scorer, 0.1 if session.quick else 0.5)
    return [
        {
            "batch": size,
            "img/s": figures.median(batch.rates),
            "by one": figures.ratio(batch.rates, batches[1].rates),
            "ms a batch": size / figures.median(batch.rates) * 1e3,
            "CPU ms/img": figures.median(batch.cpu) * 1e3,
            "engine": f"{scorer.engine.name} {scorer.engine.precision}",
        }
        for size, batch in batches.items()
    ]
