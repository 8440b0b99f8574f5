// shards.h - token shards: files of tokens, cut into rows of T inputs and T targets.
//
//     Shards* shards = shards_open("data/headers/train.bin", T, V);
//     uint64_t row = shards_stream_row(shards, position, 1, seed);     position 0, 1, 2, ... without end
//     shards_row(shards, row, inputs, targets);
//
// The format is that of llm.c: a header of 256 little-endian 32-bit integers, then the tokens.
//
//     header[0]  header[1]  token
//     20240520   1          uint16          header[2] is the number of tokens,
//     20240801   7          uint32          the other 253 numbers are not looked at
//
// Row r of a shard is its tokens r*T .. r*T+T, T+1 of them: input t is token t of the row, its
// target is token t+1. (So the last token of a row is the first of the next.) Rows do not cross
// shards; what is too short for a last row is left out, and counted in tail_tokens. Tokens are
// unsigned: a target of -1, which losses ignore, cannot come out of a shard.
//
// Not for several threads at once: reads share a buffer.
#ifndef PONDER_SHARDS_H
#define PONDER_SHARDS_H

#include "../base.h"
#include "../open.h"
#include "../random.h"

#include <fcntl.h>
#include <glob.h>
#include <sys/stat.h>

enum {
    SHARD_MAGIC_16 = 20240520,  // version 1: uint16
    SHARD_MAGIC_32 = 20240801,  // version 7: uint32
    SHARD_HEADER = 256,         // int32 numbers
    SHARD_HEADER_BYTES = 4 * SHARD_HEADER,
    SHARD_BLOCK = 1 << 16,  // bytes that are looked at in one piece
    SHARDS_MAX_OPEN = 64,   // files open at a time; a system may allow no more than 256
};

typedef struct {
    char* path;
    uint64_t bytes;  // of the file
    uint64_t tokens;
    int width;           // bytes of a token: 2 or 4
    uint64_t first_row;  // its row 0 is this row of all
    uint64_t rows;
    uint32_t largest;  // token of those that shard_hash read,
    uint64_t looked;   // which are so many
    int fd;            // -1 while closed
} Shard;

typedef struct {
    Shard* list;  // (files), sorted by path
    int files;
    int T, V;
    uint64_t tokens;            // in all shards
    uint64_t rows;              // whole rows in all shards
    uint64_t tail_tokens;       // tokens that are in no row
    uint64_t hash;              // tells this list of shards from others, see shards_hash
    unsigned char* buffer;      // (T+1) tokens as they lie in a file
    int open[SHARDS_MAX_OPEN];  // indices of open files, -1: free
    int next_open;              // the slot that the next file takes
} Shards;

static inline uint32_t shard_u32(const unsigned char* p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

// Writes the header of a shard of `tokens` tokens of 2 or 4 bytes into out (SHARD_HEADER_BYTES).
static inline void shard_header(unsigned char* out, int width, uint32_t tokens) {
    memset(out, 0, SHARD_HEADER_BYTES);
    uint32_t numbers[3] = {width == 2 ? (uint32_t)SHARD_MAGIC_16 : (uint32_t)SHARD_MAGIC_32, width == 2 ? 1u : 7u,
                           tokens};
    for (int i = 0; i < 3; i++) {
        for (int b = 0; b < 4; b++) { out[4 * i + b] = (unsigned char)(numbers[i] >> 8 * b); }
    }
}

// ---- finding and checking files ----

static inline int shard_compare(const void* a, const void* b) {
    return strcmp(((const Shard*)a)->path, ((const Shard*)b)->path);
}

// Reads n bytes at an offset, or dies: a file may shrink while it is being read.
static inline void shard_read(const Shard* shard, int fd, void* out, size_t n, uint64_t offset) {
    size_t done = 0;
    while (done < n) {
        ssize_t got = pread(fd, (char*)out + done, n - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR) { continue; }
        if (got < 0) {
            die("%s: could not be read at byte %llu: %s", shard->path, (unsigned long long)(offset + done),
                strerror(errno));
        }
        if (got == 0) {
            struct stat info;
            uint64_t bytes = fstat(fd, &info) == 0 ? (uint64_t)info.st_size : offset + done;
            die("%s: expected %llu bytes, found %llu: the file has become shorter since the program started; "
                "do not write shards while they are in use",
                shard->path, (unsigned long long)shard->bytes, (unsigned long long)bytes);
        }
        done += (size_t)got;
    }
}

static inline int shard_open_file(const char* path, struct stat* info) {
    int fd = -1;
    const char* why = file_open(path, &fd, info);
    if (!why) { return fd; }
    if (errno == EISDIR) {
        die("%s: expected a shard, found a directory; name the files in it, as in '%s/*.bin'", path, path);
    }
    die("%s: the shard could not be opened: %s", path, why);
}

// Opens the file and checks that its header is one of ours and agrees with the file's size.
static inline int shard_check(Shard* shard) {
    const char* path = shard->path;
    struct stat info;
    int fd = shard_open_file(path, &info);
    shard->bytes = (uint64_t)info.st_size;
    if (shard->bytes == 0) { die("%s: expected a shard, found an empty file; make it again", path); }
    unsigned char header[SHARD_HEADER_BYTES] = {0};
    shard_read(shard, fd, header, min_size(SHARD_HEADER_BYTES, shard->bytes), 0);
    uint32_t magic = shard_u32(header), version = shard_u32(header + 4);
    if (shard->bytes < 4 || (magic != SHARD_MAGIC_16 && magic != SHARD_MAGIC_32)) {
        int text = 1;  // no control characters but tab and line ends
        for (size_t i = 0; i < min_size(256, shard->bytes); i++) {
            text = text && (header[i] >= 0x20 || header[i] == '\t' || header[i] == '\n' || header[i] == '\r');
        }
        int swapped = magic == __builtin_bswap32(SHARD_MAGIC_16) || magic == __builtin_bswap32(SHARD_MAGIC_32);
        die("%s: expected a token shard (magic number %d or %d), found %u; %s", path, SHARD_MAGIC_16, SHARD_MAGIC_32,
            magic,
            text      ? "it looks like text: build/bytes turns text into shards"
            : swapped ? "its bytes are in big-endian order: write it on a little-endian machine"
                      : "it is no shard, or is damaged");
    }
    shard->width = magic == SHARD_MAGIC_16 ? 2 : 4;
    if (shard->bytes < SHARD_HEADER_BYTES) {
        die("%s: expected a header of %d bytes, found a file of %llu; it was cut off, make it again", path,
            SHARD_HEADER_BYTES, (unsigned long long)shard->bytes);
    }
    uint32_t expected = shard->width == 2 ? 1 : 7;
    if (version != expected) {
        die("%s: expected version %u of a shard with magic number %u, found version %u; "
            "it was made by other software, or a later one",
            path, expected, magic, version);
    }
    int64_t tokens = (int32_t)shard_u32(header + 8);
    if (tokens <= 0) {
        die("%s: expected a number of tokens in the header, found %lld; make it again", path, (long long)tokens);
    }
    uint64_t bytes = SHARD_HEADER_BYTES + (uint64_t)tokens * (uint64_t)shard->width;
    if (bytes != shard->bytes) {
        die("%s: the header says %lld tokens, which take %llu bytes, but the file has %llu; %s", path,
            (long long)tokens, (unsigned long long)bytes, (unsigned long long)shard->bytes,
            shard->bytes < bytes ? "it was cut off, copy or make it again" : "it is damaged, make it again");
    }
    shard->tokens = (uint64_t)tokens;
    return fd;
}

static inline void shards_add(Shards* shards, int* capacity, const char* path) {
    if (shards->files == *capacity) {
        *capacity = *capacity ? 2 * *capacity : 16;
        Shard* list = (Shard*)xalloc((size_t)*capacity, sizeof(Shard), "the list of shards");
        if (shards->files) { memcpy(list, shards->list, (size_t)shards->files * sizeof(Shard)); }
        free(shards->list);
        shards->list = list;
    }
    Shard* shard = &shards->list[shards->files++];
    shard->path = format_string("%s", path);
    shard->fd = -1;
}

// Adds the files that a pattern stands for: a file of just that name, or what glob(3) finds. 0 if there is none.
static inline int shards_add_pattern(Shards* shards, int* capacity, const char* pattern) {
    struct stat info;
    if (stat(pattern, &info) == 0) {
        shards_add(shards, capacity, pattern);
        return 1;
    }
    int flags = 0;
#ifdef GLOB_BRACE  // {a,b} and ~, where the system has them
    flags |= GLOB_BRACE | GLOB_TILDE;
#endif
    glob_t found;
    memset(&found, 0, sizeof found);
    int result = glob(pattern, flags, NULL, &found);
    if (result == GLOB_NOSPACE) { die("out of memory while looking for '%s'", pattern); }
    int count = result == 0 ? (int)found.gl_pathc : 0;
    for (int i = 0; i < count; i++) { shards_add(shards, capacity, found.gl_pathv[i]); }
    globfree(&found);
    return count > 0;
}

// Adds every pattern of a list "a,b": commas separate, except in {...}. The first pattern that no file matches
// (the caller frees it), NULL if all have some.
static inline char* shards_find(Shards* shards, const char* patterns) {
    char* missing = NULL;
    int capacity = 0;
    struct stat info;
    char* list = format_string("%s", patterns);
    if (stat(list, &info) == 0) {  // one file whose name may well have a comma
        shards_add(shards, &capacity, list);
    } else {
        int depth = 0;
        char* start = list;
        for (char* at = list;; at++) {
            if (*at == '{') { depth++; }
            if (*at == '}' && depth > 0) { depth--; }
            if (*at != 0 && (*at != ',' || depth > 0)) { continue; }
            int last = *at == 0;
            *at = 0;
            if (at > start && !shards_add_pattern(shards, &capacity, start) && !missing) {
                missing = format_string("%s", start);
            }
            start = at + 1;
            if (last) { break; }
        }
    }
    free(list);
    if (shards->files == 0 && !missing) { missing = format_string("%s", patterns); }
    return missing;
}

// Sorts by path and drops files that several patterns found (by whatever name).
static inline void shards_sort(Shards* shards) {
    qsort(shards->list, (size_t)shards->files, sizeof(Shard), shard_compare);
    struct stat* seen = (struct stat*)xalloc((size_t)shards->files, sizeof(struct stat), "the list of shards");
    int kept = 0;
    for (int i = 0; i < shards->files; i++) {
        Shard* shard = &shards->list[i];
        if (stat(shard->path, &seen[kept]) != 0) {
            die("%s: the shard could not be looked at: %s", shard->path, strerror(errno));
        }
        int same = -1;
        for (int j = 0; j < kept && same < 0; j++) {
            if (seen[j].st_ino == seen[kept].st_ino && seen[j].st_dev == seen[kept].st_dev) { same = j; }
        }
        if (same >= 0) {
            if (strcmp(shards->list[same].path, shard->path) != 0) {
                warn("%s is the same file as %s: it is read once", shard->path, shards->list[same].path);
            }
            free(shard->path);
        } else {
            shards->list[kept++] = *shard;
        }
    }
    shards->files = kept;
    free(seen);
}

// The largest token of n bytes of a shard that begin at byte `at` of the file; tokens that are not whole are left out.
static inline void shard_look(Shard* shard, const unsigned char* bytes, size_t n, uint64_t at) {
    size_t width = (size_t)shard->width, i = at < SHARD_HEADER_BYTES ? (size_t)(SHARD_HEADER_BYTES - at) : 0;
    i += (size_t)((width - (at + i) % width) % width);
    for (; i + width <= n; i += width, shard->looked++) {
        uint32_t token = width == 2 ? (uint32_t)bytes[i] | (uint32_t)bytes[i + 1] << 8 : shard_u32(bytes + i);
        if (token > shard->largest) { shard->largest = token; }
    }
}

// Byte where block i of `blocks` begins, spread evenly from a shard's first byte to its last; whole: one after the
// other. Blocks have SHARD_BLOCK bytes, the last of a whole file fewer.
static inline uint64_t shard_block_at(const Shard* shard, int whole, uint64_t blocks, uint64_t i) {
    return whole ? i * SHARD_BLOCK : i * (shard->bytes - SHARD_BLOCK) / (blocks - 1);
}

// Continues a hash with what makes a shard itself: its name without directories (data may move),
// its size and token width, and its contents: all of them up to `budget` bytes, else blocks of
// 64 kB spread evenly from the first byte to the last. Also finds the largest token there.
static inline uint64_t shard_hash(uint64_t hash, Shard* shard, int fd, uint64_t budget) {
    const char* slash = strrchr(shard->path, '/');
    const char* base = slash ? slash + 1 : shard->path;
    hash = hash_bytes(hash, base, strlen(base) + 1);
    uint64_t sizes[2] = {shard->bytes, (uint64_t)shard->width};
    for (int i = 0; i < 16; i++) {  // byte by byte, so that byte order does not matter
        unsigned char byte = (unsigned char)(sizes[i / 8] >> 8 * (i % 8));
        hash = hash_bytes(hash, &byte, 1);
    }
    unsigned char* block = (unsigned char*)xalloc(SHARD_BLOCK, 1, "hashing a shard");
    int whole = shard->bytes <= budget;
    uint64_t blocks = whole ? div_up(shard->bytes, SHARD_BLOCK) : max_size(2, budget / SHARD_BLOCK);
    for (uint64_t i = 0; i < blocks; i++) {
        uint64_t at = shard_block_at(shard, whole, blocks, i);
        size_t n = min_size(SHARD_BLOCK, shard->bytes - at);
        shard_read(shard, fd, block, n, at);
        hash = hash_bytes(hash, block, n);
        shard_look(shard, block, n, at);
    }
    free(block);
    return hash;
}

// Opens the shards that `patterns` names: file names or globs, separated by commas; both token
// widths may be mixed. T: inputs of a row; V: size of the vocabulary. Checks every header; dies
// if a file is not a sound shard, and if there is not one whole row in all of them.
static inline Shards* shards_open(const char* patterns, int T, int V) {
    if (T < 1 || V < 1) { die("shards: a row has %d tokens of a vocabulary of %d; both must be positive", T, V); }
    Shards* shards = (Shards*)xalloc(1, sizeof(Shards), "the shards");
    shards->T = T;
    shards->V = V;
    char* missing = shards_find(shards, patterns);
    if (missing && *missing && strspn(missing, ",") != strlen(missing)) {
        die("no shard found: '%s' matches no file here; `make data` makes the default corpus, "
            "build/bytes makes shards of any text, data/README.md says how to get others",
            missing);
    } else if (missing) {
        die("no shard found: expected the name of a file or a pattern like 'data/*.bin', found '%s'", patterns);
    }
    shards_sort(shards);
    const Shard* largest = NULL;
    uint64_t budget = (uint64_t)64 << 20;  // bytes to hash, of all files together; at most 4 MB of one
    budget = max_size((size_t)1 << 17, min_size((size_t)4 << 20, (size_t)(budget / (uint64_t)shards->files)));
    uint64_t hash = HASH_START;
    for (int i = 0; i < shards->files; i++) {
        Shard* shard = &shards->list[i];
        int fd = shard_check(shard);
        hash = shard_hash(hash, shard, fd, budget);
        close(fd);
        shard->first_row = shards->rows;
        shard->rows = (shard->tokens - 1) / (uint64_t)T;
        shards->rows += shard->rows;
        shards->tokens += shard->tokens;
        shards->tail_tokens += shard->rows ? shard->tokens - 1 - shard->rows * (uint64_t)T : shard->tokens;
        if (largest == NULL || shard->tokens > largest->tokens) { largest = shard; }
    }
    shards->hash = hash;
    if (shards->rows == 0) {
        die("%s: no shard holds a whole row: rows of %d need %lld tokens, the largest of %d, %s, has %llu; "
            "use a shorter --seq or longer shards",
            patterns, T, (long long)T + 1, shards->files, largest->path, (unsigned long long)largest->tokens);
    }
    shards->buffer = (unsigned char*)xalloc((size_t)T + 1, 4, "a row of tokens");
    for (int i = 0; i < SHARDS_MAX_OPEN; i++) { shards->open[i] = -1; }
    return shards;
}

// 1 if every pattern of a list matches a file here; nothing is opened.
static inline int shards_there(const char* patterns) {
    Shards shards;
    memset(&shards, 0, sizeof shards);
    char* missing = shards_find(&shards, patterns);
    int there = missing == NULL;
    for (int i = 0; i < shards.files; i++) { free(shards.list[i].path); }
    free(shards.list);
    free(missing);
    return there;
}

// The largest token that was looked at when the shards were opened, and = *looked, how many tokens those are.
static inline uint32_t shards_largest(const Shards* shards, uint64_t* looked) {
    uint32_t largest = 0;
    *looked = 0;
    for (int i = 0; i < shards->files; i++) {
        if (shards->list[i].largest > largest) { largest = shards->list[i].largest; }
        *looked += shards->list[i].looked;
    }
    return largest;
}

// 1 if two shards hold the same bytes: all of them up to 4 MB, else in as many blocks of 64 kB.
static inline int shard_same_contents(const Shard* a, const Shard* b) {
    if (a->bytes != b->bytes) { return 0; }
    unsigned char* block = (unsigned char*)xalloc(2 * SHARD_BLOCK, 1, "comparing shards");
    struct stat info;
    int fds[2] = {shard_open_file(a->path, &info), shard_open_file(b->path, &info)}, same = 1;
    int whole = a->bytes <= (uint64_t)64 * SHARD_BLOCK;
    uint64_t blocks = whole ? div_up(a->bytes, SHARD_BLOCK) : 64;
    for (uint64_t i = 0; i < blocks && same; i++) {
        uint64_t at = shard_block_at(a, whole, blocks, i);
        size_t n = min_size(SHARD_BLOCK, a->bytes - at);
        shard_read(a, fds[0], block, n, at);
        shard_read(b, fds[1], block + SHARD_BLOCK, n, at);
        same = memcmp(block, block + SHARD_BLOCK, n) == 0;
    }
    for (int i = 0; i < 2; i++) { close(fds[i]); }
    free(block);
    return same;
}

// The first shard of `some` that is also in `all`, by file or by contents; = *twin, the one there. NULL: none is.
static inline const Shard* shards_overlap(const Shards* some, const Shards* all, const Shard** twin) {
    struct stat* seen = (struct stat*)xalloc((size_t)all->files, sizeof(struct stat), "the list of shards");
    for (int j = 0; j < all->files; j++) {
        if (stat(all->list[j].path, &seen[j]) != 0) { memset(&seen[j], 0, sizeof seen[j]); }
    }
    const Shard* found = NULL;
    for (int i = 0; i < some->files && !found; i++) {
        struct stat info;
        if (stat(some->list[i].path, &info) != 0) { continue; }
        for (int j = 0; j < all->files && !found; j++) {
            int same = info.st_ino == seen[j].st_ino && info.st_dev == seen[j].st_dev;
            if (same || shard_same_contents(&some->list[i], &all->list[j])) {
                found = &some->list[i];
                *twin = &all->list[j];
            }
        }
    }
    free(seen);
    return found;
}

static inline void shards_close(Shards* shards) {
    if (shards == NULL) { return; }
    for (int i = 0; i < shards->files; i++) {
        if (shards->list[i].fd >= 0) { close(shards->list[i].fd); }
        free(shards->list[i].path);
    }
    free(shards->list);
    free(shards->buffer);
    free(shards);
}

// ---- reading rows ----

// The shard's file, opened if it is not; the file that has been open longest makes room.
static inline int shards_file(Shards* shards, int index) {
    Shard* shard = &shards->list[index];
    if (shard->fd >= 0) { return shard->fd; }
    int* slot = &shards->open[shards->next_open];
    shards->next_open = (shards->next_open + 1) % SHARDS_MAX_OPEN;
    if (*slot >= 0) {
        close(shards->list[*slot].fd);
        shards->list[*slot].fd = -1;
    }
    *slot = index;
    struct stat info;
    shard->fd = shard_open_file(shard->path, &info);
    return shard->fd;
}

// Row `row`, counted through all shards: inputs(T) = and targets(T) =. Dies on a token outside the
// vocabulary.
static inline void shards_row(Shards* shards, uint64_t row, int* inputs, int* targets) {
    if (row >= shards->rows) {
        die("shards: row %llu of %llu was asked for", (unsigned long long)row, (unsigned long long)shards->rows);
    }
    int low = 0, high = shards->files - 1;  // the last shard with first_row <= row holds it
    while (low < high) {
        int middle = low + (high - low + 1) / 2;
        if (shards->list[middle].first_row <= row) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    Shard* shard = &shards->list[low];
    size_t T = (size_t)shards->T, width = (size_t)shard->width;
    uint64_t first = (row - shard->first_row) * T;
    shard_read(shard, shards_file(shards, low), shards->buffer, (T + 1) * width, SHARD_HEADER_BYTES + first * width);
    for (size_t t = 0; t <= T; t++) {
        const unsigned char* p = shards->buffer + t * width;
        uint32_t token = width == 2 ? (uint32_t)p[0] | (uint32_t)p[1] << 8 : shard_u32(p);
        if (token >= (uint32_t)shards->V) {
            die("%s: token %u at position %llu is outside the vocabulary of %d (0 to %d); "
                "the shard was made with another tokenizer than the model's, or is damaged",
                shard->path, token, (unsigned long long)(first + t), shards->V, shards->V - 1);
        }
        if (t < T) { inputs[t] = (int)token; }
        if (t > 0) { targets[t - 1] = (int)token; }
    }
}

// The row at a position of the endless stream: epoch after epoch, in order (shuffle 0) or each
// epoch in a permutation of all rows that (seed, epoch) choose.
static inline uint64_t shards_stream_row(const Shards* shards, uint64_t position, int shuffle, uint64_t seed) {
    uint64_t epoch = position / shards->rows, i = position % shards->rows;
    return shuffle ? random_permute(seed, epoch, shards->rows, i) : i;
}

#endif
