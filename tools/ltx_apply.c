/* SPDX-License-Identifier: Apache-2.0 */
/*
 * LTX files over a database file. The work is done on a copy beside it, so that a fault in the
 * third of five files leaves the database as it was.
 */
#include "tools/ltx_files.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/checksum.h"
#include "ltx/compact.h"

#define PIECE (1u << 20)

static int copy_file(int from, int to)
{
    int64_t off = 0;
    size_t got;
    uint8_t *piece = malloc(PIECE);
    int err = piece ? 0 : -ERR_NOMEM;
    do {
        got = 0;
        if (!err)
            err = file_read_some(from, piece, PIECE, off, &got);
        if (!err && got)
            err = file_write(to, piece, got, off);
        off += (int64_t)got;
    } while (!err && got == PIECE);
    free(piece);
    return err;
}

/* The checksum of a database as it lies in a file: of every page but the lock page. */
static int file_checksum(int fd, uint32_t page_size, uint64_t *out)
{
    int64_t size;
    uint64_t sum = LTX_EMPTY_CHECKSUM;
    uint8_t *page = malloc(page_size);
    int err = page ? file_size(fd, &size) : -ERR_NOMEM;
    if (!err && size % page_size != 0)
        err = -ERR_CORRUPT;
    for (uint32_t pgno = 1; !err && (int64_t)pgno * page_size <= size; pgno++) {
        if (pgno == ltx_lock_pgno(page_size))
            continue;
        err = file_read(fd, page, page_size, (int64_t)(pgno - 1) * page_size);
        if (!err)
            sum = checksum_toggle(sum, checksum_page(pgno, page, page_size));
    }
    free(page);
    if (!err)
        *out = sum;
    return err;
}

/* A record that is no snapshot says on which content it goes. */
static int check_base(int fd, const struct ltx_summary *first, const char *db, char *why,
                      size_t why_size)
{
    uint64_t sum;
    const struct ltx_header *h = &first->header;
    if (ltx_header_is_snapshot(h) || (h->flags & LTX_NO_CHECKSUM))
        return 0;
    int err = file_checksum(fd, h->page_size, &sum);
    if (err)
        snprintf(why, why_size, "%s: %s", db, err_text(err));
    if (err || sum == h->pre_checksum)
        return err;
    snprintf(why, why_size,
             "%s has checksum %016" PRIx64 ", but the first file goes on %016" PRIx64
             ": it is not the database before TXID %" PRIu64,
             db, sum, h->pre_checksum, h->min_txid);
    return -ERR_POSITION;
}

static int apply_one(int fd, const char *path, char *why, size_t why_size)
{
    struct ltx_file f;
    char clause[256] = "";
    int err = ltx_file_open(&f, path, why, why_size);
    if (err)
        return err;
    err = apply_record_to_file(ltx_file_source(&f), fd, clause, sizeof clause);
    ltx_file_close(&f);
    if (err)
        snprintf(why, why_size, "%s: %s", path, clause[0] ? clause : err_text(err));
    return err;
}

static int apply_all(int fd, const char *db, char *const *paths, size_t count,
                     struct ltx_summary *last, char *why, size_t why_size)
{
    struct ltx_summary one;
    char clause[256];
    uint64_t sum;
    int err = 0;
    for (size_t i = 0; i < count && !err; i++) {
        err = ltx_file_verify(paths[i], &one, why, why_size);
        if (!err && i == 0)
            err = check_base(fd, &one, db, why, why_size);
        if (!err && i > 0) {
            err = ltx_follows(last, &one, clause, sizeof clause);
            if (err)
                snprintf(why, why_size, "%s %s", paths[i], clause);
        }
        if (!err)
            err = apply_one(fd, paths[i], why, why_size);
        *last = one;
    }
    if (err || (last->header.flags & LTX_NO_CHECKSUM))
        return err;
    err = file_checksum(fd, last->header.page_size, &sum);
    if (!err && sum != last->post_checksum)
        err = -ERR_CHECKSUM;
    if (err)
        snprintf(why, why_size,
                 "%s: the database is not what it states to make of it (%s); it was left as it was",
                 paths[count - 1], err_text(err));
    return err;
}

/* Pages in -wal or a hot journal would be laid over what is applied by the next reader. */
static int refuse_companions(const char *db, char *why, size_t why_size)
{
    static const char *const ends[] = {"-wal", "-journal"};
    char path[PATH_MAX + 16];
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        struct stat st;
        snprintf(path, sizeof path, "%s%s", db, ends[i]);
        if (stat(path, &st) != 0 || st.st_size == 0)
            continue;
        snprintf(why, why_size,
                 "%s is there: the database is in use or was not closed; open and close it with "
                 "SQLite first",
                 path);
        return -ERR_BUSY;
    }
    return 0;
}

int ltx_apply_files(const char *db, char *const *paths, size_t count, struct ltx_summary *last,
                    char *why, size_t why_size)
{
    char temporary[PATH_MAX];
    struct stat st = {.st_mode = 0644};
    int from = -1, to = -1;
    int n = snprintf(temporary, sizeof temporary, "%s.tmp", db);
    if (n < 0 || (size_t)n >= sizeof temporary) {
        snprintf(why, why_size, "%s: the path is too long", db);
        return -ERR_LIMIT;
    }
    int err = refuse_companions(db, why, why_size);
    if (err)
        return err;
    err = file_open(AT_FDCWD, db, O_RDONLY, 0, &from);
    if (!err && fstat(from, &st) != 0)
        err = err_from_errno(errno);
    if (err == -ERR_NOTFOUND)
        err = 0;
    if (err) {
        snprintf(why, why_size, "%s: %s", db, err_text(err));
        goto out;
    }
    err = file_open(AT_FDCWD, temporary, O_RDWR | O_CREAT | O_TRUNC, st.st_mode & 0777, &to);
    if (!err && from >= 0)
        err = copy_file(from, to);
    if (err) {
        snprintf(why, why_size, "%s: %s", temporary, err_text(err));
        goto out;
    }
    err = apply_all(to, db, paths, count, last, why, why_size);
    if (err)
        goto out;
    err = file_sync(to);
    if (!err)
        err = file_rename(AT_FDCWD, temporary, AT_FDCWD, db);
    if (err)
        snprintf(why, why_size, "%s: %s", db, err_text(err));
out:
    if (err && to >= 0)
        unlink(temporary);
    file_close(to);
    file_close(from);
    return err;
}
