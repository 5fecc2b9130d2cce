/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster/node.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/parts.h"
#include "ltx/base/err.h"
#include "ltx/base/logger.h"

#define DEFAULT_HEARTBEAT_MS 1000
#define TICK_MS 1000
#define SAY_MS 30000
#define REFUSED_MS 5000
#define DOUBT_MS 3000

/* Requests, on nng's threads. */

static void route_bad(struct transport_request *r, const char *what)
{
    char peer[64];

    transport_request_peer(r, peer, sizeof peer);
    log_warn("cluster", "%zu bytes from %s are %s: the connection is dropped", r->len, peer, what);
    transport_drop(r, true);
}

static void route(void *ctx, struct transport_request *r)
{
    struct node *n = ctx;
    struct msg_header h = {0};
    struct msg_reader in;
    int rv = self_read(&n->self, r->data, r->len, &h, &in);

    if (r->len > TRANSPORT_REQUEST_MAX) {
        route_bad(r, "too long for a request");
        return;
    }
    if (rv == -ERR_VERSION) {
        self_refuse(&n->self, r, rv, "this node speaks protocol version %d, not %u", MSG_VERSION,
                    h.version);
        return;
    }
    if (rv == -ERR_CLUSTER) {
        log_warn("cluster", "a node of cluster %016" PRIx64 " asked (%s): refused",
                 h.stamp.cluster_id, msg_type_name(h.type));
        self_refuse(&n->self, r, rv, "this node belongs to another cluster");
        return;
    }
    if (rv != 0) {
        route_bad(r, "not a message of tandemfs");
        return;
    }
    switch (h.type) {
    case MSG_WHO:
    case MSG_ANNOUNCE:
    case MSG_HELLO:
    case MSG_SUBSCRIBE:
    case MSG_PULL:
    case MSG_ACK: inbox_push(&n->supply.inbox, r); break;
    case MSG_COMPARE:
    case MSG_BEGIN:
    case MSG_BLOCKS:
    case MSG_WANT:
    case MSG_FETCH:
    case MSG_END:
    case MSG_COMMON: inbox_push(&n->pages.inbox, r); break;
    case MSG_PREPARE:
    case MSG_COMMIT:
    case MSG_ABORT: inbox_push(&n->inbox, r); break;
    default: route_bad(r, "no request that this version knows"); break;
    }
}

/* The node's thread. */

static void die(struct node *n, const char *why)
{
    n->dead = true;
    log_error("cluster", "%s", why);
    if (n->options.hooks.fatal != NULL)
        n->options.hooks.fatal(n->options.hooks.ctx, why);
}

/* The first role. */
static void begin(struct node *n)
{
    struct lease_decision d;
    struct lease_view view = {.configured = n->options.primary, .advertise = n->self.advertise};
    char heard_primary[NODE_URL_MAX];
    struct identity id;

    self_identity(&n->self, &id);
    n->news_seen = self_heard(&n->self, &view.heard_epoch, heard_primary, &view.heard_first_hand);
    view.own = &id;
    view.heard_primary = heard_primary;
    if (n->lease->asks(&view) && members_count(&n->members) > 0 && herald_rounds(&n->herald) == 0)
        return; /* the herald wakes us when all have answered or their time is over */
    /* A replica must not lead because the peers it was given will not have it. */
    char why[512];
    int refused = herald_refusal(&n->herald, why, sizeof why);
    if (refused == -ERR_CLUSTER || (refused != 0 && !n->options.primary)) {
        die(n, why);
        return;
    }
    n->lease->begin(&view, &d);
    n->begun = true;
    if (d.why[0] != '\0' && d.verdict != LEASE_REFUSE)
        log_warn("cluster", "%s", d.why);
    if (d.verdict == LEASE_REFUSE) {
        die(n, d.why);
    } else if (d.verdict == LEASE_FOLLOW) {
        mutex_lock(&n->mutex);
        if (n->options.primary)
            snprintf(n->superseded_by, sizeof n->superseded_by, "%s", d.primary);
        mutex_unlock(&n->mutex);
        node_become_replica(n, d.epoch, d.primary, false);
    } else {
        node_become_primary(n, d.epoch);
    }
}

/* Something was heard of who leads. */
static void look_at_news(struct node *n)
{
    char primary[NODE_URL_MAX];
    struct identity id;
    uint64_t epoch, count;
    bool first_hand, is_own;

    count = self_heard(&n->self, &epoch, primary, &first_hand);
    if (count == n->news_seen)
        return;
    n->news_seen = count;
    self_identity(&n->self, &id);
    is_own = primary[0] != '\0' && strcmp(primary, n->self.advertise) == 0;
    if (epoch < id.epoch || (id.role == ROLE_PRIMARY && !self_superseded(&n->self)))
        return;
    if (is_own && id.pledge != 0 && id.pledge == epoch) {
        log_info("cluster", "the old primary had agreed to hand over: this node takes over now");
        node_become_primary(n, epoch);
        return;
    }
    if (id.role == ROLE_PRIMARY)
        log_warn("cluster",
                 "another node leads in epoch %" PRIu64 ": this node, primary of epoch %" PRIu64
                 ", has stopped writing and becomes a replica",
                 epoch, id.epoch);
    if (is_own || (primary[0] == '\0' && epoch == id.epoch))
        return;
    node_become_replica(n, epoch, primary, false);
}

static void look_at_commands(struct node *n)
{
    uint64_t epoch;
    int rv;

    mutex_lock(&n->mutex);
    epoch = n->lead_epoch;
    mutex_unlock(&n->mutex);
    if (epoch == 0)
        return;
    if (role_get(n->self.role) == ROLE_PRIMARY && epoch == self_epoch(&n->self))
        rv = 0; /* look_at_news was faster */
    else
        rv = epoch >= self_epoch(&n->self) ? node_become_primary(n, epoch) : -ERR_FENCED;
    mutex_lock(&n->mutex);
    n->lead_epoch = 0;
    n->lead_done = true;
    n->lead_result = rv;
    cond_broadcast(&n->cond);
    mutex_unlock(&n->mutex);
}

static void settle(void *ctx, struct identity *id)
{
    (void)ctx;
    id->unsettled = false;
}

/* The replica's side: is the primary there, does the herald have to look for it, may it have us? */
static void look_at_follower(struct node *n)
{
    struct follower_view view = {0};
    char target[NODE_URL_MAX], why[512];
    struct identity id;
    bool have = node_follower_view(n, target, &view);

    if (!n->begun || role_get(n->self.role) != ROLE_REPLICA)
        return;
    herald_seek(&n->herald, !have || !view.connected);
    if (view.connected) {
        n->was_connected = true;
        n->disconnected = mono_now();
        self_identity(&n->self, &id);
        if (id.unsettled && view.settled)
            self_change(&n->self, settle, NULL);
        return;
    }
    if (mono_since_ms(n->disconnected) > DOUBT_MS)
        self_doubt(&n->self);
    if (!n->was_connected && !view.ever_connected && herald_refusal(&n->herald, why, sizeof why)) {
        die(n, why);
        return;
    }
    if (!have && mono_since_ms(n->waiting_said) > SAY_MS) {
        n->waiting_said = mono_now();
        if (members_count(&n->members) == 0)
            log_warn("cluster", "no peer is configured: waiting for a primary to announce itself");
        else
            log_info("cluster", "waiting for a peer to say who is primary");
    }
}

static void look_at_refused(struct node *n)
{
    uint64_t refused;

    if (n->transport == NULL || mono_since_ms(n->refused_looked) < REFUSED_MS)
        return;
    n->refused_looked = mono_now();
    refused = transport_refused(n->transport);
    if (refused > 0)
        log_warn("cluster",
                 "%" PRIu64
                 " connections to %s began with bytes that are not ours and were dropped",
                 refused, transport_url(n->transport));
}

static void run(void *arg)
{
    struct node *n = arg;

    while (!n->quit) {
        uint64_t seen = feed_count(&n->self.wake);
        struct transport_request *r;

        if (!n->begun && !n->dead)
            begin(n);
        if (n->begun) {
            while ((r = inbox_pop(&n->inbox)) != NULL)
                handover_request(n, r);
            look_at_news(n);
            look_at_commands(n);
            handover_tick(n);
            if (role_get(n->self.role) == ROLE_PRIMARY && n->lease->held_ms(n->lease->ctx) <= 0)
                node_become_replica(n, self_epoch(&n->self), "", false);
            if (!n->dead)
                look_at_follower(n);
        }
        look_at_refused(n);
        if (!n->quit)
            feed_wait(&n->self.wake, seen, TICK_MS);
    }
}

int node_lead(struct node *n, uint64_t epoch)
{
    int rv;

    mutex_lock(&n->mutex);
    n->lead_epoch = epoch;
    n->lead_done = false;
    mutex_unlock(&n->mutex);
    feed_wake(&n->self.wake);
    mutex_lock(&n->mutex);
    while (!n->lead_done && !n->quit)
        cond_wait_ms(&n->cond, &n->mutex, TICK_MS);
    rv = n->lead_done ? n->lead_result : -ERR_CLOSED;
    mutex_unlock(&n->mutex);
    return rv;
}

bool node_follower_view(struct node *n, char target[NODE_URL_MAX], struct follower_view *view)
{
    bool have;

    mutex_lock(&n->mutex);
    have = n->follower != NULL;
    memcpy(target, n->target, NODE_URL_MAX);
    if (have)
        follower_view(n->follower, view);
    mutex_unlock(&n->mutex);
    return have;
}

/* Life. */

static int copy_options(struct node *n, const struct node_options *o, char *why, size_t why_size)
{
    char clause[128];

    n->options = *o;
    if (n->options.heartbeat_ms <= 0)
        n->options.heartbeat_ms = DEFAULT_HEARTBEAT_MS;
    n->peers = calloc(o->peer_count + 1, sizeof *n->peers);
    if (n->peers == NULL)
        return -ERR_NOMEM;
    for (size_t i = 0; i < o->peer_count; i++) {
        if (!transport_url_valid(o->peers[i], clause, sizeof clause)) {
            snprintf(why, why_size, "the peer \"%s\" is no address: %s", o->peers[i], clause);
            return -ERR_INVALID;
        }
        n->peers[i] = strdup(o->peers[i]);
        if (n->peers[i] == NULL)
            return -ERR_NOMEM;
    }
    n->options.peers = (const char **)n->peers;
    if (o->advertise != NULL && !transport_url_valid(o->advertise, clause, sizeof clause)) {
        snprintf(why, why_size, "the address to advertise, \"%s\", is none: %s", o->advertise,
                 clause);
        return -ERR_INVALID;
    }
    return 0;
}

static const char *choose_advertise(struct node *n, const struct node_options *o)
{
    const char *url = o->advertise;

    if (url == NULL)
        url = n->transport == NULL ? "" : transport_url(n->transport);
    if (strstr(url, "//0.0.0.0:") != NULL || strstr(url, "//*:") != NULL)
        log_warn("cluster", "%s is no address that others can reach: set advertise", url);
    return url;
}

int node_open(struct node **out, const struct node_options *options, char *why, size_t why_size)
{
    struct node *n = calloc(1, sizeof *n);
    int rv;

    if (n == NULL)
        return -ERR_NOMEM;
    n->lease = &lease_static;
    rv = copy_options(n, options, why, why_size);
    if (rv == 0 && options->listen != NULL)
        rv = transport_listen(&n->transport, options->listen, route, n, why, why_size);
    if (rv != 0)
        goto err;
    rv = self_open(&n->self, options->data_dirfd, options->role, choose_advertise(n, options),
                   options->candidate, why, why_size);
    if (rv != 0)
        goto err;
    mutex_init(&n->mutex, RANK_NODE_OUTER);
    cond_init(&n->cond);
    members_init(&n->members);
    inbox_init(&n->inbox, &n->self.wake);
    supply_init(&n->supply, &n->self, options->store, &n->members, n->options.heartbeat_ms);
    supply_pages_init(&n->pages, &n->self, options->store);
    herald_init(&n->herald, &n->self, &n->members, &n->supply.sessions, n->options.heartbeat_ms);
    for (size_t i = 0; i < options->peer_count; i++)
        if (strcmp(options->peers[i], n->self.advertise) != 0)
            members_add(&n->members, options->peers[i]);
    for (size_t i = 0; i < n->self.identity.member_count; i++)
        if (strcmp(n->self.identity.members[i], n->self.advertise) != 0)
            members_add(&n->members, n->self.identity.members[i]);
    *out = n;
    return 0;

err:
    transport_close(n->transport);
    for (size_t i = 0; n->peers != NULL && n->peers[i] != NULL; i++)
        free(n->peers[i]);
    free(n->peers);
    free(n);
    if (rv == -ERR_NOMEM)
        snprintf(why, why_size, "out of memory");
    return rv;
}

int node_start(struct node *n, char *why, size_t why_size)
{
    int rv = supply_start(&n->supply);

    n->refused_looked = mono_now();
    if (rv == 0)
        rv = supply_pages_start(&n->pages);
    if (rv == 0)
        rv = herald_start(&n->herald);
    if (rv == 0)
        rv = thread_start(&n->thread, "node", run, n);
    if (rv == 0 && n->transport != NULL)
        rv = transport_start(n->transport);
    if (rv != 0)
        snprintf(why, why_size, "cannot start the cluster's threads: %s", err_text(rv));
    return rv;
}

/* A primary counts once commits may enter: who waits for it wants to write. */
static bool has_role(struct node *n)
{
    if (role_get(n->self.role) != ROLE_PRIMARY)
        return role_get(n->self.role) == ROLE_REPLICA;
    if (role_enter(n->self.role) != 0)
        return false;
    role_leave(n->self.role);
    return true;
}

int node_wait_role(struct node *n, int64_t timeout_ms)
{
    struct mono begun = mono_now();

    for (;;) {
        uint64_t seen = feed_count(&n->self.role->changed);
        int64_t left = timeout_ms - mono_since_ms(begun);
        if (has_role(n))
            return 0;
        if (left <= 0)
            return -ERR_TIMEOUT;
        feed_wait(&n->self.role->changed, seen, left);
    }
}

void node_quit(struct node *n)
{
    struct follower *f;

    n->quit = true;
    if (role_get(n->self.role) == ROLE_PRIMARY)
        role_close(n->self.role, -ERR_CLOSED, 0);
    mutex_lock(&n->mutex);
    f = n->follower;
    if (f != NULL)
        follower_quit(f); /* under the mutex, so that the node's thread does not end it meanwhile */
    cond_broadcast(&n->cond);
    mutex_unlock(&n->mutex);
    if (n->transport != NULL)
        transport_quit(n->transport);
    inbox_close(&n->inbox);
    supply_quit(&n->supply);
    supply_pages_quit(&n->pages);
    herald_quit(&n->herald);
    feed_wake(&n->self.wake);
}

void node_join(struct node *n)
{
    thread_join(&n->thread);
    node_stop_following(n);
    supply_join(&n->supply);
    supply_pages_join(&n->pages);
    herald_join(&n->herald);
}

void node_close(struct node *n)
{
    if (n == NULL)
        return;
    herald_fini(&n->herald);
    supply_pages_fini(&n->pages);
    supply_fini(&n->supply);
    inbox_fini(&n->inbox);
    transport_close(n->transport);
    members_fini(&n->members);
    cond_fini(&n->cond);
    mutex_fini(&n->mutex);
    self_close(&n->self);
    for (size_t i = 0; n->peers[i] != NULL; i++)
        free(n->peers[i]);
    free(n->peers);
    free(n);
}
