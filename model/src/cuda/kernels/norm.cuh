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

    // The sum of two rows, which is stored too.
    __device__ __forceinline__ Row(const Stored* a, const Stored* b, Stored* sum, u32 cols) : cols(cols) {
        uint4 of_a[HELD], of_b[HELD];
        for_lane_packs<true>(cols, [&](u32 i, u32 at) {
            of_a[i] = *reinterpret_cast<const uint4*>(a + at);
            of_b[i] = *reinterpret_cast<const uint4*>(b + at);
        });
        for_lane_packs<true>(cols, [&](u32 i, u32 at) {
            const Few<N> va = unpack(of_a[i], Stored()), vb = unpack(of_b[i], Stored());
#pragma unroll
            for (u32 j = 0; j < N; j++) held[i].v[j] = as_stored(va.v[j] + vb.v[j], Stored());
            store_whole<N>(sum + at, held[i]);
        });
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

// The same of sum = a + b.
TYPED(add_norm)(
    const Stored* a, const Stored* b, const float* gamma, const float* beta, float eps, Stored* sum, Stored* y, float* stats, u32 rows,
    u32 cols, bool aligned
) {
    const u32 row = warp_row();
    if (row >= rows) return;
    a += (u64)row * cols;
    b += (u64)row * cols;
    sum += (u64)row * cols;
    y += (u64)row * cols;
    stats += 2 * row;
    if (aligned && cols <= MAX_HELD) {
        layer_norm_row(Row<true>(a, b, sum, cols), gamma, beta, eps, y, stats);
        return;
    }
    for_lane_packs<false>(cols, [&](u32, u32 at) {
        Few<N> few = load<N>(a, at, cols, aligned);
        const Few<N> other = load<N>(b, at, cols, aligned);
#pragma unroll
        for (u32 i = 0; i < N; i++) few.v[i] += other.v[i];
        store<N>(sum, few, at, cols, aligned);
    });
    // Each lane reads what it has stored.
    layer_norm_row(Row<false>(sum, cols, aligned), gamma, beta, eps, y, stats);
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

// The gradients of gain and offset: two sums over rows.
SUMMING(layer_norm_params)(
    const Stored* x, const float* stats, const Stored* dy, float* partials, u32* arrived, float* out, u32 width, i64 distance, u32 rows,
    u32 cols, u32 block, bool fresh, bool aligned
) {
    const u32 at = lane_column<N>();
    Few<N> sums[2] = {};
    const auto add = [&](const Few<N>& vx, const Few<N>& vd, float mean, float rstd) {
#pragma unroll
        for (u32 i = 0; i < N; i++) {
            sums[0].v[i] = fmaf(vd.v[i] * rstd, vx.v[i] - mean, sums[0].v[i]);
            sums[1].v[i] += vd.v[i];
        }
    };
    if (aligned && at < cols) {
        uint4 of_x[4], of_dy[4];
        float mean[4], rstd[4];
        for_warp_rows<4>(rows, block, [&](u32 i, u32 row) {
            of_x[i] = *reinterpret_cast<const uint4*>(x + (u64)row * cols + at);
            of_dy[i] = *reinterpret_cast<const uint4*>(dy + (u64)row * cols + at);
            mean[i] = stats[2 * row];
            rstd[i] = stats[2 * row + 1];
        }, [&](u32 i, u32) { add(unpack(of_x[i], Stored()), unpack(of_dy[i], Stored()), mean[i], rstd[i]); });
    } else if (at < cols) {
        for_warp_rows<1>(rows, block, [](u32, u32) {}, [&](u32, u32 row) {
            const Few<N> vx = load<N>(x + (u64)row * cols, at, cols, false), vd = load<N>(dy + (u64)row * cols, at, cols, false);
            add(vx, vd, stats[2 * row], stats[2 * row + 1]);
        });
    }
    put_sums<N, 2>(sums, partials, arrived, {out, width, distance, fresh}, cols);
}

SUMMING(sum_columns)(
    const Stored* x, float* partials, u32* arrived, float* out, u32 width, i64 distance, u32 rows, u32 cols, u32 block, bool fresh,
    bool aligned
) {
    const u32 at = lane_column<N>();
    Few<N> sums[1] = {};
    const auto add = [&](const Few<N>& few) {
#pragma unroll
        for (u32 i = 0; i < N; i++) sums[0].v[i] += few.v[i];
    };
    if (aligned && at < cols) {
        uint4 bits[8];
        for_warp_rows<8>(rows, block, [&](u32 i, u32 row) {
            bits[i] = *reinterpret_cast<const uint4*>(x + (u64)row * cols + at);
        }, [&](u32 i, u32) { add(unpack(bits[i], Stored())); });
    } else if (at < cols) {
        for_warp_rows<1>(rows, block, [](u32, u32) {}, [&](u32, u32 row) {
            add(load<N>(x + (u64)row * cols, at, cols, false));
        });
    }
    put_sums<N, 1>(sums, partials, arrived, {out, width, distance, fresh}, cols);
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
