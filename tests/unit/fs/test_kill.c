/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
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
 * A client is killed at any one of its system calls, alone or with another one that goes on; the
 * daemon lives. What was captured is what the others see.
 */

#define STEPS 12
#define SAMPLES 60

static char root[SCRATCH_PATH_MAX];
static struct fsnode node;
static uint64_t seed;

struct setup {
    unsigned number; /* so that each has its own workload, whichever tests are run */
    struct sqlwork work;
    bool survivor; /* another connection stays open */
};

static void look(const struct setup *setup, sqlite3 *db, uint64_t call, struct logcopy *copy)
{
    size_t size;
    uint8_t *bytes = sql_bytes(db, "main", &size);
    logcopy_advance(copy, fsnode_ledger(&node, "app.db"));
    if (!logcopy_equals(copy, bytes, size))
        fail_msg("%s %u, killed at call %llu: at TXID %llu SQLite does not see what the log says",
                 setup->work.journal_mode, setup->work.page_size, (unsigned long long)call,
                 (unsigned long long)copy->at.txid);
    sqlite3_free(bytes);
}

/* Works until it is killed; the TXID after the last step that returned. */
static uint64_t work(const struct setup *setup, uint64_t kill_at)
{
    struct sqlwork w = setup->work;
    w.db = sql_open(fsnode_path(&node, "app.db"), "tap");
    sqlwork_begin(&w);
    sqlite3 *other = NULL;
    if (setup->survivor) {
        other = sql_open(fsnode_path(&node, "app.db"), "tap-survivor");
        sql_int(other, "SELECT count(*) FROM t");
    }
    uint64_t acknowledged = fsnode_txid(&node, "app.db");
    tapvfs_kill_at(kill_at);
    for (unsigned i = 0; i < STEPS && !tapvfs_killed(); i++) {
        int rc = sqlwork_step(&w);
        if (rc != SQLITE_OK && !tapvfs_killed())
            fail_msg("%s: %s", w.last, sqlite3_errmsg(w.db));
        if (rc == SQLITE_OK && !tapvfs_killed())
            acknowledged = fsnode_txid(&node, "app.db");
    }
    sql_close(w.db);
    if (other) {
        fsnode_settle(&node);
        struct logcopy copy;
        logcopy_open(&copy);
        sqlite3_exec(other, "SELECT count(*) FROM t", NULL, NULL, NULL);
        fsnode_settle(&node);
        look(setup, other, kill_at, &copy);
        sql_check(other);
        logcopy_close(&copy);
        sql_do(other, "INSERT INTO t(b) VALUES('from another connection')");
        sql_close(other);
    }
    return acknowledged;
}

static uint64_t try_call(const struct setup *setup, uint64_t call)
{
    struct logcopy copy;
    scratch_make(root);
    fsnode_open(&node, root, false);
    fsnode_lead(&node);
    tapvfs_register(fsnode_listen, &node);
    uint64_t acknowledged = work(setup, call);
    uint64_t calls = tapvfs_calls();
    fsnode_settle(&node);

    tapvfs_register(fsnode_listen, &node);
    logcopy_open(&copy);
    sqlite3 *db = sql_open(fsnode_path(&node, "app.db"), "tap");
    sql_check(db);
    fsnode_settle(&node);
    if (fsnode_txid(&node, "app.db") < acknowledged)
        fail_msg("acknowledged TXIDs are gone");
    look(setup, db, call, &copy);
    uint64_t before = copy.at.txid;
    sql_do(db, "CREATE TABLE after(x)");
    look(setup, db, call, &copy);
    assert_true(copy.at.txid == before + 1);
    sql_close(db);
    logcopy_close(&copy);
    fsnode_close(&node);
    scratch_remove(root);
    return calls;
}

static void sweep(struct setup setup)
{
    setup.work.dice = seed + setup.number;
    setup.work.row_bytes = 900;
    struct sqlwork chosen = {.dice = ~setup.work.dice};
    uint64_t calls = try_call(&setup, 0);
    if (getenv("TEST_STEP")) {
        try_call(&setup, strtoull(getenv("TEST_STEP"), NULL, 10));
    } else if (getenv("TANDEMFS_FULL")) {
        for (uint64_t call = 1; call <= calls; call++)
            try_call(&setup, call);
    } else {
        for (unsigned i = 0; i < SAMPLES; i++)
            try_call(&setup, 1 + sqlwork_below(&chosen, (uint32_t)calls));
    }
}

static void a_killed_writer_in_a_rollback_mode_leaves_whole_transactions(void **state)
{
    (void)state;
    sweep((struct setup){.number = 1, .work = {.journal_mode = "DELETE", .page_size = 1024}});
    sweep((struct setup){.number = 2, .work = {.journal_mode = "TRUNCATE", .page_size = 512}});
    sweep((struct setup){.number = 3, .work = {.journal_mode = "PERSIST", .page_size = 1024}});
}

static void a_killed_writer_in_wal_mode_leaves_whole_transactions(void **state)
{
    (void)state;
    sweep((struct setup){.number = 4, .work = {.journal_mode = "WAL", .page_size = 1024}});
    sweep((struct setup){
        .number = 5,
        .work = {
            .journal_mode = "WAL", .page_size = 512, .synchronous = "FULL", .exclusive = true}});
}

static void others_go_on_when_a_writer_in_wal_mode_is_killed(void **state)
{
    (void)state;
    sweep((struct setup){.number = 6,
                         .work = {.journal_mode = "WAL", .page_size = 1024, .synchronous = "FULL"},
                         .survivor = true});
}

int main(void)
{
    logger_configure(LOGGER_ERROR, false);
    tapvfs_lock_by_description();
    seed = dice_u64();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_killed_writer_in_a_rollback_mode_leaves_whole_transactions),
        cmocka_unit_test(a_killed_writer_in_wal_mode_leaves_whole_transactions),
        cmocka_unit_test(others_go_on_when_a_writer_in_wal_mode_is_killed),
    };
    if (getenv("TEST_FILTER"))
        cmocka_set_test_filter(getenv("TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
