"""A real browser turns the same pictures as the decoder does."""

from __future__ import annotations

from tests import oriented
from tests.apps.shown import shown


def test_a_browser_turns_what_the_table_says() -> None:
    cases = {name: case for name, case in oriented.cases().items() if case.browser}
    found = shown({name: (case.content, case.media) for name, case in cases.items()})
    turned = {}
    for name, picture in found.items():
        assert picture is not None, name
        width, height, pixels = picture
        at = 4 * (height // 2 * width + 8)
        turned[name] = pixels[at + 2] > 200 and pixels[at] < 60
    assert turned == {name: case.turned for name, case in cases.items()}
