/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLUSTER_HERALD_H
#define CLUSTER_HERALD_H

#include <stdbool.h>
#include <stdint.h>

#include "cluster/member.h"
#include "cluster/self.h"
#include "cluster/session.h"
#include "ltx/base/thread.h"

/*
 * Talks to all known members once a second, on a thread of its own: asks who is primary (WHO) while
 * that is not known or does not answer, and as primary tells those that are not in a session with
 * it (ANNOUNCE), so that one that was superseded learns of it as soon as it is back. What the
 * answers teach goes to self_hear, which wakes the node's thread.
 */
struct herald_peer {
    char url[NODE_URL_MAX];
    struct transport_peer *peer;
    struct self_call call;
    bool asked;   /* in this round */
    bool is_self; /* it was this node that answered */
    int said;     /* the refusal that was logged last */
};

struct herald {
    struct self *self;
    struct members *members;
    struct sessions *sessions;
    int64_t fresh_ms; /* a session heard within this time needs no ANNOUNCE */
    struct herald_peer peers[NODE_MEMBERS_MAX]; /* the thread's own */
    size_t peer_count;
    struct feed wake;
    struct thread thread;
    _Atomic bool quit;
    _Atomic bool seeking; /* the primary is not known or does not answer */
    _Atomic uint32_t rounds;
    /* Somebody will not have this node. */
    struct mutex mutex; /* RANK_MEMBER */
    int refusal;        /* -ERR_CLUSTER, -ERR_VERSION, 0 */
    char refusal_text[512];
};

void herald_init(struct herald *h, struct self *self, struct members *members,
                 struct sessions *sessions, int64_t heartbeat_ms);
int herald_start(struct herald *h);
void herald_seek(struct herald *h, bool seek);
void herald_wake(struct herald *h); /* the next round is now */
/* Rounds finished so far. */
uint32_t herald_rounds(struct herald *h);
/* 0, or the code, and a sentence. */
int herald_refusal(struct herald *h, char *why, size_t why_size);
void herald_quit(struct herald *h);
void herald_join(struct herald *h);
void herald_fini(struct herald *h);

#endif
