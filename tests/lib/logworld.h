/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_LIB_LOGWORLD_H
#define TESTS_LIB_LOGWORLD_H

#include "ltx/feed.h"
#include "ltx/txlog.h"
#include "tests/lib/folder.h"
#include "tests/lib/record.h"

/* A history of records, and a log in a folder of its own that holds some of them. */

#define WORLD_RECORDS 60
#define WORLD_PAGE_SIZE 512

struct world {
    struct folder folder;
    struct txlog *log;
    struct image image;
    struct buf records[WORLD_RECORDS + 1]; /* by TXID */
    struct position at[WORLD_RECORDS + 1];
    struct feeds feeds;
};

void world_make(struct world *w, int64_t segment_bytes);
void world_fini(struct world *w);
void world_open_log(struct world *w, int64_t segment_bytes);
/* Goes on with a copy of the folder as it is now: the log as after a kill. */
void world_kill(struct world *w, int64_t segment_bytes);

/* Appends in pieces of random length. */
int world_append_bytes(struct txlog *t, const struct buf *record, uint32_t flags);
void world_append(struct world *w, int from, int to);

void assert_position(struct position got, struct position want);
void assert_is_record(struct txlog_entry *e, const struct buf *want);
/* The log holds exactly the records after `first` up to `last`, one by one. */
void assert_holds(struct world *w, int first, int last);

#endif
