// dispatch.c - one binary, several instruction sets.
//
// Every program is compiled once per instruction set, its main renamed to main_portable,
// main_avx2, main_avx512. This file is the real main: it calls the best one that the processor
// has. PONDER_ISA=portable|avx2|avx512 in the environment forces one. All compute the same bits
// (in bf16, those of the same order of sums: common/gemm_bf16.h).
// Before that it sees to how threads wait (threads.h).
//
// A trainer is compiled once more for some of them with layers that store bf16, main_avx2_bf16 and so on: which one goes
// with the build that is called, precision.h is told.
#include "threads.h"

typedef int Main(int argc, char** argv);
#ifdef HAVE_portable
Main main_portable;
#endif
#ifdef HAVE_avx2
Main main_avx2;
#endif
#ifdef HAVE_avx512
Main main_avx512;
#endif
#ifdef HAVE_portable_bf16
Main main_portable_bf16;
#else
#define main_portable_bf16 NULL
#endif
#ifdef HAVE_avx2_bf16
Main main_avx2_bf16;
#else
#define main_avx2_bf16 NULL
#endif
#ifdef HAVE_avx512_bf16
Main main_avx512_bf16;
#else
#define main_avx512_bf16 NULL
#endif

Main* program_bf16;

typedef struct {
    const char* name;
    Main *run, *bf16;
} Build;

static void add_build(Build* builds, int* n, const char* name, Main* run, Main* bf16) {
    builds[*n].name = name, builds[*n].run = run, builds[*n].bf16 = bf16;
    (*n)++;
}

// The builds in this binary that this processor can run, best first; returns how many.
static int usable_builds(Build* builds) {
    int n = 0;
#ifdef __x86_64__
    __builtin_cpu_init();
#endif
#ifdef HAVE_avx512
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq")) {
        add_build(builds, &n, "avx512", main_avx512, main_avx512_bf16);
    }
#endif
#ifdef HAVE_avx2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        add_build(builds, &n, "avx2", main_avx2, main_avx2_bf16);
    }
#endif
#ifdef HAVE_portable
    add_build(builds, &n, "portable", main_portable, main_portable_bf16);
#endif
    return n;
}

int main(int argc, char** argv) {
    threads_wait_briefly(argv);
    Build builds[3];
    int n = usable_builds(builds);
    const char* wanted = getenv("PONDER_ISA");
    for (int i = 0; i < n; i++) {
        if (wanted && *wanted && strcmp(wanted, builds[i].name) != 0) { continue; }
        program_bf16 = builds[i].bf16;
        return builds[i].run(argc, argv);
    }
    fprintf(stderr, "error: PONDER_ISA is '%s'; this processor and this build have:", wanted ? wanted : "");
    for (int i = 0; i < n; i++) { fprintf(stderr, " %s", builds[i].name); }
    fprintf(stderr, "\n");
    return 1;
}
