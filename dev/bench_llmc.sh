#!/bin/bash
# bench_llmc.sh DIR - times llm.c's own CPU program on the step that bench_step times as gpt2, S = 0: DIR holds llm.c's
# sources (train_gpt2.c and llmc/). Built as its Makefile builds it, fast math and all; B=4, T=64, as in its main.
#
# Weights and tokens are random, since the time depends on neither and its checkpoint would have to be downloaded. A
# step is what its training loop does: forward, zero_grad, backward, update. The best of six counts, as in bench_step.
directory=$1
[ -f "$directory/train_gpt2.c" ] || { echo "bench_llmc: no train_gpt2.c in '$directory': expected llm.c's sources there" >&2; exit 1; }
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
cat >"$tmp/bench.c" <<'END'
#define TESTING // leaves its main out
#include "train_gpt2.c"

int main(void) {
    enum { B = 4, T = 64, V = 50257 };
    static int inputs[B * T], targets[B * T];
    static GPT2 model; // all zero: nothing allocated yet
    model.config = (GPT2Config){1024, V, 50304, 12, 12, 768};
    fill_in_parameter_sizes(model.param_sizes, model.config);
    for (int i = 0; i < NUM_PARAMETER_TENSORS; i++) { model.num_parameters += model.param_sizes[i]; }
    model.params_memory = malloc_and_point_parameters(&model.params, model.param_sizes);
    uint32_t state = 12345;
    for (size_t i = 0; i < model.num_parameters; i++) {
        state = state * 1664525u + 1013904223u;
        model.params_memory[i] = 0.02f * (float)(int32_t)state / 2147483648.0f;
    }
    for (int i = 0; i < B * T; i++) {
        state = state * 1664525u + 1013904223u;
        inputs[i] = (int)((state >> 8) % V);
        targets[i] = (int)((state >> 4) % V);
    }
    double best = 1e30;
    for (int step = 0; step < 6; step++) {
        struct timespec start, end;
        clock_gettime(CLOCK_MONOTONIC, &start);
        gpt2_forward(&model, inputs, targets, B, T);
        gpt2_zero_grad(&model);
        gpt2_backward(&model);
        gpt2_update(&model, 1e-4f, 0.9f, 0.999f, 1e-8f, 0.0f, step + 1);
        clock_gettime(CLOCK_MONOTONIC, &end);
        double seconds = (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec);
        if (seconds < best) { best = seconds; }
    }
    printf("llm.c, train_gpt2.c, B = 4, T = 64: %.3f s a step, %.1f tokens/s\n", best, B * T / best);
    printf("{\"program\": \"llm.c\", \"model\": \"gpt2\", \"ponder\": 0, \"batch\": 4, \"seq\": 64, "
           "\"tokens_per_s\": %.2f, \"loss\": %.4f}\n", B * T / best, (double)model.mean_loss);
    return 0;
}
END
openmp=
echo 'int main(void){return 0;}' | ${CC:-cc} -fopenmp -x c -o /dev/null - 2>/dev/null && openmp="-fopenmp -DOMP"
# shellcheck disable=SC2086
${CC:-cc} -Ofast -march=native -w $openmp -I"$directory" -o "$tmp/bench" "$tmp/bench.c" -lm &&
    OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc 2>/dev/null || echo 1)} "$tmp/bench"
