/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/err.h"
#include "ltx/base/logger.h"

static void cursor_pin(struct cursor *c, uint64_t txid)
{
    if (c->pinned)
        txlog_pin_move(&c->pin, txid);
    else
        txlog_pin(ledger_log(c->ledger), &c->pin, txid);
    c->pinned = true;
}

static void cursor_unpin(struct cursor *c)
{
    if (c->pinned)
        txlog_unpin(&c->pin);
    c->pinned = false;
}

static void session_free(struct session *x)
{
    if (x->parked != NULL)
        transport_drop(x->parked, false);
    for (uint32_t i = 0; i < x->count; i++) {
        cursor_unpin(x->cursors[i]);
        free(x->cursors[i]);
    }
    free(x->cursors);
    free(x);
}

/* Takes sessions off the list that `stale` names, and frees them without the mutex. */
static void remove_if(struct sessions *s, bool (*stale)(const struct session *, uint64_t),
                      uint64_t arg)
{
    struct session *gone = NULL;

    mutex_lock(&s->mutex);
    for (struct session **at = &s->first; *at != NULL;) {
        struct session *x = *at;
        if (!stale(x, arg)) {
            at = &x->next;
            continue;
        }
        *at = x->next;
        x->next = gone;
        gone = x;
    }
    mutex_unlock(&s->mutex);
    while (gone != NULL) {
        struct session *x = gone;
        gone = x->next;
        session_free(x);
    }
}

static bool is_any(const struct session *x, uint64_t arg)
{
    (void)x;
    (void)arg;
    return true;
}

static bool is_node(const struct session *x, uint64_t node_id)
{
    return x->node_id == node_id;
}

static bool is_silent(const struct session *x, uint64_t arg)
{
    (void)arg;
    if (mono_since_ms(x->seen) <= SESSION_SILENT_MS)
        return false;
    log_warn("supply",
             "the replica %s was silent for %d s: its session ends, and the log is not kept for "
             "it any longer",
             x->url[0] != '\0' ? x->url : "without an address", SESSION_SILENT_MS / 1000);
    return true;
}

void sessions_init(struct sessions *s, struct store *store)
{
    *s = (struct sessions){.store = store};
    mutex_init(&s->mutex, RANK_MEMBER);
}

void sessions_fini(struct sessions *s)
{
    sessions_clear(s);
    mutex_fini(&s->mutex);
}

int session_open(struct sessions *s, uint64_t node_id, const char *url, struct session **out)
{
    struct session *x;
    unsigned count = 0;
    int rv;

    for (x = s->first; x != NULL; x = x->next)
        count += x->node_id != node_id;
    if (count >= SESSIONS_MAX)
        return -ERR_BUSY;
    x = calloc(1, sizeof *x);
    if (x == NULL)
        return -ERR_NOMEM;
    while (x->id == 0)
        x->id = random_u64();
    x->node_id = node_id;
    snprintf(x->url, sizeof x->url, "%s", url);
    x->seen = mono_now();
    rv = session_grow(s, x);
    if (rv != 0) {
        session_free(x);
        return rv;
    }
    remove_if(s, is_node, node_id);
    mutex_lock(&s->mutex);
    x->next = s->first;
    s->first = x;
    mutex_unlock(&s->mutex);
    *out = x;
    return 0;
}

struct session *session_find(struct sessions *s, uint64_t id)
{
    for (struct session *x = s->first; x != NULL; x = x->next)
        if (x->id == id)
            return x;
    return NULL;
}

void session_touch(struct sessions *s, struct session *x)
{
    mutex_lock(&s->mutex);
    x->seen = mono_now();
    mutex_unlock(&s->mutex);
}

static int make_room(struct sessions *s, struct session *x, uint32_t want)
{
    uint32_t cap = x->cap == 0 ? 16 : x->cap;
    struct cursor **old = x->cursors, **grown;

    if (want <= x->cap)
        return 0;
    while (cap < want)
        cap *= 2;
    grown = calloc(cap, sizeof *grown);
    if (grown == NULL)
        return -ERR_NOMEM;
    if (x->count > 0)
        memcpy(grown, old, x->count * sizeof *grown);
    mutex_lock(&s->mutex);
    x->cursors = grown;
    x->cap = cap;
    mutex_unlock(&s->mutex);
    free(old);
    return 0;
}

int session_grow(struct sessions *s, struct session *x)
{
    uint32_t want = store_count(s->store);
    int rv = make_room(s, x, want);

    while (rv == 0 && x->count < want) {
        struct cursor *c = calloc(1, sizeof *c);
        if (c == NULL)
            return -ERR_NOMEM;
        c->ledger = store_at(s->store, x->count);
        c->level_at = mono_now();
        mutex_lock(&s->mutex);
        x->cursors[x->count++] = c;
        mutex_unlock(&s->mutex);
    }
    return rv;
}

struct cursor *session_cursor(struct session *x, const struct ledger *l)
{
    for (uint32_t i = 0; i < x->count; i++)
        if (x->cursors[i]->ledger == l)
            return x->cursors[i];
    return NULL;
}

void session_subscribe(struct sessions *s, struct cursor *c, const struct msg_subscription *m)
{
    if (m->generation <= c->generation)
        return; /* said twice, or overtaken */
    c->generation = m->generation;
    c->state = m->on ? CURSOR_ON : CURSOR_TOLD;
    c->sent = m->position.txid;
    c->moved = false; /* an answer under way is of the old generation */
    if (!m->on)
        return;
    cursor_pin(c, m->position.txid);
    mutex_lock(&s->mutex);
    c->acked = m->position;
    mutex_unlock(&s->mutex);
}

void session_ack(struct sessions *s, struct cursor *c, struct position p)
{
    struct position durable = ledger_durable(c->ledger);

    if (p.txid > durable.txid || c->generation == 0)
        return;
    if (c->pinned)
        cursor_pin(c, p.txid);
    mutex_lock(&s->mutex);
    c->acked = p;
    if (p.txid == durable.txid)
        c->level_at = mono_now();
    mutex_unlock(&s->mutex);
}

void session_confirm(struct session *x)
{
    for (uint32_t i = 0; i < x->count; i++)
        x->cursors[i]->moved = false;
}

void session_roll_back(struct session *x)
{
    for (uint32_t i = 0; i < x->count; i++) {
        struct cursor *c = x->cursors[i];
        if (!c->moved)
            continue;
        c->state = c->kept_state;
        c->sent = c->kept_sent;
        c->moved = false;
    }
}

void sessions_expire(struct sessions *s)
{
    remove_if(s, is_silent, 0);
}

void sessions_clear(struct sessions *s)
{
    remove_if(s, is_any, 0);
}

static void describe_cursor(const struct cursor *c, struct node_member *m)
{
    uint64_t last = ledger_last(c->ledger).txid;
    int64_t lag;

    if (last == 0)
        return;
    m->databases++;
    if (c->acked.txid >= ledger_durable(c->ledger).txid) {
        m->level++;
        return;
    }
    m->behind += last - c->acked.txid;
    lag = mono_since_ms(c->level_at);
    if (lag > m->lag_ms)
        m->lag_ms = lag;
}

bool sessions_describe(struct sessions *s, uint64_t node_id, int64_t fresh_ms,
                       struct node_member *m)
{
    bool found = false;

    mutex_lock(&s->mutex);
    for (struct session *x = s->first; x != NULL && !found; x = x->next) {
        if (x->node_id != node_id)
            continue;
        found = true;
        m->seen_ms = mono_since_ms(x->seen);
        m->connected = m->seen_ms <= fresh_ms;
        for (uint32_t i = 0; i < x->count; i++)
            describe_cursor(x->cursors[i], m);
    }
    mutex_unlock(&s->mutex);
    return found;
}

bool sessions_has(struct sessions *s, const char *url, int64_t fresh_ms)
{
    bool found = false;

    mutex_lock(&s->mutex);
    for (struct session *x = s->first; x != NULL && !found; x = x->next)
        found = strcmp(x->url, url) == 0 && mono_since_ms(x->seen) <= fresh_ms;
    mutex_unlock(&s->mutex);
    return found;
}

int sessions_position(struct sessions *s, const char *url, const char *database, struct position *p)
{
    int rv = -ERR_NOTFOUND;

    mutex_lock(&s->mutex);
    for (struct session *x = s->first; x != NULL; x = x->next) {
        if (strcmp(x->url, url) != 0)
            continue;
        for (uint32_t i = 0; i < x->count; i++)
            if (strcmp(ledger_name(x->cursors[i]->ledger), database) == 0) {
                *p = x->cursors[i]->acked;
                rv = 0;
            }
    }
    mutex_unlock(&s->mutex);
    return rv;
}
