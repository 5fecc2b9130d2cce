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

#include "fs/db/wal.h"
#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "ltx/base/logger.h"
#include "ltx/checksum.h"
#include "tests/lib/dice.h"
#include "tests/lib/folder.h"
#include "tests/lib/fsnode.h"
#include "tests/lib/fsship.h"
#include "tests/lib/sql.h"
#include "tests/lib/sqlwork.h"

/* Of a damaged database of a replica it is found out what its files hold: what a reader sees. */

#define NAME "app.db"

static char root[SCRATCH_PATH_MAX], replica_root[SCRATCH_PATH_MAX];
static struct fsnode primary, replica;

static void begin(void)
{
    fsship_pair_begin(&primary, root, &replica, replica_root);
}

static void end(void)
{
    fsship_pair_end(&primary, root, &replica, replica_root);
}

static int take(struct page_stock *stock)
{
    struct page_reader reader = store_page_reader(replica.store);
    struct mono start = mono_now();
    for (;;) {
        int err = reader.stock(reader.ctx, fsnode_ledger(&replica, NAME), stock);
        if (err != -ERR_BUSY || mono_since_ms(start) > 20000)
            return err;
        usleep(1000); /* the applier is about to find out that the database is damaged */
    }
}

static void need_what_readers_see(sqlite3 *reader)
{
    struct page_stock stock = {0};
    size_t size;
    assert_int_equal(take(&stock), 0);
    uint8_t *bytes = sql_bytes(reader, "main", &size);
    assert_int_equal(stock.sums.count, size / stock.page_size);
    for (uint32_t pgno = 1; pgno <= stock.sums.count; pgno++)
        if (pagesums_get(&stock.sums, pgno) !=
            checksum_page(pgno, bytes + (size_t)(pgno - 1) * stock.page_size, stock.page_size))
            fail_msg("page %u of %u is not what readers see", pgno, stock.sums.count);
    sqlite3_free(bytes);
    pagesums_fini(&stock.sums);
}

static sqlite3 *open_reader(void)
{
    sqlite3 *db;
    assert_int_equal(sqlite3_open_v2(fsnode_path(&replica, NAME), &db, SQLITE_OPEN_READONLY, NULL),
                     SQLITE_OK);
    return db;
}

static void a_stock_is_what_readers_see(void **state)
{
    (void)state;
    static const char *const modes[] = {"DELETE", "WAL", "WAL"};
    for (unsigned i = 0; i < 3; i++) {
        struct sqlwork w = {.journal_mode = modes[i],
                            .page_size = 512u << (2 * i),
                            .auto_vacuum = i,
                            .dice = dice_u64()};
        struct page_stock none = {0};
        begin();
        w.db = sql_open(fsnode_path(&primary, NAME), "tap");
        sqlwork_begin(&w);
        for (unsigned step = 0; step < 40; step++)
            assert_int_equal(sqlwork_step(&w), SQLITE_OK);
        fsship(&primary, &replica, NAME);
        fsship_wait_applied(&replica, NAME);
        assert_int_equal(take(&none), -ERR_INVALID); /* nothing is wrong with it */
        ledger_set_damaged(fsnode_ledger(&replica, NAME), "the test says so");
        sqlite3 *reader = open_reader();
        need_what_readers_see(reader);
        if (i == 0) { /* a byte that is wrong is wrong in the stock */
            sql_close(reader);
            int fd = open(fsnode_path(&replica, NAME), O_RDWR | O_CLOEXEC);
            assert_int_equal(pwrite(fd, "x", 1, 600), 1);
            close(fd);
            reader = open_reader();
            need_what_readers_see(reader);
        }
        sql_close(reader);
        sql_close(w.db);
        end();
    }
}

static void a_database_whose_file_is_gone_has_no_pages(void **state)
{
    (void)state;
    struct page_stock stock = {0};
    begin();
    sqlite3 *db = sql_open(fsnode_path(&primary, NAME), "tap");
    sql_do(db, "PRAGMA page_size=1024; CREATE TABLE t(x); INSERT INTO t VALUES(zeroblob(9000))");
    fsship(&primary, &replica, NAME);
    fsship_wait_applied(&replica, NAME);
    ledger_set_damaged(fsnode_ledger(&replica, NAME), "the test says so");
    assert_int_equal(unlink(fsnode_path(&replica, NAME)), 0);
    assert_int_equal(take(&stock), 0);
    assert_int_equal(stock.sums.count, 0);
    assert_int_equal(stock.page_size, 1024);
    pagesums_fini(&stock.sums);
    sql_close(db);
    end();
}

/* The last record of the replica's log on disk no longer is what it was. */
static void spoil_last_record(void)
{
    char path[SCRATCH_PATH_MAX + 300], name[256];
    struct folder f = {.fd = replica.data_dirfd};
    snprintf(f.path, sizeof f.path, "%.63s", replica_root);
    assert_int_equal(folder_count(&f, "db/" NAME "/log", ".seg", name), 1);
    snprintf(path, sizeof path, "%s/db/" NAME "/log/%s", replica_root, name);
    struct txlog_entry e;
    struct ledger *l = fsnode_ledger(&replica, NAME);
    assert_int_equal(txlog_find(ledger_log(l), ledger_last(l).txid - 1, &e), 0);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(pwrite(fd, "\xff\xff\xff\xff", 4, e.off + 150), 4);
    close(fd);
    txlog_entry_release(&e);
}

/*
 * Two records are applied at once, the first of them long: its frames are in the -wal already when
 * the second turns out to be unreadable, and neither is published. They must not be taken for what
 * the database is, for the next frames will stand in their place.
 */
static void frames_that_were_not_published_do_not_count(void **state)
{
    (void)state;
    begin();
    sqlite3 *db = sql_open(fsnode_path(&primary, NAME), "tap");
    sql_do(db,
           "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES(zeroblob(2000000))");
    fsship(&primary, &replica, NAME);
    fsship_wait_applied(&replica, NAME);
    sqlite3 *reader = open_reader();
    assert_int_equal(sql_int(reader, "SELECT count(*) FROM t"), 1);
    sqlite3 *holder = sql_open(fsnode_path(&replica, NAME), NULL);
    struct stat before, after;
    sql_do(holder, "BEGIN IMMEDIATE"); /* in the applier's way */
    assert_int_equal(stat(fsnode_path(&replica, NAME "-wal"), &before), 0);
    /* A record of few bytes and many frames. */
    sql_do(db, "UPDATE t SET x = hex(zeroblob(1000000))");
    sql_do(db, "UPDATE t SET x = randomblob(100)");
    fsship(&primary, &replica, NAME);
    spoil_last_record();
    sql_do(holder, "ROLLBACK");
    struct ledger_info info;
    struct mono start = mono_now();
    do {
        assert_true(mono_since_ms(start) < 20000);
        usleep(1000);
        ledger_info(fsnode_ledger(&replica, NAME), &info);
    } while (!info.damaged);
    need_what_readers_see(reader);
    assert_int_equal(stat(fsnode_path(&replica, NAME "-wal"), &after), 0);
    assert_true(after.st_size < before.st_size + 4096);
    sql_close(holder);
    sql_close(reader);
    sql_close(db);
    end();
}

static bool never(void *ctx, uint64_t done, uint64_t total)
{
    (void)ctx;
    assert_true(done <= total);
    return false;
}

static void what_cannot_be_read_has_no_checksum(void **state)
{
    (void)state;
    struct page_stock stock = {0};
    begin();
    sqlite3 *db = sql_open(fsnode_path(&primary, NAME), "tap");
    sql_do(db, "CREATE TABLE t(x); INSERT INTO t VALUES(zeroblob(100000))");
    fsship(&primary, &replica, NAME);
    fsship_wait_applied(&replica, NAME);
    ledger_set_damaged(fsnode_ledger(&replica, NAME), "the test says so");
    stock.go_on = never;
    assert_int_equal(take(&stock), -ERR_CLOSED);
    assert_int_equal(stock.sums.count, 0);
    stock.go_on = NULL;
    /* Without a header the page size is the ledger's. */
    int fd = open(fsnode_path(&replica, NAME), O_RDWR | O_CLOEXEC);
    assert_int_equal(pwrite(fd, "garbage!garbage!garbage!", 24, 0), 24);
    assert_int_equal(ftruncate(fd, 10 * 4096 + 5), 0);
    close(fd);
    assert_int_equal(take(&stock), 0);
    assert_int_equal(stock.page_size, 4096);
    assert_int_equal(stock.sums.count, 11);
    for (uint32_t pgno = 2; pgno <= 10; pgno++)
        assert_true(pagesums_get(&stock.sums, pgno) ==
                    ledger_page_sum(fsnode_ledger(&replica, NAME), pgno));
    pagesums_fini(&stock.sums);
    assert_int_equal(unlink(fsnode_path(&replica, NAME)), 0);
    assert_int_equal(take(&stock), 0);
    assert_int_equal(stock.sums.count, 0);
    assert_int_equal(stock.page_size, 4096);
    sql_close(db);
    end();
}

int main(void)
{
    logger_configure(getenv("VERBOSE") ? LOGGER_DEBUG : LOGGER_ERROR + 1, false);
    tapvfs_lock_by_description();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stock_is_what_readers_see),
        cmocka_unit_test(frames_that_were_not_published_do_not_count),
        cmocka_unit_test(a_database_whose_file_is_gone_has_no_pages),
        cmocka_unit_test(what_cannot_be_read_has_no_checksum),
    };
    if (getenv("TEST_FILTER"))
        cmocka_set_test_filter(getenv("TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
