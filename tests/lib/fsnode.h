/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_LIB_FSNODE_H
#define TESTS_LIB_FSNODE_H

#include <stdbool.h>
#include <stdint.h>

#include "fs/db/catalog.h"
#include "ltx/base/file.h"
#include "ltx/role.h"
#include "ltx/store.h"
#include "tests/lib/scratch.h"
#include "tests/lib/tapvfs.h"

/*
 * What a mounted daemon consists of, without the mount: store, role and catalog over a folder, and
 * a listener for the tap VFS in place of the FUSE adapter. The "mount point" is the backing tree
 * itself.
 *
 * fsnode_open (recovers), fsnode_lead or fsnode_follow, ..., fsnode_close.
 */
struct fsnode {
    char root[SCRATCH_PATH_MAX];
    char tree[SCRATCH_PATH_MAX + 8];
    int data_dirfd, tree_dirfd;
    struct store *store;
    struct role_state role;
    struct catalog *catalog;
    bool threads; /* store's and catalog's threads run */
};

/* Over the folder `root`, which may hold what an earlier one left. With `threads` the store's and
 * the catalog's threads run, else nothing happens but what is called. File operations go through the
 * table that a test has set; if it has set none, through the one below that counts and fails. */
void fsnode_open(struct fsnode *n, const char *root, bool threads);
/* The same, if it may fail; then nothing is open. Without threads. */
int fsnode_try_open(struct fsnode *n, const char *root, bool threads);
void fsnode_lead(struct fsnode *n);   /* becomes the primary, the gate opens */
void fsnode_follow(struct fsnode *n); /* becomes a replica */
void fsnode_close(struct fsnode *n);
/* What the settler does in one round, with all pauses over: for a node without threads. */
void fsnode_settle(struct fsnode *n);

/* What the maintainer does with all databases, at once. */
void fsnode_maintain(struct fsnode *n, const struct txlog_retention *r);
/* Of nodes that are opened from now on; 0: the default. */
void fsnode_segment_bytes(int64_t bytes);
/* The same: clients see the tree at another path than the daemon (a container); NULL: at the same. */
void fsnode_mounted_at(const char *path);

/* Of a client; errno, 0 if it is done. Paths are below the tree. */
int fsnode_mkdir(struct fsnode *n, const char *path);
int fsnode_rename(struct fsnode *n, const char *from, const char *to);
int fsnode_unlink(struct fsnode *n, const char *path);
int fsnode_sync_dir(struct fsnode *n, const char *path_in_it);

/* For tapvfs_register; ctx is the node. */
int fsnode_listen(void *ctx, const struct tap_event *e);
/* The same; and the recovery position moves, also at the worst moments. */
int fsnode_listen_and_settle(void *ctx, const struct tap_event *e);

/* Path of a file in the tree. Static storage, the last four stay. */
const char *fsnode_path(const struct fsnode *n, const char *name);
struct ledger *fsnode_ledger(const struct fsnode *n, const char *name); /* NULL if none */
uint64_t fsnode_txid(const struct fsnode *n, const char *name);         /* 0 if none */

/*
 * Steps: every event told and every call that changes the node's own files counts one. The process
 * ends with FSNODE_DIED when the given one is about to begin; 0: never. Counts from 1.
 */
#define FSNODE_DIED 86
void fsnode_die_at(uint64_t step);
uint64_t fsnode_steps(void);

/* Called before each write to the node's own files, on the thread that writes; NULL: nobody. Before
 * fsnode_open and after fsnode_close. */
void fsnode_watch_writes(void (*watch)(int fd, size_t size, off_t off));

/* The disk of the node's own files is full: nothing can be allocated, and no file grows. */
void fsnode_fill_disk(bool on);
/* The n-th write to the node's own files from now on fails with this errno; 0: none. */
void fsnode_fail_write(unsigned n, int errnum);

#endif
