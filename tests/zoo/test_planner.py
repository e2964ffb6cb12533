"""What a step costs, and what is chosen by it."""

import dataclasses
import json

import pytest
from torch import nn

from zoo import costs as costs_module
from zoo.config import TrainConfig
from zoo.costs import Case, Costs, calibrate, costs_here, costs_of, own_table, parts, told
from zoo.engines.lane_library import library
from zoo.grids import Grid, groups_of
from zoo.models import ARCHITECTURES, ImageShape, count_parameters, register_architecture, work_of
from zoo.planner import Planner
from zoo.stacks import STACK_SIZE
from zoo.storage import Folder

SHAPES = {"f": ImageShape(1, 28, 10)}
TABLE = Costs("made up", {"loop": (1e-3, 0, 0, 1e-11), "lanes": (0, 0, 0, 1e-10)})


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """A machine on which nobody has calibrated."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def config(width=4, batch=32, **more):
    return TrainConfig("d", "f", "cnn", width, batch, 1_000, 40_000, image_size=14, **more)


def test_work_of_a_network_by_hand():
    """The convolutions' products, and every module's outputs."""
    work = work_of("cnn", 2, ImageShape(1, 8, 10))
    assert work.multiply_adds == 64 * 9 * 2 + 16 * 9 * 2 * 4 + 4 * 9 * 4 * 8 + 8 * 10
    assert work.values == 3 * 64 * 2 + 16 * 2 + 3 * 16 * 4 + 4 * 4 + 3 * 4 * 8 + 8 + 10
    assert work.parameters == count_parameters("cnn", 2, ImageShape(1, 8, 10))
    assert work.modules == 13
    assert parts(work, 3) == (13, work.parameters, 3 * work.values, 3 * work.multiply_adds)


@pytest.mark.parametrize(("width", "engine"), [(1, "lanes"), (16, "lanes"), (256, "loop")])
def test_the_cheaper_engine_trains(width, engine):
    assert Planner(TABLE, SHAPES).engine_of(config(width)) == engine


def test_the_engine_depends_on_nothing_but_the_configuration():
    """Not on seeds, rates, or noise, nor on the size of stacks."""
    for changed in ({"label_noise": 0.2}, {"learning_rate": 0.1}, {"weight_decay": 0.0}):
        assert Planner(TABLE, SHAPES, stack_size=1).engine_of(config(**changed)) == "lanes"


def test_the_shipped_table_prefers_lanes_for_small_networks_and_the_loop_for_wide_ones():
    planner = Planner(costs_here(), SHAPES)
    assert [planner.engine_of(config(width)) for width in (1, 2, 4, 8, 16, 256)] == ["lanes"] * 5 + ["loop"]


def test_stacks_are_neither_short_nor_long():
    planner = Planner(TABLE, SHAPES)
    for own in (
        config(1, 256),
        config(4),
        config(16, 8),
        dataclasses.replace(config(512), sample_passes=10**6),
    ):
        runs = planner.runs_of(own)
        assert 1 <= runs <= 128
        assert runs.bit_count() == 1
    assert planner.runs_of(config(1, 256)) == 128
    assert planner.runs_of(dataclasses.replace(config(512), sample_passes=10**8)) == 1
    assert Planner(TABLE, SHAPES, stack_size=5).runs_of(config()) == 5
    assert Planner(TABLE, SHAPES, device="cuda").runs_of(config(512)) == STACK_SIZE


def test_the_longest_stacks_come_first():
    values = {
        "dataset": ("d",),
        "architecture": ("cnn",),
        "width": (1, 16, 4),
        "batch_size": (8, 256),
        "data_amount": (100,),
        "sample_passes": (4_000,),
    }
    planner = Planner(TABLE, SHAPES)
    ordered = planner.longest_first(groups_of([(Grid(values, (0,)), "f")]))
    seconds = [planner.runs_of(g.example) * planner.seconds_of(g.example) for g in ordered]
    assert seconds == sorted(seconds, reverse=True)
    assert len(seconds) == 6


@pytest.fixture
def peculiar():
    @register_architecture("peculiar")
    def made(width, shape):
        return nn.Sequential(
            nn.Flatten(), nn.Linear(shape.pixels, width), nn.GELU(), nn.Linear(width, shape.classes)
        )

    @register_architecture("looking")
    def looking(width, shape):
        class Looking(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(shape.pixels, shape.classes)

            def forward(self, x):
                return self.layer(x.flatten(1)) if x.sum().item() < 1e9 else x

        return Looking()

    yield
    for name in ("peculiar", "looking"):
        del ARCHITECTURES[name]


@pytest.mark.parametrize("architecture", ["peculiar", "looking"])
def test_what_lanes_do_not_know_trains_on_the_loop(peculiar, architecture):
    own = dataclasses.replace(config(), architecture=architecture)
    for engine in (None, "lanes"):
        planner = Planner(TABLE, SHAPES, engine=engine)
        assert planner.engine_of(own) == "loop"
        assert planner.seconds_of(own) > 0


def test_an_engine_can_be_asked_for():
    assert Planner(TABLE, SHAPES, engine="loop").engine_of(config(1)) == "loop"
    assert Planner(TABLE, SHAPES, engine="lanes").engine_of(config(256)) == "lanes"
    assert Planner(TABLE, SHAPES, device="cuda").engine_of(config(1)) == "loop"
    stacked = Planner(TABLE, SHAPES, device="cuda", engine="stack")
    assert stacked.engine_of(config(1)) == "stack"
    assert stacked.seconds_of(config(1)) == Planner(TABLE, SHAPES, engine="loop").seconds_of(config(1))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"engine": "warp"}, "no engine is named 'warp'; there are loop, lanes, stack"),
        ({"engine": "lanes", "device": "cuda"}, "device is 'cuda'; lanes are the CPU's"),
        ({"stack_size": 0}, "stack size is 0; it has to be at least 1"),
    ],
)
def test_what_cannot_be(asked, said):
    with pytest.raises(ValueError, match=said):
        Planner(TABLE, SHAPES, **asked)


def test_a_zoo_keeps_the_table_that_it_was_begun_with(tmp_path):
    store = Folder(tmp_path / "zoo")
    assert costs_of(store) == costs_here()
    own_table().parent.mkdir(parents=True)
    own_table().write_text(TABLE.to_json())
    assert costs_here() == TABLE
    assert costs_of(store).machine != "made up"
    assert costs_of(Folder(tmp_path / "other")) == TABLE


@pytest.mark.parametrize(
    "text", ["", "{}", json.dumps({"machine": "m", "measured": [], "seconds": {"loop": [1], "lanes": [1]}})]
)
def test_a_broken_table_is_said_with_its_place(text):
    own_table().parent.mkdir(parents=True)
    own_table().write_text(text)
    with pytest.raises(ValueError, match=r"costs.json: no table of costs: .*`mdzoo calibrate`, or remove it"):
        costs_here()


@pytest.mark.skipif(library() is None, reason="the lane kernels were not compiled, or cannot run here")
def test_a_calibration_tells_the_costs_of_this_machine():
    """Its table gives back what was measured, within a factor; and it survives being written."""
    shape, seen = ImageShape(1, 8, 10), []
    cases = tuple(Case("cnn", width, shape, batch) for width in (2, 16) for batch in (8, 64))
    found = calibrate(cases, seconds=0.02, done=seen.append)
    assert seen == list(cases)
    assert Costs.from_json(found.to_json()) == dataclasses.replace(
        found, measured=json.loads(json.dumps(found.measured))
    )
    rows = list(told(found))
    assert len(rows) == 4
    for row in rows:
        assert row["lanes"] < row["loop"]
        for engine in ("loop", "lanes"):
            assert row[f"{engine}_fitted"] == pytest.approx(row[engine], rel=3)


def test_without_kernels_there_is_nothing_to_calibrate(monkeypatch):
    monkeypatch.setattr(costs_module, "library", lambda: None)
    with pytest.raises(RuntimeError, match="one engine and nothing to choose from"):
        calibrate()
