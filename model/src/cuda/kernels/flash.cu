// Attention on tensor cores, forward; see flash.cuh.
//
// A warp has two strips of queries, so that what it loads of keys and values serves both, and goes through the keys 16 at a time.
// A block has up to 8 strips that share their keys. As many keys and values as fit lie in shared memory at once: all of an
// image's, so nobody waits on the way.

#include "flash.cuh"

// 4 warps, so that three blocks are on a multiprocessor at a time, and a thread has the registers for two strips.
#define FLASH extern "C" __global__ void __launch_bounds__(128, 3)

// A score may be above its row's base by as many powers of two before the sums are brought to a new base.
constexpr float HEADROOM = 8.0f;

// A strip's results so far. Of a lane's two rows: log₂ of the base of all exponents, a score's at some time, and the lane's part of
// the sum of 2^(s·exponent − base).
struct Softmax {
    Sums sums;
    float base[2], total[2];
};

// What a lane has to know of a strip while keys go by: the keys below which its two queries see, and the counters of its mask.
struct Reader {
    u32 upper, lower;
    u32 position, sample;

    __device__ __forceinline__ explicit Reader(const Strip& strip)
        : upper(horizon(strip, group())), lower(horizon(strip, group() + 8)), position(strip.position + strip.first), sample(strip.sample) {}
};

// Starts to copy `count` rows of two matrices as strips, the warps in turn; zeros up to whole strips.
__device__ __forceinline__ void copy_strips(u32 to_a, u32 to_b, const Head& a, const Head& b, u32 row, u32 count) {
#pragma unroll 1
    for (u32 i = warp(); i * STRIP < count; i += blockDim.x / 32) {
        const u32 first = i * STRIP, here = min(STRIP, count - first);
        copy_strip(to_a + i * STRIP_BYTES, a, row + first, here);
        copy_strip(to_b + i * STRIP_BYTES, b, row + first, here);
    }
}

// dots = left · rowsᵀ for two left factors and the 16 rows of a strip at address `rows`.
__device__ __forceinline__ void products(float (&dots)[2][2][4], const Factors (&left)[2], u32 rows) {
#pragma unroll
    for (u32 i = 0; i < 16; i++) dots[i / 8][i / 4 % 2][i % 4] = 0.0f;
#pragma unroll
    for (u32 n = 0; n < 4; n++) {
        u32 right[4];
        load_matrices(right, columns(across(rows), n));
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            multiply_add(dots[i][0], left[i][n], right[0], right[1]);
            multiply_add(dots[i][1], left[i][n], right[2], right[3]);
        }
    }
}

__device__ __forceinline__ float quad_max(float v) {
    v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 1));
    return fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 2));
}

// Strip `i` of those before `end`; beyond them one without queries.
__device__ __forceinline__ Strip strip_at(const Strip* strips, const Strips& block, u32 i) {
    Strip strip = strips[min(i, block.end - 1)];
    if (i >= block.end) strip.count = 0;
    return strip;
}

// Takes the largest scores, of four for each row, as new bases if any of the warp is far above its own: before that nothing has
// to change, and it is rare.
__device__ __forceinline__ void rebase(Softmax (&soft)[2], float (&top)[2][2], float exponent) {
    bool beyond = false;
#pragma unroll
    for (u32 i = 0; i < 4; i++) beyond |= fmaf(top[i / 2][i % 2], exponent, -soft[i / 2].base[i % 2]) > HEADROOM;
    if (!__any_sync(0xffffffffu, beyond)) return;
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        Softmax& of = soft[i / 2];
        const u32 h = i % 2;
        const float base = fmaxf(of.base[h], quad_max(top[i / 2][h]) * exponent);
        const float shrink = power_of_2(of.base[h] - base);
        of.base[h] = base;
        of.total[h] *= shrink;
#pragma unroll
        for (u32 n = 0; n < 8; n++) {
            of.sums[n][2 * h] *= shrink;
            of.sums[n][2 * h + 1] *= shrink;
        }
    }
}

// Goes through 16 keys, of which `key` is the first. `WHOLE`: every query sees all of them.
template <bool WHOLE, bool DROPS>
__device__ __forceinline__ void attend(
    Softmax (&soft)[2], const Factors (&q)[2], u32 keys, u32 values, const Reader (&readers)[2], u32 key, float exponent, const Mask& mask
) {
    float p[2][2][4], top[2][2];
    u32 left[2][4];
    products(p, q, keys);
#pragma unroll
    for (u32 s = 0; s < 2; s++) {
#pragma unroll
        for (u32 i = 0; !WHOLE && i < 8; i++) {
            const u32 end = i % 4 < 2 ? readers[s].upper : readers[s].lower;
            if (key + 8 * (i / 4) + 2 * place() + i % 2 >= end) p[s][i / 4][i % 4] = -INFINITY;
        }
#pragma unroll
        for (u32 h = 0; h < 2; h++) {
            top[s][h] = fmaxf(fmaxf(p[s][0][2 * h], p[s][0][2 * h + 1]), fmaxf(p[s][1][2 * h], p[s][1][2 * h + 1]));
        }
    }
    rebase(soft, top, exponent);
#pragma unroll
    for (u32 s = 0; s < 2; s++) {
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            float& v = p[s][i / 4][i % 4];
            const u32 h = i % 4 / 2;
            v = power_of_2(fmaf(v, exponent, -soft[s].base[h]));
            soft[s].total[h] += v;
        }
        if (DROPS) drop(p[s], exchange(draw_queries(mask, readers[s].position, readers[s].sample, key)), 1.0f);
        narrow(left[s], p[s]);
    }
#pragma unroll
    for (u32 n = 0; n < 4; n++) {
        u32 right[4];
        load_turned(right, columns(down(values), n));
        accumulate(soft[0].sums, n, left[0], right);
        accumulate(soft[1].sums, n, left[1], right);
    }
}

// Goes through `count` keys from `first` on, which lie in shared memory.
template <bool DROPS>
__device__ __forceinline__ void attend_all(
    Softmax (&soft)[2], const Factors (&q)[2], u32 keys, u32 values, const Reader (&readers)[2], const Strip* strips, const Strips& block,
    u32 first, u32 count, float exponent, const Mask& mask
) {
    u32 all = count, any = 0;
#pragma unroll
    for (u32 s = 0; s < 2; s++) {
        const Strip strip = strip_at(strips, block, block.begin + 2 * warp() + s);
        const u32 last = strip.count > 0 ? strip.count - 1 : 0;
        all = min(all, max(horizon(strip, 0), first) - first);
        any = max(any, min(count, max(horizon(strip, last), first) - first));
    }
    u32 at = 0;
#pragma unroll 1
    for (; at + STRIP <= all; at += STRIP) {
        attend<true, DROPS>(soft, q, keys + at * ROW_BYTES, values + at * ROW_BYTES, readers, first + at, exponent, mask);
    }
#pragma unroll 1
    for (; at < any; at += STRIP) {
        attend<false, DROPS>(soft, q, keys + at * ROW_BYTES, values + at * ROW_BYTES, readers, first + at, exponent, mask);
    }
}

// Writes a strip's results times a factor, and what backward needs of its queries to `kept`, if that is there.
__device__ __forceinline__ void finish(
    unsigned char* strip, const Softmax& soft, u32 row, u32 count, bf16* out, u32 width, float* kept, float factor
) {
    float by[2];
#pragma unroll
    for (u32 h = 0; h < 2; h++) {
        const float total = quad_sum(soft.total[h]);
        by[h] = total > 0.0f ? factor / total : 0.0f;
        const u32 r = group() + 8 * h;
        if (kept == nullptr || place() != 0 || r >= count) continue;
        float* numbers = kept + 2 * (u64)(row + r);
        numbers[0] = soft.base[h] * LN_2;
        numbers[1] = logf(total);
    }
    write(strip, out, width, row, count, soft.sums, by[0], by[1]);
}

// out = softmax(q·kᵀ · scale) · v. Shared memory: two strips for each warp, `panel` strips of keys, and as many of values.
FLASH flash(
    const Strips* blocks, const Strip* strips, const bf16* q, u32 q_stride, const bf16* k, u32 k_stride, const bf16* v, u32 v_stride, u32 dim,
    float scale, u64 key, u32 threshold, float factor, bf16* out, u32 width, float* kept, u32 rows, u32 heads, u32 panel
) {
    SHARED(shared);
    const u32 head = blockIdx.x % heads, start = head * dim;
    const Strips block = blocks[blockIdx.x / heads];
    const Head queries = {q + start, q_stride}, keys = {k + start, k_stride}, values = {v + start, v_stride};
    const Mask mask = {key, threshold, factor, head};
    const float exponent = scale * LOG2_E;
    unsigned char* mine = shared + warp() * 2 * STRIP_BYTES;
    const u32 keys_at = shared_address(shared) + blockDim.x / 32 * 2 * STRIP_BYTES, values_at = keys_at + panel * STRIP_BYTES;
    const u32 number = block.begin + 2 * warp();
    const bool works = number < block.end;
    const Strip pair[2] = {strip_at(strips, block, number), strip_at(strips, block, number + 1)};
    const Reader readers[2] = {Reader(pair[0]), Reader(pair[1])};
#pragma unroll
    for (u32 s = 0; s < 2; s++) copy_strip(shared_address(mine) + s * STRIP_BYTES, queries, pair[s].row, pair[s].count);
    Factors own[2];
    Softmax soft[2];
#pragma unroll
    for (u32 s = 0; s < 2; s++) {
        clear(soft[s].sums);
        soft[s].base[0] = soft[s].base[1] = -INFINITY;
        soft[s].total[0] = soft[s].total[1] = 0.0f;
    }
    for (u32 first = 0; first < block.seen; first += panel * STRIP) {
        const u32 count = min(panel * STRIP, block.seen - first);
        if (first > 0) __syncthreads();
        copy_strips(keys_at, values_at, keys, values, block.k_row + first, count);
        end_copies();
        await_copies<0>();
        __syncthreads();
        if (!works) continue;
        if (first == 0) {
            load_factors(own[0], shared_address(mine));
            load_factors(own[1], shared_address(mine) + STRIP_BYTES);
        }
        if (mask.drops()) {
            attend_all<true>(soft, own, keys_at, values_at, readers, strips, block, first, count, exponent, mask);
        } else {
            attend_all<false>(soft, own, keys_at, values_at, readers, strips, block, first, count, exponent, mask);
        }
    }
    // Without keys, nobody has waited for the queries yet, whose place the result is written to.
    end_copies();
    await_copies<0>();
    __syncwarp();
    if (!works) return;
    float* of_head = kept == nullptr ? nullptr : kept + 2 * (u64)head * rows;
#pragma unroll
    for (u32 s = 0; s < 2; s++) {
        const Strip strip = strip_at(strips, block, number + s);
        finish(mine + s * STRIP_BYTES, soft[s], strip.row, strip.count, out + start, width, of_head, mask.drops() ? factor : 1.0f);
    }
}
