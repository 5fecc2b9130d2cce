/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The replica's ack thread: tells the primary what has become durable here, as soon as it has but
 * not more often than the primary asked for, and the role when all is applied.
 */
#include <string.h>

#include "cluster/follow.h"
#include "ltx/base/err.h"

#define CALL_MS 3000
#define IDLE_MS 500
#define PENDING_MS \
    20 /* what was received is being applied: no event of the log says when it has been */

struct ack_item {
    struct follow *follow;
    uint32_t generation;
    struct position durable;
};

/* Collects what is durable and not told. */
static uint32_t collect(struct follower *f, struct ack_item *items, uint32_t room)
{
    uint32_t n = 0;

    mutex_lock(&f->mutex);
    for (uint32_t i = 0; i < f->count && n < room; i++) {
        struct follow *x = f->list[i];
        struct position durable;
        if (x->state != FOLLOW_RECORDS || position_equal(x->acked, x->last))
            continue;
        durable = ledger_durable(x->ledger);
        if (position_equal(durable, x->acked) || durable.txid > x->last.txid)
            continue;
        items[n++] =
            (struct ack_item){.follow = x, .generation = x->generation, .durable = durable};
        x->acked = durable;
    }
    mutex_unlock(&f->mutex);
    return n;
}

static void give_back(struct follower *f, const struct ack_item *items, uint32_t n)
{
    mutex_lock(&f->mutex);
    for (uint32_t i = 0; i < n; i++)
        if (items[i].follow->generation == items[i].generation)
            items[i].follow->acked = (struct position){0};
    mutex_unlock(&f->mutex);
}

static void send_acks(struct follower *f, struct self_call *c, const struct ack_item *items,
                      uint32_t n)
{
    struct msg_stamp stamp = self_stamp(f->self);
    struct msg_writer w = msg_begin(&c->out, MSG_ACK, &stamp);
    uint64_t session;

    mutex_lock(&f->mutex);
    session = f->session;
    mutex_unlock(&f->mutex);
    msg_put_u64(&w, session);
    for (uint32_t i = 0; i < n; i++)
        msg_put_standing(&w, ledger_name(items[i].follow->ledger), items[i].durable);
    if (self_call(f->self, f->peer, c, w.err, MSG_OK, CALL_MS) != 0)
        give_back(f, items, n);
}

void ack_run(void *follower)
{
    struct follower *f = follower;
    struct feed *feed = &store_feeds(f->store)->durable;
    struct self_call call = {0};
    struct ack_item items[256];
    int64_t pause_ms, idle_ms;

    while (!follower_quits(f)) {
        uint64_t seen = feed_count(feed);
        uint32_t n = collect(f, items, sizeof items / sizeof *items);

        if (n > 0)
            send_acks(f, &call, items, n);
        follower_check_level(f);
        mutex_lock(&f->mutex);
        pause_ms = f->ack_ms;
        idle_ms = f->mark_pending ? PENDING_MS : IDLE_MS;
        mutex_unlock(&f->mutex);
        if (follower_pause(f, pause_ms))
            break;
        feed_wait(feed, seen, idle_ms);
    }
    self_call_fini(&call);
}
