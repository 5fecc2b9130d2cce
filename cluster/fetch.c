/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster/fetch.h"

#include "ltx/base/err.h"

struct fetching {
    const struct fetch_sink *sink;
    uint64_t after, offset, size;
    bool open; /* a record has begun and not ended */
};

static int take_piece(struct fetching *g, const struct msg_piece *piece)
{
    int rv = 0;

    if (piece->offset != g->offset || (g->open && piece->size != g->size))
        return -ERR_PROTOCOL;
    if (!g->open) {
        rv = g->sink->begin(g->sink->ctx, piece->size);
        if (rv != 0)
            return rv;
        g->open = true;
        g->size = piece->size;
    }
    rv = g->sink->write(g->sink->ctx, piece->data, piece->length);
    if (rv != 0)
        return rv;
    g->offset += piece->length;
    if (g->offset < g->size)
        return 0;
    g->open = false;
    g->offset = 0;
    return g->sink->end(g->sink->ctx, &g->after);
}

/* One request. *level: the primary has nothing durable beyond. */
static int fetch_some(struct follower_worker *w, struct follow *x, struct fetching *g,
                      uint64_t until, bool *level)
{
    struct msg_writer m = follower_request(w->follower, &w->call, MSG_FETCH, x);
    struct msg_piece piece;
    struct position durable;
    int rv;

    msg_put_u64(&m, g->after);
    msg_put_u64(&m, g->offset);
    msg_put_u64(&m, until);
    rv = follower_ask(w->follower, &w->call, m.err, MSG_PIECES);
    if (rv != 0)
        return rv;
    *level = msg_get_bool(&w->call.in);
    durable = msg_get_position(&w->call.in);
    while ((rv = msg_next_piece(&w->call.in, &piece)) > 0)
        if ((rv = take_piece(g, &piece)) != 0)
            return rv;
    if (rv == 0 && !g->open && g->after >= durable.txid)
        *level = true;
    return rv;
}

int fetch_records(struct follower_worker *w, struct follow *x, uint64_t after, uint64_t until,
                  const struct fetch_sink *sink)
{
    struct fetching g = {.sink = sink, .after = after};
    bool level = false;
    int rv = 0;

    while (rv == 0 && (until != 0 ? g.after < until : !level)) {
        rv = follower_quits(w->follower) ? -ERR_CLOSED : fetch_some(w, x, &g, until, &level);
        if (rv == 0 && until != 0 && level && g.after < until &&
            follower_pause(w->follower, 20)) /* not durable there yet */
            rv = -ERR_CLOSED;
    }
    if (g.open && sink->abort != NULL)
        sink->abort(sink->ctx);
    return rv;
}

/* Into the ledger. */

struct into_ledger {
    struct ledger *ledger;
    struct ledger_receive receive;
};

static int ledger_sink_begin(void *ctx, uint64_t size)
{
    struct into_ledger *to = ctx;

    return ledger_receive_begin(to->ledger, &to->receive, size, 0);
}

static int ledger_sink_write(void *ctx, const void *data, size_t n)
{
    struct into_ledger *to = ctx;

    return ledger_receive_write(&to->receive, data, n);
}

static int ledger_sink_end(void *ctx, uint64_t *after)
{
    struct into_ledger *to = ctx;
    struct position last;
    int rv = ledger_receive_finish(&to->receive, &last);

    if (rv == 0)
        *after = last.txid;
    return rv;
}

static void ledger_sink_abort(void *ctx)
{
    struct into_ledger *to = ctx;

    ledger_receive_abort(&to->receive);
}

int fetch_job(struct follower_worker *w, struct follow *x)
{
    struct into_ledger to = {.ledger = x->ledger};
    const struct fetch_sink sink = {.begin = ledger_sink_begin,
                                    .write = ledger_sink_write,
                                    .end = ledger_sink_end,
                                    .abort = ledger_sink_abort,
                                    .ctx = &to};
    int rv = fetch_records(w, x, ledger_last(x->ledger).txid, 0, &sink);

    if (rv == -ERR_DIVERGED || rv == -ERR_CHECKSUM || rv == -ERR_CORRUPT) {
        mutex_lock(&w->follower->mutex);
        x->distrust = true;
        mutex_unlock(&w->follower->mutex);
    }
    return rv;
}
