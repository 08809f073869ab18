"""The report as a page: what it says, that a stranger's name cannot get into it, and that it needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from nsfwd.cli.main import run
from nsfwd.scanning.index.database import Index
from nsfwd.scanning.reports import page
from nsfwd.scanning.reports.report import ReportOptions, Shown, report
from tests import pictures
from tests.unit.shelves import Shelf

EVIL = b"<script>alert(1)</script>\"'\xff\xe2\x80\xae\n.png"


class Seen(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    tree = os.fsencode(tmp_path / "tree")
    Path(os.fsdecode(tree)).mkdir()
    with Index(tmp_path / "index.db") as opened:
        shelf = Shelf(opened)
        first = shelf.run()
        for name, sensitive in ((b"worst.png", 0.99), (EVIL, 0.9), (b"mild.png", 0.3)):
            path = tree + b"/" + name.replace(b"/", b":")
            Path(os.fsdecode(path)).write_bytes(pictures.encoded(pictures.photo(len(name)), "PNG"))
            shelf.scored(path, sensitive, first, real=True)
        shelf.scored(tree + b"/gone.png", 0.95, first)
        shelf.scored(tree + b"/missing.png", 0.85, first)
        shelf.gone(tree + b"/gone.png", first)
        shelf.unscored(tree + b"/broken.png", "error", "corrupt", first)
        yield opened


def written(index: Index, shown: Shown = "clear") -> str:
    return "".join(report(index, ReportOptions(shown=shown)))


def test_it_says_what_the_index_holds_and_shows_the_worst_first(index: Index) -> None:
    seen = Seen(written(index))
    captions = re.findall(r"(sensitive|safe) (0\.\d+)", seen.text)
    assert captions == [("sensitive", "0.990"), ("sensitive", "0.900"), ("sensitive", "0.850"), ("safe", "0.300")]
    assert "corrupt" in seen.text and "finished" in seen.text and "gone.png" not in seen.text
    assert len(seen.all("img")) == len(seen.all("input")) == 3 and "no such file" in seen.text
    assert {f"{0.98:.2f} to {1.0:.2f}: 1 files, 1 alarms", "0.30 to 0.32: 1 files, 0 alarms"} <= set(
        re.findall(r"0\.\d\d to \d\.\d\d: \d+ files, \d+ alarms", seen.text)
    )


def test_a_strangers_name_is_text_and_nothing_else(index: Index) -> None:
    html = written(index)
    seen = Seen(html)
    assert not seen.all("script") and "<script>alert(1)<:script>\"'\\xff\\u202e\\n.png" in seen.text
    allowed = {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "h1",
        "h2",
        "p",
        "table",
        "tr",
        "th",
        "td",
        "svg",
        "line",
    }
    allowed |= {"text", "rect", "div", "figure", "label", "input", "img", "figcaption", "br", "span"}
    assert {tag for tag, _ in seen.tags} <= allowed


def test_it_needs_nothing_else_and_forbids_itself_to(index: Index) -> None:
    html = written(index)
    seen = Seen(html)
    (policy,) = [meta["content"] for meta in seen.all("meta") if "http-equiv" in meta]
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.S)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    assert all((image["src"] or "").startswith("data:image/jpeg;base64,") for image in seen.all("img"))
    links = {"href", "src", "action", "style", "onclick"}
    assert not [tag for tag, attributes in seen.tags if links & attributes.keys() and tag != "img"]
    assert "http:" not in html and "https:" not in html and "url(" not in html


def test_blurred_pixels_or_none_are_in_it_where_that_is_wanted(index: Index) -> None:
    clear, blurred = written(index), written(index, "blurred")
    assert len(blurred) < len(clear) / 2 and len(Seen(blurred).all("img")) == 3
    assert "A click makes" in clear and "A click makes" not in blurred
    none = Seen(written(index, "none"))
    assert not none.all("img") and "not shown" in none.text


def test_a_click_is_a_box_that_is_ticked() -> None:
    assert "figure img { filter: blur(" in page.STYLE and "input:checked + img { filter: none; }" in page.STYLE


def test_what_was_taken_away_is_shown_from_where_it_lies(index: Index, tmp_path: Path) -> None:
    path, target = os.fsencode(tmp_path / "tree/taken.png"), tmp_path / "held"
    target.write_bytes(pictures.encoded(pictures.photo(9), "PNG"))
    with index.transaction():
        index.write_all(
            """
            INSERT INTO action (run, time, kind, path, target, digest, verdict, outcome, restored)
            VALUES (1, 1000.0, 'quarantine', ?, ?, x'00', 'sensitive', 'done', ?)
            """,
            [(path, os.fsencode(target), None), (path + b".lost", b"/nowhere", None), (path + b".back", b"/x", 2000.0)],
        )
    html = written(index).partition("Taken away")[2]
    assert html.count("<img ") == 1 and "/tree/taken.png" in html and "quarantine, run 1" in html
    assert "taken.png.lost" in html and "No such file" in html and "taken.png.back" not in html


def test_an_empty_index_has_a_report_too(tmp_path: Path) -> None:
    with Index(tmp_path / "index.db") as index:
        assert "no file was scored" in written(index)


def test_the_command_writes_a_file_for_its_owner_alone(index: Index, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    assert run(["report", "--index", str(index.path), "--html", str(file), "-n", "1", "--verdict", "safe"]) == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(Seen(file.read_text()).all("img")) == 1 and "mild.png" in file.read_text()
    assert run(["report", "--index", str(tmp_path / "none.db"), "--html", str(file)]) != 0
    assert "mild.png" in file.read_text()
