// Included for both formats of `Stored`; see both.cuh.

constexpr u32 N = PACK<Stored>;

// `index` holds the words of all rows, then their positions.
TYPED(embed)(const float* words, const float* table, const u32* index, Stored* y, u32 rows, u32 cols, bool aligned) {
    for_row_packs<N>(rows, cols, [&](u32 row, u32 at) {
        Few<N> few = load<N>(words + (u64)index[row] * cols, at, cols, aligned);
        const Few<N> place = load<N>(table + (u64)index[rows + row] * cols, at, cols, aligned);
#pragma unroll
        for (u32 i = 0; i < N; i++) few.v[i] += place.v[i];
        store<N>(y + (u64)row * cols, few, at, cols, aligned);
    });
}

TYPED(gather)(const Stored* x, const u32* index, Stored* y, u32 rows, u32 cols, bool aligned) {
    for_row_packs<N>(rows, cols, [&](u32 row, u32 at) {
        const Few<N> few = load<N>(x + (u64)index[row] * cols, at, cols, aligned);
        store<N>(y + (u64)row * cols, few, at, cols, aligned);
    });
}

TYPED(scatter_add)(const Stored* dy, const u32* words, u32 targets, Stored* dx, u32 cols) {
    add_scattered(dy, words, targets, dx, cols);
}

// Each sample's class token and patches, plus the position table.
TYPED(tokens)(
    const Stored* x, const float* class_row, const float* table, Stored* y, u32 rows, u32 cols, u32 patches, bool aligned
) {
    for_row_packs<N>(rows, cols, [&](u32 row, u32 at) {
        const u32 sample = row / (patches + 1), token = row - sample * (patches + 1);
        const Few<N> place = load<N>(table + (u64)token * cols, at, cols, aligned);
        Few<N> few = token == 0 ? load<N>(class_row, at, cols, aligned)
                                : load<N>(x + ((u64)sample * patches + token - 1) * cols, at, cols, aligned);
#pragma unroll
        for (u32 i = 0; i < N; i++) few.v[i] += place.v[i];
        store<N>(y + (u64)row * cols, few, at, cols, aligned);
    });
}

// Rows are patches of an image, row by row; columns are (channel, y, x) within one. `aligned` if all pixels of a pack lie in one line
// and can be read at once.
TYPED(patches)(const float* pixels, Stored* y, u32 rows, u32 cols, u32 side, u32 patch, bool aligned) {
    const u32 grid = side / patch;
    for_row_packs<N>(rows, cols, [&](u32 row, u32 at) {
        const u32 image = row / (grid * grid), cell = row - image * grid * grid;
        const u32 top = cell / grid * patch, left = cell % grid * patch;
        const auto pixel = [&](u32 col) {
            const u32 line = col / patch, channel = line / patch;
            return pixels + ((u64)(image * 3 + channel) * side + top + line % patch) * side + left + col % patch;
        };
        Few<N> few = {};
        if (aligned) {
            few = load_whole<N>(pixel(at));
        } else {
#pragma unroll
            for (u32 i = 0; i < N; i++) {
                if (at + i < cols) few.v[i] = *pixel(at + i);
            }
        }
        store<N>(y + (u64)row * cols, few, at, cols, aligned);
    });
}
