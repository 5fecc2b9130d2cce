/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster/bringup.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/fetch.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"
#include "ltx/checksum.h"
#include "ltx/encode.h"

#define SAY_MS 5000
#define COPY_BYTES (256u << 10)

void bringup_expect(struct bringup *b, uint64_t pages)
{
    mutex_lock(&b->w->follower->mutex);
    b->w->pages_done = 0;
    b->w->pages_total = pages;
    mutex_unlock(&b->w->follower->mutex);
}

void bringup_progress(struct bringup *b, uint64_t pages)
{
    uint64_t done, total;
    double seconds = (double)mono_since_ms(b->started) / 1000.0, rate;

    mutex_lock(&b->w->follower->mutex);
    b->w->pages_done += pages;
    done = b->w->pages_done;
    total = b->w->pages_total;
    mutex_unlock(&b->w->follower->mutex);
    if (mono_since_ms(b->said) < SAY_MS || done == 0)
        return;
    b->said = mono_now();
    rate = (double)done / seconds;
    log_info("replica",
             "%s: bringing up: %" PRIu64 " of %" PRIu64 " pages looked at, %.1f MB/s, %.0f s left",
             ledger_name(b->x->ledger), done, total, rate * b->page_size / 1e6,
             total > done ? (double)(total - done) / rate : 0.0);
}

/* Unnamed files in <data>/tmp. */

static int open_tmp(struct bringup *b)
{
    int data = store_data_dirfd(b->w->follower->store);
    int rv = file_mkdir(data, "tmp", 0700);

    return rv != 0 ? rv : file_open(data, "tmp", O_RDONLY | O_DIRECTORY, 0, &b->tmp_dirfd);
}

static int open_unnamed(int dirfd, int *fd)
{
    char name[32];
    int rv = file_open(dirfd, ".", O_RDWR | O_TMPFILE, 0600, fd);

    if (rv == 0)
        return 0;
    snprintf(name, sizeof name, "bringup-%016" PRIx64, random_u64());
    rv = file_open(dirfd, name, O_RDWR | O_CREAT | O_EXCL, 0600, fd);
    return rv != 0 ? rv : file_unlink(dirfd, name);
}

/* Of a damaged database it is found out first what is really here. */
static bool go_on(void *ctx, uint64_t done, uint64_t total)
{
    struct bringup *b = ctx;

    mutex_lock(&b->w->follower->mutex);
    b->w->pages_done = done;
    b->w->pages_total = total;
    mutex_unlock(&b->w->follower->mutex);
    return !follower_quits(b->w->follower);
}

static int take_stock(struct bringup *b)
{
    struct page_reader reader = store_page_reader(b->w->follower->store);
    struct page_stock stock = {.go_on = go_on, .ctx = b};
    struct ledger *l = b->x->ledger;
    struct ledger_info info;
    int rv;

    ledger_info(l, &info);
    if (!info.damaged)
        return 0;
    if (reader.stock == NULL) {
        b->all = true;
        return 0;
    }
    rv = reader.stock(reader.ctx, l, &stock);
    if (rv == 0)
        rv = ledger_take_stock(l, stock.page_size, &stock.sums);
    pagesums_fini(&stock.sums);
    ledger_info(l, &info);
    if (rv == 0)
        log_info("replica",
                 "%s: its files hold %u pages with checksum %016" PRIx64
                 ": what differs from the primary is fetched",
                 ledger_name(l), info.commit, info.last.checksum);
    return rv;
}

/* Step 1. */
static int begin(struct bringup *b)
{
    struct msg_writer m = follower_request(b->w->follower, &b->w->call, MSG_BEGIN, b->x);
    struct msg_reader *in = &b->w->call.in;
    struct ledger_info info;
    int rv = follower_ask(b->w->follower, &b->w->call, m.err, MSG_BEGUN);

    if (rv != 0)
        return rv;
    b->begun = msg_get_position(in);
    b->page_size = msg_get_u32(in);
    b->commit = msg_get_u32(in);
    if (msg_end(in) != 0 || !ltx_page_size_valid(b->page_size))
        return -ERR_PROTOCOL;
    ledger_info(b->x->ledger, &info);
    b->here = info.last;
    b->here_page_size = info.page_size;
    b->here_commit = info.commit;
    b->until = b->end_txid = b->begun.txid;
    b->post_checksum = b->begun.checksum;
    b->all = b->all || info.last.txid == 0 || info.commit == 0 || b->x->all_pages ||
             info.page_size != b->page_size || b->begun.txid <= 1;
    rv = pagespool_open(&b->spool, b->tmp_dirfd, b->page_size);
    b->spool_open = rv == 0;
    return rv;
}

/* Step 4: each record goes into a file and from there into the spool. */

static int piece_begin(void *ctx, uint64_t size)
{
    struct bringup *b = ctx;

    b->piece_size = size;
    b->piece_at = 0;
    return b->piece_fd >= 0 ? 0 : open_unnamed(b->tmp_dirfd, &b->piece_fd);
}

static int piece_write(void *ctx, const void *data, size_t n)
{
    struct bringup *b = ctx;
    int rv = file_write(b->piece_fd, data, n, (int64_t)b->piece_at);

    b->piece_at += n;
    return rv;
}

static int piece_end(void *ctx, uint64_t *after)
{
    struct bringup *b = ctx;
    struct ltx_file_range range = {.fd = b->piece_fd};
    struct ltx_header h;
    uint64_t post;
    int rv = pagespool_put_record(&b->spool, ltx_source_file(&range, b->piece_size), &h, &post);

    if (rv != 0)
        return rv;
    if (h.min_txid > b->end_txid + 1 || h.max_txid <= b->end_txid)
        return -ERR_POSITION;
    if (h.page_size != b->here_page_size)
        b->all = true;
    b->page_size = h.page_size;
    b->commit = h.commit;
    b->post_checksum = post;
    b->end_txid = *after = h.max_txid;
    return 0;
}

static int fetch(struct bringup *b)
{
    const struct fetch_sink sink = {
        .begin = piece_begin, .write = piece_write, .end = piece_end, .ctx = b};

    return b->until <= b->begun.txid ? 0
                                     : fetch_records(b->w, b->x, b->begun.txid, b->until, &sink);
}

/* Step 5. */

struct into_file {
    int fd;
    uint64_t size;
};

static int into_file(void *ctx, const void *data, size_t n)
{
    struct into_file *to = ctx;
    int rv = file_write(to->fd, data, n, (int64_t)to->size);

    to->size += n;
    return rv;
}

/* Whether the page is the same here already. */
static bool is_here(const struct bringup *b, uint32_t pgno, const void *page)
{
    return !b->all &&
           ledger_page_sum(b->x->ledger, pgno) == checksum_page(pgno, page, b->page_size);
}

static int encode_pages(struct bringup *b, struct ltx_encoder *e, uint32_t *put)
{
    uint8_t *page = malloc(b->page_size);
    int rv = page == NULL ? -ERR_NOMEM : 0;

    for (uint32_t i = 0; rv == 0 && i < b->spool.order_len; i++) {
        uint32_t pgno;
        rv = pagespool_read(&b->spool, i, &pgno, page);
        if (rv != 0 || is_here(b, pgno, page))
            continue;
        rv = ltx_encode_page(e, pgno, page);
        ++*put;
    }
    free(page);
    return rv;
}

static int encode(struct bringup *b, struct into_file *to, uint32_t *put)
{
    struct ltx_header h = {.page_size = b->page_size,
                           .commit = b->commit,
                           .min_txid = b->all ? 1 : b->end_txid,
                           .max_txid = b->end_txid,
                           .timestamp_ms = wall_ms(),
                           .pre_checksum = b->all ? 0 : b->here.checksum};
    uint32_t lock = ltx_lock_pgno(b->page_size);
    uint32_t whole = b->commit - (b->commit >= lock ? 1 : 0);
    struct ltx_encoder e = {0};
    uint64_t size;
    int rv = pagespool_sort(&b->spool, b->commit);

    if (rv == 0 && b->all && b->spool.order_len != whole)
        rv = -ERR_TRUNCATED;
    if (rv == 0)
        rv = ltx_encode_begin(&e, (struct ltx_sink){.write = into_file, .ctx = to}, &h);
    if (rv == 0)
        rv = encode_pages(b, &e, put);
    if (rv == 0)
        rv = ltx_encode_finish(&e, b->post_checksum, &size);
    ltx_encode_fini(&e);
    return rv;
}

static int receive(struct bringup *b, const struct into_file *from)
{
    struct ledger_receive r = {0};
    uint8_t *copy = malloc(COPY_BYTES);
    int rv = copy == NULL ? -ERR_NOMEM
                          : ledger_receive_begin(b->x->ledger, &r, from->size, TXLOG_REBASE);

    for (uint64_t at = 0; rv == 0 && at < from->size;) {
        size_t n = from->size - at < COPY_BYTES ? (size_t)(from->size - at) : COPY_BYTES;
        rv = file_read(from->fd, copy, n, (int64_t)at);
        if (rv == 0)
            rv = ledger_receive_write(&r, copy, n);
        at += n;
    }
    free(copy);
    if (rv == 0)
        return ledger_receive_finish(&r, NULL);
    ledger_receive_abort(&r);
    return rv;
}

static int install(struct bringup *b)
{
    struct into_file to = {.fd = -1};
    uint32_t put = 0;
    int rv = open_unnamed(b->tmp_dirfd, &to.fd);

    if (rv != 0)
        return rv;
    rv = encode(b, &to, &put);
    if (rv == 0)
        rv = follower_quits(b->w->follower) ? -ERR_CLOSED : receive(b, &to);
    file_close(to.fd);
    if (rv == 0)
        log_info("replica",
                 "%s: brought up to transaction %" PRIu64 ": %u of %u pages in %" PRIu64
                 " bytes, %" PRId64 " ms",
                 ledger_name(b->x->ledger), b->end_txid, put, b->commit, to.size,
                 mono_since_ms(b->started));
    return rv;
}

static void end(struct bringup *b)
{
    struct msg_writer m = follower_request(b->w->follower, &b->w->call, MSG_END, b->x);

    self_call(b->w->follower->self, b->w->follower->bulk, &b->w->call, m.err, MSG_OK, 1000);
}

/* What the outcome says of this database's own sums. */
static void note_outcome(struct bringup *b, int rv)
{
    struct follow *x = b->x;

    mutex_lock(&b->w->follower->mutex);
    if (rv == 0)
        x->distrust = x->trimmed = x->all_pages = false;
    else if (rv == -ERR_CHECKSUM || rv == -ERR_DIVERGED || rv == -ERR_CORRUPT ||
             rv == -ERR_TRUNCATED)
        x->all_pages = true;
    mutex_unlock(&b->w->follower->mutex);
}

int bringup_job(struct follower_worker *w, struct follow *x)
{
    struct bringup b = {.w = w, .x = x, .tmp_dirfd = -1, .piece_fd = -1, .started = mono_now()};
    int rv = open_tmp(&b);

    b.said = b.started;
    if (rv == 0)
        rv = take_stock(&b);
    if (rv == 0)
        rv = begin(&b);
    if (rv == 0)
        rv = bringup_fetch_pages(&b);
    if (rv == 0)
        rv = fetch(&b);
    if (rv == 0)
        rv = install(&b);
    note_outcome(&b, rv);
    if (b.begun.txid != 0)
        end(&b);
    if (b.spool_open)
        pagespool_close(&b.spool);
    file_close(b.piece_fd);
    file_close(b.tmp_dirfd);
    return rv;
}
