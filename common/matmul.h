// matmul.h - matrix products on the CPU, and linear layers forward and backward.
#ifndef PONDER_MATMUL_H
#define PONDER_MATMUL_H

#include "gemm_bf16.h"
#include "gemm_few.h"
#include "tensors.h"

// C (M,N) = or += alpha * op(A) (M,K) op(B) (K,N) + bias (N), row-major; bias may be NULL, and is
// added to every row. transA: A is stored (K,M); transB: B is stored (N,K). lda, ldb, ldc: from one
// row in memory to the next. C must not overlap A, B or bias. number_a, number_b: what the operands are made of, where
// NUMBER_FP32 means real. kernel: what computes it, &matmul_fp32 or one for products in bf16 (gemm_bf16.h); with the first the
// result is that of the operands' values in fp32, to the bit. In a double build, whose numbers are all real, it is the plain loop.
static inline void gemm_any(const MatmulKernel* kernel, int transA, int transB, size_t M, size_t N, size_t K,
                            real alpha, const void* A, Number number_a, size_t lda, const void* B, Number number_b,
                            size_t ldb, int accumulate, real* C, size_t ldc, const real* bias) {
    const MatmulSums order = PRODUCTS_BF16 ? kernel->sums : SUMS_FP32;
    if (sizeof(real) != sizeof(float)) {
        gemm_reference(transA, transB, M, N, K, alpha, (const real*)A, lda, (const real*)B, ldb, accumulate, C, ldc,
                       bias);
    } else if (!transA && M > 0 && M <= MATMUL_FEW && (order || number_a == NUMBER_FP32)) {
        const float* a = order ? few_places(order, A, number_a, M, K, lda) : (const float*)A;
        FewRows few = {order,
                       M,
                       N,
                       K,
                       order ? matmul_length(K, order) : lda,
                       ldb,
                       ldc,
                       (float)alpha,
                       a,
                       (const float*)bias,
                       B,
                       accumulate,
                       (float*)C};
        gemm_few(&few, transB, number_b);
    } else {
        gemm_packed(kernel, transA, transB, M, N, K, (float)alpha, A, number_a, lda, B, number_b, ldb, accumulate,
                    (float*)C, ldc, (const float*)bias);
    }
}
static inline void gemm(int transA, int transB, size_t M, size_t N, size_t K, real alpha, const real* A, size_t lda,
                        const real* B, size_t ldb, int accumulate, real* C, size_t ldc, const real* bias) {
    gemm_any(&matmul_fp32, transA, transB, M, N, K, alpha, A, NUMBER_FP32, lda, B, NUMBER_FP32, ldb, accumulate, C, ldc,
             bias);
}

// The products of layers are in bf16 where a program stores bf16, and where it is a naive one that rounds.
static inline int products_bf16(void) { return PRODUCTS_BF16 && (KEPT_ROUNDS || stored_as_bf16); }
static inline const MatmulKernel* products_kernel(void) {
    return PRODUCTS_BF16 && products_bf16() ? bf16_kernel() : &matmul_fp32;
}
static const Number kept_number = KEPT_ROUNDS ? NUMBER_BF16 : NUMBER_FP32;

// The products of layers, into what stays fp32: of two things that layers store, or of one and all numbers of a weight W
// (K,N), or (N,K) if transW.
static inline void gemm_kept(int transA, int transB, size_t M, size_t N, size_t K, real alpha, const kept* A,
                             size_t lda, const kept* B, size_t ldb, int accumulate, real* C, size_t ldc) {
    gemm_any(products_kernel(), transA, transB, M, N, K, alpha, A, kept_number, lda, B, kept_number, ldb, accumulate, C,
             ldc, NULL);
}
static inline void gemm_weight(int transW, size_t M, size_t N, size_t K, real alpha, const kept* A, size_t lda,
                               Weight W, int accumulate, real* C, size_t ldc, const real* bias) {
    size_t line = transW ? K : N;
    if (sizeof(real) == sizeof(float) && W.half) {
        gemm_any(products_kernel(), 0, transW, M, N, K, alpha, A, kept_number, lda, W.half, NUMBER_BF16, line,
                 accumulate, C, ldc, bias);
    } else if (!W.half) {  // masters
        gemm_any(products_kernel(), 0, transW, M, N, K, alpha, A, kept_number, lda, W.w,
                 products_bf16() ? NUMBER_ROUNDED : NUMBER_FP32, line, accumulate, C, ldc, bias);
    } else {
        real* wide = (real*)xalloc(mul_size(N, K, "a weight"), sizeof(real), "a weight in double");
        for (size_t i = 0; i < N * K; i++) { wide[i] = weight_number(W, i); }
        gemm(0, transW, M, N, K, alpha, (const real*)A, lda, wide, line, accumulate, C, ldc, bias);
        free(wide);
    }
}

// Where a product is rounded when it is done: memory for its (M,N) sums, which grows when more are asked for, else it stays;
// *ld: from one row to the next, an odd number of cache lines. With rows 4 KB apart, or 8, the rows of a tile would have
// a few places in the L1 cache between them, and storing a tile of 32 x 32 would take three to six times as long.
static inline real* product_sums(size_t M, size_t N, size_t* ld) {
    enum { LINE = ALIGNMENT / sizeof(real) };
    static real* memory;
    static size_t room;
    *ld = (div_up(N, LINE) | 1) * LINE;
    if (mul_size(M, *ld, "a product") > room) {
        room = M * *ld;
        free(memory);
        memory = (real*)xalloc(room, sizeof(real), "a product");
    }
    return memory;
}

// gemm_weight() into what a layer stores: C (M,N) =, rounded once.
static inline void gemm_stored(int transW, size_t M, size_t N, size_t K, real alpha, const kept* A, size_t lda,
                               Weight W, kept* C, const real* bias) {
    size_t ld = N;
    real* sums = KEPT_ROUNDS ? product_sums(M, N, &ld) : (real*)C;
    gemm_weight(transW, M, N, K, alpha, A, lda, W, 0, sums, ld, bias);
    if (KEPT_ROUNDS) { kept_write(C, N, sums, ld, M, N); }
    stored(C, M * N);
}

// out (N,OC) = inp (N,IC) weight (OC,IC)^T + bias (OC); bias may be NULL.
static inline void matmul_forward(kept* out, const kept* inp, Weight weight, const real* bias, size_t N, size_t IC,
                                  size_t OC) {
    gemm_stored(1, N, OC, IC, 1, inp, IC, weight, out, bias);
}

// out (N,OC) += inp (N,IC) op(weight) + bias (OC). Where products are stored as bf16, this one is before it is added.
static inline void matmul_add(real* out, const kept* inp, int transposed, Weight weight, const real* bias, size_t N,
                              size_t IC, size_t OC) {
    if (!KEPT_ROUNDS && !stored_as_bf16) {
        gemm_weight(transposed, N, OC, IC, 1, inp, IC, weight, 1, out, OC, bias);
        return;
    }
    size_t ld;
    real* sums = product_sums(N, OC, &ld);
    gemm_weight(transposed, N, OC, IC, 1, inp, IC, weight, 0, sums, ld, NULL);
#pragma omp parallel for schedule(static) if (N * OC > SERIAL)
    for (size_t n = 0; n < N; n++) {
        for (size_t i = 0; i < OC; i++) {
            out[n * OC + i] += (real)round_bf16((float)sums[n * ld + i]) + (bias ? bias[i] : 0);
        }
    }
}

// out (N,OC) += inp (N,IC) weight (OC,IC)^T + bias (OC): a branch that ends in the residual stream, which is never
// rounded; bias may be NULL.
static inline void matmul_forward_add(real* out, const kept* inp, Weight weight, const real* bias, size_t N, size_t IC,
                                      size_t OC) {
    matmul_add(out, inp, 1, weight, bias, N, IC, OC);
}

// dinp (N,IC) = dout (N,OC) weight (OC,IC)
static inline void matmul_backward_input(kept* dinp, const kept* dout, const real* weight, size_t N, size_t IC,
                                         size_t OC) {
    gemm_stored(0, N, IC, OC, 1, dout, OC, weight_of(weight), dinp, NULL);
}

// sums (columns) += column sums of X (rows, columns): each column from the first row to the last,
// in blocks of 64 rows whose sums are added one after the other.
static inline void add_column_sums(real* sums, const kept* X, size_t rows, size_t columns) {
    enum { WIDTH = 64, BLOCK = 64 };
#pragma omp parallel for schedule(static) if (rows * columns > MATMUL_SERIAL)
    for (size_t j0 = 0; j0 < columns; j0 += WIDTH) {
        size_t width = min_size(WIDTH, columns - j0);
        for (size_t i0 = 0; i0 < rows; i0 += BLOCK) {
            real sum[WIDTH] = {0};
            for (size_t i = i0; i < min_size(i0 + BLOCK, rows); i++) {
                const kept* x = X + i * columns + j0;
                for (size_t j = 0; j < width; j++) { sum[j] += real_of_kept(x[j]); }
            }
            for (size_t j = 0; j < width; j++) { sums[j0 + j] += sum[j]; }
        }
    }
}

// dweight (OC,IC) += dout (N,OC)^T inp (N,IC); dbias (OC) += column sums of dout; dbias may be NULL.
static inline void matmul_backward_weight(real* dweight, real* dbias, const kept* dout, const kept* inp, size_t N,
                                          size_t IC, size_t OC) {
    gemm_kept(1, 0, OC, IC, N, 1, dout, OC, inp, IC, 1, dweight, IC);
    if (dbias) { add_column_sums(dbias, dout, N, OC); }
}

// The same layer with its weight stored (IC,OC), as Hugging Face's Conv1D has it in the files of GPT-2: it is read and
// written where it lies, nothing is ever transposed.

// out (N,OC) = inp (N,IC) weight (IC,OC) + bias (OC); bias may be NULL.
static inline void conv1d_forward(kept* out, const kept* inp, Weight weight, const real* bias, size_t N, size_t IC,
                                  size_t OC) {
    gemm_stored(0, N, OC, IC, 1, inp, IC, weight, out, bias);
}

// out (N,OC) += inp (N,IC) weight (IC,OC) + bias (OC), as matmul_forward_add().
static inline void conv1d_forward_add(real* out, const kept* inp, Weight weight, const real* bias, size_t N, size_t IC,
                                      size_t OC) {
    matmul_add(out, inp, 0, weight, bias, N, IC, OC);
}

// dinp (N,IC) = dout (N,OC) weight (IC,OC)^T
static inline void conv1d_backward_input(kept* dinp, const kept* dout, const real* weight, size_t N, size_t IC,
                                         size_t OC) {
    gemm_stored(1, N, IC, OC, 1, dout, OC, weight_of(weight), dinp, NULL);
}

// dweight (IC,OC) += inp (N,IC)^T dout (N,OC); dbias (OC) += column sums of dout; dbias may be NULL.
static inline void conv1d_backward_weight(real* dweight, real* dbias, const kept* dout, const kept* inp, size_t N,
                                          size_t IC, size_t OC) {
    gemm_kept(1, 0, IC, OC, N, 1, inp, IC, dout, OC, 1, dweight, OC);
    if (dbias) { add_column_sums(dbias, dout, N, OC); }
}

#endif
