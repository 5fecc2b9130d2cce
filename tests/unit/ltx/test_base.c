/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "ltx/base/assert.h"
#include "ltx/base/buf.h"
#include "ltx/base/bytes.h"
#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "ltx/base/logger.h"
#include "ltx/base/mutex.h"
#include "ltx/base/thread.h"
#include "tests/lib/dice.h"

static void every_error_has_a_name_a_text_and_an_errno(void **state)
{
    (void)state;
    for (int code = 1; code < ERR_TABLE_SIZE; code++) {
        assert_string_not_equal(err_name(code), "UNKNOWN");
        assert_true(strlen(err_text(code)) > 5);
        assert_true(err_errno(code) > 0);
        assert_ptr_equal(err_name(code), err_name(-code));
        assert_int_equal(err_errno(code), err_errno(-code));
    }
    assert_string_equal(err_name(ERR_TABLE_SIZE), "UNKNOWN");
    assert_string_equal(err_name(INT32_MIN), "UNKNOWN");
    assert_int_equal(err_from_errno(ENOSPC), -ERR_NOSPACE);
    assert_int_equal(err_from_errno(EDQUOT), -ERR_NOSPACE);
    assert_int_equal(err_from_errno(0), 0);
    assert_int_equal(err_from_errno(4711), -ERR_IO);
    /* Codes that stand for one errno come back from it. */
    static const int both[] = {ERR_NOMEM, ERR_NOSPACE, ERR_NOTFOUND,    ERR_EXISTS,  ERR_ACCESS,
                               ERR_BUSY,  ERR_TIMEOUT, ERR_UNSUPPORTED, ERR_INVALID, ERR_LIMIT};
    for (size_t i = 0; i < sizeof both / sizeof *both; i++)
        assert_int_equal(err_from_errno(err_errno(both[i])), -both[i]);
}

static void a_buffer_keeps_its_limit_and_its_content(void **state)
{
    (void)state;
    struct buf b = {.limit = 10};
    assert_int_equal(buf_append(&b, "0123456", 7), 0);
    assert_int_equal(buf_put_be32(&b, 1), -ERR_LIMIT);
    assert_int_equal(b.len, 7);
    assert_int_equal(buf_printf(&b, "%d", 789), 0); /* exactly the limit */
    assert_int_equal(buf_printf(&b, "x"), -ERR_LIMIT);
    assert_int_equal(b.len, 10);
    assert_memory_equal(b.data, "0123456789", 10);
    assert_int_equal(buf_reserve(&b, SIZE_MAX), -ERR_LIMIT);
    buf_reset(&b);
    assert_int_equal(buf_put_be16(&b, 0x0102), 0);
    assert_int_equal(buf_put_be64(&b, 3), 0);
    assert_memory_equal(b.data, "\1\2\0\0\0\0\0\0\0\3", 10);
    buf_fini(&b);
    assert_null(b.data);
}

static void varints_come_back(void **state)
{
    (void)state;
    for (int i = 0; i < 1000; i++) {
        uint64_t v = dice_u64() >> dice_below(64), got;
        uint8_t bytes[UVARINT_MAX];
        size_t n = put_uvarint(bytes, v);
        assert_int_equal(get_uvarint(bytes, n, &got), n);
        assert_true(got == v);
        assert_int_equal(get_uvarint(bytes, n - 1, &got), 0);
    }
    uint64_t got;
    assert_int_equal(
        get_uvarint((const uint8_t *)"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11, &got), 0);
}

/* What the logger writes to stderr while `run` runs; an empty pipe would mean no line at all. */
static void caught(char *out, size_t size, void (*run)(void))
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    int before = dup(STDERR_FILENO);
    assert_true(dup2(ends[1], STDERR_FILENO) >= 0);
    run();
    assert_true(dup2(before, STDERR_FILENO) >= 0);
    close(before);
    close(ends[1]);
    ssize_t n = read(ends[0], out, size - 1);
    close(ends[0]);
    assert_true(n >= 0);
    out[n] = '\0';
}

static void two_lines(void)
{
    errno = ENOTTY;
    log_debug("mount", "not shown");
    log_info("mount", "ready at %s", "/mnt \"x\"\n\x1b[31m \xc3\xa4 \xff");
    log_error("cluster", "%d", 5);
    assert_int_equal(errno, ENOTTY);
}

static void log_lines_are_text_of_one_line_each(void **state)
{
    (void)state;
    char got[1024];
    caught(got, sizeof got, two_lines);
    assert_int_equal(strcspn(got, " "), strlen("2026-11-22T08:45:00.123Z"));
    assert_int_equal(got[10], 'T');
    assert_int_equal(got[19], '.');
    assert_int_equal(got[23], 'Z');
    char *second = strchr(got, '\n');
    assert_non_null(second);
    *second++ = '\0';
    assert_string_equal(got + 24, " INFO  mount: ready at /mnt \"x\"\\x0a\\x1b[31m \xc3\xa4 \\xff");
    assert_string_equal(second + 24, " ERROR cluster: 5\n");
}

static void log_lines_are_json(void **state)
{
    (void)state;
    char got[1024];
    logger_configure(LOGGER_INFO, true);
    caught(got, sizeof got, two_lines);
    logger_configure(LOGGER_INFO, false);
    char *second = strchr(got, '\n');
    assert_non_null(second);
    *second++ = '\0';
    assert_memory_equal(got, "{\"time\":\"2", 10);
    assert_string_equal(got + 33,
                        "\",\"level\":\"INFO\",\"part\":\"mount\",\"message\":"
                        "\"ready at /mnt \\\"x\\\"\\u000a\\u001b[31m \xc3\xa4 \\ufffd\"}");
    assert_string_equal(second + 33,
                        "\",\"level\":\"ERROR\",\"part\":\"cluster\",\"message\":\"5\"}\n");
}

static void a_long_line(void)
{
    char text[9000];
    memset(text, 1, sizeof text - 1);
    text[sizeof text - 1] = '\0';
    log_warn("mount", "%s", text);
}

static void a_line_that_is_too_long_is_cut_and_still_a_line(void **state)
{
    (void)state;
    static char got[20000];
    for (int json = 0; json < 2; json++) {
        logger_configure(LOGGER_INFO, json);
        caught(got, sizeof got, a_long_line);
        size_t n = strlen(got);
        assert_true(n > 1000 && n <= 8192);
        assert_int_equal(strcspn(got, "\n"), n - 1);
        assert_true(!json || strcmp(got + n - 3, "\"}\n") == 0);
    }
    logger_configure(LOGGER_INFO, false);
}

struct seen {
    sigset_t mask;
    char name[16];
};

static void look_around(void *arg)
{
    struct seen *s = arg;
    pthread_sigmask(SIG_SETMASK, NULL, &s->mask);
    pthread_getname_np(pthread_self(), s->name, sizeof s->name);
}

static void a_thread_has_a_name_and_takes_no_signals(void **state)
{
    (void)state;
    struct thread t = {0};
    struct seen s;
    thread_join(&t); /* never started: fine */
    assert_int_equal(thread_start(&t, "a-name", look_around, &s), 0);
    thread_join(&t);
    thread_join(&t);
    assert_string_equal(s.name, "a-name");
    assert_int_equal(sigismember(&s.mask, SIGTERM), 1);
    assert_int_equal(sigismember(&s.mask, SIGINT), 1);
    sigset_t mine;
    pthread_sigmask(SIG_SETMASK, NULL, &mine);
    assert_int_equal(sigismember(&mine, SIGTERM), 0);
}

static void waiting_ends_when_the_time_has_passed(void **state)
{
    (void)state;
    struct mutex m;
    struct cond c;
    mutex_init(&m, RANK_LEAF);
    cond_init(&c);
    mutex_lock(&m);
    struct mono start = mono_now();
    while (cond_wait_ms(&c, &m, 30))
        ;
    assert_true(mono_since_ms(start) >= 30);
    assert_false(cond_wait_ms(&c, &m, -5));
    mutex_unlock(&m);
    cond_fini(&c);
    mutex_fini(&m);
}

/* Runs `f` in a child and gives the signal that ended it, 0 if none. */
static int signal_of(void (*f)(void))
{
    fflush(stdout);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (freopen("/dev/null", "w", stderr) == NULL)
            _exit(2);
        signal(SIGABRT, SIG_DFL);
        f();
        _exit(0);
    }
    int status;
    assert_true(waitpid(pid, &status, 0) == pid);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void break_an_invariant(void)
{
    ASSERT(1 + 1 == 3, "arithmetic");
}

static void a_broken_invariant_ends_the_program(void **state)
{
    (void)state;
    assert_int_equal(signal_of(break_an_invariant), SIGABRT);
}

static void take_two(int first, int second)
{
    static struct mutex a, b;
    mutex_init(&a, first);
    mutex_init(&b, second);
    mutex_lock(&a);
    mutex_lock(&b);
    mutex_unlock(&a); /* in any order */
    mutex_unlock(&b);
    mutex_lock(&a);
    mutex_unlock(&a);
}

static void take_rising(void)
{
    take_two(RANK_LEDGER, RANK_TXLOG);
}

static void take_falling(void)
{
    take_two(RANK_TXLOG, RANK_LEDGER);
}

static void take_equal(void)
{
    take_two(RANK_LEDGER, RANK_LEDGER);
}

static void mutexes_are_taken_in_rising_rank(void **state)
{
    (void)state;
    assert_int_equal(signal_of(take_rising), 0);
#ifdef MUTEX_CHECK
    assert_int_equal(signal_of(take_falling), SIGABRT);
    assert_int_equal(signal_of(take_equal), SIGABRT);
#else
    (void)take_falling;
    (void)take_equal;
    print_message("the order is checked in builds with -DMUTEX_CHECK only\n");
    skip();
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_error_has_a_name_a_text_and_an_errno),
        cmocka_unit_test(a_buffer_keeps_its_limit_and_its_content),
        cmocka_unit_test(varints_come_back),
        cmocka_unit_test(log_lines_are_text_of_one_line_each),
        cmocka_unit_test(log_lines_are_json),
        cmocka_unit_test(a_line_that_is_too_long_is_cut_and_still_a_line),
        cmocka_unit_test(a_thread_has_a_name_and_takes_no_signals),
        cmocka_unit_test(waiting_ends_when_the_time_has_passed),
        cmocka_unit_test(a_broken_invariant_ends_the_program),
        cmocka_unit_test(mutexes_are_taken_in_rising_rank),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
