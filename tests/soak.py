"""A soak: mixed requests, killed children and reloads, and at the end nothing lost, nothing doubled, nothing leaked.

    python tests/soak.py --minutes 60       (10 is the short mode)

Runs a daemon of its own with the echo engine. Good pictures, damaged ones, missing ones and directories are asked for
by several clients at once; meanwhile decoders and the engine are killed at random and the settings are reloaded. Prints
a report as JSON and exits 1 when a reply was lost or doubled, when the server's memory grew (the last third of the time
against the middle third, by more than ``--growth``; decoders and engine do not live long enough here), or when
descriptors, slots, tickets or processes are left.
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
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests import pictures
from tests.integration.harness import Daemon, ask, raw_connect, replies, spell

CLIENTS = 4
ROUND = 64
"""Requests that a client sends before it reads."""

Json = dict[str, Any]


class Client(threading.Thread):
    """Sends rounds of requests and accounts for every reply."""

    def __init__(self, daemon: Daemon, paths: list[str], stop: threading.Event, seed: int) -> None:
        super().__init__()
        self._daemon, self._paths, self._stop_asked = daemon, paths, stop
        self._random = random.Random(seed)
        self.sent = self.lost = self.doubled = 0
        self.outcomes: Counter[str] = Counter()

    def run(self) -> None:
        while not self._stop_asked.is_set():
            with raw_connect(self._daemon.unix, timeout=120.0) as connection:
                for _ in range(50):
                    self._round(connection)
                    if self._stop_asked.is_set():
                        break

    def _round(self, connection: Any) -> None:
        wanted = {number: self._random.choice(self._paths) for number in range(ROUND)}
        connection.sendall(b"".join(spell({"id": number, "path": path}) for number, path in wanted.items()))
        self.sent += len(wanted)
        rest, open_, ended = b"", set(wanted), set()
        while open_:
            part = connection.recv(1 << 16)
            if not part:
                self.lost += len(open_)
                return
            whole, _, rest = (rest + part).rpartition(b"\n")
            for reply in replies(whole):
                number = reply["id"]
                directory = wanted[number].endswith("/")
                if number in ended:
                    self.doubled += 1
                elif reply.get("done") or not directory:
                    ended.add(number)
                    open_.discard(number)
                self.outcomes[reply["error"]["code"] if "error" in reply else reply["status"]] += 1


def processes(daemon: Daemon) -> dict[str, list[int]]:
    stats = ask(daemon.unix, {"op": "stats"})
    found = {kind: stats[kind]["processes"] for kind in ("decoders", "engine", "lister")}
    return {"server": [daemon.pid], **found}


def resident(pid: int) -> int:
    """Private memory in bytes: what is shared (the arena) is counted once elsewhere."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text("utf-8")
    except OSError:
        return 0
    fields = {line.split()[0]: int(line.split()[1]) for line in text.splitlines() if line.endswith("kB")}
    return 1024 * (fields["Private_Clean:"] + fields["Private_Dirty:"])


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


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


def disturb(daemon: Daemon, settings: Path, chance: random.Random, done: Counter[str]) -> None:
    """One disturbance: the death of a child, or a reload, sometimes one that is refused."""
    what = chance.choice(("decoders", "decoders", "engine", "reload", "refused reload"))
    done[what] += 1
    if what in ("decoders", "engine"):
        alive = processes(daemon)[what]
        if alive:
            os.kill(chance.choice(alive), signal.SIGKILL)
        return
    settings.write_text(
        "nonsense = 1\n" if what == "refused reload" else f"max_frames = {chance.randint(500, 900)}\n", "utf-8"
    )
    reply = ask(daemon.unix, {"op": "reload"})
    expected = "error" if what == "refused reload" else "ok"
    if reply["status"] != expected:
        done[f"unexpected: {reply}"] += 1


def memory_growth(samples: list[int]) -> float:
    """Median of the last third against that of the middle third."""
    third = len(samples) // 3
    middle, last = samples[third : 2 * third], samples[2 * third :]
    return statistics.median(last) / statistics.median(middle) - 1 if middle and last else 0.0


def soak(minutes: float, pause: float, seed: int) -> Json:
    chance, disturbances = random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        paths, settings = write_pictures(directory / "pictures"), directory / "nsfwd.toml"
        settings.touch()
        with Daemon(directory / "daemon", flags=["--config", str(settings), "--log-level", "error"]) as daemon:
            quiet = descriptors(daemon.pid)
            stop = threading.Event()
            clients = [Client(daemon, paths, stop, seed + number) for number in range(CLIENTS)]
            for client in clients:
                client.start()
            memory: list[int] = []
            end = time.monotonic() + 60 * minutes
            while time.monotonic() < end:
                time.sleep(pause)
                disturb(daemon, settings, chance, disturbances)
                memory.append(resident(daemon.pid))
            stop.set()
            for client in clients:
                client.join()
            settings.write_text("", "utf-8")
            ask(daemon.unix, {"op": "reload"})
            time.sleep(3)  # what the reload replaced ends by itself
            stats = ask(daemon.unix, {"op": "stats"})
            kinds = {kind: len(alive) for kind, alive in processes(daemon).items()}
            left = {
                "tickets": stats["in_flight"],
                "slots": stats["slots"]["total"] - stats["slots"]["free"],
                "descriptors": descriptors(daemon.pid) - quiet,
                "processes": len(daemon.processes()) - sum(kinds.values()),
            }
            return {
                "minutes": minutes,
                "sent": sum(client.sent for client in clients),
                "lost": sum(client.lost for client in clients),
                "doubled": sum(client.doubled for client in clients),
                "outcomes": dict(sum((client.outcomes for client in clients), Counter())),
                "disturbances": dict(disturbances),
                "restarts": {kind: stats[kind]["restarts"] for kind in ("decoders", "engine", "lister")},
                "memory": {"first": memory[0], "last": memory[-1], "growth": round(memory_growth(memory), 4)},
                "left": left,
            }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--pause", type=float, default=5.0, help="seconds between disturbances")
    parser.add_argument("--growth", type=float, default=0.03, help="share by which the server's memory may grow")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    options = parser.parse_args()
    report = soak(options.minutes, options.pause, options.seed)
    report["seed"] = options.seed
    faults = [name for name in ("lost", "doubled") if report[name]]
    faults += [f"left {name}" for name, count in report["left"].items() if count > 0]
    faults += [name for name in report["disturbances"] if name.startswith("unexpected")]
    faults += ["memory"] if report["memory"]["growth"] > options.growth else []
    report["faults"] = faults
    print(json.dumps(report, indent=2))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
