// emulate_who.h - between the emulator and the race detector.
#ifndef PONDER_EMULATE_WHO_H
#define PONDER_EMULATE_WHO_H

#include <stddef.h>
#include <stdint.h>

// The emulator's own functions among the kernels, whose accesses are nobody's. As a function is put into
// another one only if the two agree, these stay apart from the kernels, and unseen.
#if defined(__SANITIZE_THREAD__)
#define EMULATE_UNSEEN __attribute__((no_sanitize("thread")))
#else
#define EMULATE_UNSEEN
#endif

// The CUDA thread that runs now, and how often it has waited for others.
typedef struct {
    int64_t launch;
    uint32_t block, thread;
    uint32_t barrier;       // __syncthreads of the block so far
    uint32_t warp_barrier;  // __syncwarp of its warp so far
    const char* kernel;
    unsigned bdx, bdy;  // shape of the block, to name the thread
} EmulateWho;

// NULL outside of kernels, and while the emulator itself works.
extern __thread EmulateWho* emulate_who;

// Kinds of accesses that the compiler does not see.
enum { EMULATE_READS, EMULATE_WRITES, EMULATE_COPY_BEGINS, EMULATE_COPY_ENDS };

// Supplied by race.cpp where it is linked. code: a return address in the kernel, for the report.
__attribute__((weak)) void emulate_race_at(const void* p, size_t n, int kind, const void* code);
__attribute__((weak)) void emulate_race_forget(const void* p, size_t n);
__attribute__((weak)) void emulate_race_local(const void* stack_low, const void* stack_high);

#endif
