"""The first files of a zoo: written once for a plan, and anew for another, or for other data."""

import dataclasses
import json

import pytest

from zoo import tables
from zoo.plan import CONFIGS, estimate, make_plan, write_plan
from zoo.reader import MANIFEST, MERGED
from zoo.spec import parse_spec
from zoo.storage import Folder

SPEC = """
name = "small"
[settings]
dataset = "digits"
architecture = "mlp"
sample_passes = 1_000
[[grids]]
width = [1, 2]
batch_size = 8
data_amount = [64, 128]
label_noise = [0.0, 0.1]
seeds = 2
[[grids]]
width = 2
batch_size = 8
data_amount = 64
seeds = [1, 2, 3]
"""


@pytest.fixture
def spec():
    return parse_spec(SPEC)


def configs(store):
    return tables.from_bytes("configs", store.read(CONFIGS), CONFIGS).to_pandas()


def test_the_table_holds_each_configuration_once_with_all_its_seeds(spec, tmp_path):
    store, plan = Folder(tmp_path), make_plan(spec)
    write_plan(store, spec, plan)
    table = configs(store)
    assert plan.size() == (8, 18)
    assert len(set(table["config_id"])) == len(table) == 8
    assert sorted(map(tuple, table["seeds"])) == [(0, 1)] * 7 + [(0, 1, 2, 3)]
    assert set(table["parameters"][table["width"] == 1]) == {64 + 1 + 1 + 1 + 10 + 10}
    for config, seeds in plan.configurations():
        (row,) = table[table["config_id"] == config.config_id].to_dict("records")
        assert row["canonical_json"] == config.canonical_json()
        assert tuple(row["seeds"]) == seeds
        given = {name: value for name, value in dataclasses.asdict(config).items() if value is not None}
        assert given.items() <= row.items()


def test_what_a_build_would_take_is_what_the_plan_says(spec):
    facts = estimate(spec, stack_size=4)
    assert (facts["configurations"], facts["runs"]) == make_plan(spec).size()
    assert facts["stacks"] == 1 + 1 + 1 + 2, "of the widths and amounts; one has two seeds more"


def test_the_same_plan_is_not_written_again_and_another_makes_the_tables_old(spec, tmp_path):
    store, plan = Folder(tmp_path), make_plan(spec)
    write_plan(store, spec, plan)
    for name in MERGED:
        store.write(f"{name}.parquet", b"of this plan")
    before = (tmp_path / CONFIGS).stat().st_mtime_ns
    write_plan(store, spec, plan)
    assert (tmp_path / CONFIGS).stat().st_mtime_ns == before
    assert all(store.exists(f"{name}.parquet") for name in MERGED)
    other = parse_spec(SPEC.replace('"digits"', '"digits"\ntrain_limit = 500'))
    write_plan(store, other, make_plan(other))
    assert not any(store.exists(f"{name}.parquet") for name in MERGED)


def test_other_data_under_the_same_spec_are_another_plan(spec, tmp_path):
    """As where a folder of images was replaced."""
    store, plan = Folder(tmp_path), make_plan(spec)
    write_plan(store, spec, plan)
    (dataset,) = plan.datasets.values()
    changed = dataclasses.replace(dataset, fingerprint="other")
    fingerprints = dict.fromkeys(spec.sources(), "other")
    write_plan(store, spec, plan._replace(groups=spec.groups(fingerprints), datasets={"other": changed}))
    assert set(configs(store)["data_fingerprint"]) == {"other"}


def test_a_table_that_was_not_written_to_its_end_is_written_again(spec, tmp_path):
    store, plan = Folder(tmp_path), make_plan(spec)
    write_plan(store, spec, plan)
    store.delete(CONFIGS)
    write_plan(store, spec, plan)
    assert len(configs(store)) == json.loads(store.read(MANIFEST))["configurations"] == 8
