// Tensor cores and asynchronous copies: the instructions, and how a tile lies in shared memory.
//
// A tile has rows of 64 numbers of 16 bits: 8 chunks of 16 bytes. Chunk c of row r lies in place c ^ (r mod 8), so that the same
// chunk of 8 neighbouring rows, which is what a matrix of 8 × 8 is read from, meets every bank once.
//
// Fragments of a product of 16 × 16 by 16 × 8: lane 4·g + t of a warp has of the result columns 2t and 2t + 1 of rows g and g + 8,
// of the left factor the same columns and those 8 further on, of the right factor rows 2t, 2t + 1, 2t + 8 and 2t + 9 of column g.
#pragma once

#include "common.cuh"

constexpr u32 ROW_BYTES = 128;

// Address within shared memory, as the instructions below take it.
__device__ __forceinline__ u32 shared_address(const void* p) {
    return (u32)__cvta_generic_to_shared(p);
}

// Starts to copy 16 bytes to shared memory; zeros if they do not exist.
__device__ __forceinline__ void copy16(u32 to, const void* from, bool exists) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(exists ? 16u : 0u) : "memory");
}

__device__ __forceinline__ void copy8(u32 to, const void* from, bool exists) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(from), "r"(exists ? 8u : 0u) : "memory");
}

// Ends a group of copies.
__device__ __forceinline__ void end_copies() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits for this thread's groups of copies, but for the last `LEFT`.
template <u32 LEFT>
__device__ __forceinline__ void await_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

// Four matrices of 8 × 8; each lane names a row of 16 bytes, the first eight lanes those of the first matrix.
__device__ __forceinline__ void load_matrices(u32 (&m)[4], u32 row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(row)
                 : "memory");
}

// The same, each turned.
__device__ __forceinline__ void load_turned(u32 (&m)[4], u32 row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(row)
                 : "memory");
}

// Four numbers of shared memory.
__device__ __forceinline__ float4 load_four(u32 at) {
    float4 v;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(at) : "memory");
    return v;
}

// Two words of shared memory.
__device__ __forceinline__ uint2 load_two(u32 at) {
    uint2 v;
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(at) : "memory");
    return v;
}

// c += a · b, 16 × 16 by 16 × 8.
__device__ __forceinline__ void multiply_add(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two numbers rounded to bf16, the first in the low half.
__device__ __forceinline__ u32 pack(float low, float high) {
    u32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

__device__ __forceinline__ float low_of(u32 both) { return __uint_as_float(both << 16); }
__device__ __forceinline__ float high_of(u32 both) { return __uint_as_float(both & 0xffff0000u); }

// 2 to the power of v, to two units in the last place; 0 for −∞.
__device__ __forceinline__ float power_of_2(float v) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(v));
    return power;
}
