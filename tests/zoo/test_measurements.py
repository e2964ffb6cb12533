"""Which runs are paired, and what is left to measure."""

from collections import Counter
from dataclasses import replace

import pytest

from zoo.config import TrainConfig
from zoo.fragments import Rows, TrainedRun
from zoo.landscape.measure import functions_of
from zoo.measurements import Wanted, chosen_pairs, plan_measurements


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


def wanted(found=(), **more):
    functions = functions_of(["cka", "hessian_trace"])
    return Wanted("default", functions, "ring", dict(found), **more)


def test_a_job_is_of_as_many_runs_as_a_stack():
    config = TrainConfig("digits", "f", "cnn", 2, 16, 128, 1_000)
    alike = [replace(config, learning_rate=rate) for rate in (0.1, 0.2, 0.3)]
    runs = tuple(TrainedRun(seed, "done", 8, None, "file", seed, "digest") for seed in range(6))
    jobs = list(wanted().jobs(wanted().part(own, runs) for own in alike))
    assert [[part.config for part in job.parts] for job in jobs] == [alike[:2], alike[2:]]
    assert [job.size for job in jobs] == [24, 12]
    assert wanted().expected(6) == 12
    halves = jobs[0].halves()
    assert [half.size for half in halves] == [12, 12]
    assert [part for half in halves for part in half.parts] == list(jobs[0].parts)
    (uneven, _), lone = (
        halves[0].halves(),
        jobs[0]._with([(jobs[0].parts[0], jobs[0].parts[0].measurements[0])]),
    )
    assert uneven.parts[0].measurements == jobs[0].parts[0].measurements[:6]
    assert lone.halves() == []


def test_what_is_there_is_not_due():
    config = TrainConfig("digits", "f", "cnn", 2, 16, 128, 1_000)
    runs = [TrainedRun(seed, "done") for seed in range(2)]
    single, other, pair = plan_measurements(runs, config.config_id, "ring")
    trace = ("hessian_trace", "train")
    some = {single: Rows(frozenset({trace})), other: Rows(failed=frozenset({trace}))}

    def due(**more):
        part = wanted(some, **more).part(config, runs)
        return {own.item: own.metrics for own in part.measurements} if part else {}

    assert due() == {pair: ("cka",)}
    assert due(failed=True) == {other: ("hessian_trace",), pair: ("cka",)}
    assert due(failed=True, missing=False) == {other: ("hessian_trace",)}
    assert due(missing=False) == {}
    assert due()[pair] == ("cka",)
