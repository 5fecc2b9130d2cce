/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLUSTER_BRINGUP_H
#define CLUSTER_BRINGUP_H

#include <stdbool.h>
#include <stdint.h>

#include "cluster/follow.h"
#include "ltx/pagespool.h"

/*
 * Bringing a database up page by page (D7), on a worker of the follower:
 *
 *   0           of a damaged database it is found out what its files hold          bringup.c
 *   1  BEGIN    the primary keeps its log from now on: position P0                 bringup.c
 *   2  BLOCKS   sums of 256 pages each tell where the two differ                   bringup_pages.c
 *   3  WANT     page sums of these blocks; the pages that differ, as they are,
 *               never older than P0                                                bringup_pages.c
 *   4  FETCH    every record from P0 on, up to E, which is no older than any page  bringup.c
 *   5           one record that turns what is here into E; it is received like
 *               any other, marked as a rebase                                      bringup.c
 *
 * Everything gathered lies in an unnamed file in <data>/tmp until step 5, so readers here see the
 * old state until then. Records hold whole pages, so what step 4 lays over the pages is exactly E;
 * the checksum of E proves it (I7).
 */
struct bringup {
    struct follower_worker *w;
    struct follow *x;
    int tmp_dirfd;
    struct pagespool spool;
    bool spool_open;
    bool all; /* every page comes; the record is a snapshot */
    uint32_t here_page_size, here_commit;
    struct position here;
    struct position begun;      /* P0 */
    uint32_t page_size, commit; /* of the primary: at P0, then at the last record */
    uint64_t post_checksum;     /* of the last record */
    uint64_t until;             /* TXID that no page exceeds */
    uint64_t end_txid;          /* E so far */
    /* The record that is being fetched. */
    int piece_fd;
    uint64_t piece_size, piece_at;
    struct mono started, said;
};

/* Steps 2 and 3. Ends early, with 0, if the page size changes: a record then brings every page. */
int bringup_fetch_pages(struct bringup *b);
/* Shows that so many pages more are dealt with; a log line now and then. */
void bringup_progress(struct bringup *b, uint64_t pages);
void bringup_expect(struct bringup *b, uint64_t pages);

#endif
