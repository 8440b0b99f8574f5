// test_file.h - tests of common/open.h and common/files/file.h: whatever opens or replaces a file looks at it first.
#ifndef PONDER_TEST_FILE_H
#define PONDER_TEST_FILE_H

#include "../../common/files/safetensors.h"
#include "../../common/files/shards.h"
#include "../../common/files/tokenizer.h"
#include "../../common/run/resume.h"
#include "file_calls.h"
#include "test.h"

#include <signal.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>

// ---- a directory with one of each kind ----

static char* kinds_dir;
static int kinds_devices;  // 1: devices can be made here, and "null" is one

static const char* kinds_path(const char* name) {
    static char paths[4][512];
    static int next;
    char* path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", kinds_dir, name);
    return path;
}

static void kinds_socket(const char* path) {
    struct sockaddr_un address;
    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr*)&address, sizeof address) != 0) { die("%s: %s", path, strerror(errno)); }
    close(fd);
}

static void kinds_begin(void) {
    kinds_dir = test_directory("file");
    if (mkdir(kinds_path("directory"), 0700) != 0 || mkfifo(kinds_path("fifo"), 0600) != 0 ||
        symlink("fifo", kinds_path("link")) != 0 || symlink("device", kinds_path("null")) != 0) {
        die("%s: %s", kinds_dir, strerror(errno));
    }
    kinds_devices = test_device(kinds_path("device"), 3);
    kinds_socket(kinds_path("socket"));
}

static void kinds_end(void) {
    directory_remove_tree(kinds_dir);
    free(kinds_dir);
}

static const struct {
    const char *name, *words;
} kinds[] = {{"fifo", "expected a regular file, found a FIFO (named pipe)"},
             {"link", "expected a regular file, found a FIFO (named pipe)"},
             {"socket", "expected a regular file, found a socket"},
             {"directory", "found a directory"},
             {"null", "expected a regular file, found a character device"}};
enum { KINDS = 5, DIRECTORY = 3 };

// ---- reading ----

static void test_file_open(void) {
    kinds_begin();
    struct stat info;
    int fd = 0;
    for (int k = 0; k < KINDS - !kinds_devices; k++) {
        errno = 0;
        const char* why = file_open(kinds_path(kinds[k].name), &fd, &info);
        CHECK(why && strstr(why, kinds[k].words) && fd == -1 && errno == (k == DIRECTORY ? EISDIR : EINVAL),
              "%s: %s, %d", kinds[k].name, why ? why : "opened", errno);
    }
    const char* why = file_open(kinds_path("missing"), &fd, &info);
    CHECK(why && strcmp(why, strerror(ENOENT)) == 0 && errno == ENOENT && fd == -1, "%s", why ? why : "opened");
    free(write_file(kinds_path("text"), "text", 4));
    why = file_open(kinds_path("text"), &fd, &info);
    CHECK(!why && fd >= 0 && info.st_size == 4, "%s", why ? why : "opened");
    close(fd);
    kinds_end();
}

// Every reader of a file, with a file of each kind in its place; a path is that, others name what is in kinds_dir.
typedef struct {
    const char* what;
    void (*read)(void* path);
    const char* inside;  // the name that it opens in the directory it is given; NULL: it is given the path
} Reader;

static void reader_shards(void* path) { shards_open((const char*)path, 4, 50); }
static void reader_shards_many(void* path) {
    char* both = format_string("%s/s*.bin,%s", kinds_dir, (const char*)path);
    shards_open(both, 4, 50);
}
static void reader_safetensors(void* path) { safetensors_open((const char*)path); }
static void reader_json(void* path) { json_read((const char*)path); }
static void reader_fully(void* path) {
    size_t size;
    read_fully((const char*)path, &size);
}
static void reader_tokenizer(void* dir) { tokenizer_open((const char*)dir, 0); }
static void reader_metrics(void* dir) {
    Metrics metrics;
    metrics_open(&metrics, (const char*)dir, 5, 0);
}
static void reader_lock(void* dir) { lock_out((const char*)dir); }
static void reader_weights(void* dir) { weights_open((const char*)dir); }

static const Reader readers[] = {
    {"a shard", reader_shards, NULL},
    {"a shard beside others", reader_shards_many, NULL},
    {"a safetensors file", reader_safetensors, NULL},
    {"JSON", reader_json, NULL},
    {"a whole file", reader_fully, NULL},
    {"a tokenizer", reader_tokenizer, "tokenizer.json"},
    {"a vocabulary", reader_tokenizer, "vocab.json"},
    {"metrics", reader_metrics, "metrics.jsonl"},
    {"a lock", reader_lock, "lock"},
    {"weights", reader_weights, "model.safetensors"},
    {"an index of weights", reader_weights, "model.safetensors.index.json"},
};

typedef struct {
    const Reader* reader;
    const char* path;
} KindRead;
static void kind_read(void* argument) {
    const KindRead* reading = (const KindRead*)argument;
    signal(SIGALRM, SIG_DFL);
    alarm(10);  // one that waits ends by it, and so with another status
    reading->reader->read((void*)reading->path);
}

static void test_file_readers(void) {
    kinds_begin();
    unsigned char shard[SHARD_HEADER_BYTES + 40] = {0};
    shard_header(shard, 2, 20);
    free(write_file(kinds_path("s.bin"), (const char*)shard, sizeof shard));
    for (size_t r = 0; r < sizeof readers / sizeof readers[0]; r++) {
        for (int k = 0; k < KINDS - !kinds_devices; k++) {
            char* path = format_string("%s", kinds_path(kinds[k].name));
            if (readers[r].inside) {
                char* dir = format_string("%s/in", kinds_dir);
                char* link = format_string("%s/%s", dir, readers[r].inside);
                if (mkdir(dir, 0700) != 0 || symlink(path, link) != 0) { die("%s: %s", link, strerror(errno)); }
                if (strcmp(readers[r].inside, "vocab.json") == 0) {
                    free(write_file(kinds_path("in/merges.txt"), "#version: 0.2\n", 14));
                }
                free(path);
                free(link);
                path = dir;
            }
            KindRead reading = {&readers[r], path};
            char* what = format_string("%s: %s", readers[r].what, kinds[k].name);
            expect_death(what, kind_read, &reading, kinds[k].words);
            free(what);
            if (readers[r].inside) { directory_remove_tree(path); }
            free(path);
        }
    }
    kinds_end();
}

// ---- writing ----

static void test_file_resolve(void) {
    kinds_begin();
    static const char* const links[][2] = {{"a", "directory/b"},
                                           {"directory/b", "../c"},
                                           {"c", "gone"},
                                           {"round", "round"},
                                           {"directory/up", "../directory"}};
    for (int i = 0; i < 5; i++) {
        if (symlink(links[i][1], kinds_path(links[i][0])) != 0) { die("symlink: %s", strerror(errno)); }
    }
    static const char* const cases[][2] = {{"plain", "plain"},
                                           {"a", "directory/../gone"},
                                           {"directory/b", "directory/../gone"},
                                           {"link", "fifo"},
                                           {"directory/up/b", "directory/up/../gone"},
                                           {"round", "round"}};
    for (int i = 0; i < 6; i++) {
        char* name = file_resolve(kinds_path(cases[i][0]));
        CHECK(strcmp(name, kinds_path(cases[i][1])) == 0, "%s leads to %s", cases[i][0], name);
        free(name);
    }
    // A link of the kernel has a text that is no name.
    int ends[2];
    if (pipe(ends) != 0) { die("pipe: %s", strerror(errno)); }
    char* pipe_name = format_string("/proc/self/fd/%d", ends[1]);
    if (access(pipe_name, F_OK) == 0) {
        char* name = file_resolve(pipe_name);
        CHECK(strcmp(name, pipe_name) == 0, "%s", name);
        free(name);
        char* error = target_write(pipe_name, "through", 7);
        char got[8] = {0};
        CHECK(!error && read(ends[0], got, 7) == 7 && strcmp(got, "through") == 0, "%s, '%s'", error ? error : "", got);
        free(error);
    }
    free(pipe_name);
    close(ends[0]);
    close(ends[1]);
    kinds_end();
}

static void write_kind(void* path) {
    signal(SIGALRM, SIG_DFL);
    alarm(10);
    char* error = write_file((const char*)path, "text", 4);
    if (error) { die("%s", error); }
}
static void target_kind(void* path) {
    char* error = target_write((const char*)path, "text", 4);
    if (error) { die("%s", error); }
}

static void test_file_writers(void) {
    kinds_begin();
    // Files of ours are never what waits or cannot hold them.
    expect_death("a FIFO", write_kind, (void*)kinds_path("fifo"), "fifo: could not be created|a FIFO (named pipe)");
    expect_death("a socket", write_kind, (void*)kinds_path("socket"), "socket: could not be created|a socket");
    expect_death("a directory", write_kind, (void*)kinds_path("directory"), "could not be created: Is a directory");
    // Outputs that the user names.
    expect_death("a socket", target_kind, (void*)kinds_path("socket"), "expected the name of a file to write|a socket");
    expect_death("a directory", target_kind, (void*)kinds_path("directory"), "name of a file to write|a directory");
    expect_death("no directory", target_kind, (void*)kinds_path("missing/x"), "could not be created: No such file");
    struct stat info;
    if (kinds_devices) {
        CHECK(target_write(kinds_path("null"), "text", 4) == NULL, "a device behind a link");
        CHECK(lstat(kinds_path("null"), &info) == 0 && S_ISLNK(info.st_mode), "the link is gone");
        CHECK(stat(kinds_path("null"), &info) == 0 && S_ISCHR(info.st_mode), "the device is gone");
        unlink(kinds_path("device"));
    }
    // What close() says is an error too.
    file_calls.close_error = EDQUOT;
    char* said = write_file(kinds_path("quota"), "text", 4);
    CHECK(said && strstr(said, "quota: could not be written: ") && strstr(said, strerror(EDQUOT)), "%s",
          said ? said : "written");
    free(said);
    unlink(kinds_path("quota"));
    // A file is replaced as a whole: who has it open keeps the old one; its mode stays.
    free(write_file(kinds_path("file"), "old", 3));
    chmod(kinds_path("file"), 0604);
    if (symlink("file", kinds_path("other")) != 0) { die("symlink: %s", strerror(errno)); }
    int old = open(kinds_path("file"), O_RDONLY);
    CHECK(target_write(kinds_path("other"), "new text", 8) == NULL, "a file behind a link");
    char text[16] = {0};
    CHECK(read(old, text, sizeof text - 1) == 3 && strcmp(text, "old") == 0, "'%s'", text);
    close(old);
    size_t size = 0;
    char* now = read_fully(kinds_path("file"), &size);
    CHECK(now && strcmp(now, "new text") == 0, "'%s'", now);
    free(now);
    CHECK(stat(kinds_path("file"), &info) == 0 && (info.st_mode & 0777) == 0604, "%o", (unsigned)info.st_mode);
    CHECK(lstat(kinds_path("other"), &info) == 0 && S_ISLNK(info.st_mode), "the link is gone");
    // A temporary name that is taken, or a link of that name, is another's.
    for (int i = 0; i < 2; i++) {
        char* taken = format_string("%s.tmp.%ld", kinds_path("file"), (long)getpid());
        if (i == 0) { free(write_file(taken, "another's", 9)); }
        if (i == 1 && symlink("other", taken) != 0) { die("symlink: %s", strerror(errno)); }
        char* error = target_write(kinds_path("file"), "new text", 8);
        CHECK(!error, "%s", error);
        char* there = read_fully(taken, &size);
        CHECK(there && strcmp(there, i == 0 ? "another's" : "new text") == 0, "'%s'", there ? there : "nothing");
        CHECK(lstat(taken, &info) == 0 && S_ISLNK(info.st_mode) == i, "the link is gone");
        unlink(taken);
        free(there);
        free(taken);
    }
    now = read_fully(kinds_path("file"), &size);
    CHECK(now && strcmp(now, "new text") == 0, "'%s'", now);
    free(now);
    // A failure leaves the old one.
    file_calls_watch(kinds_dir);
    for (int at = 1; at <= 2; at++) {  // sync, rename
        file_calls.count = 0;
        file_calls.fail_at = at;
        char* error = target_write(kinds_path("file"), "newer", 5);
        CHECK(error && strstr(error, "file: could not be") && strstr(error, "Input/output error"), "%s",
              error ? error : "nothing");
        free(error);
    }
    file_calls.root = NULL;
    now = read_fully(kinds_path("file"), &size);
    CHECK(now && strcmp(now, "new text") == 0, "'%s'", now);
    free(now);
    char* names = listing(kinds_dir);
    CHECK(strcmp(names, "directory fifo file link null other socket ") == 0, "%s", names);
    free(names);
    kinds_end();
}

// metrics.jsonl behind a link: cut where it lies, and the link stays.
static void test_file_metrics_link(void) {
    kinds_begin();
    const char* text = "{\"step\": 1, \"loss\": 1}\n{\"step\": 2, \"loss\": 1}\n";
    free(write_file(kinds_path("elsewhere"), text, strlen(text)));
    if (symlink("../elsewhere", kinds_path("directory/metrics.jsonl")) != 0) { die("symlink: %s", strerror(errno)); }
    Metrics metrics;
    metrics_open(&metrics, kinds_path("directory"), 1, 0);
    close(metrics.fd);
    struct stat info;
    size_t size = 0;
    char* now = read_fully(kinds_path("elsewhere"), &size);
    CHECK(now && size == strlen(text) / 2 && lstat(kinds_path("directory/metrics.jsonl"), &info) == 0 &&
              S_ISLNK(info.st_mode),
          "'%s'", now ? now : "");
    free(now);
    char* names = listing(kinds_dir);
    CHECK(strcmp(names, kinds_devices ? "device directory elsewhere fifo link null socket "
                                      : "directory elsewhere fifo link null socket ") == 0,
          "%s", names);
    free(names);
    kinds_end();
}

// What has the name of a checkpoint and is none is not taken away.
static void checkpoint_over(void* path) {
    TensorTable table;
    memset(&table, 0, sizeof table);
    checkpoint_write((const char*)path, 5, &table, NULL, NULL, NULL, NULL, 0, 1);
}
static void test_file_checkpoint_name(void) {
    kinds_begin();
    struct stat info;
    if (mkfifo(kinds_path("step_00000005"), 0600) != 0) { die("mkfifo: %s", strerror(errno)); }
    expect_death("a FIFO", checkpoint_over, kinds_dir, "step_00000005: expected a checkpoint's directory|found a FIFO");
    CHECK(lstat(kinds_path("step_00000005"), &info) == 0 && S_ISFIFO(info.st_mode), "the FIFO is gone");
    unlink(kinds_path("step_00000005"));
    free(write_file(kinds_path("step_00000005"), "mine", 4));
    expect_death("a file", checkpoint_over, kinds_dir, "step_00000005: expected a checkpoint's|found a regular file");
    CHECK(lstat(kinds_path("step_00000005"), &info) == 0 && info.st_size == 4, "the file is gone");
    kinds_end();
}

// ---- a file system without locks ----

static void lock_here(void* dir) {
    lock_out((const char*)dir);
    printf("goes on\n");
}

static void test_file_no_locks(void) {
    kinds_begin();
    static const int codes[] = {ENOLCK, ENOSYS, ENOTSUP, EOPNOTSUPP, EINVAL};
    for (int i = 0; i < 5; i++) {
        char *dir = format_string("%s/%d", kinds_dir, i), *output = NULL;
        file_calls.flock_error = codes[i];
        int code = run_child(lock_here, dir, &output);
        file_calls.flock_error = 0;
        char* warned = strstr(output, "warning: ");
        CHECK(code == 0 && warned && !strstr(warned + 1, "warning: ") &&
                  strstr(warned, "/lock could not be locked: ") && strstr(warned, strerror(codes[i])) &&
                  strstr(warned, "no locks") && strstr(warned, "goes on"),
              "%s: %d, %s", strerror(codes[i]), code, output);
        free(output);
        char* path = format_string("%s/lock", dir);
        size_t size = 0;
        char* pid = read_fully(path, &size);
        CHECK(pid && strtol(pid, NULL, 10) > 1, "the lock file says '%s'", pid ? pid : "");
        free(pid);
        free(path);
        free(dir);
    }
    file_calls.flock_error = EIO;  // no lack of locks but an error
    expect_death("EIO", lock_here, kinds_dir, "cannot lock|/lock: Input/output error");
    file_calls.flock_error = 0;
    kinds_end();
}

// A lock on a file that its holder has removed since it was opened keeps nobody out: it is taken on the file that the
// next process finds there.
static void test_file_lock_removed(void) {
    kinds_begin();
    const char* path = kinds_path("taken/lock");
    free(directory_make(kinds_path("taken")));
    write_bytes(path, "7\n", 2);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK(flock(fd, LOCK_EX | LOCK_NB) == 0, "%s: %s", path, strerror(errno));
    expect_death("a lock that is held", lock_here, (void*)kinds_path("taken"),
                 "taken is in use by process 7; wait for it");
    close(fd);
    struct stat before, after;
    CHECK(stat(path, &before) == 0, "%s", path);
    file_calls.flock_removes = path;
    file_lock(path, kinds_path("taken"));
    CHECK(!file_calls.flock_removes && stat(path, &after) == 0, "%s: is not there", path);
    expect_death("a lock on the new file", lock_here, (void*)kinds_path("taken"), "taken is in use by process");
    kinds_end();
}

// A file system that knows no fsync loses nothing by that.
static void test_file_no_sync(void) {
    kinds_begin();
    static const int codes[] = {EINVAL, ENOSYS, ENOTSUP};
    for (int i = 0; i < 3; i++) {
        file_calls_watch(kinds_dir);
        file_calls.fail_at = 1;
        file_calls.fail_code = codes[i];
        char* error = write_file(kinds_path("file"), "text", 4);
        CHECK(!error && file_calls.count == 1, "%s: %s", strerror(codes[i]), error ? error : "");
        free(error);
        file_calls.count = 0;
        error = directory_sync(kinds_dir);
        CHECK(!error && file_calls.count == 1, "%s: %s", strerror(codes[i]), error ? error : "");
        free(error);
        free(file_calls.list.data);
    }
    memset(&file_calls, 0, sizeof file_calls);
    kinds_end();
}

// A signal in the middle of writing ends the call and not the writing.
static void interrupted(int number) { (void)number; }
static void test_file_interrupted(void) {
    enum { BYTES = 200000 };  // more than a pipe holds
    int ends[2];
    char *bytes = (char*)xalloc(BYTES, 1, "a test"), *read_back = (char*)xalloc(BYTES + 1, 1, "a test");
    for (size_t i = 0; i < BYTES; i++) { bytes[i] = (char)(i % 251); }
    if (pipe(ends) != 0) { die("pipe: %s", strerror(errno)); }
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        close(ends[1]);
        usleep(20000);
        size_t n = 0;
        for (ssize_t more = 1; more > 0; n += (size_t)more) { more = read(ends[0], read_back + n, BYTES + 1 - n); }
        _exit(n == BYTES && memcmp(bytes, read_back, BYTES) == 0 ? 0 : 1);
    }
    close(ends[0]);
    struct sigaction action, before;
    memset(&action, 0, sizeof action);
    action.sa_handler = interrupted;  // without SA_RESTART
    sigaction(SIGALRM, &action, &before);
    const struct itimerval often = {{0, 2000}, {0, 2000}}, never = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &often, NULL);
    int written = write_all(ends[1], bytes, BYTES);
    setitimer(ITIMER_REAL, &never, NULL);
    sigaction(SIGALRM, &before, NULL);
    close(ends[1]);
    int status = 1;
    CHECK(written == 0 && waitpid(child, &status, 0) == child && status == 0, "%d, status %x", written,
          (unsigned)status);
    free(bytes), free(read_back);
}

static void file_tests(void) {
    RUN(test_file_open);
    RUN(test_file_readers);
    RUN(test_file_resolve);
    RUN(test_file_writers);
    RUN(test_file_metrics_link);
    RUN(test_file_checkpoint_name);
    RUN(test_file_no_locks);
    RUN(test_file_lock_removed);
    RUN(test_file_no_sync);
    RUN(test_file_interrupted);
}

#endif
