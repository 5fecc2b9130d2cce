/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "fs/db/database.h"
#include "fs/db/dirty.h"
#include "fs/db/freelist.h"
#include "fs/db/header.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/format.h"
#include "tests/lib/dice.h"
#include "tests/lib/scratch.h"
#include "tests/lib/sql.h"

static char root[SCRATCH_PATH_MAX];
static char path[SCRATCH_PATH_MAX + 8];

static int make_folder(void **state)
{
    (void)state;
    scratch_make(root);
    snprintf(path, sizeof path, "%s/a.db", root);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    scratch_remove(root);
    return 0;
}

static int header_of(const char *file, struct db_header *h)
{
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    int err = db_header_read(fd, h);
    close(fd);
    return err;
}

static void sqlites_own_headers_are_read(void **state)
{
    (void)state;
    for (uint32_t page_size = 512; page_size <= 65536; page_size *= 2) {
        struct db_header h;
        sqlite3 *db = sql_open(path, NULL);
        sql_do(db, "PRAGMA page_size=%u; CREATE TABLE t(x); INSERT INTO t VALUES(zeroblob(200000))",
               page_size);
        assert_int_equal(header_of(path, &h), 0);
        assert_int_equal(h.page_size, page_size);
        assert_int_equal(h.page_count, sql_int(db, "PRAGMA page_count"));
        assert_false(h.wal);
        sql_do(db, "PRAGMA journal_mode=WAL");
        assert_int_equal(header_of(path, &h), 0);
        assert_true(h.wal);
        sql_do(db, "PRAGMA journal_mode=DELETE");
        assert_int_equal(header_of(path, &h), 0);
        assert_false(h.wal);
        sql_close(db);
        unlink(path);
    }
}

static void what_is_no_database_has_no_header(void **state)
{
    (void)state;
    struct db_header h;
    uint8_t bytes[HEADER_SIZE] = "SQLite format 3";
    bytes[16] = 2; /* 512 */
    assert_true(db_header_parse(bytes, &h));
    for (unsigned page_size = 0; page_size < 65536; page_size++) {
        bytes[16] = (uint8_t)(page_size >> 8);
        bytes[17] = (uint8_t)page_size;
        bool valid = page_size == 1 || (page_size >= 512 && (page_size & (page_size - 1)) == 0);
        assert_true(db_header_parse(bytes, &h) == valid);
    }
    bytes[16] = 2;
    bytes[17] = 0;
    bytes[15] = 'x';
    assert_false(db_header_parse(bytes, &h));

    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(db_header_read(fd, &h), -ERR_NOTFOUND);
    assert_int_equal(pwrite(fd, "SQLite format 3", 16, 0), 16);
    assert_int_equal(db_header_read(fd, &h), -ERR_NOTFOUND); /* too short */
    close(fd);
}

static void a_size_that_an_old_writer_left_is_not_trusted(void **state)
{
    (void)state;
    struct db_header h;
    uint8_t bytes[HEADER_SIZE] = "SQLite format 3";
    bytes[16] = 2;
    bytes[31] = 9; /* pages */
    bytes[27] = 5; /* change counter */
    bytes[95] = 5; /* version valid for */
    assert_true(db_header_parse(bytes, &h));
    assert_int_equal(h.page_count, 9);
    bytes[27] = 6;
    assert_true(db_header_parse(bytes, &h));
    assert_int_equal(h.page_count, 0);
    bytes[27] = 5;
    memset(bytes + 28, 0xff, 4); /* one page more than SQLite allows */
    assert_true(db_header_parse(bytes, &h));
    assert_int_equal(h.page_count, 0);
    bytes[31]--;
    assert_true(db_header_parse(bytes, &h));
    assert_int_equal(h.page_count, HEADER_PAGES_MAX);
}

static void names_tell_what_a_file_is(void **state)
{
    (void)state;
    static const struct {
        const char *path;
        enum file_kind kind;
        size_t base;
    } names[] = {
        {"a.db", FILE_MAIN, 4},
        {"a.db-wal", FILE_WAL, 4},
        {"sub/a.db-journal", FILE_JOURNAL, 8},
        {"sub/a.db-shm", FILE_SHM, 8},
        {"-wal", FILE_MAIN, 4},
        {"sub/-wal", FILE_MAIN, 8},
        {"a-wal-b", FILE_MAIN, 7},
        {"a-wal-wal", FILE_WAL, 5},
        {"a-wal/b", FILE_MAIN, 7},
        {"a-wal/b-journal", FILE_JOURNAL, 7},
        {"a.db-mj1A2B3C9DE", FILE_SUPER, 4},
        {"a.db-mj1A2B3C8DE", FILE_MAIN, 16},
        {"a.db-mj1A2B3X9DE", FILE_MAIN, 16},
        {"-mj1A2B3C9DE", FILE_MAIN, 12},
        {"a-WAL", FILE_MAIN, 5},
        {"a.db-pos", FILE_MAIN, 8},
        {"\xc3\xa4 b-shm", FILE_SHM, 4},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t base = 0;
        if (file_kind_of(names[i].path, &base) != names[i].kind || base != names[i].base)
            fail_msg("%s: base %zu", names[i].path, base);
    }
}

static void written_ranges_become_pages(void **state)
{
    (void)state;
    struct dirty d = {0};
    assert_false(dirty_any(&d));
    dirty_add(&d, 1024, 1023, 2); /* pages 1 and 2 */
    dirty_add(&d, 1024, 4096, 1024);
    dirty_add(&d, 1024, 4096, 0);
    dirty_add(&d, 1024, 0, 1024);
    dirty_sort(&d);
    assert_int_equal(d.len, 3);
    assert_true(d.pgno[0] == 1 && d.pgno[1] == 2 && d.pgno[2] == 5);
    dirty_clear(&d);
    assert_false(dirty_any(&d));
    dirty_add(&d, 0, 0, 1);
    assert_true(d.all);
    dirty_clear(&d);
    dirty_add(&d, 512, 512,
              (DIRTY_RANGE_MAX + UINT64_C(1)) * 512); /* more than is noted page by page */
    assert_true(d.all && d.len == 0);
    dirty_clear(&d);
    d.size = true;
    assert_true(dirty_any(&d));
    dirty_fini(&d);
}

static void each_page_is_noted_once_however_often_it_is_written(void **state)
{
    (void)state;
    enum { PAGES = 5000 };
    static bool written[PAGES + 1];
    struct dirty d = {0};
    uint32_t distinct = 0;
    for (unsigned i = 0; i < 6 * DIRTY_BATCH; i++) {
        uint32_t pgno = 1 + dice_below(PAGES);
        dirty_add_page(&d, pgno);
        distinct += !written[pgno];
        written[pgno] = true;
    }
    assert_true(d.cap <= 4 * DIRTY_BATCH);
    dirty_sort(&d);
    assert_int_equal(d.len, distinct);
    for (uint32_t i = 0; i < d.len; i++)
        assert_true(written[d.pgno[i]] && (i == 0 || d.pgno[i - 1] < d.pgno[i]));
    dirty_fini(&d);
}

struct listing {
    int fd;
    uint32_t page_size, leaves;
};

static int read_page(void *ctx, uint32_t pgno, void *page)
{
    struct listing *l = ctx;
    return file_read(l->fd, page, l->page_size, (int64_t)(pgno - 1) * l->page_size);
}

static int count_leaf(void *ctx, uint32_t pgno)
{
    assert_true(pgno > 1);
    ((struct listing *)ctx)->leaves++;
    return 0;
}

static void unused_pages_are_found(void **state)
{
    (void)state;
    sqlite3 *db = sql_open(path, NULL);
    sql_do(db, "PRAGMA page_size=512; CREATE TABLE t(x); CREATE TABLE u(x);"
               "INSERT INTO t VALUES(zeroblob(300000)); INSERT INTO u VALUES(zeroblob(2000));"
               "DELETE FROM t");
    struct listing l = {.fd = open(path, O_RDONLY | O_CLOEXEC), .page_size = 512};
    struct freelist_walk walk = {.read = read_page, .visit = count_leaf, .ctx = &l};
    uint32_t pages = (uint32_t)sql_int(db, "PRAGMA page_count");
    uint32_t unused = (uint32_t)sql_int(db, "PRAGMA freelist_count");
    assert_true(unused > 400);
    assert_int_equal(freelist_leaves(walk, 512, pages), 0);
    /* All but the trunk pages, which name up to 126 leaves each here. */
    assert_true(l.leaves < unused && l.leaves > unused - unused / 100 - 2);
    sql_close(db);

    /* A list that runs in a circle ends, too, however large the database is. */
    uint8_t page[512];
    assert_int_equal(file_read(l.fd, page, 512, 0), 0);
    off_t trunk = ((off_t)page[34] << 8 | page[35]) - 1;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(pwrite(fd, page + 32, 4, trunk * 512), 4);
    l.leaves = 0;
    assert_int_equal(freelist_leaves(walk, 512, UINT32_MAX), 0);
    assert_true(l.leaves <= 3 * unused);
    close(fd);
    close(l.fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(sqlites_own_headers_are_read, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(what_is_no_database_has_no_header, make_folder,
                                        remove_folder),
        cmocka_unit_test(a_size_that_an_old_writer_left_is_not_trusted),
        cmocka_unit_test(names_tell_what_a_file_is),
        cmocka_unit_test(written_ranges_become_pages),
        cmocka_unit_test(each_page_is_noted_once_however_often_it_is_written),
        cmocka_unit_test_setup_teardown(unused_pages_are_found, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
