"""The stack engine against the plain one: every way of computing models, stops, divergence, recorded steps."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn

from zoo.config import TrainConfig
from zoo.datasets import Split
from zoo.engines import stack
from zoo.engines.loop import LoopEngine
from zoo.engines.stack import StackEngine
from zoo.engines.stack_graph import WARM_UPS, unchanged
from zoo.engines.stack_lanes import has_kernels
from zoo.engines.stack_network import SINGLE, Way, can_be_joined, possible_way, way_for
from zoo.models import ImageShape, initial_model

SHAPE = ImageShape(3, 8, 5)
WAYS = [Way("grouped"), Way("bmm"), Way("lanes"), SINGLE]
LAYOUTS = [*WAYS, Way("grouped", True), Way("single", True)]
CONFIG = TrainConfig("random", "0", "cnn", width=2, batch_size=12, data_amount=24, sample_passes=120)
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Case:
    """Models of an architecture with data, configurations and batches of their own, the images shared."""

    def __init__(self, architecture="cnn", count=3, steps=20, size=12, dtype=torch.float64, **changes):
        stream = torch.Generator().manual_seed(1)
        images = torch.randn(24, 3, 8, 8, generator=stream).to(dtype)
        labels = torch.randint(0, SHAPE.classes, (count, 24), generator=stream)
        self.models = [initial_model(architecture, 2, SHAPE, seed).to(dtype) for seed in range(count)]
        self.data = [Split(images, own) for own in labels]
        self.configs = [
            dataclasses.replace(CONFIG, weight_decay=0.02 * k, momentum=0.9 - 0.2 * k, **changes)
            for k in range(count)
        ]
        self.batches = torch.randint(0, 24, (count, steps, size), generator=stream)
        self.rates = torch.rand(count, steps, generator=stream, dtype=torch.float64) / 20

    def engine(self, kind=StackEngine, device="cpu", **given):
        return kind(copy.deepcopy(self.models), self.data, self.configs, device, **given)

    def pair(self, **given):
        return self.engine(LoopEngine), self.engine(**given)


def assert_same_training(plain, stacked, lanes, bound=1e-9):
    for lane in lanes:
        wanted, found = plain.weights(lane), stacked.weights(lane)
        assert list(found) == list(wanted)
        for name, value in wanted.items():
            assert found[name].dtype == value.dtype
            torch.testing.assert_close(found[name], value, rtol=bound, atol=bound, msg=name)


def assert_all_steps_alike(case, plain, stacked):
    wanted, found = plain.advance(case.batches, case.rates), stacked.advance(case.batches, case.rates)
    torch.testing.assert_close(found.losses, wanted.losses, rtol=1e-9, atol=1e-9)
    assert_same_training(plain, stacked, range(len(case.models)))


def assert_equal(first, second):
    """To the bit, entry by entry."""
    assert list(first) == list(second)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("architecture", ["mlp", "cnn", "resnet18"])
def test_models_equal_the_plain_loop(architecture, way):
    """Twenty steps, each model with labels, rates, momentum and weight decay of its own."""
    case = Case(architecture)
    plain, stacked = case.pair(way=way)
    assert stacked.way == way
    for first in range(0, 20, 10):
        part = slice(first, first + 10)
        wanted = plain.advance(case.batches[:, part], case.rates[:, part])
        found = stacked.advance(case.batches[:, part], case.rates[:, part])
        torch.testing.assert_close(found.losses, wanted.losses, rtol=1e-9, atol=1e-9)
        assert torch.equal(found.wrong, wanted.wrong)
        assert_same_training(plain, stacked, range(3))


def test_momentum_equals_that_of_the_plain_loop():
    case = Case()
    plain, stacked = case.pair(way=Way("bmm"))
    for engine in (plain, stacked):
        engine.advance(case.batches, case.rates)
    for lane in range(3):
        wanted, found = plain.state(lane), stacked.state(lane)
        assert list(found) == list(wanted)
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9, msg=name)


def test_images_of_their_own():
    case = Case()
    case.data = [Split(split.images[k:] + k, split.labels[k:]) for k, split in enumerate(case.data)]
    case.batches %= 22
    plain, stacked = case.pair(way=Way("grouped"))
    wanted, found = (engine.advance(case.batches, case.rates).losses for engine in (plain, stacked))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_a_smaller_last_batch_and_segments_of_several_parts(monkeypatch):
    monkeypatch.setattr(stack, "STEPS_AT_ONCE", WARM_UPS)
    case = Case()
    plain, stacked = case.pair(way=Way("grouped"))
    for batches in (case.batches[:, :7], case.batches[:, :1, :4], case.batches[:, 7:]):
        rates = case.rates[:, : batches.shape[1]]
        wanted, found = plain.advance(batches, rates), stacked.advance(batches, rates)
        torch.testing.assert_close(found.losses, wanted.losses, rtol=1e-9, atol=1e-9)
    assert_same_training(plain, stacked, range(3))


def test_one_model_alone():
    case = Case(count=1)
    plain, stacked = case.pair()
    assert stacked.way == SINGLE
    wanted, found = plain.advance(case.batches, case.rates), stacked.advance(case.batches, case.rates)
    torch.testing.assert_close(found.losses, wanted.losses, rtol=1e-9, atol=1e-9)
    assert_same_training(plain, stacked, [0])


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_model_that_diverges_leaves_the_others_as_they_are(way):
    """Its loss is not finite, nor are its activations and gradients in all the steps that follow."""
    case = Case(steps=8)
    calm = case.engine(way=way)
    wanted = calm.advance(case.batches, case.rates)
    case.rates[1, 2] = 1e200
    plain, stacked = case.pair(way=way)
    found = stacked.advance(case.batches, case.rates)
    for lane in (0, 2):
        assert torch.equal(found.losses[lane], wanted.losses[lane])
        assert_equal(stacked.weights(lane), calm.weights(lane))
    assert found.losses[1].isfinite().tolist() == [True] * 3 + [False] * 5
    assert found.losses[1].isnan().sum() == 5
    assert found.wrong[1, 3:].tolist() == [0] * 5
    oracle = plain.advance(case.batches, case.rates)
    assert torch.equal(found.losses.isnan(), oracle.losses.isnan())
    assert torch.equal(found.wrong, oracle.wrong)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_stopped_model_stays_as_it_is(way):
    case = Case()
    plain, stacked = case.pair(way=way)
    for engine in (plain, stacked):
        engine.advance(case.batches[:, :5], case.rates[:, :5])
    before = stacked.state(1)
    for engine in (plain, stacked):
        engine.stop(1)
    wanted, found = (engine.advance(case.batches[:, 5:], case.rates[:, 5:]) for engine in (plain, stacked))
    assert_equal(stacked.state(1), before)
    assert found.losses[1].isnan().all()
    assert not found.wrong[1].any()
    assert torch.equal(found.wrong, wanted.wrong)
    assert_same_training(plain, stacked, range(3))


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_restored_engine_goes_on_to_the_bit(way):
    case = Case(dtype=torch.float32)
    first = case.engine(way=way)
    first.advance(case.batches[:, :10], case.rates[:, :10])
    states = [first.state(lane) for lane in range(3)]
    second = case.engine(way=way)
    second.advance(case.batches[:, 5:9], case.rates[:, 5:9])
    for lane, state in enumerate(states):
        second.restore(lane, state)
        assert_equal(second.state(lane), state)
    wanted, found = (engine.advance(case.batches[:, 10:], case.rates[:, 10:]) for engine in (first, second))
    assert torch.equal(found.losses, wanted.losses)
    for lane in range(3):
        assert_equal(first.state(lane), second.state(lane))


def test_states_are_copies():
    case = Case(steps=2)
    engine = case.engine()
    first = engine.state(0)
    kept = copy.deepcopy(first)
    engine.advance(case.batches, case.rates)
    assert_equal(first, kept)
    assert not torch.equal(engine.weights(0)["0.weight"], kept["weights.0.weight"])


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_scores_equal_those_of_the_plain_loop(way):
    case = Case()
    plain, stacked = case.pair(way=way)
    plain.advance(case.batches, case.rates)
    states = [plain.weights(lane) for lane in (0, 2)]
    images, labels = case.data[0].images[:23].repeat(2, 1, 1, 1), case.data[0].labels[:23].repeat(2)
    for split in (Split(images, labels), Split(images, torch.stack([labels, labels.flip(0)]))):
        for found, wanted in zip(stacked.scores(states, split), plain.scores(states, split), strict=True):
            assert found == pytest.approx(wanted, rel=1e-9)
    assert stacked.scores([], split) == []
    assert stacked.scores(states[1:], split._replace(labels=labels)) == [
        pytest.approx(plain.scores(states[1:], split._replace(labels=labels))[0], rel=1e-9)
    ]


def test_scores_need_an_image():
    case = Case()
    engine = case.engine()
    with pytest.raises(ValueError, match="cannot evaluate on 0 images; give at least 1"):
        engine.scores([engine.weights(0)], Split(case.data[0].images[:0], case.data[0].labels[:0]))


class Tied(nn.Module):
    """Two layers share a weight, which side by side would be two."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(192, 192), nn.Linear(192, 192)
        self.second.weight = self.first.weight
        self.head = nn.Linear(192, SHAPE.classes)
        self.head.weight.requires_grad_(False)

    def forward(self, x):
        return self.head(torch.relu(self.second(torch.relu(self.first(x.flatten(1))))))


class Scaled(nn.Module):
    """A number that is each model's own, which side by side would be all models'."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(192, SHAPE.classes)
        self.register_buffer("scale", torch.rand(()))

    def forward(self, x):
        return self.layer(x.flatten(1)) * self.scale


class Mixing(nn.Sequential):
    """A network that looks at all channels at once, so that models side by side would see each other."""

    def forward(self, x):
        return super().forward(x - x.mean((1, 2, 3), keepdim=True))


def mixing():
    return Mixing(
        nn.Conv2d(3, 4, 3, bias=False), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(144, SHAPE.classes)
    )


@pytest.mark.parametrize("way", [Way("grouped"), Way("lanes")], ids=str)
@pytest.mark.parametrize("build", [Tied, Scaled, mixing])
def test_models_that_cannot_be_joined_train_one_after_the_other(build, way):
    case = Case()
    torch.manual_seed(0)
    case.models = [build().double() for _ in range(3)]
    plain, stacked = case.pair(way=way)
    assert stacked.way == SINGLE
    assert_all_steps_alike(case, plain, stacked)


class Halving(nn.Conv2d):
    """A convolution that is another in training."""

    def forward(self, x):
        return self._conv_forward(x, self.weight * 0.5 if self.training else self.weight, self.bias)


def halving():
    return nn.Sequential(Halving(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, SHAPE.classes))


def test_a_layer_of_ones_own_is_computed_as_it_is():
    case = Case()
    torch.manual_seed(0)
    case.models = [halving().double() for _ in range(3)]
    plain, stacked = case.pair(way=Way("lanes"))
    assert stacked.way == Way("grouped")
    assert_all_steps_alike(case, plain, stacked)


def unusual():
    """Convolutions with bias, strides and margins of two kinds, dilation, groups, and frozen parameters."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, (3, 2), stride=(1, 2), padding=(2, 0)),
        nn.BatchNorm2d(4, momentum=0.3),
        nn.Conv2d(4, 4, 3, dilation=2, padding="same"),
        nn.Conv2d(4, 4, 1, groups=2),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(40, SHAPE.classes, bias=False),
    )
    model[0].bias.requires_grad_(False)
    return model


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_unusual_layers(way):
    case = Case()
    torch.manual_seed(0)
    case.models = [unusual().double() for _ in range(3)]
    plain, stacked = case.pair(way=way)
    assert stacked.way == (
        Way("grouped") if way.kind == "lanes" else way
    )  # no kernel knows groups or dilation
    assert_all_steps_alike(case, plain, stacked)


def uneven():
    """A kernel and margins that differ by axis, biases, a frozen one, and images of several pixels at the head."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, (3, 2), stride=2, padding=(2, 0)),
        nn.BatchNorm2d(4, momentum=0.3),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, SHAPE.classes, bias=False),
    )
    model[0].bias.requires_grad_(False)
    return model


def test_layers_that_lanes_know():
    case = Case()
    torch.manual_seed(0)
    case.models = [uneven().double() for _ in range(3)]
    plain, stacked = case.pair(way=Way("lanes"))
    assert stacked.way == Way("lanes")
    assert_all_steps_alike(case, plain, stacked)


def test_without_triton_a_gpu_computes_lanes_as_groups(monkeypatch):
    images, models = torch.randn(4, 3, 8, 8), [initial_model("cnn", 2, SHAPE, 0)] * 2
    assert possible_way(Way("lanes"), models, images, "cuda") == Way("lanes" if has_kernels() else "grouped")
    monkeypatch.setattr("zoo.engines.stack_network.has_kernels", lambda: False)
    assert possible_way(Way("lanes"), models, images, "cuda") == Way("grouped")
    assert possible_way(Way("lanes"), models, images, "cpu") == Way("lanes")


def test_the_way_is_chosen_by_width(monkeypatch):
    monkeypatch.setattr("zoo.engines.stack_network.WAYS", ((2, Way("bmm")), (8, Way("grouped", True))))
    cnn, mlp = (initial_model(architecture, 2, SHAPE, 0) for architecture in ("cnn", "mlp"))
    chosen = [way_for(cnn, width) for width in (1, 2, 3, 8, 9)]
    assert chosen == [Way("bmm")] * 2 + [Way("grouped", True)] * 2 + [SINGLE]
    assert way_for(mlp, 1000) == Way("grouped")
    assert can_be_joined(cnn, torch.randn(4, 3, 8, 8))


def test_a_cumulative_batch_norm_is_left_to_the_loop():
    case = Case()
    for model in case.models:
        model[1].momentum = None
    with pytest.raises(ValueError, match=r"BatchNorm '1' has momentum None.*use the engine 'loop'"):
        case.engine()


def test_bfloat16_is_near_float32():
    case = Case(steps=5, dtype=torch.float32)
    wanted = case.engine().advance(case.batches, case.rates).losses
    case.configs = [dataclasses.replace(config, precision="bfloat16") for config in case.configs]
    found = case.engine().advance(case.batches, case.rates).losses
    assert found.dtype == torch.float32
    assert 1e-6 < (found - wanted).abs().max() < 0.1


class FakeRecorder:
    """Runs a step as often as a recording warms up, with the same care, and gives back the step itself."""

    def record(self, work, changed):
        with unchanged(changed):
            for _ in range(WARM_UPS):
                work()
        return work


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("warm_up", [1.0, math.inf])
def test_a_recording_changes_nothing(way, warm_up):
    """Weights, momentum, running statistics and who is live are as before, whichever batch size comes when.

    Recordings warm up on image 0, which training does not see; every model diverges on an infinite one.
    """
    case = Case(dtype=torch.float32)
    case.data[0].images[0] *= warm_up
    case.batches.clamp_(min=1)
    plain, stacked = case.engine(way=way), case.engine(way=way)
    stacked._recorder = FakeRecorder()
    for batches in (case.batches[:, :7], case.batches[:, 7:8, :4], case.batches[:, 8:]):
        rates = case.rates[:, : batches.shape[1]]
        wanted, found = plain.advance(batches, rates), stacked.advance(batches, rates)
        assert wanted.losses.isfinite().all()
        assert torch.equal(found.losses, wanted.losses)
    for lane in range(3):
        assert_equal(plain.state(lane), stacked.state(lane))


def test_a_step_that_cannot_be_recorded_says_so():
    class Failing:
        def record(self, work, changed):
            raise failure

    case = Case()
    engine = case.engine()
    engine._recorder = Failing()
    failure = RuntimeError("operation not permitted when stream is capturing\nmore")
    message = (
        r"a step of Sequential cannot be recorded as a CUDA graph \(operation .* capturing\); train it with"
    )
    with pytest.raises(RuntimeError, match=message):
        engine.advance(case.batches, case.rates)
    failure = torch.OutOfMemoryError("too large")
    with pytest.raises(torch.OutOfMemoryError, match="too large"):
        engine.advance(case.batches, case.rates)


@on_cuda
@pytest.mark.parametrize("way", LAYOUTS, ids=str)
@pytest.mark.parametrize("architecture", ["mlp", "cnn", "resnet18"])
def test_recorded_steps_equal_unrecorded_ones(architecture, way):
    """To the bit, over two batch sizes, a stop and a divergence."""
    case = Case(architecture, dtype=torch.float32)
    case.rates[1, 12] = 1e30
    recorded, plain = case.engine(device="cuda", way=way), case.engine(device="cuda", way=way)
    plain._recorder = None
    for batches in (case.batches[:, :7], case.batches[:, 7:8, :4], case.batches[:, 8:]):
        rates = case.rates[:, : batches.shape[1]]
        wanted, found = plain.advance(batches, rates), recorded.advance(batches, rates)
        assert torch.equal(found.losses.nan_to_num(-1), wanted.losses.nan_to_num(-1))
        assert torch.equal(found.wrong, wanted.wrong)
        for engine in (recorded, plain):
            engine.stop(2)
    for lane in (0, 2):
        assert_equal(recorded.state(lane), plain.state(lane))


@on_cuda
@pytest.mark.parametrize("way", LAYOUTS, ids=str)
def test_a_model_that_diverges_on_the_device_leaves_the_others_as_they_are(way):
    case = Case("resnet18", dtype=torch.float32)
    calm = case.engine(device="cuda", way=way).advance(case.batches, case.rates).losses
    case.rates[1, 2] = math.inf
    found = case.engine(device="cuda", way=way).advance(case.batches, case.rates).losses
    assert torch.equal(found[[0, 2]], calm[[0, 2]])
    assert found[1, 3:].isnan().all()


@on_cuda
@pytest.mark.parametrize("way", LAYOUTS, ids=str)
def test_the_first_steps_on_the_device_equal_the_plain_loop(way):
    case = Case("resnet18", steps=5)
    plain = case.engine(LoopEngine, device="cuda").advance(case.batches, case.rates).losses
    found = case.engine(device="cuda", way=way).advance(case.batches, case.rates).losses
    torch.testing.assert_close(found, plain, rtol=1e-9, atol=1e-9)
