// bench_cpu.c - how fast the CPU parts are, beside what this machine can do.
//
//   build/bench_cpu [ladder] [matmul] [bf16] [attention] [adamw]     (no argument: all sections)
//
// Every line gives a rate and its share of a limit measured in the same run: P, the peak of
// single-precision fused multiply-adds on all threads, or C, the bandwidth of copying memory
// (bytes read plus bytes written). Products in bf16, of each kernel that this processor has (common/gemm_bf16.h), are given
// beside the peak of that kernel's instruction or, where that is less, beside what C allows: each operand read once, the
// result written. Each figure is the best of several runs, since other programs
// can only make them slower. OMP_NUM_THREADS sets the threads.
//
// The ladder goes from P to a whole product, one thing added at a time: the step where a rate falls says what holds
// products back on a machine, its clock under lasting work, its caches, memory or other threads.
#define TESTING  // products in bf16 too
#include "../common/adamw.h"
#include "../common/attention.h"
#include "../common/machine.h"
#include "../common/matmul.h"

#ifndef MAIN
#define MAIN main
#endif

// Numbers in (-1, 1) that no compiler and no processor can guess.
static float* random_numbers(size_t count) {
    float* x = (float*)xalloc(count, sizeof(float), "a benchmark");
    uint32_t state = 12345;
    for (size_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = (float)(int32_t)state * 0x1p-31f;
    }
    return x;
}

// Best seconds of f(argument): at least 3 runs, then until 0.4 s are spent.
static double best_seconds(void (*f)(void*), void* argument) {
    double best = 1e30, begin = now_seconds();
    for (int run = 0; run < 3 || (now_seconds() - begin < 0.4 && run < 1000); run++) {
        double start = now_seconds();
        f(argument);
        double seconds = now_seconds() - start;
        if (seconds < best) { best = seconds; }
    }
    return best;
}

static void print_rate(double flops) {
    double peak = machine_peak_flops(&machine_fma);
    printf("  %7.1f  ", flops * 1e-9);
    if (peak > 0) {
        printf("%4.2f P", flops / peak);
    } else {
        printf("   - P");
    }
}

// ---------------------------------------------------------------------------------------------

typedef struct {
    size_t N, IC, OC;
    float *inp, *weight, *bias, *out;
} Layer;

static void run_forward(void* argument) {
    Layer* l = (Layer*)argument;
    matmul_forward(l->out, l->inp, weight_of(l->weight), l->bias, l->N, l->IC, l->OC);
}
static void run_backward_input(void* argument) {
    Layer* l = (Layer*)argument;
    matmul_backward_input(l->inp, l->out, l->weight, l->N, l->IC, l->OC);
}
static void run_backward_weight(void* argument) {
    Layer* l = (Layer*)argument;
    matmul_backward_weight(l->weight, l->bias, l->out, l->inp, l->N, l->IC, l->OC);
}

// The second product of the vocabulary mix: mix (N,IC) += p (N,OC) W (OC,IC); IC is the width, OC the vocabulary.
static void run_mix(void* argument) {
    Layer* l = (Layer*)argument;
    gemm(0, 0, l->N, l->IC, l->OC, 1, l->out, l->OC, l->weight, l->IC, 1, l->inp, l->IC, NULL);
}

static void bench_layer(const char* what, size_t N, size_t IC, size_t OC, int mix) {
    Layer l = {N, IC, OC, random_numbers(N * IC), random_numbers(OC * IC), random_numbers(OC), random_numbers(N * OC)};
    double flops = 2.0 * (double)N * (double)IC * (double)OC;
    printf("%-28s %5zu %5zu %6zu", what, N, IC, OC);
    print_rate(flops / best_seconds(run_forward, &l));
    print_rate(flops / best_seconds(mix ? run_mix : run_backward_input, &l));
    print_rate(flops / best_seconds(run_backward_weight, &l));
    printf("\n");
    fflush(stdout);
    free(l.inp), free(l.weight), free(l.bias), free(l.out);
}

static void bench_matmul(void) {
    printf("matmul: %s, GFLOP/s\n", matmul_name());
    printf("%-28s %5s %5s %6s  %15s  %15s  %15s\n", "layer", "rows", "IC", "OC", "forward", "backward input",
           "backward weight");
    bench_layer("160m qkv", 256, 768, 2304, 0);
    bench_layer("160m attention out", 256, 768, 768, 0);
    bench_layer("160m ff up", 256, 768, 3072, 0);
    bench_layer("160m ff down", 256, 3072, 768, 0);
    bench_layer("160m head", 256, 768, 50304, 0);
    bench_layer("70m qkv", 512, 512, 1536, 0);
    bench_layer("70m attention out", 512, 512, 512, 0);
    bench_layer("70m ff up", 512, 512, 2048, 0);
    bench_layer("70m ff down", 512, 2048, 512, 0);
    bench_layer("70m mix (scores, mix, dW)", 256, 512, 50304, 1);
    bench_layer("tiny qkv", 1024, 128, 384, 0);
    bench_layer("tiny attention out", 1024, 128, 128, 0);
    bench_layer("tiny ff up", 1024, 128, 512, 0);
    bench_layer("tiny ff down", 2048, 512, 128, 0);
    bench_layer("tiny mix (scores, mix, dW)", 1024, 128, 257, 1);
    bench_layer("one row", 1, 768, 768, 0);
    printf("\n");
}

// ---------------------------------------------------------------------------------------------

// Tiles on one thread: `down` panels of A by `across` of B, `length` numbers each, `turns` times; C has lines of ldc numbers,
// and each turn its own place there, of `places` one after the other.
typedef struct {
    size_t down, across, length, turns, ldc, places;
    float *a, *b, *c;
} Tiles;

static void run_tiles(void* argument) {
    const Tiles* t = (Tiles*)argument;
    const MatmulKernel* kernel = &matmul_fp32;
    const MatmulStore store = {1, 0, NULL};
    const size_t height = t->down * kernel->mr, width = t->across * kernel->nr, beside = t->ldc / width;
    for (size_t turn = 0; turn < t->turns; turn++) {
        size_t place = turn % t->places;
        float* c = t->c + place / beside * height * t->ldc + place % beside * width;
        for (size_t j = 0; j < t->across; j++) {
            for (size_t i = 0; i < t->down; i++) {
                kernel->tile(kernel->mr, kernel->nr, t->length, t->a + i * kernel->ap * MATMUL_KC,
                             t->b + j * kernel->nr * MATMUL_KC, c + i * kernel->mr * t->ldc + j * kernel->nr, t->ldc,
                             &store);
            }
        }
    }
}

static void run_peak_for_long(void* rounds) {
    volatile float x[1] = {0.25f};
    machine_fma_rounds(*(size_t*)rounds, x);
}

static void print_step(const char* what, double flops, double limit) {
    printf("%-60s %7.1f  %4.2f\n", what, flops * 1e-9, flops / limit);
    fflush(stdout);
}

static void bench_ladder(void) {
    enum { ROWS = 512, COLUMNS = 2048, INNER = 512 };
    const MatmulKernel* kernel = &matmul_fp32;
    const size_t down = 96 / kernel->mr, across = 64 / kernel->nr, area = down * kernel->mr * across * kernel->nr;
    const int threads = thread_count();
    const double peak = machine_peak_flops(&machine_fma);
    Layer l = {ROWS, INNER, COLUMNS};
    l.inp = random_numbers(l.N * l.IC), l.weight = random_numbers(l.OC * l.IC), l.out = random_numbers(l.N * l.OC);
    Tiles t = {1, 1, 64, 0, 64, 1};
    t.a = random_numbers(down * kernel->ap * MATMUL_KC), t.b = random_numbers(across * kernel->nr * MATMUL_KC);
    t.c = random_numbers(ROWS * COLUMNS);
    const double product = 2.0 * ROWS * COLUMNS * INNER;

    set_threads(1);
    MachinePeak one = {machine_fma.run, machine_fma.flops};
    machine_measure_peak(&one, 1);
    const double limit = one.limit.best[0];
    printf("ladder: %s, GFLOP/s, and of the first line; the last one beside P\n", matmul_name());
    print_step("one thread: multiply-adds on registers, 0.25 ms at a time", limit, limit);
    size_t rounds = (size_t)(0.05 * limit / one.flops);
    print_step("  50 ms at a time", one.flops * (double)rounds / best_seconds(run_peak_for_long, &rounds), limit);
    t.turns = 10000;
    double work = 2.0 * (double)(kernel->mr * kernel->nr * t.turns);
    print_step("  tile, panels of 64 numbers", work * 64 / best_seconds(run_tiles, &t), limit);
    t.length = MATMUL_KC, t.turns = 3000;
    work = 2.0 * (double)(kernel->mr * kernel->nr * t.turns);
    print_step("  tile, panels of 256", work * MATMUL_KC / best_seconds(run_tiles, &t), limit);
    t.down = down, t.across = across, t.turns = 100;
    work = 2.0 * (double)(area * t.turns) * MATMUL_KC;
    char what[64];
    snprintf(what, sizeof what, "  tiles of %zu rows and %zu columns", down * kernel->mr, across * kernel->nr);
    print_step(what, work / best_seconds(run_tiles, &t), limit);
    t.ldc = COLUMNS, t.places = ROWS / 96 * (COLUMNS / 64);
    t.turns = t.places;
    work = 2.0 * (double)(area * t.turns) * MATMUL_KC;
    print_step("  C in lines of 2,048, no line written twice", work / best_seconds(run_tiles, &t), limit);
    print_step("  a product, 512 x 512 x 2048, packing included", product / best_seconds(run_forward, &l), limit);
    set_threads(threads);
    if (peak > 0) {
        print_step("all threads: a product, 512 x 512 x 2048", product / best_seconds(run_forward, &l), peak);
    }
    printf("\n");
    free(l.inp), free(l.weight), free(l.out), free(t.a), free(t.b), free(t.c);
}

// ---------------------------------------------------------------------------------------------

typedef struct {
    const MatmulKernel* kernel;
    size_t N, IC, OC;
    Bf16 *inp, *weight, *dout;
    float* out;
} HalfLayer;

static void run_half_forward(void* argument) {
    HalfLayer* l = (HalfLayer*)argument;
    gemm_any(l->kernel, 0, 1, l->N, l->OC, l->IC, 1, l->inp, NUMBER_BF16, l->IC, l->weight, NUMBER_BF16, l->IC, 0,
             l->out, l->OC, NULL);
}
static void run_half_backward_input(void* argument) {
    HalfLayer* l = (HalfLayer*)argument;
    gemm_any(l->kernel, 0, 0, l->N, l->IC, l->OC, 1, l->dout, NUMBER_BF16, l->OC, l->weight, NUMBER_BF16, l->IC, 0,
             l->out, l->IC, NULL);
}
static void run_half_backward_weight(void* argument) {
    HalfLayer* l = (HalfLayer*)argument;
    gemm_any(l->kernel, 1, 0, l->OC, l->IC, l->N, 1, l->dout, NUMBER_BF16, l->OC, l->inp, NUMBER_BF16, l->IC, 1, l->out,
             l->IC, NULL);
}

static Bf16* random_halves(size_t count) {
    float* x = random_numbers(count);
    Bf16* half = (Bf16*)xalloc(count, sizeof(Bf16), "a benchmark");
    for (size_t i = 0; i < count; i++) { half[i] = bf16_of_float(x[i]); }
    free(x);
    return half;
}

// A product of two operands of a and b numbers into c, which is read too if `reads`.
static void print_half_rate(const HalfLayer* l, double seconds, double a, double b, double c, int reads) {
    double flops = 2.0 * (double)l->N * (double)l->IC * (double)l->OC;
    double peak = machine_peak_flops(l->kernel->peak), bytes = 2 * a + 2 * b + (reads ? 8 : 4) * c;
    double roof = flops * machine_copy_bandwidth() / bytes;
    printf("  %7.1f  ", flops / seconds * 1e-9);
    if (peak > 0) {
        printf("%4.2f %s", flops / seconds / fmin(peak, roof), peak < roof ? "peak" : "C   ");
    } else {
        printf("   - peak");
    }
}

static void bench_half_layer(const MatmulKernel* kernel, const char* what, size_t N, size_t IC, size_t OC) {
    size_t a = N * IC, b = OC * IC, c = N * OC;
    HalfLayer l = {kernel,
                   N,
                   IC,
                   OC,
                   random_halves(a),
                   random_halves(b),
                   random_halves(c),
                   random_numbers(max_size(max_size(a, b), c))};
    printf("%-28s %5zu %5zu %6zu", what, N, IC, OC);
    print_half_rate(&l, best_seconds(run_half_forward, &l), (double)a, (double)b, (double)c, 0);
    print_half_rate(&l, best_seconds(run_half_backward_input, &l), (double)c, (double)b, (double)a, 0);
    print_half_rate(&l, best_seconds(run_half_backward_weight, &l), (double)c, (double)a, (double)b, 1);
    printf("\n");
    fflush(stdout);
    free(l.inp), free(l.weight), free(l.dout), free(l.out);
}

static void bench_bf16(void) {
    for (int i = 0; i < BF16_KERNELS; i++) {
        const MatmulKernel* kernel = &bf16_kernels[i].kernel;
        if (!bf16_usable(&bf16_kernels[i])) { continue; }
        machine_measure_peak(kernel->peak, 2);
        printf("bf16, kernel %s, GFLOP/s; peak of its instruction ", kernel->name);
        if (machine_peak_flops(kernel->peak) > 0) {
            printf("%.1f\n", machine_peak_flops(kernel->peak) * 1e-9);
        } else {
            printf("not known: other programs disturb its readings\n");
        }
        printf("%-28s %5s %5s %6s  %18s  %18s  %18s\n", "layer", "rows", "IC", "OC", "forward", "backward input",
               "backward weight");
        bench_half_layer(kernel, "160m qkv", 256, 768, 2304);
        bench_half_layer(kernel, "160m attention out", 256, 768, 768);
        bench_half_layer(kernel, "160m ff up", 256, 768, 3072);
        bench_half_layer(kernel, "160m ff down", 256, 3072, 768);
        bench_half_layer(kernel, "70m qkv", 512, 512, 1536);
        bench_half_layer(kernel, "70m ff up", 512, 512, 2048);
        bench_half_layer(kernel, "70m ff down", 512, 2048, 512);
        bench_half_layer(kernel, "70m mix (scores, mix, dW)", 256, 512, 50304);
        bench_half_layer(kernel, "tiny ff up", 1024, 128, 512);
        printf("\n");
    }
}

// ---------------------------------------------------------------------------------------------

typedef struct {
    int B, T, NH, HS;
    float *q, *k, *v, *out, *lse, *dout, *dq, *dk, *dv;
} Heads;

static void run_attention_forward(void* argument) {
    Heads* h = (Heads*)argument;
    size_t C = (size_t)h->NH * (size_t)h->HS;
    attention_forward(h->out, h->lse, h->q, h->k, h->v, h->B, h->T, h->NH, h->NH, h->HS, C, (size_t)h->HS,
                      (size_t)h->HS);
}
static void run_attention_backward(void* argument) {
    Heads* h = (Heads*)argument;
    size_t C = (size_t)h->NH * (size_t)h->HS;
    attention_backward(h->dq, h->dk, h->dv, h->dout, h->q, h->k, h->v, h->out, h->lse, h->B, h->T, h->NH, h->NH, h->HS,
                       C, (size_t)h->HS, (size_t)h->HS);
}

static void bench_heads(int B, int T, int NH, int HS) {
    size_t n = (size_t)B * (size_t)T * (size_t)NH * (size_t)HS;
    Heads h = {B, T, NH, HS};
    float** all[] = {&h.q, &h.k, &h.v, &h.out, &h.dout, &h.dq, &h.dk, &h.dv};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) { *all[i] = random_numbers(n); }
    h.lse = random_numbers((size_t)B * (size_t)NH * (size_t)T);
    // causal: half the square; two products forward, five backward
    double square = 2.0 * (double)B * NH * (double)T * (double)T * HS / 2;
    printf("%4d %5d %4d %4d", B, T, NH, HS);
    print_rate(2 * square / best_seconds(run_attention_forward, &h));
    print_rate(5 * square / best_seconds(run_attention_backward, &h));
    printf("\n");
    fflush(stdout);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) { free(*all[i]); }
    free(h.lse);
}

static void bench_attention(void) {
    printf("attention, causal counted as half the square: GFLOP/s\n");
    printf("%4s %5s %4s %4s  %15s  %15s\n", "B", "T", "NH", "HS", "forward", "backward");
    bench_heads(4, 64, 12, 64);
    bench_heads(2, 256, 8, 64);
    bench_heads(1, 1024, 8, 64);
    bench_heads(1, 512, 8, 128);
    bench_heads(8, 128, 4, 32);
    printf("\n");
}

// ---------------------------------------------------------------------------------------------

typedef struct {
    TensorTable table;
    float *params, *grads, *m, *v;
    double norm;
} Optimiser;

static void run_grad_norm(void* argument) {
    Optimiser* o = (Optimiser*)argument;
    o->norm = grad_norm(&o->table, o->grads);
}
static void run_adamw(void* argument) {
    Optimiser* o = (Optimiser*)argument;
    AdamwStep step = adamw_step(1.0, 1e-3, 0.9, 0.95, 1e-8, 0.01, 100);
    adamw_update(&o->table, o->params, o->grads, o->m, o->v, &step);
}

static void bench_adamw(void) {
    Optimiser o = {0};
    tensor_add(&o.table, format_string("weight"), 32768, 768, INIT_ZEROS, 0);
    size_t n = o.table.total;
    o.params = random_numbers(n), o.grads = random_numbers(n);
    o.m = (float*)xalloc(n, sizeof(float), "a benchmark");
    o.v = (float*)xalloc(n, sizeof(float), "a benchmark");
    double norm = 4.0 * (double)n / best_seconds(run_grad_norm, &o);  // reads g
    double update = 28.0 * (double)n / best_seconds(run_adamw, &o);   // reads p, g, m, v, writes p, m, v
    printf("adamw, %.1f million parameters: GB/s\n", (double)n * 1e-6);
    printf("%-28s %7.1f  %4.2f C\n", "gradient norm", norm * 1e-9, norm / machine_copy_bandwidth());
    printf("%-28s %7.1f  %4.2f C\n\n", "update", update * 1e-9, update / machine_copy_bandwidth());
    free(o.params), free(o.grads), free(o.m), free(o.v);
    free(o.table.list[0].name), free(o.table.list);
}

// ---------------------------------------------------------------------------------------------

typedef struct {
    const char* name;
    void (*run)(void);
} Section;

static const Section sections[] = {
    {"ladder", bench_ladder},       {"matmul", bench_matmul}, {"bf16", bench_bf16},
    {"attention", bench_attention}, {"adamw", bench_adamw},
};
enum { SECTIONS = sizeof sections / sizeof *sections };

int MAIN(int argc, char** argv) {
    for (int i = 1; i < argc; i++) {
        int known = 0;
        for (int s = 0; s < SECTIONS; s++) { known |= strcmp(argv[i], sections[s].name) == 0; }
        if (!known) {
            die("unknown section '%s': expected some of ladder, matmul, bf16, attention, adamw, or nothing for all of "
                "them",
                argv[i]);
        }
    }
    printf("%s, %s, %d thread%s\n", machine_name(), machine_isa(), thread_count(), thread_count() == 1 ? "" : "s");
    double before = machine_measure_peak(&machine_fma, 5);
    if (machine_peak_flops(&machine_fma) > 0) {
        printf("P = %.1f GFLOP/s (fused multiply-add peak), ", machine_peak_flops(&machine_fma) * 1e-9);
    } else {
        printf("P not known (fused multiply-add peak: other programs disturb its readings), ");
    }
    printf("C = %.1f GB/s (copy bandwidth)\n\n", machine_copy_bandwidth() * 1e-9);
    for (int s = 0; s < SECTIONS; s++) {
        int wanted = argc == 1;
        for (int i = 1; i < argc; i++) { wanted |= strcmp(argv[i], sections[s].name) == 0; }
        if (wanted) { sections[s].run(); }
        double after = machine_measure_peak(&machine_fma, 0.3);
        if (wanted && !machine_steady(fmin(before, after), machine_fma.limit.best[0])) {
            printf(
                "P was %.1f GFLOP/s before this section, %.1f after it, %.1f at best: its shares of P mean nothing\n\n",
                before * 1e-9, after * 1e-9, machine_fma.limit.best[0] * 1e-9);
        }
        before = after;
    }
    return 0;
}
