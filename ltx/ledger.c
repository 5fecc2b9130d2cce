/* SPDX-License-Identifier: Apache-2.0 */
#include "ltx/ledger.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/assert.h"
#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "ltx/base/logger.h"
#include "ltx/checksum.h"
#include "ltx/ledger_internal.h"

static int write_to_append(void *ctx, const void *data, size_t n)
{
    return txlog_append_write(ctx, data, n);
}

/* Ends a transaction; what can be used again is kept. */
static void end_tx(struct ledger_tx *tx)
{
    txlog_append_abort(&tx->append);
    tx->delta_len = 0;
    tx->active = tx->sealed = tx->changed = false;
    tx->ledger = NULL;
}

/* With the append slot: header and running checksum for what comes after the last position. */
static int start_record(struct ledger *l, struct ledger_tx *tx, const struct ledger_change *change)
{
    mutex_lock(&l->mutex);
    bool damaged = l->damaged;
    mutex_unlock(&l->mutex);
    if (damaged)
        return -ERR_DAMAGED;
    bool deletion = change->commit == 0;
    uint32_t page_size = deletion && l->page_size != 0 ? l->page_size : change->page_size;
    bool fresh = ledger_is_fresh(l, page_size, change->commit);
    tx->header = (struct ltx_header){
        .page_size = page_size,
        .commit = change->commit,
        .min_txid = l->last.txid + 1,
        .max_txid = l->last.txid + 1,
        .timestamp_ms = wall_ms(),
        .pre_checksum = l->last.checksum,
        .wal_offset = change->wal_offset,
        .wal_size = change->wal_size,
        .wal_salt1 = change->wal_salt1,
        .wal_salt2 = change->wal_salt2,
        .node_id = l->node_id,
    };
    tx->old_commit = fresh ? 0 : l->commit;
    tx->checksum = LTX_EMPTY_CHECKSUM;
    if (!fresh)
        tx->checksum = ledger_cut_sums(l, l->last.checksum, change->commit);
    tx->changed = change->commit != l->commit || (fresh && !deletion);
    /* Deleting what is not there is no change, and nothing to encode. */
    if (!tx->changed && deletion)
        return 0;
    struct ltx_sink sink = {write_to_append, &tx->append};
    return ltx_encode_begin(&tx->encoder, sink, &tx->header);
}

static int delta_put(struct ledger_tx *tx, uint32_t pgno, uint64_t sum)
{
    struct ledger_delta_list list = {tx->delta, tx->delta_len, tx->delta_cap};
    int rc = ledger_delta_add(&list, pgno, sum);
    tx->delta = list.items;
    tx->delta_len = list.len;
    tx->delta_cap = list.cap;
    return rc;
}

static bool may_put(const struct ledger_tx *tx, uint32_t pgno)
{
    uint32_t last = tx->delta_len == 0 ? 0 : tx->delta[tx->delta_len - 1].pgno;
    return pgno > last && pgno <= tx->header.commit && pgno != ltx_lock_pgno(tx->header.page_size);
}

/* The record is complete in the append's hands. Does nothing if there is to be none. */
static int finish_record(struct ledger_tx *tx)
{
    if (!tx->changed)
        return 0;
    const struct ltx_header *h = &tx->header;
    if (!ledger_has_new_pages(tx->delta, tx->delta_len, h->page_size, tx->old_commit, h->commit))
        return -ERR_INVALID;
    uint64_t size;
    return ltx_encode_finish(&tx->encoder, tx->checksum, &size);
}

int ledger_delta_add(struct ledger_delta_list *list, uint32_t pgno, uint64_t sum)
{
    if (list->len == list->cap) {
        size_t cap = list->cap == 0 ? 64 : list->cap + list->cap / 2;
        struct ledger_delta *items = realloc(list->items, cap * sizeof *items);
        if (items == NULL)
            return -ERR_NOMEM;
        list->items = items;
        list->cap = cap;
    }
    list->items[list->len++] = (struct ledger_delta){.sum = sum, .pgno = pgno};
    return 0;
}

bool ledger_is_fresh(const struct ledger *l, uint32_t page_size, uint32_t commit)
{
    return l->commit == 0 || commit == 0 || page_size != l->page_size;
}

uint64_t ledger_cut_sums(const struct ledger *l, uint64_t checksum, uint32_t commit)
{
    for (uint32_t i = commit; i < l->sums.count; i++)
        checksum = checksum_toggle(checksum, l->sums.sums[i]);
    return checksum;
}

bool ledger_has_new_pages(const struct ledger_delta *items, size_t len, uint32_t page_size,
                          uint32_t old_commit, uint32_t commit)
{
    if (commit <= old_commit)
        return true;
    uint32_t lock = ltx_lock_pgno(page_size);
    uint32_t want = commit - old_commit - (lock > old_commit && lock <= commit ? 1 : 0);
    size_t got = 0;
    while (got < len && items[len - 1 - got].pgno > old_commit)
        got++;
    return got == want;
}

int ledger_install(struct ledger *l, struct txlog_append *a, const struct ltx_header *h,
                   uint64_t post_checksum, bool fresh, const struct ledger_delta *items, size_t len)
{
    /* Nothing may fail once the record is published, so room for the sums comes first. */
    int rc = pagesums_reserve(&l->sums, h->commit);
    if (rc < 0) {
        txlog_append_abort(a);
        return rc;
    }
    rc = txlog_append_publish(a, h, post_checksum);
    if (rc < 0)
        return rc;
    if (fresh)
        rc = pagesums_resize(&l->sums, 0);
    if (rc == 0)
        rc = pagesums_resize(&l->sums, h->commit);
    for (size_t i = 0; rc == 0 && i < len; i++)
        rc = pagesums_set(&l->sums, items[i].pgno, items[i].sum);
    ASSERT(rc == 0, "I6: the sums follow every published record");
    l->last = (struct position){h->max_txid, post_checksum};
    l->page_size = h->page_size;
    l->commit = h->commit;
    l->timestamp_ms = h->timestamp_ms;
    l->changed_bytes += (uint64_t)len * h->page_size;
    return 0;
}

void ledger_damage_locked(struct ledger *l, const char *why)
{
    if (!l->damaged)
        log_error("ledger", "%s: %s; it must be fetched again", l->name, why);
    l->damaged = true;
    snprintf(l->damage, sizeof l->damage, "%s", why);
}

int ledger_begin(struct ledger *l, struct ledger_tx *tx, const struct ledger_change *change)
{
    ASSERT(!tx->active, "one transaction at a time in a ledger_tx");
    if (change->commit > 0 && !ltx_page_size_valid(change->page_size))
        return -ERR_INVALID;
    int rc = txlog_append_begin(l->log, &tx->append, 0);
    if (rc < 0)
        return rc;
    tx->ledger = l;
    tx->active = true;
    tx->delta_len = 0;
    rc = start_record(l, tx, change);
    if (rc < 0)
        end_tx(tx);
    return rc;
}

int ledger_put_page(struct ledger_tx *tx, uint32_t pgno, const void *page)
{
    ASSERT(tx->active && !tx->sealed, "pages are put between begin and publish");
    int rc = may_put(tx, pgno) ? 0 : -ERR_INVALID;
    if (rc == 0) {
        uint64_t sum = checksum_page(pgno, page, tx->header.page_size);
        uint64_t old = pgno <= tx->old_commit ? pagesums_get(&tx->ledger->sums, pgno) : 0;
        if (sum != old)
            tx->changed = true;
        tx->checksum = checksum_toggle(checksum_toggle(tx->checksum, old), sum);
        rc = delta_put(tx, pgno, sum);
    }
    if (rc == 0)
        rc = ltx_encode_page(&tx->encoder, pgno, page);
    if (rc < 0)
        end_tx(tx);
    return rc;
}

int ledger_seal(struct ledger_tx *tx)
{
    ASSERT(tx->active && !tx->sealed, "a transaction is sealed once");
    int rc = finish_record(tx);
    if (rc == 0 && tx->changed)
        rc = txlog_append_flush(&tx->append);
    tx->sealed = true;
    if (rc < 0)
        end_tx(tx);
    return rc;
}

int ledger_publish(struct ledger_tx *tx, struct position *position)
{
    ASSERT(tx->active, "a transaction that has begun is published");
    struct ledger *l = tx->ledger;
    int rc = tx->sealed ? 0 : finish_record(tx);
    if (rc == 0 && !tx->changed)
        rc = LEDGER_UNCHANGED;
    if (rc == 0) {
        mutex_lock(&l->mutex);
        rc = ledger_install(l, &tx->append, &tx->header, tx->checksum, tx->old_commit == 0,
                            tx->delta, tx->delta_len);
        if (rc == 0) {
            l->applied = l->last;
            if (position != NULL)
                *position = l->last;
        }
        mutex_unlock(&l->mutex);
    }
    end_tx(tx);
    return rc;
}

void ledger_abort(struct ledger_tx *tx)
{
    if (tx->active)
        end_tx(tx);
}

void ledger_tx_fini(struct ledger_tx *tx)
{
    ledger_abort(tx);
    ltx_encode_fini(&tx->encoder);
    free(tx->delta);
    memset(tx, 0, sizeof *tx);
}

const char *ledger_name(const struct ledger *l)
{
    return l->name;
}

struct txlog *ledger_log(struct ledger *l)
{
    return l->log;
}

void ledger_info(struct ledger *l, struct ledger_info *out)
{
    *out = (struct ledger_info){.log_bytes = txlog_bytes(l->log)};
    mutex_lock(&l->mutex);
    out->last = l->last;
    out->durable = txlog_durable(l->log);
    out->first = txlog_first(l->log);
    out->applied = l->applied;
    out->recovery = l->state.recovery;
    out->recovery_commit = l->state.commit;
    out->page_size = l->page_size;
    out->commit = l->commit;
    out->timestamp_ms = l->timestamp_ms;
    out->changed_bytes = l->changed_bytes;
    out->damaged = l->damaged;
    memcpy(out->damage, l->damage, sizeof out->damage);
    out->diverged = l->diverged;
    out->bad = l->bad_count;
    out->mended = l->mended;
    mutex_unlock(&l->mutex);
}

struct position ledger_last(struct ledger *l)
{
    mutex_lock(&l->mutex);
    struct position p = l->last;
    mutex_unlock(&l->mutex);
    return p;
}

struct position ledger_durable(struct ledger *l)
{
    return txlog_durable(l->log);
}

struct position ledger_applied(struct ledger *l)
{
    mutex_lock(&l->mutex);
    struct position p = l->applied;
    mutex_unlock(&l->mutex);
    return p;
}

int ledger_sync(struct ledger *l, uint64_t txid)
{
    return txlog_sync(l->log, txid);
}

uint64_t ledger_page_sum(struct ledger *l, uint32_t pgno)
{
    mutex_lock(&l->mutex);
    uint64_t sum = pagesums_get(&l->sums, pgno);
    mutex_unlock(&l->mutex);
    return sum;
}

uint32_t ledger_page_sums(struct ledger *l, uint32_t first, uint32_t n, uint64_t *out)
{
    uint32_t got = 0;
    mutex_lock(&l->mutex);
    if (first >= 1 && first <= l->sums.count) {
        got = l->sums.count - first + 1 < n ? l->sums.count - first + 1 : n;
        memcpy(out, l->sums.sums + first - 1, got * sizeof *out);
    }
    mutex_unlock(&l->mutex);
    return got;
}

uint32_t ledger_block_sums(struct ledger *l, uint32_t first_block, uint32_t n, uint64_t *out)
{
    uint32_t got = 0;
    mutex_lock(&l->mutex);
    uint32_t count = pagesums_block_count(&l->sums);
    for (; got < n && first_block < count; got++)
        out[got] = pagesums_block(&l->sums, first_block++);
    mutex_unlock(&l->mutex);
    return got;
}

void ledger_set_applied(struct ledger *l, struct position p)
{
    mutex_lock(&l->mutex);
    l->applied = p;
    mutex_unlock(&l->mutex);
    if (l->feeds != NULL)
        feed_wake(&l->feeds->applied);
}

void ledger_set_damaged(struct ledger *l, const char *why)
{
    mutex_lock(&l->mutex);
    ledger_damage_locked(l, why);
    mutex_unlock(&l->mutex);
    if (l->feeds != NULL)
        feed_wake(&l->feeds->applied);
}
