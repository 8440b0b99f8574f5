// emulate.h - CUDA on the CPU: what a kernel sees, and the runtime calls that the project uses.
//
// Every CUDA thread of a block is a fibre with a stack of its own; they take turns on one thread of the
// machine, and change only where CUDA threads wait for each other: at barriers, shuffles, votes and the
// warp-wide matrix instructions. Blocks run one after the other on each thread of the machine. The
// order of blocks, warps and lanes is permuted by a seed. See README.md for what this finds, and what not.
//
//   EMULATE_SEED=n       order of blocks, warps and lanes (0: ascending)
//   EMULATE_ASYNC=late   copies by cp.async happen when they are waited for, and what is put into a
//                        stream when the host waits; early (the default): at once
//   EMULATE_BANKS=any    ldmatrix may meet bank conflicts; by default one is an error
//   EMULATE_MEMORY=n     bytes of device memory (default 8e9)
//   EMULATE_TAKEN=n      bytes of it that other processes hold (default 0)
//   EMULATE_DEVICES=n    GPUs found (default 1)
//   EMULATE_SM=n         compute capability, 86 by default
//   EMULATE_DRIVER=n     the driver's CUDA version, 12040 for 12.4
//
// Included by the <cuda_runtime.h> and <cuda_bf16.h> beside it.
#ifndef PONDER_EMULATE_H
#define PONDER_EMULATE_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <functional>
#include <tuple>
#include <type_traits>

#include "emulate_who.h"

// Defined where every access to memory costs a call: tests then leave large cases out.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define EMULATE_SLOW 1
#elif defined(__has_feature)
#if __has_feature(memory_sanitizer) || __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define EMULATE_SLOW 1
#endif
#endif

// ---- the language ----

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct __align__(8) float2 {
    float x, y;
};
struct __align__(16) float4 {
    float x, y, z, w;
};
struct __align__(8) int2 {
    int x, y;
};
struct __align__(16) int4 {
    int x, y, z, w;
};
struct __align__(8) uint2 {
    unsigned x, y;
};
struct __align__(16) uint4 {
    unsigned x, y, z, w;
};
static inline float2 make_float2(float x, float y) { return float2{x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return float4{x, y, z, w}; }
static inline int2 make_int2(int x, int y) { return int2{x, y}; }
static inline int4 make_int4(int x, int y, int z, int w) { return int4{x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return uint2{x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return uint4{x, y, z, w}; }

// The running CUDA thread.
struct EmulateThread {
    uint3 thread_index, block_index;
    dim3 block_dim, grid_dim;
    unsigned linear;  // of its block
};
extern __thread EmulateThread* emulate_thread;
#define threadIdx (emulate_thread->thread_index)
#define blockIdx (emulate_thread->block_index)
#define blockDim (emulate_thread->block_dim)
#define gridDim (emulate_thread->grid_dim)
enum { warpSize = 32 };

// ---- waiting for each other ----

void emulate_syncthreads(const char* file, int line);
// All 32 lanes of the warp meet at one place; each brings `bytes` (at most 64). Returns what they
// brought, 64 bytes a lane, valid until the warp meets again after the next time. `last`, if given, is called with all of it by
// the lane that comes last, before any goes on.
const unsigned char* emulate_meet(const char* what, const char* file, int line, unsigned mask, const void* mine,
                                  size_t bytes, void (*last)(unsigned char* all) = NULL);
#define __syncthreads() emulate_syncthreads(__FILE__, __LINE__)
#define __syncwarp(...) ((void)emulate_meet("__syncwarp", __FILE__, __LINE__, 0xffffffffu, NULL, 0))

template <class number>
static inline EMULATE_UNSEEN number emulate_shuffle(const char* what, const char* file, int line, unsigned mask,
                                                    number x, int lane) {
    const unsigned char* all = emulate_meet(what, file, line, mask, &x, sizeof x);
    number y;
    memcpy(&y, all + 64 * (size_t)(lane & 31), sizeof y);
    return y;
}
#define EMULATE_LANE ((int)(emulate_thread->linear % 32))
#define __shfl_sync(mask, x, lane) emulate_shuffle("__shfl_sync", __FILE__, __LINE__, mask, x, lane)
#define __shfl_xor_sync(mask, x, m) \
    emulate_shuffle("__shfl_xor_sync", __FILE__, __LINE__, mask, x, EMULATE_LANE ^ (int)(m))
#define __shfl_down_sync(mask, x, d)                                 \
    emulate_shuffle("__shfl_down_sync", __FILE__, __LINE__, mask, x, \
                    EMULATE_LANE + (int)(d) < 32 ? EMULATE_LANE + (int)(d) : EMULATE_LANE)
#define __shfl_up_sync(mask, x, d)                                 \
    emulate_shuffle("__shfl_up_sync", __FILE__, __LINE__, mask, x, \
                    EMULATE_LANE >= (int)(d) ? EMULATE_LANE - (int)(d) : EMULATE_LANE)

// What x = join(x, __shfl_xor_sync(x, m)) leaves in every lane with m = 16, 8, ..., 1: all of it by the lane that comes last. Such
// trees are most of what the lanes of a model meet for.
template <float (*join)(float, float)> static EMULATE_UNSEEN void emulate_tree_of_warp(unsigned char* all) {
    float x[32], next[32];
    for (size_t lane = 0; lane < 32; lane++) { memcpy(&x[lane], all + 64 * lane, sizeof(float)); }
    for (size_t m = 16; m > 0; m /= 2) {
        for (size_t lane = 0; lane < 32; lane++) { next[lane] = join(x[lane], x[lane ^ m]); }
        memcpy(x, next, sizeof x);
    }
    for (size_t lane = 0; lane < 32; lane++) { memcpy(all + 64 * lane, &x[lane], sizeof(float)); }
}
template <float (*join)(float, float)>
static inline EMULATE_UNSEEN float emulate_tree(const char* what, const char* file, int line, float x) {
    const unsigned char* all = emulate_meet(what, file, line, 0xffffffffu, &x, sizeof x, emulate_tree_of_warp<join>);
    memcpy(&x, all + 64 * (size_t)EMULATE_LANE, sizeof x);
    return x;
}

static inline EMULATE_UNSEEN unsigned emulate_ballot(const char* what, const char* file, int line, unsigned mask,
                                                     int predicate) {
    unsigned char mine = predicate != 0;
    const unsigned char* all = emulate_meet(what, file, line, mask, &mine, 1);
    unsigned bits = 0;
    for (int i = 0; i < 32; i++) { bits |= (unsigned)(all[64 * i] != 0) << i; }
    return bits;
}
#define __ballot_sync(mask, p) emulate_ballot("__ballot_sync", __FILE__, __LINE__, mask, p)
#define __any_sync(mask, p) (emulate_ballot("__any_sync", __FILE__, __LINE__, mask, p) != 0)
#define __all_sync(mask, p) (emulate_ballot("__all_sync", __FILE__, __LINE__, mask, p) == 0xffffffffu)

// Shared memory of the block: filled with NaN before the block begins.
void* emulate_shared(const char* file, int line, size_t bytes);
void* emulate_shared_dynamic(void);

// Blocks may run at once on several threads of the machine, so atomics are real ones.
template <class number> static inline number atomicAdd(number* p, number x) {
    static_assert(std::is_integral<number>::value, "no atomics on floats: their order would change the bits");
    return __atomic_fetch_add(p, x, __ATOMIC_RELAXED);
}
template <class number> static inline number atomicOr(number* p, number x) {
    return __atomic_fetch_or(p, x, __ATOMIC_RELAXED);
}
template <class number> static inline number atomicAnd(number* p, number x) {
    return __atomic_fetch_and(p, x, __ATOMIC_RELAXED);
}
template <class number> static inline number atomicCAS(number* p, number old, number x) {
    __atomic_compare_exchange_n(p, &old, x, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return old;
}
template <class number> static inline number atomicMax(number* p, number x) {
    number old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (old < x && !__atomic_compare_exchange_n(p, &old, x, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    return old;
}
template <class number> static inline number atomicMin(number* p, number x) {
    number old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (old > x && !__atomic_compare_exchange_n(p, &old, x, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    return old;
}
static inline void __threadfence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

// ---- numbers ----

static inline float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
static inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, 4);
    return bits;
}
static inline float __int_as_float(int bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
static inline int __float_as_int(float x) {
    int bits;
    memcpy(&bits, &x, 4);
    return bits;
}
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float rsqrtf(float a) { return 1.0f / sqrtf(a); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
template <class number> static inline number __ldg(const number* p) { return *p; }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
static inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
static inline size_t min(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t max(size_t a, size_t b) { return a > b ? a : b; }

// ---- the runtime ----

typedef enum {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorNotReady = 600,
    cudaErrorStreamCaptureUnsupported = 900
} cudaError_t;
typedef enum {
    cudaMemcpyHostToHost,
    cudaMemcpyHostToDevice,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice,
    cudaMemcpyDefault
} cudaMemcpyKind;
typedef enum {
    cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
    cudaFuncAttributePreferredSharedMemoryCarveout = 9
} cudaFuncAttribute;
typedef enum {
    cudaStreamCaptureModeGlobal,
    cudaStreamCaptureModeThreadLocal,
    cudaStreamCaptureModeRelaxed
} cudaStreamCaptureMode;
typedef enum {
    cudaStreamCaptureStatusNone,
    cudaStreamCaptureStatusActive,
    cudaStreamCaptureStatusInvalidated
} cudaStreamCaptureStatus;
typedef void (*cudaHostFn_t)(void* data);
typedef enum { CUDA_R_32F = 0, CUDA_R_16BF = 14 } cudaDataType_t;
typedef cudaDataType_t cudaDataType;
typedef struct EmulateStream* cudaStream_t;
typedef struct EmulateEvent* cudaEvent_t;
typedef struct EmulateGraph* cudaGraph_t;
typedef struct EmulateGraph* cudaGraphExec_t;
struct cudaDeviceProp {
    char name[256];
    struct {
        char bytes[16];
    } uuid;  // of the device's number; hosts are told apart elsewhere
    size_t totalGlobalMem, sharedMemPerBlock, sharedMemPerBlockOptin, sharedMemPerMultiprocessor;
    int multiProcessorCount, major, minor, warpSize, maxThreadsPerBlock;
};
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2 };

const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError(void);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDevice(int* which);
cudaError_t cudaSetDevice(int which);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* prop, int which);
cudaError_t cudaMemGetInfo(size_t* unused, size_t* total);
cudaError_t emulate_malloc(void** p, size_t bytes);
cudaError_t emulate_malloc_host(void** p, size_t bytes);
template <class number> static inline cudaError_t cudaMalloc(number** p, size_t bytes) {
    return emulate_malloc((void**)p, bytes);
}
template <class number> static inline cudaError_t cudaMallocHost(number** p, size_t bytes) {
    return emulate_malloc_host((void**)p, bytes);
}
cudaError_t cudaFree(void* p);
cudaError_t cudaFreeHost(void* p);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaMemset(void* p, int value, size_t bytes);
cudaError_t cudaDeviceSynchronize(void);
cudaError_t cudaStreamCreate(cudaStream_t* stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data);
cudaError_t cudaEventCreate(cudaEvent_t* event);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t begin, cudaEvent_t end);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status);
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);

// Puts work into a stream: done at once, or when the host waits, or kept in the graph being captured.
void emulate_push(cudaStream_t stream, std::function<void()> what);
// What is put into the stream from here on is done when something waits for it, in the early mode too.
void emulate_hold(cudaStream_t stream);
// Dies unless all bytes lie in one piece of device memory (or page-locked host memory).
void emulate_check_device(const char* what, const void* p, size_t bytes);

// ---- launches ----

void emulate_run(const char* name, dim3 grid, dim3 block, size_t shared, const std::function<void()>& kernel);

template <class T> static inline void emulate_check_argument(const char* name, const T& x) {
    if constexpr (std::is_pointer<T>::value) {
        if (x) { emulate_check_device(name, (const void*)x, 0); }
    }
}
template <class... P, class... A>
static inline void emulate_launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared,
                                  cudaStream_t stream, A... a) {
    std::tuple<P...> arguments((P)a...);
    std::apply([&](const P&... p) { (emulate_check_argument(name, p), ...); }, arguments);
    emulate_push(stream, [=]() { emulate_run(name, grid, block, shared, [&]() { std::apply(kernel, arguments); }); });
}

#endif
