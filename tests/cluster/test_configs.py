"""The shipped cluster files, as far as they can be checked without a cloud; and the job script's arguments."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from jsonschema import ValidationError

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "cluster" / "configs"
LAUNCHER = ("on-premises.yaml", "aws.yaml", "gcp.yaml")


@pytest.mark.parametrize("name", LAUNCHER)
def test_the_launcher_takes_them(name):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((CONFIGS / name).read_text()))
    validate_config(config)
    with pytest.raises(ValidationError, match="nodes"):
        validate_config(config | {"nodes": 3})


@pytest.mark.parametrize("path", sorted(CONFIGS.iterdir()), ids=lambda path: path.name)
def test_each_asks_for_a_token_and_opens_no_dashboard(path):
    text = path.read_text()
    assert "RAY_AUTH_MODE=token" in text or "{name: RAY_AUTH_MODE, value: token}" in text
    assert "ray start --head" not in text or "--dashboard-host=127.0.0.1" in text
    assert "0.0.0.0" not in text
    assert len(text.splitlines()) < 80, "short enough to read"


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_clouds_have_spot_workers_that_come_with_the_work(name):
    config = yaml.safe_load((CONFIGS / name).read_text())
    worker, head = (config["available_node_types"][kind] for kind in ("worker", "head"))
    assert worker["min_workers"] == 0 < worker["max_workers"] == config["max_workers"]
    assert "spot" in str(worker["node_config"]).lower()
    assert head["resources"] == {"CPU": 0}, "the head drives, and trains nothing"


def test_the_manifest_of_kubernetes():
    job = yaml.safe_load((CONFIGS / "kuberay.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for pod in pods:
        (container,) = pod["template"]["spec"]["containers"]
        (token,) = [entry for entry in container["env"] if entry["name"] == "RAY_AUTH_TOKEN"]
        assert token["valueFrom"]["secretKeyRef"] == {"name": "mdzoo-token", "key": "auth_token"}
        assert container["resources"]["requests"] == container["resources"]["limits"]
    assert job["spec"]["entrypoint"].startswith("mdzoo build ")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_the_slurm_script_is_clean():
    command = ["shellcheck", "--exclude=SC1091", CONFIGS / "slurm.sh"]  # the user's environment is not here
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_job_script_finds_the_cluster_and_refuses_a_relative_place(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("build_zoo", ROOT / "cluster" / "jobs" / "build_zoo.py")
    job = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(job)
    monkeypatch.setattr(job, "HERE", tmp_path / "cluster")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    given = ["demo", "--out", "/zoos/demo"]
    assert job.arguments(given) == ["build", *given]
    (tmp_path / "cluster").touch()
    assert job.arguments(given) == ["build", "--address", "auto", "--patience", "600", *given]
    assert job.arguments([*given, "--workers", "0"]) == ["build", *given, "--workers", "0"]
    assert job.arguments(["demo", "--out", "s3://zoos/demo"])[-2:] == ["--out", "s3://zoos/demo"]
    with pytest.raises(SystemExit, match="--out zoos/demo is relative to a folder that Ray may delete"):
        job.arguments(["demo", "--out", "zoos/demo"])
