// layers.cuh - CUDA kernels of the layers that the architectures share: LayerNorm with the residual
// additions before it, rotary positions, GELU, column sums, copies.
//
// Their C twins are the layers of train_pythia.cu, section [4]. All of them are bound by memory, so
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
//   [1] norms    [2] rotary positions    [3] column sums, GELU    [4] copies
#ifndef PONDER_LAYERS_CUH
#define PONDER_LAYERS_CUH

#include "device.cuh"

// 1 if rows of C numbers consist of whole packs and all addresses (or-ed together; NULL passes) are
// aligned.
static inline int rows_whole(size_t C, uintptr_t addresses) { return C % PACK == 0 && addresses % 16 == 0; }
static inline uintptr_t address_bits(const void* p) { return (uintptr_t)p; }

// ------------------------------------------------------------------------------------------------
// The second half of every sum over columns

enum { FINISH_COLUMNS = 32, FINISH_GROUPS = 16, COLUMN_SUMS = 5 };

// Where the sums go: sum k to to[k], each (C) and += ; NULL: nowhere. The last one goes to `also` too.
typedef struct {
    float* to[COLUMN_SUMS];
    float* also;
} ColumnTargets;

// partial (chunks, sums, C); a block adds 32 columns of one sum: each of 16 groups of threads every 16th
// chunk, then the groups one after the other. 4 bytes read for each partial.
static __global__ void __launch_bounds__(FINISH_COLUMNS* FINISH_GROUPS)
    column_finish_kernel(ColumnTargets targets, const float* __restrict__ partial, size_t chunks, size_t C) {
    SHARED(float, group_sum, FINISH_COLUMNS* FINISH_GROUPS);
    size_t k = blockIdx.y, sums = gridDim.y, i = (size_t)blockIdx.x * FINISH_COLUMNS + threadIdx.x;
    float sum = 0;
    if (i < C) {
#pragma unroll 8
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
    work((double)chunks * (double)sums * (double)C,
         4.0 * (double)C * ((double)chunks * (double)sums + 2.0 * (double)wanted));
    launch(column_finish_kernel, dim3((unsigned)div_up(C, FINISH_COLUMNS), (unsigned)sums),
           dim3(FINISH_COLUMNS, FINISH_GROUPS), 0, device.stream, targets, partial, chunks, C);
}

// ------------------------------------------------------------------------------------------------
// [1] Norms

// A row belongs to the threads of one threadIdx.y: `warps` warps side by side, in a block of `rows` such
// groups. Short rows need one warp and no barrier, and several share a block of up to 8 warps; long ones
// get up to 16 warps. The launch bounds ask for one such block at least: left alone, ptxas aims at more
// of them and spills.
enum { NORM_WARPS = 16, NORM_THREADS = NORM_WARPS * WARP, NORM_SHARED_WARPS = 8 };

// Every thread of a row gets the totals of x over the row's threads. slots (count, NORM_WARPS): shared,
// not to be written again before another barrier. All threads of the block must come.
template <int count> static __device__ __forceinline__ void norm_totals(float x[count], float* slots) {
    const unsigned warps = blockDim.x / WARP, lane = threadIdx.x % WARP, first = threadIdx.y * warps;
#pragma unroll
    for (int k = 0; k < count; k++) { x[k] = warp_sum(x[k]); }
    if (warps == 1) { return; }
    if (lane == 0) {
#pragma unroll
        for (int k = 0; k < count; k++) { slots[k * NORM_WARPS + first + threadIdx.x / WARP] = x[k]; }
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < count; k++) { x[k] = warp_sum(lane < warps ? slots[k * NORM_WARPS + first + lane] : 0.0f); }
}

// The one expression for a norm's output: written with fmaf so that every kernel that computes it, now
// or again, gets the same bits whatever the compiler would contract.
static __device__ __forceinline__ float norm_value(float x, float mean, float rstd, float w, float b) {
    return fmaf((x - mean) * rstd, w, b);
}

// out (C) = norm of one pack of a row, from number i on.
template <int whole>
static __device__ __forceinline__ void norm_write(floatX* out, const float v[PACK], float mean, float rstd,
                                                  const float* w, const float* b, unsigned i, unsigned C) {
    float scale[PACK], shift[PACK], y[PACK];
    load_pack_of(scale, w, i, C, whole, 0.0f);
    load_pack_of(shift, b, i, C, whole, 0.0f);
#pragma unroll
    for (int j = 0; j < PACK; j++) { y[j] = norm_value(v[j], mean, rstd, scale[j], shift[j]); }
    store_pack_of(out, y, i, C, whole);
}

// See layernorms_forward_cuda. A thread holds `packs` packs of its row in registers between the three
// walks over it (sum, squares, outputs), so that global memory is read once; a row longer than all
// registers of its threads is taken in sections, and walked again from x_out. branches: 0 to 2 additions.
template <int packs, int branches, int whole>
static __global__ void __launch_bounds__(NORM_THREADS, 1)
    layernorms_forward_kernel(float* x_out, floatX* __restrict__ ln1, floatX* __restrict__ ln2,
                              float* __restrict__ mean, float* __restrict__ rstd, const float* x,
                              const floatX* __restrict__ a, const float* __restrict__ abias,
                              const floatX* __restrict__ b, const float* __restrict__ bbias,
                              const float* __restrict__ w1, const float* __restrict__ b1, const float* __restrict__ w2,
                              const float* __restrict__ b2, size_t N, unsigned C, float eps) {
    SHARED(float, slots, 2 * NORM_WARPS);
    const size_t n = (size_t)blockIdx.x * blockDim.y + threadIdx.y, at = n * C;
    const unsigned width = n < N ? C : 0;  // a row past the end has no numbers, but comes to the barriers
    const unsigned own = threadIdx.x * PACK, step = blockDim.x * PACK, section = packs * step;
    const int held = C <= section;
    const float* again = branches ? x_out : x;  // where a row that is not held is read again, by whoever wrote it
    float v[packs][PACK];

    float sum[1] = {0};
    for (unsigned first = 0; first < C; first += section) {
        float added[packs][PACK], also[packs][PACK], shift[PACK];
#pragma unroll
        for (int k = 0; k < packs; k++) {  // every load is on its way before the first is used
            const unsigned i = first + k * step + own;
            if (i < width) { load_pack_of(v[k], x + at, i, C, whole, 0.0f); }
            if (branches > 0 && i < width) { load_pack_of(added[k], a + at, i, C, whole, 0.0f); }
            if (branches > 1 && i < width) { load_pack_of(also[k], b + at, i, C, whole, 0.0f); }
        }
#pragma unroll
        for (int k = 0; k < packs; k++) {
            const unsigned i = first + k * step + own;
            if (i >= width) { continue; }
            // The small ones first: the sum that is as large as the stream is rounded once per branch.
            if (branches > 0) {
                if (abias) {
                    load_pack_of(shift, abias, i, C, whole, 0.0f);
#pragma unroll
                    for (int j = 0; j < PACK; j++) { added[k][j] += shift[j]; }
                }
#pragma unroll
                for (int j = 0; j < PACK; j++) { v[k][j] += added[k][j]; }
            }
            if (branches > 1) {
                if (bbias) {
                    load_pack_of(shift, bbias, i, C, whole, 0.0f);
#pragma unroll
                    for (int j = 0; j < PACK; j++) { also[k][j] += shift[j]; }
                }
#pragma unroll
                for (int j = 0; j < PACK; j++) { v[k][j] += also[k][j]; }
            }
            if (branches > 0) { store_pack_of(x_out + at, v[k], i, C, whole); }
#pragma unroll
            for (int j = 0; j < PACK; j++) { sum[0] += v[k][j]; }  // 0 past the end
        }
    }
    norm_totals<1>(sum, slots);
    const float m = sum[0] / (float)C;

    // The variance from differences to the mean: sum(x^2) - C mean^2 would cancel.
    float squares[1] = {0};
    for (unsigned first = 0; first < C; first += section) {
#pragma unroll
        for (int k = 0; k < packs; k++) {
            const unsigned i = first + k * step + own;
            if (i >= width) { continue; }
            if (!held) { load_pack_of(v[k], again + at, i, C, whole, 0.0f); }
#pragma unroll
            for (int j = 0; j < PACK; j++) {
                const float d = whole || i + j < C ? v[k][j] - m : 0.0f;
                squares[0] = fmaf(d, d, squares[0]);
            }
        }
    }
    norm_totals<1>(squares, slots + NORM_WARPS);
    const float s = 1.0f / sqrtf(squares[0] / (float)C + eps);
    if (width == 0) { return; }
    if (threadIdx.x == 0) { mean[n] = m, rstd[n] = s; }

    for (unsigned first = 0; first < C; first += section) {
#pragma unroll
        for (int k = 0; k < packs; k++) {
            const unsigned i = first + k * step + own;
            if (i >= C) { continue; }
            if (!held) { load_pack_of(v[k], again + at, i, C, whole, 0.0f); }
            norm_write<whole>(ln1 + at, v[k], m, s, w1, b1, i, C);
            if (ln2) { norm_write<whole>(ln2 + at, v[k], m, s, w2, b2, i, C); }
        }
    }
}

// How a row is shared out: at most 4 packs a thread where 16 warps are enough for that.
typedef struct {
    int packs;
    unsigned warps, rows;
} NormShape;

static inline NormShape norm_shape(size_t C) {
    size_t all = div_up(C, PACK);
    NormShape shape = {4, 1, 1};
    while (shape.warps < NORM_WARPS && all > (size_t)shape.warps * WARP * 4) { shape.warps *= 2; }
    size_t each = div_up(all, (size_t)shape.warps * WARP);
    if (each <= 2) { shape.packs = (int)each; }
    if (shape.warps < NORM_SHARED_WARPS) { shape.rows = NORM_SHARED_WARPS / shape.warps; }
    return shape;
}

// Residual additions and up to two LayerNorms of the sum (Ba et al., arXiv 1607.06450), which share its
// statistics: Pythia's layer reads the stream once for both branches.
//
//     x_out (N,C) = x (N,C) + (a (N,C) + abias (C)) + (b (N,C) + bbias (C))
//     mean, rstd (N) = of x_out's rows, rstd = 1/sqrt(variance + eps)
//     ln1 (N,C) = (x_out - mean) * rstd * w1 (C) + b1 (C);  ln2 the same with w2, b2
//
// All outputs "=". a == NULL: nothing is added and x_out not written. b, abias, bbias may be NULL, ln2
// (with w2, b2) too. x_out must not be x. Per number at least: 4 bytes of x in, 2 each of a and b; 4 of
// x_out out, 2 of each norm: 16 in Pythia's bf16 layer.
static inline void layernorms_forward_cuda(float* x_out, floatX* ln1, floatX* ln2, float* mean, float* rstd,
                                           const float* x, const floatX* a, const float* abias, const floatX* b,
                                           const float* bbias, const float* w1, const float* b1, const float* w2,
                                           const float* b2, size_t N, size_t C, float eps) {
    int branches = !a ? 0 : !b ? 1 : 2, norms = ln2 ? 2 : 1;
    if (!a) { b = NULL; }
    int whole = rows_whole(C, address_bits(x_out) | address_bits(ln1) | address_bits(ln2) | address_bits(x) |
                                  address_bits(a) | address_bits(abias) | address_bits(b) | address_bits(bbias) |
                                  address_bits(w1) | address_bits(b1) | address_bits(w2) | address_bits(b2));
    NormShape shape = norm_shape(C);
    const dim3 grid((unsigned)div_up(N, shape.rows)), block(shape.warps * WARP, shape.rows);
    work((double)N * (double)C * (4 + 2 * branches + 3 * norms),
         (double)N * (double)C * (4.0 * (branches ? 2 : 1) + (double)sizeof(floatX) * (branches + norms)) +
             8.0 * (double)N + 4.0 * (double)C * (branches + 2 * norms));
#define NORM_FORWARD(packs, branches, whole)                                                                          \
    launch((layernorms_forward_kernel<packs, branches, whole>), grid, block, 0, device.stream, x_out, ln1, ln2, mean, \
           rstd, x, a, abias, b, bbias, w1, b1, w2, b2, N, (unsigned)C, eps)
#define NORM_FORWARD_BRANCHES(packs, whole)                   \
    do {                                                      \
        if (branches == 2) { NORM_FORWARD(packs, 2, whole); } \
        if (branches == 1) { NORM_FORWARD(packs, 1, whole); } \
        if (branches == 0) { NORM_FORWARD(packs, 0, whole); } \
    } while (0)
    if (!whole) {
        NORM_FORWARD_BRANCHES(2, 0);
    } else if (shape.packs == 1) {
        NORM_FORWARD_BRANCHES(1, 1);
    } else if (shape.packs == 2) {
        NORM_FORWARD_BRANCHES(2, 1);
    } else {
        NORM_FORWARD_BRANCHES(4, 1);
    }
#undef NORM_FORWARD_BRANCHES
#undef NORM_FORWARD
}

// Per number: 4 bytes in, 2 out for each norm in bf16.
template <int whole>
static __global__ void __launch_bounds__(NORM_THREADS, 1)
    layernorms_again_kernel(floatX* __restrict__ ln1, floatX* __restrict__ ln2, const float* __restrict__ x,
                            const float* __restrict__ w1, const float* __restrict__ b1, const float* __restrict__ w2,
                            const float* __restrict__ b2, const float* __restrict__ mean,
                            const float* __restrict__ rstd, size_t N, unsigned C) {
    const size_t n = (size_t)blockIdx.x * blockDim.y + threadIdx.y, at = n * C;
    if (n >= N) { return; }
    const float m = mean[n], s = rstd[n];
#pragma unroll 4
    for (unsigned i = threadIdx.x * PACK; i < C; i += blockDim.x * PACK) {
        float v[PACK];
        load_pack_of(v, x + at, i, C, whole, 0.0f);
        norm_write<whole>(ln1 + at, v, m, s, w1, b1, i, C);
        if (ln2) { norm_write<whole>(ln2 + at, v, m, s, w2, b2, i, C); }
    }
}

// ln1, ln2 (N,C) = once more from x (N,C) and its statistics mean, rstd (N): the same bits as
// layernorms_forward_cuda wrote. ln2 (with w2, b2) may be NULL.
static inline void layernorms_again_cuda(floatX* ln1, floatX* ln2, const float* x, const float* w1, const float* b1,
                                         const float* w2, const float* b2, const float* mean, const float* rstd,
                                         size_t N, size_t C) {
    int norms = ln2 ? 2 : 1;
    int whole = rows_whole(C, address_bits(ln1) | address_bits(ln2) | address_bits(x) | address_bits(w1) |
                                  address_bits(b1) | address_bits(w2) | address_bits(b2));
    NormShape shape = norm_shape(C);
    work((double)N * (double)C * 3 * norms,
         (double)N * (double)C * (4.0 + (double)sizeof(floatX) * norms) + 8.0 * (double)N + 8.0 * (double)C * norms);
    const dim3 grid((unsigned)div_up(N, shape.rows)), block(shape.warps * WARP, shape.rows);
    if (whole) {
        launch(layernorms_again_kernel<1>, grid, block, 0, device.stream, ln1, ln2, x, w1, b1, w2, b2, mean, rstd, N,
               (unsigned)C);
    } else {
        launch(layernorms_again_kernel<0>, grid, block, 0, device.stream, ln1, ln2, x, w1, b1, w2, b2, mean, rstd, N,
               (unsigned)C);
    }
}

// Columns that a thread of the backward holds, and packs that they are. More would cost too many
// registers: there are five sums for each column.
enum { NORM_COLUMNS = 8, NORM_HOLD = NORM_COLUMNS / PACK };

// One pack of a row, from number i on: x_hat, both output gradients, and d = dout1 w1 + dout2 w2. From
// number `width` on (C, or 0 for a row that is not there) all are 0.
template <int norms, int whole>
static __device__ __forceinline__ void norm_backward_load(float x_hat[PACK], float d1[PACK], float d2[PACK],
                                                          float d[PACK], const floatX* dout1, const floatX* dout2,
                                                          const float* x, const float* w1, const float* w2, float m,
                                                          float s, size_t at, unsigned i, unsigned width) {
    float scale1[PACK], scale2[PACK];
#pragma unroll
    for (int j = 0; j < PACK; j++) { x_hat[j] = m, d1[j] = 0, d2[j] = 0, scale1[j] = 0, scale2[j] = 0; }
    if (i < width) {
        load_pack_of(x_hat, x + at, i, width, whole, m);
        load_pack_of(d1, dout1 + at, i, width, whole, 0.0f);
        if (norms > 1) { load_pack_of(d2, dout2 + at, i, width, whole, 0.0f); }
        load_pack_of(scale1, w1, i, width, whole, 0.0f);
        if (norms > 1) { load_pack_of(scale2, w2, i, width, whole, 0.0f); }
    }
#pragma unroll
    for (int j = 0; j < PACK; j++) {
        x_hat[j] = (x_hat[j] - m) * s;
        d[j] = d1[j] * scale1[j];
        if (norms > 1) { d[j] = fmaf(d2[j], scale2[j], d[j]); }
    }
}

// See layernorms_backward_cuda. A block takes a chunk of rows, blockDim.y of them at a time, each
// thread the same columns of every row, whose sums it keeps in registers. wide: the row is longer than
// a block holds; it is then taken in sections, read twice, and the sums live in `partial`.
// partial (chunks, 2 norms + 1, C) =
template <int norms, int wide, int whole>
static __global__ void __launch_bounds__(NORM_THREADS, whole)
    layernorms_backward_kernel(float* dx, floatX* __restrict__ dxb, float* __restrict__ partial,
                               const floatX* __restrict__ dout1, const floatX* __restrict__ dout2, const float* x,
                               const float* __restrict__ w1, const float* __restrict__ w2,
                               const float* __restrict__ mean, const float* __restrict__ rstd, size_t N, unsigned C,
                               size_t rows, int accumulate) {
    enum { SUMS = 2 * norms + 1 };  // dw1, db1, dw2, db2, of dx
    SHARED(float, slots, 2 * 2 * NORM_WARPS);
    SHARED(float, fold, NORM_SHARED_WARPS* WARP* NORM_COLUMNS);
    const unsigned own = threadIdx.x * PACK, step = blockDim.x * PACK, section = NORM_HOLD * step;
    const unsigned reach = wide ? C : 1;  // one section, unless wide
    const size_t begin = blockIdx.x * rows, end = begin + rows < N ? begin + rows : N;
    float* const out = partial + (size_t)blockIdx.x * SUMS * C;
    float column[SUMS][NORM_HOLD][PACK];
#pragma unroll
    for (int q = 0; q < SUMS; q++) {
#pragma unroll
        for (int k = 0; k < NORM_HOLD; k++) {
#pragma unroll
            for (int j = 0; j < PACK; j++) { column[q][k][j] = 0; }
        }
    }

    unsigned turn = 0;
    for (size_t row = begin; row < end; row += blockDim.y, turn++) {
        const size_t n = row + threadIdx.y, at = n * C;
        const unsigned width = n < end ? C : 0;
        const float m = n < end ? mean[n] : 0.0f, s = n < end ? rstd[n] : 0.0f;
        float x_hat[NORM_HOLD][PACK], d1[NORM_HOLD][PACK], d2[NORM_HOLD][PACK], d[NORM_HOLD][PACK];
        float y[NORM_HOLD][PACK];  // dx
        float total[2] = {0, 0};   // of d, of d * x_hat
        for (unsigned first = 0; first < reach; first += section) {
#pragma unroll
            for (int k = 0; k < NORM_HOLD; k++) {
                const unsigned i = first + k * step + own;
#pragma unroll
                for (int j = 0; j < PACK; j++) { y[k][j] = 0; }
                if (!wide && accumulate && i < width) { load_pack_of(y[k], dx + at, i, C, whole, 0.0f); }
                norm_backward_load<norms, whole>(x_hat[k], d1[k], d2[k], d[k], dout1, dout2, x, w1, w2, m, s, at, i,
                                                 width);
#pragma unroll
                for (int j = 0; j < PACK; j++) {
                    total[0] += d[k][j];
                    total[1] = fmaf(d[k][j], x_hat[k][j], total[1]);
                }
            }
        }
        // Two sets of slots in turn: a slow warp may still read one while a fast one writes the other.
        norm_totals<2>(total, slots + turn % 2 * (2 * NORM_WARPS));
        const float mean_d = total[0] / (float)C, mean_dot = total[1] / (float)C;

        for (unsigned first = 0; first < reach; first += section) {
#pragma unroll
            for (int k = 0; k < NORM_HOLD; k++) {
                const unsigned i = first + k * step + own;
                if (i >= width) { continue; }
                if (wide) {
                    norm_backward_load<norms, whole>(x_hat[k], d1[k], d2[k], d[k], dout1, dout2, x, w1, w2, m, s, at, i,
                                                     width);
#pragma unroll
                    for (int j = 0; j < PACK; j++) { y[k][j] = 0; }
                    if (accumulate) { load_pack_of(y[k], dx + at, i, C, whole, 0.0f); }
                }
#pragma unroll
                for (int j = 0; j < PACK; j++) { y[k][j] += s * (d[k][j] - mean_d - x_hat[k][j] * mean_dot); }
                store_pack_of(dx + at, y[k], i, C, whole);
                if (dxb) { store_pack_of(dxb + at, y[k], i, C, whole); }
#pragma unroll
                for (int q = 0; q < SUMS; q++) {
                    float* const sum = column[q][k];
                    if (wide) {
#pragma unroll
                        for (int j = 0; j < PACK; j++) { sum[j] = 0; }
                        if (row > begin) { load_pack_of(sum, out + (size_t)q * C, i, C, whole, 0.0f); }
                    }
#pragma unroll
                    for (int j = 0; j < PACK; j++) {
                        const float gradient = q < 2 ? d1[k][j] : d2[k][j];
                        sum[j] = q == SUMS - 1 ? sum[j] + rounded(y[k][j])
                                 : q % 2       ? sum[j] + gradient
                                               : fmaf(gradient, x_hat[k][j], sum[j]);
                    }
                    if (wide) { store_pack_of(out + (size_t)q * C, sum, i, C, whole); }
                }
            }
        }
    }

    // The block's row groups, one after the other. A wide row has one group, and is where it belongs.
#pragma unroll
    for (int q = 0; q < (wide ? 0 : SUMS); q++) {
#pragma unroll
        for (int k = 0; k < NORM_HOLD; k++) {
            const unsigned i = k * step + own;
            if (blockDim.y > 1) {
                store_pack(fold + threadIdx.y * section + i, column[q][k]);
            } else if (i < C) {
                store_pack_of(out + (size_t)q * C, column[q][k], i, C, whole);
            }
        }
        if (blockDim.y > 1) {
            __syncthreads();
            for (unsigned i = threadIdx.y * blockDim.x + threadIdx.x; i < C; i += blockDim.x * blockDim.y) {
                float sum = fold[i];
                for (unsigned group = 1; group < blockDim.y; group++) { sum += fold[group * section + i]; }
                out[(size_t)q * C + i] = sum;
            }
            __syncthreads();
        }
    }
}

// Rows of a chunk: 512 chunks fill any GPU (two blocks fit a multiprocessor), and 32 rows or more keep the
// partial sums, 40 bytes a chunk and column, small beside the rows, 18 bytes a number.
static inline size_t norm_backward_rows(size_t N) { return max_size(div_up(N, 512), 32); }

// Floats that layernorms_backward_cuda needs as scratch, for N rows and for fewer: fewer can mean more chunks.
static inline size_t norm_backward_scratch(size_t N, size_t C) {
    return min_size(div_up(N, 32), 512) * COLUMN_SUMS * C;
}

// The mirror of layernorms_forward_cuda: dx is the gradient of x_out, to which the norms add theirs;
// it is also the gradient of x, a and b. With x_hat = (x - mean) * rstd, d = dout1 w1 + dout2 w2 (both
// norms normalise the same x, so their gradients meet here):
//
//     dx (N,C) += rstd * (d - mean(d) - x_hat * mean(d * x_hat))     "=" if accumulate is 0
//     dxb (N,C) = dx after that, rounded: what the next products read
//     dw1 (C) += column sums of dout1 * x_hat;  db1 (C) += of dout1;  dw2, db2 the same with dout2
//     dabias, dbbias (C) += column sums of dx, rounded as in dxb; they are the same numbers
//
// x here is the forward's x_out (N,C). dout2 (with w2, dw2, db2), dxb and every weight gradient may be
// NULL. With accumulate = 0, dx may be x. Weight gradients sum over passes and micro-batches. Per number
// at least: x 4, dx 4, dout 2 each in; dx 4, dxb 2 out: 18 bytes in Pythia's bf16 layer.
static inline void layernorms_backward_cuda(float* dx, floatX* dxb, float* dw1, float* db1, float* dw2, float* db2,
                                            float* dabias, float* dbbias, float* scratch, const floatX* dout1,
                                            const floatX* dout2, const float* x, const float* w1, const float* w2,
                                            const float* mean, const float* rstd, size_t N, size_t C, int accumulate) {
    int norms = dout2 ? 2 : 1;
    int whole = rows_whole(C, address_bits(dx) | address_bits(dxb) | address_bits(scratch) | address_bits(dout1) |
                                  address_bits(dout2) | address_bits(x) | address_bits(w1) | address_bits(w2));
    size_t rows = norm_backward_rows(N), chunks = div_up(N, rows), sums = 2 * (size_t)norms + 1;
    unsigned warps = (unsigned)div_up(C, WARP * NORM_COLUMNS);
    int wide = warps > NORM_WARPS;
    if (wide) { warps = NORM_WARPS; }
    const dim3 grid((unsigned)chunks), block(warps * WARP, warps < NORM_SHARED_WARPS ? NORM_SHARED_WARPS / warps : 1);
    work((double)N * (double)C * (10 + 6 * norms),
         (double)N * (double)C * (4.0 * (accumulate ? 3 : 2) + (double)sizeof(floatX) * (norms + (dxb ? 1 : 0))) +
             8.0 * (double)N + 4.0 * (double)C * ((double)norms + (double)chunks * (double)sums));
#define NORM_BACKWARD(norms, wide, whole)                                                                            \
    launch((layernorms_backward_kernel<norms, wide, whole>), grid, block, 0, device.stream, dx, dxb, scratch, dout1, \
           dout2, x, w1, w2, mean, rstd, N, (unsigned)C, rows, accumulate)
    if (norms == 2) {
        if (whole && !wide) { NORM_BACKWARD(2, 0, 1); }
        if (whole && wide) { NORM_BACKWARD(2, 1, 1); }
        if (!whole && !wide) { NORM_BACKWARD(2, 0, 0); }
        if (!whole && wide) { NORM_BACKWARD(2, 1, 0); }
    } else {
        if (whole && !wide) { NORM_BACKWARD(1, 0, 1); }
        if (whole && wide) { NORM_BACKWARD(1, 1, 1); }
        if (!whole && !wide) { NORM_BACKWARD(1, 0, 0); }
        if (!whole && wide) { NORM_BACKWARD(1, 1, 0); }
    }
#undef NORM_BACKWARD
    ColumnTargets targets = {{dw1, db1, NULL, NULL, NULL}, dbbias};
    if (norms > 1) { targets.to[2] = dw2, targets.to[3] = db2; }
    targets.to[sums - 1] = dabias;
    column_finish_cuda(targets, scratch, chunks, sums, C);
}

// ------------------------------------------------------------------------------------------------
// [2] Rotary positions

// See rotary_forward_cuda. A thread turns PACK pairs of one head, a group of blockDim.x threads one row.
// Per rotated number: 2 bytes in and 2 out in bf16; the tables stay in the caches.
static __global__ void __launch_bounds__(256)
    rotary_forward_kernel(floatX* x, const float* __restrict__ cosine, const float* __restrict__ sine, size_t N,
                          size_t T, unsigned heads, unsigned parts, unsigned half, size_t row_stride,
                          size_t head_stride, size_t part_stride, float direction, int whole) {
    const size_t n = (size_t)blockIdx.x * blockDim.y + threadIdx.y;
    if (n >= N) { return; }
    const size_t t = n % T;
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

// Rotates heads by their positions, in place, as rotary_forward of train_pythia.cu (Su et al., arXiv
// 2104.09864): numbers i and i + rotated/2 of a head are a pair, i < rotated/2. Computed in fp32 and
// rounded once. Head h, part p of row n begins at x + n row_stride + h head_stride + p part_stride, so that
// q and k in qkv (B,T,NH,3,HS) are heads = NH, parts = 2, strides 3 NH HS, 3 HS, HS, and a q (B,T,NH,HS)
// of its own is heads = NH, parts = 1, strides NH HS, HS, 0. cosine, sine (T, rotated/2). direction +1:
// forward, -1: backward, since the gradient of a rotation is the rotation back.
static inline void rotary_forward_cuda(floatX* x, const float* cosine, const float* sine, size_t B, size_t T,
                                       size_t heads, size_t parts, size_t rotated, size_t row_stride,
                                       size_t head_stride, size_t part_stride, int direction) {
    size_t half = rotated / 2, N = B * T, items = heads * parts * div_up(half, PACK);
    int whole = rows_whole(half, address_bits(x) | address_bits(cosine) | address_bits(sine)) &&
                (row_stride | head_stride | part_stride) % PACK == 0;
    unsigned across = 8;
    while (across < 256 && across < items) { across *= 2; }
    double pairs = (double)N * (double)heads * (double)parts * (double)half;
    work(7.0 * pairs, 4.0 * (double)sizeof(floatX) * pairs + 8.0 * (double)T * (double)half);
    launch(rotary_forward_kernel, dim3((unsigned)div_up(N, 256 / across)), dim3(across, 256 / across), 0, device.stream,
           x, cosine, sine, N, T, (unsigned)heads, (unsigned)parts, (unsigned)half, row_stride, head_stride,
           part_stride, (float)direction, whole);
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
    work((double)N * (double)C, (double)sizeof(number) * (double)N * (double)C + 4.0 * (double)cut.chunks * (double)C);
    launch(column_sum_kernel<number>, dim3(cut.tiles, cut.chunks), dim3(WARP, COLUMN_WARPS), 0, device.stream, scratch,
           dout, N, C, cut.rows, whole);
    ColumnTargets targets = {{dbias, NULL, NULL, NULL, NULL}, also};
    column_finish_cuda(targets, scratch, cut.chunks, 1, C);
}

// x Phi(x), Phi the normal distribution function (Hendrycks & Gimpel, arXiv 1606.08415); tanh_form: their
// approximation of it, which GPT-2 was trained with.
template <int tanh_form> static __device__ __forceinline__ float gelu_value(float x) {
    if (tanh_form) { return 0.5f * x * (1.0f + tanhf(0.79788456080286535588f * (x + 0.044715f * x * x * x))); }
    return x * (0.5f * (1.0f + erff(x * 0.70710678118654752440f)));
}

// Its derivative, Phi(x) + x phi(x).
template <int tanh_form> static __device__ __forceinline__ float gelu_slope(float x) {
    if (tanh_form) {
        const float t = tanhf(0.79788456080286535588f * (x + 0.044715f * x * x * x));
        const float inner = 0.79788456080286535588f * (1.0f + 3.0f * 0.044715f * x * x);
        return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner;
    }
    const float cdf = 0.5f * (1.0f + erff(x * 0.70710678118654752440f));
    return cdf + x * (0.39894228040143267794f * expf(-0.5f * x * x));
}

// Rows in flight for each thread of the two kernels below.
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
    work(30.0 * (double)N * (double)C, 2.0 * (double)sizeof(floatX) * (double)N * (double)C + 4.0 * (double)C);
    if (tanh_form) {
        launch(gelu_forward_kernel<1>, grid, block, 0, device.stream, out, inp, bias, N, C, cut.rows, whole);
    } else {
        launch(gelu_forward_kernel<0>, grid, block, 0, device.stream, out, inp, bias, N, C, cut.rows, whole);
    }
}

// Per number: 4 bytes in, 2 out in bf16. Some 45 instructions a number: near the limit of arithmetic on an
// H100, so the column sums, which cost two more, come free with it. partial (chunks, C) =, or NULL.
template <int tanh_form>
static __global__ void __launch_bounds__(COLUMN_WARPS* WARP)
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
    work(45.0 * (double)N * (double)C, 3.0 * (double)sizeof(floatX) * (double)N * (double)C + 4.0 * (double)C +
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
// [4] Copies

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
    work(0, (4.0 + (double)sizeof(floatX)) * (double)n);
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
    work((double)n, 12.0 * (double)n);
    launch(add_kernel, dim3((unsigned)div_up(n, 256 * 4)), dim3(256), 0, device.stream, out, inp, n, aligned);
}

#endif
