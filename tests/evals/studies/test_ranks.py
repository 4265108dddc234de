"""Rank correlation."""

from __future__ import annotations

import math

import pytest

from evals.studies.ranks import in_words, mean_within, rank_correlation


def test_any_rising_relation_is_one() -> None:
    assert rank_correlation([1, 2, 3, 4], [1, 10, 11, 1000]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [9, 8, 7, -7]) == pytest.approx(-1)


def test_the_textbook_formula_holds_without_ties() -> None:
    xs, ys = [1, 2, 3, 4, 5], [2, 1, 4, 3, 5]
    apart = sum((x - y) ** 2 for x, y in zip(xs, ys, strict=True))
    assert rank_correlation(xs, ys) == pytest.approx(1 - 6 * apart / (5 * 24))


def test_ties_share_their_rank() -> None:
    assert rank_correlation([1, 1, 2], [1, 2, 3]) == pytest.approx(math.sqrt(3) / 2)


def test_a_side_of_one_value_has_no_correlation() -> None:
    assert math.isnan(rank_correlation([1, 1, 1], [1, 2, 3]))


def test_too_few_or_unequal_values_are_refused() -> None:
    with pytest.raises(ValueError, match="two or more pairs"):
        rank_correlation([1], [1])
    with pytest.raises(ValueError, match="got 2 and 3"):
        rank_correlation([1, 2], [1, 2, 3])


def test_within_groups_the_level_of_a_group_does_not_count() -> None:
    groups = ["a", "b", "a", "b", "a", "b"]
    xs, ys = [1, 1, 2, 2, 3, 3], [1, 900, 2, 800, 3, 700]
    assert mean_within(groups, xs, ys) == pytest.approx(0)  # one rises, the other falls
    assert mean_within(["a"] * 3, xs[::2], ys[::2]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.9, "a strong positive"),
        (-0.5, "a moderate negative"),
        (0.2, "a weak positive"),
        (0.19, "no"),
        (math.nan, "undefined"),
    ],
)
def test_a_correlation_has_a_word(value: float, words: str) -> None:
    assert in_words(value) == words
