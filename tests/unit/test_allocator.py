"""Large buffers are given back, whatever the process has met before."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import re, sys
from pathlib import Path
from nsfwd.server.malloc_tuning import give_back_large_buffers

def resident():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

if sys.argv[1] == "settled":
    give_back_large_buffers()
large = bytearray(b"x") * (16 << 20)
del large  # from here on glibc would keep what is smaller on the heap
before = resident()
held = []
for _ in range(8):
    held.append((bytearray(b"x") * (4 << 20), bytes(100_000)))  # less would find room between what start-up left
pins = [small for _, small in held]
held.clear()
print(resident() - before)
"""


def left_behind(how: str) -> int:
    """Kilobytes that a process keeps of 32 MiB of buffers with something smaller behind each."""
    command = [sys.executable, "-c", PROGRAM, how]
    return int(subprocess.run(command, capture_output=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library, with ways of its own")
def test_large_buffers_go_back_to_the_system() -> None:
    assert left_behind("not settled") > 16 << 10  # what this is good for
    assert left_behind("settled") < 4 << 10
