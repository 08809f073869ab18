"""What a decoder or lister can no longer do, tried from inside a process that gave the same things up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

INSIDE = """
import ctypes, mmap, os, resource, signal, socket, struct, sys, threading
from nsfwd.imaging import sandbox
ctypes.CDLL(None).mmap(ctypes.c_void_p(0x200000000), ctypes.c_size_t(4096), 3, 0x32, -1, ctypes.c_long(0))
applied, missing = sandbox.apply(memory=1 << 30, files=64, roots=[os.fsencode(sys.argv[1])], descriptors=())
if missing:
    os.write(2, str(missing).encode())
    os._exit(77)
root, outside = sys.argv[1] + "/in.txt", sys.argv[2]
libc = ctypes.CDLL(None, use_errno=True)
HIGH = 0x200000000
def call(number, *arguments):
    given = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    if libc.syscall(ctypes.c_long(number), *given) == -1:
        fail()
def fail():
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

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
    "limits of another": "resource.prlimit(os.getppid(), resource.RLIMIT_CORE)",
    "limits of another, set from high memory": "call(302, os.getppid(), 4, HIGH, 0)",
    "own limits, set from high memory": "call(302, 0, 4, HIGH, 0)",
    "code, with a bit in the high word": "call(9, 0, 4096, 1 << 32 | 5, 34, -1, 0)",
    "more rights to memory": "call(10, HIGH, 4096, 1 << 32 | 5)",
    "write below the root, with a bit in the high word": "call(257, -100, root.encode(), 1 << 32 | 1, 0)",
    "another command of ioctl": "call(16, 0, 1 << 32 | 0x5401, 0)",
    "another command of fcntl": "call(72, 0, 1 << 32 | 3, 0)",
    "the owner of a descriptor": "call(72, 0, 8, os.getppid())",
    "a signal to another": "call(234, os.getppid(), os.getppid(), 0)",
    "pages declared broken": "call(28, HIGH, 4096, 100)",
    "a thread in a namespace of its own": "call(56, 0x10000 | 0x20000 | 0x900, 0, 0, 0, 0)",
    "a process": "call(435, HIGH, 88)",
    "x32": "call(0x40000000 | 41, 1, 1, 0)",
    "openat2": "call(437, -100, root.encode(), HIGH, 24)",
    "a handle": "call(304, -100, HIGH, 0)",
    "capabilities": "call(126, struct.pack('=Ii', 0x20080522, 0), struct.pack('=6I', 1, 1, 0, 0, 0, 0))",
    "bounding set": "[libc.prctl(24, 0, 0, 0, 0) and fail()]",
}
"""``call`` makes a system call of x86_64 and raises what it answers; at ``HIGH`` lies memory above 4 GiB, all zero."""

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


WHOLE_SYSTEM = """
import os, sys
from pathlib import Path
from nsfwd.imaging import sandbox
_, missing = sandbox.apply(memory=None, files=64, roots=[b"/"], descriptors=(), names_only=bool(sys.argv[1]))
for path in ("/proc/self/status", "/proc/1/environ", "/sys/kernel/uevent_seqnum", "/etc/passwd"):
    try:
        Path(path).read_bytes()
    except PermissionError:
        os.write(2, b"refused ")
    else:
        os.write(2, b"read ")
os.write(2, (missing or "").__str__().encode())
"""


@pytest.mark.parametrize(("names_only", "expected"), [(False, "refused refused refused read"), (True, "refused " * 4)])
def test_without_roots_the_kernels_files_are_closed(names_only: bool, expected: str) -> None:
    program = [sys.executable, "-P", "-c", WHOLE_SYSTEM, "yes" if names_only else ""]
    done = subprocess.run(program, capture_output=True, timeout=60, check=True)
    assert done.stderr.decode().strip() == expected.strip()


def test_capabilities_are_gone_from_all_five_sets() -> None:
    program = """
import os
from nsfwd.imaging import sandbox
status = os.open("/proc/self/status", os.O_RDONLY)
sandbox.apply(memory=None, files=64, roots=[b"/usr"], descriptors=(status,))
os.write(2, os.pread(status, 1 << 16, 0))
"""
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, timeout=60, check=True)
    sets = dict(line.split(":\t") for line in done.stderr.decode().splitlines() if line.startswith("Cap"))
    expected = {"CapInh", "CapPrm", "CapEff", "CapAmb"} | ({"CapBnd"} if os.geteuid() == 0 else set())
    assert {name for name, bits in sets.items() if int(bits, 16) == 0} >= expected
