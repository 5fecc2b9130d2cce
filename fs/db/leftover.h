/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_DB_LEFTOVER_H
#define FS_DB_LEFTOVER_H

#include <stdbool.h>

#include "fs/db/database_impl.h"

/*
 * Recovery of one database, what is in its file and in no record: it is marked as dirty and left over, and
 * recorded when this node is the primary. Called by recover.c with the database's mutex held; all of it
 * does file I/O and returns 0 or a code of err.h.
 */

/*
 * Changes without a journal that have no record yet would be undone in part by a redo, and the rest
 * of them would stay. If the machine has been running all the time the file is what the clients saw,
 * with every record in it, but for those that were in the WAL: then this is true, and nothing is redone.
 */
bool leftover_is_newer(struct database *db);

/* The file was being changed without a journal when the daemon died: what it holds now is what its
 * clients see. `size` is its length in bytes. */
int leftover_take_in(struct database *db, const struct ledger_info *info, int fd, int64_t size);

/* A journal does not bring back the bytes of pages that were unused before its transaction. */
int leftover_take_in_unused(struct database *db, const struct ledger_info *info);

/*
 * The last record may be of a transaction that was put back (playback_together): `touched` are its pages, `size`
 * is the length of the file in bytes. Recorded as the next one.
 */
int leftover_take_in_undone(struct database *db, const struct ledger_info *info,
                            const struct dirty *touched, int64_t size);

/* There is no file: it was marked before it got another name (database_will_move), and what was to follow did
 * not. */
int leftover_take_in_absence(struct database *db);

#endif
