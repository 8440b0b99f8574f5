// threads.h - how threads wait for one another: they look for a moment, then sleep, and run again soon after they are
// woken.
//
// At the end of every parallel loop the threads that are done wait for the others. gcc's OpenMP lets them look again
// and again for milliseconds, clang's for 200: on an idle machine that is a little faster than sleeping, on one that
// is busy with other programs it takes the processor away from the very thread that is waited for, and a step takes
// many times as long as on one thread. How long they look is set by variables of the environment alone, which OpenMP
// reads before main() begins. So main() sets them and executes the same program anew, once: same process, same
// arguments, same files.
//
// What the user has set wins: with any of OMP_WAIT_POLICY, GOMP_SPINCOUNT, KMP_BLOCKTIME or KMP_LIBRARY in the
// environment nothing is done (OMP_WAIT_POLICY=passive is also what keeps a debugger in the first process image).
//
// A thread that is woken on a processor where another program computes may wait until that one's time slice is over, some
// milliseconds, hundreds of times a step. Linux (since 6.12) lets it run at once if its own slice is the shorter one
// and it has not had its share yet. So main() asks for the shortest slice there is. That changes when a program runs, not
// how much of a processor it gets. Who runs a program with another policy (`chrt --batch 0 ...`; nice is none) keeps that.
#ifndef PONDER_THREADS_H
#define PONDER_THREADS_H

#include "../base.h"

#include <sched.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif

enum { THREADS_SLICE = 100000 };  // ns; Linux grants no less

// How Linux schedules a thread: struct sched_attr, as it was first.
typedef struct {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t slice, deadline, period;  // slice, in ns: 0 where this Linux has none that can be asked for
} ThreadsSchedule;

// That of this thread; 0: not known.
static inline int threads_schedule(ThreadsSchedule* s) {
    memset(s, 0, sizeof *s);
#if defined(SYS_sched_getattr)
    if (syscall(SYS_sched_getattr, 0, s, sizeof *s, 0) == 0) { return 1; }
#endif
    return 0;
}

// Gives this thread, and those that it begins, a time slice in ns; 0: that which others have. Where that cannot be, or the
// policy is not the usual one, nothing happens.
static inline void threads_slice(uint64_t slice) {
#if defined(SYS_sched_setattr)
    ThreadsSchedule s;
    if (!threads_schedule(&s) || s.policy != SCHED_OTHER || s.slice == 0) { return; }
    s.size = sizeof s, s.slice = slice;
    syscall(SYS_sched_setattr, 0, &s, 0);
#else
    (void)slice;
#endif
}

// Whose value is the number of the process, once that has executed itself anew, and " brief" behind it when OpenMP has
// been told. Children have other numbers, and arrange it for themselves.
#define THREADS_GUARD "PONDER_THREADS"

// gcc: how often a waiting thread looks; clang: for how many milliseconds. dev/LOG.md has what else was tried.
typedef struct {
    const char *name, *value;
} ThreadsSetting;
static const ThreadsSetting threads_settings[] = {{"GOMP_SPINCOUNT", "2000"}, {"KMP_BLOCKTIME", "0"}};
enum { THREADS_SETTINGS = sizeof threads_settings / sizeof *threads_settings };

// 1 if the guard is this process's, and ends so.
static inline int threads_guard_is(const char* end) {
    const char* guard = getenv(THREADS_GUARD);
    char* rest = NULL;
    return guard && strtol(guard, &rest, 10) == (long)getpid() && rest != guard && strcmp(rest, end) == 0;
}

static inline void threads_set_guard(const char* end) {
    char guard[64];
    snprintf(guard, sizeof guard, "%ld%s", (long)getpid(), end);
    setenv(THREADS_GUARD, guard, 1);
}

// The variable by which the user has said how threads wait; NULL: none.
static inline const char* threads_asked(void) {
    static const char* const names[] = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (getenv(names[i])) { return names[i]; }
    }
    return NULL;
}

// The path of the program that `code` is in (malloc'd); NULL if it is not the one that /proc/self/exe names, which may
// be another that runs this one (the dynamic loader, valgrind, qemu), or if there is no /proc.
static inline char* threads_program(const void* code) {
    char path[4096], line[4096 + 128];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (length <= 0 || (size_t)length >= sizeof path - 1) { return NULL; }
    path[length] = 0;
    FILE* maps = fopen("/proc/self/maps", "r");
    if (maps == NULL) { return NULL; }
    int found = 0;
    while (!found && fgets(line, sizeof line, maps)) {
        unsigned long begin = 0, end = 0;
        const char* file = strchr(line, '/');
        line[strcspn(line, "\n")] = 0;
        found = file && sscanf(line, "%lx-%lx", &begin, &end) == 2 && (uintptr_t)code >= begin &&
                (uintptr_t)code < end && strcmp(file, path) == 0;
    }
    fclose(maps);
    return found ? format_string("%s", path) : NULL;
}

// The first thing in main(). Returns in a process whose threads wait briefly, or, where that is not wanted or cannot be
// arranged, as they would have.
static inline void threads_wait_briefly(char** argv) {
    threads_slice(THREADS_SLICE);
#ifdef _OPENMP
    static const char here = 0;  // a place in this program
    if (threads_guard_is("")) {  // executed anew
        omp_get_max_threads();   // clang's OpenMP reads its variables at the first call
        int told = 1;
        for (int i = 0; i < THREADS_SETTINGS; i++) {
            const char* value = getenv(threads_settings[i].name);
            told &= value && strcmp(value, threads_settings[i].value) == 0;
            unsetenv(threads_settings[i].name);  // children get what the user gave
        }
        if (told) { threads_set_guard(" brief"); }
        return;
    }
    if (threads_guard_is(" brief") || threads_asked()) { return; }
    char* program = threads_program(&here);
    if (program == NULL) { return; }
    for (int i = 0; i < THREADS_SETTINGS; i++) { setenv(threads_settings[i].name, threads_settings[i].value, 1); }
    threads_set_guard("");
    execv(program, argv);  // by its path, so that ps shows its name; replaced or moved just now, there is the other
    execv("/proc/self/exe", argv);
    for (int i = 0; i < THREADS_SETTINGS; i++) { unsetenv(threads_settings[i].name); }
    unsetenv(THREADS_GUARD);
    free(program);
#else
    (void)argv;
#endif
}

// How threads wait, for people.
static inline const char* threads_waiting(void) {
    static char text[64];
    if (threads_guard_is(" brief")) { return "waiting briefly"; }
    const char* asked = threads_asked();
    if (asked == NULL) { return "waiting busily"; }
    snprintf(text, sizeof text, "waiting as %s says", asked);
    return text;
}

#endif
