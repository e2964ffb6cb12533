// One register of numbers, of which every lane belongs to another model.
//
// The arithmetic of K models in training is the same for all of them and their numbers differ: so model k is lane k
// of every vector, memory is laid out [...][lane], and no instruction ever moves a number from one lane to another
// but where images come in. Vectors are the compilers' own (GCC and Clang, vector_size), as wide as a register of the
// instruction set that this file is compiled for.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <type_traits>
#include <utility>

namespace lanes {

#if defined(__AVX512F__)
constexpr int kRegisterBytes = 64;
#elif defined(__AVX__)
constexpr int kRegisterBytes = 32;
#else  // NEON and SSE
constexpr int kRegisterBytes = 16;
#endif

template <class T>
constexpr int kLanes = kRegisterBytes / sizeof(T);

template <class T>
struct VectorOf {
    typedef T type __attribute__((vector_size(kRegisterBytes)));
};

template <class T>
using Vector = typename VectorOf<T>::type;

// Signed integers as wide as T: what comparisons give, and what exponents are made of.
template <class T>
struct IntegerOf;
template <>
struct IntegerOf<float> {
    using type = std::int32_t;
};
template <>
struct IntegerOf<double> {
    using type = std::int64_t;
};
template <class T>
using Mask = typename VectorOf<typename IntegerOf<T>::type>::type;

template <class V>
using Element = std::decay_t<decltype(V{}[0])>;

template <class T>
inline Vector<T> broadcast(T value) {
    return value - Vector<T>{};
}

// A number of each lane, or one that all lanes share: what `From` points to, a vector or a single number.
template <class V, class From>
[[gnu::always_inline]] inline V spread(const From* at) {
    if constexpr (std::is_same_v<From, V>)
        return *at;
    else
        return broadcast(*at);
}

// Keeps a number in a register from here on. Compilers would rather read it again from memory with each multiply-add,
// which then waits for its two loads a cycle.
template <class V>
[[gnu::always_inline]] inline void hold(V& value) {
#if defined(__x86_64__)
    asm("" : "+v"(value));
#elif defined(__aarch64__)
    asm("" : "+w"(value));
#endif
}

// From a channel to the next. Numbers that lanes share are those of one lane among vectors of others: a network whose
// lanes are images gives to one whose lanes are directions.
template <class V, class From>
constexpr int kStride = std::is_same_v<From, V> ? 1 : int(sizeof(V) / sizeof(From));

template <class V>
inline V larger(V a, V b) {
    return a > b ? a : b;
}

// Zero where the gate is closed: the ReLU's derivative times a gradient. A NaN closes it, as in PyTorch.
template <class V>
inline V gated(V gate, V value) {
    return gate > V{} ? value : V{};
}

// max(x, 0) that lets NaN through, so that a lane that diverged says so.
template <class V>
inline V relu(V x) {
    return x < V{} ? V{} : x;
}

template <class T>
inline Vector<T> square_root(Vector<T> x) {
    Vector<T> root = x;
    for (int lane = 0; lane < kLanes<T>; lane++) root[lane] = std::sqrt(x[lane]);
    return root;
}

// exp(x) for x <= 0; in double by the library's, which checks the other.
inline Vector<double> exponential(Vector<double> x) {
    Vector<double> result = x;
    for (int lane = 0; lane < kLanes<double>; lane++) result[lane] = std::exp(x[lane]);
    return result;
}

// exp(x) for x <= 0 within 2 units in the last place: x = n ln 2 + r with |r| <= ln 2 / 2, the polynomial of Cephes
// (Moshier, 1992) for exp(r), and n added to the exponent. Below -87 it is 0 (the smallest normal number is e^-87.3).
inline Vector<float> exponential(Vector<float> x) {
    const Vector<float> clamped = x < -87.0f ? broadcast(-87.0f) : x;
    const float shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer
    const Vector<float> n = (clamped * 1.44269504088896341f + shift) - shift;
    const Vector<float> r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
    Vector<float> p = broadcast(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    const Vector<float> fraction = p * (r * r) + r + 1.0f;
    const Vector<float> finite = n == n ? n : Vector<float>{};  // no integer is made of NaN
    const Mask<float> exponent = (__builtin_convertvector(finite, Mask<float>) + 127) << 23;
    const Vector<float> result = fraction * (Vector<float>)exponent;  // the same bits
    return x < -87.0f ? Vector<float>{} : result;
}

namespace detail {

// One of the two rows that come of exchanging the off-diagonal blocks of rows a and b: see `transpose`.
template <int Step, bool Upper, int... I, class V>
inline V exchanged(V a, V b, std::integer_sequence<int, I...>) {
    constexpr int n = sizeof...(I);
    return Upper ? __builtin_shufflevector(a, b, ((I & Step) ? n + I : I + Step)...)
                 : __builtin_shufflevector(a, b, ((I & Step) ? n + I - Step : I)...);
}

template <class T, int Step>
inline void transpose_step(Vector<T>* rows) {
    constexpr int n = kLanes<T>;
    if constexpr (Step > 0) {
#pragma GCC unroll 16
        for (int i = 0; i < n; i++) {
            if (i & Step) continue;
            const Vector<T> a = rows[i], b = rows[i + Step];
            rows[i] = exchanged<Step, false>(a, b, std::make_integer_sequence<int, n>{});
            rows[i + Step] = exchanged<Step, true>(a, b, std::make_integer_sequence<int, n>{});
        }
        transpose_step<T, Step / 2>(rows);
    }
}

}  // namespace detail

// Rows become columns, by exchanging ever smaller blocks; as many rows as lanes.
template <class T>
inline void transpose(Vector<T>* rows) {
    detail::transpose_step<T, kLanes<T> / 2>(rows);
}

template <class T>
inline Vector<T> load_unaligned(const T* from) {
    Vector<T> value;
    __builtin_memcpy(&value, from, sizeof value);
    return value;
}

// Memory for vectors: zero, aligned to lines of the cache, never moved.
template <class T>
class Buffer {
  public:
    Buffer() = default;
    explicit Buffer(std::size_t count) : size_(count) {
        const std::size_t bytes = (count * sizeof(Vector<T>) / 64 + 1) * 64;
        data_ = static_cast<Vector<T>*>(std::aligned_alloc(64, bytes));
        if (!data_) throw std::bad_alloc();
        clear();
    }
    Buffer(Buffer&& other) noexcept : data_(other.data_), size_(other.size_) {
        other.data_ = nullptr;
        other.size_ = 0;
    }
    Buffer& operator=(Buffer&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        return *this;
    }
    ~Buffer() { std::free(data_); }

    void clear() { __builtin_memset(data_, 0, size_ * sizeof(Vector<T>)); }
    std::size_t size() const { return size_; }
    Vector<T>* data() { return data_; }
    const Vector<T>* data() const { return data_; }

  private:
    Vector<T>* data_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace lanes
