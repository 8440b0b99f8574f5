// test_math.h - tests of common/mathfun.h: errors against libm, special values, the same bits everywhere;
// and of the search for numbers that are not finite in rows.h.
#ifndef PONDER_TEST_MATH_H
#define PONDER_TEST_MATH_H

#include "../../common/mathfun.h"
#include "../../common/rows.h"
#include "test.h"

// The distance from the exact result, in units of the last place of a float at that result (of the
// smallest denormal below 2^-126). Both NaN, or the same infinity: 0. Otherwise NaN or infinity: huge.
static double math_ulps_f(float got, double want) {
    if (want != want) { return got != got ? 0 : 1e30; }
    if (fabs(want) >= 0x1.ffffffp+127) {
        return (double)got == (want > 0 ? (double)INFINITY : -(double)INFINITY) ? 0 : 1e30;
    }
    int e;
    frexp(want, &e);
    double difference = fabs((double)got - want) / ldexp(1, (e < -125 ? -125 : e) - 24);
    return difference == difference ? difference : 1e30;
}

static double math_ulps_d(double got, double want) {  // libm itself is off by up to 1
    if (want != want) { return got != got ? 0 : 1e30; }
    if (isinf(want)) { return got == want ? 0 : 1e30; }
    int e;
    frexp(want, &e);
    double difference = fabs(got - want) / ldexp(1, (e < -1021 ? -1021 : e) - 53);
    return difference == difference ? difference : 1e30;
}

typedef void (*MathSweepF)(float* y, const float* x, size_t n);
static void math_exp_all(float* y, const float* x, size_t n) {
    for (size_t i = 0; i < n; i++) { y[i] = exp_f(x[i]); }
}
static void math_log_all(float* y, const float* x, size_t n) {
    for (size_t i = 0; i < n; i++) { y[i] = log_f(x[i]); }
}
static void math_erf_all(float* y, const float* x, size_t n) {
    for (size_t i = 0; i < n; i++) { y[i] = erf_f(x[i]); }
}
static void math_tanh_all(float* y, const float* x, size_t n) {
    for (size_t i = 0; i < n; i++) { y[i] = tanh_f(x[i]); }
}
static void math_sin_all(float* y, const float* x, size_t n) {
    for (size_t i = 0; i < n; i++) { y[i] = (float)sin_d((double)x[i]); }
}
static void math_cos_all(float* y, const float* x, size_t n) {
    for (size_t i = 0; i < n; i++) { y[i] = (float)cos_d((double)x[i]); }
}

static uint64_t math_hash(uint64_t hash, uint64_t word) { return (hash ^ word) * 1099511628211ull ^ (hash >> 29); }

// Floats of every exponent and sign, some thousand mantissas each, in vectors as the layers use them;
// compared one by one with the scalar call too, bit by bit. Returns a hash of all results.
static uint64_t math_sweep_f(const char* name, MathSweepF f, double (*exact)(double), double limit, double tolerance) {
    enum { N = 4099 };
    static float x[N], y[N], one[1];
    uint64_t hash = 14695981039346656037ull;
    double worst = 0;
    float at = 0, value = 0;
    for (uint64_t start = 0; start < 0x100000000ull; start += (uint64_t)N * 4001) {
        for (uint64_t i = 0; i < N; i++) { x[i] = bits_float((uint32_t)(start + i * 4001)); }  // wraps around: harmless
        f(y, x, N);
        for (size_t i = 0; i < N; i++) {
            if (y[i] == y[i]) { hash = math_hash(hash, float_bits(y[i])); }
            if (!(fabsf(x[i]) <= (float)limit)) { continue; }
            double error = math_ulps_f(y[i], exact((double)x[i]));
            if (!(error <= worst)) { worst = error, at = x[i], value = y[i]; }
        }
        f(one, x + start / N % N, 1);
        CHECK(float_bits(one[0]) == float_bits(y[start / N % N]) || one[0] != one[0],
              "%s: a vector and a single call differ", name);
    }
    if (getenv("PONDER_VERBOSE")) { printf("     %s: %.4f ulp at %a\n", name, worst, (double)at); }
    CHECK(worst <= tolerance, "%s: error %.3g ulp at %a (%g): got %a, want %a", name, worst, (double)at, (double)at,
          (double)value, exact((double)at));
    return hash;
}

static void test_math_floats(void) {
    uint64_t hash = 0;
    hash = math_hash(hash, math_sweep_f("exp_f", math_exp_all, exp, INFINITY, 1.02));
    hash = math_hash(hash, math_sweep_f("log_f", math_log_all, log, INFINITY, 0.94));
    hash = math_hash(hash, math_sweep_f("erf_f", math_erf_all, erf, INFINITY, 1.24));
    hash = math_hash(hash, math_sweep_f("tanh_f", math_tanh_all, tanh, INFINITY, 1.47));
    hash = math_hash(hash, math_sweep_f("sin_d as float", math_sin_all, sin, 1e9, 0.501));
    hash = math_hash(hash, math_sweep_f("cos_d as float", math_cos_all, cos, 1e9, 0.501));
    // The same on every machine and by every compiler; a new polynomial needs a new number here.
    CHECK(hash == 0x414a9e64f870b01bull, "the bits of the float functions are 0x%016llx", (unsigned long long)hash);
}

static void test_math_special(void) {
    float inf = INFINITY, nan = NAN;
    CHECK(exp_f(0) == 1 && exp_f(-0.0f) == 1 && exp_f(inf) == inf && exp_f(-inf) == 0 && exp_f(nan) != exp_f(nan),
          "exp_f");
    CHECK(exp_f(88.73f) == inf && exp_f(88.72f) < inf && exp_f(1e30f) == inf, "exp_f overflows at 88.7228");
    CHECK(exp_f(-103.0f) == 0x1p-149f && exp_f(-104.0f) == 0 && exp_f(-1e30f) == 0,
          "exp_f underflows by way of denormals");
    CHECK(log_f(1) == 0 && log_f(0) == -inf && log_f(-0.0f) == -inf && log_f(inf) == inf, "log_f");
    CHECK(log_f(-1) != log_f(-1) && log_f(-inf) != log_f(-inf) && log_f(nan) != log_f(nan),
          "log_f of a negative number is NaN");
    // Measured: 0; a unit in the last place of 103 is 7.6e-6.
    CHECK(fabsf(log_f(0x1p-149f) + 103.27893f) < 8e-6f, "log_f of the smallest denormal: %g", (double)log_f(0x1p-149f));
    CHECK(erf_f(inf) == 1 && erf_f(-inf) == -1 && erf_f(nan) != erf_f(nan) && erf_f(-7) == -1, "erf_f");
    CHECK(float_bits(erf_f(-0.0f)) == 0x80000000u && float_bits(erf_f(0)) == 0, "erf_f keeps the sign of 0");
    CHECK(tanh_f(inf) == 1 && tanh_f(-inf) == -1 && tanh_f(nan) != tanh_f(nan) && tanh_f(20) == 1, "tanh_f");
    CHECK(float_bits(tanh_f(-0.0f)) == 0x80000000u && float_bits(tanh_f(0)) == 0, "tanh_f keeps the sign of 0");
    CHECK(tanh_f(1e-30f) == 1e-30f && erf_f(-1e-30f) < 0, "small arguments");
    double sine = sin_d((double)inf), cosine = cos_d((double)nan), far = cos_d(2e9);
    CHECK(sin_d(0) == 0 && cos_d(0) == 1 && sine != sine && cosine != cosine && far != far, "sin_d, cos_d");
    double dinf = (double)INFINITY, dnan = (double)NAN;
    CHECK(exp_d(0) == 1 && exp_d(dinf) == dinf && exp_d(-dinf) == 0 && exp_d(dnan) != exp_d(dnan) &&
              exp_d(709.7) < dinf && exp_d(709.8) == dinf && exp_d(-745) > 0 && exp_d(-746) == 0,
          "exp_d");
    CHECK(log_d(1) == 0 && log_d(0) == -dinf && log_d(dinf) == dinf && log_d(-1) != log_d(-1) &&
              log_d(dnan) != log_d(dnan),
          "log_d");
    CHECK(sin_d(0) == 0 && cos_d(0) == 1 && sin_d(dinf) != sin_d(dinf) && sin_d(dnan) != sin_d(dnan), "sin_d, cos_d");
    CHECK(pow_d(2, 10) == 1024 && pow_d(10, -2) == 0.01 && pow_d(7, 0) == 1 && pow_d(1, 1e300) == 1 &&
              pow_d(2, 2000) == dinf && pow_d(2, -2000) == 0,
          "pow_d");
    CHECK(pow_d(dnan, 1) != pow_d(dnan, 1) && pow_d(2, dnan) != pow_d(2, dnan) && pow_d(-1, 2) != pow_d(-1, 2),
          "pow_d of NaN");
    // A unit in the last place of a float, 2.4e-7 and 6e-8 (tanh 3e-8). Measured: 8.3e-8, 1.9e-9, 7.3e-9, 8.1e-9.
    CHECK(fabs((double)real_exp(1) - 2.718281828459045) < 2.4e-7 &&
              fabs((double)real_log(2) - 0.6931471805599453) < 6e-8 &&
              fabs((double)real_erf((real)0.5) - 0.5204998778130465) < 6e-8 &&
              fabs((double)real_tanh((real)0.5) - 0.46211715726000973) < 3e-8 && real_sqrt(4) == 2,
          "real_ functions");
}

static void test_math_doubles(void) {
    uint64_t seed = 88172645463325252ull, hash = 0;
    struct {
        const char* name;
        double worst, at;
    } e[6] = {{"exp_d"}, {"log_d"}, {"sin_d"}, {"cos_d"}, {"pow_d"}, {"pow_d, rotary"}};
    for (int i = 0; i < 100000; i++) {
        double u[2];
        for (int j = 0; j < 2; j++) {
            seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
            u[j] = (double)(seed >> 11) * 0x1p-53;
        }
        double wide = (u[0] - 0.5) * (i % 2 ? 1400 : 4), positive = i % 2 ? exp(wide) : u[0] + 1e-9;
        double angle = (u[0] - 0.5) * (i % 3 == 0 ? 4 : i % 3 == 1 ? 2e5 : 2e9), exponent = (u[1] - 0.5) * 40;
        double got[6] = {
            exp_d(wide),        log_d(positive), sin_d(angle), cos_d(angle), pow_d(u[0] * 20 + 0.1, exponent),
            pow_d(10000, -u[1])};
        double want[6] = {exp(wide),        log(positive), sin(angle), cos(angle), pow(u[0] * 20 + 0.1, exponent),
                          pow(10000, -u[1])};
        double at[6] = {wide, positive, angle, angle, exponent, u[1]};
        for (int k = 0; k < 6; k++) {
            double error = math_ulps_d(got[k], want[k]);
            if (!(error <= e[k].worst)) { e[k].worst = error, e[k].at = at[k]; }
            if (i % 2 == 0 && k != 1) {
                hash = math_hash(hash, double_bits(k == 4 ? pow_d(u[0] + 0.1, exponent) : got[k]));
            }
        }
    }
    for (int k = 0; k < 6;
         k++) {  // 2 ulp is the promise; measured against quadruple precision the errors are at most 1.4
        if (getenv("PONDER_VERBOSE")) {
            printf("     %s: %.3f ulp from libm at %.17g\n", e[k].name, e[k].worst, e[k].at);
        }
        CHECK(e[k].worst <= 2, "%s: %.3g ulp from libm at %.17g", e[k].name, e[k].worst, e[k].at);
    }
    for (int i = 1; i < 2000; i++) { hash = math_hash(hash, double_bits(log_d(i * 0.37))); }
    CHECK(hash == 0x165db25ad7fe02eaull, "the bits of the double functions are 0x%016llx", (unsigned long long)hash);
}

// The first one is found, wherever it stands in lanes and blocks, and nothing finite is taken for one.
static void test_first_nonfinite(void) {
    enum { N = 3 * 4096 };
    static real x[N + 1];
    static const size_t sizes[] = {0, 1, 15, 16, 17, 33, 4095, 4096, 4097, 4113, 8192, N};
    static const size_t places[] = {0, 1, 15, 16, 31, 32, 4094, 4095, 4096, 4097, 4112, 8191, 8192, N - 17, N - 1};
    const real largest = sizeof(real) == sizeof(float) ? (real)3.4028234663852886e38 : (real)1.7976931348623157e308;
    const real finite[] = {0, (real)-0.0, 1, -1, largest, -largest, (real)1e-45, (real)-1e-39};
    const real bad[] = {(real)NAN, (real)INFINITY, (real)-INFINITY};
    for (size_t i = 0; i < N; i++) { x[i] = finite[i * i % 8]; }
    x[N] = (real)NAN;  // beyond the end
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        size_t n = sizes[s], shift = N - n;  // the row ends just before the NaN
        CHECK(first_nonfinite(x + shift, n) == n && row_finite(x + shift, n), "%zu finite numbers", n);
        for (size_t p = 0; p < sizeof places / sizeof places[0] && places[p] < n; p++) {
            real* at = x + shift + places[p];
            real kept = *at;
            for (int b = 0; b < 3; b++) {
                *at = bad[b];
                CHECK(first_nonfinite(x + shift, n) == places[p] && !row_finite(x + shift, n), "%g at %zu of %zu: %zu",
                      (double)bad[b], places[p], n, first_nonfinite(x + shift, n));
                real last = x[N - 1];  // the first of two, also of opposite infinities
                x[N - 1] = bad[2 - b];
                CHECK(first_nonfinite(x + shift, n) == places[p], "%g at %zu and %g at the end: %zu", (double)bad[b],
                      places[p], (double)bad[2 - b], first_nonfinite(x + shift, n));
                x[N - 1] = last;
            }
            *at = kept;
        }
    }
}

static void math_tests(void) {
    RUN(test_first_nonfinite);
    RUN(test_math_floats);
    RUN(test_math_special);
    RUN(test_math_doubles);
}

#endif
