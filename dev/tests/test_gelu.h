// test_gelu.h - GELU of the trainers that have it: values, and finite differences (double build). Included after
// gelu_known, an array of {x, GELU(x)}: there are two forms of it.
#ifndef PONDER_TEST_GELU_H
#define PONDER_TEST_GELU_H

#include "test_architecture.h"

static struct { real x[64], y[64], dy[64]; } gelu;

static double gelu_scalar(void* unused) {
    (void)unused;
    gelu_forward(gelu.y, gelu.x, 64);
    return weighted_sum(gelu.y, gelu.dy, 64);
}

static void test_gelu(void) {
    for (size_t i = 0; i < sizeof gelu_known / sizeof gelu_known[0]; i++) {
        real x = (real)gelu_known[i][0], y;
        gelu_forward(&y, &x, 1);
        // Measured: 8.4e-8, half a unit in the last place of 3 being 1.2e-7; in double 6e-12, the digits given for -8.
        CHECK(fabs((double)y - gelu_known[i][1]) <= (is_double() ? 1e-11 : 2e-7), "gelu(%g) = %.9g, expected %.9g",
              gelu_known[i][0], (double)y, gelu_known[i][1]);
    }
    if (!is_double()) { return; }
    for (int i = 0; i < 64; i++) { gelu.x[i] = (real)(-6 + 12 * i / 63.0); }
    random_reals(gelu.dy, 64, 5);
    real dx[64];
    memcpy(dx, gelu.dy, sizeof dx);
    gelu_backward(dx, dx, gelu.x, 64);  // in place, as the pass uses it
    check_gradient("gelu", gelu_scalar, NULL, gelu.x, 64, dx, 1, 0);
}

#endif
