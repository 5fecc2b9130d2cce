/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LTX_BASE_BUF_H
#define LTX_BASE_BUF_H

#include <stddef.h>
#include <stdint.h>

/*
 * A growable byte buffer. A zeroed struct is an empty buffer without a limit. Appending fails with
 * -ERR_LIMIT past `limit` bytes (0: none) and with -ERR_NOMEM; a failed append leaves it unchanged.
 */
struct buf {
    uint8_t *data;
    size_t len;
    size_t cap;
    size_t limit;
};

void buf_fini(struct buf *b);                              /* frees; the struct is empty after */
void buf_reset(struct buf *b);                             /* length 0, memory kept */
int buf_reserve(struct buf *b, size_t extra);              /* room for `extra` more bytes */
int buf_append(struct buf *b, const void *data, size_t n); /* copies */
int buf_put_u8(struct buf *b, uint8_t v);
int buf_put_be16(struct buf *b, uint16_t v);
int buf_put_be32(struct buf *b, uint32_t v);
int buf_put_be64(struct buf *b, uint64_t v);
int buf_put_uvarint(struct buf *b, uint64_t v);
int buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
