/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_DB_FREELIST_H
#define FS_DB_FREELIST_H

#include <stdint.h>

/*
 * The unused pages of a SQLite database (https://www.sqlite.org/fileformat2.html, 1.5), big-endian:
 * byte 32 of page 1 is the number of the first trunk page, 0 if there is none. A trunk page:
 *    0  4  number of the next trunk page, 0 at the end
 *    4  4  number of leaves it names
 *    8  4  page number of each leaf
 *
 * SQLite does not put a leaf into the rollback journal when it takes it into use: what was in it
 * means nothing to it. After a rollback the page may hold other bytes than before.
 *
 * Calls `visit` for each leaf, until it fails. Numbers that make no sense end the walk. Blocks.
 */
struct freelist_walk {
    int (*read)(void *ctx, uint32_t pgno, void *page);
    int (*visit)(void *ctx, uint32_t pgno);
    void *ctx;
};
int freelist_leaves(struct freelist_walk walk, uint32_t page_size, uint32_t page_count);

#endif
