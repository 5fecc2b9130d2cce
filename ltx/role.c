/* SPDX-License-Identifier: Apache-2.0 */
#include "ltx/role.h"

#include <stdio.h>
#include <string.h>

#include "ltx/base/assert.h"
#include "ltx/base/clock.h"
#include "ltx/base/err.h"

/* Transactions in progress get this long to end when the gate closes. */
#define FINISH_MS 500

const char *role_name(enum role r)
{
    switch (r) {
    case ROLE_STARTING: return "starting";
    case ROLE_REPLICA: return "replica";
    case ROLE_PRIMARY: return "primary";
    }
    return "unknown";
}

void role_init(struct role_state *r, uint64_t node_id)
{
    memset(r, 0, sizeof *r);
    mutex_init(&r->mutex, RANK_ROLE);
    cond_init(&r->drained);
    feed_init(&r->changed);
    r->role = ROLE_STARTING;
    r->node_id = node_id;
    r->close_reason = -ERR_NOTPRIMARY;
    r->level_us = mono_now().us;
}

void role_fini(struct role_state *r)
{
    feed_fini(&r->changed);
    cond_fini(&r->drained);
    mutex_fini(&r->mutex);
}

int role_enter(struct role_state *r)
{
    mutex_lock(&r->mutex);
    int rc = r->open ? 0 : r->close_reason;
    if (rc == 0)
        r->inside++;
    mutex_unlock(&r->mutex);
    return rc;
}

int role_begin(struct role_state *r)
{
    mutex_lock(&r->mutex);
    int rc = r->open ? 0 : r->close_reason;
    if (rc == 0)
        r->begun++;
    mutex_unlock(&r->mutex);
    return rc;
}

void role_end(struct role_state *r)
{
    mutex_lock(&r->mutex);
    ASSERT(r->begun > 0, "what ends has begun");
    r->begun--;
    cond_broadcast(&r->drained);
    mutex_unlock(&r->mutex);
}

int role_enter_begun(struct role_state *r)
{
    mutex_lock(&r->mutex);
    int rc = r->open || r->finishing ? 0 : r->close_reason;
    if (rc == 0)
        r->inside++;
    mutex_unlock(&r->mutex);
    return rc;
}

void role_leave(struct role_state *r)
{
    mutex_lock(&r->mutex);
    ASSERT(r->inside > 0, "I1: a commit leaves the gate that it entered");
    if (--r->inside == 0)
        cond_broadcast(&r->drained);
    mutex_unlock(&r->mutex);
}

/* With the mutex held. False if the time since `start` is over. */
static bool wait_drained(struct role_state *r, struct mono start, int64_t ms)
{
    int64_t left = ms - mono_since_ms(start);
    if (left <= 0)
        return false;
    cond_wait_ms(&r->drained, &r->mutex, left);
    return true;
}

int role_close(struct role_state *r, int reason, int64_t ms)
{
    ASSERT(reason < 0, "a closed gate says why");
    struct mono start = mono_now();
    mutex_lock(&r->mutex);
    /* Who finds it closed has counted on nothing entering any more. */
    r->finishing = r->open;
    r->open = false;
    r->close_reason = reason;
    feed_wake(&r->changed);
    while (r->finishing && r->begun > 0 && wait_drained(r, start, ms < FINISH_MS ? ms : FINISH_MS))
        ;
    r->finishing = false;
    while (r->inside > 0 && wait_drained(r, start, ms))
        ;
    int rc = r->inside > 0 ? -ERR_TIMEOUT : 0;
    mutex_unlock(&r->mutex);
    return rc;
}

void role_open(struct role_state *r)
{
    mutex_lock(&r->mutex);
    ASSERT(r->role == ROLE_PRIMARY, "I1: only a primary's gate is open");
    r->open = true;
    feed_wake(&r->changed);
    mutex_unlock(&r->mutex);
}

void role_set(struct role_state *r, enum role role, uint64_t epoch, const char *primary)
{
    mutex_lock(&r->mutex);
    /* A primary lacks nothing; what it is missing as a replica begins now. */
    if (r->role == ROLE_PRIMARY && role != ROLE_PRIMARY) {
        r->level_us = mono_now().us;
        r->connected = false;
        r->level = false;
    }
    r->role = role;
    r->epoch = epoch;
    snprintf(r->primary, sizeof r->primary, "%s", primary == NULL ? "" : primary);
    feed_wake(&r->changed);
    mutex_unlock(&r->mutex);
}

enum role role_get(struct role_state *r)
{
    mutex_lock(&r->mutex);
    enum role role = r->role;
    mutex_unlock(&r->mutex);
    return role;
}

uint64_t role_epoch(struct role_state *r)
{
    mutex_lock(&r->mutex);
    uint64_t epoch = r->epoch;
    mutex_unlock(&r->mutex);
    return epoch;
}

bool role_primary(struct role_state *r, char out[ROLE_NAME_MAX])
{
    mutex_lock(&r->mutex);
    bool known = r->primary[0] != '\0';
    if (known)
        memcpy(out, r->primary, ROLE_NAME_MAX);
    mutex_unlock(&r->mutex);
    return known;
}

void role_contact(struct role_state *r, bool connected, bool level)
{
    mutex_lock(&r->mutex);
    /*
     * While in contact, "not level" means that something came just now: until now nothing was
     * missing. Out of contact nobody knows since when, and the last report counts.
     */
    bool was_level = r->connected && r->level;
    if (connected && (level || was_level))
        r->level_us = mono_now().us;
    bool moved = r->connected != connected || r->level != level;
    r->connected = connected;
    r->level = level;
    if (moved)
        feed_wake(&r->changed);
    mutex_unlock(&r->mutex);
}

int64_t role_lag_ms(struct role_state *r)
{
    mutex_lock(&r->mutex);
    bool none = r->role == ROLE_PRIMARY || (r->connected && r->level);
    int64_t lag = none ? 0 : mono_since_ms((struct mono){r->level_us});
    mutex_unlock(&r->mutex);
    return lag;
}
