// few.cuh - products of few rows on the GPU: those of tokens as they are decoded, a row for each sequence.
//
//     out (M,N) = alpha * A (M,K) op(B) (K,N) + beta * from (M,N) + bias (N)     M <= FEW_ROWS, all row-major
//
// All of B is read for a few rows of A, so such a product takes as long as reading B once: what counts is how many
// bytes are on their way at any time. Each lane asks for several packs of 16 bytes of B before it uses the first,
// straight into registers; about 16 KB a processor keep an H100's memory busy.
//
// Sums are fp32 in an order that follows from K alone: a row of the result has the same bits in a product of one
// row and of sixteen, with its neighbours whatever they are, at any address, and on any GPU of one kind of tensor
// core. No atomics.
//
//   [1] shared parts    [2] B (N,K), sums along its rows    [3] B (K,N), sums down its columns    [4] which of them
#ifndef PONDER_FEW_CUH
#define PONDER_FEW_CUH

#include "layers.cuh"

// ------------------------------------------------------------------------------------------------
// [1] Shared parts

enum { FEW_ROWS = 16, FEW_MOST_K = 1 << 30, FEW_MOST_FLIGHT = 8, FEW_WARPS = 8, FEW_THREADS = FEW_WARPS * WARP };

// Where the sums go, and what is done to them: see few_cuda.
typedef struct {
    void* to;            // (M,N; ld), float if to_float, else floatX
    const void* from;    // the same; not read where beta = 0
    const floatX* bias;  // (N) or NULL
    size_t ld, M, N;
    float alpha, beta;
    int to_float;
    floatX* act;         // (M,N; ld) = GELU(out + shift), of out as it is stored; NULL: not wanted
    const float* shift;  // (N)
    int tanh_form;
} FewOut;

// The only place where a sum is scaled, added to and rounded. Written out, so that no compiler may fuse it in
// another way elsewhere.
static __device__ __forceinline__ void few_write(const FewOut& out, size_t m, size_t n, float sum) {
    const size_t at = m * out.ld + n;
    float x = __fmul_rn(out.alpha, sum);
    if (out.beta != 0) {
        x = fmaf(out.beta, out.to_float ? ((const float*)out.from)[at] : to_float(((const floatX*)out.from)[at]), x);
    }
    if (out.bias) { x = __fadd_rn(x, to_float(out.bias[n])); }
    if (out.to_float) {
        store((float*)out.to + at, x);
    } else {
        store((floatX*)out.to + at, x);
    }
    if (out.act) {
        x = rounded(x) + out.shift[n];
        store(out.act + at, out.tanh_form ? gelu_value<GELU_TANH>(x) : gelu_value<GELU_ERF>(x));
    }
}

// A pack as it lies in memory: in flight it takes 4 registers, its floats in bf16 would take 8.
typedef uint4 FewPack;

// The pack at an address where so many numbers are left of a row; what lies past them is 0. WHOLE: packs are
// complete and aligned (as for load_pack_of); else the same numbers come one by one.
template <int WHOLE> static __device__ __forceinline__ FewPack few_pack(const floatX* at, int left) {
    FewPack pack = make_uint4(0, 0, 0, 0);
    if constexpr (WHOLE) {
        if (left > 0) { pack = *(const FewPack*)at; }
    } else {
        floatX x[PACK];
#pragma unroll
        for (int k = 0; k < PACK; k++) {
            store(x + k, 0.0f);
            if (k < left) { x[k] = at[k]; }
        }
        memcpy(&pack, x, sizeof pack);
    }
    return pack;
}
// COUNT packs that lie `apart` from each other, the first `count` of which exist, each with `less` numbers left
// than the one before. All are asked for before any has come, which a branch between two of them would prevent.
template <int COUNT>
static __device__ __forceinline__ void few_packs(FewPack pack[COUNT], const floatX* at, size_t apart, int left,
                                                 int less, int count, int whole) {
    if (whole) {
#pragma unroll
        for (int u = 0; u < COUNT; u++) {
            pack[u] = few_pack<1>(at + (size_t)u * apart, u < count ? left - u * less : 0);
        }
    } else {
#pragma unroll
        for (int u = 0; u < COUNT; u++) {
            pack[u] = few_pack<0>(at + (size_t)u * apart, u < count ? left - u * less : 0);
        }
    }
}
static __device__ __forceinline__ void few_floats(float x[PACK], FewPack pack) {
    floatX number[PACK];
    memcpy(number, &pack, sizeof pack);
#pragma unroll
    for (int k = 0; k < PACK; k++) { x[k] = to_float(number[k]); }
}

// ------------------------------------------------------------------------------------------------
// [2] B (N,K): a sum runs along a row of A and a row of B
//
// Lane l = 4 g + t of a warp (ptx.cuh) has the pack t of four neighbouring ones of row g of B: a step of 4 packs of
// K. The warps of a block take turns with the steps, and their sums are added in the order of warps.

enum {
    FEW_STEP = 4 * PACK,              // numbers of K
    FEW_TURN = FEW_WARPS * FEW_STEP,  // from a step of a warp to its next one
    FEW_TILE = 8                      // rows of B that a warp has side by side
};

// sums (FEW_WARPS, ROWS, COLUMNS), shared: those of each warp, for the columns of out from n0 on. All threads must
// come.
template <int ROWS, int COLUMNS>
static __device__ __forceinline__ void few_add_warps(const FewOut& out, const float* sums, size_t n0) {
    __syncthreads();
    for (int i = (int)threadIdx.x; i < ROWS * COLUMNS; i += FEW_THREADS) {
        const size_t m = (size_t)(i / COLUMNS), n = n0 + (size_t)(i % COLUMNS);
        if (m >= out.M || n >= out.N) { continue; }
        float sum = sums[i];
#pragma unroll
        for (int warp = 1; warp < FEW_WARPS; warp++) { sum += sums[warp * ROWS * COLUMNS + i]; }
        few_write(out, m, n, sum);
    }
}

#ifdef FP32

// ROWS: M or the next power of two. 4 bytes of B for 2 M FLOPs.
template <int ROWS>
static __global__ void __launch_bounds__(FEW_THREADS, ROWS > 8 ? 1 : 2)
    few_rows_kernel(FewOut out, const floatX* __restrict__ A, size_t lda, const floatX* __restrict__ B, size_t ldb,
                    int K, int whole) {
    enum { FLIGHT = ROWS >= 8 ? 2 : ROWS == 4 ? 4 : FEW_MOST_FLIGHT };  // more, and registers are spilled
    SHARED(float, sums, FEW_WARPS* ROWS* FEW_TILE);
    const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, t = lane % 4;
    const size_t n0 = (size_t)blockIdx.x * FEW_TILE;
    const int there = n0 + g < out.N ? K : 0;
    const floatX* row = B + (n0 + g) * ldb;
    float sum[ROWS];
#pragma unroll
    for (int m = 0; m < ROWS; m++) { sum[m] = 0; }
    // As many steps in all classes: those of zeros past K might make a 0 of a -0.
    const int end = (K + FEW_MOST_FLIGHT * FEW_TURN - 1) / (FEW_MOST_FLIGHT * FEW_TURN) * (FEW_MOST_FLIGHT * FEW_TURN);
    for (int k = (int)(warp * FEW_STEP + t * PACK); k < end; k += FLIGHT * FEW_TURN) {
        FewPack w[FLIGHT];
        few_packs<FLIGHT>(w, row + k, FEW_TURN, there - k, FEW_TURN, FLIGHT, whole);
#pragma unroll
        for (int m = 0; m < ROWS; m++) {
            FewPack a[FLIGHT];
            few_packs<FLIGHT>(a, A + (size_t)m * lda + k, FEW_TURN, ((size_t)m < out.M ? K : 0) - k, FEW_TURN, FLIGHT,
                              whole);
#pragma unroll
            for (int u = 0; u < FLIGHT; u++) {
                float x[PACK], y[PACK];
                few_floats(x, w[u]);
                few_floats(y, a[u]);
#pragma unroll
                for (int j = 0; j < PACK; j++) { sum[m] = fmaf(y[j], x[j], sum[m]); }
            }
        }
    }
#pragma unroll
    for (int m = 0; m < ROWS; m++) {
        sum[m] += __shfl_xor_sync(0xffffffffu, sum[m], 1);
        sum[m] += __shfl_xor_sync(0xffffffffu, sum[m], 2);
        if (t == 0) { sums[(warp * ROWS + (unsigned)m) * FEW_TILE + g] = sum[m]; }
    }
    few_add_warps<ROWS, FEW_TILE>(out, sums, n0);
}

static inline void few_rows_cuda(FewOut out, const floatX* A, size_t lda, const floatX* B, size_t ldb, int K,
                                 int whole) {
    auto few_rows = few_rows_kernel<16>;
    if (out.M <= 8) { few_rows = few_rows_kernel<8>; }
    if (out.M <= 4) { few_rows = few_rows_kernel<4>; }
    if (out.M <= 2) { few_rows = few_rows_kernel<2>; }
    if (out.M <= 1) { few_rows = few_rows_kernel<1>; }
    launch(few_rows, dim3((unsigned)div_up(out.N, FEW_TILE)), dim3(FEW_THREADS), 0, device.stream, out, A, lda, B, ldb,
           K, whole);
}

#else  // bf16

// ROWS 8 or 16, TILES of 8 rows of B a block. One mma takes 16 numbers of K, in any order that its operands share:
// here a lane's eight neighbours are its four of a first mma and its four of a second one, in A as in B, so that
// nothing is shuffled or staged. What a has beyond M is 0. 2 bytes of B for 2 M FLOPs; those of A come from the L2
// cache, for each block again: hence more tiles where there are rows of B enough.
template <int ROWS, int TILES>
static __global__ void __launch_bounds__(FEW_THREADS, 2)
    few_rows_kernel(FewOut out, const floatX* __restrict__ A, size_t lda, const floatX* __restrict__ B, size_t ldb,
                    int K, int whole) {
    enum {
        HALVES = ROWS / 8,
        FLIGHT = TILES == 1 && HALVES == 1 ? FEW_MOST_FLIGHT
                 : TILES == 4              ? 2
                                           : 4,
        COLUMNS = TILES * FEW_TILE
    };
    SHARED(float, sums, FEW_WARPS* ROWS* COLUMNS);
    const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, t = lane % 4;
    const size_t n0 = (size_t)blockIdx.x * COLUMNS;
    float d[TILES][4];
#pragma unroll
    for (int i = 0; i < TILES; i++) { d[i][0] = d[i][1] = d[i][2] = d[i][3] = 0; }
    // All lanes of a warp turn equally often, as mma wants it, and all classes of ROWS and TILES, so that steps of zeros
    // past K, if they were to change a bit, change it in each.
    const int end = (K + FEW_MOST_FLIGHT * FEW_TURN - 1) / (FEW_MOST_FLIGHT * FEW_TURN) * (FEW_MOST_FLIGHT * FEW_TURN);
    for (int turn = 0; turn < end; turn += FLIGHT * FEW_TURN) {
        const int k = turn + (int)(warp * FEW_STEP + t * PACK);
        FewPack w[TILES][FLIGHT], a[HALVES][FLIGHT];
#pragma unroll
        for (int i = 0; i < TILES; i++) {
            const size_t n = n0 + (size_t)i * FEW_TILE + g;
            few_packs<FLIGHT>(w[i], B + n * ldb + k, FEW_TURN, (n < out.N ? K : 0) - k, FEW_TURN, FLIGHT, whole);
        }
#pragma unroll
        for (int h = 0; h < HALVES; h++) {
            const size_t m = g + (size_t)h * 8;
            few_packs<FLIGHT>(a[h], A + m * lda + k, FEW_TURN, (m < out.M ? K : 0) - k, FEW_TURN, FLIGHT, whole);
        }
#pragma unroll
        for (int u = 0; u < FLIGHT; u++) {
            const FewPack low = a[0][u], high = HALVES == 2 ? a[HALVES - 1][u] : make_uint4(0, 0, 0, 0);
            const uint32_t a0[4] = {low.x, high.x, low.y, high.y}, a1[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
            for (int i = 0; i < TILES; i++) {
                const uint32_t b0[2] = {w[i][u].x, w[i][u].y}, b1[2] = {w[i][u].z, w[i][u].w};
                mma_bf16(d[i], a0, b0);
                mma_bf16(d[i], a1, b1);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < TILES; i++) {
#pragma unroll
        for (int h = 0; h < HALVES; h++) {
            float* to = sums + (warp * ROWS + g + (unsigned)h * 8) * COLUMNS + (unsigned)i * FEW_TILE + 2 * t;
            to[0] = d[i][2 * h], to[1] = d[i][2 * h + 1];
        }
    }
    few_add_warps<ROWS, COLUMNS>(out, sums, n0);
}

static inline void few_rows_cuda(FewOut out, const floatX* A, size_t lda, const floatX* B, size_t ldb, int K,
                                 int whole) {
    // The most tiles that leave each processor a block: they change no bits.
    size_t tiles = 4;
    while (tiles > 1 && div_up(out.N, tiles * FEW_TILE) < (size_t)device.processors) { tiles /= 2; }
    auto few_rows = few_rows_kernel<8, 1>;
    if (out.M <= 8) {
        if (tiles == 2) { few_rows = few_rows_kernel<8, 2>; }
        if (tiles == 4) { few_rows = few_rows_kernel<8, 4>; }
    } else {
        few_rows = tiles == 1 ? few_rows_kernel<16, 1> : tiles == 2 ? few_rows_kernel<16, 2> : few_rows_kernel<16, 4>;
    }
    launch(few_rows, dim3((unsigned)div_up(out.N, tiles * FEW_TILE)), dim3(FEW_THREADS), 0, device.stream, out, A, lda,
           B, ldb, K, whole);
}

#endif

// ------------------------------------------------------------------------------------------------
// [3] B (K,N): a sum runs along a row of A and down a column of B
//
// A lane has a pack of neighbouring columns, a warp 32 packs, and the warps of a block take turns with the rows of
// B. So few columns (2,048 are 8 blocks) would leave most processors idle: K is cut into slices, each for a block
// of its own, and a second kernel adds what these leave in device.workspace. Slices follow from K alone, as the
// bits do.

enum {
    FEW_COLUMNS = WARP * PACK,  // of a block
    FEW_SLICES = 64,            // at most: their sums are written and read, and must stay a small part of B
    FEW_SLICE_ROWS = FEW_MOST_FLIGHT * FEW_WARPS,      // a slice has a multiple of it
    FEW_PART = 4 * FEW_SLICE_ROWS,                     // rows of B for which A is in shared memory at once
    FEW_SCRATCH = FEW_PART * FEW_ROWS,                 // floats of shared memory: first A, then the warps' sums
    FEW_FOLD = FEW_SCRATCH / FEW_WARPS / FEW_COLUMNS,  // rows of out whose sums it holds
    FEW_GROUPS = 8
};
static_assert(FEW_FOLD >= 1, "the warps' sums of a row fit");

static inline int few_slice(int K) { return (int)round_up(max_size(div_up((size_t)K, FEW_SLICES), 1), FEW_SLICE_ROWS); }

static inline size_t few_slices(size_t K) { return max_size(div_up(K, (size_t)few_slice((int)K)), 1); }

static __device__ __forceinline__ int few_staged_rows(int rows) {
    return (rows + FEW_SLICE_ROWS - 1) / FEW_SLICE_ROWS * FEW_SLICE_ROWS;
}
// scratch (few_staged_rows, ROWS) = the first `rows` columns of A, transposed; 0 beyond them and beyond M. All threads
// must come.
template <int ROWS>
static __device__ __forceinline__ void few_stage(float* scratch, const floatX* __restrict__ A, size_t lda, size_t M,
                                                 int rows) {
    const int all = few_staged_rows(rows), r = (int)threadIdx.x;
    __syncthreads();  // what was there has been used
#pragma unroll
    for (int m = 0; m < ROWS; m++) {
        if (r < all) { scratch[r * ROWS + m] = r < rows && (size_t)m < M ? to_float(A[(size_t)m * lda + r]) : 0.0f; }
    }
    __syncthreads();
}
static_assert((int)FEW_PART <= (int)FEW_THREADS, "few_stage has a thread for each row");

// a (ROWS) = a row of scratch.
template <int ROWS> static __device__ __forceinline__ void few_staged(float a[ROWS], const float* row) {
    if constexpr (ROWS % 4 == 0) {
#pragma unroll
        for (int m = 0; m < ROWS; m += 4) {
            const float4 four = *(const float4*)(row + m);
            a[m] = four.x, a[m + 1] = four.y, a[m + 2] = four.z, a[m + 3] = four.w;
        }
    } else {
#pragma unroll
        for (int m = 0; m < ROWS; m++) { a[m] = row[m]; }
    }
}

// partial (slices, M, N), or NULL where there is one slice. ROWS: M or the next power of two. 2 or 4 bytes of B for
// 2 M FLOPs.
template <int ROWS>
static __global__ void __launch_bounds__(FEW_THREADS, ROWS > 8 ? 1 : 2)
    few_columns_kernel(FewOut out, float* __restrict__ partial, const floatX* __restrict__ A, size_t lda,
                       const floatX* __restrict__ B, size_t ldb, int K, int slice, int whole) {
    enum { FLIGHT = ROWS >= 8 ? 4 : FEW_MOST_FLIGHT };  // sums take the registers
    SHARED(float, scratch, FEW_SCRATCH);
    const int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
    const size_t n0 = (size_t)blockIdx.x * FEW_COLUMNS, n = n0 + (size_t)(lane * PACK);
    const int left = n < out.N ? (int)min(out.N - n, (size_t)PACK) : 0;
    const int begin = (int)blockIdx.y * slice, end = min(begin + slice, K);
    float sum[ROWS][PACK];
#pragma unroll
    for (int m = 0; m < ROWS; m++) {
#pragma unroll
        for (int j = 0; j < PACK; j++) { sum[m][j] = 0; }
    }
    for (int part = begin; part < end; part += FEW_PART) {
        const int rows = min(end - part, (int)FEW_PART);
        few_stage<ROWS>(scratch, A + part, lda, out.M, rows);
        // As far as A is in shared memory, in all classes of ROWS.
        for (int r = warp; r < few_staged_rows(rows); r += FLIGHT * FEW_WARPS) {
            FewPack w[FLIGHT];
            const int count = (rows - r + FEW_WARPS - 1) / FEW_WARPS;
            few_packs<FLIGHT>(w, B + (size_t)(part + r) * ldb + n, FEW_WARPS * ldb, left, 0, count, whole);
#pragma unroll
            for (int u = 0; u < FLIGHT; u++) {
                float x[PACK], a[ROWS];
                few_floats(x, w[u]);
                few_staged<ROWS>(a, scratch + (r + u * FEW_WARPS) * ROWS);
#pragma unroll
                for (int m = 0; m < ROWS; m++) {
#pragma unroll
                    for (int j = 0; j < PACK; j++) { sum[m][j] = fmaf(a[m], x[j], sum[m][j]); }
                }
            }
        }
    }
    // The warps' sums in their order, FEW_FOLD rows of out at a time.
#pragma unroll
    for (int m0 = 0; m0 < ROWS; m0 += FEW_FOLD) {
        __syncthreads();
#pragma unroll
        for (int f = 0; f < FEW_FOLD && m0 + f < ROWS; f++) {
            store_pack(scratch + (warp * FEW_FOLD + f) * FEW_COLUMNS + lane * PACK, sum[m0 + f]);
        }
        __syncthreads();
        for (int i = (int)threadIdx.x; i < FEW_FOLD * FEW_COLUMNS; i += FEW_THREADS) {
            const size_t m = (size_t)(m0 + i / FEW_COLUMNS), column = n0 + (size_t)(i % FEW_COLUMNS);
            if (m >= out.M || column >= out.N) { continue; }
            float total = scratch[i];
#pragma unroll
            for (int w = 1; w < FEW_WARPS; w++) { total += scratch[w * FEW_FOLD * FEW_COLUMNS + i]; }
            if (partial) {
                partial[(blockIdx.y * out.M + m) * out.N + column] = total;
            } else {
                few_write(out, m, column, total);
            }
        }
    }
}

// out = the sums over the slices of partial (slices, M, N): each of 8 groups of threads every eighth slice, then the
// groups in their order.
static __global__ void __launch_bounds__(WARP* FEW_GROUPS)
    few_finish_kernel(FewOut out, const float* __restrict__ partial, unsigned slices) {
    SHARED(float, group_sum, WARP* FEW_GROUPS);
    const size_t n = (size_t)blockIdx.x * WARP + threadIdx.x, m = blockIdx.y;
    float sum = 0;
    if (n < out.N) {
#pragma unroll 8
        for (unsigned s = threadIdx.y; s < slices; s += FEW_GROUPS) { sum += partial[(s * out.M + m) * out.N + n]; }
    }
    group_sum[threadIdx.y * WARP + threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && n < out.N) {
#pragma unroll
        for (int group = 1; group < FEW_GROUPS; group++) { sum += group_sum[group * WARP + threadIdx.x]; }
        few_write(out, m, n, sum);
    }
}

static size_t few_workspace = MATMUL_WORKSPACE;  // bytes of device.workspace that may be used; less in tests

// The columns of out from n on, `count` of them.
static inline FewOut few_columns_of(FewOut out, size_t n, size_t count) {
    const size_t bytes = n * (out.to_float ? sizeof(float) : sizeof(floatX));
    out.to = (char*)out.to + bytes;
    if (out.from) { out.from = (const char*)out.from + bytes; }
    if (out.bias) { out.bias += n; }
    if (out.act) { out.act += n, out.shift += n; }
    out.N = count;
    return out;
}

static inline void few_columns_cuda(FewOut out, const floatX* A, size_t lda, const floatX* B, size_t ldb, int K,
                                    int whole) {
    auto few_columns = few_columns_kernel<16>;
    if (out.M <= 8) { few_columns = few_columns_kernel<8>; }
    if (out.M <= 4) { few_columns = few_columns_kernel<4>; }
    if (out.M <= 2) { few_columns = few_columns_kernel<2>; }
    if (out.M <= 1) { few_columns = few_columns_kernel<1>; }
    const int slice = few_slice(K);
    const size_t slices = few_slices((size_t)K);
    // Where the slices' sums of all columns are too many for the workspace, some columns after the other: fewer
    // slices would be other bits. The largest have room for 8,192 columns.
    const size_t room = few_workspace / (slices * out.M * sizeof(float)) / FEW_COLUMNS * FEW_COLUMNS;
    const size_t most = slices == 1 ? out.N : max_size(room, FEW_COLUMNS);
    float* partial = slices == 1 ? NULL : (float*)device.workspace;
    for (size_t n = 0; n < out.N; n += most) {
        const FewOut some = few_columns_of(out, n, min_size(most, out.N - n));
        launch(few_columns, dim3((unsigned)div_up(some.N, FEW_COLUMNS), (unsigned)slices), dim3(FEW_THREADS), 0,
               device.stream, some, partial, A, lda, B + n, ldb, K, slice, whole);
        if (!partial) { continue; }
        launch(few_finish_kernel, dim3((unsigned)div_up(some.N, WARP), (unsigned)some.M), dim3(WARP, FEW_GROUPS), 0,
               device.stream, some, partial, (unsigned)slices);
    }
}

// ------------------------------------------------------------------------------------------------
// [4] Which of them

// Kernels of a product, but for columns in turns, which only a small workspace asks for.
static inline int few_kernels(int trans_b, size_t K) { return !trans_b && few_slices(K) > 1 ? 2 : 1; }

// What few_cuda() and few_gelu_cuda() share.
static inline void few_product(FewOut to, int trans_b, size_t K, const floatX* A, size_t lda, const floatX* B,
                               size_t ldb) {
    if (to.M > FEW_ROWS || K > FEW_MOST_K) {
        die("a product of few rows has %zu of %zu numbers, expected at most %d of at most %d", to.M, K, FEW_ROWS,
            FEW_MOST_K);
    }
    const uintptr_t addresses = (uintptr_t)B | (trans_b ? (uintptr_t)A : 0);
    const size_t lengths = ldb | (trans_b ? K | lda : to.N);
    const int whole = addresses % 16 == 0 && lengths % PACK == 0;
    const int booking = ledger.booking;
    ledger.booking = 0;
    if (trans_b) {
        few_rows_cuda(to, A, lda, B, ldb, (int)K, whole);
    } else {
        few_columns_cuda(to, A, lda, B, ldb, (int)K, whole);
    }
    ledger.booking = booking;
}

// out (M,N; ldo) = alpha * A (M,K; lda) op(B) + beta * from (M,N; ldo) + bias (N, or NULL); op(B) is B (K,N; ldb),
// or with trans_b the transpose of B (N,K; ldb). M <= FEW_ROWS. out and from are float if out_float, else floatX;
// from = NULL: out itself; not read where beta = 0. The caller has booked the product, whose kernels are
// few_kernels().
static inline void few_cuda(int trans_b, size_t M, size_t N, size_t K, float alpha, const floatX* A, size_t lda,
                            const floatX* B, size_t ldb, float beta, void* out, int out_float, size_t ldo,
                            const void* from, const floatX* bias) {
    const FewOut to = {out, from ? from : out, bias, ldo, M, N, alpha, beta, out_float, NULL, NULL, 0};
    few_product(to, trans_b, K, A, lda, B, ldb);
}

// out (M,N) = A (M,K) op(B), act (M,N) = GELU(out + bias): of a layer. bias (N) is fp32, as gelu_forward_cuda() has it, and
// the bits are its.
static inline void few_gelu_cuda(floatX* act, floatX* out, const floatX* A, const floatX* B, const float* bias,
                                 int trans_b, size_t M, size_t N, size_t K, int tanh_form) {
    const FewOut to = {out, out, NULL, N, M, N, 1, 0, 0, act, bias, tanh_form};
    few_product(to, trans_b, K, A, K, B, trans_b ? K : N);
}

#endif
