// test_layernorm.h - LayerNorm of the trainers that have it, against finite differences (double build).
#ifndef PONDER_TEST_LAYERNORM_H
#define PONDER_TEST_LAYERNORM_H

#include "test_architecture.h"

enum { LN_N = 3, LN_C = 21 };
static struct { real x[LN_N * LN_C], w[LN_C], b[LN_C], y[LN_N * LN_C], dy[LN_N * LN_C], mean[LN_N], rstd[LN_N]; } ln;

static double layernorm_scalar(void* unused) {
    (void)unused;
    layernorm_statistics(ln.mean, ln.rstd, ln.x, LN_N, LN_C, (real)1e-5);
    layernorm_forward(ln.y, ln.x, ln.w, ln.b, ln.mean, ln.rstd, LN_N, LN_C);
    return weighted_sum(ln.y, ln.dy, LN_N * LN_C);
}

static void test_layernorm_differences(void) {
    if (!is_double()) {
        test_skip("runs in the double build");
        return;
    }
    random_reals(ln.x, LN_N * LN_C, 1);
    random_reals(ln.w, LN_C, 2);
    random_reals(ln.b, LN_C, 3);
    random_reals(ln.dy, LN_N * LN_C, 4);
    real dx[LN_N * LN_C], dw[LN_C], db[LN_C];
    for (int i = 0; i < LN_N * LN_C; i++) { dx[i] = 1; }  // the input's gradient is added to
    for (int i = 0; i < LN_C; i++) { dw[i] = 2, db[i] = 3; }
    layernorm_scalar(NULL);
    layernorm_backward(dx, dw, db, ln.dy, ln.x, ln.w, ln.mean, ln.rstd, LN_N, LN_C);
    for (int i = 0; i < LN_N * LN_C; i++) { dx[i] -= 1; }
    for (int i = 0; i < LN_C; i++) { dw[i] -= 2, db[i] -= 3; }
    check_gradient("layernorm: input", layernorm_scalar, NULL, ln.x, LN_N * LN_C, dx, 1, 0);
    check_gradient("layernorm: weight", layernorm_scalar, NULL, ln.w, LN_C, dw, 1, 0);
    check_gradient("layernorm: bias", layernorm_scalar, NULL, ln.b, LN_C, db, 1, 0);
}

#endif
