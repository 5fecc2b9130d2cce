/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "fs/db/database_impl.h"
#include "fs/db/mend.h"
#include "fs/db/scrub.h"
#include "fs/db/wal.h"
#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "ltx/base/logger.h"
#include "ltx/base/thread.h"
#include "tests/lib/dice.h"
#include "tests/lib/folder.h"
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

/* ---- checking ---- */

static bool rest_really(void *ctx, int64_t us)
{
    (void)ctx;
    usleep((useconds_t)us);
    return false;
}

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

static struct check_result look(struct fsnode *n, bool (*rest)(void *ctx, int64_t us))
{
    struct check_options o = {.rest_us = rest};
    struct check_result r;
    struct database *db = catalog_get(n->catalog, NAME);
    int err = check_database(db, &o, &r);
    catalog_put(db);
    if (err != 0)
        fail_msg("it cannot be checked: %s", err_text(err));
    return r;
}

static void need_right(struct fsnode *n)
{
    struct check_result r = look(n, rest_really);
    assert_int_equal(r.bad, 0);
    assert_int_equal(r.undecided, 0);
    assert_int_equal(r.log_faults, 0);
    assert_true(r.ended_ms > 0);
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
    struct check_options o = {.rest_us = rest_really};
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
    need_right(&primary);
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
    scratch_make(root);
    scratch_make(replica_root);
    fsnode_open(&primary, root, false);
    fsnode_lead(&primary);
    tapvfs_register(fsnode_listen, &primary);
    fsnode_open(&replica, replica_root, true);
    fsnode_follow(&replica);
}

static void end_pair(void)
{
    fsnode_close(&replica);
    fsnode_close(&primary);
    scratch_remove(root);
    scratch_remove(replica_root);
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
        need_right(&replica);
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
    struct check_result r = look(&primary, rest_in_mind);
    assert_true(r.undecided > 50);
    assert_int_equal(r.bad, 0);
    sql_do(db, "ROLLBACK");
    r = look(&primary, rest_in_mind);
    assert_int_equal(r.undecided + r.bad, 0);
    sql_close(db);
    fsnode_close(&primary);
    scratch_remove(root);
    leap_over_rests(false);
}

/* ---- damage ---- */

static void flip(const char *path, int64_t off)
{
    uint8_t byte;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, off), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, off), 1);
    close(fd);
}

static sqlite3 *make(const char *mode)
{
    sqlite3 *db = sql_open(fsnode_path(&primary, NAME), "tap");
    sql_do(db, "PRAGMA journal_mode=%s; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(x)", mode);
    for (unsigned i = 0; i < 20; i++)
        sql_do(db, "INSERT INTO t VALUES(zeroblob(3000))");
    return db;
}

static uint32_t bad_pages(struct fsnode *n)
{
    struct ledger_info info;
    ledger_info(fsnode_ledger(n, NAME), &info);
    return info.bad;
}

static void a_flipped_byte_in_the_file_is_put_right_from_the_log(void **state)
{
    (void)state;
    static const char *const modes[] = {"DELETE", "WAL", "WAL"};
    for (unsigned i = 0; i < 3; i++) {
        scratch_make(root);
        fsnode_open(&primary, root, false);
        fsnode_lead(&primary);
        tapvfs_register(fsnode_listen, &primary);
        sqlite3 *db = make(modes[i]);
        sql_do(db, "PRAGMA wal_checkpoint(RESTART)");
        sql_do(db, "INSERT INTO t VALUES(zeroblob(3000))");
        bool again;
        uint32_t left, pgno = 7;
        if (i == 2) { /* nobody has it open */
            sql_close(db);
            db = NULL;
        }
        need_right(&primary);
        flip(fsnode_path(&primary, NAME), (pgno - 1) * 4096 + 2000);
        struct check_result r = look(&primary, rest_really);
        assert_int_equal(r.bad, 1);
        assert_int_equal(r.bad_page[0], pgno);
        assert_int_equal(bad_pages(&primary), 1);
        /* Found again, it is no second one. */
        assert_int_equal(look(&primary, rest_really).bad, 1);
        assert_int_equal(bad_pages(&primary), 1);
        struct database *d = catalog_get(primary.catalog, NAME);
        assert_int_equal(mend_from_log(d, &again, &left), 0);
        catalog_put(d);
        assert_int_equal(left, 0);
        assert_false(again);
        assert_int_equal(bad_pages(&primary), 0);
        need_right(&primary);
        if (!db)
            db = sql_open(fsnode_path(&primary, NAME), "tap");
        sql_check(db);
        assert_int_equal(sql_int(db, "SELECT count(*) FROM t WHERE x = zeroblob(3000)"), 21);
        sql_do(db, "INSERT INTO t VALUES(1)");
        sql_close(db);
        need_right(&primary);
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
        sqlite3 *db = make("WAL");
        struct database *d = catalog_get(primary.catalog, NAME);
        bool again;
        uint32_t left;
        if (copied) /* the database file has the page too, and it is right there */
            sql_do(db, "PRAGMA wal_checkpoint(PASSIVE)");
        need_right(&primary);
        mutex_lock(&d->mutex);
        uint32_t frame = capture_wal_frame_of(d, 9, false);
        mutex_unlock(&d->mutex);
        assert_true(frame > 0);
        flip(fsnode_path(&primary, NAME "-wal"), wal_frame_offset(4096, frame) + 24 + 3000);
        struct check_result r = look(&primary, rest_really);
        assert_int_equal(r.bad, 1);
        assert_int_equal(r.bad_page[0], 9);
        assert_int_equal(mend_from_log(d, &again, &left), 0);
        assert_int_equal(left, 0);
        need_right(&primary);
        catalog_put(d);
        sql_do(db, "PRAGMA wal_checkpoint(TRUNCATE)");
        sql_check(db);
        sql_close(db);
        need_right(&primary);
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
    sqlite3 *db = make("DELETE");
    struct database *d = catalog_get(primary.catalog, NAME);
    bool again;
    uint32_t left;
    flip(fsnode_path(&primary, NAME), 6 * 4096 + 2000);
    assert_int_equal(look(&primary, rest_really).bad, 1);
    sql_do(db, "BEGIN IMMEDIATE; INSERT INTO t VALUES(2)");
    assert_int_equal(mend_from_log(d, &again, &left), 0);
    assert_true(again);
    assert_int_equal(left, 1);
    sql_do(db, "COMMIT");
    assert_int_equal(mend_from_log(d, &again, &left), 0);
    assert_int_equal(left, 0);
    catalog_put(d);
    need_right(&primary);
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
    sqlite3 *db = make("DELETE");
    struct ledger *l = fsnode_ledger(&primary, NAME);
    struct database *d = catalog_get(primary.catalog, NAME);
    bool again;
    uint32_t left;
    assert_int_equal(txlog_reset(ledger_log(l), ledger_last(l)), 0);
    sql_do(db, "INSERT INTO t VALUES(1)");
    flip(fsnode_path(&primary, NAME), 6 * 4096 + 2000);
    assert_int_equal(look(&primary, rest_really).bad, 1);
    assert_int_equal(mend_from_log(d, &again, &left), 0);
    assert_int_equal(left, 1);
    assert_false(again);
    catalog_put(d);
    sql_close(db);
    fsnode_close(&primary);
    scratch_remove(root);
}

/* ---- a replica ---- */

static void a_replica_takes_the_page_that_its_ledger_says(void **state)
{
    (void)state;
    static const char *const modes[] = {"DELETE", "WAL"};
    for (unsigned i = 0; i < 4; i++) {
        uint8_t page[4096];
        uint32_t page_size, pgno = 7;
        begin_pair();
        sqlite3 *db = make(modes[i % 2]);
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
                flip(fsnode_path(&replica, NAME), (pgno - 1) * 4096 + 2000);
            } else {
                struct database *d = catalog_get(replica.catalog, NAME);
                mutex_lock(&d->mutex);
                uint32_t frame = capture_wal_frame_of(d, pgno, true);
                mutex_unlock(&d->mutex);
                catalog_put(d);
                assert_true(frame > 0);
                flip(fsnode_path(&replica, NAME "-wal"), wal_frame_offset(4096, frame) + 24 + 2000);
            }
        } else {
            flip(fsnode_path(&replica, NAME), (pgno - 1) * 4096 + 2000);
        }
        struct check_result r = look(&replica, rest_really);
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
        assert_int_equal(bad_pages(&replica), 0);
        need_right(&replica);
        /* One that is right already is left alone. */
        assert_int_equal(sink.mend(sink.ctx, here, pgno, page), 0);
        sql_do(db, "INSERT INTO t VALUES(1)");
        fsship(&primary, &replica, NAME);
        fsship_wait_applied(&replica, NAME);
        need_right(&replica);
        sql_close(reader);
        sql_close(db);
        end_pair();
    }
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
    flip(path, off);
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
        sqlite3 *db = make("DELETE");
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
        need_right(&primary);
        /* The time in the record's header: nothing but its checksum tells. */
        if (compacted)
            flip_in_log("db/" NAME "/ltx", ".ltx", 36, name);
        else
            flip_in_log("db/" NAME "/log", ".seg", 48 + 48 + 36, name);
        struct check_result r = look(&primary, rest_really);
        assert_int_equal(r.bad, 0);
        assert_int_equal(r.log_faults, 1);
        assert_non_null(strstr(r.log_fault, name));
        sql_close(db);
        fsnode_close(&primary);
        scratch_remove(root);
    }
}

/* ---- the thread ---- */

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
    sqlite3 *db = make("WAL");
    struct scrub *s = catalog_scrub(primary.catalog);
    scrub_last(s, NAME, &last);
    assert_int_equal(last.ended_ms, 0);
    assert_int_equal(scrub_verify(s, "nothing.db", count, &told, &v), -ERR_NOTFOUND);
    assert_int_equal(scrub_verify(s, NAME, never, NULL, &v), -ERR_CLOSED);
    assert_int_equal(scrub_verify(s, NAME, count, &told, &v), 0);
    assert_true(told > 0);
    assert_int_equal(v.check.bad + v.left + v.mended, 0);
    sql_do(db, "PRAGMA wal_checkpoint(TRUNCATE)");
    flip(fsnode_path(&primary, NAME), 5 * 4096 + 2000);
    flip(fsnode_path(&primary, NAME), 8 * 4096 + 2000);
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
    sqlite3 *db = make("DELETE");
    flip(fsnode_path(&primary, NAME), 5 * 4096 + 2000);
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
        cmocka_unit_test(nothing_is_reported_while_writers_write),
        cmocka_unit_test(nothing_is_reported_while_a_replica_applies),
        cmocka_unit_test(what_a_transaction_is_changing_is_undecided),
        cmocka_unit_test(a_flipped_byte_in_the_file_is_put_right_from_the_log),
        cmocka_unit_test(a_flipped_byte_in_the_wal_is_put_right_from_the_log),
        cmocka_unit_test(a_page_is_not_mended_under_a_writer),
        cmocka_unit_test(a_page_that_the_log_no_longer_has_stays_bad),
        cmocka_unit_test(a_replica_takes_the_page_that_its_ledger_says),
        cmocka_unit_test(a_damaged_file_of_the_log_is_named),
        cmocka_unit_test(verify_mends_and_tells),
        cmocka_unit_test(the_thread_goes_round_and_remembers),
    };
    if (getenv("TEST_FILTER"))
        cmocka_set_test_filter(getenv("TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
