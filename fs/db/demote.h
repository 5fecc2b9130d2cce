/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_DB_DEMOTE_H
#define FS_DB_DEMOTE_H

struct catalog;

/*
 * This node was the primary, or has just started, and is a replica from now on: what clients had
 * begun and can no longer finish is undone, so that every database stands at the last position of
 * its log. The gate is closed. Through the own mount: not from a FUSE worker.
 */
void demote_databases(struct catalog *c);

#endif
