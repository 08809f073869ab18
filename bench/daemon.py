"""Starts servers as a user would and stops them again: nsfwd, its peers, the naive server, the line server."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench import machine

REPOSITORY = Path(__file__).resolve().parents[1]
START = 90.0
"""Seconds a server may take to become ready; TensorFlow on a busy machine takes half a minute."""

Address = str | tuple[str, int]


class Process:
    """A server in a session of its own, so that everything it starts is counted and ended with it.

    Args:
        command: the program and its arguments.
        environment: further variables.
        directory: where it is started.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None, *, directory: Path = REPOSITORY
    ) -> None:
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self.command = " ".join(command)
        self.started = time.monotonic()
        self._popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            env={**os.environ, "NO_COLOR": "1", **(environment or {})},
            cwd=directory,
            start_new_session=True,
        )
        self.pid = self._popen.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if error is not None:
            print(self._words(), file=sys.stderr)

    def processes(self) -> list[int]:
        """The whole tree."""
        return machine.tree(self.pid)

    def check(self) -> None:
        """Raise RuntimeError with its output if it has ended."""
        if self._popen.poll() is not None:
            raise RuntimeError(f"ended with {self._popen.returncode}: {self.command}\n{self._words()}")

    def _words(self) -> str:
        """The last that it said."""
        self.log.seek(0)
        return self.log.read().decode("utf-8", "replace")[-3000:]

    def stop(self) -> None:
        """SIGTERM, then SIGKILL for processes that are left of the tree."""
        left = self.processes()
        with contextlib.suppress(ProcessLookupError):
            self._popen.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(15)
        for pid in {*left, *self.processes()} - {self.pid}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._popen.kill()
        self._popen.wait()


class Nsfwd(Process):
    """``nsfwd serve`` on a Unix socket and a TCP port of its own.

    Args:
        directory: for its socket.
        null_decoder: with decoders that open nothing.
        models_dir: where the bundle lies.
        cache: for compiled networks; the user's own if left out.
        tree: another checkout, whose daemon it is, with a virtual environment in ``.venv``.
    """

    def __init__(
        self,
        directory: Path,
        *,
        bundle: str,
        models_dir: Path,
        engine: str = "openvino",
        null_decoder: bool = False,
        cache: Path | None = None,
        tree: Path | None = None,
        flags: Sequence[str] = (),
    ) -> None:
        self.unix = str(directory / "nsfwd.sock")
        self.tcp = ("127.0.0.1", free_port())
        program = (_null_decoder(tree or REPOSITORY) if null_decoder else "nsfwd.cli.main", "serve")
        python = str(tree / ".venv/bin/python") if tree else sys.executable
        command = [python, "-m", *program, "--listen", f"unix:{self.unix},style=plain"]
        command += ["--listen", f"tcp:127.0.0.1:{self.tcp[1]}", "--models-dir", str(models_dir)]
        command += ["--model", f"{bundle}=nsfw", "--engine", engine]
        command += ["--cache-dir", str(cache)] if cache else []
        paths = os.pathsep.join(filter(None, (str(tree or REPOSITORY), os.environ.get("PYTHONPATH"))))
        super().__init__(
            [*command, *flags], {"PYTHONPATH": paths} if null_decoder else None, directory=tree or REPOSITORY
        )

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to one request.

        Raises:
            OSError: the server does not listen.
            EOFError: it was closed without a reply.
        """
        return ask(self.unix, request)

    def wait_ready(self) -> float:
        """Wait until it is ready; return the seconds since its start."""
        while time.monotonic() - self.started < START:
            self.check()
            with contextlib.suppress(OSError, EOFError):
                if self.ask({"op": "ready"}).get("ready") is True:
                    return time.monotonic() - self.started
            time.sleep(0.02)
        raise RuntimeError(f"not ready within {START:g} s")


class LineServer(Process):
    """A line server (``bench.line_server``).

    Args:
        directory: for its socket.
        hops: processes that each request goes through.
    """

    def __init__(self, directory: Path, *, hops: int = 0) -> None:
        self.unix = str(directory / f"line-{hops}.sock")
        Path(self.unix).unlink(missing_ok=True)
        super().__init__([sys.executable, "-m", "bench.line_server", self.unix, str(hops)])

    def wait_ready(self) -> float:
        """Wait for its first reply; return the seconds since its start."""
        while time.monotonic() - self.started < START:
            self.check()
            with contextlib.suppress(OSError, EOFError):
                ask(self.unix, {"id": 1})
                return time.monotonic() - self.started
            time.sleep(0.002)
        raise RuntimeError(f"no reply within {START:g} s")


def _null_decoder(tree: Path) -> str:
    """The module with decoders that open nothing: an earlier checkout has it under another name."""
    return next(f"bench.{name}" for name in ("null_decoder", "blank") if (tree / "bench" / f"{name}.py").exists())


def connect(address: Address) -> socket.socket:
    """A connected, blocking socket."""
    if isinstance(address, tuple):
        made = socket.create_connection(address, 60)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made
    made = socket.socket(socket.AF_UNIX)  # blocking: with a timeout, a full backlog would be an error at once
    try:
        made.connect(address)
    except OSError:
        made.close()
        raise
    return made


def ask(address: Address, request: dict[str, Any]) -> dict[str, Any]:
    """Send one request on a connection of its own; return the reply."""
    with connect(address) as connection:
        connection.sendall(json.dumps(request).encode() + b"\n")
        data = b""
        while not data.endswith(b"\n"):
            part = connection.recv(1 << 16)
            if not part:
                raise EOFError(f"no reply to {request}")
            data += part
    found: dict[str, Any] = json.loads(data)
    return found


def free_port() -> int:
    """A TCP port of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
