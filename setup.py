"""The compiled part of the package: the lane kernels, once for each instruction set.

All else is in pyproject.toml. An extension that cannot be compiled is left out with a warning; the package then trains
on its slower engine, and `mdzoo build` says so.
"""

import platform

from setuptools import Extension, setup

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
            sources=["zoo/engines/kernels/lanes.cpp"],
            depends=[
                f"zoo/engines/kernels/{part}.hpp"
                for part in ("vector", "convolution", "activation", "network")
            ],
            extra_compile_args=[*FLAGS, *own],
            language="c++",
            optional=True,
        )
        for name, own in INSTRUCTION_SETS.items()
    ]
)
