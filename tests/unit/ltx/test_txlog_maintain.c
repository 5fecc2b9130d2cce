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

#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "tests/lib/dice.h"
#include "tests/lib/logworld.h"

#define SMALL 4096

static const struct txlog_retention keep_all = {0};

static int segments(struct world *w)
{
    return folder_count(&w->folder, "log", ".seg", NULL);
}

static int ltx_files(struct world *w)
{
    return folder_count(&w->folder, "ltx", ".ltx", NULL);
}

/* The database at txid `from`, with the records from there on laid over it, must be the image. */
static void assert_leads_to_the_end(struct world *w, int from)
{
    struct image m;
    image_init(&m, WORLD_PAGE_SIZE);
    m.pages = calloc(64, WORLD_PAGE_SIZE);
    m.commit = 0;
    struct txlog_entry e;
    uint64_t at = (uint64_t)from;
    int rc = txlog_find(w->log, at, &e);
    while (rc == 0) {
        assert_true(e.min_txid <= at + 1 && e.max_txid > at);
        at = e.max_txid;
        struct ltx_decoder d;
        assert_int_equal(ltx_decode_begin(&d, txlog_entry_source(&e)), 0);
        uint32_t pgno;
        uint8_t page[WORLD_PAGE_SIZE];
        while ((rc = ltx_decode_page(&d, &pgno, page)) > 0)
            memcpy(image_page(&m, pgno), page, sizeof page);
        assert_int_equal(rc, 0);
        m.commit = d.header.commit;
        ltx_decode_fini(&d);
        rc = txlog_next(w->log, &e);
    }
    assert_int_equal(rc, -ERR_NOTFOUND);
    assert_true(at == txlog_last(w->log).txid);
    if (from == 0)
        assert_true(image_checksum(&m) == txlog_last(w->log).checksum);
    image_fini(&m);
}

static void closed_segments_become_ltx_files(void **state)
{
    (void)state;
    struct world w;
    world_make(&w, SMALL);
    world_append(&w, 1, WORLD_RECORDS);
    int before = segments(&w);
    assert_true(before > 5);
    assert_int_equal(txlog_maintain(w.log, &keep_all, WORLD_RECORDS), 0);
    assert_int_equal(segments(&w), 1);
    /* The active one is closed, too, if it happens to be long enough. */
    assert_in_range(ltx_files(&w), before - 1, before);
    char name[256];
    folder_count(&w.folder, "ltx", ".ltx", name);
    assert_memory_equal(name, "0000000000000001-", 17);
    assert_int_equal(folder_count(&w.folder, "ltx", ".tmp", NULL), 0);
    for (int i = 0; i < WORLD_RECORDS; i++)
        assert_leads_to_the_end(&w, i);
    world_kill(&w, SMALL);
    assert_position(txlog_last(w.log), w.at[WORLD_RECORDS]);
    assert_position(txlog_first(w.log), (struct position){0, 0});
    for (int i = 0; i < WORLD_RECORDS; i++)
        assert_leads_to_the_end(&w, i);
    world_fini(&w);
}

static void maintenance_that_is_to_end_leaves_the_log_as_it_was(void **state)
{
    (void)state;
    struct world w;
    world_make(&w, SMALL);
    world_append(&w, 1, WORLD_RECORDS);
    int before = segments(&w);
    txlog_end_maintenance(w.log);
    assert_int_equal(txlog_maintain(w.log, &keep_all, WORLD_RECORDS), -ERR_CLOSED);
    assert_int_equal(ltx_files(&w), 0);
    assert_int_equal(folder_count(&w.folder, "ltx", ".tmp", NULL), 0);
    assert_in_range(segments(&w), before, before + 1);
    assert_leads_to_the_end(&w, 0);
    world_kill(&w, SMALL);
    assert_int_equal(txlog_maintain(w.log, &keep_all, WORLD_RECORDS), 0);
    assert_int_equal(segments(&w), 1);
    assert_leads_to_the_end(&w, 0);
    world_fini(&w);
}

static void only_what_recovery_has_passed_is_compacted(void **state)
{
    (void)state;
    struct world w;
    world_make(&w, SMALL);
    world_append(&w, 1, WORLD_RECORDS);
    assert_int_equal(txlog_maintain(w.log, &keep_all, 0), 0);
    assert_int_equal(ltx_files(&w), 0);
    assert_holds(&w, 0, WORLD_RECORDS);
    assert_int_equal(txlog_maintain(w.log, &keep_all, WORLD_RECORDS / 2), 0);
    assert_true(ltx_files(&w) > 0);
    struct txlog_entry e;
    for (int i = WORLD_RECORDS / 2; i < WORLD_RECORDS; i++) {
        assert_int_equal(txlog_find_from(w.log, w.at[i], &e), 0);
        assert_is_record(&e, &w.records[i + 1]);
        txlog_entry_release(&e);
    }
    world_fini(&w);
}

static void a_pin_keeps_what_comes_after_it(void **state)
{
    (void)state;
    struct world w;
    world_make(&w, SMALL);
    world_append(&w, 1, WORLD_RECORDS);
    struct txlog_pin low, high;
    txlog_pin(w.log, &high, 50);
    txlog_pin(w.log, &low, 20);
    struct txlog_retention nothing = {.size_bytes = 1};
    assert_int_equal(txlog_maintain(w.log, &nothing, WORLD_RECORDS), 0);
    struct txlog_entry e;
    for (int i = 20; i < WORLD_RECORDS; i++) {
        assert_int_equal(txlog_find(w.log, (uint64_t)i, &e), 0);
        assert_is_record(&e, &w.records[i + 1]);
        txlog_entry_release(&e);
    }
    assert_true(txlog_first(w.log).txid > 0 && txlog_first(w.log).txid <= 20);
    txlog_pin_move(&low, 40);
    assert_int_equal(txlog_maintain(w.log, &nothing, WORLD_RECORDS), 0);
    assert_true(txlog_first(w.log).txid > 20 && txlog_first(w.log).txid <= 40);
    txlog_unpin(&low);
    txlog_unpin(&low);
    assert_int_equal(txlog_maintain(w.log, &nothing, WORLD_RECORDS), 0);
    assert_true(txlog_first(w.log).txid > 40 && txlog_first(w.log).txid <= 50);
    txlog_unpin(&high);
    assert_int_equal(txlog_maintain(w.log, &nothing, WORLD_RECORDS), 0);
    assert_true(txlog_first(w.log).txid > 50);
    assert_position(txlog_last(w.log), w.at[WORLD_RECORDS]);
    world_fini(&w);
}

static int64_t fake_wall_ms;
static int64_t fake_wall(void)
{
    return fake_wall_ms;
}

static void the_retention_is_by_time(void **state)
{
    (void)state;
    struct world w;
    struct clock_ops ops = *clock_ops;
    const struct clock_ops *system = clock_ops;
    ops.wall_ms = fake_wall;
    /* The records of the test are made a millisecond apart. */
    fake_wall_ms = 1700000000000 + WORLD_RECORDS;
    clock_ops = &ops;
    world_make(&w, SMALL);
    world_append(&w, 1, WORLD_RECORDS);
    struct txlog_retention r = {.age_ms = 30};
    assert_int_equal(txlog_maintain(w.log, &r, WORLD_RECORDS), 0);
    uint64_t first = txlog_first(w.log).txid;
    assert_true(first > 5 && first < 32);
    assert_leads_to_the_end(&w, 32);
    fake_wall_ms += 100;
    assert_int_equal(txlog_maintain(w.log, &r, WORLD_RECORDS), 0);
    /* The active segment was closed, too, and is gone; its position is not. */
    assert_position(txlog_first(w.log), w.at[WORLD_RECORDS]);
    assert_position(txlog_last(w.log), w.at[WORLD_RECORDS]);
    assert_int_equal(ltx_files(&w), 0);
    assert_int_equal(segments(&w), 1);
    world_kill(&w, SMALL);
    assert_position(txlog_last(w.log), w.at[WORLD_RECORDS]);
    clock_ops = system;
    world_fini(&w);
}

static void what_a_reader_holds_stays_readable(void **state)
{
    (void)state;
    struct world w;
    world_make(&w, SMALL);
    world_append(&w, 1, WORLD_RECORDS);
    struct txlog_entry held[WORLD_RECORDS];
    for (int i = 0; i < WORLD_RECORDS; i++)
        assert_int_equal(txlog_find(w.log, (uint64_t)i, &held[i]), 0);
    assert_int_equal(txlog_maintain(w.log, &keep_all, WORLD_RECORDS), 0);
    for (int i = 0; i < WORLD_RECORDS; i++)
        assert_is_record(&held[i], &w.records[i + 1]);
    /* The next of one whose segment is gone is in the LTX file. */
    assert_int_equal(txlog_next(w.log, &held[3]), 0);
    assert_true(held[3].min_txid <= 5 && held[3].max_txid >= 5);
    struct txlog_retention nothing = {.size_bytes = 1};
    assert_int_equal(txlog_maintain(w.log, &nothing, WORLD_RECORDS), 0);
    assert_int_equal(txlog_next(w.log, &held[0]), -ERR_NOTFOUND);
    for (int i = 0; i < WORLD_RECORDS; i++)
        txlog_entry_release(&held[i]);
    world_fini(&w);
}

/* The machine stops after the LTX file is there and before the segment is gone. */
static void a_segment_that_an_ltx_file_replaces_is_removed_at_the_start(void **state)
{
    (void)state;
    struct world w;
    world_make(&w, SMALL);
    world_append(&w, 1, WORLD_RECORDS);
    struct folder before;
    folder_copy(&before, &w.folder);
    char name[256], path[300];
    folder_count(&before, "log", ".seg", name);
    snprintf(path, sizeof path, "log/%s", name);
    size_t size;
    uint8_t *bytes = folder_read(&before, path, &size);
    struct txlog_entry e;
    assert_int_equal(txlog_find(w.log, 0, &e), 0);
    uint64_t limit = 0;
    txlog_entry_release(&e);
    while (ltx_files(&w) == 0)
        assert_int_equal(txlog_maintain(w.log, &keep_all, ++limit), 0);
    assert_int_equal(ltx_files(&w), 1);
    folder_write(&w.folder, path, bytes, size);
    folder_write(&w.folder, "ltx/compact.tmp", bytes, size);
    world_kill(&w, SMALL);
    assert_false(file_exists(w.folder.fd, path));
    assert_false(file_exists(w.folder.fd, "ltx/compact.tmp"));
    assert_position(txlog_first(w.log), (struct position){0, 0});
    assert_leads_to_the_end(&w, 0);
    free(bytes);
    folder_remove(&before);
    world_fini(&w);
}

/* A record that puts everything at `txid`, as a bring-up makes it. */
static void make_rebase(struct image *m, uint64_t txid, struct buf *record)
{
    image_init(m, WORLD_PAGE_SIZE);
    m->txid = txid - 1;
    m->checksum = LTX_CHECKSUM_BIT | 77;
    image_transaction(m, 12, record);
}

static void a_rebase_begins_a_new_chain(void **state)
{
    (void)state;
    static const uint64_t txids[] = {15, 30, 200}; /* back, to the same, and forth */
    for (size_t i = 0; i < 3; i++) {
        struct world w;
        world_make(&w, SMALL);
        world_append(&w, 1, 30);
        assert_int_equal(txlog_maintain(w.log, &keep_all, 12), 0);
        struct image m;
        struct buf rebase = {0}, next = {0};
        make_rebase(&m, txids[i], &rebase);
        struct position r = {m.txid, m.checksum};
        assert_int_equal(world_append_bytes(w.log, &rebase, TXLOG_REBASE), 0);
        image_transaction(&m, 13, &next);
        struct position end = {m.txid, m.checksum};
        assert_int_equal(world_append_bytes(w.log, &next, 0), 0);
        for (int started = 0; started < 2; started++) {
            assert_position(txlog_last(w.log), end);
            assert_position(txlog_first(w.log), r);
            struct txlog_entry e;
            /* A peer gets nothing from before. */
            for (uint64_t after = 0; after < r.txid; after++)
                assert_int_equal(txlog_find(w.log, after, &e), -ERR_NOTFOUND);
            assert_int_equal(txlog_find(w.log, r.txid, &e), 0);
            assert_is_record(&e, &next);
            txlog_entry_release(&e);
            assert_int_equal(txlog_find_ending(w.log, r, &e), 0);
            assert_is_record(&e, &rebase);
            txlog_entry_release(&e);
            /* This node comes from the old chain over the rebase into the new one. */
            assert_int_equal(txlog_find_from(w.log, w.at[20], &e), 0);
            for (int k = 21; k <= 30; k++) {
                assert_is_record(&e, &w.records[k]);
                assert_int_equal(txlog_next(w.log, &e), 0);
            }
            assert_is_record(&e, &rebase);
            assert_int_equal(e.flags, TXLOG_REBASE);
            assert_int_equal(txlog_next(w.log, &e), 0);
            assert_is_record(&e, &next);
            assert_int_equal(txlog_next(w.log, &e), -ERR_NOTFOUND);
            assert_int_equal(txlog_find_from(w.log, w.at[30], &e), 0);
            assert_is_record(&e, &rebase);
            txlog_entry_release(&e);
            assert_int_equal(
                txlog_maintain(w.log, &(struct txlog_retention){.size_bytes = 1}, UINT64_MAX), 0);
            world_kill(&w, SMALL);
        }
        assert_int_equal(txlog_drop_superseded(w.log, w.at[20]), 0); /* it is not there yet */
        assert_true(segments(&w) > 3);
        assert_int_equal(txlog_drop_superseded(w.log, r), 0);
        assert_true(segments(&w) <= 3); /* the new chain's: the two records may be long */
        assert_int_equal(ltx_files(&w), 0);
        world_kill(&w, SMALL);
        assert_position(txlog_first(w.log), r);
        assert_position(txlog_last(w.log), end);
        struct txlog_entry e;
        assert_int_equal(txlog_find_from(w.log, w.at[20], &e), -ERR_NOTFOUND);
        assert_int_equal(txlog_find_from(w.log, w.at[30], &e), 0);
        assert_is_record(&e, &rebase);
        txlog_entry_release(&e);
        /* It may be compacted, too; the rebase itself is of no use then. */
        struct txlog_retention old = {.age_ms = 1};
        struct txlog_pin pin;
        txlog_pin(w.log, &pin, r.txid);
        assert_int_equal(txlog_maintain(w.log, &old, end.txid), 0);
        assert_position(txlog_first(w.log), r);
        txlog_unpin(&pin);
        assert_int_equal(txlog_maintain(w.log, &old, end.txid), 0);
        assert_position(txlog_last(w.log), end);
        world_kill(&w, SMALL);
        assert_position(txlog_last(w.log), end);
        image_fini(&m);
        buf_fini(&rebase);
        buf_fini(&next);
        world_fini(&w);
    }
}

/* Nothing lies before it, and its record is all the same what the database file needs. */
static void a_rebase_in_the_only_file_is_kept_until_it_is_applied(void **state)
{
    (void)state;
    static const struct txlog_retention nothing = {.size_bytes = 1};
    struct world w;
    struct image m;
    struct buf rebase = {0}, next = {0};
    struct txlog_entry e;
    world_make(&w, SMALL);
    world_append(&w, 1, 30);
    assert_int_equal(txlog_maintain(w.log, &nothing, 30), 0);
    assert_int_equal(segments(&w) + ltx_files(&w), 1);
    make_rebase(&m, 15, &rebase);
    struct position r = {m.txid, m.checksum};
    image_transaction(&m, 13, &next);
    assert_int_equal(world_append_bytes(w.log, &rebase, TXLOG_REBASE), 0);
    assert_int_equal(world_append_bytes(w.log, &next, 0), 0);
    for (int started = 0; started < 2; started++) {
        assert_int_equal(txlog_maintain(w.log, &nothing, 30), 0);
        assert_int_equal(txlog_drop_superseded(w.log, w.at[30]), 0);
        assert_int_equal(txlog_find_from(w.log, w.at[30], &e), 0);
        assert_is_record(&e, &rebase);
        assert_int_equal(txlog_next(w.log, &e), 0);
        assert_is_record(&e, &next);
        txlog_entry_release(&e);
        world_kill(&w, SMALL);
    }
    assert_int_equal(txlog_drop_superseded(w.log, r), 0);
    assert_int_equal(txlog_maintain(w.log, &nothing, m.txid), 0);
    assert_int_equal(txlog_find_from(w.log, w.at[30], &e), -ERR_NOTFOUND);
    assert_position(txlog_last(w.log), (struct position){m.txid, m.checksum});
    image_fini(&m);
    buf_fini(&rebase);
    buf_fini(&next);
    world_fini(&w);
}

static void a_rebase_that_was_not_published_changes_nothing(void **state)
{
    (void)state;
    struct world w;
    world_make(&w, 0);
    world_append(&w, 1, 10);
    struct txlog_append a;
    assert_int_equal(txlog_append_begin(w.log, &a, TXLOG_REBASE), 0);
    assert_int_equal(txlog_append_write(&a, w.records[20].data, w.records[20].len), 0);
    assert_int_equal(txlog_append_flush(&a), 0);
    struct folder copy;
    folder_copy(&copy, &w.folder);
    txlog_append_abort(&a);
    assert_holds(&w, 0, 10);
    txlog_close(w.log);
    folder_remove(&w.folder);
    w.folder = copy;
    world_open_log(&w, 0);
    assert_holds(&w, 0, 10);
    world_append(&w, 11, 20);
    world_kill(&w, 0);
    assert_holds(&w, 0, 20);
    world_fini(&w);
}

static void a_snapshot_on_an_empty_log_is_no_rebase(void **state)
{
    (void)state;
    struct world w;
    world_make(&w, 0);
    assert_int_equal(world_append_bytes(w.log, &w.records[1], TXLOG_REBASE), 0);
    world_append(&w, 2, 5);
    assert_holds(&w, 0, 5);
    world_fini(&w);
}

static void a_reset_log_begins_where_it_is_told(void **state)
{
    (void)state;
    struct world w;
    world_make(&w, SMALL);
    world_append(&w, 1, 30);
    assert_int_equal(txlog_maintain(w.log, &keep_all, 12), 0);
    struct folder before;
    folder_copy(&before, &w.folder);
    assert_int_equal(txlog_reset(w.log, w.at[17]), 0);
    assert_holds(&w, 17, 17);
    assert_int_equal(segments(&w), 1);
    assert_int_equal(ltx_files(&w), 0);
    world_append(&w, 18, 40);
    assert_holds(&w, 17, 40);
    world_kill(&w, SMALL);
    assert_holds(&w, 17, 40);
    /* The machine stopped before the old files were gone. */
    char name[256], path[300];
    folder_count(&before, "log", ".seg", name);
    snprintf(path, sizeof path, "log/%s", name);
    size_t size;
    uint8_t *bytes = folder_read(&before, path, &size);
    folder_write(&w.folder, path, bytes, size);
    world_kill(&w, SMALL);
    assert_holds(&w, 17, 40);
    assert_false(file_exists(w.folder.fd, path));
    free(bytes);
    folder_remove(&before);
    world_fini(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(closed_segments_become_ltx_files),
        cmocka_unit_test(maintenance_that_is_to_end_leaves_the_log_as_it_was),
        cmocka_unit_test(only_what_recovery_has_passed_is_compacted),
        cmocka_unit_test(a_pin_keeps_what_comes_after_it),
        cmocka_unit_test(the_retention_is_by_time),
        cmocka_unit_test(what_a_reader_holds_stays_readable),
        cmocka_unit_test(a_segment_that_an_ltx_file_replaces_is_removed_at_the_start),
        cmocka_unit_test(a_rebase_begins_a_new_chain),
        cmocka_unit_test(a_rebase_in_the_only_file_is_kept_until_it_is_applied),
        cmocka_unit_test(a_rebase_that_was_not_published_changes_nothing),
        cmocka_unit_test(a_snapshot_on_an_empty_log_is_no_rebase),
        cmocka_unit_test(a_reset_log_begins_where_it_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
