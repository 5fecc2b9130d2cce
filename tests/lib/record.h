/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_LIB_RECORD_H
#define TESTS_LIB_RECORD_H

#include <stddef.h>
#include <stdint.h>

#include "ltx/base/buf.h"
#include "ltx/decode.h"
#include "ltx/encode.h"

/* Records in memory, and a database in memory from which transactions are made. */

struct ltx_sink sink_buf(struct buf *b);

struct image {
    uint8_t *pages;
    uint32_t page_size, commit;
    uint64_t txid, checksum;
};
/* Page `pgno` of the image. */
uint8_t *image_page(const struct image *m, uint32_t pgno);
uint64_t image_checksum(const struct image *m);
/* A database with nothing in it, before its first transaction. */
void image_init(struct image *m, uint32_t page_size);
void image_fini(struct image *m);
/*
 * One random transaction that leaves `commit` pages: changes some pages, puts all new ones, and
 * appends its record to `out` (reset before). The first is a snapshot.
 */
void image_transaction(struct image *m, uint32_t commit, struct buf *out);

#endif
