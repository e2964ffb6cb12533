"""Training: the published step against torch's own, streams by key, stop rule, divergence, stacks."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from zoo import fragments, stages, training
from zoo.config import Run, TrainConfig
from zoo.datasets import DataSource, load_dataset, select
from zoo.engines.lane_library import library
from zoo.models import image_shape, initial_model
from zoo.snapshots import Keeper
from zoo.stacks import Stack
from zoo.storage import Folder
from zoo.training import batch_order, has_settled, learning_rates, train_stack


def needs_kernels(name):
    return pytest.param(name, marks=pytest.mark.skipif(library() is None, reason="no lane kernels here"))


@pytest.fixture(scope="module")
def digits():
    return load_dataset(DataSource("digits"))


@pytest.fixture
def config(digits):
    return TrainConfig(
        *("digits", digits.fingerprint, "cnn"), width=2, batch_size=32, data_amount=100, sample_passes=640
    )


def train(digits, *runs):
    return train_stack(Stack(runs), digits)


def same_weights(first, second):
    return all(torch.equal(value, second.weights[name]) for name, value in first.weights.items())


@pytest.mark.parametrize("width", [2, 8])
def test_a_run_equals_a_plain_torch_loop(digits, config, width):
    """The oracle: torch's own SGD on the same batches. Width 8 trains in channels_last."""
    config = dataclasses.replace(config, width=width, label_noise=0.2, weight_decay=1e-2)
    data = select(digits, config).train
    model = initial_model("cnn", width, image_shape(digits, config), seed=3)
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9, weight_decay=1e-2)
    batches = torch.cat([segment for epoch in batch_order(config, 3) for segment in epoch])
    for batch, rate in zip(batches, learning_rates(config, 0, config.steps), strict=True):
        optimiser.param_groups[0]["lr"] = rate.item()
        optimiser.zero_grad()
        F.cross_entropy(model(data.images[batch]), data.labels[batch]).backward()
        optimiser.step()
    (result,) = train(digits, Run(config, 3))
    assert result.steps == 20
    for name, value in model.state_dict().items():
        torch.testing.assert_close(result.weights[name], value, rtol=2e-3, atol=2e-4)


def test_scores_are_of_the_weights_that_were_kept(digits, config):
    (result,) = train(digits, Run(config, 0))
    model = initial_model("cnn", 2, image_shape(digits, config), seed=0)
    model.load_state_dict(result.weights)
    model.eval()
    data = select(digits, config)
    for name in ("train", "validation", "test"):
        split = getattr(data, name)
        with torch.no_grad():
            logits = model(split.images)
        assert result.scores[f"{name}_loss"] == pytest.approx(
            F.cross_entropy(logits, split.labels).item(), rel=1e-5
        )
        wrong = (logits.argmax(1) != split.labels).double().mean().item()
        assert result.scores[f"{name}_error"] == pytest.approx(100 * wrong)


def test_alone_or_in_a_stack_the_weights_are_the_same_to_the_bit(digits, config):
    noisy, hot = dataclasses.replace(config, label_noise=0.2), dataclasses.replace(config, learning_rate=0.5)
    runs = [Run(config, 0), Run(config, 1), Run(noisy, 0), Run(hot, 0)]
    together = train(digits, *runs)
    for run, result in zip(runs, together, strict=True):
        assert same_weights(train(digits, run)[0], result)
    assert not same_weights(together[0], together[1])
    assert not same_weights(together[0], together[2])


def test_batches_cover_the_data_evenly(config):
    epochs = list(batch_order(config, 0))
    batches = torch.cat([segment for epoch in epochs for segment in epoch])
    assert batches.shape == (20, 32)
    for start in range(0, 600, 100):
        assert sorted(batches.flatten()[start : start + 100].tolist()) == list(range(100))


def test_epochs_of_the_paper_recipe_are_whole_with_a_smaller_last_batch(config):
    paper = dataclasses.replace(config, recipe="paper", sample_passes=300)
    epochs = list(batch_order(paper, 0))
    assert [[tuple(s.shape) for s in epoch] for epoch in epochs] == [[(3, 32), (1, 4)]] * 3
    for epoch in epochs:
        assert sorted(torch.cat([s.flatten() for s in epoch]).tolist()) == list(range(100))


def test_batches_are_keyed_by_data_amount_size_and_seed(config):
    def first(**changes):
        seed = changes.pop("seed", 0)
        return next(batch_order(dataclasses.replace(config, **changes), seed))[0][0].tolist()

    assert first() == first(width=9, label_noise=0.3, learning_rate=1.0)
    assert first() != first(seed=1)
    assert first()[:8] != first(batch_size=8)
    assert first() != first(data_fingerprint="other")


def test_learning_rates(config):
    cosine = learning_rates(dataclasses.replace(config, warm_up=0.25, learning_rate=1.0), 0, 20)
    expected = [min(1, (i + 1) / 6) * (1 + math.cos(math.pi * i / 20)) / 2 for i in range(20)]
    assert cosine.tolist() == pytest.approx(expected)
    constant = dataclasses.replace(config, warm_up=0.0, schedule="constant", learning_rate=0.05)
    assert set(learning_rates(constant, 3, 4).tolist()) == {0.05}
    linear = dataclasses.replace(constant, schedule="linear", learning_rate=1.0)
    assert learning_rates(linear, 15, 2).tolist() == pytest.approx([0.25, 0.2])


def test_history_has_a_row_for_each_pass_over_the_data(digits, config):
    (result,) = train(digits, Run(config, 0))
    assert [row["epoch"] for row in result.history] == [1, 2, 3, 4, 5, 6, 7]
    assert [row["step"] for row in result.history] == [3, 6, 9, 12, 15, 18, 20]
    assert result.history[0]["train_loss"] > result.history[-1]["train_loss"] == result.final_loss


def test_the_published_stop_rule():
    flat = [1.0] * 30
    assert has_settled(flat)
    assert not has_settled(flat[:29])
    assert has_settled([5.0] * 24 + [1.0] * 6)
    assert not has_settled([5.0] * 25 + [1.0] * 5), "the step down is one of the last five changes"
    assert not has_settled([*flat[:-1], 1.0002])
    assert has_settled([*flat[:-1], 1.00005])


def test_the_paper_recipe_keeps_settled_weights_else_those_of_the_lowest_loss(digits, config):
    still = dataclasses.replace(
        config,
        architecture="mlp",  # without BatchNorm, so that the loss of an epoch does not depend on its batches
        recipe="paper",
        sample_passes=4_000,
        learning_rate=1e-9,
        schedule="constant",
        warm_up=0.0,
    )
    (settled,) = train(digits, Run(still, 0))
    assert (settled.checkpoint_epoch, len(settled.history)) == (30, 30)
    hot = dataclasses.replace(still, architecture="cnn", sample_passes=2_000, learning_rate=1.0)
    (best,) = train(digits, Run(hot, 0))
    losses = [row["train_loss"] for row in best.history]
    assert len(losses) == 20
    assert best.checkpoint_epoch == 1 + losses.index(min(losses)) < 20
    shorter = dataclasses.replace(hot, sample_passes=100 * best.checkpoint_epoch)
    assert same_weights(best, train(digits, Run(shorter, 0))[0])


def test_divergence_is_caught_at_its_step_and_stays_in_its_lane(digits, config):
    config = dataclasses.replace(config, architecture="mlp", sample_passes=3_200)
    wild = dataclasses.replace(config, learning_rate=1e12, warm_up=0.0)
    calm, diverged = train(digits, Run(config, 0), Run(wild, 0))
    assert calm.status == "done"
    assert (diverged.status, diverged.weights) == ("diverged", None)
    assert diverged.steps < 10
    assert diverged.reason == f"the loss is not finite at step {diverged.steps + 1}"
    assert math.isfinite(diverged.final_loss)
    assert same_weights(calm, train(digits, Run(config, 0))[0])


def test_a_last_step_into_infinity_is_divergence_too(digits, config):
    config = dataclasses.replace(
        config, architecture="mlp", sample_passes=32, learning_rate=1e38, warm_up=0.0, schedule="constant"
    )
    (result,) = train(digits, Run(config, 0))
    assert (result.status, result.steps, result.weights, result.scores) == ("diverged", 1, None, {})
    assert result.reason == "the train loss is not finite after step 1"


def test_other_data_than_planned_is_refused(digits, config):
    with pytest.raises(ValueError, match="planned on data other, this digits is"):
        train(digits, Run(dataclasses.replace(config, data_fingerprint="other"), 0))


class Preempted(Exception):
    """What ends a training here."""


@pytest.mark.parametrize(
    ("recipe", "width", "momentum"), [("default", 2, 0.9), ("default", 8, 0.9), ("paper", 2, 0.0)]
)
@pytest.mark.parametrize("writes", [1, 2, 7])
@pytest.mark.parametrize("name", ["loop", needs_kernels("lanes"), "stack"])
def test_resumed_after_a_preemption_it_ends_as_one_that_was_not_interrupted(
    digits, config, tmp_path, recipe, width, momentum, writes, name, monkeypatch
):
    """After any snapshot, within an epoch too, of models that are live, settled or diverged; to the bit."""
    monkeypatch.setattr(training, "SECONDS_A_PIECE", 0.0)  # asked after every step
    change = {"recipe": recipe, "width": width, "momentum": momentum, "data_amount": 90}
    config = dataclasses.replace(config, **change)
    hot = dataclasses.replace(config, learning_rate=1e12, momentum=0.0)
    stack = Stack((Run(config, 0), Run(config, 1), Run(hot, 0)))
    keeper = Keeper(Folder(tmp_path), stack, name, seconds=0.0)
    whole = train_stack(stack, digits, name)
    assert [result.status for result in whole] == ["done", "done", "diverged"]

    class Preempting(Keeper):
        written = 0

        def keep_if_due(self, snapshot):
            super().keep_if_due(snapshot)
            self.written += 1
            if self.written == writes:
                raise Preempted

    with pytest.raises(Preempted):
        train_stack(stack, digits, name, keeper=Preempting(keeper.store, stack, name, 0.0))
    kept = keeper.read()
    assert kept.facts["step"] == writes
    kind = training.ENGINES[name]
    taken, advance = [], kind.advance

    def counted(engine, batches, rates):
        taken.append(batches.shape[1])
        return advance(engine, batches, rates)

    monkeypatch.setattr(kind, "advance", counted)
    resumed = train_stack(stack, digits, name, keeper=Keeper(keeper.store, stack, name))
    assert sum(taken) == config.steps - writes, "it went on from there"
    for one, two in zip(whole, resumed, strict=True):
        same = ("run", "status", "reason", "steps", "final_loss", "checkpoint_epoch", "history", "scores")
        assert all(getattr(one, name) == getattr(two, name) for name in same)
        assert (one.weights is None) == (two.weights is None)
        assert one.weights is None or same_weights(one, two)


def test_a_snapshot_that_cannot_be_read_is_as_good_as_none(digits, config, tmp_path):
    stack = Stack((Run(config, 0),))
    keeper = Keeper(Folder(tmp_path), stack, "loop")
    keeper.store.write(keeper.name, b"no safetensors")
    assert keeper.read() is None
    (result,) = train_stack(stack, digits, keeper=keeper)
    assert same_weights(result, train(digits, Run(config, 0))[0])


def test_snapshots_go_when_their_stack_is_committed(digits, config, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SECONDS_A_PIECE", 0.0)
    store = Folder(tmp_path)
    stages.train(Stack((Run(config, 0),)), digits, store, snapshot_seconds=0.0)
    assert store.names("snapshots", ".safetensors") == []
    assert (tmp_path / "snapshots").is_dir(), "there were some"


def test_where_lanes_cannot_run_the_plain_engine_trains_and_the_runs_say_so(
    digits, config, tmp_path, monkeypatch
):
    monkeypatch.setattr(stages, "library", lambda: None)
    store = Folder(tmp_path)
    stages.train(Stack((Run(config, 0),)), digits, store, "lanes")
    runs, _ = fragments.merge_runs(store, {Run(config, 0).run_id})
    assert runs["engine"].to_pylist() == ["loop"]
