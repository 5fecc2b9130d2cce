/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_DB_DIRTY_H
#define FS_DB_DIRTY_H

#include <stdbool.h>
#include <stdint.h>

#include "ltx/base/clock.h"

/*
 * The pages of one database file that were written since the last record: in any order, then sorted
 * once. Without a known page size, or past a bound, it says "all". The database's mutex guards it.
 */
struct dirty {
    uint32_t *pgno;
    uint32_t len, cap;
    bool all;
    bool size; /* the file was truncated or extended */
    struct mono last_write;
};

#define DIRTY_BATCH 65536       /* pages noted before duplicates are squeezed out */
#define DIRTY_RANGE_MAX 1048576 /* pages of one call (fallocate) that are noted singly */

void dirty_fini(struct dirty *d);
void dirty_clear(struct dirty *d);
static inline bool dirty_any(const struct dirty *d)
{
    return d->len > 0 || d->all || d->size;
}
/* n bytes at `off` were written; page_size 0 if it is not known. */
void dirty_add(struct dirty *d, uint32_t page_size, int64_t off, uint64_t n);
void dirty_add_page(struct dirty *d, uint32_t pgno);
void dirty_sort(struct dirty *d); /* rising, each once */

#endif
