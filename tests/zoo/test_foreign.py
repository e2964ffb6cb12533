"""Weights from files that others made: read without running code, or refused by name."""

import pickle

import pytest
import safetensors.torch
import torch

import zoo
from zoo.foreign import load_model
from zoo.models import ImageShape, initial_model

SHAPE = ImageShape(1, 8, 10)


@pytest.fixture
def weights():
    return initial_model("cnn", 4, SHAPE, 0).state_dict()


def same(path, weights):
    found = load_model(path, "cnn", 4, SHAPE)
    assert not found.training
    return all(torch.equal(value, weights[name]) for name, value in found.state_dict().items())


def test_files_of_many_makers(tmp_path, weights):
    safetensors.torch.save_file(weights, tmp_path / "a.safetensors")
    torch.save(weights, tmp_path / "b.pt")
    torch.save({"epoch": 3, "state_dict": weights, "optimizer": {}}, tmp_path / "c.pth")
    torch.save({f"module.{name}": value for name, value in weights.items()}, tmp_path / "d.pt")
    torch.save({"model": {f"_orig_mod.{n}": v for n, v in weights.items()}}, tmp_path / "e.pt")
    assert all(same(path, weights) for path in tmp_path.iterdir())


class Malice:
    """Runs code when it is unpickled."""

    def __reduce__(self):  # noqa: D105
        return exec, ("raise SystemExit('run')",)


def test_nothing_in_a_file_is_run(tmp_path, weights):
    (tmp_path / "a.pt").write_bytes(pickle.dumps(Malice()))
    torch.save({"state_dict": weights, "more": Malice()}, tmp_path / "b.pt")
    for path in tmp_path.iterdir():
        with pytest.raises(ValueError, match="without running code"):
            load_model(path, "cnn", 4, SHAPE)


def test_weights_of_another_model_say_how_they_differ(tmp_path, weights):
    safetensors.torch.save_file(weights, tmp_path / "a.safetensors")
    with pytest.raises(
        ValueError, match=r"is not a cnn of width 2 for 1 x 8 x 8 images: 0\.weight has shape \[4, 1, 3, 3\]"
    ):
        load_model(tmp_path / "a.safetensors", "cnn", 2, SHAPE)
    with pytest.raises(
        ValueError, match=r"is not a mlp .*: it lacks 3\.weight, 3\.bias and has 1\.num_batches"
    ):
        load_model(tmp_path / "a.safetensors", "mlp", 4, SHAPE)
    torch.save({name: value for name, value in weights.items() if "12" not in name}, tmp_path / "b.pt")
    with pytest.raises(ValueError, match=r"it lacks 12\.weight, 12\.bias$"):
        load_model(tmp_path / "b.pt", "cnn", 4, SHAPE)
    torch.save(weights | {"head": torch.ones(1)}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match="it has head more"):
        load_model(tmp_path / "c.pt", "cnn", 4, SHAPE)


def test_files_that_are_none(tmp_path, weights):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_model(tmp_path / "a.pt", "cnn", 4, SHAPE)
    (tmp_path / "b.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        load_model(tmp_path / "b.safetensors", "cnn", 4, SHAPE)
    torch.save(torch.ones(3), tmp_path / "c.pt")
    with pytest.raises(ValueError, match="holds a Tensor, no state dict"):
        load_model(tmp_path / "c.pt", "cnn", 4, SHAPE)
    demo = zoo.open("demo")
    shard = demo.store.root / demo.store.names("checkpoints", "")[0]
    with pytest.raises(ValueError, match=r"holds many runs of a zoo; load one by zoo\.open"):
        load_model(shard, "cnn", 1, SHAPE)
