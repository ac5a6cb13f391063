// A decoder's step: attention of single queries over kept keys, and rows of texts that lie on the device.
//
// A block has a query and a head. A key, or a value, is 16 bytes for each of a few neighbouring lanes, a group; the groups of the block
// take keys in turns, a few at once so that memory is kept busy, and each has a sum of its own with the largest score so far taken off.
// The sums of groups are put together in a fixed order: which keys a group has depends on their number alone.

#include "common.cuh"

// Threads of a block.
constexpr u32 ONE = 128;
// Keys of a group that are loaded at once.
constexpr u32 AT_ONCE = 4;
// Most columns of a head.
constexpr u32 WIDEST = 64;

// What the warps of a block have summed.
struct Parts {
    float top[ONE / 32];
    float mass[ONE / 32];
    float sum[ONE / 32][WIDEST];
};

// What a sum is multiplied with when the largest score becomes `top`.
__device__ __forceinline__ float share(float before, float top) {
    return before == top ? 1.0f : expf(before - top);
}

#define BODY "decode.cuh"
#include "both.cuh"
