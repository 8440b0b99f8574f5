// bench_step.cu - whole training steps on a GPU: forward, backward, gradient norm, AdamW.
//
//     bench_step PRESET S ROWS T [--steps N] [--quick] [the trainer's options of the model]
//
// PRESET with S pondering steps on ROWS rows of T random tokens a step; pythia-160m with S = 0 has the
// shape of GPT-2 124M. They come in the micro-batches that the trainer would choose.
// Weights are the trainer's at step 0. Times are the host's clock around whole steps, which end by waiting
// for the GPU; the median of N (10). Rates count model FLOPs (forward and backward, causal attention as
// half the square, nothing computed again) and are given beside P, the rate of a large product measured
// right before, and beside the ledger: the same step as the card's limits allow it. One JSON line at the
// end, for dev/gpu_check.sh. --quick: P of a small product, for the emulator. bench_step.c is the CPU's.
#include "architecture.h"

#include "bench.cuh"

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
    if (argc < 5) { die("usage: bench_step PRESET S ROWS T [--steps N] [--quick] [options of the model]"); }
    const char* preset = argv[1];
    int S = number_of("S", argv[2]), rows = number_of("ROWS", argv[3]), T = number_of("T", argv[4]);
    if (rows < 1 || T < 1) { die("ROWS %d, T %d: expected at least 1 of each", rows, T); }
    OptionTable options;
    memset(&options, 0, sizeof options);
    const Option own[] = {
        {"benchmark", "steps", OPTION_INT, "10", "N", 1, 1000, RESUME_RUN, "steps that are timed"},
        {"benchmark", "quick", OPTION_FLAG, NULL, NULL, 0, 0, RESUME_RUN, "P of a small product"},
    };
    options_add(&options, own, 2);
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
        for (int i = 0; i < micro; i++) {
            loss += model->train(model, inputs, targets, B, T, 1.0 / (double)tokens) / (double)tokens;
        }
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
    return 0;
}
