// test_safetensors.h - tests of common/files/safetensors.h: round trips, narrow dtypes, every kind of broken file.
#ifndef PONDER_TEST_SAFETENSORS_H
#define PONDER_TEST_SAFETENSORS_H

#include "../../common/files/safetensors.h"
#include "test.h"

#include <float.h>

// A fresh directory; files_done removes it with the files in it (one level).
static char* files_begin(void) { return test_directory("files"); }

static char* files_join(const char* directory, const char* name) { return format_string("%s/%s", directory, name); }

// The file's bytes, malloc'd; size = 0 and NULL if it is not there.
static char* files_read(const char* path, size_t* size) {
    *size = 0;
    FILE* f = fopen(path, "rb");
    if (!f) { return NULL; }
    struct stat info;
    fstat(fileno(f), &info);
    char* bytes = (char*)malloc((size_t)info.st_size + 1);
    *size = fread(bytes, 1, (size_t)info.st_size, f);
    fclose(f);
    return bytes;
}

// A safetensors file from parts: the header's length as given, header, data.
static void files_craft(const char* path, uint64_t length, const char* header, const void* data, size_t data_size) {
    StringBuilder sb = {0};
    sb_append(&sb, (const char*)&length, 8);
    sb_append(&sb, header, strlen(header));
    sb_append(&sb, (const char*)data, data_size);
    write_bytes(path, sb.data, sb.size);
    free(sb.data);
}

// Opens a file and reads every tensor that can be read.
static void safetensors_read_child(void* argument) {
    SafeFile* file = safetensors_open((const char*)argument);
    for (int i = 0; i < file->count; i++) {
        float* out = (float*)xalloc(file->tensors[i].count, sizeof(float), "a test");
        safetensors_read(file, &file->tensors[i], out);
        free(out);
    }
    safetensors_close(file);
}

static void test_safetensors_round_trip(void) {
    char* directory = files_begin();
    char* path = files_join(directory, "a.safetensors");
    // Bit patterns that a conversion would disturb: -0, subnormals, infinities, NaN with a payload.
    uint32_t bits[35];
    for (uint32_t i = 0; i < 35; i++) { bits[i] = i * 2654435761u; }
    bits[0] = 0x80000000, bits[1] = 1, bits[2] = 0x807fffff, bits[3] = 0x7f800000, bits[4] = 0xff800000,
    bits[5] = 0x7fc12345;
    const float* data = (const float*)(const void*)bits;
    SafeWrite rows[] = {{"z.weight", 2, {7, 5}, data},
                        {"a \"quoted\" \xc3\xa9", 1, {3}, data + 2},
                        {"scalar", 0, {0}, data + 9},
                        {"empty", 2, {0, 4}, data},
                        {"cube", 3, {3, 1, 5}, data + 7}};
    safetensors_write(path, rows, 5, "{\"format\":\"pt\"}");
    SafeFile* file = safetensors_open(path);
    CHECK(file->count == 5 && file->data_start % 8 == 0, "count %d, data at %llu", file->count,
          (unsigned long long)file->data_start);
    CHECK(!strcmp(json_get_string(file->metadata, "format", "", path), "pt"), "metadata");
    CHECK(safetensors_find(file, "absent") == NULL && safetensors_find(file, "__metadata__") == NULL, "absent");
    for (int i = 0; i < 5; i++) {
        const SafeTensor* t = safetensors_find(file, rows[i].name);
        CHECK(t != NULL, "%s is missing", rows[i].name);
        if (!t) { continue; }
        size_t count = 1;
        for (int d = 0; d < rows[i].ndim; d++) { count *= rows[i].shape[d]; }
        CHECK(t->ndim == rows[i].ndim && t->count == count && t->dtype == ST_F32, "%s: ndim %d count %zu", t->name,
              t->ndim, t->count);
        CHECK(t->end - t->begin == 4 * count, "%s: bytes", t->name);
        CHECK(memcmp(t->shape, rows[i].shape, (size_t)t->ndim * sizeof(size_t)) == 0, "%s: shape", t->name);
        float out[40];
        memset(out, 0xff, sizeof out);
        safetensors_read(file, t, out);
        CHECK(memcmp(out, rows[i].data, 4 * count) == 0, "%s: numbers", t->name);
        uint32_t after;
        memcpy(&after, out + count, 4);
        CHECK(after == 0xffffffff, "%s: wrote past its end", t->name);
    }
    safetensors_close(file);
    safetensors_write(path, NULL, 0, NULL);  // nothing at all is a file too, and a longer one is replaced
    file = safetensors_open(path);
    CHECK(file->count == 0 && file->metadata == NULL, "count %d", file->count);
    safetensors_close(file);
    unlink(path);
    CHECK(rmdir(directory) == 0, "left behind in %s", directory);
    free(path);
    free(directory);
}

// All 65,536 numbers of both 16-bit formats, through a file of two chunks that differ.
static void test_safetensors_halves(void) {
    char* directory = files_begin();
    char* path = files_join(directory, "a.safetensors");
    size_t count = 65536 * 9 + 77;  // two chunks, the second odd
    uint16_t* data = (uint16_t*)xalloc(count, 2, "a test");
    float* out = (float*)xalloc(count, sizeof(float), "a test");
    for (size_t i = 0; i < count; i++) { data[i] = (uint16_t)(i * 7 + (i >> 16)); }
    for (int kind = 0; kind < 2; kind++) {
        char* header = format_string("{\"h\":{\"dtype\":\"%s\",\"shape\":[%zu],\"data_offsets\":[0,%zu]}}",
                                     kind ? "BF16" : "F16", count, 2 * count);
        files_craft(path, strlen(header), header, data, 2 * count);
        memset(out, 0xff, count * sizeof(float));
        SafeFile* file = safetensors_open(path);
        CHECK(file->tensors[0].dtype == (kind ? ST_BF16 : ST_F16), "dtype %d", file->tensors[0].dtype);
        safetensors_read(file, &file->tensors[0], out);
        safetensors_close(file);
        int exponent_bits = kind ? 8 : 5, fraction_bits = 15 - exponent_bits, bias = kind ? 127 : 15, wrong = 0;
        for (size_t i = 0; i < count; i++) {
            int h = data[i], negative = h >> 15, top = (1 << exponent_bits) - 1;
            int exponent = h >> fraction_bits & top, fraction = h & ((1 << fraction_bits) - 1);
            uint32_t got;
            memcpy(&got, &out[i], 4);
            int right = (int)(got >> 31) == negative;
            if (exponent == top && fraction) {
                right = right && out[i] != out[i] && (got & 0x7fffff) == (uint32_t)fraction << (23 - fraction_bits);
            } else {
                double want = exponent == top ? INFINITY
                              : exponent      ? ldexp((1 << fraction_bits) + fraction, exponent - bias - fraction_bits)
                                              : ldexp(fraction, 1 - bias - fraction_bits);
                right = right && (double)out[i] == (negative ? -want : want);
            }
            if (!right && !wrong++) { CHECK(0, "kind %d: 0x%04x became %.9g", kind, h, (double)out[i]); }
        }
        CHECK(wrong == 0, "kind %d: %d wrong", kind, wrong);
        free(header);
    }
    free(data);
    free(out);
    unlink(path);
    CHECK(rmdir(directory) == 0, "left behind in %s", directory);
    free(path);
    free(directory);
}

// A file as Python's safetensors 0.8.0 wrote it (numpy, four dtypes, tensors not in the order of
// their names), byte for byte.
static void test_safetensors_python_file(void) {
    const char* header =
        "{\"__metadata__\":{\"format\":\"pt\"},\"ids\":{\"dtype\":\"I64\",\"shape\":[3],\"data_offsets\":[0,24]},"
        "\"s\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[24,32]},\"w\":{\"dtype\":\"F32\",\"shape\":[1,3],"
        "\"data_offsets\":[32,44]},\"h\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[44,48]}}  ";
    const char data[] = "\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\xf4\xbf\0\0\xc0\x3f\0\0\0\xc0"
                        "\xcd\xcc\xcc\x3d\x55\x35\xff\xfb";
    char* directory = files_begin();
    char* path = files_join(directory, "a.safetensors");
    files_craft(path, 256, header, data, 48);
    SafeFile* file = safetensors_open(path);
    float w[3] = {NAN, NAN, NAN}, h[2] = {NAN, NAN}, s = NAN;
    CHECK(file->count == 4, "count %d", file->count);
    safetensors_read(file, safetensors_find(file, "w"), w);
    safetensors_read(file, safetensors_find(file, "h"), h);
    safetensors_read(file, safetensors_find(file, "s"), &s);
    CHECK(w[0] == 1.5f && w[1] == -2.0f && w[2] == 0.1f, "w %g %g %g", (double)w[0], (double)w[1], (double)w[2]);
    CHECK(h[0] == 0.333251953125f && h[1] == -65504.0f, "h %g %g", (double)h[0], (double)h[1]);
    CHECK(s == -1.25f, "s %g", (double)s);
    CHECK(safetensors_find(file, "ids")->dtype == ST_OTHER, "ids");
    CHECK(safetensors_find(file, "s")->ndim == 0 && safetensors_find(file, "s")->count == 1, "a scalar");
    safetensors_close(file);
    expect_death("I64", safetensors_read_child, path,
                 "a.safetensors: tensor ids has dtype I64 where F32, F16 or BF16 is expected");
    unlink(path);
    CHECK(rmdir(directory) == 0, "left behind in %s", directory);
    free(path);
    free(directory);
}

#define ST_ENTRY(shape, begin, end) "{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"

static void test_safetensors_rejects(void) {
    const struct {
        const char* header;
        size_t data;
        const char* words;
    } cases[] = {
        // Offsets.
        {"{\"a\":" ST_ENTRY("[2]", "0", "8") ",\"b\":" ST_ENTRY("[2]", "4", "12") "}", 12,
         "tensor b: data_offsets begin at 4, expected 8|belong to two tensors, the other is a"},
        {"{\"a\":" ST_ENTRY("[2]", "0", "8") ",\"b\":" ST_ENTRY("[2]", "0", "8") "}", 8,
         "tensor b|belong to two tensors"},
        {"{\"b\":" ST_ENTRY("[2]", "12", "20") ",\"a\":" ST_ENTRY("[2]", "0", "8") "}", 20,
         "tensor b: data_offsets begin at 12, expected 8|belong to no tensor"},
        {"{\"a\":" ST_ENTRY("[2]", "4", "12") "}", 12, "tensor a: data_offsets begin at 4, expected 0"},
        {"{\"a\":" ST_ENTRY("[2]", "0", "8") "}", 12, "the tensors take 8 bytes of data, the file has 12"},
        {"{}", 4, "the tensors take 0 bytes of data, the file has 4"},
        {"{\"a\":" ST_ENTRY("[2]", "0", "8") "}", 4,
         "tensor a: data_offsets [0,8] do not lie within the 4 bytes of data"},
        {"{\"a\":" ST_ENTRY("[2]", "8", "0") "}", 8, "tensor a: data_offsets [8,0] do not lie within"},
        {"{\"a\":" ST_ENTRY("[2]", "-8", "0") "}", 8, "tensor a: expected whole numbers in its data_offsets, found -8"},
        {"{\"a\":" ST_ENTRY("[2]", "0", "8.0") "}", 8,
         "tensor a: expected whole numbers in its data_offsets, found 8.0"},
        {"{\"a\":" ST_ENTRY("[2]", "0", "18446744073709551624") "}", 8,
         "tensor a: expected whole numbers in its data_offsets"},
        {"{\"a\":" ST_ENTRY("[2]", "0", "9223372036854775807") "}", 8, "tensor a|do not lie within the 8 bytes"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8,
         "tensor a: expected \"data_offsets\" of two numbers"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8,
         "tensor a: expected \"data_offsets\" of two numbers, found none"},
        // Shapes and dtypes.
        {"{\"a\":" ST_ENTRY("[3]", "0", "8") "}", 8,
         "tensor a: shape (3) of F32 takes 12 bytes, data_offsets [0,8] hold 8"},
        {"{\"a\":" ST_ENTRY("[]", "0", "8") "}", 8, "tensor a: shape () of F32 takes 4 bytes"},
        {"{\"a\":" ST_ENTRY("[0,2]", "0", "8") "}", 8, "tensor a: shape (0,2) of F32 takes 0 bytes"},
        {"{\"a\":" ST_ENTRY("[-2]", "0", "8") "}", 8, "tensor a: expected whole numbers in its shape, found -2"},
        {"{\"a\":" ST_ENTRY("[2.5]", "0", "8") "}", 8, "tensor a: expected whole numbers in its shape, found 2.5"},
        {"{\"a\":" ST_ENTRY("[\"2\"]", "0", "8") "}", 8,
         "tensor a: expected whole numbers in its shape, found the string"},
        {"{\"a\":" ST_ENTRY("2", "0", "8") "}", 8, "tensor a: expected an array \"shape\", found 2"},
        {"{\"a\":" ST_ENTRY("[4294967296,4294967296]", "0", "8") "}", 8,
         "tensor a: shape (4294967296,4294967296) is larger than any memory"},
        {"{\"a\":" ST_ENTRY("[4611686018427387906]", "0", "8") "}", 8,
         "tensor a: shape (4611686018427387906) is larger"},  // 4x wraps to 8
        {"{\"a\":" ST_ENTRY("[576460752303423490]", "0", "8") "}", 8,
         "tensor a: shape (576460752303423490) is larger"},  // 32x wraps to 64
        {"{\"a\":" ST_ENTRY("[1,1,1,1,1,1,1,1,2]", "0", "8") "}", 8, "tensor a has 9 dimensions, at most 8"},
        {"{\"a\":{\"dtype\":\"Q4\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "tensor a: \"Q4\" is not a dtype"},
        {"{\"a\":{\"dtype\":\"F32\\u0000\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
         "tensor a: \"F32\" is not a dtype"},
        {"{\"a\":{\"dtype\":32,\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
         "tensor a: expected a string \"dtype\", found 32"},
        {"{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "tensor a: expected a string \"dtype\", found none"},
        {"{\"a\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
         "tensor a: shape (2) of I64 takes 16 bytes"},
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}}", 1,
         "tensor a: shape (3) of F4 takes 2 bytes"},  // 12 bits
        {"{\"a\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
         "tensor a: shape (2) of BF16 takes 4 bytes"},
        // The header itself.
        {"{\"a\":[2]}", 8, "tensor a: expected an object, found an array"},
        {"{\"__metadata__\":{\"n\":1}}", 0, "__metadata__: \"n\": expected a string, found 1"},
        {"{\"__metadata__\":[]}", 0, "expected an object __metadata__, found an array"},
        {" {}", 0, "expected a header that begins with '{', found the byte 0x20"},
        {"[1]", 0, "expected a header that begins with '{', found the byte 0x5b"},
        {"{\"a\"}", 0, "a.safetensors: header:1:5: expected ':' after a key, found '}'"},
        {"{\"a\":" ST_ENTRY("[1]", "0", "4") ",\"a\":" ST_ENTRY("[1]", "4", "8") "}", 8,
         "header:1:55: expected every key once, found a second \"a\""},
        {"{\"a\":" ST_ENTRY("[1]", "0", "4") "} x", 4, "expected the end of the file, found 'x'"},
    };
    char* directory = files_begin();
    char* path = files_join(directory, "a.safetensors");
    char data[64] = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        files_craft(path, strlen(cases[i].header), cases[i].header, data, cases[i].data);
        char* words = format_string("error: |a.safetensors|%s", cases[i].words);
        expect_death(cases[i].header, safetensors_read_child, path, words);
        free(words);
    }
    // As many dimensions as are read.
    static const char eight[] = "{\"a\":" ST_ENTRY("[1,1,2,1,1,1,1,1]", "0", "8") "}";
    files_craft(path, sizeof eight - 1, eight, data, 8);
    SafeFile* file = safetensors_open(path);
    CHECK(file->tensors[0].ndim == 8 && file->tensors[0].count == 2, "%d dimensions", file->tensors[0].ndim);
    safetensors_close(file);
    unlink(path);
    CHECK(rmdir(directory) == 0, "left behind in %s", directory);
    free(path);
    free(directory);
}

static void test_safetensors_wrong_lengths(void) {
    char* directory = files_begin();
    char* path = files_join(directory, "a.safetensors");
    float data[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    SafeWrite rows[] = {{"a", 1, {4}, data}, {"b", 1, {5}, data + 4}};
    safetensors_write(path, rows, 2, NULL);
    size_t size;
    char* bytes = files_read(path, &size);
    uint64_t length;
    memcpy(&length, bytes, 8);
    // The header's length: wrong in every way. Shorter cuts the JSON, longer takes data into it.
    const uint64_t lengths[] = {
        0,        1,    2,         length - 1,        length + 1,        length + 36, size - 8,
        size - 7, size, 100000001, (uint64_t)1 << 32, (uint64_t)1 << 63, UINT64_MAX,  UINT64_MAX - 7};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        uint64_t wrong = lengths[i];
        char* copy = (char*)malloc(size);
        memcpy(copy, bytes, size);
        memcpy(copy, &wrong, 8);
        write_bytes(path, copy, size);
        char* what =
            format_string("length %llu instead of %llu", (unsigned long long)wrong, (unsigned long long)length);
        expect_death(what, safetensors_read_child, path,
                     wrong > size - 8 || wrong < 2 ? "a.safetensors: the header's length says" : "a.safetensors: ");
        free(what);
        free(copy);
    }
    // A limit of the format, whatever the file's size.
    uint64_t huge = ST_MAX_HEADER + 1;
    write_bytes(path, &huge, 8);
    CHECK(truncate(path, (off_t)huge + 8) == 0, "truncate: %s", strerror(errno));
    expect_death("100 MB", safetensors_read_child, path, "the header's length says 100000001 bytes");
    // Cut off at every length, and one byte too many.
    for (size_t n = 0; n < size; n++) {
        write_bytes(path, bytes, n);
        char* what = format_string("%zu of %zu bytes", n, size);
        expect_death(what, safetensors_read_child, path, "a.safetensors: ");
        free(what);
    }
    bytes = (char*)realloc(bytes, size + 1);
    bytes[size] = 0;
    write_bytes(path, bytes, size + 1);
    expect_death("one byte more", safetensors_read_child, path, "the tensors take 36 bytes of data, the file has 37");
    unlink(path);
    expect_death("missing", safetensors_read_child, path, "a.safetensors: could not be opened: No such file");
    expect_death("a directory", safetensors_read_child, directory, "expected a regular file, found a directory");
    CHECK(rmdir(directory) == 0, "left behind in %s", directory);
    free(bytes);
    free(path);
    free(directory);
}

// Cut off between opening and reading.
static void safetensors_shrink_child(void* argument) {
    const char* path = (const char*)argument;
    SafeFile* file = safetensors_open(path);
    if (truncate(path, (off_t)file->data_start + 5) != 0) { die("truncate"); }
    float out[4];
    safetensors_read(file, &file->tensors[0], out);
}

static void safetensors_write_child(void* argument) {
    float data[4] = {0};
    SafeWrite row = {"a", 1, {4}, data};
    safetensors_write((const char*)argument, &row, 1, NULL);
}

static void test_safetensors_failing_files(void) {
    char* directory = files_begin();
    char* path = files_join(directory, "a.safetensors");
    safetensors_write_child(path);
    expect_death("shrunk", safetensors_shrink_child, path,
                 "a.safetensors: ends inside tensor a: expected 16 bytes|found 5");
    char* below = files_join(path, "b.safetensors");
    expect_death("below a file", safetensors_write_child, below,
                 "b.safetensors: could not be created: Not a directory");
    unlink(path);
    expect_death("no directory", safetensors_write_child, below, "b.safetensors: could not be created: No such file");
    expect_death("a directory", safetensors_write_child, directory, "could not be created: Is a directory");
    if (access("/dev/full", W_OK) == 0) {
        char full[] = "/dev/full";
        expect_death("full disk", safetensors_write_child, full,
                     "/dev/full: could not be written: No space left|free some space");
    }
    CHECK(rmdir(directory) == 0, "left behind in %s", directory);
    free(below);
    free(path);
    free(directory);
}

static void safetensors_tests(void) {
    RUN(test_safetensors_round_trip);
    RUN(test_safetensors_halves);
    RUN(test_safetensors_python_file);
    RUN(test_safetensors_rejects);
    RUN(test_safetensors_wrong_lengths);
    RUN(test_safetensors_failing_files);
}

#endif
