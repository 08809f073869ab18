"""A new policy over kept scores: what changes, what is written, what wins, and what cannot be judged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from nsfwd.bundles.policy import Policy, Tier
from nsfwd.errors import BundleError
from nsfwd.protocol.messages import Override
from nsfwd.scanning.index.database import Index
from nsfwd.scanning.index.rejudge import STEP, Rejudging, policies_of
from tests.echo_bundle import FIVE_TIERS
from tests.unit.shelves import Shelf

STRICTER = msgspec.structs.replace(
    FIVE_TIERS,
    tiers=(
        Tier(name="safe"),
        Tier(name="review", group="sensitive", threshold=0.2),
        Tier(name="sensitive", group="sensitive", threshold=0.5, alarm=True),
    ),
)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with Index(tmp_path / "index.db") as opened:
        yield opened


@pytest.fixture
def shelf(index: Index) -> Shelf:
    return Shelf(index)


def verdicts(index: Index) -> dict[bytes, str]:
    return dict(index.read("SELECT name, verdict FROM file"))


def test_a_stricter_policy_changes_exactly_what_it_should(index: Index, shelf: Shelf) -> None:
    first = shelf.run()
    for name, sensitive in ((b"a", 0.1), (b"b", 0.3), (b"c", 0.6), (b"d", 0.9), (b"e\xff", 0.3)):
        shelf.scored(b"/srv/" + name, sensitive, first)
    shelf.unscored(b"/srv/x", "error", "corrupt", first)
    second = shelf.run(kind="rejudge")
    rejudging = Rejudging(index, {"nsfw": STRICTER}, run=second)
    changes = list(rejudging.changes())
    assert [(change.before, change.judged.found.name, change.judged.verdict) for change in changes] == [
        ("safe", b"b", "review"),
        ("review", b"c", "sensitive"),
        ("safe", b"e\xff", "review"),
    ]
    assert (rejudging.files, rejudging.changed, rejudging.alarms, dict(rejudging.left)) == (5, 3, 2, {})
    assert rejudging.verdicts["safe", "safe"] == rejudging.verdicts["sensitive", "sensitive"] == 1
    assert verdicts(index) == {
        b"a": "safe",
        b"b": "review",
        b"c": "sensitive",
        b"d": "sensitive",
        b"e\xff": "review",
        b"x": None,
    }
    runs: dict[bytes, int] = dict(index.read("SELECT name, run FROM file"))
    assert runs == {b"a": first, b"b": second, b"c": second, b"d": first, b"e\xff": second, b"x": first}
    policies = set(index.read("SELECT DISTINCT policy.identity FROM file JOIN policy ON policy.id = file.policy"))
    assert policies == {(STRICTER.identity,)}
    kept = index.one("SELECT body FROM policy WHERE identity = ?", (STRICTER.identity,))
    assert kept is not None and msgspec.json.decode(kept[0], type=dict[str, Policy]) == {"nsfw": STRICTER}


def test_a_change_is_told_in_the_words_of_a_reply(index: Index, shelf: Shelf) -> None:
    shelf.scored(b"/srv/e\xff", 0.6, shelf.run())
    (change,) = Rejudging(index, {"nsfw": STRICTER}).changes()
    judged = change.judged
    assert judged.alarm and judged.label == "porn" and judged.score == 0.6
    assert judged.found.path == b"/srv/e\xff" and judged.digest is not None
    assert judged.reply["because"] == {"model": "nsfw", "group": "sensitive", "score": 0.6, "threshold": 0.5}
    assert judged.reply["path_bytes"] == "L3Nydi9l/w==" and judged.reply["policy"] == STRICTER.identity
    json.dumps(judged.reply)


def test_a_dry_run_writes_nothing(index: Index, shelf: Shelf) -> None:
    shelf.scored(b"/srv/a", 0.6, shelf.run())
    before = list(index.read("SELECT * FROM file")) + list(index.read("SELECT * FROM policy"))
    assert len(list(Rejudging(index, {"nsfw": STRICTER}).changes())) == 1
    assert list(index.read("SELECT * FROM file")) + list(index.read("SELECT * FROM policy")) == before


def test_what_people_decided_wins(index: Index, shelf: Shelf) -> None:
    run = shelf.run()
    for name in (b"a", b"b", b"c"):
        shelf.scored(b"/srv/" + name, 0.6, run)
    digests: dict[bytes, bytes] = dict(index.read("SELECT name, digest FROM file"))
    overrides: dict[bytes, Override | None] = {
        digests[b"a"]: Override(digests[b"a"], "safe", reason="a statue", by="eva"),
        digests[b"b"]: Override(digests[b"b"], "safe", expires=1.0),
    }
    list(Rejudging(index, {"nsfw": STRICTER}, run=run, overrides=overrides).changes())
    assert verdicts(index) == {b"a": "safe", b"b": "sensitive", b"c": "sensitive"}
    (spelled, alarm) = index.one("SELECT override, alarm FROM file WHERE name = ?", (b"a",)) or ()
    assert json.loads(spelled)["reason"] == "a statue" and alarm == 0
    # Who does not know the store leaves what was overruled as it is, and an override that was taken back is gone.
    assert [change.before for change in Rejudging(index, {"nsfw": FIVE_TIERS}).changes()] == ["sensitive"] * 2
    list(Rejudging(index, {"nsfw": STRICTER}, run=run, overrides={}).changes())
    assert verdicts(index)[b"a"] == "sensitive"
    assert index.one("SELECT count(*) FROM file WHERE override IS NOT NULL") == (0,)


def test_a_file_judged_meanwhile_keeps_what_that_one_said(index: Index, shelf: Shelf) -> None:
    run = shelf.run()
    row = shelf.scored(b"/srv/a", 0.6, run)
    other = Index(index.path)

    class Slow(dict[bytes, Override | None]):
        def get(self, digest: bytes, default: Override | None = None) -> Override | None:  # type: ignore[override]
            with other.transaction():
                other.write("UPDATE file SET verdict = 'safe', time = 2000.0 WHERE id = ?", (row,))
            return None

    list(Rejudging(index, {"nsfw": STRICTER}, run=run, overrides=Slow()).changes())
    other.close()
    assert verdicts(index) == {b"a": "safe"}


def test_what_cannot_be_judged_is_counted_and_kept(index: Index, shelf: Shelf) -> None:
    run = shelf.run()
    shelf.scored(b"/srv/a", 0.6, run)
    shelf.scored(b"/srv/b", 0.6, run)
    with index.transaction():
        index.write("DELETE FROM score WHERE digest = (SELECT digest FROM file WHERE name = ?)", (b"a",))
    rejudging = Rejudging(index, {"nsfw": STRICTER}, run=run)
    assert len(list(rejudging.changes())) == 1
    assert dict(rejudging.left) == {"bad_scores: the index does not have the scores": 1}
    nobody = Rejudging(index, {"other": STRICTER}, run=run)
    assert list(nobody.changes()) == [] and dict(nobody.left) == {"no policy for the model nsfw": 2}
    odd = msgspec.structs.replace(STRICTER, groups={"safe": ("neutral",), "sensitive": ("violence",)})
    misfit = Rejudging(index, {"nsfw": odd}, run=run)
    assert list(misfit.changes()) == [] and misfit.left.total() == 2
    assert verdicts(index)[b"a"] == "review"


def test_a_file_that_is_gone_is_judged_but_not_told(index: Index, shelf: Shelf) -> None:
    run = shelf.run()
    shelf.scored(b"/srv/a", 0.6, run)
    shelf.gone(b"/srv/a", run)
    rejudging = Rejudging(index, {"nsfw": STRICTER}, run=run)
    assert list(rejudging.changes()) == [] and rejudging.files == 0
    assert verdicts(index) == {b"a": "sensitive"}


def test_every_step_is_taken(index: Index, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    assert STEP > 1
    monkeypatch.setattr("nsfwd.scanning.index.rejudge.STEP", 3)
    run = shelf.run()
    for number in range(10):
        shelf.scored(b"/srv/%d" % number, 0.6, run)
    assert len(list(Rejudging(index, {"nsfw": STRICTER}, run=run).changes())) == 10
    assert list(Rejudging(index, {"nsfw": STRICTER}, run=run).changes()) == []


def test_a_daemon_tells_its_policies() -> None:
    told = msgspec.to_builtins(STRICTER)
    model = {"name": "nsfw", "policy": STRICTER.identity, "groups": told["groups"], "tiers": told["tiers"]}
    assert policies_of([model]) == {"nsfw": STRICTER}
    with pytest.raises(BundleError, match="does not send the whole policy"):
        policies_of([model | {"tiers": []}])
    with pytest.raises(BundleError, match="the daemon's policy of nsfw"):
        policies_of([model | {"tiers": [{"name": 1}]}])
