"""The arena: slots that do not overlap, notes that survive their writer, a size nobody can change."""

from __future__ import annotations

import os
import time

import pytest

from nsfwd.ipc.arena import MAX_WORKERS, NOTES_BYTES, PAGE, Arena


def test_slots_are_page_aligned_and_do_not_overlap() -> None:
    arena = Arena.create(3, PAGE + 1, 1)
    assert (arena.slots, arena.stride, arena.bytes) == (3, 2 * PAGE, NOTES_BYTES + 6 * PAGE)
    for index in range(3):
        arena.slot(index)[:] = bytes([index + 1]) * arena.slot_bytes
    assert [set(arena.slot(index)) for index in range(3)] == [{1}, {2}, {3}]
    arena.close()


def test_a_child_sees_what_another_wrote() -> None:
    server = Arena.create(2, 100, 2)
    child = Arena.attach(os.dup(server.fd), 100)
    child.slot(1)[:5] = b"pixel"
    assert bytes(server.slot(1)[:5]) == b"pixel"
    child.close()
    server.close()


def test_notes_name_the_job_and_its_beginning() -> None:
    arena = Arena.create(1, 1, 3)
    assert arena.note(1) is None
    before = time.monotonic()
    arena.write_note(1, 0)
    note = arena.note(1)
    assert note is not None
    assert note[0] == 0
    assert before <= note[1] <= time.monotonic()
    assert arena.note(0) is arena.note(2) is None
    arena.write_note(1, 2**60)
    assert (arena.note(1) or (0,))[0] == 2**60
    arena.clear_note(1)
    assert arena.note(1) is None
    arena.close()


def test_the_size_is_sealed() -> None:
    arena = Arena.create(1, 1, 1)
    for size in (0, arena.bytes + PAGE):
        with pytest.raises(PermissionError):
            os.ftruncate(arena.fd, size)
    arena.close()


@pytest.mark.parametrize(("slots", "slot_bytes", "workers"), [(0, 1, 1), (1, 0, 1), (1, 1, MAX_WORKERS + 1)])
def test_impossible_arenas_are_refused(slots: int, slot_bytes: int, workers: int) -> None:
    with pytest.raises(ValueError, match="no arena"):
        Arena.create(slots, slot_bytes, workers)


def test_there_is_no_slot_outside() -> None:
    arena = Arena.create(2, 10, 0)
    for index in (-1, 2):
        with pytest.raises(IndexError):
            arena.slot(index)
    arena.close()


def test_closing_twice_is_harmless_and_closes_the_descriptor() -> None:
    arena = Arena.create(1, 1, 1)
    fd = arena.fd
    arena.close()
    arena.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
