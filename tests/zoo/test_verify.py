"""A release that is not as it was published is refused or reported, and never gives wrong weights."""

import contextlib
import json
import random
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import torch

import zoo
from tests.zoos import changed
from zoo import tables
from zoo.publishing.checksums import BLOCK, blocks_of, first_bad_byte, read_sums
from zoo.publishing.publish import publish
from zoo.publishing.terms import Terms
from zoo.publishing.verify import verify
from zoo.shards import weights_sha256


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A release of the shipped demo's networks of widths 1 and 2 with 128 images, in small shards."""
    demo, out = zoo.open("demo"), tmp_path_factory.mktemp("sound")
    few = pa.array(demo.runs(width=[1, 2], data_amount=128)["config_id"].unique())
    small = changed(demo, lambda _, table: table.filter(pc.is_in(table["config_id"], few)))
    publish(small, out, Terms("2026-11-28"), shard_bytes=20_000)
    assert len(list((out / "checkpoints").iterdir())) > 3
    return out


@pytest.fixture
def release(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "release")


def shards(release):
    return sorted((release / "checkpoints").iterdir())


def sum_again(release):
    """Make the sums fit what is there, as somebody would who altered it on purpose."""
    import hashlib

    names = [name for name in read_sums((release / "SHA256SUMS").read_bytes()) if (release / name).exists()]
    there = {str(p.relative_to(release)) for p in release.rglob("*") if p.is_file()} - {"SHA256SUMS"}
    sums = {n: hashlib.sha256((release / n).read_bytes()).hexdigest() for n in sorted({*names, *there})}
    croissant = json.loads((release / "croissant.json").read_text())
    for item in croissant["distribution"]:
        item["sha256"] = sums.get(item["contentUrl"], item["sha256"])
    (release / "croissant.json").write_text(json.dumps(croissant))
    sums["croissant.json"] = hashlib.sha256((release / "croissant.json").read_bytes()).hexdigest()
    (release / "SHA256SUMS").write_text("".join(f"{s}  {n}\n" for n, s in sorted(sums.items())))


def test_a_flipped_bit_is_named(release):
    for name, place in (("checkpoints", 5_001), ("metrics.parquet", 50_000), ("zoo.json", 5)):
        path = shards(release)[0] if name == "checkpoints" else release / name
        data = bytearray(path.read_bytes())
        data[place] ^= 1 << 3
        path.write_bytes(data)
    faults = {fault.file.partition("/")[0]: fault for fault in verify(str(release)).faults}
    assert {name: fault.offset for name, fault in faults.items()} == {
        "checkpoints": 5_001,
        "metrics.parquet": 50_000,
        "zoo.json": 5,
    }
    assert all(fault.what == "bit 3 of this byte is flipped" for fault in faults.values())
    assert str(faults["metrics.parquet"]) == "metrics.parquet, byte 50,000: bit 3 of this byte is flipped"


def test_a_missing_shard_a_cut_table_and_a_file_too_many(release):
    gone = shards(release)[1]
    gone.unlink()
    table = release / "runs.parquet"
    table.write_bytes(table.read_bytes()[:10_000])
    (release / "notes.txt").write_text("mine")
    said = [str(fault) for fault in verify(str(release)).faults]
    assert f"checkpoints/{gone.name}: is missing" in said
    assert any(s.startswith("runs.parquet, byte 10,000: the file ends here, ") for s in said)
    assert "notes.txt: is not part of the release: SHA256SUMS does not list it" in said
    assert len(said) == 3


def test_sums_that_are_wrong_themselves(release):
    sums = release / "SHA256SUMS"
    text = sums.read_text()
    sums.write_text(text.replace(text[:8], "00000000", 1))
    (fault,) = verify(str(release)).faults
    assert fault.file == "SHA256SUMS"
    assert "has a wrong SHA-256 of CITATION.cff, whose blocks are right" in fault.what
    sums.write_text(text[:100])
    (fault,) = verify(str(release)).faults
    assert (fault.file, fault.offset) == ("SHA256SUMS", text.index("\n") + 1)
    sums.unlink()
    (fault,) = verify(str(release)).faults
    assert "is missing: this is no release, or not all of one" in fault.what
    with pytest.raises(FileNotFoundError, match="holds no release"):
        verify(str(release.parent))


def only_fault(release):
    sum_again(release)
    (fault,) = verify(str(release)).faults
    return str(fault)


def test_a_table_altered_with_its_sums(release):
    configs = pd.read_parquet(release / "configs.parquet")
    configs.loc[3, "batch_size"] += 1
    (release / "configs.parquet").write_bytes(tables.to_bytes(tables.from_frame("configs", configs)))
    assert "batch_size" in only_fault(release)
    assert "its identity says" in only_fault(release)


def test_a_run_that_is_there_twice_or_belongs_nowhere(release):
    runs = pq.read_table(release / "runs.parquet")
    (release / "runs.parquet").write_bytes(tables.to_bytes(pa.concat_tables([runs, runs.slice(0, 1)])))
    assert "has run_id" in only_fault(release)
    assert "twice" in only_fault(release)
    (release / "runs.parquet").write_bytes(tables.to_bytes(runs.slice(1)))
    assert "which runs has not" in only_fault(release)


def alter_shard(release, change):
    """Alter the tensors of a shard, with the sums and the file's name in the tables as they were."""
    path = shards(release)[0]
    tensors = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, framework="numpy") as file:
        header = file.metadata()
    change(tensors, header)
    path.write_bytes(safetensors.numpy.save(tensors, metadata=header))
    return path, tensors, json.loads(header["mdzoo"])["run_ids"]


def test_weights_altered_with_their_sums(release):
    def change(tensors, header):
        tensors["0.weight"][0] += 1

    alter_shard(release, change)
    assert "is damaged: the weights of run" in only_fault(release)


def test_shapes_that_are_not_those_of_the_architecture(release):
    def change(tensors, header):
        tensors["12.bias"] = np.ascontiguousarray(tensors["12.bias"][:, :9])

    path, tensors, run_ids = alter_shard(release, change)
    runs = pd.read_parquet(release / "runs.parquet")
    own = {
        run_id: weights_sha256({key: value[index] for key, value in tensors.items()})
        for index, run_id in enumerate(run_ids)
    }
    runs["weights_sha256"] = runs["run_id"].map(own).fillna(runs["weights_sha256"])
    (release / "runs.parquet").write_bytes(tables.to_bytes(tables.from_frame("runs", runs)))
    said = only_fault(release)
    assert f"checkpoints/{path.name}: 12.bias has shape [9]; that of cnn of width 1 is [10]" in said


def test_shards_that_changed_places(release):
    first, second = shards(release)[:2]
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)
    assert "does not hold run" in only_fault(release)


@pytest.mark.parametrize("name", ["../../etc/hostname", "/etc/hostname", "checkpoints/../zoo.json", "a//b"])
def test_sums_that_lead_out_of_the_release(release, name):
    with open(release / "SHA256SUMS", "a") as sums:
        sums.write(f"{'0' * 64}  {name}\n")
    (fault,) = verify(str(release)).faults
    assert fault.file == "SHA256SUMS"
    assert fault.what == "no line of a SHA-256 and a file of the release"


def corrupted(release, chance):
    """Do one of the things that happen to files; returns whether they are other than before."""
    files = [path for path in sorted(release.rglob("*")) if path.is_file()]
    path = chance.choice(files)
    data = bytearray(path.read_bytes())
    match chance.choice(("flip", "flip", "bytes", "cut", "longer", "gone", "swap", "field", "index")):
        case "flip":
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            path.write_bytes(data)
        case "bytes":
            start = chance.randrange(len(data))
            length = min(len(data) - start, chance.randint(1, 5_000))
            data[start : start + length] = chance.randbytes(length)
            path.write_bytes(data)
        case "cut":
            path.write_bytes(data[: chance.randrange(len(data))])
        case "longer":
            path.write_bytes(data + chance.randbytes(chance.randint(1, 100)))
        case "gone":
            path.unlink()
        case "swap":
            one, other = chance.sample(shards(release), 2)
            a, b = one.read_bytes(), other.read_bytes()
            one.write_bytes(b)
            other.write_bytes(a)
        case "field":
            name = chance.choice(("configs", "runs", "labels", "metrics"))
            frame = pd.read_parquet(release / f"{name}.parquet")
            column = chance.choice([c for c in frame if pd.api.types.is_numeric_dtype(frame[c])])
            row = chance.randrange(len(frame))
            frame[column] = frame[column].astype(object)
            frame.loc[row, column] = (frame.loc[row, column] or 0) + 1
            (release / f"{name}.parquet").write_bytes(tables.to_bytes(tables.from_frame(name, frame)))
        case "index":
            runs = pd.read_parquet(release / "runs.parquet")
            there = runs.index[runs["checkpoint"].notna()]
            one, other = chance.sample(list(there), 2)
            columns = ["checkpoint", "checkpoint_index"]
            runs.loc[[one, other], columns] = runs.loc[[other, one], columns].to_numpy()
            (release / "runs.parquet").write_bytes(tables.to_bytes(tables.from_frame("runs", runs)))


EXPECTED = (ValueError, FileNotFoundError, KeyError)
"""Errors that say what is wrong; any other, as of an index or a type, would be a crash."""


def test_a_hundred_corrupted_releases(sound, tmp_path):
    """Each is reported by verify; opened all the same, a model is the right one or an error that says why not."""
    truth = zoo.open(sound)
    stored = truth.runs()["checkpoint"].dropna().index
    for number in range(100):
        chance = random.Random(number)
        release = shutil.copytree(sound, tmp_path / str(number))
        while all(
            (release / path.relative_to(sound)).exists()
            and (release / path.relative_to(sound)).read_bytes() == path.read_bytes()
            for path in sound.rglob("*")
            if path.is_file()
        ):
            corrupted(release, chance)
        report = verify(str(release))
        assert report.faults, number
        assert all(str(fault) for fault in report.faults)
        for run_id in chance.sample(list(stored), 3):
            with contextlib.suppress(*EXPECTED):
                assert_same(weights_of(zoo.open(release), run_id), weights_of(truth, run_id))
        with contextlib.suppress(*EXPECTED):
            item = zoo.open(release).weights()[0]
            assert_same(item.weights, weights_of(truth, item.run_id))
        shutil.rmtree(release)


def weights_of(opened, run_id):
    config_id, _, seed = run_id.rpartition("-")
    return opened.model(config_id, int(seed)).state_dict()


def assert_same(weights, right):
    assert weights.keys() == right.keys()
    assert all(torch.equal(value, right[key]) for key, value in weights.items())


def test_the_first_bad_byte():
    data = random.Random(0).randbytes(3 * BLOCK + 100)
    blocks = list(blocks_of(data))
    assert [block.length for block in blocks] == [BLOCK] * 3 + [100]
    assert first_bad_byte(data, blocks) is None
    several = bytearray(data)
    several[BLOCK + 7] ^= 0b101
    found = first_bad_byte(several, blocks)
    assert found.offset == BLOCK
    assert found.what == f"one of the {BLOCK} bytes from here on is the first that differs"
    assert first_bad_byte(data + b"12", blocks) == (len(data), "the file goes on here, 2 bytes too long")
    assert first_bad_byte(data[:-3], blocks) == (len(data) - 3, "the file ends here, 3 bytes too early")
    assert [block.length for block in blocks_of(b"")] == [0]
