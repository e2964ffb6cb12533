"""What tests share: the data beside the repository, and small specs."""

import os
from pathlib import Path

import pytest

# Ray lets its workers yield to every other process; here those of the other tests would starve them.
os.environ.setdefault("RAY_worker_niceness", "0")

# Where there is no GPU, Triton's interpreter runs its kernels; it has to know before it is imported.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of shared data sets and tables; a test that needs it skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("no shared/data beside the repository: the authors' tables and CIFAR-10 are not there")
    return SHARED.resolve()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """One thread a process, as in a build: two threads on two busy cores are slower than one."""
    import torch

    torch.set_num_threads(1)
