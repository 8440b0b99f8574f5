// test_harness.h - tests of test.h: a test that dies, exits or crashes is a failure by its name.
#ifndef PONDER_TEST_HARNESS_H
#define PONDER_TEST_HARNESS_H

#include "test.h"

static void harness_passes(void) {}
static void harness_fails(void) { CHECK(1 == 2, "as it should"); }
static void harness_dies(void) { die("of a test"); }
static void harness_exits(void) { exit(0); }
static void harness_aborts(void) { abort(); }
static void harness_crashes(void) { raise(SIGSEGV); }
static void harness_child(void* unused) {
    (void)unused;
    die("of a child");
}
static void harness_expects(void) { expect_death("a child", harness_child, NULL, "of a child"); }

// A program of tests: one passes, one does what is asked.
static void harness_program(void* test) {
    memset(&test_state, 0, sizeof test_state);
    RUN(harness_passes);
    run_test("test_of_the_harness", *(void (**)(void))test);
    exit(test_end());
}

static void test_harness_names_what_ends_it(void) {
    struct sigaction crash;
    sigaction(SIGSEGV, NULL, &crash);
    const struct {
        void (*test)(void);
        int code;  // 128 + signal
        const char* says;
    } cases[] = {
        {harness_passes, 0, "\n2 passed, 0 failed, 0 skipped\n"},
        {harness_fails, 1, "FAIL test_of_the_harness\n1 passed, 1 failed, 0 skipped\n"},
        {harness_dies, 1,
         "error: of a test\nFAIL test_of_the_harness: died; no test after it was run\n1 passed, 1 failed"},
        {harness_exits, 1, "FAIL test_of_the_harness: died; no test after it was run\n1 passed, 1 failed, 0 skipped\n"},
        {harness_aborts, 128 + SIGABRT,
         "FAIL test_of_the_harness: signal 6; no test after it was run\n1 passed, 1 failed"},
        {harness_crashes, 128 + SIGSEGV,
         "FAIL test_of_the_harness: signal 11; no test after it was run\n1 passed, 1 fa"},
        {harness_expects, 0, "\n2 passed, 0 failed, 0 skipped\n"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (cases[i].test == harness_crashes && crash.sa_handler != test_on_crash) { continue; }  // a sanitizer's
        char* output = NULL;
        int code = run_child(harness_program, (void*)&cases[i].test, &output);
        CHECK(code == cases[i].code && strstr(output, cases[i].says), "case %zu: exit code %d, expected %d: %s", i,
              code, cases[i].code, output);
        CHECK(!strstr(output, "FAIL") == !strstr(cases[i].says, "FAIL"), "case %zu: %s", i, output);
        free(output);
    }
    char* output = NULL;  // of a child that is meant to die
    int code = run_child(harness_child, NULL, &output);
    CHECK(code == 1 && strcmp(output, "error: of a child\n") == 0, "exit code %d: %s", code, output);
    free(output);
}

static void harness_tests(void) { RUN(test_harness_names_what_ends_it); }

#endif
