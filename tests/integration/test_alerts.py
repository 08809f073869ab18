"""Metrics and alerts, by Prometheus's own tool: both are sound, and rules fire when they should and not before."""

from __future__ import annotations

import re
from pathlib import Path

from tests.integration.harness import REPOSITORY, Daemon, needs, raw_connect, read_all, run_client

RULES = REPOSITORY / "docs" / "alerts.yml"
TRIALS = Path(__file__).with_name("alerts_test.yml")


def test_the_rules_are_sound() -> None:
    rules = len(re.findall(r"- alert:", RULES.read_text("utf-8")))
    assert f"{rules} rules found".encode() in run_client([needs("promtool"), "check", "rules", str(RULES)])


def test_each_fires_when_it_should_and_not_before() -> None:
    run_client([needs("promtool"), "test", "rules", str(TRIALS)])


def test_each_is_tried() -> None:
    rules = re.findall(r"- alert: (\w+)", RULES.read_text("utf-8"))
    trials = TRIALS.read_text("utf-8")
    tried = set(re.findall(r"alertname: (\w+)", trials))
    assert tried == set(rules)
    assert len(re.findall("exp_alerts:", trials)) >= len(rules)


def test_what_a_daemon_tells_is_as_prometheus_wants_it(tmp_path: Path) -> None:
    promtool, place = needs("promtool"), tmp_path / "metrics"
    with Daemon(tmp_path, flags=["--metrics", f"unix:{place}"]), raw_connect(place) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        body = read_all(connection).partition(b"\r\n\r\n")[2]
    assert body.count(b"\n# TYPE nsfwd_") > 40
    assert run_client([promtool, "check", "metrics"], body) == b""
