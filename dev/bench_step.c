// bench_step.c - whole training steps on the CPU: forward, backward, gradient norm, AdamW.
//
//     bench_step PRESET S B T [PRESET S B T]...
//
// Rates count model FLOPs (forward and backward, causal attention as half the square) and are given
// beside P, the peak of fused multiply-adds measured right before. One JSON line a case at the end. Run
// one case per process to see its peak memory.
#include "architecture.h"

#include "../common/machine.h"

#include <sys/resource.h>

static void bench_case(const char* preset, const char* ponder, int B, int T) {
    OptionTable options;
    memset(&options, 0, sizeof options);
    architecture_options(&options);
    char* argv[] = {format_string("bench_step"), format_string("--ponder"), format_string("%s", ponder)};
    options_parse(&options, 3, argv);
    Model* model = architecture_model(&options, preset, B, T);
    model->allocate(model, 1);
    tensor_init(&model->tensors, model->params, 1);
    real* m = (real*)xalloc(model->tensors.total, sizeof(real), "moments");
    real* v = (real*)xalloc(model->tensors.total, sizeof(real), "moments");
    int n = B * T;
    int* inputs = (int*)xalloc((size_t)n, sizeof(int), "tokens");
    int* targets = (int*)xalloc((size_t)n, sizeof(int), "tokens");
    for (int i = 0; i < n; i++) {
        inputs[i] = (int)(random_u32(1, 1, (uint64_t)i) % (uint32_t)model->V);
        targets[i] = (int)(random_u32(1, 2, (uint64_t)i) % (uint32_t)model->V);
    }
    double flops = 0;
    for (int i = 0; i < model->flops_rows; i++) { flops += model->flops[i].amount * n; }

    double peak = machine_peak_flops(), best = 1e30, best_passes = 1e30, loss = 0;
    for (int step = 0; step < 6; step++) {
        double begin = now_seconds();
        memset(model->grads, 0, model->tensors.total * sizeof(real));
        loss = model->train(model, inputs, targets, B, T, 1.0 / n) / n;
        double passes = now_seconds() - begin;
        double norm = grad_norm(&model->tensors, model->grads);
        AdamwStep update = adamw_step(clip_scale(norm, 1), 1e-4, 0.9, 0.95, 1e-8, 0.01, step + 1);
        adamw_update(&model->tensors, model->params, model->grads, m, v, &update);
        double seconds = now_seconds() - begin;
        if (seconds < best) { best = seconds, best_passes = passes; }
    }
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double memory = (double)usage.ru_maxrss * 1024;
    printf("%s, S = %s, B = %d, T = %d: %.3f s a step (%.3f s of it norm and AdamW), %.1f tokens/s\n", preset, ponder,
           B, T, best, best - best_passes, n / best);
    printf("    %.1f GFLOP a step: %.1f GFLOP/s, %.3f of P = %.1f GFLOP/s; peak memory %.2f GB; loss %.4f\n",
           flops / 1e9, flops / best / 1e9, flops / best / peak, peak / 1e9, memory / 1e9, loss);
    printf("{\"program\": \"ponder.c\", \"model\": \"%s\", \"ponder\": %s, \"batch\": %d, \"seq\": %d, "
           "\"tokens_per_s\": %.2f, "
           "\"share_of_peak\": %.4f, \"peak_memory\": %.0f}\n",
           preset, ponder, B, T, n / best, flops / best / peak, memory);
    fflush(stdout);
}

int MAIN(int argc, char** argv);
int MAIN(int argc, char** argv) {
    if (argc < 5 || (argc - 1) % 4 != 0) { die("usage: bench_step PRESET S B T [PRESET S B T]..."); }
    for (int i = 1; i < argc; i += 4) { bench_case(argv[i], argv[i + 1], atoi(argv[i + 2]), atoi(argv[i + 3])); }
    return 0;
}
