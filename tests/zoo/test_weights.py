"""Weights as a data set: the right ones, in few reads, for a DataLoader."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import zoo


@pytest.fixture(scope="module")
def demo():
    return zoo.open("demo")


def test_items_are_the_runs(demo):
    data = demo.weights(metrics=["hessian_trace", "cka", "test_error"], label="temperature")
    runs, labels = demo.runs(), demo.table("labels", filters=[("task", "=", "temperature")])
    answers = labels.set_index("config_id")["label"]
    assert len(data) == runs["checkpoint"].notna().sum()
    assert data.classes == ("large", "optimal", "small")
    metrics = demo.table("metrics")
    for item in (data[0], data[100], data[len(data) - 1]):
        config_id, _, seed = item.run_id.rpartition("-")
        weights = demo.model(config_id, int(seed)).state_dict()
        assert weights.keys() == item.weights.keys()
        assert all(torch.equal(value, item.weights[key]) for key, value in weights.items())
        assert data.classes[item.label] == answers[config_id]
        own = metrics[(metrics["run_id"] == item.run_id) | (metrics["other_run_id"] == item.run_id)]
        trace = own[(own["metric"] == "hessian_trace")]["value"].iloc[0]
        pairs = own[own["metric"] == "cka"]["value"]
        assert len(pairs) == 2, "a ring"
        expected = [trace, pairs.mean(), runs.loc[item.run_id, "test_error"]]
        assert item.metrics.tolist() == pytest.approx(expected)


def test_runs_are_chosen_and_vectors_made(demo):
    runs = demo.runs(width=4, label_noise=0.0)
    data = demo.weights(runs, flat=True)
    assert set(data.run_ids) == set(runs.index[runs["checkpoint"].notna()])
    assert data[0].label == -1
    assert data[0].metrics.shape == (0,)
    dictionary = demo.weights(runs)[0].weights
    floats = [dictionary[key].flatten() for key in sorted(dictionary) if dictionary[key].is_floating_point()]
    assert torch.equal(data[0].weights, torch.cat(floats))


def test_a_data_loader_takes_it(demo):
    data = demo.weights(demo.runs(width=2), label="remedy", metrics=["train_error"], flat=True)
    batches = list(DataLoader(data, batch_size=16, shuffle=True, num_workers=1))
    assert sum(len(batch.label) for batch in batches) == len(data)
    assert batches[0].weights.shape[0] == 16
    assert batches[0].metrics.shape == (16, 1)
    assert sorted(run_id for batch in batches for run_id in batch.run_id) == sorted(data.run_ids)


def test_it_can_be_sent_to_a_process(demo):
    data = demo.weights(demo.runs(width=1))
    first = data[0]
    back = pickle.loads(pickle.dumps(data))
    assert torch.equal(back[0].weights["0.weight"], first.weights["0.weight"])


def test_each_file_is_read_once_in_a_pass(demo, monkeypatch):
    opened = []
    store = type(demo.store)
    local = store.local
    monkeypatch.setattr(store, "local", lambda self, name: opened.append(name) or local(self, name))
    data = demo.weights()
    for index in range(len(data)):
        data[index]
    assert len(opened) == len(set(demo.runs()["checkpoint"].dropna()))
    opened.clear()
    some = demo.weights(demo.runs(width=8))
    some[3]
    assert len(opened) == 1, "only the shard that it needs"


def test_a_damaged_file_gives_no_weights(demo, tmp_path):
    import shutil

    release = shutil.copytree(demo.store.root, tmp_path / "release")
    name = zoo.open(release).weights()._places[0][0]
    data = bytearray((release / name).read_bytes())
    data[-1] ^= 1
    (release / name).write_bytes(data)
    with pytest.raises(ValueError, match="is damaged: its SHA-256 begins with"):
        zoo.open(release).weights()[0]


def test_what_is_not_there(demo):
    with pytest.raises(ValueError, match="no metric or column of runs is named 'sharpness'"):
        demo.weights(metrics=["sharpness"])
    with pytest.raises(ValueError, match="no task is named 'mood'; tasks of this zoo: data, remedy"):
        demo.weights(label="mood")
    with pytest.raises(IndexError):
        demo.weights(demo.runs(width=1))[10_000]


def test_a_metric_that_could_not_be_had_is_nan(demo):
    rows = demo.runs()
    rows["gone"] = np.nan
    assert demo.weights(rows, metrics=["gone"])[0].metrics.isnan().all()
