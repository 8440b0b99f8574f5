// ptx.cuh - the tensor-core, asynchronous-copy and approximating instructions of sm_80 that the kernels use, each in
// a function of its own. Lane layouts: PTX ISA manual, "Matrix Fragments for mma.m16n8k16" and
// "ldmatrix". Under the emulator the same functions come from dev/emulate.
//
// Lane l has group g = l/4 and place t = l%4. In mma_bf16, d += a b:
//   a (16 rows m, 16 columns k): a[0] (m=g, k=2t,2t+1)  a[1] (g+8, 2t..)  a[2] (g, 2t+8..)  a[3] (g+8, 2t+8..)
//   b (16 rows k,  8 columns n): b[0] (k=2t,2t+1, n=g)  b[1] (k=2t+8,2t+9, n=g)
//   d (16 rows m,  8 columns n): d[0] (m=g, n=2t)  d[1] (g, 2t+1)  d[2] (g+8, 2t)  d[3] (g+8, 2t+1)
// The lower half of a register is the element of the lower index.
#ifndef PONDER_PTX_CUH
#define PONDER_PTX_CUH

#include "base.h"

#ifdef __CUDACC__

// d (16,8) fp32 += a (16,16) b (16,8), both bf16. All 32 lanes of a warp together.
static __device__ __forceinline__ void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8x8 matrices of 16-bit numbers: lanes 8i..8i+7 point at the rows (16 bytes each, in shared memory)
// of matrix i; r[i] of lane l = numbers 2(l%4), 2(l%4)+1 of row l/4 of matrix i.
static __device__ __forceinline__ void ldmatrix_x4(uint32_t r[4], const void* row) {
    uint32_t address = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// The same with each matrix transposed: r[i] of lane l = numbers of rows 2(l%4), 2(l%4)+1 in column l/4.
static __device__ __forceinline__ void ldmatrix_x4_trans(uint32_t r[4], const void* row) {
    uint32_t address = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// 16 bytes from global to shared memory, both aligned to 16, in the background; `valid` of them (0 to
// 16) are read, the rest become 0. Visible to this thread after cp_async_wait, to others after a barrier.
static __device__ __forceinline__ void cp_async_16(void* shared, const void* global, int valid) {
    uint32_t address = (uint32_t)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n"
                 :
                 : "r"(address), "l"(global), "r"(valid)
                 : "memory");
}

// Ends a group of copies.
static __device__ __forceinline__ void cp_async_commit(void) {
    asm volatile("cp.async.commit_group;\n" : : : "memory");
}

// Waits until at most `pending` of this thread's groups are unfinished (a compile-time number).
template <int pending> static __device__ __forceinline__ void cp_async_wait(void) {
    asm volatile("cp.async.wait_group %0;\n" : : "n"(pending) : "memory");
}

// 2^x as exp2f has it, to 2 units in the last place, save that results below 2^-126 become 0: one instruction
// instead of four. NaN stays NaN.
static __device__ __forceinline__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 1 / x to a unit in the last place; 0 where |x| is above 2^126. NaN stays NaN.
static __device__ __forceinline__ float reciprocal_approx(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#else
#include "emulate_ptx.h"  // dev/emulate
static inline float exp2_approx(float x) { return x < -126.0f ? 0.0f : exp2f(x); }
static inline float reciprocal_approx(float x) { return fabsf(x) > 0x1p126f ? 0.0f : 1.0f / x; }
#endif

#endif
