"""Descriptors are closed by a thread, and none is forgotten where the system has no thread now."""

from __future__ import annotations

import os
import threading
from unittest.mock import Mock

import pytest

from nsfwd.ipc.fd_closer import _Closer
from tests.descriptors import all_closed


def test_what_comes_while_no_thread_can_be_started_is_closed_later(monkeypatch: pytest.MonkeyPatch) -> None:
    closer = _Closer()
    with all_closed():
        first, second = os.pipe()
        with monkeypatch.context() as scarce:
            scarce.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError("can't start new thread")))
            closer.close(first)
        closer.close(second)
        while closer.done < 2:
            os.sched_yield()
