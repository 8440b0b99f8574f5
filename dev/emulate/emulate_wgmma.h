// emulate_wgmma.h - the warpgroup products of common/wgmma.cuh on the CPU, lane by lane as the PTX manual lays out their
// fragments and matrices in shared memory (sections on wgmma.mma_async, and its matrix descriptor).
//
// They are done at once, or in the late mode when they are waited for; accumulators are NaN until then, and who
// has changed them meanwhile is told. Strict: products need wgmma_fence after a wait, wgmma_fence_shared after a wait for
// copies, and must be committed and waited for before the kernel ends.
#ifndef PONDER_EMULATE_WGMMA_H
#define PONDER_EMULATE_WGMMA_H

#define WGMMA_CODE 1
#define SHARED_PANELS(name) unsigned char* name = (unsigned char*)emulate_shared_dynamic()
static inline void wgmma_missing(void) {}

// As sm_90 has it, but that addresses count from the beginning of the block's dynamic shared memory.
static inline uint64_t wgmma_matrix(const void* p, int other_panel) {
    const uint64_t address = (uint64_t)((const unsigned char*)p - (const unsigned char*)emulate_shared_dynamic());
    return address >> 4 | (uint64_t)(other_panel >> 4) << 16 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

// One product of a lane: its rows are `row` and row + 8 of the 64.
struct EmulateProduct {
    float* d;
    int columns, row, place;  // place: lane % 4
    int add, from_registers;
    uint64_t a, b;         // matrices
    uint16_t left[2][16];  // a's two rows, where it comes from registers
    int group;
    const void* code;
};
void emulate_product(const EmulateProduct& product);
void emulate_wgmma_fence(void);
void emulate_wgmma_fence_shared(void);
void emulate_wgmma_commit(void);
void emulate_wgmma_wait(int pending);
static inline void wgmma_fence(void) { emulate_wgmma_fence(); }
static inline void wgmma_fence_shared(void) { emulate_wgmma_fence_shared(); }
static inline void wgmma_commit(void) { emulate_wgmma_commit(); }
template <int pending> static inline void wgmma_wait(void) { emulate_wgmma_wait(pending); }
template <int count> static inline void wgmma_done(float (&)[count]) {}

static inline EMULATE_UNSEEN EmulateProduct emulate_lane_product(float* d, int columns, uint64_t b) {
    EmulateProduct p;
    memset(&p, 0, sizeof p);
    p.d = d, p.columns = columns, p.b = b;
    p.row = (int)(emulate_thread->linear / 32 % 4) * 16 + EMULATE_LANE / 4, p.place = EMULATE_LANE % 4;
    return p;
}
template <int count>
static inline EMULATE_UNSEEN void emulate_wgmma_shared(const char* file, int line, float (&d)[count], uint64_t a,
                                                       uint64_t b, int add) {
    emulate_meet("wgmma_shared", file, line, 0xffffffffu, NULL, 0);
    EmulateProduct p = emulate_lane_product(d, 2 * count, b);
    p.a = a, p.add = add, p.code = __builtin_return_address(0);
    emulate_product(p);
}
template <int count>
static inline EMULATE_UNSEEN void emulate_wgmma_registers(const char* file, int line, float (&d)[count],
                                                          const uint32_t a[4], uint64_t b) {
    const uint32_t mine[4] = {a[0], a[1], a[2], a[3]};
    const unsigned char* all = emulate_meet("wgmma_registers", file, line, 0xffffffffu, mine, sizeof mine);
    EmulateProduct p = emulate_lane_product(d, 2 * count, b);
    p.add = p.from_registers = 1, p.code = __builtin_return_address(0);
    for (int i = 0; i < 2; i++) {
        for (int k = 0; k < 16; k++) {  // as in mma_of_warp
            memcpy(&p.left[i][k], all + 64 * (EMULATE_LANE / 4 * 4 + k % 8 / 2) + 4 * (i + 2 * (k / 8)) + 2 * (k % 2),
                   2);
        }
    }
    emulate_product(p);
}
#define wgmma_shared(d, a, b, add) emulate_wgmma_shared(__FILE__, __LINE__, d, a, b, add)
#define wgmma_registers(d, a, b) emulate_wgmma_registers(__FILE__, __LINE__, d, a, b)

#endif
