// Second derivatives v'Hv of the loss of each image along directions v, a direction in each lane.
//
// Every layer's y = s (w * x) + b is a product of what it reads and of its parameters, so that along w + e v the
// second coefficients of its own are those of v * x', and with BatchNorm of the scale's derivative times z': and they
// reach the loss by the gradient g of it by y, which does not depend on the direction. With the curvature of the loss
// itself,
//
//     v'Hv = y'' C y' + 2 sum over layers of g (s (v * x') + s' z')
//
// where ' is the derivative along v and C the second derivative of the cross-entropy by the logits: three products a
// layer (w * x', v * x, v * x'), and a pass forward and back that all directions share. That one has images in its
// lanes; of them each lane of the others takes one number for all.
#pragma once

#include "tangent.hpp"

namespace lanes {

template <class T>
class HessianForms {
  public:
    using V = Vector<T>;
    static constexpr int n = kLanes<T>;  // images at a time, and directions

    // The network has to have gradients.
    explicit HessianForms(Network<T>& network) : network_(network), weights_(network.layout().parameters) {
        std::size_t most = 0;
        for (Activation<T>& own : network.layout().activations) {
            const bool image = &own == network.layout().activations.data();
            values_.emplace_back(image ? 0 : n * own.image());
        }
        for (Layer<T>& own : network.layout().layers) {
            layers_.push_back({AffineTangent<T>(own), Buffer<T>(n * own.image())});
            most = std::max(most, own.image());
        }
        products_ = Buffer<T>(n * most);
    }

    // The weights, the same in all lanes, beside what `fix` was given of them.
    void at(const V* parameters) {
        take_shared(parameters, weights_);
        for (Layer<T>& layer : network_.layout().layers) {
            if (layer.source == 0) continue;
            Layout<T>::turn(layer, parameters, layer.turned.data());
            scale_turned(layer);
        }
    }

    // Gradients of the losses of n images, of which the network has read and passed forward one in each lane, by the
    // y of all layers: they are in the layers' `delta`.
    void pass_back(const std::int64_t labels[]) {
        Layer<T>& head = network_.layout().head();
        V* delta = head.delta.data();
        const V sum = network_.exponentials(0, delta);
        for (int c = 0; c < head.outputs; c++) delta[c] = delta[c] / sum;
        for (int image = 0; image < n; image++) delta[labels[image]][image] -= T(1);
        pass_back(head);
        for (int j = int(values_.size()) - 1; j > 0; j--) {
            const Activation<T>& activation = network_.layout().activations[j];
            gate(activation, j);
            for (int t = 0; t < activation.terms; t++) pass_back(network_.layout().layers[activation.term[t]]);
        }
    }

    // v'Hv of these images along the direction of each lane, [image][lane].
    void forms(const V* direction, V* out) {
        direction_ = direction;
        for (std::size_t k = 0; k < layers_.size(); k++)
            layers_[k].affine.aim(network_.layout().layers[k], direction);
        for (int image = 0; image < n; image++) cross_[image] = V{};
        pass_forward();
        const Layer<T>& head = network_.layout().head();
        const V *shift = head.shift.data(), *shift1 = layers_.back().affine.shift.data();
        for (int image = 0; image < n; image++) {
            const T* z = shared(head.z, image);
            const V* z1 = layers_.back().z.data() + image * head.pitch();
            V most = logit(z, shift, 0), sum = V{}, first = V{}, square = V{};
            for (int c = 1; c < head.outputs; c++) most = larger(logit(z, shift, c), most);
            for (int c = 0; c < head.outputs; c++) {
                const V share = exponential(logit(z, shift, c) - most), slope = z1[c] + shift1[c];
                sum += share;
                first += share * slope;
                square += share * slope * slope;
            }
            const V mean = first / sum;
            out[image] = T(2) * cross_[image] + (square / sum - mean * mean);
        }
    }

  private:
    struct LayerPart {
        AffineTangent<T> affine;
        Buffer<T> z;  // derivatives, [image][pixel][channel]
    };

    Network<T>& network_;
    std::vector<T> weights_;
    const V* direction_ = nullptr;
    std::vector<Buffer<T>> values_;  // derivatives of the activations
    std::vector<LayerPart> layers_;
    Buffer<T> products_;  // v * x' of a layer
    V cross_[n];          // of each image the sum over layers

    // The numbers of one image, among those of all lanes.
    static const T* shared(const Buffer<T>& numbers, int image) {
        return reinterpret_cast<const T*>(numbers.data()) + image;
    }

    static V logit(const T* z, const V* shift, int c) { return spread<V>(z + c * kStride<V, T>) + shift[c]; }

    // So that gradients by y give those by x.
    static void scale_turned(Layer<T>& layer) {
        for (const Phase& phase : layer.phases) {
            V* w = layer.turned.data() + phase.weights;
            for (int first = 0; first < layer.inputs; first += phase.block) {
                const int own = std::min(phase.block, layer.inputs - first);
                for (int t = 0; t < phase.window.taps; t++)
                    for (int o = 0; o < layer.outputs; o++)
                        for (int i = 0; i < own; i++) *w++ *= layer.scale.data()[o];
            }
        }
    }

    void pass_back(Layer<T>& layer) {
        Activation<T>& source = network_.layout().activations[layer.source];
        if (layer.source > 0)
            input_gradients_of<T>(source, layer, layer.turned.data(), layer.delta, source.gradient, 0, 1, layer.adds);
    }

    void gate(const Activation<T>& activation, int j) {
        V *identity = nullptr, *delta[kMostTerms];
        int border[kMostTerms];
        if (activation.identity > 0) identity = network_.layout().activations[activation.identity].gradient.data();
        for (int t = 0; t < activation.terms; t++) {
            Layer<T>& layer = network_.layout().layers[activation.term[t]];
            delta[t] = layer.delta.data();
            border[t] = layer.border();
        }
        const Frame& frame = activation.frame;
        over_terms(frame, network_.terms_of(activation, 0), [&](int row, const auto& sum, int channel, auto block) {
            using Sum = std::decay_t<decltype(sum)>;
            const V* pooled[1] = {network_.layout().activations[j].gradient.data() + channel};
            gate_row<V, Sum, block()>(frame, row, sum, pooled,
                                      [&](int y, int x, int k, Several<V, 1> dy) __attribute__((always_inline)) {
                                          for (int t = 0; t < Sum::count; t++)
                                              delta[t][frame.bordered(border[t], y, x) + channel + k] = dy[0];
                                          if (identity) {
                                              V& to = identity[frame.pixel(y, x) + channel + k];
                                              to = activation.identity_adds ? to + dy[0] : dy[0];
                                          }
                                      });
        });
    }

    // Derivatives of all numbers along the directions, and what they add to the second ones.
    void pass_forward() {
        for (std::size_t j = 0; j < values_.size(); j++) {
            const Activation<T>& activation = network_.layout().activations[j];
            const int chunk = activation.flat ? n : std::min(n, network_.layout().chunk_of(activation));
            for (int first = 0; first < n; first += chunk) {
                const int count = std::min(chunk, n - first);
                for (int image = first; j > 0 && image < first + count; image++) activate(activation, j, image);
                for (int k : activation.readers) convolve(activation, k, first, count);
            }
        }
    }

    void activate(const Activation<T>& activation, std::size_t j, int image) {
        Terms<V, T> terms;
        TangentTerms<V, T> tangents;
        for (int t = 0; t < activation.terms; t++) {
            const int k = activation.term[t];
            const Layer<T>& layer = network_.layout().layers[k];
            terms.term[t] = {shared(layer.z, image), layer.scale.data(), layer.shift.data()};
            tangents.tangent[t] = layers_[k].z.data() + image * layer.image();
            tangents.z[t] = terms.term[t].z;
            tangents.scale[t] = layer.scale.data();
            tangents.turn[t] = layers_[k].affine.turn.data();
            tangents.shift[t] = layers_[k].affine.shift.data();
        }
        if (activation.identity >= 0) {
            const Activation<T>& earlier = network_.layout().activations[activation.identity];
            terms.identity = shared(earlier.values, image);
            tangents.identity = values_[activation.identity].data() + image * earlier.image();
        }
        activate_tangent(activation.frame, terms, tangents, values_[j].data() + image * activation.image());
    }

    void convolve(const Activation<T>& source, int k, int first, int count) {
        const Layer<T>& layer = network_.layout().layers[k];
        Buffer<T>&own = values_[layer.source], &z = layers_[k].z;
        const bool changes = layer.source > 0;  // an image does not
        const Extent extent = extent_of(layer, count);
        if (changes) outputs_of<T>(source, layer, own, weights_.data(), z, first, count, false);
        const Steps steps = source.steps(layer.stride);
        const Steps one = {layer.flat ? 1 : steps.pixel * n, steps.row * n, 1};
        product<T>(extent, shared(source.values, first), one, layer.window, direction_ + layer.weights, layer.inputs,
                   layer.outputs, layer.block, z.data() + first * layer.image(), layer.z_steps(), changes);
        if (changes)
            product<T>(extent, own.data() + first * source.image(), steps, layer.window, direction_ + layer.weights,
                       layer.inputs, layer.outputs, layer.block, products_.data(), layer.z_steps(), false);
        for (int image = first; image < first + count && (changes || layer.norm); image++)
            cross_[image] += cross(layer, k, image, changes ? (image - first) * layer.image() : -1);
    }

    // Sum over an image's pixels and channels of g (s (v * x') + s' z'); without v * x' where that begins at -1.
    V cross(const Layer<T>& layer, int k, int image, std::ptrdiff_t at) const {
        const V *scale = layer.scale.data(), *turn = layers_[k].affine.turn.data();
        const V *product = at < 0 ? nullptr : products_.data() + at, *z = layers_[k].z.data() + image * layer.image();
        const T* g = shared(layer.delta, image) + layer.delta_start() * n;
        const Steps steps = layer.z_steps(), of_g = layer.delta_steps();
        V sums[2] = {};
        for (int y = 0; y < layer.out_height; y++)
            for (int x = 0; x < layer.out_width; x++) {
                const std::ptrdiff_t pixel = y * steps.row + x * steps.pixel;
                const T* own = g + (y * of_g.row + x * of_g.pixel) * n;
#pragma GCC unroll 2
                for (int c = 0; c < layer.outputs; c++) {
                    V second = turn[c] * z[pixel + c];
                    if (product) second += scale[c] * product[pixel + c];
                    sums[c % 2] += spread<V>(own + c * n) * second;
                }
            }
        return sums[0] + sums[1];
    }
};

}  // namespace lanes
