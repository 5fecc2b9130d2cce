/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLUSTER_SESSION_H
#define CLUSTER_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include "cluster/message.h"
#include "cluster/node.h"
#include "cluster/transport.h"
#include "ltx/base/clock.h"
#include "ltx/base/mutex.h"
#include "ltx/store.h"

/*
 * The primary's view of the replicas that follow it: one session each, in it one cursor for each
 * database.
 *
 * Everything is changed by the supply thread alone. `mutex` guards what status reads from other
 * threads: the list, and in a session and its cursors the fields marked (shared). The supply thread
 * takes it to change these and reads without it.
 */
enum cursor_state {
    CURSOR_NEW,   /* the replica has not been told of the database */
    CURSOR_TOLD,  /* it has, and has not subscribed yet */
    CURSOR_ON,    /* records after `sent` are due */
    CURSOR_LARGE, /* the next record is longer than an answer: the replica fetches it in pieces */
    CURSOR_LOST   /* the next record is not there any more: the replica needs pages */
};

struct cursor {
    struct ledger *ledger;
    enum cursor_state state;
    uint32_t generation; /* of the subscription; 0 = none yet */
    uint64_t sent;       /* TXID up to which answers have gone out */
    /* As before the last answer, to return to when that was lost. */
    enum cursor_state kept_state;
    uint64_t kept_sent;
    bool moved;            /* by the last answer */
    struct position acked; /* (shared) durable on the replica */
    struct mono level_at;  /* (shared) when it was last known to lack nothing */
    struct txlog_pin pin;  /* records after `acked` stay */
    bool pinned;
};

struct session {
    uint64_t id;
    uint64_t node_id;        /* (shared) */
    char url[NODE_URL_MAX];  /* (shared) */
    struct mono seen;        /* (shared) */
    uint32_t seq;            /* of the last answer to a PULL */
    struct cursor **cursors; /* (shared) by the store's index; a cursor stays where it is */
    uint32_t count, cap;
    uint32_t turn;   /* the cursor that begins the next answer */
    bool level_told; /* the last answer said that nothing is missing */
    struct transport_request *parked;
    struct mono parked_at;
    struct session *next;
};

struct sessions {
    struct mutex mutex; /* RANK_MEMBER */
    struct session *first;
    struct store *store;
};

#define SESSIONS_MAX 256
#define SESSION_SILENT_MS 60000 /* after that a session and its pins are given up */

void sessions_init(struct sessions *s, struct store *store);
void sessions_fini(struct sessions *s); /* as sessions_clear */

/* The supply thread's. */

/* Begins a session for the node; one that it had before ends. -ERR_NOMEM; -ERR_BUSY: too many. */
int session_open(struct sessions *s, uint64_t node_id, const char *url, struct session **out);
struct session *session_find(struct sessions *s, uint64_t id);
void session_touch(struct sessions *s, struct session *x);
/* Makes cursors for databases that came since. -ERR_NOMEM. */
int session_grow(struct sessions *s, struct session *x);
struct cursor *session_cursor(struct session *x, const struct ledger *l); /* NULL: none */
void session_subscribe(struct sessions *s, struct cursor *c, const struct msg_subscription *m);
void session_ack(struct sessions *s, struct cursor *c, struct position p);
/* The replica has the last answer / has lost it. */
void session_confirm(struct session *x);
void session_roll_back(struct session *x);
/* Ends sessions silent for longer than SESSION_SILENT_MS; all of them. */
void sessions_expire(struct sessions *s);
void sessions_clear(struct sessions *s);

/* Any thread's. */

/* Fills what a session knows of the member: databases, level, behind, lag_ms, connected, seen_ms.
 * False if it has none. */
bool sessions_describe(struct sessions *s, uint64_t node_id, int64_t fresh_ms,
                       struct node_member *m);
/* Whether the node has a session that was heard within `fresh_ms`. */
bool sessions_has(struct sessions *s, const char *url, int64_t fresh_ms);
/* -ERR_NOTFOUND. */
int sessions_position(struct sessions *s, const char *url, const char *database,
                      struct position *p);

#endif
