"""The language of conditions: what it finds, and that nothing but a condition comes of whatever is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsfwd.errors import IndexFailure
from nsfwd.scanning.index.database import Index
from nsfwd.scanning.reports.where import COLUMNS, parse
from tests.unit.shelves import Shelf


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    opened = Index(tmp_path_factory.mktemp("index") / "index.db")
    shelf = Shelf(opened)
    run = shelf.run()
    shelf.scored(b"/srv/safe.jpg", 0.1, run)
    shelf.scored(b"/srv/sub/review.jpg", 0.6, run)
    shelf.scored(b"/srv/sub/it's.jpg", 0.9, run)
    shelf.scored(b"/srv/sub/odd\xff.jpg", 0.95, run, override='{"verdict": "safe"}')
    shelf.unscored(b"/srv/broken.jpg", "error", "corrupt", run)
    shelf.scored(b"/srv/gone.jpg", 0.1, run)
    shelf.gone(b"/srv/gone.jpg", run)
    return opened


def found(index: Index, text: str) -> set[bytes]:
    condition = parse(text)
    query = f"SELECT name FROM file JOIN directory ON directory.id = file.directory WHERE {condition.sql}"
    return {name for (name,) in index.read(query, condition.values)}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("verdict = review", {b"review.jpg"}),
        ("VERDICT == 'review'", {b"review.jpg"}),
        ("score >= 0.9 and not overridden = true", {b"it's.jpg"}),
        ("score > 0.5 and score < .7", {b"review.jpg"}),
        ("status != ok", {b"broken.jpg"}),
        ("verdict != safe and gone = no", {b"review.jpg", b"it's.jpg", b"odd\xff.jpg", b"broken.jpg"}),
        ("verdict is null", {b"broken.jpg"}),
        ("verdict is not null and alarm = false and gone = false", {b"safe.jpg", b"review.jpg"}),
        ("code in (corrupt, 'empty') or verdict not in (safe, sensitive)", {b"broken.jpg", b"review.jpg"}),
        ("path = '/srv/sub/it''s.jpg'", {b"it's.jpg"}),
        ('path like "%it\'s%"', {b"it's.jpg"}),
        ("path like '/srv/sub/%' and (label = porn or label = sexy)", {b"review.jpg", b"it's.jpg", b"odd\xff.jpg"}),
        ("path not like '/srv/sub/%' and gone = true", {b"gone.jpg"}),
        ("time < 1971-01-01 and size <= 100 and status = error", {b"broken.jpg"}),
        ("mtime > 2000-01-01T10:00", set()),
        ("not (verdict = safe or verdict = sensitive or verdict is null)", {b"review.jpg"}),
        ("verdict = safe or verdict = review and score > 2", {b"safe.jpg", b"gone.jpg"}),
        ("run = 1 and policy like 'default@%' and verdict = review", {b"review.jpg"}),
        ("verdict = '; DROP TABLE file; --'", set()),
    ],
)
def test_a_condition_finds_what_it_says(index: Index, text: str, names: set[bytes]) -> None:
    assert found(index, text) == names


def test_a_digest_is_found(index: Index) -> None:
    (digest,) = index.one("SELECT digest FROM file WHERE name = ?", (b"safe.jpg",)) or ()
    assert found(index, f"sha256 = {digest.hex()}") == {b"safe.jpg"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a column, found the end"),
        ("colour = red", "no column 'colour'; there are path, status"),
        ("verdict", "expected =, !="),
        ("verdict =", "expected a value, found the end"),
        ("verdict = and", "expected a value, found 'and' at character 11"),
        ("verdict = safe safe", "expected and, or, or the end, found 'safe' at character 16"),
        ("(verdict = safe", "expected \\), found the end"),
        ("score > much", "invalid value 'much' for this column \\(of the group that decided\\)"),
        ("alarm = perhaps", "invalid value 'perhaps' for this column \\(true or false\\)"),
        ("time > yesterday", "invalid value"),
        ("sha256 = xyz", "invalid value"),
        ("verdict = 'open", '"\'open" is not understood'),
        ("verdict not = safe", "expected =, !="),
        ("verdict = safe; DROP TABLE file", "expected and, or, or the end"),
        ("1 = 1", "no column '1'"),
        ("(" * 60 + "verdict = safe" + ")" * 60, "too many brackets"),
    ],
)
def test_what_is_no_condition_is_refused_in_words(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)


_WORDS = st.sampled_from(
    [*COLUMNS, "=", "<", "(", ")", "and", "or", "not", "in", "like", "'", '"', ";", "--", "1", "safe"]
)


@given(st.lists(_WORDS | st.text(max_size=4), max_size=12).map(" ".join))
def test_whatever_is_written_it_is_refused_or_runs_and_changes_nothing(index: Index, text: str) -> None:
    try:
        parse(text)
    except ValueError:
        return
    try:
        found(index, text)
    except IndexFailure as error:
        assert "LIKE or GLOB pattern too complex" in str(error)
    assert index.one("SELECT count(*) FROM file") == (6,)


def test_values_never_stand_in_the_statement(tmp_path: Path) -> None:
    condition = parse("verdict = evil and path like 'evil%' and label in (evil, \"evil\")")
    assert "evil" not in condition.sql and len(condition.values) == 4
