"""Which runs are paired, and what is left to measure."""

from collections import Counter

import pytest

from zoo.plan import chosen_pairs


def test_a_ring_pairs_each_run_twice():
    for count in range(3, 7):
        pairs = chosen_pairs("abcdef"[:count], "ring")
        assert len(set(pairs)) == len(pairs) == count
        assert set(Counter(run for pair in pairs for run in pair).values()) == {2}
    assert chosen_pairs("ab", "ring") == [("a", "b")]
    assert chosen_pairs("a", "ring") == chosen_pairs("", "ring") == []


@pytest.mark.parametrize("pairs", ["ring", "all", 1, 3, 5, 99])
def test_the_smaller_seed_comes_first(pairs):
    found = chosen_pairs("abcd", pairs)
    assert all(first < second for first, second in found)
    assert len(set(found)) == len(found) == {"ring": 4, "all": 6, 99: 6}.get(pairs, pairs)


def test_a_number_takes_neighbours_first_and_more_add_to_fewer():
    assert chosen_pairs("abcd", 4) == [("a", "b"), ("b", "c"), ("c", "d"), ("a", "c")]
    assert chosen_pairs("abcd", 6)[:4] == chosen_pairs("abcd", 4)
    assert chosen_pairs("a", 3) == []
