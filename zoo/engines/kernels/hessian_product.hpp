// Products of the Hessian with a vector: the derivative of the way back along it. Pearlmutter's R-operator (Fast
// Exact Multiplication by the Hessian, 1994), with images in lanes, which share the weights.
#pragma once

#include "tangent.hpp"

namespace lanes {

template <class T>
class HessianProduct {
  public:
    using V = Vector<T>;
    static constexpr int n = kLanes<T>;

    // The network has to have gradients.
    explicit HessianProduct(Network<T>& network)
        : network_(network), weights_(network.layout().parameters), direction_(network.layout().parameters) {
        const std::size_t batch = network.layout().capacity;
        for (Activation<T>& own : network.layout().activations) {
            const std::size_t images = &own == network.layout().activations.data() ? 0 : batch;
            activations_.push_back({Buffer<T>(images * own.image()), Buffer<T>(images * own.gradient_image())});
        }
        for (Layer<T>& own : network.layout().layers) {
            const std::size_t turned = own.source > 0 ? own.weight_count() : 0;
            layers_.push_back({AffineTangent<T>(own), Buffer<T>(batch * own.image()), Buffer<T>(own.delta.size()),
                               std::vector<T>(turned), std::vector<T>(turned)});
        }
    }

    // The vector that the next products are with, beside the weights that `fix` was given; the same in all lanes.
    void aim(const V* parameters, const V* direction) {
        take_shared(parameters, weights_);
        take_shared(direction, direction_);
        for (std::size_t k = 0; k < layers_.size(); k++) {
            const Layer<T>& layer = network_.layout().layers[k];
            layers_[k].affine.aim(layer, direction);
            if (layer.source == 0) continue;
            Layout<T>::turn(layer, weights_.data(), layers_[k].turned.data());
            Layout<T>::turn(layer, direction_.data(), layers_[k].turned_direction.data());
        }
    }

    // The weights that `aim` was given, each once.
    const T* weights() const { return weights_.data(); }

    // Adds Hv of the loss summed over a batch that was read and passed forward to `out`, [parameter].
    void product(int batch, const std::int64_t* const labels[], const std::int64_t* rows, std::int64_t stride,
                 V* out) {
        forward(batch);
        begin_back(batch, labels, rows, stride, out);
        pass_back(int(layers_.size()) - 1, batch, out);
        for (int j = int(activations_.size()) - 1; j > 0; j--) {
            scatter_tangents(j, batch, out);
            const Activation<T>& activation = network_.layout().activations[j];
            for (int t = 0; t < activation.terms; t++) pass_back(activation.term[t], batch, out);
        }
    }

  private:
    // Derivatives of an activation, and of the gradient by it.
    struct Part {
        Buffer<T> values, gradient;
    };
    // Derivatives of a layer's affine map, its outputs, and the gradient by them; and its weights, turned.
    struct LayerPart {
        AffineTangent<T> affine;
        Buffer<T> z, delta;
        std::vector<T> turned, turned_direction;
    };

    Network<T>& network_;
    std::vector<T> weights_, direction_;
    std::vector<Part> activations_;
    std::vector<LayerPart> layers_;

    void forward(int batch) {
        for (std::size_t j = 0; j < activations_.size(); j++) {
            const Activation<T>& activation = network_.layout().activations[j];
            Buffer<T>& values = activations_[j].values;
            if (j > 0)
                network_.each_image(activation, 0, batch, [&](const Frame& frame, int image) {
                    activate_tangent(frame, network_.terms_of(activation, image), tangents_of(activation, image),
                                     values.data() + image * activation.image());
                });
            for (int k : activation.readers) {
                const Layer<T>& layer = network_.layout().layers[k];
                Buffer<T>& z = layers_[k].z;
                if (j > 0) outputs_of<T>(activation, layer, values, weights_.data(), z, 0, batch, false);
                outputs_of<T>(activation, layer, activation.values, direction_.data(), z, 0, batch, j > 0);
            }
        }
    }

    TangentTerms<V, V> tangents_of(const Activation<T>& activation, int image) const {
        TangentTerms<V, V> terms;
        for (int t = 0; t < activation.terms; t++) {
            const int k = activation.term[t];
            const Layer<T>& layer = network_.layout().layers[k];
            const std::size_t at = image * layer.image();
            terms.tangent[t] = layers_[k].z.data() + at;
            terms.z[t] = layer.z.data() + at;
            terms.scale[t] = layer.scale.data();
            terms.turn[t] = layers_[k].affine.turn.data();
            terms.shift[t] = layers_[k].affine.shift.data();
        }
        if (activation.identity >= 0) {
            const Activation<T>& earlier = network_.layout().activations[activation.identity];
            terms.identity = activations_[activation.identity].values.data() + image * earlier.image();
        }
        return terms;
    }

    // Gradients of the logits, and their derivatives.
    void begin_back(int batch, const std::int64_t* const labels[], const std::int64_t* rows, std::int64_t stride,
                    V* out) {
        Layer<T>& head = network_.layout().head();
        LayerPart& part = layers_.back();
        for (int b = 0; b < batch; b++) {
            const std::size_t at = std::size_t(b) * head.pitch();
            const V *z = head.z.data() + at, *z1 = part.z.data() + at, *shift = head.shift.data();
            V *delta = head.delta.data() + at, *delta1 = part.delta.data() + at;
            V most = z[0] + shift[0];
            for (int c = 1; c < head.outputs; c++) most = larger(z[c] + shift[c], most);
            V sum = V{}, first = V{};
            for (int c = 0; c < head.outputs; c++) {
                delta[c] = exponential(z[c] + shift[c] - most);
                delta1[c] = z1[c] + part.affine.shift.data()[c];
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
        const T *w = part.turned.data(), *v = part.turned_direction.data();
        weight_gradients_of<T>(source, layer, own.values, layer.delta, 0, batch, out);
        input_gradients_of<T>(source, layer, w, layer.delta, source.gradient, 0, batch, layer.adds);
        input_gradients_of<T>(source, layer, w, part.delta, own.gradient, 0, batch, layer.adds);
        input_gradients_of<T>(source, layer, v, layer.delta, own.gradient, 0, batch, true);
    }

    // From an activation's gradient and its derivative to those of its terms' z, of their scales and shifts.
    void scatter_tangents(int j, int batch, V* out) {
        const Activation<T>& activation = network_.layout().activations[j];
        network_.each_image(activation, 0, batch, [&](const Frame& frame, int image) {
            const TangentTerms<V, V> tangents = tangents_of(activation, image);
            const std::size_t at = image * activation.gradient_image();
            V *identity = nullptr, *identity1 = nullptr;
            if (activation.identity > 0) {
                Activation<T>& earlier = network_.layout().activations[activation.identity];
                identity = earlier.gradient.data() + image * earlier.gradient_image();
                identity1 = activations_[activation.identity].gradient.data() + image * earlier.gradient_image();
            }
            over_terms(frame, network_.terms_of(activation, image),
                       [&](int row, const auto& sum, int channel, auto block) {
                           using Sum = std::decay_t<decltype(sum)>;
                           constexpr int width = block(), count = Sum::count;
                           const TangentSum<V, V, count, Sum::has_identity, width> own(frame, tangents, channel);
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
                                       times[t][k] += dy[1] * own.z[t][pixel] + dy[0] * own.tangent[t][pixel];
                                       Layer<T>& layer = network_.layout().layers[activation.term[t]];
                                       const int to = frame.bordered(layer.border(), y, x) + channel + k;
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
