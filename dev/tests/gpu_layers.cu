// gpu_layers.cu - tests of common/layers.cuh, norms.cuh, rmsnorm.cuh and adamw.cuh: every launcher against the same formula
// in double, or against the C half where the bits must be the C half's.
//
//     gpu_layers [part of a test's name]
//
// Runs on a GPU and under the emulator alike. Each case runs twice. The first time every array lies
// between two guards; the second time nothing follows its last number, so that a sanitizer sees a read
// past the end. Guards and "=" outputs are filled with NaN beforehand, whose bits differ from array to
// array. After each run: guards untouched, inputs untouched; after the second: the same bits as before.
//
// Inputs of the type floatX are rounded to it beforehand, so the reference computes from the same
// numbers. An output that is a float may be off by a tolerance, relative to the largest sum of absolute
// terms in it. An output that is a bf16 may be off by the same and half a unit in its last place, the
// one rounding that it must have: a naive bf16 version, which rounds at least once, is no better, so
// this is stricter than the rule of twice its error.
#include "../../common/adamw.cuh"
#include "../../common/device.cuh"
#include "../../common/layers.cuh"
#include "../../common/norms.cuh"
#include "../../common/rmsnorm.cuh"
#include "gpu_arrays.h"

// 45: where rows end, some threads have a next one in flight that is the first past the end.
static const size_t some_rows[] = {1, 3, 45, 130};
static const size_t some_widths[] = {1, 5, 8, 40, 64, 100, 256, 768, 1032, 5120, 8200};
enum { ROWS = 4, WIDTHS = 11 };
#define ALL_SHIFTED (~(uint64_t)0)

// Under a sanitizer or the race detector of the emulator, cases of many numbers are left out: they repeat
// what smaller ones do, in more blocks.
#ifdef EMULATE_SLOW
enum { MOST_NUMBERS = 21000 };
static int left_out(size_t numbers) { return numbers > MOST_NUMBERS; }
#else
static int left_out(size_t numbers) { return numbers == 0; }  // none
#endif

// ------------------------------------------------------------------------------------------------
// Norms forward

static struct {
    size_t N, C;
    int branches, abias, bbias, norms;
    double mean;  // of x
} nf;
static float norm_eps = 1e-5f;

static void norm_forward_case(void) {
    const size_t N = nf.N, C = nf.C, n = N * C;
    float *x = random_floats(n, nf.mean, 1), *a = random_x(n, 0.1, 1), *b = random_x(n, -0.1, 1);
    float *abias = random_floats(C, 0, 0.5), *bbias = random_floats(C, 0, 0.5);
    float *w1 = random_floats(C, 1, 0.3), *b1 = random_floats(C, 0, 0.3);
    float *w2 = random_floats(C, 1, 0.3), *b2 = random_floats(C, 0, 0.3);
    const int has_a = nf.branches > 0, has_b = nf.branches > 1, two = nf.norms > 1;

    float* x_out = array_floats("x_out", has_a ? OUTPUT : INPUT, NULL, n);  // without a it stays as it was
    floatX* ln1 = array_x("ln1", OUTPUT, NULL, n);
    floatX* ln2 = array_x("ln2", two ? OUTPUT : NOWHERE, NULL, n);
    float* mean = array_floats("mean", OUTPUT, NULL, N);
    float* rstd = array_floats("rstd", OUTPUT, NULL, N);
    float* d_x = array_floats("x", INPUT, x, n);
    floatX* d_a = array_x("a", has_a ? INPUT : NOWHERE, a, n);
    float* d_abias = array_floats("abias", has_a && nf.abias ? INPUT : NOWHERE, abias, C);
    floatX* d_b = array_x("b", has_b ? INPUT : NOWHERE, b, n);
    float* d_bbias = array_floats("bbias", has_b && nf.bbias ? INPUT : NOWHERE, bbias, C);
    float* d_w1 = array_floats("w1", INPUT, w1, C);
    float* d_b1 = array_floats("b1", INPUT, b1, C);
    float* d_w2 = array_floats("w2", two ? INPUT : NOWHERE, w2, C);
    float* d_b2 = array_floats("b2", two ? INPUT : NOWHERE, b2, C);
    floatX* again1 = array_x("ln1 again", OUTPUT, NULL, n);
    floatX* again2 = array_x("ln2 again", two ? OUTPUT : NOWHERE, NULL, n);

    layernorms_forward_cuda(x_out, ln1, ln2, mean, rstd, d_x, d_a, d_abias, d_b, d_bbias, d_w1, d_b1, d_w2, d_b2, N, C,
                            norm_eps);
    layernorms_again_cuda(again1, again2, has_a ? x_out : d_x, d_w1, d_b1, d_w2, d_b2, mean, rstd, N, C);

    double *sum = zeros_double(n), *m = zeros_double(N), *s = zeros_double(N), *y1 = zeros_double(n),
           *y2 = zeros_double(n);
    double size = 0, rstd_size = 0, ln_size = 0;
    for (size_t row = 0; row < N; row++) {
        double* v = sum + row * C;
        double total = 0, squares = 0, most = 0;
        for (size_t i = 0; i < C; i++) {
            v[i] = x[row * C + i];
            if (has_a) { v[i] += (double)a[row * C + i] + (nf.abias ? abias[i] : 0); }
            if (has_b) { v[i] += (double)b[row * C + i] + (nf.bbias ? bbias[i] : 0); }
            total += v[i];
            most = fmax(most, fabs(v[i]));
        }
        m[row] = total / (double)C;
        for (size_t i = 0; i < C; i++) { squares += (v[i] - m[row]) * (v[i] - m[row]); }
        s[row] = 1 / sqrt(squares / (double)C + (double)norm_eps);
        size = fmax(size, most);
        rstd_size = fmax(rstd_size, s[row] * (1 + (C > 1 ? most * s[row] : 0)));
        for (size_t i = 0; i < C; i++) {
            double x_hat = (v[i] - m[row]) * s[row];
            y1[row * C + i] = x_hat * w1[i] + b1[i];
            y2[row * C + i] = x_hat * w2[i] + b2[i];
            double factor = fmax(fabs((double)w1[i]), fabs((double)w2[i]));
            ln_size =
                fmax(ln_size, factor * s[row] * (C > 1 ? most : 0) + fmax(fabs((double)b1[i]), fabs((double)b2[i])));
        }
    }
    if (has_a) { agree("x_out", fetch(x_out), sum, n, size, 3e-7, 0); }
    agree("mean", fetch(mean), m, N, size, 3e-7, 0);
    agree("rstd", fetch(rstd), s, N, rstd_size, 5e-7, 0);
    agree("ln1", fetch(ln1), y1, n, ln_size, 5e-7, 1);
    if (two) { agree("ln2", fetch(ln2), y2, n, ln_size, 5e-7, 1); }
    agree_bits("ln1 again", array_bytes(again1), array_bytes(ln1), n * sizeof(floatX));
    if (two) { agree_bits("ln2 again", array_bytes(again2), array_bytes(ln2), n * sizeof(floatX)); }
}

static void norm_forward_run(size_t N, size_t C, int branches, int abias, int bbias, int norms, double mean,
                             uint64_t shift_mask) {
    if (left_out(N * C)) { return; }
    nf.N = N, nf.C = C, nf.branches = branches, nf.abias = abias, nf.bbias = bbias, nf.norms = norms, nf.mean = mean;
    run_case(norm_forward_case, shift_mask,
             "norm forward N %zu C %zu, %d branches, biases %d %d, %d norms, mean %g, shifts %llx", N, C, branches,
             abias, bbias, norms, mean, (unsigned long long)shift_mask);
}

static void test_norm_forward(void) {
    // Every combination of what may be NULL, on whole and other rows, aligned and not.
    static const size_t small[][2] = {{3, 64}, {3, 5}};
    for (int k = 0; k < 2; k++) {
        for (int norms = 1; norms <= 2; norms++) {
            for (int shifted = 0; shifted < 2; shifted++) {
                uint64_t mask = shifted ? ALL_SHIFTED : 0;
                norm_forward_run(small[k][0], small[k][1], 0, 0, 0, norms, 0, mask);
                for (int abias = 0; abias < 2; abias++) {
                    norm_forward_run(small[k][0], small[k][1], 1, abias, 0, norms, 0, mask);
                    for (int bbias = 0; bbias < 2; bbias++) {
                        norm_forward_run(small[k][0], small[k][1], 2, abias, bbias, norms, 0, mask);
                    }
                }
            }
        }
    }
    // Each address alone off its alignment.
    for (int i = 0; i < 16; i++) { norm_forward_run(3, 64, 2, 1, 1, 2, 0, (uint64_t)1 << i); }
    // Sizes.
    for (int r = 0; r < ROWS; r++) {
        for (int w = 0; w < WIDTHS; w++) {
            size_t N = some_rows[r], C = some_widths[w];
            if (N * C > 110000) { continue; }
            int branches = (r + w) % 3, norms = 1 + (r + w / 2) % 2;
            norm_forward_run(N, C, branches, w % 2, r % 2, norms, 0, 0);
            if (N * C < 50000) { norm_forward_run(N, C, (branches + 1) % 3, 1, 1, 3 - norms, 3, ALL_SHIFTED); }
        }
    }
    // Rows that do not fit into the registers of a block.
    norm_forward_run(1, 16392, 2, 1, 1, 2, 0, 0);
    norm_forward_run(2, 16392, 0, 0, 0, 1, 0, 0);
    norm_forward_run(1, 16389, 1, 1, 0, 2, 0, 0);
    norm_forward_run(1, 40000, 0, 0, 0, 1, 0, 0);
    // A mean that is large beside the deviation: sum(x^2) - C mean^2 would have no digit left.
    norm_forward_run(5, 256, 2, 1, 1, 2, 10000, 0);
    measures_print();
}

// Another eps than Pythia's, in every kernel: 1, 2 and 4 packs a thread, rows that are not whole, rows in sections, and
// 0 to 2 additions. Rows have a variance of 1 to 3: an eps of 1e-5 would be off by 2e-3 of rstd at least.
static void test_norm_eps(void) {
    static const size_t widths[] = {64, 256, 512, 768, 5, 16392};
    static const float values[] = {1e-2f, 0.5f};
    const float usual = norm_eps;
    for (int k = 0; k < 2; k++) {
        norm_eps = values[k];
        for (int w = 0; w < 6; w++) {
            for (int branches = 0; branches < 3; branches++) {
                norm_forward_run(w < 5 ? 3 : 1, widths[w], branches, 1, 1, 1 + branches % 2, 0.5, 0);
            }
        }
    }
    norm_eps = usual;
    measures_print();
}

// One number of an input is NaN or infinite: its row's outputs are NaN, no other's.
static int nan_where;
static float nan_value;
static void norm_forward_nan_case(void) {
    enum { N = 5, C = 300, ROW = 3, AT = 299 };
    float *x = random_floats(N * C, 0, 1), *a = random_x(N * C, 0, 1), *b = random_x(N * C, 0, 1);
    float *w = random_floats(C, 1, 0.1), *bias = random_floats(C, 0, 0.1);
    float* place[] = {x + ROW * C + AT, a + ROW * C + AT, b + ROW * C + AT, w + AT, bias + AT};
    *place[nan_where] = nan_value;
    float* x_out = array_floats("x_out", OUTPUT, NULL, N * C);
    floatX *ln1 = array_x("ln1", OUTPUT, NULL, N * C), *ln2 = array_x("ln2", OUTPUT, NULL, N * C);
    float *mean = array_floats("mean", OUTPUT, NULL, N), *rstd = array_floats("rstd", OUTPUT, NULL, N);
    float* d_x = array_floats("x", INPUT, x, N * C);
    floatX *d_a = array_x("a", INPUT, a, N * C), *d_b = array_x("b", INPUT, b, N * C);
    float *d_w = array_floats("w", INPUT, w, C), *d_bias = array_floats("bias", INPUT, bias, C);
    layernorms_forward_cuda(x_out, ln1, ln2, mean, rstd, d_x, d_a, NULL, d_b, NULL, d_w, d_bias, d_w, d_bias, N, C,
                            norm_eps);
    const size_t want = nan_where < 3 ? (size_t)C : (size_t)N;  // a row, or a column
    CHECK(count_nan(fetch(ln1), N * C) == want, "%s: ln1", case_name);
    CHECK(count_nan(fetch(ln2), N * C) == want, "%s: ln2", case_name);
    CHECK(count_nan(fetch(rstd), N) == (nan_where < 3 ? 1u : 0u), "%s: rstd", case_name);
}
static void test_norm_forward_nan(void) {
    for (nan_where = 0; nan_where < 5; nan_where++) {
        nan_value = NAN;
        run_case(norm_forward_nan_case, 0, "norm forward with a NaN");
        nan_value = INFINITY;
        if (nan_where < 3) { run_case(norm_forward_nan_case, 0, "norm forward with an infinity"); }
    }
}

// ------------------------------------------------------------------------------------------------
// Norms backward

enum { NB_DXB = 1, NB_W1 = 2, NB_W2 = 4, NB_ABIAS = 8, NB_BBIAS = 16, NB_ALL = 31, NB_IN_PLACE = 32 };
static struct {
    size_t N, C;
    int norms, accumulate, wanted;
} nb;

static void norm_backward_case(void) {
    const size_t N = nb.N, C = nb.C, n = N * C;
    const int two = nb.norms > 1, in_place = (nb.wanted & NB_IN_PLACE) != 0;
    float *x = random_floats(n, 0.5, 2), *dout1 = random_x(n, 0.1, 1), *dout2 = random_x(n, -0.1, 1);
    float *w1 = random_floats(C, 1, 0.3), *w2 = random_floats(C, 1, 0.3), *dx0 = random_floats(n, 0.2, 1);
    float *mean = zeros(N), *rstd = zeros(N), *prior[6];
    for (int k = 0; k < 6; k++) { prior[k] = random_floats(C, 0, 1); }
    for (size_t row = 0; row < N; row++) {
        double total = 0, squares = 0;
        for (size_t i = 0; i < C; i++) { total += x[row * C + i]; }
        for (size_t i = 0; i < C; i++) { squares += pow(x[row * C + i] - total / (double)C, 2); }
        mean[row] = (float)(total / (double)C);
        rstd[row] = (float)(1 / sqrt(squares / (double)C + 1e-5));
    }
    const float* before = in_place ? x : nb.accumulate ? dx0 : NULL;
    float* dx = array_floats("dx", before ? IN_PLACE : OUTPUT, before, n);
    floatX* dxb = array_x("dxb", nb.wanted & NB_DXB ? OUTPUT : NOWHERE, NULL, n);
    const int wanted[6] = {nb.wanted & NB_W1,          nb.wanted & NB_W1,    two && (nb.wanted & NB_W2),
                           two && (nb.wanted & NB_W2), nb.wanted & NB_ABIAS, nb.wanted & NB_BBIAS};
    static const char* const names[6] = {"dw1", "db1", "dw2", "db2", "dabias", "dbbias"};
    float* sums[6];
    for (int k = 0; k < 6; k++) { sums[k] = array_floats(names[k], wanted[k] ? IN_PLACE : NOWHERE, prior[k], C); }
    float* scratch = array_floats("scratch", OUTPUT, NULL, norm_backward_scratch(N, C));
    floatX* d_dout1 = array_x("dout1", INPUT, dout1, n);
    floatX* d_dout2 = array_x("dout2", two ? INPUT : NOWHERE, dout2, n);
    float* d_x = in_place ? dx : array_floats("x", INPUT, x, n);
    float* d_w1 = array_floats("w1", INPUT, w1, C);
    float* d_w2 = array_floats("w2", two ? INPUT : NOWHERE, w2, C);
    float* d_mean = array_floats("mean", INPUT, mean, N);
    float* d_rstd = array_floats("rstd", INPUT, rstd, N);

    layernorms_backward_cuda(dx, dxb, sums[0], sums[1], sums[2], sums[3], sums[4], sums[5], scratch, d_dout1, d_dout2,
                             d_x, d_w1, d_w2, d_mean, d_rstd, N, C, nb.accumulate);

    double *want = zeros_double(n), *column[6], *size[6], dx_size = 0;
    for (int k = 0; k < 6; k++) {
        column[k] = zeros_double(C), size[k] = zeros_double(C);
        for (size_t i = 0; i < C; i++) { column[k][i] = prior[k][i], size[k][i] = fabs((double)prior[k][i]); }
    }
    float* got = fetch(dx);
    for (size_t row = 0; row < N; row++) {
        const double m = mean[row], s = rstd[row];
        double total = 0, dot = 0, total_size = 0, dot_size = 0;
        for (int turn = 0; turn < 2; turn++) {
            for (size_t i = 0; i < C; i++) {
                const size_t at = row * C + i;
                const double x_hat = (x[at] - m) * s, d1 = dout1[at], d2 = two ? dout2[at] : 0;
                const double d = d1 * w1[i] + d2 * w2[i];
                if (turn == 0) {
                    total += d, dot += d * x_hat;
                    total_size += fabs(d), dot_size += fabs(d * x_hat);
                    const double term[4] = {d1 * x_hat, d1, d2 * x_hat, d2};
                    for (int k = 0; k < 4; k++) { column[k][i] += term[k], size[k][i] += fabs(term[k]); }
                    // What the kernel rounded is summed, so the sums are judged by what it wrote.
                    for (int k = 4; k < 6; k++) {
                        column[k][i] += (double)rounding(got[at]), size[k][i] += fabs((double)rounding(got[at]));
                    }
                } else {
                    const double old = nb.accumulate ? before[at] : 0;
                    want[at] = old + s * (d - total / (double)C - x_hat * dot / (double)C);
                    dx_size = fmax(dx_size, fabs(old) + s * (fabs(d) + total_size / (double)C +
                                                             fabs(x_hat) * dot_size / (double)C));
                }
            }
        }
    }
    if (dxb) {
        float* b = fetch(dxb);
        for (size_t i = 0; i < n; i++) {
            if (b[i] != rounding(got[i])) {
                CHECK(0, "%s: dxb [%zu] is %g, expected %g", case_name, i, b[i], rounding(got[i]));
                break;
            }
        }
        free(b);
    }
    agree("dx", got, want, n, dx_size, 5e-7, 0);
    for (int k = 0; k < 6; k++) {
        if (sums[k]) { agree(names[k], fetch(sums[k]), column[k], C, largest(size[k], C), 4e-7, 0); }
    }
}

static void norm_backward_run(size_t N, size_t C, int norms, int accumulate, int wanted, uint64_t shift_mask) {
    if (left_out(max_size(N, 4) * C)) { return; }  // adding the sums of a row takes as long as some rows
    nb.N = N, nb.C = C, nb.norms = norms, nb.accumulate = accumulate, nb.wanted = wanted;
    run_case(norm_backward_case, shift_mask,
             "norm backward N %zu C %zu, %d norms, accumulate %d, wanted %x, shifts %llx", N, C, norms, accumulate,
             (unsigned)wanted, (unsigned long long)shift_mask);
}

static void test_norm_backward(void) {
    for (int norms = 1; norms <= 2; norms++) {
        for (int accumulate = 0; accumulate < 2; accumulate++) {
            for (int shifted = 0; shifted < 2; shifted++) {
                uint64_t mask = shifted ? ALL_SHIFTED : 0;
                norm_backward_run(3, 64, norms, accumulate, NB_ALL, mask);
                norm_backward_run(3, 5, norms, accumulate, NB_ALL, mask);
                for (int bit = 0; bit < 5; bit++) {  // one of them NULL; the others NULL
                    norm_backward_run(3, 64, norms, accumulate, NB_ALL & ~(1 << bit), mask);
                    norm_backward_run(3, 40, norms, accumulate, 1 << bit, mask);
                }
                norm_backward_run(3, 64, norms, accumulate, 0, mask);
            }
        }
        norm_backward_run(33, 64, norms, 0, NB_ALL | NB_IN_PLACE, 0);  // dx is x
        norm_backward_run(3, 5121, norms, 0, NB_ALL | NB_IN_PLACE, 0);
        norm_backward_run(33, 5120, norms, 0, NB_ALL | NB_IN_PLACE, 0);
    }
    for (int i = 0; i < 16; i++) { norm_backward_run(3, 64, 2, 1, NB_ALL, (uint64_t)1 << i); }
    for (int r = 0; r < ROWS; r++) {
        for (int w = 0; w < WIDTHS; w++) {
            size_t N = some_rows[r], C = some_widths[w];
            if (N * C > 180000) { continue; }
            int norms = 1 + (r + w) % 2, accumulate = (r + w / 2) % 2;
            norm_backward_run(N, C, norms, accumulate, NB_ALL, 0);
            if (N * C < 50000) { norm_backward_run(N, C, 3 - norms, 1 - accumulate, NB_ALL, ALL_SHIFTED); }
        }
    }
    norm_backward_run(2, 512, 2, 1, NB_ALL, 0);
    norm_backward_run(40, 2048, 2, 1, NB_ALL, 0);
    norm_backward_run(35, 4096, 1, 0, NB_ALL, 0);
    norm_backward_run(35, 4104, 2, 1, NB_ALL, 0);
    norm_backward_run(16500, 5, 2, 1, NB_ALL, 0);  // chunks of more than 32 rows, many of them
    measures_print();
}

static void norm_backward_nan_case(void) {
    enum { N = 70, C = 300, ROW = 65, AT = 299 };
    float *x = random_floats(N * C, 0, 1), *dout1 = random_x(N * C, 0, 1), *dout2 = random_x(N * C, 0, 1);
    float *w = random_floats(C, 1, 0.1), *rstd = random_floats(N, 1, 0.01), *prior = random_floats(C, 0, 1);
    float* place[] = {dout1 + ROW * C + AT, dout2 + ROW * C + AT, x + ROW * C + AT};
    *place[nan_where] = nan_value;
    float* dx = array_floats("dx", IN_PLACE, x, N * C);
    floatX* dxb = array_x("dxb", OUTPUT, NULL, N * C);
    float* sums[5];
    for (int k = 0; k < 5; k++) { sums[k] = array_floats("sums", IN_PLACE, prior, C); }
    float* scratch = array_floats("scratch", OUTPUT, NULL, norm_backward_scratch(N, C));
    floatX *d_dout1 = array_x("dout1", INPUT, dout1, N * C), *d_dout2 = array_x("dout2", INPUT, dout2, N * C);
    float *d_x = array_floats("x", INPUT, x, N * C), *d_w = array_floats("w", INPUT, w, C);
    float *d_mean = array_floats("mean", INPUT, zeros(N), N), *d_rstd = array_floats("rstd", INPUT, rstd, N);
    layernorms_backward_cuda(dx, dxb, sums[0], sums[1], sums[2], sums[3], sums[4], NULL, scratch, d_dout1, d_dout2, d_x,
                             d_w, d_w, d_mean, d_rstd, N, C, 0);
    CHECK(count_nan(fetch(dx), N * C) == C, "%s: dx", case_name);
    CHECK(count_nan(fetch(dxb), N * C) == C, "%s: dxb", case_name);
    const size_t want[3][5] = {{1, 1, 0, 0, C}, {0, 0, 1, 1, C}, {1, 0, 1, 0, C}};
    for (int k = 0; k < 5; k++) {
        size_t count = count_nan(fetch(sums[k]), C);
        CHECK(count == want[nan_where][k], "%s: sum %d has %zu NaN", case_name, k, count);
    }
}
static void test_norm_backward_nan(void) {
    nan_value = NAN;
    for (nan_where = 0; nan_where < 3; nan_where++) { run_case(norm_backward_nan_case, 0, "norm backward with a NaN"); }
}

// ------------------------------------------------------------------------------------------------
// RMSNorm

static struct {
    size_t N, C;
    int branch;
} rf;

static void rmsnorm_forward_case(void) {
    const size_t N = rf.N, C = rf.C, n = N * C;
    float *x = random_floats(n, 0.3, 1), *a = random_x(n, 0.1, 1), *w = random_floats(C, 1, 0.3);
    float* x_out = array_floats("x_out", rf.branch ? OUTPUT : INPUT, NULL, n);  // without a it stays as it was
    floatX* ln = array_x("ln", OUTPUT, NULL, n);
    float* rstd = array_floats("rstd", OUTPUT, NULL, N);
    float* d_x = array_floats("x", INPUT, x, n);
    floatX* d_a = array_x("a", rf.branch ? INPUT : NOWHERE, a, n);
    float* d_w = array_floats("w", INPUT, w, C);
    floatX* again = array_x("ln again", OUTPUT, NULL, n);

    rmsnorm_forward_cuda(x_out, ln, rstd, d_x, d_a, d_w, N, C, norm_eps);
    rmsnorm_again_cuda(again, rf.branch ? x_out : d_x, d_w, rstd, N, C);

    double *sum = zeros_double(n), *s = zeros_double(N), *y = zeros_double(n);
    double size = 0, rstd_size = 0, ln_size = 0;
    for (size_t row = 0; row < N; row++) {
        double squares = 0, most = 0;
        for (size_t i = 0; i < C; i++) {
            const size_t at = row * C + i;
            sum[at] = (double)x[at] + (rf.branch ? (double)a[at] : 0);
            squares += sum[at] * sum[at];
            most = fmax(most, fabs(sum[at]));
        }
        s[row] = 1 / sqrt(squares / (double)C + (double)norm_eps);
        size = fmax(size, most), rstd_size = fmax(rstd_size, s[row]);
        for (size_t i = 0; i < C; i++) {
            y[row * C + i] = sum[row * C + i] * s[row] * w[i];
            ln_size = fmax(ln_size, fabs(y[row * C + i]));
        }
    }
    if (rf.branch) { agree("x_out", fetch(x_out), sum, n, size, 3e-7, 0); }
    agree("rstd", fetch(rstd), s, N, rstd_size, 5e-7, 0);
    agree("ln", fetch(ln), y, n, ln_size, 5e-7, 1);
    agree_bits("ln again", array_bytes(again), array_bytes(ln), n * sizeof(floatX));
}

static void rmsnorm_forward_run(size_t N, size_t C, int branch, uint64_t shift_mask) {
    if (left_out(N * C)) { return; }
    rf.N = N, rf.C = C, rf.branch = branch;
    run_case(rmsnorm_forward_case, shift_mask, "RMSNorm forward N %zu C %zu, %d branches, eps %g, shifts %llx", N, C,
             branch, (double)norm_eps, (unsigned long long)shift_mask);
}

static void test_rmsnorm_forward(void) {
    for (int branch = 0; branch < 2; branch++) {
        for (int i = 0; i < 8; i++) { rmsnorm_forward_run(3, 64, branch, i == 7 ? 0 : (uint64_t)1 << i); }
        for (int r = 0; r < ROWS; r++) {
            for (int w = 0; w < WIDTHS; w++) {
                size_t N = some_rows[r], C = some_widths[w];
                if (N * C > 110000) { continue; }
                if ((r + w) % 2 == branch) { rmsnorm_forward_run(N, C, branch, 0); }
                if ((r + w) % 2 != branch && N * C < 50000) { rmsnorm_forward_run(N, C, branch, ALL_SHIFTED); }
            }
        }
        // Rows that do not fit into the registers of a block.
        rmsnorm_forward_run(1, 16392, branch, 0);
        rmsnorm_forward_run(2, 16389, branch, 0);
        rmsnorm_forward_run(1, 40000, branch, 0);
    }
    // Another eps, large beside the squares: outside the root it would be off by a fifth.
    const float usual = norm_eps;
    static const size_t widths[] = {64, 256, 512, 768, 5, 16392};
    norm_eps = 0.5f;
    for (int w = 0; w < 6; w++) { rmsnorm_forward_run(w < 5 ? 3 : 1, widths[w], w % 2, 0); }
    norm_eps = usual;
    measures_print();
}

// One number of an input is NaN or infinite: its row's outputs are NaN (of a row with an infinity, which is infinitely
// large, the others are 0), no other's.
static void rmsnorm_forward_nan_case(void) {
    enum { N = 5, C = 300, ROW = 3, AT = 299 };
    float *x = random_floats(N * C, 0, 1), *a = random_x(N * C, 0, 1), *w = random_floats(C, 1, 0.1);
    float* place[] = {x + ROW * C + AT, a + ROW * C + AT, w + AT};
    *place[nan_where] = nan_value;
    float* x_out = array_floats("x_out", OUTPUT, NULL, N * C);
    floatX* ln = array_x("ln", OUTPUT, NULL, N * C);
    float* rstd = array_floats("rstd", OUTPUT, NULL, N);
    float* d_x = array_floats("x", INPUT, x, N * C);
    floatX* d_a = array_x("a", INPUT, a, N * C);
    float* d_w = array_floats("w", INPUT, w, C);
    rmsnorm_forward_cuda(x_out, ln, rstd, d_x, d_a, d_w, N, C, norm_eps);
    const size_t want = nan_where == 2 ? (size_t)N : nan_value != nan_value ? (size_t)C : 1;  // a column, a row
    CHECK(count_nan(fetch(ln), N * C) == want, "%s: ln", case_name);
    CHECK(count_nan(fetch(rstd), N) == (nan_where < 2 && nan_value != nan_value ? 1u : 0u), "%s: rstd", case_name);
}
static void test_rmsnorm_forward_nan(void) {
    for (nan_where = 0; nan_where < 3; nan_where++) {
        nan_value = NAN;
        run_case(rmsnorm_forward_nan_case, 0, "RMSNorm forward with a NaN");
        nan_value = INFINITY;
        if (nan_where < 2) { run_case(rmsnorm_forward_nan_case, 0, "RMSNorm forward with an infinity"); }
    }
}

enum { RB_DXB = 1, RB_W = 2, RB_ALL = 3, RB_IN_PLACE = 4 };
static struct {
    size_t N, C;
    int accumulate, wanted;
} rb;

static void rmsnorm_backward_case(void) {
    const size_t N = rb.N, C = rb.C, n = N * C;
    const int in_place = (rb.wanted & RB_IN_PLACE) != 0;
    float *x = random_floats(n, 0.5, 2), *dout = random_x(n, 0.1, 1), *w = random_floats(C, 1, 0.3);
    float *dx0 = random_floats(n, 0.2, 1), *rstd = zeros(N), *prior = random_floats(C, 0, 1);
    for (size_t row = 0; row < N; row++) {
        double squares = 0;
        for (size_t i = 0; i < C; i++) { squares += pow(x[row * C + i], 2); }
        rstd[row] = (float)(1 / sqrt(squares / (double)C + 1e-5));
    }
    const float* before = in_place ? x : rb.accumulate ? dx0 : NULL;
    float* dx = array_floats("dx", before ? IN_PLACE : OUTPUT, before, n);
    floatX* dxb = array_x("dxb", rb.wanted & RB_DXB ? OUTPUT : NOWHERE, NULL, n);
    float* dw = array_floats("dw", rb.wanted & RB_W ? IN_PLACE : NOWHERE, prior, C);
    float* scratch = array_floats("scratch", OUTPUT, NULL, rmsnorm_backward_scratch(N, C));
    floatX* d_dout = array_x("dout", INPUT, dout, n);
    float* d_x = in_place ? dx : array_floats("x", INPUT, x, n);
    float *d_w = array_floats("w", INPUT, w, C), *d_rstd = array_floats("rstd", INPUT, rstd, N);

    rmsnorm_backward_cuda(dx, dxb, dw, scratch, d_dout, d_x, d_w, d_rstd, N, C, rb.accumulate);

    double *want = zeros_double(n), *column = zeros_double(C), *size = zeros_double(C), dx_size = 0;
    for (size_t i = 0; i < C; i++) { column[i] = prior[i], size[i] = fabs((double)prior[i]); }
    for (size_t row = 0; row < N; row++) {
        const double s = rstd[row];
        double dot = 0, dot_size = 0;
        for (size_t i = 0; i < C; i++) {
            const double x_hat = x[row * C + i] * s, dy = dout[row * C + i];
            dot += dy * w[i] * x_hat, dot_size += fabs(dy * w[i] * x_hat);
            column[i] += dy * x_hat, size[i] += fabs(dy * x_hat);
        }
        for (size_t i = 0; i < C; i++) {
            const size_t at = row * C + i;
            const double x_hat = x[at] * s, d = (double)dout[at] * w[i], old = rb.accumulate ? before[at] : 0;
            want[at] = old + s * (d - x_hat * dot / (double)C);
            dx_size = fmax(dx_size, fabs(old) + s * (fabs(d) + fabs(x_hat) * dot_size / (double)C));
        }
    }
    float* got = fetch(dx);
    if (dxb) {
        float* b = fetch(dxb);
        size_t bad = 0;
        for (size_t i = 0; i < n; i++) { bad += b[i] != rounding(got[i]); }
        CHECK(bad == 0, "%s: %zu numbers of dxb are not dx rounded", case_name, bad);
        free(b);
    }
    agree("dx", got, want, n, dx_size, 5e-7, 0);
    if (dw) { agree("dw", fetch(dw), column, C, largest(size, C), 4e-7, 0); }
}

static void rmsnorm_backward_run(size_t N, size_t C, int accumulate, int wanted, uint64_t shift_mask) {
    if (left_out(max_size(N, 4) * C)) { return; }  // adding the sums of a row takes as long as some rows
    rb.N = N, rb.C = C, rb.accumulate = accumulate, rb.wanted = wanted;
    run_case(rmsnorm_backward_case, shift_mask, "RMSNorm backward N %zu C %zu, accumulate %d, wanted %x, shifts %llx",
             N, C, accumulate, (unsigned)wanted, (unsigned long long)shift_mask);
}

static void test_rmsnorm_backward(void) {
    for (int accumulate = 0; accumulate < 2; accumulate++) {
        for (int wanted = 0; wanted <= RB_ALL; wanted++) {
            rmsnorm_backward_run(3, 64, accumulate, wanted, wanted % 2 ? ALL_SHIFTED : 0);
            rmsnorm_backward_run(3, 5, accumulate, wanted, 0);
        }
    }
    rmsnorm_backward_run(33, 64, 0, RB_ALL | RB_IN_PLACE, 0);  // dx is x
    rmsnorm_backward_run(3, 5121, 0, RB_ALL | RB_IN_PLACE, 0);
    rmsnorm_backward_run(33, 5120, 0, RB_ALL | RB_IN_PLACE, 0);
    for (int i = 0; i < 9; i++) { rmsnorm_backward_run(3, 64, 1, RB_ALL, (uint64_t)1 << i); }
    for (int r = 0; r < ROWS; r++) {
        for (int w = 0; w < WIDTHS; w++) {
            size_t N = some_rows[r], C = some_widths[w];
            if (N * C > 180000) { continue; }
            rmsnorm_backward_run(N, C, (r + w) % 2, RB_ALL, 0);
            if (N * C < 50000) { rmsnorm_backward_run(N, C, (r + w + 1) % 2, RB_ALL, ALL_SHIFTED); }
        }
    }
    rmsnorm_backward_run(2, 512, 1, RB_ALL, 0);
    rmsnorm_backward_run(40, 2048, 1, RB_ALL, 0);
    rmsnorm_backward_run(35, 4096, 0, RB_ALL, 0);
    rmsnorm_backward_run(35, 4104, 1, RB_ALL, 0);
    rmsnorm_backward_run(16500, 5, 1, RB_ALL, 0);  // chunks of more than 32 rows, many of them
    measures_print();
}

static void rmsnorm_backward_nan_case(void) {
    enum { N = 70, C = 300, ROW = 65, AT = 299 };
    float *x = random_floats(N * C, 0, 1), *dout = random_x(N * C, 0, 1), *w = random_floats(C, 1, 0.1);
    float *rstd = random_floats(N, 1, 0.01), *prior = random_floats(C, 0, 1);
    (nan_where ? x : dout)[ROW * C + AT] = NAN;
    float* dx = array_floats("dx", OUTPUT, NULL, N * C);
    floatX* dxb = array_x("dxb", OUTPUT, NULL, N * C);
    float *dw = array_floats("dw", IN_PLACE, prior, C), *d_x = array_floats("x", INPUT, x, N * C);
    float* scratch = array_floats("scratch", OUTPUT, NULL, rmsnorm_backward_scratch(N, C));
    floatX* d_dout = array_x("dout", INPUT, dout, N * C);
    float *d_w = array_floats("w", INPUT, w, C), *d_rstd = array_floats("rstd", INPUT, rstd, N);
    rmsnorm_backward_cuda(dx, dxb, dw, scratch, d_dout, d_x, d_w, d_rstd, N, C, 0);
    CHECK(count_nan(fetch(dx), N * C) == C, "%s: dx", case_name);
    CHECK(count_nan(fetch(dxb), N * C) == C, "%s: dxb", case_name);
    CHECK(count_nan(fetch(dw), C) == 1, "%s: dw", case_name);
}
static void test_rmsnorm_backward_nan(void) {
    for (nan_where = 0; nan_where < 2; nan_where++) {
        run_case(rmsnorm_backward_nan_case, 0, "RMSNorm backward with a NaN");
    }
}

// ------------------------------------------------------------------------------------------------
// Rotary positions

static struct {
    size_t B, T, heads, parts, all_parts, HS, rotated;
    int direction;
} ro;

// x (B,T,heads,all_parts,HS), the first `parts` parts of each head are turned.
static void rotary_case(void) {
    const size_t N = ro.B * ro.T, half = ro.rotated / 2, row = ro.heads * ro.all_parts * ro.HS, n = N * row;
    float *x = random_x(n, 0, 1), *cosine = zeros(ro.T * half), *sine = zeros(ro.T * half);
    for (size_t i = 0; i < ro.T * half; i++) {
        double angle = 6.28 * random_unit();
        cosine[i] = (float)cos(angle), sine[i] = (float)sin(angle);
    }
    floatX* d_x = array_x("x", IN_PLACE, x, n);
    float* d_cosine = array_floats("cosine", INPUT, cosine, ro.T * half);
    float* d_sine = array_floats("sine", INPUT, sine, ro.T * half);
    rotary_forward_cuda(d_x, d_cosine, d_sine, NULL, ro.B, ro.T, ro.heads, ro.parts, ro.rotated, row,
                        ro.all_parts * ro.HS, ro.HS, ro.direction);
    double* want = zeros_double(n);
    float *got = fetch(d_x), *turned = (float*)xalloc(n, sizeof(float), "turned");
    int others = 1;
    for (size_t i = 0; i < n; i++) {
        const size_t at = i % ro.HS, part = i / ro.HS % ro.all_parts, t = i / row % ro.T;
        const int is_low = at < half, is_high = at >= half && at < 2 * half;
        want[i] = x[i];
        if (part < ro.parts && is_low) {
            want[i] = (double)x[i] * cosine[t * half + at] - (double)x[i + half] * ro.direction * sine[t * half + at];
        } else if (part < ro.parts && is_high) {
            const size_t k = t * half + at - half;
            want[i] = (double)x[i] * cosine[k] + (double)x[i - half] * ro.direction * sine[k];
        } else {
            others &= got[i] == x[i];
        }
        turned[i] = got[i];
    }
    CHECK(others, "%s: a number that has no position was changed", case_name);
    agree("rotated", turned, want, n, largest(want, n), 2e-7, 1);
    free(got);
}

static void rotary_run(size_t B, size_t T, size_t heads, size_t parts, size_t all_parts, size_t HS, size_t rotated,
                       int direction, uint64_t shift_mask) {
    ro.B = B, ro.T = T, ro.heads = heads, ro.parts = parts, ro.all_parts = all_parts, ro.HS = HS, ro.rotated = rotated;
    ro.direction = direction;
    run_case(rotary_case, shift_mask,
             "rotary B %zu T %zu, %zu heads, %zu of %zu parts, HS %zu, rotated %zu, direction %d, shifts %llx", B, T,
             heads, parts, all_parts, HS, rotated, direction, (unsigned long long)shift_mask);
}

static void test_rotary(void) {
    for (int direction = -1; direction <= 1; direction += 2) {
        for (int shifted = 0; shifted < 2; shifted++) {
            uint64_t mask = shifted ? ALL_SHIFTED : 0;
            static const size_t shape[][2] = {{64, 16}, {32, 8},   {64, 0},   {16, 16}, {10, 6},  {7, 2},
                                              {80, 20}, {128, 32}, {256, 64}, {96, 96}, {40, 16}, {9, 9}};
            for (int k = 0; k < 12; k++) {
                size_t HS = shape[k][0], rotated = shape[k][1];
                rotary_run(2, 5, 3, 2, 3, HS, rotated, direction, mask);
                rotary_run(1, 3, 2, 1, 1, HS, rotated, direction, mask);
            }
        }
    }
    rotary_run(1, 1, 1, 1, 1, 16, 16, 1, 0);
    rotary_run(3, 11, 40, 2, 3, 128, 32, 1, 0);   // more packs in a row than threads
    rotary_run(2, 7, 32, 1, 1, 256, 256, -1, 0);  // a query of its own
    rotary_run(2, 65, 8, 2, 3, 64, 16, 1, 0);
    for (int i = 0; i < 3; i++) { rotary_run(2, 5, 3, 2, 3, 64, 16, 1, (uint64_t)1 << i); }
    measures_print();
}

// There and back is where it was, but for two roundings; strides that are no multiple of a pack.
static void rotary_back_case(void) {
    enum { N = 6, T = 3, HEADS = 2, HS = 16, HALF = 8, HEAD_STRIDE = 17, ROW_STRIDE = 37 };
    float *x = random_x(N * ROW_STRIDE, 0, 1), *cosine = zeros(T * HALF), *sine = zeros(T * HALF);
    for (int i = 0; i < T * HALF; i++) { cosine[i] = (float)cos((double)i), sine[i] = (float)sin((double)i); }
    floatX* d_x = array_x("x", IN_PLACE, x, N * ROW_STRIDE);
    float *c = array_floats("cosine", INPUT, cosine, T * HALF), *s = array_floats("sine", INPUT, sine, T * HALF);
    rotary_forward_cuda(d_x, c, s, NULL, N / T, T, HEADS, 1, 16, ROW_STRIDE, HEAD_STRIDE, 0, 1);
    float* there = fetch(d_x);
    double moved = 0, *want = zeros_double(N * ROW_STRIDE);
    for (int i = 0; i < N * ROW_STRIDE; i++) { moved = fmax(moved, fabs((double)there[i] - x[i])), want[i] = x[i]; }
    free(there);
    CHECK(moved > 0.5, "%s: nothing was turned", case_name);
    rotary_forward_cuda(d_x, c, s, NULL, N / T, T, HEADS, 1, 16, ROW_STRIDE, HEAD_STRIDE, 0, -1);
    agree("there and back", fetch(d_x), want, N * ROW_STRIDE, 4, sizeof(floatX) == 4 ? 3e-7 : 4e-3, 1);
}
static void test_rotary_back(void) {
    run_case(rotary_back_case, 0, "rotary there and back");
    measures_print();
}

// ------------------------------------------------------------------------------------------------
// Learned positions

static struct { size_t B, T, C; } po;

// The table has a position more than rows have.
static void position_case(void) {
    const size_t B = po.B, T = po.T, C = po.C, n = B * T * C, entries = (T + 1) * C;
    float *x = random_floats(n, 0, 1), *table = random_floats(entries, 0, 1), *prior = random_floats(entries, 0, 1);
    float* out = array_floats("out", OUTPUT, NULL, n);
    float* d_x = array_floats("inp", INPUT, x, n);
    float* d_table = array_floats("table", INPUT, table, entries);
    float* dtable = array_floats("dtable", IN_PLACE, prior, entries);
    position_forward_cuda(out, d_x, d_table, NULL, B, T, C);
    position_backward_cuda(dtable, d_x, B, T, C);
    // One rounding an addition, in the order of the rows: to the bit.
    float *sum = zeros(n), *dsum = zeros(entries);
    for (size_t i = 0; i < n; i++) { sum[i] = x[i] + table[i % (T * C)]; }
    for (size_t i = 0; i < entries; i++) {
        dsum[i] = prior[i];
        for (size_t b = 0; b < B && i < T * C; b++) { dsum[i] += x[b * T * C + i]; }
    }
    agree_bits("out", array_bytes(out), sum, n * sizeof(float));
    agree_bits("dtable", array_bytes(dtable), dsum, entries * sizeof(float));
}

static void position_run(size_t B, size_t T, size_t C, uint64_t shift_mask) {
    if (left_out(B * T * C)) { return; }
    po.B = B, po.T = T, po.C = C;
    run_case(position_case, shift_mask, "positions B %zu T %zu C %zu, shifts %llx", B, T, C,
             (unsigned long long)shift_mask);
}

static void test_position(void) {
    static const size_t shape[][3] = {{1, 1, 1},  {3, 5, 7},   {2, 1, 8},    {40, 1, 64}, {9, 3, 20},
                                      {2, 6, 10}, {2, 7, 300}, {1, 33, 768}, {17, 4, 256}};
    for (size_t k = 0; k < sizeof shape / sizeof shape[0]; k++) {
        position_run(shape[k][0], shape[k][1], shape[k][2], 0);
        position_run(shape[k][0], shape[k][1], shape[k][2], ALL_SHIFTED);
    }
    for (int i = 0; i < 4; i++) { position_run(3, 5, 64, (uint64_t)1 << i); }
    position_run(POSITION_ROWS + 3, 2, 4, 0);  // rows that share a block
}

// ------------------------------------------------------------------------------------------------
// Column sums

static struct {
    size_t N, C;
    int floats, also;
} cs;

static void column_sum_case(void) {
    const size_t N = cs.N, C = cs.C, n = N * C;
    float* x = cs.floats ? random_floats(n, 0.1, 1) : random_x(n, 0.1, 1);
    float *prior = random_floats(C, 0, 1), *prior_also = random_floats(C, 0, 1);
    float* dbias = array_floats("dbias", IN_PLACE, prior, C);
    float* also = array_floats("also", cs.also ? IN_PLACE : NOWHERE, prior_also, C);
    float* scratch = array_floats("scratch", OUTPUT, NULL, column_sum_scratch(N, C));
    if (cs.floats) {
        const float* d_x = array_floats("dout", INPUT, x, n);
        column_sum_cuda(dbias, also, scratch, d_x, N, C);
    } else {
        const floatX* d_x = array_x("dout", INPUT, x, n);
        column_sum_cuda(dbias, also, scratch, d_x, N, C);
    }
    double *want = zeros_double(C), *want_also = zeros_double(C), *size = zeros_double(C);
    for (size_t i = 0; i < C; i++) {
        want[i] = prior[i], want_also[i] = prior_also[i], size[i] = 1;
        for (size_t row = 0; row < N; row++) {
            want[i] += x[row * C + i], want_also[i] += x[row * C + i], size[i] += fabs((double)x[row * C + i]);
        }
    }
    agree("column sums", fetch(dbias), want, C, largest(size, C), 2e-7, 0);
    if (also) { agree("column sums, also", fetch(also), want_also, C, largest(size, C), 2e-7, 0); }
}
static void column_sum_run(size_t N, size_t C, int floats, int also, uint64_t shift_mask) {
    if (left_out(N * C)) { return; }
    cs.N = N, cs.C = C, cs.floats = floats, cs.also = also;
    run_case(column_sum_case, shift_mask, "column sums N %zu C %zu, floats %d, also %d, shifts %llx", N, C, floats,
             also, (unsigned long long)shift_mask);
}
static void test_column_sum(void) {
    for (int r = 0; r < ROWS; r++) {
        for (int w = 0; w < WIDTHS; w++) {
            size_t N = some_rows[r], C = some_widths[w];
            if (N * C > 600000) { continue; }
            column_sum_run(N, C, (r + w) % 2, r % 2, 0);
            if (N * C < 100000) { column_sum_run(N, C, (r + w + 1) % 2, w % 2, ALL_SHIFTED); }
        }
    }
    column_sum_run(2565, 8, 0, 1, 0);   // more chunks than the finishing block has groups
    column_sum_run(66000, 3, 1, 0, 0);  // chunks of more than 64 rows
    column_sum_run(200, 64, 0, 0, 8);   // only dout off its alignment
    measures_print();
}

// ------------------------------------------------------------------------------------------------
// GELU

static double gelu_double(double x, int tanh_form) {
    return tanh_form ? 0.5 * x * (1 + tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)))
                     : 0.5 * x * erfc(-x * 0.70710678118654752440);
}
static double gelu_slope_double(double x, int tanh_form) {
    if (tanh_form) {
        double t = tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x));
        return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * 0.79788456080286535588 * (1 + 3 * 0.044715 * x * x);
    }
    return 0.5 * erfc(-x * 0.70710678118654752440) + x * 0.39894228040143267794 * exp(-0.5 * x * x);
}

static struct {
    size_t N, FF;
    int tanh_form, bias, in_place, sums;
} ge;

static void gelu_case(void) {
    const size_t N = ge.N, FF = ge.FF, n = N * FF;
    float *fc = random_x(n, 0, 2), *bias = random_floats(FF, 0, 0.5), *dact = random_x(n, 0.1, 1);
    float* prior = random_floats(FF, 0, 1);
    if (n > 4) {
        fc[0] = 0, fc[1] = rounding(30), fc[2] = rounding(-30), fc[3] = rounding(-5), fc[4] = rounding(1e-6f);
    }
    floatX* d_fc = array_x("fc", INPUT, fc, n);
    floatX* act = array_x("act", ge.in_place ? IN_PLACE : OUTPUT, ge.in_place ? fc : NULL, n);
    floatX* again = array_x("act again", OUTPUT, NULL, n);
    float* d_bias = array_floats("bias", ge.bias ? INPUT : NOWHERE, bias, FF);
    floatX* dfc = array_x("dfc", ge.in_place ? IN_PLACE : OUTPUT, ge.in_place ? dact : NULL, n);
    floatX* d_dact = ge.in_place ? dfc : array_x("dact", INPUT, dact, n);
    float* dbias = array_floats("dbias", ge.sums ? IN_PLACE : NOWHERE, prior, FF);
    float* scratch = array_floats("scratch", ge.sums ? OUTPUT : NOWHERE, NULL, column_sum_scratch(N, FF));

    gelu_forward_cuda(act, ge.in_place ? act : d_fc, d_bias, N, FF, ge.tanh_form);
    gelu_forward_cuda(again, d_fc, d_bias, N, FF, ge.tanh_form);
    gelu_backward_cuda(dfc, dbias, scratch, d_dact, d_fc, d_bias, N, FF, ge.tanh_form);

    double *y = zeros_double(n), *dx = zeros_double(n), *sum = zeros_double(FF), *size = zeros_double(FF);
    float* got = fetch(dfc);
    for (size_t i = 0; i < FF; i++) { sum[i] = prior[i], size[i] = fabs((double)prior[i]); }
    for (size_t i = 0; i < n; i++) {
        double x = (double)fc[i] + (ge.bias ? bias[i % FF] : 0);
        y[i] = gelu_double(x, ge.tanh_form);
        dx[i] = dact[i] * gelu_slope_double(x, ge.tanh_form);
        sum[i % FF] += got[i], size[i % FF] += fabs((double)got[i]);  // of what the kernel wrote
    }
    // The largest entry is that of the random ones, not the 30 beside them.
    agree(ge.tanh_form ? "act, tanh form" : "act, erf form", fetch(act), y, n, 6, 3e-7, 1);
    agree_bits("act again", array_bytes(again), array_bytes(act), n * sizeof(floatX));
    agree(ge.tanh_form ? "dfc, tanh form" : "dfc, erf form", got, dx, n, 4, ge.tanh_form ? 1e-6 : 5e-7, 1);
    if (dbias) { agree("dbias", fetch(dbias), sum, FF, largest(size, FF), 4e-7, 0); }
}
static void gelu_run(size_t N, size_t FF, int tanh_form, int bias, int in_place, int sums, uint64_t shift_mask) {
    if (left_out(N * FF)) { return; }
    ge.N = N, ge.FF = FF, ge.tanh_form = tanh_form, ge.bias = bias, ge.in_place = in_place, ge.sums = sums;
    run_case(gelu_case, shift_mask, "GELU N %zu FF %zu, tanh %d, bias %d, in place %d, sums %d, shifts %llx", N, FF,
             tanh_form, bias, in_place, sums, (unsigned long long)shift_mask);
}
static void test_gelu(void) {
    for (int bits = 0; bits < 32; bits++) {
        gelu_run(5, bits & 16 ? 64 : 21, bits & 1, bits >> 1 & 1, bits >> 2 & 1, bits >> 3 & 1,
                 bits & 8 ? 0 : ALL_SHIFTED);
    }
    for (int i = 0; i < 8; i++) { gelu_run(3, 64, 0, 1, 0, 1, (uint64_t)1 << i); }
    for (int r = 0; r < ROWS; r++) {
        for (int w = 0; w < WIDTHS; w++) {
            size_t N = some_rows[r], FF = some_widths[w];
            if (N * FF > 110000) { continue; }
            gelu_run(N, FF, r % 2, (r + w) % 3 != 0, w % 2, 1, 0);
            if (N * FF < 50000) { gelu_run(N, FF, 1 - r % 2, 1, 0, 1, ALL_SHIFTED); }
        }
    }
    gelu_run(66000, 3, 0, 1, 1, 1, 0);  // chunks whose rows are no multiple of those in flight
    measures_print();
}

static void gelu_nan_case(void) {
    enum { N = 70, FF = 300, AT = 66 * 300 + 299 };
    float *fc = random_x(N * FF, 0, 1), *dact = random_x(N * FF, 0, 1), *prior = random_floats(FF, 0, 1);
    (nan_where ? dact : fc)[AT] = NAN;
    floatX *d_fc = array_x("fc", INPUT, fc, N * FF), *act = array_x("act", OUTPUT, NULL, N * FF);
    floatX *dfc = array_x("dfc", OUTPUT, NULL, N * FF), *d_dact = array_x("dact", INPUT, dact, N * FF);
    float* dbias = array_floats("dbias", IN_PLACE, prior, FF);
    float* sum = array_floats("sum", IN_PLACE, prior, FF);
    float* scratch = array_floats("scratch", OUTPUT, NULL, column_sum_scratch(N, FF));
    gelu_forward_cuda(act, d_fc, NULL, N, FF, nan_where);
    gelu_backward_cuda(dfc, dbias, scratch, d_dact, d_fc, NULL, N, FF, nan_where);
    CHECK(count_nan(fetch(act), N * FF) == (nan_where ? 0u : 1u), "%s: act", case_name);
    CHECK(count_nan(fetch(dfc), N * FF) == 1, "%s: dfc", case_name);
    CHECK(count_nan(fetch(dbias), FF) == 1, "%s: dbias", case_name);
    column_sum_cuda(sum, (float*)NULL, scratch, (const floatX*)dfc, N, FF);
    float* sums = fetch(sum);
    CHECK(sums[299] != sums[299], "%s: the column sum hides it", case_name);
    CHECK(count_nan(sums, FF) == 1, "%s: column sums", case_name);
}
static void test_gelu_nan(void) {
    for (nan_where = 0; nan_where < 2; nan_where++) { run_case(gelu_nan_case, 0, "GELU with a NaN"); }
}

// ------------------------------------------------------------------------------------------------
// SwiGLU

static struct { size_t N, FF; } sg;

static void swiglu_case(void) {
    const size_t N = sg.N, FF = sg.FF, n = N * FF;
    float *inp = random_x(2 * n, 0, 2), *dout = random_x(n, 0.1, 1);
    if (FF > 4) {  // far out on both sides: expf() overflows
        inp[0] = 0, inp[1] = rounding(120), inp[2] = rounding(-120), inp[3] = rounding(-5), inp[4] = rounding(1e-6f);
        for (int i = 1; i < 3; i++) { inp[FF + (size_t)i] = 1.0f / 32, dout[i] = 1.0f / 64; }  // not the largest of all
    }
    floatX *d_inp = array_x("inp", INPUT, inp, 2 * n), *out = array_x("out", OUTPUT, NULL, n);
    floatX *dinp = array_x("dinp", OUTPUT, NULL, 2 * n), *d_dout = array_x("dout", INPUT, dout, n);

    swiglu_forward_cuda(out, d_inp, N, FF);
    swiglu_backward_cuda(dinp, d_dout, d_inp, N, FF);

    double *y = zeros_double(n), *dx = zeros_double(2 * n);
    for (size_t i = 0; i < n; i++) {
        const size_t at = i / FF * 2 * FF + i % FF;
        const double g = inp[at], u = inp[at + FF], s = 1 / (1 + exp(-g)), d = dout[i];
        y[i] = g * s * u;
        dx[at] = d * u * s * (1 + g * (1 - s)), dx[at + FF] = d * g * s;
    }
    agree("SwiGLU", fetch(out), y, n, largest(y, n), 3e-7, 1);
    agree("gradient of SwiGLU", fetch(dinp), dx, 2 * n, largest(dx, 2 * n), 5e-7, 1);
}
static void swiglu_run(size_t N, size_t FF, uint64_t shift_mask) {
    if (left_out(2 * N * FF)) { return; }
    sg.N = N, sg.FF = FF;
    run_case(swiglu_case, shift_mask, "SwiGLU N %zu FF %zu, shifts %llx", N, FF, (unsigned long long)shift_mask);
}
static void test_swiglu(void) {
    for (int i = 0; i < 5; i++) { swiglu_run(3, 64, i == 4 ? 0 : (uint64_t)1 << i); }
    for (int r = 0; r < ROWS; r++) {
        for (int w = 0; w < WIDTHS; w++) {
            size_t N = some_rows[r], FF = some_widths[w];
            if (N * FF > 110000) { continue; }
            swiglu_run(N, FF, 0);
            if (N * FF < 20000) { swiglu_run(N, FF, ALL_SHIFTED); }
        }
    }
    swiglu_run(66000, 3, 0);  // chunks of more than 64 rows
    measures_print();
}

static void swiglu_nan_case(void) {
    enum { N = 70, FF = 300, ROW = 66, COLUMN = 299 };
    float *inp = random_x(2 * N * FF, 0, 1), *dout = random_x(N * FF, 0, 1);
    if (nan_where < 2) { inp[ROW * 2 * FF + nan_where * FF + COLUMN] = NAN; }
    if (nan_where == 2) { dout[ROW * FF + COLUMN] = NAN; }
    floatX *d_inp = array_x("inp", INPUT, inp, 2 * N * FF), *out = array_x("out", OUTPUT, NULL, N * FF);
    floatX *dinp = array_x("dinp", OUTPUT, NULL, 2 * N * FF), *d_dout = array_x("dout", INPUT, dout, N * FF);
    swiglu_forward_cuda(out, d_inp, N, FF);
    swiglu_backward_cuda(dinp, d_dout, d_inp, N, FF);
    CHECK(count_nan(fetch(out), N * FF) == (nan_where < 2 ? 1u : 0u), "%s: out", case_name);
    // up is in the gradient of gate alone, the others are in both.
    CHECK(count_nan(fetch(dinp), 2 * N * FF) == (nan_where == 1 ? 1u : 2u), "%s: dinp", case_name);
}
static void test_swiglu_nan(void) {
    for (nan_where = 0; nan_where < 3; nan_where++) { run_case(swiglu_nan_case, 0, "SwiGLU with a NaN"); }
}

// ------------------------------------------------------------------------------------------------
// Copies

static size_t copy_count;
static void copy_case(void) {
    const size_t n = copy_count;
    // Ties both ways, numbers that round to infinity, subnormal ones, and NaN whose low bits alone say so.
    static const uint32_t special[] = {0x00000000, 0x80000000, 0x7f800000, 0xff800000, 0x7f800001, 0xff80ffff,
                                       0x7fc12345, 0x3f808000, 0x3f818000, 0x3f808001, 0x3f807fff, 0x7f7fffff,
                                       0x7f7f7fff, 0x00000001, 0x00008000, 0x00018000, 0x807fffff};
    float *x = random_floats(n, 0, 1), *y = random_floats(n, 0, 1);
    for (size_t i = 0; i < 17 && i < n; i++) { memcpy(&x[n - 1 - i], &special[i], 4); }
    float* d_x = array_floats("inp", INPUT, x, n);
    floatX* rounded_copy = array_x("out", OUTPUT, NULL, n);
    float* sum = array_floats("sum", IN_PLACE, y, n);
    copy_rounded_cuda(rounded_copy, d_x, n);
    add_cuda(sum, d_x, n);
    float *got = fetch(rounded_copy), *total = fetch(sum);
    for (size_t i = 0; i < n; i++) {
        const float want = rounding(x[i]);
        const int same = want != want ? got[i] != got[i] : memcmp(&got[i], &want, 4) == 0;
        CHECK(same, "%s: [%zu] %g became %g, expected %g", case_name, i, x[i], got[i], want);
        const float both = y[i] + x[i];
        CHECK(both != both ? total[i] != total[i] : total[i] == both, "%s: [%zu] %g + %g gave %g", case_name, i, y[i],
              x[i], total[i]);
        if (test_state.checks_failed) { break; }
    }
    free(got);
    free(total);
}
static void test_copies(void) {
    static const size_t counts[] = {1, 3, 4, 5, 7, 8, 9, 17, 1023, 1024, 1025, 2047, 2048, 2049, 10007};
    for (int k = 0; k < 15; k++) {
        copy_count = counts[k];
        for (uint64_t mask = 0; mask < 8; mask++) {
            run_case(copy_case, mask, "copies of %zu, shifts %llx", copy_count, (unsigned long long)mask);
        }
    }
}

// ------------------------------------------------------------------------------------------------
// The optimiser

static TensorTable odd_table(void) {
    static const size_t shape[][2] = {{1, 0},    {5, 0},    {3, 7}, {16, 0},   {4097, 0}, {64, 65},
                                      {4096, 0}, {8193, 0}, {1, 1}, {63, 130}, {15, 0},   {128, 64},
                                      {10, 10},  {3, 10},   {7, 0}, {5, 0},    {500, 7},  {501, 7}};
    static const int joined[] = {13, 15, 17};  // heads of 10, biases, an inner width of 7 that takes two spans
    TensorTable table = {NULL, 0, 0, 0};
    for (int i = 0, next = 0; i < 18; i++) {
        tensor_add(&table, format_string("tensor %d", i), shape[i][0], shape[i][1], INIT_ZEROS, 0);
        if (i == joined[next]) { tensor_join(&table), next += next < 2; }
    }
    return table;
}
static void table_free(TensorTable* table) {
    for (int i = 0; i < table->count; i++) { free(table->list[i].name); }
    free(table->list);
}

static struct {
    int64_t t;
    double lr, decay, scale;
    int rounded_copy;  // 1: params_x is an array of its own; 0: NULL
} ad;

// Bit by bit what adamw.h computes. The gaps between tensors hold numbers here that must stay.
static void adamw_case(void) {
    TensorTable table = odd_table();
    const size_t n = table.total;
    float *p = random_floats(n, 0, 1), *g = random_floats(n, 0, 0.1), *m = random_floats(n, 0, 0.1);
    float* v = random_floats(n, 0, 0.1);
    for (size_t i = 0; i < n; i++) {
        v[i] = v[i] * v[i];
        if (i % 97 == 0) { m[i] = 0, v[i] = 0; }
        if (i % 89 == 0) { g[i] = 0; }
        if (i % 83 == 0) { g[i] *= 1e-20f; }
    }
    float* d_p = array_floats("params", IN_PLACE, p, n);
    floatX* d_x = array_x("params_x", ad.rounded_copy ? OUTPUT : NOWHERE, NULL, n);
    float *d_m = array_floats("m", IN_PLACE, m, n), *d_v = array_floats("v", IN_PLACE, v, n);
    float* d_g = array_floats("grads", INPUT, g, n);
    AdamwPlan plan = adamw_plan(&table);
    // Spans have no alignment to lose: an array of its own, not shifted.
    uint64_t mask = shifts;
    shifts = 0;
    plan.device = (const AdamwSpan*)array_new("plan", INPUT, plan.host, plan.count, sizeof(AdamwSpan));
    shifts = mask;
    AdamwStep step = adamw_step(ad.scale, ad.lr, 0.9, 0.95, 1e-8, ad.decay, ad.t);
    adamw_update_cuda(d_p, d_x, d_m, d_v, d_g, &plan, &step);
    adamw_update(&table, p, g, m, v, &step);
    agree_bits("params", array_bytes(d_p), p, n * sizeof(float));
    agree_bits("m", array_bytes(d_m), m, n * sizeof(float));
    agree_bits("v", array_bytes(d_v), v, n * sizeof(float));
    if (d_x) {
        float* x = fetch(d_x);
        for (int i = 0; i < table.count; i++) {
            const Tensor* t = &table.list[i];
            size_t end = i + 1 < table.count ? table.list[i + 1].offset : n;
            for (size_t j = t->offset; j < end; j++) {
                const int inside = j < t->offset + t->size;
                if (inside ? x[j] != rounding(p[j]) : x[j] == x[j]) {
                    CHECK(0, "%s: params_x [%zu] of %s is %g, params %g", case_name, j - t->offset, t->name, x[j],
                          p[j]);
                    break;
                }
            }
        }
        free(x);
    }
    free(plan.host);
    table_free(&table);
}

static void test_adamw(void) {
    static const int64_t steps[] = {1, 2, 17, 100000};
    for (int k = 0; k < 4; k++) {
        for (uint64_t mask = 0; mask < 2; mask++) {
            ad.t = steps[k], ad.lr = k == 2 ? 0 : 1e-3, ad.decay = k == 3 ? 0 : 0.1, ad.scale = k == 1 ? 1 : 0.37;
            ad.rounded_copy = k != 1;
            run_case(adamw_case, mask ? ALL_SHIFTED : 0, "AdamW step %lld, shifts %llx", (long long)ad.t,
                     (unsigned long long)mask);
        }
    }
    ad.rounded_copy = 1;
    for (int i = 0; i < 5; i++) { run_case(adamw_case, (uint64_t)1 << i, "AdamW, one family shifted"); }
}

// In the fp32 program the products' copy is the master itself; a NaN in a gradient is seen in all families.
static void adamw_nan_case(void) {
    TensorTable table = odd_table();
    const size_t n = table.total, at = table.list[5].offset + 63;
    float *p = random_floats(n, 0, 1), *g = random_floats(n, 0, 1), *m = zeros(n), *v = zeros(n);
    g[at] = NAN;
    float *d_p = array_floats("params", IN_PLACE, p, n), *d_m = array_floats("m", IN_PLACE, m, n);
    float *d_v = array_floats("v", IN_PLACE, v, n), *d_g = array_floats("grads", INPUT, g, n);
    AdamwPlan plan = adamw_plan(&table);
    plan.device = (const AdamwSpan*)array_new("plan", INPUT, plan.host, plan.count, sizeof(AdamwSpan));
    AdamwStep step = adamw_step(1, 1e-3, 0.9, 0.95, 1e-8, 0.1, 1);
    adamw_update_cuda(d_p, sizeof(floatX) == 4 ? (floatX*)d_p : NULL, d_m, d_v, d_g, &plan, &step);
    float* out[3] = {fetch(d_p), fetch(d_m), fetch(d_v)};
    for (int k = 0; k < 3; k++) {
        CHECK(out[k][at] != out[k][at], "%s: family %d hides it", case_name, k);
        CHECK(count_nan(out[k], n) == 1, "%s: family %d", case_name, k);
    }
    free(plan.host);
    table_free(&table);
}
static void test_adamw_nan(void) { run_case(adamw_nan_case, 0, "AdamW with a NaN"); }

// Each number of each tensor is in exactly one span, and no gap is in any.
static void test_adamw_plan(void) {
    TensorTable table = odd_table();
    AdamwPlan plan = adamw_plan(&table);
    int* seen = (int*)xalloc(table.total, sizeof(int), "a test");
    for (size_t k = 0; k < plan.count; k++) {
        for (size_t i = 0; i < plan.host[k].count; i++) {
            seen[plan.host[k].begin + i] += plan.host[k].decay ? 100 : 1;
        }
    }
    size_t in = 0;
    for (int i = 0; i < table.count; i++) {
        const Tensor* t = &table.list[i];
        for (size_t j = 0; j < t->size; j++, in++) {
            CHECK(seen[t->offset + j] == (t->decay ? 100 : 1), "%s [%zu] is seen %d times", t->name, j,
                  seen[t->offset + j]);
            seen[t->offset + j] = 0;
        }
    }
    for (size_t i = 0; i < table.total; i++) { CHECK(seen[i] == 0, "a gap at %zu is in a span", i); }
    CHECK(plan.numbers == in && in == tensor_parameters(&table), "%zu numbers planned, %zu there", plan.numbers, in);
    free(seen);
    free(plan.host);
    table_free(&table);
}

// Whatever is divided among however many, ranges are whole blocks of the norm, follow one another, and leave nothing out.
static void test_ranges(void) {
    static const size_t totals[] = {128, NORM_BLOCK, NORM_BLOCK + 128, 5 * NORM_BLOCK - 128, 7 * NORM_BLOCK};
    for (int k = 0; k < 5; k++) {
        for (int ranks = 1; ranks <= 9; ranks++) {
            size_t end = 0;
            for (int rank = 0; rank < ranks; rank++) {
                Range r = range_of(totals[k], rank, ranks);
                CHECK(r.begin == end && r.end >= r.begin && r.end - r.begin <= r.most, "range %d of %d: %zu to %zu",
                      rank, ranks, r.begin, r.end);
                CHECK(r.end == totals[k] || r.end == (size_t)(rank + 1) * r.most, "range %d of %d ends at %zu", rank,
                      ranks, r.end);
                CHECK(r.room == (size_t)ranks * r.most && r.room >= totals[k], "room for %zu of %zu", r.room,
                      totals[k]);
                CHECK(r.divided == (ranks > 1) && (ranks == 1 || r.most % NORM_BLOCK == 0), "%d ranks: ranges of %zu",
                      ranks, r.most);
                end = r.end;
            }
            CHECK(end == totals[k], "%d ranges of %zu numbers end at %zu", ranks, totals[k], end);
        }
    }
}

static struct { size_t begin, end; } part;

// out = the masters that a GPU has of `family`, in their order: first vectors whole, in fp32 matrices too, then of matrices
// what is in the range; how many.
static size_t masters_here(float* out, const float* family, const TensorTable* table) {
    size_t n = 0;
    for (int ranged = 0; ranged < 2; ranged++) {
        for (int i = 0; i < table->count; i++) {
            size_t begin = table->list[i].offset, end = i + 1 < table->count ? table->list[i + 1].offset : table->total;
            const int apart = table->list[i].rounded && sizeof(floatX) == 2;
            for (size_t j = begin; j < end; j++) {
                if (apart == ranged && (!apart || (j >= part.begin && j < part.end))) { out[n++] = family[j]; }
            }
        }
    }
    return n;
}

// A range alone is updated, with moments that begin where it does, and bit by bit as the whole.
static void adamw_range_case(void) {
    TensorTable table = odd_table();
    for (int i = 0; i < table.count; i++) { table.list[i].rounded = table.list[i].ndim == 2; }
    const size_t n = table.total, own = part.end - part.begin;
    const Range range = {1, own, part.begin, part.end, n};
    float *p = random_floats(n, 0, 1), *g = random_floats(n, 0, 0.1), *m = random_floats(n, 0, 0.1);
    float *v = random_floats(n, 0, 0.1), *here = random_floats(n, 0, 1), *before = random_floats(n, 0, 1);
    for (size_t i = 0; i < n; i++) { v[i] = v[i] * v[i], before[i] = p[i]; }
    const size_t masters = masters_here(here, p, &table);
    CHECK(range_masters(&range, &table) == masters, "%s: %zu masters, expected %zu", case_name,
          range_masters(&range, &table), masters);
    float* d_p = array_floats("masters", IN_PLACE, here, masters);
    floatX* d_x = array_x("params_x", sizeof(floatX) == 2 ? OUTPUT : NOWHERE, NULL, n);
    float *d_m = array_floats("m", IN_PLACE, m + part.begin, own),
          *d_v = array_floats("v", IN_PLACE, v + part.begin, own);
    float* d_g = array_floats("grads", INPUT, g, n);
    AdamwPlan plan = adamw_plan_range(&table, &range);
    plan.device = (const AdamwSpan*)array_new("plan", INPUT, plan.host, plan.count, sizeof(AdamwSpan));
    AdamwStep step = adamw_step(0.5, 1e-3, 0.9, 0.95, 1e-8, 0.1, 3);
    adamw_update_cuda(d_p, d_x, d_m, d_v, d_g, &plan, &step);
    adamw_update(&table, p, g, m, v, &step);
    memcpy(p, before, part.begin * sizeof(float));
    memcpy(p + part.end, before + part.end, (n - part.end) * sizeof(float));
    masters_here(here, p, &table);
    agree_bits("masters", array_bytes(d_p), here, masters * sizeof(float));
    agree_bits("m", array_bytes(d_m), m + part.begin, own * sizeof(float));
    agree_bits("v", array_bytes(d_v), v + part.begin, own * sizeof(float));
    float* x = d_x ? fetch(d_x) : NULL;
    for (int i = 0; i < table.count && x; i++) {
        const Tensor* t = &table.list[i];
        for (size_t j = t->offset; j < t->offset + t->size; j++) {
            const int inside = j >= part.begin && j < part.end;
            CHECK(inside ? x[j] == rounding(p[j]) : x[j] != x[j], "%s: params_x [%zu] of %s", case_name, j - t->offset,
                  t->name);
        }
    }
    free(x);
    free(plan.host);
    table_free(&table);
}
static void test_adamw_range(void) {
    TensorTable table = odd_table();
    const size_t third = round_up(table.total / 3, TENSOR_START);
    const size_t cuts[] = {0, 0, third, 2 * third, table.total, table.total};  // the first and the last range are empty
    for (int i = 0; i < 5; i++) {
        part.begin = cuts[i], part.end = cuts[i + 1];
        run_case(adamw_range_case, 0, "AdamW of %zu to %zu", part.begin, part.end);
    }
    table_free(&table);
}

static size_t norm_count;
static double norm_factor;
static void grad_norm_case(void) {
    const size_t n = norm_count;
    float* g = random_floats(n, 0, norm_factor);
    double want = 0;
    for (size_t i = 0; i < n; i++) { want += (double)g[i] * (double)g[i]; }
    float* d_g = array_floats("grads", INPUT, g, n);
    double* squares = array_doubles("squares", OUTPUT, NULL, 1);
    double* scratch = array_doubles("scratch", OUTPUT, NULL, grad_norm_scratch(n));
    grad_norm_cuda(squares, scratch, d_g, n);
    double got;
    memcpy(&got, array_bytes(squares), sizeof got);
    float* error = (float*)xalloc(1, sizeof(float), "a result");
    error[0] = (float)(sqrt(got) / sqrt(want) - 1);
    const double none = 0;
    agree("gradient norm", error, &none, 1, 1, 3e-7, 0);
    TensorTable table = {NULL, 0, 0, n};  // as the C half has it
    double c_half = grad_norm(&table, g);
    CHECK(fabs(sqrt(got) - c_half) <= 3e-7 * c_half, "%s: %.9g, the C half has %.9g", case_name, sqrt(got), c_half);
}
static void test_grad_norm(void) {
    static const size_t counts[] = {1, 5, 15, 16, 17, 4095, 4096, 4097, 8192, 100001};
    for (int k = 0; k < 10; k++) {
        norm_count = counts[k], norm_factor = 1;
        run_case(grad_norm_case, 0, "gradient norm");
        run_case(grad_norm_case, 1, "gradient norm, shifted");
    }
    norm_count = (size_t)NORM_BLOCK + NORM_TILE + 4099;  // a block of several tiles, and one whose last is not whole
    if (!left_out(norm_count)) { run_case(grad_norm_case, 0, "gradient norm, large"); }
    norm_count = 10000, norm_factor = 1e30;  // squares that no float holds
    run_case(grad_norm_case, 0, "gradient norm, 1e30");
    norm_factor = 1e-15;
    run_case(grad_norm_case, 0, "gradient norm, 1e-15");
    measures_print();
}

static size_t nan_at;
static void grad_norm_nan_case(void) {
    enum { N = 10001 };
    float* g = random_floats(N, 0, 1);
    g[nan_at] = nan_value;
    float* d_g = array_floats("grads", INPUT, g, N);
    double* squares = array_doubles("squares", OUTPUT, NULL, 1);
    double* scratch = array_doubles("scratch", OUTPUT, NULL, grad_norm_scratch(N));
    grad_norm_cuda(squares, scratch, d_g, N);
    double got;
    memcpy(&got, array_bytes(squares), sizeof got);
    CHECK(nan_value != nan_value ? got != got : isinf(got), "%s: %g at %zu gave %g", case_name, nan_value, nan_at, got);
}
static void test_grad_norm_nan(void) {
    static const size_t places[] = {0, 1, 4095, 4096, 9999, 10000};
    for (int k = 0; k < 6; k++) {
        for (int sign = -1; sign <= 1; sign++) {
            nan_at = places[k], nan_value = sign ? (float)sign * INFINITY : NAN;
            run_case(grad_norm_nan_case, 0, "gradient norm of a NaN or an infinity");
        }
    }
}

// ------------------------------------------------------------------------------------------------
// The ledger

// What the launchers say they move, in a dry run, beside the arrays that they must touch once. Partial
// sums may add a tenth.
static void test_ledger(void) {
    const double N = 16384, C = 512, FF = 2048, X = sizeof(floatX);
    const size_t n = 16384, c = 512, ff = 2048;
    float* f = (float*)(uintptr_t)4096;  // nothing is read
    floatX* x = (floatX*)(uintptr_t)4096;
    Ledger before = ledger;
    ledger.dry = 1;
    ledger_clear();
    struct {
        const char* name;
        double want, got;
    } row[15];
    int rows = 0;
    layernorms_forward_cuda(f, x, x, f, f, f, x, f, x, f, f, f, f, f, n, c, 1e-5f);
    row[rows++] = {"norm forward", N * C * (8 + 4 * X), booked_bytes()};
    layernorms_again_cuda(x, x, f, f, f, f, f, f, f, n, c);
    row[rows++] = {"norm forward again", N * C * (4 + 2 * X), booked_bytes()};
    layernorms_backward_cuda(f, x, f, f, f, f, f, f, f, x, x, f, f, f, f, f, n, c, 1);
    row[rows++] = {"norm backward", N * C * (12 + 3 * X), booked_bytes()};
    rotary_forward_cuda(x, f, f, NULL, 8, 2048, 8, 2, 16, 1536, 192, 64, 1);
    row[rows++] = {"rotary", N * 8 * 2 * 16 * 2 * X, booked_bytes()};
    position_forward_cuda(f, f, f, NULL, 8, 2048, c);
    row[rows++] = {"positions forward", N * C * 8, booked_bytes()};
    position_backward_cuda(f, f, 8, 2048, c);
    row[rows++] = {"positions backward", N * C * 5, booked_bytes()};
    gelu_forward_cuda(x, x, f, n, ff, 0);
    row[rows++] = {"GELU forward", N * FF * 2 * X, booked_bytes()};
    gelu_backward_cuda(x, f, f, x, x, f, n, ff, 0);
    row[rows++] = {"GELU backward", N * FF * 3 * X, booked_bytes()};
    rmsnorm_forward_cuda(f, x, f, f, x, f, n, c, 1e-5f);
    row[rows++] = {"RMSNorm forward", N * C * (8 + 2 * X), booked_bytes()};
    rmsnorm_again_cuda(x, f, f, f, n, c);
    row[rows++] = {"RMSNorm forward again", N * C * (4 + X), booked_bytes()};
    rmsnorm_backward_cuda(f, x, f, f, x, f, f, f, n, c, 1);
    row[rows++] = {"RMSNorm backward", N * C * (12 + 2 * X), booked_bytes()};
    swiglu_forward_cuda(x, x, n, ff);
    row[rows++] = {"SwiGLU forward", N * FF * 3 * X, booked_bytes()};
    swiglu_backward_cuda(x, x, x, n, ff);
    row[rows++] = {"SwiGLU backward", N * FF * 5 * X, booked_bytes()};
    column_sum_cuda(f, (float*)NULL, f, (const floatX*)x, n, ff);
    row[rows++] = {"column sums", N * FF * X, booked_bytes()};
    copy_rounded_cuda(x, f, n * c);
    row[rows++] = {"copy", N * C * (4 + X), booked_bytes()};
    ledger = before;
    for (int i = 0; i < rows; i++) {
        double share = row[i].got / row[i].want;
        CHECK(share >= 1 && share <= 1.1, "%s: %.4g bytes are booked, the arrays have %.4g", row[i].name, row[i].got,
              row[i].want);
        printf("     %-24s %.3f of its arrays' bytes booked\n", row[i].name, share);
    }
}

// The optimiser reads weight, gradient and both moments, writes weight, moments and the rounded copy; the norm reads
// the gradients.
static void test_ledger_optimiser(void) {
    float* f = (float*)(uintptr_t)4096;  // nothing is read
    TensorTable table = odd_table();
    AdamwPlan plan = adamw_plan(&table);
    AdamwStep step = adamw_step(1, 1e-3, 0.9, 0.95, 1e-8, 0.1, 1);
    const double n = (double)plan.numbers;
    Ledger before = ledger;
    ledger.dry = 1;
    ledger_clear();
    adamw_update_cuda(f, (floatX*)(uintptr_t)8192, f, f, f, &plan, &step);
    double share[3] = {booked_bytes() / (n * (28.0 + (double)sizeof(floatX))), 0, 0};
    adamw_update_cuda(f, NULL, f, f, f, &plan, &step);
    share[1] = booked_bytes() / (n * 28.0);
    grad_norm_cuda((double*)f, (double*)f, f, 1 << 20);
    share[2] = booked_bytes() / (4.0 * (1 << 20));
    ledger = before;
    for (int i = 0; i < 3; i++) {
        CHECK(share[i] >= 1 && share[i] <= 1.02, "%d: %.4f of the arrays' bytes are booked", i, share[i]);
    }
    free(plan.host);
    table_free(&table);
}

static void test_ledger_device(void) {
    void* p = (void*)(uintptr_t)4096;  // nothing is touched
    Ledger before = ledger;
    ledger.dry = 1;
    ledger_clear();
    device_zero(p, 1000);
    double zeroed = booked_bytes();
    device_copy(p, p, 1000);
    double copied = booked_bytes();
    ledger = before;
    CHECK(zeroed == 1000 && copied == 2000, "1000 bytes set: %g booked; copied: %g booked", zeroed, copied);
}

int main(int argc, char** argv) {
    test_begin(argc, argv);
    device_open();
    ledger.booking = 1;  // a launch that states() does not precede dies
    printf("gpu_layers: %s, on %s\n", PRECISION, device.name);
    RUN(test_norm_forward);
    RUN(test_norm_eps);
    RUN(test_norm_forward_nan);
    RUN(test_norm_backward);
    RUN(test_norm_backward_nan);
    RUN(test_rmsnorm_forward);
    RUN(test_rmsnorm_forward_nan);
    RUN(test_rmsnorm_backward);
    RUN(test_rmsnorm_backward_nan);
    RUN(test_rotary);
    RUN(test_rotary_back);
    RUN(test_position);
    RUN(test_column_sum);
    RUN(test_gelu);
    RUN(test_gelu_nan);
    RUN(test_swiglu);
    RUN(test_swiglu_nan);
    RUN(test_copies);
    RUN(test_adamw);
    RUN(test_adamw_nan);
    RUN(test_adamw_plan);
    RUN(test_ranges);
    RUN(test_adamw_range);
    RUN(test_grad_norm);
    RUN(test_grad_norm_nan);
    RUN(test_ledger);
    RUN(test_ledger_optimiser);
    RUN(test_ledger_device);
    return test_end();
}
