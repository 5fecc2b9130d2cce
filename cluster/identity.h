/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLUSTER_IDENTITY_H
#define CLUSTER_IDENTITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cluster/node.h"
#include "ltx/role.h"

/*
 * What a node remembers of itself and its cluster from one start to the next: the file <data>/node,
 * lines of text, replaced as a whole:
 *
 *   tandemfs node 1
 *   node 0123456789abcdef          this node's id, made once
 *   cluster 0123456789abcdef       0 until it has joined or made one
 *   epoch 7                        the highest seen
 *   role replica                   starting (never had one), replica, primary
 *   primary tcp://10.0.0.1:4600    of that epoch, as far as known; the line may lack
 *   pledge 8                       asked for this epoch in a handover, outcome unknown; may lack
 *   unsettled                      was primary and did not hand over: its last transactions may be
 *                                  its own alone; may lack
 *   member tcp://10.0.0.2:4600     one line each
 *   check 89abcdef01234567         CRC-64 of all lines before
 */
#define IDENTITY_FILE "node"

struct identity {
    uint64_t node_id;
    uint64_t cluster_id;
    uint64_t epoch;
    enum role role;
    char primary[NODE_URL_MAX];
    uint64_t pledge;
    bool unsettled;
    size_t member_count;
    char members[NODE_MEMBERS_MAX][NODE_URL_MAX];
};

/*
 * Reads the file in folder `dirfd`; makes a new identity (written at once) if there is none.
 * -ERR_CORRUPT: the file is not what the table says, and `why` says in which line and what to do;
 * it is left alone.
 */
int identity_load(struct identity *id, int dirfd, char *why, size_t why_size);
/* Replaces the file. Blocks (syncs). */
int identity_save(const struct identity *id, int dirfd);

/* Remembers a member; false if it was known already or there is no room. */
bool identity_add_member(struct identity *id, const char *url);

#endif
