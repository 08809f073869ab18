"""What the steps of the trial share: a shell, patience, a question to the daemon, a picture, the guides' commands.

Runs inside the container; the standard library alone.
"""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import time
import zlib
from collections.abc import Callable
from pathlib import Path

UNIT = "nsfwd.service"
SOCKET = "/run/nsfwd/nsfwd.sock"
PATIENCE = 90.0
PICTURES = Path("/srv/pictures")
STEPS: list[Callable[[], None]] = []


def step(function: Callable[[], None]) -> Callable[[], None]:
    STEPS.append(function)
    return function


def sh(command: str, *, check: bool = True) -> str:
    done = subprocess.run(["/bin/bash", "-c", command], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def wait(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"not within {PATIENCE:g} s: {what}"
        time.sleep(0.1)


def show(name: str, unit: str = UNIT) -> str:
    return sh(f"systemctl show --value --property={name} {unit}")


def active(unit: str = UNIT) -> bool:
    return show("ActiveState", unit) == "active"


def ask(address: str, request: dict[str, object]) -> dict[str, object]:
    unix = address.startswith("/")
    with socket.socket(socket.AF_UNIX if unix else socket.AF_INET) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(address if unix else ("127.0.0.1", int(address)))
        connection.sendall(json.dumps(request).encode() + b"\n")
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as replies:
            reply: dict[str, object] = json.loads(replies.readline())
            return reply


def write_picture(path: Path) -> None:
    """A PNG of 64 x 64 pixels."""
    rows = b"".join(
        b"\0" + bytes((x * 3 + y, x ^ y, y)[c] & 255 for x in range(64) for c in range(3)) for y in range(64)
    )

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def documented(section: str, guide: str = "docs/operations.md") -> list[str]:
    """The commands of one section of a guide, those marked ``sh``."""
    text = Path(guide).read_text("utf-8").partition(f"## {section}\n")[2].partition("\n## ")[0]
    blocks = text.split("```sh\n")[1:]
    return [line.partition("  #")[0].strip() for block in blocks for line in block.partition("```")[0].splitlines()]
