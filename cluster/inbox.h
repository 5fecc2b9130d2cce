/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLUSTER_INBOX_H
#define CLUSTER_INBOX_H

#include <stdbool.h>

#include "cluster/transport.h"
#include "ltx/base/mutex.h"
#include "ltx/feed.h"

/*
 * Requests on their way from nng's threads to the one thread that serves them. That thread waits
 * on `feed`, together with whatever else it waits for: read the counter, empty the inbox, look at
 * the rest, wait for the counter to move.
 */
struct inbox {
    struct mutex mutex; /* RANK_TRANSPORT */
    struct transport_request *first, **last;
    struct feed *feed; /* borrowed */
    bool closed;
};

void inbox_init(struct inbox *in, struct feed *feed);
void inbox_fini(struct inbox *in); /* what is still in it is dropped */
/* Takes `r`; it is dropped if the inbox is closed. Never blocks for long. */
void inbox_push(struct inbox *in, struct transport_request *r);
struct transport_request *inbox_pop(struct inbox *in); /* NULL: empty */
void inbox_close(struct inbox *in);

#endif
