// Loops over elements, over rows of columns, and dropout.

#include "random.cuh"

#include "gelu.cuh"

#include "sums.cuh"

#define BODY "elementwise.cuh"
#include "both.cuh"

// Rows of `cols` between matrices of two formats whose rows are a stride apart.
template <typename X, typename Y>
__device__ __forceinline__ void convert_rows(
    const X* x, u64 x_stride, Y* y, u64 y_stride, u32 rows, u32 cols, bool adds, bool aligned
) {
    for_row_packs<8>(rows, cols, [&](u32 row, u32 at) {
        Few<8> few = load<8>(x + row * x_stride, at, cols, aligned);
        Y* target = y + row * y_stride;
        if (adds) {
            const Few<8> present = load<8>(target, at, cols, aligned);
#pragma unroll
            for (u32 i = 0; i < 8; i++) few.v[i] = present.v[i] + few.v[i];
        }
        store<8>(target, few, at, cols, aligned);
    });
}

KERNEL copy_rows_widen(
    const bf16* x, u64 x_stride, float* y, u64 y_stride, u32 rows, u32 cols, bool adds, bool aligned
) {
    convert_rows(x, x_stride, y, y_stride, rows, cols, adds, aligned);
}

KERNEL copy_rows_narrow(
    const float* x, u64 x_stride, bf16* y, u64 y_stride, u32 rows, u32 cols, bool adds, bool aligned
) {
    convert_rows(x, x_stride, y, y_stride, rows, cols, adds, aligned);
}

// `words` holds `n` different indices and then the values.
KERNEL add_at(float* y, const u32* words, u32 n) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[words[i]] += __uint_as_float(words[n + i]);
}
