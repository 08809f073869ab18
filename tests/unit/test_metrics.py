"""Every metric has help, a kind that fits its name, and shows up in the snapshot."""

from __future__ import annotations

from nsfwd.metrics import METRICS, Metrics


def test_every_metric_is_explained_and_named_after_its_kind() -> None:
    for metric in METRICS:
        assert metric.help
        assert (metric.kind == "counter") == metric.name.endswith("_total"), metric.name


def test_the_snapshot_has_every_metric() -> None:
    metrics = Metrics()
    metrics.requests_total += 2
    snapshot = metrics.snapshot()
    assert list(snapshot) == [metric.name for metric in METRICS]
    assert snapshot["requests_total"] == 2
