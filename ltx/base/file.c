/* SPDX-License-Identifier: Apache-2.0 */
#include "ltx/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ltx/base/err.h"

static int system_openat(int dirfd, const char *path, int flags, mode_t mode)
{
    return openat(dirfd, path, flags, mode);
}

const struct file_ops file_ops_system = {
    .openat = system_openat,
    .close = close,
    .pread = pread,
    .pwrite = pwrite,
    .fdatasync = fdatasync,
    .fsync = fsync,
    .ftruncate = ftruncate,
    .fallocate = fallocate,
    .renameat2 = renameat2,
    .unlinkat = unlinkat,
    .mkdirat = mkdirat,
    .mknodat = mknodat,
    .linkat = linkat,
    .symlinkat = symlinkat,
    .readdir = readdir,
};

const struct file_ops *file_ops = &file_ops_system;

/* The code for a call that has failed; one that left no errno has failed all the same. */
static int failure(void)
{
    int rc = err_from_errno(errno);
    return rc < 0 ? rc : -ERR_IO;
}

/* The result of a call that gives 0 or sets errno. */
static int result(int rc)
{
    return rc < 0 ? failure() : 0;
}

static int open_retry(int dirfd, const char *path, int flags, mode_t mode)
{
    int fd;
    do
        fd = file_ops->openat(dirfd, path, flags | O_CLOEXEC, mode);
    while (fd < 0 && errno == EINTR);
    return fd;
}

/* Splits off the folder of `path` into `dir`, "." if it has none; dir has PATH_MAX bytes. */
static int parent_of(const char *path, char *dir)
{
    const char *slash = strrchr(path, '/');
    const char *from = slash == NULL ? "." : slash == path ? "/" : path;
    size_t n = from == path ? (size_t)(slash - path) : 1;
    if (n >= PATH_MAX)
        return -ERR_INVALID;
    memcpy(dir, from, n);
    dir[n] = '\0';
    return 0;
}

/* Where the filesystem cannot reserve space, written zeros do: only past the end of the file. */
static int allocate_by_writing(int fd, int64_t end)
{
    static const char zeros[65536];
    int64_t size;
    int rc = file_size(fd, &size);
    while (rc == 0 && size < end) {
        size_t n = end - size < (int64_t)sizeof zeros ? (size_t)(end - size) : sizeof zeros;
        rc = file_write(fd, zeros, n, size);
        size += (int64_t)n;
    }
    return rc;
}

int file_open(int dirfd, const char *path, int flags, mode_t mode, int *fd)
{
    int got = open_retry(dirfd, path, flags, mode);
    if (got < 0)
        return failure();
    *fd = got;
    return 0;
}

int file_close(int fd)
{
    if (fd < 0)
        return 0;
    /* Linux has released the descriptor even when it says EINTR; a second close could hit another
     * thread's file. */
    if (file_ops->close(fd) < 0 && errno != EINTR)
        return failure();
    return 0;
}

int file_read(int fd, void *buf, size_t n, int64_t off)
{
    size_t got;
    int rc = file_read_some(fd, buf, n, off, &got);
    if (rc < 0)
        return rc;
    return got < n ? -ERR_TRUNCATED : 0;
}

int file_read_some(int fd, void *buf, size_t n, int64_t off, size_t *got)
{
    size_t done = 0;
    while (done < n) {
        ssize_t k = file_ops->pread(fd, (char *)buf + done, n - done, off + (int64_t)done);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return failure();
        if (k == 0)
            break;
        done += (size_t)k;
    }
    *got = done;
    return 0;
}

int file_write(int fd, const void *buf, size_t n, int64_t off)
{
    size_t done = 0;
    while (done < n) {
        ssize_t k = file_ops->pwrite(fd, (const char *)buf + done, n - done, off + (int64_t)done);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return failure();
        if (k == 0)
            return -ERR_IO;
        done += (size_t)k;
    }
    return 0;
}

int file_sync_data(int fd)
{
    int rc;
    do
        rc = file_ops->fdatasync(fd);
    while (rc < 0 && errno == EINTR);
    return result(rc);
}

int file_sync(int fd)
{
    int rc;
    do
        rc = file_ops->fsync(fd);
    while (rc < 0 && errno == EINTR);
    return result(rc);
}

int file_sync_dir(int dirfd, const char *path)
{
    int fd;
    int rc = file_open(dirfd, path, O_RDONLY | O_DIRECTORY, 0, &fd);
    if (rc < 0)
        return rc;
    rc = file_sync(fd);
    int closed = file_close(fd);
    return rc < 0 ? rc : closed;
}

int file_truncate(int fd, int64_t size)
{
    int rc;
    do
        rc = file_ops->ftruncate(fd, size);
    while (rc < 0 && errno == EINTR);
    return result(rc);
}

int file_allocate(int fd, int64_t off, int64_t len)
{
    int rc;
    do
        rc = file_ops->fallocate(fd, 0, off, len);
    while (rc < 0 && errno == EINTR);
    if (rc < 0 && (errno == EOPNOTSUPP || errno == ENOSYS))
        return allocate_by_writing(fd, off + len);
    return result(rc);
}

int file_rename(int olddir, const char *oldpath, int newdir, const char *newpath)
{
    return result(file_ops->renameat2(olddir, oldpath, newdir, newpath, 0));
}

int file_unlink(int dirfd, const char *path)
{
    return result(file_ops->unlinkat(dirfd, path, 0));
}

int file_mkdir(int dirfd, const char *path, mode_t mode)
{
    int rc = result(file_ops->mkdirat(dirfd, path, mode));
    if (rc != -ERR_EXISTS)
        return rc;
    struct stat st;
    if (fstatat(dirfd, path, &st, 0) < 0)
        return failure();
    return S_ISDIR(st.st_mode) ? 0 : -ERR_EXISTS;
}

int file_mkdirs(int dirfd, const char *path, mode_t mode)
{
    char part[PATH_MAX];
    size_t n = strlen(path);
    if (n == 0 || n >= sizeof part)
        return -ERR_INVALID;
    for (size_t i = 1; i <= n; i++) {
        if (path[i] != '/' && path[i] != '\0')
            continue;
        memcpy(part, path, i);
        part[i] = '\0';
        int rc = file_mkdir(dirfd, part, mode);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int file_next_entry(DIR *dir, const struct dirent **entry)
{
    do {
        errno = 0;
        *entry = file_ops->readdir(dir);
    } while (*entry != NULL
                 ? strcmp((*entry)->d_name, ".") == 0 || strcmp((*entry)->d_name, "..") == 0
                 : errno == EINTR);
    return *entry == NULL && errno != 0 ? err_from_errno(errno) : 0;
}

int file_size(int fd, int64_t *size)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return failure();
    *size = st.st_size;
    return 0;
}

bool file_exists(int dirfd, const char *path)
{
    struct stat st;
    return fstatat(dirfd, path, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

int file_replace(int dirfd, const char *path, const void *data, size_t n, mode_t mode)
{
    char tmp[PATH_MAX];
    char dir[PATH_MAX];
    int len = snprintf(tmp, sizeof tmp, "%s.tmp", path);
    if (len < 0 || (size_t)len >= sizeof tmp)
        return -ERR_INVALID;
    int rc = parent_of(path, dir);
    if (rc < 0)
        return rc;
    int fd;
    rc = file_open(dirfd, tmp, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, mode, &fd);
    if (rc < 0)
        return rc;
    rc = file_write(fd, data, n, 0);
    if (rc == 0)
        rc = file_sync(fd);
    int closed = file_close(fd);
    if (rc == 0)
        rc = closed;
    if (rc == 0)
        rc = file_rename(dirfd, tmp, dirfd, path);
    if (rc < 0) {
        (void)file_ops->unlinkat(dirfd, tmp, 0);
        return rc;
    }
    return file_sync_dir(dirfd, dir);
}
