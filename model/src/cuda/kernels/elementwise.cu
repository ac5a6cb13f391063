// Loops over elements, over rows of columns, and dropout.

#include "random.cuh"

// y = f(y, …) for each element, where f also gets the elements of up to two inputs.
template <typename F>
__device__ __forceinline__ void update(float* y, u64 n, bool aligned, F f) {
    for_fours(n, [&](u64 at) {
        Four four = load4(y, at, n, aligned);
#pragma unroll
        for (u32 i = 0; i < 4; i++) four.v[i] = f(four.v[i]);
        store4(y, four, at, n, aligned);
    });
}

template <typename F>
__device__ __forceinline__ void update_with(const float* x, float* y, u64 n, bool aligned, F f) {
    for_fours(n, [&](u64 at) {
        const Four other = load4(x, at, n, aligned);
        Four four = load4(y, at, n, aligned);
#pragma unroll
        for (u32 i = 0; i < 4; i++) four.v[i] = f(other.v[i], four.v[i]);
        store4(y, four, at, n, aligned);
    });
}

KERNEL fill(float* y, u64 n, bool aligned, float value) {
    const Four four = {{value, value, value, value}};
    for_fours(n, [&](u64 at) { store4(y, four, at, n, aligned); });
}

KERNEL add(const float* x, float* y, u64 n, bool aligned) {
    update_with(x, y, n, aligned, [](float x, float y) { return y + x; });
}

KERNEL sum_of(const float* a, const float* b, float* y, u64 n, bool aligned) {
    for_fours(n, [&](u64 at) {
        Four four = load4(a, at, n, aligned);
        const Four other = load4(b, at, n, aligned);
#pragma unroll
        for (u32 i = 0; i < 4; i++) four.v[i] += other.v[i];
        store4(y, four, at, n, aligned);
    });
}

KERNEL scale(float* y, u64 n, bool aligned, float factor) {
    update(y, n, aligned, [=](float y) { return y * factor; });
}

KERNEL divide(float* y, u64 n, bool aligned, const float* by) {
    const float divisor = *by;
    update(y, n, aligned, [=](float y) { return y / divisor; });
}

KERNEL divide_by(float* y, u64 n, bool aligned, float by) {
    update(y, n, aligned, [=](float y) { return y / by; });
}

KERNEL scale_by_inverse(float* y, u64 n, bool aligned, const float* by) {
    const float factor = 1.0f / *by;
    update(y, n, aligned, [=](float y) { return y * factor; });
}

// Comparisons with what is not a number are false, so it stays.
KERNEL clamp_to(float* y, u64 n, bool aligned, float min, float max) {
    update(y, n, aligned, [=](float y) { return y < min ? min : y > max ? max : y; });
}

constexpr float SQRT_HALF = 0.70710678118654752440f;
constexpr float INV_SQRT_TAU = 0.39894228040143267794f;

KERNEL gelu(const float* x, float* y, u64 n, bool aligned) {
    for_fours(n, [&](u64 at) {
        Four four = load4(x, at, n, aligned);
#pragma unroll
        for (u32 i = 0; i < 4; i++) four.v[i] = 0.5f * four.v[i] * (1.0f + erff(four.v[i] * SQRT_HALF));
        store4(y, four, at, n, aligned);
    });
}

// d *= Φ(x) + x·φ(x)
KERNEL gelu_backward(const float* x, float* d, u64 n, bool aligned) {
    update_with(x, d, n, aligned, [](float x, float d) {
        const float cdf = 0.5f * (1.0f + erff(x * SQRT_HALF));
        return d * fmaf(x * INV_SQRT_TAU, expf(-0.5f * x * x), cdf);
    });
}

// Rows of `cols` between matrices whose rows are a stride apart.
KERNEL copy_rows(const float* x, u64 x_stride, float* y, u64 y_stride, u32 rows, u32 cols, bool adds, bool aligned) {
    for_row_fours(rows, cols, [&](u32 row, u32 at) {
        Four four = load4(x + row * x_stride, at, cols, aligned);
        float* target = y + row * y_stride;
        if (adds) {
            const Four present = load4(target, at, cols, aligned);
#pragma unroll
            for (u32 i = 0; i < 4; i++) four.v[i] = present.v[i] + four.v[i];
        }
        store4(target, four, at, cols, aligned);
    });
}

// y = x times the factor of the row's sample
KERNEL scale_samples(const float* x, float* y, u32 rows, u32 cols, u32 rows_of, const float* factors, bool aligned) {
    for_row_fours(rows, cols, [&](u32 row, u32 at) {
        const float factor = factors[row / rows_of];
        const u64 start = (u64)row * cols;
        Four four = load4(x + start, at, cols, aligned);
#pragma unroll
        for (u32 i = 0; i < 4; i++) four.v[i] *= factor;
        store4(y + start, four, at, cols, aligned);
    });
}

// Rows times their masks; `places` holds (position, sample) of each.
KERNEL dropout(
    float* y, u32 rows, u32 cols, const uint2* places, u64 key, u32 threshold, float kept, bool aligned
) {
    for_row_fours(rows, cols, [&](u32 row, u32 at) {
        const uint2 place = places[row];
        const Random4 random = philox(key, at / 4, place.x, place.y, 0);
        float* target = y + (u64)row * cols;
        Four four = load4(target, at, cols, aligned);
#pragma unroll
        for (u32 i = 0; i < 4; i++) four.v[i] = random.word[i] < threshold ? 0.0f : four.v[i] * kept;
        store4(target, four, at, cols, aligned);
    });
}

// `words` holds `n` different indices and then the values.
KERNEL add_at(float* y, const u32* words, u32 n) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[words[i]] += __uint_as_float(words[n + i]);
}
