// emulate_ptx.h - the wrapped PTX instructions of common/ptx.cuh on the CPU, lane by lane as the PTX manual
// lays their fragments out (sections on mma.m16n8k16, ldmatrix and cp.async).
#ifndef PONDER_EMULATE_PTX_H
#define PONDER_EMULATE_PTX_H

#include "cuda_bf16.h"

static inline float emulate_half(uint32_t word, int high) {
    return __uint_as_float(high ? word & 0xffff0000u : word << 16);
}

// d (16,8) += a (16,16) b (16,8). Sums in fp32 in the order of k; the hardware's order is its own.
static inline EMULATE_UNSEEN void emulate_mma_bf16(const char* file, int line, float d[4], const uint32_t a[4],
                                                   const uint32_t b[2]) {
    uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    const unsigned char* all = emulate_meet("mma_bf16", file, line, 0xffffffffu, mine, sizeof mine);
    int g = EMULATE_LANE / 4, t = EMULATE_LANE % 4;
    for (int i = 0; i < 4; i++) {
        int row = g + 8 * (i / 2), column = 2 * t + i % 2;
        float sum = 0;
        for (int k = 0; k < 16; k++) {
            // a's element (row, k) lies in lane 4 (row%8) + (k%8)/2, register row/8 + 2 (k/8), half k%2;
            // b's element (k, column) in lane 4 column + (k%8)/2, register k/8, half k%2.
            uint32_t x, y;
            memcpy(&x, all + 64 * (4 * (row % 8) + k % 8 / 2) + 4 * (row / 8 + 2 * (k / 8)), 4);
            memcpy(&y, all + 64 * (4 * column + k % 8 / 2) + 4 * (4 + k / 8), 4);
            sum += emulate_half(x, k % 2) * emulate_half(y, k % 2);
        }
        d[i] += sum;
    }
}
#define mma_bf16(d, a, b) emulate_mma_bf16(__FILE__, __LINE__, d, a, b)

// An access to shared memory by an instruction that the compiler does not see; kind: emulate_who.h.
void emulate_touch(const char* what, const void* p, size_t bytes, size_t aligned, int kind, const void* code);

// The 8 rows of each matrix must come from all 32 banks: see emulate.cpp. Lane l's address stands at
// all[64 l + at].
void emulate_banks(const char* what, const char* file, int line, const unsigned char* all, size_t at);

static inline EMULATE_UNSEEN void emulate_ldmatrix(const char* file, int line, uint32_t r[4], const void* row,
                                                   int transposed) {
    emulate_touch("ldmatrix", row, 16, 16, EMULATE_READS, __builtin_return_address(0));
    const char* what = transposed ? "ldmatrix_x4_trans" : "ldmatrix_x4";
    unsigned char mine[16 + sizeof row];
    memcpy(mine, row, 16);
    memcpy(mine + 16, &row, sizeof row);
    const unsigned char* all = emulate_meet(what, file, line, 0xffffffffu, mine, sizeof mine);
    emulate_banks(what, file, line, all, 16);
    int g = EMULATE_LANE / 4, t = EMULATE_LANE % 4;
    for (int i = 0; i < 4; i++) {
        uint16_t half[2];
        for (int k = 0; k < 2; k++) {
            int y = transposed ? 2 * t + k : g, x = transposed ? g : 2 * t + k;
            memcpy(&half[k], all + 64 * (8 * i + y) + 2 * x, 2);
        }
        r[i] = (uint32_t)half[0] | (uint32_t)half[1] << 16;
    }
}
#define ldmatrix_x4(r, row) emulate_ldmatrix(__FILE__, __LINE__, r, row, 0)
#define ldmatrix_x4_trans(r, row) emulate_ldmatrix(__FILE__, __LINE__, r, row, 1)

void emulate_cp_async(void* shared, const void* global, int valid);
void emulate_cp_async_commit(void);
void emulate_cp_async_wait(int pending);
static inline void cp_async_16(void* shared, const void* global, int valid) { emulate_cp_async(shared, global, valid); }
static inline void cp_async_commit(void) { emulate_cp_async_commit(); }
template <int pending> static inline void cp_async_wait(void) { emulate_cp_async_wait(pending); }

#endif
