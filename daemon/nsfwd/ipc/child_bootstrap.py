"""The first steps of every child process, before it does its own work.

A child belongs to its server: it must end with it however it ends, must leave signals that hit the whole process group
(Ctrl-C, systemd) to it, and must never be found waiting for a server that is gone.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

from nsfwd.ipc.link import Link

_PR_SET_PDEATHSIG = 1

LEFT_TO_THE_SERVER = (signal.SIGINT, signal.SIGTERM)
"""Signals a child ignores: the server stops its children itself, in order."""


def run_child(arguments: Sequence[str] | None = None) -> tuple[Link, list[int]]:
    """Become a proper child.

    The server starts children with these signals blocked, so that a Ctrl-C during the start cannot end one; here they
    are ignored and unblocked.

    Args:
        arguments: ``LINK_FD [FD...]`` as ``Child`` passes them; ``sys.argv[1:]`` when left out.

    Returns:
        The blocking link to the server and the other inherited descriptors, in order.

    Raises:
        SystemExit: the server is gone already, or the arguments are not descriptors.
    """
    words = sys.argv[1:] if arguments is None else arguments
    try:
        link_fd, *others = [int(word) for word in words]
    except ValueError:
        raise SystemExit("this program is started by nsfwd serve, with descriptors as its arguments") from None
    for number in LEFT_TO_THE_SERVER:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, LEFT_TO_THE_SERVER)
    link = Link.from_descriptor(link_fd)
    for fd in others:
        os.set_inheritable(fd, False)
    _end_with(link.peer_pid())
    return link, others


def _end_with(server: int) -> None:
    """Ask the kernel to kill this process when the server ends, then look whether it has ended before we asked."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != server:
        raise SystemExit("the server is gone")
