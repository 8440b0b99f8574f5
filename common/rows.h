// rows.h - reductions over a row of numbers, with the same bits on every machine.
//
// A sum depends on the order of its additions. Here the order is a rule: number i goes to lane
// i % 16, each lane adds its numbers in order, the lanes are folded 8, 4, 2, 1. Sixteen lanes are
// one AVX-512 register, two of AVX2, four of SSE: each machine runs the same additions.
#ifndef PONDER_ROWS_H
#define PONDER_ROWS_H

#include "base.h"
#include "mathfun.h"
#include "vec.h"

enum { LANES = 16 };

static inline real lanes_fold(real* lane) {
    for (int width = LANES / 2; width > 0; width /= 2) {
        for (int l = 0; l < width; l++) { lane[l] += lane[l + width]; }
    }
    return lane[0];
}

// sum of x(n)
static inline real row_sum(const real* x, size_t n) {
    real lane[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (size_t l = 0; l < LANES; l++) { lane[l] += x[i + l]; }
    }
    for (size_t l = 0; i + l < n; l++) { lane[l] += x[i + l]; }
    return lanes_fold(lane);
}

// sum of a(n) * b(n)
static inline real row_dot(const real* a, const real* b, size_t n) {
    real lane[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (size_t l = 0; l < LANES; l++) { lane[l] = real_fma(a[i + l], b[i + l], lane[l]); }
    }
    for (size_t l = 0; i + l < n; l++) { lane[l] = real_fma(a[i + l], b[i + l], lane[l]); }
    return lanes_fold(lane);
}

// sum of (x(n) - center)^2
static inline real row_squares(const real* x, real center, size_t n) {
    real lane[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (size_t l = 0; l < LANES; l++) {
            real d = x[i + l] - center;
            lane[l] = real_fma(d, d, lane[l]);
        }
    }
    for (size_t l = 0; i + l < n; l++) {
        real d = x[i + l] - center;
        lane[l] = real_fma(d, d, lane[l]);
    }
    return lanes_fold(lane);
}

// The largest of x(n), n > 0. A NaN may be passed over: whoever needs to see it must look at a
// sum over the row as well (softmax_row does).
static inline real row_max(const real* x, size_t n) {
    real lane[LANES];
    for (size_t l = 0; l < LANES; l++) { lane[l] = x[l < n ? l : 0]; }
    size_t i = LANES;
    for (; i + LANES <= n; i += LANES) {
        for (size_t l = 0; l < LANES; l++) { lane[l] = x[i + l] > lane[l] ? x[i + l] : lane[l]; }
    }
    for (size_t l = 0; i + l < n; l++) { lane[l] = x[i + l] > lane[l] ? x[i + l] : lane[l]; }
    real max = lane[0];
    for (size_t l = 1; l < LANES; l++) { max = lane[l] > max ? lane[l] : max; }
    return max;
}

// x(n) = softmax(x) in place; returns log(sum(exp(x))) of what was there. A NaN or +inf anywhere
// in the row makes the whole row and the result NaN.
static inline real softmax_row(real* x, size_t n) {
    real max = row_max(x, n);
    real lane[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (size_t l = 0; l < LANES; l++) {
            x[i + l] = real_exp(x[i + l] - max);
            lane[l] += x[i + l];
        }
    }
    for (size_t l = 0; i + l < n; l++) {
        x[i + l] = real_exp(x[i + l] - max);
        lane[l] += x[i + l];
    }
    real sum = lanes_fold(lane);
    real inverse = 1 / sum;
    for (size_t j = 0; j < n; j++) { x[j] *= inverse; }
    return max + real_log(sum);
}

// Sets all but the k largest of z(V) to -infinity; of equal ones the lower token ids stay.
// `heap` has room for k numbers. A row with a NaN becomes NaN at z[0], so that it stays seen.
static inline void keep_top_k(real* z, real* heap, size_t V, size_t k) {
    if (k == 0 || k >= V) { return; }
    // The k largest so far as a heap, smallest on top: at the end heap[0] is the k-th largest.
    for (size_t v = 0; v < V; v++) {
        size_t i;
        if (v < k) {  // grow: sift up
            for (i = v; i > 0 && heap[(i - 1) / 2] > z[v]; i = (i - 1) / 2) { heap[i] = heap[(i - 1) / 2]; }
        } else if (z[v] > heap[0]) {  // replace the top: sift down
            for (i = 0;;) {
                size_t child = 2 * i + 1;
                if (child >= k) { break; }
                if (child + 1 < k && heap[child + 1] < heap[child]) { child++; }
                if (heap[child] >= z[v]) { break; }
                heap[i] = heap[child];
                i = child;
            }
        } else {
            continue;
        }
        heap[i] = z[v];
    }
    real threshold = heap[0];
    size_t above = 0;
    int nan = 0;
    for (size_t v = 0; v < V; v++) { above += z[v] > threshold, nan |= z[v] != z[v]; }
    size_t ties = k - above;  // this many of those equal to the threshold stay
    for (size_t v = 0; v < V; v++) {
        if (z[v] > threshold) { continue; }
        if (z[v] == threshold && ties > 0) {
            ties--;
        } else {
            z[v] = -INFINITY;
        }
    }
    if (nan) { z[0] = NAN; }
}

// out (n) += inp (n)
static inline void row_add(real* out, const real* inp, size_t n) {
#pragma omp parallel for schedule(static) if (n > SERIAL)
    for (size_t i = 0; i < n; i++) { out[i] += inp[i]; }
}

// The C reference as a naive bf16 program: while this is 1, every layer rounds what the GPU stores as bf16 at its
// end. Its error is the measure for that of the bf16 kernels. A program that stores bf16 (KEPT) has rounded already.
static int stored_as_bf16;

static inline void stored(kept* x, size_t n) {
    if (KEPT_ROUNDS || !stored_as_bf16) { return; }
    for (size_t i = 0; i < n; i++) { x[i] = (kept)round_bf16((float)x[i]); }
}

// x (rows, columns) = what is stored at `from`, whose rows are ld numbers apart; and back, rounded.
static inline void kept_read(real* x, const kept* from, size_t ld, size_t rows, size_t columns) {
#pragma omp parallel for schedule(static) if (rows * columns > SERIAL)
    for (size_t r = 0; r < rows; r++) {
        for (size_t i = 0; i < columns; i++) { x[r * columns + i] = real_of_kept(from[r * ld + i]); }
    }
}
static inline void kept_write(kept* to, size_t ld, const real* x, size_t ldx, size_t rows, size_t columns) {
#pragma omp parallel for schedule(static) if (rows * columns > SERIAL)
    for (size_t r = 0; r < rows; r++) {
        for (size_t i = 0; i < columns; i++) { to[r * ld + i] = kept_of_real(x[r * ldx + i]); }
    }
}

// x (n) itself, or its rounded copy in work (n): for what the GPU has both in fp32 and, for products, as bf16. There is
// such work space where stored_copies() is 1.
static inline int stored_copies(void) { return GPU == 1 || KEPT_ROUNDS == 1 || stored_as_bf16; }
static inline const kept* stored_copy(kept* work, const real* x, size_t n) {
    if (!KEPT_ROUNDS && !stored_as_bf16) { return (const kept*)x; }
#pragma omp parallel for schedule(static) if (n > SERIAL)
    for (size_t i = 0; i < n; i++) { work[i] = kept_of_real(x[i]); }
    stored(work, n);
    return work;
}

// A row that is computed with in place: row_open() gives x (n) itself or, where it is stored rounded, its numbers in memory
// of this thread, one row for each `which`; row_close() stores what has become of it.
static inline real* row_open(kept* x, size_t n, int which) {
    static __thread real* memory[2];
    static __thread size_t room[2];
    if (!KEPT_ROUNDS) { return (real*)x; }
    if (n > room[which]) {
        free(memory[which]);
        memory[which] = (real*)xalloc(n, sizeof(real), "a row");
        room[which] = n;
    }
    for (size_t i = 0; i < n; i++) { memory[which][i] = real_of_kept(x[i]); }
    return memory[which];
}
static inline void row_close(kept* x, const real* row, size_t n) {
    for (size_t i = 0; i < n && KEPT_ROUNDS; i++) { x[i] = kept_of_real(row[i]); }
    stored(x, n);
}

// The index of the first of x(n) that is NaN or infinite, n if all are finite. A block at a time is judged
// as a whole; only one that fails is searched.
static inline size_t first_nonfinite(const real* x, size_t n) {
    enum { BLOCK = 4096 };
    for (size_t begin = 0; begin < n; begin += BLOCK) {
        // 0 * x is 0 for a finite x and NaN otherwise; -0 and 0 alike add nothing.
        size_t end = min_size(begin + BLOCK, n), i = begin;
        real lane[LANES] = {0};
        for (; i + LANES <= end; i += LANES) {
            for (size_t l = 0; l < LANES; l++) { lane[l] += 0 * x[i + l]; }
        }
        for (; i < end; i++) { lane[0] += 0 * x[i]; }
        if (lanes_fold(lane) == 0) { continue; }
        for (i = begin; 0 * x[i] == 0; i++) {}
        return i;
    }
    return n;
}

static inline int row_finite(const real* x, size_t n) { return first_nonfinite(x, n) == n; }

static inline int kept_finite(const kept* x, size_t n) {
    int finite = KEPT_ROUNDS || row_finite((const real*)x, n);
    for (size_t i = 0; i < n && KEPT_ROUNDS; i++) { finite &= 0 * real_of_kept(x[i]) == 0; }
    return finite;
}

#endif
