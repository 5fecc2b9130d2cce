/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_DB_CHECK_H
#define FS_DB_CHECK_H

#include <stdbool.h>
#include <stdint.h>

struct database;

/*
 * Compares the files of one database, and its log, with their checksums, while writers write and
 * readers read: nobody waits for it.
 *
 * The database file and the -wal are read through once, and what matches what the ledger holds just
 * then is right. What does not is looked at again, page by page, in moments in which nothing is
 * under way (still.h): only these tell what is bad. A page for which there was no such moment is
 * counted as undecided, and never reported.
 */
struct check_progress {
    uint32_t pages, pages_done; /* of the database */
    uint64_t bytes, bytes_done; /* with its -wal and its log, roughly */
};

struct check_options {
    int64_t bytes_per_s; /* read at most so much; 0 = as fast as it goes */
    /* Told now and then; false ends it with -ERR_CLOSED. */
    bool (*go_on)(void *ctx, const struct check_progress *p);
    /* Waits, interrupted only by the end of the daemon: true then. */
    bool (*rest_us)(void *ctx, int64_t us);
    void *ctx;
};

#define CHECK_NAMED 16 /* bad pages that are named */

struct check_result {
    uint32_t page_size, pages;
    uint64_t bytes;          /* that were read */
    uint32_t bad, undecided; /* pages */
    uint32_t bad_page[CHECK_NAMED];
    uint32_t log_faults; /* files of the log with something wrong in them */
    char log_fault[256]; /* the first of them: file and reason */
    int64_t ended_ms;    /* since the Unix epoch; 0 = never */
    int64_t took_ms;
};

/*
 * On the caller's thread. Bad pages are noted in the ledger and named in the log lines. 0 whatever
 * was found; -ERR_NOTFOUND: there is no such database (any more); -ERR_DAMAGED: it is being fetched
 * again, or must be; -ERR_CLOSED; others: the files cannot be read.
 */
int check_database(struct database *db, const struct check_options *options,
                   struct check_result *out);

#endif
