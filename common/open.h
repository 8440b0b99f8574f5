// open.h - files are looked at before they are opened or replaced: opening a FIFO may wait for ever, reading a
// device need not end, and a file that is renamed to the name of a device or a link takes its place.
#ifndef PONDER_OPEN_H
#define PONDER_OPEN_H

#include "base.h"

#include <fcntl.h>
#include <sys/stat.h>

// NULL for a regular file; else what is the matter with a file of this mode, in static words.
#define FILE_EXPECTED "expected a regular file, found "
static inline const char* file_unexpected(mode_t mode) {
    return S_ISREG(mode)    ? NULL
           : S_ISDIR(mode)  ? FILE_EXPECTED "a directory"
           : S_ISFIFO(mode) ? FILE_EXPECTED "a FIFO (named pipe)"
           : S_ISSOCK(mode) ? FILE_EXPECTED "a socket"
           : S_ISCHR(mode)  ? FILE_EXPECTED "a character device"
           : S_ISBLK(mode)  ? FILE_EXPECTED "a block device"
                            : FILE_EXPECTED "something else";
}

// "a directory", "a FIFO (named pipe)", ...
static inline const char* file_kind(mode_t mode) {
    return S_ISREG(mode) ? "a regular file" : file_unexpected(mode) + sizeof FILE_EXPECTED - 1;
}

// Opens a regular file to read it: *fd = and *info =. NULL, or why that cannot be done, in words to follow "PATH: " or
// "PATH: could not be opened: ", valid until the next call, with errno set. Never waits.
static inline const char* file_open(const char* path, int* fd, struct stat* info) {
    *fd = -1;
    if (stat(path, info) != 0) { return strerror(errno); }
    if (S_ISREG(info->st_mode)) {
        // It may have become something else by now: O_NONBLOCK, which does nothing to regular files, keeps that from
        // waiting.
        *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        if (*fd < 0) { return strerror(errno); }
        int error = fstat(*fd, info) != 0 ? errno : 0;
        if (!error && S_ISREG(info->st_mode)) { return NULL; }
        close(*fd);
        *fd = -1;
        if ((errno = error) != 0) { return strerror(error); }
    }
    errno = S_ISDIR(info->st_mode) ? EISDIR : EINVAL;
    return file_unexpected(info->st_mode);
}

// The same as a stream of the C library; NULL with *why = and errno set. The caller closes it.
static inline FILE* file_open_stream(const char* path, const char** why) {
    struct stat info;
    int fd = -1;
    *why = file_open(path, &fd, &info);
    if (*why) { return NULL; }
    FILE* file = fdopen(fd, "rb");
    if (!file) {
        *why = strerror(errno);
        close(fd);
    }
    return file;
}

// The mode of whatever has this name, links followed; 0 if there is nothing, or it cannot be seen.
static inline mode_t file_mode(const char* path) {
    struct stat info;
    return stat(path, &info) == 0 ? info.st_mode : 0;
}

// Where a name leads: the name itself, or the file that a symbolic link stands for, whether there is one or not. Who
// renames a file to that name replaces what the link stands for and not the link. Links of the kernel whose text is no
// name (/dev/fd/63: "pipe:[4026]") stay as they are. The caller frees it.
static inline char* file_resolve(const char* path) {
    char* name = format_string("%s", path);
    for (int links = 0; links < 40; links++) {  // more are a circle; opening it says so
        char text[4096];
        ssize_t n = readlink(name, text, sizeof text - 1);
        if (n <= 0) { break; }
        text[n] = 0;
        const char* slash = strrchr(name, '/');
        int folder = text[0] != '/' && slash ? (int)(slash - name) + 1 : 0;
        char* next = format_string("%.*s%s", folder, name, text);
        struct stat here, there;
        int wrong = stat(name, &here) == 0 &&
                    (stat(next, &there) != 0 || here.st_ino != there.st_ino || here.st_dev != there.st_dev);
        free(wrong ? next : name);
        if (wrong) { break; }
        name = next;
    }
    return name;
}

#endif
