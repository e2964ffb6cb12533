"""Executors: every job has one outcome, failures are tried again, the window is bounded."""

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster import ray_tasks
from cluster.executors import TRIES, InProcessExecutor, Need, Task, each
from cluster.ray_executor import RayExecutor
from cluster.tasks import Usage


def square(job, offset):
    return job**2 + offset


def fails_until_tried_often(job, folder):
    """Job (name, tries it takes): leaves a file a try."""
    name, needed = job
    tries = len(list(Path(folder).glob(f"{name}-*")))
    (Path(folder) / f"{name}-{tries}").touch()
    if tries + 1 < needed:
        if name.startswith("dies"):
            os._exit(1)
        raise ValueError(f"{name} fails at try {tries + 1}")
    return name


@pytest.fixture(scope="module", params=["in process", "ray"])
def executor(request):
    with InProcessExecutor() if request.param == "in process" else RayExecutor(cpus=2) as executor:
        yield executor


def test_every_job_has_one_outcome(executor):
    outcomes = list(executor.run(each(square, range(20), executor.share(3))))
    assert sorted(o.task.job for o in outcomes) == list(range(20))
    assert all(o.result == o.task.job**2 + 3 and o.error is None for o in outcomes)
    assert list(executor.run(each(square, [], 0))) == []


def test_a_failing_job_is_tried_again_and_then_reported(executor, tmp_path):
    jobs = [("once", 1), ("thrice", TRIES), ("never", 99)]
    if isinstance(executor, RayExecutor):
        jobs += [("dies_once", 2), ("dies_always", 99)]
    outcomes = {o.task.job[0]: o for o in executor.run(each(fails_until_tried_often, jobs, str(tmp_path)))}
    assert {name for name, o in outcomes.items() if o.error is None} == {"once", "thrice", "dies_once"} & set(
        outcomes
    )
    assert f"ValueError: never fails at try {TRIES}" in outcomes["never"].error
    assert len(list(tmp_path.glob("never-*"))) == TRIES
    if isinstance(executor, RayExecutor):
        assert len(list(tmp_path.glob("dies_always-*"))) == TRIES
        assert "died" in outcomes["dies_always"].error


def takes_memory(job, most):
    """Job: a list of numbers, too long a one does not fit."""
    if len(job) > most:
        raise MemoryError(f"{len(job)} numbers do not fit")
    return sum(job)


def halves(job):
    middle = len(job) // 2
    return [job[:middle], job[middle:]] if middle else []


def test_what_ran_out_of_memory_is_done_in_halves(executor):
    outcomes = list(executor.run(each(takes_memory, [[1, 2, 3, 4, 5], [6]], 2, split=halves)))
    assert sorted(o.task.job for o in outcomes) == [[1, 2], [3], [4, 5], [6]]
    assert {o.result for o in outcomes} == {3, 9, 6}
    (outcome,) = executor.run(each(takes_memory, [[1]], 0, split=halves))
    assert "MemoryError: 1 numbers do not fit" in outcome.error


def need_of_pairs(job):
    return Need(memory=2**20 if len(job) <= 2 else 2**60)


def need_of_no_node(job):
    return Need(memory=2**60)


def test_a_task_that_no_node_has_memory_for_is_done_in_parts_that_fit(executor):
    """Each part asks for what it needs; one that has no parts gets a node to itself: an estimate may be wrong."""

    def outcomes_of(job, need):
        tasks = iter([Task(takes_memory, job, (9,), halves, need)])
        outcomes = list(executor.run(lambda: next(tasks, None)))
        assert all(o.error is None for o in outcomes)
        return sorted(o.task.job for o in outcomes)

    whole = [[1, 2, 3, 4]]
    in_halves, in_ones = outcomes_of(*whole, need_of_pairs), outcomes_of(*whole, need_of_no_node)
    if isinstance(executor, RayExecutor):
        assert (in_halves, in_ones) == ([[1, 2], [3, 4]], [[1], [2], [3], [4]])
    else:
        assert in_halves == in_ones == whole


def test_a_gpu_is_shared_by_as_many_as_have_room():
    room = ray_tasks.Room()
    assert room.share_of_gpu(2**40, 0.0) == 0.0, "no GPU is used"
    assert room.share_of_gpu(2**40, 0.25) == 0.25, "nothing is known of it before a task ran on one"
    room.see(Usage(1, 1, 80 * 2**30))
    assert room.share_of_gpu(2**30, 0.25) == 0.25
    assert room.share_of_gpu(30 * 2**30, 0.25) == 0.375
    assert room.share_of_gpu(200 * 2**30, 0.25) == 1.0


def test_an_outcome_says_what_was_taken(executor):
    (outcome,) = executor.run(each(square, [2], 0))
    if isinstance(executor, RayExecutor) and sys.platform == "linux":
        assert 10e6 < outcome.usage.memory < 10e9
        assert outcome.seconds > 0
    else:
        assert outcome.usage is None


def hangs_at_first(job, folder):
    if job == "hangs" and not (Path(folder) / "tried").exists():
        (Path(folder) / "tried").touch()
        time.sleep(1_000)
    return job


def test_a_job_that_takes_far_longer_than_the_others_is_sent_again(executor, tmp_path, monkeypatch):
    if not isinstance(executor, RayExecutor):
        pytest.skip("what hangs in this process hangs it")
    monkeypatch.setattr(ray_tasks, "LEAST_DEADLINE", 1.0)
    outcomes = executor.run(each(hangs_at_first, ["hangs", "a", "b"], str(tmp_path)))
    assert sorted(o.result for o in outcomes) == ["a", "b", "hangs"]


def test_an_outcome_says_where_it_came_from(executor):
    (outcome,) = executor.run(each(square, [2], 0))
    assert outcome.host == platform.node()


def test_jobs_are_taken_as_there_is_room(executor):
    taken = 0

    def jobs():
        nonlocal taken
        for job in range(10_000):
            taken += 1
            yield job

    outcomes = executor.run(each(square, jobs(), 0))
    for done in range(1, 51):
        next(outcomes)
        assert taken <= done + 7
    outcomes.close()


@pytest.mark.timeout(120)
def test_an_existing_cluster_is_joined_by_its_address(tmp_path):
    """A head node of its own on loopback, which is told that it has a GPU; the build joins it, and leaves it running.

    Tasks that ask for half of a GPU run two at a time and see that one.
    """
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    environment.pop("RAY_AUTH_TOKEN", None)
    ray = Path(sys.executable).with_name("ray")
    port, folder = 6400 + os.getpid() % 500, Path("/tmp") / f"mdzoo-test-{os.getpid()}"
    options = (
        "--include-dashboard=false",
        "--num-cpus=3",
        "--num-gpus=1",
        "--disable-usage-stats",
        "--block",
    )
    head = subprocess.Popen(
        [
            ray,
            "start",
            "--head",
            "--node-ip-address=127.0.0.1",
            f"--port={port}",
            f"--temp-dir={folder}",
            *options,
        ],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        script = (
            "import os, time\n"
            "from cluster.executors import each\n"
            "from cluster.ray_executor import RayExecutor\n"
            "def sleep(job):\n"
            "    began = time.time()\n"
            "    time.sleep(1.0)\n"
            "    return began, time.time(), os.environ['CUDA_VISIBLE_DEVICES']\n"
            f"with RayExecutor('127.0.0.1:{port}', gpus=0.5) as executor:\n"
            "    slept = [o.result for o in executor.run(each(sleep, range(6)))]\n"
            "at_once = max(sum(began <= now < ended for began, ended, _ in slept) for now, *_ in slept)\n"
            "print(at_once, {gpu for *_, gpu in slept})\n"
        )
        for _ in range(20):
            done = subprocess.run(
                [sys.executable, "-c", script], env=environment, capture_output=True, text=True
            )
            if done.returncode == 0:
                break
        assert done.stdout == "2 {'0'}\n", done.stderr
        assert head.poll() is None
    finally:
        head.terminate()
        head.wait(timeout=30)
