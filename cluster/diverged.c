/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeping what only this node has, before anything that the primary has takes its place (I8): first
 * the newest transaction that both know is found, then every record after it is kept as an LTX file
 * in diverged/. If that fails, nothing of the database is touched.
 *
 * Histories that parted never meet again, so whether both know a transaction is "yes" up to one
 * point and "no" after it, and asking for some hundreds of points at a time finds it in few rounds.
 */
#include <inttypes.h>
#include <stdio.h>

#include "cluster/follow.h"
#include "ltx/base/err.h"
#include "ltx/base/logger.h"
#include "ltx/encode.h"

#define POINTS 1024

/* Points of the own history above `low`, up to `high`, spread evenly; *dense: they are all there
 * are. */
static size_t own_points(struct ledger *l, uint64_t low, uint64_t high, struct position *out,
                         bool *dense)
{
    struct position last = ledger_last(l), first = txlog_first(ledger_log(l));
    uint64_t from = low > first.txid ? low : first.txid;
    uint64_t span = high > from ? high - from : 0;
    uint64_t step = span / (POINTS - 2) + 1;
    size_t n = 0;

    *dense = step == 1;
    if (first.txid > low && first.txid <= high && first.txid != 0)
        out[n++] = first;
    for (uint64_t txid = high; txid > from && n < POINTS; txid -= step) {
        struct position p = {.txid = txid};
        bool have = txid == last.txid;
        if (have)
            p = last;
        else
            have = txlog_checksum_at(ledger_log(l), txid, &p.checksum) == 0;
        if (have)
            out[n++] = p;
        if (txid - from < step)
            break;
    }
    return n;
}

static int ask_common(struct follower_worker *w, struct follow *x, const struct position *points,
                      size_t n, bool *found, struct position *best)
{
    struct msg_writer m = follower_request(w->follower, &w->call, MSG_COMMON, x);
    int rv;

    for (size_t i = 0; i < n; i++)
        msg_put_position(&m, points[i]);
    rv = follower_ask(w->follower, &w->call, m.err, MSG_SHARED);
    if (rv != 0)
        return rv;
    *found = msg_get_bool(&w->call.in);
    *best = msg_get_position(&w->call.in);
    return msg_end(&w->call.in);
}

/* The newest TXID whose state both have; 0 if none is known. */
static int find_common(struct follower_worker *w, struct follow *x, uint64_t *common)
{
    struct position points[POINTS], best;
    uint64_t low = 0, high = ledger_last(x->ledger).txid;
    bool dense = false, found;

    while (!dense && high > low) {
        size_t n = own_points(x->ledger, low, high, points, &dense);
        int rv = n == 0 ? 0 : ask_common(w, x, points, n, &found, &best);
        uint64_t next = high + 1;
        if (rv != 0)
            return rv;
        if (n == 0)
            break;
        if (found)
            low = best.txid;
        for (size_t i = 0; i < n; i++) /* the next point above what is shared is not shared */
            if (points[i].txid > low && points[i].txid < next)
                next = points[i].txid;
        high = next - 1;
    }
    *common = low;
    return 0;
}

struct into_receive {
    struct ledger_receive receive;
};

static int receive_sink(void *ctx, const void *data, size_t n)
{
    struct into_receive *to = ctx;

    return ledger_receive_write(&to->receive, data, n);
}

static int measure_sink(void *ctx, const void *data, size_t n)
{
    (void)data;
    *(uint64_t *)ctx += n;
    return 0;
}

static int encode_deletion(struct ltx_sink sink, const struct ltx_header *h)
{
    struct ltx_encoder e = {0};
    uint64_t size;
    int rv = ltx_encode_begin(&e, sink, h);

    if (rv == 0)
        rv = ltx_encode_finish(&e, LTX_EMPTY_CHECKSUM, &size);
    ltx_encode_fini(&e);
    return rv;
}

/* The primary has no such database: here it is deleted too, now that all of it is kept. */
static int delete_here(struct ledger *l)
{
    struct into_receive to = {0};
    struct ledger_info info;
    struct ltx_header h;
    uint64_t size = 0;
    int rv;

    ledger_info(l, &info);
    h = (struct ltx_header){.page_size = info.page_size,
                            .min_txid = info.last.txid + 1,
                            .max_txid = info.last.txid + 1,
                            .timestamp_ms = wall_ms(),
                            .pre_checksum = info.last.checksum};
    rv = encode_deletion((struct ltx_sink){.write = measure_sink, .ctx = &size}, &h);
    if (rv == 0)
        rv = ledger_receive_begin(l, &to.receive, size, TXLOG_REBASE);
    if (rv != 0)
        return rv;
    rv = encode_deletion((struct ltx_sink){.write = receive_sink, .ctx = &to}, &h);
    if (rv == 0)
        return ledger_receive_finish(&to.receive, NULL);
    ledger_receive_abort(&to.receive);
    return rv;
}

static int keep(struct ledger *l, uint64_t common)
{
    struct ledger_info info;
    uint32_t kept = 0;
    char why[128];
    int rv;

    ledger_info(l, &info);
    if (info.last.txid <= common)
        return 0;
    rv = ledger_keep_diverged(l, common, &kept);
    if (rv != 0) {
        snprintf(why, sizeof why, "its own transactions after %" PRIu64 " could not be kept: %s",
                 common, err_text(rv));
        log_error("replica", "%s: %s; nothing of it is changed until they can be", ledger_name(l),
                  why);
        ledger_set_damaged(l, why);
        return rv;
    }
    if (kept > 0)
        log_warn("replica",
                 "%s: has parted from the primary after transaction %" PRIu64
                 "; what only this node has, up to %" PRIu64
                 ", is kept in the data folder under diverged/ (%u files, read them with tandemfs "
                 "ltx)",
                 ledger_name(l), common, info.last.txid, kept);
    return 0;
}

int diverged_job(struct follower_worker *w, struct follow *x)
{
    uint64_t common = 0;
    struct ledger_info info;
    int rv = x->known ? find_common(w, x, &common) : 0;

    if (rv == 0)
        rv = keep(x->ledger, common);
    ledger_info(x->ledger, &info);
    if (rv == 0 && !x->known && info.commit != 0) {
        log_warn("replica", "%s: the primary has no such database: it is deleted here",
                 ledger_name(x->ledger));
        rv = delete_here(x->ledger);
    }
    return rv;
}
