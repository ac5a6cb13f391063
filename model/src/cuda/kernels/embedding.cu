// Rows by index and their backward, image tokens and patches.

#include "common.cuh"

// `index` holds the words of all rows, then their positions.
KERNEL embed(const float* words, const float* table, const u32* index, float* y, u32 rows, u32 cols, bool aligned) {
    for_row_fours(rows, cols, [&](u32 row, u32 at) {
        Four four = load4(words + (u64)index[row] * cols, at, cols, aligned);
        const Four place = load4(table + (u64)index[rows + row] * cols, at, cols, aligned);
#pragma unroll
        for (u32 i = 0; i < 4; i++) four.v[i] += place.v[i];
        store4(y + (u64)row * cols, four, at, cols, aligned);
    });
}

KERNEL gather(const float* x, const u32* index, float* y, u32 rows, u32 cols, bool aligned) {
    for_row_fours(rows, cols, [&](u32 row, u32 at) {
        const Four four = load4(x + (u64)index[row] * cols, at, cols, aligned);
        store4(y + (u64)row * cols, four, at, cols, aligned);
    });
}

// A block has a target and some columns, and adds the target's rows in order. `words` holds the targets, where the rows of each
// begin and the last end, and the rows.
KERNEL scatter_add(const float* dy, const u32* words, u32 targets, float* dx, u32 cols) {
    const u32 col = blockIdx.y * blockDim.x + threadIdx.x;
    if (col >= cols) return;
    const u32* starts = words + targets;
    const u32* rows = starts + targets + 1;
    const u32 begin = starts[blockIdx.x], end = starts[blockIdx.x + 1];
    float* target = dx + (u64)words[blockIdx.x] * cols + col;
    float sum = *target;
    for (u32 i = begin; i < end; i++) sum += dy[(u64)rows[i] * cols + col];
    *target = sum;
}

// Each sample's class token and patches, plus the position table.
KERNEL tokens(const float* x, const float* class_row, const float* table, float* y, u32 rows, u32 cols, u32 patches) {
    for_row_fours(rows, cols, [&](u32 row, u32 at) {
        const u32 sample = row / (patches + 1), token = row - sample * (patches + 1);
        const float* source = token == 0 ? class_row : x + ((u64)sample * patches + token - 1) * cols;
        Four four = load4(source, at, cols, false);
        const Four place = load4(table + (u64)token * cols, at, cols, false);
#pragma unroll
        for (u32 i = 0; i < 4; i++) four.v[i] += place.v[i];
        store4(y + (u64)row * cols, four, at, cols, false);
    });
}

// Rows are patches of an image, row by row; columns are (channel, y, x) within one.
KERNEL patches(const float* pixels, float* y, u32 rows, u32 cols, u32 side, u32 patch) {
    const u32 grid = side / patch;
    for_row_fours(rows, cols, [&](u32 row, u32 at) {
        const u32 image = row / (grid * grid), cell = row - image * grid * grid;
        const u32 top = cell / grid * patch, left = cell % grid * patch;
        Four four = {{0.0f, 0.0f, 0.0f, 0.0f}};
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            if (at + i >= cols) break;
            const u32 line = (at + i) / patch, channel = line / patch;
            const u64 source = ((u64)(image * 3 + channel) * side + top + line % patch) * side + left + (at + i) % patch;
            four.v[i] = pixels[source];
        }
        store4(y + (u64)row * cols, four, at, cols, false);
    });
}
