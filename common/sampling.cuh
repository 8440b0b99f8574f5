// sampling.cuh - the next token of each text, drawn on the GPU: the CUDA half of run/sample.h's "one token".
//
// The token that a uniform number u picks is the one that sample_token() picks, except where u (or top_p) lies so near
// to the border of two tokens that rounding decides: within 1e-6 of the mass. Weights are whole numbers, exp(...) * 2^44
// cut off, and their sums are exact in 64 bits, so that no order of additions can change a bit.
//
// Without top_k and top_p tokens stand in the order of their ids; a border in it is found by sums over stretches of ids.
// With either they stand as C sorts them: larger logits first, then smaller ids. Nothing is sorted: three borders are
// looked for in that order, the top_k-th token, where top_p of the mass up to there is reached, and where u of the mass
// up to there is, each by counts and masses of the logits that agree in their leading bits, 11 bits at a time.
//
// A block takes a text. It reads the logits up to nine times, all but the first from L2, at what one multiprocessor can
// read. Whatever depends on the call lies in device memory, so that a CUDA graph may hold the launch; the rule and the
// sizes are launch parameters.
#ifndef PONDER_SAMPLING_CUH
#define PONDER_SAMPLING_CUH

#include "model.h"
#include "rows.cuh"

#include <float.h>

// What a draw needs of its text; in device memory, one for every text of a call.
typedef struct {
    double u;  // in (0,1): random_uniform(seed, stream, draws + drawn) of run/sample.h
    int row;   // its row of `seen`: no two texts of a call have the same
    int pad;
} SampleDraw;

// Threads of a block; bits of a key that are looked at together, of how many bins that makes; bits of a weight behind
// the point; the vocabulary below which sums of weights fit into 64 bits.
enum {
    SAMPLE_THREADS = 1024,
    SAMPLE_DIGIT = 11,
    SAMPLE_BINS = 1 << SAMPLE_DIGIT,
    SAMPLE_LEVELS = 3,
    SAMPLE_POINT = 44,
    SAMPLE_MOST = 1 << (64 - SAMPLE_POINT)
};

// ---- which tokens a text has ----

// Words of 32 bits that a row of `seen` has: bit v % 32 of word v / 32 is 1 if token v is in the text.
static inline size_t seen_words(size_t V) { return div_up(V, 32); }

static __global__ void __launch_bounds__(256)
    seen_add_kernel(unsigned* seen, size_t words, const int* rows, const int* tokens, size_t N, size_t T) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= N || tokens[i] < 0) { return; }
    unsigned token = (unsigned)tokens[i];
    atomicOr(&seen[(size_t)rows[i / T] * words + token / 32], 1u << (token % 32));
}
// seen (rows,words) |= the bits of tokens (n,T) in rows (n), both on the device; a token below 0 is none.
static inline void seen_add_cuda(unsigned* seen, size_t words, const int* rows, const int* tokens, size_t n, size_t T) {
    states(0, 12.0 * (double)n * (double)T + 4.0 * (double)n);
    launch(seen_add_kernel, (unsigned)div_up(n * T, 256), 256, 0, device.stream, seen, words, rows, tokens, n * T, T);
}
// seen (rows,words) = 0 in one row, which is given to a new text.
static inline void seen_clear_cuda(unsigned* seen, size_t words, size_t row) {
    device_zero(seen + row * words, words * sizeof(unsigned));
}

// ---- a row of logits ----

typedef struct {
    const float* z;        // (V)
    const unsigned* seen;  // (words), NULL: there is no penalty
    unsigned V;
    double penalty;
    float best;     // the largest logit
    float inverse;  // 1 / temperature
} SampleRow;

// Logit v after the penalty: the float that sample_penalise() makes of it.
static __device__ __forceinline__ float sample_logit(const SampleRow& row, unsigned v) {
    float x = row.z[v];
    if (row.seen && row.seen[v / 32] >> (v % 32) & 1) {
        x = (float)((double)x > 0 ? (double)x / row.penalty : (double)x * row.penalty);
    }
    return x;
}
static __device__ __forceinline__ uint64_t sample_weight(const SampleRow& row, float x) {
    return (uint64_t)(expf((x - row.best) * row.inverse) * (float)((uint64_t)1 << SAMPLE_POINT));
}
// The logit whose order_key() is `key`.
static __device__ __forceinline__ float sample_logit_of(uint32_t key) {
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}
// The sum that the share in (0,1] of `total` is reached by, at least 1.
static __device__ __forceinline__ uint64_t sample_target(double share, uint64_t total) {
    double sum = ceil(share * (double)total);
    return sum < 1 ? 1 : sum >= (double)total ? total : (uint64_t)sum;
}

// ---- over a block ----

static __device__ __forceinline__ uint64_t sample_warp_scan(uint64_t x) {
    int lane = (int)(threadIdx.x % WARP);
#pragma unroll
    for (int m = 1; m < WARP; m *= 2) {
        uint64_t before = __shfl_up_sync(0xffffffffu, x, m);
        if (lane >= m) { x += before; }
    }
    return x;
}
// Every thread gets the sum over the threads up to itself, and *total over all. scratch (32): shared, free afterwards.
static __device__ __forceinline__ uint64_t sample_block_scan(uint64_t x, uint64_t* total, uint64_t* scratch) {
    unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    x = sample_warp_scan(x);
    if (lane == WARP - 1) { scratch[warp] = x; }
    __syncthreads();
    uint64_t sums = sample_warp_scan(scratch[lane]);
    __syncthreads();
    *total = __shfl_sync(0xffffffffu, sums, WARP - 1);
    uint64_t before = __shfl_sync(0xffffffffu, sums, (int)(warp + WARP - 1) % WARP);
    return warp > 0 ? before + x : x;
}

// The largest logit, of equal ones the first: its order_key() above, ~id below; all ones if a logit is not finite.
static __device__ __forceinline__ uint64_t sample_best_of(const SampleRow& row, uint64_t* scratch) {
    uint64_t most = 0;
#pragma unroll 4
    for (unsigned v = threadIdx.x; v < row.V; v += SAMPLE_THREADS) {
        float x = sample_logit(row, v);
        uint64_t entry = (uint64_t)order_key(x) << 32 | ~v;
        if (!(fabsf(x) < INFINITY)) { entry = ~(uint64_t)0; }
        most = entry > most ? entry : most;
    }
#pragma unroll 1
    for (int turn = 0; turn < 2; turn++) {  // of a warp, then of the warps
#pragma unroll
        for (int m = WARP / 2; m > 0; m /= 2) {
            uint64_t other = __shfl_xor_sync(0xffffffffu, most, m);
            most = other > most ? other : most;
        }
        if (turn == 1) { break; }
        if (threadIdx.x % WARP == 0) { scratch[threadIdx.x / WARP] = most; }
        __syncthreads();
        most = scratch[threadIdx.x % WARP];
        __syncthreads();
    }
    return most;
}

// ---- in the order of ids ----

// What token v adds to a sum: 1 if its key is `key`, or with key = 0, which no finite number has, its weight.
static __device__ __forceinline__ uint64_t sample_amount(const SampleRow& row, unsigned v, uint32_t key) {
    float x = sample_logit(row, v);
    return key ? order_key(x) == key : sample_weight(row, x);
}
// The first token at which the sum of amounts reaches a target: `wanted`, or with key = 0 the share u of the whole sum.
// Warps add up stretches of ids; then the block goes through the stretch in which that is.
static __device__ __forceinline__ int sample_in_order(const SampleRow& row, uint32_t key, uint64_t wanted, double u,
                                                      uint64_t* scratch, int* found) {
    unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    unsigned each = ((row.V + SAMPLE_THREADS - 1) / SAMPLE_THREADS) * (SAMPLE_THREADS / WARP);
    unsigned end = (warp + 1) * each < row.V ? (warp + 1) * each : row.V;
    uint64_t sum = 0;
#pragma unroll 4
    for (unsigned v = warp * each + lane; v < end; v += WARP) { sum += sample_amount(row, v, key); }
    sum = sample_warp_scan(sum);
    if (lane == WARP - 1) { scratch[warp] = sum; }
    __syncthreads();
    sum = sample_warp_scan(scratch[lane]);
    __syncthreads();
    uint64_t all = __shfl_sync(0xffffffffu, sum, WARP - 1);
    wanted = !key ? sample_target(u, all) : wanted < all ? wanted : all;
    unsigned below = (unsigned)__popc(__ballot_sync(0xffffffffu, sum < wanted));  // stretches that end before
    uint64_t before = __shfl_sync(0xffffffffu, sum, (int)(below + WARP - 1) % WARP);
    if (below == 0) { before = 0; }
    end = (below + 1) * each < row.V ? (below + 1) * each : row.V;
#pragma unroll 1
    for (unsigned begin = below * each; begin < end; begin += SAMPLE_THREADS) {
        unsigned v = begin + threadIdx.x;
        uint64_t amount = v < end ? sample_amount(row, v, key) : 0, total;
        uint64_t up_to = before + sample_block_scan(amount, &total, scratch);
        if (up_to >= wanted && up_to - amount < wanted) { *found = (int)v; }
        before += total;
        if (before >= wanted) { break; }
    }
    __syncthreads();
    return *found;
}

// ---- in the order of logits ----

// Counts of the logits in each bin, and their weights in two halves: shared memory adds 32 bits at a time, 64 only by
// trying again until nobody came between.
typedef struct {
    unsigned count[SAMPLE_BINS], low[SAMPLE_BINS], high[SAMPLE_BINS];
} SampleBins;
// A logit's key, and of those with larger keys what they weigh, and how many they are where that is looked for.
typedef struct {
    uint32_t key;
    unsigned count;
    uint64_t mass;
} SampleBorder;

static __device__ __forceinline__ uint64_t sample_mass(const SampleBins* bins, int bin) {
    return (uint64_t)bins->high[bin] << 32 | bins->low[bin];
}
// bins = the logits whose keys agree with `prefix` above the digit at `shift`; above = 32: all.
static __device__ __forceinline__ void sample_fill(SampleBins* bins, const SampleRow& row, uint32_t prefix, int above,
                                                   int shift) {
    for (unsigned i = threadIdx.x; i < SAMPLE_BINS; i += SAMPLE_THREADS) {
        bins->count[i] = bins->low[i] = bins->high[i] = 0;
    }
    __syncthreads();
#pragma unroll 4
    for (unsigned v = threadIdx.x; v < row.V; v += SAMPLE_THREADS) {
        float x = sample_logit(row, v);
        uint32_t key = order_key(x);
        if (above < 32 && key >> above != prefix >> above) { continue; }
        unsigned bin = key >> shift & (SAMPLE_BINS - 1);
        uint64_t weight = sample_weight(row, x);
        unsigned low = (unsigned)weight, high = (unsigned)(weight >> 32);
        atomicAdd(&bins->count[bin], 1u);
        if (low && atomicAdd(&bins->low[bin], low) > ~low) { high++; }
        if (high) { atomicAdd(&bins->high[bin], high); }
    }
    __syncthreads();
}
// The bin in which the number of logits, or else their mass, reaches `wanted`, from the largest keys on; *border is of
// what stands before these bins, and then of what stands before that bin.
static __device__ __forceinline__ void sample_find(SampleBorder* border, const SampleBins* bins, int by_count,
                                                   uint64_t wanted, int shift, uint64_t* scratch, SampleBorder* found) {
    static_assert(SAMPLE_BINS == 2 * SAMPLE_THREADS, "two bins for each thread");
    int bin = SAMPLE_BINS - 1 - 2 * (int)threadIdx.x;
    unsigned count = bins->count[bin];
    uint64_t mass = sample_mass(bins, bin), total;
    // Before this thread's bins: sums over the threads up to it, less its own.
    uint64_t both = mass + sample_mass(bins, bin - 1), counts = 0;
    uint64_t masses = border->mass + sample_block_scan(both, &total, scratch) - both;
    uint64_t before = masses, first = mass;
    if (by_count) {
        both = count + bins->count[bin - 1];
        counts = border->count + sample_block_scan(both, &total, scratch) - both;
        before = counts, first = count;
    }
    if (before < wanted && before + both >= wanted) {
        int second = before + first < wanted;
        found->key = border->key | (uint32_t)(bin - second) << shift;
        found->count = (unsigned)counts + (second ? count : 0);
        found->mass = masses + (second ? mass : 0);
    }
    __syncthreads();
    *border = *found;
    __syncthreads();
}
// The logit at which the number of logits, or their mass, reaches `wanted` (at least 1, at most all), larger ones first.
// bins (2): the first is full already, of all logits.
static __device__ __forceinline__ SampleBorder sample_border(const SampleRow& row, SampleBins* bins, int by_count,
                                                             uint64_t wanted, uint64_t* scratch, SampleBorder* found) {
    SampleBorder border = {0, 0, 0};
    int above = 32;
#pragma unroll 1
    for (int level = 0; level < SAMPLE_LEVELS; level++) {
        int shift = above > SAMPLE_DIGIT ? above - SAMPLE_DIGIT : 0;
        if (level > 0) { sample_fill(bins + 1, row, border.key, above, shift); }
        sample_find(&border, bins + (level > 0), by_count, wanted, shift, scratch, found);
        above = shift;
    }
    return border;
}
static __device__ __forceinline__ uint64_t sample_div_up(uint64_t a, uint64_t b) { return (a + b - 1) / b; }

// The token that u picks of those that top_k and top_p leave.
static __device__ __forceinline__ int sample_cut(const SampleRow& row, uint64_t top_k, double top_p, double u,
                                                 uint64_t* scratch, SampleBorder* border_found, int* found) {
    SHARED_DYNAMIC(SampleBins, bins);  // (2)
    sample_fill(bins, row, 0, 32, 32 - SAMPLE_DIGIT);
    // Three borders; equal logits at one weigh the same, and as many are taken as it needs.
    uint64_t total = 0, nth = 0;
    uint32_t key = 0;
#pragma unroll 1
    for (int step = 0; step < 3; step++) {
        uint64_t wanted = top_k;
        if (step == 0 && top_k == 0) {
            int bin = 2 * (int)threadIdx.x;
            sample_block_scan(sample_mass(bins, bin) + sample_mass(bins, bin + 1), &total, scratch);
            continue;
        }
        if (step == 1 && top_p >= 1) { continue; }
        if (step > 0) { wanted = sample_target(step == 1 ? top_p : u, total); }
        SampleBorder border = sample_border(row, bins, step == 0, wanted, scratch, border_found);
        uint64_t weight = sample_weight(row, sample_logit_of(border.key));
        key = border.key;
        nth = step == 0 ? wanted - border.count : sample_div_up(wanted - border.mass, weight);
        total = border.mass + nth * weight;
    }
    return sample_in_order(row, key, nth, 0, scratch, found);
}

// ---- the draw ----

static __global__ void __launch_bounds__(SAMPLE_THREADS)
    sample_rows_kernel(int* tokens, const float* logits, unsigned V, size_t ld, const SampleDraw* draws, unsigned* seen,
                       double penalty, float inverse, uint64_t top_k, double top_p) {
    SHARED(uint64_t, scratch, WARP);
    SHARED(SampleBorder, border, 1);
    SHARED(int, found, 1);
    unsigned* bits = seen ? seen + (size_t)draws[blockIdx.x].row * ((V + 31) / 32) : NULL;
    SampleRow row = {logits + (size_t)blockIdx.x * ld, penalty != 1 ? bits : NULL, V, penalty, 0, inverse};
    uint64_t best = sample_best_of(row, scratch);
    int token = (int)~(unsigned)best;
    double u = draws[blockIdx.x].u;
    row.best = sample_logit_of((uint32_t)(best >> 32));
    if (best == ~(uint64_t)0) {
        token = -1;
    } else if (inverse > 0 && (top_k > 0 || top_p < 1)) {
        token = sample_cut(row, top_k, top_p, u, scratch, border, found);
    } else if (inverse > 0) {
        token = sample_in_order(row, 0, 0, u, scratch, found);
    }
    if (threadIdx.x > 0) { return; }
    tokens[blockIdx.x] = token;
    if (bits && token >= 0) { atomicOr(&bits[token / 32], 1u << (token % 32)); }
}
// tokens (n) = the token that draws[i].u picks from softmax(penalised logits / temperature) of text i, cut to the top_k
// most probable, then to the fewest of those that hold top_p of the probability; -1 if a penalised logit is not finite.
// logits (n,ld), of which V count, are only read. seen (rows,seen_words(V)), NULL where penalty is 1 and nobody wants to
// know: tokens of the texts so far, to which the drawn ones are added.
static inline void sample_rows_cuda(int* tokens, const float* logits, size_t n, size_t V, size_t ld,
                                    const SampleDraw* draws, unsigned* seen, SampleRule rule) {
    if (V >= SAMPLE_MOST) { die("sampling: a vocabulary of %zu tokens, expected fewer than %d", V, SAMPLE_MOST); }
    if (rule.penalty != 1 && !seen) { die("sampling: a penalty of %g, but no array of seen tokens", rule.penalty); }
    uint64_t top_k = rule.top_k > 0 && (uint64_t)rule.top_k < V ? (uint64_t)rule.top_k : 0;
    int greedy = rule.temperature == 0 || top_k == 1, cut = !greedy && (top_k > 0 || rule.top_p < 1);
    // Never 0 nor infinite in a float: what equals the largest logit has the weight 1, and a NaN would have none.
    double inverse = greedy ? 0 : fmin(fmax(1 / rule.temperature, (double)FLT_MIN), (double)FLT_MAX);
    double words = seen ? (double)seen_words(V) : 0;
    double work = greedy ? 3 : cut ? 30 : 15;
    states(work * (double)n * (double)V,
           (double)n * (4.0 * (double)V + 4.0 * words + sizeof(SampleDraw) + sizeof(int)));
    launch(sample_rows_kernel, (unsigned)n, SAMPLE_THREADS, cut ? 2 * sizeof(SampleBins) : 0, device.stream, tokens,
           logits, (unsigned)V, ld, draws, seen, rule.penalty, (float)inverse, top_k, rule.top_p);
}

#endif
