"""Programs that these tests drive, and their packages in Debian: ``python -m tests.apps.programs`` installs them.

A program that is missing is a failure here. Tests that can do without one belong in ``tests/integration``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

PACKAGES = {
    "chromium": "chromium",
    "haproxy": "haproxy",
}
"""Program -> its package. Add a row for each further program, and ask for its path with ``program``."""


def program(name: str) -> str:
    """Return the path of a program in the table; the test fails where it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.fail(f"{name} is not installed: run make test-apps, which installs {PACKAGES[name]}")
    return path


def main() -> int:
    """Install what is missing."""
    if os.geteuid() != 0:
        print("make test-apps needs root: it installs programs, and starts some as other users", file=sys.stderr)
        return 1
    missing = sorted({package for name, package in PACKAGES.items() if shutil.which(name) is None})
    if not missing:
        return 0
    print(f"installing {' '.join(missing)}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    for command in (["apt-get", "update", "-qq"], install):
        done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
