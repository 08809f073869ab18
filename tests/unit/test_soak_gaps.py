"""What the soak concludes from the times of scores."""

from __future__ import annotations

from tests.soak_client import gaps


def test_the_pause_after_a_kill_ends_with_its_successors_first_score() -> None:
    scored = [1.0, 1.1, 1.2, 1.3, 4.0, 4.1, 9.0]
    found = gaps(scored, [("engine", 1.15), ("engine", 4.05), ("decoders", 8.95)])
    assert found["longest"] == 4.9
    assert found["after engine"] == {"kills": 2, "median": (2.85 + 4.95) / 2, "most": 4.95}
    assert found["after decoders"]["most"] == 0.05


def test_nothing_is_concluded_where_nothing_was_scored() -> None:
    assert gaps([], [("engine", 1.0)]) == {"longest": 0.0}
