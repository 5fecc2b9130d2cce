/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_DB_RAW_H
#define FS_DB_RAW_H

#include <stdbool.h>

#include "fs/db/database.h"

/*
 * Files of a database that are changed by something that is no SQLite connection: cp, dd, mv,
 * rsync, a backup tool, in whatever order. No call of theirs means a commit. A connection keeps the
 * database file open as long as it lives, and its -wal as long as it checkpoints: so a write to a
 * -wal, or to a database file beside a -wal in use, is raw if nobody has the other one open.
 *
 * The files are then left alone until a client opens the database, or they are quiet. What counts
 * is what a connection would find in them: the database file, and over it the frames of the -wal up
 * to the last whole transaction. Every page of that is compared with the ledger, and what differs
 * is the next record.
 *
 * All functions: the database's mutex is held.
 */

/* Would a write to, or truncation of, a file of that kind be raw? */
bool raw_is(const struct database *db, enum file_kind kind);

/* Before such a change: refused behind the closed gate. */
int raw_begin(struct database *db);

/* After one that could not be foreseen or refused: a rename. */
void raw_note(struct database *db);

/* If there was one: from now on the -wal is what is in it. */
int raw_look(struct database *db);

#endif
