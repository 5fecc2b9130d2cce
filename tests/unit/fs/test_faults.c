/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "ltx/base/logger.h"
#include "tests/lib/dice.h"
#include "tests/lib/fault.h"
#include "tests/lib/folder.h"
#include "tests/lib/fsnode.h"
#include "tests/lib/nodecheck.h"
#include "tests/lib/sql.h"

/*
 * Every call that the daemon makes on its files, for itself or for a client, fails once, in each operation
 * that writes, each journal mode, and with each errno that it may have. The client gets an error, or all
 * is well; what it was told is true; nothing that could be seen is lost; the node goes on, or says that
 * this log has to be opened again; and the next start finds files and log in agreement.
 *
 * Of one call in STEP one way to fail is tried, and each run begins at another call; with TANDEMFS_FULL set, all
 * ways of all calls. TEST_FAULT=kind:n, with TEST_SCENE as printed: that one alone.
 */

static const char *const names[] = {"app.db", "b.db", "sub/c.db", NULL};

static char root[SCRATCH_PATH_MAX];
static struct fsnode node;
static sqlite3 *db; /* a client that stays */
static const char *mode;

/* One operation. */
struct scene {
    const char *name;
    void (*prepare)(void); /* after app.db has been made */
    int (*run)(void);      /* 0: the client was told that it is done */
};

/* Without a journal on disk SQLite leaves a broken database behind when a write of it fails: then the log
 * has what the file has. */
static bool guarded(void)
{
    return strcmp(mode, "MEMORY") != 0;
}

/* ---- scenes ---- */

static void set_mode(sqlite3 *client)
{
    sql_do(client,
           "PRAGMA page_size=512; PRAGMA journal_mode=%s; PRAGMA synchronous=FULL;"
           "PRAGMA temp_store=MEMORY; PRAGMA cache_size=8; PRAGMA wal_autocheckpoint=0",
           mode);
}

static void make(void)
{
    db = sql_open(fsnode_path(&node, "app.db"), "tap");
    set_mode(db);
    sql_do(db, "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB, k INTEGER);"
               "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30)"
               "INSERT INTO t SELECT i, zeroblob(100 + i * 20), i FROM n");
}

static void make_other(const char *name)
{
    sqlite3 *client = sql_open(fsnode_path(&node, name), "tap");
    set_mode(client);
    sql_do(client, "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB, k INTEGER);"
                   "INSERT INTO t VALUES(1, zeroblob(2000), 7), (2, zeroblob(900), 8)");
    sql_close(client);
    fsnode_settle(&node);
}

static void nothing(void)
{
}

static int end_transaction(int rc)
{
    if (rc != SQLITE_OK && !sqlite3_get_autocommit(db))
        (void)sql_try(db, "ROLLBACK");
    return rc;
}

static int commit(void)
{
    return end_transaction(sql_try(db, "INSERT INTO t VALUES(100, zeroblob(700), 100)"));
}

static int commit_much(void)
{
    return end_transaction(sql_try(db,
                                   "BEGIN; UPDATE t SET k = k + 1, b = zeroblob(length(b) + 100);"
                                   "SAVEPOINT s; DELETE FROM t WHERE a > 3; ROLLBACK TO s;"
                                   "INSERT INTO t VALUES(100, zeroblob(9000), 100); COMMIT"));
}

static int roll_back(void)
{
    (void)end_transaction(
        sql_try(db, "BEGIN; UPDATE t SET k = k + 1, b = zeroblob(length(b) + 100); ROLLBACK"));
    return 1; /* whether it could write or not: nothing has changed */
}

static void much_in_wal(void)
{
    sql_do(db, "UPDATE t SET k = k + 1; DELETE FROM t WHERE a < 5");
}

static int checkpoint(void)
{
    return sql_try(db, "PRAGMA wal_checkpoint(TRUNCATE)");
}

static int vacuum(void)
{
    return end_transaction(sql_try(db, "VACUUM"));
}

static void holes(void)
{
    sql_do(db, "DELETE FROM t WHERE a > 10");
}

static int change_mode(void)
{
    return sql_try(db, "PRAGMA journal_mode=%s", strcmp(mode, "WAL") ? "WAL" : "DELETE");
}

static int create(void)
{
    sqlite3 *client;
    int rc = sqlite3_open_v2(fsnode_path(&node, "b.db"), &client,
                             SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, "tap");
    if (rc == SQLITE_OK)
        rc = sql_try(client,
                     "PRAGMA page_size=512; PRAGMA journal_mode=%s;"
                     "PRAGMA synchronous=FULL; CREATE TABLE t(a, b, k)",
                     mode);
    sqlite3_close(client);
    return rc;
}

static void others(void)
{
    assert_int_equal(fsnode_mkdir(&node, "sub"), 0);
    make_other("b.db");
    make_other("sub/c.db");
    sqlite3 *client = sql_open(fsnode_path(&node, "sub/c.db"), "tap");
    sql_do(client, "UPDATE t SET k = 77");
    sql_close(client);
}

static int remove_one(void)
{
    return fsnode_unlink(&node, "b.db");
}

static void one_other(void)
{
    assert_int_equal(fsnode_mkdir(&node, "sub"), 0);
    make_other("b.db");
}

static void attach_other(void)
{
    make_other("b.db");
    sql_do(db, "ATTACH '%s' AS b; PRAGMA b.journal_mode=%s; PRAGMA b.cache_size=8",
           fsnode_path(&node, "b.db"), mode);
}

static int commit_in_both(void)
{
    return end_transaction(sql_try(
        db, "BEGIN; UPDATE main.t SET k = k + 1, b = zeroblob(length(b) + 100);"
            "INSERT INTO b.t VALUES(3, zeroblob(5000), 9); DELETE FROM b.t WHERE a = 1; COMMIT"));
}

static int rename_one(void)
{
    return fsnode_rename(&node, "b.db", "sub/c.db");
}

static int settle_now(void)
{
    fsnode_settle(&node);
    return 1; /* nobody was told anything */
}

static int maintain(void)
{
    fsnode_maintain(&node, &(struct txlog_retention){.size_bytes = 3000});
    return 1;
}

static void history(void)
{
    for (unsigned i = 0; i < 12; i++)
        sql_do(db, "UPDATE t SET k = k + 1");
    sql_close(db); /* so that nothing is in the -wal alone */
    fsnode_settle(&node);
    db = sql_open(fsnode_path(&node, "app.db"), "tap");
}

static int close_last(void)
{
    int rc = sqlite3_close(db);
    db = NULL;
    return rc;
}

static const struct scene scenes[] = {
    {"a commit", nothing, commit},
    {"a large commit", nothing, commit_much},
    {"a rollback", nothing, roll_back},
    {"a checkpoint", much_in_wal, checkpoint},
    {"VACUUM", holes, vacuum},
    {"a change of mode", much_in_wal, change_mode},
    {"a new database", nothing, create},
    {"a removal", others, remove_one},
    {"a transaction over two databases", attach_other, commit_in_both},
    {"a rename", one_other, rename_one},
    {"a rename over another one", others, rename_one},
    {"the settler", much_in_wal, settle_now},
    {"compaction and retention", history, maintain},
    {"closing", much_in_wal, close_last},
};

/* ---- sweeps ---- */

static void begin(const struct scene *s)
{
    scratch_make(root);
    fsnode_segment_bytes(3000);
    fsnode_open(&node, root, false);
    fsnode_lead(&node);
    tapvfs_register(fsnode_listen, &node);
    make();
    s->prepare();
}

static void close_client(void)
{
    if (db)
        sql_close(db);
    db = NULL;
}

/* An orderly end and a new start, or a kill and one. */
static void restart(bool kill)
{
    char copy_root[SCRATCH_PATH_MAX] = "";
    if (kill) {
        struct folder from = {.fd = node.data_dirfd}, copy;
        folder_copy(&copy, &from);
        snprintf(copy_root, sizeof copy_root, "%s", copy.path);
        close(copy.fd);
    }
    close_client();
    fsnode_close(&node);
    if (kill) {
        scratch_remove(root);
        snprintf(root, sizeof root, "%s", copy_root);
    }
    fsnode_open(&node, root, false);
    fsnode_lead(&node);
    tapvfs_register(fsnode_listen, &node);
    fsnode_settle(&node);
}

static bool equal(const char *a, const char *b)
{
    return strcmp(a, b) == 0;
}

static unsigned done, refused, stopped;

/* The n-th call fails so. False: there are not so many. */
static bool try_one(const struct scene *s, enum fault kind, int n, const char *before,
                    const char *after)
{
    begin(s);
    fault_arm_kind(n, kind);
    snprintf(nodecheck_what, sizeof nodecheck_what, "TEST_SCENE='%s, %s' TEST_FAULT=%d:%d", s->name,
             mode, (int)kind, n);
    int rc = s->run();
    bool fired = fault_disarm();
    snprintf(nodecheck_what, sizeof nodecheck_what,
             "TEST_SCENE='%s, %s' TEST_FAULT=%d:%d (%s in the %s)", s->name, mode, (int)kind, n,
             fault_name(kind), fault_what());
    bool failed = nodecheck_log_has_failed(&node);
    /* Half a transaction that nothing has rolled back is not captured before the next commit. */
    bool half = !guarded() && rc != 0;
    if (!failed && !half)
        nodecheck_file_is_log(&node, names, "then");
    char *seen = nodecheck_content(&node, names);
    if (rc == 0 && !equal(seen, after))
        fail_msg("%s: said to be done, but there is\n%s", nodecheck_what, seen);
    if (guarded() && !equal(seen, before) && !equal(seen, after))
        fail_msg("%s: neither done nor undone, there is\n%s", nodecheck_what, seen);
    bool broken = equal(seen, NODECHECK_BROKEN);
    if (!failed && !broken)
        nodecheck_can_write(&node, names[0], "then");
    restart(n % 2);
    if (!half)
        nodecheck_file_is_log(&node, names, "after a new start");
    char *found = nodecheck_content(&node, names);
    /* What could be seen stays. What failed in a log that has failed may have been in it. */
    if (!equal(found, seen) && !(failed && equal(found, after) && rc != 0))
        fail_msg("%s: there was\n%s and after a new start there is\n%s", nodecheck_what, seen,
                 found);
    if (!broken)
        nodecheck_can_write(&node, names[0], "after a new start");
    if (!broken)
        nodecheck_file_is_log(&node, names, "in the end");
    done += rc == 0;
    refused += rc != 0;
    stopped += failed;
    free(seen);
    free(found);
    fsnode_close(&node);
    scratch_remove(root);
    return fired;
}

#define STEP 7 /* of the calls, how many a quick run passes over; each run begins at another one */

static void both_sides(const struct scene *s, char **before, char **after)
{
    begin(s);
    fsnode_settle(&node);
    *before = nodecheck_content(&node, names);
    int rc = s->run();
    assert_true(rc == 0 || rc == 1);
    fsnode_settle(&node);
    *after = nodecheck_content(&node, names);
    close_client();
    fsnode_close(&node);
    scratch_remove(root);
}

static unsigned sweep_kind(const struct scene *s, enum fault only, const char *before,
                           const char *after)
{
    bool full = only != FAULT_COUNT;
    int step = full ? 1 : STEP * (int)dice_share(), n = full ? 0 : (int)dice_below((uint32_t)step);
    unsigned past = 0; /* kinds in a row that had no n-th call */
    for (; past < (full ? 1 : FAULT_COUNT); n += step) {
        enum fault kind = full ? only : (enum fault)(FAULT_EIO + n % (FAULT_COUNT - FAULT_EIO));
        past = try_one(s, kind, n, before, after) ? 0 : past + 1;
    }
    return (unsigned)(n / step);
}

static void sweep(const struct scene *s)
{
    char name[100], *before, *after;
    unsigned calls = 0;
    snprintf(name, sizeof name, "%s, %s", s->name, mode);
    if (getenv("TEST_SCENE") && strcmp(getenv("TEST_SCENE"), name) != 0)
        return;
    both_sides(s, &before, &after);
    done = refused = stopped = 0;
    if (getenv("TEST_FAULT")) {
        int kind, n;
        assert_int_equal(sscanf(getenv("TEST_FAULT"), "%d:%d", &kind, &n), 2);
        try_one(s, (enum fault)kind, n, before, after);
    } else if (getenv("TANDEMFS_FULL")) {
        for (enum fault kind = FAULT_EIO; kind < FAULT_COUNT; kind++)
            calls += sweep_kind(s, kind, before, after);
    } else {
        calls = sweep_kind(s, FAULT_COUNT, before, after);
    }
    print_message("%s: %u faults: %u done, %u refused, in %u the log had to be opened again\n",
                  name, calls, done, refused, stopped);
    free(before);
    free(after);
}

static void sweep_all(const char *journal_mode)
{
    mode = journal_mode;
    bool tied = guarded() && strcmp(mode, "WAL") != 0; /* journals tie databases together */
    for (size_t i = 0; i < sizeof scenes / sizeof *scenes; i++)
        if (scenes[i].run != commit_in_both || tied)
            sweep(&scenes[i]);
}

static void each_call_fails_once_in_delete_mode(void **state)
{
    (void)state;
    sweep_all("DELETE");
}

static void each_call_fails_once_in_truncate_mode(void **state)
{
    (void)state;
    sweep_all("TRUNCATE");
}

static void each_call_fails_once_in_persist_mode(void **state)
{
    (void)state;
    sweep_all("PERSIST");
}

static void each_call_fails_once_in_wal_mode(void **state)
{
    (void)state;
    sweep_all("WAL");
}

static void each_call_fails_once_without_a_journal_on_disk(void **state)
{
    (void)state;
    sweep_all("MEMORY");
}

/* Of a test that ends the program there is no more to say than this. */
static void say(int signal)
{
    (void)signal;
    if (write(STDERR_FILENO, nodecheck_what, strlen(nodecheck_what)) < 0)
        _exit(1);
}

int main(void)
{
    signal(SIGABRT, say);
    logger_configure(getenv("TEST_FAULT") ? LOGGER_DEBUG : LOGGER_ERROR + 1, false);
    tapvfs_lock_by_description();
    tapvfs_use_file_ops();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_call_fails_once_in_delete_mode),
        cmocka_unit_test(each_call_fails_once_in_truncate_mode),
        cmocka_unit_test(each_call_fails_once_in_persist_mode),
        cmocka_unit_test(each_call_fails_once_in_wal_mode),
        cmocka_unit_test(each_call_fails_once_without_a_journal_on_disk),
    };
    if (getenv("TEST_FILTER"))
        cmocka_set_test_filter(getenv("TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
