"""Tables: every cell comes back as it was written, whatever it holds; and what spreadsheets save is read."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsfwd.csvfile import TableError, read, read_text, row

_cells = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
_dangerous = st.builds(
    "{}{}".format, st.sampled_from(["=", "+", "-", "@", "\t", "\r", "\n", "'", "''=", "\uff1d"]), _cells
)


@given(st.lists(st.tuples(_cells | _dangerous, _cells | _dangerous).filter(lambda two: any(map(str.strip, two)))))
def test_what_is_written_is_read_again(rows: list[tuple[str, str]]) -> None:
    text = row(("a", "b")) + "".join(map(row, rows))
    assert [(found["a"], found["b"]) for _, found in read(io.BytesIO(text.encode()), ("a", "b"))] == rows


@given(_dangerous)
def test_no_text_begins_as_a_formula_does(text: str) -> None:
    (cells,) = csv.reader(io.StringIO(row([text]), newline=""))
    assert cells[0][0] not in "=+-@\t\r\n\uff1d"


def test_numbers_and_flags_are_written_as_they_are() -> None:
    assert row((-1, -0.5, True, False, None, "a,b", {"c": 1})) == '-1,-0.5,true,false,,"a,b","{""c"":1}"\n'


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_a_line_end_in_a_cell_is_quoted(end: str) -> None:
    assert row((f"a{end}b", "c")) == f'"a{end}b",c\n'


@pytest.mark.parametrize(
    "save",
    [
        lambda text: text.encode(),
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.encode("cp1252"),
        lambda text: text.encode("utf-16"),
        lambda text: text.replace(",", ";").encode("cp1252"),
        lambda text: text.replace(",", "\t").encode("utf-16"),
        lambda text: text.replace(",", "|").encode(),
        lambda text: ("sep=;\r\n" + text.replace(",", ";")).encode("utf-8-sig"),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", "\r").encode(),
        lambda text: text.replace("\n", ",,\n").encode() + b",,,\n\n",
        lambda text: b"\n" + text.encode(),
        lambda text: text.replace("path,label", '"PATH", Label ').encode(),
    ],
)
def test_what_spreadsheets_save_is_read(save: Callable[[str], bytes]) -> None:
    text = "path,label\n/srv/caf\u00e9.jpg,yes\n/srv/b.jpg,\n"
    rows = [found for _, found in read(io.BytesIO(save(text)), ("path", "label"))]
    assert rows == [{"path": "/srv/caf\u00e9.jpg", "label": "yes"}, {"path": "/srv/b.jpg"}]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"path,lable\n", "the column label is missing in the heading"),
        (b"path;lable\n", "the column label is missing in the heading"),
        (b"path,label,path\n", "the heading has the column path twice"),
        (b"path,label\na,b,c\n", "line 2: more cells than the heading has"),
        (b"path,label,\na,b,c\n", "line 2: more cells than the heading has"),
        (b'path,label\n"a', "after line 1: unexpected end of data"),
        (b"path,label\n\x81,b\n", "not a text"),
        (b"path,label\n\0,b\n", "not a text"),
        (b"\xff\xfep", "not a text"),
    ],
)
def test_what_is_no_such_table_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(TableError, match=why):
        list(read(io.BytesIO(data), ("path", "label")))


def test_a_list_that_would_not_fit_in_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nsfwd.csvfile.LONGEST", 4)
    assert read_text(io.BytesIO(b"1234")) == "1234"
    with pytest.raises(TableError, match="split it"):
        read_text(io.BytesIO(b"12345"))
