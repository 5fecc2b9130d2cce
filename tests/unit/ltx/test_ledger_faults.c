/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ltx/base/err.h"
#include "ltx/checksum.h"
#include "ltx/store.h"
#include "tests/lib/dice.h"
#include "tests/lib/fault.h"
#include "tests/lib/folder.h"
#include "tests/lib/model.h"

/*
 * Each operation on the files fails once, at every place of a history. Whatever was acknowledged is
 * there after a kill; whatever was refused is not; and the ledger goes on.
 */
static struct store *open_store(const struct folder *f)
{
    struct store_options options = {.segment_bytes = 8192};
    struct store *s;
    assert_int_equal(store_open(&s, f->fd, &options), 0);
    return s;
}

/* A transaction of a few pages; on failure the model is as before. */
static int commit(struct model *m, struct ledger *l, uint32_t pages)
{
    struct model next = *m;
    next.pages = malloc((size_t)MODEL_PAGES_MAX * 4096);
    memcpy(next.pages, m->pages, (size_t)MODEL_PAGES_MAX * 4096);
    next.commit = pages;
    struct ledger_change change = {.page_size = m->page_size, .commit = pages};
    int rc = ledger_begin(l, &m->tx, &change);
    for (uint32_t pgno = 1; rc == 0 && pgno <= pages; pgno++) {
        if (pgno <= m->commit && dice_below(2) == 0)
            continue;
        dice_fill(model_page(&next, pgno), m->page_size);
        rc = ledger_put_page(&m->tx, pgno, model_page(&next, pgno));
    }
    if (rc == 0 && dice_below(3) == 0)
        rc = ledger_seal(&m->tx);
    if (rc == 0)
        rc = ledger_publish(&m->tx, NULL);
    if (rc == 0) {
        memcpy(m->pages, next.pages, (size_t)MODEL_PAGES_MAX * 4096);
        m->commit = pages;
    }
    if (rc == LEDGER_UNCHANGED)
        rc = 0;
    free(next.pages);
    return rc;
}

static void whatever_fails_once_the_ledger_stays_exact(void **state)
{
    (void)state;
    int n = (int)dice_below(dice_share()), operations = 0;
    for (bool fired = true; fired; n += (int)dice_share(), operations++) {
        struct folder f, copy;
        struct model m;
        struct ledger *l = NULL;
        folder_make(&f);
        model_init(&m);
        struct store *s = open_store(&f);
        struct position acknowledged = {0}, recovery = {0};
        fault_arm(n);
        if (store_get(s, "t.db", &l) < 0)
            assert_int_equal(store_get(s, "t.db", &l), 0);
        for (int i = 0; i < 12; i++) {
            if (commit(&m, l, 1 + dice_below(20)) < 0 && commit(&m, l, 1 + dice_below(20)) < 0)
                break; /* it has given up until the next start, which is below */
            acknowledged = ledger_last(l);
            if (i % 4 == 3 && ledger_checkpoint(l, acknowledged) == 0)
                recovery = acknowledged;
        }
        struct txlog_retention keep = {0};
        (void)txlog_maintain(ledger_log(l), &keep, recovery.txid);
        fired = fault_disarm();
        folder_copy(&copy, &f);
        store_close(s);
        folder_remove(&f);
        s = open_store(&copy);
        l = store_find(s, "t.db");
        assert_non_null(l);
        struct ledger_info info;
        ledger_info(l, &info);
        assert_true(position_equal(info.last, acknowledged));
        assert_true(info.recovery.txid >= recovery.txid);
        assert_ledger_is(l, &m);
        assert_int_equal(commit(&m, l, 7), 0);
        assert_ledger_is(l, &m);
        assert_int_equal(ledger_checkpoint(l, ledger_last(l)), 0);
        model_fini(&m);
        store_close(s);
        folder_remove(&copy);
    }
    print_message("%d operations failed in turn\n", operations - 1);
    assert_true(n > 60);
}

/* A start that fails is told so, harms nothing, and the next one finds all. */
static void whatever_fails_once_in_a_start_nothing_is_lost(void **state)
{
    (void)state;
    struct folder f;
    struct model m;
    folder_make(&f);
    model_init(&m);
    struct store *s = open_store(&f);
    struct ledger *l;
    assert_int_equal(store_get(s, "t.db", &l), 0);
    for (int i = 0; i < 30; i++) {
        assert_int_equal(commit(&m, l, 1 + dice_below(20)), 0);
        if (i % 10 == 5)
            assert_int_equal(ledger_checkpoint(l, ledger_last(l)), 0);
        if (i % 10 == 8) {
            struct txlog_retention keep = {0};
            struct ledger_info info;
            ledger_info(l, &info);
            assert_int_equal(txlog_maintain(ledger_log(l), &keep, info.recovery.txid), 0);
        }
    }
    struct folder killed;
    folder_copy(&killed, &f);
    store_close(s);
    folder_remove(&f);
    int n = 0, whole = 0;
    for (bool fired = true; fired; n++) {
        struct folder copy;
        folder_copy(&copy, &killed);
        struct store_options options = {.segment_bytes = 8192};
        fault_arm(n);
        int rc = store_open(&s, copy.fd, &options);
        fired = fault_disarm();
        if (rc == 0) {
            struct ledger_info info;
            l = store_find(s, "t.db");
            if (l != NULL)
                ledger_info(l, &info);
            /* Blocked, or marked as damaged, or right. */
            if (l != NULL && !info.damaged) {
                assert_ledger_is(l, &m);
                whole++;
            }
            store_close(s);
        }
        s = open_store(&copy);
        l = store_find(s, "t.db");
        assert_non_null(l);
        assert_ledger_is(l, &m);
        store_close(s);
        folder_remove(&copy);
    }
    print_message("%d operations failed in turn; %d starts got by\n", n - 1, whole);
    assert_true(n > 20);
    model_fini(&m);
    folder_remove(&killed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whatever_fails_once_the_ledger_stays_exact),
        cmocka_unit_test(whatever_fails_once_in_a_start_nothing_is_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
