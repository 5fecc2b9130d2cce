/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/record.h"

#include <stdlib.h>
#include <string.h>

#include "ltx/base/assert.h"
#include "ltx/checksum.h"
#include "tests/lib/dice.h"

static int append(void *ctx, const void *data, size_t n)
{
    return buf_append(ctx, data, n);
}

struct ltx_sink sink_buf(struct buf *b)
{
    return (struct ltx_sink){.write = append, .ctx = b};
}

uint8_t *image_page(const struct image *m, uint32_t pgno)
{
    return m->pages + (size_t)(pgno - 1) * m->page_size;
}

uint64_t image_checksum(const struct image *m)
{
    uint64_t sum = LTX_EMPTY_CHECKSUM;
    for (uint32_t pgno = 1; pgno <= m->commit; pgno++)
        sum = checksum_toggle(sum, checksum_page(pgno, image_page(m, pgno), m->page_size));
    return sum;
}

void image_init(struct image *m, uint32_t page_size)
{
    *m = (struct image){.page_size = page_size};
}

void image_fini(struct image *m)
{
    free(m->pages);
    *m = (struct image){0};
}

void image_transaction(struct image *m, uint32_t commit, struct buf *out)
{
    struct ltx_header h = {
        .page_size = m->page_size,
        .commit = commit,
        .min_txid = m->txid + 1,
        .max_txid = m->txid + 1,
        .timestamp_ms = 1700000000000 + (int64_t)m->txid,
        .pre_checksum = m->checksum,
        .wal_offset = 32,
        .wal_size = 4120,
        .wal_salt1 = 7,
        .wal_salt2 = 9,
        .node_id = 42,
    };
    uint32_t before = m->commit;
    m->pages = realloc(m->pages, (size_t)commit * m->page_size + 1);
    ASSERT(m->pages != NULL, "a test has memory");
    m->commit = commit;
    struct ltx_encoder e = {0};
    buf_reset(out);
    int rc = ltx_encode_begin(&e, sink_buf(out), &h);
    for (uint32_t pgno = 1; rc == 0 && pgno <= commit; pgno++) {
        if (pgno <= before && dice_below(3) != 0)
            continue;
        dice_page(image_page(m, pgno), m->page_size);
        rc = ltx_encode_page(&e, pgno, image_page(m, pgno));
    }
    m->txid++;
    m->checksum = image_checksum(m);
    uint64_t size;
    if (rc == 0)
        rc = ltx_encode_finish(&e, m->checksum, &size);
    ASSERT(rc == 0 && size == out->len, "a record can be made");
    ltx_encode_fini(&e);
}
