/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "fs/db/scrub.h"
#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "ltx/base/logger.h"
#include "tests/lib/fscheck.h"
#include "tests/lib/fsnode.h"
#include "tests/lib/sql.h"

/* The thread that compares and mends one database after the other, and `tandemfs verify`, which has it done now. */

#define NAME "app.db"

static char root[SCRATCH_PATH_MAX];
static struct fsnode primary;

static bool count(void *ctx, const struct check_progress *p)
{
    unsigned *n = ctx;
    assert_true(p->pages_done <= p->pages);
    ++*n;
    return true;
}

static bool never(void *ctx, const struct check_progress *p)
{
    (void)ctx;
    (void)p;
    return false;
}

static void verify_mends_and_tells(void **state)
{
    (void)state;
    struct scrub_verdict v;
    struct check_result last;
    unsigned told = 0;
    scratch_make(root);
    fsnode_open(&primary, root, true);
    fsnode_lead(&primary);
    tapvfs_register(fsnode_listen, &primary);
    sqlite3 *db = fscheck_make(&primary, NAME, "WAL");
    struct scrub *s = catalog_scrub(primary.catalog);
    scrub_last(s, NAME, &last);
    assert_int_equal(last.ended_ms, 0);
    assert_int_equal(scrub_verify(s, "nothing.db", count, &told, &v), -ERR_NOTFOUND);
    assert_int_equal(scrub_verify(s, NAME, never, NULL, &v), -ERR_CLOSED);
    assert_int_equal(scrub_verify(s, NAME, count, &told, &v), 0);
    assert_true(told > 0);
    assert_int_equal(v.check.bad + v.left + v.mended, 0);
    sql_do(db, "PRAGMA wal_checkpoint(TRUNCATE)");
    fscheck_flip(fsnode_path(&primary, NAME), 5 * 4096 + 2000);
    fscheck_flip(fsnode_path(&primary, NAME), 8 * 4096 + 2000);
    assert_int_equal(scrub_verify(s, NAME, count, &told, &v), 0);
    assert_int_equal(v.check.bad, 2);
    assert_int_equal(v.mended, 2);
    assert_int_equal(v.left, 0);
    scrub_last(s, NAME, &last);
    assert_int_equal(last.bad, 2);
    assert_true(last.ended_ms > 0);
    assert_int_equal(scrub_verify(s, NAME, NULL, NULL, &v), 0);
    assert_int_equal(v.check.bad, 0);
    sql_check(db);
    sql_close(db);
    fsnode_close(&primary);
    scratch_remove(root);
}

static void the_thread_goes_round_and_remembers(void **state)
{
    (void)state;
    struct scrub_view view;
    struct scrub *s;
    scratch_make(root);
    fsnode_open(&primary, root, true);
    fsnode_lead(&primary);
    tapvfs_register(fsnode_listen, &primary);
    sqlite3 *db = fscheck_make(&primary, NAME, "DELETE");
    fscheck_flip(fsnode_path(&primary, NAME), 5 * 4096 + 2000);
    int64_t began = wall_ms();
    assert_int_equal(scrub_start(primary.catalog, 200, 100 * 1000 * 1000, &s), 0);
    struct mono start = mono_now();
    struct ledger_info info;
    do {
        assert_true(mono_since_ms(start) < 20000);
        usleep(1000);
        ledger_info(fsnode_ledger(&primary, NAME), &info);
        scrub_view(s, &view);
    } while (info.mended == 0 || view.last_ms <= began + 200);
    assert_int_equal(info.bad, 0);
    scrub_quit(s);
    scrub_stop(s);
    /* Another start goes on from there: nothing is due for an hour. */
    int64_t last = view.last_ms;
    assert_int_equal(scrub_start(primary.catalog, 3600 * 1000, 0, &s), 0);
    do {
        assert_true(mono_since_ms(start) < 20000);
        usleep(1000);
        scrub_view(s, &view);
    } while (view.next_ms == 0);
    assert_true(view.last_ms >= last);
    assert_int_equal(view.next_ms, view.last_ms + 3600 * 1000);
    scrub_quit(s);
    scrub_stop(s);
    sql_close(db);
    fsnode_close(&primary);
    scratch_remove(root);
}

int main(void)
{
    logger_configure(getenv("VERBOSE") ? LOGGER_DEBUG : LOGGER_ERROR + 1, false);
    tapvfs_lock_by_description();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(verify_mends_and_tells),
        cmocka_unit_test(the_thread_goes_round_and_remembers),
    };
    if (getenv("TEST_FILTER"))
        cmocka_set_test_filter(getenv("TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
