"""Settings that were renamed: for one minor version the old name is taken as well, with a warning."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version


@dataclass(frozen=True, slots=True)
class Rename:
    """What became of a name.

    Attributes:
        new: the setting's name now.
        ends: the first version that no longer takes the old name, as ``0.3``.
    """

    new: str
    ends: str

    @property
    def over(self) -> bool:
        """Whether this version is that one, or a later one."""
        return _minor(version("nsfwd")) >= _minor(self.ends)


RENAMED: dict[str, Rename] = {}
"""Old name -> what became of it. None so far. An entry stays when it is over, as a better hint."""


def _minor(text: str) -> tuple[int, int]:
    major, minor, *_ = text.split(".")
    return int(major), int(minor)
