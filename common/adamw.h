// adamw.h - the optimiser: gradient norm, AdamW, learning-rate schedule.
//
// As torch.optim.AdamW does it (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019),
// for step t = 1, 2, ... with gradient g (already multiplied by grad_scale):
//
//     p *= 1 - lr * weight_decay                    only tensors with decay = 1
//     m  = beta1 * m + (1 - beta1) * g
//     v  = beta2 * v + (1 - beta2) * g^2
//     p -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
//
// Both passes are bound by memory: the norm reads 4 bytes a parameter, the update reads p, g, m, v
// and writes p, m, v, 28 bytes a parameter, once. A family is walked in blocks of a fixed size,
// alignment gaps included (they are 0 and stay 0), so no bit depends on the number of threads.
#ifndef PONDER_ADAMW_H
#define PONDER_ADAMW_H

#include "base.h"
#include "mathfun.h"
#include "tensors.h"

#define ADAMW_BLOCK 4096  // numbers; for the norm part of the definition of the result

// Sum of squares of n numbers, in double: the square of a float is exact there, and no sum of them
// overflows. 16 lanes, then a fixed tree.
static inline double sum_of_squares(const real* x, size_t n) {
    double lanes[16] = {0};
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int j = 0; j < 16; j++) { lanes[j] += (double)x[i + j] * (double)x[i + j]; }
    }
    for (int j = 0; i + j < n; j++) { lanes[j] += (double)x[i + j] * (double)x[i + j]; }
    for (int width = 8; width > 0; width /= 2) {
        for (int j = 0; j < width; j++) { lanes[j] += lanes[j + width]; }
    }
    return lanes[0];
}

// The L2 norm of a whole family of gradients. A NaN or infinity anywhere makes it NaN or infinite.
static inline double grad_norm(const TensorTable* table, const real* grads) {
    static double* sums = NULL;  // one a block; grows, stays
    static size_t room = 0;
    size_t blocks = (table->total + ADAMW_BLOCK - 1) / ADAMW_BLOCK;
    if (blocks > room) {
        free(sums);
        sums = (double*)xalloc(blocks, sizeof(double), "the gradient norm");
        room = blocks;
    }
    double* out = sums;
#pragma omp parallel for schedule(static) if (table->total > SERIAL)
    for (size_t i = 0; i < blocks; i++) {
        size_t begin = i * ADAMW_BLOCK;
        out[i] = sum_of_squares(grads + begin, min_size(ADAMW_BLOCK, table->total - begin));
    }
    double sum = 0;
    for (size_t i = 0; i < blocks; i++) { sum += out[i]; }
    return sqrt(sum);
}

// x^n by squaring: the same double everywhere, unlike libm's pow.
static inline double power_integer(double x, int64_t n) {
    double y = 1;
    for (; n > 0; n /= 2) {
        if (n % 2) { y *= x; }
        x *= x;
    }
    return y;
}

// What gradients of this norm are multiplied by so that their norm is at most `clip` (0: off). The 1e-6 is that of
// torch.nn.utils.clip_grad_norm_: gradients whose norm is just `clip` already are made a little smaller.
static inline double clip_scale(double norm, double clip) {
    double scale = clip / (norm + 1e-6);
    return clip > 0 && scale < 1 ? scale : 1;
}

// The coefficients of one step, rounded once to the number type.
typedef struct {
    real grad_scale;
    real beta1, one_minus_beta1;
    real beta2, one_minus_beta2;
    real eps;
    real step;  // lr / (1 - beta1^t)
    real root;  // 1 / sqrt(1 - beta2^t)
    real keep;  // 1 - lr * weight_decay where decay applies, else 1
} AdamwStep;

// n numbers that share their decay (c.keep).
static inline void adamw_update_span(real* __restrict__ p, const real* __restrict__ g, real* __restrict__ m,
                                     real* __restrict__ v, size_t n, AdamwStep c) {
    for (size_t i = 0; i < n; i++) {
        real gi = g[i] * c.grad_scale;
        real mi = c.beta1 * m[i] + c.one_minus_beta1 * gi;
        real vi = c.beta2 * v[i] + c.one_minus_beta2 * (gi * gi);
        real denominator = real_sqrt(vi) * c.root + c.eps;
        p[i] = p[i] * c.keep - c.step * (mi / denominator);
        m[i] = mi;
        v[i] = vi;
    }
}

// The coefficients of step t (1 for the first). grad_scale: what the gradients are multiplied by, see clip_scale().
// keep is that of tensors with decay.
static inline AdamwStep adamw_step(double grad_scale, double lr, double beta1, double beta2, double eps,
                                   double weight_decay, int64_t t) {
    AdamwStep step;
    step.grad_scale = (real)grad_scale;
    step.beta1 = (real)beta1;
    step.one_minus_beta1 = (real)(1 - beta1);
    step.beta2 = (real)beta2;
    step.one_minus_beta2 = (real)(1 - beta2);
    step.eps = (real)eps;
    step.step = (real)(lr / (1 - power_integer(beta1, t)));
    step.root = (real)(1 / sqrt(1 - power_integer(beta2, t)));
    step.keep = (real)(1 - lr * weight_decay);
    return step;
}

// One step of AdamW. params, m, v: families, updated in place; grads: a family, only read.
static inline void adamw_update(const TensorTable* table, real* params, const real* grads, real* m, real* v,
                                const AdamwStep* step) {
    size_t blocks = (table->total + ADAMW_BLOCK - 1) / ADAMW_BLOCK;
#pragma omp parallel for schedule(static) if (table->total > SERIAL)
    for (size_t block = 0; block < blocks; block++) {
        size_t begin = block * ADAMW_BLOCK, end = min_size(begin + ADAMW_BLOCK, table->total);
        int low = 0, high = table->count;  // the last tensor that starts at or before `begin`
        while (high - low > 1) {
            int middle = (low + high) / 2;
            if (table->list[middle].offset <= begin) {
                low = middle;
            } else {
                high = middle;
            }
        }
        for (int i = low; i < table->count && table->list[i].offset < end; i++) {
            const Tensor* tensor = &table->list[i];
            size_t from = max_size(begin, tensor->offset), to = min_size(end, tensor->offset + tensor->size);
            if (from >= to) { continue; }
            AdamwStep c = *step;
            c.keep = tensor->decay ? step->keep : 1;
            adamw_update_span(params + from, grads + from, m + from, v + from, to - from, c);
        }
    }
}

// Number of warmup steps for a ratio.
static inline int64_t schedule_warmup(double ratio, int64_t steps) { return (int64_t)ceil(ratio * (double)steps); }

// The learning rate of the step after t finished ones, t = 0, 1, ...: from 0 up to lr in `warmup` steps,
// then by kind ("cosine", "linear" or "constant") down to min_ratio * lr at `steps`. Cosine and linear
// as in Hugging Face's Trainer, whose rates these are to the last digits.
static inline double schedule_lr(const char* kind, double lr, double min_ratio, int64_t warmup, int64_t steps,
                                 int64_t t) {
    if (t < warmup) { return lr * (double)t / (double)(warmup > 1 ? warmup : 1); }
    double q = (double)(t - warmup) / (double)(steps - warmup > 1 ? steps - warmup : 1);
    if (q > 1) { q = 1; }
    if (strcmp(kind, "cosine") == 0) {
        return lr * (min_ratio + (1 - min_ratio) * 0.5 * (1 + cos_d(3.14159265358979323846 * q)));
    }
    if (strcmp(kind, "linear") == 0) { return lr * (1 - (1 - min_ratio) * q); }
    if (strcmp(kind, "constant") == 0) { return lr; }
    die("learning-rate schedule '%s': expected cosine, linear or constant", kind);
}

#endif
