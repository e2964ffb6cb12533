"""Which runs are paired, and what is left to measure."""

from collections import Counter
from dataclasses import replace

import pytest

from zoo.config import TrainConfig
from zoo.landscape.registry import functions_of
from zoo.plan import Planned, TrainedRun, chosen_pairs, measure_jobs, plan_measurements


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


def test_a_job_measures_configurations_whose_runs_could_share_a_stack():
    """Of equal shapes and steps, and no more runs than a stack has; noise and learning rate may differ."""
    config = TrainConfig("digits", "f", "cnn", 2, 16, 128, 1_000)
    quiet, noisy, wide = config, replace(config, label_noise=0.1), replace(config, width=4)
    hot, hotter = replace(config, learning_rate=0.2), replace(config, learning_rate=0.3)
    runs = tuple(TrainedRun(seed, "done", 8, None, "file", seed, "digest") for seed in range(6))
    planned = [
        Planned(own, runs, plan_measurements(runs, own.config_id, "ring"))
        for own in (quiet, wide, noisy, hot, hotter)
    ]
    jobs = list(measure_jobs(planned, {}, "default", functions_of(["cka", "hessian_trace"])))
    assert [[part.config for part in job.parts] for job in jobs] == [[quiet, noisy], [hot, hotter], [wide]]
    assert [job.size for job in jobs] == [24, 24, 12]
    halves = jobs[0].halves()
    assert [half.size for half in halves] == [12, 12]
    assert [part for half in halves for part in half.parts] == list(jobs[0].parts)
    (uneven, _), lone = (
        halves[0].halves(),
        jobs[0]._with([(jobs[0].parts[0], jobs[0].parts[0].measurements[0])]),
    )
    assert uneven.parts[0].measurements == jobs[0].parts[0].measurements[:6]
    assert lone.halves() == []
    done = {item: {("hessian_trace", "train"): True} for item in planned[0].measurements}
    rest = list(measure_jobs(planned[:1], done, "default", functions_of(["cka", "hessian_trace"])))
    assert {due.metrics for job in rest for part in job.parts for due in part.measurements} == {("cka",)}
