"""The README is true: its commands run, its Python runs, its spec parses, its tables are the schemas."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.spec import parse_spec, shipped_specs

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
DEMO = [
    "mdzoo build demo --out zoos/demo",
    "mdzoo plot zoos/demo",
    "mdzoo benchmark zoos/demo --out zoos/demo/benchmark --draws 2",
]


def blocks(language: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert found
    return found


def commands() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines()]


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    """A folder with `small.toml`, the README's own spec made smaller, where its commands are run."""
    folder = tmp_path_factory.mktemp("readme")
    text = blocks("toml")[0]
    for whole, smaller in (("sample_passes = 3_000", "sample_passes = 600"), ("[4, 16, 128]", "[16, 128]")):
        assert whole in text
        text = text.replace(whole, smaller)
    (folder / "small.toml").write_text(text)
    return folder


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command, shell=True, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True
    )


def test_make_demo_is_the_three_lines():
    made = subprocess.run(["make", "--dry-run", "demo"], cwd=ROOT, capture_output=True, text=True).stdout
    lines = [line.replace(".venv/bin/", "") for line in made.splitlines() if "mdzoo " in line]
    assert lines == DEMO == commands()[1:4]


SMALLER = {
    "build demo": "build small.toml --workers 0",
    "--draws 2": "--draws 1 --only md_tree --only landscape_tree --only majority",
}
"""Commands of the README, and what is run in their place for the sake of time."""


@pytest.mark.timeout(600)
def test_every_command_runs(sandbox):
    """`make demo` and `make test` are run by whoever runs this."""
    assert commands()[0] == "make demo"
    others = [line for line in commands() if line not in ("make demo", "make test")]
    assert set(commands()) - set(others) == {"make demo", "make test"}
    for command in others:
        for whole, smaller in SMALLER.items():
            command = command.replace(whole, smaller)
        done = run(command, sandbox)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert done.stdout
    (sandbox / "script.py").write_text("\n".join(blocks("python")))
    done = run("python script.py", sandbox)
    assert done.returncode == 0, done.stderr
    assert "temperature" in done.stdout
    assert "[32, 6386]" in done.stdout
    assert "diagnosed correctly" in (sandbox / "zoos/demo/benchmark/leaderboard.md").read_text()


def test_the_spec_and_the_list_of_specs():
    spec = parse_spec(blocks("toml")[0])
    assert len(list(spec.runs(dict.fromkeys(spec.sources(), "f")))) == 48
    listed = re.findall(r"^\| `([a-z-]+)` \|.*\| +([\d,]+) \|$", README, re.MULTILINE)
    assert sorted(name for name, _ in listed) == shipped_specs()


def test_pictures_are_there():
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert pictures
    for picture in pictures:
        assert (ROOT / picture).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
