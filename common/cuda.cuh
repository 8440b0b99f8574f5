// cuda.cuh - what every CUDA file needs: the number type, errors, launches, memory, 128-bit accesses,
// sums over a warp and a block.
//
// Included by nvcc and by the emulator's g++ (dev/emulate supplies <cuda_runtime.h>, <cuda_bf16.h> and
// <cublasLt.h> there), both with -DGPU=1. Kernels are launched through launch() only, and have
// shared memory through SHARED() and SHARED_DYNAMIC() only.
#ifndef PONDER_CUDA_CUH
#define PONDER_CUDA_CUH

#include "base.h"
#include "ledger.h"

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "ptx.cuh"

// The number type of products and stored activations: bf16, or float in the fp32 program.
#ifdef FP32
typedef float floatX;
#define PRECISION "fp32"
#else
typedef __nv_bfloat16 floatX;
#define PRECISION "bf16"
#endif

// Numbers in 16 bytes: what one 128-bit access moves.
enum { PACK = 16 / sizeof(floatX), WARP = 32 };

#define CUDA_CHECK(expression) cuda_check((expression), #expression, __FILE__, __LINE__)
static inline void cuda_check(cudaError_t error, const char* expression, const char* file, int line) {
    if (error != cudaSuccess) {
        die("CUDA: %s gave %s (%s), %s:%d", expression, cudaGetErrorName(error), cudaGetErrorString(error), file, line);
    }
}

// launch(kernel, grid, block, shared_bytes, stream, args...): books the launch and, unless this is a dry
// run, executes it. A kernel with several compile-time sizes goes in parentheses. states() comes first. A block may
// have 48 KB of shared memory unasked, of which its SHARED() arrays are a part: hence 32.
#ifdef __CUDACC__
#define launch(kernel, grid, block, shared_bytes, stream, ...)                                                   \
    do {                                                                                                         \
        if (ledger_launch(#kernel, 0)) {                                                                         \
            auto cuda_kernel = kernel;                                                                           \
            if ((shared_bytes) > 32 * 1024) {                                                                    \
                CUDA_CHECK(cudaFuncSetAttribute(cuda_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,        \
                                                (int)(shared_bytes)));                                           \
            }                                                                                                    \
            cuda_kernel<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__);                             \
            cuda_check(cudaGetLastError(), "launch of " #kernel " (or a kernel before it)", __FILE__, __LINE__); \
        }                                                                                                        \
    } while (0)
// An array in shared memory: of a size known at compile time, and the one whose size is given at launch.
#define SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define SHARED_DYNAMIC(type, name)                                         \
    extern __shared__ __align__(128) unsigned char shared_dynamic_bytes[]; \
    type* name = (type*)shared_dynamic_bytes
#else  // the emulator
#define launch(kernel, grid, block, shared_bytes, stream, ...)                                                     \
    do {                                                                                                           \
        if (ledger_launch(#kernel, 0)) {                                                                           \
            emulate_launch(#kernel, kernel, dim3(grid), dim3(block), (size_t)(shared_bytes), stream, __VA_ARGS__); \
        }                                                                                                          \
    } while (0)
#define SHARED(type, name, count) type* name = (type*)emulate_shared(__FILE__, __LINE__, sizeof(type) * (size_t)(count))
#define SHARED_DYNAMIC(type, name) type* name = (type*)emulate_shared_dynamic()
#endif

// ---- numbers ----

static __device__ __forceinline__ float to_float(float x) { return x; }
static __device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
static __device__ __forceinline__ void store(float* p, float x) { *p = x; }
static __device__ __forceinline__ void store(__nv_bfloat16* p, float x) { *p = __float2bfloat16_rn(x); }
// x as it would come back from an array of floatX.
static __device__ __forceinline__ float rounded(float x) {
    floatX y;
    store(&y, x);
    return to_float(y);
}

// Two floats as one register of two bf16, `low` in the lower half.
static __device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
    __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
    uint32_t bits;
    memcpy(&bits, &both, 4);
    return bits;
}

// ---- 128-bit accesses ----

// PACK numbers from or to an address aligned to 16 bytes; floats take PACK/4 accesses.
static __device__ __forceinline__ void load_pack(float x[PACK], const float* p) {
#pragma unroll
    for (int i = 0; i < PACK / 4; i++) {
        float4 v = ((const float4*)p)[i];
        x[4 * i] = v.x, x[4 * i + 1] = v.y, x[4 * i + 2] = v.z, x[4 * i + 3] = v.w;
    }
}
static __device__ __forceinline__ void store_pack(float* p, const float x[PACK]) {
#pragma unroll
    for (int i = 0; i < PACK / 4; i++) {
        ((float4*)p)[i] = make_float4(x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]);
    }
}
#ifndef FP32
static __device__ __forceinline__ void load_pack(float x[PACK], const floatX* p) {
    uint4 v = *(const uint4*)p;
    const uint32_t word[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {  // a bf16 is the upper half of a float
        x[2 * i] = __uint_as_float(word[i] << 16);
        x[2 * i + 1] = __uint_as_float(word[i] & 0xffff0000u);
    }
}
static __device__ __forceinline__ void store_pack(floatX* p, const float x[PACK]) {
    *(uint4*)p = make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7]));
}
#endif

// The same for a row of n numbers whose pack begins at number i: past the end they read as `fill` and
// are not written. `whole` = every pack of every row is complete and aligned.
template <class number>
static __device__ __forceinline__ void load_pack_of(float x[PACK], const number* row, size_t i, size_t n, int whole,
                                                    float fill) {
    if (whole) {
        load_pack(x, row + i);
    } else {
#pragma unroll
        for (int k = 0; k < PACK; k++) { x[k] = i + (size_t)k < n ? to_float(row[i + (size_t)k]) : fill; }
    }
}
template <class number>
static __device__ __forceinline__ void store_pack_of(number* row, const float x[PACK], size_t i, size_t n, int whole) {
    if (whole) {
        store_pack(row + i, x);
    } else {
#pragma unroll
        for (int k = 0; k < PACK; k++) {
            if (i + (size_t)k < n) { store(row + i + (size_t)k, x[k]); }
        }
    }
}

// A number of an array that was downloaded, on the host.
static inline float host_float(float x) { return x; }
static inline float host_float(__nv_bfloat16 x) {
    uint16_t half;
    memcpy(&half, &x, 2);
    uint32_t bits = (uint32_t)half << 16;
    float y;
    memcpy(&y, &bits, 4);
    return y;
}

// ---- sums ----

// Every lane gets the sum or maximum over its warp, by a fixed tree. All 32 lanes must come.
static __device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int m = WARP / 2; m > 0; m /= 2) { x += __shfl_xor_sync(0xffffffffu, x, m); }
    return x;
}
// A NaN anywhere makes the maximum NaN, unlike fmaxf.
static __device__ __forceinline__ float nan_max(float a, float b) { return a > b || a != a ? a : b; }
static __device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int m = WARP / 2; m > 0; m /= 2) { x = nan_max(x, __shfl_xor_sync(0xffffffffu, x, m)); }
    return x;
}

// Under the emulator lanes meet once for such a tree instead of five times, and the bits are the same; where EMULATE_TREES is
// not defined, as in tests of kernels, they are the shuffles above.
#ifdef EMULATE_TREES
static inline float plain_sum(float a, float b) { return a + b; }
#define warp_sum(x) emulate_tree<plain_sum>("warp_sum", __FILE__, __LINE__, x)
#define warp_max(x) emulate_tree<nan_max>("warp_max", __FILE__, __LINE__, x)
#endif

// Every thread gets the sum over its block of blockDim.x threads (a multiple of 32). scratch (32): shared;
// free for other use after the next barrier.
static __device__ __forceinline__ float block_sum(float x, float* scratch) {
    int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP, warps = (int)blockDim.x / WARP;
    x = warp_sum(x);
    if (lane == 0) { scratch[warp] = x; }
    __syncthreads();
    x = warp_sum(lane < warps ? scratch[lane] : 0.0f);
    __syncthreads();
    return x;
}
static __device__ __forceinline__ float block_max(float x, float* scratch) {
    int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP, warps = (int)blockDim.x / WARP;
    x = warp_max(x);
    if (lane == 0) { scratch[warp] = x; }
    __syncthreads();
    x = warp_max(lane < warps ? scratch[lane] : scratch[0]);
    __syncthreads();
    return x;
}

#endif
