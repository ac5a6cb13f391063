// The optimiser, the momentum average, and norms of whole buffers.
//
// Steps over many ranges are one launch: a block has UNIT elements of a range at most, and finds its range in a table.

#include "common.cuh"

constexpr u32 UNIT = 1 << 14;

// A range of parameters, the first block of it, and its step.
struct Step {
    u64 start, len;
    u32 first_block;
    float rate, keep, new1, beta2, new2, correction2_sqrt, eps;
};

// A range of averages, what they follow, and the first block of it.
struct Average {
    u64 start, source, len;
    u32 first_block, unused;
};

// The last of `count` entries that begins at this block or before.
template <typename Entry>
__device__ __forceinline__ Entry entry_of_block(const Entry* table, u32 count) {
    u32 low = 0, high = count;
    while (high - low > 1) {
        const u32 middle = (low + high) / 2;
        if (table[middle].first_block <= blockIdx.x) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return table[low];
}

// Calls `f(first, elements of the range)` for every four elements of an entry that this block has, counted within the range.
template <typename Entry, typename F>
__device__ __forceinline__ void for_unit_fours(const Entry& entry, F f) {
    const u64 begin = (u64)(blockIdx.x - entry.first_block) * UNIT;
    const u64 end = min(begin + UNIT, entry.len);
    for (u64 at = begin + threadIdx.x * 4; at < end; at += THREADS * 4) f(at);
}

// `shadow` is a copy of the parameters in bf16, or null.
KERNEL adamw(
    const Step* table, u32 count, float* __restrict__ p, const float* __restrict__ g, float scale, float* __restrict__ m,
    float* __restrict__ v, bf16* __restrict__ shadow, bool aligned
) {
    const Step step = entry_of_block(table, count);
    const bool whole = aligned && step.start % 4 == 0;
    p += step.start;
    g += step.start;
    m += step.start;
    v += step.start;
    for_unit_fours(step, [&](u64 at) {
        Four fp = load4(p, at, step.len, whole);
        Four fm = load4(m, at, step.len, whole);
        Four fv = load4(v, at, step.len, whole);
        const Four fg = load4(g, at, step.len, whole);
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const float grad = fg.v[i] * scale;
            fm.v[i] = fmaf(grad - fm.v[i], step.new1, fm.v[i]);
            fv.v[i] = fmaf(grad * grad, step.new2, fv.v[i] * step.beta2);
            const float denominator = sqrtf(fv.v[i]) / step.correction2_sqrt + step.eps;
            fp.v[i] = fp.v[i] * step.keep - step.rate * (fm.v[i] / denominator);
        }
        store4(p, fp, at, step.len, whole);
        store4(m, fm, at, step.len, whole);
        store4(v, fv, at, step.len, whole);
        if (shadow) store<4>(shadow + step.start, fp, at, step.len, whole);
    });
}

KERNEL momentum_average(
    const Average* table, u32 count, float* __restrict__ e, const float* __restrict__ p, float old, float fresh,
    bf16* __restrict__ shadow, bool aligned
) {
    const Average average = entry_of_block(table, count);
    const bool whole = aligned && average.start % 4 == 0 && average.source % 4 == 0;
    e += average.start;
    p += average.source;
    for_unit_fours(average, [&](u64 at) {
        Four fe = load4(e, at, average.len, whole);
        const Four fp = load4(p, at, average.len, whole);
#pragma unroll
        for (u32 i = 0; i < 4; i++) fe.v[i] = fmaf(fe.v[i], old, fp.v[i] * fresh);
        store4(e, fe, at, average.len, whole);
        if (shadow) store<4>(shadow + average.start, fe, at, average.len, whole);
    });
}

// Each block has `unit` elements.
KERNEL square_partials(const float* x, u64 n, u32 unit, double* partials) {
    const u64 start = (u64)blockIdx.x * unit;
    const u32 count = (u32)min((u64)unit, n - start);
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < count; i += THREADS) {
        const double v = x[start + i];
        sum += v * v;
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

KERNEL sum_squares(const double* partials, u32 units, double* total) {
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < units; i += THREADS) sum += partials[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *total = sum;
}
