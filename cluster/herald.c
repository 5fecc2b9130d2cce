/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster/herald.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "ltx/base/err.h"
#include "ltx/base/logger.h"

#define ROUND_MS 1000
#define CALL_MS 1000

static struct herald_peer *find(struct herald *h, const char *url)
{
    for (size_t i = 0; i < h->peer_count; i++)
        if (strcmp(h->peers[i].url, url) == 0)
            return &h->peers[i];
    return NULL;
}

/* A connection to every member whose address is known. */
static void open_peers(struct herald *h)
{
    struct member list[NODE_MEMBERS_MAX];
    size_t n = members_copy(h->members, list);

    for (size_t i = 0; i < n && !h->quit && h->peer_count < NODE_MEMBERS_MAX; i++) {
        struct herald_peer *p = &h->peers[h->peer_count];
        if (list[i].url[0] == '\0' || strcmp(list[i].url, h->self->advertise) == 0 ||
            find(h, list[i].url) != NULL)
            continue;
        *p = (struct herald_peer){0};
        memcpy(p->url, list[i].url, sizeof p->url);
        if (peer_open(&p->peer, p->url) != 0)
            continue;
        mutex_lock(&h->mutex);
        h->peer_count++;
        mutex_unlock(&h->mutex);
    }
}

static void note_refusal(struct herald *h, struct herald_peer *p, int err)
{
    char text[512];

    if (err == -ERR_VERSION)
        snprintf(text, sizeof text,
                 "the peer %s speaks protocol version %u and this node version %u: run the same "
                 "version of tandemfs on both",
                 p->url, (unsigned)p->call.head.version, (unsigned)MSG_VERSION);
    else
        snprintf(text, sizeof text,
                 "the peer %s belongs to cluster %016" PRIx64 " and this node to %016" PRIx64
                 ": check the address, or begin with an empty data folder to join that cluster",
                 p->url, p->call.head.stamp.cluster_id, self_stamp(h->self).cluster_id);
    if (p->said != err)
        log_warn("cluster", "%s", text);
    p->said = err;
    mutex_lock(&h->mutex);
    h->refusal = err;
    memcpy(h->refusal_text, text, sizeof h->refusal_text);
    mutex_unlock(&h->mutex);
    feed_wake(&h->self->wake);
}

static void take_state(struct herald *h, struct herald_peer *p)
{
    const struct msg_header *head = &p->call.head;
    struct msg_state state;
    char url[MSG_URL_MAX];

    if (msg_get_state(&p->call.in, &state) != 0)
        return;
    if (head->stamp.node_id == self_stamp(h->self).node_id) {
        p->is_self = true;
        return;
    }
    p->said = 0;
    members_saw(h->members, p->url, head->stamp.node_id, state.role == ROLE_PRIMARY);
    if (state.role == ROLE_PRIMARY)
        self_hear(h->self, head->stamp.epoch, p->url, true, head->stamp.node_id);
    else if (state.primary[0] != '\0')
        self_hear(h->self, head->stamp.epoch, state.primary, false, 0);
    members_add(h->members, state.primary);
    while (msg_next_url(&p->call.in, url) > 0)
        members_add(h->members, url);
}

static void ask_all(struct herald *h, bool announce)
{
    struct msg_stamp stamp = self_stamp(h->self);

    if (announce && !self_leads(h->self))
        return;
    for (size_t i = 0; i < h->peer_count; i++) {
        struct herald_peer *p = &h->peers[i];
        struct msg_writer w;
        p->asked = false;
        if (p->is_self || (announce && sessions_has(h->sessions, p->url, h->fresh_ms)))
            continue;
        w = msg_begin(&p->call.out, announce ? MSG_ANNOUNCE : MSG_WHO, &stamp);
        msg_put_text(&w, h->self->advertise);
        p->asked = w.err == 0 && peer_begin(p->peer, &p->call.call, p->call.out.data,
                                            p->call.out.len, CALL_MS) == 0;
    }
    for (size_t i = 0; i < h->peer_count; i++) {
        struct herald_peer *p = &h->peers[i];
        int rv;
        if (!p->asked)
            continue;
        rv = self_take_answer(h->self, &p->call, peer_finish(&p->call.call), MSG_STATE);
        if (rv == 0)
            take_state(h, p);
        else if (rv == -ERR_CLUSTER || rv == -ERR_VERSION)
            note_refusal(h, p, rv);
    }
}

static void run(void *arg)
{
    struct herald *h = arg;

    while (!h->quit) {
        uint64_t seen = feed_count(&h->wake);
        enum role role = role_get(h->self->role);
        struct mono begun = mono_now();
        int64_t left;

        open_peers(h);
        if (role == ROLE_PRIMARY)
            ask_all(h, true);
        else if (role == ROLE_STARTING || h->seeking)
            ask_all(h, false);
        h->rounds++;
        if (role == ROLE_STARTING)
            feed_wake(&h->self->wake);
        left = ROUND_MS - mono_since_ms(begun);
        if (!h->quit)
            feed_wait(&h->wake, seen, left > 50 ? left : 50);
    }
}

void herald_init(struct herald *h, struct self *self, struct members *members,
                 struct sessions *sessions, int64_t heartbeat_ms)
{
    *h = (struct herald){
        .self = self, .members = members, .sessions = sessions, .fresh_ms = 3 * heartbeat_ms};
    feed_init(&h->wake);
    mutex_init(&h->mutex, RANK_MEMBER);
}

int herald_start(struct herald *h)
{
    return thread_start(&h->thread, "herald", run, h);
}

void herald_seek(struct herald *h, bool seek)
{
    bool was = h->seeking;

    h->seeking = seek;
    if (seek && !was)
        herald_wake(h);
}

void herald_wake(struct herald *h)
{
    feed_wake(&h->wake);
}

uint32_t herald_rounds(struct herald *h)
{
    return h->rounds;
}

int herald_refusal(struct herald *h, char *why, size_t why_size)
{
    int rv;

    mutex_lock(&h->mutex);
    rv = h->refusal;
    if (rv != 0)
        snprintf(why, why_size, "%s", h->refusal_text);
    mutex_unlock(&h->mutex);
    return rv;
}

void herald_quit(struct herald *h)
{
    size_t n;

    h->quit = true;
    feed_close(&h->wake);
    mutex_lock(&h->mutex);
    n = h->peer_count;
    mutex_unlock(&h->mutex);
    for (size_t i = 0; i < n; i++)
        peer_quit(h->peers[i].peer); /* a call that waits ends now */
}

void herald_join(struct herald *h)
{
    thread_join(&h->thread);
}

void herald_fini(struct herald *h)
{
    for (size_t i = 0; i < h->peer_count; i++) {
        self_call_fini(&h->peers[i].call);
        peer_close(h->peers[i].peer);
    }
    feed_fini(&h->wake);
    mutex_fini(&h->mutex);
}
