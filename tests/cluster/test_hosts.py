"""As a user would: ray up, ray submit and ray down over two hosts, and ray job submit; hosts that fail meanwhile.

A host is made of namespaces on this machine, with an sshd and a network of its own (`fake_host.sh`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from cluster import driver
from cluster.executors import InProcessExecutor
from tests.cluster.test_build import SPEC, assert_equal_zoos
from tests.processes import descendants, is_alive
from zoo.spec import parse_spec

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "cluster" / "configs"
BIN = Path(sys.executable).parent
JOB = ROOT / "cluster" / "jobs" / "build_zoo.py"
MANY = SPEC.replace("seeds = 2", "seeds = 6").replace("sample_passes = 1_000", "sample_passes = 6_000")

PATH = f"{BIN}:/usr/sbin:{os.environ['PATH']}"
missing = [tool for tool in ("ip", "rsync", "sshd", "ssh-keygen") if shutil.which(tool, path=PATH) is None]
as_root = pytest.mark.skipif(
    os.geteuid() != 0 or bool(missing),
    reason=f"hosts of namespaces take root, iproute2, rsync and openssh-server; missing: {missing or 'root'}",
)


@dataclass
class Hosts:
    """Two hosts with a Ray cluster on them.

    Attributes:
        folder: What all hosts and this test share.
        pids: Their first processes, by name; killing one is a power-off.
        environment: Where the client's commands run.
    """

    folder: Path
    pids: dict[str, int]
    environment: dict[str, str]

    def ray(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(BIN / "ray"), *map(str, arguments)]
        return subprocess.run(command, env=self.environment, cwd=ROOT, capture_output=True, text=True)

    def submit(self, out: str) -> subprocess.Popen[str]:
        command = ["submit", "--no-config-cache", self.folder / "cluster.yaml", JOB]
        build = [self.folder / "spec.toml", "--out", self.folder / out, "--stack-size", 2]
        return subprocess.Popen(
            [str(BIN / "ray"), *map(str, command + build)],
            env=self.environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@contextlib.contextmanager
def hosts(folder: Path) -> Iterator[Hosts]:
    """Two hosts with a running cluster, from the shipped configuration; addresses and the key are ours."""
    home, ssh = folder / "home", folder / "ssh"
    ssh.mkdir()
    (home / ".ray").mkdir(parents=True)
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", ssh / name], check=True)
    (ssh / "sshd_config").write_text(
        f"HostKey {ssh}/host\nAuthorizedKeysFile {ssh}/client.pub\nStrictModes no\nPermitRootLogin yes\nUsePAM no\n"
    )
    environment = os.environ | {
        "HOME": str(home),
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": PATH,
    }
    environment.pop("RAY_AUTH_TOKEN", None)
    config = yaml.safe_load((CONFIGS / "on-premises.yaml").read_text())
    config["provider"] |= {"head_ip": "10.77.0.2", "worker_ips": ["10.77.0.3"]}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(ssh / "client")}
    config["min_workers"] = config["max_workers"] = 1
    config["setup_commands"] = []  # the hosts see this machine's virtual environment, and no package index
    (folder / "cluster.yaml").write_text(yaml.safe_dump(config))
    (folder / "spec.toml").write_text(MANY)
    pids: dict[str, int] = {}
    found = Hosts(folder, pids, environment)
    script = Path(__file__).with_name("fake_host.sh")
    try:
        for name, address in (("mdzoo-a", "10.77.0.2"), ("mdzoo-b", "10.77.0.3")):
            command = [script, name, address, BIN.parent, ssh]
            pids[name] = int(subprocess.check_output(command, env=environment, text=True))
        assert found.ray("get-auth-token", "--generate").returncode == 0
        time.sleep(2)
        up = found.ray("up", "-y", "--no-config-cache", folder / "cluster.yaml")
        assert up.returncode == 0, up.stdout + up.stderr
        yield found
    finally:
        for name, pid in pids.items():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", name], env=environment, check=False)
        subprocess.run(["ip", "link", "del", "rbr0"], env=environment, check=False)


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    root = tmp_path_factory.mktemp("serial") / "zoo"
    with InProcessExecutor() as executor:
        driver.build(parse_spec(MANY), root, executor)
    return root


def wait_for(what: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, f"not within {seconds} s"
        time.sleep(0.1)


def is_open(port: int) -> bool:
    with socket.socket() as found:
        return found.connect_ex(("127.0.0.1", port)) == 0


def status(root: Path) -> dict[str, object]:
    return json.loads((root / "status.json").read_text())


@pytest.mark.cluster
@pytest.mark.timeout(900)
@as_root
def test_ray_up_submit_and_down_though_a_host_is_cut_off_and_then_dies(tmp_path, serial):
    """In a first build the network of one of two hosts is cut and heals; in a second that host is powered off."""
    with hosts(tmp_path) as found:
        took: dict[str, float] = {}
        for out, fault in (("cut", "cut"), ("off", "off")):
            job = found.submit(out)
            fragments = tmp_path / out / "fragments" / "runs"
            wait_for(lambda fragments=fragments: len(list(fragments.glob("*.parquet"))) >= 3, 200)
            began = time.monotonic()
            if fault == "cut":
                subprocess.run(["ip", "link", "set", "vmdzoo-b", "down"], check=True, env=found.environment)
                time.sleep(20)
                subprocess.run(["ip", "link", "set", "vmdzoo-b", "up"], check=True, env=found.environment)
            else:
                os.kill(found.pids["mdzoo-b"], signal.SIGKILL)
                wait_for(lambda: not is_alive(found.pids["mdzoo-b"]), 10)
            log, _ = job.communicate(timeout=400)
            took[fault] = time.monotonic() - began
            assert "failed: 0" in log, log
            assert_equal_zoos(serial, tmp_path / out)
            listed = status(tmp_path / out)
            assert listed["state"] == "finished"
        print("seconds from the fault to the end of the build:", took)
        down = found.ray("down", "-y", tmp_path / "cluster.yaml")
        assert down.returncode == 0, down.stdout + down.stderr


@pytest.fixture
def head(tmp_path):
    """A head with its job server on loopback, and a token; gives the environment of its clients."""
    (tmp_path / "home" / ".ray").mkdir(parents=True)
    environment = os.environ | {
        "HOME": str(tmp_path / "home"),
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": PATH,
    }
    environment.pop("RAY_AUTH_TOKEN", None)
    subprocess.run(
        [BIN / "ray", "get-auth-token", "--generate"], env=environment, check=True, capture_output=True
    )
    folder = Path("/tmp") / f"mdzoo-jobs-{os.getpid()}"
    options = [
        "--node-ip-address=127.0.0.1",
        "--port=6397",
        "--dashboard-host=127.0.0.1",
        "--dashboard-port=8297",
        "--dashboard-agent-listen-port=8296",
    ]
    process = subprocess.Popen(
        [BIN / "ray", "start", "--head", "--block", "--num-cpus=2", f"--temp-dir={folder}", *options],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield environment
    finally:
        process.terminate()
        process.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_after_the_head_is_killed_the_same_command_goes_on_at_a_new_one(tmp_path, serial):
    environment = os.environ | {
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_gcs_rpc_server_reconnect_timeout_s": "10",  # a driver gives its head up after a minute
    }
    environment.pop("RAY_AUTH_TOKEN", None)
    (tmp_path / "spec.toml").write_text(MANY)
    options = ["--node-ip-address=127.0.0.1", "--port=6396", "--num-cpus=2", "--include-dashboard=false"]

    def start(number: int) -> subprocess.Popen[bytes]:
        folder = Path("/tmp") / f"mdzoo-head-{os.getpid()}-{number}"
        command = [BIN / "ray", "start", "--head", "--block", f"--temp-dir={folder}", *options]
        quiet = subprocess.DEVNULL
        head = subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet)
        wait_for(lambda: is_open(6396), 120)
        return head

    def kill(head: subprocess.Popen[bytes]) -> None:
        for pid in [*descendants(head.pid), head.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        head.wait()

    def build() -> subprocess.Popen[str]:
        command = [BIN / "mdzoo", "build", tmp_path / "spec.toml", "--out", tmp_path / "zoo"]
        more = ["--address", "127.0.0.1:6396", "--stack-size", "2", "--patience", "60"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen([*map(str, command), *more], env=environment, text=True, **pipes)

    fragments, head = tmp_path / "zoo" / "fragments" / "runs", start(1)
    try:
        first = build()
        wait_for(lambda: len(list(fragments.glob("*.parquet"))) >= 3, 200)
        kill(head)
        began = time.monotonic()
        first.communicate(timeout=200)
        print("the driver ended", time.monotonic() - began, "s after its head, with", first.returncode)
        assert first.returncode != 0
        trained = len(list(fragments.glob("*.parquet")))
        assert trained < 24, "some are left to do"
        head = start(2)
        again = build()
        log, _ = again.communicate(timeout=400)
        assert again.returncode == 0, log
        assert f"trained: {48 - 2 * trained}" in log
        assert_equal_zoos(serial, tmp_path / "zoo")
    finally:
        kill(head)


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_build_as_a_job_follows_its_log_and_takes_a_token(head, tmp_path):
    address = "http://127.0.0.1:8297"
    (tmp_path / "spec.toml").write_text(SPEC)
    (tmp_path / "mine.py").write_text(
        "from zoo.landscape.measure import Estimate, register_run_metric\n\n\n"
        "@register_run_metric('mine')\n"
        "def mine(model, data, recipe, generator):\n"
        "    return [Estimate(value=1.0)]\n"
    )
    (tmp_path / "spec.toml").write_text(SPEC.replace('"cka"', '"cka", "mine"'))

    def submit(*options: object, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [BIN / "mdzoo", "submit", "spec.toml", "--address", address, *map(str, options)]
        return subprocess.run(
            command, env=head | environment, cwd=tmp_path, capture_output=True, text=True, timeout=400
        )

    out = tmp_path / "zoo"
    wait_for(lambda: is_open(8297), 120)
    assert "is relative to a folder that Ray may delete" in submit("--out", "zoo").stderr
    assert (
        "none.py and none/ are not in the current folder" in submit("--out", out, "--import", "none").stderr
    )
    refused = submit("--out", out, "--import", "mine", RAY_AUTH_MODE="disabled")
    assert refused.returncode == 1
    assert "Unauthorized" in refused.stderr
    assert "Traceback" not in refused.stderr
    done = submit("--out", out, "--import", "mine")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "train: 16/16 runs" in done.stdout
    assert "done: 16" in done.stdout
    token = (tmp_path / "home" / ".ray" / "auth_token").read_text().strip()
    assert token not in done.stdout + done.stderr
    assert not any(token in path.read_text(errors="ignore") for path in out.rglob("*") if path.is_file())
    failed = submit("--out", out, "--import", "mine", "--device", "cuda", "--patience", 1)
    assert failed.returncode == 1
    assert (
        "a task needs 1 CPU, 0.25 GPU on one node, and the nodes of the Ray cluster have 2 CPU"
        in failed.stdout
    )
