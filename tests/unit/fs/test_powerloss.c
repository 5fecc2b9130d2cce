/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "fs/db/catalog_impl.h"
#include "fs/db/database_impl.h"
#include "fs/db/replica.h"
#include "ltx/base/err.h"
#include "ltx/base/logger.h"
#include "tests/lib/fsship.h"
#include "tests/lib/powertrial.h"
#include "tests/lib/sql.h"
#include "tests/lib/sqlwork.h"

/*
 * The machine loses power at any moment of a workload, and what was not synced is there in part, in any
 * order. The next start finds every commit that was acknowledged, each database at exactly one of its
 * commits, and goes on. tests/lib/powertrial.h says how to have more states, or one alone.
 */

#define STEPS 24

struct setup {
    const char *name;
    struct sqlwork work;
    bool settles;   /* the recovery position moves, also at the worst moments */
    bool kills;     /* now and then the daemon is killed, and starts again */
    bool compacts;  /* segments are short, and are compacted and trimmed */
    bool unguarded; /* see powertrial.h */
    unsigned steps; /* 0: STEPS */
};

static bool is_full(const struct setup *setup)
{
    return strcmp(setup->work.synchronous, "FULL") == 0;
}

static void open_client(struct sqlwork *w)
{
    w->db = sql_open(fsnode_path(powertrial_node(), "app.db"), "tap");
    powertrial_client(w->db);
    sql_do(w->db, "PRAGMA temp_store=MEMORY");
    sqlwork_begin(w);
}

static void step(const struct setup *setup, struct sqlwork *w, unsigned i)
{
    struct fsnode *node = powertrial_node();
    int rc = sqlwork_step(w);
    if (powertrial_is_killed())
        return;
    if (rc != SQLITE_OK)
        fail_msg("%s: %s: %s", setup->name, w->last, sqlite3_errmsg(w->db));
    bool committed = strstr(w->last, "ROLLBACK") == NULL;
    powertrial_note(is_full(setup) && committed ? "app.db" : NULL);
    if (setup->settles && i % 3 == 1)
        fsnode_settle(node);
    if (setup->compacts && i % 4 == 2)
        fsnode_maintain(node, &(struct txlog_retention){.size_bytes = 20000});
    if (sqlwork_below(w, 4) == 0) /* what a thread does when nobody asks for it */
        assert_int_equal(ledger_sync(fsnode_ledger(node, "app.db"), UINT64_MAX), 0);
}

static void work(const struct setup *setup)
{
    struct fsnode *node = powertrial_node();
    struct sqlwork w = setup->work;
    w.row_bytes = 700;
    open_client(&w);
    powertrial_note(is_full(setup) ? "app.db" : NULL);
    for (unsigned i = 0; i < (setup->steps ? setup->steps : STEPS); i++) {
        if (setup->kills && sqlwork_below(&w, 4) == 0)
            powertrial_kill_after(1 + sqlwork_below(&w, 40));
        step(setup, &w, i);
        powertrial_kill_after(0);
        if (powertrial_is_killed()) {
            (void)sqlite3_close(w.db);
            powertrial_revive();
            open_client(&w);
        }
        powertrial_note(NULL);
    }
    sql_close(w.db);
    fsnode_settle(node);
}

static void sweep_once(struct setup setup, unsigned round)
{
    if (!powertrial_begin(
            &(struct powertrial){.name = setup.name,
                                 .round = round,
                                 .databases = {"app.db"},
                                 .segment_bytes = setup.compacts ? 4096 : 0,
                                 .listener = setup.settles ? fsnode_listen_and_settle : NULL,
                                 .unguarded = setup.unguarded}))
        return;
    setup.work.dice = powertrial_dice();
    work(&setup);
    powertrial_end();
    powertrial_sweep();
}

static void sweep(struct setup setup)
{
    for (unsigned round = 0; round < powertrial_rounds(); round++)
        sweep_once(setup, round);
}

#define WORK(mode, size) .journal_mode = (mode), .page_size = (size), .synchronous = "FULL"

static void a_loss_of_power_in_wal_mode_loses_nothing(void **state)
{
    (void)state;
    sweep((struct setup){.name = "WAL", .work = {WORK("WAL", 512)}});
    sweep((struct setup){
        .name = "WAL, settling", .work = {WORK("WAL", 1024), .auto_vacuum = 1}, .settles = true});
    sweep((struct setup){
        .name = "WAL, exclusive", .work = {WORK("WAL", 512), .exclusive = true}, .settles = true});
}

static void a_loss_of_power_in_delete_mode_loses_nothing(void **state)
{
    (void)state;
    sweep((struct setup){.name = "DELETE", .work = {WORK("DELETE", 512)}});
    sweep((struct setup){.name = "DELETE, settling",
                         .work = {WORK("DELETE", 1024), .auto_vacuum = 2},
                         .settles = true});
}

static void a_loss_of_power_after_a_kill_loses_nothing(void **state)
{
    (void)state;
    sweep((struct setup){.name = "WAL, killed", .work = {WORK("WAL", 512)}, .kills = true});
    sweep((struct setup){.name = "DELETE, killed", .work = {WORK("DELETE", 512)}, .kills = true});
    sweep((struct setup){.name = "WAL, turning back, killed",
                         .work = {WORK("WAL", 512), .turns_back = true},
                         .settles = true,
                         .kills = true});
    sweep((struct setup){.name = "changing modes, killed",
                         .work = {WORK("DELETE", 512), .changes_mode = true, .crashes = true},
                         .settles = true,
                         .kills = true});
}

static void a_loss_of_power_in_truncate_mode_loses_nothing(void **state)
{
    (void)state;
    sweep((struct setup){
        .name = "TRUNCATE, settling", .work = {WORK("TRUNCATE", 512)}, .settles = true});
}

static void a_loss_of_power_in_persist_mode_loses_nothing(void **state)
{
    (void)state;
    sweep((struct setup){
        .name = "PERSIST, settling", .work = {WORK("PERSIST", 512)}, .settles = true});
    sweep((struct setup){.name = "PERSIST, exclusive",
                         .work = {WORK("PERSIST", 512), .exclusive = true, .size_limit = 2000}});
}

static void a_loss_of_power_while_modes_change_loses_nothing(void **state)
{
    (void)state;
    sweep((struct setup){.name = "changing modes",
                         .work = {WORK("DELETE", 512), .changes_mode = true, .crashes = true,
                                  .changes_page_size = true},
                         .settles = true,
                         .steps = 50});
}

static void a_loss_of_power_while_the_log_is_compacted_loses_nothing(void **state)
{
    (void)state;
    sweep((struct setup){.name = "WAL, compacting",
                         .work = {WORK("WAL", 512)},
                         .settles = true,
                         .compacts = true,
                         .steps = 40});
    sweep((struct setup){.name = "TRUNCATE, compacting",
                         .work = {WORK("TRUNCATE", 512)},
                         .settles = true,
                         .compacts = true,
                         .steps = 40});
}

static void a_loss_of_power_with_synchronous_normal_leaves_a_commits_state(void **state)
{
    (void)state;
    struct setup setup = {.name = "WAL, NORMAL", .work = {WORK("WAL", 512)}, .settles = true};
    setup.work.synchronous = "NORMAL";
    sweep(setup);
    setup.name = "DELETE, NORMAL";
    setup.work.journal_mode = "DELETE";
    sweep(setup);
    /* SQLite promises nothing then; a checkpoint that waits for the log does (I4). */
    setup = (struct setup){.name = "WAL, OFF", .work = {WORK("WAL", 512)}, .settles = true};
    setup.work.synchronous = "OFF";
    sweep(setup);
}

static void what_the_log_has_of_commits_without_a_journal_outlasts_a_loss_of_power(void **state)
{
    (void)state;
    struct setup setup = {
        .name = "MEMORY", .work = {WORK("MEMORY", 512)}, .settles = true, .unguarded = true};
    sweep(setup);
    setup.name = "OFF";
    setup.work.journal_mode = "OFF";
    setup.work.no_rollback = true;
    sweep(setup);
}

/* ---- databases that come and go ---- */

static const char *const names[] = {"app.db", "b.db", "sub/c.db", "sub/d.db"};

static bool is_there(unsigned i)
{
    return access(fsnode_path(powertrial_node(), names[i]), F_OK) == 0;
}

static void write_some(unsigned i, unsigned n)
{
    static const char *const modes[] = {"DELETE", "WAL", "TRUNCATE", "PERSIST"};
    sqlite3 *db = sql_open(fsnode_path(powertrial_node(), names[i]), "tap");
    sql_do(db,
           "PRAGMA page_size=512; PRAGMA temp_store=MEMORY; PRAGMA cache_size=5;"
           "PRAGMA journal_mode=%s; PRAGMA synchronous=FULL;"
           "CREATE TABLE IF NOT EXISTS t(a INTEGER PRIMARY KEY, b, k);"
           "INSERT INTO t(b, k) VALUES(zeroblob(%u), %u)",
           modes[powertrial_below(4)], 100 + powertrial_below(2000), n);
    if (powertrial_below(3) == 0)
        sql_do(db, "UPDATE t SET k = k + 1, b = '%u'", n);
    if (powertrial_below(4) == 0)
        sql_do(db, "DELETE FROM t WHERE a %% 2 = 0");
    powertrial_note(names[i]);
    sql_close(db);
}

static void come_and_go(unsigned steps)
{
    struct fsnode *node = powertrial_node();
    assert_int_equal(fsnode_mkdir(node, "sub"), 0);
    for (unsigned n = 0; n < steps; n++) {
        unsigned i = powertrial_below(4), to = powertrial_below(4);
        switch (powertrial_below(10)) {
        case 0:
            if (is_there(i))
                assert_int_equal(fsnode_unlink(node, names[i]), 0);
            break;
        case 1:
        case 2:
            if (is_there(i) && i != to)
                assert_int_equal(fsnode_rename(node, names[i], names[to]), 0);
            break;
        case 3: assert_int_equal(fsnode_sync_dir(node, names[i]), 0); break;
        case 4: fsnode_settle(node); break;
        default: write_some(i, n);
        }
        powertrial_note(NULL);
    }
}

static void a_loss_of_power_while_databases_come_and_go_loses_none(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 3 * powertrial_rounds(); round++) {
        if (!powertrial_begin(
                &(struct powertrial){.name = "names",
                                     .round = round,
                                     .databases = {names[0], names[1], names[2], names[3]}}))
            continue;
        come_and_go(60);
        powertrial_end();
        powertrial_sweep();
    }
}

/* ---- a replica ---- */

static struct fsnode primary;
static struct replica applier;

/* What the applier's thread does, and the settler's. */
static void apply(unsigned how)
{
    static const atomic_bool quit;
    struct fsnode *node = powertrial_node();
    struct ledger *l = fsnode_ledger(node, "app.db");
    struct ledger_info info;
    bool whole = false;
    if (!applier.db)
        assert_int_equal(
            replica_init(&applier, catalog_get(node->catalog, "app.db"), l, &quit, false), 0);
    assert_int_equal(replica_apply(&applier), 0);
    ledger_info(l, &info);
    assert_false(info.damaged);
    if (how == 0 && applier.state == REPLICA_WAL && applier.conn)
        assert_int_equal(apply_checkpoint(&applier, 1, &whole), 0);
    if (whole) {
        mutex_lock(&applier.db->mutex);
        applier.db->backed = info.last;
        mutex_unlock(&applier.db->mutex);
    }
    if (how <= 1)
        fsnode_settle(node);
}

static void follow(struct sqlwork w)
{
    char where[SCRATCH_PATH_MAX];
    struct fsnode *node = powertrial_node();
    scratch_make(where);
    fsnode_open(&primary, where, false);
    fsnode_lead(&primary);
    tapvfs_register(fsnode_listen, &primary);
    role_set(&node->role, ROLE_REPLICA, 1, "");
    w.db = sql_open(fsnode_path(&primary, "app.db"), "tap");
    sql_do(w.db, "PRAGMA temp_store=MEMORY");
    sqlwork_begin(&w);
    for (unsigned i = 0; i < 40; i++) {
        assert_int_equal(sqlwork_step(&w), SQLITE_OK);
        fsship_some(&primary, node, "app.db", 1 + powertrial_below(3));
        if (powertrial_below(4) == 0)
            assert_int_equal(ledger_sync(fsnode_ledger(node, "app.db"), UINT64_MAX), 0);
        powertrial_note(NULL);
        if (powertrial_below(3) > 0)
            apply(powertrial_below(4));
        powertrial_note(NULL);
    }
    sql_close(w.db);
    struct database *db = applier.db;
    replica_close(&applier);
    catalog_put(db);
    applier = (struct replica){0};
    fsnode_close(&primary);
    scratch_remove(where);
}

static void a_replica_that_loses_power_is_at_a_commits_state(void **state)
{
    (void)state;
    static const struct setup setups[] = {
        {.name = "replica, WAL", .work = {WORK("WAL", 512)}},
        {.name = "replica, DELETE", .work = {WORK("DELETE", 512)}},
        {.name = "replica, changing modes",
         .work = {WORK("WAL", 1024), .changes_mode = true, .changes_page_size = true}},
    };
    for (unsigned i = 0; i < 3 * powertrial_rounds(); i++) {
        struct sqlwork w = setups[i % 3].work;
        if (!powertrial_begin(&(struct powertrial){.name = setups[i % 3].name,
                                                   .round = i / 3,
                                                   .databases = {"app.db"},
                                                   .replica = true}))
            continue;
        w.dice = powertrial_dice();
        w.row_bytes = 700;
        follow(w);
        powertrial_end();
        powertrial_sweep();
    }
}

#define with_explanation(test) cmocka_unit_test_teardown(test, powertrial_explain)

int main(void)
{
    logger_configure(getenv("TEST_CUT") ? LOGGER_INFO : LOGGER_ERROR + 1, false);
    tapvfs_lock_by_description();
    tapvfs_use_file_ops();
    const struct CMUnitTest tests[] = {
        with_explanation(a_loss_of_power_in_wal_mode_loses_nothing),
        with_explanation(a_loss_of_power_in_delete_mode_loses_nothing),
        with_explanation(a_loss_of_power_after_a_kill_loses_nothing),
        with_explanation(a_loss_of_power_in_truncate_mode_loses_nothing),
        with_explanation(a_loss_of_power_in_persist_mode_loses_nothing),
        with_explanation(a_loss_of_power_while_modes_change_loses_nothing),
        with_explanation(a_loss_of_power_while_the_log_is_compacted_loses_nothing),
        with_explanation(a_loss_of_power_with_synchronous_normal_leaves_a_commits_state),
        with_explanation(a_loss_of_power_while_databases_come_and_go_loses_none),
        with_explanation(a_replica_that_loses_power_is_at_a_commits_state),
        with_explanation(what_the_log_has_of_commits_without_a_journal_outlasts_a_loss_of_power),
    };
    if (getenv("TEST_FILTER"))
        cmocka_set_test_filter(getenv("TEST_FILTER"));
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    powertrial_report();
    return failed;
}
