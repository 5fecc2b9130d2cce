/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_LIB_MODEL_H
#define TESTS_LIB_MODEL_H

#include <stdint.h>

#include "ltx/ledger.h"

/* A database in memory, and transactions on it that go to a ledger as `fs` makes them. */

#define MODEL_PAGES_MAX 40u

struct model {
    uint8_t *pages; /* room for MODEL_PAGES_MAX of the largest page size used */
    uint32_t page_size, commit;
    struct ledger_tx tx;
};

void model_init(struct model *m);
void model_fini(struct model *m);
uint8_t *model_page(const struct model *m, uint32_t pgno);
uint64_t model_checksum(const struct model *m);

/* One transaction that leaves `commit` pages of that size; every page if there were none or the
 * size is new, else about a third of them and all new ones. 0: the database is deleted. */
struct position model_commit(struct model *m, struct ledger *l, uint32_t page_size,
                             uint32_t commit);
/* A random one: mostly some pages, at times growth, cutting, a new page size, a deletion. */
struct position model_commit_any(struct model *m, struct ledger *l);

/* The ledger is at the database's size, and has the checksum of each of its pages. */
void assert_ledger_is(struct ledger *l, const struct model *m);

#endif
