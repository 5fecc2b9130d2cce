/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The replica's pull thread: a session with the primary, a PULL at a time, and what each database
 * needs. It never works for long on one database; what takes time it leaves to the workers.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/follow.h"
#include "ltx/base/err.h"
#include "ltx/base/logger.h"

#define CALL_MS 3000
#define RETRY_MS 100

struct pull {
    struct follower *f;
    struct self_call call;
    uint32_t seq;
    int64_t heartbeat_ms; /* of the primary: an empty answer comes no later */
    struct mono said;     /* when it was last said that the primary does not answer */
    bool complained;
};

/* The list of databases. */

static struct follow *find_follow(struct follower *f, const struct ledger *l)
{
    for (uint32_t i = 0; i < f->count; i++) /* only this thread adds */
        if (f->list[i]->ledger == l)
            return f->list[i];
    return NULL;
}

static int add_follow(struct follower *f, struct ledger *l, struct follow **out)
{
    struct follow *x = calloc(1, sizeof *x);
    struct follow **grown;

    if (x == NULL)
        return -ERR_NOMEM;
    x->ledger = l;
    x->state = FOLLOW_NEW;
    mutex_lock(&f->mutex);
    if (f->count == f->cap) {
        uint32_t cap = f->cap == 0 ? 16 : 2 * f->cap;
        grown = realloc(f->list, cap * sizeof *grown);
        if (grown == NULL) {
            mutex_unlock(&f->mutex);
            free(x);
            return -ERR_NOMEM;
        }
        f->list = grown;
        f->cap = cap;
    }
    f->list[f->count++] = x;
    mutex_unlock(&f->mutex);
    if (out != NULL)
        *out = x;
    return 0;
}

/* Every ledger of the store is followed, whoever made it. */
static int add_all(struct follower *f)
{
    uint32_t count = store_count(f->store);
    int rv = 0;

    for (uint32_t i = 0; rv == 0 && i < count; i++)
        if (find_follow(f, store_at(f->store, i)) == NULL)
            rv = add_follow(f, store_at(f->store, i), NULL);
    return rv;
}

/* Answers to PULL. */

static int receive(struct ledger *l, const struct msg_item *item, struct position *last)
{
    struct ledger_receive r = {0};
    int rv = ledger_receive_begin(l, &r, item->size, 0);

    if (rv != 0)
        return rv;
    rv = ledger_receive_write(&r, item->data, item->size);
    if (rv != 0) {
        ledger_receive_abort(&r);
        return rv;
    }
    return ledger_receive_finish(&r, last);
}

static void unsubscribe(struct pull *p, const struct follow *x, struct buf *out)
{
    struct msg_stamp stamp = self_stamp(p->f->self);
    struct msg_subscription m = {.generation = x->generation};
    struct msg_writer w = msg_begin(out, MSG_SUBSCRIBE, &stamp);

    memcpy(m.name, ledger_name(x->ledger), strlen(ledger_name(x->ledger)) + 1);
    msg_put_u64(&w, p->f->session);
    msg_put_subscription(&w, &m);
}

/* A record did not go in: the database leaves the stream, the others stay. */
static void drop_out(struct pull *p, struct follow *x, int err)
{
    struct self_call c = {0};

    mutex_lock(&p->f->mutex);
    x->generation++;
    if (err == -ERR_DIVERGED || err == -ERR_CHECKSUM || err == -ERR_CORRUPT)
        x->distrust = true;
    if (err == -ERR_POSITION)
        x->trimmed = true; /* what the primary has for us cannot be put on: pages can */
    mutex_unlock(&p->f->mutex);
    if (x->distrust)
        log_warn("replica",
                 "%s: a record does not fit onto transaction %" PRIu64
                 " here (%s): histories are compared",
                 ledger_name(x->ledger), x->last.txid, err_text(err));
    unsubscribe(p, x, &c.out);
    self_call(p->f->self, p->f->bulk, &c, 0, MSG_OK, CALL_MS);
    self_call_fini(&c);
    if (err == -ERR_POSITION || err == -ERR_DAMAGED || x->distrust)
        follow_set(p->f, x, FOLLOW_NEW);
    else
        follow_hold(p->f, x, err, "receiving a record");
}

/* Whether the item is for the subscription that stands. */
static bool is_for(struct pull *p, struct follow *x, const struct msg_item *item)
{
    bool yes;

    if (x == NULL)
        return false;
    mutex_lock(&p->f->mutex);
    yes = x->state == FOLLOW_RECORDS && x->generation == item->generation;
    mutex_unlock(&p->f->mutex);
    return yes;
}

static void take_record(struct pull *p, struct follow *x, const struct msg_item *item)
{
    struct position last;
    int rv;

    if (x == NULL || !is_for(p, x, item))
        return;
    rv = receive(x->ledger, item, &last);
    if (rv != 0) {
        drop_out(p, x, rv);
        return;
    }
    mutex_lock(&p->f->mutex);
    x->last = last;
    x->distrust = x->trimmed = x->all_pages = false;
    mutex_unlock(&p->f->mutex);
}

static int take_news(struct pull *p, struct follow *x, const struct msg_item *item)
{
    struct ledger *l;
    int rv;

    if (x == NULL) {
        rv = store_get(p->f->store, item->name, &l);
        if (rv != 0) {
            log_error("replica", "%s: cannot make the new database: %s", item->name, err_text(rv));
            return 0;
        }
        x = find_follow(p->f, l);
        return x != NULL ? 0 : add_follow(p->f, l, NULL);
    }
    mutex_lock(&p->f->mutex);
    if (x->state == FOLLOW_QUIET)
        x->state = FOLLOW_NEW;
    mutex_unlock(&p->f->mutex);
    return 0;
}

static int take_item(struct pull *p, const struct msg_item *item)
{
    struct ledger *l = store_find(p->f->store, item->name);
    struct follow *x = l == NULL ? NULL : find_follow(p->f, l);

    if (item->kind == MSG_NEWS)
        return take_news(p, x, item);
    if (item->kind == MSG_RECORD) {
        take_record(p, x, item);
        return 0;
    }
    if (!is_for(p, x, item))
        return 0;
    if (item->kind == MSG_TRIMMED)
        x->trimmed = true;
    follow_set(p->f, x, item->kind == MSG_LARGE ? FOLLOW_FETCH : FOLLOW_NEW);
    return 0;
}

/* The answer says that nothing is missing: what is here now is what has to be applied. */
static void note_level(struct follower *f, bool level)
{
    bool settled = true, was_settled;

    mutex_lock(&f->mutex);
    for (uint32_t i = 0; i < f->count; i++) {
        enum follow_state state = f->list[i]->state;
        settled = settled && (state == FOLLOW_RECORDS || state == FOLLOW_QUIET);
    }
    f->level_told = level && settled;
    if (f->level_told && !f->mark_pending) {
        for (uint32_t i = 0; i < f->count; i++)
            f->list[i]->mark = f->list[i]->state == FOLLOW_RECORDS ? f->list[i]->last.txid : 0;
        f->mark_pending = true;
    }
    was_settled = f->settled;
    f->settled = f->settled || settled;
    settled = f->settled;
    mutex_unlock(&f->mutex);
    follower_check_level(f);
    if (settled && !was_settled)
        feed_wake(&f->self->wake);
}

static int take_answer(struct pull *p)
{
    struct msg_reader *in = &p->call.in;
    uint32_t seq = msg_get_u32(in);
    bool level = msg_get_bool(in);
    struct msg_item item;
    int rv;

    if (in->bad || seq != p->seq + 1)
        return -ERR_PROTOCOL;
    while ((rv = msg_next_item(in, &item)) > 0)
        if ((rv = take_item(p, &item)) != 0)
            return rv;
    if (rv != 0)
        return rv;
    p->seq = seq;
    note_level(p->f, level);
    return 0;
}

static void put_acks(struct follower *f, struct msg_writer *w)
{
    size_t begin = w->buf->len;

    mutex_lock(&f->mutex);
    for (uint32_t i = 0; i < f->count && w->buf->len - begin < MSG_LIST; i++) {
        struct follow *x = f->list[i];
        struct position durable;
        if (x->state != FOLLOW_RECORDS || position_equal(x->acked, x->last))
            continue;
        durable = ledger_durable(x->ledger);
        if (position_equal(durable, x->acked) || durable.txid > x->last.txid)
            continue;
        x->acked = durable;
        msg_put_standing(w, ledger_name(x->ledger), durable);
    }
    mutex_unlock(&f->mutex);
}

static int pull_once(struct pull *p)
{
    struct follower *f = p->f;
    struct msg_stamp stamp = self_stamp(f->self);
    struct msg_writer w = msg_begin(&p->call.out, MSG_PULL, &stamp);
    int rv;

    msg_put_u64(&w, f->session);
    msg_put_u32(&w, p->seq);
    put_acks(f, &w);
    rv = self_call(f->self, f->peer, &p->call, w.err, MSG_RECORDS, 2 * p->heartbeat_ms + 2000);
    if (rv != 0)
        return rv;
    mutex_lock(&f->mutex);
    f->bytes_received += p->call.call.len;
    mutex_unlock(&f->mutex);
    members_saw(f->members, f->url, p->call.head.stamp.node_id, true);
    return take_answer(p);
}

/* The session. */

static int take_welcome(struct pull *p)
{
    struct follower *f = p->f;
    struct msg_reader *in = &p->call.in;
    struct msg_welcome m;
    char url[MSG_URL_MAX];
    int rv = msg_get_welcome(in, &m);

    while (rv == 0 && (rv = msg_next_url(in, url)) > 0) {
        self_remember(f->self, url);
        members_add(f->members, strcmp(url, f->self->advertise) == 0 ? "" : url);
        rv = 0;
    }
    if (rv == 0)
        rv = self_join_cluster(f->self, p->call.head.stamp.cluster_id);
    if (rv != 0)
        return rv;
    if (p->call.head.stamp.epoch < self_epoch(f->self))
        return -ERR_NOTPRIMARY; /* it has been superseded and learns so from our header */
    self_remember(f->self, f->url);
    self_hear(f->self, p->call.head.stamp.epoch, f->url, true, p->call.head.stamp.node_id);
    members_saw(f->members, f->url, p->call.head.stamp.node_id, true);
    mutex_lock(&f->mutex);
    f->session = m.session;
    f->ack_ms = m.ack_ms;
    f->ever_connected = true;
    f->connected = true;
    f->mark_pending = false;
    for (uint32_t i = 0; i < f->count; i++)
        if (f->list[i]->state == FOLLOW_RECORDS || f->list[i]->state == FOLLOW_QUIET)
            f->list[i]->state = FOLLOW_NEW;
    mutex_unlock(&f->mutex);
    p->seq = 0;
    p->heartbeat_ms = m.heartbeat_ms;
    return 0;
}

static int hello(struct pull *p)
{
    struct follower *f = p->f;
    struct msg_stamp stamp = self_stamp(f->self);
    struct msg_writer w = msg_begin(&p->call.out, MSG_HELLO, &stamp);
    int rv;

    msg_put_text(&w, f->self->advertise);
    msg_put_u8(&w, f->self->candidate);
    rv = self_call(f->self, f->peer, &p->call, w.err, MSG_WELCOME, CALL_MS);
    if (rv == 0)
        rv = take_welcome(p);
    if (rv == 0) {
        log_info("replica", "follows the primary %s, epoch %" PRIu64, f->url,
                 p->call.head.stamp.epoch);
        p->complained = false;
        rv = add_all(f);
    }
    return rv;
}

/* Nothing came, or a refusal. */
static void lost(struct pull *p, int err)
{
    struct follower *f = p->f;
    bool was;

    mutex_lock(&f->mutex);
    was = f->connected;
    f->connected = f->level_told = false;
    if (err == -ERR_CLOSED || err == -ERR_NOTPRIMARY || err == -ERR_PROTOCOL)
        f->session = 0;
    mutex_unlock(&f->mutex);
    if (follower_quits(f))
        return;
    if (err == -ERR_CLOSED && p->call.answered)
        return; /* it has forgotten the session: the next HELLO makes another */
    role_contact(f->self->role, false, false);
    if (was || !p->complained || mono_since_ms(p->said) > 30000) {
        p->complained = true;
        p->said = mono_now();
        logger_line(err == -ERR_NOTPRIMARY ? LOGGER_INFO : LOGGER_WARN, "replica",
                    "the primary %s: %s%s", f->url,
                    p->call.answered && p->call.error.text[0] != '\0' ? p->call.error.text
                                                                      : err_text(err),
                    err == -ERR_UNREACHABLE || err == -ERR_TIMEOUT ? "; waiting for it" : "");
    }
    if (was)
        feed_wake(&f->self->wake);
}

void pull_run(void *follower)
{
    struct follower *f = follower;
    struct pull p = {.f = f};
    struct mono looked = mono_now();
    int rv;

    while (!follower_quits(f)) {
        p.call.error.text[0] = '\0';
        rv = f->session == 0 ? hello(&p) : 0;
        if (rv == 0)
            rv = follower_compare(f, &p.call);
        if (rv == 0)
            rv = pull_once(&p);
        if (rv == 0) {
            mutex_lock(&f->mutex);
            f->connected = true;
            mutex_unlock(&f->mutex);
        } else {
            lost(&p, rv);
            follower_pause(f, RETRY_MS);
        }
        if (mono_since_ms(looked) >= f->heartbeat_ms) {
            looked = mono_now();
            follower_look_for_damage(f);
            follower_look_for_bad_pages(f);
        }
    }
    self_call_fini(&p.call);
}
