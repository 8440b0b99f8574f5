// graph.cuh - a micro-batch as one CUDA graph: captured once, launched from then on instead of all its kernels.
#ifndef PONDER_GRAPH_CUH
#define PONDER_GRAPH_CUH

#include "device.cuh"
#include "model.h"

typedef struct {
    int on;  // 0: never capture
    cudaGraphExec_t exec;
    int B, T, runs;  // the micro-batch that is captured; its runs before that
} Graph;

// Runs model->micro_batch(model, B, T). The first of a shape runs as it is: products choose their algorithms. The
// second is captured. Shorter ones, such as the last of a step, displace none and run as they are.
static inline void graph_run(Graph* g, Model* model, int B, int T) {
    int same = g->B == B && g->T == T;
    if (g->exec && same) {
        CUDA_CHECK(cudaGraphLaunch(g->exec, device.stream));
    } else if (g->exec || !g->on || g->runs == 0 || !same) {
        if (!g->exec && B >= g->B) { g->B = B, g->T = T, g->runs = 1; }
        model->micro_batch(model, B, T);
    } else {
        cudaGraph_t graph;
        CUDA_CHECK(cudaStreamBeginCapture(device.stream, cudaStreamCaptureModeThreadLocal));
        model->micro_batch(model, B, T);
        CUDA_CHECK(cudaStreamEndCapture(device.stream, &graph));
        CUDA_CHECK(cudaGraphInstantiate(&g->exec, graph, 0));
        CUDA_CHECK(cudaGraphDestroy(graph));
        CUDA_CHECK(cudaGraphLaunch(g->exec, device.stream));
    }
}

// Names the micro-batch that a step mostly has, which has run before: its next run is captured, whatever else has run.
static inline void graph_expect(Graph* g, int B, int T) {
    if (!g->exec) { g->B = B, g->T = T, g->runs = 1; }
}

#endif
