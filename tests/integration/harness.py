"""The real daemon as a subprocess, and small ways to talk to it.

A test that uses ``Daemon`` proves more than it asserts: the daemon became ready, wrote nothing to stdout and no stack
trace to stderr, left with status 0 on SIGTERM, and left no process behind. Knows the wire only as bytes and JSON: it
shares no code with the client that is under test elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.echo_bundle import echo_bundle

REPOSITORY = Path(__file__).resolve().parents[2]
MODELS = REPOSITORY / "models"

READY = 120.0
"""Seconds within which even TensorFlow must have loaded on a busy machine."""
PATIENCE = 60.0
"""Seconds after which any single answer is late; generous, because it only bounds a failure."""
POLL = 0.05

Address = Path | tuple[str, int]
Json = dict[str, Any]


def _ports() -> Iterator[int]:
    """Ports that a test may listen on, each once: of several processes that run tests each has its own.

    They lie below those that the kernel gives to connections, one of which could take a port before its daemon does.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    mine = range(10_000 + worker, max(given, 20_000), workers)
    return islice(cycle(mine), random.randrange(len(mine)), None)


_PORTS = _ports()


def free_port() -> int:
    """A TCP port of loopback that nobody listened on a moment ago, and that no other test is given."""
    return next(filter(_is_free, _PORTS))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Daemon:
    """``nsfwd serve`` on a free TCP port and a Unix socket, in a session of its own.

    Args:
        directory: where its socket, cache, overrides, logs and (by default) its echo bundle go.
        engine: ``echo``, ``keras`` or ``openvino``.
        model: the bundle, in ``models_dir``; an echo bundle is written when there is no ``models_dir``.
        root: below what it may scan.
        listen: further addresses.
        flags: further flags of ``nsfwd serve``.
        prefix: a program to start it with, such as ``setpriv``.
        environment: further variables.
    """

    def __init__(
        self,
        directory: Path,
        *,
        engine: str = "echo",
        model: str = "echo",
        models_dir: Path | None = None,
        root: Path | None = None,
        listen: Sequence[str] = (),
        flags: Sequence[str] = (),
        prefix: Sequence[str] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        if models_dir is None:
            models_dir = directory / "models"
            if not (models_dir / model).exists():
                echo_bundle(models_dir, model)
        self.port = free_port()
        self.tcp: Address = ("127.0.0.1", self.port)
        self.unix: Address = directory / "nsfwd.sock"
        self.overrides = directory / "overrides.sqlite"
        self._stdout = directory / "stdout"
        self._stderr = directory / "stderr"
        addresses = (f"tcp:127.0.0.1:{self.port}", f"unix:{self.unix}", *listen)
        self._command = [
            *prefix,
            *(sys.executable, "-P", "-m", "nsfwd", "serve"),
            *(part for address in addresses for part in ("--listen", address)),
            *("--models-dir", str(models_dir), "--model", f"{model}=nsfw", "--engine", engine),
            *("--cache-dir", str(directory / "cache"), "--overrides", str(self.overrides)),
            *(("--root", str(root)) if root is not None else ()),
            *flags,
        ]
        self._environment = {**os.environ, "NO_COLOR": "1", **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.kill()
            print(f"--- the daemon's stderr ---\n{self.stderr}", file=sys.stderr)
        else:
            self.stop()

    @property
    def pid(self) -> int:
        """Of the server process."""
        assert self._process is not None
        return self._process.pid

    @property
    def stderr(self) -> str:
        """All that it has written to stderr until now."""
        return self._stderr.read_text("utf-8", "replace") if self._stderr.exists() else ""

    @property
    def stdout(self) -> str:
        """All that it has written to stdout until now: nothing, ever."""
        return self._stdout.read_text("utf-8", "replace") if self._stdout.exists() else ""

    def processes(self) -> dict[int, str]:
        """Every live process of its session: process id -> command line."""
        return session_processes(self.pid)

    def start(self) -> None:
        """Start it and return at once."""
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=self._environment,
                start_new_session=True,
            )

    def wait_ready(self, timeout: float = READY) -> None:
        """Poll the Unix socket until the daemon says that it is ready.

        Raises:
            AssertionError: it ended, or took longer than ``timeout`` seconds.
        """
        assert self._process is not None
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            assert self._process.poll() is None, f"ended with {self._process.returncode}:\n{self.stderr}"
            with contextlib.suppress(OSError, EOFError):
                if ask(self.unix, {"op": "ready"}).get("ready") is True:
                    return
            time.sleep(POLL)
        raise AssertionError(f"not ready within {timeout} s:\n{self.stderr}")

    def wait_exit(self, timeout: float = PATIENCE) -> int:
        """The exit status, once it has ended."""
        assert self._process is not None
        return self._process.wait(timeout)

    def stop(self, sign: int = signal.SIGTERM) -> None:
        """Ask it to end, and check how it leaves."""
        assert self._process is not None
        session = self.pid
        try:
            self._process.send_signal(sign)
            status = self.wait_exit()
        finally:
            self.kill()
        assert status == 0, f"left with {status}:\n{self.stderr}"
        assert session_processes(session) == {}, "left processes behind"
        assert not (isinstance(self.unix, Path) and self.unix.exists()), "left its socket behind"
        assert self.stdout == ""
        assert "Traceback" not in self.stderr, self.stderr

    def kill(self) -> None:
        """End everything of its session, at once. Idempotent."""
        assert self._process is not None
        for pid in (self.pid, *session_processes(self.pid)):
            if pid != self.pid or self._process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.wait(PATIENCE)


def session_processes(session: int) -> dict[int, str]:
    """Live processes (no zombies) of the session ``session``: process id -> command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            # The command in parentheses may hold spaces; state, parent, group and session follow the last one.
            state, _, _, of_session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(of_session) == session and state != "Z":
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(entry.name)] = command.decode("utf-8", "replace")
    return found


def raw_connect(address: Address, timeout: float = PATIENCE) -> socket.socket:
    """A blocking stream socket to ``address``, on which nothing was sent yet."""
    if isinstance(address, tuple):
        return socket.create_connection(address, timeout)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout)
    try:
        connection.connect(str(address))
    except OSError:
        connection.close()
        raise
    return connection


def read_all(connection: socket.socket) -> bytes:
    """All that comes until the daemon closes."""
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def spell(request: Json | bytes) -> bytes:
    """One request as a line; bytes are sent as they are."""
    return request if isinstance(request, bytes) else json.dumps(request).encode() + b"\n"


def replies(output: bytes) -> list[Json]:
    """The JSON objects among the lines of ``output``; other lines are for people."""
    return [json.loads(line) for line in output.splitlines() if line.startswith(b"{")]


def ndjson(connection: socket.socket, requests: Iterable[Json | bytes]) -> list[Json]:
    """Send all requests, end our half, and return every reply until the daemon ends its half."""
    connection.sendall(b"".join(spell(request) for request in requests))
    connection.shutdown(socket.SHUT_WR)
    return replies(read_all(connection))


def ask(address: Address, request: Json | bytes) -> Json:
    """The first reply to one request on a connection of its own.

    Raises:
        EOFError: the daemon closed without a reply.
    """
    with raw_connect(address) as connection:
        found = ndjson(connection, [request])
    if not found:
        raise EOFError(f"no reply to {request!r}")
    return found[0]


def wait_until(condition: Callable[[], bool], *, pause: float = POLL) -> None:
    """Wait for what will become true on any machine, and on a slow one later.

    Args:
        pause: seconds between looks; 0 for what may soon be over.
    """
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not become true"
        time.sleep(pause)


def needs(program: str) -> str:
    """The path of a real client; without it the test is skipped, because only root could install it."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def run_client(command: Sequence[str], given: bytes = b"", timeout: float = PATIENCE) -> bytes:
    """What a client program prints when ``given`` is all of its stdin; it must leave with status 0."""
    done = subprocess.run(command, input=given, capture_output=True, timeout=timeout, check=False)
    assert done.returncode == 0, (command, done.returncode, done.stdout, done.stderr)
    return done.stdout


class Conversation:
    """A client program that is typed to line by line, like a person at a terminal.

    Args:
        command: the program.
        tty: give it a terminal of its own, so that control characters mean what they mean to a person.
    """

    def __init__(self, command: Sequence[str], *, tty: bool = False) -> None:
        self.output = b""
        if tty:
            self._read, follower = os.openpty()
            self._process = subprocess.Popen(
                command, stdin=follower, stdout=follower, stderr=follower, preexec_fn=_take_terminal
            )
            os.close(follower)
            self._write = os.dup(self._read)
        else:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert self._process.stdin is not None and self._process.stdout is not None
            self._read, self._write = os.dup(self._process.stdout.fileno()), os.dup(self._process.stdin.fileno())
            self._process.stdin.close()
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._write)
        os.close(self._read)
        self._process.kill()
        self._process.wait()

    def type(self, text: bytes) -> None:
        """Type ``text`` as it is."""
        os.write(self._write, text)

    def expect(self, pattern: bytes, timeout: float = PATIENCE) -> re.Match[bytes]:
        """Read until ``pattern`` is in what was not matched yet, and forget all up to its end.

        Raises:
            AssertionError: it did not come within ``timeout`` seconds, or the program ended first.
        """
        end = time.monotonic() + timeout
        while (found := re.search(pattern, self.output, re.DOTALL)) is None:
            left = end - time.monotonic()
            assert left > 0 and self._more(left), f"no {pattern!r} in {self.output!r}"
        self.output = self.output[found.end() :]
        return found

    def ended(self, timeout: float = PATIENCE) -> int:
        """The exit status, once the program has ended by itself."""
        while self._more(timeout):
            pass
        return self._process.wait(timeout)

    def _more(self, timeout: float) -> bool:
        readable, _, _ = select.select([self._read], [], [], timeout)
        if not readable:
            return False
        try:
            part = os.read(self._read, 1 << 16)
        except OSError:  # a terminal whose other side has closed says EIO
            part = b""
        self.output += part
        return bool(part)


def _take_terminal() -> None:
    os.login_tty(0)
