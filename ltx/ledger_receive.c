/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/assert.h"
#include "ltx/base/err.h"
#include "ltx/base/logger.h"
#include "ltx/checksum.h"
#include "ltx/ledger_internal.h"

/*
 * A record from a peer lies in the log's file behind the last frame, where nobody sees it. It is
 * gone through once: each page's checksum goes into a list and into the running checksum of the
 * database. Only when the end has shown that all of it is right, file checksum and database
 * checksum included, does anything change.
 */
struct check {
    struct ledger *ledger;
    struct ltx_decoder decoder;
    struct ledger_delta_list delta;
    uint64_t checksum;
    uint32_t old_commit;
    bool fresh;
};

static int check_follows(const struct ledger *l, const struct ltx_header *h, uint32_t flags)
{
    struct position last = l->last;
    if (h->flags & LTX_NO_CHECKSUM)
        return -ERR_INVALID;
    if (flags & TXLOG_REBASE)
        return 0;
    if (h->min_txid > last.txid + 1 || h->max_txid <= last.txid)
        return -ERR_POSITION;
    /* A snapshot fits on anything, so it would hide that the histories have parted. */
    if (ltx_header_is_snapshot(h))
        return last.txid == 0 ? 0 : -ERR_POSITION;
    if (h->min_txid == last.txid + 1 && h->pre_checksum != last.checksum) {
        log_warn("ledger",
                 "%s: transaction %016" PRIx64 " comes after checksum %016" PRIx64
                 ", but this node is at %016" PRIx64,
                 l->name, h->min_txid, h->pre_checksum, last.checksum);
        return -ERR_DIVERGED;
    }
    return 0;
}

/* Where the running checksum begins. A rebase may mend a damaged database, whose sums are all that
 * is known of it. */
static uint64_t first_checksum(const struct check *c, uint32_t commit, uint32_t flags)
{
    const struct ledger *l = c->ledger;
    if (c->fresh)
        return LTX_EMPTY_CHECKSUM;
    bool rebase = (flags & TXLOG_REBASE) != 0;
    return ledger_cut_sums(l, rebase ? pagesums_total(&l->sums) : l->last.checksum, commit);
}

static int add_pages(struct check *c)
{
    struct ltx_decoder *d = &c->decoder;
    uint8_t *page = malloc(d->header.page_size);
    if (page == NULL)
        return -ERR_NOMEM;
    uint32_t pgno;
    int rc;
    while ((rc = ltx_decode_page(d, &pgno, page)) > 0) {
        uint64_t sum = checksum_page(pgno, page, d->header.page_size);
        uint64_t old = c->fresh ? 0 : pagesums_get(&c->ledger->sums, pgno);
        c->checksum = checksum_toggle(checksum_toggle(c->checksum, old), sum);
        rc = ledger_delta_add(&c->delta, pgno, sum);
        if (rc < 0)
            break;
    }
    free(page);
    return rc;
}

/* What a bring-up of a whole database needs is known, and reserved without waste. */
static int reserve_delta(struct check *c)
{
    const struct ltx_header *h = &c->decoder.header;
    /* Never more than the bytes that came can hold. */
    uint64_t most = c->decoder.source.size / (LTX_PAGE_HEADER_SIZE + LTX_PAGE_SIZE_FIELD);
    if (!c->fresh || h->commit == 0 || h->commit > most)
        return 0;
    c->delta.items = malloc(h->commit * sizeof *c->delta.items);
    if (c->delta.items == NULL)
        return -ERR_NOMEM;
    c->delta.cap = h->commit;
    return 0;
}

static int check_record(struct check *c, struct ltx_source source, uint32_t flags)
{
    struct ledger *l = c->ledger;
    struct ltx_decoder *d = &c->decoder;
    int rc = ltx_decode_begin(d, source);
    if (rc < 0) {
        log_warn("ledger", "%s: a record that was received is refused: %s", l->name, d->fault);
        return rc;
    }
    const struct ltx_header *h = &d->header;
    rc = check_follows(l, h, flags);
    if (rc < 0)
        return rc;
    c->fresh = ltx_header_is_snapshot(h) || ledger_is_fresh(l, h->page_size, h->commit);
    c->old_commit = c->fresh ? 0 : l->commit;
    c->checksum = first_checksum(c, h->commit, flags);
    rc = reserve_delta(c);
    if (rc == 0)
        rc = add_pages(c);
    if (rc < 0) {
        log_warn("ledger", "%s: record %016" PRIx64 "-%016" PRIx64 " is refused: %s", l->name,
                 h->min_txid, h->max_txid, d->fault[0] != '\0' ? d->fault : err_text(rc));
        return rc;
    }
    bool whole =
        ledger_has_new_pages(c->delta.items, c->delta.len, h->page_size, c->old_commit, h->commit);
    if (whole && c->checksum == d->post_checksum)
        return 0;
    log_warn("ledger",
             "%s: with record %016" PRIx64 "-%016" PRIx64
             " the database would have checksum %016" PRIx64 ", but it states %016" PRIx64 "%s",
             l->name, h->min_txid, h->max_txid, c->checksum, d->post_checksum,
             whole ? "" : "; it lacks new pages");
    return -ERR_DIVERGED;
}

static void clear_damage_locked(struct ledger *l)
{
    if (l->damaged)
        log_info("ledger", "%s: it has been fetched again (%s before)", l->name, l->damage);
    l->damaged = false;
    l->damage[0] = '\0';
}

int ledger_receive_begin(struct ledger *l, struct ledger_receive *r, uint64_t size, uint32_t flags)
{
    if (size < LTX_MIN_FILE_SIZE || size > INT64_MAX / 2)
        return -ERR_INVALID;
    mutex_lock(&l->mutex);
    bool damaged = l->damaged;
    mutex_unlock(&l->mutex);
    if (damaged && (flags & TXLOG_REBASE) == 0)
        return -ERR_DAMAGED;
    *r = (struct ledger_receive){.ledger = l, .expected = size};
    int rc = txlog_append_begin(l->log, &r->append, flags & TXLOG_REBASE);
    if (rc < 0)
        return rc;
    r->active = true;
    return 0;
}

int ledger_receive_write(struct ledger_receive *r, const void *data, size_t n)
{
    ASSERT(r->active, "a receive has begun");
    int rc = n > r->expected - r->got ? -ERR_LIMIT : txlog_append_write(&r->append, data, n);
    if (rc < 0)
        ledger_receive_abort(r);
    else
        r->got += n;
    return rc;
}

int ledger_receive_finish(struct ledger_receive *r, struct position *position)
{
    ASSERT(r->active, "a receive has begun");
    struct ledger *l = r->ledger;
    struct check c = {.ledger = l};
    struct ltx_file_range range;
    uint32_t flags = r->append.flags;
    int rc = r->got == r->expected ? 0 : -ERR_TRUNCATED;
    if (rc == 0)
        rc = txlog_append_flush(&r->append);
    if (rc == 0)
        rc = check_record(&c, txlog_append_source(&r->append, &range), flags);
    if (rc == 0) {
        mutex_lock(&l->mutex);
        rc = ledger_install(l, &r->append, &c.decoder.header, c.decoder.post_checksum, c.fresh,
                            c.delta.items, c.delta.len);
        if (rc == 0 && (flags & TXLOG_REBASE) != 0)
            clear_damage_locked(l);
        if (rc == 0 && position != NULL)
            *position = l->last;
        mutex_unlock(&l->mutex);
    }
    ltx_decode_fini(&c.decoder);
    free(c.delta.items);
    ledger_receive_abort(r);
    return rc;
}

void ledger_receive_abort(struct ledger_receive *r)
{
    if (!r->active)
        return;
    txlog_append_abort(&r->append);
    r->active = false;
}
