"""Images that stay open between their views: the same pixels for less work, within a budget, only while unchanged."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from PIL import Image

from nsfwd.bundles.manifest import FrameSampling, Recipe
from nsfwd.imaging import open_image_cache
from nsfwd.imaging.decoder import Decoder
from nsfwd.imaging.open_image_cache import OpenImageCache
from nsfwd.imaging.preprocess import OpenImage, WantedView, decode
from nsfwd.ipc import child_messages
from nsfwd.ipc.arena import Arena
from tests import pictures
from tests.descriptors import all_closed

SIDE = 16
LIMITS = child_messages.ImageLimits(1 << 24, 1_000_000, 8, 500, 1 << 30)
RECIPE = Recipe(width=SIDE, height=SIDE, background="both", frames=FrameSampling(sample=500))


def animation(form: str, frames: int, size: tuple[int, int] = (64, 48)) -> bytes:
    """Frames that differ, some of them with transparent parts."""
    shots: list[Image.Image] = []
    for number in range(frames):
        shot = pictures.photo(number, size).convert("RGBA")
        if number % 3:
            shot.paste((0, 0, 0, 0), (0, 0, 8 + number % 20, 20))
        shots.append(shot)
    first, *rest = shots
    options: dict[str, Any] = {"save_all": True, "append_images": rest, "duration": 40}
    return pictures.encoded(first, form, **options)


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "AVIF", "TIFF"])
def test_going_on_gives_the_same_pixels_as_beginning_anew(form: str) -> None:
    encoded = animation(form, 12)
    image = OpenImage(io.BytesIO(encoded), RECIPE, LIMITS)
    view, seen = 0, 0
    while True:
        shown = image.decode(view)
        assert shown == decode(io.BytesIO(encoded), RECIPE, LIMITS, wanted=WantedView(view))
        seen += 1
        view = shown.next
        if not view:
            break
    assert seen >= 12


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena.create(4, SIDE * SIDE * 3, 1)
    yield arena
    arena.close()


class Bench:
    """A decoder that is asked for the views of one file, one after the other."""

    def __init__(self, arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
        setup = child_messages.DecoderSetup(0, SIDE * SIDE * 3, [msgspec.to_builtins(RECIPE)], (b"/",), LIMITS)
        self.decoder = Decoder(setup, arena, lambda _: None)
        self.opened = 0
        opened = OpenImage.__init__

        def counted(image: OpenImage, *arguments: Any, **options: Any) -> None:
            self.opened += 1
            opened(image, *arguments, **options)

        monkeypatch.setattr(OpenImage, "__init__", counted)

    def view(
        self, path: Path, number: int, after: child_messages.Decoded | None, *, passed: bool = False
    ) -> child_messages.Decoded:
        view, stamp = (after.next, after.stamp) if after is not None else (0, None)
        job = child_messages.Job(number, 0, 1, os.fsencode(path), passed, False, view=view, stamp=stamp)
        return self.decoder.do(job, os.open(path, os.O_RDONLY) if passed else None)

    def views(self, path: Path, number: int, *, passed: bool = False) -> int:
        after = self.view(path, number, None, passed=passed)
        count = 1
        while after.next:
            after = self.view(path, number, after, passed=passed)
            assert after.code == ""
            count += 1
        return count


@pytest.mark.parametrize("passed", [False, True])
def test_all_views_of_an_animation_are_one_opening(
    arena: Arena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passed: bool
) -> None:
    (tmp_path / "a.gif").write_bytes(animation("GIF", 30))
    with all_closed():
        bench = Bench(arena, monkeypatch)
        assert bench.views(tmp_path / "a.gif", 1, passed=passed) >= 30
        assert bench.opened == 1
        assert not bench.decoder.keeps, "after the last view"


def test_views_of_several_images_in_turn(arena: Arena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [tmp_path / f"{number}.gif" for number in range(open_image_cache.MOST + 4)]
    for name in names:
        name.write_bytes(animation("GIF", 3))
    with all_closed():
        bench = Bench(arena, monkeypatch)
        first = [bench.view(name, number, None) for number, name in enumerate(names)]
        for number, name in enumerate(names):
            assert bench.view(name, number, first[number]).code == ""
        expected = 2 * len(names) - open_image_cache.MOST
        assert bench.opened == expected, "as many as agreed are kept, however many take turns"
        bench.decoder.rest()


def test_a_file_that_changes_between_two_views_is_not_the_same_image(
    arena: Arena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.gif"
    path.write_bytes(animation("GIF", 3))
    with all_closed():
        bench = Bench(arena, monkeypatch)
        first = bench.view(path, 1, None)
        with path.open("ab") as file:
            file.write(b"more")
        second = bench.view(path, 1, first)
        assert (second.code, second.message) == ("unreadable", "the file changed while it was read")


def test_what_takes_too_much_memory_is_not_kept(arena: Arena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.gif"
    path.write_bytes(animation("GIF", 3))
    monkeypatch.setattr(open_image_cache, "BUDGET", 1000)
    with all_closed():
        bench = Bench(arena, monkeypatch)
        bench.view(path, 1, None)
        assert not bench.decoder.keeps


def test_what_is_kept_gives_way_when_memory_does_not_suffice(
    arena: Arena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.gif", "b.gif"):
        (tmp_path / name).write_bytes(animation("GIF", 3))
    with all_closed():
        bench = Bench(arena, monkeypatch)
        bench.view(tmp_path / "a.gif", 1, None)
        opened = OpenImage.__init__

        def scarce(image: OpenImage, *arguments: Any, **options: Any) -> None:
            if bench.decoder.keeps:
                raise MemoryError
            opened(image, *arguments, **options)

        monkeypatch.setattr(OpenImage, "__init__", scarce)
        assert bench.view(tmp_path / "b.gif", 2, None, passed=True).code == ""
        bench.decoder.rest()
    assert len(OpenImageCache()) == 0
