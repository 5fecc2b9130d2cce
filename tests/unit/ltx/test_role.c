/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <unistd.h>

#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "ltx/base/thread.h"
#include "ltx/role.h"

static int64_t fake_us = 5000000;

static int64_t fake_mono_us(void)
{
    return fake_us;
}

static const struct clock_ops *system_clock;
static struct clock_ops fake_clock;

static int set_fake_clock(void **state)
{
    (void)state;
    system_clock = clock_ops;
    fake_clock = *clock_ops;
    fake_clock.mono_us = fake_mono_us;
    clock_ops = &fake_clock;
    return 0;
}

static int set_system_clock(void **state)
{
    (void)state;
    clock_ops = system_clock;
    return 0;
}

static void pass_ms(int64_t ms)
{
    fake_us += ms * 1000;
}

static void the_gate_is_closed_until_it_is_opened(void **state)
{
    (void)state;
    struct role_state r;
    role_init(&r, 7);
    assert_int_equal(role_get(&r), ROLE_STARTING);
    assert_int_equal(role_enter(&r), -ERR_NOTPRIMARY);
    role_set(&r, ROLE_PRIMARY, 3, "tcp://a:1");
    assert_int_equal(role_enter(&r), -ERR_NOTPRIMARY);
    role_open(&r);
    assert_int_equal(role_enter(&r), 0);
    role_leave(&r);
    assert_int_equal(role_close(&r, -ERR_FENCED, 0), 0);
    assert_int_equal(role_enter(&r), -ERR_FENCED);
    role_open(&r);
    assert_int_equal(role_enter(&r), 0);
    role_leave(&r);
    role_fini(&r);
}

static void closing_waits_for_those_inside_but_not_for_ever(void **state)
{
    (void)state;
    struct role_state r;
    role_init(&r, 7);
    role_set(&r, ROLE_PRIMARY, 1, "");
    role_open(&r);
    assert_int_equal(role_enter(&r), 0);
    assert_int_equal(role_close(&r, -ERR_NOTPRIMARY, 20), -ERR_TIMEOUT);
    assert_int_equal(role_enter(&r), -ERR_NOTPRIMARY); /* closed all the same */
    role_leave(&r);
    assert_int_equal(role_close(&r, -ERR_NOTPRIMARY, 0), 0);
    role_fini(&r);
}

static void close_gate(void *arg)
{
    struct role_state *r = arg;
    assert_int_equal(role_close(r, -ERR_NOTPRIMARY, 30000), 0);
}

static void the_last_one_to_leave_lets_the_closer_go_on(void **state)
{
    (void)state;
    struct role_state r;
    struct thread closer = {0};
    role_init(&r, 7);
    role_set(&r, ROLE_PRIMARY, 1, "");
    role_open(&r);
    assert_int_equal(role_enter(&r), 0);
    uint64_t seen = feed_count(&r.changed);
    assert_int_equal(thread_start(&closer, "closer", close_gate, &r), 0);
    assert_true(feed_wait(&r.changed, seen, 30000)); /* it has closed, and waits */
    assert_int_equal(role_enter(&r), -ERR_NOTPRIMARY);
    struct mono start = mono_now();
    role_leave(&r);
    thread_join(&closer);
    assert_true(mono_since_ms(start) < 20000);
    role_fini(&r);
}

static void the_url_of_the_primary_is_known_or_not(void **state)
{
    (void)state;
    struct role_state r;
    char url[ROLE_NAME_MAX] = "untouched", longer[ROLE_NAME_MAX * 2];
    role_init(&r, 7);
    assert_false(role_primary(&r, url));
    assert_string_equal(url, "untouched");
    uint64_t seen = feed_count(&r.changed);
    role_set(&r, ROLE_REPLICA, 9, "tcp://10.0.0.1:4000");
    assert_true(feed_count(&r.changed) > seen);
    assert_true(role_primary(&r, url));
    assert_string_equal(url, "tcp://10.0.0.1:4000");
    assert_true(role_epoch(&r) == 9);
    memset(longer, 'x', sizeof longer);
    longer[sizeof longer - 1] = '\0';
    role_set(&r, ROLE_REPLICA, 9, longer);
    assert_true(role_primary(&r, url));
    assert_int_equal(strlen(url), ROLE_NAME_MAX - 1);
    role_set(&r, ROLE_REPLICA, 9, "");
    assert_false(role_primary(&r, url));
    assert_string_equal(role_name(ROLE_STARTING), "starting");
    assert_string_equal(role_name(ROLE_REPLICA), "replica");
    assert_string_equal(role_name(ROLE_PRIMARY), "primary");
    role_fini(&r);
}

static void lag_grows_while_something_is_missing(void **state)
{
    (void)state;
    struct role_state r;
    role_init(&r, 7);
    pass_ms(40);
    assert_int_equal(role_lag_ms(&r), 40); /* never level: since the start */
    role_set(&r, ROLE_REPLICA, 1, "tcp://a:1");
    role_contact(&r, true, false);
    pass_ms(10);
    assert_int_equal(role_lag_ms(&r), 50);
    role_contact(&r, true, true);
    assert_int_equal(role_lag_ms(&r), 0);
    pass_ms(5000);
    assert_int_equal(role_lag_ms(&r), 0); /* in contact and level */
    role_contact(&r, true, false);        /* something came just now */
    assert_int_equal(role_lag_ms(&r), 0);
    pass_ms(3);
    role_contact(&r, true, false);
    assert_int_equal(role_lag_ms(&r), 3);
    role_contact(&r, true, true);
    pass_ms(700);
    role_contact(&r, false, true); /* lost: nobody knows since when, the last report counts */
    assert_int_equal(role_lag_ms(&r), 700);
    pass_ms(300);
    role_contact(&r, true, false); /* back, with something to fetch */
    assert_int_equal(role_lag_ms(&r), 1000);
    role_contact(&r, true, true);
    assert_int_equal(role_lag_ms(&r), 0);
    role_fini(&r);
}

static void a_primary_lags_nobody(void **state)
{
    (void)state;
    struct role_state r;
    role_init(&r, 7);
    pass_ms(100);
    role_set(&r, ROLE_PRIMARY, 1, "tcp://me:1");
    assert_int_equal(role_lag_ms(&r), 0);
    pass_ms(100);
    role_set(&r, ROLE_REPLICA, 2, "tcp://other:1");
    assert_int_equal(role_lag_ms(&r), 0); /* until now it was level with itself */
    pass_ms(25);
    assert_int_equal(role_lag_ms(&r), 25);
    role_fini(&r);
}

static void wake_twice(void *arg)
{
    struct feed *f = arg;
    feed_wake(f);
    feed_wake(f);
}

static void a_rest_is_not_cut_short_by_events(void **state)
{
    (void)state;
    struct feed f;
    struct thread t = {0};
    feed_init(&f);
    struct mono start = mono_now();
    assert_int_equal(thread_start(&t, "wake", wake_twice, &f), 0);
    assert_true(feed_rest(&f, 20000));
    assert_true(mono_since_us(start) >= 20000);
    thread_join(&t);
    assert_true(feed_rest(&f, -5));
    feed_close(&f);
    assert_false(feed_rest(&f, 60000000));
    feed_fini(&f);
}

static void no_event_of_a_feed_is_missed(void **state)
{
    (void)state;
    struct feed f;
    feed_init(&f);
    uint64_t seen = feed_count(&f);
    assert_false(feed_wait(&f, seen, 0));
    assert_false(feed_wait(&f, seen, 10));
    feed_wake(&f);
    assert_true(feed_wait(&f, seen, -1)); /* it came before the wait began */
    seen = feed_count(&f);
    struct thread waker = {0};
    assert_int_equal(thread_start(&waker, "waker", wake_twice, &f), 0);
    for (uint64_t count = seen; count < seen + 2; count = feed_count(&f))
        assert_true(feed_wait(&f, count, 30000));
    thread_join(&waker);
    assert_true(feed_count(&f) == seen + 2);
    feed_fini(&f);
}

static void close_feed(void *arg)
{
    feed_close(arg);
}

static void a_closed_feed_lets_nobody_wait(void **state)
{
    (void)state;
    struct feed f;
    struct thread closer = {0};
    feed_init(&f);
    assert_int_equal(thread_start(&closer, "closer", close_feed, &f), 0);
    assert_false(feed_wait(&f, feed_count(&f), -1));
    thread_join(&closer);
    feed_wake(&f);
    assert_false(feed_wait(&f, 0, -1));
    feed_fini(&f);
}

static void end_begun(void *arg)
{
    struct role_state *r = arg;
    while (role_enter(r) == 0) /* until the gate is closed to newcomers */
        role_leave(r);
    assert_int_equal(role_enter_begun(r), 0);
    role_leave(r);
    role_end(r);
}

static void what_has_begun_may_end_before_the_gate_is_shut(void **state)
{
    (void)state;
    struct role_state r;
    struct thread client = {0};
    role_init(&r, 7);
    role_set(&r, ROLE_PRIMARY, 1, "tcp://me:1");
    role_open(&r);
    assert_int_equal(role_begin(&r), 0);
    assert_int_equal(thread_start(&client, "client", end_begun, &r), 0);
    assert_int_equal(role_close(&r, -ERR_NOTPRIMARY, 30000), 0);
    thread_join(&client);
    assert_int_equal(r.begun, 0);
    assert_int_equal(role_begin(&r), -ERR_NOTPRIMARY);
    role_fini(&r);
}

static void try_to_enter(void *arg)
{
    struct role_state *r = arg;
    for (int i = 0; i < 200; i++) {
        assert_int_equal(role_enter_begun(r), -ERR_FENCED);
        usleep(100);
    }
}

static void a_gate_that_was_closed_lets_nobody_finish(void **state)
{
    (void)state;
    struct role_state r;
    struct thread client = {0};
    role_init(&r, 7);
    role_set(&r, ROLE_PRIMARY, 1, "tcp://me:1");
    role_open(&r);
    assert_int_equal(role_begin(&r), 0);
    assert_int_equal(role_close(&r, -ERR_FENCED, 0), 0);
    assert_int_equal(thread_start(&client, "client", try_to_enter, &r), 0);
    assert_int_equal(role_close(&r, -ERR_FENCED, 30), 0);
    thread_join(&client);
    role_end(&r);
    role_fini(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_gate_is_closed_until_it_is_opened),
        cmocka_unit_test(closing_waits_for_those_inside_but_not_for_ever),
        cmocka_unit_test(the_last_one_to_leave_lets_the_closer_go_on),
        cmocka_unit_test(what_has_begun_may_end_before_the_gate_is_shut),
        cmocka_unit_test(a_gate_that_was_closed_lets_nobody_finish),
        cmocka_unit_test(the_url_of_the_primary_is_known_or_not),
        cmocka_unit_test_setup_teardown(lag_grows_while_something_is_missing, set_fake_clock,
                                        set_system_clock),
        cmocka_unit_test_setup_teardown(a_primary_lags_nobody, set_fake_clock, set_system_clock),
        cmocka_unit_test(no_event_of_a_feed_is_missed),
        cmocka_unit_test(a_rest_is_not_cut_short_by_events),
        cmocka_unit_test(a_closed_feed_lets_nobody_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
