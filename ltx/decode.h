/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LTX_DECODE_H
#define LTX_DECODE_H

#include <stdbool.h>
#include <stdint.h>

#include "ltx/base/buf.h"
#include "ltx/format.h"

/*
 * Reads one record. Structure and each page are checked as they are handed out; the file checksum
 * is known only at the end, so a caller that acts on pages first runs ltx_verify over the record,
 * or undoes what it did when ltx_decode_page fails.
 */
struct ltx_source {
    /* Reads exactly n bytes at offset `off` of the record. -ERR_TRUNCATED past its end. */
    int (*read)(void *ctx, uint64_t off, void *buf, size_t n);
    void *ctx;
    uint64_t size; /* of the record, bytes */
};

struct ltx_decoder {
    struct ltx_source source;
    struct ltx_header header;
    struct buf index; /* the index that the pages imply, compared at the end */
    uint8_t *window;  /* read-ahead */
    size_t window_len, window_size;
    uint64_t window_off;
    uint64_t crc;
    uint64_t offset;
    uint32_t last_pgno;
    uint64_t post_checksum; /* valid after the end */
    bool ended;
    char fault[128]; /* one clause for people, after a function failed */
};

/* Reads and checks the header. A zeroed or fini'd decoder may begin. On failure nothing is held. */
int ltx_decode_begin(struct ltx_decoder *d, struct ltx_source source);
/*
 * The next page into `page` (header.page_size bytes). 1 and *pgno set: a page; 0: the end, and
 * index, trailer and file checksum were right; negative: a fault, which d->fault names.
 * After a fault the decoder can only be fini'd.
 */
int ltx_decode_page(struct ltx_decoder *d, uint32_t *pgno, void *page);
void ltx_decode_fini(struct ltx_decoder *d);

/*
 * Checks a whole record and gives its header and post-apply checksum (each may be NULL). The pages
 * of a snapshot must also give the post-apply checksum. On a fault `why` (may be
 * NULL) receives one clause for people ("page 7: out of order").
 */
int ltx_verify(struct ltx_source source, struct ltx_header *header, uint64_t *post_checksum,
               char *why, size_t why_size);

/* Sources over memory and over a range of a file. `memory` and `file` stay the caller's. */
struct ltx_memory {
    const uint8_t *data;
    size_t size;
};
struct ltx_source ltx_source_memory(struct ltx_memory *memory);
struct ltx_file_range {
    int fd;
    int64_t off;
};
struct ltx_source ltx_source_file(struct ltx_file_range *range, uint64_t size);

#endif
