// What all kernels share: how numbers are stored, loops over elements some at a time, and sums in a fixed order.
//
// Numbers are stored in single precision or as bf16, its upper half; arithmetic is always in single precision, and a number is
// rounded once, when it is stored. A thread takes a few neighbouring elements, as many as are 16 bytes. Where addresses allow it
// (`aligned`, which the host decides) they are read and written at once; which element belongs to which thread, and so the order of
// every sum, is the same either way.
#pragma once

#include <cuda_bf16.h>

typedef unsigned int u32;
typedef unsigned long long u64;
typedef __nv_bfloat16 bf16;

#define KERNEL extern "C" __global__ void

// Threads of a block, unless the host says otherwise.
constexpr u32 THREADS = 256;

// How many elements a thread takes at once.
template <typename T>
constexpr u32 PACK = 16 / sizeof(T);

// Some numbers, as a thread computes with them.
template <u32 N>
struct Few {
    float v[N];
};

__device__ __forceinline__ float widen(float v) {
    return v;
}

__device__ __forceinline__ float widen(bf16 v) {
    return __bfloat162float(v);
}

__device__ __forceinline__ void put(float* y, float v) {
    *y = v;
}

__device__ __forceinline__ void put(bf16* y, float v) {
    *y = __float2bfloat16_rn(v);
}

// What is left of a number that is stored.
__device__ __forceinline__ float as_stored(float v, float) {
    return v;
}

__device__ __forceinline__ float as_stored(float v, bf16) {
    return __bfloat162float(__float2bfloat16_rn(v));
}

// All of `N` elements at an address that is aligned for them.
template <u32 N>
__device__ __forceinline__ Few<N> load_whole(const float* x) {
    Few<N> few;
#pragma unroll
    for (u32 i = 0; i < N; i += 4) {
        const float4 v = *reinterpret_cast<const float4*>(x + i);
        few.v[i] = v.x;
        few.v[i + 1] = v.y;
        few.v[i + 2] = v.z;
        few.v[i + 3] = v.w;
    }
    return few;
}

__device__ __forceinline__ void widen_pair(u32 pair, float* v) {
    v[0] = __uint_as_float(pair << 16);
    v[1] = __uint_as_float(pair & 0xffff0000u);
}

// 16 bytes of elements.
__device__ __forceinline__ Few<4> unpack(uint4 bits, float) {
    return {{__uint_as_float(bits.x), __uint_as_float(bits.y), __uint_as_float(bits.z), __uint_as_float(bits.w)}};
}

__device__ __forceinline__ Few<8> unpack(uint4 bits, bf16) {
    Few<8> few;
    widen_pair(bits.x, few.v);
    widen_pair(bits.y, few.v + 2);
    widen_pair(bits.z, few.v + 4);
    widen_pair(bits.w, few.v + 6);
    return few;
}

template <u32 N>
__device__ __forceinline__ Few<N> load_whole(const bf16* x) {
    if constexpr (N == 8) {
        return unpack(*reinterpret_cast<const uint4*>(x), bf16());
    } else {
        static_assert(N == 4, "four or eight");
        const uint2 v = *reinterpret_cast<const uint2*>(x);
        Few<N> few;
        widen_pair(v.x, few.v);
        widen_pair(v.y, few.v + 2);
        return few;
    }
}

template <u32 N>
__device__ __forceinline__ void store_whole(float* y, const Few<N>& few) {
#pragma unroll
    for (u32 i = 0; i < N; i += 4) {
        *reinterpret_cast<float4*>(y + i) = make_float4(few.v[i], few.v[i + 1], few.v[i + 2], few.v[i + 3]);
    }
}

__device__ __forceinline__ u32 narrow_pair(const float* v) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(v[0], v[1]);
    return *reinterpret_cast<const u32*>(&pair);
}

template <u32 N>
__device__ __forceinline__ void store_whole(bf16* y, const Few<N>& few) {
    if constexpr (N == 8) {
        *reinterpret_cast<uint4*>(y) =
            make_uint4(narrow_pair(few.v), narrow_pair(few.v + 2), narrow_pair(few.v + 4), narrow_pair(few.v + 6));
    } else {
        static_assert(N == 4, "four or eight");
        *reinterpret_cast<uint2*>(y) = make_uint2(narrow_pair(few.v), narrow_pair(few.v + 2));
    }
}

// The bits of 16 bytes of elements from `at` on, zeros from `n` on, read one by one.
__device__ __forceinline__ uint4 bits_at(const float* x, u64 at, u64 n) {
    const auto word = [&](u32 i) { return at + i < n ? __float_as_uint(x[at + i]) : 0; };
    return make_uint4(word(0), word(1), word(2), word(3));
}

__device__ __forceinline__ uint4 bits_at(const bf16* x, u64 at, u64 n) {
    const auto half = [&](u32 i) { return at + i < n ? (u32)__bfloat16_as_ushort(x[at + i]) : 0; };
    const auto word = [&](u32 i) { return half(i) | half(i + 1) << 16; };
    return make_uint4(word(0), word(2), word(4), word(6));
}

// Elements `at` to `at + N − 1` of `n`; zeros beyond. The bits are looked at behind the branch, so that a thread that loads several times
// waits for all of them at once.
template <u32 N, typename T>
__device__ __forceinline__ Few<N> load(const T* x, u64 at, u64 n, bool aligned) {
    if constexpr (N * sizeof(T) == 16) {
        const uint4 bits = aligned && at + N <= n ? *reinterpret_cast<const uint4*>(x + at) : bits_at(x, at, n);
        return unpack(bits, T());
    }
    if constexpr (N > 1) {
        if (aligned && at + N <= n) return load_whole<N>(x + at);
    }
    Few<N> few;
#pragma unroll
    for (u32 i = 0; i < N; i++) few.v[i] = at + i < n ? widen(x[at + i]) : 0.0f;
    return few;
}

template <u32 N, typename T>
__device__ __forceinline__ void store(T* y, const Few<N>& few, u64 at, u64 n, bool aligned) {
    if constexpr (N > 1) {
        if (aligned && at + N <= n) return store_whole<N>(y + at, few);
    }
#pragma unroll
    for (u32 i = 0; i < N; i++) {
        if (at + i < n) put(y + at + i, few.v[i]);
    }
}

// Four of single precision.
typedef Few<4> Four;

__device__ __forceinline__ Four load4(const float* x, u64 at, u64 n, bool aligned) {
    return load<4>(x, at, n, aligned);
}

__device__ __forceinline__ void store4(float* y, const Four& four, u64 at, u64 n, bool aligned) {
    store<4>(y, four, at, n, aligned);
}

// Calls `f(first)` for every `N` elements of `n`, over the whole grid.
template <u32 N, typename F>
__device__ __forceinline__ void for_packs(u64 n, F f) {
    const u64 stride = (u64)gridDim.x * blockDim.x * N;
    for (u64 at = ((u64)blockIdx.x * blockDim.x + threadIdx.x) * N; at < n; at += stride) f(at);
}

// Calls `f(row, first column)` for every `N` columns of each row, over the whole grid.
template <u32 N, typename F>
__device__ __forceinline__ void for_row_packs(u32 rows, u32 cols, F f) {
    const u32 packs = (cols + N - 1) / N;
    const u64 total = (u64)rows * packs;
    const u64 stride = (u64)gridDim.x * blockDim.x;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < total; i += stride) {
        const u32 row = (u32)i / packs;
        f(row, ((u32)i - row * packs) * N);
    }
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
