// Included for both formats of `Stored`; see both.cuh.

constexpr u32 N = PACK<Stored>;

// Packs of a row that a lane holds.
constexpr u32 HELD = MAX_HELD / 32 / N;

// Calls `f(number of the pack, first column)` for the columns of this lane of a warp.
template <bool IS_HELD, typename F>
__device__ __forceinline__ void for_lane_packs(u32 cols, F f) {
    const u32 first = threadIdx.x % 32 * N;
    if constexpr (IS_HELD) {
#pragma unroll
        for (u32 i = 0; i < HELD; i++) {
            if (first + i * 32 * N < cols) f(i, first + i * 32 * N);
        }
    } else {
        for (u32 at = first; at < cols; at += 32 * N) f(0, at);
    }
}

// A row of a warp. It is held in registers if it is aligned and not too wide, which makes each of its packs a whole one; else it is
// read again for each pass.
template <bool IS_HELD>
struct Row;

template <>
struct Row<true> {
    u32 cols;
    Few<N> held[HELD];

    // All packs are asked for before the first is used.
    __device__ __forceinline__ Row(const Stored* x, u32 cols, bool) : cols(cols) {
        uint4 bits[HELD];
        for_lane_packs<true>(cols, [&](u32 i, u32 at) { bits[i] = *reinterpret_cast<const uint4*>(x + at); });
        for_lane_packs<true>(cols, [&](u32 i, u32) { held[i] = unpack(bits[i], Stored()); });
    }

    __device__ __forceinline__ Few<N> pack(u32 i, u32) const {
        return held[i];
    }

    template <typename T>
    __device__ __forceinline__ Few<N> beside(const T* x, u32 at) const {
        return load_whole<N>(x + at);
    }

    template <typename T>
    __device__ __forceinline__ void put_beside(T* y, const Few<N>& few, u32 at) const {
        store_whole<N>(y + at, few);
    }

    __device__ __forceinline__ bool has(u32) const {
        return true;
    }
};

template <>
struct Row<false> {
    const Stored* x;
    u32 cols;
    bool aligned;

    __device__ __forceinline__ Row(const Stored* x, u32 cols, bool aligned) : x(x), cols(cols), aligned(aligned) {}

    __device__ __forceinline__ Few<N> pack(u32, u32 at) const {
        return beside(x, at);
    }

    // A pack of another row of as many columns.
    template <typename T>
    __device__ __forceinline__ Few<N> beside(const T* x, u32 at) const {
        return load<N>(x, at, cols, aligned);
    }

    template <typename T>
    __device__ __forceinline__ void put_beside(T* y, const Few<N>& few, u32 at) const {
        store<N>(y, few, at, cols, aligned);
    }

    // Whether there is such a column.
    __device__ __forceinline__ bool has(u32 col) const {
        return col < cols;
    }
};

// Sum over a row of f(element).
template <bool IS_HELD, typename F>
__device__ __forceinline__ float row_sum(const Row<IS_HELD>& row, F f) {
    float sum = 0.0f;
    for_lane_packs<IS_HELD>(row.cols, [&](u32 i, u32 at) {
        const Few<N> few = row.pack(i, at);
#pragma unroll
        for (u32 j = 0; j < N; j++) {
            if (row.has(at + j)) sum = f(few.v[j], sum);
        }
    });
    return warp_sum(sum);
}

template <bool IS_HELD>
__device__ __forceinline__ void layer_norm_row(
    const Row<IS_HELD>& x, const float* gamma, const float* beta, float eps, Stored* y, float* stats
) {
    const float mean = row_sum(x, [](float v, float sum) { return sum + v; }) / x.cols;
    const float squares = row_sum(x, [=](float v, float sum) { return fmaf(v - mean, v - mean, sum); });
    const float rstd = 1.0f / sqrtf(squares / x.cols + eps);
    if (threadIdx.x % 32 == 0) {
        stats[0] = mean;
        stats[1] = rstd;
    }
    for_lane_packs<IS_HELD>(x.cols, [&](u32 i, u32 at) {
        Few<N> few = x.pack(i, at);
        const Few<N> g = x.beside(gamma, at), b = x.beside(beta, at);
#pragma unroll
        for (u32 j = 0; j < N; j++) few.v[j] = fmaf((few.v[j] - mean) * rstd, g.v[j], b.v[j]);
        x.put_beside(y, few, at);
    });
}

// y = (x − mean) · rstd · gamma + beta
TYPED(layer_norm)(
    const Stored* x, const float* gamma, const float* beta, float eps, Stored* y, float* stats, u32 rows, u32 cols, bool aligned
) {
    const u32 row = warp_row();
    if (row >= rows) return;
    x += (u64)row * cols;
    y += (u64)row * cols;
    stats += 2 * row;
    if (aligned && cols <= MAX_HELD) {
        layer_norm_row(Row<true>(x, cols, true), gamma, beta, eps, y, stats);
    } else {
        layer_norm_row(Row<false>(x, cols, aligned), gamma, beta, eps, y, stats);
    }
}

template <bool IS_HELD>
__device__ __forceinline__ void layer_norm_backward_row(
    const Row<IS_HELD>& x, const Row<IS_HELD>& dy, float mean, float rstd, const float* gamma, Stored* dx, bool fresh
) {
    // Mean of dy·γ, and of its product with the normed input. Beyond the last column dy and γ are zero.
    float a = 0.0f, b = 0.0f;
    for_lane_packs<IS_HELD>(x.cols, [&](u32 i, u32 at) {
        const Few<N> vx = x.pack(i, at), vd = dy.pack(i, at), g = x.beside(gamma, at);
#pragma unroll
        for (u32 j = 0; j < N; j++) {
            const float weighted = vd.v[j] * g.v[j];
            a += weighted;
            b = fmaf(weighted, (vx.v[j] - mean) * rstd, b);
        }
    });
    a = warp_sum(a) / x.cols;
    b = warp_sum(b) / x.cols;
    for_lane_packs<IS_HELD>(x.cols, [&](u32 i, u32 at) {
        const Few<N> vx = x.pack(i, at), vd = dy.pack(i, at), g = x.beside(gamma, at);
        Few<N> d = {};
        if (!fresh) d = x.beside(dx, at);
#pragma unroll
        for (u32 j = 0; j < N; j++) {
            const float normed = (vx.v[j] - mean) * rstd;
            d.v[j] += rstd * (vd.v[j] * g.v[j] - a - normed * b);
        }
        x.put_beside(dx, d, at);
    });
}

TYPED(layer_norm_backward)(
    const Stored* x, const float* stats, const float* gamma, const Stored* dy, Stored* dx, u32 rows, u32 cols, bool fresh,
    bool aligned
) {
    const u32 row = warp_row();
    if (row >= rows) return;
    x += (u64)row * cols;
    dy += (u64)row * cols;
    dx += (u64)row * cols;
    const float mean = stats[2 * row], rstd = stats[2 * row + 1];
    if (aligned && cols <= MAX_HELD) {
        layer_norm_backward_row(Row<true>(x, cols, true), Row<true>(dy, cols, true), mean, rstd, gamma, dx, fresh);
    } else {
        layer_norm_backward_row(Row<false>(x, cols, aligned), Row<false>(dy, cols, aligned), mean, rstd, gamma, dx, fresh);
    }
}

// Calls `f(row, start of the row in x)` for the rows of this warp in a block of rows.
template <typename F>
__device__ __forceinline__ void for_warp_rows(u32 rows, u32 cols, u32 block, F f) {
    const u32 end = min((blockIdx.y + 1) * block, rows);
#pragma unroll 4
    for (u32 row = blockIdx.y * block + threadIdx.x / 32; row < end; row += blockDim.x / 32) f(row, (u64)row * cols);
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
    const u32 at = (blockIdx.x * 32 + threadIdx.x % 32) * N;
    Few<N> dgamma = {}, dbeta = {};
    const auto add = [&](const Few<N>& vx, const Few<N>& vd, float mean, float rstd) {
#pragma unroll
        for (u32 i = 0; i < N; i++) {
            dgamma.v[i] = fmaf(vd.v[i] * rstd, vx.v[i] - mean, dgamma.v[i]);
            dbeta.v[i] += vd.v[i];
        }
    };
    if (aligned && at < cols) {
        for_warp_rows(rows, cols, block, [&](u32 row, u64 start) {
            const Few<N> vx = load_whole<N>(x + start + at), vd = load_whole<N>(dy + start + at);
            add(vx, vd, stats[2 * row], stats[2 * row + 1]);
        });
    } else if (at < cols) {
        for_warp_rows(rows, cols, block, [&](u32 row, u64 start) {
            const Few<N> vx = load<N>(x + start, at, cols, false), vd = load<N>(dy + start, at, cols, false);
            add(vx, vd, stats[2 * row], stats[2 * row + 1]);
        });
    }
    float* partial = partials + (u64)blockIdx.y * 2 * cols;
    add_warps(dgamma, partial, cols);
    add_warps(dbeta, partial + cols, cols);
}

TYPED(sum_columns)(const Stored* x, float* partials, u32 rows, u32 cols, u32 block, bool aligned) {
    const u32 at = (blockIdx.x * 32 + threadIdx.x % 32) * N;
    Few<N> sum = {};
    const auto add = [&](const Few<N>& few) {
#pragma unroll
        for (u32 i = 0; i < N; i++) sum.v[i] += few.v[i];
    };
    if (aligned && at < cols) {
        for_warp_rows(rows, cols, block, [&](u32, u64 start) { add(load_whole<N>(x + start + at)); });
    } else if (at < cols) {
        for_warp_rows(rows, cols, block, [&](u32, u64 start) { add(load<N>(x + start, at, cols, false)); });
    }
    add_warps(sum, partials + (u64)blockIdx.y * cols, cols);
}

// Sums `blocks` rows of `cols` partial sums: a lane has a column; each of 16 warps adds every sixteenth row, and the first adds the
// warps in order. The columns from `middle` on go to `rest`.
TYPED(sum_partials)(const float* partials, u32 blocks, Stored* out, Stored* rest, u32 middle, u32 cols, bool fresh) {
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
        Stored* target = col < middle ? out + col : rest + (col - middle);
        put(target, fresh ? total : widen(*target) + total);
    }
}

TYPED(l2_norm)(const Stored* x, float* y, float* norms, u32 rows, u32 cols, bool aligned) {
    const u32 row = warp_row();
    if (row >= rows) return;
    const Row<false> line(x + (u64)row * cols, cols, aligned);
    y += (u64)row * cols;
    const float root = sqrtf(row_sum(line, [](float v, float sum) { return fmaf(v, v, sum); }));
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
