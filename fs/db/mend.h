/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_DB_MEND_H
#define FS_DB_MEND_H

#include <stdbool.h>
#include <stdint.h>

struct catalog;
struct database;
struct ledger;

/*
 * Puts bad pages right, in place and through the own mount, so that readers see them at once: where
 * the page lies in the -wal, in its frame, else in the database file. SQLite's locks keep everybody
 * away meanwhile who might write there; readers of WAL mode go on. A page that has become right by
 * itself (a record has brought it) is settled too. Never from a FUSE worker, nor with the
 * database's mutex held.
 */

/* `mend` of a page reader (ltx/store.h): with a content from elsewhere. `catalog` is its ctx. */
int mend_page(void *catalog, struct ledger *l, uint32_t pgno, const void *page);

/* With what the own log holds of them. *left: bad pages that are left; *again: clients were in the way
 * of some of these. */
int mend_from_log(struct database *db, bool *again, uint32_t *left);

#endif
