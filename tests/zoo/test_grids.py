"""Grids: every configuration once, in groups that could share a stack; made one by one, however many there are."""

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from zoo.config import TrainConfig
from zoo.grids import Grid, groups_of
from zoo.stacks import stack_key

BASE = {"dataset": ("digits",), "architecture": ("cnn",), "test_limit": (100,)}


def grid(seeds=(0, 1), **axes):
    values = {"width": (1, 2), "batch_size": (8, 16), "data_amount": (100, 200), "sample_passes": (1_000,)}
    return Grid({**BASE, **values, **axes}, tuple(seeds))


def runs_of(groups):
    return [(config, seed) for group in groups for config, seeds in group.configurations() for seed in seeds]


AXES = st.fixed_dictionaries(
    {},
    optional={
        "width": st.lists(st.integers(1, 4), min_size=1, max_size=3, unique=True).map(tuple),
        "label_noise": st.lists(st.sampled_from([0.0, 0.1, 0.2]), min_size=1, unique=True).map(tuple),
        "learning_rate": st.lists(st.sampled_from([0.1, 0.2]), min_size=1, unique=True).map(tuple),
        "seeds": st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True).map(tuple),
    },
)


@given(st.lists(AXES, min_size=1, max_size=3))
def test_groups_hold_every_run_of_the_grids_once(axes):
    grids = [(grid(**own), "f") for own in axes]
    groups = groups_of(grids)
    found = runs_of(groups)
    plainly = {(config, seed) for own, f in grids for config in own.configurations(f) for seed in own.seeds}
    assert len(found) == len(set(found))
    assert set(found) == plainly
    keys = [{stack_key(config) for config, _ in group.configurations()} for group in groups]
    assert all(len(own) == 1 for own in keys)
    assert len(set().union(*keys)) == len(groups), "what could share a stack is in one group"
    sizes = [group.size() for group in groups]
    assert sum(runs for _, runs in sizes) == len(found)
    assert sum(count for count, _ in sizes) == len({config for config, _ in found})


def test_the_longest_come_first():
    steps = [group.example.steps for group in groups_of([(grid(batch_size=(8, 16, 32)), "f")])]
    assert steps == sorted(steps, reverse=True)


def test_a_grid_is_the_product_of_its_axes():
    found = {(c.width, c.batch_size, c.data_amount) for c in grid().configurations("f")}
    assert found == set(product((1, 2), (8, 16), (100, 200)))
    assert len(grid()) == len(found)
    assert all(isinstance(config, TrainConfig) for config in grid().configurations("f"))
