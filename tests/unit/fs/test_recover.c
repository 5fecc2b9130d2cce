/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "fs/db/catalog_impl.h"
#include "fs/db/database_impl.h"
#include "ltx/base/err.h"
#include "ltx/base/logger.h"
#include "tests/lib/dice.h"
#include "tests/lib/fsnode.h"
#include "tests/lib/logcopy.h"
#include "tests/lib/sql.h"

/* What a start finds, and what it makes of it. */

static char root[SCRATCH_PATH_MAX];
static struct fsnode node;

static int make_folder(void **state)
{
    (void)state;
    scratch_make(root);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    scratch_remove(root);
    return 0;
}

/* In a process that ends without a word: the daemon and its clients at once. */
static void and_die(void (*work)(void))
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        fsnode_open(&node, root, false);
        fsnode_lead(&node);
        tapvfs_register(fsnode_listen, &node);
        work();
        _exit(FSNODE_DIED);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == FSNODE_DIED);
}

static void start(void)
{
    fsnode_open(&node, root, false);
    fsnode_lead(&node);
    tapvfs_register(fsnode_listen, &node);
    fsnode_settle(&node);
}

static void assert_file_is_log(const char *name)
{
    struct logcopy copy;
    size_t size;
    struct ledger_info info;
    ledger_info(fsnode_ledger(&node, name), &info);
    if (info.damaged)
        fail_msg("%s: %s", name, info.damage);
    sqlite3 *db = sql_open(fsnode_path(&node, name), "tap");
    sql_check(db);
    uint8_t *bytes = sql_bytes(db, "main", &size);
    logcopy_open(&copy);
    logcopy_advance(&copy, fsnode_ledger(&node, name));
    assert_true(logcopy_equals(&copy, bytes, size));
    logcopy_close(&copy);
    sqlite3_free(bytes);
    sql_close(db);
}

static int64_t ask(const char *sql)
{
    sqlite3 *db = sql_open(fsnode_path(&node, "app.db"), "tap");
    int64_t value = sql_int(db, "%s", sql);
    sql_close(db);
    return value;
}

/* As after a loss of power: the machine has started anew since. */
static void forget_boot(void)
{
    char path[SCRATCH_PATH_MAX + 8];
    snprintf(path, sizeof path, "%s/boot", root);
    (void)unlink(path);
}

static void shell(const char *command)
{
    char text[512];
    snprintf(text, sizeof text, "cd %s && %s", root, command);
    assert_int_equal(system(text), 0);
}

static void captured_commits_then_changes_without_mark(void)
{
    sqlite3 *db = sql_open(fsnode_path(&node, "app.db"), "tap");
    sql_do(db, "PRAGMA journal_mode=MEMORY; PRAGMA cache_size=5; PRAGMA synchronous=NORMAL;"
               "CREATE TABLE t(a INTEGER PRIMARY KEY, b, n)");
    for (unsigned i = 0; i < 40; i++)
        sql_do(db, "INSERT INTO t(b, n) VALUES(randomblob(2000), 1)");
    sql_do(db, "UPDATE t SET n = 2 WHERE a < 10");
    assert_true(fsnode_txid(&node, "app.db") > 40);
    sql_do(db, "PRAGMA synchronous=OFF; UPDATE t SET n = 3, b = randomblob(3000)");
}

/* The clients saw them, and no journal can undo them. */
static void changes_without_a_mark_survive_the_daemon(void **state)
{
    (void)state;
    and_die(captured_commits_then_changes_without_mark);
    start();
    assert_file_is_log("app.db");
    assert_int_equal(ask("SELECT count(*) FROM t WHERE n = 3"), 40);
    fsnode_close(&node);
}

static void captured_commits_of_a_plain_writer(void)
{
    sqlite3 *db = sql_open(fsnode_path(&node, "app.db"), "tap");
    sql_do(db, "PRAGMA journal_mode=MEMORY; CREATE TABLE t(a INTEGER PRIMARY KEY, b, n)");
    for (unsigned i = 0; i < 40; i++)
        sql_do(db, "INSERT INTO t(b, n) VALUES(randomblob(2000), 1)");
    shell("cp tree/app.db old.db");
    sql_do(db, "UPDATE t SET n = 2");
    for (unsigned i = 0; i < 10; i++)
        sql_do(db, "INSERT INTO t(b, n) VALUES(randomblob(2000), 2)");
}

/* After a loss of power the file may be any older one, but the log is not. */
static void what_was_captured_survives_a_loss_of_power(void **state)
{
    (void)state;
    and_die(captured_commits_of_a_plain_writer);
    forget_boot();
    shell("cp old.db tree/app.db");
    start();
    assert_file_is_log("app.db");
    assert_int_equal(ask("SELECT count(*) FROM t WHERE n = 2"), 50);
    fsnode_close(&node);
}

static void frames_after_a_plain_writer(void)
{
    sqlite3 *db = sql_open(fsnode_path(&node, "app.db"), "tap");
    sql_do(db, "PRAGMA journal_mode=MEMORY; CREATE TABLE t(a INTEGER PRIMARY KEY, b, n)");
    for (unsigned i = 0; i < 20; i++)
        sql_do(db, "INSERT INTO t(b, n) VALUES(randomblob(2000), 1)");
    sql_do(db, "PRAGMA journal_mode=WAL; UPDATE t SET n = 2");
}

static void what_is_only_in_the_wal_is_redone(void **state)
{
    (void)state;
    and_die(frames_after_a_plain_writer);
    start();
    assert_file_is_log("app.db");
    assert_int_equal(ask("SELECT count(*) FROM t WHERE n = 2"), 20);
    fsnode_close(&node);
}

static void remove_database(const char *name)
{
    sqlite3_vfs *tap = sqlite3_vfs_find("tap");
    assert_int_equal(tap->xDelete(tap, fsnode_path(&node, name), 0), SQLITE_OK);
}

static void deleted_and_written_anew(void)
{
    sqlite3 *db = sql_open(fsnode_path(&node, "app.db"), "tap");
    sql_do(db, "CREATE TABLE t(a); INSERT INTO t VALUES(1)");
    sql_close(db);
    fsnode_settle(&node);
    remove_database("app.db");
    db = sql_open(fsnode_path(&node, "app.db"), "tap");
    sql_do(db, "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; CREATE TABLE t(a);"
               "INSERT INTO t VALUES(7)");
}

static void modes_of_two_databases(void)
{
    sqlite3 *wal = sql_open(fsnode_path(&node, "app.db"), "tap");
    sql_do(wal, "PRAGMA journal_mode=WAL; CREATE TABLE t(a); INSERT INTO t VALUES(1)");
    sqlite3 *rollback = sql_open(fsnode_path(&node, "old.db"), "tap");
    sql_do(rollback, "CREATE TABLE t(a)");
    assert_int_equal(chmod(fsnode_path(&node, "app.db"), 0640), 0);
}

/* The first clients may be there before the role is: a replica lets them create no -wal. */
static void a_client_finds_a_wal_after_the_start(void **state)
{
    (void)state;
    struct stat st;
    and_die(modes_of_two_databases);
    fsnode_open(&node, root, false);
    assert_int_equal(stat(fsnode_path(&node, "app.db-wal"), &st), 0);
    assert_int_equal(st.st_size, 0);
    assert_int_equal(st.st_mode & 0777, 0640);
    assert_int_not_equal(stat(fsnode_path(&node, "old.db-wal"), &st), 0);
    fsnode_close(&node);
}

static void a_new_file_in_the_place_of_a_deleted_one_is_kept(void **state)
{
    (void)state;
    and_die(deleted_and_written_anew);
    start();
    assert_file_is_log("app.db");
    assert_int_equal(ask("SELECT a FROM t"), 7);
    fsnode_close(&node);
}

static void deleted_only(void)
{
    sqlite3 *db = sql_open(fsnode_path(&node, "app.db"), "tap");
    sql_do(db, "CREATE TABLE t(a); INSERT INTO t VALUES(1)");
    sql_close(db);
    fsnode_settle(&node);
    shell("cp tree/app.db old.db");
    remove_database("app.db");
}

/* A removal that had not reached the disk. */
static void a_deleted_file_that_is_back_goes_again(void **state)
{
    (void)state;
    and_die(deleted_only);
    forget_boot();
    shell("cp old.db tree/app.db");
    start();
    assert_int_equal(access(fsnode_path(&node, "app.db"), F_OK), -1);
    fsnode_close(&node);
}

/* An encrypted file has taken the place of a database: recorded as deleted, and there. */
static void a_file_that_is_no_database_any_more_stays(void **state)
{
    (void)state;
    and_die(deleted_only);
    forget_boot();
    shell("head -c 20000 /dev/urandom > tree/app.db && cp tree/app.db old.db");
    shell("head -c 9000 /dev/urandom > tree/app.db-wal && cp tree/app.db-wal old.db-wal");
    start();
    shell("cmp old.db tree/app.db && cmp old.db-wal tree/app.db-wal");
    fsnode_close(&node);
    start();
    shell("cmp old.db tree/app.db && cmp old.db-wal tree/app.db-wal");
    fsnode_close(&node);
}

/* By something that is not SQLite; and S has not got there. */
static void written_over_with_zeros(void)
{
    sqlite3 *client = sql_open(fsnode_path(&node, "app.db"), "tap");
    sql_do(client, "CREATE TABLE t(a); INSERT INTO t VALUES(1)");
    sql_close(client);
    fsnode_settle(&node);
    struct database *db = catalog_get(node.catalog, "app.db");
    assert_int_equal(database_before_write(db, FILE_MAIN, false, 0, 8192), 0);
    shell("truncate -s 0 tree/app.db && truncate -s 8192 tree/app.db");
    assert_int_equal(database_after_write(db, FILE_MAIN, false, 0, 8192), 0);
    db->dirty.last_write = (struct mono){0}; /* a long time ago */
    db->checkpointed = mono_now();
    settle(db);
    catalog_put(db);
}

/* It is recorded as deleted, and looks like what a loss of power leaves of a file that was removed. */
static void a_file_that_was_written_over_with_zeros_stays(void **state)
{
    (void)state;
    and_die(written_over_with_zeros);
    start();
    shell("test $(stat -c %s tree/app.db) = 8192");
    fsnode_close(&node);
}

static void many_rows(void)
{
    sqlite3 *db = sql_open(fsnode_path(&node, "app.db"), "tap");
    sql_do(db, "PRAGMA journal_mode=%s; CREATE TABLE t(a INTEGER PRIMARY KEY, b)",
           dice_below(2) ? "WAL" : "DELETE");
    for (unsigned i = 0; i < 30; i++)
        sql_do(db, "INSERT INTO t(b) VALUES(randomblob(2000))");
}

/* Whatever a loss of power has made of the file, as long as the log has all of it. */
static void the_file_is_made_anew_from_the_log(void **state)
{
    (void)state;
    static const char *const damage[] = {
        "rm tree/app.db", ": > tree/app.db", "truncate -s 5000 tree/app.db",
        "truncate -s +20000 tree/app.db",
        "dd if=/dev/zero of=tree/app.db bs=9k count=2 conv=notrunc status=none"};
    for (unsigned i = 0; i < sizeof damage / sizeof *damage; i++) {
        make_folder(NULL);
        and_die(many_rows);
        forget_boot();
        shell(damage[i]);
        start();
        assert_file_is_log("app.db");
        assert_int_equal(ask("SELECT count(*) FROM t"), 30);
        fsnode_close(&node);
        remove_folder(NULL);
    }
}

static void nothing(void)
{
}

static void a_database_that_was_put_there_is_taken_in(void **state)
{
    (void)state;
    and_die(nothing);
    sqlite3 *db;
    char path[SCRATCH_PATH_MAX + 16];
    snprintf(path, sizeof path, "%s/tree/app.db", root);
    db = sql_open(path, NULL);
    sql_do(db, "CREATE TABLE t(a); INSERT INTO t VALUES(5)");
    sql_close(db);
    shell("echo hello > tree/notes.txt; mkdir tree/sub; cp tree/app.db tree/sub/b.db");
    start();
    assert_file_is_log("app.db");
    assert_file_is_log("sub/b.db");
    assert_int_equal(ask("SELECT a FROM t"), 5);
    assert_null(fsnode_ledger(&node, "notes.txt"));
    assert_int_equal(catalog_plain_files(node.catalog), 1);
    fsnode_close(&node);
}

static void a_start_may_be_repeated(void **state)
{
    (void)state;
    and_die(many_rows);
    for (unsigned i = 0; i < 3; i++)
        and_die(nothing);
    start();
    assert_file_is_log("app.db");
    assert_int_equal(ask("SELECT count(*) FROM t"), 30);
    fsnode_close(&node);
}

#define in_folder(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void)
{
    logger_configure(LOGGER_ERROR, false);
    tapvfs_lock_by_description();
    (void)dice_u64(); /* one seed for all processes */
    const struct CMUnitTest tests[] = {
        in_folder(changes_without_a_mark_survive_the_daemon),
        in_folder(what_was_captured_survives_a_loss_of_power),
        in_folder(what_is_only_in_the_wal_is_redone),
        in_folder(a_client_finds_a_wal_after_the_start),
        in_folder(a_new_file_in_the_place_of_a_deleted_one_is_kept),
        in_folder(a_deleted_file_that_is_back_goes_again),
        in_folder(a_file_that_is_no_database_any_more_stays),
        in_folder(a_file_that_was_written_over_with_zeros_stays),
        cmocka_unit_test(the_file_is_made_anew_from_the_log),
        in_folder(a_database_that_was_put_there_is_taken_in),
        in_folder(a_start_may_be_repeated),
    };
    if (getenv("TEST_FILTER"))
        cmocka_set_test_filter(getenv("TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
