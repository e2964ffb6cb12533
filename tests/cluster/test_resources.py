"""What a task needs: an estimate from its size, corrected by what tasks took, and kept with the zoo."""

import dataclasses

import pytest
from torch import nn

from cluster.resources import BASE, BASE_ON_GPU, MARGIN, MIB, STEP, TIMES, Estimates, Line, size_of
from cluster.tasks import Gauge, Usage
from zoo.config import Run, TrainConfig
from zoo.models import ARCHITECTURES, ImageShape, count_parameters
from zoo.stacks import Stack
from zoo.storage import Folder

SHAPE = ImageShape(3, 32, 10)


def stack(width=8, runs=4, batch_size=128):
    config = TrainConfig("cifar10", "f", "resnet18", width, batch_size, 1_000, 10_000)
    return Stack(tuple(Run(config, seed) for seed in range(runs)))


def near(asked, expected):
    return MARGIN * expected <= asked * 1.000001 <= MARGIN * STEP * expected * 1.00001


def test_the_size_is_that_of_the_weights_and_of_what_the_layers_put_out():
    weights = count_parameters("resnet18", 8, SHAPE)
    two, four = size_of(stack(runs=2), SHAPE), size_of(stack(runs=4), SHAPE)
    assert four - two == 4 * 4 * 2 * weights
    small, large = size_of(stack(batch_size=8), SHAPE), size_of(stack(batch_size=16), SHAPE)
    outputs = (large - small) / 4 / 8
    assert outputs > 8 * 32 * 32 * 9, "nine layers of the first stage at least"
    assert size_of(stack(width=64), SHAPE) > 5 * size_of(stack(width=8), SHAPE)


def test_a_model_that_looks_at_values_has_a_size_too():
    class Looks(nn.Linear):
        def forward(self, images):
            return super().forward(images.flatten(1)) if images.any() else images

    ARCHITECTURES["looks"] = lambda width, shape: Looks(shape.pixels, shape.classes)
    try:
        config = dataclasses.replace(stack().example, architecture="looks")
        weights = SHAPE.pixels * SHAPE.classes + SHAPE.classes
        assert size_of(Stack((Run(config, 0),)), SHAPE) == 4 * 4 * weights
    finally:
        del ARCHITECTURES["looks"]


def test_an_estimate_begins_with_a_guess_and_follows_what_was_seen():
    line = Line(400 * MIB)
    assert near(line.at(100 * MIB), (400 + TIMES * 100) * MIB)
    line.see(1 * MIB, 300 * MIB)
    assert near(line.at(0), 300 * MIB)
    line.see(100 * MIB, 1_300 * MIB)
    assert near(line.at(100 * MIB), 1_300 * MIB)
    assert near(line.at(200 * MIB), 2_300 * MIB)
    line.see(100 * MIB, 500 * MIB)
    assert near(line.at(200 * MIB), 2_300 * MIB), "the largest counts"
    sizes = [line.at(size * MIB) for size in range(0, 2_000, 7)]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) < 25, "few kinds of requests"


def test_estimates_are_kept_with_the_zoo(tmp_path):
    store, size = Folder(tmp_path), 100 * MIB
    first = Estimates(store, "cpu")
    guess = first.need("train", size)
    first.see("train", size, Usage(3_000 * MIB))
    first.see("train", size, None)
    with pytest.raises(KeyboardInterrupt), first:
        raise KeyboardInterrupt
    again = Estimates(store, "cpu")
    assert again.need("train", size) == first.need("train", size) != guess
    assert again.need("measure", size).memory == Line(BASE).at(size)
    assert again.need("train", size).gpu_memory == 0
    store.write("resources.json", b"{}}")
    assert Estimates(store, "cpu").need("train", size) == guess


def test_on_a_gpu_the_size_is_there_and_the_host_holds_the_process(tmp_path):
    estimates = Estimates(Folder(tmp_path), "cuda")
    need = estimates.need("train", 100 * MIB)
    assert near(need.memory, BASE)
    assert near(need.gpu_memory, BASE_ON_GPU + TIMES * 100 * MIB)
    estimates.see("train", 100 * MIB, Usage(700 * MIB, 2_000 * MIB, 80_000 * MIB))
    need = estimates.need("train", 100 * MIB)
    assert near(need.gpu_memory, 2_000 * MIB + BASE_ON_GPU)
    assert near(need.memory, 700 * MIB)


def test_a_gauge_says_what_was_taken_meanwhile():
    gauge = Gauge()
    if gauge.read() is None:
        pytest.skip("this system does not say what a process takes")
    held = bytearray(200 * MIB)
    held[:: 1 << 10] = b"x" * len(held[:: 1 << 10])
    del held
    peak = gauge.read().memory
    assert Gauge().read().memory < peak - 150 * MIB, "from now on"
