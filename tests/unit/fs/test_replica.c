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

#include "fs/db/locks.h"
#include "fs/db/walindex.h"
#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "ltx/base/logger.h"
#include "tests/lib/dice.h"
#include "tests/lib/fsnode.h"
#include "tests/lib/fsship.h"
#include "tests/lib/logcopy.h"
#include "tests/lib/sql.h"
#include "tests/lib/sqlwork.h"

/*
 * A primary on which SQLite works through the tap, and a replica that is handed its records and
 * applies them, as a client of its own tree. No network, no mount.
 */

#define LIMIT_MS 20000
#define NAME "sub/app.db"

static char root[SCRATCH_PATH_MAX], replica_root[SCRATCH_PATH_MAX];
static struct fsnode primary, replica;

static void begin(void)
{
    fsship_pair_begin(&primary, root, &replica, replica_root);
    assert_int_equal(mkdir(fsnode_path(&primary, "sub"), 0755), 0);
}

static void end(void)
{
    fsship_pair_end(&primary, root, &replica, replica_root);
}

static uint8_t *seen(struct fsnode *n, const char *name, size_t *size)
{
    sqlite3 *db;
    assert_int_equal(sqlite3_open_v2(fsnode_path(n, name), &db, SQLITE_OPEN_READONLY, NULL),
                     SQLITE_OK);
    sqlite3_busy_timeout(db, 10000);
    sql_check(db);
    uint8_t *bytes = sql_bytes(db, "main", size);
    sql_close(db);
    return bytes;
}

static void assert_same(struct fsnode *n, const char *name, struct logcopy *copy, const char *after)
{
    size_t size;
    uint8_t *bytes = seen(n, name, &size);
    logcopy_advance(copy, fsnode_ledger(n, name));
    if (!logcopy_equals(copy, bytes, size))
        fail_msg("after \"%s\", at TXID %llu, readers do not see what the log says", after,
                 (unsigned long long)copy->at.txid);
    sqlite3_free(bytes);
}

/* Writes to the replica's WAL but for its header: where cache pages are written in part. */
static atomic_uint wal_writes, begin_within_a_page, end_within_a_page;

static void watch_wal(int fd, size_t size, off_t off)
{
    char link[32], path[256];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, sizeof path - 1);
    path[len > 0 ? len : 0] = 0;
    if (size <= 32 || strncmp(path, replica_root, strlen(replica_root)) != 0 ||
        !strstr(path, "-wal"))
        return;
    atomic_fetch_add(&wal_writes, 1);
    if (off % 4096)
        atomic_fetch_add(&begin_within_a_page, 1);
    if ((off + (off_t)size) % 4096)
        atomic_fetch_add(&end_within_a_page, 1);
}

static void run(struct sqlwork w, unsigned steps)
{
    struct logcopy copy;
    begin();
    logcopy_open(&copy);
    w.dice = dice_u64();
    w.db = sql_open(fsnode_path(&primary, NAME), "tap");
    sqlwork_begin(&w);
    for (unsigned i = 0; i < steps; i++) {
        assert_int_equal(sqlwork_step(&w), SQLITE_OK);
        if (dice_below(3) == 0)
            continue; /* several records at once */
        fsship(&primary, &replica, NAME);
        fsship_wait_applied(&replica, NAME);
        assert_same(&replica, NAME, &copy, w.last);
    }
    sql_close(w.db);
    fsship(&primary, &replica, NAME);
    fsship_wait_applied(&replica, NAME);
    assert_same(&replica, NAME, &copy, "close");
    logcopy_close(&copy);
    end();
}

static void a_replica_follows_in_every_journal_mode(void **state)
{
    (void)state;
    static const char *const modes[] = {"DELETE", "WAL", "TRUNCATE", "PERSIST", "WAL", "WAL"};
    for (unsigned i = 0; i < 6; i++)
        run((struct sqlwork){.journal_mode = modes[i],
                             .page_size = i == 4 ? 65536 : 512u << i,
                             .row_bytes = i == 4 ? 30000 : 0,
                             .auto_vacuum = i % 3},
            40);
}

static void a_replica_follows_when_modes_and_page_sizes_change(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 3; i++)
        run((struct sqlwork){.journal_mode = i ? "WAL" : "DELETE",
                             .page_size = 1024,
                             .changes_mode = true,
                             .changes_page_size = true},
            60);
}

static void the_wal_is_written_in_whole_cache_pages(void **state)
{
    (void)state;
    fsnode_watch_writes(watch_wal);
    wal_writes = begin_within_a_page = end_within_a_page = 0;
    run((struct sqlwork){.journal_mode = "WAL", .page_size = 512}, 40);
    run((struct sqlwork){.journal_mode = "WAL", .page_size = 4096}, 40);
    fsnode_watch_writes(NULL);
    assert_true(wal_writes > 20);
    assert_int_equal(begin_within_a_page, 0);
    assert_int_equal(end_within_a_page, 0);
}

/* Any reader could have written these. */
static void a_wal_index_that_tells_of_frames_that_are_not_there_is_built_anew(void **state)
{
    (void)state;
    static const struct walindex_header wrong[] = {
        {.mx_frame = UINT32_MAX, .page_size = 1024},
        {.mx_frame = 0x00ffffff, .page_size = 1024},
        {.mx_frame = 3, .page_size = 4096},
        {.mx_frame = 3, .page_size = 0},
    };
    struct logcopy copy;
    struct stat st;
    begin();
    logcopy_open(&copy);
    sqlite3 *db = sql_open(fsnode_path(&primary, NAME), "tap");
    sql_do(db, "PRAGMA page_size=1024; PRAGMA journal_mode=WAL; CREATE TABLE t(x)");
    for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        sql_do(db, "INSERT INTO t VALUES(randomblob(3000))");
        fsship(&primary, &replica, NAME);
        fsship_wait_applied(&replica, NAME);

        struct walindex index;
        struct walindex_header h;
        int fd = open(fsnode_path(&replica, NAME "-shm"), O_RDWR | O_CLOEXEC);
        walindex_init(&index, fd, NULL);
        assert_int_equal(walindex_read(&index, &h), 0);
        assert_true(h.mx_frame > 0);
        h.mx_frame = wrong[i].mx_frame;
        h.page_size = wrong[i].page_size;
        assert_int_equal(walindex_publish(&index, &h), 0);
        walindex_fini(&index);
        close(fd);

        sql_do(db, "INSERT INTO t VALUES(%u)", i);
        fsship(&primary, &replica, NAME);
        fsship_wait_applied(&replica, NAME);
        assert_same(&replica, NAME, &copy, "a wrong wal-index");
        assert_int_equal(stat(fsnode_path(&replica, NAME "-shm"), &st), 0);
        assert_int_equal(st.st_size, WALINDEX_BLOCK);
        assert_int_equal(stat(fsnode_path(&replica, NAME "-wal"), &st), 0);
        assert_true(st.st_size < 1000000);
    }
    sql_close(db);
    logcopy_close(&copy);
    end();
}

/* A reader's snapshot stays, and the others go on. */
static void a_long_read_stops_nobody(void **state)
{
    (void)state;
    begin();
    sqlite3 *db = sql_open(fsnode_path(&primary, NAME), "tap");
    sql_do(db, "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES(0)");
    fsship(&primary, &replica, NAME);
    fsship_wait_applied(&replica, NAME);
    sqlite3 *slow = sql_open(fsnode_path(&replica, NAME), NULL);
    sqlite3 *quick = sql_open(fsnode_path(&replica, NAME), NULL);
    sql_do(slow, "BEGIN");
    assert_int_equal(sql_int(slow, "SELECT count(*) FROM t"), 1);
    for (unsigned i = 1; i <= 1500; i++) {
        sql_do(db, "INSERT INTO t VALUES(%u)", i);
        if (i % 50)
            continue;
        fsship(&primary, &replica, NAME);
        fsship_wait_applied(&replica, NAME);
        assert_int_equal(sql_int(quick, "SELECT count(*) FROM t"), i + 1);
        assert_int_equal(sql_int(slow, "SELECT count(*) FROM t"), 1);
    }
    sql_do(slow, "COMMIT");
    assert_int_equal(sql_int(slow, "SELECT count(*) FROM t"), 1501);
    sql_check(slow);
    sql_close(slow);
    sql_close(quick);
    sql_close(db);
    end();
}

/* A record on the primary's log alone: `commit` pages, of them page 1 if it is given. */
static void log_record(uint32_t commit, const uint8_t *page_one)
{
    static struct ledger_tx tx;
    struct ledger *l = fsnode_ledger(&primary, NAME);
    struct ledger_info info;
    ledger_info(l, &info);
    struct ledger_change change = {.page_size = info.page_size, .commit = commit};
    assert_int_equal(ledger_begin(l, &tx, &change), 0);
    if (page_one)
        assert_int_equal(ledger_put_page(&tx, 1, page_one), 0);
    assert_int_equal(ledger_publish(&tx, NULL), 0);
    ledger_tx_fini(&tx);
}

/* Page 1 is put again for it, as it was then: later records may have another one. */
static void a_record_of_a_size_alone_is_applied_late(void **state)
{
    (void)state;
    for (unsigned batch = 0; batch < 2; batch++) {
        struct logcopy copy;
        size_t size;
        begin();
        logcopy_open(&copy);
        sqlite3 *db = sql_open(fsnode_path(&primary, NAME), "tap");
        sql_do(db, "PRAGMA page_size=1024; PRAGMA journal_mode=WAL; CREATE TABLE t(x)");
        sql_do(db, "INSERT INTO t VALUES(randomblob(20000))");
        sql_close(db);
        fsship(&primary, &replica, NAME);
        fsship_wait_applied(&replica, NAME);
        assert_same(&replica, NAME, &copy, "the beginning");

        int fd = open(fsnode_path(&replica, NAME "-shm"), O_RDWR | O_CLOEXEC);
        assert_int_equal(lock_exclusive(fd, LOCK_SHM_WRITE, 1), 0);
        uint8_t *bytes = seen(&replica, NAME, &size);
        uint32_t pages = (uint32_t)(size / 1024);
        bytes[27]++;
        if (batch) /* page 1 is among the frames that were built before it */
            log_record(pages, bytes);
        log_record(pages - 2, NULL);
        bytes[27]++;
        log_record(pages - 2, bytes);
        fsship(&primary, &replica, NAME);
        lock_release(fd, LOCK_SHM_WRITE, 1);
        close(fd);
        fsship_wait_applied(&replica, NAME);
        sqlite3_free(bytes);
        assert_int_equal(
            sqlite3_open_v2(fsnode_path(&replica, NAME), &db, SQLITE_OPEN_READONLY, NULL),
            SQLITE_OK);
        bytes = sql_bytes(db, "main", &size);
        sql_close(db);
        logcopy_advance(&copy, fsnode_ledger(&replica, NAME));
        assert_true(logcopy_equals(&copy, bytes, size));
        sqlite3_free(bytes);
        logcopy_close(&copy);
        end();
    }
}

/* Each write to the replica's WAL takes its time, once the daemon is about to end. */
static atomic_bool ending;

static void slow_wal(int fd, size_t size, off_t off)
{
    unsigned before = wal_writes;
    watch_wal(fd, size, off);
    if (wal_writes == before)
        return;
    for (struct mono start = mono_now(); !ending && mono_since_ms(start) < LIMIT_MS;)
        usleep(1000);
    usleep(200 * 1000);
}

static void a_long_record_is_taken_back_when_the_daemon_ends(void **state)
{
    (void)state;
    struct logcopy copy;
    begin();
    logcopy_open(&copy);
    sqlite3 *db = sql_open(fsnode_path(&primary, NAME), "tap");
    sql_do(db, "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES(1)");
    fsship(&primary, &replica, NAME);
    fsship_wait_applied(&replica, NAME);
    sql_do(db, "INSERT INTO t VALUES(randomblob(10000000))"); /* ten writes */
    ending = false;
    wal_writes = 0;
    fsnode_watch_writes(slow_wal);
    fsship(&primary, &replica, NAME);
    for (struct mono start = mono_now(); wal_writes == 0 && mono_since_ms(start) < LIMIT_MS;)
        usleep(1000);
    assert_int_equal(wal_writes, 1);
    ending = true;
    fsnode_close(&replica);
    fsnode_watch_writes(NULL);
    assert_true(wal_writes < 5);

    fsnode_open(&replica, replica_root, true);
    fsnode_follow(&replica);
    fsship_wait_applied(&replica, NAME);
    assert_same(&replica, NAME, &copy, "a long record, at the second time");
    sql_close(db);
    logcopy_close(&copy);
    end();
}

static void a_deleted_database_goes_and_comes_back(void **state)
{
    (void)state;
    static const char *const modes[] = {"DELETE", "WAL"};
    for (unsigned i = 0; i < 4; i++) {
        struct logcopy copy;
        begin();
        for (unsigned round = 0; round < 3; round++) {
            sqlite3 *db = sql_open(fsnode_path(&primary, NAME), "tap");
            sql_do(db,
                   "PRAGMA page_size=%u; PRAGMA journal_mode=%s; CREATE TABLE t(x);"
                   "INSERT INTO t VALUES(zeroblob(%u))",
                   1024u << round, modes[(i + round) % 2], 5000 * (round + 1));
            sql_close(db);
            fsship(&primary, &replica, NAME);
            fsship_wait_applied(&replica, NAME);
            logcopy_open(&copy);
            assert_same(&replica, NAME, &copy, "creation");
            logcopy_close(&copy);
            sqlite3_vfs *tap = sqlite3_vfs_find("tap");
            assert_int_equal(tap->xDelete(tap, fsnode_path(&primary, NAME), 0), SQLITE_OK);
            fsship(&primary, &replica, NAME);
            fsship_wait_applied(&replica, NAME);
            assert_int_equal(access(fsnode_path(&replica, NAME), F_OK), -1);
        }
        end();
    }
}

/* The replica becomes the primary, and the other way round, several times. */
static void roles_may_change(void **state)
{
    (void)state;
    static const char *const modes[] = {"DELETE", "WAL", "PERSIST", "TRUNCATE"};
    for (unsigned i = 0; i < 4; i++) {
        struct fsnode *from = &primary, *to = &replica;
        unsigned rows = 0;
        begin();
        fsnode_close(&primary);
        fsnode_open(&primary, root, true);
        fsnode_lead(&primary);
        for (unsigned round = 0; round < 6; round++) {
            tapvfs_register(fsnode_listen, from);
            sqlite3 *db = sql_open(fsnode_path(from, NAME), "tap");
            sql_do(db,
                   "PRAGMA journal_mode=%s; PRAGMA cache_size=5;"
                   "CREATE TABLE IF NOT EXISTS t(x, y)",
                   modes[(i + (round > 3)) % 4]);
            for (unsigned n = 0; n < 20; n++, rows++)
                sql_do(db, "INSERT INTO t VALUES(%u, zeroblob(%u))", rows, dice_below(3000));
            if (round % 2) /* an idle client stays */
                sql_close(db);
            fsnode_follow(from);
            fsship(from, to, NAME);
            fsship_wait_applied(to, NAME);
            fsnode_lead(to);
            assert_true(position_equal(ledger_last(fsnode_ledger(from, NAME)),
                                       ledger_last(fsnode_ledger(to, NAME))));
            if (round % 2 == 0) {
                assert_int_equal(sql_int(db, "SELECT count(*) FROM t"), rows);
                assert_true(sql_try(db, "INSERT INTO t VALUES(1, 2)") != SQLITE_OK);
                sql_close(db);
            }
            struct fsnode *next = to;
            to = from;
            from = next;
            struct logcopy copy;
            logcopy_open(&copy);
            assert_same(to, NAME, &copy, "change of roles");
            logcopy_close(&copy);
        }
        end();
    }
}

int main(void)
{
    logger_configure(LOGGER_ERROR, false);
    tapvfs_lock_by_description();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_replica_follows_in_every_journal_mode),
        cmocka_unit_test(a_replica_follows_when_modes_and_page_sizes_change),
        cmocka_unit_test(the_wal_is_written_in_whole_cache_pages),
        cmocka_unit_test(a_wal_index_that_tells_of_frames_that_are_not_there_is_built_anew),
        cmocka_unit_test(a_long_read_stops_nobody),
        cmocka_unit_test(a_record_of_a_size_alone_is_applied_late),
        cmocka_unit_test(a_long_record_is_taken_back_when_the_daemon_ends),
        cmocka_unit_test(a_deleted_database_goes_and_comes_back),
        cmocka_unit_test(roles_may_change),
    };
    if (getenv("TEST_FILTER"))
        cmocka_set_test_filter(getenv("TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
