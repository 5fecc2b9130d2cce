/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/db/check.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/db/database_impl.h"
#include "fs/db/still.h"
#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"

#define CHUNK_BYTES (1 << 20)
#define RESTARTS 3           /* the page size has changed meanwhile */
#define STILL_MS 100         /* on a replica records are held up at most so long */
#define AT_ONCE 64           /* pages that are looked at in one such moment */
#define AGAIN_US 20000       /* until the next try; */
#define AGAIN_HELD_US 200000 /* and where records were held up for it */
#define PATIENCE_MS 10000    /* for pages that are always being changed */

struct check {
    struct database *db;
    struct ledger *ledger;
    const struct check_options *options;
    struct check_result *out;
    struct check_progress progress;
    struct mono began;
    uint32_t page_size;
    uint8_t *chunk;
    uint64_t *before, *after; /* sums of a chunk's pages, and of the same a moment later */
    uint32_t *suspect;        /* pages that did not match, in any order */
    uint32_t suspects, suspects_cap;
};

/* Keeps to the rate, and asks whether to go on. */
static int pace(struct check *c, uint64_t bytes)
{
    const struct check_options *o = c->options;
    c->out->bytes += bytes;
    c->progress.bytes_done += bytes;
    if (o->go_on && !o->go_on(o->ctx, &c->progress))
        return -ERR_CLOSED;
    if (o->bytes_per_s <= 0)
        return 0;
    int64_t due_us = (int64_t)((double)c->out->bytes * 1e6 / (double)o->bytes_per_s);
    int64_t ahead_us = due_us - mono_since_us(c->began);
    return ahead_us > 0 && o->rest_us(o->ctx, ahead_us) ? -ERR_CLOSED : 0;
}

static int suspect(struct check *c, uint32_t pgno)
{
    if (c->suspects == c->suspects_cap) {
        uint32_t cap = c->suspects_cap ? 2 * c->suspects_cap : 256;
        uint32_t *grown = realloc(c->suspect, cap * sizeof *grown);
        if (!grown)
            return -ERR_NOMEM;
        c->suspect = grown;
        c->suspects_cap = cap;
    }
    c->suspect[c->suspects++] = pgno;
    return 0;
}

/* ---- the first look ---- */

/* Pages `first` to `first` + n - 1, as they were read into the chunk. `before` holds what the ledger
 * said of them before that. */
static int compare_chunk(struct check *c, uint32_t first, uint32_t n)
{
    uint32_t have = ledger_page_sums(c->ledger, first, n, c->after);
    int err = 0;
    for (uint32_t i = 0; !err && i < n && i < have; i++) {
        uint32_t pgno = first + i;
        if (pgno == ltx_lock_pgno(c->page_size))
            continue;
        uint64_t sum = checksum_page(pgno, c->chunk + (size_t)i * c->page_size, c->page_size);
        if (sum != c->before[i] && sum != c->after[i])
            err = suspect(c, pgno);
    }
    return err;
}

/* What lies in the page cache would not be looked for on disk; and what is read here should not take
 * the place of what somebody needs. */
static void forget(int fd, int64_t off, int64_t n)
{
    (void)posix_fadvise(fd, off, n, POSIX_FADV_DONTNEED);
}

static int read_main(struct check *c, int fd)
{
    uint32_t at_once = CHUNK_BYTES / c->page_size;
    struct ledger_info info;
    int err = 0;
    forget(fd, 0, 0);
    for (uint32_t first = 1; !err; first += at_once) {
        ledger_info(c->ledger, &info);
        if (info.page_size != c->page_size)
            return -ERR_POSITION;
        if (first > info.commit)
            break;
        uint32_t n = info.commit - first + 1 < at_once ? info.commit - first + 1 : at_once;
        size_t size = (size_t)n * c->page_size, got = 0;
        int64_t off = (int64_t)(first - 1) * c->page_size;
        uint32_t have = ledger_page_sums(c->ledger, first, n, c->before);
        memset(c->before + have, 0, (n - have) * sizeof *c->before);
        err = file_read_some(fd, c->chunk, size, off, &got);
        if (err == -ERR_IO) /* page by page it will be seen which the disk does not give */
            err = 0;
        memset(c->chunk + got, 0, size - got);
        if (!err)
            err = compare_chunk(c, first, n);
        forget(fd, off, (int64_t)size);
        c->progress.pages = info.commit;
        c->progress.pages_done = first + n - 1;
        if (!err)
            err = pace(c, size);
    }
    return err;
}

/* Of each page in the -wal the newest frame is what counts. */
static int read_wal(struct check *c, int fd)
{
    struct wal_header header;
    uint32_t *pgno, frames;
    int err = wal_list_frames(fd, &header, &pgno, &frames);
    if (err || !pgno || header.page_size != c->page_size) {
        free(pgno);
        return err;
    }
    uint32_t pages = 0;
    for (uint32_t f = 1; f <= frames; f++)
        pages = pgno[f - 1] > pages ? pgno[f - 1] : pages;
    uint32_t *newest = calloc(pages + 1u, sizeof *newest);
    if (!newest)
        err = -ERR_NOMEM;
    for (uint32_t f = 1; !err && f <= frames; f++)
        newest[pgno[f - 1]] = f;
    for (uint32_t p = 1; !err && p <= pages; p++) {
        if (!newest[p])
            continue;
        err = file_read(fd, c->chunk, c->page_size,
                        wal_frame_offset(c->page_size, newest[p]) + WAL_FRAME_HEADER_SIZE);
        if ((err == -ERR_IO || err == -ERR_TRUNCATED ||
             (!err && checksum_page(p, c->chunk, c->page_size) != ledger_page_sum(c->ledger, p))))
            err = suspect(c, p);
        if (!err)
            err = pace(c, c->page_size);
    }
    free(newest);
    free(pgno);
    return err;
}

static int read_file(struct check *c, enum file_kind kind, int (*read)(struct check *c, int fd))
{
    char path[DATABASE_PATH_MAX];
    int fd;
    database_file_path(c->db, kind, path);
    int err = file_open(database_tree(c->db), path, O_RDONLY | O_NOFOLLOW, 0, &fd);
    if (err)
        return err;
    err = read(c, fd);
    file_close(fd);
    return err;
}

/* ---- the second look ---- */

static void found_bad(struct check *c, uint32_t pgno, uint32_t frame, int err)
{
    struct check_result *out = c->out;
    if (out->bad < CHECK_NAMED)
        out->bad_page[out->bad] = pgno;
    out->bad++;
    if (ledger_note_bad(c->ledger, pgno) != 1)
        return; /* said before, or too many to name */
    log_error("check", "%s: page %u %s%s", c->db->path, pgno,
              err == -ERR_CHECKSUM ? "does not match its checksum" : "cannot be read",
              frame ? " (in the -wal)" : "");
}

/* Goes through some suspects in one still moment. What remains undecided stays in the list. */
static int look_again(struct check *c, uint32_t *at)
{
    struct verdict {
        uint32_t pgno, frame;
        int err;
    } verdict[AT_ONCE];
    uint32_t n = 0;
    struct still s;
    int err = still_begin(&s, c->db, STILL_MS);
    if (err)
        return err;
    if (s.info.page_size != c->page_size) {
        still_end(&s);
        return -ERR_POSITION;
    }
    for (; n < AT_ONCE && *at + n < c->suspects; n++) {
        uint32_t pgno = c->suspect[*at + n];
        int found = still_compare(&s, pgno, c->chunk);
        verdict[n].pgno = pgno;
        verdict[n].err = found;
        verdict[n].frame = found && found != -ERR_BUSY ? still_place(&s, pgno) : 0;
    }
    if (!still_end(&s))
        return -ERR_BUSY;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (verdict[i].err == -ERR_BUSY)
            c->suspect[*at + kept++] = verdict[i].pgno;
        else if (verdict[i].err)
            found_bad(c, verdict[i].pgno, verdict[i].frame, verdict[i].err);
    }
    memmove(c->suspect + *at + kept, c->suspect + *at + n,
            (c->suspects - *at - n) * sizeof *c->suspect);
    c->suspects -= n - kept;
    *at += kept;
    return 0;
}

static int rest(struct check *c)
{
    int64_t us = database_is_primary(c->db) ? AGAIN_US : AGAIN_HELD_US;
    int err = pace(c, 0);
    return err ? err : c->options->rest_us(c->options->ctx, us) ? -ERR_CLOSED : 0;
}

static int by_pgno(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* A page may be there twice: from the database file and from the -wal. */
static void sort_suspects(struct check *c)
{
    uint32_t kept = 0;
    if (c->suspects > 1)
        qsort(c->suspect, c->suspects, sizeof *c->suspect, by_pgno);
    for (uint32_t i = 0; i < c->suspects; i++)
        if (kept == 0 || c->suspect[kept - 1] != c->suspect[i])
            c->suspect[kept++] = c->suspect[i];
    c->suspects = kept;
}

static int decide(struct check *c)
{
    struct mono progress = mono_now();
    uint32_t at = 0, left = c->suspects;
    int err = 0;
    while (!err && c->suspects > 0 && mono_since_ms(progress) < PATIENCE_MS) {
        err = look_again(c, &at);
        if (at >= c->suspects)
            at = 0;
        if (c->suspects < left)
            progress = mono_now();
        if (err == -ERR_BUSY || (!err && c->suspects == left))
            err = rest(c);
        left = c->suspects;
    }
    c->out->undecided = c->suspects;
    return err;
}

/* ---- the log ---- */

static bool log_read(void *ctx, uint64_t bytes)
{
    return pace(ctx, bytes) == 0;
}

static void log_fault(void *ctx, const char *file, const char *why)
{
    struct check *c = ctx;
    if (c->out->log_faults++ == 0)
        snprintf(c->out->log_fault, sizeof c->out->log_fault, "%s: %s", file, why);
    log_error("check", "%s: its log, %s: %s", c->db->path, file, why);
}

static int check_log(struct check *c)
{
    struct txlog_checker checker = {.go_on = log_read, .fault = log_fault, .ctx = c};
    return txlog_check(ledger_log(c->ledger), &checker);
}

/* ---- all of it ---- */

static int prepare(struct check *c)
{
    struct ledger_info info;
    ledger_info(c->ledger, &info);
    if (info.damaged)
        return -ERR_DAMAGED;
    if (info.last.txid == 0 || info.commit == 0)
        return -ERR_NOTFOUND;
    c->page_size = info.page_size;
    c->suspects = 0;
    c->progress = (struct check_progress){.pages = info.commit};
    c->progress.bytes = (uint64_t)info.commit * info.page_size + (uint64_t)info.log_bytes;
    c->chunk = malloc(CHUNK_BYTES);
    c->before = malloc(CHUNK_BYTES / LTX_MIN_PAGE_SIZE * sizeof *c->before);
    c->after = malloc(CHUNK_BYTES / LTX_MIN_PAGE_SIZE * sizeof *c->after);
    return c->chunk && c->before && c->after ? 0 : -ERR_NOMEM;
}

static void release(struct check *c)
{
    free(c->chunk);
    free(c->before);
    free(c->after);
    free(c->suspect);
    c->chunk = NULL;
    c->before = c->after = NULL;
    c->suspect = NULL;
    c->suspects_cap = 0;
}

static int check_pages(struct check *c)
{
    int err = prepare(c);
    if (!err)
        err = read_file(c, FILE_MAIN, read_main);
    if (err == -ERR_NOTFOUND && c->chunk) { /* the file; then every page is missing */
        err = 0;
        for (uint32_t pgno = 1; !err && pgno <= c->progress.pages; pgno++)
            err = suspect(c, pgno);
    }
    if (!err) {
        err = read_file(c, FILE_WAL, read_wal);
        err = err == -ERR_NOTFOUND ? 0 : err;
    }
    if (!err) {
        sort_suspects(c);
        err = decide(c);
    }
    c->out->page_size = c->page_size;
    c->out->pages = c->progress.pages;
    return err;
}

int check_database(struct database *db, const struct check_options *options,
                   struct check_result *out)
{
    struct check c = {.db = db, .options = options, .out = out, .began = mono_now()};
    *out = (struct check_result){0};
    c.ledger = catalog_ledger(db->catalog, db->path);
    int err = c.ledger ? 0 : -ERR_NOTFOUND;
    for (int i = 0; !err && i < RESTARTS; i++) {
        uint32_t bad = out->bad;
        err = check_pages(&c);
        if (err != -ERR_POSITION)
            break;
        out->bad = bad;
        err = 0;
        release(&c);
    }
    if (!err)
        err = check_log(&c);
    release(&c);
    if (err)
        return err;
    out->ended_ms = wall_ms();
    out->took_ms = mono_since_ms(c.began);
    return 0;
}
