"""Decoding and engine in a loop, without a server. Started by ``bench.ceiling`` as a process of its own.

Reads lines of JSON ``{"paths": [...]}``; scores them with several threads, and writes one line of times.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from pathlib import Path

from bench.shared import Scorer


def run(scorer: Scorer, paths: list[str], threads: int) -> dict[str, object]:
    """Score ``paths``, each thread taking the next one."""
    left = iter(paths)
    lock = threading.Lock()
    latencies: list[float] = []

    def work() -> None:
        while True:
            with lock:
                path = next(left, None)
            if path is None:
                return
            began = time.perf_counter()
            scorer.scan(path)
            latencies.append(time.perf_counter() - began)

    started, cpu = time.perf_counter(), time.process_time()
    workers = [threading.Thread(target=work) for _ in range(threads - 1)]
    for worker in workers:
        worker.start()
    work()
    for worker in workers:
        worker.join()
    return {
        "seconds": time.perf_counter() - started,
        "cpu": time.process_time() - cpu,
        "latencies": latencies,
    }


def main() -> None:
    """Answer until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--precision", default="")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--engine-threads", type=int, default=0)
    options = parser.parse_args()
    scorer = Scorer(
        options.bundle, precision=options.precision, threads=options.engine_threads, most=max(1, options.threads)
    )
    print(json.dumps({"ready": scorer.engine.precision}), flush=True)
    for line in sys.stdin:
        print(json.dumps(run(scorer, json.loads(line)["paths"], options.threads)), flush=True)


if __name__ == "__main__":
    main()
