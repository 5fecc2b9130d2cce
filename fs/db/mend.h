/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_DB_MEND_H
#define FS_DB_MEND_H

#include <stdbool.h>
#include <stdint.h>

struct catalog;
struct database;
struct ledger;
struct replica;

/*
 * Puts bad pages right, in place and through the own mount, so that readers see them at once: where
 * the page lies in the -wal, in its frame, else in the database file. A page that has become right
 * by itself (a record has brought it) is settled too. Never from a FUSE worker, nor with the
 * database's mutex held.
 *
 * On a replica the applier does it, with its own handles. (Nobody else may open the files in the own
 * mount there: to close them again would drop the locks of the applier's SQLite connection, and the
 * next client would take the -shm for one that nobody uses.) On the primary SQLite's locks keep
 * everybody away meanwhile who might write there; readers of WAL mode go on.
 */

/* `mend` of a page reader (ltx/store.h): with a content from elsewhere. `catalog` is its ctx. */
int mend_page(void *catalog, struct ledger *l, uint32_t pgno, const void *page);

/* The applier's side: is there something for it to mend, and does it. */
bool mend_is_ordered(struct database *db);
void mend_serve(struct replica *r);

/* With what the own log holds of them. *left: bad pages that are left; *again: clients were in the way
 * of some of these. */
int mend_from_log(struct database *db, bool *again, uint32_t *left);

#endif
