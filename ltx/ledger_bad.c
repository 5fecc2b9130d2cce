/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "ltx/base/err.h"
#include "ltx/checksum.h"
#include "ltx/ledger_internal.h"

/*
 * The list is short, and kept in rising order. What is in it is known to be bad until somebody has
 * put it right or finds it right: a record may have brought the page meanwhile.
 */

/* With the mutex held: where page pgno is in the list, or would be. */
static uint32_t place_of(const struct ledger *l, uint32_t pgno)
{
    uint32_t low = 0, high = l->bad_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (l->bad[middle] < pgno)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int note_locked(struct ledger *l, uint32_t pgno)
{
    uint32_t i = place_of(l, pgno);
    if (i < l->bad_count && l->bad[i] == pgno)
        return 0;
    if (l->bad_count == LEDGER_BAD_MAX)
        return -ERR_LIMIT;
    if (l->bad == NULL && (l->bad = malloc(LEDGER_BAD_MAX * sizeof *l->bad)) == NULL)
        return -ERR_NOMEM;
    memmove(l->bad + i + 1, l->bad + i, (l->bad_count - i) * sizeof *l->bad);
    l->bad[i] = pgno;
    l->bad_count++;
    return 1;
}

int ledger_note_bad(struct ledger *l, uint32_t pgno)
{
    mutex_lock(&l->mutex);
    int rc = note_locked(l, pgno);
    mutex_unlock(&l->mutex);
    if (rc == 1 && l->feeds != NULL)
        feed_wake(&l->feeds->applied);
    return rc;
}

void ledger_settle_bad(struct ledger *l, uint32_t pgno, bool mended)
{
    mutex_lock(&l->mutex);
    uint32_t i = place_of(l, pgno);
    if (i < l->bad_count && l->bad[i] == pgno) {
        l->bad_count--;
        memmove(l->bad + i, l->bad + i + 1, (l->bad_count - i) * sizeof *l->bad);
    }
    if (mended)
        l->mended++;
    mutex_unlock(&l->mutex);
    if (l->feeds != NULL)
        feed_wake(&l->feeds->applied);
}

uint32_t ledger_bad_pages(struct ledger *l, uint32_t *out, uint32_t max)
{
    mutex_lock(&l->mutex);
    uint32_t n = l->bad_count < max ? l->bad_count : max;
    if (n > 0)
        memcpy(out, l->bad, n * sizeof *out);
    mutex_unlock(&l->mutex);
    return n;
}

/* ---- pages out of the own log ---- */

static bool is_wanted(const uint32_t *pgno, uint32_t n, uint32_t page)
{
    uint32_t low = 0, high = n;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (pgno[middle] == page)
            return true;
        if (pgno[middle] < page)
            low = middle + 1;
        else
            high = middle;
    }
    return false;
}

/* The pages of one record. Whatever is wrong with it, the next one may be fine. */
static int search_record(struct ledger *l, struct txlog_entry *e, const uint32_t *pgno, uint32_t n,
                         ledger_page_found *found, void *ctx)
{
    struct ltx_decoder d = {0};
    uint8_t *page = malloc(e->page_size);
    uint32_t at;
    int rc = page == NULL ? -ERR_NOMEM : 0, go_on = 0;
    if (rc == 0 && ltx_decode_begin(&d, txlog_entry_source(e)) == 0)
        while (go_on == 0 && ltx_decode_page(&d, &at, page) == 1)
            if (is_wanted(pgno, n, at) &&
                checksum_page(at, page, e->page_size) == ledger_page_sum(l, at))
                go_on = found(ctx, at, page);
    ltx_decode_fini(&d);
    free(page);
    return rc < 0 ? rc : go_on;
}

int ledger_find_pages(struct ledger *l, const uint32_t *pgno, uint32_t n, ledger_page_found *found,
                      void *ctx)
{
    struct txlog_entry e;
    struct ledger_info info;
    ledger_info(l, &info);
    int rc = txlog_find(l->log, info.first.txid, &e);
    while (rc == 0) {
        if (e.page_size == info.page_size)
            rc = search_record(l, &e, pgno, n, found, ctx);
        if (rc != 0)
            txlog_entry_release(&e);
        else
            rc = txlog_next(l->log, &e);
    }
    return rc == -ERR_NOTFOUND ? 0 : rc;
}
