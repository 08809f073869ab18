"""The daemon's counters: plain integers, raised where something happens and read by ``stats``.

One dataclass is at once the storage and the table of names and help. No lock, because the server process counts in one
thread only. This module knows no room of the house and never asks the time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any


def _counter(text: str) -> int:
    return _metric("counter", text, 0)  # type: ignore[no-any-return]


def _gauge(text: str) -> int:
    return _metric("gauge", text, 0)  # type: ignore[no-any-return]


def _seconds(text: str) -> float:
    return _metric("counter", text, 0.0)  # type: ignore[no-any-return]


def _metric(kind: str, text: str, start: float) -> Any:
    return field(default=start, metadata={"kind": kind, "help": text})


@dataclass(slots=True)
class Metrics:
    """Everything that is counted. A counter only grows; a gauge is what is so now."""

    connections: int = _gauge("connections open now")
    connections_total: int = _counter("connections accepted")
    connections_refused_total: int = _counter("connections closed at once because of max_connections")
    connections_stalled_total: int = _counter("connections closed because the peer read nothing for write_stall")
    connections_idle_total: int = _counter("connections closed after idle_timeout")
    connections_lost_total: int = _counter("connections that ended with requests in flight")
    http_total: int = _counter("connections closed because the peer spoke HTTP")
    requests_total: int = _counter("scan requests understood")
    operations_total: int = _counter("operations answered")
    rejected_total: int = _counter("lines answered with an error because they are no valid request")
    bodies_total: int = _counter("images received as bytes")
    bytes_in_total: int = _counter("bytes received from clients")
    bytes_out_total: int = _counter("bytes sent to clients")
    images_ok_total: int = _counter("images scored")
    images_skipped_total: int = _counter("images over a limit or of no allowed format")
    images_error_total: int = _counter("images that ended in an error")
    images_refused_total: int = _counter("images refused because the queue was full or the daemon stops")
    images_alarm_total: int = _counter("images whose verdict is an alarm")
    decoder_deaths_total: int = _counter("decoder processes that ended unasked")
    decoder_kills_total: int = _counter("decoder processes killed at decode_timeout")
    engine_deaths_total: int = _counter("engine processes that ended unasked")
    batches_total: int = _counter("batches scored")
    batch_images_total: int = _counter("images in those batches")
    decode_seconds_total: float = _seconds("seconds spent decoding, over all decoders")
    infer_seconds_total: float = _seconds("seconds the engine spent scoring")

    def snapshot(self) -> dict[str, int | float]:
        """Return every value by name, in the table's order."""
        return {metric.name: getattr(self, metric.name) for metric in METRICS}


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table of metrics: ``kind`` is ``counter`` or ``gauge``."""

    name: str
    kind: str
    help: str


METRICS: tuple[Metric, ...] = tuple(
    Metric(row.name, row.metadata["kind"], row.metadata["help"]) for row in fields(Metrics)
)
