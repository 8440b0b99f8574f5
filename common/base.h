// base.h - the few things every file needs: the number type, errors, memory, time, threads.
//
// Everything in this project is in the common subset of C11 and C++17, because the same headers
// are read by a C compiler (CPU program), by nvcc (GPU program) and by g++ (emulator).
#ifndef PONDER_BASE_H
#define PONDER_BASE_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#endif

// 1 in the GPU program (nvcc) and under the emulator, 0 in the CPU program.
#ifndef GPU
#define GPU 0
#endif

// The name of main() in this build: common/run/dispatch.c calls one for each instruction set.
#ifndef MAIN
#define MAIN main
#endif

// The number type of the C half. The trainer computes in float; the finite-difference tests
// compile the very same source with -DREAL=double.
#ifndef REAL
#define REAL float
#endif
typedef REAL real;

// bf16 is the upper half of a float.
typedef uint16_t Bf16;

// What the C half stores between layers, where the GPU stores bf16: the same type, or bf16 too with -DKEPT=Bf16. vec.h
// has what reads and writes it; nothing else may take a kept for a number.
#ifndef KEPT
#define KEPT REAL
#endif
typedef KEPT kept;
enum { KEPT_ROUNDS = sizeof(kept) != sizeof(real) };  // 1: a number that is stored is rounded

// A loop with fewer steps than this stays on one thread: waking the others costs more.
enum { SERIAL = 20000 };

#define ALIGNMENT 64  // bytes: one cache line, one AVX-512 register

static inline size_t min_size(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t max_size(size_t a, size_t b) { return a > b ? a : b; }
static inline size_t div_up(size_t n, size_t by) { return (n + by - 1) / by; }
static inline size_t round_up(size_t n, size_t multiple) { return div_up(n, multiple) * multiple; }

// How die() ends: a fuzzer, which must survive errors, jumps back instead.
#ifndef DIE_EXIT
#define DIE_EXIT(code) exit(code)
#endif

// ---- standard input, output and error ----

// The first thing that a program does: opens those of descriptors 0, 1 and 2 that are closed, so that no file of ours
// gets such a number and then what is printed. On /dev/null, but so that using them fails as it did.
static inline void output_begin(void) {
    for (int fd = 0; fd < 3; fd++) {
        if (fcntl(fd, F_GETFD) != -1 || errno != EBADF) { continue; }
        int flags = fd == 1 ? O_RDONLY : O_WRONLY;
        if (open("/dev/null", flags) < 0 && open("/", O_RDONLY) < 0) {
            _exit(1);
        }  // the lowest number that is free: fd
    }
}

static int output_error;  // errno of the first write to standard output that failed; 0: none, or not known

// Sends on what was printed. 0 if that failed, now or before.
static inline int output_flush(void) {
    if (fflush(stdout) != 0 && !output_error) { output_error = errno; }
    return !ferror(stdout) && !output_error;
}

// The last thing that a program does: its exit status, `code`, or an error where not all that it printed was written.
static inline int output_end(int code) {
    int good = output_flush(), copy = good ? dup(1) : -1;
    // A file system on a network may tell only at the end that a file is full: closing a copy asks.
    if (copy >= 0 && close(copy) != 0 && errno != EINTR) { good = 0, output_error = errno; }
    if (good) { return code; }
    fprintf(stderr, "error: standard output could not be written%s%s; what was printed is lost, at least in part\n",
            output_error ? ": " : "", output_error ? strerror(output_error) : "");
    return code ? code : 1;
}

// ---- errors ----

// What die() calls, once, after its message and before the program ends: a run that has something to lose saves it.
static void (*die_last)(void);

// Where several processes share a run (run/ranks.h): puts what begins every message, which says whose it is, into
// out[room]; what die() calls with its message before it prints that, since another process may say the same, which then
// is enough, and this one ends in there; and what it calls afterwards, before die_last, so that the others end too, and
// with NULL right before the program ends.
static void (*message_begin)(char* out, size_t room);
static void (*die_first)(const char* message);
static void (*die_tell)(const char* message);

// Told of every piece of what takes long, a large file or a sample, where somebody waits for it: a rank that does so is
// not hung. NULL: nobody.
static void (*work_progress)(void);
static inline void work_goes_on(void) {
    if (work_progress) { work_progress(); }
}

// Prints a line on stderr, in one piece where it is not long: those of several processes must not mix.
__attribute__((format(printf, 2, 0))) static inline void message_print(const char* kind, const char* fmt,
                                                                       va_list args) {
    char text[4096], begin[256] = "";
    output_flush();
    if (message_begin) { message_begin(begin, sizeof begin); }
    size_t n = (size_t)snprintf(text, sizeof text, "%s%s: ", begin, kind);
    va_list again;
    va_copy(again, args);
    int more = vsnprintf(text + n, sizeof text - n, fmt, again);
    va_end(again);
    if (more >= 0 && n + (size_t)more + 1 < sizeof text) {
        text[n + (size_t)more] = '\n';
        fwrite(text, 1, n + (size_t)more + 1, stderr);
    } else {
        fprintf(stderr, "%s%s: ", begin, kind);
        vfprintf(stderr, fmt, args);
        fprintf(stderr, "\n");
    }
}

// Several threads may find errors at once. The first says its own and ends the program, the others wait for that; it may
// come here again, from what it calls on its way.
static __thread char die_thread;  // its address tells threads apart
static char* die_owner;
static inline void die_wait_for_another(void) {
    char* owner = NULL;
    if (__atomic_compare_exchange_n(&die_owner, &owner, &die_thread, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) { return; }
    while (owner != &die_thread) { pause(); }
}

// Prints "error: ..." on stderr and exits with 1. A message says what was expected, what was
// found, where, and one hint. No trailing newline in fmt.
__attribute__((noreturn, format(printf, 1, 2))) static inline void die(const char* fmt, ...) {
    va_list args;
    char text[400];
    die_wait_for_another();
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (die_first) { die_first(text); }
    va_start(args, fmt);
    message_print("error", fmt, args);
    va_end(args);
    if (die_tell) { die_tell(text); }
    void (*last)(void) = die_last;
    die_last = NULL;
    if (last) { last(); }
    if (die_tell) { die_tell(NULL); }
    DIE_EXIT(1);
}

// Prints "warning: ..." on stderr and goes on.
__attribute__((format(printf, 1, 2))) static inline void warn(const char* fmt, ...) {
    va_list args;
    va_start(args, fmt);
    message_print("warning", fmt, args);
    va_end(args);
}

// a * b, or an error that names what was being sized.
static inline size_t mul_size(size_t a, size_t b, const char* what) {
    if (b != 0 && a > SIZE_MAX / b) { die("%s: %zu x %zu does not fit in memory", what, a, b); }
    return a * b;
}

// count * size bytes, aligned to ALIGNMENT, zeroed; never returns NULL. Free with free().
static inline void* xalloc(size_t count, size_t size, const char* what) {
    size_t bytes = round_up(max_size(mul_size(count, size, what), 1), ALIGNMENT);
    void* p = NULL;
    if (posix_memalign(&p, ALIGNMENT, bytes) != 0 || p == NULL) {
        die("out of memory: could not get %.1f MB for %s", (double)bytes / 1e6, what);
    }
    memset(p, 0, bytes);
    return p;
}

// A printf into fresh memory; the caller frees it.
__attribute__((format(printf, 1, 2))) static inline char* format_string(const char* fmt, ...) {
    va_list args;
    va_start(args, fmt);
    va_list again;
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0) { die("a message could not be formatted: %s", fmt); }
    char* s = (char*)xalloc((size_t)n + 1, 1, "a string");
    vsnprintf(s, (size_t)n + 1, fmt, again);
    va_end(again);
    return s;
}

// A growing string: for JSON, tables, help texts. Start from {0}; free(sb.data).
typedef struct {
    char* data;   // NUL-terminated once anything was appended
    size_t size;  // bytes without the NUL
    size_t capacity;
} StringBuilder;

static inline void sb_append(StringBuilder* sb, const char* bytes, size_t n) {
    if (sb->size + n + 1 > sb->capacity) {
        size_t capacity = max_size(2 * sb->capacity, round_up(sb->size + n + 1, 256));
        char* data = (char*)xalloc(capacity, 1, "a string");
        if (sb->size) { memcpy(data, sb->data, sb->size); }
        free(sb->data);
        sb->data = data;
        sb->capacity = capacity;
    }
    if (n) { memcpy(sb->data + sb->size, bytes, n); }
    sb->size += n;
    sb->data[sb->size] = 0;
}

__attribute__((format(printf, 2, 3))) static inline void sb_printf(StringBuilder* sb, const char* fmt, ...) {
    va_list args;
    va_start(args, fmt);
    va_list again;
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0) { die("a message could not be formatted: %s", fmt); }
    char* s = (char*)xalloc((size_t)n + 1, 1, "a string");
    vsnprintf(s, (size_t)n + 1, fmt, again);
    va_end(again);
    sb_append(sb, s, (size_t)n);
    free(s);
}

static inline int text_ends(const char* text, const char* end) {
    size_t n = strlen(text), k = strlen(end);
    return n >= k && strcmp(text + n - k, end) == 0;
}

// Seconds on a clock that never jumps.
static inline double now_seconds(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

// How many threads a parallel region gets (1 in a build without OpenMP).
static inline int thread_count(void) {
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

// Gives parallel regions n threads from now on; 0: one for each processor.
static inline void set_threads(int n) {
#ifdef _OPENMP
    omp_set_num_threads(n > 0 ? n : omp_get_num_procs());
#else
    (void)n;
#endif
}

// This thread's number inside a parallel region, 0 outside.
static inline int thread_index(void) {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

#endif
