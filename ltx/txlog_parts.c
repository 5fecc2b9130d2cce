/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"
#include "ltx/txlog_internal.h"

struct txlog_part *part_new(void)
{
    return calloc(1, sizeof(struct txlog_part));
}

void part_free(struct txlog_part *p)
{
    if (p == NULL)
        return;
    if (p->file != NULL)
        p->file->part = NULL;
    free(p->marks);
    free(p);
}

void part_segment_path(struct txlog_part *p, uint64_t first_txid)
{
    snprintf(p->path, sizeof p->path, "log/%08" PRIx32 "-%016" PRIx64 ".seg", p->sequence,
             first_txid);
}

void part_ltx_path(struct txlog_part *p)
{
    char name[LTX_NAME_SIZE];
    ltx_name_format(p->header.min_txid, p->header.max_txid, name);
    snprintf(p->path, sizeof p->path, "ltx/%s", name);
}

void part_mark(struct txlog_part *p, struct position before, int64_t off)
{
    if (p->mark_count > 0 && off - p->marks[p->mark_count - 1].off < TXLOG_MARK_BYTES)
        return;
    if (p->mark_count == p->mark_cap) {
        uint32_t cap = p->mark_cap == 0 ? 8 : p->mark_cap * 2;
        struct txlog_mark *marks = realloc(p->marks, cap * sizeof *marks);
        /* Without a mark the walk is longer, and as right. */
        if (marks == NULL)
            return;
        p->marks = marks;
        p->mark_cap = cap;
    }
    p->marks[p->mark_count++] = (struct txlog_mark){before, off};
}

int txlog_add_part(struct txlog *t, struct txlog_part *p)
{
    if (t->part_count == t->part_cap) {
        uint32_t cap = t->part_cap == 0 ? 4 : t->part_cap * 2;
        struct txlog_part **parts = realloc(t->parts, cap * sizeof *parts);
        if (parts == NULL)
            return -ERR_NOMEM;
        t->parts = parts;
        t->part_cap = cap;
    }
    t->parts[t->part_count++] = p;
    return 0;
}

void txlog_remove_part(struct txlog *t, uint32_t index)
{
    part_free(t->parts[index]);
    t->part_count--;
    memmove(t->parts + index, t->parts + index + 1, (t->part_count - index) * sizeof *t->parts);
    if (t->chain > index)
        t->chain--;
}

int part_open_file(struct txlog *t, struct txlog_part *p, struct txlog_file **out)
{
    if (p->file != NULL) {
        p->file->refs++;
        *out = p->file;
        return 0;
    }
    struct txlog_file *f = calloc(1, sizeof *f);
    if (f == NULL)
        return -ERR_NOMEM;
    int rc = file_open(t->dirfd, p->path, p->compacted ? O_RDONLY : O_RDWR, 0, &f->fd);
    if (rc < 0) {
        log_error("log", "%s: %s cannot be opened: %s", t->name, p->path, err_text(rc));
        free(f);
        return rc;
    }
    f->log = t;
    f->part = p;
    f->salt = p->salt;
    f->refs = 1;
    p->file = f;
    *out = f;
    return 0;
}

void txlog_file_unref(struct txlog_file *f)
{
    if (f == NULL)
        return;
    struct txlog *t = f->log;
    mutex_lock(&t->mutex);
    bool last = --f->refs == 0;
    if (last && f->part != NULL)
        f->part->file = NULL;
    mutex_unlock(&t->mutex);
    if (last) {
        (void)file_close(f->fd);
        free(f);
    }
}

void txlog_unlink(struct txlog *t, const char *path)
{
    int rc = file_unlink(t->dirfd, path);
    if (rc < 0 && rc != -ERR_NOTFOUND)
        log_warn("log", "%s: %s is of no more use but cannot be removed: %s", t->name, path,
                 err_text(rc));
}
