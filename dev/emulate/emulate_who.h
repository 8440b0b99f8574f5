// emulate_who.h - between the emulator and the race detector.
#ifndef PONDER_EMULATE_WHO_H
#define PONDER_EMULATE_WHO_H

#include <stddef.h>
#include <stdint.h>

// The CUDA thread that runs now, and how often it has waited for others.
typedef struct {
    int64_t launch;
    uint32_t block, thread;
    uint32_t barrier;       // __syncthreads of the block so far
    uint32_t warp_barrier;  // meetings of its warp so far
    const char* kernel;
    unsigned bdx, bdy;  // shape of the block, to name the thread
} EmulateWho;

// NULL outside of kernels, and while the emulator itself works.
extern __thread EmulateWho* emulate_who;

// Supplied by race.cpp where it is linked.
__attribute__((weak)) void emulate_race_range(const void* p, size_t n, int is_write);
__attribute__((weak)) void emulate_race_forget(const void* p, size_t n);
__attribute__((weak)) void emulate_race_local(const void* stack_low, const void* stack_high);

#endif
