// bench_step.c - whole training steps on the CPU: forward, backward, gradient norm, AdamW.
//
//     bench_step [--busy | --decode] [--precision bf16] [--layers 4 ...] PRESET S B T [PRESET S B T]...
//
// Rates count model FLOPs (forward and backward, causal attention as half the square) and are given
// beside P, the peak of fused multiply-adds, or in bf16 of the instruction that computes (common/gemm_bf16.h), measured right
// before and after: the larger of both, none where they differ by more than a tenth. One JSON line a case at the end. Run
// one case per process to see its peak memory. Options change the presets.
//
// --busy: how long the same step takes on an idle machine and with a busy process of our own beside it on every
// processor, on all threads and on one: medians of turns that alternate, so that other programs disturb all alike.
//
// --decode: how long a round takes that makes a token for each of B texts of T tokens, with weights in fp32 and rounded to
// bf16. What bounds it is reading the weights, which a round does once: the layers in every pass, the head at its end, and
// the input table in every mix. These bytes are given beside C, the bandwidth of copying (bytes read plus bytes written)
// measured in between.
#define _GNU_SOURCE  // for sched_setaffinity
#include "architecture.h"

#include "../common/machine.h"

#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

typedef struct {
    const char *preset, *ponder;
    int B, T;
    Model* model;
    real *m, *v;
    int *inputs, *targets;
    int steps;  // done
    double loss;
} Bench;

static Bench bench_begin(OptionTable* options, const char* preset, const char* ponder, int B, int T) {
    char* argv[] = {format_string("bench_step"), format_string("--ponder"), format_string("%s", ponder)};
    options_parse(options, 3, argv);
    Bench b = {preset, ponder, B, T};
    b.model = architecture_model(options, preset, B, T);
    b.model->allocate(b.model, 1);
    tensor_init(&b.model->tensors, b.model->params, 1);
    b.m = (real*)xalloc(b.model->tensors.total, sizeof(real), "moments");
    b.v = (real*)xalloc(b.model->tensors.total, sizeof(real), "moments");
    int n = B * T;
    b.inputs = (int*)xalloc((size_t)n, sizeof(int), "tokens");
    b.targets = (int*)xalloc((size_t)n, sizeof(int), "tokens");
    for (int i = 0; i < n; i++) {
        b.inputs[i] = (int)(random_u32(1, 1, (uint64_t)i) % (uint32_t)b.model->V);
        b.targets[i] = (int)(random_u32(1, 2, (uint64_t)i) % (uint32_t)b.model->V);
    }
    return b;
}

// Seconds of a step, and of its forward and backward alone.
static double bench_step(Bench* b, double* passes) {
    int n = b->B * b->T;
    double begin = now_seconds();
    memset(b->model->grads, 0, b->model->tensors.total * sizeof(real));
    b->loss = b->model->train(b->model, b->inputs, b->targets, b->B, b->T, 1.0 / n) / n;
    *passes = now_seconds() - begin;
    double norm = grad_norm(&b->model->tensors, b->model->grads);
    AdamwStep update = adamw_step(clip_scale(norm, 1), 1e-4, 0.9, 0.95, 1e-8, 0.01, ++b->steps);
    adamw_update(&b->model->tensors, b->model->params, b->model->grads, b->m, b->v, &update);
    return now_seconds() - begin;
}

static void bench_case(Bench* b) {
    const Model* model = b->model;
    int n = b->B * b->T;
    double flops = 0;
    for (int i = 0; i < model->flops_rows; i++) { flops += model->flops[i].amount * n; }
    double before = machine_measure_peak(products_kernel()->peak, 2);
    double best = 1e30, best_passes = 1e30;
    for (int step = 0; step < 6; step++) {
        double passes, seconds = bench_step(b, &passes);
        if (seconds < best) { best = seconds, best_passes = passes; }
    }
    double after = machine_measure_peak(products_kernel()->peak, 2);
    int steady = machine_steady(before, after);
    double peak = steady ? fmax(before, after) : 0, share = peak > 0 ? flops / best / peak : 0;
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double memory = (double)usage.ru_maxrss * 1024;
    printf("%s, S = %s, B = %d, T = %d, %s by %s: %.3f s a step (%.3f s of it norm and AdamW), %.1f tokens/s\n",
           b->preset, b->ponder, b->B, b->T, program_precision(), products_kernel()->name, best, best - best_passes,
           n / best);
    printf("    %.1f GFLOP a step: %.1f GFLOP/s, ", flops / 1e9, flops / best / 1e9);
    if (peak > 0) {
        printf("%.3f of P = %.1f GFLOP/s", share, peak / 1e9);
    } else if (!steady) {
        printf("P was %.1f GFLOP/s before and %.1f after: no share", before / 1e9, after / 1e9);
    } else {
        printf("P not known (other programs disturb it)");
    }
    printf("; peak memory %.2f GB; loss %.4f\n", memory / 1e9, b->loss);
    printf("{\"program\": \"ponder.c\", \"precision\": \"%s\", \"products\": \"%s\", \"model\": \"%s\", \"ponder\": "
           "%s, \"batch\": %d, "
           "\"seq\": %d, "
           "\"tokens_per_s\": %.2f, "
           "\"share_of_peak\": %.4f, \"peak_memory\": %.0f}\n",
           program_precision(), products_kernel()->name, b->preset, b->ponder, b->B, b->T, n / best, share, memory);
    fflush(stdout);
}

// ---- --busy ----

enum { BUSY_TURNS = 5, BUSY_STEPS = 4, BUSY_MOST = 1024 };

// Begins a process that computes for ever, on processor `number` of those that this one may use, and ends with it.
// Left to the scheduler, some would share a processor for the second that a turn takes.
static pid_t busy_begin(int number) {
    pid_t parent = getpid(), child = fork();
    if (child < 0) { die("--busy: no process could be made: %s", strerror(errno)); }
    if (child > 0) { return child; }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    threads_slice(0);  // as a program of somebody else
    cpu_set_t may, one;
    CPU_ZERO(&one);
    if (sched_getaffinity(0, sizeof may, &may) == 0) {
        for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
            if (CPU_ISSET(cpu, &may) && number-- == 0) { CPU_SET(cpu, &one); }
        }
        if (CPU_COUNT(&one)) { sched_setaffinity(0, sizeof one, &one); }
    }
    for (volatile uint64_t i = 1; i % (1 << 20) != 0 || getppid() == parent; i++) {}
    _exit(0);
}

static int compare_doubles(const void* a, const void* b) {
    double x = *(const double*)a, y = *(const double*)b;
    return (x > y) - (x < y);
}
static double median(double* x, size_t n) {
    qsort(x, n, sizeof *x, compare_doubles);
    return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

static void bench_busy(Bench* b) {
    static double seconds[2][2][BUSY_TURNS * BUSY_STEPS];  // [busy][one thread]
    static pid_t busy[BUSY_MOST];
    int threads = thread_count();
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    int processors = online < 1 ? 1 : online > BUSY_MOST ? BUSY_MOST : (int)online;
    for (int turn = 0; turn < BUSY_TURNS; turn++) {
        for (int is_busy = 0; is_busy < 2; is_busy++) {
            for (int i = 0; is_busy && i < processors; i++) { busy[i] = busy_begin(i); }
            for (int one = 0; one < 2; one++) {
                set_threads(one ? 1 : threads);
                double passes;
                bench_step(b, &passes);  // not counted: threads begin, caches fill
                for (int i = 0; i < BUSY_STEPS; i++) {
                    seconds[is_busy][one][turn * BUSY_STEPS + i] = bench_step(b, &passes);
                }
            }
            for (int i = 0; is_busy && i < processors; i++) {
                kill(busy[i], SIGKILL);
                waitpid(busy[i], NULL, 0);
            }
        }
    }
    set_threads(threads);
    double ms[2][2];
    for (int i = 0; i < 4; i++) { ms[i / 2][i % 2] = 1e3 * median(seconds[i / 2][i % 2], BUSY_TURNS * BUSY_STEPS); }
    printf("%s, S = %s, B = %d, T = %d, a busy process on each of %d processors: %.0f ms a step, %.2f x the %.0f ms of "
           "without\n",
           b->preset, b->ponder, b->B, b->T, processors, ms[1][0], ms[1][0] / ms[0][0], ms[0][0]);
    printf(
        "    %d thread%s %s; one thread %.0f ms, without %.0f ms: all threads take %.2f x its time, without %.2f x\n",
        threads, threads == 1 ? "" : "s", threads == 1 ? "" : threads_waiting(), ms[1][1], ms[0][1],
        ms[1][0] / ms[1][1], ms[0][0] / ms[0][1]);
    fflush(stdout);
}

// ---- --decode ----

// Bytes of weights that a round reads.
static double decode_bytes(const Model* model, double number) {
    double layers = 0, table = 0, S = model->passes - 1;
    for (int i = 0; i < model->tensors.count; i++) {
        const Tensor* t = &model->tensors.list[i];
        if (t->ndim == 2 && t->shape[0] == (size_t)model->V) {
            table = (double)t->size;  // two of a size, or one in two uses
        } else if (t->product) {
            layers += (double)t->size;
        }
    }
    return number * ((S + 1) * layers + (2 * S + 1) * table);
}

static void decode_time(Model* model, const char* name, const char* weights, double number, int B, int T,
                        const int* next, const int* rows, int* first, real* logits) {
    double best = 1e30, begin = now_seconds();
    int rounds = 0;
    machine_measure_copy();
    for (; rounds < 10 || (now_seconds() - begin < 5 && rounds < 1000); rounds++) {
        if (rounds % 20 == 19) { machine_measure_copy(); }
        double start = now_seconds();
        model->decode(model, next, B, 1, rows, first, logits);
        best = fmin(best, now_seconds() - start);
    }
    machine_measure_copy();
    double bytes = decode_bytes(model, number), copy = machine_copy_bandwidth();
    printf("%s, S = %d, %d text%s of %d tokens, weights in %s: %.1f tokens/s, %.1f ms a round, the best of %d\n", name,
           model->passes - 1, B, B == 1 ? "" : "s", T, weights, B / best, 1e3 * best, rounds);
    printf("    %.0f MB of weights a round: %.1f GB/s, %.2f of C = %.1f GB/s\n", bytes / 1e6, bytes / best / 1e9,
           bytes / best / copy, copy / 1e9);
    printf("{\"program\": \"ponder.c\", \"what\": \"decode\", \"weights\": \"%s\", \"model\": \"%s\", \"ponder\": %d, "
           "\"batch\": %d, \"seq\": %d, \"tokens_per_s\": %.2f, \"share_of_copy\": %.4f}\n",
           weights, name, model->passes - 1, B, T, B / best, bytes / best / copy);
    fflush(stdout);
}

static void bench_decode(OptionTable* options, const char* preset, const char* ponder, int B, int T) {
    enum { PIECE = 256 };
    char* argv[] = {format_string("bench_step"), format_string("--ponder"), format_string("%s", ponder)};
    options_parse(options, 3, argv);
    Model* model = architecture_model(options, preset, 1, T);
    model->narrow(model, B > PIECE ? B : PIECE);
    model->allocate(model, 0);
    tensor_init(&model->tensors, model->params, 1);
    model->cache_begin(model, B, T);
    int* tokens = (int*)xalloc((size_t)(T + 3 * B), sizeof(int), "tokens");
    int *next = tokens + T, *rows = next + B, *first = rows + B;
    real* logits = (real*)xalloc((size_t)B * (size_t)model->V, sizeof(real), "logits");
    for (int b = 0; b < B; b++) {
        for (int t = 0; t < T; t++) { tokens[t] = (int)(random_u32(1, (uint64_t)b, (uint64_t)t) % (uint32_t)model->V); }
        rows[b] = b, next[b] = tokens[T - 1];
        for (first[b] = 0; first[b] < T - 1;) {
            int n = T - 1 - first[b] < PIECE ? T - 1 - first[b] : PIECE;
            model->decode(model, tokens + first[b], 1, n, &rows[b], &first[b], NULL);
            first[b] += n;
        }
    }
    decode_time(model, preset, "fp32", sizeof(real), B, T, next, rows, first, logits);
    tensors_round(&model->tensors, &model->params);
    decode_time(model, preset, "bf16", sizeof(Bf16), B, T, next, rows, first, logits);
    model->cache_end(model);
    free(tokens), free(logits);
}

int MAIN(int argc, char** argv);
int MAIN(int argc, char** argv) {
    OptionTable options;
    memset(&options, 0, sizeof options);
    architecture_options(&options);
    precision_options(&options);
    char** cases = (char**)xalloc((size_t)argc, sizeof(char*), "arguments");
    int words = 0, busy = 0, decode = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--busy") == 0) {
            busy = 1;
        } else if (strcmp(argv[i], "--decode") == 0) {
            decode = 1;
        } else if (strncmp(argv[i], "--", 2) == 0 && i + 1 < argc) {
            char* pair[] = {argv[0], argv[i], argv[i + 1]};
            options_parse(&options, 3, pair);
            i++;
        } else {
            cases[words++] = argv[i];
        }
    }
    if (words == 0 || words % 4 != 0) {
        die("usage: bench_step [--busy | --decode] [--precision bf16] [--layers N ...] PRESET S B T [PRESET S B T]...");
    }
    precision_enter(&options, "bench_step", NULL, argc, argv);
    for (int i = 0; i < words; i += 4) {
        if (decode) {
            bench_decode(&options, cases[i], cases[i + 1], atoi(cases[i + 2]), atoi(cases[i + 3]));
            continue;
        }
        Bench b = bench_begin(&options, cases[i], cases[i + 1], atoi(cases[i + 2]), atoi(cases[i + 3]));
        if (busy) {
            bench_busy(&b);
        } else {
            bench_case(&b);
        }
    }
    return 0;
}
