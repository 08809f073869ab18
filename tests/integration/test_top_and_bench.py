"""The live view and the measurement, against a real daemon."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsfwd.cli.bench import percentile
from tests import pictures
from tests.integration.harness import Daemon


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Path]]:
    photos = tmp_path_factory.mktemp("photos")
    (photos / "one.jpg").write_bytes(pictures.encoded(pictures.photo(1), "JPEG"))
    with Daemon(tmp_path_factory.mktemp("daemon")) as daemon:
        yield daemon, photos


def nsfwd(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nsfwd.cli.main", *arguments, "--connect", f"unix:{daemon.unix}"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("loop", [["--concurrency", "4"], ["--rate", "20"]], ids=["closed", "open"])
def test_a_bench_reports_rate_and_percentiles(site: tuple[Daemon, Path], loop: list[str]) -> None:
    done = nsfwd(site[0], "bench", str(site[1]), "--seconds", "0.5", "--format", "json", *loop)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["requests"] == report["outcomes"]["ok"] > 0
    assert 0 < report["latency"]["p50"] <= report["latency"]["p99.9"]


def test_failures_are_no_measurement(site: tuple[Daemon, Path], tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"no picture\n" * 9)
    done = nsfwd(site[0], "bench", str(tmp_path / "text"), "--seconds", "0.2")
    assert done.returncode == 1
    assert "not_an_image" in done.stdout


def test_top_shows_what_happens(site: tuple[Daemon, Path]) -> None:
    done = nsfwd(site[0], "top", "--interval", "0.2", "--count", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("images/s") == 2
    assert "engine              echo on cpu" in done.stdout
    assert "\x1b" not in done.stdout


def test_percentiles() -> None:
    times = [number / 100 for number in range(100)]
    assert percentile(times, 50) == 0.5
    assert percentile(times, 99.9) == 0.99
    assert percentile([], 50) == 0.0
