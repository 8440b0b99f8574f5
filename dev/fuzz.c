// fuzz.c - throws damaged input at every parser of a file: JSON, safetensors, the index of sharded
// weights, token shards, tokenizer.json.
//
// Whatever the bytes, a parser returns or dies with a message; what must not happen is found by the
// sanitizers, by the checks below, or as a hang. Two ways to run it:
//
//     cc -g -O1 -fsanitize=address,undefined -fno-sanitize-recover -DFUZZ_MAIN -o build/fuzz dev/fuzz.c -lm
//     build/fuzz SECONDS [SEED [ITERATION]]     own mutations of the seeds below; a finding names seed
//                                               and iteration, which make the same input again
//
//     clang -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover -o build/fuzz dev/fuzz.c -lm
//     build/fuzz -detect_leaks=0 -close_fd_mask=2 CORPUS_DIR     libFuzzer, guided by coverage
//
// The first byte of an input chooses the parser.
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// die() jumps back here, so everything it leaves behind is given back by hand: memory is taken
// through the functions below, which remember it.
static jmp_buf fuzz_back;
static void** fuzz_live;
static size_t fuzz_live_count, fuzz_live_capacity;

__attribute__((noreturn)) static void fuzz_exit(int code) { longjmp(fuzz_back, code); }

static void* fuzz_remember(void* p) {
    if (p == NULL) { return NULL; }
    if (fuzz_live_count == fuzz_live_capacity) {
        fuzz_live_capacity = 2 * fuzz_live_capacity + 64;
        fuzz_live = (void**)realloc(fuzz_live, fuzz_live_capacity * sizeof(void*));
        if (fuzz_live == NULL) { abort(); }
    }
    fuzz_live[fuzz_live_count++] = p;
    return p;
}

static void fuzz_free(void* p) {
    for (size_t i = fuzz_live_count; i > 0; i--) {
        if (fuzz_live[i - 1] != p) { continue; }
        fuzz_live[i - 1] = fuzz_live[--fuzz_live_count];
        break;
    }
    free(p);
}

// More than this is "out of memory", a path that must work too.
static int fuzz_memalign(void** out, size_t alignment, size_t bytes) {
    if (bytes > (size_t)256 << 20) { return 12; }
    int error = posix_memalign(out, alignment, bytes);
    if (error == 0) { fuzz_remember(*out); }
    return error;
}

#define DIE_EXIT(code) fuzz_exit(code)
#define posix_memalign(out, alignment, bytes) fuzz_memalign(out, alignment, bytes)
#define malloc(bytes) fuzz_remember(malloc(bytes))
#define free(p) fuzz_free(p)

#include "../common/base.h"
#include "../common/files/checkpoint.h"
#include "../common/files/json.h"
#include "../common/files/safetensors.h"
#include "../common/files/shards.h"
#include "../common/files/tokenizer.h"

// A finding that no sanitizer would see.
#define FUZZ_CHECK(condition)                                                              \
    do {                                                                                   \
        if (!(condition)) {                                                                \
            dprintf(fuzz_report, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                       \
        }                                                                                  \
    } while (0)

static int fuzz_report = 2;      // file descriptor for findings; stderr itself is closed to die()'s messages
static char* fuzz_directory;     // where the damaged files lie
static volatile int fuzz_phase;  // 0: parsing damaged input; 1: after that, where die() is a finding

static char* fuzz_path(const char* name) { return format_string("%s/%s", fuzz_directory, name); }

static void fuzz_write(const char* name, const void* bytes, size_t size) {
    char* path = fuzz_path(name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    FUZZ_CHECK(fd >= 0 && write_all(fd, bytes, size) == 0);
    close(fd);
    free(path);
}

// ---- targets ----

static void fuzz_emit(StringBuilder* sb, const Json* j) {
    switch (j->type) {
        case JSON_NULL: sb_printf(sb, "null"); break;
        case JSON_BOOL: sb_printf(sb, j->boolean ? "true" : "false"); break;
        case JSON_NUMBER: sb_append(sb, j->literal, strlen(j->literal)); break;
        case JSON_STRING: json_append_string(sb, j->string, j->length); break;
        default:
            sb_append(sb, j->type == JSON_OBJECT ? "{" : "[", 1);
            for (int i = 0; i < j->count; i++) {
                if (i) { sb_append(sb, ",", 1); }
                if (j->type == JSON_OBJECT) {
                    json_append_string(sb, j->keys[i], strlen(j->keys[i]));
                    sb_append(sb, ":", 1);
                    FUZZ_CHECK(json_get(j, j->keys[i]) == j->items[i]);
                }
                fuzz_emit(sb, j->items[i]);
            }
            sb_append(sb, j->type == JSON_OBJECT ? "}" : "]", 1);
    }
}

// What was read is written, read and written again: the two texts must be the same.
static void fuzz_json(const uint8_t* data, size_t size) {
    Json* j = json_parse((const char*)data, size, "FILE");
    fuzz_phase = 1;
    StringBuilder first = {0}, second = {0};
    fuzz_emit(&first, j);
    Json* again = json_parse(first.data, first.size, "FILE");
    fuzz_emit(&second, again);
    FUZZ_CHECK(first.size == second.size && memcmp(first.data, second.data, first.size) == 0);
    free(first.data);
    free(second.data);
    json_free(again);
    json_free(j);
}

// The model whose weights the seeds hold.
static TensorTable fuzz_table(void) {
    TensorTable table = {0};
    tensor_add(&table, format_string("net.w"), 2, 3, INIT_ZEROS, 0);
    tensor_add(&table, format_string("net.b"), 3, 0, INIT_ZEROS, 0);
    return table;
}

static void fuzz_weights(void) {
    TensorTable table = fuzz_table();
    float* params = (float*)xalloc(table.total, sizeof(float), "weights");
    weights_read(fuzz_directory, &table, params, NULL, NULL);
    for (size_t i = 0; i < table.total; i++) { FUZZ_CHECK(params[i] - params[i] == 0); }
}

static void fuzz_safetensors(const uint8_t* data, size_t size) {
    fuzz_write("model.safetensors", data, size);
    char* path = fuzz_path("model.safetensors");
    SafeFile* file = safetensors_open(path);
    uint64_t bytes = file->data_start;
    for (int i = 0; i < file->count; i++) {
        const SafeTensor* t = &file->tensors[i];
        FUZZ_CHECK(t->begin + file->data_start == bytes && t->end >= t->begin);
        FUZZ_CHECK(safetensors_find(file, t->name) == t);
        bytes += t->end - t->begin;
        if (t->dtype == ST_OTHER) { continue; }
        // As long as the file at most, whatever the shape says.
        FUZZ_CHECK(t->count <= size);
        float* out = (float*)xalloc(t->count, sizeof(float), "a tensor");
        safetensors_read(file, t, out);
        free(out);
    }
    FUZZ_CHECK(bytes == size);
    safetensors_close(file);
    fuzz_weights();
}

static void fuzz_index(const uint8_t* data, size_t size) {
    float numbers[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    SafeWrite rows[2] = {{"net.w", 2, {2, 3}, numbers}, {"net.b", 1, {3}, numbers + 6}};
    char* one = fuzz_path("1.safetensors");
    char* two = fuzz_path("2.safetensors");
    char* whole = fuzz_path("model.safetensors");
    unlink(whole);
    if (access(one, F_OK) != 0) { safetensors_write(one, rows, 1, NULL); }
    if (access(two, F_OK) != 0) { safetensors_write(two, rows + 1, 1, NULL); }
    fuzz_write("model.safetensors.index.json", data, size);
    fuzz_weights();
}

static void fuzz_shards(const uint8_t* data, size_t size) {
    enum { T = 3, V = 257 };
    fuzz_write("shard.bin", data, size);
    char* path = fuzz_path("shard.bin");
    Shards* shards = shards_open(path, T, V);
    FUZZ_CHECK(shards->rows * T + 1 <= shards->tokens && shards->tokens <= size);
    for (uint64_t row = 0; row < shards->rows; row++) {
        int inputs[T], targets[T];
        shards_row(shards, row, inputs, targets);
        for (int t = 0; t < T; t++) {
            FUZZ_CHECK(inputs[t] >= 0 && inputs[t] < V && targets[t] >= 0 && targets[t] < V);
            FUZZ_CHECK(t == 0 || inputs[t] == targets[t - 1]);
        }
    }
    shards_close(shards);
}

// tokenizer.json alone, or, of an input with a NUL byte, vocab.json before it and merges.txt after it.
static void fuzz_tokenizer(const uint8_t* data, size_t size) {
    static const char* const names[] = {"tokenizer.json", "vocab.json", "merges.txt"};
    for (int i = 0; i < 3; i++) {
        char* path = fuzz_path(names[i]);
        unlink(path);
        free(path);
    }
    const uint8_t* nul = (const uint8_t*)memchr(data, 0, size);
    size_t first = nul ? (size_t)(nul - data) : size;
    fuzz_write(nul ? "vocab.json" : "tokenizer.json", data, first);
    if (nul) { fuzz_write("merges.txt", nul + 1, size - first - 1); }
    enum { V = 300 };
    Tokenizer* tokenizer = tokenizer_open(fuzz_directory, V);
    char out[256];
    for (int id = -1; id <= V; id++) { FUZZ_CHECK(tokenizer_decode(tokenizer, id, out) <= sizeof out); }
    FUZZ_CHECK(tokenizer_eot(tokenizer) < V);
    CheckpointFile files[TOKENIZER_FILES];
    int n = tokenizer_files(tokenizer, files);
    FUZZ_CHECK(n >= 0 && n <= TOKENIZER_FILES);
    const char* text = " ab a\xc3\xa9<|endoftext|>b";
    int ids[64];
    n = tokenizer_encode(tokenizer, text, strlen(text), ids);
    FUZZ_CHECK(n >= 0 && n <= (int)strlen(text));
    for (int i = 0; i < n; i++) { FUZZ_CHECK(ids[i] >= 0 && ids[i] < V); }
    tokenizer_close(tokenizer);
}

enum { FUZZ_JSON, FUZZ_SAFETENSORS, FUZZ_INDEX, FUZZ_SHARDS, FUZZ_TOKENIZER, FUZZ_TARGETS };

static void fuzz_target(int target, const uint8_t* data, size_t size) {
    switch (target) {
        case FUZZ_JSON: fuzz_json(data, size); break;
        case FUZZ_SAFETENSORS: fuzz_safetensors(data, size); break;
        case FUZZ_INDEX: fuzz_index(data, size); break;
        case FUZZ_SHARDS: fuzz_shards(data, size); break;
        default: fuzz_tokenizer(data, size); break;
    }
}

static void fuzz_remove_directory(void) {
    if (fuzz_directory) { directory_remove_tree(fuzz_directory); }
}

static void fuzz_begin(void) {
    static char directory[64];
    // In memory where there is such a place: every input is written to a file.
    snprintf(directory, sizeof directory, "%s/ponder_fuzz_XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (mkdtemp(directory) == NULL) { abort(); }
    fuzz_directory = directory;
    atexit(fuzz_remove_directory);
}

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (fuzz_directory == NULL) { fuzz_begin(); }
    if (size == 0) { return 0; }
    int lowest = dup(fuzz_report);  // the first free file descriptor
    close(lowest);
    // Exactly as long as the input, so that reading past its end is found.
    uint8_t* copy = (uint8_t*)malloc(size);
    memcpy(copy, data + 1, size - 1);
    fuzz_phase = 0;
    if (setjmp(fuzz_back) == 0) {
        fuzz_target(data[0] % FUZZ_TARGETS, copy, size - 1);
    } else {
        FUZZ_CHECK(fuzz_phase == 0);
    }
    for (int fd = lowest; fd < lowest + 8; fd++) { close(fd); }
    while (fuzz_live_count) { fuzz_free(fuzz_live[fuzz_live_count - 1]); }
    return 0;
}

// ---- own mutations ----
#ifdef FUZZ_MAIN

static uint64_t fuzz_state;
static uint32_t fuzz_random(uint32_t n) {  // 0..n-1
    fuzz_state += 0x9e3779b97f4a7c15u;
    uint64_t z = fuzz_state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ z >> 31) >> 11) % n;
}

// What files of these formats are made of.
static const char* const fuzz_words[] = {
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\\u0000",
    "\\ud83d",
    "\\ude00",
    "null",
    "true",
    "-",
    "0",
    "1",
    "e9",
    ".5",
    "NaN",
    "-Infinity",
    "[[[[[[[[[[[[[[[[",
    "{\"a\":{\"a\":{\"a\":",
    "9007199254740993",
    "18446744073709551616",
    "4611686018427387904",
    "2147483648",
    "-1",
    "1e999",
    "\"F32\"",
    "\"F16\"",
    "\"BF16\"",
    "\"F64\"",
    "\"I64\"",
    "\"F4\"",
    "\"shape\"",
    "\"data_offsets\"",
    "\"dtype\"",
    "\"__metadata__\"",
    "\"weight_map\"",
    "\"net.w\"",
    "\"net.b\"",
    "\"1.safetensors\"",
    "\"2.safetensors\"",
    "\"../1.safetensors\"",
    "\"vocab\"",
    "\"merges\"",
    "\"added_tokens\"",
    "\"id\"",
    "\"content\"",
    "\"special\"",
    "\xff",
    "\xc3\xa9",
    "\xed\xa0\x80",
    "\xef\xbb\xbf",
    " ",
    "\n",
};

typedef struct {
    uint8_t* bytes;
    size_t size, capacity;
} FuzzInput;

static void fuzz_replace(FuzzInput* in, size_t at, size_t removed, const void* bytes, size_t n) {
    if (in->size - removed + n > in->capacity) { return; }
    memmove(in->bytes + at + n, in->bytes + at + removed, in->size - at - removed);
    memcpy(in->bytes + at, bytes, n);
    in->size += n - removed;
}

static void fuzz_mutate(FuzzInput* in) {
    size_t at = 1 + fuzz_random((uint32_t)in->size);  // the first byte, the target, stays
    if (at > in->size) { at = in->size; }
    size_t left = in->size - at, some = fuzz_random((uint32_t)min_size(left, 40) + 1);
    uint8_t piece[64];
    const char* word = fuzz_words[fuzz_random(sizeof fuzz_words / sizeof fuzz_words[0])];
    switch (fuzz_random(9)) {
        case 0:
            if (left) { in->bytes[at] ^= (uint8_t)(1u << fuzz_random(8)); }
            break;
        case 1:
            if (left) { in->bytes[at] = (uint8_t)fuzz_random(256); }
            break;
        case 2: fuzz_replace(in, at, some, "", 0); break;
        case 3: fuzz_replace(in, at, 0, word, strlen(word)); break;
        case 4: fuzz_replace(in, at, some, word, strlen(word)); break;
        case 5:  // a digit becomes another
            for (size_t i = at; i < in->size; i++) {
                if (in->bytes[i] < '0' || in->bytes[i] > '9') { continue; }
                in->bytes[i] = (uint8_t)('0' + fuzz_random(10));
                break;
            }
            break;
        case 6: in->size = at; break;
        case 7:
            memcpy(piece, in->bytes + at, some);
            fuzz_replace(in, 1 + fuzz_random((uint32_t)in->size), 0, piece, some);
            break;
        default:  // a whole number in one of the first places: lengths, magic numbers, counts
            if (in->size > 32) {
                const uint32_t numbers[] = {0, 1, 0x7fffffff, 0x80000000, 0xffffffff, (uint32_t)in->size, 256, 7};
                uint32_t number = numbers[fuzz_random(8)] + fuzz_random(3) - 1;
                memcpy(in->bytes + 1 + 4 * fuzz_random(4), &number, 4);
            }
    }
    if (in->size < 1) { in->size = 1; }
}

// A whole, valid file for the target, as the start of a mutation; variants make more of them.
static void fuzz_seed(FuzzInput* in, int target) {
    static const char* const json[] = {"{\"hidden_size\":512,\"rope\":{\"base\":1e4,\"x\":[1,-2.5,true,false,null]},"
                                       "\"s\":\"\\u20ac\\ud83d\\ude00\\n\xc3\xa9\",\"\":{}}",
                                       "[[[[1,2],[3]],{}],\"a\\\"b\",0.125e-3,[],9223372036854775807]"};
    static const char* const index[] = {
        "{\"metadata\":{\"total_size\":36},\"weight_map\":{\"net.w\":\"1.safetensors\",\"net.b\":\"2.safetensors\"}}"};
    static const char* const headers[] = {
        "{\"__metadata__\":{\"format\":\"pt\"},\"net.w\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
        "\"net.b\":{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[24,30]}}  ",
        "{\"w\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[0,12]},\"b\":{\"dtype\":\"F64\",\"shape\":[3],"
        "\"data_offsets\":[12,36]},"
        "\"i\":{\"dtype\":\"I64\",\"shape\":[0,7],\"data_offsets\":[36,36]}}"};
    StringBuilder sb = {0};
    char byte = (char)target;
    sb_append(&sb, &byte, 1);
    if (target == FUZZ_JSON) {
        sb_printf(&sb, "%s", json[fuzz_random(2)]);
    } else if (target == FUZZ_INDEX) {
        sb_printf(&sb, "%s", index[0]);
    } else if (target == FUZZ_SAFETENSORS) {
        int which = (int)fuzz_random(2);
        uint64_t length = strlen(headers[which]);
        sb_append(&sb, (const char*)&length, 8);
        sb_printf(&sb, "%s", headers[which]);
        for (int i = 0; i < (which ? 36 : 30); i++) { sb_append(&sb, "\x3c", 1); }
    } else if (target == FUZZ_SHARDS) {
        int width = fuzz_random(2) ? 2 : 4;
        uint32_t tokens = 1 + fuzz_random(12);
        unsigned char header[SHARD_HEADER_BYTES];
        shard_header(header, width, tokens);
        sb_append(&sb, (const char*)header, sizeof header);
        for (uint32_t i = 0; i < tokens; i++) {
            uint32_t token = fuzz_random(257);
            sb_append(&sb, (const char*)&token, (size_t)width);
        }
    } else {
        // Byte-level BPE with a few merges and a special token; a unigram model, which is only shown.
        const char* vocab = "{\"a\":0,\"b\":1,\"\xc4\xa0\":2,\"\\u00c3\":3,\"ab\":4,\"\xc4\xa0"
                            "ab\":5,\"\\u00a9\":7";
        uint32_t kind = fuzz_random(4);
        if (kind == 0) {
            sb_printf(&sb, "%s,\"<|endoftext|>\":8}", vocab);
            sb_append(&sb, "", 1);  // a NUL
            sb_printf(&sb, "#version: 0.2\na b\n\xc4\xa0 ab\n");
        } else if (kind == 1) {
            sb_printf(&sb,
                      "{\"added_tokens\":[],\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"<unk>\",0.0],"
                      "[\"\xe2\x96\x81"
                      "ab\",-1.5],[\"<0x0A>\",-2]]},\"decoder\":{\"type\":\"Metaspace\"}}");
        } else {
            sb_printf(
                &sb,
                "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":6,\"content\":\"<|endoftext|>\",\"special\":true}],"
                "\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
                "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"unk_token\":null,\"vocab\":");
            sb_printf(&sb, "%s}", vocab);
            sb_printf(&sb, ",\"merges\":[%s]}}",
                      kind == 2 ? "\"a b\",\"\xc4\xa0 ab\"" : "[\"a\",\"b\"],[\"\xc4\xa0\",\"ab\"]");
        }
    }
    in->size = min_size(sb.size, in->capacity);
    memcpy(in->bytes, sb.data, in->size);
    free(sb.data);
}

static unsigned long long fuzz_run_seed, fuzz_iteration;
static double fuzz_input_started;

// Called by the sanitizers before they end the program, and for the checks' abort().
static void fuzz_finding(void) {
    dprintf(fuzz_report, "\nfinding: the same input again with: fuzz 0 %llu %llu\n", fuzz_run_seed, fuzz_iteration);
    fuzz_remove_directory();
}

static void fuzz_aborted(int signal_number) {
    fuzz_finding();
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

// Present when a sanitizer is linked in.
__attribute__((weak)) void __sanitizer_set_report_fd(void* fd);
__attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)(void));

int main(int argc, char** argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 10;
    fuzz_run_seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    fuzz_iteration = argc > 3 ? strtoull(argv[3], NULL, 10) : 0;
    // die() and warn() write to stderr, a few thousand times a second; findings go where it went.
    fuzz_report = dup(2);
    if (fuzz_report < 0 || freopen("/dev/null", "w", stderr) == NULL) { return 1; }
    if (__sanitizer_set_report_fd) { __sanitizer_set_report_fd((void*)(intptr_t)fuzz_report); }
    if (__sanitizer_set_death_callback) { __sanitizer_set_death_callback(fuzz_finding); }
    signal(SIGABRT, fuzz_aborted);
    static uint8_t bytes[4096];
    FuzzInput in = {bytes, 0, sizeof bytes};
    unsigned long long runs[FUZZ_TARGETS] = {0};
    double start = now_seconds(), slowest = 0;
    do {
        fuzz_state = fuzz_run_seed * 0x2545f4914f6cdd1du + fuzz_iteration * 0x9e3779b9u;
        int target = (int)(fuzz_iteration % FUZZ_TARGETS);
        fuzz_seed(&in, target);
        uint32_t times = fuzz_random(6);  // sometimes none: the seeds themselves must pass
        for (uint32_t i = 0; i < times; i++) { fuzz_mutate(&in); }
        fuzz_input_started = now_seconds();
        LLVMFuzzerTestOneInput(in.bytes, in.size);
        double took = now_seconds() - fuzz_input_started;
        if (took > slowest) { slowest = took; }
        if (took > 5) {
            dprintf(fuzz_report, "an input of %zu bytes took %.1f s\n", in.size, took);
            fuzz_finding();
            return 1;
        }
        runs[target]++;
        fuzz_iteration++;
    } while (now_seconds() - start < seconds);
    printf("fuzz: %llu inputs, no finding (json %llu, safetensors %llu, index %llu, shards %llu, tokenizer %llu; the "
           "slowest took %.0f ms)\n",
           runs[0] + runs[1] + runs[2] + runs[3] + runs[4], runs[0], runs[1], runs[2], runs[3], runs[4], slowest * 1e3);
    return 0;
}
#endif
