// A network of lanes: its layers and activations, their memory, and one pass forward and back through them.
//
// A network is a list of activations in the order in which they are computed; activation 0 is the image. A layer
// (convolution or linear map) reads an activation and is a term of a later one; the last layer gives the logits. Forward,
// an activation is made a few images at a time and at once convolved by every layer that reads it; backward, the same
// few images' gradients pass through BatchNorm, both products and the next activation's sums while they are in the
// cache. Between these passes lie only the barriers that BatchNorm asks for, which wants the moments of the whole batch.
#pragma once

#include <cstring>
#include <limits>
#include <stdexcept>
#include <vector>

#include "activation.hpp"
#include "convolution.hpp"

namespace lanes {

constexpr std::size_t kCacheBytes = 96 * 1024;  // what images in work may take of the second cache
constexpr double kEpsilon = 1e-5;               // PyTorch's, added to variances

// What a network is for: none holds no memory, a backward pass keeps the gradients of all images for some layers, for curvature for all.
enum class Passes { none = -1, forward = 0, backward = 1, curvature = 2 };

struct LayerSpec {
    std::int32_t source, inputs, outputs, kernel, stride, norm;
};

struct ActivationSpec {
    std::int32_t pool, terms, term[kMostTerms], identity;
};

// A part of the gradient of a strided convolution's inputs: those pixels that the same taps reach.
struct Phase {
    int y, x;  // the first pixel
    Window window;
    std::array<int, 9> taps;  // of the kernel, in the window's order
    std::ptrdiff_t weights;   // where they begin among the turned ones
    int block;
};

template <class T>
struct Layer : LayerSpec {
    using V = Vector<T>;

    int height, width, out_height, out_width;  // of what it reads and gives
    bool flat;                                 // a linear map, whose row is the batch
    int block;                                 // outputs of a block
    std::ptrdiff_t weights, offset;            // among the parameters: weights; then bias, or weight and bias of the norm
    std::ptrdiff_t running;                    // among the running statistics, if it has a norm
    Window window;
    std::vector<Phase> phases;
    bool adds = false;  // whether the source's gradient has begun when this layer's part comes

    Buffer<T> z, turned;
    Buffer<T> scale, shift, slope, level;                   // y = scale z + shift; dz = scale dy + slope z + level
    Buffer<T> mean, deviation, sum, square, total, product;  // deviation: 1 / sqrt(variance + epsilon)
    Buffer<T> delta;                                         // gradient of z: of the images in work, or of all if flat

    int border() const { return kernel / 2; }
    std::size_t weight_count() const { return std::size_t(kernel) * kernel * inputs * outputs; }
    std::size_t image() const { return std::size_t(out_height) * out_width * outputs; }
    std::size_t delta_image() const {
        return std::size_t(out_height + 2 * border()) * (out_width + 2 * border()) * outputs;
    }
    Steps z_steps() const { return {outputs, std::ptrdiff_t(out_width) * outputs, std::ptrdiff_t(image())}; }
    Steps delta_steps() const {
        return {outputs, std::ptrdiff_t(out_width + 2 * border()) * outputs, std::ptrdiff_t(delta_image())};
    }
    std::ptrdiff_t delta_start() const { return border() * (out_width + 2 * border() + 1) * outputs; }
};

template <class T>
struct Activation : ActivationSpec {
    int channels, height, width;  // as it is stored, without its border
    int border = 0;
    bool flat = false;  // one pixel in and out: the batch is its row
    Frame frame;
    std::vector<int> readers;  // layers
    int last = 0;              // the layer whose way back completes this one's gradient; -j: the identity term of j
    bool identity_adds = false;
    Buffer<T> values, gradient;

    std::size_t image() const { return std::size_t(height + 2 * border) * (width + 2 * border) * channels; }
    std::size_t gradient_image() const { return std::size_t(height) * width * channels; }
    Steps steps(int stride) const {
        const std::ptrdiff_t row = std::ptrdiff_t(width + 2 * border) * channels;
        return {std::ptrdiff_t(stride) * channels, stride * row, std::ptrdiff_t(image())};
    }
};

template <class T>
class Network {
  public:
    using V = Vector<T>;
    static constexpr int lane_count = kLanes<T>;

    // `input`: channels, height and width of an image; `capacity`: images of a pass at most, 0 for as many as stay in the
    // cache from one layer to the next; `passes`: what memory is for.
    Network(const std::int32_t input[3], const std::vector<LayerSpec>& layers,
            const std::vector<ActivationSpec>& activations, int capacity, Passes passes)
        : capacity_(capacity), layers_(layers.size()), activations_(activations.size()) {
        for (std::size_t j = 0; j < activations.size(); j++) static_cast<ActivationSpec&>(activations_[j]) = activations[j];
        for (std::size_t k = 0; k < layers.size(); k++) static_cast<LayerSpec&>(layers_[k]) = layers[k];
        shape(input);
        if (!head().flat) throw std::invalid_argument("the last layer has to be a linear map");
        if (capacity_ == 0) capacity_ = images_in_cache();
        lay_out();
        order_gradients();
        allocate(passes);
    }

    int capacity() const { return capacity_; }
    std::vector<Layer<T>>& layers() { return layers_; }
    std::vector<Activation<T>>& activations() { return activations_; }
    Layer<T>& head() { return layers_.back(); }
    const Layer<T>& head() const { return layers_.back(); }
    std::size_t parameters() const { return parameters_; }
    std::size_t statistics() const { return statistics_; }
    int classes() const { return head().outputs; }

    // Memory that so many passes take, in bytes.
    std::size_t bytes(Passes passes) {
        std::size_t vectors = passes == Passes::backward ? parameters_ : 0;  // gradients
        each_buffer(passes, [&](Buffer<T>&, std::size_t own) { vectors += own; });
        return vectors * sizeof(V);
    }

    // Place of each parameter in the usual order: layer by layer weights [output][input][row][column], then weight and
    // bias of the norm, or the bias.
    void order(std::int64_t* places) const {
        std::int64_t start = 0;
        for (const Layer<T>& layer : layers_) {
            const int taps = layer.kernel * layer.kernel;
            for (int o = 0; o < layer.outputs; o++)
                for (int i = 0; i < layer.inputs; i++)
                    for (int t = 0; t < taps; t++)
                        places[weight_place(layer, o, i, t)] = start + (std::int64_t(o) * layer.inputs + i) * taps + t;
            start += layer.weight_count();
            const int rest = layer.outputs * (layer.norm ? 2 : 1);
            for (int c = 0; c < rest; c++) places[layer.offset + c] = start + c;
            start += rest;
        }
    }

    // Images in lanes: image rows[lane * stride + b] of each lane's own, values [channel][row][column], for b < batch.
    void read(const T* const images[], const std::int64_t* rows, std::int64_t stride, int batch) {
        Activation<T>& input = activations_[0];
        const bool one_row = input.height * input.width == 1;
        const int columns = one_row ? input.channels : input.width, rows_of = one_row ? 1 : input.height;
        const int planes = one_row ? 1 : input.channels, step = one_row ? 1 : input.channels;
        const std::int64_t values = std::int64_t(input.channels) * input.height * input.width;
        for (int b = 0; b < batch; b++) {
            const T* from[lane_count];
            for (int lane = 0; lane < lane_count; lane++) from[lane] = images[lane] + rows[lane * stride + b] * values;
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
        for (Layer<T>& layer : layers_)
            for (int c = 0; c < layer.outputs; c++) {
                const V* own = parameters + layer.offset;
                layer.slope.data()[c] = layer.level.data()[c] = V{};
                layer.mean.data()[c] = V{};
                layer.scale.data()[c] = layer.deviation.data()[c] = broadcast(T(1));
                layer.shift.data()[c] = own[c];
                if (!layer.norm) continue;
                const V mean = running[layer.running + c], variance = running[layer.running + layer.outputs + c];
                normalise(layer, c, own, mean, variance);
            }
    }

    // Logits of a batch that was read. With `running`, BatchNorm takes the batch's moments and moves these by `momentum`
    // of each lane; else the affine maps are as `fix` made them.
    void forward(int batch, const V* parameters, V* running = nullptr, V momentum = V{}) {
        for (std::size_t j = 0; j < activations_.size(); j++) {
            Activation<T>& activation = activations_[j];
            for (int k : activation.readers) {
                layers_[k].sum.clear();
                layers_[k].square.clear();
            }
            const int chunk = activation.flat ? batch : chunk_of(activation.image());
            for (int first = 0; first < batch; first += chunk) {
                const int count = std::min(chunk, batch - first);
                if (j > 0) activate_images(activation, first, count);
                for (int k : activation.readers)
                    if (!layers_[k].flat) convolve(layers_[k], parameters, first, count, running);
            }
            for (int k : activation.readers) {
                Layer<T>& layer = layers_[k];
                if (layer.flat) convolve(layer, parameters, 0, batch, running);
                if (running && layer.norm) take_moments(layer, batch, parameters, running, momentum);
                if (!layer.norm)
                    for (int c = 0; c < layer.outputs; c++) layer.shift.data()[c] = parameters[layer.offset + c];
            }
        }
    }

    // Cross-entropy of each lane summed over the batch, and misclassified images; labels as in `read`. If asked for, the
    // gradient of the mean loss by the logits is kept for `backward`.
    void loss(int batch, const std::int64_t* const labels[], const std::int64_t* rows, std::int64_t stride, T* losses,
              std::int64_t* wrong, bool gradient) {
        Layer<T>& layer = head();
        const int classes = layer.outputs;
        const V* shift = layer.shift.data();
        V total = V{};
        std::int64_t errors[lane_count] = {};
        for (int b = 0; b < batch; b++) {
            V* z = layer.z.data() + std::size_t(b) * classes;
            V most = z[0] + shift[0], answer = V{};
            for (int c = 1; c < classes; c++) {
                const V logit = z[c] + shift[c];
                answer = logit > most ? broadcast(T(c)) : answer;
                most = larger(logit, most);
            }
            V sum = V{};
            V* delta = gradient ? layer.delta.data() + std::size_t(b) * classes : nullptr;
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

    // Gradients of all parameters from the gradient of the logits. With `moving` BatchNorm's statistics were the
    // batch's, and depend on the weights too.
    void backward(int batch, const V* parameters, V* gradients, bool moving) {
        std::memset(static_cast<void*>(gradients), 0, parameters_ * sizeof(V));
        for (Layer<T>& layer : layers_) {
            layer.total.clear();
            layer.product.clear();
            if (layer.source > 0) turn(layer, parameters, layer.turned);
        }
        Layer<T>& last = head();
        for (int b = 0; b < batch; b++)
            for (int c = 0; c < last.outputs; c++)
                gradients[last.offset + c] += last.delta.data()[std::size_t(b) * last.outputs + c];
        pass_back(last, 0, batch, gradients);
        for (int j = int(activations_.size()) - 1; j > 0; j--) {
            Activation<T>& activation = activations_[j];
            for (int t = 0; t < activation.terms; t++) end_sums(layers_[activation.term[t]], batch, gradients, moving);
            int chunk = activation.flat ? batch : capacity_;
            for (int t = 0; t < activation.terms && !activation.flat; t++)
                chunk = std::min(chunk, chunk_of(layers_[activation.term[t]].delta_image()));
            for (int first = 0; first < batch; first += chunk) {
                const int count = std::min(chunk, batch - first);
                scatter_images(activation, first, count);
                for (int t = 0; t < activation.terms; t++)
                    pass_back(layers_[activation.term[t]], first, count, gradients);
                if (activation.identity > 0 && activations_[activation.identity].last == -j)
                    sum_images(activations_[activation.identity], first, count);
            }
        }
    }

    // Weights in the order in which the gradients of the inputs take them.
    static void turn(const Layer<T>& layer, const V* parameters, Buffer<T>& turned) {
        for (const Phase& phase : layer.phases) {
            V* out = turned.data() + phase.weights;
            for (int first = 0; first < layer.inputs; first += phase.block) {
                const int own = std::min(phase.block, layer.inputs - first);
                for (int t = 0; t < phase.window.taps; t++)
                    for (int o = 0; o < layer.outputs; o++)
                        for (int i = 0; i < own; i++)
                            *out++ = parameters[weight_place(layer, o, first + i, phase.taps[t])];
            }
        }
    }

    // The three products of a layer over some images. What is read and written are buffers of all images of a pass, but
    // for the gradients of z, which are those of the images in work.

    void outputs_of(const Layer<T>& layer, const Buffer<T>& in, const V* parameters, Buffer<T>& z, int first, int count,
                    bool add, Moments<V> moments = {}) const {
        const Activation<T>& source = activations_[layer.source];
        product<T>(extent_of(layer, count), in.data() + first * source.image(), source.steps(layer.stride), layer.window,
                   parameters + layer.weights, layer.inputs, layer.outputs, layer.block, z.data() + first * layer.image(),
                   layer.z_steps(), add, moments);
    }

    void weight_gradients_of(const Layer<T>& layer, const Buffer<T>& in, const Buffer<T>& delta, int first, int count,
                             V* gradients) const {
        const Activation<T>& source = activations_[layer.source];
        const std::ptrdiff_t row = std::ptrdiff_t(source.width + 2 * source.border) * layer.inputs;
        weight_gradient<T>(extent_of(layer, count),
                           in.data() + first * source.image() + layer.window.segments[0].offset,
                           source.steps(layer.stride), row, layer.kernel, layer.inputs,
                           delta.data() + layer.delta_start(), layer.delta_steps(), layer.outputs, layer.block,
                           gradients + layer.weights);
    }

    void input_gradients_of(const Layer<T>& layer, const Buffer<T>& turned, const Buffer<T>& delta, Buffer<T>& gradient,
                            int first, int count, bool add) const {
        const Activation<T>& source = activations_[layer.source];
        const int s = layer.stride;
        const std::ptrdiff_t row = std::ptrdiff_t(layer.width) * layer.inputs;
        V* out = gradient.data() + first * source.gradient_image();
        const bool clears = !add && int(layer.phases.size()) < s * s;  // no phase writes what none reaches
        if (clears) std::memset(static_cast<void*>(out), 0, count * source.gradient_image() * sizeof(V));
        for (const Phase& phase : layer.phases) {
            const Extent pixels = {count, ceil_div(layer.height - phase.y, s), ceil_div(layer.width - phase.x, s)};
            product<T>(layer.flat ? extent_of(layer, count) : pixels, delta.data(), layer.delta_steps(), phase.window,
                       turned.data() + phase.weights, layer.outputs, layer.inputs, phase.block,
                       out + phase.y * row + phase.x * layer.inputs,
                       {std::ptrdiff_t(s) * layer.inputs, s * row, std::ptrdiff_t(source.gradient_image())},
                       add || clears);
        }
    }

    Terms<V> terms_of(const Activation<T>& activation, int image) const {
        Terms<V> terms;
        for (int t = 0; t < activation.terms; t++) {
            const Layer<T>& layer = layers_[activation.term[t]];
            terms.term[t] = {layer.z.data() + image * layer.image(), layer.scale.data(), layer.shift.data()};
        }
        if (activation.identity >= 0) {
            const Activation<T>& earlier = activations_[activation.identity];
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

    // Images of a pass that nothing makes larger, a few hundred at most.
    int images_in_cache() const {
        std::size_t vectors = 0;
        for (const Layer<T>& layer : layers_) vectors = std::max(vectors, layer.image());
        const int most = std::clamp(chunk_of(vectors), 4, 256);
        return capacity_ ? std::min(capacity_, most) : most;
    }

    // Images of a network with so much of the cache for each: as many as stay in it together.
    static int chunk_of(std::size_t vectors) {
        return std::max<int>(1, int(kCacheBytes / (vectors * sizeof(V))));
    }

  private:
    int capacity_;
    std::vector<Layer<T>> layers_;
    std::vector<Activation<T>> activations_;
    std::size_t parameters_ = 0, statistics_ = 0;

    static std::ptrdiff_t weight_place(const Layer<T>& layer, int output, int input, int tap) {
        const int first = output / layer.block * layer.block, own = std::min(layer.block, layer.outputs - first);
        const int taps = layer.kernel * layer.kernel;
        return layer.weights + (std::ptrdiff_t(first) * taps + std::ptrdiff_t(tap) * own) * layer.inputs + input * own +
               (output - first);
    }

    void shape(const std::int32_t input[3]) {
        for (Layer<T>& layer : layers_) {
            activations_[layer.source].readers.push_back(int(&layer - layers_.data()));
            if (layer.kernel == 3) activations_[layer.source].border = 1;
        }
        for (std::size_t j = 0; j < activations_.size(); j++) {
            Activation<T>& own = activations_[j];
            if (j == 0) {
                own.channels = input[0];
                own.height = input[1];
                own.width = input[2];
            } else {
                const Layer<T>& term = layers_[own.term[0]];
                const Pool pool = Pool(own.pool);
                const int border = own.identity >= 0 ? activations_[own.identity].border : 0;
                own.channels = term.outputs;
                own.height = pool == Pool::average ? 1 : pool == Pool::maximum ? term.out_height / 2 : term.out_height;
                own.width = pool == Pool::average ? 1 : pool == Pool::maximum ? term.out_width / 2 : term.out_width;
                own.frame = {own.channels, term.out_height, term.out_width, own.height, own.width,
                             own.border,   border,          pool,           own.terms,  own.identity >= 0};
                own.flat = own.border == 0 && pool == Pool::none;
                for (int t = 0; t < own.terms; t++) own.flat = own.flat && layers_[own.term[t]].flat;
            }
            for (int k : own.readers) {
                Layer<T>& layer = layers_[k];
                layer.height = own.height;
                layer.width = own.width;
                layer.out_height = ceil_div(own.height, layer.stride);
                layer.out_width = ceil_div(own.width, layer.stride);
                layer.flat = layer.kernel == 1 && own.height * own.width == 1 && own.border == 0;
            }
        }
    }

    void lay_out() {
        for (Layer<T>& layer : layers_) {
            const Activation<T>& source = activations_[layer.source];
            layer.block = channel_block(layer.outputs, layer.flat ? capacity_ : layer.out_width);
            layer.weights = std::ptrdiff_t(parameters_);
            layer.offset = layer.weights + std::ptrdiff_t(layer.weight_count());
            layer.running = std::ptrdiff_t(statistics_);
            parameters_ += layer.weight_count() + layer.outputs * (layer.norm ? 2 : 1);
            statistics_ += layer.norm ? 2 * layer.outputs : 0;
            const int skipped = source.border - layer.border(), row = source.width + 2 * source.border;
            for (int y = 0; y < layer.kernel; y++)
                layer.window.add(std::ptrdiff_t((skipped + y) * row + skipped) * layer.inputs, layer.kernel, layer.inputs);
            std::ptrdiff_t turned = 0;
            for (int y = 0; y < layer.stride && layer.source > 0; y++)
                for (int x = 0; x < layer.stride; x++) {
                    Phase phase = phase_of(layer, y, x);
                    if (!phase.window.taps) continue;
                    phase.weights = turned;
                    turned += std::ptrdiff_t(phase.window.taps) * layer.inputs * layer.outputs;
                    layer.phases.push_back(phase);
                }
        }
    }

    // Inputs (y + stride m, x + stride n): padded row m + r of the outputs' gradient reaches them by the kernel's row
    // y + border - stride (r - border), if there is such a row; columns alike.
    Phase phase_of(const Layer<T>& layer, int y, int x) const {
        Phase phase{y, x, {}, {}, 0, 0};
        const int border = layer.border(), row = layer.out_width + 2 * border;
        auto tap = [&](int first, int r) { return first + border - layer.stride * (r - border); };
        auto there = [&](int t) { return t >= 0 && t < layer.kernel; };
        for (int r = 0; r < layer.kernel; r++) {
            if (!there(tap(y, r))) continue;
            int begin = -1, count = 0;
            for (int c = 0; c < layer.kernel; c++) {
                if (!there(tap(x, c))) continue;
                if (begin < 0) begin = c;
                phase.taps[phase.window.taps + count++] = tap(y, r) * layer.kernel + tap(x, c);
            }
            if (count) phase.window.add(std::ptrdiff_t(r * row + begin) * layer.outputs, count, layer.outputs);
        }
        phase.block = channel_block(layer.inputs, layer.flat ? capacity_ : ceil_div(layer.width - x, layer.stride));
        return phase;
    }

    // Which parts of an activation's gradient come first (the later are added), and which last.
    void order_gradients() {
        std::vector<char> begun(activations_.size(), 0);
        auto adds = [&](int source, int by) {
            activations_[source].last = by;
            return std::exchange(begun[source], char(1)) != 0;
        };
        head().adds = adds(head().source, int(layers_.size()) - 1);
        for (int j = int(activations_.size()) - 1; j > 0; j--) {
            Activation<T>& own = activations_[j];
            if (own.identity > 0) own.identity_adds = adds(own.identity, -j);
            for (int t = 0; t < own.terms; t++) {
                Layer<T>& layer = layers_[own.term[t]];
                layer.adds = adds(layer.source, own.term[t]);
            }
        }
    }

    void allocate(Passes passes) {
        if (passes == Passes::none) return;
        each_buffer(passes, [](Buffer<T>& buffer, std::size_t vectors) { buffer = Buffer<T>(vectors); });
        for (Layer<T>& layer : layers_)
            for (int c = 0; c < layer.outputs; c++)
                layer.scale.data()[c] = layer.deviation.data()[c] = broadcast(T(1));
    }

    // Calls body(buffer, vectors) for all memory that passes take.
    template <class Body>
    void each_buffer(Passes passes, Body body) {
        const bool backward = passes != Passes::forward;
        const std::size_t batch = capacity_;
        for (Activation<T>& own : activations_) {
            body(own.values, batch * own.image());
            if (backward && &own != activations_.data()) body(own.gradient, batch * own.gradient_image());
        }
        for (Layer<T>& layer : layers_) {
            body(layer.z, batch * layer.image());
            for (Buffer<T>* own : {&layer.scale, &layer.shift, &layer.slope, &layer.level, &layer.mean, &layer.deviation,
                                   &layer.sum, &layer.square, &layer.total, &layer.product})
                body(*own, layer.outputs);
            if (!backward) continue;
            const bool whole = layer.flat || passes == Passes::curvature;
            const std::size_t images = whole ? batch : std::min<std::size_t>(batch, chunk_of(layer.delta_image()));
            body(layer.delta, images * layer.delta_image());
            if (layer.source > 0) body(layer.turned, layer.weight_count());
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
            total[t] = layers_[activation.term[t]].total.data();
            product[t] = layers_[activation.term[t]].product.data();
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
                Layer<T>& layer = layers_[activation.term[t]];
                delta[t] = {layer.delta.data() + (image - first) * layer.delta_image(), layer.slope.data(),
                            layer.level.data(), layer.border()};
            }
            V* identity = nullptr;
            if (activation.identity > 0) {
                Activation<T>& earlier = activations_[activation.identity];
                identity = earlier.gradient.data() + image * earlier.gradient_image();
            }
            scatter(frame, terms_of(activation, image),
                    activation.gradient.data() + image * activation.gradient_image(), delta, identity,
                    activation.identity_adds);
        });
    }

    static Extent extent_of(const Layer<T>& layer, int count) {
        return layer.flat ? Extent{1, 1, count} : Extent{count, layer.out_height, layer.out_width};
    }

    void convolve(Layer<T>& layer, const V* parameters, int first, int count, const V* running) {
        const bool wanted = running && layer.norm;
        outputs_of(layer, activations_[layer.source].values, parameters, layer.z, first, count, false,
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
    void end_sums(Layer<T>& layer, int batch, V* gradients, bool moving) {
        const T count = T(batch) * layer.out_height * layer.out_width;
        for (int c = 0; c < layer.outputs; c++) {
            const V total = layer.total.data()[c], deviation = layer.deviation.data()[c];
            if (!layer.norm) {
                gradients[layer.offset + c] = total;
                continue;
            }
            const V mean = layer.mean.data()[c], scale = layer.scale.data()[c];
            const V by_scale = deviation * (layer.product.data()[c] - mean * total);
            gradients[layer.offset + c] = by_scale;
            gradients[layer.offset + layer.outputs + c] = total;
            const V slope = moving ? -scale * deviation * by_scale / count : V{};
            layer.slope.data()[c] = slope;
            layer.level.data()[c] = moving ? -scale * total / count - slope * mean : V{};
        }
    }

    // Both products of a layer's gradient of z, and the sums of the activation that it reads once that one's is whole.
    void pass_back(Layer<T>& layer, int first, int count, V* gradients) {
        Activation<T>& source = activations_[layer.source];
        weight_gradients_of(layer, source.values, layer.delta, first, count, gradients);
        if (layer.source == 0) return;
        input_gradients_of(layer, layer.turned, layer.delta, source.gradient, first, count, layer.adds);
        if (source.last == &layer - layers_.data()) sum_images(source, first, count);
    }
};

}  // namespace lanes
