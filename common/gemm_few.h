// gemm_few.h - C = or += alpha * A op(B) + bias for few rows of A, as when a text grows.
//
// B, the weights, is read once and used up at once: what counts is that it comes from memory without a pause. The sums are
// those of gemm.h, to the bit: a K-block's are one chain over k, carried on from step to step in memory that stays in the
// cache. Columns of C are divided among threads, and nothing is packed for others.
//
//   B stored (N,K)    NR lines of B, 32 numbers of each, are turned in the cache, then multiplied, while the next are on
//                     their way
//   B stored (K,N)    8 rows of B at a time, along a stripe of at most 512 columns; the next 8 are on their way
//
// B may be in bf16, half the bytes: its numbers become floats in registers, and all else is the same.
#ifndef PONDER_GEMM_FEW_H
#define PONDER_GEMM_FEW_H

#include "gemm.h"

enum {
    MATMUL_FEW = 16,                               // rows
    MATMUL_GROUP = MATMUL_MR < 8 ? MATMUL_MR : 8,  // rows of a tile here
    MATMUL_LINE_STEP = 32,                         // numbers of each line that are turned at a time
    MATMUL_LINE_AHEAD = 64,                        // and how far ahead of them others are fetched; of bf16 twice as far
    MATMUL_ROW_STEP = 8,                           // rows of B at a time
    MATMUL_STRIPE = 512  // columns that a thread takes at a time where B's rows lie along them
};

// C (M,N) = or += alpha * A (M,K) op(B) + bias (N); B is in fp32 or, if `bf16`, in bf16.
typedef struct {
    size_t M, N, K, lda, ldb, ldc;
    float alpha;
    const float *A, *bias;
    const void* B;
    int accumulate;
    float* C;
} FewRows;

static inline void few_prefetch(const void* B, size_t at, int bf16) {
    __builtin_prefetch(matmul_at(B, at, bf16), 0, 2);
}

// sums (rows, 2 VL), lds apart, += A (rows, n) B (n, 2 VL): each number's chain goes on over these n. B is at `at`; `ahead`
// rows of it further on are fetched. rows and bf16 are constants where this is called.
__attribute__((always_inline)) static inline void few_tile(int rows, int bf16, size_t n, const float* A, size_t lda,
                                                           const void* B, size_t at, size_t ldb, size_t ahead,
                                                           float* sums, size_t lds) {
    vf sum[MATMUL_GROUP][2];
    MATMUL_UNROLL
    for (int i = 0; i < rows; i++) {
        sum[i][0] = vf_load(sums + (size_t)i * lds);
        sum[i][1] = vf_load(sums + (size_t)i * lds + VL);
    }
    for (size_t k = 0; k < n; k++, at += ldb) {
        if (ahead) { few_prefetch(B, at + ahead * ldb, bf16); }
        if (ahead && VL == 16 && !bf16) { few_prefetch(B, at + ahead * ldb + VL, bf16); }
        vf b0 = matmul_vector(B, at, bf16), b1 = matmul_vector(B, at + VL, bf16);
        MATMUL_UNROLL
        for (int i = 0; i < rows; i++) {
            vf a = vf_set1(A[(size_t)i * lda + k]);
            sum[i][0] = vf_fma(a, b0, sum[i][0]);
            sum[i][1] = vf_fma(a, b1, sum[i][1]);
        }
    }
    MATMUL_UNROLL
    for (int i = 0; i < rows; i++) {
        vf_store(sums + (size_t)i * lds, sum[i][0]);
        vf_store(sums + (size_t)i * lds + VL, sum[i][1]);
    }
}

// The same for all M rows and `columns` columns. M rows make groups of nearly the same height.
__attribute__((always_inline)) static inline void few_step(int bf16, size_t M, size_t n, const float* A, size_t lda,
                                                           const void* B, size_t at, size_t ldb, size_t ahead,
                                                           size_t columns, float* sums, size_t lds) {
    size_t groups = div_up(M, MATMUL_GROUP), whole = columns / (2 * VL) * (2 * VL);
    for (size_t g = 0, i = 0; g < groups; g++) {
        size_t rows = (M - i) / (groups - g), next = g == 0 ? ahead : 0;
#define FEW_ROWS(x)                                                                                \
    case x:                                                                                        \
        for (size_t j = 0; j < whole; j += 2 * VL) {                                               \
            few_tile(x, bf16, n, A + i * lda, lda, B, at + j, ldb, next, sums + i * lds + j, lds); \
        }                                                                                          \
        break;
        switch (rows) {
            FEW_ROWS(1)
            FEW_ROWS(2)
            FEW_ROWS(3)
            FEW_ROWS(4)
#if MATMUL_MR >= 6
            FEW_ROWS(5)
            FEW_ROWS(6)
#endif
#if MATMUL_MR >= 8
            FEW_ROWS(7)
            FEW_ROWS(8)
#endif
            default: break;
        }
#undef FEW_ROWS
        i += rows;
    }
    for (size_t i = 0; i < M; i++) {
        for (size_t j = whole; j < columns; j++) {
            float sum = sums[i * lds + j];
            for (size_t k = 0; k < n; k++) {
                sum = fma_f(A[i * lda + k], matmul_number(B, at + k * ldb + j, bf16), sum);
            }
            sums[i * lds + j] = sum;
        }
    }
}

// A K-block's sums (M, columns), lds apart, into C from column j on; the first block's where k0 = 0.
static inline void few_store(const FewRows* p, size_t k0, size_t j, size_t columns, const float* sums, size_t lds) {
    const float* bias = p->bias && k0 == 0 ? p->bias + j : NULL;
    int add = p->accumulate || k0 > 0;
    for (size_t i = 0; i < p->M; i++) {
        float* __restrict__ c = p->C + i * p->ldc + j;
        const float* __restrict__ sum = sums + i * lds;
        for (size_t n = 0; n < columns; n++) {
            float block = p->alpha * sum[n];
            if (bias) { block = block + bias[n]; }
            c[n] = add ? c[n] + block : block;
        }
    }
}

// d (n, NR) = n numbers of `lines` lines of B from `at` on, turned; what stands for lines that do not exist is 0.
// `ahead` numbers further on are fetched.
__attribute__((always_inline)) static inline void few_turn(int bf16, float* d, const void* B, size_t at, size_t ldb,
                                                           size_t lines, size_t n, size_t ahead) {
    enum { NR = MATMUL_NR, LINE = 16 };  // a cache line has 16 floats
    for (size_t i = 0; i < lines; i++) {
        few_prefetch(B, at + i * ldb + ahead, bf16);
        if (!bf16) { few_prefetch(B, at + i * ldb + ahead + LINE, bf16); }
    }
    size_t whole = 0;
#if VL >= 8
    size_t step = bf16 ? 16 : 8;
    whole = lines == NR ? n / step * step : 0;
    for (size_t i = 0; i < NR && whole; i += 8) {
        for (size_t k = 0; k < whole; k += step) {
            __m256 r[8];
            for (size_t x = 0; x < 8; x++) {
                r[x] = _mm256_loadu_ps((const float*)matmul_at(B, at + (i + x) * ldb + k, bf16));
            }
            matmul_turn(r);
            float* to = d + k * NR + i;
            for (size_t x = 0; x < 8 && !bf16; x++) { _mm256_store_ps(to + x * NR, r[x]); }
            for (size_t x = 0; x < 8 && bf16;
                 x++) {  // two numbers of a line were turned as one, the first in the lower half
                __m256i two = _mm256_castps_si256(r[x]), upper = _mm256_set1_epi32((int)0xffff0000u);
                _mm256_store_ps(to + 2 * x * NR, _mm256_castsi256_ps(_mm256_slli_epi32(two, 16)));
                _mm256_store_ps(to + (2 * x + 1) * NR, _mm256_castsi256_ps(_mm256_and_si256(two, upper)));
            }
        }
    }
#endif
    for (size_t k = whole; k < n; k++) {
        for (size_t i = 0; i < lines; i++) { d[k * NR + i] = matmul_number(B, at + i * ldb + k, bf16); }
        for (size_t i = lines; i < NR; i++) { d[k * NR + i] = 0; }
    }
}

// NR columns of C, from j on, where B is stored (N,K).
__attribute__((always_inline)) static inline void few_lines(const FewRows* p, int bf16, size_t j) {
    enum { NR = MATMUL_NR, KC = MATMUL_KC, STEP = MATMUL_LINE_STEP };
    const size_t ahead = MATMUL_LINE_AHEAD,
                 next = NR * p->ldb - p->K + ahead;  // after the end of these lines come others
    __attribute__((aligned(ALIGNMENT))) float turned[STEP * NR], sums[MATMUL_FEW * NR];
    size_t columns = min_size(NR, p->N - j);
    for (size_t k0 = 0; k0 < max_size(p->K, 1); k0 += KC) {
        size_t end = min_size(p->K, k0 + KC);
        memset(sums, 0, p->M * NR * sizeof(float));
        for (size_t k = k0; k < end; k += STEP) {
            size_t n = min_size(STEP, end - k);
            few_turn(bf16, turned, p->B, j * p->ldb + k, p->ldb, columns, n, k + ahead < p->K ? ahead : next);
            few_step(0, p->M, n, p->A + k, p->lda, turned, 0, NR, 0, NR, sums, NR);
        }
        few_store(p, k0, j, columns, sums, NR);
    }
}

// `columns` <= MATMUL_STRIPE columns of C, from j on, where B is stored (K,N).
__attribute__((always_inline)) static inline void few_stripe(const FewRows* p, int bf16, size_t j, size_t columns) {
    enum { KC = MATMUL_KC, STEP = MATMUL_ROW_STEP, WIDTH = MATMUL_STRIPE };
    __attribute__((aligned(ALIGNMENT))) float sums[MATMUL_FEW * WIDTH];
    for (size_t k0 = 0; k0 < max_size(p->K, 1); k0 += KC) {
        size_t end = min_size(p->K, k0 + KC);
        for (size_t i = 0; i < p->M; i++) { memset(sums + i * WIDTH, 0, columns * sizeof(float)); }
        for (size_t k = k0; k < end; k += STEP) {
            size_t n = min_size(STEP, end - k);
            few_step(bf16, p->M, n, p->A + k, p->lda, p->B, k * p->ldb + j, p->ldb, (1 + (size_t)bf16) * STEP, columns,
                     sums, WIDTH);
        }
        few_store(p, k0, j, columns, sums, WIDTH);
    }
}

static void few_lines_fp32(const FewRows* p, size_t j) { few_lines(p, 0, j); }
static void few_lines_bf16(const FewRows* p, size_t j) { few_lines(p, 1, j); }
static void few_stripe_fp32(const FewRows* p, size_t j, size_t columns) { few_stripe(p, 0, j, columns); }
static void few_stripe_bf16(const FewRows* p, size_t j, size_t columns) { few_stripe(p, 1, j, columns); }

// transB: B is stored (N,K). bf16: B's numbers are Bf16, else float.
static inline void gemm_few(const FewRows* p, int transB, int bf16) {
    size_t threads = thread_count() > 1 && p->M * p->N * max_size(p->K, 1) > MATMUL_SERIAL ? (size_t)thread_count() : 1;
    if (transB) {
        size_t panels = div_up(p->N, MATMUL_NR);
        // Panels side by side, as long as there is work for all: what a thread fetches ahead is what it takes next.
        size_t piece = max_size(1, min_size(8, panels / (4 * threads))), pieces = div_up(panels, piece);
#pragma omp parallel for schedule(dynamic) if (threads > 1)
        for (size_t x = 0; x < pieces; x++) {
            for (size_t panel = x * piece; panel < min_size(panels, (x + 1) * piece); panel++) {
                if (bf16) {
                    few_lines_bf16(p, panel * MATMUL_NR);
                } else {
                    few_lines_fp32(p, panel * MATMUL_NR);
                }
            }
        }
        return;
    }
    size_t width = min_size(MATMUL_STRIPE, round_up(div_up(p->N, threads), 2 * VL)), stripes = div_up(p->N, width);
#pragma omp parallel for schedule(dynamic) if (threads > 1)
    for (size_t stripe = 0; stripe < stripes; stripe++) {
        size_t j = stripe * width, columns = min_size(width, p->N - j);
        if (bf16) {
            few_stripe_bf16(p, j, columns);
        } else {
            few_stripe_fp32(p, j, columns);
        }
    }
}

#endif
