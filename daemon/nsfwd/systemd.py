"""Reports the state of the daemon to the service manager (sd_notify(3)), where there is one.

A report is a datagram; a manager that cannot be reached never stops the daemon.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import MutableMapping

_log = logging.getLogger("nsfwd.server")


class Notifier:
    """The sender of notifications to the service manager.

    Args:
        environment: holds NOTIFY_SOCKET; the variable is removed, so that no child notifies in the daemon's name.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        name = environment.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + name[1:] if name.startswith("@") else name
        self._complained = False
        self._status = ""

    def ready(self, status: str) -> None:
        """Report that requests are answered, after the start or again after a reload."""
        self._status = status
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Report that a reload is running; ``ready`` ends it."""
        stamp = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={stamp}", "STATUS=reloading")

    def extend_timeout(self, seconds: float) -> None:
        """Ask for this many seconds from now for the present step."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def alive(self) -> None:
        """Report that the daemon works: the manager kills a daemon that does not report for ``watchdog`` seconds."""
        self._send("WATCHDOG=1")

    def status(self, status: str) -> None:
        """Report the present activity in one line; a status equal to the last one is not sent again."""
        if status != self._status:
            self._send(f"STATUS={status}")
        self._status = status

    def stopping(self) -> None:
        """Report that the daemon is stopping."""
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
                _log.warning("cannot notify the service manager: %s (logged once)", error.strerror)
            self._complained = True
