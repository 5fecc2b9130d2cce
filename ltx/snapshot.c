/* SPDX-License-Identifier: Apache-2.0 */
#include "ltx/snapshot.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"
#include "ltx/base/sparse.h"
#include "ltx/checksum.h"

/* A page that a transaction is changing is asked for again, this long. */
#define BUSY_LIMIT_MS 30000
#define BUSY_WAIT_MS 1
/* A rebase or a reset while pages are copied leaves the copy without a continuation: begin anew. */
#define ATTEMPTS 3

/*
 * One copy in progress. `sums` are those of the pages as they stand in the output, so that the end
 * needs no second reading to be checked.
 */
struct copy {
    struct store *store;
    struct ledger *ledger;
    struct sparse file;
    struct txlog_pin pin;
    struct position at;
    uint32_t page_size, commit;
    uint8_t *page; /* room for the largest */
    struct pagesums sums;
    snapshot_progress *progress;
    void *ctx;
    const volatile bool *cancel;
};

static bool cancelled(const struct copy *c)
{
    return c->cancel != NULL && *c->cancel;
}

static int put_page(struct copy *c, uint32_t pgno)
{
    int rc = pagesums_set(&c->sums, pgno, checksum_page(pgno, c->page, c->page_size));
    if (rc < 0)
        return rc;
    return sparse_write(&c->file, c->page, c->page_size, (int64_t)(pgno - 1) * c->page_size);
}

/* One page, waited for while it is changing. -ERR_NOTFOUND: the database has become smaller. */
static int read_page(struct copy *c, struct page_reader reader, uint32_t pgno, uint32_t *page_size)
{
    struct mono start = mono_now();
    for (;;) {
        if (cancelled(c))
            return -ERR_CLOSED;
        uint64_t seen = feed_count(&store_feeds(c->store)->published);
        int rc = reader.read(reader.ctx, c->ledger, pgno, c->page, page_size);
        if (rc != -ERR_BUSY || mono_since_ms(start) > BUSY_LIMIT_MS)
            return rc;
        /* What ends the change may be a rollback, which wakes nobody; hence the limit. */
        (void)feed_wait(&store_feeds(c->store)->published, seen, BUSY_WAIT_MS);
    }
}

/*
 * The pages as they are. What changes meanwhile is in the records since `at`: a page that is gone
 * is cut off by one of them, and after a change of page size one holds every page.
 */
static int copy_pages(struct copy *c)
{
    struct page_reader reader = store_page_reader(c->store);
    if (reader.read == NULL)
        return -ERR_UNSUPPORTED;
    uint32_t lock = ltx_lock_pgno(c->page_size);
    for (uint32_t pgno = 1; pgno <= c->commit; pgno++) {
        if (c->progress != NULL)
            c->progress(c->ctx, pgno - 1, c->commit);
        if (pgno == lock)
            continue;
        uint32_t page_size = 0;
        int rc = read_page(c, reader, pgno, &page_size);
        if (rc == -ERR_NOTFOUND || (rc == 0 && page_size != c->page_size))
            return 0;
        if (rc == 0)
            rc = put_page(c, pgno);
        if (rc < 0)
            return rc;
    }
    if (c->progress != NULL)
        c->progress(c->ctx, c->commit, c->commit);
    return 0;
}

/* One record over what is there. */
static int apply_record(struct copy *c, struct txlog_entry *e)
{
    struct ltx_decoder d = {0};
    int rc = ltx_decode_begin(&d, txlog_entry_source(e));
    if (rc == 0 && (d.header.page_size != c->page_size || d.header.commit == 0)) {
        rc = sparse_set_size(&c->file, 0);
        if (rc == 0)
            rc = pagesums_resize(&c->sums, 0);
        c->page_size = d.header.page_size;
    }
    if (rc == 0)
        rc = pagesums_resize(&c->sums, d.header.commit);
    while (rc == 0) {
        uint32_t pgno;
        rc = ltx_decode_page(&d, &pgno, c->page);
        if (rc <= 0)
            break;
        rc = put_page(c, pgno);
    }
    if (rc == 0) {
        c->commit = d.header.commit;
        c->at = (struct position){e->max_txid, e->post_checksum};
        txlog_pin_move(&c->pin, c->at.txid);
    } else if (d.fault[0] != '\0')
        log_error("snapshot", "%s: record %016" PRIx64 "-%016" PRIx64 " cannot be read: %s",
                  ledger_name(c->ledger), e->min_txid, e->max_txid, d.fault);
    ltx_decode_fini(&d);
    return rc;
}

/* Every record up to `end`, which was the last one when the last page had been copied. */
static int apply_records(struct copy *c, struct position end)
{
    struct txlog *log = ledger_log(c->ledger);
    struct txlog_entry e = {0};
    int rc = 0;
    if (!position_equal(c->at, end))
        rc = txlog_find_from(log, c->at, &e);
    while (rc == 0 && !position_equal(c->at, end)) {
        rc = cancelled(c) ? -ERR_CLOSED : apply_record(c, &e);
        if (rc == 0 && !position_equal(c->at, end))
            rc = txlog_next(log, &e);
    }
    txlog_entry_release(&e);
    return rc;
}

/* Pins the log and starts where the database's files are known to stand. */
static int start(struct copy *c)
{
    struct txlog *log = ledger_log(c->ledger);
    struct ledger_info info;
    txlog_pin(log, &c->pin, 0);
    ledger_info(c->ledger, &info);
    if (info.damaged)
        return -ERR_DAMAGED;
    if (info.last.txid == 0)
        return -ERR_NOTFOUND;
    c->at = info.last;
    c->page_size = info.page_size;
    c->commit = info.commit;
    /* On a replica the files may be behind the log. */
    struct txlog_entry e;
    if (!position_equal(info.applied, info.last) && txlog_find_from(log, info.applied, &e) == 0) {
        txlog_entry_release(&e);
        c->at = info.applied;
    }
    txlog_pin_move(&c->pin, c->at.txid);
    return 0;
}

static int verify(const struct copy *c)
{
    if (c->commit == 0)
        return -ERR_NOTFOUND;
    uint64_t total = pagesums_total(&c->sums);
    if (total == c->at.checksum)
        return 0;
    log_error("snapshot",
              "%s: the copy has checksum %016" PRIx64 ", and the database has %016" PRIx64
              " at %016" PRIx64,
              ledger_name(c->ledger), total, c->at.checksum, c->at.txid);
    return -ERR_CHECKSUM;
}

static int attempt(struct copy *c)
{
    int rc = sparse_set_size(&c->file, 0);
    if (rc == 0)
        rc = pagesums_resize(&c->sums, 0);
    if (rc == 0)
        rc = start(c);
    if (rc == 0)
        rc = pagesums_resize(&c->sums, c->commit);
    if (rc == 0)
        rc = copy_pages(c);
    if (rc == 0) {
        rc = apply_records(c, ledger_last(c->ledger));
        if (rc == -ERR_NOTFOUND)
            rc = -ERR_POSITION;
    }
    txlog_unpin(&c->pin);
    if (rc == 0)
        rc = verify(c);
    if (rc == 0)
        rc = sparse_set_size(&c->file, (int64_t)c->commit * c->page_size);
    return rc;
}

/* Encodes the pages of the database file `fd`. */
static int encode_file(int fd, const struct ltx_header *h, uint64_t post, struct ltx_sink sink)
{
    struct ltx_encoder e = {0};
    uint8_t *page = malloc(h->page_size);
    int rc = page == NULL ? -ERR_NOMEM : ltx_encode_begin(&e, sink, h);
    uint32_t lock = ltx_lock_pgno(h->page_size);
    for (uint32_t pgno = 1; rc == 0 && pgno <= h->commit; pgno++) {
        if (pgno == lock)
            continue;
        rc = file_read(fd, page, h->page_size, (int64_t)(pgno - 1) * h->page_size);
        if (rc == 0)
            rc = ltx_encode_page(&e, pgno, page);
    }
    uint64_t size;
    if (rc == 0)
        rc = ltx_encode_finish(&e, post, &size);
    ltx_encode_fini(&e);
    free(page);
    return rc;
}

static int open_unnamed(int dirfd, int *fd)
{
    int rc = file_open(dirfd, ".", O_TMPFILE | O_RDWR, 0600, fd);
    if (rc != -ERR_UNSUPPORTED && rc != -ERR_INVALID)
        return rc;
    char name[32];
    snprintf(name, sizeof name, "snapshot-%016" PRIx64, random_u64());
    rc = file_open(dirfd, name, O_RDWR | O_CREAT | O_EXCL, 0600, fd);
    if (rc == 0)
        rc = file_unlink(dirfd, name);
    return rc;
}

int snapshot_database(struct store *s, struct ledger *l, int fd, struct position *at,
                      uint32_t *page_size, uint32_t *commit, snapshot_progress *progress, void *ctx,
                      const volatile bool *cancel)
{
    struct copy c = {.store = s,
                     .ledger = l,
                     .file = {.fd = fd},
                     .progress = progress,
                     .ctx = ctx,
                     .cancel = cancel};
    c.page = malloc(LTX_MAX_PAGE_SIZE);
    int rc = c.page == NULL ? -ERR_NOMEM : -ERR_POSITION;
    for (int i = 0; i < ATTEMPTS && rc == -ERR_POSITION; i++)
        rc = attempt(&c);
    if (rc == 0) {
        *at = c.at;
        *page_size = c.page_size;
        *commit = c.commit;
    }
    pagesums_fini(&c.sums);
    free(c.page);
    return rc;
}

int snapshot_ltx(struct store *s, struct ledger *l, int tmp_dirfd, uint32_t flags,
                 struct ltx_sink sink, struct position *at)
{
    if ((flags & ~LTX_NO_CHECKSUM) != 0)
        return -ERR_INVALID;
    int fd;
    int rc = open_unnamed(tmp_dirfd, &fd);
    if (rc < 0)
        return rc;
    struct position p;
    struct ltx_header h = {.flags = flags, .min_txid = 1, .timestamp_ms = wall_ms()};
    rc = snapshot_database(s, l, fd, &p, &h.page_size, &h.commit, NULL, NULL, NULL);
    if (rc == 0) {
        h.max_txid = p.txid;
        rc = encode_file(fd, &h, flags & LTX_NO_CHECKSUM ? 0 : p.checksum, sink);
    }
    (void)file_close(fd);
    if (rc == 0)
        *at = p;
    return rc;
}
