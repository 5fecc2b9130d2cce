/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_DB_SUPER_H
#define FS_DB_SUPER_H

struct catalog;

/*
 * A transaction over several databases (ATTACH) commits when its super-journal is removed: a file
 * that holds the absolute names of the databases' journals, each with a NUL at its end (pager.c,
 * vdbeaux.c of SQLite). All of them become records, or none, before the unlink of `path` (below the
 * mount) may go on. Blocks: the logs are synced if the client synced.
 */
int super_commit(struct catalog *c, const char *path);

#endif
