/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_LIB_TAPVFS_H
#define TESTS_LIB_TAPVFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * A SQLite VFS over the system's own that tells somebody of every call that changes a file, before
 * and after, in the order in which a FUSE filesystem sees them. The listener answers 0, or an errno
 * with which the call then fails, as it would on a mount. Locks and shared memory stay what they
 * are.
 */
enum tap_op {
    TAP_MAY_OPEN,
    TAP_OPENED,
    TAP_BEFORE_WRITE,
    TAP_AFTER_WRITE,     /* n = 0: nothing was written */
    TAP_BEFORE_TRUNCATE, /* to `off` bytes */
    TAP_AFTER_TRUNCATE,  /* off = -1: it was not */
    TAP_SYNC,            /* instead of the system's: the listener syncs what must be */
    TAP_SYNC_DIR,        /* the same, of the folder that `path` lies in */
    TAP_FLUSHED,
    TAP_RELEASED,
    TAP_BEFORE_UNLINK,
    TAP_AFTER_UNLINK,
    TAP_UNLINK_FAILED /* instead */
};

struct tap_event {
    enum tap_op op;
    const char *path; /* absolute */
    int flags;        /* of open(2) */
    bool made;        /* TAP_OPENED: the file was not there before */
    int64_t off;
    size_t n;
    void **file; /* the listener's, one for each open file; NULL around an unlink */
};

typedef int tap_listener(void *ctx, const struct tap_event *e);

/* Registers the VFSs "tap" and "tap-survivor" (not as the default), which differ only in that
 * tapvfs_kill_at does not concern the second. All files of all connections tell this listener. */
void tapvfs_register(tap_listener *listener, void *ctx);
/*
 * As if the process were killed when it is about to make its n-th system call from now on that
 * changes or locks a file (0: never): from then on every call fails, and nothing is told but the
 * closing of its files. Until the next tapvfs_register. tapvfs_calls: how many there were.
 */
void tapvfs_kill_at(uint64_t call);
bool tapvfs_killed(void);
uint64_t tapvfs_calls(void);

/* As on a disk that may damage the rest of a sector it writes (psow=0): SQLite then fills sectors,
 * repeating the commit frame in the WAL. For files that are opened from now on. */
void tapvfs_whole_sectors(bool on);

/*
 * The locks of SQLite in this process become open-file-description locks, so that they exclude the
 * locks of the code under test, and do not vanish when it closes a file. Each process has at most
 * one connection to a database in rollback mode then.
 */
void tapvfs_lock_by_description(void);

/* The calls of SQLite in this process that open, read and change files go through file_ops, as those of
 * a client of the mount do in the daemon. */
void tapvfs_use_file_ops(void);

#endif
