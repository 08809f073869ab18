"""The bar of a scan: there whenever lines are filtered, and with names for its two times."""

from __future__ import annotations

import io
import sys

import pytest

from nsfwd.cli.options.progress import progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """It is one."""
        return True


@pytest.mark.parametrize(
    ("stdout", "filtered", "quiet", "shown"),
    [
        (Terminal, True, False, True),
        (Terminal, False, False, False),
        (io.StringIO, False, False, True),
        (io.StringIO, True, True, False),
    ],
)
def test_when_there_is_a_bar(
    monkeypatch: pytest.MonkeyPatch, stdout: type[io.StringIO], *, filtered: bool, quiet: bool, shown: bool
) -> None:
    err, out = Terminal(), stdout()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr(sys, "stdout", out)
    with progress(lambda stop: 3, quiet=quiet, filtered=filtered) as bar:
        bar.advance()
        with bar.aside():
            before = err.getvalue()
            out.write("/alarm\n")
            assert err.getvalue() == before
        bar.advance()
    assert ("elapsed" in err.getvalue() and "left" in err.getvalue()) is shown
    assert out.getvalue() == "/alarm\n"
