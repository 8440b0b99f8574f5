// gemm.h - matrix products of many rows on the CPU: C = or += alpha * op(A) op(B) + bias.
//
// What is computed, to the bit (gemm_reference says it in C): K is cut into blocks of MATMUL_KC.
// Within a block an element of C is one chain of fused multiply-adds over k, in order, from 0; the
// block's sum is multiplied by alpha; the first block's gets the bias added, then is stored or
// added to C; each later one is added to C. This order depends on nothing but K, so the numbers
// are the same for every instruction set, tile size, blocking and number of threads.
//
// Products in bf16 have other orders of sums within a K-block: see gemm_bf16.h.
//
// How: as in Goto and van de Geijn, "Anatomy of high-performance matrix multiplication" (2008), with one change. The
// innermost loop reads both operands one number after the other, so they are copied into panels: A in panels of MR rows,
// stored k by k, B in panels of NR columns, stored k by k. The operand with fewer lines (the activations, as a rule) is
// packed once, by all threads for all. The other one (the weights) is packed by the thread that is going to use it, a piece
// that stays in its L2 cache and is used up at once, while the next piece is on its way from memory. Tiles of C of
// MR x NR stay in registers for a whole K-block. Packing and computing is one list of work, see MatmulJob.
//
//   tile of C     MR x NR             registers (AVX2: 6 x 16 = 12 of 16 registers)
//   panel of B    KC x NR             L1 cache (16 KB), used for 96 rows of A
//   own piece     KC x 96 of A        L2 cache (128 KB)
//              or KC x 64 of B        L2 cache (64 KB)
//   shared step   KC x 1,024 lines    L3 cache (1 MB)
//
// A product of few rows of A reads B once and needs none of that: see gemm_few.h.
//
// Rows and columns past the edge are packed as zeros and their sums are thrown away; nothing is
// read past the end of a row, and a NaN beside the edge cannot get out of the columns it is in.
#ifndef PONDER_GEMM_H
#define PONDER_GEMM_H

#include "base.h"
#include "machine.h"
#include "rows.h"
#include "vec.h"

#define MATMUL_KC 256  // part of the definition of the result: changing it changes bits

// 1 in programs that compute products in bf16: those that store bf16, those of a GPU (for the naive model that they are
// compared with), tests and bench_cpu. In all others compilers drop the code for it, a fifth of the time of a build, and much
// more of one by clang with sanitizers (fuzz.c).
#if GPU || (defined(TESTING) && !defined(FUZZING))
enum { PRODUCTS_BF16 = 1 };
#else
enum { PRODUCTS_BF16 = KEPT_ROUNDS };
#endif

// In which order a K-block's numbers are summed: one chain (above), or, in bf16, as AMX or as VDPBF16PS does (gemm_bf16.h).
typedef enum { SUMS_FP32, SUMS_AMX, SUMS_PAIRS } MatmulSums;
#define MATMUL_FOLD 32  // AMX: numbers of which the even and the odd ones are chains of their own

// Up to this many multiply-adds, waking the other threads costs more than they bring.
#define MATMUL_SERIAL (64 * 64 * 64)

// Start of row i, column k of op(A) in memory, for A as stored: transposed means (cols, rows).
#define MATMUL_AT(X, transposed, ld, row, column) \
    ((X)[(transposed) ? (size_t)(column) * (ld) + (size_t)(row) : (size_t)(row) * (ld) + (size_t)(column)])

// The definition, as a plain loop. C (M,N) = or += alpha * op(A) (M,K) op(B) (K,N) + bias (N).
static inline void gemm_reference(int transA, int transB, size_t M, size_t N, size_t K, real alpha, const real* A,
                                  size_t lda, const real* B, size_t ldb, int accumulate, real* C, size_t ldc,
                                  const real* bias) {
#pragma omp parallel for schedule(static) if (M * N * max_size(K, 1) > MATMUL_SERIAL)
    for (size_t i = 0; i < M; i++) {
        for (size_t j0 = 0; j0 < N; j0 += 64) {  // 64 columns at a time, for the cache's sake
            size_t columns = min_size(64, N - j0);
            real* c = C + i * ldc + j0;
            for (size_t k0 = 0; k0 == 0 || k0 < K; k0 += MATMUL_KC) {
                real sum[64] = {0};
                for (size_t k = k0; k < min_size(k0 + MATMUL_KC, K); k++) {
                    real a = MATMUL_AT(A, transA, lda, i, k);
                    for (size_t j = 0; j < columns; j++) {
                        sum[j] = real_fma(a, MATMUL_AT(B, transB, ldb, k, j0 + j), sum[j]);
                    }
                }
                for (size_t j = 0; j < columns; j++) {
                    real block = alpha * sum[j];
                    if (k0 == 0 && bias) { block = block + bias[j0 + j]; }
                    c[j] = k0 == 0 && !accumulate ? block : c[j] + block;
                }
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------
// Tiles: rows, rows in memory (so that what is packed is aligned), name, and the heights that a product's last rows take.
// A tile is two vectors wide.

#define MATMUL_ROWS_4(X) X(1) X(2) X(3) X(4)
#define MATMUL_ROWS_6(X) MATMUL_ROWS_4(X) X(5) X(6)
#define MATMUL_ROWS_8(X) MATMUL_ROWS_6(X) X(7) X(8)
#define MATMUL_ROWS_14(X) MATMUL_ROWS_8(X) X(9) X(10) X(11) X(12) X(13) X(14)
// clang-format off
#if VL == 16
#define MATMUL_MR   14
#define MATMUL_AP   16
#define MATMUL_TILE_NAME "AVX-512 14x32"
#define MATMUL_ROWS MATMUL_ROWS_14
#elif VL == 8
#define MATMUL_MR   6
#define MATMUL_AP   8
#define MATMUL_TILE_NAME "AVX2 6x16"
#define MATMUL_ROWS MATMUL_ROWS_6
#elif defined(__aarch64__)
#define MATMUL_MR   8
#define MATMUL_AP   8
#define MATMUL_TILE_NAME "NEON 8x8"
#define MATMUL_ROWS MATMUL_ROWS_8
#else
#define MATMUL_MR   4
#define MATMUL_AP   4
#define MATMUL_TILE_NAME "portable 4x8, fused multiply-add emulated"
#define MATMUL_ROWS MATMUL_ROWS_4
#endif
#define MATMUL_NR (2 * VL)
#define MATMUL_LINE (ALIGNMENT / (int)sizeof(float) / VL)  // vectors of a cache line
// clang-format on

static inline const char* matmul_name(void) { return MATMUL_TILE_NAME; }

// What happens to a block's sums.
typedef struct {
    float alpha;
    int add;            // 1: C +=, 0: C =
    const float* bias;  // (columns of the tile), or NULL
} MatmulStore;

#ifdef __clang__
#define MATMUL_UNROLL _Pragma("clang loop unroll(full)")
#else
#define MATMUL_UNROLL _Pragma("GCC unroll 16")
#endif

// The first columns of a tile, whose sums are lines (rows, MATMUL_NR), into c. A function of its own, since
// compiling a copy of it in each of the tiles takes most of the time of a build.
__attribute__((noinline)) static void matmul_store_part(float* __restrict__ c, size_t ldc,
                                                        const float* __restrict__ lines, int rows, size_t columns,
                                                        MatmulStore store) {
    for (int i = 0; i < rows; i++, c += ldc, lines += MATMUL_NR) {
        for (size_t j = 0; j < columns; j++) {
            float block = store.alpha * lines[j];
            if (store.bias) { block = block + store.bias[j]; }
            c[j] = store.add ? c[j] + block : block;
        }
    }
}

// sum (rows, vectors) = a chain over kc numbers, from 0; see matmul_tile().
__attribute__((always_inline)) static inline void matmul_chain(int rows, int vectors, size_t kc,
                                                               const float* __restrict__ a, const float* __restrict__ b,
                                                               vf sum[MATMUL_MR][2]) {
    MATMUL_UNROLL
    for (size_t i = 0; i < (size_t)rows; i++) { sum[i][0] = sum[i][1] = vf_zero(); }
    for (size_t k = 0; k < kc; k++) {
        vf b0 = vf_load(b), b1 = vectors == 2 ? vf_load(b + VL) : b0;
        MATMUL_UNROLL
        for (size_t i = 0; i < (size_t)rows; i++) {
            vf ai = vf_set1(a[i]);
            sum[i][0] = vf_fma(ai, b0, sum[i][0]);
            if (vectors == 2) { sum[i][1] = vf_fma(ai, b1, sum[i][1]); }
        }
        a += MATMUL_AP;
        b += MATMUL_NR;
    }
}

// A tile of C: rows x (vectors * VL), of which the first `columns` columns exist. a is a panel of A
// (kc, MATMUL_AP), b one of B (kc, MATMUL_NR). rows, vectors and fold are constants where this is called,
// so that all of `sum` lies in registers. fold: SUMS_AMX, where a panel has even numbers first, see matmul_place().
__attribute__((always_inline)) static inline void matmul_tile(int rows, int vectors, int fold, size_t kc,
                                                              const float* __restrict__ a, const float* __restrict__ b,
                                                              float* __restrict__ c, size_t ldc, size_t columns,
                                                              MatmulStore store) {
    vf sum[MATMUL_MR][2];
    MATMUL_UNROLL
    for (int i = 0; i < rows; i++) {
        for (int v = 0; v < vectors; v += MATMUL_LINE) {
            __builtin_prefetch(c + (size_t)i * ldc + v * VL, 1);  // wanted when the sums are ready
        }
    }
    if (!fold || kc == 0) {
        matmul_chain(rows, vectors, kc, a, b, sum);
    } else {
        enum { HALF = MATMUL_FOLD / 2 };
        // Counted in size_t: with checks for the overflow of int, clang takes minutes over the loops below.
        const size_t height = (size_t)rows, width = (size_t)vectors;
        vf even[MATMUL_MR][2], total[MATMUL_MR][2];
        MATMUL_UNROLL
        for (size_t i = 0; i < height; i++) { total[i][0] = total[i][1] = vf_zero(); }
        for (size_t k = 0; k < kc; k += MATMUL_FOLD) {
            matmul_chain(rows, vectors, HALF, a + k * MATMUL_AP, b + k * MATMUL_NR, sum);
            MATMUL_UNROLL
            for (size_t i = 0; i < height; i++) {
                MATMUL_UNROLL
                for (size_t v = 0; v < width; v++) { even[i][v] = sum[i][v]; }
            }
            __asm__ volatile("" ::: "memory");  // registers are for the other chain
            matmul_chain(rows, vectors, HALF, a + (k + HALF) * MATMUL_AP, b + (k + HALF) * MATMUL_NR, sum);
            MATMUL_UNROLL
            for (size_t i = 0; i < height; i++) {
                MATMUL_UNROLL
                for (size_t v = 0; v < width; v++) {
                    sum[i][v] = total[i][v] + (even[i][v] + sum[i][v]);
                    total[i][v] = sum[i][v];
                }
            }
        }
    }
    if (columns == (size_t)(vectors * VL)) {
        MATMUL_UNROLL
        for (int i = 0; i < rows; i++) {
            float* ci = c + (size_t)i * ldc;
            MATMUL_UNROLL
            for (int v = 0; v < vectors; v++) {
                vf block = store.alpha == 1.0f ? sum[i][v] : store.alpha * sum[i][v];
                if (store.bias) { block = block + vf_load(store.bias + v * VL); }
                vf_store(ci + v * VL, store.add ? vf_load(ci + v * VL) + block : block);
            }
        }
    } else {
        float lines[MATMUL_MR * MATMUL_NR];
        MATMUL_UNROLL
        for (int i = 0; i < rows; i++) {
            MATMUL_UNROLL
            for (int v = 0; v < vectors; v++) { vf_store(lines + i * MATMUL_NR + v * VL, sum[i][v]); }
        }
        matmul_store_part(c, ldc, lines, rows, columns, store);
    }
}

// One function for each height of a tile and 1 or 2 vectors of width, and a table of them.
typedef void MatmulTile(size_t kc, const float* a, const float* b, float* c, size_t ldc, size_t columns,
                        const MatmulStore* store);
#define MATMUL_DEFINE_TILE(rows, vectors, fold)                                                                 \
    static void matmul_tile_##rows##_##vectors##_##fold(size_t kc, const float* a, const float* b, float* c,    \
                                                        size_t ldc, size_t columns, const MatmulStore* store) { \
        matmul_tile(rows, vectors, fold, kc, a, b, c, ldc, columns, *store);                                    \
    }
#define MATMUL_DEFINE_TILES(rows)  \
    MATMUL_DEFINE_TILE(rows, 1, 0) \
    MATMUL_DEFINE_TILE(rows, 2, 0) MATMUL_DEFINE_TILE(rows, 1, 1) MATMUL_DEFINE_TILE(rows, 2, 1)
MATMUL_ROWS(MATMUL_DEFINE_TILES)
#define MATMUL_LIST_TILE(rows) {matmul_tile_##rows##_1_0, matmul_tile_##rows##_2_0},
#define MATMUL_LIST_FOLD(rows) {matmul_tile_##rows##_1_1, matmul_tile_##rows##_2_1},
static MatmulTile* const matmul_tiles[MATMUL_MR][2] = {MATMUL_ROWS(MATMUL_LIST_TILE)};
static MatmulTile* const matmul_tiles_fold[MATMUL_MR][2] = {MATMUL_ROWS(MATMUL_LIST_FOLD)};

// Where number k of a K-block lies in a panel, so that sums are one chain over places or two: in its place; of each MATMUL_FOLD
// first those with an even k; or the second of a pair first.
__attribute__((always_inline)) static inline size_t matmul_place(size_t k, MatmulSums sums) {
    size_t i = k % MATMUL_FOLD;
    if (!PRODUCTS_BF16) { return k; }
    if (sums == SUMS_AMX) { return k - i + i % 2 * (MATMUL_FOLD / 2) + i / 2; }
    return sums == SUMS_PAIRS ? k ^ 1 : k;
}
// Numbers of a panel that has kc of them.
static inline size_t matmul_length(size_t kc, MatmulSums sums) {
    return sums == SUMS_AMX ? round_up(kc, MATMUL_FOLD) : sums == SUMS_PAIRS ? round_up(kc, 2) : kc;
}

// ---------------------------------------------------------------------------------------------
// Operands are in fp32, or in bf16, whose numbers become floats as they are read, or in fp32 but numbers of a product in
// bf16, to which they are rounded as they are read; all else is the same.
typedef enum { NUMBER_FP32, NUMBER_BF16, NUMBER_ROUNDED } Number;
static inline size_t number_size(Number number) { return number == NUMBER_BF16 ? sizeof(Bf16) : sizeof(float); }
// Number `at` of X, VL numbers from there, and where it is; `number` is a constant where these are called.
__attribute__((always_inline)) static inline float matmul_number(const void* X, size_t at, Number number) {
    if (number == NUMBER_BF16) { return float_of_bf16(((const Bf16*)X)[at]); }
    float x = ((const float*)X)[at];
    return number == NUMBER_ROUNDED ? round_bf16(x) : x;
}
__attribute__((always_inline)) static inline vf matmul_vector(const void* X, size_t at, Number number) {
    if (number == NUMBER_BF16) { return vf_load_bf16((const Bf16*)X + at); }
    vf x = vf_load((const float*)X + at);
    return number == NUMBER_ROUNDED ? vf_round_bf16(x) : x;
}
static inline const void* matmul_at(const void* X, size_t at, Number number) {
    return (const char*)X + at * number_size(number);
}
// The first n of VL numbers from there, where there are no more; the other lanes are 0.
__attribute__((always_inline)) static inline vf matmul_part(const void* X, size_t at, size_t n, Number number) {
    if (number != NUMBER_BF16) {
        vf part = vf_load_part((const float*)X + at, n);
        return number == NUMBER_ROUNDED ? vf_round_bf16(part) : part;
    }
    if (n >= VL) { return vf_load_bf16((const Bf16*)X + at); }
    Bf16 x[VL] = {0};
    memcpy(x, (const Bf16*)X + at, n * sizeof(Bf16));
    return vf_load_bf16(x);
}

// Packing. A panel is `step` lines (rows of op(A), columns of op(B)), kc numbers of each, stored as
// (kc, width), width >= step, with room for MATMUL_KC, each number in its place. What is past the last line becomes zero,
// and so do numbers that are missing in the end.

// The numbers of one k lie together in memory: src (kc, lines), rows ld apart; they make `panels` panels, a constant where
// this is called. Lanes from `step` to `width` get the next panel's lines or zero: nobody reads them.
__attribute__((always_inline)) static inline void matmul_pack_few(int panels, Number number, MatmulSums sums,
                                                                  float* __restrict__ dst, size_t step, size_t width,
                                                                  const void* __restrict__ src, size_t ld, size_t lines,
                                                                  size_t kc) {
    for (size_t k = 0; k < kc; k++) {
        MATMUL_UNROLL
        for (int p = 0; p < panels; p++) {
            float* d = dst + ((size_t)p * MATMUL_KC + matmul_place(k, sums)) * width;
            for (size_t v = 0; v < width; v += VL) {
                size_t at = (size_t)p * step + v, from = k * ld + at;
                // The lines may end in the last panel, and in those of its lines that the one before gets too.
                int whole = p + 2 < panels;
                vf_store(d + v, whole ? matmul_vector(src, from, number)
                                      : matmul_part(src, from, lines - min_size(at, lines), number));
            }
        }
    }
    for (size_t k = kc; k < matmul_length(kc, sums); k++) {
        for (size_t p = 0; p < (size_t)panels; p++) {
            memset(dst + (p * MATMUL_KC + matmul_place(k, sums)) * width, 0, width * sizeof(float));
        }
    }
}
__attribute__((always_inline)) static inline void matmul_pack_some(Number number, MatmulSums sums, float* dst,
                                                                   size_t step, size_t width, const void* src,
                                                                   size_t ld, size_t lines, size_t kc) {
    switch (div_up(lines, step)) {
        case 1: matmul_pack_few(1, number, sums, dst, step, width, src, ld, lines, kc); break;
        case 2: matmul_pack_few(2, number, sums, dst, step, width, src, ld, lines, kc); break;
        case 3: matmul_pack_few(3, number, sums, dst, step, width, src, ld, lines, kc); break;
        default: matmul_pack_few(4, number, sums, dst, step, width, src, ld, lines, kc); break;
    }
}

#if VL >= 8
// Turns 8 x 8 numbers, r[i][k] to r[k][i]: pairs, then quadruples, then halves of registers change places.
__attribute__((always_inline)) static inline void matmul_turn(__m256 r[8]) {
    __m256 a0 = _mm256_unpacklo_ps(r[0], r[1]), a1 = _mm256_unpackhi_ps(r[0], r[1]);
    __m256 a2 = _mm256_unpacklo_ps(r[2], r[3]), a3 = _mm256_unpackhi_ps(r[2], r[3]);
    __m256 a4 = _mm256_unpacklo_ps(r[4], r[5]), a5 = _mm256_unpackhi_ps(r[4], r[5]);
    __m256 a6 = _mm256_unpacklo_ps(r[6], r[7]), a7 = _mm256_unpackhi_ps(r[6], r[7]);
    __m256 b0 = _mm256_shuffle_ps(a0, a2, 0x44), b1 = _mm256_shuffle_ps(a0, a2, 0xEE);
    __m256 b2 = _mm256_shuffle_ps(a1, a3, 0x44), b3 = _mm256_shuffle_ps(a1, a3, 0xEE);
    __m256 b4 = _mm256_shuffle_ps(a4, a6, 0x44), b5 = _mm256_shuffle_ps(a4, a6, 0xEE);
    __m256 b6 = _mm256_shuffle_ps(a5, a7, 0x44), b7 = _mm256_shuffle_ps(a5, a7, 0xEE);
    r[0] = _mm256_permute2f128_ps(b0, b4, 0x20);
    r[1] = _mm256_permute2f128_ps(b1, b5, 0x20);
    r[2] = _mm256_permute2f128_ps(b2, b6, 0x20);
    r[3] = _mm256_permute2f128_ps(b3, b7, 0x20);
    r[4] = _mm256_permute2f128_ps(b0, b4, 0x31);
    r[5] = _mm256_permute2f128_ps(b1, b5, 0x31);
    r[6] = _mm256_permute2f128_ps(b2, b6, 0x31);
    r[7] = _mm256_permute2f128_ps(b3, b7, 0x31);
}

#endif

// A line's numbers lie together in memory: src (lines, kc), rows ld apart; one panel. Transposes.
__attribute__((always_inline)) static inline void matmul_pack_columns(Number number, MatmulSums sums,
                                                                      float* __restrict__ dst, size_t width,
                                                                      const void* __restrict__ src, size_t ld,
                                                                      size_t lines, size_t kc) {
    size_t whole = 0;
#if VL >= 8
    static const float zeros[MATMUL_KC] = {0};  // stands in for lines that do not exist
    const size_t cache_line = ALIGNMENT / number_size(number);
    whole = kc / 8 * 8;
    for (size_t j = 0; j < width; j += 8) {
        const void* line[8];
        for (size_t r = 0; r < 8; r++) { line[r] = j + r < lines ? matmul_at(src, (j + r) * ld, number) : zeros; }
        for (size_t k = 0; k < whole; k += 8) {
            if (k % cache_line == 0) {  // the next 8 lines: pieces of 1 KB are too short for the hardware to foresee
                for (size_t r = 0; r < 8; r++) { __builtin_prefetch(matmul_at(line[r], 8 * ld + k, number)); }
            }
            __m256 r[8];
            for (size_t i = 0; i < 8; i++) {
                const float* from = (const float*)line[i] + k;
                r[i] = number == NUMBER_BF16      ? eight_of_bf16((const Bf16*)line[i] + k)
                       : number == NUMBER_ROUNDED ? eight_rounded(_mm256_loadu_ps(from))
                                                  : _mm256_loadu_ps(from);
            }
            matmul_turn(r);
            for (size_t i = 0; i < 8; i++) { _mm256_store_ps(dst + matmul_place(k + i, sums) * width + j, r[i]); }
        }
    }
#endif
    for (size_t k = whole; k < matmul_length(kc, sums); k++) {
        for (size_t j = 0; j < width; j++) {
            dst[matmul_place(k, sums) * width + j] = j < lines && k < kc ? matmul_number(src, j * ld + k, number) : 0;
        }
    }
}

// Both for each kind of number. Panels of lines whose numbers of one k lie together (along) are packed four at a time, others
// one by one.
typedef void MatmulPack(int along, MatmulSums sums, float* dst, size_t step, size_t width, const void* src, size_t ld,
                        size_t lines, size_t kc);
#define MATMUL_DEFINE_PACK(name, number)                                                                            \
    static void name(int along, MatmulSums sums, float* dst, size_t step, size_t width, const void* src, size_t ld, \
                     size_t lines, size_t kc) {                                                                     \
        if (!along) {                                                                                               \
            matmul_pack_columns(number, sums, dst, width, src, ld, lines, kc);                                      \
        } else if (step == MATMUL_NR) {                                                                             \
            matmul_pack_some(number, sums, dst, MATMUL_NR, MATMUL_NR, src, ld, lines, kc);                          \
        } else {                                                                                                    \
            matmul_pack_some(number, sums, dst, MATMUL_MR, MATMUL_AP, src, ld, lines, kc);                          \
        }                                                                                                           \
    }
MATMUL_DEFINE_PACK(matmul_pack_fp32, NUMBER_FP32)
MATMUL_DEFINE_PACK(matmul_pack_bf16, NUMBER_BF16)
MATMUL_DEFINE_PACK(matmul_pack_rounded, NUMBER_ROUNDED)

// What computes: a tile of mr x nr; panels of A have ap numbers for each k, those of B nr.
typedef struct {
    const char* name;
    MatmulSums sums;
    size_t mr, ap, nr;
    MatmulPack* packs[2][3];  // of A and of B, for each kind of number
    // C (rows, columns), rows <= mr and columns <= nr, from panels of `length` numbers.
    void (*tile)(size_t rows, size_t columns, size_t length, const float* a, const float* b, float* c, size_t ldc,
                 const MatmulStore* store);
    void (*begin)(void);  // what a thread does before it computes, and afterwards; or NULL
    void (*end)(void);
    MachinePeak* peak;  // of its instruction
} MatmulKernel;

static void matmul_run(size_t rows, size_t columns, size_t length, const float* a, const float* b, float* c, size_t ldc,
                       const MatmulStore* store) {
    matmul_tiles[rows - 1][columns > VL](length, a, b, c, ldc, columns, store);
}
static void matmul_run_fold(size_t rows, size_t columns, size_t length, const float* a, const float* b, float* c,
                            size_t ldc, const MatmulStore* store) {
    matmul_tiles_fold[rows - 1][columns > VL](length, a, b, c, ldc, columns, store);
}
#define MATMUL_PACKS \
    { matmul_pack_fp32, matmul_pack_bf16, matmul_pack_rounded }
#define MATMUL_PANELS \
    MATMUL_MR, MATMUL_AP, MATMUL_NR, { MATMUL_PACKS, MATMUL_PACKS }
static const MatmulKernel matmul_fp32 = {MATMUL_TILE_NAME, SUMS_FP32, MATMUL_PANELS, matmul_run, NULL, NULL,
                                         &machine_fma};

// ---------------------------------------------------------------------------------------------

// At least `bytes` bytes, aligned, kept from call to call; one for each calling thread.
static inline char* matmul_workspace(size_t bytes) {
    static __thread char* buffer;
    static __thread size_t capacity;
    if (bytes > capacity) {
        free(buffer);
        buffer = (char*)xalloc(bytes, 1, "the packed panels of matrix products");
        capacity = bytes;
    }
    return buffer;
}

// Where a thread stands still: while it waits, and when it has a piece of work and all that the piece needs,
// just before it does it. Tests put a scheduler in these two places that tries the worst order.
#ifndef MATMUL_YIELD
#define MATMUL_YIELD() matmul_sleep()
#define MATMUL_READY(piece) ((void)0)
#define MATMUL_PATIENCE 50e-6  // seconds
#endif

// The shortest sleep, with what Linux adds 70 us. After sched_yield() another program would have the processor for what
// is left of its time slice, milliseconds.
static inline void matmul_sleep(void) {
    const struct timespec moment = {0, 20000};
    nanosleep(&moment, NULL);
}

// Waits until another thread has counted *count up to `value`. That one may have lost its processor to another program,
// so after a while this one gives up its own; not sooner, since whoever sleeps may not be let in again at once (dev/LOG.md).
static inline void matmul_wait(const uint32_t* count, uint32_t value) {
    double since = 0;
    for (size_t looks = 1; __atomic_load_n(count, __ATOMIC_ACQUIRE) != value; looks++) {
        if (looks % 1024 != 0) { continue; }
        double now = now_seconds();
        if (since == 0) { since = now; }
        if (now - since >= MATMUL_PATIENCE) { MATMUL_YIELD(); }
    }
}
static inline void matmul_done(uint32_t* count) { __atomic_fetch_add(count, 1, __ATOMIC_RELEASE); }

// An operand as it lies in memory.
typedef struct {
    const void* X;
    Number number;
    size_t ld;
    int along;     // 1: the numbers of one k lie together, 0: those of a line do
    size_t lines;  // rows of A, columns of B
    size_t step;   // lines of a panel: MR or NR
    size_t width;  // numbers of a panel for each k: AP or NR
    MatmulPack* pack;
} MatmulOperand;

// A product cut into work that threads take, piece by piece, from one list. A step is a block of lines of the shared
// operand and some K-blocks; the list is, for steps 0, 1, ...:
//
//     pack 0, pack 1, compute 0, pack 2, compute 1, pack 3, compute 2, ...
//
// To pack a step is to copy what it needs of the shared operand; to compute it, to go over the whole other operand. There
// is no barrier. A piece waits for what it needs, which others took earlier: computing for the panels of its step and for
// the step before of the same rectangle of C; packing until nobody reads the panels that lay in its buffers, three steps
// ago. With the list in this order that is nearly always done, and a thread that loses its processor holds up little: on an
// idle machine that is no faster than a barrier after each phase, on a busy one a fifth to a half (dev/LOG.md).
typedef struct {
    MatmulOperand A, B;
    int share_b;  // 1: B is packed for all, 0: A is
    const MatmulKernel* kernel;
    int accumulate;
    size_t K, ldc;
    float alpha;
    const float* bias;
    float* C;
    size_t block, chunk;            // lines of the shared operand and K-blocks of a step
    size_t chunks, steps;           // steps of a block, and in all
    size_t group, part, tasks;      // lines of the other and of the shared operand of a rectangle; rectangles at most
    size_t block_size, group_size;  // floats of a block's and a group's panels of one K-block
    float *packed, *own;            // the shared panels of three steps in turn; the panels of each thread
    // Counters, 0 in the beginning.
    uint32_t* packs;     // (steps) groups of panels packed
    uint32_t* computed;  // (steps) rectangles computed
    uint32_t* sums;      // (blocks, tasks) steps summed
    uint64_t* next;      // piece of the list
} MatmulJob;

static inline const MatmulOperand* matmul_shared(const MatmulJob* job) { return job->share_b ? &job->B : &job->A; }
static inline const MatmulOperand* matmul_other(const MatmulJob* job) { return job->share_b ? &job->A : &job->B; }

// A step in numbers.
typedef struct {
    size_t block, first, lines;  // block of the shared operand: its number, place and size
    size_t k0, k1;               // from, to
    float* panels;
    size_t groups, packs;  // of four panels, so that what is read of a row lies together: of a K-block, of all
    size_t parts, tasks;   // rectangles beside each other, and in all
} MatmulStep;

static inline MatmulStep matmul_step(const MatmulJob* job, size_t step) {
    const MatmulOperand* shared = matmul_shared(job);
    size_t block = step / job->chunks, chunk = step % job->chunks;
    MatmulStep s = {block, block * job->block};
    s.lines = min_size(job->block, shared->lines - s.first);
    s.k0 = chunk * job->chunk * MATMUL_KC, s.k1 = min_size(s.k0 + job->chunk * MATMUL_KC, job->K);
    s.panels = job->packed + step % 3 * job->chunk * job->block_size;
    s.groups = div_up(s.lines, 4 * shared->step);
    s.packs = s.groups * max_size(1, div_up(s.k1 - s.k0, MATMUL_KC));
    s.parts = div_up(s.lines, job->part);
    s.tasks = s.parts * div_up(matmul_other(job)->lines, job->group);
    return s;
}

// Packs lines [first, last) of x, kc numbers of each from k0 on.
static inline void matmul_pack(float* p, const MatmulOperand* x, const MatmulKernel* kernel, size_t first, size_t last,
                               size_t k0, size_t kc) {
    if (kc == 0) { return; }  // then there may be no operand at all
    size_t panels = x->along ? 4 : 1, lines = panels * x->step;
    for (size_t i = first; i < last; i += lines, p += panels * x->width * MATMUL_KC) {
        const void* from = matmul_at(x->X, x->along ? k0 * x->ld + i : i * x->ld + k0, x->number);
        x->pack(x->along, kernel->sums, p, x->step, x->width, from, x->ld, min_size(lines, last - i), kc);
    }
}

static inline void matmul_pack_group(const MatmulJob* job, const MatmulStep* s, size_t piece) {
    const MatmulOperand* x = matmul_shared(job);
    size_t first = piece % s->groups * 4 * x->step, last = min_size(first + 4 * x->step, s->lines);
    size_t b = piece / s->groups, k0 = s->k0 + b * MATMUL_KC, kc = min_size(MATMUL_KC, s->k1 - k0);
    float* panels = s->panels + b * job->block_size + first / x->step * x->width * MATMUL_KC;
    matmul_pack(panels, x, job->kernel, s->first + first, s->first + last, k0, kc);
}

// What a thread fetches while it computes: the numbers that it packs next, a few cache lines with every tile.
typedef struct {
    const char* row;
    size_t rows, bytes, at, next;  // of a row that are wanted, that are fetched, and to the next row
} MatmulAhead;

static inline MatmulAhead matmul_ahead(const MatmulOperand* x, size_t first, size_t lines, size_t k0, size_t kc) {
    MatmulAhead ahead = {NULL, 0, 0, 0, 0};
    if (first >= x->lines || kc == 0) { return ahead; }
    size_t number = number_size(x->number);
    lines = min_size(lines, x->lines - first);
    ahead.row = (const char*)x->X + number * (x->along ? k0 * x->ld + first : first * x->ld + k0);
    ahead.rows = x->along ? kc : lines, ahead.bytes = number * (x->along ? lines : kc), ahead.next = number * x->ld;
    return ahead;
}
static inline void matmul_fetch(MatmulAhead* a, size_t count) {
    for (; count > 0 && a->rows > 0; count--) {
        __builtin_prefetch(a->row + a->at, 0, 2);  // into the L2 cache
        a->at += ALIGNMENT;
        if (a->at >= a->bytes) { a->at = 0, a->row += a->next, a->rows--; }
    }
}

// A rectangle of C, all K-blocks of a step: `thread` of `threads`.
static inline void matmul_compute_task(const MatmulJob* job, const MatmulStep* s, size_t task, size_t thread,
                                       size_t threads) {
    enum { KC = MATMUL_KC };
    const MatmulKernel* kernel = job->kernel;
    const size_t mr = kernel->mr, nr = kernel->nr, panel = kernel->ap * KC, height = 96 / mr * mr;
    const MatmulOperand* other = matmul_other(job);
    float* own = job->own + thread * job->group_size;
    size_t first = task / s->parts * job->group, lines = min_size(job->group, other->lines - first);
    size_t from = task % s->parts * job->part, length = min_size(job->part, s->lines - from);
    size_t i0 = job->share_b ? first : s->first + from, rows = job->share_b ? lines : length;
    size_t j0 = job->share_b ? s->first + from : first, columns = job->share_b ? length : lines;
    for (size_t k0 = s->k0, b = 0; b == 0 || k0 < s->k1; k0 += KC, b++) {
        size_t kc = min_size(KC, s->k1 - k0), length = matmul_length(kc, kernel->sums), k = k0 + KC;
        matmul_pack(own, other, job->kernel, first, first + lines, k0, kc);
        const float* shared = s->panels + b * job->block_size;
        const float* A = job->share_b ? own : shared + from / mr * panel;
        const float* B = job->share_b ? shared + from * KC : own;
        // Next are the same lines of the next K-block; at the end others, if threads take turns.
        MatmulAhead ahead = k < s->k1 ? matmul_ahead(other, first, lines, k, min_size(KC, s->k1 - k))
                                      : matmul_ahead(other, first + threads * job->group, job->group, s->k0,
                                                     min_size(KC, s->k1 - s->k0));
        size_t fetch = div_up(ahead.rows * div_up(ahead.bytes, ALIGNMENT), div_up(rows, mr) * div_up(columns, nr));
        for (size_t top = 0; top < rows; top += height) {
            for (size_t j = 0; j < columns; j += nr) {
                size_t width = min_size(nr, columns - j);
                MatmulStore store = {job->alpha, job->accumulate || k0 > 0, NULL};
                if (job->bias && k0 == 0) { store.bias = job->bias + j0 + j; }
                const float* a = A + top / mr * panel;
                for (size_t i = top; i < min_size(rows, top + height); i += mr, a += panel) {
                    matmul_fetch(&ahead, fetch);
                    kernel->tile(min_size(mr, rows - i), width, length, a, B + j * KC,
                                 job->C + (i0 + i) * job->ldc + j0 + j, job->ldc, &store);
                }
            }
        }
    }
}

// What one thread does: takes pieces until the list is at its end. Phase 0 of the list packs step
// 0, phase 2 x + 1 packs step x + 1, phase 2 x + 2 computes step x.
static inline void matmul_work(const MatmulJob* job, size_t thread, size_t threads) {
    size_t phase = 0, begin = 0;
    MatmulStep s = matmul_step(job, 0);
    size_t step = 0, pieces = s.packs;
    for (;;) {
        size_t piece = __atomic_fetch_add(job->next, 1, __ATOMIC_RELAXED);
        while (piece >= begin + pieces) {
            if (++phase > 2 * job->steps) { return; }
            begin += pieces;
            step = phase % 2 ? phase / 2 + 1 : phase / 2 - 1;
            pieces = 0;
            if (step < job->steps) {
                s = matmul_step(job, step);
                pieces = phase % 2 ? s.packs : s.tasks;
            }
        }
        if (phase == 0 || phase % 2) {
            if (step >= 3) { matmul_wait(&job->computed[step - 3], (uint32_t)matmul_step(job, step - 3).tasks); }
            MATMUL_READY(piece);
            matmul_pack_group(job, &s, piece - begin);
            matmul_done(&job->packs[step]);
        } else {
            uint32_t* sum = &job->sums[s.block * job->tasks + piece - begin];
            matmul_wait(&job->packs[step], (uint32_t)s.packs);
            matmul_wait(sum, (uint32_t)(step % job->chunks));
            MATMUL_READY(piece);
            matmul_compute_task(job, &s, piece - begin, thread, threads);
            matmul_done(sum);
            matmul_done(&job->computed[step]);
        }
    }
}

// Cuts a product, M and N above 0, into work for `threads` threads; its panels and counters lie in the workspace. `most`:
// lines of the shared operand in a step, counted in each of its K-blocks.
static inline MatmulJob matmul_job(const MatmulKernel* kernel, int transA, int transB, size_t M, size_t N, size_t K,
                                   float alpha, const void* A, Number number_a, size_t lda, const void* B,
                                   Number number_b, size_t ldb, int accumulate, float* C, size_t ldc, const float* bias,
                                   size_t threads, size_t most) {
    enum { KC = MATMUL_KC };
    MatmulJob job = {{A, number_a, lda, transA, M, kernel->mr, kernel->ap, kernel->packs[0][number_a]},
                     {B, number_b, ldb, !transB, N, kernel->nr, kernel->nr, kernel->packs[1][number_b]},
                     N < M,
                     kernel,
                     accumulate,
                     K,
                     ldc,
                     alpha,
                     bias,
                     C};
    const MatmulOperand *shared = matmul_shared(&job), *other = matmul_other(&job);

    size_t blocks = div_up(shared->lines, most), blocks_k = max_size(1, div_up(K, KC));
    job.block = round_up(div_up(shared->lines, blocks), shared->step);
    blocks = div_up(shared->lines, job.block);
    job.chunk = min_size(blocks_k, max_size(1, most / job.block));
    job.chunks = div_up(blocks_k, job.chunk);
    job.steps = blocks * job.chunks;

    // Four rectangles or more for each thread, by fewer lines of the other operand each. Where there are fewer groups of them
    // than threads, by parts of the shared one too, and each part packs its group again.
    job.group = job.share_b ? 96 / kernel->mr * kernel->mr : 64, job.part = job.block;
    while (job.group > 2 * other->step && div_up(other->lines, job.group) < 4 * threads) {
        job.group = round_up(job.group / 2, other->step);
    }
    size_t groups = div_up(other->lines, job.group);
    while (job.part > 2 * shared->step && groups * div_up(job.block, job.part) < threads) {
        job.part = round_up(job.part / 2, shared->step);
    }
    job.tasks = groups * div_up(job.block, job.part);

    job.block_size = job.block / shared->step * shared->width * KC;
    job.group_size = job.group / other->step * other->width * KC;
    size_t panels = min_size(3, job.steps) * job.chunk * job.block_size, own = threads * job.group_size;
    size_t counters = 2 * job.steps + blocks * job.tasks, bytes = (panels + own) * sizeof(float);
    char* memory = matmul_workspace(bytes + ALIGNMENT + counters * sizeof(uint32_t));
    job.packed = (float*)memory, job.own = job.packed + panels;
    job.next = (uint64_t*)(memory + bytes);
    job.packs = (uint32_t*)(memory + bytes + ALIGNMENT);
    job.computed = job.packs + job.steps;
    job.sums = job.computed + job.steps;
    memset(job.next, 0, ALIGNMENT + counters * sizeof(uint32_t));
    return job;
}

// kernel: what computes it, in which order of sums. number_a, number_b: what the operands are made of; in a product in bf16, one
// that is not of bf16 has none but numbers that bf16 holds, or is rounded.
static inline void gemm_packed(const MatmulKernel* kernel, int transA, int transB, size_t M, size_t N, size_t K,
                               float alpha, const void* A, Number number_a, size_t lda, const void* B, Number number_b,
                               size_t ldb, int accumulate, float* C, size_t ldc, const float* bias) {
    enum { MOST = 1024 };
    if (M == 0 || N == 0) { return; }
    int parallel = thread_count() > 1 && M * N * max_size(K, 1) > MATMUL_SERIAL;
    size_t threads = parallel ? (size_t)thread_count() : 1;
    MatmulJob job = matmul_job(kernel, transA, transB, M, N, K, alpha, A, number_a, lda, B, number_b, ldb, accumulate,
                               C, ldc, bias, threads, MOST);
#pragma omp parallel if (parallel)
    {
        unsigned before = kernel->sums ? denormals_off() : 0;
        if (kernel->begin) { kernel->begin(); }
        matmul_work(&job, (size_t)thread_index(), threads);
        if (kernel->end) { kernel->end(); }
        if (kernel->sums) { denormals_restore(before); }
    }
}

#endif
