/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "ltx/base/bytes.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/checksum.h"
#include "ltx/txlog_internal.h"

/* The bytes of a segment; txlog.h has the table. */

static const uint8_t segment_magic[8] = {'T', 'F', 'S', 'E', 'G', '0', '0', '1'};
static const uint8_t frame_magic[4] = {'T', 'F', 'R', 'M'};

#define HEADER_CRC_AT 40
#define FRAME_CRC_AT 40

static bool is_zero(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] != 0)
            return false;
    return true;
}

static uint64_t frame_crc(uint64_t salt, const uint8_t *frame)
{
    uint8_t bytes[8];
    put_be64(bytes, salt);
    return checksum_update(checksum_update(0, bytes, sizeof bytes), frame, FRAME_CRC_AT);
}

int segment_header_write(int fd, const struct segment_header *h)
{
    uint8_t out[TXLOG_SEGMENT_HEADER];
    memcpy(out, segment_magic, sizeof segment_magic);
    put_be64(out + 8, h->salt);
    put_be64(out + 16, h->base.txid);
    put_be64(out + 24, h->base.checksum);
    put_be32(out + 32, h->flags);
    put_be32(out + 36, h->sequence);
    put_be64(out + HEADER_CRC_AT, checksum_update(0, out, HEADER_CRC_AT));
    return file_write(fd, out, sizeof out, 0);
}

int segment_header_read(int fd, struct segment_header *h, bool *blank)
{
    uint8_t in[TXLOG_SEGMENT_HEADER] = {0};
    size_t got;
    int rc = file_read_some(fd, in, sizeof in, 0, &got);
    if (rc < 0)
        return rc;
    *blank = got < sizeof in || is_zero(in, sizeof in);
    if (got < sizeof in || memcmp(in, segment_magic, sizeof segment_magic) != 0 ||
        get_be64(in + HEADER_CRC_AT) != checksum_update(0, in, HEADER_CRC_AT))
        return -ERR_CORRUPT;
    h->salt = get_be64(in + 8);
    h->base = (struct position){get_be64(in + 16), get_be64(in + 24)};
    h->flags = get_be32(in + 32);
    h->sequence = get_be32(in + 36);
    return 0;
}

void segment_frame_encode(const struct txlog_frame *f, uint64_t salt,
                          uint8_t out[TXLOG_FRAME_HEADER])
{
    memcpy(out, frame_magic, sizeof frame_magic);
    put_be32(out + 4, f->flags);
    put_be64(out + 8, f->size);
    put_be64(out + 16, f->max_txid);
    put_be64(out + 24, f->post_checksum);
    put_be64(out + 32, f->body_crc);
    put_be64(out + FRAME_CRC_AT, frame_crc(salt, out));
}

int segment_frame_read(int fd, uint64_t salt, int64_t off, int64_t end, struct txlog_frame *f)
{
    uint8_t in[TXLOG_FRAME_HEADER + LTX_HEADER_SIZE] = {0};
    size_t got = 0;
    if (off < end) {
        size_t want = end - off < (int64_t)sizeof in ? (size_t)(end - off) : sizeof in;
        int rc = file_read_some(fd, in, want, off, &got);
        if (rc < 0)
            return rc;
    }
    if (is_zero(in, TXLOG_FRAME_HEADER))
        return -ERR_NOTFOUND;
    if (got < sizeof in || memcmp(in, frame_magic, sizeof frame_magic) != 0 ||
        get_be64(in + FRAME_CRC_AT) != frame_crc(salt, in))
        return -ERR_CORRUPT;
    f->flags = get_be32(in + 4);
    f->size = get_be64(in + 8);
    f->max_txid = get_be64(in + 16);
    f->post_checksum = get_be64(in + 24);
    f->body_crc = get_be64(in + 32);
    uint64_t room = (uint64_t)(end - off) - TXLOG_FRAME_HEADER;
    if ((f->flags & ~TXLOG_REBASE) != 0 || f->size < LTX_MIN_FILE_SIZE || f->size > room)
        return -ERR_CORRUPT;
    if (ltx_header_decode(in + TXLOG_FRAME_HEADER, &f->header) < 0 ||
        f->header.max_txid != f->max_txid)
        return -ERR_CORRUPT;
    return 0;
}

bool segment_follows(struct position last, uint32_t flags, const struct ltx_header *h)
{
    if (flags & TXLOG_REBASE)
        return true;
    if (h->min_txid > last.txid + 1 || h->max_txid <= last.txid)
        return false;
    /* The checksum inside a merged record is not known; the database's own sums tell. */
    if (h->min_txid <= last.txid || ltx_header_is_snapshot(h))
        return true;
    return h->pre_checksum == last.checksum;
}

int segment_check_body(int fd, int64_t off, const struct txlog_frame *f, uint8_t *buffer)
{
    uint64_t crc = 0;
    uint8_t trailer[LTX_TRAILER_SIZE];
    for (uint64_t done = 0; done < f->size;) {
        size_t n =
            f->size - done < SEGMENT_SCAN_BYTES ? (size_t)(f->size - done) : SEGMENT_SCAN_BYTES;
        int rc = file_read(fd, buffer, n, off + (int64_t)done);
        if (rc < 0)
            return rc;
        crc = checksum_update(crc, buffer, n);
        done += n;
    }
    if (crc != f->body_crc)
        return -ERR_CHECKSUM;
    int rc = file_read(fd, trailer, sizeof trailer, off + (int64_t)f->size - LTX_TRAILER_SIZE);
    if (rc < 0)
        return rc;
    return get_be64(trailer) == f->post_checksum ? 0 : -ERR_CHECKSUM;
}

/* One step of a scan: 0 and *f, or -ERR_NOTFOUND at the end with *torn, or a failure to read. */
static int scan_frame(const struct txlog_part *p, int fd, int64_t file_size, uint8_t *buffer,
                      struct txlog_frame *f, const char **torn)
{
    int rc = segment_frame_read(fd, p->salt, p->end, file_size, f);
    *torn = NULL;
    if (rc == -ERR_CORRUPT) {
        *torn = "the frame is not whole";
        return -ERR_NOTFOUND;
    }
    if (rc < 0)
        return rc;
    bool first = p->end == TXLOG_SEGMENT_HEADER;
    if (((f->flags & TXLOG_REBASE) && !first) || !segment_follows(p->last, f->flags, &f->header)) {
        *torn = "the record does not follow on the one before";
        return -ERR_NOTFOUND;
    }
    rc = segment_check_body(fd, p->end + TXLOG_FRAME_HEADER, f, buffer);
    if (rc == -ERR_CHECKSUM || rc == -ERR_TRUNCATED) {
        *torn = "the record does not match its checksum";
        return -ERR_NOTFOUND;
    }
    return rc;
}

void segment_add(struct txlog_part *p, const struct txlog_frame *f)
{
    bool rebase = (f->flags & TXLOG_REBASE) != 0;
    if (!rebase)
        part_mark(p, p->last, p->end);
    p->last = (struct position){f->max_txid, f->post_checksum};
    p->end += TXLOG_FRAME_HEADER + (int64_t)f->size;
    p->newest_ms = f->header.timestamp_ms;
    if (rebase) {
        p->rebase = true;
        p->start = p->last;
        p->first_off = p->end;
    }
}

int segment_scan(struct txlog_part *p, int fd, int64_t file_size, const char **torn)
{
    uint8_t *buffer = malloc(SEGMENT_SCAN_BYTES);
    if (buffer == NULL)
        return -ERR_NOMEM;
    p->end = TXLOG_SEGMENT_HEADER;
    p->start = p->last = p->base;
    p->rebase = false;
    p->first_off = p->end;
    int rc;
    for (;;) {
        struct txlog_frame f;
        rc = scan_frame(p, fd, file_size, buffer, &f, torn);
        if (rc < 0)
            break;
        segment_add(p, &f);
    }
    free(buffer);
    return rc == -ERR_NOTFOUND ? 0 : rc;
}
