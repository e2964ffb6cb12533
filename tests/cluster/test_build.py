"""A build as a whole: real images, a real Ray, and every way to interrupt it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import torch

import zoo
from cluster import driver
from cluster.executors import InProcessExecutor
from tests.processes import descendants, is_alive
from tests.s3_server import BUCKET, CREDENTIALS, gateway, s3_server
from zoo import stages
from zoo.engines.lane_library import library
from zoo.landscape.measure import RUN_METRICS, Estimate, register_run_metric
from zoo.spec import parse_spec

SPEC = """
name = "tiny"
[settings]
dataset = "digits"
architecture = "cnn"
sample_passes = 1_000
learning_rate = 0.2
[[grids]]
width = [1, 2]
batch_size = [8, 32]
data_amount = [64]
label_noise = [0.0, 0.1]
seeds = 2
[measure]
metrics = ["hessian_trace", "hessian_top_eigenvalue", "mode_connectivity", "cka", "l2_distance"]
"""
RUNS = 16
TABLES = ("configs", "runs", "history", "metrics", "labels")
TWO_BUILDS = pytest.mark.timeout(400)
"""Two Ray clusters one after the other: half a minute on idle cores, minutes on busy ones."""

EXECUTION = ["seconds", "host", "checkpoint", "checkpoint_index"]


def rows(root: Path | str, name: str) -> pd.DataFrame:
    """A table without what depends on when and with whom a run was trained."""
    frame = zoo.open(root).table(name)
    if "values" in frame:
        frame["values"] = frame["values"].map(lambda v: None if v is None else tuple(v))
    return frame.drop(columns=EXECUTION, errors="ignore")


def assert_equal_zoos(one: Path, two: Path | str) -> None:
    for name in TABLES:
        pd.testing.assert_frame_equal(rows(one, name), rows(two, name))
    for run in zoo.open(one).table("runs").itertuples():
        first, second = (zoo.open(root).model(run.config_id, run.seed).state_dict() for root in (one, two))
        assert all(torch.equal(first[key], second[key]) for key in first)


def again(root: Path, *options: str) -> list[str]:
    """The program that measures a zoo again, in one process, by some metrics of runs and one of pairs."""
    metrics = "gradient_norm,confidence,margin,polygon_connectivity"
    program = [sys.executable, "-m", "cluster.cli", "measure", str(root), "--workers", "0"]
    return [*program, "--metrics", metrics, *options]


def command(folder: Path, out: str, *options: str) -> list[str]:
    spec = folder / "tiny.toml"
    spec.write_text(SPEC)
    program = [sys.executable, "-m", "cluster.cli", "build", str(spec), "--out", str(folder / out)]
    return [*program, "--workers", "2", *options]


def start(folder: Path, out: str, *options: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(command(folder, out, *options), stdout=pipe, stderr=pipe, text=True)


def wait_for_fragments(process: subprocess.Popen[str], root: Path, kind: str, count: int) -> None:
    folder, until = root / "fragments" / kind, time.monotonic() + 200
    while len(list(folder.glob("*.parquet"))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "no fragment within 200 s"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    """The zoo as one process builds it, without interruption."""
    root = tmp_path_factory.mktemp("serial") / "zoo"
    with InProcessExecutor() as executor:
        summary = driver.build(parse_spec(SPEC), root, executor)
    assert summary[:-2] == (Counter(done=RUNS), RUNS, 2 * 8 + 8, 0, 0)
    assert list(summary.seconds) == ["plan", "work", "tables"]
    assert all(seconds > 0 for seconds in summary.task_seconds.values())
    return root


@TWO_BUILDS
def test_a_driver_killed_halfway_is_finished_by_the_next(serial, tmp_path):
    root = tmp_path / "zoo"
    process = start(tmp_path, "zoo", "--stack-size", "1")
    wait_for_fragments(process, root, "runs", 5)
    workers = descendants(process.pid)
    process.kill()
    process.communicate()
    # Ray's own agents take a minute or two to notice; what could still write to the zoo ends at once.
    writers = [pid for pid, name in workers.items() if name.startswith(("ray::_call", "ray::IDLE"))]
    assert writers
    until = time.monotonic() + 60
    while left := [pid for pid in writers if is_alive(pid)]:
        assert time.monotonic() < until, f"the killed driver left its workers {left} behind"
        time.sleep(0.1)
    before = set((root / "fragments" / "runs").glob("*.parquet"))
    trained = len(before)
    assert 5 <= trained <= RUNS
    with InProcessExecutor() as executor:
        again = driver.build(parse_spec(SPEC), root, executor, stack_size=4)
    assert again.trained == RUNS - trained
    assert before <= set((root / "fragments" / "runs").glob("*.parquet"))
    assert_equal_zoos(serial, root)


@TWO_BUILDS
def test_parallel_equals_serial_though_a_worker_is_killed(serial, tmp_path):
    process = start(tmp_path, "zoo", "--stack-size", "2", "--json")
    wait_for_fragments(process, tmp_path / "zoo", "runs", 1)
    victims = [pid for pid, name in descendants(process.pid).items() if name.startswith("ray::_call")]
    assert victims
    os.kill(victims[0], signal.SIGKILL)
    out, err = process.communicate()
    assert process.returncode == 0, err
    facts = json.loads(out)
    assert facts.pop("seconds").keys() == {"plan", "work", "tables"}
    assert facts.pop("task_seconds").keys() == {"train", "measure"}
    ends = {"done": RUNS, "diverged": 0, "failed": 0, "trained": RUNS}
    made = {"measured": 24, "unmeasured": 0, "failed_metrics": 0}
    assert facts == {"zoo": str(tmp_path / "zoo")} | ends | made
    assert f"train: {RUNS}/{RUNS} runs" in err
    fragments = (tmp_path / "zoo" / "fragments" / "runs").glob("*.parquet")
    listed = [run_id for path in fragments for run_id in pd.read_parquet(path, columns=["run_id"])["run_id"]]
    assert len(listed) == len(set(listed)) == RUNS, "nothing lost, nothing twice"
    assert_equal_zoos(serial, tmp_path / "zoo")


@TWO_BUILDS
def test_an_interrupted_build_says_so_and_goes_on(tmp_path):
    """SIGTERM, which the program turns into what Ctrl-C sends."""
    process = start(tmp_path, "zoo", "--stack-size", "1")
    wait_for_fragments(process, tmp_path / "zoo", "runs", 2)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted; what is trained is kept, the same command goes on from there" in err
    assert time.monotonic() - began < 10, "two or three seconds on an idle machine"
    status = subprocess.run(
        [sys.executable, "-m", "cluster.cli", "status", str(tmp_path / "zoo"), "--json"],
        capture_output=True,
        text=True,
    )
    facts = json.loads(status.stdout)
    assert facts["runs"] == RUNS
    assert facts["done"] + facts["missing"] == RUNS
    assert facts["done"] >= 2
    assert not facts["labelled"]


@pytest.mark.cluster
def test_a_zoo_in_an_object_store_that_fails_now_and_then_is_the_same(serial, monkeypatch):
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with s3_server() as port, gateway(port, 0.1) as between, InProcessExecutor() as executor:
        place = f"s3://{BUCKET}/zoos/tiny?endpoint_override=127.0.0.1:{between.port}&scheme=http"
        summary = driver.build(parse_spec(SPEC), place, executor, stack_size=2)
        assert (summary.trained, summary.measured, summary.is_whole) == (RUNS, 24, True)
        assert between.seen["spoilt"] > 1
        assert driver.build(parse_spec(SPEC), place, executor).trained == 0
        assert_equal_zoos(serial, place)


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system is mounted by root")
def test_a_build_on_a_full_disk_says_so_and_goes_on_when_there_is_room(serial, tmp_path):
    root, mount = tmp_path / "zoo", ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs"]
    root.mkdir()
    if subprocess.run([*mount, root], capture_output=True).returncode:
        pytest.skip("this machine lets root mount nothing")
    try:
        with InProcessExecutor() as executor:
            with pytest.raises(OSError, match="No space left on device"):
                driver.build(parse_spec(SPEC), root, executor, stack_size=2)
            begun = len(list((root / "fragments/runs").glob("*.parquet")))
            assert 0 < begun < 8
            assert not list(root.rglob("*.tmp"))
            subprocess.run(["mount", "-o", "remount,size=50m", root], check=True)
            summary = driver.build(parse_spec(SPEC), root, executor, stack_size=2)
        assert summary.is_whole
        assert summary.trained <= RUNS - 2 * begun
        assert_equal_zoos(serial, root)
    finally:
        subprocess.run(["umount", root], check=True)


def test_a_finished_zoo_trains_nothing_however_it_is_cut(serial):
    before = {path: path.stat().st_mtime_ns for path in (serial / "fragments").rglob("*.parquet")}
    with InProcessExecutor() as executor:
        summary = driver.build(parse_spec(SPEC), serial, executor, stack_size=3)
    assert (summary.trained, summary.measured, summary.counts) == (0, 0, Counter(done=RUNS))
    assert before == {path: path.stat().st_mtime_ns for path in (serial / "fragments").rglob("*.parquet")}


@pytest.mark.parametrize(("first", "then"), [(1, 2), (3, 4), (4, 2), (2, 1)])
def test_a_zoo_is_what_its_spec_says_whatever_was_built_before(tmp_path, first, then):
    """Rings of pairs change with the seeds: what no longer belongs stays out of the tables."""
    text = SPEC.replace("[8, 32]", "32").replace("[1, 2]", "1")
    with InProcessExecutor() as executor:
        driver.build(parse_spec(text.replace("seeds = 2", f"seeds = {first}")), tmp_path / "grown", executor)
        spec = parse_spec(text.replace("seeds = 2", f"seeds = {then}"))
        summary = driver.build(spec, tmp_path / "grown", executor)
        driver.build(spec, tmp_path / "fresh", executor)
    assert summary.trained == 2 * max(0, then - first)
    assert_equal_zoos(tmp_path / "fresh", tmp_path / "grown")
    grown, fresh = (zoo.open(tmp_path / name).status() for name in ("grown", "fresh"))
    assert grown["measurements"] >= fresh.pop("measurements")
    assert fresh.items() <= grown.items()


def test_a_lost_checkpoint_is_trained_again(serial, tmp_path):
    root = tmp_path / "zoo"
    shutil.copytree(serial, root)
    run = zoo.open(root).table("runs").iloc[0]
    (root / run["checkpoint"]).unlink()
    assert zoo.open(root).status()["missing"] > 0
    with InProcessExecutor() as executor:
        summary = driver.build(parse_spec(SPEC), root, executor)
    assert summary.trained == (zoo.open(serial).table("runs")["checkpoint"] == run["checkpoint"]).sum()
    assert_equal_zoos(serial, root)


def test_a_metric_that_failed_or_is_new_is_measured_when_asked(serial, tmp_path):
    root = tmp_path / "zoo"
    shutil.copytree(serial, root)
    broken, spec = [True], parse_spec(SPEC.replace('"cka"', '"cka", "mine"'))

    @register_run_metric("mine", splits=("train",))
    def mine(model, data, recipe, generator):
        if broken[0]:
            raise MemoryError("no room")
        return [Estimate(value=1.0)]

    try:
        with InProcessExecutor() as executor:
            summary = driver.build(spec, root, executor)
            assert (summary.measured, summary.failed_metrics, summary.is_whole) == (RUNS, RUNS, False)
            assert driver.build(spec, root, executor).measured == 0
            broken[0] = False
            summary = driver.build(spec, root, executor, retry_failed=True)
            assert (summary.measured, summary.failed_metrics, summary.is_whole) == (RUNS, 0, True)
        metrics = zoo.open(root).table("metrics")
        assert (metrics.query("metric == 'mine'")["value"] == 1.0).all()
        assert len(metrics) == len(zoo.open(serial).table("metrics")) + RUNS
    finally:
        del RUN_METRICS["mine"]


def test_a_zoo_is_measured_again_without_training(serial, tmp_path):
    root = tmp_path / "zoo"
    shutil.copytree(serial, root)
    before, old = rows(root, "metrics"), {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    with InProcessExecutor() as executor:
        summary = driver.measure_again(root, executor, metrics=["margin_scaled", "spectral_alpha"])
        assert (summary.trained, summary.measured, summary.counts) == (0, RUNS, Counter(done=RUNS))
        assert driver.measure_again(root, executor, metrics=["margin"]).measured == 0, "it came with another"
        assert (
            driver.measure_again(root, executor, metrics=["hessian_trace"], recipe="paper").measured == RUNS
        )
        with pytest.raises(
            ValueError, match=r"no metrics are registered as \['hessian_trce'\]; there are act"
        ):
            driver.measure_again(root, executor, metrics=["hessian_trce"])
        with pytest.raises(ValueError, match="no metric recipe is named 'papers'; there are default, paper"):
            driver.measure_again(root, executor, recipe="papers")
        assert driver.build(parse_spec(SPEC), root, executor).measured == 0
    metrics = rows(root, "metrics")
    added = {"margin", "margin_scaled", "margin_normalised", "spectral_alpha", "spectral_alpha_weighted"}
    assert set(metrics["metric"]) == set(before["metric"]) | added
    paper = metrics["recipe"] == "paper"
    kept = metrics[~paper & ~metrics["metric"].isin(added)].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, before)
    assert len(metrics[paper]) == RUNS
    assert set(metrics.loc[paper, "samples"]) == {64}
    assert all(path.stat().st_mtime_ns == time for path, time in old.items() if path.suffix == ".safetensors")


def test_a_zoo_is_measured_on_no_other_data(serial, tmp_path):
    root = tmp_path / "zoo"
    shutil.copytree(serial, root)
    manifest = json.loads((root / "zoo.json").read_text())
    manifest["spec"] = manifest["spec"].replace('"digits"', '"digits"\ntrain_limit = 500')
    (root / "zoo.json").write_text(json.dumps(manifest))
    with pytest.raises(
        ValueError, match=r"was trained on data with fingerprints \['.*give the folder .* --data-dir"
    ):
        driver.measure_again(root, InProcessExecutor())


@pytest.mark.cluster
@TWO_BUILDS
def test_an_interrupted_measure_goes_on(serial, tmp_path):
    """By Ctrl-C, then by a hang-up, as when the client of `ray submit` dies."""
    for name in ("whole", "halves"):
        shutil.copytree(serial, tmp_path / name)
    assert subprocess.run(again(tmp_path / "whole"), capture_output=True).returncode == 0
    begun = len(list((tmp_path / "halves/fragments/metrics").glob("*.parquet")))
    for number, signaled in enumerate((signal.SIGINT, signal.SIGHUP), 1):
        process = subprocess.Popen(again(tmp_path / "halves"), stderr=subprocess.PIPE, text=True)
        wait_for_fragments(process, tmp_path / "halves", "metrics", begun + number)
        process.send_signal(signaled)
        assert "what is measured is kept" in process.communicate()[1]
        assert process.returncode == 130
    done = subprocess.run(again(tmp_path / "halves", "--json"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["measured"] < RUNS + 8
    assert_equal_zoos(tmp_path / "whole", tmp_path / "halves")


def test_a_stack_that_fails_for_good_becomes_rows_and_can_be_tried_again(serial, tmp_path, monkeypatch):
    train, tries = stages.train, Counter()

    def fails_at_width_2(stack, *shared):
        if stack.runs[0].config.width == 2:
            tries[stack] += 1
            raise RuntimeError("no way to train this stack")
        return train(stack, *shared)

    monkeypatch.setattr(stages, "train", fails_at_width_2)
    with InProcessExecutor() as executor:
        summary = driver.build(parse_spec(SPEC), tmp_path, executor)
        assert summary.counts == Counter(done=8, failed=8)
        assert set(tries.values()) == {3}
        failed = zoo.open(tmp_path).table("runs").query("status == 'failed'")
        assert failed["reason"].str.contains("RuntimeError: no way to train this stack").all()
        assert set(failed["config_id"]).isdisjoint(zoo.open(tmp_path).table("labels")["config_id"])
        monkeypatch.undo()
        assert driver.build(parse_spec(SPEC), tmp_path, executor).trained == 0
        assert driver.build(parse_spec(SPEC), tmp_path, executor, retry_failed=True).trained == 8
    assert_equal_zoos(serial, tmp_path)


def test_a_stack_that_does_not_fit_is_trained_in_halves(serial, tmp_path, monkeypatch):
    train, fitted = stages.train, []

    def fits_two(stack, *shared):
        if len(stack.runs) > 2:
            raise MemoryError("no room for this stack")
        fitted.append(len(stack.runs))
        return train(stack, *shared)

    monkeypatch.setattr(stages, "train", fits_two)
    with InProcessExecutor() as executor:
        assert driver.build(parse_spec(SPEC), tmp_path, executor).is_whole
    assert fitted == [2] * 8
    assert_equal_zoos(serial, tmp_path)


def test_a_measurement_whose_task_fails_is_made_by_the_next_build(serial, tmp_path, monkeypatch, capsys):
    def fails(job, *shared):
        raise MemoryError("no room for the graph")

    monkeypatch.setattr(stages, "measure", fails)
    with InProcessExecutor() as executor:
        summary = driver.build(parse_spec(SPEC), tmp_path, executor)
        assert (summary.measured, summary.unmeasured) == (0, 24)
        assert "MemoryError: no room for the graph" in capsys.readouterr().err
        assert zoo.open(tmp_path).table("metrics").empty
        monkeypatch.undo()
        summary = driver.build(parse_spec(SPEC), tmp_path, executor)
    assert (summary.trained, summary.measured, summary.unmeasured) == (0, 24, 0)
    assert_equal_zoos(serial, tmp_path)


def test_diverged_runs_are_results(tmp_path):
    text = (
        SPEC.replace("0.2", "1e12", 1)
        .replace('"cnn"', '"mlp"')
        .replace("seeds = 2", "seeds = 1\nwarm_up = 0.0")
    )
    with InProcessExecutor() as executor:
        summary = driver.build(parse_spec(text), tmp_path, executor)
    assert summary.counts == Counter(diverged=8)
    metrics = zoo.open(tmp_path).table("metrics")
    assert set(metrics["reason"]) == {"diverged"}
    assert metrics["value"].isna().all()
    assert set(metrics["metric"]) == {"hessian_trace", "hessian_top_eigenvalue"}, (
        "a run without weights has no pairs"
    )
    assert zoo.open(tmp_path).table("labels").empty


def test_a_lone_run_has_no_twin(tmp_path):
    with InProcessExecutor() as executor:
        driver.build(parse_spec(SPEC.replace("seeds = 2", "seeds = 1")), tmp_path, executor)
    metrics = zoo.open(tmp_path).table("metrics").set_index("metric")
    assert set(metrics.loc["cka", "reason"]) == {"one_run"}
    assert metrics.loc["hessian_trace", "value"].notna().all()


def test_a_build_trains_small_networks_in_lanes_and_says_where_it_cannot(tmp_path, monkeypatch, capsys):
    """Engines differ in chaos alone: the runs are the same, their errors near."""
    spec = parse_spec(
        SPEC.replace("width = [1, 2]", "width = [2]").replace("[measure]", "").partition("metrics")[0]
    )
    with InProcessExecutor() as executor:
        if library() is not None:
            driver.build(spec, tmp_path / "lanes", executor, only="train")
            assert set(rows(tmp_path / "lanes", "runs")["engine"]) == {"lanes"}
            assert not capsys.readouterr().err.count("lane kernels")
        driver.build(spec, tmp_path / "loop", executor, only="train", engine="loop")
        assert set(rows(tmp_path / "loop", "runs")["engine"]) == {"loop"}
        for module in (driver, stages):
            monkeypatch.setattr(module, "library", lambda: None)
        driver.build(spec, tmp_path / "without", executor, only="train")
    assert "the lane kernels are not there" in capsys.readouterr().err
    assert_equal_zoos(tmp_path / "loop", tmp_path / "without")
    if library() is not None:
        errors = [rows(tmp_path / name, "runs")["test_error"].mean() for name in ("loop", "lanes")]
        assert errors[1] == pytest.approx(errors[0], abs=5)
