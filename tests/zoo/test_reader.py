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
    rows = [
        {"config_id": c.config_id, "canonical_json": c.canonical_json(), "width": c.width}
        for c in (config, wild)
    ]
    store.write("configs.parquet", tables.rows_to_bytes("configs", rows))
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
    with pytest.raises(KeyError, match=r"no run .*-9 in this zoo; its runs are in table\('runs'\)"):
        opened.model(runs[0].config.config_id, 9)
    with pytest.raises(
        KeyError, match=r"no configuration nothing in this zoo; they are in table\('configs'\)"
    ):
        opened.model("nothing", 0)


def test_a_flipped_bit_is_found(trained, tmp_path):
    store, _, runs = trained
    row = zoo.open(store.root).table("runs").set_index("run_id").loc[runs[0].run_id]
    data = bytearray(store.read(row["checkpoint"]))
    data[-1] ^= 1
    damaged, place = Folder(tmp_path), (row["checkpoint"], int(row["checkpoint_index"]))
    last = (row["checkpoint"], 1, runs[2], zoo.open(store.root).table("runs")["weights_sha256"].iloc[1])
    damaged.write(row["checkpoint"], bytes(data))
    with pytest.raises(
        ValueError, match=r"is damaged: the weights of run .* have SHA-256 .*, its table says"
    ):
        checkpoints.load_run(damaged, *last)
    checkpoints.load_run(damaged, *place, runs[0], row["weights_sha256"])  # whose weights are not concerned
    damaged.write(row["checkpoint"], bytes(data[:-8]))
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        checkpoints.load_run(damaged, *last)
    with pytest.raises(ValueError, match=r"does not hold run .*-7 at position 0 of its 2, but .*-0"):
        checkpoints.load_run(store, row["checkpoint"], 0, Run(runs[0].config, 7), row["weights_sha256"])


def test_weights_come_back_to_the_bit(tmp_path):
    shape, store = ImageShape(3, 8, 5), Folder(tmp_path)
    config = TrainConfig("d", "f", "resnet18", width=2, batch_size=2, data_amount=2, sample_passes=2)
    models = [initial_model("resnet18", 2, shape, seed).state_dict() for seed in range(3)]
    runs = [Run(config, seed) for seed in range(3)]
    name = store.write_named_by_content("c", checkpoints.pack(runs, models, shape), ".safetensors")
    for index, (run, model) in enumerate(zip(runs, models, strict=True)):
        back = checkpoints.load_run(store, name, index, run, checkpoints.sha256_of(model)).state_dict()
        assert all(torch.equal(value, back[key]) for key, value in model.items())


def test_a_file_is_the_same_each_time(tmp_path):
    shape, runs = ImageShape(1, 2, 2), [Run(CONFIG, seed) for seed in range(2)]
    weights = [initial_model("mlp", 4, shape, seed).state_dict() for seed in range(2)]
    assert len({checkpoints.pack(runs, weights, shape) for _ in range(20)}) == 1


CONFIG = TrainConfig("d", "f", "mlp", width=4, batch_size=2, data_amount=2, sample_passes=2)


def test_weights_of_another_architecture_are_refused(tmp_path):
    shape, store, run = ImageShape(3, 8, 5), Folder(tmp_path), Run(CONFIG, 0)
    weights = initial_model("mlp", 2, shape, 0).state_dict()
    name = store.write_named_by_content("c", checkpoints.pack([run], [weights], shape), ".safetensors")
    with pytest.raises(ValueError, match=r"holds mlp of width 4, which its weights are not: .*size mismatch"):
        checkpoints.load_run(store, name, 0, run, checkpoints.sha256_of(weights))
    other = Run(dataclasses.replace(CONFIG, architecture="cnn"), 0)
    data = checkpoints.pack([other], [weights], shape)
    header = data.replace(other.run_id.encode(), run.run_id.encode())
    name = store.write_named_by_content("c", header, ".safetensors")
    with pytest.raises(ValueError, match=r"says that it holds cnn of width 4, its configuration is mlp"):
        checkpoints.load_run(store, name, 0, run, checkpoints.sha256_of(weights))


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


def test_tables_are_read_in_part():
    demo = zoo.open("demo")
    whole = demo.table("metrics")
    some = demo.table(
        "metrics", ["run_id", "value"], [("metric", "=", "cka"), ("value", ">", 0.5), ("split", "=", None)]
    )
    assert len(some) == 0, "null equals nothing"
    some = demo.table("metrics", ["run_id", "value"], [("metric", "=", "cka"), ("value", ">", 0.5)])
    expected = whole[(whole["metric"] == "cka") & (whole["value"] > 0.5)]
    assert some.columns.tolist() == ["run_id", "value"]
    assert sorted(some["value"]) == sorted(expected["value"])
    assert demo.arrow("labels", ["label"]).column_names == ["label"]
    with pytest.raises(ValueError, match=r"table metrics has no columns \['sharpness'\]; its columns are"):
        demo.table("metrics", filters=[("sharpness", ">", 0)])
    with pytest.raises(ValueError, match="table metrics cannot be filtered by"):
        demo.table("metrics", filters=[("metric", ">", 3)])


def test_runs_come_with_their_settings():
    demo = zoo.open("demo")
    runs = demo.runs(width=[2, 8], label_noise=0.1, status="done")
    assert set(runs["width"]) == {2, 8}
    assert set(runs["label_noise"]) == {0.1}
    assert len(runs) == 576 // 4
    assert runs.index.is_unique
    one = runs.iloc[0]
    assert one.name == f"{one['config_id']}-{one['seed']}"
    assert len(demo.runs()) == 576
    assert len(demo.runs(width=99)) == len(demo.runs(width=[])) == 0
    with pytest.raises(ValueError, match=r"is not a readable|cannot be filtered by"):
        demo.runs(width=["wide"])
    with pytest.raises(ValueError, match=r"runs have no columns \['wdith'\]"):
        demo.runs(wdith=2)


def test_a_shipped_release_is_opened_by_its_name(tmp_path, monkeypatch):
    assert zoo.open("demo").is_release
    assert zoo.open("demo").status()["missing"] == 0
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    with pytest.raises(FileNotFoundError, match="demo holds no zoo"):
        zoo.open("demo")  # a folder of that name comes first


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema_version": 3, "package_version": "0"}'])
def test_a_manifest_that_cannot_be_read(tmp_path, text):
    (tmp_path / "zoo.json").write_text(text)
    with pytest.raises(ValueError, match=r"zoo\.json is damaged"):
        zoo.open(tmp_path)
