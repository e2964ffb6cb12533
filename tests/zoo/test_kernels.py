"""The compiled kernels as such: memory errors, memory taken, and a machine without a compiler."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.engines import lane_library
from zoo.engines.lane_library import Passes, builds, library
from zoo.engines.lane_network import describe
from zoo.models import ImageShape, build_model

ROOT = Path(__file__).resolve().parents[2]
X86 = platform.machine().lower() in ("x86_64", "amd64")

EDGES = [
    # architecture, width, channels, pixels, classes, batch; of five images and two more, the last batch is smaller
    ("mlp", 1, 1, 3, 10, 1),
    ("mlp", 7, 2, 5, 1, 6),
    ("cnn", 1, 1, 4, 2, 2),
    ("cnn", 3, 3, 13, 10, 7),
    ("cnn", 5, 2, 7, 1_000, 5),
    ("cnn", 9, 1, 5, 10, 3),
    ("resnet18", 1, 1, 9, 10, 4),
    ("resnet18", 3, 3, 16, 3, 5),
]


@pytest.mark.timeout(400)  # most of it is compiling: a minute on idle cores
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the kernels with sanitizers")
def test_no_kernel_touches_memory_that_is_not_its_own(tmp_path):
    """Address and undefined-behaviour sanitizers, over every kernel in single and double precision."""
    driver = tmp_path / "driver"
    flags = ["-std=c++17", "-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    flags += ["-mavx2", "-mfma"] if X86 and "avx2" in builds() else []
    sources = [f"-I{ROOT}/zoo/engines/kernels", str(ROOT / "tests/zoo/kernels_driver.cpp")]
    compiled = subprocess.run(["g++", *flags, *sources, "-o", str(driver)], capture_output=True, text=True)
    if "cannot find" in compiled.stderr:
        pytest.skip("the sanitizers' libraries are not installed")
    assert compiled.returncode == 0, compiled.stderr
    lines = []
    for architecture, width, channels, pixels, classes, batch in EDGES:
        model = build_model(architecture, width, ImageShape(channels, pixels, classes))
        made = describe(model, (channels, pixels, pixels))
        _, image, layers, count, activations, others, *_ = lane_library._given(
            made, batch, 4, Passes.BACKWARD
        )
        lines.append([*image, batch, 2 * batch + 1, classes, count, others, *layers, *activations])
    text = "\n".join(" ".join(map(str, line)) for line in lines)
    ran = subprocess.run([driver], input=text, capture_output=True, text=True, timeout=150)
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.splitlines()) == 2 * len(EDGES)


TAKEN = """
import re, sys, torch
from zoo.config import TrainConfig
from zoo.datasets import Split
from zoo.engines.lanes import LaneEngine
from zoo.engines.lane_library import memory, library
from zoo.engines.lane_network import describe
from zoo.models import ImageShape, initial_model

torch.set_num_threads(1)
architecture, width, channels, pixels, batch = sys.argv[1], *map(int, sys.argv[2:])
lanes, shape = library().lanes_count(4), ImageShape(channels, pixels, 10)
images = torch.rand(256, channels, pixels, pixels)
split = Split(images, torch.randint(0, 10, (256,)))
models = [initial_model(architecture, width, shape, seed) for seed in range(lanes)]
config = TrainConfig("none", "", architecture, width, batch, 256, 256)
size = lambda name: 1024 * int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read()).group(1))
open("/proc/self/clear_refs", "w").write("5")
before = size("VmRSS")
engine = LaneEngine(models, [split] * lanes, [config] * lanes, "cpu")
engine.advance(torch.randint(0, 256, (lanes, 2, batch)), torch.full((lanes, 2), 0.01, dtype=torch.float64))
engine.scores([engine.weights(lane) for lane in range(lanes)], split)
print(memory(describe(models[0], (channels, pixels, pixels)), batch), size("VmHWM") - before)
"""


@pytest.mark.skipif(library() is None, reason="the lane kernels were not compiled, or cannot run here")
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux says what a process takes")
@pytest.mark.parametrize("network", ["cnn 16 1 28 128", "resnet18 4 3 32 64"])
def test_memory_is_known_within_a_fifth(network):
    ran = subprocess.run(
        [sys.executable, "-c", TAKEN, *network.split()], cwd=ROOT, capture_output=True, text=True, check=True
    )
    expected, taken = map(int, ran.stdout.split())
    assert expected == pytest.approx(taken, rel=0.2)


def test_memory_of_no_kernels(monkeypatch):
    made = describe(build_model("mlp", 2, ImageShape(1, 8, 10)), (1, 8, 8))
    monkeypatch.setattr(lane_library, "library", lambda build=None: None)
    assert lane_library.memory(made, 32) == 0


def test_without_a_compiler_the_package_is_built_all_the_same(tmp_path):
    """The extensions are optional: a warning says that they are missing, and nothing else is."""
    pytest.importorskip("setuptools")
    commands = ["build_ext", "--build-lib", str(tmp_path / "lib"), "--build-temp", str(tmp_path / "temp")]
    ran = subprocess.run(
        [sys.executable, "setup.py", *commands],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"CC": "/bin/false", "CXX": "/bin/false"},
    )
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"building extension .*_lanes_.* failed", ran.stdout + ran.stderr)
    assert not list(tmp_path.rglob("*.so"))
