"""``cold``: from the start of the command to the reply of ``ping`` and to the first right answer, beside the least."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

from bench import daemon, figures
from bench.session import REPOSITORY, Session

POLL = 0.005
NOTE = (
    "The least: a line server's first reply; a process that imports OpenVINO, compiles the exported network once, "
    "scores one picture and ends. In turn, in rounds."
)


def measure(session: Session) -> None:
    """Print seconds; the compiled network is in the cache, as after the first start ever."""
    picture = session.pictures("small")[0]
    _once(session, picture)
    _least(session, picture)
    found: list[tuple[float, float]] = []
    least: list[tuple[float, float]] = []
    for number in range(session.rounds):
        session.say(f"cold: round {number + 1} of {session.rounds}")
        found.append(_once(session, picture))
        least.append(_least(session, picture))
    rows = [
        {
            "what": what,
            "seconds": figures.spread([one[at] for one in found]),
            "the least": figures.spread([one[at] for one in least]),
            "by the least": figures.ratio([one[at] for one in found], [one[at] for one in least]),
        }
        for at, what in enumerate(("first ping", "first right answer"))
    ]
    session.report("cold start", rows, NOTE)


def _least(session: Session, picture: Path) -> tuple[float, float]:
    """A line server's first reply, and a process that scores one picture and ends."""
    with daemon.LineServer(session.directory) as line:
        reply = line.wait_ready()
    command = [
        sys.executable,
        "-m",
        "bench.cold_floor",
        str(session.bundle_directory),
        str(picture),
        *session.precisions,
    ]
    began = time.monotonic()
    subprocess.run(command, check=True, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    return reply, time.monotonic() - began


def _once(session: Session, picture: Path) -> tuple[float, float]:
    with daemon.Nsfwd(
        session.directory, bundle=session.bundle, models_dir=session.models_dir, flags=session.flags
    ) as server:
        ping = 0.0
        while not ping:
            server.check()
            with contextlib.suppress(OSError, EOFError):
                server.ask({"op": "ping"})
                ping = time.monotonic() - server.started
            time.sleep(POLL)
        with daemon.connect(server.unix) as connection:
            connection.sendall(json.dumps({"path": str(picture)}).encode() + b"\n")
            reply = json.loads(connection.makefile("rb").readline())
        answer = time.monotonic() - server.started
    if reply["status"] != "ok":
        raise RuntimeError(f"not scored: {reply}")
    return ping, answer
