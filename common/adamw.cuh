// adamw.cuh - the optimiser on the GPU: gradient norm and AdamW, over whole families.
//
// The C twin is adamw.h, whose formula, order of operations and roundings these are: the update gives
// the same bits as the CPU's (every operation is written as one IEEE operation, so that the compiler
// contracts nothing). Both are bound by memory: the norm reads 4 bytes a parameter; the update reads
// p, g, m, v and writes p, m, v and the rounded copy, 30 bytes a parameter in bf16, in one launch.
#ifndef PONDER_ADAMW_CUH
#define PONDER_ADAMW_CUH

#include "adamw.h"
#include "device.cuh"

// ---- the norm ----

// Numbers that a block takes at a time, 16 a thread; and those that it takes in all. A family is cut into such blocks
// from its beginning on, wherever they are summed: on one GPU, or each on the one that has its part of the gradients.
enum { NORM_TILE_THREADS = 256, NORM_TILE = 16 * NORM_TILE_THREADS, NORM_BLOCK = 65536 };

// Doubles that grad_norm_cuda needs as scratch, one a block.
static inline size_t grad_norm_scratch(size_t n) { return max_size(div_up(n, NORM_BLOCK), 1); }

// Thread 0 gets the sum of x over the block, by a fixed tree. fold (NORM_TILE_THREADS): shared.
static __device__ __forceinline__ double grad_norm_fold(double x, double* fold) {
    fold[threadIdx.x] = x;
    __syncthreads();
    for (unsigned width = NORM_TILE_THREADS / 2; width > 0; width /= 2) {
        if (threadIdx.x < width) { fold[threadIdx.x] += fold[threadIdx.x + width]; }
        __syncthreads();
    }
    return fold[0];
}

// Doubles are slow on consumer GPUs (a 64th of the float rate), where one for each number would take
// longer than reading it. So a thread sums the squares of 16 numbers in fp32 (error below 10^-6 of the
// sum), and adds such sums in double. A square too large for fp32 makes its sum infinite: those 16 are
// then added again in double, so that finite gradients have a finite norm, and a NaN or infinity among
// them stays one. Squares below 10^-45 vanish: their root is far below any norm that means something.
// partial (gridDim.x) =
static __global__ void __launch_bounds__(NORM_TILE_THREADS)
    grad_norm_kernel(double* __restrict__ partial, const float* __restrict__ grads, size_t n, int aligned) {
    SHARED(double, fold, NORM_TILE_THREADS);
    double sum = 0;
    const size_t begin = (size_t)blockIdx.x * NORM_BLOCK, end = begin + NORM_BLOCK < n ? begin + NORM_BLOCK : n;
    for (size_t tile = begin; tile < end; tile += NORM_TILE) {
        float g[16];
        if (aligned && tile + NORM_TILE <= end) {
#pragma unroll
            for (int k = 0; k < 4; k++) {  // a warp reads 512 bytes side by side
                float4 q = ((const float4*)(grads + tile))[k * NORM_TILE_THREADS + threadIdx.x];
                g[4 * k] = q.x, g[4 * k + 1] = q.y, g[4 * k + 2] = q.z, g[4 * k + 3] = q.w;
            }
        } else {
#pragma unroll
            for (int k = 0; k < 16; k++) {  // the same numbers in the same places
                size_t i = tile + 4 * ((size_t)(k / 4) * NORM_TILE_THREADS + threadIdx.x) + (size_t)(k % 4);
                g[k] = i < end ? grads[i] : 0.0f;
            }
        }
        float run = 0;
#pragma unroll
        for (int k = 0; k < 16; k++) { run = fmaf(g[k], g[k], run); }
        if (run <= 3e38f) {
            sum += (double)run;
        } else {  // also NaN
#pragma unroll
            for (int k = 0; k < 16; k++) { sum += (double)g[k] * (double)g[k]; }
        }
    }
    sum = grad_norm_fold(sum, fold);
    if (threadIdx.x == 0) { partial[blockIdx.x] = sum; }
}

// out (1) = the sum of partial (count)
static __global__ void __launch_bounds__(NORM_TILE_THREADS)
    grad_norm_finish_kernel(double* __restrict__ out, const double* __restrict__ partial, size_t count) {
    SHARED(double, fold, NORM_TILE_THREADS);
    double sum = 0;
    for (size_t i = threadIdx.x; i < count; i += NORM_TILE_THREADS) { sum += partial[i]; }
    sum = grad_norm_fold(sum, fold);
    if (threadIdx.x == 0) { out[0] = sum; }
}

// partial (grad_norm_scratch(n)) = the sums of squares of the blocks of grads (n), which begin with a block of the family.
static inline void grad_norm_blocks_cuda(double* partial, const float* grads, size_t n) {
    size_t blocks = grad_norm_scratch(n);
    int aligned = (uintptr_t)grads % 16 == 0;
    states(2.0 * (double)n, 4.0 * (double)n + 8.0 * (double)blocks);
    launch(grad_norm_kernel, dim3((unsigned)blocks), dim3(NORM_TILE_THREADS), 0, device.stream, partial, grads, n,
           aligned);
}
// squares (1) = the sum of partial (blocks)
static inline void grad_norm_finish_cuda(double* squares, const double* partial, size_t blocks) {
    states((double)blocks, 8.0 * (double)blocks + 8);
    launch(grad_norm_finish_kernel, dim3(1), dim3(NORM_TILE_THREADS), 0, device.stream, squares, partial, blocks);
}

// squares (1) = the sum of squares of a family of gradients, grads (n); its root is the norm. scratch
// (grad_norm_scratch(n)). A NaN or infinity anywhere makes it NaN or infinite.
static inline void grad_norm_cuda(double* squares, double* scratch, const float* grads, size_t n) {
    grad_norm_blocks_cuda(scratch, grads, n);
    grad_norm_finish_cuda(squares, scratch, grad_norm_scratch(n));
}

// ---- what of the families a GPU has ----

// All; or where the optimiser's state is divided among GPUs (run/zero.cuh) the moments of a range, that of the numbers
// which it updates. Ranges are whole blocks of the norm, as many for each; the last ones are shorter, or empty.
typedef struct {
    int divided;        // 0: all
    size_t most;        // numbers of a range,
    size_t begin, end;  // this GPU's,
    size_t room;        // and of all GPUs': at least a family's
} Range;

// That of rank 0, 1, ... of `ranks`, in families of `total` numbers.
static inline Range range_of(size_t total, int rank, int ranks) {
    if (ranks == 1) { return Range{0, total, 0, total, total}; }
    size_t most = round_up(div_up(total, (size_t)ranks), NORM_BLOCK), begin = min_size((size_t)rank * most, total);
    return Range{1, most, begin, min_size(begin + most, total), (size_t)ranks * most};
}

// 1 if all of a tensor's master weights are here: nothing is divided, or layers read them.
static inline int range_whole(const Range* r, const Tensor* t) {
    return !r->divided || !t->rounded || sizeof(floatX) == sizeof(float);
}
// How many of a family's first i numbers belong to such tensors.
static inline size_t range_whole_before(const Range* r, const TensorTable* table, size_t i) {
    size_t count = 0;
    for (int k = 0; k < table->count;) {
        TensorGroup group = tensor_group(table, k);
        size_t end = min_size(tensor_group_end(table, &group), i);
        if (range_whole(r, &table->list[k]) && end > group.offset) { count += end - group.offset; }
        k = group.end;
    }
    return count;
}
// Masters lie in the table's order, first those of tensors that are all here, which undivided are all, then what is here
// of the others. Where number i of the families, one of t's, has its master:
static inline size_t range_master(const Range* r, const TensorTable* table, const Tensor* t, size_t i) {
    size_t before = range_whole_before(r, table, i);
    if (range_whole(r, t)) { return before; }
    size_t elsewhere = r->begin - range_whole_before(r, table, r->begin);
    return range_whole_before(r, table, table->total) + (i - before) - elsewhere;
}
// Master weights that are here.
static inline size_t range_masters(const Range* r, const TensorTable* table) {
    size_t whole = range_whole_before(r, table, r->end) - range_whole_before(r, table, r->begin);
    return range_whole_before(r, table, table->total) + (r->end - r->begin) - whole;
}

// ---- the update ----

// Numbers of one group of tensors that a thread block takes: begin .. begin + count of every family. Small groups
// are one span, large ones many, so that one launch walks the whole table and no block has to search it.
typedef struct {
    uint64_t begin;
    uint64_t master;  // of the first one's master weight
    uint32_t count;
    uint32_t decay;  // 1: weight decay applies
} AdamwSpan;

enum { ADAMW_SPAN = 4096, ADAMW_THREADS = 256, ADAMW_FLIGHT = 2 };

typedef struct {
    AdamwSpan* host;          // (count)
    const AdamwSpan* device;  // (count) the same; whoever makes the plan uploads it
    size_t count;
    size_t numbers;  // in all spans: the parameters, without alignment gaps
    size_t moments;  // the number of the families with which m and v begin
} AdamwPlan;

// The spans of a tensor table, on the host; free(plan.host). They cover groups of joined tensors, whose decay is
// the same, so that each begins at an aligned address. Alignment gaps are in no span: what is 0 there stays so.
static inline AdamwPlan adamw_plan_range(const TensorTable* table, const Range* r) {
    AdamwPlan plan = {NULL, NULL, 0, 0, r->begin};
    for (int writes = 0; writes < 2; writes++) {  // first they are counted
        if (writes) { plan.host = (AdamwSpan*)xalloc(plan.count, sizeof(AdamwSpan), "the optimiser's plan"); }
        plan.count = 0;
        for (int i = 0; i < table->count; i = tensor_group(table, i).end) {
            const Tensor* t = &table->list[i];
            TensorGroup group = tensor_group(table, i);
            size_t begin = max_size(group.offset, r->begin), end = min_size(group.offset + group.size, r->end);
            size_t master = writes && begin < end ? range_master(r, table, t, begin) : 0;
            for (size_t j = begin; j < end; j += ADAMW_SPAN, plan.count++) {
                if (!writes) { continue; }
                uint32_t count = (uint32_t)min_size(ADAMW_SPAN, end - j);
                plan.host[plan.count] = AdamwSpan{j, master + (j - begin), count, t->decay ? 1u : 0u};
                plan.numbers += count;
            }
        }
    }
    return plan;
}
static inline AdamwPlan adamw_plan(const TensorTable* table) {
    Range all = range_of(table->total, 0, 1);
    return adamw_plan_range(table, &all);
}

// One number, as adamw_update_span has it, each operation rounded by itself.
static __device__ __forceinline__ void adamw_number(float* p, float* m, float* v, float g, const AdamwStep& c,
                                                    float keep) {
    g = __fmul_rn(g, c.grad_scale);
    *m = __fadd_rn(__fmul_rn(c.beta1, *m), __fmul_rn(c.one_minus_beta1, g));
    *v = __fadd_rn(__fmul_rn(c.beta2, *v), __fmul_rn(c.one_minus_beta2, __fmul_rn(g, g)));
    const float denominator = __fadd_rn(__fmul_rn(__fsqrt_rn(*v), c.root), c.eps);
    *p = __fsub_rn(__fmul_rn(*p, keep), __fmul_rn(c.step, __fdiv_rn(*m, denominator)));
}

// Numbers of a thread: four neighbours, so that each access of a warp is 512 bytes in a row (256 of
// bf16). With eight, a warp would store every second 16 bytes, and the L2 cache would take each of its
// sectors twice. At the end of a span, or if an address is off (whole = 0), one by one.
enum { QUAD = 4 };
static __device__ __forceinline__ void load_quad(float x[QUAD], const float* p, size_t i, size_t end, int whole) {
    if (whole) {
        const float4 v = *(const float4*)(p + i);
        x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
    } else {
#pragma unroll
        for (int k = 0; k < QUAD; k++) { x[k] = i + (size_t)k < end ? p[i + (size_t)k] : 0.0f; }
    }
}
static __device__ __forceinline__ void store_four(float* p, const float x[QUAD]) {
    *(float4*)p = make_float4(x[0], x[1], x[2], x[3]);
}
static __device__ __forceinline__ void store_four(__nv_bfloat16* p, const float x[QUAD]) {
    *(uint2*)p = make_uint2(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]));
}
template <class number>
static __device__ __forceinline__ void store_quad(number* p, const float x[QUAD], size_t i, size_t end, int whole) {
    if (whole) {
        store_four(p + i, x);
    } else {
#pragma unroll
        for (int k = 0; k < QUAD; k++) {
            if (i + (size_t)k < end) { store(p + i + (size_t)k, x[k]); }
        }
    }
}

// A block takes a span. The numbers of two quads are on their way at a time. m and v begin with number `moments` of the
// families.
static __global__ void __launch_bounds__(ADAMW_THREADS)
    adamw_update_kernel(float* __restrict__ params, floatX* __restrict__ params_x, float* __restrict__ m,
                        float* __restrict__ v, const float* __restrict__ grads, const AdamwSpan* __restrict__ spans,
                        size_t moments, AdamwStep c, int aligned) {
    const AdamwSpan span = spans[blockIdx.x];
    const float keep = span.decay ? c.keep : 1.0f;
    const size_t end = span.count;
    params += span.master, grads += span.begin, m += span.begin - moments, v += span.begin - moments;
    if (params_x) { params_x += span.begin; }
    for (size_t first = 0; first < end; first += ADAMW_FLIGHT * ADAMW_THREADS * QUAD) {
        float pi[ADAMW_FLIGHT][QUAD], gi[ADAMW_FLIGHT][QUAD], mi[ADAMW_FLIGHT][QUAD], vi[ADAMW_FLIGHT][QUAD];
#pragma unroll
        for (int u = 0; u < ADAMW_FLIGHT; u++) {
            const size_t i = first + (u * ADAMW_THREADS + threadIdx.x) * QUAD;
            const int whole = aligned && i + QUAD <= end;  // spans begin at multiples of TENSOR_START numbers
            load_quad(gi[u], grads, i, end, whole);
            load_quad(pi[u], params, i, end, whole);
            load_quad(mi[u], m, i, end, whole);
            load_quad(vi[u], v, i, end, whole);
        }
#pragma unroll
        for (int u = 0; u < ADAMW_FLIGHT; u++) {
            const size_t i = first + (u * ADAMW_THREADS + threadIdx.x) * QUAD;
            const int whole = aligned && i + QUAD <= end;
#pragma unroll
            for (int j = 0; j < QUAD; j++) { adamw_number(&pi[u][j], &mi[u][j], &vi[u][j], gi[u][j], c, keep); }
            store_quad(params, pi[u], i, end, whole);
            store_quad(m, mi[u], i, end, whole);
            store_quad(v, vi[u], i, end, whole);
            if (params_x) { store_quad(params_x, pi[u], i, end, whole); }
        }
    }
}

// One step of AdamW over all numbers of the plan. params: master weights, m, v: moments, updated in place; params_x: a
// family, the products' rounded copy of params, =, NULL if there is none; grads: a family, only read. step: from
// adamw_step.
static inline void adamw_update_cuda(float* params, floatX* params_x, float* m, float* v, const float* grads,
                                     const AdamwPlan* plan, const AdamwStep* step) {
    static_assert(sizeof(real) == sizeof(float), "the GPU's optimiser computes in float");
    static_assert(TENSOR_START % QUAD == 0 && ADAMW_SPAN % QUAD == 0, "spans begin with a whole quad");
    if (plan->count == 0) { return; }
    int aligned = ((uintptr_t)params | (uintptr_t)params_x | (uintptr_t)m | (uintptr_t)v | (uintptr_t)grads) % 16 == 0;
    if ((const void*)params_x == (const void*)params) { params_x = NULL; }
    states(16.0 * (double)plan->numbers, (28.0 + (params_x ? (double)sizeof(floatX) : 0.0)) * (double)plan->numbers +
                                             (double)sizeof(AdamwSpan) * (double)plan->count);
    launch(adamw_update_kernel, dim3((unsigned)plan->count), dim3(ADAMW_THREADS), 0, device.stream, params, params_x, m,
           v, grads, plan->device, plan->moments, *step, aligned);
}

#endif
