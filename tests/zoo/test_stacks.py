"""Runs into stacks: every run once, equal shapes within, and no trace of it in an id."""

import dataclasses
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.config import Run, TrainConfig
from zoo.stacks import cut_stacks, stack_key

BASE = TrainConfig("digits", "f", "cnn", width=4, batch_size=32, data_amount=100, sample_passes=1_000)


def runs():
    for width in (1, 2):
        for batch_size in (8, 32):
            for label_noise in (0.0, 0.1):
                config = dataclasses.replace(
                    BASE, width=width, batch_size=batch_size, label_noise=label_noise
                )
                yield from (Run(config, seed) for seed in range(5))


@given(st.integers(1, 50), st.integers(0, 1_000))
def test_every_run_is_in_one_stack_whatever_the_order(size, shuffle):
    planned = list(runs())
    random.Random(shuffle).shuffle(planned)
    stacks = list(cut_stacks(planned, size))
    assert sorted(i for s in stacks for i in s.run_ids) == sorted(run.run_id for run in planned)
    assert all(len(s.runs) <= size and len({stack_key(run.config) for run in s.runs}) == 1 for s in stacks)
    assert stacks == list(cut_stacks(runs(), size))


def test_the_longest_come_first():
    steps = [s.runs[0].config.steps for s in cut_stacks(runs(), 4)]
    assert steps == sorted(steps, reverse=True)


def test_size_below_one():
    with pytest.raises(ValueError, match="stack size is 0; it has to be at least 1"):
        list(cut_stacks(runs(), 0))
