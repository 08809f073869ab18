"""A hook: a program of the site that is run for a verdict, with the reply as JSON on its standard input.

A list of arguments, never a shell's line, so that no file name can become a command. Few run at once and they start at
a bounded rate; one that takes too long is killed, with all its children. Knows nothing of files and verdicts.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from nsfwd.protocol import jsonio

CONCURRENCY = 4
"""At once: as many as a small machine can run beside the daemon."""

RATE = 10.0
"""Starts a second: what a mail server or a ticket system on the other end takes from one client."""

TIMEOUT = 60.0
"""Seconds: a hook that talks to a network has given up by then."""

_WORDS = 4096
"""Bytes of its standard error that are kept."""


class HookFailed(Exception):
    """A hook could not be started, took too long, or ended with another status than 0. The message says which."""


@dataclass(frozen=True, slots=True)
class HookSettings:
    """The program, and limits on how often it runs.

    Attributes:
        command: the program and its arguments.
        concurrency: at once. ``rate``: starts a second. ``timeout``: seconds for each.
    """

    command: tuple[str, ...]
    concurrency: int = CONCURRENCY
    rate: float = RATE
    timeout: float = TIMEOUT


class Hook:
    """Runs the program for one reply after another."""

    def __init__(self, settings: HookSettings) -> None:
        self._settings = settings
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._next = 0.0

    async def run(self, reply: Mapping[str, Any]) -> None:
        """Run it for one reply, when it is its turn, and wait for its end.

        Raises:
            HookFailed: it did not end with status 0. It may be tried again.
        """
        async with self._slots:
            await self._turn()
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._settings.command,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.PIPE,
                    start_new_session=True,
                )
            except OSError as error:
                raise HookFailed(f"{self._settings.command[0]}: {error.strerror}") from error
            await self._finish(process, jsonio.dumps(dict(reply)) + b"\n")

    async def _turn(self) -> None:
        now = time.monotonic()
        at = max(now, self._next)
        self._next = at + 1 / self._settings.rate
        await asyncio.sleep(at - now)

    async def _finish(self, process: asyncio.subprocess.Process, line: bytes) -> None:
        name = self._settings.command[0]
        try:
            async with asyncio.timeout(self._settings.timeout):
                _, words, _ = await asyncio.gather(_write_reply(process, line), _read_errors(process), process.wait())
        except TimeoutError:
            raise HookFailed(f"{name}: took longer than {self._settings.timeout:g} s") from None
        finally:
            with suppress(ProcessLookupError):  # what it started is ended as well
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        if process.returncode:
            last = words.decode("utf-8", "replace").strip().splitlines()[-1:]
            raise HookFailed(": ".join([f"{name}: ended with status {process.returncode}", *last]))


async def _write_reply(process: asyncio.subprocess.Process, line: bytes) -> None:
    """Write the reply; a hook need not read it."""
    assert process.stdin is not None
    if process.stdin.is_closing():  # it has ended already
        return
    with suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(line)
        await process.stdin.drain()
    process.stdin.close()


async def _read_errors(process: asyncio.subprocess.Process) -> bytes:
    """Read its standard error, and keep the end of it."""
    assert process.stderr is not None
    words = b""
    while part := await process.stderr.read(_WORDS):
        words = (words + part)[-_WORDS:]
    return words
