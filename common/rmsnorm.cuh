// rmsnorm.cuh - RMSNorm on the GPU, fused with the residual addition before it.
//
// C twin: rmsnorm_statistics, _forward and _backward of the trainers, section [4]. How rows and columns are shared
// out, sums over a row and sums over columns are those of norms.cuh; here there is no mean, no bias and one norm of an
// input, so the kernels are shorter.
#ifndef PONDER_RMSNORM_CUH
#define PONDER_RMSNORM_CUH

#include "norms.cuh"

// out (C) = norm of one pack of a row, from number i on. The one expression for a norm's output: products alone, so
// that it has the same bits whatever the compiler would contract.
template <int whole>
static __device__ __forceinline__ void rmsnorm_write(floatX* out, const float v[PACK], float rstd, const float* w,
                                                     unsigned i, unsigned C) {
    float scale[PACK], y[PACK];
    load_pack_of(scale, w, i, C, whole, 0.0f);
#pragma unroll
    for (int j = 0; j < PACK; j++) { y[j] = v[j] * rstd * scale[j]; }
    store_pack_of(out, y, i, C, whole);
}

// See rmsnorm_forward_cuda. A thread holds `packs` packs of its row in registers between the two walks over it
// (squares, outputs); a row longer than all registers of its threads is taken in sections, and walked again from x_out.
// branch 1: `a` is added.
template <int packs, int branch, int whole>
static __global__ void __launch_bounds__(NORM_THREADS, 1)
    rmsnorm_forward_kernel(float* x_out, floatX* __restrict__ ln, float* __restrict__ rstd, const float* x,
                           const floatX* __restrict__ a, const float* __restrict__ w, size_t N, unsigned C, float eps) {
    SHARED(float, slots, NORM_WARPS);
    const size_t n = (size_t)blockIdx.x * blockDim.y + threadIdx.y, at = n * C;
    const unsigned width = n < N ? C : 0;  // a row past the end has no numbers, but comes to the barrier
    const unsigned own = threadIdx.x * PACK, step = blockDim.x * PACK, section = packs * step;
    const int held = C <= section;
    const float* again = branch ? x_out : x;  // where a row that is not held is read again, by whoever wrote it
    float v[packs][PACK];

    float squares[1] = {0};
    for (unsigned first = 0; first < C; first += section) {
        float added[packs][PACK];
#pragma unroll
        for (int k = 0; k < packs; k++) {  // every load is on its way before the first is used
            const unsigned i = first + k * step + own;
            if (i < width) { load_pack_of(v[k], x + at, i, C, whole, 0.0f); }
            if (branch && i < width) { load_pack_of(added[k], a + at, i, C, whole, 0.0f); }
        }
#pragma unroll
        for (int k = 0; k < packs; k++) {
            const unsigned i = first + k * step + own;
            if (i >= width) { continue; }
            if (branch) {
#pragma unroll
                for (int j = 0; j < PACK; j++) { v[k][j] += added[k][j]; }
                store_pack_of(x_out + at, v[k], i, C, whole);
            }
#pragma unroll
            for (int j = 0; j < PACK; j++) { squares[0] = fmaf(v[k][j], v[k][j], squares[0]); }  // 0 past the end
        }
    }
    norm_totals<1>(squares, slots);
    const float s = 1.0f / sqrtf(squares[0] / (float)C + eps);
    if (width == 0) { return; }
    if (threadIdx.x == 0) { rstd[n] = s; }

    for (unsigned first = 0; first < C; first += section) {
#pragma unroll
        for (int k = 0; k < packs; k++) {
            const unsigned i = first + k * step + own;
            if (i >= C) { continue; }
            if (!held) { load_pack_of(v[k], again + at, i, C, whole, 0.0f); }
            rmsnorm_write<whole>(ln + at, v[k], s, w, i, C);
        }
    }
}

// A residual addition and the RMSNorm of the sum (Zhang & Sennrich, arXiv 1910.07467):
//
//     x_out (N,C) = x (N,C) + a (N,C)
//     rstd (N) = 1/sqrt(mean of the squares of a row of x_out + eps)
//     ln (N,C) = x_out * rstd * w (C)
//
// All outputs "=". a == NULL: nothing is added and x_out not written. x_out must not be x. Per number at least: 4 bytes
// of x in, 2 of a; 4 of x_out out, 2 of ln: 12 in bf16.
static inline void rmsnorm_forward_cuda(float* x_out, floatX* ln, float* rstd, const float* x, const floatX* a,
                                        const float* w, size_t N, size_t C, float eps) {
    int branch = a != NULL;
    int whole =
        rows_whole(C, address_bits(x_out) | address_bits(ln) | address_bits(x) | address_bits(a) | address_bits(w));
    NormShape shape = norm_shape(C);
    const dim3 grid((unsigned)div_up(N, shape.rows)), block(shape.warps * WARP, shape.rows);
    states((double)N * (double)C * (4 + branch),
           (double)N * (double)C * (4.0 * (branch ? 2 : 1) + (double)sizeof(floatX) * (branch + 1)) + 4.0 * (double)N +
               4.0 * (double)C);
#define RMSNORM_FORWARD(packs, branch, whole)                                                                          \
    launch((rmsnorm_forward_kernel<packs, branch, whole>), grid, block, 0, device.stream, x_out, ln, rstd, x, a, w, N, \
           (unsigned)C, eps)
#define RMSNORM_FORWARD_BRANCH(packs, whole)  \
    do {                                      \
        if (branch) {                         \
            RMSNORM_FORWARD(packs, 1, whole); \
        } else {                              \
            RMSNORM_FORWARD(packs, 0, whole); \
        }                                     \
    } while (0)
    if (!whole) {
        RMSNORM_FORWARD_BRANCH(2, 0);
    } else if (shape.packs == 1) {
        RMSNORM_FORWARD_BRANCH(1, 1);
    } else if (shape.packs == 2) {
        RMSNORM_FORWARD_BRANCH(2, 1);
    } else {
        RMSNORM_FORWARD_BRANCH(4, 1);
    }
#undef RMSNORM_FORWARD_BRANCH
#undef RMSNORM_FORWARD
}

// Per number: 4 bytes in, 2 out in bf16.
template <int whole>
static __global__ void __launch_bounds__(NORM_THREADS, 1)
    rmsnorm_again_kernel(floatX* __restrict__ ln, const float* __restrict__ x, const float* __restrict__ w,
                         const float* __restrict__ rstd, size_t N, unsigned C) {
    const size_t n = (size_t)blockIdx.x * blockDim.y + threadIdx.y, at = n * C;
    if (n >= N) { return; }
    const float s = rstd[n];
#pragma unroll 4
    for (unsigned i = threadIdx.x * PACK; i < C; i += blockDim.x * PACK) {
        float v[PACK];
        load_pack_of(v, x + at, i, C, whole, 0.0f);
        rmsnorm_write<whole>(ln + at, v, s, w, i, C);
    }
}

// ln (N,C) = once more from x (N,C) and rstd (N): the same bits as rmsnorm_forward_cuda wrote.
static inline void rmsnorm_again_cuda(floatX* ln, const float* x, const float* w, const float* rstd, size_t N,
                                      size_t C) {
    int whole = rows_whole(C, address_bits(ln) | address_bits(x) | address_bits(w));
    NormShape shape = norm_shape(C);
    states((double)N * (double)C * 2,
           (double)N * (double)C * (4.0 + (double)sizeof(floatX)) + 4.0 * (double)N + 4.0 * (double)C);
    const dim3 grid((unsigned)div_up(N, shape.rows)), block(shape.warps * WARP, shape.rows);
    if (whole) {
        launch(rmsnorm_again_kernel<1>, grid, block, 0, device.stream, ln, x, w, rstd, N, (unsigned)C);
    } else {
        launch(rmsnorm_again_kernel<0>, grid, block, 0, device.stream, ln, x, w, rstd, N, (unsigned)C);
    }
}

// One pack of a row, from number i on: x_hat, the output's gradient dy, and d = dy w. From number `width` on (C, or 0
// for a row that is not there) all are 0.
template <int whole>
static __device__ __forceinline__ void rmsnorm_backward_load(float x_hat[PACK], float dy[PACK], float d[PACK],
                                                             const floatX* dout, const float* x, const float* w,
                                                             float s, size_t at, unsigned i, unsigned width) {
    float scale[PACK];
#pragma unroll
    for (int j = 0; j < PACK; j++) { x_hat[j] = 0, dy[j] = 0, scale[j] = 0; }
    if (i < width) {
        load_pack_of(x_hat, x + at, i, width, whole, 0.0f);
        load_pack_of(dy, dout + at, i, width, whole, 0.0f);
        load_pack_of(scale, w, i, width, whole, 0.0f);
    }
#pragma unroll
    for (int j = 0; j < PACK; j++) { x_hat[j] *= s, d[j] = dy[j] * scale[j]; }
}

// See rmsnorm_backward_cuda. A block takes a chunk of rows, blockDim.y of them at a time, each thread the same
// columns of every row, whose sums it keeps in registers. wide: the row is longer than a block holds; it is then taken
// in sections, read twice, and the sums live in `partial`.
// partial (chunks, C) =
template <int wide, int whole>
static __global__ void __launch_bounds__(NORM_THREADS, whole)
    rmsnorm_backward_kernel(float* dx, floatX* __restrict__ dxb, float* __restrict__ partial,
                            const floatX* __restrict__ dout, const float* x, const float* __restrict__ w,
                            const float* __restrict__ rstd, size_t N, unsigned C, size_t rows, int accumulate) {
    SHARED(float, slots, 2 * NORM_WARPS);
    SHARED(float, fold, NORM_SHARED_WARPS* WARP* NORM_COLUMNS);
    const unsigned own = threadIdx.x * PACK, step = blockDim.x * PACK, section = NORM_HOLD * step;
    const unsigned reach = wide ? C : 1;  // one section, unless wide
    const size_t begin = blockIdx.x * rows, end = begin + rows < N ? begin + rows : N;
    float* const out = partial + (size_t)blockIdx.x * C;
    float column[NORM_HOLD][PACK];
#pragma unroll
    for (int k = 0; k < NORM_HOLD; k++) {
#pragma unroll
        for (int j = 0; j < PACK; j++) { column[k][j] = 0; }
    }

    unsigned turn = 0;
    for (size_t row = begin; row < end; row += blockDim.y, turn++) {
        const size_t n = row + threadIdx.y, at = n * C;
        const unsigned width = n < end ? C : 0;
        const float s = n < end ? rstd[n] : 0.0f;
        float x_hat[NORM_HOLD][PACK], dy[NORM_HOLD][PACK], d[NORM_HOLD][PACK];
        float y[NORM_HOLD][PACK];  // dx
        float total[1] = {0};      // of d * x_hat
        for (unsigned first = 0; first < reach; first += section) {
#pragma unroll
            for (int k = 0; k < NORM_HOLD; k++) {
                const unsigned i = first + k * step + own;
#pragma unroll
                for (int j = 0; j < PACK; j++) { y[k][j] = 0; }
                if (!wide && accumulate && i < width) { load_pack_of(y[k], dx + at, i, C, whole, 0.0f); }
                rmsnorm_backward_load<whole>(x_hat[k], dy[k], d[k], dout, x, w, s, at, i, width);
#pragma unroll
                for (int j = 0; j < PACK; j++) { total[0] = fmaf(d[k][j], x_hat[k][j], total[0]); }
            }
        }
        // Two sets of slots in turn: a slow warp may still read one while a fast one writes the other.
        norm_totals<1>(total, slots + turn % 2 * NORM_WARPS);
        const float mean_dot = total[0] / (float)C;

        for (unsigned first = 0; first < reach; first += section) {
#pragma unroll
            for (int k = 0; k < NORM_HOLD; k++) {
                const unsigned i = first + k * step + own;
                if (i >= width) { continue; }
                float* const sum = column[k];
                if (wide) {
                    rmsnorm_backward_load<whole>(x_hat[k], dy[k], d[k], dout, x, w, s, at, i, width);
#pragma unroll
                    for (int j = 0; j < PACK; j++) { y[k][j] = 0, sum[j] = 0; }
                    if (accumulate) { load_pack_of(y[k], dx + at, i, C, whole, 0.0f); }
                    if (row > begin) { load_pack_of(sum, out, i, C, whole, 0.0f); }
                }
#pragma unroll
                for (int j = 0; j < PACK; j++) {
                    y[k][j] += s * (d[k][j] - x_hat[k][j] * mean_dot);
                    sum[j] = fmaf(dy[k][j], x_hat[k][j], sum[j]);
                }
                store_pack_of(dx + at, y[k], i, C, whole);
                if (dxb) { store_pack_of(dxb + at, y[k], i, C, whole); }
                if (wide) { store_pack_of(out, sum, i, C, whole); }
            }
        }
    }
    // The block's row groups, one after the other. A wide row has one group, and is where it belongs.
#pragma unroll
    for (int k = 0; k < (wide ? 0 : NORM_HOLD); k++) {
        const unsigned i = k * step + own;
        if (blockDim.y > 1) {
            store_pack(fold + threadIdx.y * section + i, column[k]);
        } else if (i < C) {
            store_pack_of(out, column[k], i, C, whole);
        }
    }
    if (!wide && blockDim.y > 1) {
        __syncthreads();
        for (unsigned i = threadIdx.y * blockDim.x + threadIdx.x; i < C; i += blockDim.x * blockDim.y) {
            float sum = fold[i];
            for (unsigned group = 1; group < blockDim.y; group++) { sum += fold[group * section + i]; }
            out[i] = sum;
        }
    }
}

// Floats that rmsnorm_backward_cuda needs as scratch, for N rows and for fewer: fewer can mean more chunks.
static inline size_t rmsnorm_backward_scratch(size_t N, size_t C) { return min_size(div_up(N, 32), 512) * C; }

// The mirror of rmsnorm_forward_cuda: dx is the gradient of x_out, to which the norm adds its own; it is also the
// gradient of x and a. With x_hat = x * rstd, d = dout w:
//
//     dx (N,C) += rstd * (d - x_hat * mean(d * x_hat))     "=" if accumulate is 0
//     dxb (N,C) = dx after that, rounded: what the next products read
//     dw (C) += column sums of dout * x_hat; sums over passes and micro-batches
//
// x here is the forward's x_out (N,C). dxb may be NULL. With accumulate = 0, dx may be x. scratch:
// rmsnorm_backward_scratch(N, C). Per number at least: x 4, dx 4, dout 2 in; dx 4, dxb 2 out: 16 bytes in bf16.
static inline void rmsnorm_backward_cuda(float* dx, floatX* dxb, float* dw, float* scratch, const floatX* dout,
                                         const float* x, const float* w, const float* rstd, size_t N, size_t C,
                                         int accumulate) {
    int whole = rows_whole(C, address_bits(dx) | address_bits(dxb) | address_bits(scratch) | address_bits(dout) |
                                  address_bits(x) | address_bits(w));
    size_t rows = norm_backward_rows(N), chunks = div_up(N, rows);
    unsigned warps = (unsigned)div_up(C, WARP * NORM_COLUMNS);
    int wide = warps > NORM_WARPS;
    if (wide) { warps = NORM_WARPS; }
    const dim3 grid((unsigned)chunks), block(warps * WARP, warps < NORM_SHARED_WARPS ? NORM_SHARED_WARPS / warps : 1);
    states((double)N * (double)C * 10,
           (double)N * (double)C * (4.0 * (accumulate ? 3 : 2) + (double)sizeof(floatX) * (dxb ? 2 : 1)) +
               4.0 * (double)N + 4.0 * (double)C * (1.0 + (double)chunks));
#define RMSNORM_BACKWARD(wide, whole)                                                                                 \
    launch((rmsnorm_backward_kernel<wide, whole>), grid, block, 0, device.stream, dx, dxb, scratch, dout, x, w, rstd, \
           N, (unsigned)C, rows, accumulate)
    if (whole && !wide) { RMSNORM_BACKWARD(0, 1); }
    if (whole && wide) { RMSNORM_BACKWARD(1, 1); }
    if (!whole && !wide) { RMSNORM_BACKWARD(0, 0); }
    if (!whole && wide) { RMSNORM_BACKWARD(1, 0); }
#undef RMSNORM_BACKWARD
    ColumnTargets targets = {{dw, NULL, NULL, NULL, NULL}, NULL};
    column_finish_cuda(targets, scratch, chunks, 1, C);
}

#endif
