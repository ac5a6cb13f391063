// Compiles the kernels of the header BODY for both formats: in it, `Stored` is the type of what is stored, and
// `TYPED(name)(parameters) { … }` defines the kernel `name_f32` or `name_bf16`.
#pragma once

namespace of_f32 {
typedef float Stored;
#define TYPED(name) KERNEL name##_f32
#include BODY
#undef TYPED
}

namespace of_bf16 {
typedef bf16 Stored;
#define TYPED(name) KERNEL name##_bf16
#include BODY
#undef TYPED
}
