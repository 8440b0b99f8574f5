// test_bytes.h - tests of data/bytes.c: what it takes, what it drops, how it splits, how it fails.
#ifndef PONDER_TEST_BYTES_H
#define PONDER_TEST_BYTES_H

#include "../../data/bytes.c"
#include "file_calls.h"
#include "test.h"

#include <sys/resource.h>

static char* bytes_dir;

static inline void bytes_dir_make(void) {
    free(bytes_dir);  // of the test before
    bytes_dir = test_directory("bytes");
}

static char bytes_path_buffer[4][1024];
static int bytes_path_next;
static inline const char* bytes_path(const char* name) {
    char* path = bytes_path_buffer[bytes_path_next++ % 4];
    snprintf(path, 1024, "%s/%s", bytes_dir, name);
    return path;
}

static inline void bytes_put(const char* name, const char* text, size_t size) {
    char* parent = format_string("%s", bytes_path(name));
    *strrchr(parent, '/') = 0;
    char* error = directory_make(parent);
    if (error) { die("%s", error); }
    write_bytes(bytes_path(name), text, size);
    free(parent);
}

// A line with the test's directory for every @; the caller frees it.
static char* bytes_line(const char* line) {
    StringBuilder sb = {0};
    sb_append(&sb, "", 0);
    for (const char* p = line; *p; p++) {
        sb_append(&sb, *p == '@' ? bytes_dir : p, *p == '@' ? strlen(bytes_dir) : 1);
    }
    return sb.data;
}

// Runs the program with the words of `line`, where @ stands for the test's directory.
typedef struct {
    const char* line;
    rlim_t limit;       // on the size of files; 0: as it is
    uint64_t tokens;    // that a shard can hold; 0: as it is
    const char* input;  // a file for standard input; NULL: /dev/null
    const char* pipe;   // what comes through a pipe instead
    const char* out;    // a file for standard output
} BytesRun;

static void bytes_run_child(void* argument) {
    const BytesRun* run = (const BytesRun*)argument;
    if (run->limit) {
        struct rlimit limit = {run->limit, run->limit};
        setrlimit(RLIMIT_FSIZE, &limit);
    }
    if (run->tokens) { shard_max_tokens = run->tokens; }
    int input = open(run->input ? bytes_path(run->input) : "/dev/null", O_RDONLY), ends[2];
    if (run->pipe) {
        if (pipe(ends) != 0 || write_all(ends[1], run->pipe, strlen(run->pipe)) != 0) { die("pipe"); }
        close(ends[1]);
        input = ends[0];
    }
    dup2(input, 0);
    if (run->out) { dup2(open(bytes_path(run->out), O_WRONLY | O_CREAT | O_TRUNC, 0600), 1); }
    char *line = bytes_line(run->line), *argv[64] = {(char*)"bytes"};
    int argc = 1;
    for (char* word = strtok(line, " "); word && argc < 63; word = strtok(NULL, " ")) { argv[argc++] = word; }
    int code = bytes_main(argc, argv);
    free(line);
    if (code != 0) { exit(code); }
}

// Returns the exit code; the caller frees *output.
static int bytes_run(const char* line, rlim_t limit, char** output) {
    BytesRun run = {line, limit, 0, NULL, NULL, NULL};
    return run_child(bytes_run_child, &run, output);
}

static void bytes_expect_success(const char* line, const char* words) {
    char* output = NULL;
    int code = bytes_run(line, 0, &output);
    CHECK(code == 0, "%s: exit code %d: %s", line, code, output);
    char* list = bytes_line(words);
    for (char* word = strtok(list, "|"); word; word = strtok(NULL, "|")) {
        CHECK(strstr(output, word) != NULL, "%s: no '%s' in: %s", line, word, output);
    }
    free(list);
    free(output);
}

static void bytes_expect_death(const char* line, const char* words) {
    BytesRun run = {line, 0, 0, NULL, NULL, NULL};
    expect_death(line, bytes_run_child, &run, words);
}

// The documents of a shard, in order, each followed by '|'; the caller frees it.
static char* bytes_documents(const char* name) {
    Shards* shards = shards_open(bytes_path(name), 1, 257);
    StringBuilder sb = {0};
    int token = -1, next = -1;
    for (uint64_t row = 0; row <= shards->rows; row++) {
        if (row < shards->rows) {
            shards_row(shards, row, &token, &next);
        } else {
            token = next;
        }
        char c = (char)token;
        sb_append(&sb, token == 256 ? "|" : &c, 1);
    }
    CHECK(next == 256, "%s does not end with end of text", name);
    shards_close(shards);
    return sb.data;
}

// 1 if two files have the same bytes.
static int bytes_same(const char* a, const char* b) {
    size_t m = 0, n = 0;
    char *x = read_fully(bytes_path(a), &m), *y = read_fully(bytes_path(b), &n);
    int same = x && y && m == n && memcmp(x, y, m) == 0;
    free(x);
    free(y);
    return same;
}

static int bytes_exists(const char* name) {
    struct stat info;
    return lstat(bytes_path(name), &info) == 0;
}

// 30 files of distinct contents, letters of some length, under a directory with the given prefix.
static void bytes_make_texts(const char* prefix) {
    for (int i = 0; i < 30; i++) {
        char name[64], text[64];
        snprintf(name, sizeof name, "%s%s/f%02d.txt", prefix, i % 3 == 0 ? "/deep" : "", i * 7 % 30);
        int n = 20 + i;
        memset(text, 'a' + i % 26, (size_t)n);
        text[0] = (char)('A' + i / 26);
        bytes_put(name, text, (size_t)n);
    }
}

static void test_bytes_corpus(void) {
    bytes_dir_make();
    bytes_put("in/one.h", "one", 3);
    bytes_put("in/two.c", "two\r\n\xff", 6);
    bytes_put("in/sub/copy.h", "one", 3);
    bytes_put("in/sub/three.h", "three", 5);
    bytes_put("in/sub/noend", "plain", 5);
    bytes_put("in/sub/picture.h", "pic\0ture", 8);
    bytes_put("in/sub/empty.h", "", 0);
    bytes_put("in/other.txt", "other", 5);
    bytes_put("in/.h", "dot", 3);  // no name before the suffix: not taken
    if (link(bytes_path("in/one.h"), bytes_path("in/hard.h")) != 0 || symlink("one.h", bytes_path("in/soft.h")) != 0 ||
        symlink("..", bytes_path("in/sub/loop")) != 0 || symlink("nowhere", bytes_path("in/broken.h")) != 0 ||
        mkfifo(bytes_path("in/fifo.h"), 0600) != 0) {
        die("%s: %s", bytes_dir, strerror(errno));
    }
    bytes_expect_success(
        "--out @/out/all.bin --suffix .h,.c @/in",
        "3 files, 14 bytes|3 duplicates|1 binary|1 empty|1 unreadable|17 tokens|warning: the corpus has 0.0 MB");
    char* documents = bytes_documents("out/all.bin");
    CHECK(strlen(documents) == 17 && strstr(documents, "one|") && strstr(documents, "two\r\n\xff|") &&
              strstr(documents, "three|"),
          "'%s'", documents);
    free(documents);
    // An empty suffix means names without a dot; files named one by one are always taken.
    bytes_expect_success("--out=@/out/all.bin --suffix .c, --seed 3 @/in @/in/other.txt -- @/in/one.h", "4 files");
    documents = bytes_documents("out/all.bin");
    CHECK(strstr(documents, "plain|") && strstr(documents, "other|") && strstr(documents, "two") &&
              strstr(documents, "one|"),
          "'%s'", documents);
    free(documents);
    directory_remove_tree(bytes_dir);
    CHECK(!bytes_exists(""), "%s is left behind", bytes_dir);
}

static void test_bytes_split(void) {
    bytes_dir_make();
    bytes_make_texts("a");
    bytes_make_texts("b");  // the same contents
    bytes_expect_success("--out-train @/a.train --out-val @/a.val --val-share 0.2 @/a", "30 files, 1035 bytes");
    char *train = bytes_documents("a.train"), *val = bytes_documents("a.val");
    CHECK(strlen(train) + strlen(val) == 1065, "%zu + %zu", strlen(train), strlen(val));
    CHECK(strlen(val) >= 207 && strlen(val) < 207 + 60, "validation has %zu of 1065", strlen(val));
    int sorted = 1;
    char before = 0;
    for (char* d = strtok(train, "|"); d; d = strtok(NULL, "|")) {
        CHECK(strstr(val, d) == NULL, "'%s' is in both", d);
        sorted = sorted && d[1] >= before;
        before = d[1];
    }
    CHECK(!sorted, "the order is the files' order");
    free(train);
    free(val);
    // Names, places and order of the arguments do not matter; the seed does.
    if (rename(bytes_path("b/deep/f00.txt"), bytes_path("b/zzz.txt")) != 0) { die("rename: %s", strerror(errno)); }
    bytes_expect_success("--out-train @/b.train --out-val @/b.val --val-share 0.2 @/b/deep @/b",
                         "30 files, 1035 bytes");
    CHECK(bytes_same("a.train", "b.train") && bytes_same("a.val", "b.val"), "the same contents gave other shards");
    bytes_expect_success("--out-train @/c.train --out-val @/c.val --val-share 0.2 --seed 1 @/a", "30 files");
    CHECK(!bytes_same("a.val", "c.val"), "the seed made no difference");
    // A limit takes whole files, chosen by hash.
    bytes_expect_success("--out-train @/c.train --out-val @/c.val --max-bytes 300 @/a", "beyond --max-bytes");
    train = bytes_documents("c.train"), val = bytes_documents("c.val");
    size_t documents = 0;
    for (const char* p = train; *p; p++) { documents += *p == '|'; }
    for (const char* p = val; *p; p++) { documents += *p == '|'; }
    size_t bytes = strlen(train) + strlen(val) - documents;
    CHECK(bytes <= 300 && bytes > 270, "%zu bytes of 300", bytes);
    free(train);
    free(val);
    bytes_expect_success("--out @/c.bin --max-file 30 @/a", "11 files|19 larger than --max-file");
    // However large the share, training keeps something, and validation gets something: parts of a file.
    bytes_expect_success("--out-train @/c.train --out-val @/c.val --val-share 0.999 @/a",
                         "cut: @|c.train: 1 files, 2 tokens|c.val: 30 files");
    bytes_expect_success("--out-train @/c.train --out-val @/c.val --val-share 0.001 @/a",
                         "cut: @|c.train: 30 files|c.val: 1 files, 2 tokens");
    directory_remove_tree(bytes_dir);
}

static void test_bytes_compiler(void) {
    bytes_dir_make();
    bytes_put("include/a.h", "int a;\n", 7);
    bytes_put("include/more/b.hpp", "int b;\n", 7);
    bytes_put("include/vector", "int v;\n", 7);
    bytes_put("include/c.txt", "int c;\n", 7);
    bytes_put("quote/d.h", "int d;\n", 7);
    StringBuilder sb = {0};
    sb_printf(
        &sb,
        "#!/bin/sh\n[ \"$4\" = c ] || exit 1\necho '#include \"...\" search starts here:' >&2\necho ' %s/quote' >&2\n"
        "echo '#include <...> search starts here:' >&2\necho ' %s/include' >&2\necho ' /nowhere' >&2\n"
        "echo ' %s/quote (framework directory)' >&2\necho 'End of search list.' >&2\necho ' %s/quote' >&2\n",
        bytes_dir, bytes_dir, bytes_dir, bytes_dir);
    bytes_put("cc", sb.data, sb.size);
    free(sb.data);
    chmod(bytes_path("cc"), 0700);
    bytes_expect_success("--out @/all.bin --compiler @/cc", "3 files, 21 bytes");
    char* documents = bytes_documents("all.bin");
    CHECK(strstr(documents, "int a;\n|") && strstr(documents, "int b;\n|") && strstr(documents, "int v;\n|"), "'%s'",
          documents);
    free(documents);
    bytes_expect_death("--out @/all.bin --compiler @/nothing", "nothing -E -v|no include directories|--suffix");
    bytes_expect_death("--out @/all.bin --compiler true", "no include directories");
    directory_remove_tree(bytes_dir);
}

static void test_bytes_bad(void) {
    bytes_dir_make();
    bytes_put("in/a.txt", "some text", 9);
    bytes_put("in/b.txt", "some text", 9);
    bytes_put("one", "\xe2\x82\xac", 3);  // one character
    if (mkdir(bytes_path("hollow"), 0700) != 0 || symlink("o", bytes_path("link")) != 0) {
        die("%s: %s", bytes_dir, strerror(errno));
    }
    static const char* const cases[][2] = {
        {"", "--out FILE"},
        {"@/in", "--out FILE|--help"},
        {"--out @/o", "expected files or directories"},
        {"--out-train @/o @/in", "--out-val"},
        {"--out @/o --out-val @/p @/in", "--out makes one shard"},
        {"--out-train @/o --out-val @/o @/in", "are both"},
        {"--out @/o --frob 3 @/in", "unknown option --frob"},
        {"--out @/o --seed=x @/in", "--seed|'x'"},
        {"--out @/o --max-bytes -1 @/in", "--max-bytes|'-1'"},
        {"--out @/o --max-bytes 99999999999999999999 @/in", "--max-bytes"},
        {"--out-train @/o --out-val @/p --val-share 1 @/in", "--val-share|'1'"},
        {"--out-train @/o --out-val @/p --val-share nan @/in", "--val-share|'nan'"},
        {"--out @/o --seed 1 --seed 2 @/in", "--seed is given twice"},
        {"--out @/o @/in --suffix", "expected a value"},
        {"--out @/o --suffix= @/in", "--suffix|empty"},
        {"--out @/o @/missing", "/missing|No such file"},
        {"--out @/o @/hollow", "no text found"},
        {"--out @/o --suffix .h @/in", "no text found|--suffix"},
        {"--out @/o --max-bytes 5 @/in", "no text found|1 are duplicates|1 beyond"},
        {"--out-train @/o --out-val @/p @/one", "/one|two characters|--out"},
        {"--out-train @/o --out-val @/./o @/in", "/o and|/./o|same file"},
        {"--out-train @/o --out-val @/link @/in", "same file"},
        {"--out @/hollow @/in", "/hollow|found a directory"},
        {"--out @/in/a.txt/o @/in", "/in/a.txt"},
        {"--out @/in/a.txt @/in/a.txt", "/in/a.txt|overwrite"},
        {"--out-train @/o --out-val @/in/b.txt @/in", "/in/b.txt|overwrite"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) { bytes_expect_death(cases[i][0], cases[i][1]); }
    CHECK(!bytes_exists("o") && !bytes_exists("p"), "an error left a shard");
    char* names = listing(bytes_dir);
    CHECK(strcmp(names, "hollow in link one ") == 0, "%s", names);
    free(names);
    bytes_expect_success("--help", "usage: bytes|--val-share");
    directory_remove_tree(bytes_dir);
}

// A full disk: the old shards stay as they were, and nothing else is left.
static void test_bytes_full_disk(void) {
    bytes_dir_make();
    bytes_make_texts("a");
    bytes_expect_success("--out-train @/out/t --out-val @/out/v @/a", "30 files");
    bytes_expect_success("--out-train @/keep/t --out-val @/keep/v @/a", "30 files");
    static const rlim_t limits[] = {100, 1024,
                                    1800};  // in the header, in the first file, later; all below either shard or one
    for (int i = 0; i < 3; i++) {
        char* output = NULL;
        int code = bytes_run("--out-train @/out/t --out-val @/out/v --seed 5 @/a", limits[i], &output);
        CHECK(code == 1 && strstr(output, "/out/t: could not be written") && strstr(output, "ulimit"),
              "limit %d: exit code %d: %s", (int)limits[i], code, output);
        free(output);
        CHECK(bytes_same("out/t", "keep/t") && bytes_same("out/v", "keep/v"), "limit %d: the old shards have changed",
              (int)limits[i]);
        int count = 0;
        char** names = directory_names(bytes_path("out"), &count);
        CHECK(count == 2, "limit %d: %d files are in the output directory", (int)limits[i], count);
        directory_free_names(names);
    }
    directory_remove_tree(bytes_dir);
}

// Documents of a shard as one text, for comparison with what should be there.
static void bytes_check_documents(const char* name, const char* want) {
    char* documents = bytes_documents(name);
    CHECK(strcmp(documents, want) == 0, "%s: '%.300s', expected '%.300s'", name, documents, want);
    free(documents);
}

// Whole files where they meet the share within a percent; else the one at the border is cut.
static void test_bytes_cut(void) {
    bytes_dir_make();
    // One file: at the line end that is nearest.
    bytes_put("lines", "first line\nsecond line\nthird line\nfourth\nfifth\n", 47);
    bytes_expect_success("--out-train @/t --out-val @/v --val-share 0.27 @/lines",
                         "corpus: 1 files, 47 bytes|cut: @/lines before byte 34, where a line begins|t: 1 files, 35 "
                         "tokens|v: 1 files, 14 tokens");
    bytes_check_documents("t", "first line\nsecond line\nthird line\n|");
    bytes_check_documents("v", "fourth\nfifth\n|");
    // A line end that is near wins over the share, and the difference is said.
    bytes_expect_success("--out-train @/t --out-val @/v --val-share 0.5 @/lines",
                         "before byte 23|warning: validation has 51.1 % of the bytes where --val-share asks for 50.0");
    bytes_expect_success("--out-train @/t --out-val @/v --val-share 0.01 @/lines", "before byte 41|12.8 %|1.0 %");
    bytes_expect_success("--out-train @/t --out-val @/v --val-share 0.99 @/lines", "before byte 11|76.6 %|99.0 %");
    // A name is of no importance, where it is cut is: the hash knows.
    char *output = NULL, *again = NULL;
    bytes_put("copy", "first line\nsecond line\nthird line\nfourth\nfifth\n", 47);
    bytes_run("--out-train @/t --out-val @/v --val-share 0.27 @/lines", 0, &output);
    bytes_run("--out-train @/t --out-val @/v --val-share 0.27 @/copy", 0, &again);
    char *hash = strstr(output, "hash "), *same = strstr(again, "hash ");
    CHECK(hash && same && strncmp(hash, same, 21) == 0, "%s and %s", output, again);
    free(again);
    bytes_run("--out-train @/t --out-val @/v --val-share 0.2 @/lines", 0, &again);
    same = strstr(again, "hash ");
    CHECK(hash && same && strncmp(hash, same, 21) != 0, "%s and %s", output, again);
    free(output);
    free(again);
    // No line ends: anywhere, but not inside a character.
    StringBuilder sb = {0};
    for (int i = 0; i < 400; i++) { sb_append(&sb, "\xe2\x82\xac", 3); }
    bytes_put("euros", sb.data, sb.size);
    bytes_expect_success("--out-train @/t --out-val @/v --val-share 0.1 @/euros",
                         "before byte 1080, inside a line, since no line end is near|t: 1 files, 1081|v: 1 files, 121");
    bytes_expect_success("--out-train @/t --out-val @/v --val-share 0.1004 @/euros", "byte 1080,");
    bytes_expect_success("--out-train @/t --out-val @/v --val-share 0.0999 @/euros", "byte 1080,");
    bytes_expect_success("--out-train @/t --out-val @/v --val-share 0.0001 @/euros", "byte 1197,|v: 1 files, 4 tokens");
    bytes_expect_success("--out-train @/t --out-val @/v --val-share 0.9999 @/euros", "byte 3,|t: 1 files, 4 tokens");
    // What is not UTF-8 may be parted anywhere.
    memset(sb.data, 0xAC, sb.size);
    bytes_put("euros", sb.data, sb.size);
    bytes_expect_success("--out-train @/t --out-val @/v --val-share 0.0999 @/euros", "byte 1080,");
    bytes_expect_success("--out-train @/t --out-val @/v --val-share 0.0991 @/euros", "byte 1081,");
    // Lines that are longer than a chunk of reading, and a cut beyond the first.
    sb.size = 0;
    for (int i = 0; i < 3 * TEXT_CHUNK; i++) { sb_append(&sb, i % 10000 == 9999 ? "\n" : "x", 1); }
    bytes_put("long", sb.data, sb.size);
    bytes_expect_success("--out-train @/t --out-val @/v @/long", "before byte 350000, where");  // of 353894
    memset(sb.data, 'x', sb.size);
    sb.data[2 * TEXT_CHUNK - 1] = '\n';
    bytes_put("long", sb.data, sb.size);
    bytes_expect_success("--out-train @/t --out-val @/v --val-share 0.3 @/long", "before byte 262144, where|33.3 %");
    bytes_expect_success("--out-train @/t --out-val @/v --val-share 0.1 @/long", "before byte 353894, inside");
    free(sb.data);
    // Small beside large ones: files are whole on each side of the cut, and nothing is lost.
    bytes_put("some/a", "1 a\n2 a\n3 a\n4 a\n", 16);
    bytes_put("some/b", "1 b\n2 b\n3 b\n4 b\n", 16);
    bytes_put("some/c", "1 c\n2 c\n3 c\n4 c\n", 16);
    for (int seed = 0; seed < 6; seed++) {
        char line[128];
        snprintf(line, sizeof line, "--out-train @/t --out-val @/v --val-share 0.5 --seed %d @/some", seed);
        bytes_expect_success(line,
                             "corpus: 3 files, 48 bytes|cut: @/some/|t: 2 files, 26 tokens|v: 2 files, 26 tokens");
        char *train = bytes_documents("t"), *val = bytes_documents("v");
        CHECK(train[16] == '|' && train[25] == '|' && val[8] == '|' && val[25] == '|' && train[19] == val[2] &&
                  strncmp(train + 17, "1 ", 2) == 0 && strncmp(val, "3 ", 2) == 0,
              "seed %d: '%s' and '%s'", seed, train, val);
        free(train);
        free(val);
    }
    // Whole files come within a percent: nothing is cut, also where one more would be nearly right.
    bytes_expect_success("--out-train @/t --out-val @/v --val-share 0.33 @/some", "t: 2 files, 34|v: 1 files, 17");
    bytes_expect_success("--out-train @/t --out-val @/v --val-share 0.34 @/some", "t: 2 files, 34|v: 1 files, 17");
    bytes_expect_success("--out-train @/t --out-val @/v --val-share 0.67 @/some", "t: 1 files, 17|v: 2 files, 34");
    // Texts of a character each cannot be cut.
    bytes_put("dots/a", ".", 1);
    bytes_put("dots/b", ":", 1);
    bytes_put("dots/c", ",", 1);
    bytes_expect_success("--out-train @/t --out-val @/v @/dots",
                         "t: 2 files|v: 1 files|33.3 %|10.0 %|cannot be parted");
    directory_remove_tree(bytes_dir);
}

static void bytes_slow_writer(const char* path) {
    if (fork() != 0) { return; }
    signal(SIGALRM, SIG_DFL);
    alarm(20);  // if nobody ever reads
    int fd = open(path, O_WRONLY);
    for (int i = 0; i < 3; i++) {
        if (write(fd, "slow\n", 5) != 5) { _exit(1); }
        usleep(20000);
    }
    _exit(0);
}

// Text through pipes, FIFOs and standard input gives the shard that a file gives.
static void test_bytes_streams(void) {
    bytes_dir_make();
    bytes_put("text", "slow\nslow\nslow\n", 15);
    bytes_expect_success("--out @/want @/text", "1 files, 15 bytes");
    if (mkfifo(bytes_path("fifo"), 0600) != 0) { die("mkfifo: %s", strerror(errno)); }
    bytes_slow_writer(bytes_path("fifo"));
    bytes_expect_success("--out @/got @/fifo", "got: 1 files, 16 tokens");
    while (waitpid(-1, NULL, WNOHANG) > 0) {}
    CHECK(bytes_same("want", "got"), "a FIFO");
    static const char* const lines[] = {"--out @/got -", "--out @/got /dev/stdin", "--out @/got /proc/self/fd/0",
                                        "--out @/got --max-file 15 -- -"};
    for (int i = 0; i < 8; i++) {
        BytesRun run = {lines[i / 2], 0, 0, i % 2 ? "text" : NULL, i % 2 ? NULL : "slow\nslow\nslow\n", NULL};
        char* output = NULL;
        unlink(bytes_path("got"));
        int code = run_child(bytes_run_child, &run, &output);
        CHECK(code == 0 && bytes_same("want", "got"), "%s from %s: %d, %s", run.line, run.input ? "a file" : "a pipe",
              code, output);
        free(output);
    }
    // Files and a pipe in one corpus, split; equal contents are still taken once.
    bytes_put("other", "other\n", 6);
    BytesRun both = {
        "--out-train @/t --out-val @/v --val-share 0.29 @/other - @/text", 0, 0, NULL, "slow\nslow\nslow\n", NULL};
    char* output = NULL;
    int code = run_child(bytes_run_child, &both, &output);
    CHECK(code == 0 && strstr(output, "2 files, 21 bytes") && strstr(output, "1 duplicates"), "%d, %s", code, output);
    free(output);
    // Two pipes: each keeps its own text.
    bytes_slow_writer(bytes_path("fifo"));
    BytesRun two = {"--out @/two - @/fifo", 0, 0, NULL, "another text\n", NULL};
    code = run_child(bytes_run_child, &two, &output);
    while (waitpid(-1, NULL, WNOHANG) > 0) {}
    char* documents = code == 0 ? bytes_documents("two") : format_string("%s", output);
    CHECK(strlen(documents) == 30 && strstr(documents, "another text\n|") && strstr(documents, "slow\nslow\nslow\n|"),
          "%d, '%s'", code, documents);
    free(documents);
    free(output);
    unlink(bytes_path("two"));
    // What is no text, or too much.
    static const struct {
        BytesRun run;
        const char* words;
    } bad[] = {
        {{"--out @/o - -", 0, 0, NULL, "text", NULL}, "- is given twice"},
        {{"--out @/o - /dev/stdin", 0, 0, NULL, "text", NULL}, "/dev/stdin is given twice"},
        {{"--out @/o -", 0, 0, NULL, "", NULL}, "1 are empty"},
        {{"--out @/o --max-file 3 -", 0, 0, NULL, "text", NULL}, "1 larger than --max-file"},
        {{"--out @/o --max-file 14 -", 0, 0, "text", NULL, NULL}, "1 larger than --max-file"},
        {{"--out @/o -", 0, 0, "want", NULL, NULL}, "- has a zero byte|UTF-16|1 binary"},
        {{"--out @/o @/want", 0, 0, NULL, NULL, NULL}, "/want has a zero byte"},
        {{"--out @/o -", 0, 0, ".", NULL, NULL}, "-: expected a text file|found a directory"},
        {{"--out @/text -", 0, 0, "text", NULL, NULL}, "/text|overwrite"},
        {{"--out @/o /dev/zero", 0, 0, NULL, NULL, NULL}, "/dev/zero: expected|found a character device"},
        {{"--out @/o -", 3, 0, NULL, "text", NULL}, "-: its text could not be put into a temporary file|ulimit"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        expect_death(bad[i].run.line, bytes_run_child, (void*)&bad[i].run, bad[i].words);
    }
    char* names = listing(bytes_dir);
    CHECK(strcmp(names, "fifo got other t text v want ") == 0, "%s", names);
    free(names);
    directory_remove_tree(bytes_dir);
}

// A signal ends the program at once while it waits for somebody to write into a FIFO, and leaves nothing behind.
static void test_bytes_signal(void) {
    bytes_dir_make();
    bytes_put("text", "text", 4);
    if (mkfifo(bytes_path("fifo"), 0600) != 0) { die("mkfifo: %s", strerror(errno)); }
    static const char* const lines[] = {"--out @/o @/fifo", "--out-train @/o --out-val @/fifo --val-share 0.5 @/text"};
    static const int numbers[] = {SIGINT, SIGTERM};
    for (int i = 0; i < 2; i++) {
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            test_state.name = NULL;
            signal(numbers[i], SIG_DFL);  // it is ignored in what a shell starts in the background
            BytesRun run = {lines[i], 0, 0, NULL, NULL, NULL};
            bytes_run_child(&run);
            _exit(0);
        }
        if (i == 1) {  // until the first shard is written and the program waits at the second
            char* names = NULL;
            for (int k = 0; k < 500 && !(names && strstr(names, "o.tmp.")); k++) {
                free(names);
                usleep(10000);
                names = listing(bytes_dir);
            }
            CHECK(strstr(names, "o.tmp."), "%s", names);
            free(names);
        }
        usleep(100000);
        kill(pid, numbers[i]);
        int status = 0;
        for (int k = 0; k < 500 && waitpid(pid, &status, WNOHANG) == 0; k++) { usleep(10000); }
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == numbers[i], "%s: status %x", lines[i], (unsigned)status);
        kill(pid, SIGKILL);
        char* names = listing(bytes_dir);
        CHECK(strcmp(names, "fifo text ") == 0, "%s: %s", lines[i], names);
        free(names);
    }
    directory_remove_tree(bytes_dir);
}

static void bytes_drain(const char* from, const char* to) {
    if (fork() != 0) { return; }
    signal(SIGALRM, SIG_DFL);
    alarm(20);  // if nobody ever writes
    StringBuilder sb = {0};
    char chunk[256];
    int fd = open(from, O_RDONLY);
    for (ssize_t n; (n = read(fd, chunk, sizeof chunk)) > 0;) { sb_append(&sb, chunk, (size_t)n); }
    _exit(write_file(to, sb.data, sb.size) != NULL);
}

// Outputs: what is no file is written through or refused, and never replaced; a link stays.
static void test_bytes_outputs(void) {
    bytes_dir_make();
    bytes_put("text", "slow\nslow\nslow\n", 15);
    bytes_put("real/file", "old", 3);
    bytes_expect_success("--out @/want @/text", "1 files, 15 bytes");
    struct stat info;
    if (symlink("real/file", bytes_path("link")) != 0 || symlink("../link", bytes_path("real/link2")) != 0 ||
        symlink("real/new", bytes_path("dangling")) != 0 || symlink("circle", bytes_path("circle")) != 0 ||
        mkfifo(bytes_path("fifo"), 0600) != 0 || chmod(bytes_path("real/file"), 0640) != 0) {
        die("%s: %s", bytes_dir, strerror(errno));
    }
    bytes_expect_success("--out @/real/link2 @/text", "link2: 1 files, 16 tokens");
    CHECK(lstat(bytes_path("link"), &info) == 0 && S_ISLNK(info.st_mode), "the link is gone");
    CHECK(bytes_same("real/file", "want"), "the link's target");
    CHECK(stat(bytes_path("real/file"), &info) == 0 && (info.st_mode & 0777) == 0640, "its mode: %o",
          (unsigned)info.st_mode);
    bytes_expect_success("--out @/dangling @/text", "dangling: 1 files");
    CHECK(lstat(bytes_path("dangling"), &info) == 0 && S_ISLNK(info.st_mode) && bytes_same("real/new", "want"),
          "a link to what is not yet there");
    bytes_expect_death("--out @/circle @/text", "/circle: could not be");
    // A FIFO gets the shard, and stays.
    bytes_drain(bytes_path("fifo"), bytes_path("got"));
    bytes_expect_success("--out @/fifo @/text", "fifo: 1 files");
    int status = 0;
    while (wait(&status) > 0) {}
    CHECK(bytes_same("got", "want") && stat(bytes_path("fifo"), &info) == 0 && S_ISFIFO(info.st_mode), "a FIFO");
    // So does a device.
    if (test_device(bytes_path("null"), 3) && test_device(bytes_path("full"), 7)) {
        bytes_expect_success("--out-train @/t --out-val @/null @/text", "null: 1 files");
        CHECK(stat(bytes_path("null"), &info) == 0 && S_ISCHR(info.st_mode), "the device is gone");
        bytes_expect_death("--out @/full @/text", "/full: could not be written|No space left");
        BytesRun more = {"--out @/null @/text", 0, 10, NULL, NULL, NULL};
        expect_death("a device", bytes_run_child, &more, "/null: 16 tokens|10|character device|--max-bytes");
    }
    unlink(bytes_path("t"));
    unlink(bytes_path("null"));
    unlink(bytes_path("full"));
    // Standard output takes the shard, and standard error what there is to say.
    static const char* const lines[] = {"--out - @/text", "--out /dev/stdout @/text", "--out @/got @/text"};
    for (int i = 0; i < 3; i++) {
        BytesRun run = {lines[i], 0, 0, NULL, NULL, "got"};
        char* output = NULL;
        struct stat now;
        CHECK(stat(bytes_path("got"), &info) == 0, "stat");
        int code = run_child(bytes_run_child, &run, &output);
        CHECK(code == 0 && strstr(output, "corpus: 1 files") && bytes_same("got", "want"), "%s: %d, %s", lines[i], code,
              output);
        CHECK(stat(bytes_path("got"), &now) == 0 && info.st_ino == now.st_ino, "%s: what was open is not what it is",
              lines[i]);
        free(output);
    }
    char *names = listing(bytes_dir), *inside = listing(bytes_path("real"));
    CHECK(strcmp(names, "circle dangling fifo got link real text want ") == 0 && strcmp(inside, "file link2 new ") == 0,
          "%s / %s", names, inside);
    free(names);
    free(inside);
    directory_remove_tree(bytes_dir);
}

// More tokens than the header of a shard can count go on in others.
static void test_bytes_large(void) {
    bytes_dir_make();
    StringBuilder sb = {0};
    for (int i = 0; i < 100; i++) { sb_printf(&sb, "line %d of a text\n", i); }
    bytes_put("text", sb.data, sb.size);
    bytes_put("small", "small\n", 6);
    BytesRun run = {"--out @/x.bin @/text @/small", 0, 1000, NULL, NULL, NULL};
    char* output = NULL;
    int code = run_child(bytes_run_child, &run, &output);
    CHECK(code == 0 && strstr(output, "x.bin: 2 files, 1798 tokens\n") && strstr(output, "x.bin: tokens 0 to 898\n") &&
              strstr(output, "x_00001.bin: tokens 899 to 1797\n"),
          "%d, %s", code, output);
    free(output);
    bytes_expect_success("--out @/y.bin @/text @/small", "y.bin: 2 files, 1798 tokens");
    char *all = bytes_documents("y.bin"), *joined = (char*)xalloc(1, 1800, "tokens");
    for (int k = 0; k < 2; k++) {
        size_t size = 0;
        char* file = read_fully(bytes_path(k ? "x_00001.bin" : "x.bin"), &size);
        CHECK(size == SHARD_HEADER_BYTES + 2 * 899, "shard %d has %zu bytes", k, size);
        for (size_t i = 0; i < 899 && size == SHARD_HEADER_BYTES + 2 * 899; i++) {
            joined[899 * (size_t)k + i] = file[SHARD_HEADER_BYTES + 2 * i + 1] ? '|' : file[SHARD_HEADER_BYTES + 2 * i];
        }
        free(file);
    }
    CHECK(strcmp(all, joined) == 0, "'%s', expected '%s'", joined, all);
    free(all);
    free(joined);
    // One that is left from then would be found by a pattern.
    bytes_expect_success("--out @/x.bin @/small", "warning: @/x_00001.bin is left from a larger corpus|x*.bin");
    free(sb.data);
    directory_remove_tree(bytes_dir);
}

static void bytes_tests(void) {
    RUN(test_bytes_corpus);
    RUN(test_bytes_split);
    RUN(test_bytes_cut);
    RUN(test_bytes_streams);
    RUN(test_bytes_signal);
    RUN(test_bytes_outputs);
    RUN(test_bytes_large);
    RUN(test_bytes_compiler);
    RUN(test_bytes_bad);
    RUN(test_bytes_full_disk);
}

#endif
