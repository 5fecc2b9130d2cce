/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LTX_FEED_H
#define LTX_FEED_H

#include <stdbool.h>
#include <stdint.h>

#include "ltx/base/mutex.h"

/*
 * "Wake me when something has changed." A counter and a condition: read the counter, look at what
 * interests you, and wait for the counter to move on from what you read. No event is missed.
 */
struct feed {
    struct mutex mutex;
    struct cond cond;
    uint64_t count;
    bool closed;
    int waiters;
};

void feed_init(struct feed *f);
void feed_fini(struct feed *f);
uint64_t feed_count(struct feed *f);
void feed_wake(
    struct feed *f); /* never blocks for long; may be called under any mutex below RANK_FEED */
void feed_close(struct feed *f); /* every wait, now and later, returns false at once */
/* Waits until the counter is not `seen`, at most `ms` (< 0: without limit). False if closed or
 * timed out. */
bool feed_wait(struct feed *f, uint64_t seen, int64_t ms);
/* Waits `us` microseconds, whatever happens meanwhile: for who shall not be woken more often. Whoever
 * wakes the feed does not pay for it. False, and earlier, if closed. */
bool feed_rest(struct feed *f, int64_t us);

/* What happens in a store, each with a feed of its own: nobody is woken for what he does not wait
 * for. */
struct feeds {
    struct feed published; /* a record is in a log; there is a new ledger */
    struct feed durable;   /* a record is on disk */
    struct feed applied;   /* clients of a replica see a record, or its database is found damaged */
};

#endif
