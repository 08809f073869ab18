"""Tells the service manager how far the daemon is (sd_notify(3)); without one it says nothing.

The message is a datagram; a manager that cannot be reached never stops the daemon.
"""

from __future__ import annotations

import logging
import socket
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

    def ready(self, status: str) -> None:
        """Say that requests are answered."""
        self._send("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """Say what the daemon is doing, in one line."""
        self._send(f"STATUS={status}")

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
            _log.warning("cannot tell the service manager: %s", error.strerror)
