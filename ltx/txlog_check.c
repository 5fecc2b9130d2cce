/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/txlog_internal.h"

/*
 * Whether what the log has on disk is what was written. It reads files by their names, without any
 * lock: one that is gone when its turn comes was compacted or trimmed.
 */

/* A file as the list had it at the beginning. */
struct looked {
    char path[TXLOG_PATH_SIZE];
    bool compacted;
    uint64_t salt;
    int64_t end;
};

struct checking {
    const struct txlog_checker *checker;
    struct ltx_file_range range;
    bool stopped;
};

static bool go_on(struct checking *c, uint64_t bytes)
{
    c->stopped = c->stopped || !c->checker->go_on(c->checker->ctx, bytes);
    return !c->stopped;
}

static void tell_fault(const struct checking *c, const struct looked *f, const char *why)
{
    c->checker->fault(c->checker->ctx, f->path, why);
}

static int check_segment(struct checking *c, const struct looked *f, int fd, uint8_t *buffer)
{
    struct segment_header h;
    bool blank;
    char why[128];
    int rc = segment_header_read(fd, &h, &blank);
    if (rc == 0 && h.salt != f->salt)
        return 0; /* another file of that name */
    if (rc == -ERR_CORRUPT)
        tell_fault(c, f, "its header is none of a segment");
    for (int64_t off = TXLOG_SEGMENT_HEADER; rc == 0 && off < f->end;) {
        struct txlog_frame frame;
        rc = segment_frame_read(fd, f->salt, off, f->end, &frame);
        if (rc == -ERR_CORRUPT || rc == -ERR_NOTFOUND) {
            snprintf(why, sizeof why, "no frame of the log at byte %" PRId64, off);
            tell_fault(c, f, why);
            break;
        }
        if (rc == 0)
            rc = segment_check_body(fd, off + TXLOG_FRAME_HEADER, &frame, buffer);
        if (rc == -ERR_CHECKSUM || rc == -ERR_TRUNCATED) {
            snprintf(why, sizeof why,
                     "the record of transaction %" PRIu64 " at byte %" PRId64
                     " does not match its checksum",
                     frame.max_txid, off);
            tell_fault(c, f, why);
            rc = 0;
        }
        off += TXLOG_FRAME_HEADER + (int64_t)frame.size;
        if (rc == 0 && !go_on(c, TXLOG_FRAME_HEADER + frame.size))
            rc = -ERR_CLOSED;
    }
    return rc;
}

static int read_slowly(void *ctx, uint64_t off, void *buf, size_t n)
{
    struct checking *c = ctx;
    int rc = file_read(c->range.fd, buf, n, (int64_t)off);
    return rc == 0 && !go_on(c, n) ? -ERR_CLOSED : rc;
}

static int check_ltx(struct checking *c, const struct looked *f, int fd)
{
    char why[128] = "";
    struct ltx_source source = {.read = read_slowly, .ctx = c, .size = (uint64_t)f->end};
    c->range.fd = fd;
    int rc = ltx_verify(source, NULL, NULL, why, sizeof why);
    if (c->stopped)
        return -ERR_CLOSED;
    if (rc < 0 && rc != -ERR_NOMEM)
        tell_fault(c, f, why[0] != '\0' ? why : err_text(rc));
    return rc == -ERR_NOMEM ? rc : 0;
}

static int check_file(struct txlog *t, struct checking *c, const struct looked *f, uint8_t *buffer)
{
    int fd;
    int rc = file_open(t->dirfd, f->path, O_RDONLY, 0, &fd);
    if (rc < 0)
        return rc == -ERR_NOTFOUND ? 0 : rc;
    rc = f->compacted ? check_ltx(c, f, fd) : check_segment(c, f, fd, buffer);
    (void)file_close(fd);
    if (rc < 0 && rc != -ERR_CLOSED && rc != -ERR_NOMEM) {
        tell_fault(c, f, err_text(rc)); /* the disk does not give it */
        rc = 0;
    }
    return rc;
}

/* The files now, *count of them. */
static struct looked *list_files(struct txlog *t, uint32_t *count)
{
    mutex_lock(&t->mutex);
    struct looked *list = calloc(t->part_count + 1u, sizeof *list);
    *count = list == NULL ? 0 : t->part_count;
    for (uint32_t i = 0; i < *count; i++) {
        const struct txlog_part *p = t->parts[i];
        list[i] = (struct looked){.compacted = p->compacted, .salt = p->salt, .end = p->end};
        memcpy(list[i].path, p->path, sizeof p->path);
    }
    mutex_unlock(&t->mutex);
    return list;
}

int txlog_check(struct txlog *t, const struct txlog_checker *checker)
{
    uint32_t count;
    struct checking c = {.checker = checker};
    struct looked *list = list_files(t, &count);
    uint8_t *buffer = malloc(SEGMENT_SCAN_BYTES);
    int rc = list == NULL || buffer == NULL ? -ERR_NOMEM : 0;
    for (uint32_t i = 0; rc == 0 && i < count; i++)
        rc = check_file(t, &c, &list[i], buffer);
    free(buffer);
    free(list);
    return rc;
}

int txlog_hold(struct txlog *t)
{
    mutex_lock(&t->mutex);
    int rc = t->appending ? -ERR_BUSY : 0;
    t->appending = true;
    mutex_unlock(&t->mutex);
    return rc;
}

void txlog_let_go(struct txlog *t)
{
    txlog_slot_give(t);
}
