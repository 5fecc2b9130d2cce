/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The primary's side of a planned change of primary. PREPARE closes the gate, drains it, makes all
 * durable and tells the positions; the asker waits until it has them all. COMMIT writes the new
 * epoch and primary, then answers: from then on this node is not primary even if it crashes. A
 * COMMIT whose answer was lost is answered again. Without COMMIT the gate opens again by itself.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cluster/parts.h"
#include "ltx/base/err.h"
#include "ltx/base/logger.h"

#define DRAIN_MS 5000

static void give_up(struct node *n, const char *why)
{
    log_warn("cluster", "the handover to %s is given up: %s; this node stays primary",
             n->handover.url[0] != '\0' ? n->handover.url : "another node", why);
    n->handover.token = 0;
    if (role_get(n->self.role) == ROLE_PRIMARY)
        self_open_gate(&n->self);
}

void handover_tick(struct node *n)
{
    if (n->handover.token != 0 && mono_since_ms(n->handover.touched) > HANDOVER_MS)
        give_up(n, "the node that asked for it went silent");
}

/* Closes the gate and makes everything durable. */
static int stop_writers(struct node *n)
{
    uint32_t count = store_count(n->options.store);
    int rv = role_close(n->self.role, -ERR_NOTPRIMARY, DRAIN_MS);

    for (uint32_t i = 0; rv == 0 && i < count; i++) {
        struct ledger *l = store_at(n->options.store, i);
        rv = ledger_sync(l, ledger_last(l).txid);
    }
    if (rv != 0 && role_get(n->self.role) == ROLE_PRIMARY)
        self_open_gate(&n->self);
    return rv;
}

static void answer_positions(struct node *n, struct transport_request *r, uint32_t from)
{
    uint32_t count = store_count(n->options.store);
    struct msg_stamp stamp = self_stamp(&n->self);
    struct buf b = {0};
    struct msg_writer w = msg_begin(&b, MSG_PREPARED, &stamp);

    msg_put_u64(&w, n->handover.token);
    msg_put_u32(&w, count);
    for (uint32_t i = from; i < count && b.len < MSG_LIST; i++) {
        struct ledger *l = store_at(n->options.store, i);
        msg_put_standing(&w, ledger_name(l), ledger_last(l));
    }
    if (w.err == 0)
        transport_reply(r, b.data, b.len);
    else
        self_refuse(&n->self, r, w.err, "cannot make an answer: %s", err_text(w.err));
    buf_fini(&b);
}

static void on_prepare(struct node *n, struct transport_request *r, const struct msg_header *h,
                       struct msg_reader *in)
{
    uint64_t token = msg_get_u64(in);
    uint32_t from = msg_get_u32(in);
    char url[MSG_URL_MAX];
    int rv;

    msg_get_text(in, url, sizeof url);
    if (msg_end(in) != 0) {
        transport_drop(r, true);
        return;
    }
    if (role_get(n->self.role) != ROLE_PRIMARY || self_superseded(&n->self)) {
        self_refuse(&n->self, r, -ERR_NOTPRIMARY, "this node is not the primary");
        return;
    }
    if (!sessions_describe(&n->supply.sessions, h->stamp.node_id, 0, &(struct node_member){0})) {
        self_refuse(&n->self, r, -ERR_ACCESS, "this node hands over to a replica of its own only");
        return;
    }
    if (token == 0 && n->handover.token != 0 && n->handover.node_id == h->stamp.node_id)
        n->handover.token = 0; /* it begins again: the answer was lost */
    if (token != n->handover.token) {
        self_refuse(&n->self, r, token == 0 ? -ERR_BUSY : -ERR_CLOSED,
                    token == 0 ? "a handover to another node is under way"
                               : "this handover was given up");
        return;
    }
    if (token == 0) {
        log_info("cluster", "hands over to %s: writers are stopped", url);
        rv = stop_writers(n);
        if (rv != 0) {
            self_refuse(&n->self, r, rv, "the primary cannot stop its writers: %s", err_text(rv));
            return;
        }
        while (n->handover.token == 0)
            n->handover.token = random_u64();
        n->handover.node_id = h->stamp.node_id;
        snprintf(n->handover.url, sizeof n->handover.url, "%s", url);
    }
    n->handover.touched = mono_now();
    answer_positions(n, r, from);
}

struct commit {
    uint64_t epoch;
    const char *primary;
};

static void set_commit(void *ctx, struct identity *id)
{
    const struct commit *c = ctx;

    id->epoch = c->epoch;
    id->role = ROLE_REPLICA;
    id->unsettled = false;
    snprintf(id->primary, sizeof id->primary, "%s", c->primary);
}

static void on_commit(struct node *n, struct transport_request *r, struct msg_reader *in)
{
    uint64_t token = msg_get_u64(in);
    char url[MSG_URL_MAX];
    struct commit c = {.epoch = msg_get_u64(in), .primary = url};
    struct identity id;
    int rv;

    msg_get_text(in, url, sizeof url);
    if (msg_end(in) != 0) {
        transport_drop(r, true);
        return;
    }
    self_identity(&n->self, &id);
    if (id.role == ROLE_REPLICA && id.epoch == c.epoch && strcmp(id.primary, url) == 0) {
        self_answer_ok(&n->self, r); /* said twice: the first answer was lost */
        return;
    }
    if (role_get(n->self.role) != ROLE_PRIMARY || c.epoch <= id.epoch ||
        self_superseded(&n->self)) {
        self_refuse(&n->self, r, -ERR_NOTPRIMARY, "this node is not the primary");
        return;
    }
    if (token == 0 || token != n->handover.token) {
        self_refuse(&n->self, r, -ERR_CLOSED, "this handover was given up");
        return;
    }
    rv = self_change(&n->self, set_commit, &c);
    if (rv != 0) {
        self_refuse(&n->self, r, rv, "the primary cannot write its role: %s", err_text(rv));
        give_up(n, "this node's role could not be written");
        return;
    }
    n->handover.token = 0;
    self_answer_ok(&n->self, r);
    log_info("cluster", "handed over to %s, epoch %" PRIu64, url, c.epoch);
    node_become_replica(n, c.epoch, url, true);
}

static void on_abort(struct node *n, struct transport_request *r, struct msg_reader *in)
{
    uint64_t token = msg_get_u64(in);

    if (msg_end(in) != 0) {
        transport_drop(r, true);
        return;
    }
    self_answer_ok(&n->self, r);
    if (token != 0 && token == n->handover.token)
        give_up(n, "the node that asked for it could not go through with it");
}

void handover_request(struct node *n, struct transport_request *r)
{
    struct msg_header h;
    struct msg_reader in;

    if (msg_open(r->data, r->len, &h, &in) != 0) {
        transport_drop(r, true);
        return;
    }
    switch (h.type) {
    case MSG_PREPARE: on_prepare(n, r, &h, &in); break;
    case MSG_COMMIT: on_commit(n, r, &in); break;
    default: on_abort(n, r, &in); break;
    }
}
