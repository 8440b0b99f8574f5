// layers.cuh - CUDA kernels of the layers that the architectures share: rotary and learned positions, GELU, SwiGLU,
// column sums, copies. Norms: norms.cuh, rmsnorm.cuh.
//
// Their C twins are the layers of the trainers, section [4]. All of them are bound by memory, so
// above each kernel stands what must move per number, and the aim is to move each byte once:
// additions, norms, biases and column sums are fused where they meet the same numbers.
//
// Types: residual stream x and its gradient dx fp32; norm outputs, products' outputs and their
// gradients floatX, rounded once; statistics, biases and weights of norms fp32 (the master family);
// gradients of weights fp32 and += (they sum over passes and micro-batches).
//
// Sums over the columns of (N,C): every thread block adds a chunk of rows into a row of a scratch
// (chunks, sums, C), a second kernel adds the chunks in their order. How rows are cut follows from N
// and C alone, so that every GPU computes the same bits, and two runs of one do.
//
// Accesses are of 128 bits where rows and addresses allow it (`whole`), else number by number: any
// sizes work. A thread's pack is PACK neighbouring columns.
//
//   [1] rotary positions    [2] learned positions    [3] column sums, GELU    [4] SwiGLU    [5] copies
#ifndef PONDER_LAYERS_CUH
#define PONDER_LAYERS_CUH

#include "device.cuh"

// 1 if rows of C numbers consist of whole packs and all addresses (or-ed together; NULL passes) are
// aligned.
static inline int rows_whole(size_t C, uintptr_t addresses) { return C % PACK == 0 && addresses % 16 == 0; }
static inline uintptr_t address_bits(const void* p) { return (uintptr_t)p; }

// ------------------------------------------------------------------------------------------------
// The second half of every sum over columns

enum { FINISH_COLUMNS = 32, FINISH_GROUPS = 32, COLUMN_SUMS = 5 };

// Where the sums go: sum k to to[k], each (C) and += ; NULL: nowhere. The last one goes to `also` too.
typedef struct {
    float* to[COLUMN_SUMS];
    float* also;
} ColumnTargets;

// partial (chunks, sums, C); a block adds 32 columns of one sum: each of 32 groups of threads every 32nd
// chunk, then the groups one after the other. 4 bytes read for each partial.
static __global__ void __launch_bounds__(FINISH_COLUMNS* FINISH_GROUPS)
    column_finish_kernel(ColumnTargets targets, const float* __restrict__ partial, size_t chunks, size_t C) {
    SHARED(float, group_sum, FINISH_COLUMNS* FINISH_GROUPS);
    size_t k = blockIdx.y, sums = gridDim.y, i = (size_t)blockIdx.x * FINISH_COLUMNS + threadIdx.x;
    float sum = 0;
    if (i < C) {
#pragma unroll 16
        for (size_t chunk = threadIdx.y; chunk < chunks; chunk += FINISH_GROUPS) {
            sum += partial[(chunk * sums + k) * C + i];
        }
    }
    group_sum[threadIdx.y * FINISH_COLUMNS + threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && i < C) {
        for (int group = 1; group < FINISH_GROUPS; group++) { sum += group_sum[group * FINISH_COLUMNS + threadIdx.x]; }
#pragma unroll
        for (int q = 0; q < COLUMN_SUMS; q++) {  // an index that is no constant would put the pointers in memory
            if ((size_t)q == k && targets.to[q]) { targets.to[q][i] += sum; }
        }
        if (targets.also && k + 1 == sums) { targets.also[i] += sum; }
    }
}

static inline void column_finish_cuda(ColumnTargets targets, const float* partial, size_t chunks, size_t sums,
                                      size_t C) {
    int wanted = targets.also ? 1 : 0;
    for (size_t k = 0; k < sums; k++) { wanted += targets.to[k] ? 1 : 0; }
    states((double)chunks * (double)sums * (double)C,
           4.0 * (double)C * ((double)chunks * (double)sums + 2.0 * (double)wanted));
    launch(column_finish_kernel, dim3((unsigned)div_up(C, FINISH_COLUMNS), (unsigned)sums),
           dim3(FINISH_COLUMNS, FINISH_GROUPS), 0, device.stream, targets, partial, chunks, C);
}

// ------------------------------------------------------------------------------------------------
// [1] Rotary positions

// See rotary_forward_cuda. A thread turns PACK pairs of one head, a group of blockDim.x threads one row.
// Per rotated number: 2 bytes in and 2 out in bf16; the tables stay in the caches.
static __global__ void __launch_bounds__(256)
    rotary_forward_kernel(floatX* x, const float* __restrict__ cosine, const float* __restrict__ sine,
                          const int* __restrict__ first, size_t N, size_t T, unsigned heads, unsigned parts,
                          unsigned half, size_t row_stride, size_t head_stride, size_t part_stride, float direction,
                          int whole) {
    const size_t n = (size_t)blockIdx.x * blockDim.y + threadIdx.y;
    if (n >= N) { return; }
    const size_t t = n % T + (first ? (size_t)first[n / T] : 0);
    const unsigned packs = (half + PACK - 1) / PACK, items = heads * parts * packs;
    for (unsigned item = threadIdx.x; item < items; item += blockDim.x) {
        const unsigned i = item % packs * PACK, part = item / packs % parts, head = item / packs / parts;
        floatX* low = x + n * row_stride + head * head_stride + part * part_stride;
        floatX* high = low + half;
        float a[PACK], b[PACK], c[PACK], s[PACK], turned[PACK];
        load_pack_of(a, low, i, half, whole, 0.0f);
        load_pack_of(b, high, i, half, whole, 0.0f);
        load_pack_of(c, cosine + t * half, i, half, whole, 0.0f);
        load_pack_of(s, sine + t * half, i, half, whole, 0.0f);
#pragma unroll
        for (int j = 0; j < PACK; j++) { turned[j] = a[j] * c[j] - b[j] * (direction * s[j]); }
        store_pack_of(low, turned, i, half, whole);
#pragma unroll
        for (int j = 0; j < PACK; j++) { turned[j] = b[j] * c[j] + a[j] * (direction * s[j]); }
        store_pack_of(high, turned, i, half, whole);
    }
}

// Rotates heads by their positions, in place, as the C half does (Su et al., arXiv
// 2104.09864): numbers i and i + rotated/2 of a head are a pair, i < rotated/2. Computed in fp32 and
// rounded once. Head h, part p of row n begins at x + n row_stride + h head_stride + p part_stride, so that
// q and k in qkv (B,T,NH,3,HS) are heads = NH, parts = 2, strides 3 NH HS, 3 HS, HS, and a q (B,T,NH,HS)
// of its own is heads = NH, parts = 1, strides NH HS, HS, 0. cosine, sine (T, rotated/2), with `first` of as many positions
// as there are: first (B), on the device, is where rows begin, NULL: at 0. direction +1: forward, -1: backward, since the
// gradient of a rotation is the rotation back.
static inline void rotary_forward_cuda(floatX* x, const float* cosine, const float* sine, const int* first, size_t B,
                                       size_t T, size_t heads, size_t parts, size_t rotated, size_t row_stride,
                                       size_t head_stride, size_t part_stride, int direction) {
    size_t half = rotated / 2, N = B * T, items = heads * parts * div_up(half, PACK);
    int whole = rows_whole(half, address_bits(x) | address_bits(cosine) | address_bits(sine)) &&
                (row_stride | head_stride | part_stride) % PACK == 0;
    unsigned across = 8;
    while (across < 256 && across < items) { across *= 2; }
    double pairs = (double)N * (double)heads * (double)parts * (double)half;
    states(7.0 * pairs, 4.0 * (double)sizeof(floatX) * pairs + 8.0 * (double)T * (double)half);
    launch(rotary_forward_kernel, dim3((unsigned)div_up(N, 256 / across)), dim3(across, 256 / across), 0, device.stream,
           x, cosine, sine, first, N, T, (unsigned)heads, (unsigned)parts, (unsigned)half, row_stride, head_stride,
           part_stride, (float)direction, whole);
}

// ------------------------------------------------------------------------------------------------
// [2] Learned positions
//
// A row of inp (B,T,C) is T C numbers that go with the first T C of the table (P,C). A thread has four of them, the
// same in each row.

enum { POSITION_PACK = 4, POSITION_THREADS = 256, POSITION_ROWS = 64 };  // most rows of blocks

static inline unsigned position_blocks(size_t numbers) {
    return (unsigned)div_up(numbers, POSITION_THREADS * POSITION_PACK);
}
static inline int position_whole(size_t numbers, uintptr_t addresses) {
    return numbers % POSITION_PACK == 0 && addresses % 16 == 0;
}

// Per number: 4 bytes in, 4 out; the table stays in the caches.
static __global__ void __launch_bounds__(POSITION_THREADS)
    position_forward_kernel(float* __restrict__ out, const float* __restrict__ inp, const float* __restrict__ table,
                            const int* __restrict__ first, size_t B, size_t numbers, size_t C, int whole) {
    const size_t i = ((size_t)blockIdx.x * POSITION_THREADS + threadIdx.x) * POSITION_PACK;
    for (size_t b = blockIdx.y; b < B; b += gridDim.y) {
        const size_t at = b * numbers + i;
        const float* own = table + (first ? (size_t)first[b] * C : 0);
        if (whole && i < numbers) {
            const float4 x = *(const float4*)(inp + at), p = *(const float4*)(own + i);
            *(float4*)(out + at) = make_float4(x.x + p.x, x.y + p.y, x.z + p.z, x.w + p.w);
        } else {
            for (size_t k = 0; k < POSITION_PACK && i + k < numbers; k++) { out[at + k] = inp[at + k] + own[i + k]; }
        }
    }
}

// out (N,C) = inp (N,C) + table[t], N = B T; table (P,C) holds a row for each position. All fp32: the stream. first (B), on
// the device: the positions of rows' first tokens, which are added to t; NULL: 0.
static inline void position_forward_cuda(float* out, const float* inp, const float* table, const int* first, size_t B,
                                         size_t T, size_t C) {
    const size_t numbers = T * C;
    int whole = position_whole(first ? C : numbers, address_bits(out) | address_bits(inp) | address_bits(table));
    states((double)B * (double)numbers, 8.0 * (double)B * (double)numbers + 4.0 * (double)numbers);
    launch(position_forward_kernel, dim3(position_blocks(numbers), (unsigned)min_size(B, POSITION_ROWS)),
           dim3(POSITION_THREADS), 0, device.stream, out, inp, table, first, B, numbers, C, whole);
}

// Per number: 4 bytes in; of the table's gradient 4 in and 4 out. Left alone, ptxas aims at 8 blocks on a
// multiprocessor and spills.
static __global__ void __launch_bounds__(POSITION_THREADS, 4)
    position_backward_kernel(float* __restrict__ dtable, const float* __restrict__ dout, size_t B, size_t numbers,
                             int whole) {
    const size_t i = ((size_t)blockIdx.x * POSITION_THREADS + threadIdx.x) * POSITION_PACK;
    if (whole && i < numbers) {
        float4 sum = *(const float4*)(dtable + i);
#pragma unroll 8
        for (size_t b = 0; b < B; b++) {
            const float4 d = *(const float4*)(dout + b * numbers + i);
            sum = make_float4(sum.x + d.x, sum.y + d.y, sum.z + d.z, sum.w + d.w);
        }
        *(float4*)(dtable + i) = sum;
    } else {
        for (size_t k = i; k < i + POSITION_PACK && k < numbers; k++) {
            float sum = dtable[k];
            for (size_t b = 0; b < B; b++) { sum += dout[b * numbers + k]; }
            dtable[k] = sum;
        }
    }
}

// dtable[t] (P,C) += sum over the B rows of dout (N,C), in their order: the bits of the C half. The gradient of inp is
// dout itself. Sums over passes and micro-batches; positions from T on get nothing.
static inline void position_backward_cuda(float* dtable, const float* dout, size_t B, size_t T, size_t C) {
    const size_t numbers = T * C;
    int whole = position_whole(numbers, address_bits(dtable) | address_bits(dout));
    states((double)B * (double)numbers, 4.0 * (double)B * (double)numbers + 8.0 * (double)numbers);
    launch(position_backward_kernel, dim3(position_blocks(numbers)), dim3(POSITION_THREADS), 0, device.stream, dtable,
           dout, B, numbers, whole);
}

// ------------------------------------------------------------------------------------------------
// [3] Column sums, GELU

// A matrix (N,C) in tiles of 32 packs of columns and chunks of rows; a block takes one of each, a warp of
// it a row at a time. From N and C alone: about as many blocks as are wanted, and 64 rows or more, so
// that the partial sums (8 bytes a chunk and column, out and in) stay below a tenth of what is read.
// SUM_BLOCKS where there are such sums; more where there are none, so that the last blocks to run are a
// small part of all.
enum { COLUMN_WARPS = 8, COLUMN_TILE = WARP * PACK, SUM_BLOCKS = 1024, PLAIN_BLOCKS = 8192 };

typedef struct {
    unsigned tiles, chunks;
    size_t rows;  // of a chunk
} ColumnCut;

static inline ColumnCut column_cut(size_t N, size_t C, size_t blocks) {
    ColumnCut cut;
    cut.tiles = (unsigned)div_up(C, COLUMN_TILE);
    cut.rows = max_size(div_up(N, max_size(blocks / cut.tiles, 1)), 64);
    cut.chunks = (unsigned)div_up(N, cut.rows);
    return cut;
}

// Floats that column_sum_cuda and gelu_backward_cuda need as scratch, for N rows and for fewer.
static inline size_t column_sum_scratch(size_t N, size_t C) {
    return min_size(div_up(N, 64), max_size(SUM_BLOCKS / div_up(C, COLUMN_TILE), 1)) * C;
}

// A block's partial sums: sum, one pack of columns from i on, of each of its warps in their order. fold
// (COLUMN_WARPS, COLUMN_TILE): shared. out (C) =, this chunk's. All threads of the block must come.
static __device__ __forceinline__ void column_write(float* out, const float sum[PACK], float* fold, size_t C) {
    store_pack(fold + threadIdx.y * COLUMN_TILE + threadIdx.x * PACK, sum);
    __syncthreads();
    for (unsigned c = threadIdx.y * WARP + threadIdx.x; c < COLUMN_TILE; c += COLUMN_WARPS * WARP) {
        const size_t i = (size_t)blockIdx.x * COLUMN_TILE + c;
        float total = fold[c];
        for (int warp = 1; warp < COLUMN_WARPS; warp++) { total += fold[warp * COLUMN_TILE + c]; }
        if (i < C) { out[i] = total; }
    }
}

// partial (chunks, C) =. Per number: its own 2 or 4 bytes in. Four rows are in flight for each thread.
template <class number>
static __global__ void __launch_bounds__(COLUMN_WARPS* WARP)
    column_sum_kernel(float* __restrict__ partial, const number* __restrict__ inp, size_t N, size_t C, size_t rows,
                      int whole) {
    enum { FLIGHT = 4 };
    SHARED(float, fold, COLUMN_WARPS* COLUMN_TILE);
    const size_t i = ((size_t)blockIdx.x * WARP + threadIdx.x) * PACK;
    const size_t begin = blockIdx.y * rows, end = begin + rows < N ? begin + rows : N;
    float sum[PACK];
#pragma unroll
    for (int j = 0; j < PACK; j++) { sum[j] = 0; }
    if (i < C) {
        for (size_t n = begin + threadIdx.y; n < end; n += FLIGHT * COLUMN_WARPS) {
            float x[FLIGHT][PACK];
#pragma unroll
            for (int u = 0; u < FLIGHT; u++) {
                const size_t row = n + (size_t)u * COLUMN_WARPS;
                if (row < end) {
                    load_pack_of(x[u], inp + row * C, i, C, whole, 0.0f);
                } else {
#pragma unroll
                    for (int j = 0; j < PACK; j++) { x[u][j] = 0; }
                }
            }
#pragma unroll
            for (int u = 0; u < FLIGHT; u++) {
#pragma unroll
                for (int j = 0; j < PACK; j++) { sum[j] += x[u][j]; }
            }
        }
    }
    column_write(partial + blockIdx.y * C, sum, fold, C);
}

// dbias (C) += sums over the rows of dout (N,C), floatX or float; also (C) += the same, unless NULL: two
// biases of branches that were added have one gradient. Sums over passes and micro-batches.
template <class number>
static inline void column_sum_cuda(float* dbias, float* also, float* scratch, const number* dout, size_t N, size_t C) {
    ColumnCut cut = column_cut(N, C, SUM_BLOCKS);
    int whole = rows_whole(C, address_bits(dout));
    states((double)N * (double)C,
           (double)sizeof(number) * (double)N * (double)C + 4.0 * (double)cut.chunks * (double)C);
    launch(column_sum_kernel<number>, dim3(cut.tiles, cut.chunks), dim3(WARP, COLUMN_WARPS), 0, device.stream, scratch,
           dout, N, C, cut.rows, whole);
    ColumnTargets targets = {{dbias, NULL, NULL, NULL, NULL}, also};
    column_finish_cuda(targets, scratch, cut.chunks, 1, C);
}

enum { GELU_ERF, GELU_TANH };  // tanh_form below

// What both forms are made of. In fp32 as the mathematical library has it. In bf16 by one exponential and one reciprocal,
// each an instruction: the library's cost twice what reading and writing a number does.

// (1 + tanh(u)) / 2 = 1 / (1 + e^-2u), and *steep, (1 - tanh(u)^2) / 4. With |u| neither overflows nor cancels.
static __device__ __forceinline__ float gelu_logistic(float* steep, float u) {
#ifdef FP32
    const float t = tanhf(u);
    *steep = 0.25f * (1.0f - t * t);
    return 0.5f * (1.0f + t);
#else
    const float e = exp2_approx(-2.88539008177792681472f * fabsf(u)), s = reciprocal_approx(1.0f + e);
    *steep = e * s * s;
    return u < 0 ? e * s : s;
#endif
}

// Phi(x), the normal distribution function, and *bell, exp(-x^2 / 2). In bf16 after Hastings (Abramowitz and Stegun,
// 7.1.26), within 8e-8, and down to -5 within 2e-3 of the value, where bf16 keeps 4e-3.
static __device__ __forceinline__ float gelu_normal(float* bell, float x) {
#ifdef FP32
    *bell = expf(-0.5f * x * x);
    return 0.5f * (1.0f + erff(x * 0.70710678118654752440f));
#else
    *bell = exp2_approx(-0.72134752044448170368f * x * x);
    const float t = reciprocal_approx(1.0f + 0.3275911f * 0.70710678118654752440f * fabsf(x));
    float tail = 0.5f * 1.061405429f * t - 0.5f * 1.453152027f;
    tail = fmaf(tail, t, 0.5f * 1.421413741f);
    tail = fmaf(tail, t, -0.5f * 0.284496736f);
    tail = fmaf(tail, t, 0.5f * 0.254829592f) * t * *bell;
    return x < 0 ? tail : 1.0f - tail;
#endif
}

// x Phi(x) (Hendrycks & Gimpel, arXiv 1606.08415); tanh_form: their approximation of it, which GPT-2 was trained with.
template <int tanh_form> static __device__ __forceinline__ float gelu_value(float x) {
    float slope;
    return x * (tanh_form ? gelu_logistic(&slope, 0.79788456080286535588f * (x + 0.044715f * x * x * x))
                          : gelu_normal(&slope, x));
}

// Its derivative, Phi(x) + x phi(x).
template <int tanh_form> static __device__ __forceinline__ float gelu_slope(float x) {
    if (tanh_form) {
        float steep;
        const float half = gelu_logistic(&steep, 0.79788456080286535588f * (x + 0.044715f * x * x * x));
        return half + 2.0f * x * steep * (0.79788456080286535588f * (1.0f + 3.0f * 0.044715f * x * x));
    }
    float bell;
    const float cdf = gelu_normal(&bell, x);
    return cdf + x * (0.39894228040143267794f * bell);
}

// Rows in flight for each thread of the kernels of GELU and SwiGLU.
enum { GELU_FLIGHT = 2 };

// Per number: 2 bytes in, 2 out in bf16.
template <int tanh_form>
static __global__ void __launch_bounds__(COLUMN_WARPS* WARP)
    gelu_forward_kernel(floatX* out, const floatX* inp, const float* __restrict__ bias, size_t N, size_t C, size_t rows,
                        int whole) {
    const size_t i = ((size_t)blockIdx.x * WARP + threadIdx.x) * PACK;
    const size_t begin = blockIdx.y * rows, end = begin + rows < N ? begin + rows : N;
    if (i >= C) { return; }
    float shift[PACK];
#pragma unroll
    for (int j = 0; j < PACK; j++) { shift[j] = 0; }
    if (bias) { load_pack_of(shift, bias, i, C, whole, 0.0f); }
    for (size_t n = begin + threadIdx.y; n < end; n += GELU_FLIGHT * COLUMN_WARPS) {
        float x[GELU_FLIGHT][PACK];
#pragma unroll
        for (int u = 0; u < GELU_FLIGHT; u++) {
            const size_t row = n + (size_t)u * COLUMN_WARPS;
            if (row < end) { load_pack_of(x[u], inp + row * C, i, C, whole, 0.0f); }
        }
#pragma unroll
        for (int u = 0; u < GELU_FLIGHT; u++) {
            const size_t row = n + (size_t)u * COLUMN_WARPS;
            if (row >= end) { continue; }
#pragma unroll
            for (int j = 0; j < PACK; j++) { x[u][j] = gelu_value<tanh_form>(x[u][j] + shift[j]); }
            store_pack_of(out + row * C, x[u], i, C, whole);
        }
    }
}

// out (N,C) = GELU(inp (N,C) + bias (C)), computed in fp32, rounded once. bias may be NULL; out may be
// inp. tanh_form 0: the erf form, 1: GPT-2's.
static inline void gelu_forward_cuda(floatX* out, const floatX* inp, const float* bias, size_t N, size_t C,
                                     int tanh_form) {
    ColumnCut cut = column_cut(N, C, PLAIN_BLOCKS);
    int whole = rows_whole(C, address_bits(out) | address_bits(inp) | address_bits(bias));
    const dim3 grid(cut.tiles, cut.chunks), block(WARP, COLUMN_WARPS);
    states(30.0 * (double)N * (double)C, 2.0 * (double)sizeof(floatX) * (double)N * (double)C + 4.0 * (double)C);
    if (tanh_form) {
        launch(gelu_forward_kernel<1>, grid, block, 0, device.stream, out, inp, bias, N, C, cut.rows, whole);
    } else {
        launch(gelu_forward_kernel<0>, grid, block, 0, device.stream, out, inp, bias, N, C, cut.rows, whole);
    }
}

// Per number: 4 bytes in, 2 out in bf16. Some 30 instructions a number in bf16, fewer than an H100 can do
// meanwhile, so the column sums, which cost two more, come free with it. partial (chunks, C) =, or NULL.
template <int tanh_form>
static __global__ void __launch_bounds__(COLUMN_WARPS* WARP, 3)
    gelu_backward_kernel(floatX* dinp, float* __restrict__ partial, const floatX* dout, const floatX* __restrict__ inp,
                         const float* __restrict__ bias, size_t N, size_t C, size_t rows, int whole) {
    SHARED(float, fold, COLUMN_WARPS* COLUMN_TILE);
    const size_t i = ((size_t)blockIdx.x * WARP + threadIdx.x) * PACK;
    const size_t begin = blockIdx.y * rows, end = begin + rows < N ? begin + rows : N;
    float shift[PACK], sum[PACK];
#pragma unroll
    for (int j = 0; j < PACK; j++) { shift[j] = 0, sum[j] = 0; }
    if (i < C) {
        if (bias) { load_pack_of(shift, bias, i, C, whole, 0.0f); }
        for (size_t n = begin + threadIdx.y; n < end; n += GELU_FLIGHT * COLUMN_WARPS) {
            float x[GELU_FLIGHT][PACK], d[GELU_FLIGHT][PACK];
#pragma unroll
            for (int u = 0; u < GELU_FLIGHT; u++) {
                const size_t row = n + (size_t)u * COLUMN_WARPS;
                if (row >= end) { continue; }
                load_pack_of(x[u], inp + row * C, i, C, whole, 0.0f);
                load_pack_of(d[u], dout + row * C, i, C, whole, 0.0f);
            }
#pragma unroll
            for (int u = 0; u < GELU_FLIGHT; u++) {
                const size_t row = n + (size_t)u * COLUMN_WARPS;
                if (row >= end) { continue; }
#pragma unroll
                for (int j = 0; j < PACK; j++) {
                    d[u][j] *= gelu_slope<tanh_form>(x[u][j] + shift[j]);
                    sum[j] += rounded(d[u][j]);
                }
                store_pack_of(dinp + row * C, d[u], i, C, whole);
            }
        }
    }
    if (partial) { column_write(partial + blockIdx.y * C, sum, fold, C); }
}

// dinp (N,C) = dout (N,C) * GELU'(inp (N,C) + bias (C)), rounded once; dinp may be dout.
// dbias (C) += column sums of dinp as rounded, since that is what the products see; sums over passes and
// micro-batches. bias may be NULL; dbias too, then scratch (column_sum_scratch(N, C)) is not needed.
static inline void gelu_backward_cuda(floatX* dinp, float* dbias, float* scratch, const floatX* dout, const floatX* inp,
                                      const float* bias, size_t N, size_t C, int tanh_form) {
    ColumnCut cut = column_cut(N, C, SUM_BLOCKS);
    int whole = rows_whole(C, address_bits(dinp) | address_bits(dout) | address_bits(inp) | address_bits(bias));
    const dim3 grid(cut.tiles, cut.chunks), block(WARP, COLUMN_WARPS);
    float* partial = dbias ? scratch : NULL;
    states(45.0 * (double)N * (double)C, 3.0 * (double)sizeof(floatX) * (double)N * (double)C + 4.0 * (double)C +
                                             (dbias ? 4.0 * (double)cut.chunks * (double)C : 0.0));
    if (tanh_form) {
        launch(gelu_backward_kernel<1>, grid, block, 0, device.stream, dinp, partial, dout, inp, bias, N, C, cut.rows,
               whole);
    } else {
        launch(gelu_backward_kernel<0>, grid, block, 0, device.stream, dinp, partial, dout, inp, bias, N, C, cut.rows,
               whole);
    }
    if (dbias) {
        ColumnTargets targets = {{dbias, NULL, NULL, NULL, NULL}, NULL};
        column_finish_cuda(targets, scratch, cut.chunks, 1, C);
    }
}

// ------------------------------------------------------------------------------------------------
// [4] SwiGLU

// The same tiles and rows in flight as GELU's; a thread has a pack of gate and the pack of up that belongs to it. Per
// number of out: 4 bytes in, 2 out in bf16.
static __global__ void __launch_bounds__(COLUMN_WARPS* WARP)
    swiglu_forward_kernel(floatX* __restrict__ out, const floatX* __restrict__ inp, size_t N, size_t FF, size_t rows,
                          int whole) {
    const size_t i = ((size_t)blockIdx.x * WARP + threadIdx.x) * PACK;
    const size_t begin = blockIdx.y * rows, end = begin + rows < N ? begin + rows : N;
    if (i >= FF) { return; }
    for (size_t n = begin + threadIdx.y; n < end; n += GELU_FLIGHT * COLUMN_WARPS) {
        float gate[GELU_FLIGHT][PACK], up[GELU_FLIGHT][PACK];
#pragma unroll
        for (int u = 0; u < GELU_FLIGHT; u++) {
            const size_t row = n + (size_t)u * COLUMN_WARPS;
            if (row >= end) { continue; }
            load_pack_of(gate[u], inp + row * 2 * FF, i, FF, whole, 0.0f);
            load_pack_of(up[u], inp + row * 2 * FF + FF, i, FF, whole, 0.0f);
        }
#pragma unroll
        for (int u = 0; u < GELU_FLIGHT; u++) {
            const size_t row = n + (size_t)u * COLUMN_WARPS;
            if (row >= end) { continue; }
#pragma unroll
            for (int j = 0; j < PACK; j++) { gate[u][j] = gate[u][j] / (1.0f + expf(-gate[u][j])) * up[u][j]; }
            store_pack_of(out + row * FF, gate[u], i, FF, whole);
        }
    }
}

// out (N,FF) = g * sigmoid(g) * u, with g and u the halves of each row of inp (N,2FF) (Shazeer, arXiv 2002.05202),
// computed in fp32, rounded once.
static inline void swiglu_forward_cuda(floatX* out, const floatX* inp, size_t N, size_t FF) {
    ColumnCut cut = column_cut(N, FF, PLAIN_BLOCKS);
    int whole = rows_whole(FF, address_bits(out) | address_bits(inp));
    states(25.0 * (double)N * (double)FF, 3.0 * (double)sizeof(floatX) * (double)N * (double)FF);
    launch(swiglu_forward_kernel, dim3(cut.tiles, cut.chunks), dim3(WARP, COLUMN_WARPS), 0, device.stream, out, inp, N,
           FF, cut.rows, whole);
}

// Per number of dout: 6 bytes in, 4 out in bf16.
static __global__ void __launch_bounds__(COLUMN_WARPS* WARP)
    swiglu_backward_kernel(floatX* __restrict__ dinp, const floatX* __restrict__ dout, const floatX* __restrict__ inp,
                           size_t N, size_t FF, size_t rows, int whole) {
    const size_t i = ((size_t)blockIdx.x * WARP + threadIdx.x) * PACK;
    const size_t begin = blockIdx.y * rows, end = begin + rows < N ? begin + rows : N;
    if (i >= FF) { return; }
    for (size_t n = begin + threadIdx.y; n < end; n += GELU_FLIGHT * COLUMN_WARPS) {
        float gate[GELU_FLIGHT][PACK], up[GELU_FLIGHT][PACK], d[GELU_FLIGHT][PACK];
#pragma unroll
        for (int u = 0; u < GELU_FLIGHT; u++) {
            const size_t row = n + (size_t)u * COLUMN_WARPS;
            if (row >= end) { continue; }
            load_pack_of(gate[u], inp + row * 2 * FF, i, FF, whole, 0.0f);
            load_pack_of(up[u], inp + row * 2 * FF + FF, i, FF, whole, 0.0f);
            load_pack_of(d[u], dout + row * FF, i, FF, whole, 0.0f);
        }
#pragma unroll
        for (int u = 0; u < GELU_FLIGHT; u++) {
            const size_t row = n + (size_t)u * COLUMN_WARPS;
            if (row >= end) { continue; }
#pragma unroll
            for (int j = 0; j < PACK; j++) {
                const float g = gate[u][j], s = 1.0f / (1.0f + expf(-g));
                gate[u][j] = d[u][j] * up[u][j] * s * (1.0f + g * (1.0f - s));
                up[u][j] = d[u][j] * g * s;
            }
            store_pack_of(dinp + row * 2 * FF, gate[u], i, FF, whole);
            store_pack_of(dinp + row * 2 * FF + FF, up[u], i, FF, whole);
        }
    }
}

// dinp (N,2FF) = [dout u s (1 + g (1 - s)) | dout g s], with s = sigmoid(g), dout (N,FF), and g and u the halves of
// each row of inp (N,2FF); rounded once.
static inline void swiglu_backward_cuda(floatX* dinp, const floatX* dout, const floatX* inp, size_t N, size_t FF) {
    ColumnCut cut = column_cut(N, FF, PLAIN_BLOCKS);
    int whole = rows_whole(FF, address_bits(dinp) | address_bits(dout) | address_bits(inp));
    states(35.0 * (double)N * (double)FF, 5.0 * (double)sizeof(floatX) * (double)N * (double)FF);
    launch(swiglu_backward_kernel, dim3(cut.tiles, cut.chunks), dim3(WARP, COLUMN_WARPS), 0, device.stream, dinp, dout,
           inp, N, FF, cut.rows, whole);
}

// ------------------------------------------------------------------------------------------------
// [5] Copies

// A pack a thread. Per number: 4 bytes in, 2 out in bf16.
static __global__ void __launch_bounds__(256)
    copy_rounded_kernel(floatX* __restrict__ out, const float* __restrict__ inp, size_t n, int aligned) {
    const size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * PACK;
    if (i >= n) { return; }
    const int whole = aligned && i + PACK <= n;
    float x[PACK];
    load_pack_of(x, inp, i, n, whole, 0.0f);
    store_pack_of(out, x, i, n, whole);
}

// out (n) = inp (n), rounded to nearest: the products' copy of the master weights, or of dx.
static inline void copy_rounded_cuda(floatX* out, const float* inp, size_t n) {
    int aligned = (address_bits(out) | address_bits(inp)) % 16 == 0;
    states(0, (4.0 + (double)sizeof(floatX)) * (double)n);
    launch(copy_rounded_kernel, dim3((unsigned)div_up(n, 256 * PACK)), dim3(256), 0, device.stream, out, inp, n,
           aligned);
}

// Per number: 8 bytes in, 4 out. Four numbers a thread, so that a warp's store is 512 bytes in a row.
static __global__ void __launch_bounds__(256)
    add_kernel(float* __restrict__ out, const float* __restrict__ inp, size_t n, int aligned) {
    const size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (aligned && i + 4 <= n) {
        const float4 x = *(const float4*)(inp + i), y = *(const float4*)(out + i);
        *(float4*)(out + i) = make_float4(y.x + x.x, y.y + x.y, y.z + x.z, y.w + x.w);
    } else {
        for (size_t k = i; k < i + 4 && k < n; k++) { out[k] += inp[k]; }
    }
}

// out (n) += inp (n): de += dx where a pass ends.
static inline void add_cuda(float* out, const float* inp, size_t n) {
    int aligned = (address_bits(out) | address_bits(inp)) % 16 == 0;
    states((double)n, 12.0 * (double)n);
    launch(add_kernel, dim3((unsigned)div_up(n, 256 * 4)), dim3(256), 0, device.stream, out, inp, n, aligned);
}

#endif
