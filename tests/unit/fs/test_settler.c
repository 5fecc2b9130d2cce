/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
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
#include "tests/lib/logcopy.h"
#include "tests/lib/sql.h"
#include "tests/lib/sqlwork.h"

/*
 * What no call of a client ends is captured all the same: with all threads of the node running, as
 * they do in the daemon.
 */

#define LIMIT_MS 20000

static char root[SCRATCH_PATH_MAX];
static struct fsnode node;

static int begin(void **state)
{
    (void)state;
    scratch_make(root);
    fsnode_open(&node, root, true);
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

static uint8_t *read_file(const char *path, size_t *size)
{
    int64_t n;
    int fd;
    assert_int_equal(file_open(AT_FDCWD, path, O_RDONLY, 0, &fd), 0);
    assert_int_equal(file_size(fd, &n), 0);
    uint8_t *bytes = malloc((size_t)n + 1);
    assert_int_equal(file_read(fd, bytes, (size_t)n, 0), 0);
    file_close(fd);
    *size = (size_t)n;
    return bytes;
}

/* Until the log says what the file holds. */
static void wait_captured(const char *name, struct logcopy *copy)
{
    struct feed *feed = &store_feeds(node.store)->published;
    struct mono start = mono_now();
    size_t size;
    uint8_t *bytes = read_file(fsnode_path(&node, name), &size);
    uint64_t want = checksum_update(0, bytes, size);
    free(bytes);
    for (;;) {
        uint64_t seen = feed_count(feed);
        logcopy_advance(copy, fsnode_ledger(&node, name));
        if (logcopy_digest(copy) == want)
            return;
        if (mono_since_ms(start) > LIMIT_MS)
            fail_msg("%s: the log has not got to what the file holds", name);
        feed_wait(feed, seen, 100);
    }
}

static void nothing_marks_the_end(void **state)
{
    (void)state;
    static const char *const modes[] = {"MEMORY", "OFF"};
    for (unsigned i = 0; i < 2; i++) {
        struct sqlwork w = {.journal_mode = modes[i],
                            .page_size = 1024,
                            .synchronous = "OFF",
                            .no_rollback = true,
                            .dice = dice_u64()};
        struct logcopy copy;
        char name[16];
        snprintf(name, sizeof name, "%u.db", i);
        logcopy_open(&copy);
        w.db = sql_open(fsnode_path(&node, name), "tap");
        sqlwork_begin(&w);
        for (unsigned n = 0; n < 15; n++) {
            assert_int_equal(sqlwork_step(&w), SQLITE_OK);
            wait_captured(name, &copy);
        }
        sql_close(w.db);
        logcopy_close(&copy);
    }
}

/* As cp does it, through the calls of the adapter. */
static void copy_in(const char *from, const char *name, size_t piece)
{
    size_t size;
    uint8_t *bytes = read_file(from, &size);
    int fd = open(fsnode_path(&node, name), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    struct database *db = catalog_get(node.catalog, name);
    assert_true(fd >= 0 && db);
    assert_int_equal(database_may_open(db, FILE_MAIN, O_WRONLY | O_CREAT | O_TRUNC, false), 0);
    unsigned file = database_opened(db, FILE_MAIN, false);
    assert_int_equal(database_before_truncate(db, FILE_MAIN, false, 0), 0);
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(database_after_truncate(db, FILE_MAIN, false, 0), 0);
    for (size_t off = 0; off < size; off += piece) {
        size_t n = size - off < piece ? size - off : piece;
        assert_int_equal(database_before_write(db, FILE_MAIN, false, (int64_t)off, n), 0);
        assert_int_equal(pwrite(fd, bytes + off, n, (off_t)off), n);
        assert_int_equal(database_after_write(db, FILE_MAIN, false, (int64_t)off, n), 0);
    }
    assert_int_equal(database_flushed(db, FILE_MAIN, file, false), 0);
    database_released(db, FILE_MAIN, file, false);
    catalog_put(db);
    close(fd);
    free(bytes);
}

static void a_copied_file_is_captured_when_it_is_closed(void **state)
{
    (void)state;
    char outside[SCRATCH_PATH_MAX + 16];
    struct logcopy copy;
    logcopy_open(&copy);
    snprintf(outside, sizeof outside, "%s/outside.db", root);
    static const uint32_t page_size[] = {1024, 1024, 4096, 512};
    for (unsigned i = 0; i < 4; i++) {
        size_t size;
        unlink(outside);
        sqlite3 *db = sql_open(outside, NULL);
        sql_do(db, "PRAGMA page_size=%u; CREATE TABLE t(x); INSERT INTO t VALUES(randomblob(%u))",
               page_size[i], 100000 - i * 30000);
        sql_close(db);
        copy_in(outside, "app.db", i % 2 ? 131072 : 5000);
        assert_int_equal(logcopy_advance(&copy, fsnode_ledger(&node, "app.db")), 1);
        uint8_t *bytes = read_file(outside, &size);
        assert_true(logcopy_equals(&copy, bytes, size));
        free(bytes);
    }
    logcopy_close(&copy);
}

static void what_is_no_database_is_left_alone(void **state)
{
    (void)state;
    char outside[SCRATCH_PATH_MAX + 16];
    uint8_t bytes[3000];
    snprintf(outside, sizeof outside, "%s/outside.txt", root);
    dice_fill(bytes, sizeof bytes);
    int fd = open(outside, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, bytes, sizeof bytes), sizeof bytes);
    close(fd);
    copy_in(outside, "notes.txt", 1000);
    assert_null(fsnode_ledger(&node, "notes.txt"));
    assert_int_equal(catalog_plain_files(node.catalog), 1);
    assert_string_equal(catalog_journal_mode(node.catalog, "notes.txt"), "");
}

/* A reader that closes in the middle of a transaction without a journal is no end of it. */
static void somebody_elses_close_ends_no_transaction(void **state)
{
    (void)state;
    struct logcopy copy;
    logcopy_open(&copy);
    sqlite3 *db = sql_open(fsnode_path(&node, "app.db"), "tap");
    sql_do(db, "PRAGMA journal_mode=MEMORY; PRAGMA synchronous=OFF; PRAGMA cache_size=2;"
               "CREATE TABLE t(a INTEGER PRIMARY KEY, b); BEGIN");
    for (unsigned i = 0; i < 100; i++)
        sql_do(db, "INSERT INTO t(b) VALUES(zeroblob(1000))");
    sql_do(db, "COMMIT");
    wait_captured("app.db", &copy);
    uint64_t txid = fsnode_txid(&node, "app.db");
    sqlite3 *reader;
    assert_int_equal(
        sqlite3_open_v2(fsnode_path(&node, "app.db"), &reader, SQLITE_OPEN_READONLY, "tap"),
        SQLITE_OK);
    assert_int_equal(sql_int(reader, "SELECT count(*) FROM t"), 100);
    sql_do(db, "BEGIN; UPDATE t SET b = randomblob(1000)"); /* written in part */
    sql_close(reader);
    usleep(100 * 1000); /* several pauses of the settler, who must not get in */
    assert_true(fsnode_txid(&node, "app.db") == txid);
    sql_do(db, "COMMIT");
    wait_captured("app.db", &copy);
    assert_true(fsnode_txid(&node, "app.db") == txid + 1);
    sql_close(db);
    logcopy_close(&copy);
}

struct worker {
    pthread_t thread;
    unsigned number;
    uint64_t dice;
    int rc;
};

static void *work(void *arg)
{
    static const char *const modes[] = {"WAL", "DELETE", "PERSIST", "TRUNCATE"};
    struct worker *me = arg;
    struct sqlwork w = {.journal_mode = modes[me->number % 4],
                        .page_size = 512u << me->number % 3,
                        .dice = me->dice};
    char path[SCRATCH_PATH_MAX + 32];
    snprintf(path, sizeof path, "%s/%u.db", node.tree, me->number);
    w.db = sql_open(path, "tap");
    sqlwork_begin(&w);
    for (unsigned i = 0; i < 25 && me->rc == SQLITE_OK; i++)
        me->rc = sqlwork_step(&w);
    sql_close(w.db);
    return NULL;
}

static atomic_bool enough;

/* As a primary reads for a replica that is brought up. */
static void *read_pages(void *arg)
{
    struct page_reader reader = store_page_reader(node.store);
    uint8_t *page = malloc(LTX_MAX_PAGE_SIZE);
    uint32_t page_size, pgno = 0;
    (void)arg;
    while (!atomic_load(&enough))
        for (uint32_t i = 0; i < store_count(node.store); i++) {
            int err =
                reader.read(reader.ctx, store_at(node.store, i), pgno++ % 60, page, &page_size);
            if (err && err != -ERR_BUSY && err != -ERR_NOTFOUND)
                abort();
        }
    free(page);
    return NULL;
}

static void many_work_at_once(void **state)
{
    (void)state;
    enum { WORKERS = 6 };
    struct worker workers[WORKERS] = {0};
    pthread_t reader;
    atomic_store(&enough, false);
    assert_int_equal(pthread_create(&reader, NULL, read_pages, NULL), 0);
    for (unsigned i = 0; i < WORKERS; i++) {
        workers[i].number = i;
        workers[i].dice = dice_u64();
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < WORKERS; i++) {
        pthread_join(workers[i].thread, NULL);
        assert_int_equal(workers[i].rc, SQLITE_OK);
    }
    atomic_store(&enough, true);
    pthread_join(reader, NULL);
    for (unsigned i = 0; i < WORKERS; i++) {
        struct logcopy copy;
        char name[16];
        snprintf(name, sizeof name, "%u.db", i);
        logcopy_open(&copy);
        wait_captured(name, &copy);
        logcopy_close(&copy);
    }
}

/* After an orderly end nothing has to be redone, and what was there is there. */
static void an_orderly_end_leaves_nothing_to_redo(void **state)
{
    (void)state;
    sqlite3 *db = sql_open(fsnode_path(&node, "app.db"), "tap");
    sql_do(db, "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES(zeroblob(50000))");
    sql_close(db);
    struct position last = ledger_last(fsnode_ledger(&node, "app.db"));
    fsnode_close(&node);
    fsnode_open(&node, root, true);
    struct ledger_info info;
    ledger_info(fsnode_ledger(&node, "app.db"), &info);
    assert_true(position_equal(info.recovery, last));
    assert_true(position_equal(info.last, last));
    assert_false(info.damaged);
}

/* Somebody has unmounted it, and a connection is still open: the daemon finds nothing at the mount point. */
static void a_mount_that_is_gone_takes_no_database_along(void **state)
{
    (void)state;
    struct ledger_info info;
    scratch_make(root);
    fsnode_mounted_at("/nowhere");
    fsnode_open(&node, root, false);
    fsnode_lead(&node);
    tapvfs_register(fsnode_listen, &node);
    sqlite3 *db = sql_open(fsnode_path(&node, "app.db"), "tap");
    sql_do(db, "CREATE TABLE t(x); PRAGMA synchronous=OFF; PRAGMA journal_mode=OFF; INSERT INTO t "
               "VALUES(1)");
    fsnode_settle(&node);
    ledger_info(fsnode_ledger(&node, "app.db"), &info);
    assert_true(info.commit > 0);
    sql_close(db);
    fsnode_close(&node);
    scratch_remove(root);

    fsnode_mounted_at(NULL);
}

/* It had changes without a record when it was the primary, and has been put right since. */
static void a_replica_is_called_clean_again(void **state)
{
    (void)state;
    scratch_make(root);
    fsnode_open(&node, root, false);
    fsnode_lead(&node);
    tapvfs_register(fsnode_listen, &node);
    sqlite3 *db = sql_open(fsnode_path(&node, "app.db"), "tap");
    sql_do(db, "CREATE TABLE t(x)");
    sql_close(db);
    fsnode_settle(&node);
    fsnode_follow(&node);
    struct ledger *l = fsnode_ledger(&node, "app.db");
    assert_int_equal(ledger_set_unclean(l, true), 0);
    fsnode_settle(&node);
    assert_false(ledger_is_unclean(l));
    assert_int_equal(ledger_set_unclean(l, true), 0);
    ledger_set_damaged(l, "until it is fetched");
    fsnode_settle(&node);
    assert_true(ledger_is_unclean(l));
    fsnode_close(&node);
    scratch_remove(root);
}

#define with_node(test) cmocka_unit_test_setup_teardown(test, begin, end)

int main(void)
{
    logger_configure(LOGGER_ERROR, false);
    tapvfs_lock_by_description();
    const struct CMUnitTest tests[] = {
        with_node(nothing_marks_the_end),
        with_node(a_copied_file_is_captured_when_it_is_closed),
        with_node(what_is_no_database_is_left_alone),
        with_node(somebody_elses_close_ends_no_transaction),
        with_node(many_work_at_once),
        with_node(an_orderly_end_leaves_nothing_to_redo),
        cmocka_unit_test(a_mount_that_is_gone_takes_no_database_along),
        cmocka_unit_test(a_replica_is_called_clean_again),
    };
    if (getenv("TEST_FILTER"))
        cmocka_set_test_filter(getenv("TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
