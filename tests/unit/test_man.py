"""Man pages and completion: both say what the help says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nsfwd.cli import man
from nsfwd.cli.completion import SHELLS
from nsfwd.cli.main import VERBS

PAGES = {name: (context, man.page(name, context)) for name, context in man.commands()}


def _text(page: str) -> str:
    """What a reader sees, without man's own signs and all blanks alike."""
    plain = re.sub(r"^\\.\\w+ ?", "", page, flags=re.M)
    plain = plain.replace("\\&", "").replace("\\-", "-").replace("\\fB", "").replace("\\fR", "").replace("\\e", "\\")
    return " ".join(plain.split())


def test_every_command_has_a_page() -> None:
    assert {"nsfwd", *(f"nsfwd-{verb}" for verb in VERBS), "nsfwd-models-pull", "nsfwd-config-show"} <= PAGES.keys()


@pytest.mark.parametrize("name", PAGES)
def test_the_page_says_what_the_help_says(name: str) -> None:
    context, page = PAGES[name]
    said = _text(page)
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            assert all(" ".join(part.split()) in said for part in record), record
    for line in (context.command.help or "").replace("\b", "").splitlines():
        assert " ".join(line.split()) in said


@pytest.mark.parametrize("name", PAGES)
def test_man_can_read_the_page(name: str, tmp_path: Path) -> None:
    program = shutil.which("man")
    if program is None:
        pytest.skip("man is not installed")
    (tmp_path / "page.1").write_text(PAGES[name][1])
    done = subprocess.run(
        [program, "--warnings", "-l", str(tmp_path / "page.1")],
        env={**os.environ, "MANWIDTH": "100", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert "SYNOPSIS" in done.stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_completion(shell: str) -> None:
    command = [sys.executable, "-m", "nsfwd.cli.main"]
    script = subprocess.run([*command, "completion", shell], capture_output=True, text=True, check=True).stdout
    assert "_NSFWD_COMPLETE" in script
    if shutil.which(shell) is not None:
        subprocess.run([shell, "-n"], input=script, text=True, check=True)
    typed = {"COMP_WORDS": "nsfwd scan --fo", "COMP_CWORD": "--fo" if shell == "fish" else "2"}
    done = subprocess.run(
        command, env={**os.environ, **typed, "_NSFWD_COMPLETE": f"{shell}_complete"}, capture_output=True, check=True
    )
    assert b"--format" in done.stdout
