"""The decoder's work without its process: notes, slots, results, descriptors, identity."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nsfwd.bundles.manifest import Recipe
from nsfwd.errors import CODES
from nsfwd.imaging import decoder as module
from nsfwd.imaging.decoder import Decoder
from nsfwd.ipc import child_messages
from nsfwd.ipc.arena import Arena
from nsfwd.pipeline.decode.decode_job import identity_of
from tests import pictures
from tests.descriptors import all_closed

SLOT = 16 * 16 * 3
LIMITS = child_messages.ImageLimits(max_bytes=1 << 20, max_pixels=1_000_000, min_side=8, max_frames=9, memory=1 << 30)


told: list[child_messages.Wire] = []


@pytest.fixture
def arena() -> Iterator[Arena]:
    told.clear()
    arena = Arena.create(4, SLOT, 2)
    yield arena
    arena.close()


def make(arena: Arena, **keys: Any) -> Decoder:
    recipe = msgspec.to_builtins(Recipe(width=16, height=16))
    values: dict[str, Any] = {"worker": 1, "slot_bytes": SLOT, "recipes": [recipe], "roots": (b"/",), "limits": LIMITS}
    return Decoder(child_messages.DecoderSetup(**{**values, **keys}), arena, told.append)


def job(
    path: Path | bytes = b"", *, slot: int = 0, descriptor: bool = False, identity: bool = False
) -> child_messages.Job:
    return child_messages.Job(7, slot, 3, os.fsencode(path), descriptor, identity)


def results(
    decoder: Decoder, jobs: list[child_messages.Job], descriptors: Sequence[int] = ()
) -> list[child_messages.Decoded]:
    """Do a group as the server gets it."""
    groups = [child_messages.encode(group) for group in decoder.groups(jobs, list(descriptors))]
    return [
        result for group in groups for result in msgspec.msgpack.decode(group, type=child_messages.DecodedGroup).results
    ]


def test_pixels_lie_in_the_jobs_slot_and_no_other(arena: Arena, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(pictures.encoded(pictures.solid((1, 2, 3)), "PNG"))
    result = make(arena).do(job(tmp_path / "a.png", slot=2), None)
    assert (result.number, result.slot, result.lease_id, result.code) == (7, 2, 3, "")
    assert (result.width, result.height, result.format, result.identity) == (64, 64, "png", None)
    assert result.seconds > 0
    assert bytes(arena.slot(2)) == bytes((1, 2, 3)) * 256
    assert not any(any(arena.slot(index)) for index in (0, 1, 3))
    assert arena.note(1) is None


def test_the_job_is_noted_before_its_file_is_opened(
    arena: Arena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[int] = []

    def opened(*_: object) -> int:
        note = arena.note(1)
        assert note is not None
        noted.append(note[0])
        raise MemoryError

    monkeypatch.setattr("nsfwd.imaging.safe_open.open_image", opened)
    assert [result.code for result in results(make(arena), [job(tmp_path)])] == ["decoder_memory"]
    assert noted == [7]
    assert arena.note(1) is None


def test_refusals_are_codes_of_the_table(arena: Arena, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    (tmp_path / "empty").touch()
    (tmp_path / "bomb").write_bytes(pictures.bomb())
    (tmp_path / "large").write_bytes(b"x" * ((1 << 20) + 1))
    (tmp_path / "half").write_bytes(pictures.truncated())
    os.mkfifo(tmp_path / "fifo")
    expected = {
        "text": "not_an_image",
        "empty": "empty",
        "bomb": "too_many_pixels",
        "large": "too_large",
        "half": "corrupt",
        "fifo": "fifo",
        "missing": "not_found",
        ".": "is_directory",
    }
    decoder = make(arena)
    results = {name: decoder.do(job(tmp_path / name), None) for name in expected}
    assert {name: result.code for name, result in results.items()} == expected
    assert {result.code for result in results.values()} - {"is_directory"} <= set(CODES)
    assert (results["bomb"].width, results["bomb"].format) == (50_000, "png")
    assert decoder.do(job(b"/etc/passwd"), None).code == "not_an_image"
    assert make(arena, roots=(os.fsencode(tmp_path),)).do(job(b"/etc/passwd"), None).code == "forbidden"


def test_a_defect_is_one_result_and_no_words_about_files(
    arena: Arena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> int:
        raise ZeroDivisionError(os.fsdecode(tmp_path))

    monkeypatch.setattr("nsfwd.imaging.safe_open.open_image", broken)
    result = make(arena).do(job(tmp_path), None)
    assert (result.code, result.message) == ("internal", "a defect in the decoder: ZeroDivisionError")
    said = capfd.readouterr().err
    assert "ZeroDivisionError" in said
    assert str(tmp_path) not in said


def memfd(content: bytes) -> int:
    fd = os.memfd_create("test")
    os.write(fd, content)
    return fd


def test_descriptors_go_to_their_jobs_in_order_and_are_closed(arena: Arena, tmp_path: Path) -> None:
    colours = ((10, 0, 0), (0, 20, 0))
    (tmp_path / "a.png").write_bytes(pictures.encoded(pictures.solid((0, 0, 30)), "PNG"))
    jobs = [job(slot=0, descriptor=True), job(tmp_path / "a.png", slot=1), job(slot=2, descriptor=True)]
    with all_closed():
        descriptors = [memfd(pictures.encoded(pictures.solid(colour), "PNG")) for colour in colours]
        surplus = memfd(b"surplus")
        codes = [result.code for result in results(make(arena), jobs, [*descriptors, surplus])]
    assert codes == ["", "", ""]
    assert [bytes(arena.slot(index)[:3]) for index in range(3)] == [b"\x0a\0\0", b"\0\0\x1e", b"\0\x14\0"]


def test_descriptors_of_other_things_are_refused(arena: Arena, tmp_path: Path) -> None:
    decoder = make(arena)
    reader, writer = os.pipe()
    os.close(writer)
    assert decoder.do(job(descriptor=True), reader).code == "fifo"
    assert decoder.do(job(descriptor=True), os.open("/dev/zero", os.O_RDONLY)).code == "device"
    assert decoder.do(job(descriptor=True), os.open(tmp_path, os.O_RDONLY)).code == "bad_path"
    assert decoder.do(job(descriptor=True), os.open(tmp_path / "w", os.O_WRONLY | os.O_CREAT)).code == "permission"
    assert decoder.do(job(descriptor=True), None).code == "unreadable"
    assert decoder.do(job(descriptor=True), memfd(b"")).code == "empty"


@pytest.mark.parametrize("descriptor", [False, True])
def test_identity_is_of_the_very_file_also_when_it_is_refused(arena: Arena, tmp_path: Path, descriptor: bool) -> None:
    path = tmp_path / "a"
    for content in (pictures.encoded(pictures.photo(1), "JPEG"), b"not a picture"):
        path.write_bytes(content)
        fd = os.open(path, os.O_RDONLY) if descriptor else None
        result = make(arena).do(job(path, identity=True, descriptor=descriptor), fd)
        found = path.stat()
        digest = hashlib.sha256(content).hexdigest()
        expected = (found.st_dev, found.st_ino, len(content), found.st_mtime_ns, found.st_ctime_ns, digest)
        assert result.identity is not None
        assert astuple(identity_of(result.identity)) == expected


@pytest.mark.parametrize(
    "nanoseconds", [0, -1, -(2**63), 2**63 - 1, 2**63, 2**64 - 1, 2**64, 99999999999999 * 10**9 + 5, -(2**62) * 10**9]
)
def test_a_time_of_any_size_arrives_exactly(
    arena: Arena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nanoseconds: int
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(pictures.encoded(pictures.photo(1), "PNG"))
    stamp = child_messages.stamp_of(2**64 - 1, 2**64 - 1, 2**63 - 1, nanoseconds, -nanoseconds)
    monkeypatch.setattr(module, "_stamp", lambda _: stamp)
    asked = msgspec.structs.replace(job(path), probe=child_messages.STAT, stamp=stamp)
    asked = msgspec.msgpack.decode(
        child_messages.encode(child_messages.Decode([asked])), type=child_messages.Decode
    ).jobs[0]
    (result,) = results(make(arena), [asked])
    assert result.stamp is not None
    found = identity_of((*result.stamp, "ab"))
    assert (found.dev, found.ino, found.mtime_ns, found.ctime_ns) == (2**64 - 1, 2**64 - 1, nanoseconds, -nanoseconds)


def test_a_result_that_cannot_be_encoded_is_the_fault_of_its_job(
    arena: Arena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[object] = []

    def encode(message: Any) -> bytes:
        if isinstance(message, child_messages.Decoded):
            noted.append(arena.note(1))
        return msgspec.msgpack.encode(message)

    monkeypatch.setattr(child_messages, "encode", encode)
    monkeypatch.setattr(module, "_stamp", lambda _: (1, 2**70, 3, (4, 0), (5, 0)))
    path = tmp_path / "a.png"
    path.write_bytes(pictures.encoded(pictures.photo(1), "PNG"))
    jobs = [msgspec.structs.replace(job(path), probe=child_messages.STAT), job(path)]
    assert [result.code for result in results(make(arena), jobs)] == ["internal", ""]
    assert len(noted) == 3
    assert None not in noted, "whatever ends the decoder now is blamed on the job"
    assert arena.note(1) is None


def test_a_file_that_changes_while_it_is_read_is_unreadable(
    arena: Arena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(pictures.encoded(pictures.photo(1), "PNG"))
    stamps = iter([(1, 1, 1, 1, 1), (1, 1, 1, 1, 1), (1, 1, 1, 2, 1)])
    monkeypatch.setattr(module, "_stamp", lambda _: next(stamps))
    assert make(arena).do(job(path, identity=True), None).code == "unreadable"


def test_results_wait_for_company_only_as_long_as_agreed(
    arena: Arena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [job(tmp_path / "missing") for _ in range(20)]
    monkeypatch.setattr(module, "REPORT_SECONDS", 60.0)
    assert [len(group.results) for group in make(arena).groups(jobs, [])] == [20]
    monkeypatch.setattr(module, "REPORT_SECONDS", 0.0)
    assert [len(group.results) for group in make(arena).groups(jobs, [])] == [1] * 20


def test_a_recipe_that_cannot_be_carried_out_ends_the_decoder_at_once(arena: Arena) -> None:
    recipe = msgspec.to_builtins(Recipe(width=16, height=16, filter="lanczos", antialias=False))
    with pytest.raises(ValueError, match="lanczos"):
        make(arena, recipes=[recipe])
