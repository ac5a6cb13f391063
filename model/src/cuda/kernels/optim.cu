// The optimiser, the momentum average, and norms of whole buffers.

#include "common.cuh"

KERNEL adamw(
    float* p, const float* g, float scale, float* m, float* v, u64 n, float step, float keep, float new1, float beta2, float new2,
    float correction2_sqrt, float eps, bool aligned
) {
    for_packs<4>(n, [&](u64 at) {
        Four fp = load4(p, at, n, aligned);
        Four fm = load4(m, at, n, aligned);
        Four fv = load4(v, at, n, aligned);
        const Four fg = load4(g, at, n, aligned);
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const float grad = fg.v[i] * scale;
            fm.v[i] = fmaf(grad - fm.v[i], new1, fm.v[i]);
            fv.v[i] = fmaf(grad * grad, new2, fv.v[i] * beta2);
            const float denominator = sqrtf(fv.v[i]) / correction2_sqrt + eps;
            fp.v[i] = fp.v[i] * keep - step * (fm.v[i] / denominator);
        }
        store4(p, fp, at, n, aligned);
        store4(m, fm, at, n, aligned);
        store4(v, fv, at, n, aligned);
    });
}

KERNEL momentum_average(float* e, const float* p, u64 n, float old, float fresh, bool aligned) {
    for_packs<4>(n, [&](u64 at) {
        Four fe = load4(e, at, n, aligned);
        const Four fp = load4(p, at, n, aligned);
#pragma unroll
        for (u32 i = 0; i < 4; i++) fe.v[i] = fmaf(fe.v[i], old, fp.v[i] * fresh);
        store4(e, fe, at, n, aligned);
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
