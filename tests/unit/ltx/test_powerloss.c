/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
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
#include "ltx/base/file.h"
#include "ltx/base/logger.h"
#include "ltx/checksum.h"
#include "ltx/store.h"
#include "tests/lib/dice.h"
#include "tests/lib/model.h"
#include "tests/lib/powerdisk.h"
#include "tests/lib/record.h"
#include "tests/lib/scratch.h"

/*
 * A store loses power at any moment: in a commit, a sync, a checkpoint, while segments are compacted, past
 * the retention or superseded by a rebase, and in a start. What was synced is there, the page checksums
 * are those of exactly one transaction, the log leads there from the recovery position, and it goes on.
 *
 * TANDEMFS_POWER_STATES: states for each test; more of them take more workloads. A failed test prints it with
 * TEST_CUT=workload:operation:seed: with the same TANDEMFS_SEED and TEST_FILTER the workloads before are gone
 * through as they were, and in that one this state alone.
 */

#define STATES 700
#define STATES_OF_ONE 140 /* workload: what is rare is in the workload more often than in the cut */
#define AT_A_CUT 3
#define SECOND_EVERY 8
#define STEPS 120
#define HISTORY 400

/* Each state the database was in, in order. A rebase may take TXIDs back. */
static struct {
    struct position at;
    uint32_t commit;
    uint64_t sums[MODEL_PAGES_MAX];
} history[HISTORY];
static size_t history_count;

/* What the workload was told at a mark: places in the history. */
static struct promise {
    size_t durable;  /* synced up to here */
    size_t recovery; /* S is here at least, */
    size_t asked;    /* and here at most */
    uint32_t diverged;
} promises[STEPS * 5];
static size_t marks, s_now;

static unsigned all_first, all_second; /* states, of all rounds of a workload */
static struct powerloss record, second_record;
static struct power_disk disk, second_disk; /* looked at after a failed test was left by a jump */
static bool sweeping, in_second;
static size_t wanted_states;
static unsigned round_now; /* of the workloads of a test */
static char root[SCRATCH_PATH_MAX];
static struct store *store;
static struct ledger *ledger;
static int data_fd;

static void open_store(const char *path)
{
    struct store_options options = {.segment_bytes = 3000};
    assert_int_equal(file_open(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0, &data_fd), 0);
    assert_int_equal(store_open(&store, data_fd, &options), 0);
    ledger = store_find(store, "t.db");
}

static void close_store(void)
{
    store_close(store);
    file_close(data_fd);
    ledger = NULL;
}

/* ---- the workload ---- */

/* What a killed store is told fails, or only seems to be done. */
static void did(int rc)
{
    assert_true(rc == 0 || powerloss_is_frozen());
}

static void note(struct promise p)
{
    if (powerloss_is_frozen())
        return;
    promises[++marks] = p;
    assert_true(marks + 1 < sizeof promises / sizeof *promises);
    powerloss_mark(&record, marks);
}

static void remember(const struct model *m)
{
    if (position_equal(ledger_last(ledger), history[history_count - 1].at))
        return; /* it was killed before */
    assert_true(history_count < HISTORY);
    history[history_count].at = ledger_last(ledger);
    history[history_count].commit = m->commit;
    for (uint32_t pgno = 1; pgno <= m->commit; pgno++)
        history[history_count].sums[pgno - 1] =
            checksum_page(pgno, model_page(m, pgno), m->page_size);
    history_count++;
}

static size_t place_of(struct position p)
{
    for (size_t i = history_count; i-- > 0;)
        if (position_equal(history[i].at, p))
            return i;
    return SIZE_MAX;
}

/* The whole database of another node, at a TXID before or after this one's. */
static void rebase(struct model *m)
{
    struct ledger_receive r;
    struct buf bytes = {0};
    struct ltx_encoder e = {0};
    uint64_t size;
    m->commit = 1 + dice_below(MODEL_PAGES_MAX);
    for (uint32_t pgno = 1; pgno <= m->commit; pgno++)
        dice_page(model_page(m, pgno), m->page_size);
    struct ltx_header h = {.page_size = m->page_size,
                           .commit = m->commit,
                           .min_txid = 1,
                           .max_txid = 1 + ledger_last(ledger).txid / 2 + dice_below(100)};
    assert_int_equal(ltx_encode_begin(&e, sink_buf(&bytes), &h), 0);
    for (uint32_t pgno = 1; pgno <= m->commit; pgno++)
        assert_int_equal(ltx_encode_page(&e, pgno, model_page(m, pgno)), 0);
    assert_int_equal(ltx_encode_finish(&e, model_checksum(m), &size), 0);
    int rc = ledger_receive_begin(ledger, &r, bytes.len, TXLOG_REBASE);
    if (rc == 0)
        rc = ledger_receive_write(&r, bytes.data, bytes.len);
    if (rc == 0)
        rc = ledger_receive_finish(&r, NULL);
    did(rc);
    ltx_encode_fini(&e);
    buf_fini(&bytes);
}

/* Whether an empty database was there with this TXID: a second one would be at the same position, and the
 * promises are about places in the history. */
static bool was_empty_at(uint64_t txid)
{
    return place_of((struct position){txid, LTX_EMPTY_CHECKSUM}) != SIZE_MAX;
}

/* About a third of the pages change, and all new ones are put. */
static void commit(struct model *m, uint32_t pages)
{
    struct ledger_change change = {.page_size = 512, .commit = pages};
    int rc = ledger_begin(ledger, &m->tx, &change);
    for (uint32_t pgno = 1; rc == 0 && pgno <= pages; pgno++) {
        if (pgno != 1 && pgno <= m->commit && dice_below(3) != 0)
            continue;
        dice_page(model_page(m, pgno), 512);
        uint64_t unique = dice_u64();
        memcpy(model_page(m, pgno), &unique, sizeof unique);
        rc = ledger_put_page(&m->tx, pgno, model_page(m, pgno));
    }
    m->commit = pages;
    if (rc == 0 && dice_below(4) == 0)
        rc = ledger_seal(&m->tx);
    if (rc == 0)
        rc = ledger_publish(&m->tx, NULL);
    did(rc);
}

static void step(struct model *m, struct promise *p, bool rebases)
{
    static const struct txlog_retention keep[] = {{0}, {.size_bytes = 9000}, {.size_bytes = 1}};
    struct ledger_info info;
    uint32_t kept;
    size_t place;
    switch (dice_below(12)) {
    case 0:
    case 1:
        did(ledger_sync(ledger, UINT64_MAX));
        p->durable = history_count - 1;
        break;
    case 2:
        /* Some place since the last time, as the database file gets there. */
        place = s_now + dice_below((uint32_t)(history_count - s_now));
        p->asked = p->asked > place ? p->asked : place;
        note(*p);
        if (ledger_checkpoint(ledger, history[place].at) == 0) {
            p->recovery = p->asked = s_now = place;
            p->durable = place > p->durable ? place : p->durable;
        }
        break;
    case 3:
    case 4:
        ledger_info(ledger, &info);
        did(txlog_maintain(ledger_log(ledger), &keep[dice_below(3)], info.recovery.txid));
        break;
    case 5:
        if (!rebases)
            break;
        rebase(m);
        remember(m);
        if (history_count > 2) /* the first record is no rebase */
            p->durable = history_count - 1;
        break;
    case 6:
        ledger_info(ledger, &info);
        if (info.last.txid == 0 || dice_below(4))
            break;
        did(ledger_keep_diverged(ledger, info.last.txid - dice_below(2), &kept));
        ledger_info(ledger, &info);
        p->diverged = info.diverged;
        break;
    default:
        commit(m, m->commit == 0 || dice_below(12) || was_empty_at(ledger_last(ledger).txid + 1)
                      ? 1 + dice_below(MODEL_PAGES_MAX)
                      : 0);
        remember(m);
    }
    note(*p);
}

/*
 * The store was killed in a step that began with `known` places, these pages and this size. What it has told
 * since is not true: it is opened again, and the step was done, or was not.
 */
static void revive(struct model *m, size_t known, const uint8_t *pages, uint32_t commit,
                   struct promise *p)
{
    struct ledger_info info;
    close_store();
    powerloss_thaw();
    open_store(root);
    if (!ledger)
        assert_int_equal(store_get(store, "t.db", &ledger), 0);
    ledger_info(ledger, &info);
    size_t at = place_of(info.last), recovery = place_of(info.recovery);
    assert_true(at != SIZE_MAX && recovery != SIZE_MAX && !info.damaged);
    assert_true(at == known - 1 || at == known); /* the machine has lost nothing */
    if (at < known) {
        memcpy(m->pages, pages, (size_t)MODEL_PAGES_MAX * 512);
        m->commit = commit;
    }
    history_count = at + 1;
    if (p->asked < recovery)
        p->asked = recovery;
    s_now = recovery;
}

static void step_and_perhaps_die(struct model *m, struct promise *p, bool rebases)
{
    static uint8_t pages[MODEL_PAGES_MAX * 512];
    struct promise before = *p;
    uint32_t commit = m->commit;
    size_t known = history_count;
    memcpy(pages, m->pages, sizeof pages);
    if (dice_below(5) == 0)
        powerloss_freeze_after(&record, 1 + dice_below(12));
    step(m, p, rebases);
    powerloss_freeze_after(&record, 0);
    if (!powerloss_is_frozen())
        return;
    *p = before;
    revive(m, known, pages, commit, p);
    note(*p);
}

static void make(struct model *m, struct promise *p)
{
    powerloss_freeze_after(&record, dice_below(16));
    did(store_get(store, "t.db", &ledger));
    powerloss_freeze_after(&record, 0);
    if (powerloss_is_frozen())
        revive(m, 1, m->pages, 0, p);
}

static void work(bool rebases)
{
    struct model m;
    struct promise p = {0};
    model_init(&m);
    memset(history, 0, sizeof history);
    history_count = 1;
    marks = s_now = 0;
    scratch_make(root);
    powerloss_begin(&record, root);
    open_store(root);
    make(&m, &p);
    for (unsigned i = 0; i < STEPS; i++)
        step_and_perhaps_die(&m, &p, rebases);
    close_store();
    powerloss_end(&record);
    scratch_remove(root);
    model_fini(&m);
}

/* ---- what a start makes of it ---- */

static void look_at_log(struct position from)
{
    struct txlog *log = ledger_log(ledger);
    struct txlog_entry e = {0};
    struct position at = from;
    int err = txlog_find_from(log, at, &e);
    while (!err) {
        struct ltx_header h;
        uint64_t post;
        assert_int_equal(ltx_verify(txlog_entry_source(&e), &h, &post, NULL, 0), 0);
        assert_true(post == e.post_checksum && h.max_txid == e.max_txid);
        at = (struct position){e.max_txid, post};
        err = txlog_next(log, &e);
    }
    assert_int_equal(err, -ERR_NOTFOUND);
    if (!position_equal(at, ledger_last(ledger)))
        fail_msg("the log leads from TXID %llu to %llu only", (unsigned long long)from.txid,
                 (unsigned long long)at.txid);
}

static void look_at_diverged(const char *path)
{
    struct ledger_info info;
    char name[600];
    snprintf(name, sizeof name, "%s/diverged/t.db", path);
    int dir = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ledger_info(ledger, &info);
    if (info.diverged == 0) {
        close(dir);
        return;
    }
    assert_true(dir >= 0);
    DIR *d = fdopendir(dir);
    for (struct dirent *f; (f = readdir(d)) != NULL;) {
        if (strstr(f->d_name, ".ltx") == NULL)
            continue;
        struct ltx_file_range range = {.fd = openat(dir, f->d_name, O_RDONLY | O_CLOEXEC)};
        struct ltx_header h;
        uint64_t post;
        int64_t size;
        assert_int_equal(file_size(range.fd, &size), 0);
        assert_int_equal(ltx_verify(ltx_source_file(&range, (uint64_t)size), &h, &post, NULL, 0),
                         0);
        close(range.fd);
    }
    closedir(d);
}

/* Another page size, so that every page is put: what the pages are, only the workload knew. */
static void goes_on(const char *path)
{
    static struct ledger_tx tx;
    static const uint8_t page[4096] = {1, 2, 3};
    struct ledger_change change = {.page_size = 4096, .commit = 3};
    struct ledger_info info;
    struct position p;
    assert_int_equal(ledger_begin(ledger, &tx, &change), 0);
    for (uint32_t pgno = 1; pgno <= 3; pgno++)
        assert_int_equal(ledger_put_page(&tx, pgno, page), 0);
    assert_int_equal(ledger_publish(&tx, &p), 0);
    assert_int_equal(ledger_sync(ledger, p.txid), 0);
    assert_int_equal(ledger_checkpoint(ledger, p), 0);
    assert_int_equal(
        txlog_maintain(ledger_log(ledger), &(struct txlog_retention){.size_bytes = 4000}, p.txid),
        0);
    ledger_tx_fini(&tx);
    close_store();
    open_store(path);
    assert_non_null(ledger);
    ledger_info(ledger, &info);
    assert_false(info.damaged);
    assert_true(position_equal(info.last, p) && position_equal(info.recovery, p));
}

static void look(const char *path, const struct promise *p)
{
    struct ledger_info info;
    uint64_t sums[MODEL_PAGES_MAX + 1];
    open_store(path);
    if (!ledger) {
        if (p->durable > 0)
            fail_msg("the database is gone");
        assert_int_equal(store_foreign_count(store), 0);
        assert_int_equal(store_get(store, "t.db", &ledger), 0);
    }
    ledger_info(ledger, &info);
    if (info.damaged)
        fail_msg("damaged: %s", info.damage);
    size_t last = place_of(info.last), recovery = place_of(info.recovery);
    if (last == SIZE_MAX || last < p->durable)
        fail_msg("TXID %llu was to last, and the log ends with %llu",
                 (unsigned long long)history[p->durable].at.txid,
                 (unsigned long long)info.last.txid);
    if (recovery < p->recovery || recovery > p->asked)
        fail_msg("S is at TXID %llu, and should be between %llu and %llu",
                 (unsigned long long)info.recovery.txid,
                 (unsigned long long)history[p->recovery].at.txid,
                 (unsigned long long)history[p->asked].at.txid);
    assert_int_equal(info.commit, history[last].commit);
    assert_int_equal(ledger_page_sums(ledger, 1, MODEL_PAGES_MAX + 1, sums), info.commit);
    assert_memory_equal(sums, history[last].sums, info.commit * sizeof *sums);
    look_at_log(info.recovery);
    look_at_log(info.first);
    if (info.diverged < p->diverged)
        fail_msg("%u of %u diverged records are there", info.diverged, p->diverged);
    look_at_diverged(path);
    goes_on(path);
    close_store();
}

/* ---- cuts ---- */

static bool try_state(struct power_disk *d, uint64_t seed, size_t mark)
{
    if (!power_disk_choose(d, seed))
        return false;
    scratch_make(root);
    power_disk_write(d, root);
    look(root, &promises[mark]);
    scratch_remove(root);
    return true;
}

/* A start on the present state, and an orderly end. */
static unsigned cut_start(size_t mark)
{
    unsigned states = 0;
    scratch_make(root);
    power_disk_write(&disk, root);
    powerloss_begin(&second_record, root);
    open_store(root);
    close_store();
    powerloss_end(&second_record);
    scratch_remove(root);
    if (second_record.op_count == 0) {
        powerloss_fini(&second_record);
        return 0;
    }
    power_disk_init(&second_disk, &second_record);
    in_second = true;
    size_t *cuts = power_cuts(&second_record, 8, dice_u64);
    for (unsigned i = 0; i < 8; i++) {
        power_disk_advance(&second_disk, cuts[i]);
        states += try_state(&second_disk, i % 2 ? dice_u64() : dice_below(2), mark);
    }
    free(cuts);
    in_second = false;
    power_disk_fini(&second_disk);
    powerloss_fini(&second_record);
    return states;
}

static void try_many(const char *name, size_t states)
{
    unsigned first = 0, second = 0;
    size_t count = states * 4 / (AT_A_CUT * 3) + 1;
    size_t *cuts = power_cuts(&record, count, dice_u64);
    for (size_t i = 0; i < count; i++) {
        power_disk_advance(&disk, cuts[i]);
        size_t mark = powerloss_marked(&record, disk.at);
        unsigned here = 0;
        for (uint64_t k = 0; k < 3 * AT_A_CUT && here < AT_A_CUT; k++) {
            if (!try_state(&disk, k < 2 ? k : dice_u64(), mark))
                continue;
            here++;
            if (first++ % SECOND_EVERY == 0)
                second += cut_start(mark);
        }
    }
    print_message("%s: %zu transactions, %zu operations, %u states, %u of a start\n", name,
                  history_count, record.op_count, first, second);
    all_first += first;
    all_second += second;
    assert_true(history_count > 20 && first > states / 10);
    free(cuts);
}

/* False: it is of another workload. */
static bool try_given(const char *cut)
{
    unsigned of;
    size_t at;
    unsigned long long seed;
    assert_int_equal(sscanf(cut, "%u:%zu:%llu", &of, &at, &seed), 3);
    if (of != round_now)
        return false;
    power_disk_advance(&disk, at);
    (void)try_state(&disk, seed, powerloss_marked(&record, at));
    return true;
}

static void sweep_once(const char *name, bool rebases, size_t states)
{
    const char *cut = getenv("TEST_CUT");
    round_now++;
    work(rebases);
    power_disk_init(&disk, &record);
    sweeping = true;
    if (cut == NULL || !try_given(cut))
        try_many(name, states);
    sweeping = false;
    power_disk_fini(&disk);
    powerloss_fini(&record);
}

static void sweep(const char *name, bool rebases)
{
    const char *wanted = getenv("TANDEMFS_POWER_STATES");
    wanted_states = wanted ? strtoul(wanted, NULL, 10) : STATES / dice_share();
    size_t states = wanted_states;
    all_first = all_second = round_now = 0;
    for (; states > STATES_OF_ONE; states -= STATES_OF_ONE)
        sweep_once(name, rebases, STATES_OF_ONE);
    sweep_once(name, rebases, states);
    print_message("%s: in all %u workloads, %u states, %u of a start\n", name, round_now, all_first,
                  all_second);
}

static int explain(void **state)
{
    (void)state;
    if (!sweeping)
        return 0;
    sweeping = false;
    fprintf(stderr, "TANDEMFS_POWER_STATES=%zu TEST_CUT=%u:%zu:%llu\n", wanted_states, round_now,
            disk.at, (unsigned long long)disk.seed);
    power_disk_explain(&disk);
    if (in_second)
        power_disk_explain(&second_disk);
    return 0;
}

static void a_loss_of_power_takes_no_durable_record(void **state)
{
    (void)state;
    sweep("commits, compaction and retention", false);
}

static void a_loss_of_power_around_a_rebase_leaves_one_side_of_it(void **state)
{
    (void)state;
    sweep("rebases", true);
}

int main(void)
{
    logger_configure(getenv("TEST_CUT") ? LOGGER_INFO : LOGGER_ERROR + 1, false);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(a_loss_of_power_takes_no_durable_record, explain),
        cmocka_unit_test_teardown(a_loss_of_power_around_a_rebase_leaves_one_side_of_it, explain),
    };
    if (getenv("TEST_FILTER"))
        cmocka_set_test_filter(getenv("TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
