// dispatch.c - one binary, several instruction sets.
//
// Every program is compiled once per instruction set, its main renamed to main_portable,
// main_avx2, main_avx512. This file is the real main: it calls the best one that the processor
// has. PONDER_ISA=portable|avx2|avx512 in the environment forces one. All compute the same bits.
// Before that it sees to how threads wait (threads.h).
#include "threads.h"

#ifdef HAVE_portable
int main_portable(int argc, char** argv);
#endif
#ifdef HAVE_avx2
int main_avx2(int argc, char** argv);
#endif
#ifdef HAVE_avx512
int main_avx512(int argc, char** argv);
#endif

typedef struct {
    const char* name;
    int (*run)(int argc, char** argv);
} Build;

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
        builds[n].name = "avx512", builds[n++].run = main_avx512;
    }
#endif
#ifdef HAVE_avx2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        builds[n].name = "avx2", builds[n++].run = main_avx2;
    }
#endif
#ifdef HAVE_portable
    builds[n].name = "portable", builds[n++].run = main_portable;
#endif
    return n;
}

int main(int argc, char** argv) {
    threads_wait_briefly(argv);
    Build builds[3];
    int n = usable_builds(builds);
    const char* wanted = getenv("PONDER_ISA");
    for (int i = 0; i < n; i++) {
        if (!wanted || !*wanted || strcmp(wanted, builds[i].name) == 0) { return builds[i].run(argc, argv); }
    }
    fprintf(stderr, "error: PONDER_ISA is '%s'; this processor and this build have:", wanted ? wanted : "");
    for (int i = 0; i < n; i++) { fprintf(stderr, " %s", builds[i].name); }
    fprintf(stderr, "\n");
    return 1;
}
