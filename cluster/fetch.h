/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLUSTER_FETCH_H
#define CLUSTER_FETCH_H

#include <stdint.h>

#include "cluster/follow.h"

/*
 * Whole records in pieces, one after the other, on the bulk connection.
 *
 * A sink gets each record as begin (its size, bytes), write ..., then end, which says with *after
 * where the record leads. Any failure ends the fetching; the sink is then told to abort if a record
 * is unfinished.
 */
struct fetch_sink {
    int (*begin)(void *ctx, uint64_t size);
    int (*write)(void *ctx, const void *data, size_t n);
    int (*end)(void *ctx, uint64_t *after);
    void (*abort)(void *ctx);
    void *ctx;
};

/*
 * Fetches the records after `after`: up to and including `until`, and with `until` 0 all that are
 * durable on the primary. -ERR_POSITION: they are not kept any more. Blocks.
 */
int fetch_records(struct follower_worker *w, struct follow *x, uint64_t after, uint64_t until,
                  const struct fetch_sink *sink);

#endif
