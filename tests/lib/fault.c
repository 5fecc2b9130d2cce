/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/fault.h"

#include <errno.h>
#include <stdatomic.h>

#include "ltx/base/file.h"

static atomic_int countdown;
static struct file_ops ops;

static bool fails(int errnum)
{
    if (atomic_fetch_sub(&countdown, 1) != 0)
        return false;
    errno = errnum;
    return true;
}

static int fault_openat(int dirfd, const char *path, int flags, mode_t mode)
{
    return fails(EMFILE) ? -1 : file_ops_system.openat(dirfd, path, flags, mode);
}

static ssize_t fault_pread(int fd, void *buf, size_t n, off_t off)
{
    return fails(EIO) ? -1 : file_ops_system.pread(fd, buf, n, off);
}

static ssize_t fault_pwrite(int fd, const void *buf, size_t n, off_t off)
{
    if (!fails(EIO))
        return file_ops_system.pwrite(fd, buf, n, off);
    (void)file_ops_system.pwrite(fd, buf, n / 2, off);
    errno = EIO;
    return -1;
}

static int fault_fdatasync(int fd)
{
    return fails(EIO) ? -1 : file_ops_system.fdatasync(fd);
}

static int fault_fsync(int fd)
{
    return fails(EIO) ? -1 : file_ops_system.fsync(fd);
}

static int fault_ftruncate(int fd, off_t size)
{
    return fails(EIO) ? -1 : file_ops_system.ftruncate(fd, size);
}

static int fault_fallocate(int fd, int mode, off_t off, off_t len)
{
    return fails(ENOSPC) ? -1 : file_ops_system.fallocate(fd, mode, off, len);
}

static int fault_renameat2(int olddir, const char *oldpath, int newdir, const char *newpath,
                           unsigned flags)
{
    return fails(EIO) ? -1 : file_ops_system.renameat2(olddir, oldpath, newdir, newpath, flags);
}

static int fault_mkdirat(int dirfd, const char *path, mode_t mode)
{
    return fails(ENOSPC) ? -1 : file_ops_system.mkdirat(dirfd, path, mode);
}

void fault_arm(int n)
{
    atomic_store(&countdown, n);
    ops = file_ops_system;
    ops.openat = fault_openat;
    ops.pread = fault_pread;
    ops.pwrite = fault_pwrite;
    ops.fdatasync = fault_fdatasync;
    ops.fsync = fault_fsync;
    ops.ftruncate = fault_ftruncate;
    ops.fallocate = fault_fallocate;
    ops.renameat2 = fault_renameat2;
    ops.mkdirat = fault_mkdirat;
    file_ops = &ops;
}

bool fault_disarm(void)
{
    file_ops = &file_ops_system;
    return atomic_load(&countdown) < 0;
}
