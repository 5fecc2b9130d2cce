/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LTX_PAGESPOOL_H
#define LTX_PAGESPOOL_H

#include <stdint.h>

#include "ltx/base/sparse.h"
#include "ltx/decode.h"

/*
 * Pages gathered in any order in an unnamed temporary file, the last one put winning, then read
 * back in rising page number. Memory: 8 bytes for each distinct page. Serves compaction, bring-up
 * and merged records. One thread at a time.
 */
struct pagespool {
    struct sparse file; /* zeros are left out */
    uint32_t page_size;
    uint32_t *pgno_of; /* by slot */
    uint32_t *hash;    /* page number -> slot + 1 */
    uint32_t slots, slots_cap, hash_cap;
    uint32_t *order; /* after pagespool_sort: slots in rising page number */
    uint32_t order_len;
};

int pagespool_open(struct pagespool *p, int dirfd,
                   uint32_t page_size); /* file in folder dirfd, O_TMPFILE or unlinked */
void pagespool_close(struct pagespool *p);
int pagespool_put(struct pagespool *p, uint32_t pgno, const void *page);
/* Puts every page of a record; on a change of page size, a snapshot or a deletion the spool starts
 * empty. *header receives its header. On failure the spool is of no more use. */
int pagespool_put_record(struct pagespool *p, struct ltx_source source, struct ltx_header *header,
                         uint64_t *post_checksum);
/* Sorts; drops pages above `commit`. Then pagespool_read(i) for i < order_len. */
int pagespool_sort(struct pagespool *p, uint32_t commit);
int pagespool_read(struct pagespool *p, uint32_t i, uint32_t *pgno, void *page);

#endif
