"""A child process used without an event loop: packets in order, limits of time, and its end."""

from __future__ import annotations

import os
import signal
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsfwd.ipc.blocking_child import BlockingChild
from nsfwd.ipc.link import MAX_PACKET
from tests.descriptors import all_closed

BODY = """
import os
from nsfwd.ipc.child_bootstrap import run_child
link, (shared,) = run_child()
try:
    while True:
        packet, passed = link.receive()
        if packet == b"end":
            link.send(b"last words")
            break
        for fd in passed:
            link.send(os.pread(fd, 99, 0))
        if not passed:
            link.send(packet + os.pread(shared, 99, 0))
except EOFError:
    pass
"""


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BlockingChild]:
    (tmp_path / "nsfwd_test_blocking.py").write_text(textwrap.dedent(BODY))
    (tmp_path / "shared").write_bytes(b" and what is shared")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with all_closed(), (tmp_path / "shared").open("rb") as shared:
        child = BlockingChild("nsfwd_test_blocking", name="test", fds=[shared.fileno()])
        yield child
        child.close()
        with pytest.raises(ProcessLookupError):
            os.kill(child.pid, 0)


def test_packets_come_in_order_however_many_wait(child: BlockingChild) -> None:
    for number in range(40):
        child.send(b"%d " % number + bytes(MAX_PACKET - 100))
    assert [int(child.receive(20).split()[0]) for _ in range(40)] == list(range(40))


def test_descriptors_are_passed(child: BlockingChild, tmp_path: Path) -> None:
    with (tmp_path / "shared").open("rb") as file:
        child.send(b"read", [file.fileno(), file.fileno()])
    assert [child.receive(20), child.receive(20)] == [b" and what is shared"] * 2


def test_one_that_says_nothing_is_not_waited_for(child: BlockingChild) -> None:
    child.send(b"first")
    assert child.receive(20) == b"first and what is shared"
    os.kill(child.pid, signal.SIGSTOP)
    child.send(b"second")
    with pytest.raises(TimeoutError):
        child.receive(0.05)


def test_its_end_is_noticed_behind_its_last_packet(child: BlockingChild) -> None:
    child.send(b"end")
    assert child.receive(20) == b"last words"
    for _ in range(2):
        with pytest.raises(EOFError, match="test has ended"):
            child.receive(20)
    child.send(b"to nobody")
