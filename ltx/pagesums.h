/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LTX_PAGESUMS_H
#define LTX_PAGESUMS_H

#include <stdbool.h>
#include <stdint.h>

/*
 * The checksum of each page of one database, 8 bytes a page in memory, and the file that keeps
 * them. The file is written in place, dirty blocks only; it belongs to a position S, and entries
 * newer than S may already stand in it: redoing the records after S sets them all again (I6). No
 * locking of its own: the ledger's mutex guards it.
 */
struct pagesums {
    uint64_t *sums; /* sums[pgno - 1]; 0 = no page (and the lock page) */
    uint32_t count; /* pages, the database size */
    uint32_t cap;
    uint64_t *dirty; /* one bit for each block of 512 sums (4,096 bytes of the file) */
    uint32_t dirty_blocks;
};

#define PAGESUMS_BLOCK 256u /* pages in a block when two nodes compare (pagesums_block) */

void pagesums_fini(struct pagesums *s);
uint64_t pagesums_get(const struct pagesums *s, uint32_t pgno);    /* 0 beyond the end */
int pagesums_set(struct pagesums *s, uint32_t pgno, uint64_t sum); /* grows; -ERR_NOMEM */
int pagesums_resize(struct pagesums *s, uint32_t count);           /* new entries are 0 */
/* Makes room: pagesums_set and pagesums_resize cannot fail after it up to `count` pages. */
int pagesums_reserve(struct pagesums *s, uint32_t count);
/* XOR of all sums with bit 63 set: the checksum of the database. */
uint64_t pagesums_total(const struct pagesums *s);
/* XOR of the sums of block b (pages b*PAGESUMS_BLOCK+1 ...), mixed with how many there are. */
uint64_t pagesums_block(const struct pagesums *s, uint32_t block);
uint32_t pagesums_block_count(const struct pagesums *s);
/* Writes the dirty blocks to fd and syncs it. / Reads `count` sums from fd; what the file lacks is
 * 0. */
int pagesums_save(struct pagesums *s, int fd);
int pagesums_load(struct pagesums *s, int fd, uint32_t count);

/*
 * The same as pagesums_save for a caller who may not do I/O while the sums are locked: takes the
 * first dirty block from *block on as it is in the file, and its mark with it. Returns the number
 * of sums in it, 0 if no block is dirty. A caller who then fails to write it marks it again.
 */
#define PAGESUMS_FILE_BLOCK 512u
uint32_t pagesums_take_dirty(struct pagesums *s, uint32_t *block,
                             uint64_t out[PAGESUMS_FILE_BLOCK]);
void pagesums_mark_dirty(struct pagesums *s, uint32_t block);

#endif
