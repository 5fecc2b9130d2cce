/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <unistd.h>

#include <cmocka.h>

#include "fs/db/database_impl.h"
#include "ltx/base/logger.h"
#include "ltx/checksum.h"
#include "tests/lib/dice.h"
#include "tests/lib/fsnode.h"
#include "tests/lib/logcopy.h"
#include "tests/lib/sql.h"
#include "tests/lib/sqlwork.h"

/*
 * Every commit becomes exactly one record, and the records give the database: random workloads by
 * SQLite itself, looked at after each step.
 */

#define STEPS 70

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

struct watched {
    struct sqlwork work;
    struct logcopy copy;
    uint64_t digest;
};

static uint8_t *read_file(const char *path, size_t *size)
{
    int64_t n;
    int fd;
    assert_int_equal(file_open(AT_FDCWD, path, O_RDONLY, 0, &fd), 0);
    assert_int_equal(file_size(fd, &n), 0);
    uint8_t *bytes = sqlite3_malloc64((sqlite3_uint64)n);
    assert_int_equal(file_read(fd, bytes, (size_t)n, 0), 0);
    file_close(fd);
    *size = (size_t)n;
    return bytes;
}

/*
 * The database as another client would see it. The connection's own cache is no measure: what it
 * holds of free pages after a rollback is not what the file holds.
 */
static uint8_t *seen(struct watched *w, const char *name, size_t *size)
{
    if (w->work.exclusive)
        sqlite3_db_release_memory(w->work.db);
    if (w->work.exclusive)
        return sqlwork_in_wal_mode(&w->work) ? sql_bytes(w->work.db, "main", size)
                                             : read_file(fsnode_path(&node, name), size);
    sqlite3 *other = sql_open(fsnode_path(&node, name), "tap");
    uint8_t *bytes = sql_bytes(other, "main", size);
    sql_close(other);
    return bytes;
}

/* After a step: a record more if the content has changed, none if not, and the log says what SQLite
 * sees. */
static void look(struct watched *w, const char *name)
{
    size_t size;
    uint8_t *bytes = seen(w, name, &size);
    uint64_t digest = checksum_update(0, bytes, size);
    unsigned records = logcopy_advance(&w->copy, fsnode_ledger(&node, name));
    if (!logcopy_equals(&w->copy, bytes, size))
        fail_msg("%s %u: after \"%s\" (TXID %llu, %u records) the log is not what SQLite sees",
                 w->work.journal_mode, w->work.page_size, w->work.last,
                 (unsigned long long)w->copy.at.txid, records);
    if (records != (digest != w->digest))
        fail_msg("%s %u: \"%s\" made %u records", w->work.journal_mode, w->work.page_size,
                 w->work.last, records);
    w->digest = digest;
    sqlite3_free(bytes);
}

static void run(struct sqlwork work, unsigned count)
{
    struct watched w = {.work = work};
    w.work.dice = dice_u64();
    logcopy_open(&w.copy);
    w.work.db = sql_open(fsnode_path(&node, "app.db"), "tap");
    sqlwork_begin(&w.work);
    logcopy_advance(&w.copy, fsnode_ledger(&node, "app.db"));
    w.digest = logcopy_digest(&w.copy);
    for (unsigned i = 0; i < count; i++) {
        int rc = sqlwork_step(&w.work);
        if (rc != SQLITE_OK)
            fail_msg("%s: %s", w.work.last, sqlite3_errmsg(w.work.db));
        look(&w, "app.db");
        if (dice_below(4) == 0)
            fsnode_settle(&node);
    }
    sql_check(w.work.db);
    sql_close(w.work.db);
    assert_int_equal(logcopy_advance(&w.copy, fsnode_ledger(&node, "app.db")), 0);
    assert_true(w.copy.at.txid > count / 8);
    /* Another connection, without the tap, sees the same. */
    w.work.exclusive = false;
    look(&w, "app.db");
    logcopy_close(&w.copy);
}

/* One database of its own for each run. */
static void run_alone(struct sqlwork work, unsigned count)
{
    begin(NULL);
    run(work, count);
    end(NULL);
}

static void sweep(const char *mode)
{
    static const uint32_t page_size[] = {512, 1024, 4096, 65536};
    static const char *const sync[] = {"FULL", "NORMAL", "OFF", "EXTRA"};
    unsigned shift = dice_below(4);
    for (unsigned i = 0; i < 4; i++)
        run_alone((struct sqlwork){.journal_mode = mode,
                                   .page_size = page_size[i],
                                   .synchronous = sync[(i + shift) % 4],
                                   .auto_vacuum = dice_below(3),
                                   .row_bytes = page_size[i] > 4096 ? 70000 : 0},
                  page_size[i] > 4096 ? STEPS / 3 : STEPS);
}

static void each_commit_in_delete_mode_is_a_record(void **state)
{
    (void)state;
    sweep("DELETE");
}

static void each_commit_in_truncate_mode_is_a_record(void **state)
{
    (void)state;
    sweep("TRUNCATE");
}

static void each_commit_in_persist_mode_is_a_record(void **state)
{
    (void)state;
    sweep("PERSIST");
}

static void each_commit_in_wal_mode_is_a_record(void **state)
{
    (void)state;
    sweep("WAL");
}

static void commit_frames_that_fill_a_sector_are_no_commits(void **state)
{
    (void)state;
    tapvfs_whole_sectors(true);
    sweep("WAL");
    tapvfs_whole_sectors(false);
}

/* A savepoint that is rolled back after pages were overwritten in the WAL may leave frames that
 * nothing seals (wal.h): this workload has some, with SQLite 3.40. */
static void frames_that_sqlite_forgets_to_seal_are_captured(void **state)
{
    (void)state;
    unsigned broken = 0;
    struct watched w = {.work = {.journal_mode = "WAL", .page_size = 1024, .dice = 9}};
    begin(NULL);
    logcopy_open(&w.copy);
    w.work.db = sql_open(fsnode_path(&node, "app.db"), "tap");
    sqlwork_begin(&w.work);
    logcopy_advance(&w.copy, fsnode_ledger(&node, "app.db"));
    w.digest = logcopy_digest(&w.copy);
    struct database *db = catalog_get(node.catalog, "app.db");
    for (unsigned i = 0; i < 100; i++) {
        assert_int_equal(sqlwork_step(&w.work), SQLITE_OK);
        broken += db->wal.broken > 0;
        look(&w, "app.db");
        if (i % 3 == 0)
            fsnode_settle(&node);
    }
    printf("SQLite %s: frames were forgotten after %u of 100 steps\n", sqlite3_libversion(),
           broken);
    catalog_put(db);
    sql_close(w.work.db);
    logcopy_close(&w.copy);
    end(NULL);
}

/* The same in the first transaction of a WAL. */
static void frames_that_sqlite_forgets_to_seal_at_the_start_of_a_wal_are_captured(void **state)
{
    (void)state;
    struct watched w = {.work = {.journal_mode = "WAL", .page_size = 512, .last = "COMMIT"}};
    begin(NULL);
    logcopy_open(&w.copy);
    sqlite3 *sql = w.work.db = sql_open(fsnode_path(&node, "app.db"), "tap");
    for (unsigned i = 0; i < 3; i++) {
        sqlwork_commit_unsealed(sql, i % 2 ? "odd" : "even");
        struct database *db = catalog_get(node.catalog, "app.db");
        printf("SQLite %s: frames were %s\n", sqlite3_libversion(),
               db->wal.broken > 0 ? "forgotten" : "sealed");
        catalog_put(db);
        assert_true(logcopy_advance(&w.copy, fsnode_ledger(&node, "app.db")) > 0);
        w.digest = logcopy_digest(&w.copy);
        look(&w, "app.db");
        sql_do(sql,
               "UPDATE t SET b = 'four'"); /* continues from where SQLite believes that ended */
        look(&w, "app.db");
        sql_do(sql, "PRAGMA wal_checkpoint(TRUNCATE); UPDATE t SET b = 'five'");
        look(&w, "app.db");
    }
    sql_close(sql);
    logcopy_close(&w.copy);
    end(NULL);
}

/*
 * What is special of the first transactions of a WAL: there are only a few steps to each connection. The last one
 * leaves a WAL behind now and then, and what is in it is what the next one finds there.
 */
static void the_first_transactions_of_a_wal_are_captured(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        struct watched w = {.work = {.journal_mode = "WAL",
                                     .page_size = 512,
                                     .auto_vacuum = i,
                                     .turns_back = true,
                                     .dice = dice_u64()}};
        begin(NULL);
        logcopy_open(&w.copy);
        for (unsigned connections = 0; connections < STEPS; connections++) {
            w.work.db = sql_open(fsnode_path(&node, "app.db"), "tap");
            sqlwork_begin(&w.work);
            logcopy_advance(&w.copy, fsnode_ledger(&node, "app.db"));
            w.digest = logcopy_digest(&w.copy);
            for (unsigned steps = 1 + dice_below(i == 2 ? 20 : 3); steps > 0; steps--) {
                assert_int_equal(sqlwork_step(&w.work), SQLITE_OK);
                look(&w, "app.db");
            }
            sqlite3_db_config(w.work.db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, (int)dice_below(2),
                              NULL);
            sql_close(w.work.db);
            fsnode_settle(&node); /* what the mount does before the close has ended */
            w.work.last[0] = '\0';
            look(&w, "app.db");
        }
        logcopy_close(&w.copy);
        end(NULL);
    }
}

/* Without a journal the writer's sync is the mark of a commit. */
static void a_sync_captures_what_has_no_journal(void **state)
{
    (void)state;
    static const char *const mode[] = {"MEMORY", "OFF"};
    for (unsigned i = 0; i < 4; i++)
        run_alone((struct sqlwork){.journal_mode = mode[i % 2],
                                   .page_size = 512u << i * 2 % 5,
                                   .synchronous = i < 2 ? "NORMAL" : "FULL",
                                   .auto_vacuum = i % 3,
                                   .no_rollback = i % 2 == 1},
                  STEPS);
}

static void one_connection_with_exclusive_locks_is_captured(void **state)
{
    (void)state;
    static const char *const mode[] = {"DELETE", "TRUNCATE", "PERSIST", "WAL"};
    for (unsigned i = 0; i < 4; i++)
        run_alone((struct sqlwork){.journal_mode = mode[i],
                                   .page_size = 1024,
                                   .synchronous = "FULL",
                                   .exclusive = true},
                  STEPS);
}

static void a_kept_journal_may_have_a_size_limit(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 3; i++)
        run_alone((struct sqlwork){.journal_mode = i < 2 ? "PERSIST" : "WAL",
                                   .page_size = 1024,
                                   .synchronous = "FULL",
                                   .size_limit = i == 0 ? 1 : 6000},
                  STEPS);
}

static void journal_modes_and_page_sizes_may_change(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 6; i++)
        run_alone((struct sqlwork){.journal_mode = i % 2 ? "DELETE" : "WAL",
                                   .page_size = 512u << i % 4,
                                   .synchronous = i % 3 ? "NORMAL" : "FULL",
                                   .auto_vacuum = i % 3,
                                   .changes_mode = true,
                                   .changes_page_size = true},
                  2 * STEPS);
}

/* How many of ten commits were expected to be synced. */
static unsigned foreseen(sqlite3 *db, struct database *captured, const char *synchronous)
{
    unsigned count = 0;
    sql_do(db, "PRAGMA synchronous=%s", synchronous);
    for (unsigned i = 0; i < 10; i++) {
        sql_do(db, "INSERT INTO t VALUES(%u)", i);
        count += database_sync_follows(captured, FILE_WAL) != NULL;
    }
    return count;
}

static void a_sync_after_each_commit_is_foreseen(void **state)
{
    (void)state;
    sqlite3 *db = sql_open(fsnode_path(&node, "foreseen.db"), "tap");
    sql_do(db, "PRAGMA journal_mode=WAL");
    sql_do(db, "CREATE TABLE t(a)");
    struct database *captured = catalog_get(node.catalog, "foreseen.db");
    assert_non_null(captured);
    assert_true(foreseen(db, captured, "FULL") >= 9);
    assert_true(foreseen(db, captured, "NORMAL") <= 1);
    assert_true(foreseen(db, captured, "FULL") >= 9);
    catalog_put(captured);
    sql_close(db);
}

int main(void)
{
    logger_configure(LOGGER_WARN, false);
    tapvfs_lock_by_description();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_commit_in_delete_mode_is_a_record),
        cmocka_unit_test(each_commit_in_truncate_mode_is_a_record),
        cmocka_unit_test(each_commit_in_persist_mode_is_a_record),
        cmocka_unit_test(each_commit_in_wal_mode_is_a_record),
        cmocka_unit_test(commit_frames_that_fill_a_sector_are_no_commits),
        cmocka_unit_test(frames_that_sqlite_forgets_to_seal_are_captured),
        cmocka_unit_test(frames_that_sqlite_forgets_to_seal_at_the_start_of_a_wal_are_captured),
        cmocka_unit_test(the_first_transactions_of_a_wal_are_captured),
        cmocka_unit_test(a_sync_captures_what_has_no_journal),
        cmocka_unit_test(one_connection_with_exclusive_locks_is_captured),
        cmocka_unit_test(a_kept_journal_may_have_a_size_limit),
        cmocka_unit_test(journal_modes_and_page_sizes_may_change),
        cmocka_unit_test_setup_teardown(a_sync_after_each_commit_is_foreseen, begin, end),
    };
    if (getenv("TEST_FILTER"))
        cmocka_set_test_filter(getenv("TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
