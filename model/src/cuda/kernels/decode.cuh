// Included for both formats of `Stored`; see both.cuh.

constexpr u32 N = PACK<Stored>;

// Keys and values of a text in a head: those that are kept, and behind them new ones.
struct Source {
    const Stored *keys, *values, *new_keys, *new_values;
    u32 taken;
    u64 width;

    __device__ __forceinline__ const Stored* key(u32 m) const {
        return m < taken ? keys + m * width : new_keys + (m - taken) * width;
    }

    __device__ __forceinline__ const Stored* value(u32 m) const {
        return m < taken ? values + m * width : new_values + (m - taken) * width;
    }
};

// The sum of a thread's columns over the keys of its group.
struct Running {
    float top, mass;
    Few<N> sum;
};

template <u32 LANES>
__device__ __forceinline__ Running over_group(const Stored* query, const Source& source, u32 n, u32 dim, float scale, bool aligned) {
    constexpr u32 GROUPS = ONE / LANES;
    const u32 group = threadIdx.x / LANES, at = threadIdx.x % LANES * N;
    const Few<N> asked = load<N>(query, at, dim, aligned);
    Running own = {-INFINITY, 0.0f, {}};
    for (u32 first = 0; first < n; first += AT_ONCE * GROUPS) {
        Few<N> key[AT_ONCE], value[AT_ONCE];
        float score[AT_ONCE];
#pragma unroll
        for (u32 i = 0; i < AT_ONCE; i++) {
            // Beyond the last it is loaded again, so that nothing stands between two loads.
            const u32 m = min(first + i * GROUPS + group, n - 1);
            key[i] = load<N>(source.key(m), at, dim, aligned);
            value[i] = load<N>(source.value(m), at, dim, aligned);
        }
        float top = own.top;
#pragma unroll
        for (u32 i = 0; i < AT_ONCE; i++) {
            float dot = 0.0f;
#pragma unroll
            for (u32 c = 0; c < N; c++) dot = fmaf(asked.v[c], key[i].v[c], dot);
#pragma unroll
            for (u32 other = LANES / 2; other > 0; other /= 2) dot += __shfl_xor_sync(0xffffffffu, dot, other);
            score[i] = first + i * GROUPS + group < n ? dot * scale : -INFINITY;
            top = fmaxf(top, score[i]);
        }
        if (first + group < n) {
            const float shrink = share(own.top, top);
            own.top = top;
            own.mass *= shrink;
#pragma unroll
            for (u32 c = 0; c < N; c++) own.sum.v[c] *= shrink;
#pragma unroll
            for (u32 i = 0; i < AT_ONCE; i++) {
                const float p = expf(score[i] - top);
                own.mass += p;
#pragma unroll
                for (u32 c = 0; c < N; c++) own.sum.v[c] = fmaf(p, value[i].v[c], own.sum.v[c]);
            }
        }
    }
    return own;
}

template <u32 LANES>
__device__ __forceinline__ void attend(
    const Stored* query, const Source& source, u32 n, u32 dim, float scale, Stored* out, bool aligned, Parts& parts
) {
    Running own = over_group<LANES>(query, source, n, dim, scale, aligned);
#pragma unroll
    for (u32 other = LANES; other < 32; other *= 2) {
        const float their_top = __shfl_xor_sync(0xffffffffu, own.top, other);
        const float their_mass = __shfl_xor_sync(0xffffffffu, own.mass, other);
        const float top = fmaxf(own.top, their_top);
        const float mine = share(own.top, top), theirs = share(their_top, top);
        own.top = top;
        own.mass = own.mass * mine + their_mass * theirs;
#pragma unroll
        for (u32 c = 0; c < N; c++) {
            const float their_sum = __shfl_xor_sync(0xffffffffu, own.sum.v[c], other);
            own.sum.v[c] = own.sum.v[c] * mine + their_sum * theirs;
        }
    }
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (lane < LANES) {
#pragma unroll
        for (u32 c = 0; c < N; c++) parts.sum[warp][lane * N + c] = own.sum.v[c];
    }
    if (lane == 0) {
        parts.top[warp] = own.top;
        parts.mass[warp] = own.mass;
    }
    __syncthreads();
    if (threadIdx.x >= dim) return;
    float top = parts.top[0], mass = 0.0f, sum = 0.0f;
#pragma unroll
    for (u32 w = 1; w < ONE / 32; w++) top = fmaxf(top, parts.top[w]);
#pragma unroll
    for (u32 w = 0; w < ONE / 32; w++) {
        const float part = share(parts.top[w], top);
        mass = fmaf(parts.mass[w], part, mass);
        sum = fmaf(parts.sum[w][threadIdx.x], part, sum);
    }
    put(out + threadIdx.x, sum / mass);
}

// Texts have `per` queries each, one after the other. A text's keys and values begin at row of[text] · every of `keys` and `values`; its
// first query attends to `seen` of them, each further one to one more if they grow. Rows from `taken` on are new: they are read from
// `new_keys` and `new_values`, where the queries' rows have theirs, and put into their places besides. Nothing is new if there are no
// new keys. Where there are `lengths`, a text has one query, which attends to so many rows, the last of them new.
TYPED(attend_one)(
    const Stored* q, const Stored* new_keys, const Stored* new_values, Stored* keys, Stored* values, const u32* of, u64 every, u32 per,
    u32 seen, bool grows, u32 taken, const u32* lengths, u32 heads, u32 dim, float scale, Stored* out, bool aligned
) {
    __shared__ Parts parts;
    const u64 width = heads * dim;
    const u32 row = blockIdx.x / heads, column = (blockIdx.x - row * heads) * dim;
    const u32 text = row / per, number = row - text * per;
    const u64 block = of[text] * every;
    if (lengths != nullptr) {
        seen = lengths[text];
        taken = seen - 1;
    }
    if (new_keys != nullptr) {
        for (u32 i = threadIdx.x; i < 2 * dim; i += ONE) {
            const bool is_key = i < dim;
            const u64 at = column + (is_key ? i : i - dim);
            Stored* to = (is_key ? keys : values) + (block + taken + number) * width + at;
            *to = (is_key ? new_keys : new_values)[row * width + at];
        }
    }
    const u64 first = block * width + column, first_new = (u64)text * per * width + column;
    const Source source = {keys + first, values + first, new_keys + first_new, new_values + first_new, taken, width};
    const u32 n = seen + (grows ? number : 0);
    const Stored* query = q + row * width + column;
    out += row * width + column;
    const u32 packs = (dim + N - 1) / N;
    if (packs > 8) {
        if constexpr (N == 4) attend<16>(query, source, n, dim, scale, out, aligned, parts);
    } else if (packs > 4) {
        attend<8>(query, source, n, dim, scale, out, aligned, parts);
    } else if (packs > 2) {
        attend<4>(query, source, n, dim, scale, out, aligned, parts);
    } else {
        attend<2>(query, source, n, dim, scale, out, aligned, parts);
    }
}

// The first `taken` of the `every` rows of each block that `parents` names; `rows` are those of all blocks that are written.
TYPED(pick)(const Stored* x, const u32* parents, Stored* y, u32 rows, u32 taken, u32 every, u32 cols, bool aligned) {
    for_row_packs<N>(rows, cols, [&](u32 row, u32 at) {
        const u32 block = row / taken;
        const u64 place = row - block * taken;
        const Few<N> few = load<N>(x + ((u64)parents[block] * every + place) * cols, at, cols, aligned);
        store<N>(y + ((u64)block * every + place) * cols, few, at, cols, aligned);
    });
}

// Word plus position embedding of the last token of each text, of which `tokens` holds `room`.
TYPED(embed_last)(
    const float* words, const float* table, const u32* tokens, u32 room, const u32* lengths, Stored* y, u32 rows, u32 cols, bool aligned
) {
    for_row_packs<N>(rows, cols, [&](u32 row, u32 at) {
        const u32 position = lengths[row] - 1;
        Few<N> few = load<N>(words + (u64)tokens[(u64)row * room + position] * cols, at, cols, aligned);
        const Few<N> place = load<N>(table + (u64)position * cols, at, cols, aligned);
#pragma unroll
        for (u32 i = 0; i < N; i++) few.v[i] += place.v[i];
        store<N>(y + (u64)row * cols, few, at, cols, aligned);
    });
}
