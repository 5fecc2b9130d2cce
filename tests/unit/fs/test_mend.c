/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fs/db/database_impl.h"
#include "fs/db/mend.h"
#include "fs/db/wal.h"
#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "ltx/base/logger.h"
#include "tests/lib/fscheck.h"
#include "tests/lib/fsnode.h"
#include "tests/lib/fsship.h"
#include "tests/lib/sql.h"

/* A page that is not what it should be is put right: from the log, or, of a replica, from its primary. */

#define NAME "app.db"

static char root[SCRATCH_PATH_MAX], replica_root[SCRATCH_PATH_MAX];
static struct fsnode primary, replica;

/* ---- from the log ---- */

static void a_flipped_byte_in_the_file_is_put_right_from_the_log(void **state)
{
    (void)state;
    static const char *const modes[] = {"DELETE", "WAL", "WAL"};
    for (unsigned i = 0; i < 3; i++) {
        scratch_make(root);
        fsnode_open(&primary, root, false);
        fsnode_lead(&primary);
        tapvfs_register(fsnode_listen, &primary);
        sqlite3 *db = fscheck_make(&primary, NAME, modes[i]);
        sql_do(db, "PRAGMA wal_checkpoint(RESTART)");
        sql_do(db, "INSERT INTO t VALUES(zeroblob(3000))");
        bool again;
        uint32_t left, pgno = 7;
        if (i == 2) { /* nobody has it open */
            sql_close(db);
            db = NULL;
        }
        fscheck_need_right(&primary, NAME);
        fscheck_flip(fsnode_path(&primary, NAME), (pgno - 1) * 4096 + 2000);
        struct check_result r = fscheck_look(&primary, NAME);
        assert_int_equal(r.bad, 1);
        assert_int_equal(r.bad_page[0], pgno);
        assert_int_equal(fscheck_bad_pages(&primary, NAME), 1);
        /* Found again, it is no second one. */
        assert_int_equal(fscheck_look(&primary, NAME).bad, 1);
        assert_int_equal(fscheck_bad_pages(&primary, NAME), 1);
        struct database *d = catalog_get(primary.catalog, NAME);
        assert_int_equal(mend_from_log(d, &again, &left), 0);
        catalog_put(d);
        assert_int_equal(left, 0);
        assert_false(again);
        assert_int_equal(fscheck_bad_pages(&primary, NAME), 0);
        fscheck_need_right(&primary, NAME);
        if (!db)
            db = sql_open(fsnode_path(&primary, NAME), "tap");
        sql_check(db);
        assert_int_equal(sql_int(db, "SELECT count(*) FROM t WHERE x = zeroblob(3000)"), 21);
        sql_do(db, "INSERT INTO t VALUES(1)");
        sql_close(db);
        fscheck_need_right(&primary, NAME);
        fsnode_close(&primary);
        scratch_remove(root);
    }
}

static void a_flipped_byte_in_the_wal_is_put_right_from_the_log(void **state)
{
    (void)state;
    for (unsigned copied = 0; copied < 2; copied++) {
        scratch_make(root);
        fsnode_open(&primary, root, false);
        fsnode_lead(&primary);
        tapvfs_register(fsnode_listen, &primary);
        sqlite3 *db = fscheck_make(&primary, NAME, "WAL");
        struct database *d = catalog_get(primary.catalog, NAME);
        bool again;
        uint32_t left;
        if (copied) /* the database file has the page too, and it is right there */
            sql_do(db, "PRAGMA wal_checkpoint(PASSIVE)");
        fscheck_need_right(&primary, NAME);
        mutex_lock(&d->mutex);
        uint32_t frame = capture_wal_frame_of(d, 9, false);
        mutex_unlock(&d->mutex);
        assert_true(frame > 0);
        fscheck_flip(fsnode_path(&primary, NAME "-wal"), wal_frame_offset(4096, frame) + 24 + 3000);
        struct check_result r = fscheck_look(&primary, NAME);
        assert_int_equal(r.bad, 1);
        assert_int_equal(r.bad_page[0], 9);
        assert_int_equal(mend_from_log(d, &again, &left), 0);
        assert_int_equal(left, 0);
        fscheck_need_right(&primary, NAME);
        catalog_put(d);
        sql_do(db, "PRAGMA wal_checkpoint(TRUNCATE)");
        sql_check(db);
        sql_close(db);
        fscheck_need_right(&primary, NAME);
        fsnode_close(&primary);
        scratch_remove(root);
    }
}

/* A writer is at work: the page stays as it is until he has finished, and nothing of his is lost. */
static void a_page_is_not_mended_under_a_writer(void **state)
{
    (void)state;
    scratch_make(root);
    fsnode_open(&primary, root, false);
    fsnode_lead(&primary);
    tapvfs_register(fsnode_listen, &primary);
    sqlite3 *db = fscheck_make(&primary, NAME, "DELETE");
    struct database *d = catalog_get(primary.catalog, NAME);
    bool again;
    uint32_t left;
    fscheck_flip(fsnode_path(&primary, NAME), 6 * 4096 + 2000);
    assert_int_equal(fscheck_look(&primary, NAME).bad, 1);
    sql_do(db, "BEGIN IMMEDIATE; INSERT INTO t VALUES(2)");
    assert_int_equal(mend_from_log(d, &again, &left), 0);
    assert_true(again);
    assert_int_equal(left, 1);
    sql_do(db, "COMMIT");
    assert_int_equal(mend_from_log(d, &again, &left), 0);
    assert_int_equal(left, 0);
    catalog_put(d);
    fscheck_need_right(&primary, NAME);
    assert_int_equal(sql_int(db, "SELECT count(*) FROM t"), 21);
    sql_close(db);
    fsnode_close(&primary);
    scratch_remove(root);
}

static void a_page_that_the_log_no_longer_has_stays_bad(void **state)
{
    (void)state;
    scratch_make(root);
    fsnode_open(&primary, root, false);
    fsnode_lead(&primary);
    tapvfs_register(fsnode_listen, &primary);
    sqlite3 *db = fscheck_make(&primary, NAME, "DELETE");
    struct ledger *l = fsnode_ledger(&primary, NAME);
    struct database *d = catalog_get(primary.catalog, NAME);
    bool again;
    uint32_t left;
    assert_int_equal(txlog_reset(ledger_log(l), ledger_last(l)), 0);
    sql_do(db, "INSERT INTO t VALUES(1)");
    fscheck_flip(fsnode_path(&primary, NAME), 6 * 4096 + 2000);
    assert_int_equal(fscheck_look(&primary, NAME).bad, 1);
    assert_int_equal(mend_from_log(d, &again, &left), 0);
    assert_int_equal(left, 1);
    assert_false(again);
    catalog_put(d);
    sql_close(db);
    fsnode_close(&primary);
    scratch_remove(root);
}

/* ---- from the primary ---- */

static void begin_pair(void)
{
    fsship_pair_begin(&primary, root, &replica, replica_root);
}

static void end_pair(void)
{
    fsship_pair_end(&primary, root, &replica, replica_root);
}

static void a_replica_takes_the_page_that_its_ledger_says(void **state)
{
    (void)state;
    static const char *const modes[] = {"DELETE", "WAL"};
    for (unsigned i = 0; i < 4; i++) {
        uint8_t page[4096];
        uint32_t page_size, pgno = 7;
        begin_pair();
        sqlite3 *db = fscheck_make(&primary, NAME, modes[i % 2]);
        fsship(&primary, &replica, NAME);
        fsship_wait_applied(&replica, NAME);
        struct ledger *there = fsnode_ledger(&primary, NAME), *here = fsnode_ledger(&replica, NAME);
        sqlite3 *reader = sql_open(fsnode_path(&replica, NAME), NULL);
        sql_do(reader, "BEGIN");
        assert_int_equal(sql_int(reader, "SELECT count(*) FROM sqlite_schema"), 1);
        if (modes[i % 2][0] == 'W') { /* in the -wal, or, of a replica started anew, in the file */
            if (i == 3) {
                sql_close(reader);
                fsnode_close(&replica);
                fsnode_open(&replica, replica_root, true);
                fsnode_follow(&replica);
                here = fsnode_ledger(&replica, NAME);
                reader = sql_open(fsnode_path(&replica, NAME), NULL);
                fscheck_flip(fsnode_path(&replica, NAME), (pgno - 1) * 4096 + 2000);
            } else {
                struct database *d = catalog_get(replica.catalog, NAME);
                mutex_lock(&d->mutex);
                uint32_t frame = capture_wal_frame_of(d, pgno, true);
                mutex_unlock(&d->mutex);
                catalog_put(d);
                assert_true(frame > 0);
                fscheck_flip(fsnode_path(&replica, NAME "-wal"),
                             wal_frame_offset(4096, frame) + 24 + 2000);
            }
        } else {
            fscheck_flip(fsnode_path(&replica, NAME), (pgno - 1) * 4096 + 2000);
        }
        struct check_result r = fscheck_look(&replica, NAME);
        assert_int_equal(r.bad, 1);
        assert_int_equal(r.bad_page[0], pgno);
        struct page_reader source = store_page_reader(primary.store);
        struct page_reader sink = store_page_reader(replica.store);
        assert_int_equal(source.read(source.ctx, there, pgno, page, &page_size), 0);
        /* Not what the ledger says: somebody has changed it meanwhile. */
        page[100] ^= 1;
        assert_int_equal(sink.mend(sink.ctx, here, pgno, page), -ERR_BUSY);
        page[100] ^= 1;
        int err = sink.mend(sink.ctx, here, pgno, page);
        if (modes[i % 2][0] == 'D') { /* a reader is in the way, for as long as it reads */
            assert_int_equal(err, -ERR_BUSY);
            sql_do(reader, "COMMIT");
            struct mono freed = mono_now();
            do /* after a lock that was hard to get, readers have their turn (apply_rollback.c) */
                err = sink.mend(sink.ctx, here, pgno, page);
            while (err == -ERR_BUSY && mono_since_ms(freed) < 30000);
        }
        assert_int_equal(err, 0);
        assert_int_equal(fscheck_bad_pages(&replica, NAME), 0);
        fscheck_need_right(&replica, NAME);
        /* One that is right already is left alone. */
        assert_int_equal(sink.mend(sink.ctx, here, pgno, page), 0);
        sql_do(db, "INSERT INTO t VALUES(1)");
        fsship(&primary, &replica, NAME);
        fsship_wait_applied(&replica, NAME);
        fscheck_need_right(&replica, NAME);
        sql_close(reader);
        sql_close(db);
        end_pair();
    }
}

int main(void)
{
    logger_configure(getenv("VERBOSE") ? LOGGER_DEBUG : LOGGER_ERROR + 1, false);
    tapvfs_lock_by_description();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_flipped_byte_in_the_file_is_put_right_from_the_log),
        cmocka_unit_test(a_flipped_byte_in_the_wal_is_put_right_from_the_log),
        cmocka_unit_test(a_page_is_not_mended_under_a_writer),
        cmocka_unit_test(a_page_that_the_log_no_longer_has_stays_bad),
        cmocka_unit_test(a_replica_takes_the_page_that_its_ledger_says),
    };
    if (getenv("TEST_FILTER"))
        cmocka_set_test_filter(getenv("TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
