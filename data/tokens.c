// tokens.c - turns texts into a token shard, with a tokenizer's own files.
//
//     build/tokens --tokenizer DIR|FILE --out data/mine/train.bin [--special parse] TEXT...
//
// A text is a document: end of text follows each; or it holds many, each behind its length, or as build/bytes writes
// them. The shard depends on the texts, their order and the tokenizer alone,
// not on the number of threads.
//
// Pipeline: read documents into blocks of about a megabyte, cutting long ones where that changes no token (encode.h)
// -> encode the blocks of a batch, each by one thread -> write them in their order, under a temporary name -> rename.
// So a document of any size takes little memory, unless its tokenizer knows no place to cut it. Meanwhile a lock, on
// OUT.lock, keeps other runs out of OUT.
#include "../common/files/file.h"
#include "../common/files/shards.h"
#include "../common/files/tokenizer.h"
#include "arguments.h"

#include <signal.h>

enum {
    TOKENS_BLOCK = 1 << 20,    // bytes of text that one thread encodes at a time
    TOKENS_LONGEST = 1 << 28,  // bytes without a place to cut that are taken: merging takes fifty times that
    BYTES_END = 256            // the token that ends a text in a shard of bytes
};

typedef struct {
    const char *tokenizer, *out;
    int special;  // special tokens in texts are parsed
    int framed;   // texts hold several documents, each behind its length
    int bytes;    // texts are shards of bytes
    int count;    // only print how large the vocabulary is
    int threads;  // 0: as many as there are processors
    int input_count;
    char** inputs;
} TokensOptions;

// A part of a block: a document, or a part of one.
typedef struct {
    size_t at, size;
    int first, last;    // of its document
    const char* path;   // where that is, for messages,
    uint64_t document;  // and which one there
} TokensPart;

typedef struct {
    char* text;  // (capacity)
    size_t size, capacity;
    TokensPart* parts;  // (part_capacity)
    size_t part_count, part_capacity;
    int* tokens;  // what was made of it (count)
    size_t count;
} TokensBlock;

// The shards of one name as they are written: the first, and NAME_00001.bin and so on for what it cannot hold.
typedef struct {
    const char* path;
    int width;            // bytes of a token
    FileTarget* targets;  // (count)
    char** names;         // (count)
    uint64_t* tokens;     // (count) in each
    int count;
    char* lock;  // the file whose lock keeps others out, which is removed in the end; NULL: not ours
    char buffer[1 << 16];
} TokensOut;

static TokensOut tokens_out;                    // what a signal or an error leaves unfinished is removed
static uint64_t tokens_most = INT32_MAX;        // the header counts in int32; tests set less
static size_t tokens_longest = TOKENS_LONGEST;  // tests set less

static const char* const tokens_usage =
    "usage: tokens --tokenizer DIR|FILE --out FILE [options] TEXT|- ...\n"
    "       tokens --tokenizer DIR|FILE --count 1\n"
    "Makes a token shard of texts, one document each: end of text follows every one.\n"
    "\n"
    "  --tokenizer DIR|FILE  tokenizer.json or tokenizer.model, or a directory with one, or with vocab.json and\n"
    "                        merges.txt\n"
    "  --out FILE            the shard: uint16 tokens, uint32 if the tokenizer has more than 65536\n"
    "  --special text|parse  special tokens in the texts, <|endoftext|>, are text (default), or those tokens\n"
    "  --framed 0|1          1: a TEXT holds many documents, each behind its length in bytes (8 bytes,\n"
    "                        little-endian)\n"
    "  --bytes 0|1           1: a TEXT is a shard of build/bytes, which holds many\n"
    "  --count 0|1           1: only print how many tokens the tokenizer has, the smallest vocabulary for it\n"
    "  --threads N           default: one for each processor; the shard is the same for any number\n"
    "  --help\n"
    "- is standard input. What one shard cannot hold (2147483647 tokens) goes on in NAME_00001.bin and so on;\n"
    "such shards of an earlier run must be removed first. Meanwhile FILE.lock keeps a second run out.\n";

// ---- options ----

// The value of an option that is 0 or 1; 0 where it was not given.
static int tokens_switch(const char* name, const char* value) {
    if (value && strcmp(value, "0") != 0 && strcmp(value, "1") != 0) {
        die("%s: expected 0 or 1, found '%s'", name, value);
    }
    return value && value[0] == '1';
}

// Fills options from the command line; returns 0 if only help was asked for.
static int tokens_parse(TokensOptions* o, int argc, char** argv) {
    memset(o, 0, sizeof *o);
    const char *special = NULL, *framed = NULL, *bytes = NULL, *count = NULL, *threads = NULL;
    const ArgumentValue known[] = {{"--tokenizer", &o->tokenizer}, {"--out", &o->out},  {"--special", &special},
                                   {"--framed", &framed},          {"--bytes", &bytes}, {"--count", &count},
                                   {"--threads", &threads}};
    o->inputs = arguments_read("tokens", argc, argv, known, sizeof known / sizeof known[0], &o->input_count);
    if (!o->inputs) { return 0; }
    o->count = tokens_switch("--count", count);
    if (!o->tokenizer || (!o->out && !o->count)) {
        die("expected --tokenizer DIR|FILE and --out FILE; see tokens --help");
    }
    if (o->count) {
        if (o->out || o->input_count) { die("--count 1: expected neither --out nor texts beside it"); }
        return 1;
    }
    if (o->input_count == 0) { die("expected texts to read, - is standard input; see tokens --help"); }
    if (special && strcmp(special, "parse") != 0 && strcmp(special, "text") != 0) {
        die("--special: expected text or parse, found '%s'", special);
    }
    o->special = special && strcmp(special, "parse") == 0;
    o->framed = tokens_switch("--framed", framed);
    o->bytes = tokens_switch("--bytes", bytes);
    if (o->framed && o->bytes) { die("expected one of --framed 1 and --bytes 1, found both"); }
    if (threads) {
        char* end = NULL;
        long value = strtol(threads, &end, 10);
        if (*end != 0 || *threads < '0' || *threads > '9' || value < 1 || value > 4096) {
            die("--threads: expected a whole number from 1 to 4096, found '%s'", threads);
        }
        o->threads = (int)value;
    }
    if (strcmp(o->out, "-") == 0) { o->out = "/dev/stdout"; }
    return 1;
}

// ---- writing ----

static void tokens_drop(void) {
    for (int i = 0; i < tokens_out.count; i++) { target_drop(&tokens_out.targets[i]); }
    if (tokens_out.lock) { unlink(tokens_out.lock); }
}

static void tokens_on_signal(int number) {
    for (int i = 0; i < tokens_out.count; i++) {
        if (tokens_out.targets[i].temporary) { unlink(tokens_out.targets[i].temporary); }
    }
    if (tokens_out.lock) { unlink(tokens_out.lock); }
    signal(number, SIG_DFL);
    raise(number);  // it ends the program when this function returns
}

static const int tokens_ends[] = {SIGINT, SIGTERM, SIGHUP};

static void tokens_catch_signals(void) {
    for (int i = 0; i < 3; i++) {
        struct sigaction action, old;
        memset(&action, 0, sizeof action);
        sigemptyset(&action.sa_mask);
        action.sa_handler = tokens_on_signal;
        if (sigaction(tokens_ends[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN) {
            sigaction(tokens_ends[i], &action, NULL);
        }
    }
    signal(SIGXFSZ, SIG_IGN);  // a file size limit is an error of write, with a message
    signal(SIGPIPE, SIG_IGN);  // and so is a reader of --out that has gone
}

// Starts the threads that encode. They never take a signal: where the lists of shards change, the main thread alone
// blocks them.
static void tokens_start_threads(int threads) {
    sigset_t ends, before;
    sigemptyset(&ends);
    for (int i = 0; i < 3; i++) { sigaddset(&ends, tokens_ends[i]); }
    sigprocmask(SIG_BLOCK, &ends, &before);  // threads begin with what is blocked here
    int started = 0;
    (void)threads;  // without OpenMP there is one
#pragma omp parallel num_threads(threads)
    { __atomic_add_fetch(&started, 1, __ATOMIC_RELAXED); }
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (started == 0) { die("no thread could be started"); }
}

// Bytes of a name before its ending, ".bin".
static size_t tokens_stem(const char* path) {
    const char *slash = strrchr(path, '/'), *dot = strrchr(slash ? slash : path, '.');
    return !dot || dot == path || dot[-1] == '/' ? strlen(path) : (size_t)(dot - path);
}

// The name of shard n of `path`: the first is that, then come NAME_00001.bin and so on.
static char* tokens_name(const char* path, int n) {
    size_t stem = tokens_stem(path);
    return n ? format_string("%.*s_%05d%s", (int)stem, path, n, path + stem) : format_string("%s", path);
}

// Keeps other runs out of these shards until this one ends, or dies: the shards of both would mix. OUT must be a file,
// or none.
static void tokens_lock(TokensOut* out) {
    struct stat there;
    if (stat(out->path, &there) == 0 && !S_ISREG(there.st_mode)) { return; }  // refused when it is opened
    char *file = file_resolve(out->path), *lock = format_string("%s.lock", file);
    file_lock(lock, out->path);
    out->lock = lock;
    free(file);
}

// Dies if an earlier run went on in more shards: whoever reads NAME*.bin would take them for this one's.
static void tokens_refuse_others(const char* path) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    char *dir = slash ? format_string("%.*s/", (int)(slash - path), path) : format_string("./"), *found = NULL;
    size_t stem = tokens_stem(name);
    int count = 0;
    char** names = directory_names(dir, &count);
    for (int i = 0; i < count; i++) {
        if (strlen(names[i]) != strlen(name) + 6 || memcmp(names[i], name, stem) != 0) { continue; }
        const char* number = names[i] + stem;  // _00001
        int other = number[0] == '_' && strspn(number + 1, "0123456789") >= 5 && strcmp(number + 6, name + stem) == 0;
        if (other && (!found || strcmp(names[i], found) < 0)) { found = names[i]; }
    }
    if (found) {
        die("%s: expected no shards that go on from it, found %s%s of an earlier run, which would be read with it; "
            "remove these or choose another name",
            path, slash ? dir : "", found);
    }
    directory_free_names(names);
    free(dir);
}

// Writes the header again: only now it is known how many tokens there are.
static void tokens_finish_shard(TokensOut* out, int i) {
    unsigned char header[SHARD_HEADER_BYTES];
    FileTarget* target = &out->targets[i];
    shard_header(header, out->width, (uint32_t)out->tokens[i]);
    int failed =
        target->temporary && (lseek(target->fd, 0, SEEK_SET) != 0 || write_all(target->fd, header, sizeof header) != 0);
    char* error = target_close(target, failed);
    if (error) { die("%s", error); }
}

// Begins the next shard of the name.
static void tokens_next_shard(TokensOut* out) {
    if (out->count) { tokens_finish_shard(out, out->count - 1); }
    int n = out->count;
    FileTarget* targets = (FileTarget*)xalloc((size_t)n + 1, sizeof(FileTarget), "the shards");
    char** names = (char**)xalloc((size_t)n + 1, sizeof(char*), "the shards");
    uint64_t* tokens = (uint64_t*)xalloc((size_t)n + 1, sizeof(uint64_t), "the shards");
    if (n) {
        memcpy(targets, out->targets, (size_t)n * sizeof(FileTarget));
        memcpy(names, out->names, (size_t)n * sizeof(char*));
        memcpy(tokens, out->tokens, (size_t)n * sizeof(uint64_t));
    }
    names[n] = tokens_name(out->path, n);
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &before);  // a signal finds lists that are whole
    char* error = target_open(&targets[n], names[n]);
    FileTarget* old = out->targets;
    out->targets = targets;
    out->names = names;
    out->tokens = tokens;
    out->count = n + 1;
    free(old);
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (error) { die("%s", error); }
    if (!targets[n].temporary) {
        die("%s: expected the name of a file, found %s: the number of tokens, which stands in front, is known at the "
            "end",
            out->path, file_kind(file_mode(out->path)));
    }
    unsigned char header[SHARD_HEADER_BYTES] = {0};
    if (write_all(targets[n].fd, header, sizeof header) != 0) { die("%s", target_close(&targets[n], 1)); }
}

static void tokens_write(TokensOut* out, const int* tokens, size_t n) {
    for (size_t done = 0, some; done < n; done += some) {
        int last = out->count - 1;
        if (out->tokens[last] == tokens_most) {
            tokens_next_shard(out);
            last++;
        }
        some = min_size(min_size(n - done, sizeof out->buffer / 4), (size_t)(tokens_most - out->tokens[last]));
        for (size_t i = 0; i < some; i++) {
            for (int b = 0; b < out->width; b++) {
                out->buffer[i * (size_t)out->width + (size_t)b] = (char)(tokens[done + i] >> 8 * b);
            }
        }
        FileTarget* target = &out->targets[last];
        if (write_all(target->fd, out->buffer, some * (size_t)out->width) != 0) { die("%s", target_close(target, 1)); }
        out->tokens[last] += some;
    }
}

// ---- reading ----

// Documents as they come: from file to file, or one behind the other.
typedef struct {
    const TokensOptions* o;
    int next;              // input
    int fd;                // the open one, -1: none
    const char* path;      // of it, for messages
    uint64_t left;         // framed: bytes that the document still has; bytes: tokens of the shard
    unsigned char* ahead;  // (ahead_size) bytes: what was read of the shard, from `ahead_at` on not yet used
    size_t ahead_at, ahead_size;
    int inside;                        // a document is being read
    uint64_t documents, bytes, total;  // read so far; of all inputs, 0: not known
    const Encoder* encoder;            // says where to cut
    char* rest;                        // (rest_size) of a document that was cut: the next block begins with it
    size_t rest_size;
} TokensReader;

static size_t tokens_read_some(TokensReader* r, char* out, size_t n) {
    for (;;) {
        ssize_t got = read(r->fd, out, n);
        if (got < 0 && errno == EINTR) { continue; }
        if (got < 0) { die("%s: could not be read: %s", r->path, strerror(errno)); }
        return (size_t)got;
    }
}

// Opens the next input; 0: there is none.
static int tokens_next_input(TokensReader* r) {
    if (r->next == r->o->input_count) { return 0; }
    r->path = r->o->inputs[r->next++];
    struct stat info, shard;
    if (strcmp(r->path, "-") == 0) {
        r->path = "standard input";
        r->fd = fcntl(0, F_DUPFD_CLOEXEC, 3);
        if (r->fd < 0 || fstat(r->fd, &info) != 0) { die("-: expected a text on standard input: %s", strerror(errno)); }
    } else if (stat(r->path, &info) == 0 && (S_ISFIFO(info.st_mode) || S_ISCHR(info.st_mode))) {
        r->fd = open(r->path, O_RDONLY | O_CLOEXEC | O_NOCTTY);  // of a pipe, waits for somebody who writes
        if (r->fd < 0) { die("%s: could not be opened: %s", r->path, strerror(errno)); }
    } else {
        const char* why = file_open(r->path, &r->fd, &info);
        if (why) { die("%s: the text could not be opened: %s", r->path, why); }
    }
    if (S_ISDIR(info.st_mode)) { die("%s: expected a text, found a directory; name the files in it", r->path); }
    if (stat(r->o->out, &shard) == 0 && S_ISREG(info.st_mode) && info.st_ino == shard.st_ino &&
        info.st_dev == shard.st_dev) {
        die("%s: the shard would overwrite this text, from which it is made; give it another name", r->o->out);
    }
    return 1;
}

// Opens the next input as a shard of bytes; 0: there is none.
static int tokens_next_shard_of_bytes(TokensReader* r) {
    unsigned char header[SHARD_HEADER_BYTES];
    int32_t words[3];
    if (!tokens_next_input(r)) { return 0; }
    size_t n = 0, got = 1;
    while (n < sizeof header && got) { n += got = tokens_read_some(r, (char*)header + n, sizeof header - n); }
    for (int i = 0; i < 3; i++) {
        words[i] = (int32_t)(header[4 * i] | header[4 * i + 1] << 8 | header[4 * i + 2] << 16 |
                             (uint32_t)header[4 * i + 3] << 24);
    }
    if (n < sizeof header || words[0] != SHARD_MAGIC_16 || words[1] != 1 || words[2] < 0) {
        die("%s: --bytes 1: expected a shard of build/bytes, which begins with %d and a header of %d bytes", r->path,
            SHARD_MAGIC_16, SHARD_HEADER_BYTES);
    }
    r->left = (uint64_t)words[2];
    r->ahead_at = r->ahead_size = 0;
    return 1;
}

// The next token of the shards of bytes, 256 where a document ends; -1: there is none. A document may go on in the next
// shard.
static int tokens_next_byte(TokensReader* r) {
    while (r->fd < 0 || r->left == 0) {
        if (r->fd >= 0) { close(r->fd); }
        r->fd = -1;
        if (!tokens_next_shard_of_bytes(r)) { return -1; }
    }
    if (r->ahead_at == r->ahead_size) {
        if (!r->ahead) { r->ahead = (unsigned char*)xalloc(TOKENS_BLOCK, 1, "a piece of a shard"); }
        size_t want = 2 * (size_t)(r->left < TOKENS_BLOCK / 2 ? r->left : TOKENS_BLOCK / 2), got = 1;
        for (r->ahead_at = r->ahead_size = 0; r->ahead_size < want && got; r->ahead_size += got) {
            got = tokens_read_some(r, (char*)r->ahead + r->ahead_size, want - r->ahead_size);
        }
        if (r->ahead_size < want) {
            die("%s: expected %llu tokens more, found the end; it was cut off", r->path,
                (unsigned long long)(r->left - r->ahead_size / 2));
        }
    }
    int token = r->ahead[r->ahead_at] | r->ahead[r->ahead_at + 1] << 8;
    if (token > BYTES_END) {
        die("%s: --bytes 1: expected tokens from 0 to 256, bytes and ends of texts, found %d", r->path, token);
    }
    r->ahead_at += 2;
    r->left--;
    return token;
}

// Begins the next document of the shards of bytes; 0: there is none.
static int tokens_next_bytes_document(TokensReader* r) {
    int token = tokens_next_byte(r);
    if (token < 0) { return 0; }
    r->ahead_at -= 2;  // it is read again
    r->left++;
    r->inside = 1;
    r->documents++;
    return 1;
}

// Up to n bytes more of the document in shards of bytes; fewer: that was its end.
static size_t tokens_read_bytes(TokensReader* r, char* out, size_t n) {
    size_t done = 0;
    while (done < n) {
        int token = tokens_next_byte(r);
        if (token < 0 || token == BYTES_END) { break; }
        out[done++] = (char)token;
    }
    r->bytes += done;
    return done;
}

// Begins the next document; 0: there is none.
static int tokens_next_document(TokensReader* r) {
    if (r->o->bytes) { return tokens_next_bytes_document(r); }
    for (;;) {
        if (r->fd < 0) {
            if (!tokens_next_input(r)) { return 0; }
            if (!r->o->framed) { break; }
        }
        unsigned char length[8];
        size_t n = 0, got = 1;
        while (n < 8 && got) { n += got = tokens_read_some(r, (char*)length + n, 8 - n); }
        if (n == 8) {
            r->left = 0;
            for (int b = 0; b < 8; b++) { r->left |= (uint64_t)length[b] << 8 * b; }
            break;
        }
        if (n) {
            die("%s: expected the length of document %llu, 8 bytes, found %zu; it was cut off", r->path,
                (unsigned long long)r->documents, n);
        }
        close(r->fd);
        r->fd = -1;
    }
    r->inside = 1;
    r->documents++;
    return 1;
}

// Up to n bytes more of the document; fewer: that is its end.
static size_t tokens_read_document(TokensReader* r, char* out, size_t n) {
    if (r->o->bytes) { return tokens_read_bytes(r, out, n); }
    size_t done = 0, got = 1;
    if (r->o->framed && (uint64_t)n > r->left) { n = (size_t)r->left; }
    while (done < n && got) { done += got = tokens_read_some(r, out + done, n - done); }
    if (r->o->framed && done < n) {
        die("%s: expected %llu bytes more of document %llu, found the end; it was cut off", r->path,
            (unsigned long long)(r->left - done), (unsigned long long)r->documents - 1);
    }
    r->left -= r->o->framed ? done : 0;
    r->bytes += done;
    return done;
}

static void tokens_end_document(TokensReader* r) {
    r->inside = 0;
    if (r->o->framed || r->o->bytes) { return; }
    close(r->fd);
    r->fd = -1;
}

static void block_reserve(TokensBlock* block, size_t capacity) {
    if (capacity <= block->capacity) { return; }
    char* text = (char*)xalloc(capacity, 1, "a block of text");
    if (block->size) { memcpy(text, block->text, block->size); }
    free(block->text);
    block->text = text;
    block->capacity = capacity;
}

// Adds what was read last, from `at` on: of the document that r reads.
static void block_add_part(TokensBlock* block, const TokensReader* r, size_t at, int first, int last) {
    if (block->part_count == block->part_capacity) {
        block->part_capacity = block->part_capacity ? 2 * block->part_capacity : 64;
        TokensPart* parts = (TokensPart*)xalloc(block->part_capacity, sizeof(TokensPart), "documents of a block");
        if (block->part_count) { memcpy(parts, block->parts, block->part_count * sizeof(TokensPart)); }
        free(block->parts);
        block->parts = parts;
    }
    block->parts[block->part_count++] = (TokensPart){at, block->size - at, first, last, r->path, r->documents - 1};
}

// Dies if what was read of a document, since it was last cut, is more than can be encoded.
static void tokens_check_length(const TokensReader* r, size_t size) {
    if (size <= tokens_longest) { return; }
    die("%s: document %llu has %zu bytes among which this tokenizer knows no place to cut it (as before a space "
        "between words); more than %zu cannot be encoded: cut it yourself",
        r->path, (unsigned long long)r->documents - 1, size, tokens_longest);
}

// Fills a block with documents, the last of them perhaps cut; 0: there is nothing left.
static int tokens_fill(TokensReader* r, TokensBlock* block) {
    block->size = block->part_count = 0;
    block_reserve(block, max_size(TOKENS_BLOCK, r->rest_size + TOKENS_BLOCK / 2));
    int first = !r->inside;
    if (r->rest_size) { memcpy(block->text, r->rest, r->rest_size); }
    block->size = r->rest_size;
    r->rest_size = 0;
    for (size_t start = 0;; first = 1, start = block->size) {
        if (!r->inside && !tokens_next_document(r)) { return block->part_count > 0; }
        for (;;) {
            size_t room = block->capacity - block->size;
            size_t got = tokens_read_document(r, block->text + block->size, room);
            block->size += got;
            if (got < room || (r->o->framed && r->left == 0)) {
                tokens_check_length(r, block->size - start);
                tokens_end_document(r);
                block_add_part(block, r, start, first, 1);
                break;
            }
            size_t cut = encoder_cut(r->encoder, block->text + start, block->size - start);
            if (cut) {
                r->rest_size = block->size - start - cut;
                free(r->rest);
                r->rest = (char*)xalloc(r->rest_size, 1, "the rest of a block");
                memcpy(r->rest, block->text + start + cut, r->rest_size);
                block->size -= r->rest_size;
                block_add_part(block, r, start, first, 0);
                return 1;
            }
            tokens_check_length(r, block->size - start);
            block_reserve(block, min_size(2 * block->capacity, max_size(block->size, start + tokens_longest) + 1));
        }
        if (block->size > TOKENS_BLOCK / 2 || block->part_count >= 1 << 16) { return 1; }
    }
}

// ---- encoding ----

static void tokens_encode_block(Encoder* encoder, TokensBlock* block, int eot) {
    encoder->count = 0;
    for (size_t i = 0; i < block->part_count; i++) {
        const TokensPart* part = &block->parts[i];
        encoder->path = part->path;
        encoder->document = part->document;
        encoder_run(encoder, block->text + part->at, part->size, part->first);
        if (part->last) { encoder_append(encoder, &eot, 1); }
    }
    free(block->tokens);
    block->count = encoder->count;
    block->tokens = (int*)xalloc(block->count, sizeof(int), "the tokens of a block");
    if (block->count) { memcpy(block->tokens, encoder->tokens, block->count * sizeof(int)); }
}

// Gives back the tokens of a block, and its text where that is larger than usual: a document without a place to cut.
static void tokens_free_large(TokensBlock* block) {
    free(block->tokens);
    block->tokens = NULL;
    block->count = 0;
    if (block->capacity <= 2 * TOKENS_BLOCK) { return; }
    free(block->text);
    block->text = NULL;
    block->size = block->capacity = 0;
}

// A line on stderr every second on a terminal, every half minute elsewhere.
static void tokens_progress(const TokensReader* r, uint64_t tokens, double started, double* shown) {
    double now = now_seconds();
    int terminal = isatty(2);
    if (now - *shown < (terminal ? 1 : 30)) { return; }
    *shown = now;
    double rate = (double)r->bytes / (now - started);
    char left[64] = "";
    if (r->total > r->bytes) {
        snprintf(left, sizeof left, ", %.0f of %.0f MB, %.0f s left", (double)r->bytes / 1e6, (double)r->total / 1e6,
                 (double)(r->total - r->bytes) / rate);
    }
    fprintf(stderr, "%s%llu documents, %.1f M tokens, %.1f MB/s%s%s", terminal ? "\r" : "",
            (unsigned long long)r->documents, (double)tokens / 1e6, rate / 1e6, left, terminal ? "\033[K" : "\n");
}

// Bytes of all inputs; 0: not known.
static uint64_t tokens_total(const TokensOptions* o) {
    uint64_t total = 0;
    for (int i = 0; i < o->input_count; i++) {
        struct stat info;
        if (stat(o->inputs[i], &info) != 0 || !S_ISREG(info.st_mode)) { return 0; }
        total += (uint64_t)info.st_size / (o->bytes ? 2 : 1);
    }
    return total;
}

// Reads, encodes and writes everything, a batch of blocks at a time; returns the number of tokens.
static uint64_t tokens_run(TokensReader* r, const Tokenizer* tokenizer, int threads, TokensOut* out) {
    int eot = tokenizer_eot(tokenizer), batch = threads > 1 ? 4 * threads : 1;
    Encoder* encoders = (Encoder*)xalloc((size_t)threads, sizeof(Encoder), "the encoders");
    TokensBlock* blocks = (TokensBlock*)xalloc((size_t)batch, sizeof(TokensBlock), "the blocks");
    for (int i = 0; i < threads; i++) { encoder_begin(&encoders[i], tokenizer, r->o->special); }
    r->encoder = &encoders[0];
    uint64_t tokens = 0;
    double started = now_seconds(), shown = started;
    for (int more = 1; more;) {
        int count = 0;
        // Few blocks where they are large.
        for (size_t bytes = 0; count < batch && bytes <= 2 * (size_t)batch * TOKENS_BLOCK; count++) {
            more = tokens_fill(r, &blocks[count]);
            if (!more) { break; }
            bytes += blocks[count].size;
        }
#pragma omp parallel for schedule(dynamic) num_threads(threads)
        for (int i = 0; i < count; i++) { tokens_encode_block(&encoders[thread_index()], &blocks[i], eot); }
        for (int i = 0; i < count; i++) {
            tokens_write(out, blocks[i].tokens, blocks[i].count);
            tokens += blocks[i].count;
            tokens_free_large(&blocks[i]);
        }
        for (int i = 0; i < threads; i++) {  // and what merging such a document took
            if (encoders[i].capacity <= 4 * TOKENS_BLOCK) { continue; }
            encoder_end(&encoders[i]);
            encoder_begin(&encoders[i], tokenizer, r->o->special);
        }
        tokens_progress(r, tokens, started, &shown);
    }
    if (shown > started && isatty(2)) { fprintf(stderr, "\r\033[K"); }
    for (int i = 0; i < threads; i++) { encoder_end(&encoders[i]); }
    for (int i = 0; i < batch; i++) {
        free(blocks[i].text);
        free(blocks[i].parts);
        free(blocks[i].tokens);
    }
    free(encoders);
    free(blocks);
    free(r->rest);
    free(r->ahead);
    return tokens;
}

// Dies unless the tokenizer can make shards.
static Tokenizer* tokens_open_tokenizer(const char* path) {
    struct stat info;
    if (stat(path, &info) != 0) {
        die("--tokenizer %s: expected a tokenizer.json or tokenizer.model, or a directory with one: %s", path,
            strerror(errno));
    }
    Tokenizer* tokenizer = tokenizer_open(path, TOKENIZER_MAX);
    if (tokenizer->kind == TOKENIZER_NUMBERS) {
        die("--tokenizer %s: expected tokenizer.json, vocab.json with merges.txt, or SentencePiece's tokenizer.model, "
            "found none of them",
            path);
    }
    if (tokenizer->refusal) { die("--tokenizer %s: it cannot encode: %s", path, tokenizer->refusal); }
    if (tokenizer_eot(tokenizer) < 0) {
        die("--tokenizer %s: expected a token that ends a text, found none; name one in tokenizer_config.json beside "
            "it, "
            "as in {\"eos_token\": \"</s>\"}",
            path);
    }
    for (int byte = 0; byte < 256 && tokenizer->kind == TOKENIZER_BPE; byte++) {
        int utf8 = byte != 0xc0 && byte != 0xc1 && byte < 0xf5;  // GPT-NeoX's has no tokens for the others
        if (!utf8 || tokenizer->byte_token[byte] >= 0 || tokenizer->unknown >= 0) { continue; }
        die("--tokenizer %s: expected a token for every byte of UTF-8, or an unk_token, found none for the byte "
            "0x%02x; a text with that could not be encoded",
            path, byte);
    }
    return tokenizer;
}

// The program; returns its exit status.
static int tokens_main(int argc, char** argv) {
    TokensOptions o;
    output_begin();
    if (!tokens_parse(&o, argc, argv)) {
        fputs(tokens_usage, stdout);
        return output_end(0);
    }
    memset(&tokens_out, 0, sizeof tokens_out);
    tokens_catch_signals();
    die_last = tokens_drop;
    Tokenizer* tokenizer = tokens_open_tokenizer(o.tokenizer);
    if (o.count) {
        printf("%d\n", tokenizer->count);
        tokenizer_close(tokenizer);
        free(o.inputs);
        return output_end(0);
    }
    TokensReader r;
    memset(&r, 0, sizeof r);
    r.o = &o;
    r.fd = -1;
    r.total = tokens_total(&o);
    TokensOut* out = &tokens_out;
    out->path = o.out;
    out->width = tokenizer->count > 65536 ? 4 : 2;
    char* parent = format_string("%s", o.out);
    char *slash = strrchr(parent, '/'), *error = NULL;
    if (slash && slash > parent) {
        *slash = 0;
        error = directory_make(parent);
    }
    free(parent);
    if (error) { die("%s", error); }
    tokens_lock(out);
    tokens_refuse_others(o.out);
    int threads = o.threads ? o.threads : thread_count();
    tokens_start_threads(threads);
    tokens_next_shard(out);
    double started = now_seconds();
    uint64_t tokens = tokens_run(&r, tokenizer, threads, out);
    tokens_finish_shard(out, out->count - 1);
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &before);  // a signal finds names that are in place, or none
    for (int i = 0; i < out->count && !error; i++) { error = target_place(&out->targets[i]); }
    if (error) { die("%s", error); }
    if (out->lock) { unlink(out->lock); }
    free(out->lock);
    out->lock = NULL;
    sigprocmask(SIG_SETMASK, &before, NULL);
    die_last = NULL;
    double seconds = now_seconds() - started;
    printf("%s: %llu documents, %llu bytes, %llu tokens of %d bytes, %.1f MB/s\n", o.out,
           (unsigned long long)r.documents, (unsigned long long)r.bytes, (unsigned long long)tokens, out->width,
           (double)r.bytes / 1e6 / fmax(seconds, 1e-9));
    for (int i = 0; i < out->count; i++) {
        if (out->count > 1) { printf("  %s: %llu tokens\n", out->names[i], (unsigned long long)out->tokens[i]); }
        free(out->names[i]);
    }
    free(out->names);
    free(out->tokens);
    free(out->targets);
    out->count = 0;
    tokenizer_close(tokenizer);
    free(o.inputs);
    return output_end(0);
}

#ifndef TESTING
int main(int argc, char** argv) { return tokens_main(argc, argv); }
#endif
