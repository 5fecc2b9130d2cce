/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLUSTER_FOLLOW_H
#define CLUSTER_FOLLOW_H

#include <stdbool.h>
#include <stdint.h>

#include "cluster/member.h"
#include "cluster/self.h"
#include "cluster/transport.h"
#include "ltx/base/clock.h"
#include "ltx/base/thread.h"
#include "ltx/store.h"

/*
 * A replica that follows one primary in one epoch. Made when the primary is known, ended when
 * another is followed or this node becomes primary itself.
 *
 *   thread          does                                                              file
 *   pull            HELLO, PULL: receives records                                     pull.c
 *                   COMPARE: decides what each database needs                         compare.c
 *   ack             tells what became durable, and the role when all is applied       ack.c
 *   pages 0, 1      keeps what diverged, brings databases up by pages                 bringup.c
 *                   puts single bad pages right                                       mend.c
 *   fetch 0, 1      fetches long records in pieces                                    fetch.c
 *
 * Each database is in one state; the thread named may work on it and nobody else:
 *
 *   NEW       not compared with the primary yet                            pull
 *   RECORDS   subscribed: records come with the answers to PULL            pull
 *   FETCH     the next record is long                                      fetch
 *   PAGES     to be brought up                                             pages
 *   DIVERGED  what is only here is to be kept first                        pages
 *   HELD      something failed (said in the log); NEW again at `retry`     pull
 *   QUIET     the primary has no such database and here is none either     pull
 */
enum follow_state {
    FOLLOW_NEW,
    FOLLOW_RECORDS,
    FOLLOW_FETCH,
    FOLLOW_PAGES,
    FOLLOW_DIVERGED,
    FOLLOW_HELD,
    FOLLOW_QUIET
};

struct follow {
    struct ledger *ledger;
    enum follow_state state;
    bool working;         /* a worker has it */
    uint32_t generation;  /* of the subscription */
    bool known;           /* the primary has it */
    bool distrust;        /* records did not fit: compare histories, then pages */
    bool trimmed;         /* the primary could not go on with records */
    bool all_pages;       /* the sums here are not to be trusted */
    struct position last; /* received */
    struct position acked;
    uint64_t mark;    /* what must be applied for this node to be level */
    uint64_t applied; /* as last seen */
    bool mend;        /* single pages of it are bad, and due to be fetched; whatever the state */
    unsigned mend_tries;
    struct mono mend_tried;
    unsigned failures;
    struct mono held;
    int64_t hold_ms;
};

#define FOLLOWER_WORKERS 4

struct follower_worker {
    struct follower *follower;
    struct thread thread;
    struct self_call call;
    bool pages; /* brings up; else fetches */
    /* Progress, guarded by the follower's mutex. */
    struct follow *busy;
    uint64_t pages_done, pages_total;
};

struct follower {
    struct self *self;
    struct store *store;
    struct members *members;
    int64_t heartbeat_ms;
    char url[NODE_URL_MAX];
    struct transport_peer *peer; /* records */
    struct transport_peer *bulk; /* pages and pieces, on a connection of their own */
    struct thread pull, ack;
    struct follower_worker workers[FOLLOWER_WORKERS];

    struct mutex mutex; /* RANK_MEMBER; guards everything below */
    struct cond cond;
    bool quit;
    struct follow **list; /* a follow stays where it is */
    uint32_t count, cap;
    uint64_t session; /* 0 = none */
    uint32_t ack_ms;
    bool connected;      /* the primary answers */
    bool ever_connected; /* it has answered HELLO */
    bool level_told;     /* its last answer said that nothing is missing */
    bool mark_pending;   /* marks are set and not all applied yet */
    struct mono level_at;
    bool settled; /* each database was compared, and followed or kept */
    uint64_t bytes_received;
};

/* Starts following the primary at `url`. */
int follower_open(struct follower **out, struct self *self, struct store *store,
                  struct members *members, const char *url, int64_t heartbeat_ms);
int follower_start(struct follower *f);
void follower_quit(struct follower *f);
void follower_join(struct follower *f);
void follower_close(struct follower *f); /* NULL is fine */

/* What of it status shows. */
struct follower_view {
    bool connected, ever_connected;
    bool busy; /* something is being brought up or fetched */
    bool level;
    bool settled;
    char bringing_up[128];
    uint64_t pages_done, pages_total;
    uint64_t bytes_received;
};
void follower_view(struct follower *f, struct follower_view *out);

/* Between the files of the follower. */

bool follower_quits(struct follower *f);
/* Waits until the follower quits, at most `ms`; true if it quits. */
bool follower_pause(struct follower *f, int64_t ms);
/* Changes a state; wakes who takes it from there. */
void follow_set(struct follower *f, struct follow *x, enum follow_state state);
/* Something failed: says so and holds the database for a while. */
void follow_hold(struct follower *f, struct follow *x, int err, const char *doing);
/* Subscribes at the ledger's last position: RECORDS, or NEW if the primary did not answer. */
void follow_subscribe(struct follower *f, struct follow *x, struct self_call *c);
/* Reports to the role if all that was marked is applied. */
void follower_check_level(struct follower *f);
/* A request about one database to the bulk connection: msg_begin and the name. */
struct msg_writer follower_request(struct follower *f, struct self_call *c, enum msg_type type,
                                   const struct follow *x);
/* Sends it; repeats it while the primary does not answer, for at most half a minute. */
int follower_ask(struct follower *f, struct self_call *c, int w_err, enum msg_type wanted);

/* Compares the databases that are new, or held and due, with the primary's, and sends each its way.
 * Fails only if the primary does not answer. */
int follower_compare(struct follower *f, struct self_call *c);
/* A database that fs found damaged is sent to be fetched again. */
void follower_look_for_damage(struct follower *f);

/* Bad pages that fs has found are sent to be fetched, the rest of the database going on. */
void follower_look_for_bad_pages(struct follower *f);

void pull_run(void *follower);
void ack_run(void *follower);
int fetch_job(struct follower_worker *w, struct follow *x);
int bringup_job(struct follower_worker *w, struct follow *x);
int diverged_job(struct follower_worker *w, struct follow *x);
int mend_job(struct follower_worker *w, struct follow *x);

#endif
