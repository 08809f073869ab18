"""What ``ready`` says of processes that the system cannot start at present."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from nsfwd.pipeline.stats import PipelineStatus

PROBLEM = "processes cannot be started: a new process: Resource temporarily unavailable"


def readiness(*, decoder: str = "", lister: str = "", engine: str = "", left: int = 1) -> dict[str, Any]:
    stage = {name: SimpleNamespace(problem=text) for name, text in (("d", decoder), ("l", lister), ("e", engine))}
    ready = asyncio.Event()
    ready.set()
    generation = SimpleNamespace(
        trusted=not engine,
        models=[SimpleNamespace(scoring=SimpleNamespace(supervisor=SimpleNamespace(starter=stage["e"])))],
        decoding=SimpleNamespace(pool=SimpleNamespace(starter=stage["d"], processes=lambda: [1] * left)),
        self_test=SimpleNamespace(doubt=lambda: ""),
        overriding=SimpleNamespace(trouble=""),
    )
    serving: Any = SimpleNamespace(generation=generation, ready=ready, lister=SimpleNamespace(starter=stage["l"]))
    admission: Any = SimpleNamespace(draining=False)
    nothing: Any = None
    return PipelineStatus(serving, admission, nothing, nothing).readiness()


@pytest.mark.parametrize(
    ("state", "reply"),
    [
        ({}, {"ready": True}),
        ({"decoder": PROBLEM}, {"ready": True, "why": PROBLEM}),
        ({"decoder": PROBLEM, "left": 0}, {"ready": False, "why": PROBLEM}),
        ({"lister": PROBLEM}, {"ready": True, "why": PROBLEM}),
        ({"engine": PROBLEM}, {"ready": False, "why": PROBLEM}),
    ],
)
def test_a_system_without_processes_is_said(state: dict[str, Any], reply: dict[str, Any]) -> None:
    assert readiness(**state) == reply
