// test_attention.h - tests of common/attention.h.
#ifndef PONDER_TEST_ATTENTION_H
#define PONDER_TEST_ATTENTION_H

#include "../../common/attention.h"
#include "test.h"

// One problem: inputs laid out as one row of [q heads | k heads | v heads | gap] per position.
typedef struct {
    int B, T, NH, NKV, HS;
    size_t row, total, out_total, lse_total;
    real *x, *dout, *out, *lse, *dx;  // x and dx hold q, k, v and the gap
} AttentionCase;

static uint32_t attention_seed;

static real attention_random(void) {  // -1 .. 1
    attention_seed = attention_seed * 1664525u + 1013904223u;
    return (real)((double)(attention_seed >> 8) / 8388608.0 - 1.0);
}

static uint64_t attention_hash(const void* data, size_t bytes, uint64_t hash) {
    const unsigned char* p = (const unsigned char*)data;
    for (size_t i = 0; i < bytes; i++) { hash = (hash ^ p[i]) * 1099511628211ull; }
    return hash;
}

static void attention_poison(real* p, size_t n) {
    for (size_t i = 0; i < n; i++) { p[i] = (real)NAN; }
}

static AttentionCase attention_case(int B, int T, int NH, int NKV, int HS, double size, uint32_t seed) {
    AttentionCase a = {B, T, NH, NKV, HS};
    a.row = (size_t)(NH + 2 * NKV) * HS + 3;
    a.total = (size_t)B * T * a.row;
    a.out_total = (size_t)B * T * NH * HS;
    a.lse_total = (size_t)B * NH * T;
    a.x = (real*)xalloc(a.total, sizeof(real), "a test");
    a.dx = (real*)xalloc(a.total, sizeof(real), "a test");
    a.out = (real*)xalloc(a.out_total, sizeof(real), "a test");
    a.dout = (real*)xalloc(a.out_total, sizeof(real), "a test");
    a.lse = (real*)xalloc(a.lse_total, sizeof(real), "a test");
    attention_seed = seed;
    for (size_t i = 0; i < a.total; i++) { a.x[i] = (real)size * attention_random(); }
    for (size_t i = 0; i < a.out_total; i++) { a.dout[i] = attention_random(); }
    return a;
}

static void attention_case_free(AttentionCase* a) {
    free(a->x), free(a->dx), free(a->out), free(a->dout), free(a->lse);
}

// Forward and backward into poisoned outputs.
static void attention_case_run(AttentionCase* a, int reference) {
    size_t k = (size_t)a->NH * a->HS, v = k + (size_t)a->NKV * a->HS, HS = (size_t)a->HS;
    attention_poison(a->out, a->out_total);
    attention_poison(a->lse, a->lse_total);
    attention_poison(a->dx, a->total);
    if (reference) {
        attention_forward_reference(a->out, a->lse, a->x, a->x + k, a->x + v, a->B, a->T, a->NH, a->NKV, a->HS, a->row,
                                    HS, HS);
        attention_backward_reference(a->dx, a->dx + k, a->dx + v, a->dout, a->x, a->x + k, a->x + v, a->out, a->lse,
                                     a->B, a->T, a->NH, a->NKV, a->HS, a->row, HS, HS);
    } else {
        attention_forward(a->out, a->lse, a->x, a->x + k, a->x + v, a->B, a->T, a->NH, a->NKV, a->HS, a->row, HS, HS);
        attention_backward(a->dx, a->dx + k, a->dx + v, a->dout, a->x, a->x + k, a->x + v, a->out, a->lse, a->B, a->T,
                           a->NH, a->NKV, a->HS, a->row, HS, HS);
    }
}

static uint64_t attention_case_hash(const AttentionCase* a) {
    uint64_t hash = 14695981039346656037ull;
    hash = attention_hash(a->out, a->out_total * sizeof(real), hash);
    hash = attention_hash(a->lse, a->lse_total * sizeof(real), hash);
    return attention_hash(a->dx, a->total * sizeof(real), hash);
}

// The fast version against the plain one; the gaps of dx stay as they were.
static void attention_compare(int B, int T, int NH, int NKV, int HS) {
    AttentionCase a = attention_case(B, T, NH, NKV, HS, 3.0 / sqrt(sqrt((double)HS)), (uint32_t)(T * 131 + HS));
    AttentionCase r = attention_case(B, T, NH, NKV, HS, 3.0 / sqrt(sqrt((double)HS)), (uint32_t)(T * 131 + HS));
    attention_case_run(&a, 0);
    attention_case_run(&r, 1);
    size_t vectors = a.row - 3;
    for (size_t t = 0; t < (size_t)B * T; t++) {
        for (size_t i = vectors; i < a.row; i++) {
            CHECK(a.dx[t * a.row + i] != a.dx[t * a.row + i], "T %d HS %d: the gap was written at position %zu", T, HS,
                  t);
            a.dx[t * a.row + i] = r.dx[t * a.row + i] = 0;
        }
    }
    char* what = format_string("B %d T %d NH %d NKV %d HS %d", B, T, NH, NKV, HS);
    // Measured over all shapes here, the plain version's rounding included: out 3.2e-7, lse 3.0e-7, gradients 9.7e-7.
    double e1 = compare_reals(what, a.out, r.out, a.out_total, 1.5e-6);
    double e2 = compare_reals(what, a.lse, r.lse, a.lse_total, 1.5e-6);
    double e3 = compare_reals(what, a.dx, r.dx, a.total, 4e-6);
    if (getenv("PONDER_VERBOSE")) { printf("     %s: out %.2g lse %.2g gradients %.2g\n", what, e1, e2, e3); }
    free(what);
    attention_case_free(&a);
    attention_case_free(&r);
}

static void test_attention_reference(void) {
    static const int lengths[] = {1, 2, 7, 16, 17, 47, 48, 49, 63, 64, 65, 95, 97, 130, 257};
    static const int sizes[] = {1, 8, 12, 32, 64, 80, 96, 128};
    static const int heads[][2] = {{1, 1}, {4, 4}, {4, 2}, {6, 1}};
    for (int i = 0; i < 15; i++) {
        for (int j = i % 2; j < 8; j += 2) {
            const int* h = heads[(i + j / 2) % 4];
            attention_compare(lengths[i] < 100 ? 2 : 1, lengths[i], h[0], h[1], sizes[j]);
        }
    }
}

// Central differences, five points, of sum(out * dout) for every input. In double only.
static void test_attention_differences(void) {
    if (sizeof(real) != sizeof(double)) {
        test_skip("needs the double build");
        return;
    }
    AttentionCase a = attention_case(2, 5, 4, 2, 3, 1.0, 7);
    attention_case_run(&a, 1);
    double* got = (double*)xalloc(a.total, sizeof(double), "a test");
    double* want = (double*)xalloc(a.total, sizeof(double), "a test");
    static const double steps[4] = {-2, -1, 1, 2}, weights[4] = {1, -8, 8, -1};
    for (size_t i = 0; i < a.total; i++) { got[i] = (double)a.dx[i]; }
    for (size_t i = 0; i < a.total; i++) {
        if (i % a.row >= a.row - 3) {
            got[i] = 0;
            continue;
        }
        real x = a.x[i];
        double h = 1e-3;
        for (int s = 0; s < 4; s++) {
            a.x[i] = x + (real)(steps[s] * h);
            attention_case_run(&a, 1);
            double loss = 0;
            for (size_t j = 0; j < a.out_total; j++) { loss += (double)a.out[j] * (double)a.dout[j]; }
            want[i] += weights[s] * loss / (12 * h);
        }
        a.x[i] = x;
    }
    compare_doubles("attention's gradients", got, want, a.total, 1e-11);  // measured: 9.2e-13
    free(got), free(want);
    attention_case_free(&a);
}

// Changing q, k and v of one position changes no bit before it, even when they become NaN or huge; and
// from it on NaN shows everywhere (every later row sees the key).
static void test_attention_causal(void) {
    static const int lengths[] = {17, 50, 130};
    for (int i = 0; i < 3; i++) {
        int T = lengths[i], NH = 3, NKV = 1, HS = 24;
        for (int at = T / 3; at < T; at += T / 4) {
            AttentionCase a = attention_case(1, T, NH, NKV, HS, 1.0, 3), c = attention_case(1, T, NH, NKV, HS, 1.0, 3);
            attention_case_run(&a, 0);
            static const real values[3] = {(real)NAN, (real)1e30, (real)-0.5};
            for (int n = 0; n < 3; n++) {
                for (size_t d = 0; d < a.row; d++) { c.x[(size_t)at * a.row + d] = values[n]; }
                attention_case_run(&c, 0);
                size_t before = (size_t)at * NH * HS;
                CHECK(memcmp(a.out, c.out, before * sizeof(real)) == 0, "T %d: position %d (%g) reached back", T, at,
                      (double)values[n]);
                for (int h = 0; h < NH; h++) {
                    CHECK(memcmp(a.lse + (size_t)h * T, c.lse + (size_t)h * T, (size_t)at * sizeof(real)) == 0,
                          "T %d: position %d reached back into lse", T, at);
                }
                if (n != 0) { continue; }
                size_t seen = 0;
                for (size_t d = before; d < a.out_total; d++) { seen += c.out[d] != c.out[d]; }
                CHECK(seen == a.out_total - before, "T %d: NaN at %d shows in %zu of %zu later numbers", T, at, seen,
                      a.out_total - before);
            }
            attention_case_free(&a);
            attention_case_free(&c);
        }
    }
}

// A NaN in dout of one position reaches its dq and the dk, dv of keys up to it; nothing else changes.
static void test_attention_causal_backward(void) {
    int T = 130, NH = 2, NKV = 2, HS = 20;
    for (int at = 5; at < T; at += 31) {
        AttentionCase a = attention_case(1, T, NH, NKV, HS, 1.0, 5), c = attention_case(1, T, NH, NKV, HS, 1.0, 5);
        for (int d = 0; d < NH * HS; d++) { c.dout[(size_t)at * NH * HS + d] = (real)NAN; }
        attention_case_run(&a, 0);
        attention_case_run(&c, 0);
        size_t k = (size_t)NH * HS;
        for (int t = 0; t < T; t++) {
            const real* x = a.dx + (size_t)t * a.row;
            const real* y = c.dx + (size_t)t * a.row;
            if (t != at) { CHECK(memcmp(x, y, k * sizeof(real)) == 0, "NaN in dout at %d reached dq at %d", at, t); }
            if (t > at) {
                CHECK(memcmp(x + k, y + k, 2 * k * sizeof(real)) == 0, "NaN in dout at %d reached dk or dv at %d", at,
                      t);
            } else {
                CHECK(y[k] != y[k] && y[2 * k] != y[2 * k], "NaN in dout at %d is not seen in dk, dv at %d", at, t);
            }
        }
        CHECK(c.dx[(size_t)at * a.row] != c.dx[(size_t)at * a.row], "NaN in dout at %d is not seen in its dq", at);
        attention_case_free(&a);
        attention_case_free(&c);
    }
}

// Logits of several thousand, growing with the position, so that the maximum moves from tile to tile.
// With v = 1 every output is 1, and no gradient overflows.
static void test_attention_large(void) {
    AttentionCase a = attention_case(1, 300, 2, 2, 64, 30.0, 11);
    size_t k = 2 * 64, v = 2 * k;
    for (size_t t = 0; t < 300; t++) {
        for (size_t d = 0; d < k; d++) {
            a.x[t * a.row + k + d] *= (real)(1 + (double)t / 10);
            a.x[t * a.row + v + d] = 1;
        }
    }
    attention_case_run(&a, 0);
    for (size_t i = 0; i < a.out_total; i++) {
        // Measured: 0. The sum of p over itself: the two may be added in other orders, of at most 300 roundings.
        CHECK(fabs((double)a.out[i] - 1) < 2e-6, "out[%zu] = %g, expected 1", i, (double)a.out[i]);
    }
    for (size_t i = 0; i < a.lse_total; i++) {
        // A bound, not a tolerance: the largest logit is 27,000.
        CHECK(fabs((double)a.lse[i]) < 1e5, "lse[%zu] = %g", i, (double)a.lse[i]);
    }
    double most = 0;
    for (size_t i = 0; i < a.total; i++) {
        if (i % a.row >= a.row - 3) { continue; }
        // Likewise: the largest gradient is 3.7.
        CHECK(fabs((double)a.dx[i]) < 100, "gradient[%zu] = %g", i, (double)a.dx[i]);
        if (i % a.row < v && fabs((double)a.dx[i]) > most) { most = fabs((double)a.dx[i]); }
    }
    // Measured: 2.3e-4, from keys of several hundred times the rounding of dp - delta, 1e-6.
    CHECK(most < 0.002, "with all v equal dq and dk are 0 but for rounding, not %g", most);
    attention_case_free(&a);
}

// 1, 2, 3 and 5 threads: many heads (a thread takes whole heads) and a single one (threads share it).
static void test_attention_threads(void) {
#ifdef _OPENMP
    int threads = omp_get_max_threads();
    static const int cases[][5] = {{2, 70, 4, 2, 40}, {1, 210, 1, 1, 32}, {1, 130, 6, 1, 20}};
    for (int i = 0; i < 3; i++) {
        const int* p = cases[i];
        uint64_t first = 0;
        for (int n = 1; n <= 5; n += n < 3 ? 1 : 2) {
            omp_set_num_threads(n);
            AttentionCase a = attention_case(p[0], p[1], p[2], p[3], p[4], 1.5, 9);
            attention_case_run(&a, 0);
            uint64_t hash = attention_case_hash(&a);
            if (n == 1) { first = hash; }
            CHECK(hash == first, "T %d NH %d NKV %d: %d threads give other bits than one", p[1], p[2], p[3], n);
            attention_case_free(&a);
        }
    }
    omp_set_num_threads(threads);
#else
    test_skip("a build without OpenMP");
#endif
}

// The same bits on every machine and by every compiler. Where the definition of the result was changed on purpose, the
// number that the message gives belongs here, after it was seen with PONDER_ISA=portable and with gcc and clang.
static void test_attention_bits(void) {
    if (sizeof(real) != sizeof(float)) {
        test_skip("libm's exp in the double build");
        return;
    }
    uint64_t hash = 0;
    static const int cases[][5] = {{1, 259, 2, 1, 64}, {2, 67, 3, 3, 21}, {1, 110, 2, 2, 96}};
    for (int i = 0; i < 3; i++) {
        const int* p = cases[i];
        AttentionCase a = attention_case(p[0], p[1], p[2], p[3], p[4], 1.5, 21);
        attention_case_run(&a, 0);
        // The gaps are NaN, whose bits are the compiler's affair.
        for (size_t j = 0; j < a.total; j++) { a.dx[j] = j % a.row >= a.row - 3 ? 0 : a.dx[j]; }
        hash = hash * 31 + attention_case_hash(&a);
        attention_case_free(&a);
    }
    CHECK(hash == 0xdd941fc21c9e2562ull, "the bits of attention are 0x%016llx", (unsigned long long)hash);
}

static void attention_tests(void) {
    RUN(test_attention_reference);
    RUN(test_attention_differences);
    RUN(test_attention_causal);
    RUN(test_attention_causal_backward);
    RUN(test_attention_large);
    RUN(test_attention_threads);
    RUN(test_attention_bits);
}

#endif
