// test_matmul.h - vec.h, gemm.h, gemm_few.h, matmul.h and machine.h against their definitions, mostly to the bit.
#ifndef PONDER_TEST_MATMUL_H
#define PONDER_TEST_MATMUL_H

#ifdef PONDER_GEMM_H
#error "this file must come before all that includes common/gemm.h: it puts a scheduler into it"
#endif
static void mt_pause(int ready, uint64_t piece);
#define MATMUL_YIELD() mt_pause(0, 0)
#define MATMUL_READY(piece) mt_pause(1, piece)
#define MATMUL_PATIENCE 0

#include "../../common/machine.h"
#include "../../common/matmul.h"
#include "test.h"

#include <sys/mman.h>
#ifdef __GLIBC__
#include <ucontext.h>
#endif

// matmul_checksum() in float, see there.
#define MATMUL_CHECKSUM 0x08C0EDF2C81C4132u

// A pseudo-random 32-bit number for (stream, i), without any state.
static inline uint32_t mt_hash(uint64_t stream, uint64_t i) {
    uint64_t x = (stream + 1) * 0x9E3779B97F4A7C15u + i * 0xD1B54A32D192ED03u;
    x = (x ^ (x >> 32)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 29)) * 0x94D049BB133111EBu;
    return (uint32_t)(x >> 32);
}

// In (-1, 1), with all 24 bits in use.
static inline float mt_number(uint64_t stream, uint64_t i) { return (float)(int32_t)mt_hash(stream, i) * 0x1p-31f; }

static inline float mt_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

// Equal to the bit, except that all NaNs are one.
static inline int mt_same(float a, float b) { return (a != a && b != b) || memcmp(&a, &b, 4) == 0; }

// A matrix whose memory ends with its last number, so that a sanitizer sees any read past it. The
// numbers between the end of a row and the next row are NaN: they must never be used.
static inline real* mt_matrix(uint64_t stream, size_t rows, size_t cols, size_t ld) {
    size_t count = rows && cols ? (rows - 1) * ld + cols : 0;
    real* X = (real*)malloc(max_size(1, count * sizeof(real)));
    if (X == NULL) { die("out of memory for a test's matrix"); }
    for (size_t i = 0; i < count; i++) { X[i] = i % ld < cols ? (real)mt_number(stream, i) : (real)NAN; }
    return X;
}

static void test_fma(void) {
    static const uint32_t special[] = {
        0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007fffff, 0x00800000, 0x80800000, 0x00800001, 0x33800000,
        0x33800001, 0x3f7fffff, 0x3f800000, 0xbf800000, 0x3f800001, 0xbf800001, 0x40000000, 0x4b800000, 0x4b800001,
        0x7f7fffff, 0xff7fffff, 0x7f800000, 0xff800000, 0x7fc00000, 0x5f000001, 0xdf000001, 0x1f800001, 0x1fffffff,
    };
    size_t n = sizeof special / sizeof *special;
    size_t bad = 0, bad_emulated = 0, bad_vector = 0, total = 0;
    for (size_t i = 0; i < n * n * n + 400000; i++) {
        float a, b, c;
        if (i < n * n * n) {
            a = mt_float(special[i % n]), b = mt_float(special[i / n % n]), c = mt_float(special[i / n / n]);
        } else {
            uint32_t x = mt_hash(1, i), y = mt_hash(2, i), z = mt_hash(3, i);
            switch (i % 4) {
                case 0: break;  // any bits at all
                case 1:         // like sizes
                    x = (x & 0x807fffffu) | 0x3f800000u, y = (y & 0x807fffffu) | 0x3f800000u;
                    z = (z & 0x807fffffu) | ((100 + z % 55) << 23);
                    break;
                case 2:  // results among the subnormal numbers
                    x = (x & 0x807fffffu) | ((50 + x % 40) << 23), y = (y & 0x807fffffu) | ((30 + y % 40) << 23);
                    z = z & 0x81ffffffu;
                    break;
                default:  // few bits, so that many sums lie exactly between two floats
                    x = (x & 0x807ff000u) | 0x3f800000u, y = (y & 0x807ff000u) | 0x3f800000u;
                    z = (z & 0x807fffffu) | ((100 + z % 55) << 23);
                    break;
            }
            a = mt_float(x), b = mt_float(y), c = mt_float(z);
        }
        float want = fmaf(a, b, c);
        vf vector = vf_fma(vf_set1(a), vf_set1(b), vf_set1(c));
        bad += !mt_same(fma_f(a, b, c), want);
        bad_emulated += !mt_same(fma_f_emulated(a, b, c), want);
        for (int lane = 0; lane < VL; lane++) { bad_vector += !mt_same(vector[lane], want); }
        total++;
    }
    CHECK(bad == 0, "fma_f is wrong in %zu of %zu", bad, total);
    CHECK(bad_emulated == 0, "fma_f_emulated is wrong in %zu of %zu", bad_emulated, total);
    CHECK(bad_vector == 0, "vf_fma is wrong in %zu of %zu lanes", bad_vector, total * VL);
    CHECK(fma_f(1 + 0x1p-12f, 1 - 0x1p-12f, -1) == -0x1p-24f, "not fused");
    CHECK(real_fma(3, 5, 7) == 22, "real_fma(3, 5, 7) = %g", (double)real_fma(3, 5, 7));
}

static void test_vec(void) {
    float from[VL + 1], to[VL + 2];
    for (int i = 0; i <= VL; i++) { from[i] = (float)i - 3; }
    for (int i = 0; i < VL + 2; i++) { to[i] = -77; }
    vf x = vf_load(from + 1);  // not aligned
    vf_store(to + 1, x * x + vf_set1(2) - vf_zero());
    for (int i = 0; i < VL; i++) {
        CHECK(to[1 + i] == from[1 + i] * from[1 + i] + 2, "lane %d: %g", i, (double)to[1 + i]);
    }
    CHECK(to[0] == -77 && to[VL + 1] == -77, "vf_store wrote beside its place");
    // The first n of what ends where memory ends.
    long page = sysconf(_SC_PAGESIZE);
    char* pages = (char*)mmap(NULL, 2 * (size_t)page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED || mprotect(pages + page, (size_t)page, PROT_NONE) != 0) { die("no pages for a test"); }
    for (size_t n = 0; n <= VL; n++) {
        float* end = (float*)(void*)(pages + page) - n;
        for (size_t i = 0; i < n; i++) { end[i] = (float)(i + 1); }
        vf part = vf_load_part(end, n);
        for (size_t i = 0; i < VL; i++) {
            CHECK(part[i] == (i < n ? (float)(i + 1) : 0), "%zu numbers, lane %zu: %g", n, i, (double)part[i]);
        }
    }
    munmap(pages, 2 * (size_t)page);
    vf larger = vf_max(x, vf_zero()), smaller = vf_min(x, vf_zero());
    for (int i = 0; i < VL; i++) {
        CHECK(larger[i] == (from[1 + i] > 0 ? from[1 + i] : 0), "max, lane %d: %g", i, (double)larger[i]);
        CHECK(smaller[i] == (from[1 + i] < 0 ? from[1 + i] : 0), "min, lane %d: %g", i, (double)smaller[i]);
    }
    // Where one is NaN, the second wins, on every machine.
    vf nan = vf_set1(NAN), one = vf_set1(1);
    for (int i = 0; i < VL; i++) {
        CHECK(vf_max(nan, one)[i] == 1 && vf_min(nan, one)[i] == 1, "lane %d: NaN first", i);
        CHECK(vf_max(one, nan)[i] != vf_max(one, nan)[i], "lane %d: max with NaN second", i);
        CHECK(vf_min(one, nan)[i] != vf_min(one, nan)[i], "lane %d: min with NaN second", i);
    }
}

// One product against gemm_reference, to the bit, in the whole of C's memory.
static void mt_check(int transA, int transB, size_t M, size_t N, size_t K, real alpha, int accumulate, int with_bias,
                     size_t gap) {
    size_t lda = (transA ? M : K) + gap, ldb = (transB ? K : N) + 2 * gap, ldc = N + 3 * gap;
    real* A = mt_matrix(M * 3 + K, transA ? K : M, transA ? M : K, lda);
    real* B = mt_matrix(N * 5 + K, transB ? N : K, transB ? K : N, ldb);
    real* bias = mt_matrix(7, 1, N, N);
    real* got = mt_matrix(9, M, N, ldc);
    real* want = mt_matrix(9, M, N, ldc);
    size_t count = M && N ? (M - 1) * ldc + N : 0;
    if (!accumulate) {  // what is there must not matter
        for (size_t i = 0; i < count; i++) { got[i] = want[i] = (real)NAN; }
    }
    gemm(transA, transB, M, N, K, alpha, A, lda, B, ldb, accumulate, got, ldc, with_bias ? bias : NULL);
    gemm_reference(transA, transB, M, N, K, alpha, A, lda, B, ldb, accumulate, want, ldc, with_bias ? bias : NULL);
    size_t bad = 0, at = 0;
    for (size_t i = 0; i < count; i++) {
        int inside = i % ldc < N;
        int same = inside ? got[i] == want[i] : got[i] != got[i];  // beside the matrix: the NaN of before
        if (!same && bad++ == 0) { at = i; }
    }
    CHECK(bad == 0,
          "gemm(%d, %d, M=%zu, N=%zu, K=%zu, alpha %g, accumulate %d, bias %d, gap %zu): %zu numbers differ,"
          " first (%zu, %zu): %.9g, want %.9g",
          transA, transB, M, N, K, (double)alpha, accumulate, with_bias, gap, bad, at / ldc, at % ldc, (double)got[at],
          (double)want[at]);
    free(A), free(B), free(bias), free(got), free(want);
}

static void test_gemm_shapes(void) {
    static const size_t sizes[] = {1, 2, 5, 7, 16, 17, 63, 65, 129};
    size_t n = sizeof sizes / sizeof *sizes;
    for (size_t i = 0; i < n * n * n; i++) {
        size_t M = sizes[i % n], N = sizes[i / n % n], K = sizes[i / n / n];
        uint32_t r = mt_hash(11, i);  // the options by chance, all 2^5 combinations many times
        mt_check(r & 1, r >> 1 & 1, M, N, K, (r >> 2 & 1) ? (real)0.3 : 1, r >> 3 & 1, r >> 4 & 1, (r >> 5 & 1) * 3);
    }
    for (int transposes = 0; transposes < 4; transposes++) {  // several K-blocks, every edge of a tile
        int tA = transposes & 1, tB = transposes >> 1;
        mt_check(tA, tB, 31, 35, 256, 1, 0, 1, 0);
        mt_check(tA, tB, 29, 34, 257, 1, 0, 1, 5);
        mt_check(tA, tB, 13, 300, 300, (real)-1.7, 1, 1, 1);
        mt_check(tA, tB, 300, 13, 769, (real)0.1, 0, 1, 0);
        for (size_t rows = 1; rows <= 30; rows++) { mt_check(tA, tB, rows, 2 * rows + 1, 9, 2, rows % 2, 1, 2); }
    }
}

// More than one block of rows or columns; blocks of lines and packed again.
static void test_gemm_blocks(void) {
    mt_check(0, 0, 30, 1100, 520, 1, 0, 1, 1);
    mt_check(0, 1, 30, 2100, 300, 1, 1, 0, 0);
    mt_check(1, 0, 1100, 30, 300, 1, 1, 0, 1);
    mt_check(1, 1, 2050, 20, 260, 1, 0, 1, 0);
    mt_check(0, 1, 1011, 1041, 20, 1, 0, 1, 3);
    mt_check(1, 0, 1030, 1030, 3, (real)0.5, 1, 0, 0);
    mt_check(0, 1, 40, 50, 1300, 1, 0, 0, 0);
    mt_check(1, 1, 1041, 1030, 5, 1, 1, 0, 2);
    mt_check(0, 0, 530, 600, 520, 1, 0, 1, 0);
}

// Few rows, as when a text grows, each number of them, and one more than there may be: several stripes of columns and
// K-blocks, steps that end early.
static void test_gemm_few(void) {
    for (size_t rows = 1; rows <= MATMUL_FEW + 1; rows++) {
        for (int transposed = 0; transposed < 2; transposed++) {
            mt_check(0, transposed, rows, 1100, 515, 1, 0, 1, 0);
            mt_check(0, transposed, rows, 1037, 259, (real)0.7, 1, 1, 3);
            mt_check(0, transposed, rows, 3, 1030, 1, 0, 0, 1);
            mt_check(0, transposed, rows, 2 * VL * 5 + rows, 256 + rows, -1, rows % 2, 0, rows % 3);
        }
    }
}

// Products of many rows whose operands, either or both, are in bf16: the same as of floats of their values, to the bit.
static void mt_check_halves(int transA, int transB, size_t M, size_t N, size_t K) {
    if (sizeof(real) != sizeof(float)) { return; }
    size_t lda = (transA ? M : K) + 3, ldb = (transB ? K : N) + 1;
    size_t a = ((transA ? K : M) - 1) * lda + (transA ? M : K), b = ((transB ? N : K) - 1) * ldb + (transB ? K : N);
    real *A = mt_matrix(M, 1, a, a), *B = mt_matrix(N, 1, b, b), *bias = mt_matrix(7, 1, N, N);
    real *got = mt_matrix(9, M, N, N), *want = mt_matrix(9, M, N, N);
    Bf16 *half_a = (Bf16*)malloc(a * sizeof(Bf16)), *half_b = (Bf16*)malloc(b * sizeof(Bf16));
    if (!half_a || !half_b) { die("out of memory for a test's matrix"); }
    for (size_t i = 0; i < a; i++) { A[i] = (real)float_of_bf16(half_a[i] = bf16_of_float((float)A[i])); }
    for (size_t i = 0; i < b; i++) { B[i] = (real)float_of_bf16(half_b[i] = bf16_of_float((float)B[i])); }
    gemm_packed(&matmul_fp32, transA, transB, M, N, K, 0.5f, A, NUMBER_FP32, lda, B, NUMBER_FP32, ldb, 0, (float*)want,
                N, (float*)bias);
    for (int which = 1; which < 4; which++) {
        int of_a = which & 1, of_b = which >> 1;
        memset(got, 0xff, M * N * sizeof(real));
        gemm_packed(&matmul_fp32, transA, transB, M, N, K, 0.5f, of_a ? (void*)half_a : (void*)A, (Number)of_a, lda,
                    of_b ? (void*)half_b : (void*)B, (Number)of_b, ldb, 0, (float*)got, N, (float*)bias);
        CHECK(memcmp(got, want, M * N * sizeof(real)) == 0, "A%s in bf16, B%s: (%d, %d) M=%zu, N=%zu, K=%zu",
              of_a ? "" : " not", of_b ? "" : " not", transA, transB, M, N, K);
    }
    free(A), free(B), free(bias), free(got), free(want), free(half_a), free(half_b);
}

// Weights rounded to bf16 make the same products as floats of their values, to the bit, for few rows and many.
static void mt_check_bf16(int transposed, size_t M, size_t N, size_t K, real alpha, int accumulate, int with_bias) {
    size_t lda = K + 3, ldc = N + 2, numbers = N * K, count = (M - 1) * ldc + N;
    real *A = mt_matrix(M * 3 + K, M, K, lda), *B = mt_matrix(N * 5 + K, 1, numbers, numbers);
    real *bias = mt_matrix(7, 1, N, N), *got = mt_matrix(9, M, N, ldc), *want = mt_matrix(9, M, N, ldc);
    Bf16* half = (Bf16*)malloc(numbers * sizeof(Bf16));  // ends with its last number, for sanitizers
    for (size_t i = 0; i < numbers; i++) {
        half[i] = bf16_of_float((float)B[i]);
        B[i] = (real)float_of_bf16(half[i]);
    }
    Weight rounded = {NULL, half};
    gemm_weight(transposed, M, N, K, alpha, A, lda, rounded, accumulate, got, ldc, with_bias ? bias : NULL);
    gemm_weight(transposed, M, N, K, alpha, A, lda, weight_of(B), accumulate, want, ldc, with_bias ? bias : NULL);
    size_t bad = 0;
    for (size_t i = 0; i < count; i++) { bad += i % ldc < N ? !(got[i] == want[i]) : got[i] == got[i]; }
    CHECK(bad == 0, "gemm_weight(%d, M=%zu, N=%zu, K=%zu, alpha %g, accumulate %d, bias %d): %zu numbers differ",
          transposed, M, N, K, (double)alpha, accumulate, with_bias, bad);
    free(A), free(B), free(bias), free(got), free(want), free(half);
}

static void test_gemm_bf16(void) {
    static const size_t shapes[][3] = {{1, 1, 1},      {7, 17, 9},    {14, 33, 40},
                                       {100, 90, 300}, {65, 300, 35}, {1030, 31, 5}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        for (int t = 0; t < 4; t++) { mt_check_halves(t & 1, t >> 1, shapes[i][0], shapes[i][1], shapes[i][2]); }
    }
    static const size_t rows[] = {1, 2, 3, 5, 8, 11, MATMUL_FEW, MATMUL_FEW + 1, 40};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        for (int transposed = 0; transposed < 2; transposed++) {
            mt_check_bf16(transposed, rows[i], 1037, 515, (real)0.7, i % 2, 1);
            mt_check_bf16(transposed, rows[i], 3, 261, 1, 0, 1);
            mt_check_bf16(transposed, rows[i], 4 * VL, 24, 1, 1, 0);
        }
    }
    for (int transposed = 0; transposed < 2; transposed++) {  // several pieces of weights
        mt_check_bf16(transposed, MATMUL_FEW + 1, transposed ? 1030 : 2100, transposed ? 2100 : 1030, 1, 0, 1);
    }
}

// Operands of products in bf16: a matrix in memory that ends with its last number, of floats that bf16 holds, of floats that
// round to those, and of bf16; with NaN between rows. Some numbers are so small that products are denormal, or are themselves.
typedef struct {
    float *exact, *rough;
    Bf16* half;
} MtHalves;
static MtHalves mt_halves(uint64_t stream, size_t rows, size_t cols, size_t ld) {
    size_t count = rows && cols ? (rows - 1) * ld + cols : 0;
    MtHalves x = {(float*)malloc(max_size(1, count * 4)), (float*)malloc(max_size(1, count * 4)),
                  (Bf16*)malloc(max_size(1, count * 2))};
    if (!x.exact || !x.rough || !x.half) { die("out of memory for a test's matrix"); }
    for (size_t i = 0; i < count; i++) {
        uint32_t kind = mt_hash(stream + 100, i) % 64;
        float scale = kind == 0 ? 0x1p-66f : kind == 1 ? 0x1p-130f : kind == 2 ? -0.0f : 1;
        float number = i % ld < cols ? scale * mt_number(stream, i) : NAN;
        x.half[i] = bf16_of_float(number);
        x.exact[i] = float_of_bf16(x.half[i]);
        x.rough[i] = number;
    }
    return x;
}
static const void* mt_number_of(const MtHalves* x, size_t which) {
    return which == 0 ? (const void*)x->exact : which == 1 ? (const void*)x->half : (const void*)x->rough;
}
static void mt_halves_free(MtHalves* x) { free(x->exact), free(x->rough), free(x->half); }

// Kernels for bf16: those that this processor can run, and the instructions that it may lack, emulated.
static const MatmulKernel mt_emulated[] = {
    {"amx, emulated", AMX_PANELS, amx_run_emulated, NULL, NULL, NULL},
    {"avx512bf16, emulated", PAIRS_PANELS, pairs_run_emulated, NULL, NULL, NULL}};
enum { MT_KERNELS = BF16_KERNELS + 2 };
static const MatmulKernel* mt_kernel(int i) {  // NULL: not here
    if (i >= BF16_KERNELS) { return &mt_emulated[i - BF16_KERNELS]; }
    return bf16_usable(&bf16_kernels[i]) ? &bf16_kernels[i].kernel : NULL;
}

// A product in bf16 by gemm_any(), of each kernel and kind of number, against gemm_reference_bf16(), to the bit. Operands are read
// each by itself, so a shape has every kind of either once; which kind of the other goes with it, the shape decides.
static void mt_check_halves_as(const MatmulKernel* kernel, int transA, int transB, size_t M, size_t N, size_t K,
                               float alpha, int accumulate, int with_bias, size_t gap) {
    size_t lda = (transA ? M : K) + gap, ldb = (transB ? K : N) + 2 * gap, ldc = N + 3 * gap;
    MtHalves A = mt_halves(M * 3 + K, transA ? K : M, transA ? M : K, lda);
    MtHalves B = mt_halves(N * 5 + K, transB ? N : K, transB ? K : N, ldb);
    real* bias = mt_matrix(7, 1, N, N);
    real* want = mt_matrix(9, M, N, ldc);
    for (size_t i = 0; i < N; i += 7) { bias[i] *= (real)0x1p-128f; }
    size_t count = (M - 1) * ldc + N;
    for (size_t i = 0; i < count && !accumulate; i++) { want[i] = (real)NAN; }
    real* begin = (real*)xalloc(count, sizeof(real), "a test");
    memcpy(begin, want, count * sizeof(real));
    unsigned before = denormals_off();
    gemm_reference_bf16(kernel->sums, transA, transB, M, N, K, alpha, A.exact, lda, B.exact, ldb, accumulate,
                        (float*)want, ldc, with_bias ? (float*)bias : NULL);
    denormals_restore(before);
    for (size_t of_a = 0; of_a < 3; of_a++) {
        static const Number numbers[] = {NUMBER_FP32, NUMBER_BF16, NUMBER_ROUNDED};
        const size_t of_b = (of_a + mt_hash(13, M + 31 * N + 1009 * K + (size_t)transB)) % 3;
        real* got = mt_matrix(9, M, N, ldc);
        memcpy(got, begin, count * sizeof(real));
        gemm_any(kernel, transA, transB, M, N, K, (real)alpha, mt_number_of(&A, of_a), numbers[of_a], lda,
                 mt_number_of(&B, of_b), numbers[of_b], ldb, accumulate, got, ldc, with_bias ? bias : NULL);
        size_t bad = 0, at = 0;
        for (size_t i = 0; i < count; i++) {
            int same = i % ldc < N ? memcmp(&got[i], &want[i], sizeof(real)) == 0 : got[i] != got[i];
            if (!same && bad++ == 0) { at = i; }
        }
        CHECK(bad == 0,
              "%s (%d, %d, M=%zu, N=%zu, K=%zu, alpha %g, accumulate %d, bias %d, gap %zu, numbers %zu and "
              "%zu): %zu differ, first (%zu, %zu): %a, want %a",
              kernel->name, transA, transB, M, N, K, (double)alpha, accumulate, with_bias, gap, of_a, of_b, bad,
              at / ldc, at % ldc, (double)got[at], (double)want[at]);
        free(got);
    }
    free(bias), free(want), free(begin);
    mt_halves_free(&A), mt_halves_free(&B);
}

// By instructions that are emulated, which take a thousand times as long, some of the shapes.
static void mt_check_kernel(const MatmulKernel* kernel, int emulated) {
    static const size_t sizes[] = {1, 2, 5, 16, 17, 31, 33, 70};
    size_t n = sizeof sizes / sizeof *sizes;
    for (size_t i = 0; i < n * n * n; i += emulated ? 7 : 1) {
        uint32_t r = mt_hash(12, i);
        mt_check_halves_as(kernel, r & 1, r >> 1 & 1, sizes[i % n], sizes[i / n % n], sizes[i / n / n],
                           (r >> 2 & 1) ? 0.3f : 1, r >> 3 & 1, r >> 4 & 1, (r >> 5 & 1) * 3);
    }
    for (int t = 0; t < 4; t++) {  // several K-blocks and steps of lines, every rest of a fold, all parts of a tile
        int tA = t & 1, tB = t >> 1;
        mt_check_halves_as(kernel, tA, tB, 21, 37, 257, 1, 0, 1, 1);
        mt_check_halves_as(kernel, tA, tB, 1 + 20 * (size_t)tB, 37, 0, 1, tA, 1, 0);
        mt_check_halves_as(kernel, tA, tB, 135, 70, 35, 1, 1, 1, 2);
        for (size_t rest = 0; rest < 32; rest++) {
            mt_check_halves_as(kernel, tA, tB, 18 + rest % 3, 5, 32 + rest, 1, 0, 0, 1);
        }
        if (emulated) { continue; }
        mt_check_halves_as(kernel, tA, tB, 30, 1100, 290, 1, 1, 0, 0);
        mt_check_halves_as(kernel, tA, tB, 1041, 19, 520, -0.5f, 0, 1, 0);
        for (size_t rows = 1; rows <= MATMUL_FEW + 1; rows++) {
            mt_check_halves_as(kernel, 0, tA, rows, t & 2 ? 1037 : 2 * VL * 3 + rows, 256 + 3 * rows, 0.7f, rows % 2, 1,
                               rows % 3);
        }
    }
}

#ifdef __SSE2__
// A denormal number counts as 0 in any operand, in what there was, and as a result; and where zeros stand for what is missing.
static void mt_check_denormal(const MatmulKernel* kernel, int rows) {
    static const float cases[][4] = {// a, b, alpha, what there was
                                     {0x1p-130f, 0x1p100f, 1, 0},
                                     {1, 0x1p-130f, 1, 0},
                                     {1, 1, 0, 0x1p-130f},
                                     {1, 0x1p-70f, 0x1p-70f, 0}};
    for (int i = 0; i < 4; i++) {
        float many[MATMUL_FEW + 1], out[MATMUL_FEW + 1];
        for (int row = 0; row < rows; row++) { many[row] = cases[i][0], out[row] = cases[i][3]; }
        gemm_any(kernel, 0, 0, (size_t)rows, 1, 1, (real)cases[i][2], many, NUMBER_FP32, 1, &cases[i][1], NUMBER_FP32,
                 1, cases[i][3] != 0, (real*)out, 1, NULL);
        CHECK(out[rows - 1] == 0, "%s, %d rows: a denormal number, case %d, makes %a", kernel->name, rows, i,
              (double)out[rows - 1]);
    }
    // The sum is -0 before the last numbers, and what they add is -0 until zeros for missing ones are added.
    enum { K = 2 * MATMUL_FOLD + 2, N = 2 * VL + 1 };
    for (size_t k = K - 1; k <= K; k++) {
        float a[(MATMUL_FEW + 1) * K] = {0}, b[K * N], got[(MATMUL_FEW + 1) * N], want[(MATMUL_FEW + 1) * N];
        for (size_t row = 0; row < (size_t)rows; row++) {
            a[row * k] = 1.5f * 0x1p-63f, a[row * k + MATMUL_FOLD] = -1.75f * 0x1p-63f;
            for (size_t x = 2 * MATMUL_FOLD; x < k; x++) { a[row * k + x] = k == K ? -0x1p-77f : -0.0f; }
            // Zeros between them are negative, so that by pairs the sum is still -0 there.
            for (size_t x = MATMUL_FOLD + 1; x < 2 * MATMUL_FOLD; x++) { a[row * k + x] = -0.0f; }
        }
        for (int i = 0; i < K * N; i++) { b[i] = 0x1p-63f; }
        for (int transposed = 0; transposed < 2; transposed++) {
            size_t ldb = transposed ? k : N;
            unsigned before = denormals_off();
            gemm_reference_bf16(kernel->sums, 0, transposed, (size_t)rows, N, k, 1, a, k, b, ldb, 0, want, N, NULL);
            denormals_restore(before);
            gemm_any(kernel, 0, transposed, (size_t)rows, N, k, 1, a, NUMBER_FP32, k, b, NUMBER_FP32, ldb, 0,
                     (real*)got, N, NULL);
            CHECK(memcmp(got, want, (size_t)rows * N * sizeof(float)) == 0, "%s, %d rows, K = %zu, %d: %a, want %a",
                  kernel->name, rows, k, transposed, (double)got[0], (double)want[0]);
        }
    }
    // Afterwards they count again, in every thread.
    MtHalves x = mt_halves(1, 96, 96, 96);
    real* sums = mt_matrix(2, 96, 96, 96);
    gemm_any(kernel, 0, 1, rows > 1 ? 96 : 1, 96, 96, 1, x.half, NUMBER_BF16, 96, x.half, NUMBER_BF16, 96, 0, sums, 96,
             NULL);
    int off = 0;
#pragma omp parallel
    {
        volatile float small = 0x1p-70f;
        int mine = !(small * small > 0);
#pragma omp critical
        off += mine;
    }
    CHECK(off == 0, "%s: in %d threads denormal numbers are still off after a product", kernel->name, off);
    mt_halves_free(&x), free(sums);
}
#endif

static void test_gemm_bf16_kernels(void) {
    if (sizeof(real) != sizeof(float)) {
        test_skip("the double build has no products in bf16");
        return;
    }
    for (int i = 0; i < MT_KERNELS; i++) {
        const MatmulKernel* kernel = mt_kernel(i);
        if (!kernel) {
            printf("     %s: not here, emulated\n", bf16_kernels[i].kernel.name);
            continue;
        }
        mt_check_kernel(kernel, i >= BF16_KERNELS);
#ifdef __SSE2__
        mt_check_denormal(kernel, 1);
        mt_check_denormal(kernel, MATMUL_FEW + 1);
#endif
    }
    // Three orders, three sums.
    enum { K = 200, N = 20 };
    float a[K], b[N * K], c[3][N];
    const MatmulKernel* kernels[] = {&matmul_fp32, mt_kernel(BF16_KERNELS), mt_kernel(BF16_KERNELS + 1)};
    for (uint64_t i = 0; i < K; i++) { a[i] = round_bf16(mt_number(1, i)); }
    for (uint64_t i = 0; i < N * K; i++) { b[i] = round_bf16(mt_number(2, i)); }
    for (int i = 0; i < 3; i++) {
        gemm_any(kernels[i], 0, 1, 1, N, K, 1, a, NUMBER_FP32, K, b, NUMBER_FP32, K, 0, (real*)c[i], N, NULL);
        for (int j = 0; j < i; j++) {
            CHECK(memcmp(c[i], c[j], sizeof c[i]) != 0, "orders %d and %d make the same sums", i, j);
            for (int n = 0; n < N; n++) {  // measured: 9.5e-7
                CHECK(fabsf(c[i][n] - c[j][n]) < 1e-5f, "orders %d and %d: %g and %g", i, j, (double)c[i][n],
                      (double)c[j][n]);
            }
        }
    }
}

// Rounding is that of the processor's conversion: to the nearest, ties to even; NaN and infinity stay what they are.
static void test_bf16(void) {
    static const uint32_t cases[][2] = {{0x3f800000, 0x3f80}, {0x3f808000, 0x3f80}, {0x3f808001, 0x3f81},
                                        {0x3f818000, 0x3f82}, {0x3f817fff, 0x3f81}, {0xbf818000, 0xbf82},
                                        {0x7f7fffff, 0x7f80}, {0x7f800000, 0x7f80}, {0xff800000, 0xff80},
                                        {0x00000001, 0x0000}, {0x80000000, 0x8000}, {0x00008001, 0x0001}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Bf16 got = bf16_of_float(mt_float(cases[i][0]));
        CHECK(got == cases[i][1], "%08x becomes %04x, want %04x", cases[i][0], got, cases[i][1]);
        Bf16 all[VL];
        for (int lane = 0; lane < VL; lane++) { all[lane] = got; }
        vf wide = vf_load_bf16(all);
        for (int lane = 0; lane < VL; lane++) { CHECK(mt_same(wide[lane], float_of_bf16(got)), "lane %d", lane); }
    }
    for (uint32_t first = 0; first < 1u << 20; first += VL) {  // upper bits of every kind, lower ones around a tie
        static const uint32_t lower[] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff, 0x4000, 0xc000};
        float x[VL];
        Bf16 all[VL];
        for (uint32_t lane = 0; lane < VL; lane++) {
            x[lane] = mt_float((first + lane) >> 4 << 16 | lower[(first + lane) % 8]);
        }
        vf_store_bf16(all, vf_load(x));
        for (int lane = 0; lane < VL; lane++) {
            Bf16 want = bf16_of_float(x[lane]);
            CHECK(all[lane] == want, "lane %d: %a stored as %04x, want %04x", lane, (double)x[lane], all[lane], want);
        }
    }
    static const uint32_t nans[] = {0x7f800001, 0x7fffffff, 0xff800001, 0xffffffff};
    for (int i = 0; i < 4; i++) {
        float x = float_of_bf16(bf16_of_float(mt_float(nans[i])));
        CHECK(x != x, "the NaN %08x becomes %g", nans[i], (double)x);
    }
}

static void test_gemm_nothing(void) {
    mt_check(0, 0, 0, 5, 3, 1, 0, 1, 0);
    mt_check(0, 1, 5, 0, 3, 1, 0, 1, 0);
    for (int option = 0; option < 4; option++) { mt_check(1, 0, 5, 17, 0, 1, option & 1, option >> 1, 1); }
    real C[6] = {(real)NAN, (real)NAN, (real)NAN, 1, 2, 3}, A[1] = {0};
    gemm(0, 0, 1, 3, 0, 1, A, 1, A, 3, 0, C, 3, NULL);
    gemm(0, 0, 1, 3, 0, 1, A, 1, A, 3, 1, C + 3, 3, NULL);
    CHECK(C[0] == 0 && C[1] == 0 && C[2] == 0, "K = 0 must give 0, got %g %g %g", (double)C[0], (double)C[1],
          (double)C[2]);
    CHECK(C[3] == 1 && C[4] == 2 && C[5] == 3, "K = 0, accumulating, must change nothing");
}

// gemm_reference itself, and so all that is compared with it, against sums in double.
static void test_gemm_reference(void) {
    enum { M = 9, N = 70, K = 700 };
    for (int option = 0; option < 32; option++) {
        int tA = option & 1, tB = option >> 1 & 1, accumulate = option >> 2 & 1, with_bias = option >> 3 & 1;
        double alpha = (option >> 4 & 1) ? -0.75 : 1;
        real* A = mt_matrix(1, tA ? K : M, tA ? M : K, tA ? M : K);
        real* B = mt_matrix(2, tB ? N : K, tB ? K : N, tB ? K : N);
        real* C = mt_matrix(3, M, N, N);
        real* bias = mt_matrix(4, 1, N, N);
        double* want = (double*)xalloc(M * N, sizeof(double), "a test");
        double* got = (double*)xalloc(M * N, sizeof(double), "a test");
        for (int i = 0; i < M; i++) {
            for (int j = 0; j < N; j++) {
                double sum = 0;
                for (int k = 0; k < K; k++) {
                    sum += (double)(tA ? A[k * M + i] : A[i * K + k]) * (double)(tB ? B[j * K + k] : B[k * N + j]);
                }
                want[i * N + j] =
                    (accumulate ? (double)C[i * N + j] : 0) + (with_bias ? (double)bias[j] : 0) + alpha * sum;
            }
        }
        gemm_reference(tA, tB, M, N, K, (real)alpha, A, tA ? M : K, B, tB ? K : N, accumulate, C, N,
                       with_bias ? bias : NULL);
        for (int i = 0; i < M * N; i++) { got[i] = (double)C[i]; }
        // measured: 4.6e-7 of the largest element in float, 1.4e-15 in double
        compare_doubles("gemm_reference", got, want, M * N, sizeof(real) == sizeof(float) ? 6e-7 : 1e-14);
        free(A), free(B), free(C), free(bias), free(want), free(got);
    }
}

// The three products of a layer, written out, with the orientation of each operand.
static void test_matmul_layer(void) {
    enum { ROWS = 70, IC = 37, OC = 53 };
    real* inp = mt_matrix(1, ROWS, IC, IC);
    real* weight = mt_matrix(2, OC, IC, IC);
    real* bias = mt_matrix(3, 1, OC, OC);
    real* dout = mt_matrix(4, ROWS, OC, OC);
    double tolerance = sizeof(real) == sizeof(float) ? 3e-7 : 1e-15;  // measured: 2.6e-7, 3.4e-16
    static double want[ROWS * OC + OC * IC];
    static double got[ROWS * OC + OC * IC];

    for (int with_bias = 0; with_bias < 2; with_bias++) {
        real* out = mt_matrix(5, ROWS, OC, OC);
        for (int i = 0; i < ROWS * OC; i++) { out[i] = (real)NAN; }
        matmul_forward(out, inp, weight_of(weight), with_bias ? bias : NULL, ROWS, IC, OC);
        for (int n = 0; n < ROWS; n++) {
            for (int o = 0; o < OC; o++) {
                double sum = with_bias ? (double)bias[o] : 0;
                for (int i = 0; i < IC; i++) { sum += (double)inp[n * IC + i] * (double)weight[o * IC + i]; }
                want[n * OC + o] = sum, got[n * OC + o] = (double)out[n * OC + o];
            }
        }
        compare_doubles("matmul_forward", got, want, ROWS * OC, tolerance);
        free(out);
    }
    real* dinp = mt_matrix(6, ROWS, IC, IC);
    for (int n = 0; n < ROWS; n++) {
        for (int i = 0; i < IC; i++) {
            double sum = 0;
            for (int o = 0; o < OC; o++) { sum += (double)dout[n * OC + o] * (double)weight[o * IC + i]; }
            want[n * IC + i] = sum, dinp[n * IC + i] = (real)NAN;
        }
    }
    matmul_backward_input(dinp, dout, weight, ROWS, IC, OC);
    for (int i = 0; i < ROWS * IC; i++) { got[i] = (double)dinp[i]; }
    compare_doubles("matmul_backward_input", got, want, ROWS * IC, tolerance);
    free(dinp);
    for (int with_bias = 0; with_bias < 2; with_bias++) {
        real* dweight = mt_matrix(7, OC, IC, IC);
        real* dbias = mt_matrix(8, 1, OC, OC);
        double want_bias[OC], got_bias[OC];
        for (int o = 0; o < OC; o++) {
            for (int i = 0; i < IC; i++) {
                double sum = (double)dweight[o * IC + i];
                for (int n = 0; n < ROWS; n++) { sum += (double)dout[n * OC + o] * (double)inp[n * IC + i]; }
                want[o * IC + i] = sum;
            }
            want_bias[o] = (double)dbias[o];
            for (int n = 0; n < ROWS; n++) { want_bias[o] += (double)dout[n * OC + o]; }
        }
        matmul_backward_weight(dweight, with_bias ? dbias : NULL, dout, inp, ROWS, IC, OC);
        for (int i = 0; i < OC * IC; i++) { got[i] = (double)dweight[i]; }
        compare_doubles("matmul_backward_weight: dweight", got, want, OC * IC, tolerance);
        for (int o = 0; o < OC; o++) { got_bias[o] = (double)dbias[o]; }
        if (with_bias) { compare_doubles("matmul_backward_weight: dbias", got_bias, want_bias, OC, tolerance); }
        free(dweight), free(dbias);
    }
    free(inp), free(weight), free(bias), free(dout);
}

// Weights (IC,OC) make the same products as weights (OC,IC), to the bit: each number is one sum in one order.
static void test_conv1d_layer(void) {
    enum { ROWS = 70, IC = 37, OC = 53 };
    real *inp = mt_matrix(1, ROWS, IC, IC), *weight = mt_matrix(2, OC, IC, IC), *turned = mt_matrix(2, IC, OC, OC);
    real *bias = mt_matrix(3, 1, OC, OC), *dout = mt_matrix(4, ROWS, OC, OC);
    static double want[ROWS * OC + OC * IC], got[ROWS * OC + OC * IC];
    for (int o = 0; o < OC; o++) {
        for (int i = 0; i < IC; i++) { turned[i * OC + o] = weight[o * IC + i]; }
    }
    for (int option = 0; option < 4; option++) {
        const real* b = option & 1 ? bias : NULL;
        real *y = mt_matrix(5, ROWS, OC, OC), *x = mt_matrix(5, ROWS, OC, OC);
        if (option & 2) {
            conv1d_forward_add(y, inp, weight_of(turned), b, ROWS, IC, OC);
            matmul_forward_add(x, inp, weight_of(weight), b, ROWS, IC, OC);
        } else {
            conv1d_forward(y, inp, weight_of(turned), b, ROWS, IC, OC);
            matmul_forward(x, inp, weight_of(weight), b, ROWS, IC, OC);
        }
        for (int i = 0; i < ROWS * OC; i++) { got[i] = (double)y[i], want[i] = (double)x[i]; }
        compare_doubles(option & 2 ? "conv1d_forward_add" : "conv1d_forward", got, want, ROWS * OC, 0);
        free(y), free(x);
    }
    real *dy = mt_matrix(6, ROWS, IC, IC), *dx = mt_matrix(7, ROWS, IC, IC);
    conv1d_backward_input(dy, dout, turned, ROWS, IC, OC);
    matmul_backward_input(dx, dout, weight, ROWS, IC, OC);
    for (int i = 0; i < ROWS * IC; i++) { got[i] = (double)dy[i], want[i] = (double)dx[i]; }
    compare_doubles("conv1d_backward_input", got, want, ROWS * IC, 0);
    free(dy), free(dx);
    for (int with_bias = 0; with_bias < 2; with_bias++) {
        real *dturned = mt_matrix(8, IC, OC, OC), *dweight = mt_matrix(8, OC, IC, IC);
        real *dbias = mt_matrix(9, 1, OC, OC), *dbias_too = mt_matrix(9, 1, OC, OC);
        for (int o = 0; o < OC; o++) {
            for (int i = 0; i < IC; i++) { dweight[o * IC + i] = dturned[i * OC + o]; }
        }
        conv1d_backward_weight(dturned, with_bias ? dbias : NULL, dout, inp, ROWS, IC, OC);
        matmul_backward_weight(dweight, with_bias ? dbias_too : NULL, dout, inp, ROWS, IC, OC);
        for (int i = 0; i < IC; i++) {
            for (int o = 0; o < OC; o++) {
                got[i * OC + o] = (double)dturned[i * OC + o], want[i * OC + o] = (double)dweight[o * IC + i];
            }
        }
        compare_doubles("conv1d_backward_weight: dweight", got, want, IC * OC, 0);
        CHECK(memcmp(dbias, dbias_too, OC * sizeof(real)) == 0, "conv1d_backward_weight: other dbias");
        free(dturned), free(dweight), free(dbias), free(dbias_too);
    }
    free(inp), free(weight), free(turned), free(bias), free(dout);
}

// A NaN or an infinity reaches exactly the row (of A) or column (of B) it must reach.
static void test_gemm_nan(void) {
    static const size_t shapes[][3] = {{7, 17, 5}, {13, 33, 300}, {65, 129, 64}, {1, 1, 1}, {6, 16, 8}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        for (int option = 0; option < 16; option++) {
            size_t M = shapes[s][0], N = shapes[s][1], K = shapes[s][2];
            int tA = option & 1, tB = option >> 1 & 1, in_b = option >> 2 & 1;
            real poison = option >> 3 & 1 ? (real)INFINITY : (real)NAN;
            real* A = mt_matrix(1, tA ? K : M, tA ? M : K, tA ? M : K);
            real* B = mt_matrix(2, tB ? N : K, tB ? K : N, tB ? K : N);
            real* C = mt_matrix(3, M, N, N);
            size_t row = M / 2, column = N - 1, k = K - 1;
            if (in_b) {
                B[tB ? column * K + k : k * N + column] = poison;
            } else {
                A[tA ? k * M + row : row * K + k] = poison;
            }
            gemm(tA, tB, M, N, K, 1, A, tA ? M : K, B, tB ? K : N, 0, C, N, NULL);
            size_t bad = 0;
            for (size_t i = 0; i < M * N; i++) {
                int hit = in_b ? i % N == column : i / N == row;
                int finite = C[i] - C[i] == 0;
                bad += hit == finite;
            }
            CHECK(bad == 0, "M=%zu N=%zu K=%zu, option %d: a NaN or infinity is missing or leaked, %zu places", M, N, K,
                  option, bad);
            free(A), free(B), free(C);
        }
    }
    // 0 x infinity is NaN: nothing may be skipped because it is multiplied by zero.
    real zero[1] = {0}, infinite[1] = {(real)INFINITY}, c[1] = {0};
    gemm(0, 0, 1, 1, 1, 1, zero, 1, infinite, 1, 1, c, 1, NULL);
    CHECK(c[0] != c[0], "0 x infinity = %g", (double)c[0]);
    real one[1] = {1}, d[1] = {0};
    gemm(0, 0, 1, 1, 1, 0, one, 1, infinite, 1, 1, d, 1, NULL);
    CHECK(d[0] != d[0], "alpha 0 x infinity = %g", (double)d[0]);
}

static inline uint64_t mt_fold(uint64_t hash, const real* X, size_t count) {
    for (size_t i = 0; i < count; i++) {
        uint64_t bits = 0;
        memcpy(&bits, X + i, sizeof(real));
        hash = (hash ^ bits) * 0x100000001B3u;
        hash ^= hash >> 29;
    }
    return hash;
}

// A number that stands for every bit of a set of products and column sums. It must be the same for
// every number of threads and every instruction set.
static uint64_t matmul_checksum(void) {
    static const size_t shapes[][3] = {{1, 1, 1}, {37, 1100, 530}, {1015, 33, 259}, {37, 51, 2000}, {130, 260, 96}};
    uint64_t hash = 0xCBF29CE484222325u;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        for (int option = 0; option < 4; option++) {
            size_t M = shapes[s][0], N = shapes[s][1], K = shapes[s][2];
            int tA = option & 1, tB = option >> 1;
            if (s == 1 && option > 1) { continue; }  // enough of the largest
            real* A = mt_matrix(10 + s, tA ? K : M, tA ? M : K, tA ? M : K);
            real* B = mt_matrix(20 + s, tB ? N : K, tB ? K : N, tB ? K : N);
            real* C = mt_matrix(30 + s, M, N, N);
            real* bias = mt_matrix(40 + s, 1, N, N);
            gemm(tA, tB, M, N, K, (real)(s % 2 ? 1 : 0.7), A, tA ? M : K, B, tB ? K : N, option != 0, C, N,
                 option < 2 ? bias : NULL);
            hash = mt_fold(hash, C, M * N);
            add_column_sums(bias, C, M, N);
            hash = mt_fold(hash, bias, N);
            free(A), free(B), free(C), free(bias);
        }
    }
    return hash;
}

static void test_gemm_threads(void) {
    uint64_t want = matmul_checksum();
#ifdef _OPENMP
    int before = omp_get_max_threads();
    static const int counts[] = {1, 2, 3, 6};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        int threads = counts[i];
        omp_set_num_threads(threads);
        uint64_t got = matmul_checksum();
        CHECK(got == want, "%d threads: %016llx, with %d: %016llx", threads, (unsigned long long)got, before,
              (unsigned long long)want);
    }
    omp_set_num_threads(before);
#endif
    // Of every instruction set and compiler: what all of them gave when this was written.
    if (sizeof(real) == sizeof(float)) {
        CHECK(want == MATMUL_CHECKSUM, "checksum %016llx, on other machines %016llx", (unsigned long long)want,
              (unsigned long long)MATMUL_CHECKSUM);
    }
}

// Products called by several threads at once must not share a workspace.
static void test_gemm_inside_parallel(void) {
    enum { M = 20, N = 90, K = 300, THREADS = 4, TIMES = 60 };
    static real want[THREADS][M * N], got[THREADS][M * N];
    int wrong[THREADS] = {0};
    real* A[THREADS];
    real* B = mt_matrix(2, K, N, N);
    for (int t = 0; t < THREADS; t++) {
        A[t] = mt_matrix(3 + (uint64_t)t, M, K, K);
        gemm_reference(0, 0, M, N, K, 1, A[t], K, B, N, 0, want[t], N, NULL);
    }
#pragma omp parallel for num_threads(THREADS) schedule(static, 1)
    for (int t = 0; t < THREADS; t++) {
        for (int i = 0; i < TIMES; i++) {
            gemm(0, 0, M, N, K, 1, A[t], K, B, N, 0, got[t], N, NULL);
            wrong[t] += memcmp(want[t], got[t], sizeof want[t]) != 0;
        }
    }
    for (int t = 0; t < THREADS; t++) {
        CHECK(wrong[t] == 0, "thread %d: %d of %d products are wrong", t, wrong[t], TIMES);
        free(A[t]);
    }
    free(B);
}

// ---- the list of work in its worst orders ----
//
// Threads whose order is chosen here: each is a context of its own, and exactly one runs, up to the next place where
// it may stand still. A thread that has its piece, and all that matmul_work() made it wait for, is held there;
// only when every thread is held or waits does one go on: the one with the latest piece, or one by chance.
// So whatever a piece needs is done as late as its waits allow: a wait that is missing gives wrong numbers, always.

typedef struct {
    char* stack;
    int state;
    uint64_t piece;  // while it is ready
#ifdef __GLIBC__
    ucontext_t context;
#endif
} MtThread;
enum { MT_NEW, MT_READY, MT_WAITS, MT_ENDED, MT_STACK = 64 << 10 };

static struct {
    int active;
    const MatmulJob* job;
    MtThread *threads, *running;
#ifdef __GLIBC__
    ucontext_t home;
#endif
} mt;

static void mt_pause(int ready, uint64_t piece) {
    if (!mt.active) {
        if (!ready) { matmul_sleep(); }
        return;
    }
#ifdef __GLIBC__
    mt.running->state = ready ? MT_READY : MT_WAITS;
    mt.running->piece = piece;
    swapcontext(&mt.running->context, &mt.home);
#else
    (void)piece;
#endif
}

#ifdef __GLIBC__
static void mt_thread(void) {
    matmul_work(mt.job, 0, 1);
    mt.running->state = MT_ENDED;
}

static void mt_run(MtThread* thread) {
    if (thread->state == MT_NEW) {
        getcontext(&thread->context);
        thread->stack = (char*)xalloc(MT_STACK, 1, "a test's stack");
        thread->context.uc_stack.ss_sp = thread->stack;
        thread->context.uc_stack.ss_size = MT_STACK;
        thread->context.uc_link = &mt.home;
        makecontext(&thread->context, mt_thread, 0);
    }
    mt.running = thread;
    swapcontext(&mt.home, &thread->context);
}

// Does the whole list by `count` threads. Of those that can go on, the one with the latest piece does, or, seed
// not 0, any by chance; `last` is a piece that is done only when nothing else can be. Returns 0 if all wait for ever.
static int mt_schedule(const MatmulJob* job, int count, uint64_t seed, uint64_t last) {
    mt.job = job;
    mt.threads = (MtThread*)xalloc((size_t)count, sizeof(MtThread), "a test");
    mt.active = 1;
    int ended = 0;
    for (uint64_t turn = 0; !ended; turn++) {
        MtThread* chosen = NULL;
        uint32_t ready = 0;
        ended = 1;
        for (int i = 0; i < count; i++) {
            MtThread* t = &mt.threads[i];
            if (t->state == MT_NEW || t->state == MT_WAITS) { mt_run(t); }
            ended &= t->state == MT_ENDED;
            if (t->state != MT_READY) { continue; }
            ready++;
            if (!chosen || chosen->piece == last) {
                chosen = t;
            } else if (t->piece != last) {
                int later = t->piece > chosen->piece;
                chosen = (seed ? mt_hash(seed, turn << 20 | (uint64_t)i) % ready == 0 : later) ? t : chosen;
            }
        }
        if (!chosen) { break; }
        mt_run(chosen);
    }
    mt.active = 0;
    for (int i = 0; i < count; i++) { free(mt.threads[i].stack); }
    free(mt.threads);
    return ended;
}

// Shapes in which each wait of matmul_work() is needed. There are as many threads as pieces, or a few: what
// the list promises does not depend on how many there are. Panels are NaN until they are packed.
static void test_gemm_worst_order(void) {
    if (sizeof(real) != sizeof(float)) {
        test_skip("the double build has no packed products");
        return;
    }
    static const struct {
        size_t M, N, K, threads, most;
        const char* what;
    } shapes[] = {{7, 17, 4 * MATMUL_KC + 5, 1, 1, "rows are packed again from the fourth K-block on"},
                  {17, 7, 4 * MATMUL_KC + 5, 1, 1, "columns are packed again from the fourth K-block on"},
                  {20, 300, 2 * MATMUL_KC, 1, 20, "sums of two K-blocks"},
                  {300, 20, 5 * MATMUL_KC, 1, 64, "sums of steps of several K-blocks"},
                  {150, 151, 20, 1, 1, "panels are packed again from the fourth block on"},
                  {40, 90, MATMUL_KC + 9, 1, 24, "blocks of two K-blocks"},
                  {90, 100, 40, 40, 1000, "more threads than groups of columns"},
                  {100, 90, MATMUL_KC + 40, 30, 50, "more threads than groups of rows"}};
    size_t room = (size_t)8 << 20;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        size_t M = shapes[i].M, N = shapes[i].N, K = shapes[i].K, steps = 1;
        real *A = mt_matrix(1, M, K, K), *B = mt_matrix(2, K, N, N), *got = mt_matrix(3, M, N, N),
             *want = mt_matrix(3, M, N, N);
        gemm_reference(0, 0, M, N, K, 1, A, K, B, N, 0, want, N, NULL);
        for (size_t order = 0; order < 2 + steps; order++) {
            memset(matmul_workspace(room), 0xff, room);
            memset(got, 0xff, M * N * sizeof(real));
            MatmulJob job = matmul_job(&matmul_fp32, 0, 0, M, N, K, 1, A, NUMBER_FP32, K, B, NUMBER_FP32, N, 0,
                                       (float*)got, N, NULL, shapes[i].threads, shapes[i].most);
            // Orders: the latest first; by chance; the latest first and the last panels of a step last.
            uint64_t pieces = 0, last = UINT64_MAX;
            steps = job.steps;
            for (size_t phase = 0; phase <= 2 * steps; phase++) {
                size_t packed = phase % 2 ? phase / 2 + 1 : 0;
                int packs = phase == 0 || phase % 2;
                if (packs && packed == steps) { continue; }
                MatmulStep step = matmul_step(&job, packs ? packed : phase / 2 - 1);
                pieces += packs ? step.packs : step.tasks;
                if (packs && order == 2 + packed) { last = pieces - 1; }
            }
            int threads = order == 1 ? 5 : (int)pieces;
            CHECK(mt_schedule(&job, threads, order == 1, last), "%s, order %zu: all threads wait", shapes[i].what,
                  order);
            size_t bad = 0;
            for (size_t k = 0; k < M * N; k++) { bad += !(got[k] == want[k]); }
            CHECK(bad == 0, "%s, order %zu: %zu of %zu numbers are wrong", shapes[i].what, order, bad, M * N);
        }
        free(A), free(B), free(got), free(want);
    }
}
#else
static void test_gemm_worst_order(void) { test_skip("no contexts (ucontext.h) here"); }
#endif

static void test_column_sums(void) {
    static const size_t shapes[][2] = {{1, 1}, {3, 65}, {64, 64}, {65, 7}, {300, 129}, {1000, 257}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        size_t rows = shapes[s][0], columns = shapes[s][1];
        real* X = mt_matrix(1, rows, columns, columns);
        real* sums = mt_matrix(2, 1, columns, columns);
        double* want = (double*)xalloc(columns, sizeof(double), "a test");
        double* got = (double*)xalloc(columns, sizeof(double), "a test");
        for (size_t j = 0; j < columns; j++) {
            want[j] = (double)sums[j];
            for (size_t i = 0; i < rows; i++) { want[j] += (double)X[i * columns + j]; }
        }
        add_column_sums(sums, X, rows, columns);
        for (size_t j = 0; j < columns; j++) { got[j] = (double)sums[j]; }
        // measured: 2.3e-7; 0 in double
        compare_doubles("column sums", got, want, columns, sizeof(real) == sizeof(float) ? 5e-7 : 1e-15);
        X[rows * columns - 1] = (real)NAN;
        add_column_sums(sums, X, rows, columns);
        CHECK(sums[columns - 1] != sums[columns - 1], "a NaN was lost");
        CHECK(columns == 1 || sums[columns - 2] == sums[columns - 2], "a NaN leaked");
        free(X), free(sums), free(want), free(got);
    }
}

static void test_machine(void) {
    double peak = machine_peak_flops(&machine_fma), bandwidth = machine_copy_bandwidth();
    CHECK(peak == 0 || (peak > 1e7 && peak < 1e16), "peak %g FLOP/s", peak);
    CHECK(machine_fma.limit.best[0] > 1e7 && peak <= machine_fma.limit.best[0], "best reading %g",
          machine_fma.limit.best[0]);
    CHECK(bandwidth > 1e7 && bandwidth < 1e14, "bandwidth %g bytes/s", bandwidth);
    CHECK(machine_peak_flops(&machine_fma) == peak && machine_copy_bandwidth() == bandwidth, "measured again");
    double best = machine_fma.limit.best[0];
    double now = machine_measure_peak(&machine_fma, 0.02);
    CHECK(now > 0 && now <= machine_fma.limit.best[0], "read now: %g, best %g", now, machine_fma.limit.best[0]);
    CHECK(machine_steady(167, 180) && machine_steady(180, 167), "readings that differ by less than a tenth");
    CHECK(!machine_steady(167, 420) && !machine_steady(420, 167), "readings that differ by more than half");
    CHECK(machine_fma.limit.best[0] >= best, "the best reading fell from %g to %g", best, machine_fma.limit.best[0]);
    // One undisturbed reading among others is no limit; four that agree are, whatever else was read.
    MachineLimit limit = {{0}};
    const double readings[] = {50, 100, 51, 49, 99, 50, 98, 30, 97};
    for (int i = 0; i < 9; i++) {
        CHECK(machine_known(&limit) == 0, "known after %d readings", i);
        machine_reading(&limit, readings[i]);
    }
    CHECK(machine_known(&limit) == 100, "%g of 100", machine_known(&limit));
    machine_reading(&limit, 110);
    CHECK(machine_known(&limit) == 0, "110 is beyond all others, and yet they are said to agree");
    CHECK(strlen(machine_name()) > 0 && strlen(machine_isa()) > 0 && strlen(matmul_name()) > 0, "a name is empty");
}

static void matmul_tests(void) {
    RUN(test_fma);
    RUN(test_vec);
    RUN(test_gemm_reference);
    RUN(test_gemm_shapes);
    RUN(test_gemm_blocks);
    RUN(test_gemm_few);
    RUN(test_bf16);
    RUN(test_gemm_bf16);
    RUN(test_gemm_bf16_kernels);
    RUN(test_gemm_nothing);
    RUN(test_gemm_nan);
    RUN(test_matmul_layer);
    RUN(test_conv1d_layer);
    RUN(test_gemm_threads);
    RUN(test_gemm_inside_parallel);
    RUN(test_gemm_worst_order);
    RUN(test_column_sums);
    RUN(test_machine);
}

#endif
