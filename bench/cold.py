"""``cold``: from the start of the command to the reply of ``ping``, and to the first right answer."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path

from bench import daemon, figures
from bench.session import Session

POLL = 0.005


def measure(session: Session) -> None:
    """Print seconds; the compiled network is in the cache, as after the first start ever."""
    picture = session.pictures("small")[0]
    _once(session, picture)
    found = [_once(session, picture) for _ in range(session.rounds)]
    rows = [
        {
            "what": what,
            "seconds": figures.median([one[at] for one in found]),
            "best": min(one[at] for one in found),
            "worst": max(one[at] for one in found),
        }
        for at, what in enumerate(("first ping", "first right answer"))
    ]
    session.report("cold start", rows)


def _once(session: Session, picture: Path) -> tuple[float, float]:
    session.say("cold: starting")
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
