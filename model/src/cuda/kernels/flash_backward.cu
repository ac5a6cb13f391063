// Attention on tensor cores, backward; see flash.cuh.
//
// Gradients of queries, then those of keys and values: each kernel computes the scores for itself, so that every sum is one warp's, in
// a fixed order. A warp has 16 rows, queries or keys, and goes through the others, which the warps of a block share: 64 at a time,
// the next on their way while the present ones are at work. Masks are drawn once, for the queries, and left in memory for the keys.

#include "flash.cuh"

constexpr u32 TILE = 64;
constexpr u32 TILE_BYTES = TILE * ROW_BYTES;
constexpr u32 STRIPS = TILE / STRIP;

// Most warps of a block.
constexpr u32 WARPS = 8;

// Two blocks on a multiprocessor: a thread may have 128 registers.
#define FLASH extern "C" __global__ void __launch_bounds__(32 * WARPS, 2)

// Some keys, and the strips that read them.
struct Keys {
    u32 row;    // first row among all keys
    u32 first;  // its number in the sequences
    u32 count;
    u32 begin, end;
    u32 causal;  // whether any query does not see them all
    u32 unused[2];
};

// What is needed of a query: log₂ Σ 2^(s·exponent), and y · dy.
struct Known {
    float log_sum, along;
};

constexpr u32 KNOWN_BYTES = STRIP * sizeof(Known);

// What was drawn for 16 queries and 16 keys: a byte from each lane.
constexpr u32 DRAWN_BYTES = 32;

// Bytes before what was drawn for a strip of queries and the head of this block, for one strip of keys after the other.
__device__ __forceinline__ u64 drawn_before(u32 strip, u32 key_strips) {
    return ((u64)strip * gridDim.y + blockIdx.y) * key_strips * DRAWN_BYTES;
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

// dots = left · rowsᵀ for the 16 rows of a tile from address `rows` on.
__device__ __forceinline__ void products(float (&dots)[2][4], const Factors& left, u32 rows) {
#pragma unroll
    for (u32 i = 0; i < 8; i++) dots[i / 4][i % 4] = 0.0f;
#pragma unroll
    for (u32 n = 0; n < 4; n++) {
        u32 right[4];
        load_matrices(right, columns(across(rows), n));
        multiply_add(dots[0], left[n], right[0], right[1]);
        multiply_add(dots[1], left[n], right[2], right[3]);
    }
}

// sums += left · rows for the 16 rows of a tile from address `rows` on.
__device__ __forceinline__ void accumulate(Sums& sums, const float (&left)[2][4], u32 rows) {
    u32 factor[4];
    narrow(factor, left);
#pragma unroll
    for (u32 n = 0; n < 4; n++) {
        u32 right[4];
        load_turned(right, columns(down(rows), n));
        accumulate(sums, n, factor, right);
    }
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

// What is needed of a warp's 16 queries, given what forward kept and their gradients in shared memory; to `known`, and to
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

// Goes through a tile of keys for the gradients of queries. `WHOLE`: every query sees all of them. A lane leaves what it draws at
// `drawn`.
template <bool WHOLE>
__device__ __forceinline__ void descend(
    Sums& sums, const Factors& q, const Factors& dy, const Known (&known)[2], u32 tiles, const View& view, float exponent,
    const Mask& mask, const Strip& strip, u32 k0, unsigned char* drawn
) {
#pragma unroll
    for (u32 n = 0; n < STRIPS; n++) {
        if (!WHOLE && n * STRIP >= view.any) continue;
        float s[2][4], d[2][4];
        products(s, q, tiles + n * STRIP_BYTES);
        products(d, dy, tiles + TILE_BYTES + n * STRIP_BYTES);
        if (mask.drops()) {
            const u32 bits = draw_queries(mask, strip.position + strip.first, strip.sample, k0 + n * STRIP);
            drawn[(k0 / STRIP + n) * DRAWN_BYTES] = (unsigned char)bits;
            drop(d, exchange(bits), mask.factor);
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

// dq = dS · k with dS = (dP − along) · P · scale, where dP = dy·vᵀ through the mask; and what the gradients of keys need: `known` of
// each query, and `drawn` if there is a mask. Shared memory: strips of queries, strips of their gradients, what is known of the
// queries, and one or two pairs of tiles.
FLASH flash_queries(
    const Strips* blocks, const Strip* strips, const bf16* q, u32 q_stride, const bf16* k, u32 k_stride, const bf16* v, u32 v_stride, u32 dim,
    float scale, u64 key, u32 threshold, float factor, const bf16* dy, const bf16* y, const float* kept,
    Known* known, u32 rows, u32 width, bf16* dq, u32 dq_stride, unsigned char* drawn, u32 key_strips
) {
    SHARED(shared);
    const Strips block = blocks[blockIdx.x];
    const u32 start = blockIdx.y * dim, warps = blockDim.x / 32;
    const Head queries = {q + start, q_stride}, keys = {k + start, k_stride}, values = {v + start, v_stride};
    const Head gradients = {dy + start, width}, results = {y + start, width};
    const Mask mask = {key, threshold, factor, blockIdx.y};
    const float exponent = scale * LOG2_E;
    unsigned char *mine = shared + warp() * STRIP_BYTES, *mine_dy = mine + warps * STRIP_BYTES;
    Known* here = reinterpret_cast<Known*>(shared + warps * 2 * STRIP_BYTES) + warp() * STRIP;
    u32 tiles = shared_address(shared) + warps * (2 * STRIP_BYTES + KNOWN_BYTES), next = tiles + 2 * TILE_BYTES;
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
    unsigned char* mine_drawn = drawn + drawn_before(block.begin + warp(), key_strips) + lane();
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
            descend<true>(sums, own, own_dy, of, tiles, view, exponent, mask, strip, k0, mine_drawn);
        } else if (works && view.any > 0) {
            descend<false>(sums, own, own_dy, of, tiles, view, exponent, mask, strip, k0, mine_drawn);
        }
        __syncthreads();
        const u32 done = tiles;
        tiles = next;
        next = done;
    }
    if (works) write(mine, dq + start, dq_stride, strip.row, strip.count, sums, scale, scale);
}

// What a block's keys are gone through with: queries, their gradients, what is known of them, and what was drawn for them.
struct Queries {
    const Strip* strips;
    Head q, dy;
    const Known* known;
    const unsigned char* drawn;  // for the block's first key, from the first of all strips on
    u32 key_strips;
    u32 drawn_chunks;  // 16 bytes each, of a strip; 0 without a mask
};

// A pair of tiles of queries and their gradients, with what belongs to them.
constexpr u32 KNOWN_AT = 2 * TILE_BYTES;
constexpr u32 DRAWN_AT = KNOWN_AT + STRIPS * KNOWN_BYTES;
constexpr u32 PAIR_BYTES = DRAWN_AT + STRIPS * WARPS * DRAWN_BYTES;

// Starts to copy `count` strips from number `at` on into a pair of tiles.
__device__ __forceinline__ void copy_strips(u32 pair, const Queries& queries, u32 at, u32 count) {
#pragma unroll 1
    for (u32 i = threadIdx.x; i < count * STRIP * 8; i += blockDim.x) {
        const u32 r = i / 8, c = i % 8, n = r / STRIP, part = i % (STRIP * 8), to = pair + chunk(r, c);
        const Strip& strip = queries.strips[at + n];
        const bool exists = r % STRIP < strip.count;
        const u32 from = strip.row + (exists ? r % STRIP : 0);
        copy16(to, queries.q.row(from) + c * 8, exists);
        copy16(to + TILE_BYTES, queries.dy.row(from) + c * 8, exists);
        if (c == 0) copy8(pair + KNOWN_AT + r * (u32)sizeof(Known), queries.known + from, exists);
        if (part < queries.drawn_chunks) {
            const unsigned char* drawn = queries.drawn + drawn_before(at + n, queries.key_strips);
            copy16(pair + DRAWN_AT + n * WARPS * DRAWN_BYTES + part * 16, drawn + part * 16, true);
        }
    }
}

// Which of a warp's 16 keys by 16 queries are kept, of what was drawn for them: bit 8·b + 4·h + e is for key group + 8·h and query
// 8·b + 2·place + e.
__device__ __forceinline__ u32 kept_of(u32 drawn) {
    const uint2 two = load_two(drawn + 8 * place());
    const u32 shift = group() / 4 * 8 + group() % 4;
    u32 bits = 0;
#pragma unroll
    for (u32 e = 0; e < 2; e++) {
        const u32 of_query = (e == 0 ? two.x : two.y) >> shift;
#pragma unroll
        for (u32 i = 0; i < 4; i++) bits |= (of_query >> (4 * (i / 2) + 16 * (i % 2)) & 1u) << (8 * (i / 2) + 4 * (i % 2) + e);
    }
    return bits;
}

// Adds a strip's part to the gradients of a warp's 16 keys from number `key` on. Queries that do not exist are zeros, and so are
// their gradients: nothing comes of them. `MASKED`: dropout, with its factor, or queries that do not see all keys.
template <bool MASKED>
__device__ __forceinline__ void gather(
    Sums& sums_k, Sums& sums_v, const Factors& k, const Factors& v, u32 rows, u32 known, u32 drawn, float exponent,
    float factor, const Strip& strip, u32 key
) {
    u32 bits = 0;
    if (MASKED && factor != 0.0f) bits = kept_of(drawn);
    float s[2][4], d[2][4];
    products(s, k, rows);
    products(d, v, rows + TILE_BYTES);
    if (MASKED && factor != 0.0f) drop(d, bits, factor);
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
    if (MASKED && factor != 0.0f) drop(s, bits, 1.0f);
    accumulate(sums_v, s, rows + TILE_BYTES);
    accumulate(sums_k, d, rows);
}

// dv = Pᵀ · dy with P through the mask, and dk = dSᵀ · q, over the strips that read the keys, in order. Shared memory: strips of
// keys, strips of values, and one or two pairs of tiles, each followed by what is known of its queries and what was drawn for them.
FLASH flash_keys(
    const Keys* blocks, const Strip* strips, const bf16* q, u32 q_stride, const bf16* k, u32 k_stride, const bf16* v, u32 v_stride, u32 dim,
    float scale, u64 key, u32 threshold, float factor, const bf16* dy, const Known* known, u32 rows, u32 width,
    bf16* dk, bf16* dv, u32 stride, const unsigned char* drawn, u32 key_strips
) {
    SHARED(shared);
    const Keys& block = blocks[blockIdx.x];
    const u32 start = blockIdx.y * dim, warps = blockDim.x / 32;
    const Head keys = {k + start, k_stride}, values = {v + start, v_stride};
    const bool drops = factor != 0.0f, masked = block.causal != 0 || drops;
    const Queries queries = {
        strips, {q + start, q_stride}, {dy + start, width}, known + (u64)blockIdx.y * rows,
        drawn + block.first / STRIP * DRAWN_BYTES, key_strips, drops ? (block.count + STRIP - 1) / STRIP * (DRAWN_BYTES / 16) : 0,
    };
    const float exponent = scale * LOG2_E;
    unsigned char *mine = shared + warp() * STRIP_BYTES, *mine_v = mine + warps * STRIP_BYTES;
    const u32 first = warp() * STRIP, count = first < block.count ? min(STRIP, block.count - first) : 0;
    u32 tiles = shared_address(shared) + warps * 2 * STRIP_BYTES, next = tiles + PAIR_BYTES;
    const u32 row = block.row + (count > 0 ? first : 0);
    copy_strip(shared_address(mine), keys, row, count);
    copy_strip(shared_address(mine_v), values, row, count);
    end_copies();
    copy_strips(tiles, queries, block.begin, min(STRIPS, block.end - block.begin));
    end_copies();
    await_copies<1>();
    __syncwarp();
    Factors own, own_v;
    load_factors(own, shared_address(mine));
    load_factors(own_v, shared_address(mine_v));
    Sums sums_k, sums_v;
    clear(sums_k);
    clear(sums_v);
    for (u32 at = block.begin; at < block.end; at += STRIPS) {
        if (at + STRIPS < block.end) copy_strips(next, queries, at + STRIPS, min(STRIPS, block.end - at - STRIPS));
        end_copies();
        await_copies<1>();
        __syncthreads();
        const u32 present = count > 0 ? min(STRIPS, block.end - at) : 0;
        for (u32 n = 0; n < present; n++) {
            const Strip& strip = strips[at + n];
            const u32 part = tiles + n * STRIP_BYTES, here = tiles + KNOWN_AT + n * KNOWN_BYTES;
            const u32 bits = tiles + DRAWN_AT + (n * WARPS + warp()) * DRAWN_BYTES;
            if (!masked) {
                gather<false>(sums_k, sums_v, own, own_v, part, here, bits, exponent, factor, strip, block.first + first);
            } else if (horizon(strip, strip.count - 1) > block.first + first) {
                gather<true>(sums_k, sums_v, own, own_v, part, here, bits, exponent, factor, strip, block.first + first);
            }
        }
        __syncthreads();
        const u32 done = tiles;
        tiles = next;
        next = done;
    }
    const float kept_by = drops ? factor : 1.0f;
    write(mine, dk + start, stride, row, count, sums_k, scale, scale);
    write(mine_v, dv + start, stride, row, count, sums_v, kept_by, kept_by);
}
