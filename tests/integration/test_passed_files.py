"""Files passed over the Unix socket as open descriptors, to a real daemon."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from nsfwd.client import Client
from nsfwd.errors import NsfwdError
from tests import pictures
from tests.integration.harness import Daemon


def test_a_file_outside_the_roots_is_scored_when_it_is_passed(daemon: Daemon, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden.png"
    hidden.write_bytes(pictures.encoded(pictures.photo(1), "PNG"))
    with Client(f"unix:{daemon.unix}") as client, hidden.open("rb") as file:
        assert client.scan(hidden).code == "forbidden"
        file.seek(100)
        by_descriptor = client.scan_fd(file.fileno(), "what it is called")
        assert by_descriptor.path == "what it is called"
        assert by_descriptor.scores == client.scan_bytes(hidden.read_bytes()).scores
        assert file.tell() == 100


def test_only_regular_files_open_for_reading_are_taken(daemon: Daemon, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").touch()
    expected = {
        os.open(tmp_path, os.O_RDONLY): "bad_path",
        os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK): "fifo",
        os.open("/dev/zero", os.O_RDONLY): "device",
        os.open(tmp_path / "empty", os.O_WRONLY): "permission",
        os.open(tmp_path / "empty", os.O_PATH): "permission",
        os.open(tmp_path / "empty", os.O_RDONLY): "empty",
    }
    with Client(f"unix:{daemon.unix}") as client:
        for descriptor, code in expected.items():
            assert client.scan_fd(descriptor).code == code
            os.close(descriptor)


def test_one_file_passed_many_times_is_read_from_its_start_each_time(daemon: Daemon, tmp_path: Path) -> None:
    picture = tmp_path / "a.tif"
    picture.write_bytes(pictures.encoded(pictures.photo(2), "TIFF"))
    with Client(f"unix:{daemon.unix}") as client, picture.open("rb") as file:
        scores = [client.scan_fd(file.fileno()).scores for _ in range(5)]
    assert scores[0]
    assert all(each == scores[0] for each in scores)


def test_descriptors_do_not_pass_over_tcp(daemon: Daemon) -> None:
    with Client(f"tcp:127.0.0.1:{daemon.port}") as client, pytest.raises(NsfwdError, match="Unix socket"):
        client.scan_fd(0)


def test_sockets_and_pipes_never_reach_a_decoder(daemon: Daemon) -> None:
    one, other = socket.socketpair()
    out, into = os.pipe()
    event = os.eventfd(0)
    with Client(f"unix:{daemon.unix}") as client, one, other:
        before = client.stats()["decoders"]["decoded"]
        codes = [client.scan_fd(descriptor).code for descriptor in (one.fileno(), out, event)]
        assert codes == ["socket", "fifo", "bad_path"]
        assert client.stats()["decoders"]["decoded"] == before
    for descriptor in (out, into, event):
        os.close(descriptor)
