/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_DB_DYING_H
#define FS_DB_DYING_H

#include <stdbool.h>
#include <sys/types.h>

#include "fs/db/catalog_impl.h"

/*
 * A writer in WAL mode that is killed between its commit frame and its entry in the wal-index leaves
 * a transaction that was captured and that SQLite does not see: the next writer would begin without
 * it, and write over its frames.
 *
 * The kernel closes the files of a process that dies one by one, and before it drops the locks that
 * the process has on one, it sends a FLUSH and waits for the answer. So the daemon hears of the
 * death while WAL_WRITE is still held, and answers when the wal-index has been brought forward:
 * nobody ever gets the lock in between. That is done by a thread of its own, since a worker must not
 * use the own mount; the request is answered by that thread, so no worker waits for it.
 *
 * The same goes for a commit that SQLite has left unsealed (walfix.h) on any close, for that may be the end of the
 * last connection, and of the wal-index with it.
 *
 * Which of its files the kernel closes first depends on the numbers of the descriptors, so the
 * closing of each counts.
 */

int dying_start(struct catalog *c); /* the thread; the mount answers */
void dying_quit(struct catalog *c); /* from now on database_closing is always false */
void dying_join(struct catalog *c); /* every request that was taken is answered */

#endif
