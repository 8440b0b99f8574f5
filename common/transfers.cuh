// transfers.cuh - what goes between host and GPU, whatever the model computes: weights, gradients and moments, which
// the optimiser works on over there, and a micro-batch's tokens and losses.
#ifndef PONDER_TRANSFERS_CUH
#define PONDER_TRANSFERS_CUH

#include "adamw.cuh"
#include "arena.h"
#include "layers.cuh"
#include "model.h"
#include "tensors.h"

// ---- the families of a tensor table; offsets are the table's ----

typedef struct Families {
    float* master;    // weights in fp32
    floatX* x;        // the same rounded, for products; master itself in the fp32 program
    float* grads;     // sums over passes and micro-batches
    float *m, *v;     // AdamW's moments
    double* squares;  // the sum of squares of all gradients, then grad_norm's scratch
    AdamwPlan adamw;  // which parameters each block of the optimiser takes
} Families;

static inline void families_take(Families* f, Arena* a, const TensorTable* table, int training) {
    size_t n = table->total, b = training ? n : 0;
    f->master = TAKE(a, float, "weights", n);
    f->x = sizeof(floatX) == sizeof(float) ? (floatX*)f->master : TAKE(a, floatX, "weights, rounded", n);
    f->grads = TAKE(a, float, "gradients", b);
    f->m = TAKE(a, float, "first moments", b);
    f->v = TAKE(a, float, "second moments", b);
    f->squares = TAKE(a, double, "sums of squares", training ? 1 + grad_norm_scratch(n) : 0);
    f->adamw.device = TAKE(a, const AdamwSpan, "the optimiser's plan", training ? f->adamw.count : 0);
}

// Once the memory is there: what a layer never writes, padding above all, is 0.
static inline void families_start(Families* f, const TensorTable* table) {
    size_t bytes = table->total * sizeof(float);
    device_zero(f->master, bytes);
    if ((void*)f->x != (void*)f->master) { device_zero(f->x, table->total * sizeof(floatX)); }
    if (!f->grads) { return; }
    device_zero(f->grads, bytes);
    device_zero(f->m, bytes);
    device_zero(f->v, bytes);
    device_upload_now((void*)f->adamw.device, f->adamw.host, f->adamw.count * sizeof(AdamwSpan));
}

// What a Model does with them (model.h).
static inline void families_upload(Model* model, const real* m, const real* v) {
    Families* f = model->families;
    size_t bytes = model->tensors.total * sizeof(float);
    device_upload(f->master, model->params, bytes);
    if ((void*)f->x != (void*)f->master) { copy_rounded_cuda(f->x, f->master, model->tensors.total); }
    if (f->m && m) { device_upload(f->m, m, bytes); }
    if (f->v && v) { device_upload(f->v, v, bytes); }
    if (!ledger.dry) { CUDA_CHECK(cudaStreamSynchronize(device.stream)); }
}
static inline void families_download(Model* model, real* m, real* v) {
    size_t bytes = model->tensors.total * sizeof(float);
    device_download(model->params, model->families->master, bytes);
    if (m) { device_download(m, model->families->m, bytes); }
    if (v) { device_download(v, model->families->v, bytes); }
}
static inline void families_download_grads(Model* model) {
    if (!model->grads) { model->grads = (real*)xalloc(model->tensors.total, sizeof(real), "gradients on the host"); }
    device_download(model->grads, model->families->grads, model->tensors.total * sizeof(float));
}
static inline void families_zero_grads(Model* model) {
    ledger_part(PART_OPTIMISER);
    device_zero(model->families->grads, model->tensors.total * sizeof(float));
}
static inline double families_grad_norm(Model* model) {
    Families* f = model->families;
    double squares = 0;
    ledger_part(PART_OPTIMISER);
    grad_norm_cuda(f->squares, f->squares + 1, f->grads, model->tensors.total);
    device_download(&squares, f->squares, sizeof squares);
    return sqrt(squares);
}
static inline void families_update(Model* model, const AdamwStep* step) {
    Families* f = model->families;
    ledger_part(PART_OPTIMISER);
    adamw_update_cuda(f->master, f->x, f->m, f->v, f->grads, &f->adamw, step);
}

// From here on a model's weights, gradients and moments live in these.
static inline void families_drive(Model* model, Families* f) {
    f->adamw = adamw_plan(&model->tensors);
    model->families = f;
    model->upload = families_upload;
    model->download = families_download;
    model->download_grads = families_download_grads;
    model->zero_grads = families_zero_grads;
    model->grad_norm = families_grad_norm;
    model->update = families_update;
}

// ---- a micro-batch ----

typedef struct {
    int* tokens;    // (3, N): inputs, targets, positions sorted by token
    float* losses;  // (N)
    float* scale;   // (1) 1 / targets of the step: in memory, since a captured graph cannot change arguments
    // On the host; the first three are pinned:
    int* host_tokens;    // (3, N)
    float* host_losses;  // (N)
    float* host_scale;   // (1)
    int* count;          // (V+1) to sort tokens by
} Batch;

static inline void batch_take(Batch* b, Arena* a, size_t N) {
    b->losses = TAKE(a, float, "losses", N);
    b->scale = TAKE(a, float, "scale of the loss", 1);
    b->tokens = TAKE(a, int, "tokens", 3 * N);
}

static inline void batch_start(Batch* b, size_t N, size_t V) {
    CUDA_CHECK(cudaMallocHost((void**)&b->host_tokens, 3 * N * sizeof(int)));
    CUDA_CHECK(cudaMallocHost((void**)&b->host_losses, N * sizeof(float)));
    CUDA_CHECK(cudaMallocHost((void**)&b->host_scale, sizeof(float)));
    memset(b->host_tokens, 0, 3 * N * sizeof(int));
    b->count = (int*)xalloc(V + 1, sizeof(int), "counts of tokens");
}

// order (N): positions sorted by token, equal ones in order (counting sort); count (V+1) scratch.
static inline void batch_sort_tokens(int* order, const int* tokens, size_t N, size_t V, int* count) {
    memset(count, 0, (V + 1) * sizeof(int));
    for (size_t n = 0; n < N; n++) { count[tokens[n] + 1]++; }
    for (size_t v = 0; v < V; v++) { count[v + 1] += count[v]; }
    for (size_t n = 0; n < N; n++) { order[count[tokens[n]]++] = (int)n; }
}

// inputs (N); targets (N), or NULL: only forward, and then the positions are not sorted.
static inline void batch_upload(Batch* b, const int* inputs, const int* targets, size_t N, size_t V, int sorted) {
    memcpy(b->host_tokens, inputs, N * sizeof(int));
    if (targets) { memcpy(b->host_tokens + N, targets, N * sizeof(int)); }
    if (sorted) { batch_sort_tokens(b->host_tokens + 2 * N, inputs, N, V, b->count); }
    device_upload(b->tokens, b->host_tokens, 3 * N * sizeof(int));
}
static inline void batch_upload_scale(Batch* b, double scale) {
    *b->host_scale = (float)scale;
    device_upload(b->scale, b->host_scale, sizeof(float));
}

// The sum of the N losses, in double and in their order.
static inline double batch_loss(Batch* b, size_t N) {
    double sum = 0;
    device_download(b->host_losses, b->losses, N * sizeof(float));
    for (size_t n = 0; n < N; n++) { sum += (double)b->host_losses[n]; }
    return sum;
}

// ---- logits ----

// to (R,V) on the host = the first V of the Vp numbers of R rows
static inline void rows_download(real* to, const floatX* rows, size_t R, size_t V, size_t Vp) {
    static floatX* block = NULL;  // grows, stays: a sample asks for a row a token
    static size_t room = 0;
    if (R * Vp > room) {
        free(block);
        room = R * Vp;
        block = (floatX*)xalloc(room, sizeof(floatX), "logits");
    }
    device_download(block, rows, R * Vp * sizeof(floatX));
    for (size_t r = 0; r < R; r++) {
        for (size_t v = 0; v < V; v++) { to[r * V + v] = (real)host_float(block[r * Vp + v]); }
    }
}

#endif
