/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "ltx/base/thread.h"
#include "ltx/store.h"
#include "tests/lib/dice.h"
#include "tests/lib/folder.h"
#include "tests/lib/model.h"

#define TRANSACTIONS 1500
#define FOLLOWERS 2

/* One writer, and beside it whoever reads, syncs, checkpoints, compacts and trims. */
struct world {
    struct folder folder;
    struct store *store;
    struct ledger *ledger;
    atomic_bool done;
    atomic_int faults;
};

static void expect(struct world *w, bool right)
{
    if (!right)
        atomic_fetch_add(&w->faults, 1);
}

/* Pinned before the first transaction: a thread may begin after the log has trimmed that away. */
struct follower {
    struct world *world;
    struct thread thread;
    struct txlog_pin pin;
};

/* Follows the durable log as a peer does, record by record or in what has become of them. */
static void run_follower(void *arg)
{
    struct follower *f = arg;
    struct world *w = f->world;
    struct txlog *log = ledger_log(w->ledger);
    struct position at = {0};
    while (at.txid < TRANSACTIONS) {
        uint64_t seen = feed_count(&store_feeds(w->store)->durable);
        struct txlog_entry e;
        int rc =
            at.txid < ledger_durable(w->ledger).txid ? txlog_find(log, at.txid, &e) : -ERR_BUSY;
        if (rc == -ERR_BUSY) {
            if (!feed_wait(&store_feeds(w->store)->durable, seen, 10000)) {
                expect(w, false);
                break;
            }
            continue;
        }
        expect(w, rc == 0);
        if (rc < 0)
            break;
        for (int i = 0; rc == 0 && i < 20; i++) {
            struct ltx_header h;
            uint64_t post = 0;
            expect(w, ltx_verify(txlog_entry_source(&e), &h, &post, NULL, 0) == 0);
            expect(w, h.min_txid <= at.txid + 1 && h.max_txid > at.txid);
            expect(w, h.min_txid <= at.txid || h.min_txid == 1 || h.pre_checksum == at.checksum);
            at = (struct position){h.max_txid, post};
            rc = txlog_next(log, &e);
        }
        txlog_entry_release(&e);
        txlog_pin_move(&f->pin, at.txid);
    }
    expect(w, position_equal(at, ledger_last(w->ledger)));
    txlog_unpin(&f->pin);
}

static void run_checkpoints(void *arg)
{
    struct world *w = arg;
    struct txlog_retention r = {.size_bytes = 20000};
    while (!atomic_load(&w->done)) {
        struct ledger_info info;
        struct position p = ledger_last(w->ledger);
        expect(w, ledger_checkpoint(w->ledger, p) == 0);
        ledger_info(w->ledger, &info);
        expect(w, info.durable.txid >= p.txid && info.recovery.txid == p.txid);
        expect(w, txlog_maintain(ledger_log(w->ledger), &r, info.recovery.txid) == 0);
    }
}

static void run_questions(void *arg)
{
    struct world *w = arg;
    struct txlog *log = ledger_log(w->ledger);
    uint64_t sums[MODEL_PAGES_MAX];
    while (!atomic_load(&w->done)) {
        struct position last = ledger_last(w->ledger), first = txlog_first(log);
        expect(w, ledger_sync(w->ledger, last.txid) == 0);
        expect(w, ledger_durable(w->ledger).txid >= last.txid);
        expect(w, first.txid <= txlog_last(log).txid);
        uint64_t middle = first.txid + (last.txid - first.txid) / 2, checksum;
        int rc = txlog_checksum_at(log, middle, &checksum);
        expect(w, rc == 0 || rc == -ERR_NOTFOUND);
        (void)ledger_page_sums(w->ledger, 1, MODEL_PAGES_MAX, sums);
        (void)ledger_block_sums(w->ledger, 0, 1, sums);
        (void)txlog_bytes_after(log, middle);
    }
}

static void all_work_beside_each_other(void **state)
{
    (void)state;
    struct world w = {0};
    folder_make(&w.folder);
    struct store_options options = {.segment_bytes = 8192};
    assert_int_equal(store_open(&w.store, w.folder.fd, &options), 0);
    assert_int_equal(store_get(w.store, "t.db", &w.ledger), 0);
    assert_int_equal(store_start(w.store), 0);
    struct model m;
    model_init(&m);
    struct follower followers[FOLLOWERS] = {0};
    for (int i = 0; i < FOLLOWERS; i++) {
        followers[i].world = &w;
        txlog_pin(ledger_log(w.ledger), &followers[i].pin, 0);
        assert_int_equal(
            thread_start(&followers[i].thread, "follower", run_follower, &followers[i]), 0);
    }
    struct thread checkpoints = {0}, questions = {0};
    assert_int_equal(thread_start(&checkpoints, "checkpoints", run_checkpoints, &w), 0);
    assert_int_equal(thread_start(&questions, "questions", run_questions, &w), 0);
    for (int i = 0; i < TRANSACTIONS; i++)
        model_commit_any(&m, w.ledger);
    for (int i = 0; i < FOLLOWERS; i++)
        thread_join(&followers[i].thread);
    atomic_store(&w.done, true);
    thread_join(&checkpoints);
    thread_join(&questions);
    assert_int_equal(atomic_load(&w.faults), 0);
    assert_ledger_is(w.ledger, &m);
    store_quit(w.store);
    store_join(w.store);
    store_close(w.store);
    assert_int_equal(store_open(&w.store, w.folder.fd, &options), 0);
    assert_ledger_is(store_find(w.store, "t.db"), &m);
    store_close(w.store);
    model_fini(&m);
    folder_remove(&w.folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(all_work_beside_each_other)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
