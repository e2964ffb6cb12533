"""The compiled part of the package: the lane kernels, once for each instruction set.

All else is in pyproject.toml. An extension that cannot be compiled is left out with a warning; the package then
trains on its slower engine, and `mdzoo build` says so.
"""

import platform
from pathlib import Path

from setuptools import Extension, setup

KERNELS = Path("zoo/engines/kernels")
ARM = platform.machine().lower() in ("arm64", "aarch64")
INSTRUCTION_SETS = {"neon": []} if ARM else {"avx2": ["-mavx2", "-mfma"], "avx512": ["-march=skylake-avx512"]}
FLAGS = [
    "-std=c++17",
    "-O3",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-Wall",
    "-Wextra",
]

setup(
    ext_modules=[
        Extension(
            f"zoo.engines._lanes_{name}",
            sources=[str(KERNELS / "lanes.cpp")],
            depends=[str(header) for header in KERNELS.glob("*.hpp")],
            extra_compile_args=[*FLAGS, *own],
            language="c++",
            optional=True,
        )
        for name, own in INSTRUCTION_SETS.items()
    ]
)
