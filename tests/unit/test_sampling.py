"""Samples of an index and what their labels say: reproducible, spread over the scores, and right."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from nsfwd.scanning.index.database import Index
from nsfwd.scanning.reports.sampling import COLUMNS, SampleFailure, estimate, sample, write
from tests.unit.shelves import Shelf


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """A thousand files: 880 safe in four tenths, 80 for review, 40 alarms; and some that do not count."""
    opened = Index(tmp_path_factory.mktemp("index") / "index.db")
    shelf = Shelf(opened)
    run = shelf.run()
    for number in range(1000):
        sensitive = 0.05 if number < 800 else 0.15 if number < 840 else 0.35 if number < 880 else 0.6
        shelf.scored(b"/srv/%03d\xff.jpg" % number, 0.95 if number >= 960 else sensitive, run)
    shelf.unscored(b"/srv/broken", "error", "corrupt", run)
    shelf.scored(b"/srv/gone", 0.05, run)
    shelf.gone(b"/srv/gone", run)
    return opened


def labelled(index: Index, label: Callable[[dict[str, str]], str], count: int = 60) -> io.BytesIO:
    out = io.BytesIO()
    write(sample(index, count), out)
    rows = list(csv.DictReader(io.StringIO(out.getvalue().decode(), newline="")))
    again = io.StringIO(newline="")
    table = csv.DictWriter(again, COLUMNS)
    table.writeheader()
    table.writerows(row | {"label": label(row)} for row in rows)
    return io.BytesIO(again.getvalue().encode())


def test_a_sample_is_reproducible_and_another_seed_draws_others(index: Index) -> None:
    assert sample(index, 50, seed=7) == sample(index, 50, seed=7)
    assert {one.path for one in sample(index, 50, seed=7)} != {one.path for one in sample(index, 50, seed=8)}
    assert len({one.path for one in sample(index, 1000)}) == len(sample(index, 5000)) == 1000


def test_every_stratum_has_its_share_and_what_one_lacks_goes_to_others(index: Index) -> None:
    drawn = sample(index, 250)
    assert (
        Counter(one.stratum for one in drawn)
        == {
            "safe 0.0-0.1": 53,
            "safe 0.1-0.2": 40,
            "safe 0.3-0.4": 40,
            "review 0.6-0.7": 52,
            "sensitive (alarm) 0.9-1.0": 40,
        }
        | Counter({})
        or len(drawn) == 250
    )
    assert {one.files for one in drawn if one.stratum == "safe 0.0-0.1"} == {800}
    assert {one.stratum for one in sample(index, 10, verdicts=["review"])} == {"review 0.6-0.7"}
    assert Counter(one.stratum for one in sample(index, 30, by_score=False)) == {
        "safe": 10,
        "review": 10,
        "sensitive (alarm)": 10,
    }


def test_a_sample_that_is_too_small_or_of_nothing_is_refused(index: Index) -> None:
    with pytest.raises(SampleFailure, match="5 strata: draw at least 5"):
        sample(index, 4)
    with pytest.raises(SampleFailure, match="no file"):
        sample(index, 4, verdicts=["nothing"])


def test_names_that_are_not_utf8_come_as_bytes_too(index: Index) -> None:
    out = io.BytesIO()
    write(sample(index, 5), out)
    row = next(csv.DictReader(io.StringIO(out.getvalue().decode(), newline="")))
    assert row["path"].endswith("\\xff.jpg") and row["path_bytes"] and row["label"] == ""


def test_labels_tell_precision_prevalence_and_misses(index: Index) -> None:
    figures = estimate(
        labelled(index, lambda row: "yes" if row["alarm"] == "true" or "0.3" in row["stratum"] else "no")
    )
    assert (figures.drawn, figures.labelled, figures.files, figures.flagged) == (60, 60, 1000, 40)
    assert figures.precision is not None and figures.precision.value == 1.0 and figures.precision.low > 0.7
    assert figures.prevalence is not None and figures.prevalence.value == pytest.approx(0.08)
    assert figures.missed is not None and figures.missed.value == pytest.approx(40)
    assert figures.misses is not None and figures.misses.low < 40 / 960 < figures.misses.high


def test_other_verdicts_may_count_as_flagged(index: Index) -> None:
    figures = estimate(labelled(index, lambda row: "no"), flagged=["review", "sensitive"])
    assert figures.flagged == 120 and figures.precision is not None and figures.precision.value == 0.0


def test_a_sample_of_the_safe_alone_tells_misses_but_no_precision(index: Index) -> None:
    out = io.BytesIO()
    write(sample(index, 12, verdicts=["safe"]), out)
    figures = estimate(io.BytesIO(out.getvalue().replace(b",\n", b",n\n")))
    assert figures.precision is None and figures.prevalence is None and figures.missed is not None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text.replace("label", "lable"), "not a sample"),
        (lambda text: text.replace(",yes", ",perhaps", 1), "line 2: the label must be yes or no, not 'perhaps'"),
        (lambda text: text.replace(",800,", ",801,", 1), "contradict each other"),
        (lambda text: text.replace(",true,", ",maybe,", 1), "alarm must be true or false"),
        (lambda text: text.replace(",40,", ",forty,", 1), "invalid literal"),
        (lambda text: text.replace(",yes", ","), "label at least one file of: "),
        (lambda text: text.splitlines()[0], "the sample is empty"),
    ],
)
def test_a_table_that_is_no_labelled_sample_is_refused(index: Index, spoil: Callable[[str], str], message: str) -> None:
    text = labelled(index, lambda row: "yes").getvalue().decode().replace("\r\n", "\n")
    with pytest.raises(SampleFailure, match=message):
        estimate(io.BytesIO(spoil(text).encode()))


@pytest.mark.parametrize(
    "save",
    [
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.replace(",", ";").replace(";true;", ";TRUE;").encode("cp1252"),
        lambda text: ("sep=;\n" + text.replace(",", ";")).encode("cp1252"),
        lambda text: text.replace(",", "\t").replace("\n", "\r\n").encode("utf-16"),
        lambda text: text.replace("\n", ",,\n").replace("label,,", "label,,", 1).encode() + b",,,,,,,,,,\n",
    ],
)
def test_a_sample_that_a_spreadsheet_saved_is_read(index: Index, save: Callable[[str], bytes]) -> None:
    plain = labelled(index, lambda row: "yes" if row["alarm"] == "true" else "no")
    text = plain.getvalue().decode().replace("\r\n", "\n")
    assert estimate(io.BytesIO(save(text))) == estimate(plain)


def test_a_name_with_a_carriage_return_breaks_no_sample(tmp_path: Path) -> None:
    with Index(tmp_path / "index.db") as index:
        shelf = Shelf(index)
        run = shelf.run()
        for name in (b"/srv/a\rb", b"/srv/c\nd", b"/srv/e\r\nf"):
            shelf.scored(name, 0.9, run)
        out = io.BytesIO()
        write(sample(index, 3), out)
    assert estimate(io.BytesIO(out.getvalue().replace(b",3,\n", b",3,yes\n"))).labelled == 3


def test_rows_without_a_label_count_as_not_looked_at(index: Index) -> None:
    seen: Counter[str] = Counter()

    def label(row: dict[str, str]) -> str:
        seen[row["stratum"]] += 1
        return "no" if seen[row["stratum"]] <= 3 else ""

    assert estimate(labelled(index, label)).labelled == 15


def test_the_index_is_only_read(index: Index, tmp_path: Path) -> None:
    before = list(index.read("SELECT * FROM file"))
    sample(index, 10)
    assert list(index.read("SELECT * FROM file")) == before


def test_what_was_taken_away_is_drawn_from_where_it_lies(tmp_path: Path) -> None:
    with Index(tmp_path / "index.db") as index:
        shelf = Shelf(index)
        run = shelf.run()
        for name in (b"here", b"taken\xff", b"restored", b"deleted"):
            shelf.scored(b"/srv/" + name, 0.9, run)
        with index.transaction():
            for name, restored in ((b"taken\xff", None), (b"restored", 2000.0)):
                index.write(
                    """
                    INSERT INTO action (run, time, kind, path, target, digest, verdict, outcome, restored)
                    SELECT 1, 1000.0, 'quarantine', ?, ?, digest, 'sensitive', 'done', ? FROM file WHERE name = ?
                    """,
                    (b"/srv/" + name, b"/held/" + name, restored, name),
                )
        for name in (b"taken\xff", b"deleted"):
            shelf.gone(b"/srv/" + name, run)
        drawn = sample(index, 10)
        assert {one.path for one in drawn} == {b"/srv/here", b"/held/taken\xff", b"/srv/restored"}
        assert {(one.alarm, one.files) for one in drawn} == {(True, 3)}
        assert sample(index, 10, verdicts=["sensitive"]) == drawn
