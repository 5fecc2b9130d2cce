/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_DB_DATABASE_H
#define FS_DB_DATABASE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * What SQLite does to the files of one database, told event by event, and what follows from it: on
 * the primary a commit becomes a record before the call that commits returns (docs/ARCHITECTURE.md,
 * "the path of a write"). The FUSE adapter calls these; nothing here knows FUSE. All return 0 or a
 * negated code of err.h, which the adapter turns into the errno of the reply. Every function may do
 * file I/O; none waits for another FUSE request.
 *
 * A `struct database` exists for every path that is, or may become, a database: each ordinary file
 * in the tree has one. Whether it is one is decided by its content when a commit is captured.
 */
struct database;
struct ledger;

enum file_kind {
    FILE_MAIN,    /* a database, or a file that is none */
    FILE_JOURNAL, /* NAME-journal */
    FILE_WAL,     /* NAME-wal */
    FILE_SHM,     /* NAME-shm */
    FILE_SUPER,   /* NAME-mjXXXXXXXXX, the super-journal of a transaction over several databases */
    FILE_KIND_COUNT
};

/*
 * Classifies a path below the mount ("sub/app.db-wal") by its name; *base_len receives the length
 * of the database's path in it (for FILE_MAIN: all of it).
 */
enum file_kind file_kind_of(const char *path, size_t *base_len);

/* May a client open, create or truncate it so? `flags` as of open(2). On a replica: the rules of
 * D6. */
int database_may_open(struct database *db, enum file_kind kind, int flags, bool own);

/*
 * One more open handle on a file of that kind. It counts as long as the file keeps its name: the
 * result says which file had the name, and is given back with the two others.
 */
unsigned database_opened(struct database *db, enum file_kind kind, bool own);
/* On each close(2) of a client's descriptor (FUSE flush). */
int database_flushed(struct database *db, enum file_kind kind, unsigned file, bool own);
/*
 * After that, on any close(2) by thread `tid` (0: not known). True if its process is dying and has left
 * a captured transaction that SQLite does not see, or if one has been captured that SQLite would not see
 * any more without its wal-index: then done(arg) is called once, soon, by another thread, and only after
 * that the close may be answered; see dying.h.
 */
bool database_closing(struct database *db, enum file_kind kind, bool own, pid_t tid,
                      void (*done)(void *arg), void *arg);
/* When the last reference to an open file is gone (FUSE release), before the adapter closes the
 * backing descriptor. */
void database_released(struct database *db, enum file_kind kind, unsigned file, bool own);

/*
 * Around a write of n bytes at `off`: _before may refuse it; then the adapter writes to the backing
 * file; _after may fail it (the commit could not be captured; _after has undone in the backing file
 * what must not stay). Each _before that returned 0 is followed by its _after, also when the file
 * itself could not be changed: then with n = 0, or size = -1.
 */
int database_before_write(struct database *db, enum file_kind kind, bool own, int64_t off,
                          size_t n);
int database_after_write(struct database *db, enum file_kind kind, bool own, int64_t off, size_t n);

/* False if its file holds, or may hold, part of a transaction or of a checkpoint of our own. Does not wait. */
bool database_is_settled(struct database *db);

/* Around ftruncate, also O_TRUNC. */
int database_before_truncate(struct database *db, enum file_kind kind, bool own, int64_t size);
int database_after_truncate(struct database *db, enum file_kind kind, bool own, int64_t size);

/* fsync or fdatasync of a descriptor of that kind: does what durability asks for, the backing file
 * included if needed. */
int database_sync(struct database *db, enum file_kind kind, bool own, int fd);

/*
 * Is a sync of that file answered at once, because the log holds everything and is on disk? Otherwise database_sync takes
 * as long as the disk.
 */
bool database_is_synced(struct database *db, enum file_kind kind);

/*
 * After a write: a client that syncs after each commit will do so again in a moment, and the log
 * may as well be synced while it gets its reply. The ledger to sync, which outlives the database, or
 * NULL.
 */
struct ledger *database_sync_follows(struct database *db, enum file_kind kind);

/* Around unlink. For a journal this is where a DELETE-mode transaction commits; for a
 * super-journal, where all of its databases do. `path` is the file's path below the mount. */
int database_before_unlink(struct database *db, enum file_kind kind, const char *path, bool own);
void database_after_unlink(struct database *db, enum file_kind kind, bool own);
/* Instead of _after: the file is still there. */
void database_unlink_failed(struct database *db, enum file_kind kind);

/* Around rename of a file (not a folder) of kind `kind` to `to` (with its kind). */
int database_before_rename(struct database *from, enum file_kind kind, struct database *to,
                           enum file_kind to_kind);
void database_after_rename(struct database *from, enum file_kind kind, struct database *to,
                           enum file_kind to_kind);

/*
 * A file of that kind was made in a folder, or removed from it: must a client's fsync of the folder reach
 * the disk? Not for side files that recovery drops, nor for a journal that went: its transaction is
 * durable in the log before. But one over several databases has ended only when its super-journal is gone.
 */
bool database_making_counts(enum file_kind kind);
bool database_removal_counts(enum file_kind kind);

#endif
