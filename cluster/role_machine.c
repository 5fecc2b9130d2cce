/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one place where the role changes, on the node's thread.
 *
 *              lease says lead                    promote (handed over, or forced)
 *   STARTING ------------------> PRIMARY <------------------------------------------+
 *      |                            |                                               |
 *      | lease says follow          | COMMIT of a handover; a higher epoch heard    |
 *      v                            v                                               |
 *   REPLICA <-----------------------+                                               |
 *      |  ^                                                                         |
 *      +--+-------------------------------------------------------------------------+
 *      another primary heard: follows that
 *
 * Order, so that at no moment two nodes accept commits of one epoch (I5), and no commit is
 * acknowledged and lost (I1):
 *   to primary: stop following; epoch and role on disk; hook; role; gate open.
 *   to replica: gate closed; epoch and role on disk; commits drained; hook; role; follow.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cluster/parts.h"
#include "ltx/base/err.h"
#include "ltx/base/logger.h"

#define DRAIN_MS 2000

struct new_role {
    enum role role;
    uint64_t epoch;
    const char *primary;
    bool unsettled, keep_unsettled;
};

static void change_role(void *ctx, struct identity *id)
{
    const struct new_role *new = ctx;

    id->role = new->role;
    id->epoch = new->epoch;
    snprintf(id->primary, sizeof id->primary, "%s", new->primary);
    if (!new->keep_unsettled)
        id->unsettled = new->unsettled;
    if (id->pledge <= new->epoch)
        id->pledge = 0;
    while (new->role == ROLE_PRIMARY && id->cluster_id == 0)
        id->cluster_id = random_u64();
}

void node_stop_following(struct node *n)
{
    struct follower *f;

    mutex_lock(&n->mutex);
    f = n->follower;
    n->follower = NULL;
    n->target[0] = '\0';
    mutex_unlock(&n->mutex);
    if (f == NULL)
        return;
    follower_quit(f);
    follower_join(f);
    follower_close(f);
}

static void start_following(struct node *n, const char *primary)
{
    struct follower *f;
    int rv;

    if (strcmp(n->target, primary) == 0 && n->follower != NULL)
        return;
    node_stop_following(n);
    herald_seek(&n->herald, true);
    n->was_connected = false;
    n->disconnected = mono_now();
    if (primary[0] == '\0')
        return;
    rv = follower_open(&f, &n->self, n->options.store, &n->members, primary,
                       n->options.heartbeat_ms);
    if (rv == 0) {
        rv = follower_start(f);
        if (rv != 0) {
            follower_quit(f);
            follower_join(f);
            follower_close(f);
        }
    }
    if (rv != 0) {
        log_error("cluster", "cannot follow the primary %s: %s", primary, err_text(rv));
        return;
    }
    mutex_lock(&n->mutex);
    n->follower = f;
    snprintf(n->target, sizeof n->target, "%s", primary);
    mutex_unlock(&n->mutex);
}

int node_become_primary(struct node *n, uint64_t epoch)
{
    struct new_role new = {
        .role = ROLE_PRIMARY, .epoch = epoch, .primary = n->self.advertise, .unsettled = true};
    struct node_hooks *hooks = &n->options.hooks;
    int rv;

    node_stop_following(n);
    rv = self_change(&n->self, change_role, &new);
    if (rv == 0 && hooks->become_primary != NULL)
        rv = hooks->become_primary(hooks->ctx);
    if (rv != 0) {
        log_error("cluster", "this node cannot become primary of epoch %" PRIu64 ": %s", epoch,
                  err_text(rv));
        node_become_replica(n, epoch, "", false);
        return rv;
    }
    mutex_lock(&n->mutex);
    n->superseded_by[0] = '\0';
    mutex_unlock(&n->mutex);
    herald_seek(&n->herald, false);
    n->handover.token = 0;
    role_set(n->self.role, ROLE_PRIMARY, epoch, n->self.advertise);
    self_open_gate(&n->self);
    log_info("cluster", "this node is the primary of cluster %016" PRIx64 ", epoch %" PRIu64,
             self_stamp(&n->self).cluster_id, epoch);
    feed_wake(&store_feeds(n->options.store)->durable);
    herald_wake(&n->herald);
    return 0;
}

/* Nobody is inside any more when this returns: what was acknowledged is in the log. */
static void drain(struct node *n, int reason)
{
    while (role_close(n->self.role, reason, DRAIN_MS) != 0)
        log_warn("cluster", "waiting for commits that are under way before this node stops being "
                            "primary");
}

void node_become_replica(struct node *n, uint64_t epoch, const char *primary, bool settled)
{
    struct new_role new = {.role = ROLE_REPLICA, .epoch = epoch, .primary = primary};
    enum role was = role_get(n->self.role);
    struct node_hooks *hooks = &n->options.hooks;
    struct identity id;

    role_close(n->self.role, was == ROLE_PRIMARY && !settled ? -ERR_FENCED : -ERR_NOTPRIMARY, 0);
    self_identity(&n->self, &id);
    new.keep_unsettled = !settled;
    if (id.role != ROLE_REPLICA || id.epoch != epoch || strcmp(id.primary, primary) != 0)
        self_change(&n->self, change_role, &new); /* logged; in memory the gate stays closed */
    if (was == ROLE_PRIMARY)
        drain(n, settled ? -ERR_NOTPRIMARY : -ERR_FENCED);
    n->handover.token = 0;
    if (was != ROLE_REPLICA && hooks->become_replica != NULL) {
        int rv = hooks->become_replica(hooks->ctx);
        if (rv != 0)
            log_error("cluster", "becoming a replica: %s", err_text(rv));
    }
    role_set(n->self.role, ROLE_REPLICA, epoch, primary);
    role_close(n->self.role, -ERR_NOTPRIMARY, 0);
    if (was != ROLE_REPLICA)
        log_info("cluster", "this node is a replica, epoch %" PRIu64 ", of %s", epoch,
                 primary[0] != '\0' ? primary : "a primary that is not known yet");
    feed_wake(&store_feeds(n->options.store)->durable);
    start_following(n, primary);
}
