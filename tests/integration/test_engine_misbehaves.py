"""A daemon whose engine misbehaves for some pictures: those get an error and never a verdict; the others are scored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nsfwd.engines.echo import MARK, VARIABLE
from tests import pictures
from tests.integration.harness import Daemon, Json, ndjson, raw_connect

EXPECTED = {
    "nan": "bad_scores",
    "inf": "bad_scores",
    "zeros": "bad_scores",
    "raise": "engine_failed",
    "die": "engine_died",
}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> list[Json]:
    """Requests for eight sound pictures and one marked one in their middle."""
    directory = tmp_path_factory.mktemp("mixed")
    for number in range(9):
        picture = pictures.solid(MARK) if number == 4 else pictures.photo(number)
        (directory / f"{number}.png").write_bytes(pictures.encoded(picture))
    return [{"id": number, "path": str(directory / f"{number}.png")} for number in range(9)]


@pytest.mark.parametrize("misbehaviour", EXPECTED)
def test_only_the_marked_picture_is_in_error(misbehaviour: str, mixed: list[Json], tmp_path: Path) -> None:
    with Daemon(tmp_path, environment={VARIABLE: misbehaviour}) as daemon, raw_connect(daemon.unix) as connection:
        found = {reply["id"]: reply for reply in ndjson(connection, mixed)}
    bad = found.pop(4)
    assert bad["status"] == "error"
    assert bad["error"]["code"] == EXPECTED[misbehaviour]
    assert not {"scores", "groups", "verdict", "label", "score"} & bad.keys()
    assert {reply["status"] for reply in found.values()} == {"ok"}, json.dumps(found, indent=1)
    assert sorted(found) == [0, 1, 2, 3, 5, 6, 7, 8]
