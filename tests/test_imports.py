"""The layout shows the architecture: imports go one way, and tables can be read without torch and ray."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("zoo", "diagnose", "cluster")
FOR_DIAGNOSE = {"zoo.config", "zoo.tables", "zoo.storage"}


def imports(path: Path, top_level: bool = False) -> set[str]:
    """The modules that a file imports; `from x import y` counts as x and as x.y."""
    tree = ast.parse(path.read_text())
    found: set[str] = set()
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def files(room: str) -> list[Path]:
    found = sorted((ROOT / room).rglob("*.py"))
    assert found
    return found


def tops(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", files("zoo"), ids=lambda p: str(p.relative_to(ROOT)))
def test_zoo_imports_no_other_room_and_neither_ray_nor_xgboost(path):
    assert not tops(imports(path)) & {"diagnose", "cluster", "ray", "xgboost"}


@pytest.mark.parametrize("path", files("diagnose"), ids=lambda p: str(p.relative_to(ROOT)))
def test_diagnose_imports_only_the_light_side_of_zoo(path):
    found = imports(path, top_level=path.name == "examine.py")  # which needs torch, within its call
    assert not tops(found) & {"cluster", "ray", "torch", "torchvision"}
    of_zoo = {name for name in found if name.split(".")[0] == "zoo"}
    allowed = FOR_DIAGNOSE | {"zoo"}
    assert all(name in allowed or name.rpartition(".")[0] in FOR_DIAGNOSE for name in of_zoo), of_zoo
    assert "xgboost" not in tops(imports(path, top_level=True))


def test_only_the_executor_and_the_job_client_import_ray():
    importers = {p.relative_to(ROOT).as_posix() for p in files("cluster") if "ray" in tops(imports(p))}
    assert importers == {"cluster/ray_executor.py", "cluster/ray_tasks.py", "cluster/submission.py"}
    assert not any("ray" in tops(imports(ROOT / name, top_level=True)) for name in importers)


def test_a_folder_named_as_a_package_does_not_hide_it_where_one_works(tmp_path):
    """As `--out zoo` makes one: workers look into the folder where a build was begun."""
    (tmp_path / "zoo" / "checkpoints").mkdir(parents=True)
    code = "from zoo import checkpoints; print(checkpoints.__file__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == f"{ROOT / 'zoo' / 'checkpoints.py'}\n", done.stderr


READ_WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "ray"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
"""


@pytest.mark.parametrize(
    "work",
    [
        "import zoo, zoo.tables, zoo.config, zoo.storage, zoo.fragments, zoo.plots; zoo.open",
        "import diagnose; from diagnose import MDTreeClassifier",
        "import diagnose.evaluate, diagnose.leaderboard, diagnose.labels, diagnose.protocols",
        "import cluster.cli; sys.argv = ['mdzoo', '--version']; cluster.cli.main()",
    ],
)
def test_tables_are_opened_and_diagnosed_where_torch_and_ray_are_not(work):
    done = subprocess.run(
        [sys.executable, "-c", READ_WITHOUT + work], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


def test_a_zoo_is_looked_at_and_diagnosed_where_torch_and_ray_are_not(tmp_path):
    spec = tmp_path / "small.toml"
    spec.write_text(
        'name = "small"\n[settings]\ndataset = "digits"\narchitecture = "mlp"\nsteps = 30\n'
        "[[grids]]\nwidth = [1, 8]\n"
        "batch_size = [4, 32]\ndata_amount = [32, 100]\nlabel_noise = [0.0, 0.1]\nseeds = 2\n"
    )
    root = str(tmp_path / "zoo")
    build = [sys.executable, "-m", "cluster.cli", "build", str(spec), "--out", root, "--workers", "0"]
    assert subprocess.run(build, capture_output=True, cwd=ROOT).returncode == 0
    few = [f"--only={name}" for name in ("landscape_tree", "landscape_xgboost")]
    here = [
        "--out",
        str(tmp_path / "board"),
        "--draws",
        "1",
        "--jobs",
        "1",
        *few,
    ]  # in the process that lacks them
    for verb in (["status", root], ["plot", root], ["benchmark", root, *here]):
        script = f"{READ_WITHOUT}\nimport cluster.cli\nsys.argv = {['mdzoo', *verb]!r}\ncluster.cli.main()"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        assert done.stdout
    dry_run = "import cluster.cli; sys.argv = 'mdzoo build demo --dry-run'.split(); cluster.cli.main()"
    script = READ_WITHOUT + dry_run
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (1, "mdzoo: torch; install mdzoo[cluster]\n")
