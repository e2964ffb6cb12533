"""Build a zoo on the Ray cluster where this runs; alone, on this machine.

    python build_zoo.py demo --out /data/zoos/demo
    ray submit CLUSTER.yaml build_zoo.py demo --out s3://bucket/zoos/demo
    ray job submit --working-dir cluster/jobs -- python build_zoo.py demo --out s3://bucket/zoos/demo

Arguments are those of `mdzoo build`. The same command goes on where it stopped, whatever stopped it.
"""

import itertools
import os
import sys
from pathlib import Path

from cluster.cli import main

HERE = Path("/tmp/ray/ray_current_cluster")
"""Ray's own note of the cluster that this machine belongs to."""


def arguments(given: list[str]) -> list[str]:
    """The arguments of `mdzoo`, with the cluster that is here, and time for its nodes to join."""
    places = [place for option, place in itertools.pairwise(given) if option == "--out"]
    if "--dry-run" not in given and not all("://" in place or place.startswith("/") for place in places):
        sys.exit(
            f"--out {places[0]} is relative to a folder that Ray may delete; give an absolute path that all nodes "
            "share, or a URI such as s3://bucket/zoos/demo"
        )
    in_cluster = "RAY_ADDRESS" in os.environ or HERE.is_file()
    if not in_cluster or "--address" in given or "--workers" in given:
        return ["build", *given]
    patience = [] if "--patience" in given else ["--patience", "600"]
    return ["build", *given, "--address", "auto", *patience]


if __name__ == "__main__":
    sys.argv = [sys.argv[0], *arguments(sys.argv[1:])]
    main()
