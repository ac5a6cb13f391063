// Attention on tensor cores, for bf16 and heads of 64 columns. Sums, statistics and exponents are fp32; probabilities and the
// gradients of scores are rounded to bf16 where they become a factor of a product.
//
// A warp has a strip: up to 16 queries of one sequence (or, for their gradients, 16 keys). The warps of a block share their keys,
// whatever sequences their strips are of, so texts that read one image fill a block. A warp has its rows' scores, results and
// sums in registers: the fragments of a product's result are those of the next one's left factor. Keys and values (or queries and
// gradients) come through shared memory, 64 rows at a time, the next while the present ones are at work.
//
// Scores s = q·k are raw: probabilities are 2^(s·exponent − …) with exponent = scale · log₂e. Scale and the factor of dropout are
// applied to the sums.

#include "random.cuh"
#include "tensor.cuh"

constexpr u32 STRIP = 16;
constexpr u32 STRIP_BYTES = STRIP * ROW_BYTES;
constexpr u32 TILE = 64;
constexpr u32 TILE_BYTES = TILE * ROW_BYTES;
constexpr u32 STRIPS = TILE / STRIP;
constexpr float LOG2_E = 1.4426950408889634f;

// 7 warps, so that 13 strips (an image of 197 tokens) are two blocks, two of which a multiprocessor has at a time.
#define FLASH extern "C" __global__ void __launch_bounds__(224, 2)

// Shared memory set aside by the host.
#ifndef SHARED
#define SHARED(name) extern __shared__ __align__(1024) unsigned char name[]
#endif

// Up to 16 queries of a sequence.
struct Strip {
    u32 row;    // first row among all queries
    u32 first;  // its number in the sequence
    u32 count;
    u32 k_row;  // first of the sequence's keys among all keys
    u32 nk;
    u32 causal;  // query i sees keys below causal + i; 0: all
    u32 sample;
    u32 position;  // of the sequence's first query
};

// Strips that share their keys, a warp each.
struct Strips {
    u32 begin, end;
    u32 k_row;
    u32 seen;  // keys that any of them sees
    u32 unused[4];
};

// Some keys, and the strips that read them.
struct Keys {
    u32 row;    // first row among all keys
    u32 first;  // its number in the sequences
    u32 count;
    u32 begin, end;
    u32 causal;  // whether any query does not see them all
    u32 unused[2];
};

// A matrix with heads side by side, from the head of this block on.
struct Head {
    const bf16* data;
    u32 stride;

    __device__ __forceinline__ const bf16* row(u32 row) const { return data + (u64)row * stride; }
};

// A mask of probabilities; no factor, no mask.
struct Mask {
    u64 key;
    u32 threshold;
    float factor;

    __device__ __forceinline__ bool drops() const { return factor != 0.0f; }
};

// What backward needs of a query: log₂ Σ 2^(s·exponent), and y · dy.
struct Known {
    float log_sum, along;
};

// Results of 16 rows by 64 columns; factors of 16 rows by 64 columns.
typedef float Sums[8][4];
typedef u32 Factors[4][4];

__device__ __forceinline__ u32 lane() { return threadIdx.x % 32; }
__device__ __forceinline__ u32 warp() { return threadIdx.x / 32; }
__device__ __forceinline__ u32 group() { return lane() / 4; }
__device__ __forceinline__ u32 place() { return lane() % 4; }

// Where a lane's row of four matrices is, relative to 16 rows of a tile, for columns 16·n to 16·n + 15.
//
// `across`: matrices 0 and 1 lie side by side, 2 and 3 below them. That is a right factor for 16 of the tile's rows as columns.
// `down`: matrices 0 and 1 lie one above the other, 2 and 3 to their right. That is a left factor, or, turned, a right one.
__device__ __forceinline__ u32 across(u32 n) {
    const u32 l = lane();
    return (l / 16 * 8 + l % 8) * ROW_BYTES + ((l / 8 % 2 ^ l % 8 ^ 2 * n) << 4);
}
__device__ __forceinline__ u32 down(u32 n) {
    const u32 l = lane();
    return (l / 8 % 2 * 8 + l % 8) * ROW_BYTES + ((l / 16 ^ l % 8 ^ 2 * n) << 4);
}

// Where chunk `c` of row `r` of a tile is.
__device__ __forceinline__ u32 chunk(u32 r, u32 c) { return r * ROW_BYTES + ((c ^ r % 8) << 4); }

// Starts to copy a warp's strip; zeros beyond `count`.
__device__ __forceinline__ void copy_strip(u32 strip, const Head& x, u32 row, u32 count) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const u32 r = i * 4 + lane() / 8, c = lane() % 8;
        const bool exists = r < count;
        copy16(strip + chunk(r, c), x.row(row + (exists ? r : 0)) + c * 8, exists);
    }
}

// Starts to copy `count` rows of two matrices into two tiles, with zeros up to a multiple of 16.
__device__ __forceinline__ void copy_tiles(u32 tiles, const Head& a, const Head& b, u32 row, u32 count) {
    const u32 end = (count + STRIP - 1) / STRIP * STRIP * 8;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < end; i += blockDim.x) {
        const u32 r = i / 8, c = i % 8, to = tiles + chunk(r, c);
        const bool exists = r < count;
        const u32 from = row + (exists ? r : 0);
        copy16(to, a.row(from) + c * 8, exists);
        copy16(to + TILE_BYTES, b.row(from) + c * 8, exists);
    }
}

__device__ __forceinline__ void load_factors(Factors& factors, u32 strip) {
#pragma unroll
    for (u32 n = 0; n < 4; n++) load_matrices(factors[n], strip + down(n));
}

__device__ __forceinline__ void clear(Sums& sums) {
#pragma unroll
    for (u32 n = 0; n < 8; n++) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) sums[n][i] = 0.0f;
    }
}

// dots = left · rowsᵀ for the 16 rows of a tile from address `rows` on.
__device__ __forceinline__ void products(float (&dots)[2][4], const Factors& left, u32 rows) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) dots[0][i] = dots[1][i] = 0.0f;
#pragma unroll
    for (u32 n = 0; n < 4; n++) {
        u32 right[4];
        load_matrices(right, across(n) + rows);
        multiply_add(dots[0], left[n], right[0], right[1]);
        multiply_add(dots[1], left[n], right[2], right[3]);
    }
}

// sums += left · rows for the 16 rows of a tile from address `rows` on.
__device__ __forceinline__ void accumulate(Sums& sums, const float (&left)[2][4], u32 rows) {
    const u32 a[4] = {
        pack(left[0][0], left[0][1]),
        pack(left[0][2], left[0][3]),
        pack(left[1][0], left[1][1]),
        pack(left[1][2], left[1][3]),
    };
#pragma unroll
    for (u32 n = 0; n < 4; n++) {
        u32 right[4];
        load_turned(right, down(n) + rows);
        multiply_add(sums[2 * n], a, right[0], right[1]);
        multiply_add(sums[2 * n + 1], a, right[2], right[3]);
    }
}

// Writes the first `count` of a warp's 16 rows, times a factor for each of a lane's two, through its strip of shared memory.
__device__ __forceinline__ void write(
    unsigned char* strip, bf16* y, u32 stride, u32 row, u32 count, const Sums& sums, float upper, float lower
) {
    __syncwarp();
#pragma unroll
    for (u32 n = 0; n < 8; n++) {
        const u32 at = chunk(group(), n) + place() * 4;
        *reinterpret_cast<u32*>(strip + at) = pack(sums[n][0] * upper, sums[n][1] * upper);
        *reinterpret_cast<u32*>(strip + at + 8 * ROW_BYTES) = pack(sums[n][2] * lower, sums[n][3] * lower);
    }
    __syncwarp();
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const u32 r = i * 4 + lane() / 8, c = lane() % 8;
        const uint4 values = *reinterpret_cast<const uint4*>(strip + chunk(r, c));
        if (r < count) *reinterpret_cast<uint4*>(y + (u64)(row + r) * stride + c * 8) = values;
    }
}

// Bits of four words that are kept.
__device__ __forceinline__ u32 draw(const Mask& mask, u32 key, u32 position, u32 sample) {
    const Random4 random = philox(mask.key, key / 4, position, sample, blockIdx.y + 1);
    u32 bits = 0;
#pragma unroll
    for (u32 w = 0; w < 4; w++) bits |= (random.word[w] < mask.threshold ? 0u : 1u) << w;
    return bits;
}

// Which of a warp's 16 queries by 16 keys are kept: bit 8·b + 4·h + e is for query group + 8·h and key 8·b + 2·place + e.
// `position` is that of the first query.
//
// Four neighbouring keys share a counter: each lane draws two counters, and the four lanes of a row exchange what they drew.
__device__ __forceinline__ u32 draw_queries(const Mask& mask, u32 position, u32 sample, u32 key) {
    const u32 t = place();
    const u32 upper = draw(mask, key + 4 * t, position + group(), sample);
    const u32 lower = draw(mask, key + 4 * t, position + group() + 8, sample);
    const u32 drawn = upper | lower << 4;
    const u32 near = __shfl_sync(0xffffffffu, drawn, lane() - t + t / 2);
    const u32 far = __shfl_sync(0xffffffffu, drawn, lane() - t + 2 + t / 2);
    const u32 shift = t % 2 * 2;
    return (near >> shift & 0x33u) | (far >> shift & 0x33u) << 8;
}

// The same with keys as rows: bit 8·b + 4·h + e is for key group + 8·h and query 8·b + 2·place + e.
__device__ __forceinline__ u32 draw_keys(const Mask& mask, u32 position, u32 sample, u32 key) {
    const u32 query = lane() % 16, four = lane() / 16;
    const u32 upper = draw(mask, key + 4 * four, position + query, sample);
    const u32 lower = draw(mask, key + 4 * four + 8, position + query, sample);
    const u32 drawn = upper | lower << 4;
    u32 bits = 0;
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const u32 b = i / 2, e = i % 2;
        const u32 theirs = __shfl_sync(0xffffffffu, drawn, group() / 4 * 16 + 8 * b + 2 * place() + e);
        bits |= (theirs >> group() % 4 & 0x11u) << (8 * b + e);
    }
    return bits;
}

// Clears what is dropped, and multiplies the rest.
__device__ __forceinline__ void drop(float (&v)[2][4], u32 bits, float factor) {
#pragma unroll
    for (u32 b = 0; b < 2; b++) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) v[b][i] = bits >> (8 * b + 4 * (i / 2) + i % 2) & 1u ? v[b][i] * factor : 0.0f;
    }
}

// Keys below this are seen by a strip's query.
__device__ __forceinline__ u32 horizon(const Strip& strip, u32 query) {
    return strip.causal == 0 ? strip.nk : min(strip.nk, strip.causal + strip.first + query);
}

// Keys of a tile that a lane's two queries see, and those that any of the strip's sees, and that all see.
struct View {
    u32 upper, lower, any, all;

    __device__ __forceinline__ View(const Strip& strip, u32 k0) {
        upper = below(horizon(strip, group()), k0);
        lower = below(horizon(strip, group() + 8), k0);
        any = below(horizon(strip, strip.count - 1), k0);
        all = below(horizon(strip, 0), k0);
    }

    __device__ static __forceinline__ u32 below(u32 end, u32 k0) { return end > k0 ? min(end - k0, TILE) : 0; }

    // Whether element i of block b of keys from `key` on is seen.
    __device__ __forceinline__ bool sees(u32 key, u32 b, u32 i) const {
        return key + 8 * b + 2 * place() + i % 2 < (i < 2 ? upper : lower);
    }
};

__device__ __forceinline__ float quad_max(float v) {
    v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 1));
    return fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 2));
}

__device__ __forceinline__ float quad_sum(float v) {
    v += __shfl_xor_sync(0xffffffffu, v, 1);
    return v + __shfl_xor_sync(0xffffffffu, v, 2);
}

// A strip's results so far: of a lane's two rows the largest score and the sum of 2^((s − largest)·exponent).
struct Softmax {
    Sums sums;
    float top[2], total[2];
};

// Goes through a tile of keys. `WHOLE`: every query sees all of them.
template <bool WHOLE>
__device__ __forceinline__ void attend(
    Softmax& soft, const Factors& q, u32 tiles, const View& view, float exponent, const Mask& mask, const Strip& strip, u32 k0
) {
    float p[STRIPS][2][4], shrink[2], offset[2];
    float largest[2] = {soft.top[0], soft.top[1]};
#pragma unroll
    for (u32 n = 0; n < STRIPS; n++) {
        if (WHOLE || n * STRIP < view.any) products(p[n], q, tiles + n * STRIP_BYTES);
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            const u32 b = i / 4, at = i % 4;
            if (!WHOLE && !view.sees(n * STRIP, b, at)) p[n][b][at] = -INFINITY;
            largest[at / 2] = fmaxf(largest[at / 2], p[n][b][at]);
        }
    }
#pragma unroll
    for (u32 h = 0; h < 2; h++) {
        largest[h] = quad_max(largest[h]);
        shrink[h] = power_of_2((soft.top[h] - largest[h]) * exponent);
        offset[h] = largest[h] * exponent;
        soft.top[h] = largest[h];
        soft.total[h] *= shrink[h];
    }
#pragma unroll
    for (u32 i = 0; i < 32; i++) soft.sums[i / 4][i % 4] *= shrink[i % 4 / 2];
#pragma unroll
    for (u32 n = 0; n < STRIPS; n++) {
        if (!WHOLE && n * STRIP >= view.any) continue;
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            float& v = p[n][i / 4][i % 4];
            v = power_of_2(fmaf(v, exponent, -offset[i % 4 / 2]));
            soft.total[i % 4 / 2] += v;
        }
        if (mask.drops()) {
            const u32 key = k0 + n * STRIP;
            drop(p[n], draw_queries(mask, strip.position + strip.first, strip.sample, key), 1.0f);
        }
        accumulate(soft.sums, p[n], tiles + TILE_BYTES + n * STRIP_BYTES);
    }
}

// out = softmax(q·kᵀ · scale) · v. Shared memory: a strip for each warp, then one or two pairs of tiles.
FLASH flash(
    const Strips* blocks, const Strip* strips, const bf16* q, u32 q_stride, const bf16* k, u32 k_stride, const bf16* v, u32 v_stride, u32 dim,
    float scale, u64 key, u32 threshold, float factor, bf16* out, u32 width, float* kept, u32 rows
) {
    SHARED(shared);
    const Strips block = blocks[blockIdx.x];
    const u32 start = blockIdx.y * dim;
    const Head queries = {q + start, q_stride}, keys = {k + start, k_stride}, values = {v + start, v_stride};
    const Mask mask = {key, threshold, factor};
    const float exponent = scale * LOG2_E;
    unsigned char* mine = shared + warp() * STRIP_BYTES;
    u32 tiles = shared_address(shared) + blockDim.x / 32 * STRIP_BYTES, next = tiles + 2 * TILE_BYTES;
    const bool works = block.begin + warp() < block.end;
    const Strip& strip = strips[works ? block.begin + warp() : block.begin];
    if (works) copy_strip(shared_address(mine), queries, strip.row, strip.count);
    end_copies();
    copy_tiles(tiles, keys, values, block.k_row, min(TILE, block.seen));
    end_copies();
    await_copies<1>();
    __syncwarp();
    Factors own;
    load_factors(own, shared_address(mine));
    Softmax soft;
    clear(soft.sums);
    soft.top[0] = soft.top[1] = -INFINITY;
    soft.total[0] = soft.total[1] = 0.0f;
    for (u32 k0 = 0; k0 < block.seen; k0 += TILE) {
        if (k0 + TILE < block.seen) {
            copy_tiles(next, keys, values, block.k_row + k0 + TILE, min(TILE, block.seen - k0 - TILE));
        }
        end_copies();
        await_copies<1>();
        __syncthreads();
        const View view(strip, k0);
        if (works && view.all == TILE) {
            attend<true>(soft, own, tiles, view, exponent, mask, strip, k0);
        } else if (works && view.any > 0) {
            attend<false>(soft, own, tiles, view, exponent, mask, strip, k0);
        }
        __syncthreads();
        const u32 done = tiles;
        tiles = next;
        next = done;
    }
    if (!works) return;
    float by[2];
#pragma unroll
    for (u32 h = 0; h < 2; h++) {
        const float total = quad_sum(soft.total[h]);
        by[h] = total > 0.0f ? (mask.drops() ? factor : 1.0f) / total : 0.0f;
        const u32 r = group() + 8 * h;
        if (kept != nullptr && place() == 0 && r < strip.count) {
            float* numbers = kept + 2 * ((u64)blockIdx.y * rows + strip.row + r);
            numbers[0] = soft.top[h] * scale;
            numbers[1] = logf(total);
        }
    }
    write(mine, out + start, width, strip.row, strip.count, soft.sums, by[0], by[1]);
}

// What backward needs of a warp's 16 queries, given what forward kept and their gradients in shared memory; to `known`, and to
// `here` in shared memory, with zeros beyond `count`.
__device__ __forceinline__ void know(
    Known* here, const unsigned char* strip_dy, const Head& y, const float* kept, Known* known, u32 row, u32 count
) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const u32 r = i * 4 + lane() / 8, c = lane() % 8;
        uint4 a = {0, 0, 0, 0};
        if (r < count) a = *reinterpret_cast<const uint4*>(y.row(row + r) + c * 8);
        const uint4 b = *reinterpret_cast<const uint4*>(strip_dy + chunk(r, c));
        const u32 of_y[4] = {a.x, a.y, a.z, a.w}, of_dy[4] = {b.x, b.y, b.z, b.w};
        float sum = 0.0f;
#pragma unroll
        for (u32 w = 0; w < 4; w++) {
            sum = fmaf(low_of(of_y[w]), low_of(of_dy[w]), sum);
            sum = fmaf(high_of(of_y[w]), high_of(of_dy[w]), sum);
        }
        sum = quad_sum(sum);
        sum += __shfl_xor_sync(0xffffffffu, sum, 4);
        if (c != 0) continue;
        Known numbers = {0.0f, 0.0f};
        if (r < count) {
            const float2 of = *reinterpret_cast<const float2*>(kept + 2 * (row + r));
            numbers = {(of.x + of.y) * LOG2_E, sum};
            known[row + r] = numbers;
        }
        here[r] = numbers;
    }
    __syncwarp();
}

// Goes through a tile of keys for the gradients of queries. `WHOLE`: every query sees all of them.
template <bool WHOLE>
__device__ __forceinline__ void descend(
    Sums& sums, const Factors& q, const Factors& dy, const Known (&known)[2], u32 tiles, const View& view, float exponent,
    const Mask& mask, const Strip& strip, u32 k0
) {
#pragma unroll
    for (u32 n = 0; n < STRIPS; n++) {
        if (!WHOLE && n * STRIP >= view.any) continue;
        float s[2][4], d[2][4];
        products(s, q, tiles + n * STRIP_BYTES);
        products(d, dy, tiles + TILE_BYTES + n * STRIP_BYTES);
        if (mask.drops()) {
            const u32 key = k0 + n * STRIP;
            drop(d, draw_queries(mask, strip.position + strip.first, strip.sample, key), mask.factor);
        }
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            const u32 b = i / 4, at = i % 4;
            const Known& of = known[at / 2];
            const float p = power_of_2(fmaf(s[b][at], exponent, -of.log_sum));
            s[b][at] = WHOLE || view.sees(n * STRIP, b, at) ? (d[b][at] - of.along) * p : 0.0f;
        }
        accumulate(sums, s, tiles + n * STRIP_BYTES);
    }
}

// dq = dS · k with dS = (dP − along) · P · scale, where dP = dy·vᵀ through the mask; and what the gradients of keys need of each
// query. Shared memory: strips of queries, strips of their gradients, one or two pairs of tiles, and what is known of the queries.
FLASH flash_queries(
    const Strips* blocks, const Strip* strips, const bf16* q, u32 q_stride, const bf16* k, u32 k_stride, const bf16* v, u32 v_stride, u32 dim,
    float scale, u64 key, u32 threshold, float factor, const bf16* dy, const bf16* y, const float* kept,
    Known* known, u32 rows, u32 width, bf16* dq, u32 dq_stride
) {
    SHARED(shared);
    const Strips block = blocks[blockIdx.x];
    const u32 start = blockIdx.y * dim, warps = blockDim.x / 32;
    const Head queries = {q + start, q_stride}, keys = {k + start, k_stride}, values = {v + start, v_stride};
    const Head gradients = {dy + start, width}, results = {y + start, width};
    const Mask mask = {key, threshold, factor};
    const float exponent = scale * LOG2_E;
    unsigned char *mine = shared + warp() * STRIP_BYTES, *mine_dy = mine + warps * STRIP_BYTES;
    Known* here = reinterpret_cast<Known*>(shared + warps * 2 * STRIP_BYTES) + warp() * STRIP;
    u32 tiles = shared_address(shared) + warps * (2 * STRIP_BYTES + STRIP * (u32)sizeof(Known)), next = tiles + 2 * TILE_BYTES;
    const bool works = block.begin + warp() < block.end;
    const Strip& strip = strips[works ? block.begin + warp() : block.begin];
    if (works) {
        copy_strip(shared_address(mine), queries, strip.row, strip.count);
        copy_strip(shared_address(mine_dy), gradients, strip.row, strip.count);
    }
    end_copies();
    copy_tiles(tiles, keys, values, block.k_row, min(TILE, block.seen));
    end_copies();
    await_copies<1>();
    __syncwarp();
    if (works) {
        const u64 of_head = (u64)blockIdx.y * rows;
        know(here, mine_dy, results, kept + 2 * of_head, known + of_head, strip.row, strip.count);
    }
    Factors own, own_dy;
    load_factors(own, shared_address(mine));
    load_factors(own_dy, shared_address(mine_dy));
    const Known of[2] = {here[group()], here[group() + 8]};
    Sums sums;
    clear(sums);
    for (u32 k0 = 0; k0 < block.seen; k0 += TILE) {
        if (k0 + TILE < block.seen) {
            copy_tiles(next, keys, values, block.k_row + k0 + TILE, min(TILE, block.seen - k0 - TILE));
        }
        end_copies();
        await_copies<1>();
        __syncthreads();
        const View view(strip, k0);
        if (works && view.all == TILE) {
            descend<true>(sums, own, own_dy, of, tiles, view, exponent, mask, strip, k0);
        } else if (works && view.any > 0) {
            descend<false>(sums, own, own_dy, of, tiles, view, exponent, mask, strip, k0);
        }
        __syncthreads();
        const u32 done = tiles;
        tiles = next;
        next = done;
    }
    if (works) write(mine, dq + start, dq_stride, strip.row, strip.count, sums, scale, scale);
}

// Starts to copy queries, their gradients and what is known of them into tiles, strip after strip.
__device__ __forceinline__ void copy_strips(
    u32 tiles, const Strip* strips, u32 count, const Head& q, const Head& dy, const Known* known
) {
#pragma unroll 1
    for (u32 i = threadIdx.x; i < count * STRIP * 8; i += blockDim.x) {
        const u32 r = i / 8, c = i % 8, to = tiles + chunk(r, c);
        const Strip& strip = strips[r / STRIP];
        const bool exists = r % STRIP < strip.count;
        const u32 from = strip.row + (exists ? r % STRIP : 0);
        copy16(to, q.row(from) + c * 8, exists);
        copy16(to + TILE_BYTES, dy.row(from) + c * 8, exists);
        if (c == 0) copy8(tiles + 2 * TILE_BYTES + r * (u32)sizeof(Known), known + from, exists);
    }
}

// Adds a strip's part to the gradients of a warp's 16 keys from number `key` on. Queries that do not exist are zeros, and so are
// their gradients: nothing comes of them. `MASKED`: dropout, or queries that do not see all keys.
template <bool MASKED>
__device__ __forceinline__ void gather(
    Sums& sums_k, Sums& sums_v, const Factors& k, const Factors& v, u32 rows, u32 known, float exponent, const Mask& mask,
    const Strip& strip, u32 key
) {
    u32 bits = 0;
    if (MASKED && mask.drops()) bits = draw_keys(mask, strip.position + strip.first, strip.sample, key);
    float s[2][4], d[2][4];
    products(s, k, rows);
    products(d, v, rows + TILE_BYTES);
    if (MASKED && mask.drops()) drop(d, bits, mask.factor);
    if (MASKED && strip.causal != 0 && key + STRIP > strip.causal + strip.first) {
        const u32 ahead = key + group() - strip.causal - strip.first - 2 * place();
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            // Whether key − causal ≥ query; as signed numbers, because keys may be few.
            const int beyond = (int)(ahead + 8 * (i / 2 % 2) - 8 * (i / 4) - i % 2);
            if (beyond >= 0) s[i / 4][i % 4] = -INFINITY;
        }
    }
#pragma unroll
    for (u32 b = 0; b < 2; b++) {
        const float4 two = load_four(known + (8 * b + 2 * place()) * (u32)sizeof(Known));
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const float log_sum = i % 2 == 0 ? two.x : two.z, along = i % 2 == 0 ? two.y : two.w;
            s[b][i] = power_of_2(fmaf(s[b][i], exponent, -log_sum));
            d[b][i] = (d[b][i] - along) * s[b][i];
        }
    }
    if (MASKED && mask.drops()) drop(s, bits, 1.0f);
    accumulate(sums_v, s, rows + TILE_BYTES);
    accumulate(sums_k, d, rows);
}

// dv = Pᵀ · dy with P through the mask, and dk = dSᵀ · q, over the strips that read the keys, in order. Shared memory: strips of
// keys, strips of values, and one or two pairs of tiles, each followed by what is known of its queries.
FLASH flash_keys(
    const Keys* blocks, const Strip* strips, const bf16* q, u32 q_stride, const bf16* k, u32 k_stride, const bf16* v, u32 v_stride, u32 dim,
    float scale, u64 key, u32 threshold, float factor, const bf16* dy, const Known* known, u32 rows, u32 width,
    bf16* dk, bf16* dv, u32 stride
) {
    SHARED(shared);
    const Keys& block = blocks[blockIdx.x];
    const u32 start = blockIdx.y * dim, warps = blockDim.x / 32;
    const Head queries = {q + start, q_stride}, keys = {k + start, k_stride}, values = {v + start, v_stride};
    const Head gradients = {dy + start, width};
    const Known* of_head = known + (u64)blockIdx.y * rows;
    const Mask mask = {key, threshold, factor};
    const float exponent = scale * LOG2_E;
    unsigned char *mine = shared + warp() * STRIP_BYTES, *mine_v = mine + warps * STRIP_BYTES;
    const u32 first = warp() * STRIP, count = first < block.count ? min(STRIP, block.count - first) : 0;
    u32 tiles = shared_address(shared) + warps * 2 * STRIP_BYTES, next = tiles + 2 * TILE_BYTES + TILE * (u32)sizeof(Known);
    const u32 row = block.row + (count > 0 ? first : 0);
    copy_strip(shared_address(mine), keys, row, count);
    copy_strip(shared_address(mine_v), values, row, count);
    end_copies();
    copy_strips(tiles, strips + block.begin, min(STRIPS, block.end - block.begin), queries, gradients, of_head);
    end_copies();
    await_copies<1>();
    __syncwarp();
    Factors own, own_v;
    load_factors(own, shared_address(mine));
    load_factors(own_v, shared_address(mine_v));
    const bool masked = block.causal != 0 || mask.drops();
    Sums sums_k, sums_v;
    clear(sums_k);
    clear(sums_v);
    for (u32 at = block.begin; at < block.end; at += STRIPS) {
        if (at + STRIPS < block.end) {
            const u32 more = min(STRIPS, block.end - at - STRIPS);
            copy_strips(next, strips + at + STRIPS, more, queries, gradients, of_head);
        }
        end_copies();
        await_copies<1>();
        __syncthreads();
        const u32 present = count > 0 ? min(STRIPS, block.end - at) : 0;
        for (u32 n = 0; n < present; n++) {
            const Strip& strip = strips[at + n];
            const u32 part = tiles + n * STRIP_BYTES, here = tiles + 2 * TILE_BYTES + n * STRIP * (u32)sizeof(Known);
            if (!masked) {
                gather<false>(sums_k, sums_v, own, own_v, part, here, exponent, mask, strip, block.first + first);
            } else if (horizon(strip, strip.count - 1) > block.first + first) {
                gather<true>(sums_k, sums_v, own, own_v, part, here, exponent, mask, strip, block.first + first);
            }
        }
        __syncthreads();
        const u32 done = tiles;
        tiles = next;
        next = done;
    }
    const float kept_by = mask.drops() ? factor : 1.0f;
    write(mine, dk + start, stride, row, count, sums_k, scale, scale);
    write(mine_v, dv + start, stride, row, count, sums_v, kept_by, kept_by);
}
