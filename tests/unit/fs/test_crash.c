/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <fcntl.h>

#include <cmocka.h>

#include "ltx/base/err.h"
#include "ltx/base/logger.h"
#include "ltx/checksum.h"
#include "tests/lib/dice.h"
#include "tests/lib/fsnode.h"
#include "tests/lib/logcopy.h"
#include "tests/lib/sql.h"
#include "tests/lib/sqlwork.h"

/*
 * The daemon dies, with its clients, before any one step of a workload: an event of the VFS, or a
 * change of its own files. The next start finds what was acknowledged, and a database that is at
 * exactly one of its transactions. With TANDEMFS_FULL set every step is tried, else a sample.
 */

#define STEPS 14
#define SAMPLES 60
#define TXIDS 200

/* What the child tells before it dies. */
struct report {
    uint64_t acknowledged; /* TXID after the last step that returned */
    uint64_t steps;
    uint64_t digest[TXIDS]; /* of the database after each TXID */
    uint64_t known;         /* digests up to here */
};

static struct report *report;
static uint64_t seed;
static char root[SCRATCH_PATH_MAX];

/* Of the tables: unused pages aside, which no journal brings back. */
static uint64_t digest_of_content(const uint8_t *bytes, size_t size)
{
    sqlite3 *db = sql_open(":memory:", NULL);
    sqlite3_stmt *row;
    uint64_t digest = 0;
    unsigned char *copy = sqlite3_malloc64(size + 1);
    memcpy(copy, bytes, size);
    copy[18] = copy[19] = 1; /* a database in memory has no WAL */
    assert_int_equal(sqlite3_deserialize(db, "main", copy, (sqlite3_int64)size, (sqlite3_int64)size,
                                         SQLITE_DESERIALIZE_FREEONCLOSE),
                     SQLITE_OK);
    sql_check(db);
    static const char *const text[] = {"SELECT name FROM sqlite_schema ORDER BY name",
                                       "SELECT a || '|' || k || '|' || hex(b) FROM t ORDER BY a"};
    for (unsigned i = 0; i < 2; i++) {
        /* The second may find no table yet. */
        if (sqlite3_prepare_v2(db, text[i], -1, &row, NULL) != SQLITE_OK)
            continue;
        while (sqlite3_step(row) == SQLITE_ROW)
            digest = checksum_update(digest, sqlite3_column_blob(row, 0),
                                     (size_t)sqlite3_column_bytes(row, 0));
        sqlite3_finalize(row);
    }
    sql_close(db);
    return digest;
}

static uint8_t *read_file(const char *path, size_t *size)
{
    static uint8_t bytes[8 * 1024 * 1024];
    int fd;
    *size = 0;
    if (file_open(AT_FDCWD, path, O_RDONLY, 0, &fd) != 0)
        return bytes;
    assert_int_equal(file_read_some(fd, bytes, sizeof bytes, 0, size), 0);
    file_close(fd);
    assert_true(*size < sizeof bytes);
    return bytes;
}

struct setup {
    unsigned number; /* so that each has its own workload, whichever tests are run */
    struct sqlwork work;
    bool checkpoints; /* the recovery position moves along */
};

static void note(struct logcopy *copy, struct ledger *l)
{
    logcopy_advance(copy, l);
    if (copy->at.txid == 0 || copy->at.txid >= TXIDS)
        return;
    size_t size;
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", copy->fd);
    uint8_t *bytes = read_file(path, &size);
    report->digest[copy->at.txid] = digest_of_content(bytes, size);
    report->known = copy->at.txid;
}

static void work(const struct setup *setup, struct fsnode *n, struct logcopy *copy)
{
    struct sqlwork w = setup->work;
    w.db = sql_open(fsnode_path(n, "app.db"), "tap");
    sqlwork_begin(&w);
    for (unsigned i = 0; i < STEPS; i++) {
        if (copy)
            note(copy, fsnode_ledger(n, "app.db"));
        if (sqlwork_step(&w) != SQLITE_OK)
            abort();
        report->acknowledged = fsnode_txid(n, "app.db");
        if (setup->checkpoints && i % 3 == 0)
            fsnode_settle(n);
    }
    if (copy)
        note(copy, fsnode_ledger(n, "app.db"));
    sql_close(w.db);
}

/* In a process of its own, which ends at the given step; 0: it does all of it. */
static int work_and_die(const struct setup *setup, uint64_t die_at)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        struct fsnode n;
        struct logcopy copy;
        fsnode_die_at(die_at);
        fsnode_open(&n, root, false);
        fsnode_lead(&n);
        tapvfs_register(setup->checkpoints ? fsnode_listen_and_settle : fsnode_listen, &n);
        if (die_at == 0)
            logcopy_open(&copy);
        work(setup, &n, die_at == 0 ? &copy : NULL);
        report->steps = fsnode_steps();
        fsnode_close(&n);
        _exit(0);
    }
    int status;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* The node starts again on what is there, and works. */
static void recover(const struct setup *setup, uint64_t died_at)
{
    struct fsnode n;
    struct logcopy copy;
    struct ledger_info info = {0};

    fsnode_open(&n, root, false);
    struct ledger *l = fsnode_ledger(&n, "app.db");
    uint64_t txid = fsnode_txid(&n, "app.db");
    if (l)
        ledger_info(l, &info);
    if (txid < report->acknowledged || info.damaged)
        fail_msg("%s %u, died at step %llu: acknowledged TXID %llu, found %llu %s",
                 setup->work.journal_mode, setup->work.page_size, (unsigned long long)died_at,
                 (unsigned long long)report->acknowledged, (unsigned long long)txid, info.damage);
    size_t size;
    uint8_t *bytes = read_file(fsnode_path(&n, "app.db"), &size);
    if (txid > 0 && txid <= report->known) {
        /* The starts in between may have recorded unused pages. */
        uint64_t digest = digest_of_content(bytes, size);
        bool known = false;
        for (uint64_t i = txid; !known && i > 0 && i + died_at % 3 >= txid; i--)
            known = digest == report->digest[i];
        assert_true(known);
    }

    fsnode_lead(&n);
    tapvfs_register(fsnode_listen, &n);
    fsnode_settle(&n);
    logcopy_open(&copy);
    logcopy_advance(&copy, fsnode_ledger(&n, "app.db"));
    if (!logcopy_equals(&copy, bytes, size))
        fail_msg("%s %u, died at step %llu: at TXID %llu the file is not what the log says",
                 setup->work.journal_mode, setup->work.page_size, (unsigned long long)died_at,
                 (unsigned long long)txid);
    sqlite3 *db = sql_open(fsnode_path(&n, "app.db"), "tap");
    sql_check(db);
    uint64_t before = fsnode_txid(&n, "app.db");
    sql_do(db, "CREATE TABLE after(x); INSERT INTO after VALUES(1)");
    assert_true(fsnode_txid(&n, "app.db") == before + 2);
    sql_close(db);
    logcopy_advance(&copy, fsnode_ledger(&n, "app.db"));
    bytes = read_file(fsnode_path(&n, "app.db"), &size);
    assert_true(logcopy_equals(&copy, bytes, size));
    logcopy_close(&copy);
    fsnode_close(&n);
}

/* A start that dies, too. */
static void recover_and_die(uint64_t die_at)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        struct fsnode n;
        fsnode_die_at(die_at);
        fsnode_open(&n, root, false);
        fsnode_lead(&n);
        fsnode_settle(&n);
        fsnode_close(&n);
        _exit(0);
    }
    int status;
    waitpid(pid, &status, 0);
    assert_true(WIFEXITED(status));
    assert_true(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == FSNODE_DIED);
}

static void try_step(const struct setup *setup, uint64_t step)
{
    scratch_make(root);
    report->acknowledged = 0;
    int code = work_and_die(setup, step);
    if (code != FSNODE_DIED && code != 0)
        fail_msg("%s %u, step %llu: the child ended with %d", setup->work.journal_mode,
                 setup->work.page_size, (unsigned long long)step, code);
    for (unsigned i = 0; i < step % 3; i++)
        recover_and_die(1 + (step * 7 + i * 13) % 45);
    recover(setup, step);
    scratch_remove(root);
}

static void sweep(struct setup setup)
{
    setup.work.dice = seed + setup.number;
    setup.work.row_bytes = 900;
    struct sqlwork chosen = {.dice = ~setup.work.dice};
    memset(report, 0, sizeof *report);
    scratch_make(root);
    assert_int_equal(work_and_die(&setup, 0), 0);
    scratch_remove(root);
    uint64_t steps = report->steps;
    assert_true(steps > 100 && report->known > 2);
    if (getenv("TEST_STEP")) {
        try_step(&setup, strtoull(getenv("TEST_STEP"), NULL, 10));
        return;
    }
    if (getenv("TANDEMFS_FULL")) {
        for (uint64_t step = 1; step <= steps; step++)
            try_step(&setup, step);
    } else {
        for (unsigned i = 0; i < SAMPLES / dice_share(); i++)
            try_step(&setup, 1 + sqlwork_below(&chosen, (uint32_t)steps));
    }
}

static void nothing_acknowledged_is_lost_in_delete_mode(void **state)
{
    (void)state;
    sweep((struct setup){.number = 1, .work = {.journal_mode = "DELETE", .page_size = 512}});
    sweep((struct setup){.number = 2,
                         .work = {.journal_mode = "DELETE", .page_size = 1024, .auto_vacuum = 1},
                         .checkpoints = true});
}

static void nothing_acknowledged_is_lost_in_truncate_mode(void **state)
{
    (void)state;
    sweep((struct setup){
        .number = 3, .work = {.journal_mode = "TRUNCATE", .page_size = 1024}, .checkpoints = true});
}

static void nothing_acknowledged_is_lost_in_persist_mode(void **state)
{
    (void)state;
    sweep((struct setup){
        .number = 4, .work = {.journal_mode = "PERSIST", .page_size = 1024}, .checkpoints = true});
}

static void nothing_acknowledged_is_lost_in_wal_mode(void **state)
{
    (void)state;
    sweep((struct setup){.number = 5, .work = {.journal_mode = "WAL", .page_size = 512}});
    sweep((struct setup){.number = 6,
                         .work = {.journal_mode = "WAL", .page_size = 4096, .auto_vacuum = 2},
                         .checkpoints = true});
}

static void nothing_acknowledged_is_lost_while_modes_change(void **state)
{
    (void)state;
    sweep((struct setup){.number = 7,
                         .work = {.journal_mode = "DELETE",
                                  .page_size = 512,
                                  .changes_mode = true,
                                  .crashes = true,
                                  .changes_page_size = true},
                         .checkpoints = true});
}

int main(void)
{
    logger_configure(LOGGER_ERROR, false);
    tapvfs_lock_by_description();
    seed = dice_u64();
    report = mmap(NULL, sizeof *report, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_acknowledged_is_lost_in_delete_mode),
        cmocka_unit_test(nothing_acknowledged_is_lost_in_truncate_mode),
        cmocka_unit_test(nothing_acknowledged_is_lost_in_persist_mode),
        cmocka_unit_test(nothing_acknowledged_is_lost_in_wal_mode),
        cmocka_unit_test(nothing_acknowledged_is_lost_while_modes_change),
    };
    if (getenv("TEST_FILTER"))
        cmocka_set_test_filter(getenv("TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
