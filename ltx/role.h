/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LTX_ROLE_H
#define LTX_ROLE_H

#include <stdbool.h>
#include <stdint.h>

#include "ltx/base/mutex.h"
#include "ltx/feed.h"

/*
 * What this node may do now. `cluster` decides it, `fs` obeys it: one primary per epoch, and a
 * commit enters the gate before its record is made and leaves when it is in the log (I1).
 */
enum role { ROLE_STARTING, ROLE_REPLICA, ROLE_PRIMARY };

const char *role_name(enum role r); /* "starting", "replica", "primary" */

#define ROLE_NAME_MAX 256

struct role_state {
    struct mutex mutex;
    struct cond drained;
    enum role role;
    uint64_t epoch;
    uint64_t node_id;
    bool open;                   /* commits may enter */
    int close_reason;            /* -ERR_X that role_enter gives while closed */
    unsigned inside;             /* commits that have entered and not left */
    unsigned begun;              /* transactions that have begun and not ended */
    bool finishing;              /* closed, but those may still enter */
    char primary[ROLE_NAME_MAX]; /* advertised URL of the primary; "" = unknown */
    int64_t level_us;            /* monotonic; when this node last lacked nothing, or role_init */
    bool connected, level;       /* as role_contact said last */
    struct feed changed;         /* role, gate, contact */
};

void role_init(struct role_state *r, uint64_t node_id);
void role_fini(struct role_state *r);

/* A commit enters: 0, or the reason why not (-ERR_NOTPRIMARY, -ERR_FENCED, -ERR_CLOSED). Never
 * blocks for long. */
int role_enter(struct role_state *r);
void role_leave(struct role_state *r);

/*
 * A transaction that leaves traces before it commits (a rollback journal) says when it begins and
 * when it has ended, whichever way. One that has begun may still enter (role_enter_begun) while
 * role_close waits for it. role_begin: 0, or the reason why not, as role_enter.
 */
int role_begin(struct role_state *r);
void role_end(struct role_state *r);
int role_enter_begun(struct role_state *r);

/* Nobody enters from now on; waits at most `ms` for those inside. -ERR_TIMEOUT: some are still
 * inside. */
int role_close(struct role_state *r, int reason, int64_t ms);
/* Commits may enter (role must be ROLE_PRIMARY). */
void role_open(struct role_state *r);

/* Sets role, epoch and the primary's URL ("" if unknown) at once. Leaves the gate as it is. */
void role_set(struct role_state *r, enum role role, uint64_t epoch, const char *primary);
enum role role_get(struct role_state *r);
uint64_t role_epoch(struct role_state *r);
/* Copies the primary's URL; false if it is unknown. */
bool role_primary(struct role_state *r, char out[ROLE_NAME_MAX]);

/*
 * Replica: `cluster` reports contact with the primary. `level` says that nothing is missing here.
 * role_lag_ms: 0 on the primary and while in contact and level; else ms since that was last so,
 * or since role_init if it never was.
 */
void role_contact(struct role_state *r, bool connected, bool level);
int64_t role_lag_ms(struct role_state *r);

#endif
