// What lies between two convolutions, in one pass over memory: BatchNorm (or bias), shortcut, ReLU, pooling; and
// back.
//
// BatchNorm is an affine map y = scale * z + shift of a layer's outputs z once the batch's moments are known, a bias
// one with scale 1. An activation is pool(relu(sum of such terms, and of an earlier activation)). It is never stored
// before the pooling: the way back computes y again from z, which it has to read anyhow.
#pragma once

#include <array>

#include "vector.hpp"

namespace lanes {

enum class Pool { none = 0, maximum = 1, average = 2 };

constexpr int kMostTerms = 2;

// A term of an activation at one image: a layer's outputs, of each lane or shared by all, and their affine map,
// channel by channel.
template <class V, class From = V>
struct Term {
    const From* z = nullptr;
    const V* scale = nullptr;
    const V* shift = nullptr;
};

// Sizes of an activation before (`height`, `width`) and after its pooling, and where its identity term lies.
struct Frame {
    int channels, pitch;  // of a pixel: its vectors, and those to the next
    int height, width;
    int pooled_height, pooled_width;
    int border;           // of the activation as it is stored
    int identity_border;  // of the identity term
    Pool pool;
    int terms;
    bool identity;

    int rows_at_once() const { return pool == Pool::maximum ? 2 : 1; }
    int steps() const { return pool == Pool::maximum ? pooled_height : height; }

    // The weight of a pixel in an average over all.
    template <class V>
    Element<V> share() const {
        return Element<V>(1) / Element<V>(height * width);
    }

    int pixel(int y, int x) const { return (y * width + x) * pitch; }
    int bordered(int border, int y, int x) const {
        return ((y + border) * (width + 2 * border) + x + border) * pitch;
    }
    int out(int y, int x) const { return ((y + border) * (pooled_width + 2 * border) + x + border) * pitch; }
    int pooled(int y, int x) const { return (y * pooled_width + x) * pitch; }
    int earlier(int y, int x) const { return bordered(identity_border, y, x); }
};

template <class V, class From = V>
struct Terms {
    Term<V, From> term[kMostTerms];
    const From* identity = nullptr;
};

// The sum before the ReLU of a block of channels, its scales held in registers while the pixels of a row pass by.
//
// The caches fetch ahead along a row but not from one row to the next of the same channels: so each pixel asks for
// the one below it that comes next.
template <class V, class From, int Count, bool Identity, int Block>
struct Preactivation {
    static constexpr int count = Count;
    static constexpr bool has_identity = Identity;
    static constexpr int stride = kStride<V, From>;

    const From* z[Count];
    V scale[Count][Block];
    V shift[Block];
    const From* identity;
    const Frame& frame;

    Preactivation(const Frame& frame, const Terms<V, From>& terms, int channel) : frame(frame) {
        for (int k = 0; k < Block; k++) shift[k] = V{};
        for (int t = 0; t < Count; t++) {
            z[t] = terms.term[t].z + channel * stride;
            for (int k = 0; k < Block; k++) {
                scale[t][k] = terms.term[t].scale[channel + k];
                shift[k] += terms.term[t].shift[channel + k];
            }
        }
        identity = Identity ? terms.identity + channel * stride : nullptr;
    }

    [[gnu::always_inline]] V operator()(int y, int x, int k) const {
        const int at = frame.pixel(y, x) + k, ahead = frame.rows_at_once() * frame.width * frame.pitch;
        V value = shift[k];
#pragma GCC unroll 2
        for (int t = 0; t < Count; t++) {
            if (k % 2 == 0) __builtin_prefetch(z[t] + (at + ahead) * stride);
            value += spread<V>(z[t] + at * stride) * scale[t][k];
        }
        if constexpr (Identity) value += spread<V>(identity + (frame.earlier(y, x) + k) * stride);
        return value;
    }
};

// A row of pool(relu(sum)); of an average, what the row adds to it.
template <class V, class Sum, int Block>
[[gnu::always_inline]] inline void activate_row(const Frame& frame, int y, const Sum& sum, V* out) {
    if (frame.pool == Pool::maximum) {
        for (int x = 0; x < frame.pooled_width; x++)
#pragma GCC unroll 2
            for (int k = 0; k < Block; k++) {
                const V above = larger(sum(2 * y, 2 * x, k), sum(2 * y, 2 * x + 1, k));
                const V below = larger(sum(2 * y + 1, 2 * x, k), sum(2 * y + 1, 2 * x + 1, k));
                out[frame.out(y, x) + k] = relu(larger(above, below));
            }
    } else if (frame.pool == Pool::none) {
        for (int x = 0; x < frame.width; x++)
#pragma GCC unroll 2
            for (int k = 0; k < Block; k++) out[frame.out(y, x) + k] = relu(sum(y, x, k));
    } else {
        V total[Block] = {};
        for (int x = 0; x < frame.width; x++)
#pragma GCC unroll 2
            for (int k = 0; k < Block; k++) total[k] += relu(sum(y, x, k));
        for (int k = 0; k < Block; k++) {
            V& mean = out[frame.out(0, 0) + k];
            mean = (y ? mean : V{}) + total[k] * frame.share<V>();
        }
    }
}

// Gradients of a block's sums before the ReLU from those after the pooling, several at once: N numbers a pixel.
template <class V, int N>
using Several = std::array<V, N>;

// Which of the four sums of a pooling window is the largest: the first of them, as in PyTorch.
template <class V>
struct Largest {
    V a, b, c, d;  // above left and right, below left and right
    V above, below, most;

    template <class Sum>
    [[gnu::always_inline]] Largest(const Sum& sum, int y, int x, int k)
        : a(sum(2 * y, 2 * x, k)),
          b(sum(2 * y, 2 * x + 1, k)),
          c(sum(2 * y + 1, 2 * x, k)),
          d(sum(2 * y + 1, 2 * x + 1, k)),
          above(larger(b, a)),
          below(larger(d, c)),
          most(larger(below, above)) {}

    // Of four other numbers the one in its place.
    [[gnu::always_inline]] V of(V of_a, V of_b, V of_c, V of_d) const {
        const V upper = b > a ? of_b : of_a, lower = d > c ? of_d : of_c;
        return below > above ? lower : upper;
    }
};

// Calls visit(y, x, k, dy) with the gradients dy of the sum before the ReLU, for every pixel and channel k of a block
// that row y of the pooled ones is made of.
//
// A pooled gradient goes to the largest; pixels that a pooling leaves out get none.
template <class V, class Sum, int Block, int N, class Visit>
[[gnu::always_inline]] inline void gate_row(const Frame& frame, int y, const Sum& sum, const V* const (&pooled)[N],
                                            Visit visit) {
    using Gradients = Several<V, N>;
    if (frame.pool == Pool::maximum) {
        for (int x = 0; x < frame.pooled_width; x++)
#pragma GCC unroll 2
            for (int k = 0; k < Block; k++) {
                const Largest<V> at(sum, y, x, k);
                const V zero = V{};
                Gradients first, second, third, fourth;
#pragma GCC unroll 2
                for (int i = 0; i < N; i++) {
                    const V given = gated(at.most, pooled[i][frame.pooled(y, x) + k]);
                    const V upper = at.below > at.above ? zero : given, lower = at.below > at.above ? given : zero;
                    first[i] = at.b > at.a ? zero : upper;
                    second[i] = at.b > at.a ? upper : zero;
                    third[i] = at.d > at.c ? zero : lower;
                    fourth[i] = at.d > at.c ? lower : zero;
                }
                visit(2 * y, 2 * x, k, first);
                visit(2 * y, 2 * x + 1, k, second);
                visit(2 * y + 1, 2 * x, k, third);
                visit(2 * y + 1, 2 * x + 1, k, fourth);
            }
        const int last = y + 1 < frame.pooled_height ? 2 * y + 2 : frame.height;
        for (int row = 2 * y; row < last; row++)
            for (int x = row < 2 * y + 2 ? 2 * frame.pooled_width : 0; x < frame.width; x++)
                for (int k = 0; k < Block; k++) visit(row, x, k, Gradients{});
    } else {
        const bool mean = frame.pool == Pool::average;
        V shared[N][Block];
        for (int i = 0; i < N; i++)
            for (int k = 0; k < Block; k++) shared[i][k] = pooled[i][k] * (mean ? frame.share<V>() : Element<V>(1));
        for (int x = 0; x < frame.width; x++)
#pragma GCC unroll 2
            for (int k = 0; k < Block; k++) {
                const V value = sum(y, x, k);
                Gradients gradients;
#pragma GCC unroll 2
                for (int i = 0; i < N; i++)
                    gradients[i] = gated(value, mean ? shared[i][k] : pooled[i][frame.pooled(y, x) + k]);
                visit(y, x, k, gradients);
            }
    }
}

// Runs body(y, sum, channel, block) over the rows, and within a row over the channels, two at a time.
template <class V, class From, int Count, bool Identity, class Body>
inline void over_channels(const Frame& frame, const Terms<V, From>& terms, Body body) {
    for (int y = 0; y < frame.steps(); y++) {
        int channel = 0;
        for (; channel + 1 < frame.channels; channel += 2)
            body(y, Preactivation<V, From, Count, Identity, 2>(frame, terms, channel), channel,
                 std::integral_constant<int, 2>{});
        if (channel < frame.channels)
            body(y, Preactivation<V, From, Count, Identity, 1>(frame, terms, channel), channel,
                 std::integral_constant<int, 1>{});
    }
}

template <class V, class From, class Body>
inline void over_terms(const Frame& frame, const Terms<V, From>& terms, Body body) {
    if (frame.terms == 2)
        over_channels<V, From, 2, false>(frame, terms, body);
    else if (frame.identity)
        over_channels<V, From, 1, true>(frame, terms, body);
    else
        over_channels<V, From, 1, false>(frame, terms, body);
}

// out = pool(relu(sum of the terms)), for one image.
template <class V>
void activate(const Frame& frame, const Terms<V>& terms, V* out) {
    over_terms(frame, terms, [&](int row, const auto& sum, int channel, auto block) {
        activate_row<V, std::decay_t<decltype(sum)>, block()>(frame, row, sum, out + channel);
    });
}

// fired += how often each channel's sum before the ReLU was above zero, for one image.
template <class V>
void count_fired(const Frame& frame, const Terms<V>& terms, V* fired) {
    over_terms(frame, terms, [&](int row, const auto& sum, int channel, auto block) {
        const int first = frame.rows_at_once() * row;
        const int last = row + 1 < frame.steps() ? first + frame.rows_at_once() : frame.height;
        V own[block()] = {};
        for (int y = first; y < last; y++)
            for (int x = 0; x < frame.width; x++)
                for (int k = 0; k < block(); k++) own[k] += gated(sum(y, x, k), broadcast(Element<V>(1)));
        for (int k = 0; k < block(); k++) fired[channel + k] += own[k];
    });
}

// total += sum of dy, and product[t] += sum of dy * z_t, over the pixels of one image: what BatchNorm's gradient
// takes.
template <class V>
void gather_sums(const Frame& frame, const Terms<V>& terms, const V* pooled_gradient, V* const total[],
                 V* const product[]) {
    over_terms(frame, terms, [&](int row, const auto& sum, int channel, auto block) {
        constexpr int n = block(), count = std::decay_t<decltype(sum)>::count;
        V own[n] = {}, times[count][n] = {};
        const V* pooled[1] = {pooled_gradient + channel};
        if (frame.pool == Pool::maximum) {  // all of a window's gradient is the largest's
            for (int x = 0; x < frame.pooled_width; x++)
#pragma GCC unroll 2
                for (int k = 0; k < n; k++) {
                    const Largest<V> at(sum, row, x, k);
                    const V dy = gated(at.most, pooled[0][frame.pooled(row, x) + k]);
                    own[k] += dy;
#pragma GCC unroll 2
                    for (int t = 0; t < count; t++) {
                        const V* z = sum.z[t] + frame.pixel(2 * row, 2 * x) + k;
                        const int right = frame.pitch, below = frame.width * frame.pitch;
                        times[t][k] += dy * at.of(z[0], z[right], z[below], z[below + right]);
                    }
                }
        } else {
            gate_row<V, std::decay_t<decltype(sum)>, n>(
                frame, row, sum, pooled,
                [&](int y, int x, int k, Several<V, 1> given) __attribute__((always_inline)) {
                    const V dy = given[0];
                    own[k] += dy;
#pragma GCC unroll 2
                    for (int t = 0; t < count; t++) times[t][k] += dy * sum.z[t][frame.pixel(y, x) + k];
                });
        }
        for (int t = 0; t < count; t++)
            for (int k = 0; k < n; k++) {
                total[t][channel + k] += own[k];
                product[t][channel + k] += times[t][k];
            }
    });
}

// Where the gradient of a term's z goes, and the affine map of z that BatchNorm adds: dz = dy * scale + z * slope +
// level.
template <class V>
struct Delta {
    V* dz = nullptr;
    const V* slope = nullptr;
    const V* level = nullptr;
    int border = 0;
};

// The gradients of the z of one image, and of the identity term, which are added or written.
template <class V>
void scatter(const Frame& frame, const Terms<V>& terms, const V* pooled_gradient, const Delta<V> delta[],
             V* identity_gradient, bool add_identity) {
    over_terms(frame, terms, [&](int row, const auto& sum, int channel, auto block) {
        constexpr int n = block(), count = std::decay_t<decltype(sum)>::count;
        V slope[count][n], level[count][n];
        for (int t = 0; t < count; t++)
            for (int k = 0; k < n; k++) {
                slope[t][k] = delta[t].slope[channel + k];
                level[t][k] = delta[t].level[channel + k];
            }
        const V* pooled[1] = {pooled_gradient + channel};
        gate_row<V, std::decay_t<decltype(sum)>, n>(
            frame, row, sum, pooled, [&](int y, int x, int k, Several<V, 1> given) __attribute__((always_inline)) {
                const V dy = given[0];
                const int pixel = frame.pixel(y, x) + k;
#pragma GCC unroll 2
                for (int t = 0; t < count; t++)
                    delta[t].dz[frame.bordered(delta[t].border, y, x) + channel + k] =
                        dy * sum.scale[t][k] + (sum.z[t][pixel] * slope[t][k] + level[t][k]);
                if (identity_gradient) {
                    V& out = identity_gradient[pixel + channel];
                    out = add_identity ? out + dy : dy;
                }
            });
    });
}

}  // namespace lanes
