/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/store.h"
#include "tests/lib/dice.h"
#include "tests/lib/folder.h"
#include "tests/lib/model.h"
#include "tests/lib/record.h"

struct node {
    struct folder folder;
    struct store *store;
    struct ledger *ledger;
};

/* A primary with its database, and a replica. */
struct pair {
    struct node a, b;
    struct model model;
};

static void node_open(struct node *n)
{
    struct store_options options = {.segment_bytes = 8192};
    assert_int_equal(store_open(&n->store, n->folder.fd, &options), 0);
    assert_int_equal(store_get(n->store, "t.db", &n->ledger), 0);
}

static void node_kill(struct node *n)
{
    struct folder copy;
    folder_copy(&copy, &n->folder);
    store_close(n->store);
    folder_remove(&n->folder);
    n->folder = copy;
    node_open(n);
}

static void pair_make(struct pair *p)
{
    memset(p, 0, sizeof *p);
    folder_make(&p->a.folder);
    folder_make(&p->b.folder);
    node_open(&p->a);
    node_open(&p->b);
    model_init(&p->model);
}

static void pair_fini(struct pair *p)
{
    model_fini(&p->model);
    store_close(p->a.store);
    store_close(p->b.store);
    folder_remove(&p->a.folder);
    folder_remove(&p->b.folder);
}

static void assert_at(struct position got, struct position want)
{
    assert_int_equal(got.txid, want.txid);
    assert_true(got.checksum == want.checksum);
}

static int receive(struct ledger *l, const void *data, size_t n, uint32_t flags)
{
    struct ledger_receive r;
    int rc = ledger_receive_begin(l, &r, n, flags);
    if (rc < 0)
        return rc;
    for (size_t done = 0, step; done < n; done += step) {
        step = 1 + dice_below(3000);
        if (step > n - done)
            step = n - done;
        rc = ledger_receive_write(&r, (const uint8_t *)data + done, step);
        if (rc < 0)
            return rc;
    }
    struct position p;
    rc = ledger_receive_finish(&r, &p);
    assert_false(r.active);
    if (rc == 0)
        assert_at(p, ledger_last(l));
    return rc;
}

static uint8_t *entry_bytes(struct txlog_entry *e)
{
    uint8_t *bytes = malloc(e->size);
    assert_int_equal(txlog_entry_read(e, 0, bytes, e->size), 0);
    return bytes;
}

/* One record from where the replica stands; false if there is none. */
static bool pull_one(struct pair *p)
{
    struct txlog_entry e;
    if (txlog_find(ledger_log(p->a.ledger), ledger_last(p->b.ledger).txid, &e) < 0)
        return false;
    uint8_t *bytes = entry_bytes(&e);
    assert_int_equal(receive(p->b.ledger, bytes, e.size, 0), 0);
    free(bytes);
    txlog_entry_release(&e);
    return true;
}

static void pull(struct pair *p)
{
    while (pull_one(p))
        ;
    assert_at(ledger_last(p->b.ledger), ledger_last(p->a.ledger));
    assert_ledger_is(p->b.ledger, &p->model);
}

static void a_replica_follows_its_primary(void **state)
{
    (void)state;
    struct pair p;
    pair_make(&p);
    for (int i = 0; i < 120; i++) {
        model_commit_any(&p.model, p.a.ledger);
        if (dice_below(3) == 0)
            pull(&p);
        if (dice_below(8) == 0)
            node_kill(&p.b);
        if (dice_below(8) == 0)
            assert_int_equal(ledger_checkpoint(p.b.ledger, ledger_last(p.b.ledger)), 0);
    }
    pull(&p);
    /* What was received is not yet what clients see. */
    struct position applied = ledger_applied(p.b.ledger);
    model_commit_any(&p.model, p.a.ledger);
    pull(&p);
    assert_at(ledger_applied(p.b.ledger), applied);
    ledger_set_applied(p.b.ledger, ledger_last(p.b.ledger));
    assert_at(ledger_applied(p.b.ledger), ledger_last(p.a.ledger));
    /* And it can be a primary from there on. */
    model_commit_any(&p.model, p.b.ledger);
    assert_ledger_is(p.b.ledger, &p.model);
    pair_fini(&p);
}

static void a_damaged_record_is_refused_and_leaves_nothing(void **state)
{
    (void)state;
    struct pair p;
    pair_make(&p);
    model_commit(&p.model, p.a.ledger, 512, 4);
    pull(&p);
    struct position before = ledger_last(p.b.ledger);
    /* Random pages do not compress: nearly every byte counts. */
    struct ledger_change change = {.page_size = 512, .commit = 6};
    assert_int_equal(ledger_begin(p.a.ledger, &p.model.tx, &change), 0);
    p.model.commit = 6;
    for (uint32_t pgno = 3; pgno <= 6; pgno++) {
        dice_fill(model_page(&p.model, pgno), 512);
        assert_int_equal(ledger_put_page(&p.model.tx, pgno, model_page(&p.model, pgno)), 0);
    }
    assert_int_equal(ledger_publish(&p.model.tx, NULL), 0);
    struct txlog_entry e;
    assert_int_equal(txlog_find(ledger_log(p.a.ledger), 1, &e), 0);
    uint8_t *bytes = entry_bytes(&e);
    uint32_t meaningless = 0;
    for (size_t i = 0; i < e.size; i++) {
        uint8_t flip = (uint8_t)(1 + dice_below(255));
        struct ltx_memory memory = {bytes, e.size};
        bytes[i] ^= flip;
        /* Half a byte of each LZ4 block means nothing; all pages are the same then. */
        if (ltx_verify(ltx_source_memory(&memory), NULL, NULL, NULL, 0) < 0)
            assert_true(receive(p.b.ledger, bytes, e.size, 0) < 0);
        else
            meaningless++;
        bytes[i] ^= flip;
        assert_at(ledger_last(p.b.ledger), before);
        if (i >= LTX_MIN_FILE_SIZE)
            assert_true(receive(p.b.ledger, bytes, i, 0) < 0);
    }
    assert_true(meaningless <= 4); /* one in each page */
    assert_int_equal(receive(p.b.ledger, bytes, 10, 0), -ERR_INVALID);
    struct ledger_receive r;
    assert_int_equal(ledger_receive_begin(p.b.ledger, &r, e.size, 0), 0);
    assert_int_equal(ledger_receive_write(&r, bytes, 50), 0);
    assert_int_equal(ledger_receive_finish(&r, NULL), -ERR_TRUNCATED);
    assert_int_equal(ledger_receive_begin(p.b.ledger, &r, 200, 0), 0);
    assert_int_equal(ledger_receive_write(&r, bytes, 201), -ERR_LIMIT);
    ledger_receive_abort(&r);
    node_kill(&p.b);
    assert_at(ledger_last(p.b.ledger), before);
    free(bytes);
    txlog_entry_release(&e);
    pull(&p);
    pair_fini(&p);
}

static void histories_that_have_parted_are_noticed(void **state)
{
    (void)state;
    struct pair p;
    pair_make(&p);
    model_commit(&p.model, p.a.ledger, 512, 4);
    pull(&p);
    struct model other;
    model_init(&other);
    memcpy(other.pages, p.model.pages, 4 * 512);
    other.commit = 4;
    model_commit(&other, p.b.ledger, 512, 5);
    struct position b = ledger_last(p.b.ledger);
    for (int i = 0; i < 3; i++)
        model_commit(&p.model, p.a.ledger, 512, 5);
    struct txlog_entry e;
    static const int expected[] = {-ERR_POSITION, -ERR_POSITION, -ERR_DIVERGED, -ERR_POSITION};
    for (uint64_t after = 0; after < 4; after++) {
        assert_int_equal(txlog_find(ledger_log(p.a.ledger), after, &e), 0);
        uint8_t *bytes = entry_bytes(&e);
        assert_int_equal(receive(p.b.ledger, bytes, e.size, 0), expected[after]);
        free(bytes);
        txlog_entry_release(&e);
    }
    assert_at(ledger_last(p.b.ledger), b);
    assert_ledger_is(p.b.ledger, &other);
    model_fini(&other);
    pair_fini(&p);
}

/* The record fits and is whole, but the database would not be the one it speaks of. */
static void a_record_with_another_database_checksum_is_refused(void **state)
{
    (void)state;
    struct pair p;
    pair_make(&p);
    struct position last = model_commit(&p.model, p.a.ledger, 512, 4);
    pull(&p);
    struct ltx_header h = {
        .page_size = 512, .commit = 4, .min_txid = 2, .max_txid = 2, .pre_checksum = last.checksum};
    struct buf record = {0};
    struct ltx_encoder encoder = {0};
    uint64_t size;
    assert_int_equal(ltx_encode_begin(&encoder, sink_buf(&record), &h), 0);
    assert_int_equal(ltx_encode_page(&encoder, 2, model_page(&p.model, 3)), 0);
    assert_int_equal(ltx_encode_finish(&encoder, LTX_CHECKSUM_BIT | 4711, &size), 0);
    ltx_encode_fini(&encoder);
    assert_int_equal(receive(p.b.ledger, record.data, record.len, 0), -ERR_DIVERGED);
    assert_int_equal(receive(p.b.ledger, record.data, record.len, TXLOG_REBASE), -ERR_DIVERGED);
    assert_at(ledger_last(p.b.ledger), last);
    assert_ledger_is(p.b.ledger, &p.model);
    node_kill(&p.b);
    assert_ledger_is(p.b.ledger, &p.model);
    buf_fini(&record);
    pair_fini(&p);
}

static void merged_records_are_taken_in_their_middle(void **state)
{
    (void)state;
    struct pair p;
    pair_make(&p);
    int met = 0;
    for (int i = 0; i < 300; i++) {
        model_commit_any(&p.model, p.a.ledger);
        struct ledger *a = p.a.ledger;
        if (i == 20)
            pull(&p);
        if (i <= 20 || dice_below(12) != 0)
            continue;
        /* Compacted up to here, the log no longer has the records one by one. */
        assert_int_equal(
            txlog_maintain(ledger_log(a), &(struct txlog_retention){0}, ledger_last(a).txid), 0);
        struct txlog_entry e;
        if (txlog_find(ledger_log(a), ledger_last(p.b.ledger).txid, &e) == 0) {
            if (e.min_txid == 1) {
                /* It would hide that the histories have parted; pages are compared instead. */
                uint8_t *bytes = entry_bytes(&e);
                assert_int_equal(receive(p.b.ledger, bytes, e.size, 0), -ERR_POSITION);
                free(bytes);
                txlog_entry_release(&e);
                break;
            }
            met += e.min_txid <= ledger_last(p.b.ledger).txid;
            txlog_entry_release(&e);
        }
        pull(&p);
        node_kill(&p.b);
        assert_ledger_is(p.b.ledger, &p.model);
    }
    print_message("%d merged records were taken in their middle\n", met);
    pair_fini(&p);
}

/* What the primary sends to a replica that has gone another way: the pages that differ. */
static void make_rebase(struct pair *p, bool whole, struct buf *record)
{
    const struct model *m = &p->model;
    struct position last = ledger_last(p->a.ledger);
    struct ltx_header h = {.page_size = m->page_size,
                           .commit = m->commit,
                           .min_txid = whole ? 1 : last.txid,
                           .max_txid = last.txid,
                           .pre_checksum = whole ? 0 : LTX_CHECKSUM_BIT};
    struct ltx_encoder e = {0};
    uint64_t size;
    buf_reset(record);
    assert_int_equal(ltx_encode_begin(&e, sink_buf(record), &h), 0);
    for (uint32_t pgno = 1; pgno <= m->commit; pgno++)
        if (whole || ledger_page_sum(p->a.ledger, pgno) != ledger_page_sum(p->b.ledger, pgno))
            assert_int_equal(ltx_encode_page(&e, pgno, model_page(m, pgno)), 0);
    assert_int_equal(ltx_encode_finish(&e, last.checksum, &size), 0);
    ltx_encode_fini(&e);
}

static void a_rebase_brings_a_diverged_replica_in_line(void **state)
{
    (void)state;
    for (int round = 0; round < 12; round++) {
        struct pair p;
        pair_make(&p);
        model_commit(&p.model, p.a.ledger, 512, 10);
        pull(&p);
        struct model other;
        model_init(&other);
        memcpy(other.pages, p.model.pages, 10 * 512);
        other.commit = 10;
        struct position s = {0};
        uint32_t alone = 1 + dice_below(8);
        for (uint32_t i = 0; i < alone; i++) {
            model_commit(&other, p.b.ledger, 512, 5 + dice_below(20));
            if (dice_below(4) == 0)
                s = ledger_last(p.b.ledger);
        }
        if (s.txid > 0)
            assert_int_equal(ledger_checkpoint(p.b.ledger, s), 0);
        struct position parted = ledger_last(p.b.ledger);
        for (uint32_t i = 0; i < 4; i++)
            model_commit(&p.model, p.a.ledger, round % 4 == 0 ? 1024 : 512, 5 + dice_below(20));
        uint32_t kept;
        assert_int_equal(ledger_keep_diverged(p.b.ledger, 1, &kept), 0);
        assert_int_equal(kept, alone);
        struct buf record = {0};
        make_rebase(&p, round % 3 == 0, &record);
        if (round % 3 == 1)
            ledger_set_damaged(p.b.ledger, "the test says so");
        if (round % 3 != 0)
            assert_true(receive(p.b.ledger, record.data, record.len, 0) < 0);
        assert_int_equal(receive(p.b.ledger, record.data, record.len, TXLOG_REBASE), 0);
        buf_fini(&record);
        struct ledger_info info;
        for (int started = 0; started < 3; started++) {
            ledger_info(p.b.ledger, &info);
            assert_at(info.last, ledger_last(p.a.ledger));
            assert_at(info.durable, info.last);
            assert_at(info.first, info.last);
            assert_at(info.recovery, s);
            assert_int_equal(info.diverged, alone);
            assert_ledger_is(p.b.ledger, &p.model);
            /* From where the file stands, the log leads over the rebase. */
            struct txlog_entry e;
            assert_int_equal(txlog_find_from(ledger_log(p.b.ledger), s, &e), 0);
            txlog_entry_release(&e);
            assert_int_equal(txlog_find_from(ledger_log(p.b.ledger), parted, &e), 0);
            assert_int_equal(e.flags, TXLOG_REBASE);
            txlog_entry_release(&e);
            node_kill(&p.b);
        }
        model_commit(&p.model, p.a.ledger, p.model.page_size, 7);
        pull(&p);
        assert_int_equal(ledger_checkpoint(p.b.ledger, ledger_last(p.b.ledger)), 0);
        node_kill(&p.b);
        assert_ledger_is(p.b.ledger, &p.model);
        ledger_info(p.b.ledger, &info);
        assert_at(info.recovery, ledger_last(p.a.ledger));
        struct txlog_entry e;
        if (!position_equal(s, parted)) /* the rebase itself is still there */
            assert_int_equal(txlog_find_from(ledger_log(p.b.ledger), s, &e), -ERR_NOTFOUND);
        model_commit(&p.model, p.a.ledger, p.model.page_size, 9);
        pull(&p);
        model_fini(&other);
        pair_fini(&p);
    }
}

static void what_diverged_is_kept_as_files(void **state)
{
    (void)state;
    struct pair p;
    pair_make(&p);
    for (int i = 0; i < 5; i++)
        model_commit(&p.model, p.a.ledger, 512, 5);
    uint32_t kept;
    assert_int_equal(ledger_keep_diverged(p.a.ledger, 5, &kept), 0);
    assert_int_equal(kept, 0);
    assert_int_equal(ledger_keep_diverged(p.a.ledger, 2, &kept), 0);
    assert_int_equal(kept, 3);
    char name[256];
    assert_int_equal(folder_count(&p.a.folder, "diverged/t.db", ".ltx", name), 3);
    assert_string_equal(name, "0000000000000003-0000000000000003.ltx");
    size_t size;
    uint8_t *bytes =
        folder_read(&p.a.folder, "diverged/t.db/0000000000000004-0000000000000004.ltx", &size);
    struct ltx_memory memory = {bytes, size};
    struct ltx_header h;
    assert_int_equal(ltx_verify(ltx_source_memory(&memory), &h, NULL, NULL, 0), 0);
    assert_int_equal(h.min_txid, 4);
    /* Again is no more; another history under the same name is one more. */
    assert_int_equal(ledger_keep_diverged(p.a.ledger, 2, &kept), 0);
    assert_int_equal(kept, 0);
    bytes[size - 1] ^= 1;
    folder_write(&p.a.folder, "diverged/t.db/0000000000000004-0000000000000004.ltx", bytes, size);
    assert_int_equal(ledger_keep_diverged(p.a.ledger, 2, &kept), 0);
    assert_int_equal(kept, 1);
    struct ledger_info info;
    ledger_info(p.a.ledger, &info);
    assert_int_equal(info.diverged, 4);
    free(bytes);
    pair_fini(&p);
}

/* The record that turns pages[] of the model, which are all that differ, into what the model is. */
static void make_mend(struct pair *p, const uint32_t *pages, size_t n, struct buf *out)
{
    struct ledger_info here, there;
    ledger_info(p->b.ledger, &here);
    ledger_info(p->a.ledger, &there);
    struct ltx_header h = {.page_size = there.page_size,
                           .commit = there.commit,
                           .min_txid = there.last.txid,
                           .max_txid = there.last.txid,
                           .pre_checksum = here.last.checksum};
    struct ltx_encoder e = {0};
    uint64_t size;
    assert_int_equal(ltx_encode_begin(&e, sink_buf(out), &h), 0);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(ltx_encode_page(&e, pages[i], model_page(&p->model, pages[i])), 0);
    assert_int_equal(ltx_encode_finish(&e, there.last.checksum, &size), 0);
    ltx_encode_fini(&e);
}

/*
 * Both are at the same position by their logs, and yet the files of one hold other pages. It is put
 * where its files are, so that what is fetched leads somewhere else: to where it was thought to be.
 */
static void a_damaged_database_is_what_its_files_hold(void **state)
{
    (void)state;
    for (int round = 0; round < 4; round++) {
        struct pair p;
        pair_make(&p);
        for (int i = 0; i < 6; i++)
            model_commit(&p.model, p.a.ledger, 512, 20);
        pull(&p);
        struct position was = ledger_last(p.b.ledger);
        ledger_set_applied(p.b.ledger, was);
        if (round % 2)
            assert_int_equal(ledger_checkpoint(p.b.ledger, was), 0);
        struct pagesums sums = {0};
        assert_int_equal(ledger_take_stock(p.b.ledger, 512, &sums), -ERR_INVALID);
        assert_int_equal(pagesums_resize(&sums, 20), 0);
        for (uint32_t pgno = 1; pgno <= 20; pgno++)
            assert_int_equal(pagesums_set(&sums, pgno, ledger_page_sum(p.b.ledger, pgno)), 0);
        assert_int_equal(pagesums_set(&sums, 3, 12345), 0);
        assert_int_equal(pagesums_set(&sums, 20, 0), 0);
        ledger_set_damaged(p.b.ledger, "the test says so");
        assert_int_equal(ledger_take_stock(p.b.ledger, 512, &sums), 0);
        struct position here = ledger_last(p.b.ledger);
        assert_int_equal(here.txid, was.txid);
        assert_true(here.checksum != was.checksum);
        assert_at(ledger_applied(p.b.ledger), here);
        struct ledger_info info;
        ledger_info(p.b.ledger, &info);
        assert_true(info.damaged);
        assert_at(info.first, here);
        if (round >= 2) { /* the pages never come, and it must be done again */
            node_kill(&p.b);
            ledger_info(p.b.ledger, &info);
            assert_true(info.damaged);
            pair_fini(&p);
            continue;
        }
        struct buf record = {0};
        make_mend(&p, (uint32_t[]){3, 20}, 2, &record);
        assert_int_equal(receive(p.b.ledger, record.data, record.len, 0), -ERR_DAMAGED);
        assert_int_equal(receive(p.b.ledger, record.data, record.len, TXLOG_REBASE), 0);
        buf_fini(&record);
        ledger_info(p.b.ledger, &info);
        assert_false(info.damaged);
        assert_at(info.last, was);
        assert_at(info.applied, here);
        assert_ledger_is(p.b.ledger, &p.model);
        struct txlog_entry e;
        assert_int_equal(txlog_find_from(ledger_log(p.b.ledger), info.applied, &e), 0);
        assert_int_equal(e.flags, TXLOG_REBASE);
        txlog_entry_release(&e);
        ledger_set_applied(p.b.ledger, info.last);
        assert_int_equal(ledger_checkpoint(p.b.ledger, info.last), 0);
        node_kill(&p.b);
        assert_ledger_is(p.b.ledger, &p.model);
        for (int i = 0; i < 3; i++)
            model_commit(&p.model, p.a.ledger, 512, 15);
        pull(&p);
        assert_ledger_is(p.b.ledger, &p.model);
        pair_fini(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_replica_follows_its_primary),
        cmocka_unit_test(a_damaged_record_is_refused_and_leaves_nothing),
        cmocka_unit_test(histories_that_have_parted_are_noticed),
        cmocka_unit_test(a_record_with_another_database_checksum_is_refused),
        cmocka_unit_test(merged_records_are_taken_in_their_middle),
        cmocka_unit_test(a_rebase_brings_a_diverged_replica_in_line),
        cmocka_unit_test(what_diverged_is_kept_as_files),
        cmocka_unit_test(a_damaged_database_is_what_its_files_hold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
