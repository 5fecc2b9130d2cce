/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LTX_BASE_FILE_H
#define LTX_BASE_FILE_H

#include <dirent.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

/*
 * Every operation of the daemon on its own data goes through one table, so that a test can record
 * the calls or make the n-th one fail. The functions below retry EINTR, complete short transfers
 * and return codes of ltx/base/err.h. Offsets and sizes are bytes.
 *
 * Outside of it are only calls that change no content and no name (stat, and the mode, owner and
 * times of a file), the lock of the data folder, and the mapping of a -shm, which no start reads.
 */
struct file_ops {
    int (*openat)(int dirfd, const char *path, int flags, mode_t mode);
    int (*close)(int fd);
    ssize_t (*pread)(int fd, void *buf, size_t n, off_t off);
    ssize_t (*pwrite)(int fd, const void *buf, size_t n, off_t off);
    int (*fdatasync)(int fd);
    int (*fsync)(int fd);
    int (*ftruncate)(int fd, off_t size);
    int (*fallocate)(int fd, int mode, off_t off, off_t len);
    int (*renameat2)(int olddir, const char *oldpath, int newdir, const char *newpath,
                     unsigned flags);
    int (*unlinkat)(int dirfd, const char *path, int flags);
    int (*mkdirat)(int dirfd, const char *path, mode_t mode);
    int (*mknodat)(int dirfd, const char *path, mode_t mode, dev_t dev);
    int (*linkat)(int olddir, const char *oldpath, int newdir, const char *newpath, int flags);
    int (*symlinkat)(const char *target, int dirfd, const char *path);
    struct dirent *(*readdir)(DIR *dir);
};

extern const struct file_ops file_ops_system;
extern const struct file_ops *file_ops;

int file_open(int dirfd, const char *path, int flags, mode_t mode, int *fd); /* adds O_CLOEXEC */
int file_close(int fd); /* fd < 0: does nothing */
/* Reads exactly n bytes: -ERR_TRUNCATED if the file ends before. */
int file_read(int fd, void *buf, size_t n, int64_t off);
/* Reads up to n bytes; *got < n only at the end of the file. */
int file_read_some(int fd, void *buf, size_t n, int64_t off, size_t *got);
int file_write(int fd, const void *buf, size_t n, int64_t off);
int file_sync_data(int fd);
int file_sync(int fd);
int file_sync_dir(int dirfd,
                  const char *path); /* opens `path` below dirfd ("." for itself), fsyncs it */
int file_truncate(int fd, int64_t size);
int file_allocate(int fd, int64_t off,
                  int64_t len); /* space reserved, reads as zero, file size grows */
int file_rename(int olddir, const char *oldpath, int newdir, const char *newpath);
int file_unlink(int dirfd, const char *path);              /* -ERR_NOTFOUND if it is not there */
int file_mkdir(int dirfd, const char *path, mode_t mode);  /* an existing folder is fine */
int file_mkdirs(int dirfd, const char *path, mode_t mode); /* with its parents */
/* The next entry but "." and "..", NULL at the end; borrowed as from readdir(3). A folder that cannot be
 * read to its end must not look like a shorter one. */
int file_next_entry(DIR *dir, const struct dirent **entry);
int file_size(int fd, int64_t *size);
bool file_exists(int dirfd, const char *path);
/* Replaces `path` atomically: temporary file `path`.tmp, sync, rename, sync of the folder. One
 * caller at a time for a path; a leftover of a crash is overwritten by the next. */
int file_replace(int dirfd, const char *path, const void *data, size_t n, mode_t mode);

#endif
