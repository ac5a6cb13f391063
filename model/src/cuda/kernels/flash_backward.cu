// Attention on tensor cores, backward; see flash.cuh.
//
// A block has the keys and values of a group of strips, 128 at a time, and goes through the strips of queries, up to 4 at a time. A
// warp has two strips of keys: with their scores it adds up the gradients of keys and values, and it leaves the gradients of the
// scores in shared memory, from which then each warp has the gradients of a strip of queries. So scores are computed once, and all
// sums are in the order of the strips. The next queries are on their way meanwhile.
//
// What the first keys add to the gradients of queries waits in memory for the next ones.

#include "flash.cuh"

// 4 warps with all registers a thread may have, so that two blocks are on a multiprocessor: while one waits, the other computes.
#define FLASH extern "C" __global__ void __launch_bounds__(128, 2)

// The queries that share some keys.
struct Group {
    u32 k_row;
    u32 keys;
    u32 begin, end;  // strips
    u32 causal;      // whether any query does not see all keys
    u32 unused[3];
};

// What is needed of a query: log₂ Σ 2^(s·exponent), and y · dy.
struct Known {
    float log_sum, along;
};

constexpr u32 KNOWN_BYTES = STRIP * sizeof(Known);
// Gradients of the scores of 16 queries and 16 keys.
constexpr u32 SLOPES_BYTES = STRIP * STRIP * sizeof(bf16);

// All that a block works with.
struct Work {
    Group group;
    const Strip* strips;
    Head q, k, v, dy, y;
    const float* kept;  // of the head
    bf16 *dq, *dk, *dv;
    u32 stride;
    float* parts;  // sums of strips and heads
    u32 head, heads;
    u32 key_strips, query_strips;
    float scale;
    Mask mask;
    // Addresses in shared memory: strips of keys and of values, slopes by strips of queries and then of keys, and the queries at work
    // and the next ones: their strips, those of their gradients, and what is known of them.
    unsigned char* shared;

    __device__ __forceinline__ u32 values() const { return key_strips * STRIP_BYTES; }
    __device__ __forceinline__ u32 slopes(u32 n, u32 m) const { return 2 * values() + (n * key_strips + m) * SLOPES_BYTES; }
    __device__ __forceinline__ u32 queries(u32 turn) const {
        return slopes(query_strips, 0) + turn % 2 * query_strips * (2 * STRIP_BYTES + KNOWN_BYTES);
    }
    __device__ __forceinline__ u32 gradients(u32 turn) const { return queries(turn) + query_strips * STRIP_BYTES; }
    __device__ __forceinline__ u32 known(u32 turn) const { return gradients(turn) + query_strips * STRIP_BYTES; }
};

// What forward left of a warp's 16 queries: of each four a lane has 8 columns of one, and what was kept of it.
struct Result {
    uint4 y[4];
    float2 kept[4];
};

__device__ __forceinline__ void read(Result& result, const Head& y, const float* kept, u32 row, u32 count) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const u32 r = i * 4 + lane() / 8, c = lane() % 8;
        result.y[i] = {0, 0, 0, 0};
        result.kept[i] = {0.0f, 0.0f};
        if (r >= count) continue;
        result.y[i] = *reinterpret_cast<const uint4*>(y.row(row + r) + c * 8);
        result.kept[i] = *reinterpret_cast<const float2*>(kept + 2 * (u64)(row + r));
    }
}

// What is known of a warp's 16 queries, given what forward left and their gradients; zeros for those that do not exist.
__device__ __forceinline__ void know(Known* known, const unsigned char* gradients, const Result& result, u32 count) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const u32 r = i * 4 + lane() / 8, c = lane() % 8;
        const uint4 a = result.y[i], b = *reinterpret_cast<const uint4*>(gradients + chunk(r, c));
        const u32 of_y[4] = {a.x, a.y, a.z, a.w}, of_dy[4] = {b.x, b.y, b.z, b.w};
        float along = 0.0f;
#pragma unroll
        for (u32 w = 0; w < 4; w++) {
            along = fmaf(low_of(of_y[w]), low_of(of_dy[w]), along);
            along = fmaf(high_of(of_y[w]), high_of(of_dy[w]), along);
        }
        along = quad_sum(along);
        along += __shfl_xor_sync(0xffffffffu, along, 4);
        if (c == 0) known[r] = {(result.kept[i].x + result.kept[i].y) * LOG2_E, r < count ? along : 0.0f};
    }
}

// Leaves the gradients of 16 keys by 16 queries so that `load_turned` has them as a left factor with queries as rows.
__device__ __forceinline__ void leave(u32 slopes, const u32 (&factor)[4]) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) store_word(slopes + ((i % 2 * 2 + i / 2) * 32 + lane()) * 4, factor[i]);
}

// Adds 16 queries' part to the gradients of a warp's 32 keys from number `key` on, and leaves the gradients of their scores. Queries
// that do not exist are zeros, and so are their gradients: nothing comes of them. `EDGES`: keys that do not exist or are not seen.
template <bool DROPS, bool EDGES>
__device__ __forceinline__ void gather(
    Sums (&sums_k)[2], Sums (&sums_v)[2], const Factors (&k)[2], const Factors (&v)[2], u32 queries, u32 gradients, u32 known, u32 slopes,
    float exponent, const Mask& mask, const Strip& strip, u32 key
) {
    float s[2][2][4], d[2][2][4];
    u32 of_k[2][4], of_v[2][4];
    products(s, k, queries);
    products(d, v, gradients);
    const float4 two[2] = {load_four(known + place() * 16), load_four(known + 64 + place() * 16)};
#pragma unroll
    for (u32 m = 0; m < 2; m++) {
        u32 bits = 0;
        if (DROPS) bits = draw_keys(mask, strip.position + strip.first, strip.sample, key + STRIP * m);
        if (DROPS) drop(d[m], bits, mask.factor);
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            const u32 b = i / 4, at = i % 4;
            const float log_sum = at % 2 == 0 ? two[b].x : two[b].z, along = at % 2 == 0 ? two[b].y : two[b].w;
            const bool seen = !EDGES || key + STRIP * m + group() + 8 * (at / 2) < horizon(strip, 8 * b + 2 * place() + at % 2);
            const float p = seen ? power_of_2(fmaf(s[m][b][at], exponent, -log_sum)) : 0.0f;
            d[m][b][at] = (d[m][b][at] - along) * p;
            s[m][b][at] = p;
        }
        if (DROPS) drop(s[m], bits, 1.0f);
        narrow(of_v[m], s[m]);
        narrow(of_k[m], d[m]);
        leave(slopes + m * SLOPES_BYTES, of_k[m]);
    }
#pragma unroll
    for (u32 n = 0; n < 4; n++) {
        u32 right[4];
        load_turned(right, columns(down(gradients), n));
        accumulate(sums_v[0], n, of_v[0], right);
        accumulate(sums_v[1], n, of_v[1], right);
        load_turned(right, columns(down(queries), n));
        accumulate(sums_k[0], n, of_k[0], right);
        accumulate(sums_k[1], n, of_k[1], right);
    }
}

// Starts to copy a warp's strip of the queries from strip `at` on, and of their gradients.
__device__ __forceinline__ void copy_queries(const Work& work, u32 turn, u32 at) {
    if (warp() >= work.query_strips || at + warp() >= work.group.end) return;
    const Strip& strip = work.strips[at + warp()];
    const u32 shared = shared_address(work.shared) + warp() * STRIP_BYTES, row = strip.row, count = strip.count;
    copy_strip(shared + work.queries(turn), work.q, row, count);
    copy_strip(shared + work.gradients(turn), work.dy, row, count);
}

// Strips of the keys from `first` on that any query of a strip sees.
__device__ __forceinline__ u32 strips_seen(const Work& work, const Strip& strip, u32 first) {
    const u32 seen = horizon(strip, strip.count - 1);
    return seen > first ? min(work.key_strips, (seen - first + STRIP - 1) / STRIP) : 0;
}

// The gradients of a warp's strip of queries, `n` of those at work, over the keys from `first` on; added to those of the keys before
// them, and written with the last.
__device__ __forceinline__ void descend(const Work& work, u32 turn, u32 number, u32 n, u32 first) {
    const u32 shared = shared_address(work.shared), end = strips_seen(work, work.strips[number], first);
    float4* part = reinterpret_cast<float4*>(work.parts + ((u64)number * work.heads + work.head) * (STRIP * 64)) + lane();
    Sums sums;
    clear(sums);
#pragma unroll
    for (u32 i = 0; first > 0 && i < 8; i++) {
        const float4 before = part[i * 32];
        sums[i][0] = before.x;
        sums[i][1] = before.y;
        sums[i][2] = before.z;
        sums[i][3] = before.w;
    }
    for (u32 m = 0; m < end; m++) {
        u32 left[4];
        load_turned(left, shared + work.slopes(n, m) + lane() * 16);
        accumulate(sums, left, shared + m * STRIP_BYTES);
    }
    const bool last = first + work.key_strips * STRIP >= work.group.keys;
#pragma unroll
    for (u32 i = 0; !last && i < 8; i++) part[i * 32] = {sums[i][0], sums[i][1], sums[i][2], sums[i][3]};
    if (!last) return;
    const Strip& strip = work.strips[number];
    const u32 row = strip.row, count = strip.count;
    write(work.shared + work.queries(turn) + n * STRIP_BYTES, work.dq, work.stride, row, count, sums, work.scale, work.scale);
}

// Goes with a warp's 32 keys from number `key` on through the queries at work.
template <bool DROPS>
__device__ __forceinline__ void gather_all(
    const Work& work, Sums (&sums_k)[2], Sums (&sums_v)[2], u32 turn, u32 at, u32 count, u32 first, u32 key
) {
    const u32 shared = shared_address(work.shared), mine = 2 * warp();
    const bool edges = work.group.causal != 0 || key + 2 * STRIP > work.group.keys;
    const float exponent = work.scale * LOG2_E;
    Factors k[2], v[2];
#pragma unroll
    for (u32 m = 0; m < 2; m++) {
        load_factors(k[m], shared + (mine + m) * STRIP_BYTES);
        load_factors(v[m], shared + work.values() + (mine + m) * STRIP_BYTES);
    }
    const Strip* strip = work.strips + at;
    u32 q = shared + work.queries(turn), known = shared + work.known(turn), slopes = shared + work.slopes(0, mine);
    const u32 to_dy = work.query_strips * STRIP_BYTES, pitch = work.key_strips * SLOPES_BYTES, end = q + count * STRIP_BYTES;
#pragma unroll 1
    for (; q < end; q += STRIP_BYTES, known += KNOWN_BYTES, slopes += pitch, strip++) {
        if (!edges) {
            gather<DROPS, false>(sums_k, sums_v, k, v, q, q + to_dy, known, slopes, exponent, work.mask, *strip, key);
        } else if (strips_seen(work, *strip, first) > mine) {
            gather<DROPS, true>(sums_k, sums_v, k, v, q, q + to_dy, known, slopes, exponent, work.mask, *strip, key);
        }
    }
}

// All gradients of the keys from `first` on, as many as fit, and what they add to those of queries.
template <bool DROPS>
__device__ __forceinline__ void backward(const Work& work, u32 first) {
    const Group& group = work.group;
    const u32 shared = shared_address(work.shared), mine = 2 * warp(), key = first + mine * STRIP;
    const bool has_keys = mine < work.key_strips && key < group.keys;
    const u32 left = has_keys ? group.keys - key : 0, row = group.k_row + (has_keys ? key : 0);
    const u32 counts[2] = {min(left, STRIP), min(max(left, STRIP) - STRIP, STRIP)};
    const u32 rows[2] = {row, row + (counts[1] > 0 ? STRIP : 0)};
#pragma unroll
    for (u32 m = 0; has_keys && m < 2; m++) {
        copy_strip(shared + (mine + m) * STRIP_BYTES, work.k, rows[m], counts[m]);
        copy_strip(shared + work.values() + (mine + m) * STRIP_BYTES, work.v, rows[m], counts[m]);
    }
    copy_queries(work, 0, group.begin);
    end_copies();
    Sums sums_k[2], sums_v[2];
#pragma unroll
    for (u32 m = 0; m < 2; m++) {
        clear(sums_k[m]);
        clear(sums_v[m]);
    }
    for (u32 at = group.begin, turn = 0; at < group.end; at += work.query_strips, turn++) {
        const u32 present = min(work.query_strips, group.end - at);
        if (warp() < present) {
            const Strip& strip = work.strips[at + warp()];
            const u32 count = strip.count;
            Result result;
            read(result, work.y, work.kept, strip.row, count);
            await_copies<0>();
            __syncwarp();
            Known* known = reinterpret_cast<Known*>(work.shared + work.known(turn) + warp() * KNOWN_BYTES);
            know(known, work.shared + work.gradients(turn) + warp() * STRIP_BYTES, result, count);
        }
        await_copies<0>();
        __syncthreads();
        copy_queries(work, turn + 1, at + work.query_strips);
        end_copies();
        if (has_keys) gather_all<DROPS>(work, sums_k, sums_v, turn, at, present, first, key);
        __syncthreads();
        if (warp() < present) descend(work, turn, at + warp(), warp(), first);
    }
    const float kept_by = DROPS ? work.mask.factor : 1.0f;
#pragma unroll
    for (u32 m = 0; has_keys && m < 2; m++) {
        unsigned char* strip = work.shared + work.values() + (mine + m) * STRIP_BYTES;
        write(strip, work.dk, work.stride, rows[m], counts[m], sums_k[m], work.scale, work.scale);
        write(strip, work.dv, work.stride, rows[m], counts[m], sums_v[m], kept_by, kept_by);
    }
}

// dv = Pᵀ · dy with P through the mask, dk = dSᵀ · q and dq = dS · k, where dS = (dP − along) · P · scale and dP = dy · vᵀ through the
// mask. `parts` has room for every strip and head if not all keys fit.
FLASH flash_backward(
    const Group* groups, const Strip* strips, const bf16* q, u32 q_stride, const bf16* k, u32 k_stride, const bf16* v, u32 v_stride, u32 dim,
    float scale, u64 key, u32 threshold, float factor, const bf16* dy, const bf16* y, const float* kept, u32 rows, u32 width,
    bf16* dq, bf16* dk, bf16* dv, u32 stride, float* parts, u32 heads, u32 key_strips, u32 query_strips
) {
    SHARED(shared);
    const u32 head = blockIdx.x % heads, start = head * dim;
    const Group group = groups[blockIdx.x / heads];
    const Work work = {
        group, strips, {q + start, q_stride}, {k + start, k_stride}, {v + start, v_stride}, {dy + start, width}, {y + start, width},
        kept + 2 * (u64)head * rows, dq + start, dk + start, dv + start, stride, parts, head, heads, key_strips, query_strips, scale,
        {key, threshold, factor, head}, shared,
    };
    for (u32 first = 0; first == 0 || first < group.keys; first += key_strips * STRIP) {
        if (first > 0) __syncthreads();
        if (work.mask.drops()) {
            backward<true>(work, first);
        } else {
            backward<false>(work, first);
        }
    }
}
