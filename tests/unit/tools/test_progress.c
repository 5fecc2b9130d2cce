/* SPDX-License-Identifier: Apache-2.0 */
/* What is shown to people: progress, quantities, tables. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "ltx/base/logger.h"
#include "tools/human.h"
#include "tools/progress.h"
#include "tools/table.h"

static int64_t now_us;

static int64_t test_mono_us(void)
{
    return now_us;
}

static int64_t test_wall_ms(void)
{
    return 0;
}

static const struct clock_ops test_clock = {test_mono_us, test_wall_ms, NULL};

static void expect_line(enum progress_unit unit, uint64_t done, uint64_t total, int64_t ms,
                        const char *want)
{
    char line[256];
    progress_format(line, sizeof line, "work", unit, done, total, ms);
    assert_string_equal(line, want);
}

static void a_line_has_share_rate_and_time_left(void **state)
{
    (void)state;
    expect_line(PROGRESS_BYTES, 3200000, 10000000, 2000,
                "work: 3.2 MB of 10.0 MB (32%), 1.6 MB/s, 5s left");
    expect_line(PROGRESS_PAGES, 500, 1000, 1000,
                "work: 500 of 1000 pages (50%), 500 pages/s, 1s left");
    expect_line(PROGRESS_PAGES, 1000, 1000, 1000,
                "work: 1000 of 1000 pages (100%), 1000 pages/s, 0s left");
}

static void what_is_not_known_is_left_out(void **state)
{
    (void)state;
    expect_line(PROGRESS_PAGES, 10, 0, 1000, "work: 10 pages, 10 pages/s");
    expect_line(PROGRESS_PAGES, 0, 100, 1000, "work: 0 of 100 pages (0%)");
    expect_line(PROGRESS_BYTES, 0, 100, 0, "work: 0 B of 100 B (0%)");
    /* More than was announced, as when a database grows meanwhile. */
    expect_line(PROGRESS_PAGES, 200, 100, 1000,
                "work: 100 of 100 pages (100%), 200 pages/s, 0s left");
}

static void quantities_are_short(void **state)
{
    char t[HUMAN_SIZE];
    (void)state;
    assert_string_equal(human_bytes(0, t), "0 B");
    assert_string_equal(human_bytes(999, t), "999 B");
    assert_string_equal(human_bytes(1000, t), "1.0 kB");
    assert_string_equal(human_bytes(999949, t), "999.9 kB");
    assert_string_equal(human_bytes(999999, t), "1.0 MB");
    assert_string_equal(human_bytes(UINT64_MAX, t), "18.4 EB");
    assert_string_equal(human_ms(12, t), "12 ms");
    assert_string_equal(human_ms(3400, t), "3.4 s");
    assert_string_equal(human_ms(125000, t), "2m05s");
    assert_string_equal(human_duration(59, t), "59s");
    assert_string_equal(human_duration(11400, t), "3h10m");
    assert_string_equal(human_duration(4 * 86400 + 7200, t), "4d2h");
    assert_string_equal(human_time(0, t), "-");
    assert_string_equal(human_time(1714564800123, t), "2024-05-01T12:00:00Z");
}

/* Lines that the work below puts on stderr, which is no terminal in this test. */
static int lines_after(const int64_t *seconds, size_t count)
{
    char path[] = "/tmp/test-progress-XXXXXX";
    int lines = 0, c, fd = mkstemp(path), saved = dup(STDERR_FILENO);
    assert_true(fd >= 0 && saved >= 0);
    assert_true(dup2(fd, STDERR_FILENO) >= 0);
    struct progress p;
    now_us = 0;
    clock_ops = &test_clock;
    progress_begin(&p, "work", PROGRESS_PAGES);
    for (size_t i = 0; i < count; i++) {
        now_us = seconds[i] * 1000000;
        progress_update(&p, i, count);
    }
    progress_end(&p);
    dup2(saved, STDERR_FILENO);
    close(saved);
    FILE *f = fdopen(fd, "r");
    rewind(f);
    while ((c = getc(f)) != EOF)
        lines += c == '\n';
    fclose(f);
    unlink(path);
    return lines;
}

static void without_a_terminal_there_is_a_line_every_five_seconds(void **state)
{
    static const int64_t slow[] = {1, 4, 5, 6, 9, 10, 11, 30};
    static const int64_t quick[] = {0, 1, 2, 3, 4};
    (void)state;
    assert_int_equal(lines_after(slow, 8), 3); /* at 5, 10 and 30 s */
    assert_int_equal(lines_after(quick, 5), 0);
}

static void columns_are_as_wide_as_their_widest_cell(void **state)
{
    char *text = NULL;
    size_t n = 0;
    struct table t;
    (void)state;
    table_init(&t, (const char *[]){"name", "size", ""}, 3);
    table_align_right(&t, 1);
    table_add(&t, (const char *[]){"caf\xc3\xa9.db", "5", ""});
    table_add(&t, (const char *[]){"b", "12345", "note"});
    table_add(&t, (const char *[]){"c", "", "x"});
    FILE *f = open_memstream(&text, &n);
    table_print(&t, f);
    fclose(f);
    table_fini(&t);
    assert_string_equal(text, "name      size\n"
                              "caf\xc3\xa9.db      5\n"
                              "b        12345  note\n"
                              "c               x\n");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_has_share_rate_and_time_left),
        cmocka_unit_test(what_is_not_known_is_left_out),
        cmocka_unit_test(quantities_are_short),
        cmocka_unit_test(without_a_terminal_there_is_a_line_every_five_seconds),
        cmocka_unit_test(columns_are_as_wide_as_their_widest_cell),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
