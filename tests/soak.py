"""A soak: mixed requests, killed children and reloads, and at the end nothing lost, nothing doubled, nothing leaked.

    python tests/soak.py --minutes 60       (10 is the short mode)
    python tests/soak.py --bundle models/nsfw-mobilenet-v2-140 --in-flight 200 --disturb engine,decoders --pause 3

Runs a daemon of its own, with the echo engine or OpenVINO, and a small result cache. Good pictures, damaged ones,
missing ones and directories are asked for by several clients at once, by path and as bytes that are new each time;
meanwhile decoders and the engine are killed at random and the settings are reloaded. Now and then nothing is disturbed
for a while, so that children live long enough to show whether they grow.

Prints a report as JSON and exits 1 when a reply was lost or doubled, when no image was scored for longer than 5 seconds
(``gaps``: the longest pause, and how long after kills the next image was scored), when descriptors, slots, tickets or
processes are left, or when memory grew by more than ``--growth``: for each kind of process the last third of the time
against the middle third, and the same within the lives of those that lived for a minute or longer.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests import pictures
from tests.integration.harness import Daemon, Json, ndjson, raw_connect
from tests.soak_client import PATIENCE, Client, gaps

CLIENTS = 4
SAMPLE = 2.0
"""Seconds between two looks at the processes."""
YOUNG = 10.0
"""Seconds in which a process still takes up the memory that it needs; not looked at."""
LONG_LIFE = 60.0
"""Seconds from which on the life of one process tells whether it grows."""
CYCLES, CALM = 6, 0.4
"""Parts that the time is divided into, and the share of each, at its end, in which nothing is disturbed."""
SETTLE = 20.0
"""Seconds that processes which a reload replaced have to end."""

LONGEST_GAP = 5.0
"""Seconds between two scored images, whatever was killed meanwhile, beyond which the soak has failed."""
RECOVERY = {"engine": 3.0, "decoders": 0.5}
"""Seconds after a kill within which an image must be scored again; reported, and a fault with ``--strict``."""
DISTURBANCES = ("decoders", "decoders", "engine", "reload", "refused reload")

SETTINGS = 'cache = "on"\ncache_entries = 500\n'


class Watch(threading.Thread):
    """Looks at the memory and the descriptors of every process of the daemon, at regular times."""

    def __init__(self, daemon: Daemon, stop: threading.Event) -> None:
        super().__init__()
        self._daemon, self._stop_asked = daemon, stop
        self._begun = time.monotonic()
        self.lives: dict[tuple[str, int, int], list[tuple[float, int]]] = defaultdict(list)
        self.most_descriptors: Counter[str] = Counter()

    def run(self) -> None:
        while not self._stop_asked.wait(SAMPLE):
            self._look()

    def _look(self) -> None:
        now = time.monotonic() - self._begun
        for role, pids in processes(self._daemon).items():
            for pid in pids:
                with suppress(OSError, KeyError):  # it was killed just now
                    self.lives[role, pid, born(pid)].append((now, anonymous(pid)))
                    self.most_descriptors[role] = max(self.most_descriptors[role], descriptors(pid))

    def report(self) -> Json:
        """Judge each kind of process: memory over the time of the soak, and over the lives of single processes."""
        return {role: self._judge(role) for role in sorted({role for role, _, _ in self.lives})}

    def _judge(self, role: str) -> Json:
        lives = [samples for (of_role, _, _), samples in self.lives.items() if of_role == role]
        grown: dict[float, list[int]] = defaultdict(list)
        for samples in lives:
            for now, memory in samples:
                if now - samples[0][0] >= YOUNG:
                    grown[now].append(memory)
        series = [statistics.fmean(grown[now]) for now in sorted(grown)]
        long = [samples for samples in lives if samples[-1][0] - samples[0][0] >= LONG_LIFE]
        in_life = [growth([memory for _, memory in samples]) for samples in long]
        return {
            "processes": len(lives),
            "longest_life": round(max(samples[-1][0] - samples[0][0] for samples in lives), 1),
            "middle_third": round(thirds(series)[0]),
            "last_third": round(thirds(series)[1]),
            "growth": round(growth(series), 4),
            "long_lives": len(long),
            "growth_in_life": round(statistics.median(in_life), 4) if in_life else 0.0,
            "most_descriptors": self.most_descriptors[role],
        }


def thirds(samples: Sequence[float]) -> tuple[float, float]:
    """Medians of the middle third and of the last third."""
    third = len(samples) // 3
    if not third:
        return 0.0, 0.0
    return statistics.median(samples[third : 2 * third]), statistics.median(samples[2 * third :])


def growth(samples: Sequence[float]) -> float:
    """The last third against the middle third."""
    middle, last = thirds(samples)
    return last / middle - 1 if middle else 0.0


def told(daemon: Daemon, operation: str) -> Json:
    """The reply to an operation, however busy the machine is."""
    with raw_connect(daemon.unix, timeout=PATIENCE) as connection:
        (reply,) = ndjson(connection, [{"op": operation}])
    return reply


def processes(daemon: Daemon) -> dict[str, list[int]]:
    stats = told(daemon, "stats")
    return {"server": [daemon.pid], **{kind: stats[kind]["processes"] for kind in ("decoders", "engine", "lister")}}


def anonymous(pid: int) -> int:
    """Memory in bytes that is this process's own: neither files nor the arena, which does not grow."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text("utf-8")
    fields = {line.split()[0]: int(line.split()[1]) for line in text.splitlines() if line.endswith("kB")}
    return 1024 * (fields["Pss_Anon:"] + fields["SwapPss:"])


def born(pid: int) -> int:
    """When it was started: another process may get its number later."""
    return int(Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[19])


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def held(daemon: Daemon) -> Counter[str]:
    """The most descriptors that a process of each kind has."""
    return Counter(
        {role: max((descriptors(pid) for pid in pids), default=0) for role, pids in processes(daemon).items()}
    )


def write_pictures(directory: Path) -> list[str]:
    directory.mkdir()
    for number in range(12):
        data = pictures.encoded(pictures.photo(number), "JPEG" if number % 2 else "PNG")
        (directory / f"good{number}").write_bytes(data)
        (directory / f"cut{number}").write_bytes(data[: len(data) // 2])
    (directory / "text").write_bytes(b"no picture\n" * 50)
    (directory / "empty").touch()
    (directory / "some").mkdir()
    for number in range(3):
        (directory / "some" / f"{number}.jpg").write_bytes(pictures.encoded(pictures.photo(50 + number), "JPEG"))
    files = [str(path) for path in directory.iterdir() if path.is_file()]
    return [*files, str(directory / "missing"), f"{directory / 'some'}/"]


@dataclass
class Disturbances:
    """What was done to the daemon, and when which kind of process was killed."""

    done: Counter[str] = field(default_factory=Counter)
    kills: list[tuple[str, float]] = field(default_factory=list)


def disturb(daemon: Daemon, settings: Path, chance: random.Random, so_far: Disturbances, kinds: Sequence[str]) -> None:
    """One disturbance: the death of a child, or a reload, sometimes one that is refused."""
    what, done = chance.choice(kinds), so_far.done
    done[what] += 1
    if what in ("decoders", "engine"):
        alive = processes(daemon)[what]
        if alive:
            with suppress(ProcessLookupError):
                os.kill(chance.choice(alive), signal.SIGKILL)
                so_far.kills.append((what, time.monotonic()))
        return
    change = f'max_frames = {chance.randint(500, 900)}\nreload_mode = "{chance.choice(("beside", "drain"))}"\n'
    settings.write_text(SETTINGS + ("nonsense = 1\n" if what == "refused reload" else change), "utf-8")
    reply = told(daemon, "reload")
    expected = "error" if what == "refused reload" else "ok"
    if reply["status"] != expected:
        done[f"unexpected: {reply}"] += 1


def disturb_in_cycles(daemon: Daemon, settings: Path, options: argparse.Namespace) -> Disturbances:
    """Disturb the daemon for the time of the soak, but for the calm at the end of each cycle."""
    chance, so_far = random.Random(options.seed), Disturbances()
    kinds = [what for what in DISTURBANCES if what in options.disturb]
    begun, length = time.monotonic(), 60 * options.minutes
    while (past := time.monotonic() - begun) < length:
        time.sleep(options.pause)
        if past / length * CYCLES % 1 < 1 - CALM:
            disturb(daemon, settings, chance, so_far, kinds)
    return so_far


def leftovers(daemon: Daemon, quiet: Counter[str]) -> Json:
    """What is still held, once what a reload replaced has ended by itself."""
    end = time.monotonic() + SETTLE
    while True:
        stats = told(daemon, "stats")
        alive = sum(len(pids) for pids in processes(daemon).values())
        left: Json = {
            "tickets": stats["in_flight"],
            "slots": stats["slots"]["total"] - stats["slots"]["free"],
            "processes": len(daemon.processes()) - alive,
            **{f"descriptors of {role}": count - quiet[role] for role, count in held(daemon).items()},
        }
        if time.monotonic() > end or not any(count > 0 for count in left.values()):
            return left
        time.sleep(SAMPLE)


def soak(options: argparse.Namespace) -> Json:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        paths, settings = write_pictures(directory / "pictures"), directory / "nsfwd.toml"
        settings.write_text(SETTINGS, "utf-8")
        with Daemon(
            directory / "daemon",
            engine="openvino" if options.bundle else "echo",
            model=options.bundle.name if options.bundle else "echo",
            models_dir=options.bundle.parent if options.bundle else None,
            flags=["--config", str(settings), "--log-level", "error"],
        ) as daemon:
            quiet, stop, watched = held(daemon), threading.Event(), threading.Event()
            watch = Watch(daemon, watched)
            clients = [
                Client(
                    daemon,
                    paths,
                    stop,
                    window=options.in_flight // CLIENTS,
                    rest=options.rest,
                    seed=options.seed + number,
                )
                for number in range(CLIENTS)
            ]
            for thread in (watch, *clients):
                thread.start()
            disturbances = disturb_in_cycles(daemon, settings, options)
            watched.set()
            stop.set()
            for thread in (watch, *clients):
                thread.join()
            settings.write_text(SETTINGS, "utf-8")
            told(daemon, "reload")
            left = leftovers(daemon, quiet)
            stats = told(daemon, "stats")
            return {
                "minutes": options.minutes,
                "engine": stats["engine"]["name"],
                "seed": options.seed,
                "sent": sum(client.sent for client in clients),
                "lost": sum(client.lost for client in clients),
                "doubled": sum(client.doubled for client in clients),
                "outcomes": dict(sum((client.outcomes for client in clients), Counter())),
                "disturbances": dict(disturbances.done),
                "gaps": gaps(sorted(at for client in clients for at in client.scored), disturbances.kills),
                "restarts": {kind: stats[kind]["restarts"] for kind in ("decoders", "engine", "lister")},
                "memory": watch.report(),
                "left": left,
            }


def faults(report: Json, most: float) -> list[str]:
    """What of the report must not be."""
    found = [name for name in ("lost", "doubled") if report[name]]
    if report["gaps"]["longest"] > LONGEST_GAP:
        found.append(f"no image was scored for {report['gaps']['longest']} s")
    found += [f"left {name}" for name, count in report["left"].items() if count > 0]
    found += [name for name in report["disturbances"] if name.startswith("unexpected")]
    found += [f"memory of {role}" for role, judged in report["memory"].items() if judged["growth"] > most]
    return found + [f"life of {role}" for role, judged in report["memory"].items() if judged["growth_in_life"] > most]


def late(report: Json) -> list[str]:
    """Which kinds of kills the daemon took too long to recover from."""
    after = {kind: report["gaps"].get(f"after {kind}", {"most": 0.0})["most"] for kind in RECOVERY}
    return [f"late after {kind}: {seconds} s" for kind, seconds in after.items() if seconds > RECOVERY[kind]]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--bundle", type=Path, help="directory of a bundle that OpenVINO scores with, in place of echo")
    parser.add_argument("--pause", type=float, default=5.0, help="seconds between disturbances")
    parser.add_argument("--rest", type=float, default=0.0, help="seconds that a client rests after some replies")
    parser.add_argument("--in-flight", type=int, default=CLIENTS * 64, help="requests in flight, of all clients")
    parser.add_argument(
        "--disturb",
        type=lambda words: words.split(","),
        default=DISTURBANCES,
        help=f"what to do meanwhile, some of: {','.join(dict.fromkeys(DISTURBANCES))}",
    )
    parser.add_argument("--strict", action="store_true", help="fail as well where a kill was recovered from too late")
    parser.add_argument("--growth", type=float, default=0.03, help="share by which memory may grow")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    options = parser.parse_args()
    report = soak(options)
    report["faults"] = faults(report, options.growth) + (late(report) if options.strict else [])
    print(json.dumps(report, indent=2))
    return 1 if report["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
