// bench_gpu.cu - how fast each kernel is on this GPU, beside what the GPU can do and what is wanted.
//
//     bench_gpu [--quick] [--seconds N] [--models a,b,...] [layers] [products] [attention] [optimiser] [mix]
//
// No section named: all of them. --seconds: nothing new begins after N seconds, and what is left out is
// said. --quick: the smallest shapes, for the emulator, whose times mean nothing.
//
// First P and C are measured: the rate of a large product and of a large copy. Then every kernel at the
// shapes of the models, for 16,384 tokens (8 rows of 2,048): its time, its rate, the rate's share of P or
// C, what the ledger says that the card's limits allow, and the share that must be reached and the goal,
// where there is one. FLOPs and bytes are what the launchers state. The exception is where a kernel does
// more than the formula asks: the backward of attention counts as 5/2 of its forward (its two kernels
// compute the scores twice), the mix and the loss head as the model's 12 V C and 6 V C a token.
//
// The layers are timed as Pythia has them: fused q, k and v, a quarter of each head rotated. Beside them, at the same
// widths, those that only the other architectures have: RMSNorm, SwiGLU, GELU in the tanh form, learned positions.
//
// Nothing is asserted about times: the exit status is 1 only when something could not run.
#include "architecture.h"

#include "../common/rmsnorm.cuh"
#include "../common/sampling.cuh"
#include "bench.cuh"

// ---- the table ----

// What is reached over all shapes, for the short table at the end.
typedef struct {
    const char* name;
    char kind;          // 'P', 'C': shares of them; 'T': TFLOP/s
    double must, goal;  // 0: there is none
    double least, most;
    int rows;
} Class;
static Class classes[64];
static int class_count;
static double bench_deadline;  // of now_seconds(); nothing new begins after it
static int left_out, no_room;

static int time_is_up(void) {
    if (now_seconds() < bench_deadline) { return 0; }
    left_out++;
    return 1;
}

static void print_head(const char* title) {
    printf("%-30s %10s %10s %8s %10s %7s %7s\n", title, "us", "rate", "share", "limit us", "must", "goal");
}

// One row. kind 'P': share of P; 'C': of C; 'T': of P, but must and goal are TFLOP/s. useful: FLOPs that the
// formula needs, 0: as stated by the launchers.
static Timed bench_row(const char* group, const char* what, void (*run)(Area*), char kind, double useful, double must,
                       double goal) {
    Timed t;
    memset(&t, 0, sizeof t);
    if (time_is_up()) { return t; }
    t = bench_time(run, &bench_card);
    if (!t.ran) {
        no_room++;
        printf("%-30s needs %.1f GB, there are %.1f\n", what, (double)t.set_bytes / 1e9,
               (double)bench_memory_bytes / 1e9);
        return t;
    }
    double rate = 1e6 * (kind == 'C' ? t.bytes : useful > 0 ? useful : t.flops) / t.us;
    double share = rate / (kind == 'C' ? bench_C : bench_P), judged = kind == 'T' ? rate / 1e12 : share;
    printf("%-30s %10.1f %5.*f %s %6.2f %c %10.1f", what, t.us, kind == 'C' ? 3 : 1, rate / 1e12,
           kind == 'C' ? "TB/s" : "TF/s", share, kind == 'C' ? 'C' : 'P', t.limit_us);
    const double aims[] = {must, goal};
    for (int i = 0; i < 2; i++) {
        if (aims[i] > 0) {
            printf(kind == 'T' ? " %7.0f" : " %7.2f", aims[i]);
        } else {
            printf(" %7s", "-");
        }
    }
    printf("%s\n", t.spread > 0.1 ? "   (unsteady)" : "");
    fflush(stdout);

    int i = 0;
    while (i < class_count && (strcmp(classes[i].name, group) != 0 || classes[i].must != must)) { i++; }
    if (i == class_count) {
        if (class_count == (int)(sizeof classes / sizeof classes[0])) { die("more than %d classes of rows", i); }
        Class made = {group, kind, must, goal, judged, judged, 0};
        classes[class_count++] = made;
    }
    Class* c = &classes[i];
    c->rows++;
    if (judged < c->least) { c->least = judged; }
    if (judged > c->most) { c->most = judged; }
    return t;
}

// ---- shapes ----

typedef struct {
    const char* model;
    size_t B, T, N, C, NH, HS, FF, V, Vp, rotated, rows;  // rows: of a block of logits
} Shape;
static Shape shape;  // that run_...() works on

static Shape shape_of(const char* model) {
    const Preset* p = ARCHITECTURE.presets;
    while (p->name && strcmp(p->name, model) != 0) { p++; }
    if (!p->name) { die("--models: there is no preset '%s'", model); }
    const Sizes* size = &p->size;
    Shape s;
    memset(&s, 0, sizeof s);
    s.model = model;
    s.B = bench_quick ? 1 : 8, s.T = bench_quick ? 64 : 2048, s.N = s.B * s.T;
    s.C = (size_t)size->C, s.NH = (size_t)size->NH, s.HS = s.C / s.NH, s.FF = (size_t)size->FF;
    s.V = bench_quick ? 500 : (size_t)size->V, s.Vp = round_up(s.V, PADDED_ROWS);
    s.rotated = s.HS / 4;
    s.rows = mix_rows_cuda(s.N, s.Vp);
    return s;
}

// ---- layers ----

static void run_norm_forward(Area* a) {
    size_t n = shape.N * shape.C, C = shape.C;
    float *x_out = area_floats(a, n), *mean = area_floats(a, shape.N), *rstd = area_floats(a, shape.N);
    floatX *ln1 = area_x(a, n), *ln2 = area_x(a, n);
    const float* x = area_floats(a, n);
    const floatX *out1 = area_x(a, n), *out2 = area_x(a, n);
    const float* w = area_floats(a, 6 * C);
    layernorms_forward_cuda(x_out, ln1, ln2, mean, rstd, x, out1, w, out2, w + C, w + 2 * C, w + 3 * C, w + 4 * C,
                            w + 5 * C, shape.N, C, 1e-5f);
}
static void run_norm_backward(Area* a) {
    size_t n = shape.N * shape.C, C = shape.C;
    float *dx = area_floats(a, n), *sums = area_floats(a, 6 * C);
    floatX* dxb = area_x(a, n);
    float* scratch = area_floats(a, norm_backward_scratch(shape.N, C));
    const floatX *dout1 = area_x(a, n), *dout2 = area_x(a, n);
    const float *x = area_floats(a, n), *w = area_floats(a, 2 * C), *mean = area_floats(a, shape.N),
                *rstd = area_positive(a, shape.N);
    layernorms_backward_cuda(dx, dxb, sums, sums + C, sums + 2 * C, sums + 3 * C, sums + 4 * C, sums + 5 * C, scratch,
                             dout1, dout2, x, w, w + C, mean, rstd, shape.N, C, 1);
}
static void run_rotary(Area* a) {
    size_t C = shape.C, HS = shape.HS, half = shape.rotated / 2;
    floatX* qkv = area_x(a, shape.N * 3 * C);
    const float *cosine = area_floats(a, shape.T * half), *sine = area_floats(a, shape.T * half);
    rotary_forward_cuda(qkv, cosine, sine, NULL, shape.B, shape.T, shape.NH, 2, shape.rotated, 3 * C, 3 * HS, HS, 1);
}
static int gelu_form = GELU_ERF;
static void run_gelu_forward(Area* a) {
    size_t n = shape.N * shape.FF;
    floatX* act = area_x(a, n);
    const floatX* fc = area_x(a, n);
    const float* bias = area_floats(a, shape.FF);
    gelu_forward_cuda(act, fc, bias, shape.N, shape.FF, gelu_form);
}
// The trainer's is in place; here the input must survive many launches.
static void run_gelu_backward(Area* a) {
    size_t n = shape.N * shape.FF;
    floatX* dfc = area_x(a, n);
    float *dbias = area_floats(a, shape.FF), *scratch = area_floats(a, column_sum_scratch(shape.N, shape.FF));
    const floatX *dact = area_x(a, n), *fc = area_x(a, n);
    const float* bias = area_floats(a, shape.FF);
    gelu_backward_cuda(dfc, dbias, scratch, dact, fc, bias, shape.N, shape.FF, gelu_form);
}
static void run_rmsnorm_forward(Area* a) {
    size_t n = shape.N * shape.C;
    float *x_out = area_floats(a, n), *rstd = area_floats(a, shape.N);
    floatX* ln = area_x(a, n);
    const float *x = area_floats(a, n), *w = area_floats(a, shape.C);
    const floatX* out = area_x(a, n);
    rmsnorm_forward_cuda(x_out, ln, rstd, x, out, w, shape.N, shape.C, 1e-5f);
}
static void run_rmsnorm_backward(Area* a) {
    size_t n = shape.N * shape.C;
    float *dx = area_floats(a, n), *dw = area_floats(a, shape.C);
    floatX* dxb = area_x(a, n);
    float* scratch = area_floats(a, rmsnorm_backward_scratch(shape.N, shape.C));
    const floatX* dout = area_x(a, n);
    const float *x = area_floats(a, n), *w = area_floats(a, shape.C), *rstd = area_positive(a, shape.N);
    rmsnorm_backward_cuda(dx, dxb, dw, scratch, dout, x, w, rstd, shape.N, shape.C, 1);
}
static void run_swiglu_forward(Area* a) {
    floatX* act = area_x(a, shape.N * shape.FF);
    const floatX* gate_up = area_x(a, shape.N * 2 * shape.FF);
    swiglu_forward_cuda(act, gate_up, shape.N, shape.FF);
}
static void run_swiglu_backward(Area* a) {
    floatX* dgate_up = area_x(a, shape.N * 2 * shape.FF);
    const floatX *dact = area_x(a, shape.N * shape.FF), *gate_up = area_x(a, shape.N * 2 * shape.FF);
    swiglu_backward_cuda(dgate_up, dact, gate_up, shape.N, shape.FF);
}
static void run_position_forward(Area* a) {
    size_t n = shape.N * shape.C;
    float* x0 = area_floats(a, n);
    const float *e = area_floats(a, n), *table = area_floats(a, shape.T * shape.C);
    position_forward_cuda(x0, e, table, NULL, shape.B, shape.T, shape.C);
}
static void run_position_backward(Area* a) {
    float* dtable = area_floats(a, shape.T * shape.C);
    const float* dx = area_floats(a, shape.N * shape.C);
    position_backward_cuda(dtable, dx, shape.B, shape.T, shape.C);
}
static void run_column_sum(Area* a) {
    size_t columns = 3 * shape.C;
    float *dbias = area_floats(a, columns), *scratch = area_floats(a, column_sum_scratch(shape.N, columns));
    const floatX* dout = area_x(a, shape.N * columns);
    column_sum_cuda(dbias, (float*)NULL, scratch, dout, shape.N, columns);
}
static void run_add(Area* a) {
    size_t n = shape.N * shape.C;
    float* out = area_floats(a, n);
    const float* inp = area_floats(a, n);
    add_cuda(out, inp, n);
}
static void run_embedding_forward(Area* a) {
    float* e = area_floats(a, shape.N * shape.C);
    const int* tokens = area_ints(a, shape.N, (int)shape.V);
    const float* table = area_floats(a, shape.Vp * shape.C);
    embedding_forward_cuda(e, tokens, table, shape.N, shape.C, 1);
}

static void bench_layers(void) {
    print_head("layers");
    bench_row("norms, forward", "norms, forward", run_norm_forward, 'C', 0, 0.85, 0.95);
    bench_row("norms, backward", "norms, backward", run_norm_backward, 'C', 0, 0.75, 0.88);
    bench_row("rotary", "rotary", run_rotary, 'C', 0, 0, 0);
    bench_row("GELU, forward", "GELU, forward", run_gelu_forward, 'C', 0, 0, 0);
    bench_row("GELU, backward", "GELU, backward", run_gelu_backward, 'C', 0, 0, 0);
    bench_row("column sums", "column sums of (N,3C)", run_column_sum, 'C', 0, 0, 0);
    bench_row("add, embedding", "add", run_add, 'C', 0, 0, 0);
    bench_row("add, embedding", "embedding, forward", run_embedding_forward, 'C', 0, 0, 0);
    bench_row("RMSNorm, forward", "RMSNorm, forward", run_rmsnorm_forward, 'C', 0, 0.85, 0.95);
    bench_row("RMSNorm, backward", "RMSNorm, backward", run_rmsnorm_backward, 'C', 0, 0.75, 0.88);
    bench_row("SwiGLU, forward", "SwiGLU, forward", run_swiglu_forward, 'C', 0, 0, 0);
    bench_row("SwiGLU, backward", "SwiGLU, backward", run_swiglu_backward, 'C', 0, 0, 0);
    gelu_form = GELU_TANH;
    bench_row("GELU (tanh), forward", "GELU (tanh), forward", run_gelu_forward, 'C', 0, 0, 0);
    bench_row("GELU (tanh), backward", "GELU (tanh), backward", run_gelu_backward, 'C', 0, 0, 0);
    gelu_form = GELU_ERF;
    bench_row("positions", "positions, forward", run_position_forward, 'C', 0, 0, 0);
    bench_row("positions", "positions, backward", run_position_backward, 'C', 0, 0, 0);
}

// ---- products ----

static size_t product_IC, product_OC, product_N;

static void run_product_forward(Area* a) {
    floatX* out = area_x(a, product_N * product_OC);
    const floatX *inp = area_x(a, product_N * product_IC), *weight = area_x(a, product_OC * product_IC);
    matmul_forward_cuda(out, inp, weight, NULL, product_N, product_IC, product_OC);
}
static void run_product_input(Area* a) {
    floatX* dinp = area_x(a, product_N * product_IC);
    const floatX *dout = area_x(a, product_N * product_OC), *weight = area_x(a, product_OC * product_IC);
    matmul_backward_input_cuda(dinp, dout, weight, product_N, product_IC, product_OC);
}
static void run_product_weight(Area* a) {
    float* dweight = area_floats(a, product_OC * product_IC);
    const floatX *dout = area_x(a, product_N * product_OC), *inp = area_x(a, product_N * product_IC);
    matmul_backward_weight_cuda(dweight, dout, inp, product_N, product_IC, product_OC);
}

static void bench_product(const char* group, const char* name, size_t N, size_t IC, size_t OC) {
    const struct {
        const char* what;
        void (*run)(Area*);
    } three[] = {{"", run_product_forward}, {", dx", run_product_input}, {", dW", run_product_weight}};
    product_N = N, product_IC = IC, product_OC = OC;
    for (int i = 0; i < 3; i++) {
        char what[80];
        snprintf(what, sizeof what, "%s%s", name, three[i].what);
        bench_row(group, what, three[i].run, 'P', 0, 0, 0);
    }
}
static void bench_products(void) {
    size_t N = shape.N, C = shape.C;
    print_head("products (cuBLASLt)");
    bench_product("products of the blocks", "qkv", N, C, 3 * C);
    bench_product("products of the blocks", "attention out", N, C, C);
    bench_product("products of the blocks", "mlp up", N, C, shape.FF);
    bench_product("products of the blocks", "mlp down", N, shape.FF, C);
    bench_product("products over the vocabulary", "a block of logits", shape.rows, C, shape.Vp);
}

// Of a token of one sequence and of eight, by few.cuh and by cuBLASLt: what it takes to read the weights once.
static void bench_few(void) {
    const struct {
        const char* name;
        void (*run)(Area*);
        size_t IC, OC;
    } few[] = {{"mlp up", run_product_forward, shape.C, shape.FF},
               {"attention out", run_product_forward, shape.C, shape.C},
               {"logits", run_product_forward, shape.C, shape.Vp},
               {"probabilities", run_product_input, shape.C, shape.Vp}};
    print_head("products of few rows");
    for (size_t rows = 1; rows <= 8; rows += 7) {
        for (int i = 0; i < 4; i++) {
            product_N = rows, product_IC = few[i].IC, product_OC = few[i].OC;
            for (matmul_few = 1; matmul_few >= 0; matmul_few--) {
                char what[80];
                snprintf(what, sizeof what, "%zu x %s%s", rows, few[i].name, matmul_few ? "" : ", cuBLASLt");
                bench_row(matmul_few ? "products of few rows" : "the same by cuBLASLt", what, few[i].run, 'C', 0, 0, 0);
            }
            matmul_few = 1;
        }
    }
}

// ---- attention ----

static void run_attention_forward(Area* a) {
    size_t C = shape.C, HS = shape.HS;
    floatX* out = area_x(a, shape.N * C);
    float* lse = area_floats(a, shape.N * shape.NH);
    const floatX* qkv = area_x(a, shape.N * 3 * C);
    attention_forward_cuda(out, lse, qkv, qkv + HS, qkv + 2 * HS, shape.B, shape.T, shape.NH, shape.NH, HS, 3 * C,
                           3 * HS, 3 * HS);
}
// Probabilities are exp(score - lse) of numbers below 1 in size: nothing overflows.
static void run_attention_backward(Area* a) {
    size_t C = shape.C, HS = shape.HS;
    floatX* dqkv = area_x(a, shape.N * 3 * C);
    float* delta = area_floats(a, shape.N * shape.NH);
    const floatX *dout = area_x(a, shape.N * C), *qkv = area_x(a, shape.N * 3 * C), *out = area_x(a, shape.N * C);
    const float* lse = area_floats(a, shape.N * shape.NH);
    attention_backward_cuda(dqkv, dqkv + HS, dqkv + 2 * HS, delta, dout, qkv, qkv + HS, qkv + 2 * HS, out, lse, shape.B,
                            shape.T, shape.NH, shape.NH, HS, 3 * C, 3 * HS, 3 * HS);
}
static void run_attention(Area* a) {
    run_attention_forward(a);
    run_attention_backward(a);
}

// must: 0.8 of FlashAttention-2 on an H100, forward and backward, causal, T 2048 (232 TFLOP/s for heads of
// 64, 265 for 128). Goal: cuDNN on an H200, heads of 128 (484 forward, 370 backward).
static void bench_attention(void) {
    char what[80];
    print_head("attention");
    Timed forward;
    memset(&forward, 0, sizeof forward);
    Area area = {bench_memory, 0, 0};
    ledger_clear();
    ledger.dry = 1;
    run_attention_forward(&area);
    ledger.dry = 0;
    bench_booked(&forward, &bench_card);
    double flops = forward.flops;
    int at128 = shape.HS == 128, at64 = shape.HS == 64;
    snprintf(what, sizeof what, "heads of %zu, forward", shape.HS);
    bench_row("attention, forward", what, run_attention_forward, 'T', flops, 0, at128 ? 484 : 0);
    snprintf(what, sizeof what, "heads of %zu, backward", shape.HS);
    bench_row("attention, backward", what, run_attention_backward, 'T', 2.5 * flops, 0, at128 ? 370 : 0);
    snprintf(what, sizeof what, "heads of %zu, both", shape.HS);
    bench_row("attention, both", what, run_attention, 'T', 3.5 * flops,
              at64    ? 0.8 * 232
              : at128 ? 0.8 * 265
                      : 0,
              at128 ? 3.5 / (1.0 / 484 + 2.5 / 370) : 0);
}

// ---- the optimiser, passes over logits ----

static AdamwPlan adamw;       // of the tensors of a model
static size_t adamw_numbers;  // of a family

static void run_adamw(Area* a) {
    float *params = area_floats(a, adamw_numbers), *m = area_floats(a, adamw_numbers);
    float* v = area_positive(a, adamw_numbers);
    floatX* x = sizeof(floatX) == sizeof(float) ? (floatX*)params : area_x(a, adamw_numbers);
    const float* grads = area_floats(a, adamw_numbers);
    AdamwStep step = adamw_step(1.0, 1e-4, 0.9, 0.95, 1e-8, 0.01, 100);
    adamw_update_cuda(params, x, m, v, grads, &adamw, &step);
}
static void run_grad_norm(Area* a) {
    double* scratch = (double*)area_floats(a, 2 * (grad_norm_scratch(adamw_numbers) + 1));
    const float* grads = area_floats(a, adamw_numbers);
    grad_norm_cuda(scratch, scratch + 1, grads, adamw_numbers);
}
static void run_copy_rounded(Area* a) {
    floatX* x = area_x(a, adamw_numbers);
    const float* master = area_floats(a, adamw_numbers);
    copy_rounded_cuda(x, master, adamw_numbers);
}
static int rows_held;  // whether rows of logits are held on chip
static void run_cross_entropy(Area* a) {
    floatX* z = area_x(a, shape.rows * shape.Vp);
    float *losses = area_floats(a, shape.rows), *scale = area_positive(a, 1);
    const int* targets = area_ints(a, shape.rows, (int)shape.V);
    cross_entropy_rows_either_cuda(losses, z, targets, scale, shape.rows, shape.V, shape.Vp, rows_held);
}
static void run_softmax_rows(Area* a) {
    floatX* p = area_x(a, shape.rows * shape.Vp);
    softmax_rows_either_cuda(p, shape.rows, shape.V, shape.Vp, 0, rows_held);
}
static void run_softmax_rows_backward(Area* a) {
    floatX* dz = area_x(a, shape.rows * shape.Vp);
    const floatX* p = area_x(a, shape.rows * shape.Vp);
    const float* dot = area_floats(a, shape.rows);
    softmax_rows_backward_cuda(dz, p, dot, shape.rows, shape.Vp, 1);
}
static void run_mix_dot(Area* a) {
    size_t n = shape.N * shape.C;
    floatX* dmix = area_x(a, n);
    float* dot = area_floats(a, shape.N);
    const float *de = area_floats(a, n), *e = area_floats(a, n), *next = area_floats(a, n);
    mix_dot_cuda(dmix, dot, de, e, next, shape.N, shape.C);
}

static OptionTable model_options(const char* ponder, const char* layers) {
    OptionTable options;
    memset(&options, 0, sizeof options);
    architecture_options(&options);
    char* argv[] = {format_string("bench"),    format_string("--ponder"),   format_string("%s", ponder),
                    format_string("--layers"), format_string("%s", layers), format_string("--vocab=%zu", shape.V)};
    options_parse(&options, 6, argv);
    return options;
}
// The next token of 8 texts, a block each: a multiprocessor's time, of which the card's limits say little.
static SampleRule sample_rule;
static void run_sample(Area* a) {
    enum { TEXTS = 8 };
    int* tokens = area_ints(a, TEXTS, 1);
    const float* logits = area_take<float>(a, TEXTS * shape.Vp, -8, 8);
    const double* draws = area_take<double>(a, TEXTS * sizeof(SampleDraw) / sizeof(double), 0.01f, 0.99f);
    sample_rows_cuda(tokens, logits, TEXTS, shape.V, shape.Vp, (const SampleDraw*)draws, NULL, sample_rule);
}
static void bench_sample(void) {
    static const struct {
        const char* name;
        SampleRule rule;
    } rows[] = {{"most probable token", {0, 0, 1, 1}},
                {"token drawn from all", {1, 0, 1, 1}},
                {"token drawn, top-p", {1, 0, 0.95, 1}},
                {"token drawn, top-k and top-p", {1, 50, 0.95, 1}}};
    for (int i = 0; i < 4; i++) {
        sample_rule = rows[i].rule;
        bench_row("tokens drawn", rows[i].name, run_sample, 'C', 0, 0, 0);
    }
}

static void bench_optimiser(void) {
    OptionTable options = model_options("0", bench_quick ? "1" : "12");
    Model* model = architecture_model(&options, shape.model, 1, 64);
    adamw = adamw_plan(&model->tensors);
    adamw_numbers = model->tensors.total;
    AdamwSpan* spans = (AdamwSpan*)device_alloc(adamw.count * sizeof(AdamwSpan), "the optimiser's plan");
    device_upload(spans, adamw.host, adamw.count * sizeof(AdamwSpan));
    CUDA_CHECK(cudaStreamSynchronize(device.stream));
    adamw.device = spans;
    char title[80];
    snprintf(title, sizeof title, "optimiser, %.0f M numbers", (double)adamw_numbers / 1e6);
    print_head(title);
    bench_row("AdamW", "AdamW", run_adamw, 'C', 0, 0.88, 0.92);
    bench_row("gradient norm", "gradient norm", run_grad_norm, 'C', 0, 0, 0);
    if (sizeof(floatX) != sizeof(float)) { bench_row("rounded copy", "rounded copy", run_copy_rounded, 'C', 0, 0, 0); }
    snprintf(title, sizeof title, "passes over %zu x %zu logits", shape.rows, shape.V);
    print_head(title);
    // As the trainer has them; then rows that it holds on chip read twice: a card on which one block fits into a
    // multiprocessor may be faster so.
    const int fits = row_fits(shape.Vp, 0);
    for (rows_held = fits; rows_held >= 0; rows_held--) {
        const int other = rows_held != fits;
        bench_row(other ? "the same, rows read twice" : "cross-entropy pass",
                  other ? "cross-entropy, rows read twice" : "cross-entropy, gradient", run_cross_entropy, 'C', 0,
                  other ? 0 : 0.85, other ? 0 : 0.92);
        bench_row(other ? "the same, rows read twice" : "softmax of the mix",
                  other ? "softmax, rows read twice" : "softmax of the mix, forward", run_softmax_rows, 'C', 0, 0, 0);
    }
    bench_row("softmax of the mix", "softmax of the mix, backward", run_softmax_rows_backward, 'C', 0, 0, 0);
    bench_row("gradient and dot of the mix", "gradient and dot of the mix", run_mix_dot, 'C', 0, 0, 0);
    bench_sample();
}

// ---- whole parts of a step, as the trainer runs them: a model of one layer and one pondering step ----

static Ponder* whole;

static void run_mix_both(Area* a) {
    (void)a;
    const PonderCuda* c = whole->cuda;
    const Pass* pass = whole->pass;
    const float scale = ponder_scale(whole);
    float* next = c->e + ponder_stride(whole);
    floatX* p = c->p ? c->p : c->z;
    mix_forward_cuda(next, p, c->e, c->h, pass->head.x, pass->embed.x, shape.N, shape.C, shape.V, scale, 1, 0, c->rows,
                     c->p != NULL);
    mix_backward_cuda(c->dh, pass->embed.grad, pass->head.grad, p, c->dz, c->dot, c->dmix, c->de, c->e, next, c->h,
                      pass->head.x, pass->embed.x, shape.N, shape.C, shape.V, scale, 1, 0, c->rows, c->p != NULL);
}
static void run_head_both(Area* a) {
    (void)a;
    const PonderCuda* c = whole->cuda;
    head_forward_backward_cuda(c->batch.losses, c->dh, whole->pass->head.grad, c->z, c->h + ponder_stride(whole),
                               c->batch.tokens + shape.N, whole->pass->head.x, shape.N, shape.C, shape.V,
                               c->batch.scale, c->rows);
}
// The gradient by the input embeddings: what a token that occurs often costs shows with tokens as text has them.
static void run_embedding_backward(Area* a) {
    (void)a;
    const PonderCuda* c = whole->cuda;
    embedding_backward_cuda(whole->pass->embed.grad, c->parts, c->batch.tokens + 3 * shape.N,
                            c->batch.tokens + 2 * shape.N, c->de, shape.N, shape.C, shape.V, 1);
}
// Tokens of a micro-batch: as probable as 1 / (1 + token), as Zipf has it, below `most`; or all alike.
static void embedding_tokens(size_t most, int zipf) {
    int* tokens = (int*)xalloc(shape.N, sizeof(int), "tokens");
    for (size_t n = 0; n < shape.N; n++) {
        const double u = (double)random_u32(3, 5, n) / 4294967296.0;
        tokens[n] = (int)(zipf ? exp(u * log((double)most)) - 1 : u * (double)most);
    }
    batch_upload(&whole->cuda->batch, tokens, NULL, shape.N, shape.V, 1);
    CUDA_CHECK(cudaStreamSynchronize(device.stream));
    free(tokens);
}
static void bench_embedding(void) {
    static const struct {
        const char* name;
        size_t most;
        int zipf;
    } rows[] = {
        {"embedding, backward, even", 0, 0}, {"embedding, backward, Zipf", 0, 1}, {"the same, 256 bytes", 256, 1}};
    for (int i = 0; i < 3; i++) {
        embedding_tokens(rows[i].most ? rows[i].most : shape.V, rows[i].zipf);
        bench_row("embedding, backward", rows[i].name, run_embedding_backward, 'C', 0, 0, 0);
    }
}

static void run_layer_forward(Area* a) {
    (void)a;
    const PonderCuda* c = whole->cuda;
    whole->pass->gpu.place = slots_enter(&c->slots, 0, SLOTS_BACKWARD);
    ARCHITECTURE.cuda->forward(whole->pass, c->h, c->e, (int)shape.B, (int)shape.T, whole->pass->size.L);
}
static void run_layer_backward(Area* a) {
    (void)a;
    const PonderCuda* c = whole->cuda;
    whole->pass->gpu.place = slots_enter(&c->slots, 0, SLOTS_BACKWARD);
    ARCHITECTURE.cuda->backward(whole->pass, c->de, c->dh, c->e, (int)shape.B, (int)shape.T);
}

// FLOPs of the model's own table, a micro-batch.
static double model_flops(const Model* model, const char* what) {
    for (int i = 0; i < model->flops_rows; i++) {
        if (strcmp(model->flops[i].what, what) == 0) { return model->flops[i].amount * (double)shape.N; }
    }
    die("the model counts no FLOPs of '%s'", what);
}

static void bench_whole(void) {
    if (time_is_up()) { return; }
    OptionTable options = model_options("1", "1");
    Model* model = architecture_model(&options, shape.model, (int)shape.B, (int)shape.T);
    whole = ponder_of(model);
    PonderCuda* c = whole->cuda;
    size_t available = 0, all = 0, NC = shape.N * shape.C;
    CUDA_CHECK(cudaMemGetInfo(&available, &all));
    PlanNeed need = ponder_need(whole, 1);
    need.memory = 0.95 * (double)available;
    PlanTable table;
    plan_clear(&table);
    plan_compare(model, ponder_choice(whole), &need, (int)shape.B, &table);
    Plan plan = table.plan[table.best < 0 ? table.count - 1 : table.best];
    print_head("whole parts of a step");
    if (!plan.fits) {
        no_room++;
        printf("%-30s needs %.1f GB, %.1f are free\n", "mix, head, a layer", (double)plan.total / 1e9,
               (double)available / 1e9);
        return;
    }
    c->plan = plan;
    model->allocate(model, 1);
    bench_fill(c->families.master, model->tensors.total, -0.03f, 0.03f);
    if ((void*)c->families.x != (void*)c->families.master) {
        bench_fill(c->families.x, model->tensors.total, -0.03f, 0.03f);
    }
    bench_fill(c->e, 2 * NC, -1, 1);
    bench_fill(c->h, 2 * NC, -1, 1);
    bench_fill(c->de, NC, -1e-3f, 1e-3f);
    bench_fill(c->dh, NC, -1e-3f, 1e-3f);
    bench_fill(c->batch.tokens, 2 * shape.N, 0, (float)shape.V);
    bench_fill(c->batch.scale, 1, 1e-4f, 2e-4f);
    double mix = model_flops(model, "vocabulary mix"), head = model_flops(model, "loss head");
    double layer = (model_flops(model, "blocks") + model_flops(model, "attention")) / 2;  // of one of two passes
    const double must = shape.C < 1024 ? 0.50 : 0.60, goal = shape.C < 1024 ? 0.80 : 0.85;
    floatX* kept = c->p;
    if (kept) { bench_row("mix", "mix, both (p kept)", run_mix_both, 'P', mix, must, goal); }
    c->p = NULL;
    bench_row("mix, p computed again", "mix, both (p computed again)", run_mix_both, 'P', mix, 0, 0);
    c->p = kept;
    bench_row("loss head", "loss head, both", run_head_both, 'P', head, 0, 0);
    // A forward must come before its backward; both are timed alone.
    bench_row("a layer", "a layer, forward", run_layer_forward, 'P', layer / 3, 0, 0);
    bench_row("a layer", "a layer, backward", run_layer_backward, 'P', layer / 3 * 2, 0, 0);
    bench_embedding();
}

// ---- main ----

enum { LAYERS, PRODUCTS, ATTENTION, OPTIMISER, MIX, SECTIONS };
static const char* const section_names[SECTIONS] = {"layers", "products", "attention", "optimiser", "mix"};
static int wanted[SECTIONS];

int MAIN(int argc, char** argv);
int MAIN(int argc, char** argv) {
    threads_wait_briefly(argv);
    const char* models = NULL;
    double seconds = 1e9;
    int some = 0;
    for (int i = 1; i < argc; i++) {
        int s = 0;
        while (s < SECTIONS && strcmp(argv[i], section_names[s]) != 0) { s++; }
        if (s < SECTIONS) {
            wanted[s] = some = 1;
        } else if (strcmp(argv[i], "--quick") == 0) {
            bench_quick = 1;
        } else if (strcmp(argv[i], "--seconds") == 0 && i + 1 < argc) {
            char* end = NULL;
            seconds = strtod(argv[++i], &end);
            if (*end || !(seconds > 0)) { die("--seconds '%s': expected a number above 0", argv[i]); }
        } else if (strcmp(argv[i], "--models") == 0 && i + 1 < argc) {
            models = argv[++i];
        } else {
            die("'%s': expected --quick, --seconds N, --models a,b,... or some of layers, products, attention, "
                "optimiser, "
                "mix",
                argv[i]);
        }
    }
    for (int s = 0; s < SECTIONS && !some; s++) { wanted[s] = 1; }
    if (!models) {
        StringBuilder all = {0};
        for (const Preset* p = ARCHITECTURE.presets; p->name; p++) {
            if (bench_quick ? all.size == 0 : p->size.C >= 512 && p->size.C <= 2560) {
                sb_printf(&all, "%s%s", all.size ? "," : "", p->name);
            }
        }
        models = all.data;
    }
    double start = now_seconds();
    bench_deadline = start + seconds;
    bench_limits();

    char* list = format_string("%s", models);
    int first = 1;
    for (char* name = strtok(list, ","); name; name = strtok(NULL, ",")) {
        shape = shape_of(name);
        if (time_is_up()) { continue; }
        printf("%s: C = %zu, %zu heads of %zu, FF = %zu, V = %zu, N = %zu\n", name, shape.C, shape.NH, shape.HS,
               shape.FF, shape.V, shape.N);
        const int kept = device_block_count;  // what a model takes is given back before the next
        // Beyond 2048 columns only what is new: heads of 80.
        int large = shape.C > 2048 && !some;
        if (wanted[OPTIMISER] && first) { bench_optimiser(); }
        if (wanted[MIX] && !large) { bench_whole(); }
        CUDA_CHECK(cudaStreamSynchronize(device.stream));
        device_free_after(kept);
        if (wanted[ATTENTION]) { bench_attention(); }
        if (wanted[LAYERS] && !large) { bench_layers(); }
        if (wanted[PRODUCTS] && !large) {
            bench_products();
            bench_few();
        }
        printf("\n");
        first = 0;
    }

    printf("%-30s %4s  %-16s %7s %7s\n", "over all shapes", "rows", "least .. most", "must", "goal");
    for (int i = 0; i < class_count; i++) {
        const Class* c = &classes[i];
        int digits = c->kind == 'T' ? 0 : 2;
        printf("%-30s %4d  %5.*f .. %-5.*f %s", c->name, c->rows, digits, c->least, digits, c->most,
               c->kind == 'T'   ? "TF/s"
               : c->kind == 'P' ? "P   "
                                : "C   ");
        printf(c->must > 0 ? " %6.*f" : "      -", digits, c->must);
        printf(c->goal > 0 ? "  %6.*f\n" : "       -\n", digits, c->goal);
    }
    printf("%.0f s", now_seconds() - start);
    if (left_out) { printf("; the time was up: %d rows or more are left out", left_out); }
    if (no_room) { printf("; %d rows did not fit into the GPU's memory", no_room); }
    printf("\n{\"program\": \"bench_gpu\", \"gpu\": \"%s\", \"precision\": \"%s\", \"P_tflops\": %.1f, \"C_tb_per_s\": "
           "%.3f, "
           "\"left_out\": %d}\n",
           device.name, PRECISION, bench_P / 1e12, bench_C / 1e12, left_out + no_room);
    return 0;
}
