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

#include "ltx/base/err.h"
#include "ltx/base/logger.h"
#include "tests/lib/dice.h"
#include "tests/lib/fsnode.h"
#include "tests/lib/logcopy.h"
#include "tests/lib/sql.h"
#include "tests/lib/sqlwork.h"

/*
 * A node stops being the primary while a client is in the middle of something. What the files hold
 * then is what the log says, and the client cannot change it any more.
 */

static char root[SCRATCH_PATH_MAX];
static struct fsnode node;

static int begin(void **state)
{
    (void)state;
    scratch_make(root);
    fsnode_open(&node, root, false);
    fsnode_lead(&node);
    tapvfs_register(fsnode_listen, &node);
    return 0;
}

static int end(void **state)
{
    (void)state;
    fsnode_close(&node);
    scratch_remove(root);
    return 0;
}

static sqlite3 *open_client(const char *mode)
{
    sqlite3 *db = sql_open(fsnode_path(&node, "app.db"), "tap");
    sqlite3_busy_timeout(db, 0);
    sql_do(db,
           "PRAGMA page_size=1024; PRAGMA journal_mode=%s; PRAGMA cache_size=5;"
           "CREATE TABLE IF NOT EXISTS t(a INTEGER PRIMARY KEY, b); BEGIN",
           mode);
    for (unsigned i = 0; i < 60; i++)
        sql_do(db, "INSERT INTO t(b) VALUES(randomblob(%u))", 1 + dice_below(2000));
    sql_do(db, "COMMIT");
    return db;
}

/* A transaction that its small cache has written in part. */
static void leave_half(sqlite3 *db)
{
    sql_do(db, "BEGIN; UPDATE t SET b = randomblob(length(b)); INSERT INTO t(b) VALUES('half')");
}

static void assert_file_is_log(void)
{
    struct logcopy copy;
    size_t size;
    sqlite3 *db;
    logcopy_open(&copy);
    logcopy_advance(&copy, fsnode_ledger(&node, "app.db"));
    assert_int_equal(sqlite3_open_v2(fsnode_path(&node, "app.db"), &db, SQLITE_OPEN_READONLY, NULL),
                     SQLITE_OK);
    sqlite3_busy_timeout(db, 5000);
    sql_check(db);
    uint8_t *bytes = sql_bytes(db, "main", &size);
    assert_true(logcopy_equals(&copy, bytes, size));
    sqlite3_free(bytes);
    sql_close(db);
    logcopy_close(&copy);
}

static void assert_not_damaged(void)
{
    struct ledger_info info;
    ledger_info(fsnode_ledger(&node, "app.db"), &info);
    if (info.damaged)
        fail_msg("%s", info.damage);
}

static void half_a_transaction_is_rolled_back(void **state)
{
    (void)state;
    static const char *const modes[] = {"DELETE", "TRUNCATE", "PERSIST", "WAL"};
    for (unsigned i = 0; i < 4; i++) {
        begin(NULL);
        sqlite3 *db = open_client(modes[i]);
        uint64_t txid = fsnode_txid(&node, "app.db");
        leave_half(db);
        fsnode_follow(&node);
        assert_not_damaged();
        assert_true(sql_try(db, "COMMIT") != SQLITE_OK);
        (void)sql_try(db, "ROLLBACK");
        assert_true(sql_try(db, "INSERT INTO t(b) VALUES(1)") != SQLITE_OK);
        assert_true(fsnode_txid(&node, "app.db") == txid);
        sqlite3_close(db);
        assert_file_is_log();

        /* Back again, it goes on from there. */
        fsnode_lead(&node);
        db = sql_open(fsnode_path(&node, "app.db"), "tap");
        assert_int_equal(sql_int(db, "SELECT count(*) FROM t"), 60);
        sql_do(db, "INSERT INTO t(b) VALUES('after')");
        assert_true(fsnode_txid(&node, "app.db") == txid + 1);
        sql_close(db);
        assert_file_is_log();
        end(NULL);
    }
}

/* With the primary's clients the wal-index goes, and nothing in the file seals their last commit. */
static void what_sqlite_forgot_to_seal_outlasts_a_demotion(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        begin(NULL);
        sqlite3 *db = sql_open(fsnode_path(&node, "app.db"), "tap");
        sqlwork_commit_unsealed(db, "one");
        if (i == 1) {
            fsnode_follow(&node);
            sqlite3_close(db);
        } else {
            sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
            sqlite3_close(db);
            fsnode_settle(&node); /* what the mount does before the close has ended */
            fsnode_follow(&node);
        }
        assert_not_damaged();
        assert_file_is_log();
        end(NULL);
    }
}

/* Nobody can tell which pages these were before: the database must be fetched again. */
static void changes_without_a_journal_are_damage(void **state)
{
    (void)state;
    sqlite3 *db = open_client("MEMORY");
    leave_half(db);
    fsnode_follow(&node);
    struct ledger_info info;
    ledger_info(fsnode_ledger(&node, "app.db"), &info);
    assert_true(info.damaged);
    assert_true(sql_try(db, "COMMIT") != SQLITE_OK);
    sqlite3_close(db);
}

static void an_idle_client_notices_nothing_but_that_it_cannot_write(void **state)
{
    (void)state;
    static const char *const modes[] = {"DELETE", "WAL"};
    for (unsigned i = 0; i < 2; i++) {
        begin(NULL);
        sqlite3 *db = open_client(modes[i]);
        fsnode_follow(&node);
        assert_not_damaged();
        assert_int_equal(sql_int(db, "SELECT count(*) FROM t"), 60);
        assert_true(sql_try(db, "INSERT INTO t(b) VALUES(1)") != SQLITE_OK);
        assert_int_equal(sql_int(db, "SELECT count(*) FROM t"), 60);
        fsnode_lead(&node);
        sql_do(db, "INSERT INTO t(b) VALUES(1)");
        sql_close(db);
        assert_file_is_log();
        end(NULL);
    }
}

int main(void)
{
    logger_configure(LOGGER_ERROR + 1, false);
    tapvfs_lock_by_description();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(half_a_transaction_is_rolled_back),
        cmocka_unit_test(what_sqlite_forgot_to_seal_outlasts_a_demotion),
        cmocka_unit_test_setup_teardown(changes_without_a_journal_are_damage, begin, end),
        cmocka_unit_test(an_idle_client_notices_nothing_but_that_it_cannot_write),
    };
    if (getenv("TEST_FILTER"))
        cmocka_set_test_filter(getenv("TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
