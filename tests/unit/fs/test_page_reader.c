/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "ltx/base/logger.h"
#include "ltx/checksum.h"
#include "tests/lib/dice.h"
#include "tests/lib/fsnode.h"
#include "tests/lib/sql.h"
#include "tests/lib/sqlwork.h"

/*
 * The pages of a database are asked for while SQLite works on it: in the middle of transactions, at
 * each event of the VFS. What is given has the checksum that the ledger holds.
 */

static char root[SCRATCH_PATH_MAX];
static struct fsnode node;
static unsigned given, busy;

static int ask(uint32_t pgno)
{
    static uint8_t page[LTX_MAX_PAGE_SIZE];
    struct ledger *l = fsnode_ledger(&node, "app.db");
    struct page_reader reader = store_page_reader(node.store);
    struct ledger_info info;
    uint32_t page_size;
    ledger_info(l, &info);
    int err = reader.read(reader.ctx, l, pgno, page, &page_size);
    if (err == 0) {
        assert_int_equal(page_size, info.page_size);
        assert_true(checksum_page(pgno, page, page_size) == ledger_page_sum(l, pgno));
    } else if (err == -ERR_NOTFOUND) {
        assert_true(pgno == 0 || pgno > info.commit || pgno == ltx_lock_pgno(info.page_size));
    } else if (err != -ERR_BUSY) {
        fail_msg("page %u of %u: %s", pgno, info.commit, err_text(err));
    }
    given += err == 0;
    busy += err == -ERR_BUSY;
    return err;
}

static int listen_and_ask(void *ctx, const struct tap_event *e)
{
    int err = fsnode_listen(ctx, e);
    struct ledger *l = fsnode_ledger(ctx, "app.db");
    struct ledger_info info;
    if (!l)
        return err;
    ledger_info(l, &info);
    for (unsigned i = 0; i < 2; i++)
        ask(dice_below(info.commit + 2));
    return err;
}

static void ask_all(const struct sqlwork *w)
{
    struct ledger_info info;
    ledger_info(fsnode_ledger(&node, "app.db"), &info);
    for (uint32_t pgno = 1; pgno <= info.commit; pgno++)
        if (ask(pgno) != 0)
            fail_msg("%s: page %u of %u after \"%s\"", w->journal_mode, pgno, info.commit, w->last);
}

static void run(struct sqlwork w)
{
    scratch_make(root);
    fsnode_open(&node, root, false);
    fsnode_lead(&node);
    tapvfs_register(listen_and_ask, &node);
    w.dice = dice_u64();
    w.db = sql_open(fsnode_path(&node, "app.db"), "tap");
    sqlwork_begin(&w);
    for (unsigned i = 0; i < 40; i++) {
        assert_int_equal(sqlwork_step(&w), SQLITE_OK);
        ask_all(&w);
    }
    sql_close(w.db);
    ask_all(&w);
    fsnode_close(&node);
    scratch_remove(root);
}

static void a_page_is_as_the_ledger_has_it_or_busy(void **state)
{
    (void)state;
    static const char *const modes[] = {"DELETE", "WAL", "TRUNCATE", "PERSIST", "WAL", "WAL"};
    for (unsigned i = 0; i < 6; i++)
        run((struct sqlwork){.journal_mode = modes[i],
                             .page_size = 512u << i % 4,
                             .auto_vacuum = i % 3,
                             .changes_mode = i == 5,
                             .changes_page_size = i == 5});
    assert_true(given > 1000);
    assert_true(busy > 0);
}

static const struct clock_ops *system_clock;
static int64_t ahead_us;

static int64_t mono_ahead(void)
{
    return system_clock->mono_us() + ahead_us;
}

static void a_damaged_page_is_named_as_such(void **state)
{
    (void)state;
    system_clock = clock_ops;
    struct clock_ops clock = *system_clock;
    clock.mono_us = mono_ahead;
    clock_ops = &clock;
    scratch_make(root);
    fsnode_open(&node, root, false);
    fsnode_lead(&node);
    tapvfs_register(fsnode_listen, &node);
    sqlite3 *db = sql_open(fsnode_path(&node, "app.db"), "tap");
    sql_do(db, "CREATE TABLE t(x); INSERT INTO t VALUES(zeroblob(20000))");
    sql_close(db);
    int fd = open(fsnode_path(&node, "app.db"), O_RDWR | O_CLOEXEC);
    assert_int_equal(pwrite(fd, "x", 1, 2 * 4096 + 77), 1);
    close(fd);
    uint8_t page[4096];
    uint32_t page_size;
    struct page_reader reader = store_page_reader(node.store);
    struct ledger *l = fsnode_ledger(&node, "app.db");
    assert_int_equal(reader.read(reader.ctx, l, 2, page, &page_size), 0);
    /* A transaction might explain it, until it has stayed so for a while. */
    assert_int_equal(reader.read(reader.ctx, l, 3, page, &page_size), -ERR_BUSY);
    ahead_us = 2000000;
    assert_int_equal(reader.read(reader.ctx, l, 3, page, &page_size), -ERR_DAMAGED);
    assert_int_equal(reader.read(reader.ctx, l, 0, page, &page_size), -ERR_NOTFOUND);
    fsnode_close(&node);
    scratch_remove(root);
    clock_ops = system_clock;
}

int main(void)
{
    logger_configure(LOGGER_ERROR, false);
    tapvfs_lock_by_description();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_page_is_as_the_ledger_has_it_or_busy),
        cmocka_unit_test(a_damaged_page_is_named_as_such),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
