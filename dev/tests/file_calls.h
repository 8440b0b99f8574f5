// file_calls.h - the calls that change directories, as a test sees them: listed in their order, with a look
// at the directory before each, or with one that fails. Files that cannot be read.
//
// The functions below take the place of the C library's in the whole test program. None of them syncs to the
// disk, which takes long: no test pulls the plug. What would have been synced stands in the list.
#ifndef PONDER_FILE_CALLS_H
#define PONDER_FILE_CALLS_H

#include "../../common/files/file.h"
#include "test.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

typedef struct {
    const char* root;             // names are listed without all up to here; NULL: nothing is seen
    int count;                    // calls so far
    int fail_at;                  // the number of the one that fails, from 1; 0: none
    int fail_code;                // with this; 0: with EIO
    int flock_error;              // what flock() fails with, seen or not; 0: it works
    int close_error;              // what the next close() fails with, seen or not; 0: it works
    const char* flock_removes;    // the next flock() comes when whoever had the lock has just removed this file
    void (*look)(void* context);  // called before each; NULL: nobody looks
    void* context;
    StringBuilder list;  // a line each: "sync NAME", "rename NAME NAME", "mkdir NAME", "unlink NAME", "rmdir NAME"
} FileCalls;
static FileCalls file_calls;

static void file_calls_watch(const char* root) {
    memset(&file_calls, 0, sizeof file_calls);
    sb_append(&file_calls.list, "", 0);
    file_calls.root = root;
}

static void file_calls_look(void) {
    if (!file_calls.root || !file_calls.look) { return; }
    const char* root = file_calls.root;
    int error = errno;
    file_calls.root = NULL;  // what it does itself is not seen
    file_calls.look(file_calls.context);
    file_calls.root = root;
    errno = error;
}

static const char* file_calls_name(const char* path) {
    const char* inside = strstr(path, file_calls.root);
    if (!inside) { return path; }
    inside += strlen(file_calls.root);
    while (*inside == '/') { inside++; }
    return *inside ? inside : ".";
}

// Before a call: lists it. 1 if it is to fail.
static int file_calls_begin(const char* what, const char* path, const char* to) {
    if (!file_calls.root) { return 0; }
    file_calls_look();
    sb_printf(&file_calls.list, "%s %s", what, file_calls_name(path));
    sb_printf(&file_calls.list, to ? " %s\n" : "%s\n", to ? file_calls_name(to) : "");
    if (++file_calls.count != file_calls.fail_at) { return 0; }
    errno = file_calls.fail_code ? file_calls.fail_code : EIO;
    return 1;
}

// The path of an open file, or "".
static const char* file_calls_path(int fd, char path[4096]) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, 4095);
    path[n > 0 ? n : 0] = 0;
    return path;
}

// A file F cannot be read while there is a file F.unreadable, as where a disk has a bad block.
ssize_t pread(int fd, void* out, size_t n, off_t offset) {
    char path[4096], sign[4096 + 16];
    snprintf(sign, sizeof sign, "%s.unreadable", file_calls_path(fd, path));
    if (access(sign, F_OK) == 0) {
        errno = EIO;
        return -1;
    }
    return (ssize_t)syscall(SYS_pread64, fd, out, n, offset);
}

int fsync(int fd) {
    char path[4096];
    file_calls_path(fd, path);
    if (file_calls_begin("sync", path, NULL)) { return -1; }
    return fcntl(fd, F_GETFD) < 0 ? -1 : 0;
}
// The file is closed all the same, as where a file system says only then what it could not write.
int close(int fd) {
    const int error = file_calls.close_error, code = (int)syscall(SYS_close, fd);
    file_calls.close_error = 0;
    if (error) { errno = error; }
    return error ? -1 : code;
}
int rename(const char* from, const char* to) {
    if (file_calls_begin("rename", from, to)) { return -1; }
    return renameat(AT_FDCWD, from, AT_FDCWD, to);
}
int unlink(const char* path) {
    if (file_calls_begin("unlink", path, NULL)) { return -1; }
    return unlinkat(AT_FDCWD, path, 0);
}
int rmdir(const char* path) {
    if (file_calls_begin("rmdir", path, NULL)) { return -1; }
    return unlinkat(AT_FDCWD, path, AT_REMOVEDIR);
}
int flock(int fd, int operation) {
    if (file_calls.flock_removes) { unlinkat(AT_FDCWD, file_calls.flock_removes, 0); }
    file_calls.flock_removes = NULL;
    if (!file_calls.flock_error) { return (int)syscall(SYS_flock, fd, operation); }
    errno = file_calls.flock_error;
    return -1;
}
int mkdir(const char* path, mode_t mode) {
    if (file_calls_begin("mkdir", path, NULL)) { return -1; }
    return mkdirat(AT_FDCWD, path, mode);
}

// A character device of the test's own, 1:3 is /dev/null and 1:7 /dev/full: what goes wrong must not replace that of
// the system, which root could. 0 where none can be made that can be opened.
static int test_device(const char* path, unsigned minor) {
    int fd = mknod(path, S_IFCHR | 0600, makedev(1, minor)) == 0 ? open(path, O_WRONLY) : -1;
    if (fd < 0) { unlinkat(AT_FDCWD, path, 0); }
    return fd >= 0 && close(fd) == 0;
}

// The names in a directory, sorted, each with a blank after it; the caller frees it.
static int compare_names(const void* a, const void* b) { return strcmp(*(char* const*)a, *(char* const*)b); }
static char* listing(const char* path) {
    int count = 0;
    char** names = directory_names(path, &count);
    qsort(names, (size_t)count, sizeof(char*), compare_names);
    StringBuilder sb = {0};
    sb_append(&sb, "", 0);
    for (int i = 0; i < count; i++) { sb_printf(&sb, "%s ", names[i]); }
    directory_free_names(names);
    return sb.data;
}

// Where the first line of a list stands that begins so, -1 if there is none. With a '\n' at its end: a whole line.
static long file_calls_find(const char* list, const char* begin) {
    for (const char* at = list; *at; at += strcspn(at, "\n") + 1) {
        if (strncmp(at, begin, strlen(begin)) == 0) { return (long)(at - list); }
    }
    return -1;
}

// That everything of a checkpoint that was written as `temporary` and then got its name was synced in time,
// each of its files, then its directory, before it gets its name, then the directory that holds the name,
// before anything is removed. files: the names in it, each with a blank after it. Returns how many more calls
// of fsync there were.
static int file_calls_check_syncs(const char* list, const char* temporary, const char* name, const char* files) {
    char* line = format_string("rename %s %s\n", temporary, name);
    long named = file_calls_find(list, line), named_synced = file_calls_find(list, "sync .\n");
    free(line);
    line = format_string("sync %s\n", temporary);
    long filled = file_calls_find(list, line);
    free(line);
    CHECK(filled >= 0 && filled < named && named < named_synced,
          "%s is synced at %ld, gets its name at %ld, which is synced at %ld:\n%s", temporary, filled, named,
          named_synced, list);
    int syncs = 2;
    for (const char* at = files; *at; at += strcspn(at, " ") + 1, syncs++) {
        line = format_string("sync %s/%.*s\n", temporary, (int)strcspn(at, " "), at);
        long synced = file_calls_find(list, line);
        CHECK(synced >= 0 && synced < filled, "at %ld %sand its directory at %ld:\n%s", synced, line, filled, list);
        free(line);
    }
    const char* aside = strstr(list, " .tmp_step_delete");
    const long removals[] = {file_calls_find(list, "unlink "), file_calls_find(list, "rmdir "),
                             aside ? (long)(aside - list) : -1};
    for (int i = 0; i < 3; i++) {
        CHECK(removals[i] < 0 || removals[i] > named_synced, "removed before the new name is synced:\n%s", list);
    }
    int all = 0;
    for (const char* at = list; *at; at += strcspn(at, "\n") + 1) { all += strncmp(at, "sync ", 5) == 0; }
    return all - syncs;
}

#endif
