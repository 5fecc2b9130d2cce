/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLUSTER_PARTS_H
#define CLUSTER_PARTS_H

#include "cluster/follow.h"
#include "cluster/herald.h"
#include "cluster/inbox.h"
#include "cluster/lease.h"
#include "cluster/member.h"
#include "cluster/node.h"
#include "cluster/self.h"
#include "cluster/supply.h"
#include "cluster/supply_pages.h"
#include "cluster/transport.h"

/*
 * The inside of a node, for the files that make it: node.c (life and thread), role_machine.c (the
 * one place where the role changes), handover.c (the primary's side of a promotion), promote.c (the
 * promoted one's side), status.c.
 *
 *   thread    does                                                    waits on
 *   node      role changes, hooks, PREPARE, COMMIT, ABORT             self.wake
 *   supply    records to replicas                                     the store's feed
 *   pages     pages to replicas                                       its own feed
 *   herald    asks around, announces                                  its own feed, peers
 *   pull, ack, bringup, fetch: while it is a replica, see follow.h
 */

/* A handover that this primary has prepared: its gate is closed until COMMIT, ABORT or `until`. */
struct handover {
    uint64_t token; /* 0 = none */
    uint64_t node_id;
    char url[NODE_URL_MAX];
    struct mono touched;
};

#define HANDOVER_MS 10000 /* a prepared handover that is silent for this long is given up */

struct node {
    struct node_options options; /* strings point to the copies below */
    char *listen;
    char **peers;
    struct self self;
    struct members members;
    struct transport *transport; /* NULL: nobody can follow this node */
    struct supply supply;
    struct supply_pages pages;
    struct herald herald;
    const struct lease *lease;
    struct inbox inbox; /* for the node's thread */
    struct thread thread;
    bool started;
    _Atomic bool quit;
    _Atomic bool promoting; /* one at a time */

    /* The node's thread alone. */
    struct handover handover;
    uint64_t news_seen;
    bool begun; /* the lease has decided */
    bool dead;  /* fatal was called */
    bool lease_said;
    struct mono waiting_said, refused_looked, disconnected;
    bool was_connected;

    struct mutex mutex; /* below RANK_NODE; guards what follows */
    struct cond cond;
    struct follower *follower;        /* made and ended by the node's thread */
    char target[NODE_URL_MAX];        /* whom it follows */
    char superseded_by[NODE_URL_MAX]; /* configured as primary, but this one took over */
    /* What another thread wants the node's thread to do: lead in this epoch. */
    uint64_t lead_epoch; /* 0 = nothing */
    bool lead_done;
    int lead_result;
};

#define RANK_NODE_OUTER (RANK_NODE - 2)

/* role_machine.c, on the node's thread. */

/* Becomes primary in `epoch`: ends following, keeps the epoch on disk, calls the hook, opens the
 * gate. On failure the node is a replica that looks for a primary. */
int node_become_primary(struct node *n, uint64_t epoch);
/* Becomes, or stays, a replica in `epoch`, of `primary` ("" = not known yet). `settled`: everything
 * this node had is with the new primary. */
void node_become_replica(struct node *n, uint64_t epoch, const char *primary, bool settled);
void node_stop_following(struct node *n);

/* handover.c, on the node's thread. */

void handover_request(struct node *n, struct transport_request *r);
/* Opens the gate again if a prepared handover has been silent for too long. */
void handover_tick(struct node *n);

/* node.c */

/* Has the node's thread make this node the primary of `epoch`; waits for it. Any other thread. */
int node_lead(struct node *n, uint64_t epoch);
/* Copies the target and what is known of the follower; false if there is none. */
bool node_follower_view(struct node *n, char target[NODE_URL_MAX], struct follower_view *view);

#endif
