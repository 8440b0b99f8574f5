// test.h - the test harness: named tests, checks that NaN cannot pass, functions that must die. What ends
// the program in the middle of a test, by exit() or a crash, is a failure of that test by name.
#ifndef PONDER_TEST_H
#define PONDER_TEST_H

#include "../../common/base.h"
#include "../../common/run/threads.h"

#include <signal.h>
#include <sys/wait.h>

// Under sanitizers every access costs more; tests whose numbers other builds judge, and that only repeat there, are shorter.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TEST_SANITIZED 1
#elif defined(__has_feature)
#define TEST_SANITIZED \
    (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer))
#else
#define TEST_SANITIZED 0
#endif

typedef struct {
    int passed, failed, skipped;
    int checks_failed;     // in the running test
    const char* name;      // of the running test; NULL between tests and in children that must die
    const char* only;      // run only tests whose name contains this; NULL: all
    const char* skip_why;  // set by test_skip in the running test
} TestState;

static TestState test_state;

// A check: counts and prints, does not stop the test.
#define CHECK(condition, ...)                                                 \
    do {                                                                      \
        if (!(condition)) {                                                   \
            test_state.checks_failed++;                                       \
            fprintf(stderr, "  %s:%d: %s: ", __FILE__, __LINE__, #condition); \
            fprintf(stderr, __VA_ARGS__);                                     \
            fprintf(stderr, "\n");                                            \
        }                                                                     \
    } while (0)

// ---- a test that ends the program ----

// Says which test it was, and the line that `make test` adds up. Uses nothing that a crash may have broken.
static inline void test_ended(const char* how) {
    if (!test_state.name) { return; }
    char text[512];
    int n = snprintf(text, sizeof text, "FAIL %s: %s; no test after it was run\n%d passed, %d failed, %d skipped\n",
                     test_state.name, how, test_state.passed, test_state.failed + 1, test_state.skipped);
    test_state.name = NULL;
    if (write(1, text, min_size((size_t)n, sizeof text - 1)) < 0) { _exit(1); }
}

static void test_at_exit(void) {  // die() comes here, and whoever else calls exit()
    if (!test_state.name) { return; }
    fflush(stdout);
    test_ended("died");
    _exit(1);  // even if it was exit(0)
}

static void test_on_crash(int number) {
    char how[32];
    snprintf(how, sizeof how, "signal %d", number);
    test_ended(how);
    signal(number, SIG_DFL);
    raise(number);
}

static inline void test_catch_crashes(void) {
    static char stack[65536];  // for the handler: the stack itself may have overflowed
    stack_t other;
    memset(&other, 0, sizeof other);
    other.ss_sp = stack;
    other.ss_size = sizeof stack;
    sigaltstack(&other, NULL);
    static const int crashes[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
    for (size_t i = 0; i < sizeof crashes / sizeof crashes[0]; i++) {
        struct sigaction action, old;
        memset(&action, 0, sizeof action);
        sigemptyset(&action.sa_mask);
        action.sa_flags = SA_ONSTACK | SA_NODEFER;
        action.sa_handler = test_on_crash;
        // A sanitizer's handler says more: its trace names the test too.
        if (sigaction(crashes[i], NULL, &old) == 0 && old.sa_handler == SIG_DFL) {
            sigaction(crashes[i], &action, NULL);
        }
    }
}

// ---- running tests ----

// A fresh directory in TMPDIR (unset or empty: in /tmp), malloc'd; `name` says whose it is. The caller removes it.
static inline char* test_directory(const char* name) {
    const char* parent = getenv("TMPDIR");
    char* path = format_string("%s/ponder_%s_XXXXXX", parent && *parent ? parent : "/tmp", name);
    if (mkdtemp(path) == NULL) { die("%s: %s", path, strerror(errno)); }
    return path;
}

// A file of n bytes, in place of what is there.
static inline void write_bytes(const char* path, const void* bytes, size_t n) {
    FILE* file = fopen(path, "wb");
    if (!file || fwrite(bytes, 1, n, file) != n || fclose(file) != 0) { die("%s: %s", path, strerror(errno)); }
}

// The seed of what a test draws: PONDER_TEST_SEED, where that is set, else the usual one.
static inline uint64_t test_seed(uint64_t usual) {
    const char* other = getenv("PONDER_TEST_SEED");
    return other && *other ? strtoull(other, NULL, 10) : usual;
}

static inline void test_skip(const char* why) { test_state.skip_why = why; }

static inline void run_test(const char* name, void (*test)(void)) {
    if (test_state.only && !strstr(name, test_state.only)) { return; }
    test_state.name = name;
    test_state.checks_failed = 0;
    test_state.skip_why = NULL;
    double start = now_seconds();
    test();
    double seconds = now_seconds() - start;
    test_state.name = NULL;
    if (test_state.checks_failed) {
        test_state.failed++;
        printf("FAIL %s\n", name);
    } else if (test_state.skip_why) {
        test_state.skipped++;
        printf("skip %s: %s\n", name, test_state.skip_why);
    } else {
        test_state.passed++;
        printf("ok   %s (%.2f s)\n", name, seconds);
    }
    fflush(stdout);
}
#define RUN(test) run_test(#test, test)

// A test of what is the same in every architecture: one of them takes it for all (WHOLE in the Makefile).
#ifndef TEST_WHOLE
#define TEST_WHOLE 1
#endif
#define RUN_WHOLE(test)                \
    do {                               \
        if (TEST_WHOLE) { RUN(test); } \
    } while (0)

// A test program's arguments: an optional part of a test name.
static inline void test_begin(int argc, char** argv) {
    threads_wait_briefly(argv);
    test_state.only = argc > 1 ? argv[1] : NULL;
    atexit(test_at_exit);
    test_catch_crashes();
}

// The last line and the exit status. `make test` adds the lines of all programs up.
static inline int test_end(void) {
    if (test_state.passed + test_state.failed + test_state.skipped == 0) {
        fprintf(stderr, "no test has a name that contains '%s'\n", test_state.only ? test_state.only : "");
        return 1;
    }
    printf("%d passed, %d failed, %d skipped\n", test_state.passed, test_state.failed, test_state.skipped);
    return test_state.failed ? 1 : 0;
}

// Compares n numbers of `got` with `want`: every |got - want| must be <= tolerance * max|want|
// (or <= tolerance, absolute, if `want` is all zero). Rejects NaN on either side, and an all-zero
// `got` where `want` is not. Prints the worst place and the share of the tolerance used when it
// fails. Returns the largest error relative to max|want|. TYPE-generic by copy to double.
static inline double compare_doubles(const char* what, const double* got, const double* want, size_t n,
                                     double tolerance) {
    double scale = 0, worst = -1;
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        if (fabs(want[i]) > scale) { scale = fabs(want[i]); }
    }
    double limit = scale > 0 ? tolerance * scale : tolerance;
    int bad = 0;
    for (size_t i = 0; i < n; i++) {
        double diff = fabs(got[i] - want[i]);
        if (!(diff <= limit)) { bad = 1; }
        if (!(diff <= worst)) {  // also takes NaN, and keeps it
            if (worst == worst) { worst = diff, at = i; }
        }
    }
    if (bad || test_state.checks_failed > 1000000) {
        test_state.checks_failed++;
        fprintf(stderr, "  %s: worst of %zu at [%zu]: got %.9g, want %.9g, |difference| %.3g, allowed %.3g (%.2f x)\n",
                what, n, at, got[at], want[at], worst, limit, worst / limit);
    }
    return scale > 0 ? worst / scale : worst;
}

static inline double compare_floats(const char* what, const float* got, const float* want, size_t n, double tolerance) {
    double* a = (double*)xalloc(2 * n, sizeof(double), "a comparison");
    double* b = a + n;
    for (size_t i = 0; i < n; i++) { a[i] = got[i], b[i] = want[i]; }
    double worst = compare_doubles(what, a, b, n, tolerance);
    free(a);
    return worst;
}

static inline double compare_reals(const char* what, const real* got, const real* want, size_t n, double tolerance) {
    double* a = (double*)xalloc(2 * n, sizeof(double), "a comparison");
    double* b = a + n;
    for (size_t i = 0; i < n; i++) { a[i] = (double)got[i], b[i] = (double)want[i]; }
    double worst = compare_doubles(what, a, b, n, tolerance);
    free(a);
    return worst;
}

// ---- functions that must die ----

// Runs f(argument) in a child process; returns its exit code (or 128 + signal) and, in `output`
// (malloc'd, the caller frees), all it wrote to stdout and stderr. A child that returns exits 0.
static inline int run_child(void (*f)(void*), void* argument, char** output) {
    fflush(stdout);
    fflush(stderr);
    int fds[2];
    if (pipe(fds) != 0) { die("pipe: %s", strerror(errno)); }
    pid_t pid = fork();
    if (pid < 0) { die("fork: %s", strerror(errno)); }
    if (pid == 0) {
        dup2(fds[1], 1);
        dup2(fds[1], 2);
        close(fds[0]);
        close(fds[1]);
        test_state.name = NULL;
        f(argument);
        fflush(stdout);
        fflush(stderr);
        _exit(0);
    }
    close(fds[1]);
    StringBuilder sb = {0};
    char chunk[4096];
    for (;;) {
        ssize_t n = read(fds[0], chunk, sizeof chunk);
        if (n < 0 && errno == EINTR) { continue; }
        if (n <= 0) { break; }
        sb_append(&sb, chunk, (size_t)n);
    }
    close(fds[0]);
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
    sb_append(&sb, "", 0);
    *output = sb.data;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// f(argument) must exit with code 1 and say `words` ('|' separates words that must all appear).
static inline void expect_death(const char* what, void (*f)(void*), void* argument, const char* words) {
    char* output = NULL;
    int code = run_child(f, argument, &output);
    CHECK(code == 1, "%s: exit code %d, expected 1; it said: %s", what, code, output);
    char* list = format_string("%s", words);
    for (char* word = strtok(list, "|"); word; word = strtok(NULL, "|")) {
        CHECK(strstr(output, word) != NULL, "%s: no '%s' in: %s", what, word, output);
    }
    free(list);
    free(output);
}

// How threads wait can be arranged, and be seen, only where the compiler has OpenMP and the system /proc.
static inline int test_skips_threads(void) {
#ifndef _OPENMP
    test_skip("this compiler has no OpenMP");
    return 1;
#else
    if (access("/proc/self/maps", R_OK) == 0) { return 0; }
    test_skip("no /proc here");
    return 1;
#endif
}

#endif
