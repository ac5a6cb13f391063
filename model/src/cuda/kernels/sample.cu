// Tokens chosen from rows of logits: a block has a row.
//
// Entries are ranked from the highest down, equal ones by column. For that a number becomes a key, an integer that orders as the numbers
// do. To draw, no row is sorted: each entry weighs exp(value − highest) in units of 2⁻³¹, an integer, so that sums have no order and
// whatever is compared with them is exact; and the key at which the sum of weights from above crosses a bound is found by halving the
// keys that come into question, until a single entry is left or only equal ones are. Entries of equal keys weigh the same.

#include "common.cuh"

// Threads of a block.
constexpr u32 WIDE = 1024;

#undef KERNEL
#define KERNEL extern "C" __global__ void __launch_bounds__(WIDE, 1)

// Columns of a row that a thread may hold in registers.
constexpr u32 HELD = 30;
// Weight of the highest entry.
constexpr float UNIT = 2147483648.0f;
// Key of no entry: it would be a number that is none.
constexpr u32 NOTHING = 0;
// No column.
constexpr u32 NONE = ~0u;

// What all threads of the block have together, by `f`, which has no order; the same in each thread.
template <typename T, typename F>
__device__ __forceinline__ T over_block(T v, F f) {
    __shared__ T warps[WIDE / 32];
#pragma unroll
    for (u32 other = 16; other > 0; other /= 2) v = f(v, __shfl_xor_sync(0xffffffffu, v, other));
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = v;
    __syncthreads();
    v = warps[threadIdx.x % 32];
#pragma unroll
    for (u32 other = 16; other > 0; other /= 2) v = f(v, __shfl_xor_sync(0xffffffffu, v, other));
    // Nobody writes the next ones before all have read these.
    __syncthreads();
    return v;
}

struct Plus {
    template <typename T>
    __device__ T operator()(T a, T b) const {
        return a + b;
    }
};

struct Most {
    __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
    __device__ u32 operator()(u32 a, u32 b) const { return max(a, b); }
    __device__ u64 operator()(u64 a, u64 b) const { return max(a, b); }
};

__device__ __forceinline__ u32 key_of(float v) {
    const u32 bits = __float_as_uint(v);
    return bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
}

__device__ __forceinline__ float number_of(u32 key) {
    return __uint_as_float(key ^ (key >> 31 ? 0x80000000u : 0xffffffffu));
}

// The keys of a row plus a constant; −0 adds nothing to any number. Held in registers where they fit, else read again and again.
template <bool HOLDS>
struct Row {
    const float* x;
    u32 cols;
    float plus;
    u32 held[HOLDS ? HELD : 1];

    __device__ __forceinline__ Row(const float* x, u32 cols, float plus) : x(x), cols(cols), plus(plus) {
        if constexpr (HOLDS) {
#pragma unroll
            for (u32 i = 0; i < HELD; i++) {
                const u32 col = i * WIDE + threadIdx.x;
                held[i] = col < cols ? key_of(x[col] + plus) : NOTHING;
            }
        }
    }

    // Calls `f(key, column)` for this thread's entries, and for keys of nothing.
    template <typename F>
    __device__ __forceinline__ void each(F f) const {
        if constexpr (HOLDS) {
#pragma unroll
            for (u32 i = 0; i < HELD; i++) f(held[i], i * WIDE + threadIdx.x);
        } else {
            for (u32 col = threadIdx.x; col < cols; col += WIDE) f(key_of(x[col] + plus), col);
        }
    }

    // Rank of the best entry that ranks below another: its key, and the lower its column is the higher it ranks.
    __device__ __forceinline__ u64 best_below(u64 rank) const {
        u64 best = 0;
        each([&](u32 key, u32 col) {
            const u64 own = (u64)key << 32 | ~col;
            if (own < rank && own > best && key != NOTHING) best = own;
        });
        return over_block(best, Most());
    }

    __device__ __forceinline__ u32 column(u64 rank) const { return min(~(u32)rank, cols - 1); }

    // Sum of `weight(key)` over keys from `low` to `last`, and how many there are.
    template <typename W>
    __device__ __forceinline__ u64 sum(u32 low, u32 last, u32& count, W weight) const {
        u64 mass = 0;
        u32 own = 0;
        const u32 span = last - low;
        each([&](u32 key, u32) {
            if (key - low <= span) {
                mass += weight(key);
                own++;
            }
        });
        count = over_block(own, Plus());
        return over_block(mass, Plus());
    }
};

// Where a sum from above crosses a bound.
struct Place {
    u32 key;
    u64 above;  // the sum over all higher keys
};

// The first key, from the highest down, with which the sum of `weight(key)` is more than `bound`. The whole sum is more.
template <bool HOLDS, typename W>
__device__ __forceinline__ Place descend(const Row<HOLDS>& row, u64 bound, u32 highest, W weight) {
    u32 low = NOTHING + 1, last = highest, within = row.cols;
    u64 above = 0;
    while (low < last && within > 1) {
        const u32 middle = low + (last - low) / 2 + 1;
        u32 count;
        const u64 mass = row.sum(middle, last, count, weight);
        if (above + mass > bound) {
            low = middle;
            within = count;
        } else {
            last = middle - 1;
            above += mass;
            within -= count;
        }
    }
    u32 key = NOTHING;
    row.each([&](u32 own, u32) {
        if (own - low <= last - low) key = max(key, own);
    });
    return {over_block(key, Most()), above};
}

// The column of the entry with this key that has `before` of its like before it.
template <bool HOLDS>
__device__ __forceinline__ u32 column_of(const Row<HOLDS>& row, const Place& place, u64 before) {
    u32 low = 0, last = row.cols - 1;
    if (before == 0) {
        u32 latest = 0;
        row.each([&](u32 key, u32 col) {
            if (key == place.key) latest = max(latest, ~col);
        });
        return min(~over_block(latest, Most()), last);
    }
    while (low < last) {
        const u32 middle = low + (last - low) / 2;
        u32 own = 0;
        row.each([&](u32 key, u32 col) { own += key == place.key && col - low <= middle - low; });
        const u32 count = over_block(own, Plus());
        if (count > before) {
            last = middle;
        } else {
            low = middle + 1;
            before -= count;
        }
    }
    return low;
}

// Draws from the smallest set of highest entries whose share of the `top_k` highest (0: of all) is more than `top_p`.
template <bool HOLDS>
__device__ __forceinline__ u32 draw(const Row<HOLDS>& row, u64 first, u32 top_k, float top_p, float u) {
    const u32 highest = (u32)(first >> 32);
    const float top = number_of(highest);
    const auto weight = [=](u32 key) { return (u64)__float2uint_rn(expf(number_of(key) - top) * UNIT); };
    u32 count;
    u64 total = row.sum(NOTHING + 1, highest, count, weight);
    if (top_k > 0 && top_k < row.cols) {
        const Place last = descend(row, top_k - 1, highest, [](u32) { return (u64)1; });
        const u64 whole = last.key < highest ? row.sum(last.key + 1, highest, count, weight) : 0;
        total = whole + (top_k - last.above) * weight(last.key);
    }
    if (total == 0) return row.column(first);
    const u64 bound = (u64)((double)top_p * (double)total);
    u64 kept = total;
    if (bound < total) {
        const Place last = descend(row, bound, highest, weight);
        const u64 each = weight(last.key);
        kept = last.above + ((bound - last.above) / each + 1) * each;
    }
    const u64 drawn = (u64)((double)u * (double)kept);
    const Place place = descend(row, drawn, highest, weight);
    return column_of(row, place, (drawn - place.above) / weight(place.key));
}

// Largest number of a row, and log Σ exp(v − largest).
template <bool HOLDS>
__device__ __forceinline__ float2 log_sum(const Row<HOLDS>& row) {
    float top = -INFINITY;
    row.each([&](u32 key, u32) {
        if (key != NOTHING) top = fmaxf(top, number_of(key));
    });
    top = over_block(top, Most());
    float sum = 0.0f;
    row.each([&](u32 key, u32) {
        if (key != NOTHING) sum += expf(number_of(key) - top);
    });
    return make_float2(top, logf(over_block(sum, Plus())));
}

// Lowers the numbers of the `n` tokens that are present, each once, and takes away the banned one, if it is a column. What stood there
// before is kept for each token.
__device__ __forceinline__ void lower(float* x, u32 cols, const u32* present, u32 n, float penalty, u32 banned, float* before) {
    for (u32 i = threadIdx.x; i < n; i += WIDE) before[i] = x[present[i]];
    __syncthreads();
    if (penalty != 1.0f) {
        for (u32 i = threadIdx.x; i < n; i += WIDE) {
            bool first = true;
            for (u32 j = 0; j < i; j++) first = first && present[j] != present[i];
            if (first) x[present[i]] = before[i] < 0.0f ? before[i] * penalty : before[i] / penalty;
        }
        __syncthreads();
    }
    if (threadIdx.x == 0 && banned < cols) x[banned] = -INFINITY;
    __syncthreads();
}

// What stood in a column that was chosen before numbers were lowered.
__device__ __forceinline__ float raw(const float* x, u32 col, const u32* present, u32 n, const float* before) {
    float v = x[col];
    for (u32 i = 0; i < n; i++) {
        if (present[i] == col) v = before[i];
    }
    return v;
}

extern __shared__ float before[];

template <bool HOLDS>
__device__ __forceinline__ void choose_from(
    float* x, u32 cols, u32* tokens, u32 len, u32 banned, float penalty, u32 top_k, float top_p, float u, float* log_probability
) {
    const float2 known = log_sum(Row<HOLDS>(x, cols, -0.0f));
    lower(x, cols, tokens, len, penalty, banned, before);
    const Row<HOLDS> row(x, cols, -0.0f);
    const u64 first = row.best_below(~0ull);
    const bool draws = top_p > 0.0f && top_k != 1;
    const u32 token = draws ? draw(row, first, top_k, top_p, u) : row.column(first);
    if (threadIdx.x == 0) {
        *log_probability += raw(x, token, tokens, len, before) - known.x - known.y;
        tokens[len] = token;
    }
}

template <bool HOLDS>
__device__ __forceinline__ void best_of(
    float* x, u32 cols, const u32* tokens, u32 len, float sum, u32 banned, float penalty, u32 wanted, u32* found
) {
    const float2 known = log_sum(Row<HOLDS>(x, cols, -0.0f));
    for (u32 col = threadIdx.x; col < cols; col += WIDE) x[col] = x[col] - known.x - known.y;
    __syncthreads();
    lower(x, cols, tokens, len, penalty, banned, before);
    const Row<HOLDS> row(x, cols, sum);
    u64 rank = ~0ull;
    for (u32 i = 0; i < wanted; i++) {
        rank = row.best_below(rank);
        if (threadIdx.x == 0) {
            const u32 token = row.column(rank);
            found[3 * i] = token;
            found[3 * i + 1] = __float_as_uint(number_of((u32)(rank >> 32)));
            found[3 * i + 2] = __float_as_uint(raw(x, token, tokens, len, before));
        }
    }
}

// Chooses the token behind those of each text, and adds its log-probability. Texts begin with `start` tokens, have room for `room`, and
// do not end before they have `shortest`; one that has ended gets another end.
KERNEL choose(
    float* logits, u32 cols, u32* tokens, u32 room, u32* lengths, u32 start, u32 end, u32 shortest, float penalty, u32 top_k,
    float top_p, const float* draws, float* log_probabilities
) {
    const u64 text = blockIdx.x;
    u32* own = tokens + text * room;
    const u32 len = lengths[text];
    // The text grows when all threads know how long it was.
    __syncthreads();
    if (threadIdx.x == 0) lengths[text] = len + 1;
    if (len > start && own[len - 1] == end) {
        if (threadIdx.x == 0) own[len] = end;
        return;
    }
    const u32 banned = len < shortest ? end : NONE;
    float* x = logits + text * cols;
    const float u = draws[text * room + len];
    float* log_probability = log_probabilities + text;
    if (cols <= HELD * WIDE) {
        choose_from<true>(x, cols, own, len, banned, penalty, top_k, top_p, u, log_probability);
    } else {
        choose_from<false>(x, cols, own, len, banned, penalty, top_k, top_p, u, log_probability);
    }
}

// The `wanted` best continuations of each text: token, sum and log-probability. `words` holds the `len` tokens of all texts, then the
// sums that are added to their scores.
KERNEL best(
    float* logits, u32 cols, const u32* words, u32 len, u32 banned, float penalty, u32 wanted, u32* found
) {
    const u64 text = blockIdx.x;
    float* x = logits + text * cols;
    const float sum = __uint_as_float(words[(u64)gridDim.x * len + text]);
    words += text * len;
    found += text * wanted * 3;
    if (cols <= HELD * WIDE) {
        best_of<true>(x, cols, words, len, sum, banned, penalty, wanted, found);
    } else {
        best_of<false>(x, cols, words, len, sum, banned, penalty, wanted, found);
    }
}
