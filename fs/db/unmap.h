/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_DB_UNMAP_H
#define FS_DB_UNMAP_H

#include <stdbool.h>
#include <stddef.h>

struct database;

/*
 * Unmapping a shared mapping of a FUSE file writes the changed pages of that file back, whoever has changed
 * them, and the kernel holds the process's map of memory until they are written. Of the own mount that is a
 * request to ourselves: a worker that needs more memory just then waits for us, and we for it, for ever. (Linux:
 * fuse_vma_close.)
 *
 * So a wal-index is unmapped only while no client has its file open, and none gets it opened until it is unmapped:
 * what clients had changed was written when they unmapped it, what we have is written before, with msync, which
 * holds nothing. While a client has it open the mapping waits for the settler.
 *
 * None of this on a FUSE worker or with the database's mutex held.
 */

/* A client has -shm open. */
bool unmap_is_in_use(struct database *db);
/* Takes over a mapping of -shm. */
void unmap(struct database *db, void *addr, size_t size);
/* What waits is unmapped, if that can be. */
void unmap_waiting(struct database *db);
/* The mount is gone, and nobody else knows of the database. */
void unmap_fini(struct database *db);

/* Around a call of SQLite on a connection of our own: own_enter and own_leave, and what SQLite unmaps on this thread
 * goes this way, too. Nests only with the same database. */
void unmap_enter(struct database *db);
void unmap_leave(void);

#endif
