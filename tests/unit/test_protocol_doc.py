from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from nsfwd import config
from nsfwd.errors import CODES
from nsfwd.metrics import METRICS
from nsfwd.pipeline.pipeline import Pipeline
from nsfwd.protocol import clamd, limits, text, wire
from nsfwd.protocol.messages import Style
from nsfwd.quantities import KIB, format_size
from tests.unit.conversation import fenced, play
from tests.unit.shelf import make_bundle

DOCUMENT = (Path(__file__).parents[2] / "protocol.md").read_text()


def table(first: str) -> list[list[str]]:
    """The rows of the table whose head begins with ``first``, back-quotes of the first column taken off."""
    lines = DOCUMENT.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first}"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        rows.append([cells[0].strip("`"), *cells[1:]])
    return rows


def quantity(value: float) -> str:
    if value >= 64 * KIB and value % KIB == 0:
        return format_size(int(value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_code_table_is_the_programs() -> None:
    expected = [
        [row.name, str(row.status), str(row.fault), "yes" if row.retry else "no", row.meaning, row.remedy]
        for row in CODES.values()
    ]
    assert table("code | status") == expected


def test_every_code_in_the_text_exists() -> None:
    prose = DOCUMENT[DOCUMENT.index("## Failures") : DOCUMENT.index("## Codes")]
    assert {"busy", "too_deep", "bad_path"} <= set(re.findall(r"`([a-z_0-9]+)`", prose)) & CODES.keys()
    first_table = prose[: prose.index("A JSON line in error")]
    named = set(re.findall(r"`([a-z_0-9]+)`", first_table))
    assert named - {"http"} <= CODES.keys()


def test_clamds_commands_are_the_programs() -> None:
    assert {row[0]: row[1] for row in table("command | reply")} == clamd.COMMANDS


def test_limits_are_the_programs() -> None:
    units = {"KIB", "MIB", "PROTOCOL", "DEFAULT_PORT"}
    constants = {name.lower(): getattr(limits, name) for name in vars(limits) if name.isupper() and name not in units}
    assert {row[0]: row[1] for row in table("limit | value")} == {
        name: quantity(value) for name, value in constants.items()
    }


def test_defaults_are_those_of_the_settings() -> None:
    for name, value, _ in table("limit | default"):
        row = config.TABLE[name]
        assert value == (quantity(row.default) if row.unit == config.BYTES else f"{row.default:.0f}"), name


def test_request_keys_are_the_programs() -> None:
    unbuilt = " (not built: `unsupported`)"
    assert table("key | type") == [
        [name, key.kind, key.meaning + ("" if key.check else unbuilt)] for name, key in wire.KEYS.items()
    ]


def test_operations_and_words_are_the_programs() -> None:
    assert table("operation | tells") == [[name, meaning] for name, meaning in wire.OPERATIONS.items()]
    assert [row[0] for row in table("operation | reply")] == list(wire.OPERATIONS)
    assert table("word") == [[word, meaning] for word, meaning in text.COMMANDS.items()]


def test_counters_are_the_programs() -> None:
    assert table("key of `server`") == [[row.name, row.kind, row.help] for row in METRICS]


def test_keys_of_stats_are_the_programs(tmp_path: Path) -> None:
    named = {key for row in table("key | meaning") for key in re.findall(r"[a-z_]+", row[0])}

    async def pipeline_stats() -> set[str]:
        return set(Pipeline(config.Settings(), [make_bundle(tmp_path)]).status.stats())

    assert named == asyncio.run(pipeline_stats()) | {"server", "peers"}


TRANSCRIPTS = list(fenced(DOCUMENT, "transcript"))


def test_there_are_transcripts_of_every_style() -> None:
    assert {block[0] for block in TRANSCRIPTS} == {f"-- style {style}" for style in Style}


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=lambda block: block[1][:40])
def test_transcripts_come_true(transcript: list[str]) -> None:
    play(transcript)


def test_links_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in DOCUMENT.splitlines()
        if line.startswith("#")
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", DOCUMENT)) <= headings
