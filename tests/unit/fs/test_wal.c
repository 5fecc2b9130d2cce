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

#include "fs/db/wal.h"
#include "ltx/base/bytes.h"
#include "ltx/base/file.h"
#include "tests/lib/dice.h"
#include "tests/lib/scratch.h"
#include "tests/lib/sql.h"

static char root[SCRATCH_PATH_MAX];
static char path[SCRATCH_PATH_MAX + 8], wal_path[SCRATCH_PATH_MAX + 16];

static int make_folder(void **state)
{
    (void)state;
    scratch_make(root);
    snprintf(path, sizeof path, "%s/a.db", root);
    snprintf(wal_path, sizeof wal_path, "%s-wal", path);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    scratch_remove(root);
    return 0;
}

/* The whole -wal in memory. */
static uint8_t *read_wal(size_t *size)
{
    int64_t n;
    int fd;
    assert_int_equal(file_open(AT_FDCWD, wal_path, O_RDONLY, 0, &fd), 0);
    assert_int_equal(file_size(fd, &n), 0);
    uint8_t *bytes = malloc((size_t)n);
    assert_int_equal(file_read(fd, bytes, (size_t)n, 0), 0);
    file_close(fd);
    *size = (size_t)n;
    return bytes;
}

struct chain {
    uint32_t frames, commits;
    uint32_t page_count; /* of the last commit */
    uint32_t cksum[2];
};

static struct chain follow_chain(const struct wal_header *h, const uint8_t *bytes, size_t size)
{
    struct chain c = {.cksum = {h->cksum[0], h->cksum[1]}};
    struct wal_frame f;
    for (uint32_t n = 1; wal_frame_offset(h->page_size, n + 1) <= (int64_t)size; n++) {
        if (!wal_frame_check(h, bytes + wal_frame_offset(h->page_size, n), c.cksum, &f))
            break;
        c.frames = n;
        if (f.commit) {
            c.commits++;
            c.page_count = f.commit;
        }
    }
    return c;
}

static void the_chain_of_a_wal_that_sqlite_wrote_holds(void **state)
{
    (void)state;
    for (uint32_t page_size = 512; page_size <= 65536; page_size *= 2) {
        struct wal_header h;
        size_t size;
        sqlite3 *db = sql_open(path, NULL);
        sql_do(db, "PRAGMA page_size=%u; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0",
               page_size);
        sql_do(db, "CREATE TABLE t(x)");
        for (int i = 0; i < 5; i++)
            sql_do(db, "INSERT INTO t VALUES(randomblob(%u))", 1 + dice_below(3 * page_size));
        uint8_t *bytes = read_wal(&size);
        assert_true(wal_header_parse(bytes, &h));
        assert_int_equal(h.page_size, page_size);
        assert_int_equal(wal_frame_at(page_size, 0), 0);
        assert_int_equal(wal_frame_at(page_size, WAL_HEADER_SIZE), 1);
        assert_int_equal(wal_frame_at(page_size, wal_frame_offset(page_size, 7)), 7);
        assert_int_equal(wal_frame_at(page_size, wal_frame_offset(page_size, 8) - 1), 7);
        struct chain c = follow_chain(&h, bytes, size);
        assert_true(wal_frame_offset(page_size, c.frames + 1) == (int64_t)size);
        assert_int_equal(c.commits, 6);
        assert_int_equal(c.page_count, sql_int(db, "PRAGMA page_count"));

        /* A wrong byte anywhere breaks it there: in the page, or in what the checksum covers. */
        uint32_t n = 1 + dice_below(c.frames);
        int64_t at = wal_frame_offset(page_size, n);
        uint32_t where = dice_below(page_size + WAL_FRAME_HEADER_SIZE);
        bytes[at + where] ^= (uint8_t)(1 + dice_below(255));
        assert_int_equal(follow_chain(&h, bytes, size).frames, n - 1);
        free(bytes);
        sql_close(db);
        unlink(path);
    }
}

static void frames_of_an_earlier_round_do_not_belong_to_the_chain(void **state)
{
    (void)state;
    struct wal_header h;
    size_t size;
    sqlite3 *db = sql_open(path, NULL);
    sql_do(db, "PRAGMA page_size=1024; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0;"
               "CREATE TABLE t(x)");
    for (int i = 0; i < 20; i++)
        sql_do(db, "INSERT INTO t VALUES(randomblob(2000))");
    sql_do(db, "PRAGMA wal_checkpoint(RESTART)");
    sql_do(db, "INSERT INTO t VALUES(1)");
    uint8_t *bytes = read_wal(&size);
    assert_true(wal_header_parse(bytes, &h));
    assert_int_equal(h.checkpoint_seq, 1);
    struct chain c = follow_chain(&h, bytes, size);
    assert_true(c.commits == 1 && c.frames < 5);
    assert_true(size > 40 * 1024); /* the earlier round is there */
    free(bytes);
    sql_close(db);
}

static void a_header_that_is_not_whole_is_refused(void **state)
{
    (void)state;
    struct wal_header h = {.page_size = 4096, .salt = {1, 2, 3, 4, 5, 6, 7, 8}}, got;
    uint8_t bytes[WAL_HEADER_SIZE];
    for (int big_endian = 0; big_endian < 2; big_endian++) {
        h.big_endian = big_endian;
        wal_header_build(&h, bytes);
        assert_true(wal_header_parse(bytes, &got));
        assert_true(got.big_endian == h.big_endian && got.cksum[0] == h.cksum[0]);
        for (int i = 0; i < WAL_HEADER_SIZE; i++) {
            bytes[i] ^= 0x40;
            assert_false(wal_header_parse(bytes, &got));
            bytes[i] ^= 0x40;
        }
    }
    h.page_size = 1000;
    wal_header_build(&h, bytes);
    assert_false(wal_header_parse(bytes, &got));
}

/* What we build, in either byte order, SQLite recovers. */
static void sqlite_reads_frames_that_were_built_here(void **state)
{
    (void)state;
    for (int big_endian = 0; big_endian < 2; big_endian++) {
        enum { SIZE = 1024 };
        sqlite3 *db = sql_open(path, NULL);
        sql_do(db, "PRAGMA page_size=1024; PRAGMA journal_mode=WAL; CREATE TABLE t(x);"
                   "INSERT INTO t VALUES('before')");
        sql_close(db);

        /* The change is made in a copy of the file, in rollback mode: its pages are the frames. */
        char copy[SCRATCH_PATH_MAX + 16], command[512];
        snprintf(copy, sizeof copy, "%s/copy.db", root);
        snprintf(command, sizeof command, "cp %s %s", path, copy);
        assert_int_equal(system(command), 0);
        db = sql_open(copy, NULL);
        sql_do(db, "UPDATE t SET x='after'; INSERT INTO t VALUES(zeroblob(3000))");
        uint32_t pages = (uint32_t)sql_int(db, "PRAGMA page_count");
        sql_do(db, "PRAGMA wal_checkpoint(TRUNCATE)");
        sql_close(db);

        struct wal_header h = {.page_size = SIZE, .salt = "12345678", .big_endian = big_endian};
        uint8_t head[WAL_HEADER_SIZE], frame[SIZE + WAL_FRAME_HEADER_SIZE];
        wal_header_build(&h, head);
        uint32_t cksum[2] = {h.cksum[0], h.cksum[1]};
        int from = open(copy, O_RDONLY | O_CLOEXEC);
        int to = open(wal_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        assert_int_equal(pwrite(to, head, sizeof head, 0), sizeof head);
        for (uint32_t pgno = 1; pgno <= pages; pgno++) {
            assert_int_equal(
                pread(from, frame + WAL_FRAME_HEADER_SIZE, SIZE, (off_t)(pgno - 1) * SIZE), SIZE);
            struct wal_frame f = {.pgno = pgno, .commit = pgno == pages ? pages : 0};
            wal_frame_build(&h, frame, f, cksum);
            assert_int_equal(pwrite(to, frame, sizeof frame, wal_frame_offset(SIZE, pgno)),
                             sizeof frame);
        }
        close(from);
        close(to);
        db = sql_open(path, NULL);
        sql_check(db);
        assert_int_equal(sql_int(db, "SELECT count(*) FROM t WHERE x='after'"), 1);
        sql_close(db);
        unlink(path);
        unlink(copy);
    }
}

static void a_size_that_no_database_has_ends_the_chain(void **state)
{
    (void)state;
    struct wal_header h = {.page_size = 512, .salt = "12345678"};
    uint8_t head[WAL_HEADER_SIZE], frame[512 + WAL_FRAME_HEADER_SIZE] = {0};
    struct wal_frame got;
    wal_header_build(&h, head);
    for (uint32_t commit = UINT32_MAX; commit >= UINT32_MAX - 1; commit--) {
        uint32_t cksum[2] = {h.cksum[0], h.cksum[1]};
        wal_frame_build(&h, frame, (struct wal_frame){.pgno = 1, .commit = commit}, cksum);
        memcpy(cksum, h.cksum, sizeof cksum);
        assert_int_equal(wal_frame_check(&h, frame, cksum, &got), commit < UINT32_MAX);
        memset(frame + 8, 0, 16);
        assert_int_equal(wal_frame_unsealed(frame, &got), commit < UINT32_MAX);
    }
}

static void frames_beyond_what_can_be_counted_are_the_last_one(void **state)
{
    (void)state;
    assert_int_equal(wal_frame_at(512, wal_frame_offset(512, UINT32_MAX - 1)), UINT32_MAX - 1);
    assert_int_equal(wal_frame_at(512, wal_frame_offset(512, UINT32_MAX)), UINT32_MAX);
    assert_int_equal(wal_frame_at(512, wal_frame_offset(512, UINT32_MAX) + 5000), UINT32_MAX);
    assert_int_equal(wal_frame_at(512, INT64_MAX), UINT32_MAX);
}

static void a_frame_without_checksum_is_known(void **state)
{
    (void)state;
    uint8_t frame[WAL_FRAME_HEADER_SIZE] = {0};
    struct wal_frame f;
    assert_false(wal_frame_unsealed(frame, &f)); /* nothing at all */
    put_be32(frame, 7);
    put_be32(frame + 4, 9);
    assert_true(wal_frame_unsealed(frame, &f));
    assert_true(f.pgno == 7 && f.commit == 9);
    for (int i = 8; i < WAL_FRAME_HEADER_SIZE; i++) {
        frame[i] = 1;
        assert_false(wal_frame_unsealed(frame, &f));
        frame[i] = 0;
    }
}

#define in_folder(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        in_folder(the_chain_of_a_wal_that_sqlite_wrote_holds),
        in_folder(frames_of_an_earlier_round_do_not_belong_to_the_chain),
        in_folder(sqlite_reads_frames_that_were_built_here),
        cmocka_unit_test(a_header_that_is_not_whole_is_refused),
        cmocka_unit_test(a_size_that_no_database_has_ends_the_chain),
        cmocka_unit_test(frames_beyond_what_can_be_counted_are_the_last_one),
        cmocka_unit_test(a_frame_without_checksum_is_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
