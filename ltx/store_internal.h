/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LTX_STORE_INTERNAL_H
#define LTX_STORE_INTERNAL_H

#include <stdatomic.h>
#include "ltx/base/mutex.h"
#include "ltx/base/thread.h"
#include "ltx/store.h"

/* What store.c (the set of ledgers) and store_threads.c (sync and maintenance) share. */

struct store {
    int data_dirfd; /* borrowed */
    struct store_options options;
    _Atomic int64_t group_sync_us; /* as store_set_group_sync said last */
    struct feeds feeds;

    struct mutex mutex;  /* RANK_STORE; guards the fields up to the next blank line */
    struct cond created; /* not `creating` */
    bool creating;
    struct ledger **ledgers; /* in the order of creation */
    uint32_t count, cap;
    uint32_t *hash; /* open addressing: index + 1 into ledgers; a power of two, at most half full */
    uint32_t hash_cap;
    char **blocked; /* folders that cannot be read: names that cannot be used */
    uint32_t blocked_count;
    uint32_t foreign;
    struct page_reader reader;

    struct mutex quit_mutex; /* RANK_LEAF; guards quit */
    struct cond quit_cond;
    bool quit;
    struct thread syncer, maintainer;
};

int store_threads_start(struct store *s);
void store_threads_quit(struct store *s); /* returns at once */
void store_threads_join(struct store *s);

#endif
