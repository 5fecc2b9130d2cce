/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/tapvfs.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ltx/base/assert.h"
#include "ltx/base/file.h"

struct tap_file {
    sqlite3_file base;
    char *path; /* NULL: a temporary file, of which nobody is told */
    int flags;  /* of open(2) */
    void *told; /* the listener's */
    void *told_shm;
    bool has_shm;
    bool survivor;      /* of a process that is not killed */
    bool sync_dir;      /* the first sync of it is one of its folder, too */
    sqlite3_file *real; /* follows this struct in memory */
};

static tap_listener *listener;
static void *listener_ctx;
static atomic_bool killed;
static bool whole_sectors;
static atomic_ullong calls;
static uint64_t last_call;
static sqlite3_vfs *real_vfs;
static sqlite3_vfs tap_vfs, tap_survivor_vfs;

static struct tap_file *tap_of(sqlite3_file *f)
{
    return (struct tap_file *)(void *)f;
}

/* A system call is about to be made: is the process still alive? */
static bool dies(bool survivor)
{
    if (!survivor && !killed && atomic_fetch_add(&calls, 1) + 1 == last_call)
        killed = true;
    return killed && !survivor;
}

static bool is_dead(const struct tap_file *f)
{
    return killed && !f->survivor;
}

static int tell(struct tap_file *f, enum tap_op op, int64_t off, size_t n)
{
    if (!f->path)
        return 0;
    struct tap_event e = {
        .op = op, .path = f->path, .flags = f->flags, .off = off, .n = n, .file = &f->told};
    return listener(listener_ctx, &e);
}

static int tap_close(sqlite3_file *file)
{
    struct tap_file *f = tap_of(file);
    (void)tell(f, TAP_FLUSHED, 0, 0);
    (void)tell(f, TAP_RELEASED, 0, 0);
    int rc = f->real->pMethods ? f->real->pMethods->xClose(f->real) : SQLITE_OK;
    free(f->path);
    return rc;
}

static int tap_read(sqlite3_file *file, void *buf, int n, sqlite3_int64 off)
{
    struct tap_file *f = tap_of(file);
    return is_dead(f) ? SQLITE_IOERR_READ : f->real->pMethods->xRead(f->real, buf, n, off);
}

static int tap_write(sqlite3_file *file, const void *buf, int n, sqlite3_int64 off)
{
    struct tap_file *f = tap_of(file);
    int err = dies(f->survivor) ? EIO : tell(f, TAP_BEFORE_WRITE, off, (size_t)n);
    if (!err && f->real->pMethods->xWrite(f->real, buf, n, off) != SQLITE_OK) {
        (void)tell(f, TAP_AFTER_WRITE, off, 0);
        err = EIO;
    } else if (!err) {
        err = tell(f, TAP_AFTER_WRITE, off, (size_t)n);
    }
    return err == 0 ? SQLITE_OK : err == ENOSPC ? SQLITE_FULL : SQLITE_IOERR_WRITE;
}

static int tap_truncate(sqlite3_file *file, sqlite3_int64 size)
{
    struct tap_file *f = tap_of(file);
    int err = dies(f->survivor) ? EIO : tell(f, TAP_BEFORE_TRUNCATE, size, 0);
    if (!err && f->real->pMethods->xTruncate(f->real, size) != SQLITE_OK) {
        (void)tell(f, TAP_AFTER_TRUNCATE, -1, 0);
        err = EIO;
    } else if (!err) {
        err = tell(f, TAP_AFTER_TRUNCATE, size, 0);
    }
    return err ? SQLITE_IOERR_TRUNCATE : SQLITE_OK;
}

static int tap_sync(sqlite3_file *file, int flags)
{
    struct tap_file *f = tap_of(file);
    (void)flags;
    if (dies(f->survivor) || tell(f, TAP_SYNC, 0, 0))
        return SQLITE_IOERR_FSYNC;
    /* As the system's own VFS does after it has made a journal; it looks at no error of that. */
    if (f->sync_dir)
        (void)tell(f, TAP_SYNC_DIR, 0, 0);
    f->sync_dir = false;
    return SQLITE_OK;
}

static int tap_file_size(sqlite3_file *file, sqlite3_int64 *size)
{
    struct tap_file *f = tap_of(file);
    return is_dead(f) ? SQLITE_IOERR_FSTAT : f->real->pMethods->xFileSize(f->real, size);
}

static int tap_lock(sqlite3_file *file, int level)
{
    struct tap_file *f = tap_of(file);
    return dies(f->survivor) ? SQLITE_IOERR_LOCK : f->real->pMethods->xLock(f->real, level);
}

static int tap_unlock(sqlite3_file *file, int level)
{
    return tap_of(file)->real->pMethods->xUnlock(tap_of(file)->real, level);
}

static int tap_check_reserved(sqlite3_file *file, int *out)
{
    return tap_of(file)->real->pMethods->xCheckReservedLock(tap_of(file)->real, out);
}

static int tap_control(sqlite3_file *file, int op, void *arg)
{
    return tap_of(file)->real->pMethods->xFileControl(tap_of(file)->real, op, arg);
}

static int tap_sector_size(sqlite3_file *file)
{
    return tap_of(file)->real->pMethods->xSectorSize(tap_of(file)->real);
}

static int tap_characteristics(sqlite3_file *file)
{
    struct tap_file *f = tap_of(file);
    int all = f->real->pMethods->xDeviceCharacteristics(f->real);
    return whole_sectors ? all & ~SQLITE_IOCAP_POWERSAFE_OVERWRITE : all;
}

static int tell_shm(struct tap_file *f, enum tap_op op)
{
    char path[4096];
    if (!f->path)
        return 0;
    snprintf(path, sizeof path, "%s-shm", f->path);
    struct tap_event e = {.op = op, .path = path, .flags = O_RDWR | O_CREAT, .file = &f->told_shm};
    return listener(listener_ctx, &e);
}

static int tap_shm_map(sqlite3_file *file, int region, int size, int extend, void volatile **out)
{
    struct tap_file *f = tap_of(file);
    if (is_dead(f))
        return SQLITE_IOERR_SHMMAP;
    int rc = f->real->pMethods->xShmMap(f->real, region, size, extend, out);
    if (rc == SQLITE_OK && !f->has_shm) {
        f->has_shm = true;
        (void)tell_shm(f, TAP_OPENED);
    }
    return rc;
}

static int tap_shm_lock(sqlite3_file *file, int off, int n, int flags)
{
    struct tap_file *f = tap_of(file);
    return (flags & SQLITE_SHM_LOCK) && dies(f->survivor)
               ? SQLITE_IOERR_SHMLOCK
               : f->real->pMethods->xShmLock(f->real, off, n, flags);
}

static void tap_shm_barrier(sqlite3_file *file)
{
    tap_of(file)->real->pMethods->xShmBarrier(tap_of(file)->real);
}

static int tap_shm_unmap(sqlite3_file *file, int remove)
{
    struct tap_file *f = tap_of(file);
    if (f->has_shm)
        (void)tell_shm(f, TAP_RELEASED);
    f->has_shm = false;
    return f->real->pMethods->xShmUnmap(f->real, is_dead(f) ? 0 : remove);
}

static const sqlite3_io_methods tap_methods = {
    .iVersion = 2,
    .xClose = tap_close,
    .xRead = tap_read,
    .xWrite = tap_write,
    .xTruncate = tap_truncate,
    .xSync = tap_sync,
    .xFileSize = tap_file_size,
    .xLock = tap_lock,
    .xUnlock = tap_unlock,
    .xCheckReservedLock = tap_check_reserved,
    .xFileControl = tap_control,
    .xSectorSize = tap_sector_size,
    .xDeviceCharacteristics = tap_characteristics,
    .xShmMap = tap_shm_map,
    .xShmLock = tap_shm_lock,
    .xShmBarrier = tap_shm_barrier,
    .xShmUnmap = tap_shm_unmap,
};

static int open_flags(int flags)
{
    return (flags & SQLITE_OPEN_READWRITE ? O_RDWR : O_RDONLY) |
           (flags & SQLITE_OPEN_CREATE ? O_CREAT : 0);
}

static int tap_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *out)
{
    struct tap_file *f = tap_of(file);
    *f = (struct tap_file){.real = (sqlite3_file *)(void *)(f + 1),
                           .survivor = vfs == &tap_survivor_vfs};
    bool watched = name && (flags & (SQLITE_OPEN_MAIN_DB | SQLITE_OPEN_MAIN_JOURNAL |
                                     SQLITE_OPEN_WAL | SQLITE_OPEN_SUPER_JOURNAL));
    f->path = watched ? strdup(name) : NULL;
    f->flags = open_flags(flags);
    int err = dies(f->survivor) ? EIO : tell(f, TAP_MAY_OPEN, 0, 0);
    /* As the system's own VFS: what may not be written may still be read. */
    if (err == EACCES && (flags & SQLITE_OPEN_READWRITE)) {
        flags = (flags & ~(SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE)) | SQLITE_OPEN_READONLY;
        f->flags = O_RDONLY;
        err = tell(f, TAP_MAY_OPEN, 0, 0);
    }
    struct stat st;
    bool made = f->path && (f->flags & O_CREAT) && stat(f->path, &st) != 0;
    int rc = err ? SQLITE_CANTOPEN : real_vfs->xOpen(real_vfs, name, f->real, flags, out);
    if (rc == SQLITE_OK) {
        struct tap_event e = {
            .op = TAP_OPENED, .path = f->path, .flags = f->flags, .made = made, .file = &f->told};
        f->sync_dir = f->path && (f->flags & O_CREAT) && !(flags & SQLITE_OPEN_MAIN_DB);
        f->base.pMethods = &tap_methods;
        if (f->path)
            (void)listener(listener_ctx, &e);
    } else {
        free(f->path);
    }
    return rc;
}

static int tap_delete(sqlite3_vfs *vfs, const char *name, int sync_dir)
{
    struct tap_event e = {.op = TAP_BEFORE_UNLINK, .path = name};
    if (dies(vfs == &tap_survivor_vfs))
        return SQLITE_IOERR_DELETE;
    int there;
    if (real_vfs->xAccess(real_vfs, name, SQLITE_ACCESS_EXISTS, &there) == SQLITE_OK && !there)
        return SQLITE_IOERR_DELETE_NOENT;
    if (listener(listener_ctx, &e))
        return SQLITE_IOERR_DELETE;
    int rc = real_vfs->xDelete(real_vfs, name, 0);
    e.op = rc == SQLITE_OK ? TAP_AFTER_UNLINK : TAP_UNLINK_FAILED;
    (void)listener(listener_ctx, &e);
    e.op = TAP_SYNC_DIR;
    if (rc == SQLITE_OK && sync_dir && listener(listener_ctx, &e))
        rc = SQLITE_IOERR_DIR_FSYNC;
    return rc;
}

static int tap_access(sqlite3_vfs *vfs, const char *name, int flags, int *out)
{
    (void)vfs;
    return real_vfs->xAccess(real_vfs, name, flags, out);
}

static int tap_full_path(sqlite3_vfs *vfs, const char *name, int n, char *out)
{
    (void)vfs;
    return real_vfs->xFullPathname(real_vfs, name, n, out);
}

void tapvfs_register(tap_listener *fn, void *ctx)
{
    real_vfs = sqlite3_vfs_find("unix");
    ASSERT(real_vfs != NULL, "SQLite has the VFS of this system");
    listener = fn;
    listener_ctx = ctx;
    killed = false;
    last_call = 0;
    if (tap_vfs.zName)
        return;
    tap_vfs = *real_vfs;
    tap_vfs.zName = "tap";
    tap_vfs.pNext = NULL;
    tap_vfs.szOsFile = (int)sizeof(struct tap_file) + real_vfs->szOsFile;
    tap_vfs.xOpen = tap_open;
    tap_vfs.xDelete = tap_delete;
    tap_vfs.xAccess = tap_access;
    tap_vfs.xFullPathname = tap_full_path;
    sqlite3_vfs_register(&tap_vfs, 0);
    tap_survivor_vfs = tap_vfs;
    tap_survivor_vfs.zName = "tap-survivor";
    sqlite3_vfs_register(&tap_survivor_vfs, 0);
}

void tapvfs_kill_at(uint64_t call)
{
    calls = 0;
    last_call = call;
}

bool tapvfs_killed(void)
{
    return killed;
}

uint64_t tapvfs_calls(void)
{
    return calls;
}

void tapvfs_whole_sectors(bool on)
{
    whole_sectors = on;
}

static int fcntl_by_description(int fd, int cmd, ...)
{
    va_list ap;
    va_start(ap, cmd);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    if (cmd == F_SETLK)
        cmd = F_OFD_SETLK;
    else if (cmd == F_GETLK)
        cmd = F_OFD_GETLK;
    if (cmd == F_OFD_SETLK || cmd == F_OFD_GETLK)
        ((struct flock *)arg)->l_pid = 0;
    return fcntl(fd, cmd, arg);
}

void tapvfs_lock_by_description(void)
{
    sqlite3_vfs *unix_vfs = sqlite3_vfs_find("unix");
    unix_vfs->xSetSystemCall(unix_vfs, "fcntl", (sqlite3_syscall_ptr)fcntl_by_description);
}

static int table_open(const char *path, int flags, int mode)
{
    return file_ops->openat(AT_FDCWD, path, flags, (mode_t)mode);
}

static int table_close(int fd)
{
    return file_ops->close(fd);
}

/* This SQLite seeks and then reads or writes. */
static ssize_t table_read(int fd, void *buf, size_t n)
{
    off_t off = lseek(fd, 0, SEEK_CUR);
    ssize_t done = file_ops->pread(fd, buf, n, off);
    if (done > 0)
        (void)lseek(fd, off + done, SEEK_SET);
    return done;
}

static ssize_t table_write(int fd, const void *buf, size_t n)
{
    off_t off = lseek(fd, 0, SEEK_CUR);
    ssize_t done = file_ops->pwrite(fd, buf, n, off);
    if (done > 0)
        (void)lseek(fd, off + done, SEEK_SET);
    return done;
}

static ssize_t table_pread(int fd, void *buf, size_t n, off_t off)
{
    return file_ops->pread(fd, buf, n, off);
}

static ssize_t table_pwrite(int fd, const void *buf, size_t n, off_t off)
{
    return file_ops->pwrite(fd, buf, n, off);
}

static int table_ftruncate(int fd, off_t size)
{
    return file_ops->ftruncate(fd, size);
}

static int table_unlink(const char *path)
{
    return file_ops->unlinkat(AT_FDCWD, path, 0);
}

void tapvfs_use_file_ops(void)
{
    static const struct {
        const char *name;
        sqlite3_syscall_ptr call;
    } calls_of[] = {
        {"open", (sqlite3_syscall_ptr)table_open},
        {"close", (sqlite3_syscall_ptr)table_close},
        {"read", (sqlite3_syscall_ptr)table_read},
        {"write", (sqlite3_syscall_ptr)table_write},
        {"pread", (sqlite3_syscall_ptr)table_pread},
        {"pwrite", (sqlite3_syscall_ptr)table_pwrite},
        {"pread64", (sqlite3_syscall_ptr)table_pread},
        {"pwrite64", (sqlite3_syscall_ptr)table_pwrite},
        {"ftruncate", (sqlite3_syscall_ptr)table_ftruncate},
        {"unlink", (sqlite3_syscall_ptr)table_unlink},
    };
    sqlite3_vfs *unix_vfs = sqlite3_vfs_find("unix");
    for (size_t i = 0; i < sizeof calls_of / sizeof *calls_of; i++)
        unix_vfs->xSetSystemCall(unix_vfs, calls_of[i].name, calls_of[i].call);
}
