// First derivatives of a network's numbers along a direction in its weights.
//
// The network is in evaluation mode: BatchNorm is an affine map with fixed statistics. The network is made of
// products and of choices that do not depend on the direction (ReLU, the largest of four), so the derivative passes
// through it as the numbers do: z = w * x has the derivative w * x' + v * x (forward mode; Griewank and Walther,
// Evaluating Derivatives, 2008, chapter 3).
#pragma once

#include "network.hpp"

namespace lanes {

// What the derivative of the sums before the ReLU is made of at one image: identity + the sum over terms of scale *
// tangent + turn * z + shift.
template <class V, class From>
struct TangentTerms {
    const V* tangent[kMostTerms];  // derivative of z
    const From* z[kMostTerms];
    const V* scale[kMostTerms];
    const V* turn[kMostTerms];    // derivative of the scale
    const V* shift[kMostTerms];   // derivative of the shift
    const V* identity = nullptr;  // derivative of the identity term
};

template <class V, class From, int Count, bool Identity, int Block>
struct TangentSum {
    static constexpr int stride = kStride<V, From>;

    const V *tangent[Count], *identity;
    const From* z[Count];
    V scale[Count][Block], turn[Count][Block], shift[Block];
    const Frame& frame;

    TangentSum(const Frame& frame, const TangentTerms<V, From>& terms, int channel) : frame(frame) {
        for (int k = 0; k < Block; k++) shift[k] = V{};
        for (int t = 0; t < Count; t++) {
            tangent[t] = terms.tangent[t] + channel;
            z[t] = terms.z[t] + channel * stride;
            for (int k = 0; k < Block; k++) {
                scale[t][k] = terms.scale[t][channel + k];
                turn[t][k] = terms.turn[t][channel + k];
                shift[k] += terms.shift[t][channel + k];
            }
        }
        identity = Identity ? terms.identity + channel : nullptr;
    }

    [[gnu::always_inline]] V operator()(int y, int x, int k) const {
        const int at = frame.pixel(y, x) + k;
        V value = shift[k];
#pragma GCC unroll 2
        for (int t = 0; t < Count; t++)
            value += tangent[t][at] * scale[t][k] + spread<V>(z[t] + at * stride) * turn[t][k];
        if constexpr (Identity) value += identity[frame.earlier(y, x) + k];
        return value;
    }
};

// A row of the activation's derivative: what the ReLU and the pooling choose by the numbers themselves.
template <class V, class Sum, class Tangent, int Block>
[[gnu::always_inline]] inline void activate_tangent_row(const Frame& frame, int y, const Sum& sum,
                                                        const Tangent& tangent, V* out) {
    if (frame.pool == Pool::maximum) {
        for (int x = 0; x < frame.pooled_width; x++)
#pragma GCC unroll 2
            for (int k = 0; k < Block; k++) {
                const Largest<V> at(sum, y, x, k);
                const V chosen = at.of(tangent(2 * y, 2 * x, k), tangent(2 * y, 2 * x + 1, k),
                                       tangent(2 * y + 1, 2 * x, k), tangent(2 * y + 1, 2 * x + 1, k));
                out[frame.out(y, x) + k] = gated<V>(at.most, chosen);
            }
    } else if (frame.pool == Pool::none) {
        for (int x = 0; x < frame.width; x++)
#pragma GCC unroll 2
            for (int k = 0; k < Block; k++) out[frame.out(y, x) + k] = gated<V>(sum(y, x, k), tangent(y, x, k));
    } else {
        V total[Block] = {};
        for (int x = 0; x < frame.width; x++)
#pragma GCC unroll 2
            for (int k = 0; k < Block; k++) total[k] += gated<V>(sum(y, x, k), tangent(y, x, k));
        for (int k = 0; k < Block; k++) {
            V& mean = out[frame.out(0, 0) + k];
            mean = (y ? mean : V{}) + total[k] * frame.share<V>();
        }
    }
}

// The derivative of pool(relu(sum of the terms)), for one image.
template <class V, class From>
void activate_tangent(const Frame& frame, const Terms<V, From>& terms, const TangentTerms<V, From>& tangents,
                      V* out) {
    over_terms(frame, terms, [&](int row, const auto& sum, int channel, auto block) {
        using Sum = std::decay_t<decltype(sum)>;
        using Tangent = TangentSum<V, From, Sum::count, Sum::has_identity, block()>;
        activate_tangent_row<V, Sum, Tangent, block()>(frame, row, sum, Tangent(frame, tangents, channel),
                                                       out + channel);
    });
}

// Derivatives along a direction of the affine maps of a layer in evaluation mode: `turn` of the scale, `shift` of the
// shift.
template <class T>
struct AffineTangent {
    Buffer<T> turn, shift;

    explicit AffineTangent(const Layer<T>& layer) : turn(layer.outputs), shift(layer.outputs) {}

    void aim(const Layer<T>& layer, const Vector<T>* direction) {
        const Vector<T>* own = direction + layer.offset;
        for (int c = 0; c < layer.outputs; c++) {
            turn.data()[c] = layer.norm ? own[c] * layer.deviation.data()[c] : Vector<T>{};
            shift.data()[c] = layer.norm ? own[layer.outputs + c] - layer.mean.data()[c] * turn.data()[c] : own[c];
        }
    }
};

// Numbers that are the same in every lane, each once.
template <class T>
void take_shared(const Vector<T>* from, std::vector<T>& to) {
    for (std::size_t i = 0; i < to.size(); i++) to[i] = from[i][0];
}

}  // namespace lanes
