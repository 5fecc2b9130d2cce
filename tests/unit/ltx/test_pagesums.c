/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "ltx/base/file.h"
#include "ltx/format.h"
#include "ltx/pagesums.h"
#include "tests/lib/dice.h"

static int empty_file(void)
{
    int fd = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    return fd;
}

static uint64_t any_sum(void)
{
    return dice_u64() | LTX_CHECKSUM_BIT;
}

static void the_total_is_the_xor_of_all(void **state)
{
    (void)state;
    struct pagesums s = {0};
    assert_true(pagesums_total(&s) == LTX_EMPTY_CHECKSUM);
    uint64_t want = 0;
    for (uint32_t pgno = 1; pgno <= 3000; pgno++) {
        uint64_t sum = any_sum();
        want ^= sum;
        assert_int_equal(pagesums_set(&s, pgno, sum), 0);
        assert_true(pagesums_get(&s, pgno) == sum);
        assert_true(pagesums_get(&s, pgno + 1) == 0);
    }
    assert_int_equal(s.count, 3000);
    assert_true(pagesums_total(&s) == (want | LTX_CHECKSUM_BIT));
    assert_true(pagesums_set(&s, 0, 1) < 0);
    pagesums_fini(&s);
}

static void what_is_cut_off_does_not_come_back(void **state)
{
    (void)state;
    struct pagesums s = {0};
    for (uint32_t pgno = 1; pgno <= 2000; pgno++)
        assert_int_equal(pagesums_set(&s, pgno, any_sum()), 0);
    int fd = empty_file();
    assert_int_equal(pagesums_save(&s, fd), 0);
    assert_int_equal(pagesums_resize(&s, 700), 0);
    assert_int_equal(pagesums_save(&s, fd), 0);
    assert_int_equal(pagesums_resize(&s, 1900), 0);
    for (uint32_t pgno = 701; pgno <= 1900; pgno++)
        assert_true(pagesums_get(&s, pgno) == 0);
    assert_int_equal(pagesums_save(&s, fd), 0);
    struct pagesums again = {0};
    assert_int_equal(pagesums_load(&again, fd, 1900), 0);
    assert_true(pagesums_total(&again) == pagesums_total(&s));
    for (uint32_t pgno = 701; pgno <= 1900; pgno++)
        assert_true(pagesums_get(&again, pgno) == 0);
    close(fd);
    pagesums_fini(&s);
    pagesums_fini(&again);
}

static void only_what_changed_is_written(void **state)
{
    (void)state;
    struct pagesums s = {0};
    uint64_t out[PAGESUMS_FILE_BLOCK];
    uint32_t block = 0;
    assert_int_equal(pagesums_resize(&s, 100000), 0);
    int fd = empty_file();
    assert_int_equal(pagesums_save(&s, fd), 0);
    assert_int_equal(pagesums_take_dirty(&s, &block, out), 0);
    assert_int_equal(pagesums_set(&s, 99999, 7), 0);
    assert_int_equal(pagesums_set(&s, 50000, 0), 0); /* as it was */
    block = 0;
    assert_int_equal(pagesums_take_dirty(&s, &block, out), 100000 % PAGESUMS_FILE_BLOCK);
    assert_int_equal(block, 99998 / PAGESUMS_FILE_BLOCK);
    assert_true(out[99998 % PAGESUMS_FILE_BLOCK] == 7);
    block = 0;
    assert_int_equal(pagesums_take_dirty(&s, &block, out), 0);
    pagesums_mark_dirty(&s, 99998 / PAGESUMS_FILE_BLOCK);
    assert_true(pagesums_take_dirty(&s, &block, out) > 0);
    close(fd);
    pagesums_fini(&s);
}

static void a_file_gives_back_what_was_saved(void **state)
{
    (void)state;
    struct pagesums s = {0};
    int fd = empty_file();
    for (int round = 0; round < 50; round++) {
        uint32_t changes = dice_below(200);
        if (dice_below(4) == 0)
            assert_int_equal(pagesums_resize(&s, dice_below(20000)), 0);
        for (uint32_t i = 0; i < changes; i++)
            assert_int_equal(pagesums_set(&s, 1 + dice_below(10000), any_sum()), 0);
        assert_int_equal(pagesums_save(&s, fd), 0);
        struct pagesums again = {0};
        assert_int_equal(pagesums_load(&again, fd, s.count), 0);
        assert_int_equal(again.count, s.count);
        if (s.count > 0)
            assert_memory_equal(again.sums, s.sums, s.count * sizeof *s.sums);
        pagesums_fini(&again);
    }
    /* What the file lacks is 0. */
    assert_int_equal(file_truncate(fd, 5 * 8), 0);
    struct pagesums cut = {0};
    assert_int_equal(pagesums_load(&cut, fd, 1000), 0);
    assert_int_equal(cut.count, 1000);
    assert_true(pagesums_get(&cut, 6) == 0);
    pagesums_fini(&cut);
    close(fd);
    pagesums_fini(&s);
}

static void a_block_sum_tells_contents_and_length_apart(void **state)
{
    (void)state;
    struct pagesums a = {0}, b = {0};
    for (uint32_t pgno = 1; pgno <= 600; pgno++) {
        uint64_t sum = any_sum();
        assert_int_equal(pagesums_set(&a, pgno, sum), 0);
        assert_int_equal(pagesums_set(&b, pgno, sum), 0);
    }
    assert_int_equal(pagesums_block_count(&a), 3);
    for (uint32_t block = 0; block < 3; block++)
        assert_true(pagesums_block(&a, block) == pagesums_block(&b, block));
    assert_true(pagesums_block(&a, 3) == 0);
    assert_int_equal(pagesums_set(&b, 300, 1), 0);
    assert_int_equal(pagesums_resize(&b, 601), 0); /* one page more, whose sum is 0 */
    assert_true(pagesums_block(&a, 0) == pagesums_block(&b, 0));
    assert_true(pagesums_block(&a, 1) != pagesums_block(&b, 1));
    assert_true(pagesums_block(&a, 2) != pagesums_block(&b, 2));
    pagesums_fini(&a);
    pagesums_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_total_is_the_xor_of_all),
        cmocka_unit_test(what_is_cut_off_does_not_come_back),
        cmocka_unit_test(only_what_changed_is_written),
        cmocka_unit_test(a_file_gives_back_what_was_saved),
        cmocka_unit_test(a_block_sum_tells_contents_and_length_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
