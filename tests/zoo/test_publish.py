"""A release: whole, readable by the field's own tools, the same each time it is made, and its weights to the bit."""

import json
import subprocess

import duckdb
import mlcroissant
import pandas as pd
import pytest
import torch
import yaml

import zoo
from tests.zoos import changed
from zoo import tables
from zoo.publishing.publish import publish
from zoo.publishing.shards import Kind, chosen, shards
from zoo.publishing.terms import Terms
from zoo.publishing.verify import verify
from zoo.storage import Folder

TERMS = Terms("2026-11-28", authors=("Ada Lovelace", "Emmy Noether"), url="https://example.org/demo")


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """The shipped demo, released again with half a MiB of weights in small shards."""
    out = tmp_path_factory.mktemp("release")
    facts = publish(
        zoo.open("demo"), out, TERMS, title="A demo: of zoos", weights_mib=0.5, shard_bytes=100_000
    )
    assert facts["runs"] == 576
    assert 0 < facts["checkpoints"] < 228
    return out


def test_it_is_whole(release):
    report = verify(str(release))
    assert report.faults == ()
    assert report.runs == zoo.open(release).runs()["checkpoint"].notna().sum()
    sums = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=release, capture_output=True, text=True)
    assert sums.returncode == 0, sums.stderr
    assert len(sums.stdout.splitlines()) == report.files


def test_equal_zoos_give_equal_bytes(release, tmp_path):
    publish(zoo.open("demo"), tmp_path, TERMS, title="A demo: of zoos", weights_mib=0.5, shard_bytes=100_000)
    assert (tmp_path / "SHA256SUMS").read_bytes() == (release / "SHA256SUMS").read_bytes()


def test_the_shipped_release_is_small_and_sound():
    report = verify("demo")
    assert report.faults == ()
    assert report.size < 5e6


def test_weights_are_those_of_the_zoo_to_the_bit(release):
    before, after = zoo.open("demo"), zoo.open(release)
    stored = after.runs()["checkpoint"].dropna()
    assert len(set(stored)) > len(set(before.runs()["checkpoint"].dropna())), (
        "more shards, as they are smaller"
    )
    for run_id in stored.index[::7]:
        config_id, _, seed = run_id.rpartition("-")
        one, other = (z.model(config_id, int(seed)).state_dict() for z in (before, after))
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_a_run_whose_weights_are_left_out_says_so(release):
    opened = zoo.open(release)
    runs = opened.runs(status="done")
    config_id, seed = runs[runs["checkpoint"].isna()][["config_id", "seed"]].iloc[0]
    with pytest.raises(ValueError, match=r"the weights of run .* are not in this release"):
        opened.model(config_id, seed)


def test_nothing_tells_of_the_machine(release):
    for name in ("runs", "history", "metrics"):
        assert pd.read_parquet(release / f"{name}.parquet")["host"].isna().all()


def test_of_an_error_the_last_line_is_published(release):
    runs = pd.read_parquet(release / "runs.parquet")
    runs.loc[0, "reason"] = 'Traceback\n  File "/home/ada/secret.py"\nValueError: too hot\n'

    altered = changed(
        zoo.open(release),
        lambda name, table: tables.from_frame("runs", runs) if name == "runs" else table,
    )
    out = release.with_name("of-errors")
    publish(altered, out, TERMS, weights_mib=0)
    assert pd.read_parquet(out / "runs.parquet")["reason"][0] == "ValueError: too hot"


def test_the_card_has_the_front_matter_that_a_hub_reads(release):
    _, front, body = (release / "README.md").read_text().split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts["license"] == "cc-by-4.0"
    assert facts["size_categories"] == ["n<1K"]
    assert facts["pretty_name"] == "A demo: of zoos"
    assert [c["config_name"] for c in facts["configs"] if c.get("default")] == ["runs"]
    files = {c["data_files"] for c in facts["configs"]}
    assert files == {p.name for p in release.glob("*.parquet")} - {"blocks.parquet"}
    for name in ("configs", "runs", "metrics", "labels"):
        assert tables.markdown([name]).strip() in body
    assert "$" not in body


def test_the_code_of_the_card_runs(release, monkeypatch):
    card = (release / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    found = {}
    exec(code.replace('"PATH"', repr(str(release))) + "\nitem = z.weights(label='temperature')[0]", found)
    assert found["item"].weights


def test_the_citation_names_the_authors(release):
    citation = yaml.safe_load((release / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert [author["name"] for author in citation["authors"]] == list(TERMS.authors)
    assert {"message", "title", "version", "date-released", "license"} <= citation.keys()
    assert "Ada Lovelace" in (release / "README.md").read_text()


@pytest.mark.filterwarnings("ignore")  # of its own libraries
def test_mlcroissant_accepts_it_and_reads_its_tables(release):
    described = mlcroissant.Dataset(str(release / "croissant.json"))
    assert not described.metadata.ctx.issues.errors
    assert not described.metadata.ctx.issues.warnings
    runs = pd.read_parquet(release / "runs.parquet")
    first = next(iter(described.records("runs")))
    assert first["runs/run_id"].decode() == runs["run_id"][0]
    said = json.loads((release / "croissant.json").read_text())
    assert said["rai:dataLimitations"]
    assert {item["name"] for item in said["recordSet"]} == {"configs", "runs", "history", "metrics", "labels"}


@pytest.mark.filterwarnings("ignore")
def test_the_datasets_library_reads_it_offline(release, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    import datasets

    assert datasets.get_dataset_config_names(str(release))[0] == "runs"
    for name in ("configs", "runs", "history", "metrics", "labels"):
        loaded = datasets.load_dataset(str(release), name, cache_dir=str(tmp_path))["train"]
        assert loaded.num_rows == len(pd.read_parquet(release / f"{name}.parquet"))
        assert loaded.column_names == tables.SCHEMAS[name].names


def test_duckdb_reads_it(release):
    query = (
        f"select width, count(*) from '{release}/runs.parquet' join '{release}/configs.parquet' "
        "using (config_id) group by width order by width"
    )
    assert duckdb.sql(query).fetchall() == [(1, 144), (2, 144), (4, 144), (8, 144)]


def test_nothing_is_published_over_anything(release):
    with pytest.raises(FileExistsError, match=r"holds .* already; publish into an empty place"):
        publish(zoo.open("demo"), release, TERMS)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"licence": "mine"}, "licence is 'mine'; it has to be one of CC-BY-4.0"),
        ({"version": "1"}, "version is '1'; it has to be three numbers"),
        ({"date": "yesterday"}, "date is 'yesterday'; write it as 2026-11-28"),
        ({"authors": ()}, "one author at least"),
    ],
)
def test_terms_that_nobody_would_understand(tmp_path, wrong, says):
    with pytest.raises(ValueError, match=says):
        publish(zoo.open("demo"), tmp_path, TERMS._replace(**wrong))
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_checkpoint_is_not_published(release, tmp_path):
    damaged = Folder(tmp_path / "zoo")
    for path in release.rglob("*"):
        if path.is_file():
            damaged.write(str(path.relative_to(release)), path.read_bytes())
    name = damaged.names("checkpoints", "")[0]
    data = bytearray(damaged.read(name))
    data[-1] ^= 1
    damaged.write(name, bytes(data))
    with pytest.raises(ValueError, match=r"is damaged: the weights of run .* have SHA-256"):
        publish(zoo.open(damaged.root), tmp_path / "out", TERMS)
    assert not (tmp_path / "out" / "SHA256SUMS").exists(), "what is not whole does not say that it is"


def test_a_release_without_weights_is_sound_too(tmp_path):
    facts = publish(zoo.open("demo"), tmp_path, TERMS, weights_mib=0)
    assert facts["checkpoints"] == 0
    assert verify(str(tmp_path)).faults == ()
    assert len(zoo.open(tmp_path).weights()) == 0
    assert "the weights are not in this release" in (tmp_path / "README.md").read_text()


def test_a_run_that_no_hub_would_take_is_refused():
    kind = Kind("mlp", 9, (), (("w", "float32", (2 * 10**9,)),))
    runs = pd.DataFrame({"config_id": ["a"], "checkpoint": "f"})
    with pytest.raises(
        ValueError, match=r"a run of mlp of width 9 has 8,000,000,000 bytes of weights; a file"
    ):
        next(shards(Folder("nowhere"), runs, {"f": kind}))


def test_configurations_are_taken_whole():
    kind = Kind("mlp", 1, (), (("w", "float32", (250,)),))
    runs = pd.DataFrame({"config_id": list("aabbcc"), "checkpoint": "f"})
    taken = chosen(runs, {"f": kind}, 4_500)
    assert len(taken) == 4
    assert taken.groupby("config_id").size().eq(2).all()
    assert len(chosen(runs, {"f": kind}, 0)) == 0
    assert len(chosen(runs, {"f": kind}, None)) == 6
