"""The examples of docs/clients.md, run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import pictures
from tests.integration.harness import REPOSITORY, Daemon, needs

DOCUMENT = (REPOSITORY / "docs" / "clients.md").read_text("utf-8")


def _blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", DOCUMENT, re.M | re.S)


@pytest.fixture(scope="module")
def environment(daemon: Daemon, gallery: Path) -> dict[str, str]:
    """The directory that the document speaks of, and nsfwd on the path."""
    here = gallery / "docs"
    (here / "in").mkdir(parents=True)
    for name in ("a", "in/b", "in/c"):
        (here / f"{name}.jpg").write_bytes(pictures.encoded(pictures.photo(1), "JPEG"))
    (here / "notes.txt").write_text("no picture " * 100)
    tools = gallery / "bin"
    tools.mkdir()
    (tools / "nsfwd").write_text(f'#!/bin/sh\nexec {sys.executable} -m nsfwd.cli.main "$@"\n')
    (tools / "nsfwd").chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "NSFWD_CONNECT": f"unix:{daemon.unix}",
        "NSFWD_CACHE_DIR": str(gallery / "cache"),
        "NSFWD_OVERRIDES": str(daemon.overrides),
        "NSFWD_MODELS_DIR": str(daemon.overrides.with_name("models")),
        "NSFWD_MODELS": "echo=nsfw",
        "NSFWD_ENGINE": "echo",
        "CLIENTS": str(REPOSITORY / "docs" / "clients"),
        "PWD": str(here),
    }


@pytest.mark.parametrize("block", _blocks("console"), ids=lambda block: block.split("\n")[0])
def test_what_is_typed(block: str, environment: dict[str, str]) -> None:
    for program in ("jq", "nc.openbsd"):
        needs(program)
    script = f"set -e -o pipefail\n{block}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=environment["PWD"], env=environment, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("block", _blocks("python"), ids=lambda block: block.split("\n")[0])
def test_what_is_written_in_python(block: str, environment: dict[str, str], daemon: Daemon) -> None:
    models_dir = str(daemon.unix).replace("nsfwd.sock", "models")
    given = {"HERE": environment["PWD"], "ADDRESS": environment["NSFWD_CONNECT"], "ENGINE": "echo"}
    given |= {"MODELS": ("echo=nsfw",), "MODELS_DIR": models_dir}  # type: ignore[dict-item]
    head = "".join(f"{name} = {value!r}\n" for name, value in given.items())
    done = subprocess.run([sys.executable, "-c", head + block], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b""), done
    assert not re.search(rb"\bhold\b", done.stdout)  # threshold is another word
    assert done.stdout
