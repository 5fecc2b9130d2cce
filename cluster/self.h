/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLUSTER_SELF_H
#define CLUSTER_SELF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cluster/identity.h"
#include "cluster/message.h"
#include "cluster/transport.h"
#include "ltx/base/mutex.h"
#include "ltx/feed.h"
#include "ltx/role.h"

/*
 * This node as its messages present it, and what messages of others teach it. Every thread of the
 * folder comes by here: to stamp what it sends and to check what it got.
 *
 * A higher epoch in any message of our cluster closes the gate at once, on the thread that saw it
 * (I5); the node's thread, woken through `wake`, does the rest.
 */
struct self {
    struct mutex changing; /* below RANK_NODE; held while the identity is changed and written */
    struct mutex mutex;    /* RANK_NODE; guards everything below but what is constant */
    struct identity identity;
    /* The best that was heard of who leads: an epoch, its primary's node and URL if known. */
    uint64_t heard_epoch, heard_node;
    char heard_primary[NODE_URL_MAX];
    bool heard_first_hand; /* from that primary itself */
    uint64_t heard_count;  /* rises with each change of the above */
    /* Constant after self_open. */
    int dirfd;
    char advertise[NODE_URL_MAX]; /* "" = nobody can reach this node */
    bool candidate;
    struct role_state *role;
    struct feed wake; /* of the node's thread */
};

/* Reads or makes the identity. `why` receives a sentence on failure. */
int self_open(struct self *s, int dirfd, struct role_state *role, const char *advertise,
              bool candidate, char *why, size_t why_size);
void self_close(struct self *s);

struct msg_stamp self_stamp(struct self *s);
/*
 * Whether this node is primary, in memory and on disk: between the two it is becoming or ceasing to
 * be. Who presents itself as primary takes the stamp first and then asks this, so that no message
 * says "primary" with the epoch of the next one.
 */
bool self_leads(struct self *s);
void self_identity(struct self *s, struct identity *out); /* a copy */
uint64_t self_epoch(struct self *s);

/*
 * Changes the identity and keeps it on disk: `change` works on a copy, and what
 * it made is written, then published. Changes follow on each other. Blocks.
 */
typedef void self_changer(void *ctx, struct identity *id);
int self_change(struct self *s, self_changer *change, void *ctx);

/* Remembers the URL of a member, if it is one and new. Blocks when it is. */
void self_remember(struct self *s, const char *url);
/* First contact of a node without a cluster: it joins this one. Blocks. */
int self_join_cluster(struct self *s, uint64_t cluster_id);

/*
 * Somebody says that `primary` ("" = unknown) leads in `epoch`. `first_hand`: that primary itself
 * says so, and its id is `node_id`. Closes the gate if this supersedes what this node is.
 */
void self_hear(struct self *s, uint64_t epoch, const char *primary, bool first_hand,
               uint64_t node_id);
/* What was heard last; returns heard_count. */
uint64_t self_heard(struct self *s, uint64_t *epoch, char primary[NODE_URL_MAX], bool *first_hand);
/* Whether what was heard makes a primary stop. */
bool self_superseded(struct self *s);
/* The primary that was heard of does not answer: the next who says that it leads is believed. */
void self_doubt(struct self *s);
/* Opens the gate, unless something that closes it was heard. Node's thread. */
void self_open_gate(struct self *s);

/*
 * Reads the beginning of a message that came in: is it ours, of our version, of our cluster?
 * Learns the epoch. -ERR_PROTOCOL, -ERR_VERSION, -ERR_CLUSTER.
 */
int self_read(struct self *s, const void *data, size_t len, struct msg_header *h,
              struct msg_reader *r);

/* Answers with an ERROR that names the primary as far as known; gives the request up. */
void self_refuse(struct self *s, struct transport_request *r, int code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
void self_answer_ok(struct self *s, struct transport_request *r);

/* A call and what is needed around it; zeroed before the first use, by one thread at a time. */
struct self_call {
    struct transport_call call;
    struct buf out;         /* the request: write it with msg_begin(&c->out, ...) */
    struct msg_header head; /* of the answer */
    struct msg_reader in;   /* its body; valid until the next call */
    struct msg_error error; /* when the result is the code of an ERROR */
    bool answered;          /* the peer spoke, if only to refuse */
};
/*
 * Sends c->out to the peer and checks the answer: of type `wanted`, else the code of the ERROR that
 * came, having learned what it said of the primary. peer_call's errors. `w_err`: of the writer.
 */
int self_call(struct self *s, struct transport_peer *p, struct self_call *c, int w_err,
              enum msg_type wanted, int64_t timeout_ms);
/* The second half, for a call that was begun with peer_begin and finished with `rv`. */
int self_take_answer(struct self *s, struct self_call *c, int rv, enum msg_type wanted);
void self_call_fini(struct self_call *c);

#endif
