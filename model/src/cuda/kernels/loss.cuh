// Included for both formats of `Stored`; see both.cuh.

// Columns that a thread takes at once: rows of bf16 start at multiples of 8 bytes at least if their number is a multiple of four.
constexpr u32 N = sizeof(Stored) == 4 ? 1 : 4;

// Calls `f(first column, columns)` for the columns of this thread of a block that has a row.
template <typename F>
__device__ __forceinline__ void for_block_packs(const Stored* x, u32 cols, bool aligned, F f) {
    for (u32 at = threadIdx.x * N; at < cols; at += THREADS * N) f(at, load<N>(x, at, cols, aligned));
}

TYPED(smoothed)(
    const Stored* x, const u32* targets, float smoothing, float rest, u32 cols, float* rows, bool aligned
) {
    x += (u64)blockIdx.x * cols;
    float top = -INFINITY;
    for_block_packs(x, cols, aligned, [&](u32 at, const Few<N>& few) {
#pragma unroll
        for (u32 i = 0; i < N; i++) {
            if (at + i < cols) top = fmaxf(top, few.v[i]);
        }
    });
    top = block_max(top);
    float exponentials = 0.0f, sum = 0.0f;
    for_block_packs(x, cols, aligned, [&](u32 at, const Few<N>& few) {
#pragma unroll
        for (u32 i = 0; i < N; i++) {
            if (at + i >= cols) break;
            exponentials += expf(few.v[i] - top);
            sum += few.v[i];
        }
    });
    const float log_sum = logf(block_sum(exponentials));
    sum = block_sum(sum);
    const float nll = log_sum - (widen(x[targets[blockIdx.x]]) - top);
    const float uniform = log_sum - (sum / cols - top);
    keep(rows, fmaf(rest, nll, smoothing * uniform), top, log_sum);
}

TYPED(smoothed_backward)(
    Stored* x, const float* rows, const u32* targets, float floor, float rest, u32 cols, const float* dy, float count,
    bool aligned
) {
    x += (u64)blockIdx.x * cols;
    const float* kept = rows + (u64)KEPT * blockIdx.x;
    const float weight = *dy / count, top = kept[1], log_sum = kept[2];
    const u32 target = targets[blockIdx.x];
    for_block_packs(x, cols, aligned, [&](u32 at, Few<N> few) {
#pragma unroll
        for (u32 i = 0; i < N; i++) {
            const float d = weight * (expf(few.v[i] - top - log_sum) - floor);
            few.v[i] = at + i == target ? d - weight * rest : d;
        }
        store<N>(x, few, at, cols, aligned);
    });
}
