"""What a build says of itself, and how it is followed."""

import json
import time

import pytest

from cluster.status_file import NAME, SILENT_SECONDS, StatusFile, follow, line_of, read_status
from zoo.storage import Folder


def test_it_says_what_is_done_where_and_how_it_ended(tmp_path):
    store = Folder(tmp_path)
    assert read_status(store) is None
    with StatusFile(store) as status:
        status.stage("train", "runs", 10)
        status.add(3, 1, 2, "a")
        status.add(2, 0, 2, "b")
        assert read_status(store)["state"] == "running"
    facts = read_status(store)
    assert (facts["state"], facts["done"], facts["failed"], facts["total"]) == ("finished", 5, 1, 10)
    assert facts["hosts"] == {"a": 3, "b": 2}
    assert line_of(facts).startswith("finished: train 5/10 runs, 2 tasks at work, 1 failed, ")
    assert line_of(facts).endswith(" left (a 3, b 2)")


@pytest.mark.parametrize(("error", "state"), [(KeyboardInterrupt, "interrupted"), (OSError, "broken")])
def test_it_says_that_a_build_did_not_come_to_its_end(tmp_path, error, state):
    with pytest.raises(error), StatusFile(Folder(tmp_path)):
        raise error
    assert read_status(Folder(tmp_path))["state"] == state


def test_a_build_that_fell_silent_is_followed_no_more(tmp_path, capsys):
    with StatusFile(Folder(tmp_path)) as status:
        status.stage("train", "runs", 10)
    facts = read_status(Folder(tmp_path)) | {"state": "running", "updated": time.time() - SILENT_SECONDS - 1}
    Folder(tmp_path).write(NAME, json.dumps(facts).encode())
    follow(Folder(tmp_path))
    said = capsys.readouterr()
    assert said.out.startswith("running: train 0/10 runs")
    assert "has said nothing for 15 minutes" in said.err
