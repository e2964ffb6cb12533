// The three products of a layer with what it reads, over some images of a pass.
//
// Buffers hold all images of a pass, but for the gradients of z, which are those of the images in work.
#pragma once

#include <cstring>

#include "layout.hpp"

namespace lanes {

template <class T>
Extent extent_of(const Layer<T>& layer, int count) {
    return layer.flat ? Extent{1, 1, count} : Extent{count, layer.out_height, layer.out_width};
}

template <class T, class W>
void outputs_of(const Activation<T>& source, const Layer<T>& layer, const Buffer<T>& in, const W* parameters,
                Buffer<T>& z, int first, int count, bool add, Moments<Vector<T>> moments = {}) {
    product<T>(extent_of(layer, count), in.data() + first * source.image(), source.steps(layer.stride), layer.window,
               parameters + layer.weights, layer.inputs, layer.outputs, layer.block, z.data() + first * layer.image(),
               layer.z_steps(), add, moments);
}

template <class T, Gradients Kind = Gradients::kept>
void weight_gradients_of(const Activation<T>& source, const Layer<T>& layer, const Buffer<T>& in,
                         const Buffer<T>& delta, int first, int count, Vector<T>* gradients) {
    const std::ptrdiff_t row = std::ptrdiff_t(source.width + 2 * source.border) * source.pitch();
    weight_gradient<T, Kind>(extent_of(layer, count),
                             in.data() + first * source.image() + layer.window.segments[0].offset,
                             source.steps(layer.stride), row, source.pitch(), layer.kernel, layer.inputs,
                             delta.data() + layer.delta_start(), layer.delta_steps(), layer.outputs, layer.block,
                             gradients + (Kind == Gradients::squared ? 0 : layer.weights));
}

template <class T, class W>
void input_gradients_of(const Activation<T>& source, const Layer<T>& layer, const W* turned, const Buffer<T>& delta,
                        Buffer<T>& gradient, int first, int count, bool add) {
    const int s = layer.stride;
    const std::ptrdiff_t row = std::ptrdiff_t(layer.width) * source.pitch();
    Vector<T>* out = gradient.data() + first * source.gradient_image();
    const bool clears = !add && int(layer.phases.size()) < s * s;  // no phase writes what none reaches
    if (clears) std::memset(static_cast<void*>(out), 0, count * source.gradient_image() * sizeof(Vector<T>));
    for (const Phase& phase : layer.phases) {
        const Extent pixels = {count, ceil_div(layer.height - phase.y, s), ceil_div(layer.width - phase.x, s)};
        product<T>(layer.flat ? extent_of(layer, count) : pixels, delta.data(), layer.delta_steps(), phase.window,
                   turned + phase.weights, layer.outputs, layer.inputs, phase.block,
                   out + phase.y * row + phase.x * source.pitch(),
                   {std::ptrdiff_t(s) * source.pitch(), s * row, std::ptrdiff_t(source.gradient_image())},
                   add || clears);
    }
}

}  // namespace lanes
