/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
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
 * Commits that cannot become records fail, in the hands of the client, and nothing else happens:
 * the gate is closed, or the disk of the log is full. When that is over, the same connection goes
 * on.
 */

#define STEPS 40

static char root[SCRATCH_PATH_MAX];
static struct fsnode node;

static void begin(void)
{
    fsnode_fill_disk(false);
    fsnode_fail_write(0, 0);
    scratch_make(root);
    fsnode_open(&node, root, false);
    fsnode_lead(&node);
    tapvfs_register(fsnode_listen, &node);
}

static void end(void)
{
    fsnode_close(&node);
    scratch_remove(root);
}

static unsigned refused, made;

static char *content(sqlite3 *db)
{
    return sql_text(db, "SELECT group_concat(a || ' ' || k || ' ' || length(b)) FROM t");
}

static uint8_t *seen(size_t *size)
{
    sqlite3 *other = sql_open(fsnode_path(&node, "app.db"), "tap");
    sql_check(other);
    uint8_t *bytes = sql_bytes(other, "main", size);
    sql_close(other);
    return bytes;
}

static void look(struct sqlwork *w, struct logcopy *copy)
{
    size_t size;
    fsnode_settle(&node);
    uint8_t *bytes = seen(&size);
    logcopy_advance(copy, fsnode_ledger(&node, "app.db"));
    if (!logcopy_equals(copy, bytes, size))
        fail_msg("%s %u: after \"%s\" at TXID %llu the log is not what SQLite sees",
                 w->journal_mode, w->page_size, w->last, (unsigned long long)copy->at.txid);
    sqlite3_free(bytes);
}

typedef void trouble_fn(bool on);

static void close_gate(bool on)
{
    if (on)
        assert_int_equal(role_close(&node.role, -ERR_NOTPRIMARY, 1000), 0);
    else
        role_open(&node.role);
}

static void fill_disk(bool on)
{
    fsnode_fill_disk(on);
}

static void fail_a_write(bool on)
{
    fsnode_fail_write(on ? 1 + dice_below(2) : 0, EIO);
}

static bool is_refusal(int rc)
{
    return (rc & 0xff) == SQLITE_IOERR || (rc & 0xff) == SQLITE_FULL;
}

/* Random work; every few steps the trouble comes and goes. */
static void run(struct sqlwork work, trouble_fn *trouble)
{
    struct logcopy copy;
    begin();
    work.dice = dice_u64();
    logcopy_open(&copy);
    work.db = sql_open(fsnode_path(&node, "app.db"), "tap");
    sqlwork_begin(&work);
    for (unsigned i = 0; i < STEPS; i++) {
        bool on = i % 3 == 2;
        uint64_t before = fsnode_txid(&node, "app.db");
        char *rows = content(work.db);
        trouble(on);
        int rc = sqlwork_step(&work);
        uint64_t after = fsnode_txid(&node, "app.db");
        if (rc != SQLITE_OK && (!on || !is_refusal(rc)))
            fail_msg("%s %u: \"%s\"%s: %s", work.journal_mode, work.page_size, work.last,
                     on ? " in trouble" : "", sqlite3_errmsg(work.db));
        if (trouble == close_gate && on)
            assert_true(after == before);
        refused += rc != SQLITE_OK;
        made += rc == SQLITE_OK && after != before;
        /* Reading goes on meanwhile. */
        sqlite3 *other = sql_open(fsnode_path(&node, "app.db"), "tap");
        int read = sql_try(other, "SELECT count(*) FROM t");
        if (read != SQLITE_OK)
            fail_msg("%s %u: reading after \"%s\"%s: %s", work.journal_mode, work.page_size,
                     work.last, on ? " in trouble" : "", sqlite3_errmsg(other));
        sql_close(other);
        trouble(false);
        look(&work, &copy);
        char *now = content(work.db);
        if (rc != SQLITE_OK)
            assert_string_equal(now, rows);
        free(rows);
        free(now);
    }
    sql_close(work.db);
    look(&work, &copy);
    logcopy_close(&copy);
    end();
}

static const char *const modes[] = {"DELETE", "TRUNCATE", "PERSIST", "WAL"};

static void with_the_gate_closed_commits_fail_and_nothing_changes(void **state)
{
    (void)state;
    refused = made = 0;
    for (unsigned i = 0; i < 8; i++)
        run((struct sqlwork){.journal_mode = modes[i % 4],
                             .page_size = i < 4 ? 512 : 4096,
                             .synchronous = i % 3 ? "FULL" : "NORMAL",
                             .auto_vacuum = i % 3},
            close_gate);
    assert_true(refused > 0 && made > 50);
}

static void with_a_full_disk_commits_fail_and_nothing_changes(void **state)
{
    (void)state;
    refused = made = 0;
    for (unsigned i = 0; i < 8; i++)
        run((struct sqlwork){.journal_mode = modes[i % 4],
                             .page_size = i < 4 ? 4096 : 16384,
                             .synchronous = i % 3 ? "FULL" : "NORMAL",
                             .auto_vacuum = i % 3},
            fill_disk);
    assert_true(refused > 0 && made > 50);
}

static void when_a_write_to_the_log_fails_the_commit_fails_and_nothing_changes(void **state)
{
    (void)state;
    refused = made = 0;
    for (unsigned i = 0; i < 8; i++)
        run((struct sqlwork){.journal_mode = modes[i % 4],
                             .page_size = i < 4 ? 512 : 4096,
                             .synchronous = i % 3 ? "FULL" : "NORMAL",
                             .auto_vacuum = i % 3},
            fail_a_write);
    assert_true(refused > 0 && made > 50);
}

int main(void)
{
    logger_configure(getenv("TANDEMFS_TRACE") ? LOGGER_DEBUG : LOGGER_ERROR + 1, false);
    tapvfs_lock_by_description();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(with_the_gate_closed_commits_fail_and_nothing_changes),
        cmocka_unit_test(with_a_full_disk_commits_fail_and_nothing_changes),
        cmocka_unit_test(when_a_write_to_the_log_fails_the_commit_fails_and_nothing_changes),
    };
    if (getenv("TEST_FILTER"))
        cmocka_set_test_filter(getenv("TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
