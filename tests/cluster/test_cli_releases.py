"""The verbs `publish` and `verify`: from a zoo to a release, to a hub, and what they print."""

import json
import os
import shutil
import subprocess
import sys

import pytest

import zoo
from tests.hub_server import hub_server
from zoo.publishing.verify import verify

SPEC = """
name = "tiny"
[settings]
dataset = "digits"
architecture = "mlp"
steps = 20
[[grids]]
width = [2, 4]
batch_size = [4, 32]
data_amount = [40]
seeds = 2
[measure]
metrics = ["parameter_norm", "l2_distance"]
"""


def mdzoo(*arguments, **environment):
    command = [sys.executable, "-m", "cluster.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A zoo of eight networks that `mdzoo build` made, and a release of it."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.toml").write_text(SPEC)
    done = mdzoo("build", folder / "tiny.toml", "--out", folder / "zoo", "--workers", 0)
    assert done.returncode == 0, done.stderr
    done = mdzoo(
        "publish",
        folder / "zoo",
        "--out",
        folder / "release",
        "--json",
        "--author",
        "Ada",
        "--author",
        "Emmy",
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["runs"], facts["checkpoints"]) == (8, 8)
    return folder


def test_a_built_zoo_becomes_a_release_that_is_sound(built):
    done = mdzoo("verify", built / "release", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["faults"] == []
    assert facts["weights checked"] == 8
    card = (built / "release" / "README.md").read_text()
    assert "{Ada} and {Emmy}" in card
    assert len(list((built / "release" / "checkpoints").iterdir())) == 2, "a shard a width"


def test_a_zoo_and_its_release_say_the_same(built):
    before, after = zoo.open(built / "zoo"), zoo.open(built / "release")
    assert before.status() == after.status() | {"name": "tiny"}
    assert before.runs(width=4)["test_error"].equals(after.runs(width=4)["test_error"])
    one, other = (z.weights(label="temperature", metrics=["l2_distance"]) for z in (before, after))
    weights = {item.run_id: item for item in (one[i] for i in range(len(one)))}
    assert len(other) == 8
    for index in range(len(other)):
        item = other[index]
        assert (item.weights["1.weight"] == weights[item.run_id].weights["1.weight"]).all()
        assert (item.metrics, item.label) == (weights[item.run_id].metrics, weights[item.run_id].label)


def test_a_release_is_not_built_on(built):
    for verb in (["build", built / "tiny.toml", "--out", built / "release"], ["measure", built / "release"]):
        done = mdzoo(*verb, "--workers", 0)
        assert done.returncode == 1
        assert "is a release, which does not change" in done.stderr
    assert verify(str(built / "release")).faults == ()


def test_the_first_fault_is_said_and_the_exit_code_is_1(built, tmp_path):
    release = shutil.copytree(built / "release", tmp_path / "release")
    data = bytearray((release / "history.parquet").read_bytes())
    data[77] ^= 16
    (release / "history.parquet").write_bytes(data)
    done = mdzoo("verify", release)
    assert done.returncode == 1
    assert "history.parquet, byte 77: bit 4 of this byte is flipped" in done.stdout
    assert done.stderr == (
        "mdzoo: not as published, the first fault: history.parquet, byte 77: bit 4 of this byte is flipped\n"
    )
    done = mdzoo("verify", tmp_path)
    assert done.returncode == 1
    assert "holds no release" in done.stderr


def test_a_release_is_sent_to_a_hub_and_is_the_same_there(built, tmp_path):
    with hub_server() as hub:
        surroundings = {
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": "hf_secret",
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        out = tmp_path / "release"
        done = mdzoo(
            "publish", built / "zoo", "--out", out, "--push-to", "ada/tiny", "--json", **surroundings
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["repository"] == f"{hub.url}/datasets/ada/tiny"
        assert "hf_secret" not in done.stdout + done.stderr
        assert hub.repositories == {"ada/tiny": "private"}
        assert hub.tokens == {"Bearer hf_secret"}
        sent = hub.files["ada/tiny"]
        assert sent == {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
        back = tmp_path / "back"
        for name, data in sent.items():
            (back / name).parent.mkdir(parents=True, exist_ok=True)
            (back / name).write_bytes(data)
    assert verify(str(back)).faults == ()


def test_a_hub_that_is_not_there_leaves_the_release_and_says_how_to_send_it(built, tmp_path):
    surroundings = {
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_TOKEN": "hf_secret",
        "HF_HOME": str(tmp_path / "home"),
    }
    out = tmp_path / "release"
    done = mdzoo("publish", built / "zoo", "--out", out, "--push-to", "ada/tiny", **surroundings)
    assert done.returncode == 1
    assert f"the release is made, at {out}, but could not be sent: " in done.stderr
    assert f"send it by `hf upload ada/tiny {out} --repo-type dataset`" in done.stderr
    assert "hf_secret" not in done.stderr
    assert verify(str(out)).faults == ()
