// The exact GELU, x·Φ(x), and its slope, Φ(x) + x·φ(x), of a number of single precision and of one that will be stored as bf16.
#pragma once

#include "common.cuh"

constexpr float SQRT_HALF = 0.70710678118654752440f;
constexpr float INV_SQRT_TAU = 0.39894228040143267794f;

__device__ __forceinline__ float gelu_of(float x, float) {
    return 0.5f * x * (1.0f + erff(x * SQRT_HALF));
}

__device__ __forceinline__ float gelu_slope(float x, float) {
    const float cdf = 0.5f * (1.0f + erff(x * SQRT_HALF));
    return fmaf(x * INV_SQRT_TAU, expf(-0.5f * x * x), cdf);
}

// exp(−x²/2), and Φ(x) by a polynomial in 1 / (1 + p·|x|) times that (Abramowitz and Stegun, 7.1.26). It is off by less than 3e-7, which
// is nothing to bf16, and keeps the kernels as fast as memory where erff and expf would not.
struct Normal {
    float bell, cdf;
};

__device__ __forceinline__ Normal normal(float x) {
    const float bell = __expf(-0.5f * x * x);
    const float t = __fdividef(1.0f, fmaf(0.3275911f * SQRT_HALF, fabsf(x), 1.0f));
    float sum = fmaf(1.061405429f, t, -1.453152027f);
    sum = fmaf(sum, t, 1.421413741f);
    sum = fmaf(sum, t, -0.284496736f);
    sum = fmaf(sum, t, 0.254829592f);
    const float tail = 0.5f * sum * t * bell;
    return {bell, x < 0.0f ? tail : 1.0f - tail};
}

__device__ __forceinline__ float gelu_of(float x, bf16) {
    return x * normal(x).cdf;
}

__device__ __forceinline__ float gelu_slope(float x, bf16) {
    const Normal at = normal(x);
    return fmaf(x * INV_SQRT_TAU, at.bell, at.cdf);
}
