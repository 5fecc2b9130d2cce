/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/job_watch.h"

#include <stdio.h>
#include <string.h>

#include "tools/command.h"
#include "tools/http_client.h"

#define ASK_MS 500
#define ASK_TIMEOUT_MS 5000

struct figures {
    uint64_t pages, pages_done, bytes, bytes_done;
};

static uint64_t number(const json_t *o, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(o, key));
}

/* The daemon's own figures for this request, if it is at work on it. */
static bool ask(const struct job_watch *w, struct figures *f)
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
        f->pages_done = number(job, "pages_done");
        f->pages = number(job, "pages_total");
        f->bytes_done = number(job, "bytes_done");
        f->bytes = number(job, "bytes_total");
        found = true;
    }
    json_decref(info);
    return found;
}

/* Bytes tell how long it takes, pages what of it. */
static void show(struct job_watch *w, const struct figures *f)
{
    if (f->bytes == 0) {
        progress_update(&w->progress, f->pages_done, f->pages);
        return;
    }
    snprintf(w->shown, sizeof w->shown, "%s, page %llu of %llu", w->what,
             (unsigned long long)f->pages_done, (unsigned long long)f->pages);
    w->progress.what = w->shown;
    w->progress.unit = PROGRESS_BYTES;
    progress_update(&w->progress, f->bytes_done, f->bytes);
}

static bool wait_a_while(struct job_watch *w)
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
    struct job_watch *w = arg;
    struct figures f;
    while (wait_a_while(w))
        if (ask(w, &f))
            show(w, &f);
}

static void stop_thread(struct job_watch *w)
{
    mutex_lock(&w->mutex);
    w->stopped = true;
    cond_broadcast(&w->stop);
    mutex_unlock(&w->mutex);
    thread_join(&w->thread);
    progress_end(&w->progress);
}

void job_watch_begin(struct job_watch *w, const char *address, const char *doing, const char *name)
{
    *w = (struct job_watch){.address = address};
    snprintf(w->what, sizeof w->what, "%s of %s", doing, name);
    mutex_init(&w->mutex, RANK_LEAF);
    cond_init(&w->stop);
    progress_begin(&w->progress, w->what, PROGRESS_PAGES);
    /* Without the thread there are no figures while the daemon works. */
    if (thread_start(&w->thread, "watch", watch, w) != 0)
        w->thread.started = false;
}

void job_watch_body(struct job_watch *w, uint64_t done, uint64_t total)
{
    if (!w->body) {
        stop_thread(w);
        progress_begin(&w->progress, w->what, PROGRESS_BYTES);
        w->body = true;
    }
    progress_update(&w->progress, done, total);
}

void job_watch_end(struct job_watch *w)
{
    if (!w->body)
        stop_thread(w);
    progress_end(&w->progress);
    cond_fini(&w->stop);
    mutex_fini(&w->mutex);
}
