/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "fs/db/locks.h"
#include "fs/db/wal.h"
#include "fs/db/walindex.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "tests/lib/dice.h"
#include "tests/lib/scratch.h"
#include "tests/lib/sql.h"
#include "tests/lib/tapvfs.h"

/*
 * A writer made of wal.h, walindex.h and locks.h, beside SQLite's own connections that read. What
 * it writes comes from a shadow: the same database in rollback mode, changed by SQL; the pages that
 * differ after a transaction are its frames.
 */
#define PAGE 512
#define PAGES_MAX 4000

static char root[SCRATCH_PATH_MAX];

struct rig {
    sqlite3 *shadow, *reader;
    int shadow_fd, main_fd, wal_fd, shm_fd;
    struct walindex index;
    uint8_t *known; /* pages as they were written last */
    uint32_t pages;
    uint32_t restarts;
};

static const char *at(const char *name)
{
    static char path[4][SCRATCH_PATH_MAX + 32];
    static unsigned next;
    char *out = path[next++ % 4];
    snprintf(out, sizeof path[0], "%s/%s", root, name);
    return out;
}

static int must_open(const char *name)
{
    int fd = open(at(name), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    return fd;
}

static void rig_open(struct rig *r)
{
    char command[512];
    *r = (struct rig){.known = calloc(PAGES_MAX, PAGE)};
    scratch_make(root);
    r->reader = sql_open(at("a.db"), NULL);
    sql_do(r->reader,
           "PRAGMA page_size=%d; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0;"
           "CREATE TABLE t(a INTEGER PRIMARY KEY, b, k); CREATE INDEX tk ON t(k);"
           "PRAGMA wal_checkpoint(TRUNCATE)",
           PAGE);
    snprintf(command, sizeof command, "cp %s %s", at("a.db"), at("shadow.db"));
    assert_int_equal(system(command), 0);
    r->shadow = sql_open(at("shadow.db"), NULL);
    sql_do(r->shadow,
           "PRAGMA journal_mode=DELETE; PRAGMA synchronous=OFF; PRAGMA cache_size=-4000");
    sql_int(r->reader, "SELECT count(*) FROM t");
    r->shadow_fd = must_open("shadow.db");
    r->main_fd = must_open("a.db");
    r->wal_fd = must_open("a.db-wal");
    r->shm_fd = must_open("a.db-shm");
    walindex_init(&r->index, r->shm_fd, NULL);
}

static void rig_close(struct rig *r)
{
    walindex_fini(&r->index);
    close(r->shadow_fd);
    close(r->main_fd);
    close(r->wal_fd);
    close(r->shm_fd);
    sql_close(r->shadow);
    sql_close(r->reader);
    free(r->known);
    scratch_remove(root);
}

struct round {
    struct wal_header header;
    struct walindex_header index;
    uint32_t cksum[2];
};

/* As apply_wal.c begins: at the end of the WAL, or anew if all of it is in the database. */
static void begin_round(struct rig *r, struct round *o)
{
    uint32_t backfill;
    assert_int_equal(walindex_read(&r->index, &o->index), 0);
    assert_int_equal(walindex_backfill(&r->index, &backfill), 0);
    if (o->index.mx_frame > 0 && backfill == o->index.mx_frame &&
        lock_exclusive(r->shm_fd, LOCK_SHM_READ(1), 4) == 0) {
        assert_int_equal(walindex_restart(&r->index, &o->index), 0);
        lock_release(r->shm_fd, LOCK_SHM_READ(1), 4);
        r->restarts++;
    }
    o->header = (struct wal_header){.page_size = PAGE, .big_endian = o->index.big_endian};
    memcpy(o->header.salt, o->index.salt, sizeof o->header.salt);
    memcpy(o->cksum, o->index.frame_cksum, sizeof o->cksum);
    if (o->index.mx_frame == 0) {
        uint8_t bytes[WAL_HEADER_SIZE];
        if (memcmp(o->index.salt, "\0\0\0\0\0\0\0\0", 8) == 0)
            memcpy(o->index.salt, "saltsalt", 8);
        o->header.big_endian = false;
        memcpy(o->header.salt, o->index.salt, sizeof o->header.salt);
        wal_header_build(&o->header, bytes);
        assert_int_equal(file_write(r->wal_fd, bytes, sizeof bytes, 0), 0);
        memcpy(o->cksum, o->header.cksum, sizeof o->cksum);
        o->index.page_size = walindex_page_size_field(PAGE);
        o->index.big_endian = 0;
    }
}

/* The pages in which the shadow differs now. */
static uint32_t changed_pages(struct rig *r, uint32_t *pgno)
{
    uint8_t page[PAGE];
    uint32_t n = 0;
    r->pages = (uint32_t)sql_int(r->shadow, "PRAGMA page_count");
    assert_true(r->pages < PAGES_MAX);
    for (uint32_t p = 1; p <= r->pages; p++) {
        assert_int_equal(file_read(r->shadow_fd, page, PAGE, (int64_t)(p - 1) * PAGE), 0);
        if (p == 1)
            page[18] = page[19] = 2;
        if (memcmp(page, r->known + (size_t)(p - 1) * PAGE, PAGE) == 0)
            continue;
        memcpy(r->known + (size_t)(p - 1) * PAGE, page, PAGE);
        pgno[n++] = p;
    }
    return n;
}

/* One transaction into WAL and wal-index. */
static void append(struct rig *r)
{
    static uint32_t pgno[PAGES_MAX];
    uint8_t frame[PAGE + WAL_FRAME_HEADER_SIZE];
    struct round o;
    uint32_t n = changed_pages(r, pgno);
    assert_true(n > 0);
    assert_int_equal(lock_exclusive(r->shm_fd, LOCK_SHM_WRITE, 1), 0);
    begin_round(r, &o);
    uint32_t first = o.index.mx_frame + 1;
    for (uint32_t i = 0; i < n; i++) {
        struct wal_frame f = {.pgno = pgno[i], .commit = i + 1 == n ? r->pages : 0};
        memcpy(frame + WAL_FRAME_HEADER_SIZE, r->known + (size_t)(pgno[i] - 1) * PAGE, PAGE);
        wal_frame_build(&o.header, frame, f, o.cksum);
        assert_int_equal(
            file_write(r->wal_fd, frame, sizeof frame, wal_frame_offset(PAGE, first + i)), 0);
    }
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(walindex_append(&r->index, first + i, pgno[i], first - 1), 0);
    o.index.mx_frame = first + n - 1;
    o.index.page_count = r->pages;
    memcpy(o.index.frame_cksum, o.cksum, sizeof o.cksum);
    assert_int_equal(walindex_publish(&r->index, &o.index), 0);
    lock_release(r->shm_fd, LOCK_SHM_WRITE, 1);
}

static char *content(sqlite3 *db)
{
    return sql_text(db, "SELECT count(*) || ' ' || total(k) || ' ' || total(length(b)) || ' ' || "
                        "max(hex(b)) FROM t");
}

static void assert_seen(struct rig *r)
{
    char *want = content(r->shadow), *got = content(r->reader);
    assert_string_equal(got, want);
    free(want);
    free(got);
    assert_int_equal(sql_int(r->reader, "PRAGMA page_count"), r->pages);
}

static void change(struct rig *r)
{
    sql_do(r->shadow, "BEGIN");
    for (unsigned i = 0; i < 12; i++)
        sql_do(r->shadow, "INSERT INTO t(b, k) VALUES(randomblob(%u), %u)", dice_below(900),
               dice_below(1000));
    sql_do(r->shadow, "UPDATE t SET k = k + 1 WHERE a %% 7 = %u", dice_below(7));
    sql_do(r->shadow, "DELETE FROM t WHERE k BETWEEN %u AND 1000", 960 + dice_below(40));
    sql_do(r->shadow, "COMMIT");
}

static uint32_t frames(struct rig *r)
{
    struct walindex_header h;
    assert_int_equal(walindex_read(&r->index, &h), 0);
    return h.mx_frame;
}

static void a_reader_sees_each_transaction_over_several_hash_tables(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r);
    /* Another one keeps its snapshot from somewhere in the middle. */
    sqlite3 *other = sql_open(at("a.db"), NULL);
    char *before = NULL;
    for (unsigned i = 0; r.pages == 0 || frames(&r) < 9000; i++) {
        change(&r);
        append(&r);
        assert_seen(&r);
        if (!before && frames(&r) > 3000) {
            sql_do(other, "BEGIN");
            before = content(other);
        }
    }
    sql_check(r.reader);
    char *after = content(other);
    assert_string_equal(after, before);
    sql_do(other, "COMMIT");
    sql_close(other);
    free(before);
    free(after);
    rig_close(&r);
}

static void the_wal_begins_anew_when_all_of_it_was_copied(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r);
    for (unsigned i = 0; i < 40; i++) {
        change(&r);
        append(&r);
        if (i % 5 == 4) {
            sql_do(r.reader, "PRAGMA wal_checkpoint(PASSIVE)");
            uint32_t backfill;
            assert_int_equal(walindex_backfill(&r.index, &backfill), 0);
            assert_int_equal(backfill, frames(&r));
        }
        assert_seen(&r);
    }
    assert_true(r.restarts > 3);
    sql_check(r.reader);

    /* While somebody reads from the WAL it does not. */
    sqlite3 *other = sql_open(at("a.db"), NULL);
    change(&r);
    append(&r);
    uint32_t restarts = r.restarts;
    sql_do(other, "BEGIN");
    char *before = content(other);
    sql_do(r.reader, "PRAGMA wal_checkpoint(PASSIVE)");
    change(&r);
    append(&r);
    assert_int_equal(r.restarts, restarts);
    char *now = content(other);
    assert_string_equal(now, before);
    free(now);
    free(before);
    sql_do(other, "COMMIT");
    sql_close(other);
    assert_seen(&r);
    rig_close(&r);
}

static void sqlite_recovers_from_what_was_written(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r);
    for (unsigned i = 0; i < 90; i++) {
        change(&r);
        append(&r);
    }
    assert_true(frames(&r) > 4062);
    sqlite3_db_config(r.reader, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    sql_close(r.reader);
    assert_int_equal(unlink(at("a.db-shm")), 0);
    r.reader = sql_open(at("a.db"), NULL);
    assert_seen(&r);
    sql_check(r.reader);
    rig_close(&r);
}

/* What a writer entered that never published it is taken out by the next one. */
static void entries_of_a_dead_writer_do_no_harm(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r);
    for (unsigned i = 0; r.pages == 0 || frames(&r) < 6000; i++) {
        change(&r);
        append(&r);
        uint32_t mx = frames(&r);
        assert_int_equal(lock_exclusive(r.shm_fd, LOCK_SHM_WRITE, 1), 0);
        for (uint32_t f = 1; f <= dice_below(300); f++)
            assert_int_equal(walindex_append(&r.index, mx + f, 1 + dice_below(r.pages), mx), 0);
        lock_release(r.shm_fd, LOCK_SHM_WRITE, 1);
        assert_seen(&r);
    }
    sql_check(r.reader);
    rig_close(&r);
}

static void sqlite_goes_on_where_the_writer_ended(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r);
    for (unsigned i = 0; i < 20; i++) {
        change(&r);
        append(&r);
        /* Both write by turns: the same statement in the shadow gives the same rows. */
        uint32_t mx = frames(&r);
        sql_do(r.reader, "INSERT INTO t(b, k) VALUES('by sqlite', %u)", i);
        sql_do(r.shadow, "INSERT INTO t(b, k) VALUES('by sqlite', %u)", i);
        assert_true(frames(&r) > mx);
        r.pages = (uint32_t)sql_int(r.shadow, "PRAGMA page_count");
        assert_seen(&r);
    }
    sql_check(r.reader);
    rig_close(&r);
}

static void a_frame_that_cannot_be_counted_is_refused(void **state)
{
    (void)state;
    struct walindex w;
    struct stat st;
    scratch_make(root);
    int fd = must_open("x-shm");
    walindex_init(&w, fd, NULL);
    assert_int_equal(walindex_append(&w, UINT32_MAX + 1u, 1, UINT32_MAX), -ERR_CORRUPT);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, 0);
    walindex_fini(&w);
    close(fd);
    scratch_remove(root);
}

static void a_header_that_was_never_written_is_busy(void **state)
{
    (void)state;
    struct walindex w;
    struct walindex_header h;
    scratch_make(root);
    int fd = must_open("x-shm");
    walindex_init(&w, fd, NULL);
    assert_int_equal(walindex_read(&w, &h), -ERR_BUSY);
    assert_int_equal(ftruncate(fd, WALINDEX_BLOCK), 0);
    assert_int_equal(walindex_read(&w, &h), -ERR_BUSY);
    h = (struct walindex_header){.mx_frame = 3, .page_size = walindex_page_size_field(65536)};
    assert_int_equal(walindex_publish(&w, &h), 0);
    struct walindex_header got;
    assert_int_equal(walindex_read(&w, &got), 0);
    assert_int_equal(got.mx_frame, 3);
    assert_int_equal(walindex_page_size(&got), 65536);
    for (unsigned i = 0; i < 96; i++) {
        uint8_t byte;
        assert_int_equal(pread(fd, &byte, 1, i), 1);
        byte ^= 1;
        assert_int_equal(pwrite(fd, &byte, 1, i), 1);
        assert_int_equal(walindex_read(&w, &got), -ERR_BUSY);
        byte ^= 1;
        assert_int_equal(pwrite(fd, &byte, 1, i), 1);
    }
    walindex_fini(&w);
    close(fd);
    scratch_remove(root);
}

int main(void)
{
    tapvfs_lock_by_description();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_header_that_was_never_written_is_busy),
        cmocka_unit_test(a_frame_that_cannot_be_counted_is_refused),
        cmocka_unit_test(a_reader_sees_each_transaction_over_several_hash_tables),
        cmocka_unit_test(the_wal_begins_anew_when_all_of_it_was_copied),
        cmocka_unit_test(sqlite_recovers_from_what_was_written),
        cmocka_unit_test(entries_of_a_dead_writer_do_no_harm),
        cmocka_unit_test(sqlite_goes_on_where_the_writer_ended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
