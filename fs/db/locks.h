/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_DB_LOCKS_H
#define FS_DB_LOCKS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * SQLite's locks (os_unix.c of SQLite), taken as open-file-description locks on descriptors of the
 * own mount, where the kernel keeps them together with the classic locks of other processes. None
 * of these waits: -ERR_BUSY if somebody else is in the way. Closing the descriptor drops its locks, unless it is still
 * mapped.
 *
 * Database file: a reader holds the SHARED range; a writer RESERVED, then PENDING (no new readers),
 * then the whole SHARED range exclusively.
 */
#define LOCK_PENDING INT64_C(0x40000000)
#define LOCK_RESERVED (LOCK_PENDING + 1)
#define LOCK_SHARED_FIRST (LOCK_PENDING + 2)
#define LOCK_SHARED_SIZE 510

/* -shm file: one byte each, from 120 on. */
#define LOCK_SHM_BASE 120
#define LOCK_SHM_WRITE (LOCK_SHM_BASE + 0)
#define LOCK_SHM_CKPT (LOCK_SHM_BASE + 1)
#define LOCK_SHM_RECOVER (LOCK_SHM_BASE + 2)
#define LOCK_SHM_READ(i) (LOCK_SHM_BASE + 3 + (i))
#define LOCK_SHM_COUNT 8

int lock_shared(int fd, int64_t off, int64_t n);    /* a read lock */
int lock_exclusive(int fd, int64_t off, int64_t n); /* a write lock */
int lock_release(int fd, int64_t off, int64_t n);

/* Who keeps that byte from being locked exclusively: a process with classic locks by its id, anybody
 * else as -1, nobody as 0. */
int lock_holder(int fd, int64_t off, pid_t *pid);

/* A reader's SHARED lock on a database file, the way SQLite takes it (through PENDING). */
int lock_database_shared(int fd);
/* RESERVED, PENDING and EXCLUSIVE. On -ERR_BUSY what was got is kept if it is PENDING or RESERVED,
 * so that trying again makes progress; lock_database_release gives everything back. */
int lock_database_exclusive(int fd);
void lock_database_release(int fd);
/* Does anybody hold EXCLUSIVE, and may thus be in the middle of writing to the file? Takes no lock. */
bool lock_database_is_written(int fd);

#endif
