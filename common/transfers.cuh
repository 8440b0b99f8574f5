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
    Range range;                     // what of them is here: everything, or not all of master, m and v
    size_t masters, moments, spans;  // numbers for which there is room
    float* master;                   // weights in fp32, as range_master() says
    floatX* x;                       // the same rounded, for products; master itself in the fp32 program
    float* grads;                    // sums over passes and micro-batches
    float *m, *v;                    // AdamW's moments, of the range
    double* squares;                 // the sum of squares of all gradients, then that of each block of grad_norm
    AdamwPlan adamw;                 // which parameters each block of the optimiser takes
} Families;

// What is divided has room for every rank's range, so that one collective of equal parts moves all of it.
static inline void families_take(Families* f, Arena* a, int training) {
    const size_t room = f->range.room, moments = training ? f->moments : 0;
    const int rounds = sizeof(floatX) != sizeof(float);
    f->master = TAKE(a, float, "weights", rounds ? f->masters : room);
    f->x = rounds ? TAKE(a, floatX, "weights, rounded", room) : (floatX*)f->master;
    f->grads = TAKE(a, float, "gradients", training ? room : 0);
    f->m = TAKE(a, float, "first moments", moments);
    f->v = TAKE(a, float, "second moments", moments);
    f->squares = TAKE(a, double, "sums of squares", training ? 1 + grad_norm_scratch(room) : 0);
    f->adamw.device = TAKE(a, const AdamwSpan, "the optimiser's plan", training ? f->spans : 0);
}

// The ranges of `count` ranks, of which this is `rank`. There is room as for the largest, so that all ranks plan their
// memory alike, and so micro-batches of as many rows.
static inline void families_divide(Families* f, const TensorTable* table, int rank, int count) {
    f->range = range_of(table->total, rank, count);
    f->masters = 0, f->moments = min_size(f->range.most, table->total);
    for (int r = 0; r < count; r++) {
        Range other = range_of(table->total, r, count);
        f->masters = max_size(f->masters, range_masters(&other, table));
    }
    f->spans = f->moments / ADAMW_SPAN + (size_t)table->count + 1;
}

// Bytes of a training's families, whole (count = 1) or as each of `count` ranks has them.
static inline size_t families_bytes(const TensorTable* table, int count) {
    Families f;
    Arena a;
    memset(&f, 0, sizeof f), memset(&a, 0, sizeof a);
    families_divide(&f, table, 0, count);
    if (count == 1) {
        AdamwPlan all = adamw_plan(table);
        f.spans = all.count;
        free(all.host);
    }
    families_take(&f, &a, 1);
    return a.used;
}

// Once the memory is there: what a layer never writes, padding above all, is 0.
static inline void families_start(Families* f) {
    if ((void*)f->x != (void*)f->master) { device_zero(f->master, f->masters * sizeof(float)); }
    device_zero(f->x, f->range.room * sizeof(floatX));
    if (!f->grads) { return; }
    device_zero(f->grads, f->range.room * sizeof(float));
    device_zero(f->m, f->moments * sizeof(float));
    device_zero(f->v, f->moments * sizeof(float));
    device_upload_now((void*)f->adamw.device, f->adamw.host, f->adamw.count * sizeof(AdamwSpan));
}

// The masters of a tensor; NULL where they are not all here.
static inline float* families_master(const Families* f, const TensorTable* table, const Tensor* t) {
    return range_whole(&f->range, t) ? f->master + range_master(&f->range, table, t, t->offset) : NULL;
}
// Tells the layers where all lies.
static inline void families_bind(const Families* f, const TensorTable* table) {
    tensors_bind_cuda(table, f->master, f->x, f->grads);
    for (int i = 0; i < table->count; i++) {
        const Tensor* t = &table->list[i];
        if (t->weight) { t->weight->master = families_master(f, table, t); }
    }
}
// Lists the weights: masters, or where those are not all here what layers read.
static inline void families_list(const Model* model, Places* places) {
    const Families* f = model->families;
    for (int i = 0; i < model->tensors.count; i++) {
        const Tensor* t = &model->tensors.list[i];
        float* master = families_master(f, &model->tensors, t);
        void* at = master ? (void*)master : (void*)(f->x + t->offset);
        places_add(places, format_string("%s%s", LIST_PARAMETER, t->name), at, t->size,
                   master ? sizeof(float) : sizeof(floatX));
    }
}

// What a Model does with them (model.h) where all is here.
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
    f->range = range_of(model->tensors.total, 0, 1);
    f->adamw = adamw_plan(&model->tensors);
    f->masters = f->moments = model->tensors.total, f->spans = f->adamw.count;
    model->families = f;
    model->upload = families_upload;
    model->download = families_download;
    model->download_grads = families_download_grads;
    model->zero_grads = families_zero_grads;
    model->grad_norm = families_grad_norm;
    model->update = families_update;
}

// ---- a micro-batch ----
//
// The host fills one of two page-locked buffers while the GPU still copies, or waits to copy, the other: it is at most
// two micro-batches ahead, and neither waits for the other. Copies and kernels are in one stream, and what kernels read
// always lies at the same place, as a captured graph needs it. Sums of losses stay on the GPU until they are asked for,
// once a step.

enum { BATCH_BUFFERS = 2, BATCH_HEAD = 64, LOSS_SUMS = 256 };

typedef struct {
    int* sent;      // (BATCH_HEAD + 4 N) all that comes from the host, in one copy:
    float* scale;   // (1) 1 / targets of the step: in memory, since a captured graph cannot change arguments
    int* which;     // (1) of the sums is the micro-batch's
    int* tokens;    // (4, N): inputs, targets, positions sorted by token, tokens of these
    float* losses;  // (N)
    double* sums;   // (LOSS_SUMS) of micro-batches since they were read
    double* rows;   // (B) sums of the rows of an evaluation
    // On the host, page-locked:
    int* host_sent[BATCH_BUFFERS];  // (BATCH_HEAD + 4 N)
    double* host_sums;              // (LOSS_SUMS)
    // On the host:
    cudaEvent_t copied[BATCH_BUFFERS];  // when a buffer may be filled again
    int next;                           // buffer to be filled
    int waiting;                        // sums that were not read
    int known, bad;                     // sums that were, and the first of them that is not finite, or -1
    double loss;                        // the sum of those that were read
    int* count;                         // (V+1) to sort tokens by
} Batch;

static inline void batch_take(Batch* b, Arena* a, size_t N, size_t B) {
    b->losses = TAKE(a, float, "losses", N);
    b->sums = TAKE(a, double, "sums of losses", LOSS_SUMS);
    b->rows = TAKE(a, double, "losses of rows", B);
    b->sent = TAKE(a, int, "tokens", BATCH_HEAD + 4 * N);
    b->scale = (float*)(void*)b->sent;
    b->which = b->sent ? b->sent + 1 : NULL;
    b->tokens = b->sent ? b->sent + BATCH_HEAD : NULL;
}

static inline void batch_start(Batch* b, size_t N, size_t V) {
    size_t bytes = (BATCH_HEAD + 4 * N) * sizeof(int);
    for (int i = 0; i < BATCH_BUFFERS; i++) {
        CUDA_CHECK(cudaMallocHost((void**)&b->host_sent[i], bytes));
        CUDA_CHECK(cudaEventCreateWithFlags(&b->copied[i], cudaEventDisableTiming));
        memset(b->host_sent[i], 0, bytes);
    }
    CUDA_CHECK(cudaMallocHost((void**)&b->host_sums, LOSS_SUMS * sizeof(double)));
    device_zero(b->sent, bytes);
    b->count = (int*)xalloc(V + 1, sizeof(int), "counts of tokens");
    b->bad = -1;
}

// order (N): positions sorted by token, equal ones in order (counting sort); sorted (N): their tokens; count (V+1)
// scratch.
static inline void batch_sort_tokens(int* order, int* sorted, const int* tokens, size_t N, size_t V, int* count) {
    memset(count, 0, (V + 1) * sizeof(int));
    for (size_t n = 0; n < N; n++) { count[tokens[n] + 1]++; }
    for (size_t v = 0; v < V; v++) { count[v + 1] += count[v]; }
    for (size_t n = 0; n < N; n++) {
        int at = count[tokens[n]]++;
        order[at] = (int)n, sorted[at] = tokens[n];
    }
}

// inputs (N); targets (N), or NULL: only forward. sort: a backward will want the positions sorted. Returns before
// the GPU has them, and does not read inputs and targets later.
static inline void batch_send(Batch* b, const int* inputs, const int* targets, size_t N, size_t V, int sort,
                              double scale) {
    int* sent = b->host_sent[b->next];
    int* tokens = sent + BATCH_HEAD;
    float factor = (float)scale;
    CUDA_CHECK(cudaEventSynchronize(b->copied[b->next]));
    memcpy(sent, &factor, sizeof factor);
    sent[1] = b->waiting;
    memcpy(tokens, inputs, N * sizeof(int));
    if (targets) { memcpy(tokens + N, targets, N * sizeof(int)); }
    if (sort) { batch_sort_tokens(tokens + 2 * N, tokens + 3 * N, inputs, N, V, b->count); }
    device_upload(b->sent, sent, (BATCH_HEAD + (sort ? 4 : 2) * N) * sizeof(int));
    CUDA_CHECK(cudaEventRecord(b->copied[b->next], device.stream));
    b->next = (b->next + 1) % BATCH_BUFFERS;
}
static inline void batch_upload(Batch* b, const int* inputs, const int* targets, size_t N, size_t V, int sort) {
    batch_send(b, inputs, targets, N, V, sort, 0);
}

// Block k: sums[which ? *which : k] = the sum of the N losses from losses + k N on, in double: each thread adds every
// NORM_TILE_THREADS-th, then a fixed tree.
static __global__ void __launch_bounds__(NORM_TILE_THREADS)
    losses_sum_kernel(double* sums, const int* which, const float* __restrict__ losses, size_t N) {
    SHARED(double, fold, NORM_TILE_THREADS);
    double sum = 0;
    losses += blockIdx.x * N;
    for (size_t first = threadIdx.x; first < N; first += 8 * NORM_TILE_THREADS) {
        float x[8];
#pragma unroll
        for (size_t k = 0; k < 8; k++) {  // all loads first: none waits for a sum
            size_t n = first + k * NORM_TILE_THREADS;
            x[k] = n < N ? losses[n] : 0.0f;
        }
#pragma unroll
        for (int k = 0; k < 8; k++) { sum += (double)x[k]; }
    }
    sum = grad_norm_fold(sum, fold);
    if (threadIdx.x == 0) { sums[which ? (size_t)*which : blockIdx.x] = sum; }
}
// The sum of a micro-batch's N losses, in its place among sums.
static inline void losses_sum_cuda(double* sums, const int* which, const float* losses, size_t N) {
    states((double)N, 4.0 * (double)N + 8);
    launch(losses_sum_kernel, 1, NORM_TILE_THREADS, 0, device.stream, sums, which, losses, N);
}
// sums (B) = those of B rows of T losses; the bits of a row's do not depend on B.
static inline void losses_sum_rows_cuda(double* sums, const float* losses, size_t B, size_t T) {
    states((double)(B * T), 4.0 * (double)(B * T) + 8.0 * (double)B);
    launch(losses_sum_kernel, (unsigned)B, NORM_TILE_THREADS, 0, device.stream, sums, NULL, losses, T);
}

// Reads the sums that wait on the GPU, which they wait for, and adds them in their order.
static inline void batch_read_sums(Batch* b) {
    if (b->waiting) { device_download(b->host_sums, b->sums, (size_t)b->waiting * sizeof(double)); }
    for (int i = 0; i < b->waiting; i++) {
        b->loss += b->host_sums[i];
        if (b->bad < 0 && !isfinite(b->host_sums[i])) { b->bad = b->known + i; }
    }
    b->known += b->waiting;
    b->waiting = 0;
}
// A micro-batch whose losses will be in the next sum has been given to the GPU.
static inline void batch_sent(Batch* b) {
    if (++b->waiting == LOSS_SUMS) { batch_read_sums(b); }
}
// The sum over all micro-batches since the last call; *bad = the first whose losses are not finite, or -1.
static inline double batch_finish(Batch* b, int* bad) {
    batch_read_sums(b);
    double loss = b->loss;
    *bad = b->bad;
    b->loss = 0, b->known = 0, b->bad = -1;
    return loss;
}
// row_losses (B) = the sums of the B rows of T losses that are there.
static inline void batch_row_losses(Batch* b, double* row_losses, size_t B, size_t T) {
    losses_sum_rows_cuda(b->rows, b->losses, B, T);
    device_download(row_losses, b->rows, B * sizeof(double));
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
