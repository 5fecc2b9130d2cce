/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/thread.h"
#include "ltx/store.h"
#include "ltx/store_internal.h"
#include "tests/lib/dice.h"
#include "tests/lib/folder.h"
#include "tests/lib/model.h"

static const struct store_options defaults;

static struct store *open_store(const struct folder *f)
{
    struct store *s;
    assert_int_equal(store_open(&s, f->fd, &defaults), 0);
    return s;
}

static void stop(struct store *s)
{
    store_quit(s);
    store_join(s);
    store_close(s);
}

static void names_become_folders(void **state)
{
    (void)state;
    char out[256];
    assert_int_equal(store_escape("app.db", out), 0);
    assert_string_equal(out, "app.db");
    assert_int_equal(store_escape("a b/\xc3\xbc~%.db", out), 0);
    assert_string_equal(out, "a%20b%2F%C3%BC%7E%25.db");
    assert_int_equal(store_escape("", out), -ERR_INVALID);
    assert_int_equal(store_escape(".", out), -ERR_INVALID);
    assert_int_equal(store_escape("..", out), -ERR_INVALID);
    char name[STORE_NAME_MAX + 1];
    memset(name, 'x', sizeof name);
    name[STORE_NAME_MAX] = '\0';
    assert_int_equal(store_escape(name, out), -ERR_LIMIT);
    name[255] = '\0';
    assert_int_equal(store_escape(name, out), 0);
    assert_string_equal(out, name);
    /* Too long for a file name: cut, and told apart by a checksum. */
    char other[256];
    memset(name, '/', 200);
    name[200] = '\0';
    assert_int_equal(store_escape(name, out), 0);
    name[199] = 'y';
    assert_int_equal(store_escape(name, other), 0);
    assert_true(strlen(out) <= 255 && strlen(other) <= 255);
    assert_memory_equal(out, other, 100);
    assert_string_not_equal(out, other);
    assert_non_null(strchr(out, '~'));
}

static void ledgers_are_found_by_name_and_after_a_start(void **state)
{
    (void)state;
    struct folder f;
    folder_make(&f);
    struct store *s = open_store(&f);
    enum { N = 100 };
    struct ledger *ledgers[N];
    char name[64];
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "folder %d/data-%d.db", i % 7, i);
        assert_null(store_find(s, name));
        uint64_t seen = feed_count(&store_feeds(s)->published);
        assert_int_equal(store_get(s, name, &ledgers[i]), 0);
        assert_true(feed_count(&store_feeds(s)->published) > seen);
        assert_string_equal(ledger_name(ledgers[i]), name);
    }
    struct model m;
    model_init(&m);
    struct position p = model_commit(&m, ledgers[42], 512, 7);
    for (int started = 0; started < 2; started++) {
        assert_int_equal(store_count(s), N);
        for (int i = 0; i < N; i++) {
            struct ledger *l;
            snprintf(name, sizeof name, "folder %d/data-%d.db", i % 7, i);
            assert_int_equal(store_get(s, name, &l), 0);
            assert_ptr_equal(l, store_find(s, name));
            assert_int_equal(ledger_last(l).txid, i == 42 ? p.txid : 0);
        }
        assert_null(store_at(s, N));
        store_close(s);
        s = open_store(&f);
    }
    assert_int_equal(store_foreign_count(s), 0);
    assert_ledger_is(store_find(s, "folder 0/data-42.db"), &m);
    model_fini(&m);
    store_close(s);
    folder_remove(&f);
}

static void there_is_a_limit_to_what_a_peer_may_name(void **state)
{
    (void)state;
    static const struct store_options few = {.databases_max = 3};
    struct folder f;
    struct ledger *l;
    folder_make(&f);
    for (int started = 0; started < 2; started++) {
        struct store *s;
        assert_int_equal(store_open(&s, f.fd, &few), 0);
        assert_int_equal(store_get(s, "one", &l), 0);
        assert_int_equal(store_get(s, "two", &l), 0);
        assert_int_equal(store_get(s, "three", &l), 0);
        assert_int_equal(store_get(s, "four", &l), -ERR_LIMIT);
        assert_null(store_find(s, "four"));
        assert_int_equal(store_get(s, "two", &l), 0);
        store_close(s);
    }
    folder_remove(&f);
}

static void what_is_not_understood_is_left_alone(void **state)
{
    (void)state;
    struct folder f;
    folder_make(&f);
    struct store *s = open_store(&f);
    struct ledger *l;
    assert_int_equal(store_get(s, "good.db", &l), 0);
    assert_int_equal(store_get(s, "bad.db", &l), 0);
    store_close(s);
    size_t size;
    uint8_t *bytes = folder_read(&f, "db/bad.db/state", &size);
    bytes[20] ^= 1;
    folder_write(&f, "db/bad.db/state", bytes, size);
    bytes[20] ^= 1;
    mkdirat(f.fd, "db/elsewhere.db", 0700);
    folder_write(&f, "db/elsewhere.db/state", bytes, size); /* says that it is bad.db */
    mkdirat(f.fd, "db/foreign", 0700);
    folder_write(&f, "db/foreign/photo.jpg", "x", 1);
    folder_write(&f, "db/notes.txt", "x", 1);
    mkdirat(f.fd, "db/unborn.db", 0700);
    folder_write(&f, "db/unborn.db/state.tmp", "x", 1);
    s = open_store(&f);
    assert_int_equal(store_count(s), 1);
    assert_int_equal(store_foreign_count(s), 4);
    static const char *const blocked[] = {"bad.db", "elsewhere.db", "foreign", "notes.txt"};
    for (int i = 0; i < 4; i++)
        assert_int_equal(store_get(s, blocked[i], &l), -ERR_DAMAGED);
    assert_int_equal(store_get(s, "good.db", &l), 0);
    assert_int_equal(store_get(s, "unborn.db", &l), 0);
    store_close(s);
    assert_true(file_exists(f.fd, "db/foreign/photo.jpg"));
    assert_true(file_exists(f.fd, "db/notes.txt"));
    folder_write(&f, "db/bad.db/state", bytes, size); /* put right, as the message says */
    s = open_store(&f);
    assert_int_equal(store_get(s, "bad.db", &l), 0);
    free(bytes);
    store_close(s);
    folder_remove(&f);
}

/* Waits for the event, with a limit. */
static bool wait_durable(struct store *s, struct ledger *l, uint64_t txid)
{
    struct mono start = mono_now();
    for (;;) {
        uint64_t seen = feed_count(&store_feeds(s)->durable);
        if (ledger_durable(l).txid >= txid)
            return true;
        if (mono_since_ms(start) > 10000)
            return false;
        (void)feed_wait(&store_feeds(s)->durable, seen, 1000);
    }
}

static void what_nobody_syncs_becomes_durable_by_itself(void **state)
{
    (void)state;
    struct folder f;
    folder_make(&f);
    struct store *s = open_store(&f);
    assert_int_equal(store_start(s), 0);
    struct ledger *l[5];
    struct model m[5];
    char name[16];
    for (int i = 0; i < 5; i++) {
        snprintf(name, sizeof name, "%d.db", i);
        assert_int_equal(store_get(s, name, &l[i]), 0);
        model_init(&m[i]);
    }
    for (int k = 0; k < 200; k++) {
        uint32_t i = dice_below(5);
        struct position p = model_commit_any(&m[i], l[i]);
        if (dice_below(3) == 0)
            assert_true(wait_durable(s, l[i], p.txid));
    }
    for (int i = 0; i < 5; i++) {
        assert_true(wait_durable(s, l[i], ledger_last(l[i]).txid));
        assert_ledger_is(l[i], &m[i]);
        model_fini(&m[i]);
    }
    stop(s);
    folder_remove(&f);
}

static int syncs;
static int count_sync(int fd)
{
    __atomic_add_fetch(&syncs, 1, __ATOMIC_RELAXED);
    return file_ops_system.fdatasync(fd);
}

static void an_idle_store_syncs_nothing_and_a_busy_one_in_groups(void **state)
{
    (void)state;
    struct folder f;
    folder_make(&f);
    struct file_ops ops = file_ops_system;
    ops.fdatasync = count_sync;
    struct store_options options = {.group_sync_us = 50000};
    struct store *s;
    assert_int_equal(store_open(&s, f.fd, &options), 0);
    struct ledger *l;
    struct model m;
    model_init(&m);
    assert_int_equal(store_get(s, "t.db", &l), 0);
    file_ops = &ops;
    assert_int_equal(store_start(s), 0);
    struct mono start = mono_now();
    syncs = 0;
    for (int i = 0; i < 300; i++)
        model_commit(&m, l, 512, 3);
    assert_true(wait_durable(s, l, 300));
    int64_t rounds = mono_since_ms(start) / 50 + 2;
    assert_true(__atomic_load_n(&syncs, __ATOMIC_RELAXED) <= rounds);
    int before = __atomic_load_n(&syncs, __ATOMIC_RELAXED);
    usleep(150000);
    assert_int_equal(__atomic_load_n(&syncs, __ATOMIC_RELAXED), before);
    store_quit(s);
    store_join(s);
    file_ops = &file_ops_system;
    store_close(s);
    model_fini(&m);
    folder_remove(&f);
}

static void a_store_that_quits_wakes_who_waits(void **state)
{
    (void)state;
    struct folder f;
    folder_make(&f);
    struct store *s = open_store(&f);
    assert_int_equal(store_start(s), 0);
    store_quit(s);
    assert_false(feed_wait(&store_feeds(s)->durable, feed_count(&store_feeds(s)->durable), -1));
    store_join(s);
    store_close(s);
    folder_remove(&f);
}

static int64_t wall_in_ten_years(void)
{
    return INT64_C(2100000000000);
}

static void without_a_limit_the_log_is_kept_whole(void **state)
{
    (void)state;
    struct folder f;
    folder_make(&f);
    struct clock_ops ops = *clock_ops;
    const struct clock_ops *system = clock_ops;
    ops.wall_ms = wall_in_ten_years;
    struct store *s = open_store(&f); /* with all limits 0 */
    struct ledger *l;
    struct model m;
    model_init(&m);
    assert_int_equal(store_get(s, "t.db", &l), 0);
    for (int i = 0; i < 3; i++)
        model_commit(&m, l, 512, 3);
    clock_ops = &ops;
    for (int i = 0; i < 3; i++) /* as the maintainer does */
        assert_int_equal(txlog_maintain(ledger_log(l), &s->options.retention, 3), 0);
    clock_ops = system;
    assert_int_equal(txlog_first(ledger_log(l)).txid, 0);
    model_fini(&m);
    store_close(s);
    folder_remove(&f);
}

struct get_job {
    struct store *store;
    struct ledger *got[20];
    struct thread thread;
};

static void run_get(void *arg)
{
    struct get_job *job = arg;
    for (int i = 0; i < 20; i++) {
        char name[16];
        snprintf(name, sizeof name, "%d.db", i);
        if (store_get(job->store, name, &job->got[i]) < 0)
            job->got[i] = NULL;
    }
}

static void several_threads_make_one_ledger(void **state)
{
    (void)state;
    struct folder f;
    folder_make(&f);
    struct store *s = open_store(&f);
    struct get_job jobs[4] = {0};
    for (int i = 0; i < 4; i++) {
        jobs[i].store = s;
        assert_int_equal(thread_start(&jobs[i].thread, "get", run_get, &jobs[i]), 0);
    }
    for (int i = 0; i < 4; i++)
        thread_join(&jobs[i].thread);
    assert_int_equal(store_count(s), 20);
    for (int i = 0; i < 20; i++) {
        assert_non_null(jobs[0].got[i]);
        for (int j = 1; j < 4; j++)
            assert_ptr_equal(jobs[j].got[i], jobs[0].got[i]);
    }
    store_close(s);
    folder_remove(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_become_folders),
        cmocka_unit_test(ledgers_are_found_by_name_and_after_a_start),
        cmocka_unit_test(there_is_a_limit_to_what_a_peer_may_name),
        cmocka_unit_test(what_is_not_understood_is_left_alone),
        cmocka_unit_test(what_nobody_syncs_becomes_durable_by_itself),
        cmocka_unit_test(an_idle_store_syncs_nothing_and_a_busy_one_in_groups),
        cmocka_unit_test(without_a_limit_the_log_is_kept_whole),
        cmocka_unit_test(a_store_that_quits_wakes_who_waits),
        cmocka_unit_test(several_threads_make_one_ledger),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
