// test_rotary.h - rotary positions of the trainers that have them. TEST_SERIES, the includer's: what rotary_tables() takes
// for the plain series of base 10000, where that is not the number.
#ifndef PONDER_TEST_ROTARY_H
#define PONDER_TEST_ROTARY_H

#include "test_architecture.h"

#ifndef TEST_SERIES
#define TEST_SERIES 10000
#endif

// A rotation keeps lengths, its backward undoes it, and q.k depends on the distance alone.
static void test_rotary(void) {
    enum { T = 9, NH = 2, HS = 12, ROTATED = 6 };
    real cosine[T * ROTATED / 2], sine[T * ROTATED / 2], x[T * NH * 3 * HS], y[T * NH * 3 * HS];
    rotary_tables(cosine, sine, T, ROTATED, TEST_SERIES);
    // Measured: 2.9e-8; half a unit in the last place of 0.84 is 3e-8. In double 0.
    CHECK(fabs((double)cosine[3] - 0.54030230586813977) < 1e-7 && fabs((double)sine[3] - 0.84147098480789651) < 1e-7,
          "position 1 turns pair 0 by one radian");
    // sin(2028 / 10000^(2/16)) as PyTorch has it, 0.412297249: frequency and angle are rounded to float. In double
    // it is 0.412328207, with the angle alone rounded 0.412352842. Measured: 1.2e-8, the rounding of the result.
    enum { FAR = 2029, PAIRS = 8 };
    real* far = (real*)xalloc(2 * FAR * PAIRS, sizeof(real), "rotary tables");
    rotary_tables(far, far + FAR * PAIRS, FAR, 2 * PAIRS, TEST_SERIES);
    double sine_far = (double)far[FAR * PAIRS + 2028 * PAIRS + 1];
    CHECK(fabs(sine_far - 0.41229723668739820) < 1e-7, "sine of pair 1 at position 2028: %.9g", sine_far);
    free(far);
    for (int i = 0; i < NH * 3 * HS; i++) { x[i] = (real)random_normal(1, 6, (uint64_t)i); }
    for (int t = 1; t < T; t++) {
        memcpy(x + t * NH * 3 * HS, x, NH * 3 * HS * sizeof(real));
    }  // the same q and k everywhere
    memcpy(y, x, sizeof y);
    rotary_forward(y, cosine, sine, 1, T, NH, 2, ROTATED, NH * 3 * HS, 3 * HS, HS, 1);
    double first = 0;
    for (int t = 0; t + 2 < T; t++) {
        const real *q = y + (t + 2) * NH * 3 * HS, *k = y + t * NH * 3 * HS + HS;
        double dot = 0;
        for (int i = 0; i < HS; i++) { dot += (double)(q[i] * k[i]); }
        if (t == 0) { first = dot; }
        // Measured: 2.4e-7 in float, rounding; 1.3e-9 in double, where the angles are still rounded to float.
        CHECK(fabs(dot - first) <= (is_double() ? 1e-8 : 1e-6) * fabs(first),
              "distance 2 at position %d: %.9g, at 0: %.9g", t, dot, first);
    }
    for (int t = 0; t < T; t++) {
        CHECK(memcmp(y + (t * NH * 3 + 2) * HS, x + (t * NH * 3 + 2) * HS, HS * sizeof(real)) == 0,
              "values are not rotated");
        CHECK(memcmp(y + t * NH * 3 * HS + ROTATED, x + t * NH * 3 * HS + ROTATED, (HS - ROTATED) * sizeof(real)) == 0,
              "the rest of a head is not rotated");
    }
    rotary_forward(y, cosine, sine, 1, T, NH, 2, ROTATED, NH * 3 * HS, 3 * HS, HS, -1);
    // Measured: 1.2e-7 in float, 1.1e-16 in double: two rotations, each rounded once.
    compare_reals("rotated back", y, x, T * NH * 3 * HS, is_double() ? 5e-16 : 5e-7);
}

#endif
