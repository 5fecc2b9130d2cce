/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_DB_WALFIX_H
#define FS_DB_WALFIX_H

struct database;

/*
 * A writer that is killed after its commit frame but before it has entered the frames in the
 * wal-index leaves a transaction that was captured and that SQLite does not see. This brings the
 * wal-index forward, as a writer would, so that what was captured is what SQLite sees. Leaves
 * db->wal.index_behind set if it could not look (a writer is at work): then it is called again.
 * Uses the own mount: never from a FUSE worker, and not with the database's mutex held.
 */
void walfix(struct database *db);

#endif
