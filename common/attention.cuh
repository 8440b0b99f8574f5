// attention.cuh - causal attention with grouped heads on the GPU, forwards and backwards; no T x T matrix.
//
// The C twin is attention.h: same meaning, same layout, same formulas (written out there). The vector
// of HS numbers for position (b,t) and a head lies at (b*T+t)*row + head * (q_head or kv_head); out and
// dout are (B,T,NH*HS); lse and delta are (B,NH,T) in fp32, lse in natural logarithms.
//
//   [1] the plain kernels: fp32 arithmetic, one warp per query or key, any head size up to 256. They are
//       the documentation, all of the fp32 program, and what the bf16 program does when vectors are no
//       whole multiples of 16 bytes.
//   [2] tiles: layout in shared memory, copies, matrix fragments
//   [3] forward on the tensor cores      [4] backward on the tensor cores      [5] what the trainers call
//   attention_wgmma.cuh has [3] and [4] once more, on Hopper's warpgroup products
//
// After Dao, "FlashAttention-2" (2023): tiles of queries x keys; per query the maximum so far and the sum
// of exp(s - maximum), rescaled when the maximum grows (Milakov and Gimelshein, "Online normalizer
// calculation for softmax", 2018); in the backward the probabilities come again from q, k and lse.
//
// Every sum has one owner and a fixed order: no atomics, and two runs give the same bits. That is why
// the backward has two kernels, one that owns keys (dk, dv) and one that owns queries (dq), although
// both must compute the scores: 7 products instead of 5.
//
// NaN: what is NaN in an input is NaN in all that depends on it. In [3] and [4] it may also reach other
// positions of the same tile on the diagonal, because there a masked probability is a factor 0, not an
// absent one. Finite numbers at later positions never change a bit at earlier ones; but for warpgroups' kernels
// (attention_wgmma.cuh) where the product of a later v with dout is infinite.
#ifndef PONDER_ATTENTION_CUH
#define PONDER_ATTENTION_CUH

#include "device.cuh"

enum { ATTENTION_MOST_HS = 256 };
#define ATTENTION_LOG2E 1.4426950408889634f

// What all kernels need to know.
typedef struct {
    int T, NH, HS, group;         // group: query heads that share a kv head
    size_t row, q_head, kv_head;  // distances in numbers
    float scale, scale_log2;      // 1 / sqrt(HS); the same times log2(e)
    // In the forward on the tensor cores; elsewhere row, and 0:
    size_t kv_row;  // the distance of keys, and of values
    int from;       // how many of the T positions come before the first that q, out and lse have (with one row)
} AttentionShape;

// FLOPs of `products` products of the causal half for all heads, diagonal included: each needs 2 HS for
// every pair of a query and a key that it sees.
static inline double attention_flops(double products, size_t B, size_t T, size_t NH, size_t HS) {
    return products * 2.0 * (double)HS * (double)B * (double)NH * (double)T * ((double)T + 1) / 2;
}

// ------------------------------------------------------------------------------------------------
// [1] The plain kernels
//
// A block has 8 warps, and a warp owns a query (or, for dk and dv, a key). Rows of the other kind come
// by in tiles of 32: lane j computes the score with row j; then the lanes turn by 90 degrees, and lane d
// adds up numbers d, d+32, ... of the result over the rows of the tile.

enum { PLAIN_ROWS = 8, PLAIN_TILE = WARP, PLAIN_SUMS = ATTENTION_MOST_HS / WARP };

// A row of a tile in shared memory: an odd number of words, so that 32 lanes that read 32 rows at one
// place use all banks.
static __host__ __device__ __forceinline__ int plain_stride(int HS) { return HS | 1; }

// tile (count, plain_stride) = rows first, first+1, ... of `from`, whose vectors lie `row` apart; zeros
// from row T on. All threads of the block.
static __device__ __forceinline__ void plain_load(float* tile, const floatX* from, size_t row, int first, int count,
                                                  int T, int HS) {
    for (int i = (int)threadIdx.x; i < count * HS; i += (int)blockDim.x) {
        int r = i / HS, d = i % HS;
        tile[r * plain_stride(HS) + d] = first + r < T ? to_float(from[(size_t)(first + r) * row + d]) : 0.0f;
    }
}
static __device__ __forceinline__ float plain_dot(const float* a, const float* b, int HS) {
    float sum = 0;
    for (int d = 0; d < HS; d++) { sum = fmaf(a[d], b[d], sum); }
    return sum;
}

static __global__ void __launch_bounds__(PLAIN_ROWS* WARP, 4)
    attention_forward_plain_kernel(floatX* __restrict__ out, float* __restrict__ lse, const floatX* __restrict__ q,
                                   const floatX* __restrict__ k, const floatX* __restrict__ v, AttentionShape shape) {
    const int T = shape.T, NH = shape.NH, HS = shape.HS, stride = plain_stride(HS);
    SHARED_DYNAMIC(float, k_tile);  // (PLAIN_TILE, stride)
    float* v_tile = k_tile + PLAIN_TILE * stride;
    float* q_rows = v_tile + PLAIN_TILE * stride;  // (PLAIN_ROWS, stride)
    const int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP,
              blocks = (T + PLAIN_ROWS - 1) / PLAIN_ROWS;
    const int i0 = (blocks - 1 - (int)blockIdx.x) * PLAIN_ROWS, i = i0 + warp;
    const size_t b = blockIdx.z, h = blockIdx.y;
    const size_t start = b * (size_t)T, kv = start * shape.row + h / (size_t)shape.group * shape.kv_head;
    float m = -INFINITY, l = 0, o[PLAIN_SUMS] = {0};

    plain_load(q_rows, q + start * shape.row + h * shape.q_head, shape.row, i0, PLAIN_ROWS, T, HS);
    for (int j0 = 0; j0 < i0 + PLAIN_ROWS && j0 < T; j0 += PLAIN_TILE) {
        __syncthreads();  // everybody is done with the last tile
        plain_load(k_tile, k + kv, shape.row, j0, PLAIN_TILE, T, HS);
        plain_load(v_tile, v + kv, shape.row, j0, PLAIN_TILE, T, HS);
        __syncthreads();
        const int seen = min(i - j0 + 1, (int)PLAIN_TILE);  // keys of the tile that query i sees
        if (seen <= 0) { continue; }
        float s = lane < seen ? shape.scale * plain_dot(q_rows + warp * stride, k_tile + lane * stride, HS) : -INFINITY;
        float most = nan_max(m, warp_max(s));
        float p = expf(s - most), again = expf(m - most);
        l = l * again + warp_sum(p);
        m = most;
#pragma unroll
        for (int x = 0; x < PLAIN_SUMS; x++) { o[x] *= again; }
        for (int j = 0; j < seen; j++) {
            float pj = __shfl_sync(0xffffffffu, p, j);
#pragma unroll
            for (int x = 0; x < PLAIN_SUMS; x++) {
                int d = x * WARP + lane;
                if (d < HS) { o[x] = fmaf(pj, v_tile[j * stride + d], o[x]); }
            }
        }
    }
    if (i < T) {
#pragma unroll
        for (int x = 0; x < PLAIN_SUMS; x++) {
            int d = x * WARP + lane;
            if (d < HS) { store(out + ((start + (size_t)i) * (size_t)NH + h) * (size_t)HS + d, o[x] / l); }
        }
        if (lane == 0) { lse[(b * (size_t)NH + h) * (size_t)T + (size_t)i] = m + logf(l); }
    }
}

enum { QUERIES, KEYS };  // what is owned

// keys = 0: d0 = dq; a warp owns a query, keys come by. keys = 1: d0 = dk, d1 = dv; a warp owns a key,
// queries come by, of one head of its group after the other.
template <int keys>
static __global__ void __launch_bounds__(PLAIN_ROWS* WARP, 4)
    attention_backward_plain_kernel(floatX* __restrict__ d0, floatX* __restrict__ d1, const float* __restrict__ delta,
                                    const floatX* __restrict__ dout, const floatX* __restrict__ q,
                                    const floatX* __restrict__ k, const floatX* __restrict__ v,
                                    const float* __restrict__ lse, AttentionShape shape) {
    const int T = shape.T, NH = shape.NH, HS = shape.HS, stride = plain_stride(HS), group = shape.group;
    SHARED_DYNAMIC(float, tile0);  // (PLAIN_TILE, stride) of what comes by: k and v, or q and dout
    float* tile1 = tile0 + PLAIN_TILE * stride;
    float* own0 = tile1 + PLAIN_TILE * stride;  // (PLAIN_ROWS, stride): q and dout, or k and v
    float* own1 = own0 + PLAIN_ROWS * stride;
    const int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP,
              blocks = (T + PLAIN_ROWS - 1) / PLAIN_ROWS;
    const int at = (int)blockIdx.x, r0 = (keys ? at : blocks - 1 - at) * PLAIN_ROWS, r = r0 + warp;
    const size_t b = blockIdx.z, head = blockIdx.y;
    const size_t start = b * (size_t)T, out_row = (size_t)NH * (size_t)HS;
    const size_t kv = start * shape.row + (keys ? head : head / (size_t)group) * shape.kv_head;
    float sum0[PLAIN_SUMS] = {0}, sum1[PLAIN_SUMS] = {0};

    for (int member = 0; member < (keys ? group : 1); member++) {
        const size_t h = keys ? head * (size_t)group + (size_t)member : head;
        const floatX* q_head = q + start * shape.row + h * shape.q_head;
        const floatX* g_head = dout + start * out_row + h * (size_t)HS;
        const float* lse_head = lse + (b * (size_t)NH + h) * (size_t)T;
        const float* delta_head = delta + (b * (size_t)NH + h) * (size_t)T;
        if (member == 0) {
            plain_load(own0, keys ? k + kv : q_head, shape.row, r0, PLAIN_ROWS, T, HS);
            plain_load(own1, keys ? v + kv : g_head, keys ? shape.row : out_row, r0, PLAIN_ROWS, T, HS);
        }
        const int from = keys ? r0 / PLAIN_TILE * PLAIN_TILE : 0, end = keys ? T : min(T, r0 + (int)PLAIN_ROWS);
        for (int c0 = from; c0 < end; c0 += PLAIN_TILE) {
            __syncthreads();  // everybody is done with the last tile
            plain_load(tile0, keys ? q_head : k + kv, shape.row, c0, PLAIN_TILE, T, HS);
            plain_load(tile1, keys ? g_head : v + kv, keys ? out_row : shape.row, c0, PLAIN_TILE, T, HS);
            __syncthreads();
            // Rows [first, last) of the tile belong to this one: keys up to a query, queries from a key on.
            const int first = keys ? max(r - c0, 0) : 0,
                      last = keys ? min(T - c0, (int)PLAIN_TILE) : min(r - c0 + 1, (int)PLAIN_TILE);
            if (r >= T || first >= last) { continue; }
            float p = 0, ds = 0;
            if (lane >= first && lane < last) {
                const int i = keys ? c0 + lane : r;  // the query
                p = expf(shape.scale * plain_dot(own0 + warp * stride, tile0 + lane * stride, HS) - lse_head[i]);
                ds = p * (plain_dot(own1 + warp * stride, tile1 + lane * stride, HS) - delta_head[i]) * shape.scale;
            }
            for (int c = first; c < last; c++) {
                float pc = __shfl_sync(0xffffffffu, p, c), dsc = __shfl_sync(0xffffffffu, ds, c);
#pragma unroll
                for (int x = 0; x < PLAIN_SUMS; x++) {
                    int d = x * WARP + lane;
                    if (d < HS) {
                        sum0[x] = fmaf(dsc, tile0[c * stride + d], sum0[x]);
                        if (keys) { sum1[x] = fmaf(pc, tile1[c * stride + d], sum1[x]); }
                    }
                }
            }
        }
    }
    if (r < T) {
        const size_t to = (start + (size_t)r) * shape.row + head * (keys ? shape.kv_head : shape.q_head);
#pragma unroll
        for (int x = 0; x < PLAIN_SUMS; x++) {
            int d = x * WARP + lane;
            if (d < HS) {
                store(d0 + to + d, sum0[x]);
                if (keys) { store(d1 + to + d, sum1[x]); }
            }
        }
    }
}

// delta (B,NH,T) = dot products of dout and out, over HS. blockDim.x lanes (a power of two, a vector's packs
// where these are at most 32) share a vector; the vectors of a block are neighbours in time, so that delta
// is written in whole lines. 4 HS bytes read in bf16 for each 4 written.
enum { DELTA_THREADS = 256 };
static __global__ void __launch_bounds__(DELTA_THREADS)
    attention_delta_kernel(float* __restrict__ delta, const floatX* __restrict__ dout, const floatX* __restrict__ out,
                           unsigned T, int HS, int whole) {
    const unsigned t = blockIdx.x * blockDim.y + threadIdx.y, NH = gridDim.y;
    const size_t b = blockIdx.z, h = blockIdx.y, from = ((b * T + t) * NH + h) * (size_t)HS;
    float sum = 0;
    for (int i = (int)threadIdx.x * PACK; t < T && i < HS; i += (int)blockDim.x * PACK) {
        float x[PACK], y[PACK];
        load_pack_of(x, dout + from, (size_t)i, (size_t)HS, whole, 0.0f);
        load_pack_of(y, out + from, (size_t)i, (size_t)HS, whole, 0.0f);
#pragma unroll
        for (int j = 0; j < PACK; j++) { sum = fmaf(x[j], y[j], sum); }
    }
    for (int m = (int)blockDim.x / 2; m > 0; m /= 2) { sum += __shfl_xor_sync(0xffffffffu, sum, m); }
    if (t < T && threadIdx.x == 0) { delta[(b * NH + h) * T + t] = sum; }
}

// A block for every `rows` positions of each head and batch row: neighbours share a head, so its vectors in
// the L2 cache.
static inline dim3 attention_grid(size_t B, size_t T, size_t heads, size_t rows) {
    if (B > 65535 || heads > 65535) {
        die("attention: %zu rows of %zu heads, expected at most 65535 of each", B, heads);
    }
    return dim3((unsigned)div_up(T, rows), (unsigned)heads, (unsigned)B);
}

static inline void attention_delta_cuda(float* delta, const floatX* dout, const floatX* out, size_t B, size_t T,
                                        size_t NH, size_t HS) {
    const int whole = HS % PACK == 0 && ((uintptr_t)dout | (uintptr_t)out) % 16 == 0;
    unsigned lanes = 1;
    while (lanes < WARP && (size_t)lanes * PACK < HS) { lanes *= 2; }
    states(2.0 * (double)(B * NH * T) * (double)HS, (double)(B * NH * T) * (2.0 * (double)HS * sizeof(floatX) + 4.0));
    launch(attention_delta_kernel, attention_grid(B, T, NH, DELTA_THREADS / lanes), dim3(lanes, DELTA_THREADS / lanes),
           0, device.stream, delta, dout, out, (unsigned)T, (int)HS, whole);
}

static inline AttentionShape attention_shape(size_t T, size_t NH, size_t NKV, size_t HS, size_t row, size_t q_head,
                                             size_t kv_head) {
    if (HS == 0 || HS > ATTENTION_MOST_HS) {
        die("attention: heads of %zu numbers, expected 1 to %d", HS, ATTENTION_MOST_HS);
    }
    if (NKV == 0 || NH % NKV != 0) { die("attention: %zu query heads do not divide among %zu kv heads", NH, NKV); }
    AttentionShape shape = {(int)T,
                            (int)NH,
                            (int)HS,
                            (int)(NH / NKV),
                            row,
                            q_head,
                            kv_head,
                            1.0f / sqrtf((float)HS),
                            ATTENTION_LOG2E / sqrtf((float)HS),
                            row,
                            0};
    return shape;
}

// Bytes of tensors that must move at least: `q_like` of the size of q, `kv_like` of the size of k, and
// `statistics` of the size of lse.
static inline double attention_bytes(double q_like, double kv_like, double statistics, size_t B, size_t T, size_t NH,
                                     size_t NKV, size_t HS) {
    double positions = (double)B * (double)T;
    return positions * ((q_like * (double)NH + kv_like * (double)NKV) * (double)HS * (double)sizeof(floatX) +
                        statistics * (double)NH * 4.0);
}

// Bytes of shared memory of the plain kernels.
static inline size_t plain_forward_bytes(size_t HS) {
    return (2 * PLAIN_TILE + PLAIN_ROWS) * (size_t)plain_stride((int)HS) * sizeof(float);
}
static inline size_t plain_backward_bytes(size_t HS) {
    return 2 * (PLAIN_TILE + PLAIN_ROWS) * (size_t)plain_stride((int)HS) * sizeof(float);
}
// What kernels of a family need, one a line, for dev/kernels_table.sh: the plain ones at the largest head size.
static inline void plain_print_shared(void) {
    printf("attention_forward_plain_kernel %zu\n", plain_forward_bytes(ATTENTION_MOST_HS));
    printf("attention_backward_plain_kernel<%d> %zu\n", KEYS, plain_backward_bytes(ATTENTION_MOST_HS));
    printf("attention_backward_plain_kernel<%d> %zu\n", QUERIES, plain_backward_bytes(ATTENTION_MOST_HS));
}

static inline void attention_forward_plain_cuda(floatX* out, float* lse, const floatX* q, const floatX* k,
                                                const floatX* v, size_t B, size_t T, size_t NH, size_t NKV, size_t HS,
                                                size_t row, size_t q_head, size_t kv_head) {
    AttentionShape shape = attention_shape(T, NH, NKV, HS, row, q_head, kv_head);
    states(attention_flops(2, B, T, NH, HS), attention_bytes(2, 2, 1, B, T, NH, NKV, HS));
    launch(attention_forward_plain_kernel, attention_grid(B, T, NH, PLAIN_ROWS), dim3(PLAIN_ROWS * WARP),
           plain_forward_bytes(HS), device.stream, out, lse, q, k, v, shape);
}

static inline void attention_backward_plain_cuda(floatX* dq, floatX* dk, floatX* dv, float* delta, const floatX* dout,
                                                 const floatX* q, const floatX* k, const floatX* v, const floatX* out,
                                                 const float* lse, size_t B, size_t T, size_t NH, size_t NKV, size_t HS,
                                                 size_t row, size_t q_head, size_t kv_head) {
    AttentionShape shape = attention_shape(T, NH, NKV, HS, row, q_head, kv_head);
    const size_t shared = plain_backward_bytes(HS);
    attention_delta_cuda(delta, dout, out, B, T, NH, HS);
    states(attention_flops(4, B, T, NH, HS), attention_bytes(2, 4, 2, B, T, NH, NKV, HS));  // s, dp, dv, dk
    launch(attention_backward_plain_kernel<KEYS>, attention_grid(B, T, NKV, PLAIN_ROWS), dim3(PLAIN_ROWS * WARP),
           shared, device.stream, dk, dv, delta, dout, q, k, v, lse, shape);
    states(attention_flops(3, B, T, NH, HS), attention_bytes(3, 2, 2, B, T, NH, NKV, HS));  // s, dp, dq
    launch(attention_backward_plain_kernel<QUERIES>, attention_grid(B, T, NH, PLAIN_ROWS), dim3(PLAIN_ROWS * WARP),
           shared, device.stream, dq, (floatX*)NULL, delta, dout, q, k, v, lse, shape);
}

#ifdef FP32
// ------------------------------------------------------------------------------------------------
// [5] What the trainers call, in the fp32 program

static inline void attention_forward_cuda(floatX* out, float* lse, const floatX* q, const floatX* k, const floatX* v,
                                          size_t B, size_t T, size_t NH, size_t NKV, size_t HS, size_t row,
                                          size_t q_head, size_t kv_head) {
    int part = ledger_part(PART_ATTENTION);
    attention_forward_plain_cuda(out, lse, q, k, v, B, T, NH, NKV, HS, row, q_head, kv_head);
    ledger_part(part);
}
static inline void attention_backward_cuda(floatX* dq, floatX* dk, floatX* dv, float* delta, const floatX* dout,
                                           const floatX* q, const floatX* k, const floatX* v, const floatX* out,
                                           const float* lse, size_t B, size_t T, size_t NH, size_t NKV, size_t HS,
                                           size_t row, size_t q_head, size_t kv_head) {
    int part = ledger_part(PART_ATTENTION);
    attention_backward_plain_cuda(dq, dk, dv, delta, dout, q, k, v, out, lse, B, T, NH, NKV, HS, row, q_head, kv_head);
    ledger_part(part);
}
static inline void attention_print_shared(void) { plain_print_shared(); }

#else  // bf16
// ------------------------------------------------------------------------------------------------
// [2] Tiles
//
// A tile is so many vectors of `HSC` numbers: the head size rounded up to a class, 32, 64, 96, 128 or
// 256; what is missing is zeros, and zeros change no product. Compile-time sizes keep every index of a
// register array a constant.
//
// In shared memory a vector is cut into chunks of 8 numbers (16 bytes), the unit of cp.async and
// ldmatrix. ldmatrix reads the same chunk of 8 vectors at once, which would be the same 4 of the 32
// banks in each: so the chunks of a vector are permuted, by exclusive or with a key from its row.
// Eight rows then lie in all banks, for vectors that fill whole lines of 128 bytes (a key of 3 bits)
// and for odd multiples of 64 bytes (two rows fill 3 lines; half of the bank comes from the row's
// address, 2 bits from the key).

// Where a chunk lies in its tile, in bytes.
template <int HSC> static __device__ __forceinline__ int tile_place(int row, int chunk) {
    const int key = HSC % 64 == 0 ? row & 7 : row >> 1 & 3;
    return row * (HSC * 2) + ((chunk ^ key) << 4);
}

// x, in a way that keeps the compiler from working out what follows from it before a loop, to hold it in
// registers all the while.
template <class number> static __device__ __forceinline__ int late(number x) {
    asm volatile("" : "+r"(x));
    return (int)x;
}
// threadIdx.x likewise. That it is below 256 spares divisions their care for negative numbers.
static __device__ __forceinline__ int late_thread(void) { return late(threadIdx.x) & 255; }

// What ldmatrix_x4 is to read of a square of 16 x 16 numbers: lane l points at a row of one of its four
// 8x8 matrices. Their order is chosen such that the registers come back as mma wants them, b in pairs:
//   lane_place_a  top left, bottom left, top right, bottom right: the fragment a of mma, for rows of the
//                 tile x columns to sum over; transposed, b for a sum over the tile's rows: {0, 1} for
//                 columns 0-7, {2, 3} for columns 8-15
//   lane_place_b  top left, top right, bottom left, bottom right: b for a sum over the tile's columns, its rows
//                 becoming columns n: {0, 1} for rows 0-7, {2, 3} for rows 8-15
template <int HSC> static __device__ __forceinline__ int lane_place_a(void) {
    const int thread = late_thread();
    return tile_place<HSC>(thread & 15, thread >> 4 & 1);
}
template <int HSC> static __device__ __forceinline__ int lane_place_b(void) {
    const int thread = late_thread();
    return tile_place<HSC>((thread & 7) + (thread >> 1 & 8), thread >> 3 & 1);
}
// The same for the square at a row (a multiple of 16) and chunk (even); `place` may include where the tile
// begins, a multiple of 128. Only the chunk bits that meet the key need an exclusive or; the rest is
// a constant that the instruction's own offset takes.
template <int HSC> static __device__ __forceinline__ int square_place(int place, int row, int chunk) {
    const int bits = HSC % 64 == 0 ? 7 : 3;
    return (place ^ ((chunk & bits) << 4)) + ((chunk & ~bits) << 4) + row * (HSC * 2);
}

// How threads share the chunks of a tile: 8 (or 4) lanes side by side in a row, so that a warp's 16-byte
// accesses make whole lines, each lane with the chunks chunk, chunk + 8, ... of the rows row, row + step, ...
// As steps are multiples of 8 rows, the key is the same for all of a thread's rows, and the places are
// constants apart.
template <int HSC, int rows, int threads> struct TileShare {
    enum {
        lanes = HSC % 64 == 0 ? 8 : 4,
        step = threads / lanes,
        by_row = HSC / 8 / lanes,
        by_thread = rows / step,
    };
    static_assert(step % 8 == 0 && rows % step == 0, "a thread's rows have one key");
};

// tile (rows, HSC) = `rows` vectors that lie `row` apart from `from` on, of which `count` exist (may be
// below 0); the rest of each vector beyond HS numbers, and of the tile, becomes zeros. In the background:
// cp_async_commit and cp_async_wait are the caller's.
template <int HSC, int rows, int threads>
static __device__ __forceinline__ void tile_load(unsigned char* tile, const floatX* from, int row, int count, int HS) {
    typedef TileShare<HSC, rows, threads> S;
    const int thread = late_thread(), r = thread / S::lanes, chunk = thread % S::lanes;
    unsigned char* to = tile + tile_place<HSC>(r, chunk);
    const floatX* source = from + (r * row + chunk * 8);
#pragma unroll
    for (int i = 0; i < S::by_thread; i++) {
#pragma unroll
        for (int j = 0; j < S::by_row; j++) {
            const int there = r + i * S::step < count && chunk * 8 < HS - j * S::lanes * 8;
            cp_async_16(to + i * S::step * HSC * 2 + j * S::lanes * 16, source + j * S::lanes * 8, there ? 16 : 0);
        }
        source += S::step * row;
    }
}

// The way back: the vectors and numbers that exist, from shared memory.
template <int HSC, int rows, int threads>
static __device__ __forceinline__ void tile_store(floatX* to, int row, const unsigned char* tile, int count, int HS) {
    typedef TileShare<HSC, rows, threads> S;
    const int thread = late_thread(), r = thread / S::lanes, chunk = thread % S::lanes;
    const unsigned char* from = tile + tile_place<HSC>(r, chunk);
#pragma unroll
    for (int i = 0; i < S::by_thread; i++) {
#pragma unroll
        for (int j = 0; j < S::by_row; j++) {
            if (r + i * S::step < count && chunk * 8 < HS - j * S::lanes * 8) {
                *(uint4*)(to + ((r + i * S::step) * row + (chunk + j * S::lanes) * 8)) =
                    *(const uint4*)(from + i * S::step * HSC * 2 + j * S::lanes * 16);
            }
        }
    }
}

// Writes an accumulator of mma (16 x 8 numbers), times `top` in rows 0-7 and `bottom` in rows 8-15, as
// bf16 into a tile: rows from `row` on, one chunk.
template <int HSC>
static __device__ __forceinline__ void tile_put(unsigned char* tile, int row, int chunk, const float d[4], float top,
                                                float bottom) {
    const int thread = late_thread(), g = thread % WARP / 4, t = thread % 4;
    *(uint32_t*)(tile + tile_place<HSC>(row + g, chunk) + 4 * t) = pack_bf16(d[0] * top, d[1] * top);
    *(uint32_t*)(tile + tile_place<HSC>(row + g + 8, chunk) + 4 * t) = pack_bf16(d[2] * bottom, d[3] * bottom);
}

// Two neighbouring accumulators (16 x 16 numbers) as fragment a of the next product: the layouts agree.
static __device__ __forceinline__ void fragment_from(uint32_t a[4], const float left[4], const float right[4]) {
    a[0] = pack_bf16(left[0], left[1]);
    a[1] = pack_bf16(left[2], left[3]);
    a[2] = pack_bf16(right[0], right[1]);
    a[3] = pack_bf16(right[2], right[3]);
}

// Sum and maximum over the 4 lanes that share a row of an accumulator.
static __device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
static __device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// ------------------------------------------------------------------------------------------------
// [3] Forward
//
// A block owns `rows` queries of one head, a warp 16 or 32 of them. Tiles of keys and of values come
// by in turn, k0 v0 k1 v1 ..., through a ring of slots: while one is used, the next slots-1 are on their way.
// One barrier a tile says that it is here for all, and that the slot of the one before is free.
//
// 32 queries a warp, because each ldmatrix of keys or values (4 clocks of shared memory) then feeds 4
// products (8 clocks of an A100's tensor cores); with 16 the two would be even. Accumulators of 32 x 256
// numbers do not fit into registers, so class 256 has to live with 16.
//
// Here and in [4] there are two sets of tiles: what is best where a multiprocessor has 164 KB of shared memory or more
// (A100, H100), and small ones for the 100 KB of an RTX 3090 or 4090, where else only one block would find room. Where
// the two are the same, or two blocks need too many registers anyway (heads of 256), there is but one.

template <int HSC, int small> struct ForwardTiles {
    enum {
        squares = HSC == 256 ? 1 : 2,  // of 16 queries, in a warp
        warps = HSC == 256 ? 8 : 4,
        keys = HSC == 256 || (small && HSC >= 96) ? 32 : 64,  // of a tile
        // Of the ring: what leaves room for two blocks on an SM of 164 KB, or (small) of 100 KB.
        slots = HSC == 128 ? 3 - small : 4,
        held = HSC == 128  ? 0
               : HSC == 96 ? 4
                           : HSC / 16,  // squares of 16 columns of the queries that stay in registers
        apart = HSC != 256,             // queries have shared memory of their own, else they pass through the ring
        at_once = HSC == 32    ? 3
                  : HSC == 256 ? 1
                               : 2,  // blocks on an SM: what registers are to suffice for
        rows = squares * 16 * warps,
        threads = warps * WARP,
        // Bytes of shared memory
        slot = keys * HSC * 2,
        ring_at = apart ? rows * HSC * 2 : 0,
        bytes = ring_at + slots * slot,
    };
    static_assert(apart || held == HSC / 16, "queries must be somewhere");
    static_assert(apart || rows * HSC * 2 <= bytes, "queries must fit into the ring");
    static_assert(bytes <= 99 * 1024, "shared memory of a block");
    static_assert(!small || HSC == 256 || bytes <= 49 * 1024, "two blocks in 100 KB, 1 KB of each the system's");
};

// Asks for half a step, keys (even) or values (odd) of tile half/2, if there is such a tile. kv: where the kv
// head begins within a position. Addresses are computed anew each time: registers are dearer.
template <int HSC, int small>
static __device__ __forceinline__ void forward_fetch(unsigned char* shared, int half, int tiles, const floatX* k,
                                                     const floatX* v, int kv, const AttentionShape& shape) {
    typedef ForwardTiles<HSC, small> S;
    const int j = half / 2 * S::keys;
    if (half < 2 * tiles) {
        tile_load<HSC, S::keys, S::threads>(
            shared + S::ring_at + half % S::slots * S::slot,
            (half % 2 ? v : k) + ((size_t)late(blockIdx.z) * (size_t)shape.T + (size_t)j) * shape.kv_row + kv,
            (int)shape.kv_row, shape.T - j, shape.HS);
    }
    cp_async_commit();
}
// Waits for it, for all threads, and fills the slot that has become free. Returns where it begins.
template <int HSC, int small>
static __device__ __forceinline__ int forward_next(unsigned char* shared, int half, int tiles, const floatX* k,
                                                   const floatX* v, int kv, const AttentionShape& shape) {
    typedef ForwardTiles<HSC, small> S;
    cp_async_wait<S::slots - 2>();
    __syncthreads();
    forward_fetch<HSC, small>(shared, half + S::slots - 1, tiles, k, v, kv, shape);
    return S::ring_at + half % S::slots * S::slot;
}

// The queries of this block and the first row of this warp.
template <int HSC, int small> static __device__ __forceinline__ int forward_first(int T) {
    const int rows = ForwardTiles<HSC, small>::rows;
    return ((T + rows - 1) / rows - 1 - late(blockIdx.x)) * rows;  // the longest rows go first
}
template <int HSC, int small> static __device__ __forceinline__ int forward_row(void) {
    return late_thread() / WARP * 16 * ForwardTiles<HSC, small>::squares;
}

// out = o / l, lse = log(sum of exp), both from the accumulators of this block; through shared memory, so that
// whole lines are written.
template <int HSC, int small>
static __device__ __forceinline__ void forward_finish(floatX* out, float* lse, unsigned char* shared,
                                                      const float o[][HSC / 8][4], const float m[][2],
                                                      const float l[][2], const AttentionShape& shape) {
    typedef ForwardTiles<HSC, small> S;
    const int i0 = forward_first<HSC, small>(shape.T), own = forward_row<HSC, small>(), g = late_thread() % WARP / 4;
    const size_t b = (size_t)late(blockIdx.z), h = (size_t)late(blockIdx.y), T = (size_t)shape.T, NH = (size_t)shape.NH;
    __syncthreads();
#pragma unroll
    for (int y = 0; y < S::squares; y++) {
        const float top = quad_sum(l[y][0]), bottom = quad_sum(l[y][1]);
        const int i = i0 + own + y * 16 + g;
        float* to = lse + (b * NH + h) * T - shape.from;
        if (threadIdx.x % 4 == 0 && i < shape.T) { to[i] = fmaf(m[y][0], shape.scale, logf(top)); }
        if (threadIdx.x % 4 == 0 && i + 8 < shape.T) { to[i + 8] = fmaf(m[y][1], shape.scale, logf(bottom)); }
#pragma unroll
        for (int n = 0; n < HSC / 8; n++) {
            tile_put<HSC>(shared, own + y * 16, n, o[y][n], 1.0f / top, 1.0f / bottom);
        }
    }
    __syncthreads();
    const int out_row = shape.NH * shape.HS;
    tile_store<HSC, S::rows, S::threads>(out + (b * T + (size_t)(i0 - shape.from)) * (size_t)out_row +
                                             h * (size_t)shape.HS,
                                         out_row, shared, shape.T - i0, shape.HS);
}

template <int HSC, int small>
static __global__ void __launch_bounds__(ForwardTiles<HSC, small>::threads, ForwardTiles<HSC, small>::at_once)
    attention_forward_kernel(floatX* __restrict__ out, float* __restrict__ lse, const floatX* __restrict__ q,
                             const floatX* __restrict__ k, const floatX* __restrict__ v, AttentionShape shape) {
    typedef ForwardTiles<HSC, small> S;
    SHARED_DYNAMIC(unsigned char, shared);  // queries (rows, HSC), then the ring; out at the end
    const int T = shape.T, HS = shape.HS;
    const int lane = (int)threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    const int own = forward_row<HSC, small>(), i0 = forward_first<HSC, small>(T);  // of the warp, of the block
    const int kv = (int)blockIdx.y / shape.group * (int)shape.kv_head;
    const int tiles = (min(i0 + (int)S::rows, T) + S::keys - 1) / S::keys;
    tile_load<HSC, S::rows, S::threads>(shared,
                                        q + ((size_t)blockIdx.z * (size_t)T + (size_t)(i0 - shape.from)) * shape.row +
                                            blockIdx.y * shape.q_head,
                                        (int)shape.row, T - i0, HS);
    cp_async_commit();
    uint32_t qa[S::squares][S::held + 1][4];
    if (S::apart) {
#pragma unroll
        for (int i = 0; i < S::slots - 1; i++) { forward_fetch<HSC, small>(shared, i, tiles, k, v, kv, shape); }
        cp_async_wait<S::slots - 1>();
    } else {
        cp_async_wait<0>();
    }
    __syncthreads();
#pragma unroll
    for (int x = 0; x < S::held; x++) {
#pragma unroll
        for (int y = 0; y < S::squares; y++) {
            ldmatrix_x4(qa[y][x], shared + square_place<HSC>(lane_place_a<HSC>() + own * HSC * 2, y * 16, 2 * x));
        }
    }
    if (!S::apart) {
        __syncthreads();  // the ring takes over
#pragma unroll
        for (int i = 0; i < S::slots - 1; i++) { forward_fetch<HSC, small>(shared, i, tiles, k, v, kv, shape); }
    }

    float o[S::squares][HSC / 8][4], m[S::squares][2], l[S::squares][2];  // l: of this lane's columns
#pragma unroll
    for (int y = 0; y < S::squares; y++) {
        m[y][0] = m[y][1] = -INFINITY;
        l[y][0] = l[y][1] = 0;
#pragma unroll
        for (int n = 0; n < HSC / 8; n++) { o[y][n][0] = o[y][n][1] = o[y][n][2] = o[y][n][3] = 0; }
    }
    for (int tile = 0; tile < tiles; tile++) {
        const int j0 = tile * S::keys, i_first = i0 + own,
                  needed = j0 < i_first + 16 * S::squares;  // below the diagonal
        float s[S::squares][S::keys / 8][4];
        const int k_place = lane_place_b<HSC>() + forward_next<HSC, small>(shared, 2 * tile, tiles, k, v, kv, shape);
        if (needed) {
#pragma unroll
            for (int y = 0; y < S::squares; y++) {
#pragma unroll
                for (int n = 0; n < S::keys / 8; n++) { s[y][n][0] = s[y][n][1] = s[y][n][2] = s[y][n][3] = 0; }
            }
            // s (queries, keys) = q k^T
            const int q_place = lane_place_a<HSC>() + own * HSC * 2;
#pragma unroll
            for (int x = 0; x < HSC / 16; x++) {
                if (x >= S::held) {
#pragma unroll
                    for (int y = 0; y < S::squares; y++) {
                        ldmatrix_x4(qa[y][S::held], shared + square_place<HSC>(q_place, y * 16, 2 * x));
                    }
                }
#pragma unroll
                for (int n = 0; n < S::keys / 16; n++) {
                    uint32_t r[4];
                    ldmatrix_x4(r, shared + square_place<HSC>(k_place, n * 16, 2 * x));
#pragma unroll
                    for (int y = 0; y < S::squares; y++) {
                        mma_bf16(s[y][2 * n], qa[y][x < S::held ? x : S::held], r);
                        mma_bf16(s[y][2 * n + 1], qa[y][x < S::held ? x : S::held], r + 2);
                    }
                }
            }
            if (j0 + S::keys - 1 > i_first) {              // the diagonal passes through; keys past T lie above it too
                const int far = i_first + g - j0 - 2 * t;  // query minus key at place [0][0][0]
#pragma unroll
                for (int y = 0; y < S::squares; y++) {
#pragma unroll
                    for (int n = 0; n < S::keys / 8; n++) {
#pragma unroll
                        for (int e = 0; e < 4; e++) {
                            if (n * 8 + e % 2 - y * 16 - e / 2 * 8 > far) { s[y][n][e] = -INFINITY; }
                        }
                    }
                }
            }
            // Every query sees key 0, so from the first tile on its maximum is a number. fmaxf would hide a NaN,
            // but not from the sum: p comes from s itself.
#pragma unroll
            for (int y = 0; y < S::squares; y++) {
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float most = m[y][half];
#pragma unroll
                    for (int n = 0; n < S::keys / 8; n++) {
                        most = fmaxf(most, fmaxf(s[y][n][2 * half], s[y][n][2 * half + 1]));
                    }
                    most = quad_max(most);
                    const float again = exp2_approx((m[y][half] - most) * shape.scale_log2),
                                shift = -most * shape.scale_log2;
                    float sum = 0;
#pragma unroll
                    for (int n = 0; n < S::keys / 8; n++) {
#pragma unroll
                        for (int e = 2 * half; e < 2 * half + 2; e++) {
                            s[y][n][e] = exp2_approx(fmaf(s[y][n][e], shape.scale_log2, shift));
                            sum += s[y][n][e];
                        }
                    }
                    m[y][half] = most;
                    l[y][half] = fmaf(l[y][half], again, sum);
#pragma unroll
                    for (int n = 0; n < HSC / 8; n++) { o[y][n][2 * half] *= again, o[y][n][2 * half + 1] *= again; }
                }
            }
        }
        const int v_place =
            lane_place_a<HSC>() + forward_next<HSC, small>(shared, 2 * tile + 1, tiles, k, v, kv, shape);
        if (needed) {
            // o (queries, HSC) += p v
#pragma unroll
            for (int x = 0; x < S::keys / 16; x++) {
                uint32_t a[S::squares][4];
#pragma unroll
                for (int y = 0; y < S::squares; y++) { fragment_from(a[y], s[y][2 * x], s[y][2 * x + 1]); }
#pragma unroll
                for (int n = 0; n < HSC / 16; n++) {
                    uint32_t r[4];
                    ldmatrix_x4_trans(r, shared + square_place<HSC>(v_place, x * 16, 2 * n));
#pragma unroll
                    for (int y = 0; y < S::squares; y++) {
                        mma_bf16(o[y][2 * n], a[y], r);
                        mma_bf16(o[y][2 * n + 1], a[y], r + 2);
                    }
                }
            }
        }
    }

    forward_finish<HSC, small>(out, lse, shared, o, m, l, shape);
}

// ------------------------------------------------------------------------------------------------
// [4] Backward
//
// One kernel, two uses. `keys` = 0: a block owns queries (rows), keys come by (columns), and it makes dq.
// `keys` = 1: a block owns keys, the queries that see them come by, of one head of the group after the
// other, and it makes dk and dv; scores are then computed transposed, (keys, queries), so that in both
// uses a warp's accumulators are at once the left operand of the products that follow.
//
//                 own0  own1    other0  other1     s = own0 other0^T,  dp = own1 other1^T   (rows, columns)
//     keys = 0    q     dout    k       v          sum0 += ds other0                  = dq / scale
//     keys = 1    k     v       q       dout       sum0 += ds other0,  sum1 += p other1    = dk / scale, dv
//
// with p = exp(scale s - lse) and ds = p (dp - delta). Own fragments stay in registers throughout (nearly all,
// see `held`); the others come through two slots of shared memory, one used while the other is filled.
//
// Registers are what is short: 32 rows x (two sums and two operands) of 64 numbers just fit. For larger
// heads two warps share 32 rows (16 in class 256): the even one holds own0 and computes p, the odd one own1
// and dp - delta; they swap results through shared memory, and each adds up half of the columns of the
// sums. That leaves 4 products per ldmatrix, as with small heads, and no product is done twice.

template <int HSC, int keys, int small> struct BackwardTiles {
    enum {
        team = HSC <= 64 ? 1 : 2,      // warps that share rows
        squares = HSC == 256 ? 1 : 2,  // of 16 rows, of a team
        warps = HSC == 256 ? 8 : 4,
        columns = HSC <= 64 && !(small && HSC == 64) ? 64 : 32,  // of a tile that comes by
        part = squares == 2 ? 16 : 32,                           // columns done at a time
        // Own tiles have shared memory of their own, else they pass through the slots.
        apart = HSC != 256 && !(small && (HSC == 96 || (HSC == 128 && !keys))),
        sums = keys ? 2 : 1,
        operands = 2 / team,  // own operands of a warp
        // Squares of 16 columns of an own operand that stay in registers: all, or all but one. What is missing is
        // read again each time, 2 ldmatrix more for each 16; without that the compiler spills.
        held = HSC / 16 - (keys && (HSC == 64 || HSC == 128)),
        at_once = HSC == 256           ? 1
                  : HSC == 32 && !keys ? 3
                                       : 2,
        rows = squares * 16 * warps / team,
        threads = warps * WARP,
        values = squares * part / 2,  // of a product of (rows of a team) x part, in a lane
        boxes = team == 1        ? 0
                : columns > part ? 2
                                 : 1,  // for swaps
        // Bytes of shared memory
        own_tile = rows * HSC * 2,
        other_tile = columns * HSC * 2,
        slot = 2 * other_tile + (keys ? 2 * columns * 4 : 0),  // the tiles, then lse and delta of the columns
        ring_at = apart ? 2 * own_tile : 0,
        boxes_at = ring_at + 2 * slot,
        bytes = boxes_at + boxes * threads * values * 4,
    };
    static_assert(apart || (own_tile <= slot && held == HSC / 16), "own tiles must be somewhere");
    static_assert(!keys || columns / 2 <= threads, "a thread fetches four statistics");
    static_assert(bytes <= 99 * 1024, "shared memory of a block");
    // The keys of heads of 128 keep one block: all of own0 and own1 in registers would spill.
    static_assert(!small || HSC == 256 || (HSC == 128 && keys) || bytes <= 49 * 1024, "two blocks in 100 KB");
};

// Asks for the columns from c on of what comes by for query head h, kv head kvh; where that is queries,
// also for their lse and delta. What lies past the end becomes zeros: a query of zeros with a dout of zeros
// changes no sum, whatever its probability. Addresses are computed anew each time: registers are dearer.
template <int HSC, int keys, int small>
static __device__ __forceinline__ void
backward_fetch(unsigned char* slot, const floatX* q, const floatX* k, const floatX* v, const floatX* dout,
               const float* lse, const float* delta, int h, int kvh, int c, const AttentionShape& shape) {
    typedef BackwardTiles<HSC, keys, small> S;
    const size_t b = (size_t)late(blockIdx.z), position = b * (size_t)shape.T + (size_t)c;
    const int row = late((int)shape.row), out_row = late(shape.NH * shape.HS);
    const size_t at_kv = position * shape.row + (size_t)kvh * shape.kv_head;
    const floatX* from0 = keys ? q + position * shape.row + (size_t)h * shape.q_head : k + at_kv;
    const floatX* from1 = keys ? dout + position * (size_t)out_row + (size_t)h * (size_t)shape.HS : v + at_kv;
    tile_load<HSC, S::columns, S::threads>(slot, from0, row, shape.T - c, shape.HS);
    tile_load<HSC, S::columns, S::threads>(slot + S::other_tile, from1, keys ? out_row : row, shape.T - c, shape.HS);
    if (keys) {
        const int thread = late_thread(), count = shape.T - c;
        const size_t at = (b * (size_t)shape.NH + (size_t)h) * (size_t)shape.T + (size_t)c;
        float* to = (float*)(slot + 2 * S::other_tile);
        if (shape.T % 4 == 0) {  // rows of statistics begin at multiples of 16 bytes
            const int i = thread % (S::columns / 4) * 4, which = thread / (S::columns / 4);
            if (which < 2) {
                cp_async_16(to + which * S::columns + i, (which ? delta : lse) + at + (i < count ? i : 0),
                            i < count ? 16 : 0);
            }
        } else {
            for (int i = thread; i < S::columns; i += S::threads) {
                to[i] = i < count ? lse[at + (size_t)i] : 0.0f;
                to[S::columns + i] = i < count ? delta[at + (size_t)i] : 0.0f;
            }
        }
    }
}

// The first own row of this block, of this warp within it, and the warp's role in its team.
template <int HSC, int keys, int small> static __device__ __forceinline__ int backward_first(int T) {
    const int rows = BackwardTiles<HSC, keys, small>::rows, at = late(blockIdx.x);
    return (keys ? at : (T + rows - 1) / rows - 1 - at) * rows;  // the first keys and the last queries have most to do
}
template <int HSC, int keys, int small> static __device__ __forceinline__ int backward_row(void) {
    typedef BackwardTiles<HSC, keys, small> S;
    return late_thread() / WARP / S::team * 16 * S::squares;
}
template <int HSC, int keys, int small> static __device__ __forceinline__ int backward_role(void) {
    return BackwardTiles<HSC, keys, small>::team == 2 ? late_thread() / WARP % 2 : 0;
}

// 1 while h is one of the query heads of this block: the group of a kv head, or one.
template <int keys> static __device__ __forceinline__ int backward_more(int h, int group) {
    return h < (late(blockIdx.y) + 1) * (keys ? group : 1);
}

// d0 = scale * sum0, d1 = sum1; through shared memory, so that whole lines are written.
template <int HSC, int keys, int small>
static __device__ __forceinline__ void backward_finish(
    floatX* d0, floatX* d1, unsigned char* shared,
    const float sum[][BackwardTiles<HSC, keys, small>::squares][HSC / 8 / BackwardTiles<HSC, keys, small>::team][4],
    const AttentionShape& shape) {
    typedef BackwardTiles<HSC, keys, small> S;
    const int r0 = backward_first<HSC, keys, small>(shape.T), first = backward_row<HSC, keys, small>(),
              role = backward_role<HSC, keys, small>();
    __syncthreads();
#pragma unroll
    for (int which = 0; which < S::sums; which++) {
        const float times = which ? 1.0f : shape.scale;
#pragma unroll
        for (int y = 0; y < S::squares; y++) {
#pragma unroll
            for (int n = 0; n < HSC / 8 / S::team; n++) {
                tile_put<HSC>(shared + which * S::own_tile, first + y * 16, (n / 2 * S::team + role) * 2 + n % 2,
                              sum[which][y][n], times, times);
            }
        }
    }
    __syncthreads();
    const size_t position = (size_t)late(blockIdx.z) * (size_t)shape.T + (size_t)r0;
    const size_t to = position * shape.row + (size_t)late(blockIdx.y) * (keys ? shape.kv_head : shape.q_head);
    tile_store<HSC, S::rows, S::threads>(d0 + to, (int)shape.row, shared, shape.T - r0, shape.HS);
    if (keys) {
        tile_store<HSC, S::rows, S::threads>(d1 + to, (int)shape.row, shared + S::own_tile, shape.T - r0, shape.HS);
    }
}

template <int HSC, int keys, int small>
static __global__ void __launch_bounds__(BackwardTiles<HSC, keys, small>::threads,
                                         BackwardTiles<HSC, keys, small>::at_once)
    attention_backward_kernel(floatX* __restrict__ d0, floatX* __restrict__ d1, const float* __restrict__ delta,
                              const floatX* __restrict__ dout, const floatX* __restrict__ q,
                              const floatX* __restrict__ k, const floatX* __restrict__ v, const float* __restrict__ lse,
                              AttentionShape shape) {
    typedef BackwardTiles<HSC, keys, small> S;
    SHARED_DYNAMIC(unsigned char,
                   shared);  // own0, own1; two slots of other0, other1; boxes; statistics. d0, d1 at the end
    float4* box = (float4*)(shared + S::boxes_at);  // (boxes, warps, values/4, 32)
    const int T = shape.T, NH = shape.NH, HS = shape.HS, group = shape.group;
    const int g = (int)threadIdx.x % WARP / 4;
    const int role = backward_role<HSC, keys, small>();
    const int r0 = backward_first<HSC, keys, small>(T), first_row = backward_row<HSC, keys, small>(),
              r_first = r0 + first_row;
    const size_t b = blockIdx.z;
    const size_t start = b * (size_t)T, out_row = (size_t)NH * (size_t)HS;
    // Query heads h, h+1, ... of kv head kvh: the group, or one.
    const int kvh = keys ? (int)blockIdx.y : (int)blockIdx.y / group;
    int h = keys ? kvh * group : (int)blockIdx.y;
    const size_t own_kv = (start + (size_t)r0) * shape.row + (size_t)kvh * shape.kv_head;
    const size_t own_q = (start + (size_t)r0) * shape.row + (size_t)h * shape.q_head;
    const size_t own_out = (start + (size_t)r0) * out_row + (size_t)h * (size_t)HS;
    // What comes by: for each query head the queries from r0 on, or the keys up to the last own query.
    const int c_begin = keys ? r0 : 0, c_end = keys ? T : min(r0 + (int)S::rows, T);
    static_assert(S::rows % S::columns == 0, "a block's first row begins a tile of columns");

    tile_load<HSC, S::rows, S::threads>(shared, keys ? k + own_kv : q + own_q, (int)shape.row, T - r0, HS);
    tile_load<HSC, S::rows, S::threads>(shared + S::own_tile, keys ? v + own_kv : dout + own_out,
                                        (int)(keys ? shape.row : out_row), T - r0, HS);
    cp_async_commit();
    if (S::apart) {
        backward_fetch<HSC, keys, small>(shared + S::ring_at, q, k, v, dout, lse, delta, h, kvh, c_begin, shape);
        cp_async_commit();
        cp_async_wait<1>();
    } else {
        cp_async_wait<0>();
    }
    __syncthreads();
    const int own_place = lane_place_a<HSC>() + role * S::own_tile + first_row * HSC * 2;
    uint32_t own[S::operands][S::squares][S::held][4];
#pragma unroll
    for (int which = 0; which < S::operands; which++) {
#pragma unroll
        for (int x = 0; x < S::held; x++) {
#pragma unroll
            for (int y = 0; y < S::squares; y++) {
                ldmatrix_x4(own[which][y][x],
                            shared + square_place<HSC>(own_place + which * S::own_tile, y * 16, 2 * x));
            }
        }
    }
    if (!S::apart) {
        __syncthreads();  // the slots take over
        backward_fetch<HSC, keys, small>(shared + S::ring_at, q, k, v, dout, lse, delta, h, kvh, c_begin, shape);
        cp_async_commit();
    }
    // keys = 0: the statistics of the own rows g and g+8, [0] lse and [1] delta or only that of the role.
    float row_statistic[S::operands][S::squares][2] = {};
    if (!keys) {
#pragma unroll
        for (int which = 0; which < S::operands; which++) {
#pragma unroll
            for (int y = 0; y < S::squares; y++) {
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const int i = r_first + y * 16 + g + 8 * half;
                    const size_t at = (b * (size_t)NH + (size_t)h) * (size_t)T + (size_t)i;
                    row_statistic[which][y][half] = i >= T              ? 0.0f
                                                    : which + role == 0 ? lse[at] * ATTENTION_LOG2E
                                                                        : delta[at];
                }
            }
        }
    }

    // Of the squares of 16 columns of a sum, warp `role` of a team has numbers role, role + team, ...
    float sum[S::sums][S::squares][HSC / 8 / S::team][4];
#pragma unroll
    for (int which = 0; which < S::sums; which++) {
#pragma unroll
        for (int y = 0; y < S::squares; y++) {
#pragma unroll
            for (int n = 0; n < HSC / 8 / S::team; n++) {
#pragma unroll
                for (int e = 0; e < 4; e++) { sum[which][y][n][e] = 0; }
            }
        }
    }

    int slot = S::ring_at, c0 = c_begin;
    while (backward_more<keys>(h, group)) {
        cp_async_wait<0>();
        __syncthreads();  // this step's tiles are here, the other slot is free
        const int c_next = c0 + S::columns < c_end ? c0 + S::columns : c_begin;
        if (c_next <= c0) { h++; }
        if (backward_more<keys>(h, group)) {
            backward_fetch<HSC, keys, small>(shared + (2 * S::ring_at + S::slot - slot), q, k, v, dout, lse, delta, h,
                                             kvh, c_next, shape);
        }
        cp_async_commit();
#pragma unroll
        for (int part = 0; part < S::columns; part += S::part) {
            const int c_first = c0 + part;
            // Parts without any pair of a query and a key that it sees are left out.
            const int needed = keys ? c_first + S::part > r_first : c_first < r_first + 16 * S::squares;
            const int diagonal = keys ? c_first < r_first + 16 * S::squares - 1 : c_first + S::part - 1 > r_first;
            float value[S::operands][S::squares][S::part / 8][4];  // s and dp, or one of them; then p and ds
            float p[S::squares][S::part / 8][4], ds[S::squares][S::part / 8][4];
            if (needed) {
#pragma unroll
                for (int which = 0; which < S::operands; which++) {
                    const int at = lane_place_b<HSC>() + slot + (which + role) * S::other_tile + part * HSC * 2;
#pragma unroll
                    for (int y = 0; y < S::squares; y++) {
#pragma unroll
                        for (int n = 0; n < S::part / 8; n++) {
#pragma unroll
                            for (int e = 0; e < 4; e++) { value[which][y][n][e] = 0; }
                        }
                    }
#pragma unroll
                    for (int x = 0; x < HSC / 16; x++) {
#pragma unroll
                        for (int n = 0; n < S::part / 16; n++) {
                            uint32_t r[4];
                            ldmatrix_x4(r, shared + square_place<HSC>(at, n * 16, 2 * x));
#pragma unroll
                            for (int y = 0; y < S::squares; y++) {
                                uint32_t again[4];
                                if (x >= S::held) {
                                    const int from = lane_place_a<HSC>() + (which + role) * S::own_tile +
                                                     backward_row<HSC, keys, small>() * HSC * 2;
                                    ldmatrix_x4(again, shared + square_place<HSC>(from, y * 16, 2 * x));
                                }
                                const uint32_t* a = x < S::held ? own[which][y][x < S::held ? x : 0] : again;
                                mma_bf16(value[which][y][2 * n], a, r);
                                mma_bf16(value[which][y][2 * n + 1], a, r + 2);
                            }
                        }
                    }
                    // s becomes p, and dp becomes dp - delta
                    const float* of_columns = (const float*)(shared + slot + 2 * S::other_tile) +
                                              (which + role) * S::columns + part + 2 * (late_thread() % 4);
                    if (which + role == 0) {
#pragma unroll
                        for (int n = 0; n < S::part / 8; n++) {
                            float2 of = keys ? *(const float2*)(of_columns + n * 8) : make_float2(0, 0);
                            of.x *= ATTENTION_LOG2E, of.y *= ATTENTION_LOG2E;
#pragma unroll
                            for (int y = 0; y < S::squares; y++) {
                                float* x = value[which][y][n];
                                const float* of_rows = row_statistic[which][y];
                                x[0] = exp2_approx(fmaf(x[0], shape.scale_log2, -(keys ? of.x : of_rows[0])));
                                x[1] = exp2_approx(fmaf(x[1], shape.scale_log2, -(keys ? of.y : of_rows[0])));
                                x[2] = exp2_approx(fmaf(x[2], shape.scale_log2, -(keys ? of.x : of_rows[1])));
                                x[3] = exp2_approx(fmaf(x[3], shape.scale_log2, -(keys ? of.y : of_rows[1])));
                            }
                        }
                    } else {
#pragma unroll
                        for (int n = 0; n < S::part / 8; n++) {
                            const float2 of = keys ? *(const float2*)(of_columns + n * 8) : make_float2(0, 0);
#pragma unroll
                            for (int y = 0; y < S::squares; y++) {
                                float* x = value[which][y][n];
                                const float* of_rows = row_statistic[which][y];
                                x[0] -= keys ? of.x : of_rows[0];
                                x[1] -= keys ? of.y : of_rows[0];
                                x[2] -= keys ? of.x : of_rows[1];
                                x[3] -= keys ? of.y : of_rows[1];
                            }
                        }
                    }
                }
                if (diagonal) {  // 0 where the query does not see the key
                    const int thread = late_thread(), g = thread % WARP / 4, t = thread % 4;
                    const int far = keys ? c_first + 2 * t - r_first - g : r_first + g - c_first - 2 * t;
#pragma unroll
                    for (int y = 0; y < S::squares; y++) {
#pragma unroll
                        for (int n = 0; n < S::part / 8; n++) {
#pragma unroll
                            for (int e = 0; e < 4; e++) {
                                const int less = n * 8 + e % 2 - y * 16 - e / 2 * 8;  // column minus row, from there on
                                if (keys ? far + less < 0 : far - less < 0) {
#pragma unroll
                                    for (int which = 0; which < S::operands; which++) { value[which][y][n][e] = 0; }
                                }
                            }
                        }
                    }
                }
            }
            if constexpr (S::team == 2) {
                const int thread = late_thread(), at = (part / S::part) % S::boxes * S::threads * (S::values / 4);
                float4* mine = box + at + thread / WARP * WARP * (S::values / 4) + thread % WARP;
                const float4* theirs = box + at + (thread / WARP ^ 1) * WARP * (S::values / 4) + thread % WARP;
                if (needed) {
#pragma unroll
                    for (int y = 0; y < S::squares; y++) {
#pragma unroll
                        for (int n = 0; n < S::part / 8; n++) {
                            const float* x = value[0][y][n];
                            mine[(y * (S::part / 8) + n) * WARP] = make_float4(x[0], x[1], x[2], x[3]);
                        }
                    }
                }
                __syncthreads();
                if (needed) {
#pragma unroll
                    for (int y = 0; y < S::squares; y++) {
#pragma unroll
                        for (int n = 0; n < S::part / 8; n++) {
                            const float4 from = theirs[(y * (S::part / 8) + n) * WARP];
                            const float other[4] = {from.x, from.y, from.z, from.w};
#pragma unroll
                            for (int e = 0; e < 4; e++) {
                                p[y][n][e] = role ? other[e] : value[0][y][n][e];
                                ds[y][n][e] = value[0][y][n][e] * other[e];
                            }
                        }
                    }
                }
            } else if (needed) {
#pragma unroll
                for (int y = 0; y < S::squares; y++) {
#pragma unroll
                    for (int n = 0; n < S::part / 8; n++) {
#pragma unroll
                        for (int e = 0; e < 4; e++) {
                            p[y][n][e] = value[0][y][n][e];
                            ds[y][n][e] = value[0][y][n][e] * value[S::operands - 1][y][n][e];
                        }
                    }
                }
            }
            if (needed) {
#pragma unroll
                for (int x = 0; x < S::part / 16; x++) {
#pragma unroll
                    for (int which = S::sums - 1; which >= 0; which--) {
                        const int at =
                            (lane_place_a<HSC>() ^ role << 5) + slot + which * S::other_tile + part * HSC * 2;
                        uint32_t a[S::squares][4];
#pragma unroll
                        for (int y = 0; y < S::squares; y++) {
                            if (which) {
                                fragment_from(a[y], p[y][2 * x], p[y][2 * x + 1]);
                            } else {
                                fragment_from(a[y], ds[y][2 * x], ds[y][2 * x + 1]);
                            }
                        }
#pragma unroll
                        for (int n = 0; n < HSC / 16 / S::team; n++) {
                            uint32_t r[4];
                            ldmatrix_x4_trans(r, shared + square_place<HSC>(at, x * 16, 2 * S::team * n));
#pragma unroll
                            for (int y = 0; y < S::squares; y++) {
                                mma_bf16(sum[which][y][2 * n], a[y], r);
                                mma_bf16(sum[which][y][2 * n + 1], a[y], r + 2);
                            }
                        }
                    }
                }
            }
        }
        c0 = late(c0) + S::columns < c_end ? late(c0) + S::columns : c_begin,
        slot = 2 * S::ring_at + S::slot - late(slot);
    }

    backward_finish<HSC, keys, small>(d0, d1, shared, sum, shape);
}

#include "attention_wgmma.cuh"

// ------------------------------------------------------------------------------------------------
// [5] What the trainers call, in the bf16 program

// Which set of tiles: that of the card, or for tests 0 or 1.
static int attention_tiles = -1;
static inline int attention_small(void) {
    return attention_tiles >= 0 ? attention_tiles : device.shared > 0 && device.shared < (size_t)128 << 10;
}
template <int HSC> struct AttentionSets {  // whether a kernel has two
    enum {
        forward = (int)ForwardTiles<HSC, 1>::bytes != (int)ForwardTiles<HSC, 0>::bytes,
        keys = (int)BackwardTiles<HSC, KEYS, 1>::bytes != (int)BackwardTiles<HSC, KEYS, 0>::bytes,
        queries = (int)BackwardTiles<HSC, QUERIES, 1>::bytes != (int)BackwardTiles<HSC, QUERIES, 0>::bytes,
    };
};

template <int HSC, int small>
static inline void attention_forward_tiles(floatX* out, float* lse, const floatX* q, const floatX* k, const floatX* v,
                                           size_t B, AttentionShape shape) {
    typedef ForwardTiles<HSC, small> S;
    launch((attention_forward_kernel<HSC, small>), attention_grid(B, (size_t)shape.T, (size_t)shape.NH, S::rows),
           dim3(S::threads), S::bytes, device.stream, out, lse, q, k, v, shape);
}
template <int HSC>
static inline void attention_forward_class(floatX* out, float* lse, const floatX* q, const floatX* k, const floatX* v,
                                           size_t B, AttentionShape shape) {
    if (AttentionSets<HSC>::forward && attention_small()) {
        attention_forward_tiles<HSC, AttentionSets<HSC>::forward>(out, lse, q, k, v, B, shape);
    } else {
        attention_forward_tiles<HSC, 0>(out, lse, q, k, v, B, shape);
    }
}

template <int HSC, int small>
static inline void attention_backward_keys(floatX* dk, floatX* dv, const float* delta, const floatX* dout,
                                           const floatX* q, const floatX* k, const floatX* v, const float* lse,
                                           size_t B, size_t NKV, AttentionShape shape) {
    typedef BackwardTiles<HSC, KEYS, small> S;
    launch((attention_backward_kernel<HSC, KEYS, small>), attention_grid(B, (size_t)shape.T, NKV, S::rows),
           dim3(S::threads), S::bytes, device.stream, dk, dv, delta, dout, q, k, v, lse, shape);
}
template <int HSC, int small>
static inline void attention_backward_queries(floatX* dq, const float* delta, const floatX* dout, const floatX* q,
                                              const floatX* k, const floatX* v, const float* lse, size_t B,
                                              AttentionShape shape) {
    typedef BackwardTiles<HSC, QUERIES, small> S;
    launch((attention_backward_kernel<HSC, QUERIES, small>),
           attention_grid(B, (size_t)shape.T, (size_t)shape.NH, S::rows), dim3(S::threads), S::bytes, device.stream, dq,
           (floatX*)NULL, delta, dout, q, k, v, lse, shape);
}
template <int HSC>
static inline void attention_backward_class(floatX* dq, floatX* dk, floatX* dv, const float* delta, const floatX* dout,
                                            const floatX* q, const floatX* k, const floatX* v, const float* lse,
                                            size_t B, size_t NKV, AttentionShape shape) {
    const size_t T = (size_t)shape.T, NH = (size_t)shape.NH, HS = (size_t)shape.HS;
    states_product(attention_flops(4, B, T, NH, HS), attention_bytes(2, 4, 2, B, T, NH, NKV, HS));  // s, dp, dv, dk
    if (AttentionSets<HSC>::keys && attention_small()) {
        attention_backward_keys<HSC, AttentionSets<HSC>::keys>(dk, dv, delta, dout, q, k, v, lse, B, NKV, shape);
    } else {
        attention_backward_keys<HSC, 0>(dk, dv, delta, dout, q, k, v, lse, B, NKV, shape);
    }
    states_product(attention_flops(3, B, T, NH, HS), attention_bytes(3, 2, 2, B, T, NH, NKV, HS));  // s, dp, dq
    if (AttentionSets<HSC>::queries && attention_small()) {
        attention_backward_queries<HSC, AttentionSets<HSC>::queries>(dq, delta, dout, q, k, v, lse, B, shape);
    } else {
        attention_backward_queries<HSC, 0>(dq, delta, dout, q, k, v, lse, B, shape);
    }
}

template <int HSC, int small> static inline void attention_print_shared_set(void) {
    typedef AttentionSets<HSC> Sets;
    if (!small || Sets::forward) {
        printf("attention_forward_kernel<%d,%d> %d\n", HSC, small, (int)ForwardTiles<HSC, small>::bytes);
    }
    if (!small || Sets::keys) {
        printf("attention_backward_kernel<%d,%d,%d> %d\n", HSC, (int)KEYS, small,
               (int)BackwardTiles<HSC, KEYS, small>::bytes);
    }
    if (!small || Sets::queries) {
        printf("attention_backward_kernel<%d,%d,%d> %d\n", HSC, (int)QUERIES, small,
               (int)BackwardTiles<HSC, QUERIES, small>::bytes);
    }
}
template <int HSC> static inline void attention_print_shared_class(void) {
    attention_print_shared_set<HSC, 0>();
    attention_print_shared_set<HSC, 1>();
}
static inline void attention_print_shared(void) {
    attention_print_shared_class<32>();
    attention_print_shared_class<64>();
    attention_print_shared_class<96>();
    attention_print_shared_class<128>();
    attention_print_shared_class<256>();
    attention_print_shared_wide<64>();
    attention_print_shared_wide<80>();
    attention_print_shared_wide<96>();
    attention_print_shared_wide<128>();
    plain_print_shared();
}

// 1 if all vectors consist of whole packs at aligned addresses (or-ed together).
static inline int attention_whole(size_t NH, size_t HS, size_t row, size_t q_head, size_t kv_head,
                                  uintptr_t addresses) {
    return HS % 8 == 0 && row % 8 == 0 && q_head % 8 == 0 && kv_head % 8 == 0 && addresses % 16 == 0 &&
           max_size(row, NH * HS) < (size_t)1 << 23;  // distances within a tile are of 32 bits
}

// CASE(the smallest tile class that holds heads of HS numbers)
#define FOR_TILE_CLASS(HS, CASE)  \
    do {                          \
        if ((HS) <= 32) {         \
            CASE(32);             \
        } else if ((HS) <= 64) {  \
            CASE(64);             \
        } else if ((HS) <= 96) {  \
            CASE(96);             \
        } else if ((HS) <= 128) { \
            CASE(128);            \
        } else {                  \
            CASE(256);            \
        }                         \
    } while (0)

// out (B,T,NH*HS) =, lse (B,NH,T) =, from q, k, v. This and the backward are a part of their own in the ledger.
static inline void attention_forward_cuda(floatX* out, float* lse, const floatX* q, const floatX* k, const floatX* v,
                                          size_t B, size_t T, size_t NH, size_t NKV, size_t HS, size_t row,
                                          size_t q_head, size_t kv_head) {
    AttentionShape shape = attention_shape(T, NH, NKV, HS, row, q_head, kv_head);
    int part = ledger_part(PART_ATTENTION);
    if (!attention_whole(NH, HS, row, q_head, kv_head, (uintptr_t)out | (uintptr_t)q | (uintptr_t)k | (uintptr_t)v)) {
        attention_forward_plain_cuda(out, lse, q, k, v, B, T, NH, NKV, HS, row, q_head, kv_head);
    } else {
        states_product(attention_flops(2, B, T, NH, HS), attention_bytes(2, 2, 1, B, T, NH, NKV, HS));  // s, out
        if (attention_is_wide(HS)) {
            attention_forward_wide(out, lse, q, k, v, B, shape);
        } else {
#define CASE(HSC) attention_forward_class<HSC>(out, lse, q, k, v, B, shape)
            FOR_TILE_CLASS(HS, CASE);
#undef CASE
        }
    }
    ledger_part(part);
}

// dq, dk, dv = (laid out as q, k, v; what lies between their vectors is left alone), delta (B,NH,T): scratch.
// The two kernels do 4 and 3 products: s and dp are computed in both.
static inline void attention_backward_cuda(floatX* dq, floatX* dk, floatX* dv, float* delta, const floatX* dout,
                                           const floatX* q, const floatX* k, const floatX* v, const floatX* out,
                                           const float* lse, size_t B, size_t T, size_t NH, size_t NKV, size_t HS,
                                           size_t row, size_t q_head, size_t kv_head) {
    AttentionShape shape = attention_shape(T, NH, NKV, HS, row, q_head, kv_head);
    int part = ledger_part(PART_ATTENTION);
    if (!attention_whole(NH, HS, row, q_head, kv_head,
                         (uintptr_t)lse | (uintptr_t)delta | (uintptr_t)dq | (uintptr_t)dk | (uintptr_t)dv |
                             (uintptr_t)dout | (uintptr_t)q | (uintptr_t)k | (uintptr_t)v)) {
        attention_backward_plain_cuda(dq, dk, dv, delta, dout, q, k, v, out, lse, B, T, NH, NKV, HS, row, q_head,
                                      kv_head);
    } else {
        attention_delta_cuda(delta, dout, out, B, T, NH, HS);
        if (attention_is_wide(HS)) {
            attention_backward_wide(dq, dk, dv, delta, dout, q, k, v, lse, B, NKV, shape);
        } else {
#define CASE(HSC) attention_backward_class<HSC>(dq, dk, dv, delta, dout, q, k, v, lse, B, NKV, shape)
            FOR_TILE_CLASS(HS, CASE);
#undef CASE
        }
    }
    ledger_part(part);
}

#endif  // bf16
#endif
