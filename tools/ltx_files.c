/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/ltx_files.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "ltx/base/err.h"
#include "ltx/base/file.h"

int ltx_file_open(struct ltx_file *f, const char *path, char *why, size_t why_size)
{
    *f = (struct ltx_file){.path = path, .fd = -1};
    int err = file_open(AT_FDCWD, path, O_RDONLY, 0, &f->fd);
    if (!err)
        err = file_size(f->fd, &f->size);
    f->range = (struct ltx_file_range){f->fd, 0};
    if (err) {
        snprintf(why, why_size, "%s: %s", path, err_text(err));
        ltx_file_close(f);
    }
    return err;
}

struct ltx_source ltx_file_source(struct ltx_file *f)
{
    return ltx_source_file(&f->range, (uint64_t)f->size);
}

void ltx_file_close(struct ltx_file *f)
{
    file_close(f->fd);
    f->fd = -1;
}

int ltx_file_verify(const char *path, struct ltx_summary *out, char *why, size_t why_size)
{
    struct ltx_file f;
    char clause[256] = "";
    int err = ltx_file_open(&f, path, why, why_size);
    if (err)
        return err;
    err = ltx_verify(ltx_file_source(&f), &out->header, &out->post_checksum, clause, sizeof clause);
    out->size = f.size;
    ltx_file_close(&f);
    if (err)
        snprintf(why, why_size, "%s: %s", path, clause[0] ? clause : err_text(err));
    return err;
}

int ltx_follows(const struct ltx_summary *last, const struct ltx_summary *next, char *why,
                size_t why_size)
{
    const struct ltx_header *a = &last->header, *b = &next->header;
    if (ltx_header_is_snapshot(b) && b->max_txid >= a->max_txid)
        return 0; /* it holds everything, whatever came before */
    if (b->min_txid != a->max_txid + 1) {
        snprintf(why, why_size, "begins at TXID %" PRIu64 ", but the one before ends at %" PRIu64,
                 b->min_txid, a->max_txid);
        return -ERR_POSITION;
    }
    if ((a->flags | b->flags) & LTX_NO_CHECKSUM)
        return 0;
    if (b->pre_checksum != last->post_checksum) {
        snprintf(why, why_size,
                 "follows on checksum %016" PRIx64 ", but the one before ends at %016" PRIx64,
                 b->pre_checksum, last->post_checksum);
        return -ERR_POSITION;
    }
    return 0;
}
