/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_DB_OWN_H
#define FS_DB_OWN_H

#include <stdbool.h>
#include <sys/types.h>

/*
 * Access of the daemon through its own mount. A FUSE request carries the id of the calling thread,
 * so a thread says own_enter before it opens files there (by itself or inside SQLite) and own_leave
 * after; the adapter asks own_contains in open and create and marks the handle. Nests. Never from a
 * FUSE worker thread.
 */
void own_enter(void);
void own_leave(void);
bool own_contains(pid_t tid);

#endif
