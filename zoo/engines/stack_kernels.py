"""Convolutions of K models with the model index innermost, by kernels in Triton.

An activation is [B, H, W, C, K]: to PyTorch a tensor [B, C x K, H, W] in channels_last, of which BatchNorm, ReLU and
pooling treat each channel alike. Neighbouring threads of a GPU then are neighbouring models, which do the same on
neighbouring numbers, whatever few channels a model has. Weights are [out, in, kernel height, kernel width, K]. Each
program holds a block of its sums in registers; products are of full float32 and sums of the same order in each run.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MODELS = 32
"""Models of a block, at most: a warp of threads."""

PIXELS, CHANNELS = 8, 8
"""Pixels and channels of a block of outputs: 64 sums a thread. Of fewer channels it has more pixels, up to twice as
many."""

SHARED_CHANNELS = 4
"""Channels of a block of weights' gradients, of inputs and of outputs, at most: with four taps 64 sums a thread."""

PROGRAMS = 2048
"""Programs of a block of models that the pixels of a weight's gradient are divided among, about: of 64 models, a few
for each scheduler of a large GPU. Their number goes by the layer alone, as the order of the sums does."""

SUMMED = 1024
"""Numbers of a program that adds the parts."""

LEAST_PIXELS = 64
"""Pixels of such a part, at least."""


@triton.jit
def _outputs(  # type: ignore[no-untyped-def]
    source,  # [B, height, width, inputs, models]
    weights,  # a number for each output, input, tap and model
    target,  # [B, rows, columns, outputs, models]
    batch, height, width, inputs, rows, columns, outputs, models,
    output_step, input_step,  # of weights, in numbers of all models
    stride: tl.constexpr, top: tl.constexpr, left: tl.constexpr,
    kernel_height: tl.constexpr, kernel_width: tl.constexpr,
    turned: tl.constexpr,
    precision: tl.constexpr,
    pixel_block: tl.constexpr, channel_block: tl.constexpr, model_block: tl.constexpr,
):  # fmt: skip
    """A convolution; turned, the gradient by its inputs from that by its outputs."""
    pixel = tl.program_id(0).to(tl.int64) * pixel_block + tl.arange(0, pixel_block)
    channel = tl.program_id(1) * channel_block + tl.arange(0, channel_block)
    model = tl.program_id(2) * model_block + tl.arange(0, model_block)
    image, row, column = pixel // (rows * columns), pixel // columns % rows, pixel % columns
    known = (channel[:, None] < outputs) & (model[None, :] < models)
    sums = tl.zeros([pixel_block, channel_block, model_block], precision)
    for vertical in tl.static_range(kernel_height):
        for horizontal in tl.static_range(kernel_width):
            if turned:
                y, x = row + top - vertical, column + left - horizontal
                inside = (y % stride == 0) & (x % stride == 0) & (y >= 0) & (x >= 0)
                y, x = y // stride, x // stride
            else:
                y, x = row * stride + vertical - top, column * stride + horizontal - left
                inside = (y >= 0) & (x >= 0)
            inside = inside & (y < height) & (x < width) & (image < batch)
            seen = inside[:, None] & (model[None, :] < models)
            at = source + ((image * height + y) * width + x)[:, None] * inputs * models + model[None, :]
            tap = channel[:, None] * output_step + vertical * kernel_width + horizontal
            of = weights + tap * models + model[None, :]
            for _ in range(inputs):
                numbers = tl.load(at, seen, 0.0).to(precision)
                factors = tl.load(of, known, 0.0).to(precision)
                sums += numbers[:, None, :] * factors[None, :, :]
                at += models
                of += input_step * models
    to = target + (pixel[:, None, None] * outputs + channel[None, :, None]) * models + model[None, None, :]
    tl.store(to, sums, (image < batch)[:, None, None] & known[None, :, :])


@triton.jit
def _weight_gradients(  # type: ignore[no-untyped-def]
    source,  # [B, height, width, inputs, models]
    delta,  # [B, rows, columns, outputs, models]
    target,  # [parts, outputs, inputs, kernel_height, kernel_width, models]
    lines, part_lines, height, width, inputs, rows, columns, outputs, models,
    stride: tl.constexpr, top: tl.constexpr, left: tl.constexpr,
    kernel_height: tl.constexpr, kernel_width: tl.constexpr,
    precision: tl.constexpr,
    tap_block: tl.constexpr, output_block: tl.constexpr, input_block: tl.constexpr, model_block: tl.constexpr,
):  # fmt: skip
    """Sums over one part of the lines of all images, for the taps of one row of the kernel."""
    blocks = tl.cdiv(outputs, output_block)
    output = tl.program_id(0) % blocks * output_block + tl.arange(0, output_block)
    input = tl.program_id(0) // blocks * input_block + tl.arange(0, input_block)
    vertical, part = tl.program_id(1) % kernel_height, tl.program_id(1) // kernel_height
    model = tl.program_id(2) * model_block + tl.arange(0, model_block)
    tap = tl.arange(0, tap_block)
    known_outputs = (output[:, None] < outputs) & (model[None, :] < models)
    known_inputs = (input[:, None] < inputs) & (model[None, :] < models)
    known_inputs = (tap < kernel_width)[:, None, None] & known_inputs[None, :, :]
    sums = tl.zeros([tap_block, output_block, input_block, model_block], precision)
    first = part.to(tl.int64) * part_lines
    for line in range(first, tl.minimum(first + part_lines, lines)):
        y = line % rows * stride + vertical - top
        if (y >= 0) & (y < height):
            start = (line // rows * height + y) * width - left
            start = (start + tap[:, None, None]) * inputs + input[None, :, None]
            at = source + start * models + model[None, None, :]
            of = delta + (line * columns * outputs + output[:, None]) * models + model[None, :]
            for column in range(columns):
                x = column * stride - left + tap
                numbers = tl.load(at, known_inputs & ((x >= 0) & (x < width))[:, None, None], 0.0)
                slopes = tl.load(of, known_outputs, 0.0)
                sums += slopes.to(precision)[None, :, None, :] * numbers.to(precision)[:, None, :, :]
                at += stride * inputs * models
                of += outputs * models
    place = part * outputs + output[None, :, None, None]
    place = (place * inputs + input[None, None, :, None]) * kernel_height + vertical
    place = (place * kernel_width + tap[:, None, None, None]).to(tl.int64) * models
    place += model[None, None, None, :]
    tl.store(target + place, sums, known_outputs[None, :, None, :] & known_inputs[:, None, :, :])


@triton.jit
def _sum_of_parts(parts, total, count, size, block: tl.constexpr):  # type: ignore[no-untyped-def]
    """Sums of [count, size], one part after the other; the order of a library's reduction goes by the size."""
    place = tl.program_id(0) * block + tl.arange(0, block)
    sums = tl.load(parts + place, place < size, 0.0)
    for _ in range(1, count):
        parts += size
        sums += tl.load(parts + place, place < size, 0.0)
    tl.store(total + place, sums, place < size)


def outputs(
    source: Tensor, weights: Tensor, size: tuple[int, int], stride: int, margins: tuple[int, int]
) -> Tensor:
    """Convolutions of K models.

    Args:
        source: Images [B, H, W, in, K], contiguous, as are the weights.
        weights: [out, in, kernel height, kernel width, K], of the same device and number format.
        size: H' and W' of the outputs.
        stride: Of rows and columns.
        margins: Zeros above and left of the images; below and right as many as the size asks for.

    Returns:
        [B, H', W', out, K]
    """
    inputs, taps = weights.shape[1], weights.shape[2] * weights.shape[3]
    target = source.new_empty(len(source), *size, len(weights), weights.shape[4])
    return _convolve(source, weights, target, (inputs * taps, taps), stride, margins, turned=False)


def input_gradients(
    delta: Tensor, weights: Tensor, size: tuple[int, int], stride: int, margins: tuple[int, int]
) -> Tensor:
    """Gradients [B, H, W, in, K] of `outputs` by its images from those by its outputs, [B, H', W', out, K]."""
    inputs, taps = weights.shape[1], weights.shape[2] * weights.shape[3]
    target = delta.new_empty(len(delta), *size, inputs, weights.shape[4])
    return _convolve(delta, weights, target, (taps, inputs * taps), stride, margins, turned=True)


def weight_gradients(
    source: Tensor, delta: Tensor, kernel: tuple[int, int], stride: int, margins: tuple[int, int]
) -> Tensor:
    """Gradients [out, in, kernel height, kernel width, K] of `outputs` by its weights.

    Args:
        source: Images [B, H, W, in, K], contiguous.
        delta: Gradients by the outputs, [B, H', W', out, K], contiguous.
        kernel: Height and width of the kernel.
        stride: As in `outputs`.
        margins: As in `outputs`.
    """
    _, height, width, inputs, models = source.shape
    images, rows, columns, made, _ = delta.shape
    output_block, input_block = (min(SHARED_CHANNELS, triton.next_power_of_2(own)) for own in (made, inputs))
    model_block = min(MODELS, triton.next_power_of_2(models))
    blocks = triton.cdiv(made, output_block) * triton.cdiv(inputs, input_block)
    lines = images * rows
    parts = max(1, min(PROGRAMS // (blocks * kernel[0]), lines * columns // LEAST_PIXELS, lines))
    part_lines = triton.cdiv(lines, parts)
    parts = triton.cdiv(lines, part_lines)
    target = source.new_empty(parts, made, inputs, *kernel, models, dtype=_sums_of(source)[0])
    _weight_gradients[blocks, kernel[0] * parts, triton.cdiv(models, model_block)](
        *(source, delta, target),
        *(lines, part_lines, height, width, inputs, rows, columns, made, models),
        *(stride, *margins, *kernel, _sums_of(source)[1]),
        *(triton.next_power_of_2(kernel[1]), output_block, input_block, model_block),
        num_warps=1,
        enable_fp_fusion=True,
    )
    if parts == 1:
        return target[0].to(source.dtype)
    size = target[0].numel()
    total = source.new_empty(target.shape[1:])
    _sum_of_parts[(triton.cdiv(size, SUMMED),)](target, total, parts, size, SUMMED, num_warps=4)
    return total


def _convolve(
    source: Tensor,
    weights: Tensor,
    target: Tensor,
    steps: tuple[int, int],
    stride: int,
    margins: tuple[int, int],
    turned: bool,
) -> Tensor:
    _, height, width, inputs, models = source.shape
    batch, rows, columns, made, _ = target.shape
    model_block = min(MODELS, triton.next_power_of_2(models))
    channel_block = min(CHANNELS, triton.next_power_of_2(made))
    pixel_block = min(2 * PIXELS, PIXELS * CHANNELS // channel_block)
    grid = (
        triton.cdiv(batch * rows * columns, pixel_block),
        triton.cdiv(made, channel_block),
        triton.cdiv(models, model_block),
    )
    _outputs[grid](
        *(source, weights, target),
        *(batch, height, width, inputs, rows, columns, made, models),
        *(*steps, stride, *margins, *weights.shape[2:4], turned, _sums_of(source)[1]),
        *(pixel_block, channel_block, model_block),
        num_warps=1,
        enable_fp_fusion=True,
    )
    return target


def _sums_of(numbers: Tensor) -> tuple[torch.dtype, tl.dtype]:
    """The number format of sums, to PyTorch and to Triton."""
    double = numbers.dtype == torch.float64
    return (torch.float64, tl.float64) if double else (torch.float32, tl.float32)
