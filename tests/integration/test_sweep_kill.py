"""A sweep that is killed at random moments, again and again, comes to the same index as one that never was."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
from pathlib import Path

from nsfwd.scanning.index.database import Index
from tests.integration.harness import PATIENCE
from tests.unit.scripted import Script, serving
from tests.unit.sweeping import Place, contents

KILLS = 20
BEFORE, AFTER = 60, 40
"""Most requests of a sweep before the moment of its end is chosen, and until it comes."""

FILES = KILLS * (BEFORE + AFTER) * 3 // 2 + 200
"""So many that no sweep comes to its end before it is killed, though a third are copies that are not asked about."""


class _Killer:
    """Chooses the moment: at once, while rows wait for their transaction, or about when that is written."""

    def __init__(self, source: random.Random) -> None:
        self._source = source
        self._left, self._delay = 0, 0.0
        self.now, self._over = threading.Event(), threading.Event()

    def arm(self) -> None:
        """Begin to count the requests of another sweep."""
        self._over.set()
        self.now, self._over = threading.Event(), threading.Event()
        self._left, self._delay = self._source.randrange(1, BEFORE), self._source.choice((0.0, 0.01, 0.1, 0.25, 0.27))

    def asked(self, path: bytes) -> None:
        """Count a request; answer no more of them than there are files for."""
        over = self._over
        self._left -= 1
        if self._left == 0:
            threading.Timer(self._delay, self.now.set).start()
        elif self._left < -AFTER:
            over.wait(PATIENCE)


def _sweep(directory: Path, address: str) -> None:
    """What is killed: a process with a sweep in it."""
    Place(directory, address).sweep()


def _committed(place: Place) -> set[bytes]:
    if not place.path.exists():
        return set()
    with Index(place.path) as index:
        query = "SELECT path, name FROM file JOIN (SELECT id AS place, path FROM directory) ON place = directory"
        return {b"%b/%b" % found for found in index.read(query)}


def test_twenty_kills_leave_no_trace(tmp_path: Path) -> None:
    script, killer = Script(), _Killer(random.Random(7))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.unit.sweeping"])
    with serving(tmp_path, script) as address:
        place = Place(tmp_path, address)
        for number in range(FILES):
            kind = b"alarm" if number % 50 == 0 else b"text" if number % 31 == 0 else b"picture"
            place.write(f"{number % 9}/{number % 4}/{number}.jpg", b"%b %d" % (kind, number - number % 3 // 2))
        for _ in range(KILLS):
            before = _committed(place)
            killer.arm()
            script.hook = killer.asked
            script.asked.clear()
            process = context.Process(target=_sweep, args=(tmp_path, address))
            process.start()
            assert killer.now.wait(PATIENCE) and process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join(PATIENCE)
            assert process.exitcode == -signal.SIGKILL
            assert not before & set(script.asked), "asked again about what was in the index"
        killer.arm()
        script.hook = None
        assert place.sweep().why == "finished"
        assert place.value("SELECT count(*) FROM run WHERE ended IS NULL") == KILLS
        killed = contents(place.path)
        place.path = tmp_path / "whole.db"
        place.sweep()
    assert killed == contents(place.path)
