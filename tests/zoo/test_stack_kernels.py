"""The kernels of models in lanes: Triton's interpreter against PyTorch's convolutions, and compiled for GPUs."""

import copy
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from zoo.config import TrainConfig
from zoo.datasets import Split
from zoo.engines import stack_lanes
from zoo.engines.loop import LoopEngine
from zoo.engines.stack import StackEngine
from zoo.engines.stack_network import Way
from zoo.models import ImageShape, initial_model

triton = pytest.importorskip("triton", reason="PyTorch came without Triton, which has the kernels for GPUs")
from zoo.engines import stack_kernels  # noqa: E402 - it needs Triton

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # on the CPU by the interpreter, see conftest.py
CASES = {  # batch, height, width, inputs, outputs, models, kernel, stride, margins
    "a 3x3 kernel": (2, 4, 5, 2, 3, 3, (3, 3), 1, (1, 1)),
    "stride 2 on odd images": (2, 7, 5, 3, 4, 5, (3, 3), 2, (1, 1)),
    "a shortcut": (2, 6, 6, 2, 2, 3, (1, 1), 2, (0, 0)),
    "more channels and models than a block": (1, 2, 3, 9, 9, 33, (3, 3), 1, (1, 1)),
    "a margin of one side": (2, 5, 4, 1, 2, 2, (3, 2), 1, (2, 0)),
    "an image of a pixel": (1, 1, 1, 1, 1, 1, (3, 3), 1, (1, 1)),
    "three parts of lines": (3, 2, 33, 1, 1, 2, (3, 3), 1, (1, 1)),
}


def made_of(batch, height, width, inputs, outputs, models, kernel, dtype=torch.float64):
    stream = torch.Generator().manual_seed(0)
    source = torch.randn(batch, height, width, inputs, models, generator=stream).to(DEVICE, dtype)
    weights = torch.randn(outputs, inputs, *kernel, models, generator=stream).to(DEVICE, dtype)
    return source, weights


def convolved(source, weights, stride, margins, slopes=None):
    """Outputs and gradients by kernels; `slopes` [B, H', W', out, K] are those of a loss, by default 1."""
    source, weights = (own.detach().clone().requires_grad_() for own in (source, weights))
    made = stack_lanes.convolve(source, weights, stride, margins)
    slopes = torch.ones_like(made) if slopes is None else slopes
    return made.detach(), *torch.autograd.grad(made, (source, weights), slopes)


@pytest.mark.parametrize("case", CASES)
def test_kernels_equal_grouped_convolutions(case):
    *shape, stride, margins = CASES[case]
    source, weights = made_of(*shape)
    models = shape[5]
    x = source.permute(4, 3, 0, 1, 2).transpose(1, 2).clone().requires_grad_()  # [K, B, in, H, W]
    w = weights.movedim(4, 0).clone().requires_grad_()
    wanted = torch.stack([F.conv2d(x[k], w[k], None, stride, margins) for k in range(models)])
    wanted = wanted.permute(1, 3, 4, 2, 0)
    slopes = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1)).to(wanted)
    by_x, by_w = torch.autograd.grad(wanted, (x, w), slopes)
    found = convolved(source, weights, stride, margins, slopes)
    for own, other in zip(found, (wanted, by_x.permute(1, 3, 4, 2, 0), by_w.movedim(0, 4)), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-12)


def test_a_model_does_not_depend_on_the_others(monkeypatch):
    """To the bit: alone, beside others, and beside one that is NaN, where sums over images have many parts."""
    monkeypatch.setattr(stack_kernels, "LEAST_PIXELS", 4)
    source, weights = made_of(2, 5, 4, 1, 2, 35, (3, 3), torch.float32)
    alone = convolved(source[..., 7:8], weights[..., 7:8], 1, (1, 1))
    source[..., 8], weights[..., 6] = torch.nan, torch.nan
    beside = convolved(source, weights, 1, (1, 1))
    for own, others in zip(alone, beside, strict=True):
        assert torch.equal(own[..., 0], others[..., 7])
        assert others[..., 8].isnan().any() or others[..., 6].isnan().any()


def test_half_precision_sums_in_single():
    source, weights = made_of(2, 4, 5, 3, 4, 2, (3, 3), torch.bfloat16)
    wanted = convolved(source.float(), weights.float(), 1, (1, 1))
    for own, other in zip(convolved(source, weights, 1, (1, 1)), wanted, strict=True):
        assert own.dtype == torch.bfloat16
        # the interpreter cuts off what does not fit, a GPU rounds
        torch.testing.assert_close(own.float(), other, rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "precision", "steps", "bound"),
    [(torch.float64, "float32", 2, 1e-10), (torch.float32, "bfloat16", 1, 0.05)],
)
def test_training_by_kernels_equals_the_plain_loop(monkeypatch, dtype, precision, steps, bound):
    """Three networks, each with labels and rates of its own."""
    monkeypatch.setattr(stack_lanes, "by_kernels", lambda _: True)
    stream, shape = torch.Generator().manual_seed(2), ImageShape(2, 4, 3)
    images, labels = torch.randn(6, 2, 4, 4, generator=stream), torch.randint(0, 3, (3, 6), generator=stream)
    config = TrainConfig("random", "0", "cnn", 1, batch_size=4, data_amount=6, sample_passes=8)
    models = [initial_model("cnn", 1, shape, seed).to(dtype) for seed in range(3)]
    data = [Split(images.to(dtype), own) for own in labels]
    batches = torch.randint(0, 6, (3, steps, 4), generator=stream)
    rates = torch.rand(3, steps, generator=stream) / 9
    config = dataclasses.replace(config, precision=precision)
    plain = LoopEngine(copy.deepcopy(models), data, [config] * 3, DEVICE)
    lanes = StackEngine(models, data, [config] * 3, DEVICE, Way("lanes"))
    assert lanes.way == Way("lanes")
    wanted, found = plain.advance(batches, rates), lanes.advance(batches, rates)
    torch.testing.assert_close(found.losses, wanted.losses, rtol=bound, atol=bound)
    for lane in range(3):
        for name, value in plain.weights(lane).items():
            torch.testing.assert_close(lanes.weights(lane)[name], value, rtol=bound, atol=bound, msg=name)


COMPILED = """
import sys, triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from zoo.engines import stack_kernels as kernels

def compiled(kernel, constants, architecture):
    kinds = dict.fromkeys(("source", "weights", "delta", "target", "parts", "total"), "*fp32")
    signature = {name: "constexpr" if name in constants else kinds.get(name, "i32") for name in kernel.arg_names}
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    aligned = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in kernel.arg_names
               if name in kinds or name == "models"}
    source = ASTSource(kernel, signature, places, aligned)
    options = dict(num_warps=1, enable_fp_fusion=True)
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)

shape = dict(stride=1, top=1, left=1, kernel_height=3, kernel_width=3, precision=tl.float32,
             model_block=kernels.MODELS)
outputs = dict(pixel_block=kernels.PIXELS, channel_block=kernels.CHANNELS)
gradients = dict(tap_block=4, output_block=kernels.SHARED_CHANNELS, input_block=kernels.SHARED_CHANNELS)
for architecture in (80, 90):
    made = [compiled(kernels._outputs, shape | outputs | dict(turned=own), architecture) for own in (False, True)]
    made.append(compiled(kernels._weight_gradients, shape | gradients, architecture))
    made.append(compiled(kernels._sum_of_parts, dict(block=kernels.SUMMED), architecture))
    for kernel in made:
        assert ".local" not in kernel.asm["ptx"]
        with open(f"{sys.argv[1]}/{architecture}-{len(kernel.asm['cubin'])}.cubin", "wb") as file:
            file.write(kernel.asm["cubin"])
"""


def test_kernels_compile_for_gpus_and_keep_their_sums_in_registers(tmp_path):
    """For the chips of two generations, without one at hand."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", COMPILED, tmp_path], check=True, env=environment)
    made = sorted(tmp_path.iterdir())
    assert made
    reader = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    for binary in made:
        said = subprocess.run(
            [reader, "--dump-resource-usage", binary], check=True, capture_output=True, text=True
        ).stdout
        assert "STACK:0" in said, said
