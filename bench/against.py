"""``against``: this tree beside another one (an earlier commit), and that one beside itself for the noise.

The other tree is a checkout with a virtual environment of its own (``make setup`` there). All servers are up at once
and are asked in turn, in another order each round.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import daemon, figures, machine
from bench.load import Load, Ndjson
from bench.overhead import NOWHERE
from bench.session import Session

NOTE = (
    "CPU of all processes of a server for an image; ratios round by round: median, and in brackets the 95 % interval "
    "of the median (bootstrap). The last column is the other tree against itself: the noise of the same code."
)


@dataclass
class Side:
    """One server and what each of its rounds came to."""

    server: daemon.Nsfwd
    load: Load
    cpu: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)

    def ask(self, paths: Sequence[Path], depth: int) -> None:
        """One round."""
        tree = self.server.processes()
        before, own = machine.cpu_seconds(tree), machine.cpu_seconds([self.server.pid])
        result = self.load.closed(paths, depth=depth)
        self.cpu.append((machine.cpu_seconds(tree) - before) / len(paths))
        self.own.append((machine.cpu_seconds([self.server.pid]) - own) / len(paths))
        self.rates.append(result.rate)
        self.p50.append(figures.percentile(result.latencies, 0.5))


def measure(session: Session) -> None:
    """Print the ratios of both: with the real engine (serve), and with nothing to decode or score (noop)."""
    if session.tree is None:
        raise SystemExit("against: name the other tree: --tree DIR")
    rows = [
        _compared(session, "noop", _null(session), NOWHERE, count=50_000, shape=shape) for shape in ((1, 64), (8, 64))
    ]
    pictures = session.pictures("small")
    rows += [_compared(session, "serve", _real(session), pictures, count=500, shape=(c, 1)) for c in (1, 8, 64)]
    session.report(f"against {session.tree.name}", rows, NOTE)


Start = Callable[[Path | None, Path], daemon.Nsfwd]


def _null(session: Session) -> Start:
    models = session.echo_models()
    return lambda tree, place: daemon.Nsfwd(
        place,
        bundle="echo",
        models_dir=models,
        engine="echo",
        null_decoder=True,
        tree=tree,
        flags=("--max-batch", "64"),
    )


def _real(session: Session) -> Start:
    return lambda tree, place: daemon.Nsfwd(
        place, bundle=session.bundle, models_dir=session.models_dir, tree=tree, flags=session.flags
    )


def _compared(
    session: Session, name: str, start: Start, paths: Sequence[Path], *, count: int, shape: tuple[int, int]
) -> dict[str, object]:
    connections, depth = shape
    wanted = (list(paths) * (session.count(count) // len(paths) + 1))[: session.count(count)]
    with contextlib.ExitStack() as stack:
        sides = []
        for number, tree in enumerate((None, session.tree, session.tree)):
            place = session.directory / f"{name}-{connections}-{depth}-{number}"
            place.mkdir()
            server = stack.enter_context(start(tree, place))
            server.wait_ready()
            load = Load(server.unix, Ndjson(), connections)
            stack.callback(load.close)
            load.closed(wanted[: len(wanted) // 5], depth=depth)
            sides.append(Side(server, load))
        for number in range(session.rounds):
            session.say(f"against: {name}, {connections} x {depth} in flight, round {number + 1} of {session.rounds}")
            for side in figures.shuffled(sides, seed=number):
                side.ask(wanted, depth)
    ours, theirs, again = sides
    return {
        "what": name,
        "in flight": f"{connections} x {depth}",
        "CPU us/img": figures.median(ours.cpu) * 1e6,
        "CPU ratio": figures.interval(ours.cpu, theirs.cpu),
        "server CPU ratio": figures.interval(ours.own, theirs.own),
        "rate ratio": figures.interval(ours.rates, theirs.rates),
        "p50 ratio": figures.interval(ours.p50, theirs.p50),
        "CPU ratio of theirs": figures.interval(again.cpu, theirs.cpu),
    }
