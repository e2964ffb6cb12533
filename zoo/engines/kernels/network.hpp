// One pass forward and back through a network of lanes.
//
// Forward, an activation is made a few images at a time and at once convolved by every layer that reads it; backward,
// the same few images' gradients pass through BatchNorm, both products and the next activation's sums while they are
// in the cache. Between these passes lie only the barriers that BatchNorm asks for, which wants the moments of the
// whole batch.
#pragma once

#include "maps.hpp"

namespace lanes {

constexpr double kEpsilon = 1e-5;  // PyTorch's, added to variances

template <class T>
class Network {
  public:
    using V = Vector<T>;
    static constexpr int lane_count = kLanes<T>;

    explicit Network(Layout<T> layout) : layout_(std::move(layout)) {}

    Layout<T>& layout() { return layout_; }
    const Layout<T>& layout() const { return layout_; }

    // Images in lanes: image rows[lane * stride + b] of each lane's own, values [channel][row][column], for b <
    // batch.
    void read(const T* const images[], const std::int64_t* rows, std::int64_t stride, int batch) {
        Activation<T>& input = layout_.activations[0];
        const bool one_row = input.height * input.width == 1;
        const int columns = one_row ? input.channels : input.width, rows_of = one_row ? 1 : input.height;
        const int planes = one_row ? 1 : input.channels, step = one_row ? 1 : input.pitch();
        const std::int64_t values = std::int64_t(input.channels) * input.height * input.width;
        for (int b = 0; b < batch; b++) {
            const T* from[lane_count];
            for (int lane = 0; lane < lane_count; lane++)
                from[lane] = images[lane] + rows[lane * stride + b] * values;
            for (int plane = 0; plane < planes; plane++)
                for (int y = 0; y < rows_of; y++) {
                    V* out = input.values.data() + b * input.image() + plane +
                             ((y + input.border) * (input.width + 2 * input.border) + input.border) * step;
                    read_row(from, (std::int64_t(plane) * rows_of + y) * columns, columns, out, step);
                }
        }
    }

    // Affine maps of layers from running statistics, and of those that have a bias.
    void fix(const V* parameters, const V* running) {
        for (Layer<T>& layer : layout_.layers)
            for (int c = 0; c < layer.outputs; c++) {
                const V* own = parameters + layer.offset;
                layer.mean.data()[c] = V{};
                layer.scale.data()[c] = layer.deviation.data()[c] = broadcast(T(1));
                layer.shift.data()[c] = own[c];
                if (!layer.norm) continue;
                const V mean = running[layer.running + c], variance = running[layer.running + layer.outputs + c];
                normalise(layer, c, own, mean, variance);
            }
    }

    // Logits of a batch that was read, with parameters of each lane, or shared by all. With `running`, BatchNorm
    // takes the batch's moments and moves these by `momentum` of each lane; else the affine maps are as `fix` made
    // them.
    template <class W>
    void forward(int batch, const W* parameters, V* running = nullptr, V momentum = V{}) {
        for (std::size_t j = 0; j < layout_.activations.size(); j++) {
            Activation<T>& activation = layout_.activations[j];
            for (int k : activation.readers) {
                layout_.layers[k].sum.clear();
                layout_.layers[k].square.clear();
            }
            const int chunk = activation.flat ? batch : layout_.chunk_of(activation);
            each_chunk(batch, chunk, j % 2, [&](int first, int count) {
                if (j > 0) activate_images(activation, first, count);
                for (int k : activation.readers)
                    if (!layout_.layers[k].flat) convolve(layout_.layers[k], parameters, first, count, running);
            });
            for (int k : activation.readers) {
                Layer<T>& layer = layout_.layers[k];
                if (layer.flat) convolve(layer, parameters, 0, batch, running);
                if constexpr (std::is_same_v<W, V>)
                    if (running && layer.norm) take_moments(layer, batch, parameters, running, momentum);
                if (!layer.norm)
                    for (int c = 0; c < layer.outputs; c++)
                        layer.shift.data()[c] = spread<V>(parameters + layer.offset + c);
            }
        }
    }

    // Cross-entropy of each lane summed over the batch, and misclassified images; labels as in `read`. If asked for,
    // the gradient of the mean loss by the logits is kept for `backward`.
    void loss(int batch, const std::int64_t* const labels[], const std::int64_t* rows, std::int64_t stride, T* losses,
              std::int64_t* wrong, bool gradient) {
        Layer<T>& layer = layout_.head();
        const int classes = layer.outputs;
        const V* shift = layer.shift.data();
        V total = V{};
        std::int64_t errors[lane_count] = {};
        for (int b = 0; b < batch; b++) {
            V* z = layer.z.data() + std::size_t(b) * layer.pitch();
            V most = z[0] + shift[0], answer = V{};
            for (int c = 1; c < classes; c++) {
                const V logit = z[c] + shift[c];
                answer = logit > most ? broadcast(T(c)) : answer;
                most = larger(logit, most);
            }
            V sum = V{};
            V* delta = gradient ? layer.delta.data() + std::size_t(b) * layer.pitch() : nullptr;
            for (int c = 0; c < classes; c++) {
                const V share = exponential(z[c] + shift[c] - most);
                sum += share;
                if (delta) delta[c] = share;
            }
            V right = V{}, logarithm = V{};
            const T weight = T(1) / batch;
            for (int c = 0; delta && c < classes; c++) delta[c] = delta[c] / (sum * T(batch));
            for (int lane = 0; lane < lane_count; lane++) {
                const std::int64_t label = labels[lane][rows[lane * stride + b]];
                right[lane] = z[label][lane] + shift[label][lane];
                logarithm[lane] = std::log(sum[lane]);
                errors[lane] += std::int64_t(answer[lane]) != label;
                if (delta) delta[label][lane] -= weight;
            }
            total += logarithm + (most - right);
        }
        for (int lane = 0; lane < lane_count; lane++) {
            losses[lane] = total[lane];
            wrong[lane] = errors[lane];
        }
    }

    // Of the logits of an image that was passed forward, less the largest, the exponentials; gives their sum.
    V exponentials(int image, V* out) const {
        const Layer<T>& head = layout_.head();
        const V *z = head.z.data() + std::size_t(image) * head.pitch(), *shift = head.shift.data();
        V most = z[0] + shift[0], sum = V{};
        for (int c = 1; c < head.outputs; c++) most = larger(z[c] + shift[c], most);
        for (int c = 0; c < head.outputs; c++) sum += out[c] = exponential(z[c] + shift[c] - most);
        return sum;
    }

    // How often each unit of each ReLU, in their order, was above zero in a batch that was passed forward.
    void count_fired(int batch, V* fired) const {
        for (std::size_t j = 1; j < layout_.activations.size(); fired += layout_.activations[j].channels, j++)
            each_image(layout_.activations[j], 0, batch, [&](const Frame& frame, int image) {
                lanes::count_fired(frame, terms_of(layout_.activations[j], image), fired);
            });
    }

    // The parameters that `backward` goes by.
    void turn(const V* parameters) {
        for (Layer<T>& layer : layout_.layers)
            if (layer.source > 0) Layout<T>::turn(layer, parameters, layer.turned.data());
    }

    // Gradients of all parameters from the gradient of the logits, of a batch that was passed forward with its own
    // moments, which depend on the weights too, or with fixed affine maps.
    void backward(int batch, V* gradients, bool own_moments = true) {
        std::memset(static_cast<void*>(gradients), 0, layout_.parameters * sizeof(V));
        backward<Gradients::kept>(batch, gradients, own_moments);
    }

    // The squared length of that gradient of one image, with fixed affine maps.
    V squared_gradient() {
        V total = V{};
        backward<Gradients::squared>(1, &total, false);
        return total;
    }
    Terms<V> terms_of(const Activation<T>& activation, int image) const {
        Terms<V> terms;
        for (int t = 0; t < activation.terms; t++) {
            const Layer<T>& layer = layout_.layers[activation.term[t]];
            terms.term[t] = {layer.z.data() + image * layer.image(), layer.scale.data(), layer.shift.data()};
        }
        if (activation.identity >= 0) {
            const Activation<T>& earlier = layout_.activations[activation.identity];
            terms.identity = earlier.values.data() + image * earlier.image();
        }
        return terms;
    }

    // Calls body(frame, image) for the images; those of a flat activation are one row.
    template <class Body>
    void each_image(const Activation<T>& activation, int first, int count, Body body) const {
        if (!activation.flat) {
            for (int image = first; image < first + count; image++) body(activation.frame, image);
            return;
        }
        Frame frame = activation.frame;
        frame.width = frame.pooled_width = count;
        body(frame, first);
    }

  private:
    Layout<T> layout_;

    template <Gradients Kind>
    void backward(int batch, V* gradients, bool own_moments) {
        for (Layer<T>& layer : layout_.layers) {
            layer.total.clear();
            layer.product.clear();
        }
        Layer<T>& last = layout_.head();
        for (int c = 0; c < last.outputs; c++) {
            V total = V{};
            for (int b = 0; b < batch; b++) total += last.delta.data()[std::size_t(b) * last.pitch() + c];
            put<Kind>(gradients, last.offset + c, total);
        }
        pass_back<Kind>(last, 0, batch, gradients);
        for (int j = int(layout_.activations.size()) - 1; j > 0; j--) {
            Activation<T>& activation = layout_.activations[j];
            for (int t = 0; t < activation.terms; t++)
                end_sums<Kind>(layout_.layers[activation.term[t]], batch, gradients, own_moments);
            int chunk = activation.flat ? batch : layout_.capacity;
            for (int t = 0; t < activation.terms && !activation.flat; t++)
                chunk = std::min(chunk, Layout<T>::chunk_of(layout_.layers[activation.term[t]]));
            each_chunk(batch, chunk, j % 2 == 0, [&](int first, int count) {
                scatter_images(activation, first, count);
                for (int t = 0; t < activation.terms; t++)
                    pass_back<Kind>(layout_.layers[activation.term[t]], first, count, gradients);
                if (activation.identity > 0 && layout_.activations[activation.identity].last == -j)
                    sum_images(layout_.activations[activation.identity], first, count);
            });
        }
    }

    template <Gradients Kind>
    static void put(V* gradients, int parameter, V value) {
        if (Kind == Gradients::squared)
            *gradients += value * value;
        else
            gradients[parameter] = value;
    }

    // Calls body(first, count) for a few images at a time. Every other sweep over the batch goes backward, so that it
    // begins with the images that the one before has left in the caches.
    template <class Body>
    static void each_chunk(int batch, int chunk, bool backward, Body body) {
        const int chunks = ceil_div(batch, chunk);
        for (int k = 0; k < chunks; k++) {
            const int first = (backward ? chunks - 1 - k : k) * chunk;
            body(first, std::min(chunk, batch - first));
        }
    }

    void read_row(const T* const from[], std::int64_t at, int count, V* out, int step) {
        constexpr int n = lane_count;
        V square[n];
        for (int x = 0; x < count; x += n) {
            const int first = std::min(x, count - n);  // the last square overlaps the one before
            if (first < 0) {
                for (int i = 0; i < count; i++)
                    for (int lane = 0; lane < n; lane++) out[i * step][lane] = from[lane][at + i];
                return;
            }
            for (int lane = 0; lane < n; lane++) square[lane] = load_unaligned(from[lane] + at + first);
            transpose<T>(square);
            for (int i = 0; i < n; i++) out[(first + i) * step] = square[i];
        }
    }

    void activate_images(Activation<T>& activation, int first, int count) {
        each_image(activation, first, count, [&](const Frame& frame, int image) {
            activate(frame, terms_of(activation, image), activation.values.data() + image * activation.image());
        });
    }

    void sum_images(Activation<T>& activation, int first, int count) {
        V *total[kMostTerms], *product[kMostTerms];
        for (int t = 0; t < activation.terms; t++) {
            total[t] = layout_.layers[activation.term[t]].total.data();
            product[t] = layout_.layers[activation.term[t]].product.data();
        }
        each_image(activation, first, count, [&](const Frame& frame, int image) {
            gather_sums(frame, terms_of(activation, image),
                        activation.gradient.data() + image * activation.gradient_image(), total, product);
        });
    }

    void scatter_images(Activation<T>& activation, int first, int count) {
        each_image(activation, first, count, [&](const Frame& frame, int image) {
            Delta<V> delta[kMostTerms];
            for (int t = 0; t < activation.terms; t++) {
                Layer<T>& layer = layout_.layers[activation.term[t]];
                delta[t] = {layer.delta.data() + (image - first) * layer.delta_image(), layer.slope.data(),
                            layer.level.data(), layer.border()};
            }
            V* identity = nullptr;
            if (activation.identity > 0) {
                Activation<T>& earlier = layout_.activations[activation.identity];
                identity = earlier.gradient.data() + image * earlier.gradient_image();
            }
            scatter(frame, terms_of(activation, image),
                    activation.gradient.data() + image * activation.gradient_image(), delta, identity,
                    activation.identity_adds);
        });
    }

    template <class W>
    void convolve(Layer<T>& layer, const W* parameters, int first, int count, const V* running) {
        const bool wanted = running && layer.norm;
        outputs_of<T>(
            layout_.activations[layer.source], layer, layout_.activations[layer.source].values, parameters, layer.z,
            first, count, false,
            wanted ? Moments<V>{layer.sum.data(), layer.square.data(), running + layer.running} : Moments<V>{});
    }

    void normalise(Layer<T>& layer, int c, const V* own, V mean, V variance) {
        const V deviation = T(1) / square_root<T>(variance + T(kEpsilon));
        layer.mean.data()[c] = mean;
        layer.deviation.data()[c] = deviation;
        layer.scale.data()[c] = own[c] * deviation;
        layer.shift.data()[c] = own[layer.outputs + c] - mean * layer.scale.data()[c];
    }

    void take_moments(Layer<T>& layer, int batch, const V* parameters, V* running, V momentum) {
        const T count = T(batch) * layer.out_height * layer.out_width;
        V* mean_of = running + layer.running;
        V* variance_of = mean_of + layer.outputs;
        for (int c = 0; c < layer.outputs; c++) {
            const V rest = layer.sum.data()[c] / count, mean = mean_of[c] + rest;
            const V variance = relu(layer.square.data()[c] / count - rest * rest);
            normalise(layer, c, parameters + layer.offset, mean, variance);
            mean_of[c] += momentum * (mean - mean_of[c]);
            variance_of[c] += momentum * (variance * (count / (count - 1)) - variance_of[c]);
        }
    }

    // From the sums over the batch: the gradients of the norm's weight and bias, or of the bias, and what the batch's
    // statistics add to the gradient of each z (Ioffe and Szegedy, 2015, section 3).
    template <Gradients Kind>
    void end_sums(Layer<T>& layer, int batch, V* gradients, bool own_moments) {
        const T count = T(batch) * layer.out_height * layer.out_width;
        for (int c = 0; c < layer.outputs; c++) {
            const V total = layer.total.data()[c], deviation = layer.deviation.data()[c];
            if (!layer.norm) {
                put<Kind>(gradients, layer.offset + c, total);
                continue;
            }
            const V mean = layer.mean.data()[c], scale = layer.scale.data()[c];
            const V by_scale = deviation * (layer.product.data()[c] - mean * total);
            put<Kind>(gradients, layer.offset + c, by_scale);
            put<Kind>(gradients, layer.offset + layer.outputs + c, total);
            const V slope = own_moments ? -scale * deviation * by_scale / count : V{};
            layer.slope.data()[c] = slope;
            layer.level.data()[c] = own_moments ? -scale * total / count - slope * mean : V{};
        }
    }

    // Both products of a layer's gradient of z, and the sums of the activation that it reads once that one's is
    // whole.
    template <Gradients Kind>
    void pass_back(Layer<T>& layer, int first, int count, V* gradients) {
        Activation<T>& source = layout_.activations[layer.source];
        weight_gradients_of<T, Kind>(source, layer, source.values, layer.delta, first, count, gradients);
        if (layer.source == 0) return;
        input_gradients_of<T>(source, layer, layer.turned.data(), layer.delta, source.gradient, first, count,
                              layer.adds);
        if (source.last == &layer - layout_.layers.data()) sum_images(source, first, count);
    }
};

}  // namespace lanes
