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
    for (int t = 1; t < T; t++) {  // the same q and k everywhere
        memcpy(x + t * NH * 3 * HS, x, NH * 3 * HS * sizeof(real));
    }
    memcpy(y, x, sizeof y);
    rotary_forward(y, cosine, sine, NULL, 1, T, NH, 2, ROTATED, NH * 3 * HS, 3 * HS, HS, 1);
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
    rotary_forward(y, cosine, sine, NULL, 1, T, NH, 2, ROTATED, NH * 3 * HS, 3 * HS, HS, -1);
    // Measured: 1.2e-7 in float, 1.1e-16 in double: two rotations, each rounded once.
    compare_reals("rotated back", y, x, T * NH * 3 * HS, is_double() ? 5e-16 : 5e-7);
}

// How a row holds its heads, and what rotary_forward() is told of it.
typedef struct {
    const char* row;  // a letter for each of its heads, of ROTARY_HS numbers: those of q and k are rotated
    size_t heads, parts, rotated, head_stride, part_stride;
} RotaryLayout;

enum { ROTARY_B = 2, ROTARY_T = 5, ROTARY_HS = 12, ROTARY_ROOM = ROTARY_B * ROTARY_T * 8 * ROTARY_HS };
static const RotaryLayout rotary_layouts[] = {
    {"qkvqkv", 2, 2, ROTARY_HS / 2, 3 * ROTARY_HS, ROTARY_HS},  // Pythia: half of each head
    {"qqqqkkvv", 6, 1, ROTARY_HS, ROTARY_HS, 0},                // LLaMA: whole heads, fewer of them k and v
};
static struct { real x[ROTARY_ROOM], y[ROTARY_ROOM], dy[ROTARY_ROOM]; } rotary;

static size_t rotary_numbers(const RotaryLayout* l) { return ROTARY_B * ROTARY_T * strlen(l->row) * ROTARY_HS; }

static void rotary_turn(real* x, const RotaryLayout* l, int direction) {
    real cosine[ROTARY_T * ROTARY_HS / 2], sine[ROTARY_T * ROTARY_HS / 2];
    rotary_tables(cosine, sine, ROTARY_T, (int)l->rotated, TEST_SERIES);
    rotary_forward(x, cosine, sine, NULL, ROTARY_B, ROTARY_T, l->heads, l->parts, l->rotated,
                   strlen(l->row) * ROTARY_HS, l->head_stride, l->part_stride, direction);
}

static double rotary_scalar(void* layout) {
    const RotaryLayout* l = (const RotaryLayout*)layout;
    size_t n = rotary_numbers(l);
    memcpy(rotary.y, rotary.x, n * sizeof(real));
    rotary_turn(rotary.y, l, 1);
    return weighted_sum(rotary.y, rotary.dy, n);
}

// Every number of a row in both layouts, from the definition; and the backward, which is the rotation back.
static void test_rotary_layouts(void) {
    for (size_t k = 0; k < sizeof rotary_layouts / sizeof rotary_layouts[0]; k++) {
        const RotaryLayout* l = &rotary_layouts[k];
        const size_t n = rotary_numbers(l), half = l->rotated / 2, heads = strlen(l->row);
        real want[ROTARY_ROOM];
        random_reals(rotary.x, n, 1);
        random_reals(rotary.dy, n, 2);
        for (size_t j = 0; j < n; j++) {
            const size_t at = j % ROTARY_HS, head = j / ROTARY_HS % heads, t = j / ROTARY_HS / heads % ROTARY_T;
            want[j] = rotary.x[j];
            if (l->row[head] == 'v' || at >= l->rotated) { continue; }
            const double angle = (double)t / pow(10000, 2 * (double)(at % half) / (double)l->rotated);
            const double other = at < half ? -(double)rotary.x[j + half] : (double)rotary.x[j - half];
            want[j] = (real)((double)rotary.x[j] * cos(angle) + other * sin(angle));
        }
        rotary_scalar((void*)l);
        char *what = format_string("%s, rotated", l->row), *gradient = format_string("%s, gradient", l->row);
        // Measured: 8.6e-8 in float; 6.5e-8 in double, where the angles are still rounded to float.
        compare_reals(what, rotary.y, want, n, 3e-7);
        if (is_double()) {
            real dx[ROTARY_ROOM];
            memcpy(dx, rotary.dy, n * sizeof(real));
            rotary_turn(dx, l, -1);
            check_gradient(gradient, rotary_scalar, (void*)l, rotary.x, n, dx, 1, 0);
        }
        free(what), free(gradient);
    }
}

#endif
