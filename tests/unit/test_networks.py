"""What is derived from a bundle's model: named in its manifest, packed with it, part of its identity. No framework."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec
import pytest

from nsfwd.bundles.bundle_store import Bundle, open_bundle, verify_file
from nsfwd.bundles.manifest import INT8_FOLDER, NETWORK_FOLDER, Quantized
from nsfwd.engines import hardware, openvino_export, openvino_ir
from nsfwd.errors import BundleError
from nsfwd.model_tools import quantize
from nsfwd.model_tools.derived_networks import add_network, add_to_manifest, has_network
from nsfwd.model_tools.pack import import_packed, pack
from tests.unit.shelf import make_bundle

QUANTIZED = Quantized(by="nncf 3", images=30, tolerance=0.1, drift=0.3, mean_change=0.007)


def add(bundle: Bundle, folder: str, content: bytes = b"network", quantized: Quantized | None = None) -> Bundle:
    (bundle.directory / folder).mkdir(exist_ok=True)
    files = dict.fromkeys((openvino_ir.NETWORK, openvino_ir.WEIGHTS), hashlib.sha256(content).hexdigest())
    for name in files:
        (bundle.directory / folder / name).write_bytes(content)
    record = openvino_ir.Record(source=bundle.manifest.weights_digest, version="1", files=files)
    (bundle.directory / folder / openvino_ir.RECORD).write_bytes(msgspec.json.encode(record))
    add_to_manifest(bundle.directory, msgspec.structs.replace(bundle.manifest, quantized=quantized), folder)
    return open_bundle(bundle.directory)


def test_its_files_are_named_with_digests(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    assert not has_network(bundle)
    entered = add(bundle, NETWORK_FOLDER)
    assert has_network(entered)
    assert entered.manifest.files.items() > bundle.manifest.files.items()
    for path in entered.manifest.files:
        verify_file(entered, path)
    (bundle.directory / NETWORK_FOLDER / openvino_ir.WEIGHTS).write_bytes(b"altered")
    with pytest.raises(BundleError, match="altered"):
        verify_file(entered, f"{NETWORK_FOLDER}/{openvino_ir.WEIGHTS}")


def test_the_identity_at_full_precision_does_not_change(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    entered = add(add(bundle, NETWORK_FOLDER), INT8_FOLDER, quantized=QUANTIZED)
    assert entered.model_identity == bundle.model_identity


def test_other_weights_of_8_bits_are_another_model(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    with pytest.raises(BundleError, match="nsfwd models quantize tiny --calibrate DIR"):
        open_bundle(bundle.directory, precision="int8")
    identities = set()
    for content in (b"one", b"two"):
        add(bundle, INT8_FOLDER, content, QUANTIZED)
        opened = open_bundle(bundle.directory, precision="int8")
        identities.add(opened.model_identity)
        assert (opened.drift, opened.tolerance) == (0.3, 0.1)
    assert len(identities) == 2


def test_a_packed_bundle_brings_it(tmp_path: Path) -> None:
    bundle = add(make_bundle(tmp_path / "here"), NETWORK_FOLDER)
    pack(bundle, tmp_path / "packed")
    there = import_packed(tmp_path / "packed", tmp_path / "there")
    assert there.manifest == bundle.manifest
    assert (there.directory / NETWORK_FOLDER / openvino_ir.WEIGHTS).read_bytes() == b"network"


def test_it_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    def export(bundle: Bundle, place: Path) -> None:
        made.append(place)
        place.mkdir()
        for name in (openvino_ir.NETWORK, openvino_ir.WEIGHTS, openvino_ir.RECORD):
            (place / name).write_bytes(b"network")

    monkeypatch.setattr(openvino_ir, "export_elsewhere", export)
    monkeypatch.setattr(hardware, "installed", lambda package: True)
    bundle = make_bundle(tmp_path)
    said: list[str] = []
    bundle = add_network(add_network(bundle, said.append), said.append)
    assert made == [bundle.directory / NETWORK_FOLDER]
    assert has_network(bundle)
    assert len(said) == 1


def test_without_tensorflow_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "installed", lambda package: package != "tensorflow")
    said: list[str] = []
    assert not has_network(add_network(make_bundle(tmp_path), said.append))
    assert "nsfwd models export" in said[0]


def test_what_a_killed_quantisation_left_is_cleared_away(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    (bundle.directory / ".quantize-left" / INT8_FOLDER).mkdir(parents=True)
    with quantize._draft(bundle) as draft:
        assert list(bundle.directory.glob(".quantize-*")) == [draft]
    assert not list(bundle.directory.glob(".*"))


def test_what_a_killed_export_left_is_cleared_away(tmp_path: Path) -> None:
    old, young = tmp_path / ".export-old", tmp_path / ".export-young"
    old.mkdir()
    young.mkdir()
    os.utime(old, (0, 0))
    openvino_export._clear(tmp_path)
    assert list(tmp_path.iterdir()) == [young]


def test_the_manifests_digest_counts_beside_the_records(tmp_path: Path) -> None:
    bundle = add(make_bundle(tmp_path), NETWORK_FOLDER)
    place = bundle.directory / NETWORK_FOLDER
    record = {"source": bundle.manifest.weights_digest, "version": "1", "files": {}}
    for content in (b"network", b"another"):
        files = {
            openvino_ir.NETWORK: hashlib.sha256(content).hexdigest(),
            openvino_ir.WEIGHTS: hashlib.sha256(content).hexdigest(),
        }
        (place / openvino_ir.RECORD).write_bytes(msgspec.json.encode({**record, "files": files}))
        for name in files:
            (place / name).write_bytes(content)
        if content == b"network":
            openvino_ir.check(bundle, place)
    with pytest.raises(BundleError, match="was altered"):
        openvino_ir.check(bundle, place)


def test_folders_that_cannot_calibrate(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "models")
    with pytest.raises(BundleError, match="gone: No such file or directory"):
        quantize._decode_all(tmp_path / "gone", bundle, 10)
    (tmp_path / "notes.txt").write_text("no picture")
    os.mkfifo(tmp_path / "pipe")  # nobody writes into it: it must not be opened
    with pytest.raises(BundleError, match=r"0 pictures can be read of .* files; 20 are needed"):
        quantize._decode_all(tmp_path, bundle, 10)
