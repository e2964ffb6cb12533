"""The docs are true: tutorials run as they stand, the data dictionary is that of the schemas."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from zoo import tables

ROOT = Path(__file__).resolve().parents[1]


def run_through(name: str, folder: Path) -> dict[str, str]:
    """Do what a page says: a block that begins with `# file.py` is that file. Gives what each command printed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    blocks = re.findall(r"```(python|sh)\n(.*?)```", (ROOT / "docs" / name).read_text(), re.DOTALL)
    for language, text in blocks:
        if language == "python":
            (folder / re.match(r"# (\w+\.py)\n", text)[1]).write_text(text)
    said = {}
    for language, text in blocks:
        for command in text.splitlines() if language == "sh" else ():
            done = subprocess.run(
                command,
                shell=True,
                cwd=folder,
                env=os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, f"{command}\n{done.stderr}"
            said[command] = done.stdout
    return said


@pytest.mark.timeout(600)
def test_diagnose_your_own_model(tmp_path):
    said = run_through("diagnose-your-model.md", tmp_path)
    words = said["python look.py"]
    assert "so its temperature is too high." in words
    assert (tmp_path / "found.png").stat().st_size > 20_000
    assert (tmp_path / "picture.png").stat().st_size > 20_000


@pytest.mark.timeout(600)
def test_submit_a_method(tmp_path):
    said = run_through("submit-a-method.md", tmp_path)
    board = said["mdzoo score answers.csv --benchmark board"]
    for name in ("my_method:Nearest@landscape", "my_tree", "by_hand"):
        (row,) = re.findall(rf"\| {name} .*", board.split("### demo, temperature\n")[1].split("###")[0])
        assert float(row.split("|")[4].strip().strip("*")) > 50, row


def test_the_data_dictionary_is_that_of_the_schemas():
    written = (ROOT / "docs" / "tables.md").read_text()
    assert written == tables.dictionary(), (
        "python -c 'from zoo import tables; print(tables.dictionary(), end=str())' > docs/tables.md"
    )


def test_the_citation_can_be_read():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= citation.keys()
    assert f'version = "{citation["version"]}"' in (ROOT / "pyproject.toml").read_text()


def test_links_between_pages_lead_somewhere():
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists() or (ROOT / link).exists(), f"{page.name}: {link}"
