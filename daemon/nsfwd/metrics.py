"""Counters and gauges of the server's sockets: plain integers, incremented where something happens, read by ``stats``.

One dataclass is both the storage and the table of names and help. No lock, because the server process counts in one
thread only; the pipeline keeps its own numbers. This module knows no room of the house and never asks the time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any


def _counter(text: str) -> int:
    return _metric("counter", text)  # type: ignore[no-any-return]


def _gauge(text: str) -> int:
    return _metric("gauge", text)  # type: ignore[no-any-return]


def _metric(kind: str, text: str) -> Any:
    return field(default=0, metadata={"kind": kind, "help": text})


@dataclass(slots=True)
class Metrics:
    """All counters and gauges of the sockets. A counter only grows; a gauge is the present value."""

    connections: int = _gauge("open connections")
    connections_total: int = _counter("accepted connections")
    connections_refused_total: int = _counter("connections closed at once because of max_connections")
    connections_denied_total: int = _counter("connections closed at once because of the limit in their row of peers")
    connections_stalled_total: int = _counter("connections closed because the peer read nothing for write_stall")
    connections_idle_total: int = _counter("connections closed after idle_timeout")
    connections_lost_total: int = _counter("connections that ended with requests in flight")
    http_total: int = _counter("connections closed because the peer spoke HTTP")
    requests_total: int = _counter("valid scan requests")
    operations_total: int = _counter("answered operations")
    rejected_total: int = _counter("lines answered with an error because they are not a valid request")
    bodies_total: int = _counter("images received as bytes")
    body_bytes: int = _gauge("bytes of received images, kept until they are answered")
    bodies_refused_total: int = _counter("images received as bytes and refused because body_memory was in use")
    bytes_in_total: int = _counter("bytes received from clients")
    bytes_out_total: int = _counter("bytes sent to clients")

    def snapshot(self) -> dict[str, int]:
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
