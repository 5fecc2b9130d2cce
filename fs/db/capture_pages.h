/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_DB_CAPTURE_PAGES_H
#define FS_DB_CAPTURE_PAGES_H

#include <stdbool.h>

struct database;

/*
 * Commits of the rollback modes, and files that change without any mark: the pages that were
 * written to the database file since the last record become the next one, by content (pages that
 * are as before change nothing; a rollback makes no record). All functions: the database's mutex is
 * held, except where it says otherwise.
 */
enum capture_when {
    CAPTURE_COMMIT, /* the journal is being finished: header and file hold a whole transaction */
    CAPTURE_SYNC,   /* the writer syncs, and there is no journal */
    CAPTURE_QUIET   /* the writer closed it or pauses; header and file size must agree exactly, if
                       anybody has it open */
};

/*
 * Makes a record of what is dirty. 0: done, or there was nothing to do, or (not with
 * CAPTURE_COMMIT) the file is not in a state that could be captured, and stays dirty.
 */
int capture_pages(struct database *db, enum capture_when when);

/* The same in two steps, for transactions over several databases; between them the database is
 * marked `committing`. */
int capture_pages_prepare(struct database *db, enum capture_when when);
int capture_pages_finish(struct database *db);
void capture_pages_abandon(struct database *db);

/* The database was deleted: a record with commit 0. Nothing if it had no record or is deleted
 * already. */
int capture_deletion(struct database *db);

/* What is there now is none of SQLite's: empty, garbage, encrypted. Nothing is dirty after it. */
int capture_no_database(struct database *db);

#endif
