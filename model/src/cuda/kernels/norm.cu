// Layer normalisation, L2 normalisation, and sums over rows.

#include "common.cuh"

// Sum over a row, which belongs to a warp, of f(element's column, element).
template <typename F>
__device__ __forceinline__ float row_sum(const float* x, u32 cols, bool aligned, F f) {
    float sum = 0.0f;
    for_warp_fours(cols, [&](u32 at) {
        const Four four = load4(x, at, cols, aligned);
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            if (at + i < cols) sum = f(four.v[i], sum);
        }
    });
    return warp_sum(sum);
}

// y = (x − mean) · rstd · gamma + beta
KERNEL layer_norm(
    const float* x, const float* gamma, const float* beta, float eps, float* y, float* stats, u32 rows, u32 cols, bool aligned
) {
    const u32 row = warp_row();
    if (row >= rows) return;
    x += (u64)row * cols;
    y += (u64)row * cols;
    const float mean = row_sum(x, cols, aligned, [](float v, float sum) { return sum + v; }) / cols;
    const float squares = row_sum(x, cols, aligned, [=](float v, float sum) { return fmaf(v - mean, v - mean, sum); });
    const float rstd = 1.0f / sqrtf(squares / cols + eps);
    if (threadIdx.x % 32 == 0) {
        stats[2 * row] = mean;
        stats[2 * row + 1] = rstd;
    }
    for_warp_fours(cols, [&](u32 at) {
        Four four = load4(x, at, cols, aligned);
        const Four g = load4(gamma, at, cols, aligned);
        const Four b = load4(beta, at, cols, aligned);
#pragma unroll
        for (u32 i = 0; i < 4; i++) four.v[i] = fmaf((four.v[i] - mean) * rstd, g.v[i], b.v[i]);
        store4(y, four, at, cols, aligned);
    });
}

KERNEL layer_norm_backward(
    const float* x, const float* stats, const float* gamma, const float* dy, float* dx, u32 rows, u32 cols, bool fresh,
    bool aligned
) {
    const u32 row = warp_row();
    if (row >= rows) return;
    x += (u64)row * cols;
    dy += (u64)row * cols;
    dx += (u64)row * cols;
    const float mean = stats[2 * row], rstd = stats[2 * row + 1];
    // Mean of dy·γ, and of its product with the normed input. Beyond the last column dy and γ are zero.
    float a = 0.0f, b = 0.0f;
    for_warp_fours(cols, [&](u32 at) {
        const Four vx = load4(x, at, cols, aligned);
        const Four vd = load4(dy, at, cols, aligned);
        const Four g = load4(gamma, at, cols, aligned);
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const float weighted = vd.v[i] * g.v[i];
            a += weighted;
            b = fmaf(weighted, (vx.v[i] - mean) * rstd, b);
        }
    });
    a = warp_sum(a) / cols;
    b = warp_sum(b) / cols;
    for_warp_fours(cols, [&](u32 at) {
        const Four vx = load4(x, at, cols, aligned);
        const Four vd = load4(dy, at, cols, aligned);
        const Four g = load4(gamma, at, cols, aligned);
        Four d = {{0.0f, 0.0f, 0.0f, 0.0f}};
        if (!fresh) d = load4(dx, at, cols, aligned);
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const float normed = (vx.v[i] - mean) * rstd;
            d.v[i] += rstd * (vd.v[i] * g.v[i] - a - normed * b);
        }
        store4(dx, d, at, cols, aligned);
    });
}

// Partial sums over a block of rows: a thread has a column.
KERNEL layer_norm_params(
    const float* x, const float* stats, const float* dy, float* partials, u32 rows, u32 cols, u32 block
) {
    const u32 col = blockIdx.x * blockDim.x + threadIdx.x;
    if (col >= cols) return;
    const u32 first = blockIdx.y * block, end = min(first + block, rows);
    float dgamma = 0.0f, dbeta = 0.0f;
#pragma unroll 4
    for (u32 row = first; row < end; row++) {
        const float d = dy[(u64)row * cols + col];
        dgamma = fmaf(d * stats[2 * row + 1], x[(u64)row * cols + col] - stats[2 * row], dgamma);
        dbeta += d;
    }
    float* partial = partials + (u64)blockIdx.y * 2 * cols;
    partial[col] = dgamma;
    partial[cols + col] = dbeta;
}

KERNEL sum_columns(const float* x, float* partials, u32 rows, u32 cols, u32 block) {
    const u32 col = blockIdx.x * blockDim.x + threadIdx.x;
    if (col >= cols) return;
    const u32 first = blockIdx.y * block, end = min(first + block, rows);
    float sum = 0.0f;
#pragma unroll 8
    for (u32 row = first; row < end; row++) sum += x[(u64)row * cols + col];
    partials[(u64)blockIdx.y * cols + col] = sum;
}

// Sums `blocks` rows of `cols` partial sums: a lane has a column; each of 16 warps adds every sixteenth row, and the first adds the
// warps in order.
KERNEL sum_partials(const float* partials, u32 blocks, float* out, u32 cols, bool fresh) {
    __shared__ float warps[16][33];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u32 col = blockIdx.x * 32 + lane;
    float sum = 0.0f;
    if (col < cols) {
        for (u32 block = warp; block < blocks; block += 16) sum += partials[(u64)block * cols + col];
    }
    warps[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && col < cols) {
        float total = warps[0][lane];
#pragma unroll
        for (u32 w = 1; w < 16; w++) total += warps[w][lane];
        out[col] = fresh ? total : out[col] + total;
    }
}

// Norms below this are treated as this.
constexpr float MIN_NORM = 1e-12f;

KERNEL l2_norm(const float* x, float* y, float* norms, u32 rows, u32 cols, bool aligned) {
    const u32 row = warp_row();
    if (row >= rows) return;
    x += (u64)row * cols;
    y += (u64)row * cols;
    const float squares = row_sum(x, cols, aligned, [](float v, float sum) { return fmaf(v, v, sum); });
    const float root = sqrtf(squares);
    // What is not a number stays so.
    const float norm = root < MIN_NORM ? MIN_NORM : root;
    if (threadIdx.x % 32 == 0) norms[row] = norm;
    for_warp_fours(cols, [&](u32 at) {
        Four four = load4(x, at, cols, aligned);
#pragma unroll
        for (u32 i = 0; i < 4; i++) four.v[i] = four.v[i] / norm;
        store4(y, four, at, cols, aligned);
    });
}

KERNEL l2_norm_backward(
    const float* y, const float* norms, const float* dy, float* dx, u32 rows, u32 cols, bool fresh, bool aligned
) {
    const u32 row = warp_row();
    if (row >= rows) return;
    y += (u64)row * cols;
    dy += (u64)row * cols;
    dx += (u64)row * cols;
    const float norm = norms[row];
    float along = 0.0f;
    for_warp_fours(cols, [&](u32 at) {
        const Four vy = load4(y, at, cols, aligned);
        const Four vd = load4(dy, at, cols, aligned);
#pragma unroll
        for (u32 i = 0; i < 4; i++) along = fmaf(vy.v[i], vd.v[i], along);
    });
    along = warp_sum(along);
    for_warp_fours(cols, [&](u32 at) {
        const Four vy = load4(y, at, cols, aligned);
        const Four vd = load4(dy, at, cols, aligned);
        Four d = {{0.0f, 0.0f, 0.0f, 0.0f}};
        if (!fresh) d = load4(dx, at, cols, aligned);
#pragma unroll
        for (u32 i = 0; i < 4; i++) d.v[i] += (vd.v[i] - vy.v[i] * along) / norm;
        store4(dx, d, at, cols, aligned);
    });
}
