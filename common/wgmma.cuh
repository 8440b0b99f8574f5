// wgmma.cuh - the warpgroup products of Hopper (sm_90a), each in a function of its own. PTX ISA manual,
// "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions". Under the emulator the same functions come
// from dev/emulate.
//
// A warpgroup is 4 warps, the first a multiple of 4. Together they do d (64, N) += a (64, 16) b (16, N) in bf16 with
// sums in fp32, in the background: between wgmma_fence ... wgmma_commit and the wgmma_wait that covers them neither d
// nor the registers of a may be touched, and what they read of shared memory may not be written. Warp w of the
// group has rows 16 w to 16 w + 15; of these a lane has what mma_bf16 (ptx.cuh) would give it: d[4 n] to d[4 n + 3] are the
// accumulator of columns 8 n to 8 n + 7, and a is the same fragment.
//
// Matrices in shared memory lie in panels of 64 numbers (128 bytes) by any multiple of 8 rows, a panel at a multiple of
// 1,024 bytes; a row's 8 chunks of 16 bytes are permuted by exclusive or with the row's lowest 3 bits ("128-byte
// swizzle"). Such a tile of vectors can be a factor either way: summed over the vectors' numbers ("K-major") or over the
// vectors ("MN-major").
#ifndef PONDER_WGMMA_CUH
#define PONDER_WGMMA_CUH

#include "cuda.cuh"

// Where chunk `chunk` of row `row` lies in a tile of `rows` rows, in bytes.
template <int rows> static __device__ __forceinline__ int panel_place(int row, int chunk) {
    return (chunk >> 3) * (rows * 128) + row * 128 + (((chunk ^ row) & 7) << 4);
}

#ifdef __CUDACC__

// What a kernel must be compiled for, else its body is a trap.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define WGMMA_CODE 1
#else
#define WGMMA_CODE 0
#endif

static __device__ __forceinline__ void wgmma_missing(void) { asm volatile("trap;"); }
#define SHARED_PANELS(name) extern __shared__ __align__(1024) unsigned char name[]

// Describes a matrix that begins at p; other_panel: bytes from a panel to the next (read for MN-major only). Adding n
// moves it by 16 n bytes.
static __device__ __forceinline__ uint64_t wgmma_matrix(const void* p, int other_panel) {
    const uint32_t address = (uint32_t)__cvta_generic_to_shared(p);
    // start, panel to panel and 8 rows to the next 8, in units of 16 bytes; the swizzle
    return (uint64_t)(address >> 4 & 0x3fff) | (uint64_t)(other_panel >> 4) << 16 | (uint64_t)(1024 >> 4) << 32 |
           (uint64_t)1 << 62;
}

// Begins products: registers written so far are ready for them.
static __device__ __forceinline__ void wgmma_fence(void) { asm volatile("wgmma.fence.sync.aligned;\n" : : : "memory"); }
// Ends a group of products.
static __device__ __forceinline__ void wgmma_commit(void) {
    asm volatile("wgmma.commit_group.sync.aligned;\n" : : : "memory");
}
// Waits until at most `pending` groups are unfinished (a compile-time number).
template <int pending> static __device__ __forceinline__ void wgmma_wait(void) {
    asm volatile("wgmma.wait_group.sync.aligned %0;\n" : : "n"(pending) : "memory");
}
// After the wait: keeps the compiler from using d before it.
template <int count> static __device__ __forceinline__ void wgmma_done(float (&d)[count]) {
#pragma unroll
    for (int i = 0; i < count; i++) { asm volatile("" : "+f"(d[i]) : : "memory"); }
}
// What this thread wrote to shared memory, or waited for (cp.async), becomes visible to products after a barrier.
static __device__ __forceinline__ void wgmma_fence_shared(void) {
    asm volatile("fence.proxy.async.shared::cta;\n" : : : "memory");
}

// A count of registers as operands of asm.
#define WGMMA_D8(d, i)                                                                                          \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
        "+f"(d[i + 7])
#define WGMMA_D32(d, i) WGMMA_D8(d, i), WGMMA_D8(d, i + 8), WGMMA_D8(d, i + 16), WGMMA_D8(d, i + 24)

// d (64, N) = or += a (64, 16) b (16, N)^T, both from shared memory, summed along their rows. add: 0 or 1.
static __device__ __forceinline__ void wgmma_shared(float (&d)[32], uint64_t a, uint64_t b, int add) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
                 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%"
                 "27,%28,%29,%30,%31}, "
                 "%32, %33, p, 1, 1, 0, 0;\n}\n"
                 : WGMMA_D32(d, 0)
                 : "l"(a), "l"(b), "r"(add));
}
static __device__ __forceinline__ void wgmma_shared(float (&d)[64], uint64_t a, uint64_t b, int add) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
                 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%"
                 "27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%"
                 "52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, "
                 "%64, %65, p, 1, 1, 0, 0;\n}\n"
                 : WGMMA_D32(d, 0), WGMMA_D32(d, 32)
                 : "l"(a), "l"(b), "r"(add));
}

// d (64, N) += a (64, 16) b (16, N): a from registers, b from shared memory, summed over its rows.
static __device__ __forceinline__ void wgmma_registers(float (&d)[32], const uint32_t a[4], uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
                 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%"
                 "27,%28,%29,%30,%31}, "
                 "{%32,%33,%34,%35}, %36, 1, 1, 1, 1;\n"
                 : WGMMA_D32(d, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
static __device__ __forceinline__ void wgmma_registers(float (&d)[40], const uint32_t a[4], uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n80k16.f32.bf16.bf16 "
                 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%"
                 "27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39}, "
                 "{%40,%41,%42,%43}, %44, 1, 1, 1, 1;\n"
                 : WGMMA_D32(d, 0), WGMMA_D8(d, 32)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
static __device__ __forceinline__ void wgmma_registers(float (&d)[48], const uint32_t a[4], uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 "
                 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%"
                 "27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47}, "
                 "{%48,%49,%50,%51}, %52, 1, 1, 1, 1;\n"
                 : WGMMA_D32(d, 0), WGMMA_D8(d, 32), WGMMA_D8(d, 40)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
static __device__ __forceinline__ void wgmma_registers(float (&d)[64], const uint32_t a[4], uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
                 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%"
                 "27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%"
                 "52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, "
                 "{%64,%65,%66,%67}, %68, 1, 1, 1, 1;\n"
                 : WGMMA_D32(d, 0), WGMMA_D32(d, 32)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#else
#include "emulate_wgmma.h"  // dev/emulate
#endif

#endif
