/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster/supply_pages.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/bytes.h"
#include "ltx/base/err.h"
#include "ltx/base/logger.h"
#include "ltx/compress.h"

#define EXPIRE_MS 5000
#define SUMS_AT_ONCE 1024

/* Pins. */

static void bringing_end(struct bringing *b)
{
    if (b->ledger != NULL)
        txlog_unpin(&b->pin);
    *b = (struct bringing){0};
}

static struct bringing *bringing_find(struct supply_pages *s, uint64_t node_id,
                                      const struct ledger *l)
{
    for (size_t i = 0; i < BRINGINGS_MAX; i++)
        if (s->bringings[i].ledger == l && s->bringings[i].node_id == node_id)
            return &s->bringings[i];
    return NULL;
}

static struct bringing *bringing_begin(struct supply_pages *s, uint64_t node_id, struct ledger *l,
                                       uint64_t txid)
{
    struct bringing *b = bringing_find(s, node_id, l);

    for (size_t i = 0; b == NULL && i < BRINGINGS_MAX; i++)
        if (s->bringings[i].ledger == NULL)
            b = &s->bringings[i];
    if (b == NULL)
        return NULL;
    bringing_end(b);
    b->ledger = l;
    b->node_id = node_id;
    b->used = mono_now();
    txlog_pin(ledger_log(l), &b->pin, txid);
    return b;
}

static void expire(struct supply_pages *s, bool all)
{
    for (size_t i = 0; i < BRINGINGS_MAX; i++) {
        struct bringing *b = &s->bringings[i];
        if (b->ledger != NULL && (all || mono_since_ms(b->used) > BRINGING_SILENT_MS))
            bringing_end(b);
    }
}

/* Answers. */

static struct msg_writer begin_answer(struct supply_pages *s, enum msg_type type)
{
    struct msg_stamp stamp = self_stamp(s->self);

    return msg_begin(&s->out, type, &stamp);
}

static void send_answer(struct supply_pages *s, struct transport_request *r, int err)
{
    if (err == 0)
        transport_reply(r, s->out.data, s->out.len);
    else
        self_refuse(s->self, r, err, "cannot make an answer: %s", err_text(err));
}

static void describe(struct supply_pages *s, const char *name, struct position at,
                     struct msg_stand *out)
{
    struct ledger *l = store_find(s->store, name);
    struct ledger_info info;

    *out = (struct msg_stand){0};
    if (l == NULL)
        return;
    ledger_info(l, &info);
    out->known = info.last.txid != 0;
    out->last = info.last;
    out->first = info.first;
    out->page_size = info.page_size;
    out->commit = info.commit;
    out->log_bytes = txlog_bytes_after(ledger_log(l), at.txid);
    if (at.txid == info.last.txid)
        out->checksum_at = info.last.checksum;
    else if (txlog_checksum_at(ledger_log(l), at.txid, &out->checksum_at) != 0)
        out->checksum_at = 0;
}

static void on_compare(struct supply_pages *s, struct transport_request *r, struct msg_reader *in)
{
    struct msg_writer w = begin_answer(s, MSG_STANDS);
    char name[STORE_NAME_MAX];
    struct msg_stand stand;
    struct position at;
    int rv;

    while ((rv = msg_next_standing(in, name, &at)) > 0) {
        describe(s, name, at, &stand);
        msg_put_stand(&w, &stand);
    }
    if (rv != 0)
        transport_drop(r, true);
    else
        send_answer(s, r, w.err);
}

/* The size is that of the last position, so that is where it begins; what is not durable may be lost. */
static void on_begin(struct supply_pages *s, struct transport_request *r,
                     const struct msg_header *h, struct ledger *l)
{
    struct ledger_info info;
    struct msg_writer w;
    int rv;

    ledger_info(l, &info);
    if (bringing_begin(s, h->stamp.node_id, l, info.last.txid) == NULL) {
        self_refuse(s->self, r, -ERR_BUSY, "too many databases are being brought up");
        return;
    }
    rv = ledger_sync(l, info.last.txid);
    w = begin_answer(s, MSG_BEGUN);
    msg_put_position(&w, info.last);
    msg_put_u32(&w, info.page_size);
    msg_put_u32(&w, info.commit);
    send_answer(s, r, rv != 0 ? rv : w.err);
}

static void on_blocks(struct supply_pages *s, struct transport_request *r, struct ledger *l,
                      struct msg_reader *in)
{
    struct msg_writer w = begin_answer(s, MSG_DIFFER);
    uint32_t page_size = msg_get_u32(in), first = msg_get_u32(in), n = (uint32_t)(in->left / 8);
    uint64_t sums[SUMS_AT_ONCE];
    struct ledger_info info;

    if (in->bad || in->left % 8 != 0 || first + n < first) {
        transport_drop(r, true);
        return;
    }
    ledger_info(l, &info);
    msg_put_u32(&w, first);
    for (uint32_t done = 0; done < n;) {
        uint32_t part = n - done < SUMS_AT_ONCE ? n - done : SUMS_AT_ONCE;
        uint32_t have = ledger_block_sums(l, first + done, part, sums);
        for (uint32_t i = 0; i < part; i++) {
            uint64_t theirs = msg_get_u64(in);
            bool differs = info.page_size != page_size || i >= have || sums[i] != theirs;
            msg_put_u8(&w, differs);
        }
        done += part;
    }
    send_answer(s, r, w.err);
}

/* One page, compressed, or a note that it is busy. -ERR_LIMIT: the page size has changed. */
static int put_page(struct supply_pages *s, struct msg_writer *w, struct ledger *l, uint32_t pgno,
                    uint32_t page_size)
{
    struct page_reader reader = store_page_reader(s->store);
    uint32_t now = page_size;
    int rv = reader.read(reader.ctx, l, pgno, s->page, &now);
    size_t n;

    if (rv == -ERR_NOTFOUND)
        return 0;
    if (rv == -ERR_BUSY) {
        msg_put_u32(w, pgno);
        msg_put_u32(w, 0);
        return w->err;
    }
    if (rv != 0)
        return rv;
    if (now != page_size)
        return -ERR_LIMIT;
    msg_put_u32(w, pgno);
    msg_put_u32(w, 0);
    if (w->err == 0)
        w->err = buf_reserve(w->buf, compress_bound(page_size));
    if (w->err != 0)
        return w->err;
    n = compress_page(s->page, page_size, w->buf->data + w->buf->len, compress_bound(page_size));
    put_be32(w->buf->data + w->buf->len - 4, (uint32_t)n);
    w->buf->len += n;
    return 0;
}

/* Pages of one range from *done on, until the answer is full. */
static int put_range(struct supply_pages *s, struct msg_writer *w, struct ledger *l,
                     const struct msg_range *range, uint32_t page_size, uint32_t *done)
{
    uint64_t sums[SUMS_AT_ONCE];
    int rv = 0;

    while (rv == 0 && *done < range->count && w->buf->len < MSG_BATCH) {
        uint32_t left = range->count - *done;
        uint32_t part = left < SUMS_AT_ONCE ? left : SUMS_AT_ONCE;
        uint32_t have = ledger_page_sums(l, range->first + *done, part, sums);
        for (uint32_t i = 0; rv == 0 && i < part && w->buf->len < MSG_BATCH; i++, ++*done) {
            uint32_t pgno = range->first + *done;
            bool same = range->with_sums && i < have &&
                        sums[i] == get_be64(range->sums + 8 * (size_t)*done);
            if (!same && pgno != ltx_lock_pgno(page_size) && i < have)
                rv = put_page(s, w, l, pgno, page_size);
        }
        if (have == 0)
            *done = range->count; /* all of it lies beyond the end */
    }
    return rv;
}

static void on_want(struct supply_pages *s, struct transport_request *r, struct ledger *l,
                    struct msg_reader *in)
{
    struct msg_writer w = begin_answer(s, MSG_PAGES);
    uint32_t page_size = msg_get_u32(in), ranges = 0, done = 0;
    size_t at = s->out.len;
    struct ledger_info info;
    struct msg_range range;
    int rv = 0, more = 0;

    ledger_info(l, &info);
    msg_put_u32(&w, info.page_size);
    msg_put_u32(&w, 0);
    msg_put_u32(&w, 0);
    msg_put_u64(&w, 0);
    while (info.page_size == page_size && rv == 0 && w.buf->len < MSG_BATCH &&
           (more = msg_next_range(in, &range)) > 0) {
        done = 0;
        rv = put_range(s, &w, l, &range, page_size, &done);
        if (rv == 0 && done == range.count) {
            ranges++;
            done = 0;
        }
    }
    if (in->bad || more < 0) {
        transport_drop(r, true);
        return;
    }
    ledger_info(l, &info);
    if (rv == -ERR_LIMIT)
        rv = 0; /* the page size that the answer states says it all */
    if (rv == -ERR_DAMAGED)
        log_error("supply",
                  "%s: a page of the database file does not match its checksum, so a replica "
                  "cannot be brought up from it; check the disk, and bring the database up from a "
                  "replica by promoting that",
                  ledger_name(l));
    put_be32(s->out.data + at, info.page_size);
    put_be32(s->out.data + at + 4, ranges);
    put_be32(s->out.data + at + 8, done);
    put_be64(s->out.data + at + 12, ledger_last(l).txid);
    send_answer(s, r, rv != 0 ? rv : w.err);
}

/* Pieces of the records after `after`, the first of them from `offset` on. */
static int put_pieces(struct msg_writer *w, struct ledger *l, uint64_t after, uint64_t offset,
                      uint64_t durable)
{
    struct txlog_entry e = {0};
    int rv = after < durable ? txlog_find(ledger_log(l), after, &e) : 0;

    if (rv == 0 && after < durable && offset >= e.size)
        rv = -ERR_PROTOCOL;
    while (rv == 0 && e.file != NULL && e.max_txid <= durable && w->buf->len < MSG_BATCH &&
           w->err == 0) {
        size_t room = MSG_PIECE + 64 - (w->buf->len < MSG_PIECE ? w->buf->len : MSG_PIECE);
        uint64_t left = e.size - offset;
        uint32_t n = left < room ? (uint32_t)left : (uint32_t)room;
        msg_put_u64(w, e.size);
        msg_put_u64(w, offset);
        msg_put_u32(w, n);
        if (w->err == 0)
            w->err = buf_reserve(w->buf, n);
        if (w->err != 0)
            break;
        rv = txlog_entry_read(&e, offset, w->buf->data + w->buf->len, n);
        if (rv != 0)
            break;
        w->buf->len += n;
        if (n < left)
            break;
        offset = 0;
        rv = txlog_next(ledger_log(l), &e);
        if (rv == -ERR_NOTFOUND) {
            rv = 0;
            break;
        }
    }
    txlog_entry_release(&e);
    return rv;
}

static void on_fetch(struct supply_pages *s, struct transport_request *r,
                     const struct msg_header *h, struct ledger *l, struct msg_reader *in)
{
    uint64_t after = msg_get_u64(in), offset = msg_get_u64(in), until = msg_get_u64(in);
    struct bringing *b = bringing_find(s, h->stamp.node_id, l);
    struct position durable;
    struct msg_writer w;
    int rv = msg_end(in);

    if (rv != 0) {
        transport_drop(r, true);
        return;
    }
    if (b != NULL)
        txlog_pin_move(&b->pin, after);
    durable = ledger_durable(l);
    if (durable.txid < until && ledger_last(l).txid >= until) {
        rv = ledger_sync(l, until);
        durable = ledger_durable(l);
    }
    w = begin_answer(s, MSG_PIECES);
    msg_put_u8(&w, after >= durable.txid);
    msg_put_position(&w, durable);
    if (rv == 0)
        rv = put_pieces(&w, l, after, offset, durable.txid);
    if (rv == -ERR_NOTFOUND)
        self_refuse(s->self, r, -ERR_POSITION,
                    "the records after transaction %" PRIu64 " are not kept any more", after);
    else
        send_answer(s, r, rv != 0 ? rv : w.err);
}

static void on_common(struct supply_pages *s, struct transport_request *r, struct ledger *l,
                      struct msg_reader *in)
{
    struct position p, best = {0}, last = ledger_last(l);
    struct msg_writer w;
    bool found = false;
    int rv;

    while ((rv = msg_more(in)) > 0) {
        uint64_t sum = 0;
        p = msg_get_position(in);
        if (in->bad || p.txid < best.txid)
            continue;
        if (position_equal(p, last) ||
            (txlog_checksum_at(ledger_log(l), p.txid, &sum) == 0 && sum == p.checksum)) {
            best = p;
            found = true;
        }
    }
    if (rv != 0) {
        transport_drop(r, true);
        return;
    }
    w = begin_answer(s, MSG_SHARED);
    msg_put_u8(&w, found);
    msg_put_position(&w, best);
    send_answer(s, r, w.err);
}

static void on_database(struct supply_pages *s, struct transport_request *r,
                        const struct msg_header *h, struct msg_reader *in)
{
    char name[STORE_NAME_MAX];
    struct bringing *b;
    struct ledger *l;

    msg_get_name(in, name);
    if (in->bad) {
        transport_drop(r, true);
        return;
    }
    l = store_find(s->store, name);
    if (l == NULL) {
        self_refuse(s->self, r, -ERR_NOTFOUND, "there is no database of that name here");
        return;
    }
    b = bringing_find(s, h->stamp.node_id, l);
    if (b != NULL)
        b->used = mono_now();
    switch (h->type) {
    case MSG_BEGIN: on_begin(s, r, h, l); break;
    case MSG_BLOCKS: on_blocks(s, r, l, in); break;
    case MSG_WANT: on_want(s, r, l, in); break;
    case MSG_FETCH: on_fetch(s, r, h, l, in); break;
    case MSG_COMMON: on_common(s, r, l, in); break;
    default:
        if (b != NULL)
            bringing_end(b);
        self_answer_ok(s->self, r);
    }
}

static void handle(struct supply_pages *s, struct transport_request *r)
{
    struct msg_header h;
    struct msg_reader in;

    if (msg_open(r->data, r->len, &h, &in) != 0)
        transport_drop(r, true);
    else if (!self_leads(s->self))
        self_refuse(s->self, r, -ERR_NOTPRIMARY, "this node is not the primary");
    else if (h.type == MSG_COMPARE)
        on_compare(s, r, &in);
    else
        on_database(s, r, &h, &in);
}

static void run(void *arg)
{
    struct supply_pages *s = arg;
    struct mono expired = mono_now();

    while (!s->quit) {
        uint64_t seen = feed_count(&s->wake);
        struct transport_request *r;

        while (!s->quit && (r = inbox_pop(&s->inbox)) != NULL)
            handle(s, r);
        if (mono_since_ms(expired) > EXPIRE_MS) {
            expire(s, !self_leads(s->self));
            expired = mono_now();
        }
        if (!s->quit)
            feed_wait(&s->wake, seen, EXPIRE_MS);
    }
}

void supply_pages_init(struct supply_pages *s, struct self *self, struct store *store)
{
    *s = (struct supply_pages){.self = self, .store = store};
    feed_init(&s->wake);
    inbox_init(&s->inbox, &s->wake);
}

int supply_pages_start(struct supply_pages *s)
{
    s->page = malloc(LTX_MAX_PAGE_SIZE);
    if (s->page == NULL)
        return -ERR_NOMEM;
    return thread_start(&s->thread, "pages", run, s);
}

void supply_pages_quit(struct supply_pages *s)
{
    s->quit = true;
    inbox_close(&s->inbox);
    feed_close(&s->wake);
}

void supply_pages_join(struct supply_pages *s)
{
    thread_join(&s->thread);
    expire(s, true);
}

void supply_pages_fini(struct supply_pages *s)
{
    inbox_fini(&s->inbox);
    feed_fini(&s->wake);
    buf_fini(&s->out);
    free(s->page);
}
