// test_threads.h - tests of how a program arranges that its threads wait briefly (common/run/threads.h): this program,
// started anew with --threads, says what it has become.
#ifndef PONDER_TEST_THREADS_H
#define PONDER_TEST_THREADS_H

#include "test.h"

// The program of --threads, argv[0] to argv[argc - 1] as main() has them: exit status 7.
static int threads_report_main(int argc, char** argv) {
    threads_wait_briefly(argv);
    threads_wait_briefly(argv);  // again: nothing
    ThreadsSchedule s;
    if (threads_schedule(&s)) {
        printf("policy %u, nice %d, slice %llu. ", s.policy, s.nice, (unsigned long long)s.slice);
    }
    printf("%s process, %s.", argc > 2 && atol(argv[2]) == (long)getpid() ? "same" : "another", threads_waiting());
    for (int i = 0; i < argc; i++) { printf(" [%s]", argv[i]); }
    // What the process was started with, as OpenMP read it.
    FILE* f = fopen("/proc/self/environ", "r");
    char text[256];
    size_t n = 0;
    for (int c; f && (c = fgetc(f)) != EOF;) {
        text[n] = (char)c;
        if (c == 0 && (strncmp(text, "GOMP_SPIN", 9) == 0 || strncmp(text, "KMP_BLOCK", 9) == 0)) {
            printf(" begun with %s", text);
        }
        n = c == 0 ? 0 : min_size(n + 1, sizeof text - 1);
    }
    if (f) { fclose(f); }
    printf("\nchild: ");
    fflush(stdout);
    // cat's other argument is this program's standard input, which survives as well.
    int status = system("env | grep -cE '^(GOMP_SPINCOUNT|KMP_BLOCKTIME)='; cat");
    (void)status;
    return 7;
}

// This program's own path.
static char* threads_path(void) {
    static char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n < 0) { die("/proc/self/exe: %s", strerror(errno)); }
    path[n] = 0;
    return path;
}

// What this program says of its threads when a shell starts it so; @ in `command` stands for its path and --threads.
static void check_threads(const char* command, const char* words, const char* not_word) {
    StringBuilder sb = {0};
    sb_printf(&sb, "{ echo input | env -u OMP_WAIT_POLICY -u GOMP_SPINCOUNT -u KMP_BLOCKTIME -u KMP_LIBRARY -u "
                   "PONDER_THREADS sh -c '");
    for (const char* c = command; *c; c++) {
        if (*c == '@') {
            sb_printf(&sb, "\"%s\" --threads", threads_path());
        } else {
            sb_append(&sb, c, 1);
        }
    }
    sb_printf(&sb, "'; } 2>&1");
    FILE* pipe = popen(sb.data, "r");
    if (!pipe) { die("popen: %s", strerror(errno)); }
    char said[8192];
    size_t n = fread(said, 1, sizeof said - 1, pipe);
    for (char* c = said; c < said + n; c++) {
        if (*c == 0) { *c = '.'; }
    }
    said[n] = 0;
    int ended = pclose(pipe);
    CHECK(WIFEXITED(ended) && WEXITSTATUS(ended) == 7, "%s: status %x: %s", command, (unsigned)ended, said);
    char* list = format_string("%s", words);
    for (char* word = strtok(list, "|"); word; word = strtok(NULL, "|")) {
        CHECK(strstr(said, word) != NULL, "%s: no '%s' in: %s", command, word, said);
    }
    CHECK(!not_word || !strstr(said, not_word), "%s: '%s' in: %s", command, not_word, said);
    free(list);
    free(sb.data);
}

static void test_threads_wait_briefly(void) {
    if (test_skips_threads()) { return; }
    char* set =
        format_string("waiting briefly|begun with %s=%s|begun with %s=%s|child: 0\ninput", threads_settings[0].name,
                      threads_settings[0].value, threads_settings[1].name, threads_settings[1].value);
    check_threads("@", set, NULL);
    check_threads("exec @ \"\" \"a b\" \"--x=*\"", "--threads] [] [a b] [--x=*]", NULL);
    check_threads("OMP_NUM_THREADS=1 @", set, NULL);
    check_threads("PONDER_THREADS=1 @", set, NULL);  // a parent's, say
    check_threads("PONDER_THREADS= @", set, NULL);
    free(set);
    check_threads("exec @ $$", "same process, waiting briefly", NULL);  // the number of the shell
    // What the user says wins.
    check_threads("OMP_WAIT_POLICY=active @", "waiting as OMP_WAIT_POLICY says|child: 0", "begun");
    check_threads("OMP_WAIT_POLICY=passive OMP_NUM_THREADS=2 @", "waiting as OMP_WAIT_POLICY says", "begun");
    check_threads("GOMP_SPINCOUNT=5 @", "waiting as GOMP_SPINCOUNT says|begun with GOMP_SPINCOUNT=5|child: 1", "KMP");
    check_threads("KMP_BLOCKTIME=3 @", "waiting as KMP_BLOCKTIME says|begun with KMP_BLOCKTIME=3|child: 1", "GOMP_");
    check_threads("KMP_LIBRARY=throughput @", "waiting as KMP_LIBRARY says|child: 0", "begun");
    // As if it had been executed anew, but somebody took the variables away: it goes on, once.
    check_threads("PONDER_THREADS=$$ exec @", "waiting busily|child: 0", "begun");
}

// A short time slice and, but for that, what the user said.
static void test_threads_slice(void) {
    ThreadsSchedule s, again;
    threads_slice(0);
    if (!threads_schedule(&s) || s.policy != SCHED_OTHER || s.slice <= THREADS_SLICE) {
        test_skip("no Linux that knows of time slices");
        return;
    }
    unsigned long long usual = (unsigned long long)s.slice;
    char* words =
        format_string("policy %d, nice %d, slice %d", SCHED_OTHER, s.nice < 16 ? s.nice + 3 : 19, THREADS_SLICE);
    check_threads("nice -n 3 @", words, NULL);
    check_threads("OMP_WAIT_POLICY=passive nice -n 3 @", words, NULL);
    free(words);
    words = format_string("policy 3, nice %d, slice %llu", s.nice, usual);  // 3: SCHED_BATCH, which is no part of C
    if (system("command -v chrt >/dev/null") == 0) { check_threads("chrt --batch 0 @", words, NULL); }
    free(words);
    threads_slice(THREADS_SLICE);
    CHECK(threads_schedule(&again) && again.slice == THREADS_SLICE && again.nice == s.nice, "slice %llu, nice %d",
          (unsigned long long)again.slice, again.nice);
}

// The program is run by another, as /proc/self/exe says: executing that with our arguments would be wrong.
static void test_threads_under_a_loader(void) {
    char loader[4096] = "", line[4096];
    FILE* maps = fopen("/proc/self/maps", "r");
    while (maps && fgets(line, sizeof line, maps)) {
        char* file = strchr(line, '/');
        line[strcspn(line, "\n")] = 0;
        if (file && strstr(file, "/ld-linux")) { snprintf(loader, sizeof loader, "%s", file); }
    }
    if (maps) { fclose(maps); }
    char* command =
        format_string("OMP_WAIT_POLICY=passive %s \"%s\" --threads </dev/null >/dev/null 2>&1", loader, threads_path());
    int status = loader[0] ? system(command) : -1;
    free(command);
    if (!(WIFEXITED(status) && WEXITSTATUS(status) == 7)) {
        test_skip("no dynamic loader that runs this program");
        return;
    }
    command = format_string("exec %s @", loader);
    check_threads(command, "waiting busily|--threads]|child: 0", "begun");
    free(command);
}

static void threads_tests(void) {
    RUN(test_threads_wait_briefly);
    RUN(test_threads_slice);
    RUN(test_threads_under_a_loader);
}

#endif
