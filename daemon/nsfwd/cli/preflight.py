"""Look before anything is installed: can this machine run nsfwd, and which one command fixes what is missing?

Run by path with the system's own Python (``python3 daemon/nsfwd/cli/preflight.py``), so it knows nothing but the
standard library, imports no other module of the package, and avoids syntax that an older Python could not even parse.
It changes nothing on the machine.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

OLDEST = (3, 11)
NEWEST = (3, 13)
"""First and last Python that TensorFlow has wheels for, and ``python_requires`` allows."""

GB = 10**9

DISK_FRESH = int(4.2 * GB)
"""Free bytes wanted before a first install. Source: ``du`` after ``make setup``: 3.2 GB of packages, 0.04 GB of bundle,
and 0.9 GB of downloads in cache or temporary files until then."""

DISK_AGAIN = 1 * GB
"""Free bytes wanted where the virtual environment is there already: an upgrade holds one large package twice."""

INSTALL = {
    "apt-get": ("apt-get install -y", "python3.11 python3.11-venv"),
    "dnf": ("dnf install -y", "python3.12"),
    "zypper": ("zypper install -y", "python312"),
    "pacman": ("pacman -S --noconfirm", "python"),
}
"""Package manager -> how it installs, and the packages that bring an interpreter nsfwd can use."""


class Problem:
    """One thing that is missing, and the command that fixes it.

    Args:
        what: one sentence.
        command: the one command that fixes it.
        fatal: set-up cannot go on without it.
    """

    def __init__(self, what: str, command: str, *, fatal: bool = True) -> None:
        self.what = what
        self.command = command
        self.fatal = fatal

    def __str__(self) -> str:
        """Two lines for a person."""
        return f"preflight: {self.what}\n    {self.command}"


def package_manager() -> str:
    """The one this distribution has; ``apt-get`` where none is known."""
    return next((name for name in INSTALL if shutil.which(name)), "apt-get")


def install_command(packages: str) -> str:
    """The command by which this distribution installs ``packages``."""
    command = f"{INSTALL[package_manager()][0]} {packages}"
    if os.geteuid() == 0:
        return command
    return f"sudo {command}" if shutil.which("sudo") else f"su -c '{command}'"


def check_interpreter(version: tuple[int, int]) -> Problem | None:
    """Python must be one for which every dependency has wheels."""
    if OLDEST <= version <= NEWEST:
        return None
    allowed = f"{OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}"
    found = f"{version[0]}.{version[1]}"
    return Problem(f"Python {allowed} is needed and {found} was found", install_command(INSTALL[package_manager()][1]))


def check_venv(version: tuple[int, int], has_module: Callable[[str], bool]) -> Problem | None:
    """Debian splits ``venv`` and ``ensurepip`` off into a package of their own."""
    missing = [name for name in ("venv", "ensurepip") if not has_module(name)]
    if not missing:
        return None
    package = f"python{version[0]}.{version[1]}-venv" if package_manager() == "apt-get" else "python3-pip"
    return Problem(f"this Python has no {' and no '.join(missing)}", install_command(package))


def check_processor(machine: str, cpuinfo: str) -> Problem | None:
    """An x86 processor must have AVX2: without it TensorFlow ends with an illegal instruction, or crawls."""
    flags = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "")
    if machine not in ("x86_64", "AMD64") or "avx2" in flags.split():
        return None
    return Problem(
        "the processor has no AVX2 (on a virtual machine: it is not passed through)",
        'virt-xml "$(hostname)" --edit --cpu host-passthrough    # on the host, then restart the machine',
    )


def check_disk(free: int, venv_exists: bool) -> Problem | None:
    """TensorFlow, OpenVINO and the bundles are large."""
    wanted = DISK_AGAIN if venv_exists else DISK_FRESH
    if free >= wanted:
        return None
    return Problem(
        f"{wanted / GB:.1f} GB of free disk are needed and {free / GB:.1f} GB are left here",
        "make setup VENV=/path/on/a/larger/disk/nsfwd-venv",
    )


def check_npm(works: bool) -> Problem | None:
    """Weights come from the npm registry; a virtual environment can bring its own npm, so this is never fatal."""
    if works:
        return None
    return Problem(
        "no working npm: the virtual environment gets one from PyPI (60 MB more; nothing to do). To use your own:",
        install_command("npm"),
        fatal=False,
    )


def check_gpu(*, device: bool, driver: bool, libraries: bool, venv: Path) -> Problem | None:
    """Without driver or CUDA's libraries an NVIDIA GPU lies idle and the CPU does the work; never fatal."""
    if not device or (driver and libraries):
        return None
    if not driver:
        command = install_command("nvidia-driver") + "    # or as your distribution names it; then restart"
        return Problem("an NVIDIA GPU is here but no driver library (libcuda.so.1) is", command, fatal=False)
    return Problem(
        "an NVIDIA GPU is here; TensorFlow sees it only with CUDA's libraries. After make setup:",
        f"{venv}/bin/python -P -m pip install -c requirements.lock -e '.[gpu]'",
        fatal=False,
    )


def loads(library: str) -> bool:
    """True when a shared library is there and can be loaded."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def npm_works() -> bool:
    """True when an ``npm`` on the path answers at all; a broken one counts as none."""
    try:
        return subprocess.run(["npm", "--version"], capture_output=True, timeout=30, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def problems(venv: Path) -> list[Problem]:
    """All that is wrong on this machine, in the order in which to fix it."""
    version = (sys.version_info[0], sys.version_info[1])
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        cpuinfo = ""
    parent = next(path for path in (venv.absolute(), *venv.absolute().parents) if path.exists())
    found = [
        check_interpreter(version),
        check_venv(version, lambda name: importlib.util.find_spec(name) is not None),
        check_processor(platform.machine(), cpuinfo),
        check_disk(shutil.disk_usage(parent).free, (venv / "bin" / "python").exists()),
        check_npm(npm_works()),
        check_gpu(
            device=any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists(),
            driver=loads("libcuda.so.1"),
            libraries=any(venv.glob("lib/python*/site-packages/nvidia/cudnn")),
            venv=venv,
        ),
    ]
    return [problem for problem in found if problem is not None]


def main(arguments: list[str] | None = None) -> int:
    """Print each problem with its command on stderr; the exit status says whether set-up can go on."""
    parser = argparse.ArgumentParser(description="Check that this machine can run nsfwd.")
    parser.add_argument("--venv", type=Path, default=Path(".venv"), help="where the virtual environment will be")
    found = problems(parser.parse_args(arguments).venv)
    for problem in found:
        print(problem, file=sys.stderr)
    return 1 if any(problem.fatal for problem in found) else 0


if __name__ == "__main__":
    sys.exit(main())
