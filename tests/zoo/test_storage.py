"""Storage: a file is there whole or not at all."""

import os
import subprocess
import sys

import pytest

from zoo.storage import Folder


def test_round_trip_and_listing(tmp_path):
    store = Folder(tmp_path / "zoo")
    assert store.names("fragments/runs", ".parquet") == []
    store.write("fragments/runs/b.parquet", b"2")
    store.write("fragments/runs/a.parquet", b"1")
    store.write("fragments/runs/a.parquet", b"3")
    assert store.names("fragments/runs", ".parquet") == [
        "fragments/runs/a.parquet",
        "fragments/runs/b.parquet",
    ]
    assert store.read("fragments/runs/a.parquet") == b"3"


def test_the_same_content_has_the_same_name(tmp_path):
    store = Folder(tmp_path)
    first = store.write_named_by_content("checkpoints", b"weights", ".safetensors")
    assert store.write_named_by_content("checkpoints", b"weights", ".safetensors") == first
    assert store.write_named_by_content("checkpoints", b"other", ".safetensors") != first
    assert store.read(first) == b"weights"


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_write_that_breaks_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, broken):
    store = Folder(tmp_path)
    store.write("t.parquet", b"old")

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(OSError, match="no space left"):
        store.write("t.parquet", b"new")
    monkeypatch.undo()
    assert store.read("t.parquet") == b"old"
    assert os.listdir(tmp_path) == ["t.parquet"]


def test_a_file_in_the_making_is_not_listed(tmp_path):
    store = Folder(tmp_path)
    store.write("f/a.parquet", b"1")
    (tmp_path / "f" / ".b.parquet.123.tmp").write_bytes(b"half")
    assert store.names("f", ".parquet") == ["f/a.parquet"]


def test_one_build_at_a_time(tmp_path):
    store = Folder(tmp_path)
    script = (
        "import pathlib, sys, zoo.storage\nwith zoo.storage.Folder(pathlib.Path(sys.argv[1])).locked(): pass"
    )
    with store.locked():
        done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True)
        assert (
            f"BlockingIOError: another build is at work in {tmp_path}; wait for it or stop it" in done.stderr
        )
    assert subprocess.run([sys.executable, "-c", script, tmp_path]).returncode == 0


def test_delete(tmp_path):
    store = Folder(tmp_path)
    store.write("a", b"1")
    store.delete("a")
    store.delete("a")
    assert not store.exists("a")


def test_what_a_killed_writer_left_is_swept(tmp_path):
    store = Folder(tmp_path)
    store.write("fragments/runs/a.parquet", b"whole")
    (tmp_path / "fragments" / "runs" / ".b.parquet.1234.tmp").write_bytes(b"ha")
    store.sweep()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a.parquet"]
