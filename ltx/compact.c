/* SPDX-License-Identifier: Apache-2.0 */
#include "ltx/compact.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/sparse.h"
#include "ltx/pagespool.h"

/* Pages that lie side by side are written together, up to this many bytes. */
#define RUN_BYTES (256u << 10)

/*
 * Whether `next` takes a database at the end of `sum` further. A merged record may begin earlier
 * than that end (records hold whole pages); its own checksum before is then not known here.
 */
static bool follows_on(const struct ltx_header *sum, uint64_t post, const struct ltx_header *next)
{
    if (next->min_txid > sum->max_txid + 1 || next->max_txid <= sum->max_txid)
        return false;
    if (next->min_txid != sum->max_txid + 1 || ((sum->flags | next->flags) & LTX_NO_CHECKSUM))
        return true;
    return next->pre_checksum == post;
}

/* Adds the next record to the spool and to the header of the sum. */
static int add_record(struct pagespool *spool, struct ltx_source source, bool first,
                      struct ltx_header *sum, uint64_t *post)
{
    struct ltx_header h;
    uint64_t h_post;
    int rc = pagespool_put_record(spool, source, &h, &h_post);
    if (rc < 0)
        return rc;
    if (!first && !follows_on(sum, *post, &h))
        return -ERR_POSITION;
    struct ltx_header merged = h;
    if (!first) {
        merged.wal_offset = merged.wal_size = 0;
        merged.wal_salt1 = merged.wal_salt2 = 0;
    }
    if (!first && !ltx_header_is_snapshot(&h)) {
        merged.min_txid = sum->min_txid;
        merged.pre_checksum = sum->pre_checksum;
        /* What any of them does not know, the sum cannot state. */
        merged.flags |= sum->flags;
    }
    *sum = merged;
    *post = h_post;
    return 0;
}

/* A sum that begins at the first transaction must hold every page, or a source was not true. */
static bool is_whole(const struct pagespool *spool, const struct ltx_header *h)
{
    if (!ltx_header_is_snapshot(h))
        return true;
    bool has_lock_page = h->commit >= ltx_lock_pgno(h->page_size);
    return spool->order_len == h->commit - (has_lock_page ? 1 : 0);
}

static int encode_spool(struct pagespool *spool, const struct ltx_header *header, uint64_t post,
                        struct ltx_sink sink)
{
    uint8_t *page = malloc(header->page_size);
    if (page == NULL)
        return -ERR_NOMEM;
    struct ltx_encoder e = {0};
    uint64_t size;
    int rc = ltx_encode_begin(&e, sink, header);
    for (uint32_t i = 0; rc == 0 && i < spool->order_len; i++) {
        uint32_t pgno;
        rc = pagespool_read(spool, i, &pgno, page);
        if (rc == 0)
            rc = ltx_encode_page(&e, pgno, page);
    }
    if (rc == 0)
        rc = ltx_encode_finish(&e, post, &size);
    ltx_encode_fini(&e);
    free(page);
    return rc;
}

struct run {
    struct sparse file;
    uint32_t page_size;
    uint8_t *bytes;
    size_t len, room;
    uint32_t next; /* the page that would prolong the run */
};

static int run_flush(struct run *r)
{
    if (r->len == 0)
        return 0;
    int64_t end = (int64_t)(r->next - 1) * r->page_size;
    int rc = sparse_write(&r->file, r->bytes, r->len, end - (int64_t)r->len);
    r->len = 0;
    return rc;
}

/* Decodes each page into the run, or, where it does not prolong it, moves it to a new one's start.
 */
static int apply_pages(struct ltx_decoder *d, struct run *r)
{
    for (;;) {
        if (r->len + r->page_size > r->room) {
            int rc = run_flush(r);
            if (rc < 0)
                return rc;
        }
        uint32_t pgno;
        uint8_t *page = r->bytes + r->len;
        int rc = ltx_decode_page(d, &pgno, page);
        if (rc < 0)
            return rc;
        if (rc == 0)
            return run_flush(r);
        if (r->len > 0 && pgno != r->next) {
            rc = run_flush(r);
            if (rc < 0)
                return rc;
            memmove(r->bytes, page, r->page_size);
        }
        r->len += r->page_size;
        r->next = pgno + 1;
    }
}

int compact_records(struct ltx_source *sources, uint32_t count, int dirfd, uint32_t flags,
                    struct ltx_sink sink, struct ltx_header *header, uint64_t *post_checksum)
{
    if (count == 0 || (flags & ~LTX_NO_CHECKSUM) != 0)
        return -ERR_INVALID;
    struct pagespool spool;
    int rc = pagespool_open(&spool, dirfd, LTX_MIN_PAGE_SIZE);
    if (rc < 0)
        return rc;
    struct ltx_header sum = {0};
    uint64_t post = 0;
    for (uint32_t i = 0; rc == 0 && i < count; i++)
        rc = add_record(&spool, sources[i], i == 0, &sum, &post);
    if (rc == 0 && (sum.flags & ~flags & LTX_NO_CHECKSUM) != 0)
        rc = -ERR_INVALID;
    if (rc == 0 && (flags & LTX_NO_CHECKSUM) != 0) {
        sum.flags = LTX_NO_CHECKSUM;
        sum.pre_checksum = 0;
        post = 0;
    }
    if (rc == 0)
        rc = pagespool_sort(&spool, sum.commit);
    if (rc == 0 && !is_whole(&spool, &sum))
        rc = -ERR_CORRUPT;
    if (rc == 0)
        rc = encode_spool(&spool, &sum, post, sink);
    pagespool_close(&spool);
    if (rc < 0)
        return rc;
    *header = sum;
    *post_checksum = post;
    return 0;
}

int apply_pages_to_file(struct ltx_decoder *d, int fd)
{
    struct run r = {.page_size = d->header.page_size, .room = RUN_BYTES};
    r.bytes = malloc(r.room);
    sparse_begin(&r.file, fd);
    int rc = r.bytes == NULL ? -ERR_NOMEM : apply_pages(d, &r);
    if (rc == 0)
        rc = sparse_set_size(&r.file, (int64_t)d->header.commit * r.page_size);
    free(r.bytes);
    return rc;
}

int apply_record_to_file(struct ltx_source source, int fd, char *why, size_t why_size)
{
    struct ltx_header h;
    int rc = ltx_verify(source, &h, NULL, why, why_size);
    if (rc < 0)
        return rc;
    struct ltx_decoder d = {0};
    rc = ltx_decode_begin(&d, source);
    if (rc == 0)
        rc = apply_pages_to_file(&d, fd);
    if (rc < 0 && why != NULL)
        snprintf(why, why_size, "%s", d.fault[0] != '\0' ? d.fault : err_text(rc));
    ltx_decode_fini(&d);
    return rc;
}
