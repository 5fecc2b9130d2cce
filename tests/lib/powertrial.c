/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/powertrial.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "ltx/base/err.h"
#include "ltx/checksum.h"
#include "tests/lib/dice.h"
#include "tests/lib/logcopy.h"
#include "tests/lib/sql.h"

#define STATES 200
#define STATES_OF_ONE 70 /* workload: what is rare is in the workload more often than in the cut */
#define AT_A_CUT 3       /* states that begin with the same operations */
#define SECOND_EVERY 12  /* of one state in so many the start is cut, too */
#define SECOND_STATES 12
#define TXIDS 400
#define NOTES 1000
#define TOTALS 40

/* What the workload knew of one database. */
static struct known {
    uint64_t checksum[TXIDS], digest[TXIDS]; /* at each TXID */
    uint64_t last;
    uint64_t promised[NOTES]; /* TXID, by mark */
    struct logcopy copy;
} known[POWERTRIAL_DATABASES];

static struct powertrial trial;
static char label[96];
static uint64_t notes, dice;
static struct fsnode node;
static struct powerloss record, second_record;
/* Static, for they are looked at after a failed test was left by a jump. */
static struct power_disk disk, second_disk;
static char root[SCRATCH_PATH_MAX];
static bool sweeping, in_second;

/* ---- contents ---- */

static uint8_t *read_file(const char *path, size_t *size)
{
    static uint8_t bytes[4 * 1024 * 1024];
    *size = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return bytes;
    ssize_t n = pread(fd, bytes, sizeof bytes, 0);
    close(fd);
    assert_true(n >= 0 && (size_t)n < sizeof bytes);
    *size = (size_t)n;
    return bytes;
}

static uint64_t digest_of_rows(sqlite3 *db, const char *text, uint64_t digest)
{
    sqlite3_stmt *row;
    if (sqlite3_prepare_v2(db, text, -1, &row, NULL) != SQLITE_OK)
        return digest; /* there is no such table yet */
    while (sqlite3_step(row) == SQLITE_ROW)
        digest = checksum_update(digest, sqlite3_column_blob(row, 0),
                                 (size_t)sqlite3_column_bytes(row, 0));
    sqlite3_finalize(row);
    return digest;
}

/* Of the tables: unused pages aside, which no journal brings back. 0: there is nothing, or it is broken. */
static uint64_t digest_of(const uint8_t *bytes, size_t size)
{
    if (size == 0)
        return 0;
    sqlite3 *db = sql_open(":memory:", NULL);
    unsigned char *mine = sqlite3_malloc64(size);
    memcpy(mine, bytes, size);
    mine[18] = mine[19] = 1; /* a database in memory has no WAL */
    sqlite3_deserialize(db, "main", mine, (sqlite3_int64)size, (sqlite3_int64)size,
                        SQLITE_DESERIALIZE_FREEONCLOSE);
    sqlite3_stmt *check;
    uint64_t digest = 0;
    bool whole = sqlite3_prepare_v2(db, "PRAGMA integrity_check", -1, &check, NULL) == SQLITE_OK &&
                 sqlite3_step(check) == SQLITE_ROW;
    if (whole && strcmp((const char *)sqlite3_column_text(check, 0), "ok") != 0) {
        if (!trial.unguarded)
            fprintf(stderr, "%s\n", sqlite3_column_text(check, 0));
        whole = false;
    }
    sqlite3_finalize(check);
    if (whole) {
        digest = digest_of_rows(db,
                                "SELECT name || ' ' || coalesce(sql, '') FROM sqlite_schema "
                                "WHERE name <> 'after' ORDER BY name",
                                0);
        digest =
            digest_of_rows(db, "SELECT a || '|' || k || '|' || hex(b) FROM t ORDER BY a", digest);
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

static void start(const char *where)
{
    fsnode_segment_bytes(trial.segment_bytes);
    fsnode_open(&node, where, false);
}

static void lead(tap_listener *listener)
{
    fsnode_lead(&node);
    tapvfs_register(listener ? listener : fsnode_listen, &node);
}

bool powertrial_begin(const struct powertrial *t)
{
    static uint64_t seed;
    if (!seed)
        seed = dice_u64();
    snprintf(label, sizeof label, t->round ? "%s, %u" : "%s", t->name, t->round + 1);
    if (getenv("TEST_TRIAL") && strcmp(getenv("TEST_TRIAL"), label) != 0)
        return false;
    dice = checksum_update(seed, label, strlen(label));
    trial = *t;
    notes = 0;
    sweeping = in_second = false;
    for (unsigned i = 0; i < POWERTRIAL_DATABASES; i++) {
        memset(&known[i], 0, sizeof known[i]);
        logcopy_open(&known[i].copy);
    }
    scratch_make(root);
    powerloss_begin(&record, root);
    start(root);
    if (!trial.replica)
        lead(trial.listener);
    return true;
}

uint64_t powertrial_dice(void)
{
    uint64_t z = (dice += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint32_t powertrial_below(uint32_t n)
{
    return (uint32_t)(powertrial_dice() % n);
}

struct fsnode *powertrial_node(void)
{
    return &node;
}

static void note_record(void *ctx, const struct logcopy *c)
{
    struct known *k = ctx;
    char path[64];
    size_t size;
    assert_true(c->at.txid < TXIDS);
    snprintf(path, sizeof path, "/proc/self/fd/%d", c->fd);
    uint8_t *bytes = read_file(path, &size);
    k->checksum[c->at.txid] = c->at.checksum;
    k->digest[c->at.txid] = digest_of(bytes, size);
    assert_true(size == 0 || k->digest[c->at.txid] != 0);
    k->last = c->at.txid;
}

void powertrial_note(const char *synced)
{
    assert_true(++notes < NOTES);
    for (unsigned i = 0; i < POWERTRIAL_DATABASES && trial.databases[i]; i++) {
        struct ledger *l = fsnode_ledger(&node, trial.databases[i]);
        if (!l)
            continue;
        logcopy_walk(&known[i].copy, l, note_record, &known[i]);
        if (synced && strcmp(synced, trial.databases[i]) == 0 &&
            !position_equal(ledger_durable(l), ledger_last(l)))
            fail_msg("%s, %s: a commit was acknowledged that is not on disk", label,
                     trial.databases[i]);
        known[i].promised[notes] = ledger_durable(l).txid;
    }
    powerloss_mark(&record, notes);
}

void powertrial_kill_after(unsigned operations)
{
    powerloss_freeze_after(&record, operations);
}

bool powertrial_is_killed(void)
{
    return powerloss_is_frozen();
}

static int is_killed(void *ctx)
{
    (void)ctx;
    return powerloss_is_frozen();
}

void powertrial_client(sqlite3 *db)
{
    sqlite3_progress_handler(db, 100, is_killed, NULL);
}

void powertrial_revive(void)
{
    fsnode_close(&node);
    powerloss_thaw();
    start(root);
    lead(trial.listener);
}

void powertrial_end(void)
{
    powertrial_note(NULL);
    fsnode_close(&node);
    for (unsigned i = 0; i < POWERTRIAL_DATABASES; i++)
        logcopy_close(&known[i].copy);
    powerloss_end(&record);
    scratch_remove(root);
}

/* ---- what a start makes of it ---- */

/* May a database have this content? A renamed one brings that of another name along. */
static bool was_committed(unsigned i, uint64_t digest, uint64_t promised)
{
    for (uint64_t txid = promised; txid <= known[i].last; txid++)
        if (known[i].digest[txid] == digest)
            return true;
    for (unsigned k = 0; k < POWERTRIAL_DATABASES && digest != 0; k++)
        for (uint64_t txid = 1; k != i && txid <= known[k].last; txid++)
            if (known[k].digest[txid] == digest && promised == 0)
                return true;
    return trial.unguarded;
}

/* `derived`: an earlier start may have added records, of unused pages or of what it found. */
static void look_at_recovered(unsigned i, uint64_t promised, bool derived)
{
    const char *name = trial.databases[i];
    struct ledger *l = fsnode_ledger(&node, name);
    struct ledger_info info = {0};
    size_t size;
    if (l)
        ledger_info(l, &info);
    if (info.damaged)
        fail_msg("%s is damaged: %s", name, info.damage);
    if (info.last.txid < promised)
        fail_msg("%s: TXID %llu was to last, and the log ends with %llu", name,
                 (unsigned long long)promised, (unsigned long long)info.last.txid);
    uint64_t txid = info.last.txid;
    if (txid == 0)
        return;
    bool same = txid <= known[i].last && known[i].checksum[txid] == info.last.checksum;
    if (!same && !derived)
        fail_msg("%s: TXID %llu has another checksum than when it was made", name,
                 (unsigned long long)txid);
    uint8_t *bytes = read_file(fsnode_path(&node, name), &size);
    if (info.commit == 0 || trial.unguarded ||
        (size == (size_t)info.commit * info.page_size &&
         checksum_of(bytes, size, info.page_size) == info.last.checksum))
        return;
    if (!was_committed(i, digest_of(bytes, size), promised))
        fail_msg("%s: at TXID %llu the file holds no commit's state", name,
                 (unsigned long long)txid);
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

/* The bytes of the database as this connection sees it; of one that is broken, what is in its file. */
static uint8_t *seen_by(sqlite3 *db, const char *name, size_t *size)
{
    uint8_t *theirs = sql_bytes(db, "main", size), *mine;
    const uint8_t *bytes = theirs ? theirs : read_file(fsnode_path(&node, name), size);
    assert_true(theirs || trial.unguarded);
    mine = malloc(*size + 1);
    assert_non_null(mine);
    memcpy(mine, bytes, *size);
    sqlite3_free(theirs);
    return mine;
}

/* The log takes the next transaction, and SQLite sees what the log says. */
static void look_at_next(unsigned i, uint64_t promised)
{
    const char *name = trial.databases[i];
    struct ledger_info info;
    size_t size;
    struct ledger *l = fsnode_ledger(&node, name);
    uint64_t before = fsnode_txid(&node, name);
    (void)read_file(fsnode_path(&node, name), &size);
    bool there = size > 0;
    if (l)
        ledger_info(l, &info);
    if (l && info.last.txid > 0 && (info.commit > 0) != there)
        fail_msg("%s is %s, and its log says otherwise", name, there ? "there" : "not there");
    if (!there) {
        if (!was_committed(i, 0, promised))
            fail_msg("%s is gone", name);
        return;
    }
    sqlite3 *db = sql_open(fsnode_path(&node, name), "tap");
    uint8_t *bytes = seen_by(db, name, &size);
    if (!was_committed(i, digest_of(bytes, size), promised))
        fail_msg("%s: SQLite sees no commit's state", name);
    if (l && info.commit > 0 && !trial.unguarded &&
        checksum_of(bytes, size, info.page_size) != info.last.checksum)
        fail_msg("%s: SQLite does not see what the log says", name);
    free(bytes);
    int rc = sql_try(db, "CREATE TABLE IF NOT EXISTS after(x); INSERT INTO after VALUES(1)");
    if (rc != SQLITE_OK && !(trial.unguarded && (rc == SQLITE_CORRUPT || rc == SQLITE_NOTADB)))
        fail_msg("%s: no transaction is possible: %s", name, sqlite3_errmsg(db));
    fsnode_settle(&node);
    if (rc == SQLITE_OK) {
        if (fsnode_txid(&node, name) <= before)
            fail_msg("%s: the log did not take the next transaction", name);
        l = fsnode_ledger(&node, name);
        ledger_info(l, &info);
        bytes = seen_by(db, name, &size);
        if (info.damaged || checksum_of(bytes, size, info.page_size) != info.last.checksum)
            fail_msg("%s: after the next transaction SQLite does not see what the log says", name);
        free(bytes);
        look_at_log(l);
    }
    sql_close(db);
}

/* As after a loss of power: the machine has started anew since. */
static void forget_boot(const char *where)
{
    char path[SCRATCH_PATH_MAX + 8];
    snprintf(path, sizeof path, "%s/boot", where);
    (void)unlink(path);
}

static void look(const char *where, uint64_t mark, bool derived)
{
    forget_boot(where);
    start(where);
    for (unsigned i = 0; i < POWERTRIAL_DATABASES && trial.databases[i]; i++)
        look_at_recovered(i, known[i].promised[mark], derived);
    lead(NULL);
    fsnode_settle(&node);
    for (unsigned i = 0; i < POWERTRIAL_DATABASES && trial.databases[i]; i++)
        look_at_next(i, known[i].promised[mark]);
    if (trial.look)
        trial.look(&node);
    fsnode_close(&node);
}

/* ---- cuts ---- */

int powertrial_explain(void **state)
{
    (void)state;
    if (!sweeping)
        return 0;
    sweeping = false;
    file_ops = &file_ops_system;
    fprintf(stderr, "TEST_TRIAL='%s' TEST_CUT=%zu:%llu", label, disk.at,
            (unsigned long long)disk.seed);
    if (in_second)
        fprintf(stderr, ":%zu:%llu", second_disk.at, (unsigned long long)second_disk.seed);
    fprintf(stderr, "\n");
    power_disk_explain(&disk);
    if (in_second)
        power_disk_explain(&second_disk);
    return 0;
}

/* A start on the present state is cut: at `at` and with `seed`, or at many places. */
static unsigned cut_start(uint64_t mark, size_t at, uint64_t seed)
{
    unsigned states = 0;
    scratch_make(root);
    power_disk_write(&disk, root);
    forget_boot(root);
    powerloss_begin(&second_record, root);
    start(root);
    lead(NULL);
    fsnode_settle(&node);
    fsnode_close(&node);
    powerloss_end(&second_record);
    scratch_remove(root);
    power_disk_init(&second_disk, &second_record);
    in_second = true;
    size_t *cuts = power_cuts(&second_record, SECOND_STATES, powertrial_dice);
    for (unsigned i = 0; i < (at ? 1 : SECOND_STATES); i++) {
        power_disk_advance(&second_disk, at ? at : cuts[i]);
        if (!power_disk_choose(&second_disk,
                               at ? seed : powertrial_dice() % (i % 3 ? UINT64_MAX : 2)))
            continue;
        scratch_make(root);
        power_disk_write(&second_disk, root);
        look(root, mark, true);
        scratch_remove(root);
        states++;
    }
    free(cuts);
    in_second = false;
    power_disk_fini(&second_disk);
    powerloss_fini(&second_record);
    return states;
}

static bool cut_once(uint64_t mark, uint64_t seed)
{
    if (!power_disk_choose(&disk, seed))
        return false;
    scratch_make(root);
    power_disk_write(&disk, root);
    look(root, mark, false);
    scratch_remove(root);
    return true;
}

static void try_given(const char *cut)
{
    unsigned long long seed, second_seed = 0;
    size_t at, second_at = 0;
    int n = sscanf(cut, "%zu:%llu:%zu:%llu", &at, &seed, &second_at, &second_seed);
    assert_true(n >= 2);
    power_disk_advance(&disk, at);
    uint64_t mark = powerloss_marked(&record, at);
    if (n == 2) {
        cut_once(mark, seed);
    } else {
        (void)power_disk_choose(&disk, seed);
        cut_start(mark, second_at, second_seed);
    }
}

/* Of all rounds. */
static size_t wanted_states(void)
{
    const char *wanted = getenv("TANDEMFS_POWER_STATES");
    return wanted ? strtoul(wanted, NULL, 10) : STATES / dice_share();
}

unsigned powertrial_rounds(void)
{
    return (unsigned)((wanted_states() + STATES_OF_ONE - 1) / STATES_OF_ONE);
}

/* Of all rounds of one workload. */
static struct total {
    const char *name;
    unsigned rounds, first, second;
} totals[TOTALS];

static void add_up(unsigned first, unsigned second)
{
    struct total *t = totals;
    while (t->name && strcmp(t->name, trial.name) != 0)
        t++;
    assert_true(t + 1 < totals + TOTALS);
    t->name = trial.name;
    t->rounds++;
    t->first += first;
    t->second += second;
}

void powertrial_report(void)
{
    unsigned first = 0, second = 0;
    for (const struct total *t = totals; t->name; t++) {
        print_message("%s: %u workloads, %u states, %u of a start\n", t->name, t->rounds, t->first,
                      t->second);
        first += t->first;
        second += t->second;
    }
    print_message("in all: %u states, %u of a start\n", first, second);
}

static void try_many(void)
{
    unsigned first = 0, second = 0;
    size_t states = wanted_states() < STATES_OF_ONE ? wanted_states() : STATES_OF_ONE;
    size_t count = states * 4 / (AT_A_CUT * 3) + 1;
    size_t *cuts = power_cuts(&record, count, powertrial_dice);
    for (size_t i = 0; i < count; i++) {
        power_disk_advance(&disk, cuts[i]);
        uint64_t mark = powerloss_marked(&record, disk.at);
        unsigned here = 0;
        for (uint64_t k = 0; k < 3 * AT_A_CUT && here < AT_A_CUT; k++) {
            if (!cut_once(mark, k < 2 ? k : powertrial_dice()))
                continue;
            here++;
            if (first++ % SECOND_EVERY == 0)
                second += cut_start(mark, 0, 0);
        }
    }
    uint64_t transactions = 0;
    for (unsigned i = 0; i < POWERTRIAL_DATABASES; i++)
        transactions += known[i].last;
    print_message("%s: %llu transactions, %zu operations, %u states, %u of a start\n", label,
                  (unsigned long long)transactions, record.op_count, first, second);
    assert_true(transactions > 2 && first > states / 4);
    add_up(first, second);
    free(cuts);
}

void powertrial_sweep(void)
{
    sweeping = true;
    power_disk_init(&disk, &record);
    if (getenv("TEST_CUT"))
        try_given(getenv("TEST_CUT"));
    else
        try_many();
    sweeping = false;
    power_disk_fini(&disk);
    powerloss_fini(&record);
}
