"""The daemon's numbers for Prometheus: the table of metrics, and the collector that fills it.

Nothing is counted here: at a scrape the collector reads what ``stats`` reports and gives it Prometheus's names.
``scraping`` serves them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from nsfwd.errors import CODES, Fault
from nsfwd.metrics import METRICS
from nsfwd.server.context import ServerContext
from nsfwd.server.operations import VERSION, numbers

PREFIX = "nsfwd_"

Stats = dict[str, Any]
Samples = Iterable[tuple[tuple[str, ...], float]]


@dataclass(frozen=True, slots=True)
class Row:
    """One metric: how it is called and where in ``stats`` its samples are (label values, value)."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str
    read: Callable[[Stats], Samples]


def _one(*keys: str) -> Callable[[Stats], Samples]:
    """A single number at this place."""

    def read(stats: Stats) -> Samples:
        value: Any = stats
        for key in keys:
            value = value[key]
        return [((), float(value))]

    return read


def _each(*keys: str) -> Callable[[Stats], Samples]:
    """A number for every key of the mapping at this place; nothing where there is none yet."""

    def read(stats: Stats) -> Samples:
        value: Any = stats
        for key in keys:
            value = value[key]
        return [((name,), float(number)) for name, number in (value or {}).items()]

    return read


def _codes(stats: Stats) -> Samples:
    """Those that are the daemon's fault stand there from the start: to an alert, an increase from nothing is none."""
    ours = {code.name: 0 for code in CODES.values() if code.fault is Fault.DAEMON}
    return [((name,), float(number)) for name, number in (ours | stats["codes"]).items()]


def _queues(stats: Stats) -> Samples:
    return [((stage, lane), count) for stage, lanes in stats["queues"].items() for lane, count in lanes.items()]


def _slots(stats: Stats) -> Samples:
    slots = stats["slots"]
    return [(("free",), slots["free"]), (("held",), slots["total"] - slots["free"])]


def _children(read: Callable[[Stats], float]) -> Callable[[Stats], Samples]:
    return lambda stats: [
        (("decoder",), read(stats["decoders"])),
        (("lister",), read(stats["lister"])),
        (("engine",), sum(map(read, stats["engines"]))),
    ]


def _abandoned(stats: Stats) -> Samples:
    return [((name,), stats[key]["abandoned"]) for name, key in (("decoder", "decoders"), ("lister", "lister"))]


def _hits(stats: Stats) -> Samples:
    cache = stats["cache"]
    places = {"identity": "identity_hits", "digest": "digest_hits", "coalesced": "coalesced"}
    return [((by,), cache[key]) for by, key in places.items()] if cache else []


def _cached(key: str) -> Callable[[Stats], Samples]:
    """A number of the cache; nothing where it is off."""
    return lambda stats: [((), stats["cache"][key])] if stats["cache"] else []


def _engine(stats: Stats) -> Samples:
    kinds = {tuple(engine[key] or "" for key in ("name", "device", "precision")) for engine in stats["engines"]}
    return [((VERSION, *kind), 1.0) for kind in sorted(kinds)]


def _engines(key: str) -> Callable[[Stats], Samples]:
    """A number of all engines together."""
    return lambda stats: [((), float(sum(engine[key] for engine in stats["engines"])))]


def _engines_each(key: str) -> Callable[[Stats], Samples]:
    """The numbers of a mapping that every engine has, summed; nothing where there is none yet."""

    def read(stats: Stats) -> Samples:
        total: Counter[str] = Counter()
        for engine in stats["engines"]:
            total.update(engine[key] or {})
        return [((name,), float(number)) for name, number in total.items()]

    return read


def _peers(key: str) -> Callable[[Stats], Samples]:
    return lambda stats: [((name,), float(row[key])) for name, row in stats["peers"].items()]


def _budgets(key: str) -> Callable[[Stats], Samples]:
    return lambda stats: [((name,), float(row[key])) for name, row in stats["budgets"].items()]


def _models(stats: Stats) -> Samples:
    return [((name, *identity), 1.0) for name, identity in stats["models"].items()]


ROWS: tuple[Row, ...] = (
    Row("ready", "gauge", (), "1 if ready", _one("ready")),
    Row("engine_info", "gauge", ("version", "engine", "device", "precision"), "engine in use; always 1", _engine),
    Row("model_info", "gauge", ("model", "identity", "policy"), "model in use; always 1", _models),
    Row("uptime_seconds", "gauge", (), "seconds since the start", _one("uptime")),
    Row("rate", "gauge", (), "images answered per second, recent average", _one("rate")),
    Row("in_flight", "gauge", (), "images admitted and not yet answered", _one("in_flight")),
    Row("admitted_total", "counter", (), "admitted images", _one("admitted")),
    Row("refused_total", "counter", ("code",), "refused images", _each("refused")),
    Row("images_total", "counter", ("status",), "answered images by status", _each("images")),
    Row("codes_total", "counter", ("code",), "images answered without scores, by code", _codes),
    Row("stage_seconds_total", "counter", ("stage",), "seconds of all images by stage", _each("seconds")),
    Row("queue_images", "gauge", ("stage", "lane"), "waiting images", _queues),
    Row("slots", "gauge", ("state",), "pixel slots", _slots),
    Row("processes", "gauge", ("kind",), "child processes running", _children(lambda child: len(child["processes"]))),
    Row("restarts_total", "counter", ("kind",), "replaced child processes", _children(lambda child: child["restarts"])),
    Row("abandoned_processes", "gauge", ("kind",), "killed processes that the kernel still holds", _abandoned),
    Row("poisoned_files", "gauge", (), "files known to crash decoders", _one("decoders", "poisoned")),
    Row("decoded_total", "counter", (), "files that decoders have finished", _one("decoders", "decoded")),
    Row("batches_total", "counter", (), "scored batches", _engines("batches")),
    Row("batched_images_total", "counter", (), "images in scored batches", _engines("images")),
    Row("padded_images_total", "counter", (), "padding slots in batches", _engines("padded")),
    Row("batches_by_size_total", "counter", ("size",), "batches by number of images", _engines_each("sizes")),
    Row("rechecked_total", "counter", (), "images scored again in full precision", _engines("rechecked")),
    Row("engine_seconds_total", "counter", (), "seconds the engine spent on batches", _engines("seconds")),
    Row("batch_cost_seconds", "gauge", ("part",), "cost of a batch: fixed + each * size", _engines_each("cost")),
    Row("cache_hits_total", "counter", ("by",), "images answered from the cache", _hits),
    Row("cache_misses_total", "counter", (), "images not found in the cache", _cached("misses")),
    Row("cache_results", "gauge", (), "results in the cache", _cached("results")),
    Row("cache_identities", "gauge", (), "files in the cache by identity", _cached("identities")),
    Row("overrides", "gauge", (), "overrides in force", _one("overrides", "known")),
    Row("overridden_total", "counter", (), "images with the verdict of an override", _one("overrides", "applied")),
    Row("overrides_failures_total", "counter", (), "failed reads of the overrides", _one("overrides", "failures")),
    Row("reloads_total", "counter", (), "completed reloads", _one("reloads")),
    Row("peer_connections", "gauge", ("peers",), "open connections by row of peers", _peers("connections")),
    Row("peer_in_flight", "gauge", ("peers",), "images in flight by row of peers", _peers("in_flight")),
    Row("peer_requests_total", "counter", ("peers",), "valid requests by row of peers", _peers("requests")),
    Row("peer_limited_total", "counter", ("peers",), "requests refused because of the rate", _peers("limited")),
    Row("peer_denied_total", "counter", ("peers",), "connections closed at once", _peers("denied")),
    Row("budget_limit", "gauge", ("resource",), "limit of a budget that peers share", _budgets("limit")),
    Row("budget_used", "gauge", ("resource",), "used part of a budget", _budgets("used")),
    Row("budget_reserve", "gauge", ("resource",), "reserve for admins beyond a budget's limit", _budgets("reserve")),
    Row("budget_largest", "gauge", ("resource",), "largest part of a budget used by one peer", _budgets("largest")),
    Row(
        "budget_refused_total", "counter", ("resource",), "refusals because the budget was used up", _budgets("refused")
    ),
    *(Row(metric.name, metric.kind, (), metric.help, _one("server", metric.name)) for metric in METRICS),
)
"""Every metric, without its prefix. ``docs/operations.md`` lists the same; a test compares them."""


class Collector:
    """Reads the numbers of a service at each scrape."""

    def __init__(self, service: ServerContext) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """Yield every family of the table."""
        service = self._service
        stats = {
            **numbers(service),
            "ready": service.pipeline.status.readiness()["ready"],
            "models": {bundle.name: (bundle.model_identity, bundle.policy_identity) for bundle in service.bundles},
        }
        for row in ROWS:
            kind = CounterMetricFamily if row.kind == "counter" else GaugeMetricFamily
            family = kind(PREFIX + row.name.removesuffix("_total"), row.help, labels=row.labels)
            for labels, value in row.read(stats):
                family.add_metric(labels, value)
            yield family
