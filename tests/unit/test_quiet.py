"""Holding back what native code writes: whatever fails, the streams are as before and nothing stays open."""

from __future__ import annotations

import os

import pytest

from nsfwd.engines import framework_logging
from tests.descriptors import all_closed


@pytest.mark.parametrize("first", [True, False])
def test_a_stream_that_cannot_be_copied_leaves_nothing_behind(first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, before = os.dup, [os.fstat(stream) for stream in (1, 2)]

    def scarce(descriptor: int) -> int:
        if first or descriptor == 2:
            raise OSError(24, "Too many open files")
        return copy(descriptor)

    monkeypatch.setattr(os, "dup", scarce)
    with all_closed(), pytest.raises(OSError, match="Too many"), framework_logging.muted():
        pass
    assert [(found.st_dev, found.st_ino) for found in (os.fstat(1), os.fstat(2))] == [
        (found.st_dev, found.st_ino) for found in before
    ]
