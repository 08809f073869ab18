"""Every skip is in the table, and one that is not fails."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import skips

TESTS = Path(__file__).parents[1]

SKIPPING = """
import pytest
pytestmark = [] if {run} else pytest.mark.skip(reason={reason!r})
def test_one():
    pytest.skip({reason!r})
"""


def reasons(path: Path) -> Iterator[str]:
    """Yield what each skip in a file says, with {} for what is filled in."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call) or not ast.unparse(node.func).startswith("pytest."):
            continue
        match ast.unparse(node.func):
            case "pytest.skip":
                yield template(node.args[0])
            case "pytest.mark.skipif" | "pytest.mark.skip":
                yield template(next(keyword.value for keyword in node.keywords if keyword.arg == "reason"))
            case "pytest.importorskip":
                yield "importorskip"


def template(text: ast.expr) -> str:
    if isinstance(text, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in text.values)
    assert isinstance(text, ast.Constant)
    return str(text.value)


def test_the_table_has_the_skips_of_all_tests_and_no_other() -> None:
    """Add or remove a row of tests/skips.py."""
    files = (path for path in TESTS.rglob("*.py") if path != Path(__file__))
    assert sorted({reason for path in files for reason in reasons(path)}) == sorted(skips.REASONS)


@pytest.mark.parametrize(
    ("reason", "folder", "passes"),
    [
        ("only root gives files away", "unit", True),
        ("jq is not installed", "integration", True),
        ("jq is not installed", "apps", False),
        ("it is Monday", "unit", False),
        ("only root gives files away, on Mondays", "unit", False),
    ],
)
@pytest.mark.parametrize("run", [True, False])
def test_a_skip_that_is_not_listed_fails(tmp_path: Path, reason: str, folder: str, *, passes: bool, run: bool) -> None:
    directory = tmp_path / "tests" / folder
    directory.mkdir(parents=True)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "conftest.py").write_text(
        "from tests.conftest import pytest_make_collect_report, pytest_runtest_makereport\n"
    )
    (directory / "test_skipping.py").write_text(SKIPPING.format(run=run, reason=reason))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "--import-mode=importlib",
            "--rootdir",
            str(tmp_path),
            str(directory),
        ],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) is passes, done.stdout
    assert ("1 skipped" in done.stdout) is passes, done.stdout
    assert passes or "never skipped" in done.stdout or "not listed" in done.stdout, done.stdout
