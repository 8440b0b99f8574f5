// rehearsal.cuh - before the first step: cuBLASLt's algorithms are timed in micro-batches whose results are thrown
// away, for every shape that two files of choices do not have: the run's own at `path`, which a resumed run reads,
// and one beside the program, so that another run on this machine gives the same bits.
#ifndef PONDER_REHEARSAL_CUH
#define PONDER_REHEARSAL_CUH

#include "matmul.cuh"
#include "model.h"

// text: NULL, or what the file at `path` says on another rank: then it is not looked for, and not written.
// rows: of a step of all ranks; its last micro-batch may have fewer than the others. planned: bytes, to be said beside what is
// taken. tune = 0: nothing is timed. For the graph this is the first run of a shape, so that step 1 is captured. A model
// whose micro-batch has more rows than a step validates with all of them.
static inline void rehearse(Model* model, const char* path, const char* text, int64_t rows, size_t planned, int tune) {
    size_t available = 0, all = 0;
    CUDA_CHECK(cudaMemGetInfo(&available, &all));
    printf("GPU memory  %.1f MB taken, %.1f MB planned, %.0f of %.0f MB free\n", (double)device.taken / 1e6,
           (double)planned / 1e6, (double)available / 1e6, (double)all / 1e6);
    if (!tune) { return; }
    double begin = now_seconds();
    char* common = matmul_common_choices();
    if (text) {
        matmul_take_choices(text, path, MATMUL_OF_RUN);
    } else {
        matmul_read_choices(path, MATMUL_OF_RUN);
    }
    if (common) { matmul_read_choices(common, MATMUL_OF_MACHINE); }
    size_t N = (size_t)model->B * (size_t)model->T;
    int* tokens = (int*)xalloc(N, sizeof(int), "tokens of a rehearsal");
    for (size_t n = 0; n < N; n++) { tokens[n] = (int)(n * 2654435761u % (size_t)model->V); }
    matmul_search = 1;
    const int heights[] = {model->B, (int)(rows % model->B)};
    for (int i = 0; i < 2; i++) {
        if (heights[i]) { model->train(model, tokens, tokens, heights[i], model->T, 1.0 / (double)N); }
    }
    matmul_search = 0;
    free(tokens);
    model->zero_grads(model);
    int used[4] = {0};  // by source
    for (int i = 0; i < matmul_choice_count; i++) { used[matmul_choices[i].source] += matmul_choices[i].made; }
    if (!text && used[MATMUL_TIMED] + used[MATMUL_OF_MACHINE]) { matmul_write_choices(path, MATMUL_OF_RUN); }
    if (used[MATMUL_TIMED] && common) { matmul_write_choices(common, MATMUL_OF_MACHINE); }
    printf("products    algorithms of %d shapes: %d from %s, %d from %s, %d timed in %.1f s\n",
           used[MATMUL_TIMED] + used[MATMUL_OF_MACHINE] + used[MATMUL_OF_RUN], used[MATMUL_OF_RUN], path,
           used[MATMUL_OF_MACHINE], common ? common : "nowhere else", used[MATMUL_TIMED], now_seconds() - begin);
    free(common);
}

// Evaluation computes as training on this machine does.
static inline void rehearse_evaluation(void) {
    char* common = matmul_common_choices();
    if (common) { matmul_read_choices(common, MATMUL_OF_MACHINE); }
    free(common);
}

#endif
