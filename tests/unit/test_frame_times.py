"""Which frames are looked at where a file says how long each is shown."""

from __future__ import annotations

import io
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsfwd.bundles.manifest import FrameSampling, Recipe
from nsfwd.imaging import frame_times, frames
from nsfwd.imaging.preprocess import WantedView, decode
from nsfwd.ipc.child_messages import ImageLimits
from tests import pictures

SIZE = (48, 32)
LIMITS = ImageLimits(max_bytes=1 << 24, max_pixels=1_000_000, min_side=8, max_frames=500, memory=1 << 30)
FORMATS: dict[str, dict[str, Any]] = {
    "GIF": {},
    "PNG": {},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 60, "speed": 10},
}
"""Format -> how a film is saved as it; all name times."""


def film(form: str, milliseconds: list[int]) -> bytes:
    first, *rest = (pictures.solid((at % 200, 40, 255 - at % 200), SIZE) for at in range(len(milliseconds)))
    options: dict[str, Any] = {"save_all": True, "append_images": rest, "duration": milliseconds, **FORMATS[form]}
    return pictures.encoded(first, form, **options)


def seen(content: bytes, sample: int) -> list[int]:
    """The numbers of the frames that are looked at."""
    recipe = Recipe(width=48, height=32, draft=0, frames=FrameSampling(sample=sample))
    found = [decode(io.BytesIO(content), recipe, LIMITS)]
    while found[-1].next:
        found.append(decode(io.BytesIO(content), recipe, LIMITS, wanted=WantedView(found[-1].next)))
    return [one.frame for one in found]


def times_of(form: str, content: bytes, count: int) -> list[int] | None:
    source = io.BytesIO(content)
    return frames._walk_gif(source, count)[0] if form == "GIF" else frame_times.read(form.lower(), source, count)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("long", [3, 19, 38])
def test_a_frame_shown_for_a_minute_is_looked_at(form: str, long: int) -> None:
    times = [100] * 40
    times[long] = 60_000
    assert long in seen(film(form, times), 8)
    assert long not in frames.spread(40, 8)


@pytest.mark.parametrize("form", FORMATS)
def test_frames_shown_for_long_do_not_hide_the_others(form: str) -> None:
    times = [20] * 40
    times[5] = times[30] = 30_000
    times[12] = 500
    chosen = seen(film(form, times), 8)
    assert {0, 5, 12, 30} <= set(chosen)
    assert len(chosen) == 8


@pytest.mark.parametrize("form", FORMATS)
def test_the_times_are_those_of_the_file(form: str) -> None:
    times = [100, 200, 50, 1000, 100]
    found = times_of(form, film(form, times), 5)
    assert found == [100_000, 200_000, 50_000, 1_000_000, 100_000]


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_a_time_of_nothing_is_a_tenth_of_a_second_as_in_browsers(form: str) -> None:
    times = [0, 10, 20, 0, 10]
    found = times_of(form, film(form, times), 5)
    assert found == [100_000, 100_000, 20_000, 100_000, 100_000]


@given(count=st.integers(1, 400), most=st.integers(1, 60), time=st.sampled_from([100_000, 33_333, 1_000_000]))
def test_frames_shown_equally_long_are_taken_evenly(count: int, most: int, time: int) -> None:
    assert frames.by_time([time] * count, most) == frames.spread(count, most)


@given(times=st.lists(st.integers(11_000, 4_000_000_000), min_size=1, max_size=300), most=st.integers(2, 40))
def test_as_many_as_wanted_and_none_that_is_shown_long_is_missed(times: list[int], most: int) -> None:
    chosen = frames.by_time(times, most)
    assert list(chosen) == sorted(set(chosen))
    assert len(chosen) == min(len(times), most)
    assert 0 in chosen
    assert len(times) - 1 in chosen
    spacing = sum(times) / (most - 1)
    assert all(at in chosen for at, time in enumerate(times) if time > spacing)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "AVIF"])
def test_a_structure_that_cannot_be_followed_leaves_the_choice_to_the_numbers(form: str) -> None:
    content = film(form, [100] * 12)
    whole = frame_times.read(form.lower(), io.BytesIO(content), 12)
    assert whole is not None
    assert frame_times.read(form.lower(), io.BytesIO(content), 13) is None
    for cut in range(0, len(content), 7):
        source = io.BytesIO(content[:cut])
        source.seek(min(cut, 3))
        found = frame_times.read(form.lower(), source, 12)
        assert found is None or found == whole
        assert source.tell() == min(cut, 3)


def test_a_picture_in_front_of_an_animation_is_a_frame_of_its_own() -> None:
    first, *rest = (pictures.solid((at * 9, 0, 0), SIZE) for at in range(6))
    content = pictures.encoded(
        first, "PNG", save_all=True, append_images=rest, duration=[100, 100, 5000, 100, 100], default_image=True
    )
    assert frame_times.read("png", io.BytesIO(content), 6) == [100_000, 100_000, 100_000, 5_000_000, 100_000, 100_000]


def test_a_table_of_times_that_repeats_for_ever_is_read_as_far_as_there_are_frames() -> None:
    content = bytearray(film("AVIF", [100] * 6))
    at = content.index(b"stts") + 12
    struct.pack_into(">II", content, at, 0xFFFFFFFF, 10)
    assert frame_times.read("avif", io.BytesIO(bytes(content)), 6) is not None
