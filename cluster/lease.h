/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLUSTER_LEASE_H
#define CLUSTER_LEASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cluster/identity.h"

/*
 * Who is primary, and until when: one struct of functions for each way of deciding it. The node's
 * thread calls them; what may block says so.
 */
struct lease_view {
    bool configured;            /* `primary: true` */
    const struct identity *own; /* what this node remembers */
    const char *advertise;
    /* What peers answered at the start. */
    uint64_t heard_epoch;
    const char *heard_primary; /* "" = unknown */
    bool heard_first_hand;     /* from that primary itself */
};

enum lease_verdict {
    LEASE_LEAD,   /* become primary in `epoch` */
    LEASE_FOLLOW, /* be a replica of `primary` ("" = look for it) */
    LEASE_REFUSE  /* do not start */
};

struct lease_decision {
    enum lease_verdict verdict;
    uint64_t epoch;
    char primary[NODE_URL_MAX];
    char why[512]; /* a sentence for people; "" if there is nothing to say */
};

struct lease {
    const char *name;
    /* Whether the decision at the start needs the answers of peers. Does not block. */
    bool (*asks)(const struct lease_view *view);
    /* What to be at the start. Does not block. */
    void (*begin)(const struct lease_view *view, struct lease_decision *out);
    /* How long this primary may still accept commits, ms; <= 0: no longer. Does not block. */
    int64_t (*held_ms)(void *ctx);
    void *ctx;
};

/* Promotion by hand, nothing else to run; a primary is one until another takes over. */
extern const struct lease lease_static;

#endif
