/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "fs/db/database_impl.h"
#include "fs/db/replica.h"
#include "ltx/base/err.h"
#include "ltx/base/logger.h"
#include "tests/lib/dice.h"
#include "tests/lib/fault.h"
#include "tests/lib/folder.h"
#include "tests/lib/nodecheck.h"
#include "tests/lib/powerloss.h"
#include "tests/lib/sql.h"

/*
 * Every call on the files fails once while a node starts on what a killed one has left, and while a replica
 * takes and applies records. A start may fail, or leave a database alone; the next one finds all of it. A
 * replica goes on when the trouble is over.
 *
 * Of one call in STEP one way to fail is tried, and each run begins at another call; with TANDEMFS_FULL set,
 * all ways of all calls. TEST_FAULT=kind:n and TEST_SCENE as printed: that one alone.
 */
#define STEP 3

static const char *const names[] = {"app.db", "b.db", NULL};
static const char *const modes[] = {"DELETE", "TRUNCATE", "PERSIST", "WAL"};
static char root[SCRATCH_PATH_MAX];
static struct fsnode node;

static void set_mode(sqlite3 *db, const char *mode)
{
    sql_do(db,
           "PRAGMA page_size=512; PRAGMA journal_mode=%s; PRAGMA synchronous=FULL;"
           "PRAGMA temp_store=MEMORY; PRAGMA cache_size=8; PRAGMA wal_autocheckpoint=0",
           mode);
}

static void fill(sqlite3 *db)
{
    sql_do(db, "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB, k INTEGER);"
               "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30)"
               "INSERT INTO t SELECT i, zeroblob(100 + i * 20), i FROM n");
}

static void begin(const char *where)
{
    fsnode_segment_bytes(3000);
    fsnode_open(&node, where, false);
    fsnode_lead(&node);
    tapvfs_register(fsnode_listen, &node);
}

/* One way to fail after the other; false: there is none left. */
struct sweep {
    const char *scene, *mode;
    int n;
    enum fault kind;
    unsigned past, faults;
};

static bool next_fault(struct sweep *s, bool fired)
{
    bool all = getenv("TANDEMFS_FULL") != NULL;
    s->past = fired ? 0 : s->past + 1;
    s->faults += fired;
    if (getenv("TEST_FAULT"))
        return false;
    if (all && !fired) {
        s->n = 0;
        return ++s->kind < FAULT_COUNT;
    }
    s->n += all ? 1 : STEP * (int)dice_share();
    if (!all)
        s->kind = (enum fault)(FAULT_EIO + s->n % (FAULT_COUNT - FAULT_EIO));
    return all || s->past < FAULT_COUNT;
}

/* False: another one is wanted. */
static bool begin_sweep(struct sweep *s, const char *scene, const char *mode)
{
    char name[100];
    *s = (struct sweep){.scene = scene, .mode = mode, .kind = FAULT_EIO};
    snprintf(name, sizeof name, "%s, %s", scene, mode);
    if (getenv("TEST_SCENE") && strcmp(getenv("TEST_SCENE"), name) != 0)
        return false;
    if (!getenv("TANDEMFS_FULL"))
        s->n = (int)dice_below(STEP * dice_share());
    if (getenv("TEST_FAULT")) {
        int kind;
        assert_int_equal(sscanf(getenv("TEST_FAULT"), "%d:%d", &kind, &s->n), 2);
        s->kind = (enum fault)kind;
    }
    return true;
}

static void arm(const struct sweep *s)
{
    fault_arm_kind(s->n, s->kind);
    snprintf(nodecheck_what, sizeof nodecheck_what, "TEST_SCENE='%s, %s' TEST_FAULT=%d:%d",
             s->scene, s->mode, (int)s->kind, s->n);
}

static bool disarm(const struct sweep *s)
{
    bool fired = fault_disarm();
    snprintf(nodecheck_what, sizeof nodecheck_what,
             "TEST_SCENE='%s, %s' TEST_FAULT=%d:%d (%s in the %s)", s->scene, s->mode, (int)s->kind,
             s->n, fault_name(s->kind), fault_what());
    return fired;
}

/* ---- a start ---- */

/* What a daemon leaves that was killed with its clients, in the middle of a large transaction. */
static void make_remains(struct folder *remains, const char *mode)
{
    scratch_make(root);
    begin(root);
    sqlite3 *db = sql_open(fsnode_path(&node, "app.db"), "tap");
    set_mode(db, mode);
    fill(db);
    fsnode_settle(&node);
    sql_do(db, "UPDATE t SET k = k + 1; DELETE FROM t WHERE a < 5");
    sqlite3 *other = sql_open(fsnode_path(&node, "b.db"), "tap");
    set_mode(other, mode);
    sql_do(other, "CREATE TABLE t(a, b, k); INSERT INTO t VALUES(1, 2, 3)");
    sql_close(other);
    sql_do(db, "BEGIN; UPDATE t SET b = zeroblob(length(b) + 300), k = k + 100");
    struct folder from = {.fd = node.data_dirfd};
    folder_copy(remains, &from);
    powerloss_freeze();
    (void)sql_try(db, "ROLLBACK");
    (void)sqlite3_close(db);
    fsnode_close(&node);
    powerloss_thaw();
    scratch_remove(root);
}

static char *expected(const struct folder *remains)
{
    struct folder copy;
    folder_copy(&copy, remains);
    begin(copy.path);
    fsnode_settle(&node);
    char *content = nodecheck_content(&node, names);
    fsnode_close(&node);
    folder_remove(&copy);
    return content;
}

static unsigned started;

static bool try_start(const struct sweep *s, const struct folder *remains, const char *content)
{
    struct folder copy;
    folder_copy(&copy, remains);
    arm(s);
    int err = fsnode_try_open(&node, copy.path, false);
    if (!err) {
        fsnode_lead(&node);
        fsnode_settle(&node);
    }
    bool fired = disarm(s);
    started += !err;
    if (!err && s->n % 2) { /* killed, or ended in order */
        powerloss_freeze();
        fsnode_close(&node);
        powerloss_thaw();
    } else if (!err) {
        fsnode_close(&node);
    }
    begin(copy.path);
    fsnode_settle(&node);
    nodecheck_file_is_log(&node, names, "at the next start");
    char *found = nodecheck_content(&node, names);
    if (strcmp(found, content) != 0)
        fail_msg("%s: there is\n%sand should be\n%s", nodecheck_what, found, content);
    nodecheck_can_write(&node, "app.db", "at the next start");
    nodecheck_file_is_log(&node, names, "in the end");
    free(found);
    fsnode_close(&node);
    folder_remove(&copy);
    return fired;
}

static void a_start_in_which_a_call_fails_loses_nothing(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        struct sweep s;
        struct folder remains;
        if (!begin_sweep(&s, "a start", modes[i]))
            continue;
        make_remains(&remains, modes[i]);
        char *content = expected(&remains);
        started = 0;
        while (next_fault(&s, try_start(&s, &remains, content)))
            ;
        print_message("a start, %s: %u faults, %u starts got by\n", modes[i], s.faults, started);
        free(content);
        folder_remove(&remains);
    }
}

/* ---- a replica ---- */

static struct fsnode primary;
static char primary_root[SCRATCH_PATH_MAX];

/* A record of the primary's, in memory. */
struct shipped {
    uint8_t *bytes;
    uint64_t size;
};

static unsigned read_records(struct shipped *out, unsigned most, struct position from)
{
    struct txlog *log = ledger_log(fsnode_ledger(&primary, "app.db"));
    struct txlog_entry e = {0};
    unsigned n = 0;
    int err = txlog_find_from(log, from, &e);
    for (; !err && n < most; n++) {
        out[n] = (struct shipped){malloc(e.size), e.size};
        assert_int_equal(txlog_entry_read(&e, 0, out[n].bytes, e.size), 0);
        err = txlog_next(log, &e);
    }
    txlog_entry_release(&e);
    return n;
}

static int receive(struct ledger *l, const struct shipped *s)
{
    struct ledger_receive r;
    int err = ledger_receive_begin(l, &r, s->size, 0);
    if (!err)
        err = ledger_receive_write(&r, s->bytes, s->size);
    return err ? err : ledger_receive_finish(&r, NULL);
}

static struct replica applier;

static void open_applier(void)
{
    static const atomic_bool quit;
    role_set(&node.role, ROLE_REPLICA, 1, "");
    struct ledger *l = fsnode_ledger(&node, "app.db");
    replica_init(&applier, catalog_get(node.catalog, "app.db"), l, &quit, false);
}

static void close_applier(void)
{
    struct database *db = applier.db;
    replica_close(&applier);
    catalog_put(db);
}

static void apply_all(const char *when)
{
    struct ledger_info info;
    for (unsigned tries = 0; tries < 20 && replica_apply(&applier) != 0; tries++)
        ;
    ledger_info(applier.ledger, &info);
    if (info.damaged)
        fail_msg("%s: %s: %s", nodecheck_what, when, info.damage);
    if (!position_equal(info.applied, info.last))
        fail_msg("%s: %s: not all is applied", nodecheck_what, when);
}

/* The replica holds some records, and gets these, and applies them, with one call failing. */
static bool try_replica(const struct sweep *s, const struct folder *before,
                        const struct shipped *records, unsigned count, const char *content)
{
    struct folder copy;
    unsigned i = 0;
    folder_copy(&copy, before);
    fsnode_open(&node, copy.path, false);
    open_applier();
    struct ledger *l = applier.ledger;
    arm(s);
    for (; i < count && receive(l, &records[i]) == 0; i++)
        ;
    (void)replica_apply(&applier);
    fsnode_settle(&node);
    bool fired = disarm(s);
    if (!nodecheck_log_has_failed(&node)) {
        for (; i < count; i++)
            assert_int_equal(receive(l, &records[i]), 0);
        apply_all("then");
    }
    close_applier();
    fsnode_close(&node);
    fsnode_open(&node, copy.path, false);
    open_applier();
    struct position last = ledger_last(applier.ledger);
    for (i = 0; i < count; i++) {
        struct ltx_header h;
        assert_int_equal(ltx_header_decode(records[i].bytes, &h), 0);
        if (h.min_txid == last.txid + 1 && receive(applier.ledger, &records[i]) == 0)
            last = ledger_last(applier.ledger);
    }
    apply_all("after a new start");
    close_applier();
    fsnode_lead(&node);
    tapvfs_register(fsnode_listen, &node);
    nodecheck_file_is_log(&node, names, "after a new start");
    char *found = nodecheck_content(&node, names);
    if (strcmp(found, content) != 0)
        fail_msg("%s: there is\n%sand should be\n%s", nodecheck_what, found, content);
    free(found);
    fsnode_close(&node);
    folder_remove(&copy);
    return fired;
}

#define RECORDS 40

static void sweep_replica(struct sweep *s, const char *mode)
{
    struct shipped records[RECORDS];
    struct folder before, empty;
    scratch_make(primary_root);
    fsnode_segment_bytes(3000);
    fsnode_open(&primary, primary_root, false);
    fsnode_lead(&primary);
    tapvfs_register(fsnode_listen, &primary);
    sqlite3 *db = sql_open(fsnode_path(&primary, "app.db"), "tap");
    set_mode(db, mode);
    fill(db);
    struct position middle = ledger_last(fsnode_ledger(&primary, "app.db"));
    sql_do(db,
           "UPDATE t SET k = k + 1; DELETE FROM t WHERE a < 5;"
           "INSERT INTO t SELECT a + 100, zeroblob(900), k FROM t; PRAGMA journal_mode=%s;"
           "VACUUM; UPDATE t SET k = 7 WHERE a = 9",
           strcmp(mode, "WAL") ? "WAL" : "DELETE");
    char *content = nodecheck_content(&primary, names);
    /* The replica as it is before. */
    unsigned count = read_records(records, RECORDS, (struct position){0});
    folder_make(&empty);
    fsnode_open(&node, empty.path, false);
    struct ledger *l;
    assert_int_equal(store_get(node.store, "app.db", &l), 0);
    open_applier();
    unsigned first = 0;
    for (; ledger_last(l).txid < middle.txid; first++)
        assert_int_equal(receive(l, &records[first]), 0);
    apply_all("before");
    close_applier();
    fsnode_close(&node);
    folder_copy(&before, &empty);
    folder_remove(&empty);
    while (next_fault(s, try_replica(s, &before, records + first, count - first, content)))
        ;
    print_message("a replica, %s: %u faults\n", mode, s->faults);
    for (unsigned i = 0; i < count; i++)
        free(records[i].bytes);
    free(content);
    folder_remove(&before);
    tapvfs_register(fsnode_listen, &primary);
    sql_close(db);
    fsnode_close(&primary);
    scratch_remove(primary_root);
}

static void a_replica_on_which_a_call_fails_goes_on(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        struct sweep s;
        if (begin_sweep(&s, "a replica", modes[i]))
            sweep_replica(&s, modes[i]);
    }
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
        cmocka_unit_test(a_start_in_which_a_call_fails_loses_nothing),
        cmocka_unit_test(a_replica_on_which_a_call_fails_goes_on),
    };
    if (getenv("TEST_FILTER"))
        cmocka_set_test_filter(getenv("TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
