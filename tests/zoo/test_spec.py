"""Specs: what they expand to, and that a wrong one is refused with the key, the value and what is allowed."""

import dataclasses
import re

import pytest

from zoo.config import TrainConfig
from zoo.datasets import DatasetShape
from zoo.spec import SpecError, parse_spec, read_spec, shipped_specs, spec_fields

GOOD = """
name = "small"
[settings]
dataset = "digits"
architecture = "cnn"
sample_passes = 1000
[[grids]]
width = [1, 2]
batch_size = [8, 16]
data_amount = [100, 200]
label_noise = [0.0, 0.2]
seeds = 3
"""
SHAPE = DatasetShape(train_images=1000, test_images=500, channels=1, image_size=8, classes=10)


def expand(text, fingerprint="f"):
    spec = parse_spec(text)
    return list(spec.runs(dict.fromkeys(spec.sources(), fingerprint)))


def test_a_grid_is_the_product_of_its_axes_and_seeds():
    runs = expand(GOOD)
    assert len({run.run_id for run in runs}) == len(runs) == 2 * 2 * 2 * 2 * 3
    assert {run.seed for run in runs} == {0, 1, 2}
    axes = {(r.config.width, r.config.batch_size, r.config.data_amount, r.config.label_noise) for r in runs}
    assert len(axes) == 16


def test_seeds_may_be_listed():
    assert {run.seed for run in expand(GOOD.replace("seeds = 3", "seeds = [5, 0]"))} == {0, 5}


def test_the_same_run_in_two_grids_is_planned_once():
    twice = (
        GOOD + "[[grids]]\nwidth = [2, 4]\nbatch_size = 8\ndata_amount = 100\nlabel_noise = 0.0\nseeds = 3\n"
    )
    ids = [run.run_id for run in expand(twice)]
    assert len(ids) == len(set(ids)) == 48 + 3


def test_lengths_become_sample_passes():
    in_epochs = GOOD.replace("sample_passes = 1000", "epochs = 7")
    assert {(r.config.data_amount, r.config.sample_passes) for r in expand(in_epochs)} == {
        (100, 700),
        (200, 1400),
    }
    in_steps = GOOD.replace("sample_passes = 1000", "steps = 50")
    assert {(r.config.batch_size, r.config.sample_passes) for r in expand(in_steps)} == {(8, 400), (16, 800)}
    assert {r.config.steps for r in expand(in_steps)} == {50}


def test_a_grid_may_give_its_own_length_by_another_key():
    own = GOOD.replace("seeds = 3", "seeds = 3\nepochs = 2")
    assert {run.config.sample_passes for run in expand(own)} == {200, 400}


def test_every_setting_that_changes_the_weights_can_be_given():
    derived = {"data_fingerprint", "recipe_version", "precision"}
    assert {f.name for f in dataclasses.fields(TrainConfig)} - derived <= set(spec_fields())


def test_the_published_grid():
    spec = read_spec("paper")
    runs = list(spec.runs(dict.fromkeys(spec.sources(), "f")))
    assert len(runs) == 16_900
    assert len({run.config for run in runs}) == 2 * 1_690
    lengths = {(r.config.batch_size, r.config.sample_passes // r.config.data_amount) for r in runs}
    assert {epochs for size, epochs in lengths if size <= 64} == {51}
    assert {epochs for size, epochs in lengths if size > 64} == {81}
    config = runs[0].config
    rates = (config.learning_rate, config.schedule, config.warm_up, config.momentum, config.weight_decay)
    assert rates == (0.05, "constant", 0.0, 0.9, 5e-4)


@pytest.mark.parametrize(("name", "runs"), [("demo", 576), ("fashion", 960), ("paper-small", 72)])
def test_shipped_specs_expand(name, runs):
    assert name in shipped_specs()
    spec = read_spec(name)
    assert len(list(spec.runs(dict.fromkeys(spec.sources(), "f")))) == runs


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("width =", "widht =", r"grids\[0\]\.widht: unknown key with value \[1, 2\]; known keys: .*width"),
        ("width = [1, 2]", "width = []", r"grids\[0\]\.width: \[\] is not allowed; at least one value"),
        ("width = [1, 2]", "width = [2, 2]", r"grids\[0\]\.width: 2 is given twice"),
        (
            "width = [1, 2]",
            "width = [0, 2]",
            r"grids\[0\]\.width: 0 is not allowed; an integer of at least 1",
        ),
        ("width = [1, 2]", "width = [1.5]", r"grids\[0\]\.width: 1.5 is not allowed; an integer"),
        ("width = [1, 2]", "width = true", r"grids\[0\]\.width: True is not allowed"),
        ("width = [1, 2]\n", "", r"grids\[0\]\.width: missing; an integer of at least 1"),
        ("[0.0, 0.2]", "[0.0, 1.0]", r"label_noise: 1.0 is not allowed; a number of at least 0 and below 1"),
        ("seeds = 3", "seeds = 0", r"seeds: 0 is not allowed; at least 1 seed"),
        (
            "seeds = 3",
            "seeds = 3\nlearning_rate = 0.0",
            r"learning_rate: 0.0 is not allowed; a number of at least",
        ),
        (
            "seeds = 3",
            "seeds = 3\nepochs = 3\nsteps = 3",
            r"grids\[0\]: epochs and steps is not allowed; exactly one of",
        ),
        (
            "sample_passes = 1000\n",
            "",
            r"grids\[0\]: no length is not allowed; exactly one of sample_passes, epochs",
        ),
        (
            "sample_passes = 1000",
            "sample_passes = 9",
            r"sample_passes: 9 is not allowed; at least 16, the largest",
        ),
        ('"cnn"', '["cnn"]', r"settings\.architecture: \['cnn'\] is not allowed; one value, not a list"),
        ('name = "small"', 'name = "No Good"', r"name: 'No Good' is not allowed; lower-case letters"),
        ("[settings]", "[setings]", r"setings: unknown key with value"),
        ("seeds = 3", 'seeds = 3\nrecipe = "best"', r"recipe: 'best' is not allowed; one of default, paper"),
        (
            "seeds = 3",
            'seeds = 3\nrecipe = "paper"',
            r"sample_passes: not allowed with the paper recipe; give epochs",
        ),
        (
            "seeds = 3",
            'seeds = 3\n[measure]\npairs = "none"',
            r"measure\.pairs: 'none' is not allowed; one of ring, all",
        ),
        (
            "seeds = 3",
            "seeds = 3\n[measure]\npairs = 0",
            r"measure\.pairs: 0 is not allowed; .* or a number from 1",
        ),
        (
            "seeds = 3",
            'seeds = 3\n[measure]\nmetrics = "cka"',
            r"measure\.metrics: 'cka' is not allowed; a list of names",
        ),
        ("seeds = 3", "seeds = 3\nmeasure = 3", r"measure: unknown key"),
        ("[[grids]]", "[[grids", r"not valid TOML"),
    ],
)
def test_a_wrong_spec_is_refused(old, new, message):
    assert old in GOOD
    with pytest.raises(SpecError, match=message):
        parse_spec(GOOD.replace(old, new))


def test_tables_of_the_wrong_kind_are_refused():
    for text, message in (
        ('name = "a"\nsettings = 1', "settings: 1 is not allowed; a table"),
        ('name = "a"', r"grids: \[\] is not allowed; at least one table"),
        ('name = "a"\nmeasure = 1\n[[grids]]', "measure: 1 is not allowed; a table"),
    ):
        with pytest.raises(SpecError, match=message):
            parse_spec(text)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "[100, 200]",
            "[100, 2000]",
            "data_amount: 2000 is not allowed; at most 1000, the training images of digits",
        ),
        ("[8, 16]", "[8, 128]", "batch_size: 128 is not allowed; at most 100, the smallest data_amount"),
        ('"cnn"', '"vgg"', "architecture: 'vgg' is not allowed; one of cnn, mlp, resnet18"),
    ],
)
def test_what_does_not_fit_the_data_is_refused(old, new, message):
    spec = parse_spec(GOOD.replace(old, new))
    with pytest.raises(SpecError, match=re.escape(message)):
        spec.check(dict.fromkeys(spec.sources(), SHAPE))


@pytest.mark.parametrize(
    ("changes", "shape", "message"),
    [
        (
            (),
            SHAPE._replace(image_size=3),
            r"architecture: 'cnn' cannot train on batches of 8 and images of 3 pixels: ",
        ),
        (
            ('"cnn"', '"resnet18"', "[8, 16]", "1"),
            SHAPE,
            r"batches of 1 and images of 8 pixels: Expected more than 1",
        ),
        ((), SHAPE._replace(test_images=1), r"dataset: digits has 1 test images; at least 2"),
    ],
)
def test_what_no_model_could_train_on_is_refused(changes, shape, message):
    text = GOOD
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        text = text.replace(old, new)
    spec = parse_spec(text)
    with pytest.raises(SpecError, match=message):
        spec.check(dict.fromkeys(spec.sources(), shape))


def test_a_last_batch_of_one_image_is_refused_where_the_recipe_has_one():
    paper = (
        GOOD.replace("sample_passes = 1000", 'recipe = "paper"')
        .replace("[100, 200]", "65")
        .replace('"cnn"', '"resnet18"')
    )
    spec = parse_spec(paper)
    with pytest.raises(SpecError, match="cannot train on batches of 1 and images of 8 pixels"):
        spec.check(dict.fromkeys(spec.sources(), SHAPE))
    parse_spec(paper.replace("65", "66")).check(dict.fromkeys(spec.sources(), SHAPE))


def test_without_noise_its_seed_is_no_identity():
    assert {r.config.noise_seed for r in expand(GOOD.replace("seeds = 3", "noise_seed = 7"))} == {0, 7}
    clean = GOOD.replace("[0.0, 0.2]", "0.0")
    assert expand(clean)[0].run_id == expand(clean.replace("seeds = 3", "noise_seed = 7"))[0].run_id


def test_a_spec_that_is_not_there():
    with pytest.raises(FileNotFoundError, match=r"no spec at nowhere\.toml; shipped ones: demo, fashion"):
        read_spec("nowhere.toml")
    with pytest.raises(
        FileNotFoundError, match=r"no spec is named 'dmeo'; give a path that ends in \.toml, or one of demo"
    ):
        read_spec("dmeo")


def test_a_path_of_the_data_is_not_identity():
    one, two = (expand(GOOD.replace('"digits"', f'"parquet:{path}"'))[0] for path in ("here", "there"))
    assert one.run_id == two.run_id
    assert one.config.dataset == "parquet"
