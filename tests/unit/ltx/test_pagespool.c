/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <dirent.h>
#include <fcntl.h>
#include <errno.h>

#include <cmocka.h>

#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/pagespool.h"
#include "tests/lib/dice.h"
#include "tests/lib/record.h"

#define PAGES 3000

static int open_tmp(void)
{
    int fd = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static void the_last_content_of_each_page_is_read_in_order(void **state)
{
    (void)state;
    static uint8_t want[PAGES + 1][512];
    static bool there[PAGES + 1];
    int dirfd = open_tmp();
    struct pagespool p;
    assert_int_equal(pagespool_open(&p, dirfd, 512), 0);
    for (int i = 0; i < PAGES * 2; i++) {
        uint32_t pgno = 1 + dice_below(PAGES);
        dice_fill(want[pgno], 512);
        if (dice_below(3) == 0) /* which takes no room at the end */
            memset(want[pgno], 0, 512);
        there[pgno] = true;
        assert_int_equal(pagespool_put(&p, pgno, want[pgno]), 0);
    }
    uint32_t commit = PAGES - 100;
    assert_int_equal(pagespool_sort(&p, commit), 0);
    uint32_t i = 0;
    for (uint32_t pgno = 1; pgno <= commit; pgno++) {
        if (!there[pgno])
            continue;
        uint8_t got[512];
        uint32_t number;
        assert_true(i < p.order_len);
        assert_int_equal(pagespool_read(&p, i++, &number, got), 0);
        assert_int_equal(number, pgno);
        assert_memory_equal(got, want[pgno], 512);
    }
    assert_true(i > PAGES / 2);
    assert_int_equal(i, p.order_len);
    pagespool_close(&p);
    close(dirfd);
}

static void page_numbers_far_apart_are_no_matter(void **state)
{
    (void)state;
    int dirfd = open_tmp();
    struct pagespool p;
    uint8_t page[512] = {0};
    assert_int_equal(pagespool_open(&p, dirfd, 512), 0);
    for (uint32_t i = 0; i < 32; i++) {
        page[0] = (uint8_t)i;
        assert_int_equal(pagespool_put(&p, UINT32_C(1) << i, page), 0);
    }
    assert_int_equal(pagespool_sort(&p, UINT32_MAX), 0);
    assert_int_equal(p.order_len, 32);
    for (uint32_t i = 0; i < 32; i++) {
        uint32_t pgno;
        assert_int_equal(pagespool_read(&p, i, &pgno, page), 0);
        assert_true(pgno == UINT32_C(1) << i && page[0] == i);
    }
    pagespool_close(&p);
    close(dirfd);
}

static void records_are_laid_over_one_another(void **state)
{
    (void)state;
    int dirfd = open_tmp();
    struct pagespool p;
    struct image m;
    struct buf record = {0};
    struct ltx_header h;
    uint64_t post;
    image_init(&m, 1024);
    assert_int_equal(pagespool_open(&p, dirfd, 512), 0); /* the first record sets the page size */
    for (int i = 0; i < 20; i++) {
        image_transaction(&m, 1 + dice_below(60), &record);
        struct ltx_memory memory = {record.data, record.len};
        assert_int_equal(pagespool_put_record(&p, ltx_source_memory(&memory), &h, &post), 0);
        assert_true(post == m.checksum && h.max_txid == m.txid);
    }
    assert_int_equal(p.page_size, 1024);
    assert_int_equal(pagespool_sort(&p, m.commit), 0);
    assert_int_equal(p.order_len, m.commit);
    for (uint32_t i = 0; i < m.commit; i++) {
        uint8_t page[1024];
        uint32_t pgno;
        assert_int_equal(pagespool_read(&p, i, &pgno, page), 0);
        assert_int_equal(pgno, i + 1);
        assert_memory_equal(page, image_page(&m, pgno), 1024);
    }
    record.data[record.len - 1] ^= 1;
    struct ltx_memory memory = {record.data, record.len};
    assert_int_equal(pagespool_put_record(&p, ltx_source_memory(&memory), &h, &post),
                     -ERR_CHECKSUM);
    pagespool_close(&p);
    image_fini(&m);
    buf_fini(&record);
    close(dirfd);
}

static int no_tmpfile(int dirfd, const char *path, int flags, mode_t mode)
{
    if ((flags & O_TMPFILE) == O_TMPFILE) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return openat(dirfd, path, flags, mode);
}

static void without_o_tmpfile_nothing_is_left_either(void **state)
{
    (void)state;
    char dir[] = "/tmp/tandemfs-spool-XXXXXX";
    assert_non_null(mkdtemp(dir));
    int dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(dirfd >= 0);
    struct file_ops ops = file_ops_system;
    ops.openat = no_tmpfile;
    file_ops = &ops;
    struct pagespool p;
    int rc = pagespool_open(&p, dirfd, 512);
    file_ops = &file_ops_system;
    assert_int_equal(rc, 0);
    uint8_t page[512] = {1};
    assert_int_equal(pagespool_put(&p, 1, page), 0);
    assert_int_equal(rmdir(dir), 0); /* which works only on an empty folder */
    pagespool_close(&p);
    close(dirfd);
}

static ssize_t disk_full(int fd, const void *buf, size_t n, off_t off)
{
    (void)fd;
    (void)buf;
    (void)n;
    (void)off;
    errno = ENOSPC;
    return -1;
}

static void a_full_disk_is_reported_and_the_page_is_not_there(void **state)
{
    (void)state;
    int dirfd = open_tmp();
    struct pagespool p;
    uint8_t page[512] = {1};
    assert_int_equal(pagespool_open(&p, dirfd, 512), 0);
    assert_int_equal(pagespool_put(&p, 1, page), 0);
    struct file_ops ops = file_ops_system;
    ops.pwrite = disk_full;
    file_ops = &ops;
    int rc = pagespool_put(&p, 2, page);
    file_ops = &file_ops_system;
    assert_int_equal(rc, -ERR_NOSPACE);
    assert_int_equal(pagespool_sort(&p, 9), 0);
    assert_int_equal(p.order_len, 1);
    pagespool_close(&p);
    close(dirfd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_last_content_of_each_page_is_read_in_order),
        cmocka_unit_test(page_numbers_far_apart_are_no_matter),
        cmocka_unit_test(records_are_laid_over_one_another),
        cmocka_unit_test(without_o_tmpfile_nothing_is_left_either),
        cmocka_unit_test(a_full_disk_is_reported_and_the_page_is_not_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
