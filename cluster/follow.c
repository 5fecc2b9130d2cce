/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster/follow.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/err.h"
#include "ltx/base/logger.h"

#define HOLD_MIN_MS 500
#define HOLD_MAX_MS 30000
#define CALL_MS 5000
#define PATIENCE_MS 30000

bool follower_quits(struct follower *f)
{
    bool quit;

    mutex_lock(&f->mutex);
    quit = f->quit;
    mutex_unlock(&f->mutex);
    return quit;
}

bool follower_pause(struct follower *f, int64_t ms)
{
    struct mono begun = mono_now();
    bool quit;

    mutex_lock(&f->mutex);
    while (!f->quit && mono_since_ms(begun) < ms)
        cond_wait_ms(&f->cond, &f->mutex, ms - mono_since_ms(begun));
    quit = f->quit;
    mutex_unlock(&f->mutex);
    return quit;
}

void follow_set(struct follower *f, struct follow *x, enum follow_state state)
{
    mutex_lock(&f->mutex);
    x->state = state;
    if (state == FOLLOW_RECORDS)
        x->failures = 0;
    cond_broadcast(&f->cond);
    mutex_unlock(&f->mutex);
}

void follow_hold(struct follower *f, struct follow *x, int err, const char *doing)
{
    mutex_lock(&f->mutex);
    x->state = FOLLOW_HELD;
    x->held = mono_now();
    x->hold_ms = HOLD_MIN_MS << (x->failures < 6 ? x->failures : 6);
    if (x->hold_ms > HOLD_MAX_MS)
        x->hold_ms = HOLD_MAX_MS;
    x->failures++;
    mutex_unlock(&f->mutex);
    if (err != -ERR_CLOSED)
        log_warn("replica", "%s: %s failed: %s; tried again in %lld ms", ledger_name(x->ledger),
                 doing, err_text(err), (long long)x->hold_ms);
}

void follow_subscribe(struct follower *f, struct follow *x, struct self_call *c)
{
    struct msg_stamp stamp = self_stamp(f->self);
    struct msg_subscription m = {.on = true, .position = ledger_last(x->ledger)};
    struct msg_writer w;
    uint64_t session;
    int rv;

    mutex_lock(&f->mutex);
    session = f->session;
    m.generation = ++x->generation;
    x->last = m.position;
    x->acked = (struct position){0};
    x->applied = 0;
    x->state = session != 0 ? FOLLOW_RECORDS : FOLLOW_NEW;
    x->failures = 0;
    mutex_unlock(&f->mutex);
    if (session == 0)
        return;
    memcpy(m.name, ledger_name(x->ledger), strlen(ledger_name(x->ledger)) + 1);
    w = msg_begin(&c->out, MSG_SUBSCRIBE, &stamp);
    msg_put_u64(&w, session);
    msg_put_subscription(&w, &m);
    rv = self_call(f->self, f->bulk, c, w.err, MSG_OK, CALL_MS);
    if (rv == 0)
        return;
    mutex_lock(&f->mutex);
    if (x->generation == m.generation && x->state == FOLLOW_RECORDS)
        x->state = FOLLOW_NEW;
    mutex_unlock(&f->mutex);
}

struct msg_writer follower_request(struct follower *f, struct self_call *c, enum msg_type type,
                                   const struct follow *x)
{
    struct msg_stamp stamp = self_stamp(f->self);
    struct msg_writer w = msg_begin(&c->out, type, &stamp);

    msg_put_text(&w, ledger_name(x->ledger));
    return w;
}

int follower_ask(struct follower *f, struct self_call *c, int w_err, enum msg_type wanted)
{
    struct mono begun = mono_now();
    int rv;

    for (;;) {
        rv = self_call(f->self, f->bulk, c, w_err, wanted, CALL_MS);
        if (rv == 0) {
            mutex_lock(&f->mutex);
            f->bytes_received += c->call.len;
            mutex_unlock(&f->mutex);
            return 0;
        }
        if ((rv != -ERR_UNREACHABLE && rv != -ERR_TIMEOUT) || mono_since_ms(begun) > PATIENCE_MS)
            return rv;
        if (follower_pause(f, 100))
            return -ERR_CLOSED;
    }
}

/* How far clients see the database; 0 while they see what a bring-up is about to replace. */
static uint64_t applied_txid(struct ledger *l)
{
    uint64_t applied = ledger_applied(l).txid;

    return applied <= ledger_last(l).txid ? applied : 0;
}

void follower_check_level(struct follower *f)
{
    bool reached = false, stale = false, connected;

    mutex_lock(&f->mutex);
    connected = f->connected;
    if (f->mark_pending) {
        reached = true;
        for (uint32_t i = 0; i < f->count; i++) {
            struct follow *x = f->list[i];
            if (x->applied < x->mark)
                x->applied = applied_txid(x->ledger);
            reached = reached && x->applied >= x->mark;
        }
    }
    if (reached) {
        f->mark_pending = false;
        f->level_at = mono_now();
    } else {
        stale = mono_since_ms(f->level_at) > f->heartbeat_ms + f->heartbeat_ms / 2;
    }
    mutex_unlock(&f->mutex);
    if (connected && (reached || stale))
        role_contact(f->self->role, true, reached);
}

/* The next database for this worker to work on; with the mutex held. */
static struct follow *pick(const struct follower_worker *w)
{
    struct follower *f = w->follower;

    for (uint32_t i = 0; i < f->count; i++) {
        struct follow *x = f->list[i];
        bool pages = x->state == FOLLOW_PAGES || x->state == FOLLOW_DIVERGED || x->mend;
        if (!x->working && (w->pages ? pages : x->state == FOLLOW_FETCH))
            return x;
    }
    return NULL;
}

/* Not its state's work: that goes on. */
static void mend(struct follower_worker *w, struct follow *x)
{
    int rv = mend_job(w, x);

    if (rv != 0 && rv != -ERR_CLOSED)
        log_warn("replica", "%s: its bad pages could not be fetched: %s; tried again",
                 ledger_name(x->ledger), err_text(rv));
}

static void work(struct follower_worker *w, struct follow *x)
{
    struct follower *f = w->follower;
    const char *doing = "fetching a long record";
    int rv;

    if (x->state == FOLLOW_FETCH) {
        rv = fetch_job(w, x);
    } else if (x->state == FOLLOW_DIVERGED) {
        doing = "keeping what only this node has";
        rv = diverged_job(w, x);
        if (rv == 0 && x->known) {
            doing = "bringing it up by pages";
            rv = bringup_job(w, x);
        }
    } else {
        doing = "bringing it up by pages";
        rv = bringup_job(w, x);
    }
    if (rv == 0 && x->known)
        follow_subscribe(f, x, &w->call);
    else if (rv == 0)
        follow_set(f, x, FOLLOW_QUIET);
    else if (rv == -ERR_POSITION || rv == -ERR_NOTFOUND || rv == -ERR_NOTPRIMARY)
        follow_hold(f, x, -ERR_CLOSED, doing); /* the primary went on meanwhile: compare again */
    else
        follow_hold(f, x, rv, doing);
}

static void run_worker(void *arg)
{
    struct follower_worker *w = arg;
    struct follower *f = w->follower;

    mutex_lock(&f->mutex);
    while (!f->quit) {
        struct follow *x = pick(w);
        bool mending = x != NULL && w->pages && x->mend;
        if (x == NULL) {
            cond_wait(&f->cond, &f->mutex);
            continue;
        }
        x->working = true;
        x->mend = x->mend && !mending;
        w->busy = mending ? NULL : x;
        w->pages_done = w->pages_total = 0;
        mutex_unlock(&f->mutex);
        if (mending)
            mend(w, x);
        else
            work(w, x);
        mutex_lock(&f->mutex);
        x->working = false;
        w->busy = NULL;
        cond_broadcast(&f->cond); /* it may wait for a worker of the other kind already */
    }
    mutex_unlock(&f->mutex);
}

int follower_open(struct follower **out, struct self *self, struct store *store,
                  struct members *members, const char *url, int64_t heartbeat_ms)
{
    struct follower *f = calloc(1, sizeof *f);
    int rv;

    if (f == NULL)
        return -ERR_NOMEM;
    f->self = self;
    f->store = store;
    f->members = members;
    f->heartbeat_ms = heartbeat_ms;
    f->ack_ms = 10;
    f->level_at = mono_now();
    snprintf(f->url, sizeof f->url, "%s", url);
    mutex_init(&f->mutex, RANK_MEMBER);
    cond_init(&f->cond);
    rv = peer_open(&f->peer, url);
    if (rv == 0)
        rv = peer_open(&f->bulk, url);
    if (rv != 0) {
        follower_close(f);
        return rv;
    }
    *out = f;
    return 0;
}

int follower_start(struct follower *f)
{
    int rv = thread_start(&f->pull, "pull", pull_run, f);

    if (rv == 0)
        rv = thread_start(&f->ack, "ack", ack_run, f);
    for (int i = 0; rv == 0 && i < FOLLOWER_WORKERS; i++) {
        f->workers[i].follower = f;
        f->workers[i].pages = i % 2 == 0;
        rv = thread_start(&f->workers[i].thread, f->workers[i].pages ? "bringup" : "fetch",
                          run_worker, &f->workers[i]);
    }
    return rv;
}

void follower_quit(struct follower *f)
{
    mutex_lock(&f->mutex);
    f->quit = true;
    cond_broadcast(&f->cond);
    mutex_unlock(&f->mutex);
    peer_quit(f->peer);
    peer_quit(f->bulk);
    feed_wake(&store_feeds(f->store)->durable);
}

void follower_join(struct follower *f)
{
    thread_join(&f->pull);
    thread_join(&f->ack);
    for (int i = 0; i < FOLLOWER_WORKERS; i++)
        thread_join(&f->workers[i].thread);
}

void follower_close(struct follower *f)
{
    if (f == NULL)
        return;
    for (int i = 0; i < FOLLOWER_WORKERS; i++)
        self_call_fini(&f->workers[i].call);
    for (uint32_t i = 0; i < f->count; i++)
        free(f->list[i]);
    free(f->list);
    peer_close(f->bulk);
    peer_close(f->peer);
    cond_fini(&f->cond);
    mutex_fini(&f->mutex);
    free(f);
}

void follower_view(struct follower *f, struct follower_view *out)
{
    *out = (struct follower_view){0};
    mutex_lock(&f->mutex);
    out->connected = f->connected;
    out->ever_connected = f->ever_connected;
    out->settled = f->settled;
    out->level = f->connected && f->level_told;
    out->bytes_received = f->bytes_received;
    for (uint32_t i = 0; i < f->count; i++) {
        enum follow_state state = f->list[i]->state;
        out->busy = out->busy || (state != FOLLOW_RECORDS && state != FOLLOW_QUIET);
    }
    for (int i = 0; i < FOLLOWER_WORKERS; i++) {
        const struct follower_worker *w = &f->workers[i];
        if (w->busy == NULL || !w->pages || out->bringing_up[0] != '\0')
            continue;
        snprintf(out->bringing_up, sizeof out->bringing_up, "%s", ledger_name(w->busy->ledger));
        out->pages_done = w->pages_done;
        out->pages_total = w->pages_total;
    }
    mutex_unlock(&f->mutex);
}
