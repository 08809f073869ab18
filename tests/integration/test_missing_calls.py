"""A kernel, or a filter of system calls, that lacks what a child process needs: said once, and nothing left behind."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from pathlib import Path

import pytest

from nsfwd.ipc.child import CannotStart, Child
from tests.descriptors import all_closed
from tests.integration.harness import Daemon

WITHOUT = """
import ctypes, errno, os, struct, sys
def op(code, value, equal=0, unequal=0):
    return struct.pack("=HBBI", code, equal, unequal, value)
program = op(0x20, 0) + op(0x15, int(sys.argv[1]), 0, 1) + op(6, 0x50000 | errno.ENOSYS) + op(6, 0x7fff0000)
text = ctypes.create_string_buffer(program, len(program))
header = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(text)))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.c_void_p(ctypes.addressof(header)), 0, 0) == 0
os.execv(sys.argv[2], sys.argv[2:])
"""
PIDFD_OPEN = "434"


def test_without_pidfd_open_the_daemon_says_so_and_ends(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, prefix=[sys.executable, "-c", WITHOUT, PIDFD_OPEN])
    daemon.start()
    try:
        assert daemon.wait_exit() not in (0, None)
        assert daemon.processes() == {}
    finally:
        daemon.kill()
    assert daemon.stderr.count("pidfd_open") == 1, daemon.stderr
    assert "Traceback" not in daemon.stderr


@pytest.mark.parametrize("call", ["pidfd_open", "set_blocking"])
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EMFILE])
def test_a_start_that_fails_half_way_is_undone(call: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pids: list[int] = []

    def refuse(pid: int, *_: object) -> int:
        pids.append(pid)
        raise OSError(number, os.strerror(number))

    async def story() -> None:
        child = Child("nsfwd.imaging.lister", name="test", on_message=lambda _: None, on_exit=lambda _: pids.clear())
        monkeypatch.setattr(os, call, refuse)
        lasting = call == "pidfd_open" and number == errno.ENOSYS
        with pytest.raises(CannotStart if lasting else OSError, match=os.strerror(number)):
            child.start()
        assert not child.alive

    with all_closed():
        asyncio.run(story())
    assert pids, "it got as far as that"
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
