/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster/inbox.h"

#include <stddef.h>

void inbox_init(struct inbox *in, struct feed *feed)
{
    *in = (struct inbox){.feed = feed, .last = &in->first};
    mutex_init(&in->mutex, RANK_TRANSPORT);
}

void inbox_fini(struct inbox *in)
{
    struct transport_request *r;

    inbox_close(in);
    while ((r = inbox_pop(in)) != NULL)
        transport_drop(r, false);
    mutex_fini(&in->mutex);
}

void inbox_push(struct inbox *in, struct transport_request *r)
{
    bool closed;

    r->next = NULL;
    mutex_lock(&in->mutex);
    closed = in->closed;
    if (!closed) {
        *in->last = r;
        in->last = &r->next;
    }
    mutex_unlock(&in->mutex);
    if (closed)
        transport_drop(r, false);
    else
        feed_wake(in->feed);
}

struct transport_request *inbox_pop(struct inbox *in)
{
    struct transport_request *r;

    mutex_lock(&in->mutex);
    r = in->first;
    if (r != NULL) {
        in->first = r->next;
        if (in->first == NULL)
            in->last = &in->first;
    }
    mutex_unlock(&in->mutex);
    return r;
}

void inbox_close(struct inbox *in)
{
    mutex_lock(&in->mutex);
    in->closed = true;
    mutex_unlock(&in->mutex);
}
