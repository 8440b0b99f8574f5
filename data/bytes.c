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
// -> read again, write shards under temporary names -> rename.
#include "../common/files/file.h"
#include "../common/files/shards.h"

#include <signal.h>

#define SMALL_CORPUS 5000000      // bytes below which a model soon knows the text by heart
#define COMPILER_CORPUS 50000000  // bytes taken of the compiler's headers unless --max-bytes says otherwise
#define COMPILER_FILE 1000000     // larger headers are generated tables

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

typedef struct {
    char* path;
    uint64_t size, hash;  // of the contents
    uint64_t order;       // its place: files are sorted by this
} TextFile;

typedef struct {
    TextFile* files;
    size_t count, capacity;
    struct stat* directories;  // those walked, each once however many links lead there
    size_t directory_count, directory_capacity;
    uint64_t duplicates, empty, binary, large, unreadable, beyond;  // files left out, by reason
} Corpus;

static const char* const bytes_usage =
    "usage: bytes --out FILE [options] FILE|DIR ...\n"
    "       bytes --out-train FILE --out-val FILE [options] FILE|DIR ...\n"
    "Makes token shards of bytes (vocabulary 257: 256 is end of text, after each file).\n"
    "\n"
    "  --out FILE         one shard with everything\n"
    "  --out-train FILE   two shards, split by file\n"
    "  --out-val FILE\n"
    "  --val-share X      share of the bytes that goes to validation (default 0.1)\n"
    "  --max-bytes N      take at most N bytes (default: no limit; 50000000 with --compiler)\n"
    "  --max-file N       leave out files of more than N bytes (default: no limit; 1000000 with --compiler)\n"
    "  --suffix .h,.c     of directories take only files with these endings (default: all)\n"
    "  --compiler CC      take the headers in the include directories of this compiler, too\n"
    "  --seed N           another order, choice and split (default 0)\n"
    "  --help\n"
    "Directories are walked. Equal contents are taken once; files with a zero byte are no text and are\n"
    "left out. The same contents give the same shards, wherever they lie.\n";

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
    o->inputs = (char**)xalloc((size_t)argc, sizeof(char*), "the arguments");
    const char *max_bytes = NULL, *max_file = NULL, *seed = NULL, *val_share = NULL;
    struct {
        const char* name;
        const char** value;
    } known[] = {
        {"--out", &o->out},          {"--out-train", &o->out_train}, {"--out-val", &o->out_val},
        {"--val-share", &val_share}, {"--max-bytes", &max_bytes},    {"--max-file", &max_file},
        {"--suffix", &o->suffixes},  {"--compiler", &o->compiler},   {"--seed", &seed},
    };
    int only_files = 0;  // after "--"
    for (int i = 1; i < argc; i++) {
        char* argument = argv[i];
        if (only_files || argument[0] != '-' || argument[1] == 0) {
            o->inputs[o->input_count++] = argument;
            continue;
        }
        if (strcmp(argument, "--") == 0) {
            only_files = 1;
            continue;
        }
        if (strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0) { return 0; }
        const char* equals = strchr(argument, '=');
        size_t length = equals ? (size_t)(equals - argument) : strlen(argument);
        const char** value = NULL;
        for (size_t k = 0; k < sizeof known / sizeof known[0]; k++) {
            if (strlen(known[k].name) == length && memcmp(known[k].name, argument, length) == 0) {
                value = known[k].value;
            }
        }
        if (value == NULL) { die("unknown option %.*s; bytes --help lists them", (int)length, argument); }
        if (*value) { die("%.*s is given twice", (int)length, argument); }
        if (!equals && i + 1 == argc) { die("%s: expected a value after it", argument); }
        *value = equals ? equals + 1 : argv[++i];
        if (**value == 0) { die("%.*s: expected a value, found an empty one", (int)length, argument); }
    }
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

// Says why a file is left out, the first few times.
static void corpus_unreadable(Corpus* corpus, const char* path) {
    if (corpus->unreadable < 5) { warn("%s could not be read and is left out: %s", path, strerror(errno)); }
    if (corpus->unreadable == 5) { warn("more files could not be read"); }
    corpus->unreadable++;
}

// The whole file, at most `limit` bytes (0: any); NULL and *large = 1 if it is larger, NULL and
// errno if it cannot be read. The caller frees it.
static char* read_text(const char* path, uint64_t limit, size_t* size, int* large) {
    *large = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) { return NULL; }
    struct stat info;
    int error = fstat(fd, &info) != 0 ? errno : S_ISREG(info.st_mode) ? 0 : EINVAL;
    char* text = NULL;
    *size = 0;
    if (!error && ((limit && (uint64_t)info.st_size > limit) || info.st_size > INT32_MAX)) {
        *large = 1;
    } else if (!error) {
        text = (char*)xalloc((size_t)info.st_size + 1, 1, path);
        while (*size < (size_t)info.st_size) {
            ssize_t n = read(fd, text + *size, (size_t)info.st_size - *size);
            if (n < 0 && errno == EINTR) { continue; }
            if (n < 0) { error = errno; }
            if (n <= 0) { break; }
            *size += (size_t)n;
        }
    }
    close(fd);
    if (error) {
        free(text);
        text = NULL;
        errno = error;
    }
    return text;
}

// Reads a file and takes it into the corpus, unless it is no text. Equal contents are dropped later.
// Dies if a shard would take the place of a text that is read. (An old shard is no text, and is left out.)
static void corpus_check_output(const BytesOptions* o, const char* path) {
    const char* const outputs[] = {o->out, o->out_train, o->out_val};
    struct stat text, shard;
    for (int i = 0; i < 3; i++) {
        if (outputs[i] && stat(outputs[i], &shard) == 0 && stat(path, &text) == 0 && text.st_ino == shard.st_ino &&
            text.st_dev == shard.st_dev) {
            die("%s: the shard would overwrite this text, from which it is made; give it another name", outputs[i]);
        }
    }
}

static void corpus_add_file(Corpus* corpus, const BytesOptions* o, const char* path, int named) {
    size_t size = 0;
    int large = 0;
    char* text = read_text(path, o->max_file, &size, &large);
    if (large) {
        corpus->large++;
        return;
    }
    if (text == NULL) {
        if (named) { die("%s: expected a readable file or directory: %s", path, strerror(errno)); }
        corpus_unreadable(corpus, path);
        return;
    }
    if (size == 0 || memchr(text, 0, size)) {
        if (size == 0) {
            corpus->empty++;
        } else {
            corpus->binary++;
        }
        free(text);
        return;
    }
    corpus_check_output(o, path);
    if (corpus->count == corpus->capacity) {
        corpus->capacity = max_size(1024, 2 * corpus->capacity);
        TextFile* files = (TextFile*)xalloc(corpus->capacity, sizeof(TextFile), "the list of files");
        if (corpus->count) { memcpy(files, corpus->files, corpus->count * sizeof(TextFile)); }
        free(corpus->files);
        corpus->files = files;
    }
    TextFile* file = &corpus->files[corpus->count++];
    file->path = format_string("%s", path);
    file->size = size;
    file->hash = hash_bytes(HASH_START, text, size);
    RandomBlock block = random_block(o->seed, file->hash, size);
    file->order = (uint64_t)block.word[1] << 32 | block.word[0];
    free(text);
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

// 1 if this directory was walked before; notes it otherwise. Links may lead in circles.
static int corpus_was_here(Corpus* corpus, const struct stat* info) {
    for (size_t i = 0; i < corpus->directory_count; i++) {
        if (corpus->directories[i].st_ino == info->st_ino && corpus->directories[i].st_dev == info->st_dev) {
            return 1;
        }
    }
    if (corpus->directory_count == corpus->directory_capacity) {
        corpus->directory_capacity = max_size(256, 2 * corpus->directory_capacity);
        struct stat* list =
            (struct stat*)xalloc(corpus->directory_capacity, sizeof(struct stat), "the list of directories");
        if (corpus->directory_count) {
            memcpy(list, corpus->directories, corpus->directory_count * sizeof(struct stat));
        }
        free(corpus->directories);
        corpus->directories = list;
    }
    corpus->directories[corpus->directory_count++] = *info;
    return 0;
}

// Takes a file, or all files below a directory whose names fit. `named`: it stood on the command line.
static void corpus_add(Corpus* corpus, const BytesOptions* o, const char* path, const char* suffixes, int named) {
    struct stat info;
    if (stat(path, &info) != 0) {
        if (named) { die("%s: expected a file or directory: %s", path, strerror(errno)); }
        corpus_unreadable(corpus, path);
        return;
    }
    if (!S_ISDIR(info.st_mode)) {
        if (S_ISREG(info.st_mode) || named) { corpus_add_file(corpus, o, path, named); }
        return;
    }
    if (corpus_was_here(corpus, &info)) { return; }
    if (access(path, R_OK | X_OK) != 0) {
        if (named) { die("%s: the directory could not be read: %s", path, strerror(errno)); }
        corpus_unreadable(corpus, path);
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

// How many of the files, from the first, are for training: the last ones, at least one, hold the
// share of the bytes that validation gets.
static size_t corpus_split(const Corpus* corpus, double val_share) {
    uint64_t bytes = 0, val = 0;
    for (size_t i = 0; i < corpus->count; i++) { bytes += corpus->files[i].size; }
    size_t train = corpus->count;
    while (train > 1 && (double)val < val_share * (double)bytes) { val += corpus->files[--train].size; }
    return train;
}

// ---- writing ----

typedef struct {
    const char* path;
    char* temporary;
    size_t first, count;  // its files
    uint64_t bytes, tokens;
} ShardOut;

// Writes the shard under its temporary name and syncs it; NULL, or what went wrong.
static char* shard_write(ShardOut* shard, const Corpus* corpus) {
    shard->tokens = shard->bytes + shard->count;
    if (shard->tokens > INT32_MAX) {
        return format_string("%s: %llu tokens are more than a shard can hold (%d); set --max-bytes", shard->path,
                             (unsigned long long)shard->tokens, INT32_MAX);
    }
    struct stat info;
    if (stat(shard->path, &info) == 0 && S_ISDIR(info.st_mode)) {
        return format_string("%s: expected the name of a file to write, found a directory", shard->path);
    }
    char* parent = format_string("%s", shard->path);
    char* slash = strrchr(parent, '/');
    char* error = NULL;
    if (slash && slash > parent) {
        *slash = 0;
        error = directory_make(parent);
    }
    free(parent);
    if (error) { return error; }
    int fd = open(shard->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        return format_string("%s: could not be created: %s%s", shard->path, strerror(errno), write_hint(errno));
    }
    unsigned char header[SHARD_HEADER_BYTES];
    shard_header(header, 2, (uint32_t)shard->tokens);
    int failed = write_all(fd, header, sizeof header) != 0;
    for (size_t i = shard->first; i < shard->first + shard->count && !failed && !error; i++) {
        const TextFile* file = &corpus->files[i];
        size_t size = 0;
        int large = 0;
        char* text = read_text(file->path, 0, &size, &large);
        if (text == NULL || size != file->size || hash_bytes(HASH_START, text, size) != file->hash) {
            error = format_string("%s: has changed while the corpus was being made; run it again", file->path);
        } else {
            unsigned char* tokens = (unsigned char*)xalloc(size + 1, 2, "tokens");
            for (size_t t = 0; t < size; t++) { tokens[2 * t] = (unsigned char)text[t]; }
            tokens[2 * size + 1] = 1;  // 256: end of text
            failed = write_all(fd, tokens, 2 * (size + 1)) != 0;
            free(tokens);
        }
        free(text);
    }
    char* trouble = write_finish(fd, failed, shard->path);
    if (error) {
        free(trouble);
        return error;
    }
    return trouble;
}

// Writes all shards or none: each is whole on the disk before the first takes its name.
static void shards_write_all(ShardOut* shards, int count, const Corpus* corpus) {
    char* error = NULL;
    for (int i = 0; i < count && !error; i++) {
        shards[i].temporary = format_string("%s.tmp.%ld", shards[i].path, (long)getpid());
        error = shard_write(&shards[i], corpus);
    }
    for (int i = 0; i < count && !error; i++) {
        if (rename(shards[i].temporary, shards[i].path) != 0) {
            error = format_string("%s: could not be put in place: %s%s", shards[i].path, strerror(errno),
                                  write_hint(errno));
        }
    }
    for (int i = 0; i < count; i++) {
        if (error && shards[i].temporary) { unlink(shards[i].temporary); }
        free(shards[i].temporary);
    }
    if (error) { die("%s", error); }
}

static void print_left_out(const char* what, uint64_t count) {
    if (count) { printf("  left out: %llu %s\n", (unsigned long long)count, what); }
}

// The program; returns its exit status.
static int bytes_main(int argc, char** argv) {
    BytesOptions o;
    output_begin();
    if (!bytes_parse(&o, argc, argv)) {
        fputs(bytes_usage, stdout);
        return output_end(0);
    }
    signal(SIGXFSZ, SIG_IGN);  // a file size limit is an error of write, with a message
    Corpus corpus;
    memset(&corpus, 0, sizeof corpus);
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
    if (corpus.count == 0) {
        die("no text found: of %zu text files %llu are duplicates and %llu beyond --max-bytes; besides, %llu are "
            "empty, %llu binary, "
            "%llu larger than --max-file, %llu unreadable; see --suffix",
            found, (unsigned long long)corpus.duplicates, (unsigned long long)corpus.beyond,
            (unsigned long long)corpus.empty, (unsigned long long)corpus.binary, (unsigned long long)corpus.large,
            (unsigned long long)corpus.unreadable);
    }
    if (!o.out && corpus.count < 2) {
        die("expected two different files at least, since training and validation are split by file, found %s alone; "
            "cut it into parts, or make one shard with --out",
            corpus.files[0].path);
    }
    ShardOut shards[2];
    memset(shards, 0, sizeof shards);
    size_t train = o.out ? corpus.count : corpus_split(&corpus, o.val_share);
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
        unsigned char summary[9] = {(unsigned char)(i >= train)};
        for (int b = 0; b < 8; b++) { summary[1 + b] = (unsigned char)(file->hash >> 8 * b); }
        hash = hash_bytes(hash, summary, sizeof summary);
    }
    int count = o.out ? 1 : 2;
    shards_write_all(shards, count, &corpus);

    printf("corpus: %zu files, %llu bytes, hash %016llx\n", corpus.count, (unsigned long long)bytes,
           (unsigned long long)hash);
    print_left_out("duplicates by content", corpus.duplicates);
    print_left_out("beyond --max-bytes", corpus.beyond);
    print_left_out("larger than --max-file", corpus.large);
    print_left_out("binary", corpus.binary);
    print_left_out("empty", corpus.empty);
    print_left_out("unreadable", corpus.unreadable);
    for (int i = 0; i < count; i++) {
        printf("%s: %zu files, %llu tokens\n", shards[i].path, shards[i].count, (unsigned long long)shards[i].tokens);
    }
    if (bytes < SMALL_CORPUS) {
        warn("the corpus has %.1f MB; below %.0f MB a model soon knows it by heart: look at the validation loss",
             (double)bytes / 1e6, SMALL_CORPUS / 1e6);
    }
    for (size_t i = 0; i < corpus.count; i++) { free(corpus.files[i].path); }
    free(corpus.files);
    free(corpus.directories);
    free(o.inputs);
    return output_end(0);
}

#ifndef TESTING
int main(int argc, char** argv) { return bytes_main(argc, argv); }
#endif
