// Philox4x32-10, the generator of all random numbers (see random.rs): a mask has the same bits on every device.
#pragma once

#include "common.cuh"

struct Random4 {
    u32 word[4];
};

// Both halves in one instruction; of a product of two that are widened, the compiler adds up the upper half.
__device__ __forceinline__ u64 product(u32 a, u32 b) {
    u64 whole;
    asm("mul.wide.u32 %0, %1, %2;" : "=l"(whole) : "r"(a), "r"(b));
    return whole;
}

// The words of the counter `[c0, c1, c2, c3]` of a stream.
__device__ __forceinline__ Random4 philox(u64 key, u32 c0, u32 c1, u32 c2, u32 c3) {
    u32 k0 = (u32)key, k1 = (u32)(key >> 32);
#pragma unroll
    for (u32 round = 0; round < 10; round++) {
        const u64 p0 = product(c0, 0xd2511f53u);
        const u64 p1 = product(c2, 0xcd9e8d57u);
        c0 = (u32)(p1 >> 32) ^ c1 ^ k0;
        c1 = (u32)p1;
        c2 = (u32)(p0 >> 32) ^ c3 ^ k1;
        c3 = (u32)p0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    return {{c0, c1, c2, c3}};
}

// Columns `at` to `at + N − 1` of the row at (position, sample) times their mask. A counter of the generator is for four columns.
template <u32 N>
__device__ __forceinline__ void drop(Few<N>& few, u64 key, u32 at, uint2 place, u32 threshold, float kept) {
#pragma unroll
    for (u32 four = 0; four < N; four += 4) {
        const Random4 random = philox(key, (at + four) / 4, place.x, place.y, 0);
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            few.v[four + i] = random.word[i] < threshold ? 0.0f : few.v[four + i] * kept;
        }
    }
}
