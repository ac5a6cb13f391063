// Rows by index and their backward, image tokens and patches.

#include "common.cuh"

// A block has a target and some columns, and adds the target's rows in order. `words` holds the targets, where the rows of each
// begin and the last end, and the rows.
template <typename X, typename Y>
__device__ __forceinline__ void add_scattered(const X* dy, const u32* words, u32 targets, Y* dx, u32 cols) {
    const u32 col = blockIdx.y * blockDim.x + threadIdx.x;
    if (col >= cols) return;
    const u32* starts = words + targets;
    const u32* rows = starts + targets + 1;
    const u32 begin = starts[blockIdx.x], end = starts[blockIdx.x + 1];
    Y* target = dx + (u64)words[blockIdx.x] * cols + col;
    float sum = widen(*target);
    for (u32 i = begin; i < end; i++) sum += widen(dy[(u64)rows[i] * cols + col]);
    put(target, sum);
}

#define BODY "embedding.cuh"
#include "both.cuh"

KERNEL scatter_add_widen(const bf16* dy, const u32* words, u32 targets, float* dx, u32 cols) {
    add_scattered(dy, words, targets, dx, cols);
}
