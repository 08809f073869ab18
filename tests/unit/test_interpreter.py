"""Starting Python: nothing of the working directory, nor what was meant for a person's own interpreter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nsfwd.ipc.interpreter import command, environment, start_python


def test_the_working_directory_is_no_place_for_modules() -> None:
    assert command("some.module", "--into", Path("/x"))[1:] == ["-P", "-m", "some.module", "--into", "/x"]
    own = {"PYTHONPATH": ":/a::/b:", "PYTHONSTARTUP": "/rc.py", "PYTHONINSPECT": "1", "HOME": "/home/eva"}
    assert environment(own, {"X": "1"}) == {
        "PYTHONPATH": "/a:/b",
        "PYTHONSAFEPATH": "1",
        "HOME": "/home/eva",
        "X": "1",
    }
    assert "PYTHONPATH" not in environment({"PYTHONPATH": ":"})


def test_a_child_imports_nothing_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(99)")
    (tmp_path / "shown.py").write_text("import json, sys; print(json.__file__, *sys.argv)")
    monkeypatch.chdir(tmp_path)
    with start_python("shown", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.communicate()[0] == b""
    assert child.returncode == 1  # a module in the working directory is not even found
    with start_python("json.tool", "--help", stdout=subprocess.PIPE) as child:
        child.communicate()
    assert child.returncode == 0
    assert subprocess.run([sys.executable, "-c", "import json"], check=False).returncode == 99
