/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_LIB_CLUSTERNODE_H
#define TESTS_LIB_CLUSTERNODE_H

#include <stdbool.h>
#include <stdint.h>

#include "cluster/node.h"
#include "ltx/base/mutex.h"
#include "ltx/base/thread.h"
#include "ltx/role.h"
#include "ltx/store.h"
#include "tests/lib/folder.h"

/*
 * A node without fs: store, role and cluster over a folder, and in place of the database files
 * pages in memory, which survive clusternode_stop as files would. On the primary
 * clusternode_write is the writer; on a replica a thread applies what is in the log.
 *
 * clusternode_init, clusternode_start, ..., clusternode_stop, clusternode_start again, ...,
 * clusternode_fini.
 */
#define CLUSTERNODE_BASES 64

struct clusterbase {
    char name[64];
    struct ledger *ledger;
    uint32_t page_size, commit;
    uint8_t *pages;
    struct position applied;
    uint32_t busy_pgno; /* this page reads as -ERR_BUSY; 0 = none */
};

struct clusternode {
    struct folder folder;
    char url[NODE_URL_MAX]; /* "" before the first start */
    struct store_options store_options;
    struct node_options options; /* primary, candidate, peers: set before the start */
    const char *peers[8];
    struct store *store;
    struct role_state role;
    struct node *node;
    struct thread applier;
    struct mutex mutex; /* guards what follows; below all of ltx */
    struct clusterbase bases[CLUSTERNODE_BASES];
    uint32_t base_count;
    bool quit, running;
    bool hold_apply; /* nothing is applied while set */
    char fatal[512];
    struct feed events; /* woken by hooks */
    int became_primary, became_replica;
};

void clusternode_init(struct clusternode *c);
/* Adds a peer for the next start; the string is borrowed. */
void clusternode_peer(struct clusternode *c, const char *url);
/* `role`: "primary" or "replica". Waits until it has a role, or fatal was called. */
void clusternode_start(struct clusternode *c, bool primary);
void clusternode_stop(struct clusternode *c);
void clusternode_fini(struct clusternode *c);

/*
 * One transaction on the primary: the database has `commit` pages of `page_size` bytes after it;
 * new pages and `changes` random old ones get random content. Commit 0 deletes it. 0, or what the
 * gate or the ledger said.
 */
int clusternode_write(struct clusternode *c, const char *name, uint32_t page_size, uint32_t commit,
                      uint32_t changes);

/* Waits until every database of `from` is durable and applied on `to`, at most `ms`; then compares
 * positions, sums and bytes. False with a line on stderr if the time passed or something differs.
 */
bool clusternode_level(struct clusternode *from, struct clusternode *to, int64_t ms);
/* Waits for the role, at most `ms`. */
bool clusternode_wait_role(struct clusternode *c, enum role role, int64_t ms);
/* Waits for fatal, at most `ms`. */
bool clusternode_wait_fatal(struct clusternode *c, int64_t ms);
/* Closes segments and trims everything that nothing needs. */
void clusternode_trim(struct clusternode *c, const char *name);
struct position clusternode_position(struct clusternode *c, const char *name);

#endif
