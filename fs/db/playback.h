/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_DB_PLAYBACK_H
#define FS_DB_PLAYBACK_H

#include <stdbool.h>

#include "fs/db/database_impl.h"

/*
 * Recovery of one database, its unfinished transaction: what a rollback journal keeps goes back into the file. Called
 * by recover.c with the database's mutex held; all of it does file I/O and returns 0 or a code of err.h.
 */
struct playback {
    int fd;                /* the database file */
    bool hot;              /* there was a journal to play back, */
    bool together;         /* and its transaction, over several databases, has not ended: super.h */
    struct ledger *ledger; /* knows what the pages were; NULL: nobody does */
    struct dirty touched;  /* the pages in it; freed by the caller */
};

/* Without a journal that would be rolled back it does nothing. */
int playback_run(struct database *db, struct playback *p);

/*
 * A transaction over several databases that has not ended may have got its record here and not in another one
 * of them. It ends for none: after the records were redone, this puts all its pages back.
 */
int playback_together(struct database *db, struct playback *p);

/*
 * After the records were redone: pages that came from the journal and not from a record must be what the ledger
 * says, else -ERR_CHECKSUM. But for unused ones: SQLite may have journaled what its cache had of
 * them, and not what was in the file.
 */
int playback_check(struct database *db, const struct ledger_info *info, struct dirty *touched);

#endif
