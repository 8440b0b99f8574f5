// decode.cuh - memory and launches of a decoded token, whatever the model computes: caches, the logits of its last
// position, what is drawn from them, one CUDA graph for all of it.
//
// What a token changes lies in device memory at fixed places (tokens, rows of the caches, positions, uniform numbers), so that a graph
// serves all tokens whose keys fit into the same number of chunks; every doubling of a text asks for another one, and so
// does another number of texts.
#ifndef PONDER_DECODE_CUH
#define PONDER_DECODE_CUH

#include "cache.cuh"
#include "model.h"
#include "sampling.cuh"

enum { DECODE_GRAPHS = 64, DECODE_REACH = 1024 };  // positions of the first graph's chunks

typedef struct {
    int texts, runs;  // runs before it was captured
    size_t reach;
    int kind;  // what else its launches depend on
    cudaGraphExec_t exec;
} DecodeGraph;

typedef struct {
    SampleDraw* draw;  // (rows)
    int *row, *first;  // (rows) which rows of the caches, and how many tokens each had
} DecodeCall;

typedef struct {
    KeyCacheCuda* caches;  // (passes) NULL: no text is being continued
    int passes, rows;
    // Of the call, on the device and, page-locked, on the host: in one piece, for one copy.
    DecodeCall call, host;
    size_t call_bytes;
    float* logits;    // (rows, Vp) of what follows the last new token of each text
    int* drawn;       // (rows)
    unsigned* seen;   // (rows, seen_words(V)) which tokens each text has
    SampleRule rule;  // by which graphs draw
    int kept;         // blocks of device memory that were there before
    int plain;        // 1: without graphs
    DecodeGraph graph[DECODE_GRAPHS];
    int graphs;
} Decode;

// Bytes of keys and values of all passes, in whole chunks of positions.
static inline size_t decode_capacity(size_t context) { return round_up(context, CACHE_CHUNK); }
static inline double decode_bytes(int passes, int rows, const Sizes* size, size_t context) {
    return (double)passes * (double)sizeof(floatX) *
           (double)cache_numbers_cuda((size_t)rows, (size_t)size->L, (size_t)size->NKV, (size_t)size->HS,
                                      decode_capacity(context));
}

static inline DecodeCall decode_call_at(void* memory, size_t rows) {
    SampleDraw* draw = (SampleDraw*)memory;
    int* row = (int*)(void*)(draw + rows);
    DecodeCall call = {draw, row, row + rows};
    return call;
}

static inline void* decode_alloc(size_t bytes, const char* what) {
    return device_alloc_or(bytes, what, "lower --batch (texts at a time), --context or --sample-tokens");
}

// Memory for `rows` texts of at most `context` tokens; decode_end() gives it back. In a dry run none is taken. graphs = 0: launches
// are never captured.
static inline void decode_begin(Decode* d, int passes, int rows, const Sizes* size, size_t context, int graphs) {
    const size_t L = (size_t)size->L, NKV = (size_t)size->NKV, HS = (size_t)size->HS, n = (size_t)rows;
    const size_t capacity = decode_capacity(context), numbers = cache_numbers_cuda(n, L, NKV, HS, capacity),
                 Vp = round_up((size_t)size->V, PADDED_ROWS);
    d->kept = device_block_count;
    d->passes = passes, d->rows = rows, d->plain = !graphs;
    d->caches = (KeyCacheCuda*)xalloc((size_t)passes, sizeof(KeyCacheCuda), "caches");
    floatX* memory = (floatX*)decode_alloc(mul_size((size_t)passes, numbers * sizeof(floatX), "keys and values"),
                                           "caches of keys and values");
    float* parts = (float*)decode_alloc(cache_parts_cuda((size_t)size->NH, HS, capacity) * sizeof(float),
                                        "attention over cached keys");
    d->call_bytes = n * (sizeof(SampleDraw) + 2 * sizeof(int));
    d->call = decode_call_at(decode_alloc(d->call_bytes, "rows of the caches"), n);
    d->logits = (float*)decode_alloc(n * Vp * sizeof(float), "logits of decoded tokens");
    d->drawn = (int*)decode_alloc(n * sizeof(int), "drawn tokens");
    d->seen = (unsigned*)decode_alloc(n * seen_words((size_t)size->V) * sizeof(unsigned), "tokens of texts");
    for (int s = 0; s < passes; s++) {
        KeyCacheCuda* c = &d->caches[s];
        c->rows = rows, c->layers = size->L, c->NKV = size->NKV, c->HS = size->HS, c->capacity = capacity;
        c->keys = memory + (size_t)s * numbers;
        c->values = c->keys + numbers / 2;
        c->parts = parts, c->row = d->call.row, c->first = d->call.first;
    }
    if (ledger.dry) { return; }
    void* host = NULL;
    CUDA_CHECK(cudaMallocHost(&host, d->call_bytes));
    memset(host, 0, d->call_bytes);
    d->host = decode_call_at(host, n);
}

// Throws the graphs away.
static inline void decode_forget(Decode* d) {
    for (int i = 0; i < d->graphs; i++) {
        if (d->graph[i].exec) { CUDA_CHECK(cudaGraphExecDestroy(d->graph[i].exec)); }
    }
    d->graphs = 0;
}

static inline void decode_end(Decode* d) {
    if (!d->caches) { return; }
    CUDA_CHECK(cudaStreamSynchronize(device.stream));
    decode_forget(d);
    CUDA_CHECK(cudaFreeHost(d->host.draw));
    device_free_after(d->kept);
    free(d->caches);
    memset(d, 0, sizeof *d);
}

// Tells the caches which texts the next call goes on with: B of them, T new tokens each (cache.h); u (B): by which
// numbers the next tokens will be drawn, or NULL.
static inline void decode_call(Decode* d, int B, int T, const int* rows, const int* first, const double* u) {
    size_t reach = 0;
    for (int b = 0; b < B; b++) { reach = max_size(reach, (size_t)first[b] + (size_t)T); }
    if (T == 1) {
        size_t most = DECODE_REACH;
        while (most < reach) { most *= 2; }
        reach = min_size(most, d->caches->capacity);
    }
    for (int s = 0; s < d->passes; s++) {
        d->caches[s].only = rows[0], d->caches[s].from = first[0], d->caches[s].reach = reach;
    }
    if (ledger.dry) { return; }
    CUDA_CHECK(cudaStreamSynchronize(device.stream));  // the last call's copy has been made
    for (int b = 0; b < B; b++) {
        d->host.row[b] = rows[b], d->host.first[b] = first[b];
        d->host.draw[b].row = rows[b], d->host.draw[b].u = u ? u[b] : 0;
    }
    device_upload(d->call.draw, d->host.draw, d->call_bytes);
}

// Notes which tokens (B,T) texts of V there are now, on the device; texts of which they are the first begin anew.
static inline void decode_see(const Decode* d, const int* tokens, int B, int T, const int* first, size_t V) {
    for (int b = 0; b < B; b++) {
        if (first[b] == 0) { seen_clear_cuda(d->seen, seen_words(V), (size_t)d->host.row[b]); }
    }
    seen_add_cuda(d->seen, seen_words(V), d->call.row, tokens, (size_t)B, (size_t)T);
}

// Graphs draw by this rule from here on.
static inline void decode_rule(Decode* d, const SampleRule* rule) {
    if (memcmp(rule, &d->rule, sizeof *rule) != 0) { decode_forget(d); }
    d->rule = *rule;
}

// Runs `launches`, which read all that changes from device memory, for T tokens of B texts. Of one token the first of a kind
// runs as it is, since products may choose their algorithms then, the second is captured, the others come from the graph.
static inline void decode_run(Decode* d, Model* model, int B, int T, int kind, void (*launches)(Model*, int B, int T)) {
    DecodeGraph* g = d->graph;
    const size_t reach = d->caches->reach;
    while (g < d->graph + d->graphs && (g->texts != B || g->reach != reach || g->kind != kind)) { g++; }
    if (d->plain || T > 1 || (g == d->graph + d->graphs && d->graphs == DECODE_GRAPHS)) {
        launches(model, B, T);
        return;
    }
    if (g == d->graph + d->graphs) {
        memset(g, 0, sizeof *g);
        g->texts = B, g->reach = reach, g->kind = kind;
        d->graphs++;
    }
    if (g->runs++ == 0) {
        launches(model, B, T);
        return;
    }
    if (!g->exec) {
        cudaGraph_t graph;
        CUDA_CHECK(cudaStreamBeginCapture(device.stream, cudaStreamCaptureModeThreadLocal));
        launches(model, B, T);
        CUDA_CHECK(cudaStreamEndCapture(device.stream, &graph));
        CUDA_CHECK(cudaGraphInstantiate(&g->exec, graph, 0));
        CUDA_CHECK(cudaGraphDestroy(graph));
    }
    CUDA_CHECK(cudaGraphLaunch(g->exec, device.stream));
}

// to (B,V) on the host = the logits that are there.
static inline void decode_download(const Decode* d, real* to, size_t B, size_t V) {
    const size_t Vp = round_up(V, PADDED_ROWS);
    float* block = (float*)xalloc(B * Vp, sizeof(float), "logits");
    device_download(block, d->logits, B * Vp * sizeof(float));
    for (size_t b = 0; b < B; b++) {
        for (size_t v = 0; v < V; v++) { to[b * V + v] = (real)block[b * Vp + v]; }
    }
    free(block);
}

#endif
