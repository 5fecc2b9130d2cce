/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "fs/roll.h"

static bool holds(const struct roll *r, uint64_t node, bool walindex)
{
    bool is_walindex;
    int found = 0;
    for (uint32_t place = 1; place < roll_end(r); place++)
        found += roll_node(r, place, &is_walindex) == node && is_walindex == walindex;
    assert_true(found <= 1);
    return found;
}

static void places_are_used_again(void **state)
{
    (void)state;
    struct roll *r = roll_new();
    assert_non_null(r);
    assert_int_equal(roll_end(r), 1);
    uint32_t a = roll_enter(r, 4), b = roll_enter(r, 8), c = roll_enter(r, UINT64_MAX - 3);
    roll_mark_walindex(r, b);
    assert_true(holds(r, 4, false) && holds(r, 8, true) && holds(r, UINT64_MAX - 3, false));
    roll_leave(r, b);
    roll_leave(r, a);
    assert_true(!holds(r, 4, false) && !holds(r, 8, true) && !holds(r, 8, false));
    assert_int_equal(roll_enter(r, 12), a);
    assert_int_equal(roll_enter(r, 16), b);
    assert_true(roll_enter(r, 20) > c);
    assert_true(holds(r, 12, false) && holds(r, 16, false) && holds(r, 20, false));
    roll_free(r);
}

static void what_does_not_fit_has_no_place(void **state)
{
    (void)state;
    struct roll *r = roll_new();
    uint32_t place = 0, last = 0;
    for (uint64_t node = 4; (place = roll_enter(r, node)) != 0; node += 4)
        last = place;
    assert_int_equal(last, (1 << 16) - 1);
    assert_int_equal(roll_enter(r, 4), 0);
    roll_leave(r, 77);
    assert_int_equal(roll_enter(r, 4), 77);
    assert_int_equal(roll_enter(r, 4), 0);
    roll_free(r);
}

static void another_process_sees_it(void **state)
{
    (void)state;
    struct roll *r = roll_new();
    int go[2], status;
    char byte;
    assert_int_equal(pipe(go), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        _exit(read(go[0], &byte, 1) == 1 && holds(r, 4096, true) ? 0 : 1);
    roll_mark_walindex(r, roll_enter(r, 4096));
    assert_int_equal(write(go[1], "", 1), 1);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    close(go[0]);
    close(go[1]);
    roll_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(places_are_used_again),
        cmocka_unit_test(what_does_not_fit_has_no_place),
        cmocka_unit_test(another_process_sees_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
