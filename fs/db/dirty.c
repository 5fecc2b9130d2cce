/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/db/dirty.h"

#include <stdlib.h>

void dirty_fini(struct dirty *d)
{
    free(d->pgno);
    *d = (struct dirty){0};
}

void dirty_clear(struct dirty *d)
{
    d->len = 0;
    d->all = false;
    d->size = false;
    if (d->cap > DIRTY_BATCH) {
        free(d->pgno);
        d->pgno = NULL;
        d->cap = 0;
    }
}

static int by_pgno(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

void dirty_sort(struct dirty *d)
{
    if (d->len < 2)
        return;
    qsort(d->pgno, d->len, sizeof *d->pgno, by_pgno);
    uint32_t kept = 1;
    for (uint32_t i = 1; i < d->len; i++)
        if (d->pgno[i] != d->pgno[kept - 1])
            d->pgno[kept++] = d->pgno[i];
    d->len = kept;
}

void dirty_add_page(struct dirty *d, uint32_t pgno)
{
    if (d->all || (d->len > 0 && d->pgno[d->len - 1] == pgno))
        return;
    if (d->len == d->cap) {
        if (d->len >= DIRTY_BATCH)
            dirty_sort(d);
        if (d->len > d->cap / 2 || d->cap == 0) {
            uint32_t cap = d->cap ? d->cap * 2 : 16;
            uint32_t *pgnos = realloc(d->pgno, cap * sizeof *pgnos);
            if (!pgnos) {
                d->all = true; /* comparing every page finds the same changes */
                return;
            }
            d->pgno = pgnos;
            d->cap = cap;
        }
    }
    d->pgno[d->len++] = pgno;
}

void dirty_add(struct dirty *d, uint32_t page_size, int64_t off, uint64_t n)
{
    d->last_write = mono_now();
    if (page_size == 0)
        d->all = true;
    if (d->all || n == 0)
        return;
    uint64_t first = (uint64_t)off / page_size, last = ((uint64_t)off + n - 1) / page_size;
    if (last >= UINT32_MAX || last - first >= DIRTY_RANGE_MAX)
        d->all = true;
    for (uint64_t i = first; i <= last && !d->all; i++)
        dirty_add_page(d, (uint32_t)i + 1);
}
