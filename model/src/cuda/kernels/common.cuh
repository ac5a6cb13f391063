// What all kernels share: loops over elements four at a time, and sums in a fixed order.
//
// A thread takes four neighbouring elements. Where addresses allow it (`aligned`, which the host decides) they are read and
// written at once; which element belongs to which thread, and so the order of every sum, is the same either way.
#pragma once

typedef unsigned int u32;
typedef unsigned long long u64;

#define KERNEL extern "C" __global__ void

// Threads of a block, unless the host says otherwise.
constexpr u32 THREADS = 256;

struct Four {
    float v[4];
};

// Elements `at` to `at + 3` of `n`; zeros beyond.
__device__ __forceinline__ Four load4(const float* x, u64 at, u64 n, bool aligned) {
    Four four = {{0.0f, 0.0f, 0.0f, 0.0f}};
    if (aligned && at + 4 <= n) {
        const float4 v = *reinterpret_cast<const float4*>(x + at);
        four.v[0] = v.x;
        four.v[1] = v.y;
        four.v[2] = v.z;
        four.v[3] = v.w;
    } else {
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            if (at + i < n) four.v[i] = x[at + i];
        }
    }
    return four;
}

__device__ __forceinline__ void store4(float* y, const Four& four, u64 at, u64 n, bool aligned) {
    if (aligned && at + 4 <= n) {
        *reinterpret_cast<float4*>(y + at) = make_float4(four.v[0], four.v[1], four.v[2], four.v[3]);
    } else {
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            if (at + i < n) y[at + i] = four.v[i];
        }
    }
}

// Calls `f(first)` for every four elements of `n`, over the whole grid.
template <typename F>
__device__ __forceinline__ void for_fours(u64 n, F f) {
    const u64 stride = (u64)gridDim.x * blockDim.x * 4;
    for (u64 at = ((u64)blockIdx.x * blockDim.x + threadIdx.x) * 4; at < n; at += stride) f(at);
}

// Calls `f(row, first column)` for every four columns of each row, over the whole grid.
template <typename F>
__device__ __forceinline__ void for_row_fours(u32 rows, u32 cols, F f) {
    const u32 fours = (cols + 3) / 4;
    const u64 total = (u64)rows * fours;
    const u64 stride = (u64)gridDim.x * blockDim.x;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < total; i += stride) {
        const u32 row = (u32)i / fours;
        f(row, ((u32)i - row * fours) * 4);
    }
}

// Calls `f(first column)` for the columns of this lane of a warp.
template <typename F>
__device__ __forceinline__ void for_warp_fours(u32 cols, F f) {
    for (u32 at = threadIdx.x % 32 * 4; at < cols; at += 128) f(at);
}

// The row of this warp, in a grid of blocks of warps.
__device__ __forceinline__ u32 warp_row() {
    return blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
}

// Sum over the lanes of a warp, the same bits in each.
template <typename T>
__device__ __forceinline__ T warp_sum(T v) {
#pragma unroll
    for (u32 other = 16; other > 0; other /= 2) v += __shfl_xor_sync(0xffffffffu, v, other);
    return v;
}

__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
    for (u32 other = 16; other > 0; other /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, other));
    return v;
}

// Sum over a block of THREADS, its warps in order; the same bits in each thread.
template <typename T>
__device__ __forceinline__ T block_sum(T v) {
    __shared__ T warps[THREADS / 32];
    v = warp_sum(v);
    __syncthreads();
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = v;
    __syncthreads();
    T total = warps[0];
#pragma unroll
    for (u32 w = 1; w < THREADS / 32; w++) total += warps[w];
    return total;
}

__device__ __forceinline__ float block_max(float v) {
    __shared__ float warps[THREADS / 32];
    v = warp_max(v);
    __syncthreads();
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = v;
    __syncthreads();
    float top = warps[0];
#pragma unroll
    for (u32 w = 1; w < THREADS / 32; w++) top = fmaxf(top, warps[w]);
    return top;
}
