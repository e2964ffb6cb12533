"""Checkpoints and the reader: a stored run comes back to the bit, a damaged or missing one by name."""

import dataclasses
import json
from collections import Counter

import pytest
import torch

import zoo
from zoo import checkpoints, fragments, stages, tables
from zoo.config import Run, TrainConfig
from zoo.datasets import DataSource, load_dataset, select
from zoo.models import ImageShape, initial_model
from zoo.stacks import Stack
from zoo.storage import Folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A zoo of three runs, one diverged, trained as one stack."""
    store, digits = Folder(tmp_path_factory.mktemp("zoo")), load_dataset(DataSource("digits"))
    config = TrainConfig(
        "digits", digits.fingerprint, "mlp", width=8, batch_size=20, data_amount=100, sample_passes=400
    )
    wild = dataclasses.replace(config, learning_rate=1e12, warm_up=0.0)
    runs = (Run(config, 0), Run(wild, 0), Run(config, 1))
    report = stages.train(Stack(runs), digits, store)
    assert Counter(run.status for run in report) == {"done": 2, "diverged": 1}
    table, history = fragments.merge_runs(store, {run.run_id for run in runs})
    store.write("runs.parquet", tables.to_bytes(table))
    store.write("history.parquet", tables.to_bytes(history))
    manifest = {
        "schema_version": tables.SCHEMA_VERSION,
        "package_version": "0",
        "name": "three",
        "spec": "text",
        "metric_recipe": "default",
    }
    store.write("zoo.json", json.dumps(manifest).encode())
    return store, digits, runs


def test_a_stored_run_scores_as_its_row_says(trained):
    store, digits, runs = trained
    opened = zoo.open(store.root)
    assert (opened.name, opened.spec) == ("three", "text")
    table = opened.table("runs").set_index("run_id")
    for run in (runs[0], runs[2]):
        model = opened.model(run.config.config_id, run.seed)
        assert not model.training
        test = select(digits, run.config).test
        with torch.no_grad():
            wrong = (model(test.images).argmax(1) != test.labels).double().mean().item()
        assert table.loc[run.run_id, "test_error"] == pytest.approx(100 * wrong)


def test_a_row_carries_what_made_it(trained):
    row = zoo.open(trained[0].root).table("runs").iloc[0]
    assert row["package_version"] == zoo.__version__
    assert (row["torch_version"], row["device"], row["engine"]) == (torch.__version__, "cpu", "loop")
    assert row["seconds"] > 0


def test_runs_that_have_no_weights_or_are_not_there(trained):
    store, _, runs = trained
    opened = zoo.open(store.root)
    with pytest.raises(ValueError, match=r"has no weights: it is diverged \(the loss is not finite at step"):
        opened.model(runs[1].config.config_id, 0)
    with pytest.raises(KeyError, match=r"no run nothing-0 in this zoo; its runs are in table\('runs'\)"):
        opened.model("nothing", 0)


def test_a_flipped_bit_is_found(trained, tmp_path):
    store, _, runs = trained
    row = zoo.open(store.root).table("runs").set_index("run_id").loc[runs[0].run_id]
    data = bytearray(store.read(row["checkpoint"]))
    data[-1] ^= 1
    damaged = Folder(tmp_path)
    damaged.write(row["checkpoint"], bytes(data))
    place = (row["checkpoint"], int(row["checkpoint_index"]), runs[0].run_id)
    with pytest.raises(
        ValueError, match=r"is damaged: its SHA-256 is .*, its table says .*; delete it and build again"
    ):
        checkpoints.verify(damaged, row["checkpoint"], row["checkpoint_sha256"])
    damaged.write(row["checkpoint"], bytes(data[:-8]))
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        checkpoints.load_run(damaged, *place)
    with pytest.raises(ValueError, match=r"does not hold run other-0 at position 0; its runs are \["):
        checkpoints.load_run(store, row["checkpoint"], 0, "other-0")


def test_weights_come_back_to_the_bit(tmp_path):
    shape, store = ImageShape(3, 8, 5), Folder(tmp_path)
    config = TrainConfig("d", "f", "resnet18", width=2, batch_size=2, data_amount=2, sample_passes=2)
    models = [initial_model("resnet18", 2, shape, seed) for seed in range(3)]
    runs = [Run(config, seed) for seed in range(3)]
    name = store.write_named_by_content(
        "c", checkpoints.pack(runs, [m.state_dict() for m in models], shape), ".safetensors"
    )
    for index, (run, model) in enumerate(zip(runs, models, strict=True)):
        back = checkpoints.load_run(store, name, index, run.run_id).state_dict()
        assert all(torch.equal(value, back[key]) for key, value in model.state_dict().items())


def test_weights_of_another_architecture_are_refused(tmp_path):
    shape, store = ImageShape(3, 8, 5), Folder(tmp_path)
    run = Run(TrainConfig("d", "f", "mlp", width=4, batch_size=2, data_amount=2, sample_passes=2), 0)
    data = checkpoints.pack([run], [initial_model("mlp", 2, shape, 0).state_dict()], shape)
    name = store.write_named_by_content("c", data, ".safetensors")
    with pytest.raises(ValueError, match=r"holds mlp of width 4, which its weights are not: .*size mismatch"):
        checkpoints.load_run(store, name, 0, run.run_id)


def test_what_is_no_zoo(trained, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"holds no zoo \(zoo\.json is missing\); make one with `mdzoo build SPEC"
    ):
        zoo.open(tmp_path)
    opened = zoo.open(trained[0].root)
    with pytest.raises(ValueError, match="no table is named 'models'; tables: configs, runs"):
        opened.table("models")
    with pytest.raises(FileNotFoundError, match=r"has no labels\.parquet: the zoo is not built that far"):
        opened.table("labels")
    Folder(tmp_path).write("zoo.json", json.dumps({"schema_version": 99, "package_version": "9.0"}).encode())
    with pytest.raises(
        ValueError, match=r"has schema version 99, this mdzoo reads version \d; open it with mdzoo 9\.0"
    ):
        zoo.open(tmp_path)
