// Included for both formats of `Stored`; see both.cuh.

constexpr u32 TILE = 64;
constexpr u32 PITCH = 68;
constexpr u32 TILE_SIZE = TILE * PITCH;

// Some queries of a sequence, and the sequence's keys.
struct Part {
    u32 q_row;    // first row among all queries
    u32 q_first;  // its number in the sequence
    u32 q_count;
    u32 k_row;  // first row among all keys
    u32 nk;
    u32 causal;  // query i sees keys below causal + i; 0: all
    u32 sample;
    u32 position;  // of the sequence's first query
};

// Some keys, and the sequences that read them.
struct Keys {
    u32 row;    // first row among all keys
    u32 first;  // its number in the sequences
    u32 count;
    u32 begin, end;
    u32 unused[3];
};

// A mask of probabilities; no factor, no mask.
struct Mask {
    u64 key;
    u32 threshold;
    float factor;
};

__device__ __forceinline__ u32 seat_x() { return threadIdx.x % 16; }
__device__ __forceinline__ u32 seat_y() { return threadIdx.x / 16; }

__device__ __forceinline__ float over_row(float v, bool largest) {
#pragma unroll
    for (u32 other = 8; other > 0; other /= 2) {
        const float theirs = __shfl_xor_sync(0xffffffffu, v, other);
        v = largest ? fmaxf(v, theirs) : v + theirs;
    }
    return v;
}

// `count` rows from `row` on of a head that begins at x; zeros in the rest of the tile.
__device__ __forceinline__ void load_tile(float* tile, const Stored* x, u64 stride, u32 row, u32 count, u32 dim, bool aligned) {
    for (u32 i = threadIdx.x; i < TILE * 16; i += THREADS) {
        const u32 r = i / 16, at = i % 16 * 4;
        Four four = {{0.0f, 0.0f, 0.0f, 0.0f}};
        if (r < count) four = load<4>(x + (row + r) * stride, at, dim, aligned);
        *reinterpret_cast<float4*>(tile + r * PITCH + at) = make_float4(four.v[0], four.v[1], four.v[2], four.v[3]);
    }
}

// dots[i][j] = a[4·ty + i] · b[tx + 16·j]
__device__ __forceinline__ void products(float (&dots)[4][4], const float* a, const float* b, u32 dim) {
    a += seat_y() * 4 * PITCH;
    b += seat_x() * PITCH;
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
#pragma unroll
        for (u32 j = 0; j < 4; j++) dots[i][j] = 0.0f;
    }
#pragma unroll 2
    for (u32 d = 0; d < dim; d += 4) {
        float4 x[4], y[4];
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            x[i] = *reinterpret_cast<const float4*>(a + i * PITCH + d);
            y[i] = *reinterpret_cast<const float4*>(b + i * 16 * PITCH + d);
        }
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
#pragma unroll
            for (u32 j = 0; j < 4; j++) {
                dots[i][j] = fmaf(x[i].x, y[j].x, dots[i][j]);
                dots[i][j] = fmaf(x[i].y, y[j].y, dots[i][j]);
                dots[i][j] = fmaf(x[i].z, y[j].z, dots[i][j]);
                dots[i][j] = fmaf(x[i].w, y[j].w, dots[i][j]);
            }
        }
    }
}

// sums[i][c] += Σ left[n][4·ty + i] · right[n][4·tx + c], n ascending to `count`
__device__ __forceinline__ void accumulate(float (&sums)[4][4], const float* left, const float* right, u32 count) {
    left += seat_y() * 4;
    right += seat_x() * 4;
#pragma unroll 4
    for (u32 n = 0; n < count; n++) {
        const float4 l = *reinterpret_cast<const float4*>(left + n * PITCH);
        const float4 r = *reinterpret_cast<const float4*>(right + n * PITCH);
        const float a[4] = {l.x, l.y, l.z, l.w}, b[4] = {r.x, r.y, r.z, r.w};
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
#pragma unroll
            for (u32 c = 0; c < 4; c++) sums[i][c] = fmaf(a[i], b[c], sums[i][c]);
        }
    }
}

// Puts a thread's scores into a tile of keys × queries. What `accumulate` reads of it was written by the same half of a warp.
__device__ __forceinline__ void put_turned(float* tile, const float (&scores)[4][4]) {
#pragma unroll
    for (u32 j = 0; j < 4; j++) {
        float* row = tile + (seat_x() + 16 * j) * PITCH + seat_y() * 4;
        *reinterpret_cast<float4*>(row) = make_float4(scores[0][j], scores[1][j], scores[2][j], scores[3][j]);
    }
}

// Puts a thread's scores into a tile of queries × keys.
__device__ __forceinline__ void put(float* tile, const float (&scores)[4][4]) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
#pragma unroll
        for (u32 j = 0; j < 4; j++) tile[(seat_y() * 4 + i) * PITCH + seat_x() + 16 * j] = scores[i][j];
    }
}

// Writes the rows below `count` of a thread's results, times a factor for each, to those from `row` on of a head that begins at y.
__device__ __forceinline__ void write(
    Stored* y, u64 stride, u32 row, u32 count, u32 dim, bool aligned, const float (&sums)[4][4], const float (&factors)[4]
) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const u32 r = seat_y() * 4 + i;
        if (r >= count) continue;
        const float f = factors[i];
        const Four four = {{sums[i][0] * f, sums[i][1] * f, sums[i][2] * f, sums[i][3] * f}};
        store<4>(y + (row + r) * stride, four, seat_x() * 4, dim, aligned);
    }
}

// Bit 4·i + j: whether the probability in row i and column j of a thread is kept. `position` is that of the tile's first query,
// `first` the number of its first key, a multiple of 4.
//
// The words of four neighbouring keys come from one counter, but belong to four lanes: each lane draws those of keys 4·tx to
// 4·tx + 3 and the lanes of a row exchange them.
__device__ __forceinline__ u32 draw(const Mask& mask, u32 position, u32 sample, u32 head, u32 first) {
    const u32 tx = seat_x();
    u32 drawn = 0;
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const Random4 random = philox(mask.key, first / 4 + tx, position + seat_y() * 4 + i, sample, head + 1);
#pragma unroll
        for (u32 w = 0; w < 4; w++) drawn |= (random.word[w] < mask.threshold ? 0u : 1u) << (4 * i + w);
    }
    u32 bits = 0;
#pragma unroll
    for (u32 j = 0; j < 4; j++) {
        const u32 theirs = __shfl_sync(0xffffffffu, drawn, (threadIdx.x & 16) + tx / 4 + 4 * j);
#pragma unroll
        for (u32 i = 0; i < 4; i++) bits |= (theirs >> (4 * i + tx % 4) & 1u) << (4 * i + j);
    }
    return bits;
}

__device__ __forceinline__ float masked(float v, const Mask& mask, u32 bits, u32 i, u32 j) {
    if (mask.factor == 0.0f) return v;
    return bits >> (4 * i + j) & 1u ? v * mask.factor : 0.0f;
}

// Keys below this are seen by the query with this number.
__device__ __forceinline__ u32 horizon(const Part& part, u32 query) {
    return part.causal == 0 ? part.nk : min(part.nk, part.causal + query);
}

// out = softmax(q·kᵀ · scale) · v. The largest score so far of a row and the sum of exp(score − largest) are kept up with the keys.
TYPED(attention)(
    const Part* parts, const Stored* q, u64 q_stride, const Stored* k, u64 k_stride, const Stored* v, u64 v_stride, u32 dim,
    float scale, u64 key, u32 threshold, float factor, Stored* out, u64 width, float* kept, u32 rows, bool aligned
) {
    TILES(tiles);
    float *tile_q = tiles, *tile_k = tile_q + TILE_SIZE, *tile_v = tile_k + TILE_SIZE, *tile_p = tile_v + TILE_SIZE;
    const Part part = parts[blockIdx.x];
    const Mask mask = {key, threshold, factor};
    const u32 head = blockIdx.y, tx = seat_x();
    load_tile(tile_q, q + head * dim, q_stride, part.q_row, part.q_count, dim, aligned);
    float sums[4][4] = {}, top[4], total[4];
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        top[i] = -INFINITY;
        total[i] = 0.0f;
    }
    const u32 seen = horizon(part, part.q_first + part.q_count - 1);
    for (u32 k0 = 0; k0 < seen; k0 += TILE) {
        const u32 count = min(TILE, seen - k0);
        __syncthreads();
        load_tile(tile_k, k + head * dim, k_stride, part.k_row + k0, count, dim, aligned);
        load_tile(tile_v, v + head * dim, v_stride, part.k_row + k0, count, dim, aligned);
        __syncthreads();
        float p[4][4];
        products(p, tile_q, tile_k, dim);
        u32 bits = 0;
        if (factor != 0.0f) bits = draw(mask, part.position + part.q_first, part.sample, head, k0);
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const u32 limit = min(seen, horizon(part, part.q_first + seat_y() * 4 + i));
            float largest = top[i];
#pragma unroll
            for (u32 j = 0; j < 4; j++) {
                p[i][j] = k0 + tx + 16 * j < limit ? p[i][j] * scale : -INFINITY;
                largest = fmaxf(largest, p[i][j]);
            }
            largest = over_row(largest, true);
            const float shrink = expf(top[i] - largest);
            top[i] = largest;
            total[i] *= shrink;
#pragma unroll
            for (u32 j = 0; j < 4; j++) {
                p[i][j] = expf(p[i][j] - largest);
                total[i] += p[i][j];
                p[i][j] = masked(p[i][j], mask, bits, i, j);
                sums[i][j] *= shrink;
            }
        }
        put_turned(tile_p, p);
        __syncwarp();
        accumulate(sums, tile_p, tile_v, count);
    }
    float inverse[4];
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        total[i] = over_row(total[i], false);
        inverse[i] = seen > 0 ? 1.0f / total[i] : 0.0f;
        const u32 r = seat_y() * 4 + i;
        if (kept != nullptr && tx == 0 && r < part.q_count) {
            float* numbers = kept + 2 * ((u64)head * rows + part.q_row + r);
            numbers[0] = top[i];
            numbers[1] = logf(total[i]);
        }
    }
    write(out + head * dim, width, part.q_row, part.q_count, dim, aligned, sums, inverse);
}

// along[head][row] = y · dy within the head: what a softmax takes off the gradients of a row's probabilities.
TYPED(attention_along)(const Stored* y, const Stored* dy, u32 dim, u32 heads, u32 rows, float* along) {
    const u32 index = warp_row();
    if (index >= heads * rows) return;
    const u64 start = (u64)index * dim;
    float sum = 0.0f;
    for (u32 d = threadIdx.x % 32; d < dim; d += 32) sum = fmaf(widen(y[start + d]), widen(dy[start + d]), sum);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) along[(u64)(index % heads) * rows + index / heads] = sum;
}

// What backward needs of a thread's four rows; zeros where there are none.
struct Rows {
    float top[4], log_sum[4], along[4];
};

__device__ __forceinline__ Rows load_rows(const float* kept, const float* along, u64 start, u32 count) {
    Rows rows;
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const u32 r = seat_y() * 4 + i;
        const bool is = r < count;
        rows.top[i] = is ? kept[2 * (start + r)] : 0.0f;
        rows.log_sum[i] = is ? kept[2 * (start + r) + 1] : 0.0f;
        rows.along[i] = is ? along[start + r] : 0.0f;
    }
    return rows;
}

// dq = dS · k with dS = (dP − along) · P · scale, where dP = dy·vᵀ through the mask
TYPED(attention_queries)(
    const Part* parts, const Stored* q, u64 q_stride, const Stored* k, u64 k_stride, const Stored* v, u64 v_stride, u32 dim,
    float scale, u64 key, u32 threshold, float factor, const Stored* dy, const float* kept, const float* along, u32 rows,
    Stored* dq, u64 width, bool aligned
) {
    TILES(tiles);
    float *tile_q = tiles, *tile_dy = tile_q + TILE_SIZE, *tile_k = tile_dy + TILE_SIZE, *tile_v = tile_k + TILE_SIZE;
    float* tile_ds = tile_v + TILE_SIZE;
    const Part part = parts[blockIdx.x];
    const Mask mask = {key, threshold, factor};
    const u32 head = blockIdx.y;
    load_tile(tile_q, q + head * dim, q_stride, part.q_row, part.q_count, dim, aligned);
    load_tile(tile_dy, dy + head * dim, width, part.q_row, part.q_count, dim, aligned);
    const Rows known = load_rows(kept, along, (u64)head * rows + part.q_row, part.q_count);
    float sums[4][4] = {};
    const u32 seen = horizon(part, part.q_first + part.q_count - 1);
    for (u32 k0 = 0; k0 < seen; k0 += TILE) {
        const u32 count = min(TILE, seen - k0);
        __syncthreads();
        load_tile(tile_k, k + head * dim, k_stride, part.k_row + k0, count, dim, aligned);
        load_tile(tile_v, v + head * dim, v_stride, part.k_row + k0, count, dim, aligned);
        __syncthreads();
        float s[4][4], d[4][4];
        products(s, tile_q, tile_k, dim);
        products(d, tile_dy, tile_v, dim);
        u32 bits = 0;
        if (factor != 0.0f) bits = draw(mask, part.position + part.q_first, part.sample, head, k0);
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const u32 limit = min(seen, horizon(part, part.q_first + seat_y() * 4 + i));
#pragma unroll
            for (u32 j = 0; j < 4; j++) {
                const bool sees = k0 + seat_x() + 16 * j < limit;
                const float p = sees ? expf(s[i][j] * scale - known.top[i] - known.log_sum[i]) : 0.0f;
                s[i][j] = (masked(d[i][j], mask, bits, i, j) - known.along[i]) * p * scale;
            }
        }
        put_turned(tile_ds, s);
        __syncwarp();
        accumulate(sums, tile_ds, tile_k, count);
    }
    const float one[4] = {1.0f, 1.0f, 1.0f, 1.0f};
    write(dq + head * dim, width, part.q_row, part.q_count, dim, aligned, sums, one);
}

// dv = Pᵀ · dy with P through the mask, and dk = dSᵀ · q, over the queries of all sequences that share the keys, in order
TYPED(attention_keys)(
    const Keys* all, const Part* parts, const Stored* q, u64 q_stride, const Stored* k, u64 k_stride, const Stored* v, u64 v_stride,
    u32 dim, float scale, u64 key, u32 threshold, float factor, const Stored* dy, const float* kept, const float* along, u32 rows,
    Stored* dk, Stored* dv, u64 width, bool aligned
) {
    TILES(tiles);
    float *tile_q = tiles, *tile_dy = tile_q + TILE_SIZE, *tile_k = tile_dy + TILE_SIZE, *tile_v = tile_k + TILE_SIZE;
    float* tile_scores = tile_v + TILE_SIZE;
    const Keys keys = all[blockIdx.x];
    const Mask mask = {key, threshold, factor};
    const u32 head = blockIdx.y;
    load_tile(tile_k, k + head * dim, k_stride, keys.row, keys.count, dim, aligned);
    load_tile(tile_v, v + head * dim, v_stride, keys.row, keys.count, dim, aligned);
    float sums_k[4][4] = {}, sums_v[4][4] = {};
    for (u32 n = keys.begin; n < keys.end; n++) {
        const Part part = parts[n];
        for (u32 q0 = 0; q0 < part.q_count; q0 += TILE) {
            const u32 count = min(TILE, part.q_count - q0);
            if (horizon(part, q0 + count - 1) <= keys.first) continue;
            __syncthreads();
            load_tile(tile_q, q + head * dim, q_stride, part.q_row + q0, count, dim, aligned);
            load_tile(tile_dy, dy + head * dim, width, part.q_row + q0, count, dim, aligned);
            const Rows known = load_rows(kept, along, (u64)head * rows + part.q_row + q0, count);
            __syncthreads();
            float s[4][4], d[4][4];
            products(s, tile_q, tile_k, dim);
            products(d, tile_dy, tile_v, dim);
            u32 bits = 0;
            if (factor != 0.0f) bits = draw(mask, part.position + q0, part.sample, head, keys.first);
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                const u32 limit = min(keys.first + keys.count, horizon(part, q0 + seat_y() * 4 + i));
#pragma unroll
                for (u32 j = 0; j < 4; j++) {
                    const bool sees = keys.first + seat_x() + 16 * j < limit;
                    const float p = sees ? expf(s[i][j] * scale - known.top[i] - known.log_sum[i]) : 0.0f;
                    d[i][j] = (masked(d[i][j], mask, bits, i, j) - known.along[i]) * p * scale;
                    s[i][j] = masked(p, mask, bits, i, j);
                }
            }
            // One after the other in the same tile: six tiles are more than a block may have on most devices.
            put(tile_scores, s);
            __syncthreads();
            accumulate(sums_v, tile_scores, tile_dy, count);
            __syncthreads();
            put(tile_scores, d);
            __syncthreads();
            accumulate(sums_k, tile_scores, tile_q, count);
        }
    }
    const float one[4] = {1.0f, 1.0f, 1.0f, 1.0f};
    write(dk + head * dim, width, keys.row, keys.count, dim, aligned, sums_k, one);
    write(dv + head * dim, width, keys.row, keys.count, dim, aligned, sums_v, one);
}
