/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_DB_CATALOG_IMPL_H
#define FS_DB_CATALOG_IMPL_H

#include <stdbool.h>

#include "fs/db/catalog.h"
#include "ltx/base/mutex.h"
#include "ltx/base/thread.h"

/* The inside of the catalog, for catalog.c, settler.c and follow.c. */

#define CATALOG_BUCKETS 1024

struct follow;
struct dying;

struct catalog {
    struct store *store;
    struct role_state *role;
    int tree_dirfd;
    char *mountpoint;
    enum replica_writes replica_writes;
    int64_t scrub_interval_ms, scrub_bytes_per_s;
    struct scrub *scrub; /* from catalog_start to catalog_join */
    bool same_boot;      /* see boot.h; set before recovery */

    struct mutex mutex; /* RANK_FS_CONTROL; guards the table, the counts in it, and what follows */
    struct cond poked;
    struct database *bucket[CATALOG_BUCKETS];
    size_t count;
    bool poke;
    bool quit;
    struct thread settler;
    struct cond death;
    struct dying *dying; /* closings of dying processes that wait for an answer; see dying.h */
    bool dying_runs;
    struct thread dying_thread;
    struct follow *follow; /* while this node is a replica; the node's thread's */
    struct follow *held;   /* its write locks wait for the gate of the new primary to open */
};

/* A new array of all databases, each counted, to be given back with catalog_put_all. NULL without
 * memory. */
struct database **catalog_all(struct catalog *c, size_t *count);
void catalog_put_all(struct database **all, size_t count);

/* Gives up the locks of a replica that has become the primary. */
void catalog_release_held(struct catalog *c);

/* settler.c: the thread that looks after what no client call ends. */
int settler_start(struct catalog *c);
/* One look at one database; from the settler, and when this node becomes the primary. */
void settle(struct database *db);
/* Brings the recovery position as far as the file is. Blocks. */
void settle_position(struct database *db);
/* The last look, before the unmount: captures what is whole and moves the recovery position. */
void settle_at_end(struct database *db);

/* follow.c: a replica's appliers. */
int follow_start(struct catalog *c, struct follow **out);
/* Applies everything that is in the logs, then stops; or stops at once. */
int follow_drain(struct follow *f, int64_t limit_ms);
void follow_halt(struct follow *f); /* joins all threads; handles and locks stay */
void follow_stop(struct follow *f); /* joins all threads, closes all handles on the mount, frees */

/* recover.c */
int recover_database(struct catalog *c, struct ledger *l);
int recover_stranger(struct catalog *c, const char *path);

/* tree.c: calls `visit` with the path of every regular file below the tree whose name is of that kind. */
int tree_walk(int tree_dirfd, enum file_kind kind, int (*visit)(void *ctx, const char *path),
              void *ctx);

#endif
