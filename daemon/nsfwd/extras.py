"""The command that installs an extra of this package into the environment that runs it.

The package is in no index, so ``pip install 'nsfwd[...]'`` finds nothing: what the extra requires is named instead.
"""

from __future__ import annotations

import shlex
import sys
from importlib import metadata


def install_command(extra: str = "") -> str:
    """Return the command that a person types.

    Args:
        extra: an extra of ``setup.cfg``; without it, what the package always requires.
    """
    return shlex.join([sys.executable, "-P", "-m", "pip", "install", *requirements(extra)])


def requirements(extra: str = "") -> list[str]:
    """Return what an extra requires, as the installed package says it."""
    stated = (text.partition(";") for text in metadata.requires("nsfwd") or ())
    wanted = f'extra == "{extra}"' if extra else ""
    return [name.strip() for name, _, marker in stated if marker.replace("'", '"').strip() == wanted]
