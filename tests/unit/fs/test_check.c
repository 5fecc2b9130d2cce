/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fs/db/check.h"
#include "fs/db/database_impl.h"
#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "ltx/base/logger.h"
#include "ltx/base/thread.h"
#include "tests/lib/dice.h"
#include "tests/lib/folder.h"
#include "tests/lib/fscheck.h"
#include "tests/lib/fsnode.h"
#include "tests/lib/fsship.h"
#include "tests/lib/sql.h"
#include "tests/lib/sqlwork.h"

/*
 * The files of a database are compared with their checksums while SQLite works on them. What has not
 * been damaged is never said to be, and what has been damaged always is.
 */

#define NAME "app.db"

static char root[SCRATCH_PATH_MAX], replica_root[SCRATCH_PATH_MAX];
static struct fsnode primary, replica;

/* ---- time ---- */

static const struct clock_ops *system_clock;
static int64_t ahead_us;

static int64_t mono_ahead(void)
{
    return system_clock->mono_us() + ahead_us;
}

/* The patience of a check is over soon. */
static bool rest_in_mind(void *ctx, int64_t us)
{
    (void)ctx;
    ahead_us += us * 100;
    return false;
}

static void leap_over_rests(bool on)
{
    static struct clock_ops clock;
    if (on) {
        system_clock = clock_ops;
        clock = *system_clock;
        clock.mono_us = mono_ahead;
        clock_ops = &clock;
    } else {
        clock_ops = system_clock;
    }
}

/* ---- beside a workload ---- */

struct checker {
    struct fsnode *node;
    struct thread thread;
    atomic_bool stop;
    atomic_uint rounds, pages;
};

static void run_checker(void *arg)
{
    struct checker *k = arg;
    struct check_options o = {.rest_us = fscheck_rest};
    while (!k->stop) {
        struct check_result r;
        struct database *db = catalog_get(k->node->catalog, NAME);
        int err = check_database(db, &o, &r);
        catalog_put(db);
        if (err == -ERR_NOTFOUND)
            continue; /* not there yet */
        if (err != 0 || r.bad != 0 || r.log_faults != 0) {
            fprintf(stderr, "checking: %s, %u bad pages (the first is %u of %u), log: %s\n",
                    err_name(err), r.bad, r.bad_page[0], r.pages, r.log_fault);
            abort();
        }
        k->rounds++;
        k->pages += r.pages;
    }
}

static void start_checker(struct checker *k, struct fsnode *n)
{
    memset(k, 0, sizeof *k);
    k->node = n;
    assert_int_equal(thread_start(&k->thread, "checker", run_checker, k), 0);
}

static void stop_checker(struct checker *k)
{
    k->stop = true;
    thread_join(&k->thread);
    assert_true(k->rounds > 2);
}

static void work(struct sqlwork w, unsigned steps)
{
    struct checker k;
    scratch_make(root);
    fsnode_open(&primary, root, true);
    fsnode_lead(&primary);
    tapvfs_register(fsnode_listen, &primary);
    start_checker(&k, &primary);
    w.dice = dice_u64();
    w.db = sql_open(fsnode_path(&primary, NAME), "tap");
    sqlwork_begin(&w);
    for (unsigned i = 0; i < steps; i++)
        assert_int_equal(sqlwork_step(&w), SQLITE_OK);
    while (k.rounds < 3)
        assert_int_equal(sqlwork_step(&w), SQLITE_OK);
    sql_close(w.db);
    stop_checker(&k);
    fscheck_need_right(&primary, NAME);
    fsnode_close(&primary);
    scratch_remove(root);
}

static void nothing_is_reported_while_writers_write(void **state)
{
    (void)state;
    static const char *const modes[] = {"WAL", "DELETE", "TRUNCATE", "PERSIST",
                                        "WAL", "MEMORY", "WAL",      "WAL"};
    for (unsigned i = 0; i < 8; i++)
        work((struct sqlwork){.journal_mode = modes[i],
                              .page_size = 512u << i % 4,
                              .auto_vacuum = i % 3,
                              .exclusive = i == 4,
                              .changes_mode = i == 6,
                              .changes_page_size = i == 6},
             60);
}

static void begin_pair(void)
{
    fsship_pair_begin(&primary, root, &replica, replica_root);
}

static void end_pair(void)
{
    fsship_pair_end(&primary, root, &replica, replica_root);
}

static void nothing_is_reported_while_a_replica_applies(void **state)
{
    (void)state;
    static const char *const modes[] = {"WAL", "DELETE", "WAL"};
    for (unsigned i = 0; i < 3; i++) {
        struct checker k;
        struct sqlwork w = {.journal_mode = modes[i],
                            .page_size = 1024,
                            .changes_mode = i == 2,
                            .changes_page_size = i == 2,
                            .dice = dice_u64()};
        begin_pair();
        start_checker(&k, &replica);
        w.db = sql_open(fsnode_path(&primary, NAME), "tap");
        sqlwork_begin(&w);
        for (unsigned step = 0; step < 80 || k.rounds < 3; step++) {
            assert_int_equal(sqlwork_step(&w), SQLITE_OK);
            fsship(&primary, &replica, NAME);
        }
        sql_close(w.db);
        fsship(&primary, &replica, NAME);
        fsship_wait_applied(&replica, NAME);
        stop_checker(&k);
        fscheck_need_right(&replica, NAME);
        end_pair();
    }
}

/* Of an unfinished transaction pages lie in the database file, which no record holds. */
static void what_a_transaction_is_changing_is_undecided(void **state)
{
    (void)state;
    leap_over_rests(true);
    scratch_make(root);
    fsnode_open(&primary, root, false);
    fsnode_lead(&primary);
    tapvfs_register(fsnode_listen, &primary);
    sqlite3 *db = sql_open(fsnode_path(&primary, NAME), "tap");
    sql_do(db, "CREATE TABLE t(x); INSERT INTO t SELECT zeroblob(3000) FROM "
               "(WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 200) "
               "SELECT i FROM n); PRAGMA cache_size=5");
    sql_do(db, "BEGIN; UPDATE t SET x = randomblob(3000)");
    struct check_result r = fscheck_look_resting(&primary, NAME, rest_in_mind);
    assert_true(r.undecided > 50);
    assert_int_equal(r.bad, 0);
    sql_do(db, "ROLLBACK");
    r = fscheck_look_resting(&primary, NAME, rest_in_mind);
    assert_int_equal(r.undecided + r.bad, 0);
    sql_close(db);
    fsnode_close(&primary);
    scratch_remove(root);
    leap_over_rests(false);
}

/* ---- the log ---- */

/* A byte at `off` of the first file with that ending. */
static void flip_in_log(const char *below, const char *ending, int64_t off, char found[256])
{
    char path[SCRATCH_PATH_MAX + 300];
    struct folder f = {.fd = primary.data_dirfd};
    snprintf(f.path, sizeof f.path, "%.63s", root);
    assert_true(folder_count(&f, below, ending, found) > 0);
    snprintf(path, sizeof path, "%s/%s/%s", root, below, found);
    fscheck_flip(path, off);
}

static void a_damaged_file_of_the_log_is_named(void **state)
{
    (void)state;
    for (unsigned compacted = 0; compacted < 2; compacted++) {
        char name[256];
        scratch_make(root);
        fsnode_open(&primary, root, false);
        fsnode_lead(&primary);
        tapvfs_register(fsnode_listen, &primary);
        sqlite3 *db = fscheck_make(&primary, NAME, "DELETE");
        sql_do(db, "INSERT INTO t VALUES(randomblob(3000))");
        struct ledger *l = fsnode_ledger(&primary, NAME);
        if (compacted) {
            /* More than half of what may be kept: the segment is closed, and stays. */
            struct txlog_retention some = {.size_bytes = txlog_bytes(ledger_log(l)) * 3 / 2};
            uint64_t txid = ledger_last(l).txid;
            assert_int_equal(ledger_checkpoint(l, ledger_last(l)), 0);
            assert_int_equal(txlog_maintain(ledger_log(l), &some, txid), 0);
            sql_do(db, "INSERT INTO t VALUES(randomblob(3000))");
        }
        fscheck_need_right(&primary, NAME);
        /* The time in the record's header: nothing but its checksum tells. */
        if (compacted)
            flip_in_log("db/" NAME "/ltx", ".ltx", 36, name);
        else
            flip_in_log("db/" NAME "/log", ".seg", 48 + 48 + 36, name);
        struct check_result r = fscheck_look(&primary, NAME);
        assert_int_equal(r.bad, 0);
        assert_int_equal(r.log_faults, 1);
        assert_non_null(strstr(r.log_fault, name));
        sql_close(db);
        fsnode_close(&primary);
        scratch_remove(root);
    }
}

int main(void)
{
    logger_configure(getenv("VERBOSE") ? LOGGER_DEBUG : LOGGER_ERROR + 1, false);
    tapvfs_lock_by_description();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_reported_while_writers_write),
        cmocka_unit_test(nothing_is_reported_while_a_replica_applies),
        cmocka_unit_test(what_a_transaction_is_changing_is_undecided),
        cmocka_unit_test(a_damaged_file_of_the_log_is_named),
    };
    if (getenv("TEST_FILTER"))
        cmocka_set_test_filter(getenv("TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
