/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster/supply.h"

#include <inttypes.h>
#include <string.h>

#include "ltx/base/err.h"
#include "ltx/base/logger.h"

#define QUANTUM (128u << 10) /* bytes that one database may add before the next has its turn */
#define EXPIRE_MS 5000       /* how often silent sessions are looked for */
/*
 * So long from round to round, unless some replica lacks more than an answer holds. What is committed
 * meanwhile travels together: an answer costs some ten changes of thread on its way, a record in it
 * hardly any.
 */
#define REST_US 1000

/* Answers to a PULL. */

static void cursor_move(struct cursor *c)
{
    if (c->moved)
        return;
    c->kept_state = c->state;
    c->kept_sent = c->sent;
    c->moved = true;
}

static void cursor_leaves(struct cursor *c, struct msg_writer *w, enum cursor_state state,
                          uint8_t kind, uint64_t size)
{
    struct msg_item item = {.kind = kind, .generation = c->generation, .size = size};

    cursor_move(c);
    c->state = state;
    memcpy(item.name, ledger_name(c->ledger), strlen(ledger_name(c->ledger)) + 1);
    msg_put_item(w, &item);
}

static int put_record(struct msg_writer *w, const struct cursor *c, const struct txlog_entry *e)
{
    struct msg_item item = {.kind = MSG_RECORD, .generation = c->generation, .size = e->size};
    int rv;

    memcpy(item.name, ledger_name(c->ledger), strlen(ledger_name(c->ledger)) + 1);
    msg_put_item(w, &item);
    if (w->err == 0)
        w->err = buf_reserve(w->buf, e->size);
    if (w->err != 0)
        return w->err;
    rv = txlog_entry_read(e, 0, w->buf->data + w->buf->len, e->size);
    if (rv == 0)
        w->buf->len += e->size;
    return rv;
}

/* The replica begins to lag now if it lacked nothing until now. */
static void mark_behind(struct supply *s, struct cursor *c)
{
    if (c->acked.txid < c->sent)
        return;
    mutex_lock(&s->sessions.mutex);
    c->level_at = mono_now();
    mutex_unlock(&s->sessions.mutex);
}

/*
 * Appends records of one database, a quantum at most or one record. True if the answer has no room
 * for what comes next.
 */
static bool put_records(struct supply *s, struct cursor *c, uint64_t durable, struct msg_writer *w)
{
    size_t begin = w->buf->len;
    struct txlog_entry e = {0};
    bool full = false;
    int rv = txlog_find(ledger_log(c->ledger), c->sent, &e);

    mark_behind(s, c);
    while (rv == 0 && e.max_txid <= durable) {
        size_t mark = w->buf->len;
        if (e.size > MSG_RECORD_MAX) {
            cursor_leaves(c, w, CURSOR_LARGE, MSG_LARGE, e.size);
            break;
        }
        full = mark > MSG_HEADER_SIZE + 16 && mark + e.size > MSG_BATCH;
        if (full || mark - begin >= QUANTUM)
            break;
        rv = put_record(w, c, &e);
        if (rv != 0) {
            w->buf->len = mark;
            break;
        }
        cursor_move(c);
        c->sent = e.max_txid;
        rv = txlog_next(ledger_log(c->ledger), &e);
    }
    txlog_entry_release(&e);
    if (rv == -ERR_NOTFOUND && c->sent >= durable)
        rv = 0;
    if (rv != 0 && w->err == 0 && c->state == CURSOR_ON) {
        if (rv != -ERR_NOTFOUND)
            log_error("supply", "%s: cannot read the log after transaction %" PRIu64 ": %s",
                      ledger_name(c->ledger), c->sent, err_text(rv));
        cursor_leaves(c, w, CURSOR_LOST, MSG_TRIMMED, 0);
    }
    return full;
}

static void put_news(struct cursor *c, struct position last, struct msg_writer *w)
{
    struct msg_item item = {.kind = MSG_NEWS, .position = last};

    memcpy(item.name, ledger_name(c->ledger), strlen(ledger_name(c->ledger)) + 1);
    cursor_move(c);
    c->state = CURSOR_TOLD;
    msg_put_item(w, &item);
}

/* Fills an answer round by round, a quantum of each database that lags. Says whether the replica
 * lacks nothing after it. */
static bool fill(struct supply *s, struct session *x, struct msg_writer *w)
{
    bool progress = true, full = false, level = true;

    while (progress && !full && w->err == 0) {
        progress = false;
        level = true;
        for (uint32_t n = 0; n < x->count && !full && w->err == 0; n++) {
            struct cursor *c = x->cursors[(x->turn + n) % x->count];
            struct position durable = ledger_durable(c->ledger);
            uint64_t sent = c->sent;
            enum cursor_state state = c->state;

            if (c->state == CURSOR_NEW && durable.txid != 0)
                put_news(c, durable, w);
            else if (c->state == CURSOR_ON && c->sent < durable.txid)
                full = put_records(s, c, durable.txid, w);
            if (full)
                x->turn = (x->turn + n) % x->count;
            progress = progress || c->sent != sent || c->state != state;
            level =
                level && (durable.txid == 0 || (c->state == CURSOR_ON && c->sent >= durable.txid));
        }
    }
    return level && !full;
}

/* Answers the parked PULL if there is something to say. False if the replica will lack more then. */
static bool serve(struct supply *s, struct session *x)
{
    struct msg_stamp stamp = self_stamp(s->self);
    struct transport_request *r = x->parked;
    struct msg_writer w;
    size_t empty;
    bool level;

    if (session_grow(&s->sessions, x) != 0)
        return true;
    w = msg_begin(&s->out, MSG_RECORDS, &stamp);
    msg_put_u32(&w, x->seq + 1);
    msg_put_u8(&w, 0);
    empty = s->out.len;
    level = fill(s, x, &w);
    if (w.err != 0) {
        session_roll_back(x);
        x->parked = NULL;
        self_refuse(s->self, r, w.err, "cannot make an answer: %s", err_text(w.err));
        return true;
    }
    if (s->out.len == empty && level == x->level_told && x->seq != 0 &&
        mono_since_ms(x->parked_at) < s->heartbeat_ms)
        return true;
    s->out.data[empty - 1] = level;
    x->level_told = level;
    x->seq++;
    x->parked = NULL;
    transport_reply(r, s->out.data, s->out.len);
    return level;
}

/* Requests. */

static void refuse_session(struct supply *s, struct transport_request *r)
{
    self_refuse(s->self, r, -ERR_CLOSED, "the session is not known here; begin with HELLO");
}

static void on_hello(struct supply *s, struct transport_request *r, const struct msg_header *h,
                     struct msg_reader *in)
{
    struct msg_welcome m = {.heartbeat_ms = (uint32_t)s->heartbeat_ms, .ack_ms = 10};
    struct msg_stamp stamp = self_stamp(s->self);
    char url[MSG_URL_MAX];
    struct session *x;
    struct msg_writer w;
    int rv;

    if (!self_leads(s->self)) {
        self_refuse(s->self, r, -ERR_NOTPRIMARY, "this node is not the primary");
        return;
    }
    msg_get_text(in, url, sizeof url);
    msg_get_bool(in);
    if (msg_end(in) != 0) {
        transport_drop(r, true);
        return;
    }
    members_saw(s->members, url, h->stamp.node_id, false);
    self_remember(s->self, url);
    rv = session_open(&s->sessions, h->stamp.node_id, url, &x);
    if (rv != 0) {
        self_refuse(s->self, r, rv, "cannot begin a session: %s", err_text(rv));
        return;
    }
    log_info("supply", "the replica %s follows this node (node %016" PRIx64 ")",
             url[0] != '\0' ? url : "without an address", h->stamp.node_id);
    m.session = x->id;
    memcpy(m.url, s->self->advertise, sizeof m.url);
    w = msg_begin(&s->out, MSG_WELCOME, &stamp);
    msg_put_welcome(&w, &m);
    supply_put_members(s, &w);
    if (w.err == 0)
        transport_reply(r, s->out.data, s->out.len);
    else
        transport_drop(r, false);
}

static int take_acks(struct supply *s, struct session *x, struct msg_reader *in)
{
    char name[STORE_NAME_MAX];
    struct position p;
    int rv;

    while ((rv = msg_next_standing(in, name, &p)) > 0) {
        struct ledger *l = store_find(s->store, name);
        struct cursor *c = l == NULL ? NULL : session_cursor(x, l);
        if (c != NULL)
            session_ack(&s->sessions, c, p);
    }
    return rv;
}

static void on_pull(struct supply *s, struct transport_request *r, struct session *x,
                    struct msg_reader *in)
{
    uint32_t seq = msg_get_u32(in);

    if (take_acks(s, x, in) != 0) {
        transport_drop(r, true);
        return;
    }
    if (x->parked != NULL)
        transport_drop(x->parked, false); /* its asker has given up on it */
    x->parked = NULL;
    if (seq == x->seq) {
        session_confirm(x);
    } else if (seq + 1 == x->seq) {
        session_roll_back(x); /* the last answer was lost */
        x->seq = seq;
    } else {
        refuse_session(s, r);
        return;
    }
    x->parked = r;
    x->parked_at = mono_now();
}

static void on_subscribe(struct supply *s, struct transport_request *r, struct session *x,
                         struct msg_reader *in)
{
    struct msg_subscription m;
    int rv;

    session_grow(&s->sessions, x);
    while ((rv = msg_next_subscription(in, &m)) > 0) {
        struct ledger *l = store_find(s->store, m.name);
        struct cursor *c = l == NULL ? NULL : session_cursor(x, l);
        if (c != NULL)
            session_subscribe(&s->sessions, c, &m);
    }
    if (rv != 0)
        transport_drop(r, true);
    else
        self_answer_ok(s->self, r);
}

static void on_who(struct supply *s, struct transport_request *r, const struct msg_header *h,
                   struct msg_reader *in)
{
    struct msg_state state = {.role = ROLE_REPLICA, .candidate = s->self->candidate};
    struct msg_stamp stamp;
    struct identity id;
    char url[MSG_URL_MAX];
    struct msg_writer w;

    msg_get_text(in, url, sizeof url);
    if (msg_end(in) != 0 || (h->type == MSG_ANNOUNCE && h->stamp.cluster_id == 0)) {
        transport_drop(r, true);
        return;
    }
    if (h->stamp.cluster_id != 0 && h->stamp.node_id != self_stamp(s->self).node_id) {
        members_saw(s->members, url, h->stamp.node_id, h->type == MSG_ANNOUNCE);
        self_remember(s->self, url);
    }
    if (h->type == MSG_ANNOUNCE)
        self_hear(s->self, h->stamp.epoch, url, true, h->stamp.node_id);
    self_identity(s->self, &id);
    stamp = (struct msg_stamp){id.cluster_id, id.node_id, id.epoch};
    if (self_leads(s->self))
        state.role = ROLE_PRIMARY;
    else if (role_get(s->self->role) == ROLE_STARTING)
        state.role = ROLE_STARTING;
    memcpy(state.url, s->self->advertise, sizeof state.url);
    memcpy(state.primary, id.primary, sizeof state.primary);
    w = msg_begin(&s->out, MSG_STATE, &stamp);
    msg_put_state(&w, &state);
    supply_put_members(s, &w);
    if (w.err == 0)
        transport_reply(r, s->out.data, s->out.len);
    else
        transport_drop(r, false);
}

static void in_session(struct supply *s, struct transport_request *r, const struct msg_header *h,
                       struct msg_reader *in)
{
    struct session *x = session_find(&s->sessions, msg_get_u64(in));

    if (x == NULL || x->node_id != h->stamp.node_id) {
        refuse_session(s, r);
        return;
    }
    session_touch(&s->sessions, x);
    switch (h->type) {
    case MSG_PULL: on_pull(s, r, x, in); break;
    case MSG_SUBSCRIBE: on_subscribe(s, r, x, in); break;
    default:
        if (take_acks(s, x, in) != 0)
            transport_drop(r, true);
        else
            self_answer_ok(s->self, r);
    }
}

static void handle(struct supply *s, struct transport_request *r)
{
    struct msg_header h;
    struct msg_reader in;

    if (msg_open(r->data, r->len, &h, &in) != 0)
        transport_drop(r, true);
    else if (h.type == MSG_WHO || h.type == MSG_ANNOUNCE)
        on_who(s, r, &h, &in);
    else if (h.type == MSG_HELLO)
        on_hello(s, r, &h, &in);
    else if (!self_leads(s->self))
        self_refuse(s->self, r, -ERR_NOTPRIMARY, "this node is not the primary");
    else
        in_session(s, r, &h, &in);
}

/* The thread. */

/* A node that is no longer primary lets its replicas go at once: they look for the new one. */
static void look_at_role(struct supply *s)
{
    bool serving = self_leads(s->self);

    if (s->serving && !serving) {
        for (struct session *x = s->sessions.first; x != NULL; x = x->next) {
            struct transport_request *r = x->parked;
            x->parked = NULL;
            if (r != NULL)
                self_refuse(s->self, r, -ERR_NOTPRIMARY, "this node is not the primary any more");
        }
        sessions_clear(&s->sessions);
    }
    s->serving = serving;
}

static int64_t time_left(struct supply *s)
{
    int64_t left = EXPIRE_MS;

    for (struct session *x = s->sessions.first; x != NULL; x = x->next) {
        int64_t ms = x->parked == NULL ? left : s->heartbeat_ms - mono_since_ms(x->parked_at);
        if (ms < left)
            left = ms;
    }
    return left < 1 ? 1 : left;
}

static void run(void *arg)
{
    struct supply *s = arg;
    struct feed *feed = &store_feeds(s->store)->durable;

    while (!s->quit) {
        uint64_t seen = feed_count(feed);
        struct mono began = mono_now();
        struct transport_request *r;
        bool level = true;

        look_at_role(s);
        while ((r = inbox_pop(&s->inbox)) != NULL)
            handle(s, r);
        for (struct session *x = s->sessions.first; x != NULL; x = x->next)
            if (x->parked != NULL)
                level = serve(s, x) && level;
        if (mono_since_ms(s->expired) > EXPIRE_MS) {
            sessions_expire(&s->sessions);
            s->expired = mono_now();
        }
        if (s->quit)
            break;
        feed_wait(feed, seen, time_left(s));
        if (level)
            feed_rest(feed, REST_US - mono_since_us(began));
    }
}

void supply_init(struct supply *s, struct self *self, struct store *store, struct members *members,
                 int64_t heartbeat_ms)
{
    *s = (struct supply){
        .self = self, .store = store, .members = members, .heartbeat_ms = heartbeat_ms};
    inbox_init(&s->inbox, &store_feeds(store)->durable);
    sessions_init(&s->sessions, store);
    s->expired = mono_now();
}

int supply_start(struct supply *s)
{
    return thread_start(&s->thread, "supply", run, s);
}

void supply_quit(struct supply *s)
{
    s->quit = true;
    inbox_close(&s->inbox);
    feed_wake(&store_feeds(s->store)->durable);
}

void supply_join(struct supply *s)
{
    thread_join(&s->thread);
    sessions_clear(&s->sessions);
}

void supply_fini(struct supply *s)
{
    sessions_fini(&s->sessions);
    inbox_fini(&s->inbox);
    buf_fini(&s->out);
}

void supply_put_members(struct supply *s, struct msg_writer *w)
{
    struct identity id;

    self_identity(s->self, &id);
    for (size_t i = 0; i < id.member_count; i++)
        msg_put_text(w, id.members[i]);
}
