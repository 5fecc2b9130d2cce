/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_DB_CATALOG_H
#define FS_DB_CATALOG_H

#include <stdbool.h>
#include <stdint.h>

#include "fs/db/database.h"
#include "ltx/role.h"
#include "ltx/store.h"

/*
 * All databases of this node by path, and the threads that work on them: the one that captures what
 * ends without a mark (journal_mode MEMORY and OFF, plain copies), the one that compares files with
 * checksums, and, on a replica, the appliers.
 *
 * Order: catalog_open, catalog_recover (before the mount exists), catalog_start (mounted), then
 * catalog_become_primary / catalog_become_replica as `cluster` says, catalog_quit, catalog_join,
 * (unmount), catalog_close.
 */
struct catalog;

enum replica_writes { REPLICA_WRITES_REFUSE, REPLICA_WRITES_WAIT };

struct catalog_options {
    struct store *store;
    struct role_state *role;
    int tree_dirfd;         /* the backing files, laid out as in the mount; borrowed */
    const char *mountpoint; /* absolute; copied */
    enum replica_writes replica_writes;
    int64_t scrub_interval_ms; /* 0: databases are checked on request only */
    int64_t scrub_bytes_per_s; /* 0: as fast as it goes */
};

int catalog_open(struct catalog **out, const struct catalog_options *options);
void catalog_close(struct catalog *c);

/* Brings files and log in agreement after a crash (docs/ARCHITECTURE.md, "recovery"): every
 * database of the store. One that cannot be is marked damaged, named in the log lines, and left
 * alone. Also adopts files of the tree that have no ledger yet. */
int catalog_recover(struct catalog *c);

int catalog_start(struct catalog *c); /* the mount answers from now on */
void catalog_quit(struct catalog *c);
void catalog_join(struct catalog *c); /* own handles on the mount are closed after this */

/*
 * Role changes; called by the node's hooks, never from a FUSE worker. Both block until done.
 * become_primary: everything received is applied, own handles are closed, clients may write once
 * role_open was called. become_replica: the gate is closed already.
 */
int catalog_become_primary(struct catalog *c);
int catalog_become_replica(struct catalog *c);

/* The database for a path below the mount (base path, without -wal etc.); made on first use,
 * counted. */
struct database *catalog_get(struct catalog *c, const char *path);
void catalog_put(struct database *db);
/* Its ledger, NULL if it is not (yet) a replicated database. */
struct ledger *catalog_ledger(struct catalog *c, const char *path);
const char *database_path(const struct database *db);
struct catalog *database_catalog(const struct database *db);

/* A folder is about to be renamed; an error forbids it. Blocks. */
int catalog_folder_will_move(struct catalog *c, const char *from);
/* A folder was renamed: databases below it are captured under their new names, the old ones
 * recorded as deleted. */
int catalog_folder_renamed(struct catalog *c, const char *from, const char *to);

/* Number of files in the tree that are not databases (kept on this node, not replicated), for
 * status. */
uint32_t catalog_plain_files(struct catalog *c);
/* "wal", "delete" (any rollback mode) or "" if it does not exist here. Static storage. */
const char *catalog_journal_mode(struct catalog *c, const char *path);

/* Compares databases with their checksums, now and then and on request; valid between catalog_start and
 * catalog_join. */
struct scrub *catalog_scrub(struct catalog *c);

/* The page reader over SQLite's files for store_set_page_reader. */
struct page_reader catalog_page_reader(struct catalog *c);

#endif
