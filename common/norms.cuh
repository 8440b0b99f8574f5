// norms.cuh - LayerNorm on the GPU, one or two of one input, fused with the residual additions before them.
//
// C twin: layernorm_statistics, _forward and _backward of the trainers, section [4]. Types, sums over columns and
// accesses as in layers.cuh.
#ifndef PONDER_NORMS_CUH
#define PONDER_NORMS_CUH

#include "layers.cuh"

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
// statistics: a parallel layer reads the stream once for both branches.
//
//     x_out (N,C) = x (N,C) + (a (N,C) + abias (C)) + (b (N,C) + bbias (C))
//     mean, rstd (N) = of x_out's rows, rstd = 1/sqrt(variance + eps)
//     ln1 (N,C) = (x_out - mean) * rstd * w1 (C) + b1 (C);  ln2 the same with w2, b2
//
// All outputs "=". a == NULL: nothing is added and x_out not written. b, abias, bbias may be NULL, ln2
// (with w2, b2) too. x_out must not be x. Per number at least: 4 bytes of x in, 2 each of a and b; 4 of
// x_out out, 2 of each norm: 16 in a parallel layer in bf16.
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
    states((double)N * (double)C * (4 + 2 * branches + 3 * norms),
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
    states((double)N * (double)C * 3 * norms,
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
// at least: x 4, dx 4, dout 2 each in; dx 4, dxb 2 out: 18 bytes in a parallel layer in bf16.
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
    states((double)N * (double)C * (10 + 6 * norms),
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

#endif
