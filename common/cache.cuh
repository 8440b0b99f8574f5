// cache.cuh - keys and values of the positions that a model has read, on the GPU; cache.h is the C twin.
//
// A query of a decoded token meets all keys of its head: little arithmetic for many bytes, so what counts is that all
// multiprocessors read. Keys are cut into chunks of CACHE_CHUNK positions, counted from position 0; a block has a chunk
// of a kv head and all query heads that share it, a second kernel puts a query's chunks together in their order. So a
// query's bits do not depend on how the text was cut, on its company, or on how many chunks the grid has room for.
//
// Everything that changes from token to token (which rows, how far they are) is read from device memory: a CUDA graph
// of a token serves the next ones too.
//
//   [1] what there is    [2] one token    [3] many tokens of a text
#ifndef PONDER_CACHE_CUH
#define PONDER_CACHE_CUH

#include "attention.cuh"

// ------------------------------------------------------------------------------------------------
// [1] What there is

enum {
    CACHE_CHUNK = 128,             // keys of a block
    CACHE_THREADS = 128,           // of a block
    CACHE_AT_ONCE = 16,            // queries of a launch for which there is room in `parts`
    CACHE_MOST_SHARED = 99 * 1024  // bytes of a block, on every card
};

typedef struct KeyCacheCuda {
    int rows, layers, NKV, HS;
    size_t capacity;  // positions of a row
    floatX* keys;     // (layers, rows, NKV, capacity, HS)
    floatX* values;   // the same
    float* parts;     // (CACHE_AT_ONCE, NH, chunks, HS + 2) what a chunk has of a query: maximum, sum, output
    // Of the call, B rows of T new tokens:
    const int* row;    // (B) which row of the cache each goes on with: device memory
    const int* first;  // (B) the position of its first new token: device memory
    int only, from;    // of the only row, where B = 1: which it is, and that position; on the host
    size_t reach;      // no row has more positions than this after the call
} KeyCacheCuda;

// Numbers of keys and values of one pass, and of the parts of all.
static inline size_t cache_numbers_cuda(size_t rows, size_t layers, size_t NKV, size_t HS, size_t capacity) {
    size_t heads = mul_size(mul_size(rows, layers, "keys"), NKV, "keys");
    return mul_size(heads, mul_size(2 * capacity, HS, "keys and values"), "keys and values");
}
static inline size_t cache_parts_cuda(size_t NH, size_t HS, size_t capacity) {
    // Whole prompts put their log-sum-exp there, which nobody reads.
    return max_size(CACHE_AT_ONCE * NH * div_up(capacity, CACHE_CHUNK) * (HS + 2), NH * capacity);
}

// The positions of rows' first tokens, for layers with positions; NULL: no cache, so all begin at 0.
static inline const int* cache_first_cuda(const KeyCacheCuda* cache) { return cache ? cache->first : NULL; }

// What the kernels need to know.
typedef struct {
    floatX *keys, *values;  // of the layer: (rows, NKV, capacity, HS)
    const int *row, *first;
    size_t capacity, T;
    int NH, NKV, HS, group, whole;
    size_t x_row, q_head, kv_head;  // distances in numbers, in q, k and v
    float scale_log2;
} CacheShape;

// Where a row's keys, or values, of a kv head begin.
static __device__ __forceinline__ size_t cache_at_cuda(const CacheShape& s, size_t b, int kvh) {
    return ((size_t)s.row[b] * (size_t)s.NKV + (size_t)kvh) * s.capacity * (size_t)s.HS;
}

// Puts k and v of new position n of the call, of a kv head, behind those that are there; threads share its packs.
static __device__ __forceinline__ void cache_append(const floatX* k, const floatX* v, size_t n, int kvh, int thread,
                                                    int threads, const CacheShape& s) {
    const size_t b = n / s.T, HS = (size_t)s.HS, from = n * s.x_row + (size_t)kvh * s.kv_head,
                 to = cache_at_cuda(s, b, kvh) + ((size_t)s.first[b] + n % s.T) * HS;
    for (size_t i = (size_t)thread * PACK; i < HS; i += (size_t)threads * PACK) {
        float x[PACK];
        load_pack_of(x, k + from, i, HS, s.whole, 0.0f);
        store_pack_of(s.keys + to, x, i, HS, s.whole);
        load_pack_of(x, v + from, i, HS, s.whole, 0.0f);
        store_pack_of(s.values + to, x, i, HS, s.whole);
    }
}

// All of (B,T) new positions: a block has one, a warp every fourth kv head of it.
static __global__ void __launch_bounds__(CACHE_THREADS)
    cache_append_kernel(const floatX* __restrict__ k, const floatX* __restrict__ v, CacheShape s) {
    for (int kvh = (int)threadIdx.x / WARP; kvh < s.NKV; kvh += CACHE_THREADS / WARP) {
        cache_append(k, v, blockIdx.x, kvh, (int)threadIdx.x % WARP, WARP, s);
    }
}

// ------------------------------------------------------------------------------------------------
// [2] One token
//
// parts: see KeyCacheCuda; m is in units of log2, before the sum's division. `lanes` threads, a power of two, share a
// key; queries, scores and sums over slices of the keys lie in shared memory:
//     q (group, HS)    p (group, CACHE_CHUNK)    m, l (group)    slices (CACHE_THREADS / lanes, HS)

static inline unsigned cache_lanes(size_t HS) {
    unsigned lanes = 1;
    while (lanes < WARP && lanes * PACK < HS) { lanes *= 2; }
    return lanes;
}
static inline size_t cache_shared_bytes(size_t group, size_t HS) {
    return sizeof(float) * (group * (HS + CACHE_CHUNK + 2) + CACHE_THREADS / cache_lanes(HS) * HS);
}

static __global__ void __launch_bounds__(CACHE_THREADS)
    cache_attend_kernel(float* __restrict__ parts, const floatX* __restrict__ q, const floatX* __restrict__ k,
                        const floatX* __restrict__ v, size_t first_query, int lanes, CacheShape s) {
    SHARED_DYNAMIC(float, queries);
    const int HS = s.HS, group = s.group, thread = (int)threadIdx.x, lane = thread % lanes, slice = thread / lanes,
              slices = CACHE_THREADS / lanes;
    float* p = queries + group * HS;
    float* most = p + group * CACHE_CHUNK;
    float* sums = most + group;
    float* partial = sums + group;  // (slices, HS)
    const int kvh = (int)blockIdx.y;
    const size_t n = first_query + blockIdx.z, b = n / s.T, chunks = gridDim.x;
    const int seen = s.first[b] + (int)(n % s.T) + 1, j0 = (int)blockIdx.x * CACHE_CHUNK;
    if (j0 >= seen) { return; }
    const int count = min((int)CACHE_CHUNK, seen - j0);
    // The block that has the new key puts it there, before the barrier below.
    if (k && count == seen - j0) { cache_append(k, v, n, kvh, thread, CACHE_THREADS, s); }
    const floatX* keys = s.keys + cache_at_cuda(s, b, kvh) + (size_t)j0 * (size_t)HS;
    const floatX* values = s.values + cache_at_cuda(s, b, kvh) + (size_t)j0 * (size_t)HS;

    for (int i = thread; i < group * HS; i += CACHE_THREADS) {
        const int h = kvh * group + i / HS;
        queries[i] = to_float(q[n * s.x_row + (size_t)h * s.q_head + (size_t)(i % HS)]) * s.scale_log2;
    }
    __syncthreads();

    // p = q . k; past the last key the last one again, which nobody looks at.
    for (int j = slice; j < CACHE_CHUNK; j += slices) {
        if (j - slice >= count) { break; }  // the same for all of a warp: shuffles need every lane
        const floatX* key = keys + (size_t)min(j, count - 1) * (size_t)HS;
        for (int g = 0; g < group; g++) {
            float sum = 0;
            for (int i = lane * PACK; i < HS; i += lanes * PACK) {
                float x[PACK];
                load_pack_of(x, key, (size_t)i, (size_t)HS, s.whole, 0.0f);
#pragma unroll
                for (int k = 0; k < PACK; k++) {
                    if (i + k < HS) { sum = fmaf(x[k], queries[g * HS + i + k], sum); }
                }
            }
            for (int m = lanes / 2; m > 0; m /= 2) { sum += __shfl_xor_sync(0xffffffffu, sum, m); }
            if (lane == 0) { p[g * CACHE_CHUNK + j] = sum; }
        }
    }
    __syncthreads();

    // p = 2^(p - most); a warp has a query head
    for (int g = thread / WARP; g < group; g += CACHE_THREADS / WARP) {
        float* row = p + g * CACHE_CHUNK;
        float largest = -INFINITY, sum = 0;
        for (int j = thread % WARP; j < count; j += WARP) { largest = nan_max(largest, row[j]); }
        largest = warp_max(largest);
        for (int j = thread % WARP; j < count; j += WARP) {
            row[j] = exp2f(row[j] - largest);
            sum += row[j];
        }
        sum = warp_sum(sum);
        if (thread % WARP == 0) { most[g] = largest, sums[g] = sum; }
    }
    __syncthreads();

    // o = sum of p v: each slice has every slices-th key
    for (int g = 0; g < group; g++) {
        const float* row = p + g * CACHE_CHUNK;
        for (int i = lane * PACK; i < HS; i += lanes * PACK) {
            float sum[PACK];
#pragma unroll
            for (int k = 0; k < PACK; k++) { sum[k] = 0; }
#pragma unroll 4
            for (int j = slice; j < count; j += slices) {
                float x[PACK];
                load_pack_of(x, values + (size_t)j * (size_t)HS, (size_t)i, (size_t)HS, s.whole, 0.0f);
#pragma unroll
                for (int k = 0; k < PACK; k++) { sum[k] = fmaf(row[j], x[k], sum[k]); }
            }
#pragma unroll
            for (int k = 0; k < PACK; k++) {
                if (i + k < HS) { partial[slice * HS + i + k] = sum[k]; }
            }
        }
        __syncthreads();
        float* to = parts + (((size_t)blockIdx.z * (size_t)s.NH + (size_t)(kvh * group + g)) * chunks + blockIdx.x) *
                                (size_t)(HS + 2);
        for (int d = thread; d < HS; d += CACHE_THREADS) {
            float sum = 0;
            for (int k = 0; k < slices; k++) { sum += partial[k * HS + d]; }
            to[2 + d] = sum;
        }
        if (thread == 0) { to[0] = most[g], to[1] = sums[g]; }
        __syncthreads();
    }
}

// out of a query head from its chunks, in their order. A block has a query head, a thread a number of it.
static __global__ void __launch_bounds__(ATTENTION_MOST_HS)
    cache_join_kernel(floatX* __restrict__ out, const float* __restrict__ parts, size_t first_query, int chunks,
                      CacheShape s) {
    const int HS = s.HS, d = (int)threadIdx.x;
    const size_t h = blockIdx.x, n = first_query + blockIdx.y, b = n / s.T;
    const int seen = s.first[b] + (int)(n % s.T) + 1, count = (seen + CACHE_CHUNK - 1) / CACHE_CHUNK;
    const float* part = parts + ((size_t)blockIdx.y * (size_t)s.NH + h) * (size_t)chunks * (size_t)(HS + 2);
    if (d >= HS) { return; }
    float largest = -INFINITY, sum = 0, o = 0;
    for (int c = 0; c < count; c++) { largest = nan_max(largest, part[(size_t)c * (size_t)(HS + 2)]); }
    for (int c = 0; c < count; c++) {
        const float* of = part + (size_t)c * (size_t)(HS + 2);
        const float weight = exp2f(of[0] - largest);
        sum = fmaf(of[1], weight, sum);
        o = fmaf(of[2 + d], weight, o);
    }
    store(out + (n * (size_t)s.NH + h) * (size_t)HS + (size_t)d, o / sum);
}

// Queries of any number, each with all keys up to its own. k and v: of the same positions, where they are to be appended,
// one to each text; NULL: they are there.
static inline void cache_attend_cuda(floatX* out, const floatX* q, const floatX* k, const floatX* v, size_t queries,
                                     const KeyCacheCuda* cache, CacheShape s) {
    const size_t chunks = div_up(cache->reach, CACHE_CHUNK), HS = (size_t)s.HS, NH = (size_t)s.NH;
    const unsigned lanes = cache_lanes(HS), threads = (unsigned)round_up(HS, WARP);
    for (size_t done = 0; done < queries; done += CACHE_AT_ONCE) {
        const size_t some = min_size(CACHE_AT_ONCE, queries - done);
        const double kv = 2.0 * (double)some * (double)cache->reach * (double)s.NKV * (double)HS;
        states(2 * kv * (double)s.group, kv * sizeof(floatX));
        launch(cache_attend_kernel, dim3((unsigned)chunks, (unsigned)s.NKV, (unsigned)some), dim3(CACHE_THREADS),
               cache_shared_bytes((size_t)s.group, HS), device.stream, cache->parts, q, k, v, done, (int)lanes, s);
        const double numbers = (double)some * (double)NH * (double)chunks * (double)(HS + 2);
        states(2 * numbers, 4 * numbers);
        launch(cache_join_kernel, dim3((unsigned)NH, (unsigned)some), dim3(threads), 0, device.stream, out,
               cache->parts, done, (int)chunks, s);
    }
}

// ------------------------------------------------------------------------------------------------
// [3] Many tokens of a text

#ifdef FP32
// 1 if it was done: only the bf16 program has tensor cores to do it on.
static inline int cache_attend_tiles_cuda(floatX* out, const floatX* q, size_t T, const KeyCacheCuda* cache,
                                          const CacheShape* s) {
    (void)out, (void)q, (void)T, (void)cache, (void)s;
    return 0;
}
#else
// T tokens of one text behind the `from` that the cache has, by attention_forward_kernel over all of them: its blocks
// take the longest rows first, so that a grid which is too short for all queries has the last ones. The first of its
// blocks must not begin before the first new token.
enum { CACHE_TILE_ROWS = 128 };  // of those blocks, in every class
static_assert(CACHE_TILE_ROWS % ForwardTiles<64, 0>::rows == 0 && CACHE_TILE_ROWS % ForwardTiles<256, 0>::rows == 0,
              "blocks of queries begin at whole tiles");

template <int HSC, int small>
static inline void cache_attend_tiles(floatX* out, const floatX* q, const KeyCacheCuda* cache, const floatX* keys,
                                      const floatX* values, AttentionShape shape) {
    typedef ForwardTiles<HSC, small> S;
    const size_t blocks = div_up((size_t)shape.T, S::rows) - (size_t)shape.from / S::rows;
    launch((attention_forward_kernel<HSC, small>), dim3((unsigned)blocks, (unsigned)shape.NH), dim3(S::threads),
           S::bytes, device.stream, out, cache->parts, q, keys, values, shape);
}

static inline int cache_attend_tiles_cuda(floatX* out, const floatX* q, size_t T, const KeyCacheCuda* cache,
                                          const CacheShape* s) {
    const size_t HS = (size_t)s->HS, NH = (size_t)s->NH;
    // That kernel counts from head to head in 32 bits.
    if (cache->from % CACHE_TILE_ROWS != 0 || s->capacity * HS >= ((size_t)1 << 31) / (size_t)s->NKV) { return 0; }
    if (!attention_whole(NH, HS, s->x_row, s->q_head, s->kv_head, (uintptr_t)out | (uintptr_t)q)) { return 0; }
    AttentionShape shape =
        attention_shape((size_t)cache->from + T, NH, (size_t)s->NKV, HS, s->x_row, s->q_head, s->capacity * HS);
    shape.kv_row = HS, shape.from = cache->from;
    const size_t at = (size_t)cache->only * (size_t)s->NKV * s->capacity * HS;
    const double pairs = (double)T * ((double)cache->from + ((double)T + 1) / 2) * (double)NH * (double)HS;
    states_product(4 * pairs, (double)sizeof(floatX) * (double)HS *
                                  (2.0 * (double)T * (double)NH + 2.0 * (double)shape.T * (double)s->NKV));
#define CASE(HSC)                                                                                                     \
    do {                                                                                                              \
        if (AttentionSets<HSC>::forward && attention_small()) {                                                       \
            cache_attend_tiles<HSC, AttentionSets<HSC>::forward>(out, q, cache, s->keys + at, s->values + at, shape); \
        } else {                                                                                                      \
            cache_attend_tiles<HSC, 0>(out, q, cache, s->keys + at, s->values + at, shape);                           \
        }                                                                                                             \
    } while (0)
    FOR_TILE_CLASS(HS, CASE);
#undef CASE
    return 1;
}
#endif

// As attention_forward_cuda(), which it is without a cache. With one, the rows are what follows on what the cache has of a
// layer: k and v are appended, and lse, which only a backward reads, is left as it was, or not.
static inline void cached_attention_forward_cuda(floatX* out, float* lse, const floatX* q, const floatX* k,
                                                 const floatX* v, size_t B, size_t T, size_t NH, size_t NKV, size_t HS,
                                                 size_t row, size_t q_head, size_t kv_head, const KeyCacheCuda* cache,
                                                 int layer) {
    if (!cache) {
        attention_forward_cuda(out, lse, q, k, v, B, T, NH, NKV, HS, row, q_head, kv_head);
        return;
    }
    const int part = ledger_part(PART_ATTENTION);
    AttentionShape shape = attention_shape(T, NH, NKV, HS, row, q_head, kv_head);
    if (cache_shared_bytes((size_t)shape.group, HS) > CACHE_MOST_SHARED) {
        die("attention over cached keys: %d query heads of %zu numbers share a kv head, more than %d KB of shared "
            "memory "
            "hold; the CPU program takes any",
            shape.group, HS, CACHE_MOST_SHARED / 1024);
    }
    const size_t layer_at = (size_t)layer * (size_t)cache->rows * NKV * cache->capacity * HS;
    const int whole = HS % PACK == 0 && row % PACK == 0 && q_head % PACK == 0 && kv_head % PACK == 0 &&
                      ((uintptr_t)q | (uintptr_t)k | (uintptr_t)v | (uintptr_t)cache->keys) % 16 == 0;
    CacheShape s = {cache->keys + layer_at,
                    cache->values + layer_at,
                    cache->row,
                    cache->first,
                    cache->capacity,
                    T,
                    (int)NH,
                    (int)NKV,
                    (int)HS,
                    shape.group,
                    whole,
                    row,
                    q_head,
                    kv_head,
                    shape.scale_log2};
    if (T == 1) {
        cache_attend_cuda(out, q, k, v, B, cache, s);
        ledger_part(part);
        return;
    }
    states(0, 4.0 * (double)sizeof(floatX) * (double)(B * T * NKV) * (double)HS);
    launch(cache_append_kernel, dim3((unsigned)(B * T)), dim3(CACHE_THREADS), 0, device.stream, k, v, s);
    if (B == 1 && cache->from == 0) {
        attention_forward_cuda(out, lse, q, k, v, B, T, NH, NKV, HS, row, q_head, kv_head);
    } else if (B > 1 || T <= CACHE_AT_ONCE || !cache_attend_tiles_cuda(out, q, T, cache, &s)) {
        cache_attend_cuda(out, q, NULL, NULL, B * T, cache, s);
    }
    ledger_part(part);
}

#endif
