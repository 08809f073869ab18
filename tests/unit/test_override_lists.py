"""Lists of overrides: what is written is read again, and what is wrong is named with its line."""

from __future__ import annotations

import hashlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsfwd.errors import OverridesFailure
from nsfwd.overrides.override_lists import COLUMNS, parse_time, read, write
from nsfwd.protocol.messages import Override

ONE = hashlib.sha256(b"1").digest()

_words = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=30)
_overrides = st.builds(
    Override,
    st.binary(min_size=32, max_size=32),
    _words.map(str.strip).filter(bool),
    _words,
    _words,
    st.floats(1, 1e11),
    st.none() | st.floats(0, 1e11),
    st.binary(max_size=40).filter(lambda path: b"\0" not in path),
)


@pytest.mark.parametrize("spelling", ["ndjson", "csv"])
@given(overrides=st.lists(_overrides, max_size=5))
def test_what_is_written_is_read_again(spelling: str, overrides: list[Override]) -> None:
    raw = io.BytesIO()
    assert write(overrides, raw, spelling) == len(overrides)
    raw.seek(0)
    assert list(read(raw, spelling)) == overrides


def test_a_list_made_by_hand_may_leave_things_out() -> None:
    text = f"sha256,verdict,expires\n{ONE.hex().upper()},safe,2031-12-24T18:00:00+00:00\n\n{ONE.hex()},review,\n"
    first, second = read(io.BytesIO(text.encode()), "csv")
    assert (first.digest, first.verdict, first.expires, first.by) == (ONE, "safe", 1955901600.0, "")
    assert second.expires is None
    assert first.time > 1.7e9
    (only,) = read(io.BytesIO(b'\n{"sha256": "%b", "verdict": "safe"}\n' % ONE.hex().encode()), "ndjson")
    assert only.digest == ONE


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("nonsense", "not a JSON object"),
        ("[]", "not a JSON object"),
        ('{"verdict": "safe"}', "sha256 is missing"),
        ('{"sha256": "ONE"}', "verdict is missing"),
        ('{"sha256": "12", "verdict": "safe"}', "64 hexadecimal digits"),
        ('{"sha256": "ONE", "verdict": "safe", "by": "\\ud800"}', "not a JSON object"),
        ('{"sha256": 12, "verdict": "safe"}', "sha256 must be a text"),
        ('{"sha256": "ONE", "verdict": "safe", "expires": "soon"}', "invalid time"),
        ('{"sha256": "ONE", "verdict": "safe", "expires": true}', "must be a time"),
        ('{"sha256": "ONE", "verdict": "safe", "time": 1e300}', "invalid time"),
        ('{"sha256": "ONE", "verdict": "safe", "path_bytes": "*"}', "base64"),
        ('{"sha256": "ONE", "verdict": "safe", "colour": "red"}', "unknown name 'colour'"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(line: str, why: str) -> None:
    good = f'{{"sha256": "{ONE.hex()}", "verdict": "safe"}}\n'
    with pytest.raises(OverridesFailure, match=f"^line 2: .*{why}"):
        list(read(io.BytesIO((good + line.replace("ONE", ONE.hex())).encode()), "ndjson"))


def table(text: str) -> list[Override]:
    return list(read(io.BytesIO(text.encode()), "csv"))


def test_a_table_with_too_many_cells_or_another_heading_is_refused() -> None:
    with pytest.raises(OverridesFailure, match="line 2: more cells"):
        table(f"sha256,verdict\n{ONE.hex()},safe,x\n")
    with pytest.raises(OverridesFailure, match="the column sha256 is missing in the heading"):
        table(f"digest,verdict\n{ONE.hex()},safe\n")
    with pytest.raises(OverridesFailure, match="the column verdict is missing in the heading"):
        table("sha256\n")
    with pytest.raises(OverridesFailure, match="line 2: unknown name 'colour'"):
        table(f"sha256,verdict,colour\n{ONE.hex()},safe,red\n")
    with pytest.raises(OverridesFailure, match="after line 1"):
        table('sha256,verdict\n"12')


def test_bytes_that_are_no_text_are_refused() -> None:
    for data in (b"\x81", b"\xff\xfeodd", b"\xef\xbb\xbf\xff", b"\0"):
        with pytest.raises(OverridesFailure, match="not a text"):
            list(read(io.BytesIO(data), "ndjson"))


def test_times_are_seconds_or_dates() -> None:
    assert parse_time("12.5") == 12.5
    assert parse_time("1970-01-02T00:00:00+00:00") == 86400.0
    with pytest.raises(OverridesFailure, match="invalid time"):
        parse_time("tomorrow")


def test_the_heading_is_what_people_build_upon() -> None:
    out = io.BytesIO()
    assert write([], out, "csv") == 0
    heading = out.getvalue().decode()
    assert heading == ",".join(COLUMNS) + "\n" == "sha256,verdict,reason,by,time,expires,path,path_bytes\n"
