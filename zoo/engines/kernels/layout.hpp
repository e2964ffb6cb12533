// The layers and activations of a network of lanes: their sizes, where their numbers lie, and their memory.
//
// A network is a list of activations in the order in which they are computed; activation 0 is the image. A layer
// (convolution or linear map) reads an activation and is a term of a later one; the last layer gives the logits.
#pragma once

#include <stdexcept>
#include <vector>

#include "activation.hpp"
#include "convolution.hpp"

namespace lanes {

// What images in work may take of the second cache: the more the weights take, which pass by once for all of them.
constexpr std::size_t kLeastCacheBytes = 96 * 1024, kMostCacheBytes = 256 * 1024;

// What a network's memory is for. A backward pass keeps the gradients of z of the images in work, for curvature of
// all; `none` only computes sizes.
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
    std::ptrdiff_t weights, offset;  // among the parameters: weights; then bias, or weight and bias of the norm
    std::ptrdiff_t running;          // among the running statistics, if it has a norm
    Window window;
    std::vector<Phase> phases;
    bool adds = false;  // whether the source's gradient has begun when this layer's part comes

    Buffer<T> z, turned;
    Buffer<T> scale, shift, slope, level;                    // y = scale z + shift; dz = scale dy + slope z + level
    Buffer<T> mean, deviation, sum, square, total, product;  // deviation: 1 / sqrt(variance + epsilon)
    Buffer<T> delta;  // gradient of z: of the images in work, or of all if flat

    int border() const { return kernel / 2; }
    std::size_t weight_count() const { return std::size_t(kernel) * kernel * inputs * outputs; }
    std::size_t image() const { return std::size_t(out_height) * out_width * pitch(); }
    std::size_t delta_image() const {
        return std::size_t(out_height + 2 * border()) * (out_width + 2 * border()) * pitch();
    }
    int pitch() const { return pitch_of<V>(outputs); }
    Steps z_steps() const { return {pitch(), std::ptrdiff_t(out_width) * pitch(), std::ptrdiff_t(image())}; }
    Steps delta_steps() const {
        return {pitch(), std::ptrdiff_t(out_width + 2 * border()) * pitch(), std::ptrdiff_t(delta_image())};
    }
    std::ptrdiff_t delta_start() const { return border() * (out_width + 2 * border() + 1) * pitch(); }
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

    std::size_t image() const { return std::size_t(height + 2 * border) * (width + 2 * border) * pitch(); }
    std::size_t gradient_image() const { return std::size_t(height) * width * pitch(); }
    int pitch() const { return pitch_of<Vector<T>>(channels); }
    Steps steps(int stride) const {
        const std::ptrdiff_t row = std::ptrdiff_t(width + 2 * border) * pitch();
        return {std::ptrdiff_t(stride) * pitch(), stride * row, std::ptrdiff_t(image())};
    }
};

template <class T>
class Layout {
  public:
    using V = Vector<T>;

    // `input`: channels, height and width of an image; `capacity`: images of a pass at most, 0 for as many as stay in
    // the cache from one layer to the next.
    Layout(const std::int32_t input[3], const std::vector<LayerSpec>& layer_specs,
           const std::vector<ActivationSpec>& activation_specs, int capacity, Passes passes)
        : capacity(capacity), layers(layer_specs.size()), activations(activation_specs.size()) {
        for (std::size_t j = 0; j < activations.size(); j++)
            static_cast<ActivationSpec&>(activations[j]) = activation_specs[j];
        for (std::size_t k = 0; k < layers.size(); k++) static_cast<LayerSpec&>(layers[k]) = layer_specs[k];
        shape(input);
        if (!head().flat) throw std::invalid_argument("the last layer has to be a linear map");
        if (this->capacity == 0) this->capacity = images_in_cache();
        lay_out();
        order_gradients();
        allocate(passes);
    }

    int capacity;
    std::vector<Layer<T>> layers;
    std::vector<Activation<T>> activations;
    std::size_t parameters = 0, statistics = 0;  // of a model

    Layer<T>& head() { return layers.back(); }
    const Layer<T>& head() const { return layers.back(); }

    // Memory that so many passes take, in bytes.
    std::size_t bytes(Passes passes) {
        std::size_t vectors = passes == Passes::backward ? parameters : 0;  // gradients
        each_buffer(passes, [&](Buffer<T>&, std::size_t own) { vectors += own; });
        return vectors * sizeof(V);
    }

    // Place of each parameter in the usual order: layer by layer weights [output][input][row][column], then weight
    // and bias of the norm, or the bias.
    void order(std::int64_t* places) const {
        std::int64_t start = 0;
        for (const Layer<T>& layer : layers) {
            const int taps = layer.kernel * layer.kernel;
            for (int o = 0; o < layer.outputs; o++)
                for (int i = 0; i < layer.inputs; i++)
                    for (int t = 0; t < taps; t++)
                        places[weight_place(layer, o, i, t)] =
                            start + (std::int64_t(o) * layer.inputs + i) * taps + t;
            start += layer.weight_count();
            const int rest = layer.outputs * (layer.norm ? 2 : 1);
            for (int c = 0; c < rest; c++) places[layer.offset + c] = start + c;
            start += rest;
        }
    }

    // Images of a pass that nothing makes larger, a few hundred at most.
    int images_in_cache() const {
        std::size_t vectors = 0;
        for (const Layer<T>& layer : layers) vectors = std::max(vectors, layer.image());
        const int most = std::clamp(chunk_of(vectors), 4, 256);
        return capacity ? std::min(capacity, most) : most;
    }

    // Images that pass forward together from an activation to the layers that read it.
    int chunk_of(const Activation<T>& activation) const {
        std::size_t weights = 0;
        for (int k : activation.readers) weights = std::max(weights, layers[k].weight_count());
        return chunk_of(activation.image(), weights);
    }

    // Images that pass back together through a layer.
    static int chunk_of(const Layer<T>& layer) { return chunk_of(layer.delta_image(), layer.weight_count()); }

    // Weights in the order in which the gradients of the inputs take them.
    template <class W>
    static void turn(const Layer<T>& layer, const W* parameters, W* turned) {
        for (const Phase& phase : layer.phases) {
            W* out = turned + phase.weights;
            for (int first = 0; first < layer.inputs; first += phase.block) {
                const int own = std::min(phase.block, layer.inputs - first);
                for (int t = 0; t < phase.window.taps; t++)
                    for (int o = 0; o < layer.outputs; o++)
                        for (int i = 0; i < own; i++)
                            *out++ = parameters[weight_place(layer, o, first + i, phase.taps[t])];
            }
        }
    }

  private:
    // Images that stay in the cache together; sizes in vectors.
    static int chunk_of(std::size_t image, std::size_t weights = 0) {
        const std::size_t bytes = std::clamp(weights * sizeof(V), kLeastCacheBytes, kMostCacheBytes);
        return std::max<int>(1, int(bytes / (image * sizeof(V))));
    }

    static std::ptrdiff_t weight_place(const Layer<T>& layer, int output, int input, int tap) {
        const int first = output / layer.block * layer.block, own = std::min(layer.block, layer.outputs - first);
        const int taps = layer.kernel * layer.kernel;
        return layer.weights + (std::ptrdiff_t(first) * taps + std::ptrdiff_t(tap) * own) * layer.inputs +
               input * own + (output - first);
    }

    void shape(const std::int32_t input[3]) {
        for (Layer<T>& layer : layers) {
            activations[layer.source].readers.push_back(int(&layer - layers.data()));
            if (layer.kernel == 3) activations[layer.source].border = 1;
        }
        for (std::size_t j = 0; j < activations.size(); j++) {
            Activation<T>& own = activations[j];
            if (j == 0) {
                own.channels = input[0];
                own.height = input[1];
                own.width = input[2];
            } else {
                const Layer<T>& term = layers[own.term[0]];
                const Pool pool = Pool(own.pool);
                const int border = own.identity >= 0 ? activations[own.identity].border : 0;
                own.channels = term.outputs;
                own.height = pool == Pool::average   ? 1
                             : pool == Pool::maximum ? term.out_height / 2
                                                     : term.out_height;
                own.width = pool == Pool::average ? 1 : pool == Pool::maximum ? term.out_width / 2 : term.out_width;
                own.frame = {own.channels, own.pitch(), term.out_height,  term.out_width,
                             own.height,   own.width,   own.border,       border,
                             pool,         own.terms,   own.identity >= 0};
                own.flat = own.border == 0 && pool == Pool::none;
                for (int t = 0; t < own.terms; t++) own.flat = own.flat && layers[own.term[t]].flat;
            }
            for (int k : own.readers) {
                Layer<T>& layer = layers[k];
                layer.height = own.height;
                layer.width = own.width;
                layer.out_height = ceil_div(own.height, layer.stride);
                layer.out_width = ceil_div(own.width, layer.stride);
                layer.flat = layer.kernel == 1 && own.height * own.width == 1 && own.border == 0;
            }
        }
    }

    void lay_out() {
        for (Layer<T>& layer : layers) {
            const Activation<T>& source = activations[layer.source];
            layer.block = channel_block(layer.outputs, layer.flat ? capacity : layer.out_width);
            layer.weights = std::ptrdiff_t(parameters);
            layer.offset = layer.weights + std::ptrdiff_t(layer.weight_count());
            layer.running = std::ptrdiff_t(statistics);
            parameters += layer.weight_count() + layer.outputs * (layer.norm ? 2 : 1);
            statistics += layer.norm ? 2 * layer.outputs : 0;
            const int skipped = source.border - layer.border(), row = source.width + 2 * source.border;
            for (int y = 0; y < layer.kernel; y++)
                layer.window.add(std::ptrdiff_t((skipped + y) * row + skipped) * source.pitch(), layer.kernel,
                                 layer.inputs, source.pitch());
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
            if (count)
                phase.window.add(std::ptrdiff_t(r * row + begin) * layer.pitch(), count, layer.outputs,
                                 layer.pitch());
        }
        phase.block = channel_block(layer.inputs, layer.flat ? capacity : ceil_div(layer.width - x, layer.stride));
        return phase;
    }

    // Which parts of an activation's gradient come first (the later are added), and which last.
    void order_gradients() {
        std::vector<char> begun(activations.size(), 0);
        auto adds = [&](int source, int by) {
            activations[source].last = by;
            return std::exchange(begun[source], char(1)) != 0;
        };
        head().adds = adds(head().source, int(layers.size()) - 1);
        for (int j = int(activations.size()) - 1; j > 0; j--) {
            Activation<T>& own = activations[j];
            if (own.identity > 0) own.identity_adds = adds(own.identity, -j);
            for (int t = 0; t < own.terms; t++) {
                Layer<T>& layer = layers[own.term[t]];
                layer.adds = adds(layer.source, own.term[t]);
            }
        }
    }

    void allocate(Passes passes) {
        if (passes == Passes::none) return;
        each_buffer(passes, [](Buffer<T>& buffer, std::size_t vectors) { buffer = Buffer<T>(vectors); });
        for (Layer<T>& layer : layers)
            for (int c = 0; c < layer.outputs; c++)
                layer.scale.data()[c] = layer.deviation.data()[c] = broadcast(T(1));
    }

    // Calls body(buffer, vectors) for all memory that passes take.
    template <class Body>
    void each_buffer(Passes passes, Body body) {
        const bool backward = passes != Passes::forward;
        const std::size_t batch = capacity;
        for (Activation<T>& own : activations) {
            body(own.values, batch * own.image());
            if (backward && &own != activations.data()) body(own.gradient, batch * own.gradient_image());
        }
        for (Layer<T>& layer : layers) {
            body(layer.z, batch * layer.image());
            for (Buffer<T>* own : {&layer.scale, &layer.shift, &layer.slope, &layer.level, &layer.mean,
                                   &layer.deviation, &layer.sum, &layer.square, &layer.total, &layer.product})
                body(*own, layer.outputs);
            if (!backward) continue;
            const bool whole = layer.flat || passes == Passes::curvature;
            const std::size_t images = whole ? batch : std::min<std::size_t>(batch, chunk_of(layer));
            body(layer.delta, images * layer.delta_image());
            if (layer.source > 0) body(layer.turned, layer.weight_count());
        }
    }
};

}  // namespace lanes
