// bench_step.cu - whole training steps on a GPU: forward, backward, gradient norm, AdamW.
//
//     bench_step PRESET S ROWS T [--steps N] [--profile] [--quick] [the trainer's options of the model]
//
// PRESET with S pondering steps on ROWS rows of T random tokens a step. They come in the micro-batches that the
// trainer would choose.
// Weights are the trainer's at step 0. Times are the host's clock around whole steps, which end by waiting
// for the GPU; the median of N (10). Rates count model FLOPs (forward and backward, causal attention as
// half the square, nothing computed again) and are given beside P, the rate of a large product measured
// right before, and beside the ledger: the same step as the card's limits allow it. One JSON line at the
// end, for dev/gpu_check.sh. --profile: then one more step, launch by launch, and what each kernel and product took of
// it. --quick: P of a small product, for the emulator. bench_step.c is the CPU's.
#include "architecture.h"

#include "bench.cuh"

// ---- a step, launch by launch ----

// Before each launch an event: from one to the next is that launch's time, with the gap behind it. Without a graph the
// host may fall behind the GPU in a small model; the step's time above says by how much.
enum { PROFILED = 1 << 16 };
static cudaEvent_t profile_event[PROFILED];
static int profile_row[PROFILED], profile_count;

static void profile_watch(int row) {
    if (profile_count + 1 >= PROFILED) { die("--profile: more than %d launches in a step", PROFILED); }
    profile_row[profile_count] = row;
    CUDA_CHECK(cudaEventCreate(&profile_event[profile_count]));
    CUDA_CHECK(cudaEventRecord(profile_event[profile_count++], device.stream));
}

// One step of `micro` micro-batches, whose data are there; prints what took longest first. us: of the step as it is
// trained.
static void profile_step(Model* model, int micro, int B, int T, double us) {
    const AdamwStep update = adamw_step(1, 0, 0.9, 0.95, 1e-8, 0, 1);
    double row_us[LEDGER_ROWS] = {0}, all = 0;
    ledger_clear();
    ledger.booking = 1, ledger.watch = profile_watch;
    model->zero_grads(model);
    for (int i = 0; i < micro; i++) { model->micro_batch(model, B, T); }
    model->grad_norm(model);
    model->update(model, &update);
    ledger.booking = 0, ledger.watch = NULL;
    CUDA_CHECK(cudaEventCreate(&profile_event[profile_count]));
    CUDA_CHECK(cudaEventRecord(profile_event[profile_count], device.stream));
    CUDA_CHECK(cudaEventSynchronize(profile_event[profile_count]));
    for (int i = 0; i < profile_count; i++) {
        float ms = 0;
        CUDA_CHECK(cudaEventElapsedTime(&ms, profile_event[i], profile_event[i + 1]));
        row_us[profile_row[i]] += 1e3 * (double)ms, all += 1e3 * (double)ms;
    }
    for (int i = 0; i <= profile_count; i++) { CUDA_CHECK(cudaEventDestroy(profile_event[i])); }
    printf("%-42s %-14s %8s %10s %6s %10s %6s\n", "profile of a step without a graph", "part", "launches", "us",
           "share", "limit us", "of it");
    for (int printed = 0; printed < ledger.rows; printed++) {
        int most = 0;
        for (int i = 1; i < ledger.rows; i++) { most = row_us[i] > row_us[most] ? i : most; }
        const LedgerRow* row = &ledger.row[most];
        const double limit = 1e6 * ledger_seconds(row, &bench_card, sizeof(floatX) == 2);
        printf("%-42.42s %-14s %8lld %10.1f %4.1f %% %10.1f %6.2f\n", row->name, ledger_part_names[row->part],
               (long long)row->launches, row_us[most], 100 * row_us[most] / all, limit, limit / row_us[most]);
        row_us[most] = -1;
    }
    printf("%-42s %-14s %8d %10.1f, as it is trained %.1f\n", "total", "", profile_count, all, us);
}

static int number_of(const char* what, const char* text) {
    char* end = NULL;
    long n = strtol(text, &end, 10);
    if (*end || end == text || n < 0 || n > 1 << 20) { die("%s '%s': expected a whole number", what, text); }
    return (int)n;
}

int MAIN(int argc, char** argv);
int MAIN(int argc, char** argv) {
    threads_wait_briefly(argv);
    enum { WARM = 3 };  // products choose their algorithms; the plain launches; the graph is captured
    if (argc < 5) { die("usage: bench_step PRESET S ROWS T [--steps N] [--profile] [--quick] [options of the model]"); }
    const char* preset = argv[1];
    int S = number_of("S", argv[2]), rows = number_of("ROWS", argv[3]), T = number_of("T", argv[4]);
    if (rows < 1 || T < 1) { die("ROWS %d, T %d: expected at least 1 of each", rows, T); }
    OptionTable options;
    memset(&options, 0, sizeof options);
    const Option own[] = {
        {"benchmark", "steps", OPTION_INT, "10", "N", 1, 1000, RESUME_RUN, "steps that are timed"},
        {"benchmark", "profile", OPTION_FLAG, NULL, NULL, 0, 0, RESUME_RUN, "then one step, launch by launch"},
        {"benchmark", "quick", OPTION_FLAG, NULL, NULL, 0, 0, RESUME_RUN, "P of a small product"},
    };
    options_add(&options, own, 3);
    architecture_options(&options);
    StringBuilder ponder = {0};
    sb_printf(&ponder, "--ponder=%d", S);
    argv[4] = ponder.data;
    options_parse(&options, argc - 3, argv + 3);  // argv[3] is in the place of the program's name
    bench_quick = options_set(&options, "quick");
    bench_limits();
    bench_give_memory();

    Model* model = architecture_model(&options, preset, rows, T);
    int B = model->choose_rows(model, "", rows, 1), micro = (rows + B - 1) / B;
    int64_t tokens = (int64_t)micro * B * T;
    model->prepare(model, 1);
    model->allocate(model, 1);
    tensor_init(&model->tensors, model->params, 1);
    model->upload(model, NULL, NULL);
    char* text = model->device_text(model);
    printf("%s\n", text);
    free(text);
    int n = B * T;
    int* inputs = (int*)xalloc((size_t)n, sizeof(int), "tokens");
    int* targets = (int*)xalloc((size_t)n, sizeof(int), "tokens");
    for (int i = 0; i < n; i++) {
        inputs[i] = (int)(random_u32(1, 1, (uint64_t)i) % (uint32_t)model->V);
        targets[i] = (int)(random_u32(1, 2, (uint64_t)i) % (uint32_t)model->V);
    }

    int steps = (int)options_int(&options, "steps");
    double* ms = (double*)xalloc((size_t)steps, sizeof(double), "times");
    double* optimiser_ms = (double*)xalloc((size_t)steps, sizeof(double), "times");
    double loss = 0;
    for (int step = 0; step < WARM + steps; step++) {
        matmul_search = step == 0;
        CUDA_CHECK(cudaStreamSynchronize(device.stream));
        double begin = now_seconds();
        model->zero_grads(model);
        loss = 0;
        for (int i = 0; i < micro; i++) {  // as the trainer does: losses are read when the last is done
            loss += model_train(model, inputs, targets, B, T, 1.0 / (double)tokens);
        }
        int bad;
        loss = (loss + model_finish(model, &bad)) / (double)tokens;
        double passes = now_seconds();
        double norm = model->grad_norm(model);
        if (step > 0) {  // the search overwrites outputs, so the first gradients are none
            AdamwStep update = adamw_step(clip_scale(norm, 1), 1e-4, 0.9, 0.95, 1e-8, 0.01, step);
            model->update(model, &update);
        }
        CUDA_CHECK(cudaStreamSynchronize(device.stream));
        double end = now_seconds();
        if (step >= WARM) { ms[step - WARM] = 1e3 * (end - begin), optimiser_ms[step - WARM] = 1e3 * (end - passes); }
        if (step > 0 && !(loss - loss == 0 && norm - norm == 0)) {
            die("step %d: the loss is %g and the gradient norm %g, expected finite numbers", step, loss, norm);
        }
    }
    qsort(ms, (size_t)steps, sizeof ms[0], compare_us);
    qsort(optimiser_ms, (size_t)steps, sizeof ms[0], compare_us);
    double seconds = 1e-3 * ms[steps / 2], memory = (double)device.taken;

    double flops = 0;
    for (int i = 0; i < model->flops_rows; i++) { flops += model->flops[i].amount * (double)tokens; }
    double part_ms[PARTS] = {0}, limit_ms = 0;
    ledger.dry = 1;
    plan_dry_step(model, micro * B);
    ledger.dry = 0;
    for (int i = 0; i < ledger.rows; i++) {
        double row_ms = 1e3 * ledger_seconds(&ledger.row[i], &bench_card, sizeof(floatX) == 2);
        part_ms[ledger.row[i].part] += row_ms, limit_ms += row_ms;
    }
    printf("%s, S = %d, %d x %d rows of %d: %.2f ms a step (%.2f to %.2f; norm and AdamW %.2f), %.0f tokens/s\n",
           preset, S, micro, B, T, ms[steps / 2], ms[0], ms[steps - 1], optimiser_ms[steps / 2],
           (double)tokens / seconds);
    printf("    %.1f TFLOP/s in model FLOPs, %.3f of P; loss %.4f; peak memory %.2f GB\n", flops / seconds / 1e12,
           flops / seconds / bench_P, loss, memory / 1e9);
    printf("    the card's limits allow %.2f ms, %.2f of this:", limit_ms, limit_ms / (1e3 * seconds));
    for (int part = 0; part < PARTS; part++) {
        if (part_ms[part] > 0) { printf(" %s %.2f", ledger_part_names[part], part_ms[part]); }
    }
    printf(
        "\n{\"program\": \"ponder.c\", \"gpu\": \"%s\", \"precision\": \"%s\", \"model\": \"%s\", \"ponder\": %d, "
        "\"batch\": %d, \"micro_batch\": %d, \"seq\": %d, \"ms\": %.3f, \"tokens_per_s\": %.1f, \"share_of_P\": %.4f, "
        "\"limit_ms\": %.3f, \"peak_memory_gb\": %.3f}\n",
        device.name, PRECISION, preset, S, micro * B, B, T, 1e3 * seconds, (double)tokens / seconds,
        flops / seconds / bench_P, limit_ms, memory / 1e9);
    if (options_set(&options, "profile")) { profile_step(model, micro, B, T, 1e6 * seconds); }
    return 0;
}
