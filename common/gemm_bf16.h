// gemm_bf16.h - products in bf16: how they are summed, and kernels made of the instructions that processors have for them.
//
// What is computed, to the bit (gemm_reference_bf16 says it in C): as in gemm.h, but for the order in which the numbers of a
// K-block are summed. There are two orders, since there are two instructions:
//
//   SUMS_AMX    TDPBF16PS, of Intel's AMX: of each MATMUL_FOLD numbers, those with an even k make a chain of fused
//               multiply-adds from 0, the others another; both are added, then that is added to the block's sum
//   SUMS_PAIRS  VDPBF16PS, of AVX512-BF16: one chain, in which of each pair of numbers the second comes first
//
// Numbers that are missing at the end of a fold or of a pair are zeros. A denormal number counts as 0 wherever it occurs, in
// operands, sums and C (on processors other than x86 it does not). Sources: Intel's Software Developer's Manual, volume 2,
// TDPBF16PS and VDPBF16PS.
//
// Both orders can also be computed by fp32 instructions (gemm.h's tiles, with numbers in other places of a panel), so that a
// run that began on one x86 processor can go on, with the same bits, on any other.
//
// Panels of the kernels here hold words, two numbers of bf16 each: pair w of a line has its numbers 2 w and 2 w + 1, the first
// in the lower half.
#ifndef PONDER_GEMM_BF16_H
#define PONDER_GEMM_BF16_H

#include "gemm.h"

// The Makefile says whether the compiler knows both instructions. They go into the build for AVX-512 alone.
#if defined(HAVE_BF16_INSTRUCTIONS) && VL == 16
#include <cpuid.h>
#include <sys/syscall.h>
#define BF16_INSTRUCTIONS 1
#define PAIRS_TARGET __attribute__((target("avx512bf16")))
#define AMX_TARGET __attribute__((target("amx-tile,amx-bf16")))
#else
#define BF16_INSTRUCTIONS 0
#define PAIRS_TARGET
#define AMX_TARGET
#endif

// The definition. All numbers of A and B are such that bf16 holds them; the caller has switched denormal numbers off. Not
// inlined, so that no operation of it leaves the place where they are.
__attribute__((noinline)) static void gemm_reference_bf16(MatmulSums sums, int transA, int transB, size_t M, size_t N,
                                                          size_t K, float alpha, const float* A, size_t lda,
                                                          const float* B, size_t ldb, int accumulate, float* C,
                                                          size_t ldc, const float* bias) {
    for (size_t i = 0; i < M; i++) {
        for (size_t j = 0; j < N; j++) {
            float* c = C + i * ldc + j;
            for (size_t k0 = 0; k0 == 0 || k0 < K; k0 += MATMUL_KC) {
                size_t end = min_size(k0 + MATMUL_KC, K), fold = sums == SUMS_AMX ? MATMUL_FOLD : 2;
                float sum = 0;
                for (size_t first = k0; first < end; first += fold) {
                    float a[MATMUL_FOLD], b[MATMUL_FOLD], even = 0, odd = 0;
                    for (size_t x = 0; x < fold; x++) {
                        a[x] = first + x < K ? MATMUL_AT(A, transA, lda, i, first + x) : 0;
                        b[x] = first + x < K ? MATMUL_AT(B, transB, ldb, first + x, j) : 0;
                    }
                    if (sums == SUMS_PAIRS) {
                        sum = fma_f(a[0], b[0], fma_f(a[1], b[1], sum));
                        continue;
                    }
                    for (size_t x = 0; x < MATMUL_FOLD; x += 2) {
                        even = fma_f(a[x], b[x], even);
                        odd = fma_f(a[x + 1], b[x + 1], odd);
                    }
                    sum = sum + (even + odd);
                }
                float block = alpha * sum;
                if (k0 == 0 && bias) { block = block + bias[j]; }
                *c = k0 == 0 && !accumulate ? block : *c + block;
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------
// Packing words.

enum { WORDS = MATMUL_FOLD / 2, BLOCK = WORDS * WORDS };  // of a fold; of a fold of 16 lines

// Eight words are what a row of an 8 x 8 piece of a block has: of eight pairs of a line, whose numbers lie together, or of a pair
// in eight lines, if those do (along). `exist` numbers do, the others are 0; so do `second` of a pair's two numbers.
#if VL >= 8
typedef __m256 Eight;
typedef uint32_t EightWords __attribute__((vector_size(32)));

// The first `exist` numbers from X[at] on, each in the upper half of a word.
__attribute__((always_inline)) static inline EightWords words_upper(const void* X, size_t at, size_t exist,
                                                                    Number number) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const Bf16* half = (const Bf16*)X + at;
    const float* whole = (const float*)X + at;
    if (exist >= 8) {
        return (EightWords)(number == NUMBER_BF16 ? eight_of_bf16(half) : eight_rounded(_mm256_loadu_ps(whole)));
    }
    if (number == NUMBER_BF16) {
        Bf16 some[8] = {0};
        for (size_t i = 0; i < exist; i++) { some[i] = half[i]; }
        return (EightWords)eight_of_bf16(some);
    }
    __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)exist), lane);
    return (EightWords)eight_rounded(_mm256_maskload_ps(whole, mask));
}
__attribute__((always_inline)) static inline Eight words_of_line(const void* X, size_t at, size_t exist,
                                                                 Number number) {
    if (number == NUMBER_BF16 && exist >= 16) {
        return _mm256_loadu_ps((const float*)(const void*)((const Bf16*)X + at));
    }
    EightWords low = words_upper(X, at, exist, number),
               high = words_upper(X, at + 8, exist - min_size(exist, 8), number);
    __m256i words = _mm256_packus_epi32((__m256i)(low >> 16), (__m256i)(high >> 16));
    return _mm256_castsi256_ps(_mm256_permute4x64_epi64(words, 0xD8));  // it packs each half of a register for itself
}
__attribute__((always_inline)) static inline Eight words_of_pair(const void* X, size_t at, size_t ld, size_t exist,
                                                                 int second, Number number) {
    EightWords words = words_upper(X, at, exist, number) >> 16;
    if (second) { words |= words_upper(X, at + ld, exist, number); }
    return (Eight)words;
}
static inline void words_turn(Eight* x) { matmul_turn(x); }
static inline void words_write(uint32_t* to, Eight x) { _mm256_storeu_ps((float*)(void*)to, x); }
#else
typedef struct {
    uint32_t word[8];
} Eight;

static inline uint32_t words_number(const void* X, size_t at, int exists, Number number) {
    if (!exists) { return 0; }
    return number == NUMBER_BF16 ? ((const Bf16*)X)[at] : bf16_of_float(((const float*)X)[at]);
}
static inline Eight words_of_line(const void* X, size_t at, size_t exist, Number number) {
    Eight x;
    for (size_t i = 0; i < 8; i++) {
        x.word[i] = words_number(X, at + 2 * i, 2 * i < exist, number) |
                    words_number(X, at + 2 * i + 1, 2 * i + 1 < exist, number) << 16;
    }
    return x;
}
static inline Eight words_of_pair(const void* X, size_t at, size_t ld, size_t exist, int second, Number number) {
    Eight x;
    for (size_t i = 0; i < 8; i++) {
        x.word[i] = words_number(X, at + i, i < exist, number) |
                    words_number(X, at + ld + i, second && i < exist, number) << 16;
    }
    return x;
}
static inline void words_turn(Eight* x) {
    for (size_t i = 0; i < 8; i++) {
        for (size_t k = i + 1; k < 8; k++) {
            uint32_t word = x[i].word[k];
            x[i].word[k] = x[k].word[i], x[k].word[i] = word;
        }
    }
}
static inline void words_write(uint32_t* to, Eight x) { memcpy(to, x.word, sizeof x.word); }
#endif

// A block: 16 lines of src, of which `lines` exist, and n <= MATMUL_FOLD numbers of each, from src[at] on. Its rows lie
// `stride` apart in memory: of a line's words each (by_line), else of those of a pair.
__attribute__((always_inline)) static inline void words_block(Number number, int along, int by_line, uint32_t* to,
                                                              size_t stride, const void* src, size_t at, size_t ld,
                                                              size_t lines, size_t n) {
    for (size_t line = 0; line < WORDS; line += 8) {
        for (size_t pair = 0; pair < WORDS; pair += 8) {
            size_t numbers = n - min_size(n, 2 * pair), below = lines - min_size(lines, line);
            Eight x[8];
            MATMUL_UNROLL
            for (size_t i = 0; i < 8; i++) {
                if (along) {
                    x[i] = words_of_pair(src, at + 2 * (pair + i) * ld + line, ld, 2 * i < numbers ? below : 0,
                                         2 * i + 1 < numbers, number);
                } else {
                    x[i] = words_of_line(src, at + (line + i) * ld + 2 * pair, i < below ? numbers : 0, number);
                }
            }
            if (along == by_line) { words_turn(x); }
            MATMUL_UNROLL
            for (size_t i = 0; i < 8; i++) {
                words_write(by_line ? to + (line + i) * stride + pair : to + (pair + i) * stride + line, x[i]);
            }
        }
    }
}

// Panels of words: `step` lines of src each, as for gemm.h's, in blocks. by_line: blocks of 16 lines lie one behind the other,
// each with all its folds; else a panel has `width` words for each pair.
__attribute__((always_inline)) static inline void words_pack(Number number, int along, int blocks, int by_line,
                                                             float* dst, size_t step, size_t width, const void* src,
                                                             size_t ld, size_t lines, size_t kc) {
    for (size_t first = 0; first < lines; first += step, dst += width * MATMUL_KC) {
        uint32_t* panel = (uint32_t*)(void*)dst;
        for (size_t from = 0; from < width; from += WORDS) {
            // Past `step` there may be lines of the next panel: nobody reads them.
            size_t line = first + from, exist = min_size(lines - min_size(line, lines), WORDS);
            for (size_t k = 0; k < kc; k += MATMUL_FOLD) {
                size_t at = along ? k * ld + line : line * ld + k, n = min_size(MATMUL_FOLD, kc - k);
                uint32_t* to = panel + (blocks ? from * (MATMUL_KC / 2) + k * (WORDS / 2) : k / 2 * width + from);
                size_t stride = blocks ? (size_t)WORDS : width;
                if (exist == WORDS && n == MATMUL_FOLD) {  // constants, for the compiler's sake
                    words_block(number, along, by_line, to, stride, src, at, ld, WORDS, MATMUL_FOLD);
                } else {
                    words_block(number, along, by_line, to, stride, src, at, ld, exist, n);
                }
            }
        }
    }
}
#define WORDS_DEFINE(name, number, blocks, by_line)                                                                 \
    static void name(int along, MatmulSums sums, float* dst, size_t step, size_t width, const void* src, size_t ld, \
                     size_t lines, size_t kc) {                                                                     \
        (void)sums;                                                                                                 \
        if (along) {                                                                                                \
            words_pack(number, 1, blocks, by_line, dst, step, width, src, ld, lines, kc);                           \
        } else {                                                                                                    \
            words_pack(number, 0, blocks, by_line, dst, step, width, src, ld, lines, kc);                           \
        }                                                                                                           \
    }
WORDS_DEFINE(pairs_pack_bf16, NUMBER_BF16, 0, 0)
WORDS_DEFINE(pairs_pack_rounded, NUMBER_ROUNDED, 0, 0)
WORDS_DEFINE(amx_pack_a_bf16, NUMBER_BF16, 1, 1)
WORDS_DEFINE(amx_pack_a_rounded, NUMBER_ROUNDED, 1, 1)
WORDS_DEFINE(amx_pack_b_bf16, NUMBER_BF16, 1, 0)
WORDS_DEFINE(amx_pack_b_rounded, NUMBER_ROUNDED, 1, 0)

// C (rows, columns) from the sums of a tile, `width` numbers a row.
__attribute__((noinline)) static void words_store(const float* __restrict__ sums, size_t width, size_t rows,
                                                  size_t columns, float* __restrict__ c, size_t ldc,
                                                  MatmulStore store) {
    for (size_t i = 0; i < rows; i++, c += ldc, sums += width) {
        size_t j = 0;
        for (; j + VL <= columns; j += VL) {
            vf block = store.alpha * vf_load(sums + j);
            if (store.bias) { block = block + vf_load(store.bias + j); }
            vf_store(c + j, store.add ? vf_load(c + j) + block : block);
        }
        for (; j < columns; j++) {
            float block = store.alpha * sums[j];
            if (store.bias) { block = block + store.bias[j]; }
            c[j] = store.add ? c[j] + block : block;
        }
    }
}

// ---------------------------------------------------------------------------------------------
// VDPBF16PS. Tiles are those of AVX-512, with words for numbers. `emulated` is a constant where these are called: 1 computes by
// fp32 instructions what the instruction is defined to, for tests on processors without it.

enum { PAIRS_MR = 14, PAIRS_AP = 16, PAIRS_NR = 32, PAIRS_VECTOR = 16 };
typedef float Words __attribute__((vector_size(4 * PAIRS_VECTOR), aligned(4), may_alias));

// *sum += the products of the pair at a with the 16 pairs at b
PAIRS_TARGET __attribute__((always_inline)) static inline void pairs_dot(Words* sum, const float* a, const float* b,
                                                                         int emulated) {
#if BF16_INSTRUCTIONS
    if (!emulated) {
        __m512bh x = (__m512bh)_mm512_set1_ps(*a), y = (__m512bh)_mm512_loadu_ps(b);
        *sum = (Words)_mm512_dpbf16_ps((__m512)*sum, x, y);
        return;
    }
#endif
    (void)emulated;
    uint32_t x, y;
    memcpy(&x, a, sizeof x);
    for (int i = 0; i < PAIRS_VECTOR; i++) {
        memcpy(&y, b + i, sizeof y);
        float odd = fma_f(float_of_bf16((Bf16)(x >> 16)), float_of_bf16((Bf16)(y >> 16)), (*sum)[i]);
        (*sum)[i] = fma_f(float_of_bf16((Bf16)x), float_of_bf16((Bf16)y), odd);
    }
}

// The first `exist` rows and `columns` columns of a tile of `rows` x (vectors * 16), which are constants where this is called.
PAIRS_TARGET __attribute__((always_inline)) static inline void pairs_tile(int emulated, int rows, int vectors,
                                                                          size_t exist, size_t columns, size_t length,
                                                                          const float* a, const float* b, float* c,
                                                                          size_t ldc, const MatmulStore* store) {
    Words sum[PAIRS_MR][2];
    float sums[PAIRS_MR * PAIRS_NR];
    MATMUL_UNROLL
    for (int i = 0; i < rows; i++) {
        sum[i][0] = sum[i][1] = (Words){0};
        for (int v = 0; v < vectors; v++) { __builtin_prefetch(c + (size_t)i * ldc + v * PAIRS_VECTOR, 1); }
    }
    for (size_t w = 0; w < length / 2; w++, a += PAIRS_AP, b += PAIRS_NR) {
        MATMUL_UNROLL
        for (int i = 0; i < rows; i++) {
            pairs_dot(&sum[i][0], a + i, b, emulated);
            if (vectors == 2) { pairs_dot(&sum[i][1], a + i, b + PAIRS_VECTOR, emulated); }
        }
    }
    MATMUL_UNROLL
    for (int i = 0; i < rows; i++) {
        *(Words*)(void*)(sums + i * PAIRS_NR) = sum[i][0];
        *(Words*)(void*)(sums + i * PAIRS_NR + PAIRS_VECTOR) = sum[i][1];
    }
    words_store(sums, PAIRS_NR, exist, columns, c, ldc, *store);
}

PAIRS_TARGET static void pairs_run_emulated(size_t rows, size_t columns, size_t length, const float* a, const float* b,
                                            float* c, size_t ldc, const MatmulStore* store) {
    pairs_tile(1, PAIRS_MR, 2, rows, columns, length, a, b, c, ldc, store);
}
#define PAIRS_PACKS \
    { pairs_pack_rounded, pairs_pack_bf16, pairs_pack_rounded }
#define PAIRS_PANELS \
    SUMS_PAIRS, PAIRS_MR, PAIRS_AP, PAIRS_NR, { PAIRS_PACKS, PAIRS_PACKS }

#if BF16_INSTRUCTIONS
#define PAIRS_DEFINE_TILE(rows, vectors)                                                                  \
    PAIRS_TARGET static void pairs_tile_##rows##_##vectors(size_t columns, size_t length, const float* a, \
                                                           const float* b, float* c, size_t ldc,          \
                                                           const MatmulStore* store) {                    \
        pairs_tile(0, rows, vectors, rows, columns, length, a, b, c, ldc, store);                         \
    }
#define PAIRS_DEFINE_TILES(rows) PAIRS_DEFINE_TILE(rows, 1) PAIRS_DEFINE_TILE(rows, 2)
MATMUL_ROWS_14(PAIRS_DEFINE_TILES)
#define PAIRS_LIST_TILE(rows) {pairs_tile_##rows##_1, pairs_tile_##rows##_2},
static void pairs_run(size_t rows, size_t columns, size_t length, const float* a, const float* b, float* c, size_t ldc,
                      const MatmulStore* store) {
    static void (*const tiles[PAIRS_MR][2])(size_t, size_t, const float*, const float*, float*, size_t,
                                            const MatmulStore*) = {MATMUL_ROWS_14(PAIRS_LIST_TILE)};
    tiles[rows - 1][columns > PAIRS_VECTOR](columns, length, a, b, c, ldc, store);
}

// As machine_fma_rounds(): 14 chains, which hide the latency of an instruction.
PAIRS_TARGET __attribute__((noinline)) static void pairs_rounds(size_t rounds, volatile float* x) {
    __m512 sum[14], all = _mm512_setzero_ps();
    __m512bh a = (__m512bh)_mm512_set1_ps(x[0]);
    for (int i = 0; i < 14; i++) { sum[i] = _mm512_set1_ps(x[0] + (float)i); }
    for (size_t r = 0; r < rounds; r++) {
        MATMUL_UNROLL
        for (int i = 0; i < 14; i++) { sum[i] = _mm512_dpbf16_ps(sum[i], a, a); }
    }
    for (int i = 0; i < 14; i++) { all = _mm512_add_ps(all, sum[i]); }
    x[0] = _mm512_cvtss_f32(all);
}
static MachinePeak pairs_peak = {pairs_rounds, 14 * PAIRS_VECTOR * 4};
#endif

// ---------------------------------------------------------------------------------------------
// AMX. Eight registers of 16 rows of 64 bytes: four sum a tile of 32 x 32, two have A, two B. A block of A has a line's 16 words
// in a row, one of B the 16 lines' words of a pair.

enum { AMX_SIDE = 32, AMX_PANEL = MATMUL_KC / 2 * WORDS };  // AMX_PANEL: words of 16 lines, all folds of a K-block

static __thread uint32_t amx_registers[8][BLOCK];  // where AMX is emulated

static void amx_emulate_dot(int c, int a, int b) {
    for (size_t i = 0; i < WORDS; i++) {
        for (size_t j = 0; j < WORDS; j++) {
            float even = 0, odd = 0, sum;
            for (size_t w = 0; w < WORDS; w++) {
                uint32_t x = amx_registers[a][i * WORDS + w], y = amx_registers[b][w * WORDS + j];
                even = fma_f(float_of_bf16((Bf16)x), float_of_bf16((Bf16)y), even);
                odd = fma_f(float_of_bf16((Bf16)(x >> 16)), float_of_bf16((Bf16)(y >> 16)), odd);
            }
            memcpy(&sum, &amx_registers[c][i * WORDS + j], sizeof sum);
            sum = sum + (even + odd);
            memcpy(&amx_registers[c][i * WORDS + j], &sum, sizeof sum);
        }
    }
}

// The instructions; register numbers are constants.
#if BF16_INSTRUCTIONS
#define AMX_REAL(...) __VA_ARGS__
#else
#define AMX_REAL(...) (void)0
#endif
#define AMX_ZERO(c)                                           \
    if (emulated) {                                           \
        memset(amx_registers[c], 0, sizeof amx_registers[c]); \
    } else {                                                  \
        AMX_REAL(_tile_zero(c));                              \
    }
#define AMX_LOAD(c, from)                                        \
    if (emulated) {                                              \
        memcpy(amx_registers[c], from, sizeof amx_registers[c]); \
    } else {                                                     \
        AMX_REAL(_tile_loadd(c, from, 4 * WORDS));               \
    }
#define AMX_DOT(c, a, b)                   \
    if (emulated) {                        \
        amx_emulate_dot(c, a, b);          \
    } else {                               \
        AMX_REAL(_tile_dpbf16ps(c, a, b)); \
    }
#define AMX_STORE(c, to)                                                                         \
    if (emulated) {                                                                              \
        for (size_t i = 0; i < WORDS; i++) {                                                     \
            memcpy((to) + i * AMX_SIDE, amx_registers[c] + i * WORDS, WORDS * sizeof(uint32_t)); \
        }                                                                                        \
    } else {                                                                                     \
        AMX_REAL(_tile_stored(c, to, 4 * AMX_SIDE));                                             \
    }

// emulated, below (there is a lower half of the tile's rows) and right are constants where this is called.
AMX_TARGET __attribute__((always_inline)) static inline void amx_tile(int emulated, int below, int right, size_t rows,
                                                                      size_t columns, size_t length, const float* a,
                                                                      const float* b, float* c, size_t ldc,
                                                                      const MatmulStore* store) {
    __attribute__((aligned(ALIGNMENT))) float sums[AMX_SIDE * AMX_SIDE];
    for (size_t i = 0; i < rows; i++) {
        __builtin_prefetch(c + i * ldc, 1), __builtin_prefetch(c + i * ldc + columns - 1, 1);
    }
    __asm__ volatile("" ::: "memory");  // what was packed is in memory: loads below say nothing of what they read
    AMX_ZERO(0)
    if (right) { AMX_ZERO(1) }
    if (below) { AMX_ZERO(2) }
    if (below && right) { AMX_ZERO(3) }
    for (size_t k = 0; k < length; k += MATMUL_FOLD, a += BLOCK, b += BLOCK) {
        AMX_LOAD(4, a)
        AMX_LOAD(6, b)
        AMX_DOT(0, 4, 6)
        if (right) {
            AMX_LOAD(7, b + AMX_PANEL)
            AMX_DOT(1, 4, 7)
        }
        if (below) {
            AMX_LOAD(5, a + AMX_PANEL)
            AMX_DOT(2, 5, 6)
        }
        if (below && right) { AMX_DOT(3, 5, 7) }
    }
    AMX_STORE(0, sums)
    if (right) { AMX_STORE(1, sums + WORDS) }
    if (below) { AMX_STORE(2, sums + WORDS * AMX_SIDE) }
    if (below && right) { AMX_STORE(3, sums + WORDS * AMX_SIDE + WORDS) }
    words_store(sums, AMX_SIDE, rows, columns, c, ldc, *store);
}
#define AMX_DEFINE_RUN(name, emulated)                                                                                \
    AMX_TARGET static void name(size_t rows, size_t columns, size_t length, const float* a, const float* b, float* c, \
                                size_t ldc, const MatmulStore* store) {                                               \
        if (rows > WORDS && columns > WORDS) {                                                                        \
            amx_tile(emulated, 1, 1, rows, columns, length, a, b, c, ldc, store);                                     \
        } else if (rows > WORDS) {                                                                                    \
            amx_tile(emulated, 1, 0, rows, columns, length, a, b, c, ldc, store);                                     \
        } else if (columns > WORDS) {                                                                                 \
            amx_tile(emulated, 0, 1, rows, columns, length, a, b, c, ldc, store);                                     \
        } else {                                                                                                      \
            amx_tile(emulated, 0, 0, rows, columns, length, a, b, c, ldc, store);                                     \
        }                                                                                                             \
    }
AMX_DEFINE_RUN(amx_run_emulated, 1)
#define AMX_PANELS                                                   \
    SUMS_AMX, AMX_SIDE, AMX_SIDE, AMX_SIDE, {                        \
        {amx_pack_a_rounded, amx_pack_a_bf16, amx_pack_a_rounded}, { \
            amx_pack_b_rounded, amx_pack_b_bf16, amx_pack_b_rounded  \
        }                                                            \
    }

#if BF16_INSTRUCTIONS
AMX_DEFINE_RUN(amx_run, 0)
// Shapes of the registers: of all eight, 16 rows of 64 bytes.
AMX_TARGET static void amx_begin(void) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shapes;
    memset(&shapes, 0, sizeof shapes);
    shapes.palette = 1;
    for (int i = 0; i < 8; i++) { shapes.bytes[i] = 4 * WORDS, shapes.rows[i] = WORDS; }
    __asm__ volatile("" ::: "memory");
    _tile_loadconfig(&shapes);
}
AMX_TARGET static void amx_end(void) { _tile_release(); }

// Four sums, as in a tile.
AMX_TARGET __attribute__((noinline)) static void amx_rounds(size_t rounds, volatile float* x) {
    float sums[BLOCK];
    for (int i = 0; i < BLOCK; i++) { sums[i] = x[0]; }
    amx_begin();
    __asm__ volatile("" ::: "memory");
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_loadd(4, sums, 4 * WORDS);
    _tile_loadd(5, sums, 4 * WORDS);
    _tile_loadd(6, sums, 4 * WORDS);
    _tile_loadd(7, sums, 4 * WORDS);
    for (size_t r = 0; r < rounds; r++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, 4 * WORDS);
    amx_end();
    x[0] = sums[0];
}
static MachinePeak amx_peak = {amx_rounds, 4.0 * 2 * BLOCK* MATMUL_FOLD};
#endif

// ---------------------------------------------------------------------------------------------
// Which kernel. All kernels that this build has, the fastest first, and whether this processor, and Linux on it, has what each
// needs.

enum { BF16_ANYWHERE, BF16_PAIRS, BF16_AMX };

typedef struct {
    MatmulKernel kernel;
    int needs;
} Bf16Kernel;

static const Bf16Kernel bf16_kernels[] = {
#if BF16_INSTRUCTIONS
    {{"amx", AMX_PANELS, amx_run, amx_begin, amx_end, &amx_peak}, BF16_AMX},
    {{"avx512bf16", PAIRS_PANELS, pairs_run, NULL, NULL, &pairs_peak}, BF16_PAIRS},
#endif
    {{"fp32", SUMS_AMX, MATMUL_PANELS, matmul_run_fold, NULL, NULL, &machine_fma}, BF16_ANYWHERE},
    {{"fp32-pairs", SUMS_PAIRS, MATMUL_PANELS, matmul_run, NULL, NULL, &machine_fma}, BF16_ANYWHERE},
};
enum { BF16_KERNELS = sizeof bf16_kernels / sizeof *bf16_kernels };

static inline int bf16_usable(const Bf16Kernel* kernel) {
#if BF16_INSTRUCTIONS
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (kernel->needs == BF16_PAIRS) { return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1); }
    if (kernel->needs == BF16_AMX) {
        enum {
            REQUEST = 0x1023,
            TILE_DATA = 18
        };  // arch_prctl(ARCH_REQ_XCOMP_PERM): Linux gives tile registers on demand
        return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1) && (d >> 24 & 1) &&
               syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
    }
#endif
    return kernel->needs == BF16_ANYWHERE;
}

// What products in bf16 are computed with: the first that is usable or, with PONDER_BF16=NAME in the environment, that one.
static inline const MatmulKernel* bf16_kernel(void) {
    static const MatmulKernel* chosen;
    if (chosen) { return chosen; }
    const char* wanted = getenv("PONDER_BF16");
    char names[128] = "";
    for (int i = 0; i < BF16_KERNELS; i++) {
        const Bf16Kernel* k = &bf16_kernels[i];
        if (!bf16_usable(k)) { continue; }
        if (!wanted || !*wanted || strcmp(wanted, k->kernel.name) == 0) { return chosen = &k->kernel; }
        snprintf(names + strlen(names), sizeof names - strlen(names), " %s", k->kernel.name);
    }
    die("PONDER_BF16 is '%s'; this processor and this build have:%s", wanted, names);
}

#endif
