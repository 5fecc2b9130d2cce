/* SPDX-License-Identifier: Apache-2.0 */
#include "ltx/encode.h"

#include <stdlib.h>
#include <string.h>

#include "ltx/base/assert.h"
#include "ltx/base/bytes.h"
#include "ltx/base/err.h"
#include "ltx/checksum.h"
#include "ltx/compress.h"

#define ENTRY_HEADER_SIZE (LTX_PAGE_HEADER_SIZE + LTX_PAGE_SIZE_FIELD)

static int emit(struct ltx_encoder *e, const void *data, size_t n)
{
    int rc = e->sink.write(e->sink.ctx, data, n);
    if (rc == 0)
        e->offset += n;
    return rc;
}

/* Room for the longest entry; kept from one record to the next. */
static int reserve_scratch(struct ltx_encoder *e, size_t need)
{
    if (e->scratch_size >= need)
        return 0;
    uint8_t *scratch = realloc(e->scratch, need);
    if (scratch == NULL)
        return -ERR_NOMEM;
    e->scratch = scratch;
    e->scratch_size = need;
    return 0;
}

/* The list of the index was built on the way; its end mark and length close it. */
static int close_index(struct ltx_encoder *e)
{
    int rc = buf_put_uvarint(&e->index, 0);
    if (rc == 0)
        rc = buf_put_be64(&e->index, e->index.len - LTX_PAGE_HEADER_SIZE);
    return rc;
}

int ltx_encode_begin(struct ltx_encoder *e, struct ltx_sink sink, const struct ltx_header *header)
{
    uint8_t bytes[LTX_HEADER_SIZE];
    struct ltx_header readable;
    ltx_header_encode(header, bytes);
    if (ltx_header_decode(bytes, &readable) < 0)
        return -ERR_INVALID;
    int rc = reserve_scratch(e, ENTRY_HEADER_SIZE + compress_bound(header->page_size));
    if (rc < 0)
        return rc;
    e->sink = sink;
    e->header = *header;
    e->crc = checksum_update(0, bytes, sizeof bytes);
    e->offset = 0;
    e->last_pgno = 0;
    /* What follows the last page leaves in one piece: the six zeros, the index, the trailer. */
    buf_reset(&e->index);
    rc = buf_append(&e->index, (uint8_t[LTX_PAGE_HEADER_SIZE]){0}, LTX_PAGE_HEADER_SIZE);
    if (rc < 0)
        return rc;
    return emit(e, bytes, sizeof bytes);
}

int ltx_encode_page(struct ltx_encoder *e, uint32_t pgno, const void *page)
{
    const struct ltx_header *h = &e->header;
    ASSERT(pgno > e->last_pgno && pgno <= h->commit, "I3: pages rise and end at commit");
    ASSERT(pgno != ltx_lock_pgno(h->page_size), "I3: the lock page is in no record");
    if (ltx_header_is_snapshot(h) && pgno != ltx_snapshot_next(h->page_size, e->last_pgno))
        return -ERR_INVALID;

    uint8_t *entry = e->scratch;
    size_t n = compress_page(page, h->page_size, entry + ENTRY_HEADER_SIZE,
                             e->scratch_size - ENTRY_HEADER_SIZE);
    put_be32(entry, pgno);
    put_be16(entry + 4, LTX_PAGE_SIZED);
    put_be32(entry + LTX_PAGE_HEADER_SIZE, (uint32_t)n);
    n += ENTRY_HEADER_SIZE;

    uint8_t row[3 * UVARINT_MAX];
    size_t len = put_uvarint(row, pgno);
    len += put_uvarint(row + len, e->offset);
    len += put_uvarint(row + len, n);
    int rc = buf_append(&e->index, row, len);
    if (rc < 0)
        return rc;
    e->crc = checksum_update(e->crc, entry, ENTRY_HEADER_SIZE);
    e->crc = checksum_update(e->crc, page, h->page_size);
    e->last_pgno = pgno;
    return emit(e, entry, n);
}

int ltx_encode_finish(struct ltx_encoder *e, uint64_t post_checksum, uint64_t *size)
{
    const struct ltx_header *h = &e->header;
    if (!ltx_post_checksum_valid(h, post_checksum))
        return -ERR_INVALID;
    if (ltx_header_is_snapshot(h) && ltx_snapshot_next(h->page_size, e->last_pgno) <= h->commit)
        return -ERR_INVALID;
    int rc = close_index(e);
    if (rc == 0)
        rc = buf_put_be64(&e->index, post_checksum);
    if (rc < 0)
        return rc;
    e->crc = checksum_update(e->crc, e->index.data, e->index.len) | LTX_CHECKSUM_BIT;
    rc = buf_put_be64(&e->index, e->crc);
    if (rc == 0)
        rc = emit(e, e->index.data, e->index.len);
    if (rc == 0)
        *size = e->offset;
    return rc;
}

void ltx_encode_fini(struct ltx_encoder *e)
{
    buf_fini(&e->index);
    free(e->scratch);
    memset(e, 0, sizeof *e);
}
