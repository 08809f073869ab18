"""Fixtures of the integration tests: one echo daemon a module, and a folder of pictures it may scan."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import pictures
from tests.integration.harness import Daemon, free_port


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The only directory below which the module's daemon may scan; holds one sound photo, ``photo.jpg``."""
    directory = tmp_path_factory.mktemp("gallery")
    (directory / "photo.jpg").write_bytes(pictures.encoded(pictures.photo(1), "JPEG"))
    return directory


@pytest.fixture(scope="module")
def oneshot_port() -> int:
    """Where the module's daemon listens in the ``oneshot`` style."""
    return free_port()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, gallery: Path, oneshot_port: int) -> Iterator[Daemon]:
    """A daemon with the echo engine that may scan below ``gallery`` only."""
    directory = tmp_path_factory.mktemp("daemon")
    with Daemon(directory, root=gallery, listen=[f"tcp:127.0.0.1:{oneshot_port},style=oneshot"]) as running:
        yield running
