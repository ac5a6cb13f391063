// Attention over packed sequences, a tile of 64 queries by 64 keys at a time.
//
// A block of 256 threads is 16 by 16: thread (tx, ty) has rows 4·ty to 4·ty + 3 of a tile. Of scores it has columns tx, tx + 16,
// tx + 32 and tx + 48, of results columns 4·tx to 4·tx + 3. With rows 68 numbers apart, no access of a warp meets a bank twice.
// A row's scores are those of 16 neighbouring lanes.

#include "random.cuh"

// Two blocks on a multiprocessor.
#undef KERNEL
#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS, 2)

// Shared memory set aside by the host.
#ifndef TILES
#define TILES(name) extern __shared__ float4 shared_tiles[]; float* name = reinterpret_cast<float*>(shared_tiles)
#endif

#define BODY "attention.cuh"
#include "both.cuh"
