// The three products of a convolution, each blocked for registers: outputs, gradients of inputs, gradients of
// weights.
//
// An image is [height][width][channels] vectors, padded with a border of zeros where a 3x3 kernel reads it. Of a
// window a kernel reads one run of neighbouring vectors a row: the channels of its taps lie side by side. So a
// convolution is known by its `Segment`s, and a linear layer is one with a single tap whose "row" is the batch.
//
// Weights lie in the order in which the products read them: [block of outputs][tap][input][output of the block]. The
// loops over a block of `pixels` x `channels` keep their sums in registers: 12 of them hide the latency of the
// multiply-add and leave room in 16 registers for what is multiplied. Longer images are cut evenly, so that the last
// block of a row is not a sliver.
#pragma once

#include <algorithm>
#include <array>

#include "vector.hpp"

namespace lanes {

constexpr int kMostChannels = 4;                                 // outputs of a block
constexpr int kMostPixels[kMostChannels + 1] = {0, 8, 6, 4, 3};  // pixels of a block, by its outputs
constexpr int kSums = 12;                                        // sums of a block of weight gradients

// Where a row of a window begins, in vectors from the window's first, and how many vectors it takes.
struct Segment {
    std::ptrdiff_t offset;
    int length;
};

// What a window reads; its weights follow one another.
struct Window {
    std::array<Segment, 9> segments;
    int count = 0;
    int taps = 0;

    // Neighbouring taps of a row, whose pixels lie `pitch` vectors apart.
    void add(std::ptrdiff_t offset, int row_taps, int channels, int pitch) {
        const bool gapless = pitch == channels;
        for (int tap = 0; tap < (gapless ? 1 : row_taps); tap++)
            segments[count++] = {offset + tap * pitch, gapless ? row_taps * channels : channels};
        taps += row_taps;
    }
};

// Where pixels lie: vectors from one to the next in a row, from one row to the next, and from one image to the next.
struct Steps {
    std::ptrdiff_t pixel, row, image;
};

// How many pixels and images there are.
struct Extent {
    int images, rows, columns;
};

// Vectors from one pixel to the next. Pixels that are a multiple of half a kilobyte apart fall into the same few sets
// of the nearest cache and drive each other out: a line between them spreads them.
template <class V>
constexpr int pitch_of(int channels) {
    return channels * int(sizeof(V)) % 512 == 0 ? channels + std::max<int>(1, 64 / sizeof(V)) : channels;
}

inline int ceil_div(int a, int b) {
    return (a + b - 1) / b;
}

// Outputs of a block: as many as make the fewest vector operations on rows of that length. A block's cost is that of
// its multiply-adds or of its loads, two a cycle each, but no less than the latency of one multiply-add.
inline int channel_block(int channels, int columns) {
    int best = 0;
    double least = 0;
    for (int block = 1; block <= std::min(kMostChannels, channels); block++) {
        double cycles = 0;
        for (int first = 0; first < channels; first += block) {
            const int own = std::min(block, channels - first);
            const int count = ceil_div(columns, kMostPixels[own]);
            for (int k = 0; k < count; k++) {
                const int pixels = columns * (k + 1) / count - columns * k / count;
                cycles += std::max({pixels * own / 2.0, (pixels + own) / 2.0, 4.0}) + 0.5;
            }
        }
        if (best == 0 || cycles < 1.05 * least) {  // of much the same the larger, which reads less
            least = cycles;
            best = block;
        }
    }
    return best;
}

// Sums and sums of squares of outputs less a shift, which BatchNorm wants; none where null. A shift near the mean
// keeps the digits of a variance that is small beside the mean's square.
template <class V>
struct Moments {
    V* sum = nullptr;
    V* square = nullptr;
    const V* shift = nullptr;
};

// out[p][c] (+)= sum over the window's vectors i of in[p + i] * w[i][c], for so many blocks of pixels and channels in
// a row.
template <class T, class In, class W, int Pixels, int Channels>
void product_blocks(int blocks, const In* in, std::ptrdiff_t in_step, const Window& window, const W* weights,
                    Vector<T>* out, std::ptrdiff_t out_step, bool add, Moments<Vector<T>> moments) {
    using V = Vector<T>;
    constexpr int stride = kStride<V, In>;
    for (; blocks > 0; blocks--, in += Pixels * in_step, out += Pixels * out_step) {
        const W* w = weights;
        V sums[Pixels][Channels];
#pragma GCC unroll 16
        for (int p = 0; p < Pixels; p++)
#pragma GCC unroll 16
            for (int c = 0; c < Channels; c++) sums[p][c] = add ? out[p * out_step + c] : V{};
        for (int row = 0; row < window.count; row++) {
            const In* at = in + window.segments[row].offset * stride;
            for (int left = window.segments[row].length; left > 0; left--) {
                // The smaller side stays in registers, the larger passes through one.
                if constexpr (Channels < Pixels) {
                    V factors[Channels];
#pragma GCC unroll 16
                    for (int c = 0; c < Channels; c++) hold(factors[c] = spread<V>(w + c));
#pragma GCC unroll 16
                    for (int p = 0; p < Pixels; p++) {
                        V x = spread<V>(at + p * in_step);
                        hold(x);
#pragma GCC unroll 16
                        for (int c = 0; c < Channels; c++) sums[p][c] += x * factors[c];
                    }
                } else {
                    V x[Pixels];
#pragma GCC unroll 16
                    for (int p = 0; p < Pixels; p++) hold(x[p] = spread<V>(at + p * in_step));
#pragma GCC unroll 16
                    for (int c = 0; c < Channels; c++) {
                        V factor = spread<V>(w + c);
                        hold(factor);
#pragma GCC unroll 16
                        for (int p = 0; p < Pixels; p++) sums[p][c] += x[p] * factor;
                    }
                }
                at += stride;
                w += Channels;
            }
        }
#pragma GCC unroll 16
        for (int p = 0; p < Pixels; p++)
#pragma GCC unroll 16
            for (int c = 0; c < Channels; c++) out[p * out_step + c] = sums[p][c];
        if (moments.sum) {
#pragma GCC unroll 16
            for (int c = 0; c < Channels; c++) {
                V sum = moments.sum[c], square = moments.square[c];
                const V shift = moments.shift[c];
#pragma GCC unroll 16
                for (int p = 0; p < Pixels; p++) {
                    const V rest = sums[p][c] - shift;
                    sum += rest;
                    square += rest * rest;
                }
                moments.sum[c] = sum;
                moments.square[c] = square;
            }
        }
    }
}

template <class T, class In, class W>
using ProductBlocks = void (*)(int, const In*, std::ptrdiff_t, const Window&, const W*, Vector<T>*, std::ptrdiff_t,
                               bool, Moments<Vector<T>>);

template <class T, class In, class W, int Channels, int... P>
constexpr std::array<ProductBlocks<T, In, W>, 8> product_blocks_of(std::integer_sequence<int, P...>) {
    return {product_blocks<T, In, W, P + 1, Channels>...};
}

// The block for so many channels and pixels is kProductBlocks<T, In, W>[channels - 1][pixels - 1].
template <class T, class In, class W>
constexpr std::array<std::array<ProductBlocks<T, In, W>, 8>, kMostChannels> kProductBlocks = {
    product_blocks_of<T, In, W, 1>(std::make_integer_sequence<int, kMostPixels[1]>{}),
    product_blocks_of<T, In, W, 2>(std::make_integer_sequence<int, kMostPixels[2]>{}),
    product_blocks_of<T, In, W, 3>(std::make_integer_sequence<int, kMostPixels[3]>{}),
    product_blocks_of<T, In, W, 4>(std::make_integer_sequence<int, kMostPixels[4]>{}),
};

// out (+)= the window's product with in, over all images: a convolution, or the gradient of its inputs. Steps of `in`
// are counted in what it points to.
//
// Blocks of channels come outermost, so that their weights stay in the nearest cache while the images pass by.
// Moments are summed image by image and then added: of 50,000 numbers summed in a row single precision keeps too
// little.
template <class T, class In, class W>
void product(Extent extent, const In* in, Steps in_steps, const Window& window, const W* weights, int inputs,
             int outputs, int block, Vector<T>* out, Steps out_steps, bool add, Moments<Vector<T>> moments = {}) {
    using V = Vector<T>;
    for (int first = 0; first < outputs; first += block) {
        const int own = std::min(block, outputs - first);
        const W* w = weights + static_cast<std::ptrdiff_t>(first) * window.taps * inputs;
        const int count = ceil_div(extent.columns, kMostPixels[own]);
        const int size = extent.columns / count, longer = extent.columns % count;
        const auto& kernels = kProductBlocks<T, In, W>[own - 1];
        for (int image = 0; image < extent.images; image++) {
            V sums[2][kMostChannels] = {};
            const Moments<V> own_moments =
                moments.sum ? Moments<V>{sums[0], sums[1], moments.shift + first} : Moments<V>{};
            for (int y = 0; y < extent.rows; y++) {
                const In* in_row = in + image * in_steps.image + y * in_steps.row;
                V* out_row = out + image * out_steps.image + y * out_steps.row + first;
                // `count` blocks, of which the first are a pixel longer than the others.
                if (longer)
                    kernels[size](longer, in_row, in_steps.pixel, window, w, out_row, out_steps.pixel, add,
                                  own_moments);
                kernels[size - 1](count - longer, in_row + longer * (size + 1) * in_steps.pixel, in_steps.pixel,
                                  window, w, out_row + longer * (size + 1) * out_steps.pixel, out_steps.pixel, add,
                                  own_moments);
            }
            for (int c = 0; moments.sum && c < own; c++) {
                moments.sum[first + c] += sums[0][c];
                moments.square[first + c] += sums[1][c];
            }
        }
    }
}

// What becomes of gradients: they are added to memory, or their squares to one number.
enum class Gradients { kept, squared };

// gradient[t][i][c] += sum over all pixels of in[pixel + t][i] * delta[pixel][c], for neighbouring taps t of a row.
template <class T, int Taps, int Inputs, int Channels>
void gradient_block(Extent extent, const Vector<T>* in, Steps in_steps, std::ptrdiff_t tap_step,
                    const Vector<T>* delta, Steps delta_steps, Vector<T>* gradient, std::ptrdiff_t gradient_step) {
    using V = Vector<T>;
    constexpr int rows = Taps * Inputs;
    V sums[rows][Channels];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 16
        for (int c = 0; c < Channels; c++)
            sums[r][c] = gradient[(r / Inputs) * gradient_step + (r % Inputs) * Channels + c];
    for (int image = 0; image < extent.images; image++)
        for (int y = 0; y < extent.rows; y++) {
            const V* x = in + image * in_steps.image + y * in_steps.row;
            const V* d = delta + image * delta_steps.image + y * delta_steps.row;
            for (int left = extent.columns; left > 0; left--) {
                if constexpr (Channels < rows) {
                    V own[Channels];
#pragma GCC unroll 16
                    for (int c = 0; c < Channels; c++) hold(own[c] = d[c]);
#pragma GCC unroll 16
                    for (int r = 0; r < rows; r++) {
                        V factor = x[(r / Inputs) * tap_step + r % Inputs];
                        hold(factor);
#pragma GCC unroll 16
                        for (int c = 0; c < Channels; c++) sums[r][c] += factor * own[c];
                    }
                } else {
                    V own[rows];
#pragma GCC unroll 16
                    for (int r = 0; r < rows; r++) hold(own[r] = x[(r / Inputs) * tap_step + r % Inputs]);
#pragma GCC unroll 16
                    for (int c = 0; c < Channels; c++) {
                        V factor = d[c];
                        hold(factor);
#pragma GCC unroll 16
                        for (int r = 0; r < rows; r++) sums[r][c] += own[r] * factor;
                    }
                }
                x += in_steps.pixel;
                d += delta_steps.pixel;
            }
        }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 16
        for (int c = 0; c < Channels; c++)
            gradient[(r / Inputs) * gradient_step + (r % Inputs) * Channels + c] = sums[r][c];
}

template <class T>
using GradientBlock = void (*)(Extent, const Vector<T>*, Steps, std::ptrdiff_t, const Vector<T>*, Steps, Vector<T>*,
                               std::ptrdiff_t);

// Inputs of a block of weight gradients, for so many neighbouring taps and outputs.
constexpr int input_block(int taps, int channels) {
    return std::max(1, kSums / (taps * channels));
}

template <class T, int Taps, int Channels, int... I>
constexpr std::array<GradientBlock<T>, kSums> gradient_blocks_of(std::integer_sequence<int, I...>) {
    return {gradient_block<T, Taps, I + 1, Channels>...};
}

template <class T, int Taps>
constexpr std::array<std::array<GradientBlock<T>, kSums>, kMostChannels> kGradientBlocks = {
    gradient_blocks_of<T, Taps, 1>(std::make_integer_sequence<int, input_block(Taps, 1)>{}),
    gradient_blocks_of<T, Taps, 2>(std::make_integer_sequence<int, input_block(Taps, 2)>{}),
    gradient_blocks_of<T, Taps, 3>(std::make_integer_sequence<int, input_block(Taps, 3)>{}),
    gradient_blocks_of<T, Taps, 4>(std::make_integer_sequence<int, input_block(Taps, 4)>{}),
};

// gradient += in^T delta over all images, for a square kernel of `size` taps a side; in the order of the weights. Or
// the sum of squares of in^T delta, added to gradient[0].
template <class T, Gradients Kind>
void weight_gradient(Extent extent, const Vector<T>* in, Steps in_steps, std::ptrdiff_t tap_row,
                     std::ptrdiff_t tap_step, int size, int inputs, const Vector<T>* delta, Steps delta_steps,
                     int outputs, int block, Vector<T>* gradient) {
    const auto& blocks = size == 3 ? kGradientBlocks<T, 3> : kGradientBlocks<T, 1>;
    for (int first = 0; first < outputs; first += block) {
        const int own = std::min(block, outputs - first);
        const int most = input_block(size, own), count = ceil_div(inputs, most);
        for (int row = 0; row < size; row++)
            for (int k = 0; k < count; k++) {
                const int i = inputs * k / count, next = inputs * (k + 1) / count;
                const GradientBlock<T> sum = blocks[own - 1][next - i - 1];
                const Vector<T>* x = in + row * tap_row + i;
                if constexpr (Kind == Gradients::kept) {
                    const std::ptrdiff_t at =
                        (static_cast<std::ptrdiff_t>(first) * size * size + row * size * own) * inputs + i * own;
                    sum(extent, x, in_steps, tap_step, delta + first, delta_steps, gradient + at, inputs * own);
                } else {
                    Vector<T> sums[kSums] = {};
                    sum(extent, x, in_steps, tap_step, delta + first, delta_steps, sums, (next - i) * own);
                    for (const Vector<T>& value : sums) *gradient += value * value;
                }
            }
    }
}

}  // namespace lanes
