// test_bytes.h - tests of data/bytes.c: what it takes, what it drops, how it splits, how it fails.
#ifndef PONDER_TEST_BYTES_H
#define PONDER_TEST_BYTES_H

#include "../../data/bytes.c"
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
    FILE* file = error ? NULL : fopen(bytes_path(name), "wb");
    if (file == NULL || fwrite(text, 1, size, file) != size || fclose(file) != 0) {
        die("%s: %s", name, strerror(errno));
    }
    free(parent);
}

// Runs the program with the words of `line`, where @ stands for the test's directory; the limit on
// the size of files is `limit` (0: as it is). Returns the exit code; the caller frees *output.
typedef struct {
    const char* line;
    rlim_t limit;
} BytesRun;

static void bytes_run_child(void* argument) {
    const BytesRun* run = (const BytesRun*)argument;
    if (run->limit) {
        struct rlimit limit = {run->limit, run->limit};
        setrlimit(RLIMIT_FSIZE, &limit);
    }
    StringBuilder sb = {0};
    for (const char* p = run->line; *p; p++) {
        if (*p == '@') {
            sb_append(&sb, bytes_dir, strlen(bytes_dir));
        } else {
            sb_append(&sb, p, 1);
        }
    }
    char* argv[64] = {(char*)"bytes"};
    int argc = 1;
    for (char* word = strtok(sb.data, " "); word && argc < 63; word = strtok(NULL, " ")) { argv[argc++] = word; }
    int code = bytes_main(argc, argv);
    free(sb.data);
    if (code != 0) { exit(code); }
}

static int bytes_run(const char* line, rlim_t limit, char** output) {
    BytesRun run = {line, limit};
    return run_child(bytes_run_child, &run, output);
}

static void bytes_expect_success(const char* line, const char* words) {
    char* output = NULL;
    int code = bytes_run(line, 0, &output);
    CHECK(code == 0, "%s: exit code %d: %s", line, code, output);
    char* list = format_string("%s", words);
    for (char* word = strtok(list, "|"); word; word = strtok(NULL, "|")) {
        CHECK(strstr(output, word) != NULL, "%s: no '%s' in: %s", line, word, output);
    }
    free(list);
    free(output);
}

static void bytes_expect_death(const char* line, const char* words) {
    BytesRun run = {line, 0};
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
    int large = 0;
    char *x = read_text(bytes_path(a), 0, &m, &large), *y = read_text(bytes_path(b), 0, &n, &large);
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
    // However large the share, training keeps a file, and validation gets one.
    bytes_expect_success("--out-train @/c.train --out-val @/c.val --val-share 0.999 @/a", "c.train: 1 files");
    bytes_expect_success("--out-train @/c.train --out-val @/c.val --val-share 0.001 @/a", "c.val: 1 files");
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
    if (mkdir(bytes_path("hollow"), 0700) != 0) { die("mkdir: %s", strerror(errno)); }
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
        {"--out-train @/o --out-val @/p @/in", "split by file|/in/|--out"},
        {"--out @/hollow @/in", "/hollow|found a directory"},
        {"--out @/in/a.txt/o @/in", "/in/a.txt"},
        {"--out @/in/a.txt @/in/a.txt", "/in/a.txt|overwrite"},
        {"--out-train @/o --out-val @/in/b.txt @/in", "/in/b.txt|overwrite"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) { bytes_expect_death(cases[i][0], cases[i][1]); }
    CHECK(!bytes_exists("o") && !bytes_exists("p"), "an error left a shard");
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

static void bytes_tests(void) {
    RUN(test_bytes_corpus);
    RUN(test_bytes_split);
    RUN(test_bytes_compiler);
    RUN(test_bytes_bad);
    RUN(test_bytes_full_disk);
}

#endif
