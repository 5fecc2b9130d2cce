/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "cluster/parts.h"
#include "ltx/base/err.h"

static void describe_wait(struct node *n, const struct follower_view *view, const char *target,
                          struct node_status *out)
{
    char superseded_by[NODE_URL_MAX];

    mutex_lock(&n->mutex);
    memcpy(superseded_by, n->superseded_by, sizeof superseded_by);
    mutex_unlock(&n->mutex);
    if (out->role == ROLE_STARTING)
        snprintf(out->waiting_for, sizeof out->waiting_for, "peers to say who is primary");
    else if (out->role == ROLE_REPLICA && target[0] == '\0')
        snprintf(out->waiting_for, sizeof out->waiting_for, "a peer to say who is primary");
    else if (out->role == ROLE_REPLICA && !view->connected)
        snprintf(out->waiting_for, sizeof out->waiting_for, "the primary at %.90s to answer%s",
                 target,
                 superseded_by[0] != '\0' ? "; if it is gone for good, promote --force" : "");
}

static void describe_members(struct node *n, struct node_status *out)
{
    struct member list[NODE_MEMBERS_MAX];
    size_t count = members_copy(&n->members, list);
    int64_t fresh_ms = 3 * n->options.heartbeat_ms;

    for (size_t i = 0; i < count && out->member_count < NODE_MEMBERS_MAX; i++) {
        struct node_member *m = &out->members[out->member_count];
        if (list[i].node_id == out->node_id ||
            (list[i].url[0] != '\0' && strcmp(list[i].url, n->self.advertise) == 0))
            continue;
        *m = (struct node_member){.node_id = list[i].node_id, .seen_ms = -1};
        memcpy(m->url, list[i].url, sizeof m->url);
        m->primary = out->role != ROLE_PRIMARY && list[i].primary;
        if (list[i].heard)
            m->seen_ms = mono_since_ms(list[i].seen);
        m->connected = m->seen_ms >= 0 && m->seen_ms <= fresh_ms;
        if (out->role == ROLE_PRIMARY)
            sessions_describe(&n->supply.sessions, m->node_id, fresh_ms, m);
        out->member_count++;
    }
}

void node_status(struct node *n, struct node_status *out)
{
    struct follower_view view = {0};
    char target[NODE_URL_MAX] = "";
    struct identity id;

    memset(out, 0, sizeof *out);
    self_identity(&n->self, &id);
    out->node_id = id.node_id;
    out->cluster_id = id.cluster_id;
    out->epoch = id.epoch;
    out->role = role_get(n->self.role);
    out->candidate = n->options.candidate;
    role_primary(n->self.role, out->primary);
    memcpy(out->advertise, n->self.advertise, sizeof out->advertise);
    if (n->transport != NULL)
        snprintf(out->listen, sizeof out->listen, "%s", transport_url(n->transport));
    out->lag_ms = role_lag_ms(n->self.role);
    node_follower_view(n, target, &view);
    describe_wait(n, &view, target, out);
    describe_members(n, out);
    memcpy(out->bringing_up, view.bringing_up, sizeof out->bringing_up);
    out->pages_done = view.pages_done;
    out->pages_total = view.pages_total;
    out->bytes_received = view.bytes_received;
    out->bytes_sent = n->transport == NULL ? 0 : transport_bytes_sent(n->transport);
}

int node_member_position(struct node *n, const char *url, const char *database, struct position *p)
{
    return sessions_position(&n->supply.sessions, url, database, p);
}
