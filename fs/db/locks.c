/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/db/locks.h"

#include <errno.h>
#include <fcntl.h>

#include "ltx/base/err.h"

static int set_lock(int fd, short type, int64_t off, int64_t n)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = off, .l_len = n};
    if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
        return 0;
    if (errno == EAGAIN || errno == EACCES)
        return -ERR_BUSY;
    return err_from_errno(errno);
}

int lock_shared(int fd, int64_t off, int64_t n)
{
    return set_lock(fd, F_RDLCK, off, n);
}

int lock_exclusive(int fd, int64_t off, int64_t n)
{
    return set_lock(fd, F_WRLCK, off, n);
}

int lock_release(int fd, int64_t off, int64_t n)
{
    return set_lock(fd, F_UNLCK, off, n);
}

int lock_holder(int fd, int64_t off, pid_t *pid)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = off, .l_len = 1};
    if (fcntl(fd, F_OFD_GETLK, &lock) != 0)
        return err_from_errno(errno);
    *pid = lock.l_type == F_UNLCK ? 0 : lock.l_pid > 0 ? lock.l_pid : -1;
    return 0;
}

int lock_database_shared(int fd)
{
    int err = lock_shared(fd, LOCK_PENDING, 1);
    if (err)
        return err;
    err = lock_shared(fd, LOCK_SHARED_FIRST, LOCK_SHARED_SIZE);
    lock_release(fd, LOCK_PENDING, 1);
    return err;
}

int lock_database_exclusive(int fd)
{
    int err = lock_exclusive(fd, LOCK_RESERVED, 1);
    if (!err)
        err = lock_exclusive(fd, LOCK_PENDING, 1);
    if (!err)
        err = lock_exclusive(fd, LOCK_SHARED_FIRST, LOCK_SHARED_SIZE);
    return err;
}

void lock_database_release(int fd)
{
    lock_release(fd, LOCK_PENDING, 2 + LOCK_SHARED_SIZE);
}

bool lock_database_is_written(int fd)
{
    struct flock lock = {.l_type = F_RDLCK,
                         .l_whence = SEEK_SET,
                         .l_start = LOCK_SHARED_FIRST,
                         .l_len = LOCK_SHARED_SIZE};
    return fcntl(fd, F_OFD_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}
