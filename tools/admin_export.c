/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GET /export?name=NAME: a consistent copy of one database, made into a file without a name below
 * <data>/tmp and then sent with its length. Nothing waits for it and nothing is left behind.
 */
#include "tools/admin.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"
#include "ltx/snapshot.h"

#define PIECE (256 << 10)

enum format { FORMAT_SQLITE, FORMAT_LTX, FORMAT_LITESTREAM };

struct file_sink {
    int fd;
    int64_t size;
};

struct copy_progress {
    struct admin_stream *stream;
    const char *what;
};

static int sink_write(void *ctx, const void *data, size_t n)
{
    struct file_sink *sink = ctx;
    int err = file_write(sink->fd, data, n, sink->size);
    if (!err)
        sink->size += (int64_t)n;
    return err;
}

static void tell(void *ctx, uint64_t done, uint64_t total)
{
    struct copy_progress *p = ctx;
    admin_stream_progress(p->stream, p->what, done, total);
}

/* O_TMPFILE where the file system has it; a file that is unlinked at once where it has not. */
static int unnamed_file(int dirfd, int *fd)
{
    char name[48];
    if (file_open(dirfd, ".", O_TMPFILE | O_RDWR, 0600, fd) == 0)
        return 0;
    snprintf(name, sizeof name, "export-%016llx", (unsigned long long)random_u64());
    int err = file_open(dirfd, name, O_RDWR | O_CREAT | O_EXCL, 0600, fd);
    return err ? err : file_unlink(dirfd, name);
}

static bool read_format(const struct admin_request *q, enum format *format)
{
    static const char *const names[] = {"sqlite", "ltx", "litestream"};
    char text[16];
    int err = admin_query(q->query, "format", text, sizeof text);
    *format = FORMAT_SQLITE;
    if (err == -ERR_NOTFOUND)
        return true;
    for (int i = 0; !err && i < 3; i++) {
        if (strcmp(text, names[i]) == 0) {
            *format = (enum format)i;
            return true;
        }
    }
    return false;
}

static int make_copy(const struct admin_request *q, struct ledger *l, enum format format, int fd,
                     struct position *at, struct admin_stream *s)
{
    const struct admin_parts *parts = q->parts;
    char what[256];
    snprintf(what, sizeof what, "export of %s", ledger_name(l));
    struct copy_progress progress = {s, what};
    if (format == FORMAT_SQLITE) {
        uint32_t page_size, commit;
        return snapshot_database(parts->store, l, fd, at, &page_size, &commit, tell, &progress,
                                 admin_stream_cancel(s));
    }
    struct file_sink sink = {fd, 0};
    uint32_t flags = format == FORMAT_LITESTREAM ? LTX_NO_CHECKSUM : 0;
    return snapshot_ltx(parts->store, l, parts->tmp_dirfd, flags,
                        (struct ltx_sink){sink_write, &sink}, at);
}

static int send_file(struct admin_stream *s, int fd, enum format format, struct position at)
{
    char position[POSITION_TEXT_SIZE];
    int64_t size, off = 0;
    const char *type =
        format == FORMAT_SQLITE ? "application/vnd.sqlite3" : "application/octet-stream";
    uint8_t *piece = malloc(PIECE);
    int err = piece ? file_size(fd, &size) : -ERR_NOMEM;
    position_format(at, position);
    if (!err)
        err = admin_stream_begin(s, type, (uint64_t)size, position);
    while (!err && off < size) {
        size_t n = size - off < PIECE ? (size_t)(size - off) : PIECE;
        err = file_read(fd, piece, n, off);
        if (!err)
            err = admin_stream_write(s, piece, n);
        off += (int64_t)n;
    }
    free(piece);
    return err;
}

static void refuse_copy(struct admin_reply *r, const char *name, int err)
{
    unsigned status = 500;
    if (err == -ERR_NOTFOUND)
        status = 404;
    else if (err == -ERR_DAMAGED || err == -ERR_CHECKSUM)
        status = 409;
    else if (err == -ERR_BUSY || err == -ERR_CLOSED || err == -ERR_TIMEOUT || err == -ERR_NOSPACE)
        status = 503;
    admin_refuse(r, status, "%s cannot be exported: %s", name, err_text(err));
}

int admin_export(const struct admin_request *q, struct admin_reply *r, struct admin_stream *s)
{
    char name[STORE_NAME_MAX];
    enum format format;
    struct position at;
    struct ledger_info info;
    int fd = -1;
    if (admin_query(q->query, "name", name, sizeof name) != 0 || !name[0]) {
        admin_refuse(r, 400, "expected /export?name=NAME with the database's path in the mount");
        return 0;
    }
    if (!read_format(q, &format)) {
        admin_refuse(r, 400, "format: expected sqlite, ltx or litestream");
        return 0;
    }
    struct ledger *l = store_find(q->parts->store, name);
    if (l)
        ledger_info(l, &info);
    if (!l || info.last.txid == 0) {
        admin_refuse(r, 404, "there is no database %s here", name);
        return 0;
    }
    if (info.commit == 0) {
        admin_refuse(r, 404, "the database %s was deleted", name);
        return 0;
    }
    if (info.damaged) {
        admin_refuse(r, 409, "%s is damaged (%s); export it from another node", name, info.damage);
        return 0;
    }
    int err = unnamed_file(q->parts->tmp_dirfd, &fd);
    if (!err)
        err = make_copy(q, l, format, fd, &at, s);
    if (err)
        refuse_copy(r, name, err);
    else
        err = send_file(s, fd, format, at);
    file_close(fd);
    return err;
}
