// zero.cuh - the optimiser's state divided among the ranks (--zero 1): stage 1 of ZeRO, Rajbhandari et al., "ZeRO: Memory
// Optimizations Toward Training Trillion Parameter Models", arXiv 1910.02054.
//
// The families are cut into one range for each rank (adamw.cuh). After the last micro-batch of a step
//
//     gradients   reduce-scatter: every rank has the sums of its own range; the rest is of no more use
//     norm        each adds the squares of its own blocks; all gather the sums of blocks and add them in their order, which
//                 gives the bits that the same gradients give undivided
//     update      each its own range, of which it alone has moments and, in bf16, those masters that no layer reads
//     weights     all-gather of what layers read: the products' copies, and in bf16 the masters of the rest
//
// so that as many bytes are sent as by an all-reduce, in bf16 a quarter less but for those masters. The stand-in adds here
// as there, in the order of ranks; NCCL's two collectives may add in different orders, so that with it --zero 0 and 1 agree
// within rounding.
//
// The reduce-scatter and the all-gathers are one collective each, of the whole family: a range is in one piece, and a
// bucket of the family would be the range of few ranks, whose links alone would work. Both are in place, NCCL cuts them
// into chunks of its own, and nothing waits for a part of them, since nothing overlaps the backward (ranks.cuh).
#ifndef PONDER_ZERO_CUH
#define PONDER_ZERO_CUH

#include "options.h"
#include "ranks.cuh"

// p: a family, or with `masters` the masters of tensors that are on all ranks. Of it every rank has its own range, which
// all others get.
static inline void zero_spread(const Model* model, float* p, int masters) {
    const TensorTable* table = &model->tensors;
    const Range* range = &model->families->range;
    for (size_t r = 0, first = 0; r < (size_t)ranks.count; r++) {
        size_t end = min_size((r + 1) * range->most, table->total);
        if (masters) { end = range_whole_before(range, table, end); }
        while (first < end) {
            size_t count = min_size(nccl.piece, end - first);
            NCCL_JOIN(ncclBroadcast(p + first, p + first, count, ncclFloat, (int)r, nccl.comm, device.stream));
            first += count;
        }
    }
}

// Waits for what was put into the stream, and so for the other ranks.
static inline void zero_wait(void) {
    ranks_wait(1);
    CUDA_CHECK(cudaStreamSynchronize(device.stream));
    ranks_wait(0);
}

// ---- a step: what a Model does (model.h) ----

static inline void zero_reduce(Model* model, const double* mine, double* all) {
    const Families* f = model->families;
    const size_t most = f->range.most, own = (size_t)ranks.rank * most;
    NCCL_JOIN(ncclReduceScatter(f->grads, f->grads + own, most, ncclFloat, ncclSum, nccl.comm, device.stream));
    ranks_tell(mine, all);
}

static inline double zero_grad_norm(Model* model) {
    const Families* f = model->families;
    const Range* range = &f->range;
    const size_t blocks = range->most / NORM_BLOCK, own = (size_t)ranks.rank * blocks;
    double *sums = f->squares + 1, squares = 0;
    ledger_part(PART_OPTIMISER);
    if (range->begin < range->end) {
        grad_norm_blocks_cuda(sums + own, f->grads + range->begin, range->end - range->begin);
    }
    if (!ledger.dry) { NCCL_JOIN(ncclAllGather(sums + own, sums, blocks, ncclDouble, nccl.comm, device.stream)); }
    grad_norm_finish_cuda(f->squares, sums, grad_norm_scratch(model->tensors.total));
    if (ledger.dry) { return 0; }
    zero_wait();
    device_download(&squares, f->squares, sizeof squares);
    if (!isfinite(squares)) { zero_spread(model, f->grads, 0); }  // whoever looks for the cause finds it on any rank
    return sqrt(squares);
}

static inline void zero_update(Model* model, const AdamwStep* step) {
    const Families* f = model->families;
    const size_t most = f->range.most, own = (size_t)ranks.rank * most;
    const int rounds = sizeof(floatX) != sizeof(float);
    families_update(model, step);
    if (ledger.dry) { return; }
    const ncclDataType_t type = rounds ? ncclBfloat16 : ncclFloat;
    NCCL_JOIN(ncclAllGather(f->x + own, f->x, most, type, nccl.comm, device.stream));
    if (rounds) {
        NCCL_CHECK(ncclGroupStart());
        zero_spread(model, f->master, 1);
        NCCL_CHECK(ncclGroupEnd());
    }
    zero_wait();
}

// ---- between steps, when the gradients' memory is free for a whole family ----

// Copies masters: into `family` those of this rank's range, or (take) from there all that are here.
static inline void zero_masters(const Model* model, float* family, int take) {
    const Families* f = model->families;
    const TensorTable* table = &model->tensors;
    for (int i = 0; i < table->count; i = tensor_group(table, i).end) {
        const Tensor* t = &table->list[i];
        TensorGroup group = tensor_group(table, i);
        size_t begin = group.offset, end = tensor_group_end(table, &group);
        if (!take || !range_whole(&f->range, t)) {
            begin = max_size(begin, f->range.begin), end = min_size(end, f->range.end);
        }
        if (begin >= end) { continue; }
        float *master = f->master + range_master(&f->range, table, t, begin), *other = family + begin;
        device_copy(take ? master : other, take ? other : master, (end - begin) * sizeof(float));
    }
}

// m, v: families, or NULL.
static inline void zero_upload(Model* model, const real* m, const real* v) {
    const Families* f = model->families;
    const size_t total = model->tensors.total, begin = f->range.begin, own = (f->range.end - begin) * sizeof(float);
    device_upload(f->grads, model->params, total * sizeof(float));
    if ((void*)f->x != (void*)f->master) { copy_rounded_cuda(f->x, f->grads, total); }
    zero_masters(model, f->grads, 1);
    if (own && m) { device_upload(f->m, m + begin, own); }
    if (own && v) { device_upload(f->v, v + begin, own); }
    device_zero(f->grads, total * sizeof(float));
    CUDA_CHECK(cudaStreamSynchronize(device.stream));
}

// Rank 0 gets all; the others, which give theirs, nothing.
static inline void zero_download(Model* model, real* m, real* v) {
    const Families* f = model->families;
    const size_t begin = f->range.begin, own = (f->range.end - begin) * sizeof(float);
    real* const hosts[] = {model->params, m, v};
    const float* const moments[] = {NULL, f->m, f->v};
    for (int i = 0; i < 3; i++) {
        if (i == 0) {
            zero_masters(model, f->grads, 0);
        } else if (own) {
            device_copy(f->grads + begin, moments[i], own);
        }
        zero_spread(model, f->grads, 0);
        zero_wait();
        if (ranks_talks() && hosts[i]) { device_download(hosts[i], f->grads, model->tensors.total * sizeof(float)); }
        ranks_still_works();
    }
}

static inline uint64_t zero_hash_more(uint64_t hash, const void* p, size_t bytes) {
    char* room = (char*)xalloc(min_size(nccl.piece, bytes), 1, "a hash of weights");
    for (size_t first = 0; first < bytes; first += nccl.piece) {
        size_t n = min_size(nccl.piece, bytes - first);
        device_download(room, (const char*)p + first, n);
        hash = hash_bytes(hash, room, n);
    }
    free(room);
    return hash;
}
// Of what layers read, which all ranks have.
static inline uint64_t zero_hash(Model* model) {
    const Families* f = model->families;
    const TensorTable* table = &model->tensors;
    uint64_t hash = zero_hash_more(HASH_START, f->x, table->total * sizeof(floatX));
    if ((void*)f->x == (void*)f->master) { return hash; }
    return zero_hash_more(hash, f->master, range_whole_before(&f->range, table, table->total) * sizeof(float));
}

// With --zero 1, several ranks (or a plan of them) and a training: from here on this rank has its part of the optimiser's
// state alone.
static inline void zero_drive(Model* model, const OptionTable* options) {
    const int count = ranks_of_step();
    if (count == 1 || !options_int(options, "zero") || options_given(options, "eval-only")) { return; }
    Families* f = model->families;
    const TensorTable* table = &model->tensors;
    free(f->adamw.host);
    families_divide(f, table, ranks.rank, count);
    f->adamw = adamw_plan_range(table, &f->range);
    model->divided = 1;
    model->reduce = zero_reduce;
    model->grad_norm = zero_grad_norm;
    model->update = zero_update;
    model->upload = zero_upload;
    model->download = zero_download;
    model->hash = zero_hash;
}

#endif
