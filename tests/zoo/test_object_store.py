"""The object store: a real S3 server, that also fails."""

from __future__ import annotations

import copy
import json
import os
import time

import pytest

from tests.s3_server import BUCKET, CREDENTIALS, gateway, s3_server
from zoo import object_store
from zoo.object_store import Bucket
from zoo.storage import Folder, open_store


@pytest.fixture(scope="module")
def server():
    os.environ.update(CREDENTIALS)
    with s3_server() as port:
        yield port


def uri(port: int, prefix: str = "tests") -> str:
    return f"s3://{BUCKET}/{prefix}?endpoint_override=127.0.0.1:{port}&scheme=http"


@pytest.fixture
def store(server, request):
    return open_store(uri(server, request.node.name))


def test_round_trip_and_listing(store):
    assert store.names("fragments/runs", ".parquet") == []
    store.write("fragments/runs/b.parquet", b"2")
    store.write("fragments/runs/a.parquet", b"1")
    store.write("fragments/runs/a.parquet", b"3")
    store.write("fragments/runs/deeper/c.parquet", b"4")
    assert store.names("fragments/runs", ".parquet") == [
        "fragments/runs/a.parquet",
        "fragments/runs/b.parquet",
    ]
    assert list(store.read_each(store.names("fragments/runs", ".parquet"))) == [
        ("fragments/runs/a.parquet", b"3"),
        ("fragments/runs/b.parquet", b"2"),
    ]
    with store.local("fragments/runs/b.parquet") as path:
        assert path.read_bytes() == b"2"
    assert not path.exists()
    store.delete("fragments/runs/a.parquet")
    store.delete("fragments/runs/a.parquet")
    assert not store.exists("fragments/runs/a.parquet")
    assert store.exists("fragments/runs/b.parquet")
    with pytest.raises(FileNotFoundError):
        store.read("fragments/runs/a.parquet")


def test_many_files_come_in_their_order(store):
    for number in range(80):
        store.write(f"f/{number:03}.parquet", str(number).encode())
    assert [int(data) for _, data in store.read_each(store.names("f", ".parquet"))] == list(range(80))


def test_it_can_be_sent_to_another_process(store):
    """As Ray does: what is copied is the place, and no connection."""
    store.write("a", b"1")
    assert vars(store).keys() == {"uri", "prefix"}
    assert copy.deepcopy(store).read("a") == b"1"


@pytest.mark.parametrize("how", ["error", "late"])
def test_a_store_that_fails_now_and_then_is_asked_again(server, how, request):
    with gateway(server, 0.2, how) as between:
        store = open_store(uri(between.port, request.node.name))
        for number in range(30):
            store.write(f"f/{number:03}", b"x" * number)
        assert between.seen["spoilt"] > 3
    direct = open_store(uri(server, request.node.name))
    assert [len(data) for _, data in direct.read_each(direct.names("f", ""))] == list(range(30))


@pytest.mark.parametrize(("how", "size"), [("error", 10), ("error", 12_000_000), ("silent", 10)])
def test_a_write_that_fails_for_good_leaves_the_old_object(server, how, size, request, monkeypatch):
    """12 MB is an upload in several parts."""
    monkeypatch.setattr(object_store, "ATTEMPTS", 2)
    monkeypatch.setattr(object_store, "REQUEST_SECONDS", 1)
    direct = open_store(uri(server, f"{how}-{size}"))
    direct.write("t", b"old")
    assert direct.read("t") == b"old"
    with gateway(server, 1.0, how) as between:
        store = open_store(uri(between.port, f"{how}-{size}"))
        with pytest.raises(OSError, match=r"AWS Error|t"):
            store.write("t", b"n" * size)
    assert direct.read("t") == b"old"


def test_large_objects_come_back_whole(store):
    data = os.urandom(12_000_000)
    name = store.write_named_by_content("checkpoints", data, ".safetensors")
    assert store.read(name) == data


def test_one_build_at_a_time(store, monkeypatch):
    with store.locked():
        message = r"another build is at work in s3://.*its lock ends within"
        with pytest.raises(BlockingIOError, match=message), store.locked():
            pass
        assert "owner" in json.loads(store.read(".lock"))
    with store.locked():
        pass
    assert not store.exists(".lock")
    store.write(".lock", b'{"host": "gone", "owner": "killed"}')
    monkeypatch.setattr(object_store, "LEASE_SECONDS", 0.5)
    time.sleep(1.5)  # the server's times are whole seconds
    with store.locked():
        pass


def test_a_lock_is_renewed(store, monkeypatch):
    monkeypatch.setattr(object_store, "RENEW_SECONDS", 0.2)
    with store.locked():
        held = store.read(".lock")
        store.delete(".lock")
        time.sleep(1)
        assert store.read(".lock") == held


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("ftp://host/zoo", "a zoo lives in a folder, or at s3:// or gs://, not at ftp://host/zoo"),
        ("ftp://key:secret@host/zoo", "holds a password"),
        (
            "s3://zoos/demo?access_key=a&secret_key=secret",
            r"options \['access_key', 'secret_key'\] are not known",
        ),
        ("s3://key:secret@zoos/demo", "holds a password, which would end up in logs"),
        ("s3://zoos/demo?regoin=x", r"options \['regoin'\] are not known; there are region, scheme"),
        ("s3:///demo", "names no bucket; write s3://BUCKET/PREFIX"),
    ],
)
def test_places_that_are_none(place, message):
    with pytest.raises(ValueError, match=message) as error:
        open_store(place)
    assert "secret" not in str(error.value).replace("secret_key", "")


def test_places(tmp_path):
    assert (
        open_store(tmp_path)
        == open_store(str(tmp_path))
        == open_store(f"file://{tmp_path}")
        == Folder(tmp_path)
    )
    assert open_store("gs://zoos/demo/") == Bucket("gs://zoos/demo/", "zoos/demo")
    assert str(open_store("s3://zoos/demo?region=eu-central-1")) == "s3://zoos/demo?region=eu-central-1"
