/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLUSTER_NODE_H
#define CLUSTER_NODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ltx/role.h"
#include "ltx/store.h"

/*
 * This node as a member of its cluster: listens for peers, follows a primary or is one, changes
 * from the one to the other. Ties transport, supply, pull, lease and handover together.
 *
 * node_open (reads or makes the identity in <data>/node), node_start, ..., node_quit, node_join,
 * node_close. Which role the node begins with is known when node_wait_role returns.
 */
struct node;

/* What `fs` must do when the role changes. Called on the node's thread, in order, one at a time;
 * may block. */
struct node_hooks {
    int (*become_primary)(void *ctx); /* before the gate opens */
    int (*become_replica)(void *ctx); /* after the gate was closed and drained */
    /* The node cannot go on (another cluster's data, another protocol version): end the program
     * with `why`. */
    void (*fatal)(void *ctx, const char *why);
    void *ctx;
};

struct node_options {
    struct store *store;
    struct role_state *role;
    int data_dirfd;
    const char *listen;    /* nng URL, "tcp://127.0.0.1:4600"; NULL: nobody can follow this node */
    const char *advertise; /* URL that peers use; NULL: what it listens on */
    const char **peers;    /* URLs of nodes that know who is primary */
    size_t peer_count;
    bool primary; /* static lease: this node is the primary unless a peer or its own memory knows a
                     higher epoch */
    bool candidate;       /* may be promoted */
    int64_t heartbeat_ms; /* 0 = default 1,000 */
    struct node_hooks hooks;
};

/* `why` receives a sentence for people on failure. */
int node_open(struct node **out, const struct node_options *options, char *why, size_t why_size);
int node_start(struct node *n, char *why, size_t why_size);
/* Waits until the node is primary, its gate open, or replica, at most `timeout_ms`: -ERR_TIMEOUT. A
 * replica that still looks for its primary is one. */
int node_wait_role(struct node *n, int64_t timeout_ms);
void node_quit(struct node *n);
void node_join(struct node *n);
void node_close(struct node *n);

/*
 * Makes this node the primary. Reachable primary: it stops writers, drains and hands over without
 * loss; unreachable: -ERR_UNREACHABLE unless `force`. Blocks until done (limit `timeout_ms`); `why`
 * receives a sentence on failure.
 */
int node_promote(struct node *n, bool force, int64_t timeout_ms, char *why, size_t why_size);

#define NODE_URL_MAX 256
#define NODE_MEMBERS_MAX 64

struct node_member {
    char url[NODE_URL_MAX];
    uint64_t node_id;
    bool primary;
    bool connected;
    int64_t seen_ms;    /* ms since it was last heard; -1 = never */
    uint32_t databases; /* that it follows */
    uint32_t level;     /* of these, how many have on disk all that we have */
    uint64_t behind;    /* transactions it lacks, over all databases */
    int64_t lag_ms;     /* age of the oldest thing it lacks, 0 if level */
};

struct node_status {
    uint64_t node_id, cluster_id, epoch;
    enum role role;
    bool candidate;
    char primary[NODE_URL_MAX]; /* "" = unknown */
    char advertise[NODE_URL_MAX];
    char listen[NODE_URL_MAX];
    char waiting_for[160]; /* a clause, "" if for nothing: "the primary at tcp://... to answer" */
    int64_t lag_ms;
    size_t member_count;
    struct node_member members[NODE_MEMBERS_MAX];
    /* long work in progress */
    char bringing_up[128]; /* database name, "" if none */
    uint64_t pages_done, pages_total;
    uint64_t bytes_received, bytes_sent;
};
void node_status(struct node *n, struct node_status *out);

/* How far a member is in one database: 0 and *p, or -ERR_NOTFOUND. */
int node_member_position(struct node *n, const char *url, const char *database, struct position *p);

#endif
