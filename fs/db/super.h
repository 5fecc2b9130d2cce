/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_DB_SUPER_H
#define FS_DB_SUPER_H

#include <stdbool.h>

struct catalog;

/*
 * A transaction over several databases (ATTACH) commits when its super-journal is removed: a file
 * that holds the absolute names of the databases' journals, each with a NUL at its end (pager.c,
 * vdbeaux.c of SQLite). All of them become records, or none, before the unlink of `path` (below the
 * mount) may go on. Blocks: the logs are synced if the client synced.
 */
int super_commit(struct catalog *c, const char *path);

/*
 * Start, with no client there. *pending = the transaction of `journal` (a path in the tree, opened as
 * `journal_fd`) is one over several databases and has not ended, because its super-journal is still in the tree.
 * Some of its records may be in the logs by then; it is undone in all of them (playback.h), and nobody was told
 * that it had committed. *gone = it names one that is no longer there: the transaction has ended, and has its records.
 */
int super_is_pending(struct catalog *c, const char *journal, int journal_fd, bool *pending,
                     bool *gone);

/* Removes super-journals in the tree that no journal names any more, as SQLite does after a rollback. */
int super_remove_ended(struct catalog *c);

#endif
