"""Fragments: what was committed is read back once, whoever committed it how often."""

import pytest

from zoo import fragments, tables
from zoo.fragments import Measurement, Rows
from zoo.storage import Folder

CHECKPOINT = "checkpoints/some.safetensors"
ALL = {f"{config_id}-{seed}" for config_id in "ab" for seed in range(3)}


@pytest.fixture
def store(tmp_path):
    store = Folder(tmp_path)
    store.write(CHECKPOINT, b"weights")
    return store


def run_row(run_id, status="done", **more):
    config_id, seed = run_id.split("-")
    row = {"run_id": run_id, "config_id": config_id, "seed": int(seed), "status": status, "history": []}
    return row | ({"checkpoint": CHECKPOINT} if status == "done" else {}) | more


def epoch(number):
    return {
        "epoch": number,
        "step": 10 * number,
        "learning_rate": 0.1,
        "train_loss": 1 / number,
        "train_error": 50.0,
    }


def test_history_is_nested_in_the_commit_and_a_table_after_the_merge(store):
    fragments.commit_runs(
        store, [run_row("b-0", history=[epoch(1), epoch(2)], recipe="paper"), run_row("b-1")]
    )
    fragments.commit_runs(store, [run_row("a-1", history=[epoch(1)])])
    runs, history = fragments.merge_runs(store, ALL)
    assert runs.schema.equals(tables.SCHEMAS["runs"])
    assert runs["run_id"].to_pylist() == ["a-1", "b-0", "b-1"]
    assert history.select(["run_id", "seed", "epoch", "step"]).to_pylist() == [
        {"run_id": "a-1", "seed": 1, "epoch": 1, "step": 10},
        {"run_id": "b-0", "seed": 0, "epoch": 1, "step": 10},
        {"run_id": "b-0", "seed": 0, "epoch": 2, "step": 20},
    ]
    assert history["train_loss"].to_pylist() == [1.0, 1.0, 0.5]
    assert history["recipe"].to_pylist() == [None, "paper", "paper"], "what made the run made its history"


def test_of_two_commits_of_a_run_the_lexically_first_counts(store):
    for seconds in (1.0, 2.0, 3.0):
        fragments.commit_runs(store, [run_row("a-0", seconds=seconds)])
    names = store.names(fragments.RUNS, ".parquet")
    assert len(names) == 3
    first = tables.from_bytes("run_fragments", store.read(names[0]), "it")["seconds"].to_pylist()
    runs, _ = fragments.merge_runs(store, ALL)
    assert runs["seconds"].to_pylist() == first


def statuses(store):
    return {run_id: run.status for run_id, run in fragments.trained_runs(store).items()}


def test_a_run_that_did_not_fail_wins_over_one_that_did(store):
    for status in ("failed", "done", "failed"):
        fragments.commit_runs(store, [run_row("a-0", status, reason=status + str(len(status)))])
    fragments.commit_runs(store, [run_row("b-0", "failed")])
    assert statuses(store) == {"a-0": "done", "b-0": "failed"}
    runs, _ = fragments.merge_runs(store, ALL)
    assert runs["status"].to_pylist() == ["done", "failed"]


def test_a_run_whose_checkpoint_is_gone_is_lost_until_it_is_trained_again(store):
    fragments.commit_runs(store, [run_row("a-0", seconds=1.0)])
    store.delete(CHECKPOINT)
    assert statuses(store) == {"a-0": "lost"}
    store.write("checkpoints/new.safetensors", b"weights")
    fragments.commit_runs(store, [run_row("a-0", checkpoint="checkpoints/new.safetensors", seconds=2.0)])
    assert statuses(store) == {"a-0": "done"}
    runs, _ = fragments.merge_runs(store, ALL)
    assert runs["seconds"].to_pylist() == [2.0]


def metric_row(run_id, other, metric, value=None, recipe="default", **more):
    ids = {"config_id": "a", "run_id": run_id, "other_run_id": other}
    return ids | {"metric": metric, "recipe": recipe, "value": value} | more


def test_metrics_are_merged_by_measurement_row_and_recipe(store):
    single, pair = Measurement("a-0"), Measurement("a-0", "a-1")
    fragments.commit_metrics(
        store, [metric_row(*single, "hessian_trace", 1.0), metric_row(*single, "top", 2.0)]
    )
    fragments.commit_metrics(
        store, [metric_row(*pair, "cka", 0.5), metric_row(*single, "hessian_trace", 9.0, "paper")]
    )
    fragments.commit_metrics(
        store, [metric_row(*pair, "cka", 0.7), metric_row(*single, "new", 3.0, split="train")]
    )
    assert fragments.measured(store, "default") == {
        single: Rows(frozenset({("hessian_trace", None), ("top", None), ("new", "train")})),
        pair: Rows(frozenset({("cka", None)})),
    }
    assert fragments.measured(store, "paper") == {single: Rows(frozenset({("hessian_trace", None)}))}
    merged = fragments.merge_metrics(store, {single, pair}).to_pandas()
    assert len(merged) == 5
    assert sorted(merged.query("metric == 'hessian_trace'")["value"]) == [1.0, 9.0]
    assert merged.query("metric == 'cka'")["value"].item() in (0.5, 0.7)


@pytest.mark.parametrize("seconds", [1.0, 2.0, 3.0])
def test_a_metric_that_came_off_wins_over_one_that_failed(store, seconds):
    item = Measurement("a-0")
    failed = metric_row(*item, "hessian_trace", reason="failed: MemoryError: no room", seconds=seconds)
    fragments.commit_metrics(store, [failed])
    assert fragments.measured(store, "default") == {item: Rows(failed=frozenset({("hessian_trace", None)}))}
    assert fragments.merge_metrics(store, {item})["value"].to_pylist() == [None]
    fragments.commit_metrics(store, [metric_row(*item, "hessian_trace", 4.0)])
    assert fragments.measured(store, "default") == {item: Rows(frozenset({("hessian_trace", None)}))}
    assert fragments.merge_metrics(store, {item})["value"].to_pylist() == [4.0]


def test_what_is_not_planned_is_left_out(store):
    fragments.commit_runs(store, [run_row("a-0", history=[epoch(1)]), run_row("a-1", history=[epoch(1)])])
    fragments.commit_metrics(
        store, [metric_row("a-0", "a-1", "cka", 0.5), metric_row("a-0", None, "hessian_trace", 1.0)]
    )
    runs, history = fragments.merge_runs(store, {"a-0", "b-0"})
    assert runs["run_id"].to_pylist() == history["run_id"].to_pylist() == ["a-0"]
    assert fragments.merge_metrics(store, {Measurement("a-0")})["metric"].to_pylist() == ["hessian_trace"]


def test_nothing_committed_is_an_empty_table(store):
    runs, history = fragments.merge_runs(store, ALL)
    assert (len(runs), len(history), len(fragments.merge_metrics(store, set()))) == (0, 0, 0)
    assert history.schema.equals(tables.SCHEMAS["history"])


def test_a_damaged_fragment_is_named(store):
    store.write(f"{fragments.RUNS}/broken.parquet", b"PAR1 and no more")
    with pytest.raises(
        ValueError, match=r"fragments/runs/broken\.parquet is not a readable Parquet file .*delete it"
    ):
        fragments.trained_runs(store)
