// emulate_ptx.h - the wrapped PTX instructions of common/ptx.cuh on the CPU, lane by lane as the PTX manual
// lays their fragments out (sections on mma.m16n8k16, ldmatrix and cp.async).
#ifndef PONDER_EMULATE_PTX_H
#define PONDER_EMULATE_PTX_H

#include "cuda_bf16.h"

static inline float emulate_half(uint32_t word, int high) {
    return __uint_as_float(high ? word & 0xffff0000u : word << 16);
}

// d (16,8) += a (16,16) b (16,8). Sums in fp32 in the order of k; the hardware's order is its own.
void emulate_mma_bf16(const char* file, int line, float d[4], const uint32_t a[4], const uint32_t b[2]);
#define mma_bf16(d, a, b) emulate_mma_bf16(__FILE__, __LINE__, d, a, b)

// An access to shared memory by an instruction that the compiler does not see; kind: emulate_who.h.
void emulate_touch(const char* what, const void* p, size_t bytes, size_t aligned, int kind, const void* code);

void emulate_ldmatrix(const char* file, int line, uint32_t r[4], const void* row, int transposed);
#define ldmatrix_x4(r, row) emulate_ldmatrix(__FILE__, __LINE__, r, row, 0)
#define ldmatrix_x4_trans(r, row) emulate_ldmatrix(__FILE__, __LINE__, r, row, 1)

void emulate_cp_async(void* shared, const void* global, int valid);
void emulate_cp_async_commit(void);
void emulate_cp_async_wait(int pending);
static inline void cp_async_16(void* shared, const void* global, int valid) { emulate_cp_async(shared, global, valid); }
static inline void cp_async_commit(void) { emulate_cp_async_commit(); }
template <int pending> static inline void cp_async_wait(void) { emulate_cp_async_wait(pending); }

#endif
