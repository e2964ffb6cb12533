"""The whole pipeline on real images: Fashion-MNIST by the default recipe, CIFAR-10 by the published one."""

from collections import Counter
from pathlib import Path

import pytest

import zoo
from cluster import driver
from cluster.executors import InProcessExecutor
from zoo.spec import parse_spec

FASHION = """
name = "fashion-tiny"
[settings]
dataset = "fashion-mnist"
image_size = 14
test_limit = 2_000
architecture = "cnn"
sample_passes = 10_000
learning_rate = 0.1
[[grids]]
width = [1, 8]
batch_size = 32
data_amount = [256, 4_096]
seeds = 2
"""

CIFAR = """
name = "cifar-tiny"
[settings]
dataset = "parquet:{folder}"
image_size = 8
train_limit = 400
test_limit = 200
architecture = "resnet18"
recipe = "paper"
epochs = 3
[[grids]]
width = 2
batch_size = 64
data_amount = [200, 400]
label_noise = [0.0, 0.1]
seeds = 2
[measure]
metrics = ["hessian_trace", "hessian_top_eigenvalue", "mode_connectivity", "cka", "l2_distance"]
"""


def build(text: str, root: Path) -> zoo.Zoo:
    with InProcessExecutor() as executor:
        summary = driver.build(parse_spec(text), root, executor)
    assert summary.counts == Counter(done=8)
    return zoo.open(root)


@pytest.mark.skipif(
    not Path("/usr/share/datasets/fashion-mnist").is_dir(),
    reason="Debian's package dataset-fashion-mnist is not installed; .ci/run installs it",
)
def test_width_and_data_help_on_fashion_mnist(tmp_path):
    z = build(FASHION, tmp_path)
    errors = z.table("runs").merge(z.table("configs")).groupby(["width", "data_amount"])["test_error"].mean()
    assert errors[8, 4096] < errors[8, 256] - 3
    assert errors[8, 4096] < errors[1, 4096] - 5
    assert errors[8, 4096] < 25
    labels = z.table("labels").merge(z.table("configs"))
    wanting_width = labels.query("task == 'width' and width == 1")
    assert set(wanting_width["label"]) == {"width"}
    metrics = z.table("metrics")
    assert metrics["value"].notna().all()
    widths = z.table("configs").set_index("config_id")["width"]
    connectivity = metrics.query("metric == 'mode_connectivity_peak' and split == 'train'")
    peaks = connectivity.groupby(connectivity["config_id"].map(widths))["value"].mean()
    assert peaks[8] > peaks[1] + 10, "wide models are better connected"


def test_the_published_recipe_on_cifar10(shared_data, tmp_path):
    z = build(CIFAR.format(folder=shared_data / "cifar10"), tmp_path)
    runs, configs = z.table("runs"), z.table("configs")
    assert set(configs["dataset"]) == {"parquet"}
    assert set(runs["recipe"]) == {"paper"}
    assert set(runs["steps"]) == {3 * 4, 3 * 7}
    assert (runs["validation_error"] == runs["test_error"]).all(), "the published recipe has one set for both"
    assert (runs["test_images"] == 200).all()
    metrics = z.table("metrics")
    assert set(metrics["recipe"]) == {"paper"}
    assert metrics["value"].notna().all()
    steps = metrics.query("metric == 'mode_connectivity'").merge(configs[["config_id", "data_amount"]])
    assert set(zip(steps["data_amount"], steps["iterations"], strict=True)) == {(400, 50 * 4), (200, 100 * 2)}
    history = z.table("history")
    kept = (
        history.merge(runs[["run_id", "checkpoint_epoch"]])
        .query("epoch == checkpoint_epoch")
        .set_index("run_id")
    )
    assert (kept["train_loss"] == history.groupby("run_id")["train_loss"].min()).all()
