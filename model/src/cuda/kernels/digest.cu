// Digests of memory: `ops/digest.rs`.

#include "common.cuh"

__device__ __forceinline__ u64 mixed(u64 place, u32 word) {
    u64 x = (place + 1) * 0x9e3779b97f4a7c15ull + word;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

// Each block has `unit` words; the first of all has this place.
KERNEL digest_partials(const u32* x, u64 n, u64 place, u32 unit, u64* partials) {
    const u64 start = (u64)blockIdx.x * unit;
    const u32 count = (u32)min((u64)unit, n - start);
    u64 sum = 0;
    for (u32 i = threadIdx.x; i < count; i += THREADS) sum += mixed(place + start + i, x[start + i]);
    sum = block_sum(sum);
    if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

KERNEL sum_digests(const u64* partials, u32 units, u64* total) {
    u64 sum = 0;
    for (u32 i = threadIdx.x; i < units; i += THREADS) sum += partials[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *total = sum;
}
