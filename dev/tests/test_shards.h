// test_shards.h - tests of common/files/shards.h: rows, streams, and every kind of broken shard.
#ifndef PONDER_TEST_SHARDS_H
#define PONDER_TEST_SHARDS_H

#include "../../common/files/shards.h"
#include "test.h"

// ---- a directory of files that goes away again ----

static char* shards_dir;

static inline void shards_dir_make(void) {
    free(shards_dir);  // of the test before
    shards_dir = test_directory("shards");
}

// Removes the directory and the files in it.
static inline void shards_dir_remove(void) {
    char* all = format_string("%s/*", shards_dir);
    glob_t found;
    memset(&found, 0, sizeof found);
    if (glob(all, 0, NULL, &found) == 0) {
        for (size_t i = 0; i < found.gl_pathc; i++) {
            if (unlink(found.gl_pathv[i]) != 0) { rmdir(found.gl_pathv[i]); }
        }
        globfree(&found);
    }
    free(all);
    CHECK(rmdir(shards_dir) == 0, "%s is left behind: %s", shards_dir, strerror(errno));
}

static char shards_path_buffer[1024];
static inline const char* shards_path(const char* name) {
    snprintf(shards_path_buffer, sizeof shards_path_buffer, "%s/%s", shards_dir, name);
    return shards_path_buffer;
}

static inline void shards_write_file(const char* name, const void* bytes, size_t n) {
    write_bytes(shards_path(name), bytes, n);
}

// Writes a shard of n tokens base, base+1, ... with the header built here by hand, not by the code under test.
static inline void shards_write(const char* name, int width, int n, unsigned base) {
    size_t size = 1024 + (size_t)n * (size_t)width;
    unsigned char* bytes = (unsigned char*)xalloc(size, 1, "a test shard");
    static const unsigned char magic16[12] = {0x88, 0xd8, 0x34, 0x01, 1, 0, 0, 0, 0, 0, 0, 0};  // 0x0134d888
    static const unsigned char magic32[12] = {0xa1, 0xd9, 0x34, 0x01, 7, 0, 0, 0, 0, 0, 0, 0};  // 0x0134d9a1
    memcpy(bytes, width == 2 ? magic16 : magic32, 12);
    for (int b = 0; b < 4; b++) { bytes[8 + b] = (unsigned char)(n >> 8 * b); }
    for (int i = 0; i < n; i++) {
        unsigned token = base + (unsigned)i;
        for (int b = 0; b < width; b++) { bytes[1024 + i * width + b] = (unsigned char)(token >> 8 * b); }
    }
    shards_write_file(name, bytes, size);
    free(bytes);
}

typedef struct {
    const char* glob;
    int T, V;
    long long row;  // to read after opening; -1: none
} ShardsCase;

static void shards_case_run(void* argument) {
    const ShardsCase* c = (const ShardsCase*)argument;
    Shards* shards = shards_open(c->glob, c->T, c->V);
    int tokens[2][64];
    if (c->row >= 0) { shards_row(shards, (uint64_t)c->row, tokens[0], tokens[1]); }
    shards_close(shards);
}

static void shards_expect_death(const char* what, const char* name, int T, int V, long long row, const char* words) {
    char* glob = format_string("%s/%s", shards_dir, name);
    ShardsCase c = {glob, T, V, row};
    expect_death(what, shards_case_run, &c, words);
    free(glob);
}

// ---- tests ----

static void test_shards_rows(void) {
    shards_dir_make();
    // Found out of order, of both widths, one too short for a row in the middle.
    shards_write("b.bin", 4, 23, 100000);  // T 7: rows at 0, 7, 14; last row needs tokens 14..21; tail 1
    shards_write("a.bin", 2, 15, 0);       // rows at 0, 7; tail 0
    shards_write("aa.bin", 2, 7, 500);     // no row, 7 tokens left out
    shards_write("c.bin", 2, 8, 65000);    // one row, tail 0
    shards_write_file("notes.txt", "no shard", 8);
    enum { T = 7 };
    Shards* shards = shards_open(shards_path("*.bin"), T, 200000);
    CHECK(shards->files == 4 && shards->rows == 6 && shards->tokens == 53 && shards->tail_tokens == 8,
          "files %d rows %llu tokens %llu tail %llu", shards->files, (unsigned long long)shards->rows,
          (unsigned long long)shards->tokens, (unsigned long long)shards->tail_tokens);
    static const int first[6] = {0, 7, 100000, 100007, 100014, 65000};
    static const int order[6] = {5, 0, 3, 1, 4, 2};
    for (int k = 0; k < 6; k++) {
        int row = order[k], inputs[T + 1], targets[T + 1];
        for (int t = 0; t <= T; t++) { inputs[t] = targets[t] = -77; }
        shards_row(shards, (uint64_t)row, inputs, targets);
        for (int t = 0; t < T; t++) {
            CHECK(inputs[t] == first[row] + t && targets[t] == first[row] + t + 1, "row %d t %d: %d -> %d", row, t,
                  inputs[t], targets[t]);
        }
        CHECK(inputs[T] == -77 && targets[T] == -77, "row %d wrote past its end", row);
    }
    shards_close(shards);
    // The largest vocabulary that fits just so; T = 1; a whole shard as one row.
    shards = shards_open(shards_path("c.bin"), 1, 65008);
    CHECK(shards->rows == 7 && shards->tail_tokens == 0, "T 1: %llu rows", (unsigned long long)shards->rows);
    int in = 0, out = 0;
    shards_row(shards, 6, &in, &out);
    CHECK(in == 65006 && out == 65007, "last row: %d -> %d", in, out);
    shards_close(shards);
    shards_dir_remove();
}

static void test_shards_patterns(void) {
    shards_dir_make();
    shards_write("a_1.bin", 2, 10, 0);
    shards_write("a_2.bin", 2, 10, 0);
    shards_write("b,[1].bin", 2, 10, 0);
    shards_write("c}.bin", 2, 10, 0);
    char* inside = format_string("%s/inside", shards_dir);
    if (mkdir(inside, 0777) != 0) { die("%s: %s", inside, strerror(errno)); }
    static const struct {
        const char* pattern;
        int files;
    } cases[] = {
        {"%s/a_*.bin", 2},           {"%s/a_1.bin,%s/a_2.bin", 2},
        {"%s/a_2.bin,%s/*.bin,", 4},  // found twice, read once
        {"%s/b,[1].bin", 1},          // a file of that very name
        {"%s/*/../a_[2-9].bin", 1},
#ifdef GLOB_BRACE
        {"%s/{a_1,a_2}.bin", 2},     {"%s/c}.bin,%s/{a_1,a_2}.bin", 3},  // a brace that closes none
#endif
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        StringBuilder sb = {0};
        for (const char* p = cases[i].pattern; *p; p++) {
            if (p[0] == '%') {
                sb_append(&sb, shards_dir, strlen(shards_dir));
                p++;
            } else {
                sb_append(&sb, p, 1);
            }
        }
        Shards* shards = shards_open(sb.data, 3, 50);
        CHECK(shards->files == cases[i].files, "%s: %d files", cases[i].pattern, shards->files);
        for (int f = 1; f < shards->files; f++) {
            CHECK(strcmp(shards->list[f - 1].path, shards->list[f].path) < 0, "%s: order", cases[i].pattern);
        }
        shards_close(shards);
        free(sb.data);
    }
    shards_dir_remove();
}

static void test_shards_stream(void) {
    shards_dir_make();
    shards_write("a.bin", 2, 101, 0);
    Shards* shards = shards_open(shards_path("a.bin"), 3, 200);
    uint64_t rows = shards->rows;
    CHECK(rows == 33, "rows %llu", (unsigned long long)rows);
    uint64_t differ = 0;
    for (int epoch = 0; epoch < 3; epoch++) {
        int seen[33] = {0};
        for (uint64_t i = 0; i < rows; i++) {
            uint64_t position = (uint64_t)epoch * rows + i;
            CHECK(shards_stream_row(shards, position, 0, 42) == i, "in order");
            uint64_t row = shards_stream_row(shards, position, 1, 42);
            if (row < rows) { seen[row]++; }
            differ += row != shards_stream_row(shards, position, 1, 43);
            differ += row != shards_stream_row(shards, position + rows, 1, 42);
        }
        for (uint64_t i = 0; i < rows; i++) {
            CHECK(seen[i] == 1, "epoch %d row %d seen %d times", epoch, (int)i, seen[i]);
        }
    }
    CHECK(differ > 6 * rows - 25, "orders differ at %llu of %llu places only", (unsigned long long)differ,
          (unsigned long long)(6 * rows));
    shards_close(shards);
    shards_dir_remove();
}

// More files than are kept open, read in an order that closes and opens them again.
static void test_shards_many(void) {
    enum { FILES = SHARDS_MAX_OPEN + 37 };
    shards_dir_make();
    for (int i = 0; i < FILES; i++) {
        char name[32];
        snprintf(name, sizeof name, "s%03d.bin", i);
        shards_write(name, 2 + 2 * (i % 2), 3, (unsigned)(10 * i));
    }
    int lowest = dup(0), after;
    if (lowest >= 0) { close(lowest); }
    Shards* shards = shards_open(shards_path("s*.bin"), 2, 10 * FILES);
    CHECK(shards->files == FILES && shards->rows == FILES, "%d files", shards->files);
    for (uint64_t position = 0; position < 3 * FILES; position++) {
        int row = (int)shards_stream_row(shards, position, 1, 5), inputs[2], targets[2];
        shards_row(shards, (uint64_t)row, inputs, targets);
        CHECK(inputs[0] == 10 * row && targets[1] == 10 * row + 2, "row %d: %d", row, inputs[0]);
    }
    int open_files = 0;
    for (int i = 0; i < FILES; i++) { open_files += shards->list[i].fd >= 0; }
    CHECK(open_files == SHARDS_MAX_OPEN, "%d files open", open_files);
    shards_close(shards);
    if ((after = dup(0)) >= 0) { close(after); }
    CHECK(after == lowest, "files are open that nobody knows: descriptor %d is the first that is free, before %d",
          after, lowest);
    shards_dir_remove();
}

static uint64_t shards_hash_of(const char* name) {
    Shards* shards = shards_open(shards_path(name), 2, 1 << 20);
    uint64_t hash = shards->hash;
    shards_close(shards);
    return hash;
}

static void test_shards_hash(void) {
    shards_dir_make();
    shards_write("a.bin", 2, 50, 0);
    shards_write("b.bin", 2, 50, 0);
    uint64_t a = shards_hash_of("a.bin"), both = shards_hash_of("*.bin");
    CHECK(a == shards_hash_of("a.bin"), "twice the same");
    CHECK(a != shards_hash_of("b.bin"), "name");
    CHECK(a != both, "list");
    shards_write("a.bin", 2, 50, 1);
    CHECK(a != shards_hash_of("a.bin"), "contents");
    shards_write("a.bin", 2, 49, 0);
    CHECK(a != shards_hash_of("a.bin"), "length");
    shards_write("a.bin", 4, 50, 0);
    CHECK(a != shards_hash_of("a.bin"), "width");
    shards_write("a.bin", 2, 50, 0);
    CHECK(a == shards_hash_of("a.bin"), "back again");
    // A large file is sampled, its first and its last bytes included.
    shards_write("a.bin", 4, 2500000, 0);
    uint64_t large = shards_hash_of("a.bin");
    static const long places[] = {-1, 1024};
    for (int i = 0; i < 2; i++) {
        FILE* file = fopen(shards_path("a.bin"), "r+b");
        CHECK(file != NULL, "open");
        if (file == NULL) { break; }
        fseek(file, places[i], places[i] < 0 ? SEEK_END : SEEK_SET);
        int byte = fgetc(file);
        fseek(file, places[i], places[i] < 0 ? SEEK_END : SEEK_SET);
        fputc(byte ^ 1, file);
        fclose(file);
        CHECK(large != shards_hash_of("a.bin"), "a changed byte at %ld", places[i]);
    }
    shards_dir_remove();
}

// Opens, lets the file shrink, reads its last row.
static void shards_shrink_run(void* argument) {
    Shards* shards = shards_open((const char*)argument, 3, 200);
    int inputs[3], targets[3];
    shards_row(shards, 0, inputs, targets);
    if (truncate((const char*)argument, 1024 + 2 * 20) != 0) { die("truncate: %s", strerror(errno)); }
    shards_row(shards, 5, inputs, targets);
    shards_row(shards, shards->rows - 1, inputs, targets);
}

static void shards_row_beyond(void* argument) {
    Shards* shards = shards_open((const char*)argument, 3, 200);
    int inputs[3], targets[3];
    shards_row(shards, shards->rows, inputs, targets);
}

static void test_shards_bad(void) {
    shards_dir_make();
    shards_write("good.bin", 2, 40, 0);
    shards_expect_death("missing", "missing.bin", 4, 50, -1, "no shard found|missing.bin|make data");
    shards_expect_death("no match", "*.tokens", 4, 50, -1, "no shard found|*.tokens");
    shards_expect_death("one of two patterns missing", "good.bin,/nowhere/*.bin", 4, 50, -1,
                        "no shard found|/nowhere/*.bin");
    ShardsCase none = {",", 4, 50, -1};
    expect_death("nothing", shards_case_run, &none, "no shard found");
    ShardsCase directory = {shards_dir, 4, 50, -1};
    expect_death("directory", shards_case_run, &directory, "directory|/*.bin");

    shards_write_file("bad.bin", "", 0);
    shards_expect_death("empty", "bad.bin", 4, 50, -1, "bad.bin|empty");
    shards_write_file("bad.bin", "ab", 2);
    shards_expect_death("two bytes", "bad.bin", 4, 50, -1, "bad.bin|looks like text");
    static const char text[] = "#include <stdio.h>\n\tint main(void);\r\n";
    shards_write_file("bad.bin", text, sizeof text - 1);
    shards_expect_death("text", "bad.bin", 4, 50, -1,
                        "bad.bin|20240520|20240801|1668180259|looks like text|build/bytes");

    unsigned char header[1024 + 64];
    memset(header, 0, sizeof header);
    shards_write_file("bad.bin", header, sizeof header);
    shards_expect_death("zeros", "bad.bin", 4, 50, -1, "bad.bin|found 0|no shard");
    static const unsigned char swapped[4] = {0x01, 0x34, 0xd8, 0x88};
    memcpy(header, swapped, 4);
    shards_write_file("bad.bin", header, sizeof header);
    shards_expect_death("big-endian", "bad.bin", 4, 50, -1, "bad.bin|big-endian");

    shard_header(header, 2, 32);
    shards_write_file("bad.bin", header, 1000);
    shards_expect_death("shorter than the header", "bad.bin", 4, 50, -1, "bad.bin|1024|1000");
    shards_write_file("bad.bin", header, sizeof header - 1);
    shards_expect_death("one byte short", "bad.bin", 4, 50, -1, "bad.bin|32 tokens|1088|1087|cut off");
    shards_write_file("bad.bin", header, sizeof header);
    ShardsCase c = {shards_path("bad.bin"), 4, 50, 0};
    shards_case_run(&c);  // as it stands it is sound
    shard_header(header, 2, 31);
    shards_write_file("bad.bin", header, sizeof header);
    shards_expect_death("too long", "bad.bin", 4, 50, -1, "bad.bin|31 tokens|1086|1088|damaged");
    shard_header(header, 4, 32);
    shards_write_file("bad.bin", header, sizeof header);
    shards_expect_death("other width", "bad.bin", 4, 50, -1, "bad.bin|32 tokens|1152|1088");
    shard_header(header, 2, 0);
    shards_write_file("bad.bin", header, 1024);
    shards_expect_death("no tokens", "bad.bin", 4, 50, -1, "bad.bin|found 0");
    shard_header(header, 2, 0xffffffff);
    shards_write_file("bad.bin", header, sizeof header);
    shards_expect_death("negative count", "bad.bin", 4, 50, -1, "bad.bin|found -1");
    shard_header(header, 2, 0x7fffffff);
    shards_write_file("bad.bin", header, sizeof header);
    shards_expect_death("absurd count", "bad.bin", 4, 50, -1, "bad.bin|2147483647 tokens|4294968318|1088");
    shard_header(header, 2, 32);
    header[4] = 2;
    shards_write_file("bad.bin", header, sizeof header);
    shards_expect_death("version", "bad.bin", 4, 50, -1, "bad.bin|expected version 1|20240520|found version 2");
    shards_expect_death("one bad among good", "*.bin", 4, 50, -1, "bad.bin|version");
    if (unlink(shards_path("bad.bin")) != 0) { die("unlink: %s", strerror(errno)); }

    shards_expect_death("no whole row", "good.bin", 40, 50, -1, "good.bin|rows of 40 need 41 tokens|has 40|--seq");
    shards_write("hood.bin", 2, 45, 0);  // of several the one that comes nearest is named
    shards_expect_death("no whole row in two", "?ood.bin", 50, 50, -1, "the largest of 2, |hood.bin, has 45");
    if (unlink(shards_path("hood.bin")) != 0) { die("unlink: %s", strerror(errno)); }
    ShardsCase fits = {shards_path("good.bin"), 39, 40, 0};
    shards_case_run(&fits);
    shards_expect_death("token outside", "good.bin", 3, 39, 12, "good.bin|token 39|position 39|vocabulary of 39");
    ShardsCase early = {shards_path("good.bin"), 3, 39, 11};  // an error when it is read, not before
    shards_case_run(&early);
    shards_write("wide.bin", 4, 10, 0xfffffff8u);  // 4294967295 must not become -1
    shards_expect_death("token above int", "wide.bin", 3, 2147483647, 0, "wide.bin|token 4294967288|position 0");
    expect_death("a row beyond the last", shards_row_beyond, (void*)shards_path("good.bin"), "row 13 of 13");
    expect_death("shrinks while it is read", shards_shrink_run, (void*)shards_path("good.bin"),
                 "good.bin|expected 1104 bytes|found 1064|shorter");
    shards_dir_remove();
}

static void shards_tests(void) {
    RUN(test_shards_rows);
    RUN(test_shards_patterns);
    RUN(test_shards_stream);
    RUN(test_shards_many);
    RUN(test_shards_hash);
    RUN(test_shards_bad);
}

#endif
