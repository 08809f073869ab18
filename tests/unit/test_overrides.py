"""The store of overrides: what it keeps, who may read it, what it refuses, and several who use it at once."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsfwd.errors import OverridesFailure
from nsfwd.overrides.override_store import MIGRATIONS, MOST_REASON, MOST_TIME, OverrideStore, parse_digest
from nsfwd.protocol.messages import Override


def digest(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


ONE, TWO, THREE = digest(1), digest(2), digest(3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "overrides.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[OverrideStore]:
    with OverrideStore(path) as opened:
        yield opened


def test_a_store_is_for_its_owner_alone(store: OverrideStore, path: Path) -> None:
    store.add(ONE, "safe")
    files = list(path.parent.iterdir())
    assert path in files
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_what_was_decided_is_found_by_its_digest_however_that_is_spelled(store: OverrideStore) -> None:
    made = store.add(ONE.hex().upper(), "safe", reason="a statue", by="eva", path=b"/srv/\xff.jpg")
    assert made.digest == ONE
    assert abs(made.time - time.time()) < 60
    assert store.get(ONE) == store.get(ONE.hex()) == made
    assert store.get(TWO) is None


def test_a_later_decision_takes_the_place_of_the_earlier(store: OverrideStore) -> None:
    store.add(ONE, "safe", by="eva")
    store.add(ONE, "sensitive", by="kim")
    assert [(one.verdict, one.by) for one in store.items()] == [("sensitive", "kim")]


def test_what_has_expired_is_not_given(store: OverrideStore) -> None:
    store.add(ONE, "safe", expires=time.time() - 1)
    store.add(TWO, "safe", expires=time.time() + 1000)
    assert store.get(ONE) is None
    assert store.get(TWO) is not None
    assert [one.digest for one in store.items()] == [TWO]
    assert [one.digest for one in store.items(expired=True)] == [ONE, TWO]


def test_removing_tells_what_it_was_and_history_who_did_what(store: OverrideStore) -> None:
    store.add(ONE, "safe", reason="a statue", by="eva")
    store.add(ONE, "sensitive", by="kim")
    gone = store.remove(ONE, by="lou")
    assert gone is not None
    assert gone.verdict == "sensitive"
    assert store.remove(ONE) is None
    assert store.get(ONE) is None
    store.add(TWO, "safe", by="eva")
    assert [(one.what, one.by, one.verdict) for one in store.history(ONE)] == [
        ("added", "eva", "safe"),
        ("replaced", "kim", "sensitive"),
        ("removed", "lou", "sensitive"),
    ]
    assert len(list(store.history())) == 4


def test_a_store_is_opened_again_with_what_was_written(path: Path) -> None:
    with OverrideStore(path) as store:
        made = store.add(ONE, "safe", expires=2e9)
    with OverrideStore(path, create=False) as store:
        assert store.get(ONE) == made
    with OverrideStore(path, write=False) as store:
        assert store.get(ONE) == made
        with pytest.raises(OverridesFailure, match="readonly"):
            store.add(TWO, "safe")


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["", "ab", "g" * 64, " " + "a" * 63, "a" * 65, b"short", "sha256:" + "a" * 64])
def test_what_is_no_digest_is_refused(store: OverrideStore, bad: str | bytes) -> None:
    with pytest.raises(OverridesFailure, match="64 hexadecimal digits"):
        store.get(bad)


@pytest.mark.parametrize(
    "bad",
    [
        Override(ONE, ""),
        Override(ONE, " safe"),
        Override(ONE, "sa\nfe"),
        Override(ONE, "safe", "\x1b[31m"),
        Override(ONE, "safe", by="\udcff"),
        Override(ONE, "safe", "x" * (MOST_REASON + 1)),
        Override(ONE, "safe", time=-1),
        Override(ONE, "safe", time=float("nan")),
        Override(ONE, "safe", expires=MOST_TIME * 2),
    ],
)
def test_what_is_no_override_is_refused_and_nothing_of_its_import_is_kept(store: OverrideStore, bad: Override) -> None:
    with pytest.raises(OverridesFailure):
        store.take([Override(TWO, "safe"), bad])
    assert list(store.items()) == []
    assert store.take([Override(TWO, "safe")]).added == 1


def test_a_missing_store_is_said_and_not_made_by_a_reader(path: Path) -> None:
    with pytest.raises(OverridesFailure, match="there is no store"):
        OverrideStore(path, write=False)
    with pytest.raises(OverridesFailure, match="there is no store"):
        OverrideStore(path, create=False)
    assert not path.exists()


def test_a_directory_is_named_as_one(tmp_path: Path) -> None:
    for write in (True, False):
        with pytest.raises(OverridesFailure, match=r"is a directory$"):
            OverrideStore(tmp_path, write=write)


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database, but long enough for a header of one" * 10)
    for write in (True, False):
        with pytest.raises(OverridesFailure, match="not a database"):
            OverrideStore(path, write=write)


def test_the_database_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE cookies (name)")
    before = path.read_bytes()
    for write in (True, False):
        with pytest.raises(OverridesFailure, match="not a store of overrides"):
            OverrideStore(path, write=write)
    assert path.read_bytes() == before


def test_a_store_of_a_newer_version_is_refused(path: Path) -> None:
    OverrideStore(path).close()
    with sqlite3.connect(path) as newer:
        newer.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    for write in (True, False):
        with pytest.raises(OverridesFailure, match="newer nsfwd"):
            OverrideStore(path, write=write)


def test_damage_is_named_with_the_file(path: Path) -> None:
    with OverrideStore(path) as store:
        store.take(Override(digest(number), "safe", "reason " * 20) for number in range(500))
    sqlite3.connect(path).execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(path.read_bytes())
    content[8192:-4096] = b"\xa5" * len(content[8192:-4096])
    path.write_bytes(content)
    with pytest.raises(OverridesFailure, match=r"overrides\.sqlite: database disk image is malformed"):
        OverrideStore(path, write=False).changes()


AS_NOBODY = """
import os, sys
from pathlib import Path
from nsfwd.overrides.override_store import OverrideStore
if os.geteuid() == 0:
    os.chown(sys.argv[1], 65534, 65534)
    os.setuid(65534)
with OverrideStore(Path(sys.argv[1]), write=False) as store:
    print(len(list(store.items())))
"""


def test_a_store_that_nobody_writes_to_is_read_where_nothing_can_be_written() -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "overrides.sqlite"
        with OverrideStore(path) as store:
            store.add(ONE, "safe")
        assert list(path.parent.iterdir()) == [path]
        path.parent.chmod(0o555)
        done = subprocess.run([sys.executable, "-c", AS_NOBODY, path], capture_output=True, text=True, check=False)
        path.parent.chmod(0o755)
    assert (done.stdout, done.stderr) == ("1\n", "")


# -- import ------------------------------------------------------------------------------------------------------------


def test_of_two_decisions_about_one_content_an_import_keeps_the_later(store: OverrideStore) -> None:
    store.take([Override(ONE, "safe", time=100.0), Override(TWO, "safe", time=100.0)])
    taken = store.take(
        [
            Override(ONE, "sensitive", time=50.0),
            Override(TWO, "review", time=150.0),
            Override(TWO, "sensitive", time=200.0),
            Override(THREE, "safe", time=1.0),
        ]
    )
    assert (taken.added, taken.replaced, taken.older) == (1, 1, 1)
    assert {one.digest: one.verdict for one in store.items()} == {ONE: "safe", TWO: "sensitive", THREE: "safe"}


_overrides = st.builds(
    Override,
    st.integers(0, 5).map(digest),
    st.sampled_from(["safe", "review", "sensitive"]),
    st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=20),
    st.sampled_from(["eva", "kim"]),
    st.integers(0, 20).map(float),
    st.none() | st.integers(0, 30).map(float),
    st.binary(max_size=8),
)


@given(st.lists(st.lists(_overrides, max_size=8), max_size=4))
def test_imports_in_any_pieces_come_to_the_same_and_a_reader_of_changes_knows_it(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[Override]]
) -> None:
    """The model is a dict; a reader that looks after every import ends with what one knows that looks once."""
    model: dict[bytes, Override] = {}
    known: dict[bytes, Override] = {}
    identity, number = "", 0
    with OverrideStore(tmp_path_factory.mktemp("store") / "s.sqlite") as store:
        for part in parts:
            latest = {one.digest: one for one in sorted(part, key=lambda one: one.time)}
            model |= {key: one for key, one in latest.items() if key not in model or one.time > model[key].time}
            taken = store.take(part)
            assert taken.added + taken.replaced + taken.older == len(latest)
            identity, number, whole, changed = store.changes(identity, number)
            known = {} if whole else known
            known |= {key: one for key, one in changed.items() if one is not None}
        assert {one.digest: one for one in store.items(expired=True)} == model
        assert {key: replace(one, path=b"") for key, one in model.items()} == known
        assert store.changes(identity, number).overrides == {}


# -- several at once ---------------------------------------------------------------------------------------------------


def test_a_reader_learns_what_changed_and_of_another_store_everything(store: OverrideStore, path: Path) -> None:
    store.add(ONE, "safe")
    store.add(TWO, "safe")
    with OverrideStore(path, write=False) as reader:
        identity, number, whole, first = reader.changes()
        assert whole
        assert first.keys() == {ONE, TWO}
        store.remove(ONE)
        store.add(THREE, "review")
        again = reader.changes(identity, number)
        assert not again.whole
        assert again.overrides.keys() == {ONE, THREE}
        assert again.overrides[ONE] is None
        assert reader.changes("another", again.number).whole


WRITER = """
import sys
from pathlib import Path
from nsfwd.overrides.override_store import OverrideStore
path, writer = Path(sys.argv[1]), int(sys.argv[2])
for number in range(20):
    with OverrideStore(path) as store:
        store.add((writer * 1000 + number).to_bytes(32, "big"), "safe", by=str(writer))
"""


def test_writers_that_begin_at_once_make_one_store_and_lose_nothing(path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, path, str(number)]) for number in range(4)]
    assert [writer.wait() for writer in writers] == [0] * 4
    with OverrideStore(path, write=False) as store:
        assert len(list(store.items())) == len(list(store.history())) == 80


def test_what_root_makes_belongs_to_the_owner_of_its_directory(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    path.parent.mkdir()
    os.chown(path.parent, 65534, 65534)
    with OverrideStore(path) as store:
        store.add(ONE, "safe")
        assert {file.stat().st_uid for file in path.parent.iterdir()} == {65534}


def test_digests_have_two_spellings() -> None:
    assert parse_digest(ONE) == parse_digest(ONE.hex()) == ONE
