/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Single pages of a replica that its files do not hold as they should: fetched from the primary,
 * and put in place by fs if they are what the ledger says. Records come and are applied meanwhile;
 * a page that the primary has changed since is brought by its record.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "cluster/follow.h"
#include "ltx/base/err.h"
#include "ltx/base/logger.h"
#include "ltx/checksum.h"
#include "ltx/compress.h"

#define AT_ONCE 256u /* pages in a request */
#define AGAIN_MS 500 /* after a try that has left some */
#define AGAIN_MOST_MS 30000

/* One page that came. *err: the first failure but "not now". */
static void take_page(struct follower_worker *w, struct ledger *l, const struct msg_page *page,
                      uint8_t *room, uint32_t page_size, int *err)
{
    struct page_reader reader = store_page_reader(w->follower->store);
    int rv;

    if (page->size == 0)
        return; /* a transaction of the primary is changing it */
    rv = decompress_page(page->data, page->size, room, page_size);
    if (rv != 0)
        rv = -ERR_PROTOCOL;
    else if (checksum_page(page->pgno, room, page_size) == ledger_page_sum(l, page->pgno))
        rv = reader.mend(reader.ctx, l, page->pgno, room);
    if (*err == 0 && rv != -ERR_BUSY)
        *err = rv;
}

/* Asks for pages pgno[0 .. n); *dealt: so many of them were dealt with. */
static int fetch(struct follower_worker *w, struct follow *x, const uint32_t *pgno, uint32_t n,
                 uint32_t page_size, uint32_t *dealt)
{
    struct msg_writer m = follower_request(w->follower, &w->call, MSG_WANT, x);
    struct msg_reader *in = &w->call.in;
    uint8_t *room = malloc(LTX_MAX_PAGE_SIZE);
    struct msg_page page;
    uint32_t theirs;
    int rv, err = 0;

    if (room == NULL)
        return -ERR_NOMEM;
    msg_put_u32(&m, page_size);
    for (uint32_t i = 0; i < n; i++) {
        msg_put_u32(&m, pgno[i]);
        msg_put_u32(&m, 1);
        msg_put_u8(&m, 0);
    }
    rv = follower_ask(w->follower, &w->call, m.err, MSG_PAGES);
    if (rv == 0) {
        theirs = msg_get_u32(in);
        *dealt = msg_get_u32(in);
        (void)msg_get_u32(in);
        (void)msg_get_u64(in);
        if (in->bad || *dealt > n || (*dealt == 0 && theirs == page_size))
            rv = -ERR_PROTOCOL;
        else if (theirs != page_size)
            rv = -ERR_BUSY; /* a record will bring every page */
    }
    while (rv == 0 && (rv = msg_next_page(in, &page)) > 0) {
        take_page(w, x->ledger, &page, room, page_size, &err);
        rv = 0;
    }
    free(room);
    return rv != 0 ? rv : err;
}

int mend_job(struct follower_worker *w, struct follow *x)
{
    struct page_reader reader = store_page_reader(w->follower->store);
    uint32_t *pages = malloc(LEDGER_BAD_MAX * sizeof *pages);
    struct ledger_info info;
    uint32_t n, dealt = 0, at_once = AT_ONCE;
    int bad_there = 0;
    int rv = pages == NULL ? -ERR_NOMEM : reader.mend == NULL ? -ERR_UNSUPPORTED : 0;

    ledger_info(x->ledger, &info);
    n = rv != 0 ? 0 : ledger_bad_pages(x->ledger, pages, LEDGER_BAD_MAX);
    for (uint32_t at = 0; rv == 0 && at < n; at += dealt) {
        uint32_t part = n - at < at_once ? n - at : at_once;
        rv = follower_quits(w->follower) ? -ERR_CLOSED
                                         : fetch(w, x, pages + at, part, info.page_size, &dealt);
        if (rv != -ERR_DAMAGED)
            continue;
        /* The primary has one of them bad itself: the others are asked for one by one. */
        bad_there = part == 1 ? rv : bad_there;
        dealt = part == 1;
        at_once = 1;
        rv = 0;
    }
    free(pages);
    ledger_info(x->ledger, &info);
    mutex_lock(&w->follower->mutex);
    x->mend_tries = info.bad == 0 ? 0 : x->mend_tries + 1;
    x->mend_tried = mono_now();
    mutex_unlock(&w->follower->mutex);
    if (rv == 0 || rv == -ERR_BUSY)
        rv = bad_there;
    return rv;
}

/* With the mutex held: whether it is time for another try. */
static bool is_due(const struct follow *x)
{
    int64_t wait = AGAIN_MS << (x->mend_tries < 6 ? x->mend_tries : 6);

    if (x->mend_tries == 0)
        return true;
    return mono_since_ms(x->mend_tried) >= (wait < AGAIN_MOST_MS ? wait : AGAIN_MOST_MS);
}

void follower_look_for_bad_pages(struct follower *f)
{
    for (uint32_t i = 0; i < f->count; i++) {
        struct follow *x = f->list[i];
        struct ledger_info info;
        ledger_info(x->ledger, &info);
        mutex_lock(&f->mutex);
        if (info.bad > 0 && !info.damaged && x->state == FOLLOW_RECORDS && !x->mend && is_due(x)) {
            x->mend = true;
            cond_broadcast(&f->cond);
        }
        mutex_unlock(&f->mutex);
    }
}
