/* SPDX-License-Identifier: Apache-2.0 */
#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "ltx/base/logger.h"
#include "ltx/store_internal.h"

/*
 * Two threads. The syncer makes durable what nobody waits for: it sleeps on the feed, syncs at once
 * when it was idle, and under load leaves a while between two rounds, in which it is not woken, so
 * that a commit then costs no system call for it. The maintainer looks at each log every few
 * seconds.
 */
#define MAINTENANCE_MS 5000

/* Waits unless it is time to quit; true if it is. */
static bool pause_us(struct store *s, int64_t us)
{
    struct mono start = mono_now();
    mutex_lock(&s->quit_mutex);
    while (!s->quit) {
        int64_t left = us - mono_since_us(start);
        if (left <= 0)
            break;
        cond_wait_us(&s->quit_cond, &s->quit_mutex, left);
    }
    bool quit = s->quit;
    mutex_unlock(&s->quit_mutex);
    return quit;
}

/* Syncs every log that has something to sync. When to look again, microseconds; 0: when there is
 * something new. A failure has stopped that log and stands in the log lines. */
static int64_t sync_all(struct store *s)
{
    int64_t first_us = 0;
    uint32_t n = store_count(s);
    for (uint32_t i = 0; i < n; i++) {
        struct txlog *log = ledger_log(store_at(s, i));
        int64_t again_us = txlog_sync_behind(log, atomic_load(&s->group_sync_us));
        if (again_us > 0 && (first_us == 0 || again_us < first_us))
            first_us = again_us;
    }
    return first_us;
}

static void run_syncer(void *arg)
{
    struct store *s = arg;
    bool quit = false;
    while (!quit) {
        uint64_t seen = feed_count(&s->feeds.published);
        struct mono start = mono_now();
        int64_t again_us = sync_all(s);
        if (again_us > 0)
            quit = pause_us(s, again_us - mono_since_us(start));
        else
            quit = !feed_wait(&s->feeds.published, seen, -1);
    }
}

static void run_maintainer(void *arg)
{
    struct store *s = arg;
    while (!pause_us(s, MAINTENANCE_MS * INT64_C(1000))) {
        uint32_t n = store_count(s);
        for (uint32_t i = 0; i < n && !pause_us(s, 0); i++) {
            struct ledger *l = store_at(s, i);
            struct ledger_info info;
            ledger_info(l, &info);
            /* What fails is in the log lines, and tried again next time. */
            (void)txlog_maintain(ledger_log(l), &s->options.retention, info.recovery.txid);
        }
    }
}

int store_threads_start(struct store *s)
{
    int rc = thread_start(&s->syncer, "log-sync", run_syncer, s);
    if (rc == 0)
        rc = thread_start(&s->maintainer, "log-maintain", run_maintainer, s);
    if (rc < 0)
        log_error("store", "its threads cannot be started: %s", err_text(rc));
    return rc;
}

void store_threads_quit(struct store *s)
{
    mutex_lock(&s->quit_mutex);
    s->quit = true;
    cond_broadcast(&s->quit_cond);
    mutex_unlock(&s->quit_mutex);
}

void store_threads_join(struct store *s)
{
    thread_join(&s->syncer);
    thread_join(&s->maintainer);
}
