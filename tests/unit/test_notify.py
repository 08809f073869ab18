"""What the service manager is told."""

from __future__ import annotations

import socket
from pathlib import Path

from nsfwd.server.notify import Notifier


def test_states_arrive_and_the_variable_is_not_passed_on(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "n"))
        environment = {"NOTIFY_SOCKET": str(tmp_path / "n")}
        notifier = Notifier(environment)
        assert environment == {}
        notifier.ready("serving")
        notifier.stopping()
        assert manager.recv(100) == b"READY=1\nSTATUS=serving"
        assert manager.recv(100).startswith(b"STOPPING=1\n")


def test_no_manager_or_one_that_is_gone_never_hurts(tmp_path: Path) -> None:
    Notifier({}).ready("serving")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("serving")
