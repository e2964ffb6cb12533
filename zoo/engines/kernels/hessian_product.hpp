// Products of the Hessian with a vector: the derivative of the way back along it. Pearlmutter's R-operator (Fast
// Exact Multiplication by the Hessian, 1994), with images in lanes, which share the weights.
//
// Of the eight products of a layer two do not depend on the vector, the layer's own and the gradient of what it
// reads: these are a network's that was passed forward and back once, and serve for any number of vectors.
#pragma once

#include "tangent.hpp"

namespace lanes {

template <class T>
class HessianProduct {
  public:
    using V = Vector<T>;
    static constexpr int n = kLanes<T>;

    // The network has to have gradients.
    explicit HessianProduct(const Layout<T>& layout) : weights_(layout.parameters), direction_(layout.parameters) {
        const std::size_t batch = layout.capacity;
        for (const Activation<T>& own : layout.activations) {
            const std::size_t images = &own == layout.activations.data() ? 0 : batch;
            activations_.push_back({Buffer<T>(images * own.image()), Buffer<T>(images * own.gradient_image())});
        }
        for (const Layer<T>& own : layout.layers) {
            const std::size_t turned = own.source > 0 ? own.weight_count() : 0;
            layers_.push_back({AffineTangent<T>(own), Buffer<T>(batch * own.image()), Buffer<T>(own.delta.size()),
                               std::vector<T>(turned), std::vector<T>(turned)});
        }
    }

    // The weights of the next products, the same in all lanes, beside what `fix` was given of them.
    void at(const Layout<T>& layout, const V* parameters) {
        take_shared(parameters, weights_);
        for (std::size_t k = 0; k < layers_.size(); k++)
            if (layout.layers[k].source > 0)
                Layout<T>::turn(layout.layers[k], weights_.data(), layers_[k].turned.data());
    }

    // The vector that they are with, the same in all lanes, for weights that `fix` was given to a network.
    void aim(const Layout<T>& layout, const V* direction) {
        take_shared(direction, direction_);
        for (std::size_t k = 0; k < layers_.size(); k++) {
            const Layer<T>& layer = layout.layers[k];
            layers_[k].affine.aim(layer, direction);
            if (layer.source > 0) Layout<T>::turn(layer, direction_.data(), layers_[k].turned_direction.data());
        }
    }

    // The weights, each once.
    const T* weights() const { return weights_.data(); }

    // Passes the gradients of the loss summed over a batch that was read and passed forward back to every number; a
    // network that was is ready for products.
    void pass_back(Network<T>& network, int batch, const std::int64_t* const labels[], const std::int64_t* rows,
                   std::int64_t stride) {
        network_ = &network;
        Layer<T>& head = network.layout().head();
        for (int b = 0; b < batch; b++) {
            V* delta = head.delta.data() + std::size_t(b) * head.pitch();
            const V sum = network.exponentials(b, delta);
            for (int c = 0; c < head.outputs; c++) delta[c] = delta[c] / sum;
            for (int lane = 0; lane < n; lane++) delta[labels[lane][rows[lane * stride + b]]][lane] -= T(1);
        }
        pass_gradients(int(layers_.size()) - 1, batch);
        for (int j = int(activations_.size()) - 1; j > 0; j--) {
            scatter_gradients(j, batch);
            const Activation<T>& activation = network.layout().activations[j];
            for (int t = 0; t < activation.terms; t++) pass_gradients(activation.term[t], batch);
        }
    }

    // Adds Hv of the loss summed over the batch of such a network to `out`, [parameter].
    void product(Network<T>& network, int batch, V* out) {
        network_ = &network;
        forward(batch);
        begin_back(batch, out);
        pass_tangents(int(layers_.size()) - 1, batch, out);
        for (int j = int(activations_.size()) - 1; j > 0; j--) {
            scatter_tangents(j, batch, out);
            const Activation<T>& activation = network.layout().activations[j];
            for (int t = 0; t < activation.terms; t++) pass_tangents(activation.term[t], batch, out);
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

    Network<T>* network_ = nullptr;  // of the images in work
    std::vector<T> weights_, direction_;
    std::vector<Part> activations_;
    std::vector<LayerPart> layers_;

    void forward(int batch) {
        for (std::size_t j = 0; j < activations_.size(); j++) {
            const Activation<T>& activation = network_->layout().activations[j];
            Buffer<T>& values = activations_[j].values;
            if (j > 0)
                network_->each_image(activation, 0, batch, [&](const Frame& frame, int image) {
                    activate_tangent(frame, network_->terms_of(activation, image), tangents_of(activation, image),
                                     values.data() + image * activation.image());
                });
            for (int k : activation.readers) {
                const Layer<T>& layer = network_->layout().layers[k];
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
            const Layer<T>& layer = network_->layout().layers[k];
            const std::size_t at = image * layer.image();
            terms.tangent[t] = layers_[k].z.data() + at;
            terms.z[t] = layer.z.data() + at;
            terms.scale[t] = layer.scale.data();
            terms.turn[t] = layers_[k].affine.turn.data();
            terms.shift[t] = layers_[k].affine.shift.data();
        }
        if (activation.identity >= 0) {
            const Activation<T>& earlier = network_->layout().activations[activation.identity];
            terms.identity = activations_[activation.identity].values.data() + image * earlier.image();
        }
        return terms;
    }

    void pass_gradients(int k, int batch) {
        Layer<T>& layer = network_->layout().layers[k];
        Activation<T>& source = network_->layout().activations[layer.source];
        if (layer.source > 0)
            input_gradients_of<T>(source, layer, layers_[k].turned.data(), layer.delta, source.gradient, 0, batch,
                                  layer.adds);
    }

    // From an activation's gradient to those of its terms' z.
    void scatter_gradients(int j, int batch) {
        const Activation<T>& activation = network_->layout().activations[j];
        network_->each_image(activation, 0, batch, [&](const Frame& frame, int image) {
            V* identity = nullptr;
            if (activation.identity > 0) {
                Activation<T>& earlier = network_->layout().activations[activation.identity];
                identity = earlier.gradient.data() + image * earlier.gradient_image();
            }
            over_terms(
                frame, network_->terms_of(activation, image), [&](int row, const auto& sum, int channel, auto block) {
                    using Sum = std::decay_t<decltype(sum)>;
                    const V* pooled[1] = {activation.gradient.data() + image * activation.gradient_image() + channel};
                    gate_row<V, Sum, block()>(
                        frame, row, sum, pooled,
                        [&](int y, int x, int k, Several<V, 1> dy) __attribute__((always_inline)) {
#pragma GCC unroll 2
                            for (int t = 0; t < Sum::count; t++) {
                                Layer<T>& layer = network_->layout().layers[activation.term[t]];
                                const int to = frame.bordered(layer.border(), y, x) + channel + k;
                                layer.delta.data()[image * layer.delta_image() + to] = dy[0] * sum.scale[t][k];
                            }
                            if (identity) {
                                V& to = identity[frame.pixel(y, x) + channel + k];
                                to = activation.identity_adds ? to + dy[0] : dy[0];
                            }
                        });
                });
        });
    }

    // Derivatives of the gradients of the logits.
    void begin_back(int batch, V* out) {
        const Layer<T>& head = network_->layout().head();
        LayerPart& part = layers_.back();
        std::vector<V> shares(head.outputs);
        for (int b = 0; b < batch; b++) {
            const std::size_t at = std::size_t(b) * head.pitch();
            const V* z1 = part.z.data() + at;
            V *delta1 = part.delta.data() + at, first = V{};
            const V sum = network_->exponentials(b, shares.data());
            for (int c = 0; c < head.outputs; c++) {
                delta1[c] = z1[c] + part.affine.shift.data()[c];
                first += shares[c] * delta1[c];
            }
            for (int c = 0; c < head.outputs; c++) {
                delta1[c] = shares[c] / sum * (delta1[c] - first / sum);
                out[head.offset + c] += delta1[c];
            }
        }
    }

    // The derivative of `Network::pass_back`.
    void pass_tangents(int k, int batch, V* out) {
        Layer<T>& layer = network_->layout().layers[k];
        LayerPart& part = layers_[k];
        Activation<T>& source = network_->layout().activations[layer.source];
        weight_gradients_of<T>(source, layer, source.values, part.delta, 0, batch, out);
        if (layer.source == 0) return;
        Part& own = activations_[layer.source];
        const T *w = part.turned.data(), *v = part.turned_direction.data();
        weight_gradients_of<T>(source, layer, own.values, layer.delta, 0, batch, out);
        input_gradients_of<T>(source, layer, w, part.delta, own.gradient, 0, batch, layer.adds);
        input_gradients_of<T>(source, layer, v, layer.delta, own.gradient, 0, batch, true);
    }

    // From an activation's gradient and its derivative to the derivatives of its terms' z, of their scales and
    // shifts.
    void scatter_tangents(int j, int batch, V* out) {
        const Activation<T>& activation = network_->layout().activations[j];
        network_->each_image(activation, 0, batch, [&](const Frame& frame, int image) {
            const TangentTerms<V, V> tangents = tangents_of(activation, image);
            const std::size_t at = image * activation.gradient_image();
            V* identity1 = nullptr;
            if (activation.identity > 0) {
                const Activation<T>& earlier = network_->layout().activations[activation.identity];
                identity1 = activations_[activation.identity].gradient.data() + image * earlier.gradient_image();
            }
            over_terms(frame, network_->terms_of(activation, image),
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
                                       const Layer<T>& layer = network_->layout().layers[activation.term[t]];
                                       const int to = frame.bordered(layer.border(), y, x) + channel + k;
                                       const std::size_t first = image * layer.delta_image();
                                       layers_[activation.term[t]].delta.data()[first + to] =
                                           dy[1] * own.scale[t][k] + dy[0] * own.turn[t][k];
                                   }
                                   if (identity1) {
                                       V& to1 = identity1[pixel + channel];
                                       to1 = activation.identity_adds ? to1 + dy[1] : dy[1];
                                   }
                               });
                           for (int t = 0; t < count; t++) {
                               const Layer<T>& layer = network_->layout().layers[activation.term[t]];
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
