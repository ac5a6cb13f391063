// Softmax and cross-entropy: a block has a row of logits. And arithmetic of scalars.

#include "common.cuh"

// Numbers kept of a row: its loss, its largest logit, and log Σ exp(x − largest).
constexpr u32 KEPT = 3;

// Sum over a row, which belongs to a block, of f(element's column).
template <typename F>
__device__ __forceinline__ float row_sum(u32 cols, F f) {
    float sum = 0.0f;
    for (u32 col = threadIdx.x; col < cols; col += THREADS) sum += f(col);
    return block_sum(sum);
}

__device__ __forceinline__ float row_max(const float* x, u32 cols) {
    float top = -INFINITY;
    for (u32 col = threadIdx.x; col < cols; col += THREADS) top = fmaxf(top, x[col]);
    return block_max(top);
}

__device__ __forceinline__ float log_sum_exp(const float* x, u32 cols, float top) {
    return logf(row_sum(cols, [=](u32 col) { return expf(x[col] - top); }));
}

__device__ __forceinline__ void keep(float* rows, float loss, float top, float log_sum) {
    if (threadIdx.x == 0) {
        float* kept = rows + (u64)KEPT * blockIdx.x;
        kept[0] = loss;
        kept[1] = top;
        kept[2] = log_sum;
    }
}

#define BODY "loss.cuh"
#include "both.cuh"

KERNEL soft(const float* x, const float* targets, u32 cols, float* rows) {
    x += (u64)blockIdx.x * cols;
    targets += (u64)blockIdx.x * cols;
    const float top = row_max(x, cols);
    const float log_sum = log_sum_exp(x, cols, top);
    const float mass = row_sum(cols, [=](u32 col) { return targets[col]; });
    const float along = row_sum(cols, [=](u32 col) { return targets[col] * x[col]; });
    keep(rows, fmaf(top + log_sum, mass, -along), top, log_sum);
}

KERNEL soft_backward(
    const float* x, const float* rows, const float* targets, u32 cols, const float* dy, float count, float* d, bool fresh
) {
    const u64 start = (u64)blockIdx.x * cols;
    x += start;
    targets += start;
    d += start;
    const float* kept = rows + (u64)KEPT * blockIdx.x;
    const float weight = *dy / count, top = kept[1], log_sum = kept[2];
    const float mass = row_sum(cols, [=](u32 col) { return targets[col]; });
    for (u32 col = threadIdx.x; col < cols; col += THREADS) {
        const float slope = weight * fmaf(expf(x[col] - top - log_sum), mass, -targets[col]);
        d[col] = fresh ? slope : d[col] + slope;
    }
}

KERNEL softmax(float* x, u32 cols) {
    x += (u64)blockIdx.x * cols;
    const float top = row_max(x, cols);
    const float inverse = 1.0f / row_sum(cols, [=](u32 col) { return expf(x[col] - top); });
    for (u32 col = threadIdx.x; col < cols; col += THREADS) x[col] = expf(x[col] - top) * inverse;
}

KERNEL mean_loss(const float* rows, u32 count, float* y) {
    const float sum = row_sum(count, [=](u32 row) { return rows[(u64)KEPT * row]; });
    if (threadIdx.x == 0) *y = sum / count;
}

KERNEL weighted(const float* dy, float weight, float* d, bool fresh) {
    if (threadIdx.x == 0) *d = fresh ? weight * *dy : fmaf(weight, *dy, *d);
}

// Each block has `unit` elements.
KERNEL dot_partials(const float* a, const float* b, u64 n, u32 unit, float* partials) {
    const u64 start = (u64)blockIdx.x * unit;
    const u32 count = (u32)min((u64)unit, n - start);
    const float sum = row_sum(count, [=](u32 i) { return a[start + i] * b[start + i]; });
    if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

// ∂(s/t)/∂t = −(s/t)/t
KERNEL slope(const float* partials, u32 units, const float* temperature, float* d, bool fresh) {
    const float sum = row_sum(units, [=](u32 unit) { return partials[unit]; });
    if (threadIdx.x == 0) {
        const float slope = -sum / *temperature;
        *d = fresh ? slope : *d + slope;
    }
}
