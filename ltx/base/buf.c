/* SPDX-License-Identifier: Apache-2.0 */
#include "ltx/base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/bytes.h"
#include "ltx/base/err.h"

#define FIRST_CAP 64

void buf_fini(struct buf *b)
{
    free(b->data);
    *b = (struct buf){0};
}

void buf_reset(struct buf *b)
{
    b->len = 0;
}

int buf_reserve(struct buf *b, size_t extra)
{
    if (extra > SIZE_MAX / 2 - b->len)
        return -ERR_LIMIT;
    size_t need = b->len + extra;
    if (b->limit != 0 && need > b->limit)
        return -ERR_LIMIT;
    if (need <= b->cap)
        return 0;
    size_t cap = b->cap < FIRST_CAP ? FIRST_CAP : b->cap;
    while (cap < need)
        cap *= 2;
    uint8_t *data = realloc(b->data, cap);
    if (data == NULL)
        return -ERR_NOMEM;
    b->data = data;
    b->cap = cap;
    return 0;
}

int buf_append(struct buf *b, const void *data, size_t n)
{
    int rc = buf_reserve(b, n);
    if (rc < 0)
        return rc;
    if (n > 0)
        memcpy(b->data + b->len, data, n);
    b->len += n;
    return 0;
}

int buf_put_u8(struct buf *b, uint8_t v)
{
    return buf_append(b, &v, 1);
}

int buf_put_be16(struct buf *b, uint16_t v)
{
    uint8_t bytes[2];
    put_be16(bytes, v);
    return buf_append(b, bytes, sizeof bytes);
}

int buf_put_be32(struct buf *b, uint32_t v)
{
    uint8_t bytes[4];
    put_be32(bytes, v);
    return buf_append(b, bytes, sizeof bytes);
}

int buf_put_be64(struct buf *b, uint64_t v)
{
    uint8_t bytes[8];
    put_be64(bytes, v);
    return buf_append(b, bytes, sizeof bytes);
}

int buf_put_uvarint(struct buf *b, uint64_t v)
{
    uint8_t bytes[UVARINT_MAX];
    return buf_append(b, bytes, put_uvarint(bytes, v));
}

int buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    int rc = n < 0 ? -ERR_INVALID : buf_reserve(b, (size_t)n);
    /* vsnprintf writes a NUL too, which is no part of the text and must not count against limit. */
    if (rc == 0 && b->cap - b->len < (size_t)n + 1) {
        uint8_t *data = realloc(b->data, b->len + (size_t)n + 1);
        if (data != NULL) {
            b->data = data;
            b->cap = b->len + (size_t)n + 1;
        } else {
            rc = -ERR_NOMEM;
        }
    }
    if (rc == 0) {
        vsnprintf((char *)b->data + b->len, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
    return rc;
}
