"""`mdzoo submit`: a build as a job of a running Ray cluster, by its job server."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster import signals
from cluster.ray_executor import use_token

ON_CLUSTER = ("--address", "auto", "--patience", "600")
"""Options of a build on the cluster where it runs: nodes may join while it waits."""

SECONDS_BETWEEN_LOOKS, SECONDS_TO_ACCEPT = 1.0, 60.0
SPEC = "spec.toml"


def submit(
    spec: str, out: str, address: str, modules: Sequence[str] = (), options: Sequence[str] = ()
) -> str:
    """Submit a build, and return the job's id.

    Args:
        spec: Text of the spec; it travels with the job.
        out: Where the zoo is to live: an absolute path that all nodes share, or a URI.
        address: The job server, as http://127.0.0.1:8265.
        modules: Python files or packages of the current folder, without `.py`, which travel too and are imported.
        options: More options of `mdzoo build`.

    Raises:
        ValueError: If `out` is relative, or a module is not in the current folder.
        ConnectionError: If no job server answers there, or it wants a token.
    """
    check_place(out)
    imports = [part for module in modules for part in ("--import", module)]
    command = ["mdzoo", "build", SPEC, "--out", out, *ON_CLUSTER]
    client = _client(address)
    until = time.monotonic() + SECONDS_TO_ACCEPT
    with _folder(spec, modules) as folder:
        while True:
            try:
                return str(
                    client.submit_job(
                        entrypoint=shlex.join(
                            [*command, *imports, *options]
                        ),  # of two, the later option counts
                        runtime_env={"working_dir": str(folder)},
                        metadata={"zoo": out},
                    )
                )
            except RuntimeError as error:  # a head that has just started has no agent yet to run a job
                if time.monotonic() > until:
                    raise ConnectionError(
                        f"the job server at {address} took no job within {SECONDS_TO_ACCEPT:.0f} s: {error}"
                    ) from error
            signals.check()
            time.sleep(SECONDS_BETWEEN_LOOKS)


def check_place(out: str) -> None:
    """Refuse a zoo's place that is relative: a job's current folder is one of Ray's.

    Raises:
        ValueError: If it is.
    """
    if "://" not in out and not Path(out).is_absolute():
        raise ValueError(
            f"--out {out} is relative to a folder that Ray may delete; give an absolute path that all nodes share, "
            "or a URI such as s3://bucket/zoos/demo"
        )


def follow(job: str, address: str) -> int:
    """Print a job's log until it ends.

    Returns:
        The exit code that its command would have given: 0, or 1 if it failed or was stopped.
    """
    client, printed = _client(address), 0
    while True:
        ended = client.get_job_status(job).is_terminal()
        log = client.get_job_logs(job)
        sys.stdout.write(log[printed:])
        sys.stdout.flush()
        printed = len(log)
        if ended:
            status = client.get_job_info(job)
            print(f"job {job}: {status.message}", file=sys.stderr)
            return 0 if status.status == "SUCCEEDED" else 1
        signals.check()
        time.sleep(SECONDS_BETWEEN_LOOKS)


@contextmanager
def _folder(spec: str, modules: Sequence[str]) -> Iterator[Path]:
    """A folder with what travels: the spec and the user's modules, and nothing else of the current folder."""
    with tempfile.TemporaryDirectory(prefix="mdzoo-") as name:
        folder = Path(name)
        (folder / SPEC).write_text(spec)
        for module in modules:
            file, package = Path(f"{module}.py"), Path(module)
            if file.is_file():
                shutil.copy(file, folder)
            elif package.is_dir():
                shutil.copytree(package, folder / module)
            else:
                raise ValueError(
                    f"--import {module}: {file} and {package}/ are not in the current folder, from which modules are "
                    "taken along; go to theirs, or install it on the nodes and leave it to a spec's module"
                )
        yield folder


def _client(address: str) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    use_token()
    from ray.exceptions import RayError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, RayError) as error:
        raise ConnectionError(
            f"no job server took the connection at {address}: {error}; it listens on the head's loopback: run this "
            "there, or forward its port (ssh -L 8265:127.0.0.1:8265 HEAD)"
        ) from error
