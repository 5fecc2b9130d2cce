/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "ltx/base/file.h"

static atomic_int countdown;
static struct file_ops ops;
static enum fault kind;
static char what[320];

static const char *const names[FAULT_COUNT] = {"plain", "EIO",    "ENOSPC",
                                               "EINTR", "EMFILE", "a short transfer"};
static const int numbers[FAULT_COUNT] = {EIO, EIO, ENOSPC, EINTR, EMFILE, 0};

/* What an operation is like. */
enum {
    ROOM = 1,  /* needs room on the disk */
    WAITS = 2, /* may be interrupted */
    OPENS = 4,
    MOVES = 8, /* bytes */
    QUIET = 16 /* FAULT_PLAIN leaves it alone */
};

static bool counts(int like)
{
    switch (kind) {
    case FAULT_PLAIN: return (like & QUIET) == 0;
    case FAULT_ENOSPC: return (like & ROOM) != 0;
    case FAULT_EINTR: return (like & WAITS) != 0;
    case FAULT_EMFILE: return (like & OPENS) != 0;
    case FAULT_SHORT: return (like & MOVES) != 0;
    default: return true;
    }
}

static bool fails(const char *call, const char *path, int fd, int like)
{
    if (!counts(like) || atomic_fetch_sub(&countdown, 1) != 0)
        return false;
    char link[64], name[256] = "";
    if (path == NULL) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t n = readlink(link, name, sizeof name - 1);
        name[n > 0 ? n : 0] = '\0';
        path = name;
    }
    snprintf(what, sizeof what, "%s of %s", call, path);
    errno = numbers[kind];
    return true;
}

/* The plain errno of an operation that has another one than EIO. */
static int fail(int plain)
{
    if (kind == FAULT_PLAIN)
        errno = plain;
    return -1;
}

static int fault_openat(int dirfd, const char *path, int flags, mode_t mode)
{
    if (fails("open", path, -1, OPENS | WAITS | (flags & O_CREAT ? ROOM : 0)))
        return fail(EMFILE);
    return file_ops_system.openat(dirfd, path, flags, mode);
}

static int fault_close(int fd)
{
    bool failed = fails("close", NULL, fd, WAITS | ROOM | QUIET);
    int number = errno;
    int rc = file_ops_system.close(fd);
    errno = failed ? number : errno;
    return failed ? -1 : rc;
}

static ssize_t fault_pread(int fd, void *buf, size_t n, off_t off)
{
    if (!fails("read", NULL, fd, WAITS | (n > 1 ? MOVES : 0)))
        return file_ops_system.pread(fd, buf, n, off);
    return kind == FAULT_SHORT ? file_ops_system.pread(fd, buf, n / 2, off) : -1;
}

static ssize_t fault_pwrite(int fd, const void *buf, size_t n, off_t off)
{
    if (!fails("write", NULL, fd, ROOM | WAITS | (n > 1 ? MOVES : 0)))
        return file_ops_system.pwrite(fd, buf, n, off);
    if (kind == FAULT_EINTR)
        return -1;
    ssize_t half = file_ops_system.pwrite(fd, buf, n / 2, off);
    if (kind == FAULT_SHORT)
        return half;
    errno = numbers[kind];
    return -1;
}

static int fault_fdatasync(int fd)
{
    return fails("fdatasync", NULL, fd, ROOM | WAITS) ? -1 : file_ops_system.fdatasync(fd);
}

static int fault_fsync(int fd)
{
    return fails("fsync", NULL, fd, ROOM | WAITS) ? -1 : file_ops_system.fsync(fd);
}

static int fault_ftruncate(int fd, off_t size)
{
    return fails("truncation", NULL, fd, ROOM | WAITS) ? -1 : file_ops_system.ftruncate(fd, size);
}

static int fault_fallocate(int fd, int mode, off_t off, off_t len)
{
    return fails("allocation", NULL, fd, ROOM | WAITS)
               ? fail(ENOSPC)
               : file_ops_system.fallocate(fd, mode, off, len);
}

static int fault_renameat2(int olddir, const char *oldpath, int newdir, const char *newpath,
                           unsigned flags)
{
    return fails("rename", oldpath, -1, ROOM | WAITS)
               ? -1
               : file_ops_system.renameat2(olddir, oldpath, newdir, newpath, flags);
}

static int fault_unlinkat(int dirfd, const char *path, int flags)
{
    return fails("unlink", path, -1, WAITS | QUIET) ? -1
                                                    : file_ops_system.unlinkat(dirfd, path, flags);
}

static int fault_mkdirat(int dirfd, const char *path, mode_t mode)
{
    return fails("mkdir", path, -1, ROOM | WAITS) ? fail(ENOSPC)
                                                  : file_ops_system.mkdirat(dirfd, path, mode);
}

static struct dirent *fault_readdir(DIR *dir)
{
    return fails("reading", NULL, dirfd(dir), QUIET) ? NULL : file_ops_system.readdir(dir);
}

void fault_arm(int n)
{
    fault_arm_kind(n, FAULT_PLAIN);
}

void fault_arm_kind(int n, enum fault k)
{
    kind = k;
    atomic_store(&countdown, n);
    what[0] = '\0';
    ops = file_ops_system;
    ops.openat = fault_openat;
    ops.close = fault_close;
    ops.pread = fault_pread;
    ops.pwrite = fault_pwrite;
    ops.fdatasync = fault_fdatasync;
    ops.fsync = fault_fsync;
    ops.ftruncate = fault_ftruncate;
    ops.fallocate = fault_fallocate;
    ops.renameat2 = fault_renameat2;
    ops.unlinkat = fault_unlinkat;
    ops.mkdirat = fault_mkdirat;
    ops.readdir = fault_readdir;
    file_ops = &ops;
}

bool fault_disarm(void)
{
    file_ops = &file_ops_system;
    return atomic_load(&countdown) < 0;
}

const char *fault_name(enum fault k)
{
    return names[k];
}

const char *fault_what(void)
{
    return what;
}
