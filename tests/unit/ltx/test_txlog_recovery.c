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

#include "ltx/base/bytes.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "tests/lib/dice.h"
#include "tests/lib/fault.h"
#include "tests/lib/logworld.h"

#define SEGMENT "log/00000001-0000000000000001.seg"

/* What is left of a log when the machine stops: its one segment, in bytes. */
struct remains {
    struct world world;
    uint8_t *bytes;
    size_t size;      /* with the room ahead */
    size_t last_off;  /* of the last frame */
    size_t last_size; /* with its header */
    int last;
};

static size_t frame_bytes(const struct buf *record)
{
    return TXLOG_FRAME_HEADER + record->len;
}

/* These tests stop no machine, so they need not wait for a disk. */
static int no_sync(int fd)
{
    (void)fd;
    return 0;
}
static struct file_ops quick;

static void remains_make(struct remains *r, int records)
{
    quick = file_ops_system;
    quick.fdatasync = quick.fsync = no_sync;
    file_ops = &quick;
    *r = (struct remains){.last = records};
    world_make(&r->world, 0);
    world_append(&r->world, 1, records);
    r->bytes = folder_read(&r->world.folder, SEGMENT, &r->size);
    txlog_close(r->world.log);
    r->world.log = NULL;
    r->last_off = TXLOG_SEGMENT_HEADER;
    for (int i = 1; i < records; i++)
        r->last_off += frame_bytes(&r->world.records[i]);
    r->last_size = frame_bytes(&r->world.records[records]);
    assert_true(r->size > r->last_off + r->last_size);
}

static void remains_fini(struct remains *r)
{
    free(r->bytes);
    world_fini(&r->world);
    file_ops = &file_ops_system;
}

/* Starts on `size` bytes and sees the records up to `last`; then the log goes on. */
static void start_on(struct remains *r, size_t size, int last)
{
    struct world *w = &r->world;
    folder_write(&w->folder, SEGMENT, r->bytes, size);
    world_open_log(w, 0);
    assert_position(txlog_durable(w->log), w->at[last]);
    assert_holds(w, 0, last);
    world_append(w, last + 1, last + 2);
    assert_holds(w, 0, last + 2);
    txlog_close(w->log);
    world_open_log(w, 0);
    assert_holds(w, 0, last + 2);
    txlog_close(w->log);
    w->log = NULL;
}

static void a_log_that_was_not_closed_is_whole(void **state)
{
    (void)state;
    struct remains r;
    remains_make(&r, 5);
    start_on(&r, r.size, 5);
    start_on(&r, r.last_off + r.last_size, 5);
    remains_fini(&r);
}

static void a_torn_tail_is_cut_wherever_it_tears(void **state)
{
    (void)state;
    struct remains r;
    remains_make(&r, 4);
    for (size_t n = dice_below(dice_share()); n < r.last_size; n += dice_share())
        start_on(&r, r.last_off + n, 3);
    remains_fini(&r);
}

static void a_tail_of_zeros_is_cut_wherever_they_begin(void **state)
{
    (void)state;
    struct remains r;
    remains_make(&r, 4);
    uint8_t *frame = malloc(r.last_size);
    memcpy(frame, r.bytes + r.last_off, r.last_size);
    for (size_t n = r.last_size; n-- > 0;) {
        r.bytes[r.last_off + n] = 0;
        /* Where the record ends in zeros itself, it is still whole. */
        bool whole = memcmp(frame, r.bytes + r.last_off, r.last_size) == 0;
        if (dice_below(dice_share()) == 0)
            start_on(&r, r.size, whole ? 4 : 3);
    }
    free(frame);
    remains_fini(&r);
}

static void a_changed_byte_in_the_last_frame_is_seen(void **state)
{
    (void)state;
    struct remains r;
    remains_make(&r, 4);
    for (size_t n = dice_below(dice_share()); n < r.last_size; n += dice_share()) {
        uint8_t change = (uint8_t)(1 + dice_below(255));
        r.bytes[r.last_off + n] ^= change;
        start_on(&r, r.size, 3);
        r.bytes[r.last_off + n] ^= change;
    }
    remains_fini(&r);
}

/*
 * The machine stops when the frame after a torn one is whole on disk. Then the torn transaction is
 * made again, the same in every byte: what stood behind it must not be taken for its successor.
 */
static void stale_frames_after_a_cut_never_come_back(void **state)
{
    (void)state;
    struct remains r;
    remains_make(&r, 6);
    struct world *w = &r.world;
    size_t off = TXLOG_SEGMENT_HEADER;
    for (int i = 1; i < 4; i++)
        off += frame_bytes(&w->records[i]);
    r.bytes[off + 100] ^= 1;
    folder_write(&w->folder, SEGMENT, r.bytes, r.size);
    world_open_log(w, 0);
    assert_holds(w, 0, 3);
    world_append(w, 4, 4);
    world_kill(w, 0);
    assert_holds(w, 0, 4);
    world_append(w, 5, 5);
    world_kill(w, 0);
    assert_holds(w, 0, 5);
    remains_fini(&r);
}

/* Frames of another segment, as an attacker or a mishap may put them, are not of this one. */
static void frames_of_another_segment_are_not_taken(void **state)
{
    (void)state;
    struct remains r;
    remains_make(&r, 4);
    put_be64(r.bytes + 8, get_be64(r.bytes + 8) + 1);
    folder_write(&r.world.folder, SEGMENT, r.bytes, r.size);
    struct txlog_options options = {0};
    struct txlog *t;
    assert_int_equal(txlog_open(&t, r.world.folder.fd, "t.db", &options), -ERR_CORRUPT);
    remains_fini(&r);
}

static void a_segment_that_was_being_made_is_removed(void **state)
{
    (void)state;
    static const uint8_t zeros[64 * 1024];
    static const size_t sizes[] = {0, 10, sizeof zeros};
    for (size_t i = 0; i < 3; i++) {
        struct remains r;
        remains_make(&r, 4);
        folder_write(&r.world.folder, "log/00000002-0000000000000005.seg", zeros, sizes[i]);
        start_on(&r, r.size, 4);
        remains_fini(&r);
    }
}

static void foreign_files_are_left_alone(void **state)
{
    (void)state;
    struct remains r;
    remains_make(&r, 4);
    struct folder *f = &r.world.folder;
    folder_write(f, "log/notes.txt", "x", 1);
    folder_write(f, "log/00000001-000000000000000g.seg", "x", 1);
    folder_write(f, "ltx/0000000000000009-0000000000000003.ltx", "x", 1);
    folder_write(f, "ltx/0000000000000001-0000000000000003.ltx", "cut", 3);
    start_on(&r, r.size, 4);
    assert_true(file_exists(f->fd, "log/notes.txt"));
    assert_true(file_exists(f->fd, "log/00000001-000000000000000g.seg"));
    assert_true(file_exists(f->fd, "ltx/0000000000000009-0000000000000003.ltx"));
    assert_true(file_exists(f->fd, "ltx/0000000000000001-0000000000000003.ltx"));
    remains_fini(&r);
}

/* A failed write may have put the frame there; a restart must not find what nobody was told of. */
static int fail_publish_after;
static ssize_t fail_after_writing(int fd, const void *data, size_t n, off_t off)
{
    ssize_t done = file_ops_system.pwrite(fd, data, n, off);
    if (fail_publish_after-- > 0)
        return done;
    errno = EIO;
    return fail_publish_after == -1 ? -1 : done;
}

static void what_failed_to_be_published_is_not_found(void **state)
{
    (void)state;
    struct world w;
    world_make(&w, 0);
    world_append(&w, 1, 3);
    struct file_ops ops = file_ops_system;
    ops.pwrite = fail_after_writing;
    fail_publish_after = 0;
    file_ops = &ops;
    assert_int_equal(world_append_bytes(w.log, &w.records[4], 0), -ERR_IO);
    file_ops = &file_ops_system;
    world_kill(&w, 0);
    assert_holds(&w, 0, 3);
    world_append(&w, 4, 5);
    world_fini(&w);
}

/* Each operation of a history fails once, at every place; the log is right after each. */
static void every_operation_may_fail_once(void **state)
{
    (void)state;
    int fault = 0;
    for (bool fired = true; fired; fault++) {
        struct world w;
        world_make(&w, 4096);
        int last = 0, synced = 0;
        fault_arm(fault);
        for (int i = 1; i <= 20; i++) {
            /* Once more after a failure: only a log that has given up refuses again. */
            if (world_append_bytes(w.log, &w.records[i], 0) < 0 &&
                world_append_bytes(w.log, &w.records[i], 0) < 0)
                break;
            last = i;
            if (i % 6 == 0 && txlog_sync(w.log, UINT64_MAX) == 0)
                synced = i;
        }
        fired = fault_disarm();
        assert_int_equal(txlog_last(w.log).txid, last);
        assert_true(txlog_durable(w.log).txid >= (uint64_t)synced);
        assert_true(fired || last == 20);
        world_kill(&w, 4096);
        assert_holds(&w, 0, last);
        world_append(&w, last + 1, 25);
        assert_holds(&w, 0, 25);
        world_fini(&w);
    }
    print_message("%d operations failed in turn\n", fault - 1);
    assert_true(fault > 30);
}

static int entries_until_failure;

static struct dirent *failing_readdir(DIR *dir)
{
    if (entries_until_failure-- != 0)
        return readdir(dir);
    errno = EIO;
    return NULL;
}

/* Without its last segment the log would give the same TXIDs out again. */
static void a_folder_that_cannot_be_read_to_its_end_is_not_a_shorter_log(void **state)
{
    (void)state;
    struct world w;
    int n = 0;
    world_make(&w, 4096);
    world_append(&w, 1, 30);
    txlog_close(w.log);
    for (bool failed = true; failed; n++) {
        struct txlog_options options = {.segment_bytes = 4096, .feeds = &w.feeds};
        struct file_ops ops = file_ops_system;
        ops.readdir = failing_readdir;
        entries_until_failure = n;
        file_ops = &ops;
        int rc = txlog_open(&w.log, w.folder.fd, "t.db", &options);
        file_ops = &file_ops_system;
        failed = entries_until_failure < 0;
        assert_int_equal(rc, failed ? -ERR_IO : 0);
    }
    assert_true(n > 6);
    assert_holds(&w, 0, 30);
    world_fini(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_log_that_was_not_closed_is_whole),
        cmocka_unit_test(a_torn_tail_is_cut_wherever_it_tears),
        cmocka_unit_test(a_tail_of_zeros_is_cut_wherever_they_begin),
        cmocka_unit_test(a_changed_byte_in_the_last_frame_is_seen),
        cmocka_unit_test(stale_frames_after_a_cut_never_come_back),
        cmocka_unit_test(frames_of_another_segment_are_not_taken),
        cmocka_unit_test(a_segment_that_was_being_made_is_removed),
        cmocka_unit_test(foreign_files_are_left_alone),
        cmocka_unit_test(what_failed_to_be_published_is_not_found),
        cmocka_unit_test(every_operation_may_fail_once),
        cmocka_unit_test(a_folder_that_cannot_be_read_to_its_end_is_not_a_shorter_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
