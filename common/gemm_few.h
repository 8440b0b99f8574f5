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
// B may be in bf16, half the bytes: its numbers become floats in registers, and all else is the same. A product in bf16 sums
// in its own order here too.
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

// C (M,N) = or += alpha * A (M,K) op(B) + bias (N). sums: its order; in bf16 each number of A is in its place (few_places).
typedef struct {
    MatmulSums sums;
    size_t M, N, K, lda, ldb, ldc;
    float alpha;
    const float *A, *bias;
    const void* B;
    int accumulate;
    float* C;
} FewRows;

static inline void few_prefetch(const void* B, size_t at, Number number) {
    __builtin_prefetch(matmul_at(B, at, number), 0, 2);
}

// A (M,K) of floats, or of bf16, as floats in their places for a product in bf16: (M, matmul_length(K)), what is missing 0.
// In memory of this thread.
static inline const float* few_places(MatmulSums sums, const void* A, Number number, size_t M, size_t K, size_t lda) {
    static __thread float* memory;
    static __thread size_t room;
    size_t length = matmul_length(K, sums);
    if (M * length > room) {
        free(memory);
        memory = (float*)xalloc(M * length, sizeof(float), "few rows of a product");
        room = M * length;
    }
    for (size_t i = 0; i < M; i++) {
        for (size_t k = 0; k < length; k++) {
            memory[i * length + matmul_place(k, sums)] = k < K ? matmul_number(A, i * lda + k, number) : 0;
        }
    }
    return memory;
}

// sums (M, columns) += the sum of the two chains of a fold; all lds apart. `missing`: numbers of each chain that are zeros and
// were left out, which make 0 of a chain that is -0.
static inline void few_fold(size_t M, size_t columns, float* __restrict__ sums, const float* __restrict__ even,
                            const float* __restrict__ odd, size_t lds, const int missing[2]) {
    float more_even = missing[0] ? 0.0f : -0.0f, more_odd = missing[1] ? 0.0f : -0.0f;
    for (size_t i = 0; i < M; i++) {
        for (size_t j = i * lds; j < i * lds + columns; j++) {
            sums[j] = sums[j] + ((even[j] + more_even) + (odd[j] + more_odd));
        }
    }
}

// sums (rows, 2 VL), lds apart, += A (rows, n) B (n, 2 VL): each number's chain goes on over these n. B is at `at`; `ahead`
// rows of it further on are fetched. swap 1: of each pair of rows of B the second comes first, else 0. rows and number are
// constants where this is called.
__attribute__((always_inline)) static inline void few_tile(int rows, Number number, size_t n, const float* A,
                                                           size_t lda, const void* B, size_t begin, size_t ldb,
                                                           size_t swap, size_t ahead, float* sums, size_t lds) {
    vf sum[MATMUL_GROUP][2];
    MATMUL_UNROLL
    for (int i = 0; i < rows; i++) {
        sum[i][0] = vf_load(sums + (size_t)i * lds);
        sum[i][1] = vf_load(sums + (size_t)i * lds + VL);
    }
    for (size_t k = 0; k < n; k++) {
        size_t at = begin + (k ^ swap) * ldb;
        if (ahead) { few_prefetch(B, at + ahead * ldb, number); }
        if (ahead && VL == 16 && number != NUMBER_BF16) { few_prefetch(B, at + ahead * ldb + VL, number); }
        vf b0 = matmul_vector(B, at, number), b1 = matmul_vector(B, at + VL, number);
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
__attribute__((always_inline)) static inline void few_step(Number number, size_t M, size_t n, const float* A,
                                                           size_t lda, const void* B, size_t at, size_t ldb,
                                                           size_t swap, size_t ahead, size_t columns, float* sums,
                                                           size_t lds) {
    size_t groups = div_up(M, MATMUL_GROUP), whole = columns / (2 * VL) * (2 * VL);
    for (size_t g = 0, i = 0; g < groups; g++) {
        size_t rows = (M - i) / (groups - g), next = g == 0 ? ahead : 0;
#define FEW_ROWS(x)                                                                                        \
    case x:                                                                                                \
        for (size_t j = 0; j < whole; j += 2 * VL) {                                                       \
            few_tile(x, number, n, A + i * lda, lda, B, at + j, ldb, swap, next, sums + i * lds + j, lds); \
        }                                                                                                  \
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
                sum = fma_f(A[i * lda + k], matmul_number(B, at + (k ^ swap) * ldb + j, number), sum);
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

// d (n, NR) = n numbers of `lines` lines of B from `at` on, turned, each in its place; what stands for lines and numbers that do
// not exist is 0. `ahead` numbers further on are fetched.
__attribute__((always_inline)) static inline void few_turn(Number number, MatmulSums sums, float* d, const void* B,
                                                           size_t at, size_t ldb, size_t lines, size_t n,
                                                           size_t ahead) {
    enum { NR = MATMUL_NR, LINE = 16 };  // a cache line has 16 floats
    for (size_t i = 0; i < lines; i++) {
        few_prefetch(B, at + i * ldb + ahead, number);
        if (number != NUMBER_BF16) { few_prefetch(B, at + i * ldb + ahead + LINE, number); }
    }
    size_t whole = 0;
#if VL >= 8
    const int bf16 = number == NUMBER_BF16;
    size_t step = bf16 ? 16 : 8;
    whole = lines == NR ? n / step * step : 0;
    for (size_t i = 0; i < NR && whole; i += 8) {
        for (size_t k = 0; k < whole; k += step) {
            __m256 r[8];
            for (size_t x = 0; x < 8; x++) {
                const float* from = (const float*)matmul_at(B, at + (i + x) * ldb + k, number);
                r[x] = number == NUMBER_ROUNDED ? eight_rounded(_mm256_loadu_ps(from)) : _mm256_loadu_ps(from);
            }
            matmul_turn(r);
            for (size_t x = 0; x < 8 && !bf16; x++) { _mm256_store_ps(d + matmul_place(k + x, sums) * NR + i, r[x]); }
            for (size_t x = 0; x < 8 && bf16;
                 x++) {  // two numbers of a line were turned as one, the first in the lower half
                __m256i two = _mm256_castps_si256(r[x]), upper = _mm256_set1_epi32((int)0xffff0000u);
                float *even = d + matmul_place(k + 2 * x, sums) * NR + i,
                      *odd = d + matmul_place(k + 2 * x + 1, sums) * NR + i;
                _mm256_store_ps(even, _mm256_castsi256_ps(_mm256_slli_epi32(two, 16)));
                _mm256_store_ps(odd, _mm256_castsi256_ps(_mm256_and_si256(two, upper)));
            }
        }
    }
#endif
    for (size_t k = whole; k < matmul_length(n, sums); k++) {
        float* to = d + matmul_place(k, sums) * NR;
        for (size_t i = 0; i < NR; i++) { to[i] = i < lines && k < n ? matmul_number(B, at + i * ldb + k, number) : 0; }
    }
}

// NR columns of C, from j on, where B is stored (N,K). order: p->sums.
__attribute__((always_inline)) static inline void few_lines(const FewRows* p, Number number, MatmulSums order,
                                                            size_t j) {
    enum { NR = MATMUL_NR, KC = MATMUL_KC, STEP = MATMUL_LINE_STEP };
    const size_t half = MATMUL_FOLD / 2, ahead = MATMUL_LINE_AHEAD,
                 next = NR * p->ldb - p->K + ahead;  // after the end of these lines come others
    __attribute__((aligned(ALIGNMENT))) float turned[STEP * NR], sums[MATMUL_FEW * NR], chains[2][MATMUL_FEW * NR];
    static const int missing[2] = {0, 0};  // zeros stand there
    const int fold = order == SUMS_AMX;
    size_t columns = min_size(NR, p->N - j), parts = fold ? 2 : 1;
    for (size_t k0 = 0; k0 < max_size(p->K, 1); k0 += KC) {
        size_t end = min_size(p->K, k0 + KC);
        memset(sums, 0, p->M * NR * sizeof(float));
        for (size_t k = k0; k < end; k += STEP) {
            size_t n = min_size(STEP, end - k);
            few_turn(number, order, turned, p->B, j * p->ldb + k, p->ldb, columns, n, k + ahead < p->K ? ahead : next);
            for (size_t part = 0; part < parts; part++) {
                if (fold) { memset(chains[part], 0, p->M * NR * sizeof(float)); }
                few_step(NUMBER_FP32, p->M, fold ? half : matmul_length(n, order), p->A + k + part * half, p->lda,
                         turned + part * half * NR, 0, NR, 0, 0, NR, fold ? chains[part] : sums, NR);
            }
            if (fold) { few_fold(p->M, NR, sums, chains[0], chains[1], NR, missing); }
        }
        few_store(p, k0, j, columns, sums, NR);
    }
}

// `columns` <= MATMUL_STRIPE columns of C, from j on, where B is stored (K,N). A step has parts: as AMX sums, every other row of
// B for each chain; by pairs, a last row whose second is missing, which is a zero that makes 0 of a sum that is -0.
__attribute__((always_inline)) static inline void few_stripe(const FewRows* p, Number number, MatmulSums order,
                                                             size_t j, size_t columns) {
    enum { KC = MATMUL_KC, WIDTH = MATMUL_STRIPE };
    __attribute__((aligned(ALIGNMENT))) float sums[MATMUL_FEW * WIDTH], chains[2][MATMUL_FEW * WIDTH];
    const int fold = order == SUMS_AMX, pairs = order == SUMS_PAIRS;
    const size_t half = MATMUL_FOLD / 2, step = fold ? MATMUL_FOLD : MATMUL_ROW_STEP, stride = fold ? 2 : 1;
    const size_t ahead = (number == NUMBER_BF16 ? 2 : 1) * (fold ? half : (size_t)MATMUL_ROW_STEP);
    for (size_t k0 = 0; k0 < max_size(p->K, 1); k0 += KC) {
        size_t end = min_size(p->K, k0 + KC);
        for (size_t i = 0; i < p->M; i++) { memset(sums + i * WIDTH, 0, columns * sizeof(float)); }
        for (size_t k = k0; k < end; k += step) {
            size_t n = min_size(step, end - k), single = pairs ? n % 2 : 0;
            int missing[2] = {0, 0};
            for (size_t part = 0; part < (fold || single ? 2u : 1u); part++) {
                size_t count = fold ? (n + 1 - part) / 2 : part ? 1 : n - single;
                size_t row = fold ? k + part : part ? k + n - 1 : k, place = fold ? k + part * half : part ? k + n : k;
                float* to = fold ? chains[part] : sums;
                for (size_t i = 0; i < p->M && fold; i++) { memset(to + i * WIDTH, 0, columns * sizeof(float)); }
                for (size_t i = 0; i < p->M && part && single; i++) {
                    for (size_t x = 0; x < columns; x++) { to[i * WIDTH + x] = to[i * WIDTH + x] + 0.0f; }
                }
                few_step(number, p->M, count, p->A + place, p->lda, p->B, row * p->ldb + j, stride * p->ldb,
                         pairs && count > 1, ahead, columns, to, WIDTH);
                missing[part] = count < half;
            }
            if (fold) { few_fold(p->M, columns, sums, chains[0], chains[1], WIDTH, missing); }
        }
        few_store(p, k0, j, columns, sums, WIDTH);
    }
}

// Both for each kind of number of B: a stripe of `columns` columns or, if that is 0, the columns of a panel, from j on. Places in
// fp32, where a number's is its own, are a constant: looking for them took a tenth of the time.
typedef void FewPiece(const FewRows* p, size_t j, size_t columns);
#define FEW_DEFINE(name, number)                                      \
    static void name(const FewRows* p, size_t j, size_t columns) {    \
        const MatmulSums order = PRODUCTS_BF16 ? p->sums : SUMS_FP32; \
        unsigned before = order ? denormals_off() : 0;                \
        if (columns) {                                                \
            few_stripe(p, number, order, j, columns);                 \
        } else if (order || number == NUMBER_ROUNDED) {               \
            few_lines(p, number, order, j);                           \
        } else {                                                      \
            few_lines(p, number, SUMS_FP32, j);                       \
        }                                                             \
        if (order) { denormals_restore(before); }                     \
    }
FEW_DEFINE(few_fp32, NUMBER_FP32)
FEW_DEFINE(few_bf16, NUMBER_BF16)
FEW_DEFINE(few_rounded, NUMBER_ROUNDED)
static FewPiece* const few_pieces[] = {few_fp32, few_bf16, PRODUCTS_BF16 ? few_rounded : NULL};

// transB: B is stored (N,K). number: what B is made of.
static inline void gemm_few(const FewRows* p, int transB, Number number) {
    size_t threads = thread_count() > 1 && p->M * p->N * max_size(p->K, 1) > MATMUL_SERIAL ? (size_t)thread_count() : 1;
    FewPiece* work = few_pieces[number];
    if (transB) {
        size_t panels = div_up(p->N, MATMUL_NR);
        // Panels side by side, as long as there is work for all: what a thread fetches ahead is what it takes next.
        size_t piece = max_size(1, min_size(8, panels / (4 * threads))), pieces = div_up(panels, piece);
#pragma omp parallel for schedule(dynamic) if (threads > 1)
        for (size_t x = 0; x < pieces; x++) {
            for (size_t panel = x * piece; panel < min_size(panels, (x + 1) * piece); panel++) {
                work(p, panel * MATMUL_NR, 0);
            }
        }
        return;
    }
    size_t width = min_size(MATMUL_STRIPE, round_up(div_up(p->N, threads), 2 * VL)), stripes = div_up(p->N, width);
#pragma omp parallel for schedule(dynamic) if (threads > 1)
    for (size_t stripe = 0; stripe < stripes; stripe++) {
        work(p, stripe * width, min_size(width, p->N - stripe * width));
    }
}

#endif
