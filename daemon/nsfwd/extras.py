"""The command that installs an extra of this package into the present environment.

The package is in no index, so ``pip install 'nsfwd[...]'`` finds nothing: the command names the requirements instead.
"""

from __future__ import annotations

import shlex
import sys
from importlib import metadata


def install_command(extra: str = "") -> str:
    """Return the command for a person to type.

    Args:
        extra: an extra of ``setup.cfg``; without it, the base requirements.
    """
    return shlex.join([sys.executable, "-P", "-m", "pip", "install", *requirements(extra)])


def requirements(extra: str = "") -> list[str]:
    """Return the requirements of an extra from the metadata of the installed package."""
    stated = (text.partition(";") for text in metadata.requires("nsfwd") or ())
    wanted = f'extra == "{extra}"' if extra else ""
    return [name.strip() for name, _, marker in stated if marker.replace("'", '"').strip() == wanted]
