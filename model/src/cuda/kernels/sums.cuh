// Sums over the rows of a matrix, in one launch.
//
// A lane has a pack of columns, a warp every so manyeth row of a block of rows; the sums of the warps are added in their order. Where a
// group of columns has several blocks, each leaves its sums, and the one that comes last adds them all in the order of the blocks: it
// makes no difference which one that is.
#pragma once

#include "common.cuh"

typedef long long i64;

constexpr u32 SUM_WARPS = 16;
constexpr u32 SUM_THREADS = 32 * SUM_WARPS;

// Where sums go: the first `width` to `out`, as many `distance` elements further on, and so forth; put there, or added.
struct Totals {
    float* out;
    u32 width;
    i64 distance;
    bool fresh;
};

// First column of this lane's pack.
template <u32 N>
__device__ __forceinline__ u32 lane_column() {
    return (blockIdx.x * 32 + threadIdx.x % 32) * N;
}

// The rows of this warp in a block of rows, `DEEP` at a time: `load(i, row)` for all of them, then `use(i, row)`.
template <u32 DEEP, typename Load, typename Use>
__device__ __forceinline__ void for_warp_rows(u32 rows, u32 block, Load load, Use use) {
    const u32 end = min((blockIdx.y + 1) * block, rows);
    for (u32 first = blockIdx.y * block + threadIdx.x / 32; first < end; first += DEEP * SUM_WARPS) {
#pragma unroll
        for (u32 i = 0; i < DEEP; i++) {
            if (first + i * SUM_WARPS < end) load(i, first + i * SUM_WARPS);
        }
#pragma unroll
        for (u32 i = 0; i < DEEP; i++) {
            if (first + i * SUM_WARPS < end) use(i, first + i * SUM_WARPS);
        }
    }
}

// Sum number `threadIdx.x` of the `WIDTH` that every block of a group has left, for the first `WIDTH` threads: as many threads as there
// are share the blocks, and their sums are added in order.
template <u32 WIDTH>
__device__ __forceinline__ float sum_of_blocks(const float* group, float* shared) {
    constexpr u32 PACKS = WIDTH / 4, SHARES = SUM_THREADS / PACKS, DEEP = 4;
    const u32 at = threadIdx.x % PACKS * 4, share = threadIdx.x / PACKS;
    Four sum = {};
    for (u32 first = share; first < gridDim.y; first += DEEP * SHARES) {
        float4 few[DEEP];
#pragma unroll
        for (u32 i = 0; i < DEEP; i++) {
            const u32 block = first + i * SHARES;
            if (block < gridDim.y) few[i] = __ldcg(reinterpret_cast<const float4*>(group + (u64)block * WIDTH + at));
        }
#pragma unroll
        for (u32 i = 0; i < DEEP; i++) {
            if (first + i * SHARES >= gridDim.y) break;
            sum.v[0] += few[i].x;
            sum.v[1] += few[i].y;
            sum.v[2] += few[i].z;
            sum.v[3] += few[i].w;
        }
    }
    store_whole<4>(shared + share * WIDTH + at, sum);
    __syncthreads();
    float total = 0.0f;
    if (threadIdx.x < WIDTH) {
        total = shared[threadIdx.x];
#pragma unroll
        for (u32 other = 1; other < SHARES; other++) total += shared[other * WIDTH + threadIdx.x];
    }
    return total;
}

// Puts `SUMS` sums over rows for each column where they go, the first of all columns before the second: `sums` are this warp's. All
// threads of the block call it. `arrived` has a number for each group of columns, which is zero before and after.
template <u32 N, u32 SUMS>
__device__ __forceinline__ void put_sums(const Few<N> (&sums)[SUMS], float* partials, u32* arrived, const Totals& to, u32 cols) {
    constexpr u32 GROUP = 32 * N, WIDTH = SUMS * GROUP;
    static_assert(WIDTH <= SUM_THREADS, "a thread has a sum");
    __shared__ __align__(16) float shared[SUM_WARPS * GROUP];
    __shared__ bool is_last;
    float total = 0.0f;
#pragma unroll
    for (u32 s = 0; s < SUMS; s++) {
        __syncthreads();
        store_whole<N>(shared + threadIdx.x / 32 * GROUP + threadIdx.x % 32 * N, sums[s]);
        __syncthreads();
        if (threadIdx.x / GROUP == s) {
            const u32 col = threadIdx.x % GROUP;
            total = shared[col];
#pragma unroll
            for (u32 warp = 1; warp < SUM_WARPS; warp++) total += shared[warp * GROUP + col];
        }
    }
    if (gridDim.y > 1) {
        float* group = partials + (u64)blockIdx.x * gridDim.y * WIDTH;
        if (threadIdx.x < WIDTH) group[blockIdx.y * WIDTH + threadIdx.x] = total;
        // What this block has left is seen by whoever sees that it has arrived.
        __threadfence();
        __syncthreads();
        // The number goes back to zero with the last one.
        if (threadIdx.x == 0) is_last = atomicInc(arrived + blockIdx.x, gridDim.y - 1) == gridDim.y - 1;
        __syncthreads();
        if (!is_last) return;
        __threadfence();
        total = sum_of_blocks<WIDTH>(group, shared);
    }
    const u32 col = blockIdx.x * GROUP + threadIdx.x % GROUP;
    if (threadIdx.x < WIDTH && col < cols) {
        const u32 number = threadIdx.x / GROUP * cols + col;
        float* target = to.out + (i64)(number / to.width) * to.distance + number % to.width;
        *target = to.fresh ? total : *target + total;
    }
}
