// file.h - files and directories as the rest of the project needs them: read whole, written whole and
// synced to the disk, with errors in words.
#ifndef PONDER_FILE_H
#define PONDER_FILE_H

#include "../base.h"

#include <dirent.h>
#include <fcntl.h>
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
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        if (errno == ENOENT) { return NULL; }
        die("cannot read %s: %s", path, strerror(errno));
    }
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
        ssize_t done = write(fd, at, min_size(n, (size_t)1 << 30));
        if (done < 0 && errno == EINTR) { continue; }
        if (done < 0) { return -1; }
        if (done == 0) {
            errno = ENOSPC;
            return -1;
        }
        at += done;
        n -= (size_t)done;
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

// Closes fd after syncing it to the disk; NULL, or what went wrong (the caller frees it).
static inline char* write_finish(int fd, int failed, const char* path) {
    int error = failed ? errno : 0;
    if (!error && fsync(fd) != 0) { error = errno; }
    if (close(fd) != 0 && !error) { error = errno; }
    return error ? format_string("%s: could not be written: %s%s", path, strerror(error), write_hint(error)) : NULL;
}

// Writes a whole small file and syncs it; NULL, or what went wrong (the caller frees it).
static inline char* write_file(const char* path, const char* text, size_t size) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) { return format_string("%s: could not be created: %s%s", path, strerror(errno), write_hint(errno)); }
    return write_finish(fd, write_all(fd, text, size) != 0, path);
}

// ---- directories ----

// Syncs a directory, so that the names in it survive a power cut; NULL, or what went wrong.
static inline char* directory_sync(const char* path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int failed = fd < 0 || (fsync(fd) != 0 && errno != EINVAL);  // EINVAL: this file system cannot sync directories
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
