"""Tells the service manager how far the daemon is (sd_notify(3)); without one it says nothing.

The message is a datagram; a manager that cannot be reached never stops the daemon.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import MutableMapping

_log = logging.getLogger("nsfwd.server")


class Notifier:
    """The line to the service manager.

    Args:
        environment: where NOTIFY_SOCKET is looked up; the variable is removed, so that no child speaks for the daemon.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        name = environment.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + name[1:] if name.startswith("@") else name
        self._complained = False
        self._status = ""

    def ready(self, status: str) -> None:
        """Say that requests are answered, after the start or again after a reload."""
        self._status = status
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Say that changed settings are taken up; ``ready`` ends it."""
        stamp = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={stamp}", "STATUS=reloading")

    def extend_timeout(self, seconds: float) -> None:
        """Ask for so much more time from now for the step that is under way."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def alive(self) -> None:
        """Say that the daemon does its work: the manager kills one that does not say so for ``watchdog`` seconds."""
        self._send("WATCHDOG=1")

    def status(self, status: str) -> None:
        """Say what the daemon is doing, in one line; what was said last is not said again."""
        if status != self._status:
            self._send(f"STATUS={status}")
        self._status = status

    def stopping(self) -> None:
        """Say that the daemon is on its way out."""
        self._send("STOPPING=1", "STATUS=draining")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            if not self._complained:
                _log.warning("cannot tell the service manager: %s (said once)", error.strerror)
            self._complained = True
