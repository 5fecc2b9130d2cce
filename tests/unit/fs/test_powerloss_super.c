/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "ltx/base/err.h"
#include "ltx/base/logger.h"
#include "tests/lib/powertrial.h"
#include "tests/lib/sql.h"

/*
 * The machine loses power, or the daemon is killed, at any moment of transactions over three attached
 * databases: each transaction is in all of them or in none after the next start, and in all if it was
 * acknowledged. tests/lib/powertrial.h says how to have more states, or one alone.
 */

#define DATABASES 3
#define STEPS 16

static const char *const names[DATABASES] = {"sub/a.db", "b.db", "c.db"};
static const char *const schema[DATABASES] = {"main", "b", "c"};

struct setup {
    const char *name;
    const char *mode[DATABASES]; /* journal modes */
    bool settles;                /* the recovery position moves, also at the worst moments */
    bool kills;                  /* now and then the daemon is killed, and starts again */
    bool elsewhere;              /* the clients know the mount by another path */
};

static sqlite3 *open_all(const struct setup *setup)
{
    struct fsnode *node = powertrial_node();
    sqlite3 *db = sql_open(fsnode_path(node, names[0]), "tap");
    powertrial_client(db);
    sql_do(db, "PRAGMA temp_store=MEMORY; ATTACH '%s' AS b; ATTACH '%s' AS c",
           fsnode_path(node, names[1]), fsnode_path(node, names[2]));
    for (unsigned i = 0; i < DATABASES; i++)
        sql_do(db,
               "PRAGMA %s.page_size=512; PRAGMA %s.journal_mode=%s; PRAGMA %s.synchronous=FULL;"
               "PRAGMA %s.cache_size=5",
               schema[i], schema[i], setup->mode[i], schema[i], schema[i]);
    return db;
}

static void note_all(void)
{
    for (unsigned i = 0; i < DATABASES; i++)
        powertrial_note(names[i]);
}

/* Each database gets the number of the transaction; they grow, shrink and reuse pages as they like. */
static int transaction(sqlite3 *db, unsigned n)
{
    int rc = sql_try(db, "BEGIN");
    for (unsigned i = 0; rc == SQLITE_OK && i < DATABASES; i++) {
        rc = sql_try(db, "UPDATE %s.m SET n=%u", schema[i], n);
        if (rc == SQLITE_OK && powertrial_below(2) == 0)
            rc = sql_try(db, "INSERT INTO %s.t(k, b) VALUES(%u, zeroblob(%u))", schema[i], n,
                         100 + powertrial_below(6000));
        if (rc == SQLITE_OK && powertrial_below(3) == 0)
            rc = sql_try(db, "DELETE FROM %s.t WHERE a %% 2 = %u", schema[i], powertrial_below(2));
        if (rc == SQLITE_OK && powertrial_below(3) == 0)
            rc = sql_try(db, "UPDATE %s.t SET b = zeroblob(%u)", schema[i],
                         50 + powertrial_below(900));
    }
    return rc == SQLITE_OK ? sql_try(db, "COMMIT") : rc;
}

static void work(const struct setup *setup)
{
    struct fsnode *node = powertrial_node();
    assert_int_equal(fsnode_mkdir(node, "sub"), 0);
    sqlite3 *db = open_all(setup);
    for (unsigned i = 0; i < DATABASES; i++)
        sql_do(db,
               "CREATE TABLE %s.m(n); INSERT INTO %s.m VALUES(0);"
               "CREATE TABLE %s.t(a INTEGER PRIMARY KEY, k, b)",
               schema[i], schema[i], schema[i]);
    note_all();
    for (unsigned n = 1; n <= STEPS; n++) {
        if (setup->kills && powertrial_below(3) == 0)
            powertrial_kill_after(1 + powertrial_below(60));
        int rc = transaction(db, n);
        powertrial_kill_after(0);
        if (powertrial_is_killed()) {
            (void)sqlite3_close(db);
            powertrial_revive();
            db = open_all(setup);
        } else if (rc == SQLITE_OK) {
            note_all();
        } else {
            fail_msg("%s: %s", setup->name, sqlite3_errmsg(db));
        }
        powertrial_note(NULL);
        if (setup->settles && n % 3 == 1)
            fsnode_settle(node);
    }
    sql_close(db);
    fsnode_settle(node);
}

/* -1: not made yet. */
static int64_t number_in(struct fsnode *node, unsigned i)
{
    if (access(fsnode_path(node, names[i]), F_OK) != 0)
        return -1;
    sqlite3 *db = sql_open(fsnode_path(node, names[i]), "tap");
    int64_t number = -1;
    if (sql_int(db, "SELECT count(*) FROM sqlite_schema WHERE name='m'") > 0 &&
        sql_int(db, "SELECT count(*) FROM m") > 0)
        number = sql_int(db, "SELECT n FROM m");
    sql_close(db);
    return number;
}

static void look(struct fsnode *node)
{
    int64_t number[DATABASES];
    for (unsigned i = 0; i < DATABASES; i++)
        number[i] = number_in(node, i);
    for (unsigned i = 1; i < DATABASES; i++)
        if (number[i] != number[0] && number[i] > 0)
            fail_msg("a transaction has ended in part: %s is at %lld, %s at %lld", names[0],
                     (long long)number[0], names[i], (long long)number[i]);
    if (number[0] > 0 && (number[1] < number[0] || number[2] < number[0]))
        fail_msg("%s is at %lld, another at less", names[0], (long long)number[0]);
}

static void sweep(struct setup setup)
{
    for (unsigned round = 0; round < powertrial_rounds(); round++) {
        fsnode_mounted_at(setup.elsewhere ? "/elsewhere" : NULL);
        bool wanted = powertrial_begin(
            &(struct powertrial){.name = setup.name,
                                 .round = round,
                                 .databases = {names[0], names[1], names[2]},
                                 .listener = setup.settles ? fsnode_listen_and_settle : NULL,
                                 .look = look});
        fsnode_mounted_at(NULL); /* of the starts */
        if (!wanted)
            continue;
        work(&setup);
        powertrial_end();
        powertrial_sweep();
    }
}

static void a_loss_of_power_leaves_all_or_none(void **state)
{
    (void)state;
    sweep((struct setup){.name = "together, DELETE", .mode = {"DELETE", "DELETE", "DELETE"}});
    sweep((struct setup){.name = "together, TRUNCATE, settling",
                         .mode = {"TRUNCATE", "TRUNCATE", "TRUNCATE"},
                         .settles = true});
    sweep((struct setup){.name = "together, PERSIST, settling",
                         .mode = {"PERSIST", "PERSIST", "PERSIST"},
                         .settles = true});
    sweep((struct setup){.name = "together, mixed", .mode = {"PERSIST", "DELETE", "TRUNCATE"}});
}

static void a_kill_and_a_loss_of_power_leave_all_or_none(void **state)
{
    (void)state;
    sweep((struct setup){.name = "together, killed",
                         .mode = {"DELETE", "PERSIST", "TRUNCATE"},
                         .settles = true,
                         .kills = true});
}

/* Applications in containers have other names for the files than the daemon. */
static void a_loss_of_power_leaves_all_or_none_of_clients_elsewhere(void **state)
{
    (void)state;
    sweep((struct setup){.name = "together, elsewhere",
                         .mode = {"DELETE", "PERSIST", "TRUNCATE"},
                         .elsewhere = true});
}

#define with_explanation(test) cmocka_unit_test_teardown(test, powertrial_explain)

int main(void)
{
    logger_configure(getenv("TEST_CUT") ? LOGGER_INFO : LOGGER_ERROR + 1, false);
    tapvfs_lock_by_description();
    tapvfs_use_file_ops();
    const struct CMUnitTest tests[] = {
        with_explanation(a_loss_of_power_leaves_all_or_none),
        with_explanation(a_kill_and_a_loss_of_power_leave_all_or_none),
        with_explanation(a_loss_of_power_leaves_all_or_none_of_clients_elsewhere),
    };
    if (getenv("TEST_FILTER"))
        cmocka_set_test_filter(getenv("TEST_FILTER"));
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    powertrial_report();
    return failed;
}
