/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The static lease.
 *
 *   remembers       configured   a peer knows a higher epoch   it starts as
 *   nothing         primary      no                            primary, epoch 1
 *   nothing         primary      yes                           replica of that
 *   nothing         replica      -                             replica, looks for the primary
 *   was primary     -            no                            primary, same epoch
 *   was primary     -            yes                           replica of that
 *   was primary     -            the same, of another primary  nothing: refuses
 *   was replica     -            yes                           replica of that
 *   was replica     -            no                            replica of the one remembered
 *
 * A node that was promoted by hand stays primary over a restart, and one that was superseded stays
 * replica, whatever the configuration says: memory is newer than configuration.
 */
#include "cluster/lease.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static bool wants_to_lead(const struct lease_view *v)
{
    return v->own->role == ROLE_PRIMARY || (v->own->role == ROLE_STARTING && v->configured);
}

static void follow(struct lease_decision *out, uint64_t epoch, const char *primary)
{
    out->verdict = LEASE_FOLLOW;
    out->epoch = epoch;
    snprintf(out->primary, sizeof out->primary, "%s", primary);
}

static void begin(const struct lease_view *v, struct lease_decision *out)
{
    bool is_own = v->advertise[0] != '\0' && strcmp(v->heard_primary, v->advertise) == 0;

    *out = (struct lease_decision){0};
    if (v->heard_epoch > v->own->epoch) {
        follow(out, v->heard_epoch, is_own ? "" : v->heard_primary);
        if (wants_to_lead(v))
            snprintf(out->why, sizeof out->why,
                     "another node leads in epoch %" PRIu64 " (%s): this node becomes its replica",
                     v->heard_epoch,
                     v->heard_primary[0] != '\0' ? v->heard_primary : "address not known yet");
        return;
    }
    if (!wants_to_lead(v)) {
        follow(out, v->own->epoch, v->own->primary[0] != '\0' ? v->own->primary : v->heard_primary);
        if (v->configured)
            snprintf(out->why, sizeof out->why,
                     "this node is configured as primary, but %s took over in epoch %" PRIu64
                     ": this node stays its replica; if that one is gone for good, run tandemfs "
                     "promote --force here",
                     out->primary[0] != '\0' ? out->primary : "another node", v->own->epoch);
        return;
    }
    if (v->heard_epoch == v->own->epoch && v->own->epoch != 0 && v->heard_first_hand && !is_own) {
        out->verdict = LEASE_REFUSE;
        snprintf(out->why, sizeof out->why,
                 "%s is primary in epoch %" PRIu64
                 " and so was this node: start this one as its replica, with --replica-of and an "
                 "empty data folder, or stop the other first",
                 v->heard_primary, v->own->epoch);
        return;
    }
    out->verdict = LEASE_LEAD;
    out->epoch = v->own->epoch == 0 ? 1 : v->own->epoch;
}

static int64_t held_ms(void *ctx)
{
    (void)ctx;
    return INT64_MAX;
}

const struct lease lease_static = {
    .name = "static", .asks = wants_to_lead, .begin = begin, .held_ms = held_ms};
