// Layer normalisation, L2 normalisation, and sums over rows.

#include "sums.cuh"

// Norms below this are treated as this.
constexpr float MIN_NORM = 1e-12f;

// Widest row that a warp holds in its registers; wider ones are read again for each pass.
constexpr u32 MAX_HELD = 1024;

#define BODY "norm.cuh"
#include "both.cuh"
