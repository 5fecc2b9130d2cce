/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/thread.h"
#include "ltx/txlog.h"
#include "tests/lib/logworld.h"

static void an_empty_log_has_nothing(void **state)
{
    (void)state;
    struct world w;
    world_make(&w, 0);
    struct txlog_entry e;
    assert_position(txlog_last(w.log), (struct position){0, 0});
    assert_position(txlog_first(w.log), (struct position){0, 0});
    assert_int_equal(txlog_find(w.log, 0, &e), -ERR_NOTFOUND);
    assert_int_equal(txlog_find_from(w.log, (struct position){0, 0}, &e), -ERR_NOTFOUND);
    assert_int_equal(txlog_sync(w.log, UINT64_MAX), 0);
    assert_int_equal(txlog_bytes(w.log), 0);
    assert_int_equal(folder_count(&w.folder, "log", ".seg", NULL), 0);
    world_fini(&w);
}

static void what_is_appended_is_found(void **state)
{
    (void)state;
    struct world w;
    world_make(&w, 0);
    world_append(&w, 1, WORLD_RECORDS);
    assert_holds(&w, 0, WORLD_RECORDS);
    struct txlog_entry e;
    assert_int_equal(txlog_find(w.log, 0, &e), 0);
    for (int i = 1;; i++) {
        assert_is_record(&e, &w.records[i]);
        int rc = txlog_next(w.log, &e);
        if (i == WORLD_RECORDS) {
            assert_int_equal(rc, -ERR_NOTFOUND);
            assert_null(e.file);
            break;
        }
        assert_int_equal(rc, 0);
    }
    world_fini(&w);
}

static void segments_follow_on_each_other(void **state)
{
    (void)state;
    struct world w;
    world_make(&w, 4096);
    world_append(&w, 1, WORLD_RECORDS);
    assert_true(folder_count(&w.folder, "log", ".seg", NULL) > 5);
    assert_holds(&w, 0, WORLD_RECORDS);
    txlog_close(w.log);
    world_open_log(&w, 4096);
    assert_holds(&w, 0, WORLD_RECORDS);
    struct txlog_entry e;
    assert_int_equal(txlog_find(w.log, 0, &e), 0);
    for (int i = 1; i < WORLD_RECORDS; i++) {
        assert_is_record(&e, &w.records[i]);
        assert_int_equal(txlog_next(w.log, &e), 0);
    }
    txlog_entry_release(&e);
    assert_true(txlog_bytes_after(w.log, WORLD_RECORDS) == 0);
    assert_true(txlog_bytes_after(w.log, WORLD_RECORDS - 2) > 0);
    assert_true(txlog_bytes_after(w.log, 0) <= (uint64_t)txlog_bytes(w.log));
    world_fini(&w);
}

static void a_record_that_does_not_follow_is_refused(void **state)
{
    (void)state;
    struct world w;
    world_make(&w, 0);
    world_append(&w, 1, 3);
    assert_int_equal(world_append_bytes(w.log, &w.records[5], 0), -ERR_POSITION);
    assert_int_equal(world_append_bytes(w.log, &w.records[3], 0), -ERR_POSITION);
    struct image other;
    struct buf record = {0};
    image_init(&other, WORLD_PAGE_SIZE);
    other.txid = 3;
    other.checksum = LTX_CHECKSUM_BIT | 12345;
    image_transaction(&other, 4, &record);
    assert_int_equal(world_append_bytes(w.log, &record, 0), -ERR_POSITION);
    world_append(&w, 4, 5);
    assert_holds(&w, 0, 5);
    image_fini(&other);
    buf_fini(&record);
    world_fini(&w);
}

static void an_aborted_append_leaves_nothing(void **state)
{
    (void)state;
    struct world w;
    world_make(&w, 0);
    world_append(&w, 1, 3);
    for (int flushed = 0; flushed < 2; flushed++) {
        struct txlog_append a;
        assert_int_equal(txlog_append_begin(w.log, &a, 0), 0);
        assert_int_equal(txlog_append_write(&a, w.records[9].data, w.records[9].len), 0);
        if (flushed)
            assert_int_equal(txlog_append_flush(&a), 0);
        txlog_append_abort(&a);
        txlog_append_abort(&a);
    }
    assert_holds(&w, 0, 3);
    world_kill(&w, 0);
    assert_holds(&w, 0, 3);
    world_append(&w, 4, 8);
    assert_holds(&w, 0, 8);
    world_fini(&w);
}

/* Longer than the buffer, so that it goes to the file in pieces. */
static void a_long_record_is_streamed(void **state)
{
    (void)state;
    struct world w;
    world_make(&w, 0);
    struct image big;
    struct buf record = {0};
    image_init(&big, 65536);
    image_transaction(&big, 40, &record);
    assert_true(record.len > 600 * 1024);
    struct ltx_memory memory = {record.data, record.len};
    struct ltx_header h;
    uint64_t post;
    assert_int_equal(ltx_verify(ltx_source_memory(&memory), &h, &post, NULL, 0), 0);
    struct txlog_append a;
    struct ltx_file_range range;
    assert_int_equal(txlog_append_begin(w.log, &a, 0), 0);
    size_t part = 300 * 1024;
    assert_int_equal(txlog_append_write(&a, record.data, 100), 0);
    assert_int_equal(txlog_append_write(&a, record.data + 100, part), 0);
    assert_int_equal(txlog_append_write(&a, record.data + 100 + part, record.len - part - 100), 0);
    assert_int_equal(txlog_append_flush(&a), 0);
    assert_int_equal(ltx_verify(txlog_append_source(&a, &range), NULL, NULL, NULL, 0), 0);
    assert_int_equal(txlog_append_publish(&a, &h, post), 0);
    txlog_close(w.log);
    world_open_log(&w, 0);
    struct txlog_entry e;
    assert_int_equal(txlog_find(w.log, 0, &e), 0);
    assert_is_record(&e, &record);
    assert_int_equal(ltx_verify(txlog_entry_source(&e), NULL, NULL, NULL, 0), 0);
    txlog_entry_release(&e);
    image_fini(&big);
    buf_fini(&record);
    world_fini(&w);
}

static void a_merged_record_is_taken_in_its_middle(void **state)
{
    (void)state;
    struct world w;
    world_make(&w, 0);
    world_append(&w, 1, 10);
    struct image other;
    struct buf record = {0};
    image_init(&other, WORLD_PAGE_SIZE);
    other.txid = 5;
    other.checksum = LTX_CHECKSUM_BIT | 1;
    image_transaction(&other, 4, &record);
    /* 6-14 instead of 6-6: max TXID, and with it the file checksum, which the log does not read. */
    struct ltx_header h;
    assert_int_equal(ltx_header_decode(record.data, &h), 0);
    h.max_txid = 14;
    ltx_header_encode(&h, record.data);
    struct txlog_append a;
    assert_int_equal(txlog_append_begin(w.log, &a, 0), 0);
    assert_int_equal(txlog_append_write(&a, record.data, record.len), 0);
    assert_int_equal(txlog_append_publish(&a, &h, other.checksum), 0);
    assert_int_equal(txlog_last(w.log).txid, 14);
    for (uint64_t after = 10; after < 14; after++) {
        struct txlog_entry e;
        assert_int_equal(txlog_find(w.log, after, &e), 0);
        assert_int_equal(e.min_txid, 6);
        assert_int_equal(e.max_txid, 14);
        txlog_entry_release(&e);
    }
    uint64_t checksum;
    assert_int_equal(txlog_checksum_at(w.log, 12, &checksum), -ERR_NOTFOUND);
    txlog_close(w.log);
    world_open_log(&w, 0);
    assert_position(txlog_last(w.log), (struct position){14, other.checksum});
    image_fini(&other);
    buf_fini(&record);
    world_fini(&w);
}

struct sync_job {
    struct txlog *log;
    uint64_t txid;
    int rc;
    struct thread thread;
};

static void run_sync(void *arg)
{
    struct sync_job *job = arg;
    job->rc = txlog_sync(job->log, job->txid);
}

static int syncs;

static int count_sync(int fd)
{
    __atomic_add_fetch(&syncs, 1, __ATOMIC_RELAXED);
    usleep(20000);
    return file_ops_system.fdatasync(fd);
}

static void one_sync_serves_all_who_wait(void **state)
{
    (void)state;
    struct world w;
    world_make(&w, 0);
    world_append(&w, 1, 20);
    assert_true(txlog_needs_sync(w.log));
    assert_int_equal(txlog_durable(w.log).txid, 0);
    struct file_ops ops = file_ops_system;
    ops.fdatasync = count_sync;
    syncs = 0;
    file_ops = &ops;
    struct sync_job jobs[20];
    memset(jobs, 0, sizeof jobs);
    for (int i = 0; i < 20; i++) {
        jobs[i].log = w.log;
        jobs[i].txid = (uint64_t)i + 1;
        assert_int_equal(thread_start(&jobs[i].thread, "sync", run_sync, &jobs[i]), 0);
    }
    world_append(&w, 21, 25);
    for (int i = 0; i < 20; i++) {
        thread_join(&jobs[i].thread);
        assert_int_equal(jobs[i].rc, 0);
    }
    file_ops = &file_ops_system;
    assert_true(syncs <= 2);
    assert_true(txlog_durable(w.log).txid >= 20);
    uint64_t seen = feed_count(&w.feeds.durable);
    assert_int_equal(txlog_sync(w.log, 25), 0);
    assert_position(txlog_durable(w.log), w.at[25]);
    assert_false(txlog_needs_sync(w.log));
    assert_true(syncs > 2 || feed_count(&w.feeds.durable) >= seen);
    world_fini(&w);
}

/* Looks at the log as the background does until it has nothing to wait for: syncs that this took. */
static int sync_behind(struct txlog *t)
{
    int before = syncs;
    int64_t us;
    while ((us = txlog_sync_behind(t, 1)) > 0)
        usleep((useconds_t)us);
    return syncs - before;
}

static void a_commit_is_left_to_who_syncs_it(void **state)
{
    (void)state;
    struct file_ops ops = file_ops_system;
    ops.fdatasync = count_sync;
    struct world w;
    world_make(&w, 0);
    file_ops = &ops;
    /* Nobody has ever synced: the background does at once. */
    world_append(&w, 1, 1);
    assert_int_equal(txlog_sync_behind(w.log, 1), 1);
    assert_int_equal(txlog_durable(w.log).txid, 1);
    assert_int_equal(txlog_sync_behind(w.log, 1), 0);
    /* Whoever has synced once will do it again. */
    for (int i = 2; i < 10; i++) {
        world_append(&w, i, i);
        if (i > 2)
            assert_true(txlog_sync_behind(w.log, 1) > 1);
        assert_int_equal(txlog_durable(w.log).txid, i - 1);
        assert_int_equal(txlog_sync(w.log, (uint64_t)i), 0);
        assert_int_equal(txlog_sync_behind(w.log, 1), 0);
    }
    /* Or not: then it is not waited for long, nor the next time. */
    world_append(&w, 10, 10);
    assert_int_equal(sync_behind(w.log), 1);
    assert_int_equal(txlog_durable(w.log).txid, 10);
    world_append(&w, 11, 11);
    assert_int_equal(txlog_sync_behind(w.log, 1), 1);
    assert_int_equal(txlog_durable(w.log).txid, 11);
    file_ops = &file_ops_system;
    world_fini(&w);
}

static int reads;

static ssize_t count_read(int fd, void *buf, size_t n, off_t off)
{
    reads++;
    return file_ops_system.pread(fd, buf, n, off);
}

static void the_last_records_are_found_without_a_walk(void **state)
{
    (void)state;
    struct file_ops ops = file_ops_system;
    ops.pread = count_read;
    struct world w;
    world_make(&w, 0);
    world_append(&w, 1, WORLD_RECORDS);
    file_ops = &ops;
    for (int after = WORLD_RECORDS - 20; after < WORLD_RECORDS; after++) {
        struct txlog_entry e;
        reads = 0;
        assert_int_equal(txlog_find(w.log, (uint64_t)after, &e), 0);
        assert_int_equal(reads, 1);
        assert_int_equal(e.max_txid, after + 1);
        txlog_entry_release(&e);
    }
    file_ops = &file_ops_system;
    assert_holds(&w, 0, WORLD_RECORDS);
    world_fini(&w);
}

static int refuse_sync(int fd)
{
    (void)fd;
    errno = EIO;
    return -1;
}

static void after_a_failed_sync_nothing_is_accepted(void **state)
{
    (void)state;
    struct world w;
    world_make(&w, 0);
    world_append(&w, 1, 3);
    assert_int_equal(txlog_sync(w.log, 3), 0);
    world_append(&w, 4, 5);
    struct file_ops ops = file_ops_system;
    ops.fdatasync = refuse_sync;
    file_ops = &ops;
    assert_int_equal(txlog_sync(w.log, 5), -ERR_IO);
    file_ops = &file_ops_system;
    struct txlog_append a;
    assert_int_equal(txlog_append_begin(w.log, &a, 0), -ERR_IO);
    assert_int_equal(txlog_sync(w.log, 5), -ERR_IO);
    assert_int_equal(txlog_sync(w.log, 3), 0);
    assert_int_equal(txlog_durable(w.log).txid, 3);
    txlog_close(w.log);
    world_open_log(&w, 0);
    assert_holds(&w, 0, 5);
    world_append(&w, 6, 7);
    world_fini(&w);
}

static int full_allocate(int fd, int mode, off_t off, off_t len)
{
    (void)fd, (void)mode, (void)off, (void)len;
    errno = ENOSPC;
    return -1;
}

static void a_full_disk_fails_the_append_and_no_more(void **state)
{
    (void)state;
    struct world w;
    world_make(&w, 0);
    world_append(&w, 1, 3);
    struct file_ops ops = file_ops_system;
    ops.fallocate = full_allocate;
    file_ops = &ops;
    assert_int_equal(txlog_reserve(w.log, 10 << 20), -ERR_NOSPACE);
    struct image big;
    struct buf record = {0};
    image_init(&big, 65536);
    big.txid = 3;
    big.checksum = w.at[3].checksum;
    image_transaction(&big, 40, &record);
    assert_int_equal(world_append_bytes(w.log, &record, 0), -ERR_NOSPACE);
    world_append(&w, 4, 4); /* in what was allocated before */
    file_ops = &file_ops_system;
    assert_int_equal(txlog_reserve(w.log, 10 << 20), 0);
    file_ops = &ops;
    world_append(&w, 5, 40);
    file_ops = &file_ops_system;
    assert_holds(&w, 0, 40);
    image_fini(&big);
    buf_fini(&record);
    world_fini(&w);
}

struct append_job {
    struct world *world;
    int rc;
    struct thread thread;
};

static void run_append(void *arg)
{
    struct append_job *job = arg;
    struct txlog_append a;
    job->rc = txlog_append_begin(job->world->log, &a, 0);
    if (job->rc == 0)
        txlog_append_abort(&a);
}

static void one_append_waits_for_the_other(void **state)
{
    (void)state;
    struct world w;
    world_make(&w, 0);
    struct txlog_append a;
    struct append_job job = {.world = &w, .rc = 1};
    assert_int_equal(txlog_append_begin(w.log, &a, 0), 0);
    assert_int_equal(thread_start(&job.thread, "append", run_append, &job), 0);
    usleep(20000);
    assert_int_equal(__atomic_load_n(&job.rc, __ATOMIC_RELAXED), 1);
    txlog_append_abort(&a);
    thread_join(&job.thread);
    assert_int_equal(job.rc, 0);
    world_fini(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_log_has_nothing),
        cmocka_unit_test(what_is_appended_is_found),
        cmocka_unit_test(segments_follow_on_each_other),
        cmocka_unit_test(a_record_that_does_not_follow_is_refused),
        cmocka_unit_test(an_aborted_append_leaves_nothing),
        cmocka_unit_test(a_long_record_is_streamed),
        cmocka_unit_test(a_merged_record_is_taken_in_its_middle),
        cmocka_unit_test(one_sync_serves_all_who_wait),
        cmocka_unit_test(a_commit_is_left_to_who_syncs_it),
        cmocka_unit_test(the_last_records_are_found_without_a_walk),
        cmocka_unit_test(after_a_failed_sync_nothing_is_accepted),
        cmocka_unit_test(a_full_disk_fails_the_append_and_no_more),
        cmocka_unit_test(one_append_waits_for_the_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
