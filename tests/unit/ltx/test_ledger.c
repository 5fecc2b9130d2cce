/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/checksum.h"
#include "ltx/store.h"
#include "tests/lib/dice.h"
#include "tests/lib/folder.h"
#include "tests/lib/model.h"

struct node {
    struct folder folder;
    struct store *store;
    struct ledger *ledger;
    struct model model;
};

static void node_open(struct node *n)
{
    struct store_options options = {.segment_bytes = 8192, .node_id = 7};
    assert_int_equal(store_open(&n->store, n->folder.fd, &options), 0);
    assert_int_equal(store_get(n->store, "sub/t.db", &n->ledger), 0);
}

static void node_make(struct node *n)
{
    memset(n, 0, sizeof *n);
    folder_make(&n->folder);
    node_open(n);
    model_init(&n->model);
}

static void node_fini(struct node *n)
{
    model_fini(&n->model);
    store_close(n->store);
    folder_remove(&n->folder);
}

/* Goes on with the files as they are now, as after a kill. */
static void node_kill(struct node *n)
{
    struct folder copy;
    folder_copy(&copy, &n->folder);
    store_close(n->store);
    folder_remove(&n->folder);
    n->folder = copy;
    node_open(n);
}

static void node_restart(struct node *n)
{
    store_close(n->store);
    node_open(n);
}

static void assert_at(struct position got, struct position want)
{
    assert_int_equal(got.txid, want.txid);
    assert_true(got.checksum == want.checksum);
}

/* Every record of the log is one that others can read, and they follow on. */
static void assert_log_is_sound(struct ledger *l)
{
    struct txlog_entry e;
    struct position at = txlog_first(ledger_log(l));
    int rc = txlog_find(ledger_log(l), at.txid, &e);
    while (rc == 0) {
        struct ltx_header h;
        uint64_t post;
        char why[128] = "";
        rc = ltx_verify(txlog_entry_source(&e), &h, &post, why, sizeof why);
        assert_string_equal(why, "");
        assert_int_equal(rc, 0);
        assert_int_equal(h.min_txid, at.txid + 1);
        assert_true(h.pre_checksum == (h.min_txid == 1 ? 0 : at.checksum));
        at = (struct position){h.max_txid, post};
        rc = txlog_next(ledger_log(l), &e);
    }
    assert_int_equal(rc, -ERR_NOTFOUND);
    assert_at(at, ledger_last(l));
}

static void the_first_transaction_is_a_snapshot(void **state)
{
    (void)state;
    struct node n;
    node_make(&n);
    assert_at(ledger_last(n.ledger), (struct position){0, 0});
    struct position p = model_commit(&n.model, n.ledger, 512, 3);
    assert_int_equal(p.txid, 1);
    struct txlog_entry e;
    assert_int_equal(txlog_find(ledger_log(n.ledger), 0, &e), 0);
    struct ltx_header h;
    assert_int_equal(ltx_verify(txlog_entry_source(&e), &h, NULL, NULL, 0), 0);
    assert_true(ltx_header_is_snapshot(&h));
    assert_int_equal(h.node_id, 7);
    assert_true(h.timestamp_ms > 1700000000000);
    txlog_entry_release(&e);
    assert_at(ledger_applied(n.ledger), p);
    assert_ledger_is(n.ledger, &n.model);
    assert_int_equal(ledger_sync(n.ledger, p.txid), 0);
    assert_at(ledger_durable(n.ledger), p);
    node_fini(&n);
}

static void what_changes_nothing_makes_no_record(void **state)
{
    (void)state;
    struct node n;
    node_make(&n);
    struct ledger_tx *tx = &n.model.tx;
    struct ledger_change deletion = {0}, same = {.page_size = 512, .commit = 5};
    assert_int_equal(ledger_begin(n.ledger, tx, &deletion), 0);
    assert_int_equal(ledger_publish(tx, NULL), LEDGER_UNCHANGED);
    struct position p = model_commit(&n.model, n.ledger, 512, 5);
    int64_t bytes = txlog_bytes(ledger_log(n.ledger));
    for (int pages = 0; pages < 4; pages++) {
        for (int sealed = 0; sealed < 2; sealed++) {
            assert_int_equal(ledger_begin(n.ledger, tx, &same), 0);
            for (int i = 1; i <= pages; i++)
                assert_int_equal(
                    ledger_put_page(tx, (uint32_t)i, model_page(&n.model, (uint32_t)i)), 0);
            if (sealed)
                assert_int_equal(ledger_seal(tx), 0);
            assert_int_equal(ledger_publish(tx, NULL), LEDGER_UNCHANGED);
        }
    }
    assert_at(ledger_last(n.ledger), p);
    assert_int_equal(txlog_bytes(ledger_log(n.ledger)), bytes);
    /* A page that changes and one that does not are both in the record. */
    model_page(&n.model, 2)[9] ^= 1;
    assert_int_equal(ledger_begin(n.ledger, tx, &same), 0);
    assert_int_equal(ledger_put_page(tx, 1, model_page(&n.model, 1)), 0);
    assert_int_equal(ledger_put_page(tx, 2, model_page(&n.model, 2)), 0);
    assert_int_equal(ledger_publish(tx, &p), 0);
    assert_ledger_is(n.ledger, &n.model);
    /* Size alone is a change, too. */
    model_commit(&n.model, n.ledger, 512, 4);
    assert_ledger_is(n.ledger, &n.model);
    assert_log_is_sound(n.ledger);
    node_fini(&n);
}

static void an_abort_leaves_nothing(void **state)
{
    (void)state;
    struct node n;
    node_make(&n);
    struct position p = model_commit(&n.model, n.ledger, 512, 5);
    struct ledger_tx *tx = &n.model.tx;
    struct ledger_change change = {.page_size = 512, .commit = 7};
    uint8_t page[512] = {1};
    for (int sealed = 0; sealed < 2; sealed++) {
        assert_int_equal(ledger_begin(n.ledger, tx, &change), 0);
        for (uint32_t pgno = 2; pgno <= 7; pgno++)
            assert_int_equal(ledger_put_page(tx, pgno, page), 0);
        if (sealed)
            assert_int_equal(ledger_seal(tx), 0);
        ledger_abort(tx);
        ledger_abort(tx);
        assert_at(ledger_last(n.ledger), p);
        assert_ledger_is(n.ledger, &n.model);
        node_kill(&n);
        assert_at(ledger_last(n.ledger), p);
        assert_ledger_is(n.ledger, &n.model);
    }
    model_commit(&n.model, n.ledger, 512, 6);
    assert_log_is_sound(n.ledger);
    node_fini(&n);
}

static void a_wrong_page_ends_the_transaction(void **state)
{
    (void)state;
    struct node n;
    node_make(&n);
    model_commit(&n.model, n.ledger, 512, 5);
    struct ledger_tx *tx = &n.model.tx;
    struct ledger_change change = {.page_size = 512, .commit = 7};
    uint8_t page[512] = {1};
    static const uint32_t wrong[] = {0, 2, 1, 8};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(ledger_begin(n.ledger, tx, &change), 0);
        assert_int_equal(ledger_put_page(tx, 2, page), 0);
        assert_int_equal(ledger_put_page(tx, wrong[i], page), -ERR_INVALID);
        assert_false(tx->active);
    }
    /* A new page is missing. */
    assert_int_equal(ledger_begin(n.ledger, tx, &change), 0);
    assert_int_equal(ledger_put_page(tx, 7, page), 0);
    assert_int_equal(ledger_publish(tx, NULL), -ERR_INVALID);
    change.page_size = 1000;
    assert_int_equal(ledger_begin(n.ledger, tx, &change), -ERR_INVALID);
    assert_ledger_is(n.ledger, &n.model);
    model_commit(&n.model, n.ledger, 512, 9);
    assert_ledger_is(n.ledger, &n.model);
    node_fini(&n);
}

static void a_database_is_deleted_and_made_again(void **state)
{
    (void)state;
    struct node n;
    node_make(&n);
    model_commit(&n.model, n.ledger, 512, 5);
    struct position gone = model_commit(&n.model, n.ledger, 512, 0);
    assert_int_equal(gone.txid, 2);
    assert_true(gone.checksum == LTX_EMPTY_CHECKSUM);
    assert_ledger_is(n.ledger, &n.model);
    node_kill(&n);
    assert_at(ledger_last(n.ledger), gone);
    assert_int_equal(ledger_begin(n.ledger, &n.model.tx, &(struct ledger_change){0}), 0);
    assert_int_equal(ledger_publish(&n.model.tx, NULL), LEDGER_UNCHANGED);
    struct position again = model_commit(&n.model, n.ledger, 2048, 4);
    assert_int_equal(again.txid, 3);
    node_kill(&n);
    assert_ledger_is(n.ledger, &n.model);
    assert_log_is_sound(n.ledger);
    node_fini(&n);
}

static void the_page_size_may_change(void **state)
{
    (void)state;
    struct node n;
    node_make(&n);
    model_commit(&n.model, n.ledger, 512, 20);
    model_commit(&n.model, n.ledger, 4096, 3);
    assert_ledger_is(n.ledger, &n.model);
    struct ledger_change change = {.page_size = 1024, .commit = 3};
    uint8_t page[1024] = {1};
    assert_int_equal(ledger_begin(n.ledger, &n.model.tx, &change), 0);
    assert_int_equal(ledger_put_page(&n.model.tx, 1, page), 0);
    assert_int_equal(ledger_put_page(&n.model.tx, 3, page), 0);
    assert_int_equal(ledger_publish(&n.model.tx, NULL), -ERR_INVALID);
    node_kill(&n);
    assert_ledger_is(n.ledger, &n.model);
    model_commit(&n.model, n.ledger, 512, 30);
    assert_ledger_is(n.ledger, &n.model);
    assert_log_is_sound(n.ledger);
    node_fini(&n);
}

static void the_unclean_mark_survives(void **state)
{
    (void)state;
    struct node n;
    node_make(&n);
    struct position p = model_commit(&n.model, n.ledger, 512, 5);
    assert_false(ledger_is_unclean(n.ledger));
    assert_int_equal(ledger_set_unclean(n.ledger, true), 0);
    node_kill(&n);
    assert_true(ledger_is_unclean(n.ledger));
    assert_int_equal(ledger_checkpoint(n.ledger, p), 0);
    node_kill(&n);
    assert_true(ledger_is_unclean(n.ledger));
    assert_int_equal(ledger_set_unclean(n.ledger, false), 0);
    node_kill(&n);
    assert_false(ledger_is_unclean(n.ledger));
    assert_ledger_is(n.ledger, &n.model);
    node_fini(&n);
}

static int read_model(void *ctx, uint32_t pgno, void *page)
{
    const struct model *m = ctx;
    memcpy(page, model_page(m, pgno), m->page_size);
    return 0;
}

static void lost_sums_are_noticed_and_built_again(void **state)
{
    (void)state;
    struct node n;
    node_make(&n);
    model_commit(&n.model, n.ledger, 512, 5);
    struct position p = model_commit(&n.model, n.ledger, 512, 9);
    assert_int_equal(ledger_checkpoint(n.ledger, p), 0);
    struct position last = model_commit(&n.model, n.ledger, 512, 10);
    size_t size;
    uint8_t *sums = folder_read(&n.folder, "db/sub%2Ft.db/sums", &size);
    assert_int_equal(size, 9 * 8);
    memset(sums, 0x5a, size);
    folder_write(&n.folder, "db/sub%2Ft.db/sums", sums, size);
    free(sums);
    node_kill(&n);
    struct ledger_info info;
    ledger_info(n.ledger, &info);
    assert_true(info.damaged);
    assert_non_null(strstr(info.damage, "page checksums"));
    assert_at(info.last, last);
    assert_int_equal(info.commit, 10);
    struct ledger_change change = {.page_size = 512, .commit = 10};
    assert_int_equal(ledger_begin(n.ledger, &n.model.tx, &change), -ERR_DAMAGED);
    model_page(&n.model, 3)[7] ^= 1;
    assert_int_equal(ledger_rebuild_sums(n.ledger, read_model, &n.model), -ERR_CHECKSUM);
    ledger_info(n.ledger, &info);
    assert_true(info.damaged);
    model_page(&n.model, 3)[7] ^= 1;
    assert_int_equal(ledger_rebuild_sums(n.ledger, read_model, &n.model), 0);
    assert_ledger_is(n.ledger, &n.model);
    model_commit(&n.model, n.ledger, 512, 12);
    assert_int_equal(ledger_checkpoint(n.ledger, ledger_last(n.ledger)), 0);
    node_kill(&n);
    assert_ledger_is(n.ledger, &n.model);
    node_fini(&n);
}

static void a_checkpoint_must_be_at_a_record(void **state)
{
    (void)state;
    struct node n;
    node_make(&n);
    struct position p = model_commit(&n.model, n.ledger, 512, 5);
    model_commit(&n.model, n.ledger, 512, 6);
    assert_int_equal(ledger_checkpoint(n.ledger, (struct position){1, p.checksum ^ 1}),
                     -ERR_POSITION);
    assert_int_equal(ledger_checkpoint(n.ledger, (struct position){3, p.checksum}), -ERR_POSITION);
    assert_int_equal(ledger_checkpoint(n.ledger, p), 0);
    struct ledger_info info;
    ledger_info(n.ledger, &info);
    assert_at(info.recovery, p);
    assert_at(info.durable,
              info.last); /* the sums it wrote are newer, so the log had to be there */
    node_fini(&n);
}

#define STEPS 150

/* Where S may be put next: any position from the present S on. */
static struct position pick_checkpoint(const struct position *at, uint64_t recovery, uint64_t last)
{
    return at[recovery + dice_below((uint32_t)(last - recovery) + 1)];
}

static void a_start_finds_position_and_sums_again(void **state)
{
    (void)state;
    for (int round = 0; round < 12; round++) {
        struct node n;
        node_make(&n);
        struct position at[STEPS + 1] = {{0}};
        uint64_t last = 0, recovery = 0;
        struct txlog_retention keep = {0}, drop = {.size_bytes = 1};
        for (int i = 0; i < STEPS; i++) {
            uint32_t what = dice_below(20);
            if (what < 14) {
                at[last + 1] = model_commit_any(&n.model, n.ledger);
                last++;
            } else if (what < 16) {
                struct position p = pick_checkpoint(at, recovery, last);
                assert_int_equal(ledger_checkpoint(n.ledger, p), 0);
                recovery = p.txid;
            } else if (what == 16)
                assert_int_equal(txlog_maintain(ledger_log(n.ledger),
                                                dice_below(2) == 0 ? &keep : &drop, recovery),
                                 0);
            else if (what == 17)
                node_restart(&n);
            else
                node_kill(&n);
            assert_at(ledger_last(n.ledger), at[last]);
            assert_ledger_is(n.ledger, &n.model);
            struct ledger_info info;
            ledger_info(n.ledger, &info);
            assert_at(info.recovery, at[recovery]);
        }
        node_fini(&n);
    }
}

/* I6: the sums file is written in place; the machine stops before the state says so. */
static int refuse_rename(int olddir, const char *oldpath, int newdir, const char *newpath,
                         unsigned flags)
{
    (void)olddir, (void)oldpath, (void)newdir, (void)newpath, (void)flags;
    errno = EIO;
    return -1;
}

static void sums_may_be_newer_than_the_state(void **state)
{
    (void)state;
    struct file_ops ops = file_ops_system;
    ops.renameat2 = refuse_rename;
    for (int round = 0; round < 20; round++) {
        struct node n;
        node_make(&n);
        for (int i = 0; i < 10; i++)
            model_commit_any(&n.model, n.ledger);
        struct position s = ledger_last(n.ledger);
        assert_int_equal(ledger_checkpoint(n.ledger, s), 0);
        for (int i = 0; i < 10; i++)
            model_commit_any(&n.model, n.ledger);
        file_ops = &ops;
        assert_int_equal(ledger_checkpoint(n.ledger, ledger_last(n.ledger)), -ERR_IO);
        file_ops = &file_ops_system;
        for (int i = 0; i < 3; i++)
            model_commit_any(&n.model, n.ledger);
        node_kill(&n);
        struct ledger_info info;
        ledger_info(n.ledger, &info);
        assert_at(info.recovery, s);
        assert_ledger_is(n.ledger, &n.model);
        node_fini(&n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_transaction_is_a_snapshot),
        cmocka_unit_test(what_changes_nothing_makes_no_record),
        cmocka_unit_test(an_abort_leaves_nothing),
        cmocka_unit_test(a_wrong_page_ends_the_transaction),
        cmocka_unit_test(a_database_is_deleted_and_made_again),
        cmocka_unit_test(the_page_size_may_change),
        cmocka_unit_test(the_unclean_mark_survives),
        cmocka_unit_test(lost_sums_are_noticed_and_built_again),
        cmocka_unit_test(a_checkpoint_must_be_at_a_record),
        cmocka_unit_test(a_start_finds_position_and_sums_again),
        cmocka_unit_test(sums_may_be_newer_than_the_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
