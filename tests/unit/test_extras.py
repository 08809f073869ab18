"""Advice to install something works: it names the interpreter that runs, and packages that an index has."""

from __future__ import annotations

import configparser
import re
import shlex
import sys
from pathlib import Path

import pytest

from nsfwd.extras import install_command, requirements

REPOSITORY = Path(__file__).parents[2]
SETUP = configparser.ConfigParser()
SETUP.read(REPOSITORY / "setup.cfg", "utf-8")
EXTRAS = SETUP["options.extras_require"]

TEXTS = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "protocol.md",
    *(REPOSITORY / "docs").rglob("*.md"),
    *(REPOSITORY / "daemon").rglob("*.py"),
]


@pytest.mark.parametrize("extra", ["gpu", "jax", "torch", "node", "quantize", "parquet"])
def test_an_extra_is_what_setup_cfg_says(extra: str) -> None:
    assert sorted(requirements(extra)) == sorted(EXTRAS[extra].split())


def test_the_command_is_for_the_interpreter_that_runs() -> None:
    assert "tensorflow>=2.20" in requirements()
    assert shlex.split(install_command("node")) == [
        sys.executable,
        "-P",
        "-m",
        "pip",
        "install",
        *EXTRAS["node"].split(),
    ]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_text_installs_what_no_index_has(path: Path) -> None:
    """The package is installed from a checkout, a wheel or with make, and never by its name."""
    if path.name == "extras.py":
        return
    assert re.findall(r"pip install[^`\n]*?[ '\"]nsfwd\b(?!/)", path.read_text("utf-8")) == []


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_text_uses_the_pip_of_the_system(path: Path) -> None:
    """Debian's refuses to install anything (PEP 668): advice names the python of a virtual environment."""
    if path.name == "extras.py":
        return
    for line in path.read_text("utf-8").splitlines():
        for found in re.finditer(r"\bpip install\b", line):
            assert line[: found.start()].endswith("-m "), line
