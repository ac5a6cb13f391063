// Included for both formats of `Stored`; see both.cuh.

constexpr u32 N = PACK<Stored>;

// y = f(y) for each element.
template <typename F>
__device__ __forceinline__ void update(Stored* y, u64 n, bool aligned, F f) {
    for_packs<N>(n, [&](u64 at) {
        Few<N> few = load<N>(y, at, n, aligned);
#pragma unroll
        for (u32 i = 0; i < N; i++) few.v[i] = f(few.v[i]);
        store<N>(y, few, at, n, aligned);
    });
}

// y = f(a, b) for each element, where y may be b.
template <typename F>
__device__ __forceinline__ void combine(const Stored* a, const Stored* b, Stored* y, u64 n, bool aligned, F f) {
    for_packs<N>(n, [&](u64 at) {
        const Few<N> fa = load<N>(a, at, n, aligned);
        Few<N> fb = load<N>(b, at, n, aligned);
#pragma unroll
        for (u32 i = 0; i < N; i++) fb.v[i] = f(fa.v[i], fb.v[i]);
        store<N>(y, fb, at, n, aligned);
    });
}

TYPED(fill)(Stored* y, u64 n, bool aligned, float value) {
    Few<N> few;
#pragma unroll
    for (u32 i = 0; i < N; i++) few.v[i] = value;
    for_packs<N>(n, [&](u64 at) { store<N>(y, few, at, n, aligned); });
}

TYPED(add)(const Stored* x, Stored* y, u64 n, bool aligned) {
    combine(x, y, y, n, aligned, [](float x, float y) { return y + x; });
}

TYPED(sum_of)(const Stored* a, const Stored* b, Stored* y, u64 n, bool aligned) {
    combine(a, b, y, n, aligned, [](float a, float b) { return a + b; });
}

TYPED(scale)(Stored* y, u64 n, bool aligned, float factor) {
    update(y, n, aligned, [=](float y) { return y * factor; });
}

TYPED(divide)(Stored* y, u64 n, bool aligned, const float* by) {
    const float divisor = *by;
    update(y, n, aligned, [=](float y) { return y / divisor; });
}

TYPED(divide_by)(Stored* y, u64 n, bool aligned, float by) {
    update(y, n, aligned, [=](float y) { return y / by; });
}

TYPED(scale_by_inverse)(Stored* y, u64 n, bool aligned, const float* by) {
    const float factor = 1.0f / *by;
    update(y, n, aligned, [=](float y) { return y * factor; });
}

// Comparisons with what is not a number are false, so it stays.
TYPED(clamp_to)(Stored* y, u64 n, bool aligned, float min, float max) {
    update(y, n, aligned, [=](float y) { return y < min ? min : y > max ? max : y; });
}

TYPED(gelu)(const Stored* x, Stored* y, u64 n, bool aligned) {
    for_packs<N>(n, [&](u64 at) {
        Few<N> few = load<N>(x, at, n, aligned);
#pragma unroll
        for (u32 i = 0; i < N; i++) few.v[i] = gelu_of(few.v[i], Stored());
        store<N>(y, few, at, n, aligned);
    });
}

// d *= Φ(x) + x·φ(x)
TYPED(gelu_backward)(const Stored* x, Stored* d, u64 n, bool aligned) {
    combine(x, d, d, n, aligned, [](float x, float d) { return d * gelu_slope(x, Stored()); });
}

// The same of rows of `cols`, and the sums of the columns as they are stored.
SUMMING(gelu_backward_columns)(
    const Stored* x, Stored* d, float* partials, u32* arrived, float* out, u32 width, i64 distance, u32 rows, u32 cols, u32 block,
    bool fresh, bool aligned
) {
    const u32 at = lane_column<N>();
    Few<N> sums[1] = {};
    const auto pass = [&](const Few<N>& vx, Few<N>& vd) {
#pragma unroll
        for (u32 i = 0; i < N; i++) {
            // Rounded, as if it was read again.
            vd.v[i] = __fmul_rn(vd.v[i], gelu_slope(vx.v[i], Stored()));
            sums[0].v[i] += as_stored(vd.v[i], Stored());
        }
    };
    if (aligned && at < cols) {
        uint4 of_x[4], of_d[4];
        for_warp_rows<4>(rows, block, [&](u32 i, u32 row) {
            of_x[i] = *reinterpret_cast<const uint4*>(x + (u64)row * cols + at);
            of_d[i] = *reinterpret_cast<const uint4*>(d + (u64)row * cols + at);
        }, [&](u32 i, u32 row) {
            Few<N> few = unpack(of_d[i], Stored());
            pass(unpack(of_x[i], Stored()), few);
            store_whole<N>(d + (u64)row * cols + at, few);
        });
    } else if (at < cols) {
        for_warp_rows<1>(rows, block, [](u32, u32) {}, [&](u32, u32 row) {
            Few<N> few = load<N>(d + (u64)row * cols, at, cols, false);
            pass(load<N>(x + (u64)row * cols, at, cols, false), few);
            store<N>(d + (u64)row * cols, few, at, cols, false);
        });
    }
    put_sums<N, 1>(sums, partials, arrived, {out, width, distance, fresh}, cols);
}

// Rows of `cols` between matrices whose rows are a stride apart.
TYPED(copy_rows)(
    const Stored* x, u64 x_stride, Stored* y, u64 y_stride, u32 rows, u32 cols, bool adds, bool aligned
) {
    for_row_packs<N>(rows, cols, [&](u32 row, u32 at) {
        Few<N> few = load<N>(x + row * x_stride, at, cols, aligned);
        Stored* target = y + row * y_stride;
        if (adds) {
            const Few<N> present = load<N>(target, at, cols, aligned);
#pragma unroll
            for (u32 i = 0; i < N; i++) few.v[i] = present.v[i] + few.v[i];
        }
        store<N>(target, few, at, cols, aligned);
    });
}

// y = x times the factor of the row's sample
TYPED(scale_samples)(
    const Stored* x, Stored* y, u32 rows, u32 cols, u32 rows_of, const float* factors, bool aligned
) {
    for_row_packs<N>(rows, cols, [&](u32 row, u32 at) {
        const float factor = factors[row / rows_of];
        const u64 start = (u64)row * cols;
        Few<N> few = load<N>(x + start, at, cols, aligned);
#pragma unroll
        for (u32 i = 0; i < N; i++) few.v[i] *= factor;
        store<N>(y + start, few, at, cols, aligned);
    });
}

// y = rows of x times their masks; `places` holds (position, sample) of each.
TYPED(dropout)(
    const Stored* x, Stored* y, u32 rows, u32 cols, const uint2* places, u64 key, u32 threshold, float kept, bool aligned
) {
    for_row_packs<N>(rows, cols, [&](u32 row, u32 at) {
        const u64 start = (u64)row * cols;
        Few<N> few = load<N>(x + start, at, cols, aligned);
        drop(few, key, at, places[row], threshold, kept);
        store<N>(y + start, few, at, cols, aligned);
    });
}

// The same, and the sums of the columns as they are stored.
SUMMING(dropout_columns)(
    const Stored* x, Stored* y, const uint2* places, u64 key, u32 threshold, float kept, float* partials, u32* arrived, float* out,
    u32 width, i64 distance, u32 rows, u32 cols, u32 block, bool fresh, bool aligned
) {
    const u32 at = lane_column<N>();
    Few<N> sums[1] = {};
    const auto pass = [&](Few<N>& few, uint2 place) {
        drop(few, key, at, place, threshold, kept);
#pragma unroll
        for (u32 i = 0; i < N; i++) sums[0].v[i] += as_stored(few.v[i], Stored());
    };
    if (aligned && at < cols) {
        uint4 bits[2];
        uint2 place[2];
        for_warp_rows<2>(rows, block, [&](u32 i, u32 row) {
            bits[i] = *reinterpret_cast<const uint4*>(x + (u64)row * cols + at);
            place[i] = places[row];
        }, [&](u32 i, u32 row) {
            Few<N> few = unpack(bits[i], Stored());
            pass(few, place[i]);
            store_whole<N>(y + (u64)row * cols + at, few);
        });
    } else if (at < cols) {
        for_warp_rows<1>(rows, block, [](u32, u32) {}, [&](u32, u32 row) {
            Few<N> few = load<N>(x + (u64)row * cols, at, cols, false);
            pass(few, places[row]);
            store<N>(y + (u64)row * cols, few, at, cols, false);
        });
    }
    put_sums<N, 1>(sums, partials, arrived, {out, width, distance, fresh}, cols);
}
