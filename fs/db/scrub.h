/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_DB_SCRUB_H
#define FS_DB_SCRUB_H

#include <stdbool.h>
#include <stdint.h>

#include "fs/db/check.h"

struct catalog;

/*
 * The thread that now and then compares every database of this node with its checksums (check.h),
 * slowly and at the lowest priority of the disk, and what is done about what it finds:
 *
 *   on a replica    `cluster` sees the bad pages in the ledger and fetches them from the primary;
 *                   with too many of them the database is marked damaged, and brought up anew
 *   on the primary  pages that the own log still holds are put right from there; of others it is
 *                   said what to do
 *
 * When the last round has ended is kept in the data folder, so that restarts neither repeat nor
 * skip one.
 */
struct scrub;

#define SCRUB_INTERVAL_MS (INT64_C(24) * 3600 * 1000)
#define SCRUB_BYTES_PER_S (INT64_C(16) * 1000 * 1000)

int scrub_start(struct catalog *c, int64_t interval_ms, int64_t bytes_per_s, struct scrub **out);
void scrub_quit(struct scrub *s);
/* Joins the thread; every scrub_verify has returned before. NULL is fine. */
void scrub_stop(struct scrub *s);

/*
 * One database now, on the caller's thread, as fast as it goes, with all that the thread would do.
 * Waits up to a few seconds for what can be put right. `go_on` as in check.h. check_database's codes.
 */
struct scrub_verdict {
    struct check_result check;
    uint32_t mended; /* bad pages that have been put right since */
    uint32_t left;   /* bad pages now */
};
int scrub_verify(struct scrub *s, const char *name,
                 bool (*go_on)(void *ctx, const struct check_progress *p), void *ctx,
                 struct scrub_verdict *out);

struct scrub_view {
    bool running;
    char name[128]; /* of the database that is being looked at; cut if longer */
    struct check_progress progress;
    int64_t last_ms, next_ms; /* end of the last round, begin of the next; 0 = none */
};
void scrub_view(struct scrub *s, struct scrub_view *out);

/* What the last look at this database found; ended_ms is 0 if there was none since the start. */
void scrub_last(struct scrub *s, const char *name, struct check_result *out);

#endif
