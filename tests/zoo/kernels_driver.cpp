// Runs every kernel on networks read from the standard input, in memory of just the size that they may touch, so that
// sanitizers see what they should not. Each line: image (3), capacity, images, classes, layers, activations, and
// these.

#include <cstdio>
#include <cstdlib>
#include <random>

#include "lanes.cpp"

namespace {

template <class T>
std::vector<T> numbers(std::size_t count, double scale, unsigned seed) {
    std::mt19937 stream(seed);
    std::normal_distribution<double> normal(0, scale);
    std::vector<T> made(count);
    for (T& value : made) value = T(normal(stream));
    return made;
}

template <class T>
struct Columns {  // [rows][lanes], aligned as the kernels expect
    explicit Columns(std::size_t rows, double scale = 0, unsigned seed = 0) : memory(rows) {
        const auto drawn = numbers<T>(rows * lanes::kLanes<T>, scale, seed);
        std::copy(drawn.begin(), drawn.end(), reinterpret_cast<T*>(memory.data()));
    }
    lanes::Buffer<T> memory;
};

int read_integer() {
    int value;
    if (std::scanf("%d", &value) != 1) std::exit(0);  // the end
    return value;
}

template <class T>
void run(const std::vector<std::int32_t>& image, int capacity, int count, int classes,
         const std::vector<std::int32_t>& layers, const std::vector<std::int32_t>& activations) {
    constexpr int n = lanes::kLanes<T>;
    const int steps = 2;
    auto create = [&](int passes) {
        return lanes_create(sizeof(T), image.data(), layers.data(), int(layers.size() / 6), activations.data(),
                            int(activations.size() / 5), capacity, passes);
    };
    void* trained = create(1);
    void* curved = create(2);
    void* evaluated = create(0);
    if (!trained || !curved || !evaluated) std::abort();
    const std::size_t size = lanes_size(trained, 0), statistics = lanes_size(trained, 1);
    std::vector<std::int64_t> places(size);
    lanes_order(trained, places.data());
    Columns<T> parameters(size, 0.3, 1), momentum(size), running(statistics), directions(2 * size, 1, 2),
        product(size);
    Columns<T> ends(2 * size, 0.3, 3);
    for (std::size_t i = 0; i < statistics; i++) running.memory.data()[i] = lanes::broadcast(T(1));
    const auto pixels = numbers<T>(std::size_t(count) * image[0] * image[1] * image[2], 1, 4);
    std::vector<std::int64_t> labels(count), rows(std::size_t(n) * steps * capacity), all(std::size_t(n) * count);
    for (int i = 0; i < count; i++) labels[i] = i % classes;
    for (std::size_t i = 0; i < rows.size(); i++) rows[i] = std::int64_t(i * 7 % count);
    for (std::size_t i = 0; i < all.size(); i++) all[i] = std::int64_t(i % count);
    const std::vector<const void*> images(n, pixels.data());
    const std::vector<const std::int64_t*> answers(n, labels.data());
    const lanes::State state{parameters.memory.data(), momentum.memory.data(), running.memory.data()};
    const lanes::Data batches{images.data(), answers.data(), rows.data(), steps * capacity};
    const lanes::Data whole{images.data(), answers.data(), all.data(), count};
    const std::vector<double> rates(n * steps, 0.01), some(n, 0.5), shares(n * steps * 3, 0.3);
    std::vector<double> live(n, 1), losses(n * steps), sums(n);
    std::vector<std::int64_t> wrong(n * steps), errors(n);
    lanes_train(trained, state, batches, steps, capacity, rates.data(), some.data(), some.data(), live.data(),
                losses.data(), wrong.data());
    lanes_bend(trained, ends.memory.data(), state, batches, steps, capacity, shares.data(), rates.data(), 0.9, 0.01);
    lanes_recalibrate(evaluated, state, whole, count, (count + capacity - 1) / capacity);
    lanes_evaluate(evaluated, state, whole, count, sums.data(), errors.data());
    int units = 0;
    for (std::size_t j = 5; j < activations.size(); j += 5) units += layers[6 * activations[j + 2] + 2];
    const std::size_t inputs = layers[layers.size() - 5];
    Columns<T> logits(std::size_t(count) * classes), features(std::size_t(count) * inputs);
    std::vector<std::int64_t> fired(std::size_t(n) * units);
    lanes_answers(evaluated, state, whole, count, logits.memory.data(), features.memory.data(), fired.data());
    lanes_gradient(trained, state, batches, capacity, product.memory.data());
    Columns<T> forms(2 * count), traces(count);
    lanes_traces(trained, state, whole, count, traces.memory.data());
    lanes_forms(curved, state, whole, count, directions.memory.data(), 2, forms.memory.data());
    for (std::int64_t bytes : {0, 1 << 28}) {
        const std::int64_t held = lanes_hold(curved, state, whole, count, bytes);
        if (held != (bytes ? count : 0)) std::abort();
        lanes_product(curved, state, whole, count, held, directions.memory.data(), product.memory.data());
    }
    double total = 0;
    for (double sum : sums) total += sum;
    std::printf("%d %g\n", int(sizeof(T)), total);
    for (void* made : {trained, curved, evaluated}) lanes_destroy(made);
}

}  // namespace

int main() {
    for (;;) {
        std::vector<std::int32_t> image(3);
        for (auto& side : image) side = read_integer();
        const int capacity = read_integer(), count = read_integer(), classes = read_integer();
        std::vector<std::int32_t> layers(6 * read_integer());
        std::vector<std::int32_t> activations(5 * read_integer());
        for (auto& fact : layers) fact = read_integer();
        for (auto& fact : activations) fact = read_integer();
        run<float>(image, capacity, count, classes, layers, activations);
        run<double>(image, capacity, count, classes, layers, activations);
    }
}
