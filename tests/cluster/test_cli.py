"""The program: what it prints, where, and with which exit code."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pandas as pd
import pytest

import zoo
from cluster import cli
from zoo import costs, tables
from zoo.engines.lane_library import library
from zoo.models import ImageShape

pytestmark = pytest.mark.timeout(600)  # each benchmark is minutes of work on busy cores

SPEC = """
name = "{name}"
[settings]
dataset = "digits"
architecture = "mlp"
steps = 60
learning_rate = 0.2
[[grids]]
width = [2, 16]
batch_size = [4, 32]
data_amount = [40, 200]
label_noise = [0.0, 0.1]
seeds = 2
[measure]
metrics = ["hessian_trace", "hessian_top_eigenvalue", "mode_connectivity", "cka", "l2_distance"]
"""
FEW = ("--only", "majority", "--only", "md_tree", "--only", "validation_tree", "--draws", 1, "--jobs", 1)


def mdzoo(*arguments, **environment):
    command = [sys.executable, "-m", "cluster.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


def here(*arguments):
    """The same program in this process, which has imported all it needs."""
    out, err, handlers = (
        io.StringIO(),
        io.StringIO(),
        {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)},
    )
    with (
        mock.patch.object(sys, "argv", ["mdzoo", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        cli.main()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return subprocess.CompletedProcess(arguments, ended.value.code or 0, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with two small zoos, `one` and `two`."""
    folder = tmp_path_factory.mktemp("cli")
    for name in ("one", "two"):
        (folder / f"{name}.toml").write_text(
            SPEC.format(name=name).replace("60", "60" if name == "one" else "90")
        )
        done = here("build", folder / f"{name}.toml", "--out", folder / name, "--workers", 0)
        assert done.returncode == 0, done.stderr
    return folder


def test_help_teaches_every_verb():
    done = mdzoo("--help")
    assert done.returncode == 0
    for verb in ("build", "measure", "status", "benchmark", "score", "plot"):
        assert f"\n  {verb}" in done.stdout
        assert mdzoo(verb, "--help").returncode == 0
    assert "mdzoo build demo --out zoos/demo" in done.stdout
    assert "Exit codes: 0 done; 1 an error; 2 a wrong option or spec; 3" in done.stdout
    assert mdzoo("--version").stdout.strip() == zoo.__version__


def test_a_dry_run_counts_without_data_and_writes_nothing(tmp_path):
    done = mdzoo("build", "paper", "--dry-run", "--json", "--data-dir", tmp_path)
    facts = json.loads(done.stdout)
    assert (facts["configurations"], facts["runs"]) == (3_380, 16_900)
    assert facts["sample_passes"] == sum(
        2 * 5 * 13 * (5 * 51 + 8 * 81) * amount for amount in range(5_000, 50_001, 5_000)
    )
    assert facts["disk_bytes"] > 4 * facts["parameters"] > 1e9
    assert os.listdir(tmp_path) == []
    assert "runs: 16,900" in here("build", "paper", "--dry-run").stdout


def test_wrong_usage_is_exit_code_2(tmp_path):
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(SPEC.format(name="x").replace("width", "widht"))
    for arguments, message in (
        (("build", wrong, "--dry-run"), "mdzoo: wrong.toml: grids[0].widht: unknown key with value [2, 16]"),
        (("build", "dmeo", "--dry-run"), "mdzoo: no spec is named 'dmeo'"),
        (("build", "demo"), "Invalid value for --out: missing: give the folder of the zoo, or --dry-run"),
        (
            ("build", "demo", "--out", "x", "--import", "nothing"),
            "nothing cannot be imported: No module named",
        ),
        (("build", "demo", "--out", "x", "--device", "cuda:9"), "'cuda:9' cannot be used here: "),
        (("build", "demo", "--out", "x", "--address", "a", "--workers", 1), "leave it out with --address"),
        (("biuld",), "No such command 'biuld'"),
    ):
        done = here(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr
    wrong.write_text(SPEC.format(name="x").replace('"mlp"', '"vgg"'))
    done = mdzoo("build", wrong, "--out", tmp_path / "zoo", "--workers", 0)
    assert (done.returncode, (tmp_path / "zoo").exists()) == (2, False)
    assert "architecture: 'vgg' is not allowed; one of cnn, mlp, resnet18, or register it" in done.stderr


def test_errors_name_their_remedy_without_a_traceback(folder, tmp_path):
    done = mdzoo("status", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"mdzoo: {tmp_path} holds no zoo (zoo.json is missing); make one with")
    assert "Traceback" in mdzoo("status", tmp_path, MDZOO_TRACEBACK="1").stderr


def test_status(folder):
    facts = json.loads(here("status", folder / "one", "--json").stdout)
    build = facts.pop("build")
    assert (build["state"], build["stages"]["measure"]["done"]) == ("finished", 48)
    assert build["stages"]["measure"]["total"] == 48
    assert sum(build["hosts"].values()) == 48 + build["stages"]["train"]["done"]
    watched = here("status", folder / "one", "--watch")
    assert watched.returncode == 0, "a build that has ended is not waited for"
    assert watched.stdout.startswith("finished: train: ")
    assert json.loads(here("status", folder / "one", "--watch", "--json").stdout) == build
    expected = {
        "name": "one",
        "configurations": 16,
        "runs": 32,
        "done": 32,
        "diverged": 0,
        "failed": 0,
        "missing": 0,
    }
    assert facts == expected | {"measurements": 32 + 16, "labelled": True}
    assert "runs: 32" in mdzoo("status", folder / "one").stdout


def test_benchmark_writes_a_leaderboard(folder):
    out = folder / "benchmark"
    some = ["md_tree", "hyperparameter_tree", "majority"]
    only = [f"--only={name}" for name in some]
    done = here("benchmark", folder / "one", folder / "two", "--out", out, "--draws", 1, "--jobs", 1, *only)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (out / "leaderboard.md").read_text().strip()
    board = tables.from_bytes("leaderboard", (out / "leaderboard.parquet").read_bytes(), "it").to_pandas()
    assert set(board["diagnoser"]) == set(some)
    assert {"random_cells", "data_amount_limited", "width_limited", "transfer"} <= set(board["protocol"])
    assert board["accuracy"].between(0, 100).all()
    assert board["training_rows"].gt(0).all()
    predictions = pd.read_parquet(out / "predictions")
    noisy = zoo.open(folder / "one").table("configs").query("label_noise > 0")["config_id"]
    within = predictions.query("zoo == 'one' and training_zoo == 'one' and task == 'temperature'")
    assert set(within["config_id"]) <= set(noisy), (
        "a zoo with label noise is learned from its clean half alone"
    )
    assert set(board["task"]) == {"temperature", "width", "data", "remedy", "remedy_whole"}
    assert board["release"].isna().all()
    for table in ("scores", "rankings", "splits"):
        assert tables.from_bytes(table, (out / f"{table}.parquet").read_bytes(), "it").num_rows


@pytest.fixture(scope="module")
def few(folder):
    """The folder of a benchmark of a few diagnosers on the zoo `one`, frozen; and what was printed."""
    first = here("benchmark", folder / "one", "--out", folder / "few", *FEW, "--freeze", "mine-1")
    assert first.returncode == 0, first.stderr
    return folder / "few", first.stdout


def test_a_benchmark_run_again_asks_nothing_and_is_the_same(folder, few, tmp_path):
    shutil.copytree(few[0], tmp_path, dirs_exist_ok=True)
    command = ("benchmark", folder / "one", "--out", tmp_path, *FEW)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "predictions").iterdir()}
    release = ("--release", tmp_path / "release.json")
    again = here(*command, *release)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "predictions").iterdir()} == written
    assert "boards of mine-1 (" in few[1]
    assert again.stdout == few[1]
    other = here(*command, "--draws", 2, *release)
    assert other.returncode == 1
    assert "boards have other selections than release mine-1, such as one~" in other.stderr


def test_predictions_made_elsewhere_are_scored(few, tmp_path):
    out = tmp_path / "benchmark"
    shutil.copytree(few[0], out)
    splits, answers = (
        pd.read_parquet(out / "splits.parquet"),
        pd.read_parquet(out / "answers" / "one.parquet"),
    )
    asked = splits.query("task == 'width'").drop_duplicates("split_id")[["task", "split_id", "test"]]
    rows = (
        asked.explode("test").rename(columns={"test": "config_id"}).assign(diagnoser="seer", features="none")
    )
    truth = answers.query("task == 'width'").set_index("config_id")["label"]
    rows.assign(predicted=rows["config_id"].map(truth)).to_csv(tmp_path / "seer.csv", index=False)
    done = here("score", tmp_path / "seer.csv", "--benchmark", out)
    assert done.returncode == 0, done.stderr
    board = pd.read_parquet(out / "leaderboard.parquet")
    seer = board[board["diagnoser"] == "seer"]
    assert len(seer) == len(board.query("diagnoser == 'majority' and task == 'width'"))
    assert set(seer["accuracy"]) == {100.0}
    assert "| seer | none | single |" in done.stdout
    rows.assign(predicted="depth").to_csv(tmp_path / "seer.csv", index=False)
    done = here("score", tmp_path / "seer.csv", "--benchmark", out)
    assert done.returncode == 1
    assert "answers ['depth'] to the task width; its answers are ['width', 'batch']" in done.stderr


def test_diagnosers_of_ones_own_compete(folder, tmp_path):
    """One that a module registers, and a scikit-learn classifier by its name."""
    (tmp_path / "mymethod.py").write_text(
        "from sklearn.dummy import DummyClassifier\n"
        "from diagnose import Diagnoser, register\n\n"
        "register(Diagnoser('mymethod', 'validation', lambda task, seed: DummyClassifier(strategy='uniform')))\n"
    )
    neighbours = "sklearn.neighbors:KNeighborsClassifier@landscape"
    command = ("benchmark", folder / "one", "--out", tmp_path)
    program = [Path(sys.executable).with_name("mdzoo"), *command, "--draws", "2", "--json"]
    theirs = ["--import", "mymethod", "--only", "mymethod", "--diagnoser", neighbours]
    done = subprocess.run([*program, *theirs], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    board = pd.DataFrame(json.loads(done.stdout)["leaderboard"])
    assert set(board["diagnoser"]) == {neighbours, "mymethod"}
    assert set(board.query(f"diagnoser == '{neighbours}'")["features"]) == {"landscape"}
    assert (set(board["zoo"]), set(board["draws"])) == ({"one"}, {2})
    done = here(*command, "--diagnoser", "sklearn.neighbors:Nobody")
    assert done.returncode == 1
    assert "has no 'Nobody'" in done.stderr
    done = here(*command, "--only", "md_tee")
    assert done.returncode == 2
    assert "no diagnoser is named ['md_tee']; there are majority, copied_label, " in done.stderr


def test_benchmark_refuses_zoos_that_it_cannot_tell_apart(folder, tmp_path):
    done = here("benchmark", folder / "one", folder / "one", "--out", tmp_path)
    assert done.returncode == 1
    assert "several of the zoos are named ['one']" in done.stderr


def test_the_published_experiment_is_one_command(shared_data, tmp_path):
    done = here("benchmark", "--published", shared_data / "mdtree", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "| Q1 | random_cells | 8 | 96 | table | 49.54 / 49.56" in done.stdout
    assert done.stdout.strip() == (tmp_path / "published.md").read_text().strip()
    beside = pd.read_parquet(tmp_path / "published.parquet").query("source == 'table'")
    assert len(beside) == 15
    assert beside["difference"].abs().max() < 0.05
    done = here("benchmark", tmp_path, "--board", "--out", tmp_path)
    assert done.returncode == 2
    assert "belongs to --published; a zoo has its board anyway" in done.stderr
    done = here("benchmark", "--out", tmp_path)
    assert done.returncode == 2
    assert "give folders of zoos, or --published DIR, one of the two" in done.stderr


def test_plot_draws_the_phase_plots(folder):
    facts = json.loads(here("plot", folder / "one", "--json").stdout)
    names = {os.path.basename(path) for path in facts["plots"]}
    assert names == {
        f"{q}.png" for q in ("test_error", "train_error", "hessian_trace", "mode_connectivity", "cka")
    }
    for path in facts["plots"]:
        with open(path, "rb") as file:
            assert file.read(8) == b"\x89PNG\r\n\x1a\n"


def test_a_users_architecture_is_imported_in_the_workers(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "from zoo.models import register_architecture\n\n\n"
        "@register_architecture('linear')\n"
        "def linear(width, shape):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(shape.pixels, shape.classes))\n"
    )
    spec = tmp_path / "mine.toml"
    spec.write_text(
        SPEC.format(name="mine").replace('"mlp"', '"linear"').replace("[2, 16]", "1").replace("[4, 32]", "8")
    )
    program = Path(sys.executable).with_name(
        "mdzoo"
    )  # unlike `python -m`, it does not look into the current folder
    build = (program, "build", spec, "--out", tmp_path / "zoo", "--import", "mine", "--json")
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["done"] == 8


def test_failed_runs_are_exit_code_3(tmp_path):
    """An architecture that passes the trial of the plan, and breaks on the real images."""
    (tmp_path / "broken.py").write_text(
        "from torch import nn\n"
        "from zoo.models import register_architecture\n\n\n"
        "class Broken(nn.Linear):\n"
        "    def forward(self, images):\n"
        "        if images.any():\n"
        "            raise RuntimeError('no such layer')\n"
        "        return super().forward(images.flatten(1))\n\n\n"
        "@register_architecture('broken')\n"
        "def broken(width, shape):\n"
        "    return Broken(shape.pixels, shape.classes)\n"
    )
    spec = tmp_path / "broken.toml"
    spec.write_text(SPEC.format(name="broken").replace('"mlp"', '"broken"'))
    build = ("build", spec, "--out", tmp_path / "zoo", "--import", "broken", "--workers", 0, "--json")
    done = mdzoo(*build, PYTHONPATH=str(tmp_path))
    assert done.returncode == 3, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["failed"], facts["trained"], facts["done"]) == (32, 0, 0)
    assert "RuntimeError: no such layer" in done.stderr
    assert done.stderr.count("Traceback") == 1, "what fails for one reason is told once"
    assert "try again with --retry-failed" in done.stderr
    reasons = zoo.open(tmp_path / "zoo").table("runs")["reason"]
    assert reasons.str.contains("RuntimeError: no such layer").all()


@pytest.mark.skipif(library() is None, reason="the lane kernels were not compiled, or cannot run here")
@pytest.mark.parametrize("as_json", [False, True])
def test_a_machine_is_calibrated_for_the_zoos_that_are_begun_on_it(tmp_path, monkeypatch, as_json):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(costs, "CASES", (costs.Case("cnn", 2, ImageShape(1, 8, 10), 8),))
    done = here("calibrate", *(["--json"] if as_json else []))
    assert done.returncode == 0, done.stderr
    (row,) = costs.told(costs.costs_here())
    if as_json:
        assert json.loads(done.stdout) == [row]
        return
    assert f"written to {tmp_path / 'mdzoo' / 'costs.json'}" in done.stdout
    assert f"{1e3 * row['loop']:.3f}" in done.stdout


def test_without_kernels_there_is_nothing_to_calibrate(monkeypatch):
    monkeypatch.setattr(costs, "library", lambda: None)
    done = here("calibrate")
    assert done.returncode == 2
    assert "one engine and nothing to choose from" in done.stderr
