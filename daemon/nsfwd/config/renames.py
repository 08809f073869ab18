"""Renamed settings: for one minor version the old name is accepted as well, with a warning."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version


@dataclass(frozen=True, slots=True)
class Rename:
    """The new name of a setting.

    Attributes:
        new: the present name.
        ends: the first version that no longer accepts the old name, as ``0.3``.
    """

    new: str
    ends: str

    @property
    def over(self) -> bool:
        """Whether this version is that one, or a later one."""
        return _minor(version("nsfwd")) >= _minor(self.ends)


RENAMED: dict[str, Rename] = {}
"""Old name -> its rename. None so far. An entry stays when it is over, as a better hint."""


def _minor(text: str) -> tuple[int, int]:
    major, minor, *_ = text.split(".")
    return int(major), int(minor)
