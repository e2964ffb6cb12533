"""The lane engine against the plain loop: the same runs, in any lane, in any company."""

import ctypes
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from benchmarks.compare_engines import LEVEL, holm, p_values
from zoo.config import Run, TrainConfig
from zoo.datasets import DataSource, Split, load_dataset, select
from zoo.engines import lane_library, lanes
from zoo.engines.lane_library import Data, Network, builds, library
from zoo.engines.lane_network import UnsupportedModelError, describe
from zoo.engines.lanes import LaneEngine
from zoo.engines.loop import LoopEngine
from zoo.models import BasicBlock, GlobalAverage, ImageShape, build_model, initial_model
from zoo.stacks import Stack
from zoo.training import train_stack

pytestmark = pytest.mark.skipif(
    library() is None, reason="the lane kernels were not compiled, or cannot run here"
)

IMAGES = 96


def config(architecture: str, width: int, batch: int, **more) -> TrainConfig:
    return TrainConfig("noise", "f", architecture, width, batch, IMAGES, 1_000, **more)


def noise(shape: ImageShape, dtype: torch.dtype, seed: int = 0) -> Split:
    """Random images and labels."""
    stream = torch.Generator().manual_seed(seed)
    images = torch.randn(
        IMAGES, shape.channels, *[shape.image_size] * 2, generator=stream, dtype=torch.float64
    )
    return Split(images.to(dtype), torch.randint(0, shape.classes, (IMAGES,), generator=stream))


def models(
    architecture: str, width: int, shape: ImageShape, count: int, dtype: torch.dtype
) -> list[nn.Module]:
    return [initial_model(architecture, width, shape, seed).to(dtype) for seed in range(count)]


def batches(count: int, steps: int, size: int, seed: int = 1) -> Tensor:
    return torch.randint(0, IMAGES, (count, steps, size), generator=torch.Generator().manual_seed(seed))


def both(architecture, width, shape, batch, count, dtype, steps, **more):
    """The engines after the same steps, with what these brought: every lane has its own rate, decay and labels."""
    configs = [
        config(architecture, width, batch, weight_decay=1e-3 * (k % 3), momentum=0.9 - 0.1 * (k % 2), **more)
        for k in range(count)
    ]
    splits = [noise(shape, dtype), noise(shape, dtype, seed=5)]
    own = [Split(splits[0].images, splits[k % 2].labels) for k in range(count)]
    rates = (0.02 + 0.01 * torch.arange(count, dtype=torch.float64)).unsqueeze(1).repeat(1, steps)
    rows = batches(count, steps, batch)
    engines = [
        engine(models(architecture, width, shape, count, dtype), own, configs, "cpu")
        for engine in (LoopEngine, LaneEngine)
    ]
    return engines, [engine.advance(rows, rates) for engine in engines]


EDGES = [
    # architecture, width, channels, pixels, classes, batch, models
    ("mlp", 1, 1, 3, 10, 1, 1),
    ("mlp", 7, 2, 5, 1, 6, 5),
    ("mlp", 32, 1, 9, 10, 33, 9),
    ("cnn", 1, 1, 4, 2, 6, 3),
    ("cnn", 1, 1, 14, 10, 1, 2),
    ("cnn", 3, 3, 13, 10, 7, 5),
    ("cnn", 5, 2, 7, 1_000, 5, 4),
    ("cnn", 4, 1, 14, 1, 8, 8),
    ("cnn", 8, 1, 28, 10, 4, 2),
    ("cnn", 32, 1, 12, 10, 3, 2),
    ("resnet18", 1, 1, 9, 10, 4, 3),
    ("resnet18", 2, 3, 16, 10, 5, 4),
    ("resnet18", 3, 1, 15, 3, 4, 2),
]


@pytest.mark.parametrize(("architecture", "width", "channels", "pixels", "classes", "batch", "count"), EDGES)
def test_in_double_precision_a_lane_is_the_plain_loop(
    architecture, width, channels, pixels, classes, batch, count
):
    """Losses of 50 steps to 1e-10, the chaos of training apart: of the networks that go wild to what they spread."""
    shape = ImageShape(channels, pixels, classes)
    engines, (plain, fast) = both(architecture, width, shape, batch, count, torch.float64, steps=50)
    scale = plain.losses.abs().max().clamp(min=1)
    torch.testing.assert_close(fast.losses, plain.losses, rtol=0, atol=1e-10 * scale.item())
    assert torch.equal(fast.wrong, plain.wrong)
    for lane in range(count):
        ours, theirs = (engine.weights(lane) for engine in reversed(engines))
        assert list(ours) == list(theirs)
        for name, value in theirs.items():
            assert ours[name].dtype == value.dtype
            torch.testing.assert_close(ours[name], value, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(("architecture", "width"), [("mlp", 8), ("cnn", 2), ("cnn", 16)])
def test_in_single_precision_it_begins_as_the_plain_loop(architecture, width):
    """On real images: the same weights to the bit, then losses within 1e-5 at step 1 and 1e-3 over 5."""
    digits = load_dataset(DataSource("digits"))
    own = TrainConfig("digits", digits.fingerprint, architecture, width, 32, 1_000, 1_000)
    data, shape = select(digits, own).train, ImageShape(1, 8, 10)
    rows = torch.randint(0, 1_000, (4, 5, 32), generator=torch.Generator().manual_seed(0))
    found = []
    for engine in (LoopEngine, LaneEngine):
        made = engine(models(architecture, width, shape, 4, torch.float32), [data] * 4, [own] * 4, "cpu")
        for lane, start in enumerate(models(architecture, width, shape, 4, torch.float32)):
            assert all(
                torch.equal(made.weights(lane)[name], value) for name, value in start.state_dict().items()
            )
        found.append(made.advance(rows, torch.full((4, 5), 0.05, dtype=torch.float64)).losses)
    difference = (found[0] - found[1]).abs()
    assert difference[:, 0].max() < 1e-5
    assert difference.max() < 1e-3


@pytest.mark.parametrize("count", [1, 13, 16])
def test_a_run_is_the_same_in_any_lane_and_company(count):
    """To the bit: alone, with others, at another place, with idle lanes."""
    shape, dtype = ImageShape(1, 14, 10), torch.float32
    split, own = noise(shape, dtype), config("cnn", 3, 8)

    def trained(seeds):
        made = [initial_model("cnn", 3, shape, seed) for seed in seeds]
        engine = LaneEngine(made, [split] * len(seeds), [own] * len(seeds), "cpu")
        rows = torch.stack([batches(1, 20, 8, seed=seed)[0] for seed in seeds])
        losses = engine.advance(rows, torch.full((len(seeds), 20), 0.1, dtype=torch.float64)).losses
        return {seed: (losses[lane], engine.weights(lane)) for lane, seed in enumerate(seeds)}

    alone, together = trained([0]), trained(list(range(count))[::-1])
    assert torch.equal(alone[0][0], together[0][0])
    assert all(torch.equal(value, together[0][1][name]) for name, value in alone[0][1].items())


def test_a_lane_that_diverges_leaves_the_others_alone():
    shape, dtype = ImageShape(1, 8, 10), torch.float32
    split = noise(shape, dtype)

    def trained(rate):
        engine = LaneEngine(models("mlp", 8, shape, 3, dtype), [split] * 3, [config("mlp", 8, 8)] * 3, "cpu")
        rates = torch.tensor([0.1, rate, 0.1], dtype=torch.float64).unsqueeze(1).repeat(1, 30)
        return engine, engine.advance(batches(3, 30, 8), rates)

    wild, calm = trained(1e20), trained(0.1)
    assert wild[1].losses[1, 0].isfinite()
    first = int(wild[1].losses[1].isfinite().sum())
    assert 0 < first < 30
    assert wild[1].losses[1, first:].isnan().all()
    assert not wild[1].wrong[1, first:].any()
    for lane in (0, 2):
        assert torch.equal(wild[1].losses[lane], calm[1].losses[lane])
        assert all(torch.equal(v, wild[0].weights(lane)[n]) for n, v in calm[0].weights(lane).items())
    again = wild[0].advance(batches(3, 2, 8), torch.full((3, 2), 0.1, dtype=torch.float64))
    assert again.losses[1].isnan().all()
    assert again.losses[0].isfinite().all()


def test_when_all_have_diverged_the_rest_is_not_computed():
    shape = ImageShape(1, 8, 10)
    split = noise(shape, torch.float32)
    engine = LaneEngine(
        models("mlp", 8, shape, 2, torch.float32), [split] * 2, [config("mlp", 8, 8)] * 2, "cpu"
    )
    found = engine.advance(batches(2, 40, 8), torch.full((2, 40), 1e25, dtype=torch.float64))
    assert found.losses[:, -1].isnan().all()
    assert not found.wrong[:, -1].any()


def test_a_model_that_is_stopped_stays_as_it_is():
    shape, dtype = ImageShape(1, 14, 10), torch.float32
    split = noise(shape, dtype)
    engine = LaneEngine(models("cnn", 2, shape, 2, dtype), [split] * 2, [config("cnn", 2, 8)] * 2, "cpu")
    rates = torch.full((2, 5), 0.1, dtype=torch.float64)
    engine.advance(batches(2, 5, 8), rates)
    before = engine.weights(0), engine.weights(1)
    engine.stop(0)
    found = engine.advance(batches(2, 5, 8), rates)
    assert found.losses[0].isnan().all()
    assert found.losses[1].isfinite().all()
    assert all(torch.equal(value, engine.weights(0)[name]) for name, value in before[0].items())
    assert not torch.equal(before[1]["0.weight"], engine.weights(1)["0.weight"])


@pytest.mark.parametrize(("first", "second"), [(LaneEngine, LaneEngine), (LoopEngine, LaneEngine)])
def test_it_goes_on_from_a_state(first, second):
    """To the bit from its own; from the plain loop's too, as both keep weights and momentum by their names."""
    shape, dtype = ImageShape(1, 14, 10), torch.float64
    split, own = noise(shape, dtype), config("cnn", 2, 8)
    rates, rows = torch.full((2, 6), 0.1, dtype=torch.float64), batches(2, 6, 8)

    def engine(kind):
        return kind(models("cnn", 2, shape, 2, dtype), [split] * 2, [own] * 2, "cpu")

    whole = engine(LaneEngine)
    whole.advance(rows, rates)
    begun, ended = engine(first), engine(second)
    begun.advance(rows[:, :4], rates[:, :4])
    for lane in range(2):
        ended.restore(lane, begun.state(lane))
    ended.advance(rows[:, 4:], rates[:, 4:])
    for name, value in whole.weights(1).items():
        found = ended.weights(1)[name]
        assert torch.equal(found, value) if first is second else torch.allclose(found, value, atol=1e-9)


def test_scores_are_those_of_the_plain_way():
    shape, dtype = ImageShape(3, 9, 10), torch.float64
    split, own = noise(shape, dtype), config("cnn", 3, 8)
    several = Split(split.images, torch.stack([split.labels, split.labels.flip(0)]))
    kinds = [
        kind(models("cnn", 3, shape, 2, dtype), [split] * 2, [own] * 2, "cpu")
        for kind in (LoopEngine, LaneEngine)
    ]
    kinds[1].advance(batches(2, 5, 8), torch.full((2, 5), 0.1, dtype=torch.float64))
    weights = [kinds[1].weights(lane) for lane in range(2)]
    for side in (split, several):
        plain, fast = (engine.scores(weights, side) for engine in kinds)
        assert fast == [pytest.approx(own, rel=1e-12) for own in plain]


@pytest.mark.parametrize("build", builds())
def test_every_build_gives_the_same_runs(build):
    """An instruction set decides how many models are computed at once, and nothing of what is computed."""
    kernels = library(build)
    if kernels is None:
        pytest.skip(f"the build {build} is not there")
    shape = ImageShape(1, 14, 10)
    split = noise(shape, torch.float32)

    def losses(loaded: Callable[[], ctypes.CDLL | None]) -> Tensor:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lane_library, "library", loaded)
            engine = LaneEngine(
                models("cnn", 4, shape, 3, torch.float32), [split] * 3, [config("cnn", 4, 8)] * 3, "cpu"
            )
            return engine.advance(batches(3, 10, 8), torch.full((3, 10), 0.1, dtype=torch.float64)).losses

    torch.testing.assert_close(losses(lambda: kernels), losses(library), rtol=1e-5, atol=1e-5)


def test_a_stack_of_the_paper_recipe_trains_in_lanes_too():
    """Whole epochs with a smaller last batch, and weights kept on the way."""
    digits = load_dataset(DataSource("digits"))
    own = TrainConfig(
        *("digits", digits.fingerprint, "cnn", 2, 32, 90, 270),
        **{"recipe": "paper", "schedule": "constant", "warm_up": 0.0, "learning_rate": 0.05},
    )
    stack = Stack((Run(own, 0), Run(own, 1)))
    plain, fast = train_stack(stack, digits), train_stack(stack, digits, "lanes")
    for one, two in zip(plain, fast, strict=True):
        assert (one.status, one.steps, one.checkpoint_epoch) == (two.status, two.steps, two.checkpoint_epoch)
        assert two.final_loss == pytest.approx(one.final_loss, rel=1e-3)
        assert two.scores["test_loss"] == pytest.approx(one.scores["test_loss"], rel=1e-2)


def test_batch_norm_of_a_single_value_is_refused_as_in_torch():
    shape = ImageShape(1, 2, 3)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, 2, 1, bias=False), nn.BatchNorm2d(2), nn.ReLU(), GlobalAverage(), nn.Linear(2, 3)
    )
    engine = LaneEngine([model], [noise(shape, torch.float32)], [config("cnn", 1, 1)], "cpu")
    with pytest.raises(
        ValueError, match="1 value a channel and has no variance; use a larger batch or image"
    ):
        engine.advance(batches(1, 1, 1), torch.ones(1, 1, dtype=torch.float64))


def test_other_devices_are_refused():
    with pytest.raises(ValueError, match="device is 'cuda'; lanes are the CPU's, use the engine 'loop'"):
        LaneEngine(
            [nn.Linear(1, 1)], [noise(ImageShape(1, 2, 2), torch.float32)], [config("mlp", 1, 1)], "cuda"
        )


def test_without_kernels_the_engine_says_what_to_use(monkeypatch):
    monkeypatch.setattr(lane_library, "library", lambda build=None: None)
    shape = ImageShape(1, 8, 10)
    with pytest.raises(
        RuntimeError,
        match=r"installed without a C.. compiler, or .* has neither AVX2 nor NEON; use the engine 'loop'",
    ):
        LaneEngine(
            models("mlp", 2, shape, 1, torch.float32),
            [noise(shape, torch.float32)],
            [config("mlp", 2, 8)],
            "cpu",
        )


def test_images_that_are_not_contiguous_are_refused_before_they_are_read():
    image = torch.zeros(4, 4).T
    with pytest.raises(ValueError, match="not contiguous; call contiguous"):
        lane_library.Data.of([image], [torch.zeros(4).long()], torch.zeros(1, 1, dtype=torch.int64), 2)


def test_no_memory_for_it():
    made = describe(build_model("mlp", 2, ImageShape(1, 8, 10)), (1, 8, 8))
    with pytest.raises(MemoryError, match=r"no memory for .* models and a batch of 2147483647 images"):
        Network(made, 2**31 - 1)


@pytest.mark.parametrize("architecture", ["mlp", "cnn", "resnet18"])
@pytest.mark.parametrize("width", [1, 5, 8])
def test_places_are_a_permutation_of_the_parameters(architecture, width):
    shape = ImageShape(3, 16, 10)
    model = build_model(architecture, width, shape)
    network = Network(describe(model, (3, 16, 16)), 2)
    count = sum(p.numel() for p in model.parameters())
    assert torch.equal(network.places.sort().values, torch.arange(count))


@pytest.mark.parametrize(
    ("rows", "labels", "said"),
    [
        (IMAGES, 0, "a row is 96; it has to be at least 0 and below 96"),
        (-1, 0, "a row is -1; it has to be at least 0 and below 96"),
        (0, 10, "a label is 10; it has to be at least 0 and below 10"),
        (0, -100, "a label is -100; it has to be at least 0 and below 10"),
    ],
)
def test_nothing_is_read_that_is_not_there(rows, labels, said):
    """The kernels trust what they are given; so rows and labels are looked at before."""
    split = noise(ImageShape(1, 8, 10), torch.float32)
    split.labels[7] = labels
    own = [config("mlp", 2, 8)]
    engine = LaneEngine(models("mlp", 2, ImageShape(1, 8, 10), 1, torch.float32), [split], own, "cpu")
    wrong = batches(1, 2, 8)
    wrong[0, 1, 3] = rows
    with pytest.raises(ValueError, match=said):
        engine.advance(wrong, torch.full((1, 2), 0.1, dtype=torch.float64))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (
            torch.zeros(96, dtype=torch.uint8),
            r"labels are torch.uint8 \[96\]; give one of int64 for each image",
        ),
        (torch.zeros(96, 3, dtype=torch.int64), r"labels are torch.int64 \[96, 3\]; give one of int64"),
        (torch.zeros(5, dtype=torch.int64), "a row is 95; it has to be at least 0 and below 5"),
    ],
)
def test_labels_are_a_number_for_each_image(labels, said):
    images = [torch.zeros(96, 1, 8, 8)]
    with pytest.raises(ValueError, match=said):
        Data.of(images, [labels], torch.arange(96).unsqueeze(0), 10)


def test_a_batch_larger_than_planned_is_refused():
    split, own = noise(ImageShape(1, 8, 10), torch.float32), [config("mlp", 2, 8)]
    engine = LaneEngine(models("mlp", 2, ImageShape(1, 8, 10), 1, torch.float32), [split], own, "cpu")
    with pytest.raises(ValueError, match="a batch of 9 images is more than the 8 that were planned for"):
        engine.advance(batches(1, 2, 9), torch.full((1, 2), 0.1, dtype=torch.float64))


def linear(*before: nn.Module, inputs: int = 4) -> nn.Sequential:
    return nn.Sequential(*before, nn.Linear(inputs, 2))


UNKNOWN = {
    "grouped": linear(
        nn.Conv2d(2, 4, 3, padding=1, groups=2, bias=False), nn.BatchNorm2d(4), nn.ReLU(), GlobalAverage()
    ),
    "with a bias": linear(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), GlobalAverage()),
    "unpadded": linear(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), GlobalAverage()),
    "5x5": linear(nn.Conv2d(2, 4, 5, padding=2, bias=False), nn.BatchNorm2d(4), nn.ReLU(), GlobalAverage()),
    "other momentum": linear(
        nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4, momentum=0.5), nn.ReLU(), GlobalAverage()
    ),
    "a convolution without BatchNorm": linear(
        nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.ReLU(), GlobalAverage()
    ),
    "a convolution at the end": nn.Sequential(nn.Conv2d(2, 4, 1, bias=False), nn.Flatten()),
    "other function": linear(nn.Flatten(), nn.Linear(128, 4), nn.GELU()),
    "overlapping pool": linear(
        *(
            nn.Conv2d(2, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            GlobalAverage(),
        )
    ),
    "pool before the ReLU": linear(
        *(
            nn.Conv2d(2, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.MaxPool2d(2),
            nn.ReLU(),
            GlobalAverage(),
        )
    ),
    "two layers without a ReLU": linear(nn.Flatten(), nn.Linear(128, 4), nn.Linear(4, 4), nn.ReLU()),
    "no bias": nn.Sequential(nn.Flatten(), nn.Linear(128, 2, bias=False)),
    "flattened images": nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 2),
    ),
    "ends in a ReLU": nn.Sequential(nn.Flatten(), nn.Linear(128, 2), nn.ReLU()),
    "a ReLU alone": nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(128, 2)),
    "no convolution before a block": nn.Sequential(BasicBlock(2, 2, 1), GlobalAverage(), nn.Linear(2, 2)),
    "other channels": linear(
        nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), GlobalAverage()
    ),
}


LAYER = nn.Linear(4, 4)
UNKNOWN["a layer that stands twice"] = linear(
    nn.Flatten(), nn.Linear(128, 4), nn.ReLU(), LAYER, nn.ReLU(), LAYER, nn.ReLU()
)
TIED = linear(
    nn.Flatten(), nn.Linear(128, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU()
)
TIED[3].weight = TIED[5].weight
UNKNOWN["weights that two layers share"] = TIED
HOOKED = linear(nn.Flatten(), nn.Linear(128, 4), nn.ReLU())
HOOKED[1].register_forward_hook(lambda module, given, made: 2 * made)
UNKNOWN["a hook"] = HOOKED


def test_modules_without_weights_may_stand_in_a_model_several_times():
    """One ReLU and one pooling for all layers, as many write it: each place counts."""
    relu, pool = nn.ReLU(), nn.MaxPool2d(2)

    def layer(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), relu]

    parts = [*layer(1, 2), pool, *layer(2, 3), pool, *layer(3, 4), GlobalAverage(), nn.Linear(4, 3)]
    model = nn.Sequential(*parts).double().eval()
    split = noise(ImageShape(1, 12, 3), torch.float64)
    engine = LaneEngine([model], [split], [config("cnn", 1, 8)], "cpu")
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model(split.images), split.labels).item()
    ((loss, _),) = engine.scores([model.state_dict()], split)
    assert math.isclose(loss, expected, rel_tol=1e-12)


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_lanes_do_not_know_is_said(name):
    with pytest.raises(UnsupportedModelError, match=r"unknown to lanes|is not a linear one|follows no layer"):
        describe(UNKNOWN[name], (2, 8, 8))


def test_a_module_of_ones_own_that_is_made_of_what_lanes_know():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Identity(), nn.Linear(5, 3)).double()
    split = noise(ImageShape(1, 4, 3), torch.float64)
    engine = lanes.LaneEngine([model], [split], [config("mlp", 1, 8)], "cpu")
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model(split.images), split.labels).item()
    ((loss, _),) = engine.scores([model.state_dict()], split)
    assert math.isclose(loss, expected, rel_tol=1e-12)


@pytest.mark.parametrize(("width", "batch", "noise_share"), [(1, 8, 0.0), (8, 64, 0.2)])
def test_over_64_seeds_its_networks_are_those_of_the_plain_loop(width, batch, noise_share):
    """Final errors by distribution, at two corners; `benchmarks/compare_engines.py` has all."""
    digits = load_dataset(DataSource("digits"))
    own = TrainConfig(
        *("digits", digits.fingerprint, "cnn", width, batch, 500, 60 * batch), label_noise=noise_share
    )
    assert min(holm(list(p_values(own, digits, seeds=64).values()))) > LEVEL


def test_engines_that_differ_are_told_apart(monkeypatch):
    """The same comparison sees a rate that is a third off."""
    digits = load_dataset(DataSource("digits"))
    own = TrainConfig("digits", digits.fingerprint, "cnn", 2, 16, 500, 960)
    advance = LaneEngine.advance
    monkeypatch.setattr(LaneEngine, "advance", lambda self, rows, rates: advance(self, rows, rates / 3))
    assert min(holm(list(p_values(own, digits, seeds=64).values()))) < LEVEL
