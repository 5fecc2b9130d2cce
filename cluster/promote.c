/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making this node the primary, on the thread of whoever asked for it. Planned: the primary is
 * asked to stop (handover.c), this node waits until it has on disk and applied all that the primary
 * has, and only then takes over. Forced: a new epoch, above all that were heard of.
 *
 * The epoch asked for is kept on disk before COMMIT is sent (`pledge`): if the answer is lost and
 * the primary has agreed, this node learns so later and completes what it began.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/parts.h"
#include "ltx/base/err.h"
#include "ltx/base/logger.h"

#define PREPARE_MS 8000 /* more than the primary takes to drain */
#define TOUCH_MS 2000   /* how often the primary hears that the handover goes on */
#define COMMIT_MS 5000  /* how long a lost COMMIT is repeated */

struct must_have {
    struct ledger *ledger;
    struct position at;
};

struct promotion {
    struct node *n;
    struct mono begun;
    int64_t timeout_ms;
    struct transport_peer *peer;
    struct self_call call;
    char primary[NODE_URL_MAX];
    uint64_t token;
    struct must_have *list;
    uint32_t count, cap;
    char *why;
    size_t why_size;
};

static int64_t time_left(const struct promotion *p)
{
    int64_t left = p->timeout_ms - mono_since_ms(p->begun);

    return left > 0 ? left : 0;
}

static int fail(struct promotion *p, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static int fail(struct promotion *p, int code, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vsnprintf(p->why, p->why_size, fmt, args);
    va_end(args);
    return code;
}

/* What the primary gave as the reason, or what its answer was. */
static const char *reason(const struct promotion *p, int code)
{
    return p->call.head.type == MSG_ERROR ? p->call.error.text : err_text(code);
}

static int fail_unreachable(struct promotion *p)
{
    if (p->primary[0] == '\0')
        return fail(p, -ERR_UNREACHABLE,
                    "no primary is known: if there is none any more, use --force");
    return fail(p, -ERR_UNREACHABLE,
                "the primary %s does not answer: if it is gone for good, use --force; what it has "
                "and this node has not is then kept on its disk only",
                p->primary);
}

/* Waits for this node to have nearly everything before any writer is stopped. */
static int wait_until_near(struct promotion *p)
{
    struct node *n = p->n;
    struct feed *feed = &store_feeds(n->options.store)->applied;
    struct follower_view view;
    struct mono lost = mono_now();

    for (;;) {
        uint64_t seen = feed_count(feed);
        bool have = node_follower_view(n, p->primary, &view);
        if (role_get(n->self.role) == ROLE_PRIMARY)
            return 0;
        if (have && view.connected) {
            lost = mono_now();
            if (view.level || (!view.busy && role_lag_ms(n->self.role) < 2000))
                return 0;
        }
        if (mono_since_ms(lost) > 3000 || (time_left(p) == 0 && !(have && view.connected)))
            return fail_unreachable(p);
        if (time_left(p) == 0)
            return fail(p, -ERR_TIMEOUT,
                        "this node is not level with its primary yet: wait until tandemfs status "
                        "shows no lag, or give it more time");
        if (n->quit)
            return fail(p, -ERR_CLOSED, "this node is being shut down");
        feed_wait(feed, seen, time_left(p) < 50 ? time_left(p) : 50);
    }
}

static int add_must_have(struct promotion *p, const char *name, struct position at)
{
    struct ledger *l;
    int rv;

    if (at.txid == 0)
        return 0;
    rv = store_get(p->n->options.store, name, &l);
    if (rv != 0)
        return rv;
    if (p->count == p->cap) {
        uint32_t cap = p->cap == 0 ? 64 : 2 * p->cap;
        struct must_have *grown = realloc(p->list, cap * sizeof *grown);
        if (grown == NULL)
            return -ERR_NOMEM;
        p->list = grown;
        p->cap = cap;
    }
    p->list[p->count++] = (struct must_have){.ledger = l, .at = at};
    return 0;
}

/* One PREPARE; `from` moves on by the positions that came. *total: databases in all, which is as many
 * as a node can have at most. */
static int prepare_once(struct promotion *p, uint32_t *from, uint32_t *total)
{
    struct msg_stamp stamp = self_stamp(&p->n->self);
    struct msg_writer w = msg_begin(&p->call.out, MSG_PREPARE, &stamp);
    char name[STORE_NAME_MAX];
    struct position at;
    int rv;

    msg_put_u64(&w, p->token);
    msg_put_u32(&w, *from);
    msg_put_text(&w, p->n->self.advertise);
    rv = self_call(&p->n->self, p->peer, &p->call, w.err, MSG_PREPARED, PREPARE_MS);
    if (rv != 0)
        return rv;
    p->token = msg_get_u64(&p->call.in);
    *total = msg_get_u32(&p->call.in);
    if (*total > STORE_DATABASES_MAX)
        return -ERR_PROTOCOL;
    while ((rv = msg_next_standing(&p->call.in, name, &at)) > 0) {
        rv = *from < *total ? add_must_have(p, name, at) : -ERR_PROTOCOL;
        if (rv != 0)
            return rv;
        ++*from;
    }
    return rv;
}

static int prepare(struct promotion *p)
{
    uint32_t from = 0, total = 0, before;
    int rv = 0;

    do {
        before = from;
        rv = prepare_once(p, &from, &total);
        if (rv == 0 && from < total && from == before)
            rv = -ERR_PROTOCOL;
    } while (rv == 0 && from < total);
    if (rv == -ERR_UNREACHABLE || (rv == -ERR_TIMEOUT && !p->call.answered))
        return fail_unreachable(p);
    if (rv != 0)
        return fail(p, rv, "the primary %s did not agree to hand over: %s", p->primary,
                    reason(p, rv));
    return 0;
}

/* The first database that is not yet here, durable and applied; NULL if all are. */
static struct must_have *first_missing(struct promotion *p)
{
    for (uint32_t i = 0; i < p->count; i++) {
        struct must_have *m = &p->list[i];
        struct position last = ledger_last(m->ledger);
        if (!position_equal(last, m->at))
            return m;
        if (ledger_durable(m->ledger).txid < last.txid)
            ledger_sync(m->ledger, last.txid);
        if (!position_equal(ledger_durable(m->ledger), m->at) ||
            !position_equal(ledger_applied(m->ledger), m->at))
            return m;
    }
    return NULL;
}

static int wait_until_level(struct promotion *p)
{
    struct feed *feed = &store_feeds(p->n->options.store)->applied;
    struct mono touched = mono_now();
    uint32_t total;

    for (;;) {
        uint64_t seen = feed_count(feed);
        struct must_have *m = first_missing(p);
        if (m == NULL)
            return 0;
        if (time_left(p) == 0 || p->n->quit) {
            struct ledger_info info;
            ledger_info(m->ledger, &info);
            return fail(p, -ERR_TIMEOUT,
                        "this node lacks transactions of %s (it has %" PRIu64 ", applied %" PRIu64
                        ", the primary %" PRIu64 "%s%s): the primary goes on; try again later",
                        ledger_name(m->ledger), info.last.txid, info.applied.txid, m->at.txid,
                        info.damaged ? "; damaged here: " : "", info.damaged ? info.damage : "");
        }
        if (mono_since_ms(touched) > TOUCH_MS) {
            uint32_t from = UINT32_MAX;
            int rv = prepare_once(p, &from, &total);
            if (rv != 0)
                return fail(p, rv, "the primary %s gave up the handover: %s", p->primary,
                            reason(p, rv));
            touched = mono_now();
        }
        feed_wait(feed, seen, 100);
    }
}

static void abort_handover(struct promotion *p)
{
    struct msg_stamp stamp = self_stamp(&p->n->self);
    struct msg_writer w = msg_begin(&p->call.out, MSG_ABORT, &stamp);

    msg_put_u64(&w, p->token);
    self_call(&p->n->self, p->peer, &p->call, w.err, MSG_OK, 1000);
}

static void set_pledge(void *ctx, struct identity *id)
{
    id->pledge = *(uint64_t *)ctx;
}

static int commit(struct promotion *p, uint64_t epoch)
{
    struct mono begun = mono_now();
    uint64_t none = 0;
    int rv = self_change(&p->n->self, set_pledge, &epoch);

    if (rv != 0) {
        abort_handover(p);
        return fail(p, rv, "this node cannot write its role: %s", err_text(rv));
    }
    do {
        struct msg_stamp stamp = self_stamp(&p->n->self);
        struct msg_writer w = msg_begin(&p->call.out, MSG_COMMIT, &stamp);
        msg_put_u64(&w, p->token);
        msg_put_u64(&w, epoch);
        msg_put_text(&w, p->n->self.advertise);
        rv = self_call(&p->n->self, p->peer, &p->call, w.err, MSG_OK, 2000);
        if (rv == 0 || p->call.answered)
            break;
    } while (mono_since_ms(begun) < COMMIT_MS && !p->n->quit);
    if (rv == 0)
        return 0;
    if (!p->call.answered)
        return fail(p, -ERR_UNREACHABLE,
                    "the primary %s stopped answering in the middle of the handover: it either "
                    "goes on as primary, or this node takes over as soon as it answers again; if "
                    "it is gone for good, use --force",
                    p->primary);
    self_change(&p->n->self, set_pledge, &none);
    return fail(p, rv, "the primary %s did not hand over: %s", p->primary, p->call.error.text);
}

static int planned(struct promotion *p)
{
    uint64_t epoch;
    int rv = wait_until_near(p);

    if (rv != 0 || role_get(p->n->self.role) == ROLE_PRIMARY)
        return rv;
    if (p->n->self.advertise[0] == '\0')
        return fail(p, -ERR_UNSUPPORTED,
                    "this node listens nowhere, so the primary could not follow it: set listen");
    rv = peer_open(&p->peer, p->primary);
    if (rv != 0)
        return fail_unreachable(p);
    rv = prepare(p);
    if (rv != 0)
        return rv;
    rv = wait_until_level(p);
    if (rv != 0) {
        abort_handover(p);
        return rv;
    }
    epoch = self_epoch(&p->n->self) + 1;
    rv = commit(p, epoch);
    if (rv == 0 && (rv = node_lead(p->n, epoch)) != 0)
        fail(p, rv, "this node could not become primary: %s; look at its log", err_text(rv));
    return rv;
}

/* What was received is applied before others write here; a damaged database is not waited for. */
static void wait_until_applied(struct promotion *p)
{
    struct store *store = p->n->options.store;
    struct feed *feed = &store_feeds(store)->applied;
    bool all = false;

    while (!all && time_left(p) > p->timeout_ms / 2 && !p->n->quit) {
        uint64_t seen = feed_count(feed);
        uint32_t count = store_count(store);
        all = true;
        for (uint32_t i = 0; i < count; i++) {
            struct ledger_info info;
            ledger_info(store_at(store, i), &info);
            all = all && (info.damaged || position_equal(info.applied, info.last));
        }
        if (!all)
            feed_wait(feed, seen, 100);
    }
}

static int forced(struct promotion *p)
{
    char primary[NODE_URL_MAX];
    uint64_t heard, epoch;
    bool first_hand;
    int rv;

    wait_until_applied(p);
    self_heard(&p->n->self, &heard, primary, &first_hand);
    epoch = self_epoch(&p->n->self);
    epoch = (heard > epoch ? heard : epoch) + 1;
    log_warn("cluster", "promoted by force: epoch %" PRIu64, epoch);
    rv = node_lead(p->n, epoch);
    if (rv != 0)
        fail(p, rv, "this node could not become primary: %s; look at its log", err_text(rv));
    return rv;
}

int node_promote(struct node *n, bool force, int64_t timeout_ms, char *why, size_t why_size)
{
    struct promotion p = {.n = n,
                          .begun = mono_now(),
                          .timeout_ms = timeout_ms > 0 ? timeout_ms : 10000,
                          .why = why,
                          .why_size = why_size};
    int rv;

    int leads = role_get(n->self.role) == ROLE_PRIMARY ? role_enter(n->self.role) : -1;
    if (leads == 0) {
        role_leave(n->self.role);
        return 0;
    }
    if (role_get(n->self.role) == ROLE_PRIMARY)
        return fail(&p, -ERR_BUSY,
                    "this node is handing over to another one at this moment: try again when it "
                    "has become a replica");
    if (!n->options.candidate)
        return fail(&p, -ERR_UNSUPPORTED,
                    "this node is configured not to become primary (lease: candidate: false)");
    if (n->promoting)
        return fail(&p, -ERR_BUSY, "a promotion of this node is under way already");
    n->promoting = true;
    rv = planned(&p);
    if (rv != 0 && force && rv != -ERR_CLOSED) {
        p.begun = mono_now();
        rv = forced(&p);
    }
    n->promoting = false;
    self_call_fini(&p.call);
    peer_close(p.peer);
    free(p.list);
    return rv;
}
