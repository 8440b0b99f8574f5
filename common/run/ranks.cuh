// ranks.cuh - data parallel over NCCL: every rank has the same weights and its own rows of a step, and before the
// optimiser the gradients of all are added.
//
// A gradient sums over S+1 passes and over micro-batches, so none is whole before the last micro-batch's backward: the
// head's (dW_out) after its pass 0's mix, a layer's after its pass 0, the embedding's (dW_in) at the very end; tied, both
// at the very end. Here all are reduced when that backward is done, in buckets by element range, each of them one
// collective of fp32 sums, in the order in which they are complete. The scale of a gradient is 1 / targets of the whole
// step, on every rank, so that what is added is the mean over the step however unevenly its rows are divided; a rank
// without rows adds zeros.
//
// Nothing of it overlaps the backward. Only that of pass 0, of the last micro-batch, could cover it, however large a step
// is. On paper (scaling.h, `--plan=h100 --gpus N`) that is worth less than 2 % of a step of 2 M tokens on up to 64 H100,
// 5 to 10 % on 512 or where a GPU has four rows or fewer of a 1.4 B model, and costs a second stream and a graph of
// its own for each step's last micro-batch.
#ifndef PONDER_RANKS_CUH
#define PONDER_RANKS_CUH

#include "../scaling.h"
#include "../transfers.cuh"
#include "ranks.h"

#include <nccl.h>

typedef struct {
    ncclComm_t comm;
    double* mine;   // (RANK_NUMBERS) on the GPU
    double* all;    // (ranks, RANK_NUMBERS) on the GPU
    size_t bucket;  // numbers of an all-reduce,
    size_t piece;   // of a broadcast, and bytes of a hash: few only in tests, so that a small model has several
} Nccl;
static Nccl nccl = {NULL, NULL, NULL, RANK_BUCKET, RANK_PIECE};

#define NCCL_CHECK(expression) nccl_check((expression), #expression, __FILE__, __LINE__)
static inline void nccl_check(ncclResult_t result, const char* expression, const char* file, int line) {
    if (result == ncclSuccess || result == ncclInProgress) { return; }
    if (ranks.verdict) { ranks.verdict(3); }  // most often another rank is the cause, and the watchdog knows which
    const char* why = nccl.comm ? ncclGetLastError(nccl.comm) : "";
    die("NCCL: %s gave %s%s%s, %s:%d", expression, ncclGetErrorString(result), why && why[0] ? ": " : "",
        why ? why : "", file, line);
}

// The same of a collective, to which all ranks come.
#define NCCL_JOIN(expression) (ranks_stay(), ranks_join(), NCCL_CHECK(expression))

// What the watchdog calls before it ends this process: it may hang, which the watchdog knows.
static void nccl_abort(void) {
    if (nccl.comm) { ncclCommAbort(nccl.comm); }
}

// NCCL's version in words; the caller frees it.
static inline char* nccl_version(void) {
    int version = 0;
    NCCL_CHECK(ncclGetVersion(&version));
    return format_string("%d.%d.%d", version / 10000, version / 100 % 100, version % 100);
}

// A size that this variable of rank 0 sets for all ranks, or `usual`.
static inline size_t nccl_size(const char* variable, size_t usual) {
    const char* text = getenv(variable);
    size_t size = text ? (size_t)strtoull(text, NULL, 10) : 0;
    if (size == 0) { size = usual; }
    ranks_share(&size, sizeof size, variable);
    return size;
}

// All ranks join one communicator; their GPUs are open. Nothing where there is one rank. It is not destroyed: a process
// ends only when all ranks are through with it (ranks_end), and ncclCommDestroy may wait for others when all is done.
static inline void nccl_open(void) {
    if (ranks.count == 1 || nccl.comm || ledger.dry) { return; }
    // NCCL refuses ranks that share a GPU. Its stand-in does not, and dev/gpu_check.sh says so by this variable.
    const char* share = getenv("PONDER_RANKS_SHARE_GPU");
    if (!share || strcmp(share, "1") != 0) {
        cudaDeviceProp prop;
        CUDA_CHECK(cudaGetDeviceProperties(&prop, device.index));
        ranks_check_devices(prop.uuid.bytes);
    }
    nccl.bucket = nccl_size("PONDER_RANK_BUCKET", RANK_BUCKET);
    nccl.piece = nccl_size("PONDER_RANK_PIECE", RANK_PIECE);
    ncclUniqueId id;
    memset(&id, 0, sizeof id);
    if (ranks.rank == 0) { NCCL_CHECK(ncclGetUniqueId(&id)); }
    ranks_share(&id, sizeof id, "NCCL's unique id");
    NCCL_CHECK(ncclCommInitRank(&nccl.comm, ranks.count, id, ranks.rank));
    ranks.abort = nccl_abort;
    nccl.mine = (double*)device_alloc(RANK_NUMBERS * sizeof(double), "numbers of a rank");
    nccl.all = (double*)device_alloc((size_t)ranks.count * RANK_NUMBERS * sizeof(double), "numbers of all ranks");
}

// grads (n) = the sum over all ranks, bucket by bucket from the last: dW_out lies there, dW_in at the beginning.
static inline void gradients_reduce(float* grads, size_t n) {
    for (size_t i = div_up(n, nccl.bucket); i-- > 0;) {
        size_t first = i * nccl.bucket, count = min_size(nccl.bucket, n - first);
        NCCL_JOIN(ncclAllReduce(grads + first, grads + first, count, ncclFloat, ncclSum, nccl.comm, device.stream));
    }
}

// all (ranks, RANK_NUMBERS) on the host = `mine` (RANK_NUMBERS) of every rank. Waits for it.
static inline void ranks_tell(const double* mine, double* all) {
    size_t one = RANK_NUMBERS * sizeof(double);
    CUDA_CHECK(cudaMemcpyAsync(nccl.mine, mine, one, cudaMemcpyHostToDevice, device.stream));
    NCCL_JOIN(ncclAllGather(nccl.mine, nccl.all, RANK_NUMBERS, ncclDouble, nccl.comm, device.stream));
    device_download(all, nccl.all, (size_t)ranks.count * one);
}

// What a Model does with them (model.h): the gradients of all ranks are added, and each tells the others its numbers.
static inline void ranks_reduce(Model* model, const double* mine, double* all) {
    gradients_reduce(model->families->grads, model->tensors.total);
    ranks_tell(mine, all);
}

// family (total of the model's table, on the host) = that of rank 0, piece by piece through the gradients' memory, where
// nothing is before the first step, or without it through that of the weights, which come later.
static inline void ranks_share_family(Model* model, real* family) {
    const Families* f = model->families;
    float* piece = f->grads ? f->grads : f->master;
    ranks_wait(!ranks_talks());  // for rank 0, which reads files
    for (size_t first = 0; first < model->tensors.total; first += nccl.piece) {
        size_t count = min_size(nccl.piece, model->tensors.total - first), bytes = count * sizeof(float);
        if (ranks_talks()) { device_upload(piece, family + first, bytes); }
        NCCL_JOIN(ncclBroadcast(piece, piece, count, ncclFloat, 0, nccl.comm, device.stream));
        if (!ranks_talks()) { device_download(family + first, piece, bytes); }
        ranks_still_works();
    }
    CUDA_CHECK(cudaStreamSynchronize(device.stream));
    ranks_wait(0);
}

// What decides in which order NCCL adds, for model_arithmetic(): its version, the machines, how ranks lie on them, and what
// its variables choose. Programs before this one wrote nothing in parentheses. The caller frees it.
static inline char* nccl_arithmetic(void) {
    // In-switch reduction adds in an order of its own: runs would not repeat bit for bit.
    setenv("NCCL_ALGO", "^NVLS,NVLSTree", 0);
    char *version = nccl_version(), *layout = ranks_layout(), *order = ranks_order();
    StringBuilder sb = {0};
    sb_printf(&sb, PRECISION " on %s with NCCL %s (ranks of machines %s", layout, version, order);
    // Those that choose the algorithm, and those that cut a sum or lay out its rings and trees in another way.
    static const char* const variables[] = {"NCCL_ALGO",          "NCCL_PROTO",     "NCCL_MIN_NCHANNELS",
                                            "NCCL_MAX_NCHANNELS", "NCCL_MIN_CTAS",  "NCCL_MAX_CTAS",
                                            "NCCL_NTHREADS",      "NCCL_BUFFSIZE",  "NCCL_P2P_DISABLE",
                                            "NCCL_SHM_DISABLE",   "NCCL_TOPO_FILE", "NCCL_GRAPH_FILE"};
    for (size_t i = 0; i < sizeof variables / sizeof variables[0]; i++) {
        const char* value = getenv(variables[i]);
        if (!value) { continue; }
        sb_printf(&sb, ", %s=", variables[i]);
        for (; *value; value++) {  // plain text, as model.h wants it
            int plain = *value > ' ' && *value < 0x7f && *value != '"' && *value != '\\';
            sb_printf(&sb, "%c", plain ? *value : '?');
        }
    }
    sb_printf(&sb, ")");
    free(version), free(layout), free(order);
    return sb.data;
}

// From here on a model is one of several ranks, if there are several.
static inline void ranks_drive(Model* model) {
    device.index = ranks.local_rank;
    if (ranks.count == 1) { return; }
    model->arithmetic = nccl_arithmetic();
    model->share = ranks_share_family;
    model->reduce = ranks_reduce;
}

#endif
