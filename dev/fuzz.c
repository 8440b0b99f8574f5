// fuzz.c - throws damaged input at every parser of a file, and at the command line: JSON, safetensors, the index of
// sharded weights, token shards, tokenizers, config.json, trainer_state.json, metrics.jsonl, options.
//
// Whatever the bytes, a parser returns or dies with a message; what must not happen is found by the
// sanitizers, by the checks below, or as a hang. dev/fuzz.sh builds and runs it, in one of two ways:
//
//     with clang's libFuzzer     guided by coverage, from the small files of dev/fuzz/PARSER:
//                                build/fuzz_guided --parser=NAME -max_total_time=60 DIRECTORY dev/fuzz/NAME
//     with any compiler          blindly: build/fuzz SECONDS [SEED [ITERATION]]; a finding names seed and iteration,
//                                which make the same input again
//
// Without --parser the first byte of an input chooses the parser.
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FUZZING  // nothing is computed here: gemm.h

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

// A file that was open when die() was called.
static FILE* fuzz_file;
static FILE* fuzz_fopen(const char* path, const char* mode) { return fuzz_file = fopen(path, mode); }
static int fuzz_fclose(FILE* file) {
    if (file == fuzz_file) { fuzz_file = NULL; }
    return fclose(file);
}

#define DIE_EXIT(code) fuzz_exit(code)
#define fopen(path, mode) fuzz_fopen(path, mode)
#define fclose(file) fuzz_fclose(file)
#define posix_memalign(out, alignment, bytes) fuzz_memalign(out, alignment, bytes)
#define malloc(bytes) fuzz_remember(malloc(bytes))
#define free(p) fuzz_free(p)

// The trainer whose config.json is read: make names each in turn.
#ifndef TRAINER
#define TRAINER "../train_pythia.cu"
#define ARCHITECTURE pythia
#endif
#include "architecture.h"
#undef MAIN
#define MAIN compare_main
#include "../common/run/compare.c"

// What an input leaves behind is freed below; what lives as long as the program is no leak.
const char* __asan_default_options(void);
const char* __asan_default_options(void) { return "detect_leaks=0"; }

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

// A tokenizer.json; or, with `pair`, vocab.json up to the first NUL byte and merges.txt after it; or, with `model`, a
// tokenizer.model.
static void fuzz_tokenizer(const uint8_t* data, size_t size, int pair, int model) {
    static const char* const names[] = {"tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model"};
    for (int i = 0; i < 4; i++) {
        char* path = fuzz_path(names[i]);
        unlink(path);
        free(path);
    }
    const uint8_t* nul = pair ? (const uint8_t*)memchr(data, 0, size) : NULL;
    size_t first = nul ? (size_t)(nul - data) : size;
    fuzz_write(names[pair ? 1 : model ? 3 : 0], data, first);
    if (pair) { fuzz_write("merges.txt", data + first + !!nul, size - first - !!nul); }
    enum { V = 300 };
    Tokenizer* tokenizer = tokenizer_open(fuzz_directory, V);
    char out[TOKENIZER_PIECE];
    for (int id = -1; id <= V; id++) { FUZZ_CHECK(tokenizer_decode(tokenizer, id, out) <= sizeof out); }
    FUZZ_CHECK(tokenizer_eot(tokenizer) < V);
    CheckpointFile files[TOKENIZER_FILES];
    int n = tokenizer_files(tokenizer, files);
    FUZZ_CHECK(n >= 0 && n <= TOKENIZER_FILES);
    const char* text = "  ab a\xc3\xa9<|endoftext|>b\xff 12e\xcc\x81\n\xe2\x96\x81z";
    size_t count = 0;
    int* ids = tokenizer_encode(tokenizer, text, strlen(text), &count);
    for (size_t i = 0; i < count; i++) { FUZZ_CHECK(ids[i] >= 0 && ids[i] < V); }
    free(ids);
    tokenizer_close(tokenizer);
}

// The options of a trainer, with their defaults.
static OptionTable fuzz_options(void) {
    OptionTable options = {0};
    trainer_options(&options, format_string("NAME|DIR"), format_string("a model"), "pythia-14m");
    architecture_options(&options);
    return options;
}

// A config.json that a model is made from: what that model writes must make the same model again.
static void fuzz_config(const uint8_t* data, size_t size) {
    Json* config = json_parse((const char*)data, size, "config.json");
    if (config->type != JSON_OBJECT) { die("no object"); }  // as the program does
    OptionTable options = fuzz_options();
    const ModelClass* kind = &architecture_class.kind;
    Model* model = kind->create(kind, &options, NULL, config, "config.json", 1, 8);
    char* text = model->config_json(model);
    fuzz_phase = 1;
    Json* written = json_parse(text, strlen(text), "what was written");
    Model* again = kind->create(kind, &options, NULL, written, "what was written", 1, 8);
    FUZZ_CHECK(strcmp(text, again->config_json(again)) == 0);
    FUZZ_CHECK(again->tensors.count == model->tensors.count && again->tensors.total == model->tensors.total);
}

// A trainer_state.json: numbers and options; what is written of them must be read as the same.
static void fuzz_state(const uint8_t* data, size_t size) {
    OptionTable options = fuzz_options();
    StringBuilder said = {0};
    Json* json = json_parse((const char*)data, size, "FILE");
    TrainerState state = state_read(json, "FILE");
    state_restore_options(json, "FILE", &options, &said, NULL);
    char* text = state_text(&state, &options);
    fuzz_phase = 1;
    Json* written = json_parse(text, strlen(text), "what was written");
    TrainerState again = state_read(written, "what was written");
    FUZZ_CHECK(again.step == state.step && again.position == state.position && again.shards == state.shards);
    OptionTable same = fuzz_options();
    state_restore_options(written, "what was written", &same, &said, NULL);
    for (int i = 0; i < options.count; i++) {
        const Option *a = &options.rows[i], *b = &same.rows[i];
        FUZZ_CHECK(a->set == b->set && (!a->set || strcmp(a->text, b->text) == 0));
    }
}

// A metrics.jsonl, as build/compare reads it and as a resumed run cuts it.
static void fuzz_metrics(const uint8_t* data, size_t size) {
    static const char config[] = "{\"vocab_size\": 257}";
    static const char state[] = "{\"parameters\": 100, \"flops_per_token\": 600, \"tokens\": 80, \"step\": 5}";
    char* whole = fuzz_path("step_00000005");
    if (access(whole, F_OK) != 0) {
        static const char* const empty[] = {"model", "optimizer"};
        if (mkdir(whole, 0700) != 0) { abort(); }
        fuzz_write("step_00000005/config.json", config, strlen(config));
        fuzz_write("step_00000005/trainer_state.json", state, strlen(state));
        for (int i = 0; i < 2; i++) { fuzz_write(format_string("step_00000005/%s.safetensors", empty[i]), "", 0); }
    }
    fuzz_write("metrics.jsonl", data, size);
    // The checkpoint may end up before lines, between them or behind them; the last byte says where.
    Metrics metrics;
    metrics_open(&metrics, fuzz_directory, size ? data[size - 1] % 16 : 0, size % 2);
    metrics_validation(&metrics, 900000000000000, 1.5, (const double[]){2.5, 1.5}, 2, 1e15);
    close(metrics.fd);
    CompareRow row = {0};
    row.name = format_string("row");
    row.dir[row.seeds++] = fuzz_directory;
    compare_read_row(&row);
    FUZZ_CHECK(row.points > 0 && row.end[AT_LOSS] - row.end[AT_LOSS] == 0);
    free(compare_tables(&row, 1, NULL));
}

// A command line: a word a line.
static void fuzz_command(const uint8_t* data, size_t size) {
    OptionTable options = fuzz_options();
    enum { MOST = 32 };
    char* arguments[MOST + 1] = {format_string("train")};
    int n = 1;
    for (size_t at = 0; at < size && n < MOST; n++) {
        const char* end = (const char*)memchr(data + at, '\n', size - at);
        size_t length = end ? (size_t)(end - (const char*)data) - at : size - at;
        arguments[n] = (char*)xalloc(length + 1, 1, "an argument");
        memcpy(arguments[n], data + at, length);
        at += length + 1;
    }
    options_parse(&options, n, arguments);
    fuzz_phase = 1;
    for (int i = 0; i < options.count; i++) {
        const Option* o = &options.rows[i];
        if (!o->set) { continue; }
        if (o->type == OPTION_INT) { FUZZ_CHECK((double)o->integer >= o->min && (double)o->integer <= o->max); }
        if (o->type == OPTION_NUMBER) { FUZZ_CHECK(o->number >= o->min && o->number <= o->max); }
    }
    // A state that holds them gives them back.
    TrainerState state = {0};
    state.val_step = -1;
    char* text = state_text(&state, &options);
    Json* written = json_parse(text, strlen(text), "what was written");
    (void)state_read(written, "what was written");
}

// Their order is that of the first byte of an input that says nothing else.
enum {
    FUZZ_JSON,
    FUZZ_SAFETENSORS,
    FUZZ_INDEX,
    FUZZ_SHARDS,
    FUZZ_TOKENIZER,
    FUZZ_CONFIG,
    FUZZ_STATE,
    FUZZ_METRICS,
    FUZZ_OPTIONS,
    FUZZ_MERGES,
    FUZZ_MODEL,
    FUZZ_TARGETS
};
static const char* const fuzz_names[FUZZ_TARGETS] = {"json",      "safetensors", "index",        "shards",
                                                     "tokenizer", "config",      "state",        "metrics",
                                                     "options",   "merges",      "sentencepiece"};
static int fuzz_only = -1;  // the one that --parser names

static void fuzz_target(int target, const uint8_t* data, size_t size) {
    switch (target) {
        case FUZZ_JSON: fuzz_json(data, size); break;
        case FUZZ_SAFETENSORS: fuzz_safetensors(data, size); break;
        case FUZZ_INDEX: fuzz_index(data, size); break;
        case FUZZ_SHARDS: fuzz_shards(data, size); break;
        case FUZZ_TOKENIZER: fuzz_tokenizer(data, size, 0, 0); break;
        case FUZZ_MODEL: fuzz_tokenizer(data, size, 0, 1); break;
        case FUZZ_CONFIG: fuzz_config(data, size); break;
        case FUZZ_STATE: fuzz_state(data, size); break;
        case FUZZ_METRICS: fuzz_metrics(data, size); break;
        case FUZZ_OPTIONS: fuzz_command(data, size); break;
        default: fuzz_tokenizer(data, size, 1, 0); break;
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
    int target = fuzz_only;
    if (target < 0) {
        if (size == 0) { return 0; }
        target = data[0] % FUZZ_TARGETS;
        data++, size--;
    }
    int lowest = dup(fuzz_report);  // the first free file descriptor
    close(lowest);
    // Exactly as long as the input, so that reading past its end is found.
    uint8_t* copy = (uint8_t*)malloc(size);
    if (size) { memcpy(copy, data, size); }
    fuzz_phase = 0;
    if (setjmp(fuzz_back) == 0) {
        fuzz_target(target, copy, size);
    } else {
        FUZZ_CHECK(fuzz_phase == 0);
    }
    if (fuzz_file) { fuzz_fclose(fuzz_file); }
    for (int fd = lowest; fd < lowest + 8; fd++) { close(fd); }
    while (fuzz_live_count) { fuzz_free(fuzz_live[fuzz_live_count - 1]); }
    return 0;
}

// ---- own mutations ----

static uint64_t fuzz_random_state;
static uint32_t fuzz_random(uint32_t n) {  // 0..n-1
    fuzz_random_state += 0x9e3779b97f4a7c15u;
    uint64_t z = fuzz_random_state;
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
    "\"step\"",
    "\"val_loss\"",
    "\"val_loss_pass\"",
    "\"options\"",
    "\"eos_token_id\"",
    "\"rope_parameters\"",
    "\"num_hidden_layers\"",
    "--steps",
    "--model",
    "=",
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

// One change, anywhere.
static void fuzz_mutate(FuzzInput* in) {
    size_t at = fuzz_random((uint32_t)in->size + 1);
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
            fuzz_replace(in, fuzz_random((uint32_t)in->size + 1), 0, piece, some);
            break;
        default:  // a whole number in one of the first places: lengths, magic numbers, counts
            if (in->size > 32) {
                const uint32_t numbers[] = {0, 1, 0x7fffffff, 0x80000000, 0xffffffff, (uint32_t)in->size, 256, 7};
                uint32_t number = numbers[fuzz_random(8)] + fuzz_random(3) - 1;
                memcpy(in->bytes + 4 * fuzz_random(4), &number, 4);
            }
    }
}

#ifndef FUZZ_MAIN

size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t most);
size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed);
int LLVMFuzzerInitialize(int* argc, char*** argv);

// libFuzzer's mutations and ours by turns. A header of safetensors mostly has the length that is written before it:
// one that is cut off at a wrong place is found soon enough.
size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
    fuzz_random_state = seed;
    if (fuzz_random(2)) {
        size = LLVMFuzzerMutate(data, size, most);
    } else {
        FuzzInput in = {data, size, most};
        fuzz_mutate(&in);
        size = in.size;
    }
    if (fuzz_only == FUZZ_SAFETENSORS && size > 8 && fuzz_random(8)) {
        uint64_t length = size - 8;
        const uint8_t* end = (const uint8_t*)memchr(data + 8, '\n', size - 8);  // the seeds end their headers so
        if (end) { length = (uint64_t)(end + 1 - data - 8); }
        memcpy(data, &length, 8);
    }
    return size;
}

// --parser=NAME gives every input to one parser.
int LLVMFuzzerInitialize(int* argc, char*** argv) {
    for (int i = 1; i < *argc; i++) {
        const char* name = strncmp((*argv)[i], "--parser=", 9) == 0 ? (*argv)[i] + 9 : NULL;
        if (!name) { continue; }
        for (int t = 0; t < FUZZ_TARGETS; t++) {
            if (strcmp(name, fuzz_names[t]) == 0) { fuzz_only = t; }
        }
        if (fuzz_only < 0) {
            fprintf(stderr, "fuzz: there is no parser '%s'\n", name);
            exit(1);
        }
    }
    return 0;
}

#else

// ---- without guidance ----

enum { FUZZ_SEEDS = 64, FUZZ_MOST = 8192 };
static char* fuzz_seed_text[FUZZ_TARGETS][FUZZ_SEEDS];  // the files of dev/fuzz, read once
static size_t fuzz_seed_size[FUZZ_TARGETS][FUZZ_SEEDS];
static int fuzz_seeds[FUZZ_TARGETS];

static void fuzz_read_seeds(void) {
    for (int target = 0; target < FUZZ_TARGETS; target++) {
        char* directory = format_string("dev/fuzz/%s", fuzz_names[target]);
        int count = 0;
        char** names = directory_names(directory, &count);
        if (count == 0) {
            die("%s: expected files to start from, found none; run this at the top of the project", directory);
        }
        for (int i = 0; i < count && i < FUZZ_SEEDS; i++) {
            fuzz_seed_text[target][i] =
                read_fully(format_string("%s/%s", directory, names[i]), &fuzz_seed_size[target][i]);
            fuzz_seeds[target]++;
        }
    }
    fuzz_live_count = 0;  // these stay
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
    if (setjmp(fuzz_back) == 0) {
        fuzz_read_seeds();
    } else {
        dprintf(fuzz_report, "fuzz: dev/fuzz/ could not be read; run this at the top of the project\n");
        return 1;
    }
    static uint8_t bytes[FUZZ_MOST];
    FuzzInput in = {bytes, 0, sizeof bytes};
    unsigned long long runs[FUZZ_TARGETS] = {0};
    double start = now_seconds(), slowest = 0;
    const unsigned long long first = fuzz_iteration;
    do {
        fuzz_random_state = fuzz_run_seed * 0x2545f4914f6cdd1du + fuzz_iteration * 0x9e3779b9u;
        int target = fuzz_only = (int)(fuzz_iteration % FUZZ_TARGETS);
        int seed = (int)fuzz_random((uint32_t)fuzz_seeds[target]);
        in.size = min_size(fuzz_seed_size[target][seed], in.capacity);
        memcpy(in.bytes, fuzz_seed_text[target][seed], in.size);
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
    printf("fuzz: no finding in %llu inputs (", fuzz_iteration - first);
    for (int t = 0; t < FUZZ_TARGETS; t++) { printf("%s%s %llu", t ? ", " : "", fuzz_names[t], runs[t]); }
    printf("; the slowest took %.0f ms)\n", slowest * 1e3);
    return 0;
}
#endif
