// file.h - files and directories as the rest of the project needs them: looked at first (open.h), read whole,
// written whole and synced to the disk, with errors in words.
#ifndef PONDER_FILE_H
#define PONDER_FILE_H

#include "../base.h"
#include "../open.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

// A small file that a checkpoint carries beside the tensors (config.json, tokenizer.json, ...).
typedef struct {
    const char* name;
    const char* text;
    size_t size;
} CheckpointFile;

// ---- files ----

// The whole of a file in malloc'd memory (NUL-terminated), NULL if there is none; dies on any other error.
static inline char* read_fully(const char* path, size_t* size) {
    struct stat info;
    int fd = -1;
    const char* why = file_open(path, &fd, &info);
    if (why && errno == ENOENT) { return NULL; }
    if (why) { die("cannot read %s: %s", path, why); }
    StringBuilder sb = {0};
    char chunk[65536];
    for (;;) {
        ssize_t n = read(fd, chunk, sizeof chunk);
        if (n < 0 && errno == EINTR) { continue; }
        if (n < 0) { die("cannot read %s: %s", path, strerror(errno)); }
        sb_append(&sb, chunk, (size_t)n);
        if (n == 0) { break; }
    }
    close(fd);
    *size = sb.size;
    return sb.data;
}

// All n bytes to a file; 0, or -1 with errno set.
static inline int write_all(int fd, const void* bytes, size_t n) {
    const char* at = (const char*)bytes;
    while (n) {
        ssize_t done = write(fd, at, min_size(n, (size_t)64 << 20));
        if (done < 0 && errno == EINTR) { continue; }
        if (done < 0) { return -1; }
        if (done == 0) {
            errno = ENOSPC;
            return -1;
        }
        at += done;
        n -= (size_t)done;
        work_goes_on();
    }
    return 0;
}

// What may help against an error of writing, to follow "PATH: could not be written: REASON".
static inline const char* write_hint(int error) {
    switch (error) {
        case ENOSPC: return " (free some space there, or choose another directory)";
        case EDQUOT: return " (your disk quota is used up: remove something, or choose another directory)";
        case EFBIG: return " (a limit on the size of files is set, see ulimit -f)";
        case EROFS:
        case EACCES:
        case EPERM: return " (choose a directory that you may write to)";
        case ENOTDIR: return " (part of the path is a file where a directory is expected)";
        default: return "";
    }
}

// Writes all n bytes, or dies naming the file.
static inline void write_fully(int fd, const char* bytes, size_t n, const char* path) {
    if (write_all(fd, bytes, n) != 0) {
        die("%s: could not be written: %s%s", path, strerror(errno), write_hint(errno));
    }
}

// 1 if fsync() failed because this file or its file system knows no syncing: nothing can be done, and nothing is wrong.
static inline int sync_is_unknown(int error) {
    return error == EINVAL || error == ENOSYS || error == ENOTSUP || error == EOPNOTSUPP;
}

// Closes fd after syncing it to the disk; NULL, or what went wrong (the caller frees it).
static inline char* write_finish(int fd, int failed, const char* path) {
    int error = failed ? errno : 0;
    if (!error && fsync(fd) != 0 && !sync_is_unknown(errno)) { error = errno; }
    if (close(fd) != 0 && !error) { error = errno; }
    return error ? format_string("%s: could not be written: %s%s", path, strerror(error), write_hint(error)) : NULL;
}

// Opens a file to write it from its beginning, made if there is none: *fd =. NULL, or what went wrong (the caller
// frees it): a FIFO, where opening may wait for ever, and what else is no place for a file is refused.
static inline char* file_create(const char* path, int* fd) {
    mode_t mode = file_mode(path);
    if (S_ISFIFO(mode) || S_ISSOCK(mode) || S_ISBLK(mode)) {
        return format_string("%s: could not be created: %s", path, file_unexpected(mode));
    }
    *fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0666);
    if (*fd >= 0) { return NULL; }
    return format_string("%s: could not be created: %s%s", path, strerror(errno), write_hint(errno));
}

// Writes a whole small file and syncs it; NULL, or what went wrong (the caller frees it).
static inline char* write_file(const char* path, const char* text, size_t size) {
    int fd = -1;
    char* error = file_create(path, &fd);
    return error ? error : write_finish(fd, write_all(fd, text, size) != 0, path);
}

// ---- outputs that the user names ----

// A file that appears whole or not at all: it is written beside its place, synced, then renamed. A link stays, and
// what it stands for is replaced. What is no file but takes bytes (a FIFO, a character device, whatever standard
// output is) is written through as it stands: its name is never given to another.
//
//     target_open, write_all to its fd, target_close, target_place; after an error of any: target_drop
typedef struct {
    const char* path;  // as the user named it
    char* file;        // where that leads
    char* temporary;   // beside it; NULL: it is written through
    int fd;            // -1: closed
} FileTarget;

// 1 if a name stands for what standard output is, so that nothing else may be printed there. (Not if both are
// /dev/null.)
static inline int file_is_stdout(const char* path) {
    struct stat there, out;
    return stat(path, &there) == 0 && fstat(1, &out) == 0 && there.st_ino == out.st_ino && there.st_dev == out.st_dev &&
           (!S_ISCHR(there.st_mode) || isatty(1));
}

// NULL, or what went wrong (the caller frees it).
static inline char* target_open(FileTarget* target, const char* path) {
    memset(target, 0, sizeof *target);
    target->path = path;
    target->fd = -1;
    struct stat there;
    int exists = stat(path, &there) == 0;
    if (!exists && errno != ENOENT) {  // a circle of links, say
        return format_string("%s: could not be created: %s%s", path, strerror(errno), write_hint(errno));
    }
    if (exists && (S_ISDIR(there.st_mode) || S_ISSOCK(there.st_mode) || S_ISBLK(there.st_mode))) {
        return format_string("%s: expected the name of a file to write, found %s", path, file_kind(there.st_mode));
    }
    target->file = file_resolve(path);
    if (file_is_stdout(path)) {
        fflush(stdout);
        target->fd = fcntl(1, F_DUPFD_CLOEXEC, 3);
    } else if (exists && !S_ISREG(there.st_mode)) {
        target->fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);  // of a FIFO, when there is somebody who reads it
    } else {
        // A name that is taken is another's: a process of this number may be running in another container, or may have
        // been killed there.
        char* temporary = NULL;
        for (int n = 0; target->fd < 0 && n < 1000 && (n == 0 || errno == EEXIST); n++) {
            free(temporary);
            temporary = n ? format_string("%s.tmp.%ld.%d", target->file, (long)getpid(), n)
                          : format_string("%s.tmp.%ld", target->file, (long)getpid());
            target->fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        }
        int error = errno;
        if (target->fd < 0) { free(temporary); }
        errno = error;
        target->temporary = target->fd < 0 ? NULL : temporary;
        if (target->fd >= 0 && exists && fchmod(target->fd, there.st_mode & 0777) != 0) {}  // else as a new file is
    }
    if (target->fd >= 0) { return NULL; }
    return format_string("%s: could not be created: %s%s", path, strerror(errno), write_hint(errno));
}

// 1 if two open targets, written beside their places, are the same file: of the same name in the same directory.
static inline int target_is_same(const FileTarget* a, const FileTarget* b) {
    if (!a->temporary || !b->temporary) { return 0; }
    const char *x = strrchr(a->file, '/'), *y = strrchr(b->file, '/');
    if (strcmp(x ? x + 1 : a->file, y ? y + 1 : b->file) != 0) { return 0; }
    char *first = x ? format_string("%.*s/", (int)(x - a->file), a->file) : format_string("."),
         *second = y ? format_string("%.*s/", (int)(y - b->file), b->file) : format_string(".");
    struct stat there, other;
    int same = stat(first, &there) == 0 && stat(second, &other) == 0 && there.st_ino == other.st_ino &&
               there.st_dev == other.st_dev;
    free(first);
    free(second);
    return same;
}

// Closes it, on the disk; NULL, or what went wrong (the caller frees it).
static inline char* target_close(FileTarget* target, int failed) {
    char* error = write_finish(target->fd, failed, target->path);
    target->fd = -1;
    return error;
}

// Gives it its name; NULL, or what went wrong (the caller frees it).
static inline char* target_place(FileTarget* target) {
    if (target->temporary && rename(target->temporary, target->file) != 0) {
        return format_string("%s: could not be put in place: %s%s", target->path, strerror(errno), write_hint(errno));
    }
    free(target->temporary);
    free(target->file);
    target->temporary = target->file = NULL;
    return NULL;
}

// Nothing of it stays, as far as it was not written through. After target_place it does nothing.
static inline void target_drop(FileTarget* target) {
    if (target->fd >= 0) { close(target->fd); }
    if (target->temporary) { unlink(target->temporary); }
    free(target->temporary);
    free(target->file);
    target->temporary = target->file = NULL;
    target->fd = -1;
}

// A whole text to an output; NULL, or what went wrong (the caller frees it).
static inline char* target_write(const char* path, const char* text, size_t size) {
    FileTarget target;
    char* error = target_open(&target, path);
    if (!error) { error = target_close(&target, write_all(target.fd, text, size) != 0); }
    if (!error) { error = target_place(&target); }
    if (error) { target_drop(&target); }
    return error;
}

// ---- locks ----

// Makes --out `out` this process's own until it ends, however it ends, by a lock on the file `path`, which is made if
// there is none and says which process that is. A second process is refused: it dies. Where the file system has no locks
// that is said, and the program goes on without. Who holds it may remove the file.
static inline void file_lock(const char* path, const char* out) {
    for (;;) {
        mode_t mode = file_mode(path);
        if (mode && !S_ISREG(mode)) { die("%s: %s; remove it, or choose another --out", path, file_unexpected(mode)); }
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (fd < 0) { die("%s: could not be opened: %s%s", path, strerror(errno), write_hint(errno)); }
        char pid[32] = {0};
        int failed = 0;
        while ((failed = flock(fd, LOCK_EX | LOCK_NB) != 0) && errno == EINTR) {}
        if (failed && errno == EWOULDBLOCK) {
            ssize_t n = read(fd, pid, sizeof pid - 1);
            pid[n > 0 ? strspn(pid, "0123456789") : 0] = 0;
            die("--out %s is in use by process %s; wait for it, or choose another --out", out,
                pid[0] ? pid : "(unknown)");
        }
        int none = errno == ENOLCK || errno == ENOSYS || errno == ENOTSUP || errno == EOPNOTSUPP || errno == EINVAL;
        if (failed && !none) { die("cannot lock %s: %s", path, strerror(errno)); }
        struct stat ours, there;
        if (!failed && (fstat(fd, &ours) != 0 || stat(path, &there) != 0 || ours.st_ino != there.st_ino ||
                        ours.st_dev != there.st_dev)) {
            close(fd);  // who held it has removed it since it was opened here: a third process may make another
            continue;
        }
        if (failed) {
            warn("%s could not be locked: %s. This file system has no locks, so nothing keeps a second process out of "
                 "--out %s: start none there while this one runs",
                 path, strerror(errno), out);
        }
        int n = snprintf(pid, sizeof pid, "%ld\n", (long)getpid());
        if (ftruncate(fd, 0) != 0) { die("%s: could not be written: %s%s", path, strerror(errno), write_hint(errno)); }
        write_fully(fd, pid, (size_t)n, path);
        return;  // The descriptor stays open: closing it would give the lock back.
    }
}

// ---- directories ----

// Syncs a directory, so that the names in it survive a power cut; NULL, or what went wrong.
static inline char* directory_sync(const char* path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int failed = fd < 0 || (fsync(fd) != 0 && !sync_is_unknown(errno));
    char* error = failed ? format_string("%s: could not be synced to the disk: %s", path, strerror(errno)) : NULL;
    if (fd >= 0) { close(fd); }
    return error;
}

// Makes a directory and those above it; NULL, or what went wrong. Existing ones are fine.
static inline char* directory_make(const char* path) {
    char* part = format_string("%s", path);
    char* error = NULL;
    for (char* at = part + 1; !error; at++) {
        if (*at != '/' && *at != 0) { continue; }
        char kept = *at;
        *at = 0;
        struct stat info;
        if (mkdir(part, 0777) != 0 && (errno != EEXIST || stat(part, &info) != 0 || !S_ISDIR(info.st_mode))) {
            int code = errno == EEXIST ? ENOTDIR : errno;
            error = format_string("%s: the directory could not be made: %s%s", part, strerror(code), write_hint(code));
        }
        *at = kept;
        if (kept == 0) { break; }
    }
    free(part);
    return error;
}

// The names in a directory, except . and .., in any order; NULL-terminated, = *count. A directory
// that cannot be read has none. Free with directory_free_names.
static inline char** directory_names(const char* path, int* count) {
    int n = 0, capacity = 0;
    char** names = (char**)xalloc(1, sizeof(char*), "file names");
    DIR* directory = opendir(path);
    for (struct dirent* entry; directory && (entry = readdir(directory)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) { continue; }
        if (n >= capacity) {
            capacity = capacity ? 2 * capacity : 16;
            char** more = (char**)xalloc((size_t)capacity + 1, sizeof(char*), "file names");
            memcpy(more, names, (size_t)n * sizeof(char*));
            free(names);
            names = more;
        }
        names[n++] = format_string("%s", entry->d_name);
        names[n] = NULL;
    }
    if (directory) { closedir(directory); }
    *count = n;
    return names;
}

static inline void directory_free_names(char** names) {
    for (int i = 0; names[i]; i++) { free(names[i]); }
    free(names);
}

// Removes a directory with all that is in it, as far as it can be removed; links are not followed.
static inline void directory_remove_tree(const char* path) {
    struct stat info;
    if (lstat(path, &info) != 0) { return; }
    if (!S_ISDIR(info.st_mode)) {
        unlink(path);
        return;
    }
    int count = 0;
    char** names = directory_names(path, &count);
    for (int i = 0; i < count; i++) {
        char* inside = format_string("%s/%s", path, names[i]);
        directory_remove_tree(inside);
        free(inside);
    }
    directory_free_names(names);
    rmdir(path);
}

#endif
