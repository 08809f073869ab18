"""What the operator is told of a process that ended and was not asked to."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from nsfwd.backoff import SPAWN
from nsfwd.ipc.child import Exit
from nsfwd.ipc.process_start import ProcessStarter, tell_end
from tests.unit.manual import ManualLoop, run


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


def test_a_system_without_processes_is_logged_once_and_shown_until_it_has_some(
    caplog: pytest.LogCaptureFixture,
) -> None:
    refusals = 20

    class Refused:
        name = "decoder 3"

        def start(self) -> None:
            nonlocal refusals
            refusals -= 1
            if refusals >= 0:
                raise OSError(11, "a new process: Resource temporarily unavailable")

    async def test(loop: ManualLoop) -> None:
        starter = ProcessStarter(loop, lambda error: None)
        child: Any = Refused()

        def again() -> None:
            starter.start(child, again)

        with caplog.at_level(logging.WARNING, logger="nsfwd"):
            again()
            problem = "decoder processes cannot be started: a new process: Resource temporarily unavailable"
            assert starter.problem == problem
            for _ in range(refusals + 1):
                await loop.advance(SPAWN.longest)
        assert (refusals, starter.problem) == (-1, "")
        assert [record.getMessage() for record in caplog.records] == [
            problem + "; trying again until it works",
            "decoder 3 was started, after 20 tries that failed",
        ]

    run(test)
