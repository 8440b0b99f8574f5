// machine.h - what this machine can do at most: the figures that speed is compared with.
#ifndef PONDER_MACHINE_H
#define PONDER_MACHINE_H

#include "base.h"
#include "vec.h"

// The instruction set that this build of the program is for.
static inline const char* machine_isa(void) {
#if VL == 16
    return "AVX-512";
#elif VL == 8
    return "AVX2";
#elif defined(__aarch64__)
    return "NEON";
#else
    return "portable";
#endif
}

// The processor's name, "unknown processor" where the system does not tell.
static inline const char* machine_name(void) {
    static char name[128];
    if (name[0]) { return name; }
    snprintf(name, sizeof name, "unknown processor");
    FILE* f = fopen("/proc/cpuinfo", "r");
    if (f == NULL) { return name; }
    char line[512];
    while (fgets(line, sizeof line, f)) {
        char* colon = strchr(line, ':');
        if (colon && strncmp(line, "model name", 10) == 0) {
            colon += strspn(colon, ": \t");
            colon[strcspn(colon, "\n")] = 0;
            if (*colon) { snprintf(name, sizeof name, "%.127s", colon); }
            break;
        }
    }
    fclose(f);
    return name;
}

// Rounds of fused multiply-adds on registers alone, from x[0], and what they add up to to x[0].
// Volatile, so that no compiler moves the work past a clock. 14 chains, from 14 numbers so that no
// compiler makes one of them, hide the instruction's latency and leave two registers of 16.
__attribute__((noinline)) static void machine_fma_rounds(size_t rounds, volatile float* x) {
    float first = x[0];
    vf a = vf_set1(0.75f), b = vf_set1(first), one = vf_set1(1);
    vf s0 = b, s1 = s0 + one, s2 = s1 + one, s3 = s2 + one, s4 = s3 + one, s5 = s4 + one, s6 = s5 + one;
    vf s7 = s6 + one, s8 = s7 + one, s9 = s8 + one, s10 = s9 + one, s11 = s10 + one, s12 = s11 + one, s13 = s12 + one;
    for (size_t i = 0; i < rounds; i++) {
        s0 = vf_fma(s0, a, b), s1 = vf_fma(s1, a, b), s2 = vf_fma(s2, a, b), s3 = vf_fma(s3, a, b);
        s4 = vf_fma(s4, a, b), s5 = vf_fma(s5, a, b), s6 = vf_fma(s6, a, b), s7 = vf_fma(s7, a, b);
        s8 = vf_fma(s8, a, b), s9 = vf_fma(s9, a, b), s10 = vf_fma(s10, a, b), s11 = vf_fma(s11, a, b);
        s12 = vf_fma(s12, a, b), s13 = vf_fma(s13, a, b);
    }
    vf s = ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7)) + ((s8 + s9) + (s10 + s11)) + (s12 + s13);
    x[0] = s[0];
}

// The best readings of a limit, falling. Other programs only make a reading smaller, each by another amount: the limit is
// known when the best readings agree.
enum { MACHINE_READINGS = 4 };
typedef struct {
    double best[MACHINE_READINGS];
} MachineLimit;

static inline void machine_reading(MachineLimit* limit, double reading) {
    for (int i = 0; i < MACHINE_READINGS; i++) {
        if (reading > limit->best[i]) {
            double smaller = limit->best[i];
            limit->best[i] = reading;
            reading = smaller;
        }
    }
}

// 0: not known, the best readings differ by more than 5 %.
static inline double machine_known(const MachineLimit* limit) {
    return limit->best[MACHINE_READINGS - 1] >= 0.95 * limit->best[0] ? limit->best[0] : 0;
}

// What an instruction can do at most: rounds of it on registers alone, with the FLOPs of one, on one thread; and FLOP/s of all
// threads.
typedef struct {
    void (*run)(size_t rounds, volatile float* x);
    double flops;
    MachineLimit limit;
    size_t rounds;  // of a reading; 0: not known yet
} MachinePeak;
static MachinePeak machine_fma = {machine_fma_rounds, 2 * VL * 14};

// Seconds of rounds on this thread.
static inline double machine_time(const MachinePeak* peak, size_t rounds) {
    volatile float x[1] = {0.25f};
    double start = now_seconds();
    peak->run(rounds, x);
    return now_seconds() - start;
}

// Reads a peak (again). All threads compute side by side, for 10 ms and until each one's best readings agree, at most
// for `most` seconds. A reading is one thread's, and takes a quarter of a millisecond: so some lie between the turns of
// other programs, which nobody gives all threads at the same time. The peak is the sum over the threads. Returns the best
// that was read this time.
static inline double machine_measure_peak(MachinePeak* peak, double most) {
    if (peak->rounds == 0) {
        for (peak->rounds = 1000; machine_time(peak, peak->rounds) < 1.25e-4;) { peak->rounds *= 2; }
    }
    const double work = peak->flops * (double)peak->rounds;
    double share = 1;  // of a processor for each thread
#ifdef _OPENMP
    share = fmin(1, (double)omp_get_num_procs() / thread_count());
#endif
    MachineLimit sum = {{0}};
    int agreed = 0;
#pragma omp parallel
    {
        MachineLimit mine = {{0}};
        int all = 1, agrees = 0;
#ifdef _OPENMP
        all = omp_get_num_threads();
#endif
        double begin = now_seconds(), spent = 0;
        while (spent < most && __atomic_load_n(&agreed, __ATOMIC_RELAXED) < all) {
            machine_reading(&mine, share * work / machine_time(peak, peak->rounds));
            spent = now_seconds() - begin;
            if (!agrees && spent >= 0.01 && machine_known(&mine) > 0) {
                agrees = 1;
                __atomic_fetch_add(&agreed, 1, __ATOMIC_RELAXED);
            }
        }
#pragma omp critical
        for (int i = 0; i < MACHINE_READINGS; i++) { sum.best[i] += mine.best[i]; }
    }
    for (int i = 0; i < MACHINE_READINGS; i++) { machine_reading(&peak->limit, sum.best[i]); }
    return sum.best[0];
}

// Whether what was measured between two readings of a limit may be compared with it: 0 where they differ by more than a
// tenth, since then nobody knows which of them held in between.
static inline int machine_steady(double before, double after) {
    return fmin(before, after) >= 0.9 * fmax(before, after);
}

// That peak in FLOP/s (two for each multiply-add): the best of the readings so far, the first of which are taken here; 0 while
// they do not agree, because other programs disturb them.
static inline double machine_peak_flops(MachinePeak* peak) {
    if (peak->limit.best[0] == 0) { machine_measure_peak(peak, 0.3); }
    return machine_known(&peak->limit);
}

static double machine_copy;  // bytes per second

// Reads the bandwidth of copying memory too large for the caches, all threads, (again): the best of a few runs, about
// 0.3 s. 2 x 128 MB are taken and given back.
static inline void machine_measure_copy(void) {
    size_t n = (size_t)32 << 20;
    float* a = (float*)xalloc(n, sizeof(float), "measuring the memory bandwidth");
    float* b = (float*)xalloc(n, sizeof(float), "measuring the memory bandwidth");
    for (int i = 0; i < 5; i++) {
        double start = now_seconds();
#pragma omp parallel for schedule(static)
        for (size_t j = 0; j < 64; j++) { memcpy(b + n / 64 * j, a + n / 64 * j, n / 64 * sizeof(float)); }
        double seconds = now_seconds() - start;
        machine_copy = fmax(machine_copy, 2.0 * (double)n * sizeof(float) / seconds);
        float* t = a;
        a = b, b = t;
    }
    free(a);
    free(b);
}

// Bytes read plus bytes written in a second of copying: the best of the readings so far, the first of which is taken here.
static inline double machine_copy_bandwidth(void) {
    if (machine_copy == 0) { machine_measure_copy(); }
    return machine_copy;
}

#endif
