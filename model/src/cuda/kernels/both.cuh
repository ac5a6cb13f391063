// Compiles the kernels of the header BODY for both formats: in it, `Stored` is the type of what is stored, and
// `TYPED(name)(parameters) { … }` defines the kernel `name_f32` or `name_bf16`. One
// that sums over rows (sums.cuh) is defined by `SUMMING`: two of its blocks are at work on a multiprocessor.
#pragma once

namespace of_f32 {
typedef float Stored;
#define TYPED(name) KERNEL name##_f32
#define SUMMING(name) KERNEL __launch_bounds__(SUM_THREADS, 2) name##_f32
#include BODY
#undef SUMMING
#undef TYPED
}

namespace of_bf16 {
typedef bf16 Stored;
#define TYPED(name) KERNEL name##_bf16
#define SUMMING(name) KERNEL __launch_bounds__(SUM_THREADS, 2) name##_bf16
#include BODY
#undef SUMMING
#undef TYPED
}
