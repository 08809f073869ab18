"""A seccomp filter for a process that only turns bytes into pixels: an allow-list of system calls.

What is on the list is allowed, some of it only with harmless arguments; an act that no decoder commits on its own (a
socket, another program, another process) ends the process by SIGSYS; anything else answers ENOSYS, as an older kernel
would, so that libraries take their other way. Plain ctypes: the bindings on PyPI want a system library and have not
been released for years, and a filter is a table of numbers.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator

_PR_SET_SECCOMP = 22
_MODE_FILTER = 2

_ALLOW = 0x7FFF0000
_KILL = 0x80000000
_ERRNO = 0x00050000

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K

_AT_NUMBER, _AT_ARCHITECTURE, _AT_ARGUMENTS = 0, 4, 16

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""``uname -m`` -> column of the tables, and the kernel's word for it (AUDIT_ARCH_*)."""

ALLOWED: dict[str, tuple[int | None, int | None]] = {
    # x86_64, aarch64, often called first. Source: arch/x86/entry/syscalls, include/uapi/asm-generic/unistd.h of Linux
    "read": (0, 63),
    "pread64": (17, 67),
    "preadv": (295, 69),
    "preadv2": (327, 286),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "brk": (12, 214),
    "mprotect": (10, 226),
    "futex": (202, 98),
    "recvmsg": (47, 212),
    "sendmsg": (46, 211),
    "fstat": (5, 80),
    "fstatfs": (138, 44),
    "newfstatat": (262, 79),
    "stat": (4, None),
    "lstat": (6, None),
    "statx": (332, 291),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "open": (2, None),
    "openat": (257, 56),
    "close": (3, 57),
    "fcntl": (72, 25),
    "ioctl": (16, 29),
    "dup": (32, 23),
    "getdents64": (217, 61),
    "access": (21, None),
    "faccessat": (269, 48),
    "getcwd": (79, 17),
    "write": (1, 64),
    "writev": (20, 66),
    "poll": (7, None),
    "ppoll": (271, 73),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "getrandom": (318, 278),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "uname": (63, 160),
    "prlimit64": (302, 261),
    "getrlimit": (97, 163),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "getcpu": (309, 168),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "tgkill": (234, 131),
    "clone": (56, 220),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "membarrier": (324, 283),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
"""What reading files, allocating, waiting, threads of a codec, and answering the server need."""

FATAL: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "sendto": (44, 206),
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, None),
    "vfork": (58, None),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kill": (62, 129),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "rename": (82, None),
    "renameat2": (316, 276),
    "mount": (165, 40),
    "unshare": (272, 97),
    "setns": (308, 268),
    "chroot": (161, 51),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "io_uring_setup": (425, 425),
    "keyctl": (250, 219),
    "init_module": (175, 105),
    "finit_module": (313, 273),
}
"""What only an attacker would do from here: the process ends by SIGSYS, and the file is suspected."""

_WRITING = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC | os.O_APPEND | (os.O_TMPFILE & ~os.O_DIRECTORY)
_PROT_EXEC = 4
_CLONE_THREAD = 0x10000
_CLONE_APART = 0x7E022000 | 0x800000  # CLONE_NEW*, CLONE_PTRACE; CLONE_UNTRACED
_PLAIN_ADVICE = 0x1F
"""Advice to madvise below it says what a process wants of its own memory; behind it lie pages declared broken."""

_TCGETS = 0x5401
_WORD = 0xFFFFFFFF
_HIGH = _WORD << 32
_ALL = _HIGH | _WORD

_Test = tuple[int, int, int]
"""Argument, mask, value: holds when ``argument & mask == value`` in all 64 bits.

What the kernel takes for 32 bits is compared in 64 all the same: the C library extends it, and no word is ignored.
"""


def _tests() -> dict[str, list[list[_Test]]]:
    """Calls that are allowed only when all tests of one of these lists hold; otherwise they answer EPERM."""
    standard_error = [[(0, _ALL, 2)]]
    return {
        "open": [[(1, _HIGH | _WRITING, os.O_RDONLY)]],
        "openat": [[(2, _HIGH | _WRITING, os.O_RDONLY)]],
        "mmap": [[(2, _HIGH | _PROT_EXEC, 0)]],
        "mprotect": [[(2, _HIGH | _PROT_EXEC, 0)]],
        "madvise": [[(2, _ALL & ~_PLAIN_ADVICE, 0)]],
        "write": standard_error,
        "writev": standard_error,
        "ioctl": [[(1, _ALL, _TCGETS)]],  # is this a terminal?
        "fcntl": [[(1, _ALL, command)] for command in (0, 1, 2, 3, 1030)],  # DUPFD, GETFD, SETFD, GETFL, DUPFD_CLOEXEC
        "tgkill": [[(0, _ALL, os.getpid())]],  # abort()
        "clone": [[(0, _HIGH | _CLONE_THREAD | _CLONE_APART, _CLONE_THREAD)]],  # threads, never processes
        "prlimit64": [[(0, _ALL, 0), (2, _ALL, 0)]],  # asking for one's own
    }


def apply() -> None:
    """Install the filter for this process and all its threads to come; it cannot be taken off again.

    Raises:
        OSError: this kernel or container has no seccomp, or this machine is not in the tables.
    """
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no table of system calls for {machine}")
    column, architecture = _ARCHITECTURES[machine]
    program = b"".join(_program(column, architecture))
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer)))
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.c_void_p(ctypes.addressof(header)), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _program(column: int, architecture: int) -> Iterator[bytes]:
    """Spell the tables as instructions of classic BPF."""
    yield _op(_LOAD, _AT_ARCHITECTURE)
    yield _op(_JUMP_EQUAL, architecture, equal=1)
    yield _op(_RETURN, _KILL)
    yield _op(_LOAD, _AT_NUMBER)
    tests = _tests()
    for name, numbers in ALLOWED.items():
        number = numbers[column]
        if number is not None:
            body = list(_checks(tests[name])) if name in tests else [_op(_RETURN, _ALLOW)]
            yield _op(_JUMP_EQUAL, number, unequal=len(body))
            yield from body
    for numbers in FATAL.values():
        number = numbers[column]
        if number is not None:
            yield _op(_JUMP_EQUAL, number, unequal=1)
            yield _op(_RETURN, _KILL)
    yield _op(_RETURN, _ERRNO | errno.ENOSYS)


def _checks(ways: list[list[_Test]]) -> Iterator[bytes]:
    for tests in ways:
        words = [word for test in tests for word in _words(test)]
        for left, (place, mask, value) in zip(range(len(words) - 1, -1, -1), words, strict=True):
            yield _op(_LOAD, place)
            yield _op(_AND, mask)
            yield _op(_JUMP_EQUAL, value, unequal=3 * left + 1)
        yield _op(_RETURN, _ALLOW)
    yield _op(_RETURN, _ERRNO | errno.EPERM)


def _words(test: _Test) -> Iterator[tuple[int, int, int]]:
    """Split a test into those of the low and the high word, each with its place in what the filter is shown."""
    argument, mask, value = test
    place = _AT_ARGUMENTS + 8 * argument
    yield place, mask & _WORD, value & _WORD  # both architectures are little-endian
    yield place + 4, mask >> 32, value >> 32


def _op(code: int, operand: int, *, equal: int = 0, unequal: int = 0) -> bytes:
    return struct.pack("=HBBI", code, equal, unequal, operand & _WORD)
