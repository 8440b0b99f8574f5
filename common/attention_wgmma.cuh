// attention_wgmma.cuh - attention on Hopper's warpgroup products, for heads of 64, 80, 96 and 128 numbers; a part of
// attention.cuh, which says what is computed, and chooses.
//
// The same sums as the kernels [3] and [4] there, in their order of tiles, with the same layout of accumulators: so
// probabilities and their gradients go from accumulators to the left operand of the next product in registers.
// What differs: a block is two warpgroups, each with 64 own rows; right operands, and own rows, are read from
// shared memory by the products themselves; products run in the background, while exponentials are computed.
#ifndef PONDER_ATTENTION_WGMMA_CUH
#define PONDER_ATTENTION_WGMMA_CUH

#include "wgmma.cuh"

// Bytes of a vector in panels.
template <int HS> struct Panels {
    enum { bytes = (HS + 63) / 64 * 128 };
};

// tile (rows, HS) in panels = `rows` vectors that lie `row` apart from `from` on, of which `count` exist (may be below 0);
// the rest become zeros. In the background: cp_async_commit and cp_async_wait are the caller's.
template <int HS, int rows, int threads>
static __device__ __forceinline__ void panels_load(unsigned char* tile, const floatX* from, int row, int count) {
    enum { lanes = HS <= 64 ? 8 : 16, step = threads / lanes };
    static_assert(step % 8 == 0 && rows % step == 0, "a thread's rows have one swizzle");
    const int r = (int)threadIdx.x / lanes, chunk = (int)threadIdx.x % lanes;
    unsigned char* to = tile + panel_place<rows>(r, chunk);
    const floatX* source = from + (r * row + chunk * 8);
    if (chunk * 8 >= HS) { return; }
#pragma unroll
    for (int i = 0; i < rows; i += step) {
        cp_async_16(to + i * 128, source, r + i < count ? 16 : 0);
        source += step * row;
    }
}

// d (64, HS) of a warpgroup times `top` in rows 0-7 of each 16 and `bottom` in rows 8-15, as bf16, to the vectors `row`
// apart from `to` on, of which `count` exist; through 64 rows of panels at `tile` that nobody else uses. A warp has its
// 16 rows to itself.
template <int HS>
static __device__ __forceinline__ void panels_store(floatX* to, int row, int count, unsigned char* tile,
                                                    const float (&d)[HS / 2], float top, float bottom) {
    enum { lanes = HS <= 64 ? 8 : 16 };
    const int lane = (int)threadIdx.x % WARP, own = (int)threadIdx.x / WARP % 4 * 16, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int n = 0; n < HS / 8; n++) {
        unsigned char* place = tile + panel_place<64>(own + g, n) + 4 * t;
        *(uint32_t*)place = pack_bf16(d[4 * n] * top, d[4 * n + 1] * top);
        *(uint32_t*)(place + 8 * 128) = pack_bf16(d[4 * n + 2] * bottom, d[4 * n + 3] * bottom);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 16; i += WARP / lanes) {
        const int r = own + i + lane / lanes, chunk = lane % lanes;
        if (r < count && chunk * 8 < HS) {
            *(uint4*)(to + (r * row + chunk * 8)) = *(const uint4*)(tile + panel_place<64>(r, chunk));
        }
    }
}

// s (64, columns) = own (64, HS) other (columns, HS)^T: `own_rows` and `columns` are the rows of the tiles they lie in.
template <int HS, int own_rows, int columns>
static __device__ __forceinline__ void begin_scores(float (&s)[columns / 2], uint64_t own, uint64_t other) {
#pragma unroll
    for (int x = 0; x < HS / 16; x++) {
        wgmma_shared(s, own + (uint64_t)((x / 4 * own_rows * 128 + x % 4 * 32) / 16),
                     other + (uint64_t)((x / 4 * columns * 128 + x % 4 * 32) / 16), x > 0);
    }
    wgmma_commit();
}
// sum (64, HS) += p (64, columns) other (columns, HS), p as begin_scores gave its accumulators, packed.
template <int HS, int columns>
static __device__ __forceinline__ void begin_sum(float (&sum)[HS / 2], const uint32_t (&p)[columns / 16][4],
                                                 uint64_t other) {
#pragma unroll
    for (int x = 0; x < columns / 16; x++) { wgmma_registers(sum, p[x], other + (uint64_t)(x * 2048 / 16)); }
    wgmma_commit();
}
template <int columns>
static __device__ __forceinline__ void pack_left(uint32_t (&a)[columns / 16][4], const float (&p)[columns / 2]) {
#pragma unroll
    for (int x = 0; x < columns / 16; x++) {
#pragma unroll
        for (int i = 0; i < 4; i++) { a[x][i] = pack_bf16(p[8 * x + 2 * i], p[8 * x + 2 * i + 1]); }
    }
}

// The number of this thread's warpgroup, in a form that the compiler knows to be the same for all of a warp.
static __device__ __forceinline__ int warpgroup(void) {
    return __shfl_sync(0xffffffffu, (int)threadIdx.x / (4 * WARP), 0);
}

// The barrier of all steps.
static __device__ __forceinline__ void wide_barrier(void) { __syncthreads(); }
// It finds a step's tiles there for all, all but `later` groups of copies.
template <int later> static __device__ __forceinline__ void wide_step(void) {
    cp_async_wait<later>();
    wgmma_fence_shared();
    wide_barrier();
}

// ---- forward ----
//
// Step j begins the scores with keys j+1, then the sum over keys j; while they run, it has the exponentials of j+1. The
// ring holds in slot j the keys j+1 and the values j.
//
// A barrier stands between two steps. The odd warpgroups have it between the beginning of a step's products and its
// exponentials, the others after both: so while the ones compute exponentials, the others' products run. The
// barrier after step j finds all done with slot j-1, so with `slots` of them slots - 2 are on their way.

template <int HS> struct WideForward {
    enum {
        groups = 2,
        keys = HS == 64 ? 64 : 128,  // of a tile
        at_once = HS == 64 ? 2 : 1,  // blocks on an SM: what registers are to suffice for
        slots = HS == 64 ? 5 : 3,
        rows = 64 * groups,
        threads = 128 * groups,
        // Bytes of shared memory
        tile = keys * Panels<HS>::bytes,
        slot = 2 * tile,
        ring_at = rows * Panels<HS>::bytes,
        bytes = ring_at + slots * slot,
    };
    static_assert((bytes + 1024) * at_once <= 228 * 1024, "shared memory of a block");
};

// Asks for keys j+1 and values j, as far as there are such tiles.
template <int HS>
static __device__ __forceinline__ void wide_forward_fetch(unsigned char* shared, int j, int tiles, const floatX* k,
                                                          const floatX* v, const AttentionShape& shape) {
    typedef WideForward<HS> S;
    unsigned char* slot = shared + S::ring_at + (j + S::slots) % S::slots * S::slot;
    const int row = (int)shape.row, first = j * S::keys;
    if (j + 1 < tiles) {
        panels_load<HS, S::keys, S::threads>(slot, k + (size_t)(first + S::keys) * shape.row, row,
                                             shape.T - first - S::keys);
    }
    if (j >= 0 && j < tiles) {
        panels_load<HS, S::keys, S::threads>(slot + S::tile, v + (size_t)first * shape.row, row, shape.T - first);
    }
    cp_async_commit();
}

// Scores become probabilities, up to the factor that l holds; m, l: maximum and this lane's sums of its two rows;
// again: by what older sums shrink. far: query minus key at place 0; masked: whether some key comes after its query.
template <int columns>
static __device__ __forceinline__ void wide_softmax(float (&s)[columns / 2], float m[2], float l[2], float again[2],
                                                    int masked, int far, float scale_log2) {
    if (masked) {
#pragma unroll
        for (int i = 0; i < columns / 2; i++) {
            if (i / 4 * 8 + i % 2 - i % 4 / 2 * 8 > far) { s[i] = -INFINITY; }
        }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float most = m[half];
#pragma unroll
        for (int i = 2 * half; i < columns / 2; i += 4) { most = fmaxf(most, fmaxf(s[i], s[i + 1])); }
        most = quad_max(most);
        again[half] = exp2_approx((m[half] - most) * scale_log2);
        m[half] = most;
        const float shift = -most * scale_log2;
        float sum = 0;
#pragma unroll
        for (int i = 2 * half; i < columns / 2; i += 4) {
            s[i] = exp2_approx(fmaf(s[i], scale_log2, shift));
            s[i + 1] = exp2_approx(fmaf(s[i + 1], scale_log2, shift));
            sum += s[i] + s[i + 1];
        }
        l[half] = fmaf(l[half], again[half], sum);
    }
}

template <int HS>
static __global__ void __launch_bounds__(WideForward<HS>::threads, WideForward<HS>::at_once)
    attention_forward_wgmma_kernel(floatX* __restrict__ out, float* __restrict__ lse, const floatX* __restrict__ q,
                                   const floatX* __restrict__ k, const floatX* __restrict__ v, AttentionShape shape) {
#if WGMMA_CODE
    typedef WideForward<HS> S;
    SHARED_PANELS(shared);  // queries (rows, HS), then the ring; out at the end
    const int T = shape.T, wg = warpgroup();
    const int i0 = ((T + S::rows - 1) / S::rows - 1 - (int)blockIdx.x) * S::rows;  // the longest rows go first
    const int i_own = i0 + wg * 64, i_warp = i_own + (int)threadIdx.x / WARP % 4 * 16;
    const int lane = (int)threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    const size_t start = (size_t)blockIdx.z * (size_t)T;
    k += start * shape.row + (size_t)((int)blockIdx.y / shape.group) * shape.kv_head;
    v += start * shape.row + (size_t)((int)blockIdx.y / shape.group) * shape.kv_head;
    const int tiles = (min(i0 + (int)S::rows, T) + S::keys - 1) / S::keys;  // of the block, and of this warpgroup
    const int mine = i_own < T ? (min(i_own + 64, T) + S::keys - 1) / S::keys : 0;
    panels_load<HS, S::rows, S::threads>(shared, q + (start + (size_t)i0) * shape.row + blockIdx.y * shape.q_head,
                                         (int)shape.row, T - i0);
    const int odd = wg & 1;
#pragma unroll
    for (int j = -1; j < S::slots - 3; j++) { wide_forward_fetch<HS>(shared, j, tiles, k, v, shape); }
    if (odd) { wide_forward_fetch<HS>(shared, S::slots - 3, tiles, k, v, shape); }
    if (odd) {
        cp_async_wait<S::slots - 2>();
    } else {
        cp_async_wait<S::slots - 3>();
    }
    wgmma_fence_shared();
    wide_barrier();

    const uint64_t own = wgmma_matrix(shared + wg * 64 * 128, 0);
    const uint64_t ring = wgmma_matrix(shared + S::ring_at, S::keys * 128);
    float o[HS / 2], s[S::keys / 2], m[2] = {-INFINITY, -INFINITY}, l[2] = {0, 0}, again[2];
    uint32_t p[S::keys / 16][4];
#pragma unroll
    for (int i = 0; i < HS / 2; i++) { o[i] = 0; }
    for (int j = -1; j < tiles; j++) {
        const uint64_t slot = ring + (uint64_t)((j + S::slots) % S::slots * (S::slot / 16));
        const int j0 = (j + 1) * S::keys, fetch = j + odd + S::slots - 2;
        if (j >= 0 && j < mine - 1) {
            wgmma_fence();
            begin_scores<HS, S::rows, S::keys>(s, own, slot);
            begin_sum<HS, S::keys>(o, p, slot + (uint64_t)(S::tile / 16));
            if (odd) { wide_step<S::slots - 3>(); }
            wide_forward_fetch<HS>(shared, fetch, tiles, k, v, shape);
            wgmma_wait<1>();
            wgmma_done(s);
            wide_softmax<S::keys>(s, m, l, again, j0 + S::keys - 1 > i_warp, i_warp + g - j0 - 2 * t, shape.scale_log2);
            wgmma_wait<0>();
            wgmma_done(o);
            wgmma_done(s);  // not packed before the sum is done, which reads the p of the step before
#pragma unroll
            for (int i = 0; i < HS / 2; i++) { o[i] *= again[i % 4 / 2]; }
            pack_left<S::keys>(p, s);
            if (!odd) { wide_step<S::slots - 3>(); }
        } else if (j < 0 && mine > 0) {
            wgmma_fence();
            begin_scores<HS, S::rows, S::keys>(s, own, slot);
            if (odd) { wide_step<S::slots - 3>(); }
            wide_forward_fetch<HS>(shared, fetch, tiles, k, v, shape);
            wgmma_wait<0>();
            wgmma_done(s);
            wide_softmax<S::keys>(s, m, l, again, S::keys - 1 > i_warp, i_warp + g - 2 * t, shape.scale_log2);
            pack_left<S::keys>(p, s);
            if (!odd) { wide_step<S::slots - 3>(); }
        } else {
            if (j >= 0 && j == mine - 1) {
                wgmma_fence();
                begin_sum<HS, S::keys>(o, p, slot + (uint64_t)(S::tile / 16));
                wgmma_wait<0>();
                wgmma_done(o);
            }
            if (odd) { wide_step<S::slots - 3>(); }
            wide_forward_fetch<HS>(shared, fetch, tiles, k, v, shape);
            if (!odd) { wide_step<S::slots - 3>(); }
        }
    }
    cp_async_wait<0>();

    __syncthreads();
    const float top = quad_sum(l[0]), bottom = quad_sum(l[1]);
    float* to = lse + ((size_t)blockIdx.z * (size_t)shape.NH + blockIdx.y) * (size_t)T;
    const int i = i_warp + g;
    if (t == 0 && i < T) { to[i] = fmaf(m[0], shape.scale, logf(top)); }
    if (t == 0 && i + 8 < T) { to[i + 8] = fmaf(m[1], shape.scale, logf(bottom)); }
    const int out_row = shape.NH * HS;
    panels_store<HS>(out + (start + (size_t)i_own) * (size_t)out_row + (size_t)blockIdx.y * HS, out_row, T - i_own,
                     shared + wg * 64 * Panels<HS>::bytes, o, 1.0f / top, 1.0f / bottom);
#else
    wgmma_missing();
#endif
}

// ---- backward ----
//
// As [4] of attention.cuh has it, own0 to dk and dv. A step begins its scores and dp, and its sums as soon as their left
// operands are there; the sums are still running when the next step begins. The barrier between steps stands as in
// the forward: odd warpgroups have it between the beginning of scores and the exponentials. So they may
// read the tiles of step j until the barrier after step j+2.

template <int HS, int keys> struct WideBackward {
    enum {
        groups = 2,
        columns = !keys && HS == 64 ? 128 : 64,  // of a tile that comes by
        slots = keys ? 4 : 5,
        ahead = slots - 3,  // steps whose tiles are on their way
        rows = 64 * groups,
        threads = 128 * groups,
        // Bytes of shared memory
        own_tile = rows * Panels<HS>::bytes,
        other_tile = columns * Panels<HS>::bytes,
        slot = 2 * other_tile,
        ring_at = 2 * own_tile,
        statistics_at = ring_at + slots * slot,  // lse and delta of the columns, slot by slot
        statistics = keys ? 2 * columns * 4 : 0,
        bytes = statistics_at + slots * statistics,
    };
    static_assert(bytes <= 227 * 1024, "shared memory of a block");
};

// What comes by, for query heads h to h_end: the columns from c_begin to c_end, of which those from c on are next, for
// slot `slot`. From the inputs' addresses (q to delta) follow those of head h at position 0 (other0 to its statistics).
typedef struct {
    const floatX *q, *k, *v, *dout;
    const float *lse, *delta;
    int h, h_end, c_begin, c_end, c, slot;
    const floatX *other0, *other1;
    const float *lse_of_head, *delta_of_head;
} WideQueue;
template <int keys> static __device__ __forceinline__ void wide_head(WideQueue& next, const AttentionShape& shape) {
    const size_t T = (size_t)shape.T, start = (size_t)blockIdx.z * T, NH = (size_t)shape.NH, h = (size_t)next.h;
    const size_t kv = start * shape.row + h / (size_t)shape.group * shape.kv_head;
    const size_t statistics = ((size_t)blockIdx.z * NH + h) * T;
    next.other0 = keys ? next.q + start * shape.row + h * shape.q_head : next.k + kv;
    next.other1 = keys ? next.dout + (start * NH + h) * (size_t)shape.HS : next.v + kv;
    next.lse_of_head = next.lse + statistics;
    next.delta_of_head = next.delta + statistics;
}

// Asks for the next columns, as backward_fetch does, if there are any.
template <int HS, int keys>
static __device__ __forceinline__ void wide_ask(unsigned char* shared, WideQueue& next, const AttentionShape& shape) {
    typedef WideBackward<HS, keys> S;
    if (next.h < next.h_end) {
        unsigned char* slot = shared + S::ring_at + next.slot * S::slot;
        const int row = (int)shape.row, row1 = keys ? shape.NH * HS : row, c = next.c, count = shape.T - c;
        panels_load<HS, S::columns, S::threads>(slot, next.other0 + (size_t)c * (size_t)row, row, count);
        panels_load<HS, S::columns, S::threads>(slot + S::other_tile, next.other1 + (size_t)c * (size_t)row1, row1,
                                                count);
        if (keys) {
            float* to = (float*)(shared + S::statistics_at + next.slot * S::statistics);
            const int thread = (int)threadIdx.x;
            if (shape.T % 4 == 0) {  // rows of statistics begin at multiples of 16 bytes
                const int i = thread % (S::columns / 4) * 4, which = thread / (S::columns / 4);
                if (which < 2) {
                    cp_async_16(to + which * S::columns + i,
                                (which ? next.delta_of_head : next.lse_of_head) + c + (i < count ? i : 0),
                                i < count ? 16 : 0);
                }
            } else if (thread < S::columns) {
                to[thread] = thread < count ? next.lse_of_head[c + thread] : 0.0f;
                to[S::columns + thread] = thread < count ? next.delta_of_head[c + thread] : 0.0f;
            }
        }
        next.slot = next.slot == S::slots - 1 ? 0 : next.slot + 1;
        next.c += S::columns;
        if (next.c >= next.c_end) {
            next.c = next.c_begin;
            if (++next.h < next.h_end) { wide_head<keys>(next, shape); }
        }
    }
    cp_async_commit();
}

// s = 0 where the query does not see the key; far: how far this lane's first column lies from its first row, above 0 on
// the side that is seen.
template <int keys, int columns> static __device__ __forceinline__ void wide_mask(float (&s)[columns / 2], int far) {
#pragma unroll
    for (int i = 0; i < columns / 2; i++) {
        const int less = i / 4 * 8 + i % 2 - i % 4 / 2 * 8;
        if (keys ? far + less < 0 : far - less < 0) { s[i] = 0; }
    }
}

template <int HS, int keys>
static __global__ void __launch_bounds__(WideBackward<HS, keys>::threads, 1)
    attention_backward_wgmma_kernel(floatX* __restrict__ d0, floatX* __restrict__ d1, const float* __restrict__ delta,
                                    const floatX* __restrict__ dout, const floatX* __restrict__ q,
                                    const floatX* __restrict__ k, const floatX* __restrict__ v,
                                    const float* __restrict__ lse, AttentionShape shape) {
#if WGMMA_CODE
    typedef WideBackward<HS, keys> S;
    SHARED_PANELS(shared);  // own0, own1; slots of other0, other1 and statistics. d0, d1 at the end
    const int T = shape.T, wg = warpgroup(), blocks = (T + S::rows - 1) / S::rows;
    const int lane = (int)threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    // The first keys and the last queries have most to do.
    const int r0 = (keys ? (int)blockIdx.x : blocks - 1 - (int)blockIdx.x) * S::rows, r_own = r0 + wg * 64;
    const int r_warp = r_own + (int)threadIdx.x / WARP % 4 * 16;
    const size_t position = (size_t)blockIdx.z * (size_t)T + (size_t)r0;
    const int h_first = (int)blockIdx.y * (keys ? shape.group : 1), members = keys ? shape.group : 1;
    const int c_begin = keys ? r0 : 0, c_end = keys ? T : min(r0 + (int)S::rows, T);
    const int row1 = keys ? (int)shape.row : shape.NH * HS;
    const floatX* own0 = (keys ? k : q) + position * shape.row + blockIdx.y * (keys ? shape.kv_head : shape.q_head);
    const floatX* own1 = keys ? v + position * shape.row + blockIdx.y * shape.kv_head
                              : dout + position * (size_t)row1 + (size_t)blockIdx.y * HS;
    panels_load<HS, S::rows, S::threads>(shared, own0, (int)shape.row, T - r0);
    panels_load<HS, S::rows, S::threads>(shared + S::own_tile, own1, row1, T - r0);
    WideQueue next = {q, k, v, dout, lse, delta, h_first, h_first + members, c_begin, c_end, c_begin, 0};
    wide_head<keys>(next, shape);
    const int odd = wg & 1;
#pragma unroll
    for (int i = 0; i < S::ahead; i++) { wide_ask<HS, keys>(shared, next, shape); }
    // keys = 0: the statistics of the own rows g and g+8
    float row_lse[2] = {0, 0}, row_delta[2] = {0, 0};
    if (!keys) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int i = r_warp + g + 8 * half;
            if (i < T) {
                row_lse[half] = next.lse_of_head[i] * ATTENTION_LOG2E;
                row_delta[half] = next.delta_of_head[i];
            }
        }
    }
    float sum0[HS / 2], sum1[keys ? HS / 2 : 1];
#pragma unroll
    for (int i = 0; i < HS / 2; i++) { sum0[i] = 0; }
#pragma unroll
    for (int i = 0; i < (keys ? HS / 2 : 1); i++) { sum1[i] = 0; }

    const uint64_t own = wgmma_matrix(shared + wg * 64 * 128, 0);
    const uint64_t ring = wgmma_matrix(shared + S::ring_at, S::columns * 128);
    float s[S::columns / 2], dp[S::columns / 2];
    uint32_t p_left[keys ? S::columns / 16 : 1][4], ds_left[S::columns / 16][4];
    int slot = 0;
    wide_step<S::ahead - 1>();
    if (odd) { wide_ask<HS, keys>(shared, next, shape); }
    for (int member = 0; member < members; member++) {
        for (int c0 = c_begin; c0 < c_end; c0 += S::columns) {
            // Tiles without any pair of a query and a key that it sees are left out.
            if (keys ? c0 + S::columns > r_own && r_own < T : c0 < r_own + 64) {
                const uint64_t other = ring + (uint64_t)(slot * (S::slot / 16));
                const float* of_columns = (const float*)(shared + S::statistics_at + slot * S::statistics);
                wgmma_fence();
                begin_scores<HS, S::rows, S::columns>(s, own, other);
                begin_scores<HS, S::rows, S::columns>(dp, own + S::own_tile / 16, other + S::other_tile / 16);
                if (odd) { wide_step<S::ahead - 1>(); }
                wide_ask<HS, keys>(shared, next, shape);
                wgmma_wait<1>();
                wgmma_done(s);
                wgmma_done(sum0);
                if (keys) { wgmma_done(sum1); }
#pragma unroll
                for (int n = 0; n < S::columns / 8; n++) {
                    float2 of = keys ? *(const float2*)(of_columns + n * 8 + 2 * t) : make_float2(0, 0);
                    of.x *= ATTENTION_LOG2E, of.y *= ATTENTION_LOG2E;
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        const float less = !keys ? row_lse[e / 2] : e % 2 ? of.y : of.x;
                        s[4 * n + e] = exp2_approx(fmaf(s[4 * n + e], shape.scale_log2, -less));
                    }
                }
                const int diagonal = keys ? c0 < r_warp + 15 : c0 + S::columns - 1 > r_warp;
                const int far = keys ? c0 + 2 * t - r_warp - g : r_warp + g - c0 - 2 * t;
                if (diagonal) { wide_mask<keys, S::columns>(s, far); }
                if constexpr (keys != 0) {
                    pack_left<S::columns>(p_left, s);
                    wgmma_fence();
                    begin_sum<HS, S::columns>(sum1, p_left, other + S::other_tile / 16);
                    wgmma_wait<1>();
                } else {
                    wgmma_wait<0>();
                }
                wgmma_done(dp);
#pragma unroll
                for (int n = 0; n < S::columns / 8; n++) {
                    const float2 of =
                        keys ? *(const float2*)(of_columns + S::columns + n * 8 + 2 * t) : make_float2(0, 0);
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        const float less = !keys ? row_delta[e / 2] : e % 2 ? of.y : of.x;
                        s[4 * n + e] *= dp[4 * n + e] - less;
                    }
                }
                pack_left<S::columns>(ds_left, s);
                wgmma_fence();
                begin_sum<HS, S::columns>(sum0, ds_left, other);
                if (!odd) { wide_step<S::ahead - 1>(); }
            } else {
                wgmma_wait<0>();  // the sums of the step before, as its tiles are free after the next barrier
                wgmma_done(sum0);
                if (keys) { wgmma_done(sum1); }
                if (odd) { wide_step<S::ahead - 1>(); }
                wide_ask<HS, keys>(shared, next, shape);
                if (!odd) { wide_step<S::ahead - 1>(); }
            }
            slot = slot == S::slots - 1 ? 0 : slot + 1;
        }
    }
    wgmma_wait<0>();
    wgmma_done(sum0);
    if (keys) { wgmma_done(sum1); }
    cp_async_wait<0>();

    __syncthreads();
    const size_t to = (position + (size_t)(wg * 64)) * shape.row + blockIdx.y * (keys ? shape.kv_head : shape.q_head);
    unsigned char* room = shared + wg * 64 * Panels<HS>::bytes;
    panels_store<HS>(d0 + to, (int)shape.row, T - r_own, room, sum0, shape.scale, shape.scale);
    if constexpr (keys != 0) {
        panels_store<HS>(d1 + to, (int)shape.row, T - r_own, room + S::own_tile, sum1, 1.0f, 1.0f);
    }
#else
    wgmma_missing();
#endif
}

// ---- launches ----

// CASE(HS) for the head sizes that these kernels know.
#define FOR_WIDE(HS, CASE)       \
    do {                         \
        if ((HS) == 64) {        \
            CASE(64);            \
        } else if ((HS) == 80) { \
            CASE(80);            \
        } else if ((HS) == 96) { \
            CASE(96);            \
        } else {                 \
            CASE(128);           \
        }                        \
    } while (0)

// Whether they are taken where they can be: on compute capability 9.0, in a program built for sm_90a; tests and benchmarks
// say 0 to have the others.
static int attention_wide = 1;
static inline int attention_is_wide(size_t HS) {
#ifdef HAVE_SM90A
    return attention_wide && device.sm == 90 && (HS == 64 || HS == 80 || HS == 96 || HS == 128);
#else
    (void)HS;
    return 0;
#endif
}

template <int HS>
static inline void attention_forward_wide_of(floatX* out, float* lse, const floatX* q, const floatX* k, const floatX* v,
                                             size_t B, AttentionShape shape) {
    typedef WideForward<HS> S;
    launch((attention_forward_wgmma_kernel<HS>), attention_grid(B, (size_t)shape.T, (size_t)shape.NH, S::rows),
           dim3(S::threads), S::bytes, device.stream, out, lse, q, k, v, shape);
}
static inline void attention_forward_wide(floatX* out, float* lse, const floatX* q, const floatX* k, const floatX* v,
                                          size_t B, AttentionShape shape) {
#define CASE(SIZE) attention_forward_wide_of<SIZE>(out, lse, q, k, v, B, shape)
    FOR_WIDE(shape.HS, CASE);
#undef CASE
}

template <int HS>
static inline void attention_backward_wide_keys(floatX* dk, floatX* dv, const float* delta, const floatX* dout,
                                                const floatX* q, const floatX* k, const floatX* v, const float* lse,
                                                size_t B, size_t NKV, AttentionShape shape) {
    typedef WideBackward<HS, KEYS> S;
    launch((attention_backward_wgmma_kernel<HS, KEYS>), attention_grid(B, (size_t)shape.T, NKV, S::rows),
           dim3(S::threads), S::bytes, device.stream, dk, dv, delta, dout, q, k, v, lse, shape);
}
template <int HS>
static inline void attention_backward_wide_queries(floatX* dq, const float* delta, const floatX* dout, const floatX* q,
                                                   const floatX* k, const floatX* v, const float* lse, size_t B,
                                                   AttentionShape shape) {
    typedef WideBackward<HS, QUERIES> S;
    launch((attention_backward_wgmma_kernel<HS, QUERIES>),
           attention_grid(B, (size_t)shape.T, (size_t)shape.NH, S::rows), dim3(S::threads), S::bytes, device.stream, dq,
           (floatX*)NULL, delta, dout, q, k, v, lse, shape);
}
static inline void attention_backward_wide(floatX* dq, floatX* dk, floatX* dv, const float* delta, const floatX* dout,
                                           const floatX* q, const floatX* k, const floatX* v, const float* lse,
                                           size_t B, size_t NKV, AttentionShape shape) {
    const size_t T = (size_t)shape.T, NH = (size_t)shape.NH, HS = (size_t)shape.HS;
    states_product(attention_flops(4, B, T, NH, HS), attention_bytes(2, 4, 2, B, T, NH, NKV, HS));  // s, dp, dv, dk
#define CASE(SIZE) attention_backward_wide_keys<SIZE>(dk, dv, delta, dout, q, k, v, lse, B, NKV, shape)
    FOR_WIDE(HS, CASE);
#undef CASE
    states_product(attention_flops(3, B, T, NH, HS), attention_bytes(3, 2, 2, B, T, NH, NKV, HS));  // s, dp, dq
#define CASE(SIZE) attention_backward_wide_queries<SIZE>(dq, delta, dout, q, k, v, lse, B, shape)
    FOR_WIDE(HS, CASE);
#undef CASE
}

template <int HS> static inline void attention_print_shared_wide(void) {
    printf("attention_forward_wgmma_kernel<%d> %d\n", HS, (int)WideForward<HS>::bytes);
    printf("attention_backward_wgmma_kernel<%d,%d> %d\n", HS, (int)KEYS, (int)WideBackward<HS, KEYS>::bytes);
    printf("attention_backward_wgmma_kernel<%d,%d> %d\n", HS, (int)QUERIES, (int)WideBackward<HS, QUERIES>::bytes);
}

#endif
