// What attention on tensor cores is made of, forward and backward: bf16, heads of 64 columns. Sums, statistics and exponents are
// fp32; probabilities and the gradients of scores are rounded to bf16 where they become a factor of a product.
//
// A strip is up to 16 queries of one sequence, or 16 keys. Blocks are for strips of queries that share their keys, whatever sequences
// they are of, so texts that read one image fill a block. The fragments of a product's result are those of the next one's left
// factor, so scores, results and sums stay in registers.
//
// Scores s = q·k are raw: probabilities are 2^(s·exponent − …) with exponent = scale · log₂e. Scale and the factor of dropout are
// applied to the sums.
#pragma once

#include "random.cuh"
#include "tensor.cuh"

constexpr u32 STRIP = 16;
constexpr u32 STRIP_BYTES = STRIP * ROW_BYTES;
constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.6931471805599453f;

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

// Strips that share their keys.
struct Strips {
    u32 begin, end;
    u32 k_row;
    u32 seen;  // keys that any of them sees
    u32 unused[4];
};

// A matrix with heads side by side, from the head of a block on.
struct Head {
    const bf16* data;
    u32 stride;

    __device__ __forceinline__ const bf16* row(u32 row) const { return data + (u64)row * stride; }
};

// A mask of the probabilities of a head; no factor, no mask.
struct Mask {
    u64 key;
    u32 threshold;
    float factor;
    u32 head;

    __device__ __forceinline__ bool drops() const { return factor != 0.0f; }
};

// Results of 16 rows by 64 columns; factors of 16 rows by 64 columns.
typedef float Sums[8][4];
typedef u32 Factors[4][4];

__device__ __forceinline__ u32 lane() { return threadIdx.x % 32; }
__device__ __forceinline__ u32 warp() { return threadIdx.x / 32; }
__device__ __forceinline__ u32 group() { return lane() / 4; }
__device__ __forceinline__ u32 place() { return lane() % 4; }

// Where a lane's row of four matrices is, of the first 16 columns of the strip at an address.
//
// `across`: matrices 0 and 1 lie side by side, 2 and 3 below them. That is a right factor with the strip's rows as columns.
// `down`: matrices 0 and 1 lie one above the other, 2 and 3 to their right. That is a left factor, or, turned, a right one.
__device__ __forceinline__ u32 across(u32 strip) {
    const u32 l = lane();
    return strip + (l / 16 * 8 + l % 8) * ROW_BYTES + ((l / 8 % 2 ^ l % 8) << 4);
}
__device__ __forceinline__ u32 down(u32 strip) {
    const u32 l = lane();
    return strip + (l / 8 % 2 * 8 + l % 8) * ROW_BYTES + ((l / 16 ^ l % 8) << 4);
}

// The same for columns 16·n to 16·n + 15.
__device__ __forceinline__ u32 columns(u32 at, u32 n) { return at ^ n << 5; }

// Where chunk `c` of row `r` of a strip is.
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

__device__ __forceinline__ void load_factors(Factors& factors, u32 strip) {
#pragma unroll
    for (u32 n = 0; n < 4; n++) load_matrices(factors[n], columns(down(strip), n));
}

__device__ __forceinline__ void clear(Sums& sums) {
#pragma unroll
    for (u32 n = 0; n < 8; n++) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) sums[n][i] = 0.0f;
    }
}

// The left factor of a product, from the result of another: 16 rows by 16 columns.
__device__ __forceinline__ void narrow(u32 (&factor)[4], const float (&v)[2][4]) {
    factor[0] = pack(v[0][0], v[0][1]);
    factor[1] = pack(v[0][2], v[0][3]);
    factor[2] = pack(v[1][0], v[1][1]);
    factor[3] = pack(v[1][2], v[1][3]);
}

// sums += left · rows for columns 16·n to 16·n + 15, which `right` has.
__device__ __forceinline__ void accumulate(Sums& sums, u32 n, const u32 (&left)[4], const u32 (&right)[4]) {
    multiply_add(sums[2 * n], left, right[0], right[1]);
    multiply_add(sums[2 * n + 1], left, right[2], right[3]);
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
    const Random4 random = philox(mask.key, key / 4, position, sample, mask.head + 1);
    u32 bits = 0;
#pragma unroll
    for (u32 w = 0; w < 4; w++) bits |= (random.word[w] < mask.threshold ? 0u : 1u) << w;
    return bits;
}

// What a lane draws for a warp's 16 queries by 16 keys: bit 4·h + i is for query group + 8·h and key 4·place + i, which share a
// counter with their neighbours. `position` is that of the first query.
__device__ __forceinline__ u32 draw_queries(const Mask& mask, u32 position, u32 sample, u32 key) {
    const u32 four = key + 4 * place();
    const u32 upper = draw(mask, four, position + group(), sample);
    const u32 lower = draw(mask, four, position + group() + 8, sample);
    return upper | lower << 4;
}

// Which are kept, of what the lanes of a warp drew: bit 8·b + 4·h + e is for query group + 8·h and key 8·b + 2·place + e.
__device__ __forceinline__ u32 exchange(u32 drawn) {
    const u32 t = place();
    const u32 near = __shfl_sync(0xffffffffu, drawn, lane() - t + t / 2);
    const u32 far = __shfl_sync(0xffffffffu, drawn, lane() - t + 2 + t / 2);
    const u32 shift = t % 2 * 2;
    return (near >> shift & 0x33u) | (far >> shift & 0x33u) << 8;
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

__device__ __forceinline__ float quad_sum(float v) {
    v += __shfl_xor_sync(0xffffffffu, v, 1);
    return v + __shfl_xor_sync(0xffffffffu, v, 2);
}
