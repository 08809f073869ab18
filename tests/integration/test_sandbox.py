"""What a decoder or lister can no longer do, tried from inside a process that gave the same things up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

INSIDE = """
import ctypes, mmap, os, signal, socket, sys, threading
from nsfwd.imaging import sandbox
applied, missing = sandbox.apply(memory=1 << 30, files=64, roots=[os.fsencode(sys.argv[1])], descriptors=())
if missing:
    os.write(2, str(missing).encode())
    os._exit(77)
root, outside = sys.argv[1] + "/in.txt", sys.argv[2]
libc = ctypes.CDLL(None)

def attempt():
    {attempt}

try:
    attempt()
except OSError as error:
    os.write(2, os.strerror(error.errno).encode())
    os._exit(3)
os._exit(0)
"""

SUCCEEDS = {
    "read below the root": "open(root).read()",
    "list the root": "os.listdir(sys.argv[1])",
    "a thread": "thread = threading.Thread(target=int); thread.start(); thread.join()",
    "complain": "os.write(2, b'complaint')",
}

REFUSED = {
    "read outside": "open(outside)",
    "list outside": "os.listdir('/etc')",
    "write": "open(root, 'w')",
    "append": "os.open(root, os.O_WRONLY | os.O_APPEND)",
    "create": "os.open(sys.argv[1] + '/new', os.O_CREAT)",
    "nameless file": "os.open(sys.argv[1], os.O_TMPFILE | os.O_RDWR)",
    "truncate": "os.truncate(root, 0)",
    "directory": "os.mkdir(sys.argv[1] + '/new')",
    "link": "os.link(root, root + '2')",
    "mode": "os.chmod(root, 0)",
    "owner": "os.chown(root, 1, 1)",
    "fork": "os.fork()",
    "limit": "__import__('resource').setrlimit(7, (1, 1))",
    "code": "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)",
    "inherited descriptor": "os.read(int(sys.argv[3]), 1)",
}

FATAL = {
    "tcp": "socket.socket()",
    "unix": "socket.socket(socket.AF_UNIX)",
    "exec": "os.execv('/bin/true', ['true'])",
    "vfork": "libc.vfork()",
    "ptrace": "libc.ptrace(0, 0, 0, 0)",
    "kill": "os.kill(os.getppid(), 0)",
    "delete": "os.unlink(root)",
    "rename": "os.rename(root, outside)",
    "mount": "libc.mount(b'a', b'/tmp', b'tmpfs', 0, 0)",
    "namespace": "libc.unshare(0x10000000)",
}


def inside(attempt: str, tmp_path: Path) -> subprocess.CompletedProcess[bytes]:
    """Attempt it in a process that gave up what decoders give up."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "in.txt").write_text("in")
    (tmp_path / "out.txt").write_text("out")
    inherited = os.open(tmp_path / "out.txt", os.O_RDONLY)
    try:
        arguments = [str(root), str(tmp_path / "out.txt"), str(inherited)]
        done = subprocess.run(
            [sys.executable, "-P", "-c", INSIDE.replace("{attempt}", attempt), *arguments],
            capture_output=True,
            timeout=60,
            pass_fds=(inherited,),
            check=False,
        )
    finally:
        os.close(inherited)
    if done.returncode == 77:
        pytest.skip(f"not on this kernel: {done.stderr.decode()}")
    assert (root / "in.txt").read_text() == "in"
    assert [path.name for path in root.iterdir()] == ["in.txt"]
    return done


def test_what_decoding_needs_goes_on(tmp_path: Path) -> None:
    done = inside("; ".join(SUCCEEDS.values()), tmp_path)
    assert done.returncode == 0, done.stderr


def test_what_is_refused(tmp_path: Path) -> None:
    """All in one process: a refusal is an error like any other."""
    attempts = "".join(f"\n    refused({name!r}, lambda: {code})" for name, code in REFUSED.items())
    check = """
    def refused(name, attempt):
        try:
            attempt()
        except (OSError, ValueError):
            return
        os.write(2, name.encode())
        os._exit(4)
    """
    done = inside(check + attempts, tmp_path)
    assert done.returncode == 0, f"not refused: {done.stderr.decode()}"


@pytest.mark.parametrize("name", FATAL)
def test_what_ends_the_process(name: str, tmp_path: Path) -> None:
    assert inside(FATAL[name], tmp_path).returncode == -signal.SIGSYS
