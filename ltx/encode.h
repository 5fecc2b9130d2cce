/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LTX_ENCODE_H
#define LTX_ENCODE_H

#include <stdint.h>

#include "ltx/base/buf.h"
#include "ltx/format.h"

/*
 * Writes one record front to back: ltx_encode_begin, ltx_encode_page in rising page number, then
 * ltx_encode_finish; ltx_encode_fini releases at any point. The bytes go to `sink` in pieces, in
 * order.
 */
struct ltx_sink {
    int (*write)(void *ctx, const void *data,
                 size_t n); /* 0 or a negated code, which ends the record */
    void *ctx;
};

struct ltx_encoder {
    struct ltx_sink sink;
    struct ltx_header header;
    struct buf index;
    uint8_t *scratch;
    size_t scratch_size;
    uint64_t crc;
    uint64_t offset; /* bytes handed to the sink so far */
    uint32_t last_pgno;
};

/* `header` is copied. A zeroed encoder, or one that was fini'd, may begin; scratch memory is
 * reused. */
int ltx_encode_begin(struct ltx_encoder *e, struct ltx_sink sink, const struct ltx_header *header);
/* The caller never passes the lock page or a page above commit (asserted, I3). */
int ltx_encode_page(struct ltx_encoder *e, uint32_t pgno, const void *page);
/* `post_checksum` of the database after the record (0 with LTX_NO_CHECKSUM). *size: bytes in all.
 */
int ltx_encode_finish(struct ltx_encoder *e, uint64_t post_checksum, uint64_t *size);
void ltx_encode_fini(struct ltx_encoder *e);

#endif
