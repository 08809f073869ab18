"""What the operator is told of a process that ended and was not asked to."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from nsfwd.ipc.child import Exit
from nsfwd.ipc.process_start import tell_end


@pytest.mark.parametrize(
    ("exit_", "why", "text"),
    [
        (Exit(None, 9, ""), "", "decoder 3 (pid 77) ended: killed by SIGKILL"),
        (Exit(None, 9, ""), "an image took too long", "killed by SIGKILL; an image took too long"),
        (Exit(1, None, "Traceback\nMemoryError"), "", "ended: exit code 1; MemoryError"),
    ],
)
def test_who_it_was_how_it_ended_and_what_it_said_last(
    exit_: Exit, why: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    child: Any = SimpleNamespace(name="decoder 3", pid=77)
    with caplog.at_level(logging.WARNING, logger="nsfwd"):
        tell_end(child, exit_, why)
    (record,) = caplog.records
    assert text in record.getMessage()
    assert vars(record)["kind"] == "decoder", "all decoders count together when many end"
    assert vars(record)["fields"] == {"child": "decoder 3", "child_pid": 77}
