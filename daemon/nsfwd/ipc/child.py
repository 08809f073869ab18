"""A supervised child process, as the server sees it: start, talk, learn of its end.

Everything happens on the event loop (asyncio's or uvloop's) and nothing but the start itself blocks it: the link and
standard error are read when readable, packets wait in memory while the link is full, and a pidfd tells of the end.
It knows neither what the packets mean nor what is to be done about a death: its owner does.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from nsfwd.errors import NsfwdError
from nsfwd.ipc.child_bootstrap import LEFT_TO_THE_SERVER
from nsfwd.ipc.fd_closer import close_foreign
from nsfwd.ipc.interpreter import start_python
from nsfwd.ipc.link import MAX_DESCRIPTORS, MAX_PACKET, Link

LEAN = {"MALLOC_ARENA_MAX": "1"}
"""Environment for children whose memory matters: one heap instead of one for each thread and core."""

LAST_WORDS = 40
"""Lines of standard error kept of a child: a Python traceback and what led to it."""

LINE_CHARACTERS = 1000
"""Longest kept line of those."""

PACKETS_A_TURN = 64
"""Packets taken from one child before the loop turns to its other work."""

LINK_GRACE = 1.0
"""Seconds a child may live without its link before it is killed: nothing can reach it any more."""

KILL_GRACE = 1.0
"""Seconds ``stop`` waits for a killed child; one that hangs in the kernel (a stalled mount) is left to itself."""


_MISSING = frozenset((errno.ENOSYS, errno.EPERM, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT))
"""Errors of a kernel, or of a filter of system calls, that lacks a call: they do not pass with time."""


_SCARCE = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ETOOMANYREFS))
"""Errors of a system that cannot pass descriptors now."""

SCARCE_DELAY = 0.1
"""Seconds before the next try to pass them."""


class CannotStart(NsfwdError):
    """This system lacks a call that every child process needs. The operator's fault; a retry does not help."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a child ended: an exit code or a signal, and its last lines of standard error."""

    code: int | None
    signal: int | None
    last_words: str

    def __str__(self) -> str:
        if self.signal is not None:
            with contextlib.suppress(ValueError):
                return f"killed by {signal.Signals(self.signal).name}"
            return f"killed by signal {self.signal}"
        return f"exit code {self.code}"


class Child:
    """One child process: ``python -m MODULE LINK_FD [FD...]``.

    It gets its end of the link and ``fds``, no other descriptor; its standard input and output are /dev/null.

    Args:
        module: the program; it begins with ``child_bootstrap.run_child``.
        name: for people: logs and stats.
        fds: descriptors to inherit; they stay the caller's.
        environment: added to this process's own.
        on_message: called with each packet, in order, on the loop.
        on_exit: called exactly once, after the process is reaped and its last packet was delivered.
    """

    def __init__(
        self,
        module: str,
        *,
        name: str,
        fds: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
        on_message: Callable[[bytes], None],
        on_exit: Callable[[Exit], None],
    ) -> None:
        self.name = name
        self.pid = 0
        self._module = module
        self._fds = tuple(fds)
        self._environment = dict(environment or {})
        self._on_message = on_message
        self._on_exit = on_exit
        self._outgoing: deque[tuple[bytes, list[int]]] = deque()
        self._words: deque[str] = deque(maxlen=LAST_WORDS)
        self._rest = b""
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._gone = asyncio.Event()
        self._grace: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Child {self.name} pid={self.pid} alive={self.alive} waiting={len(self._outgoing)}>"

    @property
    def alive(self) -> bool:
        """Started and not yet reaped."""
        return self._process is not None and not self._gone.is_set()

    @property
    def last_words(self) -> str:
        """The last lines it wrote to standard error, also those that wait to be read."""
        if self.alive:
            self._read_words()
        return "\n".join(self._words)

    def start(self) -> None:
        """Start the process; once, on the loop's own thread (the child ends with the *thread* that started it).

        What fails half-way is undone: no process is left behind, and ``on_exit`` is not called.

        Raises:
            OSError: the system cannot start a process now; a retry may help.
            CannotStart: nor will it later.
        """
        if self._process is not None:
            raise RuntimeError(f"{self.name} was started before")
        self._loop = asyncio.get_running_loop()
        with _named("socketpair"):
            self._link, theirs = Link.pair()
        try:
            with contextlib.closing(theirs), _named("a new process"):
                self._process = self._spawn(theirs.fileno())
            self._follow(self._process)
        except BaseException:
            self._undo()
            raise

    def _follow(self, process: subprocess.Popen[bytes]) -> None:
        """Read what the process says, and learn of its end."""
        assert process.stderr is not None
        self.pid = process.pid
        with _named("pidfd_open"):
            self._pidfd = os.pidfd_open(self.pid)
        self._stderr = process.stderr.fileno()
        self._link.set_blocking(False)
        os.set_blocking(self._stderr, False)
        self._loop.add_reader(self._link.fileno(), self._readable)
        self._loop.add_reader(self._stderr, self._read_words)
        self._loop.add_reader(self._pidfd, self._ended)

    def _undo(self) -> None:
        """Take a start back: end the process if there is one, and close what leads to it."""
        process, self._process = self._process, None
        stderr = process.stderr.fileno() if process is not None and process.stderr is not None else -1
        for fd in (self._link.fileno(), stderr, self._pidfd):
            if fd >= 0:
                self._loop.remove_reader(fd)
        self._link.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
        if process is not None and process.stderr is not None:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(KILL_GRACE)
            process.stderr.close()

    def _spawn(self, link_fd: int) -> subprocess.Popen[bytes]:
        inherited = (link_fd, *self._fds)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_THE_SERVER)  # inherited: see run_child
        try:
            return start_python(
                self._module,
                *map(str, inherited),
                inherited=inherited,
                further=self._environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                bufsize=0,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def send(self, packet: bytes, descriptors: Sequence[int] = ()) -> bool:
        """Send one packet, now or when the link has room; to a child that is gone nothing is sent.

        Never blocks. Descriptors stay the caller's and may be closed at once. Those that may not be passed at all are
        left out: the child answers for the ones it did not get.

        Returns:
            False where the system is too short of descriptors to take these now: nothing was sent, try again later.

        Raises:
            ValueError: the packet cannot be sent at all; a defect of the caller.
        """
        if not 0 < len(packet) <= MAX_PACKET or len(descriptors) > MAX_DESCRIPTORS:
            raise ValueError(f"a packet of {len(packet)} bytes with {len(descriptors)} descriptors cannot be sent")
        if not self.alive:
            return True
        try:
            if not self._outgoing and self._sent(packet, descriptors):
                return True
            copies = _copies(descriptors)
        except OSError:
            return False
        if not self._outgoing:
            self._loop.add_writer(self._link.fileno(), self._writable)
        self._outgoing.append((packet, copies))
        return True

    def kill(self) -> None:
        """End the process at once (SIGKILL); ``on_exit`` follows when it is reaped. Idempotent."""
        if self.alive and self._process is not None:
            self._process.kill()

    async def stop(self, timeout: float) -> None:
        """End the process in order: end of file on its link, up to ``timeout`` seconds, then SIGKILL.

        Packets still waiting to be sent are dropped. Idempotent, also while another stop waits.
        """
        if not self.alive:
            return
        self._drop_outgoing()
        self._link.end()
        if not await self._reaped_within(timeout):
            self.kill()
            await self._reaped_within(KILL_GRACE)

    async def _reaped_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._gone.wait()
        except TimeoutError:
            return False
        return True

    def _sent(self, packet: bytes, descriptors: Sequence[int]) -> bool:
        """Try to send; False when the link is full. A child to which nothing can be sent any more is ended.

        Raises:
            OSError: the system cannot pass the descriptors now.
        """
        try:
            self._link.send(packet, descriptors)
        except BlockingIOError:
            return False
        except EOFError:
            pass  # it is ending, or does not listen: either way its end is told by the pidfd
        except OSError as error:
            if descriptors:
                if error.errno in _SCARCE:
                    raise
                return self._sent(packet, ())
            self.kill()
        return True

    def _writable(self) -> None:
        while self._outgoing:
            packet, copies = self._outgoing[0]
            try:
                if not self._sent(packet, copies):
                    return
            except OSError:
                self._loop.call_later(SCARCE_DELAY, self._resume)
                break
            self._outgoing.popleft()
            _close_all(copies)
        self._loop.remove_writer(self._link.fileno())

    def _resume(self) -> None:
        if self.alive and self._outgoing:
            self._loop.add_writer(self._link.fileno(), self._writable)

    def _drop_outgoing(self) -> None:
        if self._outgoing:
            self._loop.remove_writer(self._link.fileno())
        while self._outgoing:
            _close_all(self._outgoing.popleft()[1])

    def _readable(self) -> None:
        for _ in range(PACKETS_A_TURN):
            try:
                more = self._take()
            except EOFError:
                self._loop.remove_reader(self._link.fileno())
                self._grace = self._loop.call_later(LINK_GRACE, self.kill)
                return
            if not more:
                return

    def _take(self) -> bool:
        """Take one packet; False when none is there. What its owner raises must not cost the packets behind it."""
        try:
            packet = self._link.receive_packet()
        except BlockingIOError:
            return False
        try:
            self._on_message(packet)
        except Exception as error:
            self._loop.call_exception_handler({"message": f"a message of {self.name} was refused", "exception": error})
            self.kill()
        return True

    def _read_words(self) -> None:
        try:
            data = os.read(self._stderr, 65536)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._stderr)
        self._hear(data)

    def _hear(self, data: bytes) -> None:
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[:LINE_CHARACTERS]
        for line in lines[-LAST_WORDS:]:
            self._words.append(line[:LINE_CHARACTERS].decode("utf-8", "replace").rstrip())

    def _ended(self) -> None:
        assert self._process is not None
        code = self._process.poll()
        if code is None:
            return
        self._loop.remove_reader(self._pidfd)
        self._loop.remove_reader(self._stderr)
        self._loop.remove_reader(self._link.fileno())
        self._drop_outgoing()
        if self._grace is not None:
            self._grace.cancel()
        with contextlib.suppress(EOFError):
            while self._take():
                pass
        self._hear_the_last()
        self._link.close()
        os.close(self._pidfd)
        assert self._process.stderr is not None
        self._process.stderr.close()
        self._gone.set()
        signalled = code < 0
        self._on_exit(Exit(None if signalled else code, -code if signalled else None, self.last_words))

    def _hear_the_last(self) -> None:
        """Read what is left of standard error, a bounded part: a grandchild might still write to it."""
        for _ in range(16):
            try:
                data = os.read(self._stderr, 65536)
            except BlockingIOError:
                break
            if not data:
                break
            self._hear(data)
        if self._rest:
            self._hear(b"\n")


@contextlib.contextmanager
def _named(call: str) -> Iterator[None]:
    """Name in an OSError what failed.

    Raises:
        CannotStart: it is missing for good.
    """
    try:
        yield
    except OSError as error:
        reason = f"{call}: {os.strerror(error.errno) if error.errno else error}"
        if error.errno in _MISSING:
            raise CannotStart(f"{reason}; this kernel, or its filter of system calls, does not allow it") from error
        raise OSError(error.errno, reason) from error


def _copies(descriptors: Sequence[int]) -> list[int]:
    """Duplicate all of them, or none: OSError where the system has no more now."""
    copies: list[int] = []
    try:
        for fd in descriptors:
            copies.append(os.dup(fd))  # noqa: PERF401 - those made before one fails are closed
    except OSError:
        _close_all(copies)
        raise
    return copies


def _close_all(descriptors: Sequence[int]) -> None:
    for fd in descriptors:
        close_foreign(fd)
