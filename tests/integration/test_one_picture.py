"""The same picture gives the same scores, whatever its encoding: with the default bundle and a real engine."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from PIL import Image

from tests import pictures
from tests.integration.harness import MODELS, Daemon, ndjson, raw_connect

BUNDLE = "nsfw-mobilenet-v2-140"
EXACT = 1e-5
"""The pixels are the same; a batch of another size may sum in another order."""
CLOSE = 0.01
"""How far the scores of a lossy encoding of quality 95 may be off; 0.003 was measured."""
DRAFT = 0.02
"""How far a large JPEG, decoded at no less than twice the network's size, may be off from the same decoded whole."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("daemon")
    with Daemon(directory, engine="openvino", model=BUNDLE, models_dir=MODELS) as running:
        yield running


def scores(daemon: Daemon, files: dict[str, bytes]) -> dict[str, dict[str, float]]:
    requests = [b'{"id": "%s", "bytes": %d}\n' % (name.encode(), len(body)) + body for name, body in files.items()]
    with raw_connect(daemon.unix) as connection:
        found = {reply["id"]: reply for reply in ndjson(connection, requests)}
    assert {name: reply["status"] for name, reply in found.items()} == dict.fromkeys(files, "ok")
    return {name: reply["scores"]["nsfw"] for name, reply in found.items()}


def test_one_picture_has_one_score(daemon: Daemon) -> None:
    exact, close = pictures.one_picture()
    same = scores(daemon, exact)
    for name, found in same.items():
        assert found == pytest.approx(same["plain.png"], abs=EXACT), name
    for name, found in scores(daemon, close).items():
        assert found == pytest.approx(same["plain.png"], abs=CLOSE), name


def test_draft_decoding_hardly_changes_a_score(daemon: Daemon) -> None:
    files: dict[str, bytes] = {}
    for seed in range(3):
        jpeg = pictures.encoded(pictures.photo(seed, (1600, 1200)), "JPEG", quality=90)
        with Image.open(io.BytesIO(jpeg)) as whole:
            files |= {
                f"{seed}.jpg": jpeg,
                f"{seed}.png": pictures.encoded(whole.convert("RGB"), "PNG", compress_level=1),
            }
    found = scores(daemon, files)
    for seed in range(3):
        assert found[f"{seed}.jpg"] == pytest.approx(found[f"{seed}.png"], abs=DRAFT), seed
