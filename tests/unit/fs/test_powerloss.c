/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
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
#include "ltx/checksum.h"
#include "tests/lib/dice.h"
#include "tests/lib/fsnode.h"
#include "tests/lib/logcopy.h"
#include "tests/lib/powerdisk.h"
#include "tests/lib/sql.h"
#include "tests/lib/sqlwork.h"

/*
 * The machine loses power at any moment of a workload, and what was not synced is there in part, in any
 * order. The next start finds every commit that was acknowledged, each database at exactly one of its
 * commits, and goes on.
 *
 * TANDEMFS_POWER_STATES: states for each workload. TEST_CUT=operation:seed, with TANDEMFS_SEED and
 * TEST_FILTER as printed: this one alone.
 */

#define STATES 300
#define AT_A_CUT 3      /* states that begin with the same operations */
#define SECOND_EVERY 12 /* of one state in so many the recovery is cut, too */
#define SECOND_STATES 12
#define STEPS 24
#define TXIDS 400
#define NOTES 400

struct setup {
    const char *name;
    struct sqlwork work;
    bool settles;   /* the recovery position moves, also at the worst moments */
    bool compacts;  /* segments are short, and are compacted and trimmed */
    unsigned steps; /* 0: STEPS */
};

/* What the workload knew. */
static struct {
    uint64_t checksum[TXIDS], digest[TXIDS]; /* of the database at each TXID */
    uint64_t last;
    uint64_t acknowledged[NOTES]; /* TXID, by mark */
    uint64_t notes;
} known;

static char root[SCRATCH_PATH_MAX];
static struct fsnode node;
static struct powerloss record;
static struct logcopy copy;
static unsigned leftovers;

static uint8_t *read_file(const char *path, size_t *size)
{
    static uint8_t bytes[4 * 1024 * 1024];
    int fd;
    *size = 0;
    if (file_open(AT_FDCWD, path, O_RDONLY, 0, &fd) != 0)
        return bytes;
    assert_int_equal(file_read_some(fd, bytes, sizeof bytes, 0, size), 0);
    file_close(fd);
    assert_true(*size < sizeof bytes);
    return bytes;
}

/* Of the tables: unused pages aside, which no journal brings back. 0: there is nothing, or it is
 * broken. */
static uint64_t digest_of(const uint8_t *bytes, size_t size)
{
    static const char *const text[] = {
        "SELECT name || ' ' || sql FROM sqlite_schema WHERE name <> 'after' ORDER BY name",
        "SELECT a || '|' || k || '|' || hex(b) FROM t ORDER BY a"};
    sqlite3_stmt *row;
    uint64_t digest = 0;
    if (size == 0)
        return 0;
    sqlite3 *db = sql_open(":memory:", NULL);
    unsigned char *mine = sqlite3_malloc64(size);
    memcpy(mine, bytes, size);
    mine[18] = mine[19] = 1; /* a database in memory has no WAL */
    assert_int_equal(sqlite3_deserialize(db, "main", mine, (sqlite3_int64)size, (sqlite3_int64)size,
                                         SQLITE_DESERIALIZE_FREEONCLOSE),
                     SQLITE_OK);
    char *said = sql_text(db, "PRAGMA integrity_check");
    bool whole = strcmp(said, "ok") == 0;
    if (!whole)
        fprintf(stderr, "%s\n", said);
    free(said);
    for (unsigned i = 0; i < 2 && whole; i++) {
        if (sqlite3_prepare_v2(db, text[i], -1, &row, NULL) != SQLITE_OK)
            continue; /* no table yet */
        while (sqlite3_step(row) == SQLITE_ROW)
            digest = checksum_update(digest, sqlite3_column_blob(row, 0),
                                     (size_t)sqlite3_column_bytes(row, 0));
        sqlite3_finalize(row);
    }
    sql_close(db);
    return whole ? digest | 1 : 0;
}

static uint64_t checksum_of(const uint8_t *bytes, size_t size, uint32_t page_size)
{
    uint64_t sum = LTX_EMPTY_CHECKSUM;
    for (uint32_t pgno = 1; (size_t)pgno * page_size <= size; pgno++)
        sum = checksum_toggle(
            sum, checksum_page(pgno, bytes + (size_t)(pgno - 1) * page_size, page_size));
    return sum;
}

/* ---- the workload ---- */

static void note_record(void *ctx, const struct logcopy *c)
{
    char path[64];
    size_t size;
    (void)ctx;
    assert_true(c->at.txid < TXIDS);
    snprintf(path, sizeof path, "/proc/self/fd/%d", c->fd);
    uint8_t *bytes = read_file(path, &size);
    known.checksum[c->at.txid] = c->at.checksum;
    known.digest[c->at.txid] = digest_of(bytes, size);
    assert_true(size == 0 || known.digest[c->at.txid] != 0);
    known.last = c->at.txid;
}

/* After a step: what has become of the database, and what of it was promised to last. */
static void note(const struct setup *setup, bool committed)
{
    struct ledger *l = fsnode_ledger(&node, "app.db");
    if (!l)
        return;
    logcopy_walk(&copy, l, note_record, NULL);
    const char *sync = setup->work.synchronous;
    bool full = !sync || strcmp(sync, "FULL") == 0 || strcmp(sync, "EXTRA") == 0;
    if (full && committed && !position_equal(ledger_durable(l), ledger_last(l)))
        fail_msg("%s: a commit was acknowledged that is not on disk", setup->name);
    known.notes++;
    assert_true(known.notes < NOTES);
    known.acknowledged[known.notes] = ledger_durable(l).txid;
    powerloss_mark(&record, known.notes);
}

static int listen_and_settle(void *ctx, const struct tap_event *e)
{
    int err = fsnode_listen(ctx, e);
    if (e->op == TAP_BEFORE_UNLINK || e->op == TAP_BEFORE_TRUNCATE || e->op == TAP_SYNC)
        fsnode_settle(ctx);
    return err;
}

static void maintain(void)
{
    fsnode_maintain(&node, &(struct txlog_retention){.size_bytes = 20000});
}

static void work(const struct setup *setup)
{
    struct sqlwork w = setup->work;
    w.row_bytes = 700;
    w.db = sql_open(fsnode_path(&node, "app.db"), "tap");
    sql_do(w.db, "PRAGMA temp_store=MEMORY");
    sqlwork_begin(&w);
    note(setup, true);
    for (unsigned i = 0; i < (setup->steps ? setup->steps : STEPS); i++) {
        int rc = sqlwork_step(&w);
        if (rc != SQLITE_OK)
            fail_msg("%s: %s: %s", setup->name, w.last, sqlite3_errmsg(w.db));
        note(setup, strstr(w.last, "ROLLBACK") == NULL);
        if (setup->settles && i % 3 == 1)
            fsnode_settle(&node);
        if (setup->compacts && i % 4 == 2)
            maintain();
        if (sqlwork_below(&w, 4) == 0) /* what a thread does when nobody asks for it */
            assert_int_equal(ledger_sync(fsnode_ledger(&node, "app.db"), UINT64_MAX), 0);
        note(setup, false);
    }
    sql_close(w.db);
}

static void start(const char *where)
{
    fsnode_open(&node, where, false);
}

static void lead(tap_listener *listener)
{
    fsnode_lead(&node);
    tapvfs_register(listener, &node);
}

static void record_work(const struct setup *setup)
{
    memset(&known, 0, sizeof known);
    scratch_make(root);
    fsnode_segment_bytes(setup->compacts ? 4096 : 0);
    powerloss_begin(&record, root);
    logcopy_open(&copy);
    start(root);
    lead(setup->settles ? listen_and_settle : fsnode_listen);
    work(setup);
    fsnode_settle(&node);
    note(setup, false);
    fsnode_close(&node);
    logcopy_close(&copy);
    powerloss_end(&record);
    scratch_remove(root);
}

/* ---- what a start makes of it ---- */

/* Whether the database may be at this content. */
static bool was_committed(uint64_t digest, uint64_t from)
{
    for (uint64_t txid = from; txid <= known.last; txid++)
        if (known.digest[txid] == digest)
            return true;
    return false;
}

/* `derived`: an earlier start may have added a record of unused pages. */
static void look_at_recovered(uint64_t acknowledged, bool derived)
{
    struct ledger *l = fsnode_ledger(&node, "app.db");
    struct ledger_info info = {0};
    size_t size;
    if (l)
        ledger_info(l, &info);
    if (info.damaged)
        fail_msg("the database is damaged: %s", info.damage);
    if (info.last.txid < acknowledged)
        fail_msg("TXID %llu was acknowledged, and the log ends with %llu",
                 (unsigned long long)acknowledged, (unsigned long long)info.last.txid);
    uint8_t *bytes = read_file(fsnode_path(&node, "app.db"), &size);
    if (info.last.txid == 0)
        return;
    bool same =
        info.last.txid <= known.last && known.checksum[info.last.txid] == info.last.checksum;
    if (!same && !derived)
        fail_msg("TXID %llu has another checksum than when it was made",
                 (unsigned long long)info.last.txid);
    if (size != (size_t)info.commit * info.page_size)
        fail_msg("the file has %zu bytes, and %u pages of %u", size, info.commit, info.page_size);
    if (info.commit == 0 || checksum_of(bytes, size, info.page_size) == info.last.checksum)
        return;
    leftovers++;
    if (!was_committed(digest_of(bytes, size), acknowledged))
        fail_msg("at TXID %llu the file holds no commit's state",
                 (unsigned long long)info.last.txid);
}

/* Each record that is kept can be read, and follows on the one before. */
static void look_at_log(struct ledger *l)
{
    struct txlog *log = ledger_log(l);
    struct txlog_entry e = {0};
    struct position at = txlog_first(log);
    int err = txlog_find_from(log, at, &e);
    while (!err) {
        struct ltx_header h;
        uint64_t post;
        assert_int_equal(ltx_verify(txlog_entry_source(&e), &h, &post, NULL, 0), 0);
        assert_true(post == e.post_checksum);
        at = (struct position){e.max_txid, post};
        err = txlog_next(log, &e);
    }
    assert_int_equal(err, -ERR_NOTFOUND);
    assert_true(position_equal(at, ledger_last(l)));
}

/* The node leads: the log takes the next transaction, and SQLite sees what the log says. */
static void look_at_next(uint64_t acknowledged)
{
    struct ledger_info info;
    size_t size;
    sqlite3 *db = sql_open(fsnode_path(&node, "app.db"), "tap");
    uint8_t *bytes = sql_bytes(db, "main", &size);
    if (!was_committed(digest_of(bytes, size), acknowledged))
        fail_msg("SQLite sees no commit's state");
    sqlite3_free(bytes);
    fsnode_settle(&node);
    uint64_t before = fsnode_txid(&node, "app.db");
    sql_do(db, "CREATE TABLE IF NOT EXISTS after(x); INSERT INTO after VALUES(1)");
    struct ledger *l = fsnode_ledger(&node, "app.db");
    if (fsnode_txid(&node, "app.db") < before + 1)
        fail_msg("the log did not take the next transaction");
    ledger_info(l, &info);
    bytes = sql_bytes(db, "main", &size);
    if (info.damaged || checksum_of(bytes, size, info.page_size) != info.last.checksum)
        fail_msg("after the next transaction SQLite does not see what the log says");
    sqlite3_free(bytes);
    look_at_log(l);
    sql_close(db);
}

/* As after a loss of power: the machine has started anew since. */
static void forget_boot(const char *where)
{
    char path[SCRATCH_PATH_MAX + 8];
    snprintf(path, sizeof path, "%s/boot", where);
    (void)unlink(path);
}

static void look(const char *where, uint64_t acknowledged, bool derived)
{
    forget_boot(where);
    start(where);
    look_at_recovered(acknowledged, derived);
    lead(fsnode_listen);
    fsnode_settle(&node);
    look_at_next(acknowledged);
    fsnode_close(&node);
}

/* ---- cuts ---- */

static size_t random_cut(const struct powerloss *p)
{
    size_t at = dice_below((uint32_t)p->op_count) + 1;
    /* Before a sync the most is pending. */
    if (dice_below(8) < 5)
        while (at < p->op_count && p->ops[at].kind != POWER_SYNC &&
               p->ops[at].kind != POWER_SYNC_DIR)
            at++;
    return at;
}

static int by_number(const void *a, const void *b)
{
    size_t x = *(const size_t *)a, y = *(const size_t *)b;
    return x < y ? -1 : x > y;
}

static size_t *random_cuts(const struct powerloss *p, size_t count)
{
    size_t *cuts = malloc(count * sizeof *cuts);
    assert_non_null(cuts);
    for (size_t i = 0; i < count; i++)
        cuts[i] = random_cut(p);
    qsort(cuts, count, sizeof *cuts, by_number);
    return cuts;
}

/* The disks are static: they are looked at after a failed test was left by a jump. */
static struct power_disk disk, second_disk;
static struct trial {
    const char *name;
    const struct power_disk *disk, *second;
    bool done;
} trial;

/* cmocka leaves a test that fails by a jump: this is what there is to say about it then. */
static int explain(void **state)
{
    (void)state;
    if (!trial.disk || trial.done)
        return 0;
    fprintf(stderr, "%s, TEST_CUT=%zu:%llu", trial.name, trial.disk->at,
            (unsigned long long)trial.disk->seed);
    if (trial.second)
        fprintf(stderr, ":%zu:%llu", trial.second->at, (unsigned long long)trial.second->seed);
    fprintf(stderr, "\n");
    power_disk_explain(trial.disk);
    if (trial.second)
        power_disk_explain(trial.second);
    file_ops = &file_ops_system;
    trial.done = true;
    return 0;
}

/* The recovery of a state is cut: at `at` and with `seed`, or at many places. */
static unsigned cut_recovery(uint64_t acknowledged, size_t at, uint64_t seed)
{
    static struct powerloss again;
    unsigned states = 0;
    scratch_make(root);
    power_disk_write(&disk, root);
    forget_boot(root);
    powerloss_begin(&again, root);
    start(root);
    lead(fsnode_listen);
    fsnode_settle(&node);
    fsnode_close(&node);
    powerloss_end(&again);
    scratch_remove(root);
    power_disk_init(&second_disk, &again);
    trial.second = &second_disk;
    size_t *cuts = random_cuts(&again, SECOND_STATES);
    for (unsigned i = 0; i < SECOND_STATES; i++) {
        power_disk_advance(&second_disk, at ? at : cuts[i]);
        if (!power_disk_choose(&second_disk, at ? seed : dice_u64() % (i % 3 ? UINT64_MAX : 2)))
            continue;
        scratch_make(root);
        power_disk_write(&second_disk, root);
        look(root, acknowledged, true);
        scratch_remove(root);
        states++;
    }
    free(cuts);
    trial.second = NULL;
    power_disk_fini(&second_disk);
    powerloss_fini(&again);
    return states;
}

static bool cut_once(uint64_t seed)
{
    uint64_t acknowledged = known.acknowledged[powerloss_marked(&record, disk.at)];
    if (!power_disk_choose(&disk, seed))
        return false;
    scratch_make(root);
    power_disk_write(&disk, root);
    look(root, acknowledged, false);
    scratch_remove(root);
    return true;
}

static void try_given(const char *cut)
{
    unsigned long long seed, second_seed = 0;
    size_t at, second_at = 0;
    int n = sscanf(cut, "%zu:%llu:%zu:%llu", &at, &seed, &second_at, &second_seed);
    assert_true(n >= 2);
    power_disk_init(&disk, &record);
    power_disk_advance(&disk, at);
    trial.disk = &disk;
    if (n == 2) {
        cut_once(seed);
    } else {
        (void)power_disk_choose(&disk, seed);
        cut_recovery(known.acknowledged[powerloss_marked(&record, at)], second_at, second_seed);
    }
    trial.disk = NULL;
    power_disk_fini(&disk);
}

static void sweep(struct setup setup)
{
    const char *wanted = getenv("TANDEMFS_POWER_STATES");
    size_t states = wanted ? strtoul(wanted, NULL, 10) : STATES;
    unsigned first = 0, second = 0;
    trial = (struct trial){.name = setup.name};
    setup.work.dice = dice_u64();
    record_work(&setup);
    if (getenv("TEST_CUT")) {
        try_given(getenv("TEST_CUT"));
        powerloss_fini(&record);
        return;
    }
    power_disk_init(&disk, &record);
    trial.disk = &disk;
    size_t count = states * 4 / (AT_A_CUT * 3) + 1;
    size_t *cuts = random_cuts(&record, count);
    for (size_t i = 0; i < count; i++) {
        power_disk_advance(&disk, cuts[i]);
        uint64_t acknowledged = known.acknowledged[powerloss_marked(&record, disk.at)];
        unsigned here = 0;
        for (uint64_t k = 0; k < 3 * AT_A_CUT && here < AT_A_CUT; k++) {
            if (!cut_once(k < 2 ? k : dice_u64()))
                continue;
            here++;
            if (first++ % SECOND_EVERY == 0)
                second += cut_recovery(acknowledged, 0, 0);
        }
    }
    print_message("%s: %llu transactions, %zu operations, %u states, %u of a start\n", setup.name,
                  (unsigned long long)known.last, record.op_count, first, second);
    assert_true(first > states / 3);
    free(cuts);
    trial.disk = NULL;
    power_disk_fini(&disk);
    powerloss_fini(&record);
}

#define WORK(mode, size) .journal_mode = mode, .page_size = size, .synchronous = "FULL"

static void a_loss_of_power_in_wal_mode_loses_nothing(void **state)
{
    (void)state;
    sweep((struct setup){.name = "WAL", .work = {WORK("WAL", 512)}});
    sweep((struct setup){
        .name = "WAL, settling", .work = {WORK("WAL", 1024), .auto_vacuum = 1}, .settles = true});
}

static void a_loss_of_power_in_delete_mode_loses_nothing(void **state)
{
    (void)state;
    sweep((struct setup){.name = "DELETE", .work = {WORK("DELETE", 512)}});
    sweep((struct setup){.name = "DELETE, settling",
                         .work = {WORK("DELETE", 1024), .auto_vacuum = 2},
                         .settles = true});
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
}

#define with_explanation(test) cmocka_unit_test_teardown(test, explain)

int main(void)
{
    logger_configure(getenv("TEST_CUT") ? LOGGER_INFO : LOGGER_ERROR + 1, false);
    tapvfs_lock_by_description();
    tapvfs_use_file_ops();
    const struct CMUnitTest tests[] = {
        with_explanation(a_loss_of_power_in_wal_mode_loses_nothing),
        with_explanation(a_loss_of_power_in_delete_mode_loses_nothing),
        with_explanation(a_loss_of_power_in_truncate_mode_loses_nothing),
        with_explanation(a_loss_of_power_in_persist_mode_loses_nothing),
        with_explanation(a_loss_of_power_while_modes_change_loses_nothing),
        with_explanation(a_loss_of_power_while_the_log_is_compacted_loses_nothing),
        with_explanation(a_loss_of_power_with_synchronous_normal_leaves_a_commits_state),
    };
    if (getenv("TEST_FILTER"))
        cmocka_set_test_filter(getenv("TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
