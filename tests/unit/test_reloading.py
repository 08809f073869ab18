"""Which changes a reload takes, and what the accounts say of batches."""

from __future__ import annotations

import pytest

from nsfwd.config import Settings
from nsfwd.errors import SettingsError
from nsfwd.pipeline.accounts import CostCurve
from nsfwd.server.reloading import refuse_fixed


def test_a_setting_that_only_a_restart_changes_is_refused_by_name() -> None:
    refuse_fixed(Settings(queue=5), Settings(queue=6, roots=("/srv",)))
    with pytest.raises(SettingsError, match="listen: a reload cannot change this"):
        refuse_fixed(Settings(), Settings(listen=("tcp:127.0.0.1:1",)))


def test_the_cost_of_batches_is_a_line() -> None:
    curve = CostCurve()
    assert curve.fit() is None
    for size in (1, 1, 8):
        curve.add(size, 0.01 + 0.002 * size)
    assert curve.fit() == pytest.approx((0.01, 0.002))


def test_one_size_is_no_line() -> None:
    curve = CostCurve()
    for _ in range(1000):
        curve.add(3, 0.1)
    assert curve.fit() is None
