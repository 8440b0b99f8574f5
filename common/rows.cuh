// rows.cuh - rows on the GPU: of a table, that tokens pick and add to; of logits, their k largest, softmax, its
// backward, cross-entropy.
//
// A row of logits has V numbers in Vp places, Vp = V rounded up to PADDED_ROWS, so that rows are aligned; the padding is 0 in
// probabilities and gradients and reaches nothing. One block takes a row; sums are fp32. A row that fits into shared
// memory is read once from the GPU's memory, a longer one twice, by the same threads in the same order: the same bits.
#ifndef PONDER_ROWS_CUH
#define PONDER_ROWS_CUH

#include "device.cuh"

// Of the embedding's backward: places of a chunk, columns of a lane and of a warp, places whose loads are under way
// together, warps of a block. The first and the last are part of the order in which sums are added: a change changes bits.
enum {
    EMBED_CHUNK = WARP,
    EMBED_EACH = 4,
    EMBED_COLUMNS = EMBED_EACH * WARP,
    EMBED_AHEAD = 8,
    EMBED_WARPS = 8,
    EMBED_THREADS = EMBED_WARPS * WARP
};
// Of rows of logits: threads of a block, groups in which a row comes on chip, bytes of shared memory that a block may
// have, and of these what it needs besides a row (with top-k; rounded up to where a row can begin).
enum { LOGIT_THREADS = 512, ROW_STAGES = 4, ROW_SHARED = 99 * 1024, ROW_BESIDE = 256, ROW_BESIDE_TOP_K = 1280 };

// e (N,C) = scale * table[token], from the master weights
static __global__ void __launch_bounds__(256) embedding_forward_kernel(float* e, const int* tokens, const float* table,
                                                                       size_t N, size_t C, float scale, int whole) {
    size_t packs = (C + PACK - 1) / PACK, i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= N * packs) { return; }
    size_t n = i / packs, at = i % packs * PACK;
    float x[PACK];
    load_pack_of(x, table + (size_t)tokens[n] * C, at, C, whole, 0.0f);
    for (int k = 0; k < PACK; k++) { x[k] *= scale; }
    store_pack_of(e + n * C, x, at, C, whole);
}
static inline void embedding_forward_cuda(float* e, const int* tokens, const float* table, size_t N, size_t C,
                                          float scale) {
    states((double)(N * C), 8.0 * (double)N * (double)C);
    launch(embedding_forward_kernel, (unsigned)div_up(N * div_up(C, PACK), 256), 256, 0, device.stream, e, tokens,
           table, N, C, scale, C % PACK == 0);
}

// dtable[token] += scale * de. order (N): the positions sorted by token, equal ones in order; sorted (N): their tokens.
//
// A warp takes EMBED_CHUNK places of that order, one after the other, for EMBED_COLUMNS columns, however often a token
// occurs: where chunks begin follows from the tokens alone. A token whose places lie in one chunk is added to its row
// as the C half adds it. One that goes on in later chunks is added to its row by the first; each later chunk leaves
// its sum in its own row of parts (chunks,C), and embedding_join_kernel adds those, in a fixed order too. In the
// first kernel no two warps touch the same row of dtable: it belongs to the chunk in which the token begins.
static __global__ void __launch_bounds__(EMBED_THREADS)
    embedding_backward_kernel(float* dtable, float* parts, const int* __restrict__ sorted,
                              const int* __restrict__ order, const float* __restrict__ de, size_t N, size_t C,
                              float scale) {
    size_t chunk = (size_t)blockIdx.x * EMBED_WARPS + threadIdx.x / WARP, at = chunk * EMBED_CHUNK;
    int lane = (int)(threadIdx.x % WARP);
    size_t first = (size_t)blockIdx.y * EMBED_COLUMNS + (size_t)lane;
    if (at >= N) { return; }
    // Lane i knows place i of the chunk; all lanes know where tokens begin.
    int count = N - at < EMBED_CHUNK ? (int)(N - at) : EMBED_CHUNK;
    int token = lane < count ? sorted[at + (size_t)lane] : -1, position = lane < count ? order[at + (size_t)lane] : 0;
    int before = __shfl_up_sync(0xffffffffu, token, 1);
    if (lane == 0) { before = at > 0 ? sorted[at - 1] : -1; }
    uint32_t begins = __ballot_sync(0xffffffffu, lane < count && token != before);
    uint32_t ends = begins >> 1 | 1u << (count - 1);  // a place before the next token, and the last one
    float sum[EMBED_EACH];
    float* row = parts + chunk * C;  // until a token begins, the places are those of one that began before this chunk
#pragma unroll
    for (int k = 0; k < EMBED_EACH; k++) { sum[k] = 0; }
    for (int i = 0; i < count; i += EMBED_AHEAD) {
        float x[EMBED_AHEAD][EMBED_EACH], old[EMBED_AHEAD][EMBED_EACH];
#pragma unroll
        for (int u = 0; u < EMBED_AHEAD; u++) {  // all loads first: none waits for a sum
            size_t n = (size_t)__shfl_sync(0xffffffffu, position, i + u);
            size_t v = (size_t)__shfl_sync(0xffffffffu, token, i + u);
#pragma unroll
            for (int k = 0; k < EMBED_EACH; k++) {
                size_t c = first + (size_t)k * WARP;
                x[u][k] = i + u < count && c < C ? de[n * C + c] : 0.0f;
                old[u][k] = begins >> (i + u) & 1 && c < C ? dtable[v * C + c] : 0.0f;
            }
        }
#pragma unroll
        for (int u = 0; u < EMBED_AHEAD; u++) {
            size_t v = (size_t)__shfl_sync(0xffffffffu, token, i + u);
            int begin = begins >> (i + u) & 1, end = ends >> (i + u) & 1;
            if (begin) { row = dtable + v * C; }
#pragma unroll
            for (int k = 0; k < EMBED_EACH; k++) {
                size_t c = first + (size_t)k * WARP;
                sum[k] = fmaf(scale, x[u][k], begin ? old[u][k] : sum[k]);
                if (end && c < C) { row[c] = sum[k]; }
            }
        }
    }
}
// dtable[token] += the parts of a token that goes on in later chunks than its first; one block for each such token,
// that of its first part. Warp w adds parts w, w + EMBED_WARPS, ...; then the warps' sums in their order.
static __global__ void __launch_bounds__(EMBED_THREADS)
    embedding_join_kernel(float* dtable, const float* __restrict__ parts, const int* __restrict__ sorted, size_t N,
                          size_t C) {
    SHARED(float, sums, EMBED_WARPS* EMBED_COLUMNS);
    size_t chunks = (N + EMBED_CHUNK - 1) / EMBED_CHUNK, chunk = (size_t)blockIdx.x + 1, at = chunk * EMBED_CHUNK;
    int token = sorted[at];
    if (sorted[at - 1] != token || (chunk > 1 && sorted[at - 1 - EMBED_CHUNK] == token)) { return; }
    size_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, first = (size_t)blockIdx.y * EMBED_COLUMNS;
    float sum[EMBED_EACH];
#pragma unroll
    for (int k = 0; k < EMBED_EACH; k++) { sum[k] = 0; }
    for (size_t j = chunk + warp; j < chunks && sorted[j * EMBED_CHUNK] == token; j += EMBED_WARPS * EMBED_AHEAD) {
        float x[EMBED_AHEAD][EMBED_EACH];
#pragma unroll
        for (int u = 0; u < EMBED_AHEAD; u++) {
            size_t part = j + (size_t)u * EMBED_WARPS;
            int there = part < chunks && sorted[part * EMBED_CHUNK] == token;
#pragma unroll
            for (int k = 0; k < EMBED_EACH; k++) {
                size_t c = first + (size_t)k * WARP + lane;
                x[u][k] = there && c < C ? parts[part * C + c] : 0.0f;
            }
        }
#pragma unroll
        for (int u = 0; u < EMBED_AHEAD; u++) {
#pragma unroll
            for (int k = 0; k < EMBED_EACH; k++) { sum[k] += x[u][k]; }
        }
    }
#pragma unroll
    for (int k = 0; k < EMBED_EACH; k++) { sums[warp * EMBED_COLUMNS + (size_t)k * WARP + lane] = sum[k]; }
    __syncthreads();
    size_t c = first + threadIdx.x;
    if (threadIdx.x >= EMBED_COLUMNS || c >= C) { return; }
    float x = dtable[(size_t)token * C + c];
    for (int w = 0; w < EMBED_WARPS; w++) { x += sums[w * EMBED_COLUMNS + (int)threadIdx.x]; }
    dtable[(size_t)token * C + c] = x;
}
// Numbers in `parts`: N C / EMBED_CHUNK, 1/32 of de.
static inline size_t embedding_parts(size_t N, size_t C) { return N > EMBED_CHUNK ? div_up(N, EMBED_CHUNK) * C : 0; }
static inline void embedding_backward_cuda(float* dtable, float* parts, const int* sorted, const int* order,
                                           const float* de, size_t N, size_t C, size_t V, float scale) {
    size_t chunks = div_up(N, EMBED_CHUNK);
    // As if tokens were as different as V lets them be: then the fewest chunks begin amid a token.
    double rows = (double)min_size(N, V), left = (double)(chunks > V ? chunks - V : 0);
    dim3 grid((unsigned)div_up(chunks, EMBED_WARPS), (unsigned)div_up(C, EMBED_COLUMNS));
    states(2.0 * (double)N * (double)C, (4.0 * (double)N + 8.0 * rows + 4.0 * left) * (double)C + 8.0 * (double)N);
    launch(embedding_backward_kernel, grid, EMBED_THREADS, 0, device.stream, dtable, parts, sorted, order, de, N, C,
           scale);
    if (chunks == 1) { return; }
    dim3 join((unsigned)(chunks - 1), (unsigned)div_up(C, EMBED_COLUMNS));
    states(left * (double)C, 4.0 * left * (double)C + 8.0 * (double)chunks);
    launch(embedding_join_kernel, join, EMBED_THREADS, 0, device.stream, dtable, (const float*)parts, sorted, N, C);
}

// A number as an unsigned integer of the same order, 0 the least; -0 is 0, and a NaN is above +infinity.
static __device__ __forceinline__ uint32_t order_key(float x) {
    uint32_t bits = x != x ? 0x7fffffffu : x == 0 ? 0u : __float_as_uint(x);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Which numbers of z (V) are the k largest, of equal ones the first: those with key > threshold, and those
// with key = threshold before position `cut`. The threshold is found byte by byte, from the top, by
// counting; then the cut in the same way, by counting the equal ones of each thread's stretch.
typedef struct {
    uint32_t threshold;
    size_t cut;
} TopK;
static __device__ __forceinline__ TopK top_k_find(const floatX* z, size_t V, size_t k,
                                                  unsigned* count /* 256, shared */, size_t* found /* 2, shared */) {
    uint32_t prefix = 0;
    size_t wanted = k;  // of those that share the prefix
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (unsigned i = threadIdx.x; i < 256; i += blockDim.x) { count[i] = 0; }
        __syncthreads();
        for (size_t v = threadIdx.x; v < V; v += blockDim.x) {
            uint32_t key = order_key(to_float(z[v]));
            if (shift == 24 || key >> (shift + 8) == prefix >> (shift + 8)) {
                atomicAdd(&count[key >> shift & 255], 1u);
            }
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            size_t left = wanted;
            int digit = 255;
            while (count[digit] < left) { left -= count[digit--]; }
            found[0] = (size_t)digit, found[1] = left;
        }
        __syncthreads();
        prefix |= (uint32_t)found[0] << shift;
        wanted = found[1];
        __syncthreads();
    }
    // `wanted` of the numbers equal to the threshold are kept, in the order of their positions.
    size_t each = (V + 255) / 256, begin = threadIdx.x * each, end = begin + each < V ? begin + each : V;
    if (threadIdx.x < 256) {
        unsigned equal = 0;
        for (size_t v = begin; v < end; v++) { equal += order_key(to_float(z[v])) == prefix; }
        count[threadIdx.x] = equal;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        size_t left = wanted, v = V;
        for (size_t stretch = 0; stretch < 256; stretch++) {
            if (count[stretch] < left) {
                left -= count[stretch];
                continue;
            }
            for (v = stretch * each; v < V; v++) {  // in here is the last one that is kept
                if (order_key(to_float(z[v])) == prefix && --left == 0) { break; }
            }
            v++;
            break;
        }
        found[0] = v;
    }
    __syncthreads();
    TopK top = {prefix, found[0]};
    return top;
}
static __device__ __forceinline__ int top_k_keeps(TopK top, float x, size_t v) {
    uint32_t key = order_key(x);
    return key > top.threshold || (key == top.threshold && v < top.cut) || x != x;
}

// 1 if a row of Vp numbers fits on chip: 50,304 in bf16 do, with top-k 50,048; 128,256, or 50,304 in fp32, do not.
static inline int row_fits(size_t Vp, size_t top_k) {
    return Vp * sizeof(floatX) + (top_k > 0 ? ROW_BESIDE_TOP_K : ROW_BESIDE) <= ROW_SHARED;
}
// Numbers of a row of Vp that a block of `threads` takes in one of ROW_STAGES groups.
static __device__ __forceinline__ size_t row_stage(size_t Vp, size_t threads) {
    size_t round = threads * PACK, rounds = (Vp + round - 1) / round;
    return (rounds + ROW_STAGES - 1) / ROW_STAGES * round;
}
// Where a block holds its row.
static __device__ __forceinline__ floatX* row_on_chip(void) {
    SHARED_DYNAMIC(floatX, row);
    return row;
}
// Starts to copy a row (Vp) into shared memory. A thread copies the very packs that it will read, so that it waits with
// row_wait() only for itself; who reads others' needs a barrier besides.
static __device__ __forceinline__ void row_hold(floatX* held, const floatX* row, size_t Vp) {
    size_t stage = row_stage(Vp, blockDim.x);
    for (size_t begin = 0; begin < ROW_STAGES * stage; begin += stage) {
        size_t end = begin + stage < Vp ? begin + stage : Vp;
        for (size_t v = begin + (size_t)threadIdx.x * PACK; v < end; v += (size_t)blockDim.x * PACK) {
            cp_async_16(held + v, row + v, 16);
        }
        cp_async_commit();
    }
}
// Waits for the groups up to `stage`, 0 to ROW_STAGES - 1.
static __device__ __forceinline__ void row_wait(int stage) {
    static_assert(ROW_STAGES == 4, "a wait for each stage");
    switch (stage) {
        case 0: cp_async_wait<3>(); break;
        case 1: cp_async_wait<2>(); break;
        case 2: cp_async_wait<1>(); break;
        default: cp_async_wait<0>(); break;
    }
}

// Maximum and sum of exp(z - maximum) over a row of z (V), in every thread of the block: the row is read
// once, each thread carries its own pair and rescales it (Milakov and Gimelshein, arXiv 1805.02867). held: z is where
// row_hold() copies a row of Vp, and is all there at the end.
typedef struct {
    float most, sum;
} RowSum;
template <int held>
static __device__ __forceinline__ RowSum row_sum_exp(const floatX* z, size_t V, size_t Vp, int select, TopK top,
                                                     float* scratch /* 32, shared */) {
    RowSum r = {-INFINITY, 0.0f};
    size_t stage = held ? row_stage(Vp, blockDim.x) : V;
#pragma unroll
    for (int s = 0; s < (held ? ROW_STAGES : 1); s++) {
        if (held) { row_wait(s); }
        size_t begin = (size_t)s * stage, end = begin + stage < V ? begin + stage : V;
        for (size_t v = begin + (size_t)threadIdx.x * PACK; v < end; v += (size_t)blockDim.x * PACK) {
            float x[PACK];
            load_pack_of(x, z, v, V, v + PACK <= V, -INFINITY);
            float most = r.most;
            for (int k = 0; k < PACK; k++) {
                if (select && !top_k_keeps(top, x[k], v + (size_t)k)) { x[k] = -INFINITY; }
                most = nan_max(most, x[k]);
            }
            if (most == -INFINITY) { continue; }  // nothing but masked numbers so far: exp(-inf + inf) would be NaN
            float sum = r.sum * expf(r.most - most);
            for (int k = 0; k < PACK; k++) { sum += expf(x[k] - most); }
            r.most = most, r.sum = sum;
        }
    }
    float most = block_max(r.most, scratch);
    r.sum = block_sum(r.most == -INFINITY ? 0.0f : r.sum * expf(r.most - most), scratch);
    r.most = most;
    return r;
}

// p (rows,Vp) = softmax(top_k(z)), padding 0; in place (p == z). One block a row, held on chip or read twice (with
// top-k: more often, from L2 where it is large enough).
template <int held, int select>
static __global__ void __launch_bounds__(LOGIT_THREADS)
    softmax_rows_kernel(floatX* p, size_t V, size_t Vp, size_t top_k) {
    SHARED(float, scratch, 32);
    SHARED(unsigned, count, select ? 256 : 1);
    SHARED(size_t, found, select ? 2 : 1);
    floatX* row = p + (size_t)blockIdx.x * Vp;
    const floatX* z = held ? row_on_chip() : row;
    if (held) { row_hold(row_on_chip(), row, Vp); }
    TopK top = {0, 0};
    if (select) {
        if (held) { row_wait(ROW_STAGES - 1), __syncthreads(); }
        top = top_k_find(z, V, top_k, count, found);
    }
    RowSum r = row_sum_exp<held>(z, V, Vp, select, top, scratch);
    float scale = 1.0f / r.sum;
    for (size_t v = (size_t)threadIdx.x * PACK; v < Vp; v += (size_t)blockDim.x * PACK) {
        float x[PACK];
        load_pack(x, z + v);
        for (int k = 0; k < PACK; k++) {
            int keep = v + (size_t)k < V && (!select || top_k_keeps(top, x[k], v + (size_t)k));
            x[k] = keep ? expf(x[k] - r.most) * scale : (v + (size_t)k < V ? 0.0f * r.sum : 0.0f);
        }
        store_pack(row + v, x);
    }
}
// held: whether rows are held on chip, which row_fits() must allow; the bits are the same.
static inline void softmax_rows_either_cuda(floatX* p, size_t rows, size_t V, size_t Vp, size_t top_k, int held) {
    size_t shared = held ? Vp * sizeof(floatX) : 0;
    states(5.0 * (double)rows * (double)V, (held ? 2.0 : 3.0) * (double)rows * (double)Vp * sizeof(floatX));
    unsigned grid = (unsigned)rows;
    if (held && top_k > 0) {
        launch((softmax_rows_kernel<1, 1>), grid, LOGIT_THREADS, shared, device.stream, p, V, Vp, top_k);
    } else if (held) {
        launch((softmax_rows_kernel<1, 0>), grid, LOGIT_THREADS, shared, device.stream, p, V, Vp, top_k);
    } else if (top_k > 0) {
        launch((softmax_rows_kernel<0, 1>), grid, LOGIT_THREADS, shared, device.stream, p, V, Vp, top_k);
    } else {
        launch((softmax_rows_kernel<0, 0>), grid, LOGIT_THREADS, shared, device.stream, p, V, Vp, top_k);
    }
}
static inline void softmax_rows_cuda(floatX* p, size_t rows, size_t V, size_t Vp, size_t top_k) {
    if (top_k >= V) { top_k = 0; }  // all of them: nothing to select
    softmax_rows_either_cuda(p, rows, V, Vp, top_k, row_fits(Vp, top_k));
}

// dz (rows,Vp) = p * (dp - dot) / temperature, in place over dp; where p is 0, so is dz (masked tokens, padding).
static __global__ void __launch_bounds__(256)
    softmax_rows_backward_kernel(floatX* dz, const floatX* p, const float* dot, size_t Vp, float inverse_temperature) {
    size_t v = ((size_t)blockIdx.y * blockDim.x + threadIdx.x) * PACK, at = (size_t)blockIdx.x * Vp + v;
    if (v >= Vp) { return; }
    float x[PACK], q[PACK], d = dot[blockIdx.x];
    load_pack(x, dz + at);
    load_pack(q, p + at);
    for (int k = 0; k < PACK; k++) { x[k] = q[k] * (x[k] - d) * inverse_temperature; }
    store_pack(dz + at, x);
}
static inline void softmax_rows_backward_cuda(floatX* dz, const floatX* p, const float* dot, size_t rows, size_t Vp,
                                              float temperature) {
    dim3 grid((unsigned)rows, (unsigned)div_up(Vp, 256 * PACK));
    states(3.0 * (double)rows * (double)Vp, 3.0 * (double)rows * (double)Vp * sizeof(floatX));
    launch(softmax_rows_backward_kernel, grid, 256, 0, device.stream, dz, p, dot, Vp, 1 / temperature);
}

// losses (rows) = lse - z[target]; with scale != NULL also, over the logits, dz = scale (p - onehot(target)).
// 0 where the target is -1. Padding 0. One block a row, which the gradient alone reads a second time.
template <int held>
static __global__ void __launch_bounds__(LOGIT_THREADS)
    cross_entropy_rows_kernel(float* losses, floatX* z, const int* targets, const float* scale, size_t V, size_t Vp) {
    SHARED(float, scratch, 32);
    floatX* row = z + (size_t)blockIdx.x * Vp;
    int target = targets[blockIdx.x];
    if (target < 0) {
        if (threadIdx.x == 0) { losses[blockIdx.x] = 0; }
        if (scale) {
            float zero[PACK] = {0};
            for (size_t v = (size_t)threadIdx.x * PACK; v < Vp; v += (size_t)blockDim.x * PACK) {
                store_pack(row + v, zero);
            }
        }
        return;
    }
    if (held) { row_hold(row_on_chip(), row, Vp); }
    const floatX* from = held ? row_on_chip() : row;
    float wanted = to_float(row[target]);
    TopK none = {0, 0};
    RowSum r = row_sum_exp<held>(from, V, Vp, 0, none, scratch);  // its barriers also let all read `wanted` first
    if (threadIdx.x == 0) { losses[blockIdx.x] = r.most + logf(r.sum) - wanted; }
    if (!scale) { return; }
    float factor = *scale, inverse = 1.0f / r.sum;
    for (size_t v = (size_t)threadIdx.x * PACK; v < Vp; v += (size_t)blockDim.x * PACK) {
        float x[PACK];
        load_pack(x, from + v);
        for (int k = 0; k < PACK; k++) {
            size_t token = v + (size_t)k;
            float p = expf(x[k] - r.most) * inverse;
            x[k] = token < V ? factor * (token == (size_t)target ? p - 1.0f : p) : 0.0f;
        }
        store_pack(row + v, x);
    }
}
// held: as in softmax_rows_either_cuda().
static inline void cross_entropy_rows_either_cuda(float* losses, floatX* z, const int* targets, const float* scale,
                                                  size_t rows, size_t V, size_t Vp, int held) {
    double times = scale ? (held ? 2 : 3) : 1;
    size_t shared = held ? Vp * sizeof(floatX) : 0;
    states(5.0 * (double)rows * (double)V, times * (double)rows * (double)Vp * sizeof(floatX));
    if (held) {
        launch(cross_entropy_rows_kernel<1>, (unsigned)rows, LOGIT_THREADS, shared, device.stream, losses, z, targets,
               scale, V, Vp);
    } else {
        launch(cross_entropy_rows_kernel<0>, (unsigned)rows, LOGIT_THREADS, shared, device.stream, losses, z, targets,
               scale, V, Vp);
    }
}
static inline void cross_entropy_rows_cuda(float* losses, floatX* z, const int* targets, const float* scale,
                                           size_t rows, size_t V, size_t Vp) {
    cross_entropy_rows_either_cuda(losses, z, targets, scale, rows, V, Vp, scale && row_fits(Vp, 0));
}

#endif
