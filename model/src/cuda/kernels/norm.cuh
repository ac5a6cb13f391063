// Included for both formats of `Stored`; see both.cuh.

constexpr u32 N = PACK<Stored>;

// Calls `f(number of the pack, first column)` for the columns of this lane of a warp.
template <bool HELD, typename F>
__device__ __forceinline__ void for_lane_packs(u32 cols, F f) {
    const u32 first = threadIdx.x % 32 * N;
    if constexpr (HELD) {
#pragma unroll
        for (u32 i = 0; i < MAX_HELD / 32 / N; i++) {
            if (first + i * 32 * N < cols) f(i, first + i * 32 * N);
        }
    } else {
        for (u32 at = first; at < cols; at += 32 * N) f(0, at);
    }
}

// A row of a warp: what its lanes have of it is in registers if it is held, else in memory.
template <bool HELD>
struct Row {
    const Stored* x;
    u32 cols;
    bool aligned;
    Few<N> held[HELD ? MAX_HELD / 32 / N : 1];

    __device__ __forceinline__ Row(const Stored* x, u32 cols, bool aligned) : x(x), cols(cols), aligned(aligned) {
        if constexpr (HELD) {
            for_lane_packs<true>(cols, [&](u32 i, u32 at) { held[i] = load<N>(x, at, cols, aligned); });
        }
    }

    __device__ __forceinline__ Few<N> pack(u32 i, u32 at) const {
        return HELD ? held[i] : load<N>(x, at, cols, aligned);
    }

    // Sum of f(element).
    template <typename F>
    __device__ __forceinline__ float sum(F f) const {
        float sum = 0.0f;
        for_lane_packs<HELD>(cols, [&](u32 i, u32 at) {
            const Few<N> few = pack(i, at);
#pragma unroll
            for (u32 j = 0; j < N; j++) {
                if (at + j < cols) sum = f(few.v[j], sum);
            }
        });
        return warp_sum(sum);
    }
};

template <bool HELD>
__device__ __forceinline__ void layer_norm_row(
    const Stored* start, const float* gamma, const float* beta, float eps, Stored* y, float* stats, u32 cols, bool aligned
) {
    const Row<HELD> x(start, cols, aligned);
    const float mean = x.sum([](float v, float sum) { return sum + v; }) / cols;
    const float squares = x.sum([=](float v, float sum) { return fmaf(v - mean, v - mean, sum); });
    const float rstd = 1.0f / sqrtf(squares / cols + eps);
    if (threadIdx.x % 32 == 0) {
        stats[0] = mean;
        stats[1] = rstd;
    }
    for_lane_packs<HELD>(cols, [&](u32 i, u32 at) {
        Few<N> few = x.pack(i, at);
        const Few<N> g = load<N>(gamma, at, cols, aligned);
        const Few<N> b = load<N>(beta, at, cols, aligned);
#pragma unroll
        for (u32 j = 0; j < N; j++) few.v[j] = fmaf((few.v[j] - mean) * rstd, g.v[j], b.v[j]);
        store<N>(y, few, at, cols, aligned);
    });
}

// y = (x − mean) · rstd · gamma + beta
TYPED(layer_norm)(
    const Stored* x, const float* gamma, const float* beta, float eps, Stored* y, float* stats, u32 rows, u32 cols, bool aligned
) {
    const u32 row = warp_row();
    if (row >= rows) return;
    const u64 start = (u64)row * cols;
    if (cols <= MAX_HELD) {
        layer_norm_row<true>(x + start, gamma, beta, eps, y + start, stats + 2 * row, cols, aligned);
    } else {
        layer_norm_row<false>(x + start, gamma, beta, eps, y + start, stats + 2 * row, cols, aligned);
    }
}

template <bool HELD>
__device__ __forceinline__ void layer_norm_backward_row(
    const Stored* x_start, float mean, float rstd, const float* gamma, const Stored* dy_start, Stored* dx, u32 cols, bool fresh,
    bool aligned
) {
    const Row<HELD> x(x_start, cols, aligned), dy(dy_start, cols, aligned);
    // Mean of dy·γ, and of its product with the normed input. Beyond the last column dy and γ are zero.
    float a = 0.0f, b = 0.0f;
    for_lane_packs<HELD>(cols, [&](u32 i, u32 at) {
        const Few<N> vx = x.pack(i, at), vd = dy.pack(i, at);
        const Few<N> g = load<N>(gamma, at, cols, aligned);
#pragma unroll
        for (u32 j = 0; j < N; j++) {
            const float weighted = vd.v[j] * g.v[j];
            a += weighted;
            b = fmaf(weighted, (vx.v[j] - mean) * rstd, b);
        }
    });
    a = warp_sum(a) / cols;
    b = warp_sum(b) / cols;
    for_lane_packs<HELD>(cols, [&](u32 i, u32 at) {
        const Few<N> vx = x.pack(i, at), vd = dy.pack(i, at);
        const Few<N> g = load<N>(gamma, at, cols, aligned);
        Few<N> d = {};
        if (!fresh) d = load<N>(dx, at, cols, aligned);
#pragma unroll
        for (u32 j = 0; j < N; j++) {
            const float normed = (vx.v[j] - mean) * rstd;
            d.v[j] += rstd * (vd.v[j] * g.v[j] - a - normed * b);
        }
        store<N>(dx, d, at, cols, aligned);
    });
}

TYPED(layer_norm_backward)(
    const Stored* x, const float* stats, const float* gamma, const Stored* dy, Stored* dx, u32 rows, u32 cols, bool fresh,
    bool aligned
) {
    const u32 row = warp_row();
    if (row >= rows) return;
    const u64 start = (u64)row * cols;
    const float mean = stats[2 * row], rstd = stats[2 * row + 1];
    if (cols <= MAX_HELD) {
        layer_norm_backward_row<true>(x + start, mean, rstd, gamma, dy + start, dx + start, cols, fresh, aligned);
    } else {
        layer_norm_backward_row<false>(x + start, mean, rstd, gamma, dy + start, dx + start, cols, fresh, aligned);
    }
}

// Adds the sums of the warps of a block, each of which has a pack of columns from `at` of each lane, in the order of the warps.
__device__ __forceinline__ void add_warps(const Few<N>& sum, float* partial, u32 cols) {
    __shared__ __align__(16) float warps[THREADS / 32][32 * N];
    __syncthreads();
    store_whole<N>(&warps[threadIdx.x / 32][threadIdx.x % 32 * N], sum);
    __syncthreads();
    const u32 first = blockIdx.x * 32 * N;
    for (u32 col = threadIdx.x; col < 32 * N; col += blockDim.x) {
        if (first + col >= cols) break;
        float total = warps[0][col];
        for (u32 warp = 1; warp < blockDim.x / 32; warp++) total += warps[warp][col];
        partial[first + col] = total;
    }
}

// Partial sums over a block of rows: a lane has a pack of columns, a warp every so manyeth row.
TYPED(layer_norm_params)(
    const Stored* x, const float* stats, const Stored* dy, float* partials, u32 rows, u32 cols, u32 block, bool aligned
) {
    const u32 at = (blockIdx.x * 32 + threadIdx.x % 32) * N, warps = blockDim.x / 32;
    const u32 first = blockIdx.y * block, end = min(first + block, rows);
    Few<N> dgamma = {}, dbeta = {};
#pragma unroll 4
    for (u32 row = first + threadIdx.x / 32; row < end; row += warps) {
        const u64 start = (u64)row * cols;
        const Few<N> vx = load<N>(x + start, at, cols, aligned), vd = load<N>(dy + start, at, cols, aligned);
        const float mean = stats[2 * row], rstd = stats[2 * row + 1];
#pragma unroll
        for (u32 i = 0; i < N; i++) {
            dgamma.v[i] = fmaf(vd.v[i] * rstd, vx.v[i] - mean, dgamma.v[i]);
            dbeta.v[i] += vd.v[i];
        }
    }
    float* partial = partials + (u64)blockIdx.y * 2 * cols;
    add_warps(dgamma, partial, cols);
    add_warps(dbeta, partial + cols, cols);
}

TYPED(sum_columns)(const Stored* x, float* partials, u32 rows, u32 cols, u32 block, bool aligned) {
    const u32 at = (blockIdx.x * 32 + threadIdx.x % 32) * N, warps = blockDim.x / 32;
    const u32 first = blockIdx.y * block, end = min(first + block, rows);
    Few<N> sum = {};
#pragma unroll 8
    for (u32 row = first + threadIdx.x / 32; row < end; row += warps) {
        const Few<N> few = load<N>(x + (u64)row * cols, at, cols, aligned);
#pragma unroll
        for (u32 i = 0; i < N; i++) sum.v[i] += few.v[i];
    }
    add_warps(sum, partials + (u64)blockIdx.y * cols, cols);
}

// Sums `blocks` rows of `cols` partial sums: a lane has a column; each of 16 warps adds every sixteenth row, and the first adds the
// warps in order.
TYPED(sum_partials)(const float* partials, u32 blocks, Stored* out, u32 cols, bool fresh) {
    __shared__ float warps[16][33];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u32 col = blockIdx.x * 32 + lane;
    float sum = 0.0f;
    if (col < cols) {
#pragma unroll 4
        for (u32 block = warp; block < blocks; block += 16) sum += partials[(u64)block * cols + col];
    }
    warps[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && col < cols) {
        float total = warps[0][lane];
#pragma unroll
        for (u32 w = 1; w < 16; w++) total += warps[w][lane];
        put(out + col, fresh ? total : widen(out[col]) + total);
    }
}

TYPED(l2_norm)(const Stored* x, float* y, float* norms, u32 rows, u32 cols, bool aligned) {
    const u32 row = warp_row();
    if (row >= rows) return;
    const Row<false> line(x + (u64)row * cols, cols, aligned);
    y += (u64)row * cols;
    const float root = sqrtf(line.sum([](float v, float sum) { return fmaf(v, v, sum); }));
    // What is not a number stays so.
    const float norm = root < MIN_NORM ? MIN_NORM : root;
    if (threadIdx.x % 32 == 0) norms[row] = norm;
    for_lane_packs<false>(cols, [&](u32 i, u32 at) {
        Few<N> few = line.pack(i, at);
#pragma unroll
        for (u32 j = 0; j < N; j++) few.v[j] = few.v[j] / norm;
        store<N>(y, few, at, cols, aligned);
    });
}

TYPED(l2_norm_backward)(
    const float* y, const float* norms, const float* dy, Stored* dx, u32 rows, u32 cols, bool fresh, bool aligned
) {
    const u32 row = warp_row();
    if (row >= rows) return;
    y += (u64)row * cols;
    dy += (u64)row * cols;
    dx += (u64)row * cols;
    const float norm = norms[row];
    float along = 0.0f;
    for_lane_packs<false>(cols, [&](u32, u32 at) {
        const Few<N> vy = load<N>(y, at, cols, aligned), vd = load<N>(dy, at, cols, aligned);
#pragma unroll
        for (u32 i = 0; i < N; i++) along = fmaf(vy.v[i], vd.v[i], along);
    });
    along = warp_sum(along);
    for_lane_packs<false>(cols, [&](u32, u32 at) {
        const Few<N> vy = load<N>(y, at, cols, aligned), vd = load<N>(dy, at, cols, aligned);
        Few<N> d = {};
        if (!fresh) d = load<N>(dx, at, cols, aligned);
#pragma unroll
        for (u32 i = 0; i < N; i++) d.v[i] += (vd.v[i] - vy.v[i] * along) / norm;
        store<N>(dx, d, at, cols, aligned);
    });
}
