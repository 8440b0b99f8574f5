// gpu_attention.cu - tests of common/attention.cuh against the plain version of common/attention.h in double.
//
// Inputs are rounded to floatX first, so that both sides compute from the same numbers. The error may be twice
// that of a naive version in the same types (scores and sums in fp32; in bf16, probabilities and their
// gradients rounded before they are multiplied, outputs rounded) plus a small floor.
#undef REAL
#define REAL double
#include "../../common/attention.h"

#include "../../common/attention.cuh"
#include "../../common/device.cuh"
#include "test.h"

enum { SEPARATE, INTERLEAVED };  // [q heads | k heads | v heads | gap] or Pythia's [q k v] for each head
enum { GUARD = 64 };             // numbers before and after an array that nobody may touch
// Of a tolerance: as a share of the largest number, for sums in another order; and where that is 0, because
// what is added up cancels.
#ifdef FP32
enum { FLOOR_PER_MILLION = 4, ZERO_PER_MILLION = 1 };
#else
enum { FLOOR_PER_MILLION = 1000, ZERO_PER_MILLION = 10 };
#endif
#define POISON 0xff  // every byte: NaN in both types

// One problem. x and dx (B,T,row) hold q, k, v and the gap. Floats have been rounded to floatX.
typedef struct {
    int B, T, NH, NKV, HS, layout;
    size_t row, q_head, kv_head, k, v;  // k, v: where they begin in x
    size_t total, out_total, lse_total;
    float *x, *dout;
} Problem;

// All outputs as read back, and their raw bytes.
typedef struct {
    double *out, *lse, *dx;
    unsigned char* bytes;
    size_t size;
} Result;

static uint32_t seed;
static float uniform(void) {  // -1 .. 1
    seed = seed * 1664525u + 1013904223u;
    return (float)((double)(seed >> 8) / 8388608.0 - 1.0);
}

// x as floatX holds it, on the host.
static float as_x(float x) {
#ifdef FP32
    return x;
#else
    return host_float(__float2bfloat16_rn(x));
#endif
}

static Problem problem(int B, int T, int NH, int NKV, int HS, int layout, double size) {
    Problem p = {B, T, NH, NKV, HS, layout};
    size_t hs = (size_t)HS;
    if (layout == INTERLEAVED) {
        p.row = 3 * (size_t)NH * hs, p.q_head = p.kv_head = 3 * hs, p.k = hs, p.v = 2 * hs;
    } else {
        p.row = (size_t)(NH + 2 * NKV) * hs + 8, p.q_head = p.kv_head = hs, p.k = (size_t)NH * hs;
        p.v = p.k + (size_t)NKV * hs;
    }
    p.total = (size_t)B * (size_t)T * p.row;
    p.out_total = (size_t)B * (size_t)T * (size_t)NH * hs;
    p.lse_total = (size_t)B * (size_t)NH * (size_t)T;
    p.x = (float*)xalloc(p.total, sizeof(float), "a test");
    p.dout = (float*)xalloc(p.out_total, sizeof(float), "a test");
    seed = (uint32_t)(T * 131 + HS * 7 + NH);
    for (size_t i = 0; i < p.total; i++) { p.x[i] = as_x((float)size * uniform()); }
    for (size_t i = 0; i < p.out_total; i++) { p.dout[i] = as_x(uniform()); }
    return p;
}
static void problem_free(Problem* p) { free(p->x), free(p->dout); }

static Result result(const Problem* p) {
    Result r;
    r.size = (2 * (p->total + p->out_total) + 4 * GUARD) * sizeof(floatX) + (2 * p->lse_total + 4 * GUARD) * 4;
    r.out = (double*)xalloc(p->out_total, sizeof(double), "a test");
    r.lse = (double*)xalloc(p->lse_total, sizeof(double), "a test");
    r.dx = (double*)xalloc(p->total, sizeof(double), "a test");
    r.bytes = (unsigned char*)xalloc(r.size, 1, "a test");
    return r;
}
static void result_free(Result* r) { free(r->out), free(r->lse), free(r->dx), free(r->bytes); }

// Which array of run_gpu, in the order in which it makes them (0 x, 1 dout, 2 out, 3 lse, 4 delta, 5 dx), begins one
// number past an aligned address; -1: none.
static int unaligned_array = -1, arrays_made;
static const void* unaligned_base;

// n numbers of floatX on the GPU; `shift` numbers beyond an aligned address.
static floatX* upload(const float* from, size_t n, size_t shift, floatX** base) {
    if (arrays_made++ % 6 == unaligned_array) { shift = 1; }
    floatX* host = (floatX*)xalloc(n, sizeof(floatX), "a test");
    for (size_t i = 0; i < n; i++) {
#ifdef FP32
        host[i] = from[i];
#else
        host[i] = __float2bfloat16_rn(from[i]);
#endif
    }
    CUDA_CHECK(cudaMalloc(base, (n + shift) * sizeof(floatX)));
    CUDA_CHECK(cudaMemcpy(*base + shift, host, n * sizeof(floatX), cudaMemcpyHostToDevice));
    free(host);
    return *base + shift;
}

// An output of `bytes` bytes with guards around it, all poisoned.
static void* output(size_t bytes, size_t guard, void** base) {
    unsigned char* p = NULL;
    const int unaligned = arrays_made++ % 6 == unaligned_array;
    const size_t shift = unaligned ? guard / GUARD : 0;
    CUDA_CHECK(cudaMalloc(&p, shift + bytes + 2 * guard));
    CUDA_CHECK(cudaMemsetAsync(p, POISON, shift + bytes + 2 * guard, device.stream));
    *base = p;
    if (unaligned) { unaligned_base = p; }
    return p + shift + guard;
}
// Reads it back, checks the guards, frees it.
static void take(unsigned char* to, void* base, size_t bytes, size_t guard, const char* what) {
    unsigned char* all = (unsigned char*)xalloc(bytes + 2 * guard, 1, "a test");
    const size_t shift = base == unaligned_base ? guard / GUARD : 0;
    CUDA_CHECK(cudaMemcpy(all, (unsigned char*)base + shift, bytes + 2 * guard, cudaMemcpyDeviceToHost));
    int touched = 0;
    for (size_t i = 0; i < guard; i++) { touched |= all[i] != POISON || all[guard + bytes + i] != POISON; }
    CHECK(!touched, "%s: written beyond its ends", what);
    memcpy(to, all + guard, bytes);
    free(all);
    if (shift) { unaligned_base = NULL; }
    CUDA_CHECK(cudaFree(base));
}

// Forward and backward on the GPU. shift: numbers by which x is moved off its alignment.
static void run_gpu(const Problem* p, Result* r, size_t shift) {
    floatX *x_base, *dout_base;
    floatX *x = upload(p->x, p->total, shift, &x_base), *dout = upload(p->dout, p->out_total, 0, &dout_base);
    const size_t guard = GUARD * sizeof(floatX), x_bytes = p->total * sizeof(floatX);
    const size_t out_bytes = p->out_total * sizeof(floatX), lse_bytes = p->lse_total * 4;
    void *out_base, *lse_base, *delta_base, *dx_base;
    floatX* out = (floatX*)output(out_bytes, guard, &out_base);
    float* lse = (float*)output(lse_bytes, GUARD * 4, &lse_base);
    float* delta = (float*)output(lse_bytes, GUARD * 4, &delta_base);
    floatX* dx = (floatX*)output(x_bytes, guard, &dx_base);
    const size_t B = (size_t)p->B, T = (size_t)p->T, NH = (size_t)p->NH, NKV = (size_t)p->NKV, HS = (size_t)p->HS;
    attention_forward_cuda(out, lse, x, x + p->k, x + p->v, B, T, NH, NKV, HS, p->row, p->q_head, p->kv_head);
    attention_backward_cuda(dx, dx + p->k, dx + p->v, delta, dout, x, x + p->k, x + p->v, out, lse, B, T, NH, NKV, HS,
                            p->row, p->q_head, p->kv_head);
    CUDA_CHECK(cudaStreamSynchronize(device.stream));
    unsigned char *out_at = r->bytes, *dx_at = out_at + out_bytes, *lse_at = dx_at + x_bytes,
                  *delta_at = lse_at + lse_bytes;
    take(out_at, out_base, out_bytes, guard, "out");
    take(dx_at, dx_base, x_bytes, guard, "dx");
    take(lse_at, lse_base, lse_bytes, GUARD * 4, "lse");
    take(delta_at, delta_base, lse_bytes, GUARD * 4, "delta");
    for (size_t i = 0; i < p->out_total; i++) { r->out[i] = (double)host_float(((floatX*)out_at)[i]); }
    for (size_t i = 0; i < p->total; i++) { r->dx[i] = (double)host_float(((floatX*)dx_at)[i]); }
    for (size_t i = 0; i < p->lse_total; i++) { r->lse[i] = (double)((float*)lse_at)[i]; }
    if (p->layout == SEPARATE) {  // the gap after v
        int touched = 0;
        for (size_t n = 0; n < (size_t)(p->B * p->T); n++) {
            for (size_t i = (n + 1) * p->row - 8; i < (n + 1) * p->row; i++) {
                for (size_t j = 0; j < sizeof(floatX); j++) { touched |= dx_at[i * sizeof(floatX) + j] != POISON; }
                r->dx[i] = 0;
            }
        }
        CHECK(!touched, "what lies between the vectors of dq, dk, dv was written");
    }
    CUDA_CHECK(cudaFree(x_base));
    CUDA_CHECK(cudaFree(dout_base));
}

// The plain version of attention.h, in double.
static void run_reference(const Problem* p, Result* r) {
    double *x = (double*)xalloc(p->total, sizeof(double), "a test"),
           *dout = (double*)xalloc(p->out_total, sizeof(double), "a test");
    for (size_t i = 0; i < p->total; i++) { x[i] = (double)p->x[i], r->dx[i] = 0; }
    for (size_t i = 0; i < p->out_total; i++) { dout[i] = (double)p->dout[i]; }
    attention_forward_reference(r->out, r->lse, x, x + p->k, x + p->v, p->B, p->T, p->NH, p->NKV, p->HS, p->row,
                                p->q_head, p->kv_head);
    attention_backward_reference(r->dx, r->dx + p->k, r->dx + p->v, dout, x, x + p->k, x + p->v, r->out, r->lse, p->B,
                                 p->T, p->NH, p->NKV, p->HS, p->row, p->q_head, p->kv_head);
    free(x), free(dout);
}

// The naive version: the plain one in float, rounding what a program of bf16 products would round (nothing in
// the fp32 program).
static void run_naive(const Problem* p, Result* r) {
    const int T = p->T, NH = p->NH, HS = p->HS;
    const float scale = 1 / sqrtf((float)HS);
    float* prob = (float*)xalloc((size_t)T, 4, "a test");
    float* sums = (float*)xalloc((size_t)HS, 4, "a test");
    float* dx = (float*)xalloc(p->total, 4, "a test");
    for (int bh = 0; bh < p->B * NH; bh++) {
        const size_t b = (size_t)(bh / NH), h = (size_t)(bh % NH), head = h / (size_t)(NH / p->NKV) * p->kv_head;
        for (int i = 0; i < T; i++) {
            const size_t at = (b * (size_t)T + (size_t)i) * p->row + h * p->q_head;
            const size_t out_at = ((b * (size_t)T + (size_t)i) * (size_t)NH + h) * (size_t)HS;
            float most = -INFINITY, sum = 0, delta = 0;
            for (int j = 0; j <= i; j++) {
                const float* key = p->x + (b * (size_t)T + (size_t)j) * p->row + head + p->k;
                prob[j] = 0;
                for (int d = 0; d < HS; d++) { prob[j] += p->x[at + (size_t)d] * key[d]; }
                prob[j] *= scale;
                if (prob[j] > most) { most = prob[j]; }
            }
            for (int j = 0; j <= i; j++) { sum += expf(prob[j] - most); }
            const float l = most + logf(sum);
            r->lse[(b * (size_t)NH + h) * (size_t)T + (size_t)i] = (double)l;
            for (int d = 0; d < HS; d++) { sums[d] = 0; }
            for (int j = 0; j <= i; j++) {
                const float* value = p->x + (b * (size_t)T + (size_t)j) * p->row + head + p->v;
                prob[j] = expf(prob[j] - l);
                for (int d = 0; d < HS; d++) { sums[d] += as_x(prob[j]) * value[d]; }
            }
            for (int d = 0; d < HS; d++) {
                r->out[out_at + (size_t)d] = (double)as_x(sums[d]);
                delta += as_x(sums[d]) * p->dout[out_at + (size_t)d];
            }
            for (int j = 0; j <= i; j++) {
                const size_t kv = (b * (size_t)T + (size_t)j) * p->row + head;
                float dp = 0;
                for (int d = 0; d < HS; d++) { dp += p->dout[out_at + (size_t)d] * p->x[kv + p->v + (size_t)d]; }
                const float ds = as_x(prob[j] * (dp - delta)), pj = as_x(prob[j]);
                for (int d = 0; d < HS; d++) {
                    dx[kv + p->v + (size_t)d] += pj * p->dout[out_at + (size_t)d];
                    dx[at + (size_t)d] += scale * ds * p->x[kv + p->k + (size_t)d];
                    dx[kv + p->k + (size_t)d] += scale * ds * p->x[at + (size_t)d];
                }
            }
        }
    }
    for (size_t i = 0; i < p->total; i++) { r->dx[i] = (double)as_x(dx[i]); }
    free(prob), free(sums), free(dx);
}

// Which number of x belongs to what: 0 q, 1 k, 2 v, 3 a gap.
static int kind_of(const Problem* p, size_t i) {
    size_t at = i % p->row, hs = (size_t)p->HS;
    if (p->layout == INTERLEAVED) { return (int)(at / hs % 3); }
    const int kind = at < p->k ? 0 : at < p->v ? 1 : 2;
    const size_t from = kind == 0 ? 0 : kind == 1 ? p->k : p->v, apart = kind ? p->kv_head : p->q_head;
    const size_t heads = (size_t)(kind ? p->NKV : p->NH);
    return (at - from) / apart < heads && (at - from) % apart < hs ? kind : 3;
}

// Largest and root mean square error of the numbers of one kind (-1: all), and the same of what is wanted.
// NaN stays NaN.
typedef struct {
    double most, rms, want_most, want_rms;
} Errors;
static Errors errors(const Problem* p, const double* got, const double* want, size_t n, int kind) {
    Errors e = {0, 0, 0, 0};
    double count = 0;
    for (size_t i = 0; i < n; i++) {
        if (kind >= 0 && kind_of(p, i) != kind) { continue; }
        double diff = fabs(got[i] - want[i]);
        if (!(diff <= e.most)) { e.most = e.most != e.most ? e.most : diff; }
        if (fabs(want[i]) > e.want_most) { e.want_most = fabs(want[i]); }
        e.rms += diff * diff, e.want_rms += want[i] * want[i], count++;
    }
    e.rms = sqrt(e.rms / count), e.want_rms = sqrt(e.want_rms / count);
    return e;
}

// The worst share of a tolerance used so far, and the error there, for each output.
enum { OUTPUTS = 5 };
static const char* const output_names[OUTPUTS] = {"out", "lse", "dq", "dk", "dv"};
static struct {
    double share, error, naive;
    char where[96];
} worst[OUTPUTS];

static void judge(const Problem* p, int which, const double* got, const double* want, const double* naive, size_t n,
                  int kind) {
    Errors e = errors(p, got, want, n, kind);
    double scale = e.want_most, allowed, error = e.most, rms_allowed = INFINITY, of_naive = 0;
    if (which == 1) {
        allowed = 1e-6 * (scale > 1 ? scale : 1) * (1 + sqrt((double)p->HS) / 4);
    } else {
        Errors of = errors(p, naive, want, n, kind);
        of_naive = of.most;
        allowed = 2 * of.most + (FLOOR_PER_MILLION * scale + ZERO_PER_MILLION) * 1e-6;
        rms_allowed = 2 * of.rms + (FLOOR_PER_MILLION / 10.0 * e.want_rms + ZERO_PER_MILLION) * 1e-6;
    }
    CHECK(error <= allowed && e.rms <= rms_allowed,
          "%s, B=%d T=%d NH=%d NKV=%d HS=%d %s: error %.3g, allowed %.3g; rms %.3g, allowed %.3g; largest %.3g",
          output_names[which], p->B, p->T, p->NH, p->NKV, p->HS, p->layout ? "interleaved" : "separate", error, allowed,
          e.rms, rms_allowed, scale);
    double share = error / allowed > e.rms / rms_allowed ? error / allowed : e.rms / rms_allowed;
    if (!(share <= worst[which].share)) {
        worst[which].share = share;
        worst[which].error = scale > 0 ? error / scale : error;
        worst[which].naive = scale > 0 ? of_naive / scale : of_naive;
        snprintf(worst[which].where, sizeof worst[which].where, "T=%d HS=%d NH=%d/%d", p->T, p->HS, p->NH, p->NKV);
    }
}

static void judge_all(const Problem* p, const Result* got, const Result* want, const Result* naive) {
    judge(p, 0, got->out, want->out, naive->out, p->out_total, -1);
    judge(p, 1, got->lse, want->lse, NULL, p->lse_total, -1);
    for (int kind = 0; kind < 3; kind++) { judge(p, 2 + kind, got->dx, want->dx, naive->dx, p->total, kind); }
}

static void compare_problem(const Problem* p, size_t shift) {
    Result got = result(p), want = result(p), naive = result(p);
    run_gpu(p, &got, shift);
    run_reference(p, &want);
    run_naive(p, &naive);
    judge_all(p, &got, &want, &naive);
    result_free(&got), result_free(&want), result_free(&naive);
}
static void compare(int B, int T, int NH, int NKV, int HS, int layout, double size, size_t shift) {
    Problem p = problem(B, T, NH, NKV, HS, layout, size);
    compare_problem(&p, shift);
    problem_free(&p);
}
// Inputs of this size have scores of a standard deviation of usual^2 / 3, for every head size.
static const double usual = 2;
static void compare_usual(int B, int T, int NH, int NKV, int HS, int layout) {
    compare(B, T, NH, NKV, HS, layout, usual, 0);
}

// ---- tests ----

// Every head size, at a length that leaves nothing whole.
static void test_head_sizes(void) {
    static const int sizes[] = {1, 4, 8, 16, 20, 32, 40, 64, 80, 96, 112, 128, 200, 256};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        compare_usual(1, 37, sizes[i] > 64 ? 1 : 2, 1, sizes[i], SEPARATE);
    }
}

// Every length around the sides of tiles: small heads for all, and each class beyond one block.
static void test_lengths(void) {
    static const int lengths[] = {1, 2, 7, 31, 32, 33, 63, 64, 65, 100, 127, 130};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        // Few positions come several times: one row's rounding errors alone are no measure of the naive version's.
        compare_usual(1 + 16 / lengths[i], lengths[i], 1, 1, 32, INTERLEAVED);
    }
    static const int sizes[] = {40, 80, 128, 256};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) { compare_usual(1, 130, 1, 1, sizes[i], INTERLEAVED); }
    compare_usual(1, 1, 1, 1, 64, INTERLEAVED);
    compare_usual(1, 65, 1, 1, 96, INTERLEAVED);
    compare_usual(1, 33, 1, 1, 200, INTERLEAVED);
    compare_usual(1, 300, 1, 1, 8, SEPARATE);
}

// Several batch rows, heads and groups, in both layouts.
static void test_heads(void) {
    compare_usual(2, 33, 3, 3, 32, INTERLEAVED);
    compare_usual(2, 40, 4, 2, 64, SEPARATE);
    compare_usual(2, 70, 4, 1, 24, SEPARATE);
    compare_usual(2, 33, 2, 1, 80, SEPARATE);
    compare_usual(1, 35, 2, 1, 256, SEPARATE);
    compare_usual(2, 33, 4, 2, 12, SEPARATE);
    compare_usual(2, 40, 3, 3, 20, INTERLEAVED);
    compare(1, 40, 2, 2, 32, INTERLEAVED, usual, 1);  // addresses that are not aligned
}

// Rows and heads that lie further apart than they must. Only multiples of 16 bytes are for the tensor cores.
static void compare_apart(int NH, int NKV, int HS, size_t more, size_t q_apart, size_t kv_apart) {
    Problem p = problem(2, 33, NH, NKV, HS, SEPARATE, usual);
    const size_t hs = (size_t)HS;
    free(p.x);
    p.q_head = hs + q_apart, p.kv_head = hs + kv_apart;
    p.k = (size_t)NH * p.q_head, p.v = p.k + (size_t)NKV * p.kv_head, p.row = p.v + (size_t)NKV * p.kv_head + 8 + more;
    p.total = 2 * 33 * p.row;
    p.x = (float*)xalloc(p.total, sizeof(float), "a test");
    for (size_t i = 0; i < p.total; i++) { p.x[i] = as_x((float)usual * uniform()); }
    compare_problem(&p, 0);
    // What lies between the heads is not written: the bytes of dx follow those of out.
    Result r = result(&p);
    run_gpu(&p, &r, 0);
    const unsigned char* dx = r.bytes + p.out_total * sizeof(floatX);
    int touched = 0;
    for (size_t i = 0; i < p.total * sizeof(floatX); i++) {
        touched |= kind_of(&p, i / sizeof(floatX)) == 3 && dx[i] != POISON;
    }
    CHECK(!touched, "NH=%d/%d HS=%d, %zu %zu %zu apart: what lies between the heads was written", NH, NKV, HS, more,
          q_apart, kv_apart);
    result_free(&r);
    problem_free(&p);
}
static void test_distances(void) {
    compare_apart(2, 1, 32, 8, 8, 24);
    compare_apart(1, 1, 32, 1, 0, 0);
    compare_apart(2, 2, 32, 0, 4, 0);
    compare_apart(2, 2, 32, 0, 0, 4);
}

// Each array alone not aligned.
static void test_unaligned(void) {
    for (unaligned_array = 0; unaligned_array < 6; unaligned_array++) {
        compare(1, 36, 2, 2, 32, INTERLEAVED, usual, 0);
    }
    unaligned_array = -1;
}

// While the kernels for Hopper are tested: the tests below leave out sizes that these do not know.
static int wide_sizes_alone;
static int left_out(int HS) { return wide_sizes_alone && HS != 64 && HS != 80 && HS != 96 && HS != 128; }

// Scores up to about +-60: sums of exp stay finite, and one key takes nearly all.
static void test_large_scores(void) {
    static const int sizes[] = {20, 64, 128};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const int HS = sizes[i], T = 70;
        if (left_out(HS)) { continue; }
        const double size = 4 * usual;
        Problem p = problem(1, T, 1, 1, HS, INTERLEAVED, size);
        double largest = 0;  // the scores really are that large
        for (int t = 0; t < T; t++) {
            double s = 0;
            for (int d = 0; d < HS; d++) {
                s += (double)p.x[(size_t)t * p.row + (size_t)d] * (double)p.x[p.k + (size_t)d];
            }
            largest = fmax(largest, fabs(s) / sqrt((double)HS));
        }
        CHECK(largest > 40, "scores go to %g only", largest);
        problem_free(&p);
        compare(1, T, 1, 1, HS, INTERLEAVED, size, 0);
    }
}

// All scores near -120: exp(-lse) is infinite, and must not meet the zeros past the end, which have score 0.
static void test_negative_scores(void) {
    static const int sizes[] = {20, 64, 80, 128}, lengths[] = {67, 68};
    for (size_t i = 0; i < 8; i++) {
        const int HS = sizes[i / 2];
        if (left_out(HS)) { continue; }
        Problem p = problem(1, lengths[i % 2], 1, 1, HS, INTERLEAVED, 0.2);
        const float far = (float)sqrt(120 / sqrt((double)HS));
        for (size_t n = 0; n < p.total; n++) {
            const int kind = kind_of(&p, n);
            p.x[n] = as_x(p.x[n] + (kind == 0 ? far : kind == 1 ? -far : 0));
        }
        compare_problem(&p, 0);
        problem_free(&p);
    }
}

// The same bits again, every byte of all outputs, whatever the scratch held.
static void same_bits(int B, int T, int NH, int NKV, int HS) {
    Problem p = problem(B, T, NH, NKV, HS, SEPARATE, usual);
    Result a = result(&p), b = result(&p);
    run_gpu(&p, &a, 0);
    run_gpu(&p, &b, 0);
    CHECK(memcmp(a.bytes, b.bytes, a.size) == 0, "T=%d HS=%d: two runs differ", T, HS);
    result_free(&a), result_free(&b);
    problem_free(&p);
}
static void test_same_bits(void) {
    static const int sizes[] = {20, 32, 64, 96, 128, 256};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        if (!left_out(sizes[i])) { same_bits(1, 67, 2, 1, sizes[i]); }
    }
}

// Later positions change no bit of earlier outputs.
static void test_causal(void) {
    static const int sizes[] = {20, 64, 128, 256};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const int T = 70, cut = 37;
        if (left_out(sizes[i])) { continue; }
        Problem p = problem(1, T, 1, 1, sizes[i], INTERLEAVED, usual);
        Result a = result(&p), b = result(&p);
        run_gpu(&p, &a, 0);
        for (size_t n = (size_t)cut * p.row; n < p.total; n++) { p.x[n] = as_x(3 * uniform()); }
        run_gpu(&p, &b, 0);
        const size_t bytes = (size_t)cut * (size_t)sizes[i] * sizeof(double);
        CHECK(memcmp(a.out, b.out, bytes) == 0, "HS=%d: out at positions before %d changed", sizes[i], cut);
        CHECK(memcmp(a.lse, b.lse, (size_t)cut * sizeof(double)) == 0, "HS=%d: lse before %d changed", sizes[i], cut);
        CHECK(memcmp(a.out + (size_t)cut * (size_t)sizes[i], b.out + (size_t)cut * (size_t)sizes[i],
                     bytes / (size_t)cut) != 0,
              "HS=%d: out at position %d did not change", sizes[i], cut);
        // Nor do values so large that their products with dout are infinite, although finite numbers themselves; in
        // kernels for warpgroups they do: to leave out what is masked a second time would serialise their products.
        run_gpu(&p, &a, 0);
        for (size_t n = (size_t)cut * p.row; n < p.total; n++) {
            if (kind_of(&p, n) == 2) { p.x[n] = as_x(3e38f); }
        }
        run_gpu(&p, &b, 0);
        CHECK(memcmp(a.out, b.out, bytes) == 0, "HS=%d: large values changed out before %d", sizes[i], cut);
        for (int t = 0; t < cut && !wide_sizes_alone; t++) {
            const size_t at = (size_t)t * p.row;
            CHECK(memcmp(a.dx + at, b.dx + at, (size_t)sizes[i] * sizeof a.dx[0]) == 0,
                  "HS=%d: large values changed dq at %d", sizes[i], t);
        }
        result_free(&a), result_free(&b);
        problem_free(&p);
    }
}

// Row t of dx of one kind (or of out, kind 3): how many of its HS numbers are NaN.
static int nans(const Problem* p, const Result* r, int kind, int t) {
    int count = 0;
    for (size_t d = 0; d < (size_t)p->HS; d++) {
        double x = kind == 3   ? r->out[(size_t)t * (size_t)p->HS + d]
                   : kind == 4 ? r->lse[t]
                               : r->dx[(size_t)t * p->row +
                                       (kind == 0   ? 0
                                        : kind == 1 ? p->k
                                                    : p->v) +
                                       d];
        count += x != x;
    }
    return count;
}

// A NaN anywhere in an input comes out wherever the formulas say so, and where they forbid it for all
// kernels it does not: in other queries (q), in earlier positions (k).
static void test_nan(void) {
    static const int sizes[] = {20, 64, 80, 128, 256};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const int HS = sizes[i], T = 70, at = 40;
        if (left_out(HS)) { continue; }
        for (int kind = 0; kind < 4; kind++) {  // q, k, v, dout
            Problem p = problem(1, T, 1, 1, HS, INTERLEAVED, usual);
            const size_t d = (size_t)(HS - 1);
            if (kind == 3) {
                p.dout[(size_t)at * (size_t)HS + d] = NAN;
            } else {
                p.x[(size_t)at * p.row + (kind == 0 ? 0 : kind == 1 ? p.k : p.v) + d] = NAN;
            }
            Result r = result(&p);
            run_gpu(&p, &r, 0);
            for (int t = 0; t < T; t++) {
                const int self = t == at, before = t <= at, after = t >= at;
                const int out = nans(&p, &r, 3, t), lse = nans(&p, &r, 4, t);
                int good = 1;
                if (kind == 0) { good = out == (self ? HS : 0) && lse == out; }
                if (kind == 1) { good = out == (after ? HS : 0) && lse == out; }
                if (kind == 2) { good = (!after || out == 1) && lse == 0; }
                if (kind == 3) { good = out == 0 && lse == 0; }
                CHECK(good, "HS=%d, NaN in input %d at %d: out has %d NaNs at %d, lse %d", HS, kind, at, out, t, lse);
                const int dq = nans(&p, &r, 0, t), dk = nans(&p, &r, 1, t), dv = nans(&p, &r, 2, t);
                good = 1;
                if (kind == 0 || kind == 3) { good = (!self || dq == HS) && (!before || (dk == HS && dv > 0)); }
                if (kind == 1 || kind == 2) { good = !after || dq == HS; }
                if (kind == 0) { good = good && (self || dq == 0); }
                CHECK(good, "HS=%d, NaN in input %d at %d: dq, dk, dv have %d, %d, %d NaNs at %d", HS, kind, at, dq, dk,
                      dv, t);
            }
            result_free(&r);
            problem_free(&p);
        }
    }
}

// What is booked: 2 products forwards, 4 and 3 backwards, and the dot products of delta.
static void test_ledger(void) {
    static const int sizes[] = {20, 32};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const double T = 5, heads = 2 * 4, HS = sizes[i], product = 2 * HS * heads * T * (T + 1) / 2;
        Problem p = problem(2, 5, 4, 2, sizes[i], SEPARATE, 1);
        Result r = result(&p);
        ledger_clear();
        ledger.booking = 1;
        run_gpu(&p, &r, 0);
        ledger.booking = 0;
        CHECK(ledger.rows == 4, "%d kernels booked, expected 4", ledger.rows);
        const double want[4] = {2 * product, 2 * HS * heads * T, 4 * product, 3 * product};
        for (int k = 0; k < ledger.rows && k < 4; k++) {
            CHECK(ledger.row[k].flops == want[k], "%s: %g FLOPs booked, expected %g", ledger.row[k].name,
                  ledger.row[k].flops, want[k]);
            CHECK(ledger.row[k].product == (k != 1 && HS == 32 && sizeof(floatX) == 2), "%s: on the tensor cores? %d",
                  ledger.row[k].name, ledger.row[k].product);
        }
        result_free(&r);
        problem_free(&p);
    }
}

// The bytes booked are those of the tensors: forwards q, k, v, out and lse; backwards dout and out for delta; q, dout,
// k, v, lse, delta for dk and dv; the same for dq.
static void test_ledger_bytes(void) {
    static const int sizes[] = {20, 32};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const double rows = 2 * 5, q = rows * 4 * sizes[i] * (double)sizeof(floatX), statistic = rows * 4 * 4;
        const double kv = q / 2;  // two heads instead of four
        Problem p = problem(2, 5, 4, 2, sizes[i], SEPARATE, 1);
        Result r = result(&p);
        ledger_clear();
        ledger.booking = 1;
        run_gpu(&p, &r, 0);
        ledger.booking = 0;
        const double want[4] = {2 * q + 2 * kv + statistic, 2 * q + statistic, 2 * q + 4 * kv + 2 * statistic,
                                3 * q + 2 * kv + 2 * statistic};
        CHECK(ledger.rows == 4, "%d kernels booked, expected 4", ledger.rows);
        for (int k = 0; k < ledger.rows && k < 4; k++) {
            CHECK(ledger.row[k].bytes == want[k], "%s: %g bytes booked, expected %g", ledger.row[k].name,
                  ledger.row[k].bytes, want[k]);
        }
        result_free(&r);
        problem_free(&p);
    }
}

#ifndef FP32
// The tiles for cards of 100 KB a multiprocessor, at every head size that has some of its own: lengths beyond one block
// and around the sides of tiles, groups of heads.
static void test_small_tiles(void) {
    attention_tiles = 1;
    static const int sizes[] = {40, 64, 72, 96, 104, 128};
    static const int lengths[] = {1, 31, 33, 65, 130};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        for (size_t j = 0; j < sizeof lengths / sizeof lengths[0]; j++) {
            if (i % 2 == 0 && j % 2 == 0 && lengths[j] != 65) { continue; }
            compare_usual(1 + 8 / lengths[j], lengths[j], 1, 1, sizes[i], INTERLEAVED);
        }
    }
    compare_usual(2, 40, 4, 2, 64, SEPARATE);
    compare_usual(1, 40, 4, 2, 96, SEPARATE);
    compare_usual(1, 33, 2, 1, 128, SEPARATE);
    attention_tiles = 0;
}

// Which set a card gets, and that two blocks of the small one find room where those of the other do not.
static void test_tile_sets(void) {
    const size_t before = device.shared;
    attention_tiles = -1;
    static const struct {
        size_t kilobytes;
        int small;
    } cards[] = {{100, 1}, {164, 0}, {228, 0}, {0, 0}};  // 0: a dry run, without a card
    for (size_t i = 0; i < sizeof cards / sizeof cards[0]; i++) {
        device.shared = cards[i].kilobytes << 10;
        CHECK(attention_small() == cards[i].small, "%zu KB: set %d", cards[i].kilobytes, attention_small());
    }
    device.shared = before;
    attention_tiles = 0;
    const int two = 49 << 10;  // bytes: half of 100 KB, less the system's 1 KB
    CHECK(AttentionSets<96>::forward && AttentionSets<128>::forward && !AttentionSets<64>::forward, "forward");
    CHECK(AttentionSets<64>::keys && AttentionSets<96>::keys && AttentionSets<64>::queries &&
              AttentionSets<128>::queries,
          "backward");
    const int bytes[2][2] = {{ForwardTiles<128, 0>::bytes, ForwardTiles<128, 1>::bytes},
                             {BackwardTiles<64, KEYS, 0>::bytes, BackwardTiles<64, KEYS, 1>::bytes}};
    for (int i = 0; i < 2; i++) {
        CHECK(bytes[i][0] > two && bytes[i][1] <= two, "%s: %d bytes, small %d", i ? "backward, 64" : "forward, 128",
              bytes[i][0], bytes[i][1]);
    }
}
#endif

#ifndef FP32
// The kernels for Hopper, wherever they can run: lengths beyond one block and around the sides of tiles and warpgroups,
// groups of heads, both layouts, and what the other kernels are asked above.
static int wide_or_skip(void) {
#ifndef __CUDACC__
    setenv("EMULATE_SM", "90", 1);
    device.sm = 90;
#endif
    attention_wide = 1;
    if (attention_is_wide(64)) { return 1; }
    test_skip("needs compute capability 9.0 and a program built for sm_90a");
    return 0;
}
static void test_wide_lengths(void) {
    static const int lengths[] = {1, 37, 63, 64, 65, 127, 130, 200, 331};
    for (size_t i = 0; wide_or_skip() && i < sizeof lengths / sizeof lengths[0]; i++) {
#ifdef EMULATE_SLOW
        if (lengths[i] > 130) { continue; }
#endif
        compare_usual(1 + 16 / lengths[i], lengths[i], 1, 1, 64, INTERLEAVED);
        compare_usual(1 + 16 / lengths[i], lengths[i], 1, 1, 128, INTERLEAVED);
        if (i % 2) { compare_usual(1 + 16 / lengths[i], lengths[i], 1, 1, 80, INTERLEAVED); }
    }
    // So many tiles that every ring of slots is used again.
    if (wide_or_skip()) {
        compare_usual(1, 330, 1, 1, 128, INTERLEAVED);
#ifndef EMULATE_SLOW
        compare_usual(1, 700, 1, 1, 64, INTERLEAVED);
        compare_usual(1, 330, 1, 1, 96, INTERLEAVED);
#endif
    }
#ifdef __CUDACC__
    if (wide_or_skip()) {
        compare_usual(1, 2048, 1, 1, 64, INTERLEAVED);
        compare_usual(1, 2048, 1, 1, 128, INTERLEAVED);
        compare_usual(1, 1000, 3, 1, 80, SEPARATE);
        same_bits(2, 1023, 8, 2, 64);
        same_bits(2, 1023, 8, 2, 128);
    }
#endif
}
static void test_wide_heads(void) {
    if (!wide_or_skip()) { return; }
    compare_usual(2, 70, 4, 2, 64, SEPARATE);
    compare_usual(1, 140, 3, 1, 64, SEPARATE);
    compare_usual(1, 130, 3, 1, 128, SEPARATE);
    compare_usual(2, 33, 3, 3, 128, INTERLEAVED);
    compare_usual(1, 140, 4, 2, 96, SEPARATE);
    compare_usual(1, 70, 3, 1, 80, SEPARATE);
    compare_apart(2, 1, 64, 8, 8, 24);
    compare_apart(2, 2, 128, 0, 8, 0);
}
static void test_wide_numbers(void) {
    wide_sizes_alone = 1;
    if (wide_or_skip()) { test_large_scores(), test_negative_scores(), test_same_bits(), test_causal(), test_nan(); }
    wide_sizes_alone = 0;
}
// Which kernels are taken.
static void test_wide_choice(void) {
    if (!wide_or_skip()) { return; }
    static const int sizes[] = {40, 64, 80, 88, 96, 104, 128, 256};
    for (size_t i = 0; i < 32; i++) {
        const int HS = sizes[i % 8], old = i / 8 % 2, unaligned = i / 16 % 2;
        const int known = HS == 64 || HS == 80 || HS == 96 || HS == 128;
        Problem p = problem(1, 5, 2, 1, HS, SEPARATE, usual);
        Result r = result(&p);
        device.sm = old ? 89 : 90;
        ledger_clear();
        ledger.booking = 1;
        run_gpu(&p, &r, (size_t)unaligned);
        ledger.booking = 0, device.sm = 90;
        for (int k = 0; k < ledger.rows; k++) {
            const int wide = strstr(ledger.row[k].name, "wgmma") != NULL,
                      delta = strstr(ledger.row[k].name, "delta") != NULL;
            CHECK(wide == (known && !delta && !old && !unaligned), "HS=%d, sm_%d%s: %s", HS, old ? 89 : 90,
                  unaligned ? ", not aligned" : "", ledger.row[k].name);
        }
        result_free(&r);
        problem_free(&p);
    }
}
#endif

static void bad_head_size(void* nothing) {
    (void)nothing;
    attention_forward_cuda(NULL, NULL, NULL, NULL, NULL, 1, 1, 1, 1, 257, 257, 257, 257);
}
static void bad_groups(void* nothing) {
    (void)nothing;
    attention_forward_cuda(NULL, NULL, NULL, NULL, NULL, 1, 1, 3, 2, 64, 64, 64, 64);
}
static void test_errors(void) {
    expect_death("heads of 257", bad_head_size, NULL, "attention|257|256");
    expect_death("3 heads on 2", bad_groups, NULL, "attention|3|2");
}

int main(int argc, char** argv) {
    if (argc == 2 && strcmp(argv[1], "--shared") == 0) {  // for dev/kernels_table.sh
        attention_print_shared();
        return 0;
    }
    test_begin(argc, argv);
    RUN(test_errors);  // first: the GPU does not live on in a child process
    device_open();
#ifndef FP32
    attention_tiles = attention_wide = 0;  // whatever the card; the others have a test of their own
    RUN(test_small_tiles);
    RUN(test_tile_sets);
#endif
    RUN(test_head_sizes);
    RUN(test_lengths);
    RUN(test_heads);
    RUN(test_distances);
    RUN(test_unaligned);
    RUN(test_large_scores);
    RUN(test_negative_scores);
    RUN(test_same_bits);
    RUN(test_causal);
    RUN(test_nan);
    RUN(test_ledger);
    RUN(test_ledger_bytes);
#ifndef FP32
    RUN(test_wide_lengths);
    RUN(test_wide_heads);
    RUN(test_wide_numbers);
    RUN(test_wide_choice);
#endif
    for (int i = 0; i < OUTPUTS; i++) {
        printf("%-3s " PRECISION
               ": worst error %.2e of the largest number (naive: %.2e), %.2f of what is allowed, at %s\n",
               output_names[i], worst[i].error, worst[i].naive, worst[i].share, worst[i].where);
    }
    return test_end();
}
