/* SPDX-License-Identifier: Apache-2.0 */
#include "ltx/base/sparse.h"

#include <string.h>

#include "ltx/base/file.h"

bool sparse_is_zero(const void *buf, size_t n)
{
    const uint8_t *bytes = buf;
    return n == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, n - 1) == 0);
}

void sparse_begin(struct sparse *s, int fd)
{
    *s = (struct sparse){.fd = fd, .end = -1};
}

int sparse_write(struct sparse *s, const void *buf, size_t n, int64_t off)
{
    if (sparse_is_zero(buf, n)) {
        int rc = s->end < 0 ? file_size(s->fd, &s->end) : 0;
        if (rc < 0 || off >= s->end)
            return rc;
    }
    int rc = file_write(s->fd, buf, n, off);
    if (rc == 0 && s->end >= 0 && off + (int64_t)n > s->end)
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
