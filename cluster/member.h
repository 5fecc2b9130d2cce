/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLUSTER_MEMBER_H
#define CLUSTER_MEMBER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cluster/node.h"
#include "ltx/base/clock.h"
#include "ltx/base/mutex.h"

/*
 * The other nodes of the cluster as this one has met them, by any message: for status, and for
 * knowing whom to ask. Guarded by its mutex; any thread.
 */
struct member {
    char url[NODE_URL_MAX]; /* "" for one that cannot be reached and only asks */
    uint64_t node_id;       /* 0 = not met yet */
    bool primary;
    bool heard;
    struct mono seen; /* when last, if heard */
};

struct members {
    struct mutex mutex; /* RANK_MEMBER */
    size_t count;
    struct member list[NODE_MEMBERS_MAX];
};

void members_init(struct members *m);
void members_fini(struct members *m);
/* A URL from the configuration or from memory. */
void members_add(struct members *m, const char *url);
/* A message came from this node. `url` may be "". A table that is full stays as it is. */
void members_saw(struct members *m, const char *url, uint64_t node_id, bool primary);
/* Copies the list; returns how many. */
size_t members_copy(struct members *m, struct member out[NODE_MEMBERS_MAX]);
size_t members_count(struct members *m);

#endif
