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
from cluster.submission import ON_CLUSTER, check_place

HERE = Path("/tmp/ray/ray_current_cluster")
"""Ray's own note of the cluster that this machine belongs to."""


def arguments(given: list[str]) -> list[str]:
    """The arguments of `mdzoo`, with the cluster that is here, and time for its nodes to join."""
    places = [place for option, place in itertools.pairwise(given) if option == "--out"]
    try:
        for place in places:
            check_place(place)
    except ValueError as error:
        sys.exit(str(error))
    in_cluster = "RAY_ADDRESS" in os.environ or HERE.is_file()
    if not in_cluster or "--address" in given or "--workers" in given:
        return ["build", *given]
    return ["build", *ON_CLUSTER, *given]  # of two, the later option counts


if __name__ == "__main__":
    sys.argv = [sys.argv[0], *arguments(sys.argv[1:])]
    main()
