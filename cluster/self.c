/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster/self.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "ltx/base/err.h"
#include "ltx/base/logger.h"

int self_open(struct self *s, int dirfd, struct role_state *role, const char *advertise,
              bool candidate, char *why, size_t why_size)
{
    int rv;

    *s = (struct self){.dirfd = dirfd, .role = role, .candidate = candidate};
    rv = identity_load(&s->identity, dirfd, why, why_size);
    if (rv != 0)
        return rv;
    snprintf(s->advertise, sizeof s->advertise, "%s", advertise);
    mutex_init(&s->mutex, RANK_NODE);
    mutex_init(&s->changing, RANK_NODE - 1);
    feed_init(&s->wake);
    return 0;
}

void self_close(struct self *s)
{
    feed_fini(&s->wake);
    mutex_fini(&s->changing);
    mutex_fini(&s->mutex);
}

struct msg_stamp self_stamp(struct self *s)
{
    struct msg_stamp stamp;

    mutex_lock(&s->mutex);
    stamp.cluster_id = s->identity.cluster_id;
    stamp.node_id = s->identity.node_id;
    stamp.epoch = s->identity.epoch;
    mutex_unlock(&s->mutex);
    return stamp;
}

void self_identity(struct self *s, struct identity *out)
{
    mutex_lock(&s->mutex);
    *out = s->identity;
    mutex_unlock(&s->mutex);
}

uint64_t self_epoch(struct self *s)
{
    return self_stamp(s).epoch;
}

int self_change(struct self *s, self_changer *change, void *ctx)
{
    struct identity id;
    int rv;

    mutex_lock(&s->changing);
    self_identity(s, &id);
    change(ctx, &id);
    rv = identity_save(&id, s->dirfd);
    if (rv == 0) {
        mutex_lock(&s->mutex);
        s->identity = id;
        mutex_unlock(&s->mutex);
    }
    mutex_unlock(&s->changing);
    if (rv != 0)
        log_error("cluster",
                  "cannot write the file \"%s\" in the data folder: %s; this node's role and epoch "
                  "could not be kept",
                  IDENTITY_FILE, err_text(rv));
    return rv;
}

static void add_member(void *url, struct identity *id)
{
    identity_add_member(id, url);
}

void self_remember(struct self *s, const char *url)
{
    char clause[128], copy[NODE_URL_MAX];
    bool known = strcmp(url, s->advertise) == 0;

    if (url[0] == '\0' || known || !transport_url_valid(url, clause, sizeof clause))
        return;
    mutex_lock(&s->mutex);
    known = s->identity.member_count == NODE_MEMBERS_MAX;
    for (size_t i = 0; !known && i < s->identity.member_count; i++)
        known = strcmp(s->identity.members[i], url) == 0;
    mutex_unlock(&s->mutex);
    if (known)
        return;
    snprintf(copy, sizeof copy, "%s", url);
    self_change(s, add_member, copy);
}

static void set_cluster(void *cluster_id, struct identity *id)
{
    id->cluster_id = *(uint64_t *)cluster_id;
}

int self_join_cluster(struct self *s, uint64_t cluster_id)
{
    struct msg_stamp stamp = self_stamp(s);

    if (stamp.cluster_id == cluster_id)
        return 0;
    if (stamp.cluster_id != 0 || cluster_id == 0)
        return -ERR_CLUSTER;
    log_info("cluster", "this node joins cluster %016" PRIx64, cluster_id);
    return self_change(s, set_cluster, &cluster_id);
}

/* Under the mutex: whether the news is better than what was heard before. */
static bool better(const struct self *s, uint64_t epoch, const char *primary, bool first_hand,
                   uint64_t node_id)
{
    if (epoch != s->heard_epoch)
        return epoch > s->heard_epoch;
    if (primary[0] == '\0' || strcmp(primary, s->heard_primary) == 0)
        return first_hand && !s->heard_first_hand;
    if (first_hand && s->heard_first_hand && node_id == s->heard_node)
        return false; /* the same node by another of its addresses: one is enough */
    return first_hand || s->heard_primary[0] == '\0';
}

/* Under the mutex: whether a primary must stop for it. Of two primaries of one epoch, which only
 * forced promotions can make, the one with the lower id stops. */
static bool supersedes(const struct self *s, uint64_t epoch, bool first_hand, uint64_t node_id)
{
    if (epoch != s->identity.epoch)
        return epoch > s->identity.epoch;
    return first_hand && s->identity.role == ROLE_PRIMARY && node_id > s->identity.node_id;
}

void self_hear(struct self *s, uint64_t epoch, const char *primary, bool first_hand,
               uint64_t node_id)
{
    bool fence, news;

    mutex_lock(&s->mutex);
    if (epoch < s->identity.epoch) {
        mutex_unlock(&s->mutex);
        return;
    }
    fence = supersedes(s, epoch, first_hand, node_id);
    news = better(s, epoch, primary, first_hand, node_id);
    if (news) {
        if (epoch != s->heard_epoch)
            s->heard_primary[0] = '\0';
        s->heard_epoch = epoch;
        s->heard_first_hand = first_hand;
        s->heard_node = first_hand ? node_id : 0;
        if (primary[0] != '\0')
            snprintf(s->heard_primary, sizeof s->heard_primary, "%s", primary);
        s->heard_count++;
    }
    mutex_unlock(&s->mutex);
    if (fence)
        role_close(s->role, -ERR_FENCED, 0);
    if (news || fence)
        feed_wake(&s->wake);
}

uint64_t self_heard(struct self *s, uint64_t *epoch, char primary[NODE_URL_MAX], bool *first_hand)
{
    uint64_t count;

    mutex_lock(&s->mutex);
    *epoch = s->heard_epoch;
    *first_hand = s->heard_first_hand;
    memcpy(primary, s->heard_primary, NODE_URL_MAX);
    count = s->heard_count;
    mutex_unlock(&s->mutex);
    return count;
}

bool self_leads(struct self *s)
{
    bool kept;

    mutex_lock(&s->mutex);
    kept = s->identity.role == ROLE_PRIMARY;
    mutex_unlock(&s->mutex);
    return kept && role_get(s->role) == ROLE_PRIMARY;
}

void self_doubt(struct self *s)
{
    mutex_lock(&s->mutex);
    s->heard_first_hand = false;
    s->heard_node = 0;
    mutex_unlock(&s->mutex);
}

bool self_superseded(struct self *s)
{
    bool yes;

    mutex_lock(&s->mutex);
    yes = supersedes(s, s->heard_epoch, s->heard_first_hand, s->heard_node);
    mutex_unlock(&s->mutex);
    return yes;
}

void self_open_gate(struct self *s)
{
    role_open(s->role);
    if (self_superseded(s))
        role_close(s->role, -ERR_FENCED, 0);
}

int self_read(struct self *s, const void *data, size_t len, struct msg_header *h,
              struct msg_reader *r)
{
    struct msg_stamp own = self_stamp(s);
    int rv = msg_open(data, len, h, r);

    if (rv != 0)
        return rv;
    if (h->stamp.cluster_id != own.cluster_id && h->stamp.cluster_id != 0 && own.cluster_id != 0)
        return -ERR_CLUSTER;
    if (own.cluster_id != 0 && h->stamp.cluster_id != 0 && h->stamp.epoch > own.epoch)
        self_hear(s, h->stamp.epoch, "", false, 0);
    return 0;
}

void self_refuse(struct self *s, struct transport_request *r, int code, const char *fmt, ...)
{
    char text[MSG_TEXT_MAX], primary[NODE_URL_MAX];
    struct msg_stamp stamp;
    struct buf b = {0};
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    mutex_lock(&s->mutex);
    stamp = (struct msg_stamp){s->identity.cluster_id, s->identity.node_id, s->identity.epoch};
    memcpy(primary, s->identity.primary, sizeof primary);
    mutex_unlock(&s->mutex);
    if (msg_error_write(&b, &stamp, code, primary, text) == 0)
        transport_reply(r, b.data, b.len);
    else
        transport_drop(r, false);
    buf_fini(&b);
}

void self_answer_ok(struct self *s, struct transport_request *r)
{
    struct msg_stamp stamp = self_stamp(s);
    struct buf b = {0};
    struct msg_writer w = msg_begin(&b, MSG_OK, &stamp);

    if (w.err == 0)
        transport_reply(r, b.data, b.len);
    else
        transport_drop(r, false);
    buf_fini(&b);
}

int self_take_answer(struct self *s, struct self_call *c, int rv, enum msg_type wanted)
{
    c->answered = rv == 0;
    if (rv != 0)
        return rv;
    rv = self_read(s, c->call.data, c->call.len, &c->head, &c->in);
    if (rv == -ERR_PROTOCOL)
        log_warn("cluster", "%s answered with bytes that are not a message of tandemfs",
                 peer_url(c->call.peer));
    if (c->head.type == MSG_ERROR && (rv == 0 || rv == -ERR_VERSION || rv == -ERR_CLUSTER)) {
        if (msg_error_read(&c->in, &c->error) != 0)
            return -ERR_PROTOCOL;
        if (rv == 0 && c->error.code == -ERR_NOTPRIMARY)
            self_hear(s, c->head.stamp.epoch, c->error.primary, false, 0);
        return rv != 0 ? rv : c->error.code;
    }
    if (rv == 0 && c->head.type != wanted)
        return -ERR_PROTOCOL;
    return rv;
}

int self_call(struct self *s, struct transport_peer *p, struct self_call *c, int w_err,
              enum msg_type wanted, int64_t timeout_ms)
{
    c->answered = false;
    c->head = (struct msg_header){0};
    if (w_err != 0)
        return w_err;
    return self_take_answer(s, c, peer_call(p, &c->call, c->out.data, c->out.len, timeout_ms),
                            wanted);
}

void self_call_fini(struct self_call *c)
{
    peer_done(&c->call);
    buf_fini(&c->out);
}
