"""Metrics: what Prometheus reads is what stats tells; the documents, dashboard and alerts know every name."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from nsfwd.budgets import SCRAPES
from nsfwd.config import Settings
from nsfwd.errors import CODES, Status
from nsfwd.metrics import Metrics
from nsfwd.pipeline.pipeline import Pipeline
from nsfwd.server.context import ServerContext
from nsfwd.server.listen_spec import by_name, parse_address
from nsfwd.server.listeners import close_all, open_listeners
from nsfwd.server.prometheus import PREFIX, ROWS, Stats
from nsfwd.server.scraping import MetricsServer, is_allowed
from tests.unit import manual
from tests.unit.shelf import make_bundle

DOCS = Path(__file__).parents[2] / "docs"

STATS: dict[str, Any] = {
    "uptime": 3.5,
    "rate": 12.0,
    "in_flight": 2,
    "admitted": 9,
    "refused": {"busy": 1, "draining": 0},
    "images": {"ok": 5, "error": 1, "skipped": 0, "refused": 1},
    "codes": {"corrupt": 1},
    "seconds": {"queue": 0.1, "decode": 0.2, "wait": 0.0, "infer": 0.3, "total": 0.7},
    "reloads": 1,
    "queues": {"decode": {"interactive": 1}, "score": {"interactive": 0}},
    "slots": {"total": 8, "free": 6},
    "overrides": {"known": 3, "applied": 2, "failures": 0, "trouble": ""},
    "cache": {"results": 2, "identities": 3, "identity_hits": 4, "digest_hits": 5, "misses": 6, "coalesced": 7},
    "decoders": {"processes": [1, 2], "restarts": 3, "abandoned": 0, "poisoned": 1, "decoded": 7},
    "lister": {"processes": [3], "restarts": 0, "abandoned": 0},
    "engine": {
        "processes": [4],
        "restarts": 1,
        "name": "echo",
        "device": "cpu",
        "precision": None,
        "batches": 3,
        "images": 6,
        "rechecked": 2,
        "padded": 1,
        "sizes": {"2": 3},
        "seconds": 0.3,
        "cost": None,
    },
}
STATS["engines"] = [STATS["engine"]]


class FakePipeline:
    @property
    def status(self) -> FakePipeline:
        return self

    def readiness(self) -> dict[str, Any]:
        return {"ready": True}

    def stats(self) -> dict[str, Any]:
        return STATS


def answer(head: bytes) -> tuple[bytes, bytes]:
    found: list[bytes] = []

    async def scenario(loop: manual.ManualLoop) -> None:
        service = ServerContext(loop, Settings(), FakePipeline())  # type: ignore[arg-type]
        service.metrics.requests_total = 4
        found.append(MetricsServer([], service).answer(head))

    manual.run(scenario)
    first, _, body = found[0].partition(b"\r\n\r\n")
    return first, body


def test_a_scrape_has_every_row_and_the_numbers_of_stats() -> None:
    head, body = answer(b"GET /metrics HTTP/1.1\r\nHost: localhost:9235\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(body.decode()))
    rows = [(PREFIX + row.name.removesuffix("_total"), row.kind) for row in ROWS]
    assert [(family.name, family.type) for family in families] == rows
    values = {(sample.name, *sample.labels.values()): sample.value for f in families for sample in f.samples}
    assert values[("nsfwd_ready",)] == 1
    assert values[("nsfwd_images_total", "ok")] == 5
    assert values[("nsfwd_slots", "held")] == 2
    assert values[("nsfwd_processes", "decoder")] == 2
    assert values[("nsfwd_queue_images", "interactive", "decode")] == 1
    assert values[("nsfwd_requests_total",)] == 4
    for row in ROWS:
        assert (row.kind == "counter") == row.name.endswith("_total"), row.name


FOLLOW_FROM_OTHERS = frozenset({("slots", "total"), ("engine", "rechecked_share")})


def numbers(stats: Any, *place: str) -> dict[tuple[str, ...], float]:
    """Give each number of ``stats`` a value of its own; return where it is told -> the value."""
    found: dict[tuple[str, ...], float] = {}
    for key, value in stats.items():
        if isinstance(value, dict):
            found |= numbers(value, *place, key)
        elif isinstance(value, int | float) and not isinstance(value, bool) and (*place, key) not in FOLLOW_FROM_OTHERS:
            found[*place, key] = stats[key] = next(VALUES)
    return found


VALUES = itertools.count(1000)


def test_every_number_of_stats_is_a_metric(tmp_path: Path) -> None:
    """Of the true ones, of a daemon with a cache that has scored batches of two sizes."""

    async def real() -> Stats:
        pipeline = Pipeline(Settings(cache="on", cache_dir=str(tmp_path)), [make_bundle(tmp_path)])
        pipeline.status.counters.codes["corrupt"] = 1
        pipeline.serving.generation.models[0].scoring.sizes[2] = 1
        for size in (1, 2):
            pipeline.serving.generation.models[0].scoring.cost.add(size, 0.1 * size)
        return pipeline.status.stats()

    stats = {**asyncio.run(real()), "models": {}, "ready": True, "peers": {}, "server": Metrics().snapshot()}
    given = numbers(stats)
    told = {value for row in ROWS for _, value in row.read(stats)}
    assert len(given) > 50
    assert [place for place, value in given.items() if value not in told] == []


def test_without_a_cache_it_has_no_samples() -> None:
    told = {row.name: list(row.read({**STATS, "cache": None})) for row in ROWS if row.name.startswith("cache_")}
    assert len(told) == 4
    assert not any(told.values())


@pytest.mark.parametrize(
    ("head", "status"),
    [(b"POST /metrics HTTP/1.1", b"405"), (b"GET / HTTP/1.1", b"404"), (b"\x16\x03\x01", b"405"), (b"", b"405")],
)
def test_anything_else_is_turned_down(head: bytes, status: bytes) -> None:
    assert answer(head + b"\r\n\r\n")[0].split()[1] == status


def test_a_head_request_gets_the_head() -> None:
    assert answer(b"HEAD /metrics?x=1 HTTP/1.1\r\n\r\n")[1] == b""


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True), ("LOCALHOST:9235", True), ("127.0.0.1", True), ("127.0.0.1:9235", True),
        ("[::1]:9235", True), ("[::1]", True), ("10.1.2.3:80", True), (os.uname().nodename, True),
        ("monitor.example.org:9235", True),
        ("evil.example.org", False), ("evil.example.org:9235", False), ("localhost.evil.example.org", False),
        ("127.0.0.1.evil.example.org:80", False), ("", False), ("127.0.0.1@evil.example.org", False), ("x", False),
        ("evil.example.org:127.0.0.1", False), ("monitor.example.org.evil", False),
    ],
)  # fmt: skip
def test_a_name_that_may_be_anybodys_is_not_answered(host: str, allowed: bool) -> None:
    assert is_allowed(host, ["monitor.example.org"]) is allowed
    assert is_allowed(host, ["*"])
    status = answer(b"GET /metrics HTTP/1.1\r\nAccept: */*\r\nhOsT:  " + host.encode() + b" \r\n\r\n")[0].split()[1]
    assert status == (b"200" if allowed and "monitor" not in host else b"421")


def test_two_names_are_none() -> None:
    head = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: evil.example.org\r\n\r\n"
    assert answer(head)[0].split()[1] == b"421"


def test_idle_scrapers_keep_nobody_out(tmp_path: Path) -> None:
    async def scenario() -> None:
        service = ServerContext(asyncio.get_running_loop(), Settings(), FakePipeline())  # type: ignore[arg-type]
        listeners = open_listeners([f"unix:{tmp_path}/a"], [], "", roots=False, metrics=[f"unix:{tmp_path}/m"])
        server = MetricsServer([one for one in listeners if one.spec.metrics], service)
        await server.start()
        path = f"{tmp_path}/m"
        try:
            half_open = [await asyncio.open_unix_connection(path) for _ in range(2 * SCRAPES)]
            half_open[-1][1].write(b"GET /metrics")
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: any.name\r\n\r\n")
            assert (await asyncio.wait_for(reader.read(), 3)).startswith(b"HTTP/1.1 200 OK")
            scrapes = service.budgets.stats()["scrapes"]
            assert (scrapes["limit"], scrapes["used"]) == (SCRAPES, SCRAPES - 1)
            assert scrapes["refused"] == SCRAPES + 1
            first = half_open[0][0]
            assert await asyncio.wait_for(first.read(), 3) == b""  # the oldest was closed
            for _, other in (*half_open, (reader, writer)):
                other.close()
        finally:
            server.stop()
            close_all(listeners)

    asyncio.run(scenario())


def test_the_documents_list_every_metric() -> None:
    text = (DOCS / "operations.md").read_text("utf-8")
    rows = re.findall(r"^\| `nsfwd_(\w+)` \| (\w+) \| ([^|]*) \| ([^|]*) \|$", text, re.MULTILINE)
    expected = [(row.name, row.kind, " ".join(f"`{label}`" for label in row.labels), row.help) for row in ROWS]
    assert [(name, kind, labels.strip(), text) for name, kind, labels, text in rows] == expected


ASKED = {"grafana.json": DOCS, "alerts.yml": DOCS, "alerts_test.yml": DOCS.parent / "tests" / "integration"}
GIVEN_BY_PROMETHEUS = {"instance", "job"}


@pytest.mark.parametrize("file", ASKED)
def test_dashboard_and_alerts_ask_for_metrics_that_exist(file: str) -> None:
    text = (ASKED[file] / file).read_text("utf-8")
    if file.endswith(".json"):
        assert len(json.loads(text)["panels"]) >= 8
    names = set(re.findall(r"\bnsfwd_\w+", text))
    assert len(names) >= 5
    assert names <= {PREFIX + row.name for row in ROWS}


def test_budgets_are_on_the_dashboard_and_have_an_alert() -> None:
    shown = (DOCS / "grafana.json").read_text("utf-8")
    assert [row.name for row in ROWS if row.name.startswith("budget_") and PREFIX + row.name not in shown] == []
    assert "nsfwd_budget_refused_total" in (DOCS / "alerts.yml").read_text("utf-8")


@pytest.mark.parametrize("file", ASKED)
def test_and_for_labels_that_these_have(file: str) -> None:
    text = (ASKED[file] / file).read_text("utf-8").replace('\\"', '"')
    labels = {PREFIX + row.name: {*row.labels, *GIVEN_BY_PROMETHEUS} for row in ROWS}
    asked = re.findall(r"\b(nsfwd_\w+)\{([^}]*)\}", text)
    values = {"code": CODES.keys(), "status": {status.value for status in Status}}
    assert asked
    for name, selector in asked:
        matchers = re.findall(r'(\w+)=~?"([^"]*)"', selector)
        assert {label for label, _ in matchers} <= labels[name], selector
        assert all(value in values.get(label, {value}) for label, value in matchers), selector
    grouped = {label for group in re.findall(r"\bby \(([^)]*)\)", text) for label in group.split(", ")}
    assert {*grouped, *re.findall(r"\$labels\.(\w+)", text)} <= set().union(*labels.values())


def test_what_alerts_count_is_there_before_it_happens() -> None:
    """The first sample of a counter is no increase, so that the first failure would go unnoticed."""
    fresh = {**STATS, "codes": {}, "peers": {}, "server": Metrics().snapshot()}
    text = (DOCS / "alerts.yml").read_text("utf-8")
    rows = {PREFIX + row.name: row for row in ROWS}
    counted = set(re.findall(r'\b(nsfwd_\w+_total)(?:\{\w+="(\w+)"\})?\[', text))
    assert ("nsfwd_codes_total", "bad_scores") in counted
    for name, value in counted:
        there = {labels[0] if labels else "" for labels, _ in rows[name].read(fresh)}
        assert value in there if value else there, name


def test_an_inherited_socket_named_metrics_is_no_place_for_requests(tmp_path: Path) -> None:
    address = parse_address("tcp:127.0.0.1:9235")
    assert by_name("metrics", address).metrics
    assert not by_name("nsfwd", address).metrics
    listeners = open_listeners([f"unix:{tmp_path}/a"], [], "", roots=False, metrics=[f"unix:{tmp_path}/m"])
    try:
        assert [listener.spec.metrics for listener in listeners] == [False, True]
        assert str(listeners[1]).endswith("(metrics)")
        assert all(listener.sock.family == socket.AF_UNIX for listener in listeners)
    finally:
        close_all(listeners)
