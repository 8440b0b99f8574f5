// bytes.c - turns text files into token shards of bytes.
//
//     build/bytes --out-train data/headers/train.bin --out-val data/headers/val.bin --compiler cc
//     build/bytes --out data/mine/all.bin --suffix .txt,.md ~/texts
//
// A token is a byte; 256 (end of text) follows every file. The corpus depends on the contents of
// the files alone, not on their names, places or order: equal contents are taken once, and a hash
// of contents and seed decides the order, which files a limit leaves out, and which are for
// validation. So the same files give the same shards on every machine.
//
// Pipeline: find files -> read each once (text? seen before?) -> order by hash -> choose and split
// -> read again, write shards under temporary names -> rename. No text is held in memory, so its size does
// not matter; what comes through a pipe can be read only once and waits in a temporary file.
#include "../common/files/file.h"
#include "../common/files/shards.h"
#include "arguments.h"

#include <signal.h>

#define SMALL_CORPUS 5000000      // bytes below which a model soon knows the text by heart
#define COMPILER_CORPUS 50000000  // bytes taken of the compiler's headers unless --max-bytes says otherwise
#define COMPILER_FILE 1000000     // larger headers are generated tables
#define NEAR_LINE 200             // bytes: a line end so near is always better than a cut inside a line

typedef struct {
    const char *out, *out_train, *out_val;
    double val_share;
    uint64_t max_bytes, max_file;  // 0: no limit
    const char* suffixes;          // ".h,.c": of files in directories; NULL: all
    const char* compiler;          // whose include directories are taken as well, NULL: none
    uint64_t seed;
    int input_count;
    char** inputs;
} BytesOptions;

typedef enum { TEXT_WHOLE, TEXT_HEAD, TEXT_TAIL } TextPart;

typedef struct {
    char* path;
    int fd;             // holds its bytes; -1: the file `path`, opened whenever they are read
    uint64_t at, size;  // which bytes there
    uint64_t hash;      // of the contents, of the whole file even if this is a part
    uint64_t order;     // its place: files are sorted by this
    TextPart part;      // of a file that is cut between training and validation
} TextFile;

typedef struct {
    TextFile* files;
    size_t count, capacity;
    struct stat* seen;  // directories walked, each once however many links lead there, and pipes read
    size_t seen_count, seen_capacity;
    int spool;             // temporary file that holds what came through pipes; -1: none yet
    uint64_t spool_bytes;  // in it
    uint64_t head_hash;    // while shards are written: of the part of the cut file that is written already
    uint64_t duplicates, empty, binary, large, unreadable, special, beyond;  // files left out, by reason
} Corpus;

enum { TEXT_CHUNK = 1 << 17 };
static unsigned char text_chunk[TEXT_CHUNK];

static const char* const bytes_usage =
    "usage: bytes --out FILE [options] FILE|DIR|- ...\n"
    "       bytes --out-train FILE --out-val FILE [options] FILE|DIR|- ...\n"
    "Makes token shards of bytes (vocabulary 257: 256 is end of text, after each file).\n"
    "\n"
    "  --out FILE         one shard with everything\n"
    "  --out-train FILE   two shards; files stay whole, unless one has to be cut to meet the share\n"
    "  --out-val FILE\n"
    "  --val-share X      share of the bytes that goes to validation (default 0.1)\n"
    "  --max-bytes N      take at most N bytes (default: no limit; 50000000 with --compiler)\n"
    "  --max-file N       leave out files of more than N bytes (default: no limit; 1000000 with --compiler)\n"
    "  --suffix .h,.c     of directories take only files with these endings (default: all)\n"
    "  --compiler CC      take the headers in the include directories of this compiler, too\n"
    "  --seed N           another order, choice and split (default 0)\n"
    "  --help\n"
    "Directories are walked; - is standard input, and pipes are read to their end. Equal contents are taken\n"
    "once; files with a zero byte are no text and are left out. The same contents give the same shards, wherever\n"
    "they lie. What one shard cannot hold (2147483647 tokens) goes on in NAME_00001.bin and so on.\n";

// ---- options ----

static uint64_t bytes_whole(const char* name, const char* text) {
    char* end = NULL;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != 0 || errno != 0) {
        die("%s: expected a whole number from 0 up, found '%s'", name, text);
    }
    return value;
}

// Fills options from the command line; returns 0 if only help was asked for.
static int bytes_parse(BytesOptions* o, int argc, char** argv) {
    memset(o, 0, sizeof *o);
    o->val_share = 0.1;
    const char *max_bytes = NULL, *max_file = NULL, *seed = NULL, *val_share = NULL;
    const ArgumentValue known[] = {
        {"--out", &o->out},          {"--out-train", &o->out_train}, {"--out-val", &o->out_val},
        {"--val-share", &val_share}, {"--max-bytes", &max_bytes},    {"--max-file", &max_file},
        {"--suffix", &o->suffixes},  {"--compiler", &o->compiler},   {"--seed", &seed},
    };
    o->inputs = arguments_read("bytes", argc, argv, known, sizeof known / sizeof known[0], &o->input_count);
    if (!o->inputs) { return 0; }
    if (o->compiler) {
        o->max_bytes = COMPILER_CORPUS;
        o->max_file = COMPILER_FILE;
    }
    if (max_bytes) { o->max_bytes = bytes_whole("--max-bytes", max_bytes); }
    if (max_file) { o->max_file = bytes_whole("--max-file", max_file); }
    if (seed) { o->seed = bytes_whole("--seed", seed); }
    if (val_share) {
        char* end = NULL;
        o->val_share = strtod(val_share, &end);
        if (*end != 0 || end == val_share || !(o->val_share > 0 && o->val_share < 1)) {
            die("--val-share: expected a number between 0 and 1, found '%s'", val_share);
        }
    }
    const char** const outputs[] = {&o->out, &o->out_train, &o->out_val};
    for (int i = 0; i < 3; i++) {
        if (*outputs[i] && strcmp(*outputs[i], "-") == 0) { *outputs[i] = "/dev/stdout"; }
    }
    if (o->out && (o->out_train || o->out_val)) {
        die("--out makes one shard, --out-train and --out-val make two: give one or the others");
    }
    if (!o->out && !(o->out_train && o->out_val)) {
        die("expected --out FILE, or both --out-train FILE and --out-val FILE; see bytes --help");
    }
    if (!o->out && strcmp(o->out_train, o->out_val) == 0) { die("--out-train and --out-val are both %s", o->out_val); }
    if (o->out && val_share) { die("--val-share: there is nothing to split into one shard (--out)"); }
    if (o->input_count == 0 && !o->compiler) {
        die("expected files or directories to read, or --compiler; see bytes --help");
    }
    return 1;
}

// ---- finding files ----

// Puts a file into the list, before the one of this index.
static void corpus_insert(Corpus* corpus, size_t index, const TextFile* file) {
    if (corpus->count == corpus->capacity) {
        corpus->capacity = max_size(1024, 2 * corpus->capacity);
        TextFile* files = (TextFile*)xalloc(corpus->capacity, sizeof(TextFile), "the list of files");
        if (corpus->count) { memcpy(files, corpus->files, corpus->count * sizeof(TextFile)); }
        free(corpus->files);
        corpus->files = files;
    }
    memmove(corpus->files + index + 1, corpus->files + index, (corpus->count - index) * sizeof(TextFile));
    corpus->files[index] = *file;
    corpus->count++;
}

// Says why a file is left out, the first few times.
static void corpus_unreadable(Corpus* corpus, const char* path, const char* why) {
    if (corpus->unreadable < 5) { warn("%s could not be read and is left out: %s", path, why); }
    if (corpus->unreadable == 5) { warn("more files could not be read"); }
    corpus->unreadable++;
}

// The temporary file for what comes through pipes: beside the shard that will hold it, where there must be room
// anyway, or where temporary files go if that is no file. It has no name, so nothing is left of it.
static void corpus_make_spool(Corpus* corpus, const BytesOptions* o) {
    char* beside = file_resolve(o->out ? o->out : o->out_train);
    mode_t mode = file_mode(beside);
    char* slash = strrchr(beside, '/');
    const char* temporary = getenv("TMPDIR");
    if (mode && !S_ISREG(mode)) {
        free(beside);
        beside = format_string("%s", temporary && *temporary ? temporary : "/tmp");
    } else if (slash) {
        slash[slash == beside] = 0;
    } else {
        strcpy(beside, ".");
    }
    char* error = directory_make(beside);
    if (error) { die("%s", error); }
    char* path = format_string("%s/.bytes_XXXXXX", beside);
    corpus->spool = mkstemp(path);
    if (corpus->spool < 0 || unlink(path) != 0) {
        die("%s: a temporary file for the text of a pipe could not be made: %s%s", path, strerror(errno),
            write_hint(errno));
    }
    fcntl(corpus->spool, F_SETFD, FD_CLOEXEC);
    free(path);
    free(beside);
}

// Reads a text from fd to its end, into file->size and file->hash; where spool is not -1, what is read is also
// written there, from file->at on. Stops at a zero byte, = *binary, and beyond `limit` bytes (0: none), = *large.
// Returns 0, or -1 with errno if it cannot be read.
static int text_read(TextFile* file, int fd, int spool, uint64_t limit, int* binary, int* large) {
    *binary = *large = 0;
    file->size = 0;
    file->hash = HASH_START;
    for (;;) {
        ssize_t n = read(fd, text_chunk, TEXT_CHUNK);
        if (n < 0 && errno == EINTR) { continue; }
        if (n <= 0) { return n < 0 ? -1 : 0; }
        *binary = memchr(text_chunk, 0, (size_t)n) != NULL;
        *large = limit && file->size + (uint64_t)n > limit;
        if (*binary || *large) { return 0; }
        file->hash = hash_bytes(file->hash, text_chunk, (size_t)n);
        if (spool >= 0 && (lseek(spool, (off_t)(file->at + file->size), SEEK_SET) < 0 ||
                           write_all(spool, text_chunk, (size_t)n) != 0)) {
            die("%s: its text could not be put into a temporary file: %s%s", file->path, strerror(errno),
                write_hint(errno));
        }
        file->size += (uint64_t)n;
    }
}

// Dies if a shard would take the place of a text that is read. (An old shard is no text, and is left out.)
static void corpus_check_output(const BytesOptions* o, const struct stat* text) {
    const char* const outputs[] = {o->out, o->out_train, o->out_val};
    struct stat shard;
    for (int i = 0; i < 3; i++) {
        if (outputs[i] && stat(outputs[i], &shard) == 0 && text->st_ino == shard.st_ino &&
            text->st_dev == shard.st_dev) {
            die("%s: the shard would overwrite this text, from which it is made; give it another name", outputs[i]);
        }
    }
}

// Reads a file and takes it into the corpus, unless it is no text. Equal contents are dropped later. `stream`: what
// is read once only, a pipe or standard input, which the function closes; -1: it opens the file itself. `named`: it
// stood on the command line.
static void corpus_add_file(Corpus* corpus, const BytesOptions* o, const char* path, int stream, int named) {
    TextFile file;
    memset(&file, 0, sizeof file);
    file.path = format_string("%s", path);
    file.fd = -1;
    struct stat info;
    int fd = stream, binary = 0, large = 0;
    const char* why = stream < 0 ? file_open(path, &fd, &info) : fstat(stream, &info) != 0 ? strerror(errno) : NULL;
    if (!why && stream >= 0 && S_ISREG(info.st_mode)) {  // standard input from a file: it is read from where it stands
        file.fd = fd;
        file.at = (uint64_t)lseek(fd, 0, SEEK_CUR);
    } else if (!why && stream >= 0) {
        if (corpus->spool < 0) { corpus_make_spool(corpus, o); }
        file.fd = corpus->spool;
        file.at = corpus->spool_bytes;
    }
    if (!why && S_ISREG(info.st_mode) && o->max_file && (uint64_t)info.st_size > o->max_file + file.at) {
        large = 1;
    } else if (!why && text_read(&file, fd, file.fd == fd ? -1 : file.fd, o->max_file, &binary, &large) != 0) {
        why = strerror(errno);
    }
    if (fd >= 0 && fd != file.fd) { close(fd); }
    if (why && named) { die("%s: the text could not be read: %s", path, why); }
    if (why) { corpus_unreadable(corpus, path, why); }
    if (binary && named) { warn("%s has a zero byte: it is no text, and is left out (is it UTF-16?)", path); }
    corpus->large += (uint64_t)large;
    corpus->binary += (uint64_t)binary;
    corpus->empty += !why && !large && !binary && file.size == 0;
    if (why || large || binary || file.size == 0) {
        free(file.path);
        return;
    }
    corpus_check_output(o, &info);
    if (file.fd >= 0 && file.fd == corpus->spool) { corpus->spool_bytes += file.size; }
    RandomBlock block = random_block(o->seed, file.hash, file.size);
    file.order = (uint64_t)block.word[1] << 32 | block.word[0];
    corpus_insert(corpus, corpus->count, &file);
}

// 1 if a name ends as one of the suffixes ".h,.c" says; an empty one means a name without a dot.
static int suffix_matches(const char* name, const char* suffixes) {
    if (suffixes == NULL) { return 1; }
    size_t length = strlen(name);
    for (const char* at = suffixes;; at++) {
        size_t n = strcspn(at, ",");
        if (n == 0 ? strchr(name, '.') == NULL : n < length && memcmp(name + length - n, at, n) == 0) { return 1; }
        at += n;
        if (*at == 0) { return 0; }
    }
}

static int bytes_compare_names(const void* a, const void* b) { return strcmp(*(char* const*)a, *(char* const*)b); }

// 1 if this directory was walked, or this pipe read, before; notes it otherwise. Links may lead in circles.
static int corpus_was_here(Corpus* corpus, const struct stat* info) {
    for (size_t i = 0; i < corpus->seen_count; i++) {
        if (corpus->seen[i].st_ino == info->st_ino && corpus->seen[i].st_dev == info->st_dev) { return 1; }
    }
    if (corpus->seen_count == corpus->seen_capacity) {
        corpus->seen_capacity = max_size(256, 2 * corpus->seen_capacity);
        struct stat* list = (struct stat*)xalloc(corpus->seen_capacity, sizeof(struct stat), "the list of directories");
        if (corpus->seen_count) { memcpy(list, corpus->seen, corpus->seen_count * sizeof(struct stat)); }
        free(corpus->seen);
        corpus->seen = list;
    }
    corpus->seen[corpus->seen_count++] = *info;
    return 0;
}

// Takes what can be read once only: standard input ("-", /dev/stdin), whatever that is, or a FIFO. Dies otherwise.
static void corpus_add_stream(Corpus* corpus, const BytesOptions* o, const char* path, const struct stat* info) {
    struct stat input;
    int is_input = fstat(0, &input) == 0 && input.st_ino == info->st_ino && input.st_dev == info->st_dev;
    if (S_ISDIR(info->st_mode) || (!is_input && !S_ISFIFO(info->st_mode))) {
        die("%s: expected a text file, a directory, a pipe or - (standard input), found %s", path,
            file_kind(info->st_mode));
    }
    if (corpus_was_here(corpus, info)) { die("%s is given twice, but can be read only once", path); }
    // Opening a FIFO waits for somebody who writes, as cat does; Ctrl-C ends it.
    int fd = is_input ? fcntl(0, F_DUPFD_CLOEXEC, 3) : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) { die("%s: could not be opened: %s", path, strerror(errno)); }
    corpus_add_file(corpus, o, path, fd, 1);
}

// Takes a file, or all files below a directory whose names fit. `named`: it stood on the command line.
static void corpus_add(Corpus* corpus, const BytesOptions* o, const char* path, const char* suffixes, int named) {
    struct stat info;
    int input = named && strcmp(path, "-") == 0;
    if ((input ? fstat(0, &info) : stat(path, &info)) != 0) {
        if (input) { die("-: expected a text on standard input: %s", strerror(errno)); }
        if (named) { die("%s: expected a file or directory: %s", path, strerror(errno)); }
        corpus_unreadable(corpus, path, strerror(errno));
        return;
    }
    if (input || !S_ISDIR(info.st_mode)) {
        if (!input && S_ISREG(info.st_mode)) {
            corpus_add_file(corpus, o, path, -1, named);
        } else if (named) {
            corpus_add_stream(corpus, o, path, &info);
        } else {
            corpus->special++;
        }
        return;
    }
    if (corpus_was_here(corpus, &info)) { return; }
    if (access(path, R_OK | X_OK) != 0) {
        if (named) { die("%s: the directory could not be read: %s", path, strerror(errno)); }
        corpus_unreadable(corpus, path, strerror(errno));
        return;
    }
    int count = 0;
    char** names = directory_names(path, &count);
    qsort(names, (size_t)count, sizeof(char*), bytes_compare_names);
    for (int i = 0; i < count; i++) {
        char* full = format_string("%s/%s", path, names[i]);
        int is_directory = stat(full, &info) == 0 && S_ISDIR(info.st_mode);
        if (is_directory || suffix_matches(names[i], suffixes)) { corpus_add(corpus, o, full, suffixes, 0); }
        free(full);
    }
    directory_free_names(names);
}

// Takes the headers in the directories that the compiler searches for #include <...>, of language
// "c" or "c++". Returns the number of directories; 0 if the compiler does not know the language.
static int corpus_add_headers(Corpus* corpus, const BytesOptions* o, const char* language) {
    // C++ headers often have no suffix (<vector>): an empty one at the end of the list.
    const char* suffixes = o->suffixes ? o->suffixes : ".h,.hh,.hpp,.hxx,.ipp,.tcc,";
    char* command = format_string("LC_ALL=C %s -E -v -x %s /dev/null 2>&1 >/dev/null", o->compiler, language);
    FILE* pipe = popen(command, "r");
    if (pipe == NULL) { die("%s: could not be started: %s", command, strerror(errno)); }
    char** directories = NULL;
    int count = 0, inside = 0;
    char* line = NULL;
    size_t room = 0;
    for (ssize_t n; (n = getline(&line, &room, pipe)) > 0;) {
        if (line[n - 1] == '\n') { line[n - 1] = 0; }
        if (strncmp(line, "End of search list", 18) == 0) { inside = 0; }
        if (inside && line[0] == ' ' && strstr(line, " (framework directory)") == NULL) {
            char** more = (char**)xalloc((size_t)count + 1, sizeof(char*), "the include directories");
            if (count) { memcpy(more, directories, (size_t)count * sizeof(char*)); }
            free(directories);
            directories = more;
            directories[count++] = format_string("%s", line + 1);
        }
        if (strncmp(line, "#include <...>", 14) == 0) { inside = 1; }
    }
    free(line);
    if (pclose(pipe) != 0) {  // this compiler has no C++, say
        for (int i = 0; i < count; i++) { free(directories[i]); }
        count = 0;
    }
    for (int i = 0; i < count; i++) {
        struct stat info;
        if (stat(directories[i], &info) == 0) { corpus_add(corpus, o, directories[i], suffixes, 0); }
        free(directories[i]);
    }
    free(directories);
    free(command);
    return count;
}

// ---- choosing ----

static int bytes_compare_files(const void* a, const void* b) {
    const TextFile *x = (const TextFile*)a, *y = (const TextFile*)b;
    if (x->order != y->order) { return x->order < y->order ? -1 : 1; }
    if (x->hash != y->hash) { return x->hash < y->hash ? -1 : 1; }
    if (x->size != y->size) { return x->size < y->size ? -1 : 1; }
    return strcmp(x->path, y->path);
}

// Sorts by order, drops equal contents (same hash and size) and what is beyond the limit.
static void corpus_choose(Corpus* corpus, uint64_t max_bytes) {
    if (corpus->count) { qsort(corpus->files, corpus->count, sizeof(TextFile), bytes_compare_files); }
    size_t kept = 0;
    uint64_t bytes = 0, last_hash = 0, last_size = 0;
    for (size_t i = 0; i < corpus->count; i++) {
        TextFile* file = &corpus->files[i];
        int same = i > 0 && file->hash == last_hash && file->size == last_size;
        int fits = max_bytes == 0 || file->size <= max_bytes - bytes;
        last_hash = file->hash;
        last_size = file->size;
        if (same) { corpus->duplicates++; }
        if (!same && !fits) { corpus->beyond++; }
        if (same || !fits) {
            free(file->path);
            continue;
        }
        bytes += file->size;
        corpus->files[kept++] = *file;
    }
    corpus->count = kept;
}

// ---- reading chosen files again, splitting ----

// Opens what holds the text's bytes; -1 with errno.
static int text_open(const TextFile* file) {
    if (file->fd >= 0) { return file->fd; }
    struct stat info;
    int fd = -1;
    file_open(file->path, &fd, &info);
    return fd;
}
static void text_close(const TextFile* file, int fd) {
    if (fd >= 0 && fd != file->fd) { close(fd); }
}

// Up to n bytes of the text from `at` on, counted from its beginning; 0: there are no more, or not in one piece.
static size_t text_bytes(const TextFile* file, int fd, uint64_t at, unsigned char* out, size_t n) {
    for (;;) {
        ssize_t got = pread(fd, out, n, (off_t)(file->at + at));
        if (got < 0 && errno == EINTR) { continue; }
        return got > 0 ? (size_t)got : 0;
    }
}

// 1 if byte `at` of the text continues a character of UTF-8. (Bytes that are no UTF-8 may be parted anywhere.)
static int text_inside_character(const TextFile* file, int fd, uint64_t at) {
    unsigned char c[4];
    uint64_t start = at < 3 ? 0 : at - 3;
    size_t n = text_bytes(file, fd, start, c, (size_t)(at - start) + 1), i = (size_t)(at - start);
    if (n <= i || (c[i] & 0xC0) != 0x80) { return 0; }
    for (size_t back = 1; back <= i; back++) {
        unsigned char b = c[i - back];
        if ((b & 0xC0) != 0x80) { return back < (b >= 0xF0 ? 4u : b >= 0xE0 ? 3u : b >= 0xC0 ? 2u : 0u); }
    }
    return 0;
}

// Where to cut a text nearest to `want`, so that both parts have something: at a line end, if one is at most `reach`
// bytes away, = *line; else between two characters. 0: it has but one.
static uint64_t text_cut(const TextFile* file, uint64_t want, uint64_t reach, int* line) {
    *line = 0;
    if (file->size < 2) { return 0; }
    want = want < 1 ? 1 : want >= file->size ? file->size - 1 : want;
    int fd = text_open(file);
    uint64_t below = 0, above = 0;  // line ends: 0 is none
    uint64_t at = want > reach ? want - reach - 1 : 0;
    for (size_t n = 1; fd >= 0 && !above && at < file->size - 1 && at <= want + reach && n; at += n) {
        n = text_bytes(file, fd, at, text_chunk, (size_t)min_size(TEXT_CHUNK, file->size - 1 - at));
        for (size_t i = 0; i < n && !above; i++) {
            if (text_chunk[i] != '\n') { continue; }
            *(at + i + 1 <= want ? &below : &above) = at + i + 1;
        }
    }
    if (above && above - want > reach) { above = 0; }
    uint64_t cut = !above || (below && want - below <= above - want) ? below : above;
    *line = cut > 0;
    for (uint64_t i = 0; i < 4 && !cut; i++) {  // a character has at most four bytes
        if (want > i && !text_inside_character(file, fd, want - i)) { cut = want - i; }
        if (!cut && want + i < file->size && !text_inside_character(file, fd, want + i)) { cut = want + i; }
    }
    text_close(file, fd);
    return cut;
}

// How many of the files, from the first, are for training; the last ones are for validation, whole, as many as reach
// the share of the bytes that it gets. If that misses the share by more than a percent of all bytes, the file at the
// border is cut: its head, a file of its own then, is for training; *said gets a line about that. 0: there is nothing to
// split.
static size_t corpus_split(Corpus* corpus, double share, StringBuilder* said) {
    uint64_t bytes = 0, val = 0;
    for (size_t i = 0; i < corpus->count; i++) { bytes += corpus->files[i].size; }
    double want = share * (double)bytes, percent = 0.01 * (double)bytes;
    size_t train = corpus->count;
    while (train > 1 && (double)val < want) { val += corpus->files[--train].size; }
    if (train < corpus->count && fabs((double)val - want) <= percent) { return train; }
    size_t border = (double)val < want ? 0 : train;
    if (border == train) {  // validation has too much: all of this file
        val -= corpus->files[border].size;
        if (val > 0 && want - (double)val <= percent) { return train + 1; }
    }
    const TextFile* file = &corpus->files[border];
    double tail = fmin(fmax(want - (double)val, 0), (double)file->size),
           reach = fmax(0.5 * fmin(want, (double)bytes - want), NEAR_LINE);
    int line = 0;
    uint64_t cut = text_cut(file, file->size - (uint64_t)(tail + 0.5), (uint64_t)reach, &line);
    if (cut) {
        TextFile head = *file;
        head.path = format_string("%s", file->path);
        head.size = cut;
        head.part = TEXT_HEAD;
        corpus_insert(corpus, border, &head);
        TextFile* rest = &corpus->files[border + 1];
        rest->at += cut;
        rest->size -= cut;
        rest->part = TEXT_TAIL;
        train = border + 1;
        val += rest->size;
        sb_printf(said, "cut: %s before byte %llu, %s: training has what comes before, validation the rest\n",
                  rest->path, (unsigned long long)cut,
                  line ? "where a line begins" : "inside a line, since no line end is near");
    } else {
        if (corpus->count < 2) { return 0; }
        val += border == train ? file->size : 0;
    }
    if (fabs((double)val - want) > percent) {
        warn("validation has %.1f %% of the bytes where --val-share asks for %.1f %%: %s",
             100.0 * (double)val / (double)bytes, 100 * share,
             line ? "no line ends nearer to it" : "the texts cannot be parted there");
    }
    return train;
}

// ---- writing ----

// What goes to one name: a shard, or as many as are needed to hold it, of equal lengths.
typedef struct {
    const char* path;
    size_t first, count;  // its files
    uint64_t bytes, tokens;
    int parts;
    FileTarget* targets;  // (parts); those before `open` are written
    char** names;         // (parts)
    int open;
    uint64_t room;  // tokens that the open one still takes
} ShardOut;

static uint64_t shard_max_tokens = INT32_MAX;  // the header counts in int32; tests set less

// data/train.bin -> data/train_00001.bin for the second shard of one name.
static char* shard_name(const char* path, int part) {
    const char *slash = strrchr(path, '/'), *dot = strrchr(slash ? slash : path, '.');
    if (part == 0) { return format_string("%s", path); }
    if (!dot || dot == path || dot[-1] == '/') { dot = path + strlen(path); }
    return format_string("%.*s_%05d%s", (int)(dot - path), path, part, dot);
}

// Closes the open shard, if any, and begins the next; NULL, or what went wrong.
static char* shard_next(ShardOut* out) {
    if (out->open >= 0) {
        char* error = target_close(&out->targets[out->open], 0);
        if (error) { return error; }
    }
    out->open++;
    out->room = out->tokens * (uint64_t)(out->open + 1) / (uint64_t)out->parts -
                out->tokens * (uint64_t)out->open / (uint64_t)out->parts;
    FileTarget* target = &out->targets[out->open];
    char* error = target_open(target, out->names[out->open]);
    if (error) { return error; }
    unsigned char header[SHARD_HEADER_BYTES];
    shard_header(header, 2, (uint32_t)out->room);
    return write_all(target->fd, header, sizeof header) != 0 ? target_close(target, 1) : NULL;
}

// Appends n bytes as tokens, or the end of a text if `bytes` is NULL; NULL, or what went wrong.
static char* shard_put(ShardOut* out, const unsigned char* bytes, size_t n) {
    static unsigned char tokens[2 * TEXT_CHUNK];
    for (size_t done = 0, some; done < n; done += some) {
        char* error = out->room == 0 ? shard_next(out) : NULL;
        if (error) { return error; }
        some = (size_t)min_size(n - done, (size_t)out->room);
        for (size_t i = 0; i < some; i++) {
            tokens[2 * i] = bytes ? bytes[done + i] : 0;
            tokens[2 * i + 1] = bytes ? 0 : 1;  // 256: end of text
        }
        out->room -= some;
        FileTarget* target = &out->targets[out->open];
        if (write_all(target->fd, tokens, 2 * some) != 0) { return target_close(target, 1); }
    }
    return NULL;
}

// Appends a text, read again, which must be what it was; NULL, or what went wrong.
static char* shard_put_text(ShardOut* out, Corpus* corpus, const TextFile* file) {
    int fd = text_open(file);
    uint64_t hash = file->part == TEXT_TAIL ? corpus->head_hash : HASH_START, at = 0;
    char* error = NULL;
    while (fd >= 0 && at < file->size && !error) {
        size_t n = text_bytes(file, fd, at, text_chunk, (size_t)min_size(TEXT_CHUNK, file->size - at));
        if (n == 0) { break; }
        hash = hash_bytes(hash, text_chunk, n);
        error = shard_put(out, text_chunk, n);
        at += n;
    }
    corpus->head_hash = hash;
    int same = at == file->size && (file->part == TEXT_HEAD || hash == file->hash);
    if (same && file->part != TEXT_HEAD && file->fd < 0) { same = text_bytes(file, fd, at, text_chunk, 1) == 0; }
    text_close(file, fd);
    if (!error && !same) {
        return format_string("%s: has changed while the corpus was being made; run it again", file->path);
    }
    return error ? error : shard_put(out, NULL, 1);
}

// Writes what goes to one name, as far as it can be done without giving it that name; NULL, or what went wrong.
static char* shard_write(ShardOut* out, Corpus* corpus) {
    out->tokens = out->bytes + out->count;
    out->parts = (int)((out->tokens + shard_max_tokens - 1) / shard_max_tokens);
    out->targets = (FileTarget*)xalloc((size_t)out->parts, sizeof(FileTarget), "the shards");
    out->names = (char**)xalloc((size_t)out->parts, sizeof(char*), "the shards");
    for (int i = 0; i < out->parts; i++) {
        out->targets[i].fd = -1;
        out->names[i] = shard_name(out->path, i);
    }
    mode_t mode = file_mode(out->path);
    if (out->parts > 1 && mode && !S_ISREG(mode)) {
        return format_string("%s: %llu tokens are more than one shard can hold (%llu), and %s takes but one; set "
                             "--max-bytes, or name a file",
                             out->path, (unsigned long long)out->tokens, (unsigned long long)shard_max_tokens,
                             file_kind(mode));
    }
    char* parent = format_string("%s", out->path);
    char* slash = strrchr(parent, '/');
    char* error = NULL;
    if (slash && slash > parent) {
        *slash = 0;
        error = directory_make(parent);
    }
    free(parent);
    out->open = -1;
    for (size_t i = out->first; i < out->first + out->count && !error; i++) {
        error = shard_put_text(out, corpus, &corpus->files[i]);
    }
    return error ? error : target_close(&out->targets[out->open], 0);
}

static ShardOut bytes_shards[2];  // what a signal leaves unfinished is removed

static void bytes_on_signal(int number) {
    for (int i = 0; i < 2; i++) {
        for (int k = 0; bytes_shards[i].targets && k < bytes_shards[i].parts; k++) {
            if (bytes_shards[i].targets[k].temporary) { unlink(bytes_shards[i].targets[k].temporary); }
        }
    }
    signal(number, SIG_DFL);
    raise(number);  // it ends the program when this function returns
}

static void bytes_catch_signals(void) {
    static const int ends[] = {SIGINT, SIGTERM, SIGHUP};
    for (int i = 0; i < 3; i++) {
        struct sigaction action, old;
        memset(&action, 0, sizeof action);
        sigemptyset(&action.sa_mask);
        action.sa_handler = bytes_on_signal;
        if (sigaction(ends[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN) { sigaction(ends[i], &action, NULL); }
    }
    signal(SIGXFSZ, SIG_IGN);  // a file size limit is an error of write, with a message
    signal(SIGPIPE, SIG_IGN);  // and so is a reader of --out that has gone
}

// Writes all shards or none: each is whole on the disk before the first takes its name. In this order, since a cut
// file is checked across both.
static void shards_write_all(ShardOut* shards, int count, Corpus* corpus) {
    char* error = NULL;
    for (int i = 0; i < count && !error; i++) { error = shard_write(&shards[i], corpus); }
    if (!error && count > 1 && shards[0].targets && shards[1].targets &&
        target_is_same(&shards[0].targets[0], &shards[1].targets[0])) {
        error = format_string("--out-train %s and --out-val %s are the same file", shards[0].path, shards[1].path);
    }
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &before);  // a signal finds names that are in place, or none
    for (int i = 0; i < count && !error; i++) {
        for (int k = 0; k < shards[i].parts && !error; k++) { error = target_place(&shards[i].targets[k]); }
    }
    for (int i = 0; i < count; i++) {
        for (int k = 0; shards[i].targets && k < shards[i].parts; k++) { target_drop(&shards[i].targets[k]); }
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (error) { die("%s", error); }
}

static void print_left_out(FILE* report, const char* what, uint64_t count) {
    if (count) { fprintf(report, "  left out: %llu %s\n", (unsigned long long)count, what); }
}

// A line for each shard of a name, and a warning of one that is no longer of them.
static void shards_report(ShardOut* out, FILE* report) {
    fprintf(report, "%s: %zu files, %llu tokens\n", out->path, out->count, (unsigned long long)out->tokens);
    for (int i = 0; i < out->parts && out->parts > 1; i++) {
        fprintf(report, "  in %s: tokens %llu to %llu\n", out->names[i],
                (unsigned long long)(out->tokens * (uint64_t)i / (uint64_t)out->parts),
                (unsigned long long)(out->tokens * (uint64_t)(i + 1) / (uint64_t)out->parts - 1));
    }
    char* next = shard_name(out->path, out->parts);
    mode_t mode = file_mode(out->path);
    if (S_ISREG(mode) && file_mode(next)) {
        warn("%s is left from a larger corpus; remove it before a pattern like %.*s*.bin finds it", next,
             (int)(strlen(out->path) - (text_ends(out->path, ".bin") ? 4 : 0)), out->path);
    }
    free(next);
    for (int i = 0; i < out->parts; i++) { free(out->names[i]); }
    free(out->names);
    out->names = NULL;
}

// The program; returns its exit status.
static int bytes_main(int argc, char** argv) {
    BytesOptions o;
    output_begin();
    if (!bytes_parse(&o, argc, argv)) {
        fputs(bytes_usage, stdout);
        return output_end(0);
    }
    bytes_catch_signals();
    Corpus corpus;
    memset(&corpus, 0, sizeof corpus);
    corpus.spool = -1;
    for (int i = 0; i < o.input_count; i++) { corpus_add(&corpus, &o, o.inputs[i], o.suffixes, 1); }
    if (o.compiler) {
        int c = corpus_add_headers(&corpus, &o, "c"), cpp = corpus_add_headers(&corpus, &o, "c++");
        if (c + cpp == 0) {
            die("'%s -E -v -x c /dev/null' names no include directories; is it a C compiler? "
                "Without one, name directories instead: --suffix .h /usr/include",
                o.compiler);
        }
    }
    size_t found = corpus.count;
    corpus_choose(&corpus, o.max_bytes);
    size_t files = corpus.count;
    if (files == 0) {
        die("no text found: of %zu text files %llu are duplicates and %llu beyond --max-bytes; besides, %llu are "
            "empty, %llu binary, "
            "%llu larger than --max-file, %llu unreadable; see --suffix",
            found, (unsigned long long)corpus.duplicates, (unsigned long long)corpus.beyond,
            (unsigned long long)corpus.empty, (unsigned long long)corpus.binary, (unsigned long long)corpus.large,
            (unsigned long long)corpus.unreadable);
    }
    StringBuilder said = {0};
    sb_append(&said, "", 0);
    size_t train = o.out ? files : corpus_split(&corpus, o.val_share, &said);
    if (train == 0) {
        die("%s: expected a text of two characters at least, one for training and one for validation, found one; "
            "make one shard with --out",
            corpus.files[0].path);
    }
    ShardOut* shards = bytes_shards;
    memset(bytes_shards, 0, sizeof bytes_shards);
    shards[0].path = o.out ? o.out : o.out_train;
    shards[0].count = train;
    shards[1].path = o.out_val;
    shards[1].first = train;
    shards[1].count = corpus.count - train;
    uint64_t hash = HASH_START, bytes = 0;
    for (size_t i = 0; i < corpus.count; i++) {
        const TextFile* file = &corpus.files[i];
        shards[i >= train].bytes += file->size;
        bytes += file->size;
        if (file->part == TEXT_TAIL) { continue; }
        unsigned char summary[17] = {(unsigned char)(file->part == TEXT_HEAD ? 2 : i >= train)};
        for (int b = 0; b < 16; b++) {
            summary[1 + b] = (unsigned char)((b < 8 ? file->hash : file->size) >> 8 * (b % 8));
        }
        hash = hash_bytes(hash, summary, file->part == TEXT_HEAD ? 17 : 9);  // where a file is cut counts, too
    }
    int count = o.out ? 1 : 2, to_stdout = 0;
    for (int i = 0; i < count; i++) { to_stdout |= file_is_stdout(shards[i].path); }
    shards_write_all(shards, count, &corpus);

    FILE* report = to_stdout ? stderr : stdout;
    fprintf(report, "corpus: %zu files, %llu bytes, hash %016llx\n", files, (unsigned long long)bytes,
            (unsigned long long)hash);
    char larger[64];
    snprintf(larger, sizeof larger, "larger than --max-file %llu", (unsigned long long)o.max_file);
    print_left_out(report, "duplicates by content", corpus.duplicates);
    print_left_out(report, "beyond --max-bytes", corpus.beyond);
    print_left_out(report, larger, corpus.large);
    print_left_out(report, "binary", corpus.binary);
    print_left_out(report, "empty", corpus.empty);
    print_left_out(report, "unreadable", corpus.unreadable);
    print_left_out(report, "FIFOs, sockets or devices", corpus.special);
    fputs(said.data, report);
    for (int i = 0; i < count; i++) { shards_report(&shards[i], report); }
    if (bytes < SMALL_CORPUS) {
        warn("the corpus has %.1f MB; below %.0f MB a model soon knows it by heart: look at the validation loss",
             (double)bytes / 1e6, SMALL_CORPUS / 1e6);
    }
    for (size_t i = 0; i < corpus.count; i++) { free(corpus.files[i].path); }
    free(corpus.files);
    free(corpus.seen);
    free(said.data);
    free(o.inputs);
    return output_end(0);
}

#ifndef TESTING
int main(int argc, char** argv) { return bytes_main(argc, argv); }
#endif
