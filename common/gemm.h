// gemm.h - matrix products of many rows on the CPU: C = or += alpha * op(A) op(B) + bias.
//
// What is computed, to the bit (gemm_reference says it in C): K is cut into blocks of MATMUL_KC.
// Within a block an element of C is one chain of fused multiply-adds over k, in order, from 0; the
// block's sum is multiplied by alpha; the first block's gets the bias added, then is stored or
// added to C; each later one is added to C. This order depends on nothing but K, so the numbers
// are the same for every instruction set, tile size, blocking and number of threads.
//
// How: as in Goto and van de Geijn, "Anatomy of high-performance matrix multiplication" (2008).
// Threads together copy a K-block of A and of B into panels, so that the innermost loop reads both
// one after the other: A in panels of MR rows, stored k by k, B in panels of NR columns, stored k
// by k. Then they compute rectangles of C, made of tiles of MR x NR which stay in registers for the
// whole K-block. Packing and computing is one list of work without a barrier, see MatmulJob: on an idle
// machine that is no faster than a barrier after each, on a busy one it is what keeps products going (two
// cores, six processes beside it: 104 ms instead of 276 for 512 x 512 x 2048, 1.5 s instead of 2.6 for
// 512 x 50304 x 512; dev/LOG.md).
//
//   tile of C    MR x NR      registers (AVX2: 6 x 16 = 12 of 16 registers)
//   panel of B   KC x NR      L1 cache (16 KB), used for all panels of A of the task
//   task's A     96 x KC      L2 cache (128 KB)
//   block        KC x (MT + NT)   L3 cache, packed, shared by all threads
//
// A product of few rows of A reads B once and needs none of that: see gemm_few.h.
//
// Rows and columns past the edge are packed as zeros and their sums are thrown away; nothing is
// read past the end of a row, and a NaN beside the edge cannot get out of the columns it is in.
#ifndef PONDER_GEMM_H
#define PONDER_GEMM_H

#include <sched.h>

#include "base.h"
#include "rows.h"
#include "vec.h"

#define MATMUL_KC 256  // part of the definition of the result: changing it changes bits

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
// Tiles. MATMUL_AP is MR rounded up, so that packed columns of A are aligned.

#if VL == 16
#define MATMUL_MR 14
#define MATMUL_AP 16
#define MATMUL_ROWS(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14)
#elif VL == 8
#define MATMUL_MR 6
#define MATMUL_AP 8
#define MATMUL_ROWS(X) X(1) X(2) X(3) X(4) X(5) X(6)
#elif defined(__aarch64__)
#define MATMUL_MR 8
#define MATMUL_AP 8
#define MATMUL_ROWS(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8)
#else
#define MATMUL_MR 4
#define MATMUL_AP 4
#define MATMUL_ROWS(X) X(1) X(2) X(3) X(4)
#endif
#define MATMUL_NR (2 * VL)

#if VL == 16
static inline const char* matmul_name(void) { return "AVX-512 14x32"; }
#elif VL == 8
static inline const char* matmul_name(void) { return "AVX2 6x16"; }
#elif defined(__aarch64__)
static inline const char* matmul_name(void) { return "NEON 8x8"; }
#else
static inline const char* matmul_name(void) { return "portable 4x8, fused multiply-add emulated"; }
#endif

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

// A tile of C: rows x (vectors * VL), of which the first `columns` columns exist. a is a panel of A
// (kc, MATMUL_AP), b one of B (kc, MATMUL_NR). rows and vectors are constants where this is called,
// so that all of `sum` lies in registers.
__attribute__((always_inline)) static inline void matmul_tile(int rows, int vectors, size_t kc,
                                                              const float* __restrict__ a, const float* __restrict__ b,
                                                              float* __restrict__ c, size_t ldc, size_t columns,
                                                              MatmulStore store) {
    vf sum[MATMUL_MR][2];
    MATMUL_UNROLL
    for (int i = 0; i < rows; i++) {
        sum[i][0] = sum[i][1] = vf_zero();
        __builtin_prefetch(c + (size_t)i * ldc, 1);  // wanted when the sums are ready
    }
    for (size_t k = 0; k < kc; k++) {
        vf b0 = vf_load(b), b1 = vectors == 2 ? vf_load(b + VL) : b0;
        MATMUL_UNROLL
        for (int i = 0; i < rows; i++) {
            vf ai = vf_set1(a[i]);
            sum[i][0] = vf_fma(ai, b0, sum[i][0]);
            if (vectors == 2) { sum[i][1] = vf_fma(ai, b1, sum[i][1]); }
        }
        a += MATMUL_AP;
        b += MATMUL_NR;
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
#define MATMUL_DEFINE_TILE(rows)                                                                        \
    static void matmul_tile_##rows##_1(size_t kc, const float* a, const float* b, float* c, size_t ldc, \
                                       size_t columns, const MatmulStore* store) {                      \
        matmul_tile(rows, 1, kc, a, b, c, ldc, columns, *store);                                        \
    }                                                                                                   \
    static void matmul_tile_##rows##_2(size_t kc, const float* a, const float* b, float* c, size_t ldc, \
                                       size_t columns, const MatmulStore* store) {                      \
        matmul_tile(rows, 2, kc, a, b, c, ldc, columns, *store);                                        \
    }
MATMUL_ROWS(MATMUL_DEFINE_TILE)
#define MATMUL_LIST_TILE(rows) {matmul_tile_##rows##_1, matmul_tile_##rows##_2},
static MatmulTile* const matmul_tiles[MATMUL_MR][2] = {MATMUL_ROWS(MATMUL_LIST_TILE)};

// ---------------------------------------------------------------------------------------------
// Packing. A panel is `step` lines (rows of op(A), columns of op(B)), kc numbers of each, stored as
// (kc, width), width >= step, with room for MATMUL_KC. What is past the last line becomes zero.

// The numbers of one k lie together in memory: src (kc, lines), rows ld apart; lines > 0, they make
// several panels. Lanes from `step` to `width` get the next panel's lines or zero: nobody reads them.
static inline void matmul_pack_rows(float* __restrict__ dst, size_t step, size_t width, const float* __restrict__ src,
                                    size_t ld, size_t lines, size_t kc) {
    for (size_t k = 0; k < kc; k++) {
        float* d = dst + k * width;
        const float* s = src + k * ld;
        size_t j = 0;
        for (; j + width <= lines; j += step, d += width * MATMUL_KC) {
            for (size_t v = 0; v < width; v += VL) { vf_store(d + v, vf_load(s + j + v)); }
        }
        for (; j < lines; j += step, d += width * MATMUL_KC) {
            size_t have = min_size(width, lines - j);
            for (size_t v = 0; v < have; v++) { d[v] = s[j + v]; }
            for (size_t v = have; v < width; v++) { d[v] = 0; }
        }
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
#if VL >= 8
static inline void matmul_pack_columns(float* __restrict__ dst, size_t width, const float* __restrict__ src, size_t ld,
                                       size_t lines, size_t kc) {
    static const float zeros[MATMUL_KC] = {0};  // stands in for lines that do not exist
    for (size_t j = 0; j < width; j += 8) {
        const float* line[8];
        for (size_t r = 0; r < 8; r++) { line[r] = j + r < lines ? src + (j + r) * ld : zeros; }
        float* d = dst + j;
        size_t k = 0;
        for (; k + 8 <= kc; k += 8) {
            if (k % 16 == 0) {  // the next 8 lines: pieces of 1 KB are too short for the hardware to foresee
                for (size_t r = 0; r < 8; r++) { __builtin_prefetch(line[r] + 8 * ld + k); }
            }
            __m256 r[8];
            for (size_t i = 0; i < 8; i++) { r[i] = _mm256_loadu_ps(line[i] + k); }
            matmul_turn(r);
            for (size_t i = 0; i < 8; i++) { _mm256_store_ps(d + i * width, r[i]); }
            d += 8 * width;
        }
        for (; k < kc; k++) {
            for (size_t r = 0; r < 8; r++) { d[r] = line[r][k]; }
            d += width;
        }
    }
}
#else
static inline void matmul_pack_columns(float* __restrict__ dst, size_t width, const float* __restrict__ src, size_t ld,
                                       size_t lines, size_t kc) {
    for (size_t k = 0; k < kc; k++) {
        for (size_t j = 0; j < lines; j++) { dst[k * width + j] = src[j * ld + k]; }
        for (size_t j = lines; j < width; j++) { dst[k * width + j] = 0; }
    }
}
#endif

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
#define MATMUL_YIELD() sched_yield()
#define MATMUL_READY(piece) ((void)0)
#endif

// Waits until another thread has counted *count up to `value`. The thread that is waited for may
// have lost its processor to another program, so after a while this one lends it its own.
static inline void matmul_wait(const uint32_t* count, uint32_t value) {
    for (int spins = 0; __atomic_load_n(count, __ATOMIC_ACQUIRE) != value; spins++) {
        if (spins > 200) { MATMUL_YIELD(); }
    }
}
static inline void matmul_done(uint32_t* count) { __atomic_fetch_add(count, 1, __ATOMIC_RELEASE); }

// A product cut into work that threads take, piece by piece, from one list. The list is, for steps
// 0, 1, ... (a step is one K-block of one block of C):
//
//     pack 0, pack 1, compute 0, pack 2, compute 1, pack 3, compute 2, ...
//
// There is no barrier. A piece waits for what it needs, which others took earlier: computing for
// the panels of its step and for the previous K-block of the same rectangle of C; packing until
// nobody reads the panels that lay in its buffers, three steps ago. With the list in this order
// that is nearly always done, and a thread that loses its processor holds up little.
typedef struct {
    int transA, transB, accumulate;
    size_t M, N, K, lda, ldb, ldc;
    float alpha;
    const float *A, *B, *bias;
    float* C;
    size_t MT, NT, blocks_n, blocks_k, steps;  // blocks of C
    size_t task_m, task_n, tasks;              // rectangles, and how many a block has at most
    int keep_a, keep_b;                        // 1: panels of all K-blocks are packed once and kept
    size_t a_size, b_size;                     // of the panels of a step, in floats
    float *packed_a, *packed_b;
    // Counters, 0 in the beginning.
    uint32_t* packed;    // (steps) groups of panels packed
    uint32_t* computed;  // (steps) rectangles computed
    uint32_t* sums;      // (blocks of C, tasks) K-blocks summed
    uint64_t* next;      // piece of the list
} MatmulJob;

// A step in numbers.
typedef struct {
    size_t block, i0, j0, m, n, k0, kc;  // block of C: its number, place and size; K-block: place and size
    float *a, *b;                        // its panels
    size_t groups_a, groups_b;           // four panels make a group, so that what is read of a row lies together
    size_t tasks_n, tasks;
} MatmulStep;

static inline MatmulStep matmul_step(const MatmulJob* job, size_t step) {
    enum { MR = MATMUL_MR, NR = MATMUL_NR, KC = MATMUL_KC };
    size_t block = step / job->blocks_k, k = step % job->blocks_k;
    MatmulStep s = {block, block / job->blocks_n * job->MT, block % job->blocks_n * job->NT};
    s.m = min_size(job->MT, job->M - s.i0), s.n = min_size(job->NT, job->N - s.j0);
    s.k0 = k * KC, s.kc = min_size(KC, job->K - min_size(s.k0, job->K));
    s.a = job->packed_a + (job->keep_a ? k : step % 3) * job->a_size;
    s.b = job->packed_b + (job->keep_b ? k : step % 3) * job->b_size;
    s.groups_a = job->keep_a && block > 0 ? 0 : (s.m + 4 * MR - 1) / (4 * MR);
    s.groups_b = job->keep_b && block > 0 ? 0 : (s.n + 4 * NR - 1) / (4 * NR);
    s.tasks_n = (s.n + job->task_n - 1) / job->task_n;
    s.tasks = (s.m + job->task_m - 1) / job->task_m * s.tasks_n;
    return s;
}

static inline void matmul_pack_group(const MatmulJob* job, const MatmulStep* s, size_t group) {
    enum { MR = MATMUL_MR, NR = MATMUL_NR, AP = MATMUL_AP, KC = MATMUL_KC };
    if (group < s->groups_a) {
        size_t first = group * 4 * MR, last = min_size(first + 4 * MR, s->m);
        float* p = s->a + first / MR * AP * KC;
        if (job->transA) {
            matmul_pack_rows(p, MR, AP, job->A + s->k0 * job->lda + s->i0 + first, job->lda, last - first, s->kc);
        } else {
            for (size_t i = first; i < last; i += MR, p += AP * KC) {
                const float* from = job->A + (s->i0 + i) * job->lda + s->k0;
                matmul_pack_columns(p, AP, from, job->lda, min_size(MR, last - i), s->kc);
            }
        }
    } else {
        size_t first = (group - s->groups_a) * 4 * NR, last = min_size(first + 4 * NR, s->n);
        float* p = s->b + first * KC;
        if (!job->transB) {
            matmul_pack_rows(p, NR, NR, job->B + s->k0 * job->ldb + s->j0 + first, job->ldb, last - first, s->kc);
        } else {
            for (size_t j = first; j < last; j += NR, p += NR * KC) {
                const float* from = job->B + (s->j0 + j) * job->ldb + s->k0;
                matmul_pack_columns(p, NR, from, job->ldb, min_size(NR, last - j), s->kc);
            }
        }
    }
}

static inline void matmul_compute_task(const MatmulJob* job, const MatmulStep* s, size_t task) {
    enum { MR = MATMUL_MR, NR = MATMUL_NR, AP = MATMUL_AP, KC = MATMUL_KC };
    size_t ti = task / s->tasks_n * job->task_m, ti_end = min_size(ti + job->task_m, s->m);
    size_t tj = task % s->tasks_n * job->task_n, tj_end = min_size(tj + job->task_n, s->n);
    for (size_t j = tj; j < tj_end; j += NR) {
        size_t columns = min_size(NR, s->n - j);
        MatmulStore store = {job->alpha, job->accumulate || s->k0 > 0, NULL};
        if (job->bias && s->k0 == 0) { store.bias = job->bias + s->j0 + j; }
        for (size_t i = ti; i < ti_end; i += MR) {
            size_t rows = min_size(MR, s->m - i);
            matmul_tiles[rows - 1][columns > VL](s->kc, s->a + i / MR * AP * KC, s->b + j * KC,
                                                 job->C + (s->i0 + i) * job->ldc + s->j0 + j, job->ldc, columns,
                                                 &store);
        }
    }
}

// What one thread does: takes pieces until the list is at its end. Phase 0 of the list packs step
// 0, phase 2 x + 1 packs step x + 1, phase 2 x + 2 computes step x.
static inline void matmul_work(const MatmulJob* job) {
    size_t phase = 0, begin = 0;
    MatmulStep s = matmul_step(job, 0);
    size_t step = 0, pieces = s.groups_a + s.groups_b;
    for (;;) {
        size_t piece = __atomic_fetch_add(job->next, 1, __ATOMIC_RELAXED);
        while (piece >= begin + pieces) {
            if (++phase > 2 * job->steps) { return; }
            begin += pieces;
            step = phase % 2 ? phase / 2 + 1 : phase / 2 - 1;
            pieces = 0;
            if (step < job->steps) {
                s = matmul_step(job, step);
                pieces = phase % 2 ? s.groups_a + s.groups_b : s.tasks;
            }
        }
        if (phase == 0 || phase % 2) {
            if (step >= 3) { matmul_wait(&job->computed[step - 3], (uint32_t)matmul_step(job, step - 3).tasks); }
            MATMUL_READY(piece);
            matmul_pack_group(job, &s, piece - begin);
            matmul_done(&job->packed[step]);
        } else {
            uint32_t* sum = &job->sums[s.block * job->tasks + piece - begin];
            size_t first = step % job->blocks_k;  // kept panels were packed for the first block
            matmul_wait(&job->packed[step], (uint32_t)(s.groups_a + s.groups_b));
            if (s.block > 0 && (job->keep_a || job->keep_b)) {
                MatmulStep kept = matmul_step(job, first);
                matmul_wait(&job->packed[first], (uint32_t)(kept.groups_a + kept.groups_b));
            }
            matmul_wait(sum, (uint32_t)(s.k0 / MATMUL_KC));
            MATMUL_READY(piece);
            matmul_compute_task(job, &s, piece - begin);
            matmul_done(sum);
            matmul_done(&job->computed[step]);
        }
    }
}

// Cuts a product, M and N above 0, into work for `threads` threads; its panels and counters lie in the workspace.
static inline MatmulJob matmul_job(int transA, int transB, size_t M, size_t N, size_t K, float alpha, const float* A,
                                   size_t lda, const float* B, size_t ldb, int accumulate, float* C, size_t ldc,
                                   const float* bias, size_t threads) {
    enum { MR = MATMUL_MR, NR = MATMUL_NR, AP = MATMUL_AP, KC = MATMUL_KC };
    MatmulJob job = {transA, transB, accumulate, M, N, K, lda, ldb, ldc, alpha, A, B, bias, C};

    // Blocks of C, MT x NT: small enough for the caches, large enough that a step has work for all.
    job.MT = min_size(M, 168 * 6), job.NT = min_size(N, 1024 * max_size(1, threads / 8));
    size_t blocks_m = (M + job.MT - 1) / job.MT;
    job.blocks_n = (N + job.NT - 1) / job.NT;
    job.blocks_k = max_size(1, (K + KC - 1) / KC);
    job.steps = blocks_m * job.blocks_n * job.blocks_k;

    // Panels: three buffers in turn; or one for each K-block where all of a matrix's rows are in one
    // block and that is used again and again.
    job.a_size = (job.MT + MR - 1) / MR * AP * KC, job.b_size = (job.NT + NR - 1) / NR * NR * KC;
    size_t keep_limit = (size_t)8 << 18;  // floats: 8 MB
    job.keep_a = blocks_m == 1 && job.blocks_n > 1 && job.blocks_k * job.a_size <= keep_limit;
    job.keep_b = job.blocks_n == 1 && blocks_m > 1 && job.blocks_k * job.b_size <= keep_limit;
    size_t a_slots = job.keep_a ? job.blocks_k : min_size(3, job.steps);
    size_t b_slots = job.keep_b ? job.blocks_k : min_size(3, job.steps);

    job.task_m = 96 / MR * MR, job.task_n = 2 * NR;
    while (job.task_m > 2 * MR &&
           ((job.MT + job.task_m - 1) / job.task_m) * ((job.NT + job.task_n - 1) / job.task_n) < 8 * threads) {
        if (job.task_n > NR) {
            job.task_n = NR;
        } else {
            job.task_m = (job.task_m / MR + 1) / 2 * MR;
        }
    }
    job.tasks = ((job.MT + job.task_m - 1) / job.task_m) * ((job.NT + job.task_n - 1) / job.task_n);

    size_t counters = 2 * job.steps + blocks_m * job.blocks_n * job.tasks;
    size_t panels = (a_slots * job.a_size + b_slots * job.b_size) * sizeof(float);
    char* memory = matmul_workspace(panels + ALIGNMENT + counters * sizeof(uint32_t));
    job.packed_a = (float*)memory;
    job.packed_b = job.packed_a + a_slots * job.a_size;
    job.next = (uint64_t*)(memory + panels);
    job.packed = (uint32_t*)(memory + panels + ALIGNMENT);
    job.computed = job.packed + job.steps;
    job.sums = job.computed + job.steps;
    memset(job.next, 0, ALIGNMENT + counters * sizeof(uint32_t));
    return job;
}

static inline void gemm_packed(int transA, int transB, size_t M, size_t N, size_t K, float alpha, const float* A,
                               size_t lda, const float* B, size_t ldb, int accumulate, float* C, size_t ldc,
                               const float* bias) {
    if (M == 0 || N == 0) { return; }
    int parallel = thread_count() > 1 && M * N * max_size(K, 1) > MATMUL_SERIAL;
    MatmulJob job = matmul_job(transA, transB, M, N, K, alpha, A, lda, B, ldb, accumulate, C, ldc, bias,
                               parallel ? (size_t)thread_count() : 1);
#pragma omp parallel if (parallel)
    matmul_work(&job);
}

#endif
