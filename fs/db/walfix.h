/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_DB_WALFIX_H
#define FS_DB_WALFIX_H

#include <sys/types.h>

struct database;

/*
 * Two states of a WAL in which SQLite does not see, or would not see again, what was captured:
 *
 * A writer that is killed after its commit frame but before it has entered the frames in the
 * wal-index leaves a transaction that was captured and that SQLite does not see
 * (db->wal.index_behind). The wal-index is brought forward, as a writer would do it.
 *
 * Frames that SQLite has forgotten to seal (wal.h) are in use as long as the wal-index lives; when
 * it is built anew from the file, it ends before the first of them (db->wal.broken). They and all
 * frames after them are given checksums; not before somebody closes a file of it, or nobody has the
 * wal-index any more.
 *
 * What cannot be done now, because a writer is at work, stays marked: then it is called again. Uses
 * the own mount: never from a FUSE worker, and not with the database's mutex held.
 */
void walfix(struct database *db);

/*
 * The same while a file of the database is being closed, before the locks go that its process has on it (dying.h).
 * `pid` is the process if it is being taken apart, else 0: if it holds WAL_WRITE, or has the database for itself, that
 * stands for a lock of ours.
 */
void walfix_of_closing(struct database *db, pid_t pid);

#endif
