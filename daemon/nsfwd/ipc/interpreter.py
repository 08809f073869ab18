"""Starts Python programs: the only place that does, so that none ever imports a module from the working directory.

Whoever runs nsfwd in a directory of somebody else's files must not run a ``json.py`` that lies there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

_INTERACTIVE = frozenset({"PYTHONSTARTUP", "PYTHONINSPECT", "PYTHONBREAKPOINT"})
"""Variables that mean something to a person at a prompt only; a child has none."""


def command(module: str, *arguments: str | os.PathLike[str]) -> list[str]:
    """The command line that runs a module, to be started or to be shown to a person."""
    return [sys.executable, "-P", "-m", module, *(os.fspath(one) for one in arguments)]


def environment(own: Mapping[str, str], further: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables for a child: safe imports are inherited by its own children, too.

    An empty entry of ``PYTHONPATH``, as ``PYTHONPATH=DIR:$PYTHONPATH`` leaves one, means the working directory and is
    dropped; the directories in it stay the user's choice.

    Args:
        own: of this process.
        further: what the child gets in addition.
    """
    variables = {name: value for name, value in own.items() if name not in _INTERACTIVE}
    path = [entry for entry in variables.pop("PYTHONPATH", "").split(os.pathsep) if entry]
    if path:
        variables["PYTHONPATH"] = os.pathsep.join(path)
    return {**variables, "PYTHONSAFEPATH": "1", **(further or {})}


def start_python(
    module: str,
    *arguments: str | os.PathLike[str],
    inherited: Sequence[int] = (),
    further: Mapping[str, str] | None = None,
    **streams: Any,
) -> subprocess.Popen[bytes]:
    """Start ``python -m MODULE [ARGUMENT...]`` with nothing on standard input.

    Args:
        inherited: descriptors that stay open in it under their numbers.
        further: variables in addition to this process's own.
        streams: ``stdout``, ``stderr`` and ``bufsize`` of ``subprocess.Popen``.

    Raises:
        OSError: the system cannot start a process now; a retry may help.
    """
    return subprocess.Popen(
        command(module, *arguments),
        stdin=subprocess.DEVNULL,
        pass_fds=tuple(inherited),
        env=environment(os.environ, further),
        **streams,
    )


def run_python(
    module: str, *arguments: str | os.PathLike[str], timeout: float | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run the same to its end, with nothing on standard input, and keep what it writes.

    Raises:
        OSError: as of ``start_python``.
        subprocess.TimeoutExpired: it took longer than ``timeout`` seconds, and was killed.
    """
    return subprocess.run(
        command(module, *arguments),
        stdin=subprocess.DEVNULL,
        env=environment(os.environ),
        capture_output=True,
        timeout=timeout,
        check=False,
    )
