"""What a build says of itself, and how it is followed."""

import json
import time
from collections import Counter

import pytest

from cluster import status_file
from cluster.progress import Progress
from cluster.status_file import NAME, SILENT_SECONDS, StatusFile, follow, read_status, status_line
from zoo.storage import Folder


def test_it_says_what_is_done_where_and_how_it_ended(tmp_path):
    store = Folder(tmp_path)
    assert read_status(store) is None
    with StatusFile(store) as status:
        progress = Progress(lambda: 2)
        progress.expect("train", 10)
        progress.expect("measure", 20)
        status.follow(progress.facts)
        progress.add("train", Counter(done=2, failed=1), 6.0, "a")
        progress.add("train", Counter(done=2), 4.0, "b")
        assert progress.facts()["seconds_left"] is None, "nothing was measured yet"
        progress.add("measure", Counter(measurements=4), 4.0, "b")
    facts = read_status(store)
    assert (facts["state"], facts["running"], facts["hosts"]) == ("finished", 2, {"b": 6, "a": 3})
    train, measure = facts["stages"]["train"], facts["stages"]["measure"]
    assert (train["done"], train["failed"], train["total"]) == (5, 1, 10)
    assert (measure["done"], measure["total"], measure["unit"]) == (4, 20, "measurements")
    assert facts["seconds_left"] == (5 * 2.0 + 16 * 1.0) / 2, (
        "what is left of each at its pace, by two workers"
    )
    line = status_line(facts)
    assert line.startswith("finished: train: 5/10 runs, 1 failed, ")
    assert line.endswith("measure: 4/20 measurements, " + line.split("measurements, ")[1])
    assert line.endswith("00:13 left, 2 tasks at work (b 6, a 3)")


def test_it_is_written_however_long_a_task_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(status_file, "SECONDS_BETWEEN_WRITES", 0.05)
    store = Folder(tmp_path)
    with StatusFile(store):
        seen = set()
        until = time.monotonic() + 20
        while len(seen) < 3 and time.monotonic() < until:
            facts = read_status(store)
            seen |= {facts["updated"]} if facts else set()
            assert facts is None or facts["state"] == "running"
            time.sleep(0.05)
    assert len(seen) == 3


@pytest.mark.parametrize(("error", "state"), [(KeyboardInterrupt, "interrupted"), (OSError, "broken")])
def test_it_says_that_a_build_did_not_come_to_its_end(tmp_path, error, state):
    with pytest.raises(error), StatusFile(Folder(tmp_path)):
        raise error
    assert read_status(Folder(tmp_path))["state"] == state


def test_a_build_that_fell_silent_is_followed_no_more(tmp_path, capsys):
    with StatusFile(Folder(tmp_path)):
        pass
    facts = read_status(Folder(tmp_path)) | {"state": "running", "updated": time.time() - SILENT_SECONDS - 1}
    Folder(tmp_path).write(NAME, json.dumps(facts).encode())
    follow(Folder(tmp_path))
    said = capsys.readouterr()
    assert said.out.startswith("running: nothing to do yet")
    assert "has said nothing for over 60 s" in said.err
