/* SPDX-License-Identifier: Apache-2.0 */
#include "ltx/decode.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/bytes.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/checksum.h"
#include "ltx/compress.h"

#define WINDOW_MAX (256u << 10)
#define ENTRY_HEADER_SIZE (LTX_PAGE_HEADER_SIZE + LTX_PAGE_SIZE_FIELD)
/* What an LZ4 frame adds to its one block: header, size, two checksums, end mark. */
#define FRAME_OVERHEAD 64u

__attribute__((format(printf, 2, 3))) static void note_fault(struct ltx_decoder *d, const char *fmt,
                                                             ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(d->fault, sizeof d->fault, fmt, args);
    va_end(args);
}

/* The code, having noted what is wrong. */
#define fault(d, rc, ...) (note_fault(d, __VA_ARGS__), (rc))

/*
 * Makes *p point to the next n bytes of the record (n at most WINDOW_MAX), reading ahead. `what`
 * says in a fault what was being read. Does not consume them.
 */
static int peek(struct ltx_decoder *d, size_t n, const uint8_t **p, const char *what)
{
    uint64_t left = d->source.size - d->offset;
    if (n > left)
        return fault(d, -ERR_TRUNCATED, "cut within %s, at byte %" PRIu64, what, d->source.size);
    uint64_t skip = d->offset - d->window_off;
    if (skip > d->window_len || n > d->window_len - skip) {
        size_t step = left < d->window_size ? (size_t)left : d->window_size;
        d->window_len = 0;
        int rc = d->source.read(d->source.ctx, d->offset, d->window, step);
        if (rc < 0)
            return fault(d, rc, "%s cannot be read at byte %" PRIu64 ": %s", what, d->offset,
                         err_text(rc));
        d->window_off = d->offset;
        d->window_len = step;
        skip = 0;
    }
    *p = d->window + skip;
    return 0;
}

static int check_pgno(struct ltx_decoder *d, uint32_t pgno)
{
    const struct ltx_header *h = &d->header;
    if (pgno <= d->last_pgno)
        return fault(d, -ERR_CORRUPT, "page %" PRIu32 " after page %" PRIu32 ": out of order", pgno,
                     d->last_pgno);
    if (pgno > h->commit)
        return fault(d, -ERR_CORRUPT, "page %" PRIu32 " in a database of %" PRIu32 " pages", pgno,
                     h->commit);
    if (pgno == ltx_lock_pgno(h->page_size))
        return fault(d, -ERR_CORRUPT, "page %" PRIu32 " is the lock page", pgno);
    if (ltx_header_is_snapshot(h) && pgno != ltx_snapshot_next(h->page_size, d->last_pgno))
        return fault(d, -ERR_CORRUPT, "a snapshot without page %" PRIu64,
                     ltx_snapshot_next(h->page_size, d->last_pgno));
    return 0;
}

/* The data of a page as one LZ4 block behind a size field. *used: bytes of the entry in all. */
static int read_block(struct ltx_decoder *d, uint32_t pgno, void *page, const uint8_t **entry,
                      size_t *used)
{
    int rc = peek(d, ENTRY_HEADER_SIZE, entry, "the header of a page");
    if (rc < 0)
        return rc;
    size_t n = get_be32(*entry + LTX_PAGE_HEADER_SIZE);
    if (n == 0 || n > compress_bound(d->header.page_size))
        return fault(d, -ERR_CORRUPT, "page %" PRIu32 ": %zu bytes cannot be a compressed page",
                     pgno, n);
    rc = peek(d, ENTRY_HEADER_SIZE + n, entry, "a page");
    if (rc < 0)
        return rc;
    if (decompress_page(*entry + ENTRY_HEADER_SIZE, n, page, d->header.page_size) < 0)
        return fault(d, -ERR_CORRUPT, "page %" PRIu32 " does not decompress to one page", pgno);
    *used = ENTRY_HEADER_SIZE + n;
    return 0;
}

/* The same as an LZ4 frame, which says itself where it ends. */
static int read_frame(struct ltx_decoder *d, uint32_t pgno, void *page, const uint8_t **entry,
                      size_t *used)
{
    uint64_t left = d->source.size - d->offset;
    size_t room = LTX_PAGE_HEADER_SIZE + compress_bound(d->header.page_size) + FRAME_OVERHEAD;
    if (room > left)
        room = (size_t)left;
    int rc = peek(d, room, entry, "a page");
    if (rc < 0)
        return rc;
    size_t n;
    rc = decompress_page_frame(*entry + LTX_PAGE_HEADER_SIZE, room - LTX_PAGE_HEADER_SIZE, page,
                               d->header.page_size, &n);
    if (rc < 0)
        return fault(d, rc, "page %" PRIu32 " is not an LZ4 frame of one page", pgno);
    *used = LTX_PAGE_HEADER_SIZE + n;
    return 0;
}

/* Index and trailer, which are known from the pages but for two checksums. */
static int read_end(struct ltx_decoder *d)
{
    int rc = buf_put_uvarint(&d->index, 0);
    if (rc == 0)
        rc = buf_put_be64(&d->index, d->index.len);
    if (rc < 0)
        return fault(d, rc, "no memory for the index");
    const uint8_t *p;
    for (size_t done = 0, step; done < d->index.len; done += step) {
        step = d->index.len - done < d->window_size ? d->index.len - done : d->window_size;
        rc = peek(d, step, &p, "the index");
        if (rc < 0)
            return rc;
        if (memcmp(p, d->index.data + done, step) != 0)
            return fault(d, -ERR_CORRUPT, "the index does not match the pages");
        d->offset += step;
    }
    d->crc = checksum_update(d->crc, d->index.data, d->index.len);
    rc = peek(d, LTX_TRAILER_SIZE, &p, "the trailer");
    if (rc < 0)
        return rc;
    uint64_t post = get_be64(p), stated = get_be64(p + 8);
    uint64_t crc = checksum_update(d->crc, p, 8) | LTX_CHECKSUM_BIT;
    d->offset += LTX_TRAILER_SIZE;
    if (d->offset != d->source.size)
        return fault(d, -ERR_CORRUPT, "bytes after the trailer: %" PRIu64,
                     d->source.size - d->offset);
    if (crc != stated)
        return fault(d, -ERR_CHECKSUM,
                     "file checksum %016" PRIx64 ", but the trailer says %016" PRIx64, crc, stated);
    if (!ltx_post_checksum_valid(&d->header, post))
        return fault(d, -ERR_CORRUPT, "post-apply checksum %016" PRIx64 " is not allowed here",
                     post);
    d->post_checksum = post;
    d->ended = true;
    return 0;
}

static int read_header(struct ltx_decoder *d)
{
    if (d->source.size < LTX_MIN_FILE_SIZE)
        return fault(d, -ERR_TRUNCATED, "%" PRIu64 " bytes, and a record has at least %d",
                     d->source.size, LTX_MIN_FILE_SIZE);
    const uint8_t *p;
    int rc = peek(d, LTX_HEADER_SIZE, &p, "the header");
    if (rc < 0)
        return rc;
    if (ltx_header_decode(p, &d->header) < 0)
        return fault(d, -ERR_CORRUPT, "%s", ltx_header_fault(p));
    d->crc = checksum_update(0, p, LTX_HEADER_SIZE);
    d->offset = LTX_HEADER_SIZE;
    return 0;
}

static int read_memory(void *ctx, uint64_t off, void *out, size_t n)
{
    const struct ltx_memory *m = ctx;
    if (off > m->size || n > m->size - off)
        return -ERR_TRUNCATED;
    memcpy(out, m->data + off, n);
    return 0;
}

static int read_file_range(void *ctx, uint64_t off, void *out, size_t n)
{
    const struct ltx_file_range *range = ctx;
    return file_read(range->fd, out, n, range->off + (int64_t)off);
}

int ltx_decode_begin(struct ltx_decoder *d, struct ltx_source source)
{
    *d = (struct ltx_decoder){.source = source};
    d->window_size = source.size < WINDOW_MAX ? (size_t)source.size : WINDOW_MAX;
    d->window = malloc(d->window_size + 1);
    int rc = d->window == NULL ? fault(d, -ERR_NOMEM, "no memory to read it") : read_header(d);
    if (rc < 0)
        ltx_decode_fini(d);
    return rc;
}

int ltx_decode_page(struct ltx_decoder *d, uint32_t *pgno, void *page)
{
    static const uint8_t end_mark[LTX_PAGE_HEADER_SIZE];
    if (d->ended)
        return 0;
    const struct ltx_header *h = &d->header;
    const uint8_t *entry;
    int rc = peek(d, LTX_PAGE_HEADER_SIZE, &entry, "the pages");
    if (rc < 0)
        return rc;
    if (memcmp(entry, end_mark, sizeof end_mark) == 0) {
        if (ltx_header_is_snapshot(h) && ltx_snapshot_next(h->page_size, d->last_pgno) <= h->commit)
            return fault(d, -ERR_CORRUPT, "a snapshot without page %" PRIu64,
                         ltx_snapshot_next(h->page_size, d->last_pgno));
        d->crc = checksum_update(d->crc, entry, sizeof end_mark);
        d->offset += sizeof end_mark;
        return read_end(d);
    }
    uint32_t number = get_be32(entry);
    unsigned flags = get_be16(entry + 4);
    rc = check_pgno(d, number);
    if (rc < 0)
        return rc;
    if ((flags & ~LTX_PAGE_SIZED) != 0)
        return fault(d, -ERR_CORRUPT, "page %" PRIu32 ": unknown flags %#x", number, flags);
    size_t used = 0, covered = flags & LTX_PAGE_SIZED ? ENTRY_HEADER_SIZE : LTX_PAGE_HEADER_SIZE;
    if (flags & LTX_PAGE_SIZED)
        rc = read_block(d, number, page, &entry, &used);
    else
        rc = read_frame(d, number, page, &entry, &used);
    if (rc < 0)
        return rc;
    d->crc = checksum_update(d->crc, entry, covered);
    d->crc = checksum_update(d->crc, page, h->page_size);

    uint8_t row[3 * UVARINT_MAX];
    size_t len = put_uvarint(row, number);
    len += put_uvarint(row + len, d->offset);
    len += put_uvarint(row + len, used);
    rc = buf_append(&d->index, row, len);
    if (rc < 0)
        return fault(d, rc, "no memory for the index");
    d->offset += used;
    d->last_pgno = number;
    *pgno = number;
    return 1;
}

void ltx_decode_fini(struct ltx_decoder *d)
{
    buf_fini(&d->index);
    free(d->window);
    d->window = NULL;
    d->window_len = d->window_size = 0;
}

int ltx_verify(struct ltx_source source, struct ltx_header *header, uint64_t *post_checksum,
               char *why, size_t why_size)
{
    struct ltx_decoder d;
    uint8_t *page = NULL;
    int rc = ltx_decode_begin(&d, source);
    if (rc == 0) {
        page = malloc(d.header.page_size);
        if (page == NULL)
            rc = fault(&d, -ERR_NOMEM, "no memory for a page");
    }
    bool total_known =
        rc == 0 && ltx_header_is_snapshot(&d.header) && (d.header.flags & LTX_NO_CHECKSUM) == 0;
    uint64_t total = LTX_EMPTY_CHECKSUM;
    uint32_t pgno;
    while (rc == 0 && !d.ended) {
        rc = ltx_decode_page(&d, &pgno, page);
        if (rc <= 0)
            break;
        if (total_known)
            total = checksum_toggle(total, checksum_page(pgno, page, d.header.page_size));
        rc = 0;
    }
    if (rc == 0 && total_known && total != d.post_checksum)
        rc = fault(&d, -ERR_CHECKSUM,
                   "the pages give database checksum %016" PRIx64
                   ", but the trailer says %016" PRIx64,
                   total, d.post_checksum);
    if (rc == 0 && header != NULL)
        *header = d.header;
    if (rc == 0 && post_checksum != NULL)
        *post_checksum = d.post_checksum;
    if (rc < 0 && why != NULL)
        snprintf(why, why_size, "%s", d.fault);
    free(page);
    ltx_decode_fini(&d);
    return rc;
}

struct ltx_source ltx_source_memory(struct ltx_memory *memory)
{
    return (struct ltx_source){.read = read_memory, .ctx = memory, .size = memory->size};
}

struct ltx_source ltx_source_file(struct ltx_file_range *range, uint64_t size)
{
    return (struct ltx_source){.read = read_file_range, .ctx = range, .size = size};
}
