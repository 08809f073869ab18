"""What holds for every test: it knows nothing of the settings, decisions and daemons of this machine.

Nor do the programs that it starts know PYTHON* variables of this shell, which hide faults: PYTHONUNBUFFERED does
so with output that cannot be written at exit.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests import skips

DISPLAY = frozenset({"FORCE_COLOR", "CLICOLOR_FORCE", "NO_COLOR", "COLUMNS", "LINES"})
"""Variables by which a person says how programs shall show things."""

MANAGER = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "JOURNAL_STREAM"})
"""Variables of a service manager or a container: they speak to the process that runs the tests, not to its daemons."""


@pytest.fixture(scope="session", autouse=True)
def _nobodys_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No settings but those of a test; the state directory, where overrides are by default, is an empty one."""
    settings = tmp_path_factory.mktemp("settings") / "nsfwd.toml"
    settings.touch()
    os.umask(0o022)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a shell, and by children
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("NSFWD_", "PYTHON")) or name in DISPLAY | MANAGER]:
            patch.delenv(name)
        patch.setenv("NSFWD_CONFIG", str(settings))  # in place of the file of a daemon that is installed here
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user may enter. Not below pytest's, which are closed, and closed again by each run."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that is skipped for a reason that is not listed has failed."""
    report = yield
    _judge_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """So has a file of tests."""
    report = yield
    _judge_skip(report)
    return report


def _judge_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if objection := skips.objection(reason, report.nodeid):
            report.outcome, report.longrepr = "failed", objection
