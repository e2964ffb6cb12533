"""What a build does next: every run trained once, every configuration measured once its runs have ended."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.pipeline import Pipeline, trained_statuses
from zoo.fragments import Rows, TrainedRun
from zoo.grids import Grid, groups_of
from zoo.landscape.measure import functions_of
from zoo.measurements import MeasureJob, Wanted
from zoo.plan import Plan
from zoo.stacks import Stack

VALUES = {
    "dataset": ("digits",),
    "architecture": ("cnn",),
    "width": (1, 2),
    "batch_size": (8,),
    "data_amount": (100,),
    "sample_passes": (1_000,),
    "label_noise": (0.0, 0.1, 0.2),
}
PLAN = Plan(groups_of([(Grid(VALUES, (0, 1, 2)), "f")]), {})
ALL = [(config, seed) for config, seeds in PLAN.configurations() for seed in seeds]
ROOT = Path(__file__).resolve().parents[2]
PER_CONFIGURATION = 3 + 3
"""A trace a run, a similarity a pair of the ring."""


def wanted(found=(), **more):
    return Wanted("default", functions_of(["hessian_trace", "cka"]), "ring", dict(found), **more)


def pipeline(known=(), only=None, retry_failed=False, stack_size=4, found=()):
    asked = wanted(found, missing=only != "failed", failed=retry_failed or only == "failed")
    measures = None if only == "train" else asked
    return Pipeline(PLAN, dict(known), measures, trained_statuses(only, retry_failed), lambda _: stack_size)


def run_through(pipe, status=lambda run: "done", at_once=3):
    """Do as an executor does, several at once and the last first: the runs trained, the measurements made."""
    trained, measured, pending = [], [], []
    expected = pipe.expected()
    surprise = 0
    while True:
        while len(pending) < at_once and (job := pipe.next()) is not None:
            pending.append(job)
        if not pending:
            break
        match pending.pop():
            case Stack() as stack:
                assert len({run.config.width for run in stack.runs}) == 1
                trained += [run.run_id for run in stack.runs]
                ends = [TrainedRun(run.seed, status(run), checkpoint="c") for run in stack.runs]
                surprise += pipe.ended(zip(stack.runs, ends, strict=True))
            case MeasureJob() as job:
                for part in job.parts:
                    ids = {f"{part.config.config_id}-{run.seed}" for run in part.runs}
                    assert {due.item.run_id for due in part.measurements} <= ids
                    measured += [due.item for due in part.measurements]
    assert expected == (len(trained), len(measured) - surprise)
    assert len(set(trained)) == len(trained)
    assert len(set(measured)) == len(measured)
    return trained, measured


def known(status="done", count=99):
    return {f"{c.config_id}-{s}": TrainedRun(s, status, checkpoint="c") for c, s in ALL[:count]}


@pytest.mark.parametrize("stack_size", [1, 2, 4, 5, 16])
@pytest.mark.parametrize("at_once", [1, 3, 50])
def test_all_is_trained_and_measured_once(stack_size, at_once):
    trained, measured = run_through(pipeline(stack_size=stack_size), at_once=at_once)
    assert len(trained) == len(ALL)
    assert len(measured) == len(ALL) // 3 * PER_CONFIGURATION


def test_measuring_begins_before_all_is_trained():
    pipe, order = pipeline(stack_size=3), []
    while (job := pipe.next()) is not None:
        order.append(type(job))
        if isinstance(job, Stack):
            pipe.ended((run, TrainedRun(run.seed, "done")) for run in job.runs)
    assert order == [Stack, MeasureJob] * 6


def test_a_failed_run_is_not_measured_and_a_diverged_one_has_no_pairs():
    first = ALL[0][0]
    status = {0: "failed", 1: "diverged"}
    _, measured = run_through(
        pipeline(), lambda run: status.get(run.seed, "done") if run.config == first else "done"
    )
    own = [item for item in measured if item.run_id.startswith(first.config_id)]
    ids = [f"{first.config_id}-{seed}" for seed in (1, 2)]
    assert own == [(ids[0], None), (ids[1], None), (ids[1], ids[1])]


def test_what_is_committed_is_not_trained_again():
    trained, measured = run_through(pipeline(known(count=10)))
    assert set(trained) == {f"{config.config_id}-{seed}" for config, seed in ALL[10:]}
    assert len(measured) == len(ALL) // 3 * PER_CONFIGURATION
    assert run_through(pipeline(known()))[0] == []


def test_lost_runs_are_trained_again_and_failed_ones_when_asked():
    states = known() | known("lost", 2)
    assert len(run_through(pipeline(states))[0]) == 2
    states = known() | known("failed", 2)
    assert run_through(pipeline(states))[0] == []
    assert len(run_through(pipeline(states, retry_failed=True))[0]) == 2


def test_parts_of_a_build_can_be_done_alone():
    assert run_through(pipeline(only="train"))[1] == []
    trained, measured = run_through(pipeline(known(count=4), only="measure"))
    assert trained == []
    assert len(measured) == PER_CONFIGURATION + 2, "three runs with their pairs, and one run that is alone"


def test_only_what_failed():
    """Runs that failed and then all their rows; of others the rows that failed; nothing that is missing."""
    states = known(count=9) | known("failed", 1)
    measured_before = {item: Rows(frozenset({("hessian_trace", "train")})) for item in singles(ALL[3:9])}
    (broken, *_) = singles(ALL[3:4])
    measured_before[broken] = Rows(failed=frozenset({("hessian_trace", "train")}))
    trained, measured = run_through(pipeline(states, only="failed", found=measured_before.items()))
    config, seed = ALL[0]
    assert trained == [f"{config.config_id}-{seed}"]
    assert broken in measured
    assert len(measured) == PER_CONFIGURATION + 1


def singles(runs):
    return [(f"{config.config_id}-{seed}", None) for config, seed in runs]


PLANNED = """
from benchmarks.bench_driver import plan
import json
print(json.dumps([plan(count)._asdict() for count in (10_000, 50_000)]))
"""


def test_a_large_spec_is_planned_as_it_goes():
    """Five times as many configurations take five times as long, in memory that does not grow.

    How long a million take is `benchmarks/bench_driver.py --plan 1000000`: 50 s of processor time on idle cores.
    """
    done = subprocess.run(
        [sys.executable, "-c", PLANNED], capture_output=True, text=True, check=True, cwd=ROOT
    )
    few, many = json.loads(done.stdout)
    assert (many["configurations"], many["measurements"] > 0) == (50_000, True)
    assert many["peak"] - few["before"] < 250, "MiB, most of it for one batch of rows; a million take 190"
    assert many["seconds"] < 10 * few["seconds"], "processor time; half of the factor is for busy machines"
