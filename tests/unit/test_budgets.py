"""Shares of what peers share: nobody can take everything, and a newcomer always finds something."""

from __future__ import annotations

import pytest

from nsfwd.budgets import ADMINS, GENEROSITY, OWN_DESCRIPTORS, Budget, Budgets, own_descriptors


def fill(budget: Budget, peer: str, piece: int = 1) -> int:
    """Take as much as the peer may have; return how much it holds then."""
    while budget.fits(peer, piece):
        budget.add(peer, piece)
    return budget.held(peer)


def test_one_alone_leaves_an_eighth_and_a_newcomer_finds_it() -> None:
    budget = Budget("queue", 16_384)
    assert fill(budget, "hog") == 16_384 * GENEROSITY // (GENEROSITY + 1)
    assert fill(budget, "newcomer") == 1792
    assert budget.fits("third", 1)


def test_a_small_budget_is_for_one_alone() -> None:
    budget = Budget("queue", 2)
    assert fill(budget, "alone") == 2
    assert not budget.fits("other", 1)


@pytest.mark.parametrize("piece", [1, 7, 100])
def test_what_there_is_is_never_exceeded(piece: int) -> None:
    budget = Budget("lines", 1000)
    for number in range(50):
        fill(budget, str(number), piece)
    assert budget.used <= budget.limit
    assert budget.used == sum(budget.held(str(number)) for number in range(50))


def test_room_tells_how_many_more_fit() -> None:
    budget = Budget("files", 100)
    assert budget.room("a", 64) == 64
    budget.add("a", 64)
    assert budget.room("a", 64) == 24
    budget.add("a", 24)
    assert budget.room("a", 64) == 0
    assert not budget.fits("a", 1)
    assert budget.room("b", 64) == 11


def test_the_window_shrinks_before_the_share_is_used_up() -> None:
    budget = Budget("queue", 16_384)
    held: list[int] = []
    for _ in range(1000):
        window = min(budget.window(64), budget.room("hog", 64))
        held.append(window)
        budget.add("hog", window)
    assert held[0] == 64
    assert min(held) == 1, "each of 1,000 connections of one peer has a place"
    assert budget.fits("hog", 1)


def test_what_is_about_to_be_asked_for_counts_for_the_window() -> None:
    budget = Budget("queue", 1000)
    budget.coming = 900
    assert budget.window(64) == 1
    budget.coming = 0
    assert budget.window(64) == 64


def test_stats_tell_limit_use_and_the_largest_share() -> None:
    budget = Budget("lines", 100, reserve=8)
    budget.add("a", 30)
    budget.add("b", 20)
    budget.add("b", -20)
    budget.refused += 1
    assert budget.stats() == {"limit": 100, "used": 30, "reserve": 8, "largest": 30, "refused": 1}
    assert budget.largest() == "a"


def test_descriptors_are_shared_out_between_connections_and_images() -> None:
    budgets = Budgets(600 - own_descriptors(2), max_connections=16_384, body_memory=1)
    assert budgets.connections.limit + budgets.files.limit + OWN_DESCRIPTORS + ADMINS == 600
    assert budgets.files.limit == 84
    assert own_descriptors(128) > OWN_DESCRIPTORS + 6 * 128
    budgets.settle(max_connections=10, body_memory=2)
    assert (budgets.connections.limit, budgets.bodies.limit) == (10, 2)
