// What Python calls: stacks of networks in training, in evaluation, and their curvature. One thread, no global state.
//
// Memory that outlives a call is the caller's, laid out [parameter][lane] and aligned to 64 bytes; a network keeps
// only what it computes. Each function exists for single and double precision; `bytes` says which.

#include <array>
#include <functional>
#include <memory>

#include "hessian_forms.hpp"
#include "hessian_product.hpp"

namespace lanes {

extern "C" {
// What a lane's numbers are read from: for each lane its images and labels; rows[lane * stride + b] is its image b.
struct Data {
    const void* const* images;
    const std::int64_t* const* labels;
    const std::int64_t* rows;
    std::int64_t stride;
};

// What a network in training goes on from, [.][lane].
struct State {
    void* parameters;
    void* momentum;
    void* running;
};
}

template <class T>
constexpr T kMomentum = T(0.1);  // of running statistics, PyTorch's

class Lanes {
  public:
    virtual ~Lanes() = default;
    virtual std::int64_t size(int what) const = 0;
    virtual std::size_t bytes(Passes passes) = 0;
    virtual void order(std::int64_t* places) const = 0;
    virtual void train(State state, Data data, int steps, int batch, const double* rates, const double* momenta,
                       const double* decays, double* live, double* losses, std::int64_t* wrong) = 0;
    virtual void evaluate(State state, Data data, std::int64_t images, double* losses, std::int64_t* wrong) = 0;
    virtual void answers(State state, Data data, std::int64_t images, void* logits, void* features,
                         std::int64_t* fired) = 0;
    virtual void recalibrate(State state, Data data, std::int64_t images, std::int64_t batches) = 0;
    virtual void bend(const void* ends, State state, Data data, int steps, int batch, const double* shares,
                      const double* rates, double momentum, double decay) = 0;
    virtual void gradient(State state, Data data, int batch, void* gradient) = 0;
    virtual void traces(State state, Data data, std::int64_t images, void* traces) = 0;
    virtual void forms(State state, Data data, std::int64_t images, const void* directions, int groups,
                       void* forms) = 0;
    virtual std::int64_t hold(State state, Data data, std::int64_t images, std::int64_t bytes) = 0;
    virtual void product(State state, Data data, std::int64_t images, std::int64_t held, const void* direction,
                         void* product) = 0;
};

template <class T>
class LanesOf final : public Lanes {
  public:
    using V = Vector<T>;
    static constexpr int n = kLanes<T>;

    LanesOf(const std::int32_t* input, const std::int32_t* layers, int layer_count, const std::int32_t* activations,
            int activation_count, int capacity, Passes passes)
        : network_(Layout<T>(input, records<LayerSpec>(layers, layer_count),
                             records<ActivationSpec>(activations, activation_count), capacity, passes)),
          gradients_(passes == Passes::backward ? network_.layout().parameters : 0),
          made_([=, sides = std::array<std::int32_t, 3>{input[0], input[1], input[2]},
                 layer_specs = records<LayerSpec>(layers, layer_count),
                 activation_specs = records<ActivationSpec>(activations, activation_count)] {
              return Layout<T>(sides.data(), layer_specs, activation_specs, capacity, passes);
          }) {}

    std::int64_t size(int what) const override {
        return what ? network_.layout().statistics : network_.layout().parameters;
    }

    std::size_t bytes(Passes passes) override { return network_.layout().bytes(passes); }

    void order(std::int64_t* places) const override { network_.layout().order(places); }

    // SGD with momentum and weight decay, as torch.optim.SGD; `rates` and `losses` are [lane][step], `live` is 0 for
    // a lane that stays as it is. A lane whose loss is not finite stops there, with NaN as its loss.
    void train(State state, Data data, int steps, int batch, const double* rates, const double* momenta,
               const double* decays, double* live, double* losses, std::int64_t* wrong) override {
        V* parameters = static_cast<V*>(state.parameters);
        V* velocity = static_cast<V*>(state.momentum);
        const V decay = gather(decays, 1), inertia = gather(momenta, 1);
        for (int step = 0; step < steps; step++) {
            const V alive = gather(live, 1);
            const std::int64_t* rows = data.rows + std::int64_t(step) * batch;
            network_.read(images(data), rows, data.stride, batch);
            network_.forward(batch, parameters, static_cast<V*>(state.running), alive * kMomentum<T>);
            T sums[n];
            std::int64_t errors[n];
            network_.loss(batch, data.labels, rows, data.stride, sums, errors, true);
            network_.turn(parameters);
            network_.backward(batch, gradients_.data());
            descend(parameters, velocity, gather(rates + step, steps) * alive, inertia, decay);
            bool any = false;
            for (int lane = 0; lane < n; lane++) {
                const bool finite = std::isfinite(sums[lane]) && live[lane] != 0;
                losses[lane * steps + step] = finite ? double(sums[lane]) / batch : std::nan("");
                wrong[lane * steps + step] = finite ? errors[lane] : 0;
                live[lane] = finite ? live[lane] : 0;
                any = any || live[lane] != 0;
            }
            if (any) continue;
            for (int lane = 0; lane < n; lane++)
                for (int left = step + 1; left < steps; left++) {
                    losses[lane * steps + left] = std::nan("");
                    wrong[lane * steps + left] = 0;
                }
            return;
        }
    }

    // Loss summed over so many images, and misclassified ones, with the running statistics.
    void evaluate(State state, Data data, std::int64_t count, double* losses, std::int64_t* wrong) override {
        network_.fix(static_cast<V*>(state.parameters), static_cast<V*>(state.running));
        for (int lane = 0; lane < n; lane++) losses[lane] = wrong[lane] = 0;
        each_batch(static_cast<V*>(state.parameters), data, count, [&](std::int64_t first, int batch) {
            T sums[n];
            std::int64_t errors[n];
            network_.loss(batch, data.labels, data.rows + first, data.stride, sums, errors, false);
            for (int lane = 0; lane < n; lane++) {
                losses[lane] += sums[lane];
                wrong[lane] += errors[lane];
            }
        });
    }

    // Logits of each lane's images, [image][class][lane], with the running statistics, of a model whose weights the
    // lanes share; what the last layer reads of the images, [image][input][lane]; and how often each unit of each
    // ReLU was above zero, [unit][lane].
    void answers(State state, Data data, std::int64_t count, void* logits, void* features,
                 std::int64_t* fired) override {
        const V* parameters = static_cast<V*>(state.parameters);
        network_.fix(parameters, static_cast<V*>(state.running));
        std::vector<T> weights(network_.layout().parameters);
        take_shared(parameters, weights);
        const Layer<T>& head = network_.layout().head();
        const Activation<T>& source = network_.layout().activations[head.source];
        std::size_t units = 0;
        for (const Activation<T>& own : network_.layout().activations) units += own.channels;
        units -= network_.layout().activations[0].channels;
        Buffer<T> counts(units);
        std::fill(fired, fired + units * n, 0);
        each_batch(weights.data(), data, count, [&](std::int64_t first, int batch) {
            V *z = static_cast<V*>(logits) + first * head.outputs,
              *x = static_cast<V*>(features) + first * head.inputs;
            for (int b = 0; b < batch; b++) {
                for (int c = 0; c < head.outputs; c++)
                    *z++ = head.z.data()[b * head.image() + c] + head.shift.data()[c];
                std::copy_n(source.values.data() + b * source.image(), head.inputs, x + b * head.inputs);
            }
            counts.clear();
            network_.count_fired(batch, counts.data());
            for (std::size_t unit = 0; unit < units; unit++)
                for (int lane = 0; lane < n; lane++)
                    fired[unit * n + lane] += std::int64_t(counts.data()[unit][lane]);
        });
    }

    // Running statistics as the average of so many batches of equal size, each weighing as much as it has images.
    void recalibrate(State state, Data data, std::int64_t count, std::int64_t batches) override {
        std::int64_t seen = 0;
        for (std::int64_t k = 0; k < batches; k++) {
            // As torch.tensor_split: the first batches take what is left over.
            const std::int64_t batch = count / batches + (k < count % batches ? 1 : 0);
            network_.read(images(data), data.rows + seen, data.stride, int(batch));
            seen += batch;
            network_.forward(int(batch), static_cast<V*>(state.parameters), static_cast<V*>(state.running),
                             broadcast(T(batch) / T(seen)));
        }
    }

    // SGD of the bend of a path from one model to another at given points of it (Garipov et al., NeurIPS 2018):
    // `ends` are start and end, `shares` [lane][step][start, bend, end], `rates` [step]. Weight decay is of the
    // path's weights.
    void bend(const void* ends, State state, Data data, int steps, int batch, const double* shares,
              const double* rates, double momentum, double decay) override {
        const std::size_t size = network_.layout().parameters;
        const V *start = static_cast<const V*>(ends), *end = start + size;
        V *middle = static_cast<V*>(state.parameters), *velocity = static_cast<V*>(state.momentum);
        Buffer<T> weights(size), running(network_.layout().statistics);
        for (int step = 0; step < steps; step++) {
            const double* own = shares + std::ptrdiff_t(step) * 3;
            const std::ptrdiff_t lane = std::ptrdiff_t(steps) * 3;
            const V first = gather(own, lane), share = gather(own + 1, lane), last = gather(own + 2, lane);
            V* w = weights.data();
            for (std::size_t i = 0; i < size; i++) w[i] = first * start[i] + share * middle[i] + last * end[i];
            const std::int64_t* rows = data.rows + std::int64_t(step) * batch;
            network_.read(images(data), rows, data.stride, batch);
            network_.forward(batch, w, running.data(), broadcast(kMomentum<T>));
            T sums[n];
            std::int64_t errors[n];
            network_.loss(batch, data.labels, rows, data.stride, sums, errors, true);
            network_.turn(w);
            network_.backward(batch, gradients_.data());
            const V* gradients = gradients_.data();
            for (std::size_t i = 0; i < size; i++) {
                velocity[i] = T(momentum) * velocity[i] + share * (gradients[i] + T(decay) * w[i]);
                middle[i] -= T(rates[step]) * velocity[i];
            }
        }
    }

    // Gradient of each lane's mean loss over its own batch, [parameter][lane], with the running statistics.
    void gradient(State state, Data data, int batch, void* gradient) override {
        const V* parameters = static_cast<V*>(state.parameters);
        network_.fix(parameters, static_cast<V*>(state.running));
        network_.read(images(data), data.rows, data.stride, batch);
        network_.forward(batch, parameters);
        T sums[n];
        std::int64_t errors[n];
        network_.loss(batch, data.labels, data.rows, data.stride, sums, errors, true);
        network_.turn(parameters);
        network_.backward(batch, static_cast<V*>(gradient), false);
    }

    // Trace of the Gauss-Newton matrix of the loss of each of so many images a lane, [image][lane], with the running
    // statistics. With softmax outputs p it is J' (diag(p) - p p') J = sum over classes k of p_k g_k g_k', where g_k
    // is the gradient of the logit of class k less that of all logits weighted by p.
    void traces(State state, Data data, std::int64_t count, void* traces) override {
        const V* parameters = static_cast<V*>(state.parameters);
        network_.fix(parameters, static_cast<V*>(state.running));
        network_.turn(parameters);
        Layer<T>& head = network_.layout().head();
        V* delta = head.delta.data();
        Buffer<T> shares(head.outputs);
        for (std::int64_t b = 0; b < count; b++) {
            network_.read(images(data), data.rows + b, data.stride, 1);
            network_.forward(1, parameters);
            const V sum = network_.exponentials(0, shares.data());
            V total = V{};
            for (int c = 0; c < head.outputs; c++) shares.data()[c] = shares.data()[c] / sum;
            for (int k = 0; k < head.outputs; k++) {
                const V root = square_root<T>(shares.data()[k]);
                for (int c = 0; c < head.outputs; c++) delta[c] = root * (T(c == k) - shares.data()[c]);
                total += network_.squared_gradient();
            }
            static_cast<V*>(traces)[b] = total;
        }
    }

    // v'Hv of each image along each of so many directions a lane, [direction][parameter][lane], with the running
    // statistics, of a model whose weights and images the lanes share; [direction][image][lane].
    void forms(State state, Data data, std::int64_t count, const void* directions, int groups, void* forms) override {
        if (!forms_) forms_ = std::make_unique<HessianForms<T>>(network_);
        const V* parameters = static_cast<V*>(state.parameters);
        network_.fix(parameters, static_cast<V*>(state.running));
        forms_->at(parameters);
        for (std::int64_t first = 0; first < count; first += n) {
            const int own = int(std::min<std::int64_t>(n, count - first));
            std::int64_t rows[n], labels[n];
            for (int image = 0; image < n; image++) {
                rows[image] = data.rows[first + std::min(image, own - 1)];
                labels[image] = data.labels[0][rows[image]];
            }
            network_.read(images(data), rows, 1, 1);
            network_.forward(1, parameters);
            forms_->pass_back(labels);
            for (int group = 0; group < groups; group++) {
                V found[n];
                forms_->forms(static_cast<const V*>(directions) + group * network_.layout().parameters, found);
                std::copy(found, found + own, static_cast<V*>(forms) + group * count + first);
            }
        }
    }

    // Passes the first of each lane's images forward and back, and keeps what comes of it for products, in so much
    // memory; gives the number of these images.
    std::int64_t hold(State state, Data data, std::int64_t count, std::int64_t bytes) override {
        begin_products(state);
        held_.clear();
        const int most = network_.layout().images_in_cache();
        const std::int64_t networks = bytes / std::int64_t(network_.layout().bytes(Passes::curvature));
        std::int64_t first = 0;
        for (; first < count && std::int64_t(held_.size()) < networks; first += most) {
            held_.push_back(std::make_unique<Network<T>>(made_()));
            held_.back()->fix(static_cast<V*>(state.parameters), static_cast<V*>(state.running));
            ready(*held_.back(), data, first, int(std::min<std::int64_t>(most, count - first)));
        }
        return std::min(first, count);
    }

    // Hv of the loss summed over each lane's images, [parameter][lane], with the running statistics, of a model whose
    // weights the lanes share. Of the images the first may be held.
    void product(State state, Data data, std::int64_t count, std::int64_t held, const void* direction,
                 void* product) override {
        begin_products(state);
        product_->aim(network_.layout(), static_cast<const V*>(direction));
        V* out = static_cast<V*>(product);
        std::memset(static_cast<void*>(out), 0, network_.layout().parameters * sizeof(V));
        const int most = network_.layout().images_in_cache();
        for (std::int64_t first = 0; first < count; first += most) {
            const int batch = int(std::min<std::int64_t>(most, count - first));
            if (first >= held) ready(network_, data, first, batch);
            product_->product(first < held ? *held_[first / most] : network_, batch, out);
        }
    }

  private:
    Network<T> network_;
    Buffer<T> gradients_;
    std::unique_ptr<HessianForms<T>> forms_;  // made when they are asked for
    std::unique_ptr<HessianProduct<T>> product_;
    std::function<Layout<T>()> made_;                // another of the same network
    std::vector<std::unique_ptr<Network<T>>> held_;  // a batch in each, ready for products

    void begin_products(State state) {
        if (!product_) product_ = std::make_unique<HessianProduct<T>>(network_.layout());
        const V* parameters = static_cast<V*>(state.parameters);
        network_.fix(parameters, static_cast<V*>(state.running));
        product_->at(network_.layout(), parameters);
    }

    // Reads a batch and passes it forward and back.
    void ready(Network<T>& network, Data data, std::int64_t first, int batch) {
        network.read(images(data), data.rows + first, data.stride, batch);
        network.forward(batch, product_->weights());
        product_->pass_back(network, batch, data.labels, data.rows + first, data.stride);
    }

    // Reads so many images, as many at a time as a pass holds, passes them forward, and calls body(first, count).
    template <class W, class Body>
    void each_batch(const W* parameters, Data data, std::int64_t count, Body body) {
        const int most = network_.layout().images_in_cache();
        for (std::int64_t first = 0; first < count; first += most) {
            const int batch = int(std::min<std::int64_t>(most, count - first));
            network_.read(images(data), data.rows + first, data.stride, batch);
            network_.forward(batch, parameters);
            body(first, batch);
        }
    }

    template <class Record>
    static std::vector<Record> records(const std::int32_t* from, int count) {
        const Record* first = reinterpret_cast<const Record*>(from);
        return {first, first + count};
    }

    static const T* const* images(const Data& data) { return reinterpret_cast<const T* const*>(data.images); }

    static V gather(const double* from, std::int64_t step) {
        V values;
        for (int lane = 0; lane < n; lane++) values[lane] = T(from[lane * step]);
        return values;
    }

    void descend(V* parameters, V* velocity, V rate, V momentum, V decay) {
        const V* gradients = gradients_.data();
        for (std::size_t i = 0; i < network_.layout().parameters; i++) {
            velocity[i] = momentum * velocity[i] + (gradients[i] + decay * parameters[i]);
            parameters[i] -= rate * velocity[i];
        }
    }
};

std::unique_ptr<Lanes> create(int bytes, const std::int32_t* input, const std::int32_t* layers, int layer_count,
                              const std::int32_t* activations, int activation_count, int capacity, Passes passes) {
    if (bytes == sizeof(float))
        return std::make_unique<LanesOf<float>>(input, layers, layer_count, activations, activation_count, capacity,
                                                passes);
    return std::make_unique<LanesOf<double>>(input, layers, layer_count, activations, activation_count, capacity,
                                             passes);
}

}  // namespace lanes

using lanes::Data;
using lanes::Lanes;
using lanes::Passes;
using lanes::State;

extern "C" {

int lanes_count(int bytes) {
    return lanes::kRegisterBytes / bytes;
}

// Null if there is no memory for it, or no such network.
void* lanes_create(int bytes, const std::int32_t* input, const std::int32_t* layers, int layer_count,
                   const std::int32_t* activations, int activation_count, int capacity, int passes) {
    try {
        return lanes::create(bytes, input, layers, layer_count, activations, activation_count, capacity,
                             Passes(passes))
            .release();
    } catch (const std::exception&) {
        return nullptr;
    }
}

// Memory that such a network takes, without taking it; negative if there is none such.
std::int64_t lanes_bytes(int bytes, const std::int32_t* input, const std::int32_t* layers, int layer_count,
                         const std::int32_t* activations, int activation_count, int capacity, int passes) {
    try {
        return std::int64_t(
            lanes::create(bytes, input, layers, layer_count, activations, activation_count, capacity, Passes::none)
                ->bytes(Passes(passes)));
    } catch (const std::exception&) {
        return -1;
    }
}

void lanes_destroy(void* made) {
    delete static_cast<Lanes*>(made);
}

std::int64_t lanes_size(void* made, int what) {
    return static_cast<Lanes*>(made)->size(what);
}

void lanes_order(void* made, std::int64_t* places) {
    static_cast<Lanes*>(made)->order(places);
}

void lanes_train(void* made, State state, Data data, int steps, int batch, const double* rates, const double* momenta,
                 const double* decays, double* live, double* losses, std::int64_t* wrong) {
    static_cast<Lanes*>(made)->train(state, data, steps, batch, rates, momenta, decays, live, losses, wrong);
}

void lanes_evaluate(void* made, State state, Data data, std::int64_t images, double* losses, std::int64_t* wrong) {
    static_cast<Lanes*>(made)->evaluate(state, data, images, losses, wrong);
}

void lanes_answers(void* made, State state, Data data, std::int64_t images, void* logits, void* features,
                   std::int64_t* fired) {
    static_cast<Lanes*>(made)->answers(state, data, images, logits, features, fired);
}

void lanes_bend(void* made, const void* ends, State state, Data data, int steps, int batch, const double* shares,
                const double* rates, double momentum, double decay) {
    static_cast<Lanes*>(made)->bend(ends, state, data, steps, batch, shares, rates, momentum, decay);
}

void lanes_gradient(void* made, State state, Data data, int batch, void* gradient) {
    static_cast<Lanes*>(made)->gradient(state, data, batch, gradient);
}

void lanes_traces(void* made, State state, Data data, std::int64_t images, void* traces) {
    static_cast<Lanes*>(made)->traces(state, data, images, traces);
}

void lanes_forms(void* made, State state, Data data, std::int64_t images, const void* directions, int groups,
                 void* forms) {
    static_cast<Lanes*>(made)->forms(state, data, images, directions, groups, forms);
}

// Images of each lane that are held; negative if there is no memory for them.
std::int64_t lanes_hold(void* made, State state, Data data, std::int64_t images, std::int64_t bytes) {
    try {
        return static_cast<Lanes*>(made)->hold(state, data, images, bytes);
    } catch (const std::exception&) {
        return -1;
    }
}

void lanes_product(void* made, State state, Data data, std::int64_t images, std::int64_t held, const void* direction,
                   void* product) {
    static_cast<Lanes*>(made)->product(state, data, images, held, direction, product);
}

void lanes_recalibrate(void* made, State state, Data data, std::int64_t images, std::int64_t batches) {
    static_cast<Lanes*>(made)->recalibrate(state, data, images, batches);
}
}
