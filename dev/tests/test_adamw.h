// test_adamw.h - tests of common/adamw.h.
#ifndef PONDER_TEST_ADAMW_H
#define PONDER_TEST_ADAMW_H

#include "../../common/adamw.h"
#include "test.h"

// A table of odd sizes around the block size, with and without decay, small tensors in one block.
static TensorTable adamw_table(void) {
    static const size_t shapes[][2] = {{5, 3},    {7, 0}, {90, 91}, {4096, 0}, {1, 0},
                                       {33, 129}, {3, 1}, {17, 0},  {64, 64}};
    TensorTable table = {0};
    for (int i = 0; i < 9; i++) {
        tensor_add(&table, format_string("tensor.%d", i), shapes[i][0], shapes[i][1], INIT_ZEROS, 0);
    }
    return table;
}

static void adamw_table_free(TensorTable* table) {
    for (int i = 0; i < table->count; i++) { free(table->list[i].name); }
    free(table->list);
}

static real* adamw_family(const TensorTable* table) { return (real*)xalloc(table->total, sizeof(real), "a test"); }

// -1 .. 1, exact in float.
static double adamw_random(uint32_t* seed) {
    *seed = *seed * 1664525u + 1013904223u;
    return (double)(*seed >> 8) / 8388608.0 - 1.0;
}

static uint64_t adamw_hash(const real* x, size_t n, uint64_t hash) {
    const unsigned char* p = (const unsigned char*)x;
    for (size_t i = 0; i < n * sizeof(real); i++) { hash = (hash ^ p[i]) * 1099511628211ull; }
    return hash;
}

// Ten steps of the update, against double loops written from the formulas; returns a hash of the outcome.
static uint64_t adamw_ten_steps(int check) {
    TensorTable table = adamw_table();
    real *p = adamw_family(&table), *g = adamw_family(&table), *m = adamw_family(&table), *v = adamw_family(&table);
    double* q = (double*)xalloc(4 * table.total, sizeof(double), "a test");
    double *mq = q + table.total, *vq = mq + table.total, *p0 = vq + table.total;
    double beta1 = 0.9, beta2 = 0.95, eps = 1e-3, decay = 0.3, beta1_t = 1,
           beta2_t = 1;  // eps and decay large enough to be seen
    uint32_t seed = 1;
    for (int i = 0; i < table.count; i++) {
        const Tensor* t = &table.list[i];
        for (size_t j = t->offset; j < t->offset + t->size; j++) {
            p0[j] = q[j] = adamw_random(&seed);
            p[j] = (real)q[j];
        }
    }
    for (int step = 1; step <= 10; step++) {
        double lr = 0.01 * step, scale = step % 3 == 0 ? 0.25 : 1;
        beta1_t *= beta1, beta2_t *= beta2;
        for (int i = 0; i < table.count; i++) {
            const Tensor* t = &table.list[i];
            for (size_t j = t->offset; j < t->offset + t->size; j++) {
                double gradient = 0.1 * adamw_random(&seed) * (step % 2 ? 1 : 0.01);
                g[j] = (real)gradient;
                gradient = (double)g[j] * scale;
                if (t->ndim == 2) { q[j] -= lr * decay * q[j]; }
                mq[j] = beta1 * mq[j] + (1 - beta1) * gradient;
                vq[j] = beta2 * vq[j] + (1 - beta2) * gradient * gradient;
                q[j] -= lr * (mq[j] / (1 - beta1_t)) / (sqrt(vq[j] / (1 - beta2_t)) + eps);
            }
        }
        AdamwStep coefficients = adamw_step(scale, lr, beta1, beta2, eps, decay, step);
        adamw_update(&table, p, g, m, v, &coefficients);
    }
    if (check) {
        for (int i = 0; i < table.count; i++) {
            const Tensor* t = &table.list[i];
            double worst_p = 0, worst_m = 0, worst_v = 0, moved = 0;
            for (size_t j = t->offset; j < t->offset + t->size; j++) {
                worst_p = fmax(worst_p, fabs((double)p[j] - q[j]));
                worst_m = fmax(worst_m, fabs((double)m[j] - mq[j]) / 0.1);
                worst_v = fmax(worst_v, fabs((double)v[j] - vq[j]) / 0.01);
                moved = fmax(moved, fabs(q[j] - p0[j]));
                CHECK(p[j] == p[j] && m[j] == m[j] && v[j] == v[j], "NaN at %zu", j);
            }
            // Measured: p 3.9e-7, m 6.6e-8, v 2.6e-8 in float (rounded every step, the reference not), 9e-16 in double.
            double most = sizeof(real) == sizeof(float) ? 2e-6 : 1e-14;
            CHECK(worst_p <= most && worst_m <= most / 4 && worst_v <= most / 4 && moved > 0.01,
                  "%s: p off by %g, m by %g, v by %g; moved %g", t->name, worst_p, worst_m, worst_v, moved);
            for (size_t j = t->offset + t->size; j < t->offset + round_up(t->size, TENSOR_START); j++) {
                CHECK(p[j] == 0 && m[j] == 0 && v[j] == 0, "%s: the gap behind it is no longer 0", t->name);
            }
        }
    }
    uint64_t hash = 14695981039346656037ull;  // of the tensors alone: where they lie is not part of it
    for (int i = 0; i < table.count; i++) {
        const Tensor* t = &table.list[i];
        const real* const families[] = {p, m, v};
        for (int f = 0; f < 3; f++) { hash = adamw_hash(families[f] + t->offset, t->size, hash); }
    }
    free(p), free(g), free(m), free(v), free(q);
    adamw_table_free(&table);
    return hash;
}

static void test_adamw_update(void) {
    uint64_t hash = adamw_ten_steps(1);
    if (sizeof(real) == sizeof(float)) {  // the same bits everywhere; belongs to the definition of the update
        CHECK(hash == 0xff6b238885aecee7ull, "the bits of AdamW are 0x%016llx", (unsigned long long)hash);
    }
}

// A NaN gradient reaches its own parameter and no other.
static void test_adamw_nan(void) {
    TensorTable table = adamw_table();
    real *p = adamw_family(&table), *g = adamw_family(&table), *m = adamw_family(&table), *v = adamw_family(&table);
    for (int i = 0; i < table.count; i++) {
        for (size_t j = 0; j < table.list[i].size; j++) { p[table.list[i].offset + j] = 1; }
    }
    size_t at = table.list[2].offset + 4321;
    g[at] = (real)NAN;
    AdamwStep step = adamw_step(1, 0.1, 0.9, 0.95, 1e-8, 0.5, 1);
    adamw_update(&table, p, g, m, v, &step);
    CHECK(p[at] != p[at] && m[at] != m[at] && v[at] != v[at], "a NaN gradient is not seen");
    size_t count = 0;
    for (size_t j = 0; j < table.total; j++) { count += p[j] != p[j] || m[j] != m[j] || v[j] != v[j]; }
    CHECK(count == 1, "a NaN gradient reached %zu numbers", count);
    CHECK(p[0] == (real)(1 - 0.1 * 0.5) && p[table.list[1].offset] == 1,
          "without gradients only decay acts, and only on matrices");
    free(p), free(g), free(m), free(v);
    adamw_table_free(&table);
}

static void test_adamw_norm(void) {
    real few[35];
    for (int i = 0; i < 35; i++) { few[i] = (real)(i + 1); }
    CHECK(sum_of_squares(few, 35) == 14910 && sum_of_squares(few, 16) == 1496 && sum_of_squares(few, 0) == 0,
          "squares of numbers that fill no lanes");
    TensorTable table = adamw_table();
    real* g = adamw_family(&table);
    uint32_t seed = 5;
    double want = 0;
    for (int i = 0; i < table.count; i++) {
        for (size_t j = 0; j < table.list[i].size; j++) {
            real x = (real)adamw_random(&seed);
            g[table.list[i].offset + j] = x;
            want += (double)x * (double)x;
        }
    }
    double norm = grad_norm(&table, g);
    // Measured: 2.3e-14, two orders of adding some ten thousand squares in double.
    CHECK(fabs(norm - sqrt(want)) <= 2e-13 * norm, "norm %.17g, expected %.17g", norm, sqrt(want));
    if (sizeof(real) == sizeof(float)) {
        uint64_t bits = double_bits(norm);
        CHECK(bits == 0x4054a97800791f61ull, "the bits of the norm are 0x%016llx", (unsigned long long)bits);
    }
    for (int i = 0; i < table.count; i++) {  // first and last number of every tensor count
        const Tensor* t = &table.list[i];
        size_t ends[2] = {t->offset, t->offset + t->size - 1};
        for (int e = 0; e < 2; e++) {
            real old = g[ends[e]];
            g[ends[e]] = (real)NAN;
            double got = grad_norm(&table, g);
            CHECK(got != got, "%s: a NaN at %zu is not seen in the norm (%g)", t->name, ends[e], got);
            g[ends[e]] = (real)-INFINITY;
            got = grad_norm(&table, g);
            CHECK(isinf(got), "%s: an infinity is not seen in the norm (%g)", t->name, got);
            g[ends[e]] = (real)1e30;  // its square does not fit a float
            got = grad_norm(&table, g);
            // Measured: 1.5e-8, the rounding of 1e30 to float, at most 6e-8.
            CHECK(fabs(got / 1e30 - 1) < 6e-8, "%s: norm of 1e30 is %g", t->name, got);
            g[ends[e]] = old;
        }
    }
    free(g);
    adamw_table_free(&table);
}

// As clip_grad_norm_ of PyTorch: min(1, clip / (norm + 1e-6)). In the first cases the 1e-6 decides.
static void test_adamw_clip(void) {
    static const double cases[][3] = {
        {1, 1, 1 / 1.000001},  // a norm that is just allowed is still made smaller
        {1e-6, 1e-6, 0.5},
        {0, 5e-7, 0.5},  // and even 0 counts
        {1e-6, 2e-6, 1},
        {0.9999989, 1, 1},
        {0.9999995, 1, 1 / 1.0000005},
        {4, 0.5, 0.5 / 4.000001},
        {0.5, 4, 1},
        {4, 0, 1},
        {0, 0, 1},
        {1e300, 0, 1},
        {1e300, 1, 1e-300},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        double got = clip_scale(cases[i][0], cases[i][1]), want = cases[i][2];
        // 1e-6 missing or doubled would be off by 1e-6 or more; what is left is the rounding of three operations.
        CHECK(fabs(got / want - 1) <= 1e-15, "norm %.9g, clip %g: scale %.17g, expected %.17g", cases[i][0],
              cases[i][1], got, want);
    }
}

static void test_adamw_threads(void) {
#ifdef _OPENMP
    int threads = omp_get_max_threads();
    uint64_t first = 0;
    for (int n = 1; n <= 3; n++) {
        omp_set_num_threads(n);
        uint64_t hash = adamw_ten_steps(0);
        TensorTable table = adamw_table();
        real* g = adamw_family(&table);
        uint32_t seed = 6;
        for (size_t i = 0; i < table.total; i++) { g[i] = (real)adamw_random(&seed); }
        hash ^= double_bits(grad_norm(&table, g));
        free(g);
        adamw_table_free(&table);
        if (n == 1) { first = hash; }
        CHECK(hash == first, "%d threads give other bits than one", n);
    }
    omp_set_num_threads(threads);
#else
    test_skip("a build without OpenMP");
#endif
}

// Against the reference trainer's ten steps (lr 0.003, warmup ratio 0.2, minimum 0.1), and by hand.
static void test_adamw_schedule(void) {
    static const double want[10] = {0.0,
                                    0.0015,
                                    0.003,
                                    0.0028972373688902374,
                                    0.002604594154601839,
                                    0.002166622633692871,
                                    0.0016500000000000002,
                                    0.0011333773663071288,
                                    0.0006954058453981609,
                                    0.0004027626311097629};
    CHECK(schedule_warmup(0.2, 10) == 2 && schedule_warmup(0.01, 101) == 2 && schedule_warmup(0, 10) == 0,
          "warmup steps");
    // 1e-15 here: a few roundings of numbers of about 1. Measured: 0.
    for (int t = 0; t < 10; t++) {
        double got = schedule_lr("cosine", 0.003, 0.1, schedule_warmup(0.2, 10), 10, t);
        CHECK(fabs(got - want[t]) <= 1e-15, "cosine, step %d: %.17g, expected %.17g", t, got, want[t]);
    }
    CHECK(fabs(schedule_lr("cosine", 1, 0.25, 4, 20, 20) - 0.25) < 1e-15, "cosine ends at the minimum");
    CHECK(fabs(schedule_lr("cosine", 1, 0.25, 4, 20, 99) - 0.25) < 1e-15, "cosine stays at the minimum");
    CHECK(fabs(schedule_lr("linear", 2, 0.5, 0, 10, 5) - 1.5) < 1e-15, "linear, half way");
    CHECK(fabs(schedule_lr("linear", 2, 0, 5, 10, 10)) < 1e-15, "linear ends at 0");
    CHECK(schedule_lr("constant", 2, 0.5, 0, 10, 7) == 2, "constant");
    CHECK(schedule_lr("constant", 2, 0.5, 4, 10, 1) == 0.5, "constant with warmup");
    CHECK(schedule_lr("cosine", 2, 0, 1, 10, 0) == 0, "a single step of warmup starts at 0");
    CHECK(schedule_lr("linear", 2, 0, 10, 10, 9) == 1.8, "warmup alone");
    CHECK(power_integer(0.5, 10) == 1.0 / 1024 && power_integer(0.9, 0) == 1 && power_integer(0.9, 1) == 0.9, "powers");
    // Measured: 1.1e-13, of 2 log2(12345) roundings that the squares after them double.
    CHECK(fabs(power_integer(0.999, 12345) / pow(0.999, 12345) - 1) < 1e-12, "large powers");
    CHECK(power_integer(0.9, 1000000000000) == 0, "huge powers");
}

static void adamw_tests(void) {
    RUN(test_adamw_update);
    RUN(test_adamw_nan);
    RUN(test_adamw_norm);
    RUN(test_adamw_clip);
    RUN(test_adamw_threads);
    RUN(test_adamw_schedule);
}

#endif
