// How the loss curves along directions in the weights: exact second derivatives, each lane with its own direction.
//
// The network is in evaluation mode: BatchNorm is an affine map with fixed statistics. Along w + e v every number has
// a series x + e x1 + e^2 x2 + ..., and as the network is made of products and of choices that do not depend on e
// (ReLU, the largest of four), the coefficients pass through it as the numbers do: z = w * x gives z1 = w * x1 + v *
// x and z2 = w * x2 + v * x1 (Griewank and Walther, Evaluating Derivatives, 2008, chapter 13). The second coefficient
// of the loss is half of v'Hv, for each image. The product Hv is the derivative of the way back along v:
// Pearlmutter's R-operator (Fast Exact Multiplication by the Hessian, 1994).
#pragma once

#include "network.hpp"

namespace lanes {

// A coefficient of the sums before the ReLU: sum of (scale * z + turn * earlier) + shift + identity.
template <class V>
struct SeriesTerms {
    const V* z[kMostTerms];        // this coefficient
    const V* earlier[kMostTerms];  // the one before
    const V* scale[kMostTerms];
    const V* turn[kMostTerms];   // derivative of the scale
    const V* shift[kMostTerms];  // derivative of the shift; null where it has none of this order
    const V* identity = nullptr;
};

template <class V, int Count, bool Identity, int Block>
struct SeriesSum {
    const V *z[Count], *earlier[Count], *identity;
    V scale[Count][Block], turn[Count][Block], shift[Block];
    const Frame& frame;

    SeriesSum(const Frame& frame, const SeriesTerms<V>& terms, int channel) : frame(frame) {
        for (int k = 0; k < Block; k++) shift[k] = V{};
        for (int t = 0; t < Count; t++) {
            z[t] = terms.z[t] + channel;
            earlier[t] = terms.earlier[t] + channel;
            for (int k = 0; k < Block; k++) {
                scale[t][k] = terms.scale[t][channel + k];
                turn[t][k] = terms.turn[t][channel + k];
                if (terms.shift[t]) shift[k] += terms.shift[t][channel + k];
            }
        }
        identity = Identity ? terms.identity + channel : nullptr;
    }

    [[gnu::always_inline]] V operator()(int y, int x, int k) const {
        const int at = frame.pixel(y, x) + k;
        V value = shift[k];
#pragma GCC unroll 2
        for (int t = 0; t < Count; t++) value += z[t][at] * scale[t][k] + earlier[t][at] * turn[t][k];
        if constexpr (Identity) value += identity[frame.earlier(y, x) + k];
        return value;
    }
};

// A row of the activation's coefficient: what the ReLU and the pooling choose by the numbers themselves.
template <class V, class Sum, class Series, int Block>
[[gnu::always_inline]] inline void activate_series_row(const Frame& frame, int y, const Sum& sum,
                                                       const Series& series, V* out) {
    if (frame.pool == Pool::maximum) {
        for (int x = 0; x < frame.pooled_width; x++)
#pragma GCC unroll 2
            for (int k = 0; k < Block; k++) {
                const Largest<V> at(sum, y, x, k);
                const V chosen = at.of(series(2 * y, 2 * x, k), series(2 * y, 2 * x + 1, k),
                                       series(2 * y + 1, 2 * x, k), series(2 * y + 1, 2 * x + 1, k));
                out[frame.out(y, x) + k] = gated<V>(at.most, chosen);
            }
    } else if (frame.pool == Pool::none) {
        for (int x = 0; x < frame.width; x++)
#pragma GCC unroll 2
            for (int k = 0; k < Block; k++) out[frame.out(y, x) + k] = gated<V>(sum(y, x, k), series(y, x, k));
    } else {
        V total[Block] = {};
        for (int x = 0; x < frame.width; x++)
#pragma GCC unroll 2
            for (int k = 0; k < Block; k++) total[k] += gated<V>(sum(y, x, k), series(y, x, k));
        for (int k = 0; k < Block; k++) {
            V& mean = out[frame.out(0, 0) + k];
            mean = (y ? mean : V{}) + total[k] * frame.share<V>();
        }
    }
}

template <class T>
class Curvature {
  public:
    using V = Vector<T>;
    static constexpr int n = kLanes<T>;

    // `order` 2 for forms, 1 for products; the network has to have gradients for products.
    Curvature(Network<T>& network, int order) : network_(network), order_(order) {
        const std::size_t batch = network.layout().capacity;
        for (Activation<T>& own : network.layout().activations) {
            const bool image = &own == network.layout().activations.data();
            Part part;
            for (int i = 0; i < order; i++) part.values[i] = Buffer<T>(image ? 0 : batch * own.image());
            if (order == 1 && !image) part.gradient = Buffer<T>(batch * own.gradient_image());
            activations_.push_back(std::move(part));
        }
        for (Layer<T>& own : network.layout().layers) {
            LayerPart part;
            for (int i = 0; i < order; i++) part.z[i] = Buffer<T>(batch * own.image());
            part.turn = Buffer<T>(own.outputs);
            part.shift = Buffer<T>(own.outputs);
            if (order == 1) {
                part.delta = Buffer<T>(own.delta.size());
                part.turned = Buffer<T>(own.source > 0 ? own.weight_count() : 0);
            }
            layers_.push_back(std::move(part));
        }
    }

    // The direction from which the next passes take their second derivatives, beside the weights that `fix` was
    // given.
    void aim(const V* parameters, const V* direction) {
        parameters_ = parameters;
        direction_ = direction;
        for (std::size_t k = 0; k < layers_.size(); k++) {
            const Layer<T>& layer = network_.layout().layers[k];
            for (int c = 0; c < layer.outputs; c++) {
                const V* own = direction + layer.offset;
                V& turn = layers_[k].turn.data()[c];
                turn = layer.norm ? own[c] * layer.deviation.data()[c] : V{};
                layers_[k].shift.data()[c] =
                    layer.norm ? own[layer.outputs + c] - layer.mean.data()[c] * turn : own[c];
            }
            if (order_ > 1 || layer.source == 0) continue;
            Layout<T>::turn(layer, parameters, network_.layout().layers[k].turned);
            Layout<T>::turn(layer, direction, layers_[k].turned);
        }
    }

    // v'Hv of each image of a batch that was read and passed forward, [image][lane].
    void forms(int batch, const std::int64_t* const labels[], const std::int64_t* rows, std::int64_t stride, T* out) {
        forward(batch);
        const Layer<T>& head = network_.layout().head();
        const LayerPart& part = layers_.back();
        for (int b = 0; b < batch; b++) {
            const std::size_t at = std::size_t(b) * head.pitch();
            const V *z = head.z.data() + at, *z1 = part.z[0].data() + at, *z2 = part.z[1].data() + at;
            const V* shift = head.shift.data();
            V most = z[0] + shift[0];
            for (int c = 1; c < head.outputs; c++) most = larger(z[c] + shift[c], most);
            V sum = V{}, first = V{}, second = V{}, square = V{};
            for (int c = 0; c < head.outputs; c++) {
                const V share = exponential(z[c] + shift[c] - most), slope = z1[c] + part.shift.data()[c];
                sum += share;
                first += share * slope;
                square += share * slope * slope;
                second += share * z2[c];
            }
            V right;
            for (int lane = 0; lane < n; lane++) right[lane] = z2[labels[lane][rows[lane * stride + b]]][lane];
            // The second derivative of log sum exp z, less that of the label's logit: z2 is half of z's.
            const V mean = first / sum;
            const V form = T(2) * (second / sum - right) + (square / sum - mean * mean);
            for (int lane = 0; lane < n; lane++) out[b * n + lane] = form[lane];
        }
    }

    // Adds Hv of the loss summed over a batch that was read and passed forward to `out`, [parameter].
    void product(int batch, const std::int64_t* const labels[], const std::int64_t* rows, std::int64_t stride,
                 V* out) {
        forward(batch);
        begin_back(batch, labels, rows, stride, out);
        const int last = int(layers_.size()) - 1;
        pass_back(last, batch, out);
        for (int j = int(activations_.size()) - 1; j > 0; j--) {
            scatter_tangents(j, batch, out);
            for (int t = 0; t < network_.layout().activations[j].terms; t++)
                pass_back(network_.layout().activations[j].term[t], batch, out);
        }
    }

  private:
    struct Part {
        Buffer<T> values[2], gradient;
    };
    struct LayerPart {
        Buffer<T> z[2], turn, shift, delta, turned;
    };

    Network<T>& network_;
    int order_;
    const V* parameters_ = nullptr;
    const V* direction_ = nullptr;
    std::vector<Part> activations_;
    std::vector<LayerPart> layers_;

    // The coefficients of everything that `Network::forward` computes.
    void forward(int batch) {
        for (std::size_t j = 0; j < activations_.size(); j++) {
            const Activation<T>& activation = network_.layout().activations[j];
            for (int i = 0; i < order_ && j > 0; i++)
                network_.each_image(activation, 0, batch,
                                    [&](const Frame& frame, int image) { activate_series(j, i, frame, image); });
            for (int k : activation.readers) {
                const Layer<T>& layer = network_.layout().layers[k];
                for (int i = 0; i < order_; i++) {
                    Buffer<T>& z = layers_[k].z[i];
                    const Buffer<T>& before = i ? activations_[j].values[i - 1] : activation.values;
                    if (j > 0)
                        outputs_of<T>(activation, layer, activations_[j].values[i], parameters_, z, 0, batch, false);
                    if (j > 0 || i == 0) outputs_of<T>(activation, layer, before, direction_, z, 0, batch, j > 0);
                    // An image has no coefficients of its own: the second of what reads it stays zero.
                }
            }
        }
    }

    SeriesTerms<V> series_of(const Activation<T>& activation, int order, int image) const {
        SeriesTerms<V> terms;
        for (int t = 0; t < activation.terms; t++) {
            const int k = activation.term[t];
            const Layer<T>& layer = network_.layout().layers[k];
            const std::size_t at = image * layer.image();
            terms.z[t] = layers_[k].z[order].data() + at;
            terms.earlier[t] = (order ? layers_[k].z[order - 1].data() : layer.z.data()) + at;
            terms.scale[t] = layer.scale.data();
            terms.turn[t] = layers_[k].turn.data();
            terms.shift[t] = order ? nullptr : layers_[k].shift.data();
        }
        if (activation.identity >= 0) {
            const Activation<T>& earlier = network_.layout().activations[activation.identity];
            terms.identity = activations_[activation.identity].values[order].data() + image * earlier.image();
        }
        return terms;
    }

    void activate_series(std::size_t j, int order, const Frame& frame, int image) {
        const Activation<T>& activation = network_.layout().activations[j];
        const SeriesTerms<V> series = series_of(activation, order, image);
        V* out = activations_[j].values[order].data() + image * activation.image();
        over_terms(frame, network_.terms_of(activation, image),
                   [&](int row, const auto& sum, int channel, auto block) {
                       using Sum = std::decay_t<decltype(sum)>;
                       const SeriesSum<V, Sum::count, Sum::has_identity, block()> own(frame, series, channel);
                       activate_series_row<V, Sum, decltype(own), block()>(frame, row, sum, own, out + channel);
                   });
    }

    // Gradients of the logits, and their derivatives.
    void begin_back(int batch, const std::int64_t* const labels[], const std::int64_t* rows, std::int64_t stride,
                    V* out) {
        Layer<T>& head = network_.layout().head();
        LayerPart& part = layers_.back();
        for (int b = 0; b < batch; b++) {
            const std::size_t at = std::size_t(b) * head.pitch();
            const V *z = head.z.data() + at, *z1 = part.z[0].data() + at, *shift = head.shift.data();
            V *delta = head.delta.data() + at, *delta1 = part.delta.data() + at;
            V most = z[0] + shift[0];
            for (int c = 1; c < head.outputs; c++) most = larger(z[c] + shift[c], most);
            V sum = V{}, first = V{};
            for (int c = 0; c < head.outputs; c++) {
                delta[c] = exponential(z[c] + shift[c] - most);
                delta1[c] = z1[c] + part.shift.data()[c];
                sum += delta[c];
                first += delta[c] * delta1[c];
            }
            for (int c = 0; c < head.outputs; c++) {
                delta[c] = delta[c] / sum;
                delta1[c] = delta[c] * (delta1[c] - first / sum);
                out[head.offset + c] += delta1[c];
            }
            for (int lane = 0; lane < n; lane++) delta[labels[lane][rows[lane * stride + b]]][lane] -= T(1);
        }
    }

    // The derivative of `Network::pass_back`, and the gradients themselves as far as it needs them.
    void pass_back(int k, int batch, V* out) {
        Layer<T>& layer = network_.layout().layers[k];
        LayerPart& part = layers_[k];
        Activation<T>& source = network_.layout().activations[layer.source];
        weight_gradients_of<T>(source, layer, source.values, part.delta, 0, batch, out);
        if (layer.source == 0) return;
        Part& own = activations_[layer.source];
        weight_gradients_of<T>(source, layer, own.values[0], layer.delta, 0, batch, out);
        input_gradients_of<T>(source, layer, layer.turned, layer.delta, source.gradient, 0, batch, layer.adds);
        input_gradients_of<T>(source, layer, layer.turned, part.delta, own.gradient, 0, batch, layer.adds);
        input_gradients_of<T>(source, layer, part.turned, layer.delta, own.gradient, 0, batch, true);
    }

    // From an activation's gradient and its derivative to those of its terms' z, of their scales and shifts.
    void scatter_tangents(int j, int batch, V* out) {
        const Activation<T>& activation = network_.layout().activations[j];
        network_.each_image(activation, 0, batch, [&](const Frame& frame, int image) {
            const SeriesTerms<V> series = series_of(activation, 0, image);
            const std::size_t at = image * activation.gradient_image();
            V *identity = nullptr, *identity1 = nullptr;
            if (activation.identity > 0) {
                Activation<T>& earlier = network_.layout().activations[activation.identity];
                identity = earlier.gradient.data() + image * earlier.gradient_image();
                identity1 = activations_[activation.identity].gradient.data() + image * earlier.gradient_image();
            }
            over_terms(
                frame, network_.terms_of(activation, image), [&](int row, const auto& sum, int channel, auto block) {
                    using Sum = std::decay_t<decltype(sum)>;
                    constexpr int width = block(), count = Sum::count;
                    const SeriesSum<V, count, Sum::has_identity, width> own(frame, series, channel);
                    V total[width] = {}, times[count][width] = {};
                    const V* pooled[2] = {activation.gradient.data() + at + channel,
                                          activations_[j].gradient.data() + at + channel};
                    gate_row<V, Sum, width>(
                        frame, row, sum, pooled,
                        [&](int y, int x, int k, Several<V, 2> dy) __attribute__((always_inline)) {
                            const int pixel = frame.pixel(y, x) + k;
                            total[k] += dy[1];
#pragma GCC unroll 2
                            for (int t = 0; t < count; t++) {
                                times[t][k] += dy[1] * own.earlier[t][pixel] + dy[0] * own.z[t][pixel];
                                Layer<T>& layer = network_.layout().layers[activation.term[t]];
                                const int to =
                                    ((y + layer.border()) * (frame.width + 2 * layer.border()) + x + layer.border()) *
                                        frame.pitch +
                                    channel + k;
                                const std::size_t first = image * layer.delta_image();
                                layer.delta.data()[first + to] = dy[0] * own.scale[t][k];
                                layers_[activation.term[t]].delta.data()[first + to] =
                                    dy[1] * own.scale[t][k] + dy[0] * own.turn[t][k];
                            }
                            if (identity) {
                                V &to = identity[pixel + channel], &to1 = identity1[pixel + channel];
                                to = activation.identity_adds ? to + dy[0] : dy[0];
                                to1 = activation.identity_adds ? to1 + dy[1] : dy[1];
                            }
                        });
                    for (int t = 0; t < count; t++) {
                        const Layer<T>& layer = network_.layout().layers[activation.term[t]];
                        for (int k = 0; k < width; k++) {
                            const int c = channel + k;
                            V* to = out + layer.offset + c;
                            if (!layer.norm) {
                                *to += total[k];
                                continue;
                            }
                            *to += layer.deviation.data()[c] * (times[t][k] - layer.mean.data()[c] * total[k]);
                            to[layer.outputs] += total[k];
                        }
                    }
                });
        });
    }
};

}  // namespace lanes
