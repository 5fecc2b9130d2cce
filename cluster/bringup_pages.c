/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "cluster/bringup.h"
#include "ltx/base/bytes.h"
#include "ltx/base/err.h"
#include "ltx/compress.h"

#define BLOCKS_AT_ONCE 16384u /* block sums in a request */
#define WANT_BLOCKS 64u       /* blocks whose page sums go into a request */
#define ALL_AT_ONCE 65536u    /* pages of a range without sums */
#define BUSY_AT_ONCE 1024u
#define BUSY_PAUSE_MS 20

/* What is still to be asked for. */
struct wanted {
    uint8_t *differs; /* a byte for each block of the primary's database */
    uint32_t blocks;
    uint32_t *busy; /* pages that a transaction was changing */
    size_t busy_len, busy_cap;
    uint8_t *page; /* one page, decompressed */
};

static uint32_t blocks_of(uint32_t pages)
{
    return pages / PAGESUMS_BLOCK + (pages % PAGESUMS_BLOCK != 0);
}

static int add_busy(struct wanted *t, uint32_t pgno)
{
    if (t->busy_len == t->busy_cap) {
        size_t cap = t->busy_cap == 0 ? 256 : 2 * t->busy_cap;
        uint32_t *grown = realloc(t->busy, cap * sizeof *grown);
        if (grown == NULL)
            return -ERR_NOMEM;
        t->busy = grown;
        t->busy_cap = cap;
    }
    t->busy[t->busy_len++] = pgno;
    return 0;
}

/* Step 2: fills t->differs. */
static int compare_blocks(struct bringup *b, struct wanted *t)
{
    uint32_t here = blocks_of(b->here_commit);
    uint64_t *sums = malloc(BLOCKS_AT_ONCE * sizeof *sums);
    uint32_t shared = here < t->blocks ? here : t->blocks;
    int rv = sums == NULL ? -ERR_NOMEM : 0;

    memset(t->differs, 1, t->blocks);
    for (uint32_t first = 0; rv == 0 && first < shared;) {
        struct self_call *c = &b->w->call;
        struct msg_writer m = follower_request(b->w->follower, c, MSG_BLOCKS, b->x);
        uint32_t n = shared - first < BLOCKS_AT_ONCE ? shared - first : BLOCKS_AT_ONCE;
        const uint8_t *answer;
        n = ledger_block_sums(b->x->ledger, first, n, sums);
        if (n == 0)
            break;
        msg_put_u32(&m, b->page_size);
        msg_put_u32(&m, first);
        for (uint32_t i = 0; i < n; i++)
            msg_put_u64(&m, sums[i]);
        rv = follower_ask(b->w->follower, c, m.err, MSG_DIFFER);
        if (rv != 0)
            break;
        (void)msg_get_u32(&c->in);
        answer = msg_get_bytes(&c->in, n);
        rv = msg_end(&c->in);
        if (rv == 0)
            memcpy(t->differs + first, answer, n);
        first += n;
    }
    free(sums);
    return rv;
}

static int take_page(struct bringup *b, struct wanted *t, const struct msg_page *page)
{
    int rv;

    if (page->pgno > b->commit) /* none beyond was asked for */
        return -ERR_PROTOCOL;
    if (page->size == 0)
        return add_busy(t, page->pgno);
    rv = decompress_page(page->data, page->size, t->page, b->page_size);
    return rv != 0 ? -ERR_PROTOCOL : pagespool_put(&b->spool, page->pgno, t->page);
}

/*
 * Sends a WANT for `asked` pages and puts those of its answer into the spool. More than that are
 * refused: what they take here grows with what is asked, not with what a primary sends. 1: the page
 * size has changed.
 */
static int want(struct bringup *b, struct wanted *t, int w_err, uint32_t asked, uint32_t *ranges,
                uint32_t *pages)
{
    struct self_call *c = &b->w->call;
    struct msg_page page;
    uint32_t page_size, came = 0;
    uint64_t until;
    int rv = follower_ask(b->w->follower, c, w_err, MSG_PAGES);

    if (rv != 0)
        return rv;
    page_size = msg_get_u32(&c->in);
    *ranges = msg_get_u32(&c->in);
    *pages = msg_get_u32(&c->in);
    until = msg_get_u64(&c->in);
    if (c->in.bad)
        return -ERR_PROTOCOL;
    if (until > b->until)
        b->until = until;
    if (page_size != b->page_size)
        return 1;
    while ((rv = msg_next_page(&c->in, &page)) > 0)
        if ((rv = came++ < asked ? take_page(b, t, &page) : -ERR_PROTOCOL) != 0)
            return rv;
    return rv;
}

/* Every page of the database, in ranges without sums. */
static int want_all(struct bringup *b, struct wanted *t)
{
    uint32_t ranges, pages;
    int rv = 0;

    for (uint32_t at = 0; rv == 0 && at < b->commit;) {
        struct msg_writer m = follower_request(b->w->follower, &b->w->call, MSG_WANT, b->x);
        uint32_t n = b->commit - at < ALL_AT_ONCE ? b->commit - at : ALL_AT_ONCE;
        msg_put_u32(&m, b->page_size);
        msg_put_u32(&m, at + 1);
        msg_put_u32(&m, n);
        msg_put_u8(&m, 0);
        rv = want(b, t, m.err, n, &ranges, &pages);
        if (rv != 0)
            break;
        n = ranges > 0 ? n : pages;
        if (n == 0 || n > b->commit - at)
            return -ERR_PROTOCOL;
        at += n;
        bringup_progress(b, n);
    }
    return rv;
}

/* Pages pgno ... of one block with the sums that they have here. */
static void put_range(struct bringup *b, struct msg_writer *m, uint32_t first, uint32_t n)
{
    uint64_t sums[PAGESUMS_BLOCK] = {0};

    ledger_page_sums(b->x->ledger, first, n, sums);
    msg_put_u32(m, first);
    msg_put_u32(m, n);
    msg_put_u8(m, 1);
    for (uint32_t i = 0; i < n; i++)
        msg_put_u64(m, sums[i]);
}

/* The pages of blocks that differ, where `skip` pages of the first such block are done already. */
static int want_blocks(struct bringup *b, struct wanted *t)
{
    uint32_t block = 0, skip = 0, ranges, pages;
    int rv = 0;

    while (rv == 0 && block < t->blocks) {
        struct msg_writer m = follower_request(b->w->follower, &b->w->call, MSG_WANT, b->x);
        uint32_t list[WANT_BLOCKS], sizes[WANT_BLOCKS], n = 0, done = 0, asked = 0;
        msg_put_u32(&m, b->page_size);
        for (uint32_t i = block; i < t->blocks && n < WANT_BLOCKS; i++) {
            uint32_t first = i * PAGESUMS_BLOCK + 1 + (n == 0 ? skip : 0);
            uint32_t last = b->commit - i * PAGESUMS_BLOCK > PAGESUMS_BLOCK
                                ? (i + 1) * PAGESUMS_BLOCK
                                : b->commit;
            if (!t->differs[i])
                continue;
            list[n] = i;
            sizes[n++] = last + 1 - first;
            asked += last + 1 - first;
            put_range(b, &m, first, last + 1 - first);
        }
        if (n == 0)
            break;
        rv = want(b, t, m.err, asked, &ranges, &pages);
        if (rv != 0)
            break;
        if (ranges > n || (ranges < n && pages >= sizes[ranges]) || (ranges == 0 && pages == 0))
            return -ERR_PROTOCOL;
        for (uint32_t i = 0; i < ranges; i++)
            done += sizes[i];
        skip = ranges < n ? pages + (ranges == 0 && list[0] == block ? skip : 0) : 0;
        block = ranges < n ? list[ranges] : list[n - 1] + 1;
        bringup_progress(b, done + (ranges < n ? pages : 0));
    }
    return rv;
}

/* Pages that were being changed: either a record brings them, or they come now. */
static int want_busy(struct bringup *b, struct wanted *t)
{
    uint32_t ranges, pages, asked[BUSY_AT_ONCE], n;
    int rv = 0;

    while (rv == 0 && t->busy_len > 0) {
        struct msg_writer m = follower_request(b->w->follower, &b->w->call, MSG_WANT, b->x);
        if (follower_pause(b->w->follower, BUSY_PAUSE_MS))
            return -ERR_CLOSED;
        msg_put_u32(&m, b->page_size);
        for (n = 0; n < BUSY_AT_ONCE && t->busy_len > 0; n++) {
            asked[n] = t->busy[--t->busy_len];
            msg_put_u32(&m, asked[n]);
            msg_put_u32(&m, 1);
            msg_put_u8(&m, 0);
        }
        rv = want(b, t, m.err, n, &ranges, &pages);
        if (rv == 0 && ranges == 0)
            rv = -ERR_PROTOCOL;
        for (; rv == 0 && ranges < n; ranges++) /* the answer was full before these */
            rv = add_busy(t, asked[ranges]);
    }
    return rv;
}

int bringup_fetch_pages(struct bringup *b)
{
    struct wanted t = {.blocks = blocks_of(b->commit)};
    uint64_t expected = b->all ? b->commit : 0;
    int rv = 0;

    t.page = malloc(LTX_MAX_PAGE_SIZE);
    t.differs = malloc(t.blocks + 1);
    if (t.page == NULL || t.differs == NULL) {
        rv = -ERR_NOMEM;
    } else if (b->all) {
        bringup_expect(b, expected);
        rv = want_all(b, &t);
    } else {
        rv = compare_blocks(b, &t);
        for (uint32_t i = 0; rv == 0 && i < t.blocks; i++)
            expected += t.differs[i] ? PAGESUMS_BLOCK : 0;
        bringup_expect(b, expected);
        if (rv == 0)
            rv = want_blocks(b, &t);
    }
    if (rv == 0)
        rv = want_busy(b, &t);
    free(t.busy);
    free(t.differs);
    free(t.page);
    return rv == 1 ? 0 : rv;
}
