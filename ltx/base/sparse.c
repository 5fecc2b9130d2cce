/* SPDX-License-Identifier: Apache-2.0 */
#include "ltx/base/sparse.h"

#include <stdbool.h>
#include <string.h>

#include "ltx/base/file.h"

static bool is_zero(const uint8_t *bytes, size_t n)
{
    return n == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, n - 1) == 0);
}

int sparse_begin(struct sparse *s, int fd)
{
    s->fd = fd;
    return file_size(fd, &s->end);
}

int sparse_write(struct sparse *s, const void *buf, size_t n, int64_t off)
{
    if (off >= s->end && is_zero(buf, n))
        return 0;
    int rc = file_write(s->fd, buf, n, off);
    if (rc == 0 && off + (int64_t)n > s->end)
        s->end = off + (int64_t)n;
    return rc;
}

int sparse_set_size(struct sparse *s, int64_t size)
{
    int rc = file_truncate(s->fd, size);
    if (rc == 0)
        s->end = size;
    return rc;
}
