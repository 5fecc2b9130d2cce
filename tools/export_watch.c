/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/export_watch.h"

#include <stdio.h>
#include <string.h>

#include "tools/command.h"
#include "tools/http_client.h"

#define ASK_MS 500
#define ASK_TIMEOUT_MS 5000

/* The daemon's own figures for this export, if it is at work on it. */
static bool ask(const struct export_watch *w, uint64_t *done, uint64_t *total)
{
    char why[HTTP_WHY_MAX];
    json_t *info, *job;
    size_t i;
    bool found = false;
    if (http_json(w->address, "GET", "/info", ASK_TIMEOUT_MS, &info, NULL, why, sizeof why) != 0)
        return false;
    json_array_foreach(json_object_get(info, "jobs"), i, job)
    {
        if (strcmp(command_text(job, "what"), w->what) != 0)
            continue;
        *done = (uint64_t)json_integer_value(json_object_get(job, "pages_done"));
        *total = (uint64_t)json_integer_value(json_object_get(job, "pages_total"));
        found = true;
    }
    json_decref(info);
    return found;
}

static bool wait_a_while(struct export_watch *w)
{
    mutex_lock(&w->mutex);
    if (!w->stopped)
        cond_wait_ms(&w->stop, &w->mutex, ASK_MS);
    bool stopped = w->stopped;
    mutex_unlock(&w->mutex);
    return !stopped;
}

static void watch(void *arg)
{
    struct export_watch *w = arg;
    uint64_t done, total;
    while (wait_a_while(w))
        if (ask(w, &done, &total))
            progress_update(&w->progress, done, total);
}

static void stop_thread(struct export_watch *w)
{
    mutex_lock(&w->mutex);
    w->stopped = true;
    cond_broadcast(&w->stop);
    mutex_unlock(&w->mutex);
    thread_join(&w->thread);
    progress_end(&w->progress);
}

void export_watch_begin(struct export_watch *w, const char *address, const char *name)
{
    *w = (struct export_watch){.address = address};
    snprintf(w->what, sizeof w->what, "export of %s", name);
    mutex_init(&w->mutex, RANK_LEAF);
    cond_init(&w->stop);
    progress_begin(&w->progress, w->what, PROGRESS_PAGES);
    /* Without the thread there is an export without figures at its beginning. */
    if (thread_start(&w->thread, "watch", watch, w) != 0)
        w->thread.started = false;
}

void export_watch_body(struct export_watch *w, uint64_t done, uint64_t total)
{
    if (!w->body) {
        stop_thread(w);
        progress_begin(&w->progress, w->what, PROGRESS_BYTES);
        w->body = true;
    }
    progress_update(&w->progress, done, total);
}

void export_watch_end(struct export_watch *w)
{
    if (!w->body)
        stop_thread(w);
    progress_end(&w->progress);
    cond_fini(&w->stop);
    mutex_fini(&w->mutex);
}
